/* fuzz_sentencepiece.c - damaged tokenizer.model files. What is accepted encodes any text, into ids
 * that it knows. */
#include "base.h"

#include "fuzz.h"
#include "sentencepiece.h"
#include "tokenizer.h"

const char *const fuzz_words[] = {"<0x41>",
                                  BAR,
                                  "ab",
                                  "\x0a\x03\x0a\x01z",
                                  "\x18\x06",
                                  "\x18\x02",
                                  "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
                                  "\x12\x02\x18\x02",
                                  NULL};

int fuzz_seed(size_t i, Text *out)
{
    if (i > 1) return -1;
    if (i == 0) {
        sp_pieces(out);
    } else {
        sp_piece(out, "?", 0, SP_UNKNOWN);
        sp_piece(out, BAR "a", 1, SP_NORMAL);
        sp_piece(out, BAR, 2, SP_NORMAL);
        sp_piece(out, "a", 3, SP_NORMAL);
    }
    sp_settings(out, 2, i == 0);
    return 0;
}

void fuzz_repair(uint8_t *data, size_t size)
{
    (void)data;
    (void)size;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char text[] = "ab <s> \xc3\xa9  [X]zab";
    Err e;
    Ids ids = {0};
    Tokenizer *t = tokenizer_parse_model((const char *)data, size, "t.model", NULL, 0, NULL, &e);
    if (!t) {
        FUZZ_REQUIRE(e.code == ERR_DATA && strstr(e.text, "t.model"));
        for (const char *c = e.text; *c; c++) FUZZ_REQUIRE((unsigned char)*c >= 0x20);
        return 0;
    }
    FUZZ_REQUIRE(!tokenizer_encode(t, text, sizeof text - 1, TOKENIZE_ADD, &ids, &e));
    for (size_t i = 0; i < ids.count; i++)
        FUZZ_REQUIRE(tokenizer_piece(t, ids.ids[i], NULL) != NULL);
    ids_free(&ids);
    tokenizer_free(t);
    return 0;
}
