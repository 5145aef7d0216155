#!/usr/bin/env python3
"""Writes the tables of template_unicode.c: letter case and printable characters, as Python's str has them.

    python3 tools/gen_template_unicode.py             (make new tables)
    python3 tools/gen_template_unicode.py --check     (do the committed tables agree?)

Chat templates are run by Python elsewhere, so the tables are those of a Python; which one, and so
which Unicode, is written at the head of the table.
"""
import sys
import unicodedata

import made_tables

HEAD = """/* template_unicode.c - letter case and printable characters of Unicode %s.
 * Made by tools/gen_template_unicode.py. */
#include "template_parts.h"

/* Where printable characters begin, and where they end, in turn, from 0x20. */
/* clang-format off */
static const uint32_t printable_turns[] = {
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
    return "".join(lines)


def special(pairs):
    rows = ["{0x%x, {%s}}," % (c, ", ".join("0x%x" % ord(x) for x in t)) for c, t in pairs]
    return ["    " + " ".join(rows[i:i + 2]) + "\n" for i in range(0, len(rows), 2)]


if __name__ == "__main__":
    sys.exit(made_tables.settle("template_unicode.c", table(), sys.argv[1:] == ["--check"]))
