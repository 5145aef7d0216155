#!/usr/bin/env python3
"""Compares chat templates with transformers' apply_chat_template; must print 0 differences.

    make build/tools/tokenize
    python3 tools/check_chat.py [--count N] [--seed S]

For every published template of ALIGN_DATA (default ../shared/data) that a built-in one is made
after, as it is written and then by the built-in name: N random conversations
(default 600), most of them in good order, some not, with and without a system message and a
generation prompt. Texts and ids must be equal, and where the template refuses the roles, its reason
must stand in our message. Then the same with spellings of special tokens in the contents: parsed
(--parse-special) the ids must be transformers'; by default no control token may come from them.
"""
import argparse
import json
import os
import random
import shutil
import sys
import tempfile

import jinja2
from transformers import PreTrainedTokenizerFast

from check_tokenizer import DATA, KNOWN, TOOL, fragment, report, run

DATE = "26 Jul 2024"  # as tests/tool_tokenize.c has it
MISTRAL_V01 = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != "
    "(loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/"
    "user/assistant/...') }}{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + "
    "message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ "
    "message['content'] + eos_token + ' ' }}{% else %}{{ raise_exception('Only user and assistant "
    "roles are supported!') }}{% endif %}{% endfor %}")
LLAMA = ("llama3", "<|begin_of_text|>", "<|eot_id|>")
TINY = ("tinyllama", "<s>", "</s>")
OLD = ("mistral-v0.1", "<s>", "</s>")
NEW = ("mistral-v0.3", "<s>", "</s>")
STORY = ("tinystories-656k", "<|start_story|>", "<|end_story|>")


def read(path):
    with open(os.path.join(DATA, path), encoding="utf-8", newline="") as f:
        return f.read()


def cases():
    """(name, template text, tokenizer), the name being that of a built-in template."""
    vectors = json.loads(read("chat/vectors/llama_cpp_test_chat_template.json"))["cases"]
    vector = {c["name"]: c["template_str"] for c in vectors}
    old = "mistralai/Mistral-7B-Instruct-v0.2 (NOTE: Old pre-v1 without a system prompt)"
    v1 = "mistralai/Mistral-7B-Instruct-v0.2 (mistralai 'v1' template with a system prompt)"
    v7 = "mistralai/Mistral-Large-Instruct-2411 (mistralai 'v7' template)"
    chatml = vector["teknium/OpenHermes-2.5-Mistral-7B"]
    tiny = json.loads(read("tokenizers/tinyllama/tokenizer_config.json"))["chat_template"]
    v3 = json.loads(read("tokenizers/mistral/tokenizer_config.json.v0.3"))["chat_template"]
    llama3 = "tokenizers/llama3/tokenizer_config.Meta-Llama-3-8B-Instruct.json"
    files = "chat/templates/"
    return [
        ("llama3", json.loads(read(llama3))["chat_template"], LLAMA),
        ("llama3 (TRL)", read(files + "trl/llama3.jinja"), LLAMA),
        ("llama3 (TRL, training)", read(files + "trl/llama3_training.jinja"), LLAMA),
        ("llama3-early", vector["Llama-3"], LLAMA),
        ("llama3.1", read(files + "llama.cpp/meta-llama-Llama-3.1-8B-Instruct.jinja"), LLAMA),
        ("llama3.2", read(files + "llama.cpp/meta-llama-Llama-3.2-3B-Instruct.jinja"), LLAMA),
        ("llama3.2, last line break cut",
         read(files + "llama.cpp/meta-llama-Llama-3.2-3B-Instruct.jinja")[:-1], LLAMA),
        ("chatml", chatml, LLAMA), ("chatml", chatml, TINY),
        ("zephyr", tiny, TINY), ("zephyr", tiny, STORY), ("zephyr", tiny, OLD),
        ("mistral-v0.1", MISTRAL_V01, OLD), ("mistral-v0.2", vector[old], OLD),
        ("mistral-v1", vector[v1], OLD), ("mistral-v1", vector[v1], NEW),
        ("mistral-v3", v3, NEW), ("mistral-v3", v3, STORY),
        ("mistral-v3-tekken", read(files + "llama.cpp/mistralai-Mistral-Nemo-Instruct-2407.jinja"),
         NEW),
        ("mistral-v7", vector[v7], NEW),
        ("mistral-common-v1", read(files + "mistral-common/v1_spm.jinja"), OLD),
        ("mistral-common-v2", read(files + "mistral-common/v2_spm.jinja"), NEW),
        ("mistral-common-v3", read(files + "mistral-common/v3_spm.jinja"), NEW),
    ]


def random_roles(rng):
    if rng.random() < 0.2:
        return [rng.choice(["system", "user", "assistant"]) for _ in range(rng.randint(1, 6))]
    turns = rng.randint(1, 6)
    roles = ["user" if i % 2 == 0 else "assistant" for i in range(turns)]
    return (["system"] if rng.random() < 0.5 else []) + roles


def random_content(rng, special, forbidden):
    while True:
        parts = "".join(fragment(rng, special) for _ in range(rng.randint(0, 8)))
        content = rng.choice(["", " ", "\n", "\x1c\u3000", "\u2581"]) + parts
        content += rng.choice(["", "  "])
        if not any(f in content for f in forbidden):
            return content


def conversations(count, seed, special, forbidden):
    rng = random.Random(seed)
    rows = []
    while len(rows) < count:
        messages = [{"role": role, "content": random_content(rng, special, forbidden)}
                    for role in random_roles(rng)]
        rows.append({"messages": messages, "add_generation_prompt": rng.random() < 0.5})
    return rows


def expected(tokenizer, row):
    """What transformers makes of a row: text and ids, or the template's reason for refusing."""
    keys = {"add_generation_prompt": row["add_generation_prompt"], "date_string": DATE}
    try:
        text = tokenizer.apply_chat_template(row["messages"], tokenize=False, **keys)
        ids = tokenizer.apply_chat_template(row["messages"], tokenize=True, return_dict=False,
                                            **keys)
        return {"text": text, "ids": ids}
    except jinja2.exceptions.TemplateError as e:
        return {"error": str(e)}


def same(want, got):
    """got in the form of want, so that equal means equal."""
    if "error" in want and "error" in got:
        return want if want["error"] in got["error"] else got
    return {k: got[k] for k in ("text", "ids", "error") if k in got}


def check(name, template, model, args, built_in):
    label, bos, eos = model
    print("%s on %s%s" % (name, label, ", by its name" if built_in else ""))
    path = os.path.join(DATA, dict(KNOWN)[label])
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=path, bos_token=bos, eos_token=eos)
    tokenizer.chat_template = template
    special = [t for t in tokenizer.get_added_vocab() if "reserved" not in t][:30]
    bad = 0
    with tempfile.TemporaryDirectory() as directory:
        shutil.copy(path, os.path.join(directory, "tokenizer.json"))
        with open(os.path.join(directory, "tokenizer_config.json"), "w", encoding="utf-8") as f:
            json.dump({"bos_token": bos, "eos_token": {"content": eos},
                       "chat_template": template}, f)
        command = [TOOL, "-m", directory, "--chat"]
        if built_in:
            command += ["--template", name.split(" ")[0].rstrip(",")]

        rows = conversations(args.count, args.seed, ["x"], special)
        want = [expected(tokenizer, r) for r in rows]
        got = run(command, rows, directory)
        bad += report("plain contents", rows, want, [same(w, g) for w, g in zip(want, got)])

        rows = conversations(args.count // 2, args.seed + 1, special, [])
        want = [expected(tokenizer, r) for r in rows]
        got = run(command + ["--parse-special"], rows, directory)
        bad += report("special tokens in contents, parsed", rows, want,
                      [same(w, g) for w, g in zip(want, got)])

        # As text: as many control tokens as with empty-handed contents, and the text comes back.
        # (In the TinyStories file special tokens are found behind a space only, so there their
        # number does depend on the contents.)
        if model == STORY:
            return bad
        got = run(command, rows, directory)
        tame = [{**r, "messages": [{**m, "content": "x"} for m in r["messages"]]} for r in rows]
        control = {i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
        if label != "llama3":
            control.discard(0)  # <unk>: unknown characters give it, too
        want = [sum(i in control for i in g.get("ids", [])) for g in run(command, tame, directory)]
        have = [sum(i in control for i in g.get("ids", [])) for g in got]
        keep = [i for i in range(len(rows)) if "ids" in got[i]]
        bad += report("special tokens in contents, as text", [rows[i] for i in keep],
                      [want[i] for i in keep], [have[i] for i in keep])
        if label == "llama3":
            bad += report("and decoded again", [rows[i] for i in keep],
                          [got[i]["text"] for i in keep],
                          [tokenizer.backend_tokenizer.decode(got[i]["ids"],
                                                              skip_special_tokens=False)
                           for i in keep])
    return bad


def check_published():
    """The conversation of mistral-common without tools, and its ids in three versions."""
    base, bad = os.path.join(DATA, "vectors/mistral-common/samples/no_tools"), 0
    with open(os.path.join(base, "sample.json"), encoding="utf-8") as f:
        row = {"messages": json.load(f)["messages"]}
    print("mistral-common's sample")
    for version, label in ((1, "mistral-v0.1"), (2, "mistral-v0.3"), (3, "mistral-v0.3")):
        with open(os.path.join(base, "tokens_v%d.json" % version)) as f:
            want = json.load(f)["tokens"]
        with tempfile.TemporaryDirectory() as directory:
            shutil.copy(os.path.join(DATA, dict(KNOWN)[label]),
                        os.path.join(directory, "tokenizer.json"))
            with open(os.path.join(directory, "tokenizer_config.json"), "w") as f:
                json.dump({"bos_token": "<s>", "eos_token": "</s>"}, f)
            got = run([TOOL, "-m", directory, "--chat", "--template",
                       "mistral-common-v%d" % version], [row], directory)
        bad += report("version %d" % version, [row], [want], [g.get("ids") for g in got])
    return bad


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if not os.path.isdir(DATA):
        print("check_chat.py: no %s (set ALIGN_DATA): skipped" % DATA)
        return
    bad = check_published()
    bad += sum(check(name, template, model, args, built_in)
               for name, template, model in cases() for built_in in (False, True))
    print("%d differences" % bad)
    sys.exit(1 if bad else 0)


main()
