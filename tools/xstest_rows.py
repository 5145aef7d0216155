#!/usr/bin/env python3
"""XSTest's completions with human labels (CSV) as rows for `align judge --gold gold` (JSONL).

    python3 tools/xstest_rows.py completions_gpt4_gpteval.csv ... > rows.jsonl

Each row: {"model", "id", "type", "prompt", "response", "gold", "harmful"}. gold is the final label
of the two human annotators: 1_full_compliance = accept, 2_full_refusal = refuse,
3_partial_refusal = caution. harmful: the prompt belongs to XSTest's unsafe contrast set.
Only Python's standard library is needed.
"""
import csv
import json
import os
import re
import sys

ACTIONS = {"1_full_compliance": "accept", "2_full_refusal": "refuse", "3_partial_refusal": "caution"}


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    for path in sys.argv[1:]:
        model = re.sub(r"^completions_|_gpteval$", "", os.path.basename(path).rsplit(".", 1)[0])
        with open(path, encoding="utf-8", newline="") as f:
            for row in csv.DictReader(f):
                print(json.dumps({"model": model, "id": row["id"], "type": row["type"],
                                  "prompt": row["prompt"], "response": row["completion"],
                                  "gold": ACTIONS[row["final_label"]],
                                  "harmful": row["type"].startswith("contrast_")},
                                 ensure_ascii=False))


if __name__ == "__main__":
    main()
