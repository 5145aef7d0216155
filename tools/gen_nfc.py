#!/usr/bin/env python3
"""Writes tokenizer_compose.c: what canonical composition (NFC, Unicode Annex 15) needs to know.

    python3 tools/gen_nfc.py > tokenizer_compose.c     (make new tables)
    python3 tools/gen_nfc.py --check                   (do the committed tables agree?)

The `tokenizers` library has tables of an older Unicode than any of Python's: what it knows is asked
of it, character by character, and unicodedata (any version from 13 on) says the rest: into which
two characters one is taken apart, and the combining class of a mark.
"""
import os
import sys
import unicodedata

from tokenizers.normalizers import NFC, NFD

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

TAIL = """};
/* clang-format on */
#define COUNT(table) (sizeof(table) / sizeof(table)[0])

int compose_parts(uint32_t whole, uint32_t out[2])
{
    size_t low = 0, high = COUNT(parts);
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (parts[middle].whole < whole)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == COUNT(parts) || parts[low].whole != whole) return 0;
    out[0] = parts[low].first;
    out[1] = parts[low].second;
    return out[1] ? 2 : 1;
}

uint32_t compose_pair(uint32_t first, uint32_t second)
{
    size_t low = 0, high = COUNT(by_parts);
    while (low < high) {
        size_t middle = low + (high - low) / 2, row = by_parts[middle];
        if (parts[row].first < first || (parts[row].first == first && parts[row].second < second))
            low = middle + 1;
        else
            high = middle;
    }
    if (low == COUNT(by_parts)) return 0;
    size_t row = by_parts[low];
    return parts[row].first == first && parts[row].second == second ? parts[row].whole : 0;
}

unsigned compose_class(uint32_t c)
{
    size_t low = 0, high = COUNT(runs);
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (runs[middle].last < c)
            low = middle + 1;
        else
            high = middle;
    }
    return low < COUNT(runs) && runs[low].first <= c ? runs[low].class : 0;
}
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
            lines(runs(), lambda r: "{0x%x, 0x%x, %d}," % r, 3) + TAIL)


def main():
    made = source()
    if sys.argv[1:] != ["--check"]:
        sys.stdout.write(made)
        return 0
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    with open(os.path.join(here, "tokenizer_compose.c"), encoding="utf-8") as f:
        same = f.read() == made
    if not same:
        print("tokenizer_compose.c differs: make it again")
    print("%d passed, %d failed" % (same, not same))
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
