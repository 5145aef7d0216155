/* template_methods.c - attributes and items of values, and the methods of str, dict and list. */
#include "template_parts.h"

#include <stdio.h>
#include <string.h>

/* ---- arguments ----------------------------------------------------------------------------- */

/* Which parameter of the spec "a,b,c" is called name; -1: none. */
static int parameter(const char *spec, const char *name)
{
    size_t len = strlen(name);
    for (int i = 0; *spec; i++) {
        size_t n = strcspn(spec, ",");
        if (n == len && !memcmp(spec, name, n)) return i;
        spec += n + (spec[n] == ',');
    }
    return -1;
}

/* Puts arguments where the parameters of spec ("a,b,c", at most 8; "!" before them: by position
 * only) want them; what is not given is V_MISSING. */
int bind_args(Run *r, const char *what, const char *spec, size_t least, const Args *a, Value *out)
{
    int by_name = *spec != '!';
    const char *names = by_name ? spec : spec + 1;
    size_t most = *names ? 1 : 0;
    for (const char *c = names; *c; c++) most += *c == ',';
    Value missing = {V_MISSING, 0, {0}};
    for (size_t i = 0; i < most; i++) out[i] = missing;
    if (a->count > most)
        return fail(r, "%s has %zu arguments, expected at most %zu", what, a->count, most);
    for (size_t i = 0; i < a->count; i++) out[i] = a->items[i];
    for (size_t i = 0; i < a->keyword_count; i++) {
        int at = by_name ? parameter(names, a->keywords[i].name) : -1;
        if (at < 0) return fail(r, "%s has no parameter '%.60s'", what, a->keywords[i].name);
        if (out[at].kind != V_MISSING)
            return fail(r, "%s is given '%.60s' twice", what, a->keywords[i].name);
        out[at] = a->keywords[i].value;
    }
    for (size_t i = 0; i < least; i++)
        if (out[i].kind == V_MISSING)
            return fail(r, "%s needs %zu argument%s", what, least, least == 1 ? "" : "s");
    return 0;
}

static int given(Value v)
{
    return v.kind != V_MISSING;
}

static int is_int(Value v)
{
    return v.kind == V_INT || v.kind == V_BOOL;
}

static int need_text(Run *r, Value v, const char *what)
{
    if (v.kind == V_STRING) return 0;
    return fail(r, "found a %s for %s, expected str", kind_name(v), what);
}

static int need_int(Run *r, Value v, const char *what)
{
    if (is_int(v)) return 0;
    return fail(r, "found a %s for %s, expected int", kind_name(v), what);
}

/* ---- str ----------------------------------------------------------------------------------- */

typedef int (*MethodBody)(Run *r, Value self, Value *a, Value *out);

/* The first character in one case, the rest in another. */
static int cased_text(Run *r, Value self, Case first, Case rest, Value *out)
{
    const Str *s = self.u.s;
    size_t one = s->len ? utf8_step(s->bytes, s->len) : 0;
    Builder b = {0};
    if (change_case(r, &b, s, 0, one, first) || change_case(r, &b, s, one, s->len, rest) ||
        build_end(r, &b, out))
        return -1;
    out->safe = self.safe;
    return 0;
}

static int m_upper(Run *r, Value self, Value *a, Value *out)
{
    (void)a;
    return cased_text(r, self, CASE_UPPER, CASE_UPPER, out);
}

static int m_lower(Run *r, Value self, Value *a, Value *out)
{
    (void)a;
    return cased_text(r, self, CASE_LOWER, CASE_LOWER, out);
}

static int m_capitalize(Run *r, Value self, Value *a, Value *out)
{
    (void)a;
    return cased_text(r, self, CASE_TITLE, CASE_LOWER, out);
}

/* The first letter of every run of letters with case in title case, the others in lower case. */
static int m_title(Run *r, Value self, Value *a, Value *out)
{
    const Str *s = self.u.s;
    Builder b = {0};
    int cased = 0;
    (void)a;
    for (size_t at = 0; at < s->len;) {
        size_t step = utf8_step(s->bytes + at, s->len - at);
        if (change_case(r, &b, s, at, at + step, cased ? CASE_LOWER : CASE_TITLE)) return -1;
        cased = is_cased(utf8_code(s->bytes + at, step));
        at += step;
    }
    if (build_end(r, &b, out)) return -1;
    out->safe = self.safe;
    return 0;
}

static int m_swapcase(Run *r, Value self, Value *a, Value *out)
{
    const Str *s = self.u.s;
    Builder b = {0};
    (void)a;
    for (size_t at = 0; at < s->len;) {
        size_t step = utf8_step(s->bytes + at, s->len - at);
        uint32_t code = utf8_code(s->bytes + at, step), low[3];
        int upper = case_map(code, CASE_LOWER, low) != 1 || low[0] != code;
        if (change_case(r, &b, s, at, at + step, upper ? CASE_LOWER : CASE_UPPER)) return -1;
        at += step;
    }
    if (build_end(r, &b, out)) return -1;
    out->safe = self.safe;
    return 0;
}

static int m_strip(Run *r, Value self, Value *a, Value *out)
{
    return str_strip(r, self, a[0], 1, 1, out);
}

static int m_lstrip(Run *r, Value self, Value *a, Value *out)
{
    return str_strip(r, self, a[0], 1, 0, out);
}

static int m_rstrip(Run *r, Value self, Value *a, Value *out)
{
    return str_strip(r, self, a[0], 0, 1, out);
}

/* start and end of find, count, startswith, ... as byte offsets; 1 where start is too far. */
static int window(Run *r, const Str *s, Value start, Value end, size_t *from, size_t *to)
{
    int64_t len = (int64_t)s->chars, low = 0, high = len;
    if (given(start) && start.kind != V_NONE) {
        if (need_int(r, start, "a place in a text")) return -1;
        low = start.u.i;
    }
    if (given(end) && end.kind != V_NONE) {
        if (need_int(r, end, "a place in a text")) return -1;
        high = end.u.i;
    }
    if (high > len) high = len;
    if (high < 0) high = high + len < 0 ? 0 : high + len;
    if (low < 0) low = low + len < 0 ? 0 : low + len;
    if (low > high) return 1;
    *from = str_offset(s, (size_t)low);
    *to = str_offset(s, (size_t)high);
    return charge(r, s->len / 16);
}

static int ends_with(const Str *s, size_t from, size_t to, const Str *what, int at_end)
{
    if (what->len > to - from) return 0;
    const char *at = at_end ? s->bytes + to - what->len : s->bytes + from;
    return !what->len || !memcmp(at, what->bytes, what->len);
}

static int begins_or_ends(Run *r, Value self, Value *a, int at_end, Value *out)
{
    size_t from, to;
    int w = window(r, self.u.s, a[1], a[2], &from, &to), found = 0;
    if (w < 0) return -1;
    const Value *items = a[0].kind == V_TUPLE ? a[0].u.list->items : a;
    size_t n = a[0].kind == V_TUPLE ? a[0].u.list->len : 1;
    for (size_t i = 0; i < n && !found; i++) {
        if (need_text(r, items[i], "the beginning or end of a text") ||
            charge(r, items[i].u.s->len / 64 + 1))
            return -1;
        found = !w && ends_with(self.u.s, from, to, items[i].u.s, at_end);
    }
    *out = v_bool(found);
    return 0;
}

static int m_startswith(Run *r, Value self, Value *a, Value *out)
{
    return begins_or_ends(r, self, a, 0, out);
}

static int m_endswith(Run *r, Value self, Value *a, Value *out)
{
    return begins_or_ends(r, self, a, 1, out);
}

static size_t find_last(const Str *s, const Str *what)
{
    if (what->len > s->len) return (size_t)-1;
    for (size_t at = s->len - what->len;; at--) {
        if (!what->len || !memcmp(s->bytes + at, what->bytes, what->len)) return at;
        if (!at) return (size_t)-1;
    }
}

/* The character at which a[0] stands in the window, or -1. */
static int find_in(Run *r, Value self, Value *a, int last, int64_t *place)
{
    size_t from, to;
    *place = -1;
    if (need_text(r, a[0], "what is looked for")) return -1;
    int w = window(r, self.u.s, a[1], a[2], &from, &to);
    if (w) return w < 0 ? -1 : 0;
    Value part;
    if (str_slice(r, self.u.s, from, to, &part) || charge_find(r, part.u.s, a[0].u.s)) return -1;
    size_t at = last ? find_last(part.u.s, a[0].u.s) : str_find(part.u.s, a[0].u.s, 0);
    if (at == (size_t)-1) return 0;
    *place = 0;
    for (size_t i = 0; i < from + at; i++)
        *place += ((unsigned char)self.u.s->bytes[i] & 0xC0) != 0x80;
    return 0;
}

static int m_find(Run *r, Value self, Value *a, Value *out)
{
    *out = v_int(0);
    return find_in(r, self, a, 0, &out->u.i);
}

static int m_rfind(Run *r, Value self, Value *a, Value *out)
{
    *out = v_int(0);
    return find_in(r, self, a, 1, &out->u.i);
}

static int m_index(Run *r, Value self, Value *a, Value *out)
{
    if (m_find(r, self, a, out)) return -1;
    return out->u.i < 0 ? fail(r, "index: the text is not found") : 0;
}

static int m_rindex(Run *r, Value self, Value *a, Value *out)
{
    if (m_rfind(r, self, a, out)) return -1;
    return out->u.i < 0 ? fail(r, "rindex: the text is not found") : 0;
}

static int m_count(Run *r, Value self, Value *a, Value *out)
{
    size_t from, to, n = 0;
    Value part;
    if (need_text(r, a[0], "count")) return -1;
    int w = window(r, self.u.s, a[1], a[2], &from, &to);
    if (w < 0 || (!w && str_slice(r, self.u.s, from, to, &part))) return -1;
    if (!w && charge_find(r, part.u.s, a[0].u.s)) return -1;
    if (!w && !a[0].u.s->len) n = part.u.s->chars + 1;
    for (size_t at = 0; !w && a[0].u.s->len;) {
        size_t found = str_find(part.u.s, a[0].u.s, at);
        if (found == (size_t)-1) break;
        n++;
        at = found + a[0].u.s->len;
    }
    *out = v_int((int64_t)n);
    return 0;
}

/* What is put into a text: escaped where that is marked safe. */
static int as_part(Run *r, Value self, Value v, const char *what, const Str **out)
{
    if (need_text(r, v, what)) return -1;
    *out = v.u.s;
    return self.safe ? escaped(r, v, out) : 0;
}

static int m_replace(Run *r, Value self, Value *a, Value *out)
{
    const Str *fresh;
    if (need_text(r, a[0], "replace") || as_part(r, self, a[1], "replace", &fresh) ||
        (given(a[2]) && need_int(r, a[2], "replace")))
        return -1;
    if (str_replace(r, self.u.s, a[0].u.s, fresh, given(a[2]) ? a[2].u.i : -1, out)) return -1;
    out->safe = self.safe;
    return 0;
}

static int m_join(Run *r, Value self, Value *a, Value *out)
{
    Builder b = {0};
    Iter *it;
    Value v;
    const Str *part;
    if (iter_open(r, a[0], &it)) return -1;
    for (int got, i = 0; (got = iter_next(r, it, &v)) != 0; i = 1) {
        if (got < 0 || (i && build_str(r, &b, self.u.s))) return -1;
        if (!self.safe && need_text(r, v, "an item of join")) return -1;
        if (self.safe ? escaped(r, v, &part) : to_str(r, v, &part)) return -1;
        if (build_str(r, &b, part)) return -1;
    }
    if (build_end(r, &b, out)) return -1;
    out->safe = self.safe;
    return 0;
}

static int add_slice(Run *r, List *l, Value self, size_t from, size_t to)
{
    Value v;
    if (str_slice(r, self.u.s, from, to, &v)) return -1;
    v.safe = self.safe;
    return list_add(r, l, v);
}

static void reverse_list(List *l)
{
    for (size_t i = 0, k = l->len; i + 1 < k; i++) {
        Value v = l->items[i];
        l->items[i] = l->items[--k];
        l->items[k] = v;
    }
}

/* At white space: no empty parts. From the right the parts are found last first. */
static int split_space(Run *r, Value self, int64_t most, int right, List *l)
{
    const Str *s = self.u.s;
    size_t from = 0, to = s->len, n;
    for (; from < to; most--) {
        while (!right && from < to && (n = space_step(s->bytes + from, to - from)) > 0) from += n;
        while (right && to > from && (n = space_before(s->bytes + from, to - from)) > 0) to -= n;
        if (from == to) break;
        size_t at = right ? to : from, start;
        if (most == 0) return add_slice(r, l, self, from, to); /* the rest as it is */
        if (right) {
            while (at > from && !space_before(s->bytes + from, at - from)) {
                utf8_before(s->bytes, at, &start);
                at = start;
            }
            if (add_slice(r, l, self, at, to)) return -1;
            to = at;
        } else {
            while (at < to && !space_step(s->bytes + at, to - at))
                at += utf8_step(s->bytes + at, to - at);
            if (add_slice(r, l, self, from, at)) return -1;
            from = at;
        }
    }
    return 0;
}

static int split_at(Run *r, Value self, Value sep, int64_t most, int right, List *l)
{
    const Str *s = self.u.s;
    size_t from = 0, to = s->len, n = sep.u.s->len;
    if (charge_find(r, s, sep.u.s)) return -1;
    for (; most != 0; most--) {
        if (right) {
            Str left = {s->bytes, NULL, to, 0};
            if (charge(r, 1)) return -1;
            size_t at = find_last(&left, sep.u.s);
            if (at == (size_t)-1) break;
            if (add_slice(r, l, self, at + n, to)) return -1;
            to = at;
        } else {
            size_t at = str_find(s, sep.u.s, from);
            if (at == (size_t)-1) break;
            if (add_slice(r, l, self, from, at)) return -1;
            from = at + n;
        }
    }
    return add_slice(r, l, self, from, to);
}

static int split(Run *r, Value self, Value *a, int right, Value *out)
{
    List *l = run_alloc(r, 1, sizeof *l);
    int64_t most = -1;
    if (!l || (given(a[1]) && need_int(r, a[1], "the number of cuts"))) return -1;
    if (given(a[1]) && a[1].u.i >= 0) most = a[1].u.i;
    if (!given(a[0]) || a[0].kind == V_NONE) {
        if (split_space(r, self, most, right, l)) return -1;
    } else {
        if (need_text(r, a[0], "what a text is split at")) return -1;
        if (!a[0].u.s->len) return fail(r, "found an empty text to split at");
        if (split_at(r, self, a[0], most, right, l)) return -1;
    }
    if (right) reverse_list(l);
    *out = v_list(l);
    return 0;
}

static int m_split(Run *r, Value self, Value *a, Value *out)
{
    return split(r, self, a, 0, out);
}

static int m_rsplit(Run *r, Value self, Value *a, Value *out)
{
    return split(r, self, a, 1, out);
}

static int m_splitlines(Run *r, Value self, Value *a, Value *out)
{
    List *l;
    int keep = given(a[0]) ? truth(r, a[0]) : 0;
    if (keep < 0 || str_lines(r, self, keep, &l)) return -1;
    *out = v_list(l);
    return 0;
}

static int partition(Run *r, Value self, Value sep, int right, Value *out)
{
    if (need_text(r, sep, "what a text is parted at")) return -1;
    if (!sep.u.s->len) return fail(r, "found an empty text to part at");
    const Str *s = self.u.s;
    List *l = run_alloc(r, 1, sizeof *l);
    if (!l || charge_find(r, s, sep.u.s)) return -1;
    size_t at = right ? find_last(s, sep.u.s) : str_find(s, sep.u.s, 0), n = sep.u.s->len;
    if (at == (size_t)-1) {
        size_t whole = right ? 0 : s->len;
        if (add_slice(r, l, self, 0, whole) || add_slice(r, l, self, 0, 0) ||
            add_slice(r, l, self, right ? 0 : s->len, s->len))
            return -1;
    } else if (add_slice(r, l, self, 0, at) || add_slice(r, l, self, at, at + n) ||
               add_slice(r, l, self, at + n, s->len)) {
        return -1;
    }
    *out = v_list(l);
    out->kind = V_TUPLE;
    return 0;
}

static int m_partition(Run *r, Value self, Value *a, Value *out)
{
    return partition(r, self, a[0], 0, out);
}

static int m_rpartition(Run *r, Value self, Value *a, Value *out)
{
    return partition(r, self, a[0], 1, out);
}

static int m_removeprefix(Run *r, Value self, Value *a, Value *out)
{
    const Str *s = self.u.s;
    if (need_text(r, a[0], "removeprefix")) return -1;
    size_t n = ends_with(s, 0, s->len, a[0].u.s, 0) ? a[0].u.s->len : 0;
    if (str_slice(r, s, n, s->len, out)) return -1;
    out->safe = self.safe;
    return 0;
}

static int m_removesuffix(Run *r, Value self, Value *a, Value *out)
{
    const Str *s = self.u.s;
    if (need_text(r, a[0], "removesuffix")) return -1;
    size_t n = ends_with(s, 0, s->len, a[0].u.s, 1) ? a[0].u.s->len : 0;
    if (str_slice(r, s, 0, s->len - n, out)) return -1;
    out->safe = self.safe;
    return 0;
}

/* In the middle of `width` characters, or at one side: left and right of it is filled. */
static int padded(Run *r, Value self, Value *a, int side, Value *out)
{
    const Str *s = self.u.s;
    Builder b = {0};
    Value blank;
    if (v_text(r, " ", 1, &blank)) return -1;
    Value fill = given(a[1]) ? a[1] : blank;
    if (need_int(r, a[0], "the width of a text") || need_text(r, fill, "what fills a text"))
        return -1;
    if (fill.u.s->chars != 1) return fail(r, "found no single character to fill a text with");
    size_t total = a[0].u.i > (int64_t)s->chars ? (size_t)a[0].u.i - s->chars : 0;
    if (total > TEMPLATE_MAX_OUTPUT)
        return fail(r, "a text becomes longer than %d bytes", TEMPLATE_MAX_OUTPUT);
    size_t left = side < 0 ? 0 : side > 0 ? total : total / 2 + (total & (size_t)a[0].u.i & 1);
    for (size_t i = 0; i < left; i++)
        if (build_str(r, &b, fill.u.s)) return -1;
    if (build_str(r, &b, s)) return -1;
    for (size_t i = left; i < total; i++)
        if (build_str(r, &b, fill.u.s)) return -1;
    if (build_end(r, &b, out)) return -1;
    out->safe = self.safe;
    return 0;
}

static int m_center(Run *r, Value self, Value *a, Value *out)
{
    return padded(r, self, a, 0, out);
}

static int m_ljust(Run *r, Value self, Value *a, Value *out)
{
    return padded(r, self, a, -1, out);
}

static int m_rjust(Run *r, Value self, Value *a, Value *out)
{
    return padded(r, self, a, 1, out);
}

static int m_zfill(Run *r, Value self, Value *a, Value *out)
{
    const Str *s = self.u.s;
    Builder b = {0};
    if (need_int(r, a[0], "zfill")) return -1;
    size_t sign = s->len && (*s->bytes == '+' || *s->bytes == '-');
    size_t pad = a[0].u.i > (int64_t)s->chars ? (size_t)a[0].u.i - s->chars : 0;
    if (pad > TEMPLATE_MAX_OUTPUT)
        return fail(r, "a text becomes longer than %d bytes", TEMPLATE_MAX_OUTPUT);
    if (build(r, &b, s->bytes, sign, NULL)) return -1;
    for (size_t i = 0; i < pad; i++)
        if (build_text(r, &b, "0")) return -1;
    if (build(r, &b, s->bytes + sign, s->len - sign, s->marks ? s->marks + sign : NULL) ||
        build_end(r, &b, out))
        return -1;
    out->safe = self.safe;
    return 0;
}

/* Does every character satisfy the test? False for an empty text. ASCII only: what Unicode says
 * of others is refused. */
static int every(Run *r, Value self, int (*is)(int c), const char *what, Value *out)
{
    const Str *s = self.u.s;
    int yes = s->len > 0;
    for (size_t i = 0; i < s->len; i++) {
        unsigned char c = (unsigned char)s->bytes[i];
        if (c >= 0x80) return fail(r, "%s of a text that is not ASCII cannot be told here", what);
        yes = yes && is(c);
    }
    *out = v_bool(yes);
    return 0;
}

static int is_upper(int c)
{
    return c >= 'A' && c <= 'Z';
}

static int is_lower(int c)
{
    return c >= 'a' && c <= 'z';
}

static int is_alpha(int c)
{
    return is_upper(c) || is_lower(c);
}

static int is_digit(int c)
{
    return c >= '0' && c <= '9';
}

static int is_alnum(int c)
{
    return is_alpha(c) || is_digit(c);
}

static int m_isalpha(Run *r, Value self, Value *a, Value *out)
{
    (void)a;
    return every(r, self, is_alpha, "isalpha", out);
}

static int m_isdigit(Run *r, Value self, Value *a, Value *out)
{
    (void)a;
    return every(r, self, is_digit, "isdigit", out);
}

static int m_isalnum(Run *r, Value self, Value *a, Value *out)
{
    (void)a;
    return every(r, self, is_alnum, "isalnum", out);
}

static int m_isascii(Run *r, Value self, Value *a, Value *out)
{
    int yes = 1;
    (void)r;
    (void)a;
    for (size_t i = 0; i < self.u.s->len; i++) yes = yes && (unsigned char)self.u.s->bytes[i] < 128;
    *out = v_bool(yes);
    return 0;
}

static int m_isspace(Run *r, Value self, Value *a, Value *out)
{
    const Str *s = self.u.s;
    size_t at = 0, n = 1;
    (void)r;
    (void)a;
    while (at < s->len && (n = space_step(s->bytes + at, s->len - at)) > 0) at += n;
    *out = v_bool(s->len && at == s->len);
    return 0;
}

/* Letters of one case, at least one, and none of the other. */
static int one_case(Run *r, Value self, int (*good)(int c), int (*bad)(int c), Value *out)
{
    Value all;
    int some = 0, none = 1;
    if (every(r, self, good, "islower or isupper", &all)) return -1;
    for (size_t i = 0; i < self.u.s->len; i++) {
        some = some || good((unsigned char)self.u.s->bytes[i]);
        none = none && !bad((unsigned char)self.u.s->bytes[i]);
    }
    *out = v_bool(some && none);
    return 0;
}

static int m_islower(Run *r, Value self, Value *a, Value *out)
{
    (void)a;
    return one_case(r, self, is_lower, is_upper, out);
}

static int m_isupper(Run *r, Value self, Value *a, Value *out)
{
    (void)a;
    return one_case(r, self, is_upper, is_lower, out);
}

static int m_istitle(Run *r, Value self, Value *a, Value *out)
{
    Value all;
    int before = 0, some = 0, good = 1;
    (void)a;
    if (every(r, self, is_alpha, "istitle", &all)) return -1;
    for (size_t i = 0; i < self.u.s->len; i++) {
        int c = (unsigned char)self.u.s->bytes[i];
        if (is_upper(c) && before) good = 0;
        if (is_lower(c) && !before) good = 0;
        before = is_alpha(c);
        some = some || before;
    }
    *out = v_bool(some && good);
    return 0;
}

/* One field of format: {}, {0} or {name}. *automatic: -1 not known, 1 numbered by itself, 0 not. */
static int format_field(Run *r, const Args *a, const Str *s, size_t from, size_t to, int *automatic,
                        size_t *next, Value *out)
{
    char name[64];
    size_t len = to - from, digits = 0;
    if (len >= sizeof name) return fail(r, "found a field of more than 63 characters in format");
    memcpy(name, s->bytes + from, len);
    name[len] = 0;
    if (strpbrk(name, ".[:!{"))
        return fail(r, "found the field {%s} in format, expected a number or a name", name);
    while (name[digits] >= '0' && name[digits] <= '9') digits++;
    if (len && digits < len) {
        for (size_t i = 0; i < a->keyword_count; i++) {
            if (strcmp(a->keywords[i].name, name)) continue;
            *out = a->keywords[i].value;
            return 0;
        }
        return fail(r, "format is not given '%s'", name);
    }
    if (*automatic >= 0 && *automatic != !len)
        return fail(r, "found fields with and without numbers in format");
    *automatic = !len;
    uint64_t n = 0;
    if (!len) n = (*next)++;
    else if (parse_u64(name, len, &n)) n = UINT64_MAX;
    if (n >= a->count)
        return fail(r, "format is not given argument %s", len ? name : "for each {}");
    *out = a->items[n];
    return 0;
}

static int format_text(Run *r, Value self, const Args *a, Value *out)
{
    const Str *s = self.u.s;
    Builder b = {0};
    int automatic = -1;
    size_t next = 0;
    if (self.safe) return fail(r, "format on a text that is marked safe cannot be done here");
    for (size_t at = 0; at < s->len; at++) {
        char c = s->bytes[at];
        int twice = at + 1 < s->len && s->bytes[at + 1] == c;
        if (c == '}' && !twice) return fail(r, "found a single } in format");
        if ((c != '{' && c != '}') || twice) {
            at += (c == '{' || c == '}');
            if (build(r, &b, s->bytes + at, 1, s->marks ? s->marks + at : NULL)) return -1;
            continue;
        }
        const char *close = memchr(s->bytes + at, '}', s->len - at);
        Value v;
        if (!close) return fail(r, "found a single { in format");
        size_t end = (size_t)(close - s->bytes);
        if (format_field(r, a, s, at + 1, end, &automatic, &next, &v) || put_str(r, &b, v))
            return -1;
        at = end;
    }
    return build_end(r, &b, out);
}

/* ---- list, tuple and dict ------------------------------------------------------------------ */

static int m_list_index(Run *r, Value self, Value *a, Value *out)
{
    int64_t len = (int64_t)self.u.list->len, from = 0, to = len;
    if ((given(a[1]) && need_int(r, a[1], "index")) || (given(a[2]) && need_int(r, a[2], "index")))
        return -1;
    if (given(a[1])) from = a[1].u.i < 0 ? a[1].u.i + len : a[1].u.i;
    if (given(a[2])) to = a[2].u.i < 0 ? a[2].u.i + len : a[2].u.i;
    for (int64_t i = from < 0 ? 0 : from; i < to && i < len; i++) {
        int same = equal(r, self.u.list->items[i], a[0]);
        if (same < 0) return -1;
        if (!same) continue;
        *out = v_int(i);
        return 0;
    }
    return fail(r, "index: the value is not in the list");
}

static int m_list_count(Run *r, Value self, Value *a, Value *out)
{
    *out = v_int(0);
    for (size_t i = 0; i < self.u.list->len; i++) {
        int same = equal(r, self.u.list->items[i], a[0]);
        if (same < 0) return -1;
        out->u.i += same;
    }
    return 0;
}

/* Nothing that a template can reach changes a list or a dict: a copy may be the thing itself. */
static int m_copy(Run *r, Value self, Value *a, Value *out)
{
    (void)r;
    (void)a;
    *out = self;
    return 0;
}

static int m_get(Run *r, Value self, Value *a, Value *out)
{
    int failed;
    if (hashable(r, a[0])) return -1;
    const Value *v = dict_get(r, self.u.dict, a[0], &failed);
    *out = v ? *v : given(a[1]) ? a[1] : v_none();
    return failed ? -1 : 0;
}

static int view(Run *r, Value self, char part, Value *out)
{
    View *v = run_alloc(r, 1, sizeof *v);
    if (!v) return -1;
    v->dict = self.u.dict;
    v->part = part;
    out->kind = V_VIEW;
    out->safe = 0;
    out->u.view = v;
    return 0;
}

static int m_keys(Run *r, Value self, Value *a, Value *out)
{
    (void)a;
    return view(r, self, 'k', out);
}

static int m_values(Run *r, Value self, Value *a, Value *out)
{
    (void)a;
    return view(r, self, 'v', out);
}

static int m_items(Run *r, Value self, Value *a, Value *out)
{
    (void)a;
    return view(r, self, 'i', out);
}

/* ---- the table ----------------------------------------------------------------------------- */

typedef struct {
    const char *name, *spec;
    size_t least;
    MethodBody body; /* NULL: format, which takes what it is given */
} MethodRow;

static const MethodRow text_methods[] = {
    {"capitalize", "", 0, m_capitalize},
    {"center", "!width,fillchar", 1, m_center},
    {"count", "!sub,start,end", 1, m_count},
    {"endswith", "!suffix,start,end", 1, m_endswith},
    {"find", "!sub,start,end", 1, m_find},
    {"format", "*", 0, NULL},
    {"index", "!sub,start,end", 1, m_index},
    {"isalnum", "", 0, m_isalnum},
    {"isalpha", "", 0, m_isalpha},
    {"isascii", "", 0, m_isascii},
    {"isdecimal", "", 0, m_isdigit},
    {"isdigit", "", 0, m_isdigit},
    {"islower", "", 0, m_islower},
    {"isnumeric", "", 0, m_isdigit},
    {"isspace", "", 0, m_isspace},
    {"istitle", "", 0, m_istitle},
    {"isupper", "", 0, m_isupper},
    {"join", "!iterable", 1, m_join},
    {"ljust", "!width,fillchar", 1, m_ljust},
    {"lower", "", 0, m_lower},
    {"lstrip", "!chars", 0, m_lstrip},
    {"partition", "!sep", 1, m_partition},
    {"removeprefix", "!prefix", 1, m_removeprefix},
    {"removesuffix", "!suffix", 1, m_removesuffix},
    {"replace", "!old,new,count", 2, m_replace},
    {"rfind", "!sub,start,end", 1, m_rfind},
    {"rindex", "!sub,start,end", 1, m_rindex},
    {"rjust", "!width,fillchar", 1, m_rjust},
    {"rpartition", "!sep", 1, m_rpartition},
    {"rsplit", "sep,maxsplit", 0, m_rsplit},
    {"rstrip", "!chars", 0, m_rstrip},
    {"split", "sep,maxsplit", 0, m_split},
    {"splitlines", "keepends", 0, m_splitlines},
    {"startswith", "!prefix,start,end", 1, m_startswith},
    {"strip", "!chars", 0, m_strip},
    {"swapcase", "", 0, m_swapcase},
    {"title", "", 0, m_title},
    {"upper", "", 0, m_upper},
    {"zfill", "!width", 1, m_zfill},
    {NULL, NULL, 0, NULL}};

static const MethodRow list_methods[] = {{"copy", "", 0, m_copy},
                                         {"count", "!value", 1, m_list_count},
                                         {"index", "!value,start,stop", 1, m_list_index},
                                         {NULL, NULL, 0, NULL}};

static const MethodRow dict_methods[] = {{"copy", "", 0, m_copy},
                                         {"get", "!key,default", 1, m_get},
                                         {"items", "", 0, m_items},
                                         {"keys", "", 0, m_keys},
                                         {"values", "", 0, m_values},
                                         {NULL, NULL, 0, NULL}};

/* Attributes that Python has and this has not: refused, not undefined. */
static const char *const foreign_text[] = {"casefold",     "encode",    "expandtabs", "format_map",
                                           "isidentifier", "isprintable", "maketrans", "translate",
                                           NULL};
static const char *const foreign_safe[] = {"escape", "striptags", "unescape", NULL};
static const char *const foreign_int[] = {
    "as_integer_ratio", "bit_count",  "bit_length", "conjugate", "denominator", "from_bytes",
    "fromhex",          "hex",        "imag",       "is_integer", "numerator",  "real",
    "to_bytes",         NULL};
static const char *const foreign_dict[] = {"fromkeys", NULL};
static const char *const foreign_view[] = {"isdisjoint", "mapping", NULL};
static const char *const foreign_range[] = {"count", "index", "start", "step", "stop", NULL};
static const char *const foreign_macro[] = {"name", "arguments", "catch_kwargs", "catch_varargs",
                                            "caller", "explicit_caller", NULL};
static const char *const no_names[] = {NULL};

static const MethodRow *find_row(const MethodRow *rows, const char *name, size_t len)
{
    for (; rows->name; rows++)
        if (strlen(rows->name) == len && !memcmp(rows->name, name, len)) return rows;
    return NULL;
}

static int is_listed(const char *const *names, const char *name, size_t len)
{
    for (; *names; names++)
        if (strlen(*names) == len && !memcmp(*names, name, len)) return 1;
    return 0;
}

int method_call(Run *r, const Method *m, const Args *a, Value *out)
{
    const MethodRow *row = m->entry;
    Value bound[8];
    if (!row->body) return format_text(r, m->self, a, out);
    if (bind_args(r, row->name, row->spec, row->least, a, bound)) return -1;
    return row->body(r, m->self, bound, out);
}

/* ---- attributes and items ------------------------------------------------------------------ */

static int loop_attribute(Run *r, Loop *l, const char *name, size_t len, Value *out)
{
    static const char *const names[] = {"index",     "index0", "first",    "last",  "length",
                                        "revindex",  "revindex0", "previtem", "nextitem", "depth",
                                        "depth0", NULL};
    size_t which = 0, n = 0;
    while (names[which] && (strlen(names[which]) != len || memcmp(names[which], name, len)))
        which++;
    int64_t at = (int64_t)l->index0;
    int more;
    switch (which) {
    case 0: *out = v_int(at + 1); return 1;
    case 1: *out = v_int(at); return 1;
    case 2: *out = v_bool(at == 0); return 1;
    case 3:
        if ((more = l->peek(r, l)) < 0) return -1;
        *out = v_bool(!more);
        return 1;
    case 4:
    case 5:
    case 6:
        if (l->count(r, l, &n)) return -1;
        *out = v_int(which == 4 ? (int64_t)n : (int64_t)n - at - (which == 6));
        return 1;
    case 7: *out = at ? l->before : v_undefined("there is no previous item"); return 1;
    case 8:
        if ((more = l->peek(r, l)) < 0) return -1;
        *out = more ? l->after : v_undefined("there is no next item");
        return 1;
    case 9:
    case 10: *out = v_int(which == 9); return 1; /* only recursive loops go deeper */
    default: return 0;
    }
}

/* Python's getattr: 1 with a value, 0 where there is none, -1. */
static int own_attribute(Run *r, Value v, const char *name, size_t len, Value *out)
{
    const MethodRow *rows = NULL;
    const char *const *foreign = no_names;
    switch (v.kind) {
    case V_STRING:
        rows = text_methods;
        foreign = foreign_text;
        if (v.safe && is_listed(foreign_safe, name, len)) foreign = foreign_safe;
        break;
    case V_LIST:
    case V_TUPLE:
        rows = list_methods;
        if (v.kind == V_TUPLE && len == 4 && !memcmp(name, "copy", 4)) rows = NULL;
        break;
    case V_DICT:
        rows = dict_methods;
        foreign = foreign_dict;
        break;
    case V_BOOL:
    case V_INT:
    case V_FLOAT: foreign = foreign_int; break;
    case V_VIEW: foreign = foreign_view; break;
    case V_RANGE: foreign = foreign_range; break;
    case V_MACRO: foreign = foreign_macro; break;
    case V_LOOP: return loop_attribute(r, v.u.loop, name, len, out);
    case V_NAMESPACE:
        for (size_t i = 0; i < v.u.dict->len; i++) {
            const Str *key = v.u.dict->items[i].key.u.s;
            if (key->len != len || memcmp(key->bytes, name, len)) continue;
            *out = v.u.dict->items[i].value;
            return 1;
        }
        return 0;
    default: break;
    }
    if (is_listed(foreign, name, len))
        return fail(r, "found .%.*s of a %s, which cannot be done here", (int)len, name,
                    kind_name(v));
    const MethodRow *row = rows ? find_row(rows, name, len) : NULL;
    if (!row) return 0;
    Method *m = run_alloc(r, 1, sizeof *m);
    if (!m) return -1;
    m->self = v;
    m->entry = row;
    out->kind = V_METHOD;
    out->safe = 0;
    out->u.method = m;
    return 1;
}

/* Methods that would change a list or dict, and what begins and ends with __: the sandbox makes
 * them undefined whatever the dict holds. */
static int is_forbidden(Value v, const char *name, size_t len)
{
    static const char *const of_list[] = {"append", "clear", "pop", "reverse", "insert", "sort",
                                          "extend", "remove", NULL};
    static const char *const of_dict[] = {"clear", "pop", "popitem", "setdefault", "update", NULL};
    if (v.kind == V_LIST && is_listed(of_list, name, len)) return 1;
    if (v.kind == V_DICT && is_listed(of_dict, name, len)) return 1;
    return len > 4 && !memcmp(name, "__", 2) && !memcmp(name + len - 2, "__", 2);
}

static int undefined_of(Run *r, const char *name, size_t len, Value *out)
{
    Value text;
    if (v_text(r, name, len, &text)) return -1;
    *out = v_undefined(text.u.s->bytes); /* run_alloc leaves a 0 behind it */
    return 0;
}

static int of_undefined(Run *r, Value v, const char *name, size_t len)
{
    return fail(r, "found '%.60s', which is undefined, and asked for its '%.*s'",
                v.u.name ? v.u.name : "?", len > 60 ? 60 : (int)len, name);
}

/* v.name: what the value has as an attribute, else its item. */
int get_attribute(Run *r, Value v, const char *name, size_t len, Value *out)
{
    int got;
    if (charge(r, 1)) return -1;
    if (v.kind == V_UNDEFINED) return of_undefined(r, v, name, len);
    if (is_forbidden(v, name, len)) return undefined_of(r, name, len, out);
    if ((got = own_attribute(r, v, name, len, out)) != 0) return got < 0 ? -1 : 0;
    for (size_t i = 0; v.kind == V_DICT && i < v.u.dict->len; i++) {
        Value key = v.u.dict->items[i].key;
        if (key.kind != V_STRING || key.u.s->len != len || memcmp(key.u.s->bytes, name, len))
            continue;
        *out = v.u.dict->items[i].value;
        return charge(r, i / 4);
    }
    return undefined_of(r, name, len, out);
}

/* v[key]: an item, else for a text what the value has as an attribute. */
int get_item(Run *r, Value v, Value key, Value *out)
{
    size_t len;
    int failed, got;
    char spelled[32];
    if (charge(r, 1)) return -1;
    if (v.kind == V_UNDEFINED)
        return key.kind == V_STRING ? of_undefined(r, v, key.u.s->bytes, key.u.s->len)
                                    : of_undefined(r, v, "item", 4);
    if (v.kind == V_DICT && key.kind != V_LIST && key.kind != V_DICT) {
        const Value *found = dict_get(r, v.u.dict, key, &failed);
        if (failed) return -1;
        if (found) {
            *out = *found;
            return 0;
        }
    }
    if (is_int(key) && (v.kind == V_STRING || v.kind == V_LIST || v.kind == V_TUPLE ||
                        v.kind == V_RANGE)) {
        if (length(r, v, &len)) return -1;
        int64_t at = key.u.i < 0 ? key.u.i + (int64_t)len : key.u.i;
        if (at >= 0 && at < (int64_t)len) {
            if (v.kind == V_RANGE) {
                *out = v_int(v.u.range->start + at * v.u.range->step);
                return 0;
            }
            if (v.kind != V_STRING) {
                *out = v.u.list->items[at];
                return 0;
            }
            size_t from = str_offset(v.u.s, (size_t)at);
            if (charge(r, v.u.s->chars == v.u.s->len ? 0 : from / 16) ||
                str_slice(r, v.u.s, from,
                          from + utf8_step(v.u.s->bytes + from, v.u.s->len - from), out))
                return -1;
            out->safe = v.safe;
            return 0;
        }
    }
    if (key.kind != V_STRING) {
        size_t n = (size_t)snprintf(spelled, sizeof spelled, "item %lld",
                                    is_int(key) ? (long long)key.u.i : 0);
        return undefined_of(r, spelled, is_int(key) ? n : strlen("item"), out);
    }
    const char *name = key.u.s->bytes;
    if (!is_forbidden(v, name, key.u.s->len) && !(key.u.s->len && *name == '_')) {
        if ((got = own_attribute(r, v, name, key.u.s->len, out)) != 0) return got < 0 ? -1 : 0;
    }
    return undefined_of(r, name, key.u.s->len, out);
}

/* One bound of a slice, as PySlice_AdjustIndices has it. */
static int64_t slice_bound(Value v, int64_t len, int64_t step, int64_t otherwise)
{
    if (v.kind == V_NONE) return otherwise;
    int64_t i = v.u.i;
    if (i < 0) {
        if (i < -len) return step < 0 ? -1 : 0;
        return i + len;
    }
    return i >= len ? (step < 0 ? len - 1 : len) : i;
}

/* v[start:stop:step]; parts are V_NONE where they are not given. */
int get_slice(Run *r, Value v, const Value part[3], Value *out)
{
    size_t len;
    for (int i = 0; i < 3; i++)
        if (part[i].kind != V_NONE && need_int(r, part[i], "a bound of a slice")) return -1;
    if (v.kind != V_STRING && v.kind != V_LIST && v.kind != V_TUPLE)
        return fail(r, "found a slice of a %s, expected str, list or tuple", kind_name(v));
    int64_t step = part[2].kind == V_NONE ? 1 : part[2].u.i;
    if (step == 0) return fail(r, "found a slice with step 0");
    if (step < -INT64_MAX) step = -INT64_MAX;
    if (length(r, v, &len)) return -1;
    int64_t n = (int64_t)len;
    int64_t from = slice_bound(part[0], n, step, step < 0 ? n - 1 : 0);
    int64_t to = slice_bound(part[1], n, step, step < 0 ? -1 : n);
    size_t count = 0;
    if (step > 0 && from < to) count = (size_t)((to - from - 1) / step + 1);
    if (step < 0 && from > to) count = (size_t)((from - to - 1) / -step + 1);
    if (v.kind == V_STRING) {
        const Str *s = v.u.s;
        if (step == 1 || !count) {
            size_t begin = count ? str_offset(s, (size_t)from) : 0;
            size_t end = count ? str_offset(s, (size_t)to) : 0;
            if (charge(r, s->chars == s->len ? 0 : end / 16) || str_slice(r, s, begin, end, out))
                return -1;
            out->safe = v.safe;
            return 0;
        }
        Builder b = {0};
        for (size_t i = 0; i < count; i++) {
            size_t at = str_offset(s, (size_t)(from + (int64_t)i * step));
            if (charge(r, s->chars == s->len ? 0 : at / 16) ||
                build(r, &b, s->bytes + at, utf8_step(s->bytes + at, s->len - at),
                      s->marks ? s->marks + at : NULL))
                return -1;
        }
        if (build_end(r, &b, out)) return -1;
        out->safe = v.safe;
        return 0;
    }
    List *l = run_alloc(r, 1, sizeof *l);
    if (!l) return -1;
    for (size_t i = 0; i < count; i++)
        if (list_add(r, l, v.u.list->items[from + (int64_t)i * step])) return -1;
    *out = v_list(l);
    out->kind = v.kind;
    return 0;
}
