/* tokenizer.c - turns text into ids: added tokens, normalizer, and the calls of the other files.
 *
 * The order is that of the `tokenizers` library: added tokens that are not normalized are found in
 * the raw text, what lies between is normalized, the normalized ones are found in that, and what
 * then lies between goes through the pre-tokenizer to BPE.
 */
#include "tokenizer_inner.h"
#include "tokenizer_unicode.h"

#include "json.h"

#include <string.h>

static int ids_append(Ids *v, const Ids *more, Err *e)
{
    for (size_t i = 0; i < more->count; i++)
        if (ids_add(v, more->ids[i], e)) return -1;
    return 0;
}

/* ---- normalizer ---------------------------------------------------------------------------- */

/* Adds the replacement, with the origin of what it replaces. */
static int replace_add(Bytes to, const char *ours, size_t from_len, Text *out, Text *out_ours,
                       Err *e)
{
    if (text_add(out, to.text, to.len, e)) return -1;
    if (!ours) return 0;
    char origin = 1;
    for (size_t i = 0; i < from_len; i++) origin = origin && ours[i];
    for (size_t i = 0; i < to.len; i++)
        if (text_add(out_ours, &origin, 1, e)) return -1;
    return 0;
}

/* Applies one step to text, into out. */
static int normalize_step(const NormalizeStep *s, const char *text, const char *ours, size_t len,
                          Text *out, Text *out_ours, Err *e)
{
    if (s->kind == NORMALIZE_NFC) return nfc_text(text, ours, len, out, out_ours, e);
    if (s->kind == NORMALIZE_PREPEND) {
        if (!len) return 0;
        if (replace_add(s->to, ours, 1, out, out_ours, e) || text_add(out, text, len, e)) return -1;
        return ours ? text_add(out_ours, ours, len, e) : 0;
    }
    for (size_t at = 0; at < len;) {
        if (len - at >= s->from.len && !memcmp(text + at, s->from.text, s->from.len)) {
            if (replace_add(s->to, ours ? ours + at : NULL, s->from.len, out, out_ours, e))
                return -1;
            at += s->from.len;
            continue;
        }
        size_t end = at + 1;
        while (end < len && text[end] != s->from.text[0]) end++;
        if (text_add(out, text + at, end - at, e)) return -1;
        if (ours && text_add(out_ours, ours + at, end - at, e)) return -1;
        at = end;
    }
    return 0;
}

int normalize_text(const Tokenizer *t, const char *text, const char *ours, size_t len, Text *out,
                   Text *out_ours, Err *e)
{
    Text to = {0}, to_ours = {0};
    if (text_add(out, text, len, e) || (ours && text_add(out_ours, ours, len, e))) return -1;
    for (size_t i = 0; i < t->n_normalize; i++) {
        int failed = normalize_step(&t->normalize[i], out->data, ours ? out_ours->data : NULL,
                                    out->len, &to, &to_ours, e);
        text_free(out);
        *out = to;
        to = (Text){0};
        if (ours) {
            text_free(out_ours);
            *out_ours = to_ours;
            to_ours = (Text){0};
        }
        if (failed) return -1;
        if (out->len / NORMALIZER_GROWTH > len + NORMALIZER_GROWTH)
            return err_set(e, ERR_DATA,
                           "the normalizer makes a text of %zu bytes more than %d times "
                           "as long",
                           len, NORMALIZER_GROWTH);
    }
    return 0;
}

/* ---- added tokens -------------------------------------------------------------------------- */

/* The longest token of the set that text[at..] begins with, or NULL. The candidates are sorted, so
 * each byte of the text narrows a range of them. */
static const AddedToken *added_longest(const AddedSet *set, const char *text, size_t len, size_t at)
{
    const AddedToken *best = NULL;
    unsigned char b = (unsigned char)text[at];
    size_t low = set->first[b], high = set->first[b + 1];
    for (size_t depth = 1; low < high; depth++) {
        if (set->tokens[low].len == depth) best = &set->tokens[low++];
        if (at + depth >= len) break;
        b = (unsigned char)text[at + depth];
        while (low < high && (unsigned char)set->tokens[low].text[depth] < b) low++;
        size_t end = low;
        while (end < high && (unsigned char)set->tokens[end].text[depth] == b) end++;
        high = end;
    }
    return best;
}

/* Walks over text: pieces between added tokens, and the tokens. */
typedef struct {
    const AddedSet *set;
    const char *text;
    const char *ours; /* NULL: `special` holds for the whole text */
    size_t len;
    int special;
    size_t done, scan;       /* handed out so far; where to look on */
    const AddedToken *found; /* to be handed out after the piece before it */
    size_t found_end;
} AddedWalk;

/* Is `found` at [at, end) the token, by its flags and by who wrote it? */
static int walk_accepts(const AddedWalk *w, const AddedToken *found, size_t at, size_t end)
{
    size_t i;
    if (found->special && !w->ours && !w->special) return 0;
    if (found->special && w->ours)
        for (i = at + found->lead; i < end; i++)
            if (!w->ours[i]) return 0;
    if (!found->single_word) return 1;
    if (at > 0 && unicode_is_word(utf8_before(w->text, at, &i))) return 0;
    i = end;
    return end == w->len || !unicode_is_word(utf8_next(w->text, &i));
}

/* Returns where to continue the search after a match that does not count. The library skips all of
 * it. So do we, unless the end of foreign text and the beginning of ours only look like a token
 * together. */
static size_t walk_after_refusal(const AddedWalk *w, const AddedToken *found, size_t at, size_t end)
{
    if (found->special && w->ours && !w->ours[at])
        for (size_t i = at; i < end; i++)
            if (w->ours[i]) return at + 1;
    return end;
}

/* Extends a token with lstrip or rstrip over the white space around it: to the left of `at`, to the
 * right of `end`. */
static size_t walk_strip_left(const AddedWalk *w, size_t at)
{
    for (size_t start; at > w->done; at = start)
        if (unicode_class(utf8_before(w->text, at, &start)) != UNICODE_SPACE) break;
    return at;
}

static size_t walk_strip_right(const AddedWalk *w, size_t end)
{
    for (size_t next = end; end < w->len; end = next)
        if (unicode_class(utf8_next(w->text, &next)) != UNICODE_SPACE) break;
    return end;
}

/* Finds the next part: 1 with *token, or with *token NULL and text [*at, *end); 0 at the end.
 */
static int walk_next(AddedWalk *w, const AddedToken **token, size_t *at, size_t *end)
{
    while (!w->found && w->scan < w->len) {
        const AddedToken *found =
            w->set->count ? added_longest(w->set, w->text, w->len, w->scan) : NULL;
        if (!found) {
            w->scan = w->set->count ? w->scan + 1 : w->len;
            continue;
        }
        size_t start = w->scan, stop = w->scan + found->len;
        if (!walk_accepts(w, found, start, stop)) {
            w->scan = walk_after_refusal(w, found, start, stop);
            continue;
        }
        w->scan = stop;
        if (found->lstrip) start = walk_strip_left(w, start);
        if (found->rstrip) stop = walk_strip_right(w, stop);
        w->found = found;
        w->found_end = stop;
        if (w->done < start) {
            *token = NULL;
            *at = w->done;
            *end = start;
            return 1;
        }
    }
    if (w->found) {
        *token = w->found;
        *at = *end = w->done = w->found_end;
        w->found = NULL;
        return 1;
    }
    if (w->done >= w->len) return 0;
    *token = NULL;
    *at = w->done;
    *end = w->done = w->len;
    return 1;
}

/* ---- encoding ------------------------------------------------------------------------------ */

/* Encodes the text between two added tokens: normalizes it and looks for the other tokens. */
static int encode_part(Encoder *n, const char *text, const char *ours, size_t len, int special,
                       int at_start)
{
    const Tokenizer *t = n->t;
    Text normal = {0}, normal_ours = {0};
    int failed = normalize_text(t, text, ours, len, &normal, &normal_ours, n->e);
    AddedWalk w = {.set = &t->normalized,
                   .text = normal.data,
                   .len = normal.len,
                   .ours = ours ? normal_ours.data : NULL,
                   .special = special};
    const AddedToken *token;
    for (size_t at, end; !failed && walk_next(&w, &token, &at, &end);)
        failed = token ? ids_add(n->out, token->id, n->e)
                       : split_encode(n, normal.data + at, end - at, at_start && at == 0);
    text_free(&normal);
    text_free(&normal_ours);
    return failed ? -1 : 0;
}

/* Encodes a text that is known to be UTF-8. */
static int encode_text(Encoder *n, const char *text, const char *ours, size_t len, int flags)
{
    const Tokenizer *t = n->t;
    int special = (flags & TOKENIZE_SPECIAL) != 0;
    if (special) ours = NULL;
    if ((flags & TOKENIZE_ADD) && ids_append(n->out, &t->prefix, n->e)) return -1;
    AddedWalk w = {.set = &t->raw, .text = text, .len = len, .ours = ours, .special = special};
    const AddedToken *token;
    for (size_t at, end; walk_next(&w, &token, &at, &end);) {
        if (token ? ids_add(n->out, token->id, n->e)
                  : encode_part(n, text + at, ours ? ours + at : NULL, end - at, special, at == 0))
            return -1;
    }
    return flags & TOKENIZE_ADD ? ids_append(n->out, &t->suffix, n->e) : 0;
}

int tokenizer_encode_marked(const Tokenizer *t, const char *text, const char *ours, size_t len,
                            int flags, Ids *out, Err *e)
{
    size_t before = out->count, bad = utf8_check(text, len);
    if (bad < len)
        return err_set(e, ERR_DATA, "text is not UTF-8: byte 0x%02X at offset %zu",
                       (unsigned char)text[bad], bad);
    if (len > INT32_MAX)
        return err_set(e, ERR_DATA, "text of %zu bytes: at most %ld can be tokenized at once", len,
                       (long)INT32_MAX);
    Encoder n = {.t = t, .out = out, .e = e};
    int failed = encode_text(&n, text, ours, len, flags);
    if (failed) out->count = before;
    for (size_t i = 0; i < TOKENIZER_MAX_STEPS; i++) text_free(&n.rewritten[i]);
    bpe_free(&n);
    return failed ? -1 : 0;
}

int tokenizer_encode(const Tokenizer *t, const char *text, size_t len, int flags, Ids *out, Err *e)
{
    return tokenizer_encode_marked(t, text, NULL, len, flags, out, e);
}

/* ---- questions ----------------------------------------------------------------------------- */

size_t tokenizer_size(const Tokenizer *t)
{
    return t->size;
}

size_t tokenizer_bytes(const Tokenizer *t)
{
    size_t joins = t->joins ? (t->join_mask + 1) * sizeof(*t->joins) : 0;
    return sizeof *t + t->pool.total + joins;
}

const char *tokenizer_piece(const Tokenizer *t, int32_t id, size_t *len)
{
    if (id < 0 || (size_t)id >= t->size) return NULL;
    if (len) *len = t->pieces[id].len;
    return t->pieces[id].text;
}

int32_t tokenizer_id(const Tokenizer *t, const char *piece, size_t len)
{
    return t->by_text[piece_slot(t, piece, len)];
}

int tokenizer_is_special(const Tokenizer *t, int32_t id)
{
    return id >= 0 && (size_t)id < t->size && t->pieces[id].special;
}

int32_t tokenizer_bos(const Tokenizer *t)
{
    return t->bos;
}

int32_t tokenizer_eos(const Tokenizer *t)
{
    return t->eos;
}

const char *tokenizer_bos_text(const Tokenizer *t)
{
    return t->bos_text;
}

const char *tokenizer_eos_text(const Tokenizer *t)
{
    return t->eos_text;
}

const char *tokenizer_chat_template(const Tokenizer *t, const char *name, size_t *len)
{
    *len = 0;
    for (size_t i = 0; i < t->n_templates; i++) {
        if (strcmp(t->templates[i].name, name)) continue;
        *len = t->templates[i].text.len;
        return t->templates[i].text.text;
    }
    return NULL;
}

const char *tokenizer_template_name(const Tokenizer *t, size_t i)
{
    return i < t->n_templates ? t->templates[i].name : NULL;
}

const char *tokenizer_named_token(const Tokenizer *t, size_t i, const char **text)
{
    if (i >= t->n_tokens) return NULL;
    *text = t->tokens[i].text.text;
    return t->tokens[i].name;
}
