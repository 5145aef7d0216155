/* The whole model in double against PyTorch's float64 (tests/golden), and against differences. */
#include "dpo.h"
#include "golden.h"
#include "model.h"

#include <math.h>
#include <string.h>

enum { MOST = 64, PAIRS = 4 };
static const double tight = 1e-10;

static Compute compute;
static Model model;
static Lora lora;
static const Json *expected;
static char expected_file[32];
static Tape tape;

static void begin(const char *name, int trainable_adapter)
{
    Err e = {0};
    LoraShape shape;
    char file[64];
    snprintf(file, sizeof file, "%s/expected.json", name);
    snprintf(expected_file, sizeof expected_file, "%s/expected.safetensors", name);
    expected = golden_json(file);
    CHECK_OK(compute_open(&compute, "ref", PRECISION_F32, &e), &e);
    if (model_load(&model, golden_path(name), 0, NULL, &e)) printf("%s\n", e.text), exit(1);
    CHECK_OK(model_reserve_positions(&model, MOST, &e), &e);
    model_lora_shape(&model, &shape);
    snprintf(file, sizeof file, "%s/adapter", name);
    if (lora_load(&lora, golden_path(file), &shape, trainable_adapter, &e))
        printf("%s\n", e.text), exit(1);
    CHECK_OK(tape_open(&tape, &compute, 1 << 24, 1 << 20, &e), &e);
}

static void end(void)
{
    tape_close(&tape);
    lora_close(&lora);
    model_close(&model);
    compute_close(&compute);
    pool_free(&golden_pool);
}

/* ---- forward --------------------------------------------------------------------------------- */

static void check_logp(const Json *sequence, const char *key, const Lora *with)
{
    Packer p = {0};
    Err e;
    int32_t ids[MOST];
    double want[MOST];
    int segment;
    size_t first, count, n = golden_ids(json_get(sequence, "ids"), ids, MOST);
    size_t wanted = golden_numbers(json_get(sequence, key), want, MOST);
    packer_begin(&p);
    CHECK_OK(packer_add_context(&p, -1, ids, 1, &segment, &e), &e);
    CHECK_OK(packer_add_completion(&p, segment, ids + 1, n - 1, &first, &count, &e), &e);
    CHECK_INT(count, wanted);
    tape_reset(&tape);
    tape.record = 0;
    Var *logp = model_logprob(&tape, &model, with, &p.batch, NULL);
    CHECK_OK(tape_check(&tape, &e), &e);
    for (size_t i = 0; i < count; i++) CHECK_NEAR(logp->x[i], want[i], tight * fabs(want[i]));
    packer_free(&p);
}

static void check_logits(const Json *sequence)
{
    Packer p = {0};
    Err e;
    int32_t ids[MOST];
    double want[MOST];
    int segment;
    size_t n = golden_ids(json_get(sequence, "ids"), ids, MOST);
    size_t V = golden_numbers(json_get(sequence, "logits"), want, MOST);
    packer_begin(&p);
    CHECK_OK(packer_add_context(&p, -1, ids, n, &segment, &e), &e);
    uint32_t last = (uint32_t)(n - 1);
    tape_reset(&tape);
    Var *z = model_logits(&tape, &model, &lora, &p.batch, &last, 1);
    CHECK_INT(z->cols, V);
    for (size_t i = 0; i < V; i++) CHECK_NEAR(z->x[i], want[i], tight);
    packer_free(&p);
}

static void forward(const char *name)
{
    begin(name, 0);
    for (const Json *s = json_get(expected, "sequences")->child; s; s = s->next) {
        check_logits(s);
        if (json_get(s, "ids")->len < 2) continue;
        check_logp(s, "logp_base", NULL);
        check_logp(s, "logp_policy", &lora);
    }
    end();
}

static void llama_forward(void)
{
    forward("llama");
}

static void mistral_forward(void)
{
    forward("mistral");
}

/* ---- a DPO micro-batch ----------------------------------------------------------------------- */

typedef struct {
    Packer packer;
    size_t first[PAIRS][2], count[PAIRS][2];
    double reference[PAIRS][2];
    double beta;
    int shared; /* do chosen and rejected share their prompt's rows? */
} Pairs;

static void pack_side(Pairs *b, const Json *pair, size_t i, int side, int prompt)
{
    int32_t ids[MOST];
    Err e;
    size_t n = golden_ids(json_get(pair, side ? "rejected" : "chosen"), ids, MOST);
    CHECK(!packer_add_completion(&b->packer, prompt, ids, n, &b->first[i][side], &b->count[i][side],
                                 &e));
}

static void pack_pairs(Pairs *b, int shared)
{
    const Json *dpo = json_get(expected, "dpo"), *pair = json_get(dpo, "pairs")->child;
    Err e;
    b->beta = golden_number(dpo, "beta");
    packer_begin(&b->packer);
    for (size_t i = 0; i < PAIRS; i++, pair = pair->next) {
        int32_t ids[MOST];
        int prompt;
        size_t n = golden_ids(json_get(pair, "prompt"), ids, MOST);
        for (int side = 0; side < 2; side++) {
            if (side == 0 || !shared)
                CHECK_OK(packer_add_context(&b->packer, -1, ids, n, &prompt, &e), &e);
            pack_side(b, pair, i, side, prompt);
        }
    }
}

static double side_sum(const Pairs *b, const Var *logp, size_t i, int side)
{
    double sum = 0;
    for (size_t t = 0; t < b->count[i][side]; t++) sum += logp->x[b->first[i][side] + t];
    return sum;
}

/* Loss of the pairs; the reference is what `reference` says, computed beforehand. */
static double pairs_loss(const Pairs *b, const Lora *policy, int back)
{
    DpoConfig config = dpo_config_default();
    DpoPair pairs[PAIRS] = {0};
    DpoPairResult result[PAIRS];
    double loss;
    config.beta = b->beta;
    tape_reset(&tape);
    tape.record = back;
    Var *logp = model_logprob(&tape, &model, policy, &b->packer.batch, NULL);
    for (size_t i = 0; i < PAIRS; i++) {
        pairs[i].policy_chosen = side_sum(b, logp, i, 0);
        pairs[i].policy_rejected = side_sum(b, logp, i, 1);
        pairs[i].reference_chosen = b->reference[i][0];
        pairs[i].reference_rejected = b->reference[i][1];
    }
    dpo_loss(&config, pairs, PAIRS, result, NULL, &loss);
    if (!back) return loss;
    static real dlogp[PAIRS * 2 * MOST];
    for (size_t i = 0; i < PAIRS; i++)
        for (int side = 0; side < 2; side++)
            for (size_t t = 0; t < b->count[i][side]; t++)
                dlogp[b->first[i][side] + t] = side ? result[i].d_rejected : result[i].d_chosen;
    tape_backward(&tape, logp, dlogp);
    return loss;
}

static void take_reference(Pairs *b, const Lora *reference)
{
    tape_reset(&tape);
    tape.record = 0;
    Var *logp = model_logprob(&tape, &model, reference, &b->packer.batch, NULL);
    for (size_t i = 0; i < PAIRS; i++)
        for (int side = 0; side < 2; side++) b->reference[i][side] = side_sum(b, logp, i, side);
}

/* One gradient against the float64 tensor "group/name" of expected.safetensors. */
static void check_tensor(const Safetensors *st, const char *group, const char *name,
                         const real *got, size_t n)
{
    char key[256];
    snprintf(key, sizeof key, "%s/%s", group, name);
    const StTensor *t = safetensors_find(st, key);
    CHECK(t && t->count == n);
    if (!t) return;
    double scale = 0;
    for (size_t i = 0; i < n; i++) {
        double want;
        memcpy(&want, t->data + i * sizeof want, sizeof want);
        scale = fmax(scale, fabs(want));
    }
    for (size_t i = 0; i < n; i++) {
        double want;
        memcpy(&want, t->data + i * sizeof want, sizeof want);
        CHECK_NEAR(got[i], want, tight * fmax(1, scale));
    }
}

static void check_adapter(const char *group, int weights)
{
    Safetensors st;
    Err e;
    CHECK_OK(safetensors_open(&st, golden_path(expected_file), 0, &e), &e);
    for (size_t i = 0; i < lora_param_count(&lora); i++) {
        NamedParam p;
        lora_param(&lora, i, &p);
        check_tensor(&st, group, p.name, weights ? p.w : p.d, p.rows * p.cols);
    }
    safetensors_close(&st);
}

static void dpo_gradients(const char *name, int shared, int keep)
{
    Pairs b = {0};
    begin(name, 1);
    tape.keep = keep;
    pack_pairs(&b, shared);
    take_reference(&b, NULL);
    double loss = pairs_loss(&b, &lora, 1);
    CHECK_NEAR(loss, golden_number(json_get(expected, "dpo"), "loss"), tight);
    check_adapter("dpo", 0);
    packer_free(&b.packer);
    end();
}

static void llama_dpo_gradients(void)
{
    dpo_gradients("llama", 1, 1);
    dpo_gradients("llama", 0, 0);
}

static void mistral_dpo_gradients(void)
{
    dpo_gradients("mistral", 1, 0);
    dpo_gradients("mistral", 0, 1);
}

/* Completions that are only looked at: they get the log-probs they get alone, and leave no trace in
 * the gradients, whether activations are kept or computed again. */
static void looked_at(const char *name)
{
    enum { LENGTH = 9 };
    Pairs b = {0};
    Err e;
    int32_t ids[LENGTH];
    size_t first[2], count[2];
    real seen[LENGTH];
    begin(name, 1);
    for (size_t i = 0; i < LENGTH; i++) ids[i] = (int32_t)(rng_u64(8, 1, i) % 37);
    pack_pairs(&b, 1);
    take_reference(&b, NULL);
    pairs_loss(&b, &lora, 1);
    real *alone = malloc(lora.count * sizeof *alone);
    memcpy(alone, lora.gradients, lora.count * sizeof *alone);
    for (int keep = 0; keep < 2; keep++) {
        memset(lora.gradients, 0, lora.count * sizeof(real));
        tape.keep = keep;
        pack_pairs(&b, 1);
        packer_seal(&b.packer);
        for (int k = 0; k < 2; k++) /* behind the prompts of the first two pairs */
            CHECK_OK(packer_add_completion(&b.packer, 3 * k, ids, LENGTH, &first[k], &count[k], &e),
                     &e);
        pairs_loss(&b, &lora, 1);
        CHECK_OK(tape_check(&tape, &e), &e);
        CHECK(!memcmp(alone, lora.gradients, lora.count * sizeof *alone));
    }
    tape_reset(&tape);
    tape.record = 0;
    const Var *logp = model_logprob(&tape, &model, &lora, &b.packer.batch, NULL);
    memcpy(seen, logp->x + first[1], count[1] * sizeof *seen);
    Packer p = {0};
    const Json *pair = json_get(json_get(expected, "dpo"), "pairs")->child->next;
    int32_t prompt[MOST];
    int segment;
    size_t n = golden_ids(json_get(pair, "prompt"), prompt, MOST);
    packer_begin(&p);
    CHECK_OK(packer_add_context(&p, -1, prompt, n, &segment, &e), &e);
    CHECK_OK(packer_add_completion(&p, segment, ids, LENGTH, &first[0], &count[0], &e), &e);
    tape_reset(&tape);
    logp = model_logprob(&tape, &model, &lora, &p.batch, NULL);
    CHECK(count[0] == count[1] && !memcmp(seen, logp->x, count[0] * sizeof *seen));
    free(alone);
    packer_free(&p);
    packer_free(&b.packer);
    end();
}

static void llama_looked_at(void)
{
    looked_at("llama");
}

static void mistral_looked_at(void)
{
    looked_at("mistral");
}

/* ---- all weights ----------------------------------------------------------------------------- */

static void full_gradients(const char *name)
{
    Pairs b = {0};
    Safetensors st;
    Err e;
    begin(name, 0);
    pack_pairs(&b, 1);
    take_reference(&b, &lora);
    CHECK_OK(model_make_trainable(&model, &e), &e);
    double loss = pairs_loss(&b, NULL, 1);
    CHECK_NEAR(loss, golden_number(json_get(expected, "full"), "loss"), tight);
    CHECK_OK(safetensors_open(&st, golden_path(expected_file), 0, &e), &e);
    for (size_t i = 0; i < model_weight_count(&model); i++) {
        NamedParam p;
        model_param(&model, i, &p);
        check_tensor(&st, "full", p.name, p.d, p.rows * p.cols);
    }
    safetensors_close(&st);
    packer_free(&b.packer);
    end();
}

static void llama_full_gradients(void)
{
    full_gradients("llama");
}

static void mistral_full_gradients(void)
{
    full_gradients("mistral");
}

/* ---- ten steps of AdamW ---------------------------------------------------------------------- */

/* Only the pairs [first, first + count) of the pack, as one micro-batch. */
static double half_loss(const Pairs *all, size_t first, size_t count, double share)
{
    Pairs b = {.beta = all->beta};
    const Json *pair = json_get(json_get(expected, "dpo"), "pairs")->child;
    DpoConfig config = dpo_config_default();
    DpoPair pairs[PAIRS] = {0};
    DpoPairResult result[PAIRS];
    Err e;
    double loss;
    config.beta = all->beta;
    packer_begin(&b.packer);
    for (size_t i = 0; i < first + count; i++, pair = pair->next) {
        int32_t ids[MOST];
        int prompt;
        if (i < first) continue;
        size_t n = golden_ids(json_get(pair, "prompt"), ids, MOST);
        CHECK_OK(packer_add_context(&b.packer, -1, ids, n, &prompt, &e), &e);
        for (int side = 0; side < 2; side++) pack_side(&b, pair, i, side, prompt);
    }
    tape_reset(&tape);
    tape.record = 1;
    Var *logp = model_logprob(&tape, &model, &lora, &b.packer.batch, NULL);
    for (size_t i = 0; i < count; i++)
        pairs[i] = (DpoPair){.policy_chosen = side_sum(&b, logp, first + i, 0),
                             .policy_rejected = side_sum(&b, logp, first + i, 1),
                             .reference_chosen = all->reference[first + i][0],
                             .reference_rejected = all->reference[first + i][1]};
    dpo_loss(&config, pairs, count, result, NULL, &loss);
    real dlogp[PAIRS * 2 * MOST] = {0};
    for (size_t i = 0; i < count; i++)
        for (int side = 0; side < 2; side++)
            for (size_t t = 0; t < b.count[first + i][side]; t++)
                dlogp[b.first[first + i][side] + t] =
                    share * (side ? result[i].d_rejected : result[i].d_chosen);
    tape_backward(&tape, logp, dlogp);
    packer_free(&b.packer);
    return loss * share;
}

static void adamw_steps(const char *name)
{
    Pairs b = {0};
    begin(name, 1);
    const Json *a = json_get(expected, "adamw");
    pack_pairs(&b, 1);
    take_reference(&b, NULL);
    real *m = calloc(lora.count, sizeof *m), *v = calloc(lora.count, sizeof *v);
    for (const Json *row = json_get(a, "rows")->child; row; row = row->next) {
        memset(lora.gradients, 0, lora.count * sizeof(real));
        double loss = half_loss(&b, 0, 2, 0.5) + half_loss(&b, 2, 2, 0.5);
        CHECK_NEAR(loss, golden_number(row, "loss"), 1e-9);
        double norm = sqrt(tensor_sum_squares(&compute, lora.gradients, lora.count));
        CHECK_NEAR(norm, golden_number(row, "grad_norm"), 1e-8);
        double clip = golden_number(a, "max_grad_norm") / (norm + 1e-6);
        AdamW step = {.lr = golden_number(row, "learning_rate"),
                      .beta1 = 0.9,
                      .beta2 = 0.999,
                      .eps = 1e-8,
                      .weight_decay = golden_number(a, "weight_decay"),
                      .step = (uint64_t)golden_number(row, "step"),
                      .clip = fmin(1, clip)};
        tensor_adamw(&compute, lora.weights, lora.gradients, m, v, lora.count, &step);
    }
    check_adapter("adamw", 1);
    free(m);
    free(v);
    packer_free(&b.packer);
    end();
}

static void llama_adamw(void)
{
    adamw_steps("llama");
}

static void mistral_adamw(void)
{
    adamw_steps("mistral");
}

/* ---- differences ----------------------------------------------------------------------------- */

/* The whole model along random directions through all adapter weights, signed, B not zero. */
static void differences(const char *name)
{
    enum { DIRECTIONS = 64 };
    const double h = 2e-7; /* a direction moves a thousand weights at once */
    Pairs b = {0};
    begin(name, 1);
    pack_pairs(&b, 1);
    take_reference(&b, NULL);
    pairs_loss(&b, &lora, 1);
    real *at = malloc(lora.count * sizeof *at), *direction = malloc(lora.count * sizeof *at);
    memcpy(at, lora.weights, lora.count * sizeof *at);
    for (uint64_t k = 0; k < DIRECTIONS; k++) {
        double loss[2], analytic = 0;
        for (size_t i = 0; i < lora.count; i++) {
            direction[i] = 2 * rng_unit(11, k, i) - 1;
            analytic += direction[i] * lora.gradients[i];
        }
        for (int side = 0; side < 2; side++) {
            for (size_t i = 0; i < lora.count; i++)
                lora.weights[i] = at[i] + (side ? -h : h) * direction[i];
            loss[side] = pairs_loss(&b, &lora, 0);
        }
        double numeric = (loss[0] - loss[1]) / (2 * h);
        CHECK_NEAR(analytic, numeric, 1e-7 * fmax(1, fabs(numeric)));
    }
    free(at);
    free(direction);
    packer_free(&b.packer);
    end();
}

static void llama_differences(void)
{
    differences("llama");
}

static void mistral_differences(void)
{
    differences("mistral");
}

const Test tests[] = {{"llama_forward", llama_forward},
                      {"mistral_forward", mistral_forward},
                      {"llama_dpo_gradients", llama_dpo_gradients},
                      {"mistral_dpo_gradients", mistral_dpo_gradients},
                      {"llama_looked_at", llama_looked_at},
                      {"mistral_looked_at", mistral_looked_at},
                      {"llama_full_gradients", llama_full_gradients},
                      {"mistral_full_gradients", mistral_full_gradients},
                      {"llama_adamw", llama_adamw},
                      {"mistral_adamw", mistral_adamw},
                      {"llama_differences", llama_differences},
                      {"mistral_differences", mistral_differences}};
TEST_MAIN(tests)
