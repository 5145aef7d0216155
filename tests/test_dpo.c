/* test_dpo.c - the preference losses: golden numbers of TRL, gradients by central differences,
 * closed forms, identities, extremes. Each golden number stands with all the digits it was printed
 * with, and must be met to half a unit of the last one. */
#include "dpo.h"
#include "maths.h"
#include "test.h"

#include <float.h>

#define MAX_PAIRS 6
#define LN2 0.69314718055994530942

/* Half a unit of the seventh, sixth, ... printed decimal, and a hair for values on the edge. */
#define DIGITS_9 5.1e-10
#define DIGITS_7 5.1e-8
/* Values that were computed in float32. */
#define FLOAT_DIGITS_7 2e-7

/* The micro-batch of TRL's golden table: c = 1.5, -1.5, 0.75; r = -1.5, 1.5, -0.25. */
static const DpoPair TABLE[3] = {
    {-10, -14, -11.5, -12.5, 5, 7, -10, 5, 1},
    {-22.5, -20, -21, -21.5, 11, 9, -22.5, 11, 1},
    {-7.25, -9.5, -8, -9.25, 4, 6, -7.25, 4, 1},
};

static DpoConfig config_of(DpoLoss loss, FDivergence f, double smoothing)
{
    DpoConfig c = dpo_config_default();
    c.loss[0] = loss;
    c.f = f;
    c.label_smoothing = smoothing;
    return c;
}

/* Batch loss alone. */
static double loss_of(const DpoConfig *c, const DpoPair *pairs, size_t n)
{
    DpoPairResult results[MAX_PAIRS];
    size_t order[2 * MAX_PAIRS];
    double loss;
    dpo_loss(c, pairs, n, results, order, &loss);
    return loss;
}

/* ---- golden numbers ------------------------------------------------------------------------ */

typedef struct {
    DpoLoss loss;
    double smoothing;
    double each[3]; /* by pair; a zero first entry: only the mean is printed */
    double mean;
} Golden;

static const Golden GOLDEN[] = {
    {DPO_SIGMOID, 0, {0.5543552, 0.8543552, 0.6443967}, 0.684369050},
    {DPO_HINGE, 0, {0.7, 1.3, 0.9}, 0.966666667},
    {DPO_IPO, 0, {20.1216327, 28.1221304, 22.7608507}, 23.668204581},
    {DPO_EXO_PAIR, 1e-3, {2.2581992, 3.2865116, 2.5899540}, 2.711554942},
    {DPO_NCA_PAIR, 0, {1.3169141, 1.4669141, 1.3623879}, 1.382072018},
    {DPO_ROBUST, 0.1, {0.5168552, 0.8918552, 0.6318967}, 0.680202383},
    {DPO_BCO_PAIR, 0, {1.2419141, 1.5419141, 1.3370754}, 1.373634545},
    {DPO_SPPO_HARD, 0, {24.5, 84.5, 40.625}, 49.875},
    /* Ranks 0, 1, 2 of the policy's differences are pairs 1, 2, 0; so are those of c. */
    {DPO_AOT, 0, {0.5650707, 0.8543552, 0.6325990}, 0.684008316},
    {DPO_AOT, 0.1, {0}, 0.687341649},
    {DPO_AOT_UNPAIRED, 0, {0.6931472, 0.6931472, 0.6443967}, 0.676897007},
    {DPO_APO_ZERO, 0, {0.9251403, 1.0748597, 0.9750091}, 0.991669703},
    {DPO_APO_DOWN, 0, {0.9629873, 1.0370127, 0.9937620}, 0.997920676},
    {DPO_DISCOPOP, 0, {0.7403572, 0.8555804, 0.8737921}, 0.823243242},
    {DPO_SIGMOID_NORM, 0, {0.6677635, 0.7084135, 0.6817545}, 0.685977146},
    {DPO_SFT, 0, {1.9875, 1.9875, 1.9875}, 1.9875},
    {DPO_CDPO, 0.1, {0.5843552, 0.8243552, 0.6543967}, 0.687702383},
};

static void golden_losses(void)
{
    for (size_t g = 0; g < sizeof GOLDEN / sizeof *GOLDEN; g++) {
        DpoConfig c = config_of(GOLDEN[g].loss, F_REVERSE_KL, GOLDEN[g].smoothing);
        DpoPairResult results[3];
        size_t order[6];
        double loss;
        dpo_loss(&c, TABLE, 3, results, order, &loss);
        CHECK_NEAR(loss, GOLDEN[g].mean, DIGITS_9);
        for (size_t i = 0; i < 3 && GOLDEN[g].each[0] != 0; i++)
            CHECK_NEAR(results[i].loss, GOLDEN[g].each[i], DIGITS_7);
        if (test_failures) printf("  in %s\n", dpo_loss_name(c.loss[0]));
    }
}

typedef struct {
    DpoLoss loss;
    FDivergence f;
    double mean, tolerance;
} GoldenF;

static const GoldenF GOLDEN_F[] = {
    {DPO_SIGMOID, F_FORWARD_KL, 0.694893887, DIGITS_9},
    {DPO_SIGMOID, F_JS_DIVERGENCE, 0.687782937, DIGITS_9},
    {DPO_SIGMOID, F_ALPHA_DIVERGENCE, 0.687592126, FLOAT_DIGITS_7},
    {DPO_IPO, F_FORWARD_KL, 23.776273077, DIGITS_9},
    {DPO_IPO, F_JS_DIVERGENCE, 24.380671021, DIGITS_9},
    {DPO_IPO, F_ALPHA_DIVERGENCE, 23.77271, 1e-5},
    {DPO_SIGMOID_NORM, F_FORWARD_KL, 0.686252886, DIGITS_9},
    {DPO_SIGMOID_NORM, F_JS_DIVERGENCE, 0.689938166, DIGITS_9},
    {DPO_SIGMOID_NORM, F_ALPHA_DIVERGENCE, 0.6864807, FLOAT_DIGITS_7},
    {DPO_HINGE, F_FORWARD_KL, 0.972944705, DIGITS_9},
    {DPO_HINGE, F_JS_DIVERGENCE, 0.985364386, DIGITS_9},
    {DPO_HINGE, F_ALPHA_DIVERGENCE, 0.9702759, FLOAT_DIGITS_7},
};

static const double GOLDEN_SIGMOID_F[3][3] = {
    {0.5027191, 0.9285750, 0.6533875}, /* forward_kl */
    {0.6209570, 0.7709570, 0.6714347}, /* js_divergence */
    {0.5421474, 0.8710741, 0.6495549}, /* alpha_divergence, in float32 */
};

static void golden_f_divergences(void)
{
    for (size_t g = 0; g < sizeof GOLDEN_F / sizeof *GOLDEN_F; g++) {
        DpoConfig c = config_of(GOLDEN_F[g].loss, GOLDEN_F[g].f, 0);
        DpoPairResult results[3];
        double loss;
        dpo_loss(&c, TABLE, 3, results, NULL, &loss);
        CHECK_NEAR(loss, GOLDEN_F[g].mean, GOLDEN_F[g].tolerance);
        for (size_t i = 0; i < 3 && g < 3; i++)
            CHECK_NEAR(results[i].loss, GOLDEN_SIGMOID_F[g][i], g < 2 ? DIGITS_7 : FLOAT_DIGITS_7);
    }
}

static void golden_metrics(void)
{
    DpoMetrics m;
    dpo_metrics(0.1, TABLE, 3, &m);
    CHECK_NEAR(m.rewards_chosen, 0.025, 1e-15);
    CHECK_NEAR(m.rewards_rejected, -0.008333333, DIGITS_9);
    CHECK_NEAR(m.rewards_margins, 0.033333333, DIGITS_9);
    CHECK_NEAR(m.rewards_accuracies, 2.0 / 3, 1e-15);
    CHECK_NEAR(m.logps_chosen, -13.25, 1e-14);
    CHECK_NEAR(m.logps_rejected, -14.5, 1e-14);
    DpoPair same = {-3, -4, -3, -4, 1, 1, 0, 0, 1};
    dpo_metrics(0.1, &same, 1, &m);
    CHECK(m.rewards_accuracies == 0);
    CHECK(m.rewards_margins == 0); /* strictly greater */
}

/* Three pairs at beta 0.1 whose margins are 0, 1 and 2. */
static void golden_integer_margins(void)
{
    static const DpoPair PAIRS[3] = {
        {-0.5, -0.1, -0.5, -0.1, 1, 1, 0, 0, 1},
        {-10, -30, -10.1, -20.1, 1, 1, 0, 0, 1},
        {-1, -21, -0.1, -0.1, 1, 1, 0, 0, 1},
    };
    DpoConfig c = dpo_config_default();
    DpoPairResult results[3];
    double loss;
    dpo_loss(&c, PAIRS, 3, results, NULL, &loss);
    CHECK_NEAR(results[0].loss, 0.6931471805599453, 1e-15);
    CHECK_NEAR(results[1].loss, 0.31326168751822286, 1e-15);
    CHECK_NEAR(results[2].loss, 0.1269280110429725, 1e-15);
}

/* A pair of margin 0.2 with its gradient. */
static void golden_gradient(void)
{
    static const DpoPair PAIR = {-12, -20.5, -12.5, -19, 1, 1, 0, 0, 1};
    DpoConfig c = dpo_config_default();
    DpoPairResult result;
    double loss;
    dpo_loss(&c, &PAIR, 1, &result, NULL, &loss);
    CHECK_NEAR(loss, 0.59813887, 5e-9);
    CHECK_NEAR(result.d_chosen, -0.0450166, 5e-8);
    CHECK_NEAR(result.d_rejected, 0.0450166, 5e-8);
}

/* ---- gradients ----------------------------------------------------------------------------- */

static uint64_t draws;

/* The next number of a fixed sequence in [low, high). */
static double draw(double low, double high)
{
    return low + (high - low) * rng_unit(2023, 7, draws++);
}

/* Pairs with log-ratios within +-2 nats: every exponential is tame, no slope has died out. */
static void draw_pairs(DpoPair *pairs, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        DpoPair *p = &pairs[i];
        p->reference_chosen = draw(-40, -5);
        p->reference_rejected = draw(-40, -5);
        p->policy_chosen = p->reference_chosen + draw(-2, 2);
        p->policy_rejected = p->reference_rejected + draw(-2, 2);
        p->tokens_chosen = (double)(int)draw(1, 30);
        p->tokens_rejected = (double)(int)draw(1, 30);
        p->nll_logp = draw(-40, -5);
        p->nll_tokens = p->tokens_chosen;
        p->wpo = draw(0.2, 1.2);
    }
}

#define STEP 2e-4

/* d loss / d *x by the five-point rule: error of order STEP^4. */
static double slope_at(const DpoConfig *c, const DpoPair *pairs, size_t n, double *x)
{
    double at = *x, f[4];
    static const double OFFSET[4] = {-2, -1, 1, 2};
    for (size_t k = 0; k < 4; k++) {
        *x = at + OFFSET[k] * STEP;
        f[k] = loss_of(c, pairs, n);
    }
    *x = at;
    return (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * STEP);
}

/* Signed, relative 1e-7, and above the rounding error of the difference itself. NaN fails. */
static void check_slope(double slope, double difference, double loss, const char *what)
{
    double tolerance = 1e-7 * fabs(slope) + 1e-10 * (1 + fabs(loss));
    if (fabs(slope - difference) <= tolerance) return;
    printf("  %s: gradient %.12g, central difference %.12g\n", what, slope, difference);
    test_failures++;
}

static void check_gradient(const DpoConfig *c, DpoPair *pairs, size_t n)
{
    DpoPairResult results[MAX_PAIRS];
    size_t order[2 * MAX_PAIRS];
    double loss;
    int before = test_failures;
    dpo_loss(c, pairs, n, results, order, &loss);
    for (size_t i = 0; i < n; i++) {
        check_slope(results[i].d_chosen, slope_at(c, pairs, n, &pairs[i].policy_chosen), loss,
                    "chosen");
        check_slope(results[i].d_rejected, slope_at(c, pairs, n, &pairs[i].policy_rejected), loss,
                    "rejected");
        check_slope(results[i].d_nll, slope_at(c, pairs, n, &pairs[i].nll_logp), loss, "nll");
    }
    if (test_failures > before)
        printf("  with %s, %s, beta %g\n", dpo_loss_name(c->loss[0]), f_divergence_name(c->f),
               c->beta);
}

/* Whether some number of the batch lies within a few steps of a kink: 1 - z of hinge, two equal
 * keys of the aot losses. There a central difference means nothing. */
static int near_kink(const DpoConfig *c, const DpoPair *pairs, size_t n)
{
    const double room = 4 * STEP;
    for (size_t i = 0; i < n; i++) {
        const DpoPair *p = &pairs[i];
        double slope, chosen = dpo_score(c, p->policy_chosen - p->reference_chosen, &slope);
        double rejected = dpo_score(c, p->policy_rejected - p->reference_rejected, &slope);
        if (fabs(1 - c->beta * (chosen - rejected)) < c->beta * 8 * room) return 1;
        for (size_t j = 0; j < i; j++) {
            const DpoPair *q = &pairs[j];
            double a = p->policy_chosen - p->policy_rejected;
            double b = q->policy_chosen - q->policy_rejected;
            double c1 = p->policy_chosen - p->reference_chosen;
            double c2 = q->policy_chosen - q->reference_chosen;
            double r1 = p->policy_rejected - p->reference_rejected;
            double r2 = q->policy_rejected - q->reference_rejected;
            if (fabs(a - b) < room || fabs(c1 - c2) < room || fabs(r1 - r2) < room) return 1;
        }
    }
    return 0;
}

/* A random config of one loss that passes the check. */
static DpoConfig draw_config(DpoLoss loss, FDivergence f)
{
    DpoConfig c = config_of(loss, f, 0);
    c.beta = draw(0.05, 0.3);
    c.discopop_tau = draw(0.05, 2);
    c.f_alpha = draw(0.2, 2.5);
    if (loss == DPO_EXO_PAIR || loss == DPO_ROBUST || loss == DPO_AOT || loss == DPO_AOT_UNPAIRED ||
        loss == DPO_CDPO)
        c.label_smoothing = draw(0.01, 0.4);
    return c;
}

/* Every loss with every f-divergence it accepts, several batches each; every config is one that
 * dpo_config_check lets pass. */
static void gradients_of_each_loss(void)
{
    int checked = 0;
    for (int loss = 0; loss < DPO_LOSS_COUNT; loss++)
        for (int f = 0; f < F_DIVERGENCE_COUNT; f++)
            for (int round = 0; round < 12; round++) {
                DpoPair pairs[MAX_PAIRS];
                size_t n = 1 + (size_t)round % MAX_PAIRS;
                Err e = {0};
                DpoConfig c = draw_config((DpoLoss)loss, (FDivergence)f);
                if (dpo_config_check(&c, &e)) break;
                do draw_pairs(pairs, n);
                while (near_kink(&c, pairs, n));
                check_gradient(&c, pairs, n);
                checked++;
            }
    CHECK_INT(checked,
              12 * (9 * 4 + 7)); /* nine losses take all four divergences, seven only one */
}

/* Weighted sums, among them RPO (sigmoid + sft) and MPO (sigmoid, bco_pair, sft), and WPO. */
static void gradients_of_sums(void)
{
    static const DpoLoss LISTS[][3] = {
        {DPO_SIGMOID, DPO_SFT, DPO_SFT},      {DPO_SIGMOID, DPO_BCO_PAIR, DPO_SFT},
        {DPO_AOT, DPO_SFT, DPO_IPO},          {DPO_AOT_UNPAIRED, DPO_APO_ZERO, DPO_SPPO_HARD},
        {DPO_ROBUST, DPO_EXO_PAIR, DPO_CDPO}, {DPO_DISCOPOP, DPO_NCA_PAIR, DPO_APO_DOWN},
    };
    for (size_t list = 0; list < sizeof LISTS / sizeof *LISTS; list++)
        for (int round = 0; round < 10; round++) {
            DpoPair pairs[MAX_PAIRS];
            DpoConfig c = dpo_config_default();
            Err e = {0};
            c.n_losses = 3;
            for (size_t l = 0; l < 3; l++) {
                c.loss[l] = LISTS[list][l];
                c.weight[l] = draw(0.1, 1.5);
            }
            if (c.loss[0] == DPO_ROBUST) c.label_smoothing = 0.1;
            c.wpo = round % 2 && c.loss[0] != DPO_AOT && c.loss[0] != DPO_AOT_UNPAIRED;
            CHECK_OK(dpo_config_check(&c, &e), &e);
            do draw_pairs(pairs, 5);
            while (near_kink(&c, pairs, 5));
            check_gradient(&c, pairs, 5);
        }
}

/* The value of a sum is the weighted sum of the values, and WPO multiplies each pair's value. */
static void sums_and_weights(void)
{
    DpoConfig mpo = dpo_config_default();
    mpo.n_losses = 3;
    mpo.loss[1] = DPO_BCO_PAIR;
    mpo.loss[2] = DPO_SFT;
    mpo.weight[0] = 0.8;
    mpo.weight[1] = 0.2;
    mpo.weight[2] = 1;
    CHECK_NEAR(loss_of(&mpo, TABLE, 3), 0.8 * 0.684369050 + 0.2 * 1.373634545 + 1.9875, 2e-9);

    DpoPair pairs[3];
    memcpy(pairs, TABLE, sizeof pairs);
    pairs[0].wpo = 0.5;
    pairs[1].wpo = 0.25;
    pairs[2].wpo = 2;
    DpoConfig c = dpo_config_default();
    CHECK_NEAR(loss_of(&c, pairs, 3), 0.684369050, DIGITS_9); /* off: the weights are not read */
    c.wpo = 1;
    double expected = (0.5 * 0.5543552 + 0.25 * 0.8543552 + 2 * 0.6443967) / 3;
    CHECK_NEAR(loss_of(&c, pairs, 3), expected, 1e-7);
    c.loss[0] = DPO_SFT; /* one value per batch, times the mean weight */
    CHECK_NEAR(loss_of(&c, pairs, 3), 1.9875 * (0.5 + 0.25 + 2) / 3, 1e-14);
}

/* At a tie the function has a kink for each single pair, but not for the tied pairs together; and
 * a pair's central difference is the mean of the slopes of both ranks. */
static void gradients_at_ties(void)
{
    static const DpoPair TIED[3] = {
        {-10, -12, -11, -12, 3, 4, 0, 0, 1},
        {-5, -7, -5.5, -7.25, 3, 4, 0, 0, 1}, /* policy differences 2, 2; c = 1, 0.5 */
        {-9, -8, -10, -8.5, 3, 4, 0, 0, 1},   /* c = 1: tied with pair 0 */
    };
    for (int unpaired = 0; unpaired < 2; unpaired++) {
        DpoConfig c = config_of(unpaired ? DPO_AOT_UNPAIRED : DPO_AOT, F_REVERSE_KL, 0.1);
        DpoPair pairs[3];
        DpoPairResult results[3];
        size_t order[6], a = 0, b = unpaired ? 2 : 1;
        double loss, shifted[2];
        memcpy(pairs, TIED, sizeof pairs);
        dpo_loss(&c, pairs, 3, results, order, &loss);
        for (int k = 0; k < 2; k++) {
            double h = k ? 1e-5 : -1e-5;
            memcpy(pairs, TIED, sizeof pairs);
            pairs[a].policy_chosen += h;
            pairs[b].policy_chosen += h;
            shifted[k] = loss_of(&c, pairs, 3);
        }
        CHECK_NEAR(results[a].d_chosen + results[b].d_chosen, (shifted[1] - shifted[0]) / 2e-5,
                   1e-10);
        CHECK(results[a].d_chosen != results[b].d_chosen);
        memcpy(pairs, TIED, sizeof pairs);
        CHECK_NEAR((results[a].d_chosen + results[b].d_chosen) / 2,
                   slope_at(&c, pairs, 3, &pairs[a].policy_chosen), 1e-5);
        /* Equal keys keep the order of the batch: the earlier pair holds the lower rank, so its
         * reference partner is the smaller one, its margin larger, its pull weaker. */
        CHECK(fabs(results[a].d_chosen) < fabs(results[b].d_chosen));
    }
}

/* ---- closed forms and identities ----------------------------------------------------------- */

static void closed_forms_at_zero(void)
{
    static const DpoPair SAME[2] = {{-10, -14, -10, -14, 5, 7, -10, 5, 1},
                                    {-3, -99, -3, -99, 1, 50, -3, 1, 1}};
    static const double BETA = 0.2, EPS = 0.1;
    double expected[DPO_LOSS_COUNT] = {
        [DPO_SIGMOID] = LN2,
        [DPO_HINGE] = 1,
        [DPO_IPO] = 1 / (4 * 0.04),
        [DPO_EXO_PAIR] = -LN2 - 0.5 * log(0.1 * 0.9),
        [DPO_NCA_PAIR] = 2 * LN2,
        [DPO_ROBUST] = LN2,
        [DPO_BCO_PAIR] = 2 * LN2,
        [DPO_SPPO_HARD] = 1 / (2 * 0.04),
        [DPO_AOT] = LN2,
        [DPO_AOT_UNPAIRED] = LN2,
        [DPO_APO_ZERO] = 1,
        [DPO_APO_DOWN] = 1,
        [DPO_DISCOPOP] = 0.5 * LN2 + 0.5,
        [DPO_SIGMOID_NORM] = LN2,
        [DPO_CDPO] = LN2,
    };
    for (int loss = 0; loss < DPO_LOSS_COUNT; loss++) {
        DpoConfig c = config_of((DpoLoss)loss, F_REVERSE_KL, EPS);
        double closed;
        c.beta = BETA;
        if (loss == DPO_SFT) {
            CHECK_INT(dpo_loss_at_zero(&c, &closed), -1);
            continue;
        }
        CHECK_INT(dpo_loss_at_zero(&c, &closed), 0);
        CHECK_NEAR(closed, expected[loss], 2e-15 * (1 + expected[loss]));
        for (int f = 0; f < F_DIVERGENCE_COUNT; f++) { /* s(0) = 0 for each */
            c.f = (FDivergence)f;
            CHECK_NEAR(loss_of(&c, SAME, 2), closed, 2e-15 * (1 + closed));
        }
    }
    DpoConfig sum = config_of(DPO_SIGMOID, F_REVERSE_KL, 0);
    double closed;
    sum.n_losses = 2;
    sum.loss[1] = DPO_HINGE;
    sum.weight[1] = 3;
    CHECK_INT(dpo_loss_at_zero(&sum, &closed), 0);
    CHECK_NEAR(closed, LN2 + 3, 1e-15);
}

/* The pair with chosen and rejected exchanged. */
static DpoPair swapped(const DpoPair *p)
{
    DpoPair s = {p->policy_rejected,  p->policy_chosen,   p->reference_rejected,
                 p->reference_chosen, p->tokens_rejected, p->tokens_chosen,
                 p->nll_logp,         p->nll_tokens,      p->wpo};
    return s;
}

static void swap_identities(void)
{
    for (int round = 0; round < 200; round++) {
        DpoPair p;
        draw_pairs(&p, 1);
        DpoPair q = swapped(&p);
        DpoConfig c = dpo_config_default();
        c.beta = draw(0.05, 2);
        double z = c.beta * (p.policy_chosen - p.reference_chosen - p.policy_rejected +
                             p.reference_rejected);
        double here = loss_of(&c, &p, 1), there = loss_of(&c, &q, 1);
        CHECK_NEAR(there - here, z, 1e-13); /* L(-z) - L(z) = z */

        /* robust, its labels swapped with probability eps, is the clean loss on average. */
        c.loss[0] = DPO_ROBUST;
        c.label_smoothing = draw(0, 0.45);
        double eps = c.label_smoothing;
        CHECK_NEAR((1 - eps) * loss_of(&c, &p, 1) + eps * loss_of(&c, &q, 1), here, 1e-12);

        /* cdpo is the mean of both labels' losses. */
        c.loss[0] = DPO_CDPO;
        CHECK_NEAR(loss_of(&c, &p, 1), (1 - eps) * here + eps * there, 1e-13);
    }
}

/* exo_pair is a KL divergence: 0 exactly where sigma(z) = 1 - eps, with a flat slope there. */
static void exo_minimum(void)
{
    DpoConfig c = config_of(DPO_EXO_PAIR, F_REVERSE_KL, 0.2);
    DpoPair p = {0, 0, 0, 0, 1, 1, 0, 0, 1};
    DpoPairResult result;
    double loss;
    p.policy_chosen = log(0.8 / 0.2) / c.beta;
    dpo_loss(&c, &p, 1, &result, NULL, &loss);
    CHECK_NEAR(loss, 0, 1e-15);
    CHECK_NEAR(result.d_chosen, 0, 1e-15);
}

static void scores(void)
{
    DpoConfig c = dpo_config_default();
    double slope;
    CHECK(dpo_score(&c, -3.5, &slope) == -3.5 && slope == 1);
    c.f = F_FORWARD_KL;
    CHECK_NEAR(dpo_score(&c, 1.5, &slope), 1 - exp(-1.5), 1e-15);
    CHECK_NEAR(slope, exp(-1.5), 1e-15);
    c.f = F_JS_DIVERGENCE;
    CHECK_NEAR(dpo_score(&c, 1.5, &slope), log(2 * exp(1.5) / (1 + exp(1.5))), 1e-15);
    CHECK_NEAR(slope, 1 / (1 + exp(1.5)), 1e-15);
    c.f = F_ALPHA_DIVERGENCE;
    c.f_alpha = 3;
    CHECK_NEAR(dpo_score(&c, 1.5, &slope), (exp(3) - 1) / 2, 1e-14);
    CHECK_NEAR(slope, exp(3), 1e-14);
    c.f_alpha = 1 + 5e-7; /* the limit: reverse KL */
    CHECK(dpo_score(&c, 1.5, &slope) == 1.5 && slope == 1);
    c.f_alpha = 1 - 2e-6; /* close to the limit, and no cancellation in the difference */
    CHECK_NEAR(dpo_score(&c, 1.5, &slope), 1.5, 1e-5);
    CHECK_NEAR(dpo_score(&c, 1.5, &slope), 1.5 - 1e-6 * 1.5 * 1.5, 1e-11);
    c.f_alpha = 0.5; /* held at the bound of the exponent, in either direction of growth */
    CHECK_NEAR(dpo_score(&c, -200, &slope), -2 * (exp(80) - 1), 1e22);
    CHECK(slope == 0);
    CHECK(dpo_score(&c, -159.9, &slope) > -2 * exp(80) && slope > 0);
}

/* ---- extremes ------------------------------------------------------------------------------ */

static int is_number(double x) { return fabs(x) <= DBL_MAX; }

/* No NaN and no infinity for log-ratios up to 10,000 nats of either sign, for every loss. */
static void extreme_margins(void)
{
    static const double FAR[] = {-1e4, -1000, -90, 0, 90, 1000, 1e4};
    static const double BETAS[] = {0.01, 0.1, 1};
    for (int loss = 0; loss < DPO_LOSS_COUNT; loss++)
        for (int f = 0; f < F_DIVERGENCE_COUNT; f++)
            for (int k = 0; k < 3 * 49; k++) {
                DpoConfig c = config_of((DpoLoss)loss, (FDivergence)f, 0.1);
                DpoPair pairs[2] = {{FAR[k % 7], FAR[k / 7 % 7], 0, 0, 5, 7, -1e4, 5, 1},
                                    {-20, -30, -21, -29, 3, 4, -20, 3, 1}};
                DpoPairResult results[2];
                size_t order[4];
                double value;
                c.beta = BETAS[k / 49];
                dpo_loss(&c, pairs, 2, results, order, &value);
                CHECK(is_number(value) && is_number(results[0].loss));
                CHECK(is_number(results[0].d_chosen) && is_number(results[0].d_rejected));
                CHECK(is_number(results[0].d_nll));
            }
}

/* Far out the losses have simple limits. */
static void extreme_values(void)
{
    DpoPair p = {-1000, 0, 0, 0, 1, 1, 0, 0, 1};
    DpoPairResult result;
    double loss;
    DpoConfig c = dpo_config_default();
    c.beta = 1; /* z = -1000: log sigma(z) = z */
    dpo_loss(&c, &p, 1, &result, NULL, &loss);
    CHECK(loss == 1000);
    CHECK(result.d_chosen == -1);
    CHECK(result.d_rejected == 1);
    p.policy_chosen = 1000; /* won by far: nothing left to learn */
    dpo_loss(&c, &p, 1, &result, NULL, &loss);
    CHECK(loss == 0);
    CHECK(result.d_chosen == 0);
    CHECK(result.d_rejected == 0);
    p.policy_chosen = 100; /* e^-100 has not been lost in 1 + e^-100 */
    dpo_loss(&c, &p, 1, &result, NULL, &loss);
    CHECK_NEAR(loss / exp(-100), 1, 1e-14);
    CHECK_NEAR(result.d_chosen / exp(-100), -1, 1e-14);
    c.loss[0] = DPO_DISCOPOP; /* (1-m) l, for m = e^-20000 */
    p.policy_chosen = -1000;
    dpo_loss(&c, &p, 1, &result, NULL, &loss);
    CHECK(loss == 1000);
    CHECK(result.d_chosen == -1);
    c.loss[0] = DPO_HINGE; /* the kink itself is flat, as in TRL */
    p.policy_chosen = 1;
    dpo_loss(&c, &p, 1, &result, NULL, &loss);
    CHECK(loss == 0);
    CHECK(result.d_chosen == 0);
    CHECK(result.d_rejected == 0);
}

/* What is broken before stays visible: a NaN log-prob makes the loss NaN for every loss. */
static void nan_stays_nan(void)
{
    for (int loss = 0; loss < DPO_LOSS_COUNT; loss++) {
        DpoConfig c = config_of((DpoLoss)loss, F_REVERSE_KL, 0.1);
        DpoPair pairs[3];
        memcpy(pairs, TABLE, sizeof pairs);
        pairs[1].policy_chosen = pairs[1].nll_logp = (double)NAN;
        double value = loss_of(&c, pairs, 3);
        CHECK(value != value);
    }
}

/* ---- weights, names, configuration --------------------------------------------------------- */

static void token_weights(void)
{
    CHECK(dpo_ld_weight(0, 3, 0.25) == 1);
    CHECK(dpo_ld_weight(2, 3, 0.25) == 1);
    CHECK(dpo_ld_weight(3, 3, 0.25) == 0.25);
    CHECK(dpo_ld_weight(9, 3, 0) == 0);
    /* Two tokens of a three-word vocabulary: p = (.5, .3, .2), sum p^2 = .38; chosen .5 and .3. */
    double sum = log(0.5) - log(0.38) + log(0.3) - log(0.38);
    CHECK_NEAR(dpo_wpo_weight(sum, 2), sqrt(0.5 * 0.3) / 0.38, 1e-14);
    CHECK_NEAR(dpo_wpo_weight(1, 0), exp(1), 1e-15); /* no token counts as one */
}

/* A batch with nothing to score: averages divide by 1, sft is silent. */
static void empty_completions(void)
{
    DpoConfig c = config_of(DPO_SFT, F_REVERSE_KL, 0);
    DpoPair empty = {-1, -2, -1.5, -2.25, 0, 0, 0, 0, 1}, one = empty;
    DpoPairResult result;
    double loss;
    dpo_loss(&c, &empty, 1, &result, NULL, &loss);
    CHECK(loss == 0);
    CHECK(result.d_nll == 0);
    one.tokens_chosen = 1;
    empty.tokens_rejected = one.tokens_rejected = 4;
    for (int k = 0; k < 2; k++) {
        c.loss[0] = k ? DPO_IPO : DPO_SIGMOID_NORM;
        CHECK(loss_of(&c, &empty, 1) == loss_of(&c, &one, 1));
        CHECK_NEAR(loss_of(&c, &empty, 1), k ? 4.5625 * 4.5625 : -maths_logsigmoid(0.04375), 1e-13);
    }
}

/* The defaults are TRL's. */
static void defaults(void)
{
    DpoConfig c = dpo_config_default();
    CHECK_INT(c.n_losses, 1);
    CHECK_INT(c.loss[0], DPO_SIGMOID);
    CHECK(c.weight[0] == 1);
    CHECK(c.beta == 0.1 && c.label_smoothing == 0 && c.f == F_REVERSE_KL && !c.wpo);
    CHECK(c.f_alpha == 0.5 && c.discopop_tau == 0.05);
}

static void names(void)
{
    static const char *const SPELLING[DPO_LOSS_COUNT] = {
        "sigmoid",  "hinge",     "ipo",          "exo_pair",     "nca_pair", "robust",
        "bco_pair", "sppo_hard", "aot",          "aot_unpaired", "apo_zero", "apo_down",
        "discopop", "sft",       "sigmoid_norm", "cdpo"};
    static const char *const DIVERGENCES[F_DIVERGENCE_COUNT] = {
        "reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"};
    for (int i = 0; i < DPO_LOSS_COUNT; i++) {
        CHECK_TEXT(dpo_loss_name((size_t)i), SPELLING[i]);
        CHECK_INT(option_place(dpo_loss_name, SPELLING[i]), i);
    }
    for (int i = 0; i < F_DIVERGENCE_COUNT; i++) {
        CHECK_TEXT(f_divergence_name((size_t)i), DIVERGENCES[i]);
        CHECK_INT(option_place(f_divergence_name, DIVERGENCES[i]), i);
    }
    CHECK(!dpo_loss_name(DPO_LOSS_COUNT) && !f_divergence_name(F_DIVERGENCE_COUNT));
    CHECK_INT(option_place(dpo_loss_name, "simpo"), -1);
    CHECK_INT(option_place(dpo_loss_name, ""), -1);
}

/* Lists as one types them; their lengths must agree. */
static void lists(void)
{
    DpoConfig c = dpo_config_default();
    Text out = {0};
    Err e;
    dpo_losses_form.read(&c, "ipo,sft");
    CHECK_INT(c.n_losses, 2);
    CHECK_INT(c.loss[0], DPO_IPO);
    CHECK_INT(c.loss[1], DPO_SFT);
    CHECK(c.weight[0] == 1);
    CHECK(c.weight[1] == 1);
    CHECK_OK(dpo_losses_check(&c, "loss", &e), &e);
    CHECK(!dpo_losses_form.show(&c, &out, &e));
    CHECK_TEXT(out.data, "ipo,sft");
    const OptionForm *weights = dpo_options.rows[0].form;
    weights->read(&c, "1,0.5");
    out.len = 0;
    CHECK(!weights->show(&c, &out, &e) && !dpo_losses_check(&c, "loss", &e));
    CHECK_TEXT(out.data, "1,0.5");
    weights->read(&c, "1,2,3");
    CHECK_FAILS(dpo_losses_check(&c, "dpo-loss", &e), &e, ERR_USAGE);
    CHECK_TEXT(e.text, "--loss-weights: 3 weights for 2 losses of --dpo-loss");
    dpo_losses_form.read(&c, "sft,sft,sft,sft,sft,sft,sft,sft,sft,sft,sft,sft,sft,sft,sft,sft,sft");
    CHECK_INT(dpo_losses_check(&c, "loss", &e), -1);
    CHECK_HAS(e.text, "at most 16 losses");
    text_free(&out);
}

/* The check refuses, with 64 and a text that holds `word`. */
static void check_refused(const DpoConfig *c, const char *word)
{
    Err e = {0};
    CHECK_INT(dpo_config_check(c, &e), -1);
    CHECK_INT(e.code, ERR_USAGE);
    CHECK_HAS(e.text, word);
    if (!strstr(e.text, word)) printf("  \"%s\" lacks \"%s\"\n", e.text, word);
}

static void refused_combinations(void)
{
    DpoConfig c = config_of(DPO_SIGMOID, F_REVERSE_KL, 0.1);
    check_refused(&c, "use --loss cdpo");
    for (int loss = 0; loss < DPO_LOSS_COUNT; loss++) {
        int smooths = loss == DPO_EXO_PAIR || loss == DPO_ROBUST || loss == DPO_AOT ||
                      loss == DPO_AOT_UNPAIRED || loss == DPO_CDPO;
        Err e = {0};
        c.loss[0] = (DpoLoss)loss;
        if (smooths)
            CHECK_OK(dpo_config_check(&c, &e), &e);
        else
            check_refused(&c, dpo_loss_name(c.loss[0]));
    }
    c.n_losses = 2; /* one loss of the list that reads it is enough */
    c.loss[0] = DPO_SFT;
    c.loss[1] = DPO_ROBUST;
    c.weight[1] = 1;
    Err ok = {0};
    CHECK_INT(dpo_config_check(&c, &ok), 0);
    c = config_of(DPO_EXO_PAIR, F_REVERSE_KL, 0);
    check_refused(&c, "exo_pair");
    c = config_of(DPO_ROBUST, F_REVERSE_KL, 0.5);
    check_refused(&c, "below 0.5");
    c = config_of(DPO_CDPO, F_REVERSE_KL, 0.6);
    check_refused(&c, "below 0.5");
    c = config_of(DPO_AOT, F_REVERSE_KL, 0);
    c.wpo = 1;
    check_refused(&c, "--wpo: --loss aot");
    for (int loss = 0; loss < DPO_LOSS_COUNT; loss++) {
        int raw = loss == DPO_NCA_PAIR || loss == DPO_BCO_PAIR || loss == DPO_SPPO_HARD ||
                  loss == DPO_AOT || loss == DPO_AOT_UNPAIRED || loss == DPO_APO_ZERO ||
                  loss == DPO_APO_DOWN;
        c = config_of((DpoLoss)loss, F_JS_DIVERGENCE, loss == DPO_EXO_PAIR ? 0.1 : 0);
        Err e = {0};
        if (raw)
            check_refused(&c, "js_divergence");
        else
            CHECK_OK(dpo_config_check(&c, &e), &e);
    }
}

static void refused_numbers(void)
{
    static const double BAD[] = {0, -1, INFINITY, NAN};
    for (size_t i = 0; i < 4; i++) {
        DpoConfig c = dpo_config_default();
        c.beta = BAD[i];
        check_refused(&c, "--beta");
        c = dpo_config_default();
        c.discopop_tau = BAD[i];
        check_refused(&c, "--discopop-tau");
        c = dpo_config_default();
        c.weight[0] = BAD[i] == 0 ? -0.5 : BAD[i];
        check_refused(&c, "--loss-weights");
        c = config_of(DPO_AOT, F_REVERSE_KL, BAD[i] == 0 ? 1 : BAD[i]);
        check_refused(&c, "--label-smoothing");
    }
    DpoConfig c = dpo_config_default();
    c.f_alpha = (double)NAN;
    check_refused(&c, "--f-alpha");
    c = dpo_config_default();
    c.n_losses = 0;
    check_refused(&c, "losses given");
    c.n_losses = DPO_LOSS_COUNT + 1;
    check_refused(&c, "losses given");
}

static const Test tests[] = {
    {"golden_losses", golden_losses},
    {"golden_f_divergences", golden_f_divergences},
    {"golden_metrics", golden_metrics},
    {"golden_integer_margins", golden_integer_margins},
    {"golden_gradient", golden_gradient},
    {"gradients_of_each_loss", gradients_of_each_loss},
    {"gradients_of_sums", gradients_of_sums},
    {"sums_and_weights", sums_and_weights},
    {"gradients_at_ties", gradients_at_ties},
    {"closed_forms_at_zero", closed_forms_at_zero},
    {"swap_identities", swap_identities},
    {"exo_minimum", exo_minimum},
    {"scores", scores},
    {"extreme_margins", extreme_margins},
    {"extreme_values", extreme_values},
    {"nan_stays_nan", nan_stays_nan},
    {"token_weights", token_weights},
    {"empty_completions", empty_completions},
    {"defaults", defaults},
    {"names", names},
    TEST(lists),
    {"refused_combinations", refused_combinations},
    {"refused_numbers", refused_numbers},
};
TEST_MAIN(tests)
