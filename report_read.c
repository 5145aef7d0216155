/* report_read.c - a run as the report needs it: ledger, configuration, results, metrics. */
#include "report_parts.h"
#include "train.h"

#include <math.h>
#include <string.h>

#define MOST_JSON ((size_t)64 << 20) /* of a JSON file of a run */

const ReportTest report_tests[REPORT_TESTS] = {
    {"test of the first policy", "test-first", "First policy, test prompts"},
    {"test of the last policy", "test-last", "Last policy, test prompts"},
};

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

const Json *report_entry(const Report *r, const char *event, uint64_t cycle, const char *name)
{
    uint64_t n;
    for (size_t i = 0; i < r->n_entries; i++) {
        const Json *x = r->entries[i];
        if (json_is(json_get(x, "event"), event) && json_is(json_get(x, "name"), name) &&
            !json_u64(json_get(x, "cycle"), &n) && n == cycle)
            return x;
    }
    return NULL;
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

static int read_ledger(Report *r, Err *e)
{
    char path[IO_PATH_MAX];
    JsonLines lines;
    Json *row;
    size_t cap = 0;
    int more;
    if (io_path(path, sizeof path, r->dir, "ledger.jsonl", e)) return -1;
    if (!io_exists(path)) return 0;
    if (jsonl_open(&lines, path, e)) return -1;
    while ((more = jsonl_next(&lines, &r->pool, &row, e)) > 0) {
        if (r->n_entries == cap) {
            cap = cap ? 2 * cap : 64;
            const Json **grown = mem_realloc(r->entries, cap * sizeof *grown, e);
            more = grown ? more : -1;
            if (!grown) break;
            r->entries = grown;
        }
        r->entries[r->n_entries++] = row;
    }
    if (!more && !r->n_entries) more = err_set(e, ERR_DATA, "%s: has no entry", path);
    jsonl_close(&lines);
    return more;
}

int report_is_method(const Json *name)
{
    for (int m = TRAIN_DPO; m <= TRAIN_SFT; m++)
        if (json_is(name, train_method_names[m])) return 1;
    return 0;
}

/* What the cycle after `parent` chose: a candidate whose figures become the policy's, or none. */
static int read_choice(Report *r, const ReportCycle *parent, ReportCycle *x, Err *e)
{
    char name[64];
    *x = *parent;
    x->cycle++;
    x->promoted = NULL;
    snprintf(name, sizeof name, "cycle-%zu/selection.json", x->cycle);
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
        snprintf(x->examined, sizeof x->examined, "cycle-%zu/validate-%.15s", x->cycle,
                 promoted->text);
        snprintf(x->stage, sizeof x->stage, "validation of %.15s", promoted->text);
        return 0;
    }
    return err_set(e, ERR_DATA, "%s: \"promoted\" is none of its candidates", name);
}

/* Cycle 0 and every cycle that chose. */
static int read_cycles(Report *r, Err *e)
{
    r->cycles = mem_calloc(r->n_entries + 1, sizeof *r->cycles, e);
    if (!r->cycles) return -1;
    if (!report_entry(r, "evaluate", 0, "validation")) return 0;
    r->cycles[0] = (ReportCycle){.metrics = report_json(r, "cycle-0/results.json", e),
                                 .examined = "cycle-0",
                                 .stage = "validation"};
    if (!r->cycles[0].metrics) return -1;
    for (r->n_cycles = 1; report_entry(r, "select", r->n_cycles, ""); r->n_cycles++)
        if (read_choice(r, &r->cycles[r->n_cycles - 1], &r->cycles[r->n_cycles], e)) return -1;
    return 0;
}

int report_open(Report *r, const char *dir, Err *e)
{
    char path[IO_PATH_MAX];
    *r = (Report){.dir = dir};
    if (read_ledger(r, e)) return -1;
    if (!r->n_entries) {
        if (io_path(path, sizeof path, dir, "metrics.jsonl", e)) return -1;
        if (!io_exists(path))
            return err_set(e, ERR_NO_INPUT,
                           "%s: holds neither ledger.jsonl nor metrics.jsonl: no run to report on",
                           dir);
    }
    r->config = report_json(r, "config.json", e);
    if (!r->config) return -1;
    if (report_entry(r, "finish", 0, "") && !(r->results = report_json(r, "results.json", e)))
        return -1;
    return r->n_entries ? read_cycles(r, e) : 0;
}

void report_close(Report *r)
{
    mem_free(r->entries);
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
    if (!m->values || jsonl_open(&lines, path, e)) return -1;
    do {
        Pool pool = {0};
        more = jsonl_next(&lines, &pool, &row, e);
        if (more > 0 && metrics_grow(m, e)) more = -1;
        for (size_t k = 0; more > 0 && k < n_keys; k++)
            m->values[k][m->rows] = report_number(row, keys[k]);
        m->rows += more > 0;
        pool_free(&pool);
    } while (more > 0);
    jsonl_close(&lines);
    return more;
}

void report_metrics_free(ReportMetrics *m)
{
    for (size_t k = 0; m->values && k < m->n_keys; k++) mem_free(m->values[k]);
    mem_free(m->values);
    *m = (ReportMetrics){0};
}
