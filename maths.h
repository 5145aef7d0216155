/* maths.h - our own exp, log, sin, cos, pow: the same bits on every machine and libc.
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

/* e^x for x in float, the spec of every vector body, which must do these very operations:
 *
 *     n = fmaf(x, LOG2E, ROUND) - ROUND               the nearest integer to x / ln 2
 *     r = fmaf(-n, LN2_LOW, fmaf(-n, LN2_HIGH, x))     |r| <= ln 2 / 2 (Cody and Waite)
 *     p = C6; p = fmaf(p, r, C5); ... C2; then fmaf(p, r, 1), fmaf(p, r, 1)    Horner, degree 6
 *     e^x = (p 2^(n/2 rounded down)) 2^(the rest of n)       rounds once, also for subnormals
 *
 * <= 1 ulp on [-103.9, 88.7]; 0 below EXPF_LOWEST, inf above EXPF_HIGHEST, NaN for NaN. */
float maths_expf(float x);
#define EXPF_LOWEST -0x1.9fe368p+6f /* -103.97208: e^x is below half of the smallest float */
#define EXPF_HIGHEST 0x1.62e42ep+6f /* 88.722832: the last x whose e^x is finite */
#define EXPF_LOG2E 0x1.715476p+0f
#define EXPF_ROUND 0x1.8p+23f      /* adding it leaves no bits below the units */
#define EXPF_LN2_HIGH 0x1.62e4p-1f /* 15 bits: n LN2_HIGH is exact */
#define EXPF_LN2_LOW 0x1.7f7d1cp-20f
/* Minimax for the relative error with C0 = C1 = 1, each rounded to float before the next is fitted:
 * 4.7e-9 on |r| <= ln 2 / 2. */
#define EXPF_C2 0x1p-1f
#define EXPF_C3 0x1.555466p-3f
#define EXPF_C4 0x1.5552fep-5f
#define EXPF_C5 0x1.12585ep-7f
#define EXPF_C6 0x1.6ffd58p-10f

/* ---- number formats of stored weights ------------------------------------------------------ */

/* The dtypes of files that we read, in the spelling of safetensors. */
typedef enum { DTYPE_F32, DTYPE_BF16, DTYPE_F16, DTYPE_F64 } Dtype;
#if REAL_IS_FLOAT
#define DTYPE_REAL DTYPE_F32
#define FORMAT_REAL (&format_f32)
#else
#define DTYPE_REAL DTYPE_F64
#define FORMAT_REAL (&format_f64)
#endif
static inline size_t dtype_size(Dtype t) /* bytes; here, so that kernels know it as a constant */
{
    return t == DTYPE_F64 ? 8 : t == DTYPE_F32 ? 4 : 2;
}
const char *dtype_name(Dtype t);

/* How the rows of a weight are stored: every `block` numbers as one block of so many bytes, the
 * rows whole blocks. Who wants numbers, whatever the format, calls format_unpack; kernels read
 * those that they know, `direct` ones, as they are. A new format is an object of this type. */
typedef struct {
    const char *name; /* for messages and hashes: the dtype's, where it is one */
    Dtype dtype;      /* of a direct one: what kernels know it as */
    int direct;
    size_t block, bytes;
    void (*unpack)(real *out, const unsigned char *in, size_t blocks); /* exact; any alignment */
    /* Rounds to nearest: to even, or as the block's reference does. NULL: not written here. */
    void (*pack)(unsigned char *out, const real *in, size_t blocks);
} Format;
extern const Format format_f32, format_bf16, format_f16, format_f64;
const Format *format_of(Dtype t);
/* By name: those four, or one of the block formats of GGUF files ("Q4_0" ... "Q8_0", "Q2_K" ...
 * "Q6_K", "IQ4_NL", "IQ4_XS"), of which Q8_0 is written, too. NULL for any other name. */
const Format *format_named(const char *name);
enum { FORMAT_BLOCK_MAX = 256 };
/* Bytes of n numbers from the beginning of a row. */
size_t format_bytes(const Format *f, size_t n);
/* Numbers [first, first + n) of a row. */
void format_unpack(const Format *f, real *out, const void *row, size_t first, size_t n);
/* x[i] = what is read again after x[i] was stored; of a format that has `pack`. */
void format_round(const Format *f, real *x, size_t n);

/* Values as float or real, whatever the stored type (exact for BF16 and F16); `in` may be
 * unaligned. */
void dtype_to_float(float *out, const void *in, Dtype t, size_t count);
void dtype_to_real(real *out, const void *in, Dtype t, size_t count);
float bf16_to_float(uint16_t b);
uint16_t bf16_from_float(float x); /* round to nearest even; NaN stays NaN */
float f16_to_float(uint16_t h);
uint16_t f16_from_float(float x);

#endif
