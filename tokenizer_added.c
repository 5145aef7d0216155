/* tokenizer_added.c - reads what the files beside a vocabulary say about its ids.
 *
 * tokenizer_config.json, special_tokens_map.json and added_tokens.json name tokens, give them ids
 * and flags, and choose where spaces are put in front. They are read as transformers 5 reads them:
 * an entry of added_tokens_decoder goes before the one in tokenizer.json; without such a table the
 * other two files count, but not for tokens that tokenizer.json lists; then every special token
 * that is named is one. What would change ids and is not done here is refused by name.
 */
#include "tokenizer_inner.h"

#include <stdio.h>
#include <string.h>

const char *const added_flags[ADDED_FLAGS] = {"special", "single_word", "lstrip", "rstrip",
                                              "normalized"};
#define CONFIG "tokenizer_config.json"

typedef struct {
    Bytes content;
    int32_t id;
    unsigned char flag[ADDED_FLAGS];
} Token;

typedef struct {
    const Tokenizer *t;
    Token *tokens;
    size_t count, cap;
    size_t next; /* the id of the next token that the vocabulary lacks */
    int changed;
    size_t moved; /* new tokens that get another id than their file says */
    char first_moved[160];
    Err *e;
} List;

static const Json *member(const Json *object, const char *key)
{
    const Json *j = object ? json_get(object, key) : NULL;
    return j && j->type != JSON_NULL ? j : NULL;
}

/* ---- tokens -------------------------------------------------------------------------------- */

static Token *find(List *l, Bytes content)
{
    for (size_t i = 0; i < l->count; i++)
        if (l->tokens[i].content.len == content.len &&
            !memcmp(l->tokens[i].content.text, content.text, content.len))
            return &l->tokens[i];
    return NULL;
}

static int append(List *l, const Token *token)
{
    if (mem_grow(&l->tokens, &l->cap, l->count, sizeof *l->tokens, l->e)) return -1;
    l->tokens[l->count++] = *token;
    return 0;
}

/* A token of one of the files. token->id is the file's, or -1; the vocabulary takes precedence, and
 * a new token always gets the next id. over: its flags replace those of a token that is already
 * listed; otherwise that one becomes special if this one is. */
static int take(List *l, const Token *token, int over)
{
    Token *known = find(l, token->content), added = *token;
    added.id = known ? known->id : model_id(l->t, token->content.text, token->content.len);
    if (added.id < 0 && token->id >= 0 && (size_t)token->id != l->next && !l->moved++)
        snprintf(l->first_moved, sizeof l->first_moved, "\"%.60s\", %ld there and %zu here",
                 token->content.text, (long)token->id, l->next);
    if (added.id < 0) added.id = (int32_t)l->next;
    if (!known) {
        l->changed = 1;
        if ((size_t)added.id == l->next) l->next++;
        return append(l, &added);
    }
    if (!over) memcpy(added.flag, known->flag, sizeof added.flag);
    if (!over && token->flag[0]) added.flag[0] = 1;
    if (!memcmp(added.flag, known->flag, sizeof added.flag)) return 0;
    memcpy(known->flag, added.flag, sizeof added.flag);
    l->changed = 1;
    return 0;
}

/* Reads a token given as text, or as an object with flags. 0 if j is neither: that is checked
 * elsewhere. */
static int read_token(const Json *j, Token *token)
{
    *token = (Token){.id = -1};
    const Json *content = j && j->type == JSON_OBJECT ? json_get(j, "content") : j;
    if (!content || content->type != JSON_STRING || !content->len) return 0;
    token->content = (Bytes){content->text, content->len};
    for (size_t i = 0; content != j && i < ADDED_FLAGS; i++) {
        const Json *flag = json_get(j, added_flags[i]);
        token->flag[i] = flag && flag->type == JSON_TRUE;
    }
    return 1;
}

/* Reads the added tokens of tokenizer.json; 0 if one is broken, which its loader reports better. */
static int read_listed(List *l, const Json *listed)
{
    for (const Json *j = listed ? listed->child : NULL; j; j = j->next) {
        Token token;
        uint64_t id;
        if (j->type != JSON_OBJECT || !read_token(j, &token) || json_u64(json_get(j, "id"), &id) ||
            id >= l->next)
            return 0;
        token.id = (int32_t)id;
        if (append(l, &token)) return -1;
    }
    return 1;
}

/* Reads the key of added_tokens_decoder. */
static int decoder_id(const Json *j, long *id)
{
    char end;
    return sscanf(j->key, "%9ld%c", id, &end) == 1 && *id >= 0;
}

/* {"2": {"content": "</s>", ...}}, in the order of the ids. */
static int take_decoder(List *l, const Json *table)
{
    long last = -1;
    for (size_t done = 0; done < table->len; done++) {
        const Json *first = NULL;
        long least = 0, id;
        for (const Json *j = table->child; j; j = j->next) {
            if (!decoder_id(j, &id))
                return err_set(l->e, ERR_DATA,
                               CONFIG ": added_tokens_decoder: \"%.60s\" must be an id", j->key);
            if (id > last && (!first || id < least)) first = j, least = id;
        }
        Token token;
        if (!first) break; /* one id twice */
        if (!read_token(first, &token) || first->type != JSON_OBJECT)
            return err_set(l->e, ERR_DATA,
                           CONFIG ": added_tokens_decoder: %ld must be an object with \"content\"",
                           least);
        token.id = (int32_t)least;
        last = least;
        if (take(l, &token, 1)) return -1;
    }
    return 0;
}

/* ---- special tokens by name ---------------------------------------------------------------- */

static const char *const names[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                    "pad_token", "cls_token", "mask_token"};
enum { NAMES = sizeof names / sizeof *names };

const Json *sides_special(const Sides *s, const char *key)
{
    int legacy = !member(s->config, "added_tokens_decoder");
    const Json *j = legacy && s->map ? json_get(s->map, key) : NULL;
    if (!j && s->config) j = json_get(s->config, key);
    static const char end[] = "<|endoftext|>";
    static const Json of_gpt2 = {.type = JSON_STRING, .text = end, .len = sizeof end - 1};
    for (size_t i = 0; !j && i < 3 && class_is_gpt2(s); i++)
        if (!strcmp(key, names[i])) return &of_gpt2;
    return j;
}

/* The i-th special token that the files name, in transformers' order: the known names, others that
 * end in _token, then the lists. NULL beyond the last. */
static const Json *named(const Sides *s, size_t i)
{
    static const char suffix[] = "_token";
    if (i < NAMES) {
        static const Json none = {.type = JSON_NULL};
        const Json *j = sides_special(s, names[i]);
        return j ? j : &none;
    }
    i -= NAMES;
    for (const Json *j = s->config ? s->config->child : NULL; j; j = j->next) {
        size_t n = j->key_len, own = 0;
        if (j->type != JSON_STRING || n < sizeof suffix || strcmp(j->key + n - 6, suffix)) continue;
        for (size_t k = 0; k < NAMES; k++) own |= !strcmp(j->key, names[k]);
        if (!own && !i--) return j;
    }
    int given = s->config && (json_get(s->config, "extra_special_tokens") ||
                              json_get(s->config, "additional_special_tokens"));
    const Json *list = sides_special(s, "extra_special_tokens");
    if (!list || list->type == JSON_NULL || !list->len)
        list = given ? member(s->config, "additional_special_tokens")
                     : sides_special(s, "additional_special_tokens");
    for (const Json *j = list ? list->child : NULL; j; j = j->next)
        if (!i--) return j;
    return NULL;
}

/* Do the files name this token as special? */
static int sides_name(const Sides *s, Bytes content)
{
    const Json *j;
    Token token;
    for (size_t i = 0; (j = named(s, i)); i++)
        if (read_token(j, &token) && token.content.len == content.len &&
            !memcmp(token.content.text, content.text, content.len))
            return 1;
    return 0;
}

/* Reads {"[PAD]": 32000}: special if a name says so, and not for tokens that are listed. */
static int take_added_file(List *l, const Json *table, const Sides *s)
{
    for (const Json *j = table->child; j; j = j->next) {
        uint64_t id;
        Token token = {.content = {j->key, j->key_len}, .id = -1};
        if (json_u64(j, &id) || id > INT32_MAX)
            return err_set(l->e, ERR_DATA, "added_tokens.json: \"%.60s\" must have an id", j->key);
        if (!j->key_len || find(l, token.content)) continue;
        token.id = (int32_t)id;
        token.flag[0] = (unsigned char)sides_name(s, token.content);
        token.flag[4] = !token.flag[0];
        if (take(l, &token, 0)) return -1;
    }
    return 0;
}

int sides_variable(const Sides *s, size_t i, const char **name, Bytes *text)
{
    Token token;
    const Json *j = named(s, i);
    *name = i < NAMES ? names[i] : j ? j->key : NULL;
    if (!*name) return -1;
    if (!read_token(j, &token)) return 0;
    *text = token.content;
    return 1;
}

static int take_named(List *l, const Sides *s)
{
    const Json *j;
    Token token;
    for (size_t i = 0; (j = named(s, i)); i++) {
        if (!read_token(j, &token)) continue;
        token.flag[0] = 1;
        /* A BOS or EOS that nothing else defines is refused when it is looked up. */
        if (i < 2 && !find(l, token.content) &&
            model_id(l->t, token.content.text, token.content.len) < 0)
            continue;
        if (take(l, &token, 0)) return -1;
    }
    return 0;
}

/* ---- the list ------------------------------------------------------------------------------ */

static Json *node(Pool *pool, JsonType type, const char *key, const char *text, size_t len, Err *e)
{
    Json *j = pool_alloc(pool, sizeof *j, e);
    if (!j) return NULL;
    *j = (Json){.type = type, .text = text, .len = len, .key = key, .key_len = strlen(key)};
    return j;
}

/* Reads {"id", "content", flags}, as in tokenizer.json. */
static Json *token_node(Pool *pool, const Token *token, Err *e)
{
    char id[16];
    size_t n = (size_t)snprintf(id, sizeof id, "%ld", (long)token->id);
    const char *spelled = pool_strndup(pool, id, n, e);
    Json *j = node(pool, JSON_OBJECT, "", NULL, 2 + ADDED_FLAGS, e);
    if (!j || !spelled || !(j->child = node(pool, JSON_NUMBER, "id", spelled, n, e))) return NULL;
    Json *at = j->child;
    at->next = node(pool, JSON_STRING, "content", token->content.text, token->content.len, e);
    for (size_t i = 0; i < ADDED_FLAGS && (at = at->next); i++)
        at->next = node(pool, token->flag[i] ? JSON_TRUE : JSON_FALSE, added_flags[i], NULL, 0, e);
    return at ? j : NULL;
}

size_t added_room(const Sides *s)
{
    const Json *decoder = member(s->config, "added_tokens_decoder");
    size_t n = (decoder ? decoder->len : 0) + (s->added ? s->added->len : 0);
    for (size_t i = 0; named(s, i); i++) n++;
    return n;
}

int added_merge(Tokenizer *t, const Json *listed, const Sides *s, const Log *log, Pool *pool,
                const Json **merged, Err *e)
{
    List l = {.t = t, .next = t->size, .e = e};
    const Json *decoder = member(s->config, "added_tokens_decoder");
    *merged = listed;
    int status = read_listed(&l, listed);
    if (status == 1) {
        status = decoder && decoder->type == JSON_OBJECT ? take_decoder(&l, decoder) : 0;
        if (!status && !decoder && s->added) status = take_added_file(&l, s->added, s);
        if (!status) status = take_named(&l, s);
    }
    if (!status && l.changed) {
        Json *list = node(pool, JSON_ARRAY, "", NULL, l.count, e);
        Json **end = list ? &list->child : NULL;
        for (size_t i = 0; i < l.count && end; i++) {
            *end = token_node(pool, &l.tokens[i], e);
            end = *end ? &(*end)->next : NULL;
        }
        if (!end) status = -1;
        *merged = list;
        t->size = l.next;
    }
    if (!status && l.moved)
        log_note(log, 'w',
                 "added tokens: of those that the vocabulary lacks, %zu get other ids than their "
                 "file says, as transformers gives them (the first: %s)",
                 l.moved, l.first_moved);
    mem_free(l.tokens);
    return status;
}

/* ---- what is done, and what is refused ------------------------------------------------------ */

static int is(const Json *object, const char *key, JsonType type)
{
    const Json *j = member(object, key);
    return j && j->type == type;
}

static int refuse(const char *what, const char *why, Err *e)
{
    return err_set(e, ERR_DATA,
                   CONFIG ": %s is not supported: %s; refused, because leaving it out would give "
                          "wrong token ids",
                   what, why);
}

static int is_llama(const Sides *s)
{
    const Json *class = member(s->config, "tokenizer_class");
    return class && (json_is(class, "LlamaTokenizer") || json_is(class, "LlamaTokenizerFast"));
}

int sides_check(const Tokenizer *t, const Sides *s, int from_model, Err *e)
{
    int prefix = 0, first = 0, bytes = 0;
    if (is(s->config, "split_special_tokens", JSON_TRUE))
        return refuse("\"split_special_tokens\": true", "the chat template's tokens would be text",
                      e);
    if (from_model || !is_llama(s)) return 0;
    for (size_t i = 0; i < t->n_normalize; i++) prefix |= t->normalize[i].kind == NORMALIZE_PREPEND;
    for (size_t i = 0; i < t->n_split; i++) {
        const SplitStep *step = &t->split[i];
        prefix |= step->kind == SPLIT_METASPACE && step->scheme != PREPEND_NEVER;
        first |= step->kind == SPLIT_METASPACE && step->scheme == PREPEND_FIRST;
        bytes |= step->kind == SPLIT_BYTE_LEVEL;
    }
    if (bytes) return 0; /* transformers, too, leaves these to tokenizer.json */
    if (is(s->config, "add_prefix_space", prefix ? JSON_FALSE : JSON_TRUE))
        return refuse(prefix ? "\"add_prefix_space\": false" : "\"add_prefix_space\": true",
                      "tokenizer.json has it otherwise", e);
    if (first && is(s->config, "legacy", JSON_TRUE))
        return refuse("\"legacy\": true", "tokenizer.json has it otherwise", e);
    return 0;
}

int sides_model(const Sides *s, SentencePieceOptions *o, Err *e)
{
    char what[100];
    const Json *class = member(s->config, "tokenizer_class");
    const Json *bos = s->config ? sides_special(s, "bos_token") : NULL;
    *o = (SentencePieceOptions){.add_bos = 1};
    static const char *const flags[] = {"add_bos_token", "add_eos_token", "add_prefix_space",
                                        "legacy"};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        const Json *j = member(s->config, flags[i]);
        if (j && j->type != JSON_TRUE && j->type != JSON_FALSE)
            return err_set(e, ERR_DATA, CONFIG ": \"%s\" must be true or false", flags[i]);
    }
    if (class && !is_llama(s)) {
        snprintf(what, sizeof what, "\"tokenizer_class\": \"%.40s\"",
                 class->type == JSON_STRING ? class->text : "?");
        return refuse(what, "of a tokenizer.model alone only LlamaTokenizer is", e);
    }
    o->no_prefix = is(s->config, "add_prefix_space", JSON_FALSE);
    o->prefix_first = is(s->config, "legacy", JSON_FALSE);
    o->add_eos = is(s->config, "add_eos_token", JSON_TRUE);
    o->unknown_bos = bos && json_is(bos, "");
    o->no_bos = o->unknown_bos || (bos && bos->type == JSON_NULL);
    if (is(s->config, "add_bos_token", JSON_FALSE) || (o->no_bos && !o->unknown_bos))
        o->add_bos = 0;
    return 0;
}
