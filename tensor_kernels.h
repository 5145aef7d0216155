/* tensor_kernels.h - the table of bodies behind tensor.h; private to the tensor files.
 *
 * A body works on plain rows in one thread, without threads, formats or tasks: those are in
 * tensor.c, tensor_product.c, tensor_attention.c and tensor_head.c, once for all kernels. Every
 * table gives the same bits in f32; they differ in speed only.
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

/* The bodies of matrix products (see tensor_product.c). A tile of the output is rows x cols. Packed
 * rows hold A[k][i] for `width` rows i, a packed panel holds B[k][j] for the columns j of a tile:
 * as reals, or as bf16 in the order that the instructions need. */
enum { TILE_ROWS_MAX = 16, TILE_COLS_MAX = 64 };
/* Cache lines that will be needed after a tile: its body may ask for one with each term. */
enum { AHEAD_MAX = 512 };
typedef struct {
    const void *line[AHEAD_MAX];
    size_t count;
} Ahead;
struct ProductBodies {
    size_t rows, cols; /* of a tile */
    size_t lanes;      /* tiles may have fewer columns than cols: any multiple of lanes */
    size_t few;        /* largest number of rows, a power of two, without a panel; 0: none */
    size_t depth; /* terms of a chain that a panel holds: depth x size <= PRODUCT_DEPTH reals */
    size_t size, step; /* bytes of a packed number; packed depths are multiples of step */
    /* c[i][j] = (add ? c[i][j] : 0) + sum_k a[k][i] b[k][j], chains over k, for i < rows and
     * j < cols. `a` is packed for the rows of a tile. */
    void (*tile)(real *const *c, const void *a, const void *b, size_t depth, size_t rows,
                 size_t cols, int add, const Ahead *ahead);
    /* packed[k][i] = rows[i][k step] for i < width */
    void (*pack_rows)(void *packed, size_t width, const real *const *rows, size_t step,
                      size_t depth);
    /* panel[k][j] = rows[j][k] for j < cols, or more: stored rows become columns. There are as many
     * pointers as a tile has columns. */
    void (*pack_across)(void *panel, const unsigned char *const *rows, Dtype t, size_t depth,
                        size_t cols);
    /* panel[k][j] = data[k stride + j] for j < cols: stored rows stay rows; stride in bytes */
    void (*pack_along)(void *panel, const unsigned char *data, size_t stride, Dtype t, size_t depth,
                       size_t cols);
    /* Few rows straight from the stored numbers, without a panel: decoding. `a` is packed for
     * `width` rows, a power of two. Across: c[m][j] for j < lanes from the stored rows[j]; those
     * that are needed next, rows[lanes + j], may be asked for. Along: for j < cols, a multiple of
     * lanes, from stored rows `stride` bytes apart; or NULL. */
    void (*few_across)(real *const *c, const void *a, size_t width,
                       const unsigned char *const *rows, Dtype t, size_t depth, int add);
    void (*few_along)(real *const *c, const void *a, size_t width, const unsigned char *data,
                      size_t stride, Dtype t, size_t depth, size_t cols, int add);
};

struct Kernels {
    ProductBodies product;
    void (*round_bf16)(real *x, size_t n);
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

/* The table of an instruction set, NULL if this machine or build has none. */
const Kernels *kernels_avx2(void);
const Kernels *kernels_avx512(void);
const Kernels *kernels_neon(void);
/* Bodies that round their operands to bf16 while they pack, and multiply with bf16 instructions;
 * NULL if there are none. AVX-512: chains as everywhere, but numbers below 2^-126 count as zero.
 * NEON: four terms at a time, in an order of the instruction's own (see tensor_neonbf16.c). */
const ProductBodies *products_avx512bf16(void);
const ProductBodies *products_neonbf16(void);

/* ---- constants for inlined bodies ---------------------------------------------------------- */

/* Bodies are inlined once for each dtype and each number of rows, so that sums live in registers.
 * `call` sees the value as the constant `fixed`. The last case of a number stands for all above. */
#define FIXED(type, value, call)                                                                   \
    {                                                                                              \
        const type fixed = value;                                                                  \
        call;                                                                                      \
        break;                                                                                     \
    }
#define WITH_DTYPE(t, call)                                                                        \
    do switch (t) {                                                                                \
        case DTYPE_BF16: FIXED(Dtype, DTYPE_BF16, call)                                            \
        case DTYPE_F16: FIXED(Dtype, DTYPE_F16, call)                                              \
        default: FIXED(Dtype, DTYPE_F32, call)                                                     \
        }                                                                                          \
    while (0)
/* n is 1 .. most, or a power of two up to most. */
#define WITH_UP_TO_3(n, call)                                                                      \
    do switch (n) {                                                                                \
        case 1: FIXED(int, 1, call)                                                                \
        case 2: FIXED(int, 2, call)                                                                \
        default: FIXED(int, 3, call)                                                               \
        }                                                                                          \
    while (0)
#define WITH_UP_TO_6(n, call)                                                                      \
    do switch (n) {                                                                                \
        case 1: FIXED(int, 1, call)                                                                \
        case 2: FIXED(int, 2, call)                                                                \
        case 3: FIXED(int, 3, call)                                                                \
        case 4: FIXED(int, 4, call)                                                                \
        case 5: FIXED(int, 5, call)                                                                \
        default: FIXED(int, 6, call)                                                               \
        }                                                                                          \
    while (0)
#define WITH_UP_TO_8(n, call)                                                                      \
    do switch (n) {                                                                                \
        case 7: FIXED(int, 7, call)                                                                \
        case 8: FIXED(int, 8, call)                                                                \
        default: WITH_UP_TO_6(n, call);                                                            \
        }                                                                                          \
    while (0)
#define WITH_POWER_TO_4(n, call)                                                                   \
    do switch (n) {                                                                                \
        case 1: FIXED(int, 1, call)                                                                \
        case 2: FIXED(int, 2, call)                                                                \
        default: FIXED(int, 4, call)                                                               \
        }                                                                                          \
    while (0)
#define WITH_POWER_TO_8(n, call)                                                                   \
    do switch (n) {                                                                                \
        case 8: FIXED(int, 8, call)                                                                \
        default: WITH_POWER_TO_4(n, call);                                                         \
        }                                                                                          \
    while (0)
#define WITH_POWER_TO_16(n, call)                                                                  \
    do switch (n) {                                                                                \
        case 16: FIXED(int, 16, call)                                                              \
        default: WITH_POWER_TO_8(n, call);                                                         \
        }                                                                                          \
    while (0)

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

/* C[M,N] = (add ? C : 0) + A[M,K] B[K,N], each output one chain over k. B is made of stored rows:
 * they are its columns (across: B = W^T, B[k][n] = W[n][k]) or its rows (B = W). */
typedef struct ProductB ProductB;
struct ProductB {
    int across;
    const Format *format;
    /* Where stored row r begins. With `run`: also how many rows from r on lie `stride` bytes
     * apart each. */
    const unsigned char *(*row)(const ProductB *b, size_t r, size_t *run, size_t *stride);
    const void *ctx;
};
typedef struct {
    size_t M, N, K;
    real *c;
    RowStride c_rows;
    const real *a;
    RowStride a_rows;
    size_t a_step; /* from k to k + 1; 1 where operands are rounded */
    ProductB b;
    int add, round; /* round: operands to bf16 */
    int apart;      /* not one chain: a chain per PRODUCT_PART terms, added to C when it ends */
} Product;

/* B = W^T and B = W for a stored matrix W, which must outlive the product. */
ProductB product_across(const Mat *w);
ProductB product_along(const Mat *w);
/* The outputs [m0, m0 + rows) x [n0, n0 + cols), rows < PRODUCT_ROWS + TILE_ROWS_MAX. */
void product_part(const Compute *c, const Product *p, size_t m0, size_t rows, size_t n0,
                  size_t cols);
/* All outputs, by all threads. */
void product_run(const Compute *c, const Product *p);
enum {
    PRODUCT_ROWS = 256,  /* rows of A packed at a time: with the depth below half a megabyte */
    PRODUCT_DEPTH = 512, /* most terms of each chain per pass */
    PRODUCT_PART = 256,  /* the same where parts are summed apart; it shows in the bits */
    PRODUCT_PANEL = TILE_COLS_MAX * PRODUCT_DEPTH,
    PRODUCT_PACKED = (PRODUCT_ROWS + TILE_ROWS_MAX) * PRODUCT_DEPTH,
    PRODUCT_SCRATCH = 2 * PRODUCT_PANEL + PRODUCT_PACKED
};

/* Asks for a cache line that will be needed soon; wrong addresses are harmless. */
enum { CACHE_LINE = 64 };
#ifdef __GNUC__
#define prefetch_read(p) __builtin_prefetch(p, 0, 2) /* into the level-2 cache */
#else
#define prefetch_read(p) ((void)(p))
#endif

/* ---- scratch ------------------------------------------------------------------------------- */

/* Numbers (not bytes) of the scratch of one thread: packing first, then what attention keeps. */
enum {
    SCORE_ROWS = 96,         /* query rows of an attention block */
    SCORE_SCRATCH = 1 << 17, /* scores of a block, then as many of their gradients */
    /* Where the weight of a product is unpacked, if kernels do not know its format: attention,
     * whose scores these are, has no weights. */
    UNPACK_SCRATCH = 2 * SCORE_SCRATCH,
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
/* threads_run for n tasks that do `work` in all; in this thread alone if that is too little to
 * share. */
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
