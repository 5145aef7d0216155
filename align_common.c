/* align_common.c - what the commands share: groups of options, notes, progress, results. See
 * align.h.
 */
#include "align.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

/* ---- options ------------------------------------------------------------------------------- */

static const Option quiet_rows[] = {
    {"quiet", 'q', OPTION_FLAG, NULL, NULL, "print only warnings and errors", BY_NAME},
};
const OptionGroup group_quiet = OPTION_GROUP("Notes", quiet_rows);

DataOptions row_options(const Options *o, DataKind kind)
{
    DataOptions d = {.kind = kind, .train_on = TRAIN_ON_LAST};
    options_fill(o, &data_options, &d);
    return d;
}

EngineOptions engine_options_from(const Options *o)
{
    EngineOptions g = {0};
    options_fill(o, &engine_options, &g);
    return g;
}

void threads_from(const Options *o)
{
    threads_set(option_is(o, "threads", "auto") ? 0 : (int)option_count(o, "threads"));
    int wanted = threads_count(), reached = threads_reach();
    if (reached < wanted)
        log_note(notes(), 'w',
                 "%d threads cannot be started (a limit on processes or memory?): going on with "
                 "%d; no result depends on their number",
                 wanted, reached);
}

/* ---- a model ready to run ------------------------------------------------------------------ */

int engine_from(Engine *g, const Options *o, Err *e)
{
    EngineOptions options = engine_options_from(o);
    threads_from(o);
    return engine_open(g,
                       &(EngineConfig){.model = option_text(o, "model"),
                                       .adapter = option_text(o, "adapter"),
                                       .flags = model_flags(&options),
                                       .kernel = options.kernel,
                                       .precision = options.precision,
                                       .log = notes()},
                       e);
}

/* ---- notes --------------------------------------------------------------------------------- */

/* Set once from the options, before the first note. */
static int quiet_notes;

/* Was this very warning shown before? A loop opens its model, its judges and its rows many times,
 * and what is wrong with them need be said once. Of more warnings than the list holds some are
 * repeated. */
static int shown_before(const char *text)
{
    enum { KEPT = 256 };
    static uint64_t shown[KEPT];
    static size_t count;
    uint64_t key = 14695981039346656037u; /* FNV-1a */
    for (; *text; text++) key = (key ^ (unsigned char)*text) * 1099511628211u;
    for (size_t i = 0; i < count; i++)
        if (shown[i] == key) return 1;
    if (count < KEPT) shown[count++] = key;
    return 0;
}

static void note_line(void *ctx, char level, const char *text)
{
    (void)ctx;
    if (level == 'w' ? shown_before(text) : quiet_notes) return;
    fprintf(stderr, "align: %s%s\n", level == 'w' ? "warning: " : "", text);
}

const Log *notes(void)
{
    static const Log log = {NULL, note_line};
    return &log;
}

void notes_quiet(int quiet)
{
    quiet_notes = quiet;
}

int note_options(const Options *o, Err *e)
{
    const size_t width = 90;
    Text text = {0};
    int status = options_describe(o, width, &text, e);
    for (char *line = text.data, *end; !status && line && *line; line = end + 1) {
        end = strchr(line, '\n');
        *end = 0;
        log_note(notes(), 'i', "%s", line);
    }
    text_free(&text);
    return status;
}

static int stderr_is_terminal(void)
{
    return isatty(STDERR_FILENO);
}

/* ---- progress ------------------------------------------------------------------------------ */

#define BAR_WIDTH 24
#define BAR_SECONDS 0.1   /* between two drawings of the bar */
#define LINE_SECONDS 10.0 /* between two plain lines */

void progress_begin(Progress *p, const char *what, const char *unit)
{
    *p = (Progress){.what = what, .unit = unit, .start = time_now()};
    p->shown = p->start;
}

/* Seconds as 7s, 3m05s, 2h04m. */
static void format_seconds(double seconds, char *out, size_t size)
{
    const double longest = 359999; /* 99h59m: nobody waits longer than that */
    unsigned s = (unsigned)(seconds < longest ? seconds : longest);
    if (s < 60) {
        snprintf(out, size, "%us", s);
    } else if (s < 3600) {
        snprintf(out, size, "%um%02us", s / 60, s % 60);
    } else {
        snprintf(out, size, "%uh%02um", s / 3600, s / 60 % 60);
    }
}

void progress_draw(Progress *p, uint64_t done, uint64_t total, double passed, double left,
                   double rate, const char *tail)
{
    double now = time_now();
    int terminal = stderr_is_terminal(), last = done >= total;
    double pause = terminal ? BAR_SECONDS : LINE_SECONDS;
    /* The end of a bar is always drawn, that of plain lines only if there were any. */
    if (quiet_notes || (now - p->shown < pause && !(last && (terminal || p->lines)))) return;
    p->shown = now;
    p->lines++;
    char bar[BAR_WIDTH + 1], time[16], line[256];
    uint64_t filled = total ? done * BAR_WIDTH / total : BAR_WIDTH;
    for (unsigned i = 0; i < BAR_WIDTH; i++) bar[i] = i < filled ? '#' : '.';
    bar[BAR_WIDTH] = 0;
    format_seconds(last ? passed : left, time, sizeof time);
    snprintf(line, sizeof line, "%s %llu/%llu  %s %s  %.0f %s/s%s%s", p->what,
             (unsigned long long)done, (unsigned long long)total, time, last ? "taken" : "left",
             rate, p->unit, tail && *tail ? "  " : "", tail ? tail : "");
    if (terminal)
        fprintf(stderr, "\r[%s] %s\033[K", bar, line); /* ESC [K: clear to the end of the line */
    else
        fprintf(stderr, "align: %s\n", line);
    p->drawn = terminal;
}

void progress_show(Progress *p, uint64_t done, uint64_t total, uint64_t units, const char *tail)
{
    double passed = time_now() - p->start;
    double left = done ? passed / (double)done * (double)(total - done) : 0;
    double rate = passed > 0 ? (double)units / passed : 0;
    progress_draw(p, done, total, passed, left, rate, tail);
}

void progress_end(Progress *p)
{
    if (p->drawn) fputc('\n', stderr);
    p->drawn = 0;
}

/* ---- results ------------------------------------------------------------------------------- */

int output_open(Output *out, const char *path, Err *e)
{
    memset(out, 0, sizeof *out);
    out->to_file = path && strcmp(path, "-");
    if (out->to_file && writer_open(&out->file, path, e)) return -1;
    out->shown = isatty(out->to_file ? out->file.fd : STDOUT_FILENO); /* -o /dev/tty, too */
    return 0;
}

int stdout_failed(Err *e)
{
    int left = errno == EPIPE;
    err_set(e, ERR_IO, "standard output: %s", strerror(errno));
    if (left) e->text[0] = 0;
    return -1;
}

static int put_plain(Output *out, const char *bytes, size_t len, Err *e)
{
    if (out->to_file) return writer_put(&out->file, bytes, len, e);
    return fwrite(bytes, 1, len, stdout) == len ? 0 : stdout_failed(e);
}

/* Writes to a terminal: text of a model, a file or a user must not control it. An incomplete
 * character waits for the next piece. */
static int put_masked(Output *out, const char *bytes, size_t len, Err *e)
{
    Text t = {0};
    int status = text_add(&t, out->cut, out->n_cut, e) || text_add(&t, bytes, len, e);
    if (!status) {
        size_t whole = text_mask(t.data, t.len, 1);
        out->n_cut = t.len - whole;
        memcpy(out->cut, t.data + whole, out->n_cut);
        status = put_plain(out, t.data, whole, e);
    }
    text_free(&t);
    return status;
}

int output_put(Output *out, const char *bytes, size_t len, Err *e)
{
    return out->shown ? put_masked(out, bytes, len, e) : put_plain(out, bytes, len, e);
}

int output_flush(Output *out, Err *e)
{
    static const char marks[] = "???";
    size_t n = out->n_cut;
    out->n_cut = 0;
    return n ? put_plain(out, marks, n, e) : 0;
}

int output_commit(Output *out, Err *e)
{
    if (output_flush(out, e)) return -1;
    return out->to_file ? writer_commit(&out->file, e) : 0;
}

void output_abort(Output *out)
{
    if (out->to_file) writer_abort(&out->file);
    out->to_file = 0;
}

void label_of(const char *name, char label[LABEL_MAX])
{
    snprintf(label, LABEL_MAX, "%s", name);
    for (char *c = label; *c; c++) *c = *c == '_' ? ' ' : *c;
}

int put_interval(Text *out, const Estimate *x, int figure, int cell, Err *e)
{
    char text[64];
    if (isfinite(x->value))
        snprintf(text, sizeof text, "%*.3f [%*.3f, %*.3f]", figure, x->value, figure, x->low,
                 figure, x->high);
    else
        snprintf(text, sizeof text, "%*s", figure, "n/a");
    return text_addf(out, e, "  %-*s", cell, text);
}

int put_ids(Text *out, const char *name, const int32_t *ids, size_t n, Err *e)
{
    if (text_addf(out, e, "\"%s\":[", name)) return -1;
    for (size_t i = 0; i < n; i++) {
        if (text_addf(out, e, "%s%ld", i ? "," : "", (long)ids[i])) return -1;
    }
    return text_add(out, "]", 1, e);
}

int put_shown(Text *out, const char *text, size_t most, Err *e)
{
    size_t len = strlen(text), at = 0, from = out->len, step;
    while ((step = utf8_step(text + at, len - at)) != 0 && at + step <= most) at += step;
    if (text_add(out, text, at, e)) return -1;
    text_mask(out->data + from, at, 0);
    return 0;
}

int print_text(Text *t, Err *e)
{
    Output out;
    int status = output_open(&out, NULL, e) ||
                 output_put(&out, t->data ? t->data : "", t->len, e) || output_commit(&out, e);
    text_free(t);
    return status ? -1 : 0;
}
