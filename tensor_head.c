/* tensor_head.c - turns hidden rows into log-probabilities, chunk by chunk of the vocabulary.
 *
 * A matrix of [rows, V] never exists: rows are taken in blocks, the vocabulary in chunks of fixed
 * width, and each chunk updates a running maximum and running sums (Milakov and Gimelshein 2018,
 * "Online normalizer calculation for softmax", Algorithm 3). A row's numbers depend on no other
 * row, since the chunks are a function of the vocabulary alone.
 *
 * The target is kept apart from the sums over the others, S = sum_{v != y} e^{z_v - m}: the
 * gradient is then (S W_y - sum_{v != y} e^{z_v - m} W_v) / (S + e^{z_y - m}), which stays accurate
 * to the last relative digit for confident rows, where 1 - p_y would cancel.
 */
#include "tensor.h"
#include "tensor_kernels.h"

enum {
    HEAD_ROWS = 512,   /* rows of a block */
    HEAD_CHUNK = 2048, /* vocabulary rows of a chunk, a multiple of LANES */
    HEAD_SLICE = 256   /* weights converted at a time, on the stack */
};

/* The running state of one row. */
typedef struct {
    double others, others2; /* sums over v != y of e^{z - top}, e^{2 (z - top)} */
    real top, target;       /* largest z so far; z of the target */
} HeadRow;

typedef struct {
    const Compute *c;
    real *logp, *square, *direction, *z;
    double *norm;
    HeadRow *rows;
    const Mat *w;
    HeadAdapter a; /* its part of z; b NULL = none */
    const int32_t *target;
    size_t first, width, stride, H; /* the chunk: vocabulary rows [first, first + width) */
} HeadJob;

size_t tensor_logprob_scratch(size_t n, int want_direction)
{
    (void)want_direction;
    n = size_min(n, HEAD_ROWS);
    return n * (HEAD_CHUNK * sizeof(real) + sizeof(HeadRow));
}

/* Takes a chunk of logits into the state of row t, and turns them into e^{z - top}, 0 at the
 * target. The direction so far is brought to the new maximum. */
static void head_row_task(void *ctx, size_t t)
{
    const HeadJob *j = ctx;
    const Kernels *k = j->c->kernels;
    HeadRow *row = &j->rows[t];
    real *z = j->z + t * j->stride, top[LANES];
    double sum[LANES] = {0}, sum2[LANES] = {0};
    for (size_t l = 0; l < LANES; l++) top[l] = row->top;
    for (size_t v = j->width; v < j->stride; v++) z[v] = -(real)INFINITY;
    k->score_max(z, top, 1, j->stride);
    real before = row->top;
    row->top = lanes_max(top);
    size_t target = (size_t)j->target[t] - j->first; /* beyond width: not in this chunk */
    if (target < j->width) {
        row->target = z[target];
        z[target] = -(real)INFINITY;
    }
    k->logit_exp(z, sum, sum2, row->top, j->stride);
    double down = maths_exp((double)before - (double)row->top);
    row->others = row->others * down + lanes_sum_double(sum);
    row->others2 = row->others2 * down * down + lanes_sum_double(sum2);
    if (j->direction && down < 1)
        for (size_t i = 0; i < j->H; i++) j->direction[t * j->H + i] *= (real)down;
}

/* direction = (S W_y - direction) / (S + e^{z_y - m}) */
static void head_direction(const HeadJob *j, size_t t, double others, double total)
{
    real w[HEAD_SLICE], *d = j->direction + t * j->H;
    Mat m = mat_rows(j->w, (size_t)j->target[t], 1);
    for (size_t i = 0; i < j->H; i += HEAD_SLICE) {
        size_t n = size_min(HEAD_SLICE, j->H - i);
        format_unpack(m.format, w, m.data, i, n);
        for (size_t k = 0; k < n; k++)
            d[i + k] = (real)((others * (double)w[k] - (double)d[i + k]) / total);
    }
}

static void head_finish_task(void *ctx, size_t t)
{
    const HeadJob *j = ctx;
    const HeadRow *row = &j->rows[t];
    double gap = (double)row->target - (double)row->top, own = maths_exp(gap);
    double total = row->others + own, log_total = maths_log(total);
    j->logp[t] = (real)(gap - log_total);
    if (j->norm) j->norm[t] = (double)row->top + log_total;
    if (j->square) j->square[t] = (real)(maths_log(row->others2 + own * own) - 2 * log_total);
    if (j->direction) head_direction(j, t, row->others, total);
}

/* z = h W^T over the chunk */
static void head_logits(const HeadJob *j, const real *h, const Mat *chunk, size_t n)
{
    Product p = {.M = n,
                 .N = j->width,
                 .K = j->H,
                 .c = j->z,
                 .c_rows = {1, 0, j->stride},
                 .a = h,
                 .a_rows = {1, 0, j->H},
                 .a_step = 1,
                 .b = product_across(chunk),
                 .round = j->c->precision == PRECISION_BF16};
    product_run(j->c, &p);
}

/* z += u B^T over the chunk; adapters are never rounded. Then the sizes of W's rows. */
static void head_adapt(const HeadJob *j, size_t n)
{
    if (!j->a.b) return;
    Mat chunk = mat_rows(j->a.b, j->first, j->width);
    Product p = {.M = n,
                 .N = j->width,
                 .K = chunk.cols,
                 .c = j->z,
                 .c_rows = {1, 0, j->stride},
                 .a = j->a.u,
                 .a_rows = {1, 0, chunk.cols},
                 .a_step = 1,
                 .b = product_across(&chunk),
                 .add = 1};
    product_run(j->c, &p);
    for (size_t t = 0; t < n && j->a.sizes; t++) {
        real *z = j->z + t * j->stride;
        tensor_magnitude(j->c, z, z, j->a.sizes + j->first, j->a.lengths + j->first, 1, j->width);
    }
}

/* direction += e^{z - top} W over the chunk. A chain over a whole vocabulary would lose digits (its
 * error grows with the square root of its length), so its parts are summed apart. */
static void head_mix(const HeadJob *j, const Mat *chunk, size_t n)
{
    Product p = {.M = n,
                 .N = j->H,
                 .K = j->width,
                 .c = j->direction,
                 .c_rows = {1, 0, j->H},
                 .a = j->z,
                 .a_rows = {1, 0, j->stride},
                 .a_step = 1,
                 .b = product_along(chunk),
                 .add = 1,
                 .round = j->c->precision == PRECISION_BF16,
                 .apart = 1};
    product_run(j->c, &p);
}

/* One block of rows through all chunks. */
static void head_block(HeadJob *j, const real *h, size_t n)
{
    for (size_t t = 0; t < n; t++) j->rows[t] = (HeadRow){.top = -(real)INFINITY};
    if (j->direction)
        for (size_t i = 0; i < n * j->H; i++) j->direction[i] = 0;
    for (j->first = 0; j->first < j->w->rows; j->first += HEAD_CHUNK) {
        j->width = size_min(HEAD_CHUNK, j->w->rows - j->first);
        Mat chunk = mat_rows(j->w, j->first, j->width);
        j->stride = lanes_ceil(j->width);
        head_logits(j, h, &chunk, n);
        head_adapt(j, n);
        tasks_run(head_row_task, j, n, (double)n * (double)j->width);
        if (j->direction) head_mix(j, &chunk, n);
    }
    tasks_run(head_finish_task, j, n, (double)n * (double)j->H);
}

/* All rows, block after block; the arrays of j begin at row 0. */
static void head_run(HeadJob j, const real *h, size_t n, void *scratch)
{
    size_t H = j.H = j.w->cols;
    j.rows = scratch;
    j.z = (real *)(void *)(j.rows + size_min(n, HEAD_ROWS));
    for (size_t at = 0; at < n; at += HEAD_ROWS) {
        HeadJob block = j;
        block.logp += at;
        block.target += at;
        if (j.square) block.square += at;
        if (j.direction) block.direction += at * H;
        if (j.norm) block.norm += at;
        if (j.a.b) block.a.u += at * j.a.b->cols;
        head_block(&block, h + at * H, size_min(HEAD_ROWS, n - at));
    }
}

void tensor_logprob(const Compute *c, real *logp, real *square, real *direction, const real *h,
                    const Mat *w, const int32_t *target, size_t n, void *scratch)
{
    HeadJob j = {
        .c = c, .logp = logp, .square = square, .direction = direction, .w = w, .target = target};
    head_run(j, h, n, scratch);
}

void tensor_logprob_adapted(const Compute *c, real *logp, real *square, double *norm, const real *h,
                            const Mat *w, const HeadAdapter *a, const int32_t *target, size_t n,
                            void *scratch)
{
    HeadJob j = {
        .c = c, .logp = logp, .square = square, .norm = norm, .w = w, .a = *a, .target = target};
    head_run(j, h, n, scratch);
}

void tensor_softmax_row(const Compute *c, real *z, size_t V)
{
    size_t whole = V / LANES * LANES;
    real top[LANES], rest[LANES];
    double sum[LANES] = {0}, sum2[LANES] = {0};
    for (size_t l = 0; l < LANES; l++) {
        top[l] = -(real)INFINITY;
        rest[l] = whole + l < V ? z[whole + l] : -(real)INFINITY;
    }
    c->kernels->score_max(z, top, 1, whole);
    c->kernels->score_max(rest, top, 1, LANES);
    c->kernels->logit_exp(z, sum, sum2, lanes_max(top), whole);
    c->kernels->logit_exp(rest, sum, sum2, lanes_max(top), LANES);
    double total = lanes_sum_double(sum);
    for (size_t v = 0; v < V; v++)
        z[v] = (real)((double)(v < whole ? z[v] : rest[v - whole]) / total);
}
