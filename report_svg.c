/* report_svg.c - draws charts as SVG: axes, marks with interval crosses, lines. */
#include "report_parts.h"

#include <math.h>
#include <string.h>

const char chart_style[] =
    "figure{margin:1rem 0}\n.charts{display:grid;grid-template-columns:repeat(auto-fit,"
    "minmax(min(100%,17rem),1fr));gap:.25rem 1.25rem}\n.charts figure{margin:.4rem 0}\n"
    "svg{display:block;width:100%;height:auto;max-width:44rem}\n"
    "svg.key{display:inline-block;width:1.1rem;height:1.1rem;vertical-align:-.2rem}\n"
    "svg text{fill:var(--ink);font:12px system-ui,sans-serif}\nsvg .tick{fill:var(--soft)}\n"
    "svg .grid{stroke:var(--rule);stroke-width:1}\n"
    "svg .s0{--c:var(--s1)}svg .s1{--c:var(--s2)}svg .s2{--c:var(--s3)}\n"
    "svg .mark{fill:var(--c);stroke:var(--c);stroke-width:2}svg .hollow{fill:none}\n"
    "svg .bar{stroke:var(--c);stroke-width:1.5;opacity:.75}\n"
    "svg .line{fill:none;stroke:var(--c);stroke-width:1.75;stroke-linejoin:round}\n"
    "svg .band{fill:var(--c);stroke:none;opacity:.22}\n"
    "svg .s1 .line{stroke-dasharray:6 3}\n"
    "svg .halo{paint-order:stroke;stroke:var(--paper);stroke-width:3px}\n"
    ".legend{display:flex;flex-wrap:wrap;gap:.1rem 1.25rem;font-size:.9rem;margin:.25rem 0}\n";

/* Margins of the plane inside its picture: room for ticks and names. */
enum { LEFT = 62, RIGHT = 16, TOP = 14, BOTTOM = 44, MARK = 5, CAP = 4 };
enum { TICKS = 5, LABEL_HEIGHT = 14 };
static const double label_letter = 6.6; /* mean width of a letter */

/* ---- the plane ----------------------------------------------------------------------------- */

/* Files can hold any number. Numbers larger than this are not drawn, like those that are not
 * finite, so that sums and differences of the others stay finite. */
static const double most_drawn = 1e300;

static int drawable(double x)
{
    return fabs(x) <= most_drawn; /* no for NAN */
}

void chart_fit(Chart *c, double x, double y)
{
    if (drawable(x)) {
        if (CHART_EMPTY(c->x0, c->x1)) c->x0 = c->x1 = x;
        if (x < c->x0) c->x0 = x;
        if (x > c->x1) c->x1 = x;
    }
    if (drawable(y)) {
        if (CHART_EMPTY(c->y0, c->y1)) c->y0 = c->y1 = y;
        if (y < c->y0) c->y0 = y;
        if (y > c->y1) c->y1 = y;
    }
}

/* Widens [*low, *high] by a share on each side, to at least `least`. */
static void widen(double *low, double *high, double least, int unit)
{
    const double share = 0.08;
    if (CHART_EMPTY(*low, *high)) *low = *high = 0; /* nothing was fitted */
    double room = share * (*high - *low), lack = least - (*high - *low) - 2 * room;
    if (lack > 0) room += lack / 2;
    *low -= room;
    *high += room;
    if (!unit) return;
    if (*low < 0) *high -= *low, *low = 0;
    if (*high > 1) *low -= *high - 1, *high = 1;
    if (*low < 0) *low = 0;
    if (*high > 1) *high = 1;
}

void chart_room(Chart *c, double least, int unit)
{
    if (!c->whole_x) widen(&c->x0, &c->x1, least, unit);
    widen(&c->y0, &c->y1, least, unit);
}

/* Returns the smallest step, 1, 2 or 5 times a power of ten, that needs at most `ticks` ticks. */
static double nice_step(double span, int ticks)
{
    static const double factors[] = {1, 2, 5};
    double power = 1;
    if (!(span > 0)) return 1;
    while (power * ticks > span) power /= 10;
    while (power * 10 * ticks <= span) power *= 10;
    for (int i = 0; i < 3; i++)
        if (factors[i] * power * ticks >= span) return factors[i] * power;
    return 10 * power;
}

static double plane_x(const Chart *c, double x)
{
    return LEFT + (x - c->x0) / (c->x1 - c->x0) * (c->width - LEFT - RIGHT);
}

static double plane_y(const Chart *c, double y)
{
    return c->height - BOTTOM - (y - c->y0) / (c->y1 - c->y0) * (c->height - TOP - BOTTOM);
}

/* The numbers at an axis: (first + i) x step, i = 0 .. count - 1. */
typedef struct {
    double first, step;
    int count;
} Ticks;

static Ticks ticks_between(double low, double high, double least_step)
{
    const double slack = 1e-9; /* of a step: an end that rounding moved still counts */
    double step = nice_step(high - low, TICKS);
    if (step < least_step) step = least_step;
    Ticks t = {ceil(low / step - slack), step, 0};
    while (t.count <= TICKS && (t.first + t.count) * step <= high + step * slack) t.count++;
    return t;
}

/* Draws grid lines and their numbers. */
static void put_ticks(Html *h, const Chart *c)
{
    const double bottom = c->height - BOTTOM, right = c->width - RIGHT;
    Ticks t = ticks_between(c->x0, c->x1, c->whole_x ? 1 : 0);
    for (int i = 0; i < t.count; i++) {
        double at = (t.first + i) * t.step, x = plane_x(c, at);
        html_putf(h,
                  "<line class=\"grid\" x1=\"%.1f\" y1=\"%d\" x2=\"%.1f\" y2=\"%.1f\"/>"
                  "<text class=\"tick\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%.6g</text>\n",
                  x, TOP, x, bottom, x, bottom + 16, at + 0.0);
    }
    t = ticks_between(c->y0, c->y1, 0);
    for (int i = 0; i < t.count; i++) {
        double at = (t.first + i) * t.step, y = plane_y(c, at);
        html_putf(h,
                  "<line class=\"grid\" x1=\"%d\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>"
                  "<text class=\"tick\" x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.6g</text>\n",
                  LEFT, y, right, y, LEFT - 6, y + 4, at + 0.0);
    }
}

/* Makes an axis long enough for a double to tell its ticks apart: near 1e17 a step of 1 vanishes,
 * and the smallest number cannot be divided by five. */
static void open_up(double *low, double *high)
{
    const double grain = 1e-12, smallest = 1e-300; /* a double has 2e-16 and 2e-308 */
    double least = fmax(smallest, grain * fmax(fabs(*low), fabs(*high)));
    if (!(*high - *low > least)) *high = *low + fmax(1, 10 * least);
}

void chart_begin(Html *h, Chart *c)
{
    open_up(&c->x0, &c->x1);
    open_up(&c->y0, &c->y1);
    html_putf(h, "<svg viewBox=\"0 0 %.0f %.0f\" role=\"img\" aria-label=\"", c->width, c->height);
    html_string(h, c->title);
    html_put(h, ". ");
    html_string(h, c->describe);
    html_put(h, "\">\n<title>");
    html_string(h, c->title);
    html_put(h, "</title>\n");
    put_ticks(h, c);
    html_putf(h, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">",
              (LEFT + c->width - RIGHT) / 2, c->height - 8);
    html_string(h, c->x_name);
    html_putf(h, "</text>\n<text x=\"13\" y=\"%.1f\" text-anchor=\"middle\" ",
              (TOP + c->height - BOTTOM) / 2);
    html_putf(h, "transform=\"rotate(-90 13 %.1f)\">", (TOP + c->height - BOTTOM) / 2);
    html_string(h, c->y_name);
    html_put(h, "</text>\n");
}

void chart_end(Html *h)
{
    html_put(h, "</svg>\n");
}

/* ---- marks --------------------------------------------------------------------------------- */

static void put_mark(Html *h, double x, double y, int series, int hollow)
{
    const char *kind = hollow ? "mark hollow" : "mark";
    if (series == 0)
        html_putf(h, "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"%d\"/>", kind, x, y, MARK);
    else if (series == 1)
        html_putf(h, "<rect class=\"%s\" x=\"%.1f\" y=\"%.1f\" width=\"%d\" height=\"%d\"/>", kind,
                  x - MARK + 0.5, y - MARK + 0.5, 2 * MARK - 1, 2 * MARK - 1);
    else
        html_putf(h, "<path class=\"%s\" d=\"M%.1f %.1fl%d %dh-%dz\"/>", kind, x, y - MARK - 1,
                  MARK + 1, 2 * MARK, 2 * MARK + 2);
}

/* Finds a place beside (x, y) for a label of this width that no earlier label covers. */
static void place_label(Chart *c, double x, double y, double width, double *at_x, double *at_y)
{
    static const double beside[][2] = {{1, -9},  {1, 16}, {-1, -9}, {-1, 16}, {1, -25}, {1, 32},
                                       {1, -41}, {1, 48}, {1, 64},  {1, 80},  {1, 96},  {1, 112}};
    const size_t n = sizeof beside / sizeof *beside;
    double left = 0, base = 0;
    for (size_t i = 0; i < n; i++) {
        left = beside[i][0] > 0 ? x + MARK + 4 : x - MARK - 4 - width;
        base = y + beside[i][1];
        int free_ = left >= LEFT && left + width <= c->width && base - LABEL_HEIGHT >= 0 &&
                    base <= c->height - BOTTOM;
        for (size_t k = 0; free_ && k < c->n_labels; k++)
            free_ = left > c->labels[k].x1 || left + width < c->labels[k].x0 ||
                    base - LABEL_HEIGHT > c->labels[k].y1 || base < c->labels[k].y0;
        if (free_) break;
    }
    if (c->n_labels < sizeof c->labels / sizeof *c->labels) {
        c->labels[c->n_labels].x0 = left;
        c->labels[c->n_labels].x1 = left + width;
        c->labels[c->n_labels].y0 = base - LABEL_HEIGHT;
        c->labels[c->n_labels++].y1 = base;
    }
    *at_x = left;
    *at_y = base;
}

static int has_interval(const Estimate *x)
{
    return x->high > x->low && drawable(x->high) && drawable(x->low);
}

/* The two bars of an interval cross. */
static void put_cross(Html *h, const Chart *c, const ChartPoint *p)
{
    double x = plane_x(c, p->x.value), y = plane_y(c, p->y.value);
    if (has_interval(&p->y)) {
        double a = plane_y(c, p->y.low), b = plane_y(c, p->y.high);
        html_putf(h, "<path class=\"bar\" d=\"M%.1f %.1fV%.1fM%.1f %.1fh%dM%.1f %.1fh%d\"/>", x, a,
                  b, x - CAP, a, 2 * CAP, x - CAP, b, 2 * CAP);
    }
    if (has_interval(&p->x)) {
        double a = plane_x(c, p->x.low), b = plane_x(c, p->x.high);
        html_putf(h, "<path class=\"bar\" d=\"M%.1f %.1fH%.1fM%.1f %.1fv%dM%.1f %.1fv%d\"/>", a, y,
                  b, a, y - CAP, 2 * CAP, b, y - CAP, 2 * CAP);
    }
}

void chart_point(Html *h, Chart *c, const ChartPoint *p)
{
    if (!drawable(p->x.value) || !drawable(p->y.value)) return;
    double x = plane_x(c, p->x.value), y = plane_y(c, p->y.value), at_x, at_y;
    html_putf(h, "<g class=\"s%d\">", p->series);
    put_cross(h, c, p);
    put_mark(h, x, y, p->series, p->hollow);
    if (*p->label) {
        place_label(c, x, y, label_letter * (double)strlen(p->label), &at_x, &at_y);
        html_putf(h, "<text class=\"halo\" x=\"%.1f\" y=\"%.1f\">", at_x, at_y);
        html_string(h, p->label);
        html_put(h, "</text>");
    }
    html_put(h, "</g>\n");
}

void chart_key(Html *h, int series, int hollow, const char *text)
{
    html_putf(h,
              "<span><svg class=\"key\" viewBox=\"0 0 16 16\" aria-hidden=\"true\">"
              "<g class=\"s%d\">",
              series);
    put_mark(h, 8, 8, series, hollow);
    html_put(h, "</g></svg> ");
    html_string(h, text);
    html_put(h, "</span>\n");
}

/* ---- lines --------------------------------------------------------------------------------- */

#define MOST_BUCKETS 160 /* points of a line: about one for each two columns of the picture */

typedef struct {
    double x, mean, low, high; /* mean NAN: nothing in this bucket */
} Bucket;

static size_t fill_buckets(Bucket *b, const double *x, const double *y, size_t n)
{
    size_t count = n < MOST_BUCKETS ? n : MOST_BUCKETS;
    for (size_t i = 0; i < count; i++) {
        size_t from = n / count * i + n % count * i / count;
        size_t to = n / count * (i + 1) + n % count * (i + 1) / count, used = 0;
        Bucket s = {0, 0, INFINITY, -INFINITY};
        for (size_t k = from; k < to; k++) {
            if (!drawable(y[k]) || !drawable(x[k])) continue;
            s.x += x[k];
            s.mean += y[k];
            if (y[k] < s.low) s.low = y[k];
            if (y[k] > s.high) s.high = y[k];
            used++;
        }
        s.x = used ? s.x / (double)used : NAN;
        s.mean = used ? s.mean / (double)used : NAN;
        b[i] = s;
    }
    return count;
}

void chart_line(Html *h, Chart *c, const double *x, const double *y, size_t n, int series)
{
    Bucket b[MOST_BUCKETS];
    size_t count = fill_buckets(b, x, y, n);
    html_putf(h, "<g class=\"s%d\">", series);
    if (n > count) {
        const char *pen = "M";
        html_put(h, "<path class=\"band\" d=\"");
        for (size_t i = 0; i < count; i++) {
            if (!isfinite(b[i].mean)) continue;
            html_putf(h, "%s%.1f %.1f", pen, plane_x(c, b[i].x), plane_y(c, b[i].high));
            pen = "L";
        }
        for (size_t i = count; i-- > 0;) {
            if (!isfinite(b[i].mean)) continue;
            html_putf(h, "%s%.1f %.1f", pen, plane_x(c, b[i].x), plane_y(c, b[i].low));
        }
        html_put(h, "\"/>");
    }
    const char *pen = "M";
    html_put(h, "<path class=\"line\" d=\"");
    for (size_t i = 0; i < count; i++) {
        int there = isfinite(b[i].mean);
        if (there) html_putf(h, "%s%.1f %.1f", pen, plane_x(c, b[i].x), plane_y(c, b[i].mean));
        if (there) pen = "L";
    }
    html_put(h, "\"/></g>\n");
}
