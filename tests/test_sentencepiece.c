/* test_sentencepiece.c - tokenizer.model files built field by field: ids, ends, and every way they
 * can be wrong. tools/check_tokenizer.py compares real ones with the sentencepiece library. */
#include "base.h"

#include "files.h"
#include "sentencepiece.h"
#include "test.h"
#include "tokenizer.h"

static Err err;

static Tokenizer *parse(const Text *bytes, const char *config)
{
    err = (Err){0};
    return tokenizer_parse_model(bytes->data ? bytes->data : "", bytes->len, "t.model", config,
                                 config ? strlen(config) : 0, NULL, &err);
}

static Tokenizer *small(const char *config)
{
    Text m = {0};
    sp_pieces(&m);
    sp_settings(&m, 2, 1);
    Tokenizer *t = parse(&m, config);
    text_free(&m);
    if (!t) printf("%s\n", err.text);
    return t;
}

static const char *ids_of(const Tokenizer *t, const char *text, int flags)
{
    static char shown[512];
    size_t at = 0;
    Ids ids = {0};
    shown[0] = 0;
    if (!t || tokenizer_encode(t, text, strlen(text), flags, &ids, &err)) return err.text;
    for (size_t i = 0; i < ids.count; i++)
        at += (size_t)snprintf(shown + at, sizeof shown - at, i ? " %ld" : "%ld", (long)ids.ids[i]);
    ids_free(&ids);
    return shown;
}

static void ids_as_sentencepiece(void)
{
    Tokenizer *t = small(NULL);
    CHECK(t && tokenizer_size(t) == 266);
    CHECK_TEXT(ids_of(t, "", 0), "");
    CHECK_TEXT(ids_of(t, "ab", 0), "264");
    CHECK_TEXT(ids_of(t, "aab", 0), "259 260 263");
    CHECK_TEXT(ids_of(t, " ab", 0), "259 264"); /* _ab before __: by score, not by id */
    CHECK_TEXT(ids_of(t, "  ab", 0), "262 264");
    CHECK_TEXT(ids_of(t, "a  b", 0), "259 260 262 261");
    CHECK_TEXT(ids_of(t, "\xc3\xa9", 0), "259 198 172"); /* bytes where there is no piece */
    CHECK_TEXT(ids_of(t, "<s>", 0), "259 63 118 65");    /* text is never a control token */
    CHECK_TEXT(ids_of(t, "<0x41>", 0), "259 63 51 123 55 52 65"); /* nor a byte */
    tokenizer_free(t);
}

static void ends(void)
{
    Tokenizer *t = small(NULL);
    CHECK_TEXT(ids_of(t, "ab", TOKENIZE_ADD), "1 264");
    CHECK(t && tokenizer_bos(t) == 1 && tokenizer_eos(t) == 2);
    CHECK_TEXT(tokenizer_eos_text(t), "</s>");
    tokenizer_free(t);
    t = small("{\"add_bos_token\":false,\"add_eos_token\":true,\"bos_token\":\"</s>\"}");
    CHECK_TEXT(ids_of(t, "ab", TOKENIZE_ADD), "264 2");
    CHECK(t && tokenizer_bos(t) == 2);
    tokenizer_free(t);
    t = small("{\"add_eos_token\":true}");
    CHECK_TEXT(ids_of(t, "ab", TOKENIZE_ADD), "1 264 2");
    tokenizer_free(t);
    CHECK(!small("{\"add_bos_token\":1}") && err.code == ERR_DATA);
}

/* Where a space is put in front, as tokenizer_config.json beside the model says. */
static void config_decides_about_spaces(void)
{
    static const struct {
        const char *config, *text, *ids;
    } rows[] = {
        {NULL, "ab</s>ab", "264 2 264"}, /* SentencePiece, of each part by itself */
        {"{\"legacy\":true}", "ab</s>ab", "264 2 264"},
        {"{\"legacy\":false}", "ab</s>ab", "264 2 263"},
        {"{\"legacy\":false}", "</s>ab", "2 263"},
        {"{\"legacy\":false,\"tokenizer_class\":\"LlamaTokenizer\"}", " ab", "264"},
        {"{\"add_prefix_space\":false}", "ab</s>ab", "263 2 263"},
        {"{\"add_prefix_space\":false,\"legacy\":false}", "ab ab", "263 264"},
        {"{\"add_prefix_space\":null,\"legacy\":null}", "ab</s>ab", "264 2 264"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        Tokenizer *t = small(rows[i].config);
        CHECK_TEXT(ids_of(t, rows[i].text, TOKENIZE_SPECIAL), rows[i].ids);
        tokenizer_free(t);
    }
    const int32_t ab[] = {264, 264};
    Text out = {0};
    Tokenizer *t = small("{\"legacy\":false}"); /* the space in front is taken off again */
    CHECK(t && !tokenizer_decode(t, ab, 2, 1, &out, &err));
    CHECK_TEXT(out.data, "ab ab");
    tokenizer_free(t);
    t = small("{\"add_prefix_space\":false}"); /* there was none */
    out.len = 0;
    CHECK(t && !tokenizer_decode(t, ab, 2, 1, &out, &err));
    CHECK_TEXT(out.data, " ab ab");
    tokenizer_free(t);
    text_free(&out);
    t = small("{\"bos_token\":null}"); /* not the model's own, then */
    CHECK(t && tokenizer_bos(t) < 0);
    CHECK_TEXT(ids_of(t, "ab", TOKENIZE_ADD), "264");
    tokenizer_free(t);
    t = small("{\"bos_token\":\"\"}"); /* transformers looks it up and finds the unknown token */
    CHECK(t && tokenizer_bos(t) < 0);
    CHECK_TEXT(ids_of(t, "ab", TOKENIZE_ADD), "0 264");
    tokenizer_free(t);
    t = small("{\"bos_token\":\"\",\"add_bos_token\":false}");
    CHECK_TEXT(ids_of(t, "ab", TOKENIZE_ADD), "264");
    tokenizer_free(t);
    CHECK(!small("{\"legacy\":0}") && strstr(err.text, "\"legacy\" must be true or false"));
    CHECK(!small("{\"tokenizer_class\":\"T5Tokenizer\"}") && strstr(err.text, "T5Tokenizer"));
    CHECK(!small("{\"split_special_tokens\":true}") && strstr(err.text, "split_special_tokens"));
}

static void text_of_ids(void)
{
    const int32_t ids[] = {1, 264, 264, 198, 172, 2};
    Text out = {0};
    Tokenizer *t = small(NULL);
    CHECK(t && !tokenizer_decode(t, ids, 6, 1, &out, &err));
    CHECK_TEXT(out.data, "ab ab\xc3\xa9");
    text_free(&out);
    tokenizer_free(t);
}

/* A folder without tokenizer.json is read from tokenizer.model; tokenizer.json goes first. */
static void from_a_folder(void)
{
    Text m = {0};
    sp_pieces(&m);
    sp_settings(&m, 2, 1);
    files_write("tokenizer.model", m.data, m.len);
    text_free(&m);
    Tokenizer *t = tokenizer_load(files_dir, NULL, &err);
    CHECK(t && tokenizer_size(t) == 266);
    tokenizer_free(t);
    CHECK_TEXT(tokenizer_file(files_dir, &err), "tokenizer.model");
    files_write("tokenizer.json", "{}", 2);
    CHECK_TEXT(tokenizer_file(files_dir, &err), "tokenizer.json");
    CHECK(!tokenizer_load(files_dir, NULL, &err));
    CHECK_HAS(err.text, "tokenizer.json");
    CHECK_TEXT(tokenizer_file("/nowhere", &err), "tokenizer.json");
}

/* ---- what is wrong ------------------------------------------------------------------------- */

/* The model is refused, with this in the message. Frees it. */
static void refused(Text *m, const char *why)
{
    Tokenizer *t = parse(m, NULL);
    int refused_so =
        !t && err.code == ERR_DATA && strstr(err.text, "t.model") && strstr(err.text, why);
    CHECK(refused_so);
    if (!refused_so) printf("    \"%s\", expected \"%s\"\n", t ? "accepted" : err.text, why);
    tokenizer_free(t);
    text_free(m);
}

static void broken_protobuf(void)
{
    Text m = {0};
    refused(&m, "no pieces");
    for (int i = 0; i < 11; i++) sp_bytes(&m, "\xff", 1);
    refused(&m, "byte 0: a number has more than 64 bits");
    sp_bytes(&m, "\xff\xff", 2);
    refused(&m, "byte 0: a number is cut off");
    sp_bytes(&m,
             "\x0a\x05"
             "abc",
             5);
    refused(&m, "byte 2: a length is beyond the end");
    sp_bytes(&m, "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11);
    refused(&m, "a length is beyond the end");
    for (unsigned wire = 3; wire <= 7; wire++) {
        if (wire == 5) continue;
        sp_varint(&m, 1 << 3 | wire);
        sp_bytes(&m, "\0\0\0\0\0\0\0\0", 8);
        refused(&m, "byte 0: a field of unknown type");
    }
    sp_bytes(&m, "\x02\x00", 2);
    refused(&m, "byte 0: no field has this number");
    sp_bytes(&m, "\x0d\x00", 2);
    refused(&m, "byte 1: a number is cut off");
    sp_bytes(&m, "IQ== 0\nIg== 1\n", 14); /* Llama 3's */
    refused(&m, "tokenizer.json is needed");
}

/* A whole model but for one more piece. */
static void with_piece(const char *text, float score, unsigned type, const char *why)
{
    Text m = {0};
    sp_pieces(&m);
    sp_settings(&m, 2, 1);
    sp_piece(&m, text, score, type);
    refused(&m, why);
}

static void wrong_pieces(void)
{
    char *huge = malloc(1 << 20);
    memset(huge, 'a', 1 << 20);
    huge[(1 << 20) - 1] = 0;
    with_piece("", 0, SP_NORMAL, "piece 266 has 0 bytes");
    with_piece(huge, 0, SP_NORMAL, "piece 266 has 1048575 bytes; allowed are 1 .. 256");
    with_piece("ab", 0, SP_NORMAL, "pieces 263 and 266 are the same");
    with_piece("\xff", 0, SP_NORMAL, "piece 266 is not UTF-8");
    with_piece("c", NAN, SP_NORMAL, "score that is not finite");
    with_piece("c", -INFINITY, SP_NORMAL, "score that is not finite");
    with_piece("c", 0, SP_UNUSED, "piece 266 has type 5");
    with_piece("c", 0, 77, "piece 266 has type");
    with_piece("<what>", 0, SP_UNKNOWN, "2 pieces of type unknown");
    with_piece("<0x-1>", 0, SP_BYTE, "spelled \"<0x-1>\"");
    with_piece("<0xZZ>", 0, SP_BYTE, "spelled \"<0xZZ>\"");
    with_piece("<0x1>", 0, SP_BYTE, "spelled \"<0x1>\"");
    with_piece("<0xaa>", 0, SP_BYTE, "spelled \"<0xaa>\"");
    free(huge);
    Text m = {0};
    sp_piece(&m, "<unk>", 0, SP_UNKNOWN);
    sp_piece(&m, "<0x00>", 0, SP_BYTE);
    sp_settings(&m, 2, 1);
    refused(&m, "1 pieces of type byte; with byte_fallback on there must be 256");
    sp_piece(&m, "a", 0, SP_NORMAL);
    sp_settings(&m, 2, 0);
    refused(&m, "0 pieces of type unknown");
}

static void settings_we_lack(void)
{
    static const char *const types[] = {"unigram", "word", "char"};
    static const unsigned numbers[] = {1, 3, 4};
    Text m = {0}, part = {0};
    for (int i = 0; i < 3; i++) {
        sp_pieces(&m);
        sp_settings(&m, numbers[i], 1);
        refused(&m, types[i]);
    }
    static const struct {
        unsigned field;
        uint64_t value;
        const char *why;
    } normalizer[] = {{4, 1, "remove_extra_whitespaces"}, {5, 0, "escape_whitespaces"}};
    for (int i = 0; i < 2; i++) {
        sp_pieces(&m);
        sp_settings(&m, 2, 1);
        part.len = 0;
        sp_number(&part, normalizer[i].field, normalizer[i].value);
        sp_message(&m, 3, part.data, part.len);
        refused(&m, normalizer[i].why);
    }
    sp_pieces(&m);
    sp_settings(&m, 2, 1);
    part.len = 0;
    sp_message(&part, 2, "\1\2", 2);
    sp_message(&m, 3, part.data, part.len);
    refused(&m, "precompiled_charsmap");
    text_free(&part);
}

/* Cut anywhere it is refused or read, never read beyond. */
static void cut_anywhere(void)
{
    Text m = {0};
    sp_settings(&m, 2, 1);
    sp_pieces(&m);
    for (size_t len = 0; len < m.len; len++) {
        char *copy = malloc(len + 1); /* its end is where sanitizers look */
        memcpy(copy, m.data, len);
        Tokenizer *t = tokenizer_parse_model(copy, len, "t.model", NULL, 0, NULL, &err);
        CHECK(t || err.code == ERR_DATA);
        tokenizer_free(t);
        free(copy);
    }
    text_free(&m);
}

/* Adds c, cc, ccc, ... up to `longest`. */
static void add_chain(Text *m, int c, size_t longest)
{
    char piece[600];
    for (size_t n = 1; n <= longest; n++) {
        memset(piece, c, n);
        piece[n] = 0;
        sp_piece(m, piece, (float)n, SP_NORMAL);
    }
}

/* A piece of n bytes is a merge of n - 1 pairs: few bytes ask for very many. */
static void chains_of_pieces(void)
{
    Text m = {0};
    sp_pieces(&m);
    add_chain(&m, 'c', 48); /* as long as real ones */
    sp_settings(&m, 2, 1);
    Tokenizer *t = parse(&m, NULL);
    CHECK(t && tokenizer_size(t) == 266 + 48);
    CHECK_TEXT(ids_of(t, "ccccc", 0), "259 270");
    tokenizer_free(t);
    add_chain(&m, 'd', 512);
    refused(&m, "has 257 bytes; allowed are 1 .. 256");
    sp_pieces(&m);
    for (int c = 1; c <= 10; c++) add_chain(&m, c, 256); /* six bytes each in JSON */
    sp_settings(&m, 2, 1);
    refused(&m, "take more than 268435456 bytes");
}

static const Test tests[] = {
    {"ids_as_sentencepiece", ids_as_sentencepiece},
    {"ends", ends},
    {"config_decides_about_spaces", config_decides_about_spaces},
    {"text_of_ids", text_of_ids},
    {"from_a_folder", from_a_folder},
    {"broken_protobuf", broken_protobuf},
    {"wrong_pieces", wrong_pieces},
    {"settings_we_lack", settings_we_lack},
    {"chains_of_pieces", chains_of_pieces},
    {"cut_anywhere", cut_anywhere},
};

FILES_TEST_MAIN(tests)
