/* tensor_avx512.c - f32 bodies for x86-64 with AVX-512 (servers from 2017, Zen 4 and later).
 *
 * The tile is 8 rows x 48 columns of C: 24 of the 32 registers hold sums, three a row of the
 * panel, one a broadcast element of A, so that each step of k issues 24 multiply-adds for 3 loads
 * and 8 broadcasts. The row bodies are the plain ones, compiled for this instruction set.
 */
#include "tensor.h"
#include "tensor_kernels.h"

#if REAL_IS_FLOAT && defined(__x86_64__) && defined(__GNUC__)

#define BODY __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")))
#include "tensor_bodies.h"
#include "tensor_avx512.h"

/* ---- the tile ------------------------------------------------------------------------------ */

/* `rows` and `vectors` are constants at every call, so that the sums live in registers. */
INLINE void tile_of(float *const *c, const float *a, const float *b, size_t depth, int rows,
                    int vectors, int add, const Ahead *ahead)
{
    __m512 sum[ROWS][VECTORS];
    size_t line = 0;
    take_sums(sum, c, rows, vectors, add);
    for (size_t k = 0; k < depth; k++, a += ROWS, b += COLS) {
        if (line < ahead->count) _mm_prefetch(ahead->line[line++], _MM_HINT_T1);
        __m512 row[VECTORS];
#pragma GCC unroll 3
        for (int v = 0; v < vectors; v++) row[v] = _mm512_loadu_ps(b + v * WIDTH);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            __m512 x = _mm512_set1_ps(a[i]);
#pragma GCC unroll 3
            for (int v = 0; v < vectors; v++) sum[i][v] = _mm512_fmadd_ps(x, row[v], sum[i][v]);
        }
    }
    put_sums(c, sum, rows, vectors);
}

INLINE void tile_rows(float *const *c, const float *a, const float *b, size_t depth, size_t rows,
                      int vectors, int add, const Ahead *ahead)
{
    WITH_UP_TO_8(rows, tile_of(c, a, b, depth, fixed, vectors, add, ahead));
}

BODY static void avx512_tile(float *const *c, const void *a, const void *b, size_t depth,
                             size_t rows, size_t cols, int add, const Ahead *ahead)
{
    WITH_UP_TO_3(cols / WIDTH, tile_rows(c, a, b, depth, rows, fixed, add, ahead));
}

/* ---- stored rows become columns ------------------------------------------------------------ */

/* Terms in sixteen words: floats, or bf16 in pairs; f16 are widened before. */
INLINE int terms_of(Dtype t)
{
    return t == DTYPE_BF16 ? 2 * WIDTH : WIDTH;
}

/* Sixteen words of a stored row, or the first `count` terms of them. t is a constant at every
 * call. */
INLINE __m512i load_words(const unsigned char *p, Dtype t, size_t count)
{
    int whole = count >= (size_t)terms_of(t);
    if (t == DTYPE_F32)
        return whole ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi32(mask16(count), p);
    if (t == DTYPE_BF16)
        return whole ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi16(mask32(count), p);
    return _mm512_castps_si512(_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask16(count), p)));
}

/* Words of sixteen rows, half turned. */
INLINE void load_fours(__m512i q[WIDTH], const unsigned char *const *rows, size_t at, Dtype t,
                       size_t count)
{
    __m512i row[WIDTH];
#pragma GCC unroll 16
    for (int i = 0; i < WIDTH; i++) row[i] = load_words(rows[i] + at, t, count);
    turn_fours(q, row);
}

/* Term i of each row: bf16 are the upper halves of floats, the first of a pair lies below. */
INLINE __m512 column(const __m512i q[WIDTH], int i, Dtype t)
{
    if (t != DTYPE_BF16) return _mm512_castsi512_ps(turn_word(q, i));
    __m512i pair = turn_word(q, i / 2);
    return _mm512_castsi512_ps(i % 2 ? _mm512_and_si512(pair, _mm512_set1_epi32(-0x10000))
                                     : _mm512_slli_epi32(pair, 16));
}

/* `count` terms of a panel; inlined once for whole steps. */
INLINE void pack_step(float *panel, const unsigned char *const *rows, size_t at, Dtype t,
                      size_t count, size_t cols)
{
    for (size_t j = 0; j < cols; j += WIDTH) {
        __m512i q[WIDTH];
        load_fours(q, rows + j, at, t, count);
#pragma GCC unroll 32
        for (int i = 0; i < terms_of(t); i++)
            if ((size_t)i < count) _mm512_storeu_ps(panel + (size_t)i * COLS + j, column(q, i, t));
    }
}

INLINE void pack_across_of(float *panel, const unsigned char *const *rows, Dtype t, size_t depth,
                           size_t cols)
{
    size_t size = dtype_size(t), terms = (size_t)terms_of(t);
    for (size_t k = 0, n; k < depth; k += n, panel += n * COLS) {
        n = step_terms(rows[0] + k * size, depth - k, terms, size);
        if (n == terms)
            pack_step(panel, rows, k * size, t, terms, cols);
        else
            pack_step(panel, rows, k * size, t, n, cols);
    }
}

BODY static void avx512_pack_across(void *panel, const unsigned char *const *rows, Dtype t,
                                    size_t depth, size_t cols)
{
    WITH_DTYPE(t, pack_across_of(panel, rows, fixed, depth, cols));
}

/* ---- stored rows stay rows ----------------------------------------------------------------- */

/* Up to sixteen stored numbers as floats: those that the mask names, zeros for the others. */
INLINE __m512 load_stored(const unsigned char *p, __mmask16 mask, Dtype t)
{
    if (t == DTYPE_F32) return _mm512_maskz_loadu_ps(mask, p);
    __m256i half = _mm256_maskz_loadu_epi16(mask, p);
    if (t == DTYPE_F16) return _mm512_cvtph_ps(half);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

INLINE void pack_along_of(float *panel, const unsigned char *data, size_t stride, Dtype t,
                          size_t depth, size_t cols)
{
    size_t size = dtype_size(t);
    for (size_t k = 0; k < depth; k++, data += stride, panel += COLS)
        for (size_t j = 0; j < cols; j += WIDTH)
            _mm512_storeu_ps(panel + j, load_stored(data + j * size, mask16(cols - j), t));
}

BODY static void avx512_pack_along(void *panel, const unsigned char *data, size_t stride, Dtype t,
                                   size_t depth, size_t cols)
{
    WITH_DTYPE(t, pack_along_of(panel, data, stride, fixed, depth, cols));
}

/* ---- rows of A ----------------------------------------------------------------------------- */

INLINE void pack_rows_of(float *packed, int width, const float *const *rows, size_t depth)
{
    const size_t step = (size_t)stretches(width) * WIDTH;
    for (size_t k = 0; k < depth; k += step, packed += step * (size_t)width) {
        __m512i row[WIDTH], q[WIDTH];
#pragma GCC unroll 16
        for (int i = 0; i < WIDTH; i++) {
            size_t at = k + (size_t)(i / width % stretches(width) * WIDTH);
            row[i] =
                _mm512_maskz_loadu_epi32(mask16(at < depth ? depth - at : 0), rows[i % width] + at);
        }
        turn_fours(q, row);
#pragma GCC unroll 2
        for (int s = 0; s < stretches(width); s++)
#pragma GCC unroll 16
            for (int i = 0; i < WIDTH; i++)
                if (k + (size_t)(s * WIDTH + i) < depth)
                    store_words(packed + (s * WIDTH + i) * width, turn_word(q, i), width, s);
    }
}

/* Rows that are columns of a stored matrix, one beside the other, are copied in stretches. */
BODY static void pack_strided(float *packed, size_t width, const float *const *rows, size_t step,
                              size_t depth)
{
    int beside = 1;
    for (size_t i = 0; i < width; i++) beside &= rows[i] == rows[0] + i;
    for (size_t k = 0; k < depth; k++, packed += width)
        if (beside)
            memcpy(packed, rows[0] + k * step, width * sizeof *packed);
        else
            for (size_t i = 0; i < width; i++) packed[i] = rows[i][k * step];
}

BODY static void avx512_pack_rows(void *packed, size_t width, const float *const *rows, size_t step,
                                  size_t depth)
{
    if (step != 1) {
        pack_strided(packed, width, rows, step, depth);
        return;
    }
    if (width == 1)
        memcpy(packed, rows[0], depth * sizeof(float));
    else
        WITH_POWER_TO_16(width, pack_rows_of(packed, fixed, rows, depth));
}

/* ---- few rows ------------------------------------------------------------------------------ */

/* `count` steps of sixteen chains for each of `width` rows of A; inlined once for whole steps. */
INLINE void few_step(__m512 sum[FEW][VECTORS], const float *a, int width,
                     const unsigned char *const *rows, size_t at, Dtype t, size_t count)
{
    __m512i q[WIDTH];
    load_fours(q, rows, at, t, count);
#pragma GCC unroll 32
    for (int i = 0; i < terms_of(t); i++)
        if ((size_t)i < count) {
            __m512 w = column(q, i, t);
#pragma GCC unroll 16
            for (int m = 0; m < width; m++)
                sum[m][0] = _mm512_fmadd_ps(_mm512_set1_ps(a[i * width + m]), w, sum[m][0]);
        }
}

/* Sixteen outputs for each of `width` rows of A, straight from the stored rows: columns are made in
 * registers as they are needed. width and t are constants at every call. More columns side by side
 * would hide more latency, but then registers run out. */
INLINE void few_across_of(float *const *c, const float *a, int width,
                          const unsigned char *const *rows, Dtype t, size_t depth, int add)
{
    size_t size = dtype_size(t), terms = (size_t)terms_of(t);
    __m512 sum[FEW][VECTORS];
    take_sums(sum, c, width, 1, add);
    for (size_t k = 0, n; k < depth; k += n, a += n * (size_t)width) {
        n = step_terms(rows[0] + k * size, depth - k, terms, size);
        ask_next_rows(rows, k * size);
        if (n == terms)
            few_step(sum, a, width, rows, k * size, t, terms);
        else
            few_step(sum, a, width, rows, k * size, t, n);
    }
    put_sums(c, sum, width, 1);
}

INLINE void few_across_width(float *const *c, const float *a, size_t width,
                             const unsigned char *const *rows, Dtype t, size_t depth, int add)
{
    WITH_POWER_TO_16(width, few_across_of(c, a, fixed, rows, t, depth, add));
}

BODY static void avx512_few_across(float *const *c, const void *a, size_t width,
                                   const unsigned char *const *rows, Dtype t, size_t depth, int add)
{
    WITH_DTYPE(t, few_across_width(c, a, width, rows, fixed, depth, add));
}

/* Stored rows are rows of B: nothing to turn. `rows` of the packed `width` rows of A, `vectors` x
 * 16 columns; both and t are constants at every call. */
INLINE void few_along_of(float *const *c, const float *a, int width, int rows, int vectors,
                         const unsigned char *data, size_t stride, Dtype t, size_t depth, int add)
{
    __m512 sum[ROWS][VECTORS];
    take_sums(sum, c, rows, vectors, add);
    for (size_t k = 0; k < depth; k++, data += stride, a += width) {
        __m512 row[FEW_VECTORS];
        _mm_prefetch(data + AHEAD, _MM_HINT_T0);
        if (t == DTYPE_F32) _mm_prefetch(data + AHEAD + CACHE_LINE, _MM_HINT_T0);
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++)
            row[v] = load_stored(data + (size_t)v * WIDTH * dtype_size(t), 0xffff, t);
#pragma GCC unroll 8
        for (int m = 0; m < rows; m++)
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++)
                sum[m][v] = _mm512_fmadd_ps(_mm512_set1_ps(a[m]), row[v], sum[m][v]);
    }
    put_sums(c, sum, rows, vectors);
}

/* All columns, all rows of A, as many at a time as registers hold. */
INLINE void few_along_cols(float *const *c, const float *a, int width, const unsigned char *data,
                           size_t stride, Dtype t, size_t depth, size_t cols, int add)
{
    int rows = width < ROWS ? width : ROWS;
    for (size_t j = 0; j < cols; j += FEW_VECTORS * WIDTH)
        for (int m = 0; m < width; m += rows) {
            const unsigned char *from = data + j * dtype_size(t);
            float *to[ROWS];
            for (int i = 0; i < rows; i++) to[i] = c[m + i] + j;
            if (cols - j > WIDTH)
                few_along_of(to, a + m, width, rows, FEW_VECTORS, from, stride, t, depth, add);
            else
                few_along_of(to, a + m, width, rows, 1, from, stride, t, depth, add);
        }
}

INLINE void few_along_width(float *const *c, const float *a, size_t width,
                            const unsigned char *data, size_t stride, Dtype t, size_t depth,
                            size_t cols, int add)
{
    WITH_POWER_TO_16(width, few_along_cols(c, a, fixed, data, stride, t, depth, cols, add));
}

BODY static void avx512_few_along(float *const *c, const void *a, size_t width,
                                  const unsigned char *data, size_t stride, Dtype t, size_t depth,
                                  size_t cols, int add)
{
    WITH_DTYPE(t, few_along_width(c, a, width, data, stride, fixed, depth, cols, add));
}

static const Kernels table = {
    .product = {.rows = ROWS,
                .cols = COLS,
                .lanes = WIDTH,
                .few = FEW,
                .depth = PRODUCT_DEPTH,
                .size = sizeof(float),
                .step = 1,
                .tile = avx512_tile,
                .pack_rows = avx512_pack_rows,
                .pack_across = avx512_pack_across,
                .pack_along = avx512_pack_along,
                .few_across = avx512_few_across,
                .few_along = avx512_few_along},
    BODY_TABLE,
};

/* The builtins also ask whether the system saves the registers. */
const Kernels *kernels_avx512(void)
{
    return kernels_avx2() && __builtin_cpu_supports("avx512f") &&
                   __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                   __builtin_cpu_supports("avx512vl")
               ? &table
               : NULL;
}

#else

const Kernels *kernels_avx512(void)
{
    return NULL;
}

#endif
