#!/usr/bin/env python3
"""make_model.py - writes a published model with random weights: its files, not its knowledge.

    python tools/make_model.py --list | --check
    python tools/make_model.py NAME OUT [--layers N] [--gguf TYPE] [--seed S] [--data DIR]

Configuration, names, shapes and types of all tensors, their shards with the index, tokenizer and
chat template are those of the model on the hub; the weights are drawn from the seed, far enough from
zero that attention and SwiGLU leave their linear range. --layers keeps the first N layers: what is
left stands in the shards where it stood. --gguf writes OUT/NAME-TYPE.gguf beside the directory
(f32, f16, bf16, q8_0, q5_1, ...). Tensors go through memory one at a time: Llama-3.1-8B (16 GB) is
written with less than 4 GB.

Configurations, tokenizers and templates are read from the data directory (default: $ALIGN_DATA or
../shared/data). Where it has no file of a model, the published values stand below and --list says
"told"; a tokenizer that is not there is made here and padded to the model's vocabulary. --check
compares names, shards and sizes with the two real indexes there; its last line is "N passed, N
failed". Needs torch; with --gguf also safetensors and gguf.
"""
import argparse
import hashlib
import json
import math
import os
import shutil
import sys

import torch

import tiny_models

GB = 10 ** 9
TYPES = {"bfloat16": ("BF16", torch.bfloat16), "float16": ("F16", torch.float16),
         "float32": ("F32", torch.float32)}

# ---- the models ----------------------------------------------------------------------------------

LLAMA_8B = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
            "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 500000.0,
            "tie_word_embeddings": False, "torch_dtype": "bfloat16", "vocab_size": 128256,
            "bos_token_id": 128000, "eos_token_id": 128001}
LLAMA2_7B = {**LLAMA_8B, "intermediate_size": 11008, "num_key_value_heads": 32,
             "max_position_embeddings": 2048, "rope_theta": 10000.0, "vocab_size": 32000,
             "bos_token_id": 1, "eos_token_id": 2}
TINYLLAMA = {**LLAMA2_7B, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22,
             "num_key_value_heads": 4}
QWEN25_7B = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu",
             "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
             "num_attention_heads": 28, "num_key_value_heads": 4, "max_position_embeddings": 32768,
             "max_window_layers": 28, "sliding_window": 131072, "use_sliding_window": False,
             "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "tie_word_embeddings": False,
             "torch_dtype": "bfloat16", "vocab_size": 152064, "bos_token_id": 151643,
             "eos_token_id": 151645}
QWEN3_8B = {**QWEN25_7B, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3",
            "attention_bias": False, "head_dim": 128, "hidden_size": 4096,
            "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32,
            "num_key_value_heads": 8, "max_position_embeddings": 40960, "max_window_layers": 36,
            "sliding_window": None, "vocab_size": 151936}
SMOLLM3_3B = {**QWEN25_7B, "architectures": ["SmolLM3ForCausalLM"], "model_type": "smollm3",
              "attention_bias": False, "mlp_bias": False, "hidden_size": 2048,
              "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16,
              "max_position_embeddings": 65536, "no_rope_layer_interval": 4,
              "sliding_window": None, "rope_theta": 5000000.0, "tie_word_embeddings": True,
              "vocab_size": 128256, "bos_token_id": 128000, "eos_token_id": 128012}
QWEN25_05B = {**QWEN25_7B, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
              "num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True,
              "vocab_size": 151936}

V01, V02, V03 = (f"configs/Mistral-7B-Instruct-v0.{i}.config.json" for i in (1, 2, 3))
JINJA = "chat/templates/llama.cpp/meta-llama-"
# name -> configuration (a file or values, and what differs from them), tokenizer, chat template (a
# file, the hash of a published one, the tokenizer's "own", or None), largest size of a shard
MODELS = {
    "Llama-3.2-1B-Instruct": ("configs/Llama-3.2-1B-Instruct.config.json", {}, "llama3",
                              JINJA + "Llama-3.2-3B-Instruct.jinja", 5 * GB),
    "Llama-3.2-3B": ("configs/Llama-3.2-3B-base/config.json", {}, "llama3-base", None, 5 * GB),
    "Llama-3.2-3B-Instruct": ("configs/Llama-3.2-3B-Instruct.config.json", {}, "llama3",
                              JINJA + "Llama-3.2-3B-Instruct.jinja", 5 * GB),
    "Llama-3.1-8B": ("configs/Llama-3.1-8B-Instruct.config.json", {"eos_token_id": 128001},
                     "llama3-base", None, 5 * GB),
    "Llama-3.1-8B-Instruct": ("configs/Llama-3.1-8B-Instruct.config.json", {}, "llama3",
                              JINJA + "Llama-3.1-8B-Instruct.jinja", 5 * GB),
    "Meditron3-8B": ("configs/Llama-3.1-8B-Instruct.config.json",
                     {"eos_token_id": 128009, "head_dim": 128}, "llama3",
                     JINJA + "Llama-3.1-8B-Instruct.jinja", 5 * GB),
    "Meditron3-8B-axolotl": ("configs/Llama-3.1-8B-Instruct.config.json",
                             {"eos_token_id": 128009, "head_dim": 128}, "llama3", "47d5a7b4",
                             5 * GB),
    "Mistral-7B-v0.1": (V01, {}, "mistral", None, 10 * GB),
    "Mistral-7B-Instruct-v0.1": (V01, {}, "mistral", "7e995b37", 10 * GB),
    "Mistral-7B-v0.2": (V02, {}, "mistral", None, 5 * GB),
    "Mistral-7B-Instruct-v0.2": (V02, {}, "mistral", "7e995b37", 5 * GB),
    "Mistral-7B-v0.3": (V03, {}, "mistral-v0.3", None, 5 * GB),
    "Mistral-7B-Instruct-v0.3": (V03, {}, "mistral-v0.3", "own", 5 * GB),
    "zephyr-7b-beta": (V01, {}, "mistral", "4f39e3a4", 2 * GB),
    "BioMistral-7B": (V01, {}, "mistral", "7e995b37", 15 * GB),
    "TinyLlama-1.1B-Chat-v1.0": (TINYLLAMA, {}, "tinyllama", "own", 5 * GB),
    "meditron-7b": (LLAMA2_7B, {"vocab_size": 32017}, "tinyllama", None, 5 * GB),
    "Llama3-Med42-8B": (LLAMA_8B, {}, "llama3", "chat/templates/trl/llama3.jinja", 5 * GB),
    "OpenBioLLM-Llama3-8B": (LLAMA_8B, {}, "llama3-base", None, 5 * GB),
    "Qwen2.5-0.5B-Instruct": (QWEN25_05B, {}, "qwen", "d5495a1e", 5 * GB),
    "Qwen2.5-7B-Instruct": (QWEN25_7B, {}, "qwen", "d5495a1e", 4 * GB),
    "Qwen3-8B": (QWEN3_8B, {}, "qwen", "87a2728c", 4 * GB),
    "SmolLM3-3B": (SMOLLM3_3B, {}, "llama3-base", "3e0e275a", 5 * GB),
}
TOKENIZERS = {  # name -> tokenizer.json, tokenizer_config.json
    "llama3": ("tokenizers/llama3/tokenizer.json",
               "tokenizers/llama3/tokenizer_config.Llama-3.1-8B-finetune.json"),
    "llama3-base": ("tokenizers/llama3/tokenizer.json",
                    "configs/Llama-3.2-3B-base/tokenizer_config.json"),
    "mistral": ("tokenizers/mistral/tokenizer.json.v0.1",
                "tokenizers/mistral/tokenizer_config.json.v0.1"),
    "mistral-v0.3": ("tokenizers/mistral/tokenizer.json.v0.3",
                     "tokenizers/mistral/tokenizer_config.json.v0.3"),
    "tinyllama": ("tokenizers/tinyllama/tokenizer.json",
                  "tokenizers/tinyllama/tokenizer_config.json"),
}


def read_json(path):
    with open(path, encoding="utf-8") as f:
        return json.load(f)


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, indent=2, ensure_ascii=False)
        f.write("\n")


def configuration(name, data):
    """config.json of the whole model."""
    source, changes = MODELS[name][:2]
    config = dict(source) if isinstance(source, dict) else read_json(os.path.join(data, source))
    return {**config, **changes}


# ---- tensors and their shards --------------------------------------------------------------------


def tensors(config):
    """(name, shape) of all tensors, in the order of the modules."""
    h, f, v = (config[k] for k in ("hidden_size", "intermediate_size", "vocab_size"))
    heads = config["num_attention_heads"]
    d = config.get("head_dim") or h // heads
    q, g = heads * d, config.get("num_key_value_heads", heads) * d
    family = config["model_type"]
    attention = config.get("attention_bias", False)
    yield "model.embed_tokens.weight", (v, h)
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}."
        for module, rows, cols in (("q", q, h), ("k", g, h), ("v", g, h), ("o", h, q)):
            yield f"{at}self_attn.{module}_proj.weight", (rows, cols)
            if attention or (family == "qwen2" and module != "o"):
                yield f"{at}self_attn.{module}_proj.bias", (rows,)
        if family == "qwen3":
            yield f"{at}self_attn.q_norm.weight", (d,)
            yield f"{at}self_attn.k_norm.weight", (d,)
        for module, rows, cols in (("gate", f, h), ("up", f, h), ("down", h, f)):
            yield f"{at}mlp.{module}_proj.weight", (rows, cols)
        yield at + "input_layernorm.weight", (h,)
        yield at + "post_attention_layernorm.weight", (h,)
    yield "model.norm.weight", (h,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (v, h)


def size_of(shape, config):
    return math.prod(shape) * TYPES[config["torch_dtype"]][1].itemsize


def shards(name, config):
    """tensor -> file of the whole model, as transformers cuts it into shards."""
    limit, numbers, number, used = MODELS[name][4], {}, 1, 0
    for tensor, shape in tensors(config):
        size = size_of(shape, config)
        if used and used + size > limit:
            number, used = number + 1, 0
        used += size
        numbers[tensor] = number
    if number == 1:
        return {tensor: "model.safetensors" for tensor in numbers}
    return {t: f"model-{n:05}-of-{number:05}.safetensors" for t, n in numbers.items()}


def draw(tensor, shape, config, seed):
    """Random values of a tensor: the same for every number of layers."""
    digest = hashlib.sha256(f"{seed} {tensor}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    x = torch.randn(shape, generator=generator)
    if len(shape) == 1:
        x = x.mul_(0.2) if tensor.endswith("bias") else x.mul_(0.2).add_(1)
    else:
        x = x.mul_((1.5 if "embed" in tensor else 0.9) / math.sqrt(shape[1]))
    return x.to(TYPES[config["torch_dtype"]][1])


def write_shard(path, config, wanted, seed):
    """One file of safetensors: its header, then a tensor at a time."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for tensor, shape in wanted:
        size = size_of(shape, config)
        header[tensor] = {"dtype": TYPES[config["torch_dtype"]][0], "shape": list(shape),
                          "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for tensor, shape in wanted:
            draw(tensor, shape, config, seed).view(torch.uint8).numpy().tofile(f)
    return at


def write_weights(folder, name, whole, config, seed):
    """The shards of the layers that are kept, and their index."""
    files, total, kept = shards(name, whole), 0, list(tensors(config))
    for file in sorted({files[t] for t, _ in kept}):
        total += write_shard(os.path.join(folder, file), config,
                             [(t, s) for t, s in kept if files[t] == file], seed)
    if files[kept[0][0]] != "model.safetensors":
        write_json(os.path.join(folder, "model.safetensors.index.json"),
                   {"metadata": {"total_size": total},
                    "weight_map": {t: files[t] for t in sorted(t for t, _ in kept)}})
    return total


# ---- tokenizer and template ----------------------------------------------------------------------


def chat_template(name, setup, data):
    source = MODELS[name][3]
    if source in (None, "own"):
        return setup.get("chat_template") if source else None
    if source.endswith(".jinja"):
        with open(os.path.join(data, source), encoding="utf-8", newline="") as f:
            return f.read()
    with open(os.path.join(data, "chat", "templates", "published.jsonl"), encoding="utf-8") as f:
        return next(r["template"] for r in map(json.loads, f) if r["sha256"].startswith(source))


def write_tokenizer(folder, name, config, data):
    """Copied from the data, or made here and padded to the vocabulary; returns which."""
    kind = MODELS[name][2]
    real = kind in TOKENIZERS and all(os.path.exists(os.path.join(data, p))
                                      for p in TOKENIZERS[kind])
    setup_path = os.path.join(folder, "tokenizer_config.json")
    if real:
        shutil.copy(os.path.join(data, TOKENIZERS[kind][0]), os.path.join(folder, "tokenizer.json"))
        setup = read_json(os.path.join(data, TOKENIZERS[kind][1]))
    else:
        tiny_models.made_tokenizer(folder, words=2000, qwen=kind == "qwen")
        setup = read_json(setup_path)
        config.update(bos_token_id=0, eos_token_id=1)
    template = chat_template(name, setup, data)
    setup.pop("chat_template", None)
    write_json(setup_path, {**setup, **({"chat_template": template} if template else {})})
    return "real" if real else "made"


# ---- the whole -----------------------------------------------------------------------------------


def make(name, out, layers=None, seed=1, data=None):
    """Writes OUT/NAME and returns its path. The same arguments give the same bytes."""
    data, folder = data or tiny_models.data_directory(), os.path.join(out, name)
    recipe = [name, layers, seed, MODELS[name]]
    if tiny_models.is_made(folder, recipe):
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    whole = configuration(name, data)
    config = {**whole, "num_hidden_layers": min(layers or 10 ** 6, whole["num_hidden_layers"])}
    write_tokenizer(folder, name, config, data)
    write_json(os.path.join(folder, "config.json"), config)
    write_json(os.path.join(folder, "generation_config.json"),
               {k: config[k] for k in ("bos_token_id", "eos_token_id")})
    write_weights(folder, name, whole, config, seed)
    tiny_models.mark_made(folder, recipe)
    return folder


def describe(name, data):
    config = configuration(name, data)
    total = sum(size_of(s, config) for _, s in tensors(config))
    files = sorted(set(shards(name, config).values()))
    told = "told" if isinstance(MODELS[name][0], dict) else "file"
    return (f"{name:26} {config['model_type']:8} {config['num_hidden_layers']:3} layers "
            f"{total / GB:6.2f} GB in {len(files)} files, configuration {told}, "
            f"tokenizer {MODELS[name][2]}")


def check(data):
    """The two published indexes: the first with its shards, the second one file a tensor."""
    failed = 0
    for name, path, whole in (
            ("Llama-3.1-8B-Instruct", "configs/Llama-3.1-8B-Instruct.model.safetensors.index.json",
             True), ("Llama-3.2-3B", "configs/Llama-3.2-3B-base/model.safetensors.index.json", False)):
        config, index = configuration(name, data), read_json(os.path.join(data, path))
        files, real = shards(name, config), index["weight_map"]
        size = sum(size_of(s, config) for _, s in tensors(config))
        same = (files == real if whole else set(files) == set(real)) and \
            size == index["metadata"]["total_size"]
        print(f"{name}: {len(real)} tensors, {size} bytes: {'as published' if same else 'differs'}")
        failed += not same
    print(f"{2 - failed} passed, {failed} failed")
    return failed > 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", nargs="?", choices=list(MODELS), metavar="NAME")
    parser.add_argument("out", nargs="?")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--gguf", metavar="TYPE")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--data", default=tiny_models.data_directory())
    args = parser.parse_args()
    if args.list:
        print("\n".join(describe(name, args.data) for name in MODELS))
        return 0
    if args.check:
        return check(args.data)
    if not args.name or not args.out:
        parser.error("NAME and OUT are needed, or --list")
    folder = make(args.name, args.out, args.layers, args.seed, args.data)
    print(folder)
    if args.gguf:
        import model_gguf
        path = os.path.join(args.out, f"{args.name}-{args.gguf}.gguf")
        model_gguf.write(folder, path, args.gguf)
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
