/* test_train.c - training as a whole, on a tiny model: what a step computes, what a run leaves
 * behind, and that stopping, resuming, threads and memory change no bit of it. */
#include "train.h"

#include "tiny.h"
#include "test.h"
#include "train_parts.h"

#include <math.h>
#include <signal.h>
#include <sys/wait.h>

static Err err;
static const char *model;
static char pairs[IO_PATH_MAX], labelled[IO_PATH_MAX], run_path[IO_PATH_MAX];
static char long_pairs[IO_PATH_MAX], long_labelled[IO_PATH_MAX];

/* ---- what a run says ----------------------------------------------------------------------- */

static Text lines; /* metrics.jsonl as it was told */
static char notes[8192];
static size_t stop_after; /* ask to stop at this many lines; 0 = never */
static size_t lines_told;

static void take_line(void *ctx, const char *line, size_t len)
{
    (void)ctx;
    text_add(&lines, line, len, &err);
    text_add(&lines, "\n", 1, &err);
    if (++lines_told == stop_after) stop_requested = 1;
}

static void take_note(void *ctx, char level, const char *text)
{
    size_t used = strlen(notes);
    (void)ctx;
    snprintf(notes + used, sizeof notes - used, "%c %s\n", level, text);
}

static const TrainEvents events = {.log = {NULL, take_note}, .metrics = take_line};
static TrainResult result;

static int train(const TrainConfig *c)
{
    err = (Err){0};
    lines.len = lines_told = 0;
    notes[0] = 0;
    stop_requested = 0;
    int status = train_run(c, &events, &result, &err);
    stop_requested = 0;
    if (status && err.code == ERR_INTERNAL) printf("  %s\n", err.text);
    uint64_t planned = result.plan.activations + result.plan.head;
    CHECK(result.used <= planned);
    /* A whole run has made every pass of the plan. */
    if (!status && !c->dry_run && !c->resume && !result.skipped) CHECK_INT(result.used, planned);
    return status;
}

/* A small run of either method into run_path, which is emptied. */
static TrainConfig small(TrainMethod method)
{
    TrainConfig c = train_config_default(method);
    CHECK_OK(io_remove_tree(run_path, &err), &err);
    c.model = model;
    c.data = method == TRAIN_KTO ? labelled : pairs;
    c.run = run_path;
    c.lora.rank = 4;
    c.lora.alpha = 8;
    c.batch = 2;
    c.accumulate = 2;
    c.epochs = 2;
    c.lr = 1e-2;
    c.warmup = 1;
    c.weight_decay = 0.01;
    if (method == TRAIN_SFT) c.rows.map = "completion=chosen";
    return c;
}

/* With dropout, an adapter on every map and prompts that are long beside their completions, so that
 * layers need more memory than the head. */
static TrainConfig dropping(TrainMethod method)
{
    TrainConfig c = small(method);
    c.data = method == TRAIN_KTO ? long_labelled : long_pairs;
    c.lora.dropout = 0.2;
    c.lora.targets |= 1u << TARGET_HEAD;
    return c;
}

static const char *in_run(const char *name)
{
    static char path[4][IO_PATH_MAX + 512];
    static int turn;
    char *p = path[turn++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", run_path, name);
    return p;
}

static int exists(const char *name)
{
    return io_exists(in_run(name));
}

/* SHA-256 of a file of the run; "" where there is none. */
static const char *hash_of(const char *name)
{
    static char hash[4][65];
    static int turn;
    char *h = hash[turn++ % 4];
    Err e;
    if (sha256_file(in_run(name), h, &e)) h[0] = 0;
    return h;
}

/* The numbers of metrics.jsonl without what a clock says: "seconds" and all after it are last. */
static char *timeless_metrics(void)
{
    size_t len;
    char *text = files_read(in_run("metrics.jsonl"), &len), *to = text;
    for (char *line = text; *line;) {
        char *end = strchr(line, '\n'), *clock = strstr(line, ",\"seconds\"");
        size_t n = (size_t)((clock && clock < end ? clock : end) - line);
        memmove(to, line, n);
        to += n;
        *to++ = '\n';
        line = end + 1;
    }
    *to = 0;
    return text;
}

/* Value of a key in line n (from 0) of what was told; NAN where it is not there. */
static double metric(size_t n, const char *key)
{
    char pattern[64];
    const char *at = lines.data;
    for (; n > 0 && at; n--) {
        at = strchr(at, '\n');
        if (at) at++;
    }
    snprintf(pattern, sizeof pattern, "\"%s\":", key);
    const char *end = at ? strchr(at, '\n') : NULL, *found = at ? strstr(at, pattern) : NULL;
    if (!found || !end || found > end) return NAN;
    return strtod(found + strlen(pattern), NULL);
}

/* ---- formulas ------------------------------------------------------------------------------ */

/* Learning rates that transformers 5.23.0 logs. */
static void schedules(void)
{
    TrainConfig c = train_config_default(TRAIN_DPO);
    c.lr = 1;
    c.warmup = 1;
    static const double linear[] = {0, 1, 2.0 / 3, 1.0 / 3};
    for (size_t k = 0; k < 4; k++) CHECK_NEAR(train_learning_rate(&c, k, 4), linear[k], 1e-15);
    c.schedule = SCHEDULE_COSINE;
    c.warmup = 0.3; /* of 6 steps: 2 */
    static const double cosine[] = {0, .5, 1, .853553, .5, .146447};
    for (size_t k = 0; k < 6; k++) CHECK_NEAR(train_learning_rate(&c, k, 6), cosine[k], 5e-7);
    c.schedule = SCHEDULE_CONSTANT;
    c.warmup = 4;
    CHECK_NEAR(train_learning_rate(&c, 3, 9), 0.75, 0);
    CHECK_NEAR(train_learning_rate(&c, 8, 9), 1, 0);
    c.warmup = 0;
    CHECK_NEAR(train_learning_rate(&c, 0, 9), 1, 0);
}

/* Windows, epochs and the lonely last row. */
static void windows(void)
{
    Run r = {.c = train_config_default(TRAIN_DPO)};
    size_t first;
    r.c.batch = 2;
    r.c.accumulate = 2;
    CHECK_INT(run_batch_count(&r, 7), 4);
    CHECK_INT(run_batch_size(&r, 7, 3, &first), 1);
    CHECK_INT(first, 6);
    r.epoch_batches = 3;
    r.epoch_steps = 2;
    CHECK_INT(run_window(&r, 0), 2);
    CHECK_INT(run_window(&r, 1), 1);
    CHECK_INT(run_window(&r, 2), 2);
    r.c.method = TRAIN_KTO;
    CHECK_INT(run_batch_count(&r, 7), 3);
    CHECK_INT(run_batch_size(&r, 7, 2, &first), 3);
    CHECK_INT(first, 4);
    CHECK_INT(run_batch_count(&r, 8), 4);
    CHECK_INT(run_batch_size(&r, 8, 3, &first), 2);
    r.c.kl_pairing = KTO_TRL;
    CHECK_INT(run_batch_count(&r, 7), 4);
    CHECK_INT(run_batch_size(&r, 7, 3, &first), 1);
    r.c.kto.loss = KTO_APO_ZERO_UNPAIRED;
    r.c.kl_pairing = KTO_DISTINCT;
    CHECK_INT(run_batch_count(&r, 7), 4);
}

static void configurations(void)
{
    struct {
        TrainConfig c;
        const char *part;
    } cases[12];
    size_t n = 0;
    for (; n < sizeof cases / sizeof *cases; n++) cases[n].c = small(TRAIN_DPO);
    n = 0;
    cases[n].c.lr = -1, cases[n++].part = "--lr";
    cases[n].c.lr = NAN, cases[n++].part = "--lr";
    cases[n].c.dpo.beta = 0, cases[n++].part = "--beta";
    cases[n].c.lora.rank = 0, cases[n++].part = "--rank";
    cases[n].c.batch = 0, cases[n++].part = "--batch";
    cases[n].c.epochs = 0, cases[n++].part = "--epochs";
    cases[n].c.dpo.ld_alpha = 2, cases[n++].part = "--ld-alpha";
    cases[n].c.eval_every = 1, cases[n++].part = "--eval";
    cases[n].c.full = 1, cases[n].c.init_adapter = "x", cases[n++].part = "--full";
    cases[n].c = small(TRAIN_KTO), cases[n].c.batch = 1, cases[n++].part = "--batch";
    cases[n].c = small(TRAIN_KTO), cases[n].c.full = 1, cases[n].c.kl_pairing = KTO_HALOS,
    cases[n++].part = "halos";
    cases[n].c.run = NULL, cases[n++].part = "-o";
    for (size_t i = 0; i < n; i++) {
        CHECK(train_config_check(&cases[i].c, &err));
        CHECK_ERR(err, ERR_USAGE, cases[i].part);
    }
    CHECK(train(&cases[0].c) && err.code == ERR_USAGE && !io_exists(run_path));
}

/* Another value than the default, into the field of a row. */
static void change(const Option *row, void *settings)
{
    void *field = (char *)settings + row->at;
    if (row->holds == HOLDS_FORM) row->form->read(field, row->words ? row->words(1) : "2");
    if (row->holds == HOLDS_INT) *(int *)field ^= 1;
    if (row->holds == HOLDS_UNSIGNED) *(unsigned *)field ^= 1;
    if (row->holds == HOLDS_ULONG) *(unsigned long *)field += 1;
    if (row->holds == HOLDS_ULLONG) *(unsigned long long *)field += 1;
    if (row->holds == HOLDS_DOUBLE) *(double *)field += 0.25;
    if (row->holds == HOLDS_TEXT) *(const char **)field = "another";
}

/* Does config.json of some method tell whether the row's value is the default? */
static int is_recorded(const Option *row, size_t at)
{
    int told = 0;
    for (int m = TRAIN_DPO; m <= TRAIN_SFT; m++) {
        Text usual = {0}, other = {0};
        TrainConfig c = train_config_default((TrainMethod)m);
        c.eval = "eval.jsonl";
        CHECK_OK(train_config_json(&c, &usual, &err), &err);
        change(row, (char *)&c + at);
        CHECK_OK(train_config_json(&c, &other, &err), &err);
        told |= strcmp(usual.data, other.data) != 0;
        text_free(&usual);
        text_free(&other);
    }
    return told;
}

/* What may not differ when a run is resumed is compared with config.json: it must stand there. */
static void every_option_that_decides_is_in_config_json(void)
{
    const OptionGroup *g;
    size_t at, rows = 0;
    for (size_t i = 0; (g = train_config_part(i, &at)); i++)
        for (size_t k = 0; k < g->count; k++) {
            const Option *row = &g->rows[k];
            if (row->holds == HOLDS_NOTHING || row->free) continue;
            int recorded = is_recorded(row, at);
            if (!recorded) printf("  --%s\n", row->name);
            CHECK(recorded);
            rows++;
        }
    CHECK(rows > 30);
    static const char *const free_keys[] = {"model",     "data",       "eval", "init-adapter",
                                            "reference", "save-every", "keep", "kernel"};
    for (size_t i = 0; i < sizeof free_keys / sizeof *free_keys; i++)
        CHECK(train_config_free(free_keys[i]));
    CHECK(!train_config_free("lr") && !train_config_free("precision") && !train_config_free("?"));
}

/* ---- whole runs ---------------------------------------------------------------------------- */

/* Step 1 has lr 0 (warm-up) and B = 0, so step 2 still has margin 0: ln 2 to the bit. */
static void dpo_run(void)
{
    TrainConfig c = small(TRAIN_DPO);
    CHECK(!train(&c));
    CHECK_INT(result.steps, 4);
    CHECK_INT(lines_told, 4);
    CHECK_INT(result.skipped, 0);
    for (size_t i = 0; i < 2; i++) {
        CHECK_NEAR(metric(i, "loss"), 0.69314718055994531, 1e-15);
        CHECK(metric(i, "rewards/margins") == 0);
        CHECK(metric(i, "rewards/accuracies") == 0);
    }
    CHECK(metric(0, "learning_rate") == 0 && metric(1, "learning_rate") == 1e-2);
    CHECK(metric(3, "loss") < 0.6 && metric(3, "rewards/margins") > 0.1);
    CHECK(metric(0, "epoch") == 0.5 && metric(1, "epoch") == 1 && metric(3, "epoch") == 2);
    CHECK(metric(3, "step") == 4 && metric(0, "grad_norm") > 0);
    CHECK_NEAR(metric(2, "rewards/margins"),
               metric(2, "rewards/chosen") - metric(2, "rewards/rejected"), 1e-12);
    CHECK(isnan(metric(0, "kl")));
    CHECK(exists("adapter/adapter_model.safetensors") && exists("adapter/adapter_config.json"));
    CHECK(exists("config.json") && exists("inputs.json") && exists("metrics.jsonl"));
    CHECK(exists("checkpoints/step-00000004/manifest.json") && !exists("LOCK"));
    CHECK_TEXT(hash_of("adapter/adapter_model.safetensors"),
               hash_of("checkpoints/step-00000004/adapter_model.safetensors"));
}

/* An adapter on the head, too; bf16 operands: at step 0 policy and reference are equal all the same
 * (a run that finds them apart stops with ERR_INTERNAL). */
static void equal_starts(void)
{
    for (int i = 0; i < 12; i++) {
        TrainConfig c = small(i % 4 < 2 ? TRAIN_DPO : TRAIN_KTO);
        if (i % 2) c.precision = PRECISION_BF16;
        c.lora.dora = i >= 4; /* its sizes begin as the lengths of the rows, to the bit */
        if (i < 8) c.lora.targets |= 1u << TARGET_HEAD;
        if (i < 4 || i >= 8) c.lora.dropout = 0.2;
        CHECK(!train(&c));
        CHECK_NEAR(metric(0, "loss"), i % 4 < 2 ? 0.69314718055994531 : 0.5, 1e-15);
        CHECK(metric(0, "rewards/margins") == 0);
    }
    TrainConfig c = dropping(TRAIN_DPO);
    c.lora.dora = 1;
    CHECK_INT(train(&c), -1);
    CHECK_ERR(err, ERR_USAGE, "--dropout does not act on lm_head with DoRA");
}

/* Running total of prompt and completion tokens, both sides. */
static void token_counts(void)
{
    TrainConfig c = small(TRAIN_DPO);
    Tokenizer *t = tokenizer_load(model, NULL, &err);
    DataOptions o = {.kind = DATA_PAIRS, .append_eos = 1};
    Dataset d;
    size_t tokens = 0;
    CHECK(t && !data_load(&d, pairs, &o, t, NULL, &err));
    for (size_t i = 0; i < d.count; i++)
        tokens += 2 * d.rows[i].n_prompt + d.rows[i].n_completion[0] + d.rows[i].n_completion[1];
    CHECK(!train(&c));
    CHECK(metric(1, "num_tokens") == (double)tokens &&
          metric(3, "num_tokens") == 2.0 * (double)tokens);
    data_close(&d);
    tokenizer_free(t);
}

static void kto_run(void)
{
    TrainConfig c = small(TRAIN_KTO);
    c.kto.desirable_weight = 1.5;
    CHECK(!train(&c));
    CHECK_INT(result.steps, 4); /* 7 rows, batches of 2, 2, 3: 2 windows */
    CHECK(metric(0, "kl") == 0 && metric(0, "loss") > 0.5 && metric(0, "loss") < 0.75);
    CHECK(metric(3, "loss") < metric(0, "loss"));
    CHECK(isnan(metric(0, "rewards/accuracies")));
    CHECK_HAS(notes, "desirable");
    c = small(TRAIN_KTO);
    c.kto.auto_desirable = c.kto.auto_undesirable = 1;
    CHECK(!train(&c)); /* 4 desirable, 3 undesirable rows */
    CHECK_HAS(notes, "class weights: desirable 1, undesirable 1.33333");
    c = small(TRAIN_KTO);
    c.kto.loss = KTO_APO_ZERO_UNPAIRED;
    c.batch = 1;
    CHECK(!train(&c));
    CHECK(metric(3, "kl") == 0 || isnan(metric(3, "kl")));
}

/* A last single row under TRL's pairing is its own partner, and that is said. */
static void kto_pairings(void)
{
    TrainConfig c = small(TRAIN_KTO);
    c.order = ORDER_TRL;
    c.kl_pairing = KTO_TRL;
    CHECK(!train(&c));
    CHECK_HAS(notes, "pairs it with itself");
    char *distinct, *halos;
    c = small(TRAIN_KTO);
    CHECK(!train(&c));
    distinct = timeless_metrics();
    c = small(TRAIN_KTO);
    c.kl_pairing = KTO_HALOS;
    CHECK(!train(&c));
    CHECK(metric(0, "kl") == 0 && metric(3, "loss") < 0.5);
    halos = timeless_metrics();
    CHECK(strcmp(distinct, halos) != 0);
    mem_free(distinct);
    mem_free(halos);
}

/* A micro-batch of one class has the keys of that class only. */
static void absent_classes(void)
{
    TrainConfig c = small(TRAIN_KTO);
    c.order = ORDER_FILE;
    c.accumulate = 1;
    CHECK(!train(&c)); /* rows: + + - - + - + */
    CHECK(!isnan(metric(0, "rewards/chosen")) && isnan(metric(0, "rewards/rejected")));
    CHECK(isnan(metric(0, "rewards/margins")) && !isnan(metric(0, "logps/chosen")));
    CHECK(isnan(metric(1, "rewards/chosen")) && !isnan(metric(1, "logps/rejected")));
    CHECK(!isnan(metric(2, "rewards/margins")));
}

static void sft_run(void)
{
    TrainConfig c = small(TRAIN_SFT);
    CHECK(!train(&c));
    CHECK(metric(3, "loss") < metric(0, "loss") && isnan(metric(0, "rewards/chosen")));
    CHECK(!exists("reference.jsonl"));
    c = small(TRAIN_SFT);
    c.full = 1;
    c.lr = 3e-3;
    CHECK(!train(&c));
    CHECK(metric(3, "loss") < metric(0, "loss") && exists("model/model.safetensors"));
    CHECK(!exists("adapter"));
    /* The trained model is a model. */
    char trained[IO_PATH_MAX];
    snprintf(trained, sizeof trained, "%s", files_path("trained"));
    CHECK_OK(io_rename(in_run("model"), trained, &err), &err);
    double last = metric(3, "loss");
    c = small(TRAIN_SFT);
    c.model = trained;
    CHECK(!train(&c));
    CHECK(metric(0, "loss") < last + 0.5);
}

/* A token weighs the same however the rows of a step are cut into micro-batches, and in a last
 * window that is shorter: of 7 rows, steps of 4 and 3. */
static void sft_accumulates_tokens(void)
{
    static const struct {
        size_t batch, accumulate;
    } cuts[] = {{4, 1}, {2, 2}, {1, 4}};
    double loss[4] = {0}, norm[4] = {0};
    for (size_t i = 0; i < 3; i++) {
        TrainConfig c = small(TRAIN_SFT);
        c.batch = cuts[i].batch;
        c.accumulate = cuts[i].accumulate;
        c.max_grad_norm = 0;
        CHECK(!train(&c));
        for (size_t k = 0; k < 4; k++) {
            if (i == 0) loss[k] = metric(k, "loss"), norm[k] = metric(k, "grad_norm");
            CHECK_NEAR(metric(k, "loss"), loss[k], 1e-6 * loss[k]);
            CHECK_NEAR(metric(k, "grad_norm"), norm[k], 1e-5 * norm[k]);
        }
    }
}

/* Weight decay is for matrices: with gradients of 0 a step is w -= lr wd w, and norms stay. */
static void decay_groups(void)
{
    TrainConfig c = small(TRAIN_SFT);
    Run *r = mem_calloc(1, sizeof *r, &err);
    size_t norms = 0;
    r->c = c;
    r->c.full = 1;
    r->c.weight_decay = 0.5;
    r->events = &events;
    CHECK_OK(run_open(r, &err), &err);
    real *before = mem_alloc(r->params.count * sizeof *before, &err);
    for (size_t i = 0; i < r->params.n; i++) {
        const TrainParam *p = &r->params.list[i];
        memcpy(before + p->at, p->p.w, p->count * sizeof *before);
    }
    params_zero_gradients(&r->params);
    params_update(r, 0.25, params_gradient_norm(r));
    for (size_t i = 0; i < r->params.n; i++) {
        const TrainParam *p = &r->params.list[i];
        int is_norm = p->p.cols == 1 || p->p.rows == 1 || strstr(p->p.name, "norm") != NULL;
        norms += (size_t)is_norm;
        for (size_t j = 0; j < p->count; j++) {
            double w = (double)before[p->at + j];
            CHECK_NEAR((double)p->p.w[j], is_norm ? w : 0.875 * w, is_norm ? 0 : 1e-7);
        }
    }
    CHECK_INT(norms, 2 * TINY_LAYERS + 1);
    CHECK_INT(r->params.n, norms + 7 * TINY_LAYERS + 2);
    mem_free(before);
    run_free(r);
}

/* A bound that is never reached is no bound; one that is scales the whole gradient. */
static void clipping(void)
{
    char hash[3][65];
    static const double bounds[] = {0, 1e9, 1e-4};
    for (size_t i = 0; i < 3; i++) {
        TrainConfig c = small(TRAIN_DPO);
        c.max_grad_norm = bounds[i];
        c.adam_eps = 1e-2; /* so that the size of the gradient matters */
        CHECK(!train(&c));
        snprintf(hash[i], sizeof hash[i], "%s", hash_of("adapter/adapter_model.safetensors"));
        if (i == 2)
            CHECK(metric(3, "loss") > 0.68); /* it hardly moved */
        else
            CHECK(metric(3, "loss") < 0.68);
    }
    CHECK_TEXT(hash[0], hash[1]);
    CHECK(strcmp(hash[0], hash[2]) != 0);
}

/* One pair over and over: the margin only grows, the loss goes to nothing. */
static void overfit(void)
{
    static const char row[] =
        "{\"prompt\":\"the sky is\",\"chosen\":\" blue\",\"rejected\":\" red\"}\n";
    files_write("one.jsonl", row, sizeof row - 1);
    TrainConfig c = small(TRAIN_DPO);
    c.data = files_path("one.jsonl");
    c.batch = c.accumulate = 1;
    c.steps = 50;
    c.schedule = SCHEDULE_CONSTANT;
    c.warmup = 0;
    CHECK(!train(&c));
    CHECK(!strstr(notes, "reward margin has been"));
    for (size_t i = 1; i < 50; i++)
        CHECK(metric(i, "rewards/margins") > metric(i - 1, "rewards/margins"));
    CHECK(metric(49, "loss") < 0.1);
}

/* Micro-batches of one pair, four of them, are a batch of four: the loss is a mean of means. */
static void accumulation(void)
{
    double norm[2], loss[2];
    for (int i = 0; i < 2; i++) {
        TrainConfig c = small(TRAIN_DPO);
        c.order = ORDER_FILE;
        c.warmup = 0;
        c.batch = i ? 4 : 1;
        c.accumulate = i ? 1 : 4;
        CHECK(!train(&c));
        norm[i] = metric(2, "grad_norm");
        loss[i] = metric(3, "loss");
    }
    CHECK_NEAR(norm[0], norm[1], 1e-5);
    CHECK_NEAR(loss[0], loss[1], 1e-6);
}

/* eval_loss is a mean over rows, the other keys over batches. */
static void evaluation(void)
{
    double by_one[2] = {NAN, NAN};
    for (size_t batch = 1; batch <= 3; batch += 2) {
        TrainConfig c = small(TRAIN_DPO);
        c.eval = pairs;
        c.eval_every = 1;
        c.batch = 1;
        c.accumulate = 4;
        c.steps = 3;
        c.order = ORDER_FILE;
        if (batch == 3) c.batch = 3, c.accumulate = 1, c.steps = 1;
        CHECK(!train(&c));
        if (batch == 3)
            CHECK_NEAR(metric(0, "eval_loss"), 0.69314718055994531, 1e-15);
        else
            by_one[0] = metric(2, "eval_loss"), by_one[1] = metric(1, "eval_rewards/margins");
    }
    CHECK(by_one[0] < 0.69 && by_one[1] > 0);
    CHECK_HAS(notes, "7 of the 7 rows");
    CHECK_NEAR(result.eval_loss, 0.69314718055994531, 1e-15);
}

/* Lines of several steps: means over all their micro-batches. */
static void sparse_log(void)
{
    TrainConfig c = small(TRAIN_DPO);
    CHECK(!train(&c));
    double loss = (metric(2, "loss") + metric(3, "loss")) / 2;
    double margin = (metric(2, "rewards/margins") + metric(3, "rewards/margins")) / 2;
    double norm = metric(3, "grad_norm");
    c = small(TRAIN_DPO);
    c.log_every = 2;
    CHECK(!train(&c));
    CHECK_INT(lines_told, 2);
    CHECK(metric(1, "step") == 4);
    CHECK_NEAR(metric(1, "loss"), loss, 1e-15);
    CHECK_NEAR(metric(1, "rewards/margins"), margin, 1e-15);
    CHECK(metric(1, "grad_norm") == norm);
}

/* The gradient of the first step, before clipping: its length is the grad_norm of that step. */
static void dumped_gradients(void)
{
    TrainConfig c = small(TRAIN_DPO);
    c.dump_gradients = files_path("gradients.safetensors");
    c.max_grad_norm = 1e-3;
    CHECK(!train(&c));
    Safetensors s;
    CHECK_OK(safetensors_open(&s, c.dump_gradients, 0, &err), &err);
    double sum = 0;
    for (size_t i = 0; i < s.count; i++)
        for (size_t j = 0; j < s.tensors[i].count; j++) {
            float g;
            memcpy(&g, s.tensors[i].data + 4 * j, sizeof g);
            sum += (double)g * (double)g;
            if (strstr(s.tensors[i].name, "lora_A")) CHECK(g == 0); /* B is 0 */
        }
    CHECK_INT(s.count, 2 * 7 * TINY_LAYERS);
    CHECK_NEAR(sqrt(sum), metric(0, "grad_norm"), 1e-6);
    safetensors_close(&s);
}

static int file_says(const char *name, const char *part)
{
    size_t len;
    char *text = files_read(in_run(name), &len);
    int says = strstr(text, part) != NULL;
    mem_free(text);
    return says;
}

/* Without --reference, TRL's rule: a run that begins with an adapter is held to it, any other to
 * the base; config.json says which it was. */
static void reference_auto(void)
{
    char adapter[IO_PATH_MAX];
    TrainConfig c = small(TRAIN_DPO);
    CHECK(!train(&c));
    CHECK(file_says("config.json", "\"reference\": \"base\""));
    snprintf(adapter, sizeof adapter, "%s", files_path("adapter-auto"));
    CHECK_OK(io_rename(in_run("adapter"), adapter, &err), &err);
    c = small(TRAIN_DPO);
    c.init_adapter = adapter;
    CHECK(!train(&c));
    CHECK(metric(0, "rewards/margins") == 0);
    CHECK_NEAR(metric(0, "loss"), 0.69314718055994531, 1e-15);
    CHECK(file_says("config.json", "\"reference\": \"init\""));
    c = small(TRAIN_KTO);
    c.init_adapter = adapter;
    CHECK(!train(&c));
    CHECK(metric(0, "loss") == 0.5 && metric(0, "kl") == 0);
}

/* An adapter goes on: against the base its margin shows at once, against itself it is 0. */
static void references(void)
{
    char adapter[IO_PATH_MAX];
    TrainConfig c = small(TRAIN_DPO);
    CHECK(!train(&c));
    snprintf(adapter, sizeof adapter, "%s", files_path("adapter"));
    CHECK_OK(io_rename(in_run("adapter"), adapter, &err), &err);
    c = small(TRAIN_DPO);
    c.init_adapter = adapter;
    c.reference = REFERENCE_BASE;
    CHECK(!train(&c));
    CHECK(metric(0, "rewards/margins") > 0.1 && metric(0, "loss") < 0.65);
    double base = metric(0, "logps/chosen");
    c = small(TRAIN_DPO);
    c.init_adapter = adapter;
    c.reference = REFERENCE_INIT;
    CHECK(!train(&c));
    CHECK(metric(0, "rewards/margins") == 0);
    CHECK(metric(0, "logps/chosen") == base);
    CHECK_NEAR(metric(0, "loss"), 0.69314718055994531, 1e-15);
    c = small(TRAIN_DPO);
    c.reference = REFERENCE_DIR;
    c.reference_dir = adapter;
    CHECK(!train(&c));
    CHECK(metric(0, "rewards/margins") < -0.1);
    c = small(TRAIN_DPO);
    c.full = 1;
    c.reference = REFERENCE_DIR;
    c.reference_dir = adapter;
    CHECK(!train(&c));
    CHECK(metric(0, "rewards/margins") < -0.1);
}

/* ---- same bits ----------------------------------------------------------------------------- */

/* What a run leaves, as two texts to be compared. */
typedef struct {
    char adapter[65], *metrics;
} Trace;

static Trace trace(void)
{
    Trace t;
    snprintf(t.adapter, sizeof t.adapter, "%s", hash_of("adapter/adapter_model.safetensors"));
    t.metrics = timeless_metrics();
    return t;
}

static void check_same(const Trace *want)
{
    Trace t = trace();
    CHECK_INT(strlen(t.adapter), 64);
    CHECK_TEXT(t.adapter, want->adapter);
    CHECK_TEXT(t.metrics, want->metrics);
    mem_free(t.metrics);
}

/* A run from before --reference auto was held to the base, and goes on so. */
static void reference_resumed(void)
{
    char adapter[IO_PATH_MAX];
    TrainConfig c = small(TRAIN_DPO);
    CHECK(!train(&c));
    snprintf(adapter, sizeof adapter, "%s", files_path("adapter-resumed"));
    CHECK_OK(io_rename(in_run("adapter"), adapter, &err), &err);
    c = small(TRAIN_DPO);
    c.init_adapter = adapter;
    c.reference = REFERENCE_BASE;
    CHECK(!train(&c));
    CHECK(metric(0, "rewards/margins") > 0.1);
    Trace whole = trace();
    CHECK_OK(io_remove_tree(in_run("adapter"), &err), &err);
    CHECK_OK(io_remove_tree(in_run("checkpoints"), &err), &err);
    c.reference = REFERENCE_AUTO;
    c.resume = 1;
    CHECK(!train(&c));
    check_same(&whole);
    mem_free(whole.metrics);
}

/* DoRA: on the head without dropout, or elsewhere with it. */
static TrainConfig with_sizes(TrainMethod method, int drops)
{
    TrainConfig c = dropping(method);
    c.lora.dora = 1;
    if (drops)
        c.lora.targets &= ~(1u << TARGET_HEAD);
    else
        c.lora.dropout = 0;
    return c;
}

static TrainConfig small_or_dropping(int i)
{
    if (i >= 6) return with_sizes((TrainMethod)(i - 6), i % 2);
    return i < 3 ? small((TrainMethod)i) : dropping((TrainMethod)(i - 3));
}

static void same_bits_threads(void)
{
    static const int counts[] = {2, 3, 7};
    for (int which = 0; which < 9; which++) {
        TrainConfig c = small_or_dropping(which);
        threads_set(1);
        CHECK(!train(&c));
        Trace one = trace();
        for (size_t i = 0; i < 3; i++) {
            c = small_or_dropping(which);
            threads_set(counts[i]);
            CHECK(!train(&c));
            check_same(&one);
        }
        mem_free(one.metrics);
    }
    threads_set(1);
}

static uint64_t first_plan;

static void take_plan(void *ctx, const TrainPlan *plan)
{
    (void)ctx;
    first_plan = plan->activations + plan->head;
}

/* Memory is planned an epoch at a time: a later one needs more, gets it, and no bit is another. A
 * plan of a billion steps ends, and names what it planned. */
static void plans_go_on(void)
{
    const TrainEvents seen = {.log = {NULL, take_note}, .metrics = take_line, .plan = take_plan};
    size_t grown = 0;
    for (uint64_t seed = 1; seed <= 8; seed++) {
        TrainConfig c = small(TRAIN_DPO);
        c.accumulate = 1;
        c.data = long_pairs;
        c.seed = seed;
        CHECK(!train(&c));
        Trace whole = trace();
        c.plan_batches = 1;
        CHECK_OK(io_remove_tree(run_path, &err), &err);
        lines.len = lines_told = 0;
        CHECK_OK(train_run(&c, &seen, &result, &err), &err);
        check_same(&whole);
        mem_free(whole.metrics);
        grown += result.plan.activations + result.plan.head > first_plan;
    }
    CHECK(grown > 0);
    TrainConfig c = small(TRAIN_DPO);
    c.steps = 1000000000;
    c.dry_run = 1;
    CHECK(!train(&c));
    CHECK_HAS(notes, "i memory is planned for 100000 of 1000000000 steps");
}

/* Activations kept, or computed again to fit --memory. */
static void same_bits_memory(void)
{
    for (int which = 0; which < 9; which++) {
        TrainConfig c = small_or_dropping(which);
        CHECK(!train(&c));
        CHECK_INT(result.plan.keep, 1);
        Trace kept = trace();
        uint64_t total = result.plan.total;
        c = small_or_dropping(which);
        c.memory = total - 1;
        c.force = 1; /* what is not in layers may outweigh them */
        CHECK(!train(&c));
        CHECK_INT(result.plan.keep, 0);
        check_same(&kept);
        mem_free(kept.metrics);
    }
}

static void memory_limits(void)
{
    TrainConfig c = small(TRAIN_DPO);
    CHECK(!train(&c));
    uint64_t total = result.plan.total;
    c = small(TRAIN_DPO);
    c.memory = total - 1;
    CHECK(!train(&c));
    CHECK(result.plan.keep == 0 && result.plan.total < total);
    c = small(TRAIN_DPO);
    c.memory = result.plan.total - 1;
    CHECK(train(&c));
    CHECK_ERR(err, ERR_MEMORY, "--memory");
    CHECK(!io_exists(run_path));
    c.force = 1;
    CHECK(!train(&c));
}

/* The dropout of a step acts, and its probability; evaluation and the reference have none. The
 * adapter is one that has learnt something, and stays as it is: what differs is the mask. */
static void dropout_acts(void)
{
    char adapter[IO_PATH_MAX];
    TrainConfig c = dropping(TRAIN_DPO);
    CHECK(!train(&c));
    snprintf(adapter, sizeof adapter, "%s", files_path("adapter-dropping"));
    CHECK_OK(io_rename(in_run("adapter"), adapter, &err), &err);
    for (int method = 0; method < 3; method++) {
        static const double dropout[] = {0.2, 0, 0.5};
        double norm[3], eval[3];
        for (int i = 0; i < 3; i++) {
            c = dropping((TrainMethod)method);
            c.init_adapter = adapter;
            c.reference = REFERENCE_BASE;
            c.eval = c.data;
            c.lr = 1e-30;
            c.order = ORDER_FILE;
            c.steps = 2;
            c.lora.dropout = dropout[i];
            CHECK(!train(&c));
            norm[i] = metric(1, "grad_norm");
            eval[i] = metric(1, "eval_loss");
        }
        CHECK(norm[0] != norm[1] && norm[0] != norm[2] && norm[1] > 0);
        CHECK(eval[0] == eval[1]);
        CHECK(eval[0] == eval[2]);
    }
}

/* Trials of a method with every set of targets: a pass needs what the plan has counted, to the
 * byte. Two rows are enough. */
static void check_plans(TrainMethod method, Model *m, Dataset *rows)
{
    enum { SUBSETS = 1 << (TARGET_COUNT + 1), WAYS = 4 };
    rows->count = 2;
    for (unsigned i = WAYS; i < SUBSETS * WAYS; i++) {
        TrainConfig c = dropping(method);
        double loss;
        c.lora.targets = i / WAYS;
        c.lora.rank = 2;
        c.lora.dropout = i % 2 ? 0.1 : 0;
        c.memory = i / 2 % 2; /* 1: as little as can be */
        c.lora.dora = c.lora.targets % 3 == 0 && !(i % 2 && c.lora.targets >> TARGET_HEAD & 1);
        c.force = 1;
        c.dpo.wpo = c.lora.targets % 2;
        TrainTrial *t = train_trial_open(&c, m, rows, &err);
        CHECK(t && !train_trial_reference(t, &err) && !train_trial_step(t, &loss, &err));
        if (!t) return;
        const TrainPlan *p = train_trial_plan(t);
        CHECK_INT(p->keep, !c.memory);
        CHECK_INT(train_trial_used(t), p->activations + p->head);
        train_trial_close(t);
    }
}

static void plan_is_exact(void)
{
    static const DataKind kinds[] = {DATA_PAIRS, DATA_UNPAIRED, DATA_COMPLETION};
    Tokenizer *tokenizer = tokenizer_load(model, NULL, &err);
    Model m;
    CHECK(tokenizer && !model_load(&m, model, 0, NULL, &err));
    for (int i = 0; i < 3; i++) {
        TrainConfig c = dropping((TrainMethod)i);
        DataOptions o = {.kind = kinds[i], .append_eos = 1, .map = c.rows.map};
        Dataset rows;
        CHECK_OK(data_load(&rows, c.data, &o, tokenizer, NULL, &err), &err);
        check_plans((TrainMethod)i, &m, &rows);
        data_close(&rows);
    }
    model_close(&m);
    tokenizer_free(tokenizer);
}

/* Micro-batches of all kinds: none needs more than the plan says, or its step would fail. Seed 146
 * has one in which more rows without a gradient outweigh fewer rows in all. */
static void plan_holds_for_every_batch(void)
{
    enum { FIRST_SEED = 140, SEEDS = 12, ROWS = 24, LONGEST = 48 };
    for (uint64_t seed = FIRST_SEED; seed < FIRST_SEED + SEEDS; seed++) {
        Text t = {0};
        for (uint64_t i = 0; i < ROWS; i++) {
            int prompt = 1 + (int)(rng_u64(seed, 1, i) % 3);
            int completion = rng_u64(seed, 2, i) % 2 ? LONGEST : 1;
            text_addf(&t, &err, "{\"prompt\":\"%.*s\",\"completion\":\"%.*s\",\"label\":%s}\n",
                      prompt, "abc", completion,
                      "the quick brown fox jumps over the lazy dog again",
                      i % 2 ? "true" : "false");
        }
        files_write("lengths.jsonl", t.data, t.len);
        text_free(&t);
        TrainConfig c = small(TRAIN_KTO);
        c.data = files_path("lengths.jsonl");
        c.batch = 8;
        c.accumulate = 1;
        c.epochs = 1;
        c.seed = seed;
        c.kl_pairing = seed % 2 ? KTO_HALOS : KTO_TRL;
        CHECK(!train(&c));
        CHECK_OK(io_remove_tree(run_path, &err), &err);
        c.memory = 1;
        c.force = 1;
        CHECK(!train(&c) && result.plan.keep == 0); /* as little as can be */
    }
}

static TrainConfig resumable(int method)
{
    TrainConfig c = method < 3 ? dropping((TrainMethod)method)
                               : with_sizes((TrainMethod)(method % 3), method % 2);
    c.log_every = method == TRAIN_KTO ? 1 : 2;
    c.eval = c.data;
    return c;
}

/* Stopped after every step in turn, and gone on: as if never stopped. */
static void same_bits_resumed(void)
{
    for (int method = 0; method < 6; method++) {
        TrainConfig c = resumable(method);
        CHECK(!train(&c));
        Trace whole = trace();
        for (size_t stop = 1; stop < (c.log_every == 1 ? 4u : 2u); stop++) {
            c = resumable(method);
            stop_after = stop;
            CHECK(train(&c));
            stop_after = 0;
            CHECK_ERR(err, ERR_INTERRUPTED, "--resume goes on");
            CHECK(!exists("adapter") && !exists("LOCK"));
            c.resume = 1;
            CHECK(!train(&c));
            CHECK_INT(result.resumed_from, stop * c.log_every);
            check_same(&whole);
        }
        mem_free(whole.metrics);
    }
}

static void same_bits_full(void)
{
    TrainConfig c = small(TRAIN_DPO);
    c.full = 1;
    c.lr = 1e-3;
    CHECK(!train(&c));
    char whole[65];
    snprintf(whole, sizeof whole, "%s", hash_of("model/model.safetensors"));
    c = small(TRAIN_DPO);
    c.full = 1;
    c.lr = 1e-3;
    stop_after = 2;
    CHECK(train(&c) && err.code == ERR_INTERRUPTED);
    stop_after = 0;
    CHECK_OK(io_remove_tree(in_run("reference.jsonl"), &err),
             &err); /* must be found again from the base */
    c.resume = 1;
    CHECK(!train(&c));
    CHECK_TEXT(hash_of("model/model.safetensors"), whole);
}

/* ---- resuming ------------------------------------------------------------------------------ */

static void die_at_line(void *ctx, const char *line, size_t len)
{
    (void)ctx, (void)line, (void)len;
    if (++lines_told == stop_after) raise(SIGKILL);
}

/* Killed between a line of metrics.jsonl and its checkpoint: the lock of the dead is taken over,
 * the line is written again. (`make faults` kills at every single file operation.) */
static void killed_run(TrainMethod method)
{
    TrainConfig c = dropping(method);
    c.save_every = 1;
    CHECK(!train(&c));
    Trace whole = trace();
    for (size_t n = 1; n <= 4; n++) {
        c = dropping(method);
        c.save_every = 1;
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            TrainEvents deadly = {.metrics = die_at_line};
            stop_after = n;
            lines_told = 0;
            train_run(&c, &deadly, &result, &err);
            _exit(0);
        }
        int status = 0;
        CHECK(child > 0 && waitpid(child, &status, 0) == child && WIFSIGNALED(status));
        CHECK(exists("LOCK") && !exists("adapter"));
        c.resume = 1;
        CHECK(!train(&c));
        CHECK_INT(result.resumed_from, n - 1);
        check_same(&whole);
    }
    mem_free(whole.metrics);
}

static void killed(void)
{
    for (int method = 0; method < 3; method++) killed_run((TrainMethod)method);
}

/* Writes the last four bytes of the model anew, in place, at line `stop_after` of metrics. */
static char written_model[IO_PATH_MAX - 32];
static unsigned char last_bytes[4];

static void write_model(const unsigned char bytes[4])
{
    char path[IO_PATH_MAX];
    snprintf(path, sizeof path, "%s/model.safetensors", written_model);
    FILE *f = fopen(path, "r+b");
    CHECK(f && !fseek(f, -4, SEEK_END) && fwrite(bytes, 1, 4, f) == 4 && !fclose(f));
}

static void write_at_line(void *ctx, const char *line, size_t len)
{
    take_line(NULL, line, len);
    if (lines_told == 2) write_model(ctx);
}

/* The model's file is overwritten in the middle of a run, its length stays: noticed before anything
 * is kept. The same bytes written again are no other model. */
static void model_overwritten(void)
{
    static unsigned char other[4] = {0, 0, 0x80, 0x3f};
    size_t len;
    char path[IO_PATH_MAX];
    snprintf(written_model, sizeof written_model, "%.4000s", tiny_model("tiny-written"));
    model = tiny_model("tiny"); /* both paths come from one buffer */
    snprintf(path, sizeof path, "%s/model.safetensors", written_model);
    char *text = files_read(path, &len);
    memcpy(last_bytes, text + len - 4, 4);
    mem_free(text);
    const TrainEvents same = {
        .ctx = last_bytes, .log = {NULL, take_note}, .metrics = write_at_line};
    const TrainEvents differs = {.ctx = other, .log = {NULL, take_note}, .metrics = write_at_line};
    for (int full = 0; full < 2; full++) {
        TrainConfig c = small(TRAIN_DPO);
        c.model = written_model;
        c.save_every = 1;
        c.full = full;
        CHECK(!train(&c));
        Trace whole = {"", NULL};
        if (!full) whole = trace();
        c = small(TRAIN_DPO);
        c.model = written_model;
        c.save_every = 1;
        c.full = full;
        lines_told = 0;
        CHECK_OK(train_run(&c, &same, &result, &err), &err);
        if (!full) check_same(&whole);
        CHECK_OK(io_remove_tree(run_path, &err), &err);
        lines_told = 0;
        CHECK_INT(train_run(&c, &differs, &result, &err), (full ? 0 : -1)); /* full: copies count */
        write_model(last_bytes);
        if (full) continue;
        CHECK_ERR(err, ERR_DATA, "step 3: ");
        CHECK_HAS(err.text, "model.safetensors: was written to while it was in use");
        CHECK(!exists("adapter") && !exists("checkpoints/step-00000003"));
        c.resume = 1;
        CHECK(!train(&c) && result.resumed_from == 2);
        check_same(&whole);
        mem_free(whole.metrics);
    }
}

/* A run of 4 steps stopped after step 3, with checkpoints of steps 2 and 3. */
static TrainConfig stopped(void)
{
    TrainConfig c = small(TRAIN_DPO);
    c.save_every = 1;
    stop_after = 3;
    CHECK(train(&c) && err.code == ERR_INTERRUPTED);
    stop_after = 0;
    CHECK(!exists("checkpoints/step-00000001") && exists("checkpoints/step-00000002"));
    CHECK(exists("checkpoints/step-00000003"));
    c.resume = 1;
    return c;
}

static void flip_byte(const char *name, size_t at)
{
    size_t len;
    char *text = files_read(in_run(name), &len);
    text[at < len ? at : len - 1] ^= 1;
    CHECK_OK(io_write_file(in_run(name), text, len, &err), &err);
    mem_free(text);
}

static void damaged_checkpoints(void)
{
    static const char *const files[] = {"adapter_model.safetensors", "optimizer.safetensors",
                                        "state.json", "adapter_config.json", "manifest.json"};
    TrainConfig c = small(TRAIN_DPO);
    c.save_every = 1;
    CHECK(!train(&c));
    Trace whole = trace();
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        for (int missing = 0; missing < 2; missing++) {
            char name[128];
            c = stopped();
            snprintf(name, sizeof name, "checkpoints/step-00000003/%s", files[i]);
            if (missing)
                CHECK_OK(io_remove_tree(in_run(name), &err), &err);
            else
                flip_byte(name, i == 4 ? 20 : 300);
            CHECK(!train(&c));
            CHECK_INT(result.resumed_from, 2);
            CHECK_HAS(notes, "checkpoint step-00000003 is left out");
            if (i < 4) CHECK_HAS(notes, files[i]);
            check_same(&whole);
        }
    c = stopped();
    flip_byte("checkpoints/step-00000003/state.json", 30);
    flip_byte("checkpoints/step-00000002/state.json", 30);
    CHECK(train(&c));
    CHECK_ERR(err, ERR_DATA, "no valid checkpoint among 2");
    mem_free(whole.metrics);
}

static void newer_checkpoint(void)
{
    TrainConfig c = stopped();
    files_edit(in_run("checkpoints/step-00000003/manifest.json"),
               "run/checkpoints/step-00000003/manifest.json", "\"format\":1", "\"format\":9");
    CHECK(train(&c));
    CHECK_ERR(err, ERR_DATA, "upgrade");
}

static void torn_metrics(void)
{
    size_t len;
    stopped();
    char *text = files_read(in_run("metrics.jsonl"), &len);
    FILE *f = fopen(in_run("metrics.jsonl"), "ab");
    fputs("{\"step\":4,\"loss\":1}\n{\"step\":5,\"lo", f);
    fclose(f);
    CHECK_OK(metrics_trim(in_run("metrics.jsonl"), 2, &err), &err);
    size_t trimmed;
    char *left = files_read(in_run("metrics.jsonl"), &trimmed);
    CHECK(trimmed < len && !memcmp(text, left, trimmed) && left[trimmed - 1] == '\n');
    CHECK(strstr(left, "\"step\":2") && !strstr(left, "\"step\":3"));
    mem_free(text);
    mem_free(left);
}

static void other_runs(void)
{
    TrainConfig c = stopped();
    c.lr = 2e-2;
    c.lora.rank = 8;
    CHECK(train(&c));
    CHECK_ERR(err, ERR_DATA, "lr 0.02 (was 0.01)");
    CHECK_ERR(err, ERR_DATA, "rank 8 (was 4)");
    c = stopped();
    c.data = files_path("other.jsonl");
    static const char other[] = "{\"prompt\":\"q\",\"chosen\":\"a\",\"rejected\":\"b\"}\n";
    files_write("other.jsonl", other, sizeof other - 1);
    CHECK(train(&c));
    CHECK_ERR(err, ERR_DATA, "data ");
    c = stopped();
    c.keep = 1; /* may change */
    CHECK(!train(&c));
    CHECK(!exists("checkpoints/step-00000003") && exists("checkpoints/step-00000004"));
}

static void finished_runs(void)
{
    TrainConfig c = small(TRAIN_DPO);
    CHECK(!train(&c));
    Trace whole = trace();
    CHECK(train(&c));
    CHECK_ERR(err, ERR_CREATE, "--resume");
    c.resume = 1;
    CHECK(!train(&c));
    CHECK(result.finished_before && lines_told == 0 && result.steps == 4);
    check_same(&whole);
    /* Killed between the last checkpoint and the adapter. */
    CHECK_OK(io_remove_tree(in_run("adapter"), &err), &err);
    CHECK_OK(io_make_directory(in_run("adapter.tmp"), 0, &err), &err);
    CHECK(!train(&c));
    CHECK(!result.finished_before && !exists("adapter.tmp"));
    check_same(&whole);
    mem_free(whole.metrics);
}

static void reference_file(void)
{
    TrainConfig c = stopped();
    char before[65];
    snprintf(before, sizeof before, "%s", hash_of("reference.jsonl"));
    static const size_t places[] = {25, 250, 400}; /* in the key, the hash, a number */
    for (size_t i = 0; i < 3; i++) {
        flip_byte("reference.jsonl", places[i]);
        CHECK_INT(train(&c), 0);
        CHECK_HAS(notes, "is damaged or of other inputs: computed again");
        CHECK_TEXT(hash_of("reference.jsonl"), before);
        c = stopped();
    }
    /* Only rows that the run will visit are computed. */
    c = small(TRAIN_DPO);
    c.steps = 1;
    CHECK(!train(&c));
    size_t len;
    char *text = files_read(in_run("reference.jsonl"), &len);
    CHECK_HAS(text, "\"rows\":4,");
    mem_free(text);
}

/* ---- faults -------------------------------------------------------------------------------- */

static void run_directory_faults(void)
{
    TrainConfig c = small(TRAIN_DPO);
    files_write("file", "x", 1);
    c.run = files_path("file");
    CHECK(train(&c) && err.code == ERR_CREATE);
    c.run = files_path("no/such/parent");
    CHECK(train(&c) && err.code == ERR_CREATE);
    CHECK_OK(io_make_directory(run_path, 0, &err), &err);
    c.run = run_path;
    c.data = files_path("absent.jsonl");
    CHECK(train(&c) && err.code == ERR_NO_INPUT);
    CHECK(io_is_directory(run_path)); /* it was there, and empty */
    c.data = pairs;
    CHECK(!train(&c));
    /* Locked by a process that lives: this test's parent. */
    c = stopped();
    char lock[128], host[64] = "";
    gethostname(host, sizeof host - 1);
    snprintf(lock, sizeof lock, "%ld %s\n", (long)getppid(), host);
    CHECK_OK(io_write_file(in_run("LOCK"), lock, strlen(lock), &err), &err);
    CHECK(train(&c) && err.code == ERR_CREATE);
    CHECK(exists("checkpoints/step-00000003"));
}

/* --resume in a directory that is no run: nothing of it is touched. */
static void foreign_directory(void)
{
    TrainConfig c = small(TRAIN_DPO);
    CHECK_OK(io_make_directory(run_path, 0, &err), &err);
    CHECK_OK(io_make_directory(in_run("adapter"), 0, &err), &err);
    CHECK_OK(io_write_file(in_run("adapter/mine"), "x", 1, &err), &err);
    CHECK_OK(io_write_file(in_run("adapter.tmp"), "x", 1, &err), &err);
    c.resume = 1;
    CHECK(train(&c));
    CHECK_ERR(err, ERR_CREATE, "is no run that could be resumed");
    CHECK(exists("adapter/mine") && exists("adapter.tmp") && !exists("LOCK"));
    CHECK_OK(io_write_file(in_run("config.json"), "{\"model_type\":\"llama\"}", 22, &err), &err);
    CHECK(train(&c));
    CHECK_ERR(err, ERR_DATA, "model_type absent (was \"llama\")");
    CHECK(exists("adapter/mine") && exists("adapter.tmp") && !exists("inputs.json"));
}

/* A learning rate that drives the weights out of range: no update is made from numbers that are not
 * finite, nothing of them is written, and the run ends. */
static void divergence(void)
{
    TrainConfig c = small(TRAIN_DPO);
    c.lr = 1000;
    c.weight_decay = 0;
    c.steps = 60;
    c.schedule = SCHEDULE_CONSTANT;
    c.lora.alpha = 1e18;
    c.save_every = 1;
    CHECK(train(&c));
    CHECK_INT(err.code, ERR_DIVERGED);
    CHECK(!exists("adapter") && !exists("LOCK"));
    CHECK(io_is_directory(in_run("diverged")));
    CHECK(io_is_directory(in_run("checkpoints")));
}

/* An adapter scaled by 1e32 and a beta of 1e8: the loss is ln 2, the gradient of B no float. */
static void gradient_overflow(void)
{
    TrainConfig c = small(TRAIN_DPO);
    c.lora.alpha = 4e32;
    c.dpo.beta = 1e8;
    CHECK(train(&c));
    CHECK_ERR(err, ERR_DIVERGED, "step 3: the gradient is not finite, the 3. step in a row");
    CHECK_INT(lines_told, 2);
    CHECK_HAS(lines.data, "\"grad_norm\":null");
    size_t len;
    char *text = files_read(in_run("diverged/step-1.json"), &len);
    CHECK_HAS(text, "{\"step\":1,\"found\":\"gradient\"");
    CHECK_HAS(text, "{\"line\":");
    CHECK_HAS(text, "\"policy\":[-");
    mem_free(text);
    CHECK(!exists("adapter") && !exists("checkpoints"));
}

/* Does a PEFT directory of the run load, and is it other than zero? */
static void check_adapter(const char *name)
{
    Model m;
    Lora lora;
    LoraShape shape;
    CHECK_OK(model_load(&m, model, 0, NULL, &err), &err);
    model_lora_shape(&m, &shape);
    int failed = lora_load(&lora, in_run(name), &shape, 0, &err);
    CHECK(!failed);
    double sum = 0;
    for (size_t i = 0; !failed && i < lora.count; i++) sum += fabs((double)lora.weights[i]);
    CHECK(sum > 0 && isfinite(sum));
    if (!failed) lora_close(&lora);
    model_close(&m);
}

/* Weights grow by a factor of a million in each step, and soon no log-prob is finite. Whichever
 * step is the last, the run does not end well, and leaves what gave finite numbers. */
static void last_step_diverges(void)
{
    for (size_t steps = 1; steps <= 10; steps++) {
        TrainConfig c = small(TRAIN_SFT);
        c.lr = 1000;
        c.weight_decay = 1000;
        c.max_grad_norm = 0;
        c.warmup = 0;
        c.schedule = SCHEDULE_CONSTANT;
        c.steps = steps;
        c.save_every = 1;
        c.keep = 100;
        if (steps == 1) c.weight_decay = 0, c.lr = 1e-3;
        int status = train(&c);
        CHECK_INT((status == 0), (steps == 1));
        CHECK_INT((status == 0), exists("adapter"));
        if (!status) continue;
        CHECK(err.code == ERR_DIVERGED && !exists("LOCK"));
        if (!strstr(err.text, "diverged/adapter holds")) continue;
        check_adapter("diverged/adapter");
        char good[64];
        size_t step = 0;
        CHECK_INT(sscanf(strstr(err.text, "weights of step "), "weights of step %zu", &step), 1);
        snprintf(good, sizeof good, "checkpoints/step-%08zu/adapter_model.safetensors", step);
        CHECK_TEXT(hash_of("diverged/adapter/adapter_model.safetensors"), hash_of(good));
        snprintf(good, sizeof good, "checkpoints/step-%08zu", step + 1);
        CHECK(!exists(good));
        c.resume = 1; /* goes on from there, and ends as it did */
        CHECK(train(&c) && err.code == ERR_DIVERGED && result.resumed_from == step);
    }
}

/* Numbers of a gradient that fit, their squares do not: noticed at once, not at the first save. */
static void squared_gradient(void)
{
    TrainConfig c = small(TRAIN_SFT);
    c.lora.alpha = 1e25;
    c.max_grad_norm = 0;
    c.warmup = 0;
    CHECK(train(&c));
    CHECK_ERR(err, ERR_DIVERGED,
              "step 3: the squared gradient is not finite, the 3. step in a row");
    CHECK(strstr(err.text, "no step before it held") != NULL && !exists("diverged/adapter"));
    c = small(TRAIN_SFT);
    c.lora.alpha = 1e25; /* clipped, it fits */
    c.warmup = 0;
    c.lr = 1e-30;
    CHECK(!train(&c));
}

/* The last step's own numbers are finite, those of the rows held out are not. */
static void evaluation_diverges(void)
{
    TrainConfig c = small(TRAIN_DPO);
    c.lr = 1000;
    c.weight_decay = 1000;
    c.max_grad_norm = 0;
    c.warmup = 0;
    c.schedule = SCHEDULE_CONSTANT;
    c.eval = pairs;
    c.eval_every = 1;
    c.steps = 20;
    CHECK(train(&c));
    CHECK_ERR(err, ERR_DIVERGED, "the loss of --eval is not finite");
    CHECK(strstr(lines.data, "\"eval_loss\":null") != NULL && !exists("adapter"));
}

/* Runs that change nothing say so. */
static void nothing_learnt(void)
{
    for (int i = 0; i < 4; i++) {
        TrainConfig c = i == 3 ? dropping(TRAIN_SFT) : small((TrainMethod)i);
        CHECK(!train(&c));
        CHECK(!strstr(notes, "nothing was learnt"));
        c = i == 3 ? dropping(TRAIN_SFT) : small((TrainMethod)i);
        c.lr = 1e-30;
        c.weight_decay = 0;
        CHECK(!train(&c));
        CHECK_HAS(notes, "w nothing was learnt in");
        CHECK_HAS(notes, "of step 0, to the bit");
    }
    TrainConfig c = small(TRAIN_DPO);
    c.full = 1;
    c.lr = 1e-30;
    CHECK(!train(&c));
    CHECK_HAS(notes, "nothing was learnt in 4 steps");
}

/* A warm-up that takes the whole run is told with what the learning rate reaches. */
static void long_warmup(void)
{
    static const double told[] = {4, 0.76, 100}, quiet[] = {0, 3, 0.75};
    for (int i = 0; i < 3; i++) {
        TrainConfig c = small(TRAIN_DPO); /* 4 steps */
        c.warmup = told[i];
        CHECK(!train(&c));
        CHECK_HAS(notes, i == 2 ? "w --warmup 100: the run has 4 steps, so the learning rate is "
                                  "still rising at its end, to 0.0003 of 0.01"
                                : "to 0.0075 of 0.01; lower --warmup");
        c = small(TRAIN_DPO);
        c.warmup = quiet[i];
        CHECK(!train(&c));
        CHECK(!strstr(notes, "--warmup"));
    }
}

/* --dump-gradients leaves its file, or says why not. */
static void dump_without_file(void)
{
    TrainConfig c = small(TRAIN_DPO);
    c.lora.alpha = 4e32;
    c.dpo.beta = 1e8;
    c.dump_gradients = files_path("none.safetensors");
    CHECK(train(&c));
    CHECK_ERR(err, ERR_DIVERGED, "step 1: the gradient is not finite: --dump-gradients");
    CHECK(!io_exists(c.dump_gradients));
    c = small(TRAIN_DPO);
    stop_after = 2;
    CHECK(train(&c) && err.code == ERR_INTERRUPTED);
    stop_after = 0;
    c.dump_gradients = files_path("none.safetensors");
    c.resume = 1;
    CHECK(!train(&c));
    CHECK(strstr(notes, "none.safetensors is not written") && !io_exists(c.dump_gradients));
    CHECK(!train(&c) && result.finished_before);
    CHECK_HAS(notes, "none.safetensors is not written");
}

/* Rows that teach nothing are noticed. */
static void idle_run(void)
{
    static const char row[] = "{\"prompt\":\"q\",\"chosen\":\"a\",\"rejected\":\"a\"}\n";
    files_write("one.jsonl", row, sizeof row - 1);
    TrainConfig c = small(TRAIN_DPO);
    c.data = files_path("one.jsonl");
    c.steps = 30;
    CHECK(!train(&c));
    CHECK_HAS(notes, "step 21: the reward margin has been 0 for 20 steps");
}

static void broken_weights(void)
{
    /* The last of the file's numbers becomes NaN. */
    TrainConfig c = small(TRAIN_DPO);
    static const unsigned char nan[] = {0, 0, 0xc0, 0x7f};
    size_t len;
    CHECK_OK(io_make_directory(files_path("bad"), 0, &err), &err);
    static const char *const copied[] = {"config.json", "tokenizer.json", "tokenizer_config.json"};
    for (size_t i = 0; i < 3; i++) {
        char from[128], to[128];
        snprintf(from, sizeof from, "tiny/%s", copied[i]);
        snprintf(to, sizeof to, "bad/%s", copied[i]);
        files_copy(files_path(from), to);
    }
    char *text = files_read(files_path("tiny/model.safetensors"), &len);
    memcpy(text + len - 4, nan, 4);
    files_write("bad/model.safetensors", text, len);
    mem_free(text);
    c.model = files_path("bad");
    CHECK(train(&c));
    CHECK_ERR(err, ERR_DATA, "not finite");
    CHECK(!io_exists(run_path));
}

static void long_rows(void)
{
    Text t = {0};
    text_addf(&t, &err, "{\"prompt\":\"q\",\"chosen\":\"");
    for (int i = 0; i < 300; i++) text_addf(&t, &err, "%c", 'a' + i % 23);
    text_addf(&t, &err, "\",\"rejected\":\"b\"}\n");
    files_write("long.jsonl", t.data, t.len);
    text_free(&t);
    TrainConfig c = small(TRAIN_DPO);
    c.data = files_path("long.jsonl");
    CHECK(train(&c));
    CHECK_ERR(err, ERR_DATA, "the model has 256 positions: shorten it, or lower --max-length");
    TrainExplain x;
    CHECK(train_explain(&c, 0, &x, NULL, &err));
    CHECK_ERR(err, ERR_DATA, "long.jsonl: line 1: a sequence of ");
    c.rows.max_length = 256;
    CHECK(!train(&c));
}

/* More steps than are ever planned; and a plan that takes long can be stopped. */
static void long_plans(void)
{
    Text t = {0};
    for (int i = 0; i < 1001; i++)
        text_addf(&t, &err, "{\"prompt\":\"q\",\"chosen\":\"a\",\"rejected\":\"b\"}\n");
    files_write("many.jsonl", t.data, t.len);
    text_free(&t);
    TrainConfig c = small(TRAIN_DPO);
    c.data = files_path("many.jsonl");
    c.batch = c.accumulate = 1;
    c.steps = 0;
    c.epochs = 1e6;
    CHECK(train(&c));
    CHECK_ERR(err, ERR_USAGE, "allowed are 1000000000");
    c.epochs = 1e6 + 1;
    CHECK(train(&c));
    CHECK_ERR(err, ERR_USAGE, "--epochs: found \"1000001\", allowed is a number (0,1000000]");
    c = small(TRAIN_DPO);
    c.steps = 1000000000;
    stop_requested = 1;
    CHECK(train_run(&c, &events, &result, &err));
    stop_requested = 0;
    CHECK_ERR(err, ERR_INTERRUPTED, "before step 1");
    CHECK(!exists("checkpoints") && !exists("LOCK"));
}

/* Robust DPO divides by 1 - 2 eps: near one half its terms are large, their sum is still ln 2. */
static void robust_start(void)
{
    TrainConfig c = small(TRAIN_DPO);
    c.dpo.loss[0] = DPO_ROBUST;
    c.dpo.label_smoothing = 0.499999;
    CHECK(!train(&c));
    CHECK_NEAR(metric(0, "loss"), 0.69314718055994531, 1e-9);
}

/* TRL's pairing without TRL's order is not TRL's estimate. */
static void shuffled_blocks(void)
{
    TrainConfig c = small(TRAIN_KTO);
    c.kl_pairing = KTO_TRL;
    c.order = ORDER_SHUFFLE;
    CHECK(!train(&c));
    CHECK_HAS(notes, "--order trl");
    c.order = ORDER_TRL;
    CHECK(!io_remove_tree(run_path, &err) && !train(&c));
    CHECK_LACKS(notes, "--order trl");
}

static void dry_run(void)
{
    TrainConfig c = small(TRAIN_DPO);
    c.dry_run = 1;
    CHECK(!train(&c));
    CHECK(result.plan.steps == 4 && result.plan.total > 0 && result.plan.rows == 7);
    CHECK(!io_exists(run_path) && lines_told == 0);
}

/* A plan to go on with a run compares itself with that run, and changes nothing in it. */
static void plan_of_another_run(void)
{
    char before[65], after[65];
    TrainConfig c = small(TRAIN_DPO);
    CHECK(!train(&c));
    CHECK_OK(sha256_file(in_run("config.json"), before, &err), &err);
    c.dry_run = 1;
    CHECK(train(&c) && err.code == ERR_CREATE);
    c.resume = 1;
    CHECK(!train(&c));
    c.lr *= 2;
    CHECK(train(&c));
    CHECK_ERR(err, ERR_DATA, "this is not the run to be resumed: ");
    CHECK_OK(sha256_file(in_run("config.json"), after, &err), &err);
    CHECK_TEXT(after, before);
}

/* ---- explain ------------------------------------------------------------------------------- */

static void explained_pair(void)
{
    TrainConfig c = small(TRAIN_DPO);
    TrainExplain x;
    CHECK(!train(&c));
    c.init_adapter = in_run("adapter");
    CHECK_OK(train_explain(&c, 3, &x, NULL, &err), &err);
    const ExplainSide *s = x.side;
    double sum = 0;
    for (size_t t = 0; t < s->n; t++) sum += s->policy[t];
    CHECK_NEAR(sum, s->policy_logp, 1e-9);
    CHECK_NEAR(s->logratio, s->policy_logp - s->reference_logp, 1e-12);
    CHECK_NEAR(x.margin, 0.1 * (x.side[0].logratio - x.side[1].logratio), 1e-12);
    CHECK_NEAR(x.sigmoid, 1 / (1 + exp(-x.margin)), 1e-12);
    CHECK_NEAR(x.loss, -log(x.sigmoid), 1e-12);
    CHECK_NEAR(s->gradient[0], -0.1 * (1 - x.sigmoid), 1e-12);
    CHECK_NEAR(x.side[1].gradient[1], 0.1 * (1 - x.sigmoid), 1e-12);
    CHECK(x.row == 3 && x.line == 4 && x.n_sides == 2 && x.prompt[0] == TINY_BOS);
    CHECK_INT(s->token_ids[s->n - 1], TINY_EOS);
    CHECK(x.plain && !strcmp(x.loss_name, "sigmoid"));
    train_explain_close(&x);
    CHECK(train_explain(&c, 7, &x, NULL, &err));
    CHECK_ERR(err, ERR_USAGE, "--row 7");
}

/* Variants whose loss is not -log sigma(margin) do not say that it is. */
static void explained_variants(void)
{
    for (int variant = 0; variant < 6; variant++) {
        TrainConfig c = small(TRAIN_DPO);
        TrainExplain x;
        DpoConfig *d = &c.dpo;
        if (variant == 0) d->loss[d->n_losses] = DPO_SFT, d->weight[d->n_losses++] = 1;
        if (variant == 1) d->weight[0] = 2;
        if (variant == 2) d->f = F_FORWARD_KL;
        if (variant == 3) d->wpo = 1;
        if (variant == 4) c.dpo.ld_alpha = 0.5;
        if (variant == 5) d->loss[0] = DPO_IPO;
        CHECK_OK(train_explain(&c, 3, &x, NULL, &err), &err);
        CHECK(!x.plain);
        CHECK_TEXT(x.loss_name, variant == 0 ? "sigmoid,sft" : variant == 5 ? "ipo" : "sigmoid");
        train_explain_close(&x);
    }
}

/* A loss beyond all numbers is no lesson. */
static void explained_overflow(void)
{
    TrainExplain x;
    TrainConfig c = small(TRAIN_DPO);
    CHECK(!train(&c));
    char adapter[IO_PATH_MAX];
    snprintf(adapter, sizeof adapter, "%s", files_path("adapter-explained"));
    CHECK_OK(io_rename(in_run("adapter"), adapter, &err), &err);
    c = train_config_default(TRAIN_DPO);
    c.model = model;
    c.data = pairs;
    c.init_adapter = adapter;
    c.reference = REFERENCE_BASE;
    for (size_t row = 0; row < 3; row++) {
        c.dpo.beta = 1e308;
        CHECK(train_explain(&c, row, &x, NULL, &err));
        CHECK_ERR(err, ERR_DATA, "lower --beta (now 1e+308)");
    }
    c.dpo.beta = 1;
    CHECK_OK(train_explain(&c, 0, &x, NULL, &err), &err);
    CHECK(isfinite(x.loss) && isfinite(x.margin));
    train_explain_close(&x);
}

static void explained_row(void)
{
    TrainConfig c = small(TRAIN_KTO);
    TrainExplain x;
    CHECK(!train(&c));
    c.init_adapter = in_run("adapter");
    c.kto.undesirable_weight = 2;
    CHECK_OK(train_explain(&c, 2, &x, NULL, &err), &err);
    double z = 0.1 * (x.kl - x.side[0].logratio);
    CHECK(x.label == 0 && x.weight == 2 && x.kl >= 0);
    CHECK_NEAR(x.sigmoid, 1 / (1 + exp(-z)), 1e-12);
    CHECK_NEAR(x.loss, 2 * (1 - x.sigmoid), 1e-12);
    CHECK_NEAR(x.side[0].gradient[0], 2 * 0.1 * x.sigmoid * (1 - x.sigmoid), 1e-12);
    train_explain_close(&x);
    c.init_adapter = NULL; /* the base itself */
    CHECK_OK(train_explain(&c, 0, &x, NULL, &err), &err);
    CHECK(x.side[0].logratio == 0 && x.kl == 0 && x.loss == 0.5);
    train_explain_close(&x);
}

/* A run of sft whose steps were summed by the rule of 0.1.0 does not go on by another. */
static void sft_of_before(void)
{
    TrainConfig c = small(TRAIN_SFT);
    CHECK(!train(&c));
    CHECK(file_says("inputs.json", "tokens of a step"));
    size_t len;
    char *inputs = files_read(in_run("inputs.json"), &len);
    char *from = strstr(inputs, ",\n  \"loss\""), *to = from ? strchr(from + 1, '\n') : NULL;
    to = to ? strpbrk(to + 1, ",\n") : NULL;
    CHECK(to != NULL);
    memmove(from, to, strlen(to) + 1);
    CHECK_OK(io_write_file(in_run("inputs.json"), inputs, strlen(inputs), &err), &err);
    mem_free(inputs);
    CHECK_OK(io_remove_tree(in_run("adapter"), &err), &err);
    c.resume = 1;
    CHECK(train(&c));
    CHECK_ERR(err, ERR_DATA, "tokens of a step\" (was absent)");
}

static const Test tests[] = {
    {"schedules", schedules},
    {"windows", windows},
    {"configurations", configurations},
    TEST(every_option_that_decides_is_in_config_json),
    {"dpo_run", dpo_run},
    {"equal_starts", equal_starts},
    {"token_counts", token_counts},
    {"kto_run", kto_run},
    {"kto_pairings", kto_pairings},
    {"absent_classes", absent_classes},
    {"sft_run", sft_run},
    {"sft_accumulates_tokens", sft_accumulates_tokens},
    {"sft_of_before", sft_of_before},
    {"decay_groups", decay_groups},
    {"clipping", clipping},
    {"overfit", overfit},
    {"accumulation", accumulation},
    {"evaluation", evaluation},
    {"sparse_log", sparse_log},
    {"dumped_gradients", dumped_gradients},
    {"references", references},
    {"reference_auto", reference_auto},
    {"reference_resumed", reference_resumed},
    {"same_bits_threads", same_bits_threads},
    {"same_bits_memory", same_bits_memory},
    {"memory_limits", memory_limits},
    {"dropout_acts", dropout_acts},
    {"plan_is_exact", plan_is_exact},
    {"plan_holds_for_every_batch", plan_holds_for_every_batch},
    {"same_bits_resumed", same_bits_resumed},
    {"same_bits_full", same_bits_full},
    {"killed", killed},
    {"model_overwritten", model_overwritten},
    {"damaged_checkpoints", damaged_checkpoints},
    {"newer_checkpoint", newer_checkpoint},
    {"torn_metrics", torn_metrics},
    {"other_runs", other_runs},
    {"finished_runs", finished_runs},
    {"reference_file", reference_file},
    {"run_directory_faults", run_directory_faults},
    {"foreign_directory", foreign_directory},
    {"divergence", divergence},
    {"gradient_overflow", gradient_overflow},
    {"last_step_diverges", last_step_diverges},
    {"squared_gradient", squared_gradient},
    {"evaluation_diverges", evaluation_diverges},
    {"nothing_learnt", nothing_learnt},
    {"long_warmup", long_warmup},
    {"plans_go_on", plans_go_on},
    {"dump_without_file", dump_without_file},
    {"idle_run", idle_run},
    {"broken_weights", broken_weights},
    {"long_rows", long_rows},
    {"long_plans", long_plans},
    {"robust_start", robust_start},
    {"shuffled_blocks", shuffled_blocks},
    {"dry_run", dry_run},
    {"plan_of_another_run", plan_of_another_run},
    {"explained_pair", explained_pair},
    {"explained_variants", explained_variants},
    {"explained_row", explained_row},
    {"explained_overflow", explained_overflow},
};

/* Seven rows with prompts of 60 bytes and more. */
static void write_long_rows(void)
{
    static const char text[] =
        "the quick brown fox jumps over the lazy dog again and again and again";
    Text p = {0}, k = {0};
    for (int i = 0; i < 7; i++) {
        text_addf(&p, &err, "{\"prompt\":\"%.*s\",\"chosen\":\" a%d\",\"rejected\":\" b%d\"}\n",
                  60 + i, text, i, i);
        text_addf(&k, &err, "{\"prompt\":\"%.*s\",\"completion\":\" a%d\",\"label\":%s}\n", 60 + i,
                  text, i, i % 2 ? "true" : "false");
    }
    files_write("long-pairs.jsonl", p.data, p.len);
    files_write("long-labelled.jsonl", k.data, k.len);
    snprintf(long_pairs, sizeof long_pairs, "%s", files_path("long-pairs.jsonl"));
    snprintf(long_labelled, sizeof long_labelled, "%s", files_path("long-labelled.jsonl"));
    text_free(&p);
    text_free(&k);
}

/* Seven pairs, and seven labelled rows: + + - - + - +. */
static void write_rows(void)
{
    Text p = {0}, k = {0};
    static const int label[] = {1, 1, 0, 0, 1, 0, 1};
    for (int i = 0; i < 7; i++) {
        text_addf(
            &p, &err,
            "{\"prompt\":\"Q%d: the\",\"chosen\":\" sky is %d\",\"rejected\":\" %d, no way\"}\n", i,
            3 * i, i);
        text_addf(&k, &err, "{\"prompt\":\"Q%d\",\"completion\":\"%s%d\",\"label\":%s}\n", i,
                  label[i] ? " yes, the " : " no ", i, label[i] ? "true" : "false");
    }
    files_write("pairs.jsonl", p.data, p.len);
    files_write("labelled.jsonl", k.data, k.len);
    snprintf(pairs, sizeof pairs, "%s", files_path("pairs.jsonl"));
    snprintf(labelled, sizeof labelled, "%s", files_path("labelled.jsonl"));
    snprintf(run_path, sizeof run_path, "%s", files_path("run"));
    text_free(&p);
    text_free(&k);
}

int main(int argc, char **argv)
{
    files_begin();
    threads_set(1); /* the model is too small for more */
    model = tiny_model("tiny");
    write_rows();
    write_long_rows();
    int status = test_main(tests, sizeof tests / sizeof *tests, argc, argv);
    text_free(&lines);
    files_end();
    return status;
}
