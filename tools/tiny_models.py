"""tiny_models.py - random Llama and Mistral models, small enough to train in seconds.

    python tools/tiny_models.py OUT [--data DIR] [--only NAME]    makes and lists OUT/NAME

Each is a Hugging Face model directory as transformers writes it, with a tokenizer. The tokenizers
are copied from the data directory (default: $ALIGN_DATA or ../shared/data) into OUT, never into
this project; without that directory a small byte-level BPE tokenizer, trained here on sentences
made here, takes the place of all of them. Same seed, same bytes.
"""
import argparse
import hashlib
import json
import math
import os
import random
import shutil

import torch

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def data_directory():
    return os.environ.get("ALIGN_DATA") or os.path.join(ROOT, "..", "shared", "data")


# ---- weights -------------------------------------------------------------------------------------


def fill(parameters, generator, embedding=0.5, matrix=1.5):
    """Random weights under which attention and SwiGLU leave their linear range; norms near one."""
    with torch.no_grad():
        for name, p in parameters:
            noise = torch.randn(p.shape, generator=generator)
            width = p.shape[-1]
            p.copy_(0.2 * noise if name.endswith("bias") else
                    1 + 0.2 * noise if p.dim() == 1 else
                    noise * (embedding if "embed" in name else matrix / math.sqrt(width)))


# ---- tokenizers ----------------------------------------------------------------------------------

# name -> (tokenizer.json, tokenizer_config.json, chat template or None) below the data directory
TOKENIZERS = {
    "tinystories": ("weights/tinystories-656k/tokenizer.json",
                    "weights/tinystories-656k/tokenizer_config.json", None),
    "mistral": ("tokenizers/mistral/tokenizer.json.v0.1",
                "tokenizers/mistral/tokenizer_config.json.v0.1", None),
    "mistral-v0.3": ("tokenizers/mistral/tokenizer.json.v0.3",
                     "tokenizers/mistral/tokenizer_config.json.v0.3", None),
    "llama3": ("tokenizers/llama3/tokenizer.json",
               "configs/Llama-3.2-3B-base/tokenizer_config.json", None),
    "llama3-instruct": ("tokenizers/llama3/tokenizer.json",
                        "tokenizers/llama3/tokenizer_config.Llama-3.1-8B-finetune.json",
                        "chat/templates/llama.cpp/meta-llama-Llama-3.2-3B-Instruct.jinja"),
}

SUBJECTS = ("The nurse", "A small boat", "My neighbour", "The old clock", "Our teacher",
            "A grey cat", "The river", "Somebody", "The last train", "Each pupil")
VERBS = ("counts", "finds", "does not want", "will carry", "remembers", "cannot open", "paints",
         "asks about", "waits for", "measures")
OBJECTS = ("the red box", "seven apples", "a letter from home", "the wrong answer", "every window",
           "a quiet song", "the key", "two cups of tea", "the map of 1848", "a better question")
ENDINGS = (".", "!", " at noon.", " before it rains.", ", naïvely.", " - again.", "?", " (twice).")


def sentence(draw):
    """One made-up sentence; `draw` is a random.Random."""
    return " ".join((draw.choice(SUBJECTS), draw.choice(VERBS), draw.choice(OBJECTS))) \
        + draw.choice(ENDINGS)


def made_tokenizer(folder, words=384, qwen=False):
    """A byte-level BPE tokenizer, trained on made sentences: as Llama-3's, with a BOS in its
    post-processor, or as Qwen's, with digits one by one and no BOS."""
    from tokenizers import (Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers,
                            processors, trainers)
    draw = random.Random(5)
    texts = [sentence(draw) for _ in range(400)]
    special = ["<|begin|>", "<|end|>"]
    tokenizer = Tokenizer(models.BPE())
    digits = r"\p{N}" if qwen else r"\p{N}{1,3}"
    pattern = Regex(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits +
                    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(pattern, behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    if qwen:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=words, special_tokens=special, show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator(texts, trainer)
    if not qwen:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|begin|> $A", pair="<|begin|> $A <|begin|> $B",
            special_tokens=[("<|begin|>", 0)])
    tokenizer.save(os.path.join(folder, "tokenizer.json"))
    with open(os.path.join(folder, "tokenizer_config.json"), "w", encoding="utf-8") as f:
        json.dump({"bos_token": special[0], "eos_token": special[1], "pad_token": special[1],
                   "clean_up_tokenization_spaces": False, "model_max_length": 4096,
                   "tokenizer_class": "Qwen2Tokenizer" if qwen else "PreTrainedTokenizerFast"},
                  f, indent=2)


def has_tokenizer(name, data):
    """Are all files of the real tokenizer there?"""
    return name in TOKENIZERS and all(os.path.exists(os.path.join(data, p)) for p in TOKENIZERS[name] if p)


def put_tokenizer(folder, name, data):
    """Copies tokenizer `name` into folder, or makes one where there is no data."""
    if not has_tokenizer(name, data):
        made_tokenizer(folder, qwen=name == "qwen")
        return
    paths = [p and os.path.join(data, p) for p in TOKENIZERS[name]]
    with open(paths[0], encoding="utf-8") as f:
        tokenizer = json.load(f)
    with open(paths[1], encoding="utf-8") as f:
        config = json.load(f)
    # TinyStories says normalized: its normaliser then puts a space before the EOS it looks for, and
    # the EOS that TRL appends as text would be found by transformers' LlamaTokenizer only.
    for token in tokenizer["added_tokens"] + list(config.get("added_tokens_decoder", {}).values()):
        token["normalized"] = False
    with open(os.path.join(folder, "tokenizer.json"), "w", encoding="utf-8") as f:
        json.dump(tokenizer, f, ensure_ascii=False)
    if paths[2]:
        with open(paths[2], encoding="utf-8") as f:
            config["chat_template"] = f.read()
    with open(os.path.join(folder, "tokenizer_config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f, indent=2, ensure_ascii=False)


def vocabulary(folder):
    """(number of ids, BOS id, EOS id) of the tokenizer in folder."""
    from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id


# ---- models --------------------------------------------------------------------------------------

LLAMA3_ROPE = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
               "high_freq_factor": 4.0, "original_max_position_embeddings": 128}
YARN_ROPE = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
             "original_max_position_embeddings": 128}
# name -> tokenizer, stored type, and what differs from hidden 64, 2 layers, 4 heads over 2
MODELS = {
    "llama-gqa": ("tinystories", "float32", {"rope_parameters": LLAMA3_ROPE}),
    "llama-gqa-bf16": ("tinystories", "bfloat16", {"rope_parameters": LLAMA3_ROPE}),
    "llama-gqa-f16": ("tinystories", "float16", {"rope_parameters": LLAMA3_ROPE}),
    "llama-sharded": ("tinystories", "float32", {"shards": "150KB"}),
    "llama-tied": ("tinystories", "float32", {"tie_word_embeddings": True, "num_hidden_layers": 3}),
    # says it is tied, but its files hold a head of its own: transformers unties it
    "llama-two-heads": ("tinystories", "float32", {"says_tied": True}),
    "llama-linear": ("tinystories", "float32", {
        "head_dim": 24, "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0,
                                            "factor": 2.5}}),
    # the scaling of the published Llama 3 models, which is what GGUF files can say
    "llama-rope": ("tinystories", "float32", {"rope_parameters": {
        **LLAMA3_ROPE, "original_max_position_embeddings": 8192}}),
    "mistral-window": ("tinystories", "float32", {"family": "mistral", "sliding_window": 9}),
    "mistral-window-bf16": ("tinystories", "bfloat16", {"family": "mistral", "sliding_window": 9}),
    # families whose layers have more weights, or fewer positions
    "llama-biases": ("tinystories", "float32", {"attention_bias": True, "mlp_bias": True}),
    "qwen2": ("qwen", "float32", {"family": "qwen2", "rope_parameters": YARN_ROPE}),
    "qwen3": ("tinystories", "float32", {"family": "qwen3", "head_dim": 24}),
    "qwen3-biases": ("tinystories", "float32", {"family": "qwen3", "head_dim": 24,
                                                "attention_bias": True,
                                                "rope_parameters": {**YARN_ROPE, "beta_fast": 24.0,
                                                                    "attention_factor": 1.25}}),
    "qwen3-biases-bf16": ("tinystories", "bfloat16", {
        "family": "qwen3", "head_dim": 24, "attention_bias": True,
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}}),
    "smollm3": ("tinystories", "float32", {"family": "smollm3", "num_hidden_layers": 5,
                                           "tie_word_embeddings": True, "pad_token_id": None}),
    "mistral-32000": ("mistral", "float32", {"family": "mistral", "sliding_window": None,
                                             "num_key_value_heads": 1}),
    "llama3-128256": ("llama3", "float32", {"hidden_size": 32, "rope_parameters": LLAMA3_ROPE,
                                            "tie_word_embeddings": True}),
    "llama3-chat": ("llama3-instruct", "float32", {"hidden_size": 32, "tie_word_embeddings": True}),
    "mistral-chat": ("mistral-v0.3", "float32", {"family": "mistral", "hidden_size": 32,
                                                 "sliding_window": None}),
}


def is_made(folder, recipe):
    """Was the folder made by this very recipe?"""
    try:
        with open(os.path.join(folder, "made.json"), encoding="utf-8") as f:
            return json.load(f) == json.loads(json.dumps(recipe))
    except (OSError, ValueError):
        return False


def mark_made(folder, recipe):
    with open(os.path.join(folder, "made.json"), "w", encoding="utf-8") as f:
        json.dump(recipe, f)


def make(name, out, data):
    """Makes OUT/name, unless it is there; returns its path and whether its tokenizer is real."""
    from transformers import AutoConfig, AutoModelForCausalLM
    folder = os.path.join(out, name)
    tokenizer, dtype, changes = MODELS[name]
    real = has_tokenizer(tokenizer, data)
    recipe = [tokenizer, dtype, changes, real]
    if is_made(folder, recipe):
        return folder, real
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    put_tokenizer(folder, tokenizer, data)
    words, bos, eos = vocabulary(folder)
    setup = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": words,
             "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
             "bos_token_id": bos, "eos_token_id": eos,
             "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, **changes}
    shards, says_tied = setup.pop("shards", "5GB"), setup.pop("says_tied", False)
    config = AutoConfig.for_model(setup.pop("family", "llama"), **setup)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    same = name.removesuffix("-bf16").removesuffix("-f16")  # one model in three stored types
    seed = int.from_bytes(hashlib.sha256(same.encode()).digest()[:4], "little")
    fill(model.named_parameters(), torch.Generator().manual_seed(seed), embedding=0.3, matrix=0.9)
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=shards)
    if says_tied:
        path = os.path.join(folder, "config.json")
        with open(path, encoding="utf-8") as f:
            stored = json.load(f)
        with open(path, "w", encoding="utf-8") as f:
            json.dump({**stored, "tie_word_embeddings": True}, f, indent=2)
    mark_made(folder, recipe)
    return folder, real


def make_adapter(model_folder, folder, seed, b_width=0.05, dtype=torch.float32, resize=0, **lora):
    """A PEFT adapter for the model, written by PEFT, whose B is random and not zero; what else it
    trains (whole modules, magnitudes, biases, rows of tokens) is moved by random numbers. resize:
    size of the vocabulary with the adapter, which the base then had when it was trained."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM
    with open(os.path.join(model_folder, "config.json"), encoding="utf-8") as f:
        recipe = [json.load(f), seed, b_width, str(dtype), lora] + ([resize] if resize else [])
    if is_made(folder, recipe):
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    torch.manual_seed(seed)
    if resize:
        model.resize_token_embeddings(resize, mean_resizing=False)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **lora))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.copy_(torch.randn(p.shape, generator=generator) * b_width)
            elif p.requires_grad and "lora_A" not in name:
                p.add_(torch.randn(p.shape, generator=generator) * 0.05)
            if "lora_" in name:
                p.data = p.data.to(dtype)
    # PEFT saves a resized embedding when it sees that the base's own has another size
    model.peft_config["default"].base_model_name_or_path = model_folder if resize else ""
    model.save_pretrained(folder)
    mark_made(folder, recipe)
    return folder


def main():
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out")
    parser.add_argument("--data", default=data_directory())
    parser.add_argument("--only", choices=sorted(MODELS))
    args = parser.parse_args()
    for name in [args.only] if args.only else MODELS:
        folder, real = make(name, args.out, args.data)
        size = sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder)
                   if f.endswith(".safetensors"))
        print(f"{name:20} {size:9} bytes of weights, {'real' if real else 'made'} tokenizer")


if __name__ == "__main__":
    main()
