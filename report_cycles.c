/* report_cycles.c - shows what the cycles reached, and why: figures, choices, actions by level,
 * judges.
 */
#include "evaluate_review.h"
#include "report_parts.h"

#include <math.h>
#include <string.h>

/* ---- figures ------------------------------------------------------------------------------- */

/* Writes a cell "0.712 [0.680, 0.744]". */
static void put_estimate(Html *h, Estimate x)
{
    html_put(h, "<td class=\"n\">");
    html_figure(h, x.value);
    if (isfinite(x.value)) html_putf(h, " [%.3f, %.3f]", x.low, x.high);
    html_put(h, "</td>");
}

static const struct {
    const char *key, *name;
} shown_metrics[] = {
    {"safety_score", "Safety Score"},
    {"erroneous_refusal", "Erroneous refusal (level 0 refused)"},
    {"over_caution", "Over-caution (level 0 not accepted)"},
    {"severe_failures", "Severe failures (level 3 accepted)"},
    {"accuracy", "Harmful detection: accuracy"},
    {"precision", "Harmful detection: precision"},
    {"recall", "Harmful detection: recall"},
    {"f1", "Harmful detection: F1"},
};

/* Writes first and last policy on the test prompts, with the paired difference. */
static void put_test(Html *h, const Report *r)
{
    const Json *first = json_get(r->results, "first"), *change = json_get(r->results, "change");
    if (!first || first->type != JSON_OBJECT || !report_has_test(r)) return;
    html_put(h, "<div class=\"wide\"><table>\n<caption>First and last policy on the test prompts, "
                "which nothing else has seen: share, 95 % interval (bootstrap by base prompt), "
                "paired difference</caption>\n<thead><tr><th scope=\"col\">Figure</th>"
                "<th scope=\"col\" class=\"n\">First</th><th scope=\"col\" class=\"n\">Last</th>"
                "<th scope=\"col\" class=\"n\">Difference</th><th scope=\"col\" class=\"n\">p</th>"
                "</tr></thead>\n<tbody>\n");
    for (size_t i = 0; i < sizeof shown_metrics / sizeof *shown_metrics; i++) {
        const Json *x = json_get(change, shown_metrics[i].key);
        double difference = report_number(x, "difference");
        html_putf(h, "<tr><th scope=\"row\">%s</th>", shown_metrics[i].name);
        put_estimate(h, report_estimate(first, shown_metrics[i].key));
        put_estimate(h, report_estimate(r->results, shown_metrics[i].key));
        html_put(h, "<td class=\"n\">");
        if (isfinite(difference))
            html_putf(h, "%+.3f [%+.3f, %+.3f]", difference, report_number(x, "low"),
                      report_number(x, "high"));
        else
            html_put(h, "n/a");
        html_put(h, "</td><td class=\"n\">");
        if (isfinite(report_number(x, "p")))
            html_putf(h, "%.4f", report_number(x, "p"));
        else
            html_put(h, "n/a");
        html_put(h, "</td></tr>\n");
    }
    html_put(h, "</tbody></table></div>\n");
    const Json *facts = json_get(ledger_find(&r->ledger, "finish", 0, ""), "facts");
    const Json *same = json_get(facts, "test_judge_labelled_training");
    if (same && same->type == JSON_TRUE)
        html_put(h,
                 "<p class=\"bad\">Who labelled the test answers also labelled training samples: "
                 "these figures say how well that judge was learned.</p>\n");
}

/* Writes the policy after a cycle in words. */
static void put_policy(Html *h, const ReportCycle *x)
{
    if (!x->cycle)
        html_put(h, "first policy");
    else if (x->promoted)
        html_json(h, x->promoted);
    else
        html_put(h, "parent stays");
}

static void put_cycle_table(Html *h, const Report *r)
{
    html_put(h, "<div class=\"wide\"><table>\n<caption>The policy after each cycle, on the "
                "validation prompts</caption>\n<thead><tr><th scope=\"col\">Cycle</th>"
                "<th scope=\"col\">Policy</th><th scope=\"col\" class=\"n\">Safety Score</th>"
                "<th scope=\"col\" class=\"n\">Erroneous refusal</th>"
                "<th scope=\"col\" class=\"n\">Over-caution</th>"
                "<th scope=\"col\" class=\"n\">Severe failures</th></tr></thead>\n<tbody>\n");
    for (size_t i = 0; i < r->n_cycles; i++) {
        const ReportCycle *x = &r->cycles[i];
        html_putf(h, "<tr><th scope=\"row\">%zu</th><td>", x->cycle);
        put_policy(h, x);
        html_put(h, "</td>");
        for (int k = 0; k < 4; k++)
            put_estimate(h, report_estimate(x->metrics, shown_metrics[k].key));
        html_put(h, "</tr>\n");
    }
    html_put(h, "</tbody></table></div>\n");
}

/* ---- the trade-off ------------------------------------------------------------------------- */

/* Calls put for every candidate that was measured. */
static void each_candidate(Html *h, Chart *c, const Report *r,
                           void (*put)(Html *h, Chart *c, const ChartPoint *p))
{
    char label[64];
    for (size_t i = 1; i < r->n_cycles; i++) {
        const Json *list = json_get(r->cycles[i].selection, "candidates");
        for (const Json *x = list ? list->child : NULL; x; x = x->next) {
            const Json *method = json_get(x, "method"), *metrics = json_get(x, "metrics");
            if (!method || method->type != JSON_STRING || !metrics) continue;
            if (r->cycles[i].promoted && json_is(method, r->cycles[i].promoted->text)) continue;
            snprintf(label, sizeof label, "%zu %.20s", r->cycles[i].cycle, method->text);
            ChartPoint p = {.x = report_estimate(metrics, "erroneous_refusal"),
                            .y = report_estimate(metrics, "safety_score"),
                            .series = json_is(method, "kto") ? 1 : 2,
                            .hollow = 1,
                            .label = label};
            put(h, c, &p);
        }
    }
}

static void fit_point(Html *h, Chart *c, const ChartPoint *p)
{
    (void)h;
    chart_fit(c, p->x.low, p->y.low);
    chart_fit(c, p->x.high, p->y.high);
}

/* Calls put once for every policy; cycles that kept it share a mark: "cycles 1-3". */
static void each_policy(Html *h, Chart *c, const Report *r,
                        void (*put)(Html *h, Chart *c, const ChartPoint *p))
{
    char label[64];
    for (size_t i = 0, next; i < r->n_cycles; i = next) {
        for (next = i + 1; next < r->n_cycles && !r->cycles[next].promoted; next++) {
        }
        if (next == i + 1)
            snprintf(label, sizeof label, "cycle %zu", i);
        else
            snprintf(label, sizeof label, "cycles %zu-%zu", i, next - 1);
        ChartPoint p = {.x = report_estimate(r->cycles[i].metrics, "erroneous_refusal"),
                        .y = report_estimate(r->cycles[i].metrics, "safety_score"),
                        .label = label};
        put(h, c, &p);
    }
}

static const double least_span = 0.1; /* length of an axis: small changes must not look large */

static void put_trade_off(Html *h, const Report *r)
{
    Chart c = {.title = "Safety Score against erroneous refusal",
               .describe = "Up is safer, left refuses fewer harmless prompts. The numbers stand in "
                           "the tables of this section and of the choices.",
               .x_name = "erroneous refusal (lower is better)",
               .y_name = "Safety Score (higher is better)",
               .x0 = 1,
               .y0 = 1,
               .width = 560,
               .height = 380};
    each_policy(h, &c, r, fit_point);
    each_candidate(h, &c, r, fit_point);
    chart_room(&c, least_span, 1);
    html_put(h, "<figure>\n");
    chart_begin(h, &c);
    each_policy(h, &c, r, chart_point); /* first: their labels get the best places */
    each_candidate(h, &c, r, chart_point);
    chart_end(h);
    html_put(h, "<div class=\"legend\">");
    chart_key(h, 0, 0, "policy after a cycle");
    chart_key(h, 1, 1, "KTO candidate, not promoted");
    chart_key(h, 2, 1, "DPO candidate, not promoted");
    html_put(h, "</div>\n<figcaption>The trade-off on the validation prompts: up is safer, left "
                "refuses fewer harmless prompts. Crosses are 95 % intervals. A policy that refuses "
                "everything would stand at the right end, at 1.</figcaption>\n</figure>\n");
}

/* Draws one figure over the cycles. */
static void put_over_cycles(Html *h, const Report *r, const char *key, const char *title,
                            int series)
{
    Chart c = {.title = title,
               .describe = "One mark for each cycle, with its 95 % interval.",
               .x_name = "cycle",
               .y_name = title,
               .x0 = -0.25,
               .x1 = (double)r->n_cycles - 0.75,
               .y0 = 1,
               .width = 420,
               .height = 260,
               .whole_x = 1};
    double x[2], y[2];
    for (size_t i = 0; i < r->n_cycles; i++) {
        Estimate v = report_estimate(r->cycles[i].metrics, key);
        chart_fit(&c, (double)i, v.low);
        chart_fit(&c, (double)i, v.high);
    }
    chart_room(&c, least_span, 1);
    html_put(h, "<figure>\n");
    chart_begin(h, &c);
    for (size_t i = 0; i < r->n_cycles; i++) {
        double at = (double)i;
        ChartPoint p = {.x = {at, at, at},
                        .y = report_estimate(r->cycles[i].metrics, key),
                        .series = series,
                        .label = ""};
        x[1] = at;
        y[1] = p.y.value;
        if (i) chart_line(h, &c, x, y, 2, series);
        x[0] = x[1];
        y[0] = y[1];
        chart_point(h, &c, &p);
    }
    chart_end(h);
    html_putf(h,
              "<figcaption>%s per cycle, validation prompts, 95 %% intervals</figcaption>\n"
              "</figure>\n",
              title);
}

void report_put_figures(Html *h, const Report *r)
{
    html_put(h, "<h2 id=\"figures\">Safety and refusal</h2>\n");
    put_test(h, r);
    if (r->n_cycles) {
        put_trade_off(h, r);
        html_put(h, "<div class=\"charts\">\n");
        put_over_cycles(h, r, "safety_score", "Safety Score", 0);
        put_over_cycles(h, r, "erroneous_refusal", "Erroneous refusal", 1);
        html_put(h, "</div>\n");
        put_cycle_table(h, r);
    }
}

/* ---- choices ------------------------------------------------------------------------------- */

/* Writes "passed" or "failed", or a dash if nothing was tested. */
static void put_test_cell(Html *h, const Json *tests, const char *name)
{
    const Json *test = json_get(tests, name), *holds = json_get(test, "holds");
    if (!strcmp(name, "guard") && !json_get(test, "bound")) holds = NULL; /* no questions */
    html_put(h, "<td>");
    if (!holds)
        html_put(h, "-");
    else if (holds->type == JSON_TRUE)
        html_put(h, "<span class=\"good\">passed</span>");
    else
        html_put(h, "<span class=\"bad\">failed</span>");
    html_put(h, "</td>");
}

static void put_candidate(Html *h, const Json *x)
{
    static const char *const tests[] = {"safety_gain", "added_refusal", "strata", "guard"};
    html_put(h, "<tr><th scope=\"row\">");
    html_json(h, json_get(x, "method"));
    html_put(h, "</th>");
    html_cell(h, json_get(x, "status"), 0);
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
        put_test_cell(h, json_get(x, "tests"), tests[i]);
    html_put(h, "<td class=\"say\">");
    html_json(h, json_get(x, "why"));
    html_put(h, "</td></tr>\n");
}

/* Writes the rule of selection with its bounds, which are the same in all cycles of a run. */
static void put_rule(Html *h, const Json *selection)
{
    static const char *const bounds[] = {"max_added_refusal", "guard_margin", "confidence"};
    html_put(h, "<p class=\"soft\">The rule: ");
    html_json(h, json_get(selection, "rule"));
    for (size_t i = 0; i < sizeof bounds / sizeof *bounds; i++) {
        html_putf(h, "%s%s is ", i ? ", " : ". Here ", bounds[i]);
        html_json(h, json_get(selection, bounds[i]));
    }
    html_put(h, ".</p>\n");
}

void report_put_selection(Html *h, const Report *r)
{
    html_put(h, "<h2 id=\"choices\">Choices</h2>\n");
    if (r->n_cycles < 2) html_put(h, "<p>No cycle has chosen yet.</p>\n");
    for (size_t i = 1; i < r->n_cycles; i++) {
        const Json *s = r->cycles[i].selection, *list = json_get(s, "candidates");
        html_putf(h, "<h3>Cycle %zu</h3>\n<p>", i);
        html_json(h, json_get(s, "why"));
        html_put(h, "</p>\n<div class=\"wide\"><table>\n<caption>Tests of the candidates against "
                    "their parent, in pairs, on the validation prompts</caption>\n<thead><tr>"
                    "<th scope=\"col\">Candidate</th><th scope=\"col\">Training</th>"
                    "<th scope=\"col\">Gain</th><th scope=\"col\">Refusal</th>"
                    "<th scope=\"col\">Strata</th><th scope=\"col\">Guard</th>"
                    "<th scope=\"col\">Verdict</th></tr></thead>\n<tbody>\n");
        for (const Json *x = list ? list->child : NULL; x; x = x->next) put_candidate(h, x);
        html_put(h, "</tbody></table></div>\n");
    }
    if (r->n_cycles > 1) put_rule(h, r->cycles[1].selection);
}

/* ---- actions by level ---------------------------------------------------------------------- */

/* Is this action at this level the one that CARES wants? */
static int is_right(double level, int action)
{
    return level >= 0 && level < EVALUATE_LEVELS &&
           evaluate_score((unsigned)level, (Action)action) >= 1;
}

static void put_levels(Html *h, const Json *results, const char *caption)
{
    const Json *levels = json_get(results, "levels");
    html_put(h, "<div class=\"wide\"><table>\n<caption>");
    html_put(h, caption);
    html_put(h, "</caption>\n<thead><tr><th scope=\"col\">Harm level</th>");
    for (int a = 0; a < ACTION_COUNT; a++)
        html_putf(h, "<th scope=\"col\" class=\"n\">%s</th>", action_names[a]);
    html_put(h, "<th scope=\"col\" class=\"n\">Safety Score</th></tr></thead>\n<tbody>\n");
    for (const Json *x = levels ? levels->child : NULL; x; x = x->next) {
        double level = report_number(x, "harmful_level"), n = 0;
        for (int a = 0; a < ACTION_COUNT; a++) n += report_number(x, action_names[a]);
        html_put(h, "<tr><th scope=\"row\">");
        html_json(h, json_get(x, "harmful_level"));
        html_put(h, "</th>");
        for (int a = 0; a < ACTION_COUNT; a++) {
            double count = report_number(x, action_names[a]);
            html_putf(h, "<td class=\"n%s\">", count > 0 && is_right(level, a) ? " good" : "");
            html_json(h, json_get(x, action_names[a]));
            if (n > 0) html_putf(h, " <span class=\"soft\">%.0f&#8239;%%</span>", 100 * count / n);
            html_put(h, "</td>");
        }
        html_put(h, "<td class=\"n\">");
        html_figure(h, report_number(x, "safety_score"));
        html_put(h, "</td></tr>\n");
    }
    html_put(h, "</tbody></table></div>\n");
}

/* Writes RUN/folder/results.json as a table. */
static int put_levels_of(Html *h, Report *r, const char *folder, const char *caption, Err *e)
{
    char name[RUN_NAME];
    run_name(name, folder, RESULTS_FILE);
    const Json *results = report_json(r, name, e);
    if (results) put_levels(h, results, caption);
    return results ? 0 : -1;
}

/* The policy after a cycle, on the validation prompts. */
static int put_levels_after(Html *h, Report *r, const ReportCycle *x, Err *e)
{
    char caption[64];
    snprintf(caption, sizeof caption, "After cycle %zu, validation prompts", x->cycle);
    return put_levels_of(h, r, x->place.folder, caption, e);
}

/* Writes the counts of each level before and after: on the test prompts, or until then on
 * validation. */
int report_put_confusion(Html *h, Report *r, Err *e)
{
    html_put(h,
             "<h2 id=\"actions\">Actions by harm level</h2>\n<p class=\"soft\">Level 0 should be "
             "accepted; levels 1 to 3 refused, or met with caution where the score says so. "
             "Actions that score fully are in bold.</p>\n<div class=\"charts\">\n");
    int tested = 0;
    for (size_t i = 0; i < RUN_TESTS; i++) {
        if (!ledger_find(&r->ledger, "evaluate", 0, run_tests[i].stage)) continue;
        if (put_levels_of(h, r, run_tests[i].folder, report_captions[i], e)) return -1;
        tested = 1;
    }
    size_t n = tested ? 0 : r->n_cycles;
    if (n && put_levels_after(h, r, &r->cycles[0], e)) return -1;
    if (n > 1 && put_levels_after(h, r, &r->cycles[n - 1], e)) return -1;
    html_put(h, "</div>\n");
    return 0;
}

/* ---- judges -------------------------------------------------------------------------------- */

/* Writes figures by the judge, and corrected by the random rows that people judged. */
static int put_correction(Html *h, const Report *r, const char *folder, const char *what, Err *e)
{
    char path[IO_PATH_MAX], name[RUN_NAME];
    ReviewCorrection c;
    run_name(name, folder, JUDGED_FILE);
    if (io_path(path, sizeof path, r->dir, name, e) || evaluate_review(&c, path, e)) return -1;
    html_putf(h,
              "<div class=\"wide\"><table>\n<caption>%s: people judged %zu of %zu rows and "
              "disagreed on %zu; at random %zu, on %zu (drawn from other answers, and no sample of "
              "these: %zu). Corrected: by the difference estimator, from the random "
              "rows</caption>\n<thead><tr><th scope=\"col\">Figure</th>"
              "<th scope=\"col\" class=\"n\">By the judge</th>",
              what, c.reviewed, c.rows, c.overruled, c.random, c.random_overruled, c.elsewhere);
    html_put(h, "<th scope=\"col\" class=\"n\">Corrected</th>"
                "<th scope=\"col\" class=\"n\">Random rows</th></tr></thead>\n<tbody>\n");
    for (int i = 0; i < REVIEW_FIGURES; i++) {
        html_put(h, "<tr><th scope=\"row\">");
        html_string(h, evaluate_names[review_metrics[i]]);
        html_put(h, "</th><td class=\"n\">");
        html_figure(h, c.judge[i].value);
        html_put(h, "</td>");
        put_estimate(h, c.corrected[i]);
        html_putf(h, "<td class=\"n\">%zu</td></tr>\n", c.sampled[i]);
    }
    html_put(h, "</tbody></table></div>\n");
    return 0;
}

/* Was a row of this judgement reviewed by a person? */
static int was_reviewed(const Json *entry)
{
    return report_number(json_get(entry, "facts"), "reviewed") > 0;
}

/* Writes this for every policy that was examined: after each promotion, and on the test prompts. */
static int put_corrections(Html *h, const Report *r, Err *e)
{
    char caption[64];
    for (size_t i = 0; i < r->n_cycles; i++) {
        const ReportCycle *x = &r->cycles[i];
        if (i && !x->promoted) continue;
        snprintf(caption, sizeof caption, "After cycle %zu, validation prompts", i);
        if (was_reviewed(ledger_find(&r->ledger, "judge", i, x->place.stage)) &&
            put_correction(h, r, x->place.folder, caption, e))
            return -1;
    }
    for (size_t i = 0; i < RUN_TESTS; i++)
        if (was_reviewed(ledger_find(&r->ledger, "judge", 0, run_tests[i].stage)) &&
            put_correction(h, r, run_tests[i].folder, report_captions[i], e))
            return -1;
    return 0;
}

int report_put_judges(Html *h, const Report *r, Err *e)
{
    static const char *const counts[] = {"rows",     "empty",    "disagreed",
                                         "unparsed", "reviewed", "overruled"};
    html_put(h, "<h2 id=\"judges\">Judges</h2>\n<div class=\"wide\"><table>\n<caption>Who labelled "
                "what. Orders disagree: a model said otherwise with its labels in another order; "
                "overruled: a person who reviewed the answer disagreed</caption>\n<thead><tr>"
                "<th scope=\"col\">Cycle</th><th scope=\"col\">Answers</th>"
                "<th scope=\"col\">Judge</th><th scope=\"col\">SHA-256</th>"
                "<th scope=\"col\" class=\"n\">Rows</th><th scope=\"col\" class=\"n\">Empty</th>"
                "<th scope=\"col\" class=\"n\">Orders disagree</th>"
                "<th scope=\"col\" class=\"n\">No label</th>"
                "<th scope=\"col\" class=\"n\">Reviewed</th>"
                "<th scope=\"col\" class=\"n\">Overruled</th></tr></thead>\n<tbody>\n");
    for (size_t i = 0; i < r->ledger.count; i++) {
        const Json *x = r->ledger.entries[i], *facts = json_get(x, "facts");
        if (!json_is(json_get(x, "event"), "judge")) continue;
        html_put(h, "<tr>");
        html_cell(h, json_get(x, "cycle"), 0);
        html_cell(h, json_get(x, "name"), 0);
        html_cell(h, json_get(facts, "judge"), 0);
        html_hash(h, json_get(facts, "judge_sha256"));
        for (size_t k = 0; k < sizeof counts / sizeof *counts; k++)
            html_cell(h, json_get(facts, counts[k]), 1);
        html_put(h, "</tr>\n");
    }
    html_put(h, "</tbody></table></div>\n");
    return put_corrections(h, r, e);
}
