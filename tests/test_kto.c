/* test_kto.c - KTO: golden numbers of TRL, gradients by central differences, closed forms, class
 * weights and the three partner rules. */
#include "kto.h"
#include "maths.h"
#include "test.h"

/* Half a unit of the last printed decimal, and a hair for values on the edge. */
#define DIGITS_9 5.1e-10
#define DIGITS_8 5.1e-9
#define DIGITS_7 5.1e-8

/* ---- golden numbers ------------------------------------------------------------------------ */

/* The micro-batch of TRL's golden table; labels T F T F T. */
static const KtoRow TABLE[5] = {
    {-10, -11.5, 1}, {-20, -21.5, 0}, {-7.25, -8, 1}, {-9.5, -9.25, 0}, {-6, -5, 1}};
static const double KL_POLICY[5] = {-15, -30, -12, -18, -5};
static const double KL_REFERENCE_ABOVE[5] = {-16, -31.5, -12.5, -17, -5.5}; /* mean +0.5 */
static const double KL_REFERENCE_BELOW[5] = {-14, -29.5, -11.5, -17, -5.5}; /* mean -0.5 */

/* Losses by row, with z0 = 0.5 and with z0 clamped to 0. */
static const double ROWS_ABOVE[5] = {0.4750208, 0.5249792, 0.4937503, 0.4812588, 0.5374298};
static const double ROWS_BELOW[5] = {0.4625702, 0.5374298, 0.4812588, 0.4937503, 0.5249792};

/* Batch loss alone. */
static double loss_of(const KtoConfig *c, const KtoRow *rows, size_t n, double kl)
{
    KtoResult results[8];
    double loss;
    kto_loss(c, rows, n, kl, results, &loss);
    return loss;
}

/* Checks the rows of the golden table against `each`, and the mean with desirable weight 1 and
 * 1.33. */
static void check_table(KtoLoss which, double kl, const double *each, double mean, double weighted)
{
    KtoConfig c = kto_config_default();
    KtoResult results[5];
    double loss;
    c.loss = which;
    kto_loss(&c, TABLE, 5, kl, results, &loss);
    for (size_t i = 0; i < 5; i++) CHECK_NEAR(results[i].loss, each[i], DIGITS_7);
    CHECK_NEAR(loss, mean, DIGITS_9);
    c.desirable_weight = 1.33;
    CHECK_NEAR(loss_of(&c, TABLE, 5, kl), weighted, DIGITS_9);
}

static void golden_losses(void)
{
    double above = kto_kl(KL_POLICY, KL_REFERENCE_ABOVE, 5);
    double below = kto_kl(KL_POLICY, KL_REFERENCE_BELOW, 5);
    CHECK_NEAR(above, 0.5, 1e-15);
    CHECK(below == 0);
    check_table(KTO_KTO, above, ROWS_ABOVE, 0.502487791, 0.601897056);
    check_table(KTO_KTO, below, ROWS_BELOW, 0.499997659, 0.596938996);
    /* apo_zero_unpaired does not look at z0 at all. */
    check_table(KTO_APO_ZERO_UNPAIRED, 7, ROWS_BELOW, 0.499997659, 0.596938996);
}

static void golden_metrics(void)
{
    KtoMetrics m;
    kto_metrics(0.1, TABLE, 5, &m);
    CHECK(m.desirable == 3 && m.undesirable == 2);
    CHECK_NEAR(m.rewards_chosen, 0.041666667, DIGITS_9);
    CHECK_NEAR(m.rewards_rejected, 0.0625, 1e-15);
    CHECK_NEAR(m.rewards_margins, -0.020833333, DIGITS_9);
    CHECK_NEAR(m.logps_chosen, -7.75, 1e-14);
    CHECK_NEAR(m.logps_rejected, -14.75, 1e-14);
    kto_metrics(0.1, TABLE, 1, &m); /* one class: no margin, nothing divided by 0 */
    CHECK(m.desirable == 1 && m.undesirable == 0 && m.rewards_margins == 0);
    CHECK(m.rewards_rejected == 0);
    CHECK(m.logps_rejected == 0);
    CHECK_NEAR(m.rewards_chosen, 0.15, 1e-15);
}

/* Four rows with their gradients: z0 = 0.45. */
static void golden_gradients(void)
{
    static const KtoRow ROWS[4] = {{-12, -12.5, 1}, {-20.5, -19, 0}, {-7.25, -8, 1}, {-33, -30, 0}};
    static const double POLICY[4] = {-41, -38, -52.5, -29};
    static const double REFERENCE[4] = {-41.6, -37.5, -53.9, -29.3};
    static const double LOSS[4] = {0.49875000, 0.45140389, 0.49250056, 0.41459543};
    static const double SLOPE[4] = {-0.02499984, 0.02476384, -0.02499438, 0.02427061};
    KtoConfig c = kto_config_default();
    KtoResult results[4];
    double loss, kl = kto_kl(POLICY, REFERENCE, 4);
    CHECK_NEAR(kl, 0.45, 1e-14);
    kto_loss(&c, ROWS, 4, kl, results, &loss);
    CHECK_NEAR(loss, 0.46431247, DIGITS_8);
    for (size_t i = 0; i < 4; i++) {
        CHECK_NEAR(results[i].loss, LOSS[i], DIGITS_8);
        CHECK_NEAR(results[i].d_policy * 4, SLOPE[i], DIGITS_8); /* printed before the mean */
    }
}

/* The first three rows of the table, all labelled desirable: a batch of one class is fine. */
static void one_class(void)
{
    static const KtoRow POSITIVE[3] = {{-10, -11.5, 1}, {-20, -21.5, 1}, {-7.25, -8, 1}};
    KtoConfig c = kto_config_default();
    double kl = kto_kl(KL_POLICY, KL_REFERENCE_ABOVE, 3);
    CHECK_NEAR(kl, 1, 1e-15);
    CHECK_NEAR(loss_of(&c, POSITIVE, 3, kl), 0.493751627, DIGITS_9);
}

/* ---- gradients ----------------------------------------------------------------------------- */

static uint64_t draws;

/* The next number of a fixed sequence in [low, high). */
static double draw(double low, double high)
{
    return low + (high - low) * rng_unit(2024, 7, draws++);
}

#define STEP 1e-3

/* Five-point differences; signed, relative 1e-7. z0 is a constant, so it stays where it was. */
static void gradients(void)
{
    static const double OFFSET[4] = {-2, -1, 1, 2};
    for (int round = 0; round < 400; round++) {
        KtoConfig c = {round % 2 ? KTO_APO_ZERO_UNPAIRED : KTO_KTO, draw(0.05, 1), draw(0.5, 3),
                       draw(0.5, 3), 0, 0};
        KtoRow rows[8];
        KtoResult results[8];
        size_t n = 1 + (size_t)round % 8;
        double loss, kl = draw(0, 3), f[4];
        for (size_t i = 0; i < n; i++) {
            rows[i].reference = draw(-50, -5);
            rows[i].policy = rows[i].reference + draw(-4, 4);
            rows[i].desirable = draw(0, 1) < 0.5;
        }
        kto_loss(&c, rows, n, kl, results, &loss);
        for (size_t i = 0; i < n; i++) {
            double at = rows[i].policy;
            for (size_t k = 0; k < 4; k++) {
                rows[i].policy = at + OFFSET[k] * STEP;
                f[k] = loss_of(&c, rows, n, kl);
            }
            rows[i].policy = at;
            double difference = (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * STEP);
            CHECK_NEAR(results[i].d_policy, difference, 1e-7 * fabs(results[i].d_policy) + 1e-12);
        }
    }
}

/* ---- closed forms and extremes ------------------------------------------------------------- */

static void closed_forms_at_zero(void)
{
    static const KtoRow SAME[3] = {{-3, -3, 1}, {-40, -40, 0}, {-7, -7, 1}};
    KtoConfig c = {KTO_KTO, 0.2, 1.5, 4, 0, 0};
    KtoResult results[3];
    double loss;
    kto_loss(&c, SAME, 3, 0, results, &loss);
    CHECK_NEAR(loss, 0.5 * (1.5 + 4 + 1.5) / 3, 1e-15);
    CHECK(kto_loss_at_zero(&c, SAME, 3) == loss);
    /* Every row pulls with weight * beta / 4 / n, up or down by its label. */
    CHECK_NEAR(results[0].d_policy, -1.5 * 0.2 / 4 / 3, 1e-16);
    CHECK_NEAR(results[1].d_policy, 4 * 0.2 / 4 / 3, 1e-16);
}

/* A label exchanged: the two losses of a row sum to its weight. */
static void label_identity(void)
{
    KtoConfig c = kto_config_default();
    for (int round = 0; round < 100; round++) {
        KtoRow good = {draw(-9, 9), 0, 1}, bad = good;
        double kl = draw(0, 2);
        bad.desirable = 0;
        CHECK_NEAR(loss_of(&c, &good, 1, kl) + loss_of(&c, &bad, 1, kl), 1, 1e-15);
    }
}

static void extremes(void)
{
    static const double FAR[] = {-1e4, -1000, 1000, 1e4};
    KtoConfig c = {KTO_KTO, 1, 1, 1, 0, 0};
    for (int k = 0; k < 16; k++) {
        KtoRow rows[2] = {{FAR[k / 4], 0, 1}, {FAR[k % 4], 0, 0}};
        KtoResult results[2];
        double loss;
        for (int far_kl = 0; far_kl < 2; far_kl++) {
            kto_loss(&c, rows, 2, far_kl ? 1e4 : 0, results, &loss);
            CHECK(loss >= 0 && loss <= 1); /* bounded: KTO's losses lie in [0, weight] */
            CHECK(fabs(results[0].d_policy) <= 0.125 && fabs(results[1].d_policy) <= 0.125);
        }
        kto_loss(&c, rows, 2, 0, results, &loss);
        CHECK(results[0].loss == (FAR[k / 4] < 0)); /* hopeless costs its weight, good nothing */
        CHECK(results[1].loss == (FAR[k % 4] > 0));
    }
    KtoRow row = {100, 0, 1}; /* e^-100 has not been lost in 1 - sigma */
    CHECK_NEAR(loss_of(&c, &row, 1, 0) / exp(-100), 1, 1e-14);
}

static void nan_stays_nan(void)
{
    KtoConfig c = kto_config_default();
    double bad[2] = {0, (double)NAN}, zero[2] = {0, 0};
    double kl = kto_kl(bad, zero, 2);
    CHECK(kl != kl); /* not hidden by the clamp */
    double loss = loss_of(&c, TABLE, 5, kl);
    CHECK(loss != loss);
    CHECK(kto_kl(zero, zero, 2) == 0);
    double small[2] = {0.3, -0.1};
    CHECK_NEAR(kto_kl(small, zero, 2), 0.1, 1e-16);
}

/* ---- class weights ------------------------------------------------------------------------- */

static void auto_weights(void)
{
    static const size_t COUNTS[][2] = {{100, 100}, {10, 100}, {100, 10}, {7, 3}, {1, 999}, {3, 7}};
    for (size_t i = 0; i < sizeof COUNTS / sizeof *COUNTS; i++) {
        size_t d = COUNTS[i][0], u = COUNTS[i][1];
        KtoConfig c = kto_config_default();
        KtoWeightRanges ranges;
        kto_auto_weights(d, u, &c.desirable_weight, &c.undesirable_weight);
        double ratio = c.desirable_weight * (double)d / (c.undesirable_weight * (double)u);
        CHECK_NEAR(ratio, 1, 1e-12); /* in [1, 4/3] */
        CHECK((d >= u ? c.desirable_weight : c.undesirable_weight) == 1);
        CHECK(c.desirable_weight >= 1 && c.undesirable_weight >= 1);
        CHECK_INT(kto_weights_balanced(&c, d, u, &ranges), 1);
    }
    double d, u;
    kto_auto_weights(0, 12, &d, &u);
    CHECK(d == 1);
    CHECK(u == 1);
    kto_auto_weights(12, 0, &d, &u);
    CHECK(d == 1);
    CHECK(u == 1);
}

static void balance(void)
{
    KtoConfig c = kto_config_default();
    KtoWeightRanges r;
    CHECK_INT(kto_weights_balanced(&c, 50, 50, &r), 1);
    CHECK_INT(kto_weights_balanced(&c, 0, 50, &r), 1);
    CHECK_INT(kto_weights_balanced(&c, 10, 100, &r), 0);
    CHECK_NEAR(r.desirable_low, 10, 1e-12);
    CHECK_NEAR(r.desirable_high, 40.0 / 3, 1e-12);
    CHECK_NEAR(r.undesirable_low, 0.075, 1e-15);
    CHECK_NEAR(r.undesirable_high, 0.1, 1e-15);
    /* Either weight may do it, and a bound printed with two digits counts as inside. */
    static const double DESIRABLE[4] = {0.0945, 0.0955, 0.138, 0.139};
    static const double UNDESIRABLE[4] = {0.0695, 0.0705, 0.1045, 0.1055};
    for (size_t i = 0; i < 4; i++) {
        c = kto_config_default();
        c.desirable_weight = DESIRABLE[i];
        CHECK_INT(kto_weights_balanced(&c, 100, 10, &r), (i == 1 || i == 2));
        c = kto_config_default();
        c.undesirable_weight = UNDESIRABLE[i];
        CHECK_INT(kto_weights_balanced(&c, 10, 100, &r), (i == 1 || i == 2));
    }
    /* Each range belongs to the other weight as it is. */
    c = (KtoConfig){KTO_KTO, 0.1, 3, 2, 0, 0};
    kto_weights_balanced(&c, 10, 100, &r);
    CHECK_NEAR(r.desirable_low, 20, 1e-12);
    CHECK_NEAR(r.desirable_high, 80.0 / 3, 1e-12);
    CHECK_NEAR(r.undesirable_low, 0.225, 1e-15);
    CHECK_NEAR(r.undesirable_high, 0.3, 1e-15);
    CHECK_INT(kto_weights_balanced(&c, 50, 50, &r), 1); /* chosen by hand, counts equal: no word */
    CHECK_INT(kto_weights_balanced(&c, 0, 50, &r), 1);
    CHECK_NEAR(r.desirable_low, 100, 1e-12); /* an absent class counts as one row */
    CHECK_INT(kto_weights_balanced(&c, 50, 0, &r), 1);
    CHECK_NEAR(r.undesirable_high, 150, 1e-12);
    /* A slightly larger desirable class is inside: 4/3 is the upper end for it. */
    c = kto_config_default();
    CHECK_INT(kto_weights_balanced(&c, 120, 100, &r), 1);
    CHECK_INT(kto_weights_balanced(&c, 100, 120, &r), 0);
}

/* ---- partners ------------------------------------------------------------------------------ */

/* partner of n rows in blocks of batch equals `expected`. */
static void check_blocks(KtoPairing pairing, size_t n, size_t batch, const size_t *expected,
                         size_t expected_alone)
{
    size_t partner[16], alone = 99;
    Err e = {0};
    CHECK_OK(kto_partners(pairing, n, batch, 1, NULL, partner, &alone, &e), &e);
    CHECK(!memcmp(partner, expected, n * sizeof *partner));
    CHECK_INT(alone, expected_alone);
}

static void partners_in_blocks(void)
{
    /* Nine rows in blocks of four, as TRL pairs them; the last row is left with itself. */
    check_blocks(KTO_TRL, 9, 4, (const size_t[]){3, 0, 1, 2, 7, 4, 5, 6, 8}, 1);
    check_blocks(KTO_HALOS, 9, 4, (const size_t[]){1, 2, 3, 0, 5, 6, 7, 4, 8}, 1);
    check_blocks(KTO_TRL, 5, 3, (const size_t[]){2, 0, 1, 4, 3}, 0);
    check_blocks(KTO_HALOS, 5, 3, (const size_t[]){1, 2, 0, 4, 3}, 0);
    check_blocks(KTO_TRL, 3, 100, (const size_t[]){2, 0, 1}, 0);
}

static void partners_distinct(void)
{
    enum { ROWS = 60, PROMPTS = 7 };
    uint64_t prompts[ROWS], renamed[ROWS];
    size_t first[ROWS], again[ROWS], other[ROWS], alone;
    Err e = {0};
    for (size_t i = 0; i < ROWS; i++) {
        prompts[i] = i * i % PROMPTS;               /* groups of unequal size */
        renamed[i] = 1000 - 31 * (i * i % PROMPTS); /* the same groups, other names and order */
    }
    CHECK_OK(kto_partners(KTO_DISTINCT, ROWS, 4, 5, prompts, first, &alone, &e), &e);
    CHECK_OK(kto_partners(KTO_DISTINCT, ROWS, 9, 5, renamed, again, &alone, &e), &e);
    CHECK_OK(kto_partners(KTO_DISTINCT, ROWS, 4, 6, prompts, other, &alone, &e), &e);
    CHECK(alone == 0);
    CHECK(!memcmp(first, again, sizeof first)); /* neither batch nor names matter */
    CHECK(memcmp(first, other, sizeof first));  /* the seed does */
    for (size_t i = 0; i < ROWS; i++) {
        CHECK(first[i] < ROWS && prompts[first[i]] != prompts[i]);
        CHECK(other[i] < ROWS && prompts[other[i]] != prompts[i]);
    }
}

/* Every stranger is drawn about equally often; nobody else is. */
static void partners_uniform(void)
{
    static const uint64_t PROMPTS[6] = {1, 2, 1, 3, 2, 1};
    size_t count[6][6] = {{0}}, partner[6], alone;
    Err e = {0};
    for (uint64_t seed = 0; seed < 6000; seed++) {
        CHECK_OK(kto_partners(KTO_DISTINCT, 6, 2, seed, PROMPTS, partner, &alone, &e), &e);
        for (size_t i = 0; i < 6; i++) count[i][partner[i]]++;
    }
    for (size_t i = 0; i < 6; i++) {
        size_t strangers = 0;
        for (size_t j = 0; j < 6; j++) strangers += PROMPTS[i] != PROMPTS[j];
        double expected = 6000.0 / (double)strangers;
        for (size_t j = 0; j < 6; j++)
            CHECK_NEAR((double)count[i][j], PROMPTS[i] == PROMPTS[j] ? 0 : expected,
                       PROMPTS[i] == PROMPTS[j] ? 0 : 5 * sqrt(expected)); /* five sigma */
    }
}

static void partners_impossible(void)
{
    static const uint64_t EQUAL[3] = {9, 9, 9};
    size_t partner[3], alone;
    Err e = {0};
    CHECK_INT(kto_partners(KTO_DISTINCT, 3, 2, 1, EQUAL, partner, &alone, &e), -1);
    CHECK_INT(e.code, ERR_DATA);
    CHECK_HAS(e.text, "same prompt");
    memset(&e, 0, sizeof e);
    CHECK_INT(kto_partners(KTO_DISTINCT, 1, 2, 1, EQUAL, partner, &alone, &e), -1);
    CHECK_INT(e.code, ERR_DATA);
}

/* ---- names, configuration ------------------------------------------------------------------ */

static void names(void)
{
    CHECK_INT(option_place(kto_loss_name, "kto"), KTO_KTO);
    CHECK_INT(option_place(kto_loss_name, "apo_zero_unpaired"), KTO_APO_ZERO_UNPAIRED);
    CHECK_INT(option_place(kto_loss_name, "kto_pair"), -1);
    CHECK_INT(option_place(kto_pairing_name, "distinct"), KTO_DISTINCT);
    CHECK_INT(option_place(kto_pairing_name, "trl"), KTO_TRL);
    CHECK_INT(option_place(kto_pairing_name, "halos"), KTO_HALOS);
    CHECK(!kto_loss_name(KTO_LOSS_COUNT) && !kto_pairing_name(KTO_PAIRING_COUNT));
    CHECK(kto_needs_kl(KTO_KTO) && !kto_needs_kl(KTO_APO_ZERO_UNPAIRED));
}

/* The check refuses, with 64 and a text that holds `word`. */
static void check_refused(const KtoConfig *c, size_t batch, const char *word)
{
    Err e = {0};
    CHECK_INT(kto_config_check(c, batch, &e), -1);
    CHECK_INT(e.code, ERR_USAGE);
    CHECK_HAS(e.text, word);
}

static void refused(void)
{
    KtoConfig c = kto_config_default();
    Err e = {0};
    CHECK_OK(kto_config_check(&c, 2, &e), &e);
    check_refused(&c, 1, "--batch 1: --loss kto");
    c.loss = KTO_APO_ZERO_UNPAIRED;
    CHECK_OK(kto_config_check(&c, 1, &e), &e);
    c.beta = 0;
    check_refused(&c, 4, "--beta");
    c = kto_config_default();
    c.desirable_weight = -1;
    check_refused(&c, 4, "--desirable-weight");
    c = kto_config_default();
    c.undesirable_weight = (double)INFINITY;
    check_refused(&c, 4, "--undesirable-weight");
    c = kto_config_default();
    c.undesirable_weight = 0; /* leaving a class out is allowed */
    CHECK_OK(kto_config_check(&c, 4, &e), &e);
}

static const Test tests[] = {
    {"golden_losses", golden_losses},
    {"golden_metrics", golden_metrics},
    {"golden_gradients", golden_gradients},
    {"one_class", one_class},
    {"gradients", gradients},
    {"closed_forms_at_zero", closed_forms_at_zero},
    {"label_identity", label_identity},
    {"extremes", extremes},
    {"nan_stays_nan", nan_stays_nan},
    {"auto_weights", auto_weights},
    {"balance", balance},
    {"partners_in_blocks", partners_in_blocks},
    {"partners_distinct", partners_distinct},
    {"partners_uniform", partners_uniform},
    {"partners_impossible", partners_impossible},
    {"names", names},
    {"refused", refused},
};
TEST_MAIN(tests)
