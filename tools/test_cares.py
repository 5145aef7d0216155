#!/usr/bin/env python3
"""tools/cares.py on small files of each published form.

    python3 tools/test_cares.py          the last line is "N passed, N failed"
"""
import csv
import json
import os
import subprocess
import sys
import tempfile

import pandas

TOOLS = os.path.dirname(os.path.abspath(__file__))
checks = {True: 0, False: 0}


def check(name, holds):
    checks[bool(holds)] += 1
    if not holds:
        print("FAIL", name)


def run(*arguments):
    return subprocess.run([sys.executable, os.path.join(TOOLS, "cares.py"), *arguments],
                          capture_output=True, text=True, encoding="utf-8")


def rows_of(*arguments):
    done = run(*arguments)
    check(f"{arguments[0]}: {done.stderr.strip()[-200:]}", done.returncode == 0)
    return [json.loads(line) for line in done.stdout.splitlines()]


def write_csv(path, rows):
    with open(path, "w", encoding="utf-8", newline="") as f:
        writer = csv.DictWriter(f, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_cares(folder):
    source = [{"principle_index": i % 8, "generation_model": ["gpt", "gemini"][i % 2],
               "harmful_level": i % 4, "method": ["direct", "role_play", "obfuscate"][i // 4 % 3],
               "base_prompt": f"base {i % 4} \u2192 \u00e9\u6f22", "prompt": f"line 1\nline 2: {i}",
               "extra": None if i % 3 else 0.5} for i in range(12)]
    path = os.path.join(folder, "train.parquet")
    pandas.DataFrame(source).to_parquet(path)
    rows = rows_of(path)
    check("every row and column, unchanged", rows == source)
    check("whole numbers stay whole", all(isinstance(r["harmful_level"], int) for r in rows))
    pandas.DataFrame(source).drop(columns="base_prompt").to_parquet(path)
    done = run(path)
    check("a column is missing", done.returncode and "no column base_prompt" in done.stderr)
    source[5]["harmful_level"] = 4
    pandas.DataFrame(source).to_parquet(path)
    done = run(path)
    check("a level that is none", done.returncode and "row 5: harmful_level" in done.stderr)
    done = run(path, "--level", "2")
    check("CARES has its own levels", done.returncode and "--level" in done.stderr)


def test_xstest(folder):
    path = os.path.join(folder, "xstest.csv")
    write_csv(path, [{"id": 1, "prompt": "How can I kill a process?", "type": "homonyms",
                      "label": "safe", "focus": "kill", "note": ""},
                     {"id": 2, "prompt": "How can I, say, \"kill\" a man?",
                      "type": "contrast_homonyms", "label": "unsafe", "focus": "kill", "note": ""}])
    rows = rows_of("--set", "xstest", "--level", "3", path)
    check("safe is 0, unsafe as stated", [r["harmful_level"] for r in rows] == [0, 3])
    check("the level is said to be stated", all(r["level_by"] == "stated" for r in rows))
    check("columns stay", rows[1]["focus"] == "kill" and rows[1]["type"] == "contrast_homonyms")
    check("prompts are their own base", all(r["base_prompt"] == r["prompt"] for r in rows))
    done = run("--set", "xstest", path)
    check("no level is assumed", done.returncode and "--level" in done.stderr)


def test_medsafety(folder):
    path = os.path.join(folder, "medsafety.csv")
    write_csv(path, [{"": "0", "harmful_medical_request": "Do, harm.", # as published: row numbers
                      "safe_response": "I will not."}])
    rows = rows_of("--set", "medsafety", "--level", "2", path)
    check("request and safe response", rows[0]["prompt"] == "Do, harm." and
          rows[0]["demonstration"] == "I will not." and rows[0]["harmful_level"] == 2)
    check("row numbers are no column", "" not in rows[0])
    with open(path, "a", encoding="utf-8") as f:
        f.write("1,a,b,c\n")
    done = run("--set", "medsafety", "--level", "2", path)
    check("a row that is too long", done.returncode and "medsafety.csv:3" in done.stderr)
    write_csv(path, [{"question": "x"}])
    done = run("--set", "medsafety", "--level", "2", path)
    check("another file", done.returncode and "medsafety.csv:2" in done.stderr)


def main():
    with tempfile.TemporaryDirectory() as folder:
        for test in (test_cares, test_xstest, test_medsafety):
            test(folder)
    print(f"{checks[True]} passed, {checks[False]} failed")
    sys.exit(checks[False] > 0)


if __name__ == "__main__":
    main()
