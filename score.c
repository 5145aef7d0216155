/* score.c - packs rows, runs one pass of the model, hands out the log-probs. See score.h.
 *
 * Prompts are packed as a tree: what neighbours have in common is a segment, and the rest of each
 * continues it. The path from the root to the last added prompt is kept (pieces); the next prompt
 * goes back on it to the point where the two differ, and adds its own end.
 */
#include "score.h"

#include <math.h>
#include <string.h>

/* Tokens of a pass: enough to keep matrix products busy (their cost per token is flat from about
 * 256 rows on), and few enough that activations stay small compared with the weights. */
#define PASS_TOKENS 512

/* Prompts that begin alike share a segment from this number of tokens on: a shorter one costs as
 * much. */
#define SHARED_TOKENS 16
#define SHARED_DEPTH 8 /* segments in a row that make a prompt */

/* A segment of the last added prompt. */
typedef struct {
    size_t end; /* tokens of the prompt up to its end */
    int segment;
} Piece;

/* The place of one completion's scores in a pass. */
typedef struct {
    size_t row, side, first, count;
} Place;

typedef struct {
    Model *m;
    const Lora *lora;
    const Row *rows;
    size_t sides, tokens;
    Packer packer;
    Piece pieces[SHARED_DEPTH];
    size_t n_pieces;
    Place *places;
    size_t n_places, cap_places;
    size_t longest, longest_line; /* positions that rotary tables must cover; their line */
    Tape tape;
} Pass;

/* ---- packing ------------------------------------------------------------------------------- */

/* Returns the number of tokens that two prompts have in common at their start, if these are worth
 * sharing. */
static size_t shared_tokens(const Row *a, const Row *b)
{
    size_t n = 0;
    while (n < a->n_prompt && n < b->n_prompt && a->prompt[n] == b->prompt[n]) n++;
    return n >= SHARED_TOKENS || (n == a->n_prompt && n == b->n_prompt) ? n : 0;
}

/* Returns where the segment that begins at token `at` of row i's prompt must end: where the first
 * of the following rows that share more than `at` tokens differs from it, or else at the end of the
 * prompt. */
static size_t segment_end(const Pass *p, size_t i, size_t count, size_t at)
{
    size_t end = p->rows[i].n_prompt, ahead = 0;
    for (size_t j = i + 1; j < count && ahead < p->tokens; j++) {
        size_t shared = shared_tokens(&p->rows[j - 1], &p->rows[j]);
        if (shared <= at) break;
        if (shared < end) end = shared;
        ahead += p->rows[j].n_prompt - shared + 1; /* about what these rows add to the pass */
    }
    return end;
}

/* Adds the prompt of row i, without what the row before it has already. *prompt = its last
 * segment. */
static int pass_add_prompt(Pass *p, size_t i, size_t count, size_t shared, int *prompt, Err *e)
{
    const Row *row = &p->rows[i];
    size_t most = SHARED_DEPTH - (row->n_prompt > shared); /* pieces that may be kept */
    while (p->n_pieces && (p->n_pieces > most || p->pieces[p->n_pieces - 1].end > shared))
        p->n_pieces--;
    const Piece *last = p->n_pieces ? &p->pieces[p->n_pieces - 1] : NULL;
    size_t at = last ? last->end : 0;
    *prompt = last ? last->segment : -1;
    while (at < row->n_prompt) {
        int room = p->n_pieces + 1 < SHARED_DEPTH;
        size_t end = room ? segment_end(p, i, count, at) : row->n_prompt;
        if (packer_add_context(&p->packer, *prompt, row->prompt + at, end - at, prompt, e))
            return -1;
        p->pieces[p->n_pieces++] = (Piece){end, *prompt};
        at = end;
    }
    return 0;
}

static int place_add(Pass *p, const Place *place, Err *e)
{
    if (mem_grow(&p->places, &p->cap_places, p->n_places, sizeof *p->places, e)) return -1;
    p->places[p->n_places++] = *place;
    return 0;
}

/* Packs rows from `first` on; *end = the first row of the next pass. */
static int pass_pack(Pass *p, size_t first, size_t count, size_t *end, Err *e)
{
    int prompt;
    size_t i = first;
    packer_begin(&p->packer);
    p->n_places = p->n_pieces = 0;
    p->longest = 0;
    for (; i < count && (i == first || p->packer.batch.T < p->tokens); i++) {
        const Row *row = &p->rows[i];
        size_t shared = i > first ? shared_tokens(&p->rows[i - 1], row) : 0;
        if (pass_add_prompt(p, i, count, shared, &prompt, e)) return -1;
        for (size_t side = 0; side < p->sides; side++) {
            Place place = {.row = i, .side = side};
            size_t n = row->n_completion[side];
            if (packer_add_completion(&p->packer, prompt, row->completion[side], n, &place.first,
                                      &place.count, e) ||
                place_add(p, &place, e))
                return -1;
            if (row->n_prompt + n > p->longest) {
                p->longest = row->n_prompt + n;
                p->longest_line = row->line;
            }
        }
    }
    *end = i;
    return 0;
}

/* ---- the pass ------------------------------------------------------------------------------ */

/* Log-probs of the scored tokens of the packed rows. */
static Var *pass_program(Tape *t, void *ctx)
{
    const Pass *p = ctx;
    return model_logprob(t, p->m, p->lora, &p->packer.batch, NULL);
}

/* Hands over the scores of a pass. logp may be NULL if nothing was scored. */
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

int score_check(const Score *s, size_t line, Err *e)
{
    if (isfinite(s->sum)) return 0;
    return err_set(e, ERR_DATA,
                   "line %zu: the completion's log-prob is not finite: the weights of the model or "
                   "the adapter are damaged or too large (--check-tensors finds NaN)",
                   line);
}

static int pass_run(Pass *p, const Compute *c, ScoreFn fn, void *ctx, Err *e)
{
    const real nothing = 0;
    if (p->packer.batch.n_scores == 0) return pass_hand_over(p, &nothing, fn, ctx, e);
    if (model_reserve_positions(p->m, p->longest, e))
        return err_prefix(e, "line %zu", p->longest_line);
    size_t nodes = model_node_bytes(p->m, &p->packer.batch);
    const Var *logp = tape_run(&p->tape, c, nodes, pass_program, p, e);
    return logp ? pass_hand_over(p, logp->x, fn, ctx, e) : -1;
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
    tape_close(&p.tape);
    packer_free(&p.packer);
    mem_free(p.places);
    return status;
}
