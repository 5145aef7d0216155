/* cycle_answer.c - a policy answers prompts, a judge labels the answers, the labels are counted. */
#include "cycle_parts.h"

#include <string.h>

/* ---- generate ------------------------------------------------------------------------------ */

typedef struct {
    const Loop *l;
    CycleProgress progress;
    const Dataset *data;
    const Tokenizer *tokenizer;
    const char *system; /* message, or NULL */
    const char *part;   /* the file that grows */
    size_t first;       /* rows of data that were answered before */
    double began;
    Text line;
} Answers;

/* The place of a prompt in the prompts file; a split carries it along as "index". */
static uint64_t index_of(const Row *row)
{
    uint64_t index = row->index;
    json_u64(json_get(row->source, "index"), &index);
    return index;
}

static int answer_done(void *ctx, const Continuation *c, Err *e)
{
    Answers *a = ctx;
    int last = ++a->progress.done == a->progress.total;
    const Row *row = &a->data->rows[a->first + c->prompt];
    a->line.len = 0;
    int status =
        generate_put_row(&a->line, a->tokenizer, index_of(row), row->source, "prompt", c, e) ||
        io_append_line(a->part, a->line.data, a->line.len, last, e);
    a->progress.seconds = time_now() - a->began;
    loop_tell(a->l, a->progress);
    return status ? -1 : 0;
}

/* Lines that a stopped stage left in its part file, whole prompts only; the rest is cut off. */
static int count_answered(const char *part, size_t samples, size_t *prompts, Err *e)
{
    char *text;
    size_t len, lines = 0, keep = 0;
    *prompts = 0;
    if (!io_exists(part)) return 0;
    if (io_read_file(part, 0, &text, &len, e)) return -1;
    for (size_t i = 0; i < len; i++) {
        if (text[i] != '\n') continue;
        if (++lines % samples == 0) keep = i + 1;
    }
    *prompts = lines / samples;
    int status = keep < len ? io_write_file(part, text, keep, e) : 0;
    mem_free(text);
    return status;
}

void policy_close(Policy *p)
{
    if (p->has_lora) lora_close(&p->lora);
    model_close(&p->model);
    compute_close(&p->compute);
    tokenizer_free(p->tokenizer);
    mem_free(p);
}

static int policy_load(Policy *p, const Loop *l, const AdapterAt *adapter, Err *e)
{
    const CycleConfig *c = l->c;
    LoraShape shape;
    char path[IO_PATH_MAX];
    if (compute_open(&p->compute, c->kernel, c->precision, e) ||
        model_load(&p->model, c->model, c->model_flags, &l->events->log, e) ||
        loop_adapter(l, adapter, path, e))
        return -1;
    p->tokenizer = tokenizer_load(c->model, &l->events->log, e);
    if (!p->tokenizer || !*path) return p->tokenizer ? 0 : -1;
    model_lora_shape(&p->model, &shape);
    if (lora_load(&p->lora, path, &shape, 0, e)) return -1;
    p->has_lora = 1;
    return 0;
}

Policy *policy_open(const Loop *l, const AdapterAt *adapter, Err *e)
{
    Policy *p = mem_calloc(1, sizeof *p, e);
    if (!p || !policy_load(p, l, adapter, e)) return p;
    policy_close(p);
    return NULL;
}

Generator policy_generator(Policy *p, const GenerateOptions *o)
{
    return (Generator){.model = &p->model,
                       .lora = p->has_lora ? &p->lora : NULL,
                       .tokenizer = p->tokenizer,
                       .compute = &p->compute,
                       .options = *o};
}

DataOptions policy_prompts(const Policy *p, const CycleConfig *c, const char *system)
{
    return (DataOptions){.kind = DATA_PROMPTS,
                         .max_length = p->model.config.max_positions,
                         .raw = c->raw,
                         .chat_template = c->chat_template,
                         .system = system};
}

/* Answers the rows of data that were not answered before. */
static int answer_rows(Answers *a, Policy *p, const GenerateOptions *o, Err *e)
{
    size_t n = a->data->count - a->first;
    Prompt *prompts = mem_calloc(n + 1, sizeof *prompts, e);
    if (!prompts) return -1;
    for (size_t i = 0; i < n; i++) {
        const Row *r = &a->data->rows[a->first + i];
        prompts[i] = (Prompt){r->prompt, r->n_prompt, index_of(r)};
    }
    Generator g = policy_generator(p, o);
    GenerateSink sink = {a, answer_done, NULL};
    int status = generate_run(&g, prompts, n, &sink, e);
    mem_free(prompts);
    return status;
}

/* Answers a file of prompts by one policy, into the part file, which then takes its name. */
static int answer_file(const Loop *l, Answers *a, Policy *p, const char *prompts,
                       const GenerateOptions *o, const char *out, Err *e)
{
    char in_path[IO_PATH_MAX], out_path[IO_PATH_MAX], part[IO_PATH_MAX], name[RUN_NAME];
    Dataset data;
    const DataOptions rows = policy_prompts(p, l->c, a->system);
    snprintf(name, sizeof name, "%.200s.part", out);
    if (loop_path(l, part, name, e) || loop_path(l, in_path, prompts, e) ||
        loop_path(l, out_path, out, e))
        return -1;
    if (data_load(&data, in_path, &rows, p->tokenizer, &l->events->log, e)) return -1;
    a->data = &data;
    a->tokenizer = p->tokenizer;
    a->part = part;
    int status = count_answered(part, o->samples, &a->first, e);
    if (!status && a->first > data.count)
        status = err_set(e, ERR_DATA, "%s: holds more answers than there are prompts", part);
    a->progress.total = data.count * o->samples;
    a->progress.done = a->first * o->samples;
    if (!status && a->first < data.count) status = answer_rows(a, p, o, e);
    if (!status) status = io_rename(part, out_path, e);
    data_close(&data);
    return status;
}

/* Everything that decides answers, within one grid. */
static int answer_key(const Loop *l, Text *key, const AdapterAt *adapter, const char *system,
                      const char *prompts, const GenerateOptions *o, Err *e)
{
    return text_addf(key, e, "answers\n%s\n", system ? system : "no system message") ||
                   share_key_file(l, key, prompts, e) || share_key_adapter(l, key, adapter, e) ||
                   text_addf(key, e, "%zu %zu %zu %llu ", o->samples, o->max_tokens, o->top_k,
                             (unsigned long long)o->seed) ||
                   json_put_f64(key, o->temperature, e) || text_add(key, " ", 1, e) ||
                   json_put_f64(key, o->top_p, e) || text_add(key, " ", 1, e) ||
                   json_put_f64(key, o->min_p, e)
               ? -1
               : 0;
}

/* Answers RUN/prompts into RUN/out, or takes them from another run of the grid. */
static int answer_or_take(Loop *l, size_t cycle, const char *name, const AdapterAt *adapter,
                          const char *system, const char *prompts, const GenerateOptions *o,
                          const char *out, size_t *answers, Err *e)
{
    Text key = {0};
    char path[IO_PATH_MAX];
    const char *files[] = {out, NULL};
    Answers a = {.l = l,
                 .system = system,
                 .began = time_now(),
                 .progress = {.cycle = cycle, .stage = "generate", .name = name}};
    int taken =
        answer_key(l, &key, adapter, system, prompts, o, e) ? -1 : share_take(l, &key, files, e);
    int status = taken < 0 ? -1 : 0;
    if (taken > 0) {
        loop_tell(l, (CycleProgress){.cycle = cycle, .stage = "generate", .name = name, .kept = 1});
        status = loop_path(l, path, out, e) || count_answered(path, 1, &a.progress.total, e);
    } else if (!taken) {
        Policy *policy = policy_open(l, adapter, e);
        status = !policy || answer_file(l, &a, policy, prompts, o, out, e);
        if (policy) policy_close(policy);
        if (!status) status = share_give(l, &key, files, e);
    }
    *answers = a.progress.total;
    text_free(&a.line);
    text_free(&key);
    return status ? -1 : 0;
}

/* Counts prompts of RUN/prompts without answers: they fill the model's context. */
static int count_left_out(const Loop *l, const char *prompts, size_t answered, size_t *left_out,
                          Err *e)
{
    char path[IO_PATH_MAX];
    size_t asked;
    if (loop_path(l, path, prompts, e) || count_answered(path, 1, &asked, e)) return -1;
    *left_out = asked > answered ? asked - answered : 0;
    if (*left_out)
        log_note(&l->events->log, 'w',
                 "%s: %zu of %zu prompts are left out, for they fill the model's context", path,
                 *left_out, asked);
    return 0;
}

int generate_stage(Loop *l, size_t cycle, const char *name, const AdapterAt *adapter,
                   const char *system, const char *prompts, const GenerateOptions *o,
                   const char *out, Err *e)
{
    int done = loop_done(l, "generate", cycle, name, NULL, e);
    if (done) return done < 0 ? -1 : 0;
    size_t answers, left_out;
    if (answer_or_take(l, cycle, name, adapter, system, prompts, o, out, &answers, e) ||
        count_left_out(l, prompts, answers / o->samples, &left_out, e))
        return -1;

    char weights[RUN_NAME], facts[160];
    loop_name(weights, adapter->below, LORA_WEIGHTS_FILE);
    const char *inputs[] = {prompts, *adapter->below ? weights : NULL, NULL};
    const char *outputs[] = {out, NULL};
    snprintf(facts, sizeof facts,
             "{\"answers\":%zu,\"left_out\":%zu,\"samples\":%zu,\"seed\":%llu}", answers, left_out,
             o->samples, (unsigned long long)o->seed);
    return ledger_append(&l->ledger,
                         &(LedgerEntry){.event = "generate",
                                        .name = name,
                                        .cycle = cycle,
                                        .inputs = inputs,
                                        .outputs = outputs,
                                        .facts = facts},
                         e);
}

int prompts_check_fit(const Loop *l, const char *path, Err *e)
{
    const CycleConfig *c = l->c;
    Dataset data;
    DataOptions rows = {.kind = DATA_PROMPTS,
                        .raw = c->raw,
                        .chat_template = c->chat_template,
                        .system = c->system};
    Tokenizer *t = tokenizer_load(c->model, NULL, e);
    if (!t) return -1;
    int status = data_load(&data, path, &rows, t, NULL, e);
    tokenizer_free(t);
    if (status) return -1;
    for (size_t i = 0; i < data.count && !status; i++) {
        const Row *r = &data.rows[i];
        uint64_t index = !strcmp(path, c->prompts) ? r->index : index_of(r);
        if (r->n_prompt < l->context || index >= l->prompts.count ||
            l->prompts.rows[index].split == SPLIT_TRAIN)
            continue;
        status = err_set(e, ERR_DATA,
                         "%s:%zu: the prompt has %zu tokens and is held out to measure policies; "
                         "allowed are at most %zu, for the model's context of %zu must hold an "
                         "answer, too; shorten it or take it out",
                         c->prompts, l->prompts.rows[index].line, r->n_prompt, l->context - 1,
                         l->context);
    }
    data_close(&data);
    return status;
}

/* ---- judge and evaluate -------------------------------------------------------------------- */

int loop_judge(const Loop *l, const JudgeConfig *config, JudgeConfig *out,
               char path[2][IO_PATH_MAX], Err *e)
{
    const CycleConfig *c = l->c;
    const AdapterAt first = {{0}, c->adapter};
    *out = *config;
    out->kernel = c->kernel;
    out->precision = c->precision;
    out->model_flags = c->model_flags;
    out->log = &l->events->log;
    out->answers = path[1];
    /* A grid judges nothing twice in all of its runs. */
    if (c->shared ? io_path(path[1], IO_PATH_MAX, c->shared, ANSWERS_FILE, e)
                  : loop_path(l, path[1], ANSWERS_FILE, e))
        return -1;
    if (strcmp(config->kind, "self") != 0) return 0;
    out->model = c->model;
    out->chat_template = c->chat_template;
    if (loop_adapter(l, config == &c->validator ? &first : &l->policy, path[0], e)) return -1;
    out->adapter = *path[0] ? path[0] : NULL;
    return 0;
}

typedef struct {
    const Loop *l;
    CycleProgress progress;
    double began;
} Judging;

static void tell_judged(void *ctx, size_t done, size_t total)
{
    Judging *j = ctx;
    j->progress.done = done;
    j->progress.total = total;
    j->progress.seconds = time_now() - j->began;
    loop_tell(j->l, j->progress);
}

int judge_rows(const Loop *l, const JudgeConfig *config, const char *in, const char *out,
               CycleProgress stage, JudgeReport *report, Err *e)
{
    char(*path)[IO_PATH_MAX] = mem_alloc(4 * sizeof *path, e);
    Judging judging = {l, stage, time_now()};
    JudgeConfig here;
    Judge judge = {0};
    int status = !path || loop_judge(l, config, &here, path, e) || loop_path(l, path[2], in, e) ||
                 loop_path(l, path[3], out, e);
    if (!status) {
        here.progress = (JudgeProgress){&judging, tell_judged};
        status =
            judge_open(&judge, &here, e) || judge_file(&judge, path[2], path[3], NULL, report, e);
    }
    judge_close(&judge);
    mem_free(path);
    return status ? -1 : 0;
}

/* All policies are measured by one validator, also where a run was stopped and goes on. */
static int check_validator(const Loop *l, const JudgeReport *r, Err *e)
{
    const Json *first = json_get(ledger_find(&l->ledger, "judge", 0, "validation"), "facts");
    if (!first || json_is(json_get(first, "judge_sha256"), r->sha256)) return 0;
    return err_set(e, ERR_DATA, "--validator: was changed since %s began", l->c->run);
}

int judge_stage(Loop *l, size_t cycle, const char *name, const JudgeConfig *config, const char *in,
                const char *out, Err *e)
{
    int done = loop_done(l, "judge", cycle, name, NULL, e);
    if (done) return done < 0 ? -1 : 0;
    JudgeReport report;
    Text facts = {0};
    CycleProgress stage = {.cycle = cycle, .stage = "judge", .name = name};
    loop_tell(l, stage);
    int status = judge_rows(l, config, in, out, stage, &report, e);
    if (!status && config == &l->c->validator) status = check_validator(l, &report, e);
    if (!status) status = judge_report_json(&report, &facts, e);
    if (!status) {
        facts.data[--facts.len] = 0; /* its line break */
        const char *inputs[] = {in, NULL}, *outputs[] = {out, NULL};
        status = ledger_append(&l->ledger,
                               &(LedgerEntry){.event = "judge",
                                              .name = name,
                                              .cycle = cycle,
                                              .inputs = inputs,
                                              .outputs = outputs,
                                              .facts = facts.data},
                               e);
    }
    text_free(&facts);
    return status;
}

/* RUN/folder/judged.jsonl, without the intervals of a single policy. */
static int open_judged(const Loop *l, const char *folder, Evaluation *v, Err *e)
{
    char path[IO_PATH_MAX], name[RUN_NAME];
    loop_name(name, folder, "judged.jsonl");
    if (loop_path(l, path, name, e) || evaluate_file(v, path, l->c->seed, 0, e)) return -1;
    v->resamples = l->c->resamples; /* of the comparison */
    return 0;
}

int compare_folders(const Loop *l, const char *before, const char *after, Comparison *out, Err *e)
{
    Evaluation a = {0}, b = {0};
    int status = open_judged(l, before, &a, e) || open_judged(l, after, &b, e) ? -1 : 0;
    if (!status && evaluate_compare(out, &a, &b, l->c->confidence, e))
        status = err_prefix(e, "%s, %s", before, after);
    evaluate_close(&a);
    evaluate_close(&b);
    return status;
}

/* Figures of a judged file; results.json is written when the stage has not been done. */
static int evaluate_stage(Loop *l, size_t cycle, Examination *x, const char *in, const char *out,
                          Err *e)
{
    int done = loop_done(l, "evaluate", cycle, x->name, NULL, e);
    if (done < 0) return -1;
    char in_path[IO_PATH_MAX], out_path[IO_PATH_MAX];
    Evaluation v;
    Comparison change = {0};
    Text text = {0};
    if (loop_path(l, in_path, in, e) || loop_path(l, out_path, out, e)) return -1;
    if (evaluate_file(&v, in_path, l->c->seed, l->c->resamples, e)) return -1;
    int status = x->against ? compare_folders(l, x->against, x->folder, &change, e) : 0;
    memcpy(x->metrics, v.metrics, sizeof v.metrics);
    memcpy(x->since_first, change.metrics, sizeof change.metrics);
    if (!status && !done) {
        const char *inputs[] = {in, NULL}, *outputs[] = {out, NULL};
        status = evaluate_json(&v, x->against ? &change : NULL, &text, e) ||
                 io_write_file(out_path, text.data, text.len, e) ||
                 ledger_append(&l->ledger,
                               &(LedgerEntry){.event = "evaluate",
                                              .name = x->name,
                                              .cycle = cycle,
                                              .inputs = inputs,
                                              .outputs = outputs},
                               e);
    }
    text_free(&text);
    evaluate_compare_close(&change);
    evaluate_close(&v);
    return status ? -1 : 0;
}

int examine(Loop *l, size_t cycle, Examination *x, Err *e)
{
    char path[IO_PATH_MAX], responses[RUN_NAME], judged[RUN_NAME], results[RUN_NAME];
    GenerateOptions o = l->c->validate;
    o.seed = l->c->seed; /* the same draws for all policies */
    loop_name(responses, x->folder, "responses.jsonl");
    loop_name(judged, x->folder, "judged.jsonl");
    loop_name(results, x->folder, "results.json");
    if (loop_path(l, path, x->folder, e) || io_make_directory(path, 1, e)) return -1;
    return generate_stage(l, cycle, x->name, x->adapter, l->c->system, x->prompts, &o, responses,
                          e) ||
                   judge_stage(l, cycle, x->name, &l->c->validator, responses, judged, e) ||
                   evaluate_stage(l, cycle, x, judged, results, e)
               ? -1
               : 0;
}
