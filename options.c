/* options.c - one table per subcommand: parsing, checking, help, configuration. See options.h. */
#include "options.h"

#include "io.h"
#include "json.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

const char option_required[] = "(required)";

/* Longest option name or word; what is typed beyond it cannot be near to anything. */
#define WORD_MAX 48
#define CONFIG_MAX_BYTES ((size_t)1 << 20)

static const Option builtin_rows[] = {
    {"config", 0, OPTION_FILE, NULL, NULL,
     "options from a JSON object {\"name\": value}; the command line beats it", BY_NAME},
    {"help", 'h', OPTION_FLAG, NULL, NULL, "the options that matter most", BY_NAME},
    {"help-all", 0, OPTION_FLAG, NULL, NULL, "every option, in groups", BY_NAME},
};
static const OptionGroup builtin_group = OPTION_GROUP("Always", builtin_rows);

/* ---- walking the table --------------------------------------------------------------------- */

/* Returns the g-th group: those of the table, then the one that every table has. */
static const OptionGroup *table_group(const OptionTable *t, size_t g)
{
    size_t n = 0;
    while (t->groups[n]) n++;
    return g < n ? t->groups[g] : g == n ? &builtin_group : NULL;
}

static int is_builtin(const Option *row)
{
    return row >= builtin_rows && row < builtin_rows + builtin_group.count;
}

/* As options_row, the built-in rows last. */
static const Option *table_row(const OptionTable *t, size_t i)
{
    const OptionGroup *group;
    for (size_t g = 0; (group = table_group(t, g)); g++) {
        if (i < group->count) return &group->rows[i];
        i -= group->count;
    }
    return NULL;
}

const Option *options_row(const OptionTable *t, size_t i)
{
    const Option *row = table_row(t, i);
    return row && is_builtin(row) ? NULL : row;
}

static OptionValue *value_find(const Options *o, const char *name, size_t len)
{
    for (size_t i = 0; i < o->count; i++) {
        const char *row = o->values[i].row->name;
        if (strlen(row) == len && !memcmp(row, name, len)) return &o->values[i];
    }
    return NULL;
}

/* ---- the nearest name ---------------------------------------------------------------------- */

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Optimal string alignment distance. d[i][j] = cost of a[0..i) to b[0..j), three rows at a time:
 *   d[i][j] = min(d[i-1][j] + 1, d[i][j-1] + 1, d[i-1][j-1] + [a_i != b_j],
 *                 d[i-2][j-2] + 1 where the last two letters are swapped) */
static size_t word_distance(const char *a, const char *b)
{
    size_t n = strlen(a), m = strlen(b), rows[3][WORD_MAX + 1];
    n = least(n, WORD_MAX);
    m = least(m, WORD_MAX);
    size_t *before = rows[0], *last = rows[1], *now = rows[2];
    for (size_t j = 0; j <= m; j++) {
        before[j] = 0;
        last[j] = j;
    }
    for (size_t i = 1; i <= n; i++) {
        now[0] = i;
        for (size_t j = 1; j <= m; j++) {
            now[j] = least(last[j], now[j - 1]) + 1;
            now[j] = least(now[j], last[j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                now[j] = least(now[j], before[j - 2] + 1);
        }
        size_t *oldest = before;
        before = last;
        last = now;
        now = oldest;
    }
    return last[m];
}

const char *nearest_word(const char *text, const char *const *words, size_t count)
{
    const char *best = NULL;
    size_t best_distance = SIZE_MAX;
    for (size_t i = 0; i < count; i++) {
        size_t d = word_distance(text, words[i]);
        if (d < best_distance) {
            best = words[i];
            best_distance = d;
        }
    }
    return best;
}

/* The option name of the table nearest to the len bytes of name: a letter is that of its option. In
 * a file the built-in ones do not count. */
static const char *nearest_option(const OptionTable *t, const char *name, size_t len, int in_file)
{
    char text[WORD_MAX + 1];
    len = least(len, WORD_MAX);
    memcpy(text, name, len);
    text[len] = 0;
    const char *best = NULL;
    const Option *row;
    for (size_t i = 0; (row = in_file ? options_row(t, i) : table_row(t, i)); i++) {
        const char *two[] = {best, row->name};
        if (in_file && len == 1 && row->letter == text[0]) return row->name;
        best = best ? nearest_word(text, two, 2) : row->name;
    }
    return best;
}

/* ---- allowed values ------------------------------------------------------------------------ */

/* Cuts the next alternative off *rest; 0 at the end. */
static int next_part(const char **rest, char separator, const char **part, size_t *len)
{
    if (!*rest) return 0;
    const char *end = strchr(*rest, separator);
    *part = *rest;
    *len = end ? (size_t)(end - *rest) : strlen(*rest);
    *rest = end ? end + 1 : NULL;
    return 1;
}

static int is_interval(const char *part, size_t len)
{
    return len > 0 && (part[0] == '[' || part[0] == '(');
}

int option_alternative(const Option *row, size_t i, const char **part, size_t *len)
{
    const char *rest = row->allowed;
    for (size_t w = 0; row->words && (*part = row->words(w)); w++) {
        *len = strlen(*part);
        if (i-- == 0) return 1;
    }
    while (next_part(&rest, '|', part, len))
        if (i-- == 0) return 1;
    return 0;
}

const char *option_allowed(const Option *row, char out[ALLOWED_MAX])
{
    const char *part;
    size_t n, at = 0;
    out[0] = 0;
    for (size_t i = 0; option_alternative(row, i, &part, &n); i++) {
        assert(at + n + 2 < ALLOWED_MAX);
        at += (size_t)snprintf(out + at, ALLOWED_MAX - at, "%s%.*s", i ? "|" : "", (int)n, part);
    }
    return out;
}

/* Is `text` one of the words that the row allows? */
static int word_allowed(const Option *row, const char *text, size_t len)
{
    const char *part;
    size_t n;
    for (size_t i = 0; option_alternative(row, i, &part, &n); i++) {
        if (!is_interval(part, n) && n == len && !memcmp(part, text, len)) return 1;
    }
    return 0;
}

/* Bytes as a number: 4096, 512M, 1.5G. */
static int parse_size(const char *text, size_t len, uint64_t *value)
{
    static const char units[] = "KMGT";
    double factor = 1, number = 0;
    const char *unit = len ? strchr(units, text[len - 1]) : NULL;
    if (unit && *unit) {
        for (const char *u = units; u <= unit; u++) factor *= 1024;
        len--;
    }
    if (factor == 1) return parse_u64(text, len, value);
    if (parse_f64(text, len, &number) || !(number >= 0) || number * factor >= 0x1p63) return -1;
    *value = (uint64_t)(number * factor);
    return 0;
}

/* Whole numbers are exact: a double would round a seed. */
int option_figure(OptionType type, const char *text, size_t len, OptionFigure *v)
{
    *v = (OptionFigure){0, 0};
    if (type == OPTION_COUNT) return parse_u64(text, len, &v->whole);
    if (type == OPTION_SIZE) return parse_size(text, len, &v->whole);
    return parse_f64(text, len, &v->number);
}

/* Is v below the end of an interval (closed: or equal to it)? Of the two members of a figure one
 * is in use, the other is 0 on both sides. */
static int below_end(OptionType type, const OptionFigure *v, const char *end, size_t len,
                     int closed)
{
    OptionFigure limit;
    if (len == 3 && !memcmp(end, "inf", 3)) return 1;
    int bad = option_figure(type, end, len, &limit);
    assert(!bad);
    if (bad) return 0;
    if (v->whole == limit.whole && v->number == limit.number) return closed;
    return v->whole <= limit.whole && v->number <= limit.number;
}

/* Is v in the interval `part`, "[low,high)"? */
static int interval_holds(OptionType type, const OptionFigure *v, const char *part, size_t n)
{
    const char *comma = memchr(part, ',', n);
    assert(comma && (part[n - 1] == ']' || part[n - 1] == ')'));
    const char *low = part + 1, *high = comma + 1;
    /* low <= v means: v is not below low. */
    return !below_end(type, v, low, (size_t)(comma - low), part[0] == '(') &&
           below_end(type, v, high, (size_t)(part + n - 1 - high), part[n - 1] == ']');
}

int option_in_range(const Option *row, const OptionFigure *v)
{
    const char *rest = row->allowed, *part;
    size_t n;
    int ranges = 0;
    while (next_part(&rest, '|', &part, &n)) {
        if (!is_interval(part, n)) continue;
        ranges++;
        if (interval_holds(row->type, v, part, n)) return 1;
    }
    return ranges == 0;
}

/* One number (not a list) against its range: 1 allowed. */
static int number_allowed(const Option *row, const char *text, size_t len)
{
    OptionFigure v;
    return !option_figure(row->type, text, len, &v) && option_in_range(row, &v);
}

/* What the type is called in messages. */
static const char *type_noun(OptionType type)
{
    switch (type) {
    case OPTION_FLAG: return "true or false";
    case OPTION_FILE: return "a file";
    case OPTION_DIR: return "a directory";
    case OPTION_COUNT: return "a whole number";
    case OPTION_NUMBER: return "a number";
    case OPTION_SIZE: return "a size such as 512M or 4G";
    case OPTION_CHOICE: return "one of";
    case OPTION_WORDS: return "a list such as a,b of";
    case OPTION_NUMBERS: return "numbers such as 1,0.5 in";
    case OPTION_TEXTS: return "a text that is not empty";
    case OPTION_TEXT: break;
    }
    return "a text";
}

/* The allowed word nearest to the value, into out; "" where there are no words. */
static void nearest_allowed(const Option *row, const char *text, size_t len, char *out)
{
    char typed[WORD_MAX + 1], word[WORD_MAX + 1];
    len = least(len, WORD_MAX);
    memcpy(typed, text, len);
    typed[len] = 0;
    out[0] = 0;
    const char *part;
    size_t n;
    for (size_t i = 0; option_alternative(row, i, &part, &n); i++) {
        if (is_interval(part, n) || n > WORD_MAX) continue;
        memcpy(word, part, n);
        word[n] = 0;
        const char *two[] = {out, word};
        if (!out[0] || nearest_word(typed, two, 2) == word) memcpy(out, word, n + 1);
    }
}

/* Longest value quoted in a message. */
#define QUOTE_MAX 100

int option_refuse(const Option *row, const char *text, size_t len, const char *place, Err *e)
{
    char near[WORD_MAX + 1] = "", allowed[ALLOWED_MAX];
    if (row->type == OPTION_CHOICE || row->type == OPTION_WORDS)
        nearest_allowed(row, text, len, near);
    option_allowed(row, allowed);
    return err_set(e, ERR_USAGE, "%s: found \"%.*s\"%s, allowed is %s%s%s%s%s", place,
                   (int)least(len, QUOTE_MAX), text, len > QUOTE_MAX ? "..." : "",
                   type_noun(row->type), *allowed ? " " : "", allowed,
                   near[0] ? "; nearest: " : "", near);
}

/* One value, or one element of a list. */
static int element_allowed(const Option *row, const char *text, size_t len)
{
    switch (row->type) {
    case OPTION_FLAG:
        return (len == 4 && !memcmp(text, "true", 4)) || (len == 5 && !memcmp(text, "false", 5));
    case OPTION_TEXT: return !row->allowed || word_allowed(row, text, len);
    case OPTION_TEXTS: return len > 0;
    case OPTION_FILE:
    case OPTION_DIR: return len > 0 && len < IO_PATH_MAX;
    case OPTION_CHOICE:
    case OPTION_WORDS: return word_allowed(row, text, len);
    case OPTION_COUNT:
    case OPTION_NUMBER:
    case OPTION_SIZE:
    case OPTION_NUMBERS: break;
    }
    return word_allowed(row, text, len) || number_allowed(row, text, len);
}

/* Checks a value. place names where it stands, for the message. */
static int value_check(const Option *row, const char *text, size_t len, const char *place, Err *e)
{
    if (strlen(text) != len) return err_set(e, ERR_USAGE, "%s: holds a 0 byte", place);
    if (utf8_check(text, len) != len)
        return err_set(e, ERR_USAGE, "%s: is not UTF-8; only UTF-8 texts and paths work", place);
    if (row->type != OPTION_WORDS && row->type != OPTION_NUMBERS) {
        if (element_allowed(row, text, len)) return 0;
        return option_refuse(row, text, len, place, e);
    }
    const char *rest = text, *part;
    size_t n;
    while (next_part(&rest, ',', &part, &n)) {
        if (!element_allowed(row, part, n)) return option_refuse(row, part, n, place, e);
    }
    return 0;
}

/* ---- the command line ---------------------------------------------------------------------- */

/* One more text; those of a stronger origin replace the others. */
static int texts_store(Options *o, OptionValue *v, const char *text, size_t len, OptionOrigin from,
                       Err *e)
{
    Text array = {0};
    if (v->from != from) v->n_texts = 0;
    const char **more = mem_realloc(v->texts, (v->n_texts + 1) * sizeof *more, e);
    if (!more) return -1;
    v->texts = more;
    if (!(more[v->n_texts] = pool_strndup(&o->pool, text, len, e))) return -1;
    v->n_texts++;
    v->from = from;
    int status = text_add(&array, "[", 1, e);
    for (size_t i = 0; i < v->n_texts && !status; i++)
        status = text_addf(&array, e, i ? ", " : "") ||
                 json_put_string(&array, more[i], strlen(more[i]), e);
    if (!status) status = text_add(&array, "]", 1, e);
    if (!status) v->text = pool_strndup(&o->pool, array.data, array.len, e);
    text_free(&array);
    return status || !v->text ? -1 : 0;
}

static int value_store(Options *o, OptionValue *v, const char *text, size_t len, OptionOrigin from,
                       const char *place, Err *e)
{
    if (value_check(v->row, text, len, place, e)) return -1;
    if (v->row->type == OPTION_TEXTS) return texts_store(o, v, text, len, from, e);
    v->text = pool_strndup(&o->pool, text, len, e);
    v->from = from;
    return v->text ? 0 : -1;
}

static int unknown_option(const Options *o, const char *name, size_t len, const char *place, Err *e)
{
    int in_file = strcmp(place, "command line") != 0;
    return err_set(e, ERR_USAGE,
                   "%s: unknown %s \"%.*s\"; nearest: %s (align %s --help-all lists all)", place,
                   in_file ? "key" : "option", (int)least(len, QUOTE_MAX), name,
                   nearest_option(o->table, name, len, in_file), o->table->command);
}

/* Is the key the operand's word, "RUN", in any case? */
static int is_operand(const char *operand, const char *key, size_t len)
{
    size_t i = 0;
    if (operand && *operand == '[') operand++; /* "[RUN]" */
    while (operand && i < len && operand[i] && (operand[i] | 0x20) == (key[i] | 0x20)) i++;
    return operand && i == len && (!operand[i] || operand[i] == ']');
}

/* Refuses a key that every command line has, but no file. */
static int misplaced_key(const Options *o, const char *key, const char *path, Err *e)
{
    if (!strcmp(key, "config"))
        return err_set(e, ERR_USAGE,
                       "%s: unknown key \"config\": a configuration file names no other; put its "
                       "keys into this one",
                       path);
    return err_set(e, ERR_USAGE,
                   "%s: unknown key \"%s\": it belongs on the command line: align %s --%s", path,
                   key, o->table->command, key);
}

/* Does this argument spell an option of the table, so that it cannot have been meant as a value? */
static int spells_option(const Options *o, const char *arg)
{
    if (!strcmp(arg, "--")) return 1;
    if (arg[0] != '-' || !arg[1]) return 0;
    if (arg[1] == '-') return value_find(o, arg + 2, strcspn(arg + 2, "=")) != NULL;
    for (size_t i = 0; i < o->count; i++) {
        if (!arg[2] && o->values[i].row->letter == arg[1]) return 1;
    }
    return 0;
}

/* next: the argument in its place, or NULL. */
static int value_missing(const Option *row, const char *place, const char *next, Err *e)
{
    char allowed[ALLOWED_MAX];
    option_allowed(row, allowed);
    return err_set(e, ERR_USAGE, "%s: its value is missing%s%s; allowed is %s%s%s", place,
                   next ? ", found the option " : "", next ? next : "", type_noun(row->type),
                   *allowed ? " " : "", allowed);
}

/* Takes an option whose name is known. attached: the text after '=' (or after the letter), or NULL.
 * *used = 1 where the next argument was its value. */
static int option_take(Options *o, OptionValue *v, const char *attached, const char *next,
                       int *used, const Log *log, Err *e)
{
    char place[WORD_MAX + 3];
    size_t n = strlen(v->row->name);
    assert(n <= WORD_MAX);
    memcpy(place, "--", 2);
    memcpy(place + 2, v->row->name, n + 1);
    *used = 0;
    if (v->row == &builtin_rows[1] || v->row == &builtin_rows[2]) {
        o->help = (int)(v->row - builtin_rows);
        return 0;
    }
    const char *text = attached;
    if (!text && v->row->type == OPTION_FLAG) {
        text = "true";
    } else if (!text) {
        if (!next || spells_option(o, next))
            return value_missing(v->row, place, next, e);
        text = next;
        *used = 1;
    }
    if (v->from == FROM_COMMAND && v->row->type != OPTION_TEXTS)
        log_note(log, 'w', "%s is given twice; the last one counts: %s", place, text);
    return value_store(o, v, text, strlen(text), FROM_COMMAND, place, e);
}

/* "-t4", "-t 4", "-h". */
static int short_option(Options *o, const char *arg, const char *next, int *used, const Log *log,
                        Err *e)
{
    for (size_t i = 0; i < o->count; i++) {
        OptionValue *v = &o->values[i];
        if (v->row->letter != arg[1]) continue;
        if (arg[2] && v->row->type == OPTION_FLAG) break;
        return option_take(o, v, arg[2] ? arg + 2 : NULL, next, used, log, e);
    }
    return unknown_option(o, arg, strlen(arg), "command line", e);
}

static int operand_take(Options *o, const char *arg, Err *e)
{
    const OptionTable *t = o->table;
    if (!t->operand)
        return err_set(e, ERR_USAGE, "command line: unexpected \"%.*s\"; align %s takes no operand",
                       QUOTE_MAX, arg, t->command);
    if (o->operand)
        return err_set(e, ERR_USAGE, "command line: unexpected \"%.*s\"; align %s takes one %s",
                       QUOTE_MAX, arg, t->command, t->operand);
    if (!*arg) return err_set(e, ERR_USAGE, "command line: %s is empty", t->operand);
    o->operand = pool_strndup(&o->pool, arg, strlen(arg), e);
    return o->operand ? 0 : -1;
}

static int parse_arguments(Options *o, int argc, const char *const *argv, const Log *log, Err *e)
{
    int only_operands = 0;
    for (int i = 0; i < argc && !o->help; i++) {
        const char *arg = argv[i], *next = i + 1 < argc ? argv[i + 1] : NULL;
        int used = 0, status;
        if (only_operands || arg[0] != '-' || !arg[1]) {
            status = operand_take(o, arg, e);
        } else if (!strcmp(arg, "--")) {
            only_operands = 1;
            status = 0;
        } else if (arg[1] != '-') {
            status = short_option(o, arg, next, &used, log, e);
        } else {
            size_t n = strcspn(arg + 2, "=");
            OptionValue *v = value_find(o, arg + 2, n);
            if (!v) return unknown_option(o, arg, strcspn(arg, "="), "command line", e);
            status = option_take(o, v, arg[2 + n] ? arg + 3 + n : NULL, next, &used, log, e);
        }
        if (status) return -1;
        i += used;
    }
    return 0;
}

/* ---- the configuration file ---------------------------------------------------------------- */

/* A JSON value as one would type it: numbers, strings, true/false, and lists with commas. */
static int json_spelling(const Option *row, const Json *j, const char *place, Text *out, Err *e)
{
    uint64_t whole;
    char allowed[ALLOWED_MAX];
    int flag = row->type == OPTION_FLAG;
    if (flag != (j->type == JSON_TRUE || j->type == JSON_FALSE))
        return err_set(e, ERR_USAGE, "%s: allowed is %s%s%s", place, type_noun(row->type),
                       *option_allowed(row, allowed) ? " " : "", allowed);
    if (flag) return text_addf(out, e, "%s", j->type == JSON_TRUE ? "true" : "false");
    if (j->type == JSON_NUMBER && row->type == OPTION_COUNT && !json_u64(j, &whole))
        return text_addf(out, e, "%llu", (unsigned long long)whole); /* 4.0 counts as 4 */
    if (j->type == JSON_NUMBER || j->type == JSON_STRING) return text_add(out, j->text, j->len, e);
    int list = row->type == OPTION_WORDS || row->type == OPTION_NUMBERS;
    if (j->type != JSON_ARRAY || !list)
        return err_set(e, ERR_USAGE, "%s: allowed is %s, not an array or object", place,
                       type_noun(row->type));
    for (const Json *item = j->child; item; item = item->next) {
        if (item->type != JSON_NUMBER && item->type != JSON_STRING)
            return err_set(e, ERR_USAGE, "%s: its elements must be texts or numbers", place);
        if (text_add(out, item->text, item->len, e)) return -1;
        if (item->next && text_add(out, ",", 1, e)) return -1;
    }
    return 0;
}

/* One member of the file. */
static int config_member(Options *o, const Json *j, const char *path, Err *e)
{
    /* The path may be long: the message names the key in any case. */
    char place[QUOTE_MAX + WORD_MAX + 8];
    if (!strncmp(j->key, "//", 2)) return 0; /* a comment */
    if (!strcmp(j->key, "command")) {
        if (json_is(j, o->table->command)) return 0;
        return err_set(e, ERR_USAGE, "%s: \"command\" is %.*s, this is align %s", path,
                       j->type == JSON_STRING ? (int)least(j->len, QUOTE_MAX) : 11,
                       j->type == JSON_STRING ? j->text : "not a text", o->table->command);
    }
    OptionValue *v = value_find(o, j->key, j->key_len);
    if (v && is_builtin(v->row)) return misplaced_key(o, j->key, path, e);
    if (!v && is_operand(o->table->operand, j->key, j->key_len))
        return err_set(e, ERR_USAGE,
                       "%s: unknown key \"%s\": it belongs on the command line: align %s %s", path,
                       j->key, o->table->command, o->table->operand);
    if (!v) return unknown_option(o, j->key, j->key_len, path, e);
    if (j->type == JSON_NULL || v->from == FROM_COMMAND) return 0;
    size_t n = strlen(path), skip = n > QUOTE_MAX ? n - QUOTE_MAX : 0;
    Text where = {0}, text = {0};
    int status = text_addf(&where, e, "%s: \"%s\"", path + skip, v->row->name);
    if (!status) {
        memcpy(place, where.data, where.len + 1);
        if (v->row->type != OPTION_TEXTS || j->type != JSON_ARRAY)
            status = json_spelling(v->row, j, place, &text, e);
    }
    const char *spelling = text.data ? text.data : "";
    int each = v->row->type == OPTION_TEXTS && j->type == JSON_ARRAY;
    for (const Json *item = each ? j->child : NULL; item && !status; item = item->next)
        status = item->type == JSON_STRING
                     ? value_store(o, v, item->text, item->len, FROM_FILE, place, e)
                     : err_set(e, ERR_USAGE, "%s: its elements must be texts", place);
    if (!status && !each) status = value_store(o, v, spelling, text.len, FROM_FILE, place, e);
    text_free(&where);
    text_free(&text);
    return status;
}

/* A run of the loop writes its configuration in groups and with words of its own, by which it knows
 * itself when it is resumed; "align" marks such a file. */
static int check_record(const Json *root, const char *path, Err *e)
{
    const Json *of = json_get(root, "align");
    if (!of) return 0;
    return err_set(e, ERR_USAGE,
                   "%s: is what a run of align %.20s recorded of itself, not a file of options%s",
                   path, of->type == JSON_STRING ? of->text : "?",
                   advice("print-config", ": --resume -o RUN goes on with that run, and "
                                          "--print-config makes a file for --config"));
}

static int parse_config(Options *o, const char *path, Err *e)
{
    char *bytes;
    size_t len;
    Pool pool = {0};
    if (io_read_file(path, CONFIG_MAX_BYTES, &bytes, &len, e)) return -1;
    const Json *root = json_parse(&pool, bytes, len, path, JSON_ALLOW_BOM, e);
    int status = root ? 0 : -1;
    if (root && root->type != JSON_OBJECT)
        status = err_set(e, ERR_DATA, "%s: must hold one JSON object {\"option\": value}", path);
    if (!status) status = check_record(root, path, e);
    for (const Json *j = status ? NULL : root->child; j && !status; j = j->next)
        status = config_member(o, j, path, e);
    pool_free(&pool);
    mem_free(bytes);
    return status;
}

/* ---- the whole ----------------------------------------------------------------------------- */

static int check_required(const Options *o, Err *e)
{
    for (size_t i = 0; i < o->count; i++) {
        const OptionValue *v = &o->values[i];
        if (v->row->value != option_required || v->text) continue;
        char letter[] = {'-', v->row->letter, ' ', 0};
        return err_set(e, ERR_USAGE, "--%s is missing: align %s needs %s%s (%s)", v->row->name,
                       o->table->command, v->row->letter ? letter : "", type_noun(v->row->type),
                       v->row->help);
    }
    const char *operand = o->table->operand;
    if (operand && operand[0] != '[' && !o->operand)
        return err_set(e, ERR_USAGE, "%s is missing: align %s %s", operand, o->table->command,
                       operand);
    return 0;
}

int options_parse(Options *o, const OptionTable *t, int argc, const char *const *argv,
                  const Log *log, Err *e)
{
    memset(o, 0, sizeof *o);
    o->table = t;
    while (table_row(t, o->count)) o->count++;
    o->values = mem_calloc(o->count, sizeof *o->values, e);
    if (!o->values) return -1;
    for (size_t i = 0; i < o->count; i++) {
        const Option *row = table_row(t, i);
        o->values[i].row = row;
        o->values[i].text = row->value == option_required ? NULL : row->value;
    }
    if (parse_arguments(o, argc, argv, log, e)) return -1;
    if (o->help) return 0;
    const char *config = option_text(o, "config");
    if (config && parse_config(o, config, e)) return -1;
    return check_required(o, e);
}

void options_free(Options *o)
{
    for (size_t i = 0; o->values && i < o->count; i++) mem_free(o->values[i].texts);
    pool_free(&o->pool);
    mem_free(o->values);
    memset(o, 0, sizeof *o);
}

/* ---- values -------------------------------------------------------------------------------- */

static const OptionValue *value_of(const Options *o, const char *name)
{
    const OptionValue *v = value_find(o, name, strlen(name));
    assert(v);
    return v;
}

const char *option_text(const Options *o, const char *name)
{
    return value_of(o, name)->text;
}

int option_flag(const Options *o, const char *name)
{
    assert(value_of(o, name)->row->type == OPTION_FLAG);
    return option_is(o, name, "true");
}

int option_is(const Options *o, const char *name, const char *word)
{
    const char *text = option_text(o, name);
    return text && !strcmp(text, word);
}

uint64_t option_count(const Options *o, const char *name)
{
    const OptionValue *v = value_of(o, name);
    uint64_t value = 0;
    size_t len = v->text ? strlen(v->text) : 0;
    assert(v->row->type == OPTION_COUNT || v->row->type == OPTION_SIZE);
    int bad = v->row->type == OPTION_SIZE ? parse_size(v->text, len, &value)
                                          : parse_u64(v->text, len, &value);
    assert(!bad);
    return bad ? 0 : value;
}

double option_number(const Options *o, const char *name)
{
    const OptionValue *v = value_of(o, name);
    double value = 0;
    assert(v->row->type == OPTION_NUMBER && v->text);
    int bad = parse_f64(v->text, strlen(v->text), &value);
    assert(!bad);
    return bad ? 0 : value;
}

int option_given(const Options *o, const char *name)
{
    return value_of(o, name)->from != FROM_DEFAULT;
}

int option_exists(const Options *o, const char *name)
{
    return value_find(o, name, strlen(name)) != NULL;
}

/* Element i of a comma-separated value. */
static int list_part(const Options *o, const char *name, size_t i, const char **part, size_t *len)
{
    const char *rest = option_text(o, name);
    for (size_t at = 0; next_part(&rest, ',', part, len); at++) {
        if (at == i) return 1;
    }
    return 0;
}

int option_word(const Options *o, const char *name, size_t i, char *word, size_t size)
{
    const char *part;
    size_t len;
    assert(value_of(o, name)->row->type == OPTION_WORDS);
    if (!list_part(o, name, i, &part, &len)) return 0;
    assert(len < size);
    memcpy(word, part, len);
    word[len] = 0;
    return 1;
}

/* ---- help ---------------------------------------------------------------------------------- */

#define HELP_WIDTH 96
#define HELP_COLUMN 30

const char *option_noun(const Option *row)
{
    switch (row->type) {
    case OPTION_FILE: return "FILE";
    case OPTION_DIR: return "DIR";
    case OPTION_COUNT: return "N";
    case OPTION_NUMBER: return "X";
    case OPTION_SIZE: return "SIZE";
    case OPTION_CHOICE: return "NAME";
    case OPTION_WORDS: return "NAME,...";
    case OPTION_NUMBERS: return "X,...";
    case OPTION_TEXT:
    case OPTION_TEXTS: return "TEXT";
    case OPTION_FLAG: break;
    }
    return "";
}

/* Words of `text` from column `at` on, new lines starting at `indent`; *at moves along. */
static int add_wrapped(Text *out, const char *text, size_t indent, size_t *at, Err *e)
{
    const char *rest = text, *part;
    size_t n;
    while (next_part(&rest, ' ', &part, &n)) {
        if (*at > indent && *at + 1 + n > HELP_WIDTH) {
            if (text_addf(out, e, "\n%*s", (int)indent, "")) return -1;
            *at = indent;
        } else if (*at > indent) {
            if (text_add(out, " ", 1, e)) return -1;
            *at += 1;
        }
        if (text_add(out, part, n, e)) return -1;
        *at += n;
    }
    return 0;
}

int option_facts(const Option *row, Text *out, Err *e)
{
    int status = text_addf(out, e, "%s", row->help);
    int has_default = row->value && row->value != option_required;
    const char *part;
    size_t n, i = 0;
    if (!status && (option_alternative(row, 0, &part, &n) || row->value)) {
        status = text_add(out, " [", 2, e);
        for (; !status && option_alternative(row, i, &part, &n); i++)
            status = text_addf(out, e, "%s%.*s", i ? " | " : "", (int)n, part);
        if (!status && row->value)
            status = text_addf(out, e, "%s%s%s", i ? "; " : "", has_default ? "default " : "",
                               has_default ? row->value : "required");
        if (!status) status = text_add(out, "]", 1, e);
    }
    return status;
}

static int add_facts(Text *out, const Option *row, size_t *at, Err *e)
{
    Text facts = {0};
    int status = option_facts(row, &facts, e);
    if (!status) status = add_wrapped(out, facts.data, HELP_COLUMN, at, e);
    text_free(&facts);
    return status;
}

static int help_row(const Option *row, Text *out, Err *e)
{
    size_t start = out->len;
    char letter[] = {'-', row->letter, ',', 0};
    const char *value = option_noun(row);
    if (text_addf(out, e, "  %-3s --%s%s%s", row->letter ? letter : "", row->name,
                  *value ? " " : "", value))
        return -1;
    size_t at = out->len - start;
    if (at + 2 > HELP_COLUMN) {
        if (text_add(out, "\n", 1, e)) return -1;
        at = 0;
    }
    if (text_addf(out, e, "%*s", (int)(HELP_COLUMN - at), "")) return -1;
    at = HELP_COLUMN;
    if (add_facts(out, row, &at, e)) return -1;
    return text_add(out, "\n", 1, e);
}

static int help_group(const OptionGroup *group, Text *out, Err *e)
{
    if (text_addf(out, e, "\n%s:\n", group->title)) return -1;
    for (size_t i = 0; i < group->count; i++)
        if (help_row(&group->rows[i], out, e)) return -1;
    return 0;
}

/* The options that t->first names, in its order. */
static int help_first(const OptionTable *t, Text *out, Err *e)
{
    const char *rest = t->first, *name;
    size_t n;
    if (text_addf(out, e, "\nThe options that matter most:\n")) return -1;
    while (next_part(&rest, ' ', &name, &n)) {
        const Option *row;
        size_t i = 0;
        while ((row = options_row(t, i)) && (strlen(row->name) != n || memcmp(row->name, name, n)))
            i++;
        assert(row);
        if (help_row(row, out, e)) return -1;
    }
    return help_group(&builtin_group, out, e) ||
                   text_addf(out, e, "\nalign %s --help-all shows the others, in groups.\n",
                             t->command)
               ? -1
               : 0;
}

int options_help(const OptionTable *t, int all, Text *out, Err *e)
{
    if (text_addf(out, e, "align %s - %s\n\nusage: align %s%s%s [options]\n", t->command,
                  t->summary, t->command, t->operand ? " " : "", t->operand ? t->operand : ""))
        return -1;
    if (t->example && text_addf(out, e, "       %s\n", t->example)) return -1;
    if (t->first && !all) return help_first(t, out, e);
    const OptionGroup *group;
    for (size_t g = 0; (group = table_group(t, g)); g++)
        if (help_group(group, out, e)) return -1;
    return 0;
}

/* ---- the resolved configuration ------------------------------------------------------------ */

/* Writes one element as JSON: numbers as numbers, everything else as text. */
static int json_element(const Option *row, const char *part, size_t n, Text *out, Err *e)
{
    uint64_t count;
    double number;
    int numeric = row->type == OPTION_NUMBER || row->type == OPTION_NUMBERS;
    if (row->type == OPTION_COUNT && !parse_u64(part, n, &count))
        return text_addf(out, e, "%llu", (unsigned long long)count);
    if (numeric && !parse_f64(part, n, &number)) return json_put_f64(out, number, e);
    return json_put_string(out, part, n, e);
}

static int json_value(const OptionValue *v, Text *out, Err *e)
{
    int list = v->row->type == OPTION_WORDS || v->row->type == OPTION_NUMBERS;
    if (v->row->type == OPTION_FLAG)
        return text_addf(out, e, "%s", v->text && !strcmp(v->text, "true") ? "true" : "false");
    if (!v->text) return text_add(out, "null", 4, e);
    if (v->row->type == OPTION_TEXTS) return text_addf(out, e, "%s", v->text);
    if (!list) return json_element(v->row, v->text, strlen(v->text), out, e);
    const char *rest = v->text, *part;
    size_t n;
    if (text_add(out, "[", 1, e)) return -1;
    while (next_part(&rest, ',', &part, &n)) {
        if (json_element(v->row, part, n, out, e)) return -1;
        if (rest && text_add(out, ", ", 2, e)) return -1;
    }
    return text_add(out, "]", 1, e);
}

/* "//name": what the option means. */
static int put_comment(Text *out, const Option *row, Err *e)
{
    Text facts = {0};
    int status = text_addf(out, e, "\n  \"//%s\": ", row->name) || option_facts(row, &facts, e) ||
                 json_put_string(out, facts.data, facts.len, e) || text_add(out, ",", 1, e);
    text_free(&facts);
    return status ? -1 : 0;
}

/* Is the value a default that would say something else if it were given? */
static int stays_unset(const OptionValue *v, const char *const *unset)
{
    for (; *unset; unset++)
        if (!strcmp(*unset, v->row->name)) return v->from == FROM_DEFAULT;
    return 0;
}

int options_commented(const Options *o, const OptionGroup *without, const char *const *unset,
                      Text *out, Err *e)
{
    const OptionGroup *group;
    if (text_addf(out, e,
                  "{\n  \"//\": \"names that begin with // are comments; null = not given\","
                  "\n  \"command\": \"%s\"",
                  o->table->command))
        return -1;
    for (size_t g = 0; (group = o->table->groups[g]); g++) {
        if (group == without) continue;
        if (text_addf(out, e, ",\n\n  \"// ---- %s\": \"\"", group->title)) return -1;
        for (size_t i = 0; i < group->count; i++) {
            const Option *row = &group->rows[i];
            const OptionValue *v = value_find(o, row->name, strlen(row->name));
            if (text_add(out, ",", 1, e) || put_comment(out, row, e) ||
                text_addf(out, e, "\n  \"%s\": ", row->name) ||
                (stays_unset(v, unset) ? text_add(out, "null", 4, e) : json_value(v, out, e)))
                return -1;
        }
    }
    return text_addf(out, e, "\n}\n");
}

/* "name=value", quoted where a reader could not see its end. */
static int describe_value(const OptionValue *v, Text *out, Err *e)
{
    int open = !*v->text || (strchr(v->text, ' ') && v->row->type != OPTION_TEXTS);
    const char *quote = open ? "\"" : "";
    return text_addf(out, e, "%s=%s%s%s", v->row->name, quote, v->text, quote);
}

int options_describe(const Options *o, size_t width, Text *out, Err *e)
{
    size_t at = 0;
    Text item = {0};
    int status = 0;
    for (size_t i = 0; i < 2 * o->count && !status; i++) {
        const OptionValue *v = &o->values[i % o->count];
        int given_pass = i < o->count;
        if (!v->text || (v->from != FROM_DEFAULT) != given_pass) continue;
        item.len = 0;
        status = describe_value(v, &item, e);
        const char *gap = at == 0 ? "" : at + 1 + item.len > width ? "\n" : " ";
        if (!status) status = text_addf(out, e, "%s%s", gap, item.data);
        at = *gap == ' ' ? at + 1 + item.len : item.len;
    }
    text_free(&item);
    if (!status && at) status = text_add(out, "\n", 1, e);
    return status;
}

/* ---- OPTIONS.md ---------------------------------------------------------------------------- */

int options_has(const OptionTable *t, const Option *row)
{
    const Option *have;
    for (size_t i = 0; (have = options_row(t, i)); i++) {
        if (have == row) return 1;
    }
    return 0;
}

/* | `--name`, `-n` | commands | allowed | default | help | */
static int markdown_row(const OptionTable *const *tables, size_t count, const Option *row,
                        Text *out, Err *e)
{
    char letter[] = {',', ' ', '`', '-', row->letter, '`', 0};
    if (text_addf(out, e, "| `--%s`%s | ", row->name, row->letter ? letter : "")) return -1;
    size_t takers = 0;
    for (size_t t = 0; t < count; t++) {
        if (!options_has(tables[t], row)) continue;
        if (text_addf(out, e, "%s%s", takers++ ? " " : "", tables[t]->command)) return -1;
    }
    const char *part;
    size_t n, i = 0;
    if (text_addf(out, e, " | ")) return -1;
    for (; option_alternative(row, i, &part, &n); i++) {
        if (text_addf(out, e, "%s`%.*s`", i ? " " : "", (int)n, part)) return -1;
    }
    if (!i && text_addf(out, e, "%s", option_noun(row))) return -1;
    const char *value = row->value ? row->value : "";
    const char *tick = row->value && row->value != option_required ? "`" : "";
    return text_addf(out, e, " | %s%s%s | %s |\n", tick, value, tick, row->help);
}

/* All rows of the tables end to end, each once, into *list: its length, or 0 without memory. */
static size_t rows_collect(const OptionTable *const *tables, size_t count, const Option ***list,
                           Err *e)
{
    const Option *row;
    size_t most = 0, n = 0;
    for (size_t t = 0; t < count; t++)
        for (size_t i = 0; options_row(tables[t], i); i++) most++;
    *list = mem_calloc(most, sizeof **list, e);
    for (size_t t = 0; t < count && *list; t++)
        for (size_t i = 0; (row = options_row(tables[t], i)); i++) {
            size_t k = 0;
            while (k < n && (*list)[k] != row) k++;
            if (k == n) (*list)[n++] = row;
        }
    return n;
}

int options_each(const OptionTable *const *tables, size_t count, OptionPut put, Text *out, Err *e)
{
    const Option **list;
    int status = 0;
    size_t n = rows_collect(tables, count, &list, e);
    for (size_t i = 0; i < n && !status; i++) {
        /* Rows of one name stand together, though commands may mean different things by it. */
        const char *name = list[i] ? list[i]->name : NULL;
        for (size_t k = i; name && k < n && !status; k++) {
            if (!list[k] || strcmp(list[k]->name, name)) continue;
            status = put(tables, count, list[k], out, e);
            list[k] = NULL; /* done */
        }
    }
    mem_free(list);
    return n ? status : -1;
}

int options_markdown(const OptionTable *const *tables, size_t count, Text *out, Err *e)
{
    if (text_addf(out, e,
                  "| option | commands | allowed | default | meaning |\n"
                  "|---|---|---|---|---|\n"))
        return -1;
    return options_each(tables, count, markdown_row, out, e);
}
