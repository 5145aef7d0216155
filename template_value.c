/* template_value.c - Python's values as templates see them: truth, equality, order, text, JSON.
 *
 * All memory of a rendering comes from its pool and goes with it. Every function that can walk a
 * nested value counts its depth, and whatever copies bytes pays for them in steps.
 */
#include "template_parts.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- the rendering ------------------------------------------------------------------------- */

int fail(Run *r, const char *fmt, ...)
{
    char text[768];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return err_set(r->e, ERR_DATA, "%s:%d: %s", r->t->name, r->line, text);
}

int charge(Run *r, size_t steps)
{
    if (r->steps <= TEMPLATE_MAX_STEPS && steps <= TEMPLATE_MAX_STEPS - r->steps) {
        r->steps += steps;
        return 0;
    }
    return fail(r, "the template runs for more than %d steps", TEMPLATE_MAX_STEPS);
}

int enter(Run *r)
{
    if (++r->depth <= TEMPLATE_MAX_DEPTH) return 0;
    return fail(r, "macros, expressions or values nest deeper than %d levels", TEMPLATE_MAX_DEPTH);
}

void leave(Run *r)
{
    r->depth--;
}

void *run_alloc(Run *r, size_t count, size_t size)
{
    size_t bytes;
    if (size_mul(count, size, &bytes) || bytes > TEMPLATE_MAX_MEMORY - r->pool.total) {
        fail(r, "the template makes more than %d bytes of values", TEMPLATE_MAX_MEMORY);
        return NULL;
    }
    if (charge(r, 1 + bytes / 64)) return NULL;
    return pool_alloc(&r->pool, bytes ? bytes : 1, r->e);
}

const char *kind_name(Value v)
{
    static const char *const names[] = {
        [V_MISSING] = "nothing",   [V_UNDEFINED] = "undefined", [V_NONE] = "None",
        [V_BOOL] = "bool",         [V_INT] = "int",             [V_FLOAT] = "float",
        [V_STRING] = "str",        [V_LIST] = "list",           [V_TUPLE] = "tuple",
        [V_DICT] = "dict",         [V_NAMESPACE] = "namespace", [V_RANGE] = "range",
        [V_VIEW] = "view of dict", [V_ITERATOR] = "generator",  [V_LOOP] = "loop",
        [V_MACRO] = "macro",       [V_METHOD] = "method",       [V_FUNCTION] = "function"};
    return names[v.kind];
}

/* ---- making values ------------------------------------------------------------------------- */

Value v_none(void)
{
    Value v = {V_NONE, 0, {0}};
    return v;
}

Value v_bool(int b)
{
    Value v = {V_BOOL, 0, {b != 0}};
    return v;
}

Value v_int(int64_t i)
{
    Value v = {V_INT, 0, {i}};
    return v;
}

Value v_float(double f)
{
    Value v = {V_FLOAT, 0, {0}};
    v.u.f = f;
    return v;
}

Value v_undefined(const char *name)
{
    Value v = {V_UNDEFINED, 0, {0}};
    v.u.name = name;
    return v;
}

Value v_list(const List *l)
{
    Value v = {V_LIST, 0, {0}};
    v.u.list = l;
    return v;
}

static size_t count_chars(const char *bytes, size_t len)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) n += ((unsigned char)bytes[i] & 0xC0) != 0x80;
    return n;
}

/* A string over bytes that stay where they are. */
static int v_over(Run *r, const char *bytes, const char *marks, size_t len, Value *out)
{
    Str *s = run_alloc(r, 1, sizeof *s);
    if (!s || charge(r, len / 64)) return -1;
    s->bytes = bytes;
    s->marks = marks;
    s->len = len;
    s->chars = count_chars(bytes, len);
    out->kind = V_STRING;
    out->safe = 0;
    out->u.s = s;
    return 0;
}

int v_text(Run *r, const char *bytes, size_t len, Value *out)
{
    char *copy = run_alloc(r, len + 1, 1);
    if (!copy) return -1;
    memcpy(copy, bytes, len);
    return v_over(r, copy, NULL, len, out);
}

int str_slice(Run *r, const Str *s, size_t from, size_t to, Value *out)
{
    return v_over(r, s->bytes + from, s->marks ? s->marks + from : NULL, to - from, out);
}

int v_pair(Run *r, Value a, Value b, Value *out)
{
    List *l = run_alloc(r, 1, sizeof *l);
    if (!l || list_add(r, l, a) || list_add(r, l, b)) return -1;
    *out = v_list(l);
    out->kind = V_TUPLE;
    return 0;
}

/* Where character number `chars` begins; the length where there are fewer. */
size_t str_offset(const Str *s, size_t chars)
{
    if (chars >= s->chars) return s->len;
    if (s->chars == s->len) return chars;
    size_t at = 0;
    for (; chars; chars--) at += utf8_step(s->bytes + at, s->len - at);
    return at;
}

int str_is(Value v, const char *text)
{
    return v.kind == V_STRING && v.u.s->len == strlen(text) &&
           !memcmp(v.u.s->bytes, text, v.u.s->len);
}

/* ---- building text ------------------------------------------------------------------------- */

static int build_room(Run *r, Builder *b, size_t len, int marked)
{
    if (len > TEMPLATE_MAX_OUTPUT - b->len)
        return fail(r, "a text becomes longer than %d bytes", TEMPLATE_MAX_OUTPUT);
    size_t need = b->len + len;
    if (need > b->cap) {
        size_t cap = need < 32 ? 64 : need * 2;
        char *bytes = run_alloc(r, cap, 1), *marks = NULL;
        if (!bytes || (b->marks && !(marks = run_alloc(r, cap, 1)))) return -1;
        if (b->len) memcpy(bytes, b->bytes, b->len);
        if (b->len && b->marks) memcpy(marks, b->marks, b->len);
        b->bytes = bytes;
        b->marks = marks;
        b->cap = cap;
    }
    if (marked && !b->marks && !(b->marks = run_alloc(r, b->cap, 1))) return -1;
    return charge(r, 1 + len / 64);
}

int build(Run *r, Builder *b, const char *bytes, size_t len, const char *marks)
{
    if (!len) return 0;
    if (build_room(r, b, len, marks != NULL)) return -1;
    memcpy(b->bytes + b->len, bytes, len);
    if (b->marks && marks) memcpy(b->marks + b->len, marks, len);
    else if (b->marks) memset(b->marks + b->len, 0, len);
    b->len += len;
    return 0;
}

int build_str(Run *r, Builder *b, const Str *s)
{
    return build(r, b, s->bytes, s->len, s->marks);
}

int build_text(Run *r, Builder *b, const char *text)
{
    return build(r, b, text, strlen(text), NULL);
}

int build_code(Run *r, Builder *b, uint32_t code, char mark)
{
    char bytes[4], marks[4] = {mark, mark, mark, mark};
    return build(r, b, bytes, utf8_put(bytes, code), mark ? marks : NULL);
}

int build_end(Run *r, Builder *b, Value *out)
{
    return v_over(r, b->len ? b->bytes : "", b->marks, b->len, out);
}

/* ---- lists and dicts ----------------------------------------------------------------------- */

int list_add(Run *r, List *l, Value v)
{
    if (l->len == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 4;
        Value *items = run_alloc(r, cap, sizeof *items);
        if (!items) return -1;
        if (l->len) memcpy(items, l->items, l->len * sizeof *items);
        l->items = items;
        l->cap = cap;
    }
    l->items[l->len++] = v;
    return 0;
}

/* TypeError where a key cannot be hashed. */
int hashable(Run *r, Value key)
{
    if (key.kind == V_LIST || key.kind == V_DICT ||
        (key.kind == V_VIEW && key.u.view->part != 'v'))
        return fail(r, "found a %s as the key of a dict, which cannot be one", kind_name(key));
    if (key.kind != V_TUPLE) return 0;
    if (enter(r)) return -1;
    for (size_t i = 0; i < key.u.list->len; i++)
        if (hashable(r, key.u.list->items[i])) return -1;
    leave(r);
    return 0;
}

const Value *dict_get(Run *r, const Dict *d, Value key, int *failed)
{
    *failed = 0;
    for (size_t i = 0; i < d->len; i++) {
        int same = equal(r, d->items[i].key, key);
        if (same > 0) return &d->items[i].value;
        if (same < 0) {
            *failed = 1;
            return NULL;
        }
    }
    return NULL;
}

const Value *dict_find(const Dict *d, const char *key)
{
    for (size_t i = 0; i < d->len; i++)
        if (str_is(d->items[i].key, key)) return &d->items[i].value;
    return NULL;
}

static int dict_append(Run *r, Dict *d, Value key, Value value)
{
    if (d->len == d->cap) {
        size_t cap = d->cap ? d->cap * 2 : 4;
        Entry *items = run_alloc(r, cap, sizeof *items);
        if (!items) return -1;
        if (d->len) memcpy(items, d->items, d->len * sizeof *items);
        d->items = items;
        d->cap = cap;
    }
    d->items[d->len].key = key;
    d->items[d->len++].value = value;
    return 0;
}

int dict_set(Run *r, Dict *d, Value key, Value value)
{
    int failed;
    if (hashable(r, key)) return -1;
    Value *old = (Value *)dict_get(r, d, key, &failed);
    if (failed) return -1;
    if (!old) return dict_append(r, d, key, value);
    *old = value;
    return 0;
}

int dict_put(Run *r, Dict *d, const char *key, Value value)
{
    Value k;
    return v_text(r, key, strlen(key), &k) || dict_set(r, d, k, value) ? -1 : 0;
}

/* ---- truth, equality, order ---------------------------------------------------------------- */

int truth(Run *r, Value v)
{
    size_t len = 0;
    switch (v.kind) {
    case V_MISSING:
    case V_UNDEFINED:
    case V_NONE: return 0;
    case V_BOOL:
    case V_INT: return v.u.i != 0;
    case V_FLOAT: return v.u.f != 0;
    case V_STRING:
    case V_LIST:
    case V_TUPLE:
    case V_DICT:
    case V_RANGE:
    case V_VIEW: return length(r, v, &len) ? -1 : len > 0;
    default: return 1;
    }
}

int length(Run *r, Value v, size_t *len)
{
    switch (v.kind) {
    case V_UNDEFINED: *len = 0; return 0;
    case V_STRING: *len = v.u.s->chars; return 0;
    case V_LIST:
    case V_TUPLE: *len = v.u.list->len; return 0;
    case V_DICT: *len = v.u.dict->len; return 0;
    case V_RANGE: *len = v.u.range->len; return 0;
    case V_VIEW: *len = v.u.view->dict->len; return 0;
    default: return fail(r, "found a %s, which has no length", kind_name(v));
    }
}

static int is_number(Value v)
{
    return v.kind == V_BOOL || v.kind == V_INT || v.kind == V_FLOAT;
}

static double as_double(Value v)
{
    return v.kind == V_FLOAT ? v.u.f : (double)v.u.i;
}

/* -1, 0, 1 as an integer stands to a float, exactly; 2 where the float is no number. */
static int compare_int_float(int64_t i, double f)
{
    const double limit = 9223372036854775808.0;
    if (isnan(f)) return 2;
    if (f >= limit) return -1;
    if (f < -limit) return 1;
    int64_t whole = (int64_t)f;
    if (i != whole) return i < whole ? -1 : 1;
    double rest = f - (double)whole;
    return rest > 0 ? -1 : rest < 0;
}

static int compare_numbers(Value a, Value b)
{
    if (a.kind == V_FLOAT && b.kind == V_FLOAT) {
        if (isnan(a.u.f) || isnan(b.u.f)) return 2;
        return a.u.f < b.u.f ? -1 : a.u.f > b.u.f;
    }
    if (b.kind == V_FLOAT) return compare_int_float(a.u.i, b.u.f);
    if (a.kind == V_FLOAT) {
        int c = compare_int_float(b.u.i, a.u.f);
        return c == 2 ? 2 : -c;
    }
    return a.u.i < b.u.i ? -1 : a.u.i > b.u.i;
}

static int compare_text(const Str *a, const Str *b)
{
    size_t n = a->len < b->len ? a->len : b->len;
    int c = n ? memcmp(a->bytes, b->bytes, n) : 0; /* UTF-8 sorts as its code points do */
    if (c) return c < 0 ? -1 : 1;
    return a->len < b->len ? -1 : a->len > b->len;
}

static int equal_lists(Run *r, const List *a, const List *b)
{
    if (a == b) return 1;
    if (a->len != b->len) return 0;
    for (size_t i = 0; i < a->len; i++) {
        int same = equal(r, a->items[i], b->items[i]);
        if (same <= 0) return same;
    }
    return 1;
}

static int equal_dicts(Run *r, const Dict *a, const Dict *b)
{
    if (a == b) return 1;
    if (a->len != b->len) return 0;
    for (size_t i = 0; i < a->len; i++) {
        int failed;
        const Value *v = dict_get(r, b, a->items[i].key, &failed);
        if (failed) return -1;
        int same = v ? equal(r, a->items[i].value, *v) : 0;
        if (same <= 0) return same;
    }
    return 1;
}

static int equal_ranges(const Range *a, const Range *b)
{
    return a->len == b->len && (!a->len || (a->start == b->start &&
                                            (a->len == 1 || a->step == b->step)));
}

int equal(Run *r, Value a, Value b)
{
    int same = 0;
    if (is_number(a) && is_number(b)) return compare_numbers(a, b) == 0;
    if (a.kind != b.kind) return 0;
    if (charge(r, 1) || enter(r)) return -1;
    switch (a.kind) {
    case V_UNDEFINED:
    case V_NONE: same = 1; break;
    case V_STRING:
        if (a.u.s->len != b.u.s->len) break;
        if (charge(r, a.u.s->len / 64)) return -1;
        same = !a.u.s->len || !memcmp(a.u.s->bytes, b.u.s->bytes, a.u.s->len);
        break;
    case V_LIST:
    case V_TUPLE: same = equal_lists(r, a.u.list, b.u.list); break;
    case V_DICT: same = equal_dicts(r, a.u.dict, b.u.dict); break;
    case V_RANGE: same = equal_ranges(a.u.range, b.u.range); break;
    case V_FUNCTION: same = a.u.i == b.u.i; break;
    case V_VIEW: return fail(r, "views of dicts cannot be compared here");
    case V_METHOD: return fail(r, "methods cannot be compared here");
    default: same = a.u.macro == b.u.macro; break; /* the same thing: any pointer will do */
    }
    leave(r);
    return same;
}

static int op_holds(int op, int c)
{
    if (c == 2) return 0;
    return op == '<' ? c < 0 : op == '>' ? c > 0 : op == ('<' << 8 | '=') ? c <= 0 : c >= 0;
}

/* Lists: the first items that differ decide, then the lengths. */
static int order_lists(Run *r, const List *a, const List *b, int op, int *yes)
{
    for (size_t i = 0; i < a->len && i < b->len; i++) {
        int same = equal(r, a->items[i], b->items[i]);
        if (same < 0) return -1;
        if (!same) return order(r, a->items[i], b->items[i], op, yes);
    }
    *yes = op_holds(op, a->len < b->len ? -1 : a->len > b->len);
    return 0;
}

int order(Run *r, Value a, Value b, int op, int *yes)
{
    if (is_number(a) && is_number(b)) {
        *yes = op_holds(op, compare_numbers(a, b));
        return 0;
    }
    if (charge(r, 1)) return -1;
    if (a.kind == V_STRING && b.kind == V_STRING) {
        *yes = op_holds(op, compare_text(a.u.s, b.u.s));
        return charge(r, a.u.s->len / 64);
    }
    if ((a.kind == V_LIST || a.kind == V_TUPLE) && a.kind == b.kind) {
        if (enter(r) || order_lists(r, a.u.list, b.u.list, op, yes)) return -1;
        leave(r);
        return 0;
    }
    return fail(r, "found %s and %s, which have no order", kind_name(a), kind_name(b));
}

/* One merge of two sorted runs; equal keys keep their order. */
static int merge_runs(Run *r, const Value *items, const Value *keys, size_t from, size_t middle,
                      size_t to, int reverse, Value *items_out, Value *keys_out)
{
    size_t i = from, k = middle;
    for (size_t n = from; n < to; n++) {
        int right = i == middle;
        if (i < middle && k < to &&
            order(r, keys[reverse ? i : k], keys[reverse ? k : i], '<', &right))
            return -1;
        size_t take = right ? k++ : i++;
        items_out[n] = items[take];
        keys_out[n] = keys[take];
    }
    return 0;
}

/* Sorts n items, and their keys with them, by the keys. */
int sort_values(Run *r, Value *items, Value *keys, size_t n, int reverse)
{
    Value *items_out = run_alloc(r, n, sizeof *items_out);
    Value *keys_out = run_alloc(r, n, sizeof *keys_out);
    if (!items_out || !keys_out) return -1;
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t from = 0; from < n; from += 2 * width) {
            size_t middle = from + width < n ? from + width : n;
            size_t to = middle + width < n ? middle + width : n;
            if (merge_runs(r, items, keys, from, middle, to, reverse, items_out, keys_out))
                return -1;
        }
        memcpy(items, items_out, n * sizeof *items);
        memcpy(keys, keys_out, n * sizeof *keys);
    }
    return 0;
}

/* ---- arithmetic ---------------------------------------------------------------------------- */

/* a + b, a - b, a * b where they fit; 1 where not. */
static int int_arithmetic(int op, int64_t a, int64_t b, int64_t *out)
{
    if (op == '+') {
        if (b > 0 ? a > INT64_MAX - b : a < INT64_MIN - b) return 1;
        *out = a + b;
    } else if (op == '-') {
        if (b < 0 ? a > INT64_MAX + b : a < INT64_MIN + b) return 1;
        *out = a - b;
    } else {
        if (a && b) {
            if (a == INT64_MIN || b == INT64_MIN) {
                if (a != 1 && b != 1) return 1;
            } else {
                int64_t most = INT64_MAX / (b < 0 ? -b : b);
                if ((a < 0 ? -a : a) > most) return 1;
            }
        }
        *out = a * b;
    }
    return 0;
}

static int int_power(int64_t a, int64_t b, int64_t *out)
{
    *out = 1;
    if (a == 1 || b == 0) return 0;
    if (a == 0 || a == -1) {
        *out = a ? (b & 1 ? -1 : 1) : 0;
        return 0;
    }
    if (b > 63) return 1;
    for (; b; b--)
        if (int_arithmetic('*', *out, a, out)) return 1;
    return 0;
}

/* Python's floor division and remainder of floats (floatobject.c). */
static void float_divmod(double a, double b, double *quotient, double *rest)
{
    double mod = fmod(a, b), div = (a - mod) / b;
    if (mod != 0) {
        if ((b < 0) != (mod < 0)) {
            mod += b;
            div -= 1.0;
        }
    } else {
        mod = copysign(0.0, b);
    }
    *rest = mod;
    if (div != 0) {
        *quotient = floor(div);
        if (div - *quotient > 0.5) *quotient += 1.0;
    } else {
        *quotient = copysign(0.0, a / b);
    }
}

static int float_binary(Run *r, int op, double a, double b, Value *out)
{
    double q, rest;
    switch (op) {
    case '+': *out = v_float(a + b); return 0;
    case '-': *out = v_float(a - b); return 0;
    case '*': *out = v_float(a * b); return 0;
    case '*' << 8 | '*':
        if (a < 0 && b != floor(b))
            return fail(r, "a power of a negative number, a complex one, cannot be done here");
        if (a == 0 && b < 0) return fail(r, "0 to a negative power");
        *out = v_float(pow(a, b));
        if (isinf(out->u.f) && !isinf(a) && !isinf(b))
            return fail(r, "a power is too large for a number");
        return 0;
    default: break;
    }
    if (b == 0) return fail(r, "division by zero");
    float_divmod(a, b, &q, &rest);
    *out = v_float(op == '/' ? a / b : op == '%' ? rest : q);
    return 0;
}

static int int_binary(Run *r, int op, int64_t a, int64_t b, Value *out)
{
    int64_t i = 0;
    int over = 0;
    switch (op) {
    case '+':
    case '-':
    case '*': over = int_arithmetic(op, a, b, &i); break;
    case '*' << 8 | '*':
        if (b < 0) return float_binary(r, op, (double)a, (double)b, out);
        over = int_power(a, b, &i);
        break;
    case '/': return float_binary(r, op, (double)a, (double)b, out);
    default: /* '%' and '//' round down */
        if (!b) return fail(r, "division by zero");
        if (b == -1) {
            over = op != '%' && a == INT64_MIN;
            i = op == '%' || over ? 0 : -a;
            break;
        }
        i = a / b;
        if (a % b && (a < 0) != (b < 0)) i--;
        if (op == '%') {
            i = a % b;
            if (i && (i < 0) != (b < 0)) i += b;
        }
        break;
    }
    if (over) return fail(r, "an integer does not fit 64 bits");
    *out = v_int(i);
    return 0;
}

static int repeat(Run *r, Value v, int64_t times, Value *out)
{
    size_t n = times > 0 ? (size_t)times : 0;
    size_t bytes, size = v.kind == V_STRING ? v.u.s->len : v.u.list->len * sizeof v;
    if (size_mul(n, size, &bytes) || bytes > TEMPLATE_MAX_OUTPUT)
        return fail(r, "a text or list becomes longer than %d bytes", TEMPLATE_MAX_OUTPUT);
    if (v.kind == V_STRING) {
        Builder b = {0};
        if (v.u.s->len)
            for (size_t i = 0; i < n; i++)
                if (build_str(r, &b, v.u.s)) return -1;
        if (build_end(r, &b, out)) return -1;
        out->safe = v.safe;
        return 0;
    }
    List *l = run_alloc(r, 1, sizeof *l);
    if (!l) return -1;
    for (size_t i = 0; v.u.list->len && i < n; i++)
        for (size_t k = 0; k < v.u.list->len; k++)
            if (list_add(r, l, v.u.list->items[k])) return -1;
    *out = v_list(l);
    out->kind = v.kind;
    return 0;
}

static int add_sequences(Run *r, Value a, Value b, Value *out)
{
    if (a.kind == V_STRING) {
        Builder text = {0};
        const Str *left = a.u.s, *right = b.u.s;
        int safe = a.safe || b.safe;
        if (safe && (escaped(r, a, &left) || escaped(r, b, &right))) return -1;
        if (build_str(r, &text, left) || build_str(r, &text, right) || build_end(r, &text, out))
            return -1;
        out->safe = safe;
        return 0;
    }
    List *l = run_alloc(r, 1, sizeof *l);
    if (!l) return -1;
    for (size_t i = 0; i < a.u.list->len; i++)
        if (list_add(r, l, a.u.list->items[i])) return -1;
    for (size_t i = 0; i < b.u.list->len; i++)
        if (list_add(r, l, b.u.list->items[i])) return -1;
    *out = v_list(l);
    out->kind = a.kind;
    return 0;
}

static int is_sequence(Value v)
{
    return v.kind == V_STRING || v.kind == V_LIST || v.kind == V_TUPLE;
}

static int is_int(Value v)
{
    return v.kind == V_INT || v.kind == V_BOOL;
}

int binary(Run *r, int op, Value a, Value b, Value *out)
{
    char sign[3] = {(char)(op > 255 ? op >> 8 : op), (char)(op > 255 ? op & 255 : 0), 0};
    if (is_int(a) && is_int(b)) return int_binary(r, op, a.u.i, b.u.i, out);
    if (is_number(a) && is_number(b)) return float_binary(r, op, as_double(a), as_double(b), out);
    if (op == '+' && is_sequence(a) && a.kind == b.kind) return add_sequences(r, a, b, out);
    if (op == '*' && is_sequence(a) && is_int(b)) return repeat(r, a, b.u.i, out);
    if (op == '*' && is_sequence(b) && is_int(a)) return repeat(r, b, a.u.i, out);
    if (a.kind == V_UNDEFINED && a.u.name)
        return fail(r, "found '%.60s', which is undefined, before %s", a.u.name, sign);
    if (b.kind == V_UNDEFINED && b.u.name)
        return fail(r, "found '%.60s', which is undefined, behind %s", b.u.name, sign);
    return fail(r, "found %s %s %s, which has no meaning", kind_name(a), sign, kind_name(b));
}

/* ---- text of values ------------------------------------------------------------------------ */

/* Python's repr: the shortest text that reads back the same. */
static size_t float_text(double f, char out[40])
{
    char digits[32], spelled[40];
    if (isnan(f)) return (size_t)snprintf(out, 40, "nan");
    if (isinf(f)) return (size_t)snprintf(out, 40, f < 0 ? "-inf" : "inf");
    for (int n = 0; n <= 17; n++) {
        double back;
        snprintf(spelled, sizeof spelled, "%.*e", n, f);
        if (!parse_f64(spelled, strlen(spelled), &back) && back == f) break;
    }
    const char *e = strchr(spelled, 'e'), *at = spelled + (*spelled == '-');
    int64_t exponent = 0;
    parse_i64(e + 1 + (e[1] == '+'), strlen(e + 1 + (e[1] == '+')), &exponent);
    size_t count = 0, len = 0;
    for (const char *c = at; c < e; c++)
        if (*c != '.') digits[count++] = *c;
    if (*spelled == '-') out[len++] = '-';
    if (exponent < -4 || exponent >= 16) {
        out[len++] = digits[0];
        if (count > 1) out[len++] = '.';
        for (size_t i = 1; i < count; i++) out[len++] = digits[i];
        return len + (size_t)snprintf(out + len, 40 - len, "e%c%02d", exponent < 0 ? '-' : '+',
                                      (int)(exponent < 0 ? -exponent : exponent));
    }
    if (exponent < 0) {
        out[len++] = '0';
        out[len++] = '.';
        for (int64_t i = exponent + 1; i < 0; i++) out[len++] = '0';
        for (size_t i = 0; i < count; i++) out[len++] = digits[i];
    } else {
        size_t whole = (size_t)exponent + 1;
        for (size_t i = 0; i < whole || i < count; i++) {
            if (i == whole) out[len++] = '.';
            out[len++] = i < count ? digits[i] : '0';
        }
        if (count <= whole) {
            out[len++] = '.';
            out[len++] = '0';
        }
    }
    out[len] = 0;
    return len;
}

static int put_text_repr(Run *r, Builder *b, const Str *s)
{
    int single = s->len && memchr(s->bytes, '\'', s->len) != NULL;
    int twice = s->len && memchr(s->bytes, '"', s->len) != NULL;
    char quote[2] = {single && !twice ? '"' : '\'', 0};
    if (build_text(r, b, quote)) return -1;
    for (size_t at = 0; at < s->len;) {
        size_t step = utf8_step(s->bytes + at, s->len - at);
        uint32_t code = utf8_code(s->bytes + at, step);
        char text[16], marks[16];
        const char *put = text;
        size_t n = step;
        if (code == '\\' || code == (uint32_t)quote[0])
            n = (size_t)snprintf(text, 16, "\\%c", (char)code);
        else if (code == '\n') n = (size_t)snprintf(text, 16, "\\n");
        else if (code == '\r') n = (size_t)snprintf(text, 16, "\\r");
        else if (code == '\t') n = (size_t)snprintf(text, 16, "\\t");
        else if (is_printable(code)) put = s->bytes + at;
        else if (code < 0x100) n = (size_t)snprintf(text, 16, "\\x%02x", code);
        else if (code < 0x10000) n = (size_t)snprintf(text, 16, "\\u%04x", code);
        else n = (size_t)snprintf(text, 16, "\\U%08x", code);
        memset(marks, s->marks ? s->marks[at] : 0, sizeof marks);
        if (build(r, b, put, n, s->marks ? marks : NULL)) return -1;
        at += step;
    }
    return build_text(r, b, quote);
}

static int put_items(Run *r, Builder *b, Value v)
{
    const List *l = v.u.list;
    if (build_text(r, b, v.kind == V_LIST ? "[" : "(")) return -1;
    for (size_t i = 0; i < l->len; i++)
        if ((i && build_text(r, b, ", ")) || put_repr(r, b, l->items[i])) return -1;
    if (v.kind == V_TUPLE && l->len == 1 && build_text(r, b, ",")) return -1;
    return build_text(r, b, v.kind == V_LIST ? "]" : ")");
}

static int put_entries(Run *r, Builder *b, const Dict *d, char part)
{
    for (size_t i = 0; i < d->len; i++) {
        const Entry *e = &d->items[i];
        if (i && build_text(r, b, ", ")) return -1;
        if (part == 'i' && build_text(r, b, "(")) return -1;
        if (part != 'v' && put_repr(r, b, e->key)) return -1;
        if (part == 'd' && build_text(r, b, ": ")) return -1;
        if (part == 'i' && build_text(r, b, ", ")) return -1;
        if (part != 'k' && put_repr(r, b, e->value)) return -1;
        if (part == 'i' && build_text(r, b, ")")) return -1;
    }
    return 0;
}

static int put_range(Run *r, Builder *b, const Range *g)
{
    char text[96];
    size_t n = (size_t)snprintf(text, sizeof text, "range(%lld, %lld", (long long)g->start,
                                (long long)g->stop);
    if (g->step != 1)
        n += (size_t)snprintf(text + n, sizeof text - n, ", %lld", (long long)g->step);
    snprintf(text + n, sizeof text - n, ")");
    return build_text(r, b, text);
}

int put_repr(Run *r, Builder *b, Value v)
{
    char text[48];
    int failed = 0;
    if (enter(r)) return -1;
    switch (v.kind) {
    case V_UNDEFINED: failed = build_text(r, b, "Undefined"); break;
    case V_NONE: failed = build_text(r, b, "None"); break;
    case V_BOOL: failed = build_text(r, b, v.u.i ? "True" : "False"); break;
    case V_INT:
        snprintf(text, sizeof text, "%lld", (long long)v.u.i);
        failed = build_text(r, b, text);
        break;
    case V_FLOAT: failed = build(r, b, text, float_text(v.u.f, text), NULL); break;
    case V_STRING:
        failed = (v.safe && build_text(r, b, "Markup(")) || put_text_repr(r, b, v.u.s) ||
                 (v.safe && build_text(r, b, ")"));
        break;
    case V_LIST:
    case V_TUPLE: failed = put_items(r, b, v); break;
    case V_DICT:
        failed = build_text(r, b, "{") || put_entries(r, b, v.u.dict, 'd') || build_text(r, b, "}");
        break;
    case V_NAMESPACE:
        failed = build_text(r, b, "<Namespace {") || put_entries(r, b, v.u.dict, 'd') ||
                 build_text(r, b, "}>");
        break;
    case V_VIEW:
        failed = build_text(r, b, v.u.view->part == 'k'   ? "dict_keys(["
                                  : v.u.view->part == 'v' ? "dict_values(["
                                                          : "dict_items([") ||
                 put_entries(r, b, v.u.view->dict, v.u.view->part) || build_text(r, b, "])");
        break;
    case V_RANGE: failed = put_range(r, b, v.u.range); break;
    default: return fail(r, "found a %s where text is written, expected a value", kind_name(v));
    }
    leave(r);
    return failed ? -1 : 0;
}

int put_str(Run *r, Builder *b, Value v)
{
    if (v.kind == V_STRING) return build_str(r, b, v.u.s);
    return v.kind == V_UNDEFINED ? 0 : put_repr(r, b, v);
}

int to_str(Run *r, Value v, const Str **out)
{
    Builder b = {0};
    Value text;
    if (v.kind == V_STRING) {
        *out = v.u.s;
        return 0;
    }
    if (put_str(r, &b, v) || build_end(r, &b, &text)) return -1;
    *out = text.u.s;
    return 0;
}

/* Text as it is, anything else as its text; stays marked safe. */
int soft_str(Run *r, Value v, Value *out)
{
    if (v.kind == V_STRING) {
        *out = v;
        return 0;
    }
    out->kind = V_STRING;
    out->safe = 0;
    return to_str(r, v, &out->u.s);
}

/* The text of v with & < > ' " as entities, unless it is marked safe. */
int escaped(Run *r, Value v, const Str **out)
{
    const Str *s;
    Builder b = {0};
    Value text;
    if (to_str(r, v, &s)) return -1;
    *out = s;
    if (v.kind == V_STRING && v.safe) return 0;
    for (size_t i = 0; i < s->len; i++) {
        char c = s->bytes[i];
        const char *entity = c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '>' ? "&gt;"
                             : c == '\'' ? "&#39;" : c == '"' ? "&#34;" : NULL;
        char marks[8];
        memset(marks, s->marks ? s->marks[i] : 0, sizeof marks);
        if (build(r, &b, entity ? entity : &c, entity ? strlen(entity) : 1,
                  s->marks ? marks : NULL))
            return -1;
    }
    if (build_end(r, &b, &text)) return -1;
    *out = text.u.s;
    return 0;
}

/* ---- JSON ---------------------------------------------------------------------------------- */

/* The role of a message, if it is a usual one: it spells no control token, and templates build
 * theirs around it ("<|" + role + "|>"), so it is not marked. */
static int is_role(const Json *member)
{
    static const char *const roles[] = {
        "system",   "user",        "assistant",   "tool",    "developer", "ipython",
        "function", "observation", "environment", "context", "model",     "tool_response"};
    if (strcmp(member->key, "role")) return 0;
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (json_is(member, roles[i])) return 1;
    return 0;
}

int from_json(Run *r, const Json *j, int mark, Value *out)
{
    if (charge(r, 1)) return -1;
    switch (j->type) {
    case JSON_NULL: *out = v_none(); return 0;
    case JSON_TRUE:
    case JSON_FALSE: *out = v_bool(j->type == JSON_TRUE); return 0;
    case JSON_NUMBER: {
        int64_t i;
        double f;
        if (!strpbrk(j->text, ".eE")) {
            if (parse_i64(j->text, j->len, &i))
                return fail(r, "a variable has the integer %.40s, which does not fit 64 bits",
                            j->text);
            *out = v_int(i);
            return 0;
        }
        if (parse_f64(j->text, j->len, &f)) f = *j->text == '-' ? -INFINITY : INFINITY;
        *out = v_float(f);
        return 0;
    }
    case JSON_STRING: {
        char *marks = NULL;
        if (mark && j->len) {
            if (!(marks = run_alloc(r, j->len, 1))) return -1;
            memset(marks, mark, j->len);
        }
        return v_over(r, j->text, marks, j->len, out);
    }
    case JSON_ARRAY: {
        List *l = run_alloc(r, 1, sizeof *l);
        if (!l) return -1;
        for (const Json *m = j->child; m; m = m->next) {
            Value v;
            if (from_json(r, m, mark, &v) || list_add(r, l, v)) return -1;
        }
        *out = v_list(l);
        return 0;
    }
    default: break;
    }
    Dict *d = run_alloc(r, 1, sizeof *d);
    if (!d) return -1;
    for (const Json *m = j->child; m; m = m->next) {
        Value key, value;
        Json name = {.type = JSON_STRING, .text = m->key, .len = m->key_len};
        if (from_json(r, &name, mark, &key) || from_json(r, m, is_role(m) ? 0 : mark, &value))
            return -1;
        /* The reader has refused a second member of the same name where it matters. */
        if (dict_append(r, d, key, value)) return -1;
    }
    out->kind = V_DICT;
    out->safe = 0;
    out->u.dict = d;
    return 0;
}

static int put_json_text(Run *r, Builder *b, const Str *s, int ascii)
{
    static const char from[] = "\"\\\n\r\t\b\f", to[] = "\"\\nrtbf";
    if (build_text(r, b, "\"")) return -1;
    for (size_t at = 0; at < s->len;) {
        size_t step = utf8_step(s->bytes + at, s->len - at), n = step;
        uint32_t code = utf8_code(s->bytes + at, step);
        char text[16], marks[16];
        const char *put = text, *known = code && code < 128 ? strchr(from, (char)code) : NULL;
        if (known) n = (size_t)snprintf(text, 16, "\\%c", to[known - from]);
        else if (code < 0x20 || (ascii && code >= 0x7F && code < 0x10000))
            n = (size_t)snprintf(text, 16, "\\u%04x", code);
        else if (ascii && code >= 0x10000)
            n = (size_t)snprintf(text, 16, "\\u%04x\\u%04x", 0xD800 + ((code - 0x10000) >> 10),
                                 0xDC00 + ((code - 0x10000) & 0x3FF));
        else put = s->bytes + at;
        memset(marks, s->marks ? s->marks[at] : 0, sizeof marks);
        if (build(r, b, put, n, s->marks ? marks : NULL)) return -1;
        at += step;
    }
    return build_text(r, b, "\"");
}

static int put_json_line(Run *r, Builder *b, const char *indent, size_t level)
{
    if (!indent) return 0;
    if (build_text(r, b, "\n")) return -1;
    for (size_t i = 0; i < level; i++)
        if (build_text(r, b, indent)) return -1;
    return 0;
}

/* The key of an object: text, or a plain value as its JSON text. */
static int put_json_key(Run *r, Builder *b, Value key, int ascii)
{
    if (key.kind == V_STRING) return put_json_text(r, b, key.u.s, ascii);
    if (!is_number(key) && key.kind != V_NONE)
        return fail(r, "found a %s as the key of a JSON object, expected str", kind_name(key));
    if (build_text(r, b, "\"") || put_json(r, b, key, NULL, "", "", ascii, 0, 0)) return -1;
    return build_text(r, b, "\"");
}

static int put_json_dict(Run *r, Builder *b, const Dict *d, const char *indent, const char *comma,
                         const char *colon, int ascii, int sort, size_t level)
{
    List keys = {0}, values = {0};
    if (!d->len) return build_text(r, b, "{}");
    if (build_text(r, b, "{")) return -1;
    for (size_t i = 0; i < d->len; i++)
        if (list_add(r, &keys, d->items[i].key) || list_add(r, &values, d->items[i].value))
            return -1;
    if (sort) {
        List order_of = {0};
        for (size_t i = 0; i < d->len; i++) {
            Value pair;
            if (v_pair(r, keys.items[i], values.items[i], &pair) || list_add(r, &order_of, pair))
                return -1;
        }
        if (sort_values(r, order_of.items, keys.items, d->len, 0)) return -1;
        for (size_t i = 0; i < d->len; i++) {
            keys.items[i] = order_of.items[i].u.list->items[0];
            values.items[i] = order_of.items[i].u.list->items[1];
        }
    }
    for (size_t i = 0; i < d->len; i++) {
        if ((i && build_text(r, b, comma)) || put_json_line(r, b, indent, level + 1) ||
            put_json_key(r, b, keys.items[i], ascii) || build_text(r, b, colon) ||
            put_json(r, b, values.items[i], indent, comma, colon, ascii, sort, level + 1))
            return -1;
    }
    return put_json_line(r, b, indent, level) || build_text(r, b, "}") ? -1 : 0;
}

int put_json(Run *r, Builder *b, Value v, const char *indent, const char *comma,
             const char *colon, int ascii, int sort, size_t level)
{
    int failed = 0;
    if (enter(r)) return -1;
    switch (v.kind) {
    case V_NONE: failed = build_text(r, b, "null"); break;
    case V_BOOL: failed = build_text(r, b, v.u.i ? "true" : "false"); break;
    case V_INT: failed = put_repr(r, b, v); break;
    case V_FLOAT:
        if (isfinite(v.u.f)) failed = put_repr(r, b, v);
        else failed = build_text(r, b, isnan(v.u.f) ? "NaN" : v.u.f < 0 ? "-Infinity" : "Infinity");
        break;
    case V_STRING: failed = put_json_text(r, b, v.u.s, ascii); break;
    case V_LIST:
    case V_TUPLE: {
        const List *l = v.u.list;
        failed = build_text(r, b, "[");
        for (size_t i = 0; i < l->len && !failed; i++)
            failed = (i && build_text(r, b, comma)) || put_json_line(r, b, indent, level + 1) ||
                     put_json(r, b, l->items[i], indent, comma, colon, ascii, sort, level + 1);
        failed = failed || (l->len && put_json_line(r, b, indent, level)) || build_text(r, b, "]");
        break;
    }
    case V_DICT:
        failed = put_json_dict(r, b, v.u.dict, indent, comma, colon, ascii, sort, level);
        break;
    default: return fail(r, "found a %s for tojson, which is no value of JSON", kind_name(v));
    }
    leave(r);
    return failed ? -1 : 0;
}
