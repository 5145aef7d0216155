/* tokenizer_gguf.c - turns the vocabulary in a GGUF file into the equivalent tokenizer.json.
 *
 * A GGUF file has one of two kinds. "llama" is a SentencePiece BPE model: pieces with scores and
 * types. "gpt2" is byte-level BPE: tokens, merges, and a name for the way texts are cut into words,
 * which stands for a pattern that the writer of the file knew. As for a tokenizer.model, the text
 * of a tokenizer.json is written and read as any other file. A name that is not known is refused:
 * to guess would give plausible but wrong ids.
 */
#include "tokenizer_inner.h"

#include "io.h"
#include "json.h"

#include <string.h>

#define KEY GGUF_KEY

/* Expressions that are not among the patterns: each a Split of its own, one after the other. */
static const char *const deepseek_coder[] = {"[\r\n]", "\\s?\\p{L}+", "\\s?\\p{P}+",
                                             "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+", NULL};
static const char *const seed_coder[] = {
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}"
    "| ?[^\\s\\p{L}\\p{N}\r\n]+|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
    NULL};
static const char *const viking[] = {" ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+",
                                     NULL};

/* How texts are cut, by the name in the file: the expressions, digits, the pattern, in this order.
 * A pattern of GPT2 goes with ByteLevel's own regex. */
static const struct {
    const char *name;
    Pattern pattern;
    int digits;   /* each digit by itself */
    int whole;    /* a word that is a token is one, whatever the merges say */
    int add_bos;  /* where the file does not say it */
    int composes; /* the tokenizer that the name stands for composes characters (NFC) first */
    const char *const *regexes;
} cuts[] = {
    {"llama-bpe", PATTERN_LLAMA3, 0, 1, 1, 0, NULL},
    {"llama3", PATTERN_LLAMA3, 0, 1, 1, 0, NULL},
    {"llama-v3", PATTERN_LLAMA3, 0, 1, 1, 0, NULL},
    {"falcon3", PATTERN_LLAMA3, 0, 1, 1, 0, NULL},
    {"midm-2.0", PATTERN_LLAMA3, 0, 1, 1, 0, NULL},
    {"smaug-bpe", PATTERN_LLAMA3, 0, 0, 0, 0, NULL},
    {"dbrx", PATTERN_LLAMA3, 0, 0, 0, 0, NULL},
    {"tekken", PATTERN_TEKKEN, 0, 1, 1, 0, NULL},
    {"qwen2", PATTERN_QWEN2, 0, 0, 0, 1, NULL},
    {"stablelm2", PATTERN_QWEN2, 0, 0, 0, 0, NULL},
    {"deepseek-r1-qwen", PATTERN_QWEN2, 0, 0, 0, 0, NULL},
    {"megrez", PATTERN_QWEN2, 0, 0, 0, 0, NULL},
    {"smollm", PATTERN_GPT2, 1, 0, 0, 0, NULL},
    {"starcoder", PATTERN_GPT2, 1, 0, 0, 0, NULL},
    {"refact", PATTERN_GPT2, 1, 0, 0, 0, NULL},
    {"command-r", PATTERN_GPT2, 1, 0, 0, 0, NULL},
    {"minerva-7b", PATTERN_GPT2, 1, 0, 0, 0, NULL},
    {"gpt-2", PATTERN_GPT2, 0, 0, 0, 0, NULL},
    {"olmo", PATTERN_GPT2, 0, 0, 0, 0, NULL},
    {"mpt", PATTERN_GPT2, 0, 0, 0, 0, NULL},
    {"mellum", PATTERN_GPT2, 0, 0, 0, 0, NULL},
    {"a.x-4.0", PATTERN_GPT2, 0, 0, 0, 0, NULL},
    {"trillion", PATTERN_GPT2, 0, 0, 0, 0, NULL},
    {"deepseek-coder", PATTERN_NONE, 1, 0, 0, 0, deepseek_coder},
    {"seed-coder", PATTERN_NONE, 0, 0, 0, 0, seed_coder},
    {"viking", PATTERN_NONE, 1, 0, 0, 0, viking},
};
enum { CUTS = sizeof cuts / sizeof *cuts };

const char *gguf_cut_name(Pattern pattern, int digits, int whole, int composes)
{
    const char *name = NULL; /* of a tokenizer that composes no characters, where none does */
    for (size_t i = 0; i < CUTS; i++) {
        if (cuts[i].regexes || cuts[i].pattern != pattern || cuts[i].digits != digits ||
            cuts[i].whole != whole || cuts[i].composes > composes)
            continue;
        if (cuts[i].composes == composes) return cuts[i].name;
        if (!name) name = cuts[i].name;
    }
    return name;
}

typedef struct {
    const Gguf *g;
    const char *path;
    Pool pool;
    SpPiece *pieces; /* by id; their text is in the file */
    size_t count;
    int32_t bos, eos;
    Text *out;
    Err *e;
} Vocabulary;

/* ---- what the file says -------------------------------------------------------------------- */

/* An array of `count` items (0: of any number), all of them texts or all numbers. */
static const GgufValue *array(const Vocabulary *v, const char *key, int texts, uint64_t count)
{
    const GgufValue *a = gguf_get(v->g, key);
    if (a && a->is_array && (a->type == GGUF_STRING) == texts && a->type != GGUF_BOOL &&
        (!count || a->count == count))
        return a;
    if (count)
        err_set(v->e, ERR_DATA, "%s: %s must be a list of %llu %s, one for each token", v->path,
                key, (unsigned long long)count, texts ? "texts" : "numbers");
    else
        err_set(v->e, ERR_DATA, "%s: %s must be a list of texts", v->path, key);
    return NULL;
}

/* Tokens with their types and, if there are, scores. */
static int read_pieces(Vocabulary *v)
{
    const GgufValue *tokens = array(v, KEY("tokens"), 1, 0), *types, *scores = NULL;
    size_t bytes;
    if (!tokens || !tokens->count || !(types = array(v, KEY("token_type"), 0, tokens->count)))
        return tokens && !tokens->count
                   ? err_set(v->e, ERR_DATA, "%s: " KEY("tokens") " is empty", v->path)
                   : -1;
    if (gguf_get(v->g, KEY("scores")) && !(scores = array(v, KEY("scores"), 0, tokens->count)))
        return -1;
    if (tokens->count > INT32_MAX || size_mul((size_t)tokens->count, sizeof *v->pieces, &bytes))
        return err_set(v->e, ERR_DATA, "%s: too many tokens", v->path);
    v->count = (size_t)tokens->count;
    v->pieces = pool_alloc(&v->pool, bytes, v->e);
    if (!v->pieces) return -1;
    const unsigned char *at = tokens->data;
    for (size_t i = 0; i < v->count; i++) {
        SpPiece *p = &v->pieces[i];
        double type = gguf_number(types, i);
        p->text.text = gguf_next_text(&at, &p->text.len);
        p->id = (uint32_t)i;
        p->score = scores ? (float)gguf_number(scores, i) : 0;
        if (!(type >= KIND_NORMAL && type <= KIND_BYTE))
            return err_set(v->e, ERR_DATA, "%s: token %zu has type %g; known are 1 to 6", v->path,
                           i, type);
        p->kind = (SpKind)type;
        if (utf8_check(p->text.text, p->text.len) != p->text.len)
            return err_set(v->e, ERR_DATA, "%s: token %zu is not UTF-8", v->path, i);
    }
    return 0;
}

/* The id of a special token; -1 where the file names none. */
static int read_id(const Vocabulary *v, const char *key, int32_t *id)
{
    uint64_t x = 0;
    int found = gguf_u64(v->g, key, &x, v->e);
    *id = -1;
    if (found <= 0) return found;
    if (x >= v->count)
        return err_set(v->e, ERR_DATA, "%s: %s is %llu; allowed: an id from 0 to %zu", v->path, key,
                       (unsigned long long)x, v->count - 1);
    *id = (int32_t)x;
    return 0;
}

/* Converters put unused pieces behind the last token until there is one for each row of the model.
 * Those rows are padding: they have no text, and no answer is drawn from them. */
static int drop_padding(Vocabulary *v)
{
    int32_t pad;
    if (read_id(v, KEY("padding_token_id"), &pad)) return -1;
    for (; v->count > 1 && v->pieces[v->count - 1].kind == KIND_UNUSED; v->count--) {
        int32_t last = (int32_t)v->count - 1;
        if (last == v->bos || last == v->eos || last == pad) break;
    }
    return 0;
}

/* ---- byte-level BPE ------------------------------------------------------------------------ */

static int put_text(const Vocabulary *v, Bytes text)
{
    return json_put_string(v->out, text.text, text.len, v->e);
}

/* Tokens that are found in texts before BPE: control tokens are special, user-defined ones not. */
static int put_added(const Vocabulary *v)
{
    const char *between = "";
    for (size_t i = 0; i < v->count; i++) {
        const SpPiece *p = &v->pieces[i];
        if (p->kind != KIND_CONTROL && p->kind != KIND_USER && p->kind != KIND_UNKNOWN) continue;
        if (text_addf(v->out, v->e, "%s{\"id\":%zu,\"content\":", between, i) ||
            put_text(v, p->text) ||
            text_addf(v->out, v->e,
                      ",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
                      "\"normalized\":false,\"special\":%s}",
                      p->kind == KIND_USER ? "false" : "true"))
            return -1;
        between = ",";
    }
    return 0;
}

static int put_vocabulary(const Vocabulary *v, int whole)
{
    const GgufValue *merges = array(v, KEY("merges"), 1, 0);
    if (!merges || text_addf(v->out, v->e,
                             "\"model\":{\"type\":\"BPE\",\"ignore_merges\":%s,"
                             "\"vocab\":{",
                             whole ? "true" : "false"))
        return -1;
    for (size_t i = 0; i < v->count; i++)
        if (text_add(v->out, ",", i > 0, v->e) || put_text(v, v->pieces[i].text) ||
            text_addf(v->out, v->e, ":%zu", i))
            return -1;
    if (text_addf(v->out, v->e, "},\"merges\":[")) return -1;
    const unsigned char *at = merges->data;
    for (uint64_t i = 0; i < merges->count; i++) {
        Bytes merge;
        merge.text = gguf_next_text(&at, &merge.len);
        if (utf8_check(merge.text, merge.len) != merge.len)
            return err_set(v->e, ERR_DATA, "%s: " KEY("merges") ": item %llu is not UTF-8", v->path,
                           (unsigned long long)i);
        if (text_add(v->out, ",", i > 0, v->e) || put_text(v, merge)) return -1;
    }
    return text_addf(v->out, v->e, "]}}");
}

static int put_split(const Vocabulary *v, const char *regex)
{
    return text_addf(v->out, v->e, "{\"type\":\"Split\",\"pattern\":{\"Regex\":") ||
                   put_text(v, (Bytes){regex, strlen(regex)}) ||
                   text_addf(v->out, v->e, "},\"behavior\":\"Isolated\",\"invert\":false},")
               ? -1
               : 0;
}

/* Composing, then the steps that the name stands for, then ByteLevel. */
static int put_cuts(const Vocabulary *v, size_t cut)
{
    int own = cuts[cut].pattern == PATTERN_GPT2; /* ByteLevel brings this one */
    const char *regex = own ? NULL : split_regex(cuts[cut].pattern);
    if (text_addf(v->out, v->e, "%s\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[",
                  cuts[cut].composes ? "\"normalizer\":{\"type\":\"NFC\"}," : ""))
        return -1;
    for (const char *const *r = cuts[cut].regexes; r && *r; r++)
        if (put_split(v, *r)) return -1;
    if ((cuts[cut].digits &&
         text_addf(v->out, v->e, "{\"type\":\"Digits\",\"individual_digits\":true},")) ||
        (regex && put_split(v, regex)))
        return -1;
    return text_addf(
        v->out, v->e,
        "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,"
        "\"use_regex\":%s}]},\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,"
        "\"trim_offsets\":true,\"use_regex\":true},",
        own ? "true" : "false");
}

/* What is put around a text: BOS, EOS or nothing. */
static int put_template(const Vocabulary *v, int32_t bos, int32_t eos)
{
    const int32_t ends[] = {bos, eos};
    if (text_addf(v->out, v->e, "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":["))
        return -1;
    for (int i = 0; i < 2; i++) {
        if (i && text_addf(v->out, v->e, "%s{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}",
                           bos >= 0 ? "," : ""))
            return -1;
        if (ends[i] < 0) continue;
        if (text_addf(v->out, v->e, "%s{\"SpecialToken\":{\"id\":", i ? "," : "") ||
            put_text(v, v->pieces[ends[i]].text) || text_addf(v->out, v->e, ",\"type_id\":0}}"))
            return -1;
    }
    if (text_addf(v->out, v->e, "]," TEMPLATE_PAIR "\"special_tokens\":{")) return -1;
    for (int i = 0; i < 2; i++) {
        if (ends[i] < 0 || (i && eos == bos)) continue;
        if (text_addf(v->out, v->e, i && bos >= 0 ? "," : "") ||
            put_text(v, v->pieces[ends[i]].text) || text_addf(v->out, v->e, ":{\"id\":") ||
            put_text(v, v->pieces[ends[i]].text) ||
            text_addf(v->out, v->e, ",\"ids\":[%ld],\"tokens\":[", (long)ends[i]) ||
            put_text(v, v->pieces[ends[i]].text) || text_addf(v->out, v->e, "]}"))
            return -1;
    }
    return text_addf(v->out, v->e, "}},");
}

/* The row of `cuts` that the file names. */
static int find_cut(const Vocabulary *v, size_t *cut)
{
    const char *pre = NULL;
    size_t len = 0;
    int found = gguf_text(v->g, KEY("pre"), &pre, &len, v->e);
    if (found < 0) return -1;
    for (*cut = 0; found && *cut < CUTS; ++*cut)
        if (strlen(cuts[*cut].name) == len && !memcmp(cuts[*cut].name, pre, len)) return 0;
    if (!found)
        return err_set(
            v->e, ERR_DATA,
            "%s: " KEY("pre") " is missing, so nothing says how texts are cut into words "
                              "(files made before May 2024): take a newer file of this model",
            v->path);
    return err_set(
        v->e, ERR_DATA,
        "%s: " KEY("pre") " is \"%.*s\", which is not known here; refused, because another "
                          "way to cut texts would give wrong token ids; known are llama-bpe, "
                          "tekken, qwen2, smollm, starcoder, gpt-2, deepseek-coder and their like",
        v->path, len > 60 ? 60 : (int)len, pre);
}

static int put_byte_level(Vocabulary *v)
{
    size_t cut;
    if (find_cut(v, &cut)) return -1;
    int add_bos = cuts[cut].add_bos, add_eos = 0;
    if (gguf_bool(v->g, KEY("add_bos_token"), &add_bos, v->e) < 0 ||
        gguf_bool(v->g, KEY("add_eos_token"), &add_eos, v->e) < 0)
        return -1;
    return text_addf(v->out, v->e, "{\"version\":\"1.0\",\"added_tokens\":[") || put_added(v) ||
                   text_addf(v->out, v->e, "],") || put_cuts(v, cut) ||
                   put_template(v, add_bos ? v->bos : -1, add_eos ? v->eos : -1) ||
                   put_vocabulary(v, cuts[cut].whole)
               ? -1
               : 0;
}

/* ---- SentencePiece ------------------------------------------------------------------------- */

static int put_sentencepiece(Vocabulary *v)
{
    int add_bos = 1, add_eos = 0, prefix = 1, trim = 0;
    if (gguf_bool(v->g, KEY("add_bos_token"), &add_bos, v->e) < 0 ||
        gguf_bool(v->g, KEY("add_eos_token"), &add_eos, v->e) < 0 ||
        gguf_bool(v->g, KEY("add_space_prefix"), &prefix, v->e) < 0 ||
        gguf_bool(v->g, KEY("remove_extra_whitespaces"), &trim, v->e) < 0)
        return -1;
    if (trim || gguf_get(v->g, KEY("precompiled_charsmap")))
        return err_set(v->e, ERR_DATA,
                       "%s: %s is not supported; refused, because leaving it out would give wrong "
                       "token ids",
                       v->path,
                       trim ? KEY("remove_extra_whitespaces") : KEY("precompiled_charsmap"));
    if (!gguf_get(v->g, KEY("scores")))
        return err_set(v->e, ERR_DATA, "%s: " KEY("scores") " is missing", v->path);
    const SentencePieceOptions o = {.add_bos = add_bos, .add_eos = add_eos, .no_prefix = !prefix};
    SentencePiece ends = {.bos = v->bos, .eos = v->eos};
    return sentencepiece_pieces_json(v->pieces, v->count, v->path, &o, &ends, v->out, v->e);
}

/* ---- both ---------------------------------------------------------------------------------- */

static int put_tokenizer(Vocabulary *v)
{
    const char *kind = "";
    size_t len = 0;
    if (gguf_check_model(v->g, v->e)) return -1;
    int found = gguf_text(v->g, KEY("model"), &kind, &len, v->e);
    if (found < 0) return -1;
    if (!found)
        return err_set(v->e, ERR_DATA, "%s: " KEY("model") " is missing: it has no tokenizer",
                       v->path);
    if (read_pieces(v) || read_id(v, KEY("bos_token_id"), &v->bos) ||
        read_id(v, KEY("eos_token_id"), &v->eos) || drop_padding(v))
        return -1;
    if (len == 4 && !memcmp(kind, "gpt2", len)) return put_byte_level(v);
    if (len == 5 && !memcmp(kind, "llama", len)) return put_sentencepiece(v);
    return err_set(v->e, ERR_DATA, "%s: " KEY("model") " is \"%.*s\"; supported: llama, gpt2",
                   v->path, len > 60 ? 60 : (int)len, kind);
}

/* The text of tokenizer_config.json: names of special tokens, and the chat template. */
static int put_config(Vocabulary *v)
{
    static const struct {
        const char *key, *name;
    } tokens[] = {{KEY("bos_token_id"), "bos_token"},
                  {KEY("eos_token_id"), "eos_token"},
                  {KEY("padding_token_id"), "pad_token"}};
    const char *between = "{";
    Bytes template;
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
        int32_t id;
        if (read_id(v, tokens[i].key, &id)) return -1;
        if (id < 0) continue;
        if (text_addf(v->out, v->e, "%s\"%s\":", between, tokens[i].name) ||
            put_text(v, v->pieces[id].text))
            return -1;
        between = ",\n ";
    }
    int found = gguf_text(v->g, "tokenizer.chat_template", &template.text, &template.len, v->e);
    if (found < 0 || (found && (text_addf(v->out, v->e, "%s\"chat_template\":", between) ||
                                put_text(v, template))))
        return -1;
    return text_addf(v->out, v->e, "%s}\n", found || *between == ',' ? "" : between);
}

int tokenizer_of_gguf(const Gguf *g, Text *tokenizer, Text *config, Err *e)
{
    Vocabulary v = {.g = g, .path = g->parts[0].path, .out = tokenizer, .e = e};
    int status = put_tokenizer(&v);
    v.out = config;
    if (!status) status = put_config(&v);
    pool_free(&v.pool);
    return status;
}
