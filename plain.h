/* plain.h - every operation of the tape, forward and backward, in plain loops: for readers.
 *
 * These functions are the kernels without threads, blocks, packing, dtypes and instruction sets.
 * They give the bits of --kernel ref in f32, which are those of every kernel
 * (tests/test_plain.c). The program does not call them; when a kernel is hard to follow, read its
 * namesake here first. Letters, shapes and sources are those of tensor.h; a gradient is added to.
 */
#ifndef ALIGN_PLAIN_H
#define ALIGN_PLAIN_H

#include "maths.h"

/* y[t,:] = x[at[t],:], which is also the embedding: x the table, at the ids.  y [T,H] */
void plain_rows(real *y, const real *x, const int32_t *at, size_t T, size_t H);
void plain_rows_back(real *dx, const real *dy, const int32_t *at, size_t T, size_t H);

/* y = a + b; of its gradient both get a copy: da += dy, db += dy.  n numbers */
void plain_add(real *y, const real *a, const real *b, size_t n);

/* y = g x r.  y, x [T,H]  g [H]  r [T] is saved */
void plain_rmsnorm(real *y, real *r, const real *x, const real *g, double eps, size_t T, size_t H);
void plain_rmsnorm_back(real *dx, real *dg, const real *dy, const real *x, const real *g,
                        const real *r, size_t T, size_t H);

/* y = x W^T, added to y where `add` says so.  y [T,N]  x [T,K]  W [N,K] */
void plain_linear(real *y, const real *x, const real *w, size_t T, size_t N, size_t K, int add);
void plain_linear_back(real *dx, real *dw, const real *dy, const real *x, const real *w, size_t T,
                       size_t N, size_t K); /* dx or dw may be NULL */

/* y += u B^T,  u = s x A^T.  A [R,K]  B [N,R]  u [T,R] is saved; x after its dropout */
void plain_adapter(real *y, real *u, const real *x, const real *a, const real *b, double s,
                   size_t T, size_t N, size_t K, size_t R);
void plain_adapter_back(real *dx, real *da, real *db, real *du, const real *dy, const real *u,
                        const real *x, const real *a, const real *b, double s, size_t T, size_t N,
                        size_t K, size_t R); /* du [T,R]: scratch */

/* DoRA: y = (m / n) z, n the lengths of the rows of W + s B A.  y, z [T,N]  m, n [N] */
void plain_lengths(real *n, const real *w, const real *a, const real *b, double s, size_t N,
                   size_t K, size_t R);
void plain_magnitude(real *y, const real *z, const real *m, const real *n, size_t T, size_t N);
void plain_magnitude_back(real *dz, real *dm, const real *dy, const real *z, const real *m,
                          const real *n, size_t T, size_t N); /* n is a constant */

/* y = x / (1 - p), or 0 with probability p; its own way back: the draws depend on key and i. */
void plain_dropout(real *y, const real *x, double p, uint64_t key, size_t n);

/* Turns x [T, heads x D] by its positions, in place; inverse: the way back. cos, sin [.., D/2] */
void plain_rope(real *x, const real *cos, const real *sin, const uint32_t *position, size_t T,
                size_t heads, size_t D, int inverse);

/* y = silu(gate) up.  n numbers */
void plain_swiglu(real *y, const real *gate, const real *up, size_t n);
void plain_swiglu_back(real *dgate, real *dup, const real *dy, const real *gate, const real *up,
                       size_t n);

/* o = softmax(scale q k^T) v of one sequence: `count` queries at positions pos, pos + 1, ..., keys
 * and values of the positions 0 .. pos + count - 1; window as in AttentionShape.
 * q, o [count, Q x D]  k, v [pos + count, G x D]  stat [count, Q, 2]: maximum and sum, saved */
typedef struct {
    size_t count, pos, Q, G, D, window;
    double scale;
} PlainAttention;
void plain_attention(real *o, real *stat, const real *q, const real *k, const real *v,
                     const PlainAttention *s);
/* weight, dweight [pos + count]: scratch */
void plain_attention_back(real *dq, real *dk, real *dv, const real *dout, const real *o,
                          const real *stat, const real *q, const real *k, const real *v,
                          real *weight, real *dweight, const PlainAttention *s);

/* The head, one row, from its logits z [V] (plain_linear, plain_adapter): log p(target), log sum_v
 * p_v^2, *norm = log sum_v e^{z_v}, and for a frozen head W [V,H] direction [H] = d log p / d h, so
 * that dh += dlogp direction. z is used up. */
void plain_logprob(real *logp, real *square, double *norm, real *direction, real *z, const real *w,
                   int32_t target, size_t V, size_t H);
/* A head that learns: from the logits z to dz, in place. Then plain_linear_back. */
void plain_logprob_back(real *z, real dlogp, double norm, int32_t target, size_t V);

/* AdamW at step t, as in tensor.h; g is scaled by clip first. */
void plain_adamw(real *w, const real *g, real *m, real *v, size_t n, double lr, double beta1,
                 double beta2, double eps, double decay, double clip, uint64_t t);

#endif
