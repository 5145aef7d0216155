/* train_step.c - runs one micro-batch: rows to tokens, log-probs, loss, and the gradient of each
 * token.
 *
 * run_micro_batch reads like the list in MATH.md; the functions above it are its lines.
 */
#include "train_parts.h"

#include <math.h>
#include <string.h>

/* ---- 1. rows packed end to end ------------------------------------------------------------- */

Item item_own(const Row *row, size_t completions)
{
    Item item = {.prompt = row->prompt,
                 .n_prompt = row->n_prompt,
                 .scored_tokens = row->scored,
                 .n = completions};
    for (size_t i = 0; i < completions; i++) {
        item.completion[i] = row->completion[i];
        item.n_completion[i] = row->n_completion[i];
    }
    return item;
}

Item item_partner(const Row *row, const Row *partner, size_t max_length)
{
    Item item = {.prompt = row->prompt, .n_prompt = row->n_prompt, .n = 1};
    size_t room = max_length ? max_length - row->n_prompt : SIZE_MAX;
    item.completion[0] = partner->completion[0];
    item.n_completion[0] = partner->n_uncut[0] < room ? partner->n_uncut[0] : room;
    return item;
}

int items_pack(Packer *p, Item *items, size_t n, Err *e)
{
    packer_begin(p);
    for (size_t i = 0; i < n; i++) {
        Item *item = &items[i];
        if (packer_add_context(p, -1, item->prompt, item->n_prompt, &item->segment, e)) return -1;
        for (size_t k = 0; k < item->n; k++) {
            Scored *s = &item->scored[k];
            if (packer_add_scored(p, item->segment, item->completion[k],
                                  k ? NULL : item->scored_tokens, item->n_completion[k], &s->first,
                                  &s->count, e))
                return -1;
        }
    }
    return 0;
}

static size_t completions_of(TrainMethod method)
{
    return method == TRAIN_DPO ? 2 : 1;
}

static int needs_partners(const Run *r)
{
    return r->c.method == TRAIN_KTO && kto_needs_kl(r->c.kto.loss);
}

/* Makes row i of the micro-batch an item with its partner's completion. HALOs takes the next row of
 * the micro-batch; the other rules choose for the whole data set. */
static Item partner_of(const Run *r, const TrainSet *set, const uint32_t *rows, size_t n, size_t i)
{
    const Row *all = set->rows.rows;
    size_t partner = set->partner ? set->partner[rows[i]] : rows[(i + 1) % n];
    return item_partner(&all[rows[i]], &all[partner], r->c.rows.max_length);
}

int run_pack_partners(Run *r, const TrainSet *set, const uint32_t *rows, size_t n, Err *e)
{
    for (size_t i = 0; i < n; i++) r->items[i] = partner_of(r, set, rows, n, i);
    return items_pack(&r->packer, r->items, n, e);
}

int run_pack(Run *r, const TrainSet *set, const uint32_t *rows, size_t n, Err *e)
{
    for (size_t i = 0; i < n; i++)
        r->items[i] = item_own(&set->rows.rows[rows[i]], completions_of(r->c.method));
    if (items_pack(&r->packer, r->items, n, e)) return -1;
    if (!needs_partners(r)) return 0;
    packer_seal(&r->packer); /* no gradient through what follows */
    for (size_t i = 0; i < n; i++) {
        Item other = partner_of(r, set, rows, n, i), *item = &r->items[i];
        if (packer_add_completion(&r->packer, item->segment, other.completion[0],
                                  other.n_completion[0], &item->partner.first,
                                  &item->partner.count, e))
            return -1;
    }
    return 0;
}

/* ---- 2. log p of every completion token ---------------------------------------------------- */

const Lora *run_reference_adapter(const Run *r)
{
    return r->has_frozen ? &r->frozen : NULL;
}

/* Returns the key of the dropout of micro-batch k of this step; never 0, which means no dropout. */
static uint64_t dropout_key(const Run *r, size_t k)
{
    return rng_mix(rng_mix(r->c.seed, r->state.step), k) | 1;
}

/* The model with the whole weights of an adapter. Its tables of positions are the run's. */
static Model *model_of(Run *r, const Lora *lora)
{
    Model *m = lora == &r->frozen ? &r->frozen_model : &r->policy_model;
    if (!lora || !m->base) return &r->engine.model;
    m->rope_cos = r->engine.model.rope_cos;
    m->rope_sin = r->engine.model.rope_sin;
    m->rope_positions = r->engine.model.rope_positions;
    return m;
}

Var *run_forward(Run *r, Tape *t, PassKind pass, size_t k, real *square)
{
    const Lora *lora = pass == PASS_REFERENCE ? run_reference_adapter(r)
                       : r->has_policy        ? &r->policy
                                              : NULL;
    tape_reset(t);
    t->record = pass == PASS_TRAIN;
    t->dropout_key = pass == PASS_TRAIN ? dropout_key(r, k) : 0;
    return model_logprob(t, model_of(r, lora), lora, &r->packer.batch, square);
}

/* ---- 3. sums over tokens ------------------------------------------------------------------- */

/* Returns the number of completion tokens that both sides of a pair have; of a single completion,
 * all. */
static size_t shared_length(const Item *item)
{
    size_t a = item->scored[0].count, b = item->n > 1 ? item->scored[1].count : a;
    return a < b ? a : b;
}

void item_sums(const Item *item, const real *logp, double ld_alpha, double out[2])
{
    size_t shared = shared_length(item);
    for (size_t k = 0; k < item->n; k++) {
        double sum = 0;
        for (size_t t = 0; t < item->scored[k].count; t++)
            sum += dpo_ld_weight(t, shared, ld_alpha) * (double)logp[item->scored[k].first + t];
        out[k] = sum;
    }
}

/* ---- 4. losses: value, gradient by log-prob, metrics --------------------------------------- */

static double plain_sum(const real *x, const Scored *s)
{
    double sum = 0;
    for (size_t t = 0; t < s->count; t++) sum += (double)x[s->first + t];
    return sum;
}

/* Returns WPO's weight of a pair: w_chosen w_rejected, each from log p - log sum_v p_v^2 of its
 * tokens. */
static double wpo_weight(const Item *item, const real *logp, const real *square)
{
    double weight = 1;
    for (size_t k = 0; k < item->n; k++) {
        const Scored *s = &item->scored[k];
        weight *= dpo_wpo_weight(plain_sum(logp, s) - plain_sum(square, s), s->count);
    }
    return weight;
}

/* Lengths that IPO and sigmoid_norm divide by count a first token that could not be scored. */
static double length_of(const Item *item, size_t k)
{
    return item->n_completion[k] ? (double)item->n_completion[k] : 1.0;
}

static double dpo_step(Run *r, size_t n, const real *logp, Metrics *metrics)
{
    const DpoConfig *c = &r->c.dpo;
    double loss;
    for (size_t i = 0; i < n; i++) {
        const Item *item = &r->items[i];
        r->pairs[i] = (DpoPair){.policy_chosen = item->policy[0],
                                .policy_rejected = item->policy[1],
                                .reference_chosen = item->reference[0],
                                .reference_rejected = item->reference[1],
                                .tokens_chosen = length_of(item, 0),
                                .tokens_rejected = length_of(item, 1),
                                .nll_logp = plain_sum(logp, &item->scored[0]),
                                .nll_tokens = (double)item->scored[0].count,
                                .wpo = c->wpo ? wpo_weight(item, logp, r->square) : 1};
    }
    dpo_loss(c, r->pairs, n, r->pair_results, r->pair_order, &loss);
    for (size_t i = 0; i < n; i++) {
        Item *item = &r->items[i];
        item->gradient[0] = r->pair_results[i].d_chosen;
        item->gradient[1] = r->pair_results[i].d_rejected;
        item->nll_gradient = r->pair_results[i].d_nll;
        item->loss = r->pair_results[i].loss;
    }
    DpoMetrics m;
    dpo_metrics(c->beta, r->pairs, n, &m);
    metrics_add(metrics, METRIC_REWARDS_CHOSEN, m.rewards_chosen);
    metrics_add(metrics, METRIC_REWARDS_REJECTED, m.rewards_rejected);
    metrics_add(metrics, METRIC_REWARDS_ACCURACIES, m.rewards_accuracies);
    metrics_add(metrics, METRIC_REWARDS_MARGINS, m.rewards_margins);
    metrics_add(metrics, METRIC_LOGPS_CHOSEN, m.logps_chosen);
    metrics_add(metrics, METRIC_LOGPS_REJECTED, m.logps_rejected);
    return loss;
}

static double kto_step(Run *r, const TrainSet *set, const uint32_t *rows, size_t n, double kl,
                       Metrics *metrics)
{
    double loss;
    for (size_t i = 0; i < n; i++)
        r->kto_rows[i] = (KtoRow){r->items[i].policy[0], r->items[i].reference[0],
                                  set->rows.rows[rows[i]].label};
    kto_loss(&r->c.kto, r->kto_rows, n, kl, r->kto_results, &loss);
    for (size_t i = 0; i < n; i++) {
        r->items[i].gradient[0] = r->kto_results[i].d_policy;
        r->items[i].loss = r->kto_results[i].loss;
    }
    KtoMetrics m;
    kto_metrics(r->c.kto.beta, r->kto_rows, n, &m);
    metrics_add(metrics, METRIC_KL, kl);
    if (m.desirable) {
        metrics_add(metrics, METRIC_REWARDS_CHOSEN, m.rewards_chosen);
        metrics_add(metrics, METRIC_LOGPS_CHOSEN, m.logps_chosen);
    }
    if (m.undesirable) {
        metrics_add(metrics, METRIC_REWARDS_REJECTED, m.rewards_rejected);
        metrics_add(metrics, METRIC_LOGPS_REJECTED, m.logps_rejected);
    }
    if (m.desirable && m.undesirable)
        metrics_add(metrics, METRIC_REWARDS_MARGINS, m.rewards_margins);
    return loss;
}

/* Cross-entropy: the micro-batch's part of the mean over the N completion tokens of the step, so
 * that a token has the same weight for any division into micro-batches:
 *   loss = -1/N sum_i sum_t log p(y_it);   d loss / d log p = -1/N */
static double sft_step(Run *r, size_t n, size_t step_tokens)
{
    double tokens = (double)(step_tokens ? step_tokens : 1), sum = 0;
    for (size_t i = 0; i < n; i++) {
        Item *item = &r->items[i];
        item->gradient[0] = -1 / tokens;
        item->loss = -item->policy[0] / tokens;
        sum += item->policy[0];
    }
    return -sum / tokens;
}

/* Computes the reference's log-probs of the partners' completions for HALOs' pairing, whose
 * partners change with the order of rows; for the others they are already known. */
static int partner_reference(Run *r, const TrainSet *set, const uint32_t *rows, size_t n, Err *e)
{
    if (!needs_partners(r)) return 0;
    for (size_t i = 0; set->partner && i < n; i++) r->kl_reference[i] = set->reference[rows[i]][1];
    if (set->partner) return 0;
    if (run_pack_partners(r, set, rows, n, e)) return -1;
    const Var *logp = run_forward(r, &r->tape, PASS_REFERENCE, 0, NULL);
    if (tape_check(&r->tape, e)) return -1;
    for (size_t i = 0; i < n; i++) r->kl_reference[i] = plain_sum(logp->x, &r->items[i].scored[0]);
    return 0;
}

/* Returns KTO's z0, from the rows with the completion of their partner; 0 for other losses. */
static double estimate_kl(Run *r, const real *logp, size_t n)
{
    if (!needs_partners(r)) return 0;
    for (size_t i = 0; i < n; i++) r->kl_policy[i] = plain_sum(logp, &r->items[i].partner);
    return kto_kl(r->kl_policy, r->kl_reference, n);
}

/* ---- 5. the gradient of each token --------------------------------------------------------- */

/* d (share x loss) / d log p of each scored token: its completion's gradient times its weight. */
static void token_gradients(Run *r, size_t n, double share)
{
    double ld_alpha = r->c.method == TRAIN_DPO ? r->c.dpo.ld_alpha : 1;
    memset(r->gradient, 0, r->packer.batch.n_scores * sizeof *r->gradient);
    for (size_t i = 0; i < n; i++) {
        const Item *item = &r->items[i];
        size_t shared = shared_length(item);
        for (size_t k = 0; k < item->n; k++) {
            const Scored *s = &item->scored[k];
            double plain = k == 0 ? item->nll_gradient : 0;
            for (size_t t = 0; t < s->count; t++)
                r->gradient[s->first + t] =
                    (real)(share *
                           (item->gradient[k] * dpo_ld_weight(t, shared, ld_alpha) + plain));
        }
    }
}

/* ---- what must hold ------------------------------------------------------------------------ */

/* Checks step 0: with B = 0 the policy is the reference, to the bit, so every log-ratio is 0 and
 * the loss has its closed form. Anything else is our own mistake, and training must not start with
 * it. */
static int check_start(const Run *r, const TrainSet *set, const uint32_t *rows, size_t n, double kl,
                       double loss, Err *e)
{
    const double rounding = 1e-12;
    double expected = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < r->items[i].n; k++)
            if (r->items[i].policy[k] != r->items[i].reference[k])
                return err_set(e, ERR_INTERNAL,
                               "step 0: row of line %zu: policy %.17g and reference %.17g must be "
                               "equal while the adapter is zero",
                               set->rows.rows[rows[i]].line, r->items[i].policy[k],
                               r->items[i].reference[k]);
    if (kl != 0) return err_set(e, ERR_INTERNAL, "step 0: kl must be 0, found %.17g", kl);
    if (r->c.method == TRAIN_KTO)
        expected = kto_loss_at_zero(&r->c.kto, r->kto_rows, n);
    else if (r->c.dpo.wpo || dpo_loss_at_zero(&r->c.dpo, &expected))
        return 0;
    double scale = fabs(expected) > 1 ? fabs(expected) : 1;
    if (r->c.method == TRAIN_DPO && r->c.dpo.label_smoothing < 0.5)
        scale /= 1 - 2 * r->c.dpo.label_smoothing; /* robust's terms are larger by this */
    if (fabs(loss - expected) <= rounding * scale) return 0;
    return err_set(e, ERR_INTERNAL, "step 0: the loss must be %.17g, found %.17g", expected, loss);
}

/* ---- a micro-batch ------------------------------------------------------------------------- */

/* Are the numbers finite from which the loss was computed? */
static int sums_finite(const Run *r, size_t n, double kl)
{
    int finite = isfinite(kl);
    for (size_t i = 0; i < n; i++) {
        for (size_t side = 0; side < r->items[i].n; side++)
            finite = finite && isfinite(r->items[i].policy[side]);
        if (needs_partners(r))
            finite = finite && isfinite(r->kl_policy[i]) && isfinite(r->kl_reference[i]);
    }
    return finite;
}

int run_micro_batch(Run *r, TrainSet *set, const uint32_t *rows, size_t n, double share, size_t k,
                    Metrics *metrics, double *loss, Err *e)
{
    TrainMethod method = r->c.method;
    if (partner_reference(r, set, rows, n, e)) return -1;

    /* 1. Rows, end to end. */
    if (run_pack(r, set, rows, n, e)) return -1;

    /* 2. log p(y_t | x, y_<t) of every completion token. */
    real *square = method == TRAIN_DPO && r->c.dpo.wpo ? r->square : NULL;
    Var *logp = run_forward(r, &r->tape, share > 0 ? PASS_TRAIN : PASS_POLICY, k, square);
    if (tape_check(&r->tape, e)) return -1;

    /* 3. Sums over tokens, beside the reference's. */
    for (size_t i = 0; i < n; i++) {
        item_sums(&r->items[i], logp->x, method == TRAIN_DPO ? r->c.dpo.ld_alpha : 1,
                  r->items[i].policy);
        if (method != TRAIN_SFT)
            memcpy(r->items[i].reference, set->reference[rows[i]], sizeof r->items[i].reference);
    }

    /* 4. Loss, and its gradient by log pi. */
    double kl = estimate_kl(r, logp->x, n);
    size_t sft_tokens = share > 0 && r->step_scores ? r->step_scores : r->packer.batch.n_scores;
    *loss = method == TRAIN_DPO   ? dpo_step(r, n, logp->x, metrics)
            : method == TRAIN_KTO ? kto_step(r, set, rows, n, kl, metrics)
                                  : sft_step(r, n, sft_tokens);
    if (!sums_finite(r, n, kl)) *loss = NAN; /* hinge, say, is finite where a log-prob is not */
    if (!isfinite(*loss) || share <= 0) return 0;
    if (r->starts_equal && r->state.step == 0 && method != TRAIN_SFT &&
        check_start(r, set, rows, n, kl, *loss, e))
        return -1;

    /* 5. Its share for every token, and the walk back. */
    token_gradients(r, n, share);
    tape_backward(&r->tape, logp, r->gradient);
    return tape_check(&r->tape, e);
}

/* ---- evaluation ---------------------------------------------------------------------------- */

int run_evaluate(Run *r, Metrics *metrics, double *loss, Err *e)
{
    TrainSet *set = &r->eval;
    size_t batches = run_batch_count(r, set->rows.count), counted = 0;
    double sum = 0, began = time_now();
    uint64_t tokens = 0;
    *metrics = (Metrics){0};
    for (size_t b = 0; b < batches; b++) {
        size_t first, n = run_batch_size(r, set->rows.count, b, &first);
        double batch_loss;
        for (size_t i = 0; i < n; i++) r->eval_order[i] = (uint32_t)(first + i);
        if (run_micro_batch(r, set, r->eval_order, n, 0, 0, metrics, &batch_loss, e)) return -1;
        tokens += r->packer.batch.T;
        run_progress(r, "evaluate", b + 1, batches, began, tokens);
        sum += batch_loss * (double)n;
        counted += n;
    }
    *loss = counted ? sum / (double)counted : NAN;
    return 0;
}

/* ---- what a run leaves --------------------------------------------------------------------- */

int run_policy_sums(Run *r, const uint32_t *rows, size_t n, double (*sums)[2], int *finite, Err *e)
{
    if (run_pack(r, &r->train, rows, n, e)) return -1;
    const Var *logp = run_forward(r, &r->tape, PASS_POLICY, 0, NULL);
    if (tape_check(&r->tape, e)) return -1;
    *finite = 1;
    for (size_t i = 0; i < r->packer.batch.n_scores; i++)
        *finite = *finite && isfinite((double)logp->x[i]);
    for (size_t i = 0; i < n; i++) item_sums(&r->items[i], logp->x, 1, sums[i]);
    return 0;
}
