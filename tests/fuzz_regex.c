/* fuzz_regex.c - damaged expressions on damaged texts: an expression is refused with a reason, or
 * every match lies in the text, is not empty and ends between characters. The expression ends at
 * the first 0 byte. */
#include "base.h"
#include "fuzz.h"
#include "tokenizer_inner.h"

#include <string.h>

/* clang-format off */
const char *const fuzz_words[] = {
    "\\p{L}", "\\p{N}{1,3}", "\\s+(?!\\S)", "(?:", "(?i:", "(?=", ")", "[^", "]", "|", "?", "+",
    "{2,}", "{3}", "$", ".", "a-z", "\\r\\n", "\xe4\xbd\xa0", "\xc5\xbf", " ", "\n", NULL};
/* clang-format on */

int fuzz_seed(size_t i, Text *out)
{
    static const struct {
        const char *regex, *text;
    } seeds[] = {
        {"(?i:'s|'t)|[^\\r\\n\\p{L}]?\\p{L}+|\\p{N}{1,3}|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
         "It's 1234  words,\n\n here"},
        {"(?:a|b+){2,4}c$|[\xe4\xb8\x80-\xe9\xbe\xa5]+", "abbac\nab \xe4\xbd\xa0\xe5\xa5\xbd"},
        {"x(?=y)|.", "xyx\n"},
    };
    if (i >= sizeof seeds / sizeof *seeds) return -1;
    return text_add(out, seeds[i].regex, strlen(seeds[i].regex) + 1, NULL) ||
           text_add(out, seeds[i].text, strlen(seeds[i].text), NULL);
}

void fuzz_repair(uint8_t *data, size_t size)
{
    (void)data, (void)size;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *all = (const char *)data, *why;
    const char *zero = size ? memchr(all, 0, size) : NULL;
    size_t len = zero ? (size_t)(zero - all) : size, begin, end;
    const char *text = zero ? zero + 1 : all;
    size_t text_len = zero ? size - len - 1 : size;
    Err e;
    if (utf8_check(all, len) != len || utf8_check(text, text_len) != text_len) return 0;
    Regex *r = regex_parse(all, len, &why, &e);
    FUZZ_REQUIRE(r || why);
    RegexWork *w = r ? regex_work(r, &e) : NULL;
    for (size_t at = 0; w && at < text_len; at = end) {
        if (!regex_find(r, w, text, text_len, at, &begin, &end)) break;
        FUZZ_REQUIRE(begin >= at && end > begin && end <= text_len);
        FUZZ_REQUIRE(end == text_len || ((unsigned char)text[end] & 0xC0) != 0x80);
    }
    regex_work_free(w);
    regex_free(r);
    return 0;
}
