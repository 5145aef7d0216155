#!/usr/bin/env python3
"""check_gguf_words.py - how vocabularies in GGUF files cut texts, against the tokenizers library.

    make build/tools/tokenize
    python tools/check_gguf_words.py [--count N]      random texts for each name (default 2000)

For each name of tokenizer.ggml.pre that is known: a byte-level vocabulary trained here is given to
the library with the pre-tokenizer that the name's models publish, and written as a GGUF file with
the name alone. The ids must be equal. Prints "N passed, N failed". Needs gguf and tokenizers.
"""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile

import gguf
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from check_tokenizer import TOOL, WORDS, CODE, random_texts, run
from model_gguf import LLAMA3, QWEN2, TEKKEN


def split(regex):
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


DIGITS = {"type": "Digits", "individual_digits": True}
WITH_REGEX, WITHOUT = [{"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                        "use_regex": use} for use in (True, False)]
DEEPSEEK_CODER = [split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"),
                  split("[一-龥ࠀ-一가-\ud7ff]+"), DIGITS, WITHOUT]
SEED_CODER = ("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}"
              "| ?[^\\s\\p{L}\\p{N}\r\n]+|\\s*[\r\n]+|\\s+(?!\\S)|\\s+")
VIKING = r" ?[^(\s|[.,!?…。，、।۔،])]+"

# names: (steps, ignore_merges, a BOS where the file does not say, NFC)
NAMES = {
    ("llama-bpe", "llama3", "llama-v3", "falcon3", "midm-2.0"):
        ([split(LLAMA3), WITHOUT], True, True, False),
    ("smaug-bpe", "dbrx"): ([split(LLAMA3), WITHOUT], False, False, False),
    ("tekken",): ([split(TEKKEN), WITHOUT], True, True, False),
    ("qwen2",): ([split(QWEN2), WITHOUT], False, False, True),
    ("stablelm2", "deepseek-r1-qwen", "megrez"): ([split(QWEN2), WITHOUT], False, False, False),
    ("smollm", "starcoder", "refact", "command-r", "minerva-7b"):
        ([DIGITS, WITH_REGEX], False, False, False),
    ("gpt-2", "olmo", "mpt", "mellum", "a.x-4.0", "trillion"): ([WITH_REGEX], False, False, False),
    ("deepseek-coder",): (DEEPSEEK_CODER, False, False, False),
    ("seed-coder",): ([split(SEED_CODER), WITHOUT], False, False, False),
    ("viking",): ([split(VIKING), DIGITS, WITHOUT], False, False, False),
}
BOS = "<|begin|>"


def trained(steps, whole, composes):
    """A small vocabulary under these steps. A tenth of the merges is left out again, so that some
    tokens can only be found whole."""
    spec = json.loads(Tokenizer(models.BPE()).to_str())
    spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    spec["normalizer"] = {"type": "NFC"} if composes else None
    small = Tokenizer.from_str(json.dumps(spec))
    trainer = trainers.BpeTrainer(vocab_size=1500, special_tokens=[BOS], show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    draw = random.Random(3)
    texts = [" ".join(draw.choice(WORDS + CODE) for _ in range(12)) for _ in range(300)]
    small.train_from_iterator(texts + random_texts(2000, 9, [BOS]), trainer)
    spec = json.loads(small.to_str())
    model = spec["model"]
    model["ignore_merges"] = whole
    model["merges"] = [m for i, m in enumerate(model["merges"]) if i % 10 != 9]
    spec["added_tokens"][0]["special"] = True
    return spec


def write_file(path, name, spec):
    """The vocabulary as a GGUF file, which says how texts are cut by its name only."""
    model = spec["model"]
    tokens = [t for t, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
    control = [t["content"] for t in spec["added_tokens"]]
    w = gguf.GGUFWriter(path, "llama")
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre(name)
    w.add_token_list(tokens)
    w.add_token_types([gguf.TokenType.CONTROL if t in control else gguf.TokenType.NORMAL
                       for t in tokens])
    w.add_token_merges([" ".join(m) for m in model["merges"]])
    w.add_bos_token_id(model["vocab"][BOS])
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_ti_data_to_file()
    w.close()


def differing(name, spec, add_bos, texts, directory):
    path = os.path.join(directory, name + ".gguf")
    write_file(path, name, spec)
    library = Tokenizer.from_str(json.dumps(spec))
    begin = [spec["model"]["vocab"][BOS]] if add_bos else []
    want = [begin + e.ids for e in library.encode_batch(texts)]
    got = [r["ids"] for r in run([TOOL, "-m", path, "--parse-special"],
                                 [{"text": t} for t in texts], directory)]
    return sum(a != b for a, b in zip(want, got)) + abs(len(want) - len(got))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=2000)
    args = parser.parse_args()
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    subprocess.run(["make", "-s", "-C", root, "build/tools/tokenize"], check=True,
                   stdout=subprocess.DEVNULL)
    texts, passed, failed = random_texts(args.count, 4, [BOS]), 0, 0
    with tempfile.TemporaryDirectory() as directory:
        for names, (steps, whole, add_bos, composes) in NAMES.items():
            spec = trained(steps, whole, composes)
            for name in names:
                wrong = differing(name, spec, add_bos, texts, directory)
                print(f"{name}: {wrong} of {len(texts)} texts differ", flush=True)
                passed, failed = passed + (not wrong), failed + bool(wrong)
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
