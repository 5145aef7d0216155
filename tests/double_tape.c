/* Gradients of every operation of the tape against central differences, in double, signed.
 *
 * A program maps some parameters to a value y; the objective is sum w_i y_i with random weights w
 * (a plain sum would be blind to a softmax). Each parameter entry is moved by +-h. */
#include "tape.h"
#include "test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { T = 7, H = 6, D = 4, Q = 4, G = 2, V = 11, R = 2, MOST = 12 };
static const double step = 1e-5, tolerance = 1e-7;

typedef struct Program Program;
struct Program {
    Var *(*run)(Tape *t, Program *p);
    Param param[MOST];
    size_t n;
    Adapter adapter;
    int keep;
    uint64_t dropout_key;
    size_t window;
};

static uint64_t draws;
static double draw(void)
{
    return 2 * rng_unit(99, 7, draws++) - 1;
}

/* A trainable [rows, cols] of random numbers. */
static Param *add_param(Program *p, size_t rows, size_t cols)
{
    Param *q = &p->param[p->n++];
    real *w = malloc(rows * cols * sizeof *w);
    for (size_t i = 0; i < rows * cols; i++) w[i] = draw();
    *q = (Param){{w, FORMAT_REAL, rows, cols, 0}, calloc(rows * cols, sizeof(real))};
    return q;
}

static void free_program(Program *p)
{
    for (size_t i = 0; i < p->n; i++) {
        free((void *)(uintptr_t)p->param[i].w.data);
        free(p->param[i].d);
    }
}

static const int32_t ids[T] = {0, 3, 2, 3, 6, 1, 5};
static Tape tape;
static Compute compute;

static double objective(Program *p, const double *weight)
{
    tape_reset(&tape);
    tape.record = 0;
    tape.keep = p->keep;
    tape.dropout_key = p->dropout_key;
    Var *y = p->run(&tape, p);
    double sum = 0;
    for (size_t i = 0; i < y->rows * y->cols; i++) sum += weight[i] * y->x[i];
    return sum;
}

static void check_gradients(Program *p)
{
    Err e;
    static double weight[T * V * H];
    for (size_t i = 0; i < sizeof weight / sizeof *weight; i++) weight[i] = draw();
    CHECK_OK(compute_open(&compute, "ref", PRECISION_F32, &e), &e);
    CHECK_OK(tape_open(&tape, &compute, 1 << 22, 1 << 20, &e), &e);
    for (size_t i = 0; i < p->n; i++)
        memset(p->param[i].d, 0, p->param[i].w.rows * p->param[i].w.cols * sizeof(real));
    tape.record = 1;
    tape.keep = p->keep;
    tape.dropout_key = p->dropout_key;
    Var *y = p->run(&tape, p);
    tape_backward(&tape, y, weight);
    CHECK_OK(tape_check(&tape, &e), &e);
    for (size_t i = 0; i < p->n; i++) {
        real *w = (real *)(uintptr_t)p->param[i].w.data;
        for (size_t j = 0; j < p->param[i].w.rows * p->param[i].w.cols; j++) {
            real at = w[j];
            w[j] = at + step;
            double up = objective(p, weight);
            w[j] = at - step;
            double down = objective(p, weight);
            w[j] = at;
            double numeric = (up - down) / (2 * step), analytic = p->param[i].d[j];
            CHECK_NEAR(analytic, numeric, tolerance * fmax(1, fabs(numeric)));
        }
    }
    tape_close(&tape);
    compute_close(&compute);
    free_program(p);
}

/* ---- one program per operation --------------------------------------------------------------- */

static Var *source(Tape *t, Program *p)
{
    return tape_embed(t, &p->param[0], ids, T);
}

static void embed(void)
{
    Program p = {.run = source};
    add_param(&p, V, H);
    check_gradients(&p);
}

static Var *run_rmsnorm(Tape *t, Program *p)
{
    return tape_rmsnorm(t, source(t, p), &p->param[1], 1e-5);
}

static void rmsnorm(void)
{
    Program p = {.run = run_rmsnorm};
    add_param(&p, V, H);
    add_param(&p, 1, H);
    check_gradients(&p);
}

/* A gain of half the width norms the halves of each row: as if they were rows. */
static void rmsnorm_by_heads(void)
{
    enum { D2 = H / 2 };
    Program p = {.run = run_rmsnorm};
    Err e;
    add_param(&p, V, H);
    add_param(&p, 1, D2);
    check_gradients(&p); /* and frees it */
    p = (Program){.run = run_rmsnorm};
    add_param(&p, V, H);
    add_param(&p, 1, D2);
    CHECK_OK(compute_open(&compute, "ref", PRECISION_F32, &e), &e);
    CHECK_OK(tape_open(&tape, &compute, 1 << 20, 1 << 20, &e), &e);
    const Var *x = source(&tape, &p), *y = run_rmsnorm(&tape, &p);
    const real *g = p.param[1].w.data;
    for (size_t row = 0; row < 2 * T; row++) {
        double mean = 0;
        for (size_t i = 0; i < D2; i++) mean += x->x[row * D2 + i] * x->x[row * D2 + i] / D2;
        for (size_t i = 0; i < D2; i++)
            CHECK_NEAR(y->x[row * D2 + i], g[i] * x->x[row * D2 + i] / sqrt(mean + 1e-5), 1e-12);
    }
    tape_close(&tape);
    compute_close(&compute);
    free_program(&p);
}

static Var *run_bias(Tape *t, Program *p)
{
    Var *x = tape_rmsnorm(t, source(t, p), &p->param[1], 1e-5);
    return tape_bias(t, tape_linear(t, x, &p->param[2], NULL), &p->param[3]);
}

static void bias(void)
{
    Program p = {.run = run_bias};
    add_param(&p, V, H);
    add_param(&p, 1, H);
    add_param(&p, 5, H);
    add_param(&p, 1, 5);
    check_gradients(&p);
}

static Var *run_linear(Tape *t, Program *p)
{
    return tape_linear(t, source(t, p), &p->param[1], p->adapter.scale != 0 ? &p->adapter : NULL);
}

static void linear(void)
{
    Program p = {.run = run_linear};
    add_param(&p, V, H);
    add_param(&p, 5, H);
    check_gradients(&p);
}

/* B is random, not zero: with B = 0 the gradient of A would be zero whatever the code does. */
static void add_adapter(Program *p, size_t outputs, double dropout)
{
    Param *a = add_param(p, R, H), *b = add_param(p, outputs, R);
    p->adapter = (Adapter){.a = *a, .b = *b, .scale = 1.7, .dropout = dropout, .key = 5};
}

static void linear_with_adapter(void)
{
    Program p = {.run = run_linear};
    add_param(&p, V, H);
    add_param(&p, 5, H);
    add_adapter(&p, 5, 0);
    check_gradients(&p);
}

static void linear_with_dropout(void)
{
    Program p = {.run = run_linear, .dropout_key = 77};
    add_param(&p, V, H);
    add_param(&p, 5, H);
    add_adapter(&p, 5, 0.4);
    check_gradients(&p);
}

/* Sizes of the rows of a frozen weight: m is trained, the lengths are constants. */
static const real lengths[V] = {0.9, 1.3, 2.1, 0.4, 1.7, 0.8, 1.1, 1.9, 0.6, 1.2, 1.5};
static real frozen_rows[V * H];
static Param frozen_weight(size_t rows)
{
    for (size_t i = 0; i < rows * H; i++) frozen_rows[i] = sin(1.3 * (double)i);
    return (Param){{frozen_rows, FORMAT_REAL, rows, H, 0}, NULL};
}

static void add_sizes(Program *p, size_t outputs, double dropout)
{
    add_adapter(p, outputs, dropout);
    p->adapter.m = *add_param(p, 1, outputs);
    p->adapter.n = lengths;
}

static Var *run_sizes(Tape *t, Program *p)
{
    static Param w;
    w = frozen_weight(5);
    /* a bias in place comes after: the way back may not read the result */
    return tape_bias(t, tape_linear(t, source(t, p), &w, &p->adapter), &p->param[p->n - 1]);
}

static void linear_with_sizes(void)
{
    for (int dropout = 0; dropout < 2; dropout++) {
        Program p = {.run = run_sizes, .dropout_key = dropout ? 77 : 0};
        add_param(&p, V, H);
        add_sizes(&p, 5, dropout ? 0.4 : 0);
        add_param(&p, 1, 5);
        check_gradients(&p);
    }
}

static Var *run_swiglu(Tape *t, Program *p)
{
    Var *x = source(t, p);
    return tape_swiglu(t, tape_linear(t, x, &p->param[1], NULL),
                       tape_linear(t, x, &p->param[2], NULL));
}

static void swiglu(void)
{
    Program p = {.run = run_swiglu};
    add_param(&p, V, H);
    add_param(&p, 8, H);
    add_param(&p, 8, H);
    check_gradients(&p);
}

/* Sums whose terms are used once, twice, before and after, and x + x: the ways gradients meet. */
static Var *run_add(Tape *t, Program *p)
{
    Var *x = source(t, p);
    Var *h = tape_linear(t, x, &p->param[1], NULL);
    Var *y = tape_add(t, x, h);
    y = tape_add(t, y, tape_linear(t, h, &p->param[1], NULL));
    y = tape_add(t, tape_linear(t, y, &p->param[1], NULL), y);
    return tape_add(t, y, y);
}

static void add(void)
{
    Program p = {.run = run_add};
    add_param(&p, V, H);
    add_param(&p, H, H);
    check_gradients(&p);
}

static Var *run_gather(Tape *t, Program *p)
{
    static const uint32_t rows[] = {6, 2, 2, 0};
    return tape_gather(t, tape_rmsnorm(t, source(t, p), &p->param[1], 1e-5), rows, 4, 4);
}

static void gather(void)
{
    Program p = {.run = run_gather};
    add_param(&p, V, H);
    add_param(&p, 1, H);
    check_gradients(&p);
}

/* Two completions of one prompt, and a sequence of its own:
 * rows 0-2 prompt, 3-4 and 5 its two continuations, 6 alone. */
static const KeyRange ranges[] = {{0, 3, NULL}, {0, 3, NULL}, {3, 2, NULL},
                                  {0, 3, NULL}, {5, 1, NULL}, {6, 1, NULL}};
static const AttentionPart parts[] = {{0, 3, 0, &ranges[0], 1},
                                      {3, 2, 3, &ranges[1], 2},
                                      {5, 1, 3, &ranges[3], 2},
                                      {6, 1, 0, &ranges[5], 1}};
static const uint32_t position[T] = {0, 1, 2, 3, 4, 3, 0};
static real cosines[8 * D / 2], sines[8 * D / 2];
static const Rotary rotary = {cosines, sines, position, D};
static AttentionPlan plan = {.parts = parts, .n_parts = 4};

static Var *run_attention(Tape *t, Program *p)
{
    for (size_t i = 0; i < 8 * D / 2; i++)
        cosines[i] = cos(0.3 * (double)i), sines[i] = sin(0.3 * (double)i);
    plan.shape = (AttentionShape){Q, G, D, p->window, 1 / sqrt((double)D)};
    Var *x = source(t, p);
    Var *q = tape_rope(t, tape_linear(t, x, &p->param[1], NULL), &rotary);
    Var *k = tape_rope(t, tape_linear(t, x, &p->param[2], NULL), &rotary);
    Var *v = tape_linear(t, x, &p->param[3], NULL);
    return tape_attention(t, q, k, v, &plan, 0);
}

static void attention_with(size_t window)
{
    Program p = {.run = run_attention, .window = window};
    add_param(&p, V, H);
    add_param(&p, Q * D, H);
    add_param(&p, G * D, H);
    add_param(&p, G * D, H);
    check_gradients(&p);
}

static void attention_rope_shared_prompt(void)
{
    attention_with(0);
}

static void attention_window(void)
{
    attention_with(2);
}

static const int32_t targets[T] = {1, 10, 0, 4, 4, 9, 2};
static Var *run_logprob(Tape *t, Program *p)
{
    return tape_logprob(t, source(t, p), &p->param[1], p->adapter.scale != 0 ? &p->adapter : NULL,
                        targets, NULL);
}

static void logprob_trained_head(void)
{
    Program p = {.run = run_logprob};
    add_param(&p, V, H);
    add_param(&p, V, H);
    check_gradients(&p);
}

static void logprob_adapted_head(void)
{
    Program p = {.run = run_logprob};
    add_param(&p, V, H);
    add_param(&p, V, H);
    add_adapter(&p, V, 0);
    check_gradients(&p);
}

static Var *run_sizes_of_head(Tape *t, Program *p)
{
    static Param w;
    w = frozen_weight(V);
    return tape_logprob(t, source(t, p), &w, &p->adapter, targets, NULL);
}

static void logprob_head_with_sizes(void)
{
    Program p = {.run = run_sizes_of_head};
    add_param(&p, V, H);
    add_sizes(&p, V, 0);
    check_gradients(&p);
}

/* A frozen head keeps its direction instead of recomputing: only the embedding is trained. */
static Var *run_frozen_head(Tape *t, Program *p)
{
    static real head[V * H];
    static Param frozen = {{head, FORMAT_REAL, V, H, 0}, NULL};
    for (size_t i = 0; i < V * H; i++) head[i] = sin(1.3 * (double)i);
    return tape_logprob(t, source(t, p), &frozen, NULL, targets, NULL);
}

static void logprob_frozen_head(void)
{
    Program p = {.run = run_frozen_head};
    add_param(&p, V, H);
    check_gradients(&p);
}

/* ---- layers ---------------------------------------------------------------------------------- */

static Var *one_layer(Tape *t, void *ctx, size_t index, Var *x)
{
    Program *p = ctx;
    Var *h = tape_rmsnorm(t, x, &p->param[1 + index], 1e-5);
    return tape_add(t, x, tape_linear(t, h, &p->param[4], &p->adapter));
}

static Var *run_layers(Tape *t, Program *p)
{
    Var *x = source(t, p);
    for (size_t i = 0; i < 3; i++) x = tape_layer(t, one_layer, p, i, x, x->rows, x->live);
    return tape_rmsnorm(t, x, &p->param[1], 1e-5);
}

static void build_layers(Program *p, int keep)
{
    *p = (Program){.run = run_layers, .keep = keep, .dropout_key = 3};
    add_param(p, V, H);
    for (int i = 0; i < 3; i++) add_param(p, 1, H);
    add_param(p, H, H);
    add_adapter(p, H, 0.3);
}

static void layers_kept(void)
{
    Program p;
    build_layers(&p, 1);
    check_gradients(&p);
}

static void layers_recomputed(void)
{
    Program p;
    build_layers(&p, 0);
    check_gradients(&p);
}

/* Keeping and recomputing run the same kernels on the same numbers. */
static void layers_same_bits(void)
{
    static double weight[T * H];
    Program p[2];
    Err e;
    for (size_t i = 0; i < T * H; i++) weight[i] = draw();
    uint64_t from = draws;
    CHECK_OK(compute_open(&compute, "ref", PRECISION_F32, &e), &e);
    size_t peak[2];
    for (int keep = 0; keep < 2; keep++) {
        draws = from;
        build_layers(&p[keep], keep);
        CHECK_OK(tape_open(&tape, &compute, 1 << 20, 1 << 20, &e), &e);
        tape.record = 1;
        tape.keep = keep;
        tape.dropout_key = 3;
        tape_backward(&tape, run_layers(&tape, &p[keep]), weight);
        CHECK_OK(tape_check(&tape, &e), &e);
        peak[keep] = tape_peak(&tape);
        tape_close(&tape);
        /* a counting tape measures exactly what the real one used */
        CHECK_OK(tape_open(&tape, &compute, 0, 1 << 20, &e), &e);
        tape.record = 1;
        tape.keep = keep;
        tape.dropout_key = 3;
        tape_backward(&tape, run_layers(&tape, &p[keep]), weight);
        CHECK_INT(tape_peak(&tape), peak[keep]);
        tape_close(&tape);
    }
    CHECK(peak[0] < peak[1]);
    for (size_t i = 0; i < p[0].n; i++)
        CHECK(!memcmp(p[0].param[i].d, p[1].param[i].d,
                      p[0].param[i].w.rows * p[0].param[i].w.cols * sizeof(real)));
    compute_close(&compute);
    free_program(&p[0]);
    free_program(&p[1]);
}

/* Nothing below the lowest trainable weight gets a gradient, and an overfull tape says so. */
static void frozen_below(void)
{
    Program p = {.run = run_rmsnorm};
    Err e;
    static double weight[T * H];
    add_param(&p, V, H);
    add_param(&p, 1, H);
    real *d = p.param[0].d;
    p.param[0].d = NULL;
    CHECK_OK(compute_open(&compute, "ref", PRECISION_F32, &e), &e);
    CHECK_OK(tape_open(&tape, &compute, 1 << 20, 1 << 20, &e), &e);
    tape.record = 1;
    Var *x = source(&tape, &p);
    CHECK(!x->wants);
    Var *y = tape_rmsnorm(&tape, x, &p.param[1], 1e-5);
    CHECK(y->wants);
    tape_backward(&tape, y, weight);
    CHECK(x->d == NULL);
    tape_close(&tape);
    CHECK_OK(tape_open(&tape, &compute, 64, 1 << 20, &e), &e);
    tape.record = 1;
    tape_backward(&tape, run_rmsnorm(&tape, &p), weight);
    CHECK(tape_check(&tape, &e) && e.code == ERR_INTERNAL);
    tape_close(&tape);
    p.param[0].d = d;
    compute_close(&compute);
    free_program(&p);
}

typedef struct {
    size_t rows;    /* of the program's value */
    size_t more;    /* of another one, while kernels run */
    size_t less;    /* of another one, while it is counted */
    size_t records; /* bytes, while kernels run */
    int times;      /* it was called */
} Uneven;

static Var *run_uneven(Tape *t, void *ctx)
{
    Uneven *u = ctx;
    u->times++;
    Var *y = tape_value(t, u->rows, H);
    if (t->counting ? u->less : u->more) tape_value(t, t->counting ? u->less : u->more, H);
    if (u->records && !t->counting) tape_memory(t, u->records);
    return y;
}

/* What a program is counted at is what it takes, or the run fails: with less, and with more. */
static void counted_is_used(void)
{
    Err e = {0};
    Tape t = {0};
    TapeNeed need;
    CHECK_OK(compute_open(&compute, "ref", PRECISION_F32, &e), &e);
    for (size_t rows = 1; rows < 200; rows += 33) { /* the tape grows with its programs */
        Uneven u = {.rows = rows};
        const Var *y = tape_run(&t, &compute, 1 << 12, run_uneven, &u, &e);
        CHECK(y && y->rows == rows && u.times == 2 && y->x[rows * H - 1] == 0);
        CHECK_OK(tape_count(&compute, 1 << 12, run_uneven, &u, &need, &e), &e);
        CHECK(need.bytes >= rows * H * sizeof(real) && need.bytes < (rows * H + 8) * sizeof(real));
        CHECK_INT(tape_peak(&t), need.bytes);
        CHECK_INT(t.arena.size, need.bytes);
    }
    size_t grown = t.arena.size;
    Uneven small = {.rows = 2}; /* fits in the same memory, and is compared with its own count */
    CHECK(tape_run(&t, &compute, 1 << 12, run_uneven, &small, &e) && t.arena.size == grown);
    CHECK(tape_peak(&t) < grown);
    static const Uneven bad[] = {
        {.rows = 2, .more = 1}, {.rows = 2, .less = 1}, {.rows = 2, .records = 1}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Uneven u = bad[i];
        e = (Err){0};
        CHECK(!tape_run(&t, &compute, 1 << 12, run_uneven, &u, &e));
        CHECK_INT(e.code, ERR_INTERNAL);
    }
    Uneven records = {.rows = 1};
    CHECK(!tape_run(&t, &compute, 1, run_uneven, &records, &e));
    CHECK_INT(e.code, ERR_INTERNAL);
    tape_close(&t);
    compute_close(&compute);
}

const Test tests[] = {{"embed", embed},
                      {"rmsnorm", rmsnorm},
                      {"rmsnorm_by_heads", rmsnorm_by_heads},
                      {"bias", bias},
                      {"linear", linear},
                      {"linear_with_adapter", linear_with_adapter},
                      {"linear_with_sizes", linear_with_sizes},
                      {"logprob_head_with_sizes", logprob_head_with_sizes},
                      {"linear_with_dropout", linear_with_dropout},
                      {"swiglu", swiglu},
                      {"add", add},
                      {"gather", gather},
                      {"attention_rope_shared_prompt", attention_rope_shared_prompt},
                      {"attention_window", attention_window},
                      {"logprob_trained_head", logprob_trained_head},
                      {"logprob_adapted_head", logprob_adapted_head},
                      {"logprob_frozen_head", logprob_frozen_head},
                      {"layers_kept", layers_kept},
                      {"layers_recomputed", layers_recomputed},
                      {"layers_same_bits", layers_same_bits},
                      {"frozen_below", frozen_below},
                      {"counted_is_used", counted_is_used}};
TEST_MAIN(tests)
