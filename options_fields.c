/* options_fields.c - the fields that rows describe: filled, checked, and written as JSON. */
#include "options.h"

#include "json.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

int option_place(const char *(*words)(size_t i), const char *word)
{
    const char *name;
    for (size_t i = 0; (name = words(i)); i++)
        if (!strcmp(name, word)) return (int)i;
    return -1;
}

static void *field_of(const Option *row, void *settings)
{
    return (char *)settings + row->at;
}

static const void *value_of(const Option *row, const void *settings)
{
    return (const char *)settings + row->at;
}

static int is_number(const Option *row)
{
    return row->type == OPTION_COUNT || row->type == OPTION_SIZE || row->type == OPTION_NUMBER;
}

/* ---- into a field -------------------------------------------------------------------------- */

static void put_whole(const Option *row, void *field, uint64_t x)
{
    switch (row->holds) {
    case HOLDS_INT: *(int *)field = (int)x; return;
    case HOLDS_UNSIGNED: *(unsigned *)field = (unsigned)x; return;
    case HOLDS_ULONG: *(unsigned long *)field = (unsigned long)x; return;
    case HOLDS_ULLONG: *(unsigned long long *)field = x; return;
    default: assert(0 && "a whole number in a field of another type");
    }
}

/* A number, or a word in its place. */
static void read_number(const Option *row, void *settings, const char *text)
{
    OptionFigure v;
    int word = option_figure(row->type, text, strlen(text), &v);
    if (row->beside) *(int *)((char *)settings + row->beside) = word ? 1 : 0;
    if (word && row->beside) return;
    if (row->holds == HOLDS_DOUBLE)
        *(double *)field_of(row, settings) = v.number;
    else
        put_whole(row, field_of(row, settings), v.whole);
}

/* A text that the row allows, into its field. */
static void read_value(const Option *row, void *settings, const char *text)
{
    void *field = field_of(row, settings);
    if (row->holds == HOLDS_FORM) {
        row->form->read(field, text);
    } else if (row->holds == HOLDS_TEXT) {
        *(const char **)field = text;
    } else if (row->type == OPTION_FLAG) {
        put_whole(row, field, !strcmp(text, "true"));
    } else if (is_number(row)) {
        read_number(row, settings, text);
    } else {
        int place = option_place(row->words, text);
        put_whole(row, field, place < 0 ? 0 : (uint64_t)place);
    }
}

void options_defaults(const OptionGroup *g, void *settings)
{
    for (size_t i = 0; i < g->count; i++) {
        const Option *row = &g->rows[i];
        if (row->holds != HOLDS_NOTHING && row->value && row->value != option_required)
            read_value(row, settings, row->value);
    }
}

void options_fill(const Options *o, const OptionGroup *g, void *settings)
{
    for (size_t i = 0; i < o->count; i++) {
        const OptionValue *v = &o->values[i];
        const Option *row = v->row;
        if (row < g->rows || row >= g->rows + g->count || row->holds == HOLDS_NOTHING) continue;
        if (row->holds == HOLDS_TEXTS) {
            *(const char *const **)field_of(row, settings) = v->texts;
            *(size_t *)((char *)settings + row->beside) = v->n_texts;
        } else if (v->text) {
            read_value(row, settings, v->text);
        }
    }
}

/* ---- out of a field ------------------------------------------------------------------------ */

static uint64_t whole_of(const Option *row, const void *field)
{
    switch (row->holds) {
    case HOLDS_INT: return (uint64_t)*(const int *)field;
    case HOLDS_UNSIGNED: return *(const unsigned *)field;
    case HOLDS_ULONG: return *(const unsigned long *)field;
    case HOLDS_ULLONG: return *(const unsigned long long *)field;
    default: assert(0 && "a whole number in a field of another type"); return 0;
    }
}

/* Does the row allow 0 as "not given", or for a word that stands for a number? */
static int zero_means_none(const Option *row)
{
    const char *part;
    size_t n;
    if (!row->value) return 1;
    for (size_t i = 0; option_alternative(row, i, &part, &n); i++)
        if (*part != '[' && *part != '(') return 1;
    return 0;
}

static int check_number(const Option *row, const void *settings, Err *e)
{
    char place[64], text[32];
    const void *field = value_of(row, settings);
    OptionFigure v = {0, 0};
    if (row->beside && *(const int *)((const char *)settings + row->beside)) return 0;
    if (row->holds == HOLDS_DOUBLE) {
        v.number = *(const double *)field;
        snprintf(text, sizeof text, "%.9g", v.number);
    } else {
        v.whole = whole_of(row, field);
        snprintf(text, sizeof text, "%llu", (unsigned long long)v.whole);
    }
    int none = !v.whole && v.number == 0 && zero_means_none(row);
    if (none || (v.number - v.number == 0 && option_in_range(row, &v))) return 0;
    snprintf(place, sizeof place, "--%s", row->name);
    return option_refuse(row, text, strlen(text), place, e);
}

int options_check(const OptionGroup *g, const void *settings, Err *e)
{
    for (size_t i = 0; i < g->count; i++) {
        const Option *row = &g->rows[i];
        if (row->holds == HOLDS_NOTHING || row->holds == HOLDS_FORM) continue;
        if (row->type != OPTION_COUNT && row->type != OPTION_NUMBER) continue;
        if (check_number(row, settings, e)) return -1;
    }
    return 0;
}

/* ---- JSON ---------------------------------------------------------------------------------- */

int options_write_key(const char *key, int how, Text *out, Err *e)
{
    int first = out->len && out->data[out->len - 1] == '{';
    const char *line = how & WRITE_INLINE ? (first ? "" : " ") : "\n  ";
    return text_addf(out, e, "%s%s", first ? "" : ",", line) ||
                   json_put_string(out, key, strlen(key), e) || text_add(out, ": ", 2, e)
               ? -1
               : 0;
}

/* "key": "text"; NULL: left out, or null. */
static int write_text(const char *key, const char *text, int how, Text *out, Err *e)
{
    if (!text && !(how & WRITE_NULLS)) return 0;
    if (options_write_key(key, how, out, e)) return -1;
    return text ? json_put_string(out, text, strlen(text), e) : text_add(out, "null", 4, e);
}

static int write_texts(const Option *row, const void *settings, const char *key, int how, Text *out,
                       Err *e)
{
    const char *const *texts = *(const char *const *const *)value_of(row, settings);
    size_t n = *(const size_t *)((const char *)settings + row->beside);
    if (!n) return 0;
    int status = options_write_key(key, how, out, e) || text_add(out, "[", 1, e);
    for (size_t i = 0; i < n && !status; i++)
        status = text_addf(out, e, "%s", i ? ", " : "") ||
                 json_put_string(out, texts[i], strlen(texts[i]), e);
    return status || text_add(out, "]", 1, e) ? -1 : 0;
}

static int write_form(const Option *row, const void *settings, const char *key, int how, Text *out,
                      Err *e)
{
    Text text = {0};
    int status = row->form->show(value_of(row, settings), &text, e) ||
                 write_text(key, text.data, how, out, e);
    text_free(&text);
    return status ? -1 : 0;
}

static int write_row(const Option *row, const void *settings, int how, Text *out, Err *e)
{
    const char *key = row->key ? row->key : row->name;
    const void *field = value_of(row, settings);
    if (row->holds == HOLDS_FORM) return write_form(row, settings, key, how, out, e);
    if (row->holds == HOLDS_TEXT) return write_text(key, *(const char *const *)field, how, out, e);
    if (row->holds == HOLDS_TEXTS) return write_texts(row, settings, key, how, out, e);
    if (row->type == OPTION_CHOICE)
        return write_text(key, row->words((size_t)whole_of(row, field)), how, out, e);
    if (options_write_key(key, how, out, e)) return -1;
    if (row->holds == HOLDS_DOUBLE) return json_put_f64(out, *(const double *)field, e);
    uint64_t whole = whole_of(row, field);
    if (row->type == OPTION_FLAG && !(how & WRITE_BITS))
        return text_addf(out, e, "%s", whole ? "true" : "false");
    return text_addf(out, e, "%llu", (unsigned long long)whole);
}

/* The row whose name is the first `len` bytes of `name`. */
static const Option *row_named(const OptionGroup *g, const char *name, size_t len)
{
    for (size_t i = 0; i < g->count; i++)
        if (strlen(g->rows[i].name) == len && !memcmp(g->rows[i].name, name, len))
            return &g->rows[i];
    return NULL;
}

int options_write(const OptionGroup *g, const void *settings, const char *names, int how, Text *out,
                  Err *e)
{
    for (size_t i = 0; !names && i < g->count; i++)
        if (g->rows[i].holds != HOLDS_NOTHING && write_row(&g->rows[i], settings, how, out, e))
            return -1;
    for (size_t n; names && *names; names += n + (names[n] == ' ')) {
        n = strcspn(names, " ");
        const Option *row = row_named(g, names, n);
        assert(row && row->holds != HOLDS_NOTHING);
        if (!row || write_row(row, settings, how, out, e)) return -1;
    }
    return 0;
}

int options_free_key(const OptionGroup *g, const char *key)
{
    for (size_t i = 0; i < g->count; i++) {
        const Option *row = &g->rows[i];
        if (row->free && !strcmp(row->key ? row->key : row->name, key)) return 1;
    }
    return 0;
}
