/* dpo.c - computes the preference losses of pairs, each as its paper writes it, and their
 * gradients.
 *
 * How it fits together:
 *     log-ratios c, r  --dpo_score-->  scores  --one function per loss-->  value, d/dscore
 * and dpo_loss walks back: d/dlog-prob = d/dscore * dscore/dlog-ratio. Three losses need the whole
 * batch at once (aot, aot_unpaired, sft) and book their gradients themselves.
 *
 * Numbers stay finite for every log-ratio of text (tests go to +-10,000 nats): log sigma and sigma
 * are stable for any argument, 1 - sigma(z) is written sigma(-z), and products of a huge and a tiny
 * exponential are formed from the sum of their exponents. What grows beyond double is then truly
 * that large: discopop with tau > 1, or squares of forward_kl scores.
 */
#include "dpo.h"

#include "json.h"
#include "kto.h"
#include "maths.h"

#include <stdio.h>
#include <string.h>

static const double LN_2 = 0.69314718055994530942;

/* What a pairwise loss sees of one pair. Without an f-divergence a score is a plain log-ratio. */
typedef struct {
    double chosen, rejected;               /* scores s(c), s(r) */
    double tokens_chosen, tokens_rejected; /* >= 1 */
} Scores;

/* A value and its derivatives with respect to the two scores. */
typedef struct {
    double value, d_chosen, d_rejected;
} Term;

/* sigma'(z) = sigma(z) sigma(-z) */
static double sigmoid_slope(double z) { return maths_sigmoid(z) * maths_sigmoid(-z); }

/* The Term of a function of the margin z = beta (s(c) - s(r)): its value and its slope in z. */
static Term margin_term(const DpoConfig *c, double value, double slope)
{
    Term t = {value, c->beta * slope, -c->beta * slope};
    return t;
}

/* The margin z = beta (s(c) - s(r)). */
static double margin_of(const DpoConfig *c, const Scores *s)
{
    return c->beta * (s->chosen - s->rejected);
}

/* ---- losses of the margin ------------------------------------------------------------------ */

/* sigmoid:  L = -log sigma(z),   dL/dz = -sigma(-z)
 * Source: Rafailov et al. 2023, DPO (arXiv 2305.18290), Eq. 7. */
static Term loss_sigmoid(const DpoConfig *c, const Scores *s)
{
    double z = margin_of(c, s);
    return margin_term(c, -maths_logsigmoid(z), -maths_sigmoid(-z));
}

/* (1-eps) parts of a believed label and eps parts of its opposite; shared by cdpo and aot:
 * L = -(1-eps) log sigma(z) - eps log sigma(-z),   dL/dz = -(1-eps) sigma(-z) + eps sigma(z) */
static double smoothed_logistic(double z, double eps, double *slope)
{
    *slope = -(1 - eps) * maths_sigmoid(-z) + eps * maths_sigmoid(z);
    return -(1 - eps) * maths_logsigmoid(z) - eps * maths_logsigmoid(-z);
}

/* cdpo:  the smoothed logistic loss of z; sigmoid where eps = 0
 * Source: Mitchell 2023, "A note on DPO with noisy preferences and relationship to IPO". */
static Term loss_cdpo(const DpoConfig *c, const Scores *s)
{
    double slope, value = smoothed_logistic(margin_of(c, s), c->label_smoothing, &slope);
    return margin_term(c, value, slope);
}

/* hinge:  L = max(0, 1 - z),   dL/dz = -1 where z < 1, else 0 (at the kink as well)
 * Source: the hinge of SLiC, Zhao et al. 2023 (arXiv 2305.10425), on DPO's margin as in RSO,
 * Liu et al. 2023 (arXiv 2309.06657). */
static Term loss_hinge(const DpoConfig *c, const Scores *s)
{
    double z = margin_of(c, s);
    return z >= 1 ? margin_term(c, 0, 0) : margin_term(c, 1 - z, -1); /* NaN stays NaN */
}

/* robust:  L = [ -(1-eps) log sigma(z) + eps log sigma(-z) ] / (1 - 2 eps)
 *          dL/dz = [ -(1-eps) sigma(-z) - eps sigma(z) ] / (1 - 2 eps)
 * Its mean over pairs of which a share eps is swapped equals the clean loss.
 * Source: Chowdhury et al. 2024, "Provably Robust DPO" (arXiv 2403.00409). */
static Term loss_robust(const DpoConfig *c, const Scores *s)
{
    double z = margin_of(c, s), eps = c->label_smoothing, scale = 1 / (1 - 2 * eps);
    double value = -(1 - eps) * maths_logsigmoid(z) + eps * maths_logsigmoid(-z);
    double slope = -(1 - eps) * maths_sigmoid(-z) - eps * maths_sigmoid(z);
    return margin_term(c, value * scale, slope * scale);
}

/* exo_pair:  L = sigma(z) [log sigma(z) - log(1-eps)] + sigma(-z) [log sigma(-z) - log eps]
 *            dL/dz = sigma'(z) [z - log(1-eps) + log eps]
 * the KL divergence from (sigma(z), sigma(-z)) to the smoothed label (1-eps, eps). For the slope:
 * log sigma(z) - log sigma(-z) = z, and the derivatives of the two logs cancel.
 * Source: Ji et al. 2024, EXO (arXiv 2402.00856), Eq. 16. */
static Term loss_exo_pair(const DpoConfig *c, const Scores *s)
{
    double z = margin_of(c, s);
    double log_kept = maths_log1p(-c->label_smoothing), log_swapped = maths_log(c->label_smoothing);
    double value = maths_sigmoid(z) * (maths_logsigmoid(z) - log_kept) +
                   maths_sigmoid(-z) * (maths_logsigmoid(-z) - log_swapped);
    return margin_term(c, value, sigmoid_slope(z) * (z - log_kept + log_swapped));
}

/* discopop:  L = (1-m) l + m e^-z,   l = -log sigma(z),   m = sigma(z/tau)
 *            dL/dz = -(1-m) sigma(-z) - m(1-m)/tau l + m e^-z [(1-m)/tau - 1]
 * m e^-z is formed as exp(log m - z): for z = -1000, e^-z alone is beyond double while the product
 * is 0. With tau > 1 the product grows like e^{-z (1 - 1/tau)}, which is the loss's own doing.
 * Source: Lu et al. 2024, DiscoPOP (arXiv 2406.08414), Eq. 5. */
static Term loss_discopop(const DpoConfig *c, const Scores *s)
{
    double z = margin_of(c, s), tau = c->discopop_tau;
    double m = maths_sigmoid(z / tau), rest = maths_sigmoid(-z / tau);
    double logistic = -maths_logsigmoid(z);
    double exponential = maths_exp(maths_logsigmoid(z / tau) - z);
    double slope =
        -rest * maths_sigmoid(-z) - m * rest / tau * logistic + exponential * (rest / tau - 1);
    return margin_term(c, rest * logistic + exponential, slope);
}

/* ---- losses of length-averaged scores ------------------------------------------------------ */

/* ipo:  L = (s(c)/L_c - s(r)/L_r - 1/(2 beta))^2
 * The division by the completion lengths L is TRL's (and, it says there, the authors' own).
 * Source: Azar et al. 2023, IPO (arXiv 2310.12036), Eq. 17, where beta is called tau. */
static Term loss_ipo(const DpoConfig *c, const Scores *s)
{
    double gap = s->chosen / s->tokens_chosen - s->rejected / s->tokens_rejected - 0.5 / c->beta;
    Term t = {gap * gap, 2 * gap / s->tokens_chosen, -2 * gap / s->tokens_rejected};
    return t;
}

/* sigmoid_norm:  L = -log sigma(z),   z = beta (s(c)/L_c - s(r)/L_r),   dL/dz = -sigma(-z)
 * DPO with SimPO's remedy against length bias; the reference stays in.
 * Source: the length normalisation of SimPO, Meng et al. 2024 (arXiv 2405.14734). */
static Term loss_sigmoid_norm(const DpoConfig *c, const Scores *s)
{
    double z = c->beta * (s->chosen / s->tokens_chosen - s->rejected / s->tokens_rejected);
    double pull = -c->beta * maths_sigmoid(-z);
    Term t = {-maths_logsigmoid(z), pull / s->tokens_chosen, -pull / s->tokens_rejected};
    return t;
}

/* ---- losses of the two rewards a = beta c and b = beta r on their own ---------------------- */

/* nca_pair:  L = -log sigma(a) - 1/2 log sigma(-a) - 1/2 log sigma(-b)
 *            dL/da = -sigma(-a) + 1/2 sigma(a),   dL/db = 1/2 sigma(b)
 * Source: Chen et al. 2024, "Noise Contrastive Alignment" (arXiv 2402.05369), for two answers. */
static Term loss_nca_pair(const DpoConfig *c, const Scores *s)
{
    double a = c->beta * s->chosen, b = c->beta * s->rejected;
    Term t = {-maths_logsigmoid(a) - 0.5 * maths_logsigmoid(-a) - 0.5 * maths_logsigmoid(-b),
              c->beta * (0.5 * maths_sigmoid(a) - maths_sigmoid(-a)),
              c->beta * 0.5 * maths_sigmoid(b)};
    return t;
}

/* bco_pair:  L = -log sigma(a) - log sigma(-b),   dL/da = -sigma(-a),   dL/db = sigma(b)
 * The reward shift delta of the paper (a running mean) is 0, as in TRL 1.16.0.
 * Source: Jung et al. 2024, BCO (arXiv 2404.04656). */
static Term loss_bco_pair(const DpoConfig *c, const Scores *s)
{
    double a = c->beta * s->chosen, b = c->beta * s->rejected;
    Term t = {-maths_logsigmoid(a) - maths_logsigmoid(-b), -c->beta * maths_sigmoid(-a),
              c->beta * maths_sigmoid(b)};
    return t;
}

/* sppo_hard:  L = (c - 1/(2 beta))^2 + (r + 1/(2 beta))^2
 * The chosen completion is taken to win with probability 1, the rejected with 0.
 * Source: Wu et al. 2024, SPPO (arXiv 2405.00675), Eq. 4.7, with these hard probabilities. */
static Term loss_sppo_hard(const DpoConfig *c, const Scores *s)
{
    double win = s->chosen - 0.5 / c->beta, lose = s->rejected + 0.5 / c->beta;
    Term t = {win * win + lose * lose, 2 * win, 2 * lose};
    return t;
}

/* apo_zero:  L = [1 - sigma(a)] + sigma(b),   dL/da = -sigma'(a),   dL/db = sigma'(b)
 * For answers better than the model's own: chosen up, rejected down.
 * Source: D'Oosterlinck et al. 2024, APO (arXiv 2408.06266), Eq. 7. */
static Term loss_apo_zero(const DpoConfig *c, const Scores *s)
{
    double a = c->beta * s->chosen, b = c->beta * s->rejected;
    Term t = {maths_sigmoid(-a) + maths_sigmoid(b), -c->beta * sigmoid_slope(a),
              c->beta * sigmoid_slope(b)};
    return t;
}

/* apo_down:  L = sigma(a) + [1 - sigma(a - b)]
 *            dL/da = sigma'(a) - sigma'(a - b),   dL/db = sigma'(a - b)
 * For answers worse than the model's own: both down, rejected more.
 * Source: D'Oosterlinck et al. 2024, APO (arXiv 2408.06266), Eq. 8. */
static Term loss_apo_down(const DpoConfig *c, const Scores *s)
{
    double a = c->beta * s->chosen, z = margin_of(c, s);
    Term t = {maths_sigmoid(a) + maths_sigmoid(-z), c->beta * (sigmoid_slope(a) - sigmoid_slope(z)),
              c->beta * sigmoid_slope(z)};
    return t;
}

/* ---- losses of a whole batch --------------------------------------------------------------- */

/* The log-ratios that the two aot losses sort. */
static double policy_ratio(const DpoPair *p) { return p->policy_chosen - p->policy_rejected; }
static double reference_ratio(const DpoPair *p)
{
    return p->reference_chosen - p->reference_rejected;
}
static double chosen_ratio(const DpoPair *p) { return p->policy_chosen - p->reference_chosen; }
static double rejected_ratio(const DpoPair *p)
{
    return p->policy_rejected - p->reference_rejected;
}

/* order = the pairs by rising key; equal keys keep their order in the batch, so the gradient at a
 * tie is well defined. Insertion sort: a micro-batch has a handful of pairs. */
static void sort_pairs(const DpoPair *pairs, size_t n, double (*key)(const DpoPair *),
                       size_t *order)
{
    for (size_t i = 0; i < n; i++) {
        size_t at = i;
        for (; at > 0 && key(&pairs[order[at - 1]]) > key(&pairs[i]); at--)
            order[at] = order[at - 1];
        order[at] = i;
    }
}

/* aot:  d_k = k-th smallest of (log pi(y+) - log pi(y-)) - k-th smallest of the reference's,
 *       L = mean_k of the smoothed logistic loss of beta d_k
 * The policy's preferences as a whole shall dominate the reference's; which pair meets which is
 * the optimal transport in one dimension: sorting. The order itself is a constant for the gradient.
 * Source: Melnyk et al. 2024, AOT (arXiv 2406.05882), paired. */
static void loss_aot(const DpoConfig *c, const DpoPair *pairs, size_t n, double weight,
                     DpoPairResult *results, size_t *order)
{
    size_t *reference_order = order + n;
    sort_pairs(pairs, n, policy_ratio, order);
    sort_pairs(pairs, n, reference_ratio, reference_order);
    for (size_t k = 0; k < n; k++) {
        double d = policy_ratio(&pairs[order[k]]) - reference_ratio(&pairs[reference_order[k]]);
        double slope, value = smoothed_logistic(c->beta * d, c->label_smoothing, &slope);
        DpoPairResult *out = &results[order[k]];
        out->loss += weight * value;
        out->d_chosen += weight / (double)n * c->beta * slope;
        out->d_rejected -= weight / (double)n * c->beta * slope;
    }
}

/* aot_unpaired:  d_k = k-th smallest c - k-th smallest r, then as aot
 * Source: Melnyk et al. 2024, AOT (arXiv 2406.05882), unpaired. */
static void loss_aot_unpaired(const DpoConfig *c, const DpoPair *pairs, size_t n, double weight,
                              DpoPairResult *results, size_t *order)
{
    size_t *rejected_order = order + n;
    sort_pairs(pairs, n, chosen_ratio, order);
    sort_pairs(pairs, n, rejected_ratio, rejected_order);
    for (size_t k = 0; k < n; k++) {
        double d = chosen_ratio(&pairs[order[k]]) - rejected_ratio(&pairs[rejected_order[k]]);
        double slope, value = smoothed_logistic(c->beta * d, c->label_smoothing, &slope);
        results[order[k]].loss += weight * value;
        results[order[k]].d_chosen += weight / (double)n * c->beta * slope;
        results[rejected_order[k]].d_rejected -= weight / (double)n * c->beta * slope;
    }
}

/* The weight of a pair: WPO's, or 1. */
static double pair_weight(const DpoConfig *c, const DpoPair *p) { return c->wpo ? p->wpo : 1; }

/* sft:  L = - sum_i nll_logp_i / sum_i nll_tokens_i
 * the mean over all chosen tokens of the batch, not over pairs: long answers count more. With WPO
 * it is multiplied by the mean weight. A batch without a scored token costs nothing.
 * As a second loss beside sigmoid this is RPO, Pang et al. 2024 (arXiv 2404.19733). */
static void loss_sft(const DpoConfig *c, const DpoPair *pairs, size_t n, double weight,
                     DpoPairResult *results, size_t *order)
{
    double logp = 0, tokens = 0, weights = 0;
    (void)order;
    for (size_t i = 0; i < n; i++) {
        logp += pairs[i].nll_logp;
        tokens += pairs[i].nll_tokens;
        weights += pair_weight(c, &pairs[i]);
    }
    if (tokens == 0) return;
    for (size_t i = 0; i < n; i++) {
        results[i].loss += weight * pair_weight(c, &pairs[i]) * -logp / tokens;
        results[i].d_nll -= weight * (weights / (double)n) / tokens;
    }
}

/* ---- the table ----------------------------------------------------------------------------- */

typedef Term (*PairLoss)(const DpoConfig *c, const Scores *s);
typedef void (*BatchLoss)(const DpoConfig *c, const DpoPair *pairs, size_t n, double weight,
                          DpoPairResult *results, size_t *order);

/* One loss: its name, its function (one of two kinds), whether its scores may be those of an
 * f-divergence (otherwise it is defined on raw log-ratios), whether it reads label_smoothing. */
typedef struct {
    const char *name;
    PairLoss pair;
    BatchLoss batch;
    int f_divergence, smoothing;
} LossRow;

static const LossRow LOSSES[DPO_LOSS_COUNT] = {
    [DPO_SIGMOID] = {"sigmoid", loss_sigmoid, NULL, 1, 0},
    [DPO_HINGE] = {"hinge", loss_hinge, NULL, 1, 0},
    [DPO_IPO] = {"ipo", loss_ipo, NULL, 1, 0},
    [DPO_EXO_PAIR] = {"exo_pair", loss_exo_pair, NULL, 1, 1},
    [DPO_NCA_PAIR] = {"nca_pair", loss_nca_pair, NULL, 0, 0},
    [DPO_ROBUST] = {"robust", loss_robust, NULL, 1, 1},
    [DPO_BCO_PAIR] = {"bco_pair", loss_bco_pair, NULL, 0, 0},
    [DPO_SPPO_HARD] = {"sppo_hard", loss_sppo_hard, NULL, 0, 0},
    [DPO_AOT] = {"aot", NULL, loss_aot, 0, 1},
    [DPO_AOT_UNPAIRED] = {"aot_unpaired", NULL, loss_aot_unpaired, 0, 1},
    [DPO_APO_ZERO] = {"apo_zero", loss_apo_zero, NULL, 0, 0},
    [DPO_APO_DOWN] = {"apo_down", loss_apo_down, NULL, 0, 0},
    [DPO_DISCOPOP] = {"discopop", loss_discopop, NULL, 1, 0},
    [DPO_SFT] = {"sft", NULL, loss_sft, 1, 0},
    [DPO_SIGMOID_NORM] = {"sigmoid_norm", loss_sigmoid_norm, NULL, 1, 0},
    [DPO_CDPO] = {"cdpo", loss_cdpo, NULL, 1, 1},
};

/* ---- scores -------------------------------------------------------------------------------- */

/* The largest exponent of a score, e^80 = 5.5e34, beyond which the score is held constant and its
 * slope is 0. TRL does so for the alpha divergence; its forward_kl has no bound and turns into NaN
 * at 88, where float ends. */
static const double SCORE_EXPONENT_MAX = 80;

/* Closer to 1 than this, alpha is taken as 1: the limit, reverse KL (TRL's rule). */
static const double ALPHA_LIMIT = 1e-6;

/* (e^{k x} - 1) / k with the bound above: score of the alpha divergence for k = alpha - 1, and of
 * forward KL for k = -1. */
static double power_score(double k, double x, double *slope)
{
    if (k * x > SCORE_EXPONENT_MAX) {
        *slope = 0;
        return maths_expm1(SCORE_EXPONENT_MAX) / k;
    }
    *slope = maths_exp(k * x);
    return maths_expm1(k * x) / k;
}

/* s(x) = f'(u) with u = e^x the ratio of policy to reference probability:
 *     reverse_kl        x                                  ds/dx = 1
 *     forward_kl        1 - e^-x                           e^-x
 *     js_divergence     log(2u / (1+u)) = log 2 + log sigma(x)     sigma(-x)
 *     alpha_divergence  (e^{(alpha-1) x} - 1) / (alpha-1)  e^{(alpha-1) x}
 * Source: Wang et al. 2023, "Beyond Reverse KL" (arXiv 2309.16240); constants such that s(0) = 0.
 */
double dpo_score(const DpoConfig *c, double log_ratio, double *slope)
{
    double k = c->f_alpha - 1;
    switch (c->f) {
    case F_FORWARD_KL: return power_score(-1, log_ratio, slope);
    case F_JS_DIVERGENCE:
        *slope = maths_sigmoid(-log_ratio);
        return LN_2 + maths_logsigmoid(log_ratio);
    case F_ALPHA_DIVERGENCE:
        if (k > ALPHA_LIMIT || k < -ALPHA_LIMIT) return power_score(k, log_ratio, slope);
        break;
    case F_REVERSE_KL:
    case F_DIVERGENCE_COUNT: break;
    }
    *slope = 1;
    return log_ratio;
}

/* ---- the loss of a batch ------------------------------------------------------------------- */

/* Adds weight * one pairwise loss to every pair's result: scores forward, loss, and the chain rule
 * back through the scores. */
static void add_pair_loss(const DpoConfig *c, PairLoss pair_loss, const DpoPair *pairs, size_t n,
                          double weight, DpoPairResult *results)
{
    for (size_t i = 0; i < n; i++) {
        const DpoPair *p = &pairs[i];
        double slope_chosen, slope_rejected, w = weight * pair_weight(c, p);
        Scores s = {dpo_score(c, chosen_ratio(p), &slope_chosen),
                    dpo_score(c, rejected_ratio(p), &slope_rejected),
                    p->tokens_chosen < 1 ? 1 : p->tokens_chosen,
                    p->tokens_rejected < 1 ? 1 : p->tokens_rejected};
        Term t = pair_loss(c, &s);
        results[i].loss += w * t.value;
        results[i].d_chosen += w / (double)n * t.d_chosen * slope_chosen;
        results[i].d_rejected += w / (double)n * t.d_rejected * slope_rejected;
    }
}

void dpo_loss(const DpoConfig *c, const DpoPair *pairs, size_t n, DpoPairResult *results,
              size_t *order, double *loss)
{
    memset(results, 0, n * sizeof *results);
    for (size_t l = 0; l < c->n_losses; l++) {
        const LossRow *row = &LOSSES[c->loss[l]];
        if (row->pair)
            add_pair_loss(c, row->pair, pairs, n, c->weight[l], results);
        else
            row->batch(c, pairs, n, c->weight[l], results, order);
    }
    *loss = 0;
    for (size_t i = 0; i < n; i++) *loss += results[i].loss;
    *loss /= (double)n;
}

/* The closed form of one loss at c = r = 0: every z, a and b is 0, sigma is 1/2. */
static double loss_at_zero(const DpoConfig *c, DpoLoss loss)
{
    double eps = c->label_smoothing;
    switch (loss) {
    case DPO_HINGE:
    case DPO_APO_ZERO:
    case DPO_APO_DOWN: return 1;
    case DPO_IPO: return 1 / (4 * c->beta * c->beta);
    case DPO_SPPO_HARD: return 1 / (2 * c->beta * c->beta);
    case DPO_EXO_PAIR: return -LN_2 - 0.5 * maths_log(eps * (1 - eps));
    case DPO_NCA_PAIR:
    case DPO_BCO_PAIR: return 2 * LN_2;
    case DPO_DISCOPOP: return 0.5 * LN_2 + 0.5;
    case DPO_SIGMOID:
    case DPO_SIGMOID_NORM:
    case DPO_CDPO:
    case DPO_ROBUST:
    case DPO_AOT:
    case DPO_AOT_UNPAIRED: return LN_2;
    case DPO_SFT:
    case DPO_LOSS_COUNT: break;
    }
    return 0;
}

int dpo_loss_at_zero(const DpoConfig *c, double *value)
{
    *value = 0;
    for (size_t l = 0; l < c->n_losses; l++) {
        if (c->loss[l] == DPO_SFT) return -1;
        *value += c->weight[l] * loss_at_zero(c, c->loss[l]);
    }
    return 0;
}

/* ---- metrics and weights ------------------------------------------------------------------- */

void dpo_metrics(double beta, const DpoPair *pairs, size_t n, DpoMetrics *m)
{
    double count = (double)n;
    DpoMetrics sum = {0};
    for (size_t i = 0; i < n; i++) {
        double chosen = beta * chosen_ratio(&pairs[i]), rejected = beta * rejected_ratio(&pairs[i]);
        sum.rewards_chosen += chosen;
        sum.rewards_rejected += rejected;
        sum.rewards_accuracies += chosen > rejected;
        sum.rewards_margins += chosen - rejected;
        sum.logps_chosen += pairs[i].policy_chosen;
        sum.logps_rejected += pairs[i].policy_rejected;
    }
    *m = (DpoMetrics){sum.rewards_chosen / count,     sum.rewards_rejected / count,
                      sum.rewards_accuracies / count, sum.rewards_margins / count,
                      sum.logps_chosen / count,       sum.logps_rejected / count};
}

double dpo_ld_weight(size_t t, size_t shared, double ld_alpha) { return t < shared ? 1 : ld_alpha; }

double dpo_wpo_weight(double sum, size_t tokens)
{
    return maths_exp(sum / (double)(tokens ? tokens : 1));
}

/* ---- configuration ------------------------------------------------------------------------- */

static const char *const F_NAMES[F_DIVERGENCE_COUNT] = {
    [F_REVERSE_KL] = "reverse_kl",
    [F_FORWARD_KL] = "forward_kl",
    [F_JS_DIVERGENCE] = "js_divergence",
    [F_ALPHA_DIVERGENCE] = "alpha_divergence",
};

const char *dpo_loss_name(size_t loss)
{
    return loss < DPO_LOSS_COUNT ? LOSSES[loss].name : NULL;
}

const char *f_divergence_name(size_t f) { return f < F_DIVERGENCE_COUNT ? F_NAMES[f] : NULL; }

/* "sigmoid,sft". Of too many the first are kept, and dpo_losses_check sees their number. */
static void read_losses(void *config, const char *text)
{
    DpoConfig *c = config;
    char word[32];
    c->n_losses = 0;
    for (size_t n; text; text = text[n] ? text + n + 1 : NULL) {
        n = strcspn(text, ",");
        snprintf(word, sizeof word, "%.*s", (int)n, text);
        int loss = option_place(dpo_loss_name, word);
        if (c->n_losses < DPO_LOSS_COUNT && loss >= 0) c->loss[c->n_losses] = (DpoLoss)loss;
        c->n_losses++;
    }
}

static int show_losses(const void *config, Text *out, Err *e)
{
    const DpoConfig *c = config;
    for (size_t i = 0; i < c->n_losses; i++)
        if (text_addf(out, e, "%s%s", i ? "," : "", dpo_loss_name(c->loss[i]))) return -1;
    return 0;
}

/* "1,0.5" */
static void read_weights(void *config, const char *text)
{
    DpoConfig *c = config;
    c->n_weights = 0;
    for (size_t n; text; text = text[n] ? text + n + 1 : NULL) {
        n = strcspn(text, ",");
        if (c->n_weights < DPO_LOSS_COUNT) parse_f64(text, n, &c->weight[c->n_weights]);
        c->n_weights++;
    }
}

static int show_weights(const void *config, Text *out, Err *e)
{
    const DpoConfig *c = config;
    for (size_t i = 0; i < c->n_losses; i++)
        if (text_addf(out, e, "%s", i ? "," : "") || json_put_f64(out, c->weight[i], e)) return -1;
    return 0;
}

const OptionForm dpo_losses_form = {read_losses, show_losses};
static const OptionForm weights_form = {read_weights, show_weights};

static const Option loss_rows[] = {
    {"loss", 0, OPTION_WORDS, "sigmoid", NULL,
     "loss to minimise; several are summed with --loss-weights", .holds = HOLDS_FORM,
     .form = &dpo_losses_form, .words = dpo_loss_name},
};
const OptionGroup dpo_loss_options = OPTION_GROUP("DPO", loss_rows);

/* As Option.when: explain has one method, the loop has several. */
#define OF_DPO "method=dpo methods=dpo|both"

static const Option dpo_rows[] = {
    {"loss-weights", 0, OPTION_NUMBERS, NULL, "[0,inf)", "weight of each loss; default: all 1",
     .holds = HOLDS_FORM, .form = &weights_form, .when = OF_DPO},
    {"label-smoothing", 0, OPTION_NUMBER, "0", "[0,1)",
     "share of labels assumed wrong (cdpo, robust, exo_pair, aot, aot_unpaired)",
     FIELD(DpoConfig, label_smoothing), .when = OF_DPO},
    {"f-divergence", 0, OPTION_CHOICE, "reverse_kl", NULL,
     "divergence that measures the distance to the reference", FIELD(DpoConfig, f),
     .words = f_divergence_name, .when = OF_DPO},
    {"f-alpha", 0, OPTION_NUMBER, "0.5", NULL, "alpha of alpha_divergence",
     FIELD(DpoConfig, f_alpha), .when = OF_DPO " f-divergence=alpha_divergence"},
    {"ld-alpha", 0, OPTION_NUMBER, "1", "[0,1]",
     "LD-DPO: weight of the tokens beyond the length of the shorter answer; 1 = off",
     FIELD(DpoConfig, ld_alpha), .when = OF_DPO},
    {"wpo", 0, OPTION_FLAG, NULL, NULL,
     "WPO: weight each pair by its likelihood under the policy", FIELD(DpoConfig, wpo),
     .when = OF_DPO},
    {"discopop-tau", 0, OPTION_NUMBER, "0.05", "(0,inf)", "temperature of discopop's mixture",
     FIELD(DpoConfig, discopop_tau), .when = OF_DPO " dpo-loss/loss=discopop"},
};
const OptionGroup dpo_options = OPTION_GROUP("DPO's variants", dpo_rows);

DpoConfig dpo_config_default(void)
{
    DpoConfig c = {0};
    for (size_t i = 0; i < DPO_LOSS_COUNT; i++) c.weight[i] = 1;
    options_defaults(&beta_options, &c.beta);
    options_defaults(&dpo_loss_options, &c);
    options_defaults(&dpo_options, &c);
    return c;
}

int dpo_losses_check(const DpoConfig *c, const char *option, Err *e)
{
    if (c->n_losses > DPO_LOSS_COUNT)
        return err_set(e, ERR_USAGE, "--%s: at most %d losses", option, DPO_LOSS_COUNT);
    if (c->n_weights && c->n_weights != c->n_losses)
        return err_set(e, ERR_USAGE, "--loss-weights: %zu weights for %zu losses of --%s",
                       c->n_weights, c->n_losses, option);
    return 0;
}

/* Refuses numbers that no loss can use. */
static int check_numbers(const DpoConfig *c, Err *e)
{
    if (options_check(&beta_options, &c->beta, e) || options_check(&dpo_options, c, e)) return -1;
    if (c->n_losses < 1 || c->n_losses > DPO_LOSS_COUNT)
        return err_set(e, ERR_USAGE, "--loss: %lu losses given, 1 to %d are possible",
                       (unsigned long)c->n_losses, DPO_LOSS_COUNT);
    for (size_t l = 0; l < c->n_losses; l++)
        if (!(c->weight[l] >= 0) || c->weight[l] - c->weight[l] != 0)
            return err_set(e, ERR_USAGE, "--loss-weights: %g for %s, must be finite and at least 0",
                           c->weight[l], dpo_loss_name(c->loss[l]));
    return 0;
}

/* Refuses a loss that does not go with the other settings. */
static int check_loss(const DpoConfig *c, DpoLoss loss, Err *e)
{
    const LossRow *row = &LOSSES[loss];
    if (c->f != F_REVERSE_KL && !row->f_divergence)
        return err_set(
            e, ERR_USAGE,
            "--f-divergence %s: --loss %s is defined for reverse_kl only; the others go "
            "with sigmoid, cdpo, sigmoid_norm, hinge, ipo, exo_pair, robust, discopop, sft",
            f_divergence_name(c->f), row->name);
    if (c->wpo && (loss == DPO_AOT || loss == DPO_AOT_UNPAIRED))
        return err_set(e, ERR_USAGE,
                       "--wpo: --loss %s sorts its batch, so a weight would meet the wrong pair; "
                       "leave one of the two out",
                       row->name);
    if (loss == DPO_EXO_PAIR && c->label_smoothing == 0)
        return err_set(e, ERR_USAGE,
                       "--label-smoothing 0: --loss exo_pair needs a value above 0 (it takes its "
                       "logarithm); its paper uses 0.001");
    if ((loss == DPO_ROBUST || loss == DPO_CDPO) && !(c->label_smoothing < 0.5))
        return err_set(
            e, ERR_USAGE,
            "--label-smoothing %g: --loss %s needs a value below 0.5 (fewer than half of "
            "the labels swapped)",
            c->label_smoothing, row->name);
    return 0;
}

int dpo_config_check(const DpoConfig *c, Err *e)
{
    int smoothing_used = 0;
    if (check_numbers(c, e)) return -1;
    for (size_t l = 0; l < c->n_losses; l++) {
        if (check_loss(c, c->loss[l], e)) return -1;
        smoothing_used |= LOSSES[c->loss[l]].smoothing;
    }
    if (c->label_smoothing > 0 && !smoothing_used)
        return err_set(
            e, ERR_USAGE,
            "--label-smoothing %g: --loss %s ignores it; use --loss cdpo for the smoothed "
            "sigmoid, or robust, exo_pair, aot, aot_unpaired",
            c->label_smoothing, dpo_loss_name(c->loss[0]));
    return 0;
}
