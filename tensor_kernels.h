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

struct Kernels {
    const char *name;
    /* y = a + b;  y += s x;  y = s x */
    void (*add)(real *y, const real *a, const real *b, size_t n);
    void (*axpy)(real *y, real s, const real *x, size_t n);
    /* sum_i x_i^2 (lanes16);  y_i = g_i (x_i r) */
    real (*sum_squares)(const real *x, size_t n);
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
    void (*adamw)(real *w, const real *g, real *m, real *v, size_t n, const AdamWStep *a);
};

extern const Kernels kernels_ref;

/* The part of Compute.scratch that belongs to the running thread. */
static inline void *compute_scratch(const Compute *c)
{
    return c->scratch + (size_t)threads_index() * c->scratch_size;
}

static inline size_t size_min(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t size_ceil(size_t n, size_t unit) { return n / unit + (n % unit != 0); }

#endif
