/* tokenizer_gguf_write.c - turns a tokenizer into the vocabulary of a GGUF file: what
 * tokenizer_gguf.c reads, the other way.
 *
 * A GGUF file can say less than a tokenizer.json. Where it cannot say how texts are cut into words
 * the tokenizer is refused, because another way would give wrong ids; what concerns single tokens
 * is noted. Keys and numbers are those that llama.cpp's converter writes.
 */
#include "tokenizer_inner.h"

#include <string.h>

#define KEY GGUF_KEY
#define TEMPLATE_KEY "tokenizer.chat_template"
#define SPACE "\xe2\x96\x81" /* U+2581 stands for a space in pieces of SentencePiece */

enum { TEMPLATE_NAME_MAX = 64, ENDS = 3 };
/* The score of a piece that no merge makes, below that of any other. */
static const float unmerged = -1e9f;

typedef struct {
    const Tokenizer *t;
    const char *name;
    const TokenUse *use;
    unsigned char *kinds; /* [rows], of SpKind */
    GgufValues *out;
    const Log *log;
    Err *e;
} Vocabulary;

static int cannot(const Vocabulary *v, const char *what)
{
    return err_set(v->e, ERR_DATA,
                   "%s: a GGUF file cannot say that its tokenizer %s; refused, because other token "
                   "ids would come of it: write a directory instead",
                   v->name, what);
}

/* ---- tokens -------------------------------------------------------------------------------- */

static const Piece *piece_at(const Tokenizer *t, size_t id)
{
    return id < t->size && t->pieces[id].text ? &t->pieces[id] : NULL;
}

static void mark_added(const Vocabulary *v, const AddedSet *set, size_t *trimming)
{
    for (size_t i = 0; i < set->count; i++) {
        const AddedToken *a = &set->tokens[i];
        v->kinds[a->id] = a->special ? KIND_CONTROL : KIND_USER;
        *trimming += a->lstrip || a->rstrip || a->single_word;
    }
}

/* What each id is: part of the vocabulary, added to it, a byte, or nothing. */
static int find_kinds(Vocabulary *v, int bytes)
{
    size_t rows = v->use->rows, trimming = 0;
    if (v->t->size > rows)
        return err_set(v->e, ERR_DATA, "%s: the tokenizer has %zu ids, the model %zu", v->name,
                       v->t->size, rows);
    v->kinds = mem_calloc(rows, 1, v->e);
    if (!v->kinds) return -1;
    for (size_t i = 0; i < rows; i++) {
        const Piece *p = piece_at(v->t, i);
        v->kinds[i] = p ? KIND_NORMAL : KIND_UNUSED;
        if (p && bytes && piece_byte(p->text, p->len) >= 0) v->kinds[i] = KIND_BYTE;
    }
    mark_added(v, &v->t->raw, &trimming);
    mark_added(v, &v->t->normalized, &trimming);
    if (bytes && v->t->unk >= 0) v->kinds[v->t->unk] = KIND_UNKNOWN;
    if (trimming)
        log_note(v->log, 'w',
                 "%s: %zu added tokens take the spaces around them or stand only between words, "
                 "which a GGUF file cannot say",
                 v->name, trimming);
    return 0;
}

/* Texts and kinds of all ids; one without a text gets the name that converters give it. */
static int put_tokens(const Vocabulary *v)
{
    size_t rows = v->use->rows;
    if (gguf_add_array(v->out, KEY("tokens"), GGUF_STRING, rows, v->e)) return -1;
    for (size_t i = 0; i < rows; i++) {
        const Piece *p = piece_at(v->t, i);
        char pad[32];
        int len = snprintf(pad, sizeof pad, "[PAD%zu]", i);
        if (gguf_item_text(v->out, p ? p->text : pad, p ? p->len : (size_t)len, v->e)) return -1;
    }
    if (gguf_add_array(v->out, KEY("token_type"), GGUF_I32, rows, v->e)) return -1;
    for (size_t i = 0; i < rows; i++)
        if (gguf_item_i32(v->out, v->kinds[i], v->e)) return -1;
    return 0;
}

/* ---- merges and scores --------------------------------------------------------------------- */

static int by_rank(const void *a, const void *b)
{
    const Merge *x = a, *y = b;
    return (x->rank > y->rank) - (x->rank < y->rank);
}

/* Returns the merges in the order of their ranks, *count of them; free with mem_free. */
static Merge *merges_in_order(const Tokenizer *t, size_t *count, Err *e)
{
    size_t slots = t->merges ? t->merge_mask + 1 : 0;
    Merge *list = mem_calloc(slots + 1, sizeof *list, e);
    *count = 0;
    for (size_t i = 0; i < slots && list; i++)
        if (t->merges[i].pair != MERGE_EMPTY) list[(*count)++] = t->merges[i];
    if (list) sort_items(list, *count, sizeof *list, by_rank);
    return list;
}

/* "left right" */
static int put_merge(const Vocabulary *v, const Merge *m, Text *line)
{
    const Piece *left = &v->t->pieces[m->pair >> 32];
    const Piece *right = &v->t->pieces[m->pair & UINT32_MAX];
    line->len = 0;
    return text_add(line, left->text, left->len, v->e) || text_add(line, " ", 1, v->e) ||
                   text_add(line, right->text, right->len, v->e) ||
                   gguf_item_text(v->out, line->data, line->len, v->e)
               ? -1
               : 0;
}

static int put_merges(const Vocabulary *v)
{
    size_t count;
    Text line = {0};
    Merge *list = merges_in_order(v->t, &count, v->e);
    int bad = !list || gguf_add_array(v->out, KEY("merges"), GGUF_STRING, count, v->e);
    for (size_t i = 0; i < count && !bad; i++) bad = put_merge(v, &list[i], &line);
    text_free(&line);
    mem_free(list);
    return bad ? -1 : 0;
}

/* SentencePiece's scores order merges by what they make: minus the rank of its first merge. */
static int put_scores(const Vocabulary *v)
{
    size_t count, rows = v->use->rows;
    Merge *list = merges_in_order(v->t, &count, v->e);
    float *scores = list ? mem_calloc(rows, sizeof *scores, v->e) : NULL;
    int bad = !scores;
    for (size_t i = 0; i < rows && !bad; i++)
        scores[i] = v->kinds[i] == KIND_NORMAL || v->kinds[i] == KIND_UNUSED ? unmerged : 0;
    for (size_t i = count; i-- > 0 && !bad;) scores[list[i].id] = -(float)i;
    bad = bad || gguf_add_array(v->out, KEY("scores"), GGUF_F32, rows, v->e);
    for (size_t i = 0; i < rows && !bad; i++) bad = gguf_item_f32(v->out, scores[i], v->e);
    mem_free(scores);
    mem_free(list);
    return bad ? -1 : 0;
}

/* ---- how texts are cut --------------------------------------------------------------------- */

static int put_model(const Vocabulary *v, const char *model, const char *pre)
{
    return gguf_add_text(v->out, KEY("model"), model, strlen(model), v->e) ||
                   gguf_add_text(v->out, KEY("pre"), pre, strlen(pre), v->e)
               ? -1
               : 0;
}

/* Byte-level BPE: perhaps digits, perhaps a pattern, then ByteLevel. */
static int put_byte_level(Vocabulary *v)
{
    const Tokenizer *t = v->t;
    Pattern pattern = PATTERN_NONE;
    int digits = 0, others = 0;
    for (size_t i = 0; i < t->n_split; i++) {
        const SplitStep *s = &t->split[i];
        int first = pattern == PATTERN_NONE;
        others += s->kind == SPLIT_REGEX || s->kind == SPLIT_METASPACE || s->prefix_space;
        if (s->kind == SPLIT_PATTERN && s->pattern == PATTERN_DIGITS && first)
            digits = 1;
        else if (s->pattern != PATTERN_NONE && first)
            pattern = s->pattern;
        else
            others += s->pattern != PATTERN_NONE;
    }
    for (size_t i = 0; i < t->n_normalize; i++)
        if (t->normalize[i].kind != NORMALIZE_NFC) return cannot(v, "changes texts before");
    int composes = t->n_normalize > 0;
    const char *pre = others ? NULL
                             : gguf_cut_name(pattern, digits, t->ignore_merges != 0, composes);
    if (!pre) return cannot(v, "cuts texts into words as it does");
    if (composes)
        log_note(v->log, 'w',
                 "%s: the tokenizer composes characters (NFC), which a GGUF file cannot say: texts "
                 "with decomposed ones get other ids from it",
                 v->name);
    return find_kinds(v, 0) || put_model(v, "gpt2", pre) || put_tokens(v) || put_merges(v) ? -1 : 0;
}

static int is_space(Bytes text)
{
    return text.len == strlen(SPACE) && !memcmp(text.text, SPACE, text.len);
}

/* SentencePiece: spaces become U+2581, perhaps with one more in front; no cuts. */
static int put_sentencepiece(Vocabulary *v)
{
    const Tokenizer *t = v->t;
    int spaces = 0, prefix = 0, others = 0;
    for (size_t i = 0; i < t->n_normalize; i++) {
        const NormalizeStep *s = &t->normalize[i];
        int space = s->kind == NORMALIZE_REPLACE && s->from.len == 1 && *s->from.text == ' ';
        spaces += space && is_space(s->to);
        prefix += s->kind == NORMALIZE_PREPEND && is_space(s->to);
        others++;
    }
    others -= spaces + prefix;
    for (size_t i = 0; i < t->n_split; i++) {
        const SplitStep *s = &t->split[i];
        if (s->kind != SPLIT_METASPACE || s->split || !is_space(s->replacement)) others++;
        spaces++;
        prefix += s->scheme != PREPEND_NEVER;
        if (s->scheme == PREPEND_FIRST)
            log_note(v->log, 'w',
                     "%s: the tokenizer puts a space in front of a text only; programs that read "
                     "GGUF files also put one after each control token",
                     v->name);
    }
    if (spaces != 1 || prefix > 1 || others || !t->byte_fallback)
        return cannot(v, "cuts texts into words as it does");
    return find_kinds(v, 1) || put_model(v, "llama", "default") || put_tokens(v) || put_scores(v) ||
                   gguf_add_bool(v->out, KEY("add_space_prefix"), prefix, v->e)
               ? -1
               : 0;
}

/* ---- special tokens ------------------------------------------------------------------------ */

static int put_id(const Vocabulary *v, const char *key, int32_t id)
{
    return id < 0 ? 0 : gguf_add_u32(v->out, key, (uint32_t)id, v->e);
}

/* The token that the files beside the vocabulary call so; -1 where they name none. */
static int32_t named_id(const Tokenizer *t, const char *wanted)
{
    const char *name, *text;
    for (size_t i = 0; (name = tokenizer_named_token(t, i, &text)); i++)
        if (!strcmp(name, wanted)) return tokenizer_id(t, text, strlen(text));
    return -1;
}

/* What ends an answer: the tokenizer's own end of text, then what the model names besides. A file
 * has a place for three, of text, turn and message, and readers stop at each. */
static int put_ends(const Vocabulary *v)
{
    static const char *const keys[ENDS] = {KEY("eos_token_id"), KEY("eot_token_id"),
                                           KEY("eom_token_id")};
    const TokenUse *use = v->use;
    int32_t ids[ENDS], own = v->t->eos;
    size_t n = 0, lost = 0;
    if (own >= 0) ids[n++] = own;
    for (size_t i = 0; i < use->n_eos; i++) {
        if (use->eos[i] == own) continue;
        if (n < ENDS)
            ids[n++] = use->eos[i];
        else
            lost++;
    }
    if (lost)
        log_note(v->log, 'w', "%s: the model has %zu end tokens more than a GGUF file can name",
                 v->name, lost);
    for (size_t i = 0; i < n; i++)
        if (put_id(v, keys[i], ids[i])) return -1;
    return 0;
}

static int put_specials(const Vocabulary *v)
{
    const Tokenizer *t = v->t;
    int32_t bos = t->bos >= 0 ? t->bos : v->use->bos;
    if (t->prefix.count > 1 || t->suffix.count > 1 ||
        (t->suffix.count && t->suffix.ids[0] != t->eos))
        return cannot(v, "puts more than one token, or another end than its own, around a text");
    if (t->prefix.count) bos = t->prefix.ids[0];
    return put_id(v, KEY("bos_token_id"), bos) || put_ends(v) ||
                   put_id(v, KEY("unknown_token_id"), named_id(t, "unk_token")) ||
                   put_id(v, KEY("padding_token_id"), named_id(t, "pad_token")) ||
                   gguf_add_bool(v->out, KEY("add_bos_token"), t->prefix.count > 0, v->e) ||
                   gguf_add_bool(v->out, KEY("add_eos_token"), t->suffix.count > 0, v->e)
               ? -1
               : 0;
}

/* ---- chat templates ------------------------------------------------------------------------ */

static int put_template(const Vocabulary *v, const char *name)
{
    char key[sizeof TEMPLATE_KEY "." + TEMPLATE_NAME_MAX];
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_";
    size_t len, named = strlen(name);
    const char *text = tokenizer_chat_template(v->t, name, &len);
    if (!strcmp(name, "default")) return gguf_add_text(v->out, TEMPLATE_KEY, text, len, v->e);
    if (named > TEMPLATE_NAME_MAX || strspn(name, allowed) != named) {
        log_note(v->log, 'w', "%s: chat template %.80s: a GGUF file has no such name; left out",
                 v->name, name);
        return 0;
    }
    snprintf(key, sizeof key, TEMPLATE_KEY ".%s", name);
    return gguf_add_text(v->out, key, text, len, v->e);
}

static int put_templates(const Vocabulary *v)
{
    const char *name;
    for (size_t i = 0; (name = tokenizer_template_name(v->t, i)); i++)
        if (put_template(v, name)) return -1;
    return 0;
}

int tokenizer_to_gguf(const Tokenizer *t, const char *name, const TokenUse *use, GgufValues *out,
                      const Log *log, Err *e)
{
    Vocabulary v = {.t = t, .name = name, .use = use, .out = out, .log = log, .e = e};
    int byte_level = 0;
    for (size_t i = 0; i < t->n_split; i++) byte_level |= t->split[i].kind == SPLIT_BYTE_LEVEL;
    int status = (byte_level ? put_byte_level(&v) : put_sentencepiece(&v)) || put_specials(&v) ||
                 put_templates(&v);
    mem_free(v.kinds);
    return status ? -1 : 0;
}
