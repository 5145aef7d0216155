/* train_metrics.c - computes means over micro-batches, and writes the lines of metrics.jsonl. */
#include "train_parts.h"

#include <math.h>
#include <string.h>

const char *const metric_names[METRIC_COUNT] = {"loss",
                                                "kl",
                                                "rewards/chosen",
                                                "rewards/rejected",
                                                "rewards/accuracies",
                                                "rewards/margins",
                                                "logps/chosen",
                                                "logps/rejected"};

void metrics_add(Metrics *m, Metric key, double value)
{
    m->sum[key] += value;
    m->count[key]++;
}

double metrics_mean(const Metrics *m, Metric key)
{
    return m->count[key] ? m->sum[key] / (double)m->count[key] : NAN;
}

/* ---- a line -------------------------------------------------------------------------------- */

static void put_metrics(JsonWriter *w, const char *prefix, const Metrics *m)
{
    char name[64];
    for (int key = 0; key < METRIC_COUNT; key++) {
        if (key == METRIC_LOSS || !m->count[key]) continue;
        snprintf(name, sizeof name, "%s%s", prefix, metric_names[key]);
        json_number(w, name, metrics_mean(m, (Metric)key));
    }
}

/* Returns the epochs done, as a share of the micro-batches of an epoch, as transformers counts. */
static double epochs_done(const Run *r)
{
    size_t epoch = (r->state.step - 1) / r->epoch_steps;
    size_t window = (r->state.step - 1) % r->epoch_steps + 1;
    size_t batches = window * r->c.accumulate;
    if (batches > r->epoch_batches) batches = r->epoch_batches;
    return (double)epoch + (double)batches / (double)r->epoch_batches;
}

/* Writes the keys in TRL's order; times come last. */
static int put_line(Run *r, double lr, double norm, const Metrics *eval, double eval_loss, Err *e)
{
    JsonWriter w = {.text = &r->line, .e = e};
    const Metrics *m = &r->state.metrics;
    double seconds = time_now() - r->step_began;
    r->line.len = 0;
    json_open(&w, NULL, "{");
    json_count(&w, "step", r->state.step);
    json_number(&w, "loss", metrics_mean(m, METRIC_LOSS));
    json_number(&w, "grad_norm", norm);
    json_number(&w, "learning_rate", lr);
    put_metrics(&w, "", m);
    json_number(&w, "epoch", epochs_done(r));
    json_count(&w, "num_tokens", r->state.num_tokens);
    if (r->state.skipped) json_count(&w, "skipped", r->state.skipped);
    if (eval) {
        json_number(&w, "eval_loss", eval_loss);
        put_metrics(&w, "eval_", eval);
    }
    json_number(&w, "seconds", seconds);
    json_number(&w, "tokens_per_second", seconds > 0 ? (double)r->step_tokens / seconds : 0);
    json_close(&w, "}");
    return json_written(&w);
}

int metrics_write(Run *r, double lr, double norm, const Metrics *eval, double eval_loss, int synced,
                  Err *e)
{
    char path[IO_PATH_MAX];
    if (put_line(r, lr, norm, eval, eval_loss, e) ||
        io_path(path, sizeof path, r->c.run, "metrics.jsonl", e) ||
        io_append_line(path, r->line.data, r->line.len, synced, e))
        return -1;
    if (r->events->metrics) r->events->metrics(r->events->ctx, r->line.data, r->line.len);
    r->state.metrics = (Metrics){0};
    return 0;
}

/* ---- resuming ------------------------------------------------------------------------------ */

/* Reads the step of a line; 0 if the line is incomplete or not an object. -1 only if memory is
 * short. */
static int line_step(const char *line, size_t len, uint64_t *step, Err *e)
{
    Pool pool = {0};
    Err wrong = {0};
    const Json *row = json_parse(&pool, line, len, "metrics.jsonl", 0, &wrong);
    if (!row || !json_get(row, "step") || json_u64(json_get(row, "step"), step)) *step = 0;
    pool_free(&pool);
    if (wrong.code != ERR_MEMORY) return 0;
    *e = wrong;
    return -1;
}

int metrics_trim(const char *path, size_t step, Err *e)
{
    char *data;
    size_t len, kept = 0, at = 0;
    uint64_t last = 0, here;
    int status = 0;
    if (!io_exists(path)) return 0;
    if (io_read_file(path, 0, &data, &len, e)) return -1;
    while (at < len) {
        const char *end = memchr(data + at, '\n', len - at);
        if (!end) break; /* cut off by a crash */
        size_t next = (size_t)(end - data) + 1;
        status = line_step(data + at, next - at - 1, &here, e);
        if (status || here <= last || here > step) break;
        last = here;
        kept = at = next;
    }
    if (!status && kept < len) status = io_write_file(path, data, kept, e);
    mem_free(data);
    return status;
}

/* ---- numbers that are not finite ----------------------------------------------------------- */

static void put_numbers(JsonWriter *w, const char *key, const double *x, size_t n)
{
    json_open(w, key, "[");
    for (size_t i = 0; i < n; i++) json_number(w, NULL, x[i]);
    json_close(w, "]");
}

static int put_dump(Text *out, const Run *r, const char *what, const uint32_t *rows, size_t n,
                    double lr, Err *e)
{
    JsonWriter w = {.text = out, .e = e};
    json_open(&w, NULL, "{");
    json_count(&w, "step", r->state.step + 1);
    json_text(&w, "found", what);
    json_number(&w, "learning_rate", lr);
    json_open(&w, "rows", "[");
    for (size_t i = 0; i < n; i++) {
        const Item *item = &r->items[i];
        json_line(&w, 0);
        json_open(&w, NULL, "{");
        json_count(&w, "line", r->train.rows.rows[rows[i]].line);
        put_numbers(&w, "policy", item->policy, item->n);
        put_numbers(&w, "reference", item->reference, item->n);
        json_number(&w, "loss", item->loss);
        json_close(&w, "}");
    }
    json_close(&w, "]}\n");
    return json_written(&w);
}

int metrics_dump(Run *r, const char *what, const uint32_t *rows, size_t n, double lr, Err *e)
{
    char dir[IO_PATH_MAX], path[IO_PATH_MAX], name[64];
    Text out = {0};
    snprintf(name, sizeof name, "step-%zu.json", r->state.step + 1);
    int failed = put_dump(&out, r, what, rows, n, lr, e) ||
                 io_path(dir, sizeof dir, r->c.run, "diverged", e) ||
                 io_make_directory(dir, 0, e) || io_path(path, sizeof path, dir, name, e) ||
                 io_write_file(path, out.data, out.len, e);
    text_free(&out);
    return failed ? -1 : 0;
}
