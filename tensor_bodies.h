/* tensor_bodies.h - row bodies, written once in plain C: the meaning of every kernel table.
 *
 * Each file that makes a table includes this header after defining BODY, the target attribute of
 * its functions, e.g. __attribute__((target("avx2,fma"))). The compiler then vectorises the same
 * plain loops for that instruction set. It may not reorder floating-point operations, so the bits
 * stay those of the plain code; sums are written with sixteen explicit lanes for that reason.
 */
#ifndef ALIGN_TENSOR_BODIES_H
#define ALIGN_TENSOR_BODIES_H

#include "tensor_kernels.h"

#ifndef BODY
#error "define BODY, the target attribute of the bodies, before this header"
#endif

/* The fixed tree over sixteen partial sums: (l, l+8), (l, l+4), (l, l+2), (l, l+1). */
BODY static inline real lanes_sum(const real lanes[LANES])
{
    real s[LANES];
    for (int l = 0; l < LANES; l++) s[l] = lanes[l];
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int l = 0; l < half; l++) s[l] += s[l + half];
    return s[0];
}

BODY static void body_add(real *y, const real *a, const real *b, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] = a[i] + b[i];
}

BODY static void body_axpy(real *y, real s, const real *x, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] = real_fma(s, x[i], y[i]);
}

BODY static real body_sum_squares(const real *x, size_t n)
{
    real lanes[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t l = 0; l < LANES; l++) lanes[l] = real_fma(x[i + l], x[i + l], lanes[l]);
    for (size_t l = 0; i + l < n; l++) lanes[l] = real_fma(x[i + l], x[i + l], lanes[l]);
    return lanes_sum(lanes);
}

BODY static void body_norm_apply(real *y, const real *x, const real *g, real r, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] = g[i] * (x[i] * r);
}

BODY static void body_norm_dot(real lanes[LANES], const real *dy, const real *g, const real *x,
                               size_t n)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t l = 0; l < LANES; l++)
            lanes[l] = real_fma(dy[i + l] * g[i + l], x[i + l], lanes[l]);
    for (size_t l = 0; i + l < n; l++)
        lanes[l] = real_fma(dy[i + l] * g[i + l], x[i + l], lanes[l]);
}

BODY static void body_norm_dx(real *dx, const real *dy, const real *g, const real *x, real r,
                              real c, size_t n)
{
    for (size_t i = 0; i < n; i++)
        dx[i] = real_fma(r, real_fma(-x[i], c, g[i] * dy[i]), dx[i]);
}

BODY static void body_norm_dg(real *dg, const real *dy, const real *x, real r, size_t n)
{
    for (size_t i = 0; i < n; i++) dg[i] = real_fma(dy[i], x[i] * r, dg[i]);
}

BODY static void body_rope(real *a, real *b, const real *cos, const real *sin, real sign, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        real s = sign * sin[i], x = a[i], y = b[i];
        a[i] = real_fma(x, cos[i], -(y * s));
        b[i] = real_fma(y, cos[i], x * s);
    }
}

BODY static void body_swiglu(real *y, const real *gate, const real *up, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] = gate[i] / (1 + real_exp(-gate[i])) * up[i];
}

BODY static void body_swiglu_backward(real *dgate, real *dup, const real *dy, const real *gate,
                                      const real *up, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        real z = gate[i], s = 1 / (1 + real_exp(-z));
        real slope = s * real_fma(z, 1 - s, 1); /* s + z s (1 - s) */
        dgate[i] = real_fma(dy[i] * up[i], slope, dgate[i]);
        dup[i] = real_fma(dy[i], z * s, dup[i]);
    }
}

BODY static void body_adamw(real *w, const real *g, real *m, real *v, size_t n,
                            const AdamWStep *a)
{
    const AdamWStep k = *a;
    for (size_t i = 0; i < n; i++) {
        real d = k.clip * g[i];
        m[i] = real_fma(k.blend1, d - m[i], m[i]);
        v[i] = v[i] * k.beta2 + k.blend2 * d * d;
        w[i] = w[i] * k.keep - k.rate * m[i] / (real_sqrt(v[i]) / k.root2 + k.eps);
    }
}

#endif
