/* report_read.c - reads a run for the report: ledger, configuration, results, metrics. */
#include "report_parts.h"
#include "train.h"

#include <math.h>
#include <string.h>

#define MOST_JSON ((size_t)64 << 20) /* of a JSON file of a run */

const char *const report_captions[RUN_TESTS] = {"First policy, test prompts",
                                                "Last policy, test prompts"};

const Json *report_json(Report *r, const char *name, Err *e)
{
    char path[IO_PATH_MAX], *bytes;
    size_t len;
    if (io_path(path, sizeof path, r->dir, name, e) ||
        io_read_file(path, MOST_JSON, &bytes, &len, e))
        return NULL;
    const Json *j = json_parse(&r->pool, bytes, len, path, 0, e);
    mem_free(bytes);
    if (j && j->type != JSON_OBJECT) {
        err_set(e, ERR_DATA, "%s: expected a JSON object", path);
        return NULL;
    }
    return j;
}

int report_has_test(const Report *r)
{
    return json_is(json_get(r->results, "split"), "test");
}

double report_number(const Json *object, const char *key)
{
    double x;
    return json_f64(json_get(object, key), &x) ? NAN : x;
}

Estimate report_estimate(const Json *metrics, const char *name)
{
    const Json *x = json_get(metrics, name);
    Estimate out = {report_number(x, "value"), report_number(x, "low"), report_number(x, "high")};
    if (!isfinite(out.low)) out.low = out.value;
    if (!isfinite(out.high)) out.high = out.value;
    return out;
}

/* The chain, checked: figures of a run whose past was changed would be nobody's. */
static int read_ledger(Report *r, Err *e)
{
    char path[IO_PATH_MAX];
    if (ledger_read(&r->ledger, r->dir, e) || io_path(path, sizeof path, r->dir, LEDGER_FILE, e))
        return -1;
    if (r->ledger.count || !io_exists(path)) return 0;
    return err_set(e, ERR_DATA, "%s: has no entry", path);
}

int report_is_method(const Json *name)
{
    for (int m = TRAIN_DPO; m <= TRAIN_SFT; m++)
        if (json_is(name, train_method_names[m])) return 1;
    return 0;
}

/* Reads what the cycle after `parent` chose: a candidate, whose figures become the policy's, or
 * none. */
static int read_choice(Report *r, const ReportCycle *parent, ReportCycle *x, Err *e)
{
    char name[RUN_NAME];
    *x = *parent;
    x->cycle++;
    x->promoted = NULL;
    run_cycle_name(name, x->cycle, SELECTION_FILE);
    x->selection = report_json(r, name, e);
    if (!x->selection) return -1;
    const Json *promoted = json_get(x->selection, "promoted"),
               *list = json_get(x->selection, "candidates");
    if (!promoted || promoted->type == JSON_NULL) return 0;
    for (const Json *c = list ? list->child : NULL; c && report_is_method(promoted); c = c->next) {
        const Json *metrics = json_get(c, "metrics");
        if (!json_is(json_get(c, "method"), promoted->text) || !metrics) continue;
        x->promoted = promoted;
        x->metrics = metrics;
        x->place = run_candidate(x->cycle, promoted->text).validation;
        return 0;
    }
    return err_set(e, ERR_DATA, "%s: \"promoted\" is none of its candidates", name);
}

/* Reads cycle 0 and every cycle that made a choice. */
static int read_cycles(Report *r, Err *e)
{
    char name[RUN_NAME];
    run_name(name, run_first.folder, RESULTS_FILE);
    r->cycles = mem_calloc(r->ledger.count + 1, sizeof *r->cycles, e);
    if (!r->cycles) return -1;
    if (!ledger_find(&r->ledger, "evaluate", 0, run_first.stage)) return 0;
    r->cycles[0] = (ReportCycle){.metrics = report_json(r, name, e), .place = run_first};
    if (!r->cycles[0].metrics) return -1;
    for (r->n_cycles = 1; ledger_find(&r->ledger, "select", r->n_cycles, ""); r->n_cycles++)
        if (read_choice(r, &r->cycles[r->n_cycles - 1], &r->cycles[r->n_cycles], e)) return -1;
    return 0;
}

int report_open(Report *r, const char *dir, Err *e)
{
    char path[IO_PATH_MAX];
    *r = (Report){.dir = dir};
    if (read_ledger(r, e)) return -1;
    if (!r->ledger.count) {
        if (io_path(path, sizeof path, dir, METRICS_FILE, e)) return -1;
        if (!io_exists(path))
            return err_set(e, ERR_NO_INPUT,
                           "%s: holds neither " LEDGER_FILE " nor " METRICS_FILE
                           ": no run to report on",
                           dir);
    }
    r->config = report_json(r, CONFIG_FILE, e);
    if (!r->config) return -1;
    if (ledger_find(&r->ledger, "finish", 0, "") && !(r->results = report_json(r, RESULTS_FILE, e)))
        return -1;
    return r->ledger.count ? read_cycles(r, e) : 0;
}

void report_close(Report *r)
{
    ledger_close(&r->ledger);
    mem_free(r->cycles);
    pool_free(&r->pool);
    *r = (Report){0};
}

/* ---- metrics.jsonl ------------------------------------------------------------------------- */

static int metrics_grow(ReportMetrics *m, Err *e)
{
    if (m->rows < m->cap) return 0;
    size_t cap = m->cap ? 2 * m->cap : 256;
    for (size_t k = 0; k < m->n_keys; k++) {
        double *grown = mem_realloc(m->values[k], cap * sizeof *grown, e);
        if (!grown) return -1;
        m->values[k] = grown;
    }
    m->cap = cap;
    return 0;
}

int report_metrics(ReportMetrics *m, const char *path, const char *const *keys, size_t n_keys,
                   Err *e)
{
    JsonLines lines;
    Json *row;
    int more;
    *m = (ReportMetrics){.keys = keys, .n_keys = n_keys};
    m->values = mem_calloc(n_keys, sizeof *m->values, e);
    static const Log silent;
    if (!m->values || jsonl_open(&lines, path, e)) return -1;
    lines.torn = &silent; /* the page says it */
    do {
        Pool pool = {0};
        more = jsonl_next(&lines, &pool, &row, e);
        if (more > 0 && metrics_grow(m, e)) more = -1;
        for (size_t k = 0; more > 0 && k < n_keys; k++)
            m->values[k][m->rows] = report_number(row, keys[k]);
        m->rows += more > 0;
        pool_free(&pool);
    } while (more > 0);
    m->torn = lines.left_out;
    jsonl_close(&lines);
    return more;
}

void report_metrics_free(ReportMetrics *m)
{
    for (size_t k = 0; m->values && k < m->n_keys; k++) mem_free(m->values[k]);
    mem_free(m->values);
    *m = (ReportMetrics){0};
}
