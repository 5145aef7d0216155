/* train_plan.c - plans the memory of a run, and refuses before the first step what does not fit.
 *
 * Every micro-batch of the run is packed once, and the heaviest go through the model on a counting
 * tape: the same program as a step, which then measures and computes nothing. So a row that does
 * not fit stops the run now, and not at step 4,000. Of a run of a great many micro-batches the
 * first ones are planned, an epoch at least, and later as many again whenever the run gets there.
 */
#include "train_parts.h"

#include <stdio.h>
#include <string.h>

/* Micro-batches that are planned at once, and their tokens: some seconds of work. */
#define PLAN_BATCHES 200000
#define PLAN_TOKENS 200000000
/* Three times the bytes of a line of metrics.jsonl with all its keys. */
#define LONGEST_LINE 4096
/* Weight, gradient, AdamW's two moments, and the last good weight. */
#define TRAINED_COPIES 5

/* The sizes with which the memory of a pass grows. Rows without a gradient (dead) lie beside the
 * live ones in separate buffers, so more of them may outweigh fewer rows in total. */
typedef enum {
    SIZE_T,
    SIZE_SEGMENTS,
    SIZE_LIVE,
    SIZE_DEAD,
    SIZE_SCORES,
    SIZE_LIVE_SCORES,
    SIZE_DEAD_SCORES,
    SIZE_ASKED,      /* rows that the head reads */
    SIZE_LIVE_ASKED, /* those with a gradient */
    SIZE_GATHERED,   /* rows copied for the last layer: the asked ones, or none where all are */
    SIZE_COUNT
} Size;

/* The needs of the passes seen so far. */
typedef struct {
    size_t size[SIZE_COUNT]; /* of the heaviest batch that was measured */
    size_t keep, recompute;  /* bytes of its pass */
    size_t head;             /* of these, for the scored tokens */
} Heaviest;

typedef struct Needs {
    Heaviest heaviest[PASS_COUNT];
    size_t node_bytes, scores;
} Needs;

/* ---- measuring ----------------------------------------------------------------------------- */

typedef struct {
    Run *r;
    PassKind pass;
    int keep;
} Measured;

/* Runs a pass of the packed batch, and its walk back. */
static Var *measured_pass(Tape *t, void *ctx)
{
    const Measured *m = ctx;
    t->keep = m->keep;
    Var *y = run_forward(m->r, t, m->pass, 0, NULL);
    if (m->pass == PASS_TRAIN) tape_backward(t, y, m->r->gradient);
    return y;
}

/* Returns the bytes of that pass. */
static int measure(Run *r, const Batch *b, PassKind pass, int keep, size_t *bytes, Err *e)
{
    TapeNeed need;
    Measured m = {r, pass, keep};
    if (tape_count(&r->engine.compute, model_node_bytes(&r->engine.model, b), measured_pass, &m,
                   &need, e))
        return -1;
    *bytes = need.bytes;
    return 0;
}

/* Counts the rows that the head reads for the first `scores`: the completions of one prompt begin
 * at the same row. seen [T] must be zero, and afterwards marks the counted rows. */
static size_t count_asked(const Batch *b, size_t first, size_t scores, unsigned char *seen)
{
    size_t asked = 0;
    for (size_t i = first; i < scores; i++) {
        asked += !seen[b->score_row[i]];
        seen[b->score_row[i]] = 1;
    }
    return asked;
}

static int find_sizes(const Batch *b, size_t size[SIZE_COUNT], Err *e)
{
    size_t live = b->live_T ? b->live_T : b->T, scores = b->live_T ? b->live_scores : b->n_scores;
    unsigned char *seen = mem_calloc(b->T, 1, e);
    if (!seen) return -1;
    size[SIZE_T] = b->T;
    size[SIZE_SEGMENTS] = b->n_segments;
    size[SIZE_LIVE] = live;
    size[SIZE_DEAD] = b->T - live;
    size[SIZE_SCORES] = b->n_scores;
    size[SIZE_LIVE_SCORES] = scores;
    size[SIZE_DEAD_SCORES] = b->n_scores - scores;
    size[SIZE_LIVE_ASKED] = count_asked(b, 0, scores, seen);
    size[SIZE_ASKED] = size[SIZE_LIVE_ASKED] + count_asked(b, scores, b->n_scores, seen);
    size[SIZE_GATHERED] = size[SIZE_ASKED] < b->T ? size[SIZE_ASKED] : 0;
    mem_free(seen);
    return 0;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Takes the packed batch into account. A batch no larger in any way than the heaviest one needs no
 * measuring: every value of a pass has a number of rows that rises with one of the sizes. */
static int weigh(Run *r, Needs *needs, PassKind pass, Err *e)
{
    const Batch *b = &r->packer.batch;
    Heaviest *h = &needs->heaviest[pass];
    size_t keep, recompute, size[SIZE_COUNT], within = 0;
    needs->node_bytes = larger(needs->node_bytes, model_node_bytes(&r->engine.model, b));
    needs->scores = larger(needs->scores, b->n_scores);
    if (find_sizes(b, size, e)) return -1;
    for (size_t i = 0; i < SIZE_COUNT; i++) within += size[i] <= h->size[i];
    if (within == SIZE_COUNT) return 0;
    if (measure(r, b, pass, 1, &keep, e) || measure(r, b, pass, 0, &recompute, e)) return -1;
    if (recompute <= h->recompute && keep <= h->keep) return 0;
    memcpy(h->size, size, sizeof size);
    h->keep = larger(h->keep, keep);
    h->recompute = larger(h->recompute, recompute);
    size_t head = tensor_logprob_scratch(b->n_scores, 1) + b->n_scores * sizeof(real) +
                  size[SIZE_LIVE_SCORES] * r->engine.model.config.H *
                      sizeof(real); /* and directions */
    h->head = head < recompute ? head : recompute;
    return 0;
}

/* ---- the passes of a run ------------------------------------------------------------------- */

/* Takes into account a micro-batch and, with HALOs' pairing, the pass of its partners through the
 * reference.
 */
static int weigh_micro_batch(Run *r, Needs *needs, const TrainSet *set, const uint32_t *rows,
                             size_t n, PassKind pass, Err *e)
{
    if (run_pack(r, set, rows, n, e) || weigh(r, needs, pass, e)) return -1;
    if (r->c.method != TRAIN_KTO || !kto_needs_kl(r->c.kto.loss) || set->partner) return 0;
    return run_pack_partners(r, set, rows, n, e) || weigh(r, needs, PASS_REFERENCE, e) ? -1 : 0;
}

/* Takes a step into account; *tokens += the tokens of its micro-batches. */
static int weigh_step(Run *r, size_t step, unsigned char *needed, uint64_t *tokens, Err *e)
{
    for (size_t k = 0; k < run_window(r, step); k++) {
        const uint32_t *rows;
        if (stop_requested)
            return err_set(e, ERR_INTERRUPTED, "interrupted while planning, before step %zu",
                           r->state.step + 1);
        size_t n = run_rows(r, step, k, &rows);
        for (size_t i = 0; needed && i < n; i++) needed[rows[i]] = 1;
        /* Takes into account that weights are tried on rows of a step before they are kept:
         * run_policy_sums. */
        if (run_pack(r, &r->train, rows, n, e) || weigh(r, r->needs, PASS_POLICY, e) ||
            weigh_micro_batch(r, r->needs, &r->train, rows, n, PASS_TRAIN, e))
            return -1;
        *tokens += r->packer.batch.T;
    }
    return 0;
}

/* Takes the next steps into account: all, or an epoch and then as many as fit the limits above.
 * needed (or NULL) marks their rows. */
static int weigh_steps(Run *r, unsigned char *needed, Err *e)
{
    size_t first = r->state.step, most = r->c.plan_batches ? r->c.plan_batches : PLAN_BATCHES;
    uint64_t tokens = 0;
    for (size_t step = first; step < r->steps; step++) {
        r->planned = step;
        int full = (step - first) * r->c.accumulate >= most || tokens >= PLAN_TOKENS;
        if (full && step - first >= r->epoch_steps) return 0;
        if (weigh_step(r, step, needed, &tokens, e)) return -1;
    }
    r->planned = r->steps;
    return 0;
}

static int weigh_evaluation(Run *r, Needs *needs, Err *e)
{
    size_t count = r->eval.rows.count;
    for (size_t b = 0; count && b < run_batch_count(r, count); b++) {
        size_t first, n = run_batch_size(r, count, b, &first);
        for (size_t i = 0; i < n; i++) r->eval_order[i] = (uint32_t)(first + i);
        if (weigh_micro_batch(r, needs, &r->eval, r->eval_order, n, PASS_POLICY, e)) return -1;
    }
    return 0;
}

static int weigh_reference(Run *r, Needs *needs, const TrainSet *set, const unsigned char *needed,
                           Err *e)
{
    for (size_t from = 0; r->c.method != TRAIN_SFT && from < set->rows.count; from += r->c.batch) {
        size_t n = 0;
        for (size_t i = from; i < set->rows.count && i < from + r->c.batch; i++)
            if (!needed || needed[i]) r->items[n++] = reference_item(r, set, i);
        if (n == 0) continue;
        if (items_pack(&r->packer, r->items, n, e) || weigh(r, needs, PASS_REFERENCE, e)) return -1;
    }
    return 0;
}

/* ---- what there is ------------------------------------------------------------------------- */

/* Reads the number after `key` in a text file of the system; 0 if there is none. */
static uint64_t system_number(const char *path, const char *key)
{
    char line[256];
    unsigned long long value = 0;
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f)) {
        size_t len = strlen(key);
        if (strncmp(line, key, len)) continue;
        if (sscanf(line + len, "%llu", &value) != 1) value = 0;
        break;
    }
    if (f) fclose(f);
    return value;
}

/* Returns the memory available without swapping, as Linux estimates it, within the limit of the
 * control group. 0 if the system does not say. */
static uint64_t memory_available(void)
{
    uint64_t available = system_number("/proc/meminfo", "MemAvailable:") * 1024;
    uint64_t limit = system_number("/sys/fs/cgroup/memory.max", "");
    return limit && (!available || limit < available) ? limit : available;
}

/* ---- the plan ------------------------------------------------------------------------------ */

static uint64_t other_bytes(const Run *r, const Needs *needs)
{
    const Packer *p = &r->packer;
    uint64_t rows = r->train.rows.count + r->eval.rows.count;
    uint64_t packer = p->cap_ids * sizeof(int32_t) + p->cap_segments * sizeof(Segment) +
                      p->cap_scores * 2 * sizeof(int32_t);
    return r->train.rows.pool.total + r->eval.rows.pool.total +
           rows * (sizeof(Row) + 2 * sizeof(double) + sizeof(size_t) + sizeof(uint32_t)) + packer +
           (uint64_t)r->engine.model.rope_positions * r->engine.model.config.D * sizeof(real) +
           needs->node_bytes + needs->scores * 2 * sizeof(real) +
           (uint64_t)threads_count() * r->engine.compute.scratch_size +
           (r->engine.tokenizer ? tokenizer_bytes(r->engine.tokenizer) : 0);
}

/* Whole weights that an adapter holds. */
static uint64_t saved_bytes(const Lora *l)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < l->n_saved; i++) bytes += mat_bytes(&l->saved[i].w);
    return bytes;
}

/* Decides to keep activations if they fit, and to recompute them if not. */
static void decide(Run *r, const Needs *needs)
{
    TrainPlan *p = &r->plan;
    uint64_t limit = p->limit; /* of an earlier plan, before the run took memory itself */
    const Heaviest *h = needs->heaviest;
    *p = (TrainPlan){.rows = r->train.rows.count,
                     .eval_rows = r->eval.rows.count,
                     .epoch_steps = r->epoch_steps,
                     .steps = r->steps,
                     .tokens = h[PASS_TRAIN].size[SIZE_T],
                     .scores = h[PASS_TRAIN].size[SIZE_SCORES],
                     .head = h[PASS_TRAIN].head,
                     .weights = r->engine.model.weight_bytes + saved_bytes(&r->frozen),
                     .trained = ((uint64_t)r->params.count * TRAINED_COPIES +
                                 r->policy.lengths_count) *
                                sizeof(real),
                     .other = other_bytes(r, needs)};
    p->limit = limit ? limit : r->c.memory ? r->c.memory : memory_available();
    for (p->keep = 1;; p->keep = 0) {
        size_t arena = p->keep ? h[PASS_TRAIN].keep : h[PASS_TRAIN].recompute;
        arena = larger(arena, larger(h[PASS_POLICY].recompute, h[PASS_REFERENCE].recompute));
        p->activations = arena - p->head;
        p->total = p->weights + p->trained + p->activations + p->head + p->other;
        if (!p->keep || !p->limit || p->total <= p->limit) return;
    }
}

static int check_fits(const Run *r, Err *e)
{
    const TrainPlan *p = &r->plan;
    const double mib = 1024 * 1024;
    if (!p->limit || p->total <= p->limit || r->c.force) return 0;
    return err_set(e, ERR_MEMORY,
                   "memory: this run needs %.0f MiB (weights %.0f, trained %.0f, a micro-batch of "
                   "%zu tokens %.0f, other %.0f), %.0f MiB are %s; lower --batch, --max-length, "
                   "--rank or --threads, or go on with --force",
                   (double)p->total / mib, (double)p->weights / mib, (double)p->trained / mib,
                   p->tokens, (double)(p->activations + p->head) / mib, (double)p->other / mib,
                   (double)p->limit / mib, r->c.memory ? "allowed by --memory" : "available");
}

/* Finds the longest sequence that a set can give, and the line of its prompt. KTO's halos pairing
 * may put any completion after any prompt. */
static size_t longest_sequence(const Run *r, const TrainSet *set, size_t *line)
{
    int any_partner = r->c.method == TRAIN_KTO && r->c.kl_pairing == KTO_HALOS;
    size_t longest = 0, longest_completion = 0, max = r->c.rows.max_length;
    *line = 0;
    for (size_t i = 0; i < set->rows.count; i++)
        longest_completion = larger(longest_completion, set->rows.rows[i].n_uncut[0]);
    for (size_t i = 0; i < set->rows.count; i++) {
        Item item = reference_item(r, set, i);
        size_t length = any_partner ? item.n_prompt + longest_completion : 0;
        if (max && length > max) length = max;
        for (size_t k = 0; k < item.n; k++)
            length = larger(length, item.n_prompt + item.n_completion[k]);
        if (length <= longest) continue;
        longest = length;
        *line = set->rows.rows[i].line;
    }
    return longest;
}

static int reserve_positions(Run *r, const TrainSet *set, const char *path, Err *e)
{
    size_t line, longest = longest_sequence(r, set, &line);
    if (!model_reserve_positions(&r->engine.model, longest, e)) return 0;
    return err_prefix(e, "%s: line %zu", path, line);
}

/* Allocates arrays by row of a micro-batch; a single last row may join the batch before it. */
static int allocate_rows(Run *r, Err *e)
{
    size_t n = r->c.batch + 1;
    r->cap_items = n;
    r->items = mem_calloc(n, sizeof *r->items, e);
    r->pairs = mem_calloc(n, sizeof *r->pairs, e);
    r->pair_results = mem_calloc(n, sizeof *r->pair_results, e);
    r->pair_order = mem_calloc(2 * n, sizeof *r->pair_order, e);
    r->kto_rows = mem_calloc(n, sizeof *r->kto_rows, e);
    r->kto_results = mem_calloc(n, sizeof *r->kto_results, e);
    r->kl_policy = mem_calloc(n, sizeof *r->kl_policy, e);
    r->kl_reference = mem_calloc(n, sizeof *r->kl_reference, e);
    r->sums = mem_calloc(n, sizeof *r->sums, e);
    r->first_sums = mem_calloc(n, sizeof *r->first_sums, e);
    r->eval_order = mem_calloc(n, sizeof *r->eval_order, e);
    r->order = mem_calloc(r->train.rows.count, sizeof *r->order, e);
    r->order_epoch = SIZE_MAX;
    return r->items && r->pairs && r->pair_results && r->pair_order && r->kto_rows &&
                   r->kto_results && r->kl_policy && r->kl_reference && r->sums && r->first_sums &&
                   r->eval_order && r->order
               ? 0
               : -1;
}

static int allocate_step(Run *r, const Needs *needs, Err *e)
{
    const TrainPlan *p = &r->plan;
    r->gradient = mem_calloc(needs->scores, sizeof *r->gradient, e);
    r->square = mem_calloc(needs->scores, sizeof *r->square, e);
    if (!r->gradient || !r->square ||
        tape_open(&r->tape, &r->engine.compute, (size_t)(p->activations + p->head),
                  needs->node_bytes, e))
        return -1;
    r->taping = 1;
    r->tape.keep = p->keep;
    int failed = text_addf(&r->line, e, "%*s", LONGEST_LINE, ""); /* so it never grows */
    r->line.len = 0;
    return failed;
}

int plan_run(Run *r, unsigned char *needed, Err *e)
{
    real unread[1] = {0}; /* a counting tape does not look at its arrays */
    r->needs = mem_calloc(1, sizeof *r->needs, e);
    if (!r->needs || allocate_rows(r, e) || reserve_positions(r, &r->train, r->c.data, e) ||
        reserve_positions(r, &r->eval, r->c.eval, e))
        return -1;
    r->gradient = r->square = unread;
    int failed = weigh_steps(r, needed, e) || weigh_evaluation(r, r->needs, e) ||
                 weigh_reference(r, r->needs, &r->train, needed, e) ||
                 weigh_reference(r, r->needs, &r->eval, NULL, e);
    r->gradient = r->square = NULL;
    if (failed) return -1;
    decide(r, r->needs);
    if (r->planned < r->steps)
        log_note(&r->events->log, 'i',
                 "memory is planned for %zu of %zu steps, and for the others when they come",
                 r->planned, r->steps);
    if (r->events->plan) r->events->plan(r->events->ctx, &r->plan);
    if (check_fits(r, e)) return -1;
    return r->c.dry_run ? 0 : allocate_step(r, r->needs, e);
}

int plan_further(Run *r, Err *e)
{
    real unread[1] = {0}, *gradient = r->gradient, *square = r->square;
    const Needs had = *r->needs;
    if (r->state.step < r->planned) return 0;
    r->gradient = r->square = unread;
    int failed = weigh_steps(r, NULL, e);
    r->gradient = gradient;
    r->square = square;
    if (failed || !memcmp(&had, r->needs, sizeof had)) return failed ? -1 : 0;
    decide(r, r->needs);
    if (check_fits(r, e)) return err_prefix(e, "step %zu", r->state.step + 1);
    tape_close(&r->tape);
    r->taping = 0;
    mem_free(r->gradient);
    mem_free(r->square);
    r->gradient = r->square = NULL;
    return allocate_step(r, r->needs, e);
}
