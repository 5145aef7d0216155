/* train_plan.c - memory: known before the first step, or refused.
 *
 * Every micro-batch of the run is packed once, and the heaviest go through the model on a counting
 * tape: the very program of a step, that measures and computes nothing. So a row that does not fit
 * stops the run now, and not at step 4,000.
 */
#include "train_parts.h"

#include <stdio.h>
#include <string.h>

/* Bytes of a line of metrics.jsonl with all its keys, three times over. */
#define LONGEST_LINE 4096

/* What the passes seen so far need. */
typedef struct {
    /* Of the heaviest batch that was measured. Rows without a gradient (dead) lie beside the live
     * ones in buffers of their own: more of them may outweigh fewer rows in all. */
    size_t T, segments, live, dead, scores, live_scores, dead_scores, asked;
    size_t keep, recompute; /* bytes of its pass */
    size_t head;            /* of which for the scored tokens */
} Heaviest;

/* The passes that a run makes: with a walk back; without; without, through the reference. */
typedef enum { PASS_TRAIN, PASS_POLICY, PASS_REFERENCE, PASS_COUNT } PassKind;

typedef struct {
    Heaviest heaviest[PASS_COUNT];
    size_t node_bytes, scores;
} Needs;

/* ---- measuring ----------------------------------------------------------------------------- */

/* Bytes of one pass of the packed batch. */
static int measure(Run *r, const Batch *b, PassKind pass, int keep, size_t *bytes, Err *e)
{
    Tape t;
    int record = pass == PASS_TRAIN;
    const Lora *lora = pass == PASS_REFERENCE ? run_reference_adapter(r)
                       : r->has_policy        ? &r->policy
                                              : NULL;
    if (tape_open(&t, &r->compute, 0, model_node_bytes(&r->model, b), e)) return -1;
    t.record = record;
    t.keep = keep;
    real *square = r->c.method == TRAIN_DPO && r->c.dpo.wpo ? r->square : NULL;
    Var *y = model_logprob(&t, &r->model, lora, b, square);
    if (record) tape_backward(&t, y, r->gradient);
    *bytes = tape_peak(&t);
    int status = tape_check(&t, e);
    tape_close(&t);
    return status;
}

/* Rows that the head reads: scores of one prompt's completions begin at the same row. */
static int count_asked(const Batch *b, size_t *asked, Err *e)
{
    unsigned char *seen = mem_calloc(b->T, 1, e);
    if (!seen) return -1;
    *asked = 0;
    for (size_t i = 0; i < b->n_scores; i++) {
        *asked += !seen[b->score_row[i]];
        seen[b->score_row[i]] = 1;
    }
    mem_free(seen);
    return 0;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Takes the packed batch into account. A batch no larger in any way than the heaviest one needs no
 * measuring. */
static int weigh(Run *r, Needs *needs, PassKind pass, Err *e)
{
    const Batch *b = &r->packer.batch;
    Heaviest *h = &needs->heaviest[pass];
    size_t nodes = model_node_bytes(&r->model, b), keep, recompute;
    if (nodes > needs->node_bytes) needs->node_bytes = nodes;
    if (b->n_scores > needs->scores) needs->scores = b->n_scores;
    size_t live = b->live_T ? b->live_T : b->T, asked;
    if (count_asked(b, &asked, e)) return -1;
    size_t live_scores = b->live_T ? b->live_scores : b->n_scores;
    if (b->T <= h->T && b->n_segments <= h->segments && live <= h->live &&
        b->T - live <= h->dead && b->n_scores <= h->scores && live_scores <= h->live_scores &&
        b->n_scores - live_scores <= h->dead_scores && asked <= h->asked)
        return 0;
    if (measure(r, b, pass, 1, &keep, e) || measure(r, b, pass, 0, &recompute, e)) return -1;
    if (recompute <= h->recompute && keep <= h->keep) return 0;
    h->T = b->T;
    h->segments = b->n_segments;
    h->live = live;
    h->dead = b->T - live;
    h->scores = b->n_scores;
    h->live_scores = live_scores;
    h->dead_scores = b->n_scores - live_scores;
    h->asked = asked;
    if (keep > h->keep) h->keep = keep;
    if (recompute > h->recompute) h->recompute = recompute;
    size_t head = tensor_logprob_scratch(b->n_scores, 1) + b->n_scores * sizeof(real) +
                  live_scores * r->model.config.H * sizeof(real); /* log-probs, directions */
    h->head = head < recompute ? head : recompute;
    return 0;
}

/* ---- the passes of a run ------------------------------------------------------------------- */

/* A micro-batch, and the pass of its partners through the reference where HALOs' pairing makes one.
 */
static int weigh_micro_batch(Run *r, Needs *needs, const TrainSet *set, const uint32_t *rows,
                             size_t n, PassKind pass, Err *e)
{
    if (run_pack(r, set, rows, n, e) || weigh(r, needs, pass, e)) return -1;
    if (r->c.method != TRAIN_KTO || !kto_needs_kl(r->c.kto.loss) || set->partner) return 0;
    return run_pack_partners(r, set, rows, n, e) || weigh(r, needs, PASS_REFERENCE, e) ? -1 : 0;
}

static int weigh_steps(Run *r, Needs *needs, unsigned char *needed, Err *e)
{
    for (size_t step = 0; step < r->steps; step++)
        for (size_t k = 0; k < run_window(r, step); k++) {
            const uint32_t *rows;
            if (stop_requested)
                return err_set(e, ERR_INTERRUPTED, "interrupted while planning, before step 1");
            size_t n = run_rows(r, step, k, &rows);
            for (size_t i = 0; i < n; i++) needed[rows[i]] = 1;
            if (weigh_micro_batch(r, needs, &r->train, rows, n, PASS_TRAIN, e)) return -1;
        }
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

/* The number after `key` in a text file of the system; 0 where there is none. */
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

/* Memory that can be had without swapping, as Linux estimates it, within the limit of the control
 * group. 0 where the system does not say. */
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
           (uint64_t)r->model.rope_positions * r->model.config.D * sizeof(real) +
           needs->node_bytes + needs->scores * 2 * sizeof(real) +
           (uint64_t)threads_count() * r->compute.scratch_size +
           (r->tokenizer ? tokenizer_bytes(r->tokenizer) : 0);
}

/* Keeps activations where they fit, recomputes them where they do not. */
static void decide(Run *r, const Needs *needs)
{
    TrainPlan *p = &r->plan;
    const Heaviest *h = needs->heaviest;
    *p = (TrainPlan){.rows = r->train.rows.count,
                     .eval_rows = r->eval.rows.count,
                     .epoch_steps = r->epoch_steps,
                     .steps = r->steps,
                     .tokens = h[PASS_TRAIN].T,
                     .scores = h[PASS_TRAIN].scores,
                     .head = h[PASS_TRAIN].head,
                     .weights = r->model.weight_bytes,
                     .trained = (uint64_t)r->params.count * 4 * sizeof(real),
                     .other = other_bytes(r, needs)};
    p->limit = r->c.memory ? r->c.memory : memory_available();
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
                   "%zu tokens %.0f, other %.0f), %.0f MiB are %s; lower --batch, --max-length or "
                   "--rank, or go on with --force",
                   (double)p->total / mib, (double)p->weights / mib, (double)p->trained / mib,
                   p->tokens, (double)(p->activations + p->head) / mib, (double)p->other / mib,
                   (double)p->limit / mib, r->c.memory ? "allowed by --memory" : "available");
}

/* The longest sequence that a set can give, and the line of its prompt. KTO's halos pairing may put
 * any completion after any prompt. */
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
    if (!model_reserve_positions(&r->model, longest, e)) return 0;
    return err_prefix(e, "%s: line %zu", path, line);
}

/* Arrays by row of a micro-batch; a last lonely row may join the batch before it. */
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
    r->eval_order = mem_calloc(n, sizeof *r->eval_order, e);
    r->order = mem_calloc(r->train.rows.count, sizeof *r->order, e);
    r->order_epoch = SIZE_MAX;
    return r->items && r->pairs && r->pair_results && r->pair_order && r->kto_rows &&
                   r->kto_results && r->kl_policy && r->kl_reference && r->eval_order && r->order
               ? 0
               : -1;
}

static int allocate_step(Run *r, const Needs *needs, Err *e)
{
    const TrainPlan *p = &r->plan;
    r->gradient = mem_calloc(needs->scores, sizeof *r->gradient, e);
    r->square = mem_calloc(needs->scores, sizeof *r->square, e);
    if (!r->gradient || !r->square ||
        tape_open(&r->tape, &r->compute, (size_t)(p->activations + p->head), needs->node_bytes, e))
        return -1;
    r->taping = 1;
    r->tape.keep = p->keep;
    int failed = text_addf(&r->line, e, "%*s", LONGEST_LINE, ""); /* so it never grows */
    r->line.len = 0;
    return failed;
}

int plan_run(Run *r, unsigned char *needed, Err *e)
{
    Needs needs = {0};
    real unread[1] = {0}; /* a counting tape does not look at its arrays */
    if (allocate_rows(r, e) || reserve_positions(r, &r->train, r->c.data, e) ||
        reserve_positions(r, &r->eval, r->c.eval, e))
        return -1;
    r->gradient = r->square = unread;
    int failed = weigh_steps(r, &needs, needed, e) || weigh_evaluation(r, &needs, e) ||
                 weigh_reference(r, &needs, &r->train, needed, e) ||
                 weigh_reference(r, &needs, &r->eval, NULL, e);
    r->gradient = r->square = NULL;
    if (failed) return -1;
    decide(r, &needs);
    if (r->events->plan) r->events->plan(r->events->ctx, &r->plan);
    if (check_fits(r, e)) return -1;
    return r->c.dry_run ? 0 : allocate_step(r, &needs, e);
}
