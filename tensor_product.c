/* tensor_product.c - computes matrix products: one blocked driver for y = x W^T, dx = dy W, dw =
 * dy^T x.
 *
 * Every output is one chain over the contracted index k. A chain may be stored and continued, so
 * the work can be cut in any way without changing a bit:
 *
 *            k: `depth` terms at a time      B panel   [depth][tile columns]
 *          +------------+                     +----+
 *   rows   | A block    |                     |    |     one tile of C = rows x columns of the body
 *   <= 256 | packed     |  level-2 cache      |    |     sums in registers, started from C
 *          +------------+                     +----+
 *
 * A part of the output (some rows x some columns, one task) walks k in passes. A pass packs the
 * block of A, tile by tile, as A[k][i]; then, panel by panel, packs B as B[k][j] straight from the
 * stored weight (bf16, f16 or f32, in either orientation), and runs the tile body down the rows.
 * Packing a panel costs about as much as two rows of arithmetic, so it vanishes when T is large.
 *
 * Decoding has one row, or few: there packing would cost more than the arithmetic, and other bodies
 * multiply with the stored rows as they come, turning them into columns in registers.
 *
 * Tasks own parts: blocks of rows times groups of panels. Edge columns are computed in a spare
 * tile and copied, so bodies know only whole registers of columns.
 */
#include "tensor.h"
#include "tensor_kernels.h"

#include <string.h>

enum {
    TASKS_PER_THREAD = 4, /* so that an uneven finish costs little */
    FEW_ALONG_SHORT = 16, /* stored rows at a time, read side by side: for up to four rows of A, */
    FEW_ALONG_DEPTH = 64, /* for more, where sums go to and from memory less often */
    FEW_ALONG_COLS = PRODUCT_PANEL / TILE_ROWS_MAX /* columns whose sums stay in scratch */
};

/* One part of the output, in one thread. */
typedef struct {
    const Compute *c;
    const Product *p;
    const ProductBodies *bodies;
    int round; /* the bodies do not */
    size_t m0, rows, n0, cols;
    real *packed, *panel, *coming; /* of A; of B, and the panel after it */
    real *unpacked;                /* stored numbers of a panel that the bodies cannot read */
} Part;

/* ---- stored rows --------------------------------------------------------------------------- */

const unsigned char *mat_row(const Mat *w, size_t r, size_t *run, size_t *stride)
{
    size_t bytes = format_bytes(w->format, w->cols), half = w->paired / 2;
    *stride = bytes;
    *run = w->rows - r;
    if (!half) return (const unsigned char *)w->data + r * bytes;
    size_t in_half = r % half;
    *stride = 2 * bytes;
    *run = half - in_half;
    return (const unsigned char *)w->data +
           (r / w->paired * w->paired + 2 * in_half + r / half % 2) * bytes;
}

static const unsigned char *weight_row(const ProductB *b, size_t r, size_t *run, size_t *stride)
{
    return mat_row(b->ctx, r, run, stride);
}

ProductB product_across(const Mat *w)
{
    return (ProductB){.across = 1, .format = w->format, .row = weight_row, .ctx = w};
}

ProductB product_along(const Mat *w)
{
    return (ProductB){.format = w->format, .row = weight_row, .ctx = w};
}

/* B = W^T: from[j] is where term k0 of column n + j begins, for j < unit. Columns beyond `cols`
 * repeat the last one; their sums are not used. */
static void columns_of(const Part *t, const unsigned char *from[TILE_COLS_MAX], size_t unit,
                       size_t n, size_t cols, size_t k0)
{
    const ProductB *b = &t->p->b;
    size_t run = 0, stride = 0, at = format_bytes(b->format, k0);
    for (size_t j = 0; j < unit; j++) {
        if (j >= cols)
            from[j] = from[j - 1];
        else if (run)
            from[j] = from[j - 1] + stride;
        else
            from[j] = b->row(b, n + j, &run, &stride) + at;
        run -= run > 0;
    }
}

/* ---- packing ------------------------------------------------------------------------------- */

/* Returns the packed numbers per row or column for `depth` terms. */
static size_t depth_packed(const ProductBodies *b, size_t depth)
{
    return size_ceil(depth, b->step) * b->step;
}

/* Rows of the part, terms [k0, k0 + depth), `width` rows after `width` rows. Missing rows repeat
 * the last one; their sums are not used. */
static void pack_a(const Part *t, size_t width, size_t k0, size_t depth)
{
    const Product *p = t->p;
    const real *from[TILE_ROWS_MAX];
    unsigned char *packed = (unsigned char *)t->packed;
    for (size_t m = 0; m < t->rows; m += width) {
        for (size_t i = 0; i < width; i++)
            from[i] = p->a + row_offset(&p->a_rows, t->m0 + size_min(m + i, t->rows - 1)) +
                      k0 * p->a_step;
        t->bodies->pack_rows(packed, width, from, p->a_step, depth);
        packed += width * depth_packed(t->bodies, depth) * t->bodies->size;
    }
    if (t->round) t->c->kernels->round_bf16(t->packed, size_ceil(t->rows, width) * width * depth);
}

/* A panel of one pass: columns n .. n + cols - 1, terms k0 .. k0 + depth - 1. */
typedef struct {
    size_t n, cols, k0, depth;
} Panel;

/* Terms from .. to - 1 of a panel, straight from where they are stored. */
static void pack_stored(const Part *t, unsigned char *packed, const Panel *p, size_t from,
                        size_t to)
{
    const ProductB *b = &t->p->b;
    size_t run, stride, term = t->bodies->cols * t->bodies->size; /* bytes */
    if (b->across) {
        const unsigned char *rows[TILE_COLS_MAX];
        columns_of(t, rows, t->bodies->cols, p->n, p->cols, p->k0 + from);
        t->bodies->pack_across(packed, rows, b->format->dtype, to - from, p->cols);
    }
    for (size_t k = from; k < to && !b->across; k += run) {
        const unsigned char *row = b->row(b, p->k0 + k, &run, &stride);
        run = size_min(run, to - k);
        t->bodies->pack_along(packed + (k - from) * term, row + format_bytes(b->format, p->n),
                              stride, b->format->dtype, run, p->cols);
    }
}

/* The same in a format that the bodies do not know: unpacked first. */
static void pack_unpacked(const Part *t, unsigned char *packed, const Panel *p, size_t from,
                          size_t to)
{
    const ProductB *b = &t->p->b;
    size_t run, stride, terms = to - from, rows = b->across ? p->cols : terms;
    size_t cols = b->across ? terms : p->cols, first = b->across ? p->n : p->k0 + from;
    const unsigned char *row[TILE_COLS_MAX];
    for (size_t r = 0; r < rows; r++)
        format_unpack(b->format, t->unpacked + r * cols, b->row(b, first + r, &run, &stride),
                      b->across ? p->k0 + from : p->n, cols);
    if (!b->across) {
        t->bodies->pack_along(packed, (const unsigned char *)t->unpacked, cols * sizeof(real),
                              DTYPE_REAL, terms, p->cols);
        return;
    }
    for (size_t j = 0; j < t->bodies->cols; j++)
        row[j] = (const unsigned char *)(t->unpacked + size_min(j, rows - 1) * cols);
    t->bodies->pack_across(packed, row, DTYPE_REAL, terms, p->cols);
}

/* Packs the terms from .. to - 1 of a panel; from is a multiple of the bodies' step. */
static void pack_b(const Part *t, real *panel, const Panel *p, size_t from, size_t to)
{
    const Format *format = t->p->b.format;
    unsigned char *packed = (unsigned char *)panel + from * t->bodies->cols * t->bodies->size;
    if (format->direct)
        pack_stored(t, packed, p, from, to);
    else
        pack_unpacked(t, packed, p, from, to);
    if (t->round && format != &format_bf16)
        t->c->kernels->round_bf16((real *)(void *)packed, t->bodies->cols * (to - from));
}

/* Packs share i of the next panel after tile i of this one. Along, a panel takes a stretch of each
 * of many stored rows, often a multiple of 4 KB apart: what was asked for during a tile would not
 * stay in the cache until all of it has been. Across it does, and is packed at once. */
static void pack_share(const Part *t, const Panel *next, size_t i, size_t shares)
{
    size_t step = t->bodies->step, from = next->depth * i / shares / step * step;
    size_t to = i + 1 == shares ? next->depth : next->depth * (i + 1) / shares / step * step;
    if (!t->p->b.across)
        pack_b(t, t->coming, next, from, to);
    else if (i + 1 == shares)
        pack_b(t, t->coming, next, 0, next->depth);
}

/* ---- one part of the output ---------------------------------------------------------------- */

static void ahead_add(Ahead *ahead, const void *from, size_t bytes)
{
    size_t n = size_min(size_ceil(bytes + (uintptr_t)from % CACHE_LINE, CACHE_LINE),
                        AHEAD_MAX - ahead->count);
    for (size_t i = 0; i < n; i++)
        ahead->line[ahead->count++] = (const unsigned char *)from + i * CACHE_LINE;
}

/* Part `share` of `shares` of what will be packed next: memory is slower than arithmetic, so
 * reading and multiplying should overlap. */
static void ahead_panel(const Part *t, Ahead *ahead, const Panel *p, size_t share, size_t shares)
{
    const ProductB *b = &t->p->b;
    size_t run, stride;
    size_t rows = b->across ? p->cols : p->depth, first = b->across ? p->n : p->k0;
    size_t at = format_bytes(b->format, b->across ? p->k0 : p->n);
    size_t bytes = format_bytes(b->format, b->across ? p->depth : p->cols);
    size_t end = first + rows * (share + 1) / shares;
    for (size_t r = first + rows * share / shares; r < end; r += run) {
        const unsigned char *from = b->row(b, r, &run, &stride) + at;
        run = size_min(run, end - r);
        for (size_t i = 0; i < run; i++) ahead_add(ahead, from + i * stride, bytes);
    }
}

/* Where the sums of a tile go: to C, or aside where C is not as wide, or summed in parts. */
typedef struct {
    real spare[TILE_ROWS_MAX * TILE_COLS_MAX], *to[TILE_ROWS_MAX], *tile[TILE_ROWS_MAX];
    int aside;
    size_t count; /* rows */
    Ahead ahead;
} Tile;

static void tile_begin(const Part *t, Tile *f, const Panel *p, size_t m, int add)
{
    size_t unit = t->bodies->rows;
    f->count = size_min(unit, t->rows - m);
    for (size_t i = 0; i < f->count; i++) {
        f->to[i] = t->p->c + row_offset(&t->p->c_rows, t->m0 + m + i) + p->n;
        f->tile[i] = f->aside ? f->spare + i * TILE_COLS_MAX : f->to[i];
        if (f->aside && add) memcpy(f->tile[i], f->to[i], p->cols * sizeof(real));
    }
    for (size_t i = m + unit; i < size_min(m + 2 * unit, t->rows); i++) /* the tile after */
        ahead_add(&f->ahead, t->p->c + row_offset(&t->p->c_rows, t->m0 + i) + p->n,
                  p->cols * sizeof(real));
}

static void tile_end(const Part *t, const Tile *f, const Panel *p, int add)
{
    for (size_t i = 0; i < f->count && f->aside; i++) {
        if (add)
            t->c->kernels->add(f->to[i], f->to[i], f->tile[i], p->cols);
        else
            memcpy(f->to[i], f->tile[i], p->cols * sizeof(real));
    }
}

/* The outputs of one panel for one pass, tile after tile down the packed rows; beside them the next
 * panel is packed. */
static void run_panel(const Part *t, const Panel *p, const Panel *next, int add)
{
    const ProductBodies *b = t->bodies;
    int apart = t->p->apart; /* a tile of its own, added afterwards */
    size_t whole = size_ceil(p->cols, b->lanes) * b->lanes, tiles = size_ceil(t->rows, b->rows);
    const unsigned char *packed = (const unsigned char *)t->packed;
    Tile f;
    f.aside = p->cols % b->lanes || apart;
    if (f.aside) memset(f.spare, 0, sizeof f.spare);
    for (size_t i = 0; i < tiles; i++) {
        f.ahead.count = 0;
        tile_begin(t, &f, p, i * b->rows, add && !apart);
        if (next) ahead_panel(t, &f.ahead, next, i, tiles);
        b->tile(f.tile, packed, t->panel, p->depth, f.count, whole, add && !apart, &f.ahead);
        tile_end(t, &f, p, add && apart);
        if (next) pack_share(t, next, i, tiles);
        packed += b->rows * depth_packed(b, p->depth) * b->size;
    }
}

/* The panel after p within the part; 0 after the last one. */
static int panel_next(const Part *t, Panel *p, size_t pass)
{
    size_t end = t->n0 + t->cols;
    p->n += p->cols;
    if (p->n == end) {
        p->n = t->n0;
        p->k0 += p->depth;
    }
    p->cols = size_min(t->bodies->cols, end - p->n);
    p->depth = size_min(pass, t->p->K - p->k0);
    return p->depth > 0;
}

/* Panels of B, packed, for any number of rows. */
static void many_rows(Part *t)
{
    size_t pass = t->p->apart ? PRODUCT_PART : t->bodies->depth;
    Panel p = {
        .n = t->n0, .cols = size_min(t->bodies->cols, t->cols), .depth = size_min(pass, t->p->K)};
    pack_b(t, t->panel, &p, 0, p.depth);
    for (int more = 1; more;) {
        Panel next = p;
        real *panel = t->panel;
        more = panel_next(t, &next, pass);
        if (p.n == t->n0) pack_a(t, t->bodies->rows, p.k0, p.depth);
        run_panel(t, &p, more ? &next : NULL, t->p->add || p.k0 > 0);
        t->panel = t->coming;
        t->coming = panel;
        p = next;
    }
}

/* Row i of the part from its column n on. */
static real *few_row(const Part *t, size_t i, size_t n)
{
    return t->p->c + row_offset(&t->p->c_rows, t->m0 + i) + t->n0 + n;
}

/* B = W^T: chains run along as many stored rows as a register holds, all terms at once. */
static void few_across(const Part *t, size_t width)
{
    const ProductB *b = &t->p->b;
    size_t unit = t->bodies->lanes, most = PRODUCT_PACKED * sizeof(real) / t->bodies->size / width;
    const unsigned char *from[TILE_COLS_MAX];
    real edge[TILE_ROWS_MAX][TILE_COLS_MAX] = {{0}}, *to[TILE_ROWS_MAX];
    for (size_t k0 = 0; k0 < t->p->K; k0 += most) {
        size_t depth = size_min(most, t->p->K - k0);
        int add = t->p->add || k0 > 0;
        pack_a(t, width, k0, depth);
        for (size_t n = 0; n < t->cols; n += unit) {
            size_t cols = size_min(unit, t->cols - n);
            columns_of(t, from, 2 * unit, t->n0 + n, size_min(2 * unit, t->p->N - t->n0 - n), k0);
            for (size_t i = 0; i < width; i++) {
                int whole = i < t->rows && cols == unit;
                to[i] = whole ? few_row(t, i, n) : edge[i];
                if (i < t->rows && !whole && add)
                    memcpy(edge[i], few_row(t, i, n), cols * sizeof(real));
            }
            t->bodies->few_across(to, t->packed, width, from, b->format->dtype, depth, add);
            for (size_t i = 0; i < t->rows && cols < unit; i++)
                memcpy(few_row(t, i, n), edge[i], cols * sizeof(real));
        }
    }
}

/* B = W: some stored rows at a time over many columns, so that memory is read in long stretches,
 * not too many of them side by side. The sums wait in scratch: the rows of C may lie a multiple of
 * 4 KB apart, and then do not fit the level-1 cache together. A row of sums is a register short of
 * 8 KB for the same reason. */
static void few_along(const Part *t, size_t width)
{
    const ProductB *b = &t->p->b;
    size_t depth, strip = FEW_ALONG_COLS - t->bodies->lanes;
    size_t most = width <= 4 ? FEW_ALONG_SHORT : FEW_ALONG_DEPTH;
    real *sum[TILE_ROWS_MAX];
    for (size_t i = 0; i < width; i++) sum[i] = t->panel + i * strip;
    for (size_t n = 0; n < t->cols; n += strip) {
        size_t cols = size_min(strip, t->cols - n);
        for (size_t i = 0; i < t->rows && t->p->add; i++)
            memcpy(sum[i], few_row(t, i, n), cols * sizeof(real));
        for (size_t k0 = 0; k0 < t->p->K; k0 += depth) {
            size_t run, stride;
            const unsigned char *from = b->row(b, k0, &run, &stride);
            depth = size_min(size_min(run, t->p->K - k0), most);
            pack_a(t, width, k0, depth);
            t->bodies->few_along(sum, t->packed, width, from + format_bytes(b->format, t->n0 + n),
                                 stride, b->format->dtype, depth, cols, t->p->add || k0 > 0);
        }
        for (size_t i = 0; i < t->rows; i++) memcpy(few_row(t, i, n), sum[i], cols * sizeof(real));
    }
}

/* Few rows are multiplied without panels if the bodies can: the chains are the same, so no bit
 * changes. */
static int is_few(const Part *t)
{
    const ProductBodies *b = t->bodies;
    const Format *format = t->p->b.format;
    if (t->rows > b->few || t->p->apart || !format->direct) return 0;
    if (t->p->round && format != &format_bf16) return 0;
    return t->p->b.across || (b->few_along && t->cols % b->lanes == 0 && t->cols <= PRODUCT_PANEL);
}

static const ProductBodies *bodies_of(const Compute *c, const Product *p)
{
    return p->round && c->rounded ? c->rounded : &c->kernels->product;
}

void product_part(const Compute *c, const Product *p, size_t m0, size_t rows, size_t n0,
                  size_t cols)
{
    real *scratch = compute_scratch(c);
    Part t = {.c = c,
              .p = p,
              .bodies = bodies_of(c, p),
              .round = p->round && !c->rounded,
              .m0 = m0,
              .rows = rows,
              .n0 = n0,
              .cols = cols,
              .panel = scratch,
              .coming = scratch + PRODUCT_PANEL,
              .packed = scratch + 2 * PRODUCT_PANEL,
              .unpacked = scratch + PRODUCT_SCRATCH};
    size_t width = 1;
    while (width < rows) width *= 2;
    if (!is_few(&t))
        many_rows(&t);
    else if (p->b.across)
        few_across(&t, width);
    else
        few_along(&t, width);
}

/* ---- the whole output, by all threads ------------------------------------------------------ */

typedef struct {
    const Compute *c;
    const Product *p;
    size_t blocks, rows;          /* number of blocks, rows of each, ... */
    size_t groups, panels, width; /* ... times groups of panels, `width` columns each */
} ProductJob;

static void product_task(void *ctx, size_t i)
{
    const ProductJob *j = ctx;
    size_t m0 = i / j->groups * j->rows, group = i % j->groups;
    size_t n0 = group * j->panels / j->groups * j->width;
    size_t n1 = size_min((group + 1) * j->panels / j->groups * j->width, j->p->N);
    product_part(j->c, j->p, m0, size_min(j->rows, j->p->M - m0), n0, n1 - n0);
}

void product_run(const Compute *c, const Product *p)
{
    if (!p->M || !p->N) return;
    size_t unit = bodies_of(c, p)->rows, width = bodies_of(c, p)->cols;
    size_t blocks = size_ceil(p->M, PRODUCT_ROWS), panels = size_ceil(p->N, width);
    size_t wanted = size_ceil((size_t)threads_count() * TASKS_PER_THREAD, blocks);
    ProductJob j = {.c = c, .p = p, .panels = panels, .width = width};
    j.rows = size_ceil(size_ceil(p->M, blocks), unit) * unit;
    j.blocks = size_ceil(p->M, j.rows);
    j.groups = size_min(panels, wanted);
    tasks_run(product_task, &j, j.blocks * j.groups, (double)p->M * (double)p->N * (double)p->K);
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
    Mat m = {.data = x, .format = FORMAT_REAL, .rows = T, .cols = K};
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
