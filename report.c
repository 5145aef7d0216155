/* report.c - writes the page: its head, the order of its sections, the ledger, how to repeat the
 * run. */
#include "report_parts.h"

#include <math.h>
#include <string.h>

/* Writes an object as lines "key = value"; with --redact without the system message and what
 * revisions add to it. */
static void put_members(Html *h, const char *title, const Json *object, int redact)
{
    html_putf(h, "<h3>%s</h3>\n<pre>", title);
    for (const Json *x = object->child; x; x = x->next) {
        html_text(h, x->key, x->key_len);
        html_put(h, " = ");
        int is_message = !strcmp(x->key, "system") || !strcmp(x->key, "instruction");
        if (redact && is_message && x->type != JSON_NULL)
            html_put(h, "(left out)");
        else
            html_json(h, x);
        html_put(h, "\n");
    }
    html_put(h, "</pre>\n");
}

/* ---- the head ------------------------------------------------------------------------------ */

static void put_change(Html *h, const Report *r, const char *key, const char *name)
{
    Estimate first = report_estimate(json_get(r->results, "first"), key),
             last = report_estimate(r->results, key);
    html_putf(h, "<strong>%s</strong> ", name);
    html_figure(h, first.value);
    html_put(h, " &rarr; ");
    html_figure(h, last.value);
    if (isfinite(last.value)) html_putf(h, " [%.3f, %.3f]", last.low, last.high);
}

/* Writes what a reader should know if nothing else is read: both failures, side by side. */
static void put_summary(Html *h, const Report *r)
{
    if (!r->results) {
        html_put(h,
                 "<p class=\"bad\">This run is not finished: the page shows what there is.</p>\n");
        return;
    }
    const Json *first = json_get(r->results, "first");
    if (!first || first->type != JSON_OBJECT || !report_has_test(r)) return;
    html_put(h, "<p>On the test prompts, first to last policy: ");
    put_change(h, r, "safety_score", "Safety Score");
    html_put(h, "; ");
    put_change(h, r, "erroneous_refusal", "erroneous refusal");
    html_put(h, "; ");
    put_change(h, r, "severe_failures", "severe failures");
    html_put(h, ".</p>\n");
}

static void put_head(Html *h, const Report *r)
{
    html_put(h, "<h1>Report of ");
    html_put(h, r->ledger.count ? "an alignment loop" : "a training run");
    html_put(h, "</h1>\n<p class=\"soft\">Model <code>");
    html_json(h, json_get(r->config, "model"));
    html_put(h, "</code>, data <code>");
    html_json(h, json_get(r->config, "data"));
    html_put(h, "</code></p>\n");
    if (!r->ledger.count) return;
    put_summary(h, r);
    html_put(h, "<nav aria-label=\"Sections\"><ul>");
    static const char *const links[][2] = {
        {"figures", "Safety and refusal"},
        {"choices", "Choices"},
        {"actions", "Actions"},
        {"judges", "Judges"},
        {"curves", "Training"},
        {"ledger", "Ledger"},
        {"repeat", "Repeat"},
        {"answers", "Answers"},
    };
    for (size_t i = 0; i < sizeof links / sizeof *links; i++)
        html_putf(h, "<li><a href=\"#%s\">%s</a></li>", links[i][0], links[i][1]);
    html_put(h, "</ul></nav>\n");
}

/* ---- training ------------------------------------------------------------------------------ */

static int put_training(Html *h, const Report *r, Err *e)
{
    char path[IO_PATH_MAX], name[RUN_NAME], title[128];
    html_put(h,
             "<h2 id=\"curves\">Training</h2>\n<p class=\"soft\">Lines are means; where a picture "
             "has fewer columns than there are steps, bands reach from the least to the largest "
             "value.</p>\n");
    for (size_t i = 0; i < r->ledger.count; i++) {
        const Json *x = r->ledger.entries[i], *method = json_get(x, "name");
        uint64_t cycle;
        if (!json_is(json_get(x, "event"), "train") || json_u64(json_get(x, "cycle"), &cycle) ||
            !json_is(json_get(json_get(x, "facts"), "status"), "trained"))
            continue;
        if (!report_is_method(method))
            return err_set(e, ERR_DATA, LEDGER_FILE ": entry %zu trains nothing known", i);
        run_name(name, run_candidate((size_t)cycle, method->text).folder, METRICS_FILE);
        snprintf(title, sizeof title, "Cycle %llu, %.15s", (unsigned long long)cycle, method->text);
        if (io_path(path, sizeof path, r->dir, name, e) || report_put_curves(h, path, title, e))
            return -1;
    }
    return 0;
}

/* ---- ledger and repetition ----------------------------------------------------------------- */

/* Writes who signed what: a person decides about deployment. */
static void put_signatures(Html *h, const Report *r)
{
    static const char *const cells[] = {"by", "reason", "method"};
    size_t n = 0;
    for (size_t i = 0; i < r->ledger.count; i++) {
        const Json *x = r->ledger.entries[i], *facts = json_get(x, "facts");
        if (!ledger_is_signature(x)) continue;
        if (!n++)
            html_put(h, "<div class=\"wide\"><table>\n<caption>Signatures: what was put to use, "
                        "and by whom</caption>\n<thead><tr><th scope=\"col\">Event</th>"
                        "<th scope=\"col\" class=\"n\">Cycle</th><th scope=\"col\">Time</th>"
                        "<th scope=\"col\">By</th><th scope=\"col\">Reason</th>"
                        "<th scope=\"col\">Policy</th></tr></thead>\n<tbody>\n");
        html_put(h, "<tr>");
        html_cell(h, json_get(x, "event"), 0);
        html_cell(h, json_get(x, "cycle"), 1);
        html_cell(h, json_get(x, "time"), 0);
        for (size_t k = 0; k < sizeof cells / sizeof *cells; k++)
            html_cell(h, json_get(facts, cells[k]), 0);
        html_put(h, "</tr>\n");
    }
    html_put(h, n ? "</tbody></table></div>\n"
                  : "<p>Nobody has approved a policy of this run for deployment.</p>\n");
}

static void put_ledger(Html *h, const Report *r)
{
    html_putf(h,
              "<h2 id=\"ledger\">Ledger</h2>\n<p>%zu entries, whose chain was checked when this "
              "page was made; hash of the last one:</p>\n<pre>%s",
              r->ledger.count, r->ledger.head);
    html_put(h, "</pre>\n");
    if (r->ledger.torn)
        html_put(h, "<p>The last line of the file is cut off, and left out.</p>\n");
    html_put(h, "<p class=\"soft\">Each entry carries the hash of the one before it, so a "
                "changed past shows (<code>align inspect RUN --verify</code>). Who can write the "
                "files can rewrite the whole chain: keep this hash elsewhere.</p>\n");
    put_signatures(h, r);
    html_put(h, "<details><summary>All entries</summary>\n<div class=\"wide\"><table>\n"
                "<caption>What happened, in order</caption>\n<thead><tr>"
                "<th scope=\"col\" class=\"n\">Entry</th><th scope=\"col\">Time</th>"
                "<th scope=\"col\" class=\"n\">Cycle</th><th scope=\"col\">Event</th>"
                "<th scope=\"col\">Of</th><th scope=\"col\">Hash</th></tr></thead>\n<tbody>\n");
    for (size_t i = 0; i < r->ledger.count; i++) {
        static const char *const cells[] = {"entry", "time", "cycle", "event", "name"};
        html_put(h, "<tr>");
        for (size_t k = 0; k < sizeof cells / sizeof *cells; k++)
            html_cell(h, json_get(r->ledger.entries[i], cells[k]), k == 0 || k == 2);
        html_hash(h, json_get(r->ledger.entries[i], "hash"));
        html_put(h, "</tr>\n");
    }
    html_put(h, "</tbody></table></div></details>\n");
}

/* Writes the facts of an entry as a list, "model_sha256 c8d9...". */
static void put_facts(Html *h, const Json *entry)
{
    const Json *facts = json_get(entry, "facts");
    if (!facts || !facts->child) return;
    html_put(h, "<div class=\"wide\"><table>\n<caption>Inputs, as recorded</caption>\n<tbody>\n");
    for (const Json *x = facts->child; x; x = x->next) {
        html_put(h, "<tr><th scope=\"row\">");
        html_text(h, x->key, x->key_len);
        html_put(h, "</th><td><code>");
        html_json(h, x);
        html_put(h, "</code></td></tr>\n");
    }
    html_put(h, "</tbody></table></div>\n");
}

static int put_repeat(Html *h, Report *r, Err *e)
{
    char path[IO_PATH_MAX];
    html_put(h, "<h2 id=\"repeat\">Repeat</h2>\n<p class=\"soft\">Same binary and kernel, same "
                "bits, whatever the number of threads; with <code>--kernel ref</code> on every "
                "machine.</p>\n");
    if (r->ledger.count) put_facts(h, ledger_find(&r->ledger, "begin", 0, ""));
    if (io_path(path, sizeof path, r->dir, "inputs.json", e)) return -1;
    if (!r->ledger.count && io_exists(path)) {
        const Json *inputs = report_json(r, "inputs.json", e);
        if (!inputs) return -1;
        put_members(h, "inputs.json", inputs, 0);
    }
    put_members(h, CONFIG_FILE, r->config, r->redact);
    return 0;
}

/* ---- the page ------------------------------------------------------------------------------ */

static int put_cycle_run(Html *h, Report *r, Err *e)
{
    report_put_figures(h, r);
    report_put_selection(h, r);
    if (report_put_confusion(h, r, e) || report_put_judges(h, r, e) || put_training(h, r, e))
        return -1;
    put_ledger(h, r);
    return put_repeat(h, r, e) || report_put_answers(h, r, e) ? -1 : 0;
}

static int put_training_run(Html *h, Report *r, Err *e)
{
    char path[IO_PATH_MAX];
    if (io_path(path, sizeof path, r->dir, METRICS_FILE, e) ||
        report_put_curves(h, path, "Curves", e))
        return -1;
    return put_repeat(h, r, e);
}

static int write_page(const char *run, const char *path, int redact, Err *e)
{
    Report r;
    Html h = {.e = e};
    Text style = {0};
    int status = report_open(&r, run, e);
    r.redact = redact;
    if (!status) status = text_addf(&style, e, "%s%s", chart_style, answers_style);
    if (!status) {
        html_begin(&h, r.ledger.count ? "Alignment loop" : "Training run", style.data, 0);
        put_head(&h, &r);
        status = r.ledger.count ? put_cycle_run(&h, &r, e) : put_training_run(&h, &r, e);
        html_end(&h);
    }
    if (!status)
        status = html_write(&h, path, e);
    else
        text_free(&h.text);
    text_free(&style);
    report_close(&r);
    return status ? -1 : 0;
}

/* The page may lie in the run, and no link is followed there. */
int report_write(const char *run, const char *path, int redact, Err *e)
{
    IoLock hold;
    if (io_hold(&hold, run, e)) return -1;
    int status = io_check_output(path, e) || write_page(run, path, redact, e);
    io_unlock(&hold);
    return status ? -1 : 0;
}
