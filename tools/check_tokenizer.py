#!/usr/bin/env python3
"""Compares the tokenizer with the `tokenizers` library on random texts; must print 0 differences.

    make build/tools/tokenize
    python3 tools/check_tokenizer.py [--count N] [--seed S] [--align PATH] [DIR ...]

DIR holds a tokenizer.json; without one, the small tokenizers of golden_tokenizer.py and all of
ALIGN_DATA (default ../shared/data) are checked, together with the published test vectors there, the
files beside a vocabulary (check_fields.py), and a tokenizer.model with the sentencepiece library. For each: N random texts (default 100000; a tenth
for the small ones) encoded with and without parsing of special tokens, and the ids of the first half
of them, and random ids, decoded with and without skipping special tokens (decoding is also streamed,
by the C tool; a tokenizer.model is encoded only). --align PATH encodes with
`PATH tokenize` instead of the tool.
"""
import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile

from tokenizers import Tokenizer

import check_fields
from golden_tokenizer import behaviors, expressions, variants

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
DATA = os.environ.get("ALIGN_DATA", os.path.join(ROOT, "..", "shared", "data"))
TOOL = os.path.join(ROOT, "build", "tools", "tokenize")

# Real files, where they have a name of their own: (name, tokenizer.json).
KNOWN = [("llama3", "tokenizers/llama3/tokenizer.json"),
         ("tinyllama", "tokenizers/tinyllama/tokenizer.json"),
         ("mistral-v0.1", "tokenizers/mistral/tokenizer.json.v0.1"),
         ("mistral-v0.3", "tokenizers/mistral/tokenizer.json.v0.3"),
         ("tinystories-656k", "weights/tinystories-656k/tokenizer.json")]

WORDS = ("the of and to in is you that it he was for on are with as his they be at one have this "
         "from or had by hot word but what some we can out other were all there when up use your "
         "how said an each she which do their time if will way about many then them write would "
         "Internationalization antidisestablishmentarianism "
         "naïve façade Straße ÉCOLE ǅungla").split()
CODE = ["for (int i = 0; i < n; i++) {\n\t", "def f(x):\n    return x**2\n", "a != b && c >= d;",
        "\\frac{1}{2}", "https://example.org/a?b=c&d=%20", "<div class=\"x\">", "0x1F_ffL",
        "// --- //",
        "SELECT * FROM t WHERE a='b';", "$HOME/bin:/usr/bin", "{\"key\": [1, 2.5e-3, null]}"]
CONTRACTIONS = ["'s", "'S", "'t", "'T", "'re", "'RE", "'rE", "'ve", "'VE", "'m", "'ll", "'LL",
                "'lL", "'d", "'D", "'\u017f", "'\u017fs", "\u2019s", "''", "'x", "'", "'l", "'v"]
SPACES = [" ", "  ", "   ", "\t", "\n", "\r\n", "\r", "\n\n", " \n", "\n ", "\u00a0", "\u3000",
          "\u2028", "\u0085", "\u200b", "\ufeff", "\u2009", "\x0b", "\x0c", "\x1c", "        ",
          "\u2581", "\u2581\u2581"]
EMOJI = ["👨‍👩‍👧‍👦", "👍🏽", "🇩🇪", "❤️", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "☃", "1️⃣", "🤷🏾‍♀️", "😀"]
MARKS = ["e\u0301", "a\u0308\u0323", "\u0301",
         "ä", "क्षि", "ก็", "שָׁלוֹם", "\u0e33", "n\u0303o", "각", "Z̷͎͒a"]
PUNCTUATION = list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") + ["...", "--", "—", "“", "”", "¿", "!!!",
                                                             "\u00ad"]
RANGES = [(0x4e00, 0x9fff), (0x3040, 0x30ff), (0xac00, 0xd7a3), (0x400, 0x4ff), (0x600, 0x6ff),
          (0x900, 0x97f), (0xe00, 0xe7f), (0x10a0, 0x10ff), (0x370, 0x3ff), (0xc0, 0x24f),
          (0x1c4, 0x1cc), (0x2150, 0x218f), (0x660, 0x669), (0x1d400, 0x1d7ff), (0x1f300, 0x1f6ff),
          (0x24b6, 0x24e9), (0, 0x1f), (0x80, 0xff), (0xe000, 0xe0ff), (0xfff0, 0xffff),
          (0x10000, 0x10ffff)]


def random_char(rng):
    """Any code point but surrogates, one in three times from anywhere at all."""
    low, high = rng.choice(RANGES) if rng.random() < 0.67 else (0, 0x10ffff)
    while True:
        cp = rng.randint(low, high)
        if not 0xd800 <= cp <= 0xdfff:
            return chr(cp)


def fragment(rng, special):
    kind = rng.randrange(15)
    if kind < 4:
        word = rng.choice(WORDS)
        return rng.choice([word, word.upper(), word.capitalize(), " " + word, " " + word])
    if kind == 4:
        return rng.choice(SPACES)
    if kind == 5:
        return rng.choice(SPACES) * rng.randint(1, 9)
    if kind == 6:
        return str(rng.randrange(10 ** rng.randint(1, 12)))
    if kind == 7:
        return rng.choice(CONTRACTIONS)
    if kind == 8:
        return rng.choice(EMOJI)
    if kind == 9:
        return rng.choice(MARKS)
    if kind == 10:
        return "".join(rng.choice(PUNCTUATION) for _ in range(rng.randint(1, 5)))
    if kind == 11:
        return rng.choice(CODE)
    if kind == 12:
        text = rng.choice(special)
        cut = rng.randint(1, len(text)) if rng.random() < 0.3 else len(text)
        return rng.choice(["", "", " "]) + text[:cut]
    return "".join(random_char(rng) for _ in range(rng.randint(1, 6)))


def random_texts(count, seed, special):
    rng = random.Random(seed)
    texts = ["", " ", "  ", "   ", "\n", "a", "\u2581", " a", "\u2581a", "a ", "\0", "a\0b"]
    while len(texts) < count:
        texts.append("".join(fragment(rng, special) for _ in range(rng.randint(1, 12))))
    return texts


def run(command, rows, directory):
    """Rows through a command with --data and -o; the rows that come out."""
    source, result = os.path.join(directory, "in.jsonl"), os.path.join(directory, "out.jsonl")
    with open(source, "w", encoding="utf-8") as f:
        for row in rows:
            f.write(json.dumps(row, ensure_ascii=False) + "\n")
    subprocess.run(command + ["--data", source, "-o", result], check=True)
    with open(result, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def report(what, inputs, want, got):
    """Prints the number of differences and the first few."""
    assert len(want) == len(got), (len(want), len(got))
    bad = [i for i in range(len(want)) if want[i] != got[i]]
    print("  %-44s %7d compared, %d differences" % (what, len(want), len(bad)), flush=True)
    for i in bad[:5]:
        print("    row %d %r\n      library %r\n      here    %r" % (i, inputs[i], want[i], got[i]))
    return len(bad)


def random_ids(count, seed, size):
    rng = random.Random(seed + 1)
    rows = []
    for _ in range(count):
        low = rng.choice([0, 0, 0, max(0, size - 300)])
        high = rng.choice([size, size, min(size, 300)])
        rows.append([rng.randrange(min(low, high - 1), high) for _ in range(rng.randint(0, 12))])
    return rows


def without_normalizer(text):
    """The library for decoding, which needs no normalizer. With one, versions from 0.22 on spell an
    added token that is "normalized": true in its normalized form, and then do not find it among
    the special tokens to skip. transformers drops the normalizer of Llama tokenizers, so its texts
    are free of that; so are ours."""
    spec = json.loads(text)
    spec["normalizer"] = None
    return Tokenizer.from_str(json.dumps(spec))


def spellings(library):
    """Special tokens and the like, to be mixed into the texts."""
    special = sorted(t.content for t in library.get_added_tokens_decoder().values())
    return special[:40] + special[-10:] + ["<s>", "</s>", "<|eot_id|>", "[INST]", "<0x41>", "<unk>"]


def check_encoding(library, model, texts, args, directory):
    """Ids of texts, all four ways; returns the number of differences and the ids."""
    rows, bad = [{"text": t} for t in texts], 0
    command = ([args.align, "tokenize"] if args.align else [TOOL]) + ["-m", model]
    for parse in (False, True):
        library.encode_special_tokens = not parse
        flags = ["--parse-special"] if parse else []
        want = [e.ids for e in library.encode_batch(texts)]
        got = [r["ids"] for r in run(command + flags, rows, directory)]
        bad += report("encode, special tokens %s" % ("parsed" if parse else "as text"), texts, want,
                      got)
        plain = [e.ids for e in library.encode_batch(texts[:1000], add_special_tokens=False)]
        got = [r["ids"] for r in run(command + ["--no-special"] + flags, rows[:1000], directory)]
        bad += report("encode, nothing added", texts, plain, got)
    return bad, want


def check_decoding(reader, model, ids, directory):
    bad = 0
    for skip in (True, False):
        want = reader.decode_batch(ids, skip_special_tokens=skip)
        flags = ["--decode"] + (["--skip-special"] if skip else [])
        got = [r["text"] for r in run([TOOL, "-m", model] + flags, [{"ids": i} for i in ids],
                                      directory)]
        bad += report("decode, special tokens %s" % ("skipped" if skip else "kept"), ids, want, got)
    return bad


def check(name, text, count, args):
    """One tokenizer.json, given as text; the number of differences."""
    print(name)
    library = Tokenizer.from_str(text)
    library.no_truncation()
    library.no_padding()
    texts = random_texts(count, args.seed, spellings(library))
    with tempfile.TemporaryDirectory() as directory:
        with open(os.path.join(directory, "tokenizer.json"), "w", encoding="utf-8") as f:
            f.write(text)
        bad, ids = check_encoding(library, directory, texts, args, directory)
        ids = ids[:count // 2] + random_ids(count // 2, args.seed, library.get_vocab_size())
        return bad + check_decoding(without_normalizer(text), directory, ids, directory)


def check_model(path, args):
    """A SentencePiece tokenizer.model, against its own library: texts only, for that library has
    no special tokens in texts, and no ends."""
    import sentencepiece
    print(path)
    library = sentencepiece.SentencePieceProcessor(model_file=path)
    texts = random_texts(args.count, args.seed, ["<s>", "</s>", "<unk>", "[INST]", "<0x41>"])
    command = ([args.align, "tokenize"] if args.align else [TOOL]) + ["--no-special"]
    with tempfile.TemporaryDirectory() as directory:
        shutil.copy(path, os.path.join(directory, "tokenizer.model"))
        got = run(command + ["-m", directory], [{"text": t} for t in texts], directory)
    return report("encode", texts, library.encode(texts), [r["ids"] for r in got])


# ---- published vectors ---------------------------------------------------------------------------

def llama_cpp_vectors(path):
    """Texts and ids of one of llama.cpp's vocabulary tests; nothing is added, nothing parsed."""
    base = os.path.join(DATA, "vectors/llama.cpp", path)
    with open(base + ".inp", encoding="utf-8", newline="") as f:
        texts = f.read().split("\n__ggml_vocab_test__\n")
    with open(base + ".out", encoding="utf-8") as f:
        ids = [[int(n) for n in line.split()] for line in f.read().split("\n")]
    return texts, ids[:len(texts)]


def mistral_vectors(version):
    """Rendered conversations of mistral-common and their ids. Its texts are pieces put
    together: spaces are U+2581 there, line breaks <0x0A>."""
    base, texts, ids = os.path.join(DATA, "vectors/mistral-common/samples"), [], []
    for sample in sorted(os.listdir(base)):
        text = os.path.join(base, sample, "text_v%d.txt" % version)
        if os.path.exists(text):
            with open(text, encoding="utf-8", newline="") as f:
                texts.append(f.read().replace("\u2581", " ").replace("<0x0A>", "\n"))
            with open(os.path.join(base, sample, "tokens_v%d.json" % version)) as f:
                ids.append(json.load(f)["tokens"])
    return texts, ids


def check_vectors(args):
    print("published vectors")
    known, bad = dict(KNOWN), 0
    encode = [args.align, "tokenize"] if args.align else [TOOL]
    sets = [("llama.cpp, byte-level", "llama3", llama_cpp_vectors("ggml-vocab-llama-bpe.gguf"), []),
            ("llama.cpp, SentencePiece", "tinyllama",
             llama_cpp_vectors("ggml-vocab-llama-spm.gguf"), []),
            ("mistral-common v1", "mistral-v0.1", mistral_vectors(1), ["--parse-special"]),
            ("mistral-common v2", "mistral-v0.3", mistral_vectors(2), ["--parse-special"]),
            ("mistral-common v3", "mistral-v0.3", mistral_vectors(3), ["--parse-special"])]
    for name, label, (texts, ids), flags in sets:
        with tempfile.TemporaryDirectory() as directory:
            shutil.copy(os.path.join(DATA, known[label]), os.path.join(directory, "tokenizer.json"))
            got = run(encode + ["-m", directory, "--no-special"] + flags,
                      [{"text": t} for t in texts], directory)
            bad += report(name, texts, ids, [r["ids"] for r in got])
    return bad


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("dirs", nargs="*")
    parser.add_argument("--count", type=int, default=100000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--align")
    args = parser.parse_args()
    bad = 0
    for directory in args.dirs:
        with open(os.path.join(directory, "tokenizer.json"), encoding="utf-8") as f:
            bad += check(directory, f.read(), args.count, args)
    if not args.dirs:
        for name, small in variants() + expressions() + behaviors():
            bad += check("small: " + name, small.to_str(), args.count // 10, args)
    if not args.dirs and os.path.isdir(DATA):
        bad += check_vectors(args)
        if not args.align:
            bad += sum(check_fields.check(base) for base in check_fields.BASES)
        bad += check_model(os.path.join(DATA, "tokenizers/llama2/tokenizer.model"), args)
        for name, path in KNOWN:
            with open(os.path.join(DATA, path), encoding="utf-8") as f:
                bad += check(name, f.read(), args.count, args)
    elif not args.dirs:
        print("check_tokenizer.py: no %s (set ALIGN_DATA): real files are skipped" % DATA)
    print("%d differences" % bad)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
