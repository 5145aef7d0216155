#!/usr/bin/env python3
"""Writes tokenizer_unicode.c: the character classes that pre-tokenizers ask for.

    python3 tools/gen_unicode.py > tokenizer_unicode.c      (make a new table)
    python3 tools/gen_unicode.py --check                    (does the committed table agree?)

The version is pinned, because a newly assigned letter changes token ids: 16.0.0 is what the
regular expressions of the `tokenizers` library 0.23 know. Python 3.14 brings that version; on any
other Python `pip install unicodedata2==16.0.0` does.
"""
import os
import sys

VERSION = "16.0.0"

try:
    import unicodedata2 as unicodedata
except ImportError:
    import unicodedata

# The order is that of enum UnicodeClass in tokenizer_unicode.h.
CLASSES = {"Lu": "UPPER", "Lt": "TITLE", "Ll": "LOWER", "Lm": "MODIFIER", "Lo": "LETTER",
           "Nd": "DIGIT", "Nl": "NUMBER", "No": "NUMBER", "M": "MARK", "P": "PUNCTUATION",
           "S": "SYMBOL"}
NAMES = ["OTHER", "UPPER", "TITLE", "LOWER", "MODIFIER", "LETTER", "MARK", "DIGIT", "NUMBER",
         "PUNCTUATION", "SYMBOL", "SPACE"]

# PropList.txt, White_Space: unicodedata has no such property (str.isspace is another set).
SPACE = ({0x20, 0x85, 0xA0, 0x1680, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000}
         | set(range(0x9, 0xE)) | set(range(0x2000, 0x200B)))
# PropList.txt, Other_Alphabetic without the marks, and Join_Control: word characters beyond the
# general categories L, M, Nd, Nl, Pc (Unicode Technical Standard 18, annex C, "word").
WORD = ({0x200C, 0x200D} | set(range(0x24B6, 0x24EA)) | set(range(0x1F130, 0x1F14A))
        | set(range(0x1F150, 0x1F16A)) | set(range(0x1F170, 0x1F18A)))

HEAD = """/* tokenizer_unicode.c - character classes of Unicode %s. Made by tools/gen_unicode.py. */
#include "tokenizer_unicode.h"

/* Where a class begins: code point << 5 | word character << 4 | class, ascending. */
/* clang-format off */
static const uint32_t unicode_starts[] = {
"""

TAIL = """};
/* clang-format on */

/* The last entry that begins at or before cp. */
static uint32_t unicode_find(uint32_t cp)
{
    size_t low = 0, high = sizeof(unicode_starts) / sizeof(unicode_starts[0]);
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (unicode_starts[middle] >> 5 <= cp)
            low = middle;
        else
            high = middle;
    }
    return unicode_starts[low];
}

UnicodeClass unicode_class(uint32_t cp)
{
    return (UnicodeClass)(unicode_find(cp) & 15);
}

int unicode_is_word(uint32_t cp)
{
    return (unicode_find(cp) & 16) != 0;
}
"""


def packed(cp):
    """Class and word bit of one code point."""
    category = "Cs" if 0xD800 <= cp <= 0xDFFF else unicodedata.category(chr(cp))
    name = CLASSES.get(category, CLASSES.get(category[0], "OTHER"))
    if cp in SPACE:
        name = "SPACE"
    word = category[0] in "LM" or category in ("Nd", "Nl", "Pc") or cp in WORD
    return int(word) << 4 | NAMES.index(name)


def source():
    starts, before = [], None
    for cp in range(0x110000):
        value = packed(cp)
        if value != before:
            starts.append(cp << 5 | value)
            before = value
    lines = []
    for i in range(0, len(starts), 8):
        lines.append("    " + " ".join("0x%x," % v for v in starts[i:i + 8]))
    return HEAD % VERSION + "\n".join(lines) + "\n" + TAIL


def main():
    if unicodedata.unidata_version != VERSION:
        sys.exit("gen_unicode.py: this Python knows Unicode %s, the table is for %s: use Python "
                 "3.14 or pip install unicodedata2==%s" % (unicodedata.unidata_version, VERSION,
                                                            VERSION))
    if sys.argv[1:] == ["--check"]:
        path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..",
                            "tokenizer_unicode.c")
        with open(path, encoding="utf-8") as f:
            if f.read() != source():
                sys.exit("gen_unicode.py: tokenizer_unicode.c is not what this script writes")
        print("tokenizer_unicode.c agrees with Unicode " + VERSION)
    else:
        sys.stdout.write(source())


main()
