/* template_filters.c - the filters and tests of Jinja, with the names and parameters it gives them.
 *
 * A filter's first parameter is the value in front of |, a test's the one in front of `is`.
 */
#include "template_parts.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef int (*FilterBody)(Run *r, Value *a, const Args *raw, Value *out);
typedef int (*TestBody)(Run *r, Value *a); /* 1, 0, -1 */

static int given(Value v)
{
    return v.kind != V_MISSING;
}

static int is_int(Value v)
{
    return v.kind == V_INT || v.kind == V_BOOL;
}

static int is_number(Value v)
{
    return is_int(v) || v.kind == V_FLOAT;
}

static int refuse(Run *r, Value v, const char *filter)
{
    if (v.kind == V_UNDEFINED)
        return fail(r, "found '%.60s', which is undefined, for the filter %s",
                    v.u.name ? v.u.name : "?", filter);
    return fail(r, "found a %s for the filter %s", kind_name(v), filter);
}

/* A parameter that is true or false, with its default. */
static int flag(Run *r, Value v, int otherwise)
{
    return given(v) ? truth(r, v) : otherwise;
}

/* ---- text ---------------------------------------------------------------------------------- */

static int call_method(Run *r, Value v, const char *name, const Args *a, Value *out)
{
    Value text, method;
    if (soft_str(r, v, &text) || get_attribute(r, text, name, strlen(name), &method)) return -1;
    return method_call(r, method.u.method, a, out);
}

static int f_upper(Run *r, Value *a, const Args *raw, Value *out)
{
    Args none = {0};
    (void)raw;
    return call_method(r, a[0], "upper", &none, out);
}

static int f_lower(Run *r, Value *a, const Args *raw, Value *out)
{
    Args none = {0};
    (void)raw;
    return call_method(r, a[0], "lower", &none, out);
}

static int f_capitalize(Run *r, Value *a, const Args *raw, Value *out)
{
    Args none = {0};
    (void)raw;
    return call_method(r, a[0], "capitalize", &none, out);
}

static int f_center(Run *r, Value *a, const Args *raw, Value *out)
{
    Value width = given(a[1]) ? a[1] : v_int(80);
    Args args = {&width, 1, NULL, 0};
    (void)raw;
    return call_method(r, a[0], "center", &args, out);
}

static int f_trim(Run *r, Value *a, const Args *raw, Value *out)
{
    Value text;
    (void)raw;
    return soft_str(r, a[0], &text) || str_strip(r, text, a[1], 1, 1, out) ? -1 : 0;
}

/* What separates words for title: white space, - and opening brackets. */
static size_t word_break(const char *bytes, size_t len)
{
    size_t n = space_step(bytes, len);
    return n ? n : *bytes && strchr("-({[<", *bytes) ? 1 : 0;
}

static int f_title(Run *r, Value *a, const Args *raw, Value *out)
{
    const Str *s;
    Builder b = {0};
    Value text, word;
    (void)raw;
    if (soft_str(r, a[0], &text)) return -1;
    s = text.u.s;
    for (size_t at = 0, n; at < s->len;) {
        size_t begin = at;
        int breaks = word_break(s->bytes + at, s->len - at) > 0;
        for (; at < s->len; at += n) {
            size_t found = word_break(s->bytes + at, s->len - at);
            if ((found > 0) != breaks) break;
            n = breaks ? found : utf8_step(s->bytes + at, s->len - at);
        }
        size_t first = begin + utf8_step(s->bytes + begin, at - begin);
        if (change_case(r, &b, s, begin, first, CASE_UPPER) ||
            str_slice(r, s, first, at, &word) ||
            change_case(r, &b, word.u.s, 0, word.u.s->len, CASE_LOWER))
            return -1;
    }
    return build_end(r, &b, out);
}

static int f_replace(Run *r, Value *a, const Args *raw, Value *out)
{
    const Str *s, *old, *fresh;
    int64_t count = -1;
    (void)raw;
    if (given(a[3]) && a[3].kind != V_NONE) {
        if (!is_int(a[3])) return refuse(r, a[3], "replace");
        count = a[3].u.i;
    }
    if (to_str(r, a[0], &s) || to_str(r, a[1], &old) || to_str(r, a[2], &fresh)) return -1;
    return str_replace(r, s, old, fresh, count, out);
}

static int f_string(Run *r, Value *a, const Args *raw, Value *out)
{
    (void)raw;
    return soft_str(r, a[0], out);
}

static int f_safe(Run *r, Value *a, const Args *raw, Value *out)
{
    (void)raw;
    if (soft_str(r, a[0], out)) return -1;
    out->safe = 1;
    return 0;
}

static int f_escape(Run *r, Value *a, const Args *raw, Value *out)
{
    const Str *s;
    (void)raw;
    if (escaped(r, a[0], &s) || str_slice(r, s, 0, s->len, out)) return -1;
    out->safe = 1;
    return 0;
}

static int f_forceescape(Run *r, Value *a, const Args *raw, Value *out)
{
    Value plain = a[0];
    plain.safe = 0;
    return f_escape(r, &plain, raw, out);
}

static int f_format(Run *r, Value *a, const Args *raw, Value *out)
{
    List l = {raw->items, raw->count, raw->count};
    Dict *d = run_alloc(r, 1, sizeof *d);
    Value text, args = v_list(&l);
    (void)a;
    if (!d || soft_str(r, a[0], &text)) return -1;
    if (raw->count && raw->keyword_count)
        return fail(r, "format takes arguments by position or by name, not both");
    args.kind = V_TUPLE;
    for (size_t i = 0; i < raw->keyword_count; i++)
        if (dict_put(r, d, raw->keywords[i].name, raw->keywords[i].value)) return -1;
    if (raw->keyword_count) {
        args.kind = V_DICT;
        args.u.dict = d;
    }
    return percent(r, text, args, out);
}

static int f_indent(Run *r, Value *a, const Args *raw, Value *out)
{
    Value by, whole, end;
    Builder b = {0};
    List *lines;
    int first = flag(r, a[2], 0), blank = flag(r, a[3], 0);
    (void)raw;
    if (first < 0 || blank < 0) return -1;
    if (a[0].kind != V_STRING || a[0].safe) return refuse(r, a[0], "indent");
    if (given(a[1]) && a[1].kind == V_STRING) {
        by = a[1];
    } else {
        if (given(a[1]) && !is_int(a[1])) return refuse(r, a[1], "indent");
        Value space;
        if (v_text(r, " ", 1, &space) ||
            binary(r, '*', space, given(a[1]) ? a[1] : v_int(4), &by))
            return -1;
    }
    if (v_text(r, "\n", 1, &end) || binary(r, '+', a[0], end, &whole) ||
        str_lines(r, whole, 0, &lines))
        return -1;
    if (first && build_str(r, &b, by.u.s)) return -1;
    for (size_t i = 0; i < lines->len; i++) {
        const Str *line = lines->items[i].u.s;
        if (i && build_text(r, &b, "\n")) return -1;
        if (i && (blank || line->len) && build_str(r, &b, by.u.s)) return -1;
        if (build_str(r, &b, line)) return -1;
    }
    return build_end(r, &b, out);
}

/* json.dumps of transformers' own filter: no entities for HTML, no \u for what is not ASCII. */
static int f_tojson(Run *r, Value *a, const Args *raw, Value *out)
{
    Builder b = {0};
    Value indent, comma, colon;
    const char *by = NULL, *between = ", ", *behind = ": ";
    int ascii = flag(r, a[1], 0), sort = flag(r, a[4], 0);
    (void)raw;
    if (ascii < 0 || sort < 0) return -1;
    if (given(a[2]) && a[2].kind != V_NONE) {
        indent = a[2];
        if (is_int(a[2]) &&
            (v_text(r, " ", 1, &indent) || binary(r, '*', indent, v_int(a[2].u.i), &indent)))
            return -1;
        if (indent.kind != V_STRING) return refuse(r, a[2], "tojson");
        if (v_text(r, indent.u.s->bytes, indent.u.s->len, &indent)) return -1;
        by = indent.u.s->bytes;
        between = ",";
    }
    if (given(a[3]) && a[3].kind != V_NONE) {
        const List *l = a[3].kind == V_LIST || a[3].kind == V_TUPLE ? a[3].u.list : NULL;
        if (!l || l->len != 2 || l->items[0].kind != V_STRING || l->items[1].kind != V_STRING)
            return refuse(r, a[3], "tojson, expected two texts as separators");
        if (v_text(r, l->items[0].u.s->bytes, l->items[0].u.s->len, &comma) ||
            v_text(r, l->items[1].u.s->bytes, l->items[1].u.s->len, &colon))
            return -1;
        between = comma.u.s->bytes;
        behind = colon.u.s->bytes;
    }
    if (put_json(r, &b, a[0], by, between, behind, ascii, sort, 0)) return -1;
    return build_end(r, &b, out);
}

/* ---- numbers ------------------------------------------------------------------------------- */

static int f_int(Run *r, Value *a, const Args *raw, Value *out)
{
    int64_t i, base = 10;
    double f;
    (void)raw;
    if (given(a[2])) {
        if (!is_int(a[2])) return refuse(r, a[2], "int");
        base = a[2].u.i;
    }
    int got = to_int(r, a[0], base, &i);
    if (got > 0) { /* perhaps it is a float in a text */
        got = to_float(r, a[0], &f);
        if (!got && (isnan(f) || isinf(f))) got = 1;
        if (!got) got = to_int(r, v_float(f), 10, &i);
    }
    if (got < 0) return -1;
    *out = !got ? v_int(i) : given(a[1]) ? a[1] : v_int(0);
    return 0;
}

static int f_float(Run *r, Value *a, const Args *raw, Value *out)
{
    double f;
    (void)raw;
    int got = to_float(r, a[0], &f);
    if (got < 0) return -1;
    *out = !got ? v_float(f) : given(a[1]) ? a[1] : v_float(0);
    return 0;
}

static int f_abs(Run *r, Value *a, const Args *raw, Value *out)
{
    (void)raw;
    if (!is_number(a[0])) return refuse(r, a[0], "abs");
    if (a[0].kind == V_FLOAT) {
        *out = v_float(fabs(a[0].u.f));
        return 0;
    }
    if (a[0].u.i >= 0) {
        *out = v_int(a[0].u.i);
        return 0;
    }
    return binary(r, '-', v_int(0), v_int(a[0].u.i), out);
}

/* round(f, n) as Python does it: by the decimal text, so that halves are those of the value. */
static double round_to(double f, int64_t n)
{
    char text[400];
    double back;
    if (!isfinite(f) || n > 308) return f;
    if (n < -308) return f * 0.0;
    if (n >= 0) {
        snprintf(text, sizeof text, "%.*f", (int)n, f);
        return parse_f64(text, strlen(text), &back) ? f : back;
    }
    double unit = pow(10.0, (double)-n), times = f / unit, whole = nearbyint(times);
    return whole * unit;
}

static int f_round(Run *r, Value *a, const Args *raw, Value *out)
{
    int64_t n = 0;
    (void)raw;
    if (!is_number(a[0])) return refuse(r, a[0], "round");
    if (given(a[1])) {
        if (!is_int(a[1])) return refuse(r, a[1], "round");
        n = a[1].u.i;
    }
    if (given(a[2]) && !str_is(a[2], "common")) {
        int up = str_is(a[2], "ceil");
        if (!up && !str_is(a[2], "floor"))
            return fail(r, "found a method of round, expected 'common', 'ceil' or 'floor'");
        Value ten, times, whole;
        if (binary(r, '*' << 8 | '*', v_int(10), v_int(n), &ten) ||
            binary(r, '*', a[0], ten, &times))
            return -1;
        whole = times;
        if (times.kind == V_FLOAT) {
            int64_t i;
            int got = to_int(r, v_float(up ? ceil(times.u.f) : floor(times.u.f)), 10, &i);
            if (got) return got < 0 ? -1 : refuse(r, a[0], "round");
            whole = v_int(i);
        }
        return binary(r, '/', whole, ten, out);
    }
    if (a[0].kind == V_FLOAT) {
        *out = v_float(round_to(a[0].u.f, n));
        if (isfinite(a[0].u.f) && isinf(out->u.f)) return fail(r, "round: the number is too large");
        return 0;
    }
    if (n < 0) return fail(r, "round of an int to tens cannot be done here");
    *out = v_int(a[0].u.i);
    return 0;
}

/* ---- sequences ----------------------------------------------------------------------------- */

/* The path of an attribute, "a.b.0", followed from v; a missing part becomes `fallback`. */
static int get_path(Run *r, Value v, Value path, Value fallback, Value *out)
{
    *out = v;
    if (path.kind == V_NONE || path.kind == V_MISSING) return 0;
    if (path.kind != V_STRING) {
        if (get_item(r, v, path, out)) return -1;
        if (out->kind == V_UNDEFINED && fallback.kind != V_NONE && given(fallback)) *out = fallback;
        return 0;
    }
    const Str *s = path.u.s;
    for (size_t at = 0; at <= s->len;) {
        const char *dot = at < s->len ? memchr(s->bytes + at, '.', s->len - at) : NULL;
        size_t end = dot ? (size_t)(dot - s->bytes) : s->len, digits = at;
        Value key;
        int64_t n;
        if (str_slice(r, s, at, end, &key)) return -1;
        while (digits < end && s->bytes[digits] >= '0' && s->bytes[digits] <= '9') digits++;
        if (end > at && digits == end && !parse_i64(s->bytes + at, end - at, &n)) key = v_int(n);
        if (get_item(r, *out, key, out)) return -1;
        if (out->kind == V_UNDEFINED && fallback.kind != V_NONE && given(fallback)) *out = fallback;
        at = end + 1;
    }
    return 0;
}

/* A text in lower case where letters do not count. */
static int fold(Run *r, Value v, int sensitive, Value *out)
{
    Args none = {0};
    *out = v;
    if (sensitive || v.kind != V_STRING) return 0;
    return call_method(r, v, "lower", &none, out);
}

static int f_default(Run *r, Value *a, const Args *raw, Value *out)
{
    Value empty;
    int falsy = flag(r, a[2], 0);
    (void)raw;
    if (falsy < 0 || v_text(r, "", 0, &empty)) return -1;
    int replace = a[0].kind == V_UNDEFINED;
    if (!replace && falsy) {
        int yes = truth(r, a[0]);
        if (yes < 0) return -1;
        replace = !yes;
    }
    *out = !replace ? a[0] : given(a[1]) ? a[1] : empty;
    return 0;
}

static int f_length(Run *r, Value *a, const Args *raw, Value *out)
{
    size_t n;
    (void)raw;
    if (a[0].kind == V_LOOP) {
        if (a[0].u.loop->count(r, a[0].u.loop, &n)) return -1;
    } else if (length(r, a[0], &n)) {
        return -1;
    }
    *out = v_int((int64_t)n);
    return 0;
}

static int f_list(Run *r, Value *a, const Args *raw, Value *out)
{
    List *l;
    (void)raw;
    if (list_of(r, a[0], &l)) return -1;
    *out = v_list(l);
    return 0;
}

static int f_first(Run *r, Value *a, const Args *raw, Value *out)
{
    Iter *it;
    (void)raw;
    if (iter_open(r, a[0], &it)) return -1;
    int got = iter_next(r, it, out);
    if (!got) *out = v_undefined("the first item of nothing");
    if (got > 0 && a[0].kind == V_STRING) out->safe = a[0].safe;
    return got < 0 ? -1 : 0;
}

static int f_last(Run *r, Value *a, const Args *raw, Value *out)
{
    List *l;
    (void)raw;
    if (a[0].kind == V_ITERATOR || a[0].kind == V_LOOP) return refuse(r, a[0], "last");
    if (list_of(r, a[0], &l)) return -1;
    *out = l->len ? l->items[l->len - 1] : v_undefined("the last item of nothing");
    if (l->len && a[0].kind == V_STRING) out->safe = a[0].safe;
    return 0;
}

static int iterator(Run *r, IterKind kind, Value source, Iter **it, Value *out)
{
    Iter *i = run_alloc(r, 1, sizeof *i);
    if (!i) return -1;
    i->kind = kind;
    i->source = source;
    i->fill = v_none();
    out->kind = V_ITERATOR;
    out->safe = 0;
    out->u.iter = i;
    *it = i;
    return 0;
}

static int f_reverse(Run *r, Value *a, const Args *raw, Value *out)
{
    List *l;
    Iter *it;
    (void)raw;
    if (a[0].kind == V_STRING) {
        Value part[3] = {v_none(), v_none(), v_int(-1)};
        return get_slice(r, a[0], part, out);
    }
    if (list_of(r, a[0], &l)) return -1;
    if (a[0].kind == V_ITERATOR) {
        for (size_t i = 0, k = l->len; i + 1 < k; i++) {
            Value v = l->items[i];
            l->items[i] = l->items[--k];
            l->items[k] = v;
        }
        *out = v_list(l);
        return 0;
    }
    if (iterator(r, I_REVERSED, a[0], &it, out)) return -1;
    it->list = l;
    return 0;
}

static int f_join(Run *r, Value *a, const Args *raw, Value *out)
{
    Builder b = {0};
    Iter *it;
    Value v;
    Value none = v_none(), d = a[1];
    const Str *between;
    (void)raw;
    if (!given(d) && v_text(r, "", 0, &d)) return -1;
    if (to_str(r, d, &between) || iter_open(r, a[0], &it)) return -1;
    for (int got, i = 0; (got = iter_next(r, it, &v)) != 0; i = 1) {
        if (got < 0 || (i && build_str(r, &b, between))) return -1;
        if (given(a[2]) && a[2].kind != V_NONE && get_path(r, v, a[2], none, &v)) return -1;
        if (put_str(r, &b, v)) return -1;
    }
    return build_end(r, &b, out);
}

static int f_items(Run *r, Value *a, const Args *raw, Value *out)
{
    Iter *it;
    (void)raw;
    if (a[0].kind != V_UNDEFINED && a[0].kind != V_DICT) {
        /* In Python the generator fails when it is walked; so does this. */
        if (iterator(r, I_BATCH, v_none(), &it, out)) return -1;
        it->width = 1;
        return 0;
    }
    if (iterator(r, a[0].kind == V_DICT ? I_DICT : I_LIST, a[0], &it, out)) return -1;
    it->part = 'i';
    it->dict = a[0].kind == V_DICT ? a[0].u.dict : NULL;
    return 0;
}

static int f_dictsort(Run *r, Value *a, const Args *raw, Value *out)
{
    int sensitive = flag(r, a[1], 0), reverse = flag(r, a[3], 0), by_value = 0;
    List *l = run_alloc(r, 1, sizeof *l), keys = {0};
    (void)raw;
    if (!l || sensitive < 0 || reverse < 0) return -1;
    if (a[0].kind != V_DICT) return refuse(r, a[0], "dictsort");
    if (given(a[2]) && !str_is(a[2], "key")) {
        if (!str_is(a[2], "value")) return fail(r, "dictsort: expected 'key' or 'value' as by");
        by_value = 1;
    }
    for (size_t i = 0; i < a[0].u.dict->len; i++) {
        const Entry *e = &a[0].u.dict->items[i];
        Value pair, key;
        if (v_pair(r, e->key, e->value, &pair) || list_add(r, l, pair) ||
            fold(r, by_value ? e->value : e->key, sensitive, &key) || list_add(r, &keys, key))
            return -1;
    }
    if (sort_values(r, l->items, keys.items, l->len, reverse)) return -1;
    *out = v_list(l);
    return 0;
}

/* What to sort by: the values at the paths of "a,b.c", each in lower case unless case counts. */
static int sort_key(Run *r, Value item, Value paths, int sensitive, Value *out)
{
    List *key = run_alloc(r, 1, sizeof *key);
    Value v, none = v_none();
    if (!key) return -1;
    if (paths.kind != V_STRING) {
        if (get_path(r, item, paths, none, &v) || fold(r, v, sensitive, &v) ||
            list_add(r, key, v))
            return -1;
    } else {
        const Str *s = paths.u.s;
        for (size_t at = 0; at <= s->len;) {
            const char *comma = at < s->len ? memchr(s->bytes + at, ',', s->len - at) : NULL;
            size_t end = comma ? (size_t)(comma - s->bytes) : s->len;
            Value path;
            if (str_slice(r, s, at, end, &path) || get_path(r, item, path, none, &v) ||
                fold(r, v, sensitive, &v) || list_add(r, key, v))
                return -1;
            at = end + 1;
        }
    }
    *out = v_list(key);
    return 0;
}

static int f_sort(Run *r, Value *a, const Args *raw, Value *out)
{
    int reverse = flag(r, a[1], 0), sensitive = flag(r, a[2], 0);
    List *l, keys = {0};
    (void)raw;
    if (reverse < 0 || sensitive < 0 || list_of(r, a[0], &l)) return -1;
    for (size_t i = 0; i < l->len; i++) {
        Value key;
        if (sort_key(r, l->items[i], given(a[3]) ? a[3] : v_none(), sensitive, &key) ||
            list_add(r, &keys, key))
            return -1;
    }
    if (sort_values(r, l->items, keys.items, l->len, reverse)) return -1;
    *out = v_list(l);
    return 0;
}

/* The smallest, or largest, item; the first of several. */
static int extreme(Run *r, Value *a, int op, Value *out)
{
    int sensitive = flag(r, a[1], 0);
    List *l;
    Value best = v_none();
    if (sensitive < 0 || list_of(r, a[0], &l)) return -1;
    *out = v_undefined("the extreme of nothing");
    for (size_t i = 0; i < l->len; i++) {
        Value key;
        int better = 1;
        if (get_path(r, l->items[i], a[2], v_none(), &key) || fold(r, key, sensitive, &key) ||
            (i && order(r, key, best, op, &better)))
            return -1;
        if (!better) continue;
        best = key;
        *out = l->items[i];
    }
    return 0;
}

static int f_min(Run *r, Value *a, const Args *raw, Value *out)
{
    (void)raw;
    return extreme(r, a, '<', out);
}

static int f_max(Run *r, Value *a, const Args *raw, Value *out)
{
    (void)raw;
    return extreme(r, a, '>', out);
}

static int f_sum(Run *r, Value *a, const Args *raw, Value *out)
{
    Iter *it;
    Value v, none = v_none();
    (void)raw;
    *out = given(a[2]) ? a[2] : v_int(0);
    if (out->kind == V_STRING) return refuse(r, *out, "sum");
    if (iter_open(r, a[0], &it)) return -1;
    for (int got; (got = iter_next(r, it, &v)) != 0;)
        if (got < 0 || get_path(r, v, a[1], none, &v) || binary(r, '+', *out, v, out)) return -1;
    return 0;
}

/* The first of every value, by the attribute where one is given. */
static int pick_unique(Run *r, Iter *it, Value v, Value *out, int *keep)
{
    const Value *a = it->args.items;
    int sensitive = flag(r, a[1], 0);
    Value key;
    *out = v;
    *keep = 0;
    if (sensitive < 0 || get_path(r, v, a[2], v_none(), &key) ||
        fold(r, key, sensitive, &key) || hashable(r, key))
        return -1;
    for (size_t i = 0; i < it->seen.len; i++) {
        int same = equal(r, it->seen.items[i], key);
        if (same) return same < 0 ? -1 : 0;
    }
    *keep = 1;
    return list_add(r, &it->seen, key);
}

static int f_unique(Run *r, Value *a, const Args *raw, Value *out)
{
    Iter *it;
    (void)raw;
    if (iterator(r, I_PICK, a[0], &it, out)) return -1;
    it->args.items = run_alloc(r, 3, sizeof *a);
    if (!it->args.items) return -1;
    memcpy(it->args.items, a, 3 * sizeof *a);
    it->args.count = 3;
    it->pick = pick_unique;
    return 0;
}

static int f_batch(Run *r, Value *a, const Args *raw, Value *out)
{
    Iter *it;
    (void)raw;
    if (!is_int(a[1]) || a[1].u.i < 1) return refuse(r, a[1], "batch");
    if (iterator(r, I_BATCH, a[0], &it, out)) return -1;
    it->width = (size_t)a[1].u.i;
    if (given(a[2])) it->fill = a[2];
    if (it->fill.kind != V_NONE && a[1].u.i > TEMPLATE_MAX_RANGE)
        return fail(r, "batch: more than %d items in a batch", TEMPLATE_MAX_RANGE);
    return 0;
}

static int f_attr(Run *r, Value *a, const Args *raw, Value *out)
{
    (void)raw;
    if (a[1].kind != V_STRING) return refuse(r, a[1], "attr");
    if (a[0].kind == V_DICT && dict_find(a[0].u.dict, a[1].u.s->bytes))
        return fail(r, "attr of a dict's key cannot be done here");
    return get_attribute(r, a[0], a[1].u.s->bytes, a[1].u.s->len, out);
}

/* ---- map, select, reject ------------------------------------------------------------------- */

/* The arguments behind the first `skip` ones. */
static Args behind(const Args *a, size_t skip)
{
    Args rest = *a;
    rest.items += skip;
    rest.count -= skip;
    return rest;
}

static int name_of(Run *r, Value v, char out[64])
{
    if (v.kind != V_STRING || v.u.s->len >= 64)
        return fail(r, "found a %s as the name of a filter or test", kind_name(v));
    memcpy(out, v.u.s->bytes, v.u.s->len);
    out[v.u.s->len] = 0;
    return 0;
}

static int pick_mapped(Run *r, Iter *it, Value v, Value *out, int *keep)
{
    const Args *a = &it->args;
    char name[64];
    *keep = 1;
    if (!a->count && a->keyword_count) {
        Value path = {V_MISSING, 0, {0}}, fallback = v_none();
        for (size_t i = 0; i < a->keyword_count; i++) {
            if (!strcmp(a->keywords[i].name, "attribute")) path = a->keywords[i].value;
            else if (!strcmp(a->keywords[i].name, "default")) fallback = a->keywords[i].value;
            else return fail(r, "map has no parameter '%.60s'", a->keywords[i].name);
        }
        if (given(path)) return get_path(r, v, path, fallback, out);
    }
    if (!a->count) return fail(r, "map needs the name of a filter, or an attribute");
    if (name_of(r, a->items[0], name)) return -1;
    const void *entry = filter_find(name);
    if (!entry) return fail(r, "found the filter '%s', which does not exist here", name);
    Args rest = behind(a, 1);
    return filter_call(r, entry, v, &rest, out);
}

static int pick_selected(Run *r, Iter *it, Value v, Value *out, int *keep)
{
    const Args *a = &it->args;
    size_t at = it->by_attribute ? 1 : 0;
    Value looked_at = v;
    char name[64];
    int yes;
    if (a->count < at) return fail(r, "found no name of an attribute");
    if (at && get_path(r, v, a->items[0], v_none(), &looked_at)) return -1;
    if (a->count == at) {
        yes = truth(r, looked_at);
    } else {
        if (name_of(r, a->items[at], name)) return -1;
        const void *entry = test_find(name);
        if (!entry) return fail(r, "found the test '%s', which does not exist here", name);
        Args rest = behind(a, at + 1);
        yes = test_call(r, entry, looked_at, &rest);
    }
    *out = v;
    *keep = it->reject ? !yes : yes;
    return yes < 0 ? -1 : 0;
}

static int picker(Run *r, Value *a, const Args *raw, int select, int reject, int attribute,
                  Value *out)
{
    Iter *it;
    if (iterator(r, I_PICK, a[0], &it, out)) return -1;
    it->pick = select ? pick_selected : pick_mapped;
    it->only_true = 1;
    it->reject = reject;
    it->by_attribute = attribute;
    it->args = *raw;
    return 0;
}

static int f_map(Run *r, Value *a, const Args *raw, Value *out)
{
    return picker(r, a, raw, 0, 0, 0, out);
}

static int f_select(Run *r, Value *a, const Args *raw, Value *out)
{
    return picker(r, a, raw, 1, 0, 0, out);
}

static int f_reject(Run *r, Value *a, const Args *raw, Value *out)
{
    return picker(r, a, raw, 1, 1, 0, out);
}

static int f_selectattr(Run *r, Value *a, const Args *raw, Value *out)
{
    return picker(r, a, raw, 1, 0, 1, out);
}

static int f_rejectattr(Run *r, Value *a, const Args *raw, Value *out)
{
    return picker(r, a, raw, 1, 1, 1, out);
}

/* ---- tests --------------------------------------------------------------------------------- */

static int t_defined(Run *r, Value *a)
{
    (void)r;
    return a[0].kind != V_UNDEFINED;
}

static int t_undefined(Run *r, Value *a)
{
    (void)r;
    return a[0].kind == V_UNDEFINED;
}

static int t_none(Run *r, Value *a)
{
    (void)r;
    return a[0].kind == V_NONE;
}

static int t_boolean(Run *r, Value *a)
{
    (void)r;
    return a[0].kind == V_BOOL;
}

static int t_true(Run *r, Value *a)
{
    (void)r;
    return a[0].kind == V_BOOL && a[0].u.i;
}

static int t_false(Run *r, Value *a)
{
    (void)r;
    return a[0].kind == V_BOOL && !a[0].u.i;
}

static int t_integer(Run *r, Value *a)
{
    (void)r;
    return a[0].kind == V_INT;
}

static int t_float(Run *r, Value *a)
{
    (void)r;
    return a[0].kind == V_FLOAT;
}

static int t_number(Run *r, Value *a)
{
    (void)r;
    return is_number(a[0]);
}

static int t_string(Run *r, Value *a)
{
    (void)r;
    return a[0].kind == V_STRING;
}

static int t_mapping(Run *r, Value *a)
{
    (void)r;
    return a[0].kind == V_DICT;
}

static int t_sequence(Run *r, Value *a)
{
    (void)r;
    return (a[0].kind >= V_STRING && a[0].kind <= V_DICT) || a[0].kind == V_RANGE ||
           a[0].kind == V_UNDEFINED;
}

static int t_iterable(Run *r, Value *a)
{
    (void)r;
    return iterable(a[0]);
}

static int t_callable(Run *r, Value *a)
{
    (void)r;
    return a[0].kind >= V_LOOP || a[0].kind == V_UNDEFINED;
}

static int t_escaped(Run *r, Value *a)
{
    (void)r;
    return a[0].kind == V_STRING && a[0].safe;
}

static int text_case(Run *r, Value v, const char *method)
{
    const Str *s;
    Value text, yes;
    Args none = {0};
    if (to_str(r, v, &s) || str_slice(r, s, 0, s->len, &text) ||
        call_method(r, text, method, &none, &yes))
        return -1;
    return truth(r, yes);
}

static int t_lower(Run *r, Value *a)
{
    return text_case(r, a[0], "islower");
}

static int t_upper(Run *r, Value *a)
{
    return text_case(r, a[0], "isupper");
}

static int rest_is(Run *r, Value v, Value by, int64_t wanted)
{
    Value rest;
    if (v.kind == V_STRING) return percent(r, v, by, &rest) ? -1 : 0; /* a text is no number */
    if (!is_number(v) || !is_number(by)) return refuse(r, is_number(v) ? by : v, "of a remainder");
    if (binary(r, '%', v, by, &rest)) return -1;
    return equal(r, rest, v_int(wanted));
}

static int t_even(Run *r, Value *a)
{
    return rest_is(r, a[0], v_int(2), 0);
}

static int t_odd(Run *r, Value *a)
{
    return rest_is(r, a[0], v_int(2), 1);
}

static int t_divisibleby(Run *r, Value *a)
{
    return rest_is(r, a[0], a[1], 0);
}

static int t_eq(Run *r, Value *a)
{
    return equal(r, a[0], a[1]);
}

static int t_ne(Run *r, Value *a)
{
    int same = equal(r, a[0], a[1]);
    return same < 0 ? -1 : !same;
}

static int ordered(Run *r, Value *a, int op)
{
    int yes;
    return order(r, a[0], a[1], op, &yes) ? -1 : yes;
}

static int t_lt(Run *r, Value *a)
{
    return ordered(r, a, '<');
}

static int t_gt(Run *r, Value *a)
{
    return ordered(r, a, '>');
}

static int t_le(Run *r, Value *a)
{
    return ordered(r, a, '<' << 8 | '=');
}

static int t_ge(Run *r, Value *a)
{
    return ordered(r, a, '>' << 8 | '=');
}

static int t_in(Run *r, Value *a)
{
    return contains(r, a[1], a[0]);
}

/* `is` of Python, for values of which there is one: None, true, false. */
static int t_sameas(Run *r, Value *a)
{
    if (a[0].kind != a[1].kind) return 0;
    if (a[0].kind == V_NONE) return 1;
    if (a[0].kind == V_BOOL) return a[0].u.i == a[1].u.i;
    return fail(r, "sameas of two values of type %s cannot be told here", kind_name(a[0]));
}

static int t_filter(Run *r, Value *a)
{
    char name[64];
    if (a[0].kind != V_STRING) return hashable(r, a[0]);
    return name_of(r, a[0], name) ? -1 : filter_find(name) != NULL;
}

static int t_test(Run *r, Value *a)
{
    char name[64];
    if (a[0].kind != V_STRING) return hashable(r, a[0]);
    return name_of(r, a[0], name) ? -1 : test_find(name) != NULL;
}

/* ---- the tables ---------------------------------------------------------------------------- */

typedef struct {
    const char *name, *spec; /* "*": takes what it is given */
    size_t least;
    FilterBody filter;
    TestBody test;
} Row;

static const Row filters[] = {
    {"abs", "x", 1, f_abs, NULL},
    {"attr", "obj,name", 2, f_attr, NULL},
    {"batch", "value,linecount,fill_with", 2, f_batch, NULL},
    {"capitalize", "s", 1, f_capitalize, NULL},
    {"center", "value,width", 1, f_center, NULL},
    {"count", "obj", 1, f_length, NULL},
    {"d", "value,default_value,boolean", 1, f_default, NULL},
    {"default", "value,default_value,boolean", 1, f_default, NULL},
    {"dictsort", "value,case_sensitive,by,reverse", 1, f_dictsort, NULL},
    {"e", "s", 1, f_escape, NULL},
    {"escape", "s", 1, f_escape, NULL},
    {"first", "seq", 1, f_first, NULL},
    {"float", "value,default", 1, f_float, NULL},
    {"forceescape", "value", 1, f_forceescape, NULL},
    {"format", "*", 0, f_format, NULL},
    {"indent", "s,width,first,blank", 1, f_indent, NULL},
    {"int", "value,default,base", 1, f_int, NULL},
    {"items", "value", 1, f_items, NULL},
    {"join", "value,d,attribute", 1, f_join, NULL},
    {"last", "seq", 1, f_last, NULL},
    {"length", "obj", 1, f_length, NULL},
    {"list", "value", 1, f_list, NULL},
    {"lower", "s", 1, f_lower, NULL},
    {"map", "*", 0, f_map, NULL},
    {"max", "value,case_sensitive,attribute", 1, f_max, NULL},
    {"min", "value,case_sensitive,attribute", 1, f_min, NULL},
    {"reject", "*", 0, f_reject, NULL},
    {"rejectattr", "*", 0, f_rejectattr, NULL},
    {"replace", "s,old,new,count", 3, f_replace, NULL},
    {"reverse", "value", 1, f_reverse, NULL},
    {"round", "value,precision,method", 1, f_round, NULL},
    {"safe", "value", 1, f_safe, NULL},
    {"select", "*", 0, f_select, NULL},
    {"selectattr", "*", 0, f_selectattr, NULL},
    {"sort", "value,reverse,case_sensitive,attribute", 1, f_sort, NULL},
    {"string", "s", 1, f_string, NULL},
    {"sum", "iterable,attribute,start", 1, f_sum, NULL},
    {"title", "s", 1, f_title, NULL},
    {"tojson", "x,ensure_ascii,indent,separators,sort_keys", 1, f_tojson, NULL},
    {"trim", "value,chars", 1, f_trim, NULL},
    {"unique", "value,case_sensitive,attribute", 1, f_unique, NULL},
    {"upper", "s", 1, f_upper, NULL},
    {NULL, NULL, 0, NULL, NULL}};

static const Row tests[] = {{"!=", "a,b", 2, NULL, t_ne},
                            {"<", "a,b", 2, NULL, t_lt},
                            {"<=", "a,b", 2, NULL, t_le},
                            {"==", "a,b", 2, NULL, t_eq},
                            {">", "a,b", 2, NULL, t_gt},
                            {">=", "a,b", 2, NULL, t_ge},
                            {"boolean", "value", 1, NULL, t_boolean},
                            {"callable", "obj", 1, NULL, t_callable},
                            {"defined", "value", 1, NULL, t_defined},
                            {"divisibleby", "value,num", 2, NULL, t_divisibleby},
                            {"eq", "a,b", 2, NULL, t_eq},
                            {"equalto", "a,b", 2, NULL, t_eq},
                            {"escaped", "value", 1, NULL, t_escaped},
                            {"even", "value", 1, NULL, t_even},
                            {"false", "value", 1, NULL, t_false},
                            {"filter", "value", 1, NULL, t_filter},
                            {"float", "value", 1, NULL, t_float},
                            {"ge", "a,b", 2, NULL, t_ge},
                            {"greaterthan", "a,b", 2, NULL, t_gt},
                            {"gt", "a,b", 2, NULL, t_gt},
                            {"in", "value,seq", 2, NULL, t_in},
                            {"integer", "value", 1, NULL, t_integer},
                            {"iterable", "value", 1, NULL, t_iterable},
                            {"le", "a,b", 2, NULL, t_le},
                            {"lessthan", "a,b", 2, NULL, t_lt},
                            {"lower", "value", 1, NULL, t_lower},
                            {"lt", "a,b", 2, NULL, t_lt},
                            {"mapping", "value", 1, NULL, t_mapping},
                            {"ne", "a,b", 2, NULL, t_ne},
                            {"none", "value", 1, NULL, t_none},
                            {"number", "value", 1, NULL, t_number},
                            {"odd", "value", 1, NULL, t_odd},
                            {"sameas", "value,other", 2, NULL, t_sameas},
                            {"sequence", "value", 1, NULL, t_sequence},
                            {"string", "value", 1, NULL, t_string},
                            {"test", "value", 1, NULL, t_test},
                            {"true", "value", 1, NULL, t_true},
                            {"undefined", "value", 1, NULL, t_undefined},
                            {"upper", "value", 1, NULL, t_upper},
                            {NULL, NULL, 0, NULL, NULL}};

static const Row *find(const Row *rows, const char *name)
{
    for (; rows->name; rows++)
        if (!strcmp(rows->name, name)) return rows;
    return NULL;
}

const void *filter_find(const char *name)
{
    return find(filters, name);
}

const void *test_find(const char *name)
{
    return find(tests, name);
}

/* The value and the arguments behind it, bound to the parameters. */
static int bind_row(Run *r, const Row *row, Value v, const Args *a, Value bound[8])
{
    Args all = *a;
    Value items[9];
    if (a->count > 8) return fail(r, "%s has %zu arguments, expected fewer", row->name, a->count);
    items[0] = v;
    for (size_t i = 0; i < a->count; i++) items[i + 1] = a->items[i];
    all.items = items;
    all.count++;
    return bind_args(r, row->name, row->spec, row->least, &all, bound);
}

int filter_call(Run *r, const void *entry, Value v, const Args *a, Value *out)
{
    const Row *row = entry;
    Value bound[8] = {v};
    if (charge(r, 1) || enter(r)) return -1;
    if (*row->spec != '*' && bind_row(r, row, v, a, bound)) return -1;
    if (row->filter(r, bound, a, out)) return -1;
    leave(r);
    return 0;
}

int test_call(Run *r, const void *entry, Value v, const Args *a)
{
    const Row *row = entry;
    Value bound[8];
    if (charge(r, 1) || bind_row(r, row, v, a, bound)) return -1;
    return row->test(r, bound);
}
