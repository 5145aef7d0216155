/* train_metrics.c - means over micro-batches, and the lines of metrics.jsonl. */
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

/* , "prefix + key": value */
static int put_value(Text *out, const char *prefix, const char *key, double value, Err *e)
{
    return text_addf(out, e, ",\"%s%s\":", prefix, key) || json_put_f64(out, value, e) ? -1 : 0;
}

static int put_metrics(Text *out, const char *prefix, const Metrics *m, Err *e)
{
    for (int key = 0; key < METRIC_COUNT; key++)
        if (key != METRIC_LOSS && m->count[key] &&
            put_value(out, prefix, metric_names[key], metrics_mean(m, (Metric)key), e))
            return -1;
    return 0;
}

/* Epochs done, in parts of an epoch's micro-batches as transformers counts them. */
static double epochs_done(const Run *r)
{
    size_t epoch = (r->state.step - 1) / r->epoch_steps;
    size_t window = (r->state.step - 1) % r->epoch_steps + 1;
    size_t batches = window * r->c.accumulate;
    if (batches > r->epoch_batches) batches = r->epoch_batches;
    return (double)epoch + (double)batches / (double)r->epoch_batches;
}

/* The keys of interface.md, in TRL's order; what a clock says comes last. */
static int put_line(Run *r, double lr, double norm, const Metrics *eval, double eval_loss, Err *e)
{
    Text *out = &r->line;
    const Metrics *m = &r->state.metrics;
    double seconds = time_now() - r->step_began;
    out->len = 0;
    if (text_addf(out, e, "{\"step\":%zu", r->state.step) ||
        put_value(out, "", "loss", metrics_mean(m, METRIC_LOSS), e) ||
        put_value(out, "", "grad_norm", norm, e) || put_value(out, "", "learning_rate", lr, e) ||
        put_metrics(out, "", m, e) || put_value(out, "", "epoch", epochs_done(r), e) ||
        text_addf(out, e, ",\"num_tokens\":%llu", (unsigned long long)r->state.num_tokens))
        return -1;
    if (r->state.skipped && text_addf(out, e, ",\"skipped\":%zu", r->state.skipped)) return -1;
    if (eval &&
        (put_value(out, "eval_", "loss", eval_loss, e) || put_metrics(out, "eval_", eval, e)))
        return -1;
    double rate = seconds > 0 ? (double)r->step_tokens / seconds : 0;
    return put_value(out, "", "seconds", seconds, e) ||
                   put_value(out, "", "tokens_per_second", rate, e) || text_add(out, "}", 1, e)
               ? -1
               : 0;
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

/* The step of a line; 0 where the line is torn or no object. */
static uint64_t line_step(const char *line, size_t len)
{
    Pool pool = {0};
    Err ignored;
    uint64_t step = 0;
    const Json *row = json_parse(&pool, line, len, "metrics.jsonl", 0, &ignored);
    if (!row || !json_get(row, "step") || json_u64(json_get(row, "step"), &step)) step = 0;
    pool_free(&pool);
    return step;
}

int metrics_trim(const char *path, size_t step, Err *e)
{
    char *data;
    size_t len, kept = 0, at = 0;
    uint64_t last = 0;
    if (!io_exists(path)) return 0;
    if (io_read_file(path, 0, &data, &len, e)) return -1;
    while (at < len) {
        const char *end = memchr(data + at, '\n', len - at);
        if (!end) break; /* torn by a crash */
        size_t next = (size_t)(end - data) + 1;
        uint64_t here = line_step(data + at, next - at - 1);
        if (here <= last || here > step) break;
        last = here;
        kept = at = next;
    }
    int status = kept == len ? 0 : io_write_file(path, data, kept, e);
    mem_free(data);
    return status;
}

/* ---- numbers that are not finite ----------------------------------------------------------- */

static int put_pair(Text *out, const char *key, const double *x, size_t n, Err *e)
{
    if (text_addf(out, e, ",\"%s\":[", key)) return -1;
    for (size_t i = 0; i < n; i++)
        if ((i && text_add(out, ",", 1, e)) || json_put_f64(out, x[i], e)) return -1;
    return text_add(out, "]", 1, e);
}

int metrics_dump(Run *r, const char *what, const uint32_t *rows, size_t n, double lr, Err *e)
{
    char dir[IO_PATH_MAX], path[IO_PATH_MAX], name[64];
    Text out = {0};
    int failed = text_addf(&out, e, "{\"step\":%zu,\"found\":", r->state.step + 1) ||
                 json_put_string(&out, what, strlen(what), e) ||
                 put_value(&out, "", "learning_rate", lr, e) || text_addf(&out, e, ",\"rows\":[");
    for (size_t i = 0; i < n && !failed; i++) {
        const Item *item = &r->items[i];
        failed = text_addf(&out, e, "%s\n{\"line\":%zu", i ? "," : "",
                           r->train.rows.rows[rows[i]].line) ||
                 put_pair(&out, "policy", item->policy, item->n, e) ||
                 put_pair(&out, "reference", item->reference, item->n, e) ||
                 put_value(&out, "", "loss", item->loss, e) || text_add(&out, "}", 1, e);
    }
    snprintf(name, sizeof name, "step-%zu.json", r->state.step + 1);
    failed = failed || text_add(&out, "]}\n", 3, e) ||
             io_path(dir, sizeof dir, r->c.run, "diverged", e) || io_make_directory(dir, 0, e) ||
             io_path(path, sizeof path, dir, name, e) || io_write_file(path, out.data, out.len, e);
    text_free(&out);
    return failed ? -1 : 0;
}
