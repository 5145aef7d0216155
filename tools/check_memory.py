"""check_memory.py - the memory that a run takes, against the plan that --dry-run prints.

    python tools/check_memory.py [--shape llama-3.2-1b] [--layers 2] [--threads N]

Models of bench_peers.py (random weights) and rows of its kinds; DPO, KTO and SFT, f32 and bf16
operands, DPO also with a --memory one byte too small to keep activations, and with an adapter on the
head: the largest private memory of the process (RssAnon: what is no file) against the plan's total
without the mapped weights. The design asks for 5 % or 16 MB; the last line counts what is outside.
"""
import json
import os
import shutil
import sys
import tempfile

import bench_peers

SHARE, BYTES = 0.05, 16 << 20
BATCH, STEPS = 4, 2


def rows_for(method, file, folder):
    """Pairs as they are, or their chosen sides: labelled rows, or answers."""
    if method == "dpo":
        return file
    out = os.path.join(folder, method + ".jsonl")
    with open(file, encoding="utf-8") as f, open(out, "w", encoding="utf-8") as g:
        for i, row in enumerate(map(json.loads, f)):
            made = {"prompt": row["prompt"], "completion": row["rejected" if i % 2 else "chosen"]}
            if method == "kto":
                made["label"] = i % 2 == 0
            g.write(json.dumps(made) + "\n")
    return out


def check(args, model, method, rows, extra):
    """Plan and peak of one run: whether they differ by too much, and the plan's total."""
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        command = [args.align, method, "-m", model, "--data", rows_for(method, rows, folder),
                   "--batch", str(BATCH), "--steps", str(STEPS), "--threads", str(args.threads),
                   "--save-every", "0", "--lr", "1e-4", "--quiet", *extra]
        plan = bench_peers.run(command + ["--dry-run", "--json"])
        seen = bench_peers.run(command + ["-o", os.path.join(folder, "run")])
    memory = json.loads(plan["out"])["memory"]
    planned = memory["total"] - memory["weights"]  # those are mapped: a file's
    gap = seen["private"] - planned
    good = abs(gap) <= max(SHARE * planned, BYTES)
    print(f"  {method:4} {' '.join(extra):44} plan {planned / 2**20:8.1f} MiB, peak "
          f"{seen['private'] / 2**20:8.1f}, {gap / 2**20:+6.1f} = {100 * gap / planned:+5.1f} %"
          f"{'' if good else '   OUTSIDE'}", flush=True)
    return not good, memory["total"]


def main():
    p = bench_peers.parser(__doc__)
    p.add_argument("--shape", choices=bench_peers.SHAPES, default="llama-3.2-1b")
    p.add_argument("--layers", type=int, default=2)
    args = p.parse_args()
    os.makedirs(args.work, exist_ok=True)
    stored, wrong = bench_peers.SHAPES[args.shape][-1], 0
    model = bench_peers.model_folder(args, args.layers, stored)
    for kind in ("short", "long"):
        file = os.path.join(args.work, f"{args.shape}-memory-{kind}.jsonl")
        bench_peers.work("rows", {"model": model, "shape": args.shape, "rows": kind,
                                  "method": "dpo", "pairs": 8, "file": file}, args)
        print(f"{args.shape} cut to {args.layers} layers, {kind} rows, batch {BATCH}:")
        for method in ("dpo", "kto", "sft"):
            bad, total = check(args, model, method, file, [])
            wrong += bad + check(args, model, method, file, ["--precision", "bf16"])[0]
            if method == "dpo":
                wrong += check(args, model, method, file, ["--memory", str(total - 1)])[0]
        wrong += check(args, model, "dpo", file, ["--targets", "q_proj,lm_head"])[0]
    print(f"{wrong} outside")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
