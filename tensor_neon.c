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

/* The tile; rows that do without panels; numbers in a register. */
enum { ROWS = 6, COLS = 16, FEW = 4, WIDTH = 4, PARTS = COLS / WIDTH };
_Static_assert(ROWS == 6 && FEW == 4, "WITH_... below say so, too");

/* `rows` is a constant at every call, so that the sums live in registers. */
INLINE void tile_of(float *const *c, const float *a, const float *b, size_t depth, int rows,
                    int add, const Ahead *ahead)
{
    size_t line = 0;
    float32x4_t sum[ROWS][PARTS];
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < PARTS; j++)
            sum[i][j] = add ? vld1q_f32(c[i] + j * WIDTH) : vdupq_n_f32(0);
    for (size_t k = 0; k < depth; k++, a += ROWS, b += COLS) {
        if (line < ahead->count) prefetch_read(ahead->line[line++]);
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

static void neon_tile(float *const *c, const void *a, const void *b, size_t depth, size_t rows,
                      size_t cols, int add, const Ahead *ahead)
{
    (void)cols;
    WITH_UP_TO_6(rows, tile_of(c, a, b, depth, fixed, add, ahead));
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
    pack_rest(panel + k * COLS, COLS, rows, t, k, depth - k);
}

static void neon_pack_across(void *panel, const unsigned char *const *rows, Dtype t, size_t depth,
                             size_t cols)
{
    (void)cols;
    WITH_DTYPE(t, pack_across_of(panel, rows, fixed, depth));
}

/* Chains of sixteen outputs for each of `width` rows of A: four stored rows of four numbers become
 * columns in registers, and each column is one step of four chains. width and t are constants at
 * every call. */
INLINE void few_across_of(float *const *c, const float *a, int width,
                          const unsigned char *const *rows, Dtype t, size_t depth, int add)
{
    size_t size = dtype_size(t), k = 0;
    float32x4_t sum[FEW][PARTS];
    for (int m = 0; m < width; m++)
        for (int part = 0; part < PARTS; part++)
            sum[m][part] = add ? vld1q_f32(c[m] + part * WIDTH) : vdupq_n_f32(0);
    for (; k + WIDTH <= depth; k += WIDTH, a += WIDTH * width) {
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
                for (int m = 0; m < width; m++)
                    sum[m][part] = vfmaq_n_f32(sum[m][part], r[i], a[i * width + m]);
        }
    }
    for (int m = 0; m < width; m++)
        for (int part = 0; part < PARTS; part++) vst1q_f32(c[m] + part * WIDTH, sum[m][part]);
    few_rest(c, COLS, a, (size_t)width, rows, t, k, depth - k);
}

INLINE void few_across_width(float *const *c, const float *a, size_t width,
                             const unsigned char *const *rows, Dtype t, size_t depth, int add)
{
    WITH_POWER_TO_4(width, few_across_of(c, a, fixed, rows, t, depth, add));
}

static void neon_few_across(float *const *c, const void *a, size_t width,
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
        float32x4_t sum[FEW][PARTS];
        for (int m = 0; m < width; m++)
            for (int part = 0; part < PARTS; part++)
                sum[m][part] = add ? vld1q_f32(c[m] + j + part * WIDTH) : vdupq_n_f32(0);
        for (size_t k = 0; k < depth; k++) {
            const unsigned char *from = data + k * stride + j * size;
#pragma GCC unroll 4
            for (int part = 0; part < PARTS; part++) {
                float32x4_t row = load_stored(from + (size_t)(part * WIDTH) * size, t);
#pragma GCC unroll 4
                for (int m = 0; m < width; m++)
                    sum[m][part] = vfmaq_n_f32(sum[m][part], row, a[k * (size_t)width + (size_t)m]);
            }
        }
        for (int m = 0; m < width; m++)
            for (int part = 0; part < PARTS; part++)
                vst1q_f32(c[m] + j + part * WIDTH, sum[m][part]);
    }
}

INLINE void few_along_width(float *const *c, const float *a, size_t width,
                            const unsigned char *data, size_t stride, Dtype t, size_t depth,
                            size_t cols, int add)
{
    WITH_POWER_TO_4(width, few_along_of(c, a, fixed, data, stride, t, depth, cols, add));
}

static void neon_few_along(float *const *c, const void *a, size_t width, const unsigned char *data,
                           size_t stride, Dtype t, size_t depth, size_t cols, int add)
{
    WITH_DTYPE(t, few_along_width(c, a, width, data, stride, fixed, depth, cols, add));
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

static void neon_pack_along(void *panel, const unsigned char *data, size_t stride, Dtype t,
                            size_t depth, size_t cols)
{
    if (cols < COLS) {
        for (size_t k = 0; k < depth; k++)
            dtype_to_float((float *)panel + k * COLS, data + k * stride, t, cols);
        return;
    }
    WITH_DTYPE(t, pack_along_of(panel, data, stride, fixed, depth));
}

static void neon_pack_rows(void *to, size_t width, const float *const *rows, size_t step,
                           size_t depth)
{
    float *packed = to;
    for (size_t k = 0; k < depth; k++, packed += width)
        for (size_t i = 0; i < width; i++) packed[i] = rows[i][k * step];
}

static const Kernels table = {
    .product = {.rows = ROWS,
                .cols = COLS,
                .lanes = COLS,
                .few = FEW,
                .depth = PRODUCT_DEPTH,
                .size = sizeof(float),
                .step = 1,
                .tile = neon_tile,
                .pack_rows = neon_pack_rows,
                .pack_across = neon_pack_across,
                .pack_along = neon_pack_along,
                .few_across = neon_few_across,
                .few_along = neon_few_along},
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
