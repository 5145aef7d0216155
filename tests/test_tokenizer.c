/* test_tokenizer.c - tokenizers small enough to check by hand: both forms, special tokens, streams,
 * and every way a tokenizer.json can be wrong. */
#include "base.h"

#include "files.h"
#include "golden.h"
#include "test.h"
#include "tokenizer.h"
#include "tokenizers.h"

#include <time.h>

static Err err;

static Tokenizer *parse(const char *json)
{
    err = (Err){0};
    return tokenizer_parse(json, strlen(json), "t.json", NULL, 0, NULL, &err);
}

static Tokenizer *sentencepiece(const char *middle)
{
    return parse(json_sentencepiece(middle));
}

static Tokenizer *byte_level(const char *pre_tokenizer, const char *options)
{
    return parse(json_byte_level(pre_tokenizer, options));
}

/* ---- checks ---------------------------------------------------------------------------------- */

/* The ids of text as "1 7 4". */
static const char *ids_of(const Tokenizer *t, const char *text, size_t len, int flags)
{
    static char shown[2048];
    size_t at = 0;
    Ids ids = {0};
    shown[0] = 0;
    if (!t || tokenizer_encode(t, text, len, flags, &ids, &err)) {
        snprintf(shown, sizeof shown, "error: %s", err.text);
        return shown;
    }
    for (size_t i = 0; i < ids.count && at < sizeof shown - 16; i++)
        at += (size_t)snprintf(shown + at, sizeof shown - at, i ? " %ld" : "%ld", (long)ids.ids[i]);
    ids_free(&ids);
    return shown;
}

#define CHECK_IDS(t, text, flags, expected)                                                        \
    CHECK_TEXT(ids_of(t, text, sizeof(text) - 1, flags), expected)

/* ids to text, at once; the streamed text must be the same. */
static const char *text_of(const Tokenizer *t, const int32_t *ids, size_t n, int skip)
{
    static char shown[2048];
    Text whole = {0}, streamed = {0};
    Decoder d;
    int failed = tokenizer_decode(t, ids, n, skip, &whole, &err);
    decoder_begin(&d, t, skip);
    for (size_t i = 0; i < n && !failed; i++) {
        failed = decoder_put(&d, ids[i], &streamed, &err);
        CHECK(!streamed.len ||
              (whole.len >= streamed.len && !memcmp(whole.data, streamed.data, streamed.len)));
    }
    failed = failed || decoder_flush(&d, &streamed, &err);
    if (failed) {
        snprintf(shown, sizeof shown, "error: %s", err.text);
    } else {
        CHECK(whole.len == streamed.len);
        snprintf(shown, sizeof shown, "%s", whole.data);
        CHECK_TEXT(streamed.data ? streamed.data : "", shown);
    }
    decoder_free(&d);
    text_free(&whole);
    text_free(&streamed);
    return shown;
}

#define DECODED(t, skip, ...)                                                                      \
    text_of(t, (const int32_t[]){__VA_ARGS__},                                                     \
            sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t), skip)

/* ---- SentencePiece form ---------------------------------------------------------------------- */

static void sentencepiece_legacy(void)
{
    Tokenizer *t = sentencepiece(LEGACY);
    CHECK(t && tokenizer_size(t) == 12);
    CHECK_IDS(t, "", TOKENIZE_ADD, "1");
    CHECK_IDS(t, "", 0, "");
    CHECK_IDS(t, "ab", TOKENIZE_ADD, "1 7");
    CHECK_IDS(t, " ab", 0, "3 7"); /* the merge _ab comes before the merge __ */
    CHECK_IDS(t, "  a", 0, "8 3 4");
    CHECK_IDS(t, BAR "ab", 0, "3 7");         /* a literal U+2581 is a space */
    CHECK_IDS(t, "ab\xc3\xa9", 0, "7 9 10");  /* bytes where there is no token */
    CHECK_IDS(t, "z\xe2\x98\x83z", 0, "3 0"); /* a byte is missing: unknown, a run of them is one */
    CHECK_IDS(t, "a\0b", 0, "3 4 0 5");       /* 0 is a character like any other */
    tokenizer_free(t);
}

static void sentencepiece_metaspace(void)
{
    Tokenizer *t = sentencepiece(METASPACE("first"));
    CHECK_IDS(t, "ab", 0, "7");
    CHECK_IDS(t, " ab", 0, "7"); /* it begins with a space already */
    CHECK_IDS(t, BAR "ab", 0, "7");
    CHECK_IDS(t, "ab</s>ab", TOKENIZE_SPECIAL, "7 2 6"); /* only the first piece */
    tokenizer_free(t);
    t = sentencepiece(METASPACE("always"));
    CHECK_IDS(t, "ab</s>ab", TOKENIZE_SPECIAL, "7 2 7");
    tokenizer_free(t);
    t = sentencepiece(METASPACE("never"));
    CHECK_IDS(t, "ab</s>ab", TOKENIZE_SPECIAL, "6 2 6");
    tokenizer_free(t);
}

static void sentencepiece_decodes(void)
{
    Tokenizer *t = sentencepiece(LEGACY);
    CHECK_TEXT(DECODED(t, 1, 1, 7, 7), "ab ab"); /* one leading space goes */
    CHECK_TEXT(DECODED(t, 0, 1, 7, 2), "<s> ab</s>");
    CHECK_TEXT(DECODED(t, 1, 8, 4), " a");
    CHECK_TEXT(DECODED(t, 1, 4, 9, 10, 5), "a\xc3\xa9"
                                           "b");
    CHECK_TEXT(DECODED(t, 1, 9, 10, 9),
               "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"); /* all of the run */
    CHECK_TEXT(DECODED(t, 1, 9, 2, 10), "\xc3\xa9");    /* skipped tokens do not end a run */
    Text out = {0};
    CHECK(tokenizer_decode(t, (const int32_t[]){4, 12}, 2, 1, &out, &err) && err.code == ERR_DATA);
    CHECK(out.len == 0);
    CHECK(tokenizer_decode(t, (const int32_t[]){-1}, 1, 1, &out, &err) && err.code == ERR_DATA);
    text_free(&out);
    tokenizer_free(t);
}

/* ---- byte-level form ------------------------------------------------------------------------- */

static void byte_level_words(void)
{
    Tokenizer *t = byte_level(BYTES_LLAMA3, "");
    CHECK(t && tokenizer_size(t) == 262);
    CHECK_IDS(t, "", TOKENIZE_ADD, "");
    CHECK_IDS(t, "ab ab", 0, "256 257");
    CHECK_IDS(t, "   ab", 0, "258 257"); /* the last space goes with the word */
    CHECK_IDS(t, "   ", 0, "258 32");
    CHECK_IDS(t, "abab", 0, "256 256");
    CHECK_IDS(t, "\xff", 0, "error: text is not UTF-8: byte 0xFF at offset 0");
    CHECK_IDS(t, "a\xed\xa0\x80", 0, "error: text is not UTF-8: byte 0xED at offset 1");
    CHECK_IDS(t, "ab\xc0\xaf", 0, "error: text is not UTF-8: byte 0xC0 at offset 2");
    tokenizer_free(t);
    t = byte_level(BYTES_LLAMA3, "\"ignore_merges\":true,");
    CHECK_IDS(t, "abab", 0, "259"); /* in the vocabulary, though no merge leads there */
    CHECK_IDS(t, "abab!", 0, "259 33");
    tokenizer_free(t);
    t = byte_level(BYTES_GPT2, "");
    CHECK_IDS(t, "ab", 0, "257"); /* add_prefix_space */
    CHECK_IDS(t, " ab", 0, "257");
    tokenizer_free(t);
}

static void byte_level_decodes(void)
{
    Tokenizer *t = byte_level(BYTES_LLAMA3, "");
    CHECK_TEXT(DECODED(t, 1, 257, 256), " abab");
    CHECK_TEXT(DECODED(t, 0, 256, 260), "ab<|end|>");
    CHECK_TEXT(DECODED(t, 1, 256, 260), "ab");
    CHECK_TEXT(DECODED(t, 1, 0xe2, 0x98, 0x83), "\xe2\x98\x83");
    CHECK_TEXT(DECODED(t, 1, 0xe2, 0x98, 'a'), "\xef\xbf\xbd"
                                               "a"); /* one for the beginning */
    CHECK_TEXT(DECODED(t, 1, 0xe0, 0x80, 'a'), "\xef\xbf\xbd\xef\xbf\xbd"
                                               "a");
    CHECK_TEXT(DECODED(t, 1, 0xf0, 0x9f), "\xef\xbf\xbd");
    CHECK_TEXT(DECODED(t, 1, 0xff, 0xed, 0xa0), "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
    tokenizer_free(t);
}

/* b and c meet first; the pair a b that was noted before is no more, and a bc waits for bc d. */
static void order_of_merges(void)
{
    Tokenizer *t = parse("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"d\":3,"
                         "\"bc\":4,\"ab\":5,\"bcd\":6,\"abc\":7},\"merges\":[\"b c\",\"a b\","
                         "\"bc d\",\"a bc\"]}}");
    CHECK_IDS(t, "abcd", 0, "0 6");
    CHECK_IDS(t, "abcab", 0, "7 5");
    CHECK_IDS(t, "abdabcd", 0, "5 3 0 6");
    tokenizer_free(t);
    t = parse("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"aa\":1},\"merges\":[\"a a\"]}}");
    CHECK_IDS(t, "aaa", 0, "1 0"); /* of two equal pairs the left one */
    CHECK_IDS(t, "aaaaaaa", 0, "1 1 1 0");
    tokenizer_free(t);
}

/* ---- special tokens -------------------------------------------------------------------------- */

static void special_spellings_stay_text(void)
{
    Tokenizer *t = sentencepiece(METASPACE("first"));
    CHECK_IDS(t, "ab</s>", TOKENIZE_SPECIAL | TOKENIZE_ADD, "1 7 2");
    CHECK_IDS(t, "ab</s>", 0, "7 0");     /* "</s>" is a run of unknown characters */
    CHECK_IDS(t, "ab[X]ab", 0, "7 11 6"); /* added, but no control token */
    CHECK_IDS(t, "</s", TOKENIZE_SPECIAL, "3 0");
    CHECK(tokenizer_is_special(t, 2) && !tokenizer_is_special(t, 11) &&
          !tokenizer_is_special(t, 99));
    CHECK(tokenizer_id(t, "[X]", 3) == 11 && tokenizer_id(t, "[Y]", 3) == -1);
    CHECK_TEXT(tokenizer_piece(t, 7, NULL), BAR "ab");
    CHECK(!tokenizer_piece(t, 12, NULL) && !tokenizer_piece(t, -1, NULL));
    tokenizer_free(t);
}

/* Text of ours around text of others, spelled out as "0" and "1" per byte. */
static const char *marked_ids(const Tokenizer *t, const char *text, const char *ones)
{
    static char shown[256];
    char ours[64];
    Ids ids = {0};
    size_t at = 0, len = strlen(text);
    for (size_t i = 0; i < len; i++) ours[i] = ones[i] == '1';
    shown[0] = 0;
    CHECK(strlen(ones) == len && !tokenizer_encode_marked(t, text, ours, len, 0, &ids, &err));
    for (size_t i = 0; i < ids.count; i++)
        at += (size_t)snprintf(shown + at, sizeof shown - at, i ? " %ld" : "%ld", (long)ids.ids[i]);
    ids_free(&ids);
    return shown;
}

static void only_our_special_tokens_count(void)
{
    Tokenizer *t = sentencepiece(METASPACE("first"));
    CHECK_TEXT(marked_ids(t, "<s>ab</s>ab</s>", "111000000001111"), "1 6 0 6 2");
    CHECK_TEXT(marked_ids(t, "ab</s>", "001111"), "7 2");
    CHECK_TEXT(marked_ids(t, "ab</s>", "000111"), "7 0"); /* a forged half */
    CHECK_TEXT(marked_ids(t, "ab</s>", "111110"), "7 0");
    CHECK_TEXT(marked_ids(t, "ab<</s>", "0001111"), "7 0 2");
    tokenizer_free(t);
}

/* ---- small tokenizers of every kind, with the library's ids (tools/golden_tokenizer.py) ------ */

/* Encodes the text of a row and compares with the row's list of ids. */
static int same_ids(const Tokenizer *t, const Json *row, const char *key, int flags, Ids *ids)
{
    const Json *text = json_get(row, "text"), *want = json_get(row, key)->child;
    ids->count = 0;
    if (tokenizer_encode(t, text->text, text->len, flags | TOKENIZE_ADD, ids, &err)) return 0;
    for (size_t i = 0; i < ids->count; i++, want = want->next) {
        int64_t id;
        if (!want || json_i64(want, &id) || id != ids->ids[i]) return 0;
    }
    return want == NULL;
}

static void golden_tokenizers(void)
{
    const Json *file = golden_json("tokenizers.json");
    CHECK(file->len == 11);
    for (const Json *j = file->child; j; j = j->next) {
        Text json = {0};
        Ids ids = {0};
        CHECK(!json_put(&json, json_get(j, "tokenizer"), &err));
        Tokenizer *t = parse(json.data);
        if (!t) CHECK_TEXT(err.text, json_get(j, "name")->text);
        size_t bad = 0, n = 0;
        for (const Json *row = t ? json_get(j, "rows")->child : NULL; row; row = row->next, n++) {
            int ok = same_ids(t, row, "ids", 0, &ids) &&
                     same_ids(t, row, "parsed", TOKENIZE_SPECIAL, &ids) &&
                     !strcmp(text_of(t, ids.ids, ids.count, 1), json_get(row, "decoded")->text) &&
                     !strcmp(text_of(t, ids.ids, ids.count, 0), json_get(row, "kept")->text);
            bad += !ok;
            if (!ok) printf("%s: %s\n", json_get(j, "name")->text, json_get(row, "text")->text);
        }
        CHECK(n > 70 && bad == 0);
        tokenizer_free(t);
        ids_free(&ids);
        text_free(&json);
    }
}

/* ---- hostile length -------------------------------------------------------------------------- */

static void a_megabyte_of_one_letter(void)
{
    enum { SIZE = 1 << 20 };
    char *text = mem_alloc(SIZE, &err);
    CHECK(text != NULL);
    if (!text) return;
    for (int i = 0; i < 3; i++) {
        Tokenizer *t = i == 2 ? sentencepiece(LEGACY) : byte_level(BYTES_LLAMA3, "");
        memset(text, i == 0 ? 'a' : ' ', SIZE);
        Ids ids = {0};
        clock_t start = clock(); /* of this process: others may keep the machine busy */
        CHECK(!tokenizer_encode(t, text, SIZE, 0, &ids, &err));
        CHECK((double)(clock() - start) / CLOCKS_PER_SEC < 2);
        CHECK(ids.count == (i == 0 ? SIZE : SIZE / 2 + (i == 2)));
        ids_free(&ids);
        tokenizer_free(t);
    }
    mem_free(text);
}

/* ---- wrong files ----------------------------------------------------------------------------- */

/* The file must be refused, with this code and these words in the message. */
static void refused(const char *json, const char *words)
{
    Tokenizer *t = parse(json);
    CHECK(t == NULL && err.code == ERR_DATA);
    if (!t && !strstr(err.text, words)) CHECK_TEXT(err.text, words);
    if (strchr(err.text, '\n')) CHECK_TEXT(err.text, "one line");
    tokenizer_free(t);
}

#define MODEL(vocab, merges)                                                                       \
    "\"model\":{\"type\":\"BPE\",\"vocab\":{" vocab "},\"merges\":[" merges "]}"

static void faults_of_the_model(void)
{
    refused("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,", "t.json"); /* K01 */
    refused("{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", "Unigram"); /* K02 */
    refused("{\"model\":{\"type\":\"WordPiece\",\"vocab\":{}}}", "WordPiece");
    refused("{" MODEL("\"a\":0,\"b\":2", "") "}", "0 .. 1"); /* K03: a gap */
    refused("{" MODEL("\"a\":0,\"b\":0", "") "}", "two tokens");
    refused("{" MODEL("\"a\":0,\"a\":1", "") "}", "t.json:1:");
    refused("{" MODEL("\"a\":-1", "") "}", "model.vocab \"a\"");
    refused("{" MODEL("\"a\":2147483648", "") "}", "model.vocab \"a\"");
    refused("{" MODEL("\"a\":0.5", "") "}", "model.vocab \"a\"");
    refused("{" MODEL("\"a\":0,\"b\":1,\"ab\":2", "\"a b\",\"a c\"") "}", "merges[1]"); /* K04 */
    refused("{" MODEL("\"a\":0,\"b\":1", "\"a b\"") "}", "\"ab\"");
    refused("{" MODEL("\"a\":0,\"b\":1,\"ab\":2", "\"a  b\"") "}", "one space"); /* K06 */
    refused("{" MODEL("\"a\":0,\"b\":1,\"ab\":2", "\"ab\"") "}", "one space");
    refused("{" MODEL("\"a\":0,\"b\":1,\"ab\":2", "[\"a\",\"b\",\"c\"]") "}", "merges[0]");
    refused("{" MODEL("\"a\":0,\"b\":1,\"ab\":2", "[\"a\",7]") "}", "merges[0]");
    refused("{\"model\":{\"type\":\"BPE\",\"unk_token\":\"z\",\"vocab\":{\"a\":0},\"merges\":[]}}",
            "unk_token");
    refused("{\"model\":{\"type\":\"BPE\",\"dropout\":0.1,\"vocab\":{\"a\":0},\"merges\":[]}}",
            "dropout");
    refused("{\"model\":{\"type\":\"BPE\",\"end_of_word_suffix\":\"</w>\",\"vocab\":{\"a\":0},"
            "\"merges\":[]}}",
            "end_of_word_suffix \"</w>\"");
    refused("{}", "model");
    refused("[]", "object");
}

static void faults_of_the_steps(void)
{
#define A MODEL("\"a\":0", "")
    refused("{\"normalizer\":{\"type\":\"NFKC\"}," A "}", "NFKC"); /* K07 */
    refused("{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Lowercase\"}]}," A
            "}",
            "Lowercase");
    refused("{\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"x+\"},\"content\":"
            "\"\"}," A "}",
            "x+");
    refused("{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\d+\"},"
            "\"behavior\":\"Isolated\",\"invert\":false}," A "}",
            "d+");
    refused("{\"pre_tokenizer\":{\"type\":\"Whitespace\"}," A "}", "Whitespace");
    refused("{\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":"
            "\"last\"}," A "}",
            "last");
    refused("{\"pre_tokenizer\":{\"type\":\"ByteLevel\"}," A "}", "byte 0x00"); /* K11 */
    refused("{\"decoder\":{\"type\":\"WordPiece\"}," A "}", "WordPiece");
    refused("{\"decoder\":{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":1}," A "}",
            "Strip");
    refused("{\"post_processor\":{\"type\":\"BertProcessing\"}," A "}", "BertProcessing");
    refused("{\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":"
            "{\"id\":\"z\"}},{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":{}}," A "}",
            "special_tokens");
    refused(
        "{\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":"
        "{\"id\":\"z\"}},{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":{\"z\":{\"ids\":[9]}}"
        "}," A "}",
        "0 .. 0");
}

/* A file that would blow texts up is found out before memory runs out. */
static void steps_that_blow_up(void)
{
#define TIMES9 "{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":\"aaaaaaaaa\"}"
#define TIMES9_7 TIMES9 "," TIMES9 "," TIMES9 "," TIMES9 "," TIMES9 "," TIMES9 "," TIMES9
    Tokenizer *t =
        parse("{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[" TIMES9_7 "]}," A "}");
    CHECK(t != NULL);
    CHECK_IDS(t, "a", 0,
              "error: the normalizer makes a text of 1 bytes more than 64 times as long");
    tokenizer_free(t);
    t = parse("{\"decoder\":{\"type\":\"Sequence\",\"decoders\":[" TIMES9_7 "]}," A "}");
    CHECK(t != NULL);
    Text out = {0};
    CHECK(tokenizer_decode(t, (const int32_t[]){0}, 1, 0, &out, &err) && err.code == ERR_DATA);
    CHECK(strstr(err.text, "more than 1048576 bytes") && out.len == 0);
    text_free(&out);
    tokenizer_free(t);
    char json[600] = "{\"normalizer\":{\"type\":\"Prepend\",\"prepend\":\"", many[258] = {0};
    memset(many, 'a', 257);
    strcat(strcat(json, many), "\"}," A "}");
    refused(json, "\"prepend\" is 257 bytes long");
    refused("{\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"__\"}," A "}",
            "one character");
}

/* Collects what is said. */
static void hear(void *ctx, char level, const char *text)
{
    snprintf(ctx, 300, "%c %s", level, text);
}

static void mistral_with_the_wrong_pattern(void) /* K08 */
{
    enum { SIZE = 131072 };
    char heard[300] = "";
    Log log = {heard, hear};
    Text json = {0};
    const char *base = json_byte_level(BYTES_LLAMA3, "");
    const char *vocab = strstr(base, "\"vocab\":{") + strlen("\"vocab\":{");
    text_add(&json, base, (size_t)(vocab - base), &err);
    for (int i = 262; i < SIZE - 1; i++) text_addf(&json, &err, "\"t%d\":%d,", i, i);
    text_addf(&json, &err, "\"[INST]\":%d,%s", SIZE - 1, vocab);
    Tokenizer *t = tokenizer_parse(json.data, json.len, "t.json", NULL, 0, &log, &err);
    CHECK(t && tokenizer_size(t) == SIZE);
    CHECK(heard[0] == 'w' && strstr(heard, "Llama 3's split pattern"));
    tokenizer_free(t);
    text_free(&json);
}

static void faults_of_added_tokens(void)
{
    refused("{\"added_tokens\":[{\"id\":1,\"content\":\"a\"}]," A "}",
            "has id 1 here but 0"); /* K09 */
    refused("{\"added_tokens\":[{\"id\":0,\"content\":\"b\"}]," A "}", "two tokens");
    refused("{\"added_tokens\":[{\"id\":2,\"content\":\"b\"}]," A "}", "0 .. 1");
    refused("{\"added_tokens\":[{\"id\":1,\"content\":\"\"}]," A "}", "non-empty"); /* K10 */
    refused("{\"added_tokens\":[{\"id\":1,\"content\":\"b\",\"special\":1}]," A "}", "special");
    refused("{\"added_tokens\":{}," A "}", "array");
    refused(
        "{\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\"b\"},\"content\":\"\"},"
        "\"added_tokens\":[{\"id\":1,\"content\":\"b\",\"normalized\":true}]," A "}",
        "empty once normalized");
}

/* The id of "b" where "c" becomes "b" too, and both are added tokens. */
static int32_t id_of_twins(const char *special)
{
    char json[512];
    Ids ids = {0};
    snprintf(
        json, sizeof json,
        "{\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\"c\"},\"content\":\"b\"},"
        "\"added_tokens\":[{\"id\":2,\"content\":\"c\",\"normalized\":true},"
        "{\"id\":1,\"content\":\"b\",\"normalized\":true,\"special\":%s}]," A "}",
        special);
    Tokenizer *t = tokenizer_parse(json, strlen(json), "t.json", NULL, 0, NULL, &err);
    CHECK(t && !tokenizer_encode(t, "b", 1, TOKENIZE_SPECIAL, &ids, &err) && ids.count == 1);
    int32_t id = ids.count ? ids.ids[0] : -1;
    ids_free(&ids);
    tokenizer_free(t);
    return id;
}

static void of_two_with_one_text_the_first_is_found(void)
{
    CHECK(id_of_twins("false") == 2);
    CHECK(id_of_twins("true") == 1); /* special tokens are read first */
}

/* tokenizer_config.json beside a good tokenizer. */
static Tokenizer *with_config(const char *config)
{
    const char *json = "{\"added_tokens\":[{\"id\":1,\"content\":\"<s>\",\"special\":true}]," A "}";
    err = (Err){0};
    return tokenizer_parse(json, strlen(json), "t.json", config, strlen(config), NULL, &err);
}

static void configuration(void)
{
    Tokenizer *t =
        with_config("\xef\xbb\xbf{\"bos_token\":\"<s>\",\"eos_token\":{\"content\":\"a\"},"
                    "\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"x\"},"
                    "{\"name\":\"default\",\"template\":\"y\"}]}");
    CHECK(t != NULL);
    if (t) {
        size_t len;
        CHECK(tokenizer_bos(t) == 1 && tokenizer_eos(t) == 0);
        CHECK_TEXT(tokenizer_bos_text(t), "<s>");
        CHECK_TEXT(tokenizer_eos_text(t), "a");
        CHECK_TEXT(tokenizer_chat_template(t, &len), "y");
        CHECK(len == 1);
        CHECK_TEXT(tokenizer_chat_date(t), TOKENIZER_CHAT_DATE);
        CHECK(!tokenizer_set_chat_date(t, "1 Jan 2000", &err));
        CHECK_TEXT(tokenizer_chat_date(t), "1 Jan 2000");
    }
    tokenizer_free(t);
    t = with_config("{\"bos_token\":null}");
    CHECK(t && tokenizer_bos(t) == -1 && tokenizer_eos(t) == -1 && !tokenizer_eos_text(t));
    CHECK(t && !tokenizer_chat_template(t, NULL));
    tokenizer_free(t);
    CHECK(!with_config("{\"eos_token\":\"zz\"}") && err.code == ERR_DATA); /* K21 */
    CHECK(strstr(err.text, "\"zz\"") != NULL);
    CHECK(!with_config("{\"chat_template\":[{\"name\":\"x\",\"template\":\"\"}]}")); /* K24 */
    CHECK(strstr(err.text, "default") != NULL);
    CHECK(!with_config("{\"bos_token\":7}") && err.code == ERR_DATA);
    CHECK(!with_config("{") && err.code == ERR_DATA);
}

/* A directory with all three files; chat_template.jinja goes first. A byte order mark is fine. */
static void a_directory(void)
{
    const char *json = json_sentencepiece(LEGACY);
    const char *config = "{\"bos_token\":\"<s>\",\"chat_template\":\"from the configuration\"}";
    Text marked = {0};
    text_addf(&marked, &err, "\xef\xbb\xbf%s", json);
    files_begin();
    files_write("tokenizer.json", marked.data, marked.len);
    for (int i = 0; i < 3; i++) {
        static const char *const expected[] = {NULL, "from the configuration", "from the file"};
        if (i == 1) files_write("tokenizer_config.json", config, strlen(config));
        if (i == 2) files_write("chat_template.jinja", expected[2], strlen(expected[2]));
        Tokenizer *t = tokenizer_load(files_dir, NULL, &err);
        CHECK(t && tokenizer_bos(t) == (i ? 1 : -1));
        const char *found = t ? tokenizer_chat_template(t, NULL) : "";
        if (expected[i])
            CHECK_TEXT(found, expected[i]);
        else
            CHECK(found == NULL);
        tokenizer_free(t);
    }
    files_write("tokenizer_config.json", "{\"eos_token\":\"zz\"}", 18);
    CHECK(!tokenizer_load(files_dir, NULL, &err) && err.code == ERR_DATA);
    CHECK(strstr(err.text, "tokenizer_config.json:1:") != NULL);
    files_write("tokenizer.json", "\xff\xfe{\0", 4);
    CHECK(!tokenizer_load(files_dir, NULL, &err) && strstr(err.text, "UTF-16"));
    files_end();
    text_free(&marked);
}

static void a_missing_file(void)
{
    err = (Err){0};
    CHECK(!tokenizer_load("no/such/directory", NULL, &err) && err.code == ERR_NO_INPUT);
    CHECK(strstr(err.text, "no/such/directory/tokenizer.json") != NULL);
}

const Test tests[] = {
    {"sentencepiece_legacy", sentencepiece_legacy},
    {"sentencepiece_metaspace", sentencepiece_metaspace},
    {"sentencepiece_decodes", sentencepiece_decodes},
    {"byte_level_words", byte_level_words},
    {"byte_level_decodes", byte_level_decodes},
    {"order_of_merges", order_of_merges},
    {"special_spellings_stay_text", special_spellings_stay_text},
    {"only_our_special_tokens_count", only_our_special_tokens_count},
    {"golden_tokenizers", golden_tokenizers},
    {"a_megabyte_of_one_letter", a_megabyte_of_one_letter},
    {"faults_of_the_model", faults_of_the_model},
    {"faults_of_the_steps", faults_of_the_steps},
    {"steps_that_blow_up", steps_that_blow_up},
    {"mistral_with_the_wrong_pattern", mistral_with_the_wrong_pattern},
    {"of_two_with_one_text_the_first_is_found", of_two_with_one_text_the_first_is_found},
    {"faults_of_added_tokens", faults_of_added_tokens},
    {"configuration", configuration},
    {"a_directory", a_directory},
    {"a_missing_file", a_missing_file},
};
TEST_MAIN(tests)
