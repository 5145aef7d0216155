/* kto.h - Kahneman-Tversky Optimization: from log-probs of labelled answers to a loss and its
 * gradient, the KL estimate it stands on, and the class weights.
 *
 * Pure functions in double, as in dpo.h. A row is a prompt, one completion and a label: desirable
 * or not. Its log-ratio, summed over the completion's tokens, in nats:
 *     x = log pi(y | x) - log pi_ref(y | x)
 * The gradient is with respect to log pi(y | x) of the row itself. The reference and z0 are
 * constants: no gradient flows through them.
 */
#ifndef ALIGN_KTO_H
#define ALIGN_KTO_H

#include "options.h"

typedef enum { KTO_KTO, KTO_APO_ZERO_UNPAIRED, KTO_LOSS_COUNT } KtoLoss;

typedef struct {
    KtoLoss loss;
    double beta;
    double desirable_weight;   /* lambda_D */
    double undesirable_weight; /* lambda_U */
    int auto_desirable, auto_undesirable; /* the caller sets them, so that the classes balance */
} KtoConfig;

/* --beta, of KTO and DPO alike: a double; --loss, and the weights: of KtoConfig. */
extern const OptionGroup beta_options, kto_loss_options, kto_weight_options;
/* Rows of --desirable-weight and --undesirable-weight, for a KtoConfig at a member of a struct. */
#define KTO_WEIGHT_ROW(name, value, help, type, member, automatic)                                 \
    {                                                                                              \
        name, 0, OPTION_NUMBER, value, "[0,inf)|auto", help, FIELD(type, member),                  \
            .beside = offsetof(type, automatic), .when = "method=kto methods=kto|both"            \
    }

/* TRL's defaults: kto, beta 0.1, both weights 1. */
KtoConfig kto_config_default(void);

/* Refuses values out of range, and micro-batches of one row with a loss that needs z0 (the only
 * partner would be the row itself), with ERR_USAGE and a line that names the option. */
int kto_config_check(const KtoConfig *c, size_t batch, Err *e);

/* Whether the loss needs z0, and so the log-probs of the mismatched rows. */
int kto_needs_kl(KtoLoss loss);

/* One row of a micro-batch; log-probs in nats, summed over completion tokens. */
typedef struct {
    double policy, reference;
    int desirable; /* the label */
} KtoRow;

typedef struct {
    double loss;     /* of this row, its weight included: the batch loss is the mean of these */
    double d_policy; /* d batch loss / d policy */
} KtoResult;

/* z0, the estimate of KL(pi || pi_ref) that rewards are measured against: the mean log-ratio of
 * mismatched rows (prompt x_i with the completion y_j of its partner), in nats, not below 0:
 *     z0 = max(0, 1/n sum_i [ log pi(y_j | x_i) - log pi_ref(y_j | x_i) ])
 * Clamped after averaging. NaN stays NaN. n >= 1.
 * Source: Ethayarajh et al. 2024, KTO (arXiv 2402.01306), section 4. */
double kto_kl(const double *policy, const double *reference, size_t n);

/* Value and gradient of the loss of one micro-batch of n >= 1 rows, z0 being kl (ignored by
 * apo_zero_unpaired). Divides by n, not by the sum of weights; batches of one class are fine. */
void kto_loss(const KtoConfig *c, const KtoRow *rows, size_t n, double kl, KtoResult *results,
              double *loss);

/* The value kto_loss must have when policy and reference are the same model: half the weight of
 * each row, averaged. */
double kto_loss_at_zero(const KtoConfig *c, const KtoRow *rows, size_t n);

/* TRL's metrics of a micro-batch, per class; the members of a class that is absent are 0, and
 * margins need both. rewards are beta x (raw, without z0). */
typedef struct {
    size_t desirable, undesirable; /* rows of each class */
    double rewards_chosen, rewards_rejected, rewards_margins;
    double logps_chosen, logps_rejected;
} KtoMetrics;
void kto_metrics(double beta, const KtoRow *rows, size_t n, KtoMetrics *m);

/* ---- class weights ------------------------------------------------------------------------- */

/* `auto`: the paper asks for (lambda_D n_D) / (lambda_U n_U) in [1, 4/3]. Of that interval we take
 * 1, equal pull: the larger class keeps weight 1, the smaller gets the ratio of the counts. So
 * equal counts give 1 and 1, the default. With only one class there is nothing to balance: 1 and 1.
 * Source: Ethayarajh et al. 2024, KTO, Eq. 8 of the first arXiv version (later versions say up to
 * 3/2; 1 satisfies all). */
void kto_auto_weights(size_t n_desirable, size_t n_undesirable, double *desirable_weight,
                      double *undesirable_weight);

/* The interval each weight should lie in if the other one stays as it is (same source). */
typedef struct {
    double desirable_low, desirable_high;
    double undesirable_low, undesirable_high;
} KtoWeightRanges;

/* Fills the ranges; returns 1 where the classes are balanced enough: equal counts, a class absent,
 * or one of the weights in its range. Returns 0 where a warning is due. A weight may miss its
 * range by 0.005, so that a number copied from a warning that prints two digits is accepted. */
int kto_weights_balanced(const KtoConfig *c, size_t n_desirable, size_t n_undesirable,
                         KtoWeightRanges *ranges);

/* ---- partners ------------------------------------------------------------------------------ */

/* Which other row lends its completion to row i for the KL estimate. */
typedef enum {
    KTO_DISTINCT, /* one row with another prompt, drawn from (seed, i), fixed for the data set */
    KTO_TRL,      /* y[i-1] inside each block of `batch` rows, row 0 of a block takes the last */
    KTO_HALOS,    /* y[i+1] inside each block, the last row takes the first */
    KTO_PAIRING_COUNT
} KtoPairing;

/* partner[i] = the row whose completion goes with prompt i, for rows in training order.
 * prompts[i] names the prompt of row i (a hash: equal numbers are taken as equal prompts); it and
 * seed are read by KTO_DISTINCT only, which ignores batch. KTO_DISTINCT is uniform over all rows
 * with another prompt and depends on (seed, i) and on which prompts are equal, not on the hashes'
 * values; where all prompts are equal it fails with ERR_DATA.
 * A last block of one row has no partner but itself: *alone counts such rows (0 or 1), whose
 * "mismatched" completion is their own; the caller reports it. n >= 1, batch >= 1.
 * Source: trl as in TRL 1.16.0, halos as in ContextualAI/HALOs (whose blocks follow its shuffle).
 */
int kto_partners(KtoPairing pairing, size_t n, size_t batch, uint64_t seed, const uint64_t *prompts,
                 size_t *partner, size_t *alone, Err *e);

/* Names as on the command line, of a KtoLoss and a KtoPairing; NULL beyond the last. */
const char *kto_loss_name(size_t loss);
const char *kto_pairing_name(size_t pairing);

#endif
