"""test_export.py - tests of tools/export.py on made checkpoints of every kind it reads.

    python tools/test_export.py [NAME]      prints "N passed, N failed"
"""
import contextlib
import io
import json
import math
import os
import pickle
import struct
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import export
from tiny_models import fill

DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, WORDS, POSITIONS = 32, 40, 2, 4, 2, 50, 24


def made_model(tied=False, dtype=torch.float32):
    config = LlamaConfig(hidden_size=DIM, intermediate_size=HIDDEN, num_hidden_layers=LAYERS,
                         num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, vocab_size=WORDS,
                         max_position_embeddings=POSITIONS, rms_norm_eps=1e-5,
                         tie_word_embeddings=tied, bos_token_id=1, eos_token_id=2)
    model = LlamaForCausalLM(config)
    fill(model.named_parameters(), torch.Generator().manual_seed(3))
    return model.to(dtype).eval()


def write_config(model, folder):
    config = model.config.to_dict()
    config["torch_dtype"] = str(model.dtype).removeprefix("torch.")
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f)


def run(*arguments):
    """(exit code, stdout, stderr) of the exporter."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = export.main(list(arguments))
    return code, out.getvalue(), err.getvalue()


def check(condition, text):
    if not condition:
        raise AssertionError(text)


def check_failure(result, code, *words, output):
    """The exit code, one line that holds the words, and nothing left behind."""
    got, _, err = result
    check(got == code, f"exit {got}, {code} expected: {err}")
    check(err.count("\n") == 1, f"not one line: {err}")
    for w in words:
        check(w in err, f"{w!r} is not in: {err}")
    check(not os.path.exists(output), "output left behind")
    check(not os.path.exists(output + ".partial"), "half an output left behind")


def check_model(folder, model):
    """The directory holds the model's parameters bit for bit, and transformers agrees."""
    tensors = {}
    for f in sorted(os.listdir(folder)):
        if f.endswith(".safetensors"):
            tensors.update(load_file(os.path.join(folder, f)))
    wanted = dict(model.named_parameters())
    check(sorted(tensors) == sorted(wanted), f"tensors {sorted(set(tensors) ^ set(wanted))}")
    for name, w in wanted.items():
        check(tensors[name].dtype == w.dtype and torch.equal(tensors[name], w), f"{name} differs")
    if model.dtype != torch.float32:
        return  # .to() rounds the rotary table of the model in memory too
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor([[1, 7, 30, 12, 9, 44, 3, 3, 21]])
    with torch.no_grad():
        check(torch.equal(loaded(ids).logits, model(ids).logits), "logits differ")


# ---- PyTorch files -------------------------------------------------------------------------------


def test_single_bin(folder):
    model = made_model()
    write_config(model, folder)
    torch.save(model.state_dict(), os.path.join(folder, "pytorch_model.bin"))
    code, out, err = run(folder, "-o", folder + "/out")
    check(code == 0, err)
    check_model(folder + "/out", model)
    name = "model.layers.1.mlp.up_proj.weight"
    lines = [line for line in out.split("\n") if line.startswith(name)]
    w = model.model.layers[1].mlp.up_proj.weight
    check(lines == [f"{name}  [40, 32]  float32  {export.sha256(w)}"], f"listing: {lines}")
    check("note: no tokenizer.json" in out, out)


def test_bf16_keeps_its_type(folder):
    model = made_model(dtype=torch.bfloat16)
    write_config(model, folder)
    torch.save(model.state_dict(), os.path.join(folder, "pytorch_model.bin"))
    check(run(folder, "-o", folder + "/out")[0] == 0, "failed")
    check_model(folder + "/out", model)


def test_old_pickle_format(folder):
    model = made_model()
    write_config(model, folder)
    torch.save(model.state_dict(), os.path.join(folder, "model.pth"),
               _use_new_zipfile_serialization=False)
    check(run(folder + "/model.pth", "-o", folder + "/out")[0] == 0, "failed")
    check_model(folder + "/out", model)


def sharded(folder, model):
    names = sorted(model.state_dict())
    halves = {"pytorch_model-00001-of-00002.bin": names[::2],
              "pytorch_model-00002-of-00002.bin": names[1::2]}
    for file, part in halves.items():
        torch.save({n: model.state_dict()[n] for n in part}, os.path.join(folder, file))
    listing = {"metadata": {}, "weight_map": {n: f for f, part in halves.items() for n in part}}
    with open(os.path.join(folder, "pytorch_model.bin.index.json"), "w", encoding="utf-8") as f:
        json.dump(listing, f)
    return listing


def test_shards_in_and_out(folder):
    model = made_model()
    write_config(model, folder)
    sharded(folder, model)
    code, out, err = run(folder, "-o", folder + "/out", "--shard", "15KB")
    check(code == 0, err)
    files = [f for f in os.listdir(folder + "/out") if f.endswith(".safetensors")]
    check(len(files) > 2, f"shards: {files}")
    with open(folder + "/out/model.safetensors.index.json", encoding="utf-8") as f:
        index = json.load(f)
    check(sorted(set(index["weight_map"].values())) == sorted(files), "index names other files")
    check(index["metadata"]["total_size"] == sum(4 * p.numel() for p in model.parameters()),
          "total_size")
    check_model(folder + "/out", model)


def test_shard_missing(folder):
    model = made_model()
    write_config(model, folder)
    sharded(folder, model)
    os.remove(folder + "/pytorch_model-00002-of-00002.bin")
    check_failure(run(folder, "-o", folder + "/out"), 66, "pytorch_model-00002-of-00002.bin",
                  output=folder + "/out")


def test_index_promises_too_much(folder):
    model = made_model()
    write_config(model, folder)
    listing = sharded(folder, model)
    listing["weight_map"]["model.layers.9.mlp.up_proj.weight"] = "pytorch_model-00001-of-00002.bin"
    with open(os.path.join(folder, "pytorch_model.bin.index.json"), "w", encoding="utf-8") as f:
        json.dump(listing, f)
    check_failure(run(folder, "-o", folder + "/out"), 65, "model.layers.9.mlp.up_proj.weight",
                  output=folder + "/out")


def test_index_points_outside(folder):
    model = made_model()
    write_config(model, folder)
    listing = sharded(folder, model)
    listing["weight_map"]["lm_head.weight"] = "../secret.bin"
    with open(os.path.join(folder, "pytorch_model.bin.index.json"), "w", encoding="utf-8") as f:
        json.dump(listing, f)
    check_failure(run(folder, "-o", folder + "/out"), 65, "../secret.bin", output=folder + "/out")


def test_tied_weights_are_stored_once(folder):
    model = made_model(tied=True)
    write_config(model, folder)
    state = model.state_dict()
    check("lm_head.weight" in state, "the state should list the tied head")
    torch.save(state, os.path.join(folder, "pytorch_model.bin"))
    code, out, err = run(folder, "-o", folder + "/out")
    check(code == 0, err)
    check("left out: lm_head.weight (tied" in out, out)
    check_model(folder + "/out", model)


def test_tied_in_name_only(folder):
    model = made_model(tied=True)
    write_config(model, folder)
    state = dict(model.state_dict())
    state["lm_head.weight"] = state["lm_head.weight"] + 1
    torch.save(state, os.path.join(folder, "pytorch_model.bin"))
    check_failure(run(folder, "-o", folder + "/out"), 65, "tie_word_embeddings", "lm_head.weight",
                  output=folder + "/out")


def test_shared_storage_of_an_untied_model(folder):
    model = made_model()
    with torch.no_grad():
        model.lm_head.weight.copy_(model.model.embed_tokens.weight)
    write_config(model, folder)
    state = dict(model.state_dict())
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    torch.save(state, os.path.join(folder, "pytorch_model.bin"))
    check(run(folder, "-o", folder + "/out")[0] == 0, "failed")
    check_model(folder + "/out", model)


def test_views_and_buffers(folder):
    """Transposed storage is written in order; stored rotary frequencies are left out."""
    model = made_model()
    write_config(model, folder)
    state = dict(model.state_dict())
    name = "model.layers.0.mlp.down_proj.weight"
    state[name] = state[name].t().contiguous().t()
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    torch.save(state, os.path.join(folder, "pytorch_model.bin"))
    code, out, err = run(folder, "-o", folder + "/out")
    check(code == 0, err)
    check("left out: model.layers.0.self_attn.rotary_emb.inv_freq" in out, out)
    check_model(folder + "/out", model)


def test_tokenizer_is_copied(folder):
    model = made_model()
    write_config(model, folder)
    torch.save(model.state_dict(), os.path.join(folder, "pytorch_model.bin"))
    os.makedirs(folder + "/words")
    with open(folder + "/words/tokenizer.json", "w", encoding="utf-8") as f:
        f.write("{}")
    code, out, err = run(folder, "-o", folder + "/out", "--tokenizer", folder + "/words")
    check(code == 0 and "note:" not in out, out + err)
    check(os.path.exists(folder + "/out/tokenizer.json"), "no tokenizer.json")
    check_failure(run(folder, "-o", folder + "/out2", "--tokenizer", folder), 66, "tokenizer.json",
                  output=folder + "/out2")


def test_code_in_a_pickle_is_refused(folder):
    mark = os.path.join(folder, "the_code_ran")

    class Evil:
        def __reduce__(self):
            return (os.mkdir, (mark,))

    model = made_model()
    write_config(model, folder)
    torch.save({"a": Evil()}, os.path.join(folder, "pytorch_model.bin"))
    check_failure(run(folder, "-o", folder + "/out"), 65, "refused", output=folder + "/out")
    with open(os.path.join(folder, "pytorch_model.bin"), "wb") as f:
        pickle.dump(Evil(), f, protocol=2)
    check_failure(run(folder, "-o", folder + "/out"), 65, "pytorch_model.bin",
                  output=folder + "/out")
    check(not os.path.exists(mark), "the code ran")
    with open(os.path.join(folder, "pytorch_model.bin"), "rb") as f:
        pickle.load(f)
    check(os.path.exists(mark), "the pickle would have done no harm: this test shows nothing")


def test_not_a_dictionary_of_tensors(folder):
    model = made_model()
    write_config(model, folder)
    torch.save([torch.ones(2)], os.path.join(folder, "pytorch_model.bin"))
    check_failure(run(folder, "-o", folder + "/out"), 65, "dictionary", output=folder + "/out")
    torch.save({"step": 3}, os.path.join(folder, "pytorch_model.bin"))
    check_failure(run(folder, "-o", folder + "/out"), 65, "step", output=folder + "/out")
    torch.save({"conv.weight": torch.ones(2)}, os.path.join(folder, "pytorch_model.bin"))
    check_failure(run(folder, "-o", folder + "/out"), 65, "conv.weight", output=folder + "/out")


def test_cut_pickle(folder):
    model = made_model()
    write_config(model, folder)
    path = os.path.join(folder, "pytorch_model.bin")
    torch.save(model.state_dict(), path)
    with open(path, "rb") as f:
        data = f.read()
    for keep in (len(data) // 2, 10, 1):
        with open(path, "wb") as f:
            f.write(data[:keep])
        got, _, err = run(folder, "-o", folder + "/out")
        check(got == 65 and err.count("\n") == 1, f"cut to {keep}: exit {got}: {err}")


def test_missing_inputs(folder):
    check_failure(run(folder + "/no", "-o", folder + "/out"), 66, "no such", output=folder + "/out")
    check_failure(run(folder, "-o", folder + "/out"), 66, "pytorch_model.bin",
                  output=folder + "/out")
    torch.save(made_model().state_dict(), os.path.join(folder, "pytorch_model.bin"))
    check_failure(run(folder, "-o", folder + "/out"), 66, "config.json", output=folder + "/out")


def test_existing_output(folder):
    os.makedirs(folder + "/out")
    got, _, err = run(folder, "-o", folder + "/out")
    check(got == 73 and "exists" in err, err)


# ---- Meta's names, llama2.c ----------------------------------------------------------------------


def meta_state(model):
    """The model under Meta's names, q and k rows in rotary pairs: written out row by row."""
    def pairs(w, heads):
        size = w.shape[0] // heads
        rows = [w[h * size + i + j * (size // 2)] for h in range(heads) for i in range(size // 2)
                for j in range(2)]
        return torch.stack(rows)

    state = {"tok_embeddings.weight": model.model.embed_tokens.weight.detach(),
             "norm.weight": model.model.norm.weight.detach()}
    for i, layer in enumerate(model.model.layers):
        a, m = layer.self_attn, layer.mlp
        state |= {f"layers.{i}.{name}": w.detach() for name, w in {
            "attention.wq.weight": pairs(a.q_proj.weight, HEADS),
            "attention.wk.weight": pairs(a.k_proj.weight, KV_HEADS),
            "attention.wv.weight": a.v_proj.weight, "attention.wo.weight": a.o_proj.weight,
            "feed_forward.w1.weight": m.gate_proj.weight,
            "feed_forward.w2.weight": m.down_proj.weight,
            "feed_forward.w3.weight": m.up_proj.weight,
            "attention_norm.weight": layer.input_layernorm.weight,
            "ffn_norm.weight": layer.post_attention_layernorm.weight}.items()}
    state["output.weight"] = model.lm_head.weight.detach()
    return state


def rotated_logits(state, ids):
    """Logits of Meta's layout by its own convention (neighbouring rows turn together), in float64:
    an independent witness that the rows were dealt out rightly."""
    w = {n: t.double() for n, t in state.items()}
    size, t = DIM // HEADS, len(ids)
    angle = torch.arange(t).double()[:, None] * \
        10000.0 ** (-torch.arange(0, size, 2).double() / size)[None, :]
    turn = torch.polar(torch.ones_like(angle), angle)

    def norm(x, g):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * g

    def rotate(x):  # [T, heads, D]
        z = torch.view_as_complex(x.reshape(t, x.shape[1], -1, 2)) * turn[:, None, :]
        return torch.view_as_real(z).reshape(x.shape)

    x = w["tok_embeddings.weight"][torch.tensor(ids)]
    mask = torch.full((t, t), -math.inf, dtype=torch.float64).triu(1)
    for i in range(LAYERS):
        p = f"layers.{i}."
        h = norm(x, w[p + "attention_norm.weight"])
        q = rotate((h @ w[p + "attention.wq.weight"].T).view(t, HEADS, size))
        k = rotate((h @ w[p + "attention.wk.weight"].T).view(t, KV_HEADS, size))
        v = (h @ w[p + "attention.wv.weight"].T).view(t, KV_HEADS, size)
        k, v = (z.repeat_interleave(HEADS // KV_HEADS, 1).transpose(0, 1) for z in (k, v))
        score = (q.transpose(0, 1) @ k.transpose(1, 2) / math.sqrt(size) + mask).softmax(-1)
        x = x + (score @ v).transpose(0, 1).reshape(t, DIM) @ w[p + "attention.wo.weight"].T
        h = norm(x, w[p + "ffn_norm.weight"])
        gate = torch.nn.functional.silu(h @ w[p + "feed_forward.w1.weight"].T)
        x = x + (gate * (h @ w[p + "feed_forward.w3.weight"].T)) @ w[p + "feed_forward.w2.weight"].T
    return norm(x, w["norm.weight"]) @ w["output.weight"].T


def check_witness(folder, state):
    ids = [1, 7, 30, 12, 9, 44, 3, 3, 21]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double()
    worst = (logits - rotated_logits(state, ids)).abs().max()
    check(worst < 1e-4, f"logits differ from the source model's by {worst:.2g}")


def test_meta_checkpoint(folder):
    model = made_model()
    state = meta_state(model)
    torch.save(state | {"rope.freqs": torch.ones(4)}, folder + "/consolidated.00.pth")
    with open(folder + "/params.json", "w", encoding="utf-8") as f:
        json.dump({"dim": DIM, "n_layers": LAYERS, "n_heads": HEADS, "n_kv_heads": KV_HEADS,
                   "norm_eps": 1e-5, "vocab_size": -1}, f)
    code, out, err = run(folder, "-o", folder + "/out")
    check(code == 0, err)
    check_model(folder + "/out", model)
    check_witness(folder + "/out", state)


def test_meta_scaled_rope_needs_a_configuration(folder):
    model = made_model()
    torch.save(meta_state(model), folder + "/consolidated.00.pth")
    with open(folder + "/params.json", "w", encoding="utf-8") as f:
        json.dump({"n_layers": LAYERS, "n_heads": HEADS, "use_scaled_rope": True}, f)
    check_failure(run(folder, "-o", folder + "/out"), 64, "--config", output=folder + "/out")
    os.makedirs(folder + "/with")
    write_config(model, folder + "/with")
    code, _, err = run(folder, "-o", folder + "/out", "--config", folder + "/with/config.json")
    check(code == 0, err)
    check_model(folder + "/out", model)


def test_llama2c_training_checkpoint(folder):
    model = made_model()
    torch.save({"model": {"_orig_mod." + n: w for n, w in meta_state(model).items()},
                "model_args": {"dim": DIM, "n_layers": LAYERS, "n_heads": HEADS,
                               "n_kv_heads": KV_HEADS, "vocab_size": WORDS, "multiple_of": 4,
                               "max_seq_len": POSITIONS, "dropout": 0.0}, "iter_num": 7},
               folder + "/ckpt.pt")
    code, _, err = run(folder + "/ckpt.pt", "-o", folder + "/out")
    check(code == 0, err)
    check_model(folder + "/out", model)


def llama2c_file(model, version, shared, cosines=True):
    """The bytes of a llama2.c file, put together here without the exporter's tables."""
    s = meta_state(model)

    def flat(name):
        return s[name].contiguous().numpy().astype("<f4").tobytes()

    def layers(name):
        return b"".join(flat(f"layers.{i}.{name}") for i in range(LAYERS))

    attention = b"".join(layers(f"attention.w{x}.weight") for x in "qkvo")
    feed = b"".join(layers(f"feed_forward.w{x}.weight") for x in "123")
    norms = layers("attention_norm.weight"), layers("ffn_norm.weight")
    head = b"" if shared else flat("output.weight")
    numbers = [DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, WORDS, POSITIONS]
    if version == 1:
        header = struct.pack("<Ii7iB", 0x616b3432, 1, *numbers, shared).ljust(256, b"\0")
        return header + norms[0] + norms[1] + flat("norm.weight") + flat("tok_embeddings.weight") \
            + attention + feed + head
    numbers[5] = WORDS if shared else -WORDS
    size = DIM // HEADS
    angle = torch.arange(POSITIONS)[:, None] * 10000.0 ** (-torch.arange(0, size, 2) / size)[None]
    tables = b"".join(t.numpy().astype("<f4").tobytes() for t in (angle.cos(), angle.sin()))
    if not cosines:
        tables = bytes(len(tables))
    return struct.pack("<7i", *numbers) + flat("tok_embeddings.weight") + norms[0] + attention \
        + norms[1] + feed + flat("norm.weight") + tables + head


def test_llama2c_files(folder):
    for version in (0, 1):
        for shared in (False, True):
            model = made_model(tied=shared)
            path = f"{folder}/v{version}{shared}.bin"
            with open(path, "wb") as f:
                f.write(llama2c_file(model, version, shared))
            code, out, err = run(path, "-o", path + ".out")
            check(code == 0, err)
            check_model(path + ".out", model)
            check_witness(path + ".out", meta_state(model))
            check(("left out: freqs_cos" in out) == (version == 0), out)


def test_llama2c_without_its_tables(folder):
    model = made_model()
    with open(folder + "/m.bin", "wb") as f:
        f.write(llama2c_file(model, 0, False, cosines=False))
    check(run(folder + "/m.bin", "-o", folder + "/out")[0] == 0, "failed")
    check_model(folder + "/out", model)


def test_llama2c_other_rotary_base(folder):
    data = bytearray(llama2c_file(made_model(), 0, True))
    table = POSITIONS * (DIM // HEADS // 2) * 4
    at = len(data) - 2 * table + 4 * (DIM // HEADS // 2)
    struct.pack_into("<f", data, at + 4, 0.5)
    with open(folder + "/m.bin", "wb") as f:
        f.write(data)
    check_failure(run(folder + "/m.bin", "-o", folder + "/out"), 65, "10000",
                  output=folder + "/out")


def test_llama2c_bad_files(folder):
    good = llama2c_file(made_model(), 1, False)

    def changed(at, value):
        data = bytearray(good)
        struct.pack_into("<i", data, at, value)
        return bytes(data)

    bad = {"empty": (b"", "too short"), "cut": (good[:-4], "header asks for"),
           "longer": (good + b"\0", "header asks for"), "header": (good[:100], "header cut"),
           "version 2": (changed(4, 2), "version 2"),
           "no layers": (changed(16, 0), "n_layers is 0"),
           "negative": (changed(8, -5), "dim is -5"), "heads": (changed(20, 5), "heads"),
           "text": (b"version https://git-lfs.github.com/spec/v1\n" * 3, "not a llama2.c file"),
           "flag": (good[:36] + b"\7" + good[37:], "flag 7")}
    for name, (data, words) in bad.items():
        path = os.path.join(folder, "m.bin")
        with open(path, "wb") as f:
            f.write(data)
        check_failure(run(path, "-o", folder + "/out"), 65, words, output=folder + "/out")


def test_the_proof_can_fail(folder):
    """A wrong permutation, and a file changed behind our back, are noticed."""
    model = made_model()
    with open(folder + "/m.bin", "wb") as f:
        f.write(llama2c_file(model, 1, False))
    right = export.half_split
    export.half_split = lambda w, heads: w
    try:
        check_failure(run(folder + "/m.bin", "-o", folder + "/out"), 65, "read back",
                      output=folder + "/out")
    finally:
        export.half_split = right
    saved = export.save_file

    def damaging(tensors, path, metadata):
        tensors["model.norm.weight"].view(torch.int32)[3] ^= 1
        saved(tensors, path, metadata)
    export.save_file = damaging
    try:
        check_failure(run(folder + "/m.bin", "-o", folder + "/out"), 65, "model.norm.weight",
                      "read back", output=folder + "/out")
    finally:
        export.save_file = saved


def main():
    only = sys.argv[1] if len(sys.argv) > 1 else ""
    tests = {n: f for n, f in globals().items() if n.startswith("test_") and only in n}
    passed = failed = 0
    for name, test in tests.items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                test(folder)
                passed += 1
            except Exception as e:  # any way to fail is a failed test
                failed += 1
                print(f"FAIL {name}: {type(e).__name__}: {e}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
