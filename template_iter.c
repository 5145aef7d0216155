/* template_iter.c - walking values: what `for`, `in`, list and join do, one item at a time. */
#include "template_parts.h"

#include <string.h>

int iterable(Value v)
{
    return v.kind == V_UNDEFINED || (v.kind >= V_STRING && v.kind <= V_DICT) ||
           (v.kind >= V_RANGE && v.kind <= V_LOOP);
}

int iter_open(Run *r, Value v, Iter **out)
{
    if (v.kind == V_ITERATOR) {
        *out = v.u.iter;
        return 0;
    }
    Iter *it = run_alloc(r, 1, sizeof *it);
    if (!it) return -1;
    *out = it;
    switch (v.kind) {
    case V_UNDEFINED: it->kind = I_LIST; return 0;
    case V_LIST:
    case V_TUPLE:
        it->kind = I_LIST;
        it->list = v.u.list;
        return 0;
    case V_STRING:
        it->kind = I_TEXT;
        it->text = v;
        return 0;
    case V_DICT:
    case V_VIEW:
        it->kind = I_DICT;
        it->dict = v.kind == V_DICT ? v.u.dict : v.u.view->dict;
        it->part = v.kind == V_DICT ? 'k' : v.u.view->part;
        return 0;
    case V_RANGE:
        it->kind = I_RANGE;
        it->range = v.u.range;
        return 0;
    default: return fail(r, "found a %s, which cannot be walked", kind_name(v));
    }
}

static int next_entry(Run *r, Iter *it, Value *out)
{
    if (it->at >= it->dict->len) return 0;
    const Entry *e = &it->dict->items[it->at++];
    if (it->part == 'i') return v_pair(r, e->key, e->value, out) ? -1 : 1;
    *out = it->part == 'k' ? e->key : e->value;
    return 1;
}

static int next_char(Run *r, Iter *it, Value *out)
{
    const Str *s = it->text.u.s;
    if (it->at >= s->len) return 0;
    size_t from = it->at;
    it->at += utf8_step(s->bytes + from, s->len - from);
    if (str_slice(r, s, from, it->at, out)) return -1;
    return 1;
}

/* Up to `width` items of the source as a list. */
static int next_batch(Run *r, Iter *it, Value *out)
{
    List *l = run_alloc(r, 1, sizeof *l);
    Value v;
    if (!l) return -1;
    if (!it->inner && iter_open(r, it->source, &it->inner)) return -1;
    for (int got = 1; l->len < it->width && got;) {
        got = iter_next(r, it->inner, &v);
        if (got < 0 || (got && list_add(r, l, v))) return -1;
    }
    if (!l->len) return 0;
    while (it->fill.kind != V_NONE && l->len < it->width)
        if (list_add(r, l, it->fill)) return -1;
    *out = v_list(l);
    return 1;
}

/* The next item of the source that map, select or reject lets through. */
static int next_picked(Run *r, Iter *it, Value *out)
{
    if (!it->inner) {
        int some = it->only_true ? truth(r, it->source) : 1;
        if (some <= 0) return some;
        if (iter_open(r, it->source, &it->inner)) return -1;
    }
    for (;;) {
        Value v;
        int keep = 1, got = iter_next(r, it->inner, &v);
        if (got <= 0) return got;
        if (it->pick(r, it, v, out, &keep)) return -1;
        if (keep) return 1;
    }
}

int iter_next(Run *r, Iter *it, Value *out)
{
    int got = 0;
    if (charge(r, 1)) return -1;
    switch (it->kind) {
    case I_LIST:
        if (!it->list || it->at >= it->list->len) return 0;
        *out = it->list->items[it->at++];
        return 1;
    case I_REVERSED:
        if (it->at >= it->list->len) return 0;
        *out = it->list->items[it->list->len - ++it->at];
        return 1;
    case I_DICT: return next_entry(r, it, out);
    case I_TEXT: return next_char(r, it, out);
    case I_RANGE:
        if (it->at >= it->range->len) return 0;
        *out = v_int(it->range->start + (int64_t)it->at++ * it->range->step);
        return 1;
    default: break;
    }
    if (enter(r)) return -1;
    got = it->kind == I_BATCH ? next_batch(r, it, out) : next_picked(r, it, out);
    leave(r);
    return got;
}

/* All items as a new list. */
int list_of(Run *r, Value v, List **out)
{
    Iter *it;
    Value item;
    List *l = run_alloc(r, 1, sizeof *l);
    if (!l || iter_open(r, v, &it)) return -1;
    for (int got; (got = iter_next(r, it, &item)) != 0;)
        if (got < 0 || list_add(r, l, item)) return -1;
    *out = l;
    return 0;
}

/* `needle` in `hay`: bytes of text. */
static int text_holds(Run *r, const Str *hay, const Str *needle)
{
    if (charge(r, hay->len / 8 + 1)) return -1;
    for (size_t i = 0; i + needle->len <= hay->len; i++) {
        if (!needle->len) return 1;
        const char *at = memchr(hay->bytes + i, needle->bytes[0], hay->len - needle->len - i + 1);
        if (!at) return 0;
        i = (size_t)(at - hay->bytes);
        if (charge(r, needle->len / 64)) return -1;
        if (!memcmp(at, needle->bytes, needle->len)) return 1;
    }
    return 0;
}

int contains(Run *r, Value in, Value v)
{
    int failed;
    const Dict *d = in.kind == V_DICT ? in.u.dict
                    : in.kind == V_VIEW && in.u.view->part == 'k' ? in.u.view->dict
                                                                  : NULL;
    if (in.kind == V_STRING) {
        if (v.kind != V_STRING)
            return fail(r, "found %s in str, expected str in str", kind_name(v));
        return text_holds(r, in.u.s, v.u.s);
    }
    if (d) {
        if (hashable(r, v)) return -1;
        const Value *found = dict_get(r, d, v, &failed);
        return failed ? -1 : found != NULL;
    }
    Iter *it;
    Value item;
    if (iter_open(r, in, &it)) return -1;
    for (int got; (got = iter_next(r, it, &item)) != 0;) {
        int same = got < 0 ? -1 : equal(r, item, v);
        if (same) return same;
    }
    return 0;
}
