/* tokenizer_regex.c - regular expressions of pre-tokenizers, matched in time linear in the text.
 *
 * The parts of Oniguruma's language that published tokenizers use: alternatives, groups, (?i:...),
 * sets with ranges and Unicode categories, the quantifiers ? * + {n,m}, and looking one character
 * ahead. An expression becomes a small program (Thompson 1968; Pike's machine): all its threads
 * walk the text together, in the order of preference that backtracking has, so no text takes long.
 * What is not known is refused by name.
 */
#include "tokenizer_inner.h"
#include "tokenizer_unicode.h"

#include <string.h>

enum { PROGRAM_MAX = 4096, REPEAT_MAX = 64, DEPTH_MAX = 32 };
#define ALL_CLASSES ((1u << (UNICODE_SPACE + 1)) - 1)

/* ---- sets of characters -------------------------------------------------------------------- */

typedef struct {
    uint32_t low, high;
} Range;

/* Characters in a range, of a class, or of a class that is taken out (\P, \S); or all others. */
typedef struct {
    Range *ranges;
    size_t count, cap;
    unsigned classes; /* bit per UnicodeClass */
    int words, negated;
    unsigned char ascii[128]; /* set_has of the first characters, once the set is complete */
} Set;

typedef enum { OP_SET, OP_SPLIT, OP_JUMP, OP_AHEAD, OP_NOT_AHEAD, OP_LINE_END, OP_MATCH } Op;
typedef struct {
    Op op;
    size_t a, b; /* SET, AHEAD: which set; SPLIT: first choice, second; JUMP: where */
} Instruction;

struct Regex {
    Instruction *program;
    size_t count, cap;
    Set *sets;
    size_t n_sets, cap_sets;
};

static int set_find(const Set *s, uint32_t cp)
{
    int in = s->classes >> unicode_class(cp) & 1u;
    if (s->words && unicode_is_word(cp)) in = 1;
    for (size_t i = 0; i < s->count && !in; i++)
        in = cp >= s->ranges[i].low && cp <= s->ranges[i].high;
    return in != s->negated;
}

static int set_has(const Set *s, uint32_t cp)
{
    return cp < 128 ? s->ascii[cp] : set_find(s, cp);
}

/* ---- parsing ------------------------------------------------------------------------------- */

typedef struct {
    Regex *r;
    const char *text;
    size_t len, at;
    int any_case, depth;
    const char *why; /* what is not supported; NULL if memory is out */
    Err *e;
} Parser;

static int refuse(Parser *p, const char *why)
{
    if (!p->why) p->why = why;
    return -1;
}

static int is_next(const Parser *p, const char *text)
{
    size_t n = strlen(text);
    return p->len - p->at >= n && !memcmp(p->text + p->at, text, n);
}

static int skip(Parser *p, const char *text)
{
    int is = is_next(p, text);
    if (is) p->at += strlen(text);
    return is;
}

static int put_range(Parser *p, Set *s, uint32_t low, uint32_t high)
{
    if (mem_grow(&s->ranges, &s->cap, s->count, sizeof *s->ranges, p->e)) return -1;
    s->ranges[s->count++] = (Range){low, high};
    return 0;
}

/* A character by itself; with (?i: also what Unicode's simple folding makes equal to it. */
static int put_character(Parser *p, Set *s, uint32_t cp)
{
    if (put_range(p, s, cp, cp)) return -1;
    if (!p->any_case) return 0;
    if (cp >= 0x80) return refuse(p, "(?i:...) with a character beyond ASCII");
    uint32_t lower = cp >= 'A' && cp <= 'Z' ? cp + 32 : cp;
    if (lower < 'a' || lower > 'z') return 0;
    uint32_t more = lower == 's' ? 0x17F : lower == 'k' ? 0x212A : lower;
    return put_range(p, s, lower, lower) || put_range(p, s, lower - 32, lower - 32) ||
                   put_range(p, s, more, more)
               ? -1
               : 0;
}

/* \p{L} and its like: bits of the classes that a category is made of; 0 for an unknown one. */
static unsigned category(const char *name, size_t len)
{
    static const struct {
        const char *name;
        unsigned classes;
    } known[] = {
        {"L", 1u << UNICODE_UPPER | 1u << UNICODE_TITLE | 1u << UNICODE_LOWER |
                  1u << UNICODE_MODIFIER | 1u << UNICODE_LETTER},
        {"Lu", 1u << UNICODE_UPPER},
        {"Lt", 1u << UNICODE_TITLE},
        {"Ll", 1u << UNICODE_LOWER},
        {"Lm", 1u << UNICODE_MODIFIER},
        {"Lo", 1u << UNICODE_LETTER},
        {"M", 1u << UNICODE_MARK},
        {"N", 1u << UNICODE_DIGIT | 1u << UNICODE_NUMBER},
        {"Nd", 1u << UNICODE_DIGIT},
        {"P", 1u << UNICODE_PUNCTUATION},
        {"S", 1u << UNICODE_SYMBOL},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strlen(known[i].name) == len && !memcmp(known[i].name, name, len))
            return known[i].classes;
    return 0;
}

/* After \p or \P. */
static int parse_category(Parser *p, Set *s, int out)
{
    const char *end = p->at < p->len && p->text[p->at] == '{'
                          ? memchr(p->text + p->at, '}', p->len - p->at)
                          : NULL;
    if (!end) return refuse(p, "\\p without {...}");
    const char *name = p->text + p->at + 1;
    unsigned classes = category(name, (size_t)(end - name));
    if (!classes) return refuse(p, "a category other than L, Lu, Ll, Lt, Lm, Lo, M, N, Nd, P, S");
    p->at = (size_t)(end - p->text) + 1;
    s->classes |= out ? ALL_CLASSES & ~classes : classes;
    return 0;
}

/* After a backslash: a class of characters (returns 1), or one character, *cp (returns 0). */
static int parse_escape(Parser *p, Set *s, uint32_t *cp)
{
    if (p->at == p->len) return refuse(p, "a backslash at the end");
    char c = p->text[p->at++];
    switch (c) {
    case 'p':
    case 'P': return parse_category(p, s, c == 'P') ? -1 : 1;
    case 's': s->classes |= 1u << UNICODE_SPACE; return 1;
    case 'S': s->classes |= ALL_CLASSES & ~(1u << UNICODE_SPACE); return 1;
    case 'd': s->classes |= 1u << UNICODE_DIGIT; return 1;
    case 'D': s->classes |= ALL_CLASSES & ~(1u << UNICODE_DIGIT); return 1;
    case 'w': s->words = 1; return 1;
    case 'r': *cp = '\r'; return 0;
    case 'n': *cp = '\n'; return 0;
    case 't': *cp = '\t'; return 0;
    default: break;
    }
    if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'))
        return refuse(p, "an escape other than \\p \\P \\s \\S \\d \\D \\w \\r \\n \\t");
    *cp = (unsigned char)c;
    return (unsigned char)c < 0x80 ? 0 : refuse(p, "a backslash before a character beyond ASCII");
}

/* One end of a range, or a class: as parse_escape. */
static int parse_member(Parser *p, Set *s, uint32_t *cp)
{
    if (skip(p, "\\")) return parse_escape(p, s, cp);
    if (is_next(p, "[") || is_next(p, "&&")) return refuse(p, "a set within a set");
    *cp = utf8_next(p->text, &p->at);
    return 0;
}

/* After "[". */
static int parse_set(Parser *p, Set *s)
{
    s->negated = skip(p, "^");
    for (int first = 1; first || !is_next(p, "]"); first = 0) {
        uint32_t low, high;
        if (p->at == p->len) return refuse(p, "a set without its end");
        int class = parse_member(p, s, &low);
        if (class < 0) return -1;
        if (class) continue;
        if (!is_next(p, "-") || p->len - p->at < 2 || p->text[p->at + 1] == ']') {
            if (put_character(p, s, low)) return -1;
            continue;
        }
        p->at++;
        Set ignored = {0};
        if (parse_member(p, &ignored, &high)) return refuse(p, "a range that ends in a class");
        if (high < low || (p->any_case && low != high))
            return refuse(p, high < low ? "a range that ends before it begins"
                                        : "(?i:...) with a range");
        if (put_range(p, s, low, high)) return -1;
    }
    p->at++;
    return 0;
}

/* ---- the program --------------------------------------------------------------------------- */

static int emit(Parser *p, Op op, size_t a, size_t b)
{
    Regex *r = p->r;
    if (r->count == PROGRAM_MAX) return refuse(p, "an expression of this length");
    if (mem_grow(&r->program, &r->cap, r->count, sizeof *r->program, p->e)) return -1;
    r->program[r->count++] = (Instruction){op, a, b};
    return 0;
}

/* A new set, empty. */
static Set *new_set(Parser *p)
{
    Regex *r = p->r;
    if (mem_grow(&r->sets, &r->cap_sets, r->n_sets, sizeof *r->sets, p->e)) return NULL;
    r->sets[r->n_sets] = (Set){0};
    return &r->sets[r->n_sets++];
}

/* Makes room for one instruction at `at`; what is after it moves, and its jumps with it. */
static int insert(Parser *p, size_t at, Op op, size_t a, size_t b)
{
    if (emit(p, OP_JUMP, 0, 0)) return -1;
    Instruction *program = p->r->program;
    for (size_t i = p->r->count - 1; i > at; i--) {
        program[i] = program[i - 1];
        if (program[i].op == OP_SPLIT || program[i].op == OP_JUMP) {
            program[i].a += program[i].a >= at;
            program[i].b += program[i].b >= at;
        }
    }
    program[at] = (Instruction){op, a, b};
    return 0;
}

static int parse_alternatives(Parser *p);

/* (?!x) or (?=x): x is one set. */
static int parse_ahead(Parser *p, Op op)
{
    size_t begin = p->r->count;
    if (parse_alternatives(p)) return -1;
    if (!skip(p, ")")) return refuse(p, "a group without its end");
    if (p->r->count != begin + 1 || p->r->program[begin].op != OP_SET)
        return refuse(p, "looking ahead for more than one character");
    p->r->program[begin].op = op;
    return 0;
}

/* After "(". */
static int parse_group(Parser *p)
{
    if (p->depth == DEPTH_MAX) return refuse(p, "groups this deep");
    if (skip(p, "?!")) return parse_ahead(p, OP_NOT_AHEAD);
    if (skip(p, "?=")) return parse_ahead(p, OP_AHEAD);
    int any_case = p->any_case;
    if (skip(p, "?i:"))
        p->any_case = 1;
    else if (!skip(p, "?:") && is_next(p, "?"))
        return refuse(p, "a group other than (...), (?:...), (?i:...), (?!...), (?=...)");
    p->depth++;
    if (parse_alternatives(p)) return -1;
    p->depth--;
    p->any_case = any_case;
    return skip(p, ")") ? 0 : refuse(p, "a group without its end");
}

/* A character, a set, a group, or $. */
static int parse_atom(Parser *p)
{
    if (skip(p, "(")) return parse_group(p);
    if (skip(p, "$")) return emit(p, OP_LINE_END, 0, 0);
    if (is_next(p, "^")) return refuse(p, "^");
    if (is_next(p, "?") || is_next(p, "*") || is_next(p, "+") || is_next(p, "{"))
        return refuse(p, "a quantifier after nothing");
    Set *s = new_set(p);
    size_t number = p->r->n_sets - 1;
    uint32_t cp = 0;
    if (!s || emit(p, OP_SET, number, 0)) return -1;
    if (skip(p, "[")) return parse_set(p, s);
    if (skip(p, ".")) return s->negated = 1, put_range(p, s, '\n', '\n');
    int class = skip(p, "\\") ? parse_escape(p, s, &cp) : (cp = utf8_next(p->text, &p->at), 0);
    if (class < 0) return -1;
    return class ? 0 : put_character(p, s, cp);
}

/* {n}, {n,} or {n,m}: 1 with *least and *most, 0 if there is none. */
static int parse_count(Parser *p, size_t *least, size_t *most)
{
    size_t n[2] = {0, 0}, at = p->at + 1;
    int digits[2] = {0, 0}, k = 0;
    if (!is_next(p, "{")) return 0;
    for (; at < p->len && p->text[at] != '}'; at++) {
        char c = p->text[at];
        if (c == ',' && k == 0) {
            k = 1;
            continue;
        }
        if (c < '0' || c > '9' || n[k] > REPEAT_MAX) return refuse(p, "these braces");
        n[k] = n[k] * 10 + (size_t)(c - '0');
        digits[k] = 1;
    }
    if (at == p->len || !digits[0]) return refuse(p, "these braces");
    *least = n[0];
    *most = k == 0 ? n[0] : digits[1] ? n[1] : SIZE_MAX;
    p->at = at + 1;
    if (*most < *least || *least > REPEAT_MAX || (*most > REPEAT_MAX && *most != SIZE_MAX))
        return refuse(p, "more than 64 repetitions");
    return 1;
}

/* The atom that stands from `begin` on, once more at the end. */
static int copy_atom(Parser *p, const Instruction *atom, size_t count, size_t begin)
{
    size_t shift = p->r->count - begin;
    for (size_t i = 0; i < count; i++) {
        Instruction x = atom[i];
        int jumps = x.op == OP_SPLIT || x.op == OP_JUMP;
        if (emit(p, x.op, jumps ? x.a + shift : x.a, jumps ? x.b + shift : x.b)) return -1;
    }
    return 0;
}

/* Can this stretch of the program match nothing? Looks at what is reached without a character. */
static int can_be_empty(const Regex *r, size_t begin, size_t end)
{
    unsigned char seen[PROGRAM_MAX + 1] = {0};
    seen[begin] = 1;
    for (int changed = 1; changed;) { /* jumps may go back */
        changed = 0;
        for (size_t i = begin; i < end; i++) {
            const Instruction *x = &r->program[i];
            size_t to[2] = {i + 1, i + 1};
            if (!seen[i] || x->op == OP_SET) continue;
            if (x->op == OP_SPLIT || x->op == OP_JUMP) to[0] = x->a, to[1] = x->b;
            if (x->op == OP_JUMP) to[1] = x->a;
            for (int k = 0; k < 2; k++)
                if (!seen[to[k]]) seen[to[k]] = 1, changed = 1;
        }
    }
    return seen[end];
}

/* x{least,most}: x least times, then x? up to the most, or x*. */
static int repeat(Parser *p, size_t begin, size_t least, size_t most)
{
    Regex *r = p->r;
    size_t count = r->count - begin, more = most == SIZE_MAX ? 1 : most - least;
    Instruction atom[PROGRAM_MAX];
    if (can_be_empty(r, begin, r->count)) return refuse(p, "repeating what can be empty");
    memcpy(atom, r->program + begin, count * sizeof *atom);
    r->count = begin;
    for (size_t i = 0; i < least; i++)
        if (copy_atom(p, atom, count, begin)) return -1;
    size_t end = r->count + more * (count + 1) + (most == SIZE_MAX);
    for (size_t i = 0; i < more; i++) {
        size_t split = r->count;
        if (emit(p, OP_SPLIT, split + 1, end) || copy_atom(p, atom, count, begin)) return -1;
        if (most == SIZE_MAX && emit(p, OP_JUMP, split, 0)) return -1;
    }
    return 0;
}

static int parse_quantified(Parser *p)
{
    size_t begin = p->r->count, least = 0, most = SIZE_MAX;
    if (parse_atom(p)) return -1;
    int counted = parse_count(p, &least, &most);
    if (counted < 0) return -1;
    if (!counted) {
        if (skip(p, "?"))
            most = 1;
        else if (skip(p, "+"))
            least = 1;
        else if (!skip(p, "*"))
            return 0;
    }
    if (is_next(p, "?") || is_next(p, "+") || is_next(p, "*"))
        return refuse(p, "a lazy or possessive quantifier");
    return repeat(p, begin, least, most);
}

static int parse_alternatives(Parser *p)
{
    size_t begin = p->r->count, ends[REPEAT_MAX], n = 0;
    for (;;) {
        while (p->at < p->len && !is_next(p, "|") && !is_next(p, ")"))
            if (parse_quantified(p)) return -1;
        if (!skip(p, "|")) break;
        if (n == REPEAT_MAX) return refuse(p, "more than 64 alternatives");
        if (insert(p, begin, OP_SPLIT, begin + 1, 0)) return -1;
        for (size_t i = 0; i < n; i++) ends[i] += ends[i] >= begin;
        ends[n++] = p->r->count;
        if (emit(p, OP_JUMP, 0, 0)) return -1;
        p->r->program[begin].b = p->r->count;
        begin = p->r->count;
    }
    for (size_t i = 0; i < n; i++) p->r->program[ends[i]].a = p->r->count;
    return 0;
}

void regex_free(Regex *r)
{
    if (!r) return;
    for (size_t i = 0; i < r->n_sets; i++) mem_free(r->sets[i].ranges);
    mem_free(r->sets);
    mem_free(r->program);
    mem_free(r);
}

Regex *regex_parse(const char *text, size_t len, const char **why, Err *e)
{
    Parser p = {.text = text, .len = len, .e = e};
    *why = NULL;
    p.r = mem_calloc(1, sizeof *p.r, e);
    if (!p.r) return NULL;
    int bad = parse_alternatives(&p) || (p.at < len && refuse(&p, "an unmatched )"));
    if (!bad && can_be_empty(p.r, 0, p.r->count))
        bad = refuse(&p, "an expression that can be empty");
    for (size_t i = 0; i < p.r->n_sets; i++)
        for (uint32_t cp = 0; cp < 128; cp++)
            p.r->sets[i].ascii[cp] = (unsigned char)set_find(&p.r->sets[i], cp);
    if (!bad && !emit(&p, OP_MATCH, 0, 0)) return p.r;
    *why = p.why;
    regex_free(p.r);
    return NULL;
}

/* ---- matching ------------------------------------------------------------------------------ */

/* Threads in order of preference: where each is in the program, and where its match began. */
typedef struct {
    size_t *pc, *start, count;
} Threads;

struct RegexWork {
    Threads now, next;
    size_t *mark, *stack, turn; /* mark[pc] = turn: it is in the list */
};

RegexWork *regex_work(const Regex *r, Err *e)
{
    size_t n = r->count, lists = 7; /* each instruction pushes at most two more on the stack */
    RegexWork *w = mem_calloc(1, sizeof *w, e);
    size_t *block = w ? mem_calloc(lists * n + 1, sizeof *block, e) : NULL;
    if (!block) return mem_free(w), NULL;
    w->now.pc = block;
    w->now.start = block + n;
    w->next.pc = block + 2 * n;
    w->next.start = block + 3 * n;
    w->mark = block + 4 * n;
    w->stack = block + 5 * n;
    return w;
}

void regex_work_free(RegexWork *w)
{
    if (!w) return;
    mem_free(w->now.pc < w->next.pc ? w->now.pc : w->next.pc);
    mem_free(w);
}

/* Does an assertion hold in front of text[at]? */
static int holds(const Regex *r, const Instruction *x, const char *text, size_t len, size_t at)
{
    size_t next = at;
    if (x->op == OP_LINE_END) return at == len || text[at] == '\n';
    int is = at < len && set_has(&r->sets[x->a], utf8_next(text, &next));
    return is == (x->op == OP_AHEAD);
}

/* Adds a thread, and follows it to where it needs a character. Each instruction is followed once;
 * preference is kept because the second choice waits on the stack below the first. */
static void add(const Regex *r, RegexWork *w, Threads *t, size_t pc, size_t start, const char *text,
                size_t len, size_t at)
{
    size_t depth = 0;
    w->stack[depth++] = pc;
    while (depth) {
        pc = w->stack[--depth];
        if (w->mark[pc] == w->turn) continue;
        w->mark[pc] = w->turn;
        const Instruction *x = &r->program[pc];
        switch (x->op) {
        case OP_JUMP: w->stack[depth++] = x->a; break;
        case OP_SPLIT:
            w->stack[depth++] = x->b;
            w->stack[depth++] = x->a;
            break;
        case OP_AHEAD:
        case OP_NOT_AHEAD:
        case OP_LINE_END:
            if (holds(r, x, text, len, at)) w->stack[depth++] = pc + 1;
            break;
        case OP_SET:
        case OP_MATCH:
            t->pc[t->count] = pc;
            t->start[t->count++] = start;
            break;
        }
    }
}

int regex_find(const Regex *r, RegexWork *w, const char *text, size_t len, size_t from,
               size_t *begin, size_t *end)
{
    int found = 0;
    w->now.count = 0;
    w->turn++;
    for (size_t at = from, next;; at = next) {
        if (!found) add(r, w, &w->now, 0, at, text, len, at); /* a later start is liked less */
        if (!w->now.count && found) return 1;
        uint32_t cp = 0;
        next = at;
        if (at < len) cp = utf8_next(text, &next);
        w->turn++;
        w->next.count = 0;
        for (size_t i = 0; i < w->now.count; i++) {
            const Instruction *x = &r->program[w->now.pc[i]];
            if (x->op == OP_MATCH) { /* better than all threads after it */
                found = 1;
                *begin = w->now.start[i];
                *end = at;
                break;
            }
            if (at < len && set_has(&r->sets[x->a], cp))
                add(r, w, &w->next, w->now.pc[i] + 1, w->now.start[i], text, len, next);
        }
        Threads swap = w->now;
        w->now = w->next;
        w->next = swap;
        if (at == len) return found;
    }
}
