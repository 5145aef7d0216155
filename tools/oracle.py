"""oracle.py - the other side of `make parity`: TRL, PEFT and transformers, with their answers kept.

A job is a dictionary; its answer is a folder with answer.json and *.safetensors. Answers are cached
under the SHA-256 of this file, of the job and of every file the job names, so a second run of
`make parity` computes none of them again.

Everything runs in float32 on the CPU with one thread (a fixed order of summation), eager attention,
offline. Kinds of jobs: select, train, dropout, score, generate, merge.
"""
import csv
import hashlib
import json
import math
import os
import random
import shutil

FILE_FIELDS = ("model", "adapter", "reference_adapter", "rows", "eval_rows", "data_file", "prompts")
VERSIONS = "torch 2.13.0, trl 1.16.0, peft 0.21.2, transformers 5.23.0"

_file_hashes = {}


def file_hash(path):
    """SHA-256 of a file, or of the names and hashes of a directory's files."""
    if os.path.isdir(path):
        names = sorted(os.listdir(path))
        text = "".join(f"{n} {file_hash(os.path.join(path, n))}\n" for n in names
                       if n != "README.md")
        return hashlib.sha256(text.encode()).hexdigest()
    info = os.stat(path)
    key = (os.path.abspath(path), info.st_size, info.st_mtime_ns)
    if key not in _file_hashes:
        with open(path, "rb") as f:
            _file_hashes[key] = hashlib.sha256(f.read()).hexdigest()
    return _file_hashes[key]


class Oracle:
    """answer = oracle(job): computes it, or finds it in `folder`."""

    def __init__(self, folder):
        self.folder = folder
        self.computed = 0
        os.makedirs(folder, exist_ok=True)

    def key(self, job):
        named = {k: file_hash(v) if k in FILE_FIELDS and v else v for k, v in job.items()}
        text = json.dumps([file_hash(os.path.abspath(__file__)), VERSIONS, named], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def __call__(self, job):
        folder = os.path.join(self.folder, f"{job['kind']}-{self.key(job)}")
        if not os.path.exists(os.path.join(folder, "answer.json")):
            partial = f"{folder}.{os.getpid()}"
            shutil.rmtree(partial, ignore_errors=True)
            os.makedirs(partial)
            prepare()
            answer = KINDS[job["kind"]](job, partial)
            with open(os.path.join(partial, "answer.json"), "w", encoding="utf-8") as f:
                json.dump(answer, f)
            self.computed += 1
            try:
                os.rename(partial, folder)
            except OSError:  # another process was sooner
                shutil.rmtree(partial)
        return Answer(folder)


class Answer:
    """answer["key"] reads answer.json, answer.tensors("name") reads name.safetensors."""

    def __init__(self, folder):
        self.folder = folder
        with open(os.path.join(folder, "answer.json"), encoding="utf-8") as f:
            self.json = json.load(f)

    def __getitem__(self, key):
        return self.json[key]

    def path(self, name):
        return os.path.join(self.folder, name)

    def tensors(self, name):
        from safetensors.torch import load_file
        return load_file(os.path.join(self.folder, name + ".safetensors"))


def prepare():
    """One thread, no network, no chatter."""
    import logging
    import warnings
    import torch
    import transformers
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    import datasets
    datasets.disable_progress_bars()
    datasets.disable_caching()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


# ---- rows ----------------------------------------------------------------------------------------


def plain_tokenizer(model):
    """The `tokenizers` library on tokenizer.json as it is: what the program must equal."""
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(os.path.join(model, "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def read_rasbt(path):
    """Pairs: a polite and an impolite answer to a short instruction."""
    with open(path, encoding="utf-8") as f:
        table = json.load(f)
    for r in table:
        prompt = r["instruction"] + ("\n" + r["input"] if r["input"] else "") + "\n"
        if r["chosen"] != r["rejected"]:
            yield {"prompt": prompt, "chosen": r["chosen"], "rejected": r["rejected"]}


def read_xstest(folder):
    """Completions with their human label; desirable: a safe prompt answered, an unsafe refused."""
    for model in ("gpt4", "mistralinstruct", "mistralguard"):
        path = os.path.join(folder, f"completions_{model}_gpteval.csv")
        with open(path, encoding="utf-8", newline="") as f:
            for r in csv.DictReader(f):
                if r["final_label"] == "3_partial_refusal":
                    continue
                unsafe = r["type"].startswith("contrast_")
                yield {"prompt": r["prompt"], "completion": r["completion"],
                       "label": unsafe == (r["final_label"] == "2_full_refusal")}


def read_made(kind, count=200):
    """Rows of made sentences, where there is no data."""
    from tiny_models import sentence
    draw = random.Random(17)
    for _ in range(count):
        prompt = sentence(draw) + (" " if draw.random() < 0.3 else "\n")
        if kind == "pairs":
            yield {"prompt": prompt, "chosen": sentence(draw), "rejected": sentence(draw)}
        else:
            yield {"prompt": prompt, "completion": sentence(draw), "label": draw.random() < 0.6}


def job_select(job, folder):
    """`count` rows whose tokens (prompt and completion) number at most `longest`, in an order drawn
    from `seed`; of labels, half of each; no prompt twice, no answer four times. A row whose ids
    transformers' AutoTokenizer sees differently from `tokenizers` is passed over: transformers 5
    rebuilds Llama tokenizers and loses, for one, double spaces. `skipped` counts those."""
    from transformers import AutoTokenizer
    readers = {"rasbt": read_rasbt, "xstest": read_xstest}
    rows = list(readers[job["source"]](job["data_file"]) if job["source"] in readers
                else read_made(job["source"].split("-")[1]))
    random.Random(job["seed"]).shuffle(rows)
    auto, plain = AutoTokenizer.from_pretrained(job["model"]), plain_tokenizer(job["model"])
    eos = [auto.eos_token_id]

    def agrees(prompt, completion):
        return auto(prompt)["input_ids"] == plain.encode(prompt).ids and \
            auto(prompt + completion + auto.eos_token)["input_ids"] == \
            plain.encode(prompt + completion).ids + eos

    chosen, skipped, classes, seen, said = [], 0, {True: 0, False: 0}, set(), {}
    for row in rows:
        texts = [row[k] for k in ("chosen", "rejected", "completion") if k in row]
        lengths = [len(plain.encode(row["prompt"] + t).ids) + 1 for t in texts]
        if max(lengths) > job["longest"] or row["prompt"] in seen:
            continue
        if not all(agrees(row["prompt"], t) for t in texts):
            skipped += 1
            continue
        if "label" in row and classes[row["label"]] > job["count"] // 2:
            continue
        said[texts[0]] = said.get(texts[0], 0) + 1
        if said[texts[0]] > 3:  # a refusal is often the same sentence
            continue
        classes[row.get("label", True)] += 1
        seen.add(row["prompt"])
        chosen.append(row)
        if len(chosen) == job["count"]:
            break
    if len(chosen) < job["count"]:
        raise RuntimeError(f"{job['source']}: {len(chosen)} rows fit, {job['count']} wanted")
    with open(os.path.join(folder, "rows.jsonl"), "w", encoding="utf-8") as f:
        f.writelines(json.dumps(r, ensure_ascii=False) + "\n" for r in chosen)
    return {"rows": len(chosen), "skipped": skipped}


# ---- training ------------------------------------------------------------------------------------


def load_model(path, dtype="float32"):
    import torch
    from transformers import AutoModelForCausalLM
    kind = dtype if dtype == "auto" else getattr(torch, dtype)
    return AutoModelForCausalLM.from_pretrained(path, dtype=kind, attn_implementation="eager")


def adapter_state(model):
    """{PEFT file name: tensor} of adapter "default"."""
    from peft import get_peft_model_state_dict
    return {n: t.detach().clone().contiguous()
            for n, t in get_peft_model_state_dict(model, save_embedding_layers=False).items()}


def trainable_name(name):
    """A parameter's name in the adapter file."""
    return name.replace(".default.", ".").replace("magnitude_vector.weight", "magnitude_vector")


def job_train(job, folder):
    """One run of DPOTrainer, KTOTrainer or SFTTrainer. Fields: method, model, rows, args (TRL's own names);
    adapter (a PEFT directory: the step-0 adapter) or lora (LoraConfig fields: drawn by PEFT from
    args.seed) or neither (all weights are trained); with an adapter, reference "base", "init" or
    "given" (reference_adapter, another PEFT directory); eval_rows: evaluated as args say.
    Writes initial, gradients (of step 1, before clipping) and final .safetensors."""
    from datasets import Dataset
    from peft import LoraConfig, PeftModel, set_peft_model_state_dict
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer, PrinterCallback
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, SFTConfig, SFTTrainer
    make_config, make_trainer = {"dpo": (DPOConfig, DPOTrainer), "kto": (KTOConfig, KTOTrainer),
                                 "sft": (SFTConfig, SFTTrainer)}[job["method"]]
    settings = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False,
                "optim": "adamw_torch", "logging_steps": 1, "save_strategy": "no",
                "report_to": "none", "disable_tqdm": True, **job["args"]}
    settings.setdefault("data_seed", settings["seed"])
    args = make_config(output_dir=os.path.join(folder, "trl"), **settings)
    model, tokenizer = load_model(job["model"]), AutoTokenizer.from_pretrained(job["model"])
    peft_config = reference = None
    if job.get("adapter") and job["reference"] == "given":
        # merged, because TRL's head does not find the backbone inside a PeftModel it did not wrap
        reference = PeftModel.from_pretrained(load_model(job["model"]),
                                              job["reference_adapter"]).merge_and_unload()
    if job.get("adapter") and job["reference"] != "base":
        model = PeftModel.from_pretrained(model, job["adapter"], is_trainable=True)
    elif job.get("adapter"):
        peft_config = LoraConfig.from_pretrained(job["adapter"])
        peft_config.inference_mode = False  # saved files say true: nothing would be trained
    elif job.get("lora"):
        peft_config = LoraConfig(task_type="CAUSAL_LM", **job["lora"])
    evaluation = Dataset.from_json(job["eval_rows"]) if job.get("eval_rows") else None
    trainer = make_trainer(model=model, args=args, train_dataset=Dataset.from_json(job["rows"]),
                           eval_dataset=evaluation, processing_class=tokenizer,
                           peft_config=peft_config,
                           **({"ref_model": reference} if reference else {}))
    if job.get("adapter") and job["reference"] == "base":
        got = set_peft_model_state_dict(
            trainer.model, load_file(os.path.join(job["adapter"], "adapter_model.safetensors")))
        assert not got.unexpected_keys and not [k for k in got.missing_keys if "lora_" in k]
        assert trainer.ref_model is None and list(trainer.model.peft_config) == ["default"]
    trainer.remove_callback(PrinterCallback)
    full = not (job.get("adapter") or job.get("lora"))
    state = (lambda: {n: p.detach().clone() for n, p in trainer.model.named_parameters()}) \
        if full else (lambda: adapter_state(trainer.model))
    save_file(state(), os.path.join(folder, "initial.safetensors"))

    gradients = {}

    def keep(name):
        def hook(parameter):  # called after every micro-batch: the last one holds the sum
            if trainer.state.global_step == 0:
                gradients[name] = parameter.grad.detach().clone()
        return hook

    for name, parameter in trainer.model.named_parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(keep(trainable_name(name)))
    trainer.train()
    save_file(gradients, os.path.join(folder, "gradients.safetensors"))
    save_file(state(), os.path.join(folder, "final.safetensors"))
    shutil.rmtree(os.path.join(folder, "trl"), ignore_errors=True)
    steps = [r for r in trainer.state.log_history if "loss" in r]
    assert all(math.isfinite(r[k]) for r in steps for k in ("loss", "grad_norm"))
    columns = [c for c in trainer.train_dataset.column_names if c.endswith("_ids")]
    return {"steps": steps,
            "evaluations": [r for r in trainer.state.log_history if "eval_loss" in r],
            "ids": [{c: row[c] for c in columns} for row in trainer.train_dataset]}


def job_dropout(job, folder):
    """sft's loss over all rows with the dropout of the adapter's file acting, `seeds` times: the
    losses, and for each tensor the gradient's component along the gradient without dropout (in
    units of its length; a tensor without a gradient is left out). Writes those directions."""
    import torch
    from peft import PeftModel
    from safetensors.torch import save_file
    tokenizer = plain_tokenizer(job["model"])
    with open(job["rows"], encoding="utf-8") as f:
        rows = [json.loads(line) for line in f]
    model = PeftModel.from_pretrained(load_model(job["model"]), job["adapter"], is_trainable=True)
    eos = model.generation_config.eos_token_id
    texts = []
    for row in rows:
        ids = tokenizer.encode(row["prompt"] + row["completion"]).ids + [eos]
        texts.append((ids, common_prefix(tokenizer.encode(row["prompt"]).ids, ids)))
    width, scored = max(len(ids) for ids, _ in texts), sum(len(i) - s for i, s in texts)
    inputs = torch.tensor([ids + [eos] * (width - len(ids)) for ids, _ in texts])
    mask = torch.tensor([[start <= t < len(ids) for t in range(width)] for ids, start in texts])
    shown = torch.tensor([[t < len(ids) for t in range(width)] for ids, _ in texts])
    parameters = {trainable_name(n): p for n, p in model.named_parameters() if p.requires_grad}

    def pass_of():
        model.zero_grad()
        logits = model(inputs, attention_mask=shown.long()).logits[:, :-1]
        logps = logits.log_softmax(-1).gather(2, inputs[:, 1:, None])[..., 0]
        loss = -(logps * mask[:, 1:]).sum() / scored
        loss.backward()
        return loss.item(), {n: p.grad.detach().clone() for n, p in parameters.items()}

    model.eval()
    plain, directions = pass_of()
    directions = {n: g / g.square().sum() for n, g in directions.items() if g.abs().max() > 0}
    save_file(directions, os.path.join(folder, "directions.safetensors"))
    model.train()
    losses, along = [], {n: [] for n in directions}
    for seed in range(job["seeds"]):
        torch.manual_seed(seed)
        loss, gradients = pass_of()
        losses.append(loss)
        for name, direction in directions.items():
            along[name].append((gradients[name] * direction).sum().item())
    return {"plain": plain, "losses": losses, "along": along}


def job_rows(job, folder):
    """What TRL makes of rows, without a model: ids, and which of them have a label. Fields: model
    (its tokenizer), rows, method; args (TRL's own names); template (Jinja) or None."""
    from types import SimpleNamespace
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, SFTConfig, SFTTrainer
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    if job.get("template"):
        tokenizer.chat_template = job["template"]
    make_config, trainer = {"sft": (SFTConfig, SFTTrainer), "dpo": (DPOConfig, DPOTrainer),
                            "kto": (KTOConfig, KTOTrainer)}[job["method"]]
    args = make_config(output_dir=os.path.join(folder, "trl"), use_cpu=True, bf16=False,
                       **job.get("args", {}))
    rows = Dataset.from_json(job["rows"])
    only = args.completion_only_loss if job["method"] == "sft" else None
    if only is None:
        only = {"prompt", "completion"} <= set(rows.column_names)
    self = SimpleNamespace(_tokenizer=tokenizer, chat_template=None, completion_only_loss=only,
                           calculate_KL=False)
    more = {"packing": False, "formatting_func": None} if job["method"] == "sft" else {}
    made = trainer._prepare_dataset(self, rows, tokenizer, args, dataset_name="train", **more)
    if job["method"] == "sft":
        return {"sequences": [[{"ids": r["input_ids"],
                                "scored": [int(y != -100) for y in r["labels"]]}] for r in made]}
    sides = ("chosen", "rejected") if job["method"] == "dpo" else ("completion",)
    return {"sequences": [[{"ids": r["prompt_ids"] + r[s + "_ids"],
                            "scored": [0] * len(r["prompt_ids"]) + [1] * len(r[s + "_ids"])}
                           for s in sides] for r in made]}


# ---- scores, text, merging -----------------------------------------------------------------------


def common_prefix(*lists):
    n = 0
    while all(n < len(x) for x in lists) and len({x[n] for x in lists}) == 1:
        n += 1
    return n


def saved_vocabulary(adapter):
    """Rows of the embedding that an adapter's file holds, or None."""
    from safetensors import safe_open
    with safe_open(os.path.join(adapter, "adapter_model.safetensors"), "pt") as f:
        for name in f.keys():
            if name.endswith("embed_tokens.weight"):
                return f.get_slice(name).get_shape()[0]
    return None


def with_adapter(job, dtype="float32"):
    from peft import PeftModel
    model = load_model(job["model"], dtype)
    if job.get("adapter"):
        rows = saved_vocabulary(job["adapter"])
        if rows and rows != model.config.vocab_size:
            model.resize_token_embeddings(rows, mean_resizing=False)
        model = PeftModel.from_pretrained(model, job["adapter"])
    return model.eval()


def job_score(job, folder):
    """log p of every completion token: logits in `dtype` (float32), log-softmax in float64.
    Rows {"prompt", "completion"}, split where prompt and prompt + completion part; or
    {"prompt_ids", "completion_ids"}."""
    import torch
    model, tokenizer = with_adapter(job, job.get("dtype", "float32")), plain_tokenizer(job["model"])
    with open(job["rows"], encoding="utf-8") as f:
        rows = [json.loads(line) for line in f]
    scores = []
    for row in rows:
        if "prompt_ids" in row:
            start, ids = len(row["prompt_ids"]), row["prompt_ids"] + row["completion_ids"]
        else:
            ids = tokenizer.encode(row["prompt"] + row["completion"]).ids
            start = common_prefix(tokenizer.encode(row["prompt"]).ids, ids)
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0].double()
        logps = logits[:-1].log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()
        scores.append({"prompt_tokens": start, "token_ids": ids[start:],
                       "token_logps": ([None] if start == 0 else []) + logps[max(start, 1) - 1:]})
    return {"scores": scores}


def job_generate(job, folder):
    """Greedy continuation of plain prompts. `gap` is the smallest distance between the best two
    logits on the way: where it is below the noise of float32, two right programs may part."""
    import torch
    model, tokenizer = with_adapter(job), plain_tokenizer(job["model"])
    eos = model.generation_config.eos_token_id
    ends = set(eos if isinstance(eos, list) else [eos])
    with open(job["prompts"], encoding="utf-8") as f:
        prompts = [json.loads(line)["prompt"] for line in f]
    answers = []
    for prompt in prompts:
        ids = tokenizer.encode(prompt).ids
        out = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)),
                             do_sample=False, num_beams=1, max_new_tokens=job["max_tokens"],
                             output_scores=True, return_dict_in_generate=True,
                             pad_token_id=min(ends))
        new = out.sequences[0, len(ids):].tolist()
        gaps = []
        for score in out.scores:
            best = score[0].topk(2).values
            gaps.append((best[0] - best[1]).item())
        stopped = bool(new) and new[-1] in ends
        kept = new[:-1] if stopped else new
        answers.append({"token_ids": kept, "finish": "stop" if stopped else "length",
                        "gap": min(gaps), "text": tokenizer.decode(kept),
                        "whole": tokenizer.decode(ids + kept)})
    return {"answers": answers}


def job_merge(job, folder):
    """PEFT's merge_and_unload in the stored type, or another; the sum in float64, and a bound of its
    error."""
    import torch
    from safetensors.torch import save_file
    base = {n: p.detach().clone() for n, p in load_model(job["model"], "auto").named_parameters()}
    dtypes = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
    model = with_adapter(job, dtypes.get(job.get("dtype"), "auto"))
    exact, terms = {}, {}
    for name, module in model.named_modules():
        if hasattr(module, "lora_A") and "default" in module.lora_A:
            a = module.lora_A["default"].weight.double()
            b = module.lora_B["default"].weight.double()
            key = name.removeprefix("base_model.model.") + ".weight"
            scale, w = module.scaling["default"], base[key].double()
            exact[key] = w + b @ a * scale
            # n float32 roundings of the sum move it by at most n 2^-24 times its absolute terms
            terms[key] = (w.abs() + b.abs() @ a.abs() * scale) * (a.shape[0] + 3)
            if "default" in module.lora_magnitude_vector:
                size = module.lora_magnitude_vector["default"].weight.double()
                factor = (size / exact[key].norm(dim=1))[:, None]
                exact[key], terms[key] = factor * exact[key], factor.abs() * terms[key]
    merged = {n: p.detach().clone().contiguous()
              for n, p in model.merge_and_unload().named_parameters()}
    save_file(merged, os.path.join(folder, "merged.safetensors"))
    for name, table in (("exact", exact), ("terms", terms)):
        save_file({n: t.detach().contiguous() for n, t in table.items()},
                  os.path.join(folder, name + ".safetensors"))
    return {"names": sorted(merged), "dtype": str(next(iter(merged.values())).dtype)}


KINDS = {"select": job_select, "train": job_train, "dropout": job_dropout, "rows": job_rows,
         "score": job_score, "generate": job_generate, "merge": job_merge}
