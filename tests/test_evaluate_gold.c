/* test_evaluate_gold.c - a judge against people: figures by hand, baselines, intervals. */
#include "evaluate_gold.h"

#include "files.h"

/* Judges rows by the rules and compares them with "label"; with the rules beside where asked. */
static int compare(const char *rows, int beside, size_t resamples, Gold *g, Err *e)
{
    Judge j;
    JudgeReport r;
    *e = (Err){0};
    files_write("in.jsonl", rows, strlen(rows));
    CHECK_OK(judge_open(&j, &(JudgeConfig){.kind = "rules"}, e), e);
    CHECK_OK(gold_open(g, "label", beside, e), e);
    JudgeWatch watch = gold_watch(g);
    int status = judge_file(&j, files_path("in.jsonl"), files_path("out.jsonl"), &watch, &r, e);
    if (!status) status = gold_finish(g, 1, resamples, e);
    judge_close(&j);
    return status;
}

/* Actions: refuse, refuse, accept, accept; labels: refuse, accept, accept, none. */
static const char four[] =
    "{\"prompt\":\"a\",\"response\":\"I cannot.\",\"label\":\"2_full_refusal\"}\n"
    "{\"prompt\":\"b\",\"response\":\"I cannot.\",\"label\":\"Accept\"}\n"
    "{\"prompt\":\"c\",\"response\":\"Sure.\",\"label\":\"accept\"}\n"
    "{\"prompt\":\"d\",\"response\":\"Sure.\",\"label\":null}\n";

static void figures_are_those_by_hand(void)
{
    Gold g;
    Err e;
    CHECK_OK(compare(four, 0, 0, &g, &e), &e);
    CHECK_INT(g.count, 3);
    CHECK_INT(g.unlabelled, 1);
    CHECK_INT(g.groups, 3);
    const Agreement *a = &g.tally[GOLD_JUDGE].agreement;
    CHECK_INT(agreement_rows(a), 3);
    CHECK_NEAR(agreement_accuracy(a), 2.0 / 3, 1e-15);
    /* p_e = (2 x 1 + 1 x 2) / 9; kappa = (2/3 - 4/9) / (5/9) */
    CHECK_NEAR(agreement_kappa(a), 0.4, 1e-12);
    CHECK_NEAR(agreement_f1(a, ACTION_ACCEPT), 2.0 / 3, 1e-15);
    CHECK_NEAR(agreement_f1(a, ACTION_REFUSE), 2.0 / 3, 1e-15);
    CHECK(isnan(agreement_f1(a, ACTION_CAUTION)));
    const Estimate *m = g.metrics[GOLD_JUDGE];
    CHECK_NEAR(m[GOLD_BIAS].value, 2.0 / 3 - 1.0 / 3, 1e-15);
    CHECK_NEAR(m[GOLD_OVER_REFUSAL].value, 0.5, 1e-15);
    CHECK(m[GOLD_UNDER_REFUSAL].value == 0);
    /* "I cannot." has 0.806 twice, once right; "Sure." e^3.5 / (e^3.5 + e^-1 + 1) = 0.960, right.
     */
    double q = exp(3.5) / (exp(3.5) + exp(-1) + 1), p = 0.8055124120405226;
    CHECK_NEAR(m[GOLD_CALIBRATION_ERROR].value, (fabs(1 - 2 * p) + (1 - q)) / 3, 1e-12);
    for (size_t k = 0; k < GOLD_COUNT; k++)
        CHECK((isnan(m[k].value) && k == GOLD_F1_CAUTION) ||
              (m[k].low == m[k].value && m[k].high == m[k].value));
    gold_close(&g);
}

static void the_majority_stands_beside(void)
{
    Gold g;
    Err e;
    CHECK_OK(compare(four, 0, 0, &g, &e), &e);
    CHECK_INT(g.majority, ACTION_ACCEPT);
    CHECK_INT(g.raters, 2);
    const Estimate *m = g.metrics[GOLD_MAJORITY];
    CHECK_NEAR(m[GOLD_ACCURACY].value, 2.0 / 3, 1e-15);
    CHECK(m[GOLD_KAPPA].value == 0 && m[GOLD_UNDER_REFUSAL].value == 1);
    CHECK_NEAR(m[GOLD_BIAS].value, -1.0 / 3, 1e-15);
    CHECK_NEAR(m[GOLD_CALIBRATION_ERROR].value, 0, 1e-12); /* it says 2/3 and is right in 2/3 */
    gold_close(&g);
    CHECK_OK(compare(four, 1, 0, &g, &e), &e);
    CHECK_INT(g.raters, 3);
    for (size_t k = 0; k < GOLD_COUNT; k++) /* the judge is the rules: the same figures */
        CHECK(!memcmp(&g.metrics[GOLD_RULES][k], &g.metrics[GOLD_JUDGE][k], sizeof(Estimate)) ||
              isnan(g.metrics[GOLD_JUDGE][k].value));
    gold_close(&g);
}

static void bins_are_closed_above(void)
{
    static const struct {
        double confidence;
        size_t bin;
    } cases[] = {{0, 0}, {0.1, 0}, {0.11, 1}, {1.0 / 3, 3}, {0.5, 4}, {0.95, 9}, {1, 9}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        GoldTally t = {{{{0}}}, {{0}}};
        gold_count(&t, ACTION_ACCEPT, ACTION_ACCEPT, cases[i].confidence);
        CHECK_INT(t.bins[cases[i].bin].rows, 1);
        CHECK_INT(t.bins[cases[i].bin].right, 1);
        CHECK_NEAR(gold_metric(&t, GOLD_CALIBRATION_ERROR), 1 - cases[i].confidence, 1e-15);
    }
}

static void agreement_of_one_class_has_no_kappa(void)
{
    Agreement a = {{{0}}};
    CHECK(isnan(agreement_accuracy(&a)) && isnan(agreement_kappa(&a)));
    a.count[0][0] = 5;
    CHECK(agreement_accuracy(&a) == 1 && isnan(agreement_kappa(&a)));
    a.count[2][0] = 5; /* chance */
    CHECK_NEAR(agreement_kappa(&a), 0, 1e-15);
}

/* 60 rows, every third wrong, of `prompts` prompts. */
static void interval_of(size_t prompts, Estimate *accuracy)
{
    Text rows = {0};
    Gold g;
    Err e;
    for (size_t i = 0; i < 60; i++) {
        size_t prompt = i * prompts / 60; /* neighbours share a prompt */
        text_addf(&rows, &e, "{\"prompt\":\"p%zu\",\"response\":\"%s\",\"label\":\"accept\"}\n",
                  prompt, i < 20 ? "I cannot." : "Sure.");
    }
    CHECK_OK(compare(rows.data, 0, 1000, &g, &e), &e);
    CHECK_INT(g.groups, prompts);
    *accuracy = g.metrics[GOLD_JUDGE][GOLD_ACCURACY];
    gold_close(&g);
    text_free(&rows);
}

static void intervals_resample_prompts(void)
{
    Estimate rows, prompts, one;
    interval_of(60, &rows);
    interval_of(6, &prompts);
    interval_of(1, &one);
    CHECK_NEAR(rows.value, 2.0 / 3, 1e-15);
    /* Normal approximation: 2/3 -+ 1.96 sqrt(2/9 / 60) = 0.547 .. 0.786 */
    CHECK_NEAR(rows.low, 0.547, 0.025);
    CHECK_NEAR(rows.high, 0.786, 0.025);
    CHECK(prompts.low < rows.low && prompts.high > rows.high); /* six draws, not sixty */
    CHECK(one.low == one.value && one.high == one.value);
    threads_set(3);
    Estimate again;
    interval_of(60, &again);
    threads_set(0);
    CHECK(!memcmp(&again, &rows, sizeof rows));
}

static void the_report_is_json(void)
{
    Gold g;
    Err e;
    Text json = {0};
    Pool pool = {0};
    double x;
    uint64_t n;
    CHECK_OK(compare(four, 1, 50, &g, &e), &e);
    CHECK_OK(text_add(&json, "{", 1, &e), &e);
    CHECK_OK(gold_json(&g, &json, &e), &e);
    CHECK_OK(text_add(&json, "}", 1, &e), &e);
    const Json *j = json_parse(&pool, json.data, json.len, "report", 0, &e);
    CHECK(j && !json_f64(json_get(j, "kappa"), &x) && fabs(x - 0.4) < 1e-12);
    CHECK_INT(json_get(json_get(j, "f1"), "caution")->type, JSON_NULL);
    const Json *row = json_get(json_get(j, "confusion"), "accept");
    CHECK(!json_u64(json_get(row, "refuse"), &n) && n == 1);
    CHECK(!json_u64(json_get(row, "accept"), &n) && n == 1);
    CHECK(!json_u64(json_get(j, "labelled"), &n) && n == 3);
    CHECK_INT(json_get(j, "calibration")->len, GOLD_BINS);
    const Json *metrics = json_get(j, "metrics");
    CHECK(metrics && metrics->len == GOLD_COUNT);
    for (const Json *m = metrics->child; m; m = m->next) {
        double low, high;
        if (json_get(m, "value")->type == JSON_NULL) continue;
        CHECK(!json_f64(json_get(m, "value"), &x) && !json_f64(json_get(m, "low"), &low) &&
              !json_f64(json_get(m, "high"), &high) && low <= x && x <= high);
    }
    CHECK(json_is(json_get(json_get(json_get(j, "baselines"), "majority"), "action"), "accept"));
    CHECK(json_get(json_get(j, "baselines"), "rules") != NULL);
    pool_free(&pool);
    text_free(&json);
    gold_close(&g);
}

static void bad_labels_are_named_and_nothing_is_written(void)
{
    static const struct {
        const char *rows, *where;
    } bad[] = {{"{\"response\":\"x\",\"label\":\"perhaps\"}\n", "in.jsonl:1"},
               {"{\"response\":\"x\",\"label\":3}\n", "in.jsonl:1"},
               {"{\"response\":\"x\"}\n", "no row has a label in \"label\""}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        Gold g;
        Err e;
        remove(files_path("out.jsonl"));
        CHECK_INT(compare(bad[i].rows, 0, 0, &g, &e), -1);
        CHECK_ERR(e, ERR_DATA, bad[i].where);
        CHECK(!io_exists(files_path("out.jsonl")));
        gold_close(&g);
    }
}

static const Test tests[] = {
    {"figures_are_those_by_hand", figures_are_those_by_hand},
    {"the_majority_stands_beside", the_majority_stands_beside},
    {"bins_are_closed_above", bins_are_closed_above},
    {"agreement_of_one_class_has_no_kappa", agreement_of_one_class_has_no_kappa},
    {"intervals_resample_prompts", intervals_resample_prompts},
    {"the_report_is_json", the_report_is_json},
    {"bad_labels_are_named_and_nothing_is_written", bad_labels_are_named_and_nothing_is_written},
};

FILES_TEST_MAIN(tests)
