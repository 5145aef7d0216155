#!/usr/bin/env python3
"""model_gguf.py - writes a Hugging Face model directory as a GGUF file, with the gguf package.

    python tools/model_gguf.py MODEL FILE.gguf [--type f32|f16|bf16|q8_0|...] [--no-vocabulary]

Keys, names and the order of rows are those that llama.cpp's converter gives a model of the families
llama, mistral, qwen2, qwen3 and smollm3; matrices are stored in the type, vectors as F32. Tensors
go through memory one at a time. Needs gguf, torch and safetensors.
"""
import argparse
import json
import math
import os
import sys

import gguf
import numpy
import torch
from safetensors import safe_open

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
          r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
          r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3",
                 "smollm3": "smollm3"}
PAIRED = ("llama", "smollm3")  # the halves of each head are interleaved in queries and keys
IN_LAYER = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
            "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
            "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
            "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
            "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}


def read_json(folder, name):
    """A JSON file of the folder; {} where there is none."""
    try:
        with open(os.path.join(folder, name), encoding="utf-8") as f:
            return json.load(f)
    except FileNotFoundError:
        return {}


# ---- tensors -------------------------------------------------------------------------------------


def tensor_name(name):
    """What GGUF files call a tensor; None for one that they leave out."""
    whole = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight":
             "output_norm.weight", "lm_head.weight": "output.weight"}
    if name in whole or not name.startswith("model.layers."):
        return whole.get(name)
    layer, rest = name.removeprefix("model.layers.").split(".", 1)
    module, end = rest.rsplit(".", 1)
    return f"blk.{layer}.{IN_LAYER[module]}.{end}"


def open_tensors(folder):
    """name -> the open file that holds it, in the order of the files."""
    index = read_json(folder, "model.safetensors.index.json")
    names = sorted(set(index["weight_map"].values())) if index else ["model.safetensors"]
    files = [safe_open(os.path.join(folder, n), "pt") for n in names]
    return {name: f for f in files for name in f.keys()}


def interleave(x, heads):
    """Rows i and i + half of each head become neighbours, as llama.cpp turns them."""
    return x.reshape(heads, 2, x.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(x.shape)


def read_tensor(source, name, config, architecture):
    x = source[name].get_tensor(name).to(torch.float32).numpy()
    heads = {"q_proj": config["num_attention_heads"],
             "k_proj": config.get("num_key_value_heads") or config["num_attention_heads"]}
    module = name.split(".")[-2]
    if architecture in PAIRED and module in heads:
        x = interleave(x, heads[module])
    return numpy.ascontiguousarray(x)


def stored_type(shape, wanted):
    """Vectors stay F32, and so do rows that are no whole number of blocks."""
    kind = gguf.GGMLQuantizationType[wanted.upper()]
    block = gguf.GGML_QUANT_SIZES[kind][0]
    return gguf.GGMLQuantizationType.F32 if len(shape) < 2 or shape[-1] % block else kind


def stored_bytes(shape, kind):
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return math.prod(shape) // block * size


# ---- configuration -------------------------------------------------------------------------------


def rope_of(config):
    """(theta, scaling or {}), as transformers 4 or 5 writes them."""
    new = config.get("rope_parameters") or {}
    scaling = new or config.get("rope_scaling") or {}
    theta = new.get("rope_theta") or config.get("rope_theta", 10000.0)
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    return theta, {**scaling, "rope_type": kind} if kind != "default" else {}


def rope_factors(theta, scaling, head):
    """What divides each frequency under Llama 3's scaling."""
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    original, factor = scaling["original_max_position_embeddings"], scaling["factor"]
    out = []
    for i in range(head // 2):
        wave = 2 * math.pi * theta ** (2 * i / head)
        smooth = (original / wave - low) / (high - low)
        out.append(1 if wave < original / high else factor if wave > original / low else
                   1 / ((1 - smooth) / factor + smooth))
    return numpy.array(out, numpy.float32)


def put_rope(w, config, head):
    """The keys of rotary positions; the factors, where Llama 3's scaling needs them."""
    theta, scaling = rope_of(config)
    w.add_rope_dimension_count(head)
    w.add_rope_freq_base(theta)
    if scaling.get("rope_type") == "llama3":
        return rope_factors(theta, scaling, head)
    if scaling:
        w.add_rope_scaling_type(gguf.RopeScalingType(scaling["rope_type"]))
        w.add_rope_scaling_factor(scaling["factor"])
    if scaling.get("rope_type") == "yarn":
        w.add_rope_scaling_orig_ctx_len(scaling.get("original_max_position_embeddings",
                                                    config["max_position_embeddings"]))
        for key, put in (("attention_factor", w.add_rope_scaling_yarn_attn_factor),
                         ("beta_fast", w.add_rope_scaling_yarn_beta_fast),
                         ("beta_slow", w.add_rope_scaling_yarn_beta_slow)):
            if scaling.get(key) is not None:
                put(scaling[key])
    return None


def put_configuration(w, config):
    heads = config["num_attention_heads"]
    head = config.get("head_dim") or config["hidden_size"] // heads
    w.add_block_count(config["num_hidden_layers"])
    w.add_context_length(config["max_position_embeddings"])
    w.add_embedding_length(config["hidden_size"])
    w.add_feed_forward_length(config["intermediate_size"])
    w.add_head_count(heads)
    w.add_head_count_kv(config.get("num_key_value_heads") or heads)
    w.add_key_length(head)
    w.add_value_length(head)
    w.add_layer_norm_rms_eps(config["rms_norm_eps"])
    w.add_vocab_size(config["vocab_size"])
    if config["model_type"] == "mistral" and config.get("sliding_window"):
        w.add_sliding_window(config["sliding_window"])
    return put_rope(w, config, head)


# ---- vocabulary ----------------------------------------------------------------------------------


def word_cut(tokenizer):
    """tokenizer.ggml.pre of a byte-level tokenizer.json."""
    outer = tokenizer["pre_tokenizer"]
    steps = outer.get("pretokenizers", [outer])
    regex = [s["pattern"].get("Regex") for s in steps if s["type"] == "Split"]
    whole = tokenizer["model"].get("ignore_merges")
    if regex == [LLAMA3]:
        return "llama-bpe" if whole else "smaug-bpe"
    if regex:
        return {QWEN2: "qwen2", TEKKEN: "tekken"}[regex[0]]
    return "smollm" if steps[0]["type"] == "Digits" else "gpt-2"


def texts_of_merges(tokenizer):
    return [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]


def put_words(w, tokenizer, tokens):
    """Merges of a byte-level vocabulary, or scores that give a SentencePiece one the same order."""
    merges = texts_of_merges(tokenizer)
    if not tokenizer["model"].get("byte_fallback"):
        w.add_tokenizer_model("gpt2")
        w.add_tokenizer_pre(word_cut(tokenizer))
        w.add_token_merges(merges)
        return
    rank = {}
    for i, merge in enumerate(merges):
        rank.setdefault(merge.replace(" ", ""), i)
    w.add_tokenizer_model("llama")
    w.add_token_scores([-float(rank.get(t, len(merges) + i)) for i, t in enumerate(tokens)])
    outer = tokenizer.get("pre_tokenizer") or {}
    prefix = outer.get("prepend_scheme", "always") != "never"
    w.add_add_space_prefix(prefix)


def token_types(tokens, tokenizer, named):
    unknown, kinds = tokenizer["model"].get("unk_token"), gguf.TokenType
    added = {t["id"]: t["special"] for t in tokenizer["added_tokens"]}
    out = []
    for i, token in enumerate(tokens):
        if i not in named:
            out.append(kinds.UNUSED)
        elif token == unknown:
            out.append(kinds.UNKNOWN)
        elif i in added:
            out.append(kinds.CONTROL if added[i] else kinds.USER_DEFINED)
        else:
            is_byte = len(token) == 6 and token.startswith("<0x") and token.endswith(">")
            out.append(kinds.BYTE if is_byte else kinds.NORMAL)
    return out


def put_vocabulary(w, folder, config):
    tokenizer, setup = read_json(folder, "tokenizer.json"), read_json(folder, "tokenizer_config.json")
    named = {i: t for t, i in tokenizer["model"]["vocab"].items()}
    named.update({t["id"]: t["content"] for t in tokenizer["added_tokens"]})
    tokens = [named.get(i, f"[PAD{i}]") for i in range(max(config["vocab_size"], max(named) + 1))]
    ids = {t: i for i, t in named.items()}
    put_words(w, tokenizer, tokens)
    w.add_token_list(tokens)
    w.add_token_types(token_types(tokens, tokenizer, named))
    for key, put in (("bos_token", w.add_bos_token_id), ("eos_token", w.add_eos_token_id),
                     ("pad_token", w.add_pad_token_id)):
        token = setup.get(key)
        token = token["content"] if isinstance(token, dict) else token
        if token in ids:
            put(ids[token])
    outer = tokenizer.get("post_processor") or {}
    single = [p["single"] for p in outer.get("processors", [outer]) if "single" in p]
    w.add_add_bos_token(bool(single) and "SpecialToken" in single[0][0])
    w.add_add_eos_token(bool(single) and "SpecialToken" in single[0][-1])
    template = setup.get("chat_template")
    path = os.path.join(folder, "chat_template.jinja")
    if os.path.exists(path):
        with open(path, encoding="utf-8") as f:
            template = f.read()
    if template:
        w.add_chat_template(template)


# ---- the file ------------------------------------------------------------------------------------


def write(folder, path, stored="f32", vocabulary=True):
    """Writes the model directory as the file `path`."""
    config = read_json(folder, "config.json")
    architecture = ARCHITECTURES[config["model_type"]]
    w = gguf.GGUFWriter(path + ".tmp", architecture)
    factors = put_configuration(w, config)
    if vocabulary:
        put_vocabulary(w, folder, config)
    else:
        w.add_tokenizer_model("none")
    source, kinds = open_tensors(folder), {}
    for name, f in source.items():
        shape, out = f.get_slice(name).get_shape(), tensor_name(name)
        if out and not (out == "output.weight" and config.get("tie_word_embeddings")):
            kinds[name] = stored_type(shape, stored)
            w.add_tensor_info(out, shape, numpy.dtype(numpy.float32),
                              stored_bytes(shape, kinds[name]), kinds[name])
    if factors is not None:
        w.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_ti_data_to_file()
    for name, kind in kinds.items():
        x = read_tensor(source, name, config, architecture)
        w.write_tensor_data(gguf.quants.quantize(x, kind))
    if factors is not None:
        w.write_tensor_data(factors)
    w.close()
    os.replace(path + ".tmp", path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("file")
    parser.add_argument("--type", default="f32")
    parser.add_argument("--no-vocabulary", action="store_true")
    args = parser.parse_args()
    write(args.model, args.file, args.type, not args.no_vocabulary)


if __name__ == "__main__":
    sys.exit(main())
