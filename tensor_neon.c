/* tensor_neon.c - bodies for aarch64, where NEON with fused multiply-add is always there.
 *
 * The tile is 6 rows x 16 columns of C: 24 of the 32 vector registers hold sums, four a row of the
 * panel, the rest elements of A. Packing turns stored rows into columns by 4 x 4 transposes in
 * registers. The row bodies are the plain ones, which the compiler vectorises.
 */
#include "tensor.h"
#include "tensor_kernels.h"

#if REAL_IS_FLOAT && defined(__AARCH64EL__) && defined(__ARM_NEON) && defined(__GNUC__)

#define BODY
#include "tensor_bodies.h"

#include <arm_neon.h>

#define INLINE static inline __attribute__((always_inline))

enum { ROWS = 6, COLS = 16, WIDTH = 4, PARTS = COLS / WIDTH }; /* tile; numbers in a register */

/* `rows` is a constant at every call, so that the sums live in registers. */
INLINE void tile_of(float *const *c, const float *a, const float *b, size_t depth, int rows,
                    int add)
{
    float32x4_t sum[ROWS][PARTS];
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < PARTS; j++)
            sum[i][j] = add ? vld1q_f32(c[i] + j * WIDTH) : vdupq_n_f32(0);
    for (size_t k = 0; k < depth; k++, a += ROWS, b += COLS) {
        float32x4_t row[PARTS];
#pragma GCC unroll 4
        for (int j = 0; j < PARTS; j++) row[j] = vld1q_f32(b + j * WIDTH);
#pragma GCC unroll 6
        for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
            for (int j = 0; j < PARTS; j++) sum[i][j] = vfmaq_n_f32(sum[i][j], row[j], a[i]);
    }
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < PARTS; j++) vst1q_f32(c[i] + j * WIDTH, sum[i][j]);
}

static void neon_tile(float *const *c, const float *a, const float *b, size_t depth, size_t rows,
                      int add)
{
    switch (rows) {
    case 1: tile_of(c, a, b, depth, 1, add); break;
    case 2: tile_of(c, a, b, depth, 2, add); break;
    case 3: tile_of(c, a, b, depth, 3, add); break;
    case 4: tile_of(c, a, b, depth, 4, add); break;
    case 5: tile_of(c, a, b, depth, 5, add); break;
    default: tile_of(c, a, b, depth, ROWS, add);
    }
}

/* Turns 4 rows of 4 numbers into columns. */
INLINE void transpose(float32x4_t r[WIDTH])
{
    float32x4_t a = vtrn1q_f32(r[0], r[1]), b = vtrn2q_f32(r[0], r[1]);
    float32x4_t c = vtrn1q_f32(r[2], r[3]), d = vtrn2q_f32(r[2], r[3]);
    r[0] = vcombine_f32(vget_low_f32(a), vget_low_f32(c));
    r[1] = vcombine_f32(vget_low_f32(b), vget_low_f32(d));
    r[2] = vcombine_f32(vget_high_f32(a), vget_high_f32(c));
    r[3] = vcombine_f32(vget_high_f32(b), vget_high_f32(d));
}

/* Four stored numbers as floats, exactly; loads by bytes, since weights may lie anywhere. */
INLINE float32x4_t load_stored(const unsigned char *p, Dtype t)
{
    if (t == DTYPE_F32) return vreinterpretq_f32_u8(vld1q_u8(p));
    uint16x4_t half = vreinterpret_u16_u8(vld1_u8(p));
    if (t == DTYPE_F16) return vcvt_f32_f16(vreinterpret_f16_u16(half));
    return vreinterpretq_f32_u32(vshll_n_u16(half, 16));
}

INLINE void pack_across_of(float *panel, const unsigned char *const *rows, Dtype t, size_t depth)
{
    size_t size = dtype_size(t), k = 0;
    for (; k + WIDTH <= depth; k += WIDTH) {
#pragma GCC unroll 4
        for (int part = 0; part < PARTS; part++) {
            float32x4_t r[WIDTH];
#pragma GCC unroll 4
            for (int i = 0; i < WIDTH; i++)
                r[i] = load_stored(rows[part * WIDTH + i] + k * size, t);
            transpose(r);
#pragma GCC unroll 4
            for (int i = 0; i < WIDTH; i++)
                vst1q_f32(panel + (k + (size_t)i) * COLS + part * WIDTH, r[i]);
        }
    }
    for (int j = 0; j < COLS && k < depth; j++) {
        float rest[WIDTH];
        dtype_to_float(rest, rows[j] + k * size, t, depth - k);
        for (size_t i = 0; i < depth - k; i++) panel[(k + i) * COLS + (size_t)j] = rest[i];
    }
}

static void neon_pack_across(float *panel, const unsigned char *const *rows, Dtype t, size_t depth)
{
    switch (t) {
    case DTYPE_BF16: pack_across_of(panel, rows, DTYPE_BF16, depth); break;
    case DTYPE_F16: pack_across_of(panel, rows, DTYPE_F16, depth); break;
    default: pack_across_of(panel, rows, DTYPE_F32, depth);
    }
}

/* Chains of sixteen outputs for each of `count` rows of x: four stored rows of four numbers become
 * columns in registers, and each column is one step of four chains. count and t are constants at
 * every call. */
INLINE void rows_across_of(float *const *y, const float *const *x, int count,
                           const unsigned char *const *rows, Dtype t, size_t depth, int add)
{
    size_t size = dtype_size(t), k = 0;
    float32x4_t sum[PRODUCT_FEW][PARTS];
    for (int m = 0; m < count; m++)
        for (int part = 0; part < PARTS; part++)
            sum[m][part] = add ? vld1q_f32(y[m] + part * WIDTH) : vdupq_n_f32(0);
    for (; k + WIDTH <= depth; k += WIDTH) {
#pragma GCC unroll 4
        for (int part = 0; part < PARTS; part++) {
            float32x4_t r[WIDTH];
#pragma GCC unroll 4
            for (int i = 0; i < WIDTH; i++)
                r[i] = load_stored(rows[part * WIDTH + i] + k * size, t);
            transpose(r);
#pragma GCC unroll 4
            for (int i = 0; i < WIDTH; i++)
#pragma GCC unroll 4
                for (int m = 0; m < count; m++)
                    sum[m][part] = vfmaq_n_f32(sum[m][part], r[i], x[m][k + (size_t)i]);
        }
    }
    for (int m = 0; m < count; m++)
        for (int part = 0; part < PARTS; part++) vst1q_f32(y[m] + part * WIDTH, sum[m][part]);
    for (int j = 0; j < COLS && k < depth; j++) {
        float rest[WIDTH];
        dtype_to_float(rest, rows[j] + k * size, t, depth - k);
        for (int m = 0; m < count; m++)
            for (size_t i = 0; i < depth - k; i++) y[m][j] = fmaf(x[m][k + i], rest[i], y[m][j]);
    }
}

INLINE void rows_across_count(float *const *y, const float *const *x, size_t count,
                              const unsigned char *const *rows, Dtype t, size_t depth, int add)
{
    switch (count) {
    case 1: rows_across_of(y, x, 1, rows, t, depth, add); break;
    case 2: rows_across_of(y, x, 2, rows, t, depth, add); break;
    case 3: rows_across_of(y, x, 3, rows, t, depth, add); break;
    default: rows_across_of(y, x, PRODUCT_FEW, rows, t, depth, add);
    }
}

static void neon_rows_across(float *const *y, const float *const *x, size_t count,
                             const unsigned char *const *rows, Dtype t, size_t depth, int add)
{
    switch (t) {
    case DTYPE_BF16: rows_across_count(y, x, count, rows, DTYPE_BF16, depth, add); break;
    case DTYPE_F16: rows_across_count(y, x, count, rows, DTYPE_F16, depth, add); break;
    default: rows_across_count(y, x, count, rows, DTYPE_F32, depth, add);
    }
}

INLINE void pack_along_of(float *panel, const unsigned char *data, size_t stride, Dtype t,
                          size_t depth)
{
    size_t part = WIDTH * dtype_size(t);
    for (size_t k = 0; k < depth; k++, data += stride, panel += COLS)
#pragma GCC unroll 4
        for (size_t j = 0; j < PARTS; j++)
            vst1q_f32(panel + j * WIDTH, load_stored(data + j * part, t));
}

static void neon_pack_along(float *panel, const unsigned char *data, size_t stride, Dtype t,
                            size_t depth, size_t cols)
{
    stride *= dtype_size(t);
    if (cols < COLS) {
        for (size_t k = 0; k < depth; k++)
            dtype_to_float(panel + k * COLS, data + k * stride, t, cols);
        return;
    }
    switch (t) {
    case DTYPE_BF16: pack_along_of(panel, data, stride, DTYPE_BF16, depth); break;
    case DTYPE_F16: pack_along_of(panel, data, stride, DTYPE_F16, depth); break;
    default: pack_along_of(panel, data, stride, DTYPE_F32, depth);
    }
}

static void neon_pack_rows(float *packed, const float *const *rows, size_t step, size_t depth)
{
    for (size_t k = 0; k < depth; k++, packed += ROWS)
#pragma GCC unroll 6
        for (int i = 0; i < ROWS; i++) packed[i] = rows[i][k * step];
}

static const Kernels table = {
    .name = "neon",
    .tile_rows = ROWS,
    .tile_cols = COLS,
    .tile = neon_tile,
    .pack_rows = neon_pack_rows,
    .pack_across = neon_pack_across,
    .pack_along = neon_pack_along,
    .rows_across = neon_rows_across,
    BODY_TABLE,
};

const Kernels *kernels_neon(void)
{
    return &table;
}

#else

const Kernels *kernels_neon(void)
{
    return NULL;
}

#endif
