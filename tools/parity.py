"""parity.py - `make parity`: the program against TRL, PEFT and transformers, number by number.

    python tools/parity.py [--quick] [--only TEXT] [--list] [--align PROGRAM] [--threads N]
                           [--jobs N]

Each case runs `align` and the oracle (tools/oracle.py, whose answers are cached in build/parity/)
on the same model, adapter and rows, and prints one line: every measure as "worst/tolerance". The
last line is "N passed, N failed" (", N skipped"). Cases with real weights or rows need the data
directory ($ALIGN_DATA, default ../shared/data) and are skipped without it; made models and made
rows always run.

Tolerances: per-token log-probs 1e-4; loss 1e-5 x max(1, |loss|); gradients max(1e-5 x max(1,
largest |g|), 1e-3 |g|); weights after ten AdamW steps 1e-5; grad_norm 1e-3, rewards 2e-4, logps
5e-3, kl 2e-3, relative beyond a magnitude of 10. What is counted or copied is equal exactly.
"""
import argparse
import contextlib
import io
import json
import math
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from types import SimpleNamespace

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import torch
from safetensors import safe_open
from safetensors.torch import load_file

import tiny_models
from oracle import Oracle
from tiny_models import ALL_LINEAR, ROOT

LOGP, LOSS, GRADIENT, WEIGHT = 1e-4, 1e-5, 1e-5, 1e-5
RELATIVE = 1e-3  # of the loss, and of the lengths of the whole gradient and the whole movement
METRICS = {  # name in metrics.jsonl -> tolerance; 0 = equal
    "loss": LOSS, "grad_norm": 1e-3, "learning_rate": 1e-12, "epoch": 1e-9, "num_tokens": 0,
    "rewards/chosen": 2e-4, "rewards/rejected": 2e-4, "rewards/margins": 2e-4,
    "rewards/accuracies": 1e-6, "logps/chosen": 5e-3, "logps/rejected": 5e-3, "kl": 2e-3}
PEFT_KEYS = 41  # adapter_config.json of PEFT 0.21.2


class Skip(Exception):
    """The case needs something that is not here."""


class Failure(Exception):
    """The case failed in a way that is no number."""


class Worst:
    """The worst figure of each measure of a case, with its tolerance."""

    def __init__(self):
        self.figures = {}

    def add(self, name, error, tolerance):
        """NaN counts as failed."""
        old = self.figures.get(name)
        bad = not error <= tolerance
        if old is None or bad or error > old[0]:
            if old is None or not (old[0] > old[1]) or error > old[0]:
                self.figures[name] = (error, tolerance)

    def equal(self, name, got, wanted):
        if got != wanted:
            raise Failure(f"{name}: {short(got)} where {short(wanted)} is expected")

    def passed(self):
        return all(error <= tolerance for error, tolerance in self.figures.values())

    def text(self):
        """The main figures in full; of the others the one nearest to, or beyond, its tolerance."""
        def show(n):
            error, tolerance = self.figures[n]
            return f"{n} {error:.1e}/{tolerance:.0e}" if tolerance else f"{n} {error:g}/equal"

        def share(n):
            return worst_share(self.figures[n])

        rest = [n for n in self.figures if n in METRICS and n != "loss"]
        bad = [n for n in rest if share(n) == math.inf]
        main = [show(n) for n in self.figures if n not in rest]
        if bad:
            main += [show(n) for n in bad]
        elif rest:
            main.append("metrics: " + show(max(rest, key=share)))
        return "  ".join(main)


def worst_share(figure):
    """How much of its tolerance an error uses up; beyond it, or NaN: infinity."""
    error, tolerance = figure[:2]
    return math.inf if not error <= tolerance else error / tolerance if tolerance else 0


def short(value):
    text = json.dumps(value)
    return text if len(text) <= 90 else text[:87] + "..."


class Bench:
    """What all cases share: the program, the oracle, models, adapters and rows."""

    def __init__(self, program, threads, data, work, answers):
        self.program, self.threads, self.data, self.work = program, threads, data, work
        self.oracle = Oracle(answers)
        self.align_seconds = 0.0

    # -- inputs --

    def model(self, name):
        """A directory of the data set, or a made model."""
        if name == "tinystories-656k":
            return self.real("weights/tinystories-656k")
        kind = "real" if os.path.isdir(self.data) else "made"
        with quiet():
            return tiny_models.make(name, os.path.join(self.work, "models", kind), self.data)[0]

    def real(self, path):
        full = os.path.join(self.data, path)
        if not os.path.exists(full):
            raise Skip(f"no {path} in the data directory")
        return full

    def adapter(self, model, name, b_width=0.05, dtype=torch.float32, **lora):
        """A step-0 adapter of PEFT's for the model, B not zero; made once."""
        base = os.path.basename(self.model(model))
        folder = os.path.join(self.work, "adapters", f"{base}-{name}")
        setup = {"r": 8, "lora_alpha": 16, "target_modules": ALL_LINEAR, **lora}
        with quiet():
            return tiny_models.make_adapter(self.model(model), folder, 3, b_width, dtype, **setup)

    def rows(self, model, method, count=None, seed=1):
        """A file of training rows for the model: real ones where there is data."""
        real = os.path.isdir(self.data)
        source, data_file = {
            ("dpo", True): ("rasbt", "datasets/rasbt/instruction-data-with-preference.json"),
            ("kto", True): ("xstest", "datasets/xstest"),
            ("dpo", False): ("made-pairs", None), ("kto", False): ("made-labels", None),
        }[method, real]
        answer = self.oracle({
            "kind": "select", "source": source, "model": self.model(model), "seed": seed,
            "data_file": data_file and self.real(data_file),
            "count": count or (18 if method == "dpo" else 19),
            "longest": 64 if method == "dpo" else 120})
        return answer.path("rows.jsonl")

    def file(self, name, rows):
        """Writes rows as JSONL below the work directory."""
        folder = os.path.join(self.work, "rows")
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, name + ".jsonl")
        with open(path, "w", encoding="utf-8") as f:
            f.writelines(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)
        return path

    # -- the program --

    def out(self, name):
        """A fresh output path."""
        path = os.path.join(self.work, "runs", name.replace(" ", "_").replace("/", "_"))
        shutil.rmtree(path, ignore_errors=True)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if os.path.exists(path):
            os.remove(path)
        return path

    def align(self, *arguments):
        """Runs the program; its stdout, or a Failure with the last line of its stderr."""
        command = [self.program, *map(str, arguments)]
        start = time.time()
        done = subprocess.run(command, capture_output=True, text=True, errors="replace",
                              stdin=subprocess.DEVNULL)
        self.align_seconds += time.time() - start
        if done.returncode:
            lines = done.stderr.strip().split("\n")
            raise Failure(f"exit {done.returncode}: {lines[-1]}  [{' '.join(command)}]")
        return done.stdout

    def numbers(self):
        """Options of every run that computes."""
        return ["--precision", "f32", "--threads", self.threads]


class quiet:
    """Hides what libraries print on stderr while they load."""

    def __enter__(self):
        sys.stderr.flush()
        self.kept = os.dup(2)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        os.close(null)

    def __exit__(self, *_):
        sys.stderr.flush()
        os.dup2(self.kept, 2)
        os.close(self.kept)


def read_jsonl(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f if line.strip()]


# ---- training ------------------------------------------------------------------------------------

DEFAULTS = {
    "loss": ["sigmoid"], "weights": None, "beta": 0.1, "label_smoothing": 0.0,
    "f_divergence": "reverse_kl", "f_alpha": 0.5, "ld_alpha": None, "wpo": False, "tau": 0.05,
    "desirable": 1.0, "undesirable": 1.0, "batch": 4, "accumulate": 2, "steps": 10, "lr": 5e-4,
    "schedule": "linear", "warmup": 2, "decay": 0.01, "clip": 0.3, "max_length": 256, "seed": 42}


def trl_arguments(method, s):
    """The settings in TRL's names."""
    schedule = s["schedule"]
    if schedule == "constant" and s["warmup"]:
        schedule = "constant_with_warmup"
    args = {"seed": s["seed"], "beta": s["beta"], "max_length": s["max_length"],
            "per_device_train_batch_size": s["batch"],
            "gradient_accumulation_steps": s["accumulate"], "max_steps": s["steps"],
            "learning_rate": s["lr"], "lr_scheduler_type": schedule, "warmup_steps": s["warmup"],
            "weight_decay": s["decay"], "max_grad_norm": s["clip"]}
    if method == "sft":
        del args["beta"]
        return args
    if method == "kto":
        args.update(loss_type=s["loss"][0], desirable_weight=s["desirable"],
                    undesirable_weight=s["undesirable"])
        return args
    args.update(loss_type=s["loss"], loss_weights=s["weights"], ld_alpha=s["ld_alpha"],
                label_smoothing=s["label_smoothing"], use_weighting=s["wpo"],
                f_divergence_type=s["f_divergence"], f_alpha_divergence_coef=s["f_alpha"],
                discopop_tau=s["tau"])
    if s["loss"] == ["cdpo"]:
        # TRL has no cDPO any more, but aot_unpaired of a single pair is exactly that loss. A batch
        # of n pairs is n batches of one: both take the mean.
        args.update(loss_type=["aot_unpaired"], per_device_train_batch_size=1,
                    gradient_accumulation_steps=s["batch"] * s["accumulate"])
    return args


def align_arguments(method, s):
    """The settings as options; what equals TRL's default is left out where it may be."""
    o = ["--order", "trl", "--batch", s["batch"], "--accumulate", s["accumulate"], "--steps", s["steps"],
         "--lr", s["lr"], "--schedule", s["schedule"], "--warmup", s["warmup"],
         "--weight-decay", s["decay"], "--max-grad-norm", s["clip"],
         "--max-length", s["max_length"], "--seed", s["seed"], "--save-every", 0]
    if method == "sft":
        return o
    o += ["--loss", ",".join(s["loss"]), "--beta", s["beta"]]
    if method == "kto":
        o += ["--kl-pairing", "trl", "--desirable-weight", s["desirable"],
              "--undesirable-weight", s["undesirable"]]
        return o
    if s["weights"]:
        o += ["--loss-weights", ",".join(map(str, s["weights"]))]
    if s["label_smoothing"]:
        o += ["--label-smoothing", s["label_smoothing"]]
    if s["f_divergence"] != "reverse_kl":
        o += ["--f-divergence", s["f_divergence"], "--f-alpha", s["f_alpha"]]
    if s["ld_alpha"] is not None:
        o += ["--ld-alpha", s["ld_alpha"]]
    if s["wpo"]:
        o += ["--wpo"]
    if s["tau"] != 0.05:
        o += ["--discopop-tau", s["tau"]]
    return o


def compare_metrics(worst, method, got, wanted, skip=()):
    """Every number of every step."""
    worst.equal("steps in metrics.jsonl", [r["step"] for r in got], [r["step"] for r in wanted])
    for g, w in zip(got, wanted):
        for key, tolerance in METRICS.items():
            if key in skip:
                continue
            if w.get(key) is None:  # no row of that class in this step
                if g.get(key) is not None and key.startswith(("rewards/", "logps/")) \
                        and not (method == "kto" and key == "rewards/accuracies"):
                    raise Failure(f"step {w['step']}: {key} is {g[key]}, TRL has none")
                continue
            if g.get(key) is None:
                raise Failure(f"step {w['step']}: no {key} in metrics.jsonl, TRL has {w[key]}")
            scale = max(1, abs(w[key])) if key == "loss" else max(1, abs(w[key]) / 10)
            if key == "loss":  # a small loss must not hide behind an absolute tolerance
                worst.add("of loss", abs(g[key] - w[key]) / abs(w[key]), RELATIVE)
            worst.add(key, abs(g[key] - w[key]) / scale, tolerance)


def compare_tensors(worst, name, got, wanted, tolerance, relative=None):
    """Names, shapes and values. For gradients `relative` adds 1e-3 |g| and scales with the largest;
    the figure is then relative to that allowance, in units of the tolerance."""
    worst.equal(f"tensors of {name}", sorted(got), sorted(wanted))
    squares = [0.0, 0.0]
    largest = max(w.abs().max().item() for w in wanted.values())
    if not largest > 0:
        raise Failure(f"{name}: all zero in the oracle, nothing is compared")
    for key, w in wanted.items():
        g = got[key]
        worst.equal(f"{name} {key}: dtype and shape", [str(g.dtype), *g.shape],
                    ["torch.float32", *w.shape])
        error = (g.double() - w.double()).abs()
        squares[0] += error.square().sum().item()
        squares[1] += w.double().square().sum().item()
        if relative is not None:
            allowed = torch.clamp(relative * w.abs().double(), min=tolerance * max(1, largest))
            error = error / allowed * tolerance
        worst.add(name, error.max().item() if not error.isnan().any() else math.nan, tolerance)
    if relative is not None:
        worst.add(f"of |{name}|", math.sqrt(squares[0] / squares[1]), RELATIVE)


def compare_evaluations(worst, got, wanted):
    """eval_ metrics at the steps where TRL evaluated."""
    rows = {r["step"]: r for r in got}
    for w in wanted:
        for key, value in w.items():
            tolerance = METRICS.get(key.removeprefix("eval_"))
            if not key.startswith("eval_") or not tolerance:
                continue
            if rows[w["step"]].get(key) is None:
                raise Failure(f"step {w['step']}: no {key} in metrics.jsonl, TRL has {value}")
            scale = max(1, abs(value)) if key == "eval_loss" else max(1, abs(value) / 10)
            worst.add(key, abs(rows[w["step"]][key] - value) / scale, tolerance)


def compare_weights(worst, got, wanted, initial, full):
    """The trained tensors, and how far they moved. AdamW divides by the gradient's own size, so a
    weight whose gradient is rounding noise may move either way: of all weights, only the movement
    as a whole can agree."""
    if full and "model.embed_tokens.weight" not in got:  # a tied head may be stored by that name
        got["model.embed_tokens.weight"] = got.pop("lm_head.weight")
    if not full:
        compare_tensors(worst, "weights", got, wanted, WEIGHT)
    worst.equal("tensors of the model", sorted(got), sorted(wanted))
    error = math.sqrt(sum((got[n] - w).double().square().sum().item() for n, w in wanted.items()))
    moved = math.sqrt(sum((w - initial[n]).double().square().sum().item()
                          for n, w in wanted.items()))
    worst.add("of |movement|", error / moved, RELATIVE)


def lora_arguments(lora):
    """LoraConfig fields as options."""
    targets = lora["target_modules"]
    return ["--rank", lora["r"], "--alpha", lora["lora_alpha"], "--targets",
            "all-linear" if targets == ALL_LINEAR else ",".join(targets)] + \
        (["--rslora"] if lora.get("use_rslora") else []) + \
        (["--dora"] if lora.get("use_dora") else [])


def train_case(method, model, reference="base", start="start", start_setup=None, lora=None,
               full=False, evaluate=False, rows=None, quick=False, **changes):
    """One training run of both sides. start: name of a step-0 adapter (b_width and LoraConfig
    fields in start_setup); or lora: LoraConfig fields, and the adapter comes from the seed; or
    full: all weights. rows(bench, model) gives the files for the program and for TRL."""
    s = {**DEFAULTS, **changes}
    if isinstance(s["loss"], str):
        s["loss"] = [s["loss"]]

    def run(bench, worst, name):
        folder, out = bench.model(model), bench.out(name)
        data, trl_data = rows(bench, model) if rows else (bench.rows(model, method),) * 2
        job = {"kind": "train", "method": method, "model": folder, "rows": trl_data,
               "args": trl_arguments(method, s)}
        command = [method, "-m", folder, "--data", data, "-o", out, "--dump-gradients",
                   out + ".gradients", *bench.numbers(), *align_arguments(method, s)]
        if full:
            command += ["--full"]
        elif lora is None:
            # A KTO run wants kl > 0: the sign of B decides the sign of the log-ratios.
            setup = {"b_width": -0.12 if method == "kto" else 0.05, **(start_setup or {})}
            adapter = bench.adapter(model, f"{start}-{method}", **setup)
            job.update(adapter=adapter, reference=reference or "init")
            command += ["--init-adapter", adapter]
            if reference and method != "sft":  # else the default, which is TRL's: the adapter as it is
                command += ["--reference", reference]
            if reference == "given":
                job["reference_adapter"] = bench.adapter(model, "reference", b_width=0.02)
                command[-1] = job["reference_adapter"]
        else:
            job.update(lora=lora)
            command += lora_arguments(lora)
        if evaluate:
            job["eval_rows"] = rows(bench, model)[0] if rows else \
                bench.rows(model, method, count=10, seed=2)
            job["args"].update(eval_strategy="steps", eval_steps=5,
                               per_device_eval_batch_size=s["batch"])
            command += ["--eval", job["eval_rows"], "--eval-every", 5]
        oracle = bench.oracle(job)
        bench.align(*command)
        metrics = read_jsonl(os.path.join(out, "metrics.jsonl"))
        # TRL's cDPO runs in batches of one, which count epochs in other steps.
        compare_metrics(worst, method, metrics, oracle["steps"],
                        skip=("epoch",) if s["loss"] == ["cdpo"] else ())
        compare_evaluations(worst, metrics, oracle["evaluations"])
        compare_tensors(worst, "gradient", load_file(out + ".gradients"),
                        oracle.tensors("gradients"), GRADIENT, relative=1e-3)
        compare_weights(worst, read_model(os.path.join(out, "model" if full else "adapter")),
                        oracle.tensors("final"), oracle.tensors("initial"), full)
    run.quick = quick
    return run


def seed_case(model, lora, seed, quick=False):
    """The adapter drawn from --seed is PEFT's own, bit for bit. One step of warm-up has learning
    rate 0, so the adapter after it is the adapter before it."""
    def run(bench, worst, name):
        folder, out = bench.model(model), bench.out(name)
        s = {**DEFAULTS, "loss": ["sigmoid"], "steps": 1, "warmup": 1, "seed": seed}
        data = bench.rows(model, "dpo")
        oracle = bench.oracle({"kind": "train", "method": "dpo", "model": folder, "rows": data,
                               "args": trl_arguments("dpo", s), "lora": lora})
        bench.align("dpo", "-m", folder, "--data", data, "-o", out, *lora_arguments(lora),
                    *bench.numbers(), *align_arguments("dpo", s))
        got = load_file(os.path.join(out, "adapter", "adapter_model.safetensors"))
        wanted = oracle.tensors("initial")
        worst.equal("tensors of the adapter", sorted(got), sorted(wanted))
        drawn = {n: w for n, w in wanted.items() if "magnitude" not in n}
        different = sum((got[n].view(torch.int32) != w.view(torch.int32)).sum().item()
                        for n, w in drawn.items())
        worst.add(f"of {sum(w.numel() for w in drawn.values())} values differ", different, 0)
        for n in set(wanted) - set(drawn):  # lengths of rows, by sums in another order
            worst.add("length of a row, relative", ((got[n] - wanted[n]) / wanted[n]).abs().max().item(),
                      2e-7)
        first = read_jsonl(os.path.join(out, "metrics.jsonl"))[0]
        worst.add("loss - ln 2", abs(first["loss"] - math.log(2)), 1e-7)
        worst.equal("rewards/margins at step 1", first["rewards/margins"], 0)
    run.quick = quick
    return run


def mean_and_error(values):
    """Mean, its standard error, and the variance."""
    mean = sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values)), variance


def dropout_case(model, dropout, seeds=200, quick=False, **setup):
    """--dropout draws other masks than PyTorch: means over many seeds must agree within 4 standard
    errors, for the loss and for each tensor's gradient along the one without dropout; so must the
    logarithm of the losses' variance, which knows the rate and what shares a mask."""
    def run(bench, worst, name):
        folder, (data, _) = bench.model(model), uneven_rows(bench, model)
        adapter = bench.adapter(model, f"dropout-{dropout}-{'-'.join(setup)}", b_width=0.2,
                                lora_dropout=dropout, **setup)
        oracle = bench.oracle({"kind": "dropout", "model": folder, "rows": data,
                               "adapter": adapter, "seeds": seeds})
        directions = oracle.tensors("directions")
        losses, along = [], {n: [] for n in directions}
        for seed in range(seeds):
            out = bench.out(name)
            bench.align("sft", "-m", folder, "--data", data, "-o", out, "--init-adapter", adapter,
                        "--batch", 9, "--steps", 1, "--dropout", dropout, "--seed", seed,
                        "--save-every", 0, "--dump-gradients", out + ".gradients",
                        *bench.numbers())
            losses.append(read_jsonl(os.path.join(out, "metrics.jsonl"))[0]["loss"])
            gradients = load_file(out + ".gradients")
            for n, direction in directions.items():
                along[n].append((gradients[n] * direction).sum().item())

        def compare(what, ours, theirs):
            (a, error_a, _), (b, error_b, _) = mean_and_error(ours), mean_and_error(theirs)
            worst.add(what, abs(a - b) / math.hypot(error_a, error_b), 4)

        compare("loss, standard errors", losses, oracle["losses"])
        for n, values in along.items():
            compare("gradient, standard errors", values, oracle["along"][n])
        ratio = mean_and_error(losses)[2] / mean_and_error(oracle["losses"])[2]
        worst.add("variance, standard errors",
                  abs(math.log(ratio)) / math.sqrt(4 / (seeds - 1)), 4)
        worst.equal("the loss moves", len(set(losses)) > seeds // 2, True)
    run.quick = quick
    return run


def implicit_rows(bench, model):
    """Pairs without a prompt: it is what chosen and rejected share."""
    table = read_jsonl(bench.rows(model, "dpo"))
    return (bench.file(f"implicit-{model}", [
        {"chosen": r["prompt"] + r["chosen"], "rejected": r["prompt"] + r["rejected"]}
        for r in table]),) * 2


def paired_rows(bench, model):
    """Pairs for KTO: first all chosen, then all rejected."""
    return (bench.rows(model, "dpo", count=7),) * 2


def one_left_rows(bench, model):
    """17 rows: the last block of four holds one, which is its own partner in TRL."""
    return (bench.rows(model, "kto", count=17),) * 2


def uneven_rows(bench, model):
    """Nine answers of 1 to 17 words: however a step is cut into micro-batches, a token weighs the
    same in TRL."""
    words = "the little dog ran to the big red house and saw a cat who was very happy".split()
    return (bench.file(f"uneven-{model}", [
        {"prompt": "Once upon a time", "completion": " " + " ".join((words[i:] + words)[:2 * i + 1])}
        for i in range(9)]),) * 2


def chat_rows(method):
    """Conversations of one and of three turns, with the date that the template is to write."""
    def rows(bench, model):
        if not os.path.isdir(bench.data):
            raise Skip("no chat templates without the data directory")
        table = []
        for i, r in enumerate(read_jsonl(bench.rows(model, method))):
            turns = [{"role": "user", "content": r["prompt"].strip()}]
            if i % 3 == 0:
                turns = [{"role": "user", "content": "Good morning."},
                         {"role": "assistant", "content": "Good morning! How can I help?"}] + turns
            row = {"prompt": turns}
            for key in ("chosen", "rejected", "completion"):
                if key in r:
                    row[key] = [{"role": "assistant", "content": r[key].strip()}]
            if "label" in r:
                row["label"] = r["label"]
            table.append(row)
        dated = [{**row, "chat_template_kwargs": {"date_string": "26 Jul 2024"}} for row in table]
        return (bench.file(f"chat-{method}-{model}-dated", dated),) * 2
    return rows


def messages_rows(bench, model):
    """Conversations with two answers, of which sft trains every turn by default."""
    if not os.path.isdir(bench.data):
        raise Skip("no chat templates without the data directory")
    table = [{"messages": [turn("user", r["prompt"].strip()), turn("assistant", r["chosen"].strip()),
                           turn("user", "Once more."), turn("assistant", r["rejected"].strip())]}
             for r in read_jsonl(bench.rows(model, "dpo"))[:9]]
    return (bench.file(f"messages-{model}", table),) * 2


def training_cases():
    """name -> case: the losses and options on TinyStories-656K, then the shapes of made models."""
    ts, cases = "tinystories-656k", {}
    smoothed = {"exo_pair": 1e-3, "cdpo": 0.1}
    # forward_kl's score is 1 - exp(-x): the rounding of TRL's float32 sums grows with it. A step-0
    # adapter nearer to the base keeps x, and so TRL's own noise, small enough for the tolerances.
    near = {"start": "near", "start_setup": {"b_width": 0.01}}
    losses = ["sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard",
              "aot", "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
              "cdpo"]
    for loss in losses:
        cases[f"dpo {loss}"] = train_case(
            "dpo", ts, loss=loss, label_smoothing=smoothed.get(loss, 0.0),
            quick=loss in ("sigmoid", "ipo", "aot", "cdpo"))
    for loss in ("exo_pair", "robust", "aot", "aot_unpaired"):
        cases[f"dpo {loss} smoothing 0.1"] = train_case("dpo", ts, loss=loss, label_smoothing=0.1)
    for loss in ("sigmoid", "hinge", "ipo", "exo_pair", "robust", "discopop", "sigmoid_norm"):
        for f in ("forward_kl", "js_divergence", "alpha_divergence"):
            cases[f"dpo {loss} {f}"] = train_case(
                "dpo", ts, loss=loss, f_divergence=f, quick=(loss, f) == ("ipo", "js_divergence"),
                label_smoothing=0.1 if loss in ("exo_pair", "robust") else 0.0, **near)
    options = {
        "alpha_divergence 2": {"f_divergence": "alpha_divergence", "f_alpha": 2.0, **near},
        "rpo": {"loss": ["sigmoid", "sft"], "weights": [1.0, 0.5]},
        "mpo": {"loss": ["sigmoid", "bco_pair", "sft"], "weights": [0.8, 0.2, 1.0], "quick": True},
        "two losses without weights": {"loss": ["hinge", "apo_zero"]},
        "ld-alpha 0.3": {"ld_alpha": 0.3, "quick": True},
        "ld-alpha 0 ipo": {"ld_alpha": 0.0, "loss": "ipo"},
        "wpo": {"wpo": True, "quick": True},
        "wpo ipo ld-alpha": {"wpo": True, "loss": "ipo", "ld_alpha": 0.5},
        "wpo apo_zero": {"wpo": True, "loss": "apo_zero"},
        "discopop tau 0.5": {"loss": "discopop", "tau": 0.5},
        "beta 0.3": {"beta": 0.3},  # at 0.7 TRL itself is 9.5e-6 from TRL in float64
        "reference init": {"reference": "init"},
        "reference of --init-adapter alone": {"reference": None, "quick": True},
        "rslora": {"start": "rslora", "start_setup": {"use_rslora": True}},
        "DoRA": {"start": "dora", "start_setup": {"use_dora": True}, "quick": True},
        "DoRA decay 0.5": {"start": "dora", "start_setup": {"use_dora": True}, "decay": 0.5,
                           "lr": 1e-3},
        "DoRA reference init": {"start": "dora", "start_setup": {"use_dora": True},
                                "reference": "init"},
        "query and value": {"start": "qv", "start_setup": {"target_modules": ["q_proj", "v_proj"]}},
        "batch 1 accumulate 1": {"batch": 1, "accumulate": 1},
        "batch 18": {"batch": 18, "accumulate": 1},
        "accumulate 5": {"batch": 2, "accumulate": 5},
        "cosine": {"schedule": "cosine", "warmup": 0.3},
        # AdamW's first step moves a weight by the whole rate whatever its gradient's size, even one
        # of pure rounding noise: without warm-up only a small rate keeps such weights together.
        "constant": {"schedule": "constant", "warmup": 0, "lr": 2e-5},
        "constant after warm-up": {"schedule": "constant", "warmup": 3},
        "no clipping": {"clip": 0},
        "clipped hard": {"clip": 0.01},
        "decay 0.5": {"decay": 0.5, "lr": 1e-3},
        "rows dropped and cut": {"max_length": 32, "quick": True},
        "seed 7": {"seed": 7},
        "implicit prompts": {"rows": implicit_rows},
        "reference another adapter": {"reference": "given"},
        "evaluation": {"evaluate": True, "quick": True},
        "evaluation ipo": {"evaluate": True, "loss": "ipo", "batch": 3},
        "all weights": {"full": True, "lr": 1e-4, "quick": True},
        "all weights ipo, decay": {"full": True, "lr": 1e-4, "loss": "ipo", "decay": 0.5},
    }
    for name, changes in options.items():
        cases[f"dpo {name}"] = train_case("dpo", ts, **changes)
    kto = {
        "kto": {"loss": "kto", "quick": True},
        "kto beta 0.5": {"loss": "kto", "beta": 0.5},
        "kto weights 1.33 and 1": {"loss": "kto", "desirable": 1.33},
        "kto weights 1 and 2.5": {"loss": "kto", "undesirable": 2.5},
        "kto reference init": {"loss": "kto", "reference": "init"},
        "kto reference of --init-adapter alone": {
            "loss": "kto", "reference": None, "quick": True},
        "kto last block of one": {"loss": "kto", "rows": one_left_rows},
        "kto batch 19": {"loss": "kto", "batch": 19, "accumulate": 1},
        "kto batch 2 accumulate 4": {"loss": "kto", "batch": 2, "accumulate": 4},
        "kto rows dropped and cut": {"loss": "kto", "max_length": 40},
        "kto paired rows": {"loss": "kto", "rows": paired_rows},
        "kto cosine, no clipping": {"loss": "kto", "schedule": "cosine", "clip": 0},
        "kto evaluation": {"loss": "kto", "evaluate": True},
        "kto all weights": {"loss": "kto", "full": True, "lr": 1e-4},
        "apo_zero_unpaired": {"loss": "apo_zero_unpaired", "quick": True},
        "apo_zero_unpaired batch 1": {"loss": "apo_zero_unpaired", "batch": 1, "desirable": 1.2},
    }
    for name, changes in kto.items():
        cases[f"kto {name}"] = train_case("kto", ts, **changes)
    sft = {
        "sft 9 x 1": {"batch": 9, "accumulate": 1},
        "sft 3 x 3": {"batch": 3, "accumulate": 3, "quick": True},
        "sft 1 x 9": {"batch": 1, "accumulate": 9},
        "sft 2 x 3, shorter last window": {"batch": 2, "accumulate": 3},
        "sft rows cut": {"max_length": 16},
        "sft evaluation": {"batch": 2, "accumulate": 2, "evaluate": True},
        "sft all weights 2 x 3": {"batch": 2, "accumulate": 3, "full": True, "lr": 1e-4},
    }
    for name, changes in sft.items():
        cases[name] = train_case("sft", ts, reference=None, rows=uneven_rows, **changes)
    cases["sft messages @mistral-chat"] = train_case(
        "sft", "mistral-chat", reference=None, rows=messages_rows, batch=3, accumulate=2, steps=4)
    cases["sft dropout 0.1, 200 seeds"] = dropout_case(ts, 0.1)
    cases["sft DoRA dropout 0.1, 200 seeds"] = dropout_case(ts, 0.1, use_dora=True)
    heads = "llama-two-heads"
    cases["dpo two heads"] = train_case("dpo", heads, steps=4, quick=True)
    cases["dpo two heads, all weights"] = train_case("dpo", heads, steps=4, full=True, lr=1e-4)
    seven = {"r": 8, "lora_alpha": 16, "target_modules": ALL_LINEAR}
    two = {"r": 4, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"], "use_rslora": True}
    cases["dpo from the seed"] = train_case("dpo", ts, lora=seven, quick=True)
    cases["dpo from the seed rslora"] = train_case("dpo", ts, lora=two, seed=7)
    cases["kto from the seed"] = train_case("kto", ts, lora=seven, loss="kto", quick=True)
    dora = {**seven, "use_dora": True}
    cases["dpo DoRA from the seed"] = train_case("dpo", ts, lora=dora, quick=True)
    cases["kto DoRA from the seed"] = train_case("kto", ts, lora=dora, loss="kto")
    cases["sft DoRA from the seed"] = train_case("sft", ts, reference=None, rows=uneven_rows,
                                                 lora=dora)
    cases["dpo DoRA from the seed @qwen2"] = train_case("dpo", "qwen2", lora=dora)
    cases["dpo DoRA from the seed @llama-gqa-bf16"] = train_case("dpo", "llama-gqa-bf16", lora=dora)
    cases["first DoRA adapter from seed 5"] = seed_case(ts, dora, 5)
    cases["first adapter from seed 42"] = seed_case(ts, seven, 42, quick=True)
    cases["first adapter from seed 4294967295"] = seed_case(ts, two, 2 ** 32 - 1)
    cases["first adapter, explicit heads"] = seed_case("llama-linear", seven, 3)
    for model in MADE:
        words = {"steps": 4} if model == "llama3-128256" else {}  # TRL takes seconds a step
        first = model in ("llama-gqa", "mistral-window")
        cases[f"dpo sigmoid @{model}"] = train_case("dpo", model, quick=first, **words)
        cases[f"kto kto @{model}"] = train_case("kto", model, loss="kto", quick=first, **words)
        if model not in ("mistral-32000", "llama3-128256"):
            cases[f"dpo mpo @{model}"] = train_case(
                "dpo", model, loss=["sigmoid", "bco_pair", "sft"], weights=[0.8, 0.2, 1.0])
            cases[f"dpo from the seed @{model}"] = train_case("dpo", model, lora=seven)
            cases[f"kto from the seed @{model}"] = train_case("kto", model, lora=seven, loss="kto")
            cases[f"dpo all weights @{model}"] = train_case("dpo", model, full=True, lr=1e-4)
    for model in FAMILIES:
        cases[f"dpo sigmoid @{model}"] = train_case("dpo", model, steps=4, quick=model == "qwen2")
        cases[f"dpo all weights @{model}"] = train_case("dpo", model, full=True, lr=1e-4, steps=4)
    cases["kto kto @qwen3"] = train_case("kto", "qwen3", loss="kto", steps=4)
    cases["kto kto @smollm3"] = train_case("kto", "smollm3", loss="kto", steps=4)
    for model in ("llama3-chat", "mistral-chat"):
        quick = model == "mistral-chat"
        cases[f"dpo conversations @{model}"] = train_case(
            "dpo", model, rows=chat_rows("dpo"), steps=4, quick=quick)
        cases[f"kto conversations @{model}"] = train_case(
            "kto", model, loss="kto", rows=chat_rows("kto"), steps=4)
    return cases


MADE = ["llama-gqa", "llama-gqa-bf16", "llama-tied", "llama-linear", "mistral-window",
        "mistral-32000", "llama3-128256"]
FAMILIES = ["llama-biases", "qwen2", "qwen3", "smollm3"]  # more weights in a layer, or no positions

# ---- scores, adapters, merging, text -------------------------------------------------------------


def score_rows(bench, model):
    """Prompts with completions, an empty prompt, and a completion that starts inside a token."""
    pairs = read_jsonl(bench.rows(model, "dpo"))[:8]
    rows = [{"prompt": r["prompt"], "completion": r["chosen"]} for r in pairs]
    rows += [{"prompt": "", "completion": r["prompt"] + r["rejected"]} for r in pairs[:2]]
    rows += [{"prompt": r["prompt"] + r["chosen"][:7], "completion": r["chosen"][7:]}
             for r in pairs[:4] if len(r["chosen"]) > 8]
    return bench.file(f"score-{model}", rows)


def compare_scores(worst, got, wanted):
    worst.equal("index of rows", [r["index"] for r in got], list(range(len(wanted))))
    for g, w in zip(got, wanted):
        where = f"row {g['index']}"
        worst.equal(f"{where} token_ids", g["token_ids"], w["token_ids"])
        worst.equal(f"{where} prompt_tokens", g["prompt_tokens"], w["prompt_tokens"])
        worst.equal(f"{where} completion_tokens", g["completion_tokens"], len(w["token_ids"]))
        worst.equal(f"{where} tokens without a score", [x is None for x in g["token_logps"]],
                    [x is None for x in w["token_logps"]])
        pairs = [(a, b) for a, b in zip(g["token_logps"], w["token_logps"]) if b is not None]
        for a, b in pairs:
            worst.add("token log-prob", abs(a - b), LOGP)
        total = sum(b for _, b in pairs)
        worst.add("sum", abs(g["logp"] - total) / max(1, abs(total) / 10), 5e-3)


def score_with(bench, worst, name, folder, rows, adapter=None):
    out = bench.out(name + ".jsonl")
    command = ["score", "-m", folder, "--data", rows, "--tokens", "-o", out, *bench.numbers()]
    bench.align(*command, *(["--adapter", adapter] if adapter else []))
    wanted = bench.oracle({"kind": "score", "model": folder, "rows": rows, "adapter": adapter})
    compare_scores(worst, read_jsonl(out), wanted["scores"])


def score_case(model, adapter=None, quick=False, **setup):
    """align score --tokens against transformers, with a PEFT adapter or none."""
    def run(bench, worst, name):
        made = bench.adapter(model, adapter, **setup) if adapter else None
        score_with(bench, worst, name, bench.model(model), score_rows(bench, model), made)
    run.quick = quick
    return run


def edited(bench, model, name, edit):
    """The adapter start-dpo of a model, with some keys of its configuration set otherwise."""
    made, folder = bench.adapter(model, "start-dpo"), bench.out(name + "-adapter")
    shutil.copytree(made, folder)
    path = os.path.join(folder, "adapter_config.json")
    with open(path, encoding="utf-8") as f:
        config = json.load(f)
    with open(path, "w", encoding="utf-8") as f:
        json.dump({**config, **edit}, f)
    return folder


# Values of adapter_config.json that change no number for these models, and such as do.
HARMLESS = {
    "bias": "lora_only", "fan_in_fan_out": True, "modules_to_save": ["score"],
    "target_parameters": ["experts.gate_up_proj"], "layer_replication": [[0, 1], [1, 2]],
    "lora_bias": True, "use_qalora": True, "loftq_config": {"loftq_bits": 4},
    "eva_config": {"rho": 2.0}, "velora_config": {"num_groups": 8}, "ensure_weight_tying": True,
    "task_type": "FEATURE_EXTRACTION", "auto_mapping": {"unsloth_fixed": True},
    "exclude_modules": ["vision"], "layers_to_transform": [0, 1], "layers_pattern": "layers",
    "lora_dropout": 1.0, "revision": "main", "an_unknown_key": 1}
CHANGED = [
    {"target_modules": ["q_proj"]}, {"target_modules": None}, {"target_modules": ".*[qk]_proj"},
    {"exclude_modules": ["q_proj"]}, {"exclude_modules": ".*q_proj"}, {"layers_to_transform": 1},
    {"layers_to_transform": [0]}, {"layer_replication": [[0, 2], [0, 2]]}, {"use_dora": True},
    {"alora_invocation_tokens": [5]}, {"init_lora_weights": "pissa"},
    {"init_lora_weights": "OLoRA"}, {"kasa_config": {}}]


def harmless_case(bench, worst, name):
    """What nothing depends on is accepted, and computes what PEFT computes with it."""
    model = "llama-gqa"
    made = edited(bench, model, name, HARMLESS)
    score_with(bench, worst, name, bench.model(model), score_rows(bench, model), made)
    for i, way in enumerate(["Gaussian", "lora_ga", "mica", "eva", False, None]):
        made = edited(bench, model, f"{name}-{i}", {"init_lora_weights": way})
        score_with(bench, worst, f"{name}-{i}", bench.model(model), score_rows(bench, model), made)


def changed_case(bench, worst, name):
    """With each of these PEFT computes other numbers than without: it is refused by its name."""
    model, rows = "llama-gqa", score_rows(bench, "llama-gqa")
    plain = bench.oracle({"kind": "score", "model": bench.model(model), "rows": rows,
                          "adapter": bench.adapter(model, "start-dpo")})["scores"]
    for i, edit in enumerate(CHANGED):
        made, out = edited(bench, model, f"{name}-{i}", edit), bench.out(f"{name}.jsonl")
        theirs = bench.oracle({"kind": "score", "model": bench.model(model), "rows": rows,
                               "adapter": made})["scores"]
        worst.add("edits that change nothing for PEFT", int(theirs == plain), 0)
        try:
            bench.align("score", "-m", bench.model(model), "--data", rows, "-o", out,
                        "--adapter", made, *bench.numbers())
        except Failure as e:
            if not str(e).startswith("exit 65") or f'"{next(iter(edit))}"' not in str(e):
                raise
            continue
        raise Failure(f"{edit} was accepted")


harmless_case.quick = changed_case.quick = False


def reference_logprobs_case(bench, worst, name):
    """TinyStories-656K against log-probs that another program computed in double precision."""
    folder = bench.model("tinystories-656k")
    with open(os.path.join(folder, "reference_logprobs.f64.json"), encoding="utf-8") as f:
        sequences = json.load(f)["sequences"]
    rows = bench.file("reference", [{"prompt": "", "completion": s["text"]} for s in sequences])
    out = bench.out(name + ".jsonl")
    bench.align("score", "-m", folder, "--data", rows, "--tokens", "-o", out, *bench.numbers())
    for got, s in zip(read_jsonl(out), sequences, strict=True):
        worst.equal("token ids", got["token_ids"], s["ids"][1:])
        for a, b in zip(got["token_logps"], s["logprob"], strict=True):
            worst.add("token log-prob", abs(a - b), 2e-5)


reference_logprobs_case.quick = True


def refused_case(model, adapter, **setup):
    """An adapter of a kind that is not ours is refused with 65, never silently misread."""
    def run(bench, worst, name):
        made = bench.adapter(model, adapter, **setup)
        out = bench.out(name + ".jsonl")
        try:
            bench.align("score", "-m", bench.model(model), "--data", score_rows(bench, model),
                        "--tokens", "-o", out, "--adapter", made, *bench.numbers())
        except Failure as e:
            if not str(e).startswith("exit 65"):
                raise
            worst.add("refused, output left behind", int(os.path.exists(out)), 0)
            return
        raise Failure("was accepted")
    run.quick = False
    return run


def round_trip_case(model, lora, quick=False):
    """An adapter trained here goes back into PEFT: it loads, has all keys, scores the same."""
    def run(bench, worst, name):
        folder, out = bench.model(model), bench.out(name)
        s = {**DEFAULTS, "lr": 5e-3, "warmup": 0}
        bench.align("dpo", "-m", folder, "--data", bench.rows(model, "dpo"), "-o", out,
                    *lora_arguments(lora), *bench.numbers(), *align_arguments("dpo", s))
        adapter = os.path.join(out, "adapter")
        with open(os.path.join(adapter, "adapter_config.json"), encoding="utf-8") as f:
            config = json.load(f)
        from peft import LoraConfig
        known = set(LoraConfig(task_type="CAUSAL_LM").to_dict()) - {"runtime_config"}
        worst.equal("keys PEFT does not know", sorted(set(config) - known), [])
        worst.add("keys of adapter_config.json missing",
                  len(known - set(config)) if len(known) == PEFT_KEYS else math.nan, 0)
        with safe_open(os.path.join(adapter, "adapter_model.safetensors"), "pt") as f:
            worst.equal("metadata", f.metadata(), {"format": "pt"})
            worst.equal("adapter is trained", any(f.get_tensor(n).any().item() for n in f.keys()
                                                  if "lora_B" in n), True)
        score_with(bench, worst, name, folder, score_rows(bench, model), adapter)
    run.quick = quick
    return run


def read_model(folder):
    """All tensors of a model directory, one file or shards."""
    tensors = {}
    for name in sorted(os.listdir(folder)):
        if name.endswith(".safetensors"):
            tensors.update(load_file(os.path.join(folder, name)))
    return tensors


def explain_side(worst, where, side, policy, reference, gradient):
    """One answer of align explain: ids, log-probs of each token, their sums, the gradient."""
    worst.equal(f"{where} token_ids", side["token_ids"], policy["token_ids"])
    sums = []
    for key, wanted in (("policy", policy), ("reference", reference)):
        for a, b in zip(side[key], wanted["token_logps"], strict=True):
            worst.add("token log-prob", abs(a - b), LOGP)
        sums.append(sum(wanted["token_logps"]))
        worst.add("sum", abs(side[key + "_logp"] - sums[-1]) / max(1, abs(sums[-1]) / 10), 5e-3)
    worst.add("logratio", abs(side["logratio"] - (sums[0] - sums[1])), 2e-3)
    for a in side["gradient"]:
        worst.add("gradient", abs(a - gradient), GRADIENT)
    worst.equal(f"{where} gradient tokens", len(side["gradient"]), len(policy["token_ids"]))


def explain_case(method, model="tinystories-656k", quick=False):
    """align explain --json: each term of three rows' losses. The ids are those of TRL's prepared
    data set, the log-probs transformers'; the arithmetic between them is done here."""
    beta, batch = 0.3, 4

    def run(bench, worst, name):
        folder, data = bench.model(model), bench.rows(model, method)
        adapter = bench.adapter(model, f"start-{method}", 0.05 if method == "dpo" else -0.12)
        s = {**DEFAULTS, "loss": ["sigmoid" if method == "dpo" else "kto"], "steps": 1}
        table = bench.oracle({"kind": "train", "method": method, "model": folder, "rows": data,
                              "args": trl_arguments(method, s), "adapter": adapter,
                              "reference": "base"})["ids"]
        columns = ("chosen_ids", "rejected_ids") if method == "dpo" else \
            ("completion_ids", "KL_completion_ids")
        ids = bench.file(f"explain-{method}", [
            {"prompt_ids": r["prompt_ids"], "completion_ids": r[c]}
            for r in table for c in columns])
        job = {"kind": "score", "model": folder, "rows": ids}
        policy = bench.oracle({**job, "adapter": adapter})["scores"]
        reference = bench.oracle(job)["scores"]
        ratio = [sum(p["token_logps"]) - sum(q["token_logps"])
                 for p, q in zip(policy, reference)]
        for row in (0, 6, len(table) - 1):
            out = json.loads(bench.align(
                "explain", "-m", folder, "--data", data, "--row", row, "--method", method,
                "--beta", beta, "--adapter", adapter, "--json", *bench.numbers(),
                *(["--batch", batch, "--kl-pairing", "trl"] if method == "kto" else [])))
            at = 2 * row
            worst.equal("row and method", [out["row"], out["method"]], [row, method])
            worst.equal("prompt_token_ids", out["prompt_token_ids"], table[row]["prompt_ids"])
            if method == "dpo":
                margin = beta * (ratio[at] - ratio[at + 1])
                sigmoid = 1 / (1 + math.exp(-margin))
                loss, slope = -math.log(sigmoid), beta * (1 - sigmoid)
                worst.add("margin", abs(out["margin"] - margin), 2e-4)
                explain_side(worst, f"row {row} chosen", out["chosen"], policy[at], reference[at],
                             -slope)
                explain_side(worst, f"row {row} rejected", out["rejected"], policy[at + 1],
                             reference[at + 1], slope)
            else:
                first = row // batch * batch
                block = ratio[2 * first + 1:2 * (first + batch):2]
                kl = max(0.0, sum(block) / len(block))
                label = read_jsonl(data)[row]["label"]
                sign = 1 if label else -1
                sigmoid = 1 / (1 + math.exp(-sign * beta * (ratio[at] - kl)))
                loss = 1 - sigmoid
                worst.equal("label and weight", [out["label"], out["weight"]], [label, 1])
                worst.add("kl", abs(out["kl"] - kl), 2e-3)
                explain_side(worst, f"row {row}", out["completion"], policy[at], reference[at],
                             -sign * beta * sigmoid * (1 - sigmoid))
            worst.add("sigmoid", abs(out["sigmoid"] - sigmoid), 2e-4)
            worst.add("loss", abs(out["loss"] - loss) / max(1, loss), LOSS)
    run.quick = quick
    return run


def bf16_case(model, quick=False):
    """--precision bf16 is no farther from float32 than PyTorch's bf16 is: root mean square error of
    the token log-probs."""
    def run(bench, worst, name):
        folder, rows = bench.model(model), score_rows(bench, model)
        out = bench.out(name + ".jsonl")
        bench.align("score", "-m", folder, "--data", rows, "--tokens", "-o", out,
                    "--precision", "bf16", "--threads", bench.threads)
        job = {"kind": "score", "model": folder, "rows": rows}
        exact, rounded = (flat_logps(bench.oracle({**job, "dtype": d})["scores"])
                          for d in ("float32", "bfloat16"))
        ours = flat_logps(read_jsonl(out))
        theirs, mine = (math.sqrt(sum((a - b) ** 2 for a, b in zip(x, exact, strict=True)) / len(x))
                        for x in (rounded, ours))
        worst.add("rms error against PyTorch's bf16", mine, theirs)
        worst.equal("bf16 differs from f32", mine > 1e-6, True)
    run.quick = quick
    return run


def flat_logps(scores):
    return [x for r in scores for x in r["token_logps"] if x is not None]


DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def check_rounding(worst, told, exact, ours, base):
    """What merge says of rounding, from the tensors alone."""
    error = torch.cat([(ours[k].double() - exact[k]).abs().flatten() for k in exact])
    update = torch.cat([(exact[k] - base[k].double()).abs().flatten() for k in exact])
    stays = torch.cat([(ours[k] == base[k].to(ours[k].dtype)).flatten() for k in exact])
    for key, wanted in (("weights", error.numel()), ("largest_error", error.max()),
                        ("mean_error", error.mean()), ("error_of_update", error.norm() / update.norm()),
                        ("lost_of_update", update[stays].sum() / update.sum())):
        wanted = float(wanted)
        worst.add(f"told {key}", abs(told[key] - wanted), 1e-9 + 1e-4 * abs(wanted))


def merge_case(model, adapter, quick=False, dtype=None, **setup):
    """align merge: untouched tensors bit-equal, merged ones as near to W + s B A as PEFT's are, or
    within float32's error bound and half an ulp of the stored type; then both score the model. With
    dtype the weights are stored as that, untouched ones rounded as PyTorch does."""
    def run(bench, worst, name):
        folder, made = bench.model(model), bench.adapter(model, adapter, **setup)
        out = bench.out(name)
        told = bench.align("merge", "-m", folder, "--adapter", made, "-o", out, "--json",
                           *(["--dtype", dtype] if dtype else []))
        job = {"kind": "merge", "model": folder, "adapter": made}
        oracle = bench.oracle({**job, "dtype": dtype} if dtype else job)
        exact, theirs, terms = (oracle.tensors(n) for n in ("exact", "merged", "terms"))
        ours, base = read_model(out), read_model(folder)
        check_rounding(worst, json.loads(told), exact, ours, base)
        if dtype:
            base = {k: t.to(DTYPES[dtype]) for k, t in base.items()}
            with open(os.path.join(out, "config.json"), encoding="utf-8") as f:
                config = json.load(f)
            worst.equal("dtype in config.json", config.get("dtype", config.get("torch_dtype")),
                        str(DTYPES[dtype]).removeprefix("torch."))
        worst.equal("tensors of the model", sorted(ours), sorted(base))
        for key, b in base.items():
            worst.equal(f"{key}: dtype and shape", [str(ours[key].dtype), *ours[key].shape],
                        [str(b.dtype), *b.shape])
            if key not in exact:
                worst.add("untouched tensors changed", int(not torch.equal(ours[key], b)), 0)
                continue
            epsilon = torch.finfo(b.dtype).eps
            ulp = torch.exp2(torch.floor(torch.log2(exact[key].abs().clamp(min=1e-30)))) * epsilon
            slack = 0.51 * ulp + 2 ** -24 * terms[key]
            allowed = torch.maximum(slack, (theirs[key].double() - exact[key]).abs())
            worst.add("merged weight, of allowed",
                      ((ours[key].double() - exact[key]).abs() / allowed).max().item(), 1)
            if torch.equal(ours[key], b):
                raise Failure(f"{key} did not change")
        for f in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            worst.equal(f"{f} is there", os.path.exists(os.path.join(out, f)), True)
        score_with(bench, worst, name, out, score_rows(bench, model))
    run.quick = quick
    return run


def whole_case(model, adapter, quick=False, **setup):
    """An adapter with whole weights: what it scores, and that PEFT's merged model is ours, which
    scores the same by itself."""
    def run(bench, worst, name):
        folder, made, out = bench.model(model), bench.adapter(model, adapter, **setup), bench.out(name)
        rows = score_rows(bench, model)
        score_with(bench, worst, name, folder, rows, made)
        bench.align("merge", "-m", folder, "--adapter", made, "-o", out)
        theirs = bench.oracle({"kind": "merge", "model": folder, "adapter": made}).tensors("merged")
        ours = read_model(out)
        for key in set(ours) | set(theirs):
            a, b = ours.get(key), theirs.get(key)
            if b is None and key == "lm_head.weight":  # two tensors, which PEFT still has as one
                b = theirs["model.embed_tokens.weight"]
            worst.equal(f"{key}: shape", list(a.shape), list(b.shape))
            worst.add("merged weight", (a.double() - b.double()).abs().max().item(), 1e-6)
        score_with(bench, worst, name + " merged", out, rows)
    run.quick = quick
    return run


def gguf_made_case(model, adapter, dtype, quick=False, **setup):
    """align merge -o NAME.gguf has the numbers of the merged model as the gguf package stores them,
    byte for byte; align export has the update of the adapter as PEFT scales it."""
    def run(bench, worst, name):
        import check_export
        folder, made = bench.model(model), bench.adapter(model, adapter, **setup)
        whole, file, alone = (bench.out(name + end) for end in ("", ".gguf", " adapter.gguf"))
        for out, stored in ((whole, "f32"), (file, dtype)):
            bench.align("merge", "-m", folder, "--adapter", made, "-o", out, "--dtype", stored)
        bench.align("export", "-m", folder, "--adapter", made, "-o", alone)
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
            config = json.load(f)
        tensors = {k: t.float().numpy() for k, t in read_model(whole).items()}
        worst.equal("faults", check_export.compare_model(file, tensors, config, dtype.upper()), [])
        worst.add(f"of {len(tensors)} tensors differ", 0, 0)
        ids = [json.loads(bench.align("tokenize", "-m", m, "-p", check_export.TEXT, "--json"))
               for m in (folder, file)]
        worst.equal("token ids", *ids)
        worst.add("update, relative", check_export.compare_adapter(alone, made, config), 1e-6)
    run.quick = quick
    return run


def generate_case(model, adapter=None, max_tokens=48, quick=False, **setup):
    """Greedy text equals transformers'. Where the best two logits come closer than 1e-4 on the way,
    float32 noise may decide; such a prompt is passed over (and there must be others)."""
    def run(bench, worst, name):
        folder = bench.model(model)
        made = bench.adapter(model, adapter, **setup) if adapter else None
        if model == "tinystories-656k":
            prompts = ["Once upon a time there was a little girl named", "Tom and his dog",
                       "One day, a bird", "The sun was", "Lily did not want to", ""]
        else:
            prompts = [r["prompt"] for r in read_jsonl(bench.rows(model, "dpo"))[:5]]
        data = bench.file(f"prompts-{model}", [{"prompt": p} for p in prompts])
        wanted = bench.oracle({"kind": "generate", "model": folder, "adapter": made,
                               "prompts": data, "max_tokens": max_tokens})["answers"]
        out = bench.out(name + ".jsonl")
        bench.align("generate", "-m", folder, "--data", data, "--raw", "--temperature", 0,
                    "--max-tokens", max_tokens, "-o", out, *bench.numbers(),
                    *(["--adapter", made] if made else []))
        got = read_jsonl(out)
        worst.equal("responses", [(r["index"], r["sample"]) for r in got],
                    [(i, 0) for i in range(len(prompts))])
        compared = 0
        for g, w, prompt in zip(got, wanted, prompts):
            if w["gap"] < 1e-4:
                continue
            compared += 1
            worst.equal(f"prompt {g['index']}: tokens", g["token_ids"], w["token_ids"])
            worst.equal(f"prompt {g['index']}: finish", g["finish"], w["finish"])
            worst.equal(f"prompt {g['index']}: text", g["response"].lstrip(" "),
                        w["text"].lstrip(" "))
        if compared * 2 < len(prompts):
            raise Failure(f"only {compared} of {len(prompts)} prompts have a clear greedy answer")
        worst.add(f"of {compared} texts differ", 0, 0)
    run.quick = quick
    return run


def script_case(*command, quick=False):
    """A script of tools/ that ends in "N passed, N failed"."""
    def run(bench, worst, name):
        done = subprocess.run([sys.executable, os.path.join(ROOT, "tools", command[0]),
                               *command[1:]], capture_output=True, text=True)
        lines = done.stdout.strip().split("\n")
        if done.returncode:
            raise Failure("; ".join(lines[-3:]) + done.stderr.strip()[-200:])
        worst.equal("its last line ends", lines[-1].endswith(" passed, 0 failed"), True)
        worst.add("of " + lines[-1].split(" passed")[0] + " failed", 0, 0)
    run.quick = quick
    return run


def smollm2_case(bench, worst, name):
    """Read and written, one after the other: both unpack the same file."""
    for script in ("check_smollm2.py", "check_export.py"):
        script_case(script)(bench, worst, name)


smollm2_case.quick = False


def decode_case(bench, worst, name):
    """Every id of every tokenizer of the data directory, and random sequences of them."""
    bench.real("tokenizers")
    if not os.path.exists(os.path.join(ROOT, "build", "tests", "tool_tokenize")):
        raise Skip("no build/tests/tool_tokenize (make tests)")
    os.environ["ALIGN_DATA"] = bench.data
    script_case("check_decode.py")(bench, worst, name)


decode_case.quick = False


def llama2_ids_case(bench, worst, name):
    """A tokenizer.json of Llama 2's kind: our ids are those of the file, as the tokenizers library
    reads it. AutoTokenizer of transformers 5 drops the file's normalizer (README.md says so); the
    case fails when it no longer does."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer
    source = bench.real("tokenizers/tinyllama")
    folder = os.path.join(bench.work, "models", "llama2-words")
    os.makedirs(folder, exist_ok=True)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(os.path.join(source, file), folder)
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as f:
        json.dump({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, f)
    rng = random.Random(7)
    words = ["the", "Dose", " ", "  ", "\n", "</s>", "<s>", "12", "é", "日本", "?", "▁", "a b"]
    texts = ["".join(rng.choice(words) for _ in range(rng.randrange(1, 9))) for _ in range(500)]
    rows, out = bench.file("llama2-words", [{"text": t} for t in texts]), bench.out(name + ".jsonl")
    bench.align("tokenize", "-m", folder, "--data", rows, "--parse-special", "-o", out)
    file, auto = Tokenizer.from_file(os.path.join(folder, "tokenizer.json")), \
        AutoTokenizer.from_pretrained(folder)
    with open(out, encoding="utf-8") as f:
        ours = [json.loads(line)["ids"] for line in f]
    worst.equal("ids of the file", ours, [file.encode(t).ids for t in texts])
    others = sum(a != auto(t)["input_ids"] for a, t in zip(ours, texts))
    worst.equal("does AutoTokenizer give others?", others > 0, True)
    worst.add(f"of {len(texts)} texts differ ({others} by AutoTokenizer)", 0, 0)


llama2_ids_case.quick = True


def shapes_case(bench, worst, name):
    """Names, shards and sizes of make_model.py's models are those of the published indexes."""
    bench.real("configs")
    os.environ["ALIGN_DATA"] = bench.data
    script_case("make_model.py", "--check")(bench, worst, name)


shapes_case.quick = True


def defaults_case(bench, worst, name):
    """Every default that decides what is learnt is TRL's, or README.md and the run say that it is
    not."""
    import trl_defaults
    model, lines = bench.model("tinystories-656k"), {}
    rows = {"dpo": bench.rows("tinystories-656k", "dpo"),
            "kto": bench.rows("tinystories-656k", "kto"),
            "sft": uneven_rows(bench, "tinystories-656k")[0]}
    for method, data in rows.items():
        done = subprocess.run([bench.program, method, "-m", model, "--data", data, "--dry-run"],
                              capture_output=True, text=True)
        worst.equal(f"exit code of {method} --dry-run", done.returncode, 0)
        lines[method] = done.stderr
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as f:
        readme = f.read()
    faults, count = trl_defaults.compare(bench.align("--options"), readme, lines)
    if faults:
        raise Failure("; ".join(faults))
    worst.add(f"of {count} defaults unsaid", 0, 0)


defaults_case.quick = True


def export_case(bench, worst, name):
    """A pickled checkpoint goes through tools/export.py and scores as the model it was."""
    import export
    folder, source = bench.model("llama-linear"), bench.out(name + " source")
    os.makedirs(source)
    torch.save(read_model(folder), os.path.join(source, "pytorch_model.bin"))
    for f in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(os.path.join(folder, f), os.path.join(source, f))
    out = bench.out(name)
    with contextlib.redirect_stdout(io.StringIO()):
        worst.equal("exit code", export.main([source, "-o", out]), 0)
    score_with(bench, worst, name, out, score_rows(bench, "llama-linear"))


export_case.quick = True


def gguf_case(model, quick=False):
    """A directory written as a GGUF file by the gguf package: the same scores and the same
    samples as from the directory, for its logits have the same bits."""
    def run(bench, worst, name):
        try:
            import model_gguf
        except ModuleNotFoundError as e:
            raise Skip(f"no {e.name}") from e
        folder, path = bench.model(model), bench.out(name) + ".gguf"
        model_gguf.write(folder, path)
        rows = score_rows(bench, model)
        prompts = bench.file(f"prompts-{model}", [{"prompt": r["prompt"] or "The"}
                                                  for r in read_jsonl(rows)])
        for command, data in (("score", rows), ("generate", prompts)):
            texts = [bench.align(command, "-m", m, "--data", data, *bench.numbers(), *more)
                     for more in [["--tokens"] if command == "score" else ["--max-tokens", 24]]
                     for m in (folder, path)]
            worst.equal(command, texts[1], texts[0])
            worst.add(f"bytes of {command} differ", 0, 0)
        os.remove(path)
    run.quick = quick
    return run


# ---- rows ----------------------------------------------------------------------------------------


def turn(role, content, **more):
    return {"role": role, "content": content, **more}


TALK = [turn("system", "Be kind."), turn("user", "Hi there"), turn("assistant", "Hello."),
        turn("user", "And now?"), turn("assistant", " Good bye. ")]
PAIR = {"chosen": [turn("assistant", "a")], "rejected": [turn("assistant", "b c")]}
TOOLS = [{"type": "function", "function": {"name": "f", "description": "does",
                                           "parameters": {"type": "object", "properties": {}}}}]


# TRL's templates that render tools, and that have marks for the answers.
READ_TOOLS = ("llama3_1", "llama3_2", "qwen2_5", "qwen3", "qwen3_8", "glm4moe", "gptoss",
              "nemotron_3_nano", "lfm2_v2")
MARK_ANSWERS = ("qwen2_5", "qwen3", "qwen3_8", "gptoss", "phi3", "gemma3", "cohere",
                "deepseek_r1_distill", "glm4moe", "lfm2_v2", "nemotron_3_nano")


def rows_case(method, rows, template, chat_template, options=(), says=None, equal=True,
              quick=False, **args):
    """The first row that a dry run shows, of each of the rows alone: ids and scored tokens are TRL's
    (equal=False: they are not, for which there is a count). says: what stderr must hold. Template is
    a file of TRL's; chat_template: the built-in one that stands for it, or None for the file."""
    def run(bench, worst, name):
        if not os.path.isdir(bench.data):
            raise Skip("no tokenizer with control tokens without the data directory")
        import trl
        folder = os.path.join(os.path.dirname(trl.__file__), "chat_templates")
        with open(os.path.join(folder, template), encoding="utf-8") as f:
            jinja = f.read()
        model = bench.model("llama3-chat")
        for i, row in enumerate(rows):
            path = bench.file(f"{name}-{i}".replace(" ", "-").replace("/", "-"), [row])
            command = [bench.program, method, "-m", model, "--data", path, "--dry-run", "--json",
                       "--chat-template", chat_template or os.path.join(folder, template), *options]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise Failure(done.stderr.strip().split("\n")[-1])
            ours = json.loads(done.stdout)["first_row"]
            theirs = bench.oracle({"kind": "rows", "model": model, "rows": path, "method": method,
                                   "template": jinja, "args": args})["sequences"][0]
            if says and says not in done.stderr:
                raise Failure(f"nothing on the screen says: {says}")
            for side, wanted in zip(ours, theirs, strict=True):
                scored = [0] + wanted["scored"][1:]  # nothing predicts a first token
                if not equal:
                    worst.equal(f"row {i} differs", side["ids"] != wanted["ids"], True)
                    continue
                worst.equal(f"row {i} ids", side["ids"], wanted["ids"])
                worst.equal(f"row {i} scored", side["scored"], scored)
    run.quick = quick
    return run


def template_case(every, count, quick=False):
    """Made conversations by published chat templates, every so many of them: text and ids are those
    of apply_chat_template, and what it refuses is refused (tools/check_template.py)."""
    def run(bench, worst, name):
        if not os.path.isdir(bench.data):
            raise Skip("no chat templates without the data directory")
        import check_template
        folders = [os.path.join(bench.data, f) for f in ("chat", "tokenizers")]
        program = check_template.Program(
            bench.program, os.path.join(folders[1], "tinyllama", "tokenizer.json"))
        check = check_template.Check(None, 1)
        check_template.hf.datetime = check_template.FixedDate
        for title, text in list(check_template.templates(folders).items())[::every]:
            check.program(title, text, check_template.conversations(every, count), program)
        check_template.hf.datetime = check_template.REAL_DATE  # other cases ask for today
        program.close()
        worst.equal("different conversations", check.differ, 0)
        worst.equal("conversations were compared", check.equal > 20 * count // every, True)
    run.quick = quick
    return run


def row_cases():
    """name -> case: what rows say, as TRL prepares them."""
    talks = [{"messages": TALK}, {"messages": TALK[1:3]}, {"messages": TALK[:4]},
             {"prompt": TALK[:2], "completion": TALK[2:]}]
    llama3 = ("llama3_training.jinja", "llama3")
    plain = [{"prompt": "Hi there", "completion": " you all"}, {"text": "Hi there you all"}]
    tools = [{"prompt": TALK[:2], "tools": TOOLS, **PAIR}]
    call = {"type": "function", "function": {"name": "f", "arguments": {"a": 1.5, "b": ["x", None]}}}
    calls = tools + [
        {"prompt": TALK[:2], "tools": json.dumps(TOOLS), **PAIR},
        {"prompt": TALK[1:2] + [turn("assistant", "", tool_calls=[call]), turn("tool", "7")],
         "tools": TOOLS, **PAIR},
        {"prompt": TALK[:2], "chosen": [turn("assistant", "so", tool_calls=[call])],
         "rejected": PAIR["rejected"], "tools": TOOLS,
         "chat_template_kwargs": {"enable_thinking": False}}]
    control = [{"prompt": "<|begin_of_text|>Hi<|eot_id|>", "completion": " you<|eot_id|>"}]
    llama31 = ("llama3_1.jinja", "llama3.1")
    parts = [{"prompt": [turn("user", [{"type": "text", "text": "Which "},
                                       {"type": "text", "text": "planet?"}])], **PAIR}]
    return {
        **{f"rows dpo with lists of parts, {name}": rows_case(
            "dpo", parts, name + ".jinja", None, quick=name == "qwen3_vl")
           for name in ("qwen3_vl", "llama3_1")},
        "rows sft --train-on auto": rows_case("sft", talks + plain, *llama3, quick=True),
        "rows sft --train-on all": rows_case("sft", talks + plain, *llama3,
                                             ("--train-on", "all"), completion_only_loss=False),
        "rows sft --train-on answers": rows_case("sft", talks, *llama3,
                                                 ("--train-on", "answers"),
                                                 assistant_only_loss=True, quick=True),
        # of one answer, the last is what TRL's completion is
        "rows sft --train-on last": rows_case("sft", [{"prompt": TALK[:4],
                                                       "completion": TALK[4:]}], *llama3,
                                              ("--train-on", "last")),
        "rows sft from/value": rows_case("sft", [{"conversations": [
            {"from": m["role"], "value": m["content"]} for m in TALK]}], *llama3),
        "rows dpo without prompt": rows_case("dpo", [
            {side: TALK[:2] + PAIR[side] for side in PAIR},
            {"chosen": "The sky is blue", "rejected": "The sky is green"},
            {"chosen": "abc", "rejected": "abcd"}, {"chosen": "Yes it is", "rejected": "No"}],
            *llama31),
        "rows dpo, prompt ends with an answer": rows_case(
            "dpo", [{"prompt": TALK[:3], **PAIR}], *llama31),
        "rows dpo, keys that no template reads": rows_case("dpo", [
            {"prompt": [turn("user", "Hi", name="bob")], "margin": 1.5, "system": "x", **PAIR}],
            *llama31),
        "rows dpo with tools that a built-in template does not read": rows_case(
            "dpo", tools, *llama31, says='not read, as in TRL: "tools" (1 rows, first: line 1)',
            equal=False),
        **{f"rows dpo with tools, {name}": rows_case("dpo", calls, name + ".jinja", None,
                                                     quick=name == "qwen3")
           for name in READ_TOOLS},
        **{f"rows sft --train-on answers, {name}": rows_case(
            "sft", talks, name + "_training.jinja", None, ("--train-on", "answers"),
            assistant_only_loss=True, quick=name == "qwen3") for name in MARK_ANSWERS},
        "rows sft, control tokens are counted": rows_case(
            "sft", control, *llama3, says="1 rows spell control tokens", equal=False),
        "rows sft, control tokens read": rows_case(
            "sft", control, *llama3, ("--parse-special",),
            says="1 rows begin with the start token twice"),
    }


def text_cases():
    """name -> case: scores, PEFT directories of many kinds, merging, greedy text."""
    cases = {"golden files made again": script_case("golden.py", "--check"),
             "formats of GGUF files": script_case("check_gguf.py", quick=True),
              "words of Llama 2's kind": llama2_ids_case,
              "words of GGUF files": script_case("check_gguf_words.py", quick=True),
              "SmolLM2 in a GGUF file": smollm2_case,
             "tables of composed characters": script_case("gen_nfc.py", "--check", quick=True),
             "tests of export.py": script_case("test_export.py", quick=True),
             "tests of judge_http.py": script_case("test_judge_http.py", quick=True),
             "all ids of all tokenizers decode as in transformers": decode_case,
             "tensors and shards of published models": shapes_case,
             "tests of cares.py": script_case("test_cares.py", quick=True),
             "defaults against TRL's": defaults_case,
             "chat templates, some": template_case(12, 5, quick=True),
             "chat templates": template_case(1, 10),
             "score what export.py made": export_case,
             "score reference log-probs": reference_logprobs_case,
             "score @tinystories-656k": score_case("tinystories-656k", quick=True),
             "score adapter @tinystories-656k": score_case("tinystories-656k", "start-dpo")}
    for model in MADE + FAMILIES + ["llama-gqa-f16", "llama-sharded", "mistral-window-bf16",
                                    "qwen3-biases-bf16"]:
        cases[f"score @{model}"] = score_case(model, quick=model in ("llama-linear",
                                                                     "mistral-window"))
    gqa = "llama-gqa"
    cases.update({
        "score adapter, all-linear by full names": score_case(gqa, "full-names", quick=True,
                                                              target_modules="all-linear"),
        "score adapter, all-linear by suffixes": score_case("llama-tied", "suffixes",
                                                            target_modules="all-linear"),
        "score adapter, rank and alpha patterns": score_case(
            gqa, "patterns", rank_pattern={"q_proj": 4, "layers.1.mlp.up_proj": 2},
            alpha_pattern={"v_proj": 32, "layers.0.self_attn.q_proj": 2}),
        "score adapter, patterns with rslora": score_case(
            gqa, "patterns-rslora", use_rslora=True, rank_pattern={"mlp.up_proj": 2},
            alpha_pattern={"o_proj": 5}),
        "score adapter, one layer": score_case(gqa, "one-layer", layers_to_transform=[1]),
        "score adapter, targets by expression": score_case(
            gqa, "expression", target_modules=r".*layers\.0\..*\.(q|down)_proj"),
        "score adapter, excluded modules": score_case(gqa, "excluded",
                                                      exclude_modules=["k_proj"]),
        "score adapter, stored in bf16": score_case(gqa, "bf16", dtype=torch.bfloat16),
        "score adapter on the head": score_case(gqa, "head", quick=True,
                                                target_modules=ALL_LINEAR + ["lm_head"]),
        "score adapter on the head alone": score_case("mistral-window", "head-alone",
                                                      target_modules=["lm_head"]),
        "score adapter on a tied head": score_case("llama-tied", "tied-head",
                                                   target_modules=["q_proj", "lm_head"]),
        "score adapter, pattern with an asterisk": score_case(gqa, "asterisk",
                                                              rank_pattern={".*mlp.*": 2}),
        "score adapter, harmless values": harmless_case,
        "refuse adapter, values that count": changed_case,
        "score adapter, pattern that looks ahead": score_case(
            gqa, "ahead", rank_pattern={".*(?=mlp).*": 2}),
        "refuse adapter, pattern that refers back": refused_case(
            gqa, "back", rank_pattern={r".*\.(.)\1.*|.*_proj": 2}),
        "whole modules": whole_case(gqa, "whole", modules_to_save=["embed_tokens", "lm_head"],
                                    quick=True),
        "whole modules, norms and a matrix": whole_case(
            gqa, "whole-norms", target_modules=["q_proj"],
            modules_to_save=["norm", "up_proj", "v_proj"]),
        "whole modules, tied": whole_case("llama-tied", "whole",
                                          modules_to_save=["embed_tokens", "lm_head"]),
        "whole modules, tied embedding": whole_case("llama-tied", "whole-embedding", quick=True,
                                                    modules_to_save=["embed_tokens"]),
        "whole modules, tied head": whole_case("llama-tied", "whole-head",
                                               modules_to_save=["lm_head"]),
        "whole modules, kept tied": whole_case("llama-tied", "whole-kept", ensure_weight_tying=True,
                                               modules_to_save=["embed_tokens"]),
        "whole vocabulary, grown": whole_case(gqa, "grown", resize=2100, quick=True),
        "whole vocabulary, grown and trained": whole_case(
            gqa, "grown-trained", resize=2100, modules_to_save=["embed_tokens", "lm_head"]),
        "whole vocabulary, grown, tied": whole_case("llama-tied", "grown", resize=2100),
        "whole vocabulary, grown and trained, tied": whole_case(
            "llama-tied", "grown-trained", resize=2100, modules_to_save=["embed_tokens"]),
        "refuse adapter, grown head whose embedding PEFT did not save": refused_case(
            gqa, "grown-head", resize=2100, target_modules=["q_proj", "lm_head"]),
        "tokens trained": whole_case(gqa, "tokens", trainable_token_indices=[5, 40, 300],
                                     quick=True),
        "tokens trained, by module": whole_case(
            gqa, "tokens-by-module",
            trainable_token_indices={"embed_tokens": [5, 40, 300], "lm_head": [300, 7]}),
        "tokens trained, tied": whole_case("llama-tied", "tokens",
                                           trainable_token_indices=[5, 40, 300]),
        "biases trained": whole_case("qwen2", "trained-biases", bias="lora_only", quick=True),
        "biases trained, all": whole_case("llama-biases", "all-biases", bias="all",
                                          target_modules=["q_proj", "up_proj"]),
        "score adapter, DoRA": score_case(gqa, "dora", use_dora=True, quick=True),
        "score adapter, DoRA with rslora and patterns": score_case(
            "llama-biases", "dora-patterns", use_dora=True, use_rslora=True,
            rank_pattern={"q_proj": 4}, alpha_pattern={"up_proj": 3}),
        "score adapter, DoRA on the head": score_case(
            gqa, "dora-head", use_dora=True, target_modules=["q_proj", "lm_head"]),
        "score adapter, DoRA on a tied head": score_case(
            "llama-tied", "dora-head", use_dora=True, target_modules=["q_proj", "lm_head"]),
        "score adapter, DoRA and whole modules": whole_case(
            gqa, "dora-whole", use_dora=True, modules_to_save=["embed_tokens", "lm_head"]),
        "merge DoRA": merge_case(gqa, "dora", use_dora=True, quick=True),
        "merge DoRA into bf16": merge_case("llama-gqa-bf16", "dora", use_dora=True),
        "merge DoRA on the head": merge_case(gqa, "dora-head", use_dora=True,
                                             target_modules=ALL_LINEAR + ["lm_head"]),
        "generate with DoRA": generate_case("tinystories-656k", "dora", use_dora=True),
        "refuse adapter, biases": refused_case(gqa, "biases", lora_bias=True),
        "refuse adapter, embedding": refused_case(gqa, "embedding",
                                                  target_modules=["q_proj", "embed_tokens"]),
        "peft loads ours @tinystories-656k": round_trip_case(
            "tinystories-656k", {"r": 8, "lora_alpha": 16, "target_modules": ALL_LINEAR},
            quick=True),
        "peft loads ours, rslora": round_trip_case(
            "llama-linear", {"r": 4, "lora_alpha": 8, "use_rslora": True,
                             "target_modules": ["q_proj", "o_proj", "up_proj"]}),
        "peft loads ours, DoRA": round_trip_case(
            "llama-gqa", {"r": 4, "lora_alpha": 8, "use_dora": True,
                          "target_modules": ALL_LINEAR + ["lm_head"]}, quick=True),
        "peft loads ours, bf16 model": round_trip_case(
            "mistral-window-bf16", {"r": 2, "lora_alpha": 2, "target_modules": ALL_LINEAR}),
        "explain dpo": explain_case("dpo", quick=True),
        "explain kto": explain_case("kto", quick=True),
        "bf16 @tinystories-656k": bf16_case("tinystories-656k"),
        "bf16 @llama-gqa-bf16": bf16_case("llama-gqa-bf16", quick=True),
        "bf16 @mistral-window-bf16": bf16_case("mistral-window-bf16"),
        "merge f32": merge_case("llama-gqa", "start-dpo", quick=True),
        "merge bf16": merge_case("llama-gqa-bf16", "start-dpo", quick=True),
        "merge f16": merge_case("llama-gqa-f16", "start-dpo"),
        "score two heads": score_case("llama-two-heads", quick=True),
        "merge two heads": merge_case("llama-two-heads", "head",
                                      target_modules=ALL_LINEAR + ["lm_head"]),
        "merge f32 into bf16": merge_case("llama-gqa", "start-dpo", dtype="bf16"),
        "merge f32 into f16": merge_case("llama-gqa", "start-dpo", dtype="f16"),
        "merge bf16 into f32": merge_case("llama-gqa-bf16", "start-dpo", dtype="f32", quick=True),
        "merge bf16 into f16": merge_case("llama-gqa-bf16", "start-dpo", dtype="f16"),
        "merge f16 into bf16": merge_case("llama-gqa-f16", "start-dpo", dtype="bf16"),
        "merge tied, rslora": merge_case("llama-tied", "rslora-dpo", use_rslora=True),
        "merge the head": merge_case("llama-gqa", "head",
                                     target_modules=ALL_LINEAR + ["lm_head"]),
        "merge shards": merge_case("llama-sharded", "start-dpo"),
        "gguf q8_0": gguf_made_case("llama-gqa", "start-dpo", "q8_0", quick=True),
        "gguf f16, patterns with rslora": gguf_made_case(
            gqa, "patterns-rslora", "f16", use_rslora=True, rank_pattern={"mlp.up_proj": 2},
            alpha_pattern={"o_proj": 5}),
        "gguf bf16 of bf16": gguf_made_case("llama-gqa-bf16", "start-dpo", "bf16"),
        "gguf f32, the head": gguf_made_case("llama-gqa", "head", "f32",
                                             target_modules=ALL_LINEAR + ["lm_head"]),
        "gguf q8_0, tied": gguf_made_case("llama-tied", "start-dpo", "q8_0"),
        "gguf f16 @mistral-32000": gguf_made_case("mistral-32000", "start-dpo", "f16"),
        "gguf q8_0, Llama 3's positions": gguf_made_case("llama3-128256", "start-dpo", "q8_0"),
        "merge biases": merge_case("llama-biases", "start-dpo"),
        "merge head norms": merge_case("qwen3", "start-dpo"),
        "merge patterns": merge_case(
            gqa, "patterns", rank_pattern={"q_proj": 4, "layers.1.mlp.up_proj": 2},
            alpha_pattern={"v_proj": 32, "layers.0.self_attn.q_proj": 2}),
        "generate @tinystories-656k": generate_case("tinystories-656k", max_tokens=100,
                                                    quick=True),
        "generate adapter @tinystories-656k": generate_case("tinystories-656k", "start-dpo"),
    })
    for model in ("llama-gqa", "llama-tied", "mistral-window", "mistral-32000", "llama3-128256",
                  "qwen2", "smollm3"):
        cases[f"generate @{model}"] = generate_case(model, quick=model == "mistral-window")
    for model in ("llama-rope", "llama-linear", "llama-tied", "mistral-window", "mistral-32000",
                  "qwen2", "qwen3", "qwen3-biases", "smollm3", "llama3-chat"):
        cases[f"GGUF file @{model}"] = gguf_case(model, quick=model in ("qwen2", "smollm3"))
    return cases


# ---- running -------------------------------------------------------------------------------------


def keep_worst(records, measure, record):
    records.setdefault(measure, (0.0, 1.0, ""))
    if worst_share(record) >= worst_share(records[measure]):
        records[measure] = record


def run_case(bench, name, case, records):
    """(result, text): result is one of ok, FAIL, skip. Keeps the worst figures in records."""
    worst = Worst()
    try:
        case(bench, worst, name)
    except Skip as e:
        return "skip", str(e)
    except Failure as e:
        return "FAIL", str(e)
    except Exception as e:  # missing fields of ours, or the oracle's own trouble: the case failed
        return "FAIL", f"{type(e).__name__}: {str(e).strip().split(chr(10))[0]}"
    for measure, figure in worst.figures.items():
        keep_worst(records, measure, (*figure, name))
    return ("ok" if worst.passed() else "FAIL"), worst.text()


def print_records(records):
    """For each measure of several cases the one that came nearest to its tolerance."""
    shared = ["token log-prob", "loss", "of loss", "gradient", "of |gradient|", "weights",
              "of |movement|", *[m for m in METRICS if m != "loss"]]
    for measure in shared:
        if measure in records and records[measure][2]:
            error, tolerance, name = records[measure]
            print(f"worst {measure:20} {error:.1e} of {tolerance:.0e}  ({name})")


def chosen_cases(args):
    cases = {**text_cases(), **row_cases(), **training_cases()}
    return {n: c for n, c in cases.items() if args.only in n and (c.quick or not args.quick)}


PART = 6      # cases that a lane takes at a time
BENCH = None  # of this process: what its cases share is made in a folder of its own


def begin_lane(args, lanes):
    global BENCH
    with lanes.get_lock():
        lane, lanes.value = lanes.value, lanes.value + 1
    # Threads that wait sleep: as many cases as processors run at a time.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    BENCH = Bench(args.align, args.threads, tiny_models.data_directory(),
                  os.path.join(args.work, f"lane-{lane}"), os.path.join(args.work, "oracle"))


def run_part(args, names):
    """Cases that stand side by side, for these ask the oracle the same."""
    cases, count, records = chosen_cases(args), Counter(), {}
    seconds, computed = BENCH.align_seconds, BENCH.oracle.computed
    for name in names:
        start = time.time()
        result, text = run_case(BENCH, name, cases[name], records)
        count[result] += 1
        print(f"{result:4} {name:42} {time.time() - start:5.1f} s  {text}", flush=True)
    return SimpleNamespace(count=count, records=records,
                           align_seconds=BENCH.align_seconds - seconds,
                           computed=BENCH.oracle.computed - computed)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a part of the cases, in minutes")
    parser.add_argument("--only", default="", help="cases whose name contains this text")
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    parser.add_argument("--align", default=os.path.join(ROOT, "align"), help="the program")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1,
                        help="cases at a time: the oracle computes with one thread")
    parser.add_argument("--work", default=os.path.join(ROOT, "build", "parity"))
    args = parser.parse_args()
    if args.list:
        print("\n".join(chosen_cases(args)))
        return 0
    if not os.access(args.align, os.X_OK):
        print(f"parity: {args.align} is not there; build it with make")
        return 1
    start, count, records, taken, computed = time.time(), Counter(), {}, 0.0, 0
    names = list(chosen_cases(args))
    parts = [names[i:i + PART] for i in range(0, len(names), PART)]
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(args.jobs, fork, begin_lane, (args, fork.Value("i"))) as pool:
        for part in pool.map(run_part, [args] * len(parts), parts):
            count.update(part.count)
            taken += part.align_seconds
            computed += part.computed
            for measure, record in part.records.items():
                keep_worst(records, measure, record)
    print_records(records)
    print(f"{time.time() - start:.0f} s, of which the program took {taken:.0f} s; "
          f"{computed} answers of the oracle were new")
    skipped = f", {count['skip']} skipped" if count["skip"] else ""
    print(f"{count['ok']} passed, {count['FAIL']} failed{skipped}")
    return 1 if count["FAIL"] or not count["ok"] else 0


if __name__ == "__main__":
    sys.exit(main())
