/* tokenizer_unicode.h - character classes, as the patterns of pre-tokenizers use them.
 *
 * One Unicode version for everyone: never libc's iswalpha, which depends on locale and libc.
 * A class is a general category, or some of them; but white space is the property White_Space (the
 * \s of patterns).
 */
#ifndef ALIGN_TOKENIZER_UNICODE_H
#define ALIGN_TOKENIZER_UNICODE_H

#include "base.h"

typedef enum {
    UNICODE_OTHER,
    UNICODE_UPPER,       /* Lu */
    UNICODE_TITLE,       /* Lt */
    UNICODE_LOWER,       /* Ll */
    UNICODE_MODIFIER,    /* Lm */
    UNICODE_LETTER,      /* Lo */
    UNICODE_MARK,        /* M */
    UNICODE_DIGIT,       /* Nd */
    UNICODE_NUMBER,      /* Nl, No */
    UNICODE_PUNCTUATION, /* P */
    UNICODE_SYMBOL,      /* S */
    UNICODE_SPACE        /* White_Space, whatever the category */
} UnicodeClass;

UnicodeClass unicode_class(uint32_t cp);
/* Word characters (the \w of patterns): letters, marks, decimal and letter numbers, connectors. */
int unicode_is_word(uint32_t cp);

#endif
