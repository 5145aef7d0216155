/* options_when.c - refuses an option that the choice of another option leaves unread. */
#include "options.h"

#include <string.h>

/* One condition of Option.when. */
typedef struct {
    const OptionValue *decider; /* NULL: the table has none of its options */
    enum { IS_SET, IS_NOT_SET, HAS_WORD, HAS_NO_WORD, NEVER } kind;
    const char *words; /* with '|' between, len bytes */
    size_t len;
} Condition;

static const OptionValue *find(const Options *o, const char *name, size_t len)
{
    for (size_t i = 0; i < o->count; i++)
        if (strlen(o->values[i].row->name) == len && !memcmp(o->values[i].row->name, name, len))
            return &o->values[i];
    return NULL;
}

static int same_value(OptionType type, const char *a, size_t n, const char *b, size_t m)
{
    OptionFigure x, y;
    int figures = type == OPTION_COUNT || type == OPTION_NUMBER || type == OPTION_SIZE;
    if (n == m && !memcmp(a, b, n)) return 1;
    return figures && !option_figure(type, a, n, &x) && !option_figure(type, b, m, &y) &&
           (type == OPTION_NUMBER ? x.number == y.number : x.whole == y.whole);
}

/* Does the value say anything else than the default does? */
static int says(const OptionValue *v)
{
    const char *usual = v->row->value;
    if (!v->text) return 0;
    if (v->row->type == OPTION_FLAG) return !strcmp(v->text, "true");
    return !usual || !same_value(v->row->type, v->text, strlen(v->text), usual, strlen(usual));
}

/* Is one of the words, or for no value the empty word, among these? */
static int holds_word(const OptionValue *v, const char *words, size_t len)
{
    const char *text = v->text ? v->text : "";
    int list = v->row->type == OPTION_WORDS;
    for (;;) {
        size_t n = list ? strcspn(text, ",") : strlen(text), m;
        for (size_t at = 0; at <= len; at += m + 1) {
            for (m = 0; at + m < len && words[at + m] != '|';) m++;
            if (same_value(v->row->type, text, n, words + at, m)) return 1;
        }
        if (!text[n]) return 0;
        text += n + 1;
    }
}

/* Of the options that are named with '/' between, the first that says something, else the last that
 * the table has. */
static const OptionValue *decider(const Options *o, const char *names, size_t len)
{
    const OptionValue *last = NULL;
    for (size_t from = 0, n; from < len; from += n + 1) {
        for (n = 0; from + n < len && names[from + n] != '/';) n++;
        const OptionValue *v = find(o, names + from, n);
        if (v) last = v;
        if (v && says(v)) break;
    }
    return last;
}

/* Reads the condition at *at and moves behind it; 0 at the end. */
static int next_condition(const Options *o, const char **at, Condition *c)
{
    *c = (Condition){.kind = IS_SET};
    *at += strspn(*at, " ");
    const char *names = *at, *end = names + strcspn(names, " ");
    *at = end;
    if (names == end) return 0;
    size_t command = strcspn(names, " :");
    if (names + command < end) {
        const char *here = o->table->command;
        int of = strlen(here) == command && !memcmp(here, names, command);
        names += command + 1;
        if (of && names == end) c->kind = NEVER;
        if (!of || names == end) return 1;
    }
    if (*names == '!') {
        c->kind = IS_NOT_SET;
        names++;
    }
    size_t len = strcspn(names, " =!");
    c->decider = decider(o, names, len);
    if (names + len == end) return 1;
    c->kind = names[len] == '=' ? HAS_WORD : HAS_NO_WORD;
    c->words = names + len + 1;
    c->len = (size_t)(end - c->words);
    return 1;
}

static int holds(const Condition *c)
{
    if (c->kind == NEVER) return 0;
    if (!c->decider) return 1;
    if (c->kind == IS_SET || c->kind == IS_NOT_SET)
        return says(c->decider) == (c->kind == IS_SET);
    if (c->decider->row->type == OPTION_FLAG) return says(c->decider);
    return holds_word(c->decider, c->words, c->len) == (c->kind == HAS_WORD);
}

/* "not read with --judge rules, allowed with --judge model" */
static int put_reason(const Options *o, const Condition *c, Text *out, Err *e)
{
    const OptionValue *v = c->decider;
    if (c->kind == NEVER) return text_addf(out, e, "align %s does not read it", o->table->command);
    const char *name = v->row->name;
    int without = c->kind == IS_SET || (c->kind == HAS_WORD && !v->text);
    int bare = without || c->kind == IS_NOT_SET || v->row->type == OPTION_FLAG;
    if (text_addf(out, e, "not read with%s --%s%s%.60s", without ? "out" : "", name,
                  bare ? "" : " ", bare ? "" : v->text))
        return -1;
    if (c->kind != HAS_WORD) return 0;
    size_t len = c->len && c->words[c->len - 1] == '|' ? c->len - 1 : c->len;
    return without ? text_addf(out, e, " %.*s", (int)len, c->words)
                   : text_addf(out, e, ", allowed with --%s %.*s", name, (int)len, c->words);
}

/* Refuses or warns of one value, if a condition does not hold. */
static int check_value(const Options *o, const OptionValue *v, const Log *log, Err *e)
{
    const char *at = v->row->when;
    int mild = *at == '~' || v->from == FROM_FILE;
    Condition c;
    at += *at == '~';
    while (next_condition(o, &at, &c)) {
        if (holds(&c)) continue;
        Text reason = {0};
        int status = put_reason(o, &c, &reason, e);
        if (!status && mild)
            log_note(log, 'w', "--%s: %s", v->row->name, reason.data);
        else if (!status)
            status = err_set(e, ERR_USAGE, "--%s: %s", v->row->name, reason.data);
        text_free(&reason);
        return status;
    }
    return 0;
}

int options_check_when(const Options *o, const Log *log, Err *e)
{
    for (size_t i = 0; i < o->count; i++) {
        const OptionValue *v = &o->values[i];
        if (v->row->when && v->from != FROM_DEFAULT && says(v) && check_value(o, v, log, e))
            return -1;
    }
    return 0;
}

int options_only(const Options *o, const char *names, const char *with, Err *e)
{
    for (size_t i = 0; i < o->count; i++) {
        const OptionValue *v = &o->values[i];
        size_t len = strlen(v->row->name);
        int named = 0;
        for (const char *at = names; *at && !named; at += strspn(at, " ")) {
            size_t n = strcspn(at, " ");
            named = n == len && !memcmp(at, v->row->name, n);
            at += n;
        }
        if (!named && v->from == FROM_COMMAND && says(v))
            return err_set(e, ERR_USAGE, "--%s: not read with --%s", v->row->name, with);
    }
    return 0;
}

int option_says(const Options *o, const char *name)
{
    const OptionValue *v = find(o, name, strlen(name));
    return !says(v) ? 0 : v->from == FROM_COMMAND ? 2 : 1;
}
