/* template_parts.h - what the files of the template room share: values, the tree, a rendering. */
#ifndef ALIGN_TEMPLATE_PARTS_H
#define ALIGN_TEMPLATE_PARTS_H

#include "template.h"

/* ---- values -------------------------------------------------------------------------------- */

typedef enum {
    V_MISSING, /* an argument that was not given */
    V_UNDEFINED,
    V_NONE,
    V_BOOL,
    V_INT,
    V_FLOAT,
    V_STRING,
    V_LIST,
    V_TUPLE,
    V_DICT,
    V_NAMESPACE,
    V_RANGE,
    V_VIEW,     /* dict.keys(), .values(), .items() */
    V_ITERATOR, /* a generator: can be walked once */
    V_LOOP,
    V_MACRO,
    V_METHOD,  /* of a string, list or dict, bound to it */
    V_FUNCTION /* a global */
} Kind;

/* A string never changes. marks[i] = 1: byte i is of a message (NULL: none is). */
typedef struct {
    const char *bytes;
    const char *marks;
    size_t len, chars;
} Str;

typedef struct Value Value;
typedef struct List List;
typedef struct Dict Dict;
typedef struct Iter Iter;
typedef struct Loop Loop;
typedef struct Macro Macro;
typedef struct Method Method;
typedef struct Node Node;
typedef struct Scope Scope;
typedef struct Run Run;

typedef struct {
    int64_t start, stop, step;
    size_t len;
} Range;

typedef struct {
    const Dict *dict;
    char part; /* 'k', 'v' or 'i' */
} View;

struct Value {
    Kind kind;
    int safe; /* a string that was marked safe (Markup), which escapes what is added to it */
    union {
        int64_t i; /* V_INT, V_BOOL; V_FUNCTION: which */
        double f;
        const Str *s;
        const List *list;
        Dict *dict; /* V_DICT, V_NAMESPACE */
        const Range *range;
        const View *view;
        Iter *iter;
        Loop *loop;
        const Macro *macro;
        const Method *method;
        const char *name; /* V_UNDEFINED: of what, or NULL */
    } u;
};

struct List {
    Value *items;
    size_t len, cap;
};

typedef struct {
    Value key, value;
} Entry;

struct Dict {
    Entry *items;
    size_t len, cap;
};

typedef struct {
    const char *name;
    Value value;
} Keyword;

typedef struct {
    Value *items;
    size_t count;
    Keyword *keywords;
    size_t keyword_count;
} Args;

/* ---- the tree ------------------------------------------------------------------------------ */

typedef enum {
    N_CONST,
    N_NAME,
    N_LIST,
    N_TUPLE,
    N_DICT, /* body: keys and values in turn */
    N_ATTRIBUTE,
    N_ITEM,
    N_SLICE,
    N_CALL,
    N_FILTER,
    N_TEST,
    N_NOT,
    N_NEGATE,
    N_PLUS,
    N_AND,
    N_OR,
    N_BINARY,
    N_COMPARE, /* a, then in body: operands with their operators */
    N_CONCAT,
    N_TERNARY, /* a if b else c */
    N_KEYWORD, /* of a call: name = a; a pair of a namespace target */
    N_STAR,
    N_STAR_STAR,
    N_FIELD, /* target: name.attribute */
    N_PARAMETER,
    S_DATA,
    S_OUTPUT,
    S_IF, /* body: branches */
    S_BRANCH,
    S_FOR,
    S_SET,
    S_SET_BLOCK,
    S_MACRO,
    S_CALL,
    S_FILTER,
    S_WITH,
    S_GENERATION,
    S_BREAK,
    S_CONTINUE
} NodeKind;

/* What the body of a macro asks for (its op). */
enum { MACRO_VARARGS = 1, MACRO_KWARGS = 2, MACRO_CALLER = 4 };

struct Node {
    NodeKind kind;
    int op;   /* operator: one character, or two as first << 8 | second; flags of macros */
    int line;
    int nesting;       /* of the tree below */
    const char *name;  /* interned: equal names are one pointer */
    const char *field; /* N_FIELD */
    Value value;       /* N_CONST, S_DATA */
    const void *entry; /* N_FILTER, N_TEST: its row in the table */
    Node *a, *b, *c;
    Node *body, *other; /* lists: statements, items; else-branch, arguments */
    Node *next;         /* in the list that this node is in */
    /* Names that are undefined in its body, and in its else branch, until they are set there; then
     * NULL. NULL: none is. */
    const char **unset, **unset_other;
};

struct Template {
    Pool pool;
    char *name; /* for messages */
    Node *body;
    const char **unset; /* as in Node */
    int generation;     /* has the tag */
    const char *loop, *varargs, *kwargs, *caller; /* interned */
};

/* ---- a rendering --------------------------------------------------------------------------- */

typedef struct Variable Variable;
struct Variable {
    const char *name;
    Value value;
    Variable *next;
};

struct Scope {
    Scope *parent;
    Variable *first;
};

/* Text being made, in the pool of the rendering, with the marks of its bytes. */
typedef struct {
    char *bytes, *marks;
    size_t len, cap;
} Builder;

struct Run {
    const Template *t;
    Pool pool;
    Dict *variables;
    Scope *scope;
    Builder *out;  /* what is written to now */
    Builder *root; /* the whole output */
    TemplateOutput *result;
    const TemplateTime *now;
    size_t steps, depth;
    int line;
    Err *e;
};

struct Macro {
    const Node *node; /* S_MACRO or S_CALL */
    Scope *scope;     /* where it was defined */
};

struct Method {
    Value self;
    const void *entry;
};

/* Of one `for`: the item at hand, the one before, and the one behind where it was looked at. */
struct Loop {
    const Node *node;
    Scope *outside;
    Iter *iter;
    Value source; /* what is walked */
    Value before, now, after;
    int has_after;
    size_t index0;
    size_t total; /* items, where total_known */
    int total_known;
    int drained; /* what is left was walked ahead of time, and has passed the filter */
    int (*peek)(Run *r, Loop *l);             /* fills after: 1, 0 at the end, -1 */
    int (*count)(Run *r, Loop *l, size_t *n); /* of all items */
    Value changed; /* what loop.changed was called with last, or V_MISSING */
};

/* template_value.c */
int fail(Run *r, const char *fmt, ...) PRINTF_LIKE(2, 3);
int charge(Run *r, size_t steps);
int enter(Run *r);
void leave(Run *r);
void *run_alloc(Run *r, size_t count, size_t size);
const char *kind_name(Value v);

Value v_none(void);
Value v_bool(int b);
Value v_int(int64_t i);
Value v_float(double f);
Value v_undefined(const char *name);
Value v_list(const List *l);
int v_text(Run *r, const char *bytes, size_t len, Value *out);
int v_pair(Run *r, Value a, Value b, Value *out);

int build(Run *r, Builder *b, const char *bytes, size_t len, const char *marks);
int build_str(Run *r, Builder *b, const Str *s);
int build_text(Run *r, Builder *b, const char *text);
int build_code(Run *r, Builder *b, uint32_t code, char mark);
int build_end(Run *r, Builder *b, Value *out);
int str_slice(Run *r, const Str *s, size_t from, size_t to, Value *out); /* bytes */
size_t str_offset(const Str *s, size_t chars);
int str_is(Value v, const char *text);

int list_add(Run *r, List *l, Value v);
const Value *dict_get(Run *r, const Dict *d, Value key, int *failed);
const Value *dict_find(const Dict *d, const char *key);
int dict_set(Run *r, Dict *d, Value key, Value value);
int dict_put(Run *r, Dict *d, const char *key, Value value);
int hashable(Run *r, Value key);

int truth(Run *r, Value v);
int equal(Run *r, Value a, Value b);                   /* 1, 0, -1 */
int order(Run *r, Value a, Value b, int op, int *yes); /* op: '<', '>', '<='... */
int sort_values(Run *r, Value *items, Value *keys, size_t n, int reverse);
int length(Run *r, Value v, size_t *len);
int put_str(Run *r, Builder *b, Value v);
int put_repr(Run *r, Builder *b, Value v);
int to_str(Run *r, Value v, const Str **out);
int soft_str(Run *r, Value v, Value *out);
int escaped(Run *r, Value v, const Str **out);
int binary(Run *r, int op, Value a, Value b, Value *out);
int from_json(Run *r, const Json *j, int mark, Value *out);
int put_json(Run *r, Builder *b, Value v, const char *indent, const char *comma,
             const char *colon, int ascii, int sort, size_t level);

/* template_names.c */
int find_unset(Template *t, Err *e); /* fills `unset` everywhere */

/* template_text.c */
typedef enum { CASE_UPPER, CASE_LOWER, CASE_TITLE } Case;
int change_case(Run *r, Builder *b, const Str *s, size_t from, size_t to, Case how);
int str_strip(Run *r, Value v, Value chars, int left, int right, Value *out);
int str_replace(Run *r, const Str *s, const Str *old, const Str *fresh, int64_t count,
                Value *out);
int charge_find(Run *r, const Str *s, const Str *what);
size_t str_find(const Str *s, const Str *what, size_t from); /* (size_t)-1: nowhere */
int is_cased(uint32_t code);
int str_lines(Run *r, Value v, int keep, List **out);
size_t space_step(const char *bytes, size_t len);
size_t space_before(const char *bytes, size_t len); /* bytes of the space that ends the text */
int percent(Run *r, Value format, Value args, Value *out);
int to_int(Run *r, Value v, int64_t base, int64_t *out); /* 0; 1: not a number; -1 */
int to_float(Run *r, Value v, double *out);          /* the same */

/* template_unicode.c */
int is_printable(uint32_t code);
size_t case_map(uint32_t code, Case how, uint32_t out[3]);

/* template_iter.c */
typedef enum { I_LIST, I_REVERSED, I_DICT, I_TEXT, I_RANGE, I_BATCH, I_PICK } IterKind;

struct Iter {
    IterKind kind;
    size_t at;
    const List *list;
    const Dict *dict;
    char part; /* of the dict's entries, as in View */
    Value text;
    const Range *range;
    Iter *inner; /* of the source; opened when the first item is asked for */
    Value source, fill;
    size_t width;
    /* map, select, ...: the item that v becomes, and whether it is kept */
    int (*pick)(Run *r, Iter *it, Value v, Value *out, int *keep);
    int only_true; /* a source that is not true has no items, whatever it is */
    int reject, by_attribute;
    List seen; /* of unique */
    Args args;
};
int iter_open(Run *r, Value v, Iter **out);
int iter_next(Run *r, Iter *it, Value *out); /* 1, 0 at the end, -1 */
int iterable(Value v);
int list_of(Run *r, Value v, List **out);
int contains(Run *r, Value in, Value v);

/* template_methods.c */
int bind_args(Run *r, const char *what, const char *spec, size_t least, const Args *a,
              Value *out);
int method_call(Run *r, const Method *m, const Args *a, Value *out);
int get_item(Run *r, Value v, Value key, Value *out);
int get_slice(Run *r, Value v, const Value part[3], Value *out);
int get_attribute(Run *r, Value v, const char *name, size_t len, Value *out);

/* template_filters.c */
const void *filter_find(const char *name);
const void *test_find(const char *name);
int filter_call(Run *r, const void *entry, Value v, const Args *a, Value *out);
int test_call(Run *r, const void *entry, Value v, const Args *a); /* 1, 0, -1 */

#endif
