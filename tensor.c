/* tensor.c - chooses a kernel, and holds everything that works on rows: norms, rope, SwiGLU, AdamW.
 *
 * The functions here cut the work into tasks that own whole outputs and call the bodies of the
 * chosen table. How rows are cut never changes a bit: see the order of summation in tensor.h.
 */
#include "tensor.h"

#define BODY /* the machine's baseline */
#include "tensor_bodies.h"

#include <string.h>

/* ---- the plain products -------------------------------------------------------------------- */

enum { PLAIN_ROWS = 4, PLAIN_COLS = 16 }; /* the tile of the plain body */

static void plain_tile(real *const *c, const void *packed, const void *panel, size_t depth,
                       size_t rows, size_t cols, int add, const Ahead *ahead)
{
    (void)ahead;
    const real *a = packed, *b = panel;
    for (size_t i = 0; i < rows; i++) {
        real sum[PLAIN_COLS];
        for (size_t j = 0; j < cols; j++) sum[j] = add ? c[i][j] : 0;
        for (size_t k = 0; k < depth; k++)
            for (size_t j = 0; j < cols; j++)
                sum[j] = real_fma(a[k * PLAIN_ROWS + i], b[k * PLAIN_COLS + j], sum[j]);
        for (size_t j = 0; j < cols; j++) c[i][j] = sum[j];
    }
}

static void plain_pack_rows(void *packed, size_t width, const real *const *rows, size_t step,
                            size_t depth)
{
    real *to = packed;
    for (size_t k = 0; k < depth; k++)
        for (size_t i = 0; i < width; i++) to[k * width + i] = rows[i][k * step];
}

static void plain_pack_across(void *panel, const unsigned char *const *rows, Dtype t, size_t depth,
                              size_t cols)
{
    real row[PRODUCT_DEPTH], *to = panel;
    for (size_t j = 0; j < cols; j++) {
        dtype_to_real(row, rows[j], t, depth);
        for (size_t k = 0; k < depth; k++) to[k * PLAIN_COLS + j] = row[k];
    }
}

static void plain_pack_along(void *panel, const unsigned char *data, size_t stride, Dtype t,
                             size_t depth, size_t cols)
{
    real *to = panel;
    for (size_t k = 0; k < depth; k++)
        dtype_to_real(to + k * PLAIN_COLS, data + k * stride, t, cols);
}

static const Kernels kernels_ref = {
    .product = {.rows = PLAIN_ROWS,
                .cols = PLAIN_COLS,
                .lanes = PLAIN_COLS,
                .depth = PRODUCT_DEPTH,
                .size = sizeof(real),
                .step = 1,
                .tile = plain_tile,
                .pack_rows = plain_pack_rows,
                .pack_across = plain_pack_across,
                .pack_along = plain_pack_along},
    BODY_TABLE,
};

enum {
    COLUMNS_PER_TASK = 64, /* where a task owns columns of all rows: whole cache lines */
    GAIN_CHUNK = 256       /* norm gains converted at a time, on the stack */
};

/* ---- choosing a kernel --------------------------------------------------------------------- */

/* A choice of --kernel: row bodies and products, and products of bf16 operands if there are any. */
typedef struct {
    const char *name;
    const Kernels *kernels;
    const ProductBodies *rounded;
} Choice;
enum { CHOICES = 6 };

const char *precision_name(size_t i)
{
    static const char *const names[] = {[PRECISION_F32] = "f32", [PRECISION_BF16] = "bf16"};
    return i < sizeof names / sizeof *names ? names[i] : NULL;
}

const char *compute_kernel_name(size_t i)
{
    static const char *const names[] = {"auto",       "ref",  "avx2",    "avx512",
                                        "avx512bf16", "neon", "neonbf16"};
    return i < sizeof names / sizeof *names ? names[i] : NULL;
}

/* Lists all choices that this machine can run, slowest first; returns their number. */
static size_t choices(Choice list[CHOICES])
{
    const Choice all[CHOICES] = {
        {"ref", &kernels_ref, NULL},        {"avx2", kernels_avx2(), NULL},
        {"avx512", kernels_avx512(), NULL}, {"avx512bf16", kernels_avx512(), products_avx512bf16()},
        {"neon", kernels_neon(), NULL},     {"neonbf16", kernels_neon(), products_neonbf16()}};
    size_t n = 0;
    for (size_t i = 0; i < CHOICES; i++) {
        int special = i > 0 && all[i].kernels == all[i - 1].kernels; /* for bf16 only */
        if (all[i].kernels && (!special || all[i].rounded)) list[n++] = all[i];
    }
    return n;
}

const char *compute_available(void)
{
    Choice list[CHOICES];
    /* each instruction set includes those before it, so the last one decides */
    static const char *const texts[] = {
        "ref",      "ref avx2",         "ref avx2 avx512", "ref avx2 avx512 avx512bf16",
        "ref neon", "ref neon neonbf16"};
    size_t n = choices(list);
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        const char *last = strrchr(texts[i], ' ');
        if (!strcmp(last ? last + 1 : texts[i], list[n - 1].name)) return texts[i];
    }
    return texts[0];
}

/* Returns the fastest choice for a precision: the last one with bodies of its own for it. */
static const Choice *choice_auto(const Choice *list, size_t n, Precision precision)
{
    while (n > 1 && list[n - 1].rounded && precision != PRECISION_BF16) n--;
    return &list[n - 1];
}

int compute_open(Compute *c, const char *kernel, Precision precision, Err *e)
{
    Choice list[CHOICES];
    size_t n = choices(list), total;
    const Choice *chosen = strcmp(kernel, "auto") ? NULL : choice_auto(list, n, precision);
    memset(c, 0, sizeof *c);
    for (size_t i = 0; i < n; i++)
        if (!strcmp(kernel, list[i].name)) chosen = &list[i];
    if (!chosen)
        return err_set(e, ERR_USAGE,
                       "--kernel %s: this machine or build has none; allowed: auto or one of %s",
                       kernel, compute_available());
    c->name = chosen->name;
    c->kernels = chosen->kernels;
    c->rounded = chosen->rounded;
    c->precision = precision;
    c->scratch_size = size_ceil(THREAD_SCRATCH * sizeof(real), CACHE_LINE) * CACHE_LINE;
    if (size_mul((size_t)threads_count(), c->scratch_size, &total) ||
        size_add(total, CACHE_LINE, &total))
        return err_set(e, ERR_MEMORY, "scratch for %d threads is too large", threads_count());
    c->block = mem_calloc(total, 1, e);
    if (!c->block) return -1;
    /* Packed rows begin with cache lines: a register is then one line. */
    c->scratch = (unsigned char *)c->block + CACHE_LINE - (uintptr_t)c->block % CACHE_LINE;
    return 0;
}

void compute_close(Compute *c)
{
    mem_free(c->block);
    memset(c, 0, sizeof *c);
}

const char *compute_name(const Compute *c)
{
    return c->name;
}

Mat mat_rows(const Mat *w, size_t first, size_t count)
{
    Mat m = *w;
    m.data = (const unsigned char *)w->data + first * format_bytes(w->format, w->cols);
    m.rows = count;
    return m;
}

size_t mat_bytes(const Mat *w)
{
    return w->rows * format_bytes(w->format, w->cols);
}

void mat_unpack(const Mat *w, real *out)
{
    size_t run, stride;
    for (size_t r = 0; r < w->rows; r++)
        format_unpack(w->format, out + r * w->cols, mat_row(w, r, &run, &stride), 0, w->cols);
}

/* ---- embedding and gathering --------------------------------------------------------------- */

/* One job for the four functions below: y[i] = x[at(i)] or dx[at(i)] += dy[i]. */
typedef struct {
    const Compute *c;
    real *out;
    const real *in;
    const Mat *E;
    const int32_t *ids;
    const uint32_t *rows;
    size_t n, H;
} RowJob;

static size_t row_at(const RowJob *j, size_t i)
{
    return j->ids ? (size_t)j->ids[i] : j->rows[i];
}

static void row_copy_task(void *ctx, size_t i)
{
    const RowJob *j = ctx;
    size_t from = row_at(j, i);
    if (j->E) {
        Mat m = mat_rows(j->E, from, 1);
        format_unpack(m.format, j->out + i * j->H, m.data, 0, j->H);
    } else {
        memcpy(j->out + i * j->H, j->in + from * j->H, j->H * sizeof(real));
    }
}

/* Owns some columns of every row, so equal targets meet in the order of i. */
static void row_add_task(void *ctx, size_t block)
{
    const RowJob *j = ctx;
    size_t first = block * COLUMNS_PER_TASK, n = size_min(COLUMNS_PER_TASK, j->H - first);
    for (size_t i = 0; i < j->n; i++) {
        real *to = j->out + row_at(j, i) * j->H + first;
        j->c->kernels->add(to, to, j->in + i * j->H + first, n);
    }
}

void tensor_embed(const Compute *c, real *x, const Mat *E, const int32_t *ids, size_t T)
{
    RowJob j = {.c = c, .out = x, .E = E, .ids = ids, .n = T, .H = E->cols};
    tasks_run(row_copy_task, &j, T, (double)T * (double)j.H);
}

void tensor_embed_backward(const Compute *c, real *dE, const real *dx, const int32_t *ids, size_t T,
                           size_t V, size_t H)
{
    (void)V;
    RowJob j = {.c = c, .out = dE, .in = dx, .ids = ids, .n = T, .H = H};
    tasks_run(row_add_task, &j, size_ceil(H, COLUMNS_PER_TASK), (double)T * (double)H);
}

void tensor_gather(const Compute *c, real *y, const real *x, const uint32_t *rows, size_t n,
                   size_t H)
{
    RowJob j = {.c = c, .out = y, .in = x, .rows = rows, .n = n, .H = H};
    tasks_run(row_copy_task, &j, n, (double)n * (double)H);
}

void tensor_gather_backward(const Compute *c, real *dx, const real *dy, const uint32_t *rows,
                            size_t n, size_t T, size_t H)
{
    (void)T;
    RowJob j = {.c = c, .out = dx, .in = dy, .rows = rows, .n = n, .H = H};
    tasks_run(row_add_task, &j, size_ceil(H, COLUMNS_PER_TASK), (double)n * (double)H);
}

/* ---- element by element -------------------------------------------------------------------- */

/* One job for all bodies that take ranges of equal length. */
typedef struct {
    const Compute *c;
    real *y, *y2;
    const real *a, *b, *d;
    real s;
    size_t n;
    double p;
    uint64_t key;
} RangeJob;

/* The range of task i: its first element, and in *n its length. */
static size_t range_of(const RangeJob *j, size_t i, size_t *n)
{
    size_t first = i * TASK_WORK;
    *n = size_min(TASK_WORK, j->n - first);
    return first;
}

static void range_run(Task task, RangeJob *j)
{
    threads_run(task, j, size_ceil(j->n, TASK_WORK));
}

static void add_task(void *ctx, size_t i)
{
    const RangeJob *j = ctx;
    size_t n, at = range_of(j, i, &n);
    j->c->kernels->add(j->y + at, j->a + at, j->b + at, n);
}

void tensor_add(const Compute *c, real *y, const real *a, const real *b, size_t n)
{
    RangeJob j = {.c = c, .y = y, .a = a, .b = b, .n = n};
    range_run(add_task, &j);
}

static void axpy_task(void *ctx, size_t i)
{
    const RangeJob *j = ctx;
    size_t n, at = range_of(j, i, &n);
    j->c->kernels->axpy(j->y + at, j->s, j->a + at, n);
}

void tensor_axpy(const Compute *c, real *y, real s, const real *x, size_t n)
{
    RangeJob j = {.c = c, .y = y, .a = x, .s = s, .n = n};
    range_run(axpy_task, &j);
}

static void swiglu_task(void *ctx, size_t i)
{
    const RangeJob *j = ctx;
    size_t n, at = range_of(j, i, &n);
    j->c->kernels->swiglu(j->y + at, j->a + at, j->b + at, n);
}

void tensor_swiglu(const Compute *c, real *y, const real *gate, const real *up, size_t n)
{
    RangeJob j = {.c = c, .y = y, .a = gate, .b = up, .n = n};
    range_run(swiglu_task, &j);
}

static void swiglu_backward_task(void *ctx, size_t i)
{
    const RangeJob *j = ctx;
    size_t n, at = range_of(j, i, &n);
    j->c->kernels->swiglu_backward(j->y + at, j->y2 + at, j->d + at, j->a + at, j->b + at, n);
}

void tensor_swiglu_backward(const Compute *c, real *dgate, real *dup, const real *dy,
                            const real *gate, const real *up, size_t n)
{
    RangeJob j = {.c = c, .y = dgate, .y2 = dup, .d = dy, .a = gate, .b = up, .n = n};
    range_run(swiglu_backward_task, &j);
}

static void dropout_task(void *ctx, size_t i)
{
    const RangeJob *j = ctx;
    size_t n, at = range_of(j, i, &n);
    for (size_t k = at; k < at + n; k++)
        j->y[k] = rng_unit(j->key, RNG_DROPOUT, k) >= j->p ? j->s * j->a[k] : 0;
}

void tensor_dropout(const Compute *c, real *y, const real *x, double p, uint64_t key, size_t n)
{
    RangeJob j = {.c = c, .y = y, .a = x, .s = (real)(1 / (1 - p)), .n = n, .p = p, .key = key};
    range_run(dropout_task, &j);
}

/* ---- norm ---------------------------------------------------------------------------------- */

typedef struct {
    const Compute *c;
    real *y, *r, *dg;
    const real *x, *dy, *saved;
    const Mat *g;
    real eps;
    size_t T, H, rows_per_task;
} NormJob;

static size_t rows_per_task(size_t H)
{
    return H < TASK_WORK ? TASK_WORK / (H ? H : 1) : 1;
}

/* Gains [first, first + n) as real. */
static void norm_gain(const NormJob *j, real gain[GAIN_CHUNK], size_t first, size_t n)
{
    format_unpack(j->g->format, gain, j->g->data, first, n);
}

static void norm_task(void *ctx, size_t block)
{
    const NormJob *j = ctx;
    const Kernels *k = j->c->kernels;
    size_t first = block * j->rows_per_task, last = size_min(j->T, first + j->rows_per_task);
    for (size_t t = first; t < last; t++) {
        real mean = k->dot(j->x + t * j->H, j->x + t * j->H, j->H) / (real)j->H;
        j->r[t] = 1 / real_sqrt(mean + j->eps);
    }
    real gain[GAIN_CHUNK];
    for (size_t i = 0; i < j->H; i += GAIN_CHUNK) {
        size_t n = size_min(GAIN_CHUNK, j->H - i);
        norm_gain(j, gain, i, n);
        for (size_t t = first; t < last; t++)
            k->norm_apply(j->y + t * j->H + i, j->x + t * j->H + i, gain, j->r[t], n);
    }
}

void tensor_rmsnorm(const Compute *c, real *y, real *r, const real *x, const Mat *g, double eps,
                    size_t T)
{
    size_t H = g->rows * g->cols;
    NormJob j = {.c = c,
                 .y = y,
                 .r = r,
                 .x = x,
                 .g = g,
                 .eps = (real)eps,
                 .T = T,
                 .H = H,
                 .rows_per_task = rows_per_task(H)};
    threads_run(norm_task, &j, size_ceil(T, j.rows_per_task));
}

/* dx += r (g dy - x c),   c = r^2 sum_j(dy_j g_j x_j) / H;   one row */
static void norm_dx_task(void *ctx, size_t t)
{
    const NormJob *j = ctx;
    const Kernels *k = j->c->kernels;
    const real *dy = j->dy + t * j->H, *x = j->x + t * j->H;
    real gain[GAIN_CHUNK], lanes[LANES] = {0};
    for (size_t i = 0; i < j->H; i += GAIN_CHUNK) {
        size_t n = size_min(GAIN_CHUNK, j->H - i);
        norm_gain(j, gain, i, n);
        k->norm_dot(lanes, dy + i, gain, x + i, n);
    }
    real r = j->saved[t], c = r * r * lanes_sum(lanes) / (real)j->H;
    for (size_t i = 0; i < j->H; i += GAIN_CHUNK) {
        size_t n = size_min(GAIN_CHUNK, j->H - i);
        norm_gain(j, gain, i, n);
        k->norm_dx(j->y + t * j->H + i, dy + i, gain, x + i, r, c, n);
    }
}

static void norm_dg_task(void *ctx, size_t block)
{
    const NormJob *j = ctx;
    size_t first = block * COLUMNS_PER_TASK, n = size_min(COLUMNS_PER_TASK, j->H - first);
    for (size_t t = 0; t < j->T; t++) {
        size_t at = t * j->H + first;
        j->c->kernels->norm_dg(j->dg + first, j->dy + at, j->x + at, j->saved[t], n);
    }
}

void tensor_rmsnorm_backward(const Compute *c, real *dx, real *dg, const real *dy, const real *x,
                             const Mat *g, const real *r, size_t T)
{
    NormJob j = {.c = c,
                 .y = dx,
                 .dg = dg,
                 .dy = dy,
                 .x = x,
                 .g = g,
                 .saved = r,
                 .T = T,
                 .H = g->rows * g->cols};
    double work = (double)T * (double)j.H;
    if (dx) tasks_run(norm_dx_task, &j, T, work);
    if (dg) tasks_run(norm_dg_task, &j, size_ceil(j.H, COLUMNS_PER_TASK), work);
}

/* ---- bias ---------------------------------------------------------------------------------- */

typedef struct {
    const Compute *c;
    real *x, *db;
    const real *dy;
    const Mat *b;
    size_t T, H, rows_per_task;
} BiasJob;

static void bias_task(void *ctx, size_t block)
{
    const BiasJob *j = ctx;
    size_t first = block * j->rows_per_task, last = size_min(first + j->rows_per_task, j->T);
    real part[GAIN_CHUNK];
    for (size_t i = 0; i < j->H; i += GAIN_CHUNK) {
        size_t n = size_min(GAIN_CHUNK, j->H - i);
        format_unpack(j->b->format, part, j->b->data, i, n);
        for (size_t t = first; t < last; t++) j->c->kernels->axpy(j->x + t * j->H + i, 1, part, n);
    }
}

void tensor_bias(const Compute *c, real *x, const Mat *b, size_t T)
{
    size_t H = b->rows * b->cols;
    BiasJob j = {.c = c, .x = x, .b = b, .T = T, .H = H, .rows_per_task = rows_per_task(H)};
    threads_run(bias_task, &j, size_ceil(T, j.rows_per_task));
}

static void bias_backward_task(void *ctx, size_t block)
{
    const BiasJob *j = ctx;
    size_t first = block * COLUMNS_PER_TASK, n = size_min(COLUMNS_PER_TASK, j->H - first);
    for (size_t t = 0; t < j->T; t++)
        j->c->kernels->axpy(j->db + first, 1, j->dy + t * j->H + first, n);
}

void tensor_bias_backward(const Compute *c, real *db, const real *dy, size_t T, size_t H)
{
    BiasJob j = {.c = c, .db = db, .dy = dy, .T = T, .H = H};
    tasks_run(bias_backward_task, &j, size_ceil(H, COLUMNS_PER_TASK), (double)T * (double)H);
}

/* ---- sizes of rows ------------------------------------------------------------------------- */

typedef struct {
    real *y, *base, *dm;
    const real *z, *m, *n;
    size_t T, N;
} MagnitudeJob;

static void magnitude_task(void *ctx, size_t t)
{
    const MagnitudeJob *j = ctx;
    real *y = j->y + t * j->N;
    const real *z = j->z + t * j->N;
    for (size_t o = 0; o < j->N; o++) y[o] = j->m[o] / j->n[o] * z[o];
}

void tensor_magnitude(const Compute *c, real *y, const real *z, const real *m, const real *n,
                      size_t T, size_t N)
{
    (void)c;
    MagnitudeJob j = {.y = y, .z = z, .m = m, .n = n, .T = T, .N = N};
    tasks_run(magnitude_task, &j, T, (double)T * (double)N);
}

static void magnitude_apart_task(void *ctx, size_t t)
{
    const MagnitudeJob *j = ctx;
    real *y = j->y + t * j->N, *base = j->base + t * j->N;
    const real *low = j->z + t * j->N;
    for (size_t o = 0; o < j->N; o++) {
        real f = j->m[o] / j->n[o];
        y[o] += (f - 1) * base[o] + f * low[o];
        base[o] += low[o];
    }
}

void tensor_magnitude_apart(const Compute *c, real *y, real *base, const real *low, const real *m,
                            const real *n, size_t T, size_t N)
{
    (void)c;
    MagnitudeJob j = {.y = y, .base = base, .z = low, .m = m, .n = n, .T = T, .N = N};
    tasks_run(magnitude_apart_task, &j, T, (double)T * (double)N);
}

static void magnitude_backward_task(void *ctx, size_t block)
{
    const MagnitudeJob *j = ctx;
    size_t first = block * COLUMNS_PER_TASK, last = size_min(first + COLUMNS_PER_TASK, j->N);
    for (size_t t = 0; t < j->T; t++) {
        const real *dy = j->y + t * j->N, *z = j->z + t * j->N;
        for (size_t o = first; o < last; o++) j->dm[o] += dy[o] * z[o] / j->n[o];
    }
}

void tensor_magnitude_backward(const Compute *c, real *dm, const real *dy, const real *z,
                               const real *n, size_t T, size_t N)
{
    (void)c;
    MagnitudeJob j = {.y = (real *)(uintptr_t)dy, .dm = dm, .z = z, .n = n, .T = T, .N = N};
    tasks_run(magnitude_backward_task, &j, size_ceil(N, COLUMNS_PER_TASK), (double)T * (double)N);
}

/* ---- rope ---------------------------------------------------------------------------------- */

typedef struct {
    const Compute *c;
    real *x;
    const real *cos, *sin;
    const uint32_t *position;
    size_t heads, D;
    real sign;
} RopeJob;

static void rope_task(void *ctx, size_t t)
{
    const RopeJob *j = ctx;
    size_t half = j->D / 2, angles = j->position[t] * half;
    for (size_t h = 0; h < j->heads; h++) {
        real *x = j->x + (t * j->heads + h) * j->D;
        j->c->kernels->rope(x, x + half, j->cos + angles, j->sin + angles, j->sign, half);
    }
}

void tensor_rope(const Compute *c, real *x, const real *cos, const real *sin,
                 const uint32_t *position, size_t T, size_t heads, size_t D, int inverse)
{
    RopeJob j = {.c = c,
                 .x = x,
                 .cos = cos,
                 .sin = sin,
                 .position = position,
                 .heads = heads,
                 .D = D,
                 .sign = inverse ? -1 : 1};
    tasks_run(rope_task, &j, T, (double)T * (double)(heads * D));
}

/* ---- optimiser ----------------------------------------------------------------------------- */

typedef struct {
    const Compute *c;
    real *w, *m, *v;
    const real *g;
    AdamWStep step;
    size_t n;
} AdamWJob;

static void adamw_task(void *ctx, size_t i)
{
    const AdamWJob *j = ctx;
    size_t at = i * TASK_WORK, n = size_min(TASK_WORK, j->n - at);
    j->c->kernels->adamw(j->w + at, j->g + at, j->m + at, j->v + at, n, &j->step);
}

void tensor_adamw(const Compute *c, real *w, const real *g, real *m, real *v, size_t n,
                  const AdamW *a)
{
    double correction1 = 1 - maths_pow(a->beta1, (double)a->step);
    double correction2 = 1 - maths_pow(a->beta2, (double)a->step);
    AdamWJob j = {.c = c, .w = w, .m = m, .v = v, .g = g, .n = n};
    j.step = (AdamWStep){.clip = (real)a->clip,
                         .keep = (real)(1 - a->lr * a->weight_decay),
                         .blend1 = (real)(1 - a->beta1),
                         .beta2 = (real)a->beta2,
                         .blend2 = (real)(1 - a->beta2),
                         .root2 = (real)sqrt(correction2),
                         .eps = (real)a->eps,
                         .rate = (real)(a->lr / correction1)};
    threads_run(adamw_task, &j, size_ceil(n, TASK_WORK));
}

enum { SQUARE_CHUNKS = 4096 }; /* largest number of partial sums, kept in scratch */

typedef struct {
    const real *x;
    double *sums;
    size_t n, chunk;
} SquaresJob;

static void squares_task(void *ctx, size_t i)
{
    const SquaresJob *j = ctx;
    const real *x = j->x + i * j->chunk;
    size_t n = size_min(j->chunk, j->n - i * j->chunk);
    double lanes[LANES] = {0};
    for (size_t k = 0; k < n; k++) {
        double v = x[k];
        lanes[k % LANES] += v * v;
    }
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int l = 0; l < half; l++) lanes[l] += lanes[l + half];
    j->sums[i] = lanes[0];
}

double tensor_sum_squares(const Compute *c, const real *x, size_t n)
{
    /* The chunks are a function of n alone. */
    size_t chunk = size_ceil(n, SQUARE_CHUNKS);
    if (chunk < TASK_WORK) chunk = TASK_WORK;
    size_t count = size_ceil(n, chunk);
    SquaresJob j = {.x = x, .sums = (double *)(void *)c->scratch, .n = n, .chunk = chunk};
    threads_run(squares_task, &j, count);
    double sum = 0;
    for (size_t i = 0; i < count; i++) sum += j.sums[i];
    return sum;
}

size_t tensor_find_nonfinite(const real *x, size_t n)
{
    for (size_t at = 0; at < n; at += TASK_WORK) { /* first whether, then where */
        size_t end = size_min(n, at + TASK_WORK);
        int all = 1;
        for (size_t i = at; i < end; i++) all &= x[i] - x[i] == 0;
        for (size_t i = at; i < end && !all; i++)
            if (!isfinite(x[i])) return i;
    }
    return n;
}
