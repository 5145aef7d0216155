/* train_trial.c - repeats one step on a model and rows in memory, for the timing of `align bench`.
 *
 * The parts are those of a run (run_micro_batch, params_update, the plan), so what is measured is
 * what a run does; only files, metrics and checkpoints are left out.
 */
#include "train_parts.h"

#include <math.h>
#include <string.h>

struct TrainTrial {
    Run *run;
    Model *model; /* the caller's: emptied here, filled again by train_trial_close */
    Dataset *rows;
};

/* Returns model and rows to the caller, then frees the rest of the run. */
void train_trial_close(TrainTrial *t)
{
    if (!t) return;
    *t->model = t->run->engine.model;
    *t->rows = t->run->train.rows;
    memset(&t->run->engine.model, 0, sizeof t->run->engine.model);
    memset(&t->run->train.rows, 0, sizeof t->run->train.rows);
    run_free(t->run);
    mem_free(t);
}

/* KTO: every row borrows from the next, the last one from the first. */
static int borrow_from_next(TrainSet *set, Err *e)
{
    size_t n = set->rows.count;
    set->partner = mem_calloc(n, sizeof *set->partner, e);
    for (size_t i = 0; set->partner && i < n; i++) set->partner[i] = (i + 1) % n;
    return set->partner ? 0 : -1;
}

/* Prepares everything up to the first step. */
static int prepare(Run *r, Err *e)
{
    LoraShape shape;
    TrainSet *set = &r->train;
    size_t n = set->rows.count;
    model_lora_shape(&r->engine.model, &shape);
    if (compute_open(&r->engine.compute, r->c.kernel, r->c.precision, e)) return -1;
    r->engine.compute_open = 1;
    if (lora_create(&r->policy, &r->c.lora, &shape, r->c.seed, 1, e)) return -1;
    r->has_policy = r->starts_equal = 1;
    set->reference = mem_calloc(n, sizeof *set->reference, e);
    set->known = set->reference ? mem_calloc(n, 1, e) : NULL;
    if (!set->known || params_collect(r, e)) return -1;
    if (r->c.method == TRAIN_KTO && kto_needs_kl(r->c.kto.loss) && borrow_from_next(set, e))
        return -1;
    unsigned char *needed = mem_calloc(n, 1, e);
    int failed = !needed || plan_run(r, needed, e);
    mem_free(needed);
    return failed ? -1 : 0;
}

TrainTrial *train_trial_open(const TrainConfig *c, Model *m, Dataset *rows, Err *e)
{
    static const TrainEvents silent;
    TrainTrial *t = mem_calloc(1, sizeof *t, e);
    if (!t) return NULL;
    Run *r = t->run = mem_calloc(1, sizeof *r, e);
    if (!r) {
        mem_free(t);
        return NULL;
    }
    *t = (TrainTrial){r, m, rows};
    r->c = *c;
    r->c.data = "rows in memory";
    r->c.batch = rows->count;
    r->c.accumulate = 1;
    r->c.order = ORDER_FILE;
    r->events = &silent;
    r->steps = r->epoch_steps = r->epoch_batches = 1;
    r->state.loss = NAN;
    r->engine.model = *m;
    r->train.rows = *rows;
    memset(m, 0, sizeof *m);
    memset(rows, 0, sizeof *rows);
    if (!prepare(r, e)) return t;
    train_trial_close(t);
    return NULL;
}

int train_trial_reference(TrainTrial *t, Err *e)
{
    Run *r = t->run;
    TrainSet *set = &r->train;
    size_t n = set->rows.count;
    for (size_t i = 0; i < n; i++) r->items[i] = reference_item(r, set, i);
    if (items_pack(&r->packer, r->items, n, e)) return -1;
    Var *logp = run_forward(r, &r->tape, PASS_REFERENCE, 0, NULL);
    if (tape_check(&r->tape, e)) return -1;
    for (size_t i = 0; i < n; i++)
        item_sums(&r->items[i], logp->x, r->c.dpo.ld_alpha, set->reference[i]);
    return 0;
}

int train_trial_step(TrainTrial *t, double *loss, Err *e)
{
    Run *r = t->run;
    Metrics metrics = {0};
    const uint32_t *rows;
    size_t n = run_rows(r, 0, 0, &rows);
    params_zero_gradients(&r->params);
    if (run_micro_batch(r, &r->train, rows, n, 1, 0, &metrics, loss, e)) return -1;
    double norm = params_gradient_norm(r);
    const char *found = isfinite(*loss) ? params_check_gradient(r, norm) : "loss";
    if (found)
        return err_set(e, ERR_DIVERGED, "step %zu: the %s is not finite", r->state.step + 1, found);
    params_update(r, r->c.lr, norm);
    r->state.step++;
    if (!params_find_nonfinite(&r->params)) return 0;
    return err_set(e, ERR_DIVERGED, "step %zu: a weight is not finite", r->state.step);
}

const TrainPlan *train_trial_plan(const TrainTrial *t)
{
    return &t->run->plan;
}

uint64_t train_trial_used(const TrainTrial *t)
{
    return tape_peak(&t->run->tape);
}
