#!/usr/bin/env python3
"""Compares decoding with transformers: all ids of all tokenizers of the data directory.

    tools/check_decode.py [NAME ...]

Each id alone, and random sequences of ids, special tokens kept and skipped, are decoded by
transformers and by build/tests/tool_tokenize, which also decodes each row as a stream. The last
line is "N passed, N failed". ALIGN_DATA names the data directory (default: ../shared/data).
"""
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
TOOL = os.path.join(ROOT, "build", "tests", "tool_tokenize")
DATA = os.environ.get("ALIGN_DATA", os.path.join(ROOT, "..", "shared", "data"))
SEQUENCES, LONGEST = 2000, 24

# name: (vocabulary, its name in the directory, configuration or None)
TOKENIZERS = {
    "llama2.model": ("tokenizers/llama2/tokenizer.model", "tokenizer.model", None),
    "llama3.json": ("tokenizers/llama3/tokenizer.json", "tokenizer.json",
                    "tokenizers/llama3/tokenizer_config.Meta-Llama-3-8B-Instruct.json"),
    "mistral-v0.1.json": ("tokenizers/mistral/tokenizer.json.v0.1", "tokenizer.json",
                          "tokenizers/mistral/tokenizer_config.json.v0.1"),
    "mistral-v0.3.json": ("tokenizers/mistral/tokenizer.json.v0.3", "tokenizer.json",
                          "tokenizers/mistral/tokenizer_config.json.v0.3"),
    "mistral-v1.model": ("tokenizers/mistral/tokenizer.model.v1", "tokenizer.model",
                         "tokenizers/mistral/tokenizer_config.json.v0.1"),
    "tinyllama.json": ("tokenizers/tinyllama/tokenizer.json", "tokenizer.json",
                       "tokenizers/tinyllama/tokenizer_config.json"),
    "tinystories.json": ("weights/tinystories-656k/tokenizer.json", "tokenizer.json",
                         "weights/tinystories-656k/tokenizer_config.json")}


def ours(directory, rows, skip):
    source, result = os.path.join(directory, "in.jsonl"), os.path.join(directory, "out.jsonl")
    with open(source, "w", encoding="utf-8") as f:
        f.writelines('{"ids":[%s]}\n' % ",".join(map(str, row)) for row in rows)
    command = [TOOL, "tokenize", "--decode", "-m", directory, "--data", source, "-o", result]
    subprocess.run(command + (["--skip-special"] if skip else []), check=True)
    with open(result, encoding="utf-8") as f:
        return [json.loads(line)["text"] for line in f]


def check(name):
    """The number of texts, and of those that differ."""
    from transformers import AutoTokenizer
    vocabulary, as_name, config = TOKENIZERS[name]
    with tempfile.TemporaryDirectory() as directory:
        shutil.copy(os.path.join(DATA, vocabulary), os.path.join(directory, as_name))
        if config:
            shutil.copy(os.path.join(DATA, config), os.path.join(directory, "tokenizer_config.json"))
        else:
            with open(os.path.join(directory, "tokenizer_config.json"), "w") as f:
                json.dump({"tokenizer_class": "LlamaTokenizer"}, f)
        library = AutoTokenizer.from_pretrained(directory)
        size, draw = len(library), random.Random(1)
        rows = [[i] for i in range(size)]
        rows += [[draw.randrange(size) for _ in range(draw.randint(2, LONGEST))]
                 for _ in range(SEQUENCES)]
        bad = 0
        for skip in (False, True):
            want = library.batch_decode(rows, skip_special_tokens=skip)
            got = ours(directory, rows, skip)
            wrong = [i for i in range(len(rows)) if want[i] != got[i]]
            bad += len(wrong)
            for i in wrong[:5]:
                print("    %s, special tokens %s: %s\n      transformers %r\n      here         %r"
                      % (name, "skipped" if skip else "kept", rows[i], want[i], got[i]))
    print("  decoding %-18s %7d texts, %d differ" % (name, 2 * len(rows), bad), flush=True)
    return 2 * len(rows), bad


def main():
    counts = [check(name) for name in sys.argv[1:] or TOKENIZERS]
    bad = sum(b for _, b in counts)
    print("%d passed, %d failed" % (sum(n for n, _ in counts) - bad, bad))
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
