/* tensor_avx512bf16.c - products of bf16 operands with VDPBF16PS (Zen 4, Cooper Lake and later).
 *
 * The instruction adds two products to each of sixteen f32 sums:
 *
 *     sum = fma(a.high, b.high, sum);  sum = fma(a.low, b.low, sum)
 *
 * one rounding each, numbers below 2^-126 taken as zero. So if the earlier of two terms lies in the
 * upper half of its word, this is the chain of tensor.h at twice the speed. Stored rows have it in
 * the lower half; turning them into columns swaps the halves on the way.
 *
 * Packed rows and panels hold words of two terms, A[k/2][i] and B[k/2][j]. An odd last term gets a
 * partner: 0 in A and -0 in B, whose product -0 changes no sum. The tile is that of the f32 file.
 */
#include "tensor.h"
#include "tensor_kernels.h"

#if REAL_IS_FLOAT && defined(__x86_64__) &&                                                        \
    ((defined(__clang__) && __clang_major__ >= 9) || (!defined(__clang__) && __GNUC__ >= 10))

#define BODY __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")))
#include "tensor_avx512.h"

#include <cpuid.h>

enum { PAIR = 2, TERMS = PAIR * WIDTH }; /* terms in a word, in a register */
#define NO_TERM 0x8000u                  /* the bf16 number -0 */
#define BIT_AVX512BF16 (1u << 5)         /* of cpuid(7, 1).eax */

INLINE __m512 add_products(__m512 sum, __m512i a, __m512i b)
{
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

/* ---- the tile ------------------------------------------------------------------------------ */

/* `rows` and `vectors` are constants at every call, so that the sums live in registers. */
INLINE void tile_of(float *const *c, const uint32_t *a, const uint32_t *b, size_t depth, int rows,
                    int vectors, int add, const Ahead *ahead)
{
    __m512 sum[ROWS][VECTORS];
    size_t line = 0;
    take_sums(sum, c, rows, vectors, add);
    for (size_t k = 0; k < depth; k += PAIR, a += ROWS, b += COLS) {
        if (line < ahead->count) _mm_prefetch(ahead->line[line++], _MM_HINT_T1);
        if (line < ahead->count) _mm_prefetch(ahead->line[line++], _MM_HINT_T1);
        __m512i row[VECTORS];
#pragma GCC unroll 3
        for (int v = 0; v < vectors; v++) row[v] = _mm512_loadu_si512(b + v * WIDTH);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            __m512i x = _mm512_set1_epi32((int)a[i]);
#pragma GCC unroll 3
            for (int v = 0; v < vectors; v++) sum[i][v] = add_products(sum[i][v], x, row[v]);
        }
    }
    put_sums(c, sum, rows, vectors);
}

INLINE void tile_rows(float *const *c, const void *a, const void *b, size_t depth, size_t rows,
                      int vectors, int add, const Ahead *ahead)
{
    WITH_UP_TO_8(rows, tile_of(c, a, b, depth, fixed, vectors, add, ahead));
}

BODY static void bf16_tile(float *const *c, const void *a, const void *b, size_t depth, size_t rows,
                           size_t cols, int add, const Ahead *ahead)
{
    WITH_UP_TO_3(cols / WIDTH, tile_rows(c, a, b, depth, rows, fixed, add, ahead));
}

/* ---- stored rows become columns ------------------------------------------------------------ */

/* Thirty-two numbers as bf16. */
INLINE __m512i round_both(__m512 first, __m512 second)
{
    return (__m512i)_mm512_cvtne2ps_pbh(second, first);
}

/* Thirty-two terms of a stored row, rounded if they are not bf16, or the first `count` of them and
 * -0 for the others. The earlier term of a pair lies below. t is a constant at every call. */
INLINE __m512i load_words(const unsigned char *p, Dtype t, size_t count)
{
    const __m512i none = _mm512_set1_epi16((short)NO_TERM);
    __m512i words = count >= TERMS ? _mm512_loadu_si512(p) : none;
    if (t == DTYPE_F32) {
        size_t rest = count > WIDTH ? count - WIDTH : 0;
        __m512 nothing = _mm512_set1_ps(-0.0f);
        return round_both(_mm512_mask_loadu_ps(nothing, mask16(count), p),
                          _mm512_mask_loadu_ps(nothing, mask16(rest), p + WIDTH * sizeof(float)));
    }
    if (count < TERMS) words = _mm512_mask_loadu_epi16(none, mask32(count), p);
    if (t == DTYPE_BF16) return words;
    return round_both(_mm512_cvtph_ps(_mm512_castsi512_si256(words)),
                      _mm512_cvtph_ps(_mm512_extracti64x4_epi64(words, 1)));
}

/* The earlier terms go up. */
INLINE __m512i swap_halves(__m512i words)
{
    return _mm512_rol_epi32(words, 16);
}

/* Terms of sixteen rows, half turned. */
INLINE void load_fours(__m512i q[WIDTH], const unsigned char *const *rows, size_t at, Dtype t,
                       size_t count)
{
    __m512i row[WIDTH];
#pragma GCC unroll 16
    for (int i = 0; i < WIDTH; i++) row[i] = load_words(rows[i] + at, t, count);
    turn_fours(q, row);
}

/* Terms 2i and 2i + 1 of every row. */
INLINE __m512i column(const __m512i q[WIDTH], int i)
{
    return swap_halves(turn_word(q, i));
}

/* `count` terms of a panel; inlined once for whole steps. */
INLINE void pack_step(uint32_t *panel, const unsigned char *const *rows, size_t at, Dtype t,
                      size_t count, size_t cols)
{
    for (size_t j = 0; j < cols; j += WIDTH) {
        __m512i q[WIDTH];
        load_fours(q, rows + j, at, t, count);
#pragma GCC unroll 16
        for (int i = 0; i < WIDTH; i++)
            if ((size_t)(PAIR * i) < count)
                _mm512_storeu_si512(panel + (size_t)i * COLS + j, column(q, i));
    }
}

INLINE void pack_across_of(uint32_t *panel, const unsigned char *const *rows, Dtype t, size_t depth,
                           size_t cols)
{
    size_t size = dtype_size(t);
    for (size_t k = 0, n; k < depth; k += n, panel += n / PAIR * COLS) {
        n = step_terms(rows[0] + k * size, depth - k, TERMS, size);
        if (n == TERMS)
            pack_step(panel, rows, k * size, t, TERMS, cols);
        else
            pack_step(panel, rows, k * size, t, n, cols);
    }
}

BODY static void bf16_pack_across(void *panel, const unsigned char *const *rows, Dtype t,
                                  size_t depth, size_t cols)
{
    WITH_DTYPE(t, pack_across_of(panel, rows, fixed, depth, cols));
}

/* ---- stored rows stay rows ----------------------------------------------------------------- */

/* Up to sixteen stored numbers as bf16: those that the mask names, zeros for the others. */
INLINE __m256i load_stored(const unsigned char *p, __mmask16 mask, Dtype t)
{
    if (t == DTYPE_F32) return (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, p));
    __m256i half = _mm256_maskz_loadu_epi16(mask, p);
    return t == DTYPE_F16 ? (__m256i)_mm512_cvtneps_pbh(_mm512_cvtph_ps(half)) : half;
}

/* Words of two stored rows: the earlier one above. A missing later row is -0. */
INLINE __m512i load_pair(const unsigned char *p, size_t stride, int both, __mmask16 mask, Dtype t)
{
    const __m512i order = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9,
                                           40, 8, 39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1,
                                           32, 0); /* halves of words, the upper one first */
    __m256i earlier = load_stored(p, mask, t), later = _mm256_set1_epi16((short)NO_TERM);
    if (both) later = load_stored(p + stride, mask, t);
    return _mm512_permutex2var_epi16(_mm512_castsi256_si512(later), order,
                                     _mm512_castsi256_si512(earlier));
}

INLINE void pack_along_of(uint32_t *panel, const unsigned char *data, size_t stride, Dtype t,
                          size_t depth, size_t cols)
{
    for (size_t k = 0; k < depth; k += PAIR, data += PAIR * stride, panel += COLS)
        for (size_t j = 0; j < cols; j += WIDTH)
            _mm512_storeu_si512(panel + j, load_pair(data + j * dtype_size(t), stride,
                                                     k + 1 < depth, mask16(cols - j), t));
}

BODY static void bf16_pack_along(void *panel, const unsigned char *data, size_t stride, Dtype t,
                                 size_t depth, size_t cols)
{
    WITH_DTYPE(t, pack_along_of(panel, data, stride, fixed, depth, cols));
}

/* ---- rows of A ----------------------------------------------------------------------------- */

/* Thirty-two terms, rounded, zeros beyond the first `count`. */
INLINE __m512i round_row(const float *x, size_t count)
{
    size_t rest = count > WIDTH ? count - WIDTH : 0;
    return round_both(_mm512_maskz_loadu_ps(mask16(count), x),
                      _mm512_maskz_loadu_ps(mask16(rest), x + WIDTH));
}

INLINE void pack_rows_of(uint32_t *packed, int width, const float *const *rows, size_t depth)
{
    const size_t step = (size_t)stretches(width) * TERMS;
    for (size_t k = 0; k < depth; k += step, packed += step / PAIR * (size_t)width) {
        __m512i row[WIDTH], q[WIDTH];
#pragma GCC unroll 16
        for (int i = 0; i < WIDTH; i++) {
            size_t at = k + (size_t)(i / width % stretches(width) * TERMS);
            row[i] = round_row(rows[i % width] + at, at < depth ? depth - at : 0);
        }
        turn_fours(q, row);
#pragma GCC unroll 2
        for (int s = 0; s < stretches(width); s++)
#pragma GCC unroll 16
            for (int i = 0; i < WIDTH; i++)
                if (k + (size_t)(s * TERMS + PAIR * i) < depth)
                    store_words(packed + (s * WIDTH + i) * width, column(q, i), width, s);
    }
}

BODY static void bf16_pack_rows(void *packed, size_t width, const float *const *rows, size_t step,
                                size_t depth)
{
    (void)step; /* 1 where operands are rounded */
    WITH_POWER_TO_16(width, pack_rows_of(packed, fixed, rows, depth));
}

/* ---- few rows of A, stored bf16 ------------------------------------------------------------ */

/* `count` terms of sixteen chains for each of `width` rows of A; inlined once for whole steps. */
INLINE void few_step(__m512 sum[FEW][VECTORS], const uint32_t *a, int width,
                     const unsigned char *const *rows, size_t at, size_t count)
{
    __m512i q[WIDTH];
    load_fours(q, rows, at, DTYPE_BF16, count);
#pragma GCC unroll 16
    for (int i = 0; i < WIDTH; i++)
        if ((size_t)(PAIR * i) < count) {
            __m512i w = column(q, i);
#pragma GCC unroll 16
            for (int m = 0; m < width; m++)
                sum[m][0] = add_products(sum[m][0], _mm512_set1_epi32((int)a[i * width + m]), w);
        }
}

/* Sixteen outputs for each of `width` rows of A, straight from the stored rows: columns are made in
 * registers as they are needed. width is a constant at every call. More columns side by side would
 * hide more latency, but then registers run out. */
INLINE void few_across_of(float *const *c, const uint32_t *a, int width,
                          const unsigned char *const *rows, size_t depth, int add)
{
    const size_t size = sizeof(uint16_t);
    __m512 sum[FEW][VECTORS];
    take_sums(sum, c, width, 1, add);
    for (size_t k = 0, n; k < depth; k += n, a += n / PAIR * (size_t)width) {
        n = step_terms(rows[0] + k * size, depth - k, TERMS, size);
        ask_next_rows(rows, k * size);
        if (n == TERMS)
            few_step(sum, a, width, rows, k * size, TERMS);
        else
            few_step(sum, a, width, rows, k * size, n);
    }
    put_sums(c, sum, width, 1);
}

BODY static void bf16_few_across(float *const *c, const void *a, size_t width,
                                 const unsigned char *const *rows, Dtype t, size_t depth, int add)
{
    (void)t;
    WITH_POWER_TO_16(width, few_across_of(c, a, fixed, rows, depth, add));
}

/* Stored rows are rows of B: two of them make a row of words. `rows` of the packed `width` rows of
 * A, `vectors` x 16 columns; both are constants at every call. */
INLINE void few_along_of(float *const *c, const uint32_t *a, int width, int rows, int vectors,
                         const unsigned char *data, size_t stride, size_t depth, int add)
{
    __m512 sum[ROWS][VECTORS];
    take_sums(sum, c, rows, vectors, add);
    for (size_t k = 0; k < depth; k += PAIR, data += PAIR * stride, a += width) {
        __m512i row[FEW_VECTORS];
        _mm_prefetch(data + AHEAD, _MM_HINT_T0);
        _mm_prefetch(data + stride + AHEAD, _MM_HINT_T0);
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++)
            row[v] = load_pair(data + (size_t)v * WIDTH * sizeof(uint16_t), stride, k + 1 < depth,
                               0xffff, DTYPE_BF16);
#pragma GCC unroll 8
        for (int m = 0; m < rows; m++)
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++)
                sum[m][v] = add_products(sum[m][v], _mm512_set1_epi32((int)a[m]), row[v]);
    }
    put_sums(c, sum, rows, vectors);
}

/* All columns, all rows of A, as many at a time as registers hold. */
INLINE void few_along_cols(float *const *c, const uint32_t *a, int width, const unsigned char *data,
                           size_t stride, size_t depth, size_t cols, int add)
{
    int rows = width < ROWS ? width : ROWS;
    for (size_t j = 0; j < cols; j += FEW_VECTORS * WIDTH)
        for (int m = 0; m < width; m += rows) {
            const unsigned char *from = data + j * sizeof(uint16_t);
            float *to[ROWS];
            for (int i = 0; i < rows; i++) to[i] = c[m + i] + j;
            if (cols - j > WIDTH)
                few_along_of(to, a + m, width, rows, FEW_VECTORS, from, stride, depth, add);
            else
                few_along_of(to, a + m, width, rows, 1, from, stride, depth, add);
        }
}

BODY static void bf16_few_along(float *const *c, const void *a, size_t width,
                                const unsigned char *data, size_t stride, Dtype t, size_t depth,
                                size_t cols, int add)
{
    (void)t;
    WITH_POWER_TO_16(width, few_along_cols(c, a, fixed, data, stride, depth, cols, add));
}

static const ProductBodies bodies = {
    .rows = ROWS,
    .cols = COLS,
    .lanes = WIDTH,
    .few = FEW,
    .depth = 2 * PRODUCT_DEPTH, /* of half the size: as many bytes */
    .size = sizeof(uint16_t),
    .step = PAIR,
    .tile = bf16_tile,
    .pack_rows = bf16_pack_rows,
    .pack_across = bf16_pack_across,
    .pack_along = bf16_pack_along,
    .few_across = bf16_few_across,
    .few_along = bf16_few_along,
};

const ProductBodies *products_avx512bf16(void)
{
    unsigned a, b, c, d; /* asked directly: the builtins of older compilers do not know it */
    int has = __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & BIT_AVX512BF16);
    return kernels_avx512() && has ? &bodies : NULL;
}

#else

const ProductBodies *products_avx512bf16(void)
{
    return NULL;
}

#endif
