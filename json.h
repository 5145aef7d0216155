/* json.h - JSON in and out (RFC 8259), for configurations, tokenizers, headers and rows.
 *
 * The reader is strict and iterative: UTF-8 only, no NaN, no comments, at most JSON_MAX_DEPTH
 * levels, integers never pass through a double. Every value has its byte offset, so that errors can
 * name a place.
 */
#ifndef ALIGN_JSON_H
#define ALIGN_JSON_H

#include "base.h"

#define JSON_MAX_DEPTH 64

typedef enum {
    JSON_NULL,
    JSON_FALSE,
    JSON_TRUE,
    JSON_NUMBER,
    JSON_STRING,
    JSON_ARRAY,
    JSON_OBJECT
} JsonType;

typedef struct Json Json;
struct Json {
    JsonType type;
    size_t at;        /* byte offset in the source */
    const char *text; /* string: decoded UTF-8, 0-terminated (may hold 0 bytes: use len);
                       * number: its source spelling */
    size_t len;       /* bytes of text; number of members for arrays and objects */
    const char *key;  /* member of an object: decoded key, else NULL */
    size_t key_len;
    Json *child, *next; /* first member; next sibling */
};

enum {
    JSON_ALLOW_DUPLICATES = 1, /* last one wins in json_get; default: error */
    JSON_ALLOW_BOM = 2,        /* skip a UTF-8 byte order mark */
    JSON_ONE_LINE = 4          /* `name` already has the line: messages add only the column */
};

/* Parses one whole document. `name` is for messages ("config.json", "rows.jsonl:17"); errors are
 * ERR_DATA in the form  name:line:column: found X, expected Y.  Strings and nodes live in *pool.
 * Duplicate keys are found in O(n log n). */
Json *json_parse(Pool *pool, const char *bytes, size_t len, const char *name, int flags, Err *e);

/* The members of one large top-level object, one after another, so that the caller can free or
 * reset the pool in between: a header of 100 MB needs memory for one member at a time. The caller
 * must check for duplicate names among these members. Start with {bytes, len, name, flags}. */
typedef struct {
    const char *bytes;
    size_t len;
    const char *name;
    int flags;
    size_t at; /* where the next member is looked for */
    int begun, done;
} JsonMembers;
/* 1 with *member (key and value, in pool), 0 at the end of the document, -1 on error. */
int json_members_next(JsonMembers *m, Pool *pool, Json **member, Err *e);

/* Says what a file that should be JSON or weights is instead: "a Git LFS pointer (run git lfs
 * pull)", "an HTML page", "UTF-16 text", ...; NULL if it is not recognised. */
const char *json_foreign(const char *bytes, size_t len);
/* Number of bytes up to the comma or bracket after the value that begins at bytes, or len. Brackets
 * and strings are counted; nothing is checked. */
size_t json_span(const char *bytes, size_t len);

const Json *json_get(const Json *object, const char *key); /* NULL where absent or not an object */
int json_is(const Json *j, const char *text);              /* a string equal to text */
/* Exact conversions: 32.0 and 3.2e1 count as the integer 32, 32.5 does not. json_f64 refuses what
 * is too large for a double. Return 0, or -1 (also if j is NULL or not a number). */
int json_u64(const Json *j, uint64_t *value);
int json_i64(const Json *j, int64_t *value);
int json_f64(const Json *j, double *value);
/* Line and column of a byte offset, both from 1; columns count characters. */
void json_place(const char *bytes, size_t len, size_t at, size_t *line, size_t *column);

/* Writing. json_put_string quotes and escapes, and writes U+FFFD for bytes that are not UTF-8 (of a
 * text that was cut), so that the result can be read. json_put_f64 gives the shortest of %.15g,
 * %.16g, %.17g that reads back the same, json_put_f32 of %.6g .. %.9g; non-finite numbers become
 * null. json_put writes a parsed value back (numbers in their own spelling, strings re-escaped). */
int json_put_string(Text *out, const char *text, size_t len, Err *e);
int json_put_f64(Text *out, double value, Err *e);
int json_put_f32(Text *out, float value, Err *e);
int json_put(Text *out, const Json *value, Err *e);

/* A JSON text that is built member by member. The first failure (memory) sticks: later calls do
 * nothing, and json_written returns it. Commas are set where they belong. Keys are names of our
 * own, without characters to be escaped; key NULL: an element of an array, or the whole. */
typedef struct {
    Text *text;
    Err *e;
    int failed;
    int spaced; /* a space behind each colon */
} JsonWriter;

void json_key(JsonWriter *w, const char *key); /* its value follows */
void json_open(JsonWriter *w, const char *key, const char *bracket);
void json_close(JsonWriter *w, const char *bracket); /* may begin with a line break and spaces */
void json_line(JsonWriter *w, size_t indent);        /* the next member begins a new line */
void json_number(JsonWriter *w, const char *key, double x); /* null if it is not finite */
void json_count(JsonWriter *w, const char *key, uint64_t n);
void json_text(JsonWriter *w, const char *key, const char *text); /* NULL: null */
void json_flag(JsonWriter *w, const char *key, int yes);          /* true, false */
/* What another function has written as a value, behind json_key: its status. */
void json_took(JsonWriter *w, int status);
int json_written(const JsonWriter *w); /* 0, or -1 with *e as the first failure left it */

/* Is this valid UTF-8 (no surrogates, no overlong forms)? Returns len, or the offset of the first
 * bad byte. */
size_t utf8_check(const char *bytes, size_t len);

#endif
