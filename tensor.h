/* tensor.h - the kernels: matrix products, attention, norms, the log-prob head, AdamW.
 *
 * The plain bodies in tensor.c are the specification; tensor_avx2.c, tensor_neon.c, ... give the
 * same bits in f32, faster. compute_open chooses once.
 *
 * Letters, everywhere in the project:
 *   T  tokens of a packed batch (rows)      H  hidden width         F  feed-forward width
 *   V  vocabulary                           D  width of a head      Q  query heads
 *   G  key/value heads (Q = G x group)      R  rank of an adapter   P  sequence position
 *   K  contracted length of a product       N  outputs of a product
 * Matrices are row-major; x [T,H] has T rows of H numbers.
 *
 * Order of summation: the same bits for any thread count, batch and instruction set.
 *   chain   one fused multiply-add per term, in the order of the index, one accumulator per output.
 *           All matrix products, attention scores and attention outputs are chains.
 *   lanes16 sixteen partial sums, term i goes to lane i mod 16, then a fixed tree
 *           (l, l+8), (l, l+4), (l, l+2), (l, l+1). Row reductions: norms, softmax sums.
 * The gradient direction of the log-prob head sums chains of 256 vocabulary rows. A row's result
 * never depends on which rows stand beside it.
 */
#ifndef ALIGN_TENSOR_H
#define ALIGN_TENSOR_H

#include "base.h"
#include "maths.h"

/* A weight as stored in its file: [rows, cols] = [outputs, inputs], row-major, maybe unaligned. */
typedef struct {
    const void *data;
    const Format *format;
    size_t rows, cols;
    /* Queries and keys in GGUF files: the width of heads whose halves are interleaved, row i of the
     * second half after row i of the first. 0 = rows lie in order. */
    size_t paired;
} Mat;
size_t mat_bytes(const Mat *w);
/* Row r as stored: it and the rows after it, *run of them, lie *stride bytes apart. */
const unsigned char *mat_row(const Mat *w, size_t r, size_t *run, size_t *stride);
/* All numbers, rows in order: out[rows * cols]. */
void mat_unpack(const Mat *w, real *out);
/* Rows [first, first + count) of a matrix that lie in order: a view. */
Mat mat_rows(const Mat *w, size_t first, size_t count);

typedef enum { PRECISION_F32, PRECISION_BF16 } Precision;
const char *precision_name(size_t i); /* "f32" "bf16"; NULL beyond the last */

/* The bodies of an instruction set, and of its products; see tensor_kernels.h. */
typedef struct Kernels Kernels;
typedef struct ProductBodies ProductBodies;

/* How to compute: the kernels, the precision of matrix operands, and scratch for packing. */
typedef struct {
    const char *name; /* of the kernels */
    const Kernels *kernels;
    const ProductBodies *rounded; /* products of bf16 operands; NULL: those of kernels do them */
    Precision precision;
    unsigned char *scratch; /* threads x scratch_size bytes */
    size_t scratch_size;
    void *block; /* the block that holds scratch */
} Compute;

/* kernel: "auto" (the fastest for the precision), "ref", "avx2", "avx512", "avx512bf16", "neon",
 * "neonbf16". One that this machine or build does not have is ERR_USAGE naming those that it has.
 * Scratch is made for the threads set at this moment, so call threads_set first. */
int compute_open(Compute *c, const char *kernel, Precision precision, Err *e);
void compute_close(Compute *c);
const char *compute_kernel_name(size_t i); /* those names; NULL beyond the last */
const char *compute_name(const Compute *c);
/* "ref avx2 ...": the kernels this machine can run, for messages and `align inspect --cpu`. */
const char *compute_available(void);

/* ---- matrix products ----------------------------------------------------------------------- */
/* With PRECISION_BF16 both operands of a product with a weight W are rounded to bf16 first. */

/* y[t,n] = sum_k x[t,k] W[n,k]   (add = 0),   or y[t,n] continued by the same chain (add = 1)
 * Shapes: y [T,N]  x [T,K]  W [N,K]. y must not overlap x. */
void tensor_linear(const Compute *c, real *y, const real *x, const Mat *w, size_t T, int add);
/* dx[t,k] = (add ? dx[t,k] : 0) + sum_n dy[t,n] W[n,k].   Shapes: dx [T,K]  dy [T,N]  W [N,K]. */
void tensor_linear_dx(const Compute *c, real *dx, const real *dy, const Mat *w, size_t T, int add);
/* dw[n,k] += sum_t dy[t,n] x[t,k], the chain going on from dw. Shapes: dw [N,K] dy [T,N] x [T,K].
 * Always in f32 (or real), for any precision: gradients of parameters stay exact. */
void tensor_linear_dw(const Compute *c, real *dw, const real *dy, const real *x, size_t T, size_t N,
                      size_t K);

/* ---- rows ---------------------------------------------------------------------------------- */

/* x[t,:] = E[ids[t],:].  Shapes: x [T,H]  E [V,H]. */
void tensor_embed(const Compute *c, real *x, const Mat *E, const int32_t *ids, size_t T);
/* dE[ids[t],:] += dx[t,:], rows of equal id in the order of t. */
void tensor_embed_backward(const Compute *c, real *dE, const real *dx, const int32_t *ids, size_t T,
                           size_t V, size_t H);
/* y[j,:] = x[rows[j],:];   dx[rows[j],:] += dy[j,:] in the order of j. */
void tensor_gather(const Compute *c, real *y, const real *x, const uint32_t *rows, size_t n,
                   size_t H);
void tensor_gather_backward(const Compute *c, real *dx, const real *dy, const uint32_t *rows,
                            size_t n, size_t T, size_t H);

/* y[i] = a[i] + b[i];  y[i] += s x[i];  y[i] = s x[i] */
void tensor_add(const Compute *c, real *y, const real *a, const real *b, size_t n);
void tensor_axpy(const Compute *c, real *y, real s, const real *x, size_t n);

/* y[t,i] = g[i] x[t,i] r[t],   r[t] = 1 / sqrt(mean_i x[t,i]^2 + eps)
 * Shapes: y, x [T,H]  g [1,H] of any dtype  r [T], saved. Source: Zhang and Sennrich 2019, Eq. 4 */
void tensor_rmsnorm(const Compute *c, real *y, real *r, const real *x, const Mat *g, double eps,
                    size_t T);
/* dx[t,i] += r (g_i dy_i - x_i r^2 mean_j(dy_j g_j x_j));   dg[i] += sum_t dy[t,i] x[t,i] r[t]
 * dx or dg may be NULL. */
void tensor_rmsnorm_backward(const Compute *c, real *dx, real *dg, const real *dy, const real *x,
                             const Mat *g, const real *r, size_t T);

/* x[t,i] += b[i];   db[i] += sum_t dy[t,i], the chain going on from db, in the order of t.
 * Shapes: x, dy [T,H]  b [1,H] of any dtype. */
void tensor_bias(const Compute *c, real *x, const Mat *b, size_t T);
void tensor_bias_backward(const Compute *c, real *db, const real *dy, size_t T, size_t H);

/* Rows of a weight as size and direction (DoRA, Liu et al. 2024, Eq. 5): with the sizes m and the
 * lengths n of W's rows, and the product z of x and the whole of W,
 *   y[t,o] = (m[o] / n[o]) z[t,o];
 *   dz[t,o] = (m[o] / n[o]) dy[t,o],   dm[o] += sum_t dy[t,o] z[t,o] / n[o] in the order of t.
 * n is taken for a constant (section 4.3 there), and never 0. Shapes: y, z [T,N]  m, n [N]; y = z
 * is allowed. */
void tensor_magnitude(const Compute *c, real *y, const real *z, const real *m, const real *n,
                      size_t T, size_t N);
/* The same where z = base + low has parts of which y has the first already, from another x:
 *   y[t,o] += (m[o] / n[o] - 1) base[t,o] + (m[o] / n[o]) low[t,o];   base <- base + low. */
void tensor_magnitude_apart(const Compute *c, real *y, real *base, const real *low, const real *m,
                            const real *n, size_t T, size_t N);
void tensor_magnitude_backward(const Compute *c, real *dm, const real *dy, const real *z,
                               const real *n, size_t T, size_t N);

/* Rotary positions, half-split pairs (i, i + D/2):
 *   y_i = x_i cos_i - x_{i+D/2} sin_i,   y_{i+D/2} = x_{i+D/2} cos_i + x_i sin_i
 * cos, sin: tables [positions, D/2]; position[t] < positions. In place on x [T, heads x D].
 * inverse = 1 turns back: the transpose, which is the backward of the turn.
 * Source: Su et al. 2021, Eq. 34, in the pairing of Hugging Face's Llama. */
void tensor_rope(const Compute *c, real *x, const real *cos, const real *sin,
                 const uint32_t *position, size_t T, size_t heads, size_t D, int inverse);

/* y[i] = silu(gate[i]) up[i],   silu(z) = z sigma(z).   Source: Shazeer 2020, Eq. 6. */
void tensor_swiglu(const Compute *c, real *y, const real *gate, const real *up, size_t n);
/* dgate[i] += dy up silu'(gate),   dup[i] += dy silu(gate)
 * silu'(z) = s + z s (1 - s),   s = sigma(z) */
void tensor_swiglu_backward(const Compute *c, real *dgate, real *dup, const real *dy,
                            const real *gate, const real *up, size_t n);

/* y[i] = x[i] / (1 - p) where the draw (key, i) is >= p, else 0. The mask is a function of
 * its key and index, so backward draws it again instead of storing it. */
void tensor_dropout(const Compute *c, real *y, const real *x, double p, uint64_t key, size_t n);

/* ---- attention ----------------------------------------------------------------------------- */

/* Keys and values of consecutive positions: count rows of G x D. dk, dv: where their gradients are
 * added (NULL where none are wanted). */
typedef struct {
    const real *k, *v;
    real *dk, *dv;
    size_t count;
} KeySpan;
/* `count` queries, rows row .. row+count-1 of the packed batch, at positions pos, pos+1, ...; their
 * keys are those of the spans, in order, which cover exactly positions 0 .. pos+count-1. So a
 * sequence may share the rows of its beginning (a prompt) with others, or read them from a cache */
typedef struct {
    size_t row, count, pos;
    const KeySpan *spans;
    size_t n_spans;
} AttentionSeq;
typedef struct {
    size_t Q, G, D;
    size_t window; /* a query at p sees keys p - window < j <= p; 0 = all j <= p */
    double scale;  /* 1 / sqrt(D) */
} AttentionShape;

/* o[p,h,:] = sum_j a_j v[j,g,:], a = softmax_j(scale q[p,h,:] . k[j,g,:]), g = h / (Q/G) Shapes: o,
 * q [T, Q x D]; stat [T, Q, 2] keeps (max, sum of exp) of each softmax for backward. A row's bits
 * depend on its own query and on its keys by position, not on spans or other rows. */
void tensor_attention(const Compute *c, real *o, real *stat, const real *q,
                      const AttentionSeq *seqs, size_t n_seqs, const AttentionShape *s);
/* With a as above:  dv_j += a_j do;  da_j = do . v_j;  ds_j = a_j (da_j - sum_i a_i da_i);
 * dq += scale sum_j ds_j k_j;  dk_j += scale ds_j q.   sum_i a_i da_i = do . o.
 * dq [T, Q x D] is added to; dk, dv through the spans. Sequences are walked in order for each key
 * head, so what two sequences add to a shared key has a fixed order. */
void tensor_attention_backward(const Compute *c, real *dq, const real *dout, const real *o,
                               const real *stat, const real *q, const AttentionSeq *seqs,
                               size_t n_seqs, const AttentionShape *s);

/* ---- the head ------------------------------------------------------------------------------ */

/* log p(target | h) = z[target] - log sum_v e^{z_v},  z = W h, in one pass over chunks of V.
 * Shapes: h [n,H]  W [V,H]  target, logp [n].
 * square  [n] or NULL: log sum_v p_v^2 (WPO's weight needs it).
 * direction [n,H] or NULL: W[target] - sum_v p_v W_v, the gradient of logp with respect to h: kept
 *   like flash attention keeps its output, so that backward only scales it.
 * scratch: tensor_logprob_scratch(n, want_direction) bytes.
 * Maxima in real, sums of exponentials in double. */
void tensor_logprob(const Compute *c, real *logp, real *square, real *direction, const real *h,
                    const Mat *w, const int32_t *target, size_t n, void *scratch);
size_t tensor_logprob_scratch(size_t n, int want_direction);
/* The same pass for a head that is trained, or carries an adapter: z = W h + B u, and norm[i] =
 * log sum_v e^{z_v}, from which backward finds the probabilities again. B = 0 gives the bits of the
 * plain head. With sizes, z[v] is multiplied by sizes[v] / lengths[v] (tensor_magnitude).
 * Shapes: u [n,R], in f32 also where c is bf16; b [V,R]; b NULL = no adapter; norm [n]; sizes,
 * lengths [V] or NULL. */
typedef struct {
    const real *u;
    const Mat *b;
    const real *sizes, *lengths;
} HeadAdapter;
void tensor_logprob_adapted(const Compute *c, real *logp, real *square, double *norm, const real *h,
                            const Mat *w, const HeadAdapter *a, const int32_t *target, size_t n,
                            void *scratch);

/* In place: z[v] = exp(z[v] - max z) / sum, sums in double; one row of V. */
void tensor_softmax_row(const Compute *c, real *z, size_t V);

/* ---- optimiser ----------------------------------------------------------------------------- */

/* AdamW (Loshchilov and Hutter 2019, Algorithm 2) as PyTorch orders it, one parameter tensor:
 *   w -= lr wd w;  m += (1 - b1)(g - m);  v = b2 v + (1 - b2) g^2;
 *   w -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)
 * g is scaled by `clip` first. */
typedef struct {
    double lr, beta1, beta2, eps, weight_decay;
    uint64_t step; /* t, from 1 */
    double clip;
} AdamW;
void tensor_adamw(const Compute *c, real *w, const real *g, real *m, real *v, size_t n,
                  const AdamW *a);
/* sum_i x[i]^2 in double, in fixed chunks: the same for any thread count. */
double tensor_sum_squares(const Compute *c, const real *x, size_t n);
/* Index of the first value that is not finite, or n. */
size_t tensor_find_nonfinite(const real *x, size_t n);

#endif
