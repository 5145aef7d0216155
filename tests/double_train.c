/* double_train.c - the gradient of a whole micro-batch in double: rows, packing, shared prompts,
 * sums, losses and the walk back together, against central differences of the loss. */
#include "tiny.h"
#include "test.h"
#include "train_parts.h"

#include <math.h>

static Err err;
static const char *model;
static char pairs[IO_PATH_MAX], labelled[IO_PATH_MAX], run_path[IO_PATH_MAX];

static TrainConfig config(TrainMethod method)
{
    TrainConfig c = train_config_default(method);
    c.model = model;
    c.data = method == TRAIN_KTO ? labelled : pairs;
    c.run = run_path;
    c.lora.rank = 3;
    c.lora.targets |= 1u << TARGET_HEAD;
    c.batch = 3;
    c.kernel = "ref";
    if (method == TRAIN_SFT) c.rows.map = "completion=chosen";
    return c;
}

static uint64_t b_seed = 3;
static double b_width = 0.2;

/* A run up to its first step, with numbers in B that are not zero. */
static Run *begin(const TrainConfig *c)
{
    static const TrainEvents silent;
    Run *r = mem_calloc(1, sizeof *r, &err);
    r->c = *c;
    r->events = &silent;
    io_remove_tree(run_path, &err);
    if (io_make_directory(run_path, 0, &err) || run_open(r, &err))
        printf("%s\n", err.text), exit(1);
    r->epoch_batches = run_batch_count(r, r->train.rows.count);
    r->epoch_steps = r->epoch_batches;
    r->steps = r->epoch_steps;
    unsigned char *needed = mem_calloc(r->train.rows.count, 1, &err);
    if (plan_run(r, needed, &err) ||
        (c->method != TRAIN_SFT && reference_prepare(r, &r->train, NULL, "reference.jsonl", &err)))
        printf("%s\n", err.text), exit(1);
    mem_free(needed);
    r->starts_equal = 0;
    for (size_t i = 0; i < r->params.n && !c->full; i++) {
        TrainParam *p = &r->params.list[i];
        if (!strstr(p->p.name, "lora_B")) continue;
        for (size_t j = 0; j < p->count; j++)
            p->p.w[j] = (real)(b_width * (rng_unit(b_seed, RNG_SAMPLE, p->at + j) - 0.5));
    }
    return r;
}

static double loss_of(Run *r, const uint32_t *rows, size_t n)
{
    Metrics ignored = {0};
    double loss;
    if (run_micro_batch(r, &r->train, rows, n, 0, 0, &ignored, &loss, &err))
        printf("%s\n", err.text), exit(1);
    return loss;
}

/* w += h direction, the direction being random in every number of every parameter. */
static void move(Run *r, uint64_t direction, double h)
{
    for (size_t i = 0; i < r->params.n; i++) {
        TrainParam *p = &r->params.list[i];
        for (size_t j = 0; j < p->count; j++)
            p->p.w[j] += (real)(h * (2 * rng_unit(direction, RNG_SPLIT, p->at + j) - 1));
    }
}

static double along(const Run *r, uint64_t direction)
{
    double sum = 0;
    for (size_t i = 0; i < r->params.n; i++) {
        const TrainParam *p = &r->params.list[i];
        for (size_t j = 0; j < p->count; j++)
            sum += (double)p->p.d[j] * (2 * rng_unit(direction, RNG_SPLIT, p->at + j) - 1);
    }
    return sum;
}

/* Largest value of the gradient of one parameter, against the difference quotient there. */
static void check_coordinates(Run *r, const uint32_t *rows, size_t n)
{
    const double h = 1e-4;
    for (size_t i = 0; i < r->params.n; i += 3) {
        TrainParam *p = &r->params.list[i];
        size_t most = 0;
        for (size_t j = 1; j < p->count; j++)
            if (fabs((double)p->p.d[j]) > fabs((double)p->p.d[most])) most = j;
        real before = p->p.w[most];
        p->p.w[most] = before + (real)h;
        double up = loss_of(r, rows, n);
        p->p.w[most] = before - (real)h;
        double down = loss_of(r, rows, n);
        p->p.w[most] = before;
        double g = (double)p->p.d[most];
        CHECK(fabs(g) > 0);
        CHECK_NEAR((up - down) / (2 * h), g, 1e-7 + 1e-6 * fabs(g));
    }
}

/* Gradients of micro-batch 1 (rows 3, 4, 5): directions, the largest coordinates, and half of it.
 */
static void check_gradient(TrainConfig c)
{
    const double h = 1e-6; /* small: a direction moves two thousand numbers at once */
    Run *r = begin(&c);
    const uint32_t rows[] = {3, 4, 5};
    Metrics metrics = {0};
    double loss;
    params_zero_gradients(&r->params);
    CHECK_OK(run_micro_batch(r, &r->train, rows, 3, 1, 0, &metrics, &loss, &err), &err);
    CHECK_NEAR(loss, loss_of(r, rows, 3), 0);
    for (uint64_t direction = 1; direction <= 4; direction++) {
        move(r, direction, h);
        double up = loss_of(r, rows, 3);
        move(r, direction, -2 * h);
        double down = loss_of(r, rows, 3);
        move(r, direction, h);
        double g = along(r, direction);
        CHECK_NEAR((up - down) / (2 * h), g, 1e-6 * fabs(g) + 1e-7);
    }
    check_coordinates(r, rows, 3);
    double whole = along(r, 1);
    CHECK_OK(run_micro_batch(r, &r->train, rows, 3, 0.5, 1, &metrics, &loss, &err), &err);
    CHECK_NEAR(along(r, 1), 1.5 * whole, 1e-9 * fabs(whole));
    run_free(r);
}

static void dpo_sigmoid(void)
{
    check_gradient(config(TRAIN_DPO));
}

static void dpo_desensitised(void)
{
    TrainConfig c = config(TRAIN_DPO);
    c.dpo.ld_alpha = 0.3;
    check_gradient(c);
}

/* Preference, quality and the sft term: gradients of all three meet in a token. */
static void dpo_mixed(void)
{
    TrainConfig c = config(TRAIN_DPO);
    c.dpo.n_losses = 3;
    c.dpo.loss[0] = DPO_SIGMOID_NORM, c.dpo.weight[0] = 0.8;
    c.dpo.loss[1] = DPO_BCO_PAIR, c.dpo.weight[1] = 0.2;
    c.dpo.loss[2] = DPO_SFT, c.dpo.weight[2] = 1;
    c.dpo.ld_alpha = 0.5;
    check_gradient(c);
}

static void dpo_recomputed(void)
{
    TrainConfig c = config(TRAIN_DPO);
    c.memory = 1; /* never enough: activations are recomputed */
    c.force = 1;
    check_gradient(c);
}

static void kto_unpaired(void)
{
    TrainConfig c = config(TRAIN_KTO);
    c.kto.loss = KTO_APO_ZERO_UNPAIRED;
    c.kto.desirable_weight = 1.5;
    check_gradient(c);
}

static void sft(void)
{
    check_gradient(config(TRAIN_SFT));
}

static void sft_full(void)
{
    TrainConfig c = config(TRAIN_SFT);
    c.full = 1;
    check_gradient(c);
}

/* No gradient flows through z0: against differences of the loss with z0 held where it is. */
static void kto_held_kl(void)
{
    const double h = 1e-6;
    TrainConfig c = config(TRAIN_KTO);
    c.kto.beta = 0.3;
    c.batch = 6;
    b_width = 0.01;
    b_seed = 4; /* a draw that makes the partners' completions more likely */
    Run *r = begin(&c);
    const uint32_t rows[] = {0, 1, 2, 3, 4, 5};
    Metrics metrics = {0};
    double loss, kl, sides[2];
    params_zero_gradients(&r->params);
    CHECK_OK(run_micro_batch(r, &r->train, rows, 6, 1, 0, &metrics, &loss, &err), &err);
    kl = metrics_mean(&metrics, METRIC_KL);
    CHECK(kl > 0);
    for (int side = 0; side < 2; side++) {
        KtoResult results[6];
        move(r, 9, side ? -2 * h : h);
        loss_of(r, rows, 6); /* fills r->kto_rows */
        kto_loss(&r->c.kto, r->kto_rows, 6, kl, results, &sides[side]);
    }
    move(r, 9, h);
    double g = along(r, 9);
    CHECK(fabs(g) > 1e-3);
    CHECK_NEAR((sides[0] - sides[1]) / (2 * h), g, 1e-6 * fabs(g));
    run_free(r);
}

static const Test tests[] = {
    {"dpo_sigmoid", dpo_sigmoid},
    {"dpo_desensitised", dpo_desensitised},
    {"dpo_mixed", dpo_mixed},
    {"dpo_recomputed", dpo_recomputed},
    {"kto_unpaired", kto_unpaired},
    {"kto_held_kl", kto_held_kl},
    {"sft", sft},
    {"sft_full", sft_full},
};

int main(int argc, char **argv)
{
    Text p = {0}, k = {0};
    files_begin();
    threads_set(1);
    model = tiny_model("tiny");
    for (int i = 0; i < 6; i++) {
        text_addf(&p, &err,
                  "{\"prompt\":\"Q%d: the\",\"chosen\":\" sky is %d\",\"rejected\":\" no%.*s\"}\n",
                  i, 3 * i, 2 * i, " way, never.");
        text_addf(&k, &err, "{\"prompt\":\"Q%d\",\"completion\":\" it is %d\",\"label\":%d}\n", i,
                  5 * i, i % 2);
    }
    files_write("pairs.jsonl", p.data, p.len);
    files_write("labelled.jsonl", k.data, k.len);
    snprintf(pairs, sizeof pairs, "%s", files_path("pairs.jsonl"));
    snprintf(labelled, sizeof labelled, "%s", files_path("labelled.jsonl"));
    snprintf(run_path, sizeof run_path, "%s", files_path("run"));
    text_free(&p);
    text_free(&k);
    int status = test_main(tests, sizeof tests / sizeof *tests, argc, argv);
    files_end();
    return status;
}
