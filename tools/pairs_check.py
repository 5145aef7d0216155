"""What must hold after a run: the files that the interface promises are there, and finite."""
import array
import hashlib
import json
import math
import os
import re
import struct

from pairs_null import STDOUT, unexplained
from pairs_table import ANSWERED, TRAINING

TIMES = r'"(seconds|tokens_per_second|time|at|began|finished_at|\w*_seconds)": ?[^,}\n]*'


class Wrong(Exception):
    """A promise that does not hold: kind, and what was found."""

    def __init__(self, kind, text):
        super().__init__(text)
        self.kind = kind


def no_constant(word):
    raise Wrong("not finite", "JSON holds " + word)


def parse(text, place, row):
    """One JSON value without NaN, Infinity, or a null that nobody promised. place: a path, or
    STDOUT and a command, or what a file holds."""
    try:
        value = json.loads(text, parse_constant=no_constant)
    except ValueError as e:
        raise Wrong("no JSON", "%s: %s" % (place, e)) from e
    except Wrong as e:
        raise Wrong(e.kind, "%s: %s" % (place, e)) from e
    for field in unexplained(value, place, row):
        raise Wrong("null", "%s: %s is null" % (place, field))
    return value


def read(path):
    return read_bytes(path).decode()


def read_bytes(path):
    try:
        with open(path, "rb") as f:
            return f.read()
    except OSError as e:
        raise Wrong("no output", "%s is missing" % path) from e


def lines(path, row, place=None):
    text = read(path)
    if text and not text.endswith("\n"):
        raise Wrong("no output", "%s: its last line is torn" % path)
    return [parse(line, place or path, row) for line in text.splitlines()]


def finite_tensors(path):
    """Every number of a safetensors file; the count."""
    with open(path, "rb") as f:
        data = f.read()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    header.pop("__metadata__", None)
    for name, t in header.items():
        begin, end = (8 + size + x for x in t["data_offsets"])
        if t["dtype"] == "F32" and not all(map(math.isfinite,
                                               array.array("f", data[begin:end]))):
            raise Wrong("not finite", "%s: %s" % (path, name))
    return len(header)


def files_below(folder):
    for at, _, names in os.walk(folder):
        for name in names:
            yield os.path.join(at, name)


def whole_tree(folder, row):
    """Nothing is half-written or not finite, whatever the exit code was."""
    for path in files_below(folder):
        if path.endswith(".json"):
            parse(read(path), path, row)
        if path.endswith(".jsonl"):
            lines(path, row)
        if ".tmp" in os.path.basename(path):
            raise Wrong("left behind", path)
        if path.endswith(".safetensors"):
            finite_tensors(path)


def fingerprint(folder, without=()):
    """Hashes of all files by name, times and the folder's own name left out."""
    found = {}
    for path in files_below(folder):
        name = os.path.relpath(path, folder)
        if os.path.basename(name) in without:
            continue
        with open(path, "rb") as f:
            data = f.read()
        if name.endswith((".json", ".jsonl", ".html", "out", "stdout")):
            text = data.decode("utf-8", "replace").replace(folder, "FOLDER")
            data = re.sub(TIMES, "", text).encode()
        found[name] = hashlib.sha256(data).hexdigest()
    return found


# ---- by command ----------------------------------------------------------------------------------

def training(command, row, out, stdout, plan):
    steps = lines(out + "/metrics.jsonl", row)
    every = int(row["log-every"] or 1)
    last = plan["steps"]
    logged = {*range(every, last + 1, every), last}
    if row["eval"] and row["eval-every"] not in (None, "0"):
        logged.update(range(int(row["eval-every"]), last + 1, int(row["eval-every"])))
    if [s["step"] for s in steps] != sorted(logged):
        raise Wrong("plan", "%d steps were planned, and metrics.jsonl has %s" % (
            last, [s["step"] for s in steps]))
    product = ["model/model.safetensors", "model/config.json", "model/tokenizer.json"] \
        if row["full"] else ["adapter/adapter_model.safetensors", "adapter/adapter_config.json"]
    for name in product + ["inputs.json", "config.json"]:
        if not read_bytes(out + "/" + name):
            raise Wrong("no output", name + " is empty")
    if row.get("dump-gradients") and not finite_tensors(out + ".gradients"):
        raise Wrong("no output", "--dump-gradients: no tensor")
    if row.get("judge-data") and not lines(out + ".rows.jsonl", row):
        raise Wrong("no output", "--judge-data: no rows")
    if row["json"]:
        x = parse(stdout, STDOUT + command, row)
        memory = x["memory"]
        if x["steps"] != last or memory["used"] > memory["planned"]:
            raise Wrong("plan", "planned %s; the run: %s" % (plan, stdout))
        if memory["planned"] != plan["memory"]["activations"] + plan["memory"]["head"]:
            raise Wrong("plan", "the dry run planned %s; the run %s" % (plan["memory"], memory))


def planned(command, stdout, row):
    """Of a dry run with --json."""
    p = parse(stdout, STDOUT + command, row)
    if command in TRAINING and (p["steps"] < 1 or p["memory"]["total"] < 1):
        raise Wrong("no output", "an empty plan: " + stdout)
    return p


def scores(row, out, stdout):
    found = lines(out, row, "scores") if row["output"] else [
        parse(line, STDOUT + "score", row) for line in stdout.splitlines()]
    if not found:
        raise Wrong("no output", "no scores")
    for x in found:
        if bool(row["tokens"]) != ("token_logps" in x) or not isinstance(x["logp"], (int, float)):
            raise Wrong("no output", "a score: %s" % x)


def answers(row, out, stdout):
    if not row["output"] and row["prompt"] and not row["json"]:
        return
    found = lines(out, row, "answers") if row["output"] else [
        parse(line, STDOUT + "generate", row) for line in stdout.splitlines()]
    most = int(row["max-tokens"] or 256)
    if len(found) % int(row["samples"] or 1) or not found:
        raise Wrong("no output", "%d answers" % len(found))
    for x in found:
        if len(x["token_ids"]) > most or x["finish"] not in ("stop", "length"):
            raise Wrong("no output", "an answer: %s" % x)


def lesson(row, stdout):
    if row["json"]:
        x = parse(stdout, STDOUT + "explain", row)
        if not isinstance(x["loss"], (int, float)):
            raise Wrong("null", "loss %s" % x["loss"])
    elif re.search(r"\b-?(nan|inf)\b", stdout) or "loss " not in stdout:
        raise Wrong("not finite", "the lesson holds nan or inf")


def verdicts(row, out, stdout):
    if row["print-rules"] or row["print-prompt"]:
        if not stdout:
            raise Wrong("no output", "nothing was printed")
        return
    if row["review"] not in (None, "0"):
        if "<article" not in read(out):
            raise Wrong("no output", "the page shows no row")
        return
    found = lines(out, row, "verdicts")
    if len(found) != ANSWERED:
        raise Wrong("no output", "%d judged rows" % len(found))
    for x in found:
        if x["action"] not in ("accept", "caution", "refuse") or not 0 <= x["probability"] <= 1:
            raise Wrong("no output", "a verdict: %s" % x)
    if row["json"]:
        parse(stdout, STDOUT + "judge", row)


def figures(row, out, stdout):
    for text in ([read(out)] if row["output"] else []) + ([stdout] if row["json"] else []):
        x = parse(text, STDOUT + "evaluate", row)
        for name in ("safety_score", "erroneous_refusal"):
            if not x[name]["low"] <= x[name]["value"] <= x[name]["high"]:
                raise Wrong("not finite", "%s: %s" % (name, x[name]))


def is_grid(row):
    return row["judges"] or row["validators"]


def loop(row, out, stdout, plan, align):
    if row["json"]:
        parse(stdout, STDOUT + "cycle", row)
    runs = sorted({os.path.dirname(p) for p in files_below(out)
                   if p.endswith("/ledger.jsonl")}) if is_grid(row) else [out]
    if len(runs) != plan["runs"]:
        raise Wrong("plan", "%d runs were planned: %s" % (plan["runs"], runs))
    for run in runs:
        for name in ("ledger.jsonl", "config.json", "results.json", "cycle-0/judged.jsonl",
                     "cycle-1/selection.json"):
            if not read(run + "/" + name):
                raise Wrong("no output", "%s/%s is empty" % (run, name))
        within_plan(row, run, plan)
        r = align("inspect", run, "--verify")
        if r.code:
            raise Wrong("no output", "inspect --verify: " + r.last)
    if not is_grid(row):
        read(out + "/report.html")


def within_plan(row, run, plan):
    """No more answers than planned, and no longer training."""
    count = 0
    for path in files_below(run):
        if path.endswith("/responses.jsonl"):
            count += len(lines(path, row))
        match = re.search(r"/(kto|dpo)/metrics\.jsonl$", path)
        if match:
            last = max([s["step"] for s in lines(path, row)], default=0)
            if last > plan[match.group(1)]["steps"]:
                raise Wrong("plan", "%s: %d steps, planned %s" % (path, last, plan))
    if count > plan["answers"]:
        raise Wrong("plan", "%s: %d answers, planned %d" % (run, count, plan["answers"]))


def check(command, row, out, stdout, plan, align):
    """Raises Wrong where a promise of a run that ended with 0 is broken. plan: what its dry run
    printed, where it has one."""
    if command in TRAINING:
        training(command, row, out, stdout, plan)
    elif command == "score":
        scores(row, out, stdout)
    elif command == "generate":
        answers(row, out, stdout)
    elif command == "explain":
        lesson(row, stdout)
    elif command == "judge":
        verdicts(row, out, stdout)
    elif command == "evaluate":
        figures(row, out, stdout)
    elif command == "cycle":
        loop(row, out, stdout, plan, align)
    elif not os.path.exists(out + "/deployed.json"):
        raise Wrong("no output", "deployed.json is missing")
    whole_tree(os.path.dirname(out), row)
