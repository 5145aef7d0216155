/* cycle.c - the loop itself: its stages, in order, each one recorded when it is done. */
#include "cycle_parts.h"

#include <string.h>
#include <sys/stat.h>

const char *const cycle_method_names[CYCLE_METHODS] = {"kto", "dpo"};

/* ---- paths and events ---------------------------------------------------------------------- */

int loop_path(const Loop *l, char *out, const char *name, Err *e)
{
    return io_path(out, IO_PATH_MAX, l->c->run, name, e);
}

int loop_adapter(const Loop *l, const AdapterAt *a, char *out, Err *e)
{
    *out = 0;
    if (*a->below) return loop_path(l, out, a->below, e);
    if (!a->outside) return 0;
    if (strlen(a->outside) >= IO_PATH_MAX)
        return err_set(e, ERR_USAGE, "--adapter: the path is too long");
    memcpy(out, a->outside, strlen(a->outside) + 1);
    return 0;
}

void loop_name(char out[RUN_NAME], const char *folder, const char *name)
{
    snprintf(out, RUN_NAME, "%.100s/%.100s", folder, name);
}

void loop_tell(const Loop *l, CycleProgress p)
{
    if (l->events->progress) l->events->progress(l->events->ctx, &p);
}

int loop_done(const Loop *l, const char *event, size_t cycle, const char *name, const Json **entry,
              Err *e)
{
    const Json *found = ledger_find(&l->ledger, event, cycle, name);
    if (entry) *entry = found;
    if (stop_requested) return err_set(e, ERR_INTERRUPTED, "interrupted; --resume goes on");
    if (!found) return 0;
    if (ledger_check_outputs(&l->ledger, found, e)) return -1;
    loop_tell(l, (CycleProgress){.cycle = cycle, .stage = event, .name = name, .kept = 1});
    return 1;
}

/* ---- train --------------------------------------------------------------------------------- */

/* Why there is nothing to train a candidate on; "" where there is. */
static void why_no_rows(int method, const PreferenceReport *r, char *why, size_t size)
{
    *why = 0;
    if (method == CYCLE_DPO && !r->pairs)
        snprintf(why, size,
                 "no pair could be built: of no prompt do two samples differ in score, "
                 "and none has a demonstration or a revision");
    if (method == CYCLE_KTO && (!r->desirable || !r->undesirable))
        snprintf(why, size, "KTO needs desirable and undesirable rows; there are %zu and %zu",
                 r->desirable, r->undesirable);
}

/* The files of a trained candidate: what record_candidate names. */
static void candidate_files(const char *folder, char file[4][RUN_NAME])
{
    loop_name(file[0], folder, "config.json");
    loop_name(file[1], folder, "metrics.jsonl");
    loop_name(file[2], folder, "adapter/" LORA_CONFIG_FILE);
    loop_name(file[3], folder, "adapter/" LORA_WEIGHTS_FILE);
}

static int record_candidate(Loop *l, size_t cycle, int method, const char *data, const char *folder,
                            const Candidate *x, Err *e)
{
    char file[4][RUN_NAME];
    candidate_files(folder, file);
    const char *inputs[] = {data, NULL};
    const char *outputs[] = {file[0], file[1], file[2], file[3], NULL};
    Text facts = {0};
    int status =
        text_addf(&facts, e, "{\"status\":\"%s\",\"why\":", candidate_status_names[x->status]) ||
        json_put_string(&facts, x->why, strlen(x->why), e) || text_add(&facts, "}", 1, e) ||
        ledger_append(&l->ledger,
                      &(LedgerEntry){.event = "train",
                                     .name = cycle_method_names[method],
                                     .cycle = cycle,
                                     .inputs = inputs,
                                     .outputs = x->status == CANDIDATE_TRAINED ? outputs : NULL,
                                     .facts = facts.data},
                      e);
    text_free(&facts);
    return status ? -1 : 0;
}

static void recall_candidate(const Json *entry, Candidate *x)
{
    const Json *facts = json_get(entry, "facts"), *status = json_get(facts, "status"),
               *why = json_get(facts, "why");
    for (int i = CANDIDATE_OFF; i <= CANDIDATE_DIVERGED; i++)
        if (json_is(status, candidate_status_names[i])) x->status = (CandidateStatus)i;
    if (why && why->type == JSON_STRING) snprintf(x->why, sizeof x->why, "%s", why->text);
}

/* The configured training of one candidate, on RUN/data into RUN/folder, from the parent policy. */
typedef struct {
    char data[IO_PATH_MAX], run[IO_PATH_MAX], parent[IO_PATH_MAX];
    TrainConfig config;
} Training;

static int training_begin(const Loop *l, size_t cycle, int method, const char *data,
                          const char *folder, Training *t, Err *e)
{
    if (loop_path(l, t->data, data, e) || loop_path(l, t->run, folder, e) ||
        loop_adapter(l, &l->policy, t->parent, e))
        return -1;
    t->config = cycle_train_config(l->c, method);
    t->config.data = t->data;
    t->config.run = t->run;
    t->config.init_adapter = *t->parent ? t->parent : NULL;
    t->config.seed += cycle;
    t->config.resume = io_exists(t->run);
    return 0;
}

/* Everything that decides a candidate, within one grid. */
static int candidate_key(const Loop *l, size_t cycle, int method, const char *data, Text *key,
                         Err *e)
{
    return text_addf(key, e, "candidate\n%zu\n", cycle) || share_key_file(l, key, data, e) ||
                   share_key_adapter(l, key, &l->policy, e) ||
                   cycle_train_json(l->c, method, key, e)
               ? -1
               : 0;
}

/* Takes a candidate that another run of the grid has trained: 1, or 0 where none has. */
static int take_candidate(const Loop *l, const Text *key, const char *folder,
                          const char *const *files, Err *e)
{
    char path[IO_PATH_MAX], below[RUN_NAME];
    int has = share_has(l, key, files, e);
    if (has <= 0) return has;
    loop_name(below, folder, "adapter");
    if (loop_path(l, path, folder, e) || io_make_directory(path, 1, e) ||
        loop_path(l, path, below, e) || io_make_directory(path, 1, e))
        return -1;
    return share_take(l, key, files, e);
}

/* Trains one candidate. If it diverges, or if none of its rows can be used (all too long, all with
 * one prompt), there is no candidate; other errors end the loop. */
static int train_candidate(Loop *l, size_t cycle, int method, const char *data, const char *folder,
                           Candidate *x, Err *e)
{
    TrainResult result;
    Training *t = mem_calloc(1, sizeof *t, e);
    if (!t) return -1;
    int status = training_begin(l, cycle, method, data, folder, t, e);
    if (!status) status = train_run(&t->config, &l->events->train, &result, e);
    int rows_fail = t && status && e->code == ERR_DATA && strstr(e->text, t->data);
    mem_free(t);
    x->status = CANDIDATE_TRAINED;
    if (!status) return 0;
    if (e->code != ERR_DIVERGED && !rows_fail) return err_prefix(e, "%s", folder);
    x->status = rows_fail ? CANDIDATE_SKIPPED : CANDIDATE_DIVERGED;
    snprintf(x->why, sizeof x->why, "%.250s", e->text);
    return 0;
}

/* Trains a candidate, or takes it from another run of the grid. */
static int train_or_take(Loop *l, size_t cycle, int method, const char *data, const char *folder,
                         Candidate *x, Err *e)
{
    char file[4][RUN_NAME];
    const char *files[] = {file[0], file[1], file[2], file[3], NULL};
    Text key = {0};
    candidate_files(folder, file);
    int taken = candidate_key(l, cycle, method, data, &key, e)
                    ? -1
                    : take_candidate(l, &key, folder, files, e);
    int status = taken < 0 ? -1 : 0;
    if (taken > 0) x->status = CANDIDATE_TRAINED;
    if (!taken) status = train_candidate(l, cycle, method, data, folder, x, e);
    if (!taken && !status && x->status == CANDIDATE_TRAINED) status = share_give(l, &key, files, e);
    text_free(&key);
    return status;
}

static int train_stage(Loop *l, size_t cycle, int method, const PreferenceReport *r,
                       const char *data, const char *folder, Candidate *x, Err *e)
{
    const char *name = cycle_method_names[method];
    const Json *entry;
    if (!(l->c->methods & (1u << method))) return 0;
    int done = loop_done(l, "train", cycle, name, &entry, e);
    if (done < 0) return -1;
    if (done) {
        recall_candidate(entry, x);
        return 0;
    }
    loop_tell(l, (CycleProgress){.cycle = cycle, .stage = "train", .name = name});
    why_no_rows(method, r, x->why, sizeof x->why);
    if (*x->why)
        x->status = CANDIDATE_SKIPPED;
    else if (train_or_take(l, cycle, method, data, folder, x, e))
        return -1;
    return record_candidate(l, cycle, method, data, folder, x, e);
}

/* ---- one cycle ----------------------------------------------------------------------------- */

static void keep_point(Loop *l, size_t cycle, int promoted)
{
    CyclePoint *p = &l->result->points[l->result->n_points++];
    p->cycle = cycle;
    p->promoted = promoted;
    memcpy(p->metrics, l->metrics, sizeof p->metrics);
    memcpy(p->since_first, l->since_first, sizeof p->since_first);
}

static int prompts_stage(Loop *l, size_t cycle, const char *out, Err *e)
{
    int done = loop_done(l, "prompts", cycle, "", NULL, e);
    if (done) return done < 0 ? -1 : 0;
    char path[IO_PATH_MAX];
    const char *outputs[] = {out, NULL};
    if (loop_path(l, path, out, e) ||
        prompts_write(&l->prompts, SPLIT_TRAIN, cycle, l->c->prompts_per_cycle, path, e))
        return -1;
    return ledger_append(
        &l->ledger,
        &(LedgerEntry){.event = "prompts", .name = "", .cycle = cycle, .outputs = outputs}, e);
}

/* Trains and examines the candidates of a cycle. */
static int make_candidates(Loop *l, const char *folder, const char *const data[CYCLE_METHODS],
                           const PreferenceReport *r, Selection *s, Err *e)
{
    for (int m = 0; m < CYCLE_METHODS; m++) {
        char run[RUN_NAME], check[RUN_NAME], name[64];
        AdapterAt adapter = {{0}, NULL};
        Candidate *x = &s->candidates[m];
        loop_name(run, folder, cycle_method_names[m]);
        loop_name(adapter.below, run, "adapter");
        snprintf(name, sizeof name, "validate-%s", cycle_method_names[m]);
        loop_name(check, folder, name);
        snprintf(name, sizeof name, "validation of %s", cycle_method_names[m]);
        if (train_stage(l, s->cycle, m, r, data[m], run, x, e)) return -1;
        if (x->status != CANDIDATE_TRAINED) continue;
        Examination seen = {.name = name,
                            .folder = check,
                            .adapter = &adapter,
                            .prompts = "validation.jsonl",
                            .against = "cycle-0"};
        if (examine(l, s->cycle, &seen, e) || guard_stage(l, s->cycle, name, check, &adapter, e) ||
            compare_folders(l, l->examined, check, &x->against, e))
            return -1;
        x->guarded = l->c->guard != NULL;
        if (x->guarded && guard_compare_folders(l, l->examined, check, &x->guard, e)) return -1;
        memcpy(x->metrics, seen.metrics, sizeof x->metrics);
        memcpy(x->since_first, seen.since_first, sizeof x->since_first);
    }
    return 0;
}

static int one_cycle(Loop *l, size_t cycle, Err *e)
{
    char folder[64], path[IO_PATH_MAX], prompts[RUN_NAME], responses[RUN_NAME], judged[RUN_NAME];
    char rows[CYCLE_METHODS][RUN_NAME], revised[RUN_NAME];
    snprintf(folder, sizeof folder, "cycle-%zu", cycle);
    loop_name(prompts, folder, "prompts.jsonl");
    loop_name(responses, folder, "responses.jsonl");
    loop_name(judged, folder, "judged.jsonl");
    loop_name(rows[CYCLE_KTO], folder, "kto.jsonl");
    loop_name(rows[CYCLE_DPO], folder, "dpo.jsonl");
    GenerateOptions o = l->c->sample;
    o.seed = rng_mix(l->c->seed, cycle);
    PreferenceReport r;
    Selection s = {.cycle = cycle};
    memcpy(s.parent, l->metrics, sizeof s.parent);
    const char *const data[CYCLE_METHODS] = {rows[0], rows[1]};
    const char *name = "training prompts";

    if (loop_path(l, path, folder, e) || io_make_directory(path, 1, e) ||
        prompts_stage(l, cycle, prompts, e) ||
        generate_stage(l, cycle, name, &l->policy, l->c->system, prompts, &o, responses, e) ||
        judge_stage(l, cycle, name, &l->c->judge, responses, judged, e) ||
        revise_stages(l, cycle, folder, judged, revised, e) ||
        prefer_stage(l, cycle, judged, *revised ? revised : NULL, rows[CYCLE_KTO], rows[CYCLE_DPO],
                     &r, e))
        return -1;
    if (l->events->preferences) l->events->preferences(l->events->ctx, cycle, &r);
    int status = make_candidates(l, folder, data, &r, &s, e) || select_stage(l, folder, &s, e);
    if (!status && l->events->selected) l->events->selected(l->events->ctx, &s);
    if (!status) keep_point(l, cycle, s.promoted);
    cycle_selection_close(&s);
    return status ? -1 : 0;
}

/* Were the last cycles, as many as patience has, without a promotion? */
static int on_plateau(const Loop *l)
{
    const CycleResult *r = l->result;
    size_t patience = l->c->patience;
    if (!patience || r->n_points <= patience) return 0; /* the first point is no cycle */
    for (size_t i = r->n_points - patience; i < r->n_points; i++)
        if (r->points[i].promoted >= 0) return 0;
    return 1;
}

/* Records that the loop ends before its time. */
static int stop_stage(Loop *l, size_t cycle, Err *e)
{
    char facts[128];
    l->result->stopped = cycle;
    int done = loop_done(l, "stop", cycle, "", NULL, e);
    if (done) return done < 0 ? -1 : 0;
    snprintf(facts, sizeof facts, "{\"why\":\"plateau: %zu cycles promoted nobody\"}",
             l->c->patience);
    return ledger_append(
        &l->ledger, &(LedgerEntry){.event = "stop", .name = "", .cycle = cycle, .facts = facts}, e);
}

/* ---- beginning and end --------------------------------------------------------------------- */

/* What a run begins with, by hash; of the first policy's adapter "" where it has none. */
typedef struct {
    char model[65], tokenizer[65], weights[65], settings[65];
    char reviewed[65]; /* people's answers, "" where there are none */
    const char *kernel;
} Beginning;

static int hash_beginning(Loop *l, Beginning *b, Err *e)
{
    char path[IO_PATH_MAX];
    const char *adapter = l->c->adapter;
    *b = (Beginning){.kernel = ""};
    Policy *p = policy_open(l, &l->policy, e); /* it can be loaded, then */
    if (!p) return -1;
    int status = model_hash(&p->model, b->model, e);
    b->kernel = compute_name(&p->compute);
    l->context = p->model.config.max_positions;
    policy_close(p);
    if (!status) status = tokenizer_hash(l->c->model, b->tokenizer, e);
    if (!status && l->c->judge.reviewed) status = sha256_file(l->c->judge.reviewed, b->reviewed, e);
    if (status || !adapter) return status;
    return io_path(path, sizeof path, adapter, LORA_WEIGHTS_FILE, e) ||
                   sha256_file(path, b->weights, e) ||
                   io_path(path, sizeof path, adapter, LORA_CONFIG_FILE, e) ||
                   sha256_file(path, b->settings, e)
               ? -1
               : 0;
}

/* Of a run that began before this was recorded, nothing is known. */
static int check_tokenizer(const Loop *l, const Json *facts, const Beginning *b, Err *e)
{
    const Json *begun = json_get(facts, "tokenizer_sha256");
    if (!begun || json_is(begun, b->tokenizer)) return 0;
    return err_set(e, ERR_DATA,
                   "%s: its tokenizer, chat template or end tokens were changed since %s began",
                   l->c->model, l->c->run);
}

/* A resumed run must have the configuration and the inputs it began with. */
static int check_begun(const Loop *l, const Json *entry, const char *path, const Text *config,
                       const Beginning *b, Err *e)
{
    const CycleConfig *c = l->c;
    const struct {
        const char *fact, *now, *path;
    } inputs[] = {{"prompts_sha256", l->prompts.sha256, c->prompts},
                  {"model_sha256", b->model, c->model},
                  {"adapter_sha256", b->weights, c->adapter},
                  {"adapter_config_sha256", b->settings, c->adapter},
                  {"reviewed_sha256", b->reviewed, c->judge.reviewed}};
    char *old;
    size_t len;
    if (ledger_check_outputs(&l->ledger, entry, e) || io_read_file(path, 0, &old, &len, e))
        return -1;
    int same = len == config->len && !memcmp(old, config->data, len);
    mem_free(old);
    if (!same)
        return err_set(e, ERR_USAGE,
                       "--resume: the options are not those of %s; give the same ones, or start "
                       "a new run",
                       path);
    for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++)
        if (*inputs[i].now &&
            !json_is(json_get(json_get(entry, "facts"), inputs[i].fact), inputs[i].now))
            return err_set(e, ERR_DATA, "%s: was changed since %s began", inputs[i].path, c->run);
    return check_tokenizer(l, json_get(entry, "facts"), b, e);
}

/* Records the configuration and what the run starts from: the inputs by hash, and what computed.
 * The same bits are promised for one program and kernel, so the program is named by its own bytes
 * ("" where the system does not show them), beside a version for people. */
static int record_begin(Loop *l, const char *path, const Text *config, const Beginning *b, Err *e)
{
    static const char program_file[] = "/proc/self/exe";
    const char *adapter = l->c->adapter, *outputs[] = {"config.json", NULL};
    char program[65] = "";
    Text facts = {0};
    int status =
        (io_exists(program_file) && sha256_file(program_file, program, e)) ||
        text_addf(&facts, e,
                  "{\"model_sha256\":\"%s\",\"tokenizer_sha256\":\"%s\",\"prompts_sha256\":\"%s\","
                  "\"align\":\"%s\","
                  "\"align_sha256\":\"%s\",\"kernel\":\"%s\"",
                  b->model, b->tokenizer, l->prompts.sha256, ALIGN_VERSION, program, b->kernel) ||
        (adapter &&
         (text_addf(&facts, e, ",\"adapter\":") ||
          json_put_string(&facts, adapter, strlen(adapter), e) ||
          text_addf(&facts, e, ",\"adapter_sha256\":\"%s\",\"adapter_config_sha256\":\"%s\"",
                    b->weights, b->settings))) ||
        (*b->reviewed && text_addf(&facts, e, ",\"reviewed_sha256\":\"%s\"", b->reviewed)) ||
        text_add(&facts, "}", 1, e) || io_write_file(path, config->data, config->len, e) ||
        ledger_append(
            &l->ledger,
            &(LedgerEntry){.event = "begin", .name = "", .outputs = outputs, .facts = facts.data},
            e);
    text_free(&facts);
    return status ? -1 : 0;
}

static int begin_stage(Loop *l, Err *e)
{
    char path[IO_PATH_MAX];
    Text config = {0};
    Beginning b;
    const Json *entry = ledger_find(&l->ledger, "begin", 0, "");
    int status = loop_path(l, path, "config.json", e) || cycle_config_json(l->c, &config, e) ||
                 hash_beginning(l, &b, e);
    if (!status)
        status = entry ? check_begun(l, entry, path, &config, &b, e)
                       : record_begin(l, path, &config, &b, e);
    text_free(&config);
    return status ? -1 : 0;
}

static int split_stage(Loop *l, Err *e)
{
    static const char *const names[] = {"train.jsonl", "validation.jsonl", "test.jsonl"};
    int done = loop_done(l, "split", 0, "", NULL, e);
    if (done) return done < 0 ? -1 : 0;
    char path[IO_PATH_MAX], facts[192];
    const char *outputs[] = {names[0], names[1], l->c->test > 0 ? names[2] : NULL, NULL};
    for (int i = 0; outputs[i]; i++)
        if (loop_path(l, path, outputs[i], e) ||
            prompts_write(&l->prompts, (Split)i, 0, 0, path, e))
            return -1;
    snprintf(facts, sizeof facts, "{\"train\":%zu,\"validation\":%zu,\"test\":%zu,\"groups\":%zu}",
             l->prompts.split_rows[SPLIT_TRAIN], l->prompts.split_rows[SPLIT_VALIDATION],
             l->prompts.split_rows[SPLIT_TEST], l->prompts.groups);
    return ledger_append(
        &l->ledger,
        &(LedgerEntry){.event = "split", .name = "", .outputs = outputs, .facts = facts}, e);
}

/* All that policies are measured on can be answered. */
static int check_held_out(const Loop *l, Err *e)
{
    char path[IO_PATH_MAX];
    return loop_path(l, path, "validation.jsonl", e) || prompts_check_fit(l, path, e) ||
                   (l->c->test > 0 &&
                    (loop_path(l, path, "test.jsonl", e) || prompts_check_fit(l, path, e)))
               ? -1
               : 0;
}

/* The first and the last policy on the test prompts. */
static int test_policies(Loop *l, Err *e)
{
    AdapterAt first = {{0}, l->c->adapter};
    if (!(l->c->test > 0)) return 0;
    Examination before = {.name = "test of the first policy",
                          .folder = "test-first",
                          .adapter = &first,
                          .prompts = "test.jsonl"},
                after = {.name = "test of the last policy",
                         .folder = "test-last",
                         .adapter = &l->policy,
                         .prompts = "test.jsonl",
                         .against = "test-first"};
    CycleResult *r = l->result;
    if (examine(l, 0, &before, e) || examine(l, 0, &after, e)) return -1;
    r->tested = 1;
    memcpy(r->first, before.metrics, sizeof r->first);
    memcpy(r->last, after.metrics, sizeof r->last);
    memcpy(r->test_change, after.since_first, sizeof r->test_change);
    return 0;
}

/* The hash of what labelled, by an entry of the ledger; NULL where it is no such entry. */
static const char *judge_of(const Json *entry)
{
    const Json *hash = json_get(json_get(entry, "facts"), "judge_sha256");
    return hash && hash->type == JSON_STRING ? hash->text : NULL;
}

/* Did the judge of the test answers also label training samples? Then the test measures how well
 * that judge was learned, as much as anything else. */
static int test_judge_labelled(const Loop *l)
{
    const char *tester = judge_of(ledger_find(&l->ledger, "judge", 0, "test of the first policy"));
    for (size_t i = 0; tester && i < l->ledger.count; i++) {
        const Json *x = l->ledger.entries[i], *name = json_get(x, "name");
        const char *judge = json_is(json_get(x, "event"), "judge") ? judge_of(x) : NULL;
        if (judge && !strcmp(judge, tester) && name && name->type == JSON_STRING &&
            strncmp(name->text, "validation", 10) && strncmp(name->text, "test", 4))
            return 1;
    }
    return 0;
}

static int finish_stage(Loop *l, Err *e)
{
    l->result->test_judge_labelled = test_judge_labelled(l);
    if (l->result->test_judge_labelled)
        log_note(&l->events->log, 'w',
                 "who labelled the test answers also labelled training samples: the test says how "
                 "well this judge was learned; a --validator apart from --judge says more");
    int done = loop_done(l, "finish", 0, "", NULL, e);
    if (done) return done < 0 ? -1 : 0;
    char path[IO_PATH_MAX];
    Text text = {0};
    if (loop_path(l, path, ANSWERS_FILE, e)) return -1;
    const char *outputs[] = {"results.json", io_exists(path) ? ANSWERS_FILE : NULL, NULL};
    const char *facts = l->result->test_judge_labelled ? "{\"test_judge_labelled_training\":true}"
                                                       : "{\"test_judge_labelled_training\":false}";
    int status =
        loop_path(l, path, "results.json", e) || put_results(&text, l, e) ||
        io_write_file(path, text.data, text.len, e) ||
        ledger_append(
            &l->ledger,
            &(LedgerEntry){.event = "finish", .name = "", .outputs = outputs, .facts = facts}, e);
    text_free(&text);
    return status ? -1 : 0;
}

/* Can the template say what an option wants said, a system message? Some models have no place for
 * one, and to learn that from the first answers would be late. */
static int check_system(const CycleConfig *c, const Tokenizer *t, const ChatTemplate *chat, Err *e)
{
    static const ChatMessage said[] = {{"system", "s", 1}, {"user", "u", 1}};
    Text text = {0};
    Err why;
    int status = chat_render(chat, t, said, 2, 1, &text, &why);
    text_free(&text);
    if (!status) return 0;
    if (why.code == ERR_MEMORY) return *e = why, -1;
    return err_set(e, ERR_USAGE,
                   "%s: needs a system message, and the chat template %s has none: %s",
                   c->revise ? "--revise" : "--system", chat_name(chat), why.text);
}

int loop_find_chat(Loop *l, Err *e)
{
    size_t len;
    if (l->c->raw) return 0;
    Tokenizer *t = tokenizer_load(l->c->model, &l->events->log, e);
    if (!t) return -1;
    l->chat = l->c->chat_template || tokenizer_chat_template(t, &len);
    const ChatTemplate *chat = l->chat ? chat_find(t, l->c->chat_template, e) : NULL;
    int status = l->chat && !chat ? -1 : 0;
    if (chat && (l->c->revise || l->c->system)) status = check_system(l->c, t, chat, e);
    if (!status && l->c->revise && !l->chat)
        status = err_set(e, ERR_USAGE,
                         "--revise: the instruction is a system message, and %s has no chat "
                         "template; name one with --chat-template",
                         l->c->model);
    tokenizer_free(t);
    return status;
}

static int run_cycles(Loop *l, Err *e)
{
    const CycleConfig *c = l->c;
    l->result->points = mem_calloc(c->cycles + 1, sizeof *l->result->points, e);
    l->policy.outside = c->adapter;
    if (!l->result->points || loop_find_chat(l, e) || prompts_open(&l->prompts, c, e)) return -1;
    Examination first = {.name = "validation",
                         .folder = "cycle-0",
                         .adapter = &l->policy,
                         .prompts = "validation.jsonl"};
    if (ledger_open(&l->ledger, c->run, e) || begin_stage(l, e) || split_stage(l, e) ||
        check_held_out(l, e) || guard_questions_stage(l, e) || feedback_stage(l, e) ||
        examine(l, 0, &first, e) || guard_stage(l, 0, first.name, first.folder, &l->policy, e))
        return -1;
    memcpy(l->metrics, first.metrics, sizeof l->metrics);
    snprintf(l->examined, sizeof l->examined, "%s", first.folder);
    keep_point(l, 0, -1);
    for (size_t cycle = 1; cycle <= c->cycles; cycle++) {
        if (one_cycle(l, cycle, e)) return -1;
        if (cycle == c->cycles || !on_plateau(l)) continue;
        if (stop_stage(l, cycle, e)) return -1;
        break;
    }
    return test_policies(l, e) || finish_stage(l, e) ? -1 : 0;
}

int loop_sweep(const char *folder, Err *e)
{
    Pool pool = {0};
    char **names, path[IO_PATH_MAX];
    size_t n;
    int status = io_list(folder, &pool, &names, &n, e);
    for (size_t i = 0; !status && i < n; i++) {
        status = io_path(path, sizeof path, folder, names[i], e);
        struct stat st;
        if (status) break;
        if (lstat(path, &st) || S_ISLNK(st.st_mode)) continue; /* never out of the run */
        if (S_ISDIR(st.st_mode))
            status = loop_sweep(path, e);
        else if (strstr(names[i], ".tmp."))
            remove(path);
    }
    pool_free(&pool);
    return status;
}

int loop_check_folder(const char *run, const char *marker, const char *what, Err *e)
{
    Pool pool = {0};
    char path[IO_PATH_MAX], **names, *text = NULL;
    size_t n = 0, len;
    int others = 0, ours = 0, status = io_list(run, &pool, &names, &n, e);
    for (size_t i = 0; i < n && !status; i++) {
        ours |= !strcmp(names[i], marker);
        others |= strcmp(names[i], "LOCK") && strncmp(names[i], "config.json.tmp.", 16);
    }
    if (!status && others && !ours && !io_path(path, sizeof path, run, "config.json", e) &&
        io_exists(path) && !io_read_file(path, 0, &text, &len, e)) {
        const Json *j = json_parse(&pool, text, len, path, 0, e);
        ours = n <= 3 && j && json_is(json_get(j, "align"), "cycle");
    }
    mem_free(text);
    pool_free(&pool);
    if (status || ours || !others) return status ? -1 : 0;
    return err_set(e, ERR_CREATE, "%s: is no %s of align cycle; name another folder", run, what);
}

int cycle_run(const CycleConfig *c, const CycleEvents *events, CycleResult *result, Err *e)
{
    static const CycleEvents silent;
    *result = (CycleResult){0};
    if (cycle_config_check(c, e)) return -1;
    int existed = io_exists(c->run);
    if (existed && !c->resume)
        return err_set(e, ERR_CREATE, "%s: exists; --resume goes on with it, or name another",
                       c->run);
    if (io_is_directory(c->run) && loop_check_folder(c->run, LEDGER_FILE, "run", e)) return -1;
    mode_t before = umask(077); /* prompts hold what people wrote: for the owner only */
    Loop *l = mem_calloc(1, sizeof *l, e);
    int status = !l || io_make_directory(c->run, 1, e) || io_lock(c->run, e) ? -1 : 0;
    if (!status) {
        l->c = c;
        l->events = events ? events : &silent;
        l->result = result;
        status = loop_sweep(c->run, e) || run_cycles(l, e) ? -1 : 0;
        memcpy(result->head, l->ledger.head, sizeof result->head);
        io_unlock(c->run);
        ledger_close(&l->ledger);
        prompts_close(&l->prompts);
    }
    mem_free(l);
    umask(before);
    if (status && !existed) remove(c->run); /* stays as soon as a file is in it */
    if (status) cycle_result_free(result);
    return status;
}

void cycle_result_free(CycleResult *r)
{
    mem_free(r->points);
    *r = (CycleResult){0};
}
