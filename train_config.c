/* train_config.c - the choices of a run: defaults, checks, and config.json. */
#include "train_parts.h"

#include <math.h>
#include <string.h>

const char *const train_method_names[] = {"dpo", "kto", "sft"};
const char *const train_schedule_names[SCHEDULE_COUNT] = {"linear", "cosine", "constant"};

TrainConfig train_config_default(TrainMethod method)
{
    static const DataKind kinds[] = {DATA_PAIRS, DATA_UNPAIRED, DATA_COMPLETION};
    return (TrainConfig){
        .method = method,
        .rows = {.kind = kinds[method], .max_length = 1024, .append_eos = 1},
        .dpo = dpo_config_default(),
        .ld_alpha = 1,
        .kto = kto_config_default(),
        .kl_pairing = KTO_DISTINCT,
        .lora = {.rank = 16, .alpha = 32, .targets = (1u << TARGET_COUNT) - 1},
        .schedule = SCHEDULE_LINEAR,
        .adam_beta1 = 0.9,
        .adam_beta2 = 0.999,
        .adam_eps = 1e-8,
        .max_grad_norm = 1,
        .batch = 8,
        .accumulate = 1,
        .epochs = 3,
        .order = ORDER_SHUFFLE,
        .seed = 42,
        .save_every = 100,
        .keep = 2,
        .log_every = 1,
        .kernel = "auto",
    };
}

/* ---- checks -------------------------------------------------------------------------------- */

static int in_range(const char *option, double value, double low, double high, Err *e)
{
    if (value >= low && value <= high) return 0;
    return err_set(e, ERR_USAGE, "%s: must be between %g and %g, found %g", option, low, high,
                   value);
}

static int check_optimiser(const TrainConfig *c, Err *e)
{
    const double huge = 1e9, largest_lr = 1e3;
    if (in_range("--lr", c->lr, 0, largest_lr, e) || in_range("--warmup", c->warmup, 0, huge, e) ||
        in_range("--weight-decay", c->weight_decay, 0, huge, e) ||
        in_range("--max-grad-norm", c->max_grad_norm, 0, huge, e) ||
        in_range("--dropout", c->lora.dropout, 0, 0.99, e) ||
        in_range("--ld-alpha", c->ld_alpha, 0, 1, e))
        return -1;
    if (c->adam_beta1 < 0 || c->adam_beta1 >= 1 || c->adam_beta2 < 0 || c->adam_beta2 >= 1 ||
        !(c->adam_eps > 0))
        return err_set(e, ERR_USAGE, "AdamW: beta1 and beta2 must be in [0, 1) and eps above 0");
    if (c->steps == 0 && !(c->epochs > 0 && c->epochs <= huge))
        return err_set(e, ERR_USAGE, "--epochs: must be above 0 and at most %g, found %g", huge,
                       c->epochs);
    if (c->batch < 1 || c->accumulate < 1 || c->log_every < 1 || c->keep < 1)
        return err_set(e, ERR_USAGE,
                       "--batch, --accumulate, --log-every and --keep must be at least 1");
    return 0;
}

static int check_what_is_trained(const TrainConfig *c, Err *e)
{
    if (c->full && c->init_adapter)
        return err_set(e, ERR_USAGE,
                       "--full trains the model's own weights: it cannot start from "
                       "--init-adapter; merge the adapter first (align merge)");
    if (!c->full && !c->init_adapter &&
        (c->lora.rank < 1 || !(c->lora.alpha > 0) || !c->lora.targets))
        return err_set(e, ERR_USAGE, "--rank must be at least 1, --alpha above 0, --targets named");
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

static int put_key(Text *out, const char *key, Err *e)
{
    const char *before = out->len && out->data[out->len - 1] != '{' ? ",\n  " : "\n  ";
    if (text_add(out, before, strlen(before), e)) return -1;
    return json_put_string(out, key, strlen(key), e) || text_add(out, ": ", 2, e) ? -1 : 0;
}

static int put_text(Text *out, const char *key, const char *value, Err *e)
{
    if (!value) return 0;
    return put_key(out, key, e) || json_put_string(out, value, strlen(value), e) ? -1 : 0;
}

static int put_number(Text *out, const char *key, double value, Err *e)
{
    return put_key(out, key, e) || json_put_f64(out, value, e) ? -1 : 0;
}

static int put_count(Text *out, const char *key, uint64_t value, Err *e)
{
    return put_key(out, key, e) || text_addf(out, e, "%llu", (unsigned long long)value) ? -1 : 0;
}

static int put_flag(Text *out, const char *key, int value, Err *e)
{
    return put_key(out, key, e) || text_addf(out, e, "%s", value ? "true" : "false") ? -1 : 0;
}

int train_loss_names(const DpoConfig *c, Text *out, Err *e)
{
    for (size_t i = 0; i < c->n_losses; i++)
        if (text_addf(out, e, "%s%s", i ? "," : "", dpo_loss_name(c->loss[i]))) return -1;
    return 0;
}

/* "sigmoid,sft" and "1,0.5", as on the command line. */
static int put_losses(const DpoConfig *c, Text *out, Err *e)
{
    Text names = {0}, weights = {0};
    int failed = train_loss_names(c, &names, e);
    for (size_t i = 0; i < c->n_losses && !failed; i++)
        failed = text_addf(&weights, e, "%s", i ? "," : "") ||
                 json_put_f64(&weights, c->weight[i], e);
    failed = failed || put_text(out, "loss", names.data, e) ||
             put_text(out, "loss-weights", weights.data, e);
    text_free(&names);
    text_free(&weights);
    return failed ? -1 : 0;
}

static int put_dpo(const TrainConfig *c, Text *out, Err *e)
{
    const DpoConfig *d = &c->dpo;
    return put_losses(d, out, e) || put_number(out, "beta", d->beta, e) ||
                   put_number(out, "label-smoothing", d->label_smoothing, e) ||
                   put_text(out, "f-divergence", f_divergence_name(d->f), e) ||
                   put_number(out, "f-alpha", d->f_alpha, e) ||
                   put_number(out, "discopop-tau", d->discopop_tau, e) ||
                   put_number(out, "ld-alpha", c->ld_alpha, e) || put_flag(out, "wpo", d->wpo, e)
               ? -1
               : 0;
}

static int put_kto(const TrainConfig *c, Text *out, Err *e)
{
    const KtoConfig *k = &c->kto;
    return put_text(out, "loss", kto_loss_name(k->loss), e) ||
                   put_number(out, "beta", k->beta, e) ||
                   put_number(out, "desirable-weight", k->desirable_weight, e) ||
                   put_number(out, "undesirable-weight", k->undesirable_weight, e) ||
                   put_text(out, "kl-pairing", kto_pairing_name(c->kl_pairing), e)
               ? -1
               : 0;
}

/* Names of targets, as --targets takes them. */
static int put_targets(unsigned targets, Text *out, Err *e)
{
    Text names = {0};
    int failed = 0;
    for (int t = 0; t <= TARGET_COUNT && !failed; t++)
        if (targets & (1u << t))
            failed = text_addf(&names, e, "%s%s", names.len ? "," : "", target_names[t]);
    failed = failed || put_text(out, "targets", names.len ? names.data : "", e);
    text_free(&names);
    return failed ? -1 : 0;
}

static int put_trained(const TrainConfig *c, Text *out, Err *e)
{
    static const char *const references[] = {"base", "init"};
    if (put_flag(out, "full", c->full, e) || put_text(out, "init-adapter", c->init_adapter, e))
        return -1;
    if (!c->full &&
        (put_count(out, "rank", c->lora.rank, e) || put_number(out, "alpha", c->lora.alpha, e) ||
         put_targets(c->lora.targets, out, e) || put_number(out, "dropout", c->lora.dropout, e) ||
         put_flag(out, "rslora", c->lora.rslora, e)))
        return -1;
    if (c->method == TRAIN_SFT) return 0;
    return put_text(out, "reference",
                    c->reference == REFERENCE_DIR ? c->reference_dir : references[c->reference], e);
}

static int put_optimiser(const TrainConfig *c, Text *out, Err *e)
{
    static const char *const orders[] = {"shuffle", "trl", "file"};
    return put_number(out, "lr", c->lr, e) ||
                   put_text(out, "schedule", train_schedule_names[c->schedule], e) ||
                   put_number(out, "warmup", c->warmup, e) ||
                   put_number(out, "weight-decay", c->weight_decay, e) ||
                   put_number(out, "max-grad-norm", c->max_grad_norm, e) ||
                   put_count(out, "batch", c->batch, e) ||
                   put_count(out, "accumulate", c->accumulate, e) ||
                   (c->steps ? put_count(out, "steps", c->steps, e)
                             : put_number(out, "epochs", c->epochs, e)) ||
                   put_text(out, "order", orders[c->order], e) || put_count(out, "seed", c->seed, e)
               ? -1
               : 0;
}

static int put_rows(const TrainConfig *c, Text *out, Err *e)
{
    const DataOptions *o = &c->rows;
    return put_count(out, "max-length", o->max_length, e) ||
                   put_flag(out, "parse-special", o->parse_special, e) ||
                   put_flag(out, "drop-identical", o->drop_identical, e) ||
                   put_text(out, "map", o->map, e) ||
                   put_text(out, "chat-template", o->chat_template, e)
               ? -1
               : 0;
}

int train_config_json(const TrainConfig *c, Text *out, Err *e)
{
    static const char *const precisions[] = {"f32", "bf16"};
    size_t begin = out->len;
    if (text_add(out, "{", 1, e) || put_text(out, "model", c->model, e) ||
        put_text(out, "data", c->data, e) || put_text(out, "eval", c->eval, e) ||
        put_rows(c, out, e) || (c->method == TRAIN_DPO && put_dpo(c, out, e)) ||
        (c->method == TRAIN_KTO && put_kto(c, out, e)) || put_trained(c, out, e) ||
        put_optimiser(c, out, e) || put_count(out, "save-every", c->save_every, e) ||
        put_count(out, "keep", c->keep, e) || put_count(out, "log-every", c->log_every, e) ||
        (c->eval && put_count(out, "eval-every", c->eval_every, e)) ||
        put_text(out, "precision", precisions[c->precision], e) ||
        put_text(out, "kernel", c->kernel, e) || text_add(out, "\n}\n", 3, e)) {
        out->len = begin;
        return -1;
    }
    return 0;
}
