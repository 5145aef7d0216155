/* The bench: shapes of the real models, medians, shares by their definitions, and a training step
 * that is a step. Times are not judged: only that numbers follow from them as bench.h says. */
#include "bench.h"
#include "test.h"

#include <time.h>

static const char *const names[] = {"tinystories", "llama-3.2-1b", "llama-3.2-3b", "llama-3.1-8b",
                                    "mistral-7b"};

/* A small bench with peaks that make shares easy to check. */
static Bench small_bench(void)
{
    Bench b;
    Err e;
    CHECK_OK(bench_open(&b, "tinystories", 1, "auto", PRECISION_F32, 1, &e), &e);
    b.peaks.f32_gflops = 100;
    b.peaks.bf16_gflops = 200;
    b.peaks.read_gbs = 10;
    return b;
}

/* As published: 656K, 1.24B, 3.21B, 8.03B, 7.25B. */
static void shapes_have_their_parameters(void)
{
    const double published[] = {656000, 1235814400, 3212749824.0, 8030261248.0, 7248023552.0};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        Bench b;
        Err e;
        CHECK_OK(bench_open(&b, names[i], 0, "auto", PRECISION_F32, 1, &e), &e);
        const ModelConfig *c = &b.config;
        double ends = bench_head_weights(&b) * (c->tied ? 1 : 2);
        double norms = (double)((2 * c->layers + 1) * c->H);
        CHECK_NEAR(bench_layer_weights(&b) + ends + norms, published[i], 0);
    }
}

static void refusals(void)
{
    Bench b;
    Err e;
    CHECK(bench_open(&b, "llama-9", 0, "auto", PRECISION_F32, 1, &e) && e.code == ERR_USAGE);
    CHECK_HAS(e.text, "mistral-7b");
    CHECK(bench_open(&b, "tinystories", 3, "auto", PRECISION_F32, 1, &e) && e.code == ERR_USAGE);
    CHECK_HAS(e.text, "has 2");
    CHECK(bench_open(&b, "tinystories", 2, "none", PRECISION_F32, 1, &e) && e.code == ERR_USAGE);
}

static void every_weight_has_its_shape(void)
{
    BenchWeight w[BENCH_MAX_WEIGHTS];
    Bench b;
    Err e;
    CHECK_OK(bench_open(&b, "llama-3.2-3b", 2, "auto", PRECISION_BF16, 1, &e), &e);
    CHECK_INT(b.config.layers, 2);
    CHECK_INT(bench_weights(&b, w), 5);
    CHECK_TEXT(w[0].names, "q_proj,o_proj");
    CHECK_INT(w[0].N, 3072);
    CHECK_INT(w[0].K, 3072);
    CHECK_TEXT(w[1].names, "k_proj,v_proj");
    CHECK_INT(w[1].N, 1024);
    CHECK_INT(w[1].K, 3072);
    CHECK_TEXT(w[2].names, "gate_proj,up_proj");
    CHECK_INT(w[2].N, 8192);
    CHECK_INT(w[2].K, 3072);
    CHECK_TEXT(w[3].names, "down_proj");
    CHECK_INT(w[3].N, 3072);
    CHECK_INT(w[3].K, 8192);
    CHECK_TEXT(w[4].names, "lm_head");
    CHECK_INT(w[4].N, 128256);
    CHECK_INT(w[4].K, 3072);
}

static void medians(void)
{
    double odd[] = {5, 1, 3}, even[] = {4, 1, 3, 2}, one[] = {7};
    CHECK_NEAR(bench_median(odd, 3), 3, 0);
    CHECK_NEAR(bench_median(even, 4), 2.5, 0);
    CHECK_NEAR(bench_median(one, 1), 7, 0);
}

/* A body that takes a known time: two milliseconds, and once fifty. */
static void sleeper(void *ctx)
{
    const long usual = 2000000, once = 50000000;
    size_t *calls = ctx;
    struct timespec t = {.tv_nsec = ++*calls == 1 ? once : usual};
    nanosleep(&t, NULL);
}

static void the_clock(void)
{
    size_t calls = 0;
    double seconds = bench_time(sleeper, &calls, 9, 0);
    CHECK_INT(calls, 9);
    CHECK(seconds >= 0.002 && seconds < 0.05); /* the median passes over the slow first call */
    calls = 0;
    bench_time(sleeper, &calls, 1, 0.5);
    CHECK(calls > 1);
    calls = 0;
    bench_time(sleeper, &calls, 1, 0);
    CHECK_INT(calls, 1);
}

static void peaks(void)
{
    Bench b = small_bench();
    Err e;
    double f32 = 0;
    char cpu[64] = "";
    CHECK_OK(bench_peaks(&b, &e), &e);
    CHECK(b.peaks.n_rates >= 1);
    for (size_t i = 0; i < b.peaks.n_rates; i++) {
        const BenchRate *r = &b.peaks.rates[i];
        CHECK(r->gflops > 0);
        if (r->dtype == DTYPE_F32 && r->gflops > f32) f32 = r->gflops;
    }
    CHECK_NEAR(b.peaks.f32_gflops, f32, 0);
    CHECK(b.peaks.bf16_gflops >= f32);
    CHECK(b.peaks.read_gbs > 0 && b.peaks.read_bytes > 0);
    bench_cpu(cpu, sizeof cpu);
    CHECK(cpu[0] != 0);
}

static void stopping(void)
{
    Bench b = small_bench();
    BenchWeight w = {.N = 8, .K = 8};
    BenchGemm rows[BENCH_MAX_GEMM];
    size_t n;
    Err e;
    stop_requested = 1;
    CHECK_FAILS(bench_gemm(&b, &w, DTYPE_F32, rows, &n, &e), &e, ERR_INTERRUPTED);
    CHECK_FAILS(bench_peaks(&b, &e), &e, ERR_INTERRUPTED);
    stop_requested = 0;
}

static void products(void)
{
    const size_t T[] = {1, 16, 256, 1, 16, 256};
    Bench b = small_bench();
    BenchWeight w = {.N = 24, .K = 40};
    for (int bf16 = 0; bf16 < 2; bf16++) {
        BenchGemm rows[BENCH_MAX_GEMM];
        size_t n;
        Err e;
        CHECK_OK(bench_gemm(&b, &w, bf16 ? DTYPE_BF16 : DTYPE_F32, rows, &n, &e), &e);
        CHECK_INT(n, 6);
        for (size_t i = 0; i < n; i++) {
            const BenchGemm *g = &rows[i];
            double flops = 2.0 * 24 * 40 * (double)T[i], bytes = 24.0 * 40 * (bf16 ? 2 : 4);
            CHECK(g->T == T[i] && g->backward == (i >= 3) && g->seconds > 0);
            CHECK_NEAR(g->gflops * g->seconds * 1e9 / flops, 1, 1e-12);
            CHECK_NEAR(g->share * (bf16 ? 200 : 100) / g->gflops, 1, 1e-12);
            CHECK_NEAR(g->gbs * g->seconds * 1e9 / bytes, 1, 1e-12);
            CHECK_NEAR(g->read_share * 10 / g->gbs, 1, 1e-12);
        }
    }
}

static void attention(void)
{
    Bench b = small_bench();
    BenchAttention rows[BENCH_MAX_ATTENTION];
    size_t n;
    Err e;
    CHECK_OK(bench_attention(&b, rows, &n, &e), &e);
    CHECK_INT(n, 4);
    for (size_t i = 0; i < n; i++) {
        double length = (double)rows[i].length, pairs = length * (length + 1) / 2 * 8;
        double flops = (i % 2 ? 10 : 4) * 16 * pairs; /* 8 heads of width 16 */
        CHECK(rows[i].length == (i < 2 ? 128 : 1024) && rows[i].backward == (int)(i % 2));
        CHECK_NEAR(rows[i].gflops * rows[i].seconds * 1e9 / flops, 1, 1e-12);
        CHECK_NEAR(rows[i].share * 100 / rows[i].gflops, 1, 1e-12);
    }
}

/* ---- random models -------------------------------------------------------------------------- */

static void check_numbers(const Mat *w)
{
    float x[64];
    double sum = 0, squares = 0, n = (double)(w->rows * w->cols);
    for (size_t at = 0; at < w->rows * w->cols; at += 64) {
        const unsigned char *p = w->data;
        format_unpack(w->format, x, p, at, 64);
        for (int i = 0; i < 64; i++) {
            sum += (double)x[i];
            squares += (double)x[i] * (double)x[i];
        }
    }
    CHECK_NEAR(sum / n, 0, 5 * 0.02 / sqrt(n));
    CHECK_NEAR(sqrt(squares / n), 0.02, 0.0005);
}

static void random_model(void)
{
    Bench b = small_bench();
    Model m, same, other;
    char hex[65], hex_same[65], hex_other[65];
    Err e;
    threads_set(1);
    CHECK_OK(model_create_random(&m, &b.config, DTYPE_BF16, 5, &e), &e);
    threads_set(3);
    CHECK_OK(model_create_random(&same, &b.config, DTYPE_BF16, 5, &e), &e);
    CHECK_OK(model_create_random(&other, &b.config, DTYPE_BF16, 6, &e), &e);
    threads_set(0);
    CHECK_OK(model_hash(&m, hex, &e), &e);
    CHECK_OK(model_hash(&same, hex_same, &e), &e);
    CHECK_OK(model_hash(&other, hex_other, &e), &e);
    CHECK_TEXT(hex, hex_same);
    CHECK(strcmp(hex, hex_other) != 0);
    check_numbers(&m.embedding.w);
    check_numbers(&m.layers[0].linear[TARGET_DOWN].w);
    float norm[128];
    dtype_to_float(norm, m.layers[0].norm2.w.data, DTYPE_BF16, 128);
    CHECK(norm[0] == 1);
    CHECK(norm[127] == 1);
    CHECK(m.weight_bytes >= 2 * model_weight_count(&m));
    model_close(&m);
    model_close(&same);
    model_close(&other);
    CHECK_FAILS(model_create_random(&m, &b.config, DTYPE_F64, 5, &e), &e, ERR_USAGE);
    b.config.H = SIZE_MAX / 8;
    CHECK_FAILS(model_create_random(&m, &b.config, DTYPE_F32, 5, &e), &e, ERR_MEMORY);
    model_close(&m); /* harmless after an error */
}

static void decoding(void)
{
    Bench b = small_bench();
    Model m;
    BenchDecode d;
    BenchPrompt p;
    Err e;
    CHECK_OK(bench_model(&b, &m, &e), &e);
    CHECK_OK(bench_decode(&b, &m, 8, &d, &e), &e);
    double maps = bench_layer_weights(&b), head = bench_head_weights(&b);
    double weights = (maps + head + 3 * 128) * 4 / 8, least = weights + 128 * 4;
    CHECK_NEAR(d.tokens_per_second * d.seconds, 8, 1e-9);
    CHECK(d.read_gbs > 0);
    CHECK_NEAR(d.share * d.read_gbs * 1e9, d.bytes_per_token * d.tokens_per_second, 1);
    CHECK_NEAR(d.gflops_share * 100e9, 2 * (maps + head) * d.tokens_per_second, 1);
    /* 16 tokens of prompt and 6 to 64 new ones: keys and values of 19 to 48 positions on average,
     * one layer, 4 heads of width 16 */
    double position = 2 * 4 * 16 * (double)sizeof(real);
    CHECK(d.bytes_per_token >= least + 19 * position && d.bytes_per_token <= least + 48 * position);
    CHECK_OK(bench_prompt(&b, &m, &p, &e), &e);
    CHECK_INT(p.tokens, 256); /* half of the positions there are */
    CHECK_NEAR(p.tokens_per_second * p.seconds, 256, 1e-9);
    double kv = 2 * 64 * 128, others = maps - kv; /* of the only layer, which is the last */
    CHECK_NEAR(p.share * 100e9 * p.seconds, 2 * (kv * 256 + others + head), 1);
    model_close(&m);
}

/* Two layers: the first has all tokens through all maps. */
static void useful_weights(void)
{
    Bench b = small_bench();
    b.config.layers = 2;
    double one = bench_layer_weights(&b) / 2, kv = 2 * 64 * 128, q = 128 * 128;
    CHECK_NEAR(bench_forward_weights(&b, 10, 10), 20 * one, 0);
    CHECK_NEAR(bench_forward_weights(&b, 10, 3), 10 * one + 10 * kv + 3 * (one - kv), 0);
    CHECK_NEAR(bench_backward_weights(&b, 10, 3),
               10 * (one - kv - q) + 10 * kv + 3 * (one - kv), 0);
}

/* ---- training steps ------------------------------------------------------------------------- */

static void steps(void)
{
    Bench b = small_bench();
    const BenchRows rows = {"tiny", 5, 3}, too_long = {"long", 600, 100};
    Model m;
    BenchStep dpo, kto;
    Err e;
    CHECK_OK(bench_model(&b, &m, &e), &e);
    CHECK_OK(bench_step(&b, &m, TRAIN_DPO, &rows, &dpo, &e), &e);
    CHECK_OK(bench_step(&b, &m, TRAIN_KTO, &rows, &kto, &e), &e);
    double maps = bench_layer_weights(&b), head = bench_head_weights(&b);
    CHECK_INT(dpo.batch, 2);
    CHECK_INT(dpo.tokens, 2 * 2 * 8);
    CHECK_INT(dpo.distinct, 2 * (5 + 2 * 3));
    /* One layer: keys and values of all tokens, the rest for the rows that are asked for; backward
     * q, k and v of the first layer need nothing. */
    double kv = 2 * 64 * 128, q = 128 * 128, others = maps - kv;
    CHECK_NEAR(dpo.flops, 2 * (kv * 22 + others * 10) + 2 * (others - q) * 10 + 4 * head * 12,
               1e-3);
    CHECK_INT(kto.tokens, 2 * 8);
    CHECK_INT(kto.distinct, 2 * 8);
    CHECK_NEAR(kto.flops,
               2 * (kv * 16 + others * 6) + 2 * (others - q) * 6 + 4 * head * 6 +
                   2 * (kv * 6 + others * 4 + head * 6),
               1e-3);
    CHECK_NEAR(dpo.share * 100e9 * dpo.seconds, dpo.flops, 1);
    CHECK_NEAR(kto.tokens_per_second * kto.seconds, 16, 1e-9);
    CHECK(dpo.reference_seconds > 0 && dpo.planned > m.weight_bytes);
    /* Rows are cut to the positions there are. */
    CHECK_OK(bench_step(&b, &m, TRAIN_KTO, &too_long, &kto, &e), &e);
    CHECK_INT(kto.rows.prompt, 412);
    CHECK_INT(kto.rows.completion, 100);
    model_close(&m);
}

/* A pair, prompt of four tokens, and completions of three. */
static Dataset one_pair(void)
{
    Dataset d = {.kind = DATA_PAIRS, .count = 1};
    Err e;
    static int32_t ids[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
    d.rows = mem_calloc(1, sizeof *d.rows, &e);
    *d.rows = (Row){.prompt = ids,
                    .n_prompt = 4,
                    .completion = {ids + 4, ids + 7},
                    .n_completion = {3, 3},
                    .n_uncut = {3, 3}};
    return d;
}

/* The first loss is ln 2; steps that follow make it fall, as they do in a run. */
static void a_trial_trains(void)
{
    Bench b = small_bench();
    Model m;
    Dataset rows = one_pair();
    Err e;
    double first = 0, second = 0, third = 0;
    CHECK_OK(model_create_random(&m, &b.config, DTYPE_F32, 3, &e), &e);
    const unsigned char *weights = m.made;
    TrainConfig c = train_config_default(TRAIN_DPO);
    c.lr = 1e-2;
    TrainTrial *t = train_trial_open(&c, &m, &rows, &e);
    CHECK(t != NULL);
    if (!t) return;
    CHECK_OK(train_trial_reference(t, &e), &e);
    CHECK_OK(train_trial_step(t, &first, &e), &e);
    CHECK_OK(train_trial_step(t, &second, &e), &e);
    CHECK_OK(train_trial_step(t, &third, &e), &e);
    CHECK_NEAR(first, log(2), 1e-12);
    CHECK(second < first && third < second);
    CHECK_INT(train_trial_plan(t)->scores, 6);
    train_trial_close(t);
    CHECK(m.made == weights && m.layers && rows.count == 1 && rows.rows); /* ours again */
    data_close(&rows);
    model_close(&m);
}

/* Without the reference's pass policy and reference differ at step 0, which a step refuses. */
static void a_trial_checks_its_start(void)
{
    Bench b = small_bench();
    Model m;
    Dataset rows = one_pair();
    Err e;
    double loss;
    CHECK_OK(model_create_random(&m, &b.config, DTYPE_F32, 3, &e), &e);
    TrainConfig c = train_config_default(TRAIN_DPO);
    c.lr = 1e-5;
    TrainTrial *t = train_trial_open(&c, &m, &rows, &e);
    CHECK(t && train_trial_step(t, &loss, &e) == -1 && e.code == ERR_INTERNAL);
    train_trial_close(t);
    c.kernel = "none";
    CHECK(!train_trial_open(&c, &m, &rows, &e));
    CHECK_INT(e.code, ERR_USAGE);
    CHECK(m.made && rows.rows); /* given back after an error, too */
    data_close(&rows);
    model_close(&m);
}

const Test tests[] = {
    {"shapes_have_their_parameters", shapes_have_their_parameters},
    {"refusals", refusals},
    {"every_weight_has_its_shape", every_weight_has_its_shape},
    {"medians", medians},
    {"the_clock", the_clock},
    {"peaks", peaks},
    {"stopping", stopping},
    {"products", products},
    {"attention", attention},
    {"random_model", random_model},
    {"decoding", decoding},
    {"useful_weights", useful_weights},
    {"steps", steps},
    {"a_trial_trains", a_trial_trains},
    {"a_trial_checks_its_start", a_trial_checks_its_start},
};
TEST_MAIN(tests)
