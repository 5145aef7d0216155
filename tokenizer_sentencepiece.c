/* tokenizer_sentencepiece.c - turns a SentencePiece tokenizer.model into the equivalent
 * tokenizer.json.
 *
 * The file is a protobuf message (ModelProto of sentencepiece_model.proto): pieces with scores, and
 * how the text is prepared. BPE with scores joins the pair whose result scores highest, the
 * leftmost of several: so the pairs that make a piece, ordered by its score, are the merges of a
 * tokenizer.json. Writing that text and reading it as any other file keeps one way to load a
 * tokenizer. What a tokenizer.json cannot say is refused by name.
 */
#include "tokenizer_inner.h"

#include "json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define VARINT_MAX_BYTES 10
#define PIECES_MAX ((size_t)1 << 22) /* of real models the largest has 262,144 */
#define PIECE_LEN_MAX 256            /* bytes; real pieces have at most 48 */
/* Bytes of the tokenizer.json; real ones have 20 million. A piece of n bytes can be joined in n - 1
 * ways, so few bytes of a model can ask for very many. */
#define MADE_MAX ((size_t)1 << 28)
#define SPACE "\xe2\x96\x81" /* U+2581, what a space becomes */

/* Numbers of fields and values in sentencepiece_model.proto. */
enum { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };
enum { MODEL_PIECE = 1, MODEL_TRAINER = 2, MODEL_NORMALIZER = 3 };
enum { PIECE_TEXT = 1, PIECE_SCORE = 2, PIECE_TYPE = 3 };
enum {
    TRAINER_TYPE = 3,
    TRAINER_SUFFIX = 24,
    TRAINER_FALLBACK = 35,
    TRAINER_BOS = 41,
    TRAINER_EOS = 42
};
enum { NORMALIZER_CHARSMAP = 2, NORMALIZER_PREFIX = 3, NORMALIZER_TRIM = 4, NORMALIZER_ESCAPE = 5 };
enum { TYPE_UNIGRAM = 1, TYPE_BPE, TYPE_WORD, TYPE_CHAR };
typedef struct {
    const char *name;
    SpPiece *pieces; /* by id */
    size_t count, cap;
    const SpPiece **by_text; /* sorted by spelling */
    uint32_t unk;
    uint64_t type, bos, eos; /* ids: -1 (none) is a varint of ten bytes */
    int fallback, suffix, prefix, trim, escape, charsmap;
    int unused_allowed; /* pieces that no text has, which keep an id */
    Err *e;
} SpModel;

/* ---- protobuf ------------------------------------------------------------------------------ */

/* A message, or the part of one that is still to be read. `at`: where p lies in the file. */
typedef struct {
    const unsigned char *p;
    size_t left, at;
    const char *name;
    Err *e;
} Message;

typedef struct {
    unsigned number, wire;
    uint64_t value; /* WIRE_VARINT, WIRE_FIXED32 */
    Message bytes;  /* WIRE_BYTES */
} Field;

static int broken(const Message *m, const char *what)
{
    return err_set(m->e, ERR_DATA,
                   "%s: byte %zu: %s; not a SentencePiece model (Llama 3 calls a "
                   "tiktoken file tokenizer.model: its tokenizer.json is needed)",
                   m->name, m->at, what);
}

static void skip(Message *m, size_t n)
{
    m->p += n;
    m->left -= n;
    m->at += n;
}

/* Seven bits a byte, the lowest first; the tenth byte has room for one. */
static int varint(Message *m, uint64_t *value)
{
    *value = 0;
    for (unsigned i = 0; i < VARINT_MAX_BYTES; i++) {
        if (i >= m->left) return broken(m, "a number is cut off");
        unsigned byte = m->p[i];
        if (i == VARINT_MAX_BYTES - 1 && byte > 1) break;
        *value |= (uint64_t)(byte & 0x7f) << 7 * i;
        if (byte & 0x80) continue;
        skip(m, i + 1);
        return 0;
    }
    return broken(m, "a number has more than 64 bits");
}

/* The next field: 1, 0 at the end of the message, -1. */
static int next_field(Message *m, Field *f)
{
    uint64_t tag, len;
    if (!m->left) return 0;
    Message start = *m;
    *f = (Field){0};
    if (varint(m, &tag)) return -1;
    f->wire = (unsigned)(tag & 7);
    if (tag >> 3 == 0 || tag >> 3 > 0x1fffffff) return broken(&start, "no field has this number");
    f->number = (unsigned)(tag >> 3);
    switch (f->wire) {
    case WIRE_VARINT: return varint(m, &f->value) ? -1 : 1;
    case WIRE_FIXED32:
    case WIRE_FIXED64: {
        size_t size = f->wire == WIRE_FIXED32 ? 4 : 8;
        if (m->left < size) return broken(m, "a number is cut off");
        for (size_t i = 0; i < size; i++) f->value |= (uint64_t)m->p[i] << 8 * i;
        skip(m, size);
        return 1;
    }
    case WIRE_BYTES:
        if (varint(m, &len)) return -1;
        if (len > m->left) return broken(m, "a length is beyond the end");
        f->bytes = *m;
        f->bytes.left = (size_t)len;
        skip(m, (size_t)len);
        return 1;
    default: return broken(&start, "a field of unknown type");
    }
}

/* ---- reading ------------------------------------------------------------------------------- */

/* Is it "<0x00>" .. "<0xFF>", as SentencePiece spells it? */
static int is_byte(Bytes b)
{
    static const char digits[] = "0123456789ABCDEF";
    return b.len == 6 && !memcmp(b.text, "<0x", 3) && b.text[5] == '>' && b.text[3] && b.text[4] &&
           strchr(digits, b.text[3]) && strchr(digits, b.text[4]);
}

static int check_piece(const SpModel *s, const SpPiece *p)
{
    unsigned long id = p->id;
    if (!p->text.len || p->text.len > PIECE_LEN_MAX)
        return err_set(s->e, ERR_DATA, "%s: piece %lu has %zu bytes; allowed are 1 .. %d", s->name,
                       id, p->text.len, PIECE_LEN_MAX);
    if (utf8_check(p->text.text, p->text.len) != p->text.len)
        return err_set(s->e, ERR_DATA, "%s: piece %lu is not UTF-8", s->name, id);
    if (!isfinite(p->score))
        return err_set(s->e, ERR_DATA, "%s: piece %lu has a score that is not finite", s->name, id);
    if (p->kind < KIND_NORMAL || p->kind > KIND_BYTE ||
        (p->kind == KIND_UNUSED && !s->unused_allowed))
        return err_set(s->e, ERR_DATA,
                       "%s: piece %lu has type %d; known are normal, unknown, "
                       "control, user-defined and byte (1 2 3 4 6)",
                       s->name, id, (int)p->kind);
    if (p->kind == KIND_BYTE && !is_byte(p->text))
        return err_set(s->e, ERR_DATA,
                       "%s: piece %lu is a byte, but spelled \"%.*s\"; allowed are "
                       "\"<0x00>\" .. \"<0xFF>\"",
                       s->name, id, p->text.len > 60 ? 60 : (int)p->text.len, p->text.text);
    return 0;
}

static int read_piece(SpModel *s, Message m)
{
    if (s->count == PIECES_MAX)
        return err_set(s->e, ERR_DATA, "%s: more than %zu pieces", s->name, PIECES_MAX);
    if (s->count == s->cap) {
        size_t cap = s->cap ? 2 * s->cap : 1024;
        SpPiece *more = mem_realloc(s->pieces, cap * sizeof *more, s->e);
        if (!more) return -1;
        s->pieces = more;
        s->cap = cap;
    }
    SpPiece p = {.text = {"", 0}, .id = (uint32_t)s->count, .kind = KIND_NORMAL};
    Field f;
    int more;
    while ((more = next_field(&m, &f)) > 0) {
        uint32_t bits = (uint32_t)f.value;
        if (f.number == PIECE_TEXT && f.wire == WIRE_BYTES)
            p.text = (Bytes){(const char *)f.bytes.p, f.bytes.left};
        else if (f.number == PIECE_SCORE && f.wire == WIRE_FIXED32)
            memcpy(&p.score, &bits, sizeof bits);
        else if (f.number == PIECE_TYPE && f.wire == WIRE_VARINT)
            p.kind = (SpKind)(f.value > KIND_BYTE ? 0 : f.value);
    }
    s->pieces[s->count++] = p;
    return more ? -1 : check_piece(s, &p);
}

static int read_trainer(SpModel *s, Message m)
{
    Field f;
    int more;
    while ((more = next_field(&m, &f)) > 0) {
        if (f.wire != WIRE_VARINT) continue;
        if (f.number == TRAINER_TYPE) s->type = f.value;
        if (f.number == TRAINER_SUFFIX) s->suffix = f.value != 0;
        if (f.number == TRAINER_FALLBACK) s->fallback = f.value != 0;
        if (f.number == TRAINER_BOS) s->bos = f.value;
        if (f.number == TRAINER_EOS) s->eos = f.value;
    }
    return more;
}

static int read_normalizer(SpModel *s, Message m)
{
    Field f;
    int more;
    while ((more = next_field(&m, &f)) > 0) {
        if (f.number == NORMALIZER_CHARSMAP && f.wire == WIRE_BYTES) s->charsmap = f.bytes.left > 0;
        if (f.wire != WIRE_VARINT) continue;
        if (f.number == NORMALIZER_PREFIX) s->prefix = f.value != 0;
        if (f.number == NORMALIZER_TRIM) s->trim = f.value != 0;
        if (f.number == NORMALIZER_ESCAPE) s->escape = f.value != 0;
    }
    return more;
}

static int read_model(SpModel *s, Message m)
{
    Field f;
    int more;
    while ((more = next_field(&m, &f)) > 0) {
        if (f.wire != WIRE_BYTES) continue;
        if ((f.number == MODEL_PIECE && read_piece(s, f.bytes)) ||
            (f.number == MODEL_TRAINER && read_trainer(s, f.bytes)) ||
            (f.number == MODEL_NORMALIZER && read_normalizer(s, f.bytes)))
            return -1;
    }
    return more;
}

/* ---- checks -------------------------------------------------------------------------------- */

static int compare_text(Bytes a, Bytes b)
{
    int order = memcmp(a.text, b.text, a.len < b.len ? a.len : b.len);
    return order ? order : (a.len > b.len) - (a.len < b.len);
}

static int by_spelling(const void *a, const void *b)
{
    return compare_text((*(const SpPiece *const *)a)->text, (*(const SpPiece *const *)b)->text);
}

/* Higher scores first, then smaller ids. */
static int by_score(const void *a, const void *b)
{
    const SpPiece *x = *(const SpPiece *const *)a, *y = *(const SpPiece *const *)b;
    if (x->score > y->score) return -1;
    if (x->score < y->score) return 1;
    return (x->id > y->id) - (x->id < y->id);
}

/* The pieces in an order of our own; to be freed. */
static const SpPiece **sorted(const SpModel *s, int (*order)(const void *, const void *))
{
    const SpPiece **list = mem_calloc(s->count, sizeof(const SpPiece *), s->e);
    if (!list) return NULL;
    for (size_t i = 0; i < s->count; i++) list[i] = &s->pieces[i];
    qsort(list, s->count, sizeof(const SpPiece *), order);
    return list;
}

/* Refuses what this file requires of a tokenizer and we (or a tokenizer.json) cannot do. */
static int check_options(const SpModel *s)
{
    static const char *const types[] = {"?", "unigram", "BPE", "word", "char"};
    const char *what = NULL;
    if (s->type != TYPE_BPE)
        return err_set(s->e, ERR_DATA,
                       "%s: a SentencePiece model of type %s; only BPE is supported", s->name,
                       types[s->type <= TYPE_CHAR ? s->type : 0]);
    if (s->charsmap) what = "precompiled_charsmap (a table of replaced characters)";
    if (s->trim) what = "remove_extra_whitespaces";
    if (s->suffix) what = "treat_whitespace_as_suffix";
    if (!s->escape) what = "escape_whitespaces = false";
    if (!what) return 0;
    return err_set(s->e, ERR_DATA,
                   "%s: %s is not supported; refused, because leaving it out would "
                   "give wrong token ids",
                   s->name, what);
}

static int check_pieces(SpModel *s)
{
    size_t unknown = 0, bytes = 0;
    s->by_text = sorted(s, by_spelling);
    if (!s->by_text) return -1;
    for (size_t i = 0; i < s->count; i++) {
        const SpPiece *p = &s->pieces[i], *a = s->by_text[i], *b = i ? s->by_text[i - 1] : NULL;
        if (b && !compare_text(a->text, b->text))
            return err_set(s->e, ERR_DATA, "%s: pieces %lu and %lu are the same", s->name,
                           (unsigned long)(a->id < b->id ? a->id : b->id),
                           (unsigned long)(a->id < b->id ? b->id : a->id));
        if (p->kind == KIND_UNKNOWN) unknown++, s->unk = p->id;
        bytes += p->kind == KIND_BYTE;
    }
    if (unknown != 1)
        return err_set(s->e, ERR_DATA, "%s: %zu pieces of type unknown; needed is exactly one",
                       s->name, unknown);
    if (bytes != (s->fallback ? 256u : 0u)) /* each once: they are spelled strictly */
        return err_set(s->e, ERR_DATA,
                       "%s: %zu pieces of type byte; with byte_fallback %s there "
                       "must be %d",
                       s->name, bytes, s->fallback ? "on" : "off", s->fallback ? 256 : 0);
    return 0;
}

/* ---- writing ------------------------------------------------------------------------------- */

static const SpPiece *find(const SpModel *s, const char *text, size_t len)
{
    SpPiece wanted = {.text = {text, len}};
    const SpPiece *key = &wanted;
    const SpPiece *const *p = bsearch(&key, s->by_text, s->count, sizeof key, by_spelling);
    return p && (*p)->kind == KIND_NORMAL ? *p : NULL;
}

static int put_piece(Text *out, const SpPiece *p, Err *e)
{
    return json_put_string(out, p->text.text, p->text.len, e);
}

/* Two pieces that make a third. */
typedef struct {
    const SpPiece *left, *right;
} Pair;

/* One left half is of one length: its id alone orders the pairs. */
static int by_left(const void *a, const void *b)
{
    const Pair *x = a, *y = b;
    return (x->left->id > y->left->id) - (x->left->id < y->left->id);
}

/* All pairs of pieces that make p. Of one piece's pairs the one with the smaller ids goes first, as
 * the converter of transformers has it. */
static int put_merges_of(const SpModel *s, const SpPiece *p, Text *out, int *first)
{
    Pair pairs[PIECE_LEN_MAX];
    size_t n = 0;
    for (size_t at = 0; utf8_next(p->text.text, &at), at < p->text.len;) {
        const SpPiece *left = find(s, p->text.text, at);
        const SpPiece *right = left ? find(s, p->text.text + at, p->text.len - at) : NULL;
        if (right) pairs[n++] = (Pair){left, right};
    }
    sort_items(pairs, n, sizeof *pairs, by_left);
    for (size_t i = 0; i < n; i++) {
        if (text_add(out, *first ? "[" : ",[", *first ? 1 : 2, s->e) ||
            put_piece(out, pairs[i].left, s->e) || text_add(out, ",", 1, s->e) ||
            put_piece(out, pairs[i].right, s->e) || text_add(out, "]", 1, s->e))
            return -1;
        *first = 0;
    }
    if (out->len <= MADE_MAX) return 0;
    return err_set(s->e, ERR_DATA,
                   "%s: the merges of its pieces, up to piece %lu, take more than %zu bytes",
                   s->name, (unsigned long)p->id, MADE_MAX);
}

static int put_model(const SpModel *s, Text *out)
{
    const SpPiece **order = sorted(s, by_score);
    int failed = !order, first = 1;
    failed = failed || text_addf(out, s->e, "\"model\":{\"type\":\"BPE\",\"fuse_unk\":true,") ||
             text_addf(out, s->e, "\"byte_fallback\":%s,", s->fallback ? "true" : "false") ||
             text_addf(out, s->e, "\"unk_token\":") || put_piece(out, &s->pieces[s->unk], s->e) ||
             text_addf(out, s->e, ",\"vocab\":{");
    for (size_t i = 0; i < s->count && !failed; i++)
        failed = put_piece(out, &s->pieces[i], s->e) ||
                 text_addf(out, s->e, ":%zu%s", i, i + 1 < s->count ? "," : "");
    failed = failed || text_addf(out, s->e, "},\"merges\":[");
    for (size_t i = 0; i < s->count && !failed; i++)
        if (order[i]->kind == KIND_NORMAL) failed = put_merges_of(s, order[i], out, &first);
    mem_free(order);
    return failed ? -1 : text_addf(out, s->e, "]}}");
}

/* Control pieces are special tokens; user-defined ones are found in the text, and are not. */
static int put_added(const SpModel *s, Text *out)
{
    int first = 1;
    if (text_addf(out, s->e, "{\"added_tokens\":[")) return -1;
    for (size_t i = 0; i < s->count; i++) {
        const SpPiece *p = &s->pieces[i];
        if (p->kind != KIND_UNKNOWN && p->kind != KIND_CONTROL && p->kind != KIND_USER) continue;
        if (text_addf(out, s->e, "%s{\"id\":%zu,\"content\":", first ? "" : ",", i) ||
            put_piece(out, p, s->e) ||
            text_addf(out, s->e, ",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
                      "\"normalized\":false,\"special\":%s}",
                      p->kind == KIND_USER ? "false" : "true"))
            return -1;
        first = 0;
    }
    return text_addf(out, s->e, "],");
}

/* One end of the template for a text: BOS or EOS. */
static int put_end(const SpModel *s, Text *out, uint64_t id)
{
    return text_addf(out, s->e, "{\"SpecialToken\":{\"id\":") ||
                   put_piece(out, &s->pieces[id], s->e)
               ? -1
               : text_addf(out, s->e, ",\"type_id\":0}}");
}

static int put_steps(const SpModel *s, const SentencePieceOptions *o, Text *out)
{
    int prefix = s->prefix && !o->no_prefix, add_bos = o->add_bos, add_eos = o->add_eos;
    const char *prepend = prefix ? "{\"type\":\"Prepend\",\"prepend\":\"" SPACE "\"}," : "";
    const char *strip =
        prefix ? ",{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}" : "";
    int first = prefix && o->prefix_first;
    if (first
            ? text_addf(out, s->e,
                        "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"" SPACE
                        "\",\"prepend_scheme\":\"first\",\"split\":false},")
            : text_addf(out, s->e,
                        "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[%s{\"type\":"
                        "\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"" SPACE "\"}]},",
                        prepend))
        return -1;
    if (text_addf(out, s->e,
                  "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\","
                  "\"pattern\":{\"String\":\"" SPACE "\"},\"content\":\" \"},"
                  "{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}%s]},"
                  "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[",
                  strip))
        return -1;
    if (add_bos && (put_end(s, out, s->bos) || text_addf(out, s->e, ","))) return -1;
    if (text_addf(out, s->e, "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}")) return -1;
    if (add_eos && (text_addf(out, s->e, ",") || put_end(s, out, s->eos))) return -1;
    if (text_addf(out, s->e, "]," TEMPLATE_PAIR "\"special_tokens\":{")) return -1;
    for (int end = 0; end < 2; end++) {
        uint64_t id = end ? s->eos : s->bos;
        if (!(end ? add_eos && !(add_bos && s->eos == s->bos) : add_bos)) continue;
        if (text_addf(out, s->e, end && add_bos ? "," : "") ||
            put_piece(out, &s->pieces[id], s->e) || text_addf(out, s->e, ":{\"id\":") ||
            put_piece(out, &s->pieces[id], s->e) ||
            text_addf(out, s->e, ",\"ids\":[%lu],\"tokens\":[", (unsigned long)id) ||
            put_piece(out, &s->pieces[id], s->e) || text_addf(out, s->e, "]}"))
            return -1;
    }
    return text_addf(out, s->e, "}},");
}

/* The tokenizer.json of pieces that were read. */
static int put_all(SpModel *s, const SentencePieceOptions *o, SentencePiece *info, Text *out)
{
    if (check_pieces(s)) return -1;
    if (o->unknown_bos) s->bos = s->unk;
    info->bos = s->bos < s->count ? (int32_t)s->bos : -1;
    info->eos = s->eos < s->count ? (int32_t)s->eos : -1;
    SentencePieceOptions known = *o;
    if (info->bos < 0) known.add_bos = 0;
    if (info->eos < 0) known.add_eos = 0;
    return put_added(s, out) || put_steps(s, &known, out) || put_model(s, out) ? -1 : 0;
}

int sentencepiece_pieces_json(SpPiece *pieces, size_t count, const char *name,
                              const SentencePieceOptions *o, SentencePiece *ends, Text *out, Err *e)
{
    SpModel s = {.name = name,
                 .pieces = pieces,
                 .count = count,
                 .bos = ends->bos < 0 ? UINT64_MAX : (uint64_t)ends->bos,
                 .eos = ends->eos < 0 ? UINT64_MAX : (uint64_t)ends->eos,
                 .prefix = 1,
                 .unused_allowed = 1,
                 .e = e};
    int failed = 0;
    if (count > PIECES_MAX)
        return err_set(e, ERR_DATA, "%s: more than %zu pieces", name, PIECES_MAX);
    for (size_t i = 0; i < count && !failed; i++) {
        failed = check_piece(&s, &pieces[i]);
        if (pieces[i].kind == KIND_BYTE) s.fallback = 1;
    }
    failed = failed || put_all(&s, o, ends, out);
    mem_free(s.by_text);
    return failed ? -1 : 0;
}

int sentencepiece_json(const char *bytes, size_t len, const char *name,
                       const SentencePieceOptions *o, SentencePiece *info, Text *out, Err *e)
{
    SpModel s = {.name = name,
                 .type = TYPE_UNIGRAM,
                 .bos = 1,
                 .eos = 2,
                 .prefix = 1,
                 .trim = 1,
                 .escape = 1,
                 .e = e};
    Message m = {(const unsigned char *)bytes, len, 0, name, e};
    int failed = read_model(&s, m) || (!s.count && broken(&m, "no pieces")) || check_options(&s) ||
                 put_all(&s, o, info, out);
    mem_free(s.pieces);
    mem_free(s.by_text);
    return failed ? -1 : 0;
}
