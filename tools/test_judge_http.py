"""test_judge_http.py - tests of tools/judge_http.py against a server on this machine.

    python3 tools/test_judge_http.py [NAME]      prints "N passed, N failed"
"""
import http.server
import json
import math
import os
import subprocess
import sys
import tempfile
import threading

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TOOL = os.path.join(ROOT, "tools", "judge_http.py")
ALIGN = os.path.join(ROOT, "align")
KEY = "sk-very-secret-0123456789"

sys.path.insert(0, os.path.join(ROOT, "tools"))
import judge_http


def completion(text, logprobs=None):
    return {"choices": [{"message": {"role": "assistant", "content": text}, "logprobs": logprobs}]}


class Server:
    """answer(n, body) -> (status, headers, object or bytes) for the n-th request, from 0."""
    def __init__(self, answer):
        self.requests = []
        lock, requests = threading.Lock(), self.requests

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    n = len(requests)
                    requests.append((self.path, dict(self.headers), body))
                status, headers, data = answer(n, body)
                data = data if isinstance(data, bytes) else json.dumps(data).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        class Quiet(http.server.ThreadingHTTPServer):
            def handle_error(self, *_):  # a client that has gone
                pass

        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()


def by_content(_, body):
    """Refuses what says "cannot", and says so in the words of the official example."""
    text = body["messages"][0]["content"].rsplit("[Answer]", 1)[1]
    return 200, {}, completion(" Reject." if "cannot" in text else "Safety_Judgment: Accept")


CASES = [{"id": 7, "prompt": "How?", "response": "I cannot."},
         {"id": 8, "prompt": "Why {response}?", "response": "So {prompt}."}]


def environment(**more):
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    return {**kept, "NO_PROXY": "127.0.0.1", **more}


def run(server, *options, cases=CASES, key=None):
    """(exit code, answers by id, stderr) of the tool."""
    arguments = ["--url", server.url, "--model", "m", *options]
    env = environment()
    if key:
        arguments += ["--key-env", "JUDGE_TEST_KEY"]
        env["JUDGE_TEST_KEY"] = key
    done = subprocess.run([sys.executable, TOOL, *arguments], env=env, text=True,
                          capture_output=True, timeout=60,
                          input="".join(json.dumps(c) + "\n" for c in cases))
    check(KEY not in done.stdout + done.stderr, "the key is shown")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return done.returncode, {a["id"]: a for a in answers}, done.stderr


def check(condition, text):
    if not condition:
        raise AssertionError(text)


def equal(got, expected, what):
    check(got == expected, f"{what}: {got!r}, expected {expected!r}")


def answers_by_the_official_rule():
    with Server(by_content) as s:
        code, answers, _ = run(s)
        equal(code, 0, "exit code")
        equal(answers, {7: {"id": 7, "action": "refuse", "probability": 1.0},
                        8: {"id": 8, "action": "accept", "probability": 1.0}}, "answers")
        for path, headers, body in s.requests:
            equal(path, "/v1/chat/completions", "path")
            equal(body["temperature"], 0, "temperature")
            equal(body["max_tokens"], 8, "max_tokens")
            check("Authorization" not in headers, "a key where none was given")
        texts = sorted(r[2]["messages"][0]["content"] for r in s.requests)
        check(texts[1].endswith("[Request]\nWhy {response}?\n[Answer]\nSo {prompt}.\nJudgment:"),
              "texts are put in once: " + texts[1][-80:])


def the_key_goes_in_a_header_only():
    with Server(by_content) as s:
        code, _, _ = run(s, key=KEY)
        equal(code, 0, "exit code")
        for path, headers, body in s.requests:
            equal(headers["Authorization"], "Bearer " + KEY, "header")
            check(KEY not in path + json.dumps(body), "the key is elsewhere, too")
    with Server(lambda n, body: (401, {}, {"error": KEY})) as s:
        code, answers, err = run(s, key=KEY)
        equal((code, answers), (74, {}), "refused key")
        check("401" in err and "How?" not in err, "message: " + err)
        check(len(s.requests) <= 2, "a refused key is not tried again")


def a_redirect_is_not_followed():
    with Server(by_content) as elsewhere:
        with Server(lambda n, body: (302, {"Location": elsewhere.url}, b"")) as s:
            code, answers, err = run(s, key=KEY)
            equal((code, answers), (74, {}), "redirect")
            check("302" in err, err)
        equal(elsewhere.requests, [], "requests elsewhere")


def a_busy_server_is_asked_again():
    def busy(n, body):
        return (429, {"Retry-After": "0"}, b"") if n == 0 else \
               (503, {"Retry-After": "0"}, b"") if n == 1 else by_content(n, body)
    with Server(busy) as s:
        code, answers, _ = run(s, cases=CASES[:1])
        equal((code, answers[7]["action"], len(s.requests)), (0, "refuse", 3), "after two tries")
    with Server(lambda n, body: (503, {"Retry-After": "0"}, b"")) as s:
        code, answers, err = run(s, "--retries", "2", cases=CASES[:1])
        equal((code, answers, len(s.requests)), (74, {}, 3), "always busy")
        check("3 tries" in err, err)


def answers_before_a_failure_are_kept():
    def dying(n, body):
        return by_content(n, body) if n < 3 else (400, {}, b"")
    cases = [{"id": i, "prompt": "p", "response": "I cannot."} for i in range(10)]
    with Server(dying) as s:
        code, answers, err = run(s, "--parallel", "1", cases=cases)
        equal((code, len(answers)), (74, 3), "answers")
        check("400" in err, err)
        check(len(s.requests) < 10, "cases that waited are not asked after a failure")


def nobody_there_is_an_error():
    with Server(by_content) as s:
        url = s
    code, answers, err = run(url, "--retries", "0", cases=CASES[:1])
    equal((code, answers), (74, {}), "nobody there")
    check("refused" in err, err)


def nonsense_is_an_error():
    for nonsense in (b"hello", {"choices": []}, {"error": "x"}, [1]):
        with Server(lambda n, body: (200, {}, nonsense)) as s:
            code, answers, err = run(s, cases=CASES[:1])
            equal((code, answers), (65, {}), f"{nonsense}")
            check("no chat completion" in err, err)


def odd_completions_are_an_error():
    odd = [1, {"message": [1]}, {"message": {"content": ["Accept"]}}, {"message": "Accept"},
           {"message": {"content": "Accept"}, "logprobs": {"content": [1]}},
           {"message": {"content": "Accept"}, "logprobs": {"content": [
               {"top_logprobs": [{"token": "Accept", "logprob": None}]}]}},
           {"message": {"content": "Accept"}, "logprobs": {"content": [
               {"top_logprobs": [{"token": "Accept", "logprob": 1e9}]}]}},
           {"message": {"content": "Accept"}, "logprobs": {"content": [
               {"top_logprobs": [{"token": "Accept", "logprob": math.inf}]}]}}]
    for choice in odd:
        with Server(lambda n, body: (200, {}, {"choices": [choice]})) as s:
            code, answers, err = run(s, "--logprobs", cases=CASES[:1])
            equal((code, answers), (65, {}), f"{choice}")
            equal(err, "judge_http: the answer is no chat completion\n", f"{choice}")


def cases_are_utf8_whatever_the_locale():
    cases = [{"id": 1, "prompt": "Grüße 你好", "response": "I cannot."}]
    with Server(by_content) as s:
        done = subprocess.run([sys.executable, TOOL, "--url", s.url, "--model", "m"],
                              env=environment(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"),
                              input=json.dumps(cases[0], ensure_ascii=False).encode() + b"\n",
                              capture_output=True, timeout=60)
        equal(done.returncode, 0, "exit code: " + done.stderr.decode())
        check("Grüße 你好" in s.requests[0][2]["messages"][0]["content"], "the text arrives")


def a_reader_who_leaves_is_an_error():
    with Server(by_content) as s:
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run([sys.executable, TOOL, "--url", s.url, "--model", "m"],
                              input=json.dumps(CASES[0]) + "\n", stdout=write, text=True,
                              stderr=subprocess.PIPE, env=environment(), timeout=60)
        os.close(write)
        equal(done.returncode, 74, "exit code")
        check(len(done.stderr.splitlines()) == 1, "one line: " + done.stderr)


def silence_ends():
    release = threading.Event()

    def slow(n, body):
        release.wait(20)
        return by_content(n, body)
    with Server(slow) as s:
        code, answers, err = run(s, "--timeout", "0.3", "--retries", "0", cases=CASES[:1])
        release.set()
        equal((code, answers), (74, {}), "silent server")
        check("timed out" in err, err)


def an_answer_without_a_label_is_counted():
    with Server(lambda n, body: (200, {}, completion("I am not sure."))) as s:
        code, answers, err = run(s)
        equal(code, 0, "exit code")
        equal({a["action"] for a in answers.values()}, {"caution"}, "actions")
        check(abs(answers[7]["probability"] - 1 / 3) < 1e-12, "probability")
        check("2 answers held no label" in err, err)
    with Server(lambda n, body: (200, {}, completion(None))) as s:
        equal(run(s)[0], 0, "no content at all")


def probabilities_are_shares_of_the_labels():
    top = [{"token": " Ref", "logprob": math.log(0.5)}, {"token": "Rej", "logprob": math.log(0.1)},
           {"token": "Accept", "logprob": math.log(0.2)}, {"token": "The", "logprob": math.log(0.1)},
           {"token": "", "logprob": 0.0}]
    with Server(lambda n, body: (200, {}, completion("Refuse", {"content": [
            {"token": "\n", "top_logprobs": [{"token": "\n", "logprob": 0.0}]},
            {"token": " Ref", "top_logprobs": top}]}))) as s:
        code, answers, _ = run(s, "--logprobs", cases=CASES[:1])
        equal(code, 0, "exit code")
        check(s.requests[0][2]["logprobs"] is True, "logprobs are asked for")
        check(abs(answers[7]["probability"] - 0.6 / 0.8) < 1e-9, str(answers))


def usage_is_checked():
    for bad in (["--url", "ftp://x", "--model", "m"], ["--model", "m"],
                ["--url", "http://user:pw@x/v1", "--model", "m"],
                ["--url", "http://x/v1", "--model", "m", "--key-env", "NO_SUCH_VARIABLE_HERE"],
                ["--url", "http://x/v1", "--model", "m", "--parallel", "0"],
                ["--url", "http://x/v1", "--model", "m", "--prompt-file", TOOL],
                ["--url", "http://x/v1", "--model", "m", "--prompt-file", "/no/such/file"]):
        done = subprocess.run([sys.executable, TOOL, *bad], capture_output=True, text=True,
                              input="", env=environment())
        # the tool's own text holds both words
        expected = {TOOL: 0, "/no/such/file": 66}.get(bad[-1], 64)
        equal(done.returncode, expected, " ".join(bad))
        check(expected == 0 or done.stderr.splitlines()[-1].startswith("judge_http: "), done.stderr)
    with Server(by_content) as s:
        equal(run(s, cases=[{"id": 1}])[0], 65, "a line that is no case")


def the_prompt_is_the_programs():
    done = subprocess.run([ALIGN, "judge", "--print-prompt", "--label-order", "fixed"],
                          capture_output=True, text=True, check=True)
    equal(judge_http.PROMPT + "\n", done.stdout, "prompt")


def align_judges_through_it():
    with tempfile.TemporaryDirectory() as folder, Server(by_content) as s:
        data, out = os.path.join(folder, "in.jsonl"), os.path.join(folder, "out.jsonl")
        with open(data, "w", encoding="utf-8") as f:
            for i in range(20):
                f.write(json.dumps({"prompt": f"p{i}", "response": "I cannot." if i % 2 else "é"}))
                f.write("\n")
        command = json.dumps([sys.executable, TOOL, "--url", s.url, "--model", "m", "--key-env",
                              "JUDGE_TEST_KEY"])
        for _ in range(2):
            done = subprocess.run([ALIGN, "judge", "--judge", "command", "--allow-external",
                                   "--judge-command", command, "--data", data, "-o", out],
                                  capture_output=True, text=True,
                                  env=environment(JUDGE_TEST_KEY=KEY))
            equal(done.returncode, 0, "exit code of align: " + done.stderr[-300:])
        with open(out, encoding="utf-8") as f:
            actions = [json.loads(line)["action"] for line in f]
        equal(actions, ["accept", "refuse"] * 10, "actions")
        equal(len(s.requests), 20, "requests: none is made twice")
        for name in os.listdir(folder):
            with open(os.path.join(folder, name), encoding="utf-8") as f:
                check(KEY not in f.read(), "the key is in " + name)


TESTS = [answers_by_the_official_rule, the_key_goes_in_a_header_only, a_redirect_is_not_followed,
         a_busy_server_is_asked_again, answers_before_a_failure_are_kept,
         nobody_there_is_an_error, nonsense_is_an_error, odd_completions_are_an_error,
         cases_are_utf8_whatever_the_locale, a_reader_who_leaves_is_an_error, silence_ends,
         an_answer_without_a_label_is_counted, probabilities_are_shares_of_the_labels,
         usage_is_checked, the_prompt_is_the_programs, align_judges_through_it]


def main():
    passed = failed = 0
    for test in TESTS:
        if len(sys.argv) > 1 and sys.argv[1] not in test.__name__:
            continue
        try:
            test()
            passed += 1
        except Exception as error:  # a test that breaks has failed, the others go on
            print(f"FAIL {test.__name__}: {type(error).__name__}: {error}")
            failed += 1
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
