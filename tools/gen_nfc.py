#!/usr/bin/env python3
"""Writes the tables of tokenizer_compose.c: what canonical composition (NFC, Unicode Annex 15) needs
to know.

    python3 tools/gen_nfc.py             (make new tables)
    python3 tools/gen_nfc.py --check     (do the committed tables agree?)

The `tokenizers` library has tables of an older Unicode than any of Python's: what it knows is asked
of it, character by character, and unicodedata (any version from 13 on) says the rest: into which
two characters one is taken apart, and the combining class of a mark.
"""
import sys
import unicodedata

from tokenizers.normalizers import NFC, NFD

import made_tables

HANGUL = range(0xAC00, 0xD7A4)  # by arithmetic
CHARACTERS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]

HEAD = """\
/* tokenizer_compose.c - canonical decompositions and combining classes of characters. Made by
 * tools/gen_nfc.py. */
#include "tokenizer_inner.h"

/* clang-format off */
/* A character, the one or two that it stands for (0: none), and whether those compose it again. */
static const struct {
    uint32_t whole, first, second, composes;
} parts[] = {
"""

MIDDLE = """};

/* The rows above that compose, by first and second. */
static const uint16_t by_parts[] = {
"""

CLASSES = """};

/* Runs of marks of one class: the first, the last, the class. */
static const struct {
    uint32_t first, last, class;
} runs[] = {
"""


def combining_class(c):
    """Of a mark that the library moves before one of a higher class; else it does not know it."""
    k = unicodedata.combining(chr(c))
    if not k or c == 0x345:
        return k
    above = "\u0345" if k >= 230 else "\u0301"
    asked = "a" + above + chr(c)
    return k if NFD().normalize_str(asked) != asked else 0


def rows():
    """(whole, first, second or 0, composes)"""
    for c in CHARACTERS:
        if c in HANGUL or NFD().normalize_str(chr(c)) == chr(c):
            continue
        pair = [int(x, 16) for x in unicodedata.decomposition(chr(c)).split()]
        pair += [0] * (2 - len(pair))
        composes = pair[1] and NFC().normalize_str(chr(c)) == chr(c)
        yield c, pair[0], pair[1], int(bool(composes))


def runs():
    run = None
    for c in CHARACTERS:
        k = combining_class(c)
        if run and (k != run[2] or c != run[1] + 1):
            yield run
            run = None
        if k:
            run = (run[0] if run else c, c, k)
    if run:
        yield run


def lines(items, text, a_line):
    items = [text(i) for i in items]
    return "".join("    %s\n" % " ".join(items[i:i + a_line])
                   for i in range(0, len(items), a_line))


def source():
    table = list(rows())
    composing = sorted((r[1], r[2], i) for i, r in enumerate(table) if r[3])
    return (HEAD + lines(table, lambda r: "{0x%x, 0x%x, 0x%x, %d}," % r, 3) + MIDDLE +
            lines(composing, lambda r: "%d," % r[2], 16) + CLASSES +
            lines(runs(), lambda r: "{0x%x, 0x%x, %d}," % r, 3) + "};\n")


if __name__ == "__main__":
    sys.exit(made_tables.settle("tokenizer_compose.c", source(), sys.argv[1:] == ["--check"]))
