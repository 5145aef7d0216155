/* tensor_avx2.c - bodies for x86-64 with AVX2, FMA and F16C (2013 and later).
 *
 * The tile is 6 rows x 16 columns of C: 12 of the 16 vector registers hold sums, two hold a row of
 * the panel, one a broadcast element of A, so that each step of k issues 12 multiply-adds for 2
 * loads and 6 broadcasts. Twelve independent chains cover the latency of the unit (4 cycles x 2).
 * Packing turns stored rows into columns by 8 x 8 transposes in registers. The row bodies are the
 * plain ones, compiled for this instruction set.
 */
#include "tensor.h"
#include "tensor_kernels.h"

#if REAL_IS_FLOAT && defined(__x86_64__) && defined(__GNUC__)

#define BODY __attribute__((target("avx2,fma,f16c")))
#include "tensor_bodies.h"

#include <cpuid.h>
#include <immintrin.h>

#define INLINE BODY static inline __attribute__((always_inline))

enum { ROWS = 6, COLS = 16, WIDTH = 8, FEW = 4 }; /* of the tile; numbers in a register */
_Static_assert(ROWS == 6 && FEW == 4, "WITH_... below say so, too");

/* `rows` is a constant at every call, so that the sums live in registers. */
INLINE void tile_of(float *const *c, const float *a, const float *b, size_t depth, int rows,
                    int add, const Ahead *ahead)
{
    size_t line = 0;
    __m256 sum[ROWS][2];
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++) {
        sum[i][0] = add ? _mm256_loadu_ps(c[i]) : _mm256_setzero_ps();
        sum[i][1] = add ? _mm256_loadu_ps(c[i] + WIDTH) : _mm256_setzero_ps();
    }
    for (size_t k = 0; k < depth; k++, a += ROWS, b += COLS) {
        if (line < ahead->count) _mm_prefetch(ahead->line[line++], _MM_HINT_T1);
        __m256 b0 = _mm256_loadu_ps(b), b1 = _mm256_loadu_ps(b + WIDTH);
#pragma GCC unroll 6
        for (int i = 0; i < rows; i++) {
            __m256 x = _mm256_broadcast_ss(a + i);
            sum[i][0] = _mm256_fmadd_ps(x, b0, sum[i][0]);
            sum[i][1] = _mm256_fmadd_ps(x, b1, sum[i][1]);
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++) {
        _mm256_storeu_ps(c[i], sum[i][0]);
        _mm256_storeu_ps(c[i] + WIDTH, sum[i][1]);
    }
}

BODY static void avx2_tile(float *const *c, const void *a, const void *b, size_t depth, size_t rows,
                           size_t cols, int add, const Ahead *ahead)
{
    (void)cols;
    WITH_UP_TO_6(rows, tile_of(c, a, b, depth, fixed, add, ahead));
}

/* Turns 8 rows of 8 numbers into columns. */
INLINE void transpose(__m256 r[WIDTH])
{
    __m256 p[WIDTH], q[WIDTH];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) { /* pairs of rows */
        p[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        p[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) { /* fours of rows */
        q[4 * i] = _mm256_shuffle_ps(p[4 * i], p[4 * i + 2], 0x44);
        q[4 * i + 1] = _mm256_shuffle_ps(p[4 * i], p[4 * i + 2], 0xee);
        q[4 * i + 2] = _mm256_shuffle_ps(p[4 * i + 1], p[4 * i + 3], 0x44);
        q[4 * i + 3] = _mm256_shuffle_ps(p[4 * i + 1], p[4 * i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) { /* halves of registers */
        r[i] = _mm256_permute2f128_ps(q[i], q[i + 4], 0x20);
        r[i + 4] = _mm256_permute2f128_ps(q[i], q[i + 4], 0x31);
    }
}

/* Eight stored numbers as floats, exactly; t is a constant at every call. */
INLINE __m256 load_stored(const unsigned char *p, Dtype t)
{
    if (t == DTYPE_F32) return _mm256_loadu_ps((const float *)(const void *)p);
    __m128i half = _mm_loadu_si128((const __m128i *)(const void *)p);
    if (t == DTYPE_F16) return _mm256_cvtph_ps(half);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

INLINE void pack_across_of(float *panel, const unsigned char *const *rows, Dtype t, size_t depth)
{
    size_t size = dtype_size(t), k = 0;
    for (; k + WIDTH <= depth; k += WIDTH) {
        for (int half = 0; half < 2; half++) {
            __m256 r[WIDTH];
#pragma GCC unroll 8
            for (int i = 0; i < WIDTH; i++)
                r[i] = load_stored(rows[half * WIDTH + i] + k * size, t);
            transpose(r);
#pragma GCC unroll 8
            for (int i = 0; i < WIDTH; i++)
                _mm256_storeu_ps(panel + (k + (size_t)i) * COLS + half * WIDTH, r[i]);
        }
    }
    pack_rest(panel + k * COLS, COLS, rows, t, k, depth - k);
}

BODY static void avx2_pack_across(void *panel, const unsigned char *const *rows, Dtype t,
                                  size_t depth, size_t cols)
{
    (void)cols;
    WITH_DTYPE(t, pack_across_of(panel, rows, fixed, depth));
}

/* Chains of sixteen outputs for each of `width` rows of A: eight stored rows of eight numbers
 * become columns in registers, and each column is one step of eight chains. STEPS columns of one
 * half are taken before the other half: rows of W often lie a multiple of 4 KB apart, and then more
 * than eight of them do not fit the level-1 cache together. width and t are constants at every
 * call. */
INLINE void few_across_of(float *const *c, const float *a, int width,
                          const unsigned char *const *rows, Dtype t, size_t depth, int add)
{
    enum { STEPS = 2 * WIDTH };
    size_t size = dtype_size(t), k = 0;
    __m256 sum[FEW][2];
    for (int m = 0; m < width; m++)
        for (int half = 0; half < 2; half++)
            sum[m][half] = add ? _mm256_loadu_ps(c[m] + half * WIDTH) : _mm256_setzero_ps();
    for (; k + STEPS <= depth; k += STEPS, a += STEPS * width)
#pragma GCC unroll 4
        for (int part = 0; part < 4; part++) {
            int half = part / 2, at = part % 2 * WIDTH;
            __m256 r[WIDTH];
#pragma GCC unroll 8
            for (int i = 0; i < WIDTH; i++)
                r[i] = load_stored(rows[half * WIDTH + i] + (k + (size_t)at) * size, t);
            transpose(r);
#pragma GCC unroll 8
            for (int i = 0; i < WIDTH; i++)
#pragma GCC unroll 4
                for (int m = 0; m < width; m++)
                    sum[m][half] = _mm256_fmadd_ps(_mm256_broadcast_ss(a + (at + i) * width + m),
                                                   r[i], sum[m][half]);
        }
    for (int m = 0; m < width; m++)
        for (int half = 0; half < 2; half++) _mm256_storeu_ps(c[m] + half * WIDTH, sum[m][half]);
    few_rest(c, COLS, a, (size_t)width, rows, t, k, depth - k);
}

INLINE void few_across_width(float *const *c, const float *a, size_t width,
                             const unsigned char *const *rows, Dtype t, size_t depth, int add)
{
    WITH_POWER_TO_4(width, few_across_of(c, a, fixed, rows, t, depth, add));
}

BODY static void avx2_few_across(float *const *c, const void *a, size_t width,
                                 const unsigned char *const *rows, Dtype t, size_t depth, int add)
{
    WITH_DTYPE(t, few_across_width(c, a, width, rows, fixed, depth, add));
}

/* The same where stored rows are rows of B: nothing to turn. */
INLINE void few_along_of(float *const *c, const float *a, int width, const unsigned char *data,
                         size_t stride, Dtype t, size_t depth, size_t cols, int add)
{
    size_t size = dtype_size(t);
    for (size_t j = 0; j < cols; j += COLS) {
        __m256 sum[FEW][2];
        for (int m = 0; m < width; m++)
            for (size_t half = 0; half < 2; half++)
                sum[m][half] = add ? _mm256_loadu_ps(c[m] + j + half * WIDTH) : _mm256_setzero_ps();
        for (size_t k = 0; k < depth; k++) {
            const unsigned char *from = data + k * stride + j * size;
            __m256 b0 = load_stored(from, t), b1 = load_stored(from + WIDTH * size, t);
#pragma GCC unroll 4
            for (int m = 0; m < width; m++) {
                __m256 x = _mm256_broadcast_ss(a + k * (size_t)width + m);
                sum[m][0] = _mm256_fmadd_ps(x, b0, sum[m][0]);
                sum[m][1] = _mm256_fmadd_ps(x, b1, sum[m][1]);
            }
        }
        for (int m = 0; m < width; m++)
            for (size_t half = 0; half < 2; half++)
                _mm256_storeu_ps(c[m] + j + half * WIDTH, sum[m][half]);
    }
}

INLINE void few_along_width(float *const *c, const float *a, size_t width,
                            const unsigned char *data, size_t stride, Dtype t, size_t depth,
                            size_t cols, int add)
{
    WITH_POWER_TO_4(width, few_along_of(c, a, fixed, data, stride, t, depth, cols, add));
}

BODY static void avx2_few_along(float *const *c, const void *a, size_t width,
                                const unsigned char *data, size_t stride, Dtype t, size_t depth,
                                size_t cols, int add)
{
    WITH_DTYPE(t, few_along_width(c, a, width, data, stride, fixed, depth, cols, add));
}

INLINE void pack_along_of(float *panel, const unsigned char *data, size_t stride, Dtype t,
                          size_t depth)
{
    size_t half = WIDTH * dtype_size(t);
    for (size_t k = 0; k < depth; k++, data += stride, panel += COLS) {
        _mm256_storeu_ps(panel, load_stored(data, t));
        _mm256_storeu_ps(panel + WIDTH, load_stored(data + half, t));
    }
}

BODY static void avx2_pack_along(void *panel, const unsigned char *data, size_t stride, Dtype t,
                                 size_t depth, size_t cols)
{
    if (cols < COLS) {
        for (size_t k = 0; k < depth; k++)
            dtype_to_float((float *)panel + k * COLS, data + k * stride, t, cols);
        return;
    }
    WITH_DTYPE(t, pack_along_of(panel, data, stride, fixed, depth));
}

/* Stores eight numbers for every six: the next store, or the next tile, covers the two too many,
 * and the packing buffer ends with room to spare. */
BODY static void avx2_pack_rows(void *to, size_t width, const float *const *rows, size_t step,
                                size_t depth)
{
    float *packed = to;
    size_t k = 0;
    for (; width == ROWS && step == 1 && k + WIDTH <= depth; k += WIDTH) {
        __m256 r[WIDTH];
#pragma GCC unroll 8
        for (int i = 0; i < WIDTH; i++) r[i] = _mm256_loadu_ps(rows[i < ROWS ? i : 0] + k);
        transpose(r);
#pragma GCC unroll 8
        for (int i = 0; i < WIDTH; i++) _mm256_storeu_ps(packed + (k + (size_t)i) * ROWS, r[i]);
    }
    for (; k < depth; k++)
        for (size_t i = 0; i < width; i++) packed[k * width + i] = rows[i][k * step];
}

static const Kernels table = {
    .product = {.rows = ROWS,
                .cols = COLS,
                .lanes = COLS,
                .few = FEW,
                .depth = PRODUCT_DEPTH,
                .size = sizeof(float),
                .step = 1,
                .tile = avx2_tile,
                .pack_rows = avx2_pack_rows,
                .pack_across = avx2_pack_across,
                .pack_along = avx2_pack_along,
                .few_across = avx2_few_across,
                .few_along = avx2_few_along},
    BODY_TABLE,
};

const Kernels *kernels_avx2(void)
{
    unsigned a, b, c, d; /* asked directly: clang's builtin does not know f16c */
    int f16c = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
    return f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &table : NULL;
}

#else

const Kernels *kernels_avx2(void)
{
    return NULL;
}

#endif
