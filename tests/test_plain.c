/* test_plain.c - plain.c, the reading copy of the kernels, gives the bits of --kernel ref: every
 * operation, forward and backward, over odd shapes. */
#include "lora.h"
#include "plain.h"
#include "tape.h"
#include "test.h"

static Compute compute;
static Err err;
static uint64_t draws;

static const Compute *ref(void)
{
    if (!compute.name) CHECK_OK(compute_open(&compute, "ref", PRECISION_F32, &err), &err);
    return &compute;
}

/* Memory for n numbers, zeroed, until forget: after each shape. */
static Pool pool;
static real *zeros(size_t n)
{
    real *x = pool_alloc(&pool, (n + 1) * sizeof *x, &err);
    if (!x) exit(1);
    return x;
}
static void forget(void)
{
    pool_free(&pool);
    pool = (Pool){0};
}

/* n numbers between -1 and 1, the same in every run. */
static real *random_numbers(size_t n)
{
    real *x = zeros(n);
    for (size_t i = 0; i < n; i++) x[i] = (real)(2 * rng_unit(11, RNG_SAMPLE, draws++) - 1);
    return x;
}
static real *copy_of(const real *x, size_t n)
{
    return memcpy(zeros(n), x, n * sizeof *x);
}

/* Equal bits of n numbers, else says which first. */
static void same(const char *what, const real *kernel, const real *plain, size_t n)
{
    if (!memcmp(kernel, plain, n * sizeof *kernel)) return;
    size_t i = 0;
    while (!memcmp(kernel + i, plain + i, sizeof *kernel)) i++;
    printf("%s: number %zu of %zu is %.9g in the kernel, %.9g in plain.c\n", what, i, n,
           (double)kernel[i], (double)plain[i]);
    test_failures++;
}

static Mat matrix(const real *x, size_t rows, size_t cols)
{
    return (Mat){x, FORMAT_REAL, rows, cols, 0};
}

/* Widths round the lanes (16), the gains of a norm (256), the terms of a pass (512). */
static const size_t WIDTHS[] = {1, 2, 3, 15, 16, 17, 31, 33, 64, 255, 257, 511, 513, 600};
static const size_t COUNTS[] = {1, 2, 3, 5, 16, 17, 33};
#define EACH(i, list) for (size_t i = 0; i < sizeof(list) / sizeof *(list); i++)

/* ---- rows ---------------------------------------------------------------------------------- */

static void rows(void)
{
    static const int32_t at[7] = {4, 0, 4, 2, 4, 0, 1};
    static const uint32_t same_at[7] = {4, 0, 4, 2, 4, 0, 1};
    EACH(i, WIDTHS)
    {
        size_t H = WIDTHS[i];
        real *x = random_numbers(5 * H), *dy = random_numbers(7 * H);
        real *before = random_numbers(5 * H);
        real *y = zeros(7 * H), *y2 = zeros(7 * H);
        real *dx = copy_of(before, 5 * H), *dx2 = copy_of(before, 5 * H);
        Mat table = matrix(x, 5, H);
        plain_rows(y2, x, at, 7, H);
        plain_rows_back(dx2, dy, at, 7, H);
        tensor_embed(ref(), y, &table, at, 7);
        tensor_embed_backward(ref(), dx, dy, at, 7, 5, H);
        same("embed", y, y2, 7 * H);
        same("embed, backward", dx, dx2, 5 * H);
        memcpy(dx, before, 5 * H * sizeof *dx);
        tensor_gather(ref(), y, x, same_at, 7, H);
        tensor_gather_backward(ref(), dx, dy, same_at, 7, 5, H);
        same("gather", y, y2, 7 * H);
        same("gather, backward", dx, dx2, 5 * H);
        forget();
    }
}

static void rmsnorm(void)
{
    const double eps = 1e-5;
    EACH(i, WIDTHS) EACH(k, COUNTS)
    {
        size_t H = WIDTHS[i], T = COUNTS[k];
        real *x = random_numbers(T * H), *g = random_numbers(H), *dy = random_numbers(T * H);
        real *y = zeros(T * H), *y2 = zeros(T * H), *r = zeros(T), *r2 = zeros(T);
        real *dx = random_numbers(T * H), *dx2 = copy_of(dx, T * H);
        real *dg = random_numbers(H), *dg2 = copy_of(dg, H);
        Mat gain = matrix(g, 1, H);
        tensor_rmsnorm(ref(), y, r, x, &gain, eps, T);
        tensor_rmsnorm_backward(ref(), dx, dg, dy, x, &gain, r, T);
        plain_rmsnorm(y2, r2, x, g, eps, T, H);
        plain_rmsnorm_back(dx2, dg2, dy, x, g, r2, T, H);
        same("rmsnorm", y, y2, T * H);
        same("rmsnorm, r", r, r2, T);
        same("rmsnorm, dx", dx, dx2, T * H);
        same("rmsnorm, dg", dg, dg2, H);
        forget();
    }
}

/* ---- linear maps --------------------------------------------------------------------------- */

static void linear(void)
{
    static const size_t inputs[] = {1, 3, 17, 511, 513, 1030}, outputs[] = {1, 5, 16, 17, 65};
    static const size_t counts[] = {1, 2, 5, 17};
    EACH(i, inputs) EACH(j, outputs) EACH(k, counts)
    {
        size_t K = inputs[i], N = outputs[j], T = counts[k];
        real *x = random_numbers(T * K), *w = random_numbers(N * K), *dy = random_numbers(T * N);
        real *dx = random_numbers(T * K), *dx2 = copy_of(dx, T * K);
        real *dw = random_numbers(N * K), *dw2 = copy_of(dw, N * K);
        Mat W = matrix(w, N, K);
        for (int add = 0; add < 2; add++) {
            real *y = random_numbers(T * N), *y2 = copy_of(y, T * N);
            tensor_linear(ref(), y, x, &W, T, add);
            plain_linear(y2, x, w, T, N, K, add);
            same("linear", y, y2, T * N);
        }
        tensor_linear_dx(ref(), dx, dy, &W, T, 1);
        tensor_linear_dw(ref(), dw, dy, x, T, N, K);
        plain_linear_back(dx2, dw2, dy, x, w, T, N, K);
        same("linear, dx", dx, dx2, T * K);
        same("linear, dw", dw, dw2, N * K);
        forget();
    }
}

/* A tape of its own for one operation on x [T,K]. */
static Var *tape_begin(Tape *t, const real *x, size_t T, size_t K)
{
    CHECK_OK(tape_open(t, ref(), 1 << 24, 1 << 16, &err), &err);
    t->record = t->keep = 1;
    Var *v = tape_value(t, T, K);
    memcpy(v->x, x, T * K * sizeof *x);
    v->wants = 1;
    return v;
}

/* The tape's linear map with an adapter, its dropout too. */
static void adapter(void)
{
    static const size_t ranks[] = {1, 3, 17};
    EACH(i, ranks) EACH(k, COUNTS) for (int drops = 0; drops < 2; drops++)
    {
        size_t R = ranks[i], T = COUNTS[k], K = 37, N = 19;
        const double s = 0.3, p = drops ? 0.4 : 0;
        real *x = random_numbers(T * K), *w = random_numbers(N * K), *dy = random_numbers(T * N);
        real *a = random_numbers(R * K), *b = random_numbers(N * R);
        real *da = random_numbers(R * K), *da2 = copy_of(da, R * K);
        real *db = random_numbers(N * R), *db2 = copy_of(db, N * R);
        Tape t;
        Param frozen = {matrix(w, N, K), NULL};
        Adapter low = {.a = {matrix(a, R, K), da},
                       .b = {matrix(b, N, R), db},
                       .scale = s,
                       .dropout = p,
                       .key = 5};
        Var *in = tape_begin(&t, x, T, K);
        t.dropout_key = 77;
        Var *out = tape_linear(&t, in, &frozen, &low);
        tape_backward(&t, out, dy);
        CHECK_OK(tape_check(&t, &err), &err);

        real *y = zeros(T * N), *u = zeros(T * R), *du = zeros(T * R), *dx = zeros(T * K);
        real *dropped = copy_of(x, T * K), *through = zeros(T * K);
        uint64_t key = rng_mix(t.dropout_key, low.key);
        if (drops) plain_dropout(dropped, x, p, key, T * K);
        plain_linear(y, x, w, T, N, K, 0);
        plain_adapter(y, u, dropped, a, b, s, T, N, K, R);
        plain_linear_back(dx, NULL, dy, x, w, T, N, K);
        plain_adapter_back(drops ? through : dx, da2, db2, du, dy, u, dropped, a, b, s, T, N, K, R);
        if (drops) {
            plain_dropout(through, through, p, key, T * K);
            plain_add(dx, dx, through, T * K);
        }
        same("adapter", out->x, y, T * N);
        same("adapter, dA", da, da2, R * K);
        same("adapter, dB", db, db2, N * R);
        same("adapter, dx", in->d, dx, T * K);
        tape_close(&t);
        forget();
    }
}

/* ---- element by element -------------------------------------------------------------------- */

static void sums(void)
{
    EACH(i, WIDTHS)
    {
        size_t n = WIDTHS[i];
        real *a = random_numbers(n), *b = random_numbers(n), *y = zeros(n), *y2 = zeros(n);
        tensor_add(ref(), y, a, b, n);
        plain_add(y2, a, b, n);
        same("add", y, y2, n);
        tensor_axpy(ref(), y, 1, a, n); /* the tape's way back: da += dy */
        plain_add(y2, y2, a, n);
        same("add, backward", y, y2, n);
        forget();
    }
}

static void rope(void)
{
    static const size_t widths[] = {2, 6, 32, 34, 128};
    static const uint32_t position[5] = {0, 3, 1, 6, 6};
    EACH(i, widths) for (size_t heads = 1; heads < 4; heads++)
    {
        size_t D = widths[i], n = 5 * heads * D;
        real *x = random_numbers(n), *x2 = copy_of(x, n);
        real *cos = random_numbers(7 * D / 2), *sin = random_numbers(7 * D / 2);
        for (int inverse = 0; inverse < 2; inverse++) {
            tensor_rope(ref(), x, cos, sin, position, 5, heads, D, inverse);
            plain_rope(x2, cos, sin, position, 5, heads, D, inverse);
            same(inverse ? "rope, backward" : "rope", x, x2, n);
        }
        forget();
    }
}

static void swiglu(void)
{
    EACH(i, WIDTHS)
    {
        size_t n = WIDTHS[i];
        real *g = random_numbers(n), *u = random_numbers(n), *dy = random_numbers(n);
        real *y = zeros(n), *y2 = zeros(n);
        real *dg = random_numbers(n), *dg2 = copy_of(dg, n), *du = random_numbers(n);
        real *du2 = copy_of(du, n);
        for (size_t k = 0; k < n; k++) g[k] *= 20;
        tensor_swiglu(ref(), y, g, u, n);
        tensor_swiglu_backward(ref(), dg, du, dy, g, u, n);
        plain_swiglu(y2, g, u, n);
        plain_swiglu_back(dg2, du2, dy, g, u, n);
        same("swiglu", y, y2, n);
        same("swiglu, dgate", dg, dg2, n);
        same("swiglu, dup", du, du2, n);
        forget();
    }
}

/* ---- attention ----------------------------------------------------------------------------- */

/* One shape; the kernel gets the keys in two spans. */
static void attention_of(const PlainAttention *s)
{
    size_t nq = s->count * s->Q * s->D, keys = s->pos + s->count, nk = keys * s->G * s->D;
    real *q = random_numbers(nq), *k = random_numbers(nk), *v = random_numbers(nk);
    real *dout = random_numbers(nq), *o = zeros(nq), *o2 = zeros(nq);
    real *stat = zeros(2 * s->count * s->Q), *stat2 = zeros(2 * s->count * s->Q);
    real *dq = random_numbers(nq), *dq2 = copy_of(dq, nq), *dk = random_numbers(nk);
    real *dk2 = copy_of(dk, nk), *dv = random_numbers(nk), *dv2 = copy_of(dv, nk);
    size_t cut = keys / 3, at = cut * s->G * s->D;
    for (size_t i = 0; i < nq; i++) q[i] *= 5;
    KeySpan spans[2] = {{k, v, dk, dv, cut}, {k + at, v + at, dk + at, dv + at, keys - cut}};
    AttentionSeq seq = {0, s->count, s->pos, cut ? spans : spans + 1, cut ? 2 : 1};
    AttentionShape shape = {s->Q, s->G, s->D, s->window, s->scale};
    tensor_attention(ref(), o, stat, q, &seq, 1, &shape);
    tensor_attention_backward(ref(), dq, dout, o, stat, q, &seq, 1, &shape);
    plain_attention(o2, stat2, q, k, v, s);
    plain_attention_back(dq2, dk2, dv2, dout, o2, stat2, q, k, v, zeros(keys), zeros(keys), s);
    same("attention", o, o2, nq);
    same("attention, stat", stat, stat2, 2 * s->count * s->Q);
    same("attention, dq", dq, dq2, nq);
    same("attention, dk", dk, dk2, nk);
    same("attention, dv", dv, dv2, nk);
    forget();
}

/* Blocks of 96 rows, chunks of 512 keys, windows that begin inside sixteen lanes. */
static void attention(void)
{
    static const PlainAttention shapes[] = {
        {1, 0, 1, 1, 2, 0, 0.7},     {3, 0, 2, 1, 6, 0, 0.4},    {17, 0, 4, 2, 8, 0, 0.35},
        {33, 5, 6, 2, 10, 0, 0.3},   {97, 0, 3, 3, 4, 0, 0.5},   {100, 31, 4, 1, 16, 0, 0.25},
        {1, 700, 4, 2, 8, 0, 0.35},  {70, 500, 2, 1, 4, 0, 0.5}, {50, 0, 4, 2, 6, 7, 0.4},
        {120, 40, 2, 2, 4, 33, 0.5}, {5, 90, 1, 1, 18, 1, 0.2}};
    EACH(i, shapes) attention_of(&shapes[i]);
}

/* ---- the head ------------------------------------------------------------------------------ */

static const size_t VOCABULARIES[] = {1, 2, 17, 255, 257, 600, 2048, 2049, 4100};

static void frozen_head(void)
{
    EACH(i, VOCABULARIES)
    {
        size_t V = VOCABULARIES[i], H = 19, T = 3;
        real *h = random_numbers(T * H), *w = random_numbers(V * H), *z = zeros(V);
        real *logp = zeros(T), *square = zeros(T), *direction = zeros(T * H);
        real *logp2 = zeros(T), *square2 = zeros(T), *direction2 = zeros(T * H);
        int32_t target[3] = {0, (int32_t)(V / 2), (int32_t)(V - 1)};
        Mat W = matrix(w, V, H);
        for (size_t k = 0; k < T * H; k++) h[k] *= 4;
        tensor_logprob(ref(), logp, square, direction, h, &W, target, T,
                       zeros(tensor_logprob_scratch(T, 1) / sizeof(real)));
        for (size_t t = 0; t < T; t++) {
            double norm;
            plain_linear(z, h + t * H, w, 1, V, H, 0);
            plain_logprob(logp2 + t, square2 + t, &norm, direction2 + t * H, z, w, target[t], V, H);
        }
        same("log p", logp, logp2, T);
        same("log sum p^2", square, square2, T);
        same("direction", direction, direction2, T * H);
        forget();
    }
}

/* The tape's head that learns, with an adapter on it or without. */
static void learning_head(void)
{
    EACH(i, VOCABULARIES) for (int adapted = 0; adapted < 2; adapted++)
    {
        size_t V = VOCABULARIES[i], H = 11, R = 3, T = 5;
        const double s = 0.6;
        real *h = random_numbers(T * H), *w = random_numbers(V * H), *dy = random_numbers(T);
        real *a = random_numbers(R * H), *b = random_numbers(V * R), *square = zeros(T);
        real *da = zeros(R * H), *da2 = zeros(R * H), *db = zeros(V * R), *db2 = zeros(V * R);
        real *dw = random_numbers(V * H), *dw2 = copy_of(dw, V * H);
        int32_t target[5] = {0, (int32_t)(V - 1), (int32_t)(V / 2), (int32_t)(V / 3), 0};
        Tape t;
        Param head = {matrix(w, V, H), dw};
        Adapter low = {
            .a = {matrix(a, R, H), da}, .b = {matrix(b, V, R), db}, .scale = s, .key = 5};
        Var *in = tape_begin(&t, h, T, H);
        Var *out = tape_logprob(&t, in, &head, adapted ? &low : NULL, target, square);
        tape_backward(&t, out, dy);
        CHECK_OK(tape_check(&t, &err), &err);

        real *z = zeros(T * V), *e = zeros(V), *u = zeros(T * R), *du = zeros(T * R), logp, square2;
        real *direction = zeros(H), *dh = zeros(T * H);
        plain_linear(z, h, w, T, V, H, 0);
        if (adapted) plain_adapter(z, u, h, a, b, s, T, V, H, R);
        for (size_t k = 0; k < T; k++) {
            double norm;
            memcpy(e, z + k * V, V * sizeof *e);
            plain_logprob(&logp, &square2, &norm, direction, e, w, target[k], V, H);
            plain_logprob_back(z + k * V, dy[k], norm, target[k], V);
            same("learning head, log p", out->x + k, &logp, 1);
            same("learning head, log sum p^2", square + k, &square2, 1);
        }
        plain_linear_back(dh, dw2, z, h, w, T, V, H);
        if (adapted) plain_adapter_back(dh, da2, db2, du, z, u, h, a, b, s, T, V, H, R);
        same("learning head, dh", in->d, dh, T * H);
        same("learning head, dW", dw, dw2, V * H);
        same("learning head, dA", da, da2, R * H);
        same("learning head, dB", db, db2, V * R);
        tape_close(&t);
        forget();
    }
}

/* ---- the optimiser ------------------------------------------------------------------------- */

static void adamw(void)
{
    EACH(i, WIDTHS)
    {
        size_t n = WIDTHS[i];
        real *w = random_numbers(n), *w2 = copy_of(w, n), *m = zeros(n), *m2 = zeros(n);
        real *v = zeros(n), *v2 = zeros(n);
        AdamW a = {0.01, 0.9, 0.999, 1e-8, 0.1, 0, 0.7};
        for (a.step = 1; a.step < 5; a.step++) {
            real *g = random_numbers(n);
            tensor_adamw(ref(), w, g, m, v, n, &a);
            plain_adamw(w2, g, m2, v2, n, a.lr, a.beta1, a.beta2, a.eps, a.weight_decay, a.clip,
                        a.step);
        }
        same("AdamW", w, w2, n);
        same("AdamW, m", m, m2, n);
        same("AdamW, v", v, v2, n);
        forget();
    }
}

/* DoRA on a frozen map: the tape's y, and what comes back, as in plain loops. */
static void sizes(void)
{
    static const size_t inputs[] = {1, 17, 300}, outputs[] = {1, 19, 300}, counts[] = {1, 5};
    EACH(i, inputs) EACH(j, outputs) EACH(k, counts)
    {
        size_t K = inputs[i], N = outputs[j], T = counts[k], R = 3;
        const double s = 0.3;
        real *x = random_numbers(T * K), *w = random_numbers(N * K), *dy = random_numbers(T * N);
        real *a = random_numbers(R * K), *b = random_numbers(N * R), *m = random_numbers(N);
        real *da = zeros(R * K), *da2 = zeros(R * K), *db = zeros(N * R), *db2 = zeros(N * R);
        real *dm = zeros(N), *dm2 = zeros(N), *n = zeros(N), *n2 = zeros(N);
        real *y2 = zeros(T * N), *z2 = zeros(T * N), *u2 = zeros(T * R), *dz2 = zeros(T * N);
        real *dx2 = zeros(T * K), *du2 = zeros(T * R);
        Tape t;
        Param frozen = {matrix(w, N, K), NULL};
        Adapter slots[TARGET_COUNT + 1] = {{.a = {matrix(a, R, K), da},
                                            .b = {matrix(b, N, R), db},
                                            .scale = s,
                                            .m = {matrix(m, 1, N), dm},
                                            .n = n}};
        Mat weights[TARGET_COUNT + 1] = {frozen.w};
        lora_measure(&(Lora){.config.dora = 1,
                             .shape.layers = 1,
                             .slots = slots,
                             .base = weights,
                             .lengths = n,
                             .lengths_count = N});
        plain_lengths(n2, w, a, b, s, N, K, R);
        same("lengths", n, n2, N);
        Var *in = tape_begin(&t, x, T, K);
        Var *out = tape_linear(&t, in, &frozen, &slots[0]);
        tape_backward(&t, out, dy);
        plain_linear(z2, x, w, T, N, K, 0);
        plain_adapter(z2, u2, x, a, b, s, T, N, K, R);
        plain_magnitude(y2, z2, m, n2, T, N);
        plain_magnitude_back(dz2, dm2, dy, z2, m, n2, T, N);
        plain_linear_back(dx2, NULL, dz2, x, w, T, N, K);
        plain_adapter_back(dx2, da2, db2, du2, dz2, u2, x, a, b, s, T, N, K, R);
        same("sizes", out->x, y2, T * N);
        same("sizes, dm", dm, dm2, N);
        same("sizes, dA", da, da2, R * K);
        same("sizes, dB", db, db2, N * R);
        same("sizes, dx", in->d, dx2, T * K);
        tape_close(&t);
        forget();
    }
}

const Test tests[] = {
    TEST(sizes), TEST(rows),   TEST(rmsnorm),   TEST(linear),      TEST(adapter),       TEST(sums),
    TEST(rope),  TEST(swiglu), TEST(attention), TEST(frozen_head), TEST(learning_head), TEST(adamw),
};
TEST_MAIN(tests)
