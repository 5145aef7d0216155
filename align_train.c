/* align_train.c - the commands that train: sft, dpo, kto; and how options become a TrainConfig. */
#include "align.h"
#include "train.h"

#include <assert.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

/* ---- options ------------------------------------------------------------------------------- */

static const Option data_rows[] = {
    {"data", 0, OPTION_FILE, option_required, NULL, "training rows, JSONL"},
};
static const OptionGroup data_group = OPTION_GROUP("Data", data_rows);

static const Option sft_data_rows[] = {
    {"data", 0, OPTION_FILE, NULL, NULL, "training rows, JSONL (needed unless --judge-data)"},
    {"judge-data", 0, OPTION_FILE, NULL, NULL,
     "trains a judge: responses with a label, gold or action; their rows are put into "
     "OUTPUT.rows.jsonl"},
    {"label-order", 0, OPTION_CHOICE, "rotations", "fixed|reversed|rotations",
     "orders of the labels in a judge's prompt, which rows take in turn"},
};
static const OptionGroup sft_data_group = OPTION_GROUP("Data", sft_data_rows);

static const Option run_rows[] = {
    {"eval", 0, OPTION_FILE, NULL, NULL, "rows to evaluate on, JSONL"},
    {"output", 'o', OPTION_DIR, NULL, NULL, "run directory, made new (needed unless --dry-run)"},
    {"resume", 0, OPTION_FLAG, NULL, NULL,
     "go on from the newest valid checkpoint of the run directory, or begin where there is none"},
    {"dry-run", 0, OPTION_FLAG, NULL, NULL, "plan and report: rows, steps, memory; write nothing"},
    {"json", 0, OPTION_FLAG, NULL, NULL, "the result as one JSON object"},
};
static const OptionGroup run_group = OPTION_GROUP("Run", run_rows);

static const Option beta_rows[] = {
    {"beta", 0, OPTION_NUMBER, "0.1", "(0,inf)",
     "strength of the tie to the reference; tau in IPO's paper"},
};
const OptionGroup group_beta = OPTION_GROUP("Loss", beta_rows);

static const Option dpo_loss_rows[] = {
    {"loss", 0, OPTION_WORDS, "sigmoid", DPO_LOSS_WORDS,
     "what is minimised; several are summed by --loss-weights"},
};
static const OptionGroup dpo_loss_group = OPTION_GROUP("DPO", dpo_loss_rows);

static const Option dpo_rows[] = {
    {"loss-weights", 0, OPTION_NUMBERS, NULL, "[0,inf)", "one for each loss; default: all 1"},
    {"label-smoothing", 0, OPTION_NUMBER, "0", "[0,1]",
     "share of labels believed wrong: cdpo, robust, exo_pair, aot, aot_unpaired"},
    {"f-divergence", 0, OPTION_CHOICE, "reverse_kl",
     "reverse_kl|forward_kl|js_divergence|alpha_divergence",
     "how the distance to the reference is measured"},
    {"f-alpha", 0, OPTION_NUMBER, "0.5", NULL, "alpha of alpha_divergence"},
    {"ld-alpha", 0, OPTION_NUMBER, "1", "[0,1]",
     "LD-DPO: weight of tokens beyond the shorter answer; 1 = off"},
    {"wpo", 0, OPTION_FLAG, NULL, NULL, "WPO: pairs weigh as much as the policy likes them"},
    {"discopop-tau", 0, OPTION_NUMBER, "0.05", "(0,inf)", "temperature of discopop's mixture"},
};
const OptionGroup group_dpo = OPTION_GROUP("DPO's variants", dpo_rows);

static const Option kto_loss_rows[] = {
    {"loss", 0, OPTION_CHOICE, "kto", KTO_LOSS_WORDS, "what is minimised"},
};
static const OptionGroup kto_loss_group = OPTION_GROUP("KTO", kto_loss_rows);

static const Option kto_rows[] = {
    {"desirable-weight", 0, OPTION_NUMBER, "1", "[0,inf)|auto",
     "weight of rows with label true; auto balances the classes by KTO's rule"},
    {"undesirable-weight", 0, OPTION_NUMBER, "1", "[0,inf)|auto",
     "weight of rows with label false"},
};
const OptionGroup group_kto_weights = OPTION_GROUP("KTO's weights", kto_rows);

static const Option pairing_rows[] = {
    {"kl-pairing", 0, OPTION_CHOICE, "distinct", "distinct|trl|halos",
     "whose completion a row borrows for the KL estimate: another prompt's, drawn by --seed; the "
     "row before in its block (TRL); the row after (HALOs)"},
};
const OptionGroup group_kto_pairing = OPTION_GROUP("KTO's pairing", pairing_rows);

static const Option reference_rows[] = {
    {"reference", 0, OPTION_TEXT, "base", NULL,
     "base (adapter off), init (the adapter of step 0) or an adapter's directory"},
};
const OptionGroup group_reference = OPTION_GROUP("Reference", reference_rows);

static const Option start_rows[] = {
    {"init-adapter", 0, OPTION_DIR, NULL, NULL,
     "adapter to begin with; its own rank, alpha, targets and rslora hold"},
    {"full", 0, OPTION_FLAG, NULL, NULL,
     "train all weights instead of an adapter (small models); the result is RUN/model"},
};
static const OptionGroup start_group = OPTION_GROUP("What is trained", start_rows);

static const Option new_adapter_rows[] = {
    {"rank", 0, OPTION_COUNT, "16", "[1,65536]", "rank of a new adapter"},
    {"alpha", 0, OPTION_NUMBER, "32", "(0,1e9)", "scale = alpha / rank"},
    {"targets", 0, OPTION_WORDS, "all-linear",
     "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj|lm_head|all-linear",
     "linear maps that get an adapter; all-linear = the seven of a layer"},
    {"dropout", 0, OPTION_NUMBER, "0", "[0,1)", "share of an adapter's inputs dropped"},
    {"rslora", 0, OPTION_FLAG, NULL, NULL, "scale = alpha / sqrt(rank)"},
};
const OptionGroup group_new_adapter = OPTION_GROUP("New adapter", new_adapter_rows);

static const Option optimiser_rows[] = {
    {"lr", 0, OPTION_NUMBER, "auto", "(0,1000]|auto",
     "learning rate; auto: 1e-5, with --full 1e-6"},
    {"schedule", 0, OPTION_CHOICE, "linear", "linear|cosine|constant", "learning rate over steps"},
    {"warmup", 0, OPTION_NUMBER, "0", "[0,1000000000]",
     "steps of rising learning rate; below 1: share of all steps"},
    {"weight-decay", 0, OPTION_NUMBER, "0", "[0,1000]", "AdamW's"},
    {"max-grad-norm", 0, OPTION_NUMBER, "1", "[0,1000000000]", "longer gradients are cut; 0 = off"},
    {"batch", 0, OPTION_COUNT, "8", "[1,65536]", "rows (dpo: pairs) of a micro-batch"},
    {"accumulate", 0, OPTION_COUNT, "1", "[1,65536]", "micro-batches of an optimiser step"},
    {"epochs", 0, OPTION_NUMBER, "3", "(0,1000000]", "times through the rows"},
    {"steps", 0, OPTION_COUNT, NULL, "[1,1000000000]", "optimiser steps, instead of --epochs"},
    {"order", 0, OPTION_CHOICE, "shuffle", "shuffle|trl|file",
     "order of rows: our permutation, PyTorch's (TRL's order), or as in the file"},
};
const OptionGroup group_optimiser = OPTION_GROUP("Steps", optimiser_rows);

static const Option length_rows[] = {
    {"max-length", 'c', OPTION_COUNT, "1024", "[0,1000000]",
     "tokens of prompt + completion; longer rows are cut, longer prompts dropped; 0 = no limit"},
    {"drop-identical", 0, OPTION_FLAG, NULL, NULL, "leave out pairs whose two answers are equal"},
};
const OptionGroup group_length = OPTION_GROUP("Length", length_rows);

static const Option saving_rows[] = {
    {"save-every", 0, OPTION_COUNT, "100", NULL, "steps between checkpoints; 0 = only at the end"},
    {"keep", 0, OPTION_COUNT, "2", "[1,1000000]", "checkpoints kept"},
    {"log-every", 0, OPTION_COUNT, "1", "[1,1000000]", "steps between lines of metrics.jsonl"},
    {"memory", 0, OPTION_SIZE, "auto", "[1M,inf)|auto",
     "most memory to plan with; activations that do not fit are computed twice; auto: what is "
     "free"},
    {"force", 0, OPTION_FLAG, NULL, NULL, "go on where the memory plan does not fit"},
};
const OptionGroup group_saving = OPTION_GROUP("Saving, memory", saving_rows);

static const Option measuring_rows[] = {
    {"eval-every", 0, OPTION_COUNT, "0", NULL, "steps between evaluations; 0 = only at the end"},
    {"dump-gradients", 0, OPTION_FILE, NULL, NULL,
     "gradients of the first step, before clipping, as safetensors"},
};
static const OptionGroup measuring_group = OPTION_GROUP("Measuring", measuring_rows);

static const OptionGroup *const sft_groups[] = {
    &group_model,     &sft_data_group, &run_group,    &start_group, &group_new_adapter,
    &group_optimiser, &group_seed,     &group_length, &group_rows,  &group_saving,
    &measuring_group, &group_engine,   &group_quiet,  NULL};
static const OptionGroup *const dpo_groups[] = {
    &group_model,  &data_group,      &run_group,   &dpo_loss_group,    &group_beta,
    &group_dpo,    &group_reference, &start_group, &group_new_adapter, &group_optimiser,
    &group_seed,   &group_length,    &group_rows,  &group_saving,      &measuring_group,
    &group_engine, &group_quiet,     NULL};
static const OptionGroup *const kto_groups[] = {&group_model,
                                                &data_group,
                                                &run_group,
                                                &kto_loss_group,
                                                &group_beta,
                                                &group_kto_weights,
                                                &group_kto_pairing,
                                                &group_reference,
                                                &start_group,
                                                &group_new_adapter,
                                                &group_optimiser,
                                                &group_seed,
                                                &group_length,
                                                &group_rows,
                                                &group_saving,
                                                &measuring_group,
                                                &group_engine,
                                                &group_quiet,
                                                NULL};

static const OptionTable sft_table = {"sft", "train on given answers", NULL,
                                      "align sft -m MODEL --data answers.jsonl -o RUN", sft_groups};
static const OptionTable dpo_table = {"dpo", "train on preference pairs (Rafailov et al. 2023)",
                                      NULL, "align dpo -m MODEL --data pairs.jsonl -o RUN",
                                      dpo_groups};
static const OptionTable kto_table = {
    "kto", "train on answers labelled good or bad (Ethayarajh et al. 2024)", NULL,
    "align kto -m MODEL --data labelled.jsonl -o RUN", kto_groups};

/* ---- options to a configuration ------------------------------------------------------------ */

/* Place of the option's value in a list of names ended by NULL; the table allows no others. */
static int place_of(const Options *o, const char *option, const char *const *names)
{
    int i = 0;
    while (names[i] && !option_is(o, option, names[i])) i++;
    assert(names[i]); /* the table allows no other word */
    return i;
}

static int dpo_from(const Options *o, const char *loss, TrainConfig *c, Err *e)
{
    DpoConfig *d = &c->dpo;
    char word[32];
    int unknown = f_divergence_parse(option_text(o, "f-divergence"), &d->f);
    assert(!unknown);
    (void)unknown;
    if (option_text(o, loss)) d->n_losses = 0;
    for (size_t i = 0; option_word(o, loss, i, word, sizeof word); i++) {
        if (i == DPO_LOSS_COUNT)
            return err_set(e, ERR_USAGE, "--%s: at most %d losses", loss, DPO_LOSS_COUNT);
        if (dpo_loss_parse(word, &d->loss[i]))
            return err_set(e, ERR_USAGE, "--%s: %s is no loss of dpo; allowed: " DPO_LOSS_WORDS,
                           loss, word);
        d->weight[d->n_losses++] = 1;
    }
    double weight;
    size_t weights = 0;
    for (; option_list_number(o, "loss-weights", weights, &weight); weights++) {
        if (weights < d->n_losses) d->weight[weights] = weight;
    }
    if (weights && weights != d->n_losses)
        return err_set(e, ERR_USAGE, "--loss-weights: %zu weights for %zu losses", weights,
                       d->n_losses);
    d->beta = option_number(o, "beta");
    d->label_smoothing = option_number(o, "label-smoothing");
    d->f_alpha = option_number(o, "f-alpha");
    d->discopop_tau = option_number(o, "discopop-tau");
    d->wpo = option_flag(o, "wpo");
    c->ld_alpha = option_number(o, "ld-alpha");
    return 0;
}

static int kto_from(const Options *o, const char *option, TrainConfig *c, Err *e)
{
    const char *loss = option_text(o, option);
    int unknown = kto_pairing_parse(option_text(o, "kl-pairing"), &c->kl_pairing);
    assert(!unknown);
    (void)unknown;
    if (loss && kto_loss_parse(loss, &c->kto.loss))
        return err_set(e, ERR_USAGE, "--%s: %s is no loss of kto; allowed: " KTO_LOSS_WORDS, option,
                       loss);
    c->kto.beta = option_number(o, "beta");
    c->auto_desirable = option_is(o, "desirable-weight", "auto");
    c->auto_undesirable = option_is(o, "undesirable-weight", "auto");
    if (!c->auto_desirable) c->kto.desirable_weight = option_number(o, "desirable-weight");
    if (!c->auto_undesirable) c->kto.undesirable_weight = option_number(o, "undesirable-weight");
    return 0;
}

int train_config_begin(const Options *o, TrainMethod method, const char *loss, TrainConfig *c,
                       Err *e)
{
    *c = train_config_default(method);
    c->model_flags = model_flags(o);
    c->rows = row_options(o, c->rows.kind);
    c->rows.append_eos = 1;
    c->rows.max_length = (size_t)option_count(o, "max-length");
    c->rows.drop_identical = option_flag(o, "drop-identical");
    c->precision = precision_of(o);
    c->kernel = option_text(o, "kernel");
    c->seed = option_count(o, "seed");
    return method == TRAIN_DPO   ? dpo_from(o, loss, c, e)
           : method == TRAIN_KTO ? kto_from(o, loss, c, e)
                                 : 0;
}

void train_config_reference(const Options *o, TrainConfig *c)
{
    const char *reference = option_text(o, "reference");
    c->reference = !strcmp(reference, "base")   ? REFERENCE_BASE
                   : !strcmp(reference, "init") ? REFERENCE_INIT
                                                : REFERENCE_DIR;
    if (c->reference == REFERENCE_DIR) c->reference_dir = reference;
}

int train_config_steps(const Options *o, TrainConfig *c, Err *e)
{
    static const char *const orders[] = {"shuffle", "trl", "file", NULL};
    static const char *const schedules[] = {"linear", "cosine", "constant", NULL};
    c->lora.rank = (size_t)option_count(o, "rank");
    c->lora.alpha = option_number(o, "alpha");
    c->lora.rslora = option_flag(o, "rslora");
    c->lora.dropout = option_number(o, "dropout");
    c->lr = option_is(o, "lr", "auto") ? 0 : option_number(o, "lr");
    c->schedule = (Schedule)place_of(o, "schedule", schedules);
    c->warmup = option_number(o, "warmup");
    c->weight_decay = option_number(o, "weight-decay");
    c->max_grad_norm = option_number(o, "max-grad-norm");
    c->batch = (size_t)option_count(o, "batch");
    c->accumulate = (size_t)option_count(o, "accumulate");
    c->epochs = option_number(o, "epochs");
    c->steps = option_text(o, "steps") ? (size_t)option_count(o, "steps") : 0;
    c->order = (Order)place_of(o, "order", orders);
    c->save_every = (size_t)option_count(o, "save-every");
    c->keep = (size_t)option_count(o, "keep");
    c->log_every = (size_t)option_count(o, "log-every");
    c->memory = option_is(o, "memory", "auto") ? 0 : option_count(o, "memory");
    c->force = option_flag(o, "force");
    if (option_given(o, "epochs") && c->steps)
        return err_set(e, ERR_USAGE, "--steps and --epochs both say how long; give one of them");
    return lora_parse_targets(option_text(o, "targets"), &c->lora.targets, e);
}

/* Choices for a new adapter say nothing about one that exists, or about --full. */
static void warn_unused(const Options *o, const TrainConfig *c)
{
    static const char *const new_only[] = {"rank", "alpha", "targets", "rslora"};
    if (!c->init_adapter && !c->full) return;
    for (size_t i = 0; i < sizeof new_only / sizeof *new_only; i++)
        if (option_given(o, new_only[i]))
            log_note(notes(), 'w', "--%s has no effect with %s", new_only[i],
                     c->full ? "--full" : "--init-adapter, whose own holds");
}

static int config_from(const Options *o, TrainMethod method, TrainConfig *c, Err *e)
{
    if (train_config_begin(o, method, "loss", c, e) || train_config_steps(o, c, e)) return -1;
    if (method != TRAIN_SFT) train_config_reference(o, c);
    c->model = option_text(o, "model");
    c->data = option_text(o, "data");
    c->eval = option_text(o, "eval");
    c->run = option_text(o, "output");
    c->init_adapter = option_text(o, "init-adapter");
    c->full = option_flag(o, "full");
    c->resume = option_flag(o, "resume");
    c->dry_run = option_flag(o, "dry-run");
    c->eval_every = (size_t)option_count(o, "eval-every");
    c->dump_gradients = option_text(o, "dump-gradients");
    warn_unused(o, c);
    return 0;
}

/* ---- what a run tells ---------------------------------------------------------------------- */

void train_show(void *ctx, const TrainProgress *p)
{
    TrainShow *s = ctx;
    char tail[64] = "";
    if (!s->phase || strcmp(s->phase, p->phase)) {
        progress_end(&s->progress);
        progress_begin(&s->progress, p->phase, "tokens");
        s->phase = p->phase;
    }
    if (isfinite(p->margin))
        snprintf(tail, sizeof tail, "loss %.4f  margin %.4f", p->loss, p->margin);
    else if (isfinite(p->loss))
        snprintf(tail, sizeof tail, "loss %.4f", p->loss);
    progress_draw(&s->progress, p->done, p->total, p->seconds, p->eta, p->tokens_per_second, tail);
}

static double mebibytes(uint64_t bytes)
{
    return (double)bytes / (1 << 20);
}

static int put_plan(const TrainPlan *p, int json, Text *out, Err *e)
{
    if (json)
        return text_addf(out, e,
                         "{\"rows\":%zu,\"eval_rows\":%zu,\"epoch_steps\":%zu,\"steps\":%zu,"
                         "\"tokens\":%zu,\"scores\":%zu,\"keep_activations\":%s,\"memory\":{"
                         "\"weights\":%llu,\"trained\":%llu,\"activations\":%llu,\"head\":%llu,"
                         "\"other\":%llu,\"total\":%llu,\"limit\":%llu}}\n",
                         p->rows, p->eval_rows, p->epoch_steps, p->steps, p->tokens, p->scores,
                         p->keep ? "true" : "false", (unsigned long long)p->weights,
                         (unsigned long long)p->trained, (unsigned long long)p->activations,
                         (unsigned long long)p->head, (unsigned long long)p->other,
                         (unsigned long long)p->total, (unsigned long long)p->limit);
    return text_addf(out, e,
                     "rows               %zu (evaluation %zu)\n"
                     "steps              %zu (an epoch has %zu)\n"
                     "largest batch      %zu tokens, %zu of them scored\n"
                     "activations        %s\n"
                     "memory             %.1f MiB of %.1f MiB:\n"
                     "  trained          %.1f MiB (weights, gradients, AdamW)\n"
                     "  activations      %.1f MiB\n"
                     "  head             %.1f MiB\n"
                     "  other            %.1f MiB (rows, log-probs, scratch)\n"
                     "mapped weights     %.1f MiB, shared with the system's file cache\n",
                     p->rows, p->eval_rows, p->steps, p->epoch_steps, p->tokens, p->scores,
                     p->keep ? "kept" : "computed twice, to fit --memory", mebibytes(p->total),
                     mebibytes(p->limit), mebibytes(p->trained), mebibytes(p->activations),
                     mebibytes(p->head), mebibytes(p->other), mebibytes(p->weights));
}

static int put_result(const TrainConfig *c, const TrainResult *r, int json, Text *out, Err *e)
{
    const char *product = c->full ? "model" : "adapter";
    if (json) {
        if (text_addf(out, e, "{\"%s\":", product)) return -1;
        Text path = {0};
        int status = text_addf(&path, e, "%s/%s", c->run, product) ||
                     json_put_string(out, path.data, path.len, e);
        text_free(&path);
        return status ||
                       text_addf(out, e,
                                 ",\"steps\":%zu,\"resumed_from\":%zu,\"skipped\":%zu,"
                                 "\"loss\":",
                                 r->steps, r->resumed_from, r->skipped) ||
                       json_put_f64(out, r->loss, e) || text_addf(out, e, ",\"eval_loss\":") ||
                       json_put_f64(out, r->eval_loss, e) ||
                       text_addf(out, e, ",\"seconds\":%.3f}\n", r->seconds)
                   ? -1
                   : 0;
    }
    if (r->finished_before)
        return text_addf(out, e, "%s: already finished, nothing changed\n", c->run);
    if (text_addf(out, e, "%s/%s  %zu steps", c->run, product, r->steps)) return -1;
    if (isfinite(r->loss) && text_addf(out, e, "  loss %.6f", r->loss)) return -1;
    if (isfinite(r->eval_loss) && text_addf(out, e, "  eval loss %.6f", r->eval_loss)) return -1;
    if (r->skipped && text_addf(out, e, "  %zu steps skipped", r->skipped)) return -1;
    return text_addf(out, e, "  %.1f s\n", r->seconds);
}

/* ---- a judge of one's own ------------------------------------------------------------------ */

/* The rows in `made` become the file `path`. One that is there is kept if it says the same. */
static int place_rows(const char *made, const char *path, Err *e)
{
    char is[65], was[65];
    if (!io_exists(path)) return io_rename(made, path, e);
    if (sha256_file(made, is, e) || sha256_file(path, was, e)) return -1;
    if (strcmp(is, was))
        return err_set(e, ERR_CREATE, "%s: exists with other rows; take another --output", path);
    remove(made);
    return 0;
}

/* --judge-data: labelled responses become the rows of OUTPUT.rows.jsonl (path), which are then the
 * training rows. A dry run's go into a temporary file that the caller removes. */
static int teach_judge(const Options *o, TrainConfig *c, char path[IO_PATH_MAX], Err *e)
{
    JudgeTraining r;
    const char *labelled = option_text(o, "judge-data");
    if (!labelled) return 0;
    if (c->data) return err_set(e, ERR_USAGE, "--data and --judge-data: give one of them");
    if (!c->run)
        return err_set(e, ERR_USAGE, "--judge-data needs --output: rows are put beside it");
    JudgeConfig judge = {.kind = "model",
                         .model = c->model,
                         .chat_template = option_text(o, "chat-template"),
                         .order = judge_order_from(o, "label-order"),
                         .max_length = c->rows.max_length};
    char made[IO_PATH_MAX];
    snprintf(path, IO_PATH_MAX, "%s.rows.jsonl", c->run);
    int n = snprintf(made, sizeof made, "%s.rows.jsonl.tmp.%ld", c->run, (long)getpid());
    if (n < 0 || (size_t)n >= sizeof made)
        return err_set(e, ERR_USAGE, "--output: the path is too long");
    if (judge_training_rows(&judge, labelled, made, &r, e)) return -1;
    if (c->dry_run)
        memcpy(path, made, (size_t)n + 1);
    else if (place_rows(made, path, e)) {
        remove(made);
        return -1;
    }
    log_note(notes(), 'i',
             "%s: %zu rows that teach a judge (accept %zu, caution %zu, refuse %zu); %zu without a "
             "label, %zu cut to --max-length",
             path, r.rows, r.actions[ACTION_ACCEPT], r.actions[ACTION_CAUTION],
             r.actions[ACTION_REFUSE], r.unlabelled, r.cut);
    c->data = path;
    return 0;
}

/* ---- the commands -------------------------------------------------------------------------- */

static int train(const Options *o, TrainMethod method, Err *e)
{
    TrainConfig c;
    TrainResult result;
    TrainShow show = {.phase = NULL};
    Text text = {0};
    char rows[IO_PATH_MAX]; /* c.data, with --judge-data */
    if (config_from(o, method, &c, e)) return -1;
    threads_from(o);
    if (note_options(o, e)) return -1;
    if (method == TRAIN_SFT && teach_judge(o, &c, rows, e)) return -1;
    TrainEvents events = {.ctx = &show, .log = *notes(), .progress = train_show};
    int json = option_flag(o, "json");
    int status = train_run(&c, &events, &result, e);
    progress_end(&show.progress);
    if (c.dry_run && c.data == rows) remove(rows);
    if (!status)
        status = c.dry_run ? put_plan(&result.plan, json, &text, e)
                           : put_result(&c, &result, json, &text, e);
    if (!status) status = print_text(&text, e);
    text_free(&text);
    return status;
}

static int sft_run(const Options *o, Err *e)
{
    return train(o, TRAIN_SFT, e);
}

static int dpo_run(const Options *o, Err *e)
{
    return train(o, TRAIN_DPO, e);
}

static int kto_run(const Options *o, Err *e)
{
    return train(o, TRAIN_KTO, e);
}

const Command command_sft = {&sft_table, sft_run};
const Command command_dpo = {&dpo_table, dpo_run};
const Command command_kto = {&kto_table, kto_run};
