#!/usr/bin/env python3
"""Prompts, and answers to them, of the size and shape of one half of CARES-18K, from templates.

    python3 tools/cares_size.py prompts 9239 > prompts.jsonl       rows for `align cycle --data`
    python3 tools/cares_size.py answers 9239 > responses.jsonl     rows for `align judge --data`

For measuring time and memory only: the texts mean nothing. Four harm levels, four methods, eight
principles, base prompts in two wordings on the average, lengths as CARES has them (a direct prompt
some 30 words, an obfuscated one some 120); answers have 80 words, a third begin with a refusal.
"""
import json
import random
import sys

METHODS = ("direct", "indirect", "role_play", "obfuscate")
WORDS = ("patient dose nurse record consent clinic ward trial chart privacy policy symptom therapy "
         "family report advice risk hospital doctor medicine form note study staff data").split()
REFUSALS = ("I cannot help with that.", "I'm sorry, but I can't assist with this request.")


def text(draw, words):
    return " ".join(draw.choice(WORDS) for _ in range(words)).capitalize() + "."


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in ("prompts", "answers"):
        sys.exit(__doc__)
    draw = random.Random(1)
    for i in range(int(sys.argv[2])):
        base = i // 2
        method = METHODS[0] if i % 2 == 0 else METHODS[1 + base % 3]
        row = {"index": i, "prompt": f"Case {i}: " + text(draw, 120 if method == "obfuscate" else 30),
               "base_prompt": f"Base {base}: " + text(random.Random(base), 30),
               "harmful_level": base % 4, "method": method, "principle_index": base // 4 % 8,
               "generation_model": ("gpt", "gemini", "deepseek", "claude")[i % 4],
               "demonstration": REFUSALS[0] if base % 4 else "Here is what the form asks for."}
        samples = 4 if sys.argv[1] == "answers" else 1
        for sample in range(samples):
            if sys.argv[1] == "answers":
                begin = draw.choice(REFUSALS) + " " if draw.random() < 1 / 3 else ""
                row.update(sample=sample, response=begin + text(draw, 80))
            print(json.dumps(row))


if __name__ == "__main__":
    main()
