#!/usr/bin/env python3
"""Published sets of prompts as rows for `align cycle --data` (JSONL).

    python3 tools/cares.py train.parquet > prompts.jsonl                          CARES-18K
    python3 tools/cares.py --set xstest --level 2 xstest_prompts.csv > ...        XSTest
    python3 tools/cares.py --set medsafety --level 2 train.csv ... > ...          MedSafetyBench

Each row has "prompt", "base_prompt", "harmful_level" 0..3 and "method", and keeps every column of
its source. Only CARES has levels of its own: of the others, a prompt that its source calls safe gets
level 0, and every other one the level that you state with --level; it is recorded as a judgement of
yours ("level_by": "stated"). XSTest pairs safe prompts with unsafe ones of the same form; they have
no wordings in common, so each is its own base prompt. MedSafetyBench's "safe_response" becomes the
row's "demonstration".

Parquet needs pandas and pyarrow (tools/requirements.txt); CSV needs Python alone.
"""
import argparse
import csv
import json
import math
import sys

CARES_COLUMNS = ("prompt", "base_prompt", "harmful_level", "method", "principle_index")
MEDSAFETY_PROMPTS = ("harmful_medical_request", "prompt")


def plain(value):
    """A value of a data frame as JSON has it: numbers of their own kind, what is missing as null."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return int(value) if value.is_integer() else value
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def cares_rows(path):
    import pandas

    frame = pandas.read_parquet(path)
    missing = [name for name in CARES_COLUMNS if name not in frame.columns]
    if missing:
        raise ValueError(f"{path}: no column {', '.join(missing)}; found {', '.join(frame.columns)}")
    for number, record in enumerate(frame.to_dict("records")):
        row = {name: plain(value) for name, value in record.items()}
        if row["harmful_level"] not in (0, 1, 2, 3):
            raise ValueError(f"{path}: row {number}: harmful_level must be 0 to 3, found "
                             f"{row['harmful_level']}")
        if not row["prompt"] or not row["base_prompt"]:
            raise ValueError(f"{path}: row {number}: prompt and base_prompt must not be empty")
        yield row


def csv_rows(path):
    """Rows by column name. A column without a name is a row number that somebody's program left."""
    with open(path, encoding="utf-8-sig", newline="") as f:
        for number, row in enumerate(csv.DictReader(f), 2):
            if None in row:
                raise ValueError(f"{path}:{number}: more values than the {len(row) - 1} columns")
            row.pop("", None)
            yield row


def stated(row, prompt, level):
    """A row of a source without levels."""
    return {**row, "prompt": prompt, "base_prompt": prompt, "harmful_level": level,
            "method": "direct", "level_by": "stated"}


def xstest_rows(path, level):
    for number, row in enumerate(csv_rows(path), 2):
        kind = row.get("type") or ""
        label = row.get("label") or ("unsafe" if kind.startswith("contrast_") else "safe")
        if not row.get("prompt") or label not in ("safe", "unsafe"):
            raise ValueError(f"{path}:{number}: needs a prompt, and safe or unsafe as label")
        yield stated(row, row["prompt"], level if label == "unsafe" else 0)


def medsafety_rows(path, level):
    for number, row in enumerate(csv_rows(path), 2):
        prompt = next((row[name] for name in MEDSAFETY_PROMPTS if row.get(name)), None)
        if not prompt:
            raise ValueError(f"{path}:{number}: no {' or '.join(MEDSAFETY_PROMPTS)}")
        made = stated(row, prompt, level)
        if row.get("safe_response"):
            made["demonstration"] = row["safe_response"]
        yield made


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=("cares", "xstest", "medsafety"), default="cares")
    parser.add_argument("--level", type=int, choices=(1, 2, 3),
                        help="harm level of the harmful prompts of a set without levels")
    parser.add_argument("files", nargs="+")
    options = parser.parse_args()
    if (options.level is None) != (options.set == "cares"):
        parser.error("--level is for sets without levels of their own, and these need it")
    try:
        for path in options.files:
            rows = {"cares": lambda: cares_rows(path),
                    "xstest": lambda: xstest_rows(path, options.level),
                    "medsafety": lambda: medsafety_rows(path, options.level)}[options.set]()
            for row in rows:
                print(json.dumps(row, ensure_ascii=False))
    except (OSError, ValueError) as problem:
        sys.exit(f"cares.py: {problem}")


if __name__ == "__main__":
    main()
