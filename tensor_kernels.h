/* tensor_kernels.h - the table of bodies behind tensor.h; private to the tensor files.
 *
 * A body works on plain rows in one thread and knows nothing of threads, dtypes or tasks: those
 * live in tensor.c, tensor_product.c, tensor_attention.c and tensor_head.c, once for all kernels.
 * Every table gives the same bits in f32; they differ in speed only.
 */
#ifndef ALIGN_TENSOR_KERNELS_H
#define ALIGN_TENSOR_KERNELS_H

#include "tensor.h"

#include <math.h>

/* Real arithmetic by name: one rounding each. */
#if REAL_IS_FLOAT
#define real_fma fmaf
#define real_sqrt sqrtf
#define real_exp maths_expf
#else
#define real_fma fma
#define real_sqrt sqrt
#define real_exp maths_exp
#endif

enum { LANES = 16 }; /* of the lanes16 order */

/* The numbers of one AdamW step, each computed in double and rounded once. */
typedef struct {
    real clip, keep, blend1, beta2, blend2, root2, eps, rate;
} AdamWStep;

/* Products (see tensor_product.c): a tile of the output is `tile_rows` x `tile_cols`. Packed rows
 * hold A[k][i] for the rows i of a tile, a packed panel holds B[k][j] for its columns j. */
enum { TILE_ROWS_MAX = 16, TILE_COLS_MAX = 64 };
enum { PRODUCT_FEW = 4 }; /* up to so many rows, packing costs more than it saves */

struct Kernels {
    const char *name;
    size_t tile_rows, tile_cols;
    /* c[i][j] = (add ? c[i][j] : 0) + sum_k a[k][i] b[k][j], chains over k, for i < rows and all
     * columns j of a tile. */
    void (*tile)(real *const *c, const real *a, const real *b, size_t depth, size_t rows, int add);
    /* packed[k][i] = rows[i][k step] for all rows i of a tile */
    void (*pack_rows)(real *packed, const real *const *rows, size_t step, size_t depth);
    /* panel[k][j] = rows[j][k] for all columns j of a tile: stored rows become columns */
    void (*pack_across)(real *panel, const unsigned char *const *rows, Dtype t, size_t depth);
    /* panel[k][j] = data[k stride + j] for j < cols: stored rows stay rows; stride in elements */
    void (*pack_along)(real *panel, const unsigned char *data, size_t stride, Dtype t, size_t depth,
                       size_t cols);
    void (*round_bf16)(real *x, size_t n);
    /* y[m][j] = (add ? y[m][j] : 0) + sum_k x[m][k] rows[j][k] for m < count <= PRODUCT_FEW and all
     * columns j of a tile, without packing: products of few rows (decoding). May be NULL. */
    void (*rows_across)(real *const *y, const real *const *x, size_t count,
                        const unsigned char *const *rows, Dtype t, size_t depth, int add);
    /* y = a + b;  y += s x;  y = s x */
    void (*add)(real *y, const real *a, const real *b, size_t n);
    void (*axpy)(real *y, real s, const real *x, size_t n);
    /* sum_i a_i b_i (lanes16) */
    real (*dot)(const real *a, const real *b, size_t n);
    /* y_i = g_i (x_i r) */
    void (*norm_apply)(real *y, const real *x, const real *g, real r, size_t n);
    /* sum_i dy_i g_i x_i: lane l of `lanes` takes the terms i = l mod 16 of a part of a row */
    void (*norm_dot)(real lanes[LANES], const real *dy, const real *g, const real *x, size_t n);
    /* dx_i += r (g_i dy_i - x_i c);  dg_i += dy_i (x_i r) */
    void (*norm_dx)(real *dx, const real *dy, const real *g, const real *x, real r, real c,
                    size_t n);
    void (*norm_dg)(real *dg, const real *dy, const real *x, real r, size_t n);
    /* One head: (a, b) turned by the angles whose cosines and sines are given, n = D/2 pairs. */
    void (*rope)(real *a, real *b, const real *cos, const real *sin, real sign, size_t n);
    void (*swiglu)(real *y, const real *gate, const real *up, size_t n);
    void (*swiglu_backward)(real *dgate, real *dup, const real *dy, const real *gate,
                            const real *up, size_t n);
    /* Exponentials of logits for the head, and scores of attention; see tensor_bodies.h */
    void (*logit_exp)(real *z, double sum[LANES], double sum2[LANES], real top, size_t n);
    void (*score_max)(real *s, real top[LANES], real scale, size_t n);
    void (*score_exp)(real *s, real sum[LANES], real top, size_t n);
    void (*score_backward)(real *s, real *da, real scale, real top, real sum, real mean, size_t n);
    void (*adamw)(real *w, const real *g, real *m, real *v, size_t n, const AdamWStep *a);
};

/* The table of an instruction set, NULL where this machine or build has none. */
const Kernels *kernels_avx2(void);
const Kernels *kernels_neon(void);

/* ---- one product, in one thread ------------------------------------------------------------ */

/* Row r of a set of rows starts at (r / group) outer + (r % group) inner: heads within tokens. A
 * plain matrix has group 1 and outer = its row length. */
typedef struct {
    size_t group, inner, outer;
} RowStride;
static inline size_t row_offset(const RowStride *s, size_t r)
{
    return r / s->group * s->outer + r % s->group * s->inner;
}

/* C[M,N] = (add ? C : 0) + A[M,K] B[K,N], each output one chain over k. B is seen through `pack`:
 * panel[k][j] = B[k0 + k, n0 + j] for k < depth, j < cols (columns beyond may hold anything). */
typedef struct ProductB ProductB;
struct ProductB {
    void (*pack)(const Compute *c, const ProductB *b, real *panel, size_t n0, size_t cols,
                 size_t k0, size_t depth);
    Mat mat;         /* B as stored, or at least its dtype */
    const void *ctx; /* where B lies in pieces (attention) */
};
typedef struct {
    size_t M, N, K;
    real *c;
    RowStride c_rows;
    const real *a;
    RowStride a_rows;
    size_t a_step; /* from k to k + 1 */
    ProductB b;
    int add, round; /* round: operands to bf16 */
    int apart;      /* not one chain: a chain per PRODUCT_PART terms, added to C when it ends */
} Product;

/* B = W^T and B = W for a stored matrix W. */
ProductB product_across(const Mat *w);
ProductB product_along(const Mat *w);
/* The outputs [m0, m0 + rows) x [n0, n0 + cols), rows <= PRODUCT_ROWS. */
void product_part(const Compute *c, const Product *p, size_t m0, size_t rows, size_t n0,
                  size_t cols);
/* All outputs, by all threads. */
void product_run(const Compute *c, const Product *p);
enum {
    PRODUCT_ROWS = 256,  /* rows of A packed at a time: with the depth below half a megabyte */
    PRODUCT_DEPTH = 512, /* terms of each chain per pass */
    PRODUCT_PART = 256,  /* the same where parts are summed apart; it shows in the bits */
    PRODUCT_SCRATCH = (PRODUCT_ROWS + TILE_ROWS_MAX + TILE_COLS_MAX) * PRODUCT_DEPTH
};

/* ---- scratch ------------------------------------------------------------------------------- */

/* Numbers (not bytes) of the scratch of one thread: packing first, then what attention keeps. */
enum {
    SCORE_ROWS = 96,         /* query rows of an attention block */
    SCORE_SCRATCH = 1 << 17, /* scores of a block, then as many of their gradients */
    THREAD_SCRATCH = PRODUCT_SCRATCH + 2 * SCORE_SCRATCH + 2 * SCORE_ROWS * LANES
};

/* The part of Compute.scratch that belongs to the running thread. */
static inline real *compute_scratch(const Compute *c)
{
    return (real *)(void *)(c->scratch + (size_t)threads_index() * c->scratch_size);
}

/* The fixed tree over sixteen partial sums or maxima: (l, l+8), (l, l+4), (l, l+2), (l, l+1). */
static inline real lanes_sum(const real lanes[LANES])
{
    real s[LANES];
    for (int l = 0; l < LANES; l++) s[l] = lanes[l];
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int l = 0; l < half; l++) s[l] += s[l + half];
    return s[0];
}
static inline real lanes_max(const real lanes[LANES])
{
    real s[LANES];
    for (int l = 0; l < LANES; l++) s[l] = lanes[l];
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int l = 0; l < half; l++) s[l] = s[l + half] > s[l] ? s[l + half] : s[l];
    return s[0];
}

/* Handing out a task costs some microseconds, so no task should have much less work than this
 * (multiply-adds, or numbers touched). */
enum { TASK_WORK = 1 << 15 };
/* threads_run for n tasks that do `work` in all; alone where that is too little to share. */
static inline void tasks_run(Task task, void *ctx, size_t n, double work)
{
    if (work >= TASK_WORK)
        threads_run(task, ctx, n);
    else
        for (size_t i = 0; i < n; i++) task(ctx, i);
}

static inline double lanes_sum_double(const double lanes[LANES])
{
    double s[LANES];
    for (int l = 0; l < LANES; l++) s[l] = lanes[l];
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int l = 0; l < half; l++) s[l] += s[l + half];
    return s[0];
}

static inline size_t size_min(size_t a, size_t b)
{
    return a < b ? a : b;
}
static inline size_t size_ceil(size_t n, size_t unit)
{
    return n / unit + (n % unit != 0);
}
static inline size_t lanes_ceil(size_t n)
{
    return size_ceil(n, LANES) * LANES;
}

#endif
