"""trl_defaults.py - every default of `align sft|dpo|kto` that decides what is learnt, beside TRL's.

A case of parity.py. TRL's are read from its dataclasses, ours from `align --options`; where they
are not the same, README.md's table "Where we differ from TRL" must have the option with TRL's
value, and the run must say so in its line "objective: ...". A field of TRL's that is neither
compared nor known here as no concern of ours fails the case, so that a new one is noticed.
"""
import dataclasses
import re

METHODS = ("dpo", "kto", "sft")

# Option -> field of TRL's configuration that means the same.
FIELDS = {
    "beta": "beta", "desirable-weight": "desirable_weight",
    "undesirable-weight": "undesirable_weight", "loss": "loss_type", "loss-weights": "loss_weights",
    "label-smoothing": "label_smoothing", "f-divergence": "f_divergence_type",
    "f-alpha": "f_alpha_divergence_coef", "ld-alpha": "ld_alpha", "wpo": "use_weighting",
    "discopop-tau": "discopop_tau", "lr": "learning_rate", "schedule": "lr_scheduler_type",
    "warmup": "warmup_steps", "weight-decay": "weight_decay", "max-grad-norm": "max_grad_norm",
    "batch": "per_device_train_batch_size", "accumulate": "gradient_accumulation_steps",
    "epochs": "num_train_epochs", "steps": "max_steps", "max-length": "max_length", "seed": "seed",
    "precision": "bf16", "order": "train_sampling_strategy"}
# Option -> field of TRL's ModelConfig, which its own scripts make adapters from.
ADAPTER_FIELDS = {"full": "use_peft", "rank": "lora_r", "alpha": "lora_alpha",
                  "dropout": "lora_dropout", "rslora": "use_rslora",
                  "targets": "lora_target_modules"}
# Fields that TRL adds to TrainingArguments, or whose default it changes there, and that are no
# option of ours: with what we do instead.
OTHERS = {
    "model_init_kwargs": "loading", "trust_remote_code": "loading", "dataset_num_proc": "loading",
    "dataset_kwargs": "loading", "dataset_text_field": "--map", "chat_template_path": "loading",
    "eos_token": "the tokenizer's", "pad_token": "no padding", "pad_to_multiple_of": "no padding",
    "padding_free": "never padded", "packing": "off: rows do not see each other",
    "eval_packing": "off", "packing_strategy": "off", "shuffle_dataset": "off",
    "completion_only_loss": "completions are scored", "assistant_only_loss": "--train-on",
    "truncation_mode": "keep_start", "router_aux_loss_coef": "no mixture of experts",
    "disable_dropout": "true, but for --dropout", "activation_offloading": "memory",
    "gradient_checkpointing": "memory", "precompute_ref_log_probs": "always, the same numbers",
    "precompute_ref_batch_size": "the same numbers", "sync_ref_model": "never",
    "ref_model_mixup_alpha": "never", "ref_model_sync_steps": "never",
    "logging_steps": "--log-every"}
# Values of those that our fixed behaviour is made for.
FIXED = {"packing": False, "shuffle_dataset": False, "completion_only_loss": None,
         "assistant_only_loss": False, "truncation_mode": "keep_start", "disable_dropout": True,
         "padding_free": False, "sync_ref_model": False, "neftune_noise_alpha": None,
         "label_smoothing_factor": 0.0, "adam_beta1": 0.9, "adam_beta2": 0.999,
         "adam_epsilon": 1e-8, "dataloader_drop_last": False,
         "average_tokens_across_devices": True}
# What no field of TRL's says, but its code does.
BEHAVIOUR = {"reference": ("dpo", "kto"), "kl-pairing": ("kto",)}
TRL_BEHAVIOUR = {"reference": "auto", "kl-pairing": "trl"}


def our_defaults(table):
    """(option, method) -> default, from the text of `align --options`."""
    found = {}
    for line in table.split("\n"):
        cells = [c.strip() for c in line.strip().strip("|").split(" | ")]
        name = re.match(r"`--([a-z-]+)`", cells[0])
        if not name or len(cells) < 5:
            continue
        for method in set(METHODS) & set(cells[1].split()):
            found[name[1], method] = cells[3].strip("`")
    return found


def field_default(config, name):
    for f in dataclasses.fields(config):
        if f.name == name:
            return f.default if f.default is not dataclasses.MISSING else f.default_factory()
    return None


def in_our_words(option, value):
    """TRL's value as the option would take it; "" where the option is left out."""
    if option == "order":
        return "trl"  # whatever the strategy: the order that TRL takes
    if option == "precision":  # None means bf16 wherever fp16 is not asked for
        return "f32" if value is False else "bf16"
    if option == "full":
        return "" if value else "on"
    if option == "targets" and value is None:
        from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as known
        return ",".join(known["llama"])
    if option == "ld-alpha" and value is None:
        return "1"
    if value is None or value is False or (option == "steps" and value == -1):
        return ""
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    value = getattr(value, "value", value)  # an enumeration
    return f"{value:g}" if isinstance(value, float) else str(value)


def same(ours, theirs):
    try:
        return float(ours) == float(theirs)
    except ValueError:
        return ours == theirs


def trl_defaults():
    """(option, method) -> TRL's default in our words; and the faults found on the way."""
    from transformers import TrainingArguments
    from trl import DPOConfig, KTOConfig, ModelConfig, SFTConfig
    base = {f.name: repr(f.default) for f in dataclasses.fields(TrainingArguments)}
    found, faults = {}, []
    for method, config in zip(METHODS, (DPOConfig, KTOConfig, SFTConfig)):
        names = {f.name: repr(f.default) for f in dataclasses.fields(config)}
        for name, default in names.items():
            if base.get(name) != default and name not in OTHERS and name not in FIELDS.values():
                faults.append(f"{config.__name__}.{name} is not known here")
        for name, value in FIXED.items():
            if name in names and field_default(config, name) != value:
                faults.append(f"{config.__name__}.{name} is {field_default(config, name)}, "
                              f"not {value}")
        for option, name in FIELDS.items():
            if name in names and not (method == "sft" and option in ("loss", "order")):
                found[option, method] = in_our_words(option, field_default(config, name))
        for option, name in ADAPTER_FIELDS.items():
            found[option, method] = in_our_words(option, field_default(ModelConfig, name))
        if method != "sft":  # disable_dropout
            found["dropout", method] = "0"
        for option, methods in BEHAVIOUR.items():
            if method in methods:
                found[option, method] = TRL_BEHAVIOUR[option]
        found["order", method] = "trl"
    return found, faults


def readme_table(text):
    """Option -> the cell of TRL's values, from the table of README.md."""
    start = text.find("Where we differ from TRL")
    table = {}
    for line in text[max(start, 0):].split("\n"):
        if line.startswith("## ") and table:
            break
        name = re.match(r"\| `--([a-z-]+)`", line)
        if name and len(line.split(" | ")) == 5:
            table[name[1]] = line.split(" | ")[2]
        elif table and not line.startswith("|"):
            break
    return table


def objective_line(stderr):
    """Option -> TRL's value, from the line a run prints."""
    for line in stderr.split("\n"):
        if "objective: defaults that are not TRL's" in line:
            return dict(re.findall(r"([a-z-]+) [^ ]+ \(TRL ([^)]+)\)", line))
    return {}


def compare(options, readme, lines):
    """Faults, as texts. options: `align --options`; lines: method -> stderr of a run with no more
    options than it needs."""
    ours = our_defaults(options)
    theirs, faults = trl_defaults()
    documented, differing = readme_table(readme), set()
    lr = {"auto": "1e-5"}  # of an adapter: the option's own help says so
    for (option, method), trl in sorted(theirs.items()):
        if (option, method) not in ours:
            faults.append(f"align {method} has no --{option}")
            continue
        mine = ours[option, method]
        mine = lr.get(mine, mine) if option == "lr" else mine
        said = objective_line(lines[method]).get(option)
        if same(mine, trl):
            if said is not None:
                faults.append(f"align {method}: --{option} {mine} is TRL's, but is said to differ")
            continue
        differing.add(option)
        if said is None or not same(said, trl):
            faults.append(f"align {method}: --{option} is {mine}, TRL's is {trl}; "
                          f"the run says {said}")
        number = trl.replace("e-0", "e-")
        if number not in documented.get(option, ""):
            faults.append(f"README.md: --{option} ({method}): TRL's is {trl}; the table says "
                          f"{documented.get(option, 'nothing')}")
    for option in sorted(set(documented) - differing):
        faults.append(f"README.md: --{option} does not differ from TRL's")
    return faults, len(theirs)
