#!/usr/bin/env python3
"""Writes template_unicode.c: letter case and printable characters, as Python's str has them.

    python3 tools/gen_template_unicode.py > template_unicode.c      (make a new table)
    python3 tools/gen_template_unicode.py --check                   (does the committed table agree?)

Chat templates are run by Python elsewhere, so the tables are those of a Python; which one, and so
which Unicode, is written at the head of the table.
"""
import os
import sys
import unicodedata

HEAD = """/* template_unicode.c - letter case and printable characters of Unicode %s.
 * Made by tools/gen_template_unicode.py. */
#include "template_parts.h"

/* Where printable characters begin, and where they end, in turn, from 0x20. */
/* clang-format off */
static const uint32_t printable_turns[] = {
"""

TAIL = """/* clang-format on */

int is_printable(uint32_t code)
{
    size_t low = 0, high = sizeof printable_turns / sizeof *printable_turns;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (printable_turns[middle] <= code) low = middle + 1;
        else high = middle;
    }
    return low % 2 == 1;
}

static size_t map_special(const SpecialCase *table, size_t count, uint32_t code, uint32_t out[3])
{
    for (size_t i = 0; i < count; i++) {
        if (table[i].code != code) continue;
        size_t n = 0;
        while (n < 3 && table[i].to[n]) {
            out[n] = table[i].to[n];
            n++;
        }
        return n;
    }
    return 0;
}

static uint32_t map_run(const CaseRun *table, size_t count, uint32_t code)
{
    for (size_t i = 0; i < count && table[i].first <= code; i++)
        if (code <= table[i].last && (code - table[i].first) % table[i].step == 0)
            return (uint32_t)((int32_t)code + table[i].delta);
    return code;
}

#define COUNT(table) (sizeof(table) / sizeof *(table))

/* What a character becomes, one to three characters; returns how many. The sigma at the end of a
 * word is the caller's. */
size_t case_map(uint32_t code, Case how, uint32_t out[3])
{
    size_t n = 0;
    if (how == CASE_TITLE) n = map_special(title_special, COUNT(title_special), code, out);
    if (n) return n;
    n = how == CASE_LOWER ? map_special(lower_special, COUNT(lower_special), code, out)
                          : map_special(upper_special, COUNT(upper_special), code, out);
    if (n) return n;
    out[0] = how == CASE_LOWER ? map_run(lower_runs, COUNT(lower_runs), code)
                               : map_run(upper_runs, COUNT(upper_runs), code);
    return 1;
}
"""


def runs(pairs):
    """(code, mapped) in order -> runs [first, last, step, delta] of one delta."""
    out = []
    for code, to in pairs:
        delta = to - code
        if out and out[-1][3] == delta:
            first, last, step, _ = out[-1]
            if first == last and code - last in (1, 2):
                out[-1] = [first, code, code - last, delta]
                continue
            if first != last and code - last == step:
                out[-1][1] = code
                continue
        out.append([code, code, 1, delta])
    return out


def table():
    every = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    lines = [HEAD % unicodedata.unidata_version]
    turns, before = [], False
    for code in range(0x110000):
        now = not 0xD800 <= code < 0xE000 and chr(code).isprintable()
        if now != before:
            turns.append(code)
        before = now
    for i in range(0, len(turns), 8):
        lines.append("    " + " ".join("0x%x," % t for t in turns[i:i + 8]) + "\n")
    lines.append("};\n\ntypedef struct {\n    uint32_t first, last, step;\n    int32_t delta;\n"
                 "} CaseRun;\ntypedef struct {\n    uint32_t code, to[3];\n} SpecialCase;\n")
    for name in ("upper", "lower"):
        change = [(c, getattr(chr(c), name)()) for c in every]
        single = [(c, ord(t)) for c, t in change if len(t) == 1 and ord(t) != c]
        lines.append("\nstatic const CaseRun %s_runs[] = {\n" % name)
        rows = ["{0x%x, 0x%x, %d, %d}," % tuple(r) for r in runs(single)]
        lines += ["    " + " ".join(rows[i:i + 3]) + "\n" for i in range(0, len(rows), 3)]
        lines.append("};\nstatic const SpecialCase %s_special[] = {\n" % name)
        lines += special((c, t) for c, t in change if len(t) > 1)
        lines.append("};\n")
    lines.append("static const SpecialCase title_special[] = {\n")
    lines += special((c, chr(c).title()) for c in every if chr(c).title() != chr(c).upper())
    lines.append("};\n")
    lines.append(TAIL)
    return "".join(lines)


def special(pairs):
    rows = ["{0x%x, {%s}}," % (c, ", ".join("0x%x" % ord(x) for x in t)) for c, t in pairs]
    return ["    " + " ".join(rows[i:i + 2]) + "\n" for i in range(0, len(rows), 2)]


def main():
    text = table()
    if sys.argv[1:] != ["--check"]:
        sys.stdout.write(text)
        return 0
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "template_unicode.c")
    with open(path, encoding="utf-8") as f:
        same = f.read() == text
    print("template_unicode.c %s" % ("agrees" if same else "differs"))
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
