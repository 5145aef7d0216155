/* tensor_product.c - matrix products: one blocked driver for y = x W^T, dx = dy W, dw = dy^T x.
 *
 * Every output is one chain over the contracted index k. A chain may be stored and continued, so
 * the work can be cut in any way without changing a bit:
 *
 *            k: PRODUCT_DEPTH at a time        B panel   [depth][tile_cols]   level-1 cache
 *          +------------+                     +----+
 *   rows   | A block    |                     |    |     one tile of C = tile_rows x tile_cols
 *   <= 256 | packed     |  level-2 cache      |    |     sums in registers, started from C
 *          +------------+                     +----+
 *
 * A part of the output (some rows x some columns, one task) walks k in passes. A pass packs the
 * block of A, tile by tile, as A[k][i]; then, panel by panel, packs B as B[k][j] straight from the
 * stored weight (bf16, f16 or f32, in either orientation), and runs the tile body down the rows.
 * Packing a panel costs about as much as two rows of arithmetic, so it vanishes when T is large.
 *
 * Decoding has one row, or few: there the packing would cost more than the arithmetic, and a body
 * takes dot products straight from the stored rows, turning them into columns in registers.
 *
 * Tasks own parts: blocks of rows times groups of panels. Edge columns are computed in a spare
 * tile and copied, so bodies know only whole tiles of columns.
 */
#include "tensor.h"
#include "tensor_kernels.h"

#include <string.h>

enum { TASKS_PER_THREAD = 4 }; /* so that an uneven finish costs little */

/* ---- packing ------------------------------------------------------------------------------- */

/* Rows [m0, m0 + rows) of A, terms [k0, k0 + depth), tile after tile. A tile that is not full
 * repeats its last row, whose sums nobody reads. */
static void pack_a(const Compute *c, const Product *p, real *packed, size_t m0, size_t rows,
                   size_t k0, size_t depth)
{
    size_t unit = c->kernels->tile_rows;
    const real *from[TILE_ROWS_MAX];
    for (size_t m = 0; m < rows; m += unit, packed += unit * depth) {
        for (size_t i = 0; i < unit; i++)
            from[i] =
                p->a + row_offset(&p->a_rows, m0 + size_min(m + i, rows - 1)) + k0 * p->a_step;
        c->kernels->pack_rows(packed, from, p->a_step, depth);
        if (p->round) c->kernels->round_bf16(packed, unit * depth);
    }
}

static const unsigned char *mat_at(const Mat *w, size_t row, size_t col)
{
    return (const unsigned char *)w->data + (row * w->cols + col) * dtype_size(w->dtype);
}

/* B = W^T: column j of the panel is the stored row n0 + j. */
static void pack_mat_across(const Compute *c, const ProductB *b, real *panel, size_t n0,
                            size_t cols, size_t k0, size_t depth)
{
    const unsigned char *rows[TILE_COLS_MAX];
    for (size_t j = 0; j < c->kernels->tile_cols; j++)
        rows[j] = mat_at(&b->mat, n0 + size_min(j, cols - 1), k0);
    c->kernels->pack_across(panel, rows, b->mat.dtype, depth);
}

static void pack_mat_along(const Compute *c, const ProductB *b, real *panel, size_t n0, size_t cols,
                           size_t k0, size_t depth)
{
    c->kernels->pack_along(panel, mat_at(&b->mat, k0, n0), b->mat.cols, b->mat.dtype, depth, cols);
}

ProductB product_across(const Mat *w)
{
    return (ProductB){.pack = pack_mat_across, .mat = *w};
}

ProductB product_along(const Mat *w)
{
    return (ProductB){.pack = pack_mat_along, .mat = *w};
}

/* ---- one part of the output ---------------------------------------------------------------- */

/* The outputs of one panel for one pass: tile after tile down the packed rows. */
static void run_panel(const Compute *c, const Product *p, const real *packed, const real *panel,
                      size_t m0, size_t rows, size_t n0, size_t cols, size_t depth, int add)
{
    size_t unit = c->kernels->tile_rows, width = c->kernels->tile_cols;
    int aside = cols < width || p->apart;
    real spare[TILE_ROWS_MAX * TILE_COLS_MAX], *to[TILE_ROWS_MAX], *tile[TILE_ROWS_MAX];
    if (aside) memset(spare, 0, sizeof spare);
    for (size_t m = 0; m < rows; m += unit, packed += unit * depth) {
        size_t count = size_min(unit, rows - m);
        for (size_t i = 0; i < count; i++) {
            to[i] = p->c + row_offset(&p->c_rows, m0 + m + i) + n0;
            tile[i] = aside ? spare + i * width : to[i];
            if (aside && add && !p->apart) memcpy(tile[i], to[i], cols * sizeof(real));
        }
        c->kernels->tile(tile, packed, panel, depth, count, add && !p->apart);
        for (size_t i = 0; i < count && aside; i++) {
            if (p->apart && add)
                c->kernels->add(to[i], to[i], tile[i], cols);
            else
                memcpy(to[i], tile[i], cols * sizeof(real));
        }
    }
}

/* The row of A as operands: itself, or a copy in scratch. */
static const real *row_operand(const Compute *c, const Product *p, real *copy, size_t m)
{
    const real *x = p->a + row_offset(&p->a_rows, m);
    if (p->a_step == 1 && !p->round) return x;
    for (size_t k = 0; k < p->K; k++) copy[k] = x[k * p->a_step];
    if (p->round) c->kernels->round_bf16(copy, p->K);
    return copy;
}

/* Few rows: chains along the stored rows of W, one panel of outputs after another. */
static void few_rows(const Compute *c, const Product *p, size_t m0, size_t rows, size_t n0,
                     size_t cols)
{
    size_t width = c->kernels->tile_cols;
    const real *x[PRODUCT_FEW];
    real spare[PRODUCT_FEW][TILE_COLS_MAX] = {{0}}, *to[PRODUCT_FEW], *tile[PRODUCT_FEW];
    for (size_t m = 0; m < rows; m++)
        x[m] = row_operand(c, p, compute_scratch(c) + m * p->K, m0 + m);
    for (size_t n = n0; n < n0 + cols; n += width) {
        const unsigned char *from[TILE_COLS_MAX];
        size_t count = size_min(width, n0 + cols - n);
        for (size_t j = 0; j < width; j++)
            from[j] = mat_at(&p->b.mat, n + size_min(j, count - 1), 0);
        for (size_t m = 0; m < rows; m++) {
            to[m] = p->c + row_offset(&p->c_rows, m0 + m) + n;
            tile[m] = count < width ? spare[m] : to[m];
            if (count < width && p->add) memcpy(tile[m], to[m], count * sizeof(real));
        }
        c->kernels->rows_across(tile, x, rows, from, p->b.mat.dtype, p->K, p->add);
        for (size_t m = 0; m < rows && count < width; m++)
            memcpy(to[m], tile[m], count * sizeof(real));
    }
}

static int is_few(const Compute *c, const Product *p, size_t rows)
{
    return rows <= PRODUCT_FEW && c->kernels->rows_across && p->b.pack == pack_mat_across &&
           !p->apart && (!p->round || p->b.mat.dtype == DTYPE_BF16) &&
           p->K <= PRODUCT_SCRATCH / PRODUCT_FEW;
}

void product_part(const Compute *c, const Product *p, size_t m0, size_t rows, size_t n0,
                  size_t cols)
{
    if (is_few(c, p, rows)) {
        few_rows(c, p, m0, rows, n0, cols);
        return;
    }
    size_t width = c->kernels->tile_cols;
    real *panel = compute_scratch(c), *packed = panel + TILE_COLS_MAX * PRODUCT_DEPTH;
    size_t pass = p->apart ? PRODUCT_PART : PRODUCT_DEPTH;
    for (size_t k0 = 0; k0 < p->K; k0 += pass) {
        size_t depth = size_min(pass, p->K - k0);
        pack_a(c, p, packed, m0, rows, k0, depth);
        for (size_t n = 0; n < cols; n += width) {
            size_t count = size_min(width, cols - n);
            p->b.pack(c, &p->b, panel, n0 + n, count, k0, depth);
            if (p->round && p->b.mat.dtype != DTYPE_BF16)
                c->kernels->round_bf16(panel, width * depth);
            run_panel(c, p, packed, panel, m0, rows, n0 + n, count, depth, p->add || k0 > 0);
        }
    }
}

/* ---- the whole output, by all threads ------------------------------------------------------ */

typedef struct {
    const Compute *c;
    const Product *p;
    size_t rows, cols, groups; /* of a part; column groups */
} ProductJob;

static void product_task(void *ctx, size_t i)
{
    const ProductJob *j = ctx;
    size_t m0 = i / j->groups * j->rows, n0 = i % j->groups * j->cols;
    product_part(j->c, j->p, m0, size_min(j->rows, j->p->M - m0), n0,
                 size_min(j->cols, j->p->N - n0));
}

void product_run(const Compute *c, const Product *p)
{
    if (!p->M || !p->N) return;
    size_t unit = c->kernels->tile_rows, width = c->kernels->tile_cols;
    size_t blocks = size_ceil(p->M, PRODUCT_ROWS), panels = size_ceil(p->N, width);
    size_t wanted = size_ceil((size_t)threads_count() * TASKS_PER_THREAD, blocks);
    size_t per_group = size_ceil(panels, size_min(panels, wanted));
    ProductJob j = {.c = c, .p = p, .cols = per_group * width};
    j.rows = size_ceil(size_ceil(p->M, blocks), unit) * unit;
    j.groups = size_ceil(panels, per_group);
    tasks_run(product_task, &j, size_ceil(p->M, j.rows) * j.groups,
              (double)p->M * (double)p->N * (double)p->K);
}

/* A chain of no terms: 0, or what was there. */
static int product_empty(real *y, size_t n, size_t K, int add)
{
    if (K == 0 && !add)
        for (size_t i = 0; i < n; i++) y[i] = 0;
    return K == 0;
}

void tensor_linear(const Compute *c, real *y, const real *x, const Mat *w, size_t T, int add)
{
    size_t N = w->rows, K = w->cols;
    if (product_empty(y, T * N, K, add)) return;
    Product p = {.M = T,
                 .N = N,
                 .K = K,
                 .c = y,
                 .c_rows = {1, 0, N},
                 .a = x,
                 .a_rows = {1, 0, K},
                 .a_step = 1,
                 .b = product_across(w),
                 .add = add,
                 .round = c->precision == PRECISION_BF16};
    product_run(c, &p);
}

void tensor_linear_dx(const Compute *c, real *dx, const real *dy, const Mat *w, size_t T, int add)
{
    size_t N = w->rows, K = w->cols;
    if (product_empty(dx, T * K, N, add)) return;
    Product p = {.M = T,
                 .N = K,
                 .K = N,
                 .c = dx,
                 .c_rows = {1, 0, K},
                 .a = dy,
                 .a_rows = {1, 0, N},
                 .a_step = 1,
                 .b = product_along(w),
                 .add = add,
                 .round = c->precision == PRECISION_BF16};
    product_run(c, &p);
}

void tensor_linear_dw(const Compute *c, real *dw, const real *dy, const real *x, size_t T, size_t N,
                      size_t K)
{
    if (T == 0) return;
    Mat m = {.data = x, .dtype = DTYPE_REAL, .rows = T, .cols = K};
    Product p = {.M = N,
                 .N = K,
                 .K = T,
                 .c = dw,
                 .c_rows = {1, 0, K},
                 .a = dy,
                 .a_rows = {1, 0, 1},
                 .a_step = N,
                 .b = product_along(&m),
                 .add = 1};
    product_run(c, &p);
}
