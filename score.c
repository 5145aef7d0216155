/* score.c - packing rows, one pass of the model, log-probs handed out again. See score.h. */
#include "score.h"

#include <string.h>

/* Tokens of a pass: enough to keep matrix products busy (their cost per token is flat from about
 * 256 rows on), few enough that activations stay small beside the weights. */
#define PASS_TOKENS 512

/* Where the scores of one completion lie in a pass. */
typedef struct {
    size_t row, side, first, count;
} Place;

typedef struct {
    Model *m;
    const Lora *lora;
    const Row *rows;
    size_t sides, tokens;
    Packer packer;
    Place *places;
    size_t n_places, cap_places;
    size_t longest; /* positions that rotary tables must cover */
    Tape tape;
    size_t tape_bytes, node_bytes; /* what the tape was opened with; 0 = not open */
} Pass;

/* ---- packing ------------------------------------------------------------------------------- */

static int same_prompt(const Row *a, const Row *b)
{
    return a->n_prompt == b->n_prompt && a->n_prompt > 0 &&
           !memcmp(a->prompt, b->prompt, a->n_prompt * sizeof *a->prompt);
}

static int place_add(Pass *p, const Place *place, Err *e)
{
    if (p->n_places == p->cap_places) {
        size_t cap = p->cap_places ? 2 * p->cap_places : 64, bytes;
        if (size_mul(cap, sizeof *p->places, &bytes))
            return err_set(e, ERR_MEMORY, "too many rows in a pass");
        Place *more = mem_realloc(p->places, bytes, e);
        if (!more) return -1;
        p->places = more;
        p->cap_places = cap;
    }
    p->places[p->n_places++] = *place;
    return 0;
}

/* Packs rows from `first` on; *end = the first row that is left for the next pass. */
static int pass_pack(Pass *p, size_t first, size_t count, size_t *end, Err *e)
{
    int prompt = -1;
    size_t i = first;
    packer_begin(&p->packer);
    p->n_places = 0;
    p->longest = 0;
    for (; i < count && (i == first || p->packer.batch.T < p->tokens); i++) {
        const Row *row = &p->rows[i];
        int shared = i > first && same_prompt(row, &p->rows[i - 1]);
        if (!shared && packer_add_context(&p->packer, -1, row->prompt, row->n_prompt, &prompt, e))
            return -1;
        for (size_t side = 0; side < p->sides; side++) {
            Place place = {.row = i, .side = side};
            size_t n = row->n_completion[side];
            if (packer_add_completion(&p->packer, prompt, row->completion[side], n, &place.first,
                                      &place.count, e) ||
                place_add(p, &place, e))
                return -1;
            if (row->n_prompt + n > p->longest) p->longest = row->n_prompt + n;
        }
    }
    *end = i;
    return 0;
}

/* ---- the pass ------------------------------------------------------------------------------ */

/* Memory for this batch: measured by running the same program on a counting tape. */
static int pass_reserve(Pass *p, const Compute *c, Err *e)
{
    const Batch *b = &p->packer.batch;
    Tape counting;
    size_t nodes = model_node_bytes(p->m, b);
    if (model_reserve_positions(p->m, p->longest, e)) return -1;
    if (tape_open(&counting, c, 0, nodes, e)) return -1;
    model_logprob(&counting, p->m, p->lora, b, NULL);
    size_t bytes = tape_peak(&counting);
    int failed = tape_check(&counting, e);
    tape_close(&counting);
    if (failed) return -1;
    if (bytes <= p->tape_bytes && nodes <= p->node_bytes) return 0;
    if (p->tape_bytes) tape_close(&p->tape);
    bytes = bytes > p->tape_bytes ? bytes : p->tape_bytes;
    nodes = nodes > p->node_bytes ? nodes : p->node_bytes;
    p->tape_bytes = p->node_bytes = 0;
    if (tape_open(&p->tape, c, bytes, nodes, e)) return -1;
    p->tape_bytes = bytes;
    p->node_bytes = nodes;
    return 0;
}

/* Hands the scores of a pass over. logp may be NULL where nothing was scored. */
static int pass_hand_over(const Pass *p, const real *logp, ScoreFn fn, void *ctx, Err *e)
{
    for (size_t i = 0; i < p->n_places; i++) {
        const Place *place = &p->places[i];
        const Row *row = &p->rows[place->row];
        Score s = {.row = place->row,
                   .side = place->side,
                   .ids = row->completion[place->side],
                   .n = row->n_completion[place->side],
                   .logp = logp + place->first};
        s.skipped = s.n - place->count;
        for (size_t t = 0; t < place->count; t++) s.sum += (double)s.logp[t];
        if (fn(ctx, &s, e)) return -1;
    }
    return 0;
}

static int pass_run(Pass *p, const Compute *c, ScoreFn fn, void *ctx, Err *e)
{
    const real nothing = 0;
    if (p->packer.batch.n_scores == 0) return pass_hand_over(p, &nothing, fn, ctx, e);
    if (pass_reserve(p, c, e)) return -1;
    tape_reset(&p->tape);
    Var *logp = model_logprob(&p->tape, p->m, p->lora, &p->packer.batch, NULL);
    if (tape_check(&p->tape, e)) return -1;
    return pass_hand_over(p, logp->x, fn, ctx, e);
}

int score_rows(Model *m, const Lora *lora, const Compute *c, const Row *rows, size_t count,
               size_t sides, size_t tokens, ScoreFn fn, void *ctx, Err *e)
{
    Pass p = {.m = m,
              .lora = lora,
              .rows = rows,
              .sides = sides,
              .tokens = tokens ? tokens : PASS_TOKENS};
    int status = 0;
    for (size_t at = 0; at < count && !status;) {
        if (stop_requested) {
            status = err_set(e, ERR_INTERRUPTED, "interrupted after %zu of %zu rows", at, count);
            break;
        }
        status = pass_pack(&p, at, count, &at, e);
        if (!status) status = pass_run(&p, c, fn, ctx, e);
    }
    if (p.tape_bytes) tape_close(&p.tape);
    packer_free(&p.packer);
    mem_free(p.places);
    return status;
}
