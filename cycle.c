/* cycle.c - runs the loop: its stages in order, each recorded when it is done. */
#include "cycle_parts.h"

#include "generate_stop.h"

#include <string.h>
#include <sys/stat.h>

/* ---- train --------------------------------------------------------------------------------- */

/* Says why there is nothing to train a candidate on; "" if there is something. */
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

/* A candidate to train: by which method, from which rows, on RUN/data into RUN/folder. */
typedef struct {
    int method;
    const PreferenceReport *rows;
    const char *data, *folder;
    Candidate *candidate;
} TrainWork;

static int candidate_facts(const Loop *l, const Stage *s, Text *facts, Err *e)
{
    const Candidate *x = ((const TrainWork *)s->work)->candidate;
    JsonWriter w = {.text = facts, .e = e};
    (void)l;
    json_open(&w, NULL, "{");
    json_text(&w, "status", candidate_status_names[x->status]);
    json_text(&w, "why", x->why);
    json_close(&w, "}");
    return json_written(&w);
}

static int recall_candidate(const Stage *s, const Json *facts, Err *e)
{
    Candidate *x = ((const TrainWork *)s->work)->candidate;
    const Json *status = json_get(facts, "status"), *why = json_get(facts, "why");
    (void)e;
    x->status = CANDIDATE_OFF;
    for (int i = CANDIDATE_OFF; i <= CANDIDATE_DIVERGED; i++)
        if (json_is(status, candidate_status_names[i])) x->status = (CandidateStatus)i;
    if (why && why->type == JSON_STRING) snprintf(x->why, sizeof x->why, "%s", why->text);
    return 0;
}

/* Sets up the training of one candidate from the parent policy. */
typedef struct {
    char data[IO_PATH_MAX], run[IO_PATH_MAX], parent[IO_PATH_MAX];
    TrainConfig config;
} Training;

static int training_begin(const Loop *l, size_t cycle, const TrainWork *w, Training *t, Err *e)
{
    if (loop_path(l, t->data, w->data, e) || loop_path(l, t->run, w->folder, e) ||
        loop_adapter(l, &l->policy, t->parent, e))
        return -1;
    t->config = cycle_train_config(l->c, w->method);
    t->config.data = t->data;
    t->config.run = t->run;
    t->config.init_adapter = *t->parent ? t->parent : NULL;
    t->config.seed += cycle;
    t->config.resume = io_exists(t->run);
    t->config.model_sha256 = l->model_sha256;
    return 0;
}

static int candidate_key(const Loop *l, const Stage *s, Text *key, Err *e)
{
    const TrainWork *w = s->work;
    return text_addf(key, e, "candidate\n%zu\n", s->cycle) ||
                   share_key_file(l, key, w->data, e) ||
                   share_key_adapter(l, key, &l->policy, e) ||
                   cycle_train_json(l->c, w->method, key, e)
               ? -1
               : 0;
}

/* Trains one candidate. If it diverges, or if none of its rows can be used (all too long, all with
 * one prompt), there is no candidate; other errors end the loop. */
static int train_candidate(Loop *l, size_t cycle, const TrainWork *w, Err *e)
{
    Candidate *x = w->candidate;
    TrainResult result;
    Training *t = mem_calloc(1, sizeof *t, e);
    if (!t) return -1;
    int status = training_begin(l, cycle, w, t, e);
    if (!status) status = train_run(&t->config, &l->events->train, &result, e);
    int rows_fail = status && train_rows_fail(&t->config, e);
    mem_free(t);
    if (!status) return 0;
    if (e->code != ERR_DIVERGED && !rows_fail) return err_prefix(e, "%s", w->folder);
    x->status = rows_fail ? CANDIDATE_SKIPPED : CANDIDATE_DIVERGED;
    snprintf(x->why, sizeof x->why, "%.250s", e->text);
    return 0;
}

/* A candidate that was not trained leaves no files to be recorded. */
static int make_candidate(Loop *l, Stage *s, Text *facts, Err *e)
{
    const TrainWork *w = s->work;
    Candidate *x = w->candidate;
    why_no_rows(w->method, w->rows, x->why, sizeof x->why);
    if (*x->why)
        x->status = CANDIDATE_SKIPPED;
    else if (train_candidate(l, s->cycle, w, e))
        return -1;
    if (x->status != CANDIDATE_TRAINED) s->outputs[0] = NULL;
    return candidate_facts(l, s, facts, e);
}

static const StageKind training = {.event = "train",
                                   .told = 1,
                                   .run = make_candidate,
                                   .recall = recall_candidate,
                                   .key = candidate_key,
                                   .taken = candidate_facts};

static int train_stage(Loop *l, size_t cycle, const TrainWork *w, Err *e)
{
    char file[4][RUN_NAME];
    if (!(l->c->methods & (1u << w->method))) return 0;
    run_name(file[0], w->folder, CONFIG_FILE);
    run_name(file[1], w->folder, METRICS_FILE);
    run_name(file[2], w->folder, ADAPTER_FOLDER "/" LORA_CONFIG_FILE);
    run_name(file[3], w->folder, ADAPTER_FOLDER "/" LORA_WEIGHTS_FILE);
    Stage s = {.kind = &training,
               .cycle = cycle,
               .name = cycle_method_names[w->method],
               .inputs = {w->data},
               .outputs = {file[0], file[1], file[2], file[3]},
               .work = w};
    w->candidate->status = CANDIDATE_TRAINED;
    return stage_run(l, &s, e);
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

static int write_prompts(Loop *l, Stage *s, Text *facts, Err *e)
{
    char path[IO_PATH_MAX];
    (void)facts;
    if (loop_path(l, path, s->outputs[0], e)) return -1;
    return prompts_write(&l->prompts, SPLIT_TRAIN, s->cycle, l->c->prompts_per_cycle, path, e);
}

static const StageKind prompting = {.event = "prompts", .run = write_prompts};

/* Trains and examines the candidates of a cycle. */
static int make_candidates(Loop *l, const char *const data[CYCLE_METHODS],
                           const PreferenceReport *r, Selection *s, Err *e)
{
    for (int m = 0; m < CYCLE_METHODS; m++) {
        const RunCandidate name = run_candidate(s->cycle, cycle_method_names[m]);
        const RunPlace *place = &name.validation;
        AdapterAt adapter = {{0}, NULL};
        Candidate *x = &s->candidates[m];
        memcpy(adapter.below, name.adapter, sizeof name.adapter);
        TrainWork work = {m, r, data[m], name.folder, x};
        if (train_stage(l, s->cycle, &work, e)) return -1;
        if (x->status != CANDIDATE_TRAINED) continue;
        Examination seen = {.place = place,
                            .adapter = &adapter,
                            .prompts = VALIDATION_FILE,
                            .against = run_first.folder};
        if (examine(l, s->cycle, &seen, e) || guard_stage(l, s->cycle, place, &adapter, e) ||
            compare_folders(l, l->examined, place->folder, &x->against, e))
            return -1;
        x->guarded = l->c->guard != NULL;
        if (x->guarded && guard_compare_folders(l, l->examined, place->folder, &x->guard, e))
            return -1;
        memcpy(x->metrics, seen.metrics, sizeof x->metrics);
        memcpy(x->since_first, seen.since_first, sizeof x->since_first);
    }
    return 0;
}

static int one_cycle(Loop *l, size_t cycle, Err *e)
{
    char path[IO_PATH_MAX], folder[RUN_NAME], prompts[RUN_NAME], responses[RUN_NAME];
    char judged[RUN_NAME], rows[CYCLE_METHODS][RUN_NAME], revised[RUN_NAME];
    run_cycle_name(folder, cycle, "");
    run_cycle_name(prompts, cycle, "prompts.jsonl");
    run_cycle_name(responses, cycle, RESPONSES_FILE);
    run_cycle_name(judged, cycle, JUDGED_FILE);
    run_cycle_name(rows[CYCLE_KTO], cycle, "kto.jsonl");
    run_cycle_name(rows[CYCLE_DPO], cycle, "dpo.jsonl");
    GenerateOptions o = l->c->sample;
    o.seed = rng_mix(l->c->seed, cycle);
    PreferenceReport r;
    Selection s = {.cycle = cycle};
    memcpy(s.parent, l->metrics, sizeof s.parent);
    const char *const data[CYCLE_METHODS] = {rows[0], rows[1]};
    const char *name = "training prompts";
    Stage dealt = {.kind = &prompting, .cycle = cycle, .name = "", .outputs = {prompts}};

    if (loop_path(l, path, folder, e) || io_make_directory(path, 1, e) ||
        stage_run(l, &dealt, e) ||
        generate_stage(l, cycle, name, &l->policy, l->c->system, prompts, &o, responses, e) ||
        judge_stage(l, cycle, name, &l->c->judge, responses, judged, e) ||
        revise_stages(l, cycle, judged, revised, e) ||
        prefer_stage(l, cycle, judged, *revised ? revised : NULL, rows[CYCLE_KTO], rows[CYCLE_DPO],
                     &r, e))
        return -1;
    if (l->events->preferences) l->events->preferences(l->events->ctx, cycle, &r);
    int status = make_candidates(l, data, &r, &s, e) || select_stage(l, &s, e);
    if (!status && l->events->selected) l->events->selected(l->events->ctx, &s);
    if (!status) keep_point(l, cycle, s.promoted);
    cycle_selection_close(&s);
    return status ? -1 : 0;
}

/* Have the last `patience` cycles all ended without a promotion? */
static int on_plateau(const Loop *l)
{
    const CycleResult *r = l->result;
    size_t patience = l->c->patience;
    if (!patience || r->n_points <= patience) return 0; /* the first point is not a cycle */
    for (size_t i = r->n_points - patience; i < r->n_points; i++)
        if (r->points[i].promoted >= 0) return 0;
    return 1;
}

/* The loop ends early: nothing is written but the entry. */
static int say_why(Loop *l, Stage *s, Text *facts, Err *e)
{
    (void)s;
    return text_addf(facts, e, "{\"why\":\"plateau: %zu cycles promoted nobody\"}", l->c->patience);
}

static const StageKind stopping = {.event = "stop", .run = say_why};

/* ---- beginning and end --------------------------------------------------------------------- */

/* Hashes of what a run begins with; "" if the first policy has no adapter. */
enum { STOPS_SHOWN = 12 * STOP_IDS };

typedef struct {
    char model[65], tokenizer[65], weights[65], settings[65];
    char reviewed[65]; /* people's answers; "" if there are none */
    char stops[STOPS_SHOWN];
    const char *kernel;
} Beginning;

/* Writes the ids of the tokens that end answers, "128001 128009". They come from several files. */
static int show_stops(const Loop *l, const Engine *p, char *out, size_t size, Err *e)
{
    const CycleConfig *c = l->c;
    ChatTemplate *chat = NULL;
    Stops stops;
    size_t at = 0;
    if (!c->raw && chat_exists(p->tokenizer, c->chat_template) &&
        !(chat = chat_open(p->tokenizer, c->chat_template, cycle_day(c), e)))
        return -1;
    int status = stops_find(&stops, &p->model.config, p->tokenizer, chat, c->sample.stops,
                            c->sample.n_stops, e);
    chat_close(chat);
    if (status) return -1;
    out[0] = 0;
    for (size_t i = 0; i < stops.n_ids; i++)
        at += (size_t)snprintf(out + at, size - at, "%s%ld", i ? " " : "", (long)stops.ids[i]);
    return 0;
}

static int hash_beginning(Loop *l, Beginning *b, Err *e)
{
    char path[IO_PATH_MAX];
    const char *adapter = l->c->adapter;
    *b = (Beginning){.kernel = ""};
    Engine p;
    if (policy_open(l, &l->policy, &l->events->log, &p, e)) return -1; /* it can be loaded */
    generate_tell(&p, &l->events->log);
    int status =
        model_stamp(&p.model, l->model_stamp, e) || model_hash(&p.model, b->model, e) ||
        engine_check(&p, e) || show_stops(l, &p, b->stops, sizeof b->stops, e);
    if (!status) memcpy(l->model_sha256, b->model, sizeof l->model_sha256);
    b->kernel = compute_name(&p.compute);
    l->context = p.model.config.max_positions;
    engine_close(&p);
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

/* Nothing is known of a run that began before this was recorded. */
static int check_tokenizer(const Loop *l, const Json *facts, const Beginning *b, Err *e)
{
    const Json *begun = json_get(facts, "tokenizer_sha256"), *stops = json_get(facts, "stop_ids");
    if ((!begun || json_is(begun, b->tokenizer)) && (!stops || json_is(stops, b->stops))) return 0;
    return err_set(e, ERR_DATA,
                   "%s: its tokenizer, chat template or end tokens were changed since %s began",
                   l->c->model, l->c->run);
}

/* Checks that a resumed run has the configuration and the inputs it began with. */
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

/* Writes what the run starts from: the hashes of the inputs, and the program. The same bits are
 * promised for one program and kernel, so the program is named by the hash of its own bytes ("" if
 * the system does not show them), beside a version for people. */
static int begin_facts(const Loop *l, const Beginning *b, Text *facts, Err *e)
{
    static const char program_file[] = "/proc/self/exe";
    char program[65] = "";
    JsonWriter w = {.text = facts, .e = e};
    if (io_exists(program_file) && sha256_file(program_file, program, e)) return -1;
    json_open(&w, NULL, "{");
    json_text(&w, "model_sha256", b->model);
    json_text(&w, "tokenizer_sha256", b->tokenizer);
    json_text(&w, "prompts_sha256", l->prompts.sha256);
    json_text(&w, "stop_ids", b->stops);
    json_text(&w, "align", ALIGN_VERSION);
    json_text(&w, "align_sha256", program);
    json_text(&w, "kernel", b->kernel);
    if (l->c->adapter) {
        json_text(&w, "adapter", l->c->adapter);
        json_text(&w, "adapter_sha256", b->weights);
        json_text(&w, "adapter_config_sha256", b->settings);
    }
    if (*b->reviewed) json_text(&w, "reviewed_sha256", b->reviewed);
    if (l->dated) json_text(&w, "date", l->day);
    json_close(&w, "}");
    return json_written(&w);
}

/* Records the configuration, and what the run starts from. */
static int record_begin(Loop *l, const char *path, const Text *config, const Beginning *b, Err *e)
{
    static const StageKind beginning = {.event = "begin"};
    const Stage s = {.kind = &beginning, .name = "", .outputs = {CONFIG_FILE}};
    Text facts = {0};
    int status = begin_facts(l, b, &facts, e) ||
                 io_write_file(path, config->data, config->len, e) ||
                 stage_record(l, &s, facts.data, e);
    text_free(&facts);
    return status ? -1 : 0;
}

/* The day for templates that ask for one: that of --date, or that on which the run began. Runs that
 * wrote none down were told the first one here. */
static void find_day(Loop *l)
{
    const Json *entry = ledger_find(&l->ledger, "begin", 0, "");
    const Json *begun = json_get(json_get(entry, "facts"), "date");
    if (!l->dated) return;
    if (entry && !l->c->date)
        snprintf(l->day, sizeof l->day, "%s",
                 begun && begun->type == JSON_STRING ? begun->text : "2024-07-26");
    l->with_day = *l->c;
    l->with_day.day = l->day;
    l->c = &l->with_day;
}

/* The beginning is no stage to be left out: a resumed run must begin with the same. */
static int begin_stage(Loop *l, Err *e)
{
    char path[IO_PATH_MAX];
    Text config = {0};
    Beginning b;
    const Json *entry = ledger_find(&l->ledger, "begin", 0, "");
    int status = loop_path(l, path, CONFIG_FILE, e) || cycle_config_json(l->c, &config, e) ||
                 hash_beginning(l, &b, e);
    if (!status)
        status = entry ? check_begun(l, entry, path, &config, &b, e)
                       : record_begin(l, path, &config, &b, e);
    text_free(&config);
    return status ? -1 : 0;
}

static int write_splits(Loop *l, Stage *s, Text *facts, Err *e)
{
    const size_t *rows = l->prompts.split_rows;
    char path[IO_PATH_MAX];
    for (int i = 0; s->outputs[i]; i++)
        if (loop_path(l, path, s->outputs[i], e) ||
            prompts_write(&l->prompts, (Split)i, 0, 0, path, e))
            return -1;
    return text_addf(facts, e,
                     "{\"train\":%zu,\"validation\":%zu,\"test\":%zu,\"groups\":%zu}",
                     rows[SPLIT_TRAIN], rows[SPLIT_VALIDATION], rows[SPLIT_TEST],
                     l->prompts.groups);
}

static const StageKind splitting = {.event = "split", .run = write_splits};

/* Checks that every prompt on which policies are measured leaves room for an answer. */
static int check_held_out(const Loop *l, Err *e)
{
    char path[IO_PATH_MAX];
    return loop_path(l, path, VALIDATION_FILE, e) || prompts_check_fit(l, path, e) ||
                   (l->c->test > 0 &&
                    (loop_path(l, path, TEST_FILE, e) || prompts_check_fit(l, path, e)))
               ? -1
               : 0;
}

/* Examines the first and the last policy on the test prompts. */
static int test_policies(Loop *l, Err *e)
{
    AdapterAt first = {{0}, l->c->adapter};
    if (!(l->c->test > 0)) return 0;
    Examination before = {.place = &run_tests[RUN_TEST_FIRST],
                          .adapter = &first,
                          .prompts = TEST_FILE},
                after = {.place = &run_tests[RUN_TEST_LAST],
                         .adapter = &l->policy,
                         .prompts = TEST_FILE,
                         .against = run_tests[RUN_TEST_FIRST].folder};
    CycleResult *r = l->result;
    if (examine(l, 0, &before, e) || examine(l, 0, &after, e)) return -1;
    r->tested = 1;
    memcpy(r->first, before.metrics, sizeof r->first);
    memcpy(r->last, after.metrics, sizeof r->last);
    memcpy(r->test_change, after.since_first, sizeof r->test_change);
    return 0;
}

/* SHA-256 of the judge recorded in this ledger entry, or NULL if it is not a judge entry. */
static const char *judge_of(const Json *entry)
{
    const Json *hash = json_get(json_get(entry, "facts"), "judge_sha256");
    return hash && hash->type == JSON_STRING ? hash->text : NULL;
}

/* Did the judge of the test answers also label training samples? If so, the test also measures how
 * well that judge was learned. */
static int test_judge_labelled(const Loop *l)
{
    const char *tester =
        judge_of(ledger_find(&l->ledger, "judge", 0, run_tests[RUN_TEST_FIRST].stage));
    for (size_t i = 0; tester && i < l->ledger.count; i++) {
        const Json *x = l->ledger.entries[i], *name = json_get(x, "name");
        const char *judge = json_is(json_get(x, "event"), "judge") ? judge_of(x) : NULL;
        if (judge && !strcmp(judge, tester) && name && name->type == JSON_STRING &&
            strncmp(name->text, "validation", 10) && strncmp(name->text, "test", 4))
            return 1;
    }
    return 0;
}

static int write_results(Loop *l, Stage *s, Text *facts, Err *e)
{
    char path[IO_PATH_MAX];
    Text text = {0};
    int status = loop_path(l, path, s->outputs[0], e) || put_results(&text, l, e) ||
                 io_write_file(path, text.data, text.len, e) ||
                 text_addf(facts, e, "{\"test_judge_labelled_training\":%s}",
                           l->result->test_judge_labelled ? "true" : "false");
    text_free(&text);
    return status ? -1 : 0;
}

static const StageKind finishing = {.event = "finish", .run = write_results};

static int finish_stage(Loop *l, Err *e)
{
    char answers[IO_PATH_MAX];
    l->result->test_judge_labelled = test_judge_labelled(l);
    if (l->result->test_judge_labelled)
        log_note(&l->events->log, 'w',
                 "who labelled the test answers also labelled training samples: the test says how "
                 "well this judge was learned; a --validator apart from --judge says more");
    if (loop_path(l, answers, ANSWERS_FILE, e)) return -1;
    Stage s = {.kind = &finishing,
               .name = "",
               .outputs = {RESULTS_FILE, io_exists(answers) ? ANSWERS_FILE : NULL}};
    return stage_run(l, &s, e);
}

/* Checks that the chat template can render the system message that an option asks for. Some
 * templates have no place for one, and the first answers would be a late moment to learn it. */
static int check_system(const CycleConfig *c, const Tokenizer *t, const ChatTemplate *chat, Err *e)
{
    const ChatMessage said[] = {chat_message("system", "s", 1), chat_message("user", "u", 1)};
    Text text = {0};
    Err why;
    int status = chat_render(chat, t, &(Chat){said, 2, 1, NULL}, &text, &why);
    text_free(&text);
    if (!status) return 0;
    if (why.code == ERR_MEMORY) return *e = why, -1;
    return err_set(e, ERR_USAGE,
                   "%s: needs a system message, and the chat template %s has none: %s",
                   c->revise ? "--revise" : "--system", chat_name(chat), why.text);
}

int loop_find_chat(Loop *l, Err *e)
{
    const Log *log = &l->events->log;
    if (l->c->raw) return chat_check_adapter(NULL, l->c->adapter, log), 0;
    Tokenizer *t = tokenizer_load(l->c->model, log, e);
    if (!t) return -1;
    l->chat = chat_exists(t, l->c->chat_template);
    ChatTemplate *chat = l->chat ? chat_open(t, l->c->chat_template, cycle_day(l->c), e) : NULL;
    int status = l->chat && !chat ? -1 : 0;
    if (chat && (l->c->revise || l->c->system)) status = check_system(l->c, t, chat, e);
    if (!status && l->c->revise && !l->chat)
        status = err_set(e, ERR_USAGE,
                         "--revise: the instruction is a system message, and %s has no chat "
                         "template; name one with --chat-template",
                         l->c->model);
    if (!status) {
        chat_check(chat, t, l->c->system != NULL, log);
        chat_check_adapter(chat, l->c->adapter, log);
    }
    l->dated = chat && chat_reads(chat, "strftime_now");
    if (chat) chat_date(chat, l->day);
    chat_close(chat);
    tokenizer_free(t);
    return status;
}

static int run_cycles(Loop *l, Err *e)
{
    const CycleConfig *c = l->c;
    l->result->points = mem_calloc(c->cycles + 1, sizeof *l->result->points, e);
    l->policy.outside = c->adapter;
    if (!l->result->points || loop_find_chat(l, e) || prompts_open(&l->prompts, c, e)) return -1;
    Examination first = {
        .place = &run_first, .adapter = &l->policy, .prompts = VALIDATION_FILE};
    Stage split = {.kind = &splitting,
                   .name = "",
                   .outputs = {TRAIN_FILE, VALIDATION_FILE, c->test > 0 ? TEST_FILE : NULL}};
    if (ledger_open(&l->ledger, c->run, e)) return -1;
    find_day(l);
    if (begin_stage(l, e) || stage_run(l, &split, e) ||
        prompts_describe(l, e) || check_held_out(l, e) || guard_questions_stage(l, e) ||
        feedback_stage(l, e) || examine(l, 0, &first, e) ||
        guard_stage(l, 0, &run_first, &l->policy, e))
        return -1;
    memcpy(l->metrics, first.metrics, sizeof l->metrics);
    snprintf(l->examined, sizeof l->examined, "%s", run_first.folder);
    keep_point(l, 0, -1);
    for (size_t cycle = 1; cycle <= c->cycles; cycle++) {
        if (one_cycle(l, cycle, e)) return -1;
        if (cycle == c->cycles || !on_plateau(l)) continue;
        Stage stop = {.kind = &stopping, .cycle = cycle, .name = ""};
        l->result->stopped = cycle;
        if (stage_run(l, &stop, e)) return -1;
        break;
    }
    return test_policies(l, e) || finish_stage(l, e) ? -1 : 0;
}

int cycle_run(const CycleConfig *c, const CycleEvents *events, CycleResult *result, Err *e)
{
    static const CycleEvents silent;
    *result = (CycleResult){0};
    if (cycle_config_check(c, e)) return -1;
    int existed = io_exists(c->run);
    IoLock lock;
    if (loop_check_new(c, e)) return -1;
    if (io_is_directory(c->run) && loop_check_folder(c->run, LEDGER_FILE, "run", e)) return -1;
    mode_t before = umask(077); /* prompts hold what people wrote: for the owner only */
    Loop *l = mem_calloc(1, sizeof *l, e);
    int status = !l || io_make_directory(c->run, 1, e) || io_lock(&lock, c->run, e) ? -1 : 0;
    if (!status) {
        l->c = c;
        l->events = events ? events : &silent;
        l->result = result;
        status = loop_sweep(c->run, e) || run_cycles(l, e) ? -1 : 0;
        memcpy(result->head, l->ledger.head, sizeof result->head);
        io_unlock(&lock);
        ledger_close(&l->ledger);
        prompts_close(&l->prompts);
    }
    mem_free(l);
    umask(before);
    if (status && !existed) remove(c->run); /* fails if a file is in it */
    if (status) cycle_result_free(result);
    return status;
}

void cycle_result_free(CycleResult *r)
{
    mem_free(r->points);
    *r = (CycleResult){0};
}
