/* report_parts.h - private declarations of the report's files. */
#ifndef ALIGN_REPORT_PARTS_H
#define ALIGN_REPORT_PARTS_H

#include "evaluate.h"
#include "html.h"
#include "ledger.h"
#include "report.h"

/* ---- the run, read (report_read.c) --------------------------------------------------------- */

/* The policy after a cycle, on the validation prompts. */
typedef struct {
    size_t cycle;
    const Json *selection; /* selection.json; NULL for cycle 0 */
    const Json *promoted;  /* the method, or NULL: the parent stays */
    const Json *metrics;   /* safety_score, ... of the policy after this cycle */
    RunPlace place;        /* of its answers to the validation prompts */
} ReportCycle;

extern const char *const report_captions[RUN_TESTS]; /* of figures on the test prompts */

typedef struct {
    const char *dir;
    int redact;
    Ledger ledger; /* without an entry: a training run */
    const Json *config;  /* config.json */
    const Json *results; /* results.json; NULL: not finished */
    ReportCycle *cycles; /* [n_cycles], cycle 0 first */
    size_t n_cycles;
    Pool pool;
} Report;

/* ERR_DATA where the ledger's chain is broken. */
int report_open(Report *r, const char *dir, Err *e);
void report_close(Report *r);
/* Reads a JSON file of the run into its pool; NULL with *e on error. */
const Json *report_json(Report *r, const char *name, Err *e);
/* Do the results hold test prompts? Without any (--test 0) they are those of validation, by which
 * candidates were chosen. */
int report_has_test(const Report *r);
/* Is it the name of a training method? Such names, and no other text of a run, become paths. */
int report_is_method(const Json *name);
/* {"value","low","high"}; NAN for what is absent or null. */
Estimate report_estimate(const Json *metrics, const char *name);
double report_number(const Json *object, const char *key); /* NAN where absent or no number */

/* Columns of metrics.jsonl by key; values[k][i] is NAN where row i has none. */
typedef struct {
    size_t rows, cap, n_keys;
    const char *const *keys;
    double **values;
    int torn; /* its last line is incomplete, and is left out */
} ReportMetrics;
int report_metrics(ReportMetrics *m, const char *path, const char *const *keys, size_t n_keys,
                   Err *e);
void report_metrics_free(ReportMetrics *m);

/* ---- charts (report_svg.c) ----------------------------------------------------------------- */

/* A plane with axes. Marks and lines are drawn between chart_begin and chart_end. */
typedef struct {
    const char *title, *describe; /* read out by programs for people who do not see */
    const char *x_name, *y_name;
    double x0, x1, y0, y1; /* what is shown; chart_fit widens it, chart_begin rounds it */
    double width, height;  /* of the picture */
    int whole_x;           /* ticks of x are whole numbers */
    size_t n_labels;       /* placed so far */
    struct {
        double x0, y0, x1, y1;
    } labels[128];
} Chart;
#define CHART_EMPTY(a, b) ((a) > (b))

/* A series has a colour and a mark: circle, square, triangle; hollow ones are candidates that were
 * not promoted. */
enum { SERIES_COUNT = 3 };
typedef struct {
    Estimate x, y; /* low = high: no interval is drawn */
    int series, hollow;
    const char *label; /* of ours; "" = none */
} ChartPoint;

void chart_fit(Chart *c, double x, double y);
/* Adds room around what was fitted, at least `least` high and wide; inside [0, 1] if unit is
 * set. */
void chart_room(Chart *c, double least, int unit);
void chart_begin(Html *h, Chart *c);
void chart_point(Html *h, Chart *c, const ChartPoint *p);
/* Draws a line through (x[i], y[i]); NAN interrupts it. More points than the picture can show are
 * drawn as the mean of each bucket, over a band from its least to its largest value. */
void chart_line(Html *h, Chart *c, const double *x, const double *y, size_t n, int series);
void chart_end(Html *h);
/* Draws the mark of a series, for legends. */
void chart_key(Html *h, int series, int hollow, const char *text);
extern const char chart_style[];

/* ---- sections ------------------------------------------------------------------------------ */

/* report_cycles.c: figures, trade-off, selection, confusion, judges. */
void report_put_figures(Html *h, const Report *r);
void report_put_selection(Html *h, const Report *r);
int report_put_confusion(Html *h, Report *r, Err *e);
int report_put_judges(Html *h, const Report *r, Err *e);
/* report_train.c: curves of one training run; folder is shown as its name. */
int report_put_curves(Html *h, const char *path, const char *name, Err *e);
/* report_answers.c */
int report_put_answers(Html *h, Report *r, Err *e);
extern const char answers_style[];

#endif
