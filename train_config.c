/* train_config.c - holds the choices of a run: defaults, checks, and config.json. */
#include "train_parts.h"

#include <math.h>
#include <string.h>

const char *const train_method_names[] = {"dpo", "kto", "sft"};

/* The word of a Schedule; NULL beyond the last. */
static const char *schedule_name(size_t i)
{
    static const char *const names[] = {"linear", "cosine", "constant"};
    return i < SCHEDULE_COUNT ? names[i] : NULL;
}

/* ---- options ------------------------------------------------------------------------------- */

static const Option data_rows[] = {
    {"data", 0, OPTION_FILE, option_required, NULL, "training rows, JSONL",
     FIELD(TrainConfig, data), .free = 1},
};
const OptionGroup train_data_options = OPTION_GROUP("Data", data_rows);

static const Option call_rows[] = {
    {"eval", 0, OPTION_FILE, NULL, NULL, "evaluation rows, JSONL", FIELD(TrainConfig, eval),
     .free = 1},
    {"output", 'o', OPTION_DIR, NULL, NULL, "new run directory (required without --dry-run)",
     FIELD(TrainConfig, run), .free = 1},
    {"resume", 0, OPTION_FLAG, NULL, NULL,
     "continue from the newest valid checkpoint of the run directory, or start if there is "
     "none",
     FIELD(TrainConfig, resume), .free = 1},
    {"dry-run", 0, OPTION_FLAG, NULL, NULL,
     "print the plan (rows, steps, memory) and write nothing",
     FIELD(TrainConfig, dry_run), .free = 1},
    {"json", 0, OPTION_FLAG, NULL, NULL, "the result as one JSON object", BY_NAME},
};
const OptionGroup train_run_options = OPTION_GROUP("Run", call_rows);

static const Option pairing_rows[] = {
    {"kl-pairing", 0, OPTION_CHOICE, "distinct", NULL,
     "row whose completion is borrowed for the KL estimate: one with another prompt, drawn by "
     "--seed; the one before in its block (TRL); the one after (HALOs)",
     FIELD(TrainConfig, kl_pairing), .words = kto_pairing_name,
     .when = "~method=kto methods=kto|both kto-loss/loss!apo_zero_unpaired"},
};
const OptionGroup train_pairing_options = OPTION_GROUP("KTO's pairing", pairing_rows);

static const char *const reference_names[] = {
    [REFERENCE_BASE] = "base", [REFERENCE_INIT] = "init", [REFERENCE_AUTO] = "auto"};

/* A word, or an adapter's directory. */
static void read_reference(void *config, const char *text)
{
    TrainConfig *c = config;
    c->reference = !strcmp(text, "auto")   ? REFERENCE_AUTO
                   : !strcmp(text, "base") ? REFERENCE_BASE
                   : !strcmp(text, "init") ? REFERENCE_INIT
                                           : REFERENCE_DIR;
    if (c->reference == REFERENCE_DIR) c->reference_dir = text;
}

static int show_reference(const void *config, Text *out, Err *e)
{
    const TrainConfig *c = config;
    const char *dir = c->reference == REFERENCE_DIR ? c->reference_dir : NULL;
    return text_addf(out, e, "%s", dir ? dir : reference_names[c->reference]);
}

static const OptionForm reference_form = {read_reference, show_reference};
static const Option reference_rows[] = {
    {"reference", 0, OPTION_TEXT, "auto", NULL,
     "reference: base (adapter off), init (the adapter of step 0) or an adapter directory; "
     "auto is TRL's rule: init with --init-adapter, else base",
     .holds = HOLDS_FORM, .form = &reference_form, .free = 1},
};
const OptionGroup train_reference_options = OPTION_GROUP("Reference", reference_rows);

static const Option start_rows[] = {
    {"init-adapter", 0, OPTION_DIR, NULL, NULL,
     "initial adapter; its own rank, alpha, targets and rslora are used",
     FIELD(TrainConfig, init_adapter), .free = 1},
    {"full", 0, OPTION_FLAG, NULL, NULL,
     "train all weights instead of an adapter (small models); the result is RUN/model",
     FIELD(TrainConfig, full)},
};
const OptionGroup train_start_options = OPTION_GROUP("What is trained", start_rows);

static const Option optimiser_rows[] = {
    {"lr", 0, OPTION_NUMBER, "auto", "(0,1000]|auto",
     "learning rate; auto: 1e-5, with --full 1e-6", FIELD(TrainConfig, lr)},
    {"schedule", 0, OPTION_CHOICE, "linear", NULL,
     "schedule of the learning rate over the steps",
     FIELD(TrainConfig, schedule), .words = schedule_name},
    {"warmup", 0, OPTION_NUMBER, "0", "[0,1000000000]",
     "number of warm-up steps; below 1: share of all steps", FIELD(TrainConfig, warmup)},
    {"weight-decay", 0, OPTION_NUMBER, "0", "[0,1000]", "weight decay of AdamW",
     FIELD(TrainConfig, weight_decay)},
    {"max-grad-norm", 0, OPTION_NUMBER, "1", "[0,1000000000]",
     "largest norm of the gradient; longer ones are scaled down; 0 = off",
     FIELD(TrainConfig, max_grad_norm)},
    {"batch", 0, OPTION_COUNT, "8", "[1,65536]", "rows (dpo: pairs) per micro-batch",
     FIELD(TrainConfig, batch)},
    {"accumulate", 0, OPTION_COUNT, "1", "[1,65536]", "micro-batches per optimiser step",
     FIELD(TrainConfig, accumulate)},
    {"epochs", 0, OPTION_NUMBER, "3", "(0,1000000]", "passes over the rows",
     FIELD(TrainConfig, epochs)},
    {"steps", 0, OPTION_COUNT, NULL, "[1,1000000000]",
     "number of optimiser steps, instead of --epochs",
     FIELD(TrainConfig, steps)},
    {"order", 0, OPTION_CHOICE, "shuffle", NULL,
     "order of rows: our permutation, PyTorch's (as in TRL), or that of the file",
     FIELD(TrainConfig, order), .words = data_order_name},
};
const OptionGroup train_optimiser_options = OPTION_GROUP("Steps", optimiser_rows);

static const Option saving_rows[] = {
    {"save-every", 0, OPTION_COUNT, "100", NULL, "steps between checkpoints; 0 = only at the end",
     FIELD(TrainConfig, save_every), .free = 1},
    {"keep", 0, OPTION_COUNT, "2", "[1,1000000]",
     "number of checkpoints kept", FIELD(TrainConfig, keep),
     .free = 1},
    {"log-every", 0, OPTION_COUNT, "1", "[1,1000000]", "steps between lines of metrics.jsonl",
     FIELD(TrainConfig, log_every)},
    {"memory", 0, OPTION_SIZE, "auto", "[1M,inf)|auto",
     "memory limit of the plan; activations that do not fit are recomputed; auto: the free "
     "memory",
     FIELD(TrainConfig, memory), .free = 1},
    {"force", 0, OPTION_FLAG, NULL, NULL, "continue even if the memory plan does not fit",
     FIELD(TrainConfig, force), .free = 1},
};
const OptionGroup train_saving_options = OPTION_GROUP("Saving, memory", saving_rows);

static const Option measuring_rows[] = {
    {"eval-every", 0, OPTION_COUNT, "0", NULL, "steps between evaluations; 0 = only at the end",
     FIELD(TrainConfig, eval_every)},
    {"dump-gradients", 0, OPTION_FILE, NULL, NULL,
     "write the gradients of the first step, before clipping, as safetensors",
     FIELD(TrainConfig, dump_gradients), .free = 1},
};
const OptionGroup train_measuring_options = OPTION_GROUP("Measuring", measuring_rows);

/* The groups, and where in TrainConfig the settings of each lie. */
typedef struct {
    const OptionGroup *group;
    size_t at;
} Part;
static const Part parts[] = {
    {&model_options, offsetof(TrainConfig, model)},
    {&train_data_options, 0},
    {&train_run_options, 0},
    {&dpo_loss_options, offsetof(TrainConfig, dpo)},
    {&kto_loss_options, offsetof(TrainConfig, kto)},
    {&beta_options, offsetof(TrainConfig, dpo.beta)},
    {&beta_options, offsetof(TrainConfig, kto.beta)},
    {&dpo_options, offsetof(TrainConfig, dpo)},
    {&kto_weight_options, offsetof(TrainConfig, kto)},
    {&train_pairing_options, 0},
    {&train_reference_options, 0},
    {&train_start_options, 0},
    {&lora_options, offsetof(TrainConfig, lora)},
    {&train_optimiser_options, 0},
    {&seed_options, offsetof(TrainConfig, seed)},
    {&data_length_options, offsetof(TrainConfig, rows)},
    {&data_options, offsetof(TrainConfig, rows)},
    {&train_saving_options, 0},
    {&train_measuring_options, 0},
};
enum { PARTS = sizeof parts / sizeof *parts };

TrainConfig train_config_default(TrainMethod method)
{
    static const DataKind kinds[] = {DATA_PAIRS, DATA_UNPAIRED, DATA_COMPLETION};
    TrainConfig c = {.method = method,
                     .rows = {.kind = kinds[method], .append_eos = 1},
                     .adam_beta1 = 0.9,
                     .adam_beta2 = 0.999,
                     .adam_eps = 1e-8};
    EngineOptions engine = {0};
    options_defaults(&engine_options, &engine);
    c.kernel = engine.kernel;
    c.precision = engine.precision;
    c.dpo = dpo_config_default();
    for (size_t i = 0; i < PARTS; i++) options_defaults(parts[i].group, (char *)&c + parts[i].at);
    return c;
}

int train_config_fill(TrainConfig *c, const Options *o, Err *e)
{
    EngineOptions engine = {0};
    for (size_t i = 0; i < PARTS; i++) options_fill(o, parts[i].group, (char *)c + parts[i].at);
    options_fill(o, &engine_options, &engine);
    c->precision = engine.precision;
    c->kernel = engine.kernel;
    c->model_flags = model_flags(&engine);
    if (option_exists(o, "epochs") && option_given(o, "epochs") && c->steps)
        return err_set(e, ERR_USAGE, "--steps and --epochs both say how long; give one of them");
    return 0;
}

const OptionGroup *train_config_part(size_t i, size_t *at)
{
    if (i >= PARTS) return NULL;
    *at = parts[i].at;
    return parts[i].group;
}

int train_config_free(const char *key)
{
    for (size_t i = 0; i < PARTS; i++)
        if (options_free_key(parts[i].group, key)) return 1;
    return options_free_key(&engine_options, key);
}

double train_default_lr(const TrainConfig *c)
{
    const double adapter = 1e-5, full = 1e-6;
    return c->full ? full : adapter;
}

void train_config_resolve_reference(TrainConfig *c)
{
    if (c->reference == REFERENCE_AUTO)
        c->reference = c->init_adapter ? REFERENCE_INIT : REFERENCE_BASE;
}

/* ---- checks -------------------------------------------------------------------------------- */

static int check_optimiser(const TrainConfig *c, Err *e)
{
    for (size_t i = 0; i < PARTS; i++)
        if (options_check(parts[i].group, (const char *)c + parts[i].at, e)) return -1;
    if (c->adam_beta1 < 0 || c->adam_beta1 >= 1 || c->adam_beta2 < 0 || c->adam_beta2 >= 1 ||
        !(c->adam_eps > 0))
        return err_set(e, ERR_USAGE, "AdamW: beta1 and beta2 must be in [0, 1) and eps above 0");
    return 0;
}

static int check_what_is_trained(const TrainConfig *c, Err *e)
{
    if (c->full && c->init_adapter)
        return err_set(e, ERR_USAGE,
                       "--full trains the model's own weights: it cannot start from "
                       "--init-adapter; merge the adapter first (align merge)");
    if (!c->full && !c->init_adapter && !c->lora.targets)
        return err_set(e, ERR_USAGE, "--targets: at least one is needed");
    if (c->reference == REFERENCE_DIR && !c->reference_dir)
        return err_set(e, ERR_USAGE, "--reference: a directory with an adapter is needed");
    if (c->full && c->method == TRAIN_KTO && kto_needs_kl(c->kto.loss) &&
        c->kl_pairing == KTO_HALOS)
        return err_set(e, ERR_USAGE,
                       "--kl-pairing halos asks the reference anew in each epoch, but --full "
                       "changes its weights; use --kl-pairing distinct or trl");
    return 0;
}

int train_config_check(const TrainConfig *c, Err *e)
{
    if (!c->model) return err_set(e, ERR_USAGE, "-m: a model directory is needed");
    if (!c->data) return err_set(e, ERR_USAGE, "--data: a JSONL file is needed");
    if (!c->run && !c->dry_run) return err_set(e, ERR_USAGE, "-o: a run directory is needed");
    if (c->eval_every && !c->eval) return err_set(e, ERR_USAGE, "--eval-every needs --eval FILE");
    if (check_optimiser(c, e) || check_what_is_trained(c, e)) return -1;
    if (c->method == TRAIN_DPO) return dpo_config_check(&c->dpo, e);
    if (c->method == TRAIN_KTO) return kto_config_check(&c->kto, c->batch, e);
    return 0;
}

/* ---- config.json --------------------------------------------------------------------------- */

/* The members in the order of the file, which is not that of help. */
static int put_rows(const TrainConfig *c, Text *out, Err *e)
{
    const DataOptions *o = &c->rows;
    int other = o->train_on == TRAIN_ON_ANSWERS || o->train_on == TRAIN_ON_ALL;
    return options_write(&data_length_options, o, "max-length", WRITE_LINES, out, e) ||
                   options_write(&data_options, o, "parse-special", WRITE_LINES, out, e) ||
                   options_write(&data_length_options, o, "drop-identical", WRITE_LINES, out, e) ||
                   (c->method == TRAIN_SFT && other &&
                    (options_write_key("train-on", WRITE_LINES, out, e) ||
                     text_addf(out, e, "\"%s\"", train_on_name(o->train_on)))) ||
                   options_write(&data_options, o, "map chat-template date", WRITE_LINES, out, e)
               ? -1
               : 0;
}

static int put_dpo(const DpoConfig *d, Text *out, Err *e)
{
    return options_write(&dpo_loss_options, d, NULL, WRITE_LINES, out, e) ||
                   options_write(&dpo_options, d, "loss-weights", WRITE_LINES, out, e) ||
                   options_write(&beta_options, &d->beta, NULL, WRITE_LINES, out, e) ||
                   options_write(&dpo_options, d,
                                 "label-smoothing f-divergence f-alpha discopop-tau ld-alpha wpo",
                                 WRITE_LINES, out, e)
               ? -1
               : 0;
}

static int put_kto(const TrainConfig *c, Text *out, Err *e)
{
    const KtoConfig *k = &c->kto;
    return options_write(&kto_loss_options, k, NULL, WRITE_LINES, out, e) ||
                   options_write(&beta_options, &k->beta, NULL, WRITE_LINES, out, e) ||
                   options_write(&kto_weight_options, k, NULL, WRITE_LINES, out, e) ||
                   options_write(&train_pairing_options, c, NULL, WRITE_LINES, out, e)
               ? -1
               : 0;
}

static int put_trained(const TrainConfig *c, Text *out, Err *e)
{
    if (options_write(&train_start_options, c, "full init-adapter", WRITE_LINES, out, e) ||
        (!c->full && options_write(&lora_options, &c->lora, NULL, WRITE_LINES, out, e)))
        return -1;
    if (c->method == TRAIN_SFT) return 0;
    return options_write(&train_reference_options, c, NULL, WRITE_LINES, out, e);
}

static int put_optimiser(const TrainConfig *c, Text *out, Err *e)
{
    const OptionGroup *g = &train_optimiser_options;
    return options_write(g, c, "lr schedule warmup weight-decay max-grad-norm batch accumulate",
                         WRITE_LINES, out, e) ||
                   options_write(g, c, c->steps ? "steps order" : "epochs order", WRITE_LINES, out,
                                 e) ||
                   options_write(&seed_options, &c->seed, NULL, WRITE_LINES, out, e)
               ? -1
               : 0;
}

int train_config_json(const TrainConfig *c, Text *out, Err *e)
{
    const EngineOptions engine = {.precision = c->precision, .kernel = c->kernel};
    size_t begin = out->len;
    if (text_add(out, "{", 1, e) ||
        options_write(&model_options, &c->model, NULL, WRITE_LINES, out, e) ||
        options_write(&train_data_options, c, NULL, WRITE_LINES, out, e) ||
        options_write(&train_run_options, c, "eval", WRITE_LINES, out, e) || put_rows(c, out, e) ||
        (c->method == TRAIN_DPO && put_dpo(&c->dpo, out, e)) ||
        (c->method == TRAIN_KTO && put_kto(c, out, e)) || put_trained(c, out, e) ||
        put_optimiser(c, out, e) ||
        options_write(&train_saving_options, c, "save-every keep log-every", WRITE_LINES, out, e) ||
        (c->eval &&
         options_write(&train_measuring_options, c, "eval-every", WRITE_LINES, out, e)) ||
        options_write(&engine_options, &engine, "precision kernel", WRITE_LINES, out, e) ||
        text_add(out, "\n}\n", 3, e)) {
        out->len = begin;
        return -1;
    }
    return 0;
}
