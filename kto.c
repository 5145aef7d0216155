/* kto.c - computes the KTO loss and its relative without a KL term, z0, class weights and
 * partners. */
#include "kto.h"
#include "maths.h"

#include <stdlib.h>
#include <string.h>

/* ---- loss ---------------------------------------------------------------------------------- */

int kto_needs_kl(KtoLoss loss) { return loss == KTO_KTO; }

double kto_kl(const double *policy, const double *reference, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += policy[i] - reference[i];
    return sum < 0 ? 0 : sum / (double)n;
}

/* The weight lambda of a row's class. */
static double row_weight(const KtoConfig *c, const KtoRow *r)
{
    return r->desirable ? c->desirable_weight : c->undesirable_weight;
}

/* kto, with z = beta (x - z0):
 *     desirable    L = lambda_D [1 - sigma(z)]      dL/dx = -lambda_D beta sigma(z) sigma(-z)
 *     undesirable  L = lambda_U [1 - sigma(-z)]     dL/dx = +lambda_U beta sigma(z) sigma(-z)
 * Far from z0 on either side the slope dies out: what is already very good, or hopeless, is left
 * alone. apo_zero_unpaired is the same with z0 = 0.
 * Source: Ethayarajh et al. 2024, KTO (arXiv 2402.01306), Eq. 7 of the first arXiv version, Eq. 8
 * of later ones (lambda_y - v there is L here); the unpaired form of Eq. 7 of D'Oosterlinck et al.
 * 2024, APO (arXiv 2408.06266). */
void kto_loss(const KtoConfig *c, const KtoRow *rows, size_t n, double kl, KtoResult *results,
              double *loss)
{
    double z0 = kto_needs_kl(c->loss) ? kl : 0;
    *loss = 0;
    for (size_t i = 0; i < n; i++) {
        double weight = row_weight(c, &rows[i]);
        double z = c->beta * (rows[i].policy - rows[i].reference - z0);
        double side = rows[i].desirable ? 1 : -1;
        double slope = c->beta * maths_sigmoid(z) * maths_sigmoid(-z);
        results[i].loss = weight * maths_sigmoid(-side * z); /* 1 - sigma(u) = sigma(-u) */
        results[i].d_policy = -side * weight * slope / (double)n;
        *loss += results[i].loss;
    }
    *loss /= (double)n;
}

double kto_loss_at_zero(const KtoConfig *c, const KtoRow *rows, size_t n)
{
    double loss = 0;
    for (size_t i = 0; i < n; i++) loss += 0.5 * row_weight(c, &rows[i]);
    return loss / (double)n;
}

void kto_metrics(double beta, const KtoRow *rows, size_t n, KtoMetrics *m)
{
    memset(m, 0, sizeof *m);
    for (size_t i = 0; i < n; i++) {
        double reward = beta * (rows[i].policy - rows[i].reference);
        m->desirable += rows[i].desirable != 0;
        *(rows[i].desirable ? &m->rewards_chosen : &m->rewards_rejected) += reward;
        *(rows[i].desirable ? &m->logps_chosen : &m->logps_rejected) += rows[i].policy;
    }
    m->undesirable = n - m->desirable;
    double d = (double)(m->desirable ? m->desirable : 1);
    double u = (double)(m->undesirable ? m->undesirable : 1);
    m->rewards_chosen /= d;
    m->logps_chosen /= d;
    m->rewards_rejected /= u;
    m->logps_rejected /= u;
    if (m->desirable && m->undesirable)
        m->rewards_margins = m->rewards_chosen - m->rewards_rejected;
}

/* ---- class weights ------------------------------------------------------------------------- */

/* Upper end of the recommended (lambda_D n_D) / (lambda_U n_U); the lower end is 1. */
static const double RATIO_MAX = 4.0 / 3.0;

/* Half a unit of the second digit: what printing with two digits may move a bound. */
static const double PRINT_ERROR = 0.005;

void kto_auto_weights(size_t n_desirable, size_t n_undesirable, double *desirable_weight,
                      double *undesirable_weight)
{
    double d = (double)n_desirable, u = (double)n_undesirable;
    *desirable_weight = *undesirable_weight = 1;
    if (!n_desirable || !n_undesirable) return;
    if (d < u) *desirable_weight = u / d;
    if (u < d) *undesirable_weight = d / u;
}

int kto_weights_balanced(const KtoConfig *c, size_t n_desirable, size_t n_undesirable,
                         KtoWeightRanges *ranges)
{
    double d = (double)(n_desirable ? n_desirable : 1);
    double u = (double)(n_undesirable ? n_undesirable : 1);
    double w_d = c->desirable_weight, w_u = c->undesirable_weight;
    ranges->desirable_low = u * w_u / d;
    ranges->desirable_high = RATIO_MAX * u * w_u / d;
    ranges->undesirable_low = d * w_d / u / RATIO_MAX;
    ranges->undesirable_high = d * w_d / u;
    if (!n_desirable || !n_undesirable || n_desirable == n_undesirable) return 1;
    return (w_d >= ranges->desirable_low - PRINT_ERROR &&
            w_d <= ranges->desirable_high + PRINT_ERROR) ||
           (w_u >= ranges->undesirable_low - PRINT_ERROR &&
            w_u <= ranges->undesirable_high + PRINT_ERROR);
}

/* ---- partners ------------------------------------------------------------------------------ */

/* A row under the name of its prompt; sorted, rows of one prompt lie together in file order. */
typedef struct {
    uint64_t prompt;
    size_t row;
} PromptRow;

/* For qsort: by prompt, then by row (a total order, so any qsort gives the same result). */
static int compare_prompt_rows(const void *a, const void *b)
{
    const PromptRow *p = a, *q = b;
    if (p->prompt != q->prompt) return p->prompt < q->prompt ? -1 : 1;
    return p->row < q->row ? -1 : p->row > q->row;
}

/* The k-th row (from 0) that is not among the `count` rows of `group`, which rise. The m-th of
 * them has group[m].row - m strangers before it; so the answer is k plus the number of members
 * with at most k strangers before them, found by bisection. */
static size_t stranger(const PromptRow *group, size_t count, size_t k)
{
    size_t low = 0, high = count;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (group[mid].row - mid <= k)
            low = mid + 1;
        else
            high = mid;
    }
    return k + low;
}

/* One partner per row, uniform over the rows with another prompt. */
static int distinct_partners(size_t n, uint64_t seed, const uint64_t *prompts, size_t *partner,
                             Err *e)
{
    size_t bytes;
    if (size_mul(n, sizeof(PromptRow), &bytes))
        return err_set(e, ERR_MEMORY, "KL partners: %lu rows do not fit into memory",
                       (unsigned long)n);
    PromptRow *sorted = mem_alloc(bytes, e);
    if (!sorted) return -1;
    for (size_t i = 0; i < n; i++) sorted[i] = (PromptRow){prompts[i], i};
    qsort(sorted, n, sizeof *sorted, compare_prompt_rows);
    int failed = sorted[0].prompt == sorted[n - 1].prompt;
    for (size_t from = 0, to; !failed && from < n; from = to) {
        for (to = from; to < n && sorted[to].prompt == sorted[from].prompt; to++) {
        }
        for (size_t m = from; m < to; m++) {
            size_t row = sorted[m].row, strangers = n - (to - from);
            size_t k = (size_t)(rng_u64(seed, RNG_PAIRING, row) % strangers);
            partner[row] = stranger(sorted + from, to - from, k);
        }
    }
    mem_free(sorted);
    if (failed)
        return err_set(
            e, ERR_DATA,
            "KL partners: all %lu rows have the same prompt, --kl-pairing distinct needs "
            "at least 2; add rows or use the loss apo_zero_unpaired",
            (unsigned long)n);
    return 0;
}

int kto_partners(KtoPairing pairing, size_t n, size_t batch, uint64_t seed, const uint64_t *prompts,
                 size_t *partner, size_t *alone, Err *e)
{
    *alone = 0;
    if (pairing == KTO_DISTINCT) return distinct_partners(n, seed, prompts, partner, e);
    for (size_t start = 0; start < n; start += batch) {
        size_t size = n - start < batch ? n - start : batch;
        size_t shift = pairing == KTO_HALOS ? 1 : size - 1; /* +1, or -1 round the block */
        for (size_t i = 0; i < size; i++) partner[start + i] = start + (i + shift) % size;
        if (size == 1) ++*alone;
    }
    return 0;
}

/* ---- configuration and names --------------------------------------------------------------- */

static const char *const LOSS_NAMES[KTO_LOSS_COUNT] = {
    [KTO_KTO] = "kto",
    [KTO_APO_ZERO_UNPAIRED] = "apo_zero_unpaired",
};

static const char *const PAIRING_NAMES[KTO_PAIRING_COUNT] = {
    [KTO_DISTINCT] = "distinct",
    [KTO_TRL] = "trl",
    [KTO_HALOS] = "halos",
};

const char *kto_loss_name(size_t loss) { return loss < KTO_LOSS_COUNT ? LOSS_NAMES[loss] : NULL; }

const char *kto_pairing_name(size_t pairing)
{
    return pairing < KTO_PAIRING_COUNT ? PAIRING_NAMES[pairing] : NULL;
}

static const Option beta_rows[] = {
    {"beta", 0, OPTION_NUMBER, "0.1", "(0,inf)",
     "strength of the tie to the reference; tau in IPO's paper", WHOLE(double)},
};
const OptionGroup beta_options = OPTION_GROUP("Loss", beta_rows);

static const Option loss_rows[] = {
    {"loss", 0, OPTION_CHOICE, "kto", NULL, "loss to minimise", FIELD(KtoConfig, loss),
     .words = kto_loss_name},
};
const OptionGroup kto_loss_options = OPTION_GROUP("KTO", loss_rows);

static const Option weight_rows[] = {
    KTO_WEIGHT_ROW("desirable-weight", "1",
                   "weight of rows with label true; auto balances the classes by KTO's rule",
                   KtoConfig, desirable_weight, auto_desirable),
    KTO_WEIGHT_ROW("undesirable-weight", "1", "weight of rows with label false", KtoConfig,
                   undesirable_weight, auto_undesirable),
};
const OptionGroup kto_weight_options = OPTION_GROUP("KTO's weights", weight_rows);

KtoConfig kto_config_default(void)
{
    KtoConfig c = {0};
    options_defaults(&beta_options, &c.beta);
    options_defaults(&kto_loss_options, &c);
    options_defaults(&kto_weight_options, &c);
    return c;
}

int kto_config_check(const KtoConfig *c, size_t batch, Err *e)
{
    if (options_check(&beta_options, &c->beta, e) || options_check(&kto_weight_options, c, e))
        return -1;
    if (batch < 2 && kto_needs_kl(c->loss))
        return err_set(
            e, ERR_USAGE,
            "--batch %lu: --loss kto estimates its KL term over the rows of a micro-batch and "
            "needs at least 2; apo_zero_unpaired takes 1",
            (unsigned long)batch);
    return 0;
}
