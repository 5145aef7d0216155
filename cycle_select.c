/* cycle_select.c - which candidate becomes the policy, and the files that say so. */
#include "cycle_parts.h"

#include <string.h>

const char *const candidate_status_names[] = {"off", "trained", "skipped", "diverged"};

/* ---- select -------------------------------------------------------------------------------- */

/* Whether one candidate may take the parent's place, and why. */
static void weigh(const Estimate *parent, Candidate *x, double max_added_refusal)
{
    const Estimate *m = x->metrics;
    double safety = m[EVALUATE_SAFETY_SCORE].value - parent[EVALUATE_SAFETY_SCORE].value;
    double refusal = m[EVALUATE_ERRONEOUS_REFUSAL].value - parent[EVALUATE_ERRONEOUS_REFUSAL].value;
    const double rounding = 1e-12; /* shares of the same rows; below any real difference */
    const char *verdict = "may be promoted";
    x->eligible = 0;
    if (!(safety >= -rounding))
        verdict = "not promoted: the Safety Score falls";
    else if (!(refusal <= max_added_refusal + rounding))
        verdict = "not promoted: erroneous refusal rises too far";
    else if (!(safety > rounding || refusal < -rounding))
        verdict = "not promoted: neither figure is better";
    else
        x->eligible = 1;
    snprintf(x->why, sizeof x->why, "%s (Safety Score %+.4f, erroneous refusal %+.4f)", verdict,
             safety, refusal);
}

/* Is candidate a better than candidate b? Ties go to the one that stands first. */
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

void cycle_select(Selection *s, double max_added_refusal)
{
    s->promoted = -1;
    int trained = 0;
    for (int m = 0; m < CYCLE_METHODS; m++) {
        Candidate *x = &s->candidates[m];
        x->eligible = 0;
        if (x->status != CANDIDATE_TRAINED) continue;
        trained++;
        weigh(s->parent, x, max_added_refusal);
        if (x->eligible && (s->promoted < 0 || better(x, &s->candidates[s->promoted])))
            s->promoted = m;
    }
    if (s->promoted >= 0)
        snprintf(s->why, sizeof s->why,
                 "%s is promoted: of the candidates that keep the rule it "
                 "has the higher Safety Score, then the lower erroneous "
                 "refusal",
                 cycle_method_names[s->promoted]);
    else
        snprintf(s->why, sizeof s->why, "the parent stays: %s",
                 trained ? "no candidate keeps the rule" : "there is no trained candidate");
}

static int put_metrics(Text *t, const Estimate *m, Err *e)
{
    if (text_add(t, "{", 1, e)) return -1;
    for (int i = 0; i < EVALUATE_COUNT; i++)
        if (text_addf(t, e, "%s\"%s\":{\"value\":", i ? "," : "", evaluate_names[i]) ||
            json_put_f64(t, m[i].value, e) || text_addf(t, e, ",\"low\":") ||
            json_put_f64(t, m[i].low, e) || text_addf(t, e, ",\"high\":") ||
            json_put_f64(t, m[i].high, e) || text_add(t, "}", 1, e))
            return -1;
    return text_add(t, "}", 1, e);
}

static int put_candidate(Text *t, const Candidate *x, int method, Err *e)
{
    if (text_addf(t, e, "\n    {\"method\":\"%s\",\"status\":\"%s\",\"why\":",
                  cycle_method_names[method], candidate_status_names[x->status]) ||
        json_put_string(t, x->why, strlen(x->why), e))
        return -1;
    if (x->status == CANDIDATE_TRAINED &&
        (text_addf(t, e, ",\"eligible\":%s,\"metrics\":", x->eligible ? "true" : "false") ||
         put_metrics(t, x->metrics, e)))
        return -1;
    return text_add(t, "}", 1, e);
}

/* selection.json */
static int put_selection(Text *t, const Selection *s, double max_added_refusal, Err *e)
{
    const char *promoted = s->promoted < 0 ? NULL : cycle_method_names[s->promoted];
    if (text_addf(t, e, "{\n  \"cycle\":%zu,\n  \"promoted\":%s%s%s,\n  \"why\":", s->cycle,
                  promoted ? "\"" : "", promoted ? promoted : "null", promoted ? "\"" : "") ||
        json_put_string(t, s->why, strlen(s->why), e) ||
        text_addf(t, e,
                  ",\n  \"rule\":\"promoted is the candidate with the highest Safety Score among "
                  "those whose Safety Score is not below the parent's, whose erroneous refusal "
                  "exceeds the parent's by at most max_added_refusal, and who are better in one "
                  "of the two\",\n  \"max_added_refusal\":") ||
        json_put_f64(t, max_added_refusal, e) || text_addf(t, e, ",\n  \"parent\":") ||
        put_metrics(t, s->parent, e) || text_addf(t, e, ",\n  \"candidates\":["))
        return -1;
    int any = 0;
    for (int m = 0; m < CYCLE_METHODS; m++) {
        if (s->candidates[m].status == CANDIDATE_OFF) continue;
        if ((any++ && text_add(t, ",", 1, e)) || put_candidate(t, &s->candidates[m], m, e))
            return -1;
    }
    return text_addf(t, e, "\n  ]\n}\n");
}

int put_results(Text *t, const Loop *l, Err *e)
{
    const CycleResult *r = l->result;
    const Estimate *first = r->tested ? r->first : r->points[0].metrics;
    const Estimate *last = r->tested ? r->last : l->metrics;
    Split split = r->tested ? SPLIT_TEST : SPLIT_VALIDATION;
    Text figures = {0};
    int status = put_metrics(&figures, last, e) ||
                 text_addf(t, e, "{\n  \"rows\":%zu,\n  \"split\":\"%s\",\n  ",
                           l->prompts.split_rows[split], r->tested ? "test" : "validation") ||
                 /* the figures of the last policy stand at the top, as in evaluate's file */
                 text_add(t, figures.data + 1, figures.len - 2, e) ||
                 text_addf(t, e, ",\n  \"first\":") || put_metrics(t, first, e) ||
                 text_addf(t, e, ",\n  \"cycles\":[");
    text_free(&figures);
    for (size_t i = 0; !status && i < r->n_points; i++) {
        const CyclePoint *p = &r->points[i];
        const char *name = p->promoted < 0 ? NULL : cycle_method_names[p->promoted];
        status =
            text_addf(t, e,
                      "%s\n    {\"cycle\":%zu,\"promoted\":%s%s%s,\"validation\":", i ? "," : "",
                      p->cycle, name ? "\"" : "", name ? name : "null", name ? "\"" : "") ||
            put_metrics(t, p->metrics, e) || text_add(t, "}", 1, e);
    }
    return status || text_addf(t, e, "\n  ]\n}\n") ? -1 : 0;
}

/* ---- the stage ---------------------------------------------------------------------------- */

/* Copies the two files of an adapter into RUN/to. */
static int copy_adapter(const Loop *l, const AdapterAt *from, const char *to, Err *e)
{
    static const char *const files[] = {"adapter_model.safetensors", "adapter_config.json"};
    char folder[IO_PATH_MAX], path[IO_PATH_MAX], *bytes;
    size_t len;
    if (loop_path(l, path, to, e) || io_make_directory(path, 1, e)) return -1;
    for (size_t i = 0; i < 2; i++) {
        if (loop_adapter(l, from, folder, e) || io_path(path, sizeof path, folder, files[i], e) ||
            io_read_file(path, 0, &bytes, &len, e))
            return -1;
        int status = loop_path(l, folder, to, e) ||
                     io_path(path, sizeof path, folder, files[i], e) ||
                     io_write_file(path, bytes, len, e);
        mem_free(bytes);
        if (status) return -1;
    }
    return 0;
}

/* Writes selection.json, copies the adapter that is the policy from here on, records both. */
static int record_choice(Loop *l, const char *folder, const Selection *s, const AdapterAt *winner,
                         const AdapterAt *kept, Err *e)
{
    char file[3][RUN_NAME], path[IO_PATH_MAX];
    int has_adapter = *winner->below || winner->outside;
    loop_name(file[0], folder, "selection.json");
    loop_name(file[1], kept->below, "adapter_model.safetensors");
    loop_name(file[2], kept->below, "adapter_config.json");
    const char *outputs[] = {file[0], has_adapter ? file[1] : NULL, file[2], NULL};
    Text text = {0};
    int status =
        loop_path(l, path, file[0], e) || put_selection(&text, s, l->c->max_added_refusal, e) ||
        io_write_file(path, text.data, text.len, e) ||
        (has_adapter && copy_adapter(l, winner, kept->below, e)) ||
        ledger_append(
            &l->ledger,
            &(LedgerEntry){.event = "select", .name = "", .cycle = s->cycle, .outputs = outputs},
            e);
    text_free(&text);
    return status ? -1 : 0;
}

int select_stage(Loop *l, const char *folder, Selection *s, Err *e)
{
    AdapterAt winner = l->policy, kept = {{0}, NULL};
    char run[RUN_NAME];
    cycle_select(s, l->c->max_added_refusal);
    loop_name(kept.below, folder, "adapter");
    if (s->promoted >= 0) {
        loop_name(run, folder, cycle_method_names[s->promoted]);
        winner.outside = NULL;
        loop_name(winner.below, run, "adapter");
        memcpy(l->metrics, s->candidates[s->promoted].metrics, sizeof l->metrics);
    }
    int done = loop_done(l, "select", s->cycle, "", NULL, e);
    if (done < 0 || (!done && record_choice(l, folder, s, &winner, &kept, e))) return -1;
    if (*winner.below || winner.outside) l->policy = kept;
    return 0;
}
