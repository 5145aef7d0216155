"""bench_peers.py - the speed and memory of `align` beside TRL + PEFT, llama.cpp and PyTorch.

    python tools/bench_peers.py [--what steps,decode,gemm] [--shape llama-3.2-3b] [--layers 2,6]
                                [--methods dpo,kto] [--rows short,long] [--dtypes bf16,f32]
                                [--peers default,fastest] [--rounds 1] [--threads N] [--out FILE]

steps   the same model directory (random weights), rows, adapter, batch, order and learning rate go
        through `align dpo|kto` and through TRL's trainer, three epochs, in turns:
          default   TRL as it comes: gradient checkpointing on, reference computed in each step
          fastest   no checkpointing, reference log-probs precomputed
        "step" is the median over steps without the first. "run" counts for TRL the precomputed
        reference and trainer.train(), and for align the whole process: reading, hashing, planning,
        the reference's pass, all steps, saving. Memory is the peak of the process; "private" is
        what of it is no file (align maps its weights). Both mean losses are printed: in f32 they
        must agree to the four digits that transformers keeps in its log, or the two did not do the
        same work; in bf16 TRL rounds activations, too, and a young adapter's small additions get
        lost in that.
decode  a prompt of 512 tokens, and decoding of 1, 8 and 32 sequences, by `align bench` and by
        llama.cpp at the same shape; a GGUF file of the random model is written first. --verify
        compares llama.cpp's logits with transformers', which shows that the file is the model.
gemm    every product of `align bench --only gemm` by torch.nn.functional.linear and torch.matmul.

Each contestant runs in a process of its own, in turns, --rounds times; figures are medians. Run it
on a machine that does nothing else. Rows come from the data directory ($ALIGN_DATA, default
../shared/data): short = XSTest prompts, GPT-4's answer chosen, Mistral's rejected, those of middle
length: about 30 + 115 tokens; long = the same after earlier exchanges, about 430 + 128; rasbt = an
instruction set's pairs. Without that directory sentences are made up. Needs tools/requirements.txt
and, for decode, llama-cpp-python 0.3.36 (built from source, which takes some minutes) and gguf
0.19.0.
"""
import argparse
import csv
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DATA = os.environ.get("ALIGN_DATA") or os.path.join(ROOT, "..", "shared", "data")
# Hidden width, feed-forward, layers, heads, key heads, head width, vocabulary, tied, positions,
# rope (theta, llama3 factor or None), norm eps, tokenizer of tiny_models.py, stored type.
SHAPES = {
    "tinystories": (128, 384, 2, 8, 4, 16, 2048, True, 512, (1e4, None), 1e-6, "tinystories", "f32"),
    "llama-3.2-1b": (2048, 8192, 16, 32, 8, 64, 128256, True, 131072, (5e5, 32), 1e-5, "llama3",
                     "bf16"),
    "llama-3.2-3b": (3072, 8192, 28, 24, 8, 128, 128256, True, 131072, (5e5, 32), 1e-5, "llama3",
                     "bf16"),
    "llama-3.1-8b": (4096, 14336, 32, 32, 8, 128, 128256, False, 131072, (5e5, 8), 1e-5, "llama3",
                     "bf16"),
    "mistral-7b": (4096, 14336, 32, 32, 8, 128, 32768, False, 32768, (1e6, None), 1e-5,
                   "mistral-v0.3", "bf16"),
}
LEARNING_RATE, SEED = 1e-5, 42
LONG_PROMPT, LONG_COMPLETION = 431, 128  # tokens
SHORT_COMPLETION = (60, 170)  # tokens, mean of both answers
PROMPT, DECODE_PROMPT, DECODE_STEPS, SEQUENCES = 512, 16, 12, (1, 8, 32)
COLD_BYTES = 256 << 20  # weights that rotate through products: more than caches hold


# ---- processes ----------------------------------------------------------------------------------


class Peaks(threading.Thread):
    """Watches a process until it ends: peak memory (VmHWM), and of that what is no file. rusage
    would not do: its ru_maxrss starts from that of the parent."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.path, self.resident, self.private = f"/proc/{pid}/status", 0, 0

    def run(self):
        while True:
            try:
                with open(self.path, encoding="ascii") as f:
                    fields = dict(line.split(":", 1) for line in f)
                self.resident = max(self.resident, int(fields["VmHWM"].split()[0]) << 10)
                self.private = max(self.private, int(fields["RssAnon"].split()[0]) << 10)
            except (OSError, KeyError, ValueError):  # it has ended, or is about to
                return
            time.sleep(0.01)


def run(command, env=None):
    """Standard output, seconds and peak memory of a command that must succeed."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as out, \
            tempfile.TemporaryFile("w+", encoding="utf-8") as err:
        began = time.monotonic()
        process = subprocess.Popen(command, stdout=out, stderr=err, env={**os.environ, **(env or {})})
        peaks = Peaks(process.pid)
        peaks.start()
        status = process.wait()
        seconds = time.monotonic() - began
        peaks.join()
        if status:
            err.seek(0)
            sys.exit(f"{' '.join(command)[:200]}\nended with {status}:\n{err.read()[-3000:]}")
        out.seek(0)
        return {"out": out.read(), "seconds": seconds, "resident": peaks.resident,
                "private": peaks.private}


def work(kind, job, args):
    """A worker of this file in a process of its own; its last line of output is JSON."""
    home = tempfile.mkdtemp(dir=args.work)  # caches of an earlier run would make the next one faster
    try:
        result = run([sys.executable, os.path.abspath(__file__), "--worker", kind, json.dumps(job)],
                     {"HF_HOME": home, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
                      "OMP_NUM_THREADS": str(args.threads)})
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return {**result, **json.loads(result.pop("out").splitlines()[-1])}


# ---- models and rows (workers) ------------------------------------------------------------------


def make_model(job):
    """A model directory with random weights, as transformers starts them."""
    import torch
    import transformers
    import tiny_models
    H, F, _, Q, G, D, V, tied, positions, rope, eps, tokenizer, _ = SHAPES[job["shape"]]
    folder = job["folder"]
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    tiny_models.put_tokenizer(folder, tokenizer, DATA)
    _, bos, eos = tiny_models.vocabulary(folder)
    parameters = {"rope_type": "default", "rope_theta": rope[0]}
    if rope[1]:
        parameters = {"rope_type": "llama3", "rope_theta": rope[0], "factor": rope[1],
                      "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                      "original_max_position_embeddings": 8192}
    family = "Mistral" if job["shape"].startswith("mistral") else "Llama"
    config = getattr(transformers, family + "Config")(
        hidden_size=H, intermediate_size=F, num_hidden_layers=job["layers"], num_attention_heads=Q,
        num_key_value_heads=G, head_dim=D, vocab_size=V, tie_word_embeddings=tied,
        max_position_embeddings=positions, rope_parameters=parameters, rms_norm_eps=eps,
        bos_token_id=bos, eos_token_id=eos, **({"sliding_window": None} if family == "Mistral" else {}))
    torch.manual_seed(1)
    torch.set_default_dtype(torch_type(job["dtype"]))
    getattr(transformers, family + "ForCausalLM")(config).save_pretrained(folder)
    return {}


def torch_type(name):
    import torch
    return {"bf16": torch.bfloat16, "f32": torch.float32}[name]


def read_csv(name):
    with open(os.path.join(DATA, "datasets", "xstest", name), encoding="utf-8", newline="") as f:
        return {row["id"]: row for row in csv.DictReader(f)}


def xstest_pairs():
    good = read_csv("completions_gpt4_gpteval.csv")
    bad = read_csv("completions_mistralinstruct_gpteval.csv")
    return [{"prompt": f"You are a helpful and careful assistant.\n\nUser: {good[i]['prompt']}\n\n"
                       f"Assistant:\n", "chosen": good[i]["completion"].strip(),
             "rejected": bad[i]["completion"].strip()} for i in good
            if i in bad and good[i]["completion"].strip() != bad[i]["completion"].strip()]


def rasbt_pairs():
    with open(os.path.join(DATA, "datasets", "rasbt", "instruction-data-with-preference.json"),
              encoding="utf-8") as f:
        rows = json.load(f)
    return [{"prompt": r["instruction"] + ("\n" + r["input"] if r["input"] else "") + "\n",
             "chosen": r["chosen"], "rejected": r["rejected"]} for r in rows
            if r["chosen"] != r["rejected"]]


def made_pairs():
    import tiny_models
    draw = random.Random(7)

    def text(low, high):
        return " ".join(tiny_models.sentence(draw) for _ in range(draw.randint(low, high)))

    return [{"prompt": text(2, 3) + "\n", "chosen": text(6, 14), "rejected": text(6, 14)}
            for _ in range(400)]


def make_rows(job):
    """Pairs, evenly spaced through their file; for KTO each gives one row, labels in turns."""
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(os.path.join(job["model"], "tokenizer.json"))

    def cut(text, n):
        return tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids[:n])

    def count(text):
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    there = os.path.isdir(os.path.join(DATA, "datasets"))
    pairs = (rasbt_pairs() if job["rows"] == "rasbt" else xstest_pairs()) if there else made_pairs()
    if job["rows"] == "short":
        low, high = SHORT_COMPLETION
        pairs = [p for p in pairs if 2 * low <= count(p["chosen"]) + count(p["rejected"]) <= 2 * high]
    n, most = job["pairs"], SHAPES[job["shape"]][8]
    chosen = [dict(pairs[i * len(pairs) // n]) for i in range(n)]
    if job["rows"] == "long":
        prompt_tokens = min(LONG_PROMPT, most - LONG_COMPLETION - 2)
        for i, row in enumerate(chosen):
            before, at = "", i * len(pairs) // n
            while count(before) < prompt_tokens:
                at += 1
                other = pairs[at % len(pairs)]
                before += other["prompt"] + other["chosen"] + "\n"
            end = row["prompt"]
            row["prompt"] = cut(before, max(prompt_tokens - count(end), 0)) + "\n" + end
            for side in ("chosen", "rejected"):
                text = row[side]
                while count(text) < LONG_COMPLETION:
                    at += 1
                    text += " " + pairs[at % len(pairs)][side]
                row[side] = cut(text, LONG_COMPLETION)
    if job["method"] == "kto":
        chosen = [{"prompt": r["prompt"], "completion": r["rejected" if i % 2 else "chosen"],
                   "label": i % 2 == 0} for i, r in enumerate(chosen)]
    with open(job["file"], "w", encoding="utf-8") as f:
        f.writelines(json.dumps(r, ensure_ascii=False) + "\n" for r in chosen)
    return {}


# ---- steps --------------------------------------------------------------------------------------


def trl_worker(job):
    """A run of TRL's trainer: seconds of each step, of train(), of the precomputed reference."""
    import torch
    import trl
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

    steps, precompute = [], [0.0]

    class Clock(TrainerCallback):
        def on_step_begin(self, *_, **__):
            self.began = time.monotonic()

        def on_step_end(self, *_, **__):
            steps.append(time.monotonic() - self.began)

    torch.set_num_threads(job["threads"])
    name = job["method"].upper()
    make_config, base = getattr(trl, name + "Config"), getattr(trl, name + "Trainer")

    class Trainer(base):
        def _precompute_ref_logps(self, *a, **k):
            began = time.monotonic()
            result = super()._precompute_ref_logps(*a, **k)
            precompute[0] += time.monotonic() - began
            return result

    fastest = {"gradient_checkpointing": False, "precompute_ref_log_probs": True}
    with tempfile.TemporaryDirectory() as folder, open(job["rows"], encoding="utf-8") as f:
        config = make_config(
            output_dir=folder, per_device_train_batch_size=job["batch"], use_cpu=True,
            num_train_epochs=job["epochs"], learning_rate=LEARNING_RATE, seed=SEED, data_seed=SEED,
            bf16=job["dtype"] == "bf16", logging_steps=1, save_strategy="no", report_to="none",
            disable_tqdm=True, **(fastest if job["peer"] == "fastest" else {}))
        trainer = Trainer(
            model=AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch_type(job["dtype"])),
            args=config, train_dataset=Dataset.from_list([json.loads(line) for line in f]),
            processing_class=AutoTokenizer.from_pretrained(job["model"]), callbacks=[Clock()],
            peft_config=LoraConfig(task_type="CAUSAL_LM", r=job["rank"], lora_alpha=2 * job["rank"],
                                   target_modules="all-linear"))
        began = time.monotonic()
        trainer.train()
        seconds = time.monotonic() - began
        log = [r for r in trainer.state.log_history if "loss" in r]
    return {"steps": steps, "run": seconds + precompute[0], "precompute": precompute[0],
            "losses": [r["loss"] for r in log],
            "tokens": log[-1].get("num_tokens", 0) / len(log), "version": trl.__version__}


def align_run(job, args):
    """The same run by align."""
    folder = tempfile.mkdtemp(dir=args.work)
    out = os.path.join(folder, "run")
    command = [args.align, job["method"], "-m", job["model"], "--data", job["rows"], "-o", out,
               "--batch", str(job["batch"]), "--epochs", str(job["epochs"]), "--lr",
               str(LEARNING_RATE), "--rank", str(job["rank"]), "--alpha", str(2 * job["rank"]),
               "--targets", "all-linear", "--order", "trl", "--seed", str(SEED), "--save-every", "0",
               "--precision", job["dtype"], "--threads", str(job["threads"]), "--quiet"]
    result = run(command + (["--kl-pairing", "trl"] if job["method"] == "kto" else []))
    with open(os.path.join(out, "metrics.jsonl"), encoding="utf-8") as f:
        log = [json.loads(line) for line in f]
    shutil.rmtree(folder)
    return {**result, "steps": [r["seconds"] for r in log], "run": result["seconds"],
            "losses": [r["loss"] for r in log], "tokens": log[-1]["num_tokens"] / len(log)}


def summary(runs):
    """Medians over the rounds; a step's over all steps but the first of each round."""
    steps = [s for r in runs for s in (r["steps"][1:] or r["steps"])]
    return {"step": statistics.median(steps), "run": statistics.median(r["run"] for r in runs),
            "resident": statistics.median(r["resident"] for r in runs),
            "private": statistics.median(r["private"] for r in runs),
            "tokens_per_second": runs[0]["tokens"] / statistics.median(steps),
            "tokens": runs[0]["tokens"], "losses": runs[0]["losses"]}


def compare_steps(args, layers, dtype, rows, method):
    """One block of the table: align, then each peer as a multiple of it."""
    model = model_folder(args, layers, dtype)
    file = os.path.join(args.work, f"{args.shape}-{rows}-{method}-{args.pairs}.jsonl")
    work("rows", {"model": model, "shape": args.shape, "rows": rows, "method": method,
                  "pairs": args.pairs, "file": file}, args)
    job = {"model": model, "rows": file, "method": method, "dtype": dtype, "batch": args.batch,
           "epochs": args.epochs, "rank": args.rank, "threads": args.threads}
    runs = {"align": [], **{p: [] for p in args.peers}}
    for _ in range(args.rounds):
        runs["align"].append(align_run(job, args))
        for peer in args.peers:
            runs[peer].append(work("trl", {**job, "peer": peer}, args))
    sums = {name: summary(r) for name, r in runs.items()}
    ours = sums["align"]
    print(f"\n{method} {rows} {dtype}, {args.shape} cut to {layers} layers: {args.pairs} "
          f"{'pairs' if method == 'dpo' else 'rows'}, batch {args.batch}, {args.epochs} epochs, "
          f"rank {args.rank}, {ours['tokens']:.0f} tokens a step\n"
          f"  {'':14} {'step':>9} {'tokens/s':>9} {'run':>9} {'MB':>7} {'private':>7} {'loss':>10}"
          f"   times align: step, run, MB", flush=True)
    for name, s in sums.items():
        times = "" if name == "align" else \
            f"   {s['step'] / ours['step']:6.2f} {s['run'] / ours['run']:6.2f} " \
            f"{s['resident'] / ours['resident']:6.2f}"
        print(f"  {name if name == 'align' else 'TRL ' + name:14} {s['step']:9.3f} "
              f"{s['tokens_per_second']:9.1f} {s['run']:9.2f} {s['resident'] / 1e6:7.0f} "
              f"{s['private'] / 1e6:7.0f} {statistics.mean(s['losses']):10.6f}{times}", flush=True)
    return {"layers": layers, "dtype": dtype, "rows": rows, "method": method, "results": sums,
            "rounds": [{"name": n, **{k: v for k, v in r.items() if k != "out"}}
                       for n, rs in runs.items() for r in rs]}


def model_folder(args, layers, dtype):
    """The random model of this size, made on first need."""
    folder = os.path.join(args.work, f"{args.shape}-{layers}-{dtype}")
    if not os.path.exists(os.path.join(folder, "made")):
        work("model", {"shape": args.shape, "layers": layers, "dtype": dtype, "folder": folder}, args)
        open(os.path.join(folder, "made"), "w", encoding="ascii").close()
    return folder


# ---- decoding -----------------------------------------------------------------------------------


def gguf_worker(job):
    """The model directory as a GGUF file without vocabulary."""
    import model_gguf
    model_gguf.write(job["model"], job["file"], job["dtype"], vocabulary=False)
    return {}


class Llama:
    """llama.cpp by its C interface: token ids in, logits out."""

    def __init__(self, file, threads):
        import llama_cpp
        import numpy
        self.c, self.np = llama_cpp, numpy
        self.silent = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self.silent, None)
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(
            file.encode(), llama_cpp.llama_model_default_params())
        p = llama_cpp.llama_context_default_params()
        p.n_seq_max = max(SEQUENCES)
        p.n_ctx = max(PROMPT + 64, max(SEQUENCES) * 64)
        p.kv_unified = True  # one sequence may then fill it all
        p.n_batch = p.n_ubatch = PROMPT
        p.n_threads = p.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, p)
        if not self.model or not self.context:
            sys.exit(f"llama.cpp cannot open {file}")
        self.batch = llama_cpp.llama_batch_init(PROMPT, 0, 1)
        self.words = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    def clear(self):
        self.c.llama_memory_clear(self.c.llama_get_memory(self.context), True)

    def put(self, tokens):
        """tokens: (id, position, sequence, wanted); returns the logits of those wanted."""
        b = self.batch
        b.n_tokens = len(tokens)
        for i, (token, position, sequence, wanted) in enumerate(tokens):
            b.token[i], b.pos[i], b.logits[i] = token, position, wanted
            b.n_seq_id[i], b.seq_id[i][0] = 1, sequence
        status = self.c.llama_decode(self.context, b)
        if status:
            sys.exit(f"llama_decode gave {status}")
        return [self.np.ctypeslib.as_array(self.c.llama_get_logits_ith(self.context, i),
                                           (self.words,)) for i, t in enumerate(tokens) if t[3]]


def llama_worker(job):
    """What `align bench --only decode` measures, by llama.cpp."""
    llama = Llama(job["file"], job["threads"])
    draw = random.Random(3)
    batches, prompts = [], []
    ids = [draw.randrange(llama.words) for _ in range(PROMPT)]
    prompt = min(PROMPT, job["positions"] // 2) if job["positions"] <= PROMPT else PROMPT
    for n in SEQUENCES:
        llama.clear()
        for s in range(n):
            logits = llama.put([(ids[(s + i) % PROMPT], i, s, i == DECODE_PROMPT - 1)
                                for i in range(DECODE_PROMPT)])
        newest, seconds = [int(logits[0].argmax())] * n, []
        for step in range(DECODE_STEPS):
            began = time.monotonic()
            rows = llama.put([(newest[s], DECODE_PROMPT + step, s, 1) for s in range(n)])
            newest = [int(r.argmax()) for r in rows]
            seconds.append(time.monotonic() - began)
        batches.append({"sequences": n, "tokens_per_second": n / statistics.median(seconds)})
    for _ in range(3):
        llama.clear()
        began = time.monotonic()
        llama.put([(ids[i], i, 0, i == prompt - 1) for i in range(prompt)])[0].argmax()
        prompts.append(time.monotonic() - began)
    return {"decode": {"batches": batches},
            "prompt": {"tokens": prompt, "tokens_per_second": prompt / statistics.median(prompts)}}


def verify_worker(job):
    """The largest difference of llama.cpp's logits from transformers', and their spread."""
    import torch
    from transformers import AutoModelForCausalLM
    ids = [(7 * i + 5) % SHAPES[job["shape"]][6] for i in range(24)]
    logits = Llama(job["file"], job["threads"]).put(
        [(token, i, 0, i == len(ids) - 1) for i, token in enumerate(ids)])[0]
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
    with torch.no_grad():
        wanted = model(torch.tensor([ids])).logits[0, -1]
    return {"worst": float((torch.tensor(logits) - wanted).abs().max()), "spread": float(wanted.std())}


def compare_decode(args, layers, dtype):
    model, file = model_folder(args, layers, dtype), \
        os.path.join(args.work, f"{args.shape}-{layers}-{dtype}.gguf")
    if not os.path.exists(file):
        work("gguf", {"model": model, "file": file, "dtype": dtype}, args)
    job = {"file": file, "threads": args.threads, "positions": SHAPES[args.shape][8]}
    if args.verify:
        v = work("verify", {**job, "model": model, "shape": args.shape}, args)
        print(f"\nGGUF: logits differ from transformers' by at most {v['worst']:.4f}; their standard "
              f"deviation is {v['spread']:.4f}")
    command = [args.align, "bench", "--shape", args.shape, "--layers", str(layers), "--only", "decode",
               "--precision", dtype, "--threads", str(args.threads), "--json", "--quiet"]
    ours, theirs = [], []
    for _ in range(args.rounds):
        ours.append(json.loads(run(command)["out"]))
        theirs.append(work("llama", job, args))

    def rates(runs):
        rows = {f"{n} at once": [b["tokens_per_second"] for r in runs for b in r["decode"]["batches"]
                                 if b["sequences"] == n] for n in SEQUENCES}
        rows["prompt"] = [r["prompt"]["tokens_per_second"] for r in runs]
        return {name: statistics.median(x) for name, x in rows.items()}

    a, b = rates(ours), rates(theirs)
    peaks = ours[0]["peaks"]
    print(f"\ndecoding {dtype}, {args.shape} cut to {layers} layers; peaks: "
          f"{peaks['f32_gflops']:.0f} f32, {peaks['bf16_gflops']:.0f} bf16 GFLOP/s, "
          f"{peaks['read_gbs']:.1f} GB/s\n  {'tokens/s':14} {'align':>9} {'llama.cpp':>9} {'ratio':>7}")
    for name in a:
        print(f"  {name:14} {a[name]:9.2f} {b[name]:9.2f} {a[name] / b[name]:7.2f}", flush=True)
    return {"layers": layers, "dtype": dtype, "align": a, "llama.cpp": b, "peaks": peaks}


# ---- matrix products ----------------------------------------------------------------------------


def gemm_worker(job):
    """Median seconds of each product by PyTorch, weights taken from memory in turns."""
    import torch
    torch.set_num_threads(job["threads"])
    seconds, weights, key = [], [], None
    for r in job["rows"]:
        if key != (r["dtype"], r["N"], r["K"]):
            key = (r["dtype"], r["N"], r["K"])
            dtype = torch_type(r["dtype"])
            bytes_each = r["N"] * r["K"] * (2 if r["dtype"] == "bf16" else 4)
            weights.clear()
            weights += [torch.randn(r["N"], r["K"], dtype=dtype) / 32
                        for _ in range(-(-COLD_BYTES // bytes_each))]
        backward = r["direction"] == "backward"
        x = torch.randn(r["T"], r["N"] if backward else r["K"], dtype=dtype)
        times, began, turn = [], time.monotonic(), 0
        with torch.no_grad():
            while len(times) < 100 and (len(times) < 3 or time.monotonic() - began < 0.5):
                w = weights[turn % len(weights)]
                turn += 1
                start = time.monotonic()
                x @ w if backward else torch.nn.functional.linear(x, w)
                times.append(time.monotonic() - start)
        seconds.append(statistics.median(times))
    return {"seconds": seconds}


def compare_gemm(args):
    command = [args.align, "bench", "--shape", args.shape, "--only", "gemm", "--threads",
               str(args.threads), "--json", "--quiet"]
    ours, theirs = [], []
    for _ in range(args.rounds):
        ours.append(json.loads(run(command)["out"]))
        theirs.append(work("gemm", {"rows": ours[0]["gemm"], "threads": args.threads}, args)["seconds"])
    peaks, rows = ours[0]["peaks"], []
    print(f"\nmatrix products, {args.shape}; peaks: {peaks['f32_gflops']:.0f} f32, "
          f"{peaks['bf16_gflops']:.0f} bf16 GFLOP/s\n  {'weights':17} {'dtype':5} {'':8} {'T':>5} "
          f"{'align':>8} {'share':>6} {'PyTorch':>8} {'share':>6} {'ratio':>6}")
    for i, g in enumerate(ours[0]["gemm"]):
        a = statistics.median(o["gemm"][i]["seconds"] for o in ours)
        b = statistics.median(t[i] for t in theirs)
        flops, peak = 2e-9 * g["T"] * g["K"] * g["N"], peaks[g["dtype"] + "_gflops"]
        rows.append({**g, "seconds": a, "peer_seconds": b})
        print(f"  {g['weights']:17} {g['dtype']:5} {g['direction']:8} {g['T']:5} {flops / a:8.1f} "
              f"{100 * flops / a / peak:5.1f}% {flops / b:8.1f} {100 * flops / b / peak:5.1f}% "
              f"{b / a:6.2f}", flush=True)
    return {"peaks": peaks, "rows": rows}


# ---- the whole ----------------------------------------------------------------------------------

WORKERS = {"model": make_model, "rows": make_rows, "trl": trl_worker, "gguf": gguf_worker,
           "llama": llama_worker, "verify": verify_worker, "gemm": gemm_worker}


def parser(text):
    """Options that all measuring scripts have; text: a docstring for --help."""
    p = argparse.ArgumentParser(description=text, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--align", default=os.path.join(ROOT, "align"))
    p.add_argument("--work", default=os.path.join(ROOT, "build", "bench"))
    return p


def main():
    if len(sys.argv) == 4 and sys.argv[1] == "--worker":
        sys.stdout.flush()
        real, sys.stdout = sys.stdout, sys.stderr  # libraries print; the last line must be ours
        result = WORKERS[sys.argv[2]](json.loads(sys.argv[3]))
        print(json.dumps(result), file=real)
        return
    words = lambda text: text.split(",")
    p = parser(__doc__)
    p.add_argument("--what", type=words, default=["steps", "decode", "gemm"])
    p.add_argument("--shape", choices=SHAPES, default="llama-3.2-3b")
    p.add_argument("--layers", type=lambda t: [int(x) for x in words(t)], default=[2])
    p.add_argument("--methods", type=words, default=["dpo", "kto"])
    p.add_argument("--rows", type=words, default=["short", "long"])
    p.add_argument("--dtypes", type=words, help="bf16,f32; default: how the shape stores its weights")
    p.add_argument("--peers", type=words, default=["default", "fastest"])
    p.add_argument("--pairs", type=int, default=8, help="pairs, or rows of KTO, in the data set")
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--epochs", type=int, default=3)
    p.add_argument("--rank", type=int, default=16)
    p.add_argument("--rounds", type=int, default=1)
    p.add_argument("--verify", action="store_true")
    p.add_argument("--out", help="all figures as JSON")
    args = p.parse_args()
    args.dtypes = args.dtypes or [SHAPES[args.shape][12]]
    os.makedirs(args.work, exist_ok=True)
    results = {"shape": args.shape, "threads": args.threads, "steps": [], "decode": [], "gemm": None}
    for layers in args.layers:
        for dtype in args.dtypes:
            for rows in args.rows if "steps" in args.what else []:
                for method in args.methods:
                    results["steps"].append(compare_steps(args, layers, dtype, rows, method))
            if "decode" in args.what:
                results["decode"].append(compare_decode(args, layers, dtype))
    if "gemm" in args.what:
        results["gemm"] = compare_gemm(args)
    if args.out:
        with open(args.out, "w", encoding="utf-8") as f:
            json.dump(results, f, indent=1)


if __name__ == "__main__":
    main()
