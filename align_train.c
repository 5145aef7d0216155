/* align_train.c - the commands that train: sft, dpo, kto; and how options become a TrainConfig. */
#include "align.h"
#include "train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- options ------------------------------------------------------------------------------- */

static const Option sft_data_rows[] = {
    {"data", 0, OPTION_FILE, NULL, NULL, "training rows, JSONL (required without --judge-data)",
     FIELD(TrainConfig, data), .free = 1},
    {"judge-data", 0, OPTION_FILE, NULL, NULL,
     "train a judge: responses with a column label, gold or action; their rows are written to "
     "OUTPUT.rows.jsonl",
     BY_NAME},
    {"train-on", 0, OPTION_CHOICE, "auto", NULL,
     "tokens that are trained: those of the last answer, of each answer, or all, including the "
     "prompt; auto is TRL's rule: all of \"messages\" and \"text\", the completion of "
     "\"prompt\" rows",
     FIELD(TrainConfig, rows.train_on), .words = train_on_name},
    {"label-order", 0, OPTION_CHOICE, "rotations", NULL,
     "orders of the labels in a judge's prompt, between which the rows alternate", BY_NAME,
     .words = judge_order_name, .when = "judge-data"},
};
static const OptionGroup sft_data_group = OPTION_GROUP("Data", sft_data_rows);

static const OptionGroup *const sft_groups[] = {
    &model_options, &sft_data_group, &train_run_options, &train_start_options, &lora_options,
    &train_optimiser_options, &seed_options, &data_length_options, &data_options,
    &train_saving_options, &train_measuring_options, &engine_options, &group_quiet, NULL};
static const OptionGroup *const dpo_groups[] = {
    &model_options, &train_data_options, &train_run_options, &dpo_loss_options, &beta_options,
    &dpo_options, &train_reference_options, &train_start_options, &lora_options,
    &train_optimiser_options, &seed_options, &data_length_options, &data_options,
    &train_saving_options, &train_measuring_options, &engine_options, &group_quiet, NULL};
static const OptionGroup *const kto_groups[] = {
    &model_options, &train_data_options, &train_run_options, &kto_loss_options, &beta_options,
    &kto_weight_options, &train_pairing_options, &train_reference_options, &train_start_options,
    &lora_options, &train_optimiser_options, &seed_options, &data_length_options, &data_options,
    &train_saving_options, &train_measuring_options, &engine_options, &group_quiet, NULL};

static const OptionTable sft_table = {"sft", "train on given answers", NULL,
                                      "align sft -m MODEL --data answers.jsonl -o RUN", sft_groups,
                                      "model data train-on judge-data eval output full rank lr "
                                      "batch accumulate epochs max-length dry-run resume"};
static const OptionTable dpo_table = {"dpo", "train on preference pairs (Rafailov et al. 2023)",
                                      NULL, "align dpo -m MODEL --data pairs.jsonl -o RUN",
                                      dpo_groups,
                                      "model data eval output loss beta full rank lr batch "
                                      "accumulate epochs max-length dry-run resume"};
static const OptionTable kto_table = {
    "kto", "train on answers labelled good or bad (Ethayarajh et al. 2024)", NULL,
    "align kto -m MODEL --data labelled.jsonl -o RUN", kto_groups,
    "model data eval output loss beta desirable-weight undesirable-weight rank lr batch "
    "epochs max-length dry-run resume"};

/* ---- options to a configuration ------------------------------------------------------------ */

/* ---- where our defaults are not TRL's ------------------------------------------------------ */

/* A default that decides what is learnt and is another one in TRL 1.16.0: TRL's, as the option
 * takes it, for each TrainMethod (NULL = ours). README.md says why, and tools/trl_defaults.py
 * compares all three. */
typedef struct {
    const char *option, *trl[3];
    int adapter; /* says nothing with --full or --init-adapter */
} OtherDefault;

static const OtherDefault other_defaults[] = {
    {"full", {"on", "on", "on"}, 1},
    {"lr", {"1e-6", "1e-6", "2e-5"}, 0},
    {"targets", {"q_proj,v_proj", "q_proj,v_proj", "q_proj,v_proj"}, 1},
    {"dropout", {NULL, NULL, "0.05"}, 1},
    {"order", {"trl", "trl", "trl"}, 0},
    {"kl-pairing", {NULL, "trl", NULL}, 0},
    {"precision", {"bf16", "bf16", "bf16"}, 0},
};

/* Our value of the default, as it is in this run. */
static void default_text(const Options *o, const char *option, const TrainConfig *c, char *out,
                         size_t size)
{
    const char *text = option_text(o, option);
    if (!strcmp(option, "lr"))
        snprintf(out, size, "%g", train_default_lr(c));
    else
        snprintf(out, size, "%s", text ? text : "off");
}

/* One line that names the defaults this run takes where TRL has others. */
static int tell_objective(const Options *o, const TrainConfig *c, Err *e)
{
    Text line = {0};
    char ours[64];
    int failed = 0;
    for (size_t i = 0; i < sizeof other_defaults / sizeof *other_defaults && !failed; i++) {
        const OtherDefault *d = &other_defaults[i];
        const char *trl = d->trl[c->method];
        if (!trl || option_given(o, d->option) || (d->adapter && (c->full || c->init_adapter)))
            continue;
        default_text(o, d->option, c, ours, sizeof ours);
        if (!strcmp(d->option, "lr") && train_default_lr(c) == strtod(trl, NULL)) continue;
        failed =
            text_addf(&line, e, "%s%s %s (TRL %s)", line.len ? ", " : "", d->option, ours, trl);
    }
    if (!failed && c->method != TRAIN_SFT && c->lora.dropout > 0)
        failed = text_addf(&line, e, "%sdropout %g (TRL 0: its disable_dropout)",
                           line.len ? ", " : "", c->lora.dropout);
    if (!failed && line.len)
        log_note(notes(), 'i', "objective: defaults that are not TRL's: %s; README.md says why",
                 line.data);
    text_free(&line);
    return failed ? -1 : 0;
}

static int config_from(const Options *o, TrainMethod method, TrainConfig *c, Err *e)
{
    *c = train_config_default(method);
    options_fill(o, &sft_data_group, c);
    if (train_config_fill(c, o, e)) return -1;
    return method == TRAIN_DPO ? dpo_losses_check(&c->dpo, "loss", e) : 0;
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

/* What a run shows: its progress, and on a dry run its first row. */
typedef struct {
    TrainShow show; /* first: train_show is handed this */
    int json;
    Text row;
} RunShow;

static int show_row(void *ctx, const Tokenizer *t, const Row *row, size_t sides, Err *e)
{
    RunShow *s = ctx;
    return put_row_tokens(t, row, sides, s->json, &s->row, e);
}

static int put_plan(const TrainPlan *p, const Text *row, int json, Text *out, Err *e)
{
    if (json)
        return text_addf(out, e,
                         "{\"rows\":%zu,\"eval_rows\":%zu,\"epoch_steps\":%zu,\"steps\":%zu,"
                         "\"tokens\":%zu,\"scores\":%zu,\"keep_activations\":%s,\"memory\":{"
                         "\"weights\":%llu,\"trained\":%llu,\"activations\":%llu,\"head\":%llu,"
                         "\"other\":%llu,\"total\":%llu,\"limit\":%llu},\"first_row\":%s}\n",
                         p->rows, p->eval_rows, p->epoch_steps, p->steps, p->tokens, p->scores,
                         p->keep ? "true" : "false", (unsigned long long)p->weights,
                         (unsigned long long)p->trained, (unsigned long long)p->activations,
                         (unsigned long long)p->head, (unsigned long long)p->other,
                         (unsigned long long)p->total, (unsigned long long)p->limit,
                         row->data ? row->data : "[]");
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
                     "mapped weights     %.1f MiB, shared with the system's file cache\n%s",
                     p->rows, p->eval_rows, p->steps, p->epoch_steps, p->tokens, p->scores,
                     p->keep ? "kept" : "computed twice, to fit --memory", mebibytes(p->total),
                     mebibytes(p->limit), mebibytes(p->trained), mebibytes(p->activations),
                     mebibytes(p->head), mebibytes(p->other), mebibytes(p->weights),
                     row->data ? row->data : "");
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
                       text_addf(out, e,
                                 ",\"memory\":{\"planned\":%llu,\"used\":%llu},"
                                 "\"seconds\":%.3f}\n",
                                 (unsigned long long)(r->plan.activations + r->plan.head),
                                 (unsigned long long)r->used, r->seconds)
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

/* The rows in `made` become the file `path`, but for a plan. One that is there is kept if it says
 * the same. */
static int place_rows(const char *made, const char *path, int plan, Err *e)
{
    char is[65], was[65];
    if (!io_exists(path)) return plan ? 0 : io_rename(made, path, e);
    if (sha256_file(made, is, e) || sha256_file(path, was, e)) return -1;
    if (strcmp(is, was))
        return err_set(e, ERR_CREATE, "%s: exists with other rows; take another --output", path);
    if (!plan) remove(made);
    return 0;
}

/* --judge-data: labelled responses become the rows of OUTPUT.rows.jsonl (path), which are then the
 * training rows. A dry run's go into a temporary file that the caller removes. */
static int teach_judge(const Options *o, TrainConfig *c, char path[IO_PATH_MAX], Err *e)
{
    JudgeTraining r;
    const char *labelled = option_text(o, "judge-data");
    if (!labelled && !c->data)
        return err_set(e, ERR_USAGE, "--data FILE or --judge-data FILE is needed");
    if (!labelled) return 0;
    if (c->data) return err_set(e, ERR_USAGE, "--data and --judge-data: give one of them");
    if (c->rows.map)
        return err_set(e, ERR_USAGE, "--map names columns of --data: not with --judge-data");
    if (!c->run)
        return err_set(e, ERR_USAGE, "--judge-data needs --output: rows are put beside it");
    JudgeConfig judge = {.kind = "model",
                         .model = c->model,
                         .chat_template = c->rows.chat_template,
                         .date = c->rows.date,
                         .order = (JudgeOrder)option_place(judge_order_name,
                                                           option_text(o, "label-order")),
                         .max_length = c->rows.max_length,
                         .log = notes()};
    char made[IO_PATH_MAX];
    snprintf(path, IO_PATH_MAX, "%s.rows.jsonl", c->run);
    if (io_temporary_name(made, sizeof made, path, e)) return -1;
    if (judge_training_rows(&judge, labelled, made, &r, e)) return -1;
    if (place_rows(made, path, c->dry_run, e)) {
        remove(made);
        return -1;
    }
    if (c->dry_run) memcpy(path, made, sizeof made);
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
    RunShow show = {.json = option_flag(o, "json")};
    Text text = {0};
    char rows[IO_PATH_MAX]; /* c.data, with --judge-data */
    if (config_from(o, method, &c, e)) return -1;
    threads_from(o);
    if (note_options(o, e) || tell_objective(o, &c, e)) return -1;
    if (method == TRAIN_SFT && teach_judge(o, &c, rows, e)) return -1;
    TrainEvents events = {
        .ctx = &show, .log = *notes(), .progress = train_show, .row = show_row};
    int json = show.json;
    int status = train_run(&c, &events, &result, e);
    progress_end(&show.show.progress);
    if (c.dry_run && c.data == rows) remove(rows);
    if (!status)
        status = c.dry_run ? put_plan(&result.plan, &show.row, json, &text, e)
                           : put_result(&c, &result, json, &text, e);
    if (!status) status = print_text(&text, e);
    text_free(&text);
    text_free(&show.row);
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
