/* tensor_avx512.h - what the two AVX-512 files share: the shape of a tile, and turning stored rows
 * into columns. Private to them; each defines BODY, the target of its functions, before.
 */
#ifndef ALIGN_TENSOR_AVX512_H
#define ALIGN_TENSOR_AVX512_H

#include "tensor_kernels.h"

#include <immintrin.h>
#include <string.h>

#define INLINE BODY static inline __attribute__((always_inline))

enum {
    WIDTH = 16,  /* numbers in a register */
    ROWS = 8,    /* of a tile, ... */
    VECTORS = 3, /* ... and its registers of columns */
    COLS = VECTORS * WIDTH,
    FEW = 16,              /* rows that do without panels */
    FEW_VECTORS = 2,       /* registers of columns at a time where stored rows are rows of B */
    AHEAD = 2 * CACHE_LINE /* there, how far before its use a stored row is asked for */
};
_Static_assert(ROWS == 8 && VECTORS == 3 && FEW == 16, "WITH_... below say so, too");

/* A mask of the first n of sixteen, or of thirty-two. */
INLINE __mmask16 mask16(size_t n)
{
    return (__mmask16)(n >= WIDTH ? 0xffff : (1u << n) - 1);
}
INLINE __mmask32 mask32(size_t n)
{
    return n >= 2 * WIDTH ? 0xffffffffu : ((__mmask32)1 << n) - 1;
}

/* The sums of a tile, taken up from C (or from 0) and put down there. rows <= 16 and vectors are
 * constants at every call, so that the sums live in registers. */
INLINE void take_sums(__m512 sum[][VECTORS], float *const *c, int rows, int vectors, int add)
{
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 3
        for (int v = 0; v < vectors; v++)
            sum[i][v] = add ? _mm512_loadu_ps(c[i] + v * WIDTH) : _mm512_setzero_ps();
}
INLINE void put_sums(float *const *c, __m512 sum[][VECTORS], int rows, int vectors)
{
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 3
        for (int v = 0; v < vectors; v++) _mm512_storeu_ps(c[i] + v * WIDTH, sum[i][v]);
}

/* Stored rows are read in steps of `terms` numbers that lie as whole registers should: rows are
 * often a multiple of 4 KB apart, and then not even eight of them fit the level-1 cache together,
 * so a cache line should not be needed twice. The first step is shorter where a row begins
 * unaligned, the last one where it ends. Returns the terms of the step that begins at p, with
 * `rest` terms to go: an even number, but for the last step. */
INLINE size_t step_terms(const unsigned char *p, size_t rest, size_t terms, size_t size)
{
    size_t late = (uintptr_t)p % (terms * size) / (2 * size) * 2;
    return size_min(rest, terms - late);
}

/* Asks for what the sixteen stored rows after these hold at the same place: they are read side by
 * side, too many streams for the machine to foresee. */
INLINE void ask_next_rows(const unsigned char *const *rows, size_t at)
{
#pragma GCC unroll 16
    for (int i = 0; i < WIDTH; i++) _mm_prefetch(rows[WIDTH + i] + at, _MM_HINT_T1);
}

/* Sixteen rows of sixteen 32-bit words become columns. First fours of rows: quarter n of
 * q[4 g + k] holds word 4 n + k of rows 4 g .. 4 g + 3. */
INLINE void turn_fours(__m512i q[WIDTH], const __m512i row[WIDTH])
{
#pragma GCC unroll 4
    for (int i = 0; i < WIDTH; i += 4) {
        __m512i low01 = _mm512_unpacklo_epi32(row[i], row[i + 1]);
        __m512i high01 = _mm512_unpackhi_epi32(row[i], row[i + 1]);
        __m512i low23 = _mm512_unpacklo_epi32(row[i + 2], row[i + 3]);
        __m512i high23 = _mm512_unpackhi_epi32(row[i + 2], row[i + 3]);
        q[i] = _mm512_unpacklo_epi64(low01, low23);
        q[i + 1] = _mm512_unpackhi_epi64(low01, low23);
        q[i + 2] = _mm512_unpacklo_epi64(high01, high23);
        q[i + 3] = _mm512_unpackhi_epi64(high01, high23);
    }
}

/* Then word i of all rows. The first two shuffles serve words i and i + 4; the compiler sees it. */
INLINE __m512i turn_word(const __m512i q[WIDTH], int i)
{
    int k = i % 4, upper = i / 8, odd = i / 4 % 2;
    __m512i a = upper ? _mm512_shuffle_i32x4(q[k], q[k + 4], 0xee)
                      : _mm512_shuffle_i32x4(q[k], q[k + 4], 0x44);
    __m512i b = upper ? _mm512_shuffle_i32x4(q[k + 8], q[k + 12], 0xee)
                      : _mm512_shuffle_i32x4(q[k + 8], q[k + 12], 0x44);
    return odd ? _mm512_shuffle_i32x4(a, b, 0xdd) : _mm512_shuffle_i32x4(a, b, 0x88);
}

/* Rows of A are packed sixteen at a time too. Eight rows fill both halves of the registers with two
 * stretches of terms; four or fewer leave the rest empty. */
INLINE int stretches(int width)
{
    return width == WIDTH / 2 ? 2 : 1;
}

/* `width` words of stretch s; both are constants at every call. */
INLINE void store_words(void *to, __m512i v, int width, int s)
{
    if (s) v = _mm512_castsi256_si512(_mm512_extracti64x4_epi64(v, 1));
    uint32_t word = (uint32_t)_mm_cvtsi128_si32(_mm512_castsi512_si128(v));
    switch (width) {
    case 1: memcpy(to, &word, sizeof word); break;
    case 2: _mm_storel_epi64(to, _mm512_castsi512_si128(v)); break;
    case 4: _mm_storeu_si128(to, _mm512_castsi512_si128(v)); break;
    case 8: _mm256_storeu_si256(to, _mm512_castsi512_si256(v)); break;
    default: _mm512_storeu_si512(to, v);
    }
}

#endif
