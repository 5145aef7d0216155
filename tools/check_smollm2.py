#!/usr/bin/env python3
"""check_smollm2.py - a real GGUF file against transformers, and against its own numbers in F32.

    PYTHON=python3 python3 tools/check_smollm2.py [--align PROGRAM] [--gguf FILE]

The file is SmolLM2-135M-Instruct in Q4_1 (tools/smollm2.sh brings it). transformers unpacks it into
a directory in F32 once, build/smollm2/hf. Then, in f32: greedy answers to 20 prompts are the same
text as transformers', log-probs of these answers are within 1e-3, and DPO on the file gives the
adapter of DPO on the directory, byte for byte. Prints "N passed, N failed".
"""
import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
WORK = os.path.join(ROOT, "build", "smollm2")
TOKENS = 24
PROMPTS = [
    "Name the planets.", "What is the capital of France?", "Write a haiku about rain.",
    "Explain photosynthesis in one sentence.", "How do I boil an egg?", "List three colours.",
    "What is the largest ocean?", "Who wrote Hamlet?", "Translate good morning to Spanish.",
    "Give me a tip for sleeping well.", "What is two plus two?", "Why is the sky blue?",
    "Tell me a joke.", "What does a cardiologist do?", "Can I take ibuprofen with alcohol?",
    "Describe a cat.", "How many days are in a week?", "What is gravity?",
    "Name a famous painter.", "Is water wet?"]
PAIR = {"prompt": "May I take two tablets?", "chosen": " Ask your pharmacist first.",
        "rejected": " Sure, as many as you like."}


def chat(prompt):
    """ChatML without a system message, as --chat-template chatml writes it."""
    return f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"


def write_rows(name, rows):
    path = os.path.join(WORK, name)
    with open(path, "w", encoding="utf-8") as f:
        f.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def unpack(gguf, folder):
    """The file's numbers as a directory in F32, by transformers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
    import torch
    at, name = os.path.split(gguf)
    model = AutoModelForCausalLM.from_pretrained(at, gguf_file=name, dtype=torch.float32)
    config = model.config.to_dict()
    config.pop("quantization_config", None)
    plain = LlamaForCausalLM(LlamaConfig(**config)).float()
    plain.load_state_dict(model.state_dict(), strict=False)
    plain.tie_weights()
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(at, gguf_file=name).save_pretrained(folder)


class Check:
    def __init__(self, align, gguf):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        self.align, self.gguf, self.passed, self.failed = align, gguf, 0, 0
        self.folder = os.path.join(WORK, "hf")
        if not os.path.exists(os.path.join(self.folder, "model.safetensors")):
            unpack(gguf, self.folder)
        torch.set_num_threads(1)
        self.torch = torch
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder)
        self.model = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32).eval()

    def says(self, name, good, detail):
        self.passed, self.failed = self.passed + bool(good), self.failed + (not good)
        print(f"{'ok' if good else 'FAIL'}: {name}: {detail}")

    def run(self, *arguments):
        subprocess.run([self.align, *arguments, "--precision", "f32"], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def ids(self, text):
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def answer(self, prompt):
        ids = self.torch.tensor([self.ids(chat(prompt))])
        with self.torch.no_grad():
            out = self.model.generate(ids, max_new_tokens=TOKENS, do_sample=False)
        return self.tokenizer.decode(out[0, ids.shape[1]:], skip_special_tokens=True)

    def greedy(self):
        out = os.path.join(WORK, "answers.jsonl")
        self.run("generate", "-m", self.gguf, "-o", out, "--max-tokens", str(TOKENS),
                 "--data", write_rows("prompts.jsonl", [{"prompt": p} for p in PROMPTS]),
                 "--temperature", "0", "--chat-template", "chatml")
        with open(out, encoding="utf-8") as f:
            ours = [json.loads(line)["response"] for line in f]
        theirs = [self.answer(p) for p in PROMPTS]
        same = sum(a == b for a, b in zip(ours, theirs))
        self.says("greedy answers", same == len(PROMPTS), f"{same} of {len(PROMPTS)} the same")
        return theirs

    def scores(self, answers):
        rows = [{"prompt": chat(p), "completion": a} for p, a in zip(PROMPTS, answers)]
        out, worst = os.path.join(WORK, "scores.jsonl"), 0
        self.run("score", "-m", self.gguf, "--data", write_rows("rows.jsonl", rows), "-o", out,
                 "--tokens", "--parse-special")
        with open(out, encoding="utf-8") as f, self.torch.no_grad():
            for row, score in zip(rows, map(json.loads, f)):
                before, ids = self.ids(row["prompt"]), score["token_ids"]
                logits = self.model(self.torch.tensor([before + ids])).logits[0].double()
                logps = self.torch.log_softmax(logits, -1)
                for k, (i, ours) in enumerate(zip(ids, score["token_logps"])):
                    worst = max(worst, abs(logps[len(before) - 1 + k, i].item() - ours))
        self.says("log-probs", worst < 1e-3, f"differ by at most {worst:.1e}")

    def dpo(self):
        data, sums = write_rows("pairs.jsonl", [PAIR] * 2), []
        for name, model in (("file", self.gguf), ("directory", self.folder)):
            run = os.path.join(WORK, "dpo-" + name)
            shutil.rmtree(run, ignore_errors=True)
            self.run("dpo", "-m", model, "--data", data, "-o", run, "--steps", "2", "--lr", "1e-3")
            with open(os.path.join(run, "adapter", "adapter_model.safetensors"), "rb") as f:
                sums.append(hashlib.sha256(f.read()).hexdigest())
        self.says("DPO on the file and on the directory", sums[0] == sums[1],
                  f"adapters {sums[0][:12]} and {sums[1][:12]}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--align", default=os.path.join(ROOT, "align"))
    parser.add_argument("--gguf", help="the file, if it is there already")
    args = parser.parse_args()
    gguf = args.gguf
    if not gguf:
        env = {**os.environ, "PYTHON": sys.executable}
        done = subprocess.run(["sh", os.path.join(ROOT, "tools", "smollm2.sh")], env=env,
                              capture_output=True, text=True)
        if done.returncode:
            print("left out: " + done.stderr.strip())
            print("0 passed, 0 failed")
            return
        gguf = os.path.join(ROOT, done.stdout.strip())
    os.makedirs(WORK, exist_ok=True)
    check = Check(args.align, gguf)
    check.scores(check.greedy())
    check.dpo()
    print(f"{check.passed} passed, {check.failed} failed")
    sys.exit(check.failed > 0)


if __name__ == "__main__":
    main()
