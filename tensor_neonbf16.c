/* tensor_neonbf16.c - products of bf16 operands with BFMMLA (ARMv8.6 and servers since Neoverse
 * V1).
 *
 * The instruction multiplies two rows of A by two columns of B, four terms at once, and adds the
 * products to four f32 sums, in a fixed order:
 *
 *     sum = odd(sum + odd(a0 b0 + a1 b1));  sum = odd(sum + odd(a2 b2 + a3 b3))
 *
 * odd(x) cuts x to 24 bits and makes the last one 1 if something was lost; numbers below 2^-126
 * count as zero. That is not the chain of fused steps that other kernels compute, but one order for
 * every number of rows all the same: terms go in fours from the first, missing ones are zeros.
 *
 *     A, packed by pairs of rows:  row 0: k k+1 k+2 k+3 | row 1: k k+1 k+2 k+3    one register
 *     B, packed by pairs of columns in the same way; the tile is 8 rows x 12 columns, 4 x 6 pairs,
 *     24 of the 32 registers hold 2 x 2 sums each.
 *
 * Stored rows across need no turning: four numbers of two rows are a register as they lie.
 */
#include "tensor.h"
#include "tensor_kernels.h"

/* Intrinsics of bf16 for single functions: gcc 10 has them, clang from 16 on. */
#if REAL_IS_FLOAT && defined(__AARCH64EL__) && defined(__ARM_NEON) && defined(__linux__) &&        \
    ((defined(__clang__) && __clang_major__ >= 16) || (!defined(__clang__) && __GNUC__ >= 10))

#include <arm_neon.h>
#include <string.h>
#include <sys/auxv.h>

#ifdef __clang__
#define BODY __attribute__((target("bf16")))
#else
#define BODY __attribute__((target("arch=armv8.2-a+bf16")))
#endif
#define INLINE BODY static inline __attribute__((always_inline))

enum { ROWS = 8, COLS = 12, FOUR = 4, ROW_PAIRS = ROWS / 2, COL_PAIRS = COLS / 2 };
_Static_assert(ROWS == 8, "WITH_... below say so, too");
#define HWCAP2_BFMMLA (1ul << 14) /* HWCAP2_BF16 of Linux */

/* ---- loading and rounding ------------------------------------------------------------------ */

/* Four stored numbers as bf16, to the nearest; t is a constant at every call. */
INLINE uint16x4_t load_whole(const unsigned char *p, Dtype t)
{
    if (t == DTYPE_F32)
        return vreinterpret_u16_bf16(vcvt_bf16_f32(vreinterpretq_f32_u8(vld1q_u8(p))));
    uint16x4_t half = vreinterpret_u16_u8(vld1_u8(p));
    if (t == DTYPE_BF16) return half;
    return vreinterpret_u16_bf16(vcvt_bf16_f32(vcvt_f32_f16(vreinterpret_f16_u16(half))));
}

/* The first `count` of four, then zeros. */
INLINE uint16x4_t load_four(const unsigned char *p, Dtype t, size_t count)
{
    if (count >= FOUR) return load_whole(p, t);
    unsigned char some[FOUR * sizeof(float)] = {0};
    memcpy(some, p, count * dtype_size(t));
    return load_whole(some, t);
}

INLINE bfloat16x8_t pair(uint16x4_t first, uint16x4_t second)
{
    return vreinterpretq_bf16_u16(vcombine_u16(first, second));
}

/* ---- the tile ------------------------------------------------------------------------------ */

/* Two rows of two columns of C; `rows` of them exist. */
INLINE float32x4_t load_sums(float *const *c, int rows, size_t at)
{
    float32x2_t first = vld1_f32(c[0] + at);
    return vcombine_f32(first, rows > 1 ? vld1_f32(c[1] + at) : vdup_n_f32(0));
}
INLINE void store_sums(float *const *c, int rows, size_t at, float32x4_t sum)
{
    vst1_f32(c[0] + at, vget_low_f32(sum));
    if (rows > 1) vst1_f32(c[1] + at, vget_high_f32(sum));
}

/* `rows` is a constant at every call, so that the sums live in registers. */
INLINE void tile_of(float *const *c, const uint16_t *a, const uint16_t *b, size_t depth, int rows,
                    int add, const Ahead *ahead)
{
    size_t line = 0;
    const int pairs = (rows + 1) / 2;
    float32x4_t sum[ROW_PAIRS][COL_PAIRS];
#pragma GCC unroll 4
    for (int i = 0; i < pairs; i++)
#pragma GCC unroll 6
        for (int j = 0; j < COL_PAIRS; j++)
            sum[i][j] = add ? load_sums(c + 2 * i, rows - 2 * i, 2 * (size_t)j) : vdupq_n_f32(0);
    for (size_t k = 0; k < depth; k += FOUR, a += ROWS * FOUR, b += COLS * FOUR) {
        if (line < ahead->count) prefetch_read(ahead->line[line++]);
        bfloat16x8_t row[ROW_PAIRS];
#pragma GCC unroll 4
        for (int i = 0; i < pairs; i++)
            row[i] = vreinterpretq_bf16_u16(vld1q_u16(a + i * 2 * FOUR));
#pragma GCC unroll 6
        for (int j = 0; j < COL_PAIRS; j++) {
            bfloat16x8_t column = vreinterpretq_bf16_u16(vld1q_u16(b + j * 2 * FOUR));
#pragma GCC unroll 4
            for (int i = 0; i < pairs; i++) sum[i][j] = vbfmmlaq_f32(sum[i][j], row[i], column);
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < pairs; i++)
#pragma GCC unroll 6
        for (int j = 0; j < COL_PAIRS; j++)
            store_sums(c + 2 * i, rows - 2 * i, 2 * (size_t)j, sum[i][j]);
}

BODY static void bfmmla_tile(float *const *c, const void *a, const void *b, size_t depth,
                             size_t rows, size_t cols, int add, const Ahead *ahead)
{
    (void)cols;
    WITH_UP_TO_8(rows, tile_of(c, a, b, depth, fixed, add, ahead));
}

/* ---- packing ------------------------------------------------------------------------------- */

/* `count` rows side by side: four terms of each, then the next four. */
INLINE void pack_fours(uint16_t *packed, const unsigned char *const *rows, size_t count, Dtype t,
                       size_t depth)
{
    for (size_t k = 0; k < depth; k += FOUR)
        for (size_t i = 0; i < count; i++, packed += FOUR)
            vst1_u16(packed, load_four(rows[i] + k * dtype_size(t), t, depth - k));
}

BODY static void bfmmla_pack_rows(void *packed, size_t width, const float *const *rows, size_t step,
                                  size_t depth)
{
    (void)step; /* 1 where operands are rounded */
    const unsigned char *from[ROWS];
    for (size_t i = 0; i < width; i++) from[i] = (const unsigned char *)rows[i];
    pack_fours(packed, from, width, DTYPE_F32, depth);
}

BODY static void bfmmla_pack_across(void *panel, const unsigned char *const *rows, Dtype t,
                                    size_t depth, size_t cols)
{
    (void)cols;
    WITH_DTYPE(t, pack_fours(panel, rows, COLS, fixed, depth));
}

/* Four rows of four numbers become columns. */
INLINE void turn_four(uint16x4_t r[FOUR])
{
    uint32x2_t a = vreinterpret_u32_u16(vtrn1_u16(r[0], r[1]));
    uint32x2_t b = vreinterpret_u32_u16(vtrn2_u16(r[0], r[1]));
    uint32x2_t c = vreinterpret_u32_u16(vtrn1_u16(r[2], r[3]));
    uint32x2_t d = vreinterpret_u32_u16(vtrn2_u16(r[2], r[3]));
    r[0] = vreinterpret_u16_u32(vtrn1_u32(a, c));
    r[1] = vreinterpret_u16_u32(vtrn1_u32(b, d));
    r[2] = vreinterpret_u16_u32(vtrn2_u32(a, c));
    r[3] = vreinterpret_u16_u32(vtrn2_u32(b, d));
}

INLINE void pack_along_of(uint16_t *panel, const unsigned char *data, size_t stride, Dtype t,
                          size_t depth, size_t cols)
{
    for (size_t k = 0; k < depth; k += FOUR, data += FOUR * stride, panel += COLS * FOUR)
        for (size_t j = 0; j < cols; j += FOUR) {
            uint16x4_t r[FOUR];
            for (size_t i = 0; i < FOUR; i++)
                r[i] = k + i < depth ? load_four(data + i * stride + j * dtype_size(t), t, cols - j)
                                     : vdup_n_u16(0);
            turn_four(r);
            for (size_t i = 0; i < FOUR; i++) vst1_u16(panel + (j + i) * FOUR, r[i]);
        }
}

BODY static void bfmmla_pack_along(void *panel, const unsigned char *data, size_t stride, Dtype t,
                                   size_t depth, size_t cols)
{
    WITH_DTYPE(t, pack_along_of(panel, data, stride, fixed, depth, cols));
}

/* ---- few rows of A, stored bf16 ------------------------------------------------------------ */

/* Twelve outputs for each of `width` rows of A, straight from the stored rows; width is a constant
 * at every call. A single row stands for both of its pair. */
INLINE void few_across_of(float *const *c, const uint16_t *a, int width,
                          const unsigned char *const *rows, size_t depth, int add)
{
    const int pairs = (width + 1) / 2;
    float32x4_t sum[ROW_PAIRS][COL_PAIRS];
#pragma GCC unroll 4
    for (int i = 0; i < pairs; i++)
#pragma GCC unroll 6
        for (int j = 0; j < COL_PAIRS; j++)
            sum[i][j] = add ? load_sums(c + 2 * i, width, 2 * (size_t)j) : vdupq_n_f32(0);
    for (size_t k = 0; k < depth; k += FOUR, a += width * FOUR)
#pragma GCC unroll 6
        for (int j = 0; j < COL_PAIRS; j++) {
            size_t at = k * sizeof(uint16_t);
            bfloat16x8_t column = pair(load_four(rows[2 * j] + at, DTYPE_BF16, depth - k),
                                       load_four(rows[2 * j + 1] + at, DTYPE_BF16, depth - k));
#pragma GCC unroll 4
            for (int i = 0; i < pairs; i++) {
                const uint16_t *row = a + i * 2 * FOUR;
                bfloat16x8_t x = pair(vld1_u16(row), vld1_u16(width > 1 ? row + FOUR : row));
                sum[i][j] = vbfmmlaq_f32(sum[i][j], x, column);
            }
        }
#pragma GCC unroll 4
    for (int i = 0; i < pairs; i++)
#pragma GCC unroll 6
        for (int j = 0; j < COL_PAIRS; j++) store_sums(c + 2 * i, width, 2 * (size_t)j, sum[i][j]);
}

BODY static void bfmmla_few_across(float *const *c, const void *a, size_t width,
                                   const unsigned char *const *rows, Dtype t, size_t depth, int add)
{
    (void)t;
    WITH_POWER_TO_8(width, few_across_of(c, a, fixed, rows, depth, add));
}

static const ProductBodies bodies = {
    .rows = ROWS,
    .cols = COLS,
    .lanes = COLS,
    .few = ROWS,
    .depth = 2 * PRODUCT_DEPTH, /* of half the size: as many bytes */
    .size = sizeof(uint16_t),
    .step = FOUR,
    .tile = bfmmla_tile,
    .pack_rows = bfmmla_pack_rows,
    .pack_across = bfmmla_pack_across,
    .pack_along = bfmmla_pack_along,
    .few_across = bfmmla_few_across,
};

const ProductBodies *products_neonbf16(void)
{
    return getauxval(AT_HWCAP2) & HWCAP2_BFMMLA ? &bodies : NULL;
}

#else

const ProductBodies *products_neonbf16(void)
{
    return NULL;
}

#endif
