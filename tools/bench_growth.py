"""bench_growth.py - does the cost of a DPO step grow as it should?

    python tools/bench_growth.py [--only tokens,layers,batch,vocabulary,shared] [--steps 6]

One model with random bf16 weights (width 1024, 4 layers, 2,048 ids), bf16 operands, made rows; then
one thing at a time is changed. Each line: seconds of a step (the median without the first), and the
slope: how much the time grew for what the count grew, log to log, from the line before; 1 is
proportional. What is expected:

  tokens       of a completion: 1, more where attention's T^2 begins to show
  layers       1, less where the head is a large share
  batch        1
  vocabulary   the head's share only: below 1, and memory stays flat
  shared       the same tokens for TRL, ever more of them in the prompt: the prompt goes through the
               model once, so time falls towards half; "of no sharing" is beside it
"""
import json
import math
import os
import random
import statistics
import tempfile

import bench_peers

BASE = {"layers": 4, "vocabulary": 2048, "batch": 2, "prompt": 64, "completion": 128}


def make_model(args, layers, vocabulary):
    """A model directory of this size, made once."""
    import torch
    from safetensors.torch import save_file
    import tiny_models
    folder = os.path.join(args.work, f"growth-{layers}-{vocabulary}")
    if os.path.exists(os.path.join(folder, "config.json")):
        return folder
    os.makedirs(folder, exist_ok=True)
    tiny_models.made_tokenizer(folder)
    _, bos, eos = tiny_models.vocabulary(folder)
    H, F, Q, G, D = 1024, 2816, 16, 4, 64
    torch.manual_seed(1)

    def weights(*shape):
        return (torch.randn(shape) * 0.02).to(torch.bfloat16)

    ones = torch.ones(H, dtype=torch.bfloat16)
    tensors = {"model.embed_tokens.weight": weights(vocabulary, H),
               "model.norm.weight": ones.clone()}
    for i in range(layers):
        p = f"model.layers.{i}."
        tensors |= {p + "input_layernorm.weight": ones.clone(),
                    p + "post_attention_layernorm.weight": ones.clone(),
                    p + "self_attn.q_proj.weight": weights(Q * D, H),
                    p + "self_attn.k_proj.weight": weights(G * D, H),
                    p + "self_attn.v_proj.weight": weights(G * D, H),
                    p + "self_attn.o_proj.weight": weights(H, Q * D),
                    p + "mlp.gate_proj.weight": weights(F, H),
                    p + "mlp.up_proj.weight": weights(F, H),
                    p + "mlp.down_proj.weight": weights(H, F)}
    save_file(tensors, os.path.join(folder, "model.safetensors"))
    with open(os.path.join(folder, "config.json"), "w", encoding="ascii") as f:
        json.dump({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": H,
                   "intermediate_size": F, "num_hidden_layers": layers, "num_attention_heads": Q,
                   "num_key_value_heads": G, "head_dim": D, "vocab_size": vocabulary,
                   "tie_word_embeddings": True, "max_position_embeddings": 8192,
                   "rms_norm_eps": 1e-5, "rope_theta": 1e4, "torch_dtype": "bfloat16",
                   "hidden_act": "silu", "bos_token_id": bos, "eos_token_id": eos}, f)
    return folder


def make_rows(folder, count, prompt, completion, file):
    """Pairs of so many tokens: made sentences, cut."""
    from tokenizers import Tokenizer
    import tiny_models
    tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    draw = random.Random(3)

    def text(tokens):
        ids = []
        while len(ids) < tokens:
            ids += tokenizer.encode(tiny_models.sentence(draw) + " ", add_special_tokens=False).ids
        return tokenizer.decode(ids[:tokens])

    with open(file, "w", encoding="utf-8") as f:
        for _ in range(count):
            f.write(json.dumps({"prompt": text(prompt) + "\n", "chosen": text(completion),
                                "rejected": text(completion)}) + "\n")


def step(args, layers, vocabulary, batch, prompt, completion):
    """Seconds of a step, tokens of one as TRL counts them, peak of private memory."""
    model = make_model(args, layers, vocabulary)
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        rows, out = os.path.join(folder, "rows.jsonl"), os.path.join(folder, "run")
        make_rows(model, batch * 2, prompt, completion, rows)
        seen = bench_peers.run([args.align, "dpo", "-m", model, "--data", rows, "-o", out,
                                "--batch", str(batch), "--steps", str(args.steps), "--threads",
                                str(args.threads), "--save-every", "0", "--max-length", "8192",
                                "--precision", "bf16", "--quiet"])
        with open(os.path.join(out, "metrics.jsonl"), encoding="utf-8") as f:
            log = [json.loads(line) for line in f]
    return (statistics.median(r["seconds"] for r in log[1:]), log[-1]["num_tokens"] / len(log),
            seen["private"])


def table(args, name, counts, change):
    """One table: a line for each count."""
    print(f"\n{name:>12} {'tokens':>8} {'seconds':>9} {'slope':>6} {'MiB':>7}", flush=True)
    before = None
    for count in counts:
        seconds, tokens, private = step(args, **{**BASE, **change(count)})
        slope = ""
        if before:
            slope = f"{math.log(seconds / before[1]) / math.log(count / before[0]):6.2f}"
        print(f"{count:12} {tokens:8.0f} {seconds:9.4f} {slope:>6} {private / 2**20:7.0f}",
              flush=True)
        before = (count, seconds)


def shared_table(args, length):
    """Rows of one length, more and more of it prompt."""
    print(f"\n{'in prompt':>12} {'tokens':>8} {'seconds':>9} {'of no sharing':>13}", flush=True)
    first = None
    for share in (0.05, 0.25, 0.5, 0.75, 0.9):
        prompt = int(length * share)
        seconds, tokens, _ = step(args, **{**BASE, "prompt": prompt, "completion": length - prompt})
        first = first or seconds
        print(f"{share:12.0%} {tokens:8.0f} {seconds:9.4f} {seconds / first:13.2f}", flush=True)


def main():
    p = bench_peers.parser(__doc__)
    p.add_argument("--only", type=lambda t: t.split(","),
                   default=["tokens", "layers", "batch", "vocabulary", "shared"])
    p.add_argument("--steps", type=int, default=6)
    args = p.parse_args()
    os.makedirs(args.work, exist_ok=True)
    print("base: " + ", ".join(f"{k} {v}" for k, v in BASE.items()))
    if "tokens" in args.only:
        table(args, "tokens", (64, 128, 256, 512, 1024, 2048), lambda n: {"completion": n})
    if "layers" in args.only:
        table(args, "layers", (2, 4, 8, 16), lambda n: {"layers": n})
    if "batch" in args.only:
        table(args, "batch", (1, 2, 4, 8), lambda n: {"batch": n})
    if "vocabulary" in args.only:
        table(args, "vocabulary", (2048, 8192, 32768, 131072), lambda n: {"vocabulary": n})
    if "shared" in args.only:
        shared_table(args, 512)


if __name__ == "__main__":
    main()
