"""What the pairwise tester must be told: files to work on, small numbers, rules between options.

Whatever is not named here is made from `align --options --json` alone.
"""
import json
import os
import random
import shutil
import struct

from pairs_array import FLAG, Rule

POSITIONS = 2048  # a judge's prompt takes some 700 tokens of a model whose tokens are bytes
HIDDEN, INNER, LAYERS, HEADS, GROUPS = 32, 48, 2, 4, 2
SPECIAL = ["<|begin|>", "<|end|>", "<|im_start|>", "<|im_end|>"]
VOCABULARY = 256 + len(SPECIAL)
LARGEST_RANK = 16  # that every linear map of the models has room for: GROUPS * HIDDEN / HEADS

COMMANDS = ["sft", "dpo", "kto", "score", "generate", "explain", "judge", "evaluate", "cycle"]
TRAINING = ("sft", "dpo", "kto")


# ---- models --------------------------------------------------------------------------------------

def byte_letters():
    """The byte-level alphabet: printable bytes are themselves, the others follow from U+0100 on."""
    following = iter(range(0x100, 0x200))
    for b in range(256):
        printable = 0x20 < b < 0x7F or (b > 0xA0 and b != 0xAD)
        yield chr(b if printable else next(following))


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f)


def write_tokenizer(folder, template):
    added = [{"id": 256 + i, "content": s, "special": True} for i, s in enumerate(SPECIAL)]
    vocabulary = {c: i for i, c in enumerate(byte_letters())}
    vocabulary.update((a["content"], a["id"]) for a in added)
    begin = {"SpecialToken": {"id": SPECIAL[0], "type_id": 0}}
    write_json(folder + "/tokenizer.json", {
        "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {SPECIAL[0]: {"id": SPECIAL[0], "ids": [256],
                                            "tokens": [SPECIAL[0]]}}},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "merges": [], "vocab": vocabulary}})
    config = {"bos_token": SPECIAL[0], "eos_token": SPECIAL[3 if template else 1]}
    if template:
        with open("demo_data/model/tokenizer_config.json", encoding="utf-8") as f:
            config["chat_template"] = json.load(f)["chat_template"]
    write_json(folder + "/tokenizer_config.json", config)


def write_safetensors(path, tensors):
    header, data = {}, b""
    for name, shape, numbers in tensors:
        piece = struct.pack("<%df" % len(numbers), *numbers)
        header[name] = {"dtype": "F32", "shape": shape,
                        "data_offsets": [len(data), len(data) + len(piece)]}
        data += piece
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)


def write_model(folder, family="llama", tied=False, template=False, seed=1):
    rng = random.Random(seed)
    os.makedirs(folder)
    tensors = []

    def add(name, shape, mean, width):
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        tensors.append((name + ".weight", shape,
                        [rng.uniform(mean - width, mean + width) for _ in range(count)]))

    add("model.embed_tokens", [VOCABULARY, HIDDEN], 0, 1)
    low = GROUPS * HIDDEN // HEADS
    maps = {"self_attn.q_proj": [HIDDEN, HIDDEN], "self_attn.k_proj": [low, HIDDEN],
            "self_attn.v_proj": [low, HIDDEN], "self_attn.o_proj": [HIDDEN, HIDDEN],
            "mlp.gate_proj": [INNER, HIDDEN], "mlp.up_proj": [INNER, HIDDEN],
            "mlp.down_proj": [HIDDEN, INNER]}
    for layer in range(LAYERS):
        at = "model.layers.%d." % layer
        for name, shape in maps.items():
            add(at + name, shape, 0, 0.25)
        add(at + "input_layernorm", [HIDDEN], 1, 0.25)
        add(at + "post_attention_layernorm", [HIDDEN], 1, 0.25)
    add("model.norm", [HIDDEN], 1, 0.25)
    if not tied:
        add("lm_head", [VOCABULARY, HIDDEN], 0, 0.25)
    write_safetensors(folder + "/model.safetensors", tensors)
    config = {"architectures": [family.capitalize() + "ForCausalLM"], "model_type": family,
              "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": INNER,
              "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
              "num_key_value_heads": GROUPS, "max_position_embeddings": POSITIONS,
              "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
              "tie_word_embeddings": tied, "bos_token_id": 256,
              "eos_token_id": 259 if template else 257, "torch_dtype": "float32"}
    if family == "mistral":
        config["sliding_window"] = 8
    write_json(folder + "/config.json", config)
    write_tokenizer(folder, template)


# ---- rows ----------------------------------------------------------------------------------------

def write_rows(path, rows):
    with open(path, "w", encoding="utf-8") as f:
        f.writelines(json.dumps(r) + "\n" for r in rows)


def renamed(row, names):
    return {names.get(k, k): v for k, v in row.items()}


def conversations(row):
    """The same row with its texts as messages."""
    answers = ("chosen", "rejected", "completion")
    return {k: [{"role": "user", "content": v}] if k == "prompt"
            else [{"role": "assistant", "content": v}] if k in answers else v
            for k, v in row.items()}


TEXTS = ["a", "how are you", "", "tell me more, please", "a", "b c", "count", "why not", "x y z"]
# --map of the files whose columns have other names. Pairs do without a prompt, so theirs is not
# the only one.
COLUMNS = {"prompt": "question"}
PAIR_COLUMNS = dict(COLUMNS, chosen="good")


def columns_of(command):
    return PAIR_COLUMNS if command in ("dpo", "explain") else COLUMNS


def map_of(command):
    return ",".join("%s=%s" % c for c in columns_of(command).items())


def write_data(at):
    """Rows for each command, as plain texts, as conversations, and under another column's name."""
    pairs = [{"prompt": p, "chosen": "good %d" % i, "rejected": "bad" if i != 3 else "good 3"}
             for i, p in enumerate(TEXTS)]
    kinds = {
        "dpo": pairs,
        "kto": [{"prompt": p, "completion": "fine %d" % i, "label": i % 3 > 0}
                for i, p in enumerate(TEXTS)],
        "sft": [{"prompt": p, "completion": "fine" + " so" * i} for i, p in enumerate(TEXTS)],
        "score": [{"prompt": p, "completion": "fine %d" % i} for i, p in enumerate(TEXTS)],
        "generate": [{"prompt": p, "note": i} for i, p in enumerate(TEXTS) if p]}
    # One file for both methods of explain.
    kinds["explain"] = [dict(a, **b) for a, b in zip(pairs, kinds["kto"])]
    for kind, rows in kinds.items():
        write_rows(at + kind + ".jsonl", rows)
        write_rows(at + kind + ".chat.jsonl", [conversations(r) for r in rows if r["prompt"]])
        write_rows(at + kind + ".columns.jsonl", [renamed(r, columns_of(kind)) for r in rows])


ANSWERED = 8  # rows to judge
ANSWERS = ["I cannot help with that.", "Sure, here is how you do it.",
           "Be careful; ask a doctor first.", "", "no"]


def write_judging(at, align):
    """Answers, judged answers, a table of phrases, what people said of them, labelled answers."""
    answers = [{"prompt": "p%d" % i, "response": ANSWERS[i % 5], "harmful_level": i % 4,
                "method": "direct" if i % 2 else "indirect", "principle_index": i % 3,
                "human": ("refuse", "accept", "caution")[i % 3]} for i in range(ANSWERED)]
    write_rows(at + "answers.jsonl", answers)
    write_rows(at + "taught.jsonl", [renamed(r, {"human": "label"}) for r in answers[:6]])
    rules = [{"action": "accept", "weight": 1, "place": "any", "phrase": ""},
             {"action": "refuse", "weight": 3, "place": "start", "phrase": "no"},
             {"action": "caution", "weight": 1, "place": "start", "phrase": "perhaps"}]
    write_rows(at + "rules.jsonl", rules)
    align("judge", "--data", at + "answers.jsonl", "-o", at + "judged.jsonl")
    align("judge", "--data", at + "answers.jsonl", "--rules", at + "rules.jsonl", "-o",
          at + "judged.earlier.jsonl")
    align("judge", "--data", at + "judged.jsonl", "--review", "4", "-o", at + "page.html")
    with open(at + "page.html", encoding="utf-8") as f:
        page = f.read()
    said = []
    for piece in page.split('data-key="')[1:]:
        half = piece.split('data-half="')[1].split('"')[0]
        said.append({"sha256": piece.split('"')[0], "action": "caution", "half": half})
    write_rows(at + "reviewed.jsonl", said)
    # Answers to every request on standard input: {"id"} -> {"id","action"}.
    with open(at + "judge.sh", "w", encoding="utf-8") as f:
        f.write('while IFS= read -r line; do\n    id=${line#*\\"id\\":}\n'
                '    echo "{\\"id\\":${id%%,*},\\"action\\":\\"refuse\\"}"\ndone\n')


def write_loop(at):
    write_rows(at + "prompts.jsonl",
               [{"prompt": "p%d" % i, "base_prompt": "b%d" % i, "harmful_level": i % 4,
                 "method": "direct", "principle_index": i % 3, "demonstration": "no"}
                for i in range(24)])
    write_rows(at + "feedback.jsonl",
               [{"prompt": "f%d" % i, "completion": "thanks", "label": i % 2 == 0}
                for i in range(6)])
    write_rows(at + "guard.jsonl",
               [{"question": "Which letter? %d" % i, "choices": ["a", "b"], "answer": i % 2}
                if i % 3 else {"question": "Say yes. %d" % i, "answer": "yes"} for i in range(6)])


def write_fixtures(at, align):
    """All files, made once; align(COMMAND, ...) runs the program."""
    write_model(at + "plain")
    write_model(at + "chat", tied=True, template=True, seed=2)
    write_model(at + "window", family="mistral", seed=3)
    write_data(at)
    write_judging(at, align)
    write_loop(at)
    for name, more in (("few", ["--targets", "q_proj,v_proj", "--rank", "4"]),
                       ("all", ["--rank", "2", "--rslora"])):
        align("sft", "-m", at + "plain", "--data", at + "sft.jsonl", "--steps", "2", "--lr",
              "0.01", "-o", at + "run-" + name, *more)
    # A loop that promotes a policy which says "no" to everything.
    align("cycle", "-m", at + "plain", "--data", at + "prompts.jsonl", "--rules",
          at + "rules.jsonl", "--validator-rules", at + "rules.jsonl", "-n", "3", "--steps", "80",
          "--rank", "8", "--lr", "0.03", "--methods", "dpo", "--dpo-loss", "sft", "--validation",
          "0.5", "--test", "0.1", "--confidence", "0.5", "--max-added-refusal", "1", "-o",
          at + "loop")
    shutil.copytree(at + "loop", at + "loop-signed")
    align("cycle", at + "loop-signed", "--approve", "A. Person", "--reason", "read it")


# ---- values --------------------------------------------------------------------------------------

# Values of files, directories and texts; {} is the fixtures' folder. "*" is any command. OUT is a
# path that does not exist yet.
OUT = "{out}"
ADAPTERS = ["{}run-few/adapter", "{}run-all/adapter"]
MODELS = ["{}plain", "{}chat", "{}window"]
JUDGE_COMMAND = ["sh {}judge.sh", '["sh","{}judge.sh"]']
FIXTURES = {
    ("*", "model"): MODELS,
    ("*", "adapter"): ADAPTERS,
    ("*", "init-adapter"): ADAPTERS,
    ("*", "judge-model"): MODELS[:2],
    ("*", "validator-model"): MODELS[:2],
    ("*", "judge-adapter"): ADAPTERS[:1],
    ("*", "validator-adapter"): ADAPTERS[:1],
    ("*", "output"): [OUT],
    ("*", "answers"): [OUT + ".kept"],
    ("*", "dump-gradients"): [OUT + ".gradients"],
    ("*", "chat-template"): ["chatml"],
    ("*", "date"): ["2001-02-03"],
    ("*", "stop"): ["e", "no"],
    ("*", "system"): ["Be kind."],
    ("*", "instruction"): ["Be safe."],
    ("*", "prompt"): ["how are you"],
    ("*", "rules"): ["{}rules.jsonl"],
    ("*", "validator-rules"): ["{}rules.jsonl"],
    ("*", "reviewed"): ["{}reviewed.jsonl"],
    ("*", "judge-command"): JUDGE_COMMAND,
    ("*", "validator-command"): JUDGE_COMMAND,
    ("sft", "judge-data"): ["{}taught.jsonl"],
    ("judge", "data"): ["{}answers.jsonl", "{}judged.jsonl"],
    ("judge", "gold"): ["human"],
    ("evaluate", "data"): ["{}judged.jsonl"],
    ("evaluate", "against"): ["{}judged.earlier.jsonl"],
    ("cycle", "data"): ["{}prompts.jsonl"],
    ("cycle", "guard"): ["{}guard.jsonl"],
    ("cycle", "feedback"): ["{}feedback.jsonl"],
    ("dpo", "reference"): ["auto", "base", "init", ADAPTERS[0]],
    ("kto", "reference"): ["auto", "base", "init", ADAPTERS[0]],
    ("explain", "reference"): ["auto", "base", "init", ADAPTERS[0]],
}
for _c in ("sft", "dpo", "kto", "score", "generate", "explain"):
    FIXTURES[_c, "map"] = [map_of(_c)]
    FIXTURES[_c, "data"] = ["{}%s%s.jsonl" % (_c, s) for s in ("", ".chat", ".columns")]
for _c in TRAINING:
    FIXTURES[_c, "eval"] = ["{}%s.jsonl" % _c, "{}%s.columns.jsonl" % _c]

class Values:
    """The values of a number instead of those that its range suggests. `alone` ones stand in a few
    rows and in no pairs, with --dry-run where there is one, unless `runs`. `why` says what speaks
    against a border of the range that is in neither; the tester asks for it."""

    def __init__(self, *usual, alone=(), runs=False, why=None):
        self.usual, self.alone, self.runs, self.why = list(usual), list(alone), runs, why


PLANNED = "a plan looks at the rows of every step: more of them take minutes"
NUMBERS = {
    ("*", "steps"): Values("1", "3", alone=["100000"], why=PLANNED),
    ("*", "epochs"): Values("0.001", "0.5", "2", alone=["10000"], why=PLANNED),
    ("*", "threads"): Values("auto", "1", "2", "16", alone=["1024"], runs=True),
    ("*", "row"): Values("0", "1", "5", "1000000000000"),
    ("*", "memory"): Values("auto", "1M", "64M", "1T"),
    ("*", "max-length"): Values("0", "1", "64", "1000000"),
    ("judge", "max-length"): Values("0", "1", "4096", "1000000"),
    ("generate", "max-tokens"): Values("1", "2", "256", "1048576"),
    ("generate", "samples"): Values("1", "2", "3", why="a million answers take minutes"),
    ("evaluate", "resamples"): Values("0", "1", "2000", alone=["1000000"]),
    ("judge", "resamples"): Values("0", "1", "2000", alone=["1000000"]),
    ("cycle", "cycles"): Values("1", "2", alone=["1000"]),
    ("cycle", "batch"): Values("1", "2", "8", alone=["65536"]),
    ("cycle", "samples"): Values("1", "2", "3", alone=["1048576"]),
    ("cycle", "max-tokens"): Values("1", "3", "8", alone=["1048576"]),
    ("cycle", "validation"): Values("0.01", "0.25", "0.5", "0.9"),
    ("cycle", "test"): Values("0", "0.25", "0.9"),
    ("cycle", "resamples"): Values("100", "101", alone=["1000000"]),
    ("cycle", "judge-length"): Values("0", "1", "4096", "1000000"),
    ("cycle", "validator-length"): Values("0", "1", "4096", "1000000"),
}
for _o in ("judge-timeout", "validator-timeout"):
    NUMBERS["*", _o] = Values("1", "60", "86400",
                              why="whether a command answers in less is a matter of luck")

# What is given where the row does not give the option, so that a loop takes no minute.
SMALL = {"generate": {"max-tokens": "8"},
         "cycle": {"samples": "2", "max-tokens": "3", "steps": "2", "rank": "2",
                   "resamples": "100"}}
# SMALL of the first is left out where the row gives the second.
INSTEAD = {"steps": "epochs"}

# Options that make the command another one: no pairs, a few rows each. (Every row is tried with
# --dry-run anyway.) Values that stand alone are covered in the same way.
SINGLE = {"judge": ["print-rules", "print-prompt", "review"],
          "sft": ["dry-run"], "dpo": ["dry-run"], "kto": ["dry-run"],
          "cycle": ["print-config", "dry-run"]}
# Options given in every row, and those that another form of the command has.
ALWAYS = {"sign": ["approve", "reason"],
          "cycle": ["model", "data", "output"], "judge": ["data", "output"],
          "sft": ["output"], "dpo": ["output"], "kto": ["output"]}
NEVER = {"cycle": ["approve", "rollback", "reason"]}


# Training may diverge, and end with 76, where a number is at least so large, and only there.
DIVERGES = {"lr": 1, "dpo-lr": 1, "kto-lr": 1, "beta": 1e3, "dpo-beta": 1e3, "kto-beta": 1e3,
            "alpha": 1e3, "loss-weights": 1e3, "desirable-weight": 1e3, "undesirable-weight": 1e3}


def may_diverge(row):
    given = {o: row[o] for o in DIVERGES if row.get(o) not in (None, "auto")}
    return any(float(x) >= DIVERGES[o] for o, v in given.items() for x in v.split(","))


# ---- rules ---------------------------------------------------------------------------------------

SMOOTHED = {"cdpo", "robust", "exo_pair", "aot", "aot_unpaired"}
DIVERGING = {"sigmoid", "cdpo", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop",
             "sft"}


def losses(row, option="loss", default="sigmoid"):
    return set((row[option] or default).split(","))


def smoothing(row):
    return float(row["label-smoothing"] or 0)


def dpo_rules(loss):
    """The rules of a DPO loss, which option `loss` names."""
    def of(row):
        return losses(row, loss)

    def ignored(row):
        return smoothing(row) > 0 and not of(row) & SMOOTHED

    return [
        Rule(loss + " label-smoothing", ignored),
        Rule(loss + " label-smoothing", lambda r: "exo_pair" in of(r) and smoothing(r) == 0),
        Rule(loss + " label-smoothing",
             lambda r: of(r) & {"robust", "cdpo"} and smoothing(r) >= 0.5),
        Rule(loss + " f-divergence",
             lambda r: r["f-divergence"] not in (None, "reverse_kl") and of(r) - DIVERGING),
        Rule(loss + " wpo", lambda r: r["wpo"] and of(r) & {"aot", "aot_unpaired"})]


def weights_rule(loss):
    """A weight for each loss, whether it is used or not."""
    return Rule(loss + " loss-weights", lambda r: r["loss-weights"] is not None and
                len(r["loss-weights"].split(",")) != len((r[loss] or "sigmoid").split(",")))


def is_chat(row):
    return row["model"] and row["model"].endswith("/chat")


def row_rules(command):
    """Files of rows: conversations need a template, other columns need --map."""
    rules = [Rule("data map", lambda r: bool(r["data"]) and
                  ("columns" in r["data"]) != bool(r["map"]), says="data", codes=(64, 65)),
             Rule("model data chat-template", lambda r: ".chat." in (r["data"] or "") and
                  not is_chat(r) and not r["chat-template"], says="data", codes=(65,))]
    if command in TRAINING + ("explain",):
        rules.append(Rule("max-length", lambda r: r["max-length"] == "1", codes=(65,)))
    return rules


def memory_rules():
    return [
        Rule("memory force", lambda r: r["memory"] == "1M" and not r["force"], says="memory",
             codes=(71,)),
        Rule("memory force threads", lambda r: r["memory"] == "64M" and
             not r["force"] and r["threads"] == "1024", says="memory threads", codes=(71,))]


def training_rules(command):
    rules = row_rules(command) + memory_rules() + [
        Rule("full init-adapter", lambda r: r["full"] and r["init-adapter"]),
        Rule("steps epochs", lambda r: r["steps"] and r["epochs"]),
        Rule("eval map", lambda r: r["eval"] and ("columns" in r["eval"]) != bool(r["map"]),
             says="eval", codes=(65,)),
        Rule("eval-every eval", lambda r: r["eval-every"] not in (None, "0") and not r["eval"]),
        Rule("rank init-adapter full", lambda r: int(r["rank"] or 16) > LARGEST_RANK and
             not r["init-adapter"] and not r["full"], says="rank")]
    if command == "dpo":
        rules += dpo_rules("loss") + [weights_rule("loss")]
    if command == "kto":
        rules += kto_rules("loss") + [
            Rule("full loss kl-pairing", lambda r: r["full"] and r["loss"] in (None, "kto") and
                 r["kl-pairing"] == "halos", says="full kl-pairing")]
    if command == "sft":
        rules[0:0] = [Rule("data judge-data", lambda r: bool(r["data"]) == bool(r["judge-data"])),
                      Rule("judge-data map", lambda r: r["judge-data"] and r["map"])]
        rules.append(Rule("judge-data max-length", lambda r: r["judge-data"] and
                          r["max-length"] == "64", says="max-length", codes=(65,)))
    return rules


def kto_rules(loss):
    return [Rule(loss + " batch", lambda r: r[loss] in (None, "kto") and r["batch"] == "1")]


# ---- the whole -----------------------------------------------------------------------------------

def kernel_rule(command, kernels):
    def absent(row):
        return row["kernel"] not in (None, "auto") and row["kernel"] not in kernels

    if command != "judge":
        return Rule("kernel", absent)
    # A table of phrases and a program need no kernel.
    return Rule("kernel judge", lambda r: absent(r) and r["judge"] in ("self", "model"),
                says="kernel")


def generate_rules():
    return row_rules("generate") + [
        Rule("prompt data", lambda r: bool(r["prompt"]) == bool(r["data"])),
        Rule("raw chat-template system", lambda r: r["raw"] and (r["chat-template"] or
                                                                r["system"]), says="raw"),
        Rule("model system chat-template raw", lambda r: r["system"] and not is_chat(r) and
             not r["chat-template"] and not r["raw"], says="system"),
        Rule("data raw", lambda r: r["raw"] and ".chat." in (r["data"] or ""), says="raw",
             codes=(65,)),
        # To the end of the model's context, once.
        Rule("prompt samples max-tokens", lambda r: r["max-tokens"] in ("256", "1048576") and not (
            r["prompt"] and r["samples"] in (None, "1")), says="")]


def explain_rules():
    def dpo(row):
        return row["method"] in (None, "dpo")

    return row_rules("explain") + [
        Rule("row", lambda r: r["row"] == "1000000000000", codes=(64, 65)),
        Rule("adapter init-adapter", lambda r: r["adapter"] and r["init-adapter"]),
        Rule("method loss", lambda r: r["loss"] is not None and
             (dpo(r) == bool(losses(r) & {"kto", "apo_zero_unpaired"}) or
              not dpo(r) and "," in r["loss"]), says="loss"),
    ] + [both(rule, "method", dpo) for rule in dpo_rules("loss") + [weights_rule("loss")]] + [
        both(rule, "method", lambda r: not dpo(r)) for rule in kto_rules("loss")]


# What an option says of itself: the member "when" of `align --options --json`, as options.h explains.

def says(option, value):
    """Does a value, None where it is not given, say something else than the default?"""
    usual = option["default"]
    if value is None or value is FLAG:
        return value is FLAG
    numbers = option["type"] in ("count", "number", "size")
    return value != usual and not (numbers and usual and float_or_text(value) ==
                                   float_or_text(usual))


def float_or_text(text):
    try:
        return float(text)
    except ValueError:
        return text


def when_rule(option, condition, options):
    """A rule for one condition of an option's "when"; None where it always holds."""
    names, sign, words = condition, None, []
    for mark in "=!":
        if mark in condition[1:]:
            at = condition.index(mark, 1)
            names, sign, words = condition[:at], mark, condition[at + 1:].split("|")
    negated = names.startswith("!")
    names = [n for n in names.lstrip("!").split("/") if n in options]
    if not names:
        return None

    def holds(row):
        decides = next((n for n in names if says(options[n], row[n])), names[-1])
        value, row_of = row[decides], options[decides]
        if sign is None or row_of["type"] == "flag":
            return says(row_of, value) != negated
        text = value if value is not None else row_of["default"] or ""
        given = text.split(",") if row_of["type"] == "words" else [text]
        found = {float_or_text(g) for g in given} & {float_or_text(w) for w in words}
        return bool(found) == (sign == "=")

    own = options[option]
    return Rule(" ".join([option] + names), lambda r: says(own, r[option]) and not holds(r),
                says=option, deciders=names)


def when_rules(command, options):
    rules = []
    for name, option in options.items():
        when = option.get("when") or ""
        if when.startswith("~"):
            continue  # only a warning
        for condition in when.split():
            of, colon, rest = condition.rpartition(":")
            if colon and of != command:
                continue
            if not rest:
                rules.append(Rule(name, lambda r, n=name: says(options[n], r[n])))
                continue
            rule = when_rule(name, rest, options)
            if rule:
                rules.append(rule)
    return rules


def both(rule, option, holds):
    """The rule where holds(row) too, which looks at one more option."""
    return Rule(" ".join(rule.options + [option]), lambda r: rule.bad(r) and holds(r),
                says=" ".join(rule.says), codes=rule.codes)


def judge_rules(role, model, command, length):
    """Of a judge that option `role` names, in judge (role "judge") or cycle."""
    return [
        Rule(role + " " + length, lambda r: r[role] in ("self", "model") and r[length] == "1",
             says=length, codes=(64, 65)),
        Rule(role + " " + command, lambda r: r[role] == "command" and not r[command]),
        Rule(role + " allow-external", lambda r: r[role] == "command" and
             not r["allow-external"]),
        Rule(role + " " + model, lambda r: r[role] == "model" and not r[model])]


def rules_of(command, kernels):
    if command == "evaluate":
        return []
    if command == "sign":
        return [Rule("rollback", lambda r: r["rollback"] not in (None, "0"), codes=(64, 65))]
    rules = [kernel_rule(command, kernels)]
    if command in TRAINING:
        return rules + training_rules(command)
    if command == "score":
        return rules + row_rules(command)
    if command == "generate":
        return rules + generate_rules()
    if command == "explain":
        return rules + explain_rules()
    if command == "judge":
        return rules + judge_rules("judge", "model", "judge-command", "max-length") + [
            Rule("judge model", lambda r: r["judge"] == "self" and not r["model"]),
            Rule("data review", lambda r: r["review"] not in (None, "0") and
                 "judged" not in r["data"], says="", codes=(65,))]
    return rules + cycle_rules()


def grid_rules(listed, length, command, model):
    """Of --judges or --validators, which make a grid of runs."""
    def has(row, word):
        return word in (row[listed] or "").split(",")

    return [
        Rule(listed + " " + length, lambda r: (has(r, "self") or has(r, "model")) and
             r[length] == "1", says=length, codes=(64, 65)),
        Rule(listed + " test", lambda r: r[listed] and r["test"] == "0", says="test"),
        Rule(listed + " auto", lambda r: r[listed] and r["auto"], says="auto"),
        Rule(listed + " allow-external", lambda r: has(r, "command") and not r["allow-external"],
             says="allow-external"),
        Rule(listed + " " + command, lambda r: has(r, "command") and not r[command],
             says=command),
        Rule(listed + " " + model, lambda r: has(r, "model") and not r[model], says=model)]


def methods(row):
    given = row["methods"] or "both"
    return ["kto", "dpo"] if "both" in given else given.split(",")


def shared_rule(name, usual):
    """--lr and --beta where each candidate has its own."""
    return Rule("%s methods dpo-%s kto-%s" % (name, name, name),
                lambda r: r[name] not in (None, usual) and all(
                    r[m + "-" + name] for m in methods(r)), says=name)


def cycle_rules():
    # --judge takes no part where a grid has a run for each of --judges; nor has --validator then.
    return [both(rule, "judges", lambda r: not r["judges"]) for rule in judge_rules(
        "judge", "judge-model", "judge-command", "judge-length")] + [
        both(rule, "validators", lambda r: not r["validators"]) for rule in judge_rules(
            "validator", "validator-model", "validator-command", "validator-length")] + grid_rules(
        "judges", "judge-length", "judge-command", "judge-model") + grid_rules(
        "validators", "validator-length", "validator-command", "validator-model") + [
        both(rule, "methods", lambda r: "dpo" in methods(r)) for rule in dpo_rules("dpo-loss")] + [
        both(rule, "methods", lambda r: "kto" in methods(r)) for rule in kto_rules("kto-loss")] + [
        *memory_rules(), weights_rule("dpo-loss"), shared_rule("lr", "auto"),
        shared_rule("beta", "0.1"),
        Rule("steps epochs", lambda r: r["steps"] and r["epochs"]),
        Rule("raw chat-template system", lambda r: r["raw"] and (r["chat-template"] or
                                                                r["system"]), says="raw"),
        Rule("raw revise", lambda r: r["raw"] and r["revise"]),
        Rule("model chat-template revise", lambda r: r["revise"] and not is_chat(r) and
             not r["chat-template"], says="revise"),
        Rule("validation", lambda r: r["validation"] == "0.01", codes=(65,)),
        Rule("validation", lambda r: r["validation"] == "0.9", codes=(64, 65)),
        Rule("test", lambda r: r["test"] == "0.9", codes=(64, 65)),
        Rule("desirable undesirable", lambda r: float(r["undesirable"] or 0) >=
             float(r["desirable"] or 1)),
        # An adapter that is given has a rank of its own.
        Rule("rank adapter", lambda r: int(r["rank"] or 2) > LARGEST_RANK and not r["adapter"],
             says="rank")]
