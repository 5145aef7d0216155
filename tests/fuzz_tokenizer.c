/* fuzz_tokenizer.c - damaged tokenizer.json files, and texts into those that load. What is accepted
 * must give ids in range, decode them alike at once and in a stream, and keep control tokens out of
 * texts that may not have them. */
#include "base.h"

#include "fuzz.h"
#include "json.h"
#include "tokenizer.h"
#include "tokenizers.h"

#include <string.h>

/* clang-format off */
#define TEKKEN                                                                                  \
    "[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?[\\\\p{Lu}\\\\p{Lt}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]*"               \
    "[\\\\p{Ll}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]+"                                                    \
    "|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?[\\\\p{Lu}\\\\p{Lt}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]+"              \
    "[\\\\p{Ll}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]*|\\\\p{N}| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n/]*"   \
    "|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"
#define QWEN2                                                                                   \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}"             \
    "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"

const char *const fuzz_words[] = {
    "\"normalizer\":", "\"pre_tokenizer\":", "\"decoder\":", "\"post_processor\":",
    "\"special\":true", "\"normalized\":true", "\"lstrip\":true", "\"rstrip\":true",
    "\"single_word\":true", "\"byte_fallback\":true", "\"fuse_unk\":false",
    "\"ignore_merges\":true", "\"unk_token\":\"a\"", "{\"type\":\"Fuse\"}",
    "{\"type\":\"Prepend\",\"prepend\":\"a\"}", "{\"type\":\"ByteFallback\"}",
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":\"\"}",
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":\"aaaaaaaa\"}",
    "{\"type\":\"Digits\",\"individual_digits\":true}",
    "{\"type\":\"Metaspace\",\"replacement\":\"" BAR "\",\"prepend_scheme\":\"always\"}",
    "{\"type\":\"ByteLevel\"}", "{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}",
    "{\"id\":12,\"content\":\"a\",\"special\":false}", "\"merges\":[]", "[\"a\",\"b\"]", "\"a b\"",
    "\"Sequence\"", "\"normalizers\":[", "\"pretokenizers\":[", "\"decoders\":[", "null", BAR,
    "{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":\"" TEKKEN "\"}}",
    "{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":\"" QWEN2 "\"}}",
    "\"<unk>\"", "\"<0x41>\":", "\\u0120", "\\u0000", NULL};

/* Beside those of tokenizers.h: added tokens with every flag, digits, a tokenizer_config.json. */
static const char *const fixed_seeds[] = {
    "{\"added_tokens\":[{\"id\":4,\"content\":\" x \",\"lstrip\":true,\"rstrip\":true},"
    "{\"id\":5,\"content\":\"b\",\"normalized\":true,\"single_word\":true}],"
    "\"normalizer\":{\"type\":\"Prepend\",\"prepend\":\"_\"},"
    "\"decoder\":{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"always\"},"
    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"_\":0,\"a\":1,\"_a\":2,\"aa\":3},"
    "\"merges\":[\"_ a\",\"a a\"]}}",
    "{\"pre_tokenizer\":{\"type\":\"Digits\",\"individual_digits\":false},"
    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"1\":0,\"a\":1,\"b\":2,\"ab\":3,\"11\":4},"
    "\"merges\":[\"1 1\",\"a b\"]}}",
    ("{\"bos_token\":\"<s>\",\"eos_token\":{\"content\":\"</s>\"},"
     "\"chat_template\":[{\"name\":\"default\",\"template\":\"x\"}]}")};
/* clang-format on */

int fuzz_seed(size_t i, Text *out)
{
    const size_t fixed = sizeof fixed_seeds / sizeof fixed_seeds[0];
    const char *text;
    if (i < fixed) {
        text = fixed_seeds[i];
    } else {
        switch (i - fixed) {
        case 0: text = json_sentencepiece(LEGACY); break;
        case 1: text = json_sentencepiece(METASPACE("first")); break;
        case 2: text = json_byte_level(BYTES_LLAMA3, ""); break;
        case 3: text = json_byte_level(BYTES_GPT2, "\"ignore_merges\":true,"); break;
        case 4: text = json_byte_level(BYTES_ONLY, ""); break;
        default: return -1;
        }
    }
    return text_add(out, text, strlen(text), NULL);
}

void fuzz_repair(uint8_t *data, size_t size)
{
    (void)data;
    (void)size;
}

/* A refusal is one line and names the file. */
static void check_refusal(const Err *e)
{
    FUZZ_REQUIRE(e->code == ERR_DATA);
    FUZZ_REQUIRE(strstr(e->text, "t.json") || strstr(e->text, "tokenizer_config.json"));
    for (const char *c = e->text; *c; c++) FUZZ_REQUIRE((unsigned char)*c >= 0x20);
}

/* Both ways to decode; what a stream has given stays. */
static void check_decoding(const Tokenizer *t, const Ids *ids, int skip)
{
    Text whole = {0}, streamed = {0};
    Decoder d;
    Err e;
    if (tokenizer_decode(t, ids->ids, ids->count, skip, &whole, &e)) {
        FUZZ_REQUIRE(e.code == ERR_DATA && strstr(e.text, "more than"));
        text_free(&whole);
        return;
    }
    FUZZ_REQUIRE(utf8_check(whole.data, whole.len) == whole.len);
    decoder_begin(&d, t, skip);
    for (size_t i = 0; i < ids->count; i++) {
        FUZZ_REQUIRE(!decoder_put(&d, ids->ids[i], &streamed, &e));
        FUZZ_REQUIRE(streamed.len <= whole.len);
    }
    FUZZ_REQUIRE(!decoder_flush(&d, &streamed, &e) && streamed.len == whole.len);
    FUZZ_REQUIRE(!whole.len || !memcmp(streamed.data, whole.data, whole.len));
    text_free(&whole);
    text_free(&streamed);
}

/* One text, as text and with special tokens. */
static void check_text(const Tokenizer *t, const char *text, size_t len)
{
    Ids plain = {0}, marked = {0}, parsed = {0};
    Err e;
    char *ours = mem_calloc(len + 1, 1, &e);
    if (tokenizer_encode(t, text, len, 0, &plain, &e)) {
        FUZZ_REQUIRE(e.code == ERR_DATA && plain.count == 0);
    } else { /* nobody's text is ours: the same as a plain text */
        FUZZ_REQUIRE(!tokenizer_encode_marked(t, text, ours, len, 0, &marked, &e));
        FUZZ_REQUIRE(marked.count == plain.count);
        FUZZ_REQUIRE(!plain.count || !memcmp(marked.ids, plain.ids, plain.count * sizeof(int32_t)));
        FUZZ_REQUIRE(!tokenizer_encode(t, text, len, TOKENIZE_SPECIAL | TOKENIZE_ADD, &parsed, &e));
        for (size_t i = 0; i < parsed.count; i++)
            FUZZ_REQUIRE(tokenizer_piece(t, parsed.ids[i], NULL) != NULL);
        for (int skip = 0; skip < 2; skip++) {
            check_decoding(t, &plain, skip);
            check_decoding(t, &parsed, skip);
        }
    }
    mem_free(ours);
    ids_free(&plain);
    ids_free(&marked);
    ids_free(&parsed);
}

/* Every piece is found by its spelling. */
static void check_pieces(const Tokenizer *t)
{
    for (size_t i = 0; i < tokenizer_size(t); i++) {
        size_t len;
        const char *piece = tokenizer_piece(t, (int32_t)i, &len);
        FUZZ_REQUIRE(piece && tokenizer_id(t, piece, len) == (int32_t)i);
    }
}

static void check_model(const Tokenizer *t, const uint8_t *data, size_t size)
{
    static const char one[] = "ab </s>ab[X] x  ab  aaaa'S 12345\r\n \xc3\xa9" BAR "ab<0x41>\0b";
    static const char two[] = "HTMLParser iPhone\xf0\x9f\x98\x80/\r\n\xcc\x81!?\n a<unk>  b </s> ";
    check_pieces(t);
    check_text(t, one, sizeof one - 1);
    check_text(t, two, sizeof two - 1);
    check_text(t, "", 0);
    check_text(t, (const char *)data, size < 2000 ? utf8_check((const char *)data, size) : 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Err e = {0};
    Tokenizer *t = tokenizer_parse((const char *)data, size, "t.json", NULL, 0, NULL, &e);
    if (t)
        check_model(t, data, size);
    else
        check_refusal(&e);
    tokenizer_free(t);
    const char *good = json_sentencepiece(LEGACY);
    t = tokenizer_parse(good, strlen(good), "t.json", (const char *)data, size, NULL, &e);
    if (!t) check_refusal(&e);
    tokenizer_free(t);
    return 0;
}
