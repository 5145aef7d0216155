#!/usr/bin/env python3
"""Every field beside a vocabulary that changes ids in transformers changes ours alike, or is refused.

    make build/tools/tokenize
    python3 tools/check_fields.py [BASE ...]

BASE: mistral.json, llama3.json, mistral.model; without one, all of them. For each, the tokenizer's
own tokenizer_config.json is loaded with one field changed, or with a special_tokens_map.json or
added_tokens.json beside it, by transformers' AutoTokenizer and by the C tool. The ids of a few texts
must be equal, or the C tool must refuse the field. A tokenizer.model needs protobuf for transformers.

Known and left out: texts that begin with two spaces for a tokenizer.model (transformers 5 orders
the merges of its blank pieces otherwise than SentencePiece and the published tokenizer.json), and
what transformers itself does not load.
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
DATA = os.environ.get("ALIGN_DATA", os.path.join(ROOT, "..", "shared", "data"))
TOOL = os.path.join(ROOT, "build", "tests", "tool_tokenize")
TEXTS = ["Hello world", " lead", "<s>[INST] Hi [/INST] Yes</s>", "a</s>b", "a</s> b", "a </s> b",
         "x<unk>y", "x <unk> y", "[INST] a", "x <|eot_id|>y", "a<|eot_id|> b", "[PAD]", "p[PAD]q",
         "p [PAD] q", "▁x", "tab\tx\n", "Hello", "and Hello world", "a,b .c", "", "</s> x"]

# name: (vocabulary, its name in the directory, configuration, end token, its id, id of "Hello",
#        next free id)
BASES = {
    "mistral.json": ("mistral/tokenizer.json.v0.1", "tokenizer.json",
                     "mistral/tokenizer_config.json.v0.1", "</s>", 2, 16230, 32000),
    "mistral.model": ("mistral/tokenizer.model.v1", "tokenizer.model",
                      "mistral/tokenizer_config.json.v0.1", "</s>", 2, 16230, 32000),
    "llama3.json": ("llama3/tokenizer.json", "tokenizer.json",
                    "llama3/tokenizer_config.Meta-Llama-3-8B-Instruct.json", "<|eot_id|>", 128009,
                    9906, 128256)}


def token(content, **flags):
    return dict({"content": content, "lstrip": False, "rstrip": False, "normalized": False,
                 "single_word": False, "special": True}, **flags)


def cases(end, end_id, hello, free):
    """(name, changes of tokenizer_config.json, special_tokens_map.json, added_tokens.json)."""
    values = {
        "add_bos_token": [True, False], "add_eos_token": [True, False], "legacy": [True, False],
        "add_prefix_space": [True, False, None], "clean_up_tokenization_spaces": [True],
        "split_special_tokens": [True], "use_default_system_prompt": [True],
        "spaces_between_special_tokens": [True], "from_slow": [True], "model_max_length": [5],
        "bos_token": [None, ""], "eos_token": [None, "", "Hello"], "unk_token": [None, "Hello"],
        "pad_token": ["[PAD]", end, "Hello"], "mask_token": ["[PAD]"], "image_token": ["[PAD]"],
        "additional_special_tokens": [["Hello"], ["[PAD]", "Hello"]],
        "extra_special_tokens": [["[PAD]"], {"image_token": "[PAD]"}],
        "tokenizer_class": ["GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast",
                            "Qwen2Tokenizer", "GPTNeoXTokenizerFast", "BloomTokenizerFast", "Foo"],
        "truncation_side": ["left"], "padding_side": ["left"], "sp_model_kwargs": [{}]}
    out = [("unchanged", {}, None, None)]
    for key, each in values.items():
        out += [("%s = %s" % (key, json.dumps(v)), {key: v}, None, None) for v in each]
    for flag in ("lstrip", "rstrip", "normalized", "single_word"):
        table = {str(end_id): token(end, **{flag: True})}
        out.append(("the end token with " + flag, {"added_tokens_decoder": table}, None, None))
    for name, i, made in (("not special", end_id, token(end, special=False)),
                          ("new", free, token("[PAD]")), ("new, odd id", free + 7, token("[PAD]")),
                          ("a word", hello, token("Hello")),
                          ("a plain word", hello, token("Hello", special=False))):
        out.append(("table: " + name, {"added_tokens_decoder": {str(i): made}}, None, None))
    no = {"added_tokens_decoder": ...}
    out += [("no table", no, None, None),
            ("map: pad", no, {"pad_token": "[PAD]"}, None),
            ("map: the end token with lstrip", no, {"eos_token": token(end, lstrip=True)}, None),
            ("map: another end token", no, {"eos_token": "Hello"}, None),
            ("map beside a table", {}, {"pad_token": "[PAD]"}, None),
            ("added_tokens.json", no, None, {"[PAD]": free}),
            ("added_tokens.json, special", no, {"pad_token": "[PAD]"}, {"[PAD]": free}),
            ("added_tokens.json, a word", no, None, {"Hello": hello}),
            ("added_tokens.json beside a table", {}, None, {"[PAD]": free})]
    return out


def put(directory, name, content):
    if content is not None:
        with open(os.path.join(directory, name), "w", encoding="utf-8") as f:
            json.dump(content, f)


def ours(directory):
    """Lists of ids, or the refusal."""
    source, result = os.path.join(directory, "in.jsonl"), os.path.join(directory, "out.jsonl")
    with open(source, "w", encoding="utf-8") as f:
        f.writelines(json.dumps({"text": t}) + "\n" for t in TEXTS)
    made = subprocess.run([TOOL, "-m", directory, "--parse-special", "--data", source, "-o", result],
                          capture_output=True, text=True, check=False)
    if made.returncode:
        return made.stderr.strip().split("\n")[-1]
    with open(result, encoding="utf-8") as f:
        return [json.loads(line)["ids"] for line in f]


def check(base):
    from transformers import AutoTokenizer
    vocabulary, name, config_file, *ids = BASES[base]
    with open(os.path.join(DATA, "tokenizers", config_file), encoding="utf-8") as f:
        original = json.load(f)
    original.pop("chat_template", None)
    equal, refused, bad = 0, 0, 0
    for what, changes, special_map, added in cases(*ids):
        config = {**original, **changes}
        config = {k: v for k, v in config.items() if v is not ...}
        with tempfile.TemporaryDirectory() as directory:
            shutil.copy(os.path.join(DATA, "tokenizers", vocabulary), os.path.join(directory, name))
            put(directory, "tokenizer_config.json", config)
            put(directory, "special_tokens_map.json", special_map)
            put(directory, "added_tokens.json", added)
            got = ours(directory)
            try:
                library = AutoTokenizer.from_pretrained(directory)
            except Exception as e:  # a class that cannot be made of these files
                if isinstance(got, str):
                    continue
                raise ValueError(what) from e
            want = [library(t)["input_ids"] for t in TEXTS]
        if name == "tokenizer.model" and changes.get("legacy"):
            continue  # SentencePiece's own reading, where transformers 5 puts no space before a space
        equal += want == got
        refused += isinstance(got, str)
        if want != got and not isinstance(got, str):
            bad += 1
            first = next(i for i in range(len(TEXTS)) if want[i] != got[i])
            print("    %s: %r\n      transformers %r\n      here         %r" % (
                what, TEXTS[first], want[first], got[first]))
    print("  fields beside %-14s %3d with equal ids, %d refused, %d differences" % (
        base, equal, refused, bad), flush=True)
    return bad


def main():
    bad = sum(check(base) for base in sys.argv[1:] or BASES)
    print("%d differences" % bad)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
