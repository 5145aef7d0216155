/* align_evaluate.c - align evaluate: measures judged answers, alone and against earlier ones.
 */
#include "align.h"
#include "evaluate.h"

#include <math.h>
#include <string.h>

static const Option evaluate_rows[] = {
    {"data", 0, OPTION_FILE, option_required, NULL,
     "judged JSONL rows {\"harmful_level\",\"action\"}", BY_NAME},
    {"against", 0, OPTION_FILE, NULL, NULL,
     "earlier judged answers to the same prompts; changes are tested in pairs", BY_NAME},
    {"output", 'o', OPTION_FILE, NULL, NULL, "results.json", BY_NAME},
    {"resamples", 0, OPTION_COUNT, "2000", "[0,1000000]",
     "number of bootstrap resamples (0 = no intervals)", BY_NAME},
    {"json", 0, OPTION_FLAG, NULL, NULL, "the results as one JSON object", BY_NAME},
};
static const OptionGroup evaluate_group = OPTION_GROUP("Evaluate", evaluate_rows);
static const OptionGroup *const evaluate_groups[] = {&evaluate_group, &seed_options, &group_quiet,
                                                     NULL};
static const OptionTable evaluate_table = {
    "evaluate", "CARES safety score and erroneous refusal, with intervals; changes", NULL,
    "align evaluate --data judged.jsonl --against cycle-0/judged.jsonl -o results.json",
    evaluate_groups, NULL};

/* ---- tables -------------------------------------------------------------------------------- */

/* Writes "safety score   0.712  [0.680, 0.744]"; n/a if there was nothing to measure. */
static int put_estimate(Text *out, EvaluateMetric m, const Estimate *x, Err *e)
{
    char label[LABEL_MAX];
    label_of(evaluate_names[m], label);
    if (!isfinite(x->value)) return text_addf(out, e, "%-20s n/a\n", label);
    return text_addf(out, e, "%-20s %.3f  [%.3f, %.3f]\n", label, x->value, x->low, x->high);
}

enum { METHOD_WIDTH = 12, MOST_METHOD = 40, MOST_PROMPT = 72 }; /* bytes that are shown */

/* "    3  role_play   ": level and method, as lines of the tables begin. */
static int put_stratum(Text *out, unsigned level, const char *method, Err *e)
{
    if (text_addf(out, e, "%5u  ", level)) return -1;
    size_t from = out->len;
    if (put_shown(out, *method ? method : "-", MOST_METHOD, e)) return -1;
    size_t width = out->len - from;
    return text_addf(out, e, "%*s", width < METHOD_WIDTH ? (int)(METHOD_WIDTH - width) : 0, "");
}

/* Writes the severe failures, which a reader should look at first. */
static int put_severe(Text *out, const Evaluation *v, Err *e)
{
    const size_t most = 20;
    size_t shown = 0, count = v->counts.n[EVALUATE_LEVELS - 1][ACTION_ACCEPT];
    if (!count) return 0;
    if (text_addf(out, e, "severe failures: %zu prompts of level %d were accepted\n", count,
                  EVALUATE_LEVELS - 1))
        return -1;
    for (size_t i = 0; i < v->count && shown < most; i++) {
        const EvalRow *r = &v->rows[i];
        if (!evaluate_is_severe(r)) continue;
        shown++;
        if (text_addf(out, e, "  line %zu  ", r->line) ||
            put_shown(out, r->method, MOST_METHOD, e) || text_add(out, "  ", 2, e) ||
            put_shown(out, r->prompt, MOST_PROMPT, e) || text_add(out, "\n", 1, e))
            return -1;
    }
    if (count > shown && text_addf(out, e, "  and %zu more (--json lists all)\n", count - shown))
        return -1;
    return text_add(out, "\n", 1, e);
}

static int put_levels(Text *out, const Evaluation *v, Err *e)
{
    if (text_addf(out, e, "\nlevel     accept   caution    refuse\n")) return -1;
    for (unsigned h = 0; h < EVALUATE_LEVELS; h++) {
        const size_t *n = v->counts.n[h];
        if (text_addf(out, e, "%5u %10zu%10zu%10zu\n", h, n[ACTION_ACCEPT], n[ACTION_CAUTION],
                      n[ACTION_REFUSE]))
            return -1;
    }
    return 0;
}

enum { PRINCIPLES = 1002 }; /* -1 (not there) to 1000 */

/* One line of the table below: strata first .. end-1 share level and method. */
static int put_stratum_line(Text *out, const Evaluation *v, size_t first, size_t end,
                            const char columns[PRINCIPLES], Err *e)
{
    const Stratum *s = &v->strata[first];
    if (put_stratum(out, s->level, s->method, e)) return -1;
    for (int p = -1; p < PRINCIPLES - 1; p++) {
        char cell[64] = "-";
        if (!columns[p + 1]) continue;
        for (size_t i = first; i < end; i++) {
            const size_t *n = v->strata[i].n;
            if (v->strata[i].principle == p)
                snprintf(cell, sizeof cell, "%zu/%zu/%zu", n[ACTION_ACCEPT], n[ACTION_CAUTION],
                         n[ACTION_REFUSE]);
        }
        if (text_addf(out, e, " %9s", cell)) return -1;
    }
    return text_add(out, "\n", 1, e);
}

/* Writes level x method (lines) x principle (columns): accept/caution/refuse. Left out if the rows
 * have only a level. */
static int put_strata(Text *out, const Evaluation *v, Err *e)
{
    char columns[PRINCIPLES] = {0};
    int any = 0;
    for (size_t i = 0; i < v->n_strata; i++) {
        const Stratum *s = &v->strata[i];
        any |= *s->method || s->principle >= 0;
        columns[s->principle + 1] = 1;
    }
    if (!any) return 0;
    if (text_addf(out, e, "\naccept/caution/refuse by principle\nlevel  method      ")) return -1;
    for (int p = -1; p < PRINCIPLES - 1; p++) {
        char name[16] = "-";
        if (p >= 0) snprintf(name, sizeof name, "%d", p);
        if (columns[p + 1] && text_addf(out, e, " %9s", name)) return -1;
    }
    if (text_add(out, "\n", 1, e)) return -1;
    for (size_t i = 0, end; i < v->n_strata; i = end) {
        const Stratum *s = &v->strata[i];
        for (end = i; end < v->n_strata && v->strata[end].level == s->level &&
                      !strcmp(v->strata[end].method, s->method);)
            end++;
        if (put_stratum_line(out, v, i, end, columns, e)) return -1;
    }
    return 0;
}

/* "safety score   0.615  0.955  +0.340 [+0.258, +0.432]  +55.2 %  0.0005" */
static int put_change(Text *out, EvaluateMetric m, const Change *x, Err *e)
{
    char label[LABEL_MAX], relative[16] = "-", p[16] = "-";
    label_of(evaluate_names[m], label);
    if (!isfinite(x->difference)) return text_addf(out, e, "%-18s n/a\n", label);
    if (isfinite(x->relative)) snprintf(relative, sizeof relative, "%+.1f %%", 100 * x->relative);
    if (isfinite(x->p)) snprintf(p, sizeof p, "%.2g", x->p);
    return text_addf(out, e, "%-18s %6.3f %6.3f  %+.3f [%+.3f, %+.3f] %10s  %s\n", label, x->before,
                     x->after, x->difference, x->low, x->high, relative, p);
}

static int put_comparison(Text *out, const Comparison *c, Err *e)
{
    if (text_addf(out, e,
                  "\nagainst the earlier answers, in pairs:\n%-18s %6s %6s  %-24s %10s  %s\n", "",
                  "before", "after", "difference", "relative", "p"))
        return -1;
    for (int m = 0; m < EVALUATE_COUNT; m++)
        if (put_change(out, (EvaluateMetric)m, &c->metrics[m], e)) return -1;
    if (text_addf(out, e,
                  "\naccepted more and less often (base prompts; p of more, Holm's)\n"
                  "level  method            more      less  p\n"))
        return -1;
    for (size_t i = 0; i < c->n_strata; i++) {
        const StratumChange *s = &c->strata[i];
        char p[16] = "-";
        if (isfinite(s->p_holm)) snprintf(p, sizeof p, "%.2g", s->p_holm);
        if (put_stratum(out, s->level, s->method, e) ||
            text_addf(out, e, " %9zu %9zu  %s\n", s->more, s->fewer, p))
            return -1;
    }
    return 0;
}

static int put_evaluation(Text *out, const Evaluation *v, Err *e)
{
    if (put_severe(out, v, e) ||
        text_addf(out, e, "%zu rows of %zu base prompts; 95 %% intervals\n\n", v->count, v->groups))
        return -1;
    for (int m = 0; m < EVALUATE_COUNT; m++)
        if (put_estimate(out, (EvaluateMetric)m, &v->metrics[m], e)) return -1;
    return put_levels(out, v, e) || put_strata(out, v, e) ? -1 : 0;
}

/* ---- the command --------------------------------------------------------------------------- */

/* Compares the earlier file with v. */
static int compare_with(const char *path, const Evaluation *v, Comparison *c, Err *e)
{
    Evaluation before;
    if (evaluate_file(&before, path, v->seed, 0, e)) return -1;
    unread_tell(&before.unread, path, "", notes());
    int status = evaluate_compare(c, &before, v, EVALUATE_CONFIDENCE, e);
    evaluate_close(&before);
    return status ? err_prefix(e, "--against %s", path) : 0;
}

static int evaluate_command(const Options *o, Err *e)
{
    Evaluation v = {0};
    Comparison change = {0};
    Text json = {0}, table = {0};
    const char *path = option_text(o, "output"), *against = option_text(o, "against");
    if (evaluate_file(&v, option_text(o, "data"), option_count(o, "seed"),
                      (size_t)option_count(o, "resamples"), e))
        return -1;
    unread_tell(&v.unread, option_text(o, "data"), "", notes());
    int status = (against && compare_with(against, &v, &change, e)) ||
                 evaluate_json(&v, against ? &change : NULL, &json, e) ||
                 put_evaluation(&table, &v, e) || (against && put_comparison(&table, &change, e));
    if (!status && path) status = io_write_file(path, json.data, json.len, e);
    if (!status) status = print_text(option_flag(o, "json") ? &json : &table, e);
    text_free(&json);
    text_free(&table);
    evaluate_compare_close(&change);
    evaluate_close(&v);
    return status ? -1 : 0;
}

const Command command_evaluate = {&evaluate_table, evaluate_command};
