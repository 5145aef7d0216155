/* report_train.c - draws the curves of one training run. */
#include "report_parts.h"

#include <math.h>

enum {
    KEY_STEP,
    KEY_LOSS,
    KEY_EVAL_LOSS,
    KEY_MARGIN,
    KEY_CHOSEN,
    KEY_REJECTED,
    KEY_LOGP_CHOSEN,
    KEY_LOGP_REJECTED,
    KEY_ACCURACY,
    KEY_KL,
    KEY_NORM,
    KEY_LR,
    KEY_SKIPPED,
    KEY_COUNT
};
static const char *const metric_keys[KEY_COUNT] = {"step",
                                                   "loss",
                                                   "eval_loss",
                                                   "rewards/margins",
                                                   "rewards/chosen",
                                                   "rewards/rejected",
                                                   "logps/chosen",
                                                   "logps/rejected",
                                                   "rewards/accuracies",
                                                   "kl",
                                                   "grad_norm",
                                                   "learning_rate",
                                                   "skipped"};

/* A picture: one or two columns over the steps. */
typedef struct {
    const char *title;
    int keys[2]; /* the second may be -1 */
    const char *names[2];
} Curve;
static const Curve curves[] = {
    {"Loss", {KEY_LOSS, KEY_EVAL_LOSS}, {"training", "evaluation"}},
    {"Reward margin", {KEY_MARGIN, -1}, {"margin", NULL}},
    {"Rewards", {KEY_CHOSEN, KEY_REJECTED}, {"chosen", "rejected"}},
    {"Log-probability (nats)", {KEY_LOGP_CHOSEN, KEY_LOGP_REJECTED}, {"chosen", "rejected"}},
    {"Reward accuracy", {KEY_ACCURACY, -1}, {"accuracy", NULL}},
    {"KL estimate (nats)", {KEY_KL, -1}, {"kl", NULL}},
    {"Gradient norm", {KEY_NORM, -1}, {"norm", NULL}},
    {"Learning rate", {KEY_LR, -1}, {"rate", NULL}},
};

/* Counts the numbers of a column. */
static size_t filled(const ReportMetrics *m, int key)
{
    size_t n = 0;
    for (size_t i = 0; key >= 0 && i < m->rows; i++) n += isfinite(m->values[key][i]) != 0;
    return n;
}

static void put_curve(Html *h, const ReportMetrics *m, const Curve *v)
{
    Chart c = {.title = v->title,
               .describe = "Training metric over the optimiser steps.",
               .x_name = "step",
               .y_name = v->title,
               .x0 = 1,
               .y0 = 1,
               .width = 340,
               .height = 220,
               .whole_x = 1};
    int second = filled(m, v->keys[1]) > 0;
    for (int s = 0; s <= second; s++)
        for (size_t i = 0; i < m->rows; i++)
            chart_fit(&c, m->values[KEY_STEP][i], m->values[v->keys[s]][i]);
    chart_room(&c, 0, 0);
    html_put(h, "<figure>\n");
    chart_begin(h, &c);
    for (int s = 0; s <= second; s++)
        chart_line(h, &c, m->values[KEY_STEP], m->values[v->keys[s]], m->rows, s);
    chart_end(h);
    html_put(h, "<figcaption>");
    html_put(h, v->title);
    if (second) html_putf(h, ": %s (solid), %s (dashed)", v->names[0], v->names[1]);
    html_put(h, "</figcaption>\n</figure>\n");
}

/* Says how many steps were skipped: each line of a run has the number so far. */
static void put_skipped(Html *h, const ReportMetrics *m)
{
    double skipped = m->rows ? m->values[KEY_SKIPPED][m->rows - 1] : 0;
    if (isfinite(skipped) && skipped > 0)
        html_putf(h, "; %.0f skipped, for their numbers were not finite", skipped);
}

int report_put_curves(Html *h, const char *path, const char *name, Err *e)
{
    ReportMetrics m;
    int status = report_metrics(&m, path, metric_keys, KEY_COUNT, e);
    if (!status && m.rows && m.rows != filled(&m, KEY_STEP))
        status = err_set(e, ERR_DATA, "%s: a row without a number \"step\"", path);
    if (!status) {
        html_put(h, "<h3>");
        html_string(h, name);
        html_putf(h, "</h3>\n<p class=\"soft\">%zu optimiser steps", m.rows);
        if (m.rows) {
            html_put(h, "; loss ");
            html_figure(h, m.values[KEY_LOSS][0]);
            html_put(h, " at the first, ");
            html_figure(h, m.values[KEY_LOSS][m.rows - 1]);
            html_put(h, " at the last");
        }
        put_skipped(h, &m);
        html_put(h, m.torn ? "; the last line of the file is cut off, and left out" : "");
        html_put(h, ".</p>\n<div class=\"charts\">\n");
        for (size_t i = 0; i < sizeof curves / sizeof *curves; i++)
            if (filled(&m, curves[i].keys[0])) put_curve(h, &m, &curves[i]);
        html_put(h, "</div>\n");
    }
    report_metrics_free(&m);
    return status;
}
