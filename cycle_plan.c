/* cycle_plan.c - what a run would do and cost, from a trial in small: --dry-run.
 *
 * The longest training prompts are answered for the clock; the judges label these answers, and the
 * guard's first questions are scored, for the clock, too. Then the answers, labelled by turns good
 * and bad, become rows; each candidate's training plans its memory with them and takes a few steps.
 * All of that happens in a scratch directory that is removed. RUN is not touched, and no command is
 * asked: it may cost money, and prompts may hold patient data.
 *
 * Counts of answers are exact, but for revisions. Counts of rows are the most there can be: every
 * sample a KTO row, every prompt a pair; balance and equal scores make fewer.
 */
#include "cycle_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TRIAL_PROMPTS = 8, TRIAL_SAMPLES = 2, TRIAL_STEPS = 3, TRIAL_QUESTIONS = 16 };

enum { SCRATCH_PATHS = 4, SCRATCH_NAME = 32 };

/* A trial at work. */
typedef struct {
    Loop loop;
    CyclePlan *plan;
    char folder[IO_PATH_MAX - SCRATCH_NAME];
    char paths[SCRATCH_PATHS][IO_PATH_MAX];
    size_t turn;
    Writer judged;
    const Tokenizer *tokenizer;
    const Dataset *data;
    const Row **rows; /* [n] the trial's prompts */
    size_t n;
    size_t thumbs; /* rows of feedback */
    Text line;
} Trial;

/* The path of a scratch file, whose name is short; the last four stay valid. */
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

/* Steps of a candidate's training on at most n rows. */
static size_t steps_of(const TrainConfig *c, size_t n)
{
    size_t step_rows = c->batch * c->accumulate;
    if (c->steps) return c->steps;
    return (size_t)(c->epochs * (double)((n + step_rows - 1) / step_rows));
}

/* Seconds for each item so far become those of all, `times` opened anew. */
static void total_work(PlannedWork *w, size_t times)
{
    w->seconds = w->seconds * (double)w->count + w->seconds_to_open * (double)times;
}

/* Everything that follows from the counts and the trial's figures. */
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
        int help = c->demonstrations || c->revise; /* one answer more where every sample fails */
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

/* The longest training prompts: what decides memory, and errs on the slow side of time. */
static int choose_prompts(Trial *t, Err *e)
{
    size_t n = 0;
    t->rows = mem_calloc(t->data->count + 1, sizeof *t->rows, e);
    if (!t->rows) return -1;
    for (size_t i = 0; i < t->data->count; i++)
        if (t->loop.prompts.rows[t->data->rows[i].index].split == SPLIT_TRAIN)
            t->rows[n++] = &t->data->rows[i];
    sort_items(t->rows, n, sizeof *t->rows, by_length);
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

static int answer_trial(Trial *t, Policy *p, Err *e)
{
    Prompt prompts[TRIAL_PROMPTS];
    GenerateOptions o = t->loop.c->sample;
    GenerateSink sink = {t, answer_done, NULL};
    o.samples = TRIAL_SAMPLES;
    o.seed = t->loop.c->seed;
    Generator g = policy_generator(p, &o);
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
    if (!strcmp(config->kind, "command")) return 0;
    int status = loop_judge(&t->loop, config, &here, path, e);
    here.answers = NULL; /* nothing is kept of a trial */
    status = status || judge_open(&judge, &here, e);
    w->seconds_to_open = time_now() - began;
    if (!status)
        status = judge_file(&judge, scratch(t, "judged.jsonl"), scratch(t, "labels.jsonl"), NULL,
                            &report, e);
    if (!status) w->seconds = (time_now() - began - w->seconds_to_open) / (double)report.rows;
    judge_close(&judge);
    return status ? -1 : 0;
}

/* The first lines of a file, as many as hold n rows, into another; *share of its bytes. */
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
static int guard_trial(Trial *t, Policy *p, Err *e)
{
    const CycleConfig *c = t->loop.c;
    PlannedWork *w = &t->plan->guard;
    const char *first = scratch(t, "questions.jsonl"), *rows = scratch(t, "guard.jsonl");
    size_t counts[GUARD_KINDS];
    double share;
    if (cycle_guard_rows(c->guard, rows, t->loop.chat, c->system, counts, e)) return -1;
    w->count = counts[GUARD_CHOICES] + counts[GUARD_ANSWERS];
    if (copy_rows(c->guard, first, TRIAL_QUESTIONS, &share, e) ||
        cycle_guard_rows(first, rows, t->loop.chat, c->system, counts, e))
        return -1;
    double began = time_now();
    if (guard_score(&t->loop, p, rows, scratch(t, "scores.jsonl"), e)) return -1;
    w->seconds = (time_now() - began) / share / (double)w->count;
    return 0;
}

static int count_thumb(void *ctx, const Json *row, size_t line, Err *e)
{
    (void)row, (void)line, (void)e;
    ++*(size_t *)ctx;
    return 0;
}

/* ---- training ------------------------------------------------------------------------------ */

/* Times the steps themselves: loading and the reference's log-probs come once a run. */
static void trial_progress(void *ctx, const TrainProgress *p)
{
    double *seconds = ctx;
    if (!strcmp(p->phase, "train") && p->done) *seconds = p->seconds / (double)p->done;
}

/* Plans a candidate's memory, then takes a few steps. */
static int train_trial(Trial *t, int method, Err *e)
{
    const CycleConfig *c = t->loop.c;
    TrainConfig x = cycle_train_config(c, method);
    TrainResult result;
    double *seconds = &t->plan->seconds_per_step[method];
    const TrainEvents events = {.ctx = seconds, .progress = trial_progress};
    x.data = scratch(t, method == CYCLE_KTO ? "kto.jsonl" : "dpo.jsonl");
    x.run = scratch(t, cycle_method_names[method]);
    x.init_adapter = c->adapter;
    x.steps = TRIAL_STEPS;
    x.dry_run = 1;
    int status = train_run(&x, &events, &result, e);
    t->plan->memory[method] = result.plan;
    x.dry_run = 0;
    if (!status) status = train_run(&x, &events, &result, e);
    if (status && e->code == ERR_DIVERGED) status = 0; /* the clock was what mattered */
    return status;
}

static int train_trials(Trial *t, Err *e)
{
    PreferenceReport r;
    PreferenceOptions o = prefer_options(&t->loop, 0);
    o.balance = 0;
    if (cycle_preferences(scratch(t, "judged.jsonl"), scratch(t, "kto.jsonl"),
                          scratch(t, "dpo.jsonl"), &o, &r, e))
        return -1;
    for (int m = 0; m < CYCLE_METHODS; m++) {
        int enough = m == CYCLE_KTO ? r.desirable && r.undesirable : r.pairs > 0;
        if ((t->loop.c->methods >> m & 1) && enough && train_trial(t, m, e))
            return err_prefix(e, "trial of %s", cycle_method_names[m]);
    }
    return 0;
}

/* ---- the whole ----------------------------------------------------------------------------- */

static int run_trial(Trial *t, Err *e)
{
    const CycleConfig *c = t->loop.c;
    Dataset data;
    t->loop.policy.outside = c->adapter;
    if (loop_find_chat(&t->loop, e) || prompts_open(&t->loop.prompts, c, e) ||
        (c->feedback && jsonl_each(c->feedback, count_thumb, &t->thumbs, NULL, e)))
        return -1;
    Policy *p = policy_open(&t->loop, &t->loop.policy, e);
    if (!p) return -1;
    const DataOptions rows = policy_prompts(p, c, c->system);
    t->loop.context = p->model.config.max_positions;
    if (prompts_check_fit(&t->loop, c->prompts, e) ||
        data_load(&data, c->prompts, &rows, p->tokenizer, &t->loop.events->log, e))
        return policy_close(p), -1;
    t->data = &data;
    t->tokenizer = p->tokenizer;
    count_rows(t);
    int status =
        choose_prompts(t, e) || answer_trial(t, p, e) || (c->guard && guard_trial(t, p, e));
    policy_close(p);
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
    if (cycle_config_check(c, e)) return -1;
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
