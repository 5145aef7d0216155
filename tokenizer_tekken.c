/* tokenizer_tekken.c - turns Mistral's tekken.json into the equivalent tokenizer.json.
 *
 * The file has a pattern for words, the bytes of each token in base64 in the order of their ranks,
 * and names of special tokens, whose ids stand in front of the others. There are no merges: two
 * neighbours are joined if what they make is a token, the lowest rank first. So the pairs that make
 * a token, in the order of its rank, are the merges of a tokenizer.json, as transformers converts
 * it.
 */
#include "tokenizer_inner.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOKEN_MAX = 1024, SPECIALS_MAX = 4096 };
#define MADE_LIMIT ((size_t)1 << 28) /* bytes of the tokenizer.json; real ones have 20 million */

typedef struct {
    Bytes bytes;
    size_t id;
} Token;

typedef struct {
    const char *name;
    Token *tokens; /* by rank */
    const Token **by_bytes;
    size_t count, specials;
    Pool pool;
    char letters[256][4]; /* byte-level alphabet, in UTF-8 */
    size_t letter_len[256];
    Text *out;
    Err *e;
} Tekken;

/* Names of special tokens by rank, in files before version 11, which do not list them. */
static const char *const usual[] = {"<unk>",
                                    "<s>",
                                    "</s>",
                                    "[INST]",
                                    "[/INST]",
                                    "[AVAILABLE_TOOLS]",
                                    "[/AVAILABLE_TOOLS]",
                                    "[TOOL_RESULTS]",
                                    "[/TOOL_RESULTS]",
                                    "[TOOL_CALLS]",
                                    "[IMG]",
                                    "<pad>",
                                    "[IMG_BREAK]",
                                    "[IMG_END]",
                                    "[PREFIX]",
                                    "[MIDDLE]",
                                    "[SUFFIX]",
                                    "[SYSTEM_PROMPT]",
                                    "[/SYSTEM_PROMPT]",
                                    "[TOOL_CONTENT]"};

/* ---- reading ------------------------------------------------------------------------------- */

static int base64_digit(char c)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c ? strchr(digits, c) : NULL;
    return at ? (int)(at - digits) : -1;
}

/* The bytes of a token; len is a multiple of 4, at most two '=' at the end. */
static int decode(Tekken *t, const Json *j, size_t rank, Bytes *out)
{
    size_t len = j && j->type == JSON_STRING ? j->len : 0, n = len;
    while (n > 0 && len - n < 2 && j->text[n - 1] == '=') n--;
    if (!len || len % 4 || len / 4 * 3 > TOKEN_MAX)
        return err_set(t->e, ERR_DATA, "%s: vocab[%zu]: \"token_bytes\" must be base64", t->name,
                       rank);
    char *bytes = pool_alloc(&t->pool, len / 4 * 3 + 1, t->e);
    if (!bytes) return -1;
    uint32_t bits = 0;
    for (size_t i = 0; i < n; i++) {
        int digit = base64_digit(j->text[i]);
        if (digit < 0)
            return err_set(t->e, ERR_DATA, "%s: vocab[%zu]: \"token_bytes\" must be base64",
                           t->name, rank);
        bits = bits << 6 | (uint32_t)digit;
        if (i % 4) bytes[i / 4 * 3 + i % 4 - 1] = (char)(bits >> (6 - 2 * (i % 4)));
    }
    *out = (Bytes){bytes, n * 3 / 4};
    return 0;
}

static int by_bytes(const void *a, const void *b)
{
    const Bytes *x = &(*(const Token *const *)a)->bytes, *y = &(*(const Token *const *)b)->bytes;
    if (x->len != y->len) return (x->len > y->len) - (x->len < y->len);
    return memcmp(x->text, y->text, x->len);
}

static const Token *find(const Tekken *t, const char *bytes, size_t len)
{
    Token wanted = {{bytes, len}, 0};
    const Token *key = &wanted;
    const Token *const *found = bsearch(&key, t->by_bytes, t->count, sizeof key, by_bytes);
    return found ? *found : NULL;
}

static int read_tokens(Tekken *t, const Json *vocab)
{
    const Json *j = vocab->child;
    t->tokens = pool_alloc(&t->pool, t->count * sizeof *t->tokens, t->e);
    t->by_bytes = pool_alloc(&t->pool, t->count * sizeof *t->by_bytes, t->e);
    if (!t->tokens || !t->by_bytes) return -1;
    for (size_t i = 0; i < t->count; i++, j = j->next) {
        uint64_t rank;
        if (json_u64(json_get(j, "rank"), &rank) || rank != i)
            return err_set(t->e, ERR_DATA, "%s: vocab[%zu]: its \"rank\" must be %zu", t->name, i,
                           i);
        if (decode(t, json_get(j, "token_bytes"), i, &t->tokens[i].bytes)) return -1;
        t->tokens[i].id = t->specials + i;
        t->by_bytes[i] = &t->tokens[i];
    }
    sort_items(t->by_bytes, t->count, sizeof *t->by_bytes, by_bytes);
    for (size_t i = 1; i < t->count; i++)
        if (!by_bytes(&t->by_bytes[i - 1], &t->by_bytes[i]))
            return err_set(t->e, ERR_DATA, "%s: tokens %zu and %zu are the same", t->name,
                           t->by_bytes[i - 1]->id, t->by_bytes[i]->id);
    return 0;
}

/* ---- writing ------------------------------------------------------------------------------- */

/* The name of special token i, in quotes: listed, usual or made. */
static int put_special(const Tekken *t, const Json *listed, size_t i)
{
    char made[40];
    snprintf(made, sizeof made, "<SPECIAL_%zu>", i);
    for (const Json *j = listed ? listed->child : NULL; j; j = j->next) {
        uint64_t rank;
        const Json *name = json_get(j, "token_str");
        if (!json_u64(json_get(j, "rank"), &rank) && rank == i && name && name->type == JSON_STRING)
            return json_put_string(t->out, name->text, name->len, t->e);
    }
    const char *name = !listed && i < sizeof usual / sizeof *usual ? usual[i] : made;
    return json_put_string(t->out, name, strlen(name), t->e);
}

/* A token in the byte-level alphabet, in quotes. */
static int put_token(const Tekken *t, Bytes bytes)
{
    char spelled[2 * TOKEN_MAX];
    size_t n = 0;
    for (size_t i = 0; i < bytes.len; i++) {
        unsigned char b = (unsigned char)bytes.text[i];
        memcpy(spelled + n, t->letters[b], t->letter_len[b]);
        n += t->letter_len[b];
    }
    return json_put_string(t->out, spelled, n, t->e);
}

typedef struct {
    const Token *left, *right;
} Pair;

static int by_left(const void *a, const void *b)
{
    const Pair *x = a, *y = b;
    return (x->left->id > y->left->id) - (x->left->id < y->left->id);
}

/* All pairs that make a token, those of smaller ids first. */
static int put_merges_of(const Tekken *t, const Token *token, int *first)
{
    Pair pairs[TOKEN_MAX];
    size_t n = 0;
    for (size_t at = 1; at < token->bytes.len; at++) {
        const Token *left = find(t, token->bytes.text, at);
        const Token *right = left ? find(t, token->bytes.text + at, token->bytes.len - at) : NULL;
        if (right) pairs[n++] = (Pair){left, right};
    }
    sort_items(pairs, n, sizeof *pairs, by_left);
    for (size_t i = 0; i < n; i++) {
        if (text_addf(t->out, t->e, *first ? "[" : ",[") || put_token(t, pairs[i].left->bytes) ||
            text_addf(t->out, t->e, ",") || put_token(t, pairs[i].right->bytes) ||
            text_addf(t->out, t->e, "]"))
            return -1;
        *first = 0;
    }
    if (t->out->len <= MADE_LIMIT) return 0;
    return err_set(t->e, ERR_DATA, "%s: the merges of its tokens take more than %zu bytes", t->name,
                   MADE_LIMIT);
}

static int put_steps(const Tekken *t, const Json *pattern)
{
    return text_addf(t->out, t->e,
                     "],\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":"
                     "\"Split\",\"pattern\":{\"Regex\":") ||
                   json_put_string(t->out, pattern->text, pattern->len, t->e) ||
                   text_addf(
                       t->out, t->e,
                       "},\"behavior\":\"Isolated\",\"invert\":false},{\"type\":"
                       "\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]},"
                       "\"decoder\":{\"type\":\"ByteLevel\"},\"post_processor\":{\"type\":"
                       "\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\","
                       "\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}]," TEMPLATE_PAIR
                       "\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[1],\"tokens\":"
                       "[\"<s>\"]}}},\"model\":{\"type\":\"BPE\",\"ignore_merges\":true,"
                       "\"vocab\":{")
               ? -1
               : 0;
}

static int put_all(const Tekken *t, const Json *pattern, const Json *listed)
{
    int first = 1;
    if (text_addf(t->out, t->e, "{\"added_tokens\":[")) return -1;
    for (size_t i = 0; i < t->specials; i++)
        if (text_addf(t->out, t->e, "%s{\"id\":%zu,\"special\":true,\"content\":", i ? "," : "",
                      i) ||
            put_special(t, listed, i) || text_addf(t->out, t->e, "}"))
            return -1;
    if (put_steps(t, pattern)) return -1;
    for (size_t i = 0; i < t->count; i++)
        if (text_addf(t->out, t->e, i ? "," : "") || put_token(t, t->tokens[i].bytes) ||
            text_addf(t->out, t->e, ":%zu", t->tokens[i].id))
            return -1;
    if (text_addf(t->out, t->e, "},\"merges\":[")) return -1;
    for (size_t i = 0; i < t->count; i++)
        if (put_merges_of(t, &t->tokens[i], &first)) return -1;
    return text_addf(t->out, t->e, "]}}");
}

/* ---- all of it ----------------------------------------------------------------------------- */

static int convert(Tekken *t, const Json *root)
{
    const Json *config = json_get(root, "config"), *vocab = json_get(root, "vocab");
    const Json *pattern = json_get(config, "pattern"), *listed = json_get(root, "special_tokens");
    uint64_t size, specials;
    if (!pattern || pattern->type != JSON_STRING || !vocab || vocab->type != JSON_ARRAY ||
        json_u64(json_get(config, "default_vocab_size"), &size) ||
        json_u64(json_get(config, "default_num_special_tokens"), &specials))
        return err_set(t->e, ERR_DATA,
                       "%s: needs \"vocab\", and in \"config\" pattern, default_vocab_size and "
                       "default_num_special_tokens",
                       t->name);
    if (specials < 3 || specials > SPECIALS_MAX || size <= specials || size - specials > vocab->len)
        return err_set(t->e, ERR_DATA,
                       "%s: default_vocab_size %llu and default_num_special_tokens %llu do not fit "
                       "the %zu tokens of \"vocab\"",
                       t->name, (unsigned long long)size, (unsigned long long)specials, vocab->len);
    t->specials = (size_t)specials;
    t->count = (size_t)(size - specials);
    if (listed && listed->type != JSON_ARRAY) listed = NULL;
    if (listed && listed->len > t->specials)
        return err_set(t->e, ERR_DATA, "%s: lists more special tokens than %zu", t->name,
                       t->specials);
    return read_tokens(t, vocab) || put_all(t, pattern, listed) ? -1 : 0;
}

int tekken_json(const char *bytes, size_t len, const char *name, Text *out, Err *e)
{
    Tekken t = {.name = name, .out = out, .e = e};
    unsigned short letters[256];
    bytes_as_letters(letters);
    for (unsigned b = 0; b < 256; b++) t.letter_len[b] = utf8_put(t.letters[b], letters[b]);
    const Json *root = json_parse(&t.pool, bytes, len, name, JSON_ALLOW_BOM, e);
    int bad = !root || convert(&t, root);
    pool_free(&t.pool);
    return bad ? -1 : 0;
}
