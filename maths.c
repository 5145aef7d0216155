/* maths.c - computes elementary functions from +, -, *, / and fma only; converts stored numbers.
 * See maths.h.
 *
 * The method of the functions is the same everywhere: reduce the argument to a small interval,
 * keeping the rounding error of the reduction as a second number ("low part"); sum a Taylor series
 * there; and add the leading term last, so that its one rounding is nearly the whole error.
 */
#include "base.h"
#include "maths.h"

#include <float.h>
#include <math.h>
#include <string.h>

#if FLT_EVAL_METHOD != 0
#error "double arithmetic must round to double: on 32-bit x86 compile with -msse2 -mfpmath=sse"
#endif

/* ln 2 in three parts; the first has 40 bits, so that n LN2_HIGH is exact for |n| < 2^13. */
#define LN2_HIGH 0x1.62e42fefa2p-1
#define LN2_MIDDLE 0x1.9ef35793c7673p-41
#define LN2_LOW 0x1.f97b57a079a19p-103
#define LOG2E 0x1.71547652b82fep+0
#define SQRT2 0x1.6a09e667f3bcdp+0
/* pi/2 in three parts of 53 bits each. */
#define PIO2_HIGH 0x1.921fb54442d18p+0
#define PIO2_MIDDLE 0x1.1a62633145c07p-54
#define PIO2_LOW -0x1.f1976b7ed8fbcp-110
#define TWO_OVER_PI 0x1.45f306dc9c883p-1
/* Adding and subtracting 1.5 x 2^52 rounds to the nearest integer, ties to even. */
#define ROUND_TO_INTEGER 0x1.8p+52

/* A number as an unevaluated sum high + low, |low| <= ulp(high) / 2: about 106 bits. */
typedef struct {
    double high, low;
} Pair;

/* a + b exactly (Knuth). */
static Pair pair_sum(double a, double b)
{
    double s = a + b, t = s - a;
    return (Pair){s, (a - (s - t)) + (b - t)};
}

/* a + b exactly where |a| >= |b| (Dekker). */
static Pair pair_fast_sum(double a, double b)
{
    double s = a + b;
    return (Pair){s, b - (s - a)};
}

/* a x b exactly. */
static Pair pair_product(double a, double b)
{
    double p = a * b;
    return (Pair){p, fma(a, b, -p)};
}

static Pair pair_multiply(Pair a, Pair b)
{
    Pair p = pair_product(a.high, b.high);
    p.low += fma(a.high, b.low, a.low * b.high);
    return pair_fast_sum(p.high, p.low);
}

static Pair pair_add(Pair a, Pair b)
{
    Pair s = pair_sum(a.high, b.high);
    s.low += a.low + b.low;
    return pair_fast_sum(s.high, s.low);
}

/* a / b */
static Pair pair_divide(Pair a, Pair b)
{
    double q = a.high / b.high;
    double rest = fma(-q, b.high, a.high) + fma(-q, b.low, a.low);
    return pair_fast_sum(q, rest / b.high);
}

/* 2^n for -1022 <= n <= 1023, by writing the exponent field. */
static double power_of_two(int n)
{
    uint64_t bits = (uint64_t)(n + 1023) << 52;
    double r;
    memcpy(&r, &bits, sizeof r);
    return r;
}

/* x 2^n for any |n| <= 2000 in two steps, of which only the last can round. */
static double scale(double x, int n)
{
    int half = n / 2;
    return x * power_of_two(half) * power_of_two(n - half);
}

/* ---- exponentials -------------------------------------------------------------------------- */

/* x + x_low = n ln 2 + high + low with |high + low| <= 0.3467; returns n. */
static double exp_reduce(double x, double x_low, Pair *r)
{
    double n = (x * LOG2E + ROUND_TO_INTEGER) - ROUND_TO_INTEGER;
    double high = fma(-n, LN2_HIGH, x); /* exact: both are close, and n LN2_HIGH is exact */
    *r = pair_sum(high, fma(-n, LN2_MIDDLE, x_low));
    return n;
}

/* r^3 (1/3! + r/4! + ...) and what r.low adds to e^r: everything beyond 1 + r + r^2/2. */
static double exp_tail(Pair r)
{
    static const double inverse_factorial[] = {
        1.0 / 6,          1.0 / 24,          1.0 / 120,          1.0 / 720,      1.0 / 5040,
        1.0 / 40320,      1.0 / 362880,      1.0 / 3628800,      1.0 / 39916800, 1.0 / 479001600,
        1.0 / 6227020800, 1.0 / 87178291200, 1.0 / 1307674368000}; /* r^16 / 16! < 2^-68 */
    int i = (int)(sizeof inverse_factorial / sizeof inverse_factorial[0]) - 1;
    double x = r.high, p = inverse_factorial[i];
    while (i-- > 0) p = fma(p, x, inverse_factorial[i]);
    return fma(x * x * x, p, fma(x, r.low, r.low));
}

/* base + scale (e^r - 1), where scale is a power of two and the sum does not cancel r. The terms r
 * and r^2/2 enter exactly. */
static Pair exp_sum(double base, double scale, Pair r)
{
    Pair square = pair_product(r.high, r.high);
    Pair sum = pair_sum(base, scale * r.high);
    Pair next = pair_sum(sum.high, scale * 0.5 * square.high);
    double low = sum.low + next.low + scale * fma(0.5, square.low, exp_tail(r));
    return pair_fast_sum(next.high, low);
}

/* e^(x + x_low), |x_low| <= ulp(x), to about 57 bits where the result is not subnormal. */
static Pair exp_pair(double x, double x_low)
{
    const double overflow = 709.79, underflow = -745.14; /* just outside of the range */
    if (x > overflow) return (Pair){INFINITY, 0};
    if (x < underflow) return (Pair){0, 0};
    Pair r;
    int n = (int)exp_reduce(x, x_low, &r);
    Pair e = exp_sum(1, 1, r);
    return (Pair){scale(e.high, n), scale(e.low, n)};
}

double maths_exp(double x)
{
    if (isnan(x)) return x;
    return exp_pair(x, 0).high;
}

double maths_expm1(double x)
{
    if (isnan(x) || x == 0) return x; /* keeps the sign of zero */
    const double same_as_exp = 45;    /* e^x > 2^64: the 1 is far below half an ulp */
    const double minus_one = -45;
    if (x > same_as_exp) return maths_exp(x);
    if (x < minus_one) return -1;
    /* 2^n (1 + E) - 1 = (2^n - 1) + 2^n E with E = e^r - 1; |n| <= 65. */
    Pair r;
    double two_n = power_of_two((int)exp_reduce(x, 0, &r));
    Pair one = pair_sum(two_n, -1);
    Pair sum = exp_sum(one.high, two_n, r);
    return sum.high + (sum.low + one.low);
}

/* ---- logarithms ---------------------------------------------------------------------------- */

/* log(x) for positive finite x, to about 75 bits:
 *     x = 2^n m, sqrt(1/2) < m < sqrt(2);  s = (m - 1) / (m + 1), |s| < 0.172
 *     log x = n ln 2 + 2 s (1 + s^2/3 + s^4/5 + ...) */
static Pair log_pair(double x)
{
    int n = 0;
    if (x < DBL_MIN) { /* subnormal */
        x *= 0x1p+64;
        n = -64;
    }
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    n += (int)(bits >> 52) - 1023;
    bits = (bits & 0xFFFFFFFFFFFFFu) | (uint64_t)1023 << 52;
    double m;
    memcpy(&m, &bits, sizeof m);
    if (m > SQRT2) {
        m *= 0.5;
        n++;
    }
    Pair s = pair_divide((Pair){m - 1, 0}, pair_sum(m, 1));
    Pair z = pair_multiply(s, s); /* < 0.0295 */
    /* z^k / (2k + 1): plain numbers do from k = 5 on (z^4 < 2^-20), pairs below. */
    double tail = 0;
    for (int k = 15; k >= 5; k--) tail = fma(tail, z.high, 1.0 / (2 * k + 1));
    Pair sum = {tail, 0};
    for (int k = 4; k >= 0; k--) {
        Pair term = pair_divide((Pair){1, 0}, (Pair){2 * k + 1, 0});
        sum = pair_add(term, pair_multiply(sum, z));
    }
    sum = pair_multiply(sum, (Pair){2 * s.high, 2 * s.low});
    Pair ln2 = pair_sum(n * LN2_HIGH, n * LN2_MIDDLE);
    return pair_add(ln2, sum);
}

double maths_log(double x)
{
    if (isnan(x)) return x;
    if (x < 0) return NAN;
    if (x == 0) return -INFINITY;
    if (isinf(x)) return x;
    Pair r = log_pair(x);
    return r.high + r.low;
}

/* log(1 + x) for a pair x > -1, to about 60 bits. */
static Pair log1p_pair(Pair x)
{
    const double small = 0x1p-20; /* the next term, x^3/4 relative to x, is below 2^-62 */
    if (fabs(x.high) < small) {
        double square = x.high * x.high;
        return pair_fast_sum(x.high, fma(square, fma(x.high, 1.0 / 3, -0.5), x.low));
    }
    /* 1 + x = u (1 + u.low / u.high), and log(1 + t) = t to 2^-106. */
    Pair u = pair_sum(1, x.high);
    return pair_add(log_pair(u.high), (Pair){(u.low + x.low) / u.high, 0});
}

double maths_log1p(double x)
{
    if (isnan(x) || x == 0 || (isinf(x) && x > 0)) return x; /* keeps the sign of zero */
    if (x < -1) return NAN;
    if (x == -1) return -INFINITY;
    return log1p_pair((Pair){x, 0}).high;
}

double maths_pow(double x, double y)
{
    if (y == 0 || x == 1) return 1;
    if (isnan(x) || isnan(y) || x < 0) return NAN;
    if (x == 0 || isinf(x)) return (x == 0) == (y > 0) ? 0 : INFINITY;
    if (isinf(y)) return (x > 1) == (y > 0) ? INFINITY : 0;
    /* y log x, whose error is magnified by up to 745 in the exponential. */
    Pair l = log_pair(x);
    double high = y * l.high;
    const double beyond = 1000; /* outside of the range of exp; keeps infinities out of the fma */
    if (high > beyond) return INFINITY;
    if (high < -beyond) return 0;
    Pair p = pair_fast_sum(high, fma(y, l.high, -high) + y * l.low);
    return exp_pair(p.high, p.low).high;
}

/* ---- sine and cosine ----------------------------------------------------------------------- */

/* x = n pi/2 + r with |r| <= pi/4 (and a little), for |x| <= 2^30; returns n mod 4. */
static unsigned trig_reduce(double x, Pair *r)
{
    double n = (x * TWO_OVER_PI + ROUND_TO_INTEGER) - ROUND_TO_INTEGER;
    double high = fma(-n, PIO2_HIGH, x); /* exact: a multiple of 2^-53 below 1 */
    Pair middle = pair_product(-n, PIO2_MIDDLE);
    Pair sum = pair_sum(high, middle.high);
    *r = pair_fast_sum(sum.high, sum.low + fma(-n, PIO2_LOW, middle.low));
    return (unsigned)((int64_t)n & 3);
}

/* sin r = r - r^3/3! + r^5/5! - ..., the leading term last. */
static double sin_near_zero(Pair r)
{
    static const double c[] = {-1.0 / 6,
                               1.0 / 120,
                               -1.0 / 5040,
                               1.0 / 362880,
                               -1.0 / 39916800,
                               1.0 / 6227020800,
                               -1.0 / 1307674368000,
                               1.0 / 355687428096000}; /* 19!: 2^-63 */
    int i = (int)(sizeof c / sizeof c[0]) - 1;
    double x = r.high, z = x * x, p = c[i];
    while (i-- > 0) p = fma(p, z, c[i]);
    /* sin(high + low) = sin high + low cos high, cos high = 1 - z/2 */
    double low = r.low * fma(-0.5, z, 1.0);
    return x + fma(x * z, p, low);
}

/* cos r = 1 - r^2/2 + r^4/4! - ...; 1 - r^2/2 is taken exactly. */
static double cos_near_zero(Pair r)
{
    static const double c[] = {
        1.0 / 24,        -1.0 / 720,         1.0 / 40320,          -1.0 / 3628800,
        1.0 / 479001600, -1.0 / 87178291200, 1.0 / 20922789888000, -1.0 / 6402373705728000};
    int i = (int)(sizeof c / sizeof c[0]) - 1;
    double x = r.high, p = c[i];
    Pair z = pair_product(x, x);
    while (i-- > 0) p = fma(p, z.high, c[i]);
    Pair lead = pair_fast_sum(1.0, -0.5 * z.high);
    double rest = fma(-x, r.low, -0.5 * z.low); /* cos(high + low) = cos high - low sin high */
    return lead.high + (lead.low + fma(z.high * z.high, p, rest));
}

/* sin(x + quarter_turns pi/2) */
static double sin_shifted(double x, unsigned quarter_turns)
{
    const double largest = 0x1p30; /* beyond, n PIO2_HIGH is no longer exact */
    if (!(fabs(x) <= largest)) return NAN;
    Pair r;
    unsigned turn = (trig_reduce(x, &r) + quarter_turns) & 3;
    double v = (turn & 1) ? cos_near_zero(r) : sin_near_zero(r);
    return (turn & 2) ? -v : v;
}

double maths_sin(double x)
{
    if (x == 0) return x; /* keeps the sign of zero */
    return sin_shifted(x, 0);
}

double maths_cos(double x)
{
    return sin_shifted(x, 1);
}

/* ---- the logistic function ----------------------------------------------------------------- */

double maths_logsigmoid(double x)
{
    if (isnan(x)) return x;
    /* -log(1 + e^-x) = min(x, 0) - log(1 + e^-|x|): the exponential never overflows. */
    Pair tail = log1p_pair(exp_pair(-fabs(x), 0));
    double lead = x < 0 ? x : 0;
    return lead - tail.high - tail.low;
}

double maths_sigmoid(double x)
{
    if (isnan(x)) return x;
    const Pair one = {1, 0};
    Pair e = exp_pair(-fabs(x), 0);
    Pair r = pair_divide(x < 0 ? e : one, pair_add(one, e));
    return r.high;
}

/* ---- float --------------------------------------------------------------------------------- */

/* 2^n for -126 <= n <= 127 */
static float power_of_two_float(int n)
{
    uint32_t bits = (uint32_t)(n + 127) << 23;
    float r;
    memcpy(&r, &bits, sizeof r);
    return r;
}

float maths_expf(float x)
{
    if (isnan(x)) return x;
    if (x < EXPF_LOWEST) return 0;
    if (x > EXPF_HIGHEST) return INFINITY;
    float n = fmaf(x, EXPF_LOG2E, EXPF_ROUND) - EXPF_ROUND;
    float r = fmaf(-n, EXPF_LN2_LOW, fmaf(-n, EXPF_LN2_HIGH, x));
    float p = EXPF_C6;
    p = fmaf(p, r, EXPF_C5);
    p = fmaf(p, r, EXPF_C4);
    p = fmaf(p, r, EXPF_C3);
    p = fmaf(p, r, EXPF_C2);
    p = fmaf(p, r, 1);
    p = fmaf(p, r, 1);
    int whole = (int)n, half = (whole - (whole < 0)) / 2; /* rounded down */
    return p * power_of_two_float(half) * power_of_two_float(whole - half);
}

/* ---- number formats of stored weights ------------------------------------------------------ */

static float float_from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint32_t float_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

float bf16_to_float(uint16_t b)
{
    return float_from_bits((uint32_t)b << 16);
}

uint16_t bf16_from_float(float x)
{
    uint32_t bits = float_bits(x);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return (uint16_t)(bits >> 16 | 0x40); /* quiet NaN */
    /* Add just under one half of the last bit kept, or exactly half where that bit is odd. */
    return (uint16_t)((bits + 0x7FFFu + (bits >> 16 & 1)) >> 16);
}

float f16_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 0x1F, mantissa = h & 0x3FF;
    if (exponent == 0x1F) return float_from_bits(sign | 0x7F800000u | mantissa << 13);
    if (exponent == 0) { /* zero or subnormal: mantissa x 2^-24, exact in float */
        float x = (float)mantissa * 0x1p-24f;
        return sign ? -x : x;
    }
    return float_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
}

uint16_t f16_from_float(float x)
{
    uint32_t bits = float_bits(x), sign = bits >> 16 & 0x8000, a = bits & 0x7FFFFFFFu;
    if (a > 0x7F800000u) return (uint16_t)(sign | 0x7E00 | (a >> 13 & 0x3FF)); /* quiet NaN */
    if (a >= 0x477FF000u) return (uint16_t)(sign | 0x7C00); /* from 65520 on: infinity */
    if (a < 0x38800000u) { /* below 2^-14: subnormal, a multiple of 2^-24 */
        /* 0.5 has its last bit at 2^-24, so the addition itself rounds there, ties to even. */
        return (uint16_t)(sign | (float_bits(float_from_bits(a) + 0.5f) - float_bits(0.5f)));
    }
    a += 0xFFF + (a >> 13 & 1);
    return (uint16_t)(sign | (a - (112u << 23)) >> 13);
}

/* ---- formats ------------------------------------------------------------------------------- */

static void unpack_f32(real *out, const unsigned char *in, size_t n)
{
#if REAL_IS_FLOAT
    if (n) memcpy(out, in, n * sizeof *out); /* also keeps the payload of a NaN */
#else
    for (size_t i = 0; i < n; i++) {
        float x;
        memcpy(&x, in + i * sizeof x, sizeof x);
        out[i] = x;
    }
#endif
}

static void pack_f32(unsigned char *out, const real *in, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float x = (float)in[i];
        memcpy(out + i * sizeof x, &x, sizeof x);
    }
}

static void unpack_bf16(real *out, const unsigned char *in, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t x;
        memcpy(&x, in + i * sizeof x, sizeof x);
        out[i] = bf16_to_float(x);
    }
}

static void pack_bf16(unsigned char *out, const real *in, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t x = bf16_from_float((float)in[i]);
        memcpy(out + i * sizeof x, &x, sizeof x);
    }
}

static void unpack_f16(real *out, const unsigned char *in, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t x;
        memcpy(&x, in + i * sizeof x, sizeof x);
        out[i] = f16_to_float(x);
    }
}

static void pack_f16(unsigned char *out, const real *in, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t x = f16_from_float((float)in[i]);
        memcpy(out + i * sizeof x, &x, sizeof x);
    }
}

static void unpack_f64(real *out, const unsigned char *in, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        double x;
        memcpy(&x, in + i * sizeof x, sizeof x);
        out[i] = (real)x;
    }
}

const Format format_f32 = {"F32", DTYPE_F32, 1, 1, sizeof(float), unpack_f32, pack_f32};
const Format format_bf16 = {"BF16", DTYPE_BF16, 1, 1, sizeof(uint16_t), unpack_bf16, pack_bf16};
const Format format_f16 = {"F16", DTYPE_F16, 1, 1, sizeof(uint16_t), unpack_f16, pack_f16};
/* Kernels of float do not know doubles. Nothing is written as double: what is trained becomes
 * F32. */
const Format format_f64 = {"F64", DTYPE_F64, !REAL_IS_FLOAT, 1, sizeof(double), unpack_f64, NULL};

const Format *format_of(Dtype t)
{
    switch (t) {
    case DTYPE_F32: return &format_f32;
    case DTYPE_BF16: return &format_bf16;
    case DTYPE_F16: return &format_f16;
    case DTYPE_F64: break;
    }
    return &format_f64;
}

const char *dtype_name(Dtype t)
{
    return format_of(t)->name;
}

size_t format_bytes(const Format *f, size_t n)
{
    return (n / f->block + (n % f->block != 0)) * f->bytes;
}

void format_unpack(const Format *f, real *out, const void *row, size_t first, size_t n)
{
    real block[FORMAT_BLOCK_MAX];
    const unsigned char *in = (const unsigned char *)row + first / f->block * f->bytes;
    for (size_t skip = first % f->block, count; n > 0; skip = 0, n -= count, out += count) {
        if (skip == 0 && n >= f->block) { /* whole blocks */
            count = n / f->block * f->block;
            f->unpack(out, in, n / f->block);
        } else {
            count = f->block - skip < n ? f->block - skip : n;
            f->unpack(block, in, 1);
            memcpy(out, block + skip, count * sizeof *out);
        }
        in += format_bytes(f, count);
    }
}

void format_round(const Format *f, real *x, size_t n)
{
    unsigned char stored[FORMAT_BLOCK_MAX * sizeof(double)];
    for (size_t count; n > 0; n -= count, x += count) {
        count = n < FORMAT_BLOCK_MAX ? n : FORMAT_BLOCK_MAX;
        f->pack(stored, x, count / f->block);
        f->unpack(x, stored, count / f->block);
    }
}

void dtype_to_real(real *out, const void *in, Dtype t, size_t count)
{
    format_unpack(format_of(t), out, in, 0, count);
}

void dtype_to_float(float *out, const void *in, Dtype t, size_t count)
{
#if REAL_IS_FLOAT
    dtype_to_real(out, in, t, count);
#else
    for (size_t i = 0; i < count; i++) {
        real x;
        format_unpack(format_of(t), &x, in, i, 1);
        out[i] = (float)x;
    }
#endif
}
