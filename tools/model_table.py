#!/usr/bin/env python3
"""model_table.py - published models x what must work with each: one command and one figure a cell.

    python tools/model_table.py cell MODEL COLUMN [--layers N]     computes one cell
    python tools/model_table.py [MODEL ...] [-o docs/models.md]    all cells, as Markdown
    python tools/model_table.py --list                             models and columns

The models are those of make_model.py, cut to N layers (default 2): everything but the number of
layers is that of the model on the hub, the weights are random. The other side is transformers, PEFT
and TRL in float32, by the cases of parity.py and with their tolerances; a cell that is beyond one
says FAIL. With --kept only cells that were computed before are shown, others as "not run". Every cell
runs in a process of its own, so that memory is given back: up to 14 GB for the 8B shapes. Cells that were
computed are kept in build/models/ until the program or the model changes.
"""
import argparse
import datetime
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile

import make_model
import parity
from parity import ROOT

TEXTS, CONVERSATIONS, PAIRS = 1000, 20, 2
LORA = {"r": 8, "lora_alpha": 16}
# The whole file in each step: KTO needs both labels. At this rate a weight whose gradient is rounding
# alone, which AdamW moves by the whole rate, stays within the tolerance.
TRAINING = {"steps": 2, "accumulate": 1, "warmup": 0, "lr": 5e-6}


class Shapes(parity.Bench):
    """parity's bench, whose models are the published ones."""

    def __init__(self, program, layers, work):
        super().__init__(program, "2", make_model.tiny_models.data_directory(), work,
                         os.path.join(work, "oracle"))
        self.layers = layers

    def model(self, name):
        return make_model.make(name, os.path.join(self.work, "models"), self.layers, data=self.data)


# ---- cells: each a function of (bench, model, worst) that returns its text ------------------------


def configuration(bench, model, worst):
    """align inspect: read, and its sizes are those of config.json."""
    folder = bench.model(model)
    told = json.loads(bench.align("inspect", folder, "--json"))
    config = make_model.read_json(os.path.join(folder, "config.json"))
    sizes = {"layers": "num_hidden_layers", "hidden": "hidden_size",
             "feed-forward": "intermediate_size", "vocabulary": "vocab_size",
             "query heads": "num_attention_heads", "key/value heads": "num_key_value_heads",
             "positions": "max_position_embeddings", "tied embeddings": "tie_word_embeddings"}
    for ours, theirs in sizes.items():
        worst.equal(ours, told[ours], config[theirs])
    worst.equal("sliding window", told["sliding window"], config.get("sliding_window") or 0
                if config["model_type"] == "mistral" else 0)
    return config["model_type"]


def shards(bench, model, worst):
    """Files on the disk, and how many the whole model has."""
    folder = bench.model(model)
    here = sorted(f for f in os.listdir(folder) if f.endswith(".safetensors"))
    whole = make_model.configuration(model, bench.data)
    of = len(set(make_model.shards(model, whole).values()))
    bench.align("score", "-m", folder, "--data", bench.file("one", [{"prompt": "a", "completion":
                "b"}]), *bench.numbers())
    return f"{len(here)} of {of}" if len(here) < of else str(of)


def tokenizer(bench, model, worst):
    """Random texts, special tokens parsed: the ids of the tokenizers library."""
    from check_tokenizer import random_texts, run, spellings
    from tokenizers import Tokenizer
    folder = bench.model(model)
    library = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    library.no_truncation()
    library.no_padding()
    texts = random_texts(TEXTS, 5, spellings(library))
    with tempfile.TemporaryDirectory() as directory:
        got = run([bench.program, "tokenize", "-m", folder, "-q", "--parse-special"],
                  [{"text": t} for t in texts], directory)
    same = sum(e.ids == g["ids"] for e, g in zip(library.encode_batch(texts), got))
    worst.add("texts differ", len(texts) - same, 0)
    return f"{same}/{len(texts)}" + ("" if real_tokenizer(bench, model) else " made")


def real_tokenizer(bench, model):
    kind = make_model.TOKENIZERS.get(make_model.MODELS[model][2])
    return bool(kind) and os.path.exists(os.path.join(bench.data, kind[0]))


def conversations(count):
    """Plain ones, as every template should take them, and some that most refuse."""
    import check_template
    rng = random.Random(11)
    for _ in range(count):
        turns = [{"role": "user", "content": check_template.words(rng)}]
        if rng.random() < 0.5:
            turns.insert(0, {"role": "system", "content": check_template.words(rng)})
        for _ in range(rng.randint(0, 3)):
            turns += [{"role": "assistant", "content": check_template.words(rng)},
                      {"role": "user", "content": check_template.words(rng)}]
        yield {"messages": turns, "add_generation_prompt": rng.random() < 0.5}


def template(bench, model, worst):
    """Conversations: text of apply_chat_template, and ids of the tokenizers library on it."""
    import check_template
    from tokenizers import Tokenizer
    folder = bench.model(model)
    setup = make_model.read_json(os.path.join(folder, "tokenizer_config.json"))
    if not setup.get("chat_template"):
        return "none"
    library = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    library.no_truncation()
    special = {k: v["content"] if isinstance(v, dict) else v for k, v in setup.items()
               if k.endswith("_token") and v and not isinstance(v, bool)}
    same = refused = 0
    for row in conversations(CONVERSATIONS):
        wanted = check_template.jinja(setup["chat_template"], {**row, **special})
        done = subprocess.run([bench.program, "tokenize", "-m", folder, "--parse-special", "-q",
                               "--data", bench.file("conversation", [row]), "--date",
                               check_template.NOW.strftime("%Y-%m-%d")],
                              capture_output=True, text=True)
        if "error" in wanted:
            refused += done.returncode == 65
            worst.add("refused by one side only", done.returncode != 65, 0)
            continue
        got = json.loads(done.stdout or '{"text":null,"ids":null}')
        ids = library.encode(wanted["text"], add_special_tokens=False).ids
        same += got["text"] == wanted["text"] and got["ids"] == ids
    worst.add("conversations differ", CONVERSATIONS - same - refused, 0)
    return f"{same}/{CONVERSATIONS}" + (f", {refused} refused by both" if refused else "")


def rows(bench, model, method):
    """Pairs, or each of their answers with its label."""
    path = bench.rows(model, "dpo", count=PAIRS)
    if method == "dpo":
        return path
    return bench.file(f"kto-{model}", [{"prompt": r["prompt"], "completion": r[k],
                                        "label": k == "chosen"}
                                       for r in parity.read_jsonl(path)
                                       for k in ("chosen", "rejected")])


def logits(bench, model, worst):
    """align score --tokens: log-probs of all tokens against transformers."""
    parity.score_with(bench, worst, f"score {model}", bench.model(model), score_rows(bench, model))
    return figure(worst, "token log-prob")


def score_rows(bench, model):
    pairs = parity.read_jsonl(rows(bench, model, "dpo"))
    return bench.file(f"score-{model}", [{"prompt": r["prompt"], "completion": r["chosen"]}
                                         for r in pairs])


def step(method):
    def run(bench, model, worst):
        case = parity.train_case(
            method, model, rows=lambda b, m: (rows(b, m, method),) * 2, **TRAINING,
            loss="sigmoid" if method == "dpo" else "kto",
            batch=PAIRS if method == "dpo" else 2 * PAIRS, start_setup={**LORA, "b_width": -0.12 if method == "kto" else 0.05})
        case(bench, worst, f"{method} {model}")
        return f"{figure(worst, 'loss')}, {figure(worst, 'gradient')}"
    run.__doc__ = f"Two steps of {method} against TRL: loss, and gradients of the adapter."
    return run


def trained(bench, model, name):
    """An adapter that was trained here: its folder."""
    out = bench.out(f"{name} {model}")
    bench.align("dpo", "-m", bench.model(model), "--data", rows(bench, model, "dpo"), "-o", out,
                "--steps", 2, "--batch", 2, "--warmup", 0, "--lr", 1e-2, "--rank", 8, "--alpha", 16,
                *bench.numbers())
    return os.path.join(out, "adapter")


def merge(bench, model, worst):
    """align merge, then transformers on the merged directory against align score on it."""
    out = bench.out(f"merged {model}")
    bench.align("merge", "-m", bench.model(model), "--adapter", trained(bench, model, "to merge"),
                "-o", out)
    parity.score_with(bench, worst, f"score merged {model}", out, score_rows(bench, model))
    return figure(worst, "token log-prob")


def peft(bench, model, worst):
    """PEFT with an adapter trained here against align score with it."""
    parity.score_with(bench, worst, f"score adapter {model}", bench.model(model),
                      score_rows(bench, model), trained(bench, model, "for PEFT"))
    return figure(worst, "token log-prob")


COLUMNS = {"configuration": configuration, "shards": shards, "tokenizer": tokenizer,
           "template": template, "logits": logits, "dpo": step("dpo"), "kto": step("kto"),
           "merge": merge, "peft": peft}


def figure(worst, name):
    return f"{worst.figures[name][0]:.1e}"


# ---- running -------------------------------------------------------------------------------------


def compute(args):
    """One cell: its text, with what failed."""
    bench, worst = Shapes(args.align, args.layers, args.work), parity.Worst()
    try:
        text = COLUMNS[args.column](bench, args.model, worst)
    except (parity.Failure, parity.Skip) as e:
        text = f"{'FAIL' if isinstance(e, parity.Failure) else 'skip'}: {e}"
    if not worst.passed():
        text = f"FAIL: {worst.text()}"
    print(text)
    return text.startswith("FAIL")


def kept_path(args, model, column):
    with open(args.align, "rb") as f:
        program = hashlib.sha256(f.read()).hexdigest()
    key = json.dumps([program, model, column, args.layers, make_model.MODELS[model]])
    return os.path.join(args.work, "cells", hashlib.sha256(key.encode()).hexdigest()[:24])


def cell(args, model, column):
    """Text of a cell: kept, or of a process of its own."""
    path = kept_path(args, model, column)
    if os.path.exists(path):
        with open(path, encoding="utf-8") as f:
            return f.read()
    if args.kept:
        return "not run"
    command = [sys.executable, os.path.abspath(__file__), "cell", model, column, "--layers",
               str(args.layers), "--align", args.align, "--work", args.work]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = done.stdout.strip().split("\n")
    if done.returncode not in (0, 1) or not lines[-1]:
        return f"FAIL: {done.stderr.strip()[-200:]}"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as f:
        f.write(lines[-1])
    return lines[-1]


HEAD = """# Models

Made by `python tools/model_table.py` on {date}, with transformers 5.23.0, PEFT 0.21.2,
TRL 1.16.0 and torch 2.13.0 in float32. Each model has the configuration, tensor names and shapes,
shards, tokenizer and chat template that it has on the hub, {layers} of its layers and random weights
(`tools/make_model.py`); where its configuration or tokenizer is not at hand as a file, the first
column says `told`, the third `made`. `not run` is what it says: the command computes it.

| column | what is compared | command |
|---|---|---|
"""
TELLS = {"configuration": "its family, as `align inspect` reads it",
         "shards": "files that are there, of those of the whole model",
         "tokenizer": f"{TEXTS} random texts: ids of the `tokenizers` library",
         "template": f"{CONVERSATIONS} conversations: text and ids of `apply_chat_template`",
         "logits": "largest difference of a token's log-prob from transformers'",
         "dpo": "two steps: largest difference of the loss and of a gradient from TRL's",
         "kto": "the same of KTO",
         "merge": "`align merge`, then transformers on the merged directory, as in logits",
         "peft": "PEFT with the adapter that was trained here, as in logits"}


def write_table(args, names):
    head = HEAD.format(layers=args.layers, date=datetime.date.today().isoformat())
    for column, tells in TELLS.items():
        head += f"| {column} | {tells} | `python tools/model_table.py cell MODEL {column}` |\n"
    lines = [head, "| model | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    failed = run = 0
    for name in names:
        texts = [cell(args, name, c) for c in COLUMNS]
        if texts[0] != "not run" and isinstance(make_model.MODELS[name][0], dict):
            texts[0] += ", told"
        failed += sum(t.startswith("FAIL") for t in texts)
        lines.append(f"| {name} | " + " | ".join(t.replace("|", "/") for t in texts) + " |")
        print(lines[-1], flush=True)
        text = "\n".join(lines) + "\n"
        if args.output:
            with open(args.output, "w", encoding="utf-8") as f:
                f.write(text)
        run += sum(t != "not run" for t in texts)
    print(f"{run - failed} passed, {failed} failed")
    return failed > 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="MODEL")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("-o", "--output")
    parser.add_argument("--kept", action="store_true")
    parser.add_argument("--align", default=os.path.join(ROOT, "align"))
    parser.add_argument("--work", default=os.path.join(ROOT, "build", "models"))
    args = parser.parse_args()
    if args.list:
        print("models: " + ", ".join(make_model.MODELS) + "\ncolumns: " + ", ".join(COLUMNS))
        return 0
    os.makedirs(args.work, exist_ok=True)
    if args.names[:1] == ["cell"]:
        if len(args.names) != 3 or args.names[2] not in COLUMNS or \
                args.names[1] not in make_model.MODELS:
            parser.error("cell MODEL COLUMN; --list names them")
        args.model, args.column = args.names[1:]
        return compute(args)
    unknown = [n for n in args.names if n not in make_model.MODELS]
    if unknown:
        parser.error(f"no such model: {unknown[0]}; --list names them")
    return write_table(args, args.names or list(make_model.MODELS))


if __name__ == "__main__":
    sys.exit(main())
