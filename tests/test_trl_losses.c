/* test_trl_losses.c - every case of tests/golden/{dpo,kto}_losses.json: the values, gradients by
 * token and metrics that TRL's own loss code gives in float64 for the same log-probs. */
#include "dpo.h"
#include "golden.h"
#include "kto.h"

#define MAX_ROWS 16
#define MAX_TOKENS 64

/* Compares, relative beyond a magnitude of 1; names the case once it is wrong. */
static void compare(const char *which, const char *what, double got, double expected,
                    double tolerance)
{
    if (fabs(got - expected) <= tolerance * (1 + fabs(expected))) return;
    printf("%s: %s is %.17g, TRL has %.17g\n", which, what, got, expected);
    test_failures++;
}

/* The name of a case, as a C string. */
static const char *text_of(const Json *object, const char *key)
{
    const Json *j = json_get(object, key);
    return j && j->text ? j->text : "";
}

/* ---- DPO ----------------------------------------------------------------------------------- */

/* One answer of a pair, token by token. */
typedef struct {
    double policy[MAX_TOKENS], reference[MAX_TOKENS], square[MAX_TOKENS];
    size_t n;
} Side;

static Side read_side(const Json *j)
{
    Side s;
    s.n = golden_numbers(json_get(j, "policy"), s.policy, MAX_TOKENS);
    CHECK_INT(golden_numbers(json_get(j, "reference"), s.reference, MAX_TOKENS), s.n);
    CHECK_INT(golden_numbers(json_get(j, "log_sum_sq"), s.square, MAX_TOKENS), s.n);
    return s;
}

/* sum_t w_t x_t with LD-DPO's weights. */
static double weighted_sum(const double *x, size_t n, size_t shared, double alpha)
{
    double sum = 0;
    for (size_t t = 0; t < n; t++) sum += dpo_ld_weight(t, shared, alpha) * x[t];
    return sum;
}

static double wpo_weight(const Side *s)
{
    double sum = 0;
    for (size_t t = 0; t < s->n; t++) sum += s->policy[t] - s->square[t];
    return dpo_wpo_weight(sum, s->n);
}

static DpoPair make_pair(const Side *c, const Side *r, size_t shared, double alpha)
{
    DpoPair p = {weighted_sum(c->policy, c->n, shared, alpha),
                 weighted_sum(r->policy, r->n, shared, alpha),
                 weighted_sum(c->reference, c->n, shared, alpha),
                 weighted_sum(r->reference, r->n, shared, alpha),
                 (double)c->n,
                 (double)r->n,
                 weighted_sum(c->policy, c->n, c->n, 1),
                 (double)c->n,
                 wpo_weight(c) * wpo_weight(r)};
    return p;
}

static int place_of(const char *(*words)(size_t i), const char *word)
{
    int place = option_place(words, word);
    CHECK(place >= 0);
    return place < 0 ? 0 : place;
}

static DpoConfig read_config(const Json *j)
{
    DpoConfig c = dpo_config_default();
    Err e;
    c.n_losses = 0;
    for (const Json *l = json_get(j, "losses")->child; l; l = l->next)
        c.loss[c.n_losses++] = (DpoLoss)place_of(dpo_loss_name, l->text);
    CHECK_INT(golden_numbers(json_get(j, "weights"), c.weight, DPO_LOSS_COUNT), c.n_losses);
    c.beta = golden_number(j, "beta");
    c.label_smoothing = golden_number(j, "label_smoothing");
    c.f_alpha = golden_number(j, "f_alpha");
    c.discopop_tau = golden_number(j, "discopop_tau");
    c.wpo = json_get(j, "wpo")->type == JSON_TRUE;
    c.f = (FDivergence)place_of(f_divergence_name, text_of(j, "f_divergence"));
    CHECK_OK(dpo_config_check(&c, &e), &e);
    return c;
}

/* Gradients of one side: one number a pair, or one a token where tokens differ. */
static void check_gradients(const Json *j, const char *side, size_t i, double slope, double nll,
                            size_t n, size_t shared, double alpha, double tolerance)
{
    char key[64];
    double expected[MAX_TOKENS];
    snprintf(key, sizeof key, "%s_gradient", side);
    const Json *by_pair = json_get(j, key);
    if (by_pair) {
        CHECK(golden_numbers(by_pair, expected, MAX_TOKENS) > i);
        compare(text_of(j, "name"), key, slope + nll, expected[i], tolerance);
        return;
    }
    snprintf(key, sizeof key, "%s_token_gradients", side);
    const Json *by_token = json_get(j, key)->child;
    for (size_t k = 0; k < i; k++) by_token = by_token->next;
    CHECK_INT(golden_numbers(by_token, expected, MAX_TOKENS), n);
    for (size_t t = 0; t < n; t++)
        compare(text_of(j, "name"), key, slope * dpo_ld_weight(t, shared, alpha) + nll, expected[t],
                tolerance);
}

static void check_dpo_metrics(const Json *j, double beta, const DpoPair *pairs, size_t n)
{
    const Json *expected = json_get(j, "metrics");
    if (!expected) return;
    DpoMetrics m;
    dpo_metrics(beta, pairs, n, &m);
    const struct {
        const char *key;
        double value;
    } list[] = {{"rewards/chosen", m.rewards_chosen},
                {"rewards/rejected", m.rewards_rejected},
                {"rewards/accuracies", m.rewards_accuracies},
                {"rewards/margins", m.rewards_margins},
                {"logps/chosen", m.logps_chosen},
                {"logps/rejected", m.logps_rejected}};
    for (size_t k = 0; k < sizeof list / sizeof *list; k++)
        compare(text_of(j, "name"), list[k].key, list[k].value,
                golden_number(expected, list[k].key), 1e-7); /* accuracies come from float32 */
}

static void check_dpo_case(const Json *batches, const Json *j)
{
    Side chosen[MAX_ROWS], rejected[MAX_ROWS];
    DpoPair pairs[MAX_ROWS];
    DpoPairResult results[MAX_ROWS];
    size_t order[2 * MAX_ROWS], shared[MAX_ROWS], n = 0;
    double alpha = 1, loss, tolerance = golden_number(j, "tolerance");
    DpoConfig c = read_config(j);
    json_f64(json_get(j, "ld_alpha"), &alpha); /* null leaves 1 */
    for (const Json *p = json_get(batches, text_of(j, "batch"))->child; p; p = p->next, n++) {
        chosen[n] = read_side(json_get(p, "chosen"));
        rejected[n] = read_side(json_get(p, "rejected"));
        shared[n] = chosen[n].n < rejected[n].n ? chosen[n].n : rejected[n].n;
        pairs[n] = make_pair(&chosen[n], &rejected[n], shared[n], alpha);
    }
    dpo_loss(&c, pairs, n, results, order, &loss);
    compare(text_of(j, "name"), "loss", loss, golden_number(j, "loss"), tolerance);
    for (size_t i = 0; i < n; i++) {
        check_gradients(j, "chosen", i, results[i].d_chosen, results[i].d_nll, chosen[i].n,
                        shared[i], alpha, tolerance);
        check_gradients(j, "rejected", i, results[i].d_rejected, 0, rejected[i].n, shared[i], alpha,
                        tolerance);
    }
    check_dpo_metrics(j, c.beta, pairs, n);
}

static void dpo_cases(void)
{
    const Json *golden = golden_json("dpo_losses.json");
    int seen[DPO_LOSS_COUNT] = {0}, cases = 0;
    for (const Json *j = json_get(golden, "cases")->child; j; j = j->next, cases++) {
        DpoConfig c = read_config(j);
        for (size_t l = 0; l < c.n_losses; l++) seen[c.loss[l]] = 1;
        check_dpo_case(json_get(golden, "batches"), j);
    }
    CHECK(cases > 100);
    for (int l = 0; l < DPO_LOSS_COUNT; l++) CHECK(seen[l]);
}

/* ---- KTO ----------------------------------------------------------------------------------- */

static void check_kto_metrics(const Json *j, const KtoConfig *c, const KtoRow *rows, size_t n,
                              double kl)
{
    const Json *expected = json_get(j, "metrics");
    KtoMetrics m;
    kto_metrics(c->beta, rows, n, &m);
    const struct {
        const char *key;
        double value;
        int there;
    } list[] = {{"kl", kto_needs_kl(c->loss) ? kl : 0, 1},
                {"rewards/chosen", m.rewards_chosen, m.desirable > 0},
                {"logps/chosen", m.logps_chosen, m.desirable > 0},
                {"rewards/rejected", m.rewards_rejected, m.undesirable > 0},
                {"logps/rejected", m.logps_rejected, m.undesirable > 0},
                {"rewards/margins", m.rewards_margins, m.desirable > 0 && m.undesirable > 0}};
    for (size_t k = 0; k < sizeof list / sizeof *list; k++) {
        CHECK_INT((json_get(expected, list[k].key) != NULL), list[k].there);
        if (list[k].there)
            compare(text_of(j, "name"), list[k].key, list[k].value,
                    golden_number(expected, list[k].key), 1e-12);
    }
}

static void check_kto_case(const Json *batches, const Json *j)
{
    KtoRow rows[MAX_ROWS];
    KtoResult results[MAX_ROWS];
    double policy[MAX_ROWS], reference[MAX_ROWS], gradient[MAX_ROWS], loss;
    double tolerance = golden_number(j, "tolerance");
    size_t n = 0;
    KtoConfig c = kto_config_default();
    c.loss = (KtoLoss)place_of(kto_loss_name, text_of(j, "loss_type"));
    c.beta = golden_number(j, "beta");
    c.desirable_weight = golden_number(j, "desirable_weight");
    c.undesirable_weight = golden_number(j, "undesirable_weight");
    for (const Json *r = json_get(batches, text_of(j, "batch"))->child; r; r = r->next, n++) {
        rows[n] = (KtoRow){golden_number(r, "policy"), golden_number(r, "reference"),
                           json_get(r, "label")->type == JSON_TRUE};
        policy[n] = golden_number(r, "kl_policy");
        reference[n] = golden_number(r, "kl_reference");
    }
    double kl = kto_kl(policy, reference, n);
    kto_loss(&c, rows, n, kl, results, &loss);
    compare(text_of(j, "name"), "loss", loss, golden_number(j, "loss"), tolerance);
    CHECK_INT(golden_numbers(json_get(j, "gradient"), gradient, MAX_ROWS), n);
    for (size_t i = 0; i < n; i++)
        compare(text_of(j, "name"), "gradient", results[i].d_policy, gradient[i], tolerance);
    check_kto_metrics(j, &c, rows, n, kl);
}

static void kto_cases(void)
{
    const Json *golden = golden_json("kto_losses.json");
    int cases = 0;
    for (const Json *j = json_get(golden, "cases")->child; j; j = j->next, cases++)
        check_kto_case(json_get(golden, "batches"), j);
    CHECK(cases > 30);
}

static const Test tests[] = {{"dpo_cases", dpo_cases}, {"kto_cases", kto_cases}};
TEST_MAIN(tests)
