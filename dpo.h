/* dpo.h - Direct Preference Optimization: from log-probs of pairs to a loss and its gradient.
 *
 * Everything here is a pure function of log-probabilities, in double. No model, no file, no memory
 * of an earlier call: what a reader checks with a pocket calculator is what trains the model.
 *
 *     policy_chosen    = sum over completion tokens t of log pi(y+[t] | x, y+[<t])     in nats
 *     c = policy_chosen - reference_chosen         log-ratio of the chosen completion
 *     r = policy_rejected - reference_rejected     log-ratio of the rejected completion
 *
 * Gradients are with respect to policy_chosen and policy_rejected (and nll_logp). The reference,
 * the token counts and the WPO weights are constants: no gradient flows through them.
 */
#ifndef ALIGN_DPO_H
#define ALIGN_DPO_H

#include "options.h"

/* The 15 losses of TRL 1.16.0, then cDPO (TRL 0.24's `sigmoid` with label smoothing). */
typedef enum {
    DPO_SIGMOID,
    DPO_HINGE,
    DPO_IPO,
    DPO_EXO_PAIR,
    DPO_NCA_PAIR,
    DPO_ROBUST,
    DPO_BCO_PAIR,
    DPO_SPPO_HARD,
    DPO_AOT,
    DPO_AOT_UNPAIRED,
    DPO_APO_ZERO,
    DPO_APO_DOWN,
    DPO_DISCOPOP,
    DPO_SFT,
    DPO_SIGMOID_NORM,
    DPO_CDPO,
    DPO_LOSS_COUNT
} DpoLoss;

/* Which divergence between policy and reference the reward is measured by (f-DPO). */
typedef enum {
    F_REVERSE_KL,
    F_FORWARD_KL,
    F_JS_DIVERGENCE,
    F_ALPHA_DIVERGENCE,
    F_DIVERGENCE_COUNT
} FDivergence;

typedef struct {
    DpoLoss loss[DPO_LOSS_COUNT]; /* the loss is the sum of weight[l] * loss[l], l < n_losses */
    double weight[DPO_LOSS_COUNT];
    size_t n_losses;
    size_t n_weights;       /* that were given: as many as losses; 0 = all are 1 */
    double beta;            /* tau in the IPO paper */
    double label_smoothing; /* epsilon: the share of pairs whose labels are believed swapped */
    FDivergence f;
    double f_alpha;  /* alpha of F_ALPHA_DIVERGENCE */
    double ld_alpha; /* for the caller, who sums over tokens: see dpo_ld_weight */
    double discopop_tau;
    int wpo; /* weight each pair by its DpoPair.wpo */
} DpoConfig;

/* --loss; --loss-weights --label-smoothing --f-divergence ...: of DpoConfig. --beta, which KTO has
 * as well, is a double of its own (kto.h). */
extern const OptionGroup dpo_loss_options, dpo_options;
extern const OptionForm dpo_losses_form; /* "sigmoid,sft", of a whole DpoConfig */
/* ERR_USAGE for too many losses, or another number of weights. option: that names the losses. */
int dpo_losses_check(const DpoConfig *c, const char *option, Err *e);

/* TRL's defaults: sigmoid, beta 0.1, no smoothing, reverse KL, alpha 0.5, tau 0.05, no WPO. */
DpoConfig dpo_config_default(void);

/* Refuses what has no meaning, with ERR_USAGE and a line that names the option: values out of
 * range, exo_pair without smoothing, smoothing that every loss of the list ignores, an
 * f-divergence with a loss that has no such form, WPO with a loss that sorts its batch. */
int dpo_config_check(const DpoConfig *c, Err *e);

/* One pair of a micro-batch. Log-probs in nats, summed over completion tokens; with LD-DPO each
 * token weighted by dpo_ld_weight, in policy and reference alike. */
typedef struct {
    double policy_chosen, policy_rejected;
    double reference_chosen, reference_rejected;
    double tokens_chosen, tokens_rejected; /* completion lengths, for ipo and sigmoid_norm */
    double nll_logp, nll_tokens; /* for sft: plain sum of the policy's chosen log-probs, and their
                                    number */
    double wpo;                  /* w_chosen * w_rejected; read only when the config says so */
} DpoPair;

typedef struct {
    double loss;                 /* of this pair: the batch loss is the mean of these */
    double d_chosen, d_rejected; /* d batch loss / d policy_chosen, d policy_rejected */
    double d_nll;                /* d batch loss / d nll_logp */
} DpoPairResult;

/* Value and gradient of the loss of one micro-batch of n >= 1 pairs:
 *     *loss = 1/n sum_i w_i sum_l weight[l] loss_l(pair i),      w_i = wpo or 1
 * aot and aot_unpaired compare sorted batches, so their value of rank k is booked on the pair
 * whose chosen completion holds that rank. sft is one number per batch, the mean over all chosen
 * tokens of all pairs, and every pair carries it.
 * order: scratch of 2 n numbers, read and written for the aot losses only (else may be NULL).
 * The config must have passed dpo_config_check. Non-finite input gives non-finite output. */
void dpo_loss(const DpoConfig *c, const DpoPair *pairs, size_t n, DpoPairResult *results,
              size_t *order, double *loss);

/* The value dpo_loss must have when policy and reference are the same model (every log-ratio 0),
 * without WPO, in closed form: ln 2 for sigmoid. Returns -1 where there is none: the sft term
 * does not look at the reference. */
int dpo_loss_at_zero(const DpoConfig *c, double *value);

/* The score s(x) of a log-ratio x = log u under the config's f-divergence, and ds/dx. */
double dpo_score(const DpoConfig *c, double log_ratio, double *slope);

/* TRL's metrics of a micro-batch: means over its pairs of the rewards beta c and beta r (raw
 * log-ratios whatever the loss), of c > r (strict: 0 at step 0), of beta c - beta r, and of the
 * policy's log-probs. */
typedef struct {
    double rewards_chosen, rewards_rejected, rewards_accuracies, rewards_margins;
    double logps_chosen, logps_rejected;
} DpoMetrics;
void dpo_metrics(double beta, const DpoPair *pairs, size_t n, DpoMetrics *m);

/* LD-DPO: weight of completion token t (from 0) of a pair whose shorter side has `shared` tokens:
 * 1 for t < shared, ld_alpha (in [0, 1]) for the longer side's tail.
 * Source: Liu et al. 2024, "Length Desensitization in DPO" (arXiv 2409.06411). */
double dpo_ld_weight(size_t t, size_t shared, double ld_alpha);

/* WPO: weight of one completion under the policy, a constant for the gradient:
 *     w = exp( 1/T sum_t [ log p(y_t) - log sum_v p_v^2 ] )
 * `sum` is the sum over t and `tokens` is T (0 counts as 1). 1 for text as likely as the policy's
 * own samples, less for text that the policy would hardly write.
 * Source: Zhou et al. 2024, "WPO" (arXiv 2406.11827), Eq. 2, in the form aligned to the expected
 * probability sum_v p_v^2 of a sample. */
double dpo_wpo_weight(double sum, size_t tokens);

/* Names as on the command line (TRL's), of a DpoLoss and an FDivergence; NULL beyond the last. */
const char *dpo_loss_name(size_t loss);
const char *f_divergence_name(size_t f);

#endif
