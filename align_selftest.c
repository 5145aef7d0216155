/* align_selftest.c - align selftest: checks that the mathematics holds on this machine, in this
 * build.
 *
 * Everything is made here from fixed seeds: a small random Llama with a random adapter, a batch of
 * two preference pairs. Each check is one line of output; any failure is exit code 1.
 */
#include "align.h"
#include "score.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const OptionGroup *const selftest_groups[] = {&group_quiet, NULL};
static const OptionTable selftest_table = {"selftest", "checks of the mathematics on this machine",
                                           NULL, "align selftest", selftest_groups, NULL};

/* ---- a model, an adapter and a batch from nothing ------------------------------------------- */

#define LAYERS 2
#define PAIRS 2
#define RANK 4
#define PROMPT 9
#define ANSWER 14
#define POSITIONS (PROMPT + ANSWER)
#define SEED 20240731u

/* Widths of a model. */
typedef struct {
    size_t H, F, V, Q, G, D;
} Widths;
static const Widths small = {32, 48, 61, 4, 2, 8};
static const Widths wide = {128, 384, 1024, 8, 4, 16}; /* enough work for several threads */

/* Everything that one optimiser step needs. */
typedef struct {
    Model model;
    Lora lora;
    Compute compute;
    Tape tape;
    Packer packer;
    Pool pool;
    Mt mt;
    size_t first[PAIRS][2], count[PAIRS][2]; /* scores of each answer */
    double reference[PAIRS][2];
    int taping, computing;
} Bench;

static int random_weight(Bench *b, const Weight *w, float mean, float width, Err *e)
{
    real *x = pool_alloc(&b->pool, w->rows * w->cols * sizeof *x, e);
    if (!x) return -1;
    for (size_t i = 0; i < w->rows * w->cols; i++)
        x[i] = (real)mt_uniform(&b->mt, mean - width, mean + width);
    *w->param = (Param){.w = {x, FORMAT_REAL, w->rows, w->cols, 0}};
    return 0;
}

static int make_model(Bench *b, const Widths *widths, Err *e)
{
    Model *m = &b->model;
    Weight w;
    m->config = (ModelConfig){.family = "llama",
                              .layers = LAYERS,
                              .H = widths->H,
                              .F = widths->F,
                              .V = widths->V,
                              .Q = widths->Q,
                              .G = widths->G,
                              .D = widths->D,
                              .max_positions = POSITIONS,
                              .norm_eps = 1e-5,
                              .rope = {.type = "default", .theta = 1e4}};
    m->layers = mem_calloc(LAYERS, sizeof *m->layers, e);
    if (!m->layers) return -1;
    int bad = 0;
    for (size_t i = 0; i < model_weight_count(m) && !bad; i++) {
        model_weight(m, i, &w);
        float spread = w.param == &m->embedding ? 1 : 2 / sqrtf((float)m->config.H);
        bad = w.kind == WEIGHT_GAIN ? random_weight(b, &w, 1, 0.5f, e)
                                    : random_weight(b, &w, 0, spread, e);
    }
    return bad || model_reserve_positions(m, POSITIONS, e) ? -1 : 0;
}

/* B = 0 would hide the gradient of A: both are random. */
static int make_adapter(Bench *b, Err *e)
{
    LoraShape shape;
    LoraConfig config = {.rank = RANK, .alpha = 2 * RANK, .targets = (1u << TARGET_COUNT) - 1};
    model_lora_shape(&b->model, &shape);
    if (lora_create(&b->lora, &config, &shape, SEED, 1, e)) return -1;
    for (size_t i = 0; i < b->lora.count; i++)
        b->lora.weights[i] = (real)mt_uniform(&b->mt, -0.2f, 0.2f);
    return 0;
}

static int make_batch(Bench *b, Err *e)
{
    int32_t ids[PROMPT + 2 * ANSWER];
    packer_begin(&b->packer);
    for (size_t i = 0; i < PAIRS; i++) {
        int prompt;
        for (size_t t = 0; t < sizeof ids / sizeof *ids; t++)
            ids[t] = (int32_t)(mt_next(&b->mt) % b->model.config.V);
        if (packer_add_context(&b->packer, -1, ids, PROMPT, &prompt, e)) return -1;
        for (size_t k = 0; k < 2; k++) /* answers of different lengths */
            if (packer_add_completion(&b->packer, prompt, ids + PROMPT + k * ANSWER, ANSWER - i - k,
                                      &b->first[i][k], &b->count[i][k], e))
                return -1;
    }
    return 0;
}

static void bench_close(Bench *b)
{
    if (b->taping) tape_close(&b->tape);
    if (b->computing) compute_close(&b->compute);
    if (b->lora.weights) lora_close(&b->lora);
    model_close(&b->model);
    packer_free(&b->packer);
    pool_free(&b->pool);
    memset(b, 0, sizeof *b);
}

static double answer_sum(const Bench *b, const Var *logp, size_t i, size_t k)
{
    double sum = 0;
    for (size_t t = 0; t < b->count[i][k]; t++) sum += (double)logp->x[b->first[i][k] + t];
    return sum;
}

/* ---- a step -------------------------------------------------------------------------------- */

static const DpoConfig *bench_loss(void)
{
    static DpoConfig c;
    c = dpo_config_default();
    c.beta = 0.5;
    return &c;
}

/* Computes the DPO loss of the batch, and with `back` adds its gradient to lora.gradients. */
static int bench_step(Bench *b, int back, double *loss, Err *e)
{
    DpoPair pairs[PAIRS];
    DpoPairResult results[PAIRS];
    real dlogp[2 * PAIRS * ANSWER] = {0};
    tape_reset(&b->tape);
    b->tape.record = back;
    Var *logp = model_logprob(&b->tape, &b->model, &b->lora, &b->packer.batch, NULL);
    if (tape_check(&b->tape, e)) return -1;
    for (size_t i = 0; i < PAIRS; i++)
        pairs[i] = (DpoPair){.policy_chosen = answer_sum(b, logp, i, 0),
                             .policy_rejected = answer_sum(b, logp, i, 1),
                             .reference_chosen = b->reference[i][0],
                             .reference_rejected = b->reference[i][1],
                             .tokens_chosen = (double)b->count[i][0],
                             .tokens_rejected = (double)b->count[i][1]};
    dpo_loss(bench_loss(), pairs, PAIRS, results, NULL, loss);
    if (!back) return 0;
    for (size_t i = 0; i < PAIRS; i++)
        for (size_t k = 0; k < 2; k++)
            for (size_t t = 0; t < b->count[i][k]; t++)
                dlogp[b->first[i][k] + t] = (real)(k ? results[i].d_rejected : results[i].d_chosen);
    memset(b->lora.gradients, 0, b->lora.count * sizeof *b->lora.gradients);
    tape_backward(&b->tape, logp, dlogp);
    return tape_check(&b->tape, e);
}

/* Computes the reference's log-probs: the same model without the adapter. */
static int bench_reference(Bench *b, Err *e)
{
    tape_reset(&b->tape);
    b->tape.record = 0;
    Var *logp = model_logprob(&b->tape, &b->model, NULL, &b->packer.batch, NULL);
    if (tape_check(&b->tape, e)) return -1;
    for (size_t i = 0; i < PAIRS; i++)
        for (size_t k = 0; k < 2; k++) b->reference[i][k] = answer_sum(b, logp, i, k);
    return 0;
}

/* Far more memory than these sizes need. */
#define TAPE_BYTES ((size_t)64 << 20)

/* Prepares everything up to the first step. *b starts from {0} and is closed even after an
 * error. */
static int bench_open(Bench *b, const Widths *w, const char *kernel, int keep, Err *e)
{
    mt_seed(&b->mt, SEED);
    if (make_model(b, w, e) || make_adapter(b, e) || make_batch(b, e)) return -1;
    if (compute_open(&b->compute, kernel, PRECISION_F32, e)) return -1;
    b->computing = 1;
    if (tape_open(&b->tape, &b->compute, TAPE_BYTES, model_node_bytes(&b->model, &b->packer.batch),
                  e))
        return -1;
    b->taping = 1;
    b->tape.keep = keep;
    return bench_reference(b, e);
}

/* SHA-256 over the bits of loss, reference and gradients of one step. */
static int fingerprint(const char *kernel, int threads, int keep, char hex[65], Err *e)
{
    Bench b = {0};
    Sha256 sha;
    double loss = 0;
    threads_set(threads);
    int status = bench_open(&b, &wide, kernel, keep, e) || bench_step(&b, 1, &loss, e);
    if (!status) {
        sha256_begin(&sha);
        sha256_add(&sha, &loss, sizeof loss);
        sha256_add(&sha, b.reference, sizeof b.reference);
        sha256_add(&sha, b.lora.gradients, b.lora.count * sizeof *b.lora.gradients);
        sha256_end(&sha, hex);
    }
    bench_close(&b);
    threads_set(0);
    return status ? -1 : 0;
}

/* ---- checks -------------------------------------------------------------------------------- */

static int check_sha(Err *e)
{
    char hex[65];
    Sha256 s;
    sha256_begin(&s);
    sha256_add(&s, "abc", 3); /* FIPS 180-4, example 1 */
    sha256_end(&s, hex);
    if (!strncmp(hex, "ba7816bf8f01cfea414140de5dae2223", 32)) return 0;
    return err_set(e, ERR_CHECK, "SHA-256 of abc is %s", hex);
}

static int check_random(Err *e)
{
    static const uint32_t want[] = {1, 6, 3, 5, 4, 0, 2}; /* torch.randperm(7), seed 42 */
    uint32_t order[7];
    for (uint32_t i = 0; i < 7; i++) order[i] = i;
    Mt mt;
    mt_seed(&mt, 42);
    mt_randperm(&mt, order, 7);
    if (!memcmp(order, want, sizeof want)) return 0;
    return err_set(e, ERR_CHECK, "a permutation of 7 begins %u %u %u", order[0], order[1],
                   order[2]);
}

/* Compares our exp, log, sin and cos with the C library's, which may itself be off by an ulp or
 * two. */
static int check_functions(Err *e)
{
    const double tolerance = 4 * 2.220446049250313e-16; /* two ulps each */
    for (int i = 1; i <= 2000; i++) {
        double x = i * 0.00731, y[4] = {maths_exp(-x), maths_log(x), maths_sin(x), maths_cos(x)};
        double libm[4] = {exp(-x), log(x), sin(x), cos(x)};
        for (int f = 0; f < 4; f++) {
            double scale = fabs(libm[f]) > 1e-3 ? fabs(libm[f]) : 1e-3;
            if (!(fabs(y[f] - libm[f]) <= tolerance * scale))
                return err_set(e, ERR_CHECK, "function %d at %g: %.17g, libm has %.17g", f, x, y[f],
                               libm[f]);
        }
    }
    return 0;
}

/* Checks that numbers written to files are read back with the same bits. */
static int check_numbers(Err *e)
{
    Text t = {0};
    int status = 0;
    for (uint64_t i = 0; i < 2000 && !status; i++) {
        double x = (rng_unit(1, RNG_SAMPLE, i) - 0.5) * ldexp(1, (int)(i % 200) - 100), back = 0;
        t.len = 0;
        status = json_put_f64(&t, x, e);
        if (!status && (parse_f64(t.data, t.len, &back) || back != x))
            status = err_set(e, ERR_CHECK, "%.17g is written as %s", x, t.data);
    }
    text_free(&t);
    return status;
}

static DpoPair random_pair(uint64_t i)
{
    double u[8];
    for (uint64_t k = 0; k < 8; k++) u[k] = rng_unit(SEED, RNG_SAMPLE, 8 * i + k);
    return (DpoPair){.policy_chosen = -10 - 5 * u[0],
                     .policy_rejected = -10 - 5 * u[1],
                     .reference_chosen = -10 - 5 * u[2],
                     .reference_rejected = -10 - 5 * u[3],
                     .tokens_chosen = 5 + floor(9 * u[4]),
                     .tokens_rejected = 5 + floor(9 * u[5]),
                     .nll_logp = -10 - 5 * u[6],
                     .nll_tokens = 7,
                     .wpo = 1};
}

/* Checks each DPO loss: its closed form at equal policies, and its gradient against central
 * differences. */
static int check_dpo_loss(DpoLoss loss, Err *e)
{
    enum { N = 3 };
    const double h = 1e-5, tolerance = 1e-6;
    DpoConfig c = dpo_config_default();
    c.loss[0] = loss;
    c.label_smoothing = loss == DPO_ROBUST || loss == DPO_EXO_PAIR || loss == DPO_CDPO ? 0.1 : 0;
    DpoPair pairs[N];
    DpoPairResult results[N], ignored[N];
    size_t order[2 * N];
    double value, closed, plus, minus;
    if (dpo_config_check(&c, e)) return -1;
    for (uint64_t i = 0; i < N; i++) pairs[i] = random_pair(i);
    dpo_loss(&c, pairs, N, results, order, &value);
    for (size_t i = 0; i < N; i++) {
        double *x[] = {&pairs[i].policy_chosen, &pairs[i].policy_rejected, &pairs[i].nll_logp};
        double d[] = {results[i].d_chosen, results[i].d_rejected, results[i].d_nll};
        for (size_t k = 0; k < 3; k++) {
            double at = *x[k];
            *x[k] = at + h;
            dpo_loss(&c, pairs, N, ignored, order, &plus);
            *x[k] = at - h;
            dpo_loss(&c, pairs, N, ignored, order, &minus);
            *x[k] = at;
            double slope = (plus - minus) / (2 * h);
            if (!(fabs(slope - d[k]) <= tolerance * (1 + fabs(slope))))
                return err_set(e, ERR_CHECK, "%s: gradient %.9g, differences give %.9g",
                               dpo_loss_name(loss), d[k], slope);
        }
    }
    for (size_t i = 0; i < N; i++) {
        pairs[i].reference_chosen = pairs[i].policy_chosen;
        pairs[i].reference_rejected = pairs[i].policy_rejected;
    }
    dpo_loss(&c, pairs, N, results, order, &value);
    if (dpo_loss_at_zero(&c, &closed) || fabs(value - closed) <= 1e-12) return 0;
    return err_set(e, ERR_CHECK, "%s: %.17g at equal policies, must be %.17g", dpo_loss_name(loss),
                   value, closed);
}

static int check_dpo(Err *e)
{
    for (int loss = 0; loss < DPO_LOSS_COUNT; loss++)
        if (check_dpo_loss((DpoLoss)loss, e)) return -1;
    return 0;
}

static int check_kto(Err *e)
{
    enum { N = 4 };
    const double h = 1e-5, tolerance = 1e-7, kl = 0.3;
    KtoConfig c = kto_config_default();
    c.undesirable_weight = 1.5;
    for (int loss = 0; loss < KTO_LOSS_COUNT; loss++) {
        KtoRow rows[N];
        KtoResult results[N], ignored[N];
        double value, plus, minus;
        c.loss = (KtoLoss)loss;
        for (uint64_t i = 0; i < N; i++) {
            DpoPair p = random_pair(i);
            rows[i] = (KtoRow){p.policy_chosen, p.reference_chosen, i % 2 == 0};
        }
        kto_loss(&c, rows, N, kl, results, &value);
        for (size_t i = 0; i < N; i++) {
            double at = rows[i].policy;
            rows[i].policy = at + h;
            kto_loss(&c, rows, N, kl, ignored, &plus);
            rows[i].policy = at - h;
            kto_loss(&c, rows, N, kl, ignored, &minus);
            rows[i].policy = at;
            double slope = (plus - minus) / (2 * h);
            if (!(fabs(slope - results[i].d_policy) <= tolerance))
                return err_set(e, ERR_CHECK, "%s: gradient %.9g, differences give %.9g",
                               kto_loss_name(c.loss), results[i].d_policy, slope);
        }
        for (size_t i = 0; i < N; i++) rows[i].reference = rows[i].policy;
        kto_loss(&c, rows, N, 0, results, &value);
        if (!(fabs(value - kto_loss_at_zero(&c, rows, N)) <= 1e-12))
            return err_set(e, ERR_CHECK, "%s: %.17g at equal policies", kto_loss_name(c.loss),
                           value);
    }
    return 0;
}

/* (L(w + h g) - L(w - h g)) / 2h for a direction g of length 1, from w. */
static int slope_along(Bench *b, const NamedParam *p, const real *w, const real *g, double h,
                       double *slope, Err *e)
{
    double loss[2];
    for (int side = 0; side < 2; side++) {
        for (size_t i = 0; i < p->rows * p->cols; i++)
            p->w[i] = w[i] + (real)((side ? -h : h) * (double)g[i]);
        if (bench_step(b, 0, &loss[side], e)) return -1;
    }
    *slope = (loss[0] - loss[1]) / (2 * h);
    return 0;
}

/* d loss / d w along the gradient g of one adapter matrix is |g|. A difference over h has an error
 * of h^2, which two of them take away: (4 D(h) - D(2h)) / 3. In float a step of 1/40 is best:
 * smaller ones drown in rounding. */
static int check_gradient_of(Bench *b, const NamedParam *p, Err *e)
{
    const double h = 0.025, tolerance = 1e-3, noise = 1e-4;
    size_t n = p->rows * p->cols;
    double square = 0, near, far, ignored;
    if (bench_step(b, 1, &ignored, e)) return -1;
    real *kept = pool_alloc(&b->pool, n * sizeof *kept, e),
         *g = pool_alloc(&b->pool, n * sizeof *g, e);
    if (!kept || !g) return -1;
    memcpy(kept, p->w, n * sizeof *kept);
    for (size_t i = 0; i < n; i++) square += (double)p->d[i] * (double)p->d[i];
    double length = sqrt(square);
    if (!(length > 0)) return err_set(e, ERR_CHECK, "%s: the gradient is %g", p->name, length);
    for (size_t i = 0; i < n; i++) g[i] = (real)((double)p->d[i] / length);
    if (slope_along(b, p, kept, g, h, &near, e) || slope_along(b, p, kept, g, 2 * h, &far, e))
        return -1;
    memcpy(p->w, kept, n * sizeof *kept);
    double slope = (4 * near - far) / 3;
    if (fabs(slope - length) <= tolerance * length + noise) return 0;
    return err_set(e, ERR_CHECK, "%s: slope %.6g along its gradient of length %.6g", p->name, slope,
                   length);
}

static int check_gradients(Err *e)
{
    Bench b = {0};
    NamedParam p;
    int status = bench_open(&b, &small, "auto", 1, e);
    for (size_t i = 0; !status && i < lora_param_count(&b.lora); i++) {
        lora_param(&b.lora, i, &p);
        status = check_gradient_of(&b, &p, e);
    }
    bench_close(&b);
    return status;
}

/* Compares the bits of a step by the plain kernels in one thread with those of another way. */
static int same_bits(const char *kernel, int threads, int keep, Err *e)
{
    char plain[65], other[65];
    if (fingerprint("ref", 1, 1, plain, e) || fingerprint(kernel, threads, keep, other, e))
        return -1;
    if (!strcmp(plain, other)) return 0;
    return err_set(e, ERR_CHECK, "kernel %s, %d threads: other bits than ref in one thread", kernel,
                   threads);
}

static int check_kernels(Err *e)
{
    char name[32];
    const char *at = compute_available();
    while (*at) {
        size_t n = strcspn(at, " ");
        snprintf(name, sizeof name, "%.*s", (int)n, at);
        if (same_bits(name, 1, 1, e)) return -1;
        at += n + (at[n] == ' ');
    }
    return 0;
}

static int check_threads(Err *e)
{
    static const int counts[] = {2, 3, 7};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        if (same_bits("auto", counts[i], 1, e)) return -1;
    return 0;
}

static int check_recompute(Err *e)
{
    return same_bits("auto", 0, 0, e);
}

/* Checks that answers scored alone have the same bits as in a batch, with the prompt shared or
 * not. */
static int keep_sum(void *ctx, const Score *s, Err *e)
{
    (void)e;
    ((double *)ctx)[2 * s->row + s->side] = s->sum;
    return 0;
}

static int check_company(Err *e)
{
    Bench b = {0};
    int32_t ids[PROMPT + 2 * ANSWER];
    double together[2 * PAIRS] = {0}, alone[2];
    Row rows[PAIRS];
    int status = bench_open(&b, &wide, "auto", 1, e);
    for (size_t t = 0; !status && t < sizeof ids / sizeof *ids; t++)
        ids[t] = (int32_t)(mt_next(&b.mt) % b.model.config.V);
    for (size_t i = 0; i < PAIRS; i++) /* the same prompt, answers of different lengths */
        rows[i] = (Row){.prompt = ids,
                        .n_prompt = PROMPT,
                        .completion = {ids + PROMPT, ids + PROMPT + ANSWER},
                        .n_completion = {ANSWER - i, ANSWER - 2 * i}};
    if (!status)
        status =
            score_rows(&b.model, &b.lora, &b.compute, rows, PAIRS, 2, 0, keep_sum, together, e);
    for (size_t i = 0; i < PAIRS && !status; i++) {
        status = score_rows(&b.model, &b.lora, &b.compute, &rows[i], 1, 2, 1, keep_sum, alone, e);
        if (!status && memcmp(alone, together + 2 * i, sizeof alone))
            status = err_set(e, ERR_CHECK, "row %zu: %.17g alone, %.17g in company", i, alone[0],
                             together[2 * i]);
    }
    bench_close(&b);
    return status;
}

static const struct {
    const char *name;
    int (*run)(Err *e);
} checks[] = {
    {"SHA-256 gives the standard's example", check_sha},
    {"MT19937 draws PyTorch's permutation", check_random},
    {"exp, log, sin and cos agree with the C library", check_functions},
    {"numbers in files read back as the same bits", check_numbers},
    {"all DPO losses: closed forms, gradients by differences", check_dpo},
    {"all KTO losses: closed forms, gradients by differences", check_kto},
    {"gradients of every adapter matrix, by differences of the whole model", check_gradients},
    {"every kernel of this machine gives the plain kernel's bits in f32", check_kernels},
    {"1, 2, 3 and 7 threads give the same bits", check_threads},
    {"activations kept or computed twice give the same bits", check_recompute},
    {"log-probs alone and in company have the same bits", check_company},
};

static int selftest_run(const Options *o, Err *e)
{
    (void)o;
    size_t failed = 0, count = sizeof checks / sizeof *checks;
    for (size_t i = 0; i < count; i++) {
        Err why = {0};
        int bad = checks[i].run(&why);
        failed += bad != 0;
        printf("%s  %s%s%s\n", bad ? "FAIL" : "ok  ", checks[i].name, bad ? ": " : "",
               bad ? why.text : "");
        if (fflush(stdout)) return stdout_failed(e);
        if (stop_requested) return err_set(e, ERR_INTERRUPTED, "interrupted");
    }
    printf("%zu passed, %zu failed\n", count - failed, failed);
    return failed ? err_set(e, ERR_CHECK, "%zu of %zu checks failed", failed, count) : 0;
}

const Command command_selftest = {&selftest_table, selftest_run};
