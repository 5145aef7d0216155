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

#include <string.h>

#ifndef BODY
#error "define BODY, the target attribute of the bodies, before this header"
#endif

#if REAL_IS_FLOAT
/* condition ? a : b by masks. gcc turns ?: into branches here, and then does not vectorise. */
BODY static inline float body_select(int condition, float a, float b)
{
    uint32_t mask = (uint32_t)-condition, x, y;
    memcpy(&x, &a, sizeof x);
    memcpy(&y, &b, sizeof y);
    x = (x & mask) | (y & ~mask);
    memcpy(&a, &x, sizeof a);
    return a;
}

/* e^x: maths_expf without branches and calls, so that loops around it vectorise; the same bits for
 * every x (tests/test_tensor.c). Beyond the range the selections at the end overrule. */
BODY static inline float body_exp(float x)
{
    const uint32_t round_bits = 0x4b400000u; /* of EXPF_ROUND: x log2(e), rounded, is added below */
    float t = fmaf(x, EXPF_LOG2E, EXPF_ROUND), n = t - EXPF_ROUND;
    float r = fmaf(-n, EXPF_LN2_LOW, fmaf(-n, EXPF_LN2_HIGH, x));
    float p = EXPF_C6;
    p = fmaf(p, r, EXPF_C5);
    p = fmaf(p, r, EXPF_C4);
    p = fmaf(p, r, EXPF_C3);
    p = fmaf(p, r, EXPF_C2);
    p = fmaf(p, r, 1);
    p = fmaf(p, r, 1);
    /* 2^n in two factors, floor(n / 2) and the rest; 256 keeps the sum positive. */
    uint32_t bits, first, second;
    memcpy(&bits, &t, sizeof bits);
    uint32_t whole = bits - round_bits + 256, half = whole >> 1;
    first = (half - 1) << 23;
    second = (whole - half - 1) << 23;
    float f, s;
    memcpy(&f, &first, sizeof f);
    memcpy(&s, &second, sizeof s);
    float y = p * f * s;
    y = body_select(x < EXPF_LOWEST, 0, y);
    y = body_select(x > EXPF_HIGHEST, INFINITY, y);
    return body_select(isnan(x), x, y);
}
#else
BODY static inline double body_exp(double x)
{
    return maths_exp(x);
}
#endif

/* To the nearest bf16, ties to even; NaN stays NaN. */
BODY static inline void body_round_bf16(real *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float f = (float)x[i];
        uint32_t bits;
        memcpy(&bits, &f, sizeof bits);
        bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
        memcpy(&f, &bits, sizeof f);
        x[i] = isnan(x[i]) ? x[i] : (real)f;
    }
}

/* ---- rows ---------------------------------------------------------------------------------- */

BODY static inline void body_add(real *y, const real *a, const real *b, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] = a[i] + b[i];
}

BODY static inline void body_axpy(real *y, real s, const real *x, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] = real_fma(s, x[i], y[i]);
}

BODY static inline real body_dot(const real *a, const real *b, size_t n)
{
    real lanes[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t l = 0; l < LANES; l++) lanes[l] = real_fma(a[i + l], b[i + l], lanes[l]);
    for (size_t l = 0; i + l < n; l++) lanes[l] = real_fma(a[i + l], b[i + l], lanes[l]);
    return lanes_sum(lanes);
}

BODY static inline void body_norm_apply(real *y, const real *x, const real *g, real r, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] = g[i] * (x[i] * r);
}

BODY static inline void body_norm_dot(real total[LANES], const real *dy, const real *g,
                                      const real *x, size_t n)
{
    real lanes[LANES]; /* of our own, so that they may stay in registers */
    for (size_t l = 0; l < LANES; l++) lanes[l] = total[l];
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t l = 0; l < LANES; l++)
            lanes[l] = real_fma(dy[i + l] * g[i + l], x[i + l], lanes[l]);
    for (size_t l = 0; i + l < n; l++)
        lanes[l] = real_fma(dy[i + l] * g[i + l], x[i + l], lanes[l]);
    for (size_t l = 0; l < LANES; l++) total[l] = lanes[l];
}

BODY static inline void body_norm_dx(real *dx, const real *dy, const real *g, const real *x, real r,
                                     real c, size_t n)
{
    for (size_t i = 0; i < n; i++) dx[i] = real_fma(r, real_fma(-x[i], c, g[i] * dy[i]), dx[i]);
}

BODY static inline void body_norm_dg(real *dg, const real *dy, const real *x, real r, size_t n)
{
    for (size_t i = 0; i < n; i++) dg[i] = real_fma(dy[i], x[i] * r, dg[i]);
}

BODY static inline void body_rope(real *a, real *b, const real *cos, const real *sin, real sign,
                                  size_t n)
{
    for (size_t i = 0; i < n; i++) {
        real s = sign * sin[i], x = a[i], y = b[i];
        a[i] = real_fma(x, cos[i], -(y * s));
        b[i] = real_fma(y, cos[i], x * s);
    }
}

/* e^{z - top} in place, and its sums and sums of squares by lanes, in double. n is a multiple of
 * LANES. */
BODY static inline void body_logit_exp(real *z, double sum[LANES], double sum2[LANES], real top,
                                       size_t n)
{
    double s[LANES], s2[LANES];
    for (size_t l = 0; l < LANES; l++) s[l] = sum[l], s2[l] = sum2[l];
    for (size_t i = 0; i < n; i += LANES)
        for (size_t l = 0; l < LANES; l++) {
            z[i + l] = body_exp(z[i + l] - top);
            double e = (double)z[i + l];
            s[l] += e;
            s2[l] += e * e;
        }
    for (size_t l = 0; l < LANES; l++) sum[l] = s[l], sum2[l] = s2[l];
}

/* Scores times scale, and their maximum by lanes. n is a multiple of LANES. */
BODY static inline void body_score_max(real *s, real top[LANES], real scale, size_t n)
{
    real lanes[LANES];
    for (size_t l = 0; l < LANES; l++) lanes[l] = top[l];
    for (size_t i = 0; i < n; i += LANES)
        for (size_t l = 0; l < LANES; l++) {
            s[i + l] *= scale;
            lanes[l] = s[i + l] > lanes[l] ? s[i + l] : lanes[l];
        }
    for (size_t l = 0; l < LANES; l++) top[l] = lanes[l];
}

/* e^{s - top} and their sum by lanes. n is a multiple of LANES. */
BODY static inline void body_score_exp(real *s, real sum[LANES], real top, size_t n)
{
    real lanes[LANES];
    for (size_t l = 0; l < LANES; l++) lanes[l] = sum[l];
    for (size_t i = 0; i < n; i += LANES)
        for (size_t l = 0; l < LANES; l++) {
            s[i + l] = body_exp(s[i + l] - top);
            lanes[l] += s[i + l];
        }
    for (size_t l = 0; l < LANES; l++) sum[l] = lanes[l];
}

/* a = e^{scale s - top} / sum in place of s;  ds = scale a (da - mean) in place of da. */
BODY static inline void body_score_backward(real *s, real *da, real scale, real top, real sum,
                                            real mean, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        s[i] = body_exp(scale * s[i] - top) / sum;
        da[i] = scale * (s[i] * (da[i] - mean));
    }
}

BODY static inline void body_swiglu(real *y, const real *gate, const real *up, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] = gate[i] / (1 + body_exp(-gate[i])) * up[i];
}

BODY static inline void body_swiglu_backward(real *dgate, real *dup, const real *dy,
                                             const real *gate, const real *up, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        real z = gate[i], s = 1 / (1 + body_exp(-z));
        real slope = s * real_fma(z, 1 - s, 1); /* s + z s (1 - s) */
        dgate[i] = real_fma(dy[i] * up[i], slope, dgate[i]);
        dup[i] = real_fma(dy[i], z * s, dup[i]);
    }
}

BODY static inline void body_adamw(real *w, const real *g, real *m, real *v, size_t n,
                                   const AdamWStep *a)
{
    const AdamWStep k = *a;
    for (size_t i = 0; i < n; i++) {
        real d = k.clip * g[i];
        m[i] = real_fma(k.blend1, d - m[i], m[i]);
        v[i] = real_fma(k.blend2 * d, d, v[i] * k.beta2);
        w[i] = w[i] * k.keep - k.rate * m[i] / (real_sqrt(v[i]) / k.root2 + k.eps);
    }
}

/* ---- the ends of products ------------------------------------------------------------------ */

#if REAL_IS_FLOAT
enum { REST_MAX = 16 }; /* terms that a step of registers may leave over */

/* The last `count` terms of a panel of `cols` columns, those from stored term k on. */
BODY static inline void pack_rest(float *panel, size_t cols, const unsigned char *const *rows,
                                  Dtype t, size_t k, size_t count)
{
    float rest[REST_MAX];
    for (size_t j = 0; j < cols && count; j++) {
        dtype_to_float(rest, rows[j] + k * dtype_size(t), t, count);
        for (size_t i = 0; i < count; i++) panel[i * cols + j] = rest[i];
    }
}

/* The same terms of few rows: c[m][j] goes on with them; `a` is packed from there on. */
BODY static inline void few_rest(float *const *c, size_t cols, const float *a, size_t width,
                                 const unsigned char *const *rows, Dtype t, size_t k, size_t count)
{
    float rest[REST_MAX];
    for (size_t j = 0; j < cols && count; j++) {
        dtype_to_float(rest, rows[j] + k * dtype_size(t), t, count);
        for (size_t m = 0; m < width; m++)
            for (size_t i = 0; i < count; i++)
                c[m][j] = fmaf(a[i * width + m], rest[i], c[m][j]);
    }
}
#endif

/* The row bodies, for a table. */
#define BODY_TABLE                                                                                 \
    .round_bf16 = body_round_bf16, .add = body_add, .axpy = body_axpy, .dot = body_dot,            \
    .norm_apply = body_norm_apply, .norm_dot = body_norm_dot, .norm_dx = body_norm_dx,             \
    .norm_dg = body_norm_dg, .rope = body_rope, .swiglu = body_swiglu,                             \
    .swiglu_backward = body_swiglu_backward, .logit_exp = body_logit_exp,                          \
    .score_max = body_score_max, .score_exp = body_score_exp,                                      \
    .score_backward = body_score_backward, .adamw = body_adamw

#endif
