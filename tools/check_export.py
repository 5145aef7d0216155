#!/usr/bin/env python3
"""check_export.py - the GGUF files that align writes, against the gguf package and llama.cpp.

    PYTHON=python3 python3 tools/check_export.py [--align PROGRAM] [--gguf FILE] [--hf DIR]
                                                 [--llama-cpp DIR]

On SmolLM2-135M-Instruct (tools/smollm2.sh brings it, check_smollm2.py unpacks it) with two adapters
that are trained here, one of them made rsLoRA with an alpha_pattern:

  - llama.cpp (the package llama-cpp-python; without it this part is left out) runs the base with
    the exported adapter, and merged files in F32, F16, BF16 and Q8_0. It must choose our greedy
    tokens, 64 for each prompt, up to the first tie (its two best closer than its noise), and the
    log-probs must be as near to ours as they are for the base alone, stored the same way;
  - with --llama-cpp, a checkout of llama.cpp, its converters write the same models and adapter:
    every tensor must be the same bytes, and every value that both have the same value.

Prints "N passed, N failed". compare_model and compare_adapter are for tools/parity.py.
"""
import argparse
import json
import math
import os
import shutil
import subprocess
import sys

import gguf
import numpy as np

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
WORK = os.path.join(ROOT, "build", "export")
TOKENS = 64
ROPE, PRE = "rope_freqs.weight", "tokenizer.ggml.pre"
TEXT = ("The quick  brown fox\n\n\tdoesn't jump; caf\u00e9, \u4f60\u597d, "
        "\u0420\u0443\u0441\u0441\u043a\u0438\u0439 12345 3.14 \U0001f600 "
        "def f(x):\n    return x**2  # !!! ")
# In float32 llama.cpp and we add in another order; otherwise it also rounds the inputs of products
# (to f16, bf16, or blocks of 8 bits), which ours are not. Mean |difference| of a log-prob by type.
NOISE = {"F32": 5e-5, "F16": 5e-3, "BF16": 5e-2, "Q8_0": 5e-2, "Q4_1": 5e-2}
TIMES = 3  # so much more than for the base alone is still noise

PROMPTS = ["Name the planets.", "What is the capital of Italy?", "Write a haiku about rain.",
           "How do I boil an egg?", "Can I take ibuprofen with alcohol?", "Why is the sky blue?"]
ROWS = [("What is the capital of France?", "It is Paris, and it is lovely in spring."),
        ("Name a colour.", "Blue, like the sea, is a colour."),
        ("How do bees make honey?", "They gather nectar and dry it in wax cells."),
        ("Tell me a joke.", "Why did the crow cross the road? To see its cousin.")]


def chat(prompt):
    return f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"


# ---- the gguf package ----------------------------------------------------------------------------


def permute(w, heads):
    """Rows of queries or keys as llama.cpp's converter orders them: halves interleaved."""
    halves = w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:])
    return halves.swapaxes(1, 2).reshape(w.shape)


def ordered(name, w, config):
    heads = {"q": config["num_attention_heads"], "k": config["num_key_value_heads"]}
    kind = name.split(".attn_")[1][0] if ".attn_q." in name or ".attn_k." in name else None
    return permute(w, heads[kind]) if kind else w


def as_stored(w, wanted):
    """Type and bytes of a float32 array as the package writes it."""
    kind = gguf.GGMLQuantizationType[wanted if w.ndim > 1 else "F32"]
    if w.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
        kind = gguf.GGMLQuantizationType.F16
    return kind.name, gguf.quants.quantize(np.ascontiguousarray(w), kind).tobytes()


def llama3_divisors(config):
    """What llama.cpp's converter writes as rope_freqs.weight; None without Llama 3's scaling."""
    rope = config.get("rope_parameters") or {**(config.get("rope_scaling") or {}),
                                             "rope_theta": config.get("rope_theta")}
    if rope.get("rope_type") != "llama3":
        return None
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    base = np.float32(rope["rope_theta"])
    freqs = 1 / base ** (np.arange(0, head, 2, dtype=np.float32) / np.float32(head))
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    wave = 2 * math.pi / freqs.astype(np.float64)
    old = rope["original_max_position_embeddings"]
    smooth = np.clip((old / wave - low) / (high - low), 0, 1)
    return 1 / ((1 - smooth) / rope["factor"] + smooth)


def compare_model(path, tensors, config, wanted):
    """What of a file is not what the package makes of these tensors (name -> float32 array) in the
    type `wanted`, and of the configuration: a list of texts."""
    reader, faults = gguf.GGUFReader(path), []
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    found = {t.name: t for t in reader.tensors}
    expected = {}
    for name, w in tensors.items():
        to = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if to == "output.weight" and config.get("tie_word_embeddings"):
            continue
        expected[to] = as_stored(ordered(to, w, config), wanted)
    divisors = llama3_divisors(config)
    if set(found) != set(expected) | ({ROPE} if divisors is not None else set()):
        faults.append(f"tensors: {sorted(set(found) ^ set(expected))[:3]}")
    elif divisors is not None and not np.allclose(found[ROPE].data, divisors, rtol=1e-5, atol=0):
        faults.append(f"{ROPE} is {found[ROPE].data}, expected {divisors}")
    for name in sorted(set(found) & set(expected)):
        kind, raw = expected[name]
        if found[name].tensor_type.name != kind or found[name].data.tobytes() != raw:
            faults.append(f"{name}: other {kind} numbers than the package's")
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    values = {"general.architecture": "llama", "llama.block_count": config["num_hidden_layers"],
              "llama.context_length": config["max_position_embeddings"],
              "llama.embedding_length": config["hidden_size"],
              "llama.feed_forward_length": config["intermediate_size"],
              "llama.attention.head_count": config["num_attention_heads"],
              "llama.attention.head_count_kv": config["num_key_value_heads"],
              "llama.rope.dimension_count": head, "llama.vocab_size": config["vocab_size"]}
    for key, want in values.items():
        got = reader.fields[key].contents() if key in reader.fields else None
        if got != want:
            faults.append(f"{key} is {got}, expected {want}")
    if len(reader.fields["tokenizer.ggml.tokens"].contents()) != config["vocab_size"]:
        faults.append("tokenizer.ggml.tokens: not one for each row of the embedding")
    return faults


def adapter_scales(config, modules, ranks):
    """alpha / r or alpha / sqrt(r) of each module, by PEFT's patterns."""
    from peft.utils.other import get_pattern_key
    scales = {}
    for module in modules:
        patterns = config.get("alpha_pattern") or {}
        key = get_pattern_key(patterns.keys(), module) if patterns else None
        alpha, r = patterns.get(key, config["lora_alpha"]), ranks[module]
        scales[module] = alpha / (math.sqrt(r) if config.get("use_rslora") else r)
    return scales


def compare_adapter(path, folder, config):
    """The largest difference between (alpha / r) B A of a file and scale B A of a PEFT directory,
    relative to the largest number of that update; names and shapes must be the same."""
    from safetensors.numpy import load_file
    reader, worst = gguf.GGUFReader(path), 0
    with open(os.path.join(folder, "adapter_config.json"), encoding="utf-8") as f:
        peft = json.load(f)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    tensors = {k.removeprefix("base_model.model."): w.astype(np.float64)
               for k, w in load_file(os.path.join(folder, "adapter_model.safetensors")).items()}
    modules = sorted(k.removesuffix(".lora_A.weight") for k in tensors if ".lora_A." in k)
    scales = adapter_scales(peft, modules, {m: tensors[m + ".lora_A.weight"].shape[0]
                                            for m in modules})
    alpha = reader.fields["adapter.lora.alpha"].contents()
    found = {t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float64)
             for t in reader.tensors}
    if len(found) != 2 * len(modules):
        return math.inf
    for module in modules:
        name = names.get_name(module) + ".weight"
        a, b = found[name + ".lora_a"], found[name + ".lora_b"]
        want = scales[module] * ordered(name, tensors[module + ".lora_B.weight"], config) \
            @ tensors[module + ".lora_A.weight"]
        got = alpha / a.shape[0] * b @ a
        if got.shape != want.shape:
            return math.inf
        worst = max(worst, np.abs(got - want).max() / max(np.abs(want).max(), 1e-30))
    return worst


def llama_ids(path):
    """The ids of TEXT by llama.cpp, from the vocabulary of a file."""
    from llama_cpp import Llama
    return Llama(path, vocab_only=True, verbose=False).tokenize(TEXT.encode(), add_bos=False)


# ---- SmolLM2 -------------------------------------------------------------------------------------


class Check:
    def __init__(self, args):
        self.args, self.passed, self.failed = args, 0, 0

    def says(self, name, good, detail):
        self.passed, self.failed = self.passed + bool(good), self.failed + (not good)
        print(f"{'ok' if good else 'FAIL'}: {name}: {detail}", flush=True)

    def align(self, *arguments):
        done = subprocess.run([self.args.align, *arguments], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"align {arguments[0]}: {done.stderr.strip()}")
        return done.stdout

    def path(self, name):
        return os.path.join(WORK, name)

    def rows(self, name, rows):
        with open(self.path(name), "w", encoding="utf-8") as f:
            f.writelines(json.dumps(row) + "\n" for row in rows)
        return self.path(name)

    def adapters(self):
        """One as it was trained, one of which config and meaning are changed: rsLoRA, one alpha
        more. lora_alpha is lower, so that the model still writes sentences."""
        rows = self.rows("sft.jsonl", [{"prompt": chat(p), "completion": " " + a} for p, a in ROWS])
        self.align("sft", "-m", self.args.gguf, "--data", rows, "--steps", "8", "--batch", "2",
                   "--rank", "8", "--lr", "1e-3", "--parse-special", "-o", self.path("run"))
        plain, other = self.path("run/adapter"), self.path("rslora")
        shutil.copytree(plain, other)
        name = os.path.join(other, "adapter_config.json")
        with open(name, encoding="utf-8") as f:
            config = json.load(f)
        config.update({"use_rslora": True, "lora_alpha": 8,
                       "alpha_pattern": {"layers.3.self_attn.q_proj": 20, "v_proj": 5}})
        with open(name, "w", encoding="utf-8") as f:
            json.dump(config, f)
        return {"plain": plain, "rslora": other}

    # -- llama.cpp runs them

    def run_llama(self, model, lora):
        """For each prompt: ids of prompt and answer, log-probs of the answer, distance between its
        two best log-probs at each."""
        from llama_cpp import Llama
        f32 = 0  # of keys and values, which llama.cpp keeps in F16 otherwise
        llama = Llama(model, lora_path=lora, n_ctx=512, n_threads=2, n_batch=512, logits_all=True,
                      type_k=f32, type_v=f32, verbose=False)
        answers = []
        for prompt in PROMPTS:
            ids = llama.tokenize(chat(prompt).encode(), add_bos=False, special=True)
            llama.reset()
            llama.eval(ids)
            answer, logps, gaps = [], [], []
            while len(answer) < TOKENS and (not answer or answer[-1] != llama.token_eos()):
                z = llama.scores[llama.n_tokens - 1].astype(np.float64)
                z -= np.log(np.exp(z - z.max()).sum()) + z.max()
                best = np.argsort(z)[-2:]
                answer.append(int(best[1]))
                logps.append(z[best[1]])
                gaps.append(z[best[1]] - z[best[0]])
                llama.eval([answer[-1]])
            answers.append((ids, answer, logps, gaps, llama.detokenize(answer).decode()))
        del llama
        return answers

    def run_ours(self, model, adapter, answers):
        """Our greedy answers as ids, and our log-probs of the answers of llama.cpp."""
        more = ["--adapter", adapter] if adapter else []
        prompts = self.rows("prompts.jsonl", [{"prompt": chat(p)} for p in PROMPTS])
        out = self.path("answers.jsonl")
        self.align("generate", "-m", model, *more, "--data", prompts, "--raw", "--parse-special",
                   "--temperature", "0", "--max-tokens", str(TOKENS), "-o", out)
        with open(out, encoding="utf-8") as f:
            greedy = [json.loads(line)["token_ids"] for line in f]
        rows = self.rows("rows.jsonl", [{"prompt": chat(p), "completion": a[4]}
                                        for p, a in zip(PROMPTS, answers)])
        self.align("score", "-m", model, *more, "--data", rows, "--tokens", "--parse-special",
                   "-o", self.path("scores.jsonl"))
        with open(self.path("scores.jsonl"), encoding="utf-8") as f:
            scores = [json.loads(line) for line in f]
        return greedy, scores

    def served(self, name, kind, llama, ours, most):
        """llama: (model, lora); ours: (model, adapter). Returns the mean difference."""
        answers = self.run_llama(*llama)
        greedy, scores = self.run_ours(*ours, answers)
        differences, ties, faults = [], [], []
        for prompt, (_, ids, logps, gaps, _), mine, score in zip(PROMPTS, answers, greedy, scores):
            if score["token_ids"] == ids[:len(score["token_ids"])]:
                differences += [abs(a - b) for a, b in zip(logps, score["token_logps"])]
            first = next((i for i, (a, b) in enumerate(zip(ids, mine)) if a != b), None)
            if first is None:
                continue
            said = f"{prompt} token {first}: {ids[first]} or {mine[first]}, {gaps[first]:.4f} apart"
            (ties if gaps[first] < 10 * most else faults).append(said)
        mean = float(np.mean(differences)) if differences else math.inf
        good = not faults and mean <= most and len(differences) > 20 * len(PROMPTS)
        self.says(f"{name}: greedy answers and log-probs", good,
                  f"{len(differences)} log-probs differ by {mean:.2e} in the mean, "
                  f"{max(differences, default=0):.2e} at most (allowed mean {most:.1e})"
                  + "".join("; tie: " + t for t in ties) + "".join("; OTHER: " + t for t in faults))
        return mean

    def serve(self, adapters):
        gguf_file, hf = self.args.gguf, self.args.hf
        base = self.served("base, Q4_1", "Q4_1", (gguf_file, None), (gguf_file, None),
                           NOISE["Q4_1"])
        for name, folder in adapters.items():
            lora = self.path(name + ".gguf")
            self.align("export", "-m", gguf_file, "--adapter", folder, "-o", lora)
            self.served(f"base, Q4_1, with {name}", "Q4_1", (gguf_file, lora), (gguf_file, folder),
                        TIMES * base)
        whole = self.path("base-F32.gguf")
        self.align("export", "-m", hf, "-o", whole)
        for name, folder in adapters.items():
            self.served(f"exported base, F32, with {name}", "F32",
                        (whole, self.path(name + ".gguf")), (hf, folder), NOISE["F32"])
        for kind in ("F32", "F16", "BF16", "Q8_0"):
            path = self.path(f"merged-{kind}.gguf")
            self.align("merge", "-m", hf, "--adapter", adapters["rslora"], "-o", path, "--dtype",
                       kind.lower())
            self.served(f"merged, {kind}", kind, (path, None), (path, None), NOISE[kind])

    # -- its converters write them

    def same_files(self, name, ours, theirs):
        a, b = gguf.GGUFReader(ours), gguf.GGUFReader(theirs)
        ta, tb = ({t.name: (t.tensor_type.name, list(t.shape), t.data.tobytes())
                   for t in r.tensors} for r in (a, b))
        other = [k for k in sorted(set(ta) | set(tb)) if ta.get(k) != tb.get(k)]
        self.says(f"{name}: tensors", not other, f"{len(tb)} tensors, {len(other)} not the same "
                  f"bytes {other[:3]}")
        skipped = ("GGUF.", "general.name", "general.basename", "general.size_label",
                   "general.finetune", "general.quantized_by", "general.organization")
        va, vb = ({k: f.contents() for k, f in r.fields.items() if not k.startswith(skipped)}
                  for r in (a, b))
        differ = [k for k in sorted(set(va) & set(vb)) if va[k] != vb[k]]
        if differ == [PRE] and llama_ids(ours) == llama_ids(theirs):
            differ = []  # two names for what is one with these merges
        self.says(f"{name}: values", not differ,
                  f"{len(set(va) & set(vb))} in both; other: {differ}; only ours: "
                  f"{sorted(set(va) - set(vb))}; only theirs: {sorted(set(vb) - set(va))}")

    def convert(self, adapters):
        at, hf = self.args.llama_cpp, self.args.hf
        env = {**os.environ, "PYTHONPATH": os.path.join(at, "gguf-py")}
        for kind in ("f32", "f16", "bf16", "q8_0"):
            ours, theirs = self.path(f"ours-{kind}.gguf"), self.path(f"theirs-{kind}.gguf")
            self.align("export", "-m", hf, "-o", ours, "--dtype", kind)
            subprocess.run([sys.executable, os.path.join(at, "convert_hf_to_gguf.py"), hf,
                            "--outtype", kind, "--outfile", theirs], env=env, check=True,
                           capture_output=True)
            self.same_files(f"converter, {kind}", ours, theirs)
        subprocess.run([sys.executable, os.path.join(at, "convert_lora_to_gguf.py"), "--base", hf,
                        "--outtype", "f32", "--outfile", self.path("theirs-lora.gguf"),
                        adapters["plain"]], env=env, check=True, capture_output=True)
        self.same_files("converter, adapter", self.path("plain.gguf"),
                        self.path("theirs-lora.gguf"))


def smollm2(args):
    """Finds or brings the file and its directory; 0 with the reason where that is not possible."""
    if not args.gguf:
        done = subprocess.run(["sh", os.path.join(ROOT, "tools", "smollm2.sh")],
                              env={**os.environ, "PYTHON": sys.executable}, capture_output=True,
                              text=True)
        if done.returncode:
            print("left out: " + done.stderr.strip())
            return 0
        args.gguf = os.path.join(ROOT, done.stdout.strip())
    if not args.hf:
        import check_smollm2
        args.hf = os.path.join(check_smollm2.WORK, "hf")
        if not os.path.exists(os.path.join(args.hf, "model.safetensors")):
            check_smollm2.unpack(args.gguf, args.hf)
    return 1


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--align", default=os.path.join(ROOT, "align"))
    parser.add_argument("--gguf", help="the file, if it is there already")
    parser.add_argument("--hf", help="its numbers as a directory in F32, if it is there already")
    parser.add_argument("--llama-cpp", help="a checkout of llama.cpp: its converters are compared")
    args = parser.parse_args()
    if not smollm2(args):
        print("0 passed, 0 failed")
        return
    shutil.rmtree(WORK, ignore_errors=True)
    os.makedirs(WORK)
    check = Check(args)
    adapters = check.adapters()
    try:
        import llama_cpp  # noqa: F401
        check.serve(adapters)
    except ImportError:
        print("left out: llama.cpp itself (pip install llama-cpp-python compiles it)")
        for name, folder in adapters.items():
            check.align("export", "-m", args.gguf, "--adapter", folder, "-o",
                        check.path(name + ".gguf"))
    with open(os.path.join(args.hf, "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    for name, folder in adapters.items():
        worst = compare_adapter(check.path(name + ".gguf"), folder, config)
        check.says(f"adapter {name}", worst < 1e-6, f"update differs by {worst:.1e} at most")
    if args.llama_cpp:
        check.convert(adapters)
    else:
        print("left out: llama.cpp's converters (--llama-cpp DIR, a checkout)")
    print(f"{check.passed} passed, {check.failed} failed")
    sys.exit(check.failed > 0)


if __name__ == "__main__":
    main()
