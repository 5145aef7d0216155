/* template_text.c - Python's str: white space, letter case, replacing, lines, % and numbers. */
#include "template_parts.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- white space --------------------------------------------------------------------------- */

/* str.isspace of one character. */
static int is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
           c == 0x205F || c == 0x3000;
}

/* Bytes of the white space character at `bytes`; 0 where there is none. */
size_t space_step(const char *bytes, size_t len)
{
    size_t step = utf8_step(bytes, len);
    return step && is_space(utf8_code(bytes, step)) ? step : 0;
}

size_t space_before(const char *bytes, size_t len)
{
    size_t start;
    return len && is_space(utf8_before(bytes, len, &start)) ? len - start : 0;
}

/* Is the character of `step` bytes one of those in set (NULL: white space)? */
static int in_set(const char *bytes, size_t step, const Str *set)
{
    if (!set) return is_space(utf8_code(bytes, step));
    for (size_t at = 0, n; at < set->len; at += n) {
        n = utf8_step(set->bytes + at, set->len - at);
        if (n == step && !memcmp(set->bytes + at, bytes, n)) return 1;
    }
    return 0;
}

int str_strip(Run *r, Value v, Value chars, int left, int right, Value *out)
{
    const Str *s = v.u.s, *set = NULL;
    if (chars.kind == V_STRING) set = chars.u.s;
    else if (chars.kind != V_NONE && chars.kind != V_MISSING)
        return fail(r, "found a %s for strip, expected str or None", kind_name(chars));
    size_t from = 0, to = s->len, start;
    if (charge(r, s->len / 16 + (set ? set->len : 0))) return -1;
    while (left && from < to) {
        size_t n = utf8_step(s->bytes + from, to - from);
        if (!in_set(s->bytes + from, n, set) || charge(r, set ? set->len / 16 : 0)) break;
        from += n;
    }
    while (right && to > from) {
        utf8_before(s->bytes, to, &start);
        if (!in_set(s->bytes + start, to - start, set) || charge(r, set ? set->len / 16 : 0)) break;
        to = start;
    }
    if (str_slice(r, s, from, to, out)) return -1;
    out->safe = v.safe;
    return 0;
}

/* The lines as splitlines cuts them; keep: with their ends. */
int str_lines(Run *r, Value v, int keep, List **out)
{
    const Str *s = v.u.s;
    List *l = run_alloc(r, 1, sizeof *l);
    size_t begin = 0;
    if (!l) return -1;
    for (size_t at = 0; at < s->len;) {
        size_t step = utf8_step(s->bytes + at, s->len - at), end = at;
        uint32_t c = utf8_code(s->bytes + at, step);
        at += step;
        if (!((c >= 10 && c <= 13) || (c >= 28 && c <= 30) || c == 0x85 || c == 0x2028 ||
              c == 0x2029))
            continue;
        if (c == '\r' && at < s->len && s->bytes[at] == '\n') at++;
        Value line;
        if (str_slice(r, s, begin, keep ? at : end, &line)) return -1;
        line.safe = v.safe;
        if (list_add(r, l, line)) return -1;
        begin = at;
    }
    Value rest;
    if (begin < s->len) {
        if (str_slice(r, s, begin, s->len, &rest)) return -1;
        rest.safe = v.safe;
        if (list_add(r, l, rest)) return -1;
    }
    *out = l;
    return 0;
}

/* ---- finding and replacing ----------------------------------------------------------------- */

/* Where `what` stands at or behind byte `from`; (size_t)-1 where it does not. */
size_t str_find(const Str *s, const Str *what, size_t from)
{
    if (what->len > s->len) return (size_t)-1;
    for (size_t last = s->len - what->len; from <= last; from++) {
        if (!what->len) return from;
        const char *at = memchr(s->bytes + from, what->bytes[0], last - from + 1);
        if (!at) break;
        from = (size_t)(at - s->bytes);
        if (!memcmp(at, what->bytes, what->len)) return from;
    }
    return (size_t)-1;
}

/* Steps for looking for `what` in the whole of s, at worst. */
int charge_find(Run *r, const Str *s, const Str *what)
{
    size_t cost;
    if (size_mul(s->len / 16 + 1, what->len / 16 + 1, &cost)) cost = (size_t)-1;
    return charge(r, cost);
}

/* count < 0: all. An empty `old` stands before every character and at the end. */
int str_replace(Run *r, const Str *s, const Str *old, const Str *fresh, int64_t count,
                Value *out)
{
    Builder b = {0};
    size_t at = 0;
    if (charge_find(r, s, old)) return -1;
    while (count != 0) {
        size_t found = str_find(s, old, at);
        if (found == (size_t)-1) break;
        if (build(r, &b, s->bytes + at, found - at, s->marks ? s->marks + at : NULL) ||
            build_str(r, &b, fresh))
            return -1;
        if (count > 0) count--;
        at = found + old->len;
        if (old->len) continue;
        if (at >= s->len) {
            at = s->len;
            break;
        }
        size_t step = utf8_step(s->bytes + at, s->len - at);
        if (build(r, &b, s->bytes + at, step, s->marks ? s->marks + at : NULL)) return -1;
        at += step;
        if (at == s->len && count != 0) {
            if (build_str(r, &b, fresh)) return -1;
            break;
        }
    }
    if (build(r, &b, s->bytes + at, s->len - at, s->marks ? s->marks + at : NULL)) return -1;
    return build_end(r, &b, out);
}

/* ---- letter case --------------------------------------------------------------------------- */

/* Has the character an upper and a lower case? */
int is_cased(uint32_t code)
{
    uint32_t out[3];
    for (int how = CASE_UPPER; how <= CASE_TITLE; how++)
        if (case_map(code, (Case)how, out) != 1 || out[0] != code) return 1;
    return 0;
}

/* Characters inside of words that have no case: marks and apostrophes. */
static int case_ignorable(uint32_t c)
{
    return c == '\'' || c == '.' || c == ':' || c == '^' || c == '`' || c == 0xA8 || c == 0xAD ||
           c == 0xAF || c == 0xB4 || c == 0xB7 || c == 0xB8 || (c >= 0x300 && c <= 0x36F) ||
           c == 0x2018 || c == 0x2019 || c == 0x2024 || c == 0x2027 ||
           (c >= 0x200B && c <= 0x200F) || (c >= 0x1F3FB && c <= 0x1F3FF) || c == 0xFE0F;
}

/* Is the sigma at byte `at` the last letter of a word? */
static int sigma_ends(const Str *s, size_t at)
{
    size_t before = at, behind = at + 2, start;
    int cased = 0;
    while (before > 0) {
        uint32_t c = utf8_before(s->bytes, before, &start);
        before = start;
        if (case_ignorable(c)) continue;
        cased = is_cased(c);
        break;
    }
    if (!cased) return 0;
    while (behind < s->len) {
        uint32_t c = utf8_next(s->bytes, &behind);
        if (!case_ignorable(c)) return !is_cased(c);
    }
    return 1;
}

int change_case(Run *r, Builder *b, const Str *s, size_t from, size_t to, Case how)
{
    for (size_t at = from; at < to;) {
        size_t step = utf8_step(s->bytes + at, to - at);
        uint32_t code = utf8_code(s->bytes + at, step), out[3];
        size_t n = case_map(code, how, out);
        if (how == CASE_LOWER && code == 0x3A3 && sigma_ends(s, at)) out[0] = 0x3C2;
        for (size_t i = 0; i < n; i++)
            if (build_code(r, b, out[i], s->marks ? s->marks[at] : 0)) return -1;
        if (charge(r, 4)) return -1;
        at += step;
    }
    return 0;
}

/* ---- numbers ------------------------------------------------------------------------------- */

/* The text of a number without white space and underscores; 1 where it cannot be one. */
static int number_text(const Str *s, char out[400], size_t *len)
{
    size_t from = 0, to = s->len, n;
    while (from < to && (n = space_step(s->bytes + from, to - from)) > 0) from += n;
    while (to > from && (n = space_before(s->bytes + from, to - from)) > 0) to -= n;
    *len = 0;
    for (size_t i = from; i < to; i++) {
        char c = s->bytes[i];
        int between = i > from && i + 1 < to && s->bytes[i - 1] >= '0' && s->bytes[i - 1] <= '9' &&
                      s->bytes[i + 1] >= '0' && s->bytes[i + 1] <= '9';
        if (c == '_' && between) continue;
        if (c == '_' || (unsigned char)c >= 0x80 || !c || *len + 4 >= 400) return 1;
        out[(*len)++] = c;
    }
    out[*len] = 0;
    return *len == 0;
}

static size_t digits_at(const char *text)
{
    size_t n = 0;
    while (text[n] >= '0' && text[n] <= '9') n++;
    return n;
}

static int same_word(const char *text, const char *word)
{
    for (; *word; text++, word++)
        if ((*text | 32) != *word) return 0;
    return !*text;
}

/* float() of a text. */
static int text_float(const Str *s, double *out)
{
    char text[400], plain[400];
    size_t len, n = 0;
    if (number_text(s, text, &len)) return 1;
    const char *at = text;
    int minus = *at == '-';
    if (*at == '-' || *at == '+') at++;
    if (same_word(at, "inf") || same_word(at, "infinity")) {
        *out = minus ? -INFINITY : INFINITY;
        return 0;
    }
    if (same_word(at, "nan")) {
        *out = minus ? -NAN : NAN;
        return 0;
    }
    size_t whole = digits_at(at), part = 0;
    if (minus) plain[n++] = '-';
    if (!whole) plain[n++] = '0';
    memcpy(plain + n, at, whole);
    n += whole;
    at += whole;
    if (*at == '.') {
        part = digits_at(++at);
        plain[n++] = '.';
        memcpy(plain + n, at, part);
        n += part;
        if (!part) plain[n++] = '0';
        at += part;
    }
    if (!whole && !part) return 1;
    int small = 0;
    if (*at == 'e' || *at == 'E') {
        size_t sign = at[1] == '-' || at[1] == '+', exponent = digits_at(at + 1 + sign);
        if (!exponent) return 1;
        memcpy(plain + n, at, 1 + sign + exponent);
        small = at[1] == '-';
        n += 1 + sign + exponent;
        at += 1 + sign + exponent;
    }
    if (*at) return 1;
    if (parse_f64(plain, n, out)) *out = small ? 0 : minus ? -INFINITY : INFINITY;
    return 0;
}

int to_float(Run *r, Value v, double *out)
{
    switch (v.kind) {
    case V_BOOL:
    case V_INT: *out = (double)v.u.i; return 0;
    case V_FLOAT: *out = v.u.f; return 0;
    case V_STRING: return text_float(v.u.s, out);
    case V_UNDEFINED:
        return fail(r, "found '%.60s', which is undefined, for a number",
                    v.u.name ? v.u.name : "?");
    default: return 1;
    }
}

static int float_int(Run *r, double f, int64_t *out)
{
    if (isnan(f)) return 1;
    if (!(f >= -9223372036854775808.0 && f < 9223372036854775808.0))
        return fail(r, "a number does not fit an integer of 64 bits");
    *out = (int64_t)f;
    return 0;
}

int to_int(Run *r, Value v, int64_t base, int64_t *out)
{
    char text[400];
    size_t len;
    if (v.kind == V_BOOL || v.kind == V_INT) {
        *out = v.u.i;
        return 0;
    }
    if (v.kind == V_FLOAT) return float_int(r, v.u.f, out);
    if (v.kind == V_UNDEFINED) return to_float(r, v, &(double){0});
    if (v.kind != V_STRING) return 1;
    if (base != 10) return fail(r, "numbers of base %lld cannot be read here", (long long)base);
    if (number_text(v.u.s, text, &len)) return 1;
    size_t sign = *text == '-' || *text == '+', n = digits_at(text + sign);
    if (!n || text[sign + n]) return 1;
    if (parse_i64(text + (*text == '+'), len - (*text == '+'), out))
        return fail(r, "found %.40s, which does not fit an integer of 64 bits", text);
    return 0;
}

/* ---- % ------------------------------------------------------------------------------------- */

/* One conversion: %[(key)][flags][width][.precision]type. */
typedef struct {
    int minus, zero, plus, blank;
    size_t width, precision;
    int has_precision;
    char type;
} Conversion;

static size_t small_number(const Str *s, size_t *at)
{
    size_t n = 0;
    while (*at < s->len && s->bytes[*at] >= '0' && s->bytes[*at] <= '9' && n < 100000)
        n = n * 10 + (size_t)(s->bytes[(*at)++] - '0');
    return n;
}

static void read_conversion(const Str *s, size_t *at, Conversion *c)
{
    memset(c, 0, sizeof *c);
    for (; *at < s->len; (*at)++) {
        char f = s->bytes[*at];
        if (f == '-') c->minus = 1;
        else if (f == '0') c->zero = 1;
        else if (f == '+') c->plus = 1;
        else if (f == ' ') c->blank = 1;
        else break;
    }
    c->width = small_number(s, at);
    if (*at < s->len && s->bytes[*at] == '.') {
        (*at)++;
        c->has_precision = 1;
        c->precision = small_number(s, at);
    }
    if (*at < s->len) c->type = s->bytes[(*at)++];
}

static int put_padded(Run *r, Builder *b, const Str *s, const Conversion *c, int number)
{
    size_t pad = c->width > s->chars ? c->width - s->chars : 0, sign = 0;
    if (number && c->zero && !c->minus) {
        sign = s->len && strchr("+- ", s->bytes[0]) != NULL;
        if (build(r, b, s->bytes, sign, NULL)) return -1;
    }
    const char *fill = number && c->zero && !c->minus ? "0" : " ";
    for (size_t i = 0; !c->minus && i < pad; i++)
        if (build_text(r, b, fill)) return -1;
    if (build(r, b, s->bytes + sign, s->len - sign, s->marks ? s->marks + sign : NULL)) return -1;
    for (size_t i = 0; c->minus && i < pad; i++)
        if (build_text(r, b, " ")) return -1;
    return 0;
}

static int convert(Run *r, Builder *b, const Conversion *c, Value v)
{
    Builder one = {0};
    Value text;
    int number = 0;
    if (c->type == 's' || c->type == 'r') {
        if (c->type == 's' ? put_str(r, &one, v) : put_repr(r, &one, v)) return -1;
        if (build_end(r, &one, &text)) return -1;
        if (c->has_precision &&
            str_slice(r, text.u.s, 0, str_offset(text.u.s, c->precision), &text))
            return -1;
    } else if (c->type == 'd' || c->type == 'i') {
        int64_t i;
        if (v.kind != V_INT && v.kind != V_BOOL && v.kind != V_FLOAT)
            return fail(r, "found a %s for %%%c, expected a number", kind_name(v), c->type);
        if (to_int(r, v, 10, &i)) return fail(r, "found no number for %%%c", c->type);
        if (c->has_precision) return fail(r, "a precision of %%%c cannot be done here", c->type);
        const char *sign = i < 0 ? "" : c->plus ? "+" : c->blank ? " " : "";
        if (build_text(r, &one, sign) || put_repr(r, &one, v_int(i)) || build_end(r, &one, &text))
            return -1;
        number = 1;
    } else if (c->type == 'f') {
        char spelled[512];
        double f;
        if (v.kind != V_INT && v.kind != V_BOOL && v.kind != V_FLOAT)
            return fail(r, "found a %s for %%f, expected a number", kind_name(v));
        if (to_float(r, v, &f)) return -1;
        if (c->precision > 100 || !isfinite(f))
            return fail(r, "this number cannot be written by %%f here");
        if (!signbit(f) && build_text(r, &one, c->plus ? "+" : c->blank ? " " : "")) return -1;
        snprintf(spelled, sizeof spelled, "%.*f", c->has_precision ? (int)c->precision : 6, f);
        if (build_text(r, &one, spelled) || build_end(r, &one, &text)) return -1;
        number = 1;
    } else {
        return fail(r, "found the conversion %%%c, expected one of %%s %%r %%d %%i %%f %%%%",
                    c->type > 32 && c->type < 127 ? c->type : '?');
    }
    return put_padded(r, b, text.u.s, c, number);
}

/* format % args. */
int percent(Run *r, Value format, Value args, Value *out)
{
    const Str *s = format.u.s;
    Builder b = {0};
    size_t used = 0, count = args.kind == V_TUPLE ? args.u.list->len : 1;
    if (format.safe) return fail(r, "%% on a text that is marked safe cannot be done here");
    for (size_t at = 0; at < s->len;) {
        const char *next = memchr(s->bytes + at, '%', s->len - at);
        size_t to = next ? (size_t)(next - s->bytes) : s->len;
        if (build(r, &b, s->bytes + at, to - at, s->marks ? s->marks + at : NULL)) return -1;
        at = to;
        if (!next) break;
        at++;
        const Value *v = NULL;
        if (at < s->len && s->bytes[at] == '(') {
            const char *close = memchr(s->bytes + at, ')', s->len - at);
            Value key;
            int failed = 0;
            if (!close || args.kind != V_DICT)
                return fail(r, "found %%(name), expected a dict behind %%");
            if (str_slice(r, s, at + 1, (size_t)(close - s->bytes), &key)) return -1;
            v = dict_get(r, args.u.dict, key, &failed);
            if (!v && !failed)
                return fail(r, "the dict behind %% has no '%.*s'",
                            key.u.s->len > 60 ? 60 : (int)key.u.s->len, key.u.s->bytes);
            if (failed) return -1;
            at = (size_t)(close - s->bytes) + 1;
            used = count;
        }
        Conversion c;
        read_conversion(s, &at, &c);
        if (c.type == '%') {
            if (build_text(r, &b, "%")) return -1;
            continue;
        }
        if (!v) {
            if (used >= count) return fail(r, "found more conversions than values behind %%");
            v = args.kind == V_TUPLE ? &args.u.list->items[used] : &args;
            used++;
        }
        if (convert(r, &b, &c, *v)) return -1;
    }
    int is_mapping = args.kind == V_DICT || args.kind == V_LIST || args.kind == V_RANGE ||
                     args.kind == V_UNDEFINED; /* Python asks these for no further values */
    if (used < count && !is_mapping)
        return fail(r, "found more values behind %% than conversions");
    return build_end(r, &b, out);
}
