/* align_common.c - what the commands share: option groups, notes, progress, results. See align.h.
 */
#include "align.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

/* ---- options ------------------------------------------------------------------------------- */

static const Option model_rows[] = {
    {"model", 'm', OPTION_DIR, option_required, NULL,
     "model directory: config.json, tokenizer.json, safetensors"},
};
const OptionGroup group_model = OPTION_GROUP("Model", model_rows);

static const Option adapter_rows[] = {
    {"adapter", 0, OPTION_DIR, NULL, NULL, "PEFT adapter directory put on the model"},
};
const OptionGroup group_adapter = OPTION_GROUP("Adapter", adapter_rows);

static const Option engine_rows[] = {
    {"precision", 0, OPTION_CHOICE, "f32", "f32|bf16|auto",
     "operands of matrix products; everything else is f32 always; auto is f32 here"},
    {"kernel", 0, OPTION_CHOICE, "auto", "auto|ref|avx2|avx512|avx512bf16|neon|neonbf16",
     "instructions to compute with; in f32 all give the same bits"},
    {"threads", 't', OPTION_COUNT, "auto", "[1,1024]|auto",
     "threads; any number gives the same bits; auto is one a processor"},
    {"no-mmap", 0, OPTION_FLAG, NULL, NULL, "read the weights instead of mapping them"},
    {"check-tensors", 0, OPTION_FLAG, NULL, NULL, "look for NaN and infinity in the weights"},
    {"strict", 0, OPTION_FLAG, NULL, NULL, "refuse a config.json that leaves rope_theta out"},
};
const OptionGroup group_engine = OPTION_GROUP("Engine", engine_rows);

static const Option row_rows[] = {
    {"map", 0, OPTION_TEXT, NULL, NULL, "other names of columns: prompt=question,chosen=good"},
    {"chat-template", 0, OPTION_TEXT, NULL, NULL,
     "renders conversations by a built-in template instead of the model's own"},
    {"parse-special", 0, OPTION_FLAG, NULL, NULL,
     "spellings of special tokens in the text become those tokens"},
};
const OptionGroup group_rows = OPTION_GROUP("Rows", row_rows);

static const Option seed_rows[] = {
    {"seed", 's', OPTION_COUNT, "42", NULL,
     "of every draw: new adapters, order, dropout, pairing, samples, splits, resamples"},
};
const OptionGroup group_seed = OPTION_GROUP("Chance", seed_rows);

static const Option quiet_rows[] = {
    {"quiet", 'q', OPTION_FLAG, NULL, NULL, "warnings and errors only"},
};
const OptionGroup group_quiet = OPTION_GROUP("Notes", quiet_rows);

DataOptions row_options(const Options *o, DataKind kind)
{
    return (DataOptions){.kind = kind,
                         .map = option_exists(o, "map") ? option_text(o, "map") : NULL,
                         .chat_template = option_text(o, "chat-template"),
                         .parse_special =
                             option_exists(o, "parse-special") && option_flag(o, "parse-special")};
}

int model_flags(const Options *o)
{
    return (option_flag(o, "no-mmap") ? MODEL_NO_MMAP : 0) |
           (option_flag(o, "check-tensors") ? MODEL_CHECK_TENSORS : 0) |
           (option_flag(o, "strict") ? MODEL_STRICT : 0);
}

Precision precision_of(const Options *o)
{
    return option_is(o, "precision", "bf16") ? PRECISION_BF16 : PRECISION_F32;
}

void threads_from(const Options *o)
{
    threads_set(option_is(o, "threads", "auto") ? 0 : (int)option_count(o, "threads"));
}

/* ---- a model ready to run ------------------------------------------------------------------ */

int engine_open(Engine *g, const Options *o, Err *e)
{
    const char *dir = option_text(o, "model"), *adapter = option_text(o, "adapter");
    LoraShape shape;
    threads_from(o);
    if (compute_open(&g->compute, option_text(o, "kernel"), precision_of(o), e)) return -1;
    g->compute_open = 1;
    g->tokenizer = tokenizer_load(dir, notes(), e);
    if (!g->tokenizer || model_load(&g->model, dir, model_flags(o), notes(), e)) return -1;
    g->model_open = 1;
    if (!adapter) return 0;
    model_lora_shape(&g->model, &shape);
    if (lora_load(&g->lora, adapter, &shape, 0, e)) return -1;
    g->adapter = &g->lora;
    return 0;
}

void engine_close(Engine *g)
{
    if (g->adapter) lora_close(&g->lora);
    if (g->model_open) model_close(&g->model);
    if (g->tokenizer) tokenizer_free(g->tokenizer);
    if (g->compute_open) compute_close(&g->compute);
    memset(g, 0, sizeof *g);
}

/* ---- notes --------------------------------------------------------------------------------- */

/* Set once from the options, before the first note. */
static int quiet_notes;

static void note_line(void *ctx, char level, const char *text)
{
    (void)ctx;
    if (quiet_notes && level != 'w') return;
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

int stderr_is_terminal(void)
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
    const double longest = 359999; /* 99h59m: beyond it nobody waits for the end */
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
    /* The end of a bar is drawn always, that of plain lines only where there were any. */
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
    return out->to_file ? writer_open(&out->file, path, e) : 0;
}

int stdout_failed(Err *e)
{
    int left = errno == EPIPE;
    err_set(e, ERR_IO, "standard output: %s", strerror(errno));
    if (left) e->text[0] = 0;
    return -1;
}

int output_put(Output *out, const char *bytes, size_t len, Err *e)
{
    if (out->to_file) return writer_put(&out->file, bytes, len, e);
    return fwrite(bytes, 1, len, stdout) == len ? 0 : stdout_failed(e);
}

int output_commit(Output *out, Err *e)
{
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
    for (unsigned char *c = (unsigned char *)out->data + from; *c; c++) {
        if (*c < 0x20 || *c == 0x7F) *c = '?';
        if (c[0] == 0xC2 && c[1] >= 0x80 && c[1] < 0xA0) c[0] = c[1] = '?'; /* U+0080 to U+009F */
    }
    return 0;
}

int print_text(Text *t, Err *e)
{
    Output out = {0};
    int status = output_put(&out, t->data ? t->data : "", t->len, e);
    text_free(t);
    return status;
}
