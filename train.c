/* train.c - runs a training: prepares, steps, finishes. */
#include "train_parts.h"

#include <math.h>
#include <string.h>

/* The run ends after this number of consecutive steps without finite numbers. */
#define MAX_SKIPPED_IN_ROW 3
/* Warn after this many consecutive idle (or saturated) steps. */
#define NOTABLE_STEPS 20
/* A mean reward margin beyond which the loss has no gradient left. */
#define SATURATED_MARGIN 100
/* No run is planned beyond (and counts of steps fit every machine). */
#define MOST_STEPS 1e9

/* ---- prepare: the run directory ------------------------------------------------------------ */

/* *empty = 1 for a directory with nothing in it. */
static int look_into(const char *path, int *empty, Err *e)
{
    Pool pool = {0};
    char **names;
    size_t count;
    *empty = 0;
    if (!io_is_directory(path)) return 0;
    int failed = io_list(path, &pool, &names, &count, e);
    *empty = !failed && !count;
    pool_free(&pool);
    return failed;
}

/* *only = 1 where the directory holds nothing but LOCK and what a crash before the first file
 * leaves. */
static int holds_lock_only(const Run *r, int *only, Err *e)
{
    Pool pool = {0};
    char **names;
    size_t count = 0;
    int failed = io_list(r->c.run, &pool, &names, &count, e);
    *only = 1;
    for (size_t i = 0; i < count && *only; i++)
        *only = !strcmp(names[i], "LOCK") || !strncmp(names[i], "config.json.tmp.", 16);
    pool_free(&pool);
    return failed;
}

static int open_directory(Run *r, Err *e)
{
    const char *dir = r->c.run;
    if (!dir) return 0; /* a plan without -o */
    int existed = io_exists(dir), empty;
    if (look_into(dir, &empty, e)) return -1;
    if (existed && !empty && !r->c.resume)
        return err_set(e, ERR_CREATE,
                       "%s: exists already; --resume goes on with it, or take another -o", dir);
    r->begun_empty = !existed || empty;
    if (r->c.dry_run) return io_check_new(dir, e);
    if (!empty && io_make_directory(dir, 0, e)) return -1;
    if (io_lock(&r->lock, dir, e)) {
        Err ignored;
        if (!existed && e->code != ERR_CREATE) io_remove_tree(dir, &ignored);
        return -1;
    }
    r->locked = 1;
    r->made = !existed;
    r->begun_empty = !existed || empty;
    if (!r->begun_empty) return 0;
    if (holds_lock_only(r, &empty, e)) return -1;
    if (empty) return 0;
    r->begun_empty = 0; /* another began, and ended, meanwhile: all of it stays */
    return err_set(e, ERR_CREATE, "%s: another process wrote a run into it", dir);
}

/* ---- prepare: model, rows, adapters -------------------------------------------------------- */

static int load_model(Run *r, Err *e)
{
    const TrainConfig *c = &r->c;
    return engine_open(&r->engine,
                       &(EngineConfig){.model = c->model,
                                       .flags = c->model_flags,
                                       .kernel = c->kernel,
                                       .precision = c->precision,
                                       .log = &r->events->log},
                       e);
}

/* The model must know every id that the tokenizer gave. */
static int check_ids(const Run *r, const Dataset *d, const char *path, Err *e)
{
    for (size_t i = 0; i < d->count; i++) {
        const Row *row = &d->rows[i];
        const int32_t *ids[3] = {row->prompt, row->completion[0], row->completion[1]};
        size_t n[3] = {row->n_prompt, row->n_uncut[0], row->n_uncut[1]};
        for (size_t part = 0; part < 3; part++)
            for (size_t t = 0; t < n[part]; t++)
                if (ids[part][t] < 0 || (size_t)ids[part][t] >= r->engine.model.config.V)
                    return err_set(e, ERR_DATA,
                                   "%s: line %zu: token id %ld, but the model has %zu ids: "
                                   "tokenizer and model do not fit together",
                                   path, row->line, (long)ids[part][t], r->engine.model.config.V);
    }
    return 0;
}

/* KTO: whose completion each row borrows. halos draws its partners anew from every batch. */
static int find_partners(Run *r, TrainSet *set, const char *path, Err *e)
{
    size_t n = set->rows.count, alone = 0;
    if (r->c.method != TRAIN_KTO || !kto_needs_kl(r->c.kto.loss)) return 0;
    if (n < 2)
        return err_set(e, ERR_DATA, "%s: kto needs at least 2 rows to pair, found %zu", path, n);
    if (r->c.kl_pairing == KTO_HALOS) return 0;
    uint64_t *prompts = mem_calloc(n, sizeof *prompts, e);
    set->partner = prompts ? mem_calloc(n, sizeof *set->partner, e) : NULL;
    for (size_t i = 0; set->partner && i < n; i++) prompts[i] = set->rows.rows[i].prompt_key;
    int failed = !set->partner || kto_partners(r->c.kl_pairing, n, r->c.batch, r->c.seed, prompts,
                                               set->partner, &alone, e);
    mem_free(prompts);
    if (failed) return err_prefix(e, "%s", path);
    if (r->c.kl_pairing == KTO_TRL && r->c.order == ORDER_SHUFFLE && (r->c.run || r->c.dry_run))
        log_note(&r->events->log, 'w',
                 "--kl-pairing trl pairs rows within blocks of the file, but --order shuffle mixes "
                 "the blocks; TRL's own estimate needs --order trl");
    if (alone)
        log_note(&r->events->log, 'w',
                 "%s: the last row stands alone in its block: --kl-pairing trl pairs it with "
                 "itself, as TRL does, so its kl is its own log-ratio",
                 path);
    return 0;
}

static int load_set(Run *r, TrainSet *set, const char *path, Err *e)
{
    DataOptions o = r->c.rows;
    static const DataKind kinds[] = {DATA_PAIRS, DATA_UNPAIRED, DATA_COMPLETION};
    o.kind = kinds[r->c.method];
    o.append_eos = 1;
    if (!o.date && *r->day) o.date = r->day;
    if (data_load(&set->rows, path, &o, r->engine.tokenizer, &r->events->log, e)) return -1;
    memcpy(r->day, set->rows.report.date, sizeof r->day); /* one day, whenever a set is read */
    data_describe(&set->rows, &r->events->log);
    if (set->rows.count > UINT32_MAX)
        return err_set(e, ERR_DATA, "%s: %zu rows are too many", path, set->rows.count);
    set->reference = mem_calloc(set->rows.count, sizeof *set->reference, e);
    set->known = set->reference ? mem_calloc(set->rows.count, 1, e) : NULL;
    if (!set->known || check_ids(r, &set->rows, path, e)) return -1;
    return find_partners(r, set, path, e);
}

/* `auto`: the weight that balances the classes (with one weight given, against that one). */
static void resolve_weights(Run *r)
{
    const DataReport *report = &r->train.rows.report;
    KtoConfig *k = &r->c.kto;
    double desirable, undesirable;
    if (r->c.method != TRAIN_KTO) return;
    kto_auto_weights(report->desirable, report->undesirable, &desirable, &undesirable);
    if (r->c.kto.auto_desirable)
        k->desirable_weight =
            r->c.kto.auto_undesirable ? desirable : k->undesirable_weight * desirable / undesirable;
    if (r->c.kto.auto_undesirable)
        k->undesirable_weight =
            r->c.kto.auto_desirable ? undesirable : k->desirable_weight * undesirable / desirable;
    if (r->c.kto.auto_desirable || r->c.kto.auto_undesirable)
        log_note(&r->events->log, 'i', "class weights: desirable %g, undesirable %g",
                 k->desirable_weight, k->undesirable_weight);
}

static void warn_balance(const Run *r)
{
    const DataReport *d = &r->train.rows.report;
    KtoWeightRanges w;
    if (r->c.method != TRAIN_KTO) return;
    if (!d->desirable || !d->undesirable)
        log_note(&r->events->log, 'w', "all %zu rows are %s: nothing to tell good from bad",
                 r->train.rows.count, d->desirable ? "desirable" : "undesirable");
    else if (!kto_weights_balanced(&r->c.kto, d->desirable, d->undesirable, &w))
        log_note(&r->events->log, 'w',
                 "%zu desirable and %zu undesirable rows: set --desirable-weight between %.2f and "
                 "%.2f, or --undesirable-weight between %.2f and %.2f (or auto)",
                 d->desirable, d->undesirable, w.desirable_low, w.desirable_high, w.undesirable_low,
                 w.undesirable_high);
}

static int load_rows(Run *r, Err *e)
{
    size_t overlap = 0;
    if (load_set(r, &r->train, r->c.data, e)) return -1;
    /* The rule is found by the training rows; it holds for the evaluation's, as in TRL. */
    if (r->train.rows.report.train_on == TRAIN_ON_ALL) r->c.rows.train_on = TRAIN_ON_ALL;
    resolve_weights(r);
    warn_balance(r);
    if (!r->c.eval) return 0;
    if (load_set(r, &r->eval, r->c.eval, e) ||
        data_overlap(&r->train.rows, &r->eval.rows, &overlap, e))
        return -1;
    if (overlap)
        log_note(&r->events->log, 'w', "%zu of the %zu rows of %s are training rows, too", overlap,
                 r->eval.rows.count, r->c.eval);
    return 0;
}

/* Dropout is what the command line says; a file's does not act (TRL's disable_dropout). */
static void set_dropout(Lora *lora, double dropout)
{
    size_t slots = lora->shape.layers * TARGET_COUNT + 1;
    lora->config.dropout = dropout;
    for (size_t i = 0; i < slots; i++) lora->slots[i].dropout = dropout;
}

/* Dropout that TRL would apply in training and this program does not: attention's (TRL's
 * disable_dropout leaves it on), and with sft that of the adapter's file. */
static void tell_dropout(const Run *r)
{
    const Log *log = &r->events->log;
    double attention = r->engine.model.config.attention_dropout, file = r->policy.config.dropout;
    if (attention > 0)
        log_note(log, 'w',
                 "objective: config.json says \"attention_dropout\": %g, which TRL applies in "
                 "training; here it is 0 always",
                 attention);
    if (r->c.method == TRAIN_SFT && r->c.init_adapter && file > 0 && r->c.lora.dropout == 0)
        log_note(log, 'w',
                 "objective: the adapter's file says \"lora_dropout\": %g, which TRL applies in "
                 "sft; here it takes --dropout %g",
                 file, file);
}

static void tell_reference(const Run *r)
{
    const TrainConfig *c = &r->c;
    const char *directory = c->reference == REFERENCE_DIR ? c->reference_dir : c->init_adapter;
    if (c->reference == REFERENCE_BASE || !directory)
        log_note(&r->events->log, 'i', "reference: the base model, %s", c->model);
    else
        log_note(&r->events->log, 'i', "reference: the base model with the adapter %s%s", directory,
                 c->reference == REFERENCE_INIT ? ", as the policy is at step 0" : "");
}

/* The model as an adapter with whole weights has it. Rows were read by the model's own
 * tokenizer. */
static int adapt(Run *r, const Lora *lora, const char *dir, Model *m, Err *e)
{
    if (!lora->n_saved) return 0;
    *m = r->engine.model;
    if (model_adapt(m, lora, e)) return -1;
    if (!*lora->tokenizer || m->config.V == r->engine.model.config.V) return 0;
    return err_set(e, ERR_DATA,
                   "%s: the adapter has a tokenizer and a vocabulary of its own, and the rows are "
                   "read with the model's: merge it into a model first (align merge)",
                   dir);
}

/* The adapter to be trained (or the model's weights), and the reference's. */
static int open_adapters(Run *r, Err *e)
{
    TrainConfig *c = &r->c;
    LoraShape shape;
    model_lora_shape(&r->engine.model, &shape);
    if (c->full) {
        if (model_make_trainable(&r->engine.model, e)) return -1;
    } else {
        snprintf(c->lora.base, sizeof c->lora.base, "%s", c->model);
        if (c->init_adapter ? lora_load(&r->policy, c->init_adapter, &shape, !r->reading, e)
                            : lora_create(&r->policy, &c->lora, &shape, c->seed, 1, e))
            return -1;
        r->has_policy = 1;
        if (adapt(r, &r->policy, c->init_adapter, &r->policy_model, e)) return -1;
        if (c->init_adapter) lora_describe(&r->policy, c->init_adapter, &r->events->log);
        tell_dropout(r);
        if (c->lora.dropout > 0 && r->policy.config.dora && lora_at(&r->policy, 0, TARGET_HEAD))
            return err_set(e, ERR_USAGE,
                           "--dropout does not act on lm_head with DoRA: leave lm_head out of "
                           "--targets, or set --dropout 0");
        set_dropout(&r->policy, c->lora.dropout);
        snprintf(r->policy.config.base, sizeof r->policy.config.base, "%s", c->model);
        c->lora = r->policy.config;
    }
    if (params_collect(r, e)) return -1;
    if (c->method == TRAIN_SFT) return 0;

    tell_reference(r);
    const char *frozen = c->reference == REFERENCE_DIR    ? c->reference_dir
                         : c->reference == REFERENCE_INIT ? c->init_adapter
                                                          : NULL;
    if (frozen) {
        if (lora_load(&r->frozen, frozen, &shape, 0, e)) return -1;
        r->has_frozen = 1;
        if (adapt(r, &r->frozen, frozen, &r->frozen_model, e)) return -1;
    }
    int zero = c->full || lora_is_zero(&r->policy);
    r->starts_equal = c->reference == REFERENCE_BASE   ? zero
                      : c->reference == REFERENCE_INIT ? zero || c->lora.dropout == 0
                                                       : 0;
    return 0;
}

/* Are the rows put into the words that the model, and the adapters it begins with, know? */
static void tell_template(const Run *r)
{
    const ChatTemplate *chat = r->train.rows.chat;
    chat_check(chat, r->engine.tokenizer, 0, &r->events->log);
    if (!chat && !r->c.rows.parse_special) chat_check_plain(r->engine.tokenizer, &r->events->log);
    chat_check_adapter(chat, r->c.init_adapter, &r->events->log);
    if (r->c.reference == REFERENCE_DIR)
        chat_check_adapter(chat, r->c.reference_dir, &r->events->log);
}

int run_open(Run *r, Err *e)
{
    if (load_model(r, e) || load_rows(r, e) || open_adapters(r, e)) return -1;
    tell_template(r);
    return 0;
}

/* ---- prepare ------------------------------------------------------------------------------- */

static int count_steps(Run *r, Err *e)
{
    r->epoch_batches = run_batch_count(r, r->train.rows.count);
    r->epoch_steps = (r->epoch_batches + r->c.accumulate - 1) / r->c.accumulate;
    double steps = r->c.steps ? (double)r->c.steps : ceil(r->c.epochs * (double)r->epoch_steps);
    if (steps > MOST_STEPS)
        return err_set(e, ERR_USAGE,
                       "found %.0f steps, allowed are %.0f: lower --epochs or --steps", steps,
                       MOST_STEPS);
    r->steps = (size_t)steps;
    return 0;
}

/* Says so where the run ends before its learning rate has risen. Step k of W has k / W of it. */
static void warn_warmup(const Run *r)
{
    double W = train_warmup_steps(&r->c, r->steps), last = (double)(r->steps - 1);
    if (!r->steps || W < (double)r->steps) return;
    log_note(&r->events->log, 'w',
             "--warmup %g: the run has %zu steps, so the learning rate is still rising at its end, "
             "to %g of %g; lower --warmup (0 = none; below 1: share of all steps), or train longer",
             r->c.warmup, r->steps, r->c.lr * last / W, r->c.lr);
}

static int is_finished(const Run *r)
{
    char path[IO_PATH_MAX];
    Err ignored;
    return !io_path(path, sizeof path, r->c.run, r->c.full ? "model" : "adapter", &ignored) &&
           io_is_directory(path);
}

/* Is the directory this run's own? Writes down whose it is where it was empty. *finished = 1 where
 * all is done. Until it is known to be ours, nothing in it is touched. */
static int claim_directory(Run *r, int *finished, Err *e)
{
    char path[IO_PATH_MAX];
    if (!r->c.run) return 0; /* a plan without -o */
    if (io_path(path, sizeof path, r->c.run, "config.json", e)) return -1;
    int only = r->begun_empty || io_exists(path);
    if (!only && holds_lock_only(r, &only, e)) return -1;
    if (!only)
        return err_set(e, ERR_CREATE, "%s: is no run that could be resumed; take another -o",
                       r->c.run);
    if (r->c.dry_run && !checkpoint_has_identity(r)) return 0; /* a plan writes nothing */
    if (model_hash(&r->engine.model, r->model_sha256, e) ||
        model_expect(&r->engine.model, r->model_sha256, r->c.model_sha256, e) ||
        checkpoint_identity(r, e))
        return -1;
    if (r->c.dry_run) return 0;
    r->ours = 1;
    checkpoint_sweep(r);
    *finished = is_finished(r);
    return 0;
}

static int prepare_references(Run *r, const unsigned char *needed, Err *e)
{
    if (r->c.method == TRAIN_SFT) return 0;
    if (reference_prepare(r, &r->train, needed, "reference.jsonl", e)) return -1;
    return r->eval.rows.count ? reference_prepare(r, &r->eval, NULL, "reference-eval.jsonl", e) : 0;
}

/* Says that --dump-gradients, which is about the first step, leaves no file on a resumed run. */
static void warn_no_dump(const Run *r)
{
    if (r->c.dump_gradients)
        log_note(&r->events->log, 'w',
                 "--dump-gradients: the first step was made before; %s is not written",
                 r->c.dump_gradients);
}

/* The newest checkpoint, and the lines of metrics.jsonl up to it. */
static int resume(Run *r, TrainResult *result, Err *e)
{
    char path[IO_PATH_MAX];
    int found = 0;
    if (checkpoint_load(r, &found, e)) return -1;
    result->resumed_from = r->state.step;
    if (r->state.step > 0) warn_no_dump(r);
    if (found)
        log_note(&r->events->log, 'i', "going on from step %zu of %zu", r->state.step, r->steps);
    return io_path(path, sizeof path, r->c.run, "metrics.jsonl", e) ||
                   metrics_trim(path, r->state.step, e)
               ? -1
               : 0;
}

/* Can the gradients be written? To be known now, and not after the references. */
static int check_dump(const Run *r, Err *e)
{
    Writer w;
    if (!r->c.dump_gradients) return 0;
    if (r->c.dry_run) return io_check_new(r->c.dump_gradients, e);
    if (writer_open(&w, r->c.dump_gradients, e)) return -1;
    writer_abort(&w);
    return 0;
}

/* Prepares everything up to the first step. result->finished_before = 1: there is none to make. */
static int prepare(Run *r, TrainResult *result, Err *e)
{
    if (open_directory(r, e) || checkpoint_reference(r, e) || checkpoint_day(r, e)) return -1;
    train_config_resolve_reference(&r->c);
    if (run_open(r, e) || count_steps(r, e)) return -1;
    warn_warmup(r);
    if (claim_directory(r, &result->finished_before, e)) return -1;
    if (result->finished_before) warn_no_dump(r);
    if (result->finished_before) return 0;
    if (check_dump(r, e)) return -1;
    unsigned char *needed = mem_calloc(r->train.rows.count, 1, e);
    int failed =
        !needed || plan_run(r, needed, e) || (!r->c.dry_run && prepare_references(r, needed, e));
    mem_free(needed);
    result->plan = r->plan;
    if (!failed && r->c.dry_run && r->events->row)
        failed = r->events->row(r->events->ctx, r->engine.tokenizer, r->train.rows.rows,
                                r->c.method == TRAIN_DPO ? 2 : 1, e);
    if (failed || r->c.dry_run) return failed ? -1 : 0;
    return r->c.resume ? resume(r, result, e) : 0;
}

/* ---- a step -------------------------------------------------------------------------------- */

/* Numbers that are not finite never reach the weights: the step passes without an update. */
static int skip_step(Run *r, const char *found, const uint32_t *rows, size_t n, double lr, Err *e)
{
    r->state.skipped++;
    r->state.skipped_in_row++;
    if (metrics_dump(r, found, rows, n, lr, e)) return -1;
    log_note(&r->events->log, 'w',
             "step %zu: the %s is not finite: no update; its rows are in "
             "%s/diverged/step-%zu.json",
             r->state.step + 1, found, r->c.run, r->state.step + 1);
    if (r->state.skipped_in_row < MAX_SKIPPED_IN_ROW) return 0;
    return err_set(e, ERR_DIVERGED,
                   "step %zu: the %s is not finite, the %d. step in a row; weights and "
                   "checkpoints are as they were; lower --lr, or look at %s/diverged",
                   r->state.step + 1, found, MAX_SKIPPED_IN_ROW, r->c.run);
}

/* Tokens of rows as TRL counts them: prompt and completion, for each side of a pair. */
static uint64_t count_tokens(const Run *r, const uint32_t *rows, size_t n)
{
    uint64_t tokens = 0;
    for (size_t i = 0; i < n; i++) {
        const Row *row = &r->train.rows.rows[rows[i]];
        for (size_t k = 0; k < (r->c.method == TRAIN_DPO ? 2u : 1u); k++)
            tokens += row->n_prompt + row->n_completion[k];
    }
    return tokens;
}

/* The scored tokens of all micro-batches of a step: what sft divides by. */
static int count_scores(Run *r, size_t step, size_t window, Err *e)
{
    r->step_scores = 0;
    for (size_t k = 0; k < window; k++) {
        const uint32_t *rows;
        size_t n = run_rows(r, step, k, &rows);
        if (run_pack(r, &r->train, rows, n, e)) return -1;
        r->step_scores += r->packer.batch.n_scores;
    }
    return 0;
}

/* Loss and gradient over the micro-batches of a step: gradients are summed, each divided by the
 * number of micro-batches (but for sft, whose parts are of the step already: TRL's rules). *found
 * names what was not finite, and rows and n then where. */
static int accumulate(Run *r, double *loss, const char **found, const uint32_t **rows, size_t *n,
                      Err *e)
{
    size_t step = r->state.step, window = run_window(r, step);
    int sft = r->c.method == TRAIN_SFT;
    double parts = sft ? 1 : (double)window;
    *loss = 0;
    *found = NULL;
    r->step_tokens = 0;
    params_zero_gradients(&r->params);
    if (sft && count_scores(r, step, window, e)) return -1;
    for (size_t k = 0; k < window && !*found; k++) {
        double micro_loss;
        *n = run_rows(r, step, k, rows);
        if (run_micro_batch(r, &r->train, *rows, *n, 1 / parts, k, &r->state.metrics,
                            &micro_loss, e))
            return -1;
        *loss += micro_loss / parts;
        r->step_tokens += count_tokens(r, *rows, *n);
        if (!isfinite(micro_loss)) *found = "loss";
        for (size_t key = 0; key < METRIC_COUNT && !*found; key++)
            if (!isfinite(r->state.metrics.sum[key])) *found = metric_names[key];
    }
    return 0;
}

/* Says so where the log-probs of the last rows, or all weights, are those of step 0. */
static void warn_unlearnt(const Run *r, size_t n)
{
    const char *found = NULL;
    if (r->first_step == 0 && !memcmp(r->sums, r->first_sums, n * sizeof *r->sums))
        found = "the log-probs of the last rows are those of step 0, to the bit";
    else if (r->updates && r->updates == r->unchanged)
        found = "no update changed a weight";
    if (found)
        log_note(&r->events->log, 'w',
                 "nothing was learnt in %zu steps: %s; --lr %g is too low%s, or the rows have no "
                 "gradient",
                 r->steps, found, r->c.lr,
                 train_warmup_steps(&r->c, r->steps) < (double)r->steps ? "" : " under --warmup");
}

/* Are the weights as they are now worth being kept? Not where the step was skipped, nor where they
 * give numbers that are not finite. */
static int check_weights(Run *r, const uint32_t *rows, size_t n, int *good, Err *e)
{
    *good = 0;
    if (r->state.skipped_in_row) return 0;
    if (run_policy_sums(r, rows, n, r->sums, good, e)) return -1;
    if (*good && r->state.step == r->steps) warn_unlearnt(r, n);
    return 0;
}

/* Before step 1: what the last micro-batch's rows have now. */
static int sum_last_rows(Run *r, Err *e)
{
    const uint32_t *rows;
    int ignored;
    size_t last = r->steps - 1, n = run_rows(r, last, run_window(r, last) - 1, &rows);
    return run_policy_sums(r, rows, n, r->first_sums, &ignored, e);
}

/* Evaluation where it is due, the line of metrics.jsonl, and a checkpoint where one is due. */
static int record_step(Run *r, const uint32_t *rows, size_t n, double lr, double norm, Err *e)
{
    const TrainConfig *c = &r->c;
    size_t step = r->state.step;
    int last = step == r->steps;
    int evaluates = c->eval && (last || (c->eval_every && step % c->eval_every == 0));
    int saves = last || (c->save_every && step % c->save_every == 0);
    Metrics eval;
    if (evaluates && run_evaluate(r, &eval, &r->eval_loss, e)) return -1;
    if ((last || evaluates || step % c->log_every == 0) &&
        metrics_write(r, lr, norm, evaluates ? &eval : NULL, r->eval_loss, saves || stop_requested,
                      e))
        return -1;
    if (evaluates && !isfinite(r->eval_loss))
        return err_set(e, ERR_DIVERGED, "step %zu: the loss of --eval is not finite; lower --lr",
                       step);
    int stopping = stop_requested != 0, good;
    if ((saves || stopping) &&
        (check_weights(r, rows, n, &good, e) || (good && checkpoint_save(r, e))))
        return -1;
    if (last && !good)
        return err_set(e, ERR_DIVERGED,
                       "step %zu, the last: %s; no result is written; lower --lr", step,
                       r->state.skipped_in_row ? "its numbers are not finite"
                                               : "its weights give no finite log-probs");
    if (!stopping || last) return 0;
    return err_set(e, ERR_INTERRUPTED, "%s: stopped after step %zu of %zu; --resume goes on",
                   c->run, step, r->steps);
}

/* Says once when steps pass without anything to learn: nothing moves, or all is learnt. */
static void watch(Run *r, double lr)
{
    int idle = r->margin == 0 && lr > 0, saturated = r->margin > SATURATED_MARGIN;
    r->idle = idle ? r->idle + 1 : 0;
    r->saturated = saturated ? r->saturated + 1 : 0;
    if (r->idle == NOTABLE_STEPS)
        log_note(&r->events->log, 'w',
                 "step %zu: the reward margin has been 0 for %d steps: policy and reference do not "
                 "part (chosen equal to rejected? --lr too low?)",
                 r->state.step, NOTABLE_STEPS);
    if (r->saturated == NOTABLE_STEPS)
        log_note(&r->events->log, 'w',
                 "step %zu: the reward margin has been above %d for %d steps: nothing is left to "
                 "learn; stop here, or lower --lr",
                 r->state.step, SATURATED_MARGIN, NOTABLE_STEPS);
}

/* --dump-gradients, in the first step. It promises a file: if there is none to write, the run
 * ends. */
static int dump_gradients(const Run *r, const char *found, Err *e)
{
    if (!r->c.dump_gradients || r->state.step > 0) return 0;
    if (!found) return params_dump_gradients(r, r->c.dump_gradients, e);
    return err_set(e, ERR_DIVERGED,
                   "step 1: the %s is not finite: --dump-gradients %s has nothing to write", found,
                   r->c.dump_gradients);
}

/* One optimiser step: gradients over its micro-batches, clipping, AdamW. */
static int run_step(Run *r, Err *e)
{
    double loss, lr = train_learning_rate(&r->c, r->state.step, r->steps);
    const char *found;
    const uint32_t *rows = NULL;
    size_t n = 0;
    r->step_began = time_now();
    Metrics before = r->state.metrics;
    if (accumulate(r, &loss, &found, &rows, &n, e)) return -1;
    double norm = found ? NAN : params_gradient_norm(r);
    if (found) {
        r->state.metrics = before; /* means are over the steps whose numbers were finite */
    } else {
        params_keep(&r->params);
        r->good_step = r->changed_step;
        found = params_check_gradient(r, norm);
    }
    if (dump_gradients(r, found, e)) return -1;
    if (found) {
        if (skip_step(r, found, rows, n, lr, e)) return -1;
    } else {
        r->state.skipped_in_row = 0;
        params_update(r, lr, norm);
        r->changed_step = r->state.step + 1;
        r->updates++;
        r->unchanged += (size_t)params_unchanged(&r->params);
    }
    if (run_check_model(r, e)) return -1;
    const char *bad = params_find_nonfinite(&r->params);
    if (bad)
        return err_set(e, ERR_DIVERGED,
                       "step %zu: %s is not finite after the update; lower --lr (now %g)",
                       r->state.step + 1, bad, lr);
    r->state.step++;
    r->state.num_tokens += r->step_tokens;
    r->state.loss = loss;
    r->margin = metrics_mean(&r->state.metrics, METRIC_REWARDS_MARGINS);
    watch(r, lr);
    if (isfinite(loss)) metrics_add(&r->state.metrics, METRIC_LOSS, loss);
    r->run_tokens += r->step_tokens;
    return record_step(r, rows, n, lr, norm, e);
}

/* The run has diverged: what was good is kept, and the message says where it is. */
static void rescue(Run *r, Err *e)
{
    Err failed, why = *e;
    const char *product = r->c.full ? "model" : "adapter";
    if (r->good_step == 0)
        err_set(e, why.code, "%s (no step before it held)", why.text);
    else if (!checkpoint_rescue(r, &failed))
        err_set(e, why.code, "%s; %s/diverged/%s holds the weights of step %zu, the last good ones",
                why.text, r->c.run, product, r->good_step);
    else
        err_set(e, why.code, "%s; the last good weights could not be written: %s", why.text,
                failed.text);
}

static int run_steps(Run *r, Err *e)
{
    size_t first = r->state.step;
    double began = time_now();
    r->started = 1;
    r->first_step = first;
    r->changed_step = r->good_step = r->state.update ? first : 0;
    params_keep(&r->params);
    if (first == 0 && sum_last_rows(r, e)) return -1;
    while (r->state.step < r->steps) {
        if (plan_further(r, e) || run_step(r, e)) return -1;
        run_progress(r, "train", r->state.step - first, r->steps - first, began, r->run_tokens);
    }
    return run_check_model(r, e) || checkpoint_finish(r, e) ? -1 : 0;
}

/* ---- a run --------------------------------------------------------------------------------- */

static void set_close(TrainSet *set)
{
    data_close(&set->rows);
    mem_free(set->partner);
    mem_free(set->reference);
    mem_free(set->known);
}

void run_free(Run *r)
{
    void *arrays[] = {r->items,    r->pairs,       r->pair_results, r->pair_order,
                      r->kto_rows, r->kto_results, r->kl_policy,    r->kl_reference,
                      r->gradient, r->square,      r->order,        r->eval_order,
                      r->sums,     r->first_sums,  r->needs};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) mem_free(arrays[i]);
    if (r->taping) tape_close(&r->tape);
    model_leave(&r->policy_model);
    model_leave(&r->frozen_model);
    if (r->has_policy) lora_close(&r->policy);
    if (r->has_frozen) lora_close(&r->frozen);
    packer_free(&r->packer);
    params_free(&r->params);
    text_free(&r->line);
    set_close(&r->train);
    set_close(&r->eval);
    engine_close(&r->engine);
    mem_free(r);
}

/* Leaves the run directory as it should be found: after success or an error on the way, without
 * leftovers; after an error before the first step, as if nothing had been tried. */
static void close_directory(Run *r, int failed, int code)
{
    Err ignored;
    if (!r->locked) return;
    if (r->ours) checkpoint_sweep(r);
    int leave = !failed || !r->begun_empty || r->started || code == ERR_INTERRUPTED;
    if (!leave) { /* while no other run can start in it */
        io_remove_tree(r->c.run, &ignored);
        if (!r->made) io_make_directory(r->c.run, 0, &ignored);
    }
    io_unlock(&r->lock);
}

int train_rows_fail(const TrainConfig *c, const Err *e)
{
    return e->code == ERR_DATA && strstr(e->text, c->data) != NULL;
}

int train_run(const TrainConfig *c, const TrainEvents *events, TrainResult *result, Err *e)
{
    static const TrainEvents silent;
    *result = (TrainResult){.eval_loss = NAN};
    if (train_config_check(c, e)) return -1;
    Run *r = mem_calloc(1, sizeof *r, e);
    if (!r) return -1;
    r->c = *c;
    r->events = events ? events : &silent;
    r->began = time_now();
    r->eval_loss = r->state.loss = r->margin = NAN;
    if (r->c.lr == 0) r->c.lr = train_default_lr(c);

    int failed = prepare(r, result, e);
    if (!failed && !result->finished_before && !c->dry_run) failed = run_steps(r, e);
    if (failed && r->started && e->code == ERR_DIVERGED) rescue(r, e);
    result->plan = r->plan;
    result->steps = result->finished_before ? r->steps : r->state.step;
    result->skipped = r->state.skipped;
    result->loss = r->state.loss;
    result->eval_loss = r->eval_loss;
    result->used = r->taping ? tape_peak(&r->tape) : 0;
    result->seconds = time_now() - r->began;
    close_directory(r, failed, failed ? e->code : 0);
    run_free(r);
    return failed ? -1 : 0;
}
