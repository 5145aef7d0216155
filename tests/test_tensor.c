/* test_tensor.c - the kernels: the same bits from every table, and the numbers they should be.
 *
 * Bits are compared with loops written here as tensor.h states them (one chain per output), and
 * between all kernels that this machine has; numbers with double arithmetic. The last test hashes
 * results of everything and compares with the hash that x86-64 and aarch64 both gave.
 */
#include "tensor.h"
#include "test.h"

#define BODY
#include "tensor_bodies.h"

#include <float.h>
#include <stdlib.h>

/* ---- helpers ------------------------------------------------------------------------------- */

/* n numbers in [-1, 1), a function of the seed only. */
static float *numbers(size_t n, uint64_t seed)
{
    float *x = calloc(n + 1, sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = (float)(2 * rng_unit(seed, 99, i) - 1);
    return x;
}

/* Storage of a weight, one byte off any alignment, in a dtype. */
typedef struct {
    unsigned char *block;
    Mat mat;
} Stored;

static Stored stored(size_t rows, size_t cols, Dtype t, uint64_t seed)
{
    size_t size = dtype_size(t), n = rows * cols;
    float *x = numbers(n, seed);
    Stored s = {malloc(n * size + 1), {NULL, format_of(t), rows, cols, 0}};
    unsigned char *at = s.block + 1;
    for (size_t i = 0; i < n; i++) {
        uint16_t half = t == DTYPE_BF16 ? bf16_from_float(x[i]) : f16_from_float(x[i]);
        memcpy(at + i * size, t == DTYPE_F32 ? (void *)&x[i] : (void *)&half, size);
    }
    s.mat.data = at;
    free(x);
    return s;
}

/* The weight as floats. */
static float *floats(const Mat *w)
{
    float *x = malloc(w->rows * w->cols * sizeof *x + 1);
    format_unpack(w->format, x, w->data, 0, w->rows * w->cols);
    return x;
}

/* Opens kernel number i of compute_available(); returns 0 after the last. */
static int kernel_open(Compute *c, size_t i, Precision precision)
{
    char name[32];
    const char *list = compute_available();
    for (; i > 0; i--) {
        list = strchr(list, ' ');
        if (!list) return 0;
        list++;
    }
    size_t len = strcspn(list, " ");
    memcpy(name, list, len);
    name[len] = 0;
    Err e;
    int failed = compute_open(c, name, precision, &e);
    CHECK(!failed);
    return !failed;
}

static void same_bits(const float *a, const float *b, size_t n, const char *what)
{
    if (!memcmp(a, b, n * sizeof *a)) return;
    size_t i = 0;
    while (!memcmp(a + i, b + i, sizeof *a)) i++;
    printf("%s: [%zu] is %.9g, expected %.9g\n", what, i, (double)a[i], (double)b[i]);
    test_failures++;
}

static float from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* ---- products ------------------------------------------------------------------------------ */

static float rounded(float x)
{
    return bf16_to_float(bf16_from_float(x));
}

/* Numbers below 2^-126 are zeros to the bf16 instructions of x86: what is rounded to bf16,
 * operands, sums and results. A result is rounded before its size is looked at, its exponent
 * unbounded. */
static float flushed(float x)
{
    return fabsf(x) < FLT_MIN ? copysignf(0, x) : x;
}

/* a + b as BFMMLA adds: cut to 24 bits, the last of which becomes 1 if something was lost. */
static float odd_sum(float a, float b)
{
    double x = (double)a, y = (double)b, sum = x + y, back = sum - x;
    double lost = (x - (sum - back)) + (y - back); /* of the sum in double; exact */
    float z = (float)sum;
    if (!isfinite(sum)) return z;
    if (fabs((double)z) > fabs(sum) || ((double)z == sum && lost != 0 && (lost < 0) == (sum > 0)))
        z = nextafterf(z, 0);
    uint32_t bits;
    memcpy(&bits, &z, sizeof bits);
    return flushed(from_bits((double)z != sum || lost != 0 ? bits | 1 : bits));
}

/* Operands and sums of the plain kernel in f32 and in bf16, of VDPBF16PS, of BFMMLA. */
typedef enum { EXACT, ROUNDED, ROUNDED_FLUSHED, ROUNDED_FOURS } Rounding;

static Rounding rounding_of(const Compute *c)
{
    if (c->precision != PRECISION_BF16) return EXACT;
    return !c->rounded ? ROUNDED : kernels_neon() ? ROUNDED_FOURS : ROUNDED_FLUSHED;
}

/* One term of a chain: sum + x y. */
static float chain_term(float x, float y, float sum, Rounding round)
{
    if (round == ROUNDED_FLUSHED) x = flushed(x), y = flushed(y), sum = flushed(sum);
    if (round != EXACT) x = rounded(x), y = rounded(y);
    if (round == ROUNDED_FOURS) return odd_sum(flushed(sum), flushed(flushed(x) * flushed(y)));
    if (round != ROUNDED_FLUSHED) return fmaf(x, y, sum);
    x = flushed(x), y = flushed(y);
    float z = fmaf(x, y, sum);
    double exact = (double)x * (double)y + (double)sum; /* exact where z is as small as FLT_MIN */
    return fabsf(z) == FLT_MIN && fabs(exact) <= 0x1p-126 - 0x1p-151 ? copysignf(0, z) : flushed(z);
}

/* Two terms: sum + (x0 y0 + x1 y1), in the order of BFMMLA. */
static float pair_term(const float x[2], const float y[2], float sum)
{
    float first = flushed(flushed(rounded(x[0])) * flushed(rounded(y[0])));
    float second = flushed(flushed(rounded(x[1])) * flushed(rounded(y[1])));
    return odd_sum(flushed(sum), odd_sum(first, second));
}

/* c[m][n] = (add ? c : 0) + sum_k a[m am + k ak] b[k bk + n bn], as tensor.h says: one chain.
 * BFMMLA takes terms in fours, zeros where there are no more. */
static void chain(float *c, const float *a, size_t am, size_t ak, const float *b, size_t bk,
                  size_t bn, size_t M, size_t N, size_t K, int add, Rounding round)
{
    for (size_t m = 0; m < M; m++)
        for (size_t n = 0; n < N; n++) {
            float sum = add ? c[m * N + n] : 0;
            for (size_t k = 0; k < K && round != ROUNDED_FOURS; k++)
                sum = chain_term(a[m * am + k * ak], b[k * bk + n * bn], sum, round);
            for (size_t k = 0; k < (K + 3) / 4 * 4 && round == ROUNDED_FOURS; k += 2) {
                float x[2] = {0, 0}, y[2] = {0, 0};
                for (size_t i = 0; i < 2 && k + i < K; i++) {
                    x[i] = a[m * am + (k + i) * ak];
                    y[i] = b[(k + i) * bk + n * bn];
                }
                sum = pair_term(x, y, sum);
            }
            c[m * N + n] = sum;
        }
}

/* All three products of one shape against the chain. */
static void products_of(const Compute *c, size_t T, size_t N, size_t K, Dtype t, int add)
{
    Rounding round = rounding_of(c);
    Stored s = stored(N, K, t, 7);
    float *w = floats(&s.mat), *x = numbers(T * K, 1), *dy = numbers(T * N, 2);
    float *y = numbers(T * N, 3), *yc = numbers(T * N, 3);
    tensor_linear(c, y, x, &s.mat, T, add);
    chain(yc, x, K, 1, w, 1, K, T, N, K, add, round);
    same_bits(y, yc, T * N, "linear");
    float *dx = numbers(T * K, 4), *dxc = numbers(T * K, 4);
    tensor_linear_dx(c, dx, dy, &s.mat, T, add);
    chain(dxc, dy, N, 1, w, K, 1, T, K, N, add, round);
    same_bits(dx, dxc, T * K, "linear_dx");
    float *dw = numbers(N * K, 5), *dwc = numbers(N * K, 5);
    tensor_linear_dw(c, dw, dy, x, T, N, K);
    chain(dwc, dy, 1, N, x, K, 1, N, K, T, 1, EXACT);
    same_bits(dw, dwc, N * K, "linear_dw");
    float *all[] = {w, x, dy, y, yc, dx, dxc, dw, dwc};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) free(all[i]);
    free(s.block);
}

static void products_small(void)
{
    Compute c;
    for (size_t i = 0; kernel_open(&c, i, PRECISION_F32); i++, compute_close(&c))
        for (size_t T = 1; T <= 25; T += T < 9 ? 1 : 4)
            for (size_t N = 1; N <= 49; N++)
                products_of(&c, T, N, 1 + (T * 5 + N * 3) % 33, (Dtype)(N % 3), (int)(T + N) & 1);
}

static void products_remainders(void)
{
    Compute c;
    for (size_t i = 0; kernel_open(&c, i, PRECISION_F32); i++, compute_close(&c))
        for (size_t K = 1; K <= 65; K++)
            for (size_t t = 0; t < 3; t++) products_of(&c, 1 + K % 17, 17, K, (Dtype)t, K & 1);
}

static void products_large(void)
{
    const size_t shapes[][3] = {{1, 40, 257},  {7, 33, 600},   {600, 20, 31},
                                {16, 300, 90}, {3, 16, 1030},  {777, 2, 3},
                                {4, 600, 70},  {40, 130, 300}, {37, 301, 129}};
    Compute c;
    for (int threads = 1; threads <= 7; threads += threads < 3 ? 1 : 4) { /* 1, 2, 3, 7 */
        threads_set(threads);
        for (size_t i = 0; kernel_open(&c, i, PRECISION_F32); i++, compute_close(&c))
            for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
                products_of(&c, shapes[s][0], shapes[s][1], shapes[s][2], (Dtype)(s % 3), s & 1);
    }
    threads_set(0);
}

/* Few rows so wide that their sums take several strips (along), so deep that they take several
 * passes (across): one thread, or each would get less. */
static void products_wide(void)
{
    Compute c;
    threads_set(1);
    for (int p = 0; p < 2; p++)
        for (size_t i = 0; kernel_open(&c, i, p ? PRECISION_BF16 : PRECISION_F32);
             i++, compute_close(&c)) {
            products_of(&c, 3, 5, 8400, DTYPE_BF16, 1);
            products_of(&c, 16, 18, 8720, DTYPE_F32, 0);
            products_of(&c, 16, 3, 17500, DTYPE_BF16, 1);
        }
    threads_set(0);
}

/* Every number of rows, columns and terms around the sizes of tiles, registers and pairs of terms;
 * several passes; several threads. */
static void products_bf16(void)
{
    Compute c;
    for (size_t i = 0; kernel_open(&c, i, PRECISION_BF16); i++, compute_close(&c)) {
        for (size_t T = 1; T <= 25; T += T < 9 ? 1 : 4)
            for (size_t N = 1; N <= 49; N += 1 + N % 3)
                products_of(&c, T, N, 1 + (T * 5 + N * 3) % 33, (Dtype)((T + N) % 3), (int)N & 1);
        for (size_t K = 1; K <= 65; K++) products_of(&c, 1 + K % 17, 32, K, (Dtype)(K % 3), K & 1);
    }
    for (int threads = 1; threads <= 3; threads += 2) {
        threads_set(threads);
        for (size_t i = 0; kernel_open(&c, i, PRECISION_BF16); i++, compute_close(&c))
            for (size_t t = 0; t < 3; t++) {
                products_of(&c, 14, 33, 1030, (Dtype)t, 1);
                products_of(&c, 270, 17, 50, (Dtype)t, 0);
                products_of(&c, 3, 530, 34, (Dtype)t, 1);
                products_of(&c, 37, 301, 129, (Dtype)t, 0);
            }
    }
    threads_set(0);
}

/* Operands are rounded as bf16_from_float does, ties included: x times 1, in many rows and few. */
static void products_rounding(void)
{
    enum { T = 3 * 32768 };
    const uint16_t one = 0x3f80;
    Mat w = {&one, &format_bf16, 1, 1, 0};
    float *x = malloc(T * sizeof *x), *y = malloc(T * sizeof *y);
    for (uint32_t i = 0; i < T; i++) /* every other upper half; below, at and above a tie */
        x[i] = from_bits((i / 3 * 2 << 16) + 0x10000 * (i & 1) + 0x7fff + i % 3);
    Compute c;
    for (size_t k = 0; kernel_open(&c, k, PRECISION_BF16); k++, compute_close(&c))
        for (size_t rows = 3; rows <= T; rows *= 32768) {
            size_t wrong = 0, first = T - rows;
            tensor_linear(&c, y, x + first, &w, rows, 0);
            for (size_t t = 0; t < rows; t++) {
                float e = chain_term(x[first + t], 1, 0, rounding_of(&c));
                wrong += (size_t)(isnan(e) ? !isnan(y[t]) : y[t] != e);
            }
            CHECK_INT(wrong, 0);
        }
    free(x), free(y);
}

/* Numbers whose products and sums lie around 2^-126, and others that overflow: bit for bit what
 * chain_term says, the signs of zeros included, however many rows there are. */
static void products_tiny(void)
{
    enum { T = 20, N = 48, K = 7 };
    const int power[] = {-64, -63, -62, -126, -130, 0, 70};
    Compute c;
    Stored s = stored(N, K, DTYPE_BF16, 31);
    unsigned char *w = s.block + 1;
    float *x = numbers(T * K, 32), *start = numbers(T * N, 33), *y = numbers(T * N, 33);
    for (size_t i = 0; i < N * K; i++) { /* half of them below zero, as x */
        uint16_t half;
        memcpy(&half, w + 2 * i, sizeof half);
        half = bf16_from_float(ldexpf(bf16_to_float(half), power[rng_u64(34, 0, i) % 7]));
        memcpy(w + 2 * i, &half, sizeof half);
    }
    for (size_t i = 0; i < T * K; i++) x[i] = ldexpf(x[i], power[rng_u64(35, 0, i) % 7]);
    for (size_t i = 0; i < T * N; i++) start[i] = ldexpf(start[i], i % 4 ? -126 : -129);
    float *e = numbers(T * N, 36), *weights = floats(&s.mat);
    for (size_t i = 0; kernel_open(&c, i, PRECISION_BF16); i++, compute_close(&c)) {
        memcpy(e, start, T * N * sizeof *e);
        chain(e, x, K, 1, weights, 1, K, T, N, K, 1, rounding_of(&c));
        for (size_t rows = 1; rows <= T; rows++) {
            memcpy(y, start, T * N * sizeof *y);
            tensor_linear(&c, y, x, &s.mat, rows, 1);
            same_bits(y, e, rows * N, "tiny");
        }
    }
    free(x), free(start), free(y), free(e), free(weights), free(s.block);
}

static void products_empty(void)
{
    Compute c;
    kernel_open(&c, 0, PRECISION_F32);
    float y[6] = {1, 2, 3, 4, 5, 6}, x = 0;
    Mat none = {&x, &format_f32, 3, 0, 0};
    tensor_linear(&c, y, &x, &none, 2, 1);
    CHECK(y[0] == 1);
    CHECK(y[5] == 6);
    tensor_linear(&c, y, &x, &none, 2, 0);
    CHECK(y[0] == 0);
    CHECK(y[5] == 0);
    tensor_linear(&c, y, &x, &none, 0, 0);
    compute_close(&c);
}

/* |y - exact| <= K 2^-24 sum |x w|, and a row alone equals the row in company. */
static void products_accuracy(void)
{
    enum { T = 9, N = 50, K = 700 };
    Compute c;
    kernel_open(&c, 0, PRECISION_F32);
    Stored s = stored(N, K, DTYPE_F32, 11);
    float *w = floats(&s.mat), *x = numbers(T * K, 12), *y = numbers(T * N, 13), alone[N];
    tensor_linear(&c, y, x, &s.mat, T, 0);
    for (size_t t = 0; t < T; t++) {
        for (size_t n = 0; n < N; n++) {
            double sum = 0, size = 0;
            for (size_t k = 0; k < K; k++) {
                double term = (double)x[t * K + k] * (double)w[n * K + k];
                sum += term;
                size += fabs(term);
            }
            CHECK_NEAR((double)y[t * N + n], sum, K * 0x1p-24 * size);
        }
        tensor_linear(&c, alone, x + t * K, &s.mat, 1, 0);
        same_bits(alone, y + t * N, N, "a row alone");
    }
    free(w), free(x), free(y), free(s.block);
    compute_close(&c);
}

/* ---- rows ---------------------------------------------------------------------------------- */

/* The vectorised exp has the bits of maths_expf: one float in 257 of all, and the edges. */
static void exp_bits(void)
{
    size_t wrong = 0;
    for (uint64_t b = 0; b <= UINT32_MAX; b += 257) {
        float x = from_bits((uint32_t)b), a = body_exp(x), e = maths_expf(x);
        wrong += memcmp(&a, &e, sizeof a) != 0;
    }
    const float edges[] = {0,  -0.0f, 1,        -1,       EXPF_LOWEST, EXPF_HIGHEST,
                           89, -104,  INFINITY, -INFINITY};
    for (size_t i = 0; i < sizeof edges / sizeof edges[0]; i++)
        for (int step = -1; step <= 1; step++) {
            float x = step ? nextafterf(edges[i], (float)step * 1000) : edges[i];
            float a = body_exp(x), e = maths_expf(x);
            wrong += memcmp(&a, &e, sizeof a) != 0;
        }
    CHECK_INT(wrong, 0);
}

/* Results of every row function for rows of n, from one kernel: 16 stretches of n numbers. */
enum { ROW_RESULTS = 16 };
static void rows_results(const Compute *c, float *out, size_t n, float odd)
{
    float *a = numbers(2 * n, 21), *b = numbers(2 * n, 22), *g = numbers(n, 23);
    float *slot[ROW_RESULTS], r[2];
    for (size_t i = 0; i < ROW_RESULTS; i++) {
        slot[i] = out + i * n;
        for (size_t k = 0; k < n; k++) slot[i][k] = b[(k + i) % n];
    }
    for (size_t i = 0; i < n; i++) a[i] *= 30;
    a[n / 2] = odd;
    Mat gain = {g, &format_f32, 1, n, 0};
    tensor_add(c, slot[0], a, b, n);
    tensor_axpy(c, slot[1], 0.3f, a, n);
    tensor_rmsnorm(c, slot[2], r, a, &gain, 1e-5, 1);
    tensor_rmsnorm_backward(c, slot[3], slot[4], b, a, &gain, r, 1);
    tensor_swiglu(c, slot[5], a, b, n);
    tensor_swiglu_backward(c, slot[6], slot[7], b, a, g, n);
    tensor_dropout(c, slot[8], a, 0.25, 5, n);
    memcpy(slot[9], a, n * sizeof *a);
    tensor_softmax_row(c, slot[9], n);
    memcpy(slot[10], a, n * sizeof *a);
    uint32_t position = 0;
    if (n % 2 == 0) tensor_rope(c, slot[10], g, b, &position, 1, 1, n, 0);
    for (size_t k = 0; k < n; k++) slot[13][k] = fabsf(slot[13][k]);
    AdamW step = {1e-3, 0.9, 0.999, 1e-8, 0.01, 3, 0.7};
    tensor_adamw(c, slot[11], a, slot[12], slot[13], n, &step);
    slot[14][0] = r[0];
    double squares = tensor_sum_squares(c, a, n);
    slot[15][0] = (float)squares;
    free(a), free(b), free(g);
}

static void rows_bits(void)
{
    const float odd[] = {1, 0, -200, 1e30f, INFINITY};
    Compute ref, c;
    kernel_open(&ref, 0, PRECISION_F32);
    for (size_t i = 1; kernel_open(&c, i, PRECISION_F32); i++, compute_close(&c))
        for (size_t n = 1; n <= 35; n++)
            for (size_t k = 0; k < sizeof odd / sizeof odd[0]; k++) {
                float a[ROW_RESULTS * 35], b[ROW_RESULTS * 35];
                rows_results(&ref, a, n, odd[k]);
                rows_results(&c, b, n, odd[k]);
                for (size_t j = 0; j < ROW_RESULTS * n; j++) /* any NaN equals any NaN */
                    if (isnan(a[j]) && isnan(b[j])) a[j] = b[j] = 0;
                same_bits(b, a, ROW_RESULTS * n, "rows");
            }
    compute_close(&ref);
}

static void rmsnorm_numbers(void)
{
    enum { T = 5, H = 100 };
    Compute c;
    kernel_open(&c, 0, PRECISION_F32);
    Stored s = stored(1, H, DTYPE_BF16, 31);
    float *x = numbers(T * H, 32), *g = floats(&s.mat), y[T * H], r[T];
    tensor_rmsnorm(&c, y, r, x, &s.mat, 1e-6, T);
    for (size_t t = 0; t < T; t++) {
        double sum = 0;
        for (size_t i = 0; i < H; i++) sum += (double)x[t * H + i] * (double)x[t * H + i];
        double root = 1 / sqrt(sum / H + 1e-6);
        CHECK_NEAR((double)r[t], root, 2e-7 * root);
        for (size_t i = 0; i < H; i++)
            CHECK_NEAR((double)y[t * H + i], (double)g[i] * (double)x[t * H + i] * root, 1e-6);
    }
    free(x), free(g), free(s.block);
    compute_close(&c);
}

static void rope_numbers(void)
{
    enum { T = 3, HEADS = 2, D = 6, HALF = D / 2 };
    const uint32_t position[T] = {0, 4, 2};
    Compute c;
    kernel_open(&c, 0, PRECISION_F32);
    float cosines[5 * HALF], sines[5 * HALF];
    for (int i = 0; i < 5 * HALF; i++) {
        cosines[i] = (float)maths_cos(0.7 * i);
        sines[i] = (float)maths_sin(0.7 * i);
    }
    float *x = numbers(T * HEADS * D, 33), *y = numbers(T * HEADS * D, 33);
    tensor_rope(&c, y, cosines, sines, position, T, HEADS, D, 0);
    for (size_t t = 0; t < T; t++)
        for (size_t i = 0; i < HEADS * HALF; i++) {
            size_t a = (t * HEADS + i / HALF) * D + i % HALF, b = a + HALF;
            double angle = 0.7 * (double)(position[t] * HALF + i % HALF);
            double re = (double)x[a], im = (double)x[b];
            CHECK_NEAR((double)y[a], re * cos(angle) - im * sin(angle), 3e-7);
            CHECK_NEAR((double)y[b], im * cos(angle) + re * sin(angle), 3e-7);
        }
    tensor_rope(&c, y, cosines, sines, position, T, HEADS, D, 1);
    for (size_t i = 0; i < T * HEADS * D; i++) CHECK_NEAR((double)y[i], (double)x[i], 5e-7);
    free(x), free(y);
    compute_close(&c);
}

static void swiglu_numbers(void)
{
    const float gate[] = {0, 1, -1, 20, -20, 100, -100, 1e30f, -1e30f},
                up[] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    enum { n = sizeof gate / sizeof gate[0] };
    Compute c;
    kernel_open(&c, 0, PRECISION_F32);
    float y[n], dgate[n] = {0}, dup[n] = {0};
    tensor_swiglu(&c, y, gate, up, n);
    tensor_swiglu_backward(&c, dgate, dup, up, gate, up, n);
    for (size_t i = 0; i < n; i++) {
        double z = (double)gate[i], u = (double)up[i], s = 1 / (1 + exp(-z)),
               slope = s + z * s * (1 - s);
        if (z < -700) s = slope = 0;
        CHECK_NEAR((double)y[i], z * s * u, 3e-7 * fabs(z * s * u) + 1e-38);
        CHECK_NEAR((double)dup[i], u * z * s, 3e-7 * fabs(u * z * s) + 1e-38);
        CHECK_NEAR((double)dgate[i], u * u * slope, 1e-6 * u * u);
    }
    compute_close(&c);
}

static void embed_gather(void)
{
    enum { V = 9, H = 70, T = 5 };
    const int32_t ids[T] = {3, 8, 3, 0, 3};
    const uint32_t rows[T] = {3, 8, 3, 0, 3};
    Compute c;
    kernel_open(&c, 0, PRECISION_F32);
    Stored s = stored(V, H, DTYPE_F16, 41);
    float *w = floats(&s.mat), x[T * H], y[T * H], *d = numbers(T * H, 42), a[V * H] = {0},
          b[V * H] = {0};
    tensor_embed(&c, x, &s.mat, ids, T);
    tensor_gather(&c, y, w, rows, T, H);
    for (size_t t = 0; t < T; t++) same_bits(x + t * H, w + (size_t)ids[t] * H, H, "embed");
    same_bits(y, x, T * H, "gather");
    tensor_embed_backward(&c, a, d, ids, T, V, H);
    tensor_gather_backward(&c, b, d, rows, T, V, H);
    same_bits(a, b, V * H, "gather_backward");
    for (size_t i = 0; i < H; i++) {
        CHECK(a[3 * H + i] == d[i] + d[2 * H + i] + d[4 * H + i]);
        CHECK(a[8 * H + i] == d[H + i]);
        CHECK(a[1 * H + i] == 0);
    }
    free(w), free(d), free(s.block);
    compute_close(&c);
}

static void dropout_mask(void)
{
    enum { n = 40000 };
    Compute c;
    kernel_open(&c, 0, PRECISION_F32);
    float *x = numbers(n, 51), *y = numbers(n, 52);
    for (size_t i = 0; i < n; i++) x[i] = 1;
    tensor_dropout(&c, y, x, 0.1, 77, n);
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        CHECK(y[i] == 0 || y[i] == (float)(1 / 0.9));
        CHECK((y[i] != 0) == (rng_unit(77, RNG_DROPOUT, i) >= 0.1));
        kept += y[i] != 0;
    }
    CHECK_NEAR((double)kept / n, 0.9, 0.01);
    tensor_dropout(&c, y, x, 0, 77, n);
    same_bits(y, x, n, "p = 0 keeps all");
    free(x), free(y);
    compute_close(&c);
}

static void softmax_extremes(void)
{
    Compute c;
    kernel_open(&c, 0, PRECISION_F32);
    float z[] = {1e30f, -1e30f, 1e30f, 0}, one[] = {-5}, low[] = {-200, -200.5f, -INFINITY};
    tensor_softmax_row(&c, z, 4);
    CHECK(z[0] == 0.5f && z[1] == 0 && z[2] == 0.5f && z[3] == 0);
    tensor_softmax_row(&c, one, 1);
    CHECK(one[0] == 1);
    tensor_softmax_row(&c, low, 3);
    CHECK_NEAR((double)low[0], 1 / (1 + exp(-0.5)), 1e-7);
    CHECK(low[2] == 0);
    compute_close(&c);
}

static void adamw_numbers(void)
{
    enum { n = 20, STEPS = 10 };
    Compute c;
    kernel_open(&c, 0, PRECISION_F32);
    float *w = numbers(n, 61), m[n] = {0}, v[n] = {0};
    double W[n], M[n] = {0}, S[n] = {0};
    for (size_t i = 0; i < n; i++) W[i] = (double)w[i];
    for (uint64_t t = 1; t <= STEPS; t++) {
        float *g = numbers(n, 62 + t);
        AdamW a = {1e-2, 0.9, 0.999, 1e-8, 0.1, t, 0.5};
        tensor_adamw(&c, w, g, m, v, n, &a);
        for (size_t i = 0; i < n; i++) {
            double d = 0.5 * (double)g[i];
            W[i] -= a.lr * a.weight_decay * W[i];
            M[i] = 0.9 * M[i] + 0.1 * d;
            S[i] = 0.999 * S[i] + 0.001 * d * d;
            W[i] -= a.lr * (M[i] / (1 - pow(0.9, (double)t))) /
                    (sqrt(S[i] / (1 - pow(0.999, (double)t))) + 1e-8);
        }
        free(g);
    }
    for (size_t i = 0; i < n; i++) CHECK_NEAR((double)w[i], W[i], 1e-6);
    free(w);
    compute_close(&c);
}

static void sums_and_nonfinite(void)
{
    enum { n = 70000 };
    Compute c;
    kernel_open(&c, 0, PRECISION_F32);
    float *x = numbers(n, 71);
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    CHECK_NEAR(tensor_sum_squares(&c, x, n), sum, 1e-9 * sum);
    CHECK(tensor_sum_squares(&c, x, 0) == 0);
    CHECK_INT(tensor_find_nonfinite(x, n), n);
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < 3; i++) {
        float keep = x[5000 * i];
        x[n - 1] = NAN;
        x[5000 * i] = bad[i];
        CHECK_INT(tensor_find_nonfinite(x, n), 5000 * i);
        x[5000 * i] = keep;
    }
    free(x);
    compute_close(&c);
}

/* ---- attention ----------------------------------------------------------------------------- */

/* One attention problem with gradients: all arrays of a batch. */
typedef struct {
    AttentionShape s;
    size_t T, keys; /* rows of the batch, rows of keys */
    float *q, *k, *v, *dout, *o, *stat, *dq, *dk, *dv;
} Attention;

static Attention attention_make(size_t Q, size_t G, size_t D, size_t window, size_t T, size_t keys)
{
    Attention a = {{Q, G, D, window, 1 / sqrt((double)D)}, T, keys, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    a.q = numbers(T * Q * D, 81);
    a.k = numbers(keys * G * D, 82);
    a.v = numbers(keys * G * D, 83);
    a.dout = numbers(T * Q * D, 84);
    for (size_t i = 0; i < T * Q * D; i++) a.q[i] *= 4; /* some peaks */
    a.o = calloc(T * Q * D, sizeof(float));
    a.stat = calloc(T * Q * 2, sizeof(float));
    a.dq = calloc(T * Q * D, sizeof(float));
    a.dk = calloc(keys * G * D, sizeof(float));
    a.dv = calloc(keys * G * D, sizeof(float));
    return a;
}

static void attention_free(Attention *a)
{
    float *all[] = {a->q, a->k, a->v, a->dout, a->o, a->stat, a->dq, a->dk, a->dv};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) free(all[i]);
}

/* Keys [first, first + count) of the problem. */
static KeySpan span_of(const Attention *a, size_t first, size_t count)
{
    size_t at = first * a->s.G * a->s.D;
    return (KeySpan){a->k + at, a->v + at, a->dk + at, a->dv + at, count};
}

static void attention_run(const Compute *c, Attention *a, const AttentionSeq *seqs, size_t n)
{
    tensor_attention(c, a->o, a->stat, a->q, seqs, n, &a->s);
    tensor_attention_backward(c, a->dq, a->dout, a->o, a->stat, a->q, seqs, n, &a->s);
}

/* One row of attention in double: o[D]. */
static void attention_exact(const Attention *a, size_t row, size_t p, size_t h, double *o)
{
    size_t G = a->s.G, D = a->s.D, g = h / (a->s.Q / G);
    size_t first = a->s.window && p + 1 > a->s.window ? p + 1 - a->s.window : 0;
    double sum = 0, *score = malloc((p + 1) * sizeof *score), top = -INFINITY;
    for (size_t j = first; j <= p; j++) {
        score[j] = 0;
        for (size_t i = 0; i < D; i++)
            score[j] += a->s.scale * (double)a->q[(row * a->s.Q + h) * D + i] *
                        (double)a->k[(j * G + g) * D + i];
        if (score[j] > top) top = score[j];
    }
    for (size_t i = 0; i < D; i++) o[i] = 0;
    for (size_t j = first; j <= p; j++) {
        double e = exp(score[j] - top);
        sum += e;
        for (size_t i = 0; i < D; i++) o[i] += e * (double)a->v[(j * G + g) * D + i];
    }
    for (size_t i = 0; i < D; i++) o[i] /= sum;
    free(score);
}

static void attention_numbers(void)
{
    enum { T = 70 };
    const size_t windows[] = {0, 1, 7, 40, 100};
    Compute c;
    for (size_t n = 0; kernel_open(&c, n, PRECISION_F32); n++, compute_close(&c))
        for (size_t w = 0; w < sizeof windows / sizeof windows[0]; w++) {
            Attention a = attention_make(6, 2, 20, windows[w], T, T);
            KeySpan span = span_of(&a, 0, T);
            AttentionSeq seq = {0, T, 0, &span, 1};
            tensor_attention(&c, a.o, a.stat, a.q, &seq, 1, &a.s);
            for (size_t t = 0; t < T; t++)
                for (size_t h = 0; h < 6; h++) {
                    double o[20];
                    attention_exact(&a, t, t, h, o);
                    for (size_t i = 0; i < 20; i++)
                        CHECK_NEAR((double)a.o[(t * 6 + h) * 20 + i], o[i], 1e-6);
                }
            attention_free(&a);
        }
}

/* Every kernel and every thread count gives the bits of ref with one thread. */
static void attention_bits(void)
{
    const size_t shapes[][4] = {{1, 1, 1, 0},  {2, 1, 5, 0},   {3, 3, 8, 9},
                                {8, 2, 16, 0}, {4, 1, 33, 20}, {112, 1, 4, 0}};
    const int threads[] = {1, 2, 3, 7};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        Attention first = {0};
        for (size_t n = 0; n < 8; n++)
            for (size_t t = 0; t < sizeof threads / sizeof threads[0]; t++) {
                Compute c;
                threads_set(threads[t]);
                if (!kernel_open(&c, n, PRECISION_F32)) break;
                Attention a =
                    attention_make(shapes[i][0], shapes[i][1], shapes[i][2], shapes[i][3], 71, 71);
                KeySpan spans[] = {span_of(&a, 0, 30), span_of(&a, 30, 11), span_of(&a, 41, 30)};
                AttentionSeq seqs[] = {{0, 41, 0, spans, 2}, {41, 30, 0, spans + 2, 1}};
                attention_run(&c, &a, seqs, 2);
                if (!first.q) {
                    first = a;
                } else {
                    size_t rows = a.T * a.s.Q * a.s.D, keys = a.keys * a.s.G * a.s.D;
                    same_bits(a.o, first.o, rows, "o");
                    same_bits(a.stat, first.stat, a.T * a.s.Q * 2, "stat");
                    same_bits(a.dq, first.dq, rows, "dq");
                    same_bits(a.dk, first.dk, keys, "dk");
                    same_bits(a.dv, first.dv, keys, "dv");
                    attention_free(&a);
                }
                compute_close(&c);
            }
        attention_free(&first);
    }
    threads_set(0);
}

/* Two completions share a prompt's rows: outputs have the bits of two whole sequences, and the
 * gradients of the prompt's keys are their sums. */
static void attention_shared(void)
{
    enum { P = 37, A = 20, B = 9, Q = 4, G = 2, D = 12, ROW = Q * D, KEY = G * D };
    for (size_t window = 0; window <= 10; window += 10) {
        Compute c;
        kernel_open(&c, 0, PRECISION_F32);
        /* rows: prompt, completion a, completion b */
        Attention a = attention_make(Q, G, D, window, P + A + B, P + A + B);
        KeySpan sa[] = {span_of(&a, 0, P), span_of(&a, P, A)};
        KeySpan sb[] = {span_of(&a, 0, P), span_of(&a, P + A, B)};
        AttentionSeq seqs[] = {{0, P, 0, sa, 1}, {P, A, P, sa, 2}, {P + A, B, P, sb, 2}};
        attention_run(&c, &a, seqs, 3);
        /* the same sequences whole: prompt + a, prompt + b */
        Attention u = attention_make(Q, G, D, window, 2 * P + A + B, 2 * P + A + B);
        const size_t from[] = {0, P, 0, P + A}, count[] = {P, A, P, B};
        for (size_t i = 0, to = 0; i < 4; to += count[i++]) {
            memcpy(u.q + to * ROW, a.q + from[i] * ROW, count[i] * ROW * sizeof(float));
            memcpy(u.dout + to * ROW, a.dout + from[i] * ROW, count[i] * ROW * sizeof(float));
            memcpy(u.k + to * KEY, a.k + from[i] * KEY, count[i] * KEY * sizeof(float));
            memcpy(u.v + to * KEY, a.v + from[i] * KEY, count[i] * KEY * sizeof(float));
        }
        memset(u.dout + (P + A) * ROW, 0, P * ROW * sizeof(float)); /* the prompt counts once */
        KeySpan ua = span_of(&u, 0, P + A), ub = span_of(&u, P + A, P + B);
        AttentionSeq whole[] = {{0, P + A, 0, &ua, 1}, {P + A, P + B, 0, &ub, 1}};
        attention_run(&c, &u, whole, 2);
        same_bits(a.o, u.o, (P + A) * ROW, "prompt and a");
        same_bits(a.o + (P + A) * ROW, u.o + (2 * P + A) * ROW, B * ROW, "b");
        same_bits(a.dq, u.dq, (P + A) * ROW, "dq of prompt and a");
        for (size_t i = 0; i < P * KEY; i++) {
            CHECK_NEAR((double)a.dk[i], (double)u.dk[i] + (double)u.dk[(P + A) * KEY + i], 1e-5);
            CHECK_NEAR((double)a.dv[i], (double)u.dv[i] + (double)u.dv[(P + A) * KEY + i], 1e-5);
        }
        attention_free(&a), attention_free(&u);
        compute_close(&c);
    }
}

/* The last queries of a long sequence, together and one at a time over a cache: the same bits, also
 * where the scores of a block fit only if it has fewer queries (3,000 keys), or only in several
 * chunks of keys (5,600), and those of a single query do at once. */
static void attention_decode(void)
{
    const size_t windows[] = {0, 50, 5500}, keys[] = {130, 3000, 5600};
    enum { T = 130, Q = 2, G = 1, D = 4 };
    Compute c;
    CHECK(kernel_open(&c, kernels_avx2() || kernels_neon() ? 1 : 0, PRECISION_F32));
    for (size_t w = 0; w < 9; w++) {
        size_t n = keys[w / 3], past = n - T, window = windows[w % 3];
        Attention a = attention_make(Q, G, D, window, T, n);
        Attention b = attention_make(Q, G, D, window, T, n);
        KeySpan all = span_of(&a, 0, n);
        AttentionSeq seq = {0, T, past, &all, 1};
        tensor_attention(&c, a.o, a.stat, a.q, &seq, 1, &a.s);
        for (size_t t = 0; t < T; t++) {
            size_t p = past + t;
            double o[D];
            KeySpan spans[] = {span_of(&b, 0, p / 3), span_of(&b, p / 3, p + 1 - p / 3)};
            AttentionSeq one = {t, 1, p, spans, 2};
            tensor_attention(&c, b.o, b.stat, b.q, &one, 1, &b.s);
            attention_exact(&a, t, p, t % Q, o);
            for (size_t i = 0; i < D; i++)
                CHECK_NEAR((double)a.o[(t * Q + t % Q) * D + i], o[i], 1e-6);
        }
        same_bits(b.o, a.o, T * Q * D, "decoded");
        same_bits(b.stat, a.stat, T * Q * 2, "decoded stat");
        attention_free(&a), attention_free(&b);
    }
    compute_close(&c);
}

/* Keys that want no gradients get none. */
static void attention_frozen_keys(void)
{
    Compute c;
    kernel_open(&c, 0, PRECISION_F32);
    Attention a = attention_make(2, 2, 4, 0, 3, 9);
    KeySpan spans[] = {span_of(&a, 0, 6), span_of(&a, 6, 3)};
    spans[0].dk = spans[0].dv = NULL;
    AttentionSeq seq = {0, 3, 6, spans, 2};
    attention_run(&c, &a, &seq, 1);
    for (size_t i = 0; i < 6 * 8; i++) CHECK(a.dk[i] == 0 && a.dv[i] == 0);
    CHECK(a.dv[6 * 8] != 0 && a.dq[0] != 0);
    attention_free(&a);
    compute_close(&c);
}

/* ---- the head ------------------------------------------------------------------------------ */

typedef struct {
    float *h, *logp, *square, *direction;
    int32_t *target;
    Stored w;
    size_t n, V, H;
} Head;

static Head head_make(size_t n, size_t V, size_t H, float size)
{
    Head x = {.n = n, .V = V, .H = H, .w = stored(V, H, DTYPE_BF16, 91)};
    x.h = numbers(n * H, 92);
    /* In steps of 1/64, as W is in steps of 2^-9 or finer: logits are nearly exact, so that the
     * tolerances below are about what tensor_logprob does with them. */
    for (size_t i = 0; i < n * H; i++) x.h[i] = roundf(64 * size * x.h[i]) / 64;
    x.logp = calloc(n, sizeof(float));
    x.square = calloc(n, sizeof(float));
    x.direction = calloc(n * H, sizeof(float));
    x.target = calloc(n, sizeof *x.target);
    for (size_t i = 0; i < n; i++) x.target[i] = (int32_t)(rng_u64(93, 0, i) % V);
    return x;
}

static void head_run(const Compute *c, Head *x, size_t first, size_t n, int direction)
{
    void *scratch = malloc(tensor_logprob_scratch(n, direction));
    tensor_logprob(c, x->logp + first, x->square + first,
                   direction ? x->direction + first * x->H : NULL, x->h + first * x->H, &x->w.mat,
                   x->target + first, n, scratch);
    free(scratch);
}

static void head_free(Head *x)
{
    free(x->h), free(x->logp), free(x->square), free(x->direction), free(x->target),
        free(x->w.block);
}

/* Row t against double arithmetic; the target's own probability enters as 1 - p = sum of others. */
static void head_check(const Head *x, size_t t, double tolerance)
{
    float *w = floats(&x->w.mat);
    double *z = malloc(x->V * sizeof *z), top = -INFINITY, others = 0, squares = 0;
    size_t y = (size_t)x->target[t];
    for (size_t v = 0; v < x->V; v++) {
        z[v] = 0;
        for (size_t i = 0; i < x->H; i++)
            z[v] += (double)x->h[t * x->H + i] * (double)w[v * x->H + i];
        if (z[v] > top) top = z[v];
    }
    for (size_t v = 0; v < x->V; v++) {
        if (v != y) others += exp(z[v] - top);
        squares += exp(2 * (z[v] - top));
    }
    double total = others + exp(z[y] - top);
    double logp = z[y] - top - log(total), square = log(squares) - 2 * log(total);
    CHECK_NEAR((double)x->logp[t], logp, tolerance * (1 + fabs(logp) / 10));
    CHECK_NEAR((double)x->square[t], square, tolerance * (1 + fabs(square) / 10));
    for (size_t i = 0; i < x->H; i++) {
        double d = others / total * (double)w[y * x->H + i];
        for (size_t v = 0; v < x->V; v++)
            if (v != y) d -= exp(z[v] - top) / total * (double)w[v * x->H + i];
        CHECK_NEAR((double)x->direction[t * x->H + i], d, 1e-6);
    }
    free(w), free(z);
}

static void logprob_numbers(void)
{
    const size_t vocabularies[] = {1, 2, 17, 2048, 2049, 5000, 50000};
    Compute c;
    for (size_t k = 0; kernel_open(&c, k, PRECISION_F32); k++, compute_close(&c))
        for (size_t i = 0; i < sizeof vocabularies / sizeof vocabularies[0]; i++) {
            Head x = head_make(vocabularies[i] > 10000 ? 1 : 4, vocabularies[i], 24, 3);
            x.target[0] = (int32_t)x.V - 1;
            head_run(&c, &x, 0, x.n, 1);
            for (size_t t = 0; t < x.n; t++) head_check(&x, t, 1e-6);
            head_free(&x);
        }
}

/* A row is the same alone, in company, and whether or not its gradient is wanted. */
static void logprob_bits(void)
{
    enum { n = 530, V = 2100, H = 8 };
    Compute c;
    Head a = head_make(n, V, H, 2);
    kernel_open(&c, 0, PRECISION_F32);
    threads_set(1);
    head_run(&c, &a, 0, n, 1);
    compute_close(&c);
    for (size_t k = 0; k < 8; k++) {
        Head b = head_make(n, V, H, 2);
        threads_set((int)k % 3 + 1);
        if (!kernel_open(&c, k, PRECISION_F32)) {
            head_free(&b);
            break;
        }
        for (size_t at = 0, len = 1; at < n; at += len++)
            head_run(&c, &b, at, size_min(len, n - at), 1);
        same_bits(b.logp, a.logp, n, "logp");
        same_bits(b.square, a.square, n, "square");
        same_bits(b.direction, a.direction, n * H, "direction");
        head_run(&c, &b, 0, n, 0);
        same_bits(b.logp, a.logp, n, "logp without direction");
        head_free(&b);
        compute_close(&c);
    }
    head_free(&a);
    threads_set(0);
}

/* Sizes on the head, over more than a chunk of the vocabulary: logits times sizes over lengths. */
static void head_sizes(void)
{
    enum { n = 3, V = 2100, H = 8, R = 2 };
    Compute c;
    Head x = head_make(n, V, H, 2);
    float *u = numbers(n * R, 96), *b = numbers(V * R, 97), *m = numbers(V, 98);
    float *lengths = numbers(V, 99), logp[n], *w = floats(&x.w.mat);
    double norm[n];
    Mat B = {.data = b, .format = &format_f32, .rows = V, .cols = R};
    void *scratch = malloc(tensor_logprob_scratch(n, 0));
    for (size_t v = 0; v < V; v++) lengths[v] = 1 + lengths[v] * lengths[v];
    kernel_open(&c, 0, PRECISION_F32);
    tensor_logprob_adapted(&c, logp, NULL, norm, x.h, &x.w.mat, &(HeadAdapter){u, &B, m, lengths},
                           x.target, n, scratch);
    for (size_t t = 0; t < n; t++) {
        double sum = 0, own = 0;
        for (size_t v = 0; v < V; v++) {
            double z = 0;
            for (size_t i = 0; i < H; i++) z += (double)x.h[t * H + i] * (double)w[v * H + i];
            for (size_t r = 0; r < R; r++) z += (double)u[t * R + r] * (double)b[v * R + r];
            z *= (double)m[v] / (double)lengths[v];
            sum += exp(z);
            if (v == (size_t)x.target[t]) own = z;
        }
        CHECK_NEAR((double)logp[t], own - log(sum), 1e-5);
    }
    compute_close(&c);
    head_free(&x);
    free(scratch), free(w), free(u), free(b), free(m), free(lengths);
}

/* An adapter on the head: B = 0 leaves every bit of the plain head; any other B is as good as R
 * more columns of W, with u in those of h. */
static void logprob_adapted(void)
{
    enum { n = 530, V = 2100, H = 8, R = 3, WIDE = H + R };
    Compute c;
    float *u = numbers(n * R, 94), *b = numbers(V * R, 95), *zero = calloc(V * R, sizeof *zero);
    float *logp = calloc(n, sizeof *logp), *square = calloc(n, sizeof *square);
    double *norm = calloc(n, sizeof *norm);
    void *scratch = malloc(tensor_logprob_scratch(n, 0));
    Mat B = {.data = b, .format = &format_f32, .rows = V, .cols = R}, none = B;
    none.data = zero;
    for (size_t k = 0; k < 16; k++) {
        Head x = head_make(n, V, H, 2), wide = head_make(n, V, WIDE, 2);
        threads_set((int)k % 3 + 1);
        if (!kernel_open(&c, k / 2, k % 2 ? PRECISION_BF16 : PRECISION_F32)) {
            head_free(&x), head_free(&wide);
            break;
        }
        head_run(&c, &x, 0, n, 1);
        tensor_logprob_adapted(&c, logp, square, norm, x.h, &x.w.mat,
                               &(HeadAdapter){.u = u, .b = &none}, x.target, n, scratch);
        same_bits(logp, x.logp, n, "logp with B = 0");
        same_bits(square, x.square, n, "square with B = 0");
        tensor_logprob_adapted(&c, logp, square, norm, x.h, &x.w.mat, &(HeadAdapter){0}, x.target,
                               n, scratch);
        same_bits(logp, x.logp, n, "logp of a trained head");

        float *w = floats(&x.w.mat), *both = calloc(V * WIDE, sizeof *both);
        for (size_t v = 0; v < V * WIDE; v++)
            both[v] = v % WIDE < H ? w[v / WIDE * H + v % WIDE] : b[v / WIDE * R + v % WIDE - H];
        for (size_t i = 0; i < n * WIDE; i++)
            wide.h[i] =
                i % WIDE < H ? x.h[i / WIDE * H + i % WIDE] : u[i / WIDE * R + i % WIDE - H];
        wide.w.mat.data = both;
        wide.w.mat.format = &format_f32;
        tensor_logprob_adapted(&c, logp, square, norm, x.h, &x.w.mat,
                               &(HeadAdapter){.u = u, .b = &B}, x.target, n, scratch);
        c.precision = PRECISION_F32;
        head_run(&c, &wide, 0, n, 0);
        for (size_t t = 0; t < n; t++) {
            double z = 0;
            for (size_t i = 0; i < WIDE; i++)
                z += (double)wide.h[t * WIDE + i] * (double)both[(size_t)x.target[t] * WIDE + i];
            double tolerance = k % 2 ? 0.1 : 1e-5;
            CHECK_NEAR((double)logp[t], (double)wide.logp[t], tolerance);
            CHECK_NEAR((double)square[t], (double)wide.square[t], 2 * tolerance);
            CHECK_NEAR(z - norm[t], (double)wide.logp[t], tolerance);
        }
        free(w), free(both);
        head_free(&x), head_free(&wide);
        compute_close(&c);
    }
    free(u), free(b), free(zero), free(logp), free(square), free(norm), free(scratch);
    threads_set(0);
}

/* Very sure and very wrong rows: nothing overflows, the gradient keeps its digits. */
static void logprob_extremes(void)
{
    enum { V = 40, H = 2 };
    Compute c;
    kernel_open(&c, 0, PRECISION_F32);
    Head x = head_make(2, V, H, 1);
    float *w = floats(&x.w.mat);
    for (size_t v = 0; v < V; v++) w[v * H] = v == 7 ? 40 : 0, w[v * H + 1] = (float)v / V;
    x.w.mat.data = w;
    x.w.mat.format = &format_f32;
    x.h[0] = x.h[2] = 30; /* logit 1,200 for 7, about 0 for the others */
    x.h[1] = x.h[3] = 0;
    x.target[0] = 7, x.target[1] = 3;
    head_run(&c, &x, 0, 2, 1);
    CHECK(x.logp[0] == 0);
    CHECK(x.logp[1] == -1200);
    CHECK(x.direction[0] == 0);
    CHECK(x.direction[2] == -40);
    x.h[0] = 0.5f; /* 20 against 0: 1 - p = 39 e^-20, which 1 - p in float would lose */
    head_run(&c, &x, 0, 1, 1);
    CHECK_NEAR((double)x.logp[0] / (-39 * exp(-20)), 1, 1e-6);
    CHECK_NEAR((double)x.direction[0] / (40 * 39 * exp(-20)), 1, 1e-6);
    free(w);
    head_free(&x);
    compute_close(&c);
}

/* ---- choosing, and the same bits everywhere ------------------------------------------------ */

/* ---- formats that kernels do not know ------------------------------------------------------ */

/* 32 numbers in 34 bytes: a scale in F16, then whole numbers of 8 bits. */
static void unpack_q8(real *out, const unsigned char *in, size_t blocks)
{
    for (size_t i = 0; i < 32 * blocks; i++) {
        const unsigned char *block = in + i / 32 * 34;
        uint16_t scale;
        memcpy(&scale, block, sizeof scale);
        out[i] = f16_to_float(scale) * (float)((int)block[2 + i % 32] - 128);
    }
}
static const Format format_q8 = {.name = "Q8", .block = 32, .bytes = 34, .unpack = unpack_q8};

/* Random storage of a weight in one of them. */
static Stored stored_unknown(const Format *f, size_t rows, size_t cols, uint64_t seed)
{
    Stored s = {NULL, {NULL, f, rows, cols, 0}};
    size_t bytes = mat_bytes(&s.mat);
    s.block = malloc(bytes + 1);
    for (size_t i = 0; i < bytes; i++) {
        uint64_t draw = rng_u64(seed, 98, i);
        double number = 2 * rng_unit(seed, 99, i) - 1;
        uint16_t scale = f16_from_float((float)(draw % 64) / 4096);
        unsigned char *at = s.block + 1 + i;
        if (f == &format_f64 && i % 8 == 0) memcpy(at, &number, sizeof number);
        if (f == &format_q8 && i % 34 > 1) *at = (unsigned char)draw;
        if (f == &format_q8 && i % 34 == 0) memcpy(at, &scale, sizeof scale);
    }
    s.mat.data = s.block + 1;
    return s;
}

/* The same numbers in F32, which every kernel knows. */
static Mat known(const Mat *w)
{
    return (Mat){floats(w), &format_f32, w->rows, w->cols, 0};
}

static const Format *const unknown[] = {&format_q8, &format_f64};

/* Any stretch of a row, as it is cut from the whole. */
static void unpacked_stretches(void)
{
    for (size_t i = 0; i < 2; i++) {
        Stored s = stored_unknown(unknown[i], 1, 192, 5);
        float *all = floats(&s.mat), some[192];
        CHECK_INT(mat_bytes(&s.mat), (i ? 192 * 8 : 6 * 34));
        for (size_t first = 0; first < 192; first++)
            for (size_t n = 0; n <= 192 - first; n += 1 + n / 8) {
                some[n < 192 ? n : 0] = -7;
                format_unpack(unknown[i], some, s.mat.data, first, n);
                same_bits(some, all + first, n, "stretch");
                CHECK(n == 192 || some[n] == -7);
            }
        free(all), free(s.block);
    }
}

static void unpacked_products_of(const Compute *c, const Mat *w, const Mat *f32, size_t T)
{
    size_t N = w->rows, K = w->cols;
    for (int add = 0; add < 2; add++) {
        float *x = numbers(T * K, 1), *dy = numbers(T * N, 2);
        float *y[2] = {numbers(T * N, 3), numbers(T * N, 3)};
        float *dx[2] = {numbers(T * K, 4), numbers(T * K, 4)};
        for (int k = 0; k < 2; k++) {
            tensor_linear(c, y[k], x, k ? f32 : w, T, add);
            tensor_linear_dx(c, dx[k], dy, k ? f32 : w, T, add);
        }
        same_bits(y[0], y[1], T * N, "y");
        same_bits(dx[0], dx[1], T * K, "dx");
        free(x), free(dy), free(y[0]), free(y[1]), free(dx[0]), free(dx[1]);
    }
}

/* Every kernel gives the bits of the same numbers in F32. */
static void unpacked_products(void)
{
    const size_t shapes[][2] = {{1, 32}, {70, 96}, {40, 544}}, rows[] = {1, 17, 270};
    Compute c;
    for (int precision = 0; precision < 2; precision++)
        for (size_t n = 0; kernel_open(&c, n, (Precision)precision); n++, compute_close(&c))
            for (size_t i = 0; i < 2; i++)
                for (size_t s = 0; s < 3; s++) {
                    Stored w = stored_unknown(unknown[i], shapes[s][0], shapes[s][1], s);
                    Mat f32 = known(&w.mat);
                    for (size_t t = 0; t < 3; t++) /* many rows of the deep one add only time */
                        if (s < 2 || t < 2) unpacked_products_of(&c, &w.mat, &f32, rows[t]);
                    free(w.block), free((void *)(uintptr_t)f32.data);
                }
}

/* Rows of an embedding, gains of a norm, and the head with its gradient. */
/* Rows that are stored in pairs give the products of rows in order: of few rows and of many, in
 * formats that kernels know and in one that they do not. */
static void paired_rows(void)
{
    const Dtype known_types[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    const size_t heads = 5, D = 12, K = 96, rows[] = {1, 3, 17, 270};
    Compute c;
    for (size_t n = 0; kernel_open(&c, n, PRECISION_F32); n++, compute_close(&c))
        for (size_t f = 0; f < 4; f++) {
            Stored s = f < 3 ? stored(heads * D, K, known_types[f], 11)
                             : stored_unknown(&format_q8, heads * D, K, 11);
            float *in_order = malloc(heads * D * K * sizeof *in_order), row[96];
            s.mat.paired = D;
            mat_unpack(&s.mat, in_order);
            Mat f32 = {in_order, &format_f32, heads * D, K, 0};
            for (size_t t = 0; t < 4; t++) unpacked_products_of(&c, &s.mat, &f32, rows[t]);
            format_unpack(s.mat.format, row, s.mat.data, (2 * D + 2 * 4 + 1) * K, K);
            same_bits(row, in_order + (2 * D + D / 2 + 4) * K, K, "row 4 of a second half");
            free(in_order), free(s.block);
        }
}

static void unpacked_rows(void)
{
    enum { n = 5, V = 2100, H = 64 };
    const int32_t ids[n] = {3, 0, 2099, 1024, 3};
    Compute c;
    kernel_open(&c, 0, PRECISION_F32);
    for (size_t i = 0; i < 2; i++) {
        Stored w = stored_unknown(unknown[i], V, H, 6), g = stored_unknown(unknown[i], 1, H, 7);
        Mat f32 = known(&w.mat), gain = known(&g.mat);
        float *x[2], r[n], *y[2], logp[2][n], *direction[2];
        void *scratch = malloc(tensor_logprob_scratch(n, 1));
        for (int k = 0; k < 2; k++) {
            x[k] = numbers(n * H, 1), y[k] = numbers(n * H, 1), direction[k] = numbers(n * H, 1);
            tensor_embed(&c, x[k], k ? &f32 : &w.mat, ids, n);
            tensor_rmsnorm(&c, y[k], r, x[k], k ? &gain : &g.mat, 1e-5, n);
            tensor_logprob(&c, logp[k], NULL, direction[k], y[k], k ? &f32 : &w.mat, ids, n,
                           scratch);
        }
        same_bits(x[0], x[1], n * H, "embedding");
        same_bits(y[0], y[1], n * H, "norm");
        same_bits(logp[0], logp[1], n, "logp");
        same_bits(direction[0], direction[1], n * H, "direction");
        for (int k = 0; k < 2; k++) free(x[k]), free(y[k]), free(direction[k]);
        free(w.block), free(g.block), free(scratch);
        free((void *)(uintptr_t)f32.data), free((void *)(uintptr_t)gain.data);
    }
    compute_close(&c);
}

static void choosing(void)
{
    Compute c;
    Err e = {0, ""};
    CHECK_INT(compute_open(&c, "avx3", PRECISION_F32, &e), -1);
    CHECK_INT(e.code, ERR_USAGE);
    CHECK_HAS(e.text, "avx3");
    CHECK_HAS(e.text, compute_available());
    CHECK_OK(compute_open(&c, "auto", PRECISION_F32, &e), &e);
    CHECK_HAS(compute_available(), compute_name(&c));
    CHECK(!c.rounded); /* nothing for bf16 only */
    compute_close(&c);
    /* the last one listed is the fastest in bf16 */
    const char *last = strrchr(compute_available(), ' ');
    CHECK_OK(compute_open(&c, "auto", PRECISION_BF16, &e), &e);
    CHECK_TEXT(compute_name(&c), last ? last + 1 : "ref");
    compute_close(&c);
}

/* FNV-1a, 64 bits. */
static uint64_t hash_add(uint64_t hash, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        for (int k = 0; k < 4; k++) hash = (hash ^ (bits >> 8 * k & 255)) * 0x100000001b3u;
    }
    return hash;
}

static uint64_t hash_of(const Compute *c)
{
    uint64_t hash = 0xcbf29ce484222325u;
    float rows[ROW_RESULTS * 30];
    rows_results(c, rows, 30, 3);
    hash = hash_add(hash, rows, ROW_RESULTS * 30);
    Attention a = attention_make(4, 2, 10, 0, 50, 50);
    KeySpan span = span_of(&a, 0, 50);
    AttentionSeq seq = {0, 50, 0, &span, 1};
    attention_run(c, &a, &seq, 1);
    hash = hash_add(hash_add(hash, a.o, 50 * 40), a.dq, 50 * 40);
    hash = hash_add(hash_add(hash, a.dk, 50 * 20), a.dv, 50 * 20);
    attention_free(&a);
    Head x = head_make(9, 300, 21, 2);
    head_run(c, &x, 0, 9, 1);
    hash = hash_add(hash_add(hash, x.logp, 9), x.square, 9);
    hash = hash_add(hash, x.direction, 9 * 21);
    head_free(&x);
    return hash;
}

static void hash_everywhere(void)
{
    const uint64_t expected = 0x347aa025a91009e0u;
    Compute c;
    for (size_t i = 0; kernel_open(&c, i, PRECISION_F32); i++, compute_close(&c)) {
        uint64_t hash = hash_of(&c);
        if (hash != expected)
            printf("%s: hash %016llx\n", compute_name(&c), (unsigned long long)hash);
        CHECK_INT(hash, expected);
    }
}

static const Test tests[] = {
    {"products_small", products_small},
    {"products_remainders", products_remainders},
    {"products_large", products_large},
    {"products_wide", products_wide},
    {"products_bf16", products_bf16},
    {"products_rounding", products_rounding},
    {"products_tiny", products_tiny},
    {"products_empty", products_empty},
    {"products_accuracy", products_accuracy},
    {"exp_bits", exp_bits},
    {"rows_bits", rows_bits},
    {"rmsnorm_numbers", rmsnorm_numbers},
    {"rope_numbers", rope_numbers},
    {"swiglu_numbers", swiglu_numbers},
    {"embed_gather", embed_gather},
    {"dropout_mask", dropout_mask},
    {"softmax_extremes", softmax_extremes},
    {"adamw_numbers", adamw_numbers},
    {"sums_and_nonfinite", sums_and_nonfinite},
    {"attention_numbers", attention_numbers},
    {"attention_bits", attention_bits},
    {"attention_shared", attention_shared},
    {"attention_decode", attention_decode},
    {"attention_frozen_keys", attention_frozen_keys},
    {"logprob_numbers", logprob_numbers},
    {"logprob_bits", logprob_bits},
    {"logprob_adapted", logprob_adapted},
    {"head_sizes", head_sizes},
    {"logprob_extremes", logprob_extremes},
    {"unpacked_stretches", unpacked_stretches},
    {"unpacked_products", unpacked_products},
    {"unpacked_rows", unpacked_rows},
    {"paired_rows", paired_rows},
    {"choosing", choosing},
    {"hash_everywhere", hash_everywhere},
};
TEST_MAIN(tests)
