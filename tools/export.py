"""export.py - PyTorch and llama2.c checkpoints into a safetensors model directory.

    python tools/export.py INPUT -o DIRECTORY [--config FILE] [--tokenizer DIRECTORY] [--shard SIZE]

INPUT is one of
  - a directory with pytorch_model.bin, or pytorch_model.bin.index.json and its shards, or
    consolidated.00.pth and params.json;
  - one .bin, .pt or .pth file of PyTorch (Hugging Face names, or Meta's and llama2.c's names);
  - a llama2.c .bin of 32-bit floats: the first format (no magic) or version 1 ("ak42").

Pickles are read with weights_only=True: no code in them runs. Every tensor is listed with shape,
type and SHA-256 of its bytes; then the new files are read back, the change of layout is undone, and
the bytes are compared with the source, read again. A directory that fails is removed. Nothing is
converted to another number type.

Exit codes as the program's: 64 usage, 65 bad content, 66 missing, 73 output exists.
"""
import argparse
import hashlib
import json
import math
import os
import pickle
import re
import shutil
import struct
import sys
import zipfile

import torch
from safetensors import safe_open
from safetensors.torch import save_file

USAGE, DATA, MISSING, CREATE = 64, 65, 66, 73
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                   "tokenizer.model", "chat_template.jinja")
SIZES = {"KB": 10 ** 3, "MB": 10 ** 6, "GB": 10 ** 9}


class ExportError(Exception):
    """One line for the user, and the exit code."""

    def __init__(self, code, text):
        super().__init__(text)
        self.code = code


class Entry:
    """One tensor to write: its new name, how to read the source, and how the layout changes."""

    def __init__(self, name, source, read, heads=None):
        self.name, self.source, self.read, self.heads = name, source, read, heads

    def tensor(self):
        w = self.read()
        return half_split(w, self.heads) if self.heads else w


def half_split(w, heads):
    """Rows of a q or k matrix from pairs (0 1)(2 3).. to halves (0 D/2)(1 D/2+1).., per head.

    Meta and llama2.c rotate neighbouring rows, transformers rotates row i with row i + D/2.
    w [heads * D, H]; a permutation of rows, so no number changes.
    """
    return w.view(heads, -1, 2, w.shape[1]).transpose(1, 2).reshape(w.shape)


def interleave(w, heads):
    """The inverse of half_split."""
    return w.view(heads, 2, -1, w.shape[1]).transpose(1, 2).reshape(w.shape)


def raw_bytes(w):
    return w.detach().contiguous().reshape(-1).view(torch.uint8).numpy()


def sha256(w):
    return hashlib.sha256(raw_bytes(w)).hexdigest()


def type_name(w):
    return str(w.dtype).removeprefix("torch.")


# ---- PyTorch -------------------------------------------------------------------------------------

HF_NAME = re.compile(r"(model|lm_head)\.")
BACKBONE_NAME = re.compile(r"(embed_tokens|layers|norm)\.")  # saved without its head
META_LAYER = re.compile(r"layers\.(\d+)\.(.+)")
META_PARTS = {
    "attention.wq.weight": "self_attn.q_proj.weight",
    "attention.wk.weight": "self_attn.k_proj.weight",
    "attention.wv.weight": "self_attn.v_proj.weight",
    "attention.wo.weight": "self_attn.o_proj.weight",
    "feed_forward.w1.weight": "mlp.gate_proj.weight",
    "feed_forward.w2.weight": "mlp.down_proj.weight",
    "feed_forward.w3.weight": "mlp.up_proj.weight",
    "attention_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight"}
META_WHOLE = {"tok_embeddings.weight": "model.embed_tokens.weight",
              "norm.weight": "model.norm.weight", "output.weight": "lm_head.weight"}
COMPUTED = re.compile(r"(.*\.)?(rotary_emb\.inv_freq|rope\.freqs|freqs_cos|freqs_sin|freqs_cis)$")


def first_line(error):
    return str(error).strip().split("\n")[0][:200]


def load_pickle(path):
    """{name: tensor} and what else the file holds. Runs no code of the file."""
    if not os.path.exists(path):
        raise ExportError(MISSING, f"{path}: no such file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True,
                             mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as e:
        raise ExportError(DATA, f"{path}: refused: it holds more than tensors ({first_line(e)})") \
            from None
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, AttributeError) as e:
        raise ExportError(DATA, f"{path}: not a PyTorch file: {first_line(e)}") from None
    other = {}
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        other, content = content, content["model"]  # llama2.c training checkpoints
    if not isinstance(content, dict):
        raise ExportError(DATA, f"{path}: holds a {type(content).__name__}; a dictionary of "
                                "tensors is expected")
    tensors = {}
    for name, w in content.items():
        if not isinstance(w, torch.Tensor):
            raise ExportError(DATA, f"{path}: {name} is a {type(w).__name__}, not a tensor")
        tensors[name.removeprefix("_orig_mod.")] = w
    if not tensors:
        raise ExportError(DATA, f"{path}: holds no tensor")
    return tensors, other


def read_json(path):
    try:
        with open(path, encoding="utf-8") as f:
            return json.load(f)
    except FileNotFoundError:
        raise ExportError(MISSING, f"{path}: no such file") from None
    except (ValueError, OSError) as e:
        raise ExportError(DATA, f"{path}: {e}") from None


class PickleSource:
    """The tensors of one or several PyTorch files."""

    def __init__(self, path):
        self.files, self.other = self.find(path), {}
        self.tensors = {}
        for f in self.files:
            tensors, other = load_pickle(f)
            self.other.update({k: v for k, v in other.items() if k == "model_args"})
            for name, w in tensors.items():
                if name in self.tensors:
                    raise ExportError(DATA, f"{f}: {name} is in two files")
                self.tensors[name] = w
        if self.index is not None:
            missing = sorted(set(self.index) - set(self.tensors))
            if missing:
                raise ExportError(DATA, f"{path}: the index lists {missing[0]}, no shard holds it")

    def find(self, path):
        self.index = None
        if not os.path.isdir(path):
            return [path]
        listing = os.path.join(path, "pytorch_model.bin.index.json")
        if os.path.exists(os.path.join(path, "pytorch_model.bin")):
            return [os.path.join(path, "pytorch_model.bin")]
        if os.path.exists(listing):
            self.index = read_json(listing).get("weight_map")
            if not isinstance(self.index, dict) or not self.index:
                raise ExportError(DATA, f"{listing}: no weight_map")
            shards = sorted(set(self.index.values()))
            for s in shards:
                if not isinstance(s, str) or os.path.basename(s) != s or s in ("", ".", ".."):
                    raise ExportError(DATA, f"{listing}: {s!r} is not the name of a file beside it")
            return [os.path.join(path, s) for s in shards]
        found = sorted(f for f in os.listdir(path) if re.fullmatch(r"consolidated\.\d\d\.pth", f))
        if len(found) > 1:
            raise ExportError(DATA, f"{path}: {len(found)} model-parallel parts; one "
                                    "consolidated.00.pth is supported")
        if found:
            return [os.path.join(path, found[0])]
        raise ExportError(MISSING, f"{path}: no pytorch_model.bin, pytorch_model.bin.index.json or "
                                   "consolidated.00.pth")

    def reader(self, name):
        return lambda: self.tensors[name]

    def reopened(self, path):
        return PickleSource(path)


def same_numbers(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(
        a.contiguous().reshape(-1).view(torch.uint8), b.contiguous().reshape(-1).view(torch.uint8))


def pickle_entries(source, config, dropped):
    """What to write of a PyTorch checkpoint; appends (name, why) to dropped."""
    meta = "tok_embeddings.weight" in source.tensors
    entries = []
    for name in source.tensors:
        if COMPUTED.match(name):
            dropped.append((name, "computed from the configuration"))
            continue
        heads = None
        if meta:
            new, heads = meta_name(name, config)
        elif HF_NAME.match(name):
            new = name
        elif BACKBONE_NAME.match(name):
            new = "model." + name
        else:
            raise ExportError(DATA, f"{name}: not a tensor of a Llama model")
        entries.append(Entry(new, name, source.reader(name), heads))
    tied = config.get("tie_word_embeddings", False)
    by_name = {e.name: e for e in entries}
    if len(by_name) != len(entries):
        raise ExportError(DATA, "two tensors of the source get the same new name")
    head, words = by_name.get("lm_head.weight"), by_name.get("model.embed_tokens.weight")
    if tied and head and words:
        if not same_numbers(head.tensor(), words.tensor()):
            raise ExportError(DATA, "config.json says tie_word_embeddings, but lm_head.weight and "
                                    "model.embed_tokens.weight differ")
        dropped.append((head.source, "tied: the same numbers as the embedding"))
        entries.remove(head)
    elif not tied and not head:
        raise ExportError(DATA, "no lm_head.weight, and config.json does not say "
                                "tie_word_embeddings")
    return entries


def config_number(config, key, default=None):
    value = config.get(key, default)
    if not isinstance(value, int) or value <= 0:
        raise ExportError(DATA, f"config.json: {key} is {value!r}; a positive whole number is "
                                "expected")
    return value


def meta_name(name, config):
    """(transformers' name, heads to un-interleave or None) of one of Meta's names."""
    if name in META_WHOLE:
        return META_WHOLE[name], None
    m = META_LAYER.fullmatch(name)
    if not m or m.group(2) not in META_PARTS:
        raise ExportError(DATA, f"{name}: not a tensor of a Llama model")
    part = META_PARTS[m.group(2)]
    query = config_number(config, "num_attention_heads")
    key_value = config_number(config, "num_key_value_heads", query)
    heads = {"self_attn.q_proj.weight": query, "self_attn.k_proj.weight": key_value}.get(part)
    return f"model.layers.{m.group(1)}.{part}", heads


def meta_config(params, tensors):
    """config.json from Meta's params.json, or from llama2.c's model_args."""
    if params.get("use_scaled_rope"):
        raise ExportError(USAGE, "params.json says use_scaled_rope without its factor (8 for 3.1, "
                                 "32 for 3.2): give transformers' config.json with --config")
    words, hidden = tensors["tok_embeddings.weight"].shape
    heads = params["n_heads"]
    return llama_config(
        hidden=hidden, intermediate=tensors["layers.0.feed_forward.w1.weight"].shape[0],
        layers=params["n_layers"], heads=heads, kv_heads=params.get("n_kv_heads") or heads,
        words=words, positions=params.get("max_seq_len", 2048), eps=params.get("norm_eps", 1e-5),
        theta=params.get("rope_theta", 10000.0),
        tied="output.weight" not in tensors or same_numbers(tensors["output.weight"],
                                                            tensors["tok_embeddings.weight"]),
        dtype=type_name(tensors["tok_embeddings.weight"]))


def llama_config(hidden, intermediate, layers, heads, kv_heads, words, positions, eps, theta, tied,
                 dtype):
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden,
            "intermediate_size": intermediate, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": kv_heads,
            "head_dim": hidden // heads, "vocab_size": words, "max_position_embeddings": positions,
            "rms_norm_eps": eps, "rope_theta": float(theta), "rope_scaling": None,
            "hidden_act": "silu", "attention_bias": False, "mlp_bias": False,
            "tie_word_embeddings": bool(tied), "bos_token_id": 1, "eos_token_id": 2,
            "torch_dtype": dtype}


# ---- llama2.c ------------------------------------------------------------------------------------

MAGIC = 0x616b3432  # "ak42"
HEADER_V1 = 256


class Llama2c:
    """A llama2.c file of 32-bit floats: header, then matrices in a fixed order."""

    def __init__(self, path):
        self.path, self.size = path, os.path.getsize(path)
        with open(path, "rb") as f:
            head = f.read(HEADER_V1)
        if len(head) < 28:
            raise ExportError(DATA, f"{path}: {self.size} bytes, too short for a llama2.c header")
        if struct.unpack_from("<I", head)[0] == MAGIC:
            version = struct.unpack_from("<i", head, 4)[0]
            if version != 1:
                raise ExportError(DATA, f"{path}: llama2.c version {version}; the first format and "
                                        "version 1 are supported (2 is quantised)")
            if len(head) < HEADER_V1:
                raise ExportError(DATA, f"{path}: header cut after {len(head)} bytes")
            self.version, numbers, start = 1, struct.unpack_from("<7i", head, 8), HEADER_V1
            shared = head[36]
            if shared > 1:
                raise ExportError(DATA, f"{path}: shared-classifier flag {shared}, 0 or 1 expected")
        else:
            self.version, numbers, start = 0, struct.unpack_from("<7i", head), 28
            shared = numbers[5] > 0  # a negative vocabulary says: a head of its own
        self.shared = bool(shared)
        self.check(numbers)
        self.place(start)

    def check(self, numbers):
        names = ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size",
                 "max_seq_len")
        self.params = dict(zip(names, numbers))
        self.params["vocab_size"] = abs(self.params["vocab_size"])
        for name, value in self.params.items():
            if not 0 < value < 2 ** 24:
                raise ExportError(DATA, f"{self.path}: {name} is {value}; not a llama2.c file?")
        p = self.params
        if p["dim"] % p["n_heads"] or p["n_heads"] % p["n_kv_heads"] or \
                p["dim"] // p["n_heads"] % 2:
            raise ExportError(DATA, f"{self.path}: dim {p['dim']}, {p['n_heads']} heads over "
                                    f"{p['n_kv_heads']} do not divide into even head sizes")

    def place(self, at):
        """self.parts: {name: (offset, shape)}; per-layer matrices carry the layer in their name."""
        p, self.parts = self.params, {}
        kv = p["dim"] // p["n_heads"] * p["n_kv_heads"]

        def put(name, *shape):
            nonlocal at
            self.parts[name] = (at, shape)
            at += 4 * math.prod(shape)

        def per_layer(name, *shape):
            for i in range(p["n_layers"]):
                put(f"layers.{i}.{name}", *shape)

        dim, hidden = p["dim"], p["hidden_dim"]
        matrices = (("attention.wq.weight", dim, dim), ("attention.wk.weight", kv, dim),
                    ("attention.wv.weight", kv, dim), ("attention.wo.weight", dim, dim))
        feed = (("feed_forward.w1.weight", hidden, dim), ("feed_forward.w2.weight", dim, hidden),
                ("feed_forward.w3.weight", hidden, dim))
        if self.version == 1:
            per_layer("attention_norm.weight", dim)
            per_layer("ffn_norm.weight", dim)
            put("norm.weight", dim)
        put("tok_embeddings.weight", p["vocab_size"], dim)
        if self.version == 0:
            per_layer("attention_norm.weight", dim)
        for name, *shape in matrices:
            per_layer(name, *shape)
        if self.version == 0:
            per_layer("ffn_norm.weight", dim)
        for name, *shape in feed:
            per_layer(name, *shape)
        if self.version == 0:
            put("norm.weight", dim)
            put("freqs_cos", p["max_seq_len"], dim // p["n_heads"] // 2)
            put("freqs_sin", p["max_seq_len"], dim // p["n_heads"] // 2)
        if not self.shared:
            put("output.weight", p["vocab_size"], dim)
        if at != self.size:
            raise ExportError(DATA, f"{self.path}: {self.size} bytes, but its header asks for {at}")

    def reader(self, name):
        offset, shape = self.parts[name]

        def read():
            with open(self.path, "rb") as f:
                f.seek(offset)
                data = bytearray(f.read(4 * math.prod(shape)))
            if len(data) != 4 * math.prod(shape):
                raise ExportError(DATA, f"{self.path}: changed while it was read")
            return torch.frombuffer(data, dtype=torch.float32).reshape(shape)
        return read

    def reopened(self, path):
        return Llama2c(path)

    def config(self):
        """Norm epsilon and rotary base are not in the file: llama2.c fixes 1e-5 and 10000. The
        first format stores the angles' cosines, which must agree."""
        p = self.params
        if self.version == 0 and p["max_seq_len"] > 1:
            head = p["dim"] // p["n_heads"]
            stored = self.reader("freqs_cos")()[1].double()
            angle = 10000.0 ** (-torch.arange(0, head, 2, dtype=torch.float64) / head)
            if stored.any() and (stored - angle.cos()).abs().max() > 1e-4:
                raise ExportError(DATA, f"{self.path}: its rotary angles are not those of base "
                                        "10000; give a config.json with --config")
        return llama_config(hidden=p["dim"], intermediate=p["hidden_dim"], layers=p["n_layers"],
                            heads=p["n_heads"], kv_heads=p["n_kv_heads"], words=p["vocab_size"],
                            positions=p["max_seq_len"], eps=1e-5, theta=10000.0,
                            tied=self.shared, dtype="float32")

    def entries(self, config, dropped):
        result = []
        for name in self.parts:
            if COMPUTED.match(name):
                dropped.append((name, "computed from the configuration"))
                continue
            new, heads = meta_name(name, config)
            result.append(Entry(new, name, self.reader(name), heads))
        return result


def is_pickle(path):
    """PyTorch writes a zip archive, or, in its old format, a pickle (protocol 2 or later)."""
    with open(path, "rb") as f:
        return zipfile.is_zipfile(path) or f.read(1) == b"\x80"


# ---- writing and proving -------------------------------------------------------------------------


def open_source(path):
    if not os.path.exists(path):
        raise ExportError(MISSING, f"{path}: no such file or directory")
    if os.path.isfile(path) and not is_pickle(path):
        return Llama2c(path)
    return PickleSource(path)


def find_config(args, source):
    """The configuration of the new directory, as a dictionary."""
    if args.config:
        return read_json(args.config)
    if isinstance(source, Llama2c):
        return source.config()
    folder = args.input if os.path.isdir(args.input) else os.path.dirname(args.input) or "."
    beside = os.path.join(folder, "config.json")
    if os.path.exists(beside):
        return read_json(beside)
    if "tok_embeddings.weight" in source.tensors:
        params = source.other.get("model_args")
        if params is None:
            params = read_json(os.path.join(folder, "params.json"))
        try:
            return meta_config(params, source.tensors)
        except KeyError as e:
            raise ExportError(DATA, f"{args.input}: no {e.args[0]}") from None
    raise ExportError(MISSING, f"{args.input}: no config.json beside it; give one with --config")


def check_shapes(entries, config):
    """The number of rows that half_split deals out to heads must be theirs."""
    for e in entries:
        if not e.heads:
            continue
        head = config.get("head_dim") or config_number(config, "hidden_size") \
            // config_number(config, "num_attention_heads")
        rows = e.tensor().shape[0]
        if rows != e.heads * head:
            raise ExportError(DATA, f"{e.source}: {rows} rows, {e.heads} heads of {head} expected")


def plan_shards(entries, limit):
    """Lists of entries, each at most `limit` bytes (or one tensor)."""
    shards, size = [[]], 0
    for e in sorted(entries, key=lambda e: e.name):
        w = e.tensor()
        n = w.numel() * w.element_size()
        if shards[-1] and size + n > limit:
            shards.append([])
            size = 0
        shards[-1].append(e)
        size += n
    return shards


def write_shards(folder, shards):
    """model.safetensors, or numbered files and their index; returns {name: file}."""
    where, total = {}, 0
    for i, shard in enumerate(shards, 1):
        file = "model.safetensors" if len(shards) == 1 else \
            f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        tensors = {}
        for e in shard:
            w = e.tensor()
            # Two names for one storage are written twice: clone breaks the sharing.
            tensors[e.name] = w.clone().contiguous()
            total += w.numel() * w.element_size()
            where[e.name] = file
        save_file(tensors, os.path.join(folder, file), metadata={"format": "pt"})
    if len(shards) > 1:
        with open(os.path.join(folder, "model.safetensors.index.json"), "w", encoding="utf-8") as f:
            json.dump({"metadata": {"total_size": total},
                       "weight_map": dict(sorted(where.items()))}, f, indent=2)
            f.write("\n")
    return where


def prove(folder, where, entries, source):
    """Reads the new files and the source again; every tensor must come back bit for bit. Prints the
    list."""
    again = {e.name: e for e in entries}
    for name in sorted(where):
        with safe_open(os.path.join(folder, where[name]), "pt") as f:
            w = f.get_tensor(name)
        e = again[name]
        original = source.reader(e.source)()
        undone = interleave(w, e.heads) if e.heads else w
        if not same_numbers(undone, original):
            raise ExportError(DATA, f"{name}: read back, it is not {e.source} of the source")
        print(f"{name}  {list(w.shape)}  {type_name(w)}  {sha256(w)}")


def copy_tokenizer(args, folder):
    """Copies what tokenizer files there are; says so where there are none."""
    source = args.tokenizer or (args.input if os.path.isdir(args.input)
                                else os.path.dirname(args.input) or ".")
    found = [f for f in TOKENIZER_FILES + ("generation_config.json",)
             if os.path.isfile(os.path.join(source, f))]
    for f in found:
        shutil.copyfile(os.path.join(source, f), os.path.join(folder, f))
    if "tokenizer.json" not in found:
        if args.tokenizer:
            raise ExportError(MISSING, f"{source}: no tokenizer.json")
        print("note: no tokenizer.json; give one with --tokenizer, or put it into the directory")
    return found


def export(args):
    if os.path.exists(args.output):
        raise ExportError(CREATE, f"{args.output}: exists already")
    m = re.fullmatch(r"(\d+)(KB|MB|GB)", args.shard)
    if not m or int(m.group(1)) == 0:
        raise ExportError(USAGE, f"--shard {args.shard}: a size as 500MB or 5GB is expected")
    source, dropped = open_source(args.input), []
    config = find_config(args, source)
    entries = source.entries(config, dropped) if isinstance(source, Llama2c) \
        else pickle_entries(source, config, dropped)
    check_shapes(entries, config)
    partial = args.output.rstrip("/") + ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        os.makedirs(partial)
    except OSError as e:
        raise ExportError(CREATE, f"{args.output}: {e.strerror}") from None
    try:
        where = write_shards(partial, plan_shards(entries, int(m.group(1)) * SIZES[m.group(2)]))
        with open(os.path.join(partial, "config.json"), "w", encoding="utf-8") as f:
            json.dump(config, f, indent=2, ensure_ascii=False)
            f.write("\n")
        prove(partial, where, entries, source.reopened(args.input))
        copy_tokenizer(args, partial)
        os.rename(partial, args.output)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    for name, why in dropped:
        print(f"left out: {name} ({why})")
    print(f"{len(where)} tensors in {len(set(where.values()))} file(s); each read back and equal "
          "to the source bit for bit")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("input")
    parser.add_argument("-o", "--output", required=True, help="the new model directory")
    parser.add_argument("--config", help="a config.json to use")
    parser.add_argument("--tokenizer", help="a directory with tokenizer.json")
    parser.add_argument("--shard", default="5GB", help="largest file (default 5GB)")
    try:
        export(parser.parse_args(arguments))
    except ExportError as e:
        print(f"export: {e}", file=sys.stderr)
        return e.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
