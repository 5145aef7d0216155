#!/usr/bin/env python3
"""Compares the template engine with Jinja2 as transformers runs it, byte for byte.

    python tools/check_template.py [--templates DIR]... [--conversations N] [--random N]
                                   [--from N] [--jobs N] [--seed N] [--show N]
                                   [--tool build/tools/template]
                                   [--align ./align --tokenizer tokenizer.json]

Every chat template found below the directories (*.jinja, the templates of tokenizer_config*.json
and the rows of *.jsonl with a "template") renders N made conversations on both sides; then N random
statements and expressions do, --jobs of them at a time and from number --from on: most of the time
is Jinja2's, which compiles some 250 templates a second. Text and the spans of {% generation %} must be equal, and what one
side refuses the other must refuse. What the engine refuses by design ("cannot be done here", bounds
of 64-bit integers) is counted by itself. With --align the conversations go through `align tokenize
--data` instead, by a model with that tokenizer and the template as its own: texts and ids must be
equal to those of apply_chat_template, and three of the refused conversations are refused with the
line of the template. The last line is "N equal, N refused by design, N differ".
"""
import argparse
import collections
import datetime
import glob
import json
import multiprocessing
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor

os.environ["HF_HUB_OFFLINE"] = "1"
from transformers.utils import chat_template_utils as hf

NOW = datetime.datetime(2024, 7, 26, 14, 5, 9)
BY_DESIGN = ("cannot be done here", "cannot be told here", "cannot be compared here",
             "cannot be read here", "cannot be written", "does not fit", "found \\N{", "only decimal",
             "no character", "which does not exist here", "where text is written")


class FixedDate(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


REAL_DATE = hf.datetime
hf.datetime = FixedDate


def render_all(tool, rows):
    """Answers of the engine, a process for all (template, variables)."""
    with tempfile.TemporaryFile() as f:
        for template, variables in rows:
            f.write(json.dumps({"template": template, "variables": variables},
                               ensure_ascii=False).encode() + b"\n")
        f.seek(0)
        done = subprocess.run([tool], stdin=f, stdout=subprocess.PIPE, check=True)
    return [json.loads(line) for line in done.stdout.split(b"\n") if line]


def jinja(template, variables):
    """The text and the spans in bytes, or the error."""
    variables = dict(variables)
    try:
        compiled = hf._compile_jinja_template(template)
        text, spans = hf._render_with_assistant_indices(
            compiled, variables.pop("messages", None), variables.pop("tools", None),
            variables.pop("documents", None), variables.pop("add_generation_prompt", False),
            **variables)
        text.encode()
    except Exception as e:  # whatever Python raises is a refusal
        return {"error": "%s: %s" % (type(e).__name__, e)}
    return {"text": text, "spans": [[len(text[:a].encode()), len(text[:b].encode())]
                                    for a, b in spans]}


SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
ROW = ("messages", "tools", "documents", "add_generation_prompt")


class Program:
    """A model's folder with a tokenizer and one template after another, read by `align tokenize`."""

    def __init__(self, align, tokenizer):
        from tokenizers import Tokenizer
        self.align, self.folder = align, tempfile.mkdtemp()
        self.tokenizer = Tokenizer.from_file(tokenizer)
        self.tokenizer.no_truncation()
        shutil.copy(tokenizer, os.path.join(self.folder, "tokenizer.json"))
        with open(os.path.join(self.folder, "tokenizer_config.json"), "w") as f:
            json.dump(SPECIAL, f)

    def run(self, template, conversations):
        """The rows that were written, and what was said of the one that was refused, or ""."""
        rows = os.path.join(self.folder, "rows.jsonl")
        with open(os.path.join(self.folder, "chat_template.jinja"), "w", encoding="utf-8",
                  newline="") as f:
            f.write(template)
        with open(rows, "w", encoding="utf-8") as f:
            for v in conversations:
                row = {k: v.get(k) for k in ROW}
                row["chat_template_kwargs"] = {k: v[k] for k in v if k not in ROW and
                                               k not in SPECIAL}
                f.write(json.dumps(row, ensure_ascii=False) + "\n")
        done = subprocess.run([self.align, "tokenize", "-m", self.folder, "--data", rows, "--date",
                               NOW.strftime("%Y-%m-%d"), "--parse-special", "-q"],
                              capture_output=True, text=True)
        if done.returncode not in (0, 65):
            return [], "exit code %d: %s" % (done.returncode, done.stderr)
        return ([json.loads(line) for line in done.stdout.split("\n") if line],
                done.stderr if done.returncode else "")

    def close(self):
        shutil.rmtree(self.folder)

    def ids(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids


class Check:
    def __init__(self, tool, show):
        self.tool, self.show = tool, show
        self.equal = self.refused = self.differ = self.both = 0
        self.reasons = collections.Counter()

    def many(self, rows):
        """Rows of (name, template, variables)."""
        answers = render_all(self.tool, [row[1:] for row in rows])
        assert len(answers) == len(rows), "the tool ended early"
        for row, ours in zip(rows, answers):
            self.one(*row, ours)

    def add(self, other):
        """The counts of another check."""
        for name in ("equal", "refused", "differ", "both"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.reasons.update(other.reasons)

    def one(self, name, template, variables, ours):
        theirs = jinja(template, variables)
        if "error" in ours and "error" in theirs:
            self.equal += 1
            self.both += 1
            return True
        if "error" not in ours and "error" not in theirs:
            # Inside of a macro or a block of set the places mean nothing, so bytes and characters
            # cannot be told from each other there.
            plain = template.isascii() and theirs["text"].isascii()
            if ours["text"] == theirs["text"] and (ours["spans"] == theirs["spans"] or
                                                   (name.startswith("random") and not plain)):
                self.equal += 1
                return True
        elif "error" in ours and (" object at 0x" in theirs.get("text", "") or "<function" in theirs.get("text", "")):
            self.refused += 1
            self.reasons["text with an address of Python's memory"] += 1
            return True
        elif "error" in ours and any(reason in ours["error"] for reason in BY_DESIGN):
            self.refused += 1
            self.reasons[ours["error"].split(": ", 1)[1][:60]] += 1
            return True
        self.differ += 1
        if self.differ <= self.show:
            print("differ: %s\n  template: %s\n  variables: %s\n  jinja: %s\n  ours:  %s"
                  % (name, template if len(template) < 600 else "(long)",
                     json.dumps(variables, ensure_ascii=False)[:700], shorten(theirs, ours),
                     shorten(ours, theirs)))
        return False


    def program(self, name, template, conversations, program):
        """All conversations of a template, through the program."""
        conversations = [{**v, **SPECIAL} for v in conversations]
        answers = [jinja(template, {**v, "messages": hf._alias_reasoning_fields(v["messages"])})
                   for v in conversations]
        todo = [(v, a["text"]) for v, a in zip(conversations, answers) if "error" not in a]
        for v in [v for v, a in zip(conversations, answers) if "error" in a][:3]:
            rows, said = program.run(template, [v])
            self.both += bool(said)
            self.count(name, template, v, bool(said) and not rows, said or "not refused")
        while todo:
            rows, said = program.run(template, [v for v, _ in todo])
            at = re.search(r"rows\.jsonl:(\d+): ", said)
            if said and not (at and any(reason in said for reason in BY_DESIGN)):
                self.count(name, template, None, False, said)
                return
            if said:  # all is written or nothing: once more without that row
                self.refused += 1
                del todo[int(at.group(1)) - 1]
                continue
            for (v, text), row in zip(todo, rows):
                said = shorten({"text": row["text"], "spans": []}, {"text": text})
                if row["text"] == text and row["ids"] != program.ids(text):
                    said = "other ids of %r" % text
                self.count(name, template, v, row["text"] == text and
                           row["ids"] == program.ids(text), said)
            return

    def count(self, name, template, variables, same, said):
        self.equal += same
        self.differ += not same
        if not same and self.differ <= self.show:
            print("differ: %s\n  variables: %s\n  %s"
                  % (name, json.dumps(variables, ensure_ascii=False)[:700], said[:1500]))


def shorten(a, b):
    """The answer a from where it differs from b."""
    x, y = a.get("text"), b.get("text")
    if x is None or y is None:
        return str(a)[:400]
    at = next((i for i, (p, q) in enumerate(zip(x, y)) if p != q), min(len(x), len(y)))
    return "at %d: %r %s" % (at, x[max(0, at - 40):at + 80], a["spans"][:4])


def templates(folders):
    found = {}
    for folder in folders:
        for path in sorted(glob.glob(os.path.join(folder, "**", "*"), recursive=True)):
            name = os.path.relpath(path, folder)
            if path.endswith(".jinja"):
                found[name] = open(path, encoding="utf-8", newline="").read()
            elif "tokenizer_config" in os.path.basename(path):
                value = json.load(open(path, encoding="utf-8")).get("chat_template") or []
                for row in [{"name": "", "template": value}] if isinstance(value, str) else value:
                    found[name + " " + row["name"]] = row["template"]
            elif path.endswith(".jsonl"):
                for i, line in enumerate(open(path, encoding="utf-8")):
                    row = json.loads(line)
                    if "template" not in row:
                        break
                    found["%s:%d %s" % (name, i + 1, row.get("name", ""))] = row["template"]
            elif path.endswith(".json") and "chat_template" in path:
                for i, case in enumerate(json.load(open(path, encoding="utf-8")).get("cases", [])):
                    for key in case:
                        if "template" in key and isinstance(case[key], str) and "{" in case[key]:
                            found["%s:%d %s" % (name, i, key)] = case[key]
    return found


# ---- conversations

ODD = ["", " ", "\n", "  two  spaces ", "Grüße, naïve café", "日本語のテキスト", "🙂👩‍⚕️", "a\tb\r\nc",
       "\u00a0no-break\u00a0", "\u200bzero", "<|im_end|>", "</s>", "{{ not a tag }}", "{% raw %}",
       "<think>hidden</think>answer", "</think>", "\"quoted\" 'single' \\back", "x\u2028y\x85z",
       "&<>'\"", "e\u0301", "\x07bell\x1b[0m", "ΑΣ ΟΔΟΣ", "İstanbul ß ﬁ ǆ", "[INST] hi [/INST]",
       "1234567890" * 9, "line\n\nline\n", "<tool_call>{}</tool_call>", "None", "true", "[]"]
WORDS = ("what is the dose of ibuprofen for a child with fever and how long should it be given "
         "before one sees a doctor about it").split()


def words(rng):
    text = " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 12)))
    if rng.random() < 0.5:
        text = rng.choice([text + rng.choice(ODD), rng.choice(ODD) + text, rng.choice(ODD)])
    return text


def value(rng, depth=0):
    kind = rng.randint(0, 8 if depth < 3 else 5)
    if kind == 0:
        return rng.randint(-5, 10 ** rng.randint(1, 15))
    if kind == 1:
        return rng.choice([0.5, 1.0, -2.25, 1e-7, 3.14159, 1e22, 100.0, 1e16, 0.1])
    if kind == 2:
        return rng.choice([True, False, None])
    if kind <= 5:
        return words(rng)
    if kind == 6:
        return [value(rng, depth + 1) for _ in range(rng.randint(0, 3))]
    return {rng.choice(["city", "unit", "a b", "n", "ключ", "items", "type", "x-y"]):
            value(rng, depth + 1) for _ in range(rng.randint(0, 3))}


def content(rng):
    if rng.random() < 0.8:
        return words(rng)
    parts = []
    for _ in range(rng.randint(0, 3)):
        parts.append(rng.choice([{"type": "text", "text": words(rng)}, {"type": "image"},
                                 {"type": "text", "text": words(rng)},
                                 {"type": "thinking", "thinking": words(rng)}]))
    return parts


def schema(rng, depth=0):
    kind = rng.choice(["string", "integer", "number", "boolean"] + (["array", "object"] if depth < 2
                                                                     else []))
    out = {"type": kind}
    if rng.random() < 0.7:
        out["description"] = words(rng)
    if rng.random() < 0.2:
        out["enum"] = [words(rng) for _ in range(rng.randint(1, 3))]
    if rng.random() < 0.1:
        out["default"] = value(rng, 3)
    if rng.random() < 0.1:
        out["nullable"] = True
    if kind == "array":
        out["items"] = schema(rng, depth + 1)
    if kind == "object":
        names = rng.sample(["city", "days", "unit", "größe", "path"], rng.randint(0, 3))
        out["properties"] = {n: schema(rng, depth + 1) for n in names}
        if rng.random() < 0.7:
            out["required"] = [n for n in names if rng.random() < 0.6]
    return out


def tool(rng):
    f = {"name": rng.choice(["get_weather", "search", "browser", "python", "f" + str(rng.randint(0, 9))]),
         "description": words(rng)}
    parameters = schema(rng, 0)
    while parameters["type"] != "object":
        parameters = schema(rng, 0)
    if rng.random() < 0.95:
        f["parameters"] = parameters
    if rng.random() < 0.2:
        f["return"] = schema(rng, 1)
    return {"type": "function", "function": f} if rng.random() < 0.9 else f


def tool_call(rng):
    arguments = {k: value(rng, 2) for k in rng.sample(["city", "days", "x", "größe"], rng.randint(0, 3))}
    f = {"name": rng.choice(["get_weather", "search"]),
         "arguments": arguments if rng.random() < 0.8 else json.dumps(arguments)}
    out = {"type": "function", "function": f}
    if rng.random() < 0.8:
        out["id"] = "".join(rng.choice("abcdefghi0123456789") for _ in range(9))
    return out if rng.random() < 0.9 else f


def conversation(rng):
    messages = []
    plain = rng.random() < 0.6  # what every template should take
    if rng.random() < 0.5:
        messages.append({"role": "system", "content": words(rng) if plain else content(rng)})
    for turn in range(rng.randint(1, 4)):
        messages.append({"role": "user", "content": words(rng) if plain else content(rng)})
        if turn and rng.random() < 0.1 and not plain:
            messages.append({"role": rng.choice(["user", "system", "developer", "critic", ""]),
                             "content": words(rng)})
        if rng.random() < 0.85:
            answer = {"role": "assistant", "content": words(rng) if plain else content(rng)}
            if not plain and rng.random() < 0.3:
                answer["reasoning_content"] = words(rng)
            if not plain and rng.random() < 0.1:
                answer["thinking"] = words(rng)
            if not plain and rng.random() < 0.3:
                answer["tool_calls"] = [tool_call(rng) for _ in range(rng.randint(1, 2))]
                if rng.random() < 0.5:
                    answer["content"] = rng.choice([None, ""])
                if rng.random() < 0.1:
                    del answer["content"]
                messages.append(answer)
                for call in answer["tool_calls"]:
                    reply = {"role": rng.choice(["tool", "tool", "ipython", "tool_result"]),
                             "content": words(rng) if rng.random() < 0.8 else value(rng)}
                    if rng.random() < 0.6:
                        reply["tool_call_id"] = call.get("id", "123456789")
                    if rng.random() < 0.6:
                        reply["name"] = "search"
                    messages.append(reply)
                if rng.random() < 0.7:
                    messages.append({"role": "assistant", "content": words(rng)})
                continue
            messages.append(answer)
    if rng.random() < 0.1 and not plain:
        rng.shuffle(messages)
    variables = {"messages": messages, "tools": None, "documents": None,
                 "add_generation_prompt": rng.random() < 0.5,
                 "bos_token": "<s>", "eos_token": "</s>"}
    if not plain and rng.random() < 0.4:
        variables["tools"] = [tool(rng) for _ in range(rng.randint(0, 3))]
    if not plain and rng.random() < 0.1:
        variables["documents"] = [{"title": words(rng), "text": words(rng)} for _ in range(2)]
    if rng.random() < 0.5:
        variables["unk_token"] = "<unk>"
        variables["pad_token"] = "<pad>"
    for name, choices in (("enable_thinking", [True, False]), ("tools_in_user_message", [True, False]),
                          ("date_string", ["26 Jul 2024"]), ("builtin_tools", [["browser", "python"]]),
                          ("reasoning_effort", ["low", "high"]), ("custom_tools", [None]),
                          ("keep_past_thinking", [True]), ("preserve_thinking", [True, False]),
                          ("model_identity", ["I am a test."]), ("xml_tools", [None]),
                          ("add_vision_id", [True])):
        if rng.random() < 0.15:
            variables[name] = rng.choice(choices)
    return variables


# ---- random expressions and statements

NAMES = ["s", "t", "n", "m", "f", "l", "d", "e", "b", "z", "u", "rows", "deep"]
STRINGS = ["", "a", "b", "ab", "A b C", "hello world", "Grüße", "日本", "x,y,,z", " pad ", "aXbXc", "12",
           "3.5", "-7", "a\\nb", "it\\'s", "tab\\tend", "🙂ok", "<b>&\\\"", "ΣΑΣ", "item", "a.b", "0",
           "%s-%s", "{}", "ß", "one two  three", "ab" * 3]
PLAIN_FILTERS = ["upper", "lower", "title", "capitalize", "trim", "length", "string", "list", "first",
                 "last", "int", "float", "abs", "tojson", "reverse|list", "join", "sort", "unique|list",
                 "safe", "escape", "e", "items|list", "dictsort", "min", "max", "sum", "round", "count",
                 "default", "d('x')", "default('y', true)", "join(', ')", "tojson(indent=2)",
                 "tojson(ensure_ascii=true)", "tojson(separators=(',', ':'))", "tojson(sort_keys=true)",
                 "replace('a', 'Z')", "replace('', '-')", "replace('b', '', 1)", "trim('a')", "indent",
                 "indent(2)", "indent(width=3, first=true)", "indent(1, true, true)", "round(1)",
                 "round(2, 'floor')", "round(method='ceil')", "int(5)", "float(1.5)", "center(12)",
                 "map('upper')|list", "map('string')|join('/')", "map(attribute='a')|list",
                 "map(attribute='a.b', default=0)|list", "selectattr('a')|list",
                 "selectattr('a', 'equalto', 1)|list", "rejectattr('a', 'defined')|list",
                 "select('string')|list", "reject('none')|list", "select|list", "select('gt', 1)|list",
                 "sort(reverse=true)", "sort(attribute='a')", "sort(case_sensitive=true)",
                 "batch(2)|list", "batch(3, 'x')|list", "dictsort(by='value')", "dictsort(reverse=true)",
                 "sum(attribute='a')", "sum(start=2)", "min(attribute='a')", "unique", "map('int')|sum",
                 "forceescape", "attr('upper')", "format(1)", "format('a', 'b')", "select('in', 'abc')|list",
                 "map('length')|list", "map('default', 'q')|list", "reverse", "groupby('a')", "wordcount"]
TESTS = ["defined", "undefined", "none", "string", "number", "integer", "float", "boolean", "mapping",
         "sequence", "iterable", "callable", "true", "false", "odd", "even", "eq 1", "equalto('a')",
         "ne 2", "gt 1", "lt(2)", "ge 0", "le 3", "in 'abc'", "in([1, 'a'])", "divisibleby 2",
         "sameas none", "sameas true", "lower", "upper", "escaped", "filter", "test", "not none",
         "not string", "greaterthan 0", "lessthan 9"]
METHODS = ["upper()", "lower()", "title()", "capitalize()", "strip()", "lstrip()", "rstrip()",
           "strip('a ')", "lstrip('ab')", "rstrip('c')", "split()", "split(',')", "split('X', 1)",
           "split(none, 1)", "rsplit(' ', 1)", "rsplit()", "rsplit(none, 1)", "rsplit(',')",
           "replace('a', 'b')", "replace('', '.')", "replace('b', 'q', 1)", "startswith('a')",
           "startswith(('x', 'h'))", "endswith('c')", "endswith('', 1)", "find('b')", "rfind('b')",
           "find('o', 5)", "count('a')", "count('')", "index('a')", "isdigit()", "isalpha()", "isspace()",
           "isupper()", "islower()", "istitle()", "isalnum()", "join(['a', 'b'])", "join(l)", "join('xyz')",
           "splitlines()", "splitlines(true)", "partition('b')", "rpartition('b')", "removeprefix('a')",
           "removesuffix('c')", "zfill(5)", "ljust(6, '.')", "rjust(6)", "center(7, '*')", "swapcase()",
           "format('q', 1)", "format(a=1)", "get('a')", "get('q', 7)", "items()", "keys()", "values()",
           "items()|list", "keys()|list", "values()|list", "copy()", "index(1)", "count(1)", "append(1)",
           "pop()", "update({})", "nope()", "a", "items", "b", "get", "isascii()", "split(maxsplit=1)"]
BINARY = ["+", "-", "*", "/", "//", "%", "**", "~", "==", "!=", "<", ">", "<=", ">=", "in", "not in",
          "and", "or", "+", "~", "==", "and", "or"]
NUMBERS = ["0", "1", "2", "3", "-1", "7", "10", "1.5", "0.1", "2.0", "1e3", "1_000", "2.5e-3", "100", "1e16"]


class Maker:
    def __init__(self, rng):
        self.rng = rng

    def expr(self, depth=0):
        r = self.rng
        kind = r.randint(0, 13) if depth < 3 else r.randint(0, 2)
        if kind == 0:
            return r.choice(NUMBERS)
        if kind == 1:
            q = r.choice("'\"")
            text = r.choice(STRINGS)
            return q + (text if q == "'" else text.replace('\\"', '"').replace('"', '\\"')) + q
        if kind == 2:
            return r.choice(NAMES + ["none", "true", "false", "True", "None"])
        if kind == 3:
            return "%s|%s" % (self.operand(depth + 1), r.choice(PLAIN_FILTERS))
        if kind == 4:
            return "%s is %s" % (self.operand(depth + 1), r.choice(TESTS))
        if kind == 5:
            method, base = r.choice(METHODS), self.operand(depth + 1)
            if r.random() < 0.7:
                of_dict = method.split("(")[0] in ("get", "items", "keys", "values", "a", "b")
                base = r.choice(["d", "d", "rows[0]", "{'a': 1, 2: 'q'}"] if of_dict else
                                ["s", "t", "'aXbXc abc'", "(s ~ t)", "('  ' + t)", "'x' * 3", "'Grüße, Ω'"])
            return "%s.%s" % (base, method)
        if kind == 6:
            key = r.choice(["0", "-1", "1", "5", "'a'", "'items'", "'q'", "n", self.expr(depth + 2)])
            return "%s[%s]" % (self.operand(depth + 1), key)
        if kind == 7:
            part = [r.choice(["", "0", "1", "-1", "2", "-2", "10", "n"]) for _ in range(r.randint(2, 3))]
            # Not of a constant that has no parts: Jinja folds that to undefined at one time, and
            # fails at another.
            base = r.choice(["s", "t", "l", "'aXb'", "rows", "[1, 2, 3]", "(s ~ n)", "u", "d", "n", "(1, 2, 3)"])
            return "%s[%s]" % (base, ":".join(part))
        if kind == 8:
            return "[%s]" % ", ".join(self.expr(depth + 1) for _ in range(r.randint(0, 3)))
        if kind == 9:
            return r.choice(["{%s}" % ", ".join("%s: %s" % (r.choice(["'a'", "'b'", "1", "2.0", "none", "(1, 2)"]),
                                                             self.expr(depth + 1)) for _ in range(r.randint(0, 3))),
                             "(%s,)" % self.expr(depth + 1), "(%s, %s)" % (self.expr(depth + 1), self.expr(depth + 1)),
                             "range(%s)|list" % r.choice(["3", "1, 4", "5, 0, -2", "n", "0"]),
                             "range(%s)" % r.choice(["3", "1, 4", "5, 0, -2", "n"]),
                             "dict(a=%s)" % self.expr(depth + 1), "namespace(a=1).a"])
        if kind == 10:
            return "%s %s" % (r.choice(["not", "-", "+", "not not"]), self.operand(depth + 1))
        if kind == 11 and r.random() < 0.6:
            return "%s if %s%s" % (self.operand(depth + 1), self.operand(depth + 1),
                                   " else " + self.operand(depth + 1) if r.random() < 0.8 else "")
        if kind == 12 and r.random() < 0.3:
            return "%s %s %s %s %s" % (self.operand(depth + 1), r.choice(["<", "==", "<=", "!="]),
                                       self.operand(depth + 1), r.choice(["<", "==", ">"]), self.operand(depth + 1))
        if r.random() < 0.5:
            numbers = NUMBERS + ["n", "m", "f", "b", "(n + 1)", "s|length", "l|length"]
            return "%s %s %s" % (r.choice(numbers), r.choice(BINARY[:15]), r.choice(numbers))
        if r.random() < 0.3:
            return "%s %s %s" % (self.operand(depth + 1), r.choice(["in", "not in"]),
                                 r.choice(["l", "s", "d", "rows", "[1, 'a', none]", "'abc'", "u", "range(4)"]))
        return "%s %s %s" % (self.operand(depth + 1), r.choice(BINARY), self.operand(depth + 1))

    def operand(self, depth):
        text = self.expr(depth)
        return "(%s)" % text if self.rng.random() < 0.6 else text

    def tag(self, text):
        r = self.rng
        return "{%%%s %s %s%%}" % (r.choice(["", "", "", "-", "+"]), text, r.choice(["", "", "", "-", "+"]))

    def out(self, text):
        r = self.rng
        return "{{%s %s %s}}" % (r.choice(["", "", "-"]), text, r.choice(["", "", "-"]))

    def space(self):
        return self.rng.choice(["", "", "\n", " ", "  \n  ", "x", "\n\n", "text ", "\t", "a\n", " ü\n "])

    def body(self, depth, loop):
        return "".join(self.space() + self.statement(depth + 1, loop) for _ in range(self.rng.randint(1, 2))) + self.space()

    def statement(self, depth=0, loop=False):
        r = self.rng
        kind = r.randint(0, 16) if depth < 3 else r.randint(0, 4)
        t = self.tag
        if kind <= 3:
            if loop and r.random() < 0.5:
                return self.out(r.choice(["loop.index", "loop.first", "loop.last", "loop.length", "loop.revindex",
                                          "loop.previtem", "loop.nextitem|default('-')", "loop.index0", "i", "i", "j",
                                          "loop.cycle('a', 'b')", "loop.changed(i)", "loop.depth", "loop.revindex0"]))
            return self.out(self.expr(1))
        if kind == 4:
            return t("set %s = %s" % (r.choice(["x", "y", "s", "ns.a", "x, y", "n"]), self.expr(1)))
        if kind in (5, 6):
            text = t("if " + self.expr(1)) + self.body(depth, loop)
            if r.random() < 0.4:
                text += t("elif " + self.expr(1)) + self.body(depth, loop)
            if r.random() < 0.5:
                text += t("else") + self.body(depth, loop)
            return text + t("endif")
        if kind in (7, 8, 9):
            target = r.choice(["i", "i", "i", "i, j", "s"])
            source = r.choice(["l", "rows", "s", "d", "d.items()", "range(4)", "d|items", "deep", "u", self.expr(2),
                               "[1, 2, 3]", "[[1, 2], [3, 4]]", "'abc'", "d|dictsort"])
            test = " if " + r.choice(["i", "i != 2", "i is defined", self.expr(2), "loop.index"]) if r.random() < 0.25 else ""
            text = t("for %s in %s%s" % (target, source, test)) + self.body(depth, True)
            if r.random() < 0.2:
                text += t("if " + self.expr(2)) + t(r.choice(["break", "continue"])) + t("endif") + self.space()
            if r.random() < 0.2:
                text += t("else") + self.body(depth, loop)
            return text + t("endfor")
        if kind == 10:
            return (t("macro m(p, q=%s)" % self.expr(2)) + self.space() +
                    self.out(r.choice(["p", "q", "p ~ q", "varargs", "kwargs", "s", "x", "caller()", "p|upper"])) +
                    self.body(depth, False) + t("endmacro") +
                    self.out(r.choice(["m(1)", "m(s, 2)", "m(q=1, p=2)", "m()", "m(1, 2, 3)", "m(1, z=4)", "m(*l)", "m(**d)"])))
        if kind == 11:
            return t("set ns = namespace(a=%s)" % self.expr(2)) + self.body(depth, loop) + self.out("ns.a")
        if kind == 12:
            return (t("set x%s" % r.choice(["", " | upper", "|trim|length"])) + self.body(depth, False) + t("endset") +
                    self.out("x"))
        if kind == 13:
            return t("generation") + self.body(depth, False) + t("endgeneration")
        if kind == 14:
            return "{#%s comment %s#}" % (r.choice(["", "-"]), r.choice(["", "-", "+"]))
        if kind == 15:
            return r.choice([t("raw") + " {{ x }} {% if %}\n" + t("endraw"),
                             t("with x = %s" % self.expr(2)) + self.body(depth, loop) + t("endwith"),
                             t("filter upper") + self.body(depth, False) + t("endfilter"),
                             t("print %s" % self.expr(2))])
        return (t("macro c()") + "[" + self.out("caller()") + "]" + t("endmacro") + t("call c()") +
                self.body(depth, False) + t("endcall"))


def conversations(seed, count):
    return [conversation(random.Random("%d %d" % (seed, i))) for i in range(count)]


def statement_variables(rng):
    pick = lambda items: rng.choice(items)
    return {"s": pick(["hello", "Grüße 日本", "", "a,b,c", " x ", "aXbXc", "ABC abc", "12", "<i>"]),
            "t": pick(["ab", "hello world", "ΟΔΟΣ ß", "line\nline\n\nend", "3.0"]),
            "n": pick([0, 1, 2, 3, -1, 17, 1000000]), "m": pick([1, 2, 5, -3]),
            "f": pick([0.5, 1.0, -2.25, 1e20, 0.1, 3.0]), "b": pick([True, False]), "z": None,
            "l": pick([[1, 2, 3], [], ["b", "A", "c"], [3, 1, 2], [None, 0, "x"], [1.5, 2], [[1, 2], [3]]]),
            "d": pick([{"a": 1, "b": "x"}, {}, {"a": {"b": 2}}, {"items": 1, "z": [1]}, {"B": 1, "a": 2}]),
            "e": pick([[], {}, ""]),
            "rows": [{"a": 2, "c": "x"}, {"a": 1}, {"c": "y", "a": {"b": 3}}] if rng.random() < 0.4
            else [{"a": 2, "c": "x"}, {"a": 1, "c": "y"}, {"a": 1, "c": "z"}],
            "deep": pick([[{"a": {"b": [1, {"c": "d"}]}}], [["x", "y"], ["z", "w"]]]),
            "messages": [{"role": "user", "content": "hi"}]}


BATCH = 2000


def random_row(seed, i):
    rng = random.Random("%d random %d" % (seed, i))
    make = Maker(rng)
    text = make.out(make.expr()) if i % 2 else "".join(make.space() + make.statement()
                                                       for _ in range(3))
    return "random %d" % i, text, statement_variables(rng)


def random_lane(a, lane):
    """Every a.jobs-th batch of random templates."""
    check, end = Check(a.tool, a.show), a.begin + a.random
    for at in range(a.begin + lane * BATCH, end, a.jobs * BATCH):
        check.many([random_row(a.seed, i) for i in range(at, min(at + BATCH, end))])
        hf._compile_jinja_template.cache_clear()
    return check


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--templates", action="append", default=[])
    p.add_argument("--conversations", type=int, default=200)
    p.add_argument("--random", type=int, default=0)
    p.add_argument("--from", type=int, default=0, dest="begin")
    p.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--show", type=int, default=5)
    p.add_argument("--only", default="")
    p.add_argument("--tool", default="build/tools/template")
    p.add_argument("--align")
    p.add_argument("--tokenizer")
    a = p.parse_args()
    check = Check(None if a.align and not a.random else a.tool, a.show)
    program = Program(a.align, a.tokenizer) if a.align else None
    for name, text in templates(a.templates).items():
        if a.only not in name:
            continue
        before, refused, both = check.differ, check.refused, check.both
        made = conversations(a.seed, a.conversations)
        if a.align:
            check.program(name, text, made, program)
        else:
            check.many([(name, text, variables) for variables in made])
        if check.differ > before or check.refused > refused:
            print("%-60s %d differ, %d refused" % (name[:60], check.differ - before, check.refused - refused))
        if check.both - both > a.conversations * 0.9:
            print("%-60s refuses %d of %d on both sides" % (name[:60], check.both - both, a.conversations))
    print("conversations: %d equal (%d refused by both), %d refused by design, %d differ"
          % (check.equal, check.both, check.refused, check.differ), flush=True)
    with ProcessPoolExecutor(a.jobs, multiprocessing.get_context("fork")) as pool:
        for lane in pool.map(random_lane, [a] * a.jobs, range(a.jobs)):
            check.add(lane)
    for reason, count in check.reasons.most_common(12):
        print("  by design %5d  %s" % (count, reason))
    print("%d equal (%d refused by both), %d refused by design, %d differ"
          % (check.equal, check.both, check.refused, check.differ))
    if program:
        program.close()
    return 1 if check.differ else 0


if __name__ == "__main__":
    sys.exit(main())
