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
        CHECK_INT(whole.len, streamed.len);
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
    CHECK_INT(out.len, 0);
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
    CHECK_INT(tokenizer_id(t, "[X]", 3), 11);
    CHECK_INT(tokenizer_id(t, "[Y]", 3), -1);
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
    CHECK_INT(strlen(ones), len);
    CHECK_OK(tokenizer_encode_marked(t, text, ours, len, 0, &ids, &err), &err);
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
    CHECK_INT(file->len, 16);
    for (const Json *j = file->child; j; j = j->next) {
        Text json = {0};
        Ids ids = {0};
        CHECK_OK(json_put(&json, json_get(j, "tokenizer"), &err), &err);
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
        CHECK_OK(tokenizer_encode(t, text, SIZE, 0, &ids, &err), &err);
        CHECK((double)(clock() - start) / CLOCKS_PER_SEC < 2);
        CHECK_INT(ids.count, (i == 0 ? SIZE : SIZE / 2 + (i == 2)));
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
    refused("{\"model\":{\"type\":\"BPE\",\"unk_token\":7,\"vocab\":{\"a\":0},\"merges\":[]}}",
            "unk_token");
    refused("{\"model\":{\"type\":\"BPE\",\"dropout\":0.1,\"vocab\":{\"a\":0},\"merges\":[]}}",
            "dropout");
    refused("{\"model\":{\"type\":\"BPE\",\"end_of_word_suffix\":\"</w>\",\"vocab\":{\"a\":0},"
            "\"merges\":[]}}",
            "end_of_word_suffix \"</w>\"");
    refused("{}", "model");
    refused("[]", "object");
}

/* What becomes of matches, as in the tokenizers library: "ab" is 256, so the ids show each cut. */
static void behaviors_of_splits(void)
{
    static const struct {
        const char *pattern, *behavior, *text, *ids;
    } cases[] = {
        {"\"String\":\"b\"", "Isolated", "abab", "97 98 97 98"},
        {"\"String\":\"b\"", "Removed", "abbab", "97 97"},
        {"\"String\":\"b\"", "MergedWithPrevious", "abbabb", "256 98 256 98"},
        {"\"String\":\"a\"", "MergedWithNext", "aabaab", "97 256 97 256"},
        {"\"String\":\"a\"", "MergedWithPrevious", "abab", "97 98 97 98"},
        {"\"Regex\":\"[ab]\"", "Contiguous", "abab.ab", "256 256 46 256"},
        {"\"Regex\":\"[ab]\"", "Isolated", "ab", "97 98"},
        {"\"Regex\":\"[ab]\"", "MergedWithPrevious", ".ab", "46 97 98"},
        {"\"Regex\":\"[ab]\"", "MergedWithNext", "ab.", "97 98 46"},
        {"\"String\":\".\"", "Removed", "ab.ab", "256 256"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char steps[500];
        for (int inverted = 0; inverted < 2; inverted++) {
            snprintf(steps, sizeof steps,
                     "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":"
                     "{%s},\"behavior\":\"%s\",\"invert\":%s}," BYTES_ONLY "]}",
                     cases[i].pattern, cases[i].behavior, inverted ? "true" : "false");
            Tokenizer *t = byte_level(steps, "");
            CHECK(t != NULL);
            if (t && !inverted)
                CHECK_TEXT(ids_of(t, cases[i].text, strlen(cases[i].text), 0), cases[i].ids);
            if (t && inverted && !strcmp(cases[i].behavior, "Removed"))
                CHECK_TEXT(ids_of(t, "ab.ab", 5, 0), i == 1 ? "98 98" : "46");
            tokenizer_free(t);
        }
    }
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
    refused("{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\d++\"},"
            "\"behavior\":\"Isolated\",\"invert\":false}," A "}",
            "possessive");
    refused("{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"\"},"
            "\"behavior\":\"Isolated\"}," A "}",
            "String");
    refused("{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\" \"},"
            "\"behavior\":\"Merged\"}," A "}",
            "Merged");
    refused("{\"pre_tokenizer\":{\"type\":\"Whitespace\"}," A "}", "Whitespace");
    refused("{\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":"
            "\"last\"}," A "}",
            "last");
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
    CHECK_HAS(err.text, "more than 1048576 bytes");
    CHECK_INT(out.len, 0);
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

/* What is heard while json is loaded, and the ids of a text. */
static void loads_saying(const char *json, const char *said, const char *text, const char *ids)
{
    char heard[300] = "";
    Log log = {heard, hear};
    Tokenizer *t = tokenizer_parse(json, strlen(json), "t.json", NULL, 0, &log, &err);
    CHECK(t != NULL);
    if (!strstr(heard, said) || (!*said && *heard)) CHECK_TEXT(heard, said);
    if (t) CHECK_TEXT(ids_of(t, text, strlen(text), 0), ids);
    tokenizer_free(t);
}

static void bytes_without_a_letter(void) /* K11 */
{
#define LETTERS(options, vocab)                                                                    \
    "{\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":"         \
    "false},\"model\":{\"type\":\"BPE\"," options "\"vocab\":{" vocab "},\"merges\":[\"a b\"]}}"
#define AB "\"a\":0,\"b\":1,\"ab\":2"
    loads_saying(LETTERS("", AB), "w t.json: the vocabulary has no token for 241 of the bytes",
                 "a\x04"
                 "b!a",
                 "2 0"); /* what is left out joins its neighbours */
    loads_saying(LETTERS("\"unk_token\":\"?\",", AB ",\"?\":3"), "read as the unknown token",
                 "a\x04\x04"
                 "b",
                 "0 3 3 1");
    loads_saying(LETTERS("\"unk_token\":\"?\",\"fuse_unk\":true,", AB ",\"?\":3"), "unknown",
                 "a\x04\x04"
                 "b",
                 "0 3 1");
    loads_saying(LETTERS("\"unk_token\":\"?\",", AB), "", "ab", "2");
    loads_saying(LETTERS("\"unk_token\":\"?\",", AB), "", "a\x04",
                 "error: the vocabulary has no token for \"\xc4\x84\", and model.unk_token, which "
                 "should stand for it, is not in model.vocab");
    loads_saying(json_byte_level(BYTES_LLAMA3, ""), "", "ab", "256");
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
    CHECK_INT(heard[0], 'w');
    CHECK_HAS(heard, "Llama 3's split pattern");
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
    CHECK_INT(id_of_twins("false"), 2);
    CHECK_INT(id_of_twins("true"), 1); /* special tokens are read first */
}

/* ---- the files beside it -------------------------------------------------------------------- */

/* Ids of a text, special tokens parsed, by the small SentencePiece-like tokenizer with these files
 * beside it ("" = none); or the error. */
static const char *beside(const char *config, const char *map, const char *added, const char *text)
{
    static const char *const names[] = {"tokenizer.json", "tokenizer_config.json",
                                        "special_tokens_map.json", "added_tokens.json"};
    const char *contents[] = {json_sentencepiece(METASPACE("first")), config, map, added};
    for (size_t i = 0; i < 4; i++) {
        remove(files_path(names[i]));
        if (*contents[i]) files_write(names[i], contents[i], strlen(contents[i]));
    }
    Tokenizer *t = tokenizer_load(files_path("."), NULL, &err);
    const char *ids = t ? ids_of(t, text, strlen(text), TOKENIZE_SPECIAL) : err.text;
    tokenizer_free(t);
    return ids;
}

#define FLAGS(content, flags) "{\"content\":\"" content "\",\"special\":true" flags "}"
#define TABLE(entries) "{\"added_tokens_decoder\":{" entries "}}"

/* The ids are those of transformers 5: tools/check_fields.py compares with real tokenizers. */
static void tokens_of_the_files_beside(void)
{
    static const char *const pad = "{\"pad_token\":\"[PAD]\"}";
    CHECK_TEXT(beside("", "", "", "ab </s> ab"), "7 3 2 7");
    /* The table's flags go before those of tokenizer.json. */
    CHECK_TEXT(beside(TABLE("\"2\":" FLAGS("</s>", ",\"lstrip\":true")), "", "", "ab </s> ab"),
               "7 2 7");
    CHECK_TEXT(beside(TABLE("\"2\":" FLAGS("</s>", ",\"rstrip\":true")), "", "", "ab </s> ab"),
               "7 3 2 6");
    /* New ones take the next ids; known words become tokens. */
    CHECK_TEXT(beside(pad, "", "", "ab[PAD]"), "7 12");
    CHECK_TEXT(beside("{\"extra_special_tokens\":[\"[B]\",\"[A]\"]}", "", "", "[A][B]"), "13 12");
    CHECK_TEXT(beside("{\"extra_special_tokens\":{\"x\":\"[A]\"}}", "", "", "ab[A]"), "7 12");
    CHECK_TEXT(beside("{\"additional_special_tokens\":[" FLAGS("[A]", ",\"lstrip\":true") "]}", "",
                      "", "ab [A]"),
               "7 12");
    CHECK_TEXT(beside("{\"image_token\":\"[I]\"}", "", "", "[I]"), "12");
    CHECK_TEXT(beside("{\"unk_token\":\"ab\"}", "", "", "abab"), "6 6");
    CHECK_TEXT(
        beside(TABLE("\"13\":" FLAGS("[Q]", "") ",\"12\":" FLAGS("[P]", "")), "", "", "[P][Q]"),
        "12 13");
    /* Without a table the other two files count, but not for listed tokens. */
    CHECK_TEXT(beside("", pad, "", "ab[PAD]"), "7 12");
    CHECK_TEXT(beside("", "", "{\"[PAD]\":12}", "ab[PAD]"), "7 12");
    CHECK_TEXT(beside("", "{\"eos_token\":" FLAGS("</s>", ",\"lstrip\":true") "}", "", "ab </s>"),
               "7 3 2");
    CHECK_TEXT(beside(TABLE("\"2\":" FLAGS("</s>", "")), pad, "{\"[PAD]\":12}", "ab[PAD]"), "7 0");
    /* An end token that only the map names; null and "" name none. */
    Tokenizer *t;
    CHECK_TEXT(beside("{\"bos_token\":\"\"}", "{\"eos_token\":\"</s>\"}", "", "ab"), "7");
    t = tokenizer_load(files_path("."), NULL, &err);
    CHECK(t && tokenizer_eos(t) == 2 && tokenizer_bos(t) == -1);
    tokenizer_free(t);
    /* Refused by name. */
    CHECK(strstr(beside("{\"split_special_tokens\":true}", "", "", ""), "split_special_tokens"));
    CHECK(strstr(beside("{\"tokenizer_class\":\"LlamaTokenizerFast\",\"add_prefix_space\":false}",
                        "", "", ""),
                 "\"add_prefix_space\": false"));
    CHECK(strstr(beside("{\"tokenizer_class\":\"LlamaTokenizer\",\"legacy\":true}", "", "", ""),
                 "\"legacy\": true"));
    CHECK(strstr(beside(TABLE("\"x\":{}"), "", "", ""), "\"x\" must be an id"));
    CHECK(strstr(beside(TABLE("\"2\":\"</s>\""), "", "", ""), "must be an object"));
    CHECK(strstr(beside("", "", "{\"[PAD]\":-1}", ""), "added_tokens.json: \"[PAD]\""));
    CHECK(strstr(beside("", "[]", "", ""), "special_tokens_map.json: must be an object"));
    remove(files_path("special_tokens_map.json"));
    remove(files_path("added_tokens.json"));
    remove(files_path("tokenizer_config.json"));
}

/* GPT2Tokenizer has its own way to split, and drops added tokens that only tokenizer.json lists;
 * classes that bring other parts are refused; what is no such class changes nothing. */
static void the_class_decides_the_parts(void)
{
    static const char json[] =
        "{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\","
        "\"individual_digits\":true},{\"type\":\"ByteLevel\",\"add_prefix_space\":false}]},"
        "\"added_tokens\":[{\"id\":4,\"content\":\"<x>\",\"special\":true}],\"model\":{\"type\":"
        "\"BPE\",\"vocab\":{\"1\":0,\"2\":1,\"12\":2,\"\u0120\":3},\"merges\":[\"1 2\"]}}";
#define CLASS(name) "\"tokenizer_class\":\"" name "\""
    static const struct {
        const char *config, *model, *ids;
    } cases[] = {{"{}", "{}", "0 1 4"},
                 {"{" CLASS("PreTrainedTokenizerFast") "}", "{}", "0 1 4"},
                 {"{" CLASS("Foo") "}", "{\"model_type\":\"llama\"}", "0 1 4"},
                 {"{" CLASS("GPT2Tokenizer") "}", "{\"model_type\":\"llama\"}", "2 4"},
                 {"{" CLASS("GPT2TokenizerFast") "}", "{}", "2 4"},
                 {"{\"tokenizer_class\":null}", "{" CLASS("GPT2Tokenizer") "}", "2 4"},
                 {"{" CLASS("GPT2Tokenizer") "}", "{\"model_type\":\"mistral\"}", "0 1 4"},
                 {"{" CLASS("GPT2Tokenizer") ",\"added_tokens_decoder\":{\"4\":"
                                             "{\"content\":\"<|endoftext|>\",\"special\":true}}}",
                  "{}", "2"},
                 {"{" CLASS("GPT2Tokenizer") ",\"add_prefix_space\":true}", "{}", "3 2 4"}};
    Tokenizer *t;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        files_write("tokenizer.json", json, sizeof json - 1);
        files_write("tokenizer_config.json", cases[i].config, strlen(cases[i].config));
        files_write("config.json", cases[i].model, strlen(cases[i].model));
        t = tokenizer_load(files_path("."), NULL, &err);
        CHECK(t != NULL);
        if (t) CHECK_TEXT(ids_of(t, "12<x>", 5, TOKENIZE_SPECIAL), cases[i].ids);
        tokenizer_free(t);
    }
    const char *qwen = "{" CLASS("Qwen2TokenizerFast") "}";
    files_write("config.json", "{}", 2);
    files_write("tokenizer_config.json", qwen, strlen(qwen));
    CHECK(!tokenizer_load(files_path("."), NULL, &err));
    CHECK_ERR(err, ERR_DATA, "\"tokenizer_class\": \"Qwen2Tokenizer\" is not supported");
    remove(files_path("config.json"));
    remove(files_path("tokenizer_config.json"));
}

/* Qwen2Tokenizer is read where the file splits as that class does: digits one by one, letters
 * apart. */
static void a_file_with_the_parts_of_its_class(void)
{
    static const char json[] =
        "{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\","
        "\"pattern\":{\"Regex\":\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{"
        "L}+|"
        "\\\\p{N}| "
        "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"},"
        "\"behavior\":\"Isolated\",\"invert\":false},{\"type\":\"ByteLevel\",\"add_prefix_space\":"
        "false,\"use_regex\":false}]},\"model\":{\"type\":\"BPE\",\"vocab\":{\"1\":0,\"2\":1,"
        "\"12\":2,\"a\":3,\"\u00c3\":4,\"\u00a1\":5},\"merges\":[\"1 2\"]}}";
    static const char config[] = "{" CLASS("Qwen2Tokenizer") "}";
    files_write("tokenizer.json", json, sizeof json - 1);
    files_write("tokenizer_config.json", config, sizeof config - 1);
    Tokenizer *t = tokenizer_load(files_path("."), NULL, &err);
    CHECK(t != NULL);
    if (t) CHECK_TEXT(ids_of(t, "a12", 3, 0), "3 0 1");
    if (t)
        CHECK_TEXT(ids_of(t, "a\xcc\x81", 3, 0), "4 5"); /* the class composes, the file does not */
    tokenizer_free(t);
    remove(files_path("tokenizer_config.json"));
}

/* A token that the vocabulary lacks gets the next id, whatever its file says: that is said. */
static void an_id_that_is_not_free_is_said(void)
{
    char heard[300] = "";
    Log log = {heard, hear};
    static const char config[] = TABLE("\"5\":" FLAGS("[P]", "") ",\"40\":" FLAGS("[Q]", ""));
    const char *json = json_sentencepiece(METASPACE("first"));
    Tokenizer *t =
        tokenizer_parse(json, strlen(json), "t.json", config, sizeof config - 1, &log, &err);
    CHECK(t && tokenizer_id(t, "[P]", 3) == 12 && tokenizer_id(t, "[Q]", 3) == 13);
    CHECK_HAS(heard, "w added tokens: ");
    CHECK_HAS(heard, " 2 get other ids");
    CHECK_HAS(heard, "\"[P]\", 5 there and 12 here");
    tokenizer_free(t);
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
        CHECK_INT(tokenizer_bos(t), 1);
        CHECK_INT(tokenizer_eos(t), 0);
        CHECK_TEXT(tokenizer_bos_text(t), "<s>");
        CHECK_TEXT(tokenizer_eos_text(t), "a");
        CHECK_TEXT(tokenizer_chat_template(t, "default", &len), "y");
        CHECK_INT(len, 1);
        CHECK_TEXT(tokenizer_chat_template(t, "tool_use", &len), "x");
        CHECK(!tokenizer_chat_template(t, "rag", &len) && len == 0);
        CHECK_TEXT(tokenizer_template_name(t, 0), "tool_use");
        CHECK(!tokenizer_template_name(t, 2));
    }
    tokenizer_free(t);
    t = with_config("{\"bos_token\":null}");
    CHECK(t && tokenizer_bos(t) == -1 && tokenizer_eos(t) == -1 && !tokenizer_eos_text(t));
    CHECK(t && !tokenizer_template_name(t, 0));
    tokenizer_free(t);
    CHECK(!with_config("{\"eos_token\":\"zz\"}") && err.code == ERR_DATA); /* K21 */
    CHECK_HAS(err.text, "\"zz\"");
    CHECK(!with_config("{\"chat_template\":[{\"template\":\"\"}]}")); /* K24 */
    CHECK_HAS(err.text, "\"name\" must be a non-empty string");
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
        size_t len;
        const char *found = t ? tokenizer_chat_template(t, "default", &len) : "";
        if (expected[i])
            CHECK_TEXT(found, expected[i]);
        else
            CHECK(found == NULL);
        tokenizer_free(t);
    }
    files_write("tokenizer_config.json", "{\"eos_token\":\"zz\"}", 18);
    CHECK(!tokenizer_load(files_dir, NULL, &err));
    CHECK_INT(err.code, ERR_DATA);
    CHECK_HAS(err.text, "tokenizer_config.json:1:");
    files_write("tokenizer.json", "\xff\xfe{\0", 4);
    CHECK(!tokenizer_load(files_dir, NULL, &err));
    CHECK_HAS(err.text, "UTF-16");
    files_end();
    text_free(&marked);
}

static void a_missing_file(void)
{
    err = (Err){0};
    CHECK(!tokenizer_load("no/such/directory", NULL, &err));
    CHECK_INT(err.code, ERR_NO_INPUT);
    CHECK_HAS(err.text, "no/such/directory: there is no such directory; a model is");
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
    {"behaviors_of_splits", behaviors_of_splits},
    {"faults_of_the_steps", faults_of_the_steps},
    {"steps_that_blow_up", steps_that_blow_up},
    {"bytes_without_a_letter", bytes_without_a_letter},
    {"tokens_of_the_files_beside", tokens_of_the_files_beside},
    {"the_class_decides_the_parts", the_class_decides_the_parts},
    {"a_file_with_the_parts_of_its_class", a_file_with_the_parts_of_its_class},
    {"an_id_that_is_not_free_is_said", an_id_that_is_not_free_is_said},
    {"mistral_with_the_wrong_pattern", mistral_with_the_wrong_pattern},
    {"of_two_with_one_text_the_first_is_found", of_two_with_one_text_the_first_is_found},
    {"faults_of_added_tokens", faults_of_added_tokens},
    {"configuration", configuration},
    {"a_directory", a_directory},
    {"a_missing_file", a_missing_file},
};
TEST_MAIN(tests)
