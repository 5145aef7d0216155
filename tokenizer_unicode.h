/* tokenizer_unicode.h - character classes, as the patterns of pre-tokenizers use them.
 *
 * One Unicode version for everyone: never libc's iswalpha, which depends on locale and libc.
 * Numbers are category N; white space is the property White_Space (the \s of patterns).
 */
#ifndef ALIGN_TOKENIZER_UNICODE_H
#define ALIGN_TOKENIZER_UNICODE_H

#include "base.h"

typedef enum {
    UNICODE_OTHER,
    UNICODE_UPPER,  /* Lu, Lt */
    UNICODE_LOWER,  /* Ll */
    UNICODE_LETTER, /* Lm, Lo */
    UNICODE_MARK,   /* M */
    UNICODE_NUMBER, /* N */
    UNICODE_SPACE   /* White_Space */
} UnicodeClass;

UnicodeClass unicode_class(uint32_t cp);
/* Word characters (the \w of patterns): letters, marks, decimal and letter numbers, connectors. */
int unicode_is_word(uint32_t cp);

#endif
