/* template_parse.c - the tokens of a template to its tree, by Jinja's own grammar.
 *
 * Statements and expressions are read by recursive descent, each level counted.
 */
#include "template_tokens.h"

#include <string.h>

/* ---- what the parser asks of tokens -------------------------------------------------------- */

static const Token *look(const Parser *p, size_t ahead)
{
    size_t at = p->next + ahead;
    return &p->tokens[at < p->count ? at : p->count - 1]; /* the last is T_END */
}

static const Token *take(Parser *p)
{
    const Token *t = look(p, 0);
    if (p->next + 1 < p->count) p->next++;
    return t;
}

static int is_op(const Token *t, int op)
{
    return t->type == T_OP && t->op == op;
}

static int is_name(const Token *t, const char *name)
{
    return t->type == T_NAME && t->len == strlen(name) && !memcmp(t->bytes, name, t->len);
}

static int take_op(Parser *p, int op)
{
    if (!is_op(look(p, 0), op)) return 0;
    take(p);
    return 1;
}

static int take_name(Parser *p, const char *name)
{
    if (!is_name(look(p, 0), name)) return 0;
    take(p);
    return 1;
}

/* found X, expected Y, at the next token. */
static int unexpected(Parser *p, const char *expected)
{
    const Token *t = look(p, 0);
    switch (t->type) {
    case T_END:
        return parser_stop(p, t->line, "found the end of the template, expected %s", expected);
    case T_BLOCK_END: return parser_stop(p, t->line, "found %%}, expected %s", expected);
    case T_VARIABLE_END: return parser_stop(p, t->line, "found }}, expected %s", expected);
    case T_TEXT: return parser_stop(p, t->line, "found a string, expected %s", expected);
    default:
        return parser_stop(p, t->line, "found '%.*s', expected %s", t->len > 40 ? 40 : (int)t->len,
                           t->bytes, expected);
    }
}

static int need_op(Parser *p, int op)
{
    char expected[] = "' '";
    if (take_op(p, op)) return 0;
    expected[1] = (char)op;
    return unexpected(p, expected);
}

static int need_name(Parser *p, const char *name)
{
    return take_name(p, name) ? 0 : unexpected(p, name);
}

static int need_block_end(Parser *p)
{
    if (look(p, 0)->type != T_BLOCK_END) return unexpected(p, "%}");
    take(p);
    return 0;
}

/* One pointer for equal names, so that variables are compared by it. */
static const char *intern(Parser *p, const char *bytes, size_t len)
{
    size_t hash = 0;
    for (size_t i = 0; i < len; i++) hash = hash * 31 + (unsigned char)bytes[i];
    Name **row = &p->names[hash % NAME_ROWS];
    for (const Name *n = *row; n; n = n->next)
        if (strlen(n->text) == len && !memcmp(n->text, bytes, len)) return n->text;
    Name *n = pool_alloc(&p->t->pool, sizeof *n, p->e);
    if (!n || !(n->text = pool_strndup(&p->t->pool, bytes, len, p->e))) return NULL;
    n->next = *row;
    *row = n;
    return n->text;
}

/* ---- nodes --------------------------------------------------------------------------------- */

/* A node with up to three parts; NULL where one of the needed parts failed is the caller's. */
static Node *node(Parser *p, NodeKind kind, int line, Node *a, Node *b, Node *c)
{
    Node *n = pool_alloc(&p->t->pool, sizeof *n, p->e);
    if (!n) return NULL;
    n->kind = kind;
    n->line = line;
    n->a = a;
    n->b = b;
    n->c = c;
    n->value = v_none();
    const Node *parts[] = {a, b, c};
    for (size_t i = 0; i < 3; i++)
        if (parts[i] && parts[i]->nesting > n->nesting) n->nesting = parts[i]->nesting;
    if (++n->nesting > TEMPLATE_MAX_NESTING) {
        parser_stop(p, line, "expressions nest deeper than %d levels", TEMPLATE_MAX_NESTING);
        return NULL;
    }
    return n;
}

/* A list of nodes, as it grows. */
typedef struct {
    Node *first, *last;
} Chain;

static int chain_add(Chain *c, Node *n)
{
    if (!n) return -1;
    if (c->last)
        c->last->next = n;
    else
        c->first = n;
    c->last = n;
    return 0;
}

/* Puts a list below a node: in *slot, its body or other. */
static int adopt(Parser *p, Node *n, Node **slot, Node *list)
{
    *slot = list;
    for (; list; list = list->next)
        if (list->nesting >= n->nesting) n->nesting = list->nesting + 1;
    if (n->nesting <= TEMPLATE_MAX_NESTING) return 0;
    return parser_stop(p, n->line, "expressions and blocks nest deeper than %d levels",
                       TEMPLATE_MAX_NESTING);
}

/* A node with a list below it. */
static Node *node_of(Parser *p, NodeKind kind, int line, Node *list)
{
    Node *n = node(p, kind, line, NULL, NULL, NULL);
    return n && !adopt(p, n, &n->body, list) ? n : NULL;
}

static int deeper(Parser *p)
{
    if (++p->nesting <= TEMPLATE_MAX_NESTING) return 0;
    return parser_stop(p, look(p, 0)->line, "expressions and blocks nest deeper than %d levels",
                       TEMPLATE_MAX_NESTING);
}

static Node *parse_expression(Parser *p);
static Node *parse_or(Parser *p);
static Node *parse_unary(Parser *p, int with_filter);
static Node *parse_primary(Parser *p, int with_field);
static int parse_body(Parser *p, const char *const *ends, Node *n, Node **slot);

/* ---- expressions --------------------------------------------------------------------------- */

typedef enum { TUPLE_FULL, TUPLE_NO_TERNARY, TUPLE_TARGET, TUPLE_TARGET_FIELD } TupleOf;

static Node *parse_tuple(Parser *p, TupleOf of, const char *end, int in_brackets)
{
    Chain items = {0};
    int line = look(p, 0)->line, is_tuple = 0;
    for (;;) {
        const Token *t = look(p, 0);
        if (items.first) {
            if (need_op(p, ',')) return NULL;
            t = look(p, 0);
        }
        if (t->type == T_VARIABLE_END || t->type == T_BLOCK_END || is_op(t, ')') ||
            (end && is_name(t, end)))
            break;
        Node *n = of == TUPLE_FULL         ? parse_expression(p)
                  : of == TUPLE_NO_TERNARY ? parse_or(p)
                                           : parse_primary(p, of == TUPLE_TARGET_FIELD);
        if (chain_add(&items, n)) return NULL;
        if (!is_op(look(p, 0), ',')) break;
        is_tuple = 1;
    }
    if (!is_tuple && items.first) return items.first;
    if (!is_tuple && !in_brackets) {
        unexpected(p, "an expression");
        return NULL;
    }
    return node_of(p, N_TUPLE, line, items.first);
}

static Node *constant(Parser *p, int line, Value v)
{
    Node *n = node(p, N_CONST, line, NULL, NULL, NULL);
    if (n) n->value = v;
    return n;
}

static Node *text_constant(Parser *p, NodeKind kind, int line, const char *bytes, size_t len)
{
    Str *s = pool_alloc(&p->t->pool, sizeof *s, p->e);
    Node *n = s ? node(p, kind, line, NULL, NULL, NULL) : NULL;
    if (!n) return NULL;
    s->bytes = bytes;
    s->len = len;
    for (size_t i = 0; i < len; i++) s->chars += ((unsigned char)bytes[i] & 0xC0) != 0x80;
    n->value.kind = V_STRING;
    n->value.u.s = s;
    return n;
}

/* Strings that stand side by side are one. */
static Node *parse_strings(Parser *p)
{
    const Token *first = take(p);
    const char *bytes = first->bytes;
    size_t len = first->len;
    while (look(p, 0)->type == T_TEXT) {
        const Token *t = take(p);
        char *both = pool_alloc(&p->t->pool, len + t->len + 1, p->e);
        if (!both) return NULL;
        memcpy(both, bytes, len);
        memcpy(both + len, t->bytes, t->len);
        bytes = both;
        len += t->len;
    }
    return text_constant(p, N_CONST, first->line, bytes, len);
}

static Node *parse_list(Parser *p)
{
    Chain items = {0};
    int line = take(p)->line;
    while (!is_op(look(p, 0), ']')) {
        if (items.first && need_op(p, ',')) return NULL;
        if (is_op(look(p, 0), ']')) break;
        if (chain_add(&items, parse_expression(p))) return NULL;
    }
    take(p);
    return node_of(p, N_LIST, line, items.first);
}

static Node *parse_dict(Parser *p)
{
    Chain items = {0};
    int line = take(p)->line;
    while (!is_op(look(p, 0), '}')) {
        if (items.first && need_op(p, ',')) return NULL;
        if (is_op(look(p, 0), '}')) break;
        if (chain_add(&items, parse_expression(p)) || need_op(p, ':') ||
            chain_add(&items, parse_expression(p)))
            return NULL;
    }
    take(p);
    return node_of(p, N_DICT, line, items.first);
}

static Node *named(Parser *p, NodeKind kind, const Token *t)
{
    Node *n = node(p, kind, t->line, NULL, NULL, NULL);
    if (!n || !(n->name = intern(p, t->bytes, t->len))) return NULL;
    return n;
}

static Node *parse_name(Parser *p, int with_field)
{
    const Token *t = take(p);
    if (is_name(t, "true") || is_name(t, "True")) return constant(p, t->line, v_bool(1));
    if (is_name(t, "false") || is_name(t, "False")) return constant(p, t->line, v_bool(0));
    if (is_name(t, "none") || is_name(t, "None")) return constant(p, t->line, v_none());
    if (!with_field || !take_op(p, '.')) return named(p, N_NAME, t);
    const Token *field = look(p, 0);
    if (field->type != T_NAME) {
        unexpected(p, "a name");
        return NULL;
    }
    take(p);
    Node *n = named(p, N_FIELD, t);
    if (!n || !(n->field = intern(p, field->bytes, field->len))) return NULL;
    return n;
}

static Node *parse_primary(Parser *p, int with_field)
{
    const Token *t = look(p, 0);
    Node *n = NULL;
    if (deeper(p)) return NULL;
    if (t->type == T_NAME) {
        n = parse_name(p, with_field);
    } else if (t->type == T_TEXT) {
        n = parse_strings(p);
    } else if (t->type == T_INT || t->type == T_FLOAT) {
        take(p);
        n = constant(p, t->line, t->value);
    } else if (is_op(t, '(')) {
        take(p);
        n = parse_tuple(p, TUPLE_FULL, NULL, 1);
        if (n && need_op(p, ')')) n = NULL;
    } else if (is_op(t, '[')) {
        n = parse_list(p);
    } else if (is_op(t, '{')) {
        n = parse_dict(p);
    } else {
        unexpected(p, "an expression");
    }
    p->nesting--;
    return n;
}

/* One argument of a call. *state: 0 positional so far, 1 keywords, 2 behind *, 3 behind **. */
static Node *parse_argument(Parser *p, int *state)
{
    const Token *t = look(p, 0);
    NodeKind kind = is_op(t, '*') ? N_STAR : is_op(t, OP2('*', '*')) ? N_STAR_STAR : N_KEYWORD;
    int keyword = t->type == T_NAME && is_op(look(p, 1), '=');
    if ((kind == N_STAR && *state >= 2) || *state == 3 ||
        (kind == N_KEYWORD && !keyword && *state >= 1)) {
        unexpected(p, "no further argument of this form");
        return NULL;
    }
    if (kind == N_KEYWORD && !keyword) return parse_expression(p);
    const char *name = NULL;
    take(p);
    if (keyword) {
        if (!(name = intern(p, t->bytes, t->len))) return NULL;
        take(p);
        if (*state < 1) *state = 1;
    } else {
        *state = kind == N_STAR ? 2 : 3;
    }
    Node *value = parse_expression(p);
    Node *n = value ? node(p, kind, t->line, value, NULL, NULL) : NULL;
    if (n) n->name = name;
    return n;
}

static int parse_arguments(Parser *p, Node *n)
{
    Chain args = {0};
    int state = 0;
    if (need_op(p, '(')) return -1;
    while (!is_op(look(p, 0), ')')) {
        if (args.first && need_op(p, ',')) return -1;
        if (args.first && is_op(look(p, 0), ')')) break;
        if (chain_add(&args, parse_argument(p, &state))) return -1;
    }
    take(p);
    return adopt(p, n, &n->other, args.first);
}

static Node *parse_call(Parser *p, Node *callee)
{
    Node *n = node(p, N_CALL, look(p, 0)->line, callee, NULL, NULL);
    return n && !parse_arguments(p, n) ? n : NULL;
}

/* What stands between [ and ], or between two commas there. */
static Node *parse_subscribed(Parser *p)
{
    Node *part[3] = {NULL, NULL, NULL};
    int line = look(p, 0)->line;
    if (!is_op(look(p, 0), ':')) {
        part[0] = parse_expression(p);
        if (!part[0] || !is_op(look(p, 0), ':')) return part[0];
    }
    take(p);
    for (int i = 1; i < 3; i++) {
        const Token *t = look(p, 0);
        if (!is_op(t, ':') && !is_op(t, ']') && !is_op(t, ',') && !(part[i] = parse_expression(p)))
            return NULL;
        if (i == 1 && !take_op(p, ':')) break;
    }
    return node(p, N_SLICE, line, part[0], part[1], part[2]);
}

static Node *parse_subscript(Parser *p, Node *of)
{
    int line = look(p, 0)->line;
    if (take_op(p, '.')) {
        const Token *t = take(p);
        if (t->type == T_INT) return node(p, N_ITEM, line, of, constant(p, line, t->value), NULL);
        if (t->type != T_NAME) {
            parser_stop(p, t->line, "found no name behind the point, expected a name or a number");
            return NULL;
        }
        Node *n = node(p, N_ATTRIBUTE, line, of, NULL, NULL);
        if (!n || !(n->name = intern(p, t->bytes, t->len))) return NULL;
        return n;
    }
    Chain items = {0};
    take(p); /* [ */
    while (!is_op(look(p, 0), ']')) {
        if (items.first && need_op(p, ',')) return NULL;
        if (chain_add(&items, parse_subscribed(p))) return NULL;
    }
    take(p);
    Node *key = items.first;
    if (!key || key->next) {
        key = node_of(p, N_TUPLE, line, items.first);
        if (!key) return NULL;
        for (const Node *n = items.first; n; n = n->next) {
            if (n->kind != N_SLICE) continue;
            parser_stop(p, line, "found a slice among several subscripts, expected one subscript");
            return NULL;
        }
    }
    return node(p, N_ITEM, line, of, key, NULL);
}

static Node *parse_postfix(Parser *p, Node *n)
{
    while (n) {
        const Token *t = look(p, 0);
        if (is_op(t, '.') || is_op(t, '['))
            n = parse_subscript(p, n);
        else if (is_op(t, '('))
            n = parse_call(p, n);
        else
            break;
    }
    return n;
}

/* A filter behind |, applied to n; with the name as the next token. */
/* Names of filters and tests may hold dots, and none that exists does. */
static int no_dots(Parser *p, const char *what, const char *name)
{
    const Token *behind = look(p, 1);
    if (!is_op(look(p, 0), '.') || behind->type != T_NAME) return 0;
    return parser_stop(p, behind->line, "found the %s '%s.%.*s', which does not exist here", what,
                       name, (int)behind->len, behind->bytes);
}

static Node *parse_filter(Parser *p, Node *n)
{
    const Token *t = look(p, 0);
    if (t->type != T_NAME) {
        unexpected(p, "the name of a filter");
        return NULL;
    }
    Node *f = named(p, N_FILTER, take(p));
    if (!f || no_dots(p, "filter", f->name)) return NULL;
    f->entry = filter_find(f->name);
    if (!f->entry) {
        parser_stop(p, t->line, "found the filter '%s', which does not exist here", f->name);
        return NULL;
    }
    f->a = n;
    if (n && (f->nesting = n->nesting + 1) > TEMPLATE_MAX_NESTING) {
        parser_stop(p, t->line, "filters nest deeper than %d levels", TEMPLATE_MAX_NESTING);
        return NULL;
    }
    if (is_op(look(p, 0), '(') && parse_arguments(p, f)) return NULL;
    return f;
}

static Node *parse_test(Parser *p, Node *n)
{
    int line = take(p)->line, negated = take_name(p, "not");
    const Token *t = look(p, 0);
    if (t->type != T_NAME) {
        unexpected(p, "the name of a test");
        return NULL;
    }
    take(p);
    Node *test = node(p, N_TEST, line, n, NULL, NULL);
    if (!test || !(test->name = intern(p, t->bytes, t->len))) return NULL;
    if (no_dots(p, "test", test->name)) return NULL;
    test->entry = test_find(test->name);
    if (!test->entry) {
        parser_stop(p, t->line, "found the test '%s', which does not exist here", test->name);
        return NULL;
    }
    t = look(p, 0);
    if (is_op(t, '(')) {
        if (parse_arguments(p, test)) return NULL;
    } else if ((t->type == T_NAME && !is_name(t, "else") && !is_name(t, "or") &&
                !is_name(t, "and")) ||
               t->type == T_TEXT || t->type == T_INT || t->type == T_FLOAT || is_op(t, '[') ||
               is_op(t, '{')) {
        if (is_name(t, "is")) {
            unexpected(p, "no second test in a row");
            return NULL;
        }
        Node *arg = parse_postfix(p, parse_primary(p, 0));
        if (!arg || adopt(p, test, &test->other, arg)) return NULL;
    }
    return negated ? node(p, N_NOT, line, test, NULL, NULL) : test;
}

static Node *parse_unary(Parser *p, int with_filter)
{
    const Token *t = look(p, 0);
    Node *n;
    if (deeper(p)) return NULL;
    if (is_op(t, '-') || is_op(t, '+')) {
        take(p);
        n = parse_unary(p, 0);
        if (n) n = node(p, t->op == '-' ? N_NEGATE : N_PLUS, t->line, n, NULL, NULL);
    } else {
        n = parse_primary(p, 0);
    }
    n = parse_postfix(p, n);
    while (n && with_filter) {
        t = look(p, 0);
        if (take_op(p, '|'))
            n = parse_filter(p, n);
        else if (is_name(t, "is"))
            n = parse_test(p, n);
        else if (is_op(t, '('))
            n = parse_call(p, n);
        else
            break;
    }
    p->nesting--;
    return n;
}

/* Operators that bind alike, from the left: level 0 is + and -, 1 is * / // %, 2 is **; between
 * the first two stands ~, which joins all its operands at once. */
static Node *parse_binary(Parser *p, int level);

static Node *parse_concat(Parser *p)
{
    int line = look(p, 0)->line;
    Node *n = parse_binary(p, 1);
    if (!n || !is_op(look(p, 0), '~')) return n;
    Chain parts = {0};
    chain_add(&parts, n);
    while (take_op(p, '~'))
        if (chain_add(&parts, parse_binary(p, 1))) return NULL;
    return node_of(p, N_CONCAT, line, parts.first);
}

static int binds(const Token *t, int level)
{
    if (level == 0) return is_op(t, '+') || is_op(t, '-');
    if (level == 2) return is_op(t, OP2('*', '*'));
    return is_op(t, '*') || is_op(t, '/') || is_op(t, OP2('/', '/')) || is_op(t, '%');
}

static Node *parse_operand(Parser *p, int level)
{
    return level == 0 ? parse_concat(p) : level == 1 ? parse_binary(p, 2) : parse_unary(p, 1);
}

static Node *parse_binary(Parser *p, int level)
{
    Node *n = parse_operand(p, level);
    while (n && binds(look(p, 0), level)) {
        const Token *t = take(p);
        Node *right = parse_operand(p, level);
        n = right ? node(p, N_BINARY, t->line, n, right, NULL) : NULL;
        if (n) n->op = t->op;
    }
    return n;
}

/* Operators of comparison: < > <= >= == != and in, 'i', and not in, 'n'. */
static int take_comparison(Parser *p)
{
    static const int ops[] = {'<', '>', OP2('<', '='), OP2('>', '='), OP2('=', '='), OP2('!', '=')};
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        if (take_op(p, ops[i])) return ops[i];
    if (take_name(p, "in")) return 'i';
    if (!is_name(look(p, 0), "not") || !is_name(look(p, 1), "in")) return 0;
    take(p);
    take(p);
    return 'n';
}

static Node *parse_compare(Parser *p)
{
    int line = look(p, 0)->line;
    Node *n = parse_binary(p, 0);
    Chain operands = {0};
    while (n) {
        int op = take_comparison(p);
        if (!op) break;
        Node *right = parse_binary(p, 0);
        Node *operand = right ? node(p, N_KEYWORD, line, right, NULL, NULL) : NULL;
        if (chain_add(&operands, operand)) return NULL;
        operand->op = op;
    }
    if (!n || !operands.first) return n;
    n = node(p, N_COMPARE, line, n, NULL, NULL);
    return n && !adopt(p, n, &n->body, operands.first) ? n : NULL;
}

static Node *parse_not(Parser *p)
{
    int line = look(p, 0)->line;
    if (!take_name(p, "not")) return parse_compare(p);
    if (deeper(p)) return NULL;
    Node *n = parse_not(p);
    p->nesting--;
    return n ? node(p, N_NOT, line, n, NULL, NULL) : NULL;
}

static Node *parse_and(Parser *p)
{
    Node *n = parse_not(p);
    while (n && take_name(p, "and")) {
        Node *right = parse_not(p);
        n = right ? node(p, N_AND, n->line, n, right, NULL) : NULL;
    }
    return n;
}

static Node *parse_or(Parser *p)
{
    Node *n = parse_and(p);
    while (n && take_name(p, "or")) {
        Node *right = parse_and(p);
        n = right ? node(p, N_OR, n->line, n, right, NULL) : NULL;
    }
    return n;
}

static Node *parse_expression(Parser *p)
{
    if (deeper(p)) return NULL;
    Node *n = parse_or(p);
    while (n && take_name(p, "if")) {
        Node *test = parse_or(p), *other = NULL;
        if (!test || (take_name(p, "else") && !(other = parse_expression(p)))) return NULL;
        n = node(p, N_TERNARY, n->line, n, test, other);
    }
    p->nesting--;
    return n;
}

/* ---- statements ---------------------------------------------------------------------------- */

/* Can this be assigned to? */
static int check_target(Parser *p, const Node *n, int in_for)
{
    if (n->kind == N_TUPLE) {
        for (const Node *i = n->body; i; i = i->next)
            if (check_target(p, i, in_for)) return -1;
        return 0;
    }
    if (n->kind != N_NAME && n->kind != N_FIELD)
        return parser_stop(p, n->line, "found a value, expected a name to assign to");
    if (in_for && n->name == p->t->loop)
        return parser_stop(p, n->line,
                           "found 'loop' as the variable of a loop, expected another name");
    return 0;
}

static Node *parse_target(Parser *p, int with_field, const char *end)
{
    Node *n = parse_tuple(p, with_field ? TUPLE_TARGET_FIELD : TUPLE_TARGET, end, 0);
    return n && !check_target(p, n, end != NULL) ? n : NULL;
}

static Node *parse_for(Parser *p, int line)
{
    static const char *const ends[] = {"endfor", "else", NULL}, *const last[] = {"endfor", NULL};
    Node *n = node(p, S_FOR, line, NULL, NULL, NULL);
    if (!n || !(n->a = parse_target(p, 0, "in")) || need_name(p, "in") ||
        !(n->b = parse_tuple(p, TUPLE_NO_TERNARY, "recursive", 0)))
        return NULL;
    if (take_name(p, "if") && !(n->c = parse_expression(p))) return NULL;
    if (is_name(look(p, 0), "recursive")) {
        parser_stop(p, line, "found a recursive loop, which cannot be done here");
        return NULL;
    }
    p->loops++;
    int failed = parse_body(p, ends, n, &n->body);
    p->loops--;
    if (failed) return NULL;
    if (is_name(take(p), "endfor")) return n;
    if (parse_body(p, last, n, &n->other)) return NULL;
    take(p);
    return n;
}

static Node *parse_if(Parser *p, int line)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    static const char *const last[] = {"endif", NULL};
    Node *n = node(p, S_IF, line, NULL, NULL, NULL);
    Chain branches = {0};
    while (n) {
        Node *branch = node(p, S_BRANCH, look(p, 0)->line, NULL, NULL, NULL);
        if (chain_add(&branches, branch) ||
            !(branch->a = parse_tuple(p, TUPLE_NO_TERNARY, NULL, 0)) ||
            parse_body(p, ends, branch, &branch->body))
            return NULL;
        const Token *t = take(p);
        if (is_name(t, "elif")) continue;
        if (is_name(t, "endif")) return adopt(p, n, &n->body, branches.first) ? NULL : n;
        branch = node(p, S_BRANCH, t->line, NULL, NULL, NULL);
        if (chain_add(&branches, branch) || parse_body(p, last, branch, &branch->body) ||
            adopt(p, n, &n->body, branches.first))
            return NULL;
        take(p);
        return n;
    }
    return NULL;
}

static int parse_nested(Parser *p, const char *end, Node *n);

static Node *parse_set(Parser *p, int line)
{
    Node *target = parse_target(p, 1, NULL), *n;
    if (!target) return NULL;
    if (take_op(p, '=')) {
        Node *value = parse_tuple(p, TUPLE_FULL, NULL, 0);
        return value ? node(p, S_SET, line, target, value, NULL) : NULL;
    }
    n = node(p, S_SET_BLOCK, line, target, NULL, NULL);
    while (n && take_op(p, '|'))
        if (!(n->b = parse_filter(p, n->b))) return NULL;
    if (!n || parse_nested(p, "endset", n)) return NULL;
    return n;
}

/* The parameters of a macro into n->other: names with their default in a. */
static int parse_signature(Parser *p, Node *n)
{
    Chain args = {0};
    int defaults = 0;
    if (need_op(p, '(')) return -1;
    while (!is_op(look(p, 0), ')')) {
        if (args.first && need_op(p, ',')) return -1;
        const Token *t = look(p, 0);
        if (t->type != T_NAME) return unexpected(p, "the name of a parameter");
        Node *arg = named(p, N_PARAMETER, take(p));
        if (chain_add(&args, arg)) return -1;
        if (take_op(p, '=')) {
            if (!(arg->a = parse_expression(p))) return -1;
            defaults = 1;
        } else if (defaults) {
            return parser_stop(p, t->line,
                               "found a parameter without a default behind one with it");
        }
    }
    take(p);
    return adopt(p, n, &n->other, args.first);
}

/* Does the tree use this name? So macros know whether they take varargs, kwargs and caller. */
static int uses(const Node *n, const char *name)
{
    for (; n; n = n->next) {
        if ((n->kind == N_NAME && n->name == name) || uses(n->a, name) || uses(n->b, name) ||
            uses(n->c, name) || uses(n->body, name) || uses(n->other, name))
            return 1;
    }
    return 0;
}

static Node *parse_macro(Parser *p, int line)
{
    if (look(p, 0)->type != T_NAME) {
        unexpected(p, "the name of the macro");
        return NULL;
    }
    Node *n = named(p, S_MACRO, take(p));
    if (!n || parse_signature(p, n) || parse_nested(p, "endmacro", n)) return NULL;
    n->line = line;
    n->op = (uses(n->body, p->t->varargs) ? MACRO_VARARGS : 0) |
            (uses(n->body, p->t->kwargs) ? MACRO_KWARGS : 0) |
            (uses(n->body, p->t->caller) ? MACRO_CALLER : 0);
    return n;
}

static Node *parse_call_block(Parser *p, int line)
{
    Node *n = node(p, S_CALL, line, NULL, NULL, NULL);
    if (!n || (is_op(look(p, 0), '(') && parse_signature(p, n)) || !(n->a = parse_expression(p)))
        return NULL;
    if (n->a->kind != N_CALL) {
        parser_stop(p, line, "found no call behind 'call', expected one");
        return NULL;
    }
    return parse_nested(p, "endcall", n) ? NULL : n;
}

static Node *parse_with(Parser *p, int line)
{
    Node *n = node(p, S_WITH, line, NULL, NULL, NULL);
    Chain pairs = {0};
    while (n && look(p, 0)->type != T_BLOCK_END) {
        if (pairs.first && need_op(p, ',')) return NULL;
        Node *target = parse_target(p, 0, NULL), *value = NULL;
        if (!target || need_op(p, '=') || !(value = parse_expression(p)) ||
            chain_add(&pairs, node(p, N_KEYWORD, line, target, value, NULL)))
            return NULL;
    }
    if (!n) return NULL;
    if (adopt(p, n, &n->other, pairs.first)) return NULL;
    static const char *const ends[] = {"endwith", NULL};
    if (parse_body(p, ends, n, &n->body)) return NULL;
    take(p);
    return n;
}

static Node *parse_print(Parser *p, int line)
{
    Node *n = node(p, S_OUTPUT, line, NULL, NULL, NULL);
    Chain values = {0};
    while (n && look(p, 0)->type != T_BLOCK_END) {
        if ((values.first && need_op(p, ',')) || chain_add(&values, parse_expression(p)))
            return NULL;
    }
    return n && !adopt(p, n, &n->body, values.first) ? n : NULL;
}

static Node *parse_statement(Parser *p)
{
    const Token *t = look(p, 0);
    if (t->type != T_NAME) {
        unexpected(p, "the name of a tag");
        return NULL;
    }
    take(p);
    if (is_name(t, "for")) return parse_for(p, t->line);
    if (is_name(t, "if")) return parse_if(p, t->line);
    if (is_name(t, "set")) return parse_set(p, t->line);
    if (is_name(t, "macro")) return parse_macro(p, t->line);
    if (is_name(t, "call")) return parse_call_block(p, t->line);
    if (is_name(t, "with")) return parse_with(p, t->line);
    if (is_name(t, "print")) return parse_print(p, t->line);
    if (is_name(t, "break") || is_name(t, "continue")) {
        if (p->loops) {
            return node(p, is_name(t, "break") ? S_BREAK : S_CONTINUE, t->line, NULL, NULL, NULL);
        }
        parser_stop(p, t->line, "found '%.*s' outside of a loop", (int)t->len, t->bytes);
        return NULL;
    }
    int generation = is_name(t, "generation");
    if (generation || is_name(t, "filter")) {
        p->t->generation |= generation;
        Node *n = node(p, generation ? S_GENERATION : S_FILTER, t->line, NULL, NULL, NULL);
        if (!n) return NULL;
        if (!generation) {
            n->b = parse_filter(p, NULL);
            while (n->b && take_op(p, '|')) n->b = parse_filter(p, n->b);
            if (!n->b) return NULL;
        }
        return parse_nested(p, generation ? "endgeneration" : "endfilter", n) ? NULL : n;
    }
    parser_stop(p, t->line, "found the tag '%.*s', which does not exist here",
                t->len > 40 ? 40 : (int)t->len, t->bytes);
    return NULL;
}

/* Statements and text up to a tag with one of the names, which is the next token then; ends NULL:
 * up to the end of the template. */
static int parse_all(Parser *p, const char *const *ends, Node **body)
{
    Chain all = {0};
    for (;;) {
        const Token *t = look(p, 0);
        Node *n = NULL;
        if (t->type == T_END) {
            if (ends) return unexpected(p, ends[0]);
            break;
        }
        take(p);
        if (t->type == T_DATA) {
            n = text_constant(p, S_DATA, t->line, t->bytes, t->len);
        } else if (t->type == T_VARIABLE_BEGIN) {
            Node *value = parse_tuple(p, TUPLE_FULL, NULL, 0);
            if (!value) return -1;
            if (look(p, 0)->type != T_VARIABLE_END) return unexpected(p, "}}");
            take(p);
            n = node_of(p, S_OUTPUT, t->line, value);
        } else {
            for (size_t i = 0; ends && ends[i]; i++) {
                if (!is_name(look(p, 0), ends[i])) continue;
                *body = all.first;
                return 0;
            }
            n = parse_statement(p);
            if (!n || need_block_end(p)) return -1;
        }
        if (chain_add(&all, n)) return -1;
    }
    *body = all.first;
    return 0;
}

/* The body of n, into *slot (its body or other). */
static int parse_body(Parser *p, const char *const *ends, Node *n, Node **slot)
{
    Node *all = NULL;
    if (deeper(p)) return -1;
    take_op(p, ':');
    if (need_block_end(p) || parse_all(p, ends, &all)) return -1;
    p->nesting--;
    return adopt(p, n, slot, all);
}

/* The body of a tag that makes text of its own: loops outside of it cannot be left from inside. */
static int parse_nested(Parser *p, const char *end, Node *n)
{
    const char *const ends[] = {end, NULL};
    int loops = p->loops;
    p->loops = 0;
    if (parse_body(p, ends, n, &n->body)) return -1;
    p->loops = loops;
    take(p);
    return 0;
}

/* ---- the whole ----------------------------------------------------------------------------- */

Template *template_parse(const char *text, size_t len, const char *name, Err *e)
{
    Template *t = mem_calloc(1, sizeof *t, e);
    if (!t) return NULL;
    Parser p = {.t = t, .e = e};
    p.names = mem_calloc(NAME_ROWS, sizeof *p.names, e);
    t->name = pool_strndup(&t->pool, name, strlen(name), e);
    int failed = !p.names || !t->name || !(t->loop = intern(&p, "loop", 4)) ||
                 !(t->varargs = intern(&p, "varargs", 7)) ||
                 !(t->kwargs = intern(&p, "kwargs", 6)) || !(t->caller = intern(&p, "caller", 6));
    size_t bad = failed ? len : utf8_check(text, len);
    if (!failed && len > TEMPLATE_MAX_BYTES)
        failed =
            parser_stop(&p, 1, "the template has %zu bytes, more than %d", len, TEMPLATE_MAX_BYTES);
    if (!failed && bad < len) {
        size_t line, column;
        json_place(text, len, bad, &line, &column);
        failed = parser_stop(&p, (int)line, "found bytes that are no UTF-8");
    }
    failed =
        failed || parser_lex(&p, text, len) || parse_all(&p, NULL, &t->body) || find_unset(t, e);
    mem_free(p.tokens);
    mem_free(p.names);
    if (!failed) return t;
    template_free(t);
    return NULL;
}

void template_free(Template *t)
{
    if (!t) return;
    pool_free(&t->pool);
    mem_free(t);
}
