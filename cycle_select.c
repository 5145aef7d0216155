/* cycle_select.c - decides which candidate becomes the policy, and writes the files that say so. */
#include "cycle_parts.h"

#include <math.h>
#include <string.h>

const char *const candidate_status_names[] = {"off", "trained", "skipped", "diverged"};

/* ---- select -------------------------------------------------------------------------------- */

static const double rounding = 1e-12; /* in shares; smaller than any real difference */
static const char *const test_names[TEST_COUNT] = {"safety_gain", "added_refusal", "strata",
                                                   "guard"};

/* Finds the tested stratum of level >= 2 with the smallest p_holm; NULL if there is none.
 */
static const StratumChange *worst_stratum(const Comparison *c)
{
    const StratumChange *worst = NULL;
    for (size_t i = 0; i < c->n_strata; i++) {
        const StratumChange *s = &c->strata[i];
        if (!isnan(s->p_holm) && (!worst || s->p_holm < worst->p_holm)) worst = s;
    }
    return worst;
}

static void test_candidate(Candidate *x, const PromotionRule *rule)
{
    const Change *m = x->against.metrics;
    const StratumChange *worst = worst_stratum(&x->against);
    x->holds[TEST_GAIN] = m[EVALUATE_SAFETY_SCORE].low > rounding;
    x->holds[TEST_REFUSAL] =
        m[EVALUATE_ERRONEOUS_REFUSAL].high <= rule->max_added_refusal + rounding;
    x->holds[TEST_STRATA] = !worst || worst->p_holm > 1 - rule->confidence + rounding;
    x->holds[TEST_GUARD] = 1;
    for (int k = 0; k < GUARD_KINDS; k++)
        if (x->guarded && x->guard.rows[k])
            x->holds[TEST_GUARD] &= x->guard.change[k].low >= -rule->guard_margin - rounding;
    x->eligible = 1;
    for (int i = 0; i < TEST_COUNT; i++) x->eligible &= x->holds[i];
}

/* Writes the verdict in words, with the figures that decided it. */
static void say_verdict(Candidate *x, const PromotionRule *rule)
{
    const Change *gain = &x->against.metrics[EVALUATE_SAFETY_SCORE],
                 *added = &x->against.metrics[EVALUATE_ERRONEOUS_REFUSAL];
    double unseen = evaluate_unseen(x->against.harmless, rule->confidence);
    *x->why = 0;
    line_addf(x->why, sizeof x->why, "%s: Safety Score %+.4f [%+.4f, %+.4f]%s",
              x->eligible ? "may be promoted" : "not promoted", gain->difference, gain->low,
              gain->high, x->holds[TEST_GAIN] ? "" : ", which is not surely a gain");
    line_addf(x->why, sizeof x->why, "; erroneous refusal %+.4f [%+.4f, %+.4f]", added->difference,
              added->low, added->high);
    if (!x->holds[TEST_REFUSAL])
        line_addf(x->why, sizeof x->why, ", which may exceed %g", rule->max_added_refusal);
    if (!x->holds[TEST_STRATA]) {
        const StratumChange *worst = worst_stratum(&x->against);
        line_addf(
            x->why, sizeof x->why,
            "; level %u%s%.60s is accepted more often: %zu base prompts more, %zu less, p %.2g "
            "after Holm's correction",
            worst->level, *worst->method ? " " : "", worst->method, worst->more, worst->fewer,
            worst->p_holm);
    }
    for (int k = 0; k < GUARD_KINDS; k++) {
        const Change *c = &x->guard.change[k];
        if (!x->guarded || !x->guard.rows[k]) continue;
        line_addf(x->why, sizeof x->why, "; guard, %zu questions with %s: %+.4f [%+.4f, %+.4f]",
                  x->guard.rows[k], guard_kind_names[k], c->difference, c->low, c->high);
        if (!(c->low >= -rule->guard_margin - rounding))
            line_addf(x->why, sizeof x->why, ", which may be worse by more than %g",
                      rule->guard_margin);
    }
    if (x->eligible && unseen > rule->max_added_refusal)
        line_addf(x->why, sizeof x->why,
                  "; %zu harmless base prompts cannot show a refusal rarer than %.3f",
                  x->against.harmless, unseen);
}

/* Is candidate a better than candidate b? In a tie the first one wins. */
static int better(const Candidate *a, const Candidate *b)
{
    static const int order[] = {EVALUATE_ERRONEOUS_REFUSAL, EVALUATE_OVER_CAUTION};
    double x = a->metrics[EVALUATE_SAFETY_SCORE].value, y = b->metrics[EVALUATE_SAFETY_SCORE].value;
    if (x != y) return x > y;
    for (size_t i = 0; i < 2; i++) {
        x = a->metrics[order[i]].value;
        y = b->metrics[order[i]].value;
        if (x != y) return x < y;
    }
    return 0;
}

void cycle_select(Selection *s, const PromotionRule *rule)
{
    s->promoted = -1;
    int trained = 0;
    for (int m = 0; m < CYCLE_METHODS; m++) {
        Candidate *x = &s->candidates[m];
        x->eligible = 0;
        if (x->status != CANDIDATE_TRAINED) continue;
        trained++;
        test_candidate(x, rule);
        say_verdict(x, rule);
        if (x->eligible && (s->promoted < 0 || better(x, &s->candidates[s->promoted])))
            s->promoted = m;
    }
    if (s->promoted >= 0)
        snprintf(s->why, sizeof s->why,
                 "%s is promoted: of the candidates that keep the rule it has the higher Safety "
                 "Score, then the lower erroneous refusal",
                 cycle_method_names[s->promoted]);
    else
        snprintf(s->why, sizeof s->why, "the parent stays: %s",
                 trained ? "no candidate keeps the rule" : "there is no trained candidate");
}

void cycle_selection_close(Selection *s)
{
    for (int m = 0; m < CYCLE_METHODS; m++) evaluate_compare_close(&s->candidates[m].against);
}

/* ---- JSON ---------------------------------------------------------------------------------- */

/* The members of an object: each metric with its interval. */
static void put_estimates(JsonWriter *w, const Estimate *m)
{
    for (int i = 0; i < EVALUATE_COUNT; i++) {
        json_key(w, evaluate_names[i]);
        json_took(w, evaluate_estimate_json(&m[i], w->text, w->e));
    }
}

static void put_metrics(JsonWriter *w, const char *key, const Estimate *m)
{
    json_open(w, key, "{");
    put_estimates(w, m);
    json_close(w, "}");
}

/* Writes the changes of all metrics, as found by examination and comparison. */
static void put_changes(JsonWriter *w, const char *key, const Change *changes)
{
    json_open(w, key, "{");
    for (int i = 0; i < EVALUATE_COUNT; i++) {
        json_key(w, evaluate_names[i]);
        json_took(w, evaluate_change_json(&changes[i], w->text, w->e));
    }
    json_close(w, "}");
}

static void put_strata_test(JsonWriter *w, const Comparison *c)
{
    const StratumChange *worst = worst_stratum(c);
    size_t tested = 0;
    for (size_t i = 0; i < c->n_strata; i++) tested += isnan(c->strata[i].p_holm) ? 0 : 1;
    json_count(w, "tested", tested);
    json_number(w, "p_holm", worst ? worst->p_holm : (double)NAN);
    json_number(w, "bound", 1 - c->confidence);
    if (!worst) return;
    json_count(w, "harmful_level", worst->level);
    json_text(w, "method", worst->method);
    json_count(w, "accepted_more", worst->more);
    json_count(w, "accepted_less", worst->fewer);
}

/* Writes the figure that a test looked at, and the bound of that figure. */
static void put_test(JsonWriter *w, const Candidate *x, int test, const PromotionRule *rule)
{
    const Change *gain = &x->against.metrics[EVALUATE_SAFETY_SCORE],
                 *added = &x->against.metrics[EVALUATE_ERRONEOUS_REFUSAL];
    if (test == TEST_GAIN) {
        json_number(w, "difference", gain->difference);
        json_number(w, "low", gain->low);
        json_number(w, "bound", 0);
    } else if (test == TEST_REFUSAL) {
        json_number(w, "difference", added->difference);
        json_number(w, "high", added->high);
        json_number(w, "bound", rule->max_added_refusal);
        json_number(w, "unseen", evaluate_unseen(x->against.harmless, rule->confidence));
    } else if (test == TEST_STRATA) {
        put_strata_test(w, &x->against);
    } else if (x->guarded) {
        json_number(w, "bound", -rule->guard_margin);
        json_took(w, guard_json(&x->guard, w->text, w->e));
    }
}

static void put_tests(JsonWriter *w, const Candidate *x, const PromotionRule *rule)
{
    json_open(w, "tests", "{");
    for (int i = 0; i < TEST_COUNT; i++) {
        json_open(w, test_names[i], "{");
        json_flag(w, "holds", x->holds[i]);
        put_test(w, x, i, rule);
        json_close(w, "}");
    }
    json_close(w, "}");
}

static void put_candidate(JsonWriter *w, const Candidate *x, int method, const PromotionRule *rule)
{
    json_line(w, 4);
    json_open(w, NULL, "{");
    json_text(w, "method", cycle_method_names[method]);
    json_text(w, "status", candidate_status_names[x->status]);
    json_text(w, "why", x->why);
    if (x->status == CANDIDATE_TRAINED) {
        json_flag(w, "eligible", x->eligible);
        json_line(w, 5);
        put_tests(w, x, rule);
        json_line(w, 5);
        put_metrics(w, "metrics", x->metrics);
        json_line(w, 5);
        json_key(w, "against_parent");
        json_took(w, evaluate_compare_json(&x->against, w->text, w->e));
        json_line(w, 5);
        put_changes(w, "since_first", x->since_first);
    }
    json_close(w, "}");
}

static const char *method_or_null(int method)
{
    return method < 0 ? NULL : cycle_method_names[method];
}

/* selection.json */
static int put_selection(Text *t, const Selection *s, const PromotionRule *rule, Err *e)
{
    JsonWriter w = {.text = t, .e = e};
    json_open(&w, NULL, "{");
    json_line(&w, 2);
    json_count(&w, "cycle", s->cycle);
    json_line(&w, 2);
    json_text(&w, "promoted", method_or_null(s->promoted));
    json_line(&w, 2);
    json_text(&w, "why", s->why);
    json_line(&w, 2);
    json_text(&w, "rule",
              "promoted is the candidate with the highest Safety Score among "
              "those of which, in paired comparison with the parent, the lower bound of the "
              "gain in Safety Score is above 0, the upper bound of the added erroneous refusal "
              "is at most max_added_refusal, no stratum of level 2 or 3 is accepted "
              "significantly more often, and the guard's scores do not fall by more than "
              "guard_margin");
    json_line(&w, 2);
    json_number(&w, "max_added_refusal", rule->max_added_refusal);
    json_line(&w, 2);
    json_number(&w, "confidence", rule->confidence);
    json_line(&w, 2);
    json_number(&w, "guard_margin", rule->guard_margin);
    json_line(&w, 2);
    put_metrics(&w, "parent", s->parent);
    json_line(&w, 2);
    json_open(&w, "candidates", "[");
    for (int m = 0; m < CYCLE_METHODS; m++)
        if (s->candidates[m].status != CANDIDATE_OFF) put_candidate(&w, &s->candidates[m], m, rule);
    json_close(&w, "\n  ]\n}\n");
    return json_written(&w);
}

/* Writes the same for the ledger, on one line: what was chosen, why, and each test's figures. */
static int put_choice(Text *t, const Selection *s, const PromotionRule *rule, Err *e)
{
    JsonWriter w = {.text = t, .e = e};
    json_open(&w, NULL, "{");
    json_text(&w, "promoted", method_or_null(s->promoted));
    json_text(&w, "why", s->why);
    json_open(&w, "candidates", "{");
    for (int m = 0; m < CYCLE_METHODS; m++) {
        const Candidate *x = &s->candidates[m];
        if (x->status == CANDIDATE_OFF) continue;
        json_open(&w, cycle_method_names[m], "{");
        json_text(&w, "why", x->why);
        if (x->status == CANDIDATE_TRAINED) put_tests(&w, x, rule);
        json_close(&w, "}");
    }
    json_close(&w, "}}");
    return json_written(&w);
}

static void put_point(JsonWriter *w, const CyclePoint *p)
{
    json_line(w, 4);
    json_open(w, NULL, "{");
    json_count(w, "cycle", p->cycle);
    json_text(w, "promoted", method_or_null(p->promoted));
    put_metrics(w, "validation", p->metrics);
    if (p->cycle) put_changes(w, "since_first", p->since_first);
    json_close(w, "}");
}

int put_results(Text *t, const Loop *l, Err *e)
{
    const CycleResult *r = l->result;
    JsonWriter w = {.text = t, .e = e};
    json_open(&w, NULL, "{");
    json_line(&w, 2);
    json_count(&w, "rows", l->prompts.split_rows[r->tested ? SPLIT_TEST : SPLIT_VALIDATION]);
    json_line(&w, 2);
    json_text(&w, "split", r->tested ? "test" : "validation");
    json_line(&w, 2); /* the last policy's figures stand at the top, as in evaluate's file */
    put_estimates(&w, r->tested ? r->last : l->metrics);
    json_line(&w, 2);
    put_metrics(&w, "first", r->tested ? r->first : r->points[0].metrics);
    json_line(&w, 2);
    put_changes(&w, "change", r->tested ? r->test_change : l->since_first);
    json_line(&w, 2);
    if (r->stopped)
        json_count(&w, "stopped_after", r->stopped);
    else
        json_text(&w, "stopped_after", NULL);
    json_line(&w, 2);
    json_open(&w, "cycles", "[");
    for (size_t i = 0; i < r->n_points; i++) put_point(&w, &r->points[i]);
    json_close(&w, "\n  ]\n}\n");
    return json_written(&w);
}

/* ---- the stage ---------------------------------------------------------------------------- */

static int copy_named(const char *from, const char *to, const char *name, Err *e)
{
    char source[IO_PATH_MAX], target[IO_PATH_MAX];
    return io_path(source, sizeof source, from, name, e) ||
                   io_path(target, sizeof target, to, name, e) || io_copy_file(source, target, e)
               ? -1
               : 0;
}

/* Copies the two files of an adapter into RUN/to. */
static int copy_adapter(const Loop *l, const AdapterAt *from, const char *to, Err *e)
{
    char source[IO_PATH_MAX], target[IO_PATH_MAX];
    return loop_path(l, target, to, e) || io_make_directory(target, 1, e) ||
                   loop_adapter(l, from, source, e) ||
                   copy_named(source, target, LORA_WEIGHTS_FILE, e) ||
                   copy_named(source, target, LORA_CONFIG_FILE, e)
               ? -1
               : 0;
}

/* The choice of a cycle, and the adapter of the policy from here on: where it is, and where it is
 * kept. */
typedef struct {
    const Selection *selection;
    PromotionRule rule;
    AdapterAt winner, kept;
} Choice;

static int has_adapter(const Choice *x)
{
    return *x->winner.below || x->winner.outside;
}

/* Writes selection.json, and copies the adapter. */
static int keep_choice(Loop *l, Stage *s, Text *facts, Err *e)
{
    const Choice *x = s->work;
    char path[IO_PATH_MAX];
    Text text = {0};
    int status = loop_path(l, path, s->outputs[0], e) ||
                 put_selection(&text, x->selection, &x->rule, e) ||
                 put_choice(facts, x->selection, &x->rule, e) ||
                 io_write_file(path, text.data, text.len, e) ||
                 (has_adapter(x) && copy_adapter(l, &x->winner, x->kept.below, e));
    text_free(&text);
    return status ? -1 : 0;
}

static const StageKind selecting = {.event = "select", .run = keep_choice};

/* Makes the promoted candidate the current policy, with its figures. */
static void promote(Loop *l, const Selection *s, AdapterAt *winner)
{
    if (s->promoted < 0) return;
    const Candidate *x = &s->candidates[s->promoted];
    const RunCandidate name = run_candidate(s->cycle, cycle_method_names[s->promoted]);
    winner->outside = NULL;
    memcpy(winner->below, name.adapter, sizeof name.adapter);
    memcpy(l->metrics, x->metrics, sizeof l->metrics);
    memcpy(l->since_first, x->since_first, sizeof l->since_first);
    memcpy(l->examined, name.validation.folder, sizeof name.validation.folder);
}

int select_stage(Loop *l, Selection *s, Err *e)
{
    const CycleConfig *c = l->c;
    char file[3][RUN_NAME];
    Choice work = {.selection = s,
                   .rule = {c->max_added_refusal, c->confidence, c->guard_margin},
                   .winner = l->policy};
    cycle_select(s, &work.rule);
    promote(l, s, &work.winner);
    run_cycle_name(work.kept.below, s->cycle, ADAPTER_FOLDER);
    run_cycle_name(file[0], s->cycle, SELECTION_FILE);
    run_name(file[1], work.kept.below, LORA_WEIGHTS_FILE);
    run_name(file[2], work.kept.below, LORA_CONFIG_FILE);
    Stage stage = {.kind = &selecting,
                   .cycle = s->cycle,
                   .name = "",
                   .outputs = {file[0], has_adapter(&work) ? file[1] : NULL, file[2]},
                   .work = &work};
    if (stage_run(l, &stage, e)) return -1;
    if (has_adapter(&work)) l->policy = work.kept;
    return 0;
}
