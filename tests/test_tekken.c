/* test_tekken.c - Mistral's tekken.json: ids by rank, special tokens, and every way it can be
 * wrong. */
#include "tokenizer_inner.h"

#include "files.h"
#include "test.h"

static Err err;

/* a, b, a space, "ab", " ab", " abab" behind four special tokens. */
#define VOCAB                                                                                      \
    "{\"rank\":0,\"token_bytes\":\"YQ==\"},{\"rank\":1,\"token_bytes\":\"Yg==\"},"                 \
    "{\"rank\":2,\"token_bytes\":\"IA==\"},{\"rank\":3,\"token_bytes\":\"YWI=\"},"                 \
    "{\"rank\":4,\"token_bytes\":\"IGFi\"},{\"rank\":5,\"token_bytes\":\"IGFiYWI=\"}"
#define CONFIG(size, specials)                                                                     \
    "{\"config\":{\"pattern\":\" ?[^ ]+| \",\"default_vocab_size\":" size                          \
    ",\"default_num_special_tokens\":" specials "},"

static Tokenizer *load(const char *json)
{
    Err ignored;
    io_make_directory(files_path("t"), 0, &ignored);
    files_write("t/tekken.json", json, strlen(json));
    return tokenizer_load(files_path("t"), NULL, &err);
}

static const char *ids_of(const Tokenizer *t, const char *text, int flags)
{
    static char shown[256];
    size_t at = 0;
    Ids ids = {0};
    *shown = 0;
    if (!t || tokenizer_encode(t, text, strlen(text), flags, &ids, &err)) return err.text;
    for (size_t i = 0; i < ids.count; i++)
        at += (size_t)snprintf(shown + at, sizeof shown - at, i ? " %ld" : "%ld", (long)ids.ids[i]);
    ids_free(&ids);
    return shown;
}

static void ids_by_rank(void)
{
    Tokenizer *t = load(CONFIG("10", "4") "\"vocab\":[" VOCAB "]}");
    CHECK(t && tokenizer_size(t) == 10 && tokenizer_bos(t) == 1 && tokenizer_eos(t) == 2);
    CHECK_TEXT(ids_of(t, "ab", TOKENIZE_ADD), "1 7");
    CHECK_TEXT(ids_of(t, "aab ab b", 0), "4 7 8 6 5");
    CHECK_TEXT(ids_of(t, " abab ababab", 0), "9 9 7");
    CHECK_TEXT(ids_of(t, "[INST]a</s>", TOKENIZE_SPECIAL), "3 4 2");
    CHECK_TEXT(ids_of(t, "<s>a", 0), "4"); /* text is never a special token */
    char hex[65];
    CHECK_OK(tokenizer_hash(files_path("t"), hex, &err), &err);
    tokenizer_free(t);
}

/* Only the first tokens count; special tokens that are listed have their names, others get one. */
static void size_and_names(void)
{
    size_t len;
    Tokenizer *t = load(
        CONFIG("9", "5") "\"special_tokens\":[{\"rank\":0,\"token_str\":\"<unk>\"},"
                         "{\"rank\":1,\"token_str\":\"<s>\"},{\"rank\":2,\"token_str\":\"</s>\"},"
                         "{\"rank\":4,\"token_str\":\"[GO]\"}],\"vocab\":[" VOCAB "]}");
    CHECK(t && tokenizer_size(t) == 9);
    CHECK_TEXT(t ? tokenizer_piece(t, 3, &len) : err.text, "<SPECIAL_3>");
    CHECK_TEXT(t ? tokenizer_piece(t, 4, &len) : err.text, "[GO]");
    CHECK_TEXT(ids_of(t, " ab", 0), "7 8");
    tokenizer_free(t);
}

static void refused(const char *json, const char *part)
{
    CHECK(!load(json));
    CHECK_INT(err.code, ERR_DATA);
    CHECK_HAS(err.text, part);
    CHECK_HAS(err.text, "tekken.json");
}

static void wrong_files(void)
{
    refused("[", "tekken.json:1:2");
    refused("{}", "needs \"vocab\", and in \"config\" pattern");
    refused(CONFIG("11", "4") "\"vocab\":[" VOCAB "]}", "do not fit the 6 tokens");
    refused(CONFIG("4", "4") "\"vocab\":[" VOCAB "]}", "do not fit the 6 tokens");
    refused(CONFIG("8", "2") "\"vocab\":[" VOCAB "]}", "do not fit the 6 tokens");
    refused(CONFIG("18446744073709551615", "4") "\"vocab\":[" VOCAB "]}", "do not fit");
    refused(CONFIG("8", "4") "\"special_tokens\":[1,2,3,4,5],\"vocab\":[" VOCAB "]}",
            "more special tokens than 4");
    refused(CONFIG("5", "4") "\"vocab\":[7]}", "vocab[0]: its \"rank\" must be 0");
    refused(CONFIG("5", "4") "\"vocab\":[{\"rank\":1,\"token_bytes\":\"YQ==\"}]}", "must be 0");
    refused(CONFIG("5", "4") "\"vocab\":[{\"rank\":0}]}", "vocab[0]: \"token_bytes\" must be");
    refused(CONFIG("5", "4") "\"vocab\":[{\"rank\":0,\"token_bytes\":\"YQ=\"}]}", "base64");
    refused(CONFIG("5", "4") "\"vocab\":[{\"rank\":0,\"token_bytes\":\"Y!==\"}]}", "base64");
    refused(CONFIG("5", "4") "\"vocab\":[{\"rank\":0,\"token_bytes\":\"Y===\"}]}", "base64");
    refused(CONFIG("6", "4") "\"vocab\":[{\"rank\":0,\"token_bytes\":\"YQ==\"},"
                             "{\"rank\":1,\"token_bytes\":\"YQ==\"}]}",
            " are the same");
}

static const Test tests[] = {TEST(ids_by_rank), TEST(size_and_names), TEST(wrong_files)};

FILES_TEST_MAIN(tests)
