#!/usr/bin/env python3
"""Writes tests/golden/tokenizers.json: small tokenizers of every kind, with the library's ids.

    python3 tools/golden_tokenizer.py            writes the file anew
    python3 tools/golden_tokenizer.py --check    makes it again and compares

The tokenizers are trained by the `tokenizers` library on the text below; between them they use each
step that tokenizer_load.c accepts. tools/check_tokenizer.py compares them on random texts, too.
"""
import json
import os
import sys

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers,
                        processors, trainers)

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "golden",
                      "tokenizers.json")
TEXT = """The preference model compares two answers. The better answer is chosen, the worse one
is rejected, and the policy learns to prefer the first to the second. He said: "Don't stop! It's
1234567 steps, or 3.14 times 2,000." They're here; I'd say we'll see, he's sure, I'm not, you've won.
for (i = 0; i < n; i++) { x[i] += y[i] * 2; } return x; Ein Käfer läuft über die Straße. Où est
l'école? Не стоит. 你好，世界。 こんにちは。 The theory there, other than that, then thanks them. In,
in, in.""" * 3

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace("{1,3}", "")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
          r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
          r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")

# The texts: the tricky cases of pre-tokenizers and byte fallback, in a few characters each.
TEXTS = [
    "", " ", "  ", "   ", "\n", "\n\n\n", " \n \n x", "a\r\nb\r\n", "\t\tx", "  x", "x  ", "x ",
    "Hello world", " Hello world", "  Hello  world", "the answer", "The theory of the other",
    "'S", "'s", "'\u017f", "don't", "DON'T", "'ll'", "we'll see", "they'RE", "x'", "''s", "1234567",
    "3.14", "\u00bd\u00b2\u216b\u0663", "a\u00a0b", "\u3000x", "x\u0085y", "a\u2028b", "\u200bx",
    "\ufeffx", "e\u0301x", "\u0301", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\u2603\ufe0f",
    "你好世界", "こんにちは", "ภาษาไทย", "한국어", "\u01c5ungla", "Straße ÄÖ", "\u2581", "\u2581x",
    " \u2581x", "x\u2581\u2581y", "<s>", "</s>x", "x</s>", "a <s> b", "<|end|>", "x<|end|> y",
    " <|end|>  x", "<0x41>", "\0", "a\0b", "x[MASK]y", " [MASK] ", "x [MASK]", "[MASK][MASK]",
    "wordx", "word x", "xword", "x word.", "word", "WORD", "for (i = 0; i < n; i++) { x[i]; }\n",
    "https://a.b/c?d=e", "!!!\n\n", "?!\r\n\r\nx", "a/b/c", "HTMLParser", "iPhone", "aB1cD23",
    "\u24d0", "12 345", "x\x1cy", "it's 99% sure", "\U0001F600 ok", "\U000e0067",
    "the\nthe\n the", "\x04", "x\x04y", "a\x00\x01\x04\x05 b", "\x7f\x04the\x04\x04 the \x04",
]

# For a tokenizer that composes (NFC): marks in and out of order, blocked ones, Hangul, characters that
# stay apart, singletons.
COMPOSED = ["a\u0323\u0301", "a\u0301\u0323", "e\u0301\u0301", "a\u0301b\u0300", "\u0300a",
            "\u1112\u1161\u11ab\u1100\u1161", "\uac00\u11a8", "\u0344", "\u212b", "\u0958",
            "\u1e0b\u0323", "\ufb1d x", "d\u0307\u0323 \U0001d15e", "caf\u0065\u0301",
            "a\u0305\u0301", "\uac01\u11a8"]


def byte_level(pattern, ignore_merges=False):
    """Byte-level BPE behind one of the regular expressions."""
    t = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    return t


def sentencepiece(pre_tokenizer, decoder, fuse_unk=True):
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=fuse_unk, byte_fallback=True))
    t.pre_tokenizer = pre_tokenizer
    t.decoder = decoder
    return t


def llama_decoder():
    return decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(),
                              decoders.Fuse(), decoders.Strip(" ", 1, 0)])


def train(t, specials, size, alphabet=None):
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=specials, show_progress=False,
                                  initial_alphabet=alphabet or [])
    t.train_from_iterator([TEXT], trainer)
    return t


def bos(t, token):
    t.post_processor = processors.TemplateProcessing(
        single=token + " $A", pair=None, special_tokens=[(token, t.token_to_id(token))])


def all_bytes():
    return ["<0x%02X>" % b for b in range(256)]


def without_bytes_as_added(t, keep):
    """Bytes are trained as special tokens to get their ids; they are none."""
    spec = json.loads(t.to_str())
    spec["added_tokens"] = [a for a in spec["added_tokens"] if a["content"] in keep]
    return Tokenizer.from_str(json.dumps(spec))


# Expressions that are not known by their text, each a list of Splits one after another; as published
# (o200k: GPT-4o's) or of the same kind.
EXPRESSIONS = {
    "line by line, words, punctuation, han": [
        r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\ud7ff]+"],
    "ranges": [r"\s?[A-Za-zµÀ-ÖØ-öø-ƺ]+", r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$"],
    "o200k": [
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
        r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"],
    "not these": [r" ?[^(\s|.,!?…。，、।۔،)]+"],
    "three digits, symbols": [
        r"\p{N}{1,3}", r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?"
        r"[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"],
    "pairs of digits": [r"[0-9][0-9](?=\D)|\d\w?", r"\S+"],
}


def cut_by(splits):
    """A tokenizer whose merges know no words, so that every cut shows in the ids."""
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = bytes_only
    t.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=1500, special_tokens=["<s>", "</s>"],
                                  show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    t.train_from_iterator(TEXTS + TEXT.split("\n"), trainer)
    t.pre_tokenizer = pre_tokenizers.Sequence(splits + [bytes_only])
    return t


def expressions():
    """(name, tokenizer) for each expression."""
    return [("expressions, " + name,
             cut_by([pre_tokenizers.Split(Regex(r), "isolated") for r in regexes]))
            for name, regexes in EXPRESSIONS.items()]


def behaviors():
    """(name, tokenizer): what becomes of matches, of expressions and of texts."""
    patterns = {"letters": Regex(r"\p{L}+"), "white": Regex(r"\s|\d"), "space": " ", "dots": ".)",
                "llama3": Regex(LLAMA3)}
    return [(f"behaviors, {name} {behavior}{' inverted' if invert else ''}",
             cut_by([pre_tokenizers.Split(pattern, behavior, invert=invert)]))
            for name, pattern in patterns.items() for invert in (False, True)
            for behavior in ("isolated", "removed", "merged_with_previous", "merged_with_next",
                             "contiguous")]


def variants():
    """(name, tokenizer) for each."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    out = []

    t = train(byte_level(LLAMA3, True), ["<s>", "</s>"], 420, alphabet)
    t.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])])
    t.add_special_tokens(["<|end|>"])
    out.append(("llama3", t))

    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)
    t.decoder = decoders.ByteLevel()
    train(t, ["<s>", "</s>"], 400, alphabet)
    t.add_tokens([AddedToken("[MASK]", lstrip=True), AddedToken("word", single_word=True),
                  AddedToken("x[", rstrip=True), AddedToken("  ")])
    t.add_special_tokens([AddedToken("<|end|>", rstrip=True, lstrip=True)])
    out.append(("gpt2", t))

    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    t.decoder = decoders.ByteLevel()
    out.append(("digits", train(t, ["<s>", "</s>"], 400, alphabet)))

    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    out.append(("digit runs", train(t, ["<s>", "</s>"], 400, alphabet)))

    out.append(("qwen2", train(byte_level(QWEN2), ["<s>", "</s>"], 400, alphabet)))
    out.append(("tekken", train(byte_level(TEKKEN), ["<s>", "</s>"], 400, alphabet)))

    # Byte-level without the letters of bytes that the training text does not have: dropped, or the
    # unknown token, one for each or one for a run of them, or two bytes for each letter.
    out.append(("few letters", train(byte_level(LLAMA3), ["<s>", "</s>"], 300)))
    for name, fuse, few in (("few letters, unk", False, []), ("few letters, fused", True, []),
                            ("few letters, bytes", True, ["<0xC4>", "<0x80>", "<0x81>"])):
        t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=fuse, byte_fallback=bool(few)))
        t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        t.decoder = decoders.ByteLevel()
        train(t, ["<unk>", "<s>"] + few, 260)
        out.append((name, without_bytes_as_added(t, ["<unk>", "<s>"])))

    legacy = normalizers.Sequence([normalizers.Prepend("\u2581"),
                                   normalizers.Replace(" ", "\u2581")])
    t = sentencepiece(None, llama_decoder())
    t.normalizer = legacy
    train(t, ["<unk>", "<s>", "</s>"] + all_bytes(), 600)
    t = without_bytes_as_added(t, ["<unk>", "<s>", "</s>"])
    bos(t, "<s>")
    out.append(("legacy", t))

    t = sentencepiece(None, llama_decoder(), fuse_unk=False)
    t.normalizer = legacy
    train(t, ["<unk>", "<s>", "</s>", "<0xC3>", "<0xA9>", "<0x0A>", "<0x01>"], 360)
    t = without_bytes_as_added(t, ["<unk>", "<s>", "</s>"])
    t.add_special_tokens([AddedToken("<|end|>", normalized=True)])
    t.add_tokens([AddedToken("word", normalized=True), AddedToken("[MASK]", normalized=False)])
    out.append(("few bytes", t))

    t = train(byte_level(QWEN2), ["<|end|>"], 400, alphabet)
    t.normalizer = normalizers.NFC()
    out.append(("composed", t))

    space = pre_tokenizers.Metaspace
    t = sentencepiece(space(prepend_scheme="first", split=False), llama_decoder())
    train(t, ["<unk>", "<s>", "</s>"] + all_bytes(), 600)
    t = without_bytes_as_added(t, ["<unk>", "<s>", "</s>"])
    t.add_tokens([AddedToken("[MASK]", lstrip=True, rstrip=True)])
    bos(t, "<s>")
    out.append(("metaspace first", t))

    t = sentencepiece(space(prepend_scheme="always", split=True), decoders.Metaspace())
    out.append(("metaspace always", train(t, ["<unk>", "<s>", "</s>"], 360)))

    t = sentencepiece(space(prepend_scheme="never", split=True), None)
    out.append(("metaspace never", train(t, ["<unk>", "<s>", "</s>"], 360)))
    return out


def rows(t, more):
    """Each text with its ids (special tokens as text, and parsed) and what they decode to."""
    spec = json.loads(t.to_str())
    spec["normalizer"] = None  # see check_tokenizer.py: without_normalizer
    reader = Tokenizer.from_str(json.dumps(spec))
    out = []
    for text in TEXTS + more:
        row = {"text": text}
        for key, as_text in (("ids", True), ("parsed", False)):
            t.encode_special_tokens = as_text
            row[key] = t.encode(text).ids
        row["decoded"] = reader.decode(row["parsed"], skip_special_tokens=True)
        row["kept"] = reader.decode(row["parsed"], skip_special_tokens=False)
        out.append(row)
    return out


def content():
    cases = []
    for name, t in variants():
        cases.append({"name": name, "tokenizer": json.loads(t.to_str()), "rows": rows(t, COMPOSED if name == "composed" else [])})
    lines = []
    for case in cases:
        lines.append("{\"name\":%s,\"tokenizer\":%s,\"rows\":[\n%s]}" % (
            json.dumps(case["name"]), json.dumps(case["tokenizer"], separators=(",", ":")),
            ",\n".join(json.dumps(r, separators=(",", ":")) for r in case["rows"])))
    return "[" + ",\n".join(lines) + "]\n"


def main():
    text = content()
    if sys.argv[1:] == ["--check"]:
        with open(GOLDEN, encoding="utf-8") as f:
            if f.read() != text:
                sys.exit("golden_tokenizer.py: tests/golden/tokenizers.json is not what this makes")
        print("tests/golden/tokenizers.json: the same")
        return
    with open(GOLDEN, "w", encoding="utf-8") as f:
        f.write(text)


if __name__ == "__main__":
    main()
