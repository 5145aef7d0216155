/* test_generate.c - the choice of tokens; and texts that do not depend on company, threads, memory.
 */
#include "generate.h"

#include "generate_stop.h"

#include "tiny.h"
#include "tokenizers.h"

/* ---- the choice ---------------------------------------------------------------------------- */

static uint32_t scratch[64];

static int32_t choose(const GenerateOptions *o, const real *logits, size_t V, double u)
{
    real z[64];
    memcpy(z, logits, V * sizeof *z);
    return generate_choose(o, z, V, u, scratch);
}

/* Probabilities 0.5, 0.25, 0.125, 0.125 on tokens 2, 0, 1, 3. */
static const real four[4] = {(real)-1.3862943611198906, (real)-2.0794415416798357,
                             (real)-0.6931471805599453, (real)-2.0794415416798357};

static void greedy_takes_the_largest_and_the_lowest_of_equals(void)
{
    GenerateOptions o = generate_defaults();
    o.temperature = 0;
    const real z[5] = {1, 3, 3, 2, 3};
    CHECK(choose(&o, z, 5, 0.99) == 1);
    CHECK(choose(&o, four, 4, 0.99) == 2);
}

static void draws_share_the_unit_interval_in_the_order_of_ids(void)
{
    GenerateOptions o = generate_defaults();
    CHECK_INT(choose(&o, four, 4, 0), 0);
    CHECK(choose(&o, four, 4, 0.2499) == 0);
    CHECK(choose(&o, four, 4, 0.2501) == 1);
    CHECK(choose(&o, four, 4, 0.3751) == 2);
    CHECK(choose(&o, four, 4, 0.8749) == 2);
    CHECK(choose(&o, four, 4, 0.8751) == 3);
    CHECK(choose(&o, four, 4, 1 - 1e-16) == 3);
}

static void temperature_sharpens_and_flattens(void)
{
    GenerateOptions o = generate_defaults();
    o.temperature = 0.5; /* squares: 16, 4, 1, 1 of 22 */
    CHECK(choose(&o, four, 4, 3.99 / 22) == 0);
    CHECK(choose(&o, four, 4, 4.01 / 22) == 1);
    CHECK(choose(&o, four, 4, 5.01 / 22) == 2);
    o.temperature = 100; /* nearly even */
    CHECK(choose(&o, four, 4, 0.24) == 0 && choose(&o, four, 4, 0.26) == 1);
    o.temperature = 1e-30; /* greedy in the limit, without overflow */
    CHECK(choose(&o, four, 4, 0.999) == 2);
}

static void top_k_keeps_the_k_best_lower_ids_first(void)
{
    GenerateOptions o = generate_defaults();
    o.top_k = 1;
    CHECK(choose(&o, four, 4, 0.999) == 2);
    o.top_k = 2; /* tokens 0 and 2: 1/3, 2/3 */
    CHECK(choose(&o, four, 4, 0.333) == 0);
    CHECK(choose(&o, four, 4, 0.334) == 2);
    o.top_k = 3; /* of 1 and 3, equal, token 1 stays */
    CHECK(choose(&o, four, 4, 0.999) == 2);
    CHECK(choose(&o, four, 4, 0.3) == 1);
    o.top_k = 1000; /* more than there are: all */
    CHECK(choose(&o, four, 4, 0.999) == 3);
}

static void top_p_keeps_the_fewest_that_reach_the_mass(void)
{
    GenerateOptions o = generate_defaults();
    o.top_p = 0.4;
    CHECK(choose(&o, four, 4, 0) == 2 && choose(&o, four, 4, 0.999) == 2);
    o.top_p = 0.7; /* 0.5 is not enough, 0.75 is */
    CHECK(choose(&o, four, 4, 0.333) == 0 && choose(&o, four, 4, 0.334) == 2);
    o.top_p = 0.8; /* 1 and 3 are equal: token 1 */
    CHECK(choose(&o, four, 4, 0.999) == 2 && choose(&o, four, 4, 0.4) == 1);
    o.top_p = 0; /* one always stays */
    CHECK(choose(&o, four, 4, 0.999) == 2);
    o.top_k = 2; /* the mass is that of the two: 2/3, 1/3 */
    o.top_p = 0.6;
    CHECK_INT(choose(&o, four, 4, 0), 2);
    o.top_p = 0.7;
    CHECK_INT(choose(&o, four, 4, 0), 0);
}

static void min_p_is_relative_to_the_best(void)
{
    GenerateOptions o = generate_defaults();
    o.min_p = 0.4; /* 0.25 / 0.5 stays, 0.125 / 0.5 goes */
    CHECK(choose(&o, four, 4, 0.333) == 0 && choose(&o, four, 4, 0.334) == 2);
    o.min_p = 1;
    CHECK(choose(&o, four, 4, 0.999) == 2);
}

/* Against the definition, by sorting: random logits, random options. */
static void filters_agree_with_their_definition(void)
{
    for (uint64_t round = 0; round < 3000; round++) {
        enum { N = 50 };
        real z[N];
        double p[N];
        size_t rank[N];
        for (size_t v = 0; v < N; v++) /* quarters: ties are common */
            z[v] = (real)(floor(rng_unit(1, round, v) * 24) / 4);
        GenerateOptions o = generate_defaults();
        if (round % 2) o.top_k = 1 + (size_t)(rng_u64(2, round, 0) % N);
        if (round % 3) o.top_p = rng_unit(2, round, 1);
        if (round % 5 == 0) o.min_p = rng_unit(2, round, 2) * 0.5;
        for (size_t v = 0; v < N; v++) p[v] = exp((double)z[v]), rank[v] = v;
        for (size_t i = 1; i < N; i++) /* insertion: stable, so lower ids come first */
            for (size_t j = i; j && p[rank[j]] > p[rank[j - 1]]; j--) {
                size_t swap = rank[j];
                rank[j] = rank[j - 1];
                rank[j - 1] = swap;
            }
        size_t keep = o.top_k ? o.top_k : N, kept = 0;
        double mass = 0, sum = 0;
        for (size_t i = 0; i < keep; i++) mass += p[rank[i]];
        while (kept < keep) {
            sum += p[rank[kept++]];
            if (sum >= o.top_p * mass * (1 - 1e-6)) break;
        }
        while (kept > 1 && p[rank[kept - 1]] < o.min_p * p[rank[0]] * (1 - 1e-6)) kept--;
        for (int draw = 0; draw < 4; draw++) {
            int32_t id = choose(&o, z, N, rng_unit(3, round, (uint64_t)draw));
            size_t at = 0;
            while (at < N && rank[at] != (size_t)id) at++;
            CHECK(at < kept);
        }
    }
}

static void hopeless_logits_are_refused(void)
{
    GenerateOptions o = generate_defaults();
    const real nan4[4] = {0, (real)NAN, 1, 2};
    const real dead[3] = {(real)-INFINITY, (real)-INFINITY, (real)-INFINITY};
    const real one[3] = {(real)-INFINITY, 5, (real)-INFINITY}, hot[2] = {(real)INFINITY, 0};
    for (int t = 0; t < 2; t++) {
        o.temperature = t;
        CHECK(choose(&o, nan4, 4, 0.5) == -1);
        CHECK(choose(&o, dead, 3, 0.5) == -1);
        CHECK(choose(&o, hot, 2, 0.5) == -1);
        CHECK(choose(&o, one, 3, 0) == 1 && choose(&o, one, 3, 0.999) == 1);
    }
}

static void options_out_of_range_are_usage_errors(void)
{
    Err e;
    GenerateOptions o = generate_defaults();
    CHECK_OK(generate_check(&o, &e), &e);
#define REFUSED(field, bad)                                                                        \
    (o = generate_defaults(), o.field = (bad), e.code = 0,                                         \
     generate_check(&o, &e) == -1 && e.code == ERR_USAGE)
    CHECK(REFUSED(max_tokens, 0));
    CHECK(REFUSED(temperature, -1));
    CHECK(REFUSED(temperature, (double)NAN));
    CHECK(REFUSED(top_p, 1.5));
    CHECK(REFUSED(top_p, (double)NAN));
    CHECK(REFUSED(min_p, -0.1));
    CHECK(REFUSED(samples, 0));
    CHECK(REFUSED(at_once, 0));
}

/* ---- texts --------------------------------------------------------------------------------- */

enum { PROMPTS = 7, LONGEST = GENERATE_PREFILL + 44, NEW = 20, SAMPLES = 3 };

static Model model;
static Lora lora;
static Compute compute;
static int32_t prompt_ids[PROMPTS][LONGEST];
static Prompt prompts[PROMPTS];

typedef struct {
    int32_t ids[PROMPTS * SAMPLES][NEW];
    size_t count[PROMPTS * SAMPLES];
    GenerateFinish finish[PROMPTS * SAMPLES];
    size_t done, tokens, samples;
    int in_order;
    GenerateWork work;
} Got;

/* Prompts of many lengths: one token, two of the same beginning, longer than a step reads. */
static void begin(const char *name)
{
    static const size_t count[PROMPTS] = {1, 9, 9, 40, 3, 27, 17};
    Err e;
    LoraShape shape;
    char adapter[IO_PATH_MAX + 16];
    compute_open(&compute, "auto", PRECISION_F32, &e);
    if (model_load(&model, golden_path(name), 0, NULL, &e)) printf("%s\n", e.text), exit(1);
    snprintf(adapter, sizeof adapter, "%s/adapter", golden_path(name));
    model_lora_shape(&model, &shape);
    if (lora_load(&lora, adapter, &shape, 0, &e)) printf("%s\n", e.text), exit(1);
    for (size_t i = 0; i < PROMPTS; i++) {
        for (size_t t = 0; t < LONGEST; t++)
            prompt_ids[i][t] = (int32_t)(rng_u64(7, i == 2 ? 1 : i, t) % model.config.V);
        prompts[i] = (Prompt){prompt_ids[i], count[i], 100 + i};
    }
    prompt_ids[2][8] = (prompt_ids[1][8] + 1) % (int32_t)model.config.V;
}

static void end(void)
{
    lora_close(&lora);
    model_close(&model);
    compute_close(&compute);
}

static int take(void *ctx, const Continuation *c, Err *e)
{
    Got *g = ctx;
    (void)e;
    size_t at = c->prompt * g->samples + c->sample;
    g->in_order &= at == g->done++;
    g->count[at] = c->count;
    g->finish[at] = c->finish;
    if (c->count) memcpy(g->ids[at], c->ids, c->count * sizeof *c->ids);
    return 0;
}

static int count_token(void *ctx, size_t prompt, size_t sample, int32_t id, Err *e)
{
    (void)prompt, (void)sample, (void)id, (void)e;
    ((Got *)ctx)->tokens++;
    return 0;
}

static GenerateOptions usual(void)
{
    GenerateOptions o = generate_defaults();
    o.max_tokens = NEW;
    o.samples = SAMPLES;
    o.seed = 5;
    o.top_p = 0.95;
    return o;
}

static int run(Got *g, const GenerateOptions *o, const Prompt *p, size_t n, Err *e)
{
    Generator gen = {
        .model = &model, .lora = &lora, .compute = &compute, .options = *o, .work = &g->work};
    GenerateSink sink = {g, take, count_token};
    memset(g, 0, sizeof *g);
    g->in_order = 1;
    g->samples = o->samples;
    return generate_run(&gen, p, n, &sink, e);
}

static Got together, other;

static int same_sample(size_t a, size_t b)
{
    return together.count[a] == other.count[b] && together.finish[a] == other.finish[b] &&
           !memcmp(together.ids[a], other.ids[b], together.count[a] * sizeof(int32_t));
}

static void results_come_in_the_order_of_prompts_and_samples(void)
{
    Err e = {0};
    begin("llama");
    GenerateOptions o = usual();
    CHECK_OK(run(&together, &o, prompts, PROMPTS, &e), &e);
    CHECK(together.in_order && together.done == PROMPTS * SAMPLES);
    size_t tokens = 0, differ = 0;
    for (size_t i = 0; i < PROMPTS * SAMPLES; i++) tokens += together.count[i];
    for (size_t p = 0; p < PROMPTS; p++)
        differ += memcmp(together.ids[p * SAMPLES], together.ids[p * SAMPLES + 1],
                         sizeof together.ids[0]) != 0;
    CHECK(tokens == together.tokens && tokens > 0);
    CHECK_INT(differ, PROMPTS); /* samples of a prompt are drawn apart */
    end();
}

static void a_text_is_the_same_alone_and_in_company(void)
{
    static const char *const names[] = {"llama", "mistral"};
    for (size_t k = 0; k < 2; k++) {
        Err e = {0};
        begin(names[k]);
        GenerateOptions o = usual();
        CHECK_OK(run(&together, &o, prompts, PROMPTS, &e), &e);
        for (size_t at_once = 1; at_once <= 5; at_once += 2) {
            o.at_once = at_once;
            CHECK_OK(run(&other, &o, prompts, PROMPTS, &e), &e);
            CHECK(other.in_order);
            for (size_t i = 0; i < PROMPTS * SAMPLES; i++) CHECK(same_sample(i, i));
        }
        for (size_t p = 0; p < PROMPTS; p++) {
            CHECK_OK(run(&other, &o, &prompts[p], 1, &e), &e);
            for (size_t s = 0; s < SAMPLES; s++) CHECK(same_sample(p * SAMPLES + s, s));
        }
        end();
    }
}

static void a_text_is_the_same_for_any_number_of_threads(void)
{
    static const int counts[] = {1, 2, 3, 7};
    Err e = {0};
    for (size_t k = 0; k < 4; k++) {
        threads_set(counts[k]);
        begin("llama");
        GenerateOptions o = usual();
        CHECK_OK(run(k ? &other : &together, &o, prompts, PROMPTS, &e), &e);
        for (size_t i = 0; k && i < PROMPTS * SAMPLES; i++) CHECK(same_sample(i, i));
        end();
    }
    threads_set(0);
}

/* Is this the greedy text of the whole sequence, run again from its start for every token? */
static void check_full_passes(const Prompt *p, const int32_t *text, size_t count)
{
    Err e;
    GenerateOptions greedy = {.temperature = 0};
    int32_t ids[LONGEST + NEW];
    size_t n = p->count;
    memcpy(ids, p->ids, n * sizeof *ids);
    for (size_t t = 0; t < count; t++) {
        Tape tape;
        Segment s = {.count = n, .parent = -1};
        Batch b = {.T = n, .ids = ids, .n_segments = 1, .segments = &s};
        uint32_t last = (uint32_t)n - 1;
        CHECK_OK(tape_open(&tape, &compute, 64u << 20, 16u << 20, &e), &e);
        Var *z = model_logits(&tape, &model, &lora, &b, &last, 1);
        ids[n++] = choose(&greedy, z->x, model.config.V, 0);
        CHECK_INT(ids[n - 1], text[t]);
        tape_close(&tape);
    }
}

static void greedy_text_is_that_of_full_passes(void)
{
    Err e = {0};
    begin("mistral"); /* its window is shorter than these texts */
    GenerateOptions o = usual();
    o.temperature = 0;
    o.samples = 1;
    CHECK_OK(run(&together, &o, prompts, PROMPTS, &e), &e);
    for (size_t p = 0; p < PROMPTS; p++)
        check_full_passes(&prompts[p], together.ids[p], together.count[p]);
    end();
}

static void end_tokens_stop_and_are_left_out(void)
{
    Err e = {0};
    begin("llama");
    GenerateOptions o = usual();
    o.temperature = 0;
    o.samples = 1;
    model.config.n_eos = 0;
    CHECK_OK(run(&together, &o, prompts, 1, &e), &e);
    CHECK_INT(together.count[0], NEW);
    CHECK_INT(together.finish[0], GENERATE_LENGTH);
    int32_t third = together.ids[0][2];
    size_t first = 0; /* where that token first appears */
    while (together.ids[0][first] != third) first++;
    model.config.n_eos = 1;
    model.config.eos[0] = third;
    CHECK_OK(run(&other, &o, prompts, 1, &e), &e);
    CHECK_INT(other.count[0], first);
    CHECK_INT(other.finish[0], GENERATE_STOP);
    CHECK(!memcmp(other.ids[0], together.ids[0], first * sizeof(int32_t)));
    end();
}

static void the_end_of_the_context_stops_with_length(void)
{
    Err e = {0};
    begin("llama");
    GenerateOptions o = usual();
    model.config.n_eos = 0;
    model.config.max_positions = prompts[1].count + 4;
    CHECK_OK(run(&other, &o, &prompts[1], 2, &e), &e);
    for (size_t i = 0; i < 2 * SAMPLES; i++)
        CHECK(other.count[i] == 4 && other.finish[i] == GENERATE_LENGTH);
    e.code = 0; /* prompt 3 (index 103) is longer than that */
    CHECK_FAILS(run(&other, &o, prompts, PROMPTS, &e), &e, ERR_DATA);
    CHECK_HAS(e.text, "prompt 103 has 40 tokens");
    end();
}

static void long_prompts_are_read_in_pieces_with_the_same_bits(void)
{
    Err e = {0};
    begin("llama");
    GenerateOptions o = usual();
    if (model.config.max_positions < LONGEST + NEW) model.config.max_positions = LONGEST + NEW;
    Prompt longer[3] = {{prompt_ids[0], LONGEST, 0},
                        {prompt_ids[1], LONGEST - 1, 1},
                        {prompt_ids[3], GENERATE_PREFILL + 1, 2}};
    CHECK_OK(run(&together, &o, longer, 3, &e), &e);
    for (size_t p = 0; p < 3; p++) {
        CHECK_OK(run(&other, &o, &longer[p], 1, &e), &e);
        for (size_t s = 0; s < SAMPLES; s++) CHECK(same_sample(p * SAMPLES + s, s));
    }
    end();
}

/* One token and many, one step and several: more prompts than slots, and samples that must wait. */
static void long_prompts_in_company_have_the_texts_of_full_passes(void)
{
    static const char *const names[] = {"llama", "mistral"};
    static const size_t count[PROMPTS] = {GENERATE_PREFILL + 2, 1,  LONGEST,         2,
                                          GENERATE_PREFILL + 1, 40, GENERATE_PREFILL};
    for (size_t k = 0; k < 2; k++) {
        Err e = {0};
        begin(names[k]);
        for (size_t p = 0; p < PROMPTS; p++) prompts[p].count = count[p];
        GenerateOptions o = usual();
        model.config.max_positions = LONGEST + NEW;
        for (o.at_once = 1; o.at_once <= 7; o.at_once += 3) {
            CHECK(run(&together, &o, prompts, PROMPTS, &e) == 0 && together.in_order);
            for (size_t p = 0; p < PROMPTS; p++) {
                GenerateOptions alone = o;
                alone.at_once = SAMPLES;
                CHECK_OK(run(&other, &alone, &prompts[p], 1, &e), &e);
                for (size_t s = 0; s < SAMPLES; s++) CHECK(same_sample(p * SAMPLES + s, s));
            }
        }
        o.temperature = 0;
        o.max_tokens = 3;
        o.at_once = 2;
        CHECK_OK(run(&together, &o, prompts, PROMPTS, &e), &e);
        for (size_t i = 0; i < PROMPTS * SAMPLES; i++)
            check_full_passes(&prompts[i / SAMPLES], together.ids[i], together.count[i]);
        end();
    }
}

/* ---- what it takes ------------------------------------------------------------------------- */

/* Runs one prompt of so many tokens; nothing but `most` ends its samples. */
static const GenerateWork *work_of(size_t count, size_t samples, size_t most)
{
    Err e = {0};
    GenerateOptions o = usual();
    Prompt p = {prompt_ids[0], count, 0};
    o.samples = samples;
    o.max_tokens = most;
    model.config.n_eos = 0;
    model.config.max_positions = LONGEST + NEW;
    CHECK_OK(run(&together, &o, &p, 1, &e), &e);
    CHECK_INT(together.tokens, samples * most);
    return &together.work;
}

static void a_sample_begins_in_the_step_that_reads_the_end_of_its_prompt(void)
{
    static const size_t count[] = {1, 2, 40, GENERATE_PREFILL, GENERATE_PREFILL + 1};
    begin("llama");
    for (size_t i = 0; i < sizeof count / sizeof *count; i++) {
        const GenerateWork *w = work_of(count[i], 1, 1);
        CHECK_INT(w->steps, 1);
        CHECK_INT(w->rows, count[i]);
        CHECK_INT(w->logits, 1);
        w = work_of(count[i], SAMPLES, NEW); /* all samples begin at once, and share the prompt */
        CHECK(w->steps == NEW && w->logits == SAMPLES * NEW);
        CHECK_INT(w->rows, count[i] - 1 + SAMPLES * NEW);
    }
    end();
}

static void a_step_without_samples_computes_no_logits(void)
{
    begin("llama");
    const GenerateWork *w = work_of(GENERATE_PREFILL + 2, 1, 1); /* one token more than a step's */
    CHECK(w->steps == 2 && w->rows == GENERATE_PREFILL + 2 && w->logits == 1);
    end();
}

/* A step takes several short prompts, and memory is taken for the rows that steps have and no more:
 * not for prompts that no step reads together with the heaviest one's. */
static void short_prompts_share_a_step_and_need_little(void)
{
    Err e = {0};
    begin("llama");
    GenerateOptions o = usual();
    o.max_tokens = o.samples = 1;
    CHECK_OK(run(&together, &o, prompts, PROMPTS, &e), &e);
    CHECK_INT(together.work.steps, 1);
    CHECK_INT(together.work.rows, 1 + 9 + 9 + 40 + 3 + 27 + 17);
    size_t all = together.work.bytes, one = work_of(9, 1, 1)->bytes;
    size_t full = work_of(GENERATE_PREFILL + 1, 1, 1)->bytes;
    size_t longest = work_of(LONGEST, 1, 1)->bytes; /* its heaviest step has one row less */
    CHECK(one * 20 < full && one < all);
    CHECK(longest < full && longest > full / 100 * 99);

    Prompt many[PROMPTS];
    for (size_t i = 0; i < PROMPTS; i++) many[i] = (Prompt){prompt_ids[i], 9, i};
    o.at_once = 1;
    CHECK_OK(run(&other, &o, many, 2, &e), &e);
    size_t two = other.work.bytes; /* the one that runs, and the next */
    CHECK(run(&other, &o, many, PROMPTS, &e) == 0 && other.work.bytes == two);
    end();
}

static void bad_prompts_are_named(void)
{
    Err e = {0};
    begin("llama");
    GenerateOptions o = usual();
    Prompt bad[2] = {prompts[0], {prompt_ids[1], 0, 42}};
    CHECK_FAILS(run(&other, &o, bad, 2, &e), &e, ERR_DATA);
    CHECK_HAS(e.text, "prompt 42 has no tokens");
    int32_t wild[2] = {1, (int32_t)model.config.V};
    bad[1] = (Prompt){wild, 2, 43};
    CHECK_FAILS(run(&other, &o, bad, 2, &e), &e, ERR_DATA);
    CHECK_HAS(e.text, "prompt 43: token id");
    CHECK(run(&other, &o, bad, 0, &e) == 0 && other.done == 0);
    end();
}

static int stop_after_two(void *ctx, const Continuation *c, Err *e)
{
    (void)c;
    if (++*(int *)ctx < 2) return 0;
    return err_set(e, ERR_IO, "disk full");
}

static void a_sink_that_fails_ends_the_run(void)
{
    Err e = {0};
    begin("llama");
    int calls = 0;
    Generator gen = {.model = &model, .lora = &lora, .compute = &compute, .options = usual()};
    GenerateSink sink = {&calls, stop_after_two, NULL};
    CHECK_INT(generate_run(&gen, prompts, PROMPTS, &sink, &e), -1);
    CHECK_INT(e.code, ERR_IO);
    CHECK_INT(calls, 2);
    stop_requested = 1;
    CHECK_FAILS(generate_run(&gen, prompts, PROMPTS, &sink, &e), &e, ERR_INTERRUPTED);
    stop_requested = 0;
    end();
}

/* ---- with a tokenizer ---------------------------------------------------------------------- */

static void tokens_that_the_tokenizer_lacks_are_never_chosen(void)
{
    Err e = {0};
    size_t at = 0;
    static char json[8192]; /* the 256 bytes and nothing else; the model's head has 266 rows */
    at = (size_t)snprintf(
        json, sizeof json,
        "{\"decoder\":{\"type\":\"ByteLevel\"},"
        "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
        "\"use_regex\":true},\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{");
    unsigned spare = 0x100;
    for (unsigned b = 0; b < 256; b++) {
        int printable = (b > 0x20 && b < 0x7f) || (b > 0xa0 && b != 0xad);
        at += (size_t)snprintf(json + at, sizeof json - at, "%s\"\\u%04x\":%u", b ? "," : "",
                               printable ? b : spare++, b);
    }
    at += (size_t)snprintf(json + at, sizeof json - at, "}}}");
    Tokenizer *t = tokenizer_parse(json, at, "bytes", NULL, 0, NULL, &e);
    CHECK(t && tokenizer_size(t) == 256);
    if (!t) printf("%s\n", e.text);
    compute_open(&compute, "auto", PRECISION_F32, &e);
    CHECK_OK(model_load(&model, tiny_model("wide"), 0, NULL, &e), &e);
    GenerateOptions o = generate_defaults();
    o.temperature = 50; /* nearly even: some of 10 rows in 266 would come up */
    o.max_tokens = NEW;
    o.samples = 20;
    int32_t one = 1;
    Prompt p = {&one, 1, 0};
    for (int masked = 0; masked < 2; masked++) {
        size_t beyond = 0;
        memset(&other, 0, sizeof other);
        other.samples = o.samples;
        Generator g = {
            .model = &model, .tokenizer = masked ? t : NULL, .compute = &compute, .options = o};
        model.config.n_eos = 0;
        GenerateSink sink = {&other, take, count_token};
        CHECK_OK(generate_run(&g, &p, 1, &sink, &e), &e);
        for (size_t i = 0; i < o.samples; i++)
            for (size_t k = 0; k < other.count[i]; k++) beyond += other.ids[i][k] >= 256;
        CHECK(masked ? beyond == 0 : beyond > 0);
    }
    tokenizer_free(t);
    model_close(&model);
    compute_close(&compute);
}

typedef struct {
    Text text;
    size_t pieces;
} Streamed;

static int take_text(void *ctx, const char *bytes, size_t len, Err *e)
{
    Streamed *s = ctx;
    s->pieces++;
    CHECK_INT(utf8_check(bytes, len), len); /* whole characters only */
    return text_add(&s->text, bytes, len, e);
}

static void streamed_text_is_the_decoded_text(void)
{
    Err e = {0};
    Streamed s = {{0}, 0};
    Ids ids = {0};
    Text whole = {0};
    GenerateFinish finish;
    compute_open(&compute, "auto", PRECISION_F32, &e);
    const char *dir = tiny_model("stream");
    Tokenizer *t = tokenizer_load(dir, NULL, &e);
    CHECK(t && model_load(&model, dir, 0, NULL, &e) == 0);
    GenerateOptions o = generate_defaults();
    o.max_tokens = 60;
    o.seed = 2;
    int32_t prompt[3] = {TINY_BOS, 259, 263};
    Prompt p = {prompt, 3, 0};
    Generator g = {.model = &model, .tokenizer = t, .compute = &compute, .options = o};
    CHECK_OK(generate_stream(&g, &p, take_text, &s, &ids, &finish, &e), &e);
    CHECK(ids.count > 0 && s.pieces > 3);
    CHECK_INT(finish, (ids.count == o.max_tokens ? GENERATE_LENGTH : GENERATE_STOP));
    CHECK_OK(tokenizer_decode(t, ids.ids, ids.count, 1, &whole, &e), &e);
    CHECK_TEXT(s.text.data, whole.data);
    text_free(&s.text);
    text_free(&whole);
    ids_free(&ids);
    tokenizer_free(t);
    model_close(&model);
    compute_close(&compute);
}

/* ---- what ends an answer ------------------------------------------------------------------- */

/* The bytes of text before the stop text that is complete first (of those the longest). */
static size_t before_stop(const char *text, const char *const *stops, size_t n)
{
    for (size_t end = 1; end <= strlen(text); end++) {
        size_t longest = 0;
        for (size_t i = 0; i < n; i++) {
            size_t len = strlen(stops[i]);
            if (len <= end && len > longest && !memcmp(text + end - len, stops[i], len))
                longest = len;
        }
        if (longest) return end - longest;
    }
    return SIZE_MAX;
}

typedef struct {
    const Tokenizer *t;
    Text text;
    size_t count;
    GenerateFinish finish;
} Answer;

static int take_answer(void *ctx, const Continuation *c, Err *e)
{
    Answer *a = ctx;
    Text fewer = {0};
    a->count = c->count;
    a->finish = c->finish;
    a->text.len = 0;
    CHECK(!generate_text(a->t, c, &a->text, e));
    if (c->text_len != SIZE_MAX && c->count) { /* no token is there for the stop text alone */
        CHECK(!tokenizer_decode(a->t, c->ids, c->count - 1, 1, &fewer, e));
        CHECK(fewer.len < c->text_len || utf8_check(fewer.data, fewer.len) < fewer.len ||
              strstr(fewer.data, "\xef\xbf\xbd"));
    }
    text_free(&fewer);
    return 0;
}

/* Every part of a text as a stop text, alone and beside another: at once and in a stream. */
static void stop_texts_cut_answers(void)
{
    Err e = {0};
    compute_open(&compute, "auto", PRECISION_F32, &e);
    const char *dir = tiny_model("stops");
    Tokenizer *t = tokenizer_load(dir, NULL, &e);
    CHECK(t && model_load(&model, dir, 0, NULL, &e) == 0);
    GenerateOptions o = generate_defaults();
    o.max_tokens = 24;
    o.seed = 2;
    int32_t prompt[3] = {TINY_BOS, 259, 263};
    Prompt p = {prompt, 3, 0};
    Answer a = {.t = t};
    GenerateSink sink = {&a, take_answer, NULL};
    Generator g = {.model = &model, .tokenizer = t, .compute = &compute, .options = o};
    CHECK_OK(generate_run(&g, &p, 1, &sink, &e), &e);
    char whole[512], part[2][64];
    snprintf(whole, sizeof whole, "%s", a.text.data);
    GenerateFinish finish_whole = a.finish;
    size_t length = strlen(whole), cuts = 0;
    CHECK(length > 20 && a.count > 10);
    const char *stops[2] = {part[0], part[1]};
    g.options.stops = stops;
    for (size_t i = 0; i < 400; i++) {
        g.options.n_stops = 1 + i % 2;
        for (size_t k = 0; k < 2; k++) { /* now and then one that is in no text, but begins so */
            size_t at = (size_t)(rng_u64(3, i, k) % length), n = 1 + (size_t)(rng_u64(4, i, k) % 7);
            snprintf(part[k], sizeof part[k], "%.*s%s", (int)n, whole + at, i % 5 ? "" : "\x01");
            if (utf8_check(part[k], strlen(part[k])) < strlen(part[k])) strcpy(part[k], "\x01");
        }
        size_t cut = before_stop(whole, stops, g.options.n_stops);
        cuts += cut != SIZE_MAX;
        CHECK_OK(generate_run(&g, &p, 1, &sink, &e), &e);
        CHECK(a.text.len == (cut < length ? cut : length) &&
              !memcmp(a.text.data, whole, a.text.len));
        CHECK_INT(a.finish, (cut != SIZE_MAX ? GENERATE_STOP : finish_whole));

        Streamed s = {{0}, 0};
        Ids ids = {0};
        GenerateFinish finish;
        CHECK_OK(text_add(&s.text, "", 0, &e), &e);
        CHECK_OK(generate_stream(&g, &p, take_text, &s, &ids, &finish, &e), &e);
        CHECK_TEXT(s.text.data, a.text.data);
        CHECK_INT(ids.count, a.count);
        CHECK_INT(finish, a.finish);
        text_free(&s.text);
        ids_free(&ids);
    }
    CHECK(cuts > 100 && cuts < 400);
    text_free(&a.text);
    tokenizer_free(t);
    model_close(&model);
    compute_close(&compute);
}

/* The template's end stops an answer, though neither the model nor the tokenizer name it. */
static void the_template_in_use_ends_answers(void)
{
    Err e = {0};
    Stops stops;
    compute_open(&compute, "auto", PRECISION_F32, &e);
    const char *dir = tiny_model("turns");
    Tokenizer *t = tokenizer_load(dir, NULL, &e);
    CHECK(t && model_load(&model, dir, 0, NULL, &e) == 0);
    ChatTemplate *zephyr = chat_open(t, "zephyr", NULL, &e);
    ChatTemplate *llama = chat_open(t, "llama3", NULL, &e);
    const char *const texts[] = {"</s>", "zz"};
    model.config.n_eos = 0;
    CHECK_OK(stops_find(&stops, &model.config, t, zephyr, NULL, 0, &e), &e);
    CHECK(stops.n_ids == 1 && stops_has(&stops, tokenizer_eos(t)) && !stops.n_texts);
    CHECK_OK(stops_find(&stops, &model.config, t, llama, texts, 2, &e),
             &e); /* no such token here */
    CHECK(stops.n_ids == 1 && stops.n_texts == 3 && !strcmp(stops.texts[0], "<|eot_id|>"));
    CHECK(!stops_find(&stops, &model.config, NULL, NULL, NULL, 0, &e) && !stops.n_ids);
    tokenizer_free(t);
    model_close(&model);

    /* A tokenizer whose end token is another than the one that ends turns. */
    const char *base = json_byte_level(BYTES_LLAMA3, "");
    Text json = {0};
    const char *end = strstr(base, "<|end|>");
    text_addf(&json, &e, "%.*s<|eot_id|>%s", (int)(end - base), base, end + strlen("<|end|>"));
    static const char config[] = "{\"eos_token\":\"<|pad|>\"}";
    t = tokenizer_parse(json.data, json.len, "t.json", config, sizeof config - 1, NULL, &e);
    CHECK(t && model_load(&model, dir, 0, NULL, &e) == 0);
    model.config.n_eos = 0;
    GenerateOptions o = generate_defaults();
    o.temperature = 50; /* nearly even over the tokens: the end of the turn comes up */
    o.max_tokens = NEW;
    o.samples = SAMPLES;
    int32_t one = 1, eot = 260;
    Prompt p = {&one, 1, 0};
    for (int chat = 0; chat < 3; chat++) {
        size_t ends = 0, stopped = 0;
        o.stops = (const char *const[]){"<|eot_id|>"}; /* as a text: its token stops as well */
        o.n_stops = chat == 2;
        for (o.seed = 0; o.seed < 40; o.seed++) {
            Generator g = {.model = &model, .tokenizer = t, .compute = &compute, .options = o};
            if (chat == 1) g.chat = llama;
            memset(&other, 0, sizeof other);
            other.samples = SAMPLES;
            GenerateSink sink = {&other, take, count_token};
            CHECK_OK(generate_run(&g, &p, 1, &sink, &e), &e);
            for (size_t i = 0; i < SAMPLES; i++) {
                stopped += other.finish[i] == GENERATE_STOP;
                for (size_t k = 0; k < other.count[i]; k++) ends += other.ids[i][k] == eot;
            }
        }
        CHECK(chat ? !ends && stopped > 4 : ends > 0);
    }
    chat_close(zephyr);
    chat_close(llama);
    text_free(&json);
    tokenizer_free(t);
    model_close(&model);
    compute_close(&compute);
}

static const Test tests[] = {
    {"greedy_takes_the_largest_and_the_lowest_of_equals",
     greedy_takes_the_largest_and_the_lowest_of_equals},
    {"draws_share_the_unit_interval_in_the_order_of_ids",
     draws_share_the_unit_interval_in_the_order_of_ids},
    {"temperature_sharpens_and_flattens", temperature_sharpens_and_flattens},
    {"top_k_keeps_the_k_best_lower_ids_first", top_k_keeps_the_k_best_lower_ids_first},
    {"top_p_keeps_the_fewest_that_reach_the_mass", top_p_keeps_the_fewest_that_reach_the_mass},
    {"min_p_is_relative_to_the_best", min_p_is_relative_to_the_best},
    {"filters_agree_with_their_definition", filters_agree_with_their_definition},
    {"hopeless_logits_are_refused", hopeless_logits_are_refused},
    {"options_out_of_range_are_usage_errors", options_out_of_range_are_usage_errors},
    {"results_come_in_the_order_of_prompts_and_samples",
     results_come_in_the_order_of_prompts_and_samples},
    {"a_text_is_the_same_alone_and_in_company", a_text_is_the_same_alone_and_in_company},
    {"a_text_is_the_same_for_any_number_of_threads", a_text_is_the_same_for_any_number_of_threads},
    {"greedy_text_is_that_of_full_passes", greedy_text_is_that_of_full_passes},
    {"end_tokens_stop_and_are_left_out", end_tokens_stop_and_are_left_out},
    {"the_end_of_the_context_stops_with_length", the_end_of_the_context_stops_with_length},
    {"long_prompts_are_read_in_pieces_with_the_same_bits",
     long_prompts_are_read_in_pieces_with_the_same_bits},
    {"long_prompts_in_company_have_the_texts_of_full_passes",
     long_prompts_in_company_have_the_texts_of_full_passes},
    {"a_sample_begins_in_the_step_that_reads_the_end_of_its_prompt",
     a_sample_begins_in_the_step_that_reads_the_end_of_its_prompt},
    {"a_step_without_samples_computes_no_logits", a_step_without_samples_computes_no_logits},
    {"short_prompts_share_a_step_and_need_little", short_prompts_share_a_step_and_need_little},
    {"bad_prompts_are_named", bad_prompts_are_named},
    {"a_sink_that_fails_ends_the_run", a_sink_that_fails_ends_the_run},
    {"tokens_that_the_tokenizer_lacks_are_never_chosen",
     tokens_that_the_tokenizer_lacks_are_never_chosen},
    {"streamed_text_is_the_decoded_text", streamed_text_is_the_decoded_text},
    {"stop_texts_cut_answers", stop_texts_cut_answers},
    {"the_template_in_use_ends_answers", the_template_in_use_ends_answers},
};

FILES_TEST_MAIN(tests)
