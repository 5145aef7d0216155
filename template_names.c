/* template_names.c - which names of a scope are undefined until they are set.
 *
 * Jinja compiles a template into a function, and a scope's names into its variables. Where a scope
 * sets a name before it reads it, and no scope around it knows the name, the name is a variable
 * that begins empty: the scopes inside see that one, and not what the template was given under the
 * name. This walk finds those names as Jinja's idtracking.py does: first all of a scope, whose
 * branches of `if` belong to it, then the scopes inside of it.
 */
#include "template_parts.h"

#include <string.h>

enum { NAMES_MOST = 2000 }; /* names of a scope and those around it */

typedef struct {
    const char *name;
    int undefined; /* it begins without a value */
} Symbol;

typedef struct Symbols Symbols;
struct Symbols {
    const Symbols *around;
    Symbol *items;
    size_t count, cap, depth; /* depth: names of the scopes around */
};

typedef struct {
    Template *t;
    Err *e;
} Walk;

static int visit_all(Walk *w, Symbols *s, const Node *n);
static int open_all(Walk *w, const Symbols *s, Node *n);

static int is_here(const Symbols *s, const char *name)
{
    for (size_t i = 0; i < s->count; i++)
        if (s->items[i].name == name) return 1;
    return 0;
}

static int is_known(const Symbols *s, const char *name)
{
    for (; s; s = s->around)
        if (is_here(s, name)) return 1;
    return 0;
}

static int add(Walk *w, Symbols *s, Symbol added, int line)
{
    if (s->depth + s->count >= NAMES_MOST)
        return err_set(w->e, ERR_DATA, "%s:%d: more than %d variables in a scope cannot be done "
                       "here", w->t->name, line, NAMES_MOST);
    if (mem_grow(&s->items, &s->cap, s->count, sizeof *s->items, w->e)) return -1;
    s->items[s->count++] = added;
    return 0;
}

static int load(Walk *w, Symbols *s, const Node *n)
{
    return is_known(s, n->name) ? 0 : add(w, s, (Symbol){n->name, 0}, n->line);
}

/* param: it has a value from the beginning. */
static int store(Walk *w, Symbols *s, const char *name, int param, int line)
{
    if (is_here(s, name)) return 0;
    return add(w, s, (Symbol){name, !param && !is_known(s->around, name)}, line);
}

static int visit_target(Walk *w, Symbols *s, const Node *target, int param)
{
    if (target->kind == N_NAME) return store(w, s, target->name, param, target->line);
    if (target->kind == N_FIELD) return load(w, s, target);
    for (const Node *n = target->body; n; n = n->next)
        if (visit_target(w, s, n, param)) return -1;
    return 0;
}

/* The names that an expression reads. */
static int visit_expression(Walk *w, Symbols *s, const Node *n)
{
    if (!n) return 0;
    if (n->kind == N_NAME) return load(w, s, n);
    if (visit_expression(w, s, n->a) || visit_expression(w, s, n->b) ||
        visit_expression(w, s, n->c))
        return -1;
    for (const Node *k = n->body; k; k = k->next)
        if (visit_expression(w, s, k)) return -1;
    for (const Node *k = n->other; k; k = k->next)
        if (visit_expression(w, s, k)) return -1;
    return 0;
}

/* ---- the statements of a scope -------------------------------------------------------------- */

/* Branches belong to the scope around, but what only they set is looked for outside of it first. */
static int visit_if(Walk *w, Symbols *s, const Node *n)
{
    size_t from = s->count;
    for (const Node *b = n->body; b; b = b->next)
        if (visit_expression(w, s, b->a) || visit_all(w, s, b->body)) return -1;
    for (size_t i = from; i < s->count; i++) s->items[i].undefined = 0;
    return 0;
}

/* What a statement does to the names of the scope that it stands in. */
static int visit(Walk *w, Symbols *s, const Node *n)
{
    switch (n->kind) {
    case S_OUTPUT:
        for (const Node *i = n->body; i; i = i->next)
            if (visit_expression(w, s, i)) return -1;
        return 0;
    case S_IF: return visit_if(w, s, n);
    case S_FOR: return visit_expression(w, s, n->b);
    case S_SET: return visit_expression(w, s, n->b) || visit_target(w, s, n->a, 0) ? -1 : 0;
    case S_SET_BLOCK: return visit_target(w, s, n->a, 0);
    case S_MACRO: return store(w, s, n->name, 0, n->line);
    case S_CALL: return visit_expression(w, s, n->a);
    case S_FILTER: return visit_expression(w, s, n->b);
    case S_WITH:
        for (const Node *p = n->other; p; p = p->next)
            if (visit_expression(w, s, p->b)) return -1;
        return 0;
    default: return 0;
    }
}

static int visit_all(Walk *w, Symbols *s, const Node *n)
{
    for (; n; n = n->next)
        if (visit(w, s, n)) return -1;
    return 0;
}

/* ---- the scopes inside ----------------------------------------------------------------------- */

static int keep_unset(Walk *w, const Symbols *s, const char ***out)
{
    size_t n = 0;
    for (size_t i = 0; i < s->count; i++) n += s->items[i].undefined != 0;
    if (!n) return 0;
    const char **names = pool_alloc(&w->t->pool, (n + 1) * sizeof *names, w->e);
    if (!names) return -1;
    *out = names;
    for (size_t i = 0; i < s->count; i++)
        if (s->items[i].undefined) *names++ = s->items[i].name;
    *names = NULL;
    return 0;
}

/* A body in a scope whose parameters are there already. */
static int open_body(Walk *w, Symbols *s, Node *body, const char ***unset)
{
    return visit_all(w, s, body) || keep_unset(w, s, unset) || open_all(w, s, body) ? -1 : 0;
}

static int open_macro(Walk *w, Symbols *s, const Node *n)
{
    for (const Node *p = n->other; p; p = p->next)
        if (store(w, s, p->name, 1, p->line)) return -1;
    for (const Node *p = n->other; p; p = p->next)
        if (visit_expression(w, s, p->a)) return -1;
    return 0;
}

/* The scope that a statement has for its body, inside of `around`. */
static int open_scope(Walk *w, const Symbols *around, Node *n)
{
    Symbols s = {.around = around, .depth = around->depth + around->count};
    int status = 0;
    if (n->kind == S_FOR)
        status = store(w, &s, w->t->loop, 1, n->line) || visit_target(w, &s, n->a, 1);
    if (n->kind == S_MACRO || n->kind == S_CALL) status = open_macro(w, &s, n);
    for (const Node *p = n->kind == S_WITH ? n->other : NULL; p && !status; p = p->next)
        status = visit_target(w, &s, p->a, 1);
    if (!status) status = open_body(w, &s, n->body, &n->unset);
    s.count = 0;
    if (!status && n->kind == S_FOR && n->other)
        status = open_body(w, &s, n->other, &n->unset_other);
    mem_free(s.items);
    return status ? -1 : 0;
}

static int open_all(Walk *w, const Symbols *s, Node *n)
{
    for (; n; n = n->next) {
        int has_scope = n->kind == S_FOR || n->kind == S_MACRO || n->kind == S_CALL ||
                        n->kind == S_SET_BLOCK || n->kind == S_FILTER || n->kind == S_WITH ||
                        n->kind == S_GENERATION;
        if (has_scope && open_scope(w, s, n)) return -1;
        for (Node *b = n->kind == S_IF ? n->body : NULL; b; b = b->next)
            if (open_all(w, s, b->body)) return -1;
    }
    return 0;
}

int find_unset(Template *t, Err *e)
{
    Walk w = {t, e};
    Symbols s = {.around = NULL};
    int status = open_body(&w, &s, t->body, &t->unset);
    mem_free(s.items);
    return status;
}
