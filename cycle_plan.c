/* cycle_plan.c - plans a run (--dry-run): what it would do and cost, measured by a small trial.
 *
 * The trial times the answers to the longest training prompts, the judges' labels of these answers,
 * and the scores of the guard's first questions. Then the longest prompts that fit --max-length get
 * these answers in turn, good and bad; each candidate's training plans its memory with such rows
 * and takes a few steps. All of this happens in a scratch directory that is removed. RUN is not
 * touched, and no command is run as a judge: it may cost money, and prompts may hold patient data.
 *
 * The trial fails where the run would fail before its first step. The contents of its rows decide
 * nothing: no option that looks at contents (scores, equal answers) can refuse it. If a candidate
 * cannot be trained on any rows, the run skips it, and the plan says so.
 *
 * Numbers of answers are exact, except for revisions. Numbers of rows are upper bounds: every
 * sample a KTO row, every prompt a pair; balance and equal scores leave fewer.
 */
#include "cycle_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TRIAL_PROMPTS = 8, TRIAL_SAMPLES = 2, TRIAL_STEPS = 3, TRIAL_QUESTIONS = 16 };

enum { SCRATCH_PATHS = 4, SCRATCH_NAME = 32 };

/* The state of a trial. */
typedef struct {
    Loop loop;
    CyclePlan *plan;
    char folder[IO_PATH_MAX - SCRATCH_NAME];
    char paths[SCRATCH_PATHS][IO_PATH_MAX];
    size_t turn;
    Writer judged;
    const Tokenizer *tokenizer;
    const Dataset *data;
    const Row **rows; /* [all] training prompts, the longest first */
    size_t all, n;    /* the first n are answered */
    size_t thumbs;    /* rows of feedback */
    Text line;
} Trial;

/* Returns the path of a scratch file with a short name; the last four paths stay valid. */
static const char *scratch(Trial *t, const char *name)
{
    char *path = t->paths[t->turn++ % SCRATCH_PATHS];
    snprintf(path, IO_PATH_MAX, "%s/%s", t->folder, name);
    return path;
}

/* ---- counting ------------------------------------------------------------------------------ */

static void count_rows(Trial *t)
{
    CyclePlan *p = t->plan;
    const PromptSet *s = &t->loop.prompts;
    for (size_t i = 0; i < s->count; i++) p->rows[s->rows[i].split][s->rows[i].level]++;
    p->groups = s->groups;
    for (size_t i = 0; i < t->data->count; i++)
        p->prompt_tokens[s->rows[t->data->rows[i].index].split] += t->data->rows[i].n_prompt;
}

/* Number of steps of a candidate's training on at most n rows. */
static size_t steps_of(const TrainConfig *c, size_t n)
{
    size_t step_rows = c->batch * c->accumulate;
    if (c->steps) return c->steps;
    return (size_t)ceil(c->epochs * (double)((n + step_rows - 1) / step_rows));
}

/* Scales the seconds of the items so far to all items, and to `times` openings. */
static void total_work(PlannedWork *w, size_t times)
{
    w->seconds = w->seconds * (double)w->count + w->seconds_to_open * (double)times;
}

/* Computes everything that follows from the counts and the trial's figures. */
static void add_up(Trial *t)
{
    CyclePlan *p = t->plan;
    const CycleConfig *c = t->loop.c;
    const size_t *split = t->loop.prompts.split_rows;
    size_t methods = 0, cycles = c->cycles;
    double mean[SPLIT_COUNT];
    for (int s = 0; s < SPLIT_COUNT; s++)
        mean[s] = split[s] ? (double)p->prompt_tokens[s] / (double)split[s] : 0;
    p->per_cycle = c->prompts_per_cycle && c->prompts_per_cycle < split[SPLIT_TRAIN]
                       ? c->prompts_per_cycle
                       : split[SPLIT_TRAIN];
    for (int m = 0; m < CYCLE_METHODS; m++) methods += c->methods >> m & 1;
    size_t asked = cycles * p->per_cycle * (c->revise ? 2 : 1), policies = 1 + cycles * methods;
    size_t validated = policies * split[SPLIT_VALIDATION], tested = 2 * split[SPLIT_TEST];
    p->revisions = c->revise ? cycles * p->per_cycle * c->sample.samples : 0;
    p->judge.count = asked * c->sample.samples;
    p->validator.count = validated + tested;
    p->answers = p->judge.count + p->validator.count;
    p->read_tokens = (double)asked * mean[SPLIT_TRAIN] +
                     (double)validated * mean[SPLIT_VALIDATION] + (double)tested * mean[SPLIT_TEST];
    p->written_tokens = (double)p->answers * (double)c->sample.max_tokens;
    p->generate_seconds = p->seconds_per_answer * (double)p->answers;
    total_work(&p->judge, (c->revise ? 2 : 1) * cycles);
    total_work(&p->validator, policies + (split[SPLIT_TEST] ? 2 : 0));
    p->guard.count *= policies;
    total_work(&p->guard, policies);
    for (int m = 0; m < CYCLE_METHODS; m++) {
        if (!(c->methods >> m & 1)) continue;
        int help = c->demonstrations || c->revise; /* one more answer if every sample fails */
        size_t rows = m == CYCLE_KTO
                          ? p->per_cycle * (c->sample.samples + (help ? 1 : 0)) + t->thumbs
                          : p->per_cycle;
        double row = 2 * (mean[SPLIT_TRAIN] + p->answer_tokens); /* both sides; KTO's partner */
        p->steps[m] = steps_of(&c->train[m], rows);
        p->train_tokens[m] =
            (double)(cycles * p->steps[m] * c->train[m].batch * c->train[m].accumulate) * row;
        p->train_seconds[m] = (double)cycles * (double)p->steps[m] * p->seconds_per_step[m];
    }
}

/* ---- answering ----------------------------------------------------------------------------- */

static int by_length(const void *x, const void *y)
{
    const Row *a = *(const Row *const *)x, *b = *(const Row *const *)y;
    if (a->n_prompt != b->n_prompt) return a->n_prompt > b->n_prompt ? -1 : 1;
    return a->index < b->index ? -1 : a->index > b->index;
}

/* Sorts out the longest training prompts: they decide memory, and overestimate time. */
static int choose_prompts(Trial *t, Err *e)
{
    size_t n = 0;
    t->rows = mem_calloc(t->data->count + 1, sizeof *t->rows, e);
    if (!t->rows) return -1;
    for (size_t i = 0; i < t->data->count; i++)
        if (t->loop.prompts.rows[t->data->rows[i].index].split == SPLIT_TRAIN)
            t->rows[n++] = &t->data->rows[i];
    sort_items(t->rows, n, sizeof *t->rows, by_length);
    t->all = n;
    t->n = n < TRIAL_PROMPTS ? n : TRIAL_PROMPTS;
    return n ? 0
             : err_set(e, ERR_DATA, "%s: no training prompt fits the model", t->loop.c->prompts);
}

/* Keeps an answer, labelled good (even samples) or bad for its level. */
static int answer_done(void *ctx, const Continuation *c, Err *e)
{
    Trial *t = ctx;
    const Row *row = t->rows[c->prompt];
    unsigned level = t->loop.prompts.rows[row->index].level;
    int good = c->sample % 2 == 0;
    const char *action = action_names[good == (level > 0) ? ACTION_REFUSE : ACTION_ACCEPT];
    t->plan->answer_tokens += (double)c->count;
    t->line.len = 0;
    if (generate_put_row(&t->line, t->tokenizer, row->index, row->source, "prompt", c, e))
        return -1;
    t->line.len--; /* its brace */
    return text_addf(&t->line, e, ",\"action\":\"%s\"}\n", action) ||
                   writer_put(&t->judged, t->line.data, t->line.len, e)
               ? -1
               : 0;
}

static int answer_trial(Trial *t, Engine *p, Err *e)
{
    Prompt prompts[TRIAL_PROMPTS];
    GenerateOptions o = t->loop.c->sample;
    GenerateSink sink = {t, answer_done, NULL};
    o.samples = TRIAL_SAMPLES;
    o.seed = t->loop.c->seed;
    Generator g = generate_with(p, t->data->chat, &o);
    for (size_t i = 0; i < t->n; i++)
        prompts[i] = (Prompt){t->rows[i]->prompt, t->rows[i]->n_prompt, t->rows[i]->index};
    if (writer_open(&t->judged, scratch(t, "judged.jsonl"), e)) return -1;
    double began = time_now();
    if (generate_run(&g, prompts, t->n, &sink, e) || writer_commit(&t->judged, e)) return -1;
    double answers = TRIAL_SAMPLES * (double)t->n;
    t->plan->seconds_per_answer = (time_now() - began) / answers;
    t->plan->answer_tokens /= answers;
    return 0;
}

/* ---- judging, and the guard ---------------------------------------------------------------- */

/* Times a judge on the trial's answers. */
static int judge_trial(Trial *t, const JudgeConfig *config, PlannedWork *w, Err *e)
{
    char path[2][IO_PATH_MAX];
    JudgeConfig here;
    Judge judge = {0};
    JudgeReport report;
    double began = time_now();
    w->seconds = (double)NAN;
    int status = loop_judge(&t->loop, config, &here, path, e);
    int timed = !judge_has(config, JUDGE_IS_PROGRAM);
    here.answers = timed ? NULL : scratch(t, "answers.jsonl"); /* a trial keeps no verdicts */
    status = status || judge_open(&judge, &here, e) || judge_can_run(&judge, e);
    w->seconds_to_open = time_now() - began;
    if (!status && timed) {
        status = judge_file(&judge, scratch(t, "judged.jsonl"), scratch(t, "labels.jsonl"), NULL,
                            &report, e);
        w->seconds = (time_now() - began - w->seconds_to_open) / (double)report.rows;
    }
    judge_close(&judge);
    return status ? -1 : 0;
}

/* Copies the first lines of a file, up to n rows, into another; *share = their share of its
 * bytes. */
static int copy_rows(const char *from, const char *to, size_t n, double *share, Err *e)
{
    char *bytes;
    size_t len, keep = 0;
    if (io_read_file(from, 0, &bytes, &len, e)) return -1;
    while (keep < len && n) {
        const char *end = memchr(bytes + keep, '\n', len - keep);
        size_t next = end ? (size_t)(end - bytes) + 1 : len;
        if (strspn(bytes + keep, " \t\r\n") < next - keep) n--;
        keep = next;
    }
    int status = io_write_file(to, bytes, keep, e);
    *share = (double)keep / (double)len;
    mem_free(bytes);
    return status;
}

/* Reads all of the guard's questions, and times the first ones. */
static int guard_trial(Trial *t, Engine *p, Err *e)
{
    const CycleConfig *c = t->loop.c;
    PlannedWork *w = &t->plan->guard;
    const char *first = scratch(t, "questions.jsonl"), *rows = scratch(t, "guard.jsonl");
    size_t counts[GUARD_KINDS];
    double share;
    if (cycle_guard_rows(c->guard, rows, t->loop.chat, c->system, counts, &t->loop.events->log, e))
        return -1;
    w->count = counts[GUARD_CHOICES] + counts[GUARD_ANSWERS];
    if (copy_rows(c->guard, first, TRIAL_QUESTIONS, &share, e) ||
        cycle_guard_rows(first, rows, t->loop.chat, c->system, counts, NULL, e))
        return -1;
    double began = time_now();
    if (guard_score(&t->loop, p, rows, scratch(t, "scores.jsonl"), e)) return -1;
    w->seconds = (time_now() - began) / share / (double)w->count;
    return 0;
}

/* Reads all of the feedback as the run will, and counts what it adds. */
static int feedback_trial(Trial *t, Err *e)
{
    FeedbackReport r;
    if (!t->loop.c->feedback) return 0;
    if (feedback_rows(&t->loop, scratch(t, "feedback.jsonl"), &r, e)) return -1;
    t->thumbs = r.liked + r.disliked;
    return 0;
}

/* ---- training ------------------------------------------------------------------------------ */

/* Times the steps alone: loading and the reference's log-probs occur once in a run. */
static void trial_progress(void *ctx, const TrainProgress *p)
{
    double *seconds = ctx;
    if (!strcmp(p->phase, "train") && p->done) *seconds = p->seconds / (double)p->done;
}

/* Reads the trial's answers back; their texts live in the pool. An empty answer is replaced by a
 * word, because a row without an answer would be left out. */
typedef struct {
    const Json *texts[TRIAL_PROMPTS * TRIAL_SAMPLES];
    size_t n;
    Pool pool;
} Answers;

static int read_answers(Trial *t, Answers *a, Err *e)
{
    static const char word[] = "Yes";
    static const Json stand_in = {.type = JSON_STRING, .text = word, .len = sizeof word - 1};
    JsonLines lines;
    Json *row;
    int more;
    if (jsonl_open(&lines, scratch(t, "judged.jsonl"), e)) return -1;
    while ((more = jsonl_next(&lines, &a->pool, &row, e)) > 0) {
        const Json *text = json_get(row, "response");
        a->texts[a->n++] = text && text->type == JSON_STRING && text->len ? text : &stand_in;
    }
    jsonl_close(&lines);
    return more;
}

/* Writes row i of a candidate's training: a pair, or an answer that is good if i is even. */
static int put_row(const Trial *t, int method, const Json *prompt, const Answers *a, size_t i,
                   Text *line, Err *e)
{
    int chat = t->loop.chat, pair = method == CYCLE_DPO;
    const Json *first = a->texts[i * (pair ? 2 : 1) % a->n];
    if (preference_put_prompt(line, chat, t->loop.c->system, prompt, e) ||
        preference_put_answer(line, pair ? "chosen" : "completion", first, chat, e))
        return -1;
    if (!pair) return text_addf(line, e, "\"label\":%s}\n", i % 2 ? "false" : "true");
    if (preference_put_answer(line, "rejected", a->texts[(2 * i + 1) % a->n], chat, e)) return -1;
    line->data[line->len - 1] = '}'; /* its comma */
    return text_add(line, "\n", 1, e);
}

/* Writes rows on the longest prompts that training can hold, two for each of KTO's prompts; as many
 * as a micro-batch takes, if there are enough. *rows = 0 if no prompt is short enough. */
static int write_rows(Trial *t, int method, const Answers *a, const char *path, size_t *rows,
                      Err *e)
{
    const CycleConfig *c = t->loop.c;
    const TrainConfig *x = &c->train[method];
    size_t max = x->rows.max_length, first = 0, each = method == CYCLE_KTO ? 2 : 1;
    while (max && first < t->all && t->rows[first]->n_prompt >= max) first++;
    size_t fit = t->all - first, most = fit * (method == CYCLE_KTO ? c->sample.samples + 1 : 1);
    size_t n = each * TRIAL_PROMPTS > x->batch ? each * TRIAL_PROMPTS : x->batch;
    if (n > most) n = most;
    Text text = {0};
    int status = 0;
    for (size_t i = 0; i < n && !status; i++) {
        const Row *row = t->rows[first + i / each % fit];
        status = put_row(t, method, json_get(row->source, "prompt"), a, i, &text, e);
    }
    if (!status) status = io_write_file(path, text.data ? text.data : "", text.len, e);
    text_free(&text);
    *rows = n;
    return status;
}

/* Plans a candidate's memory, then takes a few steps. If its rows cannot be trained on, or training
 * diverges, the trial continues without the candidate, as the run does. */
static int train_trial(Trial *t, int method, const Answers *a, Err *e)
{
    const CycleConfig *c = t->loop.c;
    TrainConfig x = cycle_train_config(c, method);
    TrainResult result;
    CyclePlan *p = t->plan;
    const TrainEvents events = {.ctx = &p->seconds_per_step[method], .progress = trial_progress};
    size_t rows;
    x.data = scratch(t, method == CYCLE_KTO ? "kto.jsonl" : "dpo.jsonl");
    x.run = scratch(t, cycle_method_names[method]);
    x.init_adapter = c->adapter;
    x.steps = TRIAL_STEPS;
    x.save_every = 0;
    x.rows.drop_identical = 0; /* answers may be equal here: it is their size that counts */
    if (write_rows(t, method, a, x.data, &rows, e)) return -1;
    if (!rows) {
        snprintf(p->untrained[method], sizeof p->untrained[method],
                 "no training prompt is shorter than --max-length %zu", x.rows.max_length);
        return 0;
    }
    x.dry_run = 1;
    const TrainEvents *shown = &t->loop.events->train;
    const TrainEvents first = {.ctx = shown->ctx, .row = shown->row};
    int status = train_run(&x, &first, &result, e);
    if (!status) p->memory[method] = result.plan;
    x.dry_run = 0;
    if (!status) status = train_run(&x, &events, &result, e);
    if (!status || e->code == ERR_DIVERGED) return 0; /* only the times matter */
    if (!train_rows_fail(&x, e)) return err_prefix(e, "trial of %s", cycle_method_names[method]);
    const char *why = strstr(e->text, x.data) + strlen(x.data);
    snprintf(p->untrained[method], sizeof p->untrained[method], "%.190s", why + strspn(why, ": "));
    return 0;
}

static int train_trials(Trial *t, Err *e)
{
    Answers a = {.n = 0};
    int status = read_answers(t, &a, e);
    for (int m = 0; m < CYCLE_METHODS && !status; m++)
        if (t->loop.c->methods >> m & 1) status = train_trial(t, m, &a, e);
    pool_free(&a.pool);
    return status;
}

/* ---- the whole ----------------------------------------------------------------------------- */

static int run_trial(Trial *t, Err *e)
{
    const CycleConfig *c = t->loop.c;
    Dataset data;
    t->loop.policy.outside = c->adapter;
    if (loop_find_chat(&t->loop, e) || prompts_open(&t->loop.prompts, c, e) || feedback_trial(t, e))
        return -1;
    Engine p;
    if (policy_open(&t->loop, &t->loop.policy, &t->loop.events->log, &p, e)) return -1;
    generate_tell(&p, &t->loop.events->log);
    const DataOptions rows = policy_prompts(&p, c, c->system);
    t->loop.context = p.model.config.max_positions;
    if (prompts_describe(&t->loop, e) || prompts_check_fit(&t->loop, c->prompts, e) ||
        data_load(&data, c->prompts, &rows, p.tokenizer, &t->loop.events->log, e)) {
        engine_close(&p);
        return -1;
    }
    t->data = &data;
    t->tokenizer = p.tokenizer;
    count_rows(t);
    int status =
        choose_prompts(t, e) || answer_trial(t, &p, e) || (c->guard && guard_trial(t, &p, e));
    engine_close(&p);
    if (!status)
        status = judge_trial(t, &c->judge, &t->plan->judge, e) ||
                 judge_trial(t, &c->validator, &t->plan->validator, e) || train_trials(t, e);
    if (!status) add_up(t);
    data_close(&data);
    return status ? -1 : 0;
}

int cycle_plan(const CycleConfig *c, const CycleEvents *events, CyclePlan *plan, Err *e)
{
    static const CycleEvents silent;
    const char *temporary = getenv("TMPDIR");
    Err ignored;
    *plan = (CyclePlan){0};
    if (cycle_config_check(c, e) || loop_check_new(c, e) || io_check_new(c->run, e)) return -1;
    Trial *t = mem_calloc(1, sizeof *t, e);
    if (!t) return -1;
    t->loop.c = c;
    t->loop.events = events ? events : &silent;
    t->plan = plan;
    int status = io_path(t->folder, sizeof t->folder, temporary && *temporary ? temporary : "/tmp",
                         "align-plan.XXXXXX", e);
    if (!status && !mkdtemp(t->folder))
        status =
            err_set(e, ERR_CREATE, "%s: cannot be made; TMPDIR says where it should be", t->folder);
    if (!status) {
        status = run_trial(t, e);
        writer_abort(&t->judged);
        io_remove_tree(t->folder, &ignored);
    }
    prompts_close(&t->loop.prompts);
    text_free(&t->line);
    mem_free(t->rows);
    mem_free(t);
    return status;
}
