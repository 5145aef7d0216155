/* bench_model.c - measures whole models with random weights: decoding, prompts, training steps. */
#include "bench.h"

#include <string.h>

/* The seed: any number, but the same every time. */
enum { WEIGHT_SEED = 1, TOKEN_SEED = 2 };

const size_t bench_sequences[BENCH_DECODES] = {1, 8, 32};
/* Lengths of XSTest rows with two models' answers, and of conversations with some earlier turns. */
const BenchRows bench_rows[BENCH_ROWS] = {{"short", 30, 115}, {"long", 431, 128}};

int bench_model(const Bench *b, Model *m, Err *e)
{
    return model_create_random(m, &b->config, b->shape->dtype, WEIGHT_SEED, e);
}

static void random_ids(const Bench *b, uint64_t key, int32_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)(rng_u64(rng_mix(TOKEN_SEED, key), RNG_SAMPLE, i) % b->config.V);
}

static double precision_peak(const Bench *b)
{
    return bench_peak_of(b, b->precision == PRECISION_BF16 ? DTYPE_BF16 : DTYPE_F32);
}

/* ---- decoding ------------------------------------------------------------------------------- */

enum { DECODE_PROMPT = 16, DECODE_MOST = 64 };

/* Times of the first sequence's tokens: the end of a step, and the beginning of the next one.
 * Between them memory is read, if there is a reader. */
typedef struct {
    double ended[DECODE_MOST], began[DECODE_MOST], gbs[DECODE_MOST];
    size_t n;
    const BenchReader *reader; /* or NULL */
} Ticks;

static int tick(void *ctx, size_t prompt, size_t sample, int32_t id, Err *e)
{
    Ticks *t = ctx;
    (void)prompt;
    (void)id;
    (void)e;
    if (sample != 0 || t->n == DECODE_MOST) return 0;
    t->ended[t->n] = time_now();
    t->gbs[t->n] = t->reader ? bench_reader_gbs(t->reader) : 0;
    t->began[t->n++] = time_now();
    return 0;
}

static int nothing_more(void *ctx, const Continuation *c, Err *e)
{
    (void)ctx;
    (void)c;
    (void)e;
    return 0;
}

/* Generates `samples` answers of `tokens` tokens each to one prompt, all at once; *ticks = the
 * times. */
static int generate(const Bench *b, Model *m, size_t prompt_tokens, size_t samples, size_t tokens,
                    Ticks *ticks, Err *e)
{
    Compute c;
    int32_t *ids = mem_alloc(prompt_tokens * sizeof *ids, e);
    if (!ids) return -1;
    if (compute_open(&c, b->kernel, b->precision, e)) {
        mem_free(ids);
        return -1;
    }
    random_ids(b, prompt_tokens, ids, prompt_tokens);
    Generator g = {.model = m, .compute = &c, .options = generate_defaults()};
    g.options.temperature = 0;
    g.options.samples = g.options.at_once = samples;
    g.options.max_tokens = tokens;
    Prompt prompt = {.ids = ids, .count = prompt_tokens};
    GenerateSink sink = {ticks, nothing_more, tick};
    ticks->n = 0;
    int failed = generate_run(&g, &prompt, 1, &sink, e);
    compute_close(&c);
    mem_free(ids);
    return failed ? -1 : 0;
}

/* Returns the median time from one token of the first sequence to the next. */
static double step_seconds(const Ticks *t)
{
    double steps[DECODE_MOST];
    for (size_t i = 0; i + 1 < t->n; i++) steps[i] = t->ended[i + 1] - t->began[i];
    double seconds = bench_median(steps, t->n - 1);
    return seconds > 0 ? seconds : 1e-9;
}

/* Returns the bytes read for each of n tokens that are decoded together at a context of `length`:
 * every weight once, the keys and values of its sequence, its row of the embedding. */
static double decode_bytes(const Model *m, size_t n, double length)
{
    const ModelConfig *c = &m->config;
    double row = (double)format_bytes(m->embedding.w.format, c->H);
    double weights = (double)model_file_bytes(m, NULL) - (c->tied ? 0 : (double)c->V * row);
    double cache = 2 * (double)(c->layers * c->G * c->D) * length * (double)sizeof(real);
    return weights / (double)n + cache + row;
}

/* Steps after a warm-up; *tokens = the number of tokens of each sequence. */
static int decode_steps(const Bench *b, Model *m, size_t sequences, size_t *tokens, Ticks *t,
                        Err *e)
{
    const size_t warm_up = 3, least = 6;
    const double budget = b->quick ? 1 : 5;
    if (generate(b, m, DECODE_PROMPT, sequences, warm_up, t, e)) return -1;
    double steps = budget / step_seconds(t);
    *tokens = steps < (double)least         ? least
              : steps > (double)DECODE_MOST ? DECODE_MOST
                                            : (size_t)steps;
    return generate(b, m, DECODE_PROMPT, sequences, *tokens, t, e);
}

int bench_decode(const Bench *b, Model *m, size_t sequences, BenchDecode *out, Err *e)
{
    const size_t read_bytes = (size_t)256 << 20;
    size_t tokens;
    BenchReader reader;
    if (bench_reader_open(&reader, read_bytes, e)) return -1;
    Ticks t = {.reader = &reader};
    int failed = decode_steps(b, m, sequences, &tokens, &t, e);
    bench_reader_close(&reader);
    if (failed) return -1;

    double seconds = step_seconds(&t), rate = (double)sequences / seconds;
    double bytes = decode_bytes(m, sequences, DECODE_PROMPT + (double)tokens / 2);
    double flops = 2 * (bench_layer_weights(b) + bench_head_weights(b));
    double read_gbs = bench_median(t.gbs, t.n);
    *out = (BenchDecode){.sequences = sequences,
                         .seconds = seconds,
                         .tokens_per_second = rate,
                         .bytes_per_token = bytes,
                         .read_gbs = read_gbs,
                         .share = bytes * rate / 1e9 / read_gbs,
                         .gflops_share = flops * rate / 1e9 / precision_peak(b)};
    return 0;
}

int bench_prompt(const Bench *b, Model *m, BenchPrompt *out, Err *e)
{
    const size_t length = 512, runs = b->quick ? 1 : 3;
    size_t tokens = length < b->config.max_positions ? length : b->config.max_positions / 2;
    double times[3];
    for (size_t i = 0; i < runs; i++) {
        Ticks t = {.n = 0};
        double began = time_now();
        if (generate(b, m, tokens, 1, 1, &t, e)) return -1;
        times[i] = t.ended[0] - began;
    }
    double seconds = bench_median(times, runs);
    double flops = 2 * (bench_forward_weights(b, (double)tokens, 1) + bench_head_weights(b));
    *out = (BenchPrompt){.tokens = tokens,
                         .seconds = seconds,
                         .tokens_per_second = (double)tokens / seconds,
                         .share = flops / seconds / 1e9 / precision_peak(b)};
    return 0;
}

/* ---- training steps ------------------------------------------------------------------------- */

/* Makes n rows of these lengths with random ids; labels alternate. */
static int make_rows(const Bench *b, TrainMethod method, const BenchRows *lengths, size_t n,
                     Dataset *d, Err *e)
{
    size_t completions = method == TRAIN_DPO ? 2 : 1;
    *d = (Dataset){.kind = method == TRAIN_DPO ? DATA_PAIRS : DATA_UNPAIRED};
    d->rows = mem_calloc(n, sizeof *d->rows, e);
    if (!d->rows) return -1;
    for (size_t i = 0; i < n; i++) {
        Row *row = &d->rows[i];
        *row = (Row){.line = i + 1,
                     .index = i,
                     .n_prompt = lengths->prompt,
                     .label = i % 2 == 0,
                     .prompt_key = i};
        row->prompt = pool_alloc(&d->pool, lengths->prompt * sizeof *row->prompt, e);
        if (!row->prompt) return -1;
        random_ids(b, 3 * i, row->prompt, lengths->prompt);
        for (size_t k = 0; k < completions; k++) {
            row->completion[k] =
                pool_alloc(&d->pool, lengths->completion * sizeof *row->completion[k], e);
            if (!row->completion[k]) return -1;
            random_ids(b, 3 * i + 1 + k, row->completion[k], lengths->completion);
            row->n_completion[k] = row->n_uncut[k] = lengths->completion;
        }
    }
    d->count = n;
    return 0;
}

/* Counts the flops that cannot be saved, see bench.h. */
static double useful_flops(const Bench *b, const BenchStep *s)
{
    double n = (double)s->batch, sides = s->method == TRAIN_DPO ? 2 : 1;
    double tokens = (double)s->distinct, length = (double)s->rows.completion;
    double asked = n * (sides * (length - 1) + 1), head = bench_head_weights(b);
    double passes =
        bench_forward_weights(b, tokens, asked) + bench_backward_weights(b, tokens, asked);
    double flops = 2 * passes + 4 * head * n * sides * length;
    if (s->method == TRAIN_KTO) /* the last row of the prompt predicts the partner's first token */
        flops += 2 * n * (bench_forward_weights(b, length, length - 1) + head * length);
    return flops;
}

static TrainConfig step_config(const Bench *b, TrainMethod method)
{
    TrainConfig c = train_config_default(method);
    c.lr = 1e-5;
    c.lora.rank = 16;
    c.kernel = b->kernel;
    c.precision = b->precision;
    return c;
}

/* Measures the reference's pass, then the median of some steps after one for warming up. */
static int time_steps(const Bench *b, TrainTrial *t, BenchStep *s, Err *e)
{
    enum { MOST = 5 };
    const double budget = 10;
    double times[MOST], loss, began = time_now();
    size_t n = 0, least = b->quick ? 1 : 3;
    if (train_trial_reference(t, e)) return -1;
    s->reference_seconds = time_now() - began;
    if (!b->quick && train_trial_step(t, &loss, e)) return -1;
    for (began = time_now(); n < least || (n < MOST && time_now() - began < budget);) {
        double from = time_now();
        if (bench_stopped(e) || train_trial_step(t, &loss, e)) return -1;
        times[n++] = time_now() - from;
    }
    s->seconds = bench_median(times, n);
    s->planned = train_trial_plan(t)->total;
    return 0;
}

int bench_step(const Bench *b, Model *m, TrainMethod method, const BenchRows *rows, BenchStep *out,
               Err *e)
{
    size_t sides = method == TRAIN_DPO ? 2 : 1, batch = b->quick ? 2 : 4;
    Dataset d;
    *out = (BenchStep){.method = method, .rows = *rows, .batch = batch};
    if (rows->prompt + rows->completion > b->config.max_positions)
        out->rows.prompt = b->config.max_positions - rows->completion;
    if (make_rows(b, method, &out->rows, batch, &d, e)) {
        data_close(&d);
        return -1;
    }
    out->tokens = batch * sides * (out->rows.prompt + out->rows.completion);
    out->distinct = batch * (out->rows.prompt + sides * out->rows.completion);
    TrainConfig c = step_config(b, method);
    TrainTrial *t = train_trial_open(&c, m, &d, e);
    int failed = !t || time_steps(b, t, out, e);
    train_trial_close(t);
    data_close(&d);
    if (failed) return -1;
    out->flops = useful_flops(b, out);
    out->tokens_per_second = (double)out->tokens / out->seconds;
    out->share = out->flops / out->seconds / 1e9 / precision_peak(b);
    return 0;
}
