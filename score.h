/* score.h - computes computes log-probs of given completions under a model, many rows at a time.
 *
 * Rows are packed end to end, without padding, and neighbours whose prompts begin alike share that
 * beginning, so sort rows to make them neighbours. A row's log-probs have the same bits in any
 * batch (tensor.h: order of summation), so packing affects only speed and memory.
 */
#ifndef ALIGN_SCORE_H
#define ALIGN_SCORE_H

#include "data.h"

/* One completion, scored. Valid only during the call that hands it over. */
typedef struct {
    size_t row, side;   /* which of the rows, which of its completions */
    const int32_t *ids; /* [n] the completion's tokens */
    size_t n;
    const real *logp; /* [n - skipped] log-probs in nats of tokens skipped .. n-1 */
    size_t skipped;   /* 1 if nothing precedes the first token, else 0 */
    double sum;       /* over the scored tokens, in double, in their order */
} Score;
/* Returns 0 to go on, -1 with *e to stop. */
typedef int (*ScoreFn)(void *ctx, const Score *s, Err *e);

/* Scores completions 0 .. sides-1 of every row and hands them over in order, row by row. tokens: a
 * pass takes rows until they have this many tokens (at least one row); 0 = a suitable number. lora
 * NULL = the base model. Errors: those of fn; ERR_MEMORY; ERR_INTERRUPTED when stop_requested is
 * set between two passes. */
int score_rows(Model *m, const Lora *lora, const Compute *c, const Row *rows, size_t count,
               size_t sides, size_t tokens, ScoreFn fn, void *ctx, Err *e);

/* ERR_DATA naming the line if a log-prob is not finite: no number could be written for it. */
int score_check(const Score *s, size_t line, Err *e);

#endif
