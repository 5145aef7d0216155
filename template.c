/* template.c - a template's tree with variables to text.
 *
 * Scopes are Jinja's: a loop's body begins anew with every item, and macros, blocks of set, of
 * generation and of filters keep what they set to themselves; `if` has no scope of its own. A name
 * is looked for in the scopes, then among the variables, then among the global functions.
 */
#include "template_parts.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { LEFT_LOOP = 1, NEXT_ITEM = 2 }; /* how a body can end besides 0 and -1 */

static int eval(Run *r, const Node *n, Value *out);
static int exec_all(Run *r, const Node *n);

/* ---- scopes -------------------------------------------------------------------------------- */

static int scope_open(Run *r, Scope *parent)
{
    Scope *s = run_alloc(r, 1, sizeof *s);
    if (!s) return -1;
    s->parent = parent;
    r->scope = s;
    return 0;
}

static Value *scope_find(Run *r, Scope *s, const char *name)
{
    size_t looked_at = 0;
    for (; s; s = s->parent)
        for (Variable *v = s->first; v; v = v->next, looked_at++)
            if (v->name == name) return &v->value;
    r->steps += looked_at / 4; /* counts; the next charge stops it */
    return NULL;
}

static int scope_set(Run *r, const char *name, Value value)
{
    for (Variable *v = r->scope->first; v; v = v->next) {
        if (v->name != name) continue;
        v->value = value;
        return 0;
    }
    Variable *v = run_alloc(r, 1, sizeof *v);
    if (!v) return -1;
    v->name = name;
    v->value = value;
    v->next = r->scope->first;
    r->scope->first = v;
    return 0;
}

/* Opens a scope in which these names have no value yet. */
static int scope_open_with(Run *r, Scope *parent, const char **unset)
{
    if (scope_open(r, parent)) return -1;
    for (; unset && *unset; unset++)
        if (scope_set(r, *unset, v_undefined(*unset))) return -1;
    return 0;
}

static const char *const functions[] = {"range",  "dict",   "namespace", "raise_exception",
                                        "strftime_now", "lipsum", "cycler",    "joiner", NULL};
enum { RANGE, DICT, NAMESPACE, RAISE_EXCEPTION, STRFTIME_NOW };

static int look_up(Run *r, const char *name, Value *out)
{
    const Value *v = scope_find(r, r->scope, name);
    if (!v) v = dict_find(r->variables, name);
    if (v) {
        *out = *v;
        return 0;
    }
    for (int i = 0; functions[i]; i++) {
        if (strcmp(functions[i], name)) continue;
        *out = v_int(i);
        out->kind = V_FUNCTION;
        return 0;
    }
    *out = v_undefined(name);
    return 0;
}

/* target = value, where the target is a name, name.attribute, or several. */
static int assign(Run *r, const Node *target, Value value)
{
    if (target->kind == N_NAME) return scope_set(r, target->name, value);
    if (target->kind == N_FIELD) {
        Value space;
        if (look_up(r, target->name, &space)) return -1;
        if (space.kind != V_NAMESPACE)
            return fail(r, "found '%s', a %s, expected a namespace to set '%s' of", target->name,
                        kind_name(space), target->field);
        if (*target->field == '_')
            return fail(r, "found the attribute '%s' of a namespace, which begins with _",
                        target->field);
        return dict_put(r, space.u.dict, target->field, value);
    }
    List *l;
    size_t count = 0;
    if (list_of(r, value, &l)) return -1;
    for (const Node *n = target->body; n; n = n->next, count++)
        if (count >= l->len || assign(r, n, l->items[count]))
            return count < l->len ? -1 : fail(r, "found %zu values for more names", l->len);
    if (count < l->len) return fail(r, "found %zu values for %zu names", l->len, count);
    return 0;
}

/* ---- calls --------------------------------------------------------------------------------- */

static int add_argument(Run *r, List *l, Args *a, const char *name, Value v)
{
    if (!name) return list_add(r, l, v);
    for (size_t i = 0; i < a->keyword_count; i++)
        if (!strcmp(a->keywords[i].name, name))
            return fail(r, "found the argument '%.60s' twice in a call", name);
    Keyword *more = run_alloc(r, a->keyword_count + 1, sizeof *more);
    if (!more) return -1;
    if (a->keyword_count) memcpy(more, a->keywords, a->keyword_count * sizeof *more);
    more[a->keyword_count].name = name;
    more[a->keyword_count++].value = v;
    a->keywords = more;
    return 0;
}

/* ** of a call: the entries of a dict as arguments by name. */
static int spread_dict(Run *r, List *l, Args *a, Value v)
{
    if (v.kind != V_DICT) return fail(r, "found a %s behind **, expected a dict", kind_name(v));
    for (size_t i = 0; i < v.u.dict->len; i++) {
        Value key = v.u.dict->items[i].key, copy;
        if (key.kind != V_STRING)
            return fail(r, "found a %s as the name of an argument", kind_name(key));
        if (v_text(r, key.u.s->bytes, key.u.s->len, &copy) ||
            add_argument(r, l, a, copy.u.s->bytes, v.u.dict->items[i].value))
            return -1;
    }
    return 0;
}

static int eval_arguments(Run *r, const Node *first, Args *a)
{
    List *l = run_alloc(r, 1, sizeof *l), *more;
    memset(a, 0, sizeof *a);
    if (!l) return -1;
    for (const Node *n = first; n; n = n->next) {
        Value v;
        int is_argument = n->kind == N_KEYWORD || n->kind == N_STAR || n->kind == N_STAR_STAR;
        if (eval(r, is_argument ? n->a : n, &v)) return -1;
        if (n->kind == N_STAR_STAR) {
            if (spread_dict(r, l, a, v)) return -1;
        } else if (n->kind == N_STAR) {
            if (list_of(r, v, &more)) return -1;
            for (size_t i = 0; i < more->len; i++)
                if (list_add(r, l, more->items[i])) return -1;
        } else if (add_argument(r, l, a, n->kind == N_KEYWORD ? n->name : NULL, v)) {
            return -1;
        }
    }
    a->items = l->items;
    a->count = l->len;
    return 0;
}

/* The argument of this name, taken out of those given by name; 0 where it is not there. */
static int take_keyword(Args *a, const char *name, Value *out)
{
    for (size_t i = 0; i < a->keyword_count; i++) {
        if (strcmp(a->keywords[i].name, name)) continue;
        *out = a->keywords[i].value;
        memmove(a->keywords + i, a->keywords + i + 1,
                (--a->keyword_count - i) * sizeof *a->keywords);
        return 1;
    }
    return 0;
}

/* The parameters of a macro as variables of its scope, which is open. */
static int bind_macro(Run *r, const Node *m, Args *a)
{
    const Template *t = r->t;
    const char *name = m->kind == S_MACRO ? m->name : "caller";
    size_t at = 0;
    Value v;
    int has_caller = 0;
    for (const Node *p = m->other; p; p = p->next, at++) {
        int got = 1;
        if (at < a->count) v = a->items[at];
        else got = take_keyword(a, p->name, &v);
        if (!got && p->a) {
            if (eval(r, p->a, &v)) return -1;
        } else if (!got) {
            v = v_undefined(p->name);
        }
        if (scope_set(r, p->name, v)) return -1;
        has_caller = has_caller || p->name == t->caller;
    }
    if (m->op & MACRO_CALLER && !has_caller) {
        if (!take_keyword(a, "caller", &v)) v = v_undefined("caller");
        if (scope_set(r, t->caller, v)) return -1;
    }
    if (m->op & MACRO_KWARGS) {
        Dict *d = run_alloc(r, 1, sizeof *d);
        if (!d) return -1;
        for (size_t i = 0; i < a->keyword_count; i++)
            if (dict_put(r, d, a->keywords[i].name, a->keywords[i].value)) return -1;
        v.kind = V_DICT;
        v.safe = 0;
        v.u.dict = d;
        if (scope_set(r, t->kwargs, v)) return -1;
    } else if (a->keyword_count) {
        return fail(r, "the macro '%s' has no parameter '%.60s'", name, a->keywords[0].name);
    }
    if (m->op & MACRO_VARARGS) {
        List *l = run_alloc(r, 1, sizeof *l);
        if (!l) return -1;
        for (; at < a->count; at++)
            if (list_add(r, l, a->items[at])) return -1;
        v = v_list(l);
        v.kind = V_TUPLE;
        return scope_set(r, t->varargs, v);
    }
    if (a->count > at) return fail(r, "the macro '%s' is given %zu arguments, expected at most %zu",
                                   name, a->count, at);
    return 0;
}

/* Runs a body in a scope of its own inside of `outside`; its text becomes *out. */
static int capture(Run *r, const Node *body, Value *out)
{
    Builder text = {0}, *out_before = r->out;
    r->out = &text;
    int ended = exec_all(r, body);
    r->out = out_before;
    return ended || build_end(r, &text, out) ? -1 : 0;
}

static int call_macro(Run *r, const Macro *m, Args *a, Value *out)
{
    Scope *before = r->scope;
    int line = r->line;
    if (enter(r) || scope_open_with(r, m->scope, m->node->unset) || bind_macro(r, m->node, a) ||
        capture(r, m->node->body, out))
        return -1;
    leave(r);
    r->scope = before;
    r->line = line;
    return 0;
}

/* dict(mapping or pairs, name=value, ...) */
static int make_dict(Run *r, const Args *a, const char *what, Dict **out)
{
    Dict *d = run_alloc(r, 1, sizeof *d);
    List *l, *pair;
    if (!d) return -1;
    if (a->count > 1) return fail(r, "%s takes one argument by position", what);
    if (a->count && (a->items[0].kind == V_DICT || a->items[0].kind == V_NAMESPACE)) {
        if (a->items[0].kind == V_NAMESPACE)
            return fail(r, "%s of a namespace cannot be done here", what);
        for (size_t i = 0; i < a->items[0].u.dict->len; i++) {
            const Entry *e = &a->items[0].u.dict->items[i];
            if (dict_set(r, d, e->key, e->value)) return -1;
        }
    } else if (a->count) {
        if (list_of(r, a->items[0], &l)) return -1;
        for (size_t i = 0; i < l->len; i++) {
            if (list_of(r, l->items[i], &pair)) return -1;
            if (pair->len != 2) return fail(r, "%s of items that are no pairs", what);
            if (dict_set(r, d, pair->items[0], pair->items[1])) return -1;
        }
    }
    for (size_t i = 0; i < a->keyword_count; i++)
        if (dict_put(r, d, a->keywords[i].name, a->keywords[i].value)) return -1;
    *out = d;
    return 0;
}

static int make_namespace(Run *r, const Args *a, Value *out)
{
    Dict *d;
    if (make_dict(r, a, "namespace", &d)) return -1;
    for (size_t i = 0; i < d->len; i++) {
        Value key = d->items[i].key;
        if (key.kind != V_STRING) return fail(r, "found a name of a namespace that is no text");
        if (key.u.s->len && *key.u.s->bytes == '_')
            return fail(r, "found the attribute '%.60s' of a namespace, which begins with _",
                        key.u.s->bytes);
    }
    out->kind = V_NAMESPACE;
    out->safe = 0;
    out->u.dict = d;
    return 0;
}

static int make_range(Run *r, const Args *a, Value *out)
{
    Range *g = run_alloc(r, 1, sizeof *g);
    if (!g) return -1;
    if (a->keyword_count || !a->count || a->count > 3)
        return fail(r, "range takes one to three arguments by position");
    for (size_t i = 0; i < a->count; i++)
        if (a->items[i].kind != V_INT && a->items[i].kind != V_BOOL)
            return fail(r, "found a %s for range, expected int", kind_name(a->items[i]));
    g->start = a->count > 1 ? a->items[0].u.i : 0;
    g->stop = a->items[a->count > 1 ? 1 : 0].u.i;
    g->step = a->count > 2 ? a->items[2].u.i : 1;
    if (g->step == 0) return fail(r, "found a range with step 0");
    uint64_t way = 0, step = g->step > 0 ? (uint64_t)g->step : 0 - (uint64_t)g->step;
    if (g->step > 0 && g->stop > g->start) way = (uint64_t)g->stop - (uint64_t)g->start;
    if (g->step < 0 && g->stop < g->start) way = (uint64_t)g->start - (uint64_t)g->stop;
    uint64_t len = way ? (way - 1) / step + 1 : 0;
    if (len > TEMPLATE_MAX_RANGE)
        return fail(r, "found a range of more than %d items", TEMPLATE_MAX_RANGE);
    g->len = (size_t)len;
    out->kind = V_RANGE;
    out->safe = 0;
    out->u.range = g;
    return 0;
}

/* ---- the date ------------------------------------------------------------------------------ */

static int days_before(int year, int month)
{
    static const int days[] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334};
    int leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    return days[month - 1] + (leap && month > 2);
}

/* 0 = Monday (Sakamoto's method). */
static int weekday(const TemplateTime *t)
{
    static const int shift[] = {0, 3, 2, 5, 0, 3, 5, 1, 4, 6, 2, 4};
    int y = t->year - (t->month < 3);
    return (y + y / 4 - y / 100 + y / 400 + shift[t->month - 1] + t->day + 6) % 7;
}

static int format_time(Run *r, const char *format, size_t len, Builder *b)
{
    static const char *const months[] = {"January", "February", "March",     "April",
                                         "May",     "June",     "July",      "August",
                                         "September", "October", "November", "December"};
    static const char *const days[] = {"Monday", "Tuesday",  "Wednesday", "Thursday",
                                       "Friday", "Saturday", "Sunday"};
    const TemplateTime *t = r->now;
    for (size_t i = 0; i < len; i++) {
        char text[64] = "", c = i + 1 < len ? format[i + 1] : 0;
        int n = -1, plain = 0;
        if (format[i] != '%') {
            if (build(r, b, format + i, 1, NULL)) return -1;
            continue;
        }
        if (c == '-') {
            plain = 1;
            c = ++i + 1 < len ? format[i + 1] : 0;
        }
        i++;
        switch (c) {
        case 'd': n = t->day; break;
        case 'm': n = t->month; break;
        case 'y': n = t->year % 100; break;
        case 'H': n = t->hour; break;
        case 'I': n = (t->hour + 11) % 12 + 1; break;
        case 'M': n = t->minute; break;
        case 'S': n = t->second; break;
        case 'Y': snprintf(text, sizeof text, "%d", t->year); break;
        case 'B': snprintf(text, sizeof text, "%s", months[t->month - 1]); break;
        case 'b': snprintf(text, sizeof text, "%.3s", months[t->month - 1]); break;
        case 'A': snprintf(text, sizeof text, "%s", days[weekday(t)]); break;
        case 'a': snprintf(text, sizeof text, "%.3s", days[weekday(t)]); break;
        case 'p': snprintf(text, sizeof text, "%s", t->hour < 12 ? "AM" : "PM"); break;
        case 'w': snprintf(text, sizeof text, "%d", (weekday(t) + 1) % 7); break;
        case 'F': snprintf(text, sizeof text, "%d-%02d-%02d", t->year, t->month, t->day); break;
        case 'T':
            snprintf(text, sizeof text, "%02d:%02d:%02d", t->hour, t->minute, t->second);
            break;
        case 'j':
            n = days_before(t->year, t->month) + t->day;
            snprintf(text, sizeof text, plain ? "%d" : "%03d", n);
            n = -1;
            plain = 0;
            break;
        case '%': snprintf(text, sizeof text, "%%"); break;
        default:
            return fail(r, "found %%%c in the format of strftime_now, expected one of "
                        "%%Y %%y %%m %%d %%B %%b %%A %%a %%w %%j %%F %%H %%I %%M %%S %%T %%p %%%%",
                        c > 32 && c < 127 ? c : '?');
        }
        if (plain && n < 0) return fail(r, "found %%-%c in the format of strftime_now", c);
        if (n >= 0) snprintf(text, sizeof text, plain ? "%d" : "%02d", n);
        if (build_text(r, b, text)) return -1;
    }
    return 0;
}

static int call_function(Run *r, int64_t which, const Args *a, Value *out)
{
    Value arg;
    const Str *s;
    Dict *d;
    Builder b = {0};
    switch (which) {
    case RANGE: return make_range(r, a, out);
    case DICT:
        if (make_dict(r, a, "dict", &d)) return -1;
        out->kind = V_DICT;
        out->safe = 0;
        out->u.dict = d;
        return 0;
    case NAMESPACE: return make_namespace(r, a, out);
    case RAISE_EXCEPTION:
        if (bind_args(r, "raise_exception", "message", 1, a, &arg) || to_str(r, arg, &s)) return -1;
        return fail(r, "the template refuses: %.*s", s->len > 500 ? 500 : (int)s->len, s->bytes);
    case STRFTIME_NOW:
        if (bind_args(r, "strftime_now", "format", 1, a, &arg)) return -1;
        if (arg.kind != V_STRING)
            return fail(r, "found a %s for strftime_now, expected str", kind_name(arg));
        if (format_time(r, arg.u.s->bytes, arg.u.s->len, &b)) return -1;
        return build_end(r, &b, out);
    default: return fail(r, "found the function %s, which cannot be done here", functions[which]);
    }
}

static int call_value(Run *r, Value f, Args *a, Value *out)
{
    switch (f.kind) {
    case V_FUNCTION: return call_function(r, f.u.i, a, out);
    case V_METHOD: return method_call(r, f.u.method, a, out);
    case V_MACRO: return call_macro(r, f.u.macro, a, out);
    case V_UNDEFINED:
        return fail(r, "found '%.60s', which is undefined, and called it",
                    f.u.name ? f.u.name : "?");
    default: return fail(r, "found a %s, which cannot be called", kind_name(f));
    }
}

/* loop.cycle(a, b, ...) and loop.changed(a, ...); 1 where it is neither. */
static int call_loop(Run *r, Loop *l, const char *name, const Args *a, Value *out)
{
    if (!strcmp(name, "cycle")) {
        if (!a->count || a->keyword_count) return fail(r, "loop.cycle needs values");
        *out = a->items[l->index0 % a->count];
        return 0;
    }
    if (strcmp(name, "changed")) return 1;
    List *now = run_alloc(r, 1, sizeof *now);
    if (!now || a->keyword_count) return -1;
    for (size_t i = 0; i < a->count; i++)
        if (list_add(r, now, a->items[i])) return -1;
    int same = l->changed.kind == V_MISSING ? 0 : equal(r, l->changed, v_list(now));
    if (same < 0) return -1;
    l->changed = v_list(now);
    *out = v_bool(!same);
    return 0;
}

/* extra: the caller of a call block, or NULL. */
static int eval_call(Run *r, const Node *n, const Value *extra, Value *out)
{
    Value f;
    Args a;
    const Node *callee = n->a;
    int of_loop = callee->kind == N_ATTRIBUTE && callee->a->kind == N_NAME &&
                  callee->a->name == r->t->loop;
    if (of_loop) {
        if (eval(r, callee->a, &f)) return -1;
        of_loop = f.kind == V_LOOP;
    }
    if (!of_loop && eval(r, callee, &f)) return -1;
    if (eval_arguments(r, n->other, &a)) return -1;
    r->line = n->line;
    if (extra) {
        List positional = {a.items, a.count, a.count};
        if (add_argument(r, &positional, &a, "caller", *extra)) return -1;
    }
    if (of_loop) {
        int other = call_loop(r, f.u.loop, callee->name, &a, out);
        return other <= 0 ? other : fail(r, "found loop.%s, which cannot be called", callee->name);
    }
    return call_value(r, f, &a, out);
}

/* ---- expressions --------------------------------------------------------------------------- */

static int eval_items(Run *r, const Node *n, Value *out)
{
    List *l = run_alloc(r, 1, sizeof *l);
    if (!l) return -1;
    for (const Node *i = n->body; i; i = i->next) {
        Value v;
        if (eval(r, i, &v) || list_add(r, l, v)) return -1;
    }
    *out = v_list(l);
    if (n->kind == N_TUPLE) out->kind = V_TUPLE;
    return 0;
}

static int eval_dict(Run *r, const Node *n, Value *out)
{
    Dict *d = run_alloc(r, 1, sizeof *d);
    if (!d) return -1;
    for (const Node *i = n->body; i; i = i->next->next) {
        Value key, value;
        if (eval(r, i, &key) || eval(r, i->next, &value) || dict_set(r, d, key, value)) return -1;
    }
    out->kind = V_DICT;
    out->safe = 0;
    out->u.dict = d;
    return 0;
}

static int eval_item(Run *r, const Node *n, Value *out)
{
    Value of, key;
    if (eval(r, n->a, &of)) return -1;
    if (n->b->kind != N_SLICE) {
        if (eval(r, n->b, &key)) return -1;
        r->line = n->line;
        return get_item(r, of, key, out);
    }
    Value part[3] = {v_none(), v_none(), v_none()};
    const Node *s = n->b;
    if ((s->a && eval(r, s->a, &part[0])) || (s->b && eval(r, s->b, &part[1])) ||
        (s->c && eval(r, s->c, &part[2])))
        return -1;
    r->line = n->line;
    return get_slice(r, of, part, out);
}

/* A chain of filters; the innermost has no value of its own where `input` is its value. */
static int eval_filter(Run *r, const Node *n, const Value *input, Value *out)
{
    Value v;
    Args a;
    if (!n->a) v = *input;
    else if (n->a->kind == N_FILTER) {
        if (enter(r) || eval_filter(r, n->a, input, &v)) return -1;
        leave(r);
    } else if (eval(r, n->a, &v)) {
        return -1;
    }
    if (eval_arguments(r, n->other, &a)) return -1;
    r->line = n->line;
    return filter_call(r, n->entry, v, &a, out);
}

static int eval_test(Run *r, const Node *n, Value *out)
{
    Value v;
    Args a;
    if (eval(r, n->a, &v) || eval_arguments(r, n->other, &a)) return -1;
    r->line = n->line;
    int yes = test_call(r, n->entry, v, &a);
    *out = v_bool(yes);
    return yes < 0 ? -1 : 0;
}

static int compare(Run *r, int op, Value a, Value b)
{
    int yes = 0;
    switch (op) {
    case 'i': return contains(r, b, a);
    case 'n': return (yes = contains(r, b, a)) < 0 ? -1 : !yes;
    case '=' << 8 | '=': return equal(r, a, b);
    case '!' << 8 | '=': return (yes = equal(r, a, b)) < 0 ? -1 : !yes;
    default: return order(r, a, b, op, &yes) ? -1 : yes;
    }
}

static int eval_compare(Run *r, const Node *n, Value *out)
{
    Value left, right;
    int yes = 1;
    if (eval(r, n->a, &left)) return -1;
    for (const Node *o = n->body; o && yes; o = o->next) {
        if (eval(r, o->a, &right)) return -1;
        r->line = n->line;
        if ((yes = compare(r, o->op, left, right)) < 0) return -1;
        left = right;
    }
    *out = v_bool(yes);
    return 0;
}

static int eval_concat(Run *r, const Node *n, Value *out)
{
    Builder b = {0};
    for (const Node *i = n->body; i; i = i->next) {
        Value v;
        if (eval(r, i, &v) || put_str(r, &b, v)) return -1;
    }
    return build_end(r, &b, out);
}

static int eval_logic(Run *r, const Node *n, Value *out)
{
    if (eval(r, n->a, out)) return -1;
    int yes = truth(r, *out);
    if (yes < 0) return -1;
    if (yes == (n->kind == N_OR)) return 0;
    return eval(r, n->b, out);
}

static int all_constant(const Node *n);

/* Is it a value that Jinja computes when it reads the template? */
static int is_constant(const Node *n)
{
    if (!n) return 1;
    return n->kind != N_NAME && n->kind != N_CALL && is_constant(n->a) && is_constant(n->b) &&
           is_constant(n->c) && all_constant(n->body) && all_constant(n->other);
}

static int all_constant(const Node *n)
{
    while (n && is_constant(n)) n = n->next;
    return !n;
}

static int negate(Run *r, Value v, Value *out)
{
    if (v.kind != V_FLOAT) return binary(r, '-', v_int(0), v, out);
    *out = v_float(-v.u.f);
    return 0;
}

/* Jinja writes a number that it has computed into Python as it is, without brackets, and there the
 * minus of -1 ** n comes after the power. */
static int minus_power(Run *r, const Node *n, Value a, Value b, Value *out)
{
    Value power;
    if (negate(r, a, &a) || binary(r, n->op, a, b, &power)) return -1;
    return negate(r, power, out);
}

static int is_minus_power(const Node *n, Value a)
{
    int minus = (a.kind == V_INT && a.u.i < 0) || (a.kind == V_FLOAT && signbit(a.u.f));
    return minus && n->op == ('*' << 8 | '*') && is_constant(n->a) && !is_constant(n->b);
}

static int eval_binary(Run *r, const Node *n, Value *out)
{
    Value a, b;
    if (eval(r, n->a, &a) || eval(r, n->b, &b)) return -1;
    r->line = n->line;
    if (is_minus_power(n, a)) return minus_power(r, n, a, b, out);
    if (n->op == '%' && a.kind == V_STRING) return percent(r, a, b, out);
    return binary(r, n->op, a, b, out);
}

static int eval_sign(Run *r, const Node *n, Value *out)
{
    Value v;
    if (eval(r, n->a, &v)) return -1;
    if (v.kind == V_FLOAT) {
        *out = v_float(n->kind == N_NEGATE ? -v.u.f : v.u.f);
        return 0;
    }
    if (v.kind != V_INT && v.kind != V_BOOL)
        return fail(r, "found a %s behind a sign, expected a number", kind_name(v));
    return binary(r, n->kind == N_NEGATE ? '-' : '+', v_int(0), v_int(v.u.i), out);
}

static int eval_truth(Run *r, const Node *n)
{
    Value v;
    return eval(r, n, &v) ? -1 : truth(r, v);
}

static int eval_one(Run *r, const Node *n, Value *out)
{
    int yes;
    switch (n->kind) {
    case N_CONST: *out = n->value; return 0;
    case N_NAME: return look_up(r, n->name, out);
    case N_LIST:
    case N_TUPLE: return eval_items(r, n, out);
    case N_DICT: return eval_dict(r, n, out);
    case N_ATTRIBUTE: {
        Value v;
        if (eval(r, n->a, &v)) return -1;
        r->line = n->line;
        return get_attribute(r, v, n->name, strlen(n->name), out);
    }
    case N_ITEM: return eval_item(r, n, out);
    case N_CALL: return eval_call(r, n, NULL, out);
    case N_FILTER: return eval_filter(r, n, NULL, out);
    case N_TEST: return eval_test(r, n, out);
    case N_NOT:
        yes = eval_truth(r, n->a);
        *out = v_bool(!yes);
        return yes < 0 ? -1 : 0;
    case N_NEGATE:
    case N_PLUS: return eval_sign(r, n, out);
    case N_AND:
    case N_OR: return eval_logic(r, n, out);
    case N_BINARY: return eval_binary(r, n, out);
    case N_COMPARE: return eval_compare(r, n, out);
    case N_CONCAT: return eval_concat(r, n, out);
    case N_TERNARY:
        yes = eval_truth(r, n->b);
        if (yes < 0) return -1;
        if (yes || n->c) return eval(r, yes ? n->a : n->c, out);
        *out = v_undefined("a condition without else");
        return 0;
    default: return fail(r, "a slice has no meaning here");
    }
}

static int eval(Run *r, const Node *n, Value *out)
{
    r->line = n->line;
    if (charge(r, 1) || enter(r) || eval_one(r, n, out)) return -1;
    leave(r);
    return 0;
}

/* ---- loops --------------------------------------------------------------------------------- */

/* The next item that passes the filter of the loop. */
static int loop_next(Run *r, Loop *l, Value *item)
{
    for (int got; (got = iter_next(r, l->iter, item)) != 0;) {
        if (got < 0 || !l->node->c || l->drained) return got;
        Scope *before = r->scope;
        int yes = scope_open(r, l->outside) || assign(r, l->node->a, *item)
                      ? -1
                      : eval_truth(r, l->node->c);
        r->scope = before;
        if (yes < 0) return -1;
        if (!yes) continue;
        /* The generator that filters yields the names anew: several are a tuple from now on. */
        List *parts;
        if (l->node->a->kind == N_TUPLE) {
            if (list_of(r, *item, &parts)) return -1;
            *item = v_list(parts);
            item->kind = V_TUPLE;
        }
        return 1;
    }
    return 0;
}

static int loop_peek(Run *r, Loop *l)
{
    if (l->has_after) return 1;
    int got = loop_next(r, l, &l->after);
    if (got > 0) l->has_after = 1;
    return got;
}

/* How many items: the length of what is walked, else by walking to the end ahead of time. */
static int loop_count(Run *r, Loop *l, size_t *n)
{
    if (!l->total_known && !l->node->c && l->source.kind != V_ITERATOR) {
        if (length(r, l->source, &l->total)) return -1;
    } else if (!l->total_known) {
        List *rest = run_alloc(r, 1, sizeof *rest);
        Iter *it = run_alloc(r, 1, sizeof *it);
        Value v;
        if (!rest || !it) return -1;
        for (int got; (got = loop_next(r, l, &v)) != 0;)
            if (got < 0 || list_add(r, rest, v)) return -1;
        l->total = l->index0 + 1 + (size_t)l->has_after + rest->len;
        it->kind = I_LIST;
        it->list = rest;
        l->iter = it;
        l->drained = 1;
    }
    l->total_known = 1;
    *n = l->total;
    return 0;
}

/* The else branch runs where no body came to its end: as in Jinja, one that was left by break or
 * continue does not count. */
static int exec_for(Run *r, const Node *n)
{
    Loop *l = run_alloc(r, 1, sizeof *l);
    Scope *outside = r->scope;
    Value item, self = {V_LOOP, 0, {0}};
    int walked = 0, ended = 0;
    if (!l || eval(r, n->b, &l->source) || iter_open(r, l->source, &l->iter)) return -1;
    l->node = n;
    l->outside = outside;
    l->peek = loop_peek;
    l->count = loop_count;
    l->now = v_none();
    l->changed.kind = V_MISSING;
    self.u.loop = l;
    for (size_t at = 0; ended != LEFT_LOOP; at++) {
        int got = 1;
        if (l->has_after) item = l->after;
        else got = loop_next(r, l, &item);
        if (got < 0) return -1;
        if (!got) break;
        l->has_after = 0;
        l->before = l->now;
        l->now = item;
        l->index0 = at;
        if (charge(r, 1) || scope_open_with(r, outside, n->unset) || assign(r, n->a, item) ||
            scope_set(r, r->t->loop, self) || (ended = exec_all(r, n->body)) < 0)
            return -1;
        r->scope = outside;
        walked = walked || !ended;
    }
    if (walked || !n->other) return 0;
    if (scope_open_with(r, outside, n->unset_other)) return -1;
    ended = exec_all(r, n->other);
    r->scope = outside;
    return ended;
}

/* ---- statements ---------------------------------------------------------------------------- */

static int exec_if(Run *r, const Node *n)
{
    for (const Node *b = n->body; b; b = b->next) {
        int yes = b->a ? eval_truth(r, b->a) : 1;
        if (yes < 0) return -1;
        if (yes) return exec_all(r, b->body);
    }
    return 0;
}

static int exec_output(Run *r, const Node *n)
{
    for (const Node *i = n->body; i; i = i->next) {
        Value v;
        if (eval(r, i, &v)) return -1;
        r->line = n->line;
        if (put_str(r, r->out, v)) return -1;
    }
    return 0;
}

static int define_macro(Run *r, const Node *n, Value *out)
{
    Macro *m = run_alloc(r, 1, sizeof *m);
    if (!m) return -1;
    m->node = n;
    m->scope = r->scope;
    out->kind = V_MACRO;
    out->safe = 0;
    out->u.macro = m;
    return 0;
}

/* The bodies that make a text of their own: of set, filter and generation. */
static int exec_block(Run *r, const Node *n)
{
    Scope *outside = r->scope;
    Value text;
    if (scope_open_with(r, outside, n->unset) || capture(r, n->body, &text)) return -1;
    if (n->kind == S_GENERATION) {
        TemplateOutput *result = r->result;
        size_t from = r->root->len;
        r->scope = outside;
        if (mem_grow(&result->spans, &result->span_cap, result->span_count, sizeof *result->spans,
                     r->e))
            return -1;
        result->spans[result->span_count].from = from;
        result->spans[result->span_count++].to = from + text.u.s->len;
        return build_str(r, r->out, text.u.s);
    }
    if (n->b && eval_filter(r, n->b, &text, &text)) return -1;
    r->scope = outside;
    return n->kind == S_SET_BLOCK ? assign(r, n->a, text) : put_str(r, r->out, text);
}

static int exec_with(Run *r, const Node *n)
{
    Scope *outside = r->scope;
    if (scope_open_with(r, outside, n->unset)) return -1;
    Scope *inside = r->scope;
    for (const Node *p = n->other; p; p = p->next) {
        Value v;
        r->scope = outside;
        if (eval(r, p->b, &v)) return -1;
        r->scope = inside;
        if (assign(r, p->a, v)) return -1;
    }
    int ended = exec_all(r, n->body);
    r->scope = outside;
    return ended;
}

static int exec(Run *r, const Node *n)
{
    Value v, caller;
    r->line = n->line;
    switch (n->kind) {
    case S_DATA: return build_str(r, r->out, n->value.u.s);
    case S_OUTPUT: return exec_output(r, n);
    case S_IF: return exec_if(r, n);
    case S_FOR: return exec_for(r, n);
    case S_SET: return eval(r, n->b, &v) || assign(r, n->a, v) ? -1 : 0;
    case S_SET_BLOCK:
    case S_FILTER:
    case S_GENERATION: return exec_block(r, n);
    case S_MACRO: return define_macro(r, n, &v) || scope_set(r, n->name, v) ? -1 : 0;
    case S_CALL:
        if (define_macro(r, n, &caller) || eval_call(r, n->a, &caller, &v)) return -1;
        return put_str(r, r->out, v);
    case S_WITH: return exec_with(r, n);
    case S_BREAK: return LEFT_LOOP;
    default: return NEXT_ITEM; /* S_CONTINUE */
    }
}

static int exec_all(Run *r, const Node *n)
{
    if (enter(r)) return -1;
    int ended = 0;
    for (; n && !ended; n = n->next) ended = charge(r, 1) ? -1 : exec(r, n);
    leave(r);
    return ended;
}

/* ---- the whole ----------------------------------------------------------------------------- */

int template_given(size_t message)
{
    return TEMPLATE_GIVEN_MESSAGE + (int)(message % 125);
}

int template_marks_answers(const Template *t)
{
    return t->generation;
}

/* The messages, each with a mark of its own. */
static int take_messages(Run *r, const Json *list, Value *out)
{
    size_t at = 0;
    List *l = run_alloc(r, 1, sizeof *l);
    if (!l) return -1;
    for (const Json *m = list->child; m; m = m->next) {
        Value v;
        if (from_json(r, m, template_given(at++), &v) || list_add(r, l, v)) return -1;
    }
    *out = v_list(l);
    return 0;
}

/* Is it the text of a special token, which may become one? */
static int is_token(const Json *member)
{
    static const char end[] = "_token";
    size_t n = sizeof end - 1;
    return member->key_len > n && !memcmp(member->key + member->key_len - n, end, n);
}

static int take_variables(Run *r, const Json *variables)
{
    r->variables = run_alloc(r, 1, sizeof *r->variables);
    if (!r->variables) return -1;
    for (const Json *m = variables ? variables->child : NULL; m; m = m->next) {
        Value key, value;
        int list = m->type == JSON_ARRAY && !strcmp(m->key, "messages");
        if (v_text(r, m->key, m->key_len, &key) ||
            (list ? take_messages(r, m, &value)
                  : from_json(r, m, is_token(m) ? 0 : TEMPLATE_GIVEN, &value)) ||
            dict_set(r, r->variables, key, value))
            return -1;
    }
    return 0;
}

static int give_output(const Builder *b, TemplateOutput *out, Err *e)
{
    static const char zeros[256];
    if (text_add(&out->text, b->len ? b->bytes : "", b->len, e)) return -1;
    if (b->marks) return text_add(&out->given, b->marks, b->len, e);
    for (size_t at = 0, n; at < b->len; at += n) {
        n = b->len - at < sizeof zeros ? b->len - at : sizeof zeros;
        if (text_add(&out->given, zeros, n, e)) return -1;
    }
    return 0;
}

/* Inside of macros and blocks of set the places of {% generation %} are not those of the text: they
 * are kept within it, and between its characters. */
static void keep_spans_inside(TemplateOutput *out)
{
    for (size_t i = 0; i < out->span_count; i++) {
        size_t *ends[] = {&out->spans[i].from, &out->spans[i].to};
        for (size_t k = 0; k < 2; k++) {
            if (*ends[k] > out->text.len) *ends[k] = out->text.len;
            while (*ends[k] < out->text.len && (out->text.data[*ends[k]] & 0xC0) == 0x80)
                ++*ends[k];
        }
    }
}

int template_render(const Template *t, const Json *variables, const TemplateTime *now,
                    TemplateOutput *out, Err *e)
{
    Builder root = {0};
    Run r = {.t = t, .out = &root, .root = &root, .result = out, .now = now, .line = 1, .e = e};
    out->text.len = out->given.len = out->span_count = 0;
    int failed = take_variables(&r, variables) || scope_open_with(&r, NULL, t->unset) ||
                 exec_all(&r, t->body) < 0 || give_output(&root, out, e);
    pool_free(&r.pool);
    if (!failed) keep_spans_inside(out);
    return failed ? -1 : 0;
}

void template_output_free(TemplateOutput *out)
{
    text_free(&out->text);
    text_free(&out->given);
    mem_free(out->spans);
    memset(out, 0, sizeof *out);
}
