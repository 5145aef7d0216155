"""golden.py - writes tests/golden/*: numbers from TRL, PEFT and PyTorch for tests without Python.

    python tools/golden.py            writes tests/golden/ anew
    python tools/golden.py --check    makes everything again and compares it with what is there

What each file holds and how to read it: tests/golden/README.md. Nothing here copies a formula of
this project: losses come from TRL's own trainers, adapters from PEFT, orders from torch.randperm;
models are tiny and random and go through tools/plain_model.py in float64, after a comparison with
transformers in float32.
"""
import argparse
import hashlib
import json
import math
import os
import sys
import tempfile
from collections import defaultdict
from types import SimpleNamespace

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig,
                          MistralForCausalLM)
from transformers.trainer_utils import set_seed
from trl import DPOTrainer, KTOTrainer

from plain_model import PlainModel, load_adapter, load_config, load_weights
from tiny_models import ALL_LINEAR, fill

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
GOLDEN = os.path.join(ROOT, "tests", "golden")
# Written by hand, by golden_tokenizer.py and by golden_template.py.
OTHERS = ("README.md", "tokenizers.json", "templates.json")
ROUNDING = 1e-12  # float64 sums in another order, as other processors take them, differ by 1e-13

# ---- losses: TRL's _compute_loss on a model that returns the log-probs it is given ---------------

DELTA_LOSSES = ["sigmoid", "hinge", "ipo", "exo_pair", "robust", "discopop", "sigmoid_norm"]
ALL_LOSSES = DELTA_LOSSES + ["nca_pair", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
                             "apo_zero", "apo_down", "sft"]
SMOOTHED = {"exo_pair", "robust", "aot", "aot_unpaired"}


def padded(rows):
    """Lists of different length -> a float64 matrix, zeros after each end."""
    width = max(len(r) for r in rows)
    return torch.tensor([r + [0.0] * (width - len(r)) for r in rows], dtype=torch.float64)


class GivenLogps:
    """Stands where TRL expects a causal language model; its log-probs are given."""

    training = True

    def __init__(self, logps, log_sum_sq=None):
        self.logps, self.log_sum_sq = logps, log_sum_sq

    def __call__(self, **_):
        zero = torch.zeros_like(self.logps)
        return SimpleNamespace(log_probs=self.logps, log_sum_sq_probs=self.log_sum_sq,
                               entropy=zero, mean_logits=zero, is_top1=zero.bool())


def stub_trainer(**fields):
    """The attributes of a TRL trainer that its _compute_loss reads."""
    accelerator = SimpleNamespace(device=torch.device("cpu"), gather=lambda x: x,
                                  gather_for_metrics=lambda x: x)
    lists = {mode: defaultdict(list) for mode in ("train", "eval")}
    model = torch.nn.Module()
    model.is_gradient_checkpointing = False
    return SimpleNamespace(model=model, accelerator=accelerator, aux_loss_enabled=False,
                           precompute_ref_logps=False, _metrics=lists, _total_train_tokens=0,
                           _tp_size=1, **fields)


def masks(lengths):
    """One prompt token before each completion: (input_ids, attention_mask, completion_mask)."""
    width = 1 + max(lengths)
    at = torch.arange(width)[None, :]
    ends = torch.tensor(lengths)[:, None]
    return torch.zeros(len(lengths), width, dtype=torch.long), (at <= ends).long(), \
        ((at >= 1) & (at <= ends)).long()


def dpo_loss(pairs, case):
    """TRL's DPO loss of the pairs, its gradient for every policy token, and its metrics."""
    sides = [p["chosen"] for p in pairs] + [p["rejected"] for p in pairs]
    policy = padded([s["policy"] for s in sides])
    reference = padded([s["reference"] for s in sides])
    squares = padded([s["log_sum_sq"] for s in sides])
    policy.requires_grad_(True)
    f_divergence = case["f_divergence"]
    scored = policy
    if f_divergence == "alpha_divergence" and case["f_alpha"] != 1.0:
        # TRL computes this score in float32 only. In float64: hand TRL, as reverse_kl, log-ratios
        # that equal the score, for the losses that read nothing else.
        f_divergence = "reverse_kl"
        ratio = (policy - reference).sum(1)
        score = (((case["f_alpha"] - 1) * ratio).exp() - 1) / (case["f_alpha"] - 1)
        shift = torch.zeros_like(policy)
        shift[:, 0] = 1.0
        scored = policy + shift * (score - ratio)[:, None]
    trainer = stub_trainer(
        ref_model=GivenLogps(reference), ld_alpha=case["ld_alpha"], beta=case["beta"],
        f_divergence_type=f_divergence, f_alpha_divergence_coef=case["f_alpha"],
        loss_types=case["losses"], loss_weights=case["weights"],
        label_smoothing=case["label_smoothing"], use_weighting=case["wpo"],
        args=SimpleNamespace(discopop_tau=case["discopop_tau"], gradient_checkpointing_kwargs=None))
    ids, attention, completion = masks([len(s["policy"]) for s in sides])
    inputs = {"input_ids": ids, "attention_mask": attention, "completion_mask": completion}
    loss = DPOTrainer._compute_loss(trainer, GivenLogps(scored, squares), inputs, False)
    (gradient,) = torch.autograd.grad(loss, policy)
    rows = [g[:len(s["policy"])].tolist() for g, s in zip(gradient, sides)]
    n = len(pairs)
    metrics = {key: trainer._metrics["train"][key][-1] for key in
               ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies",
                "logps/chosen", "logps/rejected")}
    return loss.item(), rows[:n], rows[n:], metrics


def cdpo_loss(pairs, case):
    """Conservative DPO (TRL 1.16 dropped it): -(1-e) log s(bD) - e log s(-bD), mean over pairs."""
    policy = padded([s["policy"] for p in pairs for s in (p["chosen"], p["rejected"])])
    reference = padded([s["reference"] for p in pairs for s in (p["chosen"], p["rejected"])])
    policy.requires_grad_(True)
    ratio = (policy - reference).sum(1)
    margin = case["beta"] * (ratio[0::2] - ratio[1::2])
    e = case["label_smoothing"]
    loss = (-(1 - e) * F.logsigmoid(margin) - e * F.logsigmoid(-margin)).mean()
    (gradient,) = torch.autograd.grad(loss, policy)
    rows = [g[:len(s["policy"])].tolist() for g, s in
            zip(gradient, [s for p in pairs for s in (p["chosen"], p["rejected"])])]
    return loss.item(), rows[0::2], rows[1::2], None


def dpo_case(losses, weights=None, **changes):
    case = {"losses": losses, "weights": weights or [1.0] * len(losses), "beta": 0.1,
            "label_smoothing": 0.0, "f_divergence": "reverse_kl", "f_alpha": 0.5,
            "discopop_tau": 0.05, "ld_alpha": None, "wpo": False}
    case.update(changes)
    return case


def dpo_cases():
    """Every loss, every f-divergence it may have, every option; a name says which."""
    cases = []
    for loss in ALL_LOSSES:
        smoothing = 1e-3 if loss == "exo_pair" else 0.0
        cases.append(dpo_case([loss], label_smoothing=smoothing))
        if loss in SMOOTHED:
            cases.append(dpo_case([loss], label_smoothing=0.1))
        if loss not in ("aot", "aot_unpaired", "hinge", "sft"):  # TRL refuses, or fails on, these
            cases.append(dpo_case([loss], label_smoothing=smoothing, wpo=True))
        cases.append(dpo_case([loss], label_smoothing=smoothing, ld_alpha=0.3))
        cases.append(dpo_case([loss], label_smoothing=smoothing, beta=0.7))
    for loss in DELTA_LOSSES:
        smoothing = 0.1 if loss in SMOOTHED else 0.0
        for f in ("forward_kl", "js_divergence", "alpha_divergence"):
            cases.append(dpo_case([loss], label_smoothing=smoothing, f_divergence=f))
    cases.append(dpo_case(["sigmoid"], f_divergence="alpha_divergence", f_alpha=1.0))
    cases.append(dpo_case(["sigmoid"], f_divergence="alpha_divergence", f_alpha=2.0))
    cases.append(dpo_case(["discopop"], discopop_tau=0.5))
    cases.append(dpo_case(["cdpo"], label_smoothing=0.1))
    cases.append(dpo_case(["sigmoid", "sft"], [1.0, 0.25]))
    cases.append(dpo_case(["sigmoid", "bco_pair", "sft"], [0.8, 0.2, 1.0]))
    cases.append(dpo_case(["ipo", "aot"], [0.5, 2.0], label_smoothing=0.1))
    return cases


def case_name(case):
    """sigmoid+sft beta=0.7 ... : the losses and whatever differs from the defaults."""
    plain = dpo_case(case["losses"])
    words = ["+".join(case["losses"])]
    words += [f"{k}={v}" for k, v in case.items() if k != "losses" and v != plain[k]]
    return " ".join(words)


def spread(total, count):
    """Equal token log-probs with the given sum."""
    return [total / count] * count


def side(policy, reference, generator):
    """One completion; log_sum_sq is the log of the sum of squared probabilities per token."""
    squares = [min(-0.01, p * (0.4 + 0.5 * float(torch.rand(1, generator=generator))))
               for p in policy]
    return {"policy": policy, "reference": reference, "log_sum_sq": squares}


def book_pairs(generator):
    """Three pairs with short sums: the worked table of the documentation."""
    table = [(-10, -11.5, 5, -14, -12.5, 7), (-22.5, -21, 11, -20, -21.5, 9),
             (-7.25, -8, 4, -9.5, -9.25, 6)]
    return [{"chosen": side(spread(a, n), spread(b, n), generator),
             "rejected": side(spread(c, m), spread(d, m), generator)}
            for a, b, n, c, d, m in table]


def random_side(length, shift, generator):
    policy = [-0.05 - 4 * float(u) ** 2 for u in torch.rand(length, generator=generator)]
    noise = torch.randn(length, generator=generator) * 0.5 + shift
    reference = [min(p - float(x), -1e-3) for p, x in zip(policy, noise)]
    return side(policy, reference, generator)


def random_pairs(generator):
    lengths = [(1, 3), (6, 2), (4, 4), (3, 7)]
    return [{"chosen": random_side(a, 0.4, generator), "rejected": random_side(b, -0.3, generator)}
            for a, b in lengths]


def far_pairs(generator):
    """Log-ratios of +-10,000 nats: at beta 0.1 the margins are +-1,000 and beyond."""
    table = [(-10010.0, -10.0, -12.0, -10012.0), (-10.0, -10010.0, -10012.0, -12.0),
             (-5.0, -5.0, -20005.0, -5.0)]
    return [{"chosen": side(spread(a, 2), spread(b, 2), generator),
             "rejected": side(spread(c, 2), spread(d, 2), generator)} for a, b, c, d in table]


def finite(loss, *gradients):
    return math.isfinite(loss) and all(math.isfinite(x) for g in gradients for r in g for x in r)


def uniform(gradients):
    return all(x == row[0] for row in gradients for x in row)


def check_alpha_score(pairs, case, loss):
    """TRL's float32 alpha divergence and the float64 detour above must agree."""
    if case["f_divergence"] != "alpha_divergence" or case["losses"] == ["sft"]:
        return
    rows = [(sum(p[s]["policy"]), sum(p[s]["reference"])) for p in pairs
            for s in ("chosen", "rejected")]
    policy = torch.tensor([[a] for a, _ in rows[0::2]] + [[a] for a, _ in rows[1::2]])
    reference = torch.tensor([[b] for _, b in rows[0::2]] + [[b] for _, b in rows[1::2]])
    trainer = stub_trainer(
        ref_model=GivenLogps(reference), ld_alpha=None, beta=case["beta"],
        f_divergence_type="alpha_divergence", f_alpha_divergence_coef=case["f_alpha"],
        loss_types=case["losses"], loss_weights=case["weights"], use_weighting=False,
        label_smoothing=case["label_smoothing"],
        args=SimpleNamespace(discopop_tau=case["discopop_tau"], gradient_checkpointing_kwargs=None))
    if case["losses"][0] in ("ipo", "sigmoid_norm"):
        return  # these divide by the true lengths, which one summed token does not have
    ids, attention, completion = masks([1] * len(rows))
    inputs = {"input_ids": ids, "attention_mask": attention, "completion_mask": completion}
    single = DPOTrainer._compute_loss(trainer, GivenLogps(policy), inputs, False).item()
    assert abs(single - loss) <= 2e-6 * max(1, abs(loss)), (case_name(case), single, loss)


def dpo_losses():
    generator = torch.Generator().manual_seed(7)
    batches = {"book": book_pairs(generator), "random": random_pairs(generator),
               "far": far_pairs(generator)}
    results = []
    for batch, pairs in batches.items():
        for case in dpo_cases():
            if batch != "random" and (case["beta"] != 0.1 or case["wpo"] or case["ld_alpha"]):
                continue  # per token weights are told apart by the random batch alone
            compute = cdpo_loss if case["losses"] == ["cdpo"] else dpo_loss
            loss, chosen, rejected, metrics = compute(pairs, case)
            if batch == "far" and not finite(loss, chosen, rejected):
                continue  # TRL itself overflows here: nothing to be equal to
            check_alpha_score(pairs, case, loss) if batch != "far" else None
            result = {"name": f"{batch}: {case_name(case)}", "batch": batch, **case,
                      "tolerance": 2e-7 if "exo_pair" in case["losses"] else 1e-12, "loss": loss}
            if uniform(chosen + rejected):
                result["chosen_gradient"] = [row[0] for row in chosen]
                result["rejected_gradient"] = [row[0] for row in rejected]
            else:
                result["chosen_token_gradients"] = chosen
                result["rejected_token_gradients"] = rejected
            if metrics and case == dpo_case(["sigmoid"]):
                result["metrics"] = metrics
            results.append(result)
    return {"batches": batches, "cases": results}


def kto_loss(rows, case):
    """TRL's KTO loss of the rows, its gradient for each row's log-prob, and its metrics."""
    policy = torch.tensor([[r["policy"]] for r in rows], dtype=torch.float64, requires_grad=True)
    column = {key: torch.tensor([[r[key]] for r in rows], dtype=torch.float64)
              for key in ("reference", "kl_policy", "kl_reference")}

    class Model(GivenLogps):
        """Answers the mismatched rows with their own log-probs, told apart by their ids."""

        def __init__(self, logps, kl_logps):
            super().__init__(logps)
            self.kl_logps = kl_logps

        def __call__(self, input_ids=None, **_):
            mismatched = bool((input_ids == 1).all())
            return GivenLogps(self.kl_logps if mismatched else self.logps)()

    kl = case["loss"] == "kto"
    trainer = stub_trainer(
        ref_model=Model(column["reference"], column["kl_reference"]), calculate_KL=kl,
        loss_type=case["loss"], beta=case["beta"], desirable_weight=case["desirable_weight"],
        undesirable_weight=case["undesirable_weight"],
        args=SimpleNamespace(gradient_checkpointing_kwargs=None))
    trainer._compute_kl_logps = lambda m, b: KTOTrainer._compute_kl_logps(trainer, m, b)
    ids, attention, completion = masks([1] * len(rows))
    batch = {"input_ids": ids, "attention_mask": attention, "completion_mask": completion,
             "KL_input_ids": ids + 1, "KL_attention_mask": attention,
             "KL_completion_mask": completion, "label": torch.tensor([r["label"] for r in rows])}
    loss = KTOTrainer._compute_loss(trainer, Model(policy, column["kl_policy"]), batch, False)
    (gradient,) = torch.autograd.grad(loss, policy)
    metrics = {key: values[-1] for key, values in trainer._metrics["train"].items()
               if key.startswith(("rewards/", "logps/", "kl"))}
    return loss.item(), [g[0] for g in gradient.tolist()], metrics


def kto_losses():
    def rows(policy, reference, labels, kl_policy, kl_reference):
        keys = ("policy", "reference", "label", "kl_policy", "kl_reference")
        return [dict(zip(keys, r)) for r in
                zip(policy, reference, labels, kl_policy, kl_reference)]

    policy, reference = [-10., -20., -7.25, -9.5, -6.], [-11.5, -21.5, -8., -9.25, -5.]
    labels, kl_policy = [True, False, True, False, True], [-15., -30., -12., -18., -5.]
    batches = {
        "book, kl 0.5": rows(policy, reference, labels, kl_policy,
                             [-16., -31.5, -12.5, -17., -5.5]),
        "book, kl clamped": rows(policy, reference, labels, kl_policy,
                                 [-14., -29.5, -11.5, -17., -5.5]),
        "desirable only": rows(policy[:3], reference[:3], [True] * 3, kl_policy[:3],
                               [-16., -31.5, -12.5]),
        "undesirable only": rows(policy[:3], reference[:3], [False] * 3, kl_policy[:3],
                                 [-16., -31.5, -12.5]),
        "far": rows([-10010., -10., -10010., -10.], [-10., -10010., -10., -10010.],
                    [True, True, False, False], [-20., -30., -25., -40.],
                    [-21., -31., -22., -44.]),
    }
    results = []
    for batch, table in batches.items():
        for loss_type in ("kto", "apo_zero_unpaired"):
            for beta in (0.1, 0.4):
                for weights in ((1.0, 1.0), (1.33, 2.5)):
                    case = {"loss": loss_type, "beta": beta, "desirable_weight": weights[0],
                            "undesirable_weight": weights[1]}
                    loss, gradient, metrics = kto_loss(table, case)
                    case["loss_type"] = case.pop("loss")
                    results.append({
                        "name": f"{batch}: {loss_type} beta={beta} weights={weights}",
                        "batch": batch, **case, "tolerance": 1e-12, "loss": loss,
                        "gradient": gradient, "metrics": metrics})
    return {"batches": batches, "cases": results}


# ---- tiny models ---------------------------------------------------------------------------------

VOCABULARY = 37
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24,
         "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 512,
         "bos_token_id": 1, "eos_token_id": 2}
MODELS = {  # what each is for: GQA, head size of its own, llama3 rope | MQA, window, tied, rsLoRA
    "llama": (LlamaForCausalLM, LlamaConfig(
        **SIZES, num_key_value_heads=2, head_dim=8, rms_norm_eps=1e-5, tie_word_embeddings=False,
        rope_parameters={"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0,
                         "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                         "original_max_position_embeddings": 256}),
        {"r": 3, "lora_alpha": 6, "target_modules": ALL_LINEAR}),
    "mistral": (MistralForCausalLM, MistralConfig(
        **SIZES, num_key_value_heads=1, rms_norm_eps=1e-6, sliding_window=5,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),
        {"r": 4, "lora_alpha": 8, "use_rslora": True,
         "target_modules": ["q_proj", "v_proj", "o_proj", "down_proj"]}),
}


def write_model(folder, model_class, config, lora, generator):
    """A transformers model directory and, in adapter/, a PEFT adapter with B not zero."""
    config.dtype = "float32"
    model = model_class(config).to(torch.float32)
    fill(model.named_parameters(), generator)
    model.save_pretrained(folder)
    os.remove(os.path.join(folder, "generation_config.json"))
    peft_model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **lora))
    fill([(n, p) for n, p in peft_model.named_parameters() if "lora_" in n], generator)
    with torch.no_grad():
        for name, p in peft_model.named_parameters():
            if "lora_B" in name:
                p.mul_(0.25 / peft_model.base_model.model.model.layers[0].self_attn.q_proj
                       .scaling["default"])
    adapter = os.path.join(folder, "adapter")
    peft_model.peft_config["default"].base_model_name_or_path = ""
    peft_model.save_pretrained(adapter)
    os.remove(os.path.join(adapter, "README.md"))
    sort_targets(os.path.join(adapter, "adapter_config.json"))
    return peft_model.eval()


def sort_targets(path):
    """PEFT writes a set, in an order that changes from run to run."""
    with open(path, encoding="utf-8") as f:
        config = json.load(f)
    config["target_modules"] = sorted(config["target_modules"])
    with open(path, "w", encoding="utf-8") as f:
        json.dump(config, f, indent=2, sort_keys=True)
        f.write("\n")


def random_ids(count, generator):
    return (3 + torch.randint(VOCABULARY - 3, (count,), generator=generator)).tolist()


class Loss:
    """DPO (sigmoid) and KTO losses of token ids, from the plain model's log-probs."""

    def __init__(self, model, beta):
        self.model, self.beta = model, beta

    def ratio(self, prompt, completion, adapter):
        policy = self.model.token_logps(prompt, completion, adapter).sum()
        with torch.no_grad():
            reference = self.model.token_logps(prompt, completion).sum()
        return policy - reference

    def dpo(self, pairs, adapter):
        margins = [self.ratio(p["prompt"], p["chosen"], adapter)
                   - self.ratio(p["prompt"], p["rejected"], adapter) for p in pairs]
        return -F.logsigmoid(self.beta * torch.stack(margins)).mean()

    def kto(self, rows, adapter, weights):
        """(loss, kl): row i borrows the completion of row i - 1."""
        with torch.no_grad():
            borrowed = [self.ratio(r["prompt"], rows[i - 1]["completion"], adapter)
                        for i, r in enumerate(rows)]
            kl = torch.stack(borrowed).mean().clamp(min=0)
        terms = []
        for row in rows:
            x = self.ratio(row["prompt"], row["completion"], adapter)
            sign, weight = (1, weights[0]) if row["label"] else (-1, weights[1])
            terms.append(weight * (1 - torch.sigmoid(sign * self.beta * (x - kl))))
        return torch.stack(terms).mean(), kl


def gradients(loss, tensors):
    """{name: d loss / d tensor} in float64."""
    grads = torch.autograd.grad(loss, list(tensors.values()))
    return dict(zip(tensors, grads))


def adamw_run(loss, pairs, scale, start):
    """Ten steps, two micro-batches each, warm-up 2, linear decay, decay of weights, clipping."""
    setup = {"steps": 10, "warmup": 2, "lr": 5e-3, "weight_decay": 0.01, "max_grad_norm": 1.0,
             "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "batch": 2, "accumulate": 2}
    tensors = {n: t.clone().requires_grad_(True) for n, t in start.items()}
    optimizer = torch.optim.AdamW(tensors.values(), lr=setup["lr"], eps=setup["eps"],
                                  betas=(setup["beta1"], setup["beta2"]),
                                  weight_decay=setup["weight_decay"])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: k / setup["warmup"] if
                                                 k < setup["warmup"] else
                                                 (setup["steps"] - k)
                                                 / (setup["steps"] - setup["warmup"]))
    rows = []
    for step in range(1, setup["steps"] + 1):
        optimizer.zero_grad()
        micro = [loss.dpo(pairs[0:2], (scale, tensors)), loss.dpo(pairs[2:4], (scale, tensors))]
        total = (micro[0] + micro[1]) / 2
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(tensors.values(), setup["max_grad_norm"])
        rows.append({"step": step, "loss": total.item(), "grad_norm": norm.item(),
                     "learning_rate": schedule.get_last_lr()[0]})
        optimizer.step()
        schedule.step()
    setup["rows"] = rows
    return setup, {n: t.detach() for n, t in tensors.items()}


def compare_with_transformers(peft_model, sequences, plain, adapter):
    """The worst difference of any log-prob, transformers float32 against the plain model."""
    worst = 0.0
    for s in sequences:
        with torch.no_grad():
            policy = peft_model(torch.tensor([s])).logits[0].double().log_softmax(-1)
            with peft_model.disable_adapter():
                base = peft_model(torch.tensor([s])).logits[0].double().log_softmax(-1)
        worst = max(worst, (policy - plain(s, adapter).log_softmax(-1)).abs().max().item(),
                    (base - plain(s).log_softmax(-1)).abs().max().item())
    return worst


def model_golden(folder, name):
    """Writes one model, its adapter and what they compute; returns nothing."""
    model_class, config, lora = MODELS[name]
    generator = torch.Generator().manual_seed({"llama": 11, "mistral": 12}[name])
    os.makedirs(folder, exist_ok=True)
    peft_model = write_model(folder, model_class, config, lora, generator)
    plain = PlainModel(load_config(folder), load_weights(folder))
    scale, start = load_adapter(os.path.join(folder, "adapter"))
    sequences = [[1] + random_ids(n, generator) for n in (0, 1, 12, 15)]
    worst = compare_with_transformers(peft_model, sequences, plain, (scale, start))
    assert worst < 2e-5, worst

    pairs = [{"prompt": [1] + random_ids(n, generator), "chosen": random_ids(a, generator) + [2],
              "rejected": random_ids(b, generator) + [2]}
             for n, a, b in ((3, 4, 6), (5, 1, 3), (0, 6, 2), (2, 5, 5))]
    rows = [{"prompt": [1] + random_ids(n, generator), "completion": random_ids(a, generator) + [2],
             "label": label} for n, a, label in ((2, 5, True), (4, 3, False), (6, 2, False),
                                                 (1, 7, True))]
    beta, weights = 0.3, (1.33, 1.0)
    loss = Loss(plain, beta)
    lora_tensors = {n: t.clone().requires_grad_(True) for n, t in start.items()}
    adapter = (scale, lora_tensors)
    dpo = loss.dpo(pairs, adapter)
    dpo_gradients = gradients(dpo, lora_tensors)
    kto, kl = loss.kto(rows, adapter, weights)
    kto_gradients = gradients(kto, lora_tensors)
    assert kl > 0.01, kl
    full = {n: w.clone().requires_grad_(True) for n, w in plain.weights.items()}
    trained = PlainModel(plain.config, full)
    frozen = Loss(plain, beta)
    frozen.ratio = lambda prompt, completion, _: (
        trained.token_logps(prompt, completion).sum()
        - plain.token_logps(prompt, completion, (scale, start)).sum().detach())
    full_loss = frozen.dpo(pairs, None)
    setup, final = adamw_run(loss, pairs, scale, start)

    save_file({f"dpo/{n}": g for n, g in dpo_gradients.items()}
              | {f"kto/{n}": g for n, g in kto_gradients.items()}
              | {f"full/{n}": g for n, g in gradients(full_loss, full).items()}
              | {f"adamw/{n}": g for n, g in final.items()},
              os.path.join(folder, "expected.safetensors"))
    with torch.no_grad():
        logps = [{"ids": s, "logits": plain(s, adapter)[-1].tolist(),
                  "logp_base": plain.token_logps(s[:1], s[1:]).tolist() if s[1:] else [],
                  "logp_policy": plain.token_logps(s[:1], s[1:], adapter).tolist()
                  if s[1:] else []} for s in sequences]
        sums = [{side: {"policy": plain.token_logps(p["prompt"], p[side], adapter).tolist(),
                        "reference": plain.token_logps(p["prompt"], p[side]).tolist()}
                 for side in ("chosen", "rejected")} for p in pairs]
    write_json(os.path.join(folder, "expected.json"), {
        "scale": scale, "sequences": logps,
        "dpo": {"beta": beta, "pairs": pairs, "logps": sums, "loss": dpo.item()},
        "kto": {"beta": beta, "desirable_weight": weights[0], "undesirable_weight": weights[1],
                "rows": rows, "kl": kl.item(), "loss": kto.item()},
        "full": {"beta": beta, "loss": full_loss.item()},
        "adamw": setup})
    print(f"{name}: transformers float32 and the plain model differ by at most {worst:.1e} nats")


# ---- PEFT's first A, PyTorch's orders ------------------------------------------------------------


def peft_init_case(name, seed, rank, targets, config, lm_head=False):
    """A of every target as `set_seed(seed); get_peft_model` draws it; hashes are of the bytes."""
    model = LlamaForCausalLM(config)
    set_seed(seed)
    module_names = targets + (["lm_head"] if lm_head else [])
    peft_model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=rank,
                                                  target_modules=module_names))
    tensors = []
    for key, p in peft_model.named_parameters():
        if "lora_A" in key:
            flat = p.detach().contiguous().view(-1)
            tensors.append({"name": key.replace(".default", ""), "shape": list(p.shape),
                            "first": [float(f"{x:.9g}") for x in flat[:4].tolist()],
                            "sha256": hashlib.sha256(flat.numpy().tobytes()).hexdigest()})
        elif "lora_B" in key:
            assert not p.detach().any()
    return {"name": name, "seed": seed, "rank": rank, "targets": module_names,
            "hidden": config.hidden_size, "intermediate": config.intermediate_size,
            "layers": config.num_hidden_layers, "heads": config.num_attention_heads,
            "kv_heads": config.num_key_value_heads, "vocabulary": config.vocab_size,
            "tensors": tensors}


def peft_init():
    def shape(hidden, intermediate, layers, heads, kv_heads, vocabulary):
        return LlamaConfig(hidden_size=hidden, intermediate_size=intermediate,
                           num_hidden_layers=layers, num_attention_heads=heads,
                           num_key_value_heads=kv_heads, vocab_size=vocabulary,
                           tie_word_embeddings=False)

    tiny = shape(16, 24, 2, 4, 2, VOCABULARY)
    return {"cases": [
        peft_init_case("all seven targets", 42, 3, ALL_LINEAR, tiny),
        peft_init_case("query and value", 42, 8, ["q_proj", "v_proj"], tiny),
        peft_init_case("all seven and the head", 7, 4, ALL_LINEAR, tiny, lm_head=True),
        peft_init_case("TinyStories-656K", 42, 8, ALL_LINEAR, shape(128, 384, 2, 8, 4, 2048)),
        peft_init_case("wide", 2 ** 32 - 1, 16, ["q_proj", "down_proj"],
                       shape(2048, 576, 1, 32, 8, VOCABULARY)),
    ]}


def randperm():
    """torch.randperm and torch.rand of the CPU generator."""
    cases = []
    for seed, n in ((42, 1), (42, 2), (42, 7), (43, 7), (42, 10), (0, 10), (2 ** 32 + 1, 10),
                    (1, 10), (42, 1000), (44, 30000)):
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        case = {"seed": seed, "n": n, "first": order[:10].tolist(),
                "sha256": hashlib.sha256(order.to(torch.int32).numpy().tobytes()).hexdigest()}
        cases.append(case)
    draws = torch.rand(16, generator=torch.Generator().manual_seed(42))
    low_high = torch.empty(16).uniform_(-0.125, 0.375, generator=torch.Generator().manual_seed(42))
    return {"cases": cases, "rand": {"seed": 42, "values": draws.tolist()},
            "uniform": {"seed": 42, "low": -0.125, "high": 0.375, "values": low_high.tolist()}}


# ---- writing and checking ------------------------------------------------------------------------


def write_json(path, value):
    """One member of the outermost lists a line, so that a difference can be read."""
    def lines(v, depth):
        if isinstance(v, dict) and depth:
            inner = ",\n".join(f"{json.dumps(k)}: {lines(x, depth - 1)}" for k, x in v.items())
            return "{\n" + inner + "\n}"
        if isinstance(v, list) and v and isinstance(v[0], dict):
            return "[\n" + ",\n".join(json.dumps(x, allow_nan=False) for x in v) + "\n]"
        return json.dumps(v, allow_nan=False)

    with open(path, "w", encoding="utf-8") as f:
        f.write(lines(value, 2) + "\n")


def make(folder):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    write_json(os.path.join(folder, "dpo_losses.json"), dpo_losses())
    write_json(os.path.join(folder, "kto_losses.json"), kto_losses())
    write_json(os.path.join(folder, "randperm.json"), randperm())
    write_json(os.path.join(folder, "peft_init.json"), peft_init())
    for name in MODELS:
        model_golden(os.path.join(folder, name), name)


def files_below(folder):
    return sorted(os.path.relpath(os.path.join(d, f), folder)
                  for d, _, names in os.walk(folder) for f in names)


def same_values(a, b):
    """Whether two JSON values are equal, floats but for ROUNDING."""
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= ROUNDING * max(1, abs(a))
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same_values(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same_values, a, b))
    return type(a) is type(b) and a == b


def same_tensors(a, b):
    """Whether two files hold the same tensors, those in float64 but for ROUNDING."""
    a, b = load_file(a), load_file(b)
    return a.keys() == b.keys() and all(
        x.dtype == y.dtype and x.shape == y.shape and (
            torch.equal(x, y) if x.dtype != torch.float64 else
            bool(((x - y).abs() <= ROUNDING * max(1, float(x.abs().max()))).all()))
        for x, y in ((a[k], b[k]) for k in a))


def same_file(a, b):
    """Whether the bytes are equal, or the numbers in them but for ROUNDING."""
    with open(a, "rb") as f, open(b, "rb") as g:
        left, right = f.read(), g.read()
    if left == right:
        return True
    if a.endswith(".safetensors"):
        return same_tensors(a, b)
    return a.endswith(".json") and same_values(json.loads(left), json.loads(right))


def check(folder):
    """0 where every file of tests/golden but OTHERS comes out the same again."""
    make(folder)
    wanted = [f for f in files_below(GOLDEN) if f not in OTHERS]
    made = files_below(folder)
    bad = sorted(set(wanted) ^ set(made))
    for f in set(wanted) & set(made):
        if not same_file(os.path.join(GOLDEN, f), os.path.join(folder, f)):
            bad.append(f)
    for f in bad:
        print(f"golden: {f} differs from what this command makes")
    print(f"{len(set(wanted) | set(made)) - len(bad)} passed, {len(bad)} failed")
    return 1 if bad else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true",
                        help="compare with tests/golden instead of writing it")
    args = parser.parse_args()
    if args.check:
        with tempfile.TemporaryDirectory() as folder:
            return check(folder)
    os.makedirs(GOLDEN, exist_ok=True)
    make(GOLDEN)
    print(f"{sum(os.path.getsize(os.path.join(GOLDEN, f)) for f in files_below(GOLDEN))} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
