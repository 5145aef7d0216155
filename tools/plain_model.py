"""plain_model.py - a Llama/Mistral forward pass with LoRA in some eighty lines of PyTorch.

transformers computes RMSNorm, softmax and the rotary angles in float32 even when the weights are
float64. This one keeps every number in the type of its weights, so it serves as the oracle in
double precision (tools/golden.py); golden.py compares it with transformers in float32 before it
writes anything.

Shapes: T tokens of one sequence, H hidden, N query heads, K key/value heads, D head size, V words.
"""
import json
import math
import os

import torch
from safetensors.torch import load_file

LORA_PREFIX = "base_model.model."


def load_config(model_dir):
    with open(os.path.join(model_dir, "config.json"), encoding="utf-8") as f:
        return json.load(f)


def load_weights(model_dir, dtype=torch.float64):
    """{name: tensor}; tied heads appear once, under model.embed_tokens.weight."""
    weights = load_file(os.path.join(model_dir, "model.safetensors"))
    return {name: w.to(dtype) for name, w in weights.items()}


def load_adapter(adapter_dir, dtype=torch.float64):
    """(scale, {PEFT tensor name: tensor})."""
    with open(os.path.join(adapter_dir, "adapter_config.json"), encoding="utf-8") as f:
        config = json.load(f)
    rank, alpha = config["r"], config["lora_alpha"]
    scale = alpha / math.sqrt(rank) if config["use_rslora"] else alpha / rank
    tensors = load_file(os.path.join(adapter_dir, "adapter_model.safetensors"))
    return scale, {name: t.to(dtype) for name, t in tensors.items()}


def rope_parameters(config):
    """(theta, the scaling table or {}), from either spelling of config.json."""
    table = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return float(table.get("rope_theta", config.get("rope_theta", 10000.0))), table


def rope_frequencies(config, dtype):
    """Radians per position of each pair of coordinates, [D/2]."""
    theta, table = rope_parameters(config)
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    freq = theta ** (-torch.arange(0, head, 2, dtype=torch.float64) / head)
    kind = table.get("rope_type", table.get("type", "default"))
    if kind == "linear":
        freq = freq / table["factor"]
    elif kind == "llama3":  # keep short waves, divide long ones, blend between
        low, high = table["low_freq_factor"], table["high_freq_factor"]
        turns = table["original_max_position_embeddings"] * freq / (2 * math.pi)
        blend = ((turns - low) / (high - low)).clamp(0, 1)
        freq = freq * blend + freq / table["factor"] * (1 - blend)
    elif kind != "default":
        raise ValueError(f"rope type {kind!r} is not one of default, linear, llama3")
    return freq.to(dtype)


def rms_norm(x, weight, eps):
    """x / sqrt(mean(x^2) + eps) * weight, per row."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def rotate(x, angle):
    """x [N, T, D]: coordinates d and d + D/2 form the pair turned by angle[t, d]."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class PlainModel:
    """logits = model(ids). `adapter` is None (the base model) or (scale, tensors)."""

    def __init__(self, config, weights):
        self.config, self.weights = config, weights
        self.dtype = next(iter(weights.values())).dtype

    def linear(self, x, name, adapter):
        y = x @ self.weights[name + ".weight"].T
        if adapter is not None and LORA_PREFIX + name + ".lora_A.weight" in adapter[1]:
            scale, lora = adapter
            a = lora[LORA_PREFIX + name + ".lora_A.weight"]
            b = lora[LORA_PREFIX + name + ".lora_B.weight"]
            y = y + (x @ a.T) @ b.T * scale
        return y

    def attention(self, x, layer, adapter):
        c = self.config
        heads, groups = c["num_attention_heads"], c["num_key_value_heads"]
        head = c.get("head_dim") or c["hidden_size"] // heads
        t = x.shape[0]
        q, k, v = (self.linear(x, f"{layer}.self_attn.{p}_proj", adapter)
                   .view(t, -1, head).transpose(0, 1) for p in "qkv")
        angle = torch.arange(t, dtype=self.dtype)[:, None] * rope_frequencies(c, self.dtype)
        q, k = rotate(q, angle), rotate(k, angle)
        k, v = (z.repeat_interleave(heads // groups, dim=0) for z in (k, v))
        distance = torch.arange(t)[:, None] - torch.arange(t)[None, :]
        seen = distance >= 0
        if c.get("sliding_window"):  # a token sees itself and the window - 1 before it
            seen &= distance < c["sliding_window"]
        score = (q @ k.transpose(1, 2) / math.sqrt(head)).masked_fill(~seen, -math.inf)
        mixed = (score.softmax(-1) @ v).transpose(0, 1).reshape(t, heads * head)
        return self.linear(mixed, f"{layer}.self_attn.o_proj", adapter)

    def __call__(self, ids, adapter=None):
        """ids: list of T token ids -> logits [T, V]."""
        c, w = self.config, self.weights
        eps = c["rms_norm_eps"]
        x = w["model.embed_tokens.weight"][torch.tensor(ids)]
        for i in range(c["num_hidden_layers"]):
            layer = f"model.layers.{i}"
            x = x + self.attention(rms_norm(x, w[layer + ".input_layernorm.weight"], eps),
                                   layer, adapter)
            h = rms_norm(x, w[layer + ".post_attention_layernorm.weight"], eps)
            gate = self.linear(h, layer + ".mlp.gate_proj", adapter)
            up = self.linear(h, layer + ".mlp.up_proj", adapter)
            x = x + self.linear(torch.nn.functional.silu(gate) * up, layer + ".mlp.down_proj",
                                adapter)
        x = rms_norm(x, w["model.norm.weight"], eps)
        if "lm_head.weight" in w:
            return self.linear(x, "lm_head", adapter)
        return x @ w["model.embed_tokens.weight"].T

    def token_logps(self, prompt, completion, adapter=None):
        """log p of each completion token given all before it, [len(completion)]."""
        ids = list(prompt) + list(completion)
        logps = self(ids, adapter).log_softmax(-1)
        at = torch.arange(len(prompt) - 1, len(ids) - 1)
        return logps[at, torch.tensor(completion)]
