/* cycle_plan.c - what a run would do and cost, from a trial in small: --dry-run.
 *
 * The longest training prompts are answered for the clock; their answers, labelled by turns good
 * and bad, become rows; each candidate's training plans its memory with them and takes a few steps
 * for the clock. All of that happens in a scratch directory that is removed. RUN is not touched.
 *
 * Counts of answers are exact. Counts of rows are the most there can be: every sample a KTO row,
 * every prompt a pair; balance and equal scores make fewer.
 */
#include "cycle_parts.h"

#include <stdlib.h>
#include <string.h>

enum { TRIAL_PROMPTS = 8, TRIAL_STEPS = 3 };

/* A trial at work. */
typedef struct {
    Loop loop;
    CyclePlan *plan;
    char folder[IO_PATH_MAX]; /* scratch */
    Writer judged;
    const Tokenizer *tokenizer;
    const Dataset *data;
    const Row **rows; /* [n] the trial's prompts */
    size_t n;
    Text line;
} Trial;

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
    size_t samples = cycles * p->per_cycle * c->sample.samples;
    size_t validated = (1 + cycles * methods) * split[SPLIT_VALIDATION];
    size_t tested = 2 * split[SPLIT_TEST];
    p->answers = samples + validated + tested;
    p->read_tokens = (double)(cycles * p->per_cycle) * mean[SPLIT_TRAIN] +
                     (double)validated * mean[SPLIT_VALIDATION] + (double)tested * mean[SPLIT_TEST];
    p->written_tokens = (double)p->answers * (double)c->sample.max_tokens;
    p->generate_seconds = p->seconds_per_answer * (double)p->answers;
    for (int m = 0; m < CYCLE_METHODS; m++) {
        if (!(c->methods >> m & 1)) continue;
        size_t rows = m == CYCLE_KTO ? p->per_cycle * c->sample.samples : p->per_cycle;
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
    char path[IO_PATH_MAX];
    GenerateOptions o = t->loop.c->sample;
    GenerateSink sink = {t, answer_done, NULL};
    Generator g = {.model = &p->model,
                   .lora = p->has_lora ? &p->lora : NULL,
                   .tokenizer = p->tokenizer,
                   .compute = &p->compute};
    o.samples = 2;
    o.seed = t->loop.c->seed;
    g.options = o;
    for (size_t i = 0; i < t->n; i++)
        prompts[i] = (Prompt){t->rows[i]->prompt, t->rows[i]->n_prompt, t->rows[i]->index};
    if (io_path(path, sizeof path, t->folder, "judged.jsonl", e) ||
        writer_open(&t->judged, path, e))
        return -1;
    double began = time_now();
    if (generate_run(&g, prompts, t->n, &sink, e) || writer_commit(&t->judged, e)) return -1;
    double answers = 2 * (double)t->n;
    t->plan->seconds_per_answer = (time_now() - began) / answers;
    t->plan->answer_tokens /= answers;
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
    char(*path)[IO_PATH_MAX] = mem_alloc(2 * sizeof *path, e);
    TrainConfig x = c->train[method];
    TrainResult result;
    double *seconds = &t->plan->seconds_per_step[method];
    const TrainEvents events = {.ctx = seconds, .progress = trial_progress};
    if (!path ||
        io_path(path[0], IO_PATH_MAX, t->folder, method == CYCLE_KTO ? "kto.jsonl" : "dpo.jsonl",
                e) ||
        io_path(path[1], IO_PATH_MAX, t->folder, cycle_method_names[method], e))
        return mem_free(path), -1;
    x.method = method == CYCLE_KTO ? TRAIN_KTO : TRAIN_DPO;
    x.model = c->model;
    x.model_flags = c->model_flags;
    x.data = path[0];
    x.run = path[1];
    x.rows.chat_template = c->chat_template;
    x.init_adapter = c->adapter;
    x.reference = c->reference_base ? REFERENCE_BASE : REFERENCE_INIT;
    x.seed = c->seed;
    x.kernel = c->kernel;
    x.precision = c->precision;
    x.steps = TRIAL_STEPS;
    x.dry_run = 1;
    int status = train_run(&x, &events, &result, e);
    t->plan->memory[method] = result.plan;
    x.dry_run = 0;
    if (!status) status = train_run(&x, &events, &result, e);
    if (status && e->code == ERR_DIVERGED) status = 0; /* the clock was what mattered */
    mem_free(path);
    return status;
}

static int train_trials(Trial *t, Err *e)
{
    char judged[IO_PATH_MAX], kto[IO_PATH_MAX], dpo[IO_PATH_MAX];
    PreferenceReport r;
    PreferenceOptions o = prefer_options(&t->loop, 0);
    o.balance = 0;
    if (io_path(judged, sizeof judged, t->folder, "judged.jsonl", e) ||
        io_path(kto, sizeof kto, t->folder, "kto.jsonl", e) ||
        io_path(dpo, sizeof dpo, t->folder, "dpo.jsonl", e) ||
        cycle_preferences(judged, kto, dpo, &o, &r, e))
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
    const AdapterAt first = {{0}, c->adapter};
    Dataset data;
    if (loop_find_chat(&t->loop, e) || prompts_open(&t->loop.prompts, c, e)) return -1;
    Policy *p = policy_open(&t->loop, &first, e);
    if (!p) return -1;
    const DataOptions rows = {.kind = DATA_PROMPTS,
                              .max_length = p->model.config.max_positions,
                              .raw = c->raw,
                              .chat_template = c->chat_template,
                              .system = c->system};
    if (data_load(&data, c->prompts, &rows, p->tokenizer, &t->loop.events->log, e))
        return policy_close(p), -1;
    t->data = &data;
    t->tokenizer = p->tokenizer;
    count_rows(t);
    int status = choose_prompts(t, e) || answer_trial(t, p, e) ? -1 : 0;
    policy_close(p);
    if (!status) status = train_trials(t, e);
    if (!status) add_up(t);
    data_close(&data);
    return status;
}

int cycle_plan(const CycleConfig *c, const CycleEvents *events, CyclePlan *plan, Err *e)
{
    static const CycleEvents silent;
    const char *scratch = getenv("TMPDIR");
    Err ignored;
    *plan = (CyclePlan){0};
    if (cycle_config_check(c, e)) return -1;
    Trial *t = mem_calloc(1, sizeof *t, e);
    if (!t) return -1;
    t->loop.c = c;
    t->loop.events = events ? events : &silent;
    t->plan = plan;
    int status = io_path(t->folder, sizeof t->folder, scratch && *scratch ? scratch : "/tmp",
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
