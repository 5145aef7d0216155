/* lora_pattern.c - Python's regular expressions, as far as names of modules need them.
 *
 * PEFT picks modules by re.fullmatch. Here are literals, classes, groups, alternatives, greedy and
 * lazy repetitions, anchors, word borders, and looking ahead and back. What is left out (references
 * back, atomic groups, flags but (?i) at the beginning) is never guessed at: such an expression is
 * said to be unreadable. A match tries every way, as Python's does, up to a number of steps.
 */
#include "lora_parts.h"

#include <ctype.h>
#include <string.h>

enum {
    PATTERN_MOST = 512,  /* bytes of an expression */
    DEPTH_MOST = 32,     /* groups in groups */
    COUNT_MOST = 1000,   /* of {m,n} */
    STEPS_MOST = 200000, /* of a match */
    FRAMES_MOST = 2000,  /* ways that are open at one time */
    UNBOUNDED = 1 << 20
};

typedef enum { CHARACTERS, GROUP, AHEAD, BEHIND, BEGINNING, END, LAST_END, BORDER } Kind;

/* A piece of a sequence, repeated least .. most times. */
typedef struct Piece Piece;
struct Piece {
    Kind kind;
    int negative; /* AHEAD, BEHIND, BORDER */
    int lazy;
    size_t least, most;
    unsigned char set[32]; /* CHARACTERS: a bit each */
    Piece *next;           /* in its sequence */
    Piece *inner;          /* a group's first alternative; an alternative's first piece */
    Piece *other;          /* the alternative after this one */
};

typedef struct {
    const unsigned char *at, *end;
    Piece pieces[2 * PATTERN_MOST + 2];
    size_t n;
    int fold; /* (?i) */
    size_t depth;
} Parser;

/* ---- reading an expression ----------------------------------------------------------------- */

static Piece *piece_new(Parser *p, Kind kind)
{
    Piece *x = p->n < sizeof p->pieces / sizeof *p->pieces ? &p->pieces[p->n++] : NULL;
    if (x) *x = (Piece){.kind = kind, .least = 1, .most = 1};
    return x;
}

static int has(const unsigned char *set, int c)
{
    return set[c >> 3] >> (c & 7) & 1;
}

static void add(const Parser *p, unsigned char *set, int c)
{
    set[c >> 3] |= (unsigned char)(1u << (c & 7));
    if (p->fold && isalpha(c)) c = islower(c) ? toupper(c) : tolower(c);
    set[c >> 3] |= (unsigned char)(1u << (c & 7));
}

static int is_word_byte(int c)
{
    return isalnum(c) || c == '_';
}

/* Adds \d \w \s or what they leave out. 0 where c names no class. */
static int add_class(const Parser *p, unsigned char *set, int c)
{
    int name = tolower(c);
    if (name != 'd' && name != 'w' && name != 's') return 0;
    for (int i = 0; i < 128; i++) {
        int in = name == 'd' ? isdigit(i) != 0 : name == 'w' ? is_word_byte(i) : isspace(i) != 0;
        if (in == !isupper(c)) add(p, set, i);
    }
    return 1;
}

/* The character behind a backslash that stands for itself or for a control character; -1 = none. */
static int escaped(int c)
{
    static const char names[] = "tnrfva", values[] = "\t\n\r\f\v\a";
    const char *at = c ? strchr(names, c) : NULL;
    if (at) return values[at - names];
    return c < 128 && ispunct(c) ? c : -1;
}

/* A character between brackets; -1 where it is none that is known. A class of its own: *c = -1. */
static int parse_member(Parser *p, Piece *x, int *c)
{
    if (p->at == p->end || *p->at >= 128) return -1;
    *c = *p->at++;
    if (*c != '\\') return 0;
    if (p->at == p->end) return -1;
    int name = *p->at++;
    if (add_class(p, x->set, name))
        *c = -1;
    else if ((*c = name == 'b' ? '\b' : escaped(name)) < 0)
        return -1;
    return 0;
}

/* Behind '[' */
static int parse_set(Parser *p, Piece *x)
{
    int negative = p->at < p->end && *p->at == '^', first, last;
    p->at += negative;
    for (int i = 0; p->at < p->end && (*p->at != ']' || !i); i++) {
        if (parse_member(p, x, &first)) return -1;
        int range = first >= 0 && p->end - p->at >= 2 && p->at[0] == '-' && p->at[1] != ']';
        last = first;
        if (range) {
            p->at++;
            if (parse_member(p, x, &last) || last < first) return -1;
        }
        for (int c = first; first >= 0 && c <= last; c++) add(p, x->set, c);
    }
    if (p->at == p->end) return -1;
    p->at++;
    for (int i = 0; i < 32 && negative; i++) x->set[i] = (unsigned char)~x->set[i];
    return 0;
}

static int parse_alternatives(Parser *p, Piece **first);

/* Behind '(': what kind of group it is. */
static int parse_group_kind(Parser *p, Piece *x)
{
    static const struct {
        const char *text;
        Kind kind;
        int negative;
    } kinds[] = {{"?:", GROUP, 0},
                 {"?=", AHEAD, 0},
                 {"?!", AHEAD, 1},
                 {"?<=", BEHIND, 0},
                 {"?<!", BEHIND, 1}};
    size_t left = (size_t)(p->end - p->at);
    if (!left || *p->at != '?') return 0;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        size_t len = strlen(kinds[i].text);
        if (left < len || memcmp(p->at, kinds[i].text, len)) continue;
        x->kind = kinds[i].kind;
        x->negative = kinds[i].negative;
        p->at += len;
        return 0;
    }
    if (left < 4 || memcmp(p->at, "?P<", 3)) return -1;
    p->at += 3;
    while (p->at < p->end && is_word_byte(*p->at)) p->at++;
    return p->at < p->end && *p->at++ == '>' ? 0 : -1;
}

static int parse_group(Parser *p, Piece *x)
{
    if (++p->depth > DEPTH_MOST || parse_group_kind(p, x) || parse_alternatives(p, &x->inner))
        return -1;
    p->depth--;
    return p->at < p->end && *p->at++ == ')' ? 0 : -1;
}

/* Behind a backslash, outside a class. */
static int parse_escape(Parser *p, Piece *x)
{
    if (p->at == p->end) return -1;
    int name = *p->at++, c;
    if (name == 'A' || name == 'Z')
        x->kind = name == 'A' ? BEGINNING : LAST_END;
    else if (name == 'b' || name == 'B')
        x->kind = BORDER, x->negative = name == 'B';
    else if (!add_class(p, x->set, name)) {
        if ((c = escaped(name)) < 0) return -1;
        add(p, x->set, c);
    }
    return 0;
}

/* A number of {m,n}; *value stays where there is none. */
static void parse_number(const unsigned char **at, const unsigned char *end, size_t *value)
{
    if (*at < end && isdigit(**at)) *value = 0;
    for (; *at < end && isdigit(**at); ++*at)
        if (*value <= COUNT_MOST) *value = 10 * *value + (size_t)(**at - '0');
}

/* {m} {m,} {,n} {m,n}; what is none of these is a brace that stands for itself. */
static int parse_count(Parser *p, Piece *x)
{
    const unsigned char *at = p->at + 1, *digits = at;
    size_t least = 0, most = UNBOUNDED;
    parse_number(&at, p->end, &least);
    if (at == p->end || (*at == '}' && at == digits)) return 0;
    if (*at == ',')
        at++, parse_number(&at, p->end, &most);
    else
        most = least;
    if (at == p->end || *at != '}') return 0;
    if (least > COUNT_MOST || (most > COUNT_MOST && most != UNBOUNDED) || most < least) return -1;
    x->least = least;
    x->most = most;
    p->at = at + 1;
    return 1;
}

static int parse_atom(Parser *p, Piece *x)
{
    int c = *p->at;
    Piece nothing;
    if (c == '{' && parse_count(p, &nothing)) return -1; /* repeats nothing */
    p->at++;
    if (c == '(') return x->kind = GROUP, parse_group(p, x);
    if (c == '[') return parse_set(p, x);
    if (c == '\\') return parse_escape(p, x);
    if (c >= 128 || strchr("*+?", c)) return -1;
    if (c == '^')
        x->kind = BEGINNING;
    else if (c == '$')
        x->kind = END;
    else if (c != '.')
        add(p, x->set, c);
    for (int i = 0; c == '.' && i < 256; i++)
        if (i != '\n') x->set[i >> 3] |= (unsigned char)(1u << (i & 7));
    return 0;
}

static int parse_repetition(Parser *p, Piece *x)
{
    int c = p->at < p->end ? *p->at : 0, found = 1;
    if (c == '*' || c == '+' || c == '?') {
        x->least = c == '+';
        x->most = c == '?' ? 1 : UNBOUNDED;
        p->at++;
    } else
        found = c == '{' ? parse_count(p, x) : 0;
    if (found <= 0) return found;
    if (x->kind != CHARACTERS && x->kind != GROUP) return -1;
    if (p->at < p->end && *p->at == '?') x->lazy = 1, p->at++;
    return p->at < p->end && strchr("*+?", *p->at) ? -1 : 0; /* twice, or possessive */
}

/* Sequences with | between them, up to a ')' or the end. */
static int parse_alternatives(Parser *p, Piece **first)
{
    for (;; first = &(*first)->other, p->at++) {
        Piece **last = (*first = piece_new(p, GROUP)) ? &(*first)->inner : NULL;
        while (last && p->at < p->end && *p->at != '|' && *p->at != ')') {
            Piece *x = *last = piece_new(p, CHARACTERS);
            if (!x || parse_atom(p, x) || parse_repetition(p, x)) return -1;
            last = &x->next;
        }
        if (!last) return -1;
        if (p->at == p->end || *p->at == ')') return 0;
    }
}

/* ---- matching ------------------------------------------------------------------------------ */

typedef struct {
    const char *text, *end;
    size_t steps, frames;
    int gave_up;
} Matcher;

/* What is to come behind the sequence at hand: more of a piece, and what follows it. */
typedef struct Rest Rest;
struct Rest {
    const Piece *piece; /* NULL: the match ends here, at `from` where that is set */
    size_t count;       /* of the piece, matched */
    const char *from;   /* where the last of them began */
    const Rest *rest;
};

static int match_repeat(Matcher *m, const Piece *x, size_t count, const char *from, const char *at,
                        const Rest *rest);

static int match_sequence(Matcher *m, const Piece *x, const char *at, const Rest *rest)
{
    if (x) return match_repeat(m, x, 0, NULL, at, rest);
    if (rest->piece) return match_repeat(m, rest->piece, rest->count, rest->from, at, rest->rest);
    return !rest->from || rest->from == at;
}

static int match_alternatives(Matcher *m, const Piece *first, const char *at, const Rest *rest)
{
    for (; first; first = first->other)
        if (match_sequence(m, first->inner, at, rest)) return 1;
    return 0;
}

/* Does what lies ahead of, or behind, this place match? */
static int look(Matcher *m, const Piece *x, const char *at)
{
    Rest anywhere = {0}, here = {.from = at};
    if (x->kind == AHEAD) return match_alternatives(m, x->inner, at, &anywhere);
    for (const char *from = at;; from--) {
        if (match_alternatives(m, x->inner, from, &here)) return 1;
        if (from == m->text) return 0;
    }
}

static int is_border(const Matcher *m, const char *at)
{
    int before = at > m->text && is_word_byte((unsigned char)at[-1]);
    int behind = at < m->end && is_word_byte((unsigned char)*at);
    return before != behind;
}

/* The piece once, and the rest. */
static int match_once(Matcher *m, const Piece *x, const char *at, const Rest *rest)
{
    int holds;
    if (x->kind == GROUP) return match_alternatives(m, x->inner, at, rest);
    if (x->kind == CHARACTERS)
        return at < m->end && has(x->set, (unsigned char)*at) &&
               match_sequence(m, NULL, at + 1, rest);
    if (x->kind == BEGINNING)
        holds = at == m->text;
    else if (x->kind == LAST_END)
        holds = at == m->end;
    else if (x->kind == END)
        holds = at == m->end || (at + 1 == m->end && *at == '\n');
    else if (x->kind == BORDER)
        holds = is_border(m, at) != x->negative;
    else
        holds = look(m, x, at) != x->negative;
    return holds && match_sequence(m, NULL, at, rest);
}

/* The piece, `count` of which are matched, as often as it may be, and the rest. */
static int match_repeat(Matcher *m, const Piece *x, size_t count, const char *from, const char *at,
                        const Rest *rest)
{
    Rest again = {x, count + 1, at, rest};
    if (m->gave_up || m->steps++ == STEPS_MOST || m->frames == FRAMES_MOST)
        return m->gave_up = 1, 0;
    m->frames++;
    int found = 0, more = count < x->most && (count < x->least || from != at);
    if (x->lazy && count >= x->least) found = match_sequence(m, x->next, at, rest);
    if (!found && more) found = match_once(m, x, at, &again);
    if (!found && !x->lazy && count >= x->least) found = match_sequence(m, x->next, at, rest);
    m->frames--;
    return found && !m->gave_up;
}

int lora_pattern_matches(const char *pattern, size_t len, int ending, const char *name)
{
    Parser p = {.at = (const unsigned char *)pattern, .end = (const unsigned char *)pattern + len};
    Piece *first;
    if (len > PATTERN_MOST) return -1;
    if (len >= 4 && !ending && !memcmp(pattern, "(?i)", 4)) p.fold = 1, p.at += 4;
    if (parse_alternatives(&p, &first) || p.at < p.end) return -1;
    for (const char *at = name; at; at = ending ? strchr(at, '.') : NULL) {
        at += at > name; /* behind the dot */
        Matcher m = {.text = name, .end = name + strlen(name)};
        Rest end = {.from = m.end};
        if (match_alternatives(&m, first, at, &end)) return 1;
        if (m.gave_up) return -1;
    }
    return 0;
}
