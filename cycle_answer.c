/* cycle_answer.c - lets a policy answer prompts, a judge label the answers, and counts the
 * labels. */
#include "cycle_parts.h"

#include <string.h>

/* ---- generate ------------------------------------------------------------------------------ */

typedef struct {
    const Loop *l;
    CycleProgress progress;
    const Dataset *data;
    const Tokenizer *tokenizer;
    const char *system; /* message, or NULL */
    const char *part;   /* the file being written */
    size_t first;       /* number of rows answered before */
    double began;
    Text line;
} Answers;

/* Returns the place of a prompt in the prompts file, which a split keeps as "index". */
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

/* Counts the prompts whose answers a file has, `samples` lines each. Only whole prompts are kept;
 * the rest, which a stopped stage left, is cut off. */
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

/* Is it the model that the process began with? Only files that were touched are read again. */
static int check_model(const Loop *l, const Model *m, Err *e)
{
    char now[65];
    if (!*l->model_sha256) return 0;
    if (model_stamp(m, now, e)) return -1;
    if (!strcmp(now, l->model_stamp)) return 0;
    return model_hash(m, now, e) || model_expect(m, now, l->model_sha256, e) ? -1 : 0;
}

int policy_open(const Loop *l, const AdapterAt *adapter, const Log *log, Engine *out, Err *e)
{
    const CycleConfig *c = l->c;
    char path[IO_PATH_MAX];
    if (loop_adapter(l, adapter, path, e)) return -1;
    const EngineConfig config = {.model = c->model,
                                 .adapter = path,
                                 .flags = c->model_flags,
                                 .kernel = c->kernel,
                                 .precision = c->precision,
                                 .log = log};
    if (engine_open(out, &config, e)) return -1;
    if (!check_model(l, &out->model, e)) return 0;
    engine_close(out);
    return -1;
}

DataOptions policy_prompts(const Engine *p, const CycleConfig *c, const char *system)
{
    return (DataOptions){.kind = DATA_PROMPTS,
                         .max_length = p->model.config.max_positions,
                         .raw = c->raw,
                         .chat_template = c->chat_template,
                         .date = cycle_day(c),
                         .system = system};
}

/* Answers the rows of data that have no answer yet. */
static int answer_rows(Answers *a, Engine *p, const GenerateOptions *o, Err *e)
{
    size_t n = a->data->count - a->first;
    Prompt *prompts = mem_calloc(n + 1, sizeof *prompts, e);
    if (!prompts) return -1;
    for (size_t i = 0; i < n; i++) {
        const Row *r = &a->data->rows[a->first + i];
        prompts[i] = (Prompt){r->prompt, r->n_prompt, index_of(r)};
    }
    Generator g = generate_with(p, a->data->chat, o);
    GenerateSink sink = {a, answer_done, NULL};
    int status = generate_run(&g, prompts, n, &sink, e);
    mem_free(prompts);
    return status;
}

/* Answers a file of prompts by one policy into the part file, which is then renamed. */
static int answer_file(const Loop *l, Answers *a, Engine *p, const char *prompts,
                       const GenerateOptions *o, const char *out, Err *e)
{
    char in_path[IO_PATH_MAX], out_path[IO_PATH_MAX], part[IO_PATH_MAX], name[RUN_NAME];
    Dataset data;
    Err changed;
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
    if (model_check_hash(&p->model, l->model_sha256, &changed)) { /* which answers are whose? */
        remove(part);
        *e = changed;
        status = -1;
    }
    if (!status) status = io_rename(part, out_path, e);
    data_close(&data);
    return status;
}

/* Writes " [stop texts]"; nothing if there are none. */
static int put_stops(Text *key, const GenerateOptions *o, Err *e)
{
    for (size_t i = 0; i < o->n_stops; i++)
        if (text_addf(key, e, "%s", i ? ", " : " [") ||
            json_put_string(key, o->stops[i], strlen(o->stops[i]), e))
            return -1;
    return o->n_stops ? text_add(key, "]", 1, e) : 0;
}

/* How a policy answers the prompts of a stage. */
typedef struct {
    const AdapterAt *adapter;
    const char *system; /* message, or NULL */
    const GenerateOptions *options;
} Answering;

static int answer_key(const Loop *l, const Stage *s, Text *key, Err *e)
{
    const Answering *a = s->work;
    const GenerateOptions *o = a->options;
    return text_addf(key, e, "answers\n%s\n", a->system ? a->system : "no system message") ||
                   share_key_file(l, key, s->inputs[0], e) ||
                   share_key_adapter(l, key, a->adapter, e) ||
                   text_addf(key, e, "%zu %zu %zu %llu ", o->samples, o->max_tokens, o->top_k,
                             (unsigned long long)o->seed) ||
                   json_put_f64(key, o->temperature, e) || text_add(key, " ", 1, e) ||
                   json_put_f64(key, o->top_p, e) || text_add(key, " ", 1, e) ||
                   json_put_f64(key, o->min_p, e) || put_stops(key, o, e)
               ? -1
               : 0;
}

/* Counts the answers, and the prompts without any, which fill the model's context. */
static int answer_facts(const Loop *l, const Stage *s, Text *facts, Err *e)
{
    const GenerateOptions *o = ((const Answering *)s->work)->options;
    char prompts[IO_PATH_MAX], out[IO_PATH_MAX];
    size_t asked, answers;
    if (loop_path(l, prompts, s->inputs[0], e) || count_answered(prompts, 1, &asked, e) ||
        loop_path(l, out, s->outputs[0], e) || count_answered(out, 1, &answers, e))
        return -1;
    size_t answered = answers / o->samples, left_out = asked > answered ? asked - answered : 0;
    if (left_out)
        log_note(&l->events->log, 'w',
                 "%s: %zu of %zu prompts are left out, for they fill the model's context", prompts,
                 left_out, asked);
    return text_addf(facts, e,
                     "{\"answers\":%zu,\"left_out\":%zu,\"samples\":%zu,\"seed\":%llu}", answers,
                     left_out, o->samples, (unsigned long long)o->seed);
}

static int answer_prompts(Loop *l, Stage *s, Text *facts, Err *e)
{
    const Answering *with = s->work;
    Answers a = {.l = l,
                 .system = with->system,
                 .began = time_now(),
                 .progress = {.cycle = s->cycle, .stage = s->kind->event, .name = s->name}};
    Engine policy = {0};
    int status = policy_open(l, with->adapter, NULL, &policy, e) ||
                 answer_file(l, &a, &policy, s->inputs[0], with->options, s->outputs[0], e);
    engine_close(&policy);
    text_free(&a.line);
    return status ? -1 : answer_facts(l, s, facts, e);
}

static const StageKind generating = {
    .event = "generate", .run = answer_prompts, .key = answer_key, .taken = answer_facts};

int generate_stage(Loop *l, size_t cycle, const char *name, const AdapterAt *adapter,
                   const char *system, const char *prompts, const GenerateOptions *o,
                   const char *out, Err *e)
{
    char weights[RUN_NAME];
    Answering work = {adapter, system, o};
    run_name(weights, adapter->below, LORA_WEIGHTS_FILE);
    Stage s = {.kind = &generating,
               .cycle = cycle,
               .name = name,
               .inputs = {prompts, *adapter->below ? weights : NULL},
               .outputs = {out},
               .work = &work};
    return stage_run(l, &s, e);
}

/* Loads the prompts of a file as tokens, by the loop's choices. */
static int load_prompts(const Loop *l, const char *path, Dataset *data, Err *e)
{
    const CycleConfig *c = l->c;
    DataOptions rows = {.kind = DATA_PROMPTS,
                        .raw = c->raw,
                        .chat_template = c->chat_template,
                        .date = cycle_day(c),
                        .system = c->system};
    Tokenizer *t = tokenizer_load(c->model, NULL, e);
    if (!t) return -1;
    int status = data_load(data, path, &rows, t, NULL, e);
    tokenizer_free(t);
    return status;
}

int prompts_describe(const Loop *l, Err *e)
{
    Dataset data;
    if (load_prompts(l, l->c->prompts, &data, e)) return -1;
    data_describe_readings(&data, &l->events->log);
    data_close(&data);
    return 0;
}

int prompts_check_fit(const Loop *l, const char *path, Err *e)
{
    const CycleConfig *c = l->c;
    Dataset data;
    if (load_prompts(l, path, &data, e)) return -1;
    int status = 0;
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
    out->date = cycle_day(c);
    out->log = &l->events->log;
    out->answers = path[1];
    /* The runs of a grid share one file of verdicts, so nothing is judged twice. */
    if (c->shared ? io_path(path[1], IO_PATH_MAX, c->shared, ANSWERS_FILE, e)
                  : loop_path(l, path[1], ANSWERS_FILE, e))
        return -1;
    if (!judge_has(config, JUDGE_IS_POLICY)) return 0;
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
    char (*path)[IO_PATH_MAX] = mem_alloc(4 * sizeof *path, e);
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

/* Checks that one validator measures all policies, even if a run was stopped and resumed. */
static int check_validator(const Loop *l, const JudgeReport *r, Err *e)
{
    const Json *first = json_get(ledger_find(&l->ledger, "judge", 0, run_first.stage), "facts");
    if (!first || json_is(json_get(first, "judge_sha256"), r->sha256)) return 0;
    return err_set(e, ERR_DATA, "--validator: was changed since %s began", l->c->run);
}

static int label_answers(Loop *l, Stage *s, Text *facts, Err *e)
{
    const JudgeConfig *config = s->work;
    JudgeReport report;
    const CycleProgress stage = {.cycle = s->cycle, .stage = s->kind->event, .name = s->name};
    if (judge_rows(l, config, s->inputs[0], s->outputs[0], stage, &report, e) ||
        (config == &l->c->validator && check_validator(l, &report, e)) ||
        judge_report_json(&report, facts, e))
        return -1;
    facts->data[--facts->len] = 0; /* its line break */
    return 0;
}

static const StageKind judging = {.event = "judge", .told = 1, .run = label_answers};

int judge_stage(Loop *l, size_t cycle, const char *name, const JudgeConfig *config, const char *in,
                const char *out, Err *e)
{
    Stage s = {.kind = &judging,
               .cycle = cycle,
               .name = name,
               .inputs = {in},
               .outputs = {out},
               .work = config};
    return stage_run(l, &s, e);
}

/* Reads RUN/folder/judged.jsonl without computing intervals of the single policy. */
static int open_judged(const Loop *l, const char *folder, Evaluation *v, Err *e)
{
    char path[IO_PATH_MAX], name[RUN_NAME];
    run_name(name, folder, JUDGED_FILE);
    if (loop_path(l, path, name, e) || evaluate_file(v, path, l->c->seed, 0, e)) return -1;
    v->resamples = l->c->resamples; /* for the comparison */
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

typedef struct {
    const Evaluation *v;
    const Comparison *change; /* against the first policy, or NULL */
} Figures;

static int write_figures(Loop *l, Stage *s, Text *facts, Err *e)
{
    (void)facts;
    const Figures *f = s->work;
    char path[IO_PATH_MAX];
    Text text = {0};
    int status = loop_path(l, path, s->outputs[0], e) ||
                 evaluate_json(f->v, f->change, &text, e) ||
                 io_write_file(path, text.data, text.len, e);
    text_free(&text);
    return status ? -1 : 0;
}

static const StageKind evaluating = {.event = "evaluate", .run = write_figures};

/* Computes the figures of a judged file, also if the stage was done before. */
static int evaluate_stage(Loop *l, size_t cycle, Examination *x, const char *in, const char *out,
                          Err *e)
{
    char path[IO_PATH_MAX];
    Evaluation v;
    Comparison change = {0};
    if (loop_path(l, path, in, e) || evaluate_file(&v, path, l->c->seed, l->c->resamples, e))
        return -1;
    Figures work = {&v, x->against ? &change : NULL};
    Stage s = {.kind = &evaluating,
               .cycle = cycle,
               .name = x->place->stage,
               .inputs = {in},
               .outputs = {out},
               .work = &work};
    int status = (x->against && compare_folders(l, x->against, x->place->folder, &change, e)) ||
                 stage_run(l, &s, e);
    memcpy(x->metrics, v.metrics, sizeof v.metrics);
    memcpy(x->since_first, change.metrics, sizeof change.metrics);
    evaluate_compare_close(&change);
    evaluate_close(&v);
    return status ? -1 : 0;
}

int examine(Loop *l, size_t cycle, Examination *x, Err *e)
{
    char path[IO_PATH_MAX], responses[RUN_NAME], judged[RUN_NAME], results[RUN_NAME];
    GenerateOptions o = l->c->validate;
    o.seed = l->c->seed; /* the same draws for all policies */
    const char *folder = x->place->folder, *name = x->place->stage;
    run_name(responses, folder, RESPONSES_FILE);
    run_name(judged, folder, JUDGED_FILE);
    run_name(results, folder, RESULTS_FILE);
    if (loop_path(l, path, folder, e) || io_make_directory(path, 1, e)) return -1;
    return generate_stage(l, cycle, name, x->adapter, l->c->system, x->prompts, &o, responses, e) ||
                   judge_stage(l, cycle, name, &l->c->validator, responses, judged, e) ||
                   evaluate_stage(l, cycle, x, judged, results, e)
               ? -1
               : 0;
}
