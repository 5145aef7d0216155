/* tensor_product.c - matrix products: every output is one chain over the contracted index. */
#include "tensor.h"
#include "tensor_kernels.h"

enum { WEIGHT_CHUNK = 512 }; /* weights converted at a time, on the stack */

typedef struct {
    const Compute *c;
    real *y;
    const real *x, *dy;
    const Mat *w;
    size_t T, N, K;
    int add;
} ProductJob;

/* An operand of a product in the precision asked for. */
static real operand(const Compute *c, real v)
{
    return c->precision == PRECISION_BF16 ? (real)bf16_to_float(bf16_from_float((float)v)) : v;
}

/* Weights [row, col .. col + n) as operands. */
static void weights_load(const ProductJob *j, real *out, size_t row, size_t col, size_t n)
{
    const unsigned char *p = j->w->data;
    p += (row * j->w->cols + col) * dtype_size(j->w->dtype);
    dtype_to_real(out, p, j->w->dtype, n);
    for (size_t i = 0; i < n; i++) out[i] = operand(j->c, out[i]);
}

/* Column n of y. */
static void linear_task(void *ctx, size_t n)
{
    const ProductJob *j = ctx;
    real w[WEIGHT_CHUNK];
    if (!j->add)
        for (size_t t = 0; t < j->T; t++) j->y[t * j->N + n] = 0;
    for (size_t k = 0; k < j->K; k += WEIGHT_CHUNK) {
        size_t count = size_min(WEIGHT_CHUNK, j->K - k);
        weights_load(j, w, n, k, count);
        for (size_t t = 0; t < j->T; t++) {
            const real *x = j->x + t * j->K + k;
            real sum = j->y[t * j->N + n];
            for (size_t i = 0; i < count; i++) sum = real_fma(operand(j->c, x[i]), w[i], sum);
            j->y[t * j->N + n] = sum;
        }
    }
}

void tensor_linear(const Compute *c, real *y, const real *x, const Mat *w, size_t T, int add)
{
    ProductJob j = {.c = c, .y = y, .x = x, .w = w, .T = T, .N = w->rows, .K = w->cols, .add = add};
    threads_run(linear_task, &j, j.N);
}

/* Some columns of dx. */
static void linear_dx_task(void *ctx, size_t block)
{
    const ProductJob *j = ctx;
    real w[WEIGHT_CHUNK];
    size_t first = block * WEIGHT_CHUNK, count = size_min(WEIGHT_CHUNK, j->K - first);
    if (!j->add)
        for (size_t t = 0; t < j->T; t++)
            for (size_t i = 0; i < count; i++) j->y[t * j->K + first + i] = 0;
    for (size_t n = 0; n < j->N; n++) {
        weights_load(j, w, n, first, count);
        for (size_t t = 0; t < j->T; t++)
            j->c->kernels->axpy(j->y + t * j->K + first, operand(j->c, j->dy[t * j->N + n]), w,
                                count);
    }
}

void tensor_linear_dx(const Compute *c, real *dx, const real *dy, const Mat *w, size_t T, int add)
{
    ProductJob j = {.c = c, .y = dx, .dy = dy, .w = w, .T = T, .N = w->rows, .K = w->cols,
                    .add = add};
    threads_run(linear_dx_task, &j, size_ceil(j.K, WEIGHT_CHUNK));
}

/* Row n of dw. */
static void linear_dw_task(void *ctx, size_t n)
{
    const ProductJob *j = ctx;
    for (size_t t = 0; t < j->T; t++)
        j->c->kernels->axpy(j->y + n * j->K, j->dy[t * j->N + n], j->x + t * j->K, j->K);
}

void tensor_linear_dw(const Compute *c, real *dw, const real *dy, const real *x, size_t T, size_t N,
                      size_t K)
{
    ProductJob j = {.c = c, .y = dw, .x = x, .dy = dy, .T = T, .N = N, .K = K};
    threads_run(linear_dw_task, &j, N);
}
