/* bench.c - model shapes, timing, and the kernels one by one: matrix products and attention. */
#include "bench.h"

#include <math.h>
#include <string.h>

/* ---- shapes --------------------------------------------------------------------------------- */

#define LLAMA3_ROPE(stretch)                                                                       \
    {                                                                                              \
        .type = "llama3", .theta = 500000, .factor = (stretch), .low_freq_factor = 1,              \
        .high_freq_factor = 4, .original_max_positions = 8192                                      \
    }
#define PLAIN_ROPE(base)                                                                           \
    {                                                                                              \
        .type = "default", .theta = (base), .factor = 1                                            \
    }

/* The values of each model's config.json; n_eos is 0, so that no answer ends early. */
static const BenchShape shapes[] = {
    {"tinystories",
     {.family = "llama", .layers = 2, .H = 128, .F = 384, .V = 2048, .Q = 8, .G = 4, .D = 16,
      .max_positions = 512, .norm_eps = 1e-6, .tied = 1, .rope = PLAIN_ROPE(10000), .bos = 1},
     DTYPE_F32},
    {"llama-3.2-1b",
     {.family = "llama", .layers = 16, .H = 2048, .F = 8192, .V = 128256, .Q = 32, .G = 8, .D = 64,
      .max_positions = 131072, .norm_eps = 1e-5, .tied = 1, .rope = LLAMA3_ROPE(32), .bos = 128000},
     DTYPE_BF16},
    {"llama-3.2-3b",
     {.family = "llama", .layers = 28, .H = 3072, .F = 8192, .V = 128256, .Q = 24, .G = 8, .D = 128,
      .max_positions = 131072, .norm_eps = 1e-5, .tied = 1, .rope = LLAMA3_ROPE(32), .bos = 128000},
     DTYPE_BF16},
    {"llama-3.1-8b",
     {.family = "llama", .layers = 32, .H = 4096, .F = 14336, .V = 128256, .Q = 32, .G = 8,
      .D = 128, .max_positions = 131072, .norm_eps = 1e-5, .rope = LLAMA3_ROPE(8), .bos = 128000},
     DTYPE_BF16},
    {"mistral-7b", /* v0.3: no sliding window */
     {.family = "mistral", .layers = 32, .H = 4096, .F = 14336, .V = 32768, .Q = 32, .G = 8,
      .D = 128, .max_positions = 32768, .norm_eps = 1e-5, .rope = PLAIN_ROPE(1000000), .bos = 1},
     DTYPE_BF16},
};

const BenchShape *bench_shape(const char *name)
{
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        if (!strcmp(name, shapes[i].name)) return &shapes[i];
    return NULL;
}

int bench_open(Bench *b, const char *shape, size_t layers, const char *kernel, Precision precision,
               int quick, Err *e)
{
    Compute c;
    memset(b, 0, sizeof *b);
    b->shape = bench_shape(shape);
    if (!b->shape)
        return err_set(e, ERR_USAGE, "--shape: found \"%.40s\", allowed %s", shape,
                       BENCH_SHAPE_WORDS);
    b->config = b->shape->config;
    if (layers > b->config.layers)
        return err_set(e, ERR_USAGE, "--layers: found %zu, but %s has %zu", layers, shape,
                       b->config.layers);
    if (layers) b->config.layers = layers;
    b->precision = precision;
    b->quick = quick;
    if (compute_open(&c, kernel, precision, e)) return -1;
    b->kernel = compute_name(&c);
    compute_close(&c);
    return 0;
}

/* Outputs and inputs of the seven maps of a layer and of the head. */
static LoraShape map_shapes(const Bench *b)
{
    Model m = {.config = b->config};
    LoraShape s;
    model_lora_shape(&m, &s);
    return s;
}

double bench_layer_weights(const Bench *b)
{
    return bench_forward_weights(b, 1, 1);
}

double bench_forward_weights(const Bench *b, double tokens, double asked)
{
    LoraShape s = map_shapes(b);
    double sum = 0, below = (double)b->config.layers - 1;
    for (int t = 0; t < TARGET_COUNT; t++) {
        double last = t == TARGET_K || t == TARGET_V ? tokens : asked;
        sum += (double)s.outputs[t] * (double)s.inputs[t] * (below * tokens + last);
    }
    return sum;
}

double bench_backward_weights(const Bench *b, double tokens, double asked)
{
    LoraShape s = map_shapes(b);
    double saved = 0;
    for (int t = TARGET_Q; t <= TARGET_V; t++) /* in the first layer, which may be the last */
        saved += (double)s.outputs[t] * (double)s.inputs[t] *
                 (t == TARGET_Q && b->config.layers == 1 ? asked : tokens);
    return bench_forward_weights(b, tokens, asked) - saved;
}

double bench_head_weights(const Bench *b)
{
    return (double)b->config.V * (double)b->config.H;
}

double bench_peak_of(const Bench *b, Dtype dtype)
{
    return dtype == DTYPE_BF16 ? b->peaks.bf16_gflops : b->peaks.f32_gflops;
}

/* ---- the clock ------------------------------------------------------------------------------ */

int bench_stopped(Err *e)
{
    return stop_requested ? err_set(e, ERR_INTERRUPTED, "interrupted") : 0;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_median(double *x, size_t n)
{
    sort_items(x, n, sizeof *x, compare_doubles);
    return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

double bench_time(void (*body)(void *ctx), void *ctx, size_t least, double budget)
{
    enum { MOST = 100 };
    double times[MOST], began = time_now();
    size_t n = 0;
    do {
        double from = time_now();
        body(ctx);
        times[n++] = time_now() - from;
    } while (!stop_requested && n < MOST && (n < least || time_now() - began < budget));
    double median = bench_median(times, n);
    return median > 0 ? median : 1e-9; /* the clock may be too coarse */
}

/* Repetitions of a kernel: the least number, and the seconds to spend. */
static double kernel_time(const Bench *b, void (*body)(void *ctx), void *ctx)
{
    return b->quick ? bench_time(body, ctx, 1, 0.1) : bench_time(body, ctx, 3, 0.5);
}

/* Fills with numbers in [-1, 1), so that no page is touched for the first time while time is taken.
 */
static void fill(real *x, size_t n)
{
    for (size_t i = 0; i < n; i++) x[i] = (real)((double)(i * 2654435761u % 65536) / 32768 - 1);
}

static real *numbers(size_t a, size_t b, Err *e)
{
    size_t n, bytes;
    if (size_mul(a, b, &n) || size_mul(n, sizeof(real), &bytes)) {
        err_set(e, ERR_MEMORY, "an array of %zu x %zu numbers is too large", a, b);
        return NULL;
    }
    real *x = mem_alloc(bytes, e);
    if (x) fill(x, n);
    return x;
}

/* ---- matrix products ------------------------------------------------------------------------ */

size_t bench_weights(const Bench *b, BenchWeight out[BENCH_MAX_WEIGHTS])
{
    LoraShape s = map_shapes(b);
    size_t n = 0;
    for (int t = 0; t <= TARGET_HEAD; t++) {
        size_t i = 0;
        while (i < n && (out[i].N != s.outputs[t] || out[i].K != s.inputs[t])) i++;
        if (i == n) out[n++] = (BenchWeight){.N = s.outputs[t], .K = s.inputs[t]};
        size_t len = strlen(out[i].names);
        snprintf(out[i].names + len, sizeof out[i].names - len, "%s%s", len ? "," : "",
                 target_names[t]);
    }
    return n;
}

/* A product to be repeated. Each repetition takes the next copy of W, so that W comes from memory
 * as it does in a model, where all other weights were read in between. */
typedef struct {
    Compute c;
    unsigned char *weights;
    size_t copies, copy_bytes, turn;
    Mat w;
    real *x, *y; /* [T,K], [T,N] */
    size_t T;
    int backward;
} Gemm;

static void gemm_body(void *ctx)
{
    Gemm *g = ctx;
    g->w.data = g->weights + g->turn++ % g->copies * g->copy_bytes;
    if (g->backward)
        tensor_linear_dx(&g->c, g->x, g->y, &g->w, g->T, 0);
    else
        tensor_linear(&g->c, g->y, g->x, &g->w, g->T, 0);
}

/* Number of copies that together exceed the caches. */
static int gemm_weights(Gemm *g, Err *e)
{
    const size_t beyond_caches = (size_t)256 << 20, count = g->w.rows * g->w.cols;
    size_t total;
    g->copy_bytes = mat_bytes(&g->w);
    g->copies = (beyond_caches + g->copy_bytes - 1) / g->copy_bytes;
    if (size_mul(g->copy_bytes, g->copies, &total))
        return err_set(e, ERR_MEMORY, "weights of %zu x %zu numbers are too large", g->w.rows,
                       g->w.cols);
    g->weights = mem_alloc(total, e);
    if (!g->weights) return -1;
    for (size_t i = 0; i < count; i++) {
        real value = (real)((double)(i * 2654435761u % 65536) / 32768 - 1) / 32;
        g->w.format->pack(g->weights + i * format_bytes(g->w.format, 1), &value, 1);
    }
    for (size_t i = 1; i < g->copies; i++)
        memcpy(g->weights + i * g->copy_bytes, g->weights, g->copy_bytes);
    return 0;
}

static BenchGemm gemm_row(const Bench *b, Gemm *g)
{
    double seconds = kernel_time(b, gemm_body, g);
    double flops = 2.0 * (double)g->T * (double)g->w.rows * (double)g->w.cols;
    BenchGemm row = {.backward = g->backward,
                     .T = g->T,
                     .seconds = seconds,
                     .gflops = flops / seconds / 1e9,
                     .gbs = (double)g->copy_bytes / seconds / 1e9};
    row.share = row.gflops / bench_peak_of(b, g->w.format->dtype);
    row.read_share = row.gbs / b->peaks.read_gbs;
    return row;
}

int bench_gemm(const Bench *b, const BenchWeight *w, Dtype dtype, BenchGemm out[BENCH_MAX_GEMM],
               size_t *n, Err *e)
{
    static const size_t all[] = {1, 16, 64, 256, 1024}, some[] = {1, 16, 256};
    const size_t *T = b->quick ? some : all;
    size_t count = b->quick ? sizeof some / sizeof *some : sizeof all / sizeof *all;
    /* 1,024 rows of logits would be half a gigabyte, and no command computes so many at once. */
    if (w->N == b->config.V && !b->quick) count--;
    size_t most = T[count - 1];
    Gemm g = {.w = {.format = format_of(dtype), .rows = w->N, .cols = w->K}};
    Precision precision = dtype == DTYPE_BF16 ? PRECISION_BF16 : PRECISION_F32;
    *n = 0;
    int failed = compute_open(&g.c, b->kernel, precision, e) || gemm_weights(&g, e) ||
                 !(g.x = numbers(most, w->K, e)) || !(g.y = numbers(most, w->N, e));
    for (g.backward = 0; !failed && g.backward < 2; g.backward++) {
        fill(g.x, most * w->K);
        fill(g.y, most * w->N);
        for (size_t i = 0; i < count && !(failed = bench_stopped(e)); i++) {
            g.T = T[i];
            out[(*n)++] = gemm_row(b, &g);
        }
    }
    compute_close(&g.c);
    mem_free(g.weights);
    mem_free(g.x);
    mem_free(g.y);
    return failed ? -1 : 0;
}

/* ---- attention ------------------------------------------------------------------------------ */

typedef struct {
    Compute c;
    AttentionShape shape;
    KeySpan span;
    AttentionSeq seq;
    real *q, *k, *v, *o, *stat, *dout, *dq, *dk, *dv;
    int backward;
} Attention;

static void attention_body(void *ctx)
{
    Attention *a = ctx;
    if (a->backward)
        tensor_attention_backward(&a->c, a->dq, a->dout, a->o, a->stat, a->q, &a->seq, 1,
                                  &a->shape);
    else
        tensor_attention(&a->c, a->o, a->stat, a->q, &a->seq, 1, &a->shape);
}

static int attention_arrays(Attention *a, size_t length, Err *e)
{
    const AttentionShape *s = &a->shape;
    struct {
        real **array;
        size_t width;
    } all[] = {{&a->q, s->Q * s->D},    {&a->o, s->Q * s->D},  {&a->dout, s->Q * s->D},
               {&a->dq, s->Q * s->D},   {&a->k, s->G * s->D},  {&a->v, s->G * s->D},
               {&a->dk, s->G * s->D},   {&a->dv, s->G * s->D}, {&a->stat, 2 * s->Q}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (!(*all[i].array = numbers(length, all[i].width, e))) return -1;
    a->span = (KeySpan){a->k, a->v, a->dk, a->dv, length};
    a->seq = (AttentionSeq){.count = length, .spans = &a->span, .n_spans = 1};
    return 0;
}

static void attention_free(Attention *a)
{
    real *all[] = {a->q, a->k, a->v, a->o, a->stat, a->dout, a->dq, a->dk, a->dv};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) mem_free(all[i]);
}

static BenchAttention attention_row(const Bench *b, Attention *a, size_t length)
{
    const double forward = 4, backward = 10; /* flops by pair and number of a head, see bench.h */
    double pairs = (double)length * (double)(length + 1) / 2 * (double)a->shape.Q;
    double seconds = kernel_time(b, attention_body, a);
    double flops = (a->backward ? backward : forward) * (double)a->shape.D * pairs;
    BenchAttention row = {.length = length,
                          .backward = a->backward,
                          .seconds = seconds,
                          .gflops = flops / seconds / 1e9};
    row.share = row.gflops / b->peaks.f32_gflops;
    return row;
}

int bench_attention(const Bench *b, BenchAttention out[BENCH_MAX_ATTENTION], size_t *n, Err *e)
{
    static const size_t all[] = {128, 512, 2048, 4096}, some[] = {128, 1024};
    const size_t *length = b->quick ? some : all;
    size_t count = b->quick ? sizeof some / sizeof *some : sizeof all / sizeof *all;
    const ModelConfig *m = &b->config;
    Compute c;
    *n = 0;
    if (compute_open(&c, b->kernel, b->precision, e)) return -1;
    int failed = 0;
    for (size_t i = 0; i < count && !failed; i++) {
        Attention a = {.c = c,
                       .shape = {m->Q, m->G, m->D, 0, 1 / sqrt((double)m->D)}};
        failed = attention_arrays(&a, length[i], e);
        for (a.backward = 0; !failed && a.backward < 2; a.backward++)
            if (!(failed = bench_stopped(e))) out[(*n)++] = attention_row(b, &a, length[i]);
        attention_free(&a);
    }
    compute_close(&c);
    return failed ? -1 : 0;
}
