/* train_explain.c - explains one row: computes every number of its loss, token by token. */
#include "train_parts.h"

#include <math.h>
#include <string.h>

typedef struct {
    Run *r;
    PassKind pass;
    real *square;
} Explained;

/* Runs a pass of the packed items, without a walk back. */
static Var *explained_pass(Tape *t, void *ctx)
{
    const Explained *x = ctx;
    return run_forward(x->r, t, x->pass, 0, x->square);
}

/* Computes log-probs of the scored tokens of n items (and fills their scored[]), in separate
 * memory. With square also log sum_v p_v^2 of each. */
static real *score_items(Run *r, PassKind pass, Item *items, size_t n, real **square, Err *e)
{
    const Batch *b = &r->packer.batch;
    size_t longest = 0;
    Tape tape = {0};
    if (items_pack(&r->packer, items, n, e)) return NULL;
    for (size_t i = 0; i < b->n_segments; i++)
        if (b->segments[i].pos + b->segments[i].count > longest)
            longest = b->segments[i].pos + b->segments[i].count;
    if (model_reserve_positions(&r->engine.model, longest, e)) return NULL;

    real *logp = mem_calloc(b->n_scores, sizeof *logp, e);
    if (square) *square = logp ? mem_calloc(b->n_scores, sizeof **square, e) : NULL;
    const Var *y = NULL;
    if (logp && (!square || *square)) {
        Explained x = {r, pass, square ? *square : NULL};
        y = tape_run(&tape, &r->engine.compute, model_node_bytes(&r->engine.model, b),
                     explained_pass, &x, e);
    }
    if (y) memcpy(logp, y->x, b->n_scores * sizeof *logp);
    tape_close(&tape);
    if (y) return logp;
    mem_free(logp);
    return NULL;
}

/* Finds the row of the file, counting dropped rows. */
static int find_row(const Run *r, size_t row, size_t *at, Err *e)
{
    const Dataset *d = &r->train.rows;
    for (*at = 0; *at < d->count; ++*at)
        if (d->rows[*at].index == row) return 0;
    if (row < d->report.lines)
        return err_set(e, ERR_DATA,
                       "%s: row %zu is left out of training: its prompt fills --max-length %zu, "
                       "or its completion is empty",
                       r->c.data, row, r->c.rows.max_length);
    return err_set(e, ERR_USAGE, "--row %zu: %s has rows 0 to %zu", row, r->c.data,
                   d->report.lines - 1);
}

/* Allocates one number for each token of the completion; NAN for those that are not scored. */
static double *per_token(TrainExplain *x, const Item *item, size_t k, const real *logp, Err *e)
{
    size_t n = item->n_completion[k], unscored = n - item->scored[k].count;
    double *out = pool_alloc(&x->pool, n * sizeof *out, e);
    for (size_t t = 0; out && t < n; t++)
        out[t] = t < unscored ? NAN : logp ? (double)logp[item->scored[k].first + t - unscored] : 0;
    return out;
}

static int fill_side(const Run *r, TrainExplain *x, const Item *item, size_t k, const real *policy,
                     const real *reference, Err *e)
{
    ExplainSide *s = &x->side[k];
    double sums[2][2];
    double ld_alpha = x->method == TRAIN_DPO ? r->c.dpo.ld_alpha : 1;
    item_sums(item, policy, ld_alpha, sums[0]);
    item_sums(item, reference, ld_alpha, sums[1]);
    *s = (ExplainSide){.token_ids = item->completion[k],
                       .n = item->n_completion[k],
                       .policy = per_token(x, item, k, policy, e),
                       .reference = per_token(x, item, k, reference, e),
                       .gradient = per_token(x, item, k, NULL, e),
                       .policy_logp = sums[0][k],
                       .reference_logp = sums[1][k],
                       .logratio = sums[0][k] - sums[1][k]};
    return s->policy && s->reference && s->gradient ? 0 : -1;
}

/* ---- dpo ----------------------------------------------------------------------------------- */

static double sum_of(const real *x, const Scored *s)
{
    double sum = 0;
    for (size_t t = 0; t < s->count; t++) sum += (double)x[s->first + t];
    return sum;
}

/* Sets the name of the loss, and whether its equation may be written out. */
static int name_loss(const Run *r, TrainExplain *x, Err *e)
{
    const DpoConfig *c = &r->c.dpo;
    Text names = {0};
    int failed = dpo_losses_form.show(c, &names, e);
    x->loss_name = failed ? NULL : pool_strndup(&x->pool, names.data, names.len, e);
    x->plain = c->n_losses == 1 && c->loss[0] == DPO_SIGMOID && c->weight[0] == 1 &&
               c->f == F_REVERSE_KL && !c->wpo && r->c.dpo.ld_alpha == 1;
    text_free(&names);
    return x->loss_name ? 0 : -1;
}

static int explain_dpo(const Run *r, TrainExplain *x, const Item *item, const real *policy,
                       const real *square, Err *e)
{
    ExplainSide *chosen = &x->side[0], *rejected = &x->side[1];
    DpoPair pair = {.policy_chosen = chosen->policy_logp,
                    .reference_chosen = chosen->reference_logp,
                    .policy_rejected = rejected->policy_logp,
                    .reference_rejected = rejected->reference_logp,
                    .tokens_chosen = (double)chosen->n,
                    .tokens_rejected = (double)rejected->n,
                    .nll_logp = sum_of(policy, &item->scored[0]),
                    .nll_tokens = (double)item->scored[0].count,
                    .wpo = 1};
    DpoPairResult result;
    size_t order[2], shared = item->scored[0].count;
    if (item->scored[1].count < shared) shared = item->scored[1].count;
    for (size_t k = 0; k < 2 && square; k++)
        pair.wpo *=
            dpo_wpo_weight(sum_of(policy, &item->scored[k]) - sum_of(square, &item->scored[k]),
                           item->scored[k].count);
    dpo_loss(&r->c.dpo, &pair, 1, &result, order, &x->loss);
    for (size_t k = 0; k < 2; k++) {
        size_t unscored = x->side[k].n - item->scored[k].count;
        double by_sum = k ? result.d_rejected : result.d_chosen, plain = k ? 0 : result.d_nll;
        for (size_t t = unscored; t < x->side[k].n; t++)
            x->side[k].gradient[t] =
                by_sum * dpo_ld_weight(t - unscored, shared, r->c.dpo.ld_alpha) + plain;
    }
    x->beta = r->c.dpo.beta;
    x->margin = x->beta * (chosen->logratio - rejected->logratio);
    x->sigmoid = maths_sigmoid(x->margin);
    return name_loss(r, x, e);
}

/* ---- kto ----------------------------------------------------------------------------------- */

/* Computes z0 of the block that contains row `at`, in the order of the file. */
static int block_kl(Run *r, size_t at, double *kl, Err *e)
{
    const Dataset *d = &r->train.rows;
    size_t b = at / r->c.batch, last = run_batch_count(r, d->count) - 1, first;
    size_t n = run_batch_size(r, d->count, b < last ? b : last, &first);
    Item *items = mem_calloc(n, sizeof *items, e);
    double *sums = mem_calloc(2 * n, sizeof *sums, e);
    int failed = !items || !sums;
    for (size_t i = 0; i < n && !failed; i++) {
        size_t row = first + i, next = first + (i + 1) % n;
        size_t partner = r->train.partner ? r->train.partner[row] : next;
        items[i] = item_partner(&d->rows[row], &d->rows[partner], r->c.rows.max_length);
    }
    for (size_t pass = 0; pass < 2 && !failed; pass++) {
        real *logp = score_items(r, pass ? PASS_REFERENCE : PASS_POLICY, items, n, NULL, e);
        failed = !logp;
        for (size_t i = 0; i < n && !failed; i++) {
            double sum[2];
            item_sums(&items[i], logp, 1, sum);
            sums[pass * n + i] = sum[0];
        }
        mem_free(logp);
    }
    if (!failed) *kl = kto_kl(sums, sums + n, n);
    mem_free(items);
    mem_free(sums);
    return failed ? -1 : 0;
}

static int explain_kto(Run *r, TrainExplain *x, size_t at, const Item *item, Err *e)
{
    const KtoConfig *c = &r->c.kto;
    ExplainSide *s = &x->side[0];
    KtoRow row = {s->policy_logp, s->reference_logp, r->train.rows.rows[at].label};
    KtoResult result;
    size_t unscored = s->n - item->scored[0].count;
    if (kto_needs_kl(c->loss) && block_kl(r, at, &x->kl, e)) return -1;
    kto_loss(c, &row, 1, x->kl, &result, &x->loss);
    for (size_t t = unscored; t < s->n; t++) s->gradient[t] = result.d_policy;
    x->loss_name = kto_loss_name(c->loss);
    x->beta = c->beta;
    x->label = row.desirable;
    x->weight = row.desirable ? c->desirable_weight : c->undesirable_weight;
    double z = c->beta * (s->logratio - x->kl);
    x->sigmoid = maths_sigmoid(row.desirable ? z : -z);
    return 0;
}

/* ---- both ---------------------------------------------------------------------------------- */

/* Checks that every number is finite. */
static int check_finite(const TrainExplain *x, Err *e)
{
    double sum = x->loss + x->margin + x->sigmoid + x->kl + x->weight;
    for (size_t k = 0; k < x->n_sides; k++) {
        const ExplainSide *s = &x->side[k];
        if (!isfinite(s->policy_logp) || !isfinite(s->reference_logp))
            return err_set(e, ERR_DATA,
                           "the %s's log-prob is not finite: the weights of the model or the "
                           "adapter are damaged or too large (--check-tensors finds NaN)",
                           isfinite(s->policy_logp) ? "reference" : "policy");
        for (size_t t = 0; t < s->n; t++)
            if (isfinite(s->policy[t])) sum += s->gradient[t]; /* the others are not scored */
    }
    if (isfinite(sum)) return 0;
    return err_set(e, ERR_DATA,
                   "the log-probs are finite, but the loss or its gradient is not; lower --beta "
                   "(now %g)",
                   x->beta);
}

static int explain(Run *r, size_t row, TrainExplain *x, Err *e)
{
    size_t at;
    int wpo = r->c.method == TRAIN_DPO && r->c.dpo.wpo;
    real *square = NULL;
    if (run_open(r, e) || find_row(r, row, &at, e)) return -1;
    const Row *source = &r->train.rows.rows[at];
    x->method = r->c.method;
    x->row = row;
    x->line = source->line;
    x->prompt = source->prompt;
    x->n_prompt = source->n_prompt;
    x->n_sides = r->c.method == TRAIN_DPO ? 2 : 1;

    Item item = item_own(source, x->n_sides);
    real *policy = score_items(r, PASS_POLICY, &item, 1, wpo ? &square : NULL, e);
    real *reference = policy ? score_items(r, PASS_REFERENCE, &item, 1, NULL, e) : NULL;
    int failed = !reference;
    for (size_t k = 0; k < x->n_sides && !failed; k++)
        failed = fill_side(r, x, &item, k, policy, reference, e);
    if (!failed && r->c.method == TRAIN_DPO) failed = explain_dpo(r, x, &item, policy, square, e);
    if (!failed && r->c.method == TRAIN_KTO) failed = explain_kto(r, x, at, &item, e);
    mem_free(policy);
    mem_free(reference);
    mem_free(square);
    if (!failed) failed = check_finite(x, e);
    if (!failed) return 0;
    return e->code == ERR_DATA ? err_prefix(e, "%s: line %zu", r->c.data, x->line) : -1;
}

int train_explain(const TrainConfig *c, size_t row, TrainExplain *out, const Log *log, Err *e)
{
    TrainEvents events = {0};
    TrainConfig resolved = *c;
    *out = (TrainExplain){0};
    if (log) events.log = *log;
    resolved.dry_run = 1;   /* no run directory is needed */
    resolved.full = 0;      /* weights as they are */
    resolved.lora.rank = 1; /* of a fresh adapter, which changes nothing */
    resolved.eval = NULL;
    resolved.eval_every = 0;
    if (c->method == TRAIN_SFT) return err_set(e, ERR_USAGE, "--method: must be dpo or kto");
    if (train_config_check(&resolved, e)) return -1;
    Run *r = mem_calloc(1, sizeof *r, e);
    if (!r) return -1;
    r->c = resolved;
    train_config_resolve_reference(&r->c);
    r->events = &events;
    r->reading = 1;
    int failed = explain(r, row, out, e);
    out->data = r->train.rows; /* token ids live there */
    r->train.rows = (Dataset){0};
    run_free(r);
    if (failed) train_explain_close(out);
    return failed ? -1 : 0;
}

void train_explain_close(TrainExplain *x)
{
    data_close(&x->data);
    pool_free(&x->pool);
    *x = (TrainExplain){0};
}
