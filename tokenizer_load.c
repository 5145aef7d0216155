/* tokenizer_load.c - reads tokenizer.json, or tokenizer.model, and the files beside it into a
 * Tokenizer, or says why it cannot.
 *
 * Nothing is taken on trust: ids are 0 .. N-1 without gaps, merges name known pieces, and every
 * step must be one that we know how to do, for a skipped step gives plausible but wrong ids.
 */
#include "tokenizer_inner.h"

#include "io.h"
#include "json.h"

#include <stdio.h>
#include <string.h>

#define TEKKEN_FILE "tekken.json"
#define TOKENIZER_MAX_FILE ((size_t)1 << 30)
#define STEP_TEXT_MAX 256 /* bytes of a text that a normalizer or decoder puts somewhere */
#define SHOWN_MAX 200     /* bytes of a refused step that a message shows */

/* The file being read, for messages. */
typedef struct {
    Tokenizer *t;
    const char *name, *bytes;
    size_t len;
    const Log *log;
    Err *e;
    const Sides *sides;
    Pool *pool;        /* of parsed files */
    const Json *added; /* all added tokens */
} Loader;

/* Fills the error: name, line and column of j (of the file as a whole where NULL), text. */
static int load_error(const Loader *l, const Json *j, const char *fmt, ...) PRINTF_LIKE(3, 4);
static int load_error(const Loader *l, const Json *j, const char *fmt, ...)
{
    char text[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    size_t line, column;
    if (!j) {
        err_set(l->e, ERR_DATA, "%s: %s", l->name, text);
    } else {
        json_place(l->bytes, l->len, j->at, &line, &column);
        err_set(l->e, ERR_DATA, "%s:%zu:%zu: %s", l->name, line, column, text);
    }
    return -1;
}

/* "... is not supported", showing the JSON of what is not. */
static int refuse(const Loader *l, const Json *j, const char *what)
{
    Text shown = {0};
    if (json_put(&shown, j, l->e)) {
        text_free(&shown);
        return -1;
    }
    int cut = shown.len > SHOWN_MAX;
    load_error(l, j,
               "%s %.*s%s is not supported; refused, because leaving it out would give wrong "
               "token ids",
               what, cut ? SHOWN_MAX : (int)shown.len, shown.data, cut ? "..." : "");
    text_free(&shown);
    return -1;
}

/* ---- fields -------------------------------------------------------------------------------- */

/* Absent and null are the same to the library. */
static const Json *field(const Json *object, const char *key)
{
    const Json *j = json_get(object, key);
    return j && j->type != JSON_NULL ? j : NULL;
}

/* A true/false member; `otherwise` where absent. */
static int field_bool(const Loader *l, const Json *object, const char *key, int otherwise, int *out)
{
    const Json *j = field(object, key);
    *out = otherwise;
    if (!j) return 0;
    if (j->type != JSON_TRUE && j->type != JSON_FALSE)
        return load_error(l, j, "\"%s\" must be true or false", key);
    *out = j->type == JSON_TRUE;
    return 0;
}

/* A string that is at least `least` bytes long, copied. */
static int copy_string(const Loader *l, const Json *j, const Json *where, const char *key,
                       size_t least, Bytes *out)
{
    *out = (Bytes){"", 0};
    if (!j || j->type != JSON_STRING || j->len < least)
        return load_error(l, j ? j : where, "\"%s\" must be a%s string", key,
                          least ? " non-empty" : "");
    out->text = pool_strndup(&l->t->pool, j->text, j->len, l->e);
    out->len = j->len;
    return out->text ? 0 : -1;
}

/* The same for a text that a step inserts: of modest length. */
static int step_string(const Loader *l, const Json *step, const char *key, Bytes *out)
{
    const Json *j = json_get(step, key);
    if (copy_string(l, j, step, key, 0, out)) return -1;
    if (out->len <= STEP_TEXT_MAX) return 0;
    return load_error(l, j, "\"%s\" is %zu bytes long; allowed are %d", key, out->len,
                      STEP_TEXT_MAX);
}

/* A string of exactly one character. */
static int field_character(const Loader *l, const Json *object, const char *key, Bytes *out)
{
    const Json *j = json_get(object, key);
    size_t len = 0;
    if (copy_string(l, j, object, key, 1, out)) return -1;
    utf8_next(out->text, &len);
    return len == out->len ? 0 : load_error(l, j, "\"%s\" must be one character", key);
}

static int field_string(const Loader *l, const Json *object, const char *key, size_t least,
                        Bytes *out)
{
    return copy_string(l, json_get(object, key), object, key, least, out);
}

/* An id below `limit`. */
static int as_id(const Loader *l, const Json *j, const char *what, size_t limit, int32_t *id)
{
    uint64_t value;
    *id = -1;
    if (!j || json_u64(j, &value) || value >= limit)
        return load_error(l, j, "%s: the id must be a number in 0 .. %zu", what, limit - 1);
    *id = (int32_t)value;
    return 0;
}

static int is_type(const Json *j, const char *type)
{
    return json_is(json_get(j, "type"), type);
}

/* ---- vocabulary ---------------------------------------------------------------------------- */

/* The smallest power of two that is at least twice n, so that open addressing stays short. */
static size_t table_size(size_t n)
{
    size_t size = 16;
    while (size < 2 * n) size *= 2;
    return size;
}

/* Space for `size` pieces, with room for more, and for finding them by their spelling. */
static int pieces_make(Loader *l, size_t size, size_t room)
{
    Tokenizer *t = l->t;
    size_t slots = table_size(size + room), bytes;
    if (size > INT32_MAX || room > INT32_MAX - size || size_mul(size + room, sizeof(Piece), &bytes))
        return load_error(l, NULL, "%zu tokens are too many", size);
    t->pieces = pool_alloc(&t->pool, bytes, l->e);
    t->by_text = pool_alloc(&t->pool, slots * sizeof(*t->by_text), l->e);
    if (!t->pieces || !t->by_text) return -1;
    t->size = size;
    t->by_text_mask = slots - 1;
    for (size_t i = 0; i < slots; i++) t->by_text[i] = -1;
    return 0;
}

/* Piece `id`, which must be free, gets this spelling, which no piece has. */
static int piece_set(Loader *l, const Json *j, const char *text, size_t len, int32_t id)
{
    Tokenizer *t = l->t;
    Piece *p = &t->pieces[id];
    if (len > INT32_MAX) return load_error(l, j, "token %ld is too long", (long)id);
    if (p->text)
        return load_error(l, j, "id %ld has two tokens: \"%.60s\" and \"%.60s\"", (long)id, p->text,
                          text);
    size_t slot = piece_slot(t, text, len);
    p->text = pool_strndup(&t->pool, text, len, l->e);
    if (!p->text) return -1;
    p->len = (uint32_t)len;
    t->by_text[slot] = id;
    return 0;
}

static int vocab_load(Loader *l, const Json *vocab)
{
    for (const Json *j = vocab->child; j; j = j->next) {
        int32_t id;
        char what[100];
        snprintf(what, sizeof what, "model.vocab \"%.60s\" of %zu tokens", j->key, l->t->size);
        if (as_id(l, j, what, l->t->size, &id) || piece_set(l, j, j->key, j->key_len, id))
            return -1;
        l->t->pieces[id].model = 1;
        int byte = piece_byte(j->key, j->key_len);
        if (byte < 0) continue;
        char upper[16]; /* the library accepts only upper-case digits */
        snprintf(upper, sizeof upper, "<0x%02X>", (unsigned)byte);
        if (!memcmp(upper, j->key, j->key_len)) l->t->byte_ids[byte] = id;
    }
    return 0;
}

/* ---- merges -------------------------------------------------------------------------------- */

/* The two halves of a merge: "a b" with exactly one space, or ["a", "b"]. */
static int merge_halves(Loader *l, const Json *j, size_t rank, Bytes *left, Bytes *right)
{
    *left = *right = (Bytes){"", 0};
    if (j->type == JSON_STRING) {
        const char *space = memchr(j->text, ' ', j->len);
        size_t at = space ? (size_t)(space - j->text) : 0;
        if (!space || memchr(space + 1, ' ', j->len - at - 1))
            return load_error(l, j, "model.merges[%zu] \"%.60s\" must have exactly one space", rank,
                              j->text);
        *left = (Bytes){j->text, at};
        *right = (Bytes){space + 1, j->len - at - 1};
        return 0;
    }
    const Json *a = j->type == JSON_ARRAY && j->len == 2 ? j->child : NULL;
    if (!a || a->type != JSON_STRING || a->next->type != JSON_STRING)
        return load_error(l, j, "model.merges[%zu] must be \"a b\" or [\"a\", \"b\"]", rank);
    *left = (Bytes){a->text, a->len};
    *right = (Bytes){a->next->text, a->next->len};
    return 0;
}

static int merge_piece(Loader *l, const Json *j, size_t rank, Bytes piece, int32_t *id)
{
    *id = model_id(l->t, piece.text, piece.len);
    if (*id >= 0) return 0;
    return load_error(l, j, "model.merges[%zu] needs the token \"%.*s\", which model.vocab lacks",
                      rank, piece.len > 60 ? 60 : (int)piece.len, piece.text);
}

static int merges_load(Loader *l, const Json *merges)
{
    Tokenizer *t = l->t;
    size_t slots = table_size(merges->len), rank = 0, bytes;
    if (size_mul(slots, sizeof(*t->merges), &bytes))
        return load_error(l, merges, "%zu merges are too many", merges->len);
    t->merges = pool_alloc(&t->pool, bytes, l->e);
    if (!t->merges) return -1;
    t->merge_mask = slots - 1;
    for (size_t i = 0; i < slots; i++) t->merges[i].pair = MERGE_EMPTY;
    Text both = {0};
    int failed = merges->len > UINT32_MAX;
    for (const Json *j = merges->child; j && !failed; j = j->next, rank++) {
        Bytes a, b;
        int32_t left, right, id;
        both.len = 0;
        failed = merge_halves(l, j, rank, &a, &b) || merge_piece(l, j, rank, a, &left) ||
                 merge_piece(l, j, rank, b, &right) || text_add(&both, a.text, a.len, l->e) ||
                 text_add(&both, b.text, b.len, l->e) ||
                 merge_piece(l, j, rank, (Bytes){both.data, both.len}, &id);
        if (failed) break;
        uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
        t->merges[merge_slot(t, pair)] = (Merge){pair, (uint32_t)rank, id}; /* the last one wins */
    }
    text_free(&both);
    return failed ? -1 : 0;
}

/* ---- model --------------------------------------------------------------------------------- */

/* The options of a BPE model beside its vocabulary. */
static int model_options(Loader *l, const Json *model)
{
    Tokenizer *t = l->t;
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < 2; i++) {
        const Json *j = field(model, affixes[i]);
        if (j && !json_is(j, "")) return refuse(l, j, affixes[i]);
    }
    const Json *dropout = field(model, "dropout");
    double p;
    if (dropout && (json_f64(dropout, &p) || p < 0 || p > 0)) /* random ids: not ours */
        return refuse(l, dropout, "model.dropout");
    if (field_bool(l, model, "fuse_unk", 0, &t->fuse_unk) ||
        field_bool(l, model, "byte_fallback", 0, &t->byte_fallback) ||
        field_bool(l, model, "ignore_merges", 0, &t->ignore_merges))
        return -1;
    const Json *unk = field(model, "unk_token");
    t->unk = -1;
    if (!unk) return 0;
    if (unk->type != JSON_STRING) return load_error(l, unk, "model.unk_token must be a string");
    t->unk = model_id(t, unk->text, unk->len);
    t->unk_lost = t->unk < 0; /* refused, as in the library, once a text needs it */
    return 0;
}

/* One more than the largest id, or `limit` where one is beyond that (it is refused later). */
static size_t count_ids(const Json *vocab, const Json *added, size_t limit)
{
    size_t size = 0;
    uint64_t id;
    for (const Json *j = vocab->child; j; j = j->next)
        if (!json_u64(j, &id) && id >= size) size = id < limit ? (size_t)id + 1 : limit;
    for (const Json *j = added ? added->child : NULL; j; j = j->next)
        if (!json_u64(json_get(j, "id"), &id) && id >= size)
            size = id < limit ? (size_t)id + 1 : limit;
    return size;
}

static int model_load(Loader *l, const Json *root)
{
    const Json *model = json_get(root, "model"), *added = field(root, "added_tokens");
    if (!model || model->type != JSON_OBJECT) return load_error(l, model, "\"model\" is missing");
    if (json_get(model, "type") && !is_type(model, "BPE"))
        return load_error(
            l, model, "model.type \"%.40s\" is not supported, only \"BPE\"",
            json_get(model, "type")->type == JSON_STRING ? json_get(model, "type")->text : "?");
    const Json *vocab = json_get(model, "vocab"), *merges = json_get(model, "merges");
    if (!vocab || vocab->type != JSON_OBJECT || !vocab->len)
        return load_error(l, vocab ? vocab : model, "model.vocab must be an object with tokens");
    if (!merges || merges->type != JSON_ARRAY)
        return load_error(l, merges ? merges : model, "model.merges must be an array");
    if (added && added->type != JSON_ARRAY)
        return load_error(l, added, "\"added_tokens\" must be an array");
    if (class_drops_listed(l->sides)) added = NULL;
    /* Ids are 0 .. N-1, and there are no more of them than entries. */
    size_t limit = vocab->len + (added ? added->len : 0);
    if (pieces_make(l, count_ids(vocab, added, limit), added_room(l->sides)) ||
        vocab_load(l, vocab) || merges_load(l, merges) || model_options(l, model) ||
        added_merge(l->t, added, l->sides, l->log, l->pool, &l->added, l->e))
        return -1;
    return bpe_prepare(l->t, l->e);
}

/* ---- normalizer ---------------------------------------------------------------------------- */

static int normalizer_load(Loader *l, const Json *j)
{
    Tokenizer *t = l->t;
    if (!j || j->type == JSON_NULL) return 0;
    if (is_type(j, "Sequence")) {
        const Json *list = json_get(j, "normalizers");
        if (!list || list->type != JSON_ARRAY) return refuse(l, j, "normalizer");
        for (const Json *k = list->child; k; k = k->next)
            if (normalizer_load(l, k)) return -1;
        return 0;
    }
    if (t->n_normalize == TOKENIZER_MAX_STEPS) return refuse(l, j, "normalizer with more steps:");
    NormalizeStep *s = &t->normalize[t->n_normalize++];
    if (is_type(j, "NFC")) {
        s->kind = NORMALIZE_NFC;
        return 0;
    }
    if (is_type(j, "Prepend")) {
        s->kind = NORMALIZE_PREPEND;
        return step_string(l, j, "prepend", &s->to);
    }
    const Json *pattern = json_get(json_get(j, "pattern"), "String");
    if (is_type(j, "Replace") && pattern) {
        s->kind = NORMALIZE_REPLACE;
        return copy_string(l, pattern, j, "pattern", 1, &s->from) ||
                       step_string(l, j, "content", &s->to)
                   ? -1
                   : 0;
    }
    return refuse(l, j, "normalizer");
}

/* ---- pre-tokenizer ------------------------------------------------------------------------- */

/* An expression that matches a text as it stands. */
static int escape(Text *out, const Json *text, Err *e)
{
    static const char special[] = "\\^$.|?*+()[]{}";
    for (size_t i = 0; i < text->len; i++)
        if ((text->text[i] && strchr(special, text->text[i]) && text_add(out, "\\", 1, e)) ||
            text_add(out, text->text + i, 1, e))
            return -1;
    return 0;
}

static int split_parse(Loader *l, const Json *pattern, const char *regex, size_t len, SplitStep *s)
{
    const char *why;
    s->kind = SPLIT_REGEX;
    s->regex = regex_parse(regex, len, &why, l->e);
    if (s->regex || !why) return s->regex ? 0 : -1;
    return load_error(l, pattern,
                      "the expression of a pre-tokenizer has %s, which is not supported; refused, "
                      "because leaving it out would give wrong token ids",
                      why);
}

/* Split: an expression or a text, and what becomes of its matches. The expressions in common use
 * have functions where each match is a word of its own. */
static int split_load(Loader *l, const Json *j, SplitStep *s)
{
    static const char *const names[SPLIT_BEHAVIORS] = {"Isolated", "Removed", "MergedWithPrevious",
                                                       "MergedWithNext", "Contiguous"};
    const Json *pattern = json_get(j, "pattern"), *regex = json_get(pattern, "Regex");
    const Json *text = json_get(pattern, "String");
    size_t i = 0;
    if (field_bool(l, j, "invert", 0, &s->inverted)) return -1;
    while (i < SPLIT_BEHAVIORS && !json_is(json_get(j, "behavior"), names[i])) i++;
    s->behavior = (SplitBehavior)i;
    if (i == SPLIT_BEHAVIORS) return refuse(l, j, "pre-tokenizer");
    if (text && text->type == JSON_STRING && text->len) {
        Text escaped = {0};
        int failed =
            escape(&escaped, text, l->e) || split_parse(l, text, escaped.data, escaped.len, s);
        text_free(&escaped);
        return failed ? -1 : 0;
    }
    if (!regex || regex->type != JSON_STRING) return refuse(l, j, "pre-tokenizer");
    s->pattern = split_pattern(regex->text, regex->len);
    s->kind = SPLIT_PATTERN;
    if (s->pattern != PATTERN_NONE && i == SPLIT_ISOLATED)
        return 0; /* nothing is between matches */
    return split_parse(l, regex, regex->text, regex->len, s);
}

static int byte_level_load(Loader *l, const Json *j, SplitStep *s)
{
    int use_regex;
    s->kind = SPLIT_BYTE_LEVEL;
    if (field_bool(l, j, "use_regex", 1, &use_regex) ||
        field_bool(l, j, "add_prefix_space", 1, &s->prefix_space))
        return -1;
    s->pattern = use_regex ? PATTERN_GPT2 : PATTERN_NONE;
    return 0;
}

static int metaspace_load(Loader *l, const Json *j, SplitStep *s)
{
    static const char *const schemes[] = {"always", "first", "never"};
    const Json *scheme = field(j, "prepend_scheme");
    int prefix;
    size_t i = PREPEND_ALWAYS;
    s->kind = SPLIT_METASPACE;
    if (field_character(l, j, "replacement", &s->replacement) ||
        field_bool(l, j, "split", 1, &s->split) ||
        field_bool(l, j, "add_prefix_space", 1, &prefix)) /* the spelling of older files */
        return -1;
    if (scheme)
        for (i = 0; i < 3 && !json_is(scheme, schemes[i]);) i++;
    else if (!prefix)
        i = PREPEND_NEVER;
    if (i == 3) return refuse(l, j, "pre-tokenizer");
    s->scheme = (PrependScheme)i;
    return 0;
}

static int pre_tokenizer_load(Loader *l, const Json *j)
{
    Tokenizer *t = l->t;
    if (!j || j->type == JSON_NULL) return 0;
    if (is_type(j, "Sequence")) {
        const Json *list = json_get(j, "pretokenizers");
        if (!list || list->type != JSON_ARRAY) return refuse(l, j, "pre-tokenizer");
        for (const Json *k = list->child; k; k = k->next)
            if (pre_tokenizer_load(l, k)) return -1;
        return 0;
    }
    if (t->n_split == TOKENIZER_MAX_STEPS) return refuse(l, j, "pre-tokenizer with more steps:");
    SplitStep *s = &t->split[t->n_split++];
    if (is_type(j, "Split")) return split_load(l, j, s);
    if (is_type(j, "ByteLevel")) return byte_level_load(l, j, s);
    if (is_type(j, "Metaspace")) return metaspace_load(l, j, s);
    if (is_type(j, "Digits")) {
        int individual;
        s->kind = SPLIT_PATTERN;
        if (field_bool(l, j, "individual_digits", 0, &individual)) return -1;
        s->pattern = individual ? PATTERN_DIGITS : PATTERN_DIGIT_RUNS;
        return 0;
    }
    return refuse(l, j, "pre-tokenizer");
}

/* ---- added tokens -------------------------------------------------------------------------- */

static int compare_added(const AddedToken *a, const AddedToken *b)
{
    int order = memcmp(a->text, b->text, a->len < b->len ? a->len : b->len);
    return order ? order : (a->len > b->len) - (a->len < b->len);
}

/* By bytes; those with the same text as they came. */
static int by_text(const void *x, const void *y)
{
    const AddedToken *a = x, *b = y;
    int order = compare_added(a, b);
    return order ? order : (a->turn > b->turn) - (a->turn < b->turn);
}

static void added_append(AddedSet *set, AddedToken token)
{
    token.turn = set->count;
    set->tokens[set->count++] = token;
}

/* Puts the tokens in their places; of two with the same text the first stays (after normalization
 * there may be two). */
static void added_index(AddedSet *set)
{
    size_t i = 0, kept = 0;
    sort_items(set->tokens, set->count, sizeof *set->tokens, by_text);
    for (size_t k = 0; k < set->count; k++)
        if (!kept || compare_added(&set->tokens[kept - 1], &set->tokens[k]))
            set->tokens[kept++] = set->tokens[k];
    set->count = kept;
    for (unsigned b = 0; b <= 256; b++) {
        while (i < set->count && (unsigned char)set->tokens[i].text[0] < b) i++;
        set->first[b] = (uint32_t)i;
    }
}

/* One entry of added_tokens: its id must be the one its spelling already has, or a new one. */
static int added_load(Loader *l, const Json *j)
{
    Tokenizer *t = l->t;
    Bytes content;
    AddedToken a = {0};
    int flags[ADDED_FLAGS];
    if (j->type != JSON_OBJECT) return load_error(l, j, "added_tokens must hold objects");
    if (field_string(l, j, "content", 1, &content)) return -1;
    if (as_id(l, json_get(j, "id"), "added_tokens", t->size, &a.id)) return -1;
    for (size_t i = 0; i < ADDED_FLAGS; i++)
        if (field_bool(l, j, added_flags[i], 0, &flags[i])) return -1;
    int32_t known = t->by_text[piece_slot(t, content.text, content.len)];
    if (known < 0 && piece_set(l, j, content.text, content.len, a.id)) return -1;
    if (known >= 0 && known != a.id)
        return load_error(l, j, "added token \"%.60s\" has id %ld here but %ld in model.vocab",
                          content.text, (long)a.id, (long)known);
    a.special = (unsigned char)flags[0];
    a.single_word = (unsigned char)flags[1];
    a.lstrip = (unsigned char)flags[2];
    a.rstrip = (unsigned char)flags[3];
    t->pieces[a.id].special = a.special;
    a.text = content.text;
    a.len = content.len;
    if (!flags[4]) {
        added_append(&t->raw, a);
        return 0;
    }
    Text normal = {0};
    int failed = normalize_text(t, content.text, NULL, content.len, &normal, NULL, l->e);
    a.len = normal.len;
    a.text = failed ? NULL : pool_strndup(&t->pool, normal.data, normal.len, l->e);
    text_free(&normal);
    if (!a.text) return -1;
    if (!a.len)
        return load_error(l, j, "added token \"%.60s\" is empty once normalized", content.text);
    if (t->n_normalize && t->normalize[0].kind == NORMALIZE_PREPEND &&
        t->normalize[0].to.len < a.len)
        a.lead = t->normalize[0].to.len;
    added_append(&t->normalized, a);
    return 0;
}

static int added_tokens_load(Loader *l)
{
    Tokenizer *t = l->t;
    const Json *list = l->added;
    size_t count = list ? list->len : 0;
    t->raw.tokens = pool_alloc(&t->pool, (count + 1) * sizeof(AddedToken), l->e);
    t->normalized.tokens = pool_alloc(&t->pool, (count + 1) * sizeof(AddedToken), l->e);
    if (!t->raw.tokens || !t->normalized.tokens) return -1;
    for (int special = 1; special >= 0; special--) { /* as the library: special tokens first */
        for (const Json *j = list ? list->child : NULL; j; j = j->next) {
            const Json *s = json_get(j, "special");
            if ((s && s->type == JSON_TRUE) == special && added_load(l, j)) return -1;
        }
    }
    added_index(&t->raw);
    added_index(&t->normalized);
    for (size_t i = 0; i < t->size; i++)
        if (!t->pieces[i].text)
            return load_error(l, NULL,
                              "no token has id %zu; with %zu tokens the ids must be 0 .. "
                              "%zu",
                              i, t->size, t->size - 1);
    return 0;
}

/* ---- post-processor ------------------------------------------------------------------------ */

/* The ids of one {"SpecialToken": {"id": NAME}}, looked up in "special_tokens". */
static int template_token(Loader *l, const Json *processor, const Json *token, Ids *to)
{
    const Json *name = json_get(token, "id"), *entry = NULL;
    const Json *table = json_get(processor, "special_tokens");
    if (name && name->type == JSON_STRING) entry = json_get(table, name->text);
    const Json *ids = json_get(entry, "ids");
    if (!ids || ids->type != JSON_ARRAY)
        return load_error(l, token, "post_processor: special_tokens has no ids for this token");
    for (const Json *j = ids->child; j; j = j->next) {
        int32_t id;
        if (as_id(l, j, "post_processor", l->t->size, &id) || ids_add(to, id, l->e)) return -1;
    }
    return 0;
}

/* TemplateProcessing: what stands before and after $A for a single text. */
static int template_load(Loader *l, const Json *j)
{
    const Json *single = json_get(j, "single");
    int sequences = 0;
    Ids before = {0};
    int failed = !single || single->type != JSON_ARRAY ? refuse(l, j, "post_processor") : 0;
    for (const Json *k = failed ? NULL : single->child; k && !failed; k = k->next) {
        const Json *token = json_get(k, "SpecialToken");
        if (token)
            failed = template_token(l, j, token, sequences ? &l->t->suffix : &before);
        else if (json_is(json_get(json_get(k, "Sequence"), "id"), "A"))
            sequences++;
        else
            failed = refuse(l, k, "post_processor item");
    }
    if (!failed && sequences != 1) failed = refuse(l, j, "post_processor");
    for (size_t i = 0; i < l->t->prefix.count && !failed; i++) /* outer templates go outside */
        failed = ids_add(&before, l->t->prefix.ids[i], l->e);
    ids_free(&l->t->prefix);
    l->t->prefix = before;
    return failed;
}

static int post_processor_load(Loader *l, const Json *j)
{
    if (!j || j->type == JSON_NULL || is_type(j, "ByteLevel")) return 0; /* offsets only */
    if (is_type(j, "TemplateProcessing")) return template_load(l, j);
    const Json *list = json_get(j, "processors");
    if (!is_type(j, "Sequence") || !list || list->type != JSON_ARRAY)
        return refuse(l, j, "post_processor");
    for (const Json *k = list->child; k; k = k->next)
        if (post_processor_load(l, k)) return -1;
    return 0;
}

/* ---- decoder ------------------------------------------------------------------------------- */

/* Fills one decoder step; what comes before it decides what is possible. */
static int decode_step(Loader *l, const Json *j, DecodeStep *s, int fused)
{
    const Json *pattern = json_get(json_get(j, "pattern"), "String");
    if (is_type(j, "Replace") && pattern) {
        s->kind = DECODE_REPLACE;
        return copy_string(l, pattern, j, "pattern", 1, &s->from) ||
                       step_string(l, j, "content", &s->to)
                   ? -1
                   : 0;
    }
    if (is_type(j, "ByteFallback")) return (s->kind = DECODE_BYTE_FALLBACK), 0;
    if (is_type(j, "Fuse")) return (s->kind = DECODE_FUSE), 0;
    if (is_type(j, "ByteLevel")) return (s->kind = DECODE_BYTE_LEVEL), 0;
    if (is_type(j, "Metaspace")) {
        SplitStep same = {0};
        if (metaspace_load(l, j, &same)) return -1;
        s->kind = DECODE_METASPACE;
        s->from = same.replacement;
        s->start = same.scheme != PREPEND_NEVER;
        return 0;
    }
    uint64_t start, stop;
    if (is_type(j, "Strip") && !json_u64(json_get(j, "start"), &start) &&
        !json_u64(json_get(j, "stop"), &stop) && stop == 0 && start < SIZE_MAX) {
        s->kind = DECODE_STRIP;
        s->start = (size_t)start;
        s->fused = fused;
        return field_character(l, j, "content", &s->from);
    }
    return refuse(l, j, "decoder");
}

static int decoder_load(Loader *l, const Json *j)
{
    Tokenizer *t = l->t;
    if (is_type(j, "Sequence")) {
        const Json *list = json_get(j, "decoders");
        if (!list || list->type != JSON_ARRAY) return refuse(l, j, "decoder");
        for (const Json *k = list->child; k; k = k->next)
            if (decoder_load(l, k)) return -1;
        return 0;
    }
    int fused = 0, holds = 0, plain = 1; /* of the steps so far */
    for (size_t i = 0; i < t->n_decode; i++) {
        DecodeKind kind = t->decode[i].kind;
        if (kind == DECODE_FUSE || kind == DECODE_BYTE_LEVEL) fused = 1;
        if (kind == DECODE_BYTE_FALLBACK || kind == DECODE_BYTE_LEVEL) holds = 1;
        if (kind != DECODE_REPLACE) plain = 0;
    }
    if (t->n_decode == TOKENIZER_MAX_STEPS) return refuse(l, j, "decoder with more steps:");
    DecodeStep *s = &t->decode[t->n_decode++];
    if (decode_step(l, j, s, fused)) return -1;
    DecodeKind kind =
        s->kind; /* a stream holds back in one place, and counts pieces in the first */
    if ((holds && (kind == DECODE_BYTE_FALLBACK || kind == DECODE_BYTE_LEVEL)) ||
        (fused && kind == DECODE_BYTE_LEVEL) || (!plain && kind == DECODE_METASPACE))
        return refuse(l, j, "at this place the decoder");
    return 0;
}

/* ---- tokenizer_config.json ----------------------------------------------------------------- */

/* bos_token, eos_token: a string ("" = none), or {"content": string}; it must be in the vocabulary.
 */
static int config_token(Loader *l, const Json *root, const char *key, int32_t *id,
                        const char **text)
{
    const Json *j = sides_special(l->sides, key);
    if (j && (j->type == JSON_NULL || json_is(j, ""))) j = NULL;
    if (j && (!root || j != json_get(root, key))) l->name = "special_tokens_map.json", l->len = 0;
    if (j && j->type == JSON_OBJECT) j = json_get(j, "content");
    if (!j) return 0;
    Bytes content;
    if (copy_string(l, j, root, key, 1, &content)) return -1;
    *id = tokenizer_id(l->t, content.text, content.len);
    *text = content.text;
    if (*id < 0)
        return load_error(l, j, "\"%s\" is \"%.60s\", which tokenizer.json does not have", key,
                          content.text);
    return 0;
}

enum { TEMPLATES_MAX = 100 }; /* of a model; real ones have at most four */

/* Adds a chat template; a later one of the same name takes the place of an earlier one. */
static int add_template(Tokenizer *t, const char *name, size_t name_len, const char *text,
                        size_t len, Err *e)
{
    size_t i = 0;
    NamedText *more = NULL;
    while (i < t->n_templates && (strlen(t->templates[i].name) != name_len ||
                                  memcmp(t->templates[i].name, name, name_len)))
        i++;
    if (i == t->n_templates) more = pool_alloc(&t->pool, (i + 1) * sizeof *more, e);
    if (i == t->n_templates && !more) return -1;
    NamedText added = {pool_strndup(&t->pool, name, name_len, e),
                       {pool_strndup(&t->pool, text, len, e), len}};
    if (!added.name || !added.text.text) return -1;
    if (more && i) memcpy(more, t->templates, i * sizeof *more);
    if (more) t->templates = more;
    t->templates[i] = added;
    t->n_templates += i == t->n_templates;
    return 0;
}

/* chat_template: a string, or a list of {"name", "template"}. */
static int config_template(Loader *l, const Json *root)
{
    Bytes name, text;
    const Json *j = field(root, "chat_template");
    if (!j) return 0;
    if (j->type != JSON_ARRAY)
        return copy_string(l, j, root, "chat_template", 0, &text)
                   ? -1
                   : add_template(l->t, "default", 7, text.text, text.len, l->e);
    if (j->len > TEMPLATES_MAX)
        return load_error(l, j, "\"chat_template\" is a list of %zu; allowed are %d", j->len,
                          TEMPLATES_MAX);
    for (const Json *k = j->child; k; k = k->next)
        if (field_string(l, k, "name", 1, &name) || field_string(l, k, "template", 0, &text) ||
            add_template(l->t, name.text, name.len, text.text, text.len, l->e))
            return -1;
    return 0;
}

/* The special tokens with their names, which templates write. */
static int config_names(Tokenizer *t, const Sides *sides, Err *e)
{
    size_t n = 0;
    int found;
    NamedText v;
    while (sides_variable(sides, n, &v.name, &v.text) >= 0) n++;
    if (!(t->tokens = pool_alloc(&t->pool, n * sizeof v, e))) return -1;
    for (size_t i = 0; (found = sides_variable(sides, i, &v.name, &v.text)) >= 0; i++) {
        if (!found) continue;
        v.name = pool_strndup(&t->pool, v.name, strlen(v.name), e);
        v.text.text = pool_strndup(&t->pool, v.text.text, v.text.len, e);
        if (!v.name || !v.text.text) return -1;
        t->tokens[t->n_tokens++] = v;
    }
    return 0;
}

/* What tokenizer_config.json (or, for the tokens, special_tokens_map.json) says beside ids. */
static int config_load(Loader *l, Bytes config)
{
    Tokenizer *t = l->t;
    const Json *root = l->sides->config;
    Loader c = *l;
    c.name = "tokenizer_config.json";
    c.bytes = config.text;
    c.len = config.len;
    return config_token(&c, root, "bos_token", &t->bos, &t->bos_text) ||
                   config_token(&c, root, "eos_token", &t->eos, &t->eos_text) ||
                   (root && config_template(&c, root)) || config_names(t, l->sides, l->e)
               ? -1
               : 0;
}

/* ---- all of it ----------------------------------------------------------------------------- */

static void byte_alphabet(Tokenizer *t)
{
    bytes_as_letters(t->byte_chars);
    for (size_t i = 0; i < BYTE_ALPHABET; i++) t->char_bytes[i] = -1;
    for (unsigned b = 0; b < 256; b++) t->char_bytes[t->byte_chars[b]] = (short)b;
}

/* Mistral's 131,072-token vocabulary belongs to the Tekken pattern; some files were converted with
 * Llama 3's. The ids are then what transformers gives for the file, not what the model learnt. */
static void warn_tekken(const Loader *l)
{
    enum { TEKKEN_SIZE = 131072 };
    if (l->t->size != TEKKEN_SIZE || l->t->merge_mask == 0) return;
    if (l->t->n_split && l->t->split[0].pattern == PATTERN_LLAMA3 &&
        tokenizer_id(l->t, "[INST]", 6) >= 0)
        log_note(l->log, 'w',
                 "%s: a Mistral vocabulary with Llama 3's split pattern: a known "
                 "conversion mistake; numbers and upper case will be split as the model never saw",
                 l->name);
}

/* Can UTF-8 hold this byte? Bytes 0xC0, 0xC1 and from 0xF5 on never occur in it. */
static int occurs_in_utf8(unsigned byte)
{
    return byte != 0xc0 && byte != 0xc1 && byte < 0xf5;
}

/* A byte-level vocabulary that was trained without its alphabet lacks the letters of rare bytes.
 * The ids are the library's: it leaves such bytes out, or writes its unknown token. */
static void note_missing_bytes(const Loader *l)
{
    const Tokenizer *t = l->t;
    unsigned missing = 0, first = 0;
    int written = 0; /* one of them is a line break or printable ASCII */
    size_t step = 0;
    while (step < t->n_split && t->split[step].kind != SPLIT_BYTE_LEVEL) step++;
    if (step == t->n_split || t->byte_fallback || t->unk_lost) return;
    for (unsigned b = 256; b-- > 0;) {
        char utf8[4];
        size_t len = utf8_put(utf8, t->byte_chars[b]);
        if (!occurs_in_utf8(b) || model_id(t, utf8, len) >= 0) continue;
        missing++;
        first = b;
        written = written || b == '\n' || (b >= ' ' && b <= '~');
    }
    if (missing)
        log_note(l->log, written ? 'w' : 'i',
                 "%s: the vocabulary has no token for %u of the bytes that texts can hold (the "
                 "first is 0x%02X): %s",
                 l->name, missing, first,
                 t->unk >= 0 ? "they are read as the unknown token" : "they are left out of texts");
}

static int root_load(Loader *l, const Json *root)
{
    if (root->type != JSON_OBJECT) return load_error(l, root, "must be an object");
    const Json *decoder = field(root, "decoder");
    if (model_load(l, root) || normalizer_load(l, json_get(root, "normalizer")) ||
        added_tokens_load(l) || pre_tokenizer_load(l, json_get(root, "pre_tokenizer")) ||
        post_processor_load(l, json_get(root, "post_processor")))
        return -1;
    if (decoder) return decoder_load(l, decoder);
    l->t->decode[l->t->n_decode++].kind = DECODE_SPACES;
    return 0;
}

/* The files beside the vocabulary; text NULL where one is not there. */
typedef struct {
    Bytes config, map, added, model;
} SideFiles;

/* One of them, which must hold an object. */
static int side_parse(Pool *pool, Bytes file, const char *name, const Json **root, Err *e)
{
    *root = NULL;
    if (!file.text) return 0;
    *root = json_parse(pool, file.text, file.len, name, JSON_ALLOW_BOM | JSON_ALLOW_DUPLICATES, e);
    if (*root && (*root)->type != JSON_OBJECT)
        return err_set(e, ERR_DATA, "%s: must be an object", name);
    return *root ? 0 : -1;
}

static int sides_parse(Pool *pool, const SideFiles *f, Sides *s, Err *e)
{
    return side_parse(pool, f->config, "tokenizer_config.json", &s->config, e) ||
                   side_parse(pool, f->map, "special_tokens_map.json", &s->map, e) ||
                   side_parse(pool, f->added, "added_tokens.json", &s->added, e) ||
                   side_parse(pool, f->model, "config.json", &s->model, e)
               ? -1
               : 0;
}

/* from_model: json was made of a tokenizer.model, and the files beside it have had their say. */
static Tokenizer *parse_json(const char *json, size_t len, const char *name, const SideFiles *files,
                             int from_model, const Log *log, Err *e)
{
    Tokenizer *t = mem_calloc(1, sizeof *t, e);
    if (!t) return NULL;
    t->bos = t->eos = -1;
    for (size_t i = 0; i < 256; i++) t->byte_ids[i] = -1;
    byte_alphabet(t);
    Pool pool = {0};
    Sides sides = {0};
    Loader l = {t, name, json, len, log, e, &sides, &pool, NULL};
    Json *root = json_parse(&pool, json, len, name, JSON_ALLOW_BOM, e);
    int failed = !root || sides_parse(&pool, files, &sides, e) || root_load(&l, root) ||
                 config_load(&l, files->config) || sides_check(t, &sides, from_model, e) ||
                 (!from_model && class_apply(t, &sides, log, e));
    pool_free(&pool);
    if (failed) {
        tokenizer_free(t);
        return NULL;
    }
    warn_tekken(&l);
    note_missing_bytes(&l);
    return t;
}

/* Bytes of a tokenizer.model. */
static Tokenizer *parse_model(const char *bytes, size_t len, const char *name,
                              const SideFiles *files, const Log *log, Err *e)
{
    SentencePieceOptions options;
    SentencePiece info;
    Sides sides;
    Pool pool = {0};
    Text json = {0};
    Tokenizer *t = NULL;
    int status = sides_parse(&pool, files, &sides, e) || sides_model(&sides, &options, e);
    if (!status && !options.no_prefix && !class_is_llama(&sides))
        log_note(log, 'w',
                 "%s: a space is put in front of texts, as SentencePiece does; transformers 5 does "
                 "so only for a LlamaTokenizer that is not Mistral's, so its ids differ here",
                 name);
    if (!status && !sentencepiece_json(bytes, len, name, &options, &info, &json, e))
        t = parse_json(json.data, json.len, name, files, 1, log, e);
    text_free(&json);
    pool_free(&pool);
    if (!t) return NULL;
    if (t->bos < 0 && info.bos >= 0 && !options.no_bos) {
        t->bos = info.bos;
        t->bos_text = t->pieces[info.bos].text;
    }
    if (t->eos < 0 && info.eos >= 0) {
        t->eos = info.eos;
        t->eos_text = t->pieces[info.eos].text;
    }
    return t;
}

/* Bytes of a tekken.json. Its names of BOS and EOS are fixed. */
static Tokenizer *parse_tekken(const char *bytes, size_t len, const char *name,
                               const SideFiles *files, const Log *log, Err *e)
{
    Text json = {0};
    Tokenizer *t = NULL;
    if (!tekken_json(bytes, len, name, &json, e))
        t = parse_json(json.data, json.len, name, files, 1, log, e);
    text_free(&json);
    if (t && t->bos < 0) t->bos = 1, t->bos_text = t->pieces[1].text;
    if (t && t->eos < 0) t->eos = 2, t->eos_text = t->pieces[2].text;
    return t;
}

Tokenizer *tokenizer_parse(const char *json, size_t len, const char *name, const char *config,
                           size_t config_len, const Log *log, Err *e)
{
    SideFiles files = {.config = {config, config_len}};
    return parse_json(json, len, name, &files, 0, log, e);
}

Tokenizer *tokenizer_parse_model(const char *bytes, size_t len, const char *name,
                                 const char *config, size_t config_len, const Log *log, Err *e)
{
    SideFiles files = {.config = {config, config_len}};
    return parse_model(bytes, len, name, &files, log, e);
}

/* Says what a directory is that holds no tokenizer that is read here; *e is kept if that is not
 * known. */
static void explain_missing(const char *dir, Err *e)
{
    char path[IO_PATH_MAX];
    Err ignored;
    if (!io_is_directory(dir)) {
        err_set(e, ERR_NO_INPUT,
                "%s: there is no such directory; a model is a directory with config.json, "
                "tokenizer.json and safetensors, or a GGUF file, and is not downloaded here",
                dir);
        return;
    }
    if (!io_path(path, sizeof path, dir, "vocab.json", &ignored) && io_exists(path))
        err_set(e, ERR_NO_INPUT,
                "%s: has vocab.json, but no tokenizer.json: python3 -c \"from transformers import "
                "AutoTokenizer as T; T.from_pretrained('DIR').save_pretrained('DIR')\" writes it",
                dir);
}

const char *tokenizer_file(const char *dir, Err *e)
{
    static const char *const names[] = {"tokenizer.json", "tokenizer.model", TEKKEN_FILE};
    char path[IO_PATH_MAX];
    for (size_t i = 0; i < 3; i++) {
        if (io_path(path, sizeof path, dir, names[i], e)) return NULL;
        if (io_exists(path)) return names[i];
    }
    return names[0];
}

const char *const tokenizer_files[TOKENIZER_FILES] = {
    "tokenizer.json",      "tokenizer.model",         "tokenizer_config.json",
    "chat_template.jinja", "special_tokens_map.json", "generation_config.json",
    "added_tokens.json",   TEKKEN_FILE};
const char tokenizer_more_templates[] = "additional_chat_templates";

static int hash_file(Sha256 *s, const char *dir, const char *name, Err *e)
{
    char path[IO_PATH_MAX], file[65];
    if (io_path(path, sizeof path, dir, name, e)) return -1;
    if (!io_exists(path)) return 0;
    if (sha256_file(path, file, e)) return -1;
    sha256_add(s, name, strlen(name));
    sha256_add(s, file, strlen(file));
    return 0;
}

/* The names in additional_chat_templates that end in .jinja, sorted; none where it is no folder. */
static int more_templates(const char *dir, Pool *pool, char ***names, size_t *count, Err *e)
{
    char path[IO_PATH_MAX];
    size_t n = 0, kept = 0;
    *count = 0;
    if (io_path(path, sizeof path, dir, tokenizer_more_templates, e)) return -1;
    if (!io_exists(path)) return 0;
    if (io_list(path, pool, names, &n, e)) return -1;
    for (size_t i = 0; i < n; i++) {
        size_t len = strlen((*names)[i]);
        if (len > 6 && !strcmp((*names)[i] + len - 6, ".jinja")) (*names)[kept++] = (*names)[i];
    }
    if (kept > TEMPLATES_MAX)
        return err_set(e, ERR_DATA, "%s: %zu chat templates; allowed are %d", path, kept,
                       TEMPLATES_MAX);
    *count = kept;
    return 0;
}

/* The two texts that a GGUF file stands for. */
static int gguf_texts(const char *path, Text *tokenizer, Text *config, Err *e)
{
    Gguf g;
    if (gguf_open(&g, path, 1, e)) return -1;
    int status = tokenizer_of_gguf(&g, tokenizer, config, e);
    gguf_close(&g);
    return status;
}

static int gguf_hash(const char *path, char hex[65], Err *e)
{
    Text tokenizer = {0}, config = {0};
    Sha256 s;
    int status = gguf_texts(path, &tokenizer, &config, e);
    sha256_begin(&s);
    if (!status) {
        sha256_add(&s, tokenizer.data, tokenizer.len);
        sha256_add(&s, config.data, config.len);
    }
    sha256_end(&s, hex);
    text_free(&tokenizer);
    text_free(&config);
    return status;
}

int tokenizer_hash(const char *model, char hex[65], Err *e)
{
    char dir[IO_PATH_MAX], name[IO_PATH_MAX];
    char **names;
    size_t n;
    Pool pool = {0};
    Sha256 s;
    if (io_model_path(dir, model, e)) return -1;
    if (gguf_is(dir)) return gguf_hash(dir, hex, e);
    const char *used = tokenizer_file(dir, e);
    if (!used) return -1;
    sha256_begin(&s);
    int status = 0;
    for (size_t i = 0; i < TOKENIZER_FILES && !status; i++) {
        int idle = !strcmp(tokenizer_files[i], TEKKEN_FILE) && strcmp(used, TEKKEN_FILE);
        if (!idle) status = hash_file(&s, dir, tokenizer_files[i], e); /* else it is not read */
    }
    if (!status) status = more_templates(dir, &pool, &names, &n, e);
    for (size_t i = 0; !status && i < n; i++)
        status = io_path(name, sizeof name, tokenizer_more_templates, names[i], e) ||
                 hash_file(&s, dir, name, e);
    sha256_end(&s, hex);
    pool_free(&pool);
    return status ? -1 : 0;
}

/* Reads a file that may be absent: *data NULL then. */
static int read_optional(const char *dir, const char *name, char **data, size_t *len, Err *e)
{
    char path[IO_PATH_MAX];
    *data = NULL;
    *len = 0;
    if (io_path(path, sizeof path, dir, name, e)) return -1;
    return io_exists(path) ? io_read_file(path, TOKENIZER_MAX_FILE, data, len, e) : 0;
}

static int template_file(Tokenizer *t, const char *dir, const char *file, const char *name,
                         size_t name_len, Err *e)
{
    char *text;
    size_t len;
    if (read_optional(dir, file, &text, &len, e)) return -1;
    int failed = text && add_template(t, name, name_len, text, len, e);
    mem_free(text);
    return failed ? -1 : 0;
}

/* chat_template.jinja and additional_chat_templates/NAME.jinja: where there is any, those of
 * tokenizer_config.json count no more. */
static int template_files_load(Tokenizer *t, const char *dir, Err *e)
{
    char path[IO_PATH_MAX];
    char **names;
    size_t n;
    Pool pool = {0};
    int status = io_path(path, sizeof path, dir, "chat_template.jinja", e) ||
                 more_templates(dir, &pool, &names, &n, e);
    if (!status && (n || io_exists(path))) t->n_templates = 0;
    if (!status) status = template_file(t, dir, "chat_template.jinja", "default", 7, e);
    for (size_t i = 0; !status && i < n; i++)
        status = io_path(path, sizeof path, tokenizer_more_templates, names[i], e) ||
                 template_file(t, dir, path, names[i], strlen(names[i]) - 6, e);
    pool_free(&pool);
    return status ? -1 : 0;
}

static Tokenizer *load_gguf(const char *path, const Log *log, Err *e)
{
    Text json = {0}, config = {0};
    Tokenizer *t = NULL;
    if (!gguf_texts(path, &json, &config, e)) {
        SideFiles files = {.config = {config.data, config.len}};
        t = parse_json(json.data, json.len, path, &files, 1, log, e);
    }
    text_free(&json);
    text_free(&config);
    return t;
}

Tokenizer *tokenizer_load(const char *model, const Log *log, Err *e)
{
    char path[IO_PATH_MAX], dir[IO_PATH_MAX];
    char *bytes, *side[4] = {0};
    size_t len, side_len[4];
    if (io_model_path(dir, model, e)) return NULL;
    if (gguf_is(dir)) return load_gguf(dir, log, e);
    const char *name = tokenizer_file(dir, e);
    if (!name || io_path(path, sizeof path, dir, name, e)) return NULL;
    if (io_read_file(path, TOKENIZER_MAX_FILE, &bytes, &len, e)) {
        if (!io_exists(path)) explain_missing(dir, e);
        return NULL;
    }
    Tokenizer *t = NULL;
    static const char *const sides[] = {"tokenizer_config.json", "special_tokens_map.json",
                                        "added_tokens.json", "config.json"};
    int status = 0;
    for (size_t i = 0; i < 4 && !status; i++)
        status = read_optional(dir, sides[i], &side[i], &side_len[i], e);
    if (!status) {
        SideFiles files = {{side[0], side_len[0]}, {side[1], side_len[1]}, {side[2], side_len[2]},
                           {side[3], side_len[3]}};
        if (!strcmp(name, "tokenizer.model"))
            t = parse_model(bytes, len, path, &files, log, e);
        else if (!strcmp(name, TEKKEN_FILE))
            t = parse_tekken(bytes, len, path, &files, log, e);
        else
            t = parse_json(bytes, len, path, &files, 0, log, e);
    }
    mem_free(bytes);
    for (size_t i = 0; i < 4; i++) mem_free(side[i]);
    if (t && template_files_load(t, dir, e)) {
        tokenizer_free(t);
        return NULL;
    }
    return t;
}

void tokenizer_free(Tokenizer *t)
{
    if (!t) return;
    ids_free(&t->prefix);
    ids_free(&t->suffix);
    for (size_t i = 0; i < t->n_split; i++) regex_free(t->split[i].regex);
    mem_free(t->joins);
    pool_free(&t->pool);
    mem_free(t);
}
