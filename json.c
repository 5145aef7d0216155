/* json.c - a strict, iterative JSON reader (RFC 8259) and a small writer. See json.h.
 *
 * The reader keeps its place in two small arrays instead of the C stack: the container that is
 * open at each level, and the last member put into it. A value is finished by linking it there, so
 * a document of any size and (allowed) depth needs the memory of its nodes and nothing else.
 */
#include "base.h"
#include "json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct {
    const char *bytes;
    size_t len, at;
    const char *name;
    int flags;
    Pool *pool;
    Err *e;
} Reader;

/* ---- places and errors --------------------------------------------------------------------- */

void json_place(const char *bytes, size_t len, size_t at, size_t *line, size_t *column)
{
    size_t l = 1, c = 1;
    if (at > len) at = len;
    for (size_t i = 0; i < at; i++) {
        if (bytes[i] == '\n') {
            l++;
            c = 1;
        } else if (((unsigned char)bytes[i] & 0xC0) != 0x80) { /* not inside a character */
            c++;
        }
    }
    *line = l;
    *column = c;
}

/* "end of input", "'x'" or "byte 0xFF", for messages. */
static void describe_byte(const Reader *r, size_t at, char *out, size_t size)
{
    if (at >= r->len) {
        snprintf(out, size, "end of input");
        return;
    }
    size_t n = utf8_step(r->bytes + at, r->len - at);
    unsigned char c = (unsigned char)r->bytes[at];
    if (n == 0 || c < 0x20 || c == 0x7F) {
        snprintf(out, size, "byte 0x%02X", c);
    } else {
        snprintf(out, size, "'%.*s'", (int)n, r->bytes + at);
    }
}

/* name:line:column: found X, expected Y */
static int fail(const Reader *r, size_t at, const char *found, const char *expected)
{
    size_t line, column;
    char byte[32];
    if (!found) {
        describe_byte(r, at, byte, sizeof byte);
        found = byte;
    }
    json_place(r->bytes, r->len, at, &line, &column);
    if (r->flags & JSON_ONE_LINE) {
        return err_set(r->e, ERR_DATA, "%s:%zu: found %s, expected %s", r->name, column, found,
                       expected);
    }
    return err_set(r->e, ERR_DATA, "%s:%zu:%zu: found %s, expected %s", r->name, line, column,
                   found, expected);
}

size_t utf8_check(const char *bytes, size_t len)
{
    size_t at = 0;
    while (at < len) {
        size_t n = utf8_step(bytes + at, len - at);
        if (n == 0) return at;
        at += n;
    }
    return len;
}

/* Does the text begin with `prefix`, in any letter case? */
static int begins(const char *bytes, size_t len, const char *prefix)
{
    size_t n = strlen(prefix);
    if (len < n) return 0;
    for (size_t i = 0; i < n; i++) {
        char c = bytes[i];
        if (c >= 'A' && c <= 'Z') c = (char)(c - 'A' + 'a');
        if (c != prefix[i]) return 0;
    }
    return 1;
}

/* Kinds of files that are recognised by their first bytes. FILE stands for their name. */
static const struct {
    const char *magic;
    size_t at, len;
    const char *what;
} foreign_kinds[] = {
    {"version https://git-lfs", 0, 23, "a Git LFS pointer, not the file itself (run git lfs pull)"},
    {"GGUF", 0, 4, "a GGUF file (it is a model: -m FILE.gguf)"},
    {"\x1f\x8b", 0, 2, "a gzip archive (unpack it: gunzip -k FILE)"},
    {"BZh", 0, 3, "a bzip2 archive (unpack it: bunzip2 -k FILE)"},
    {"\xfd" "7zXZ", 0, 5, "an xz archive (unpack it: unxz -k FILE)"},
    {"\x28\xb5\x2f\xfd", 0, 4, "a Zstandard archive (unpack it: unzstd FILE)"},
    {"7z\xbc\xaf", 0, 4, "a 7z archive (unpack it: 7z x FILE)"},
    {"ustar", 257, 5, "a tar archive (unpack it: tar xf FILE)"},
    {"PAR1", 0, 4,
     "a Parquet table (as rows: python3 -c \"import pandas; pandas.read_parquet('FILE')"
     ".to_json('rows.jsonl', orient='records', lines=True)\")"},
    {"ARROW1", 0, 6,
     "an Arrow or Feather table (as rows: python3 -c \"import pandas; pandas.read_feather('FILE')"
     ".to_json('rows.jsonl', orient='records', lines=True)\")"},
    {"SQLite format 3", 0, 15,
     "an SQLite database (as rows: sqlite3 -json FILE 'select * from TABLE' | jq -c '.[]' "
     ">rows.jsonl)"},
    {"\xd0\xcf\x11\xe0", 0, 4, "an old Excel or Word document (save its table as CSV)"},
    {"%PDF", 0, 4, "a PDF document"},
    {"\x89PNG", 0, 4, "an image"},
    {"\xff\xd8\xff", 0, 3, "an image"},
    {"\x7f" "ELF", 0, 4, "a program"},
};

static int holds(const char *bytes, size_t len, const char *word)
{
    size_t n = strlen(word);
    for (size_t i = 0; i + n <= len; i++)
        if (!memcmp(bytes + i, word, n)) return 1;
    return 0;
}

/* Says which kind of zip archive it is, by the names of its first files. */
static const char *zip_kind(const char *bytes, size_t len)
{
    const size_t looked_at = 4096;
    if (len > looked_at) len = looked_at;
    if (holds(bytes, len, "data.pkl"))
        return "a PyTorch checkpoint (convert it with tools/export.py)";
    if (holds(bytes, len, "[Content_Types].xml") || holds(bytes, len, "xl/"))
        return "an Excel workbook, or another Office document (save its table as CSV)";
    return "a zip archive (unpack it: unzip FILE; tools/export.py converts a PyTorch checkpoint)";
}

/* Every second byte of the beginning is 0: ASCII in 16 bits, either way round. */
static int is_utf16(const char *bytes, size_t len)
{
    if (len < 2) return 0;
    if (!memcmp(bytes, "\xFF\xFE", 2) || !memcmp(bytes, "\xFE\xFF", 2)) return 1;
    if (len < 4) return (bytes[0] == '{' && !bytes[1]) || (!bytes[0] && bytes[1] == '{');
    return (bytes[0] && !bytes[1] && bytes[2] && !bytes[3]) ||
           (!bytes[0] && bytes[1] && !bytes[2] && bytes[3]);
}

const char *json_foreign(const char *bytes, size_t len)
{
    size_t skip = 0;
    while (skip < len && strchr(" \t\r\n", bytes[skip]) && bytes[skip]) skip++;
    const char *text = bytes + skip;
    size_t left = len - skip;
    if (begins(text, left, "<!doctype") || begins(text, left, "<html") ||
        begins(text, left, "<?xml") || begins(text, left, "<head")) {
        return "an HTML page, probably an error page (download the file again)";
    }
    if (begins(bytes, len, "pk\x03\x04")) return zip_kind(bytes, len);
    for (size_t i = 0; i < sizeof foreign_kinds / sizeof *foreign_kinds; i++) {
        size_t at = foreign_kinds[i].at, n = foreign_kinds[i].len;
        if (len >= at + n && !memcmp(bytes + at, foreign_kinds[i].magic, n))
            return foreign_kinds[i].what;
    }
    if (len > 1 && bytes[0] == '\x80' && bytes[1] >= 2 && bytes[1] <= 5)
        return "a Python pickle (if it is a PyTorch checkpoint, tools/export.py converts it)";
    if (is_utf16(bytes, len))
        return "UTF-16 text (save it as UTF-8: iconv -f UTF-16 -t UTF-8 FILE)";
    return NULL;
}

size_t json_span(const char *bytes, size_t len)
{
    size_t depth = 0, at = 0;
    for (int quoted = 0; at < len; at++) {
        char c = bytes[at];
        if (quoted) {
            if (c == '\\') at++;
            if (c == '"') quoted = 0;
            continue;
        }
        if (!depth && (c == ',' || c == ']' || c == '}')) break;
        quoted = c == '"';
        if (c == '{' || c == '[') depth++;
        if (c == '}' || c == ']') depth--;
    }
    return at < len ? at : len;
}

/* ---- scalars ------------------------------------------------------------------------------- */

static void skip_space(Reader *r)
{
    while (r->at < r->len) {
        char c = r->bytes[r->at];
        if (c != ' ' && c != '\n' && c != '\t' && c != '\r') return;
        r->at++;
    }
}

/* The byte at r->at, or 0 at the end (0 is not a JSON token). */
static char peek(const Reader *r)
{
    return r->at < r->len ? r->bytes[r->at] : 0;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* The four hex digits at `at`, or -1. */
static int32_t hex4(const Reader *r, size_t at)
{
    int32_t v = 0;
    for (size_t i = at; i < at + 4; i++) {
        int d = i < r->len ? hex_digit(r->bytes[i]) : -1;
        if (d < 0) return -1;
        v = v * 16 + d;
    }
    return v;
}

static int is_high_surrogate(int32_t c)
{
    return c >= 0xD800 && c <= 0xDBFF;
}

static int is_low_surrogate(int32_t c)
{
    return c >= 0xDC00 && c <= 0xDFFF;
}

/* Checks the escape at `at` (a backslash); *size = its length in the source. */
static int check_escape(const Reader *r, size_t at, size_t *size)
{
    char c = at + 1 < r->len ? r->bytes[at + 1] : 0;
    *size = 2;
    if (c && strchr("\"\\/bfnrt", c)) return 0;
    if (c != 'u') return fail(r, at + 1, NULL, "one of \" \\ / b f n r t u after a backslash");
    int32_t unit = hex4(r, at + 2);
    *size = 6;
    if (unit < 0) return fail(r, at, "a broken \\u escape", "four hex digits after \\u");
    if (is_low_surrogate(unit)) return fail(r, at, "a lone low surrogate", "a character");
    if (!is_high_surrogate(unit)) return 0;
    *size = 12;
    if (at + 7 < r->len && r->bytes[at + 6] == '\\' && r->bytes[at + 7] == 'u' &&
        is_low_surrogate(hex4(r, at + 8))) {
        return 0;
    }
    return fail(r, at, "a lone high surrogate", "a \\u pair that makes one character");
}

/* Checks the string whose opening quote is at r->at: *end = offset of its closing quote. */
static int check_string(const Reader *r, size_t *end, int *escapes)
{
    size_t at = r->at + 1;
    *escapes = 0;
    for (;;) {
        if (at >= r->len) return fail(r, at, NULL, "the closing quote of a string");
        unsigned char c = (unsigned char)r->bytes[at];
        size_t n = 1;
        if (c == '"') {
            *end = at;
            return 0;
        }
        if (c == '\\') {
            *escapes = 1;
            if (check_escape(r, at, &n)) return -1;
        } else if (c < 0x20) {
            return fail(r, at, NULL, "control characters in strings to be escaped");
        } else if (c >= 0x80) {
            n = utf8_step(r->bytes + at, r->len - at);
            if (n == 0) return fail(r, at, NULL, "valid UTF-8");
        }
        at += n;
    }
}

/* Decodes the checked escape at `at` to out; *size = its length in the source. */
static size_t decode_escape(const Reader *r, size_t at, char *out, size_t *size)
{
    char c = r->bytes[at + 1];
    *size = 2;
    switch (c) {
    case 'b': c = '\b'; break;
    case 'f': c = '\f'; break;
    case 'n': c = '\n'; break;
    case 'r': c = '\r'; break;
    case 't': c = '\t'; break;
    case 'u': {
        int32_t unit = hex4(r, at + 2);
        *size = 6;
        if (is_high_surrogate(unit)) {
            *size = 12;
            unit = 0x10000 + ((unit - 0xD800) << 10) + (hex4(r, at + 8) - 0xDC00);
        }
        return utf8_put(out, (uint32_t)unit);
    }
    default: break; /* quote, backslash, slash stand for themselves */
    }
    out[0] = c;
    return 1;
}

/* Reads the string at r->at into the pool and moves past it. */
static int read_string(Reader *r, const char **text, size_t *len)
{
    size_t end = 0;
    int escapes = 0;
    if (check_string(r, &end, &escapes)) return -1;
    size_t from = r->at + 1, raw = end - from, n = 0;
    /* No escape is shorter than what it stands for, so the source length is enough. */
    char *out = pool_strndup(r->pool, r->bytes + from, raw, r->e);
    if (!out) return -1;
    if (escapes) {
        while (from < end) {
            size_t used = 1;
            if (r->bytes[from] == '\\') {
                n += decode_escape(r, from, out + n, &used);
            } else {
                out[n++] = r->bytes[from];
            }
            from += used;
        }
        out[n] = 0;
    } else {
        n = raw;
    }
    *text = out;
    *len = n;
    r->at = end + 1;
    return 0;
}

/* Moves over at least one digit. */
static int skip_digits(Reader *r)
{
    size_t from = r->at;
    while (r->at < r->len && r->bytes[r->at] >= '0' && r->bytes[r->at] <= '9') r->at++;
    return r->at > from ? 0 : fail(r, r->at, NULL, "a digit");
}

/* number = [-] (0 | 1-9 digits) [. digits] [e [+-] digits] */
static int read_number(Reader *r, Json *j)
{
    size_t from = r->at;
    if (peek(r) == '-') r->at++;
    if (peek(r) == '0') {
        r->at++;
        if (peek(r) >= '0' && peek(r) <= '9') {
            return fail(r, from, "a leading zero", "a number without leading zeros");
        }
    } else if (skip_digits(r)) {
        return -1;
    }
    if (peek(r) == '.') {
        r->at++;
        if (skip_digits(r)) return -1;
    }
    if (peek(r) == 'e' || peek(r) == 'E') {
        r->at++;
        if (peek(r) == '+' || peek(r) == '-') r->at++;
        if (skip_digits(r)) return -1;
    }
    j->type = JSON_NUMBER;
    j->len = r->at - from;
    j->text = pool_strndup(r->pool, r->bytes + from, j->len, r->e);
    return j->text ? 0 : -1;
}

/* true, false, null */
static int read_word(Reader *r, Json *j)
{
    static const struct {
        const char *word;
        JsonType type;
    } words[] = {{"null", JSON_NULL}, {"true", JSON_TRUE}, {"false", JSON_FALSE}};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        size_t n = strlen(words[i].word);
        if (r->len - r->at >= n && !memcmp(r->bytes + r->at, words[i].word, n)) {
            j->type = words[i].type;
            r->at += n;
            return 0;
        }
    }
    return fail(r, r->at, NULL, "a JSON value");
}

/* ---- duplicate keys ------------------------------------------------------------------------ */

typedef struct {
    uint64_t hash; /* orders the keys without touching their text, except among equals */
    const Json *member;
} KeyEntry;

/* FNV-1a: any hash will do; a bad one only costs time (ties are ordered by the text). */
static uint64_t key_hash(const char *key, size_t len)
{
    uint64_t h = 0xCBF29CE484222325u;
    for (size_t i = 0; i < len; i++) h = (h ^ (unsigned char)key[i]) * 0x100000001B3u;
    return h;
}

static int same_key(const Json *a, const Json *b)
{
    return a->key_len == b->key_len && !memcmp(a->key, b->key, a->key_len);
}

static int key_compare(const void *a, const void *b)
{
    const KeyEntry *x = a, *y = b;
    if (x->hash != y->hash) return x->hash < y->hash ? -1 : 1;
    const Json *p = x->member, *q = y->member;
    if (p->key_len != q->key_len) return p->key_len < q->key_len ? -1 : 1;
    int c = memcmp(p->key, q->key, p->key_len);
    if (c) return c;
    return p->at < q->at ? -1 : p->at > q->at;
}

/* Names the first duplicate of a long object: sort, then compare neighbours. */
static int find_duplicate_sorted(const Reader *r, const Json *object, const Json **duplicate)
{
    KeyEntry *keys = mem_calloc(object->len, sizeof *keys, r->e);
    if (!keys) return -1;
    size_t n = 0;
    for (const Json *m = object->child; m; m = m->next) {
        keys[n].hash = key_hash(m->key, m->key_len);
        keys[n++].member = m;
    }
    sort_items(keys, n, sizeof *keys, key_compare);
    for (size_t i = 1; i < n; i++) {
        const Json *m = keys[i].member;
        if (same_key(keys[i - 1].member, m) && (!*duplicate || m->at < (*duplicate)->at)) {
            *duplicate = m;
        }
    }
    mem_free(keys);
    return 0;
}

/* Fails where two members of a finished object have the same key. */
static int check_duplicates(const Reader *r, const Json *object)
{
    const size_t few = 16; /* comparing all pairs is faster than sorting up to here */
    const Json *duplicate = NULL;
    if (r->flags & JSON_ALLOW_DUPLICATES) return 0;
    if (object->len <= few) {
        for (const Json *m = object->child; m && !duplicate; m = m->next) {
            for (const Json *k = object->child; k != m && !duplicate; k = k->next) {
                if (same_key(k, m)) duplicate = m;
            }
        }
    } else if (find_duplicate_sorted(r, object, &duplicate)) {
        return -1;
    }
    if (!duplicate) return 0;
    char found[128];
    snprintf(found, sizeof found, "the key \"%.80s\" a second time", duplicate->key);
    return fail(r, duplicate->at, found, "each key once");
}

/* ---- the reader ---------------------------------------------------------------------------- */

typedef struct {
    Json *open[JSON_MAX_DEPTH]; /* containers, outermost first */
    Json *last[JSON_MAX_DEPTH]; /* their last members */
    size_t depth;
} Levels;

/* Reads `"key" :` and leaves r->at at the value. */
static int read_key(Reader *r, Json *member)
{
    if (peek(r) != '"') return fail(r, r->at, NULL, "a key in quotes");
    if (read_string(r, &member->key, &member->key_len)) return -1;
    skip_space(r);
    if (peek(r) != ':') return fail(r, r->at, NULL, "':' after a key");
    r->at++;
    skip_space(r);
    return 0;
}

/* Reads a scalar, or opens a container, as the next member of the innermost level. */
static int read_member(Reader *r, Levels *v, Json **root)
{
    Json *parent = v->depth ? v->open[v->depth - 1] : NULL;
    Json *j = pool_alloc(r->pool, sizeof *j, r->e);
    if (!j) return -1;
    if (parent && parent->type == JSON_OBJECT && read_key(r, j)) return -1;
    j->at = r->at;
    char c = peek(r);
    int opens = c == '{' || c == '[';
    if (opens) {
        if (v->depth == JSON_MAX_DEPTH) {
            return fail(r, r->at, "more than 64 levels", "at most 64 levels of nesting");
        }
        j->type = c == '{' ? JSON_OBJECT : JSON_ARRAY;
        r->at++;
    } else if (c == '"') {
        j->type = JSON_STRING;
        if (read_string(r, &j->text, &j->len)) return -1;
    } else if (c == '-' || (c >= '0' && c <= '9')) {
        if (read_number(r, j)) return -1;
    } else if (read_word(r, j)) {
        return -1;
    }
    if (!parent) {
        *root = j;
    } else {
        if (v->last[v->depth - 1]) {
            v->last[v->depth - 1]->next = j;
        } else {
            parent->child = j;
        }
        v->last[v->depth - 1] = j;
        parent->len++;
    }
    if (opens) {
        v->open[v->depth] = j;
        v->last[v->depth++] = NULL;
    }
    return 0;
}

/* After a value: closes finished containers and steps over the comma before the next member. */
static int read_separator(Reader *r, Levels *v)
{
    while (v->depth > 0) {
        Json *open = v->open[v->depth - 1];
        char close = open->type == JSON_OBJECT ? '}' : ']';
        skip_space(r);
        char c = peek(r);
        if (c == close) {
            r->at++;
            if (open->type == JSON_OBJECT && check_duplicates(r, open)) return -1;
            v->depth--;
            continue;
        }
        if (open->len == 0) return 0; /* just opened: its first member */
        if (c != ',') return fail(r, r->at, NULL, close == '}' ? "',' or '}'" : "',' or ']'");
        r->at++;
        skip_space(r);
        return 0;
    }
    return 0;
}

/* Reads one whole value at r->at. */
static int read_value(Reader *r, Json **root)
{
    Levels v;
    v.depth = 0;
    do {
        if (read_member(r, &v, root) || read_separator(r, &v)) return -1;
    } while (v.depth > 0);
    return 0;
}

/* Refuses files that are not JSON, naming their kind, and steps over a byte order mark. */
static int read_start(Reader *r)
{
    const char *foreign = json_foreign(r->bytes, r->len);
    if (foreign) return fail(r, 0, foreign, "JSON");
    if (begins(r->bytes, r->len, "\xEF\xBB\xBF")) {
        if (!(r->flags & JSON_ALLOW_BOM)) {
            return fail(r, 0, "a byte order mark", "UTF-8 without one");
        }
        r->at = 3;
    }
    skip_space(r);
    return 0;
}

/* Nothing but space may follow the document. */
static int read_end(Reader *r)
{
    skip_space(r);
    return r->at == r->len ? 0 : fail(r, r->at, NULL, "the end of the document");
}

Json *json_parse(Pool *pool, const char *bytes, size_t len, const char *name, int flags, Err *e)
{
    Reader r = {bytes, len, 0, name, flags, pool, e};
    Json *root = NULL;
    if (read_start(&r) || read_value(&r, &root) || read_end(&r)) return NULL;
    return root;
}

int json_members_next(JsonMembers *m, Pool *pool, Json **member, Err *e)
{
    Reader r = {m->bytes, m->len, m->at, m->name, m->flags, pool, e};
    if (m->done) return 0;
    if (!m->begun) {
        if (read_start(&r)) return -1;
        if (peek(&r) != '{') return fail(&r, r.at, NULL, "'{'");
        r.at++;
        skip_space(&r);
    }
    if (m->begun || peek(&r) == '}') {
        if (peek(&r) == '}') {
            r.at++;
            m->done = 1;
            return read_end(&r);
        }
        if (peek(&r) != ',') return fail(&r, r.at, NULL, "',' or '}'");
        r.at++;
        skip_space(&r);
    }
    m->begun = 1;
    /* The value is read as a document of its own, one level down; the key is put on it. */
    Json key = {0};
    Json *value = NULL;
    if (read_key(&r, &key) || read_value(&r, &value)) return -1;
    value->key = key.key;
    value->key_len = key.key_len;
    skip_space(&r);
    m->at = r.at;
    *member = value;
    return 1;
}

/* ---- looking things up --------------------------------------------------------------------- */

const Json *json_get(const Json *object, const char *key)
{
    const Json *found = NULL;
    if (!object || object->type != JSON_OBJECT) return NULL;
    size_t len = strlen(key);
    for (const Json *m = object->child; m; m = m->next) {
        if (m->key_len == len && !memcmp(m->key, key, len)) found = m; /* the last one wins */
    }
    return found;
}

int json_is(const Json *j, const char *text)
{
    return j && j->type == JSON_STRING && j->len == strlen(text) && !memcmp(j->text, text, j->len);
}

/* The magnitude of a number that is an integer, exactly: the digits of the spelling are shifted by
 * its exponent, trailing zeros first given up, so that no double is involved. */
static int whole_number(const Json *j, int *negative, uint64_t *value)
{
    if (!j || j->type != JSON_NUMBER) return -1;
    const char *s = j->text;
    const char *exponent = strpbrk(s, "eE");
    const char *point = strchr(s, '.');
    size_t len = exponent ? (size_t)(exponent - s) : j->len;
    size_t start = s[0] == '-';
    int64_t shift = 0;
    if (exponent) {
        const char *x = exponent + 1 + (exponent[1] == '+');
        /* An exponent that does not fit is as good as a very large one. */
        if (parse_i64(x, strlen(x), &shift) || shift > 1000000000 || shift < -1000000000) {
            shift = exponent[1] == '-' ? -1000000000 : 1000000000;
        }
    }
    if (point) shift -= (int64_t)(s + len - point - 1);
    while (len > start && (s[len - 1] == '0' || s[len - 1] == '.')) {
        if (s[--len] == '0') shift++;
    }
    *negative = start == 1;
    *value = 0;
    if (len == start) return 0; /* only zeros */
    if (shift < 0) return -1;
    for (size_t i = start; i < len; i++) {
        if (s[i] == '.') continue;
        if (u64_mul(*value, 10, value)) return -1;
        if (u64_add(*value, (uint64_t)(s[i] - '0'), value)) return -1;
    }
    for (; shift > 0 && *value > 0; shift--) {
        if (u64_mul(*value, 10, value)) return -1;
    }
    return 0;
}

int json_u64(const Json *j, uint64_t *value)
{
    int negative;
    uint64_t v;
    if (whole_number(j, &negative, &v) || (negative && v > 0)) return -1;
    *value = v;
    return 0;
}

int json_i64(const Json *j, int64_t *value)
{
    int negative;
    uint64_t v;
    if (whole_number(j, &negative, &v)) return -1;
    if (v > (uint64_t)INT64_MAX + (uint64_t)negative) return -1;
    *value = !negative ? (int64_t)v : v == 0 ? 0 : -(int64_t)(v - 1) - 1;
    return 0;
}

int json_f64(const Json *j, double *value)
{
    if (!j || j->type != JSON_NUMBER) return -1;
    return parse_f64(j->text, j->len, value);
}

/* ---- writing ------------------------------------------------------------------------------- */

/* Returns the escape of one byte in a string, or NULL if it needs none. */
static const char *escape_of(unsigned char c, char buffer[8])
{
    switch (c) {
    case '"': return "\\\"";
    case '\\': return "\\\\";
    case '\b': return "\\b";
    case '\f': return "\\f";
    case '\n': return "\\n";
    case '\r': return "\\r";
    case '\t': return "\\t";
    default: break;
    }
    if (c >= 0x20 && c != 0x7F) return NULL;
    snprintf(buffer, 8, "\\u%04x", c);
    return buffer;
}

int json_put_string(Text *out, const char *text, size_t len, Err *e)
{
    if (text_add(out, "\"", 1, e)) return -1;
    size_t from = 0;
    char buffer[8];
    for (size_t i = 0, step; i < len; i += step) {
        const char *escape = escape_of((unsigned char)text[i], buffer);
        step = utf8_step(text + i, len - i);
        if (!step) {
            escape = "\xEF\xBF\xBD"; /* U+FFFD */
            step = 1;
        }
        if (!escape) continue;
        if (text_add(out, text + from, i - from, e)) return -1;
        if (text_add(out, escape, strlen(escape), e)) return -1;
        from = i + 1;
    }
    if (text_add(out, text + from, len - from, e)) return -1;
    return text_add(out, "\"", 1, e);
}

int json_put_f64(Text *out, double value, Err *e)
{
    char text[40];
    if (!isfinite(value)) return text_add(out, "null", 4, e);
    for (int digits = 15; digits <= 17; digits++) {
        double back = 0;
        int n = snprintf(text, sizeof text, "%.*g", digits, value);
        if (parse_f64(text, (size_t)n, &back) == 0 && back == value) break;
    }
    return text_add(out, text, strlen(text), e);
}

int json_put_f32(Text *out, float value, Err *e)
{
    char text[40];
    if (!isfinite(value)) return text_add(out, "null", 4, e);
    for (int digits = 6; digits <= 9; digits++) {
        double back = 0;
        int n = snprintf(text, sizeof text, "%.*g", digits, (double)value);
        if (parse_f64(text, (size_t)n, &back) == 0 && (float)back == value) break;
    }
    return text_add(out, text, strlen(text), e);
}

/* Calls itself once per level, of which a parsed value has at most JSON_MAX_DEPTH (+1 for a member
 * that was read on its own). */
int json_put(Text *out, const Json *value, Err *e)
{
    static const char *const words[] = {"null", "false", "true"};
    switch (value->type) {
    case JSON_NULL:
    case JSON_FALSE:
    case JSON_TRUE: return text_addf(out, e, "%s", words[value->type]);
    case JSON_NUMBER: return text_add(out, value->text, value->len, e);
    case JSON_STRING: return json_put_string(out, value->text, value->len, e);
    case JSON_ARRAY:
    case JSON_OBJECT: break;
    }
    int object = value->type == JSON_OBJECT;
    if (text_add(out, object ? "{" : "[", 1, e)) return -1;
    for (const Json *m = value->child; m; m = m->next) {
        if (m != value->child && text_add(out, ",", 1, e)) return -1;
        if (object && json_put_string(out, m->key, m->key_len, e)) return -1;
        if (object && text_add(out, ":", 1, e)) return -1;
        if (json_put(out, m, e)) return -1;
    }
    return text_add(out, object ? "}" : "]", 1, e);
}

/* ---- a writer whose first failure sticks --------------------------------------------------- */

static void add(JsonWriter *w, const char *text)
{
    if (!w->failed) w->failed = text_add(w->text, text, strlen(text), w->e);
}

/* Writes a comma behind a value, none of which ends with one of these. */
static void separate(JsonWriter *w)
{
    const Text *t = w->text;
    if (t->len && !strchr("{[:, \n", t->data[t->len - 1])) add(w, ",");
}

void json_key(JsonWriter *w, const char *key)
{
    separate(w);
    if (!key) return;
    if (!w->failed) w->failed = json_put_string(w->text, key, strlen(key), w->e);
    add(w, w->spaced ? ": " : ":");
}

void json_open(JsonWriter *w, const char *key, const char *bracket)
{
    json_key(w, key);
    add(w, bracket);
}

void json_close(JsonWriter *w, const char *bracket)
{
    add(w, bracket);
}

void json_line(JsonWriter *w, size_t indent)
{
    separate(w);
    add(w, "\n");
    while (indent--) add(w, " ");
}

void json_number(JsonWriter *w, const char *key, double x)
{
    json_key(w, key);
    if (!w->failed) w->failed = json_put_f64(w->text, x, w->e);
}

void json_count(JsonWriter *w, const char *key, uint64_t n)
{
    json_key(w, key);
    if (!w->failed) w->failed = text_addf(w->text, w->e, "%llu", (unsigned long long)n);
}

void json_text(JsonWriter *w, const char *key, const char *text)
{
    json_key(w, key);
    if (!text)
        add(w, "null");
    else if (!w->failed)
        w->failed = json_put_string(w->text, text, strlen(text), w->e);
}

void json_flag(JsonWriter *w, const char *key, int yes)
{
    json_key(w, key);
    add(w, yes ? "true" : "false");
}

void json_took(JsonWriter *w, int status)
{
    w->failed |= status;
}

int json_written(const JsonWriter *w)
{
    return w->failed ? -1 : 0;
}
