/* maths.h - exp, log, sin, cos, pow of our own: the same bits on every machine and libc.
 *
 * Only +, -, *, /, fma and sqrt are used, all exactly rounded by IEEE 754, in a fixed order.
 * Errors against the true value stay below 1 ulp (tests/test_maths.c measures them against libm's
 * long double).  Source of the reductions: Muller, Elementary Functions, 3rd ed., chapters 5-11.
 */
#ifndef ALIGN_MATHS_H
#define ALIGN_MATHS_H

#include "base.h"

double maths_exp(double x);
double maths_log(double x); /* log(0) = -inf, log(<0) = nan */
double maths_log1p(double x);
double maths_expm1(double x);
double maths_pow(double x, double y); /* x > 0 */
double maths_sin(double x);           /* |x| <= 2^30 radians */
double maths_cos(double x);

/* log sigma(x) = -log(1 + e^-x), without overflow for any x; sigma(x) = 1 / (1 + e^-x). */
double maths_logsigmoid(double x);
double maths_sigmoid(double x);

/* e^x for x in float, the spec of every vector body: Cody-Waite reduction, a degree 6 polynomial
 * by Horner with fmaf, scaling by a power of two; <= 1 ulp on [-103.9, 88.7], 0 and inf beyond. */
float maths_expf(float x);

/* ---- number formats of stored weights ------------------------------------------------------ */

/* The dtypes we compute with, in the spelling of safetensors. F64 only in double builds. */
typedef enum { DTYPE_F32, DTYPE_BF16, DTYPE_F16, DTYPE_F64 } Dtype;
#if REAL_IS_FLOAT
#define DTYPE_REAL DTYPE_F32
#else
#define DTYPE_REAL DTYPE_F64
#endif
size_t dtype_size(Dtype t);
const char *dtype_name(Dtype t);

/* Values as float or real, whatever the stored type (exact for BF16 and F16); `in` may be
 * unaligned. */
void dtype_to_float(float *out, const void *in, Dtype t, size_t count);
void dtype_to_real(real *out, const void *in, Dtype t, size_t count);
float bf16_to_float(uint16_t b);
uint16_t bf16_from_float(float x); /* round to nearest even; NaN stays NaN */
float f16_to_float(uint16_t h);
uint16_t f16_from_float(float x);

#endif
