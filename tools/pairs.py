#!/usr/bin/env python3
"""Every pair of option values of `align`, in real runs on tiny data.

    tools/pairs.py [--ci | --full] [--seed N] [--command dpo] [--align PATH] [--sanitized PATH]

The options and what they allow come from `align --options --json`: a new option is covered without
a change here, unless it names a file. Each row gives values to all options of a command. It must
end with 0, with every promised output there and finite and no more steps, answers and memory than
its dry run planned; or with a refusal that names the options it hangs on. Some rows are made to
break a rule between options (pairs_table.py) and must be refused by it. A failure is shrunk to the
shortest command line that still fails. --ci takes the first rows, which cover most pairs. The last
line is "N passed, N failed". tools/pairs_selftest.py tries the tester itself.
"""
import argparse
import concurrent.futures
import itertools
import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time

import pairs_check
import pairs_table
from pairs_array import FLAG, Array, borders, uncovered, values_by_type
from pairs_check import Wrong
from pairs_null import DIVERGED, EXIT_CODE

AT = "build/pairs"
FIXTURES = AT + "/fixtures/"
REFUSALS = (64, 65)
NO_MEMORY = 71
SECONDS = {"cycle": 240}  # longest run, by command
MOST_SECONDS = 120
LEAST_REAL = 0.7  # share of the rows that are real runs
SLACK = 2 << 20   # resident bytes of a run beyond those of its dry run and its plan: free blocks
CI_ROWS = {"sft": 20, "dpo": 36, "kto": 20, "score": 12, "generate": 16, "explain": 30,
           "judge": 20, "evaluate": 12, "cycle": 20, "sign": 6}

FORMS = pairs_table.COMMANDS + ["sign"]
SIGN = ["approve", "rollback", "reason", "json", "redact", "quiet"]


# ---- running -------------------------------------------------------------------------------------

class Run:
    """A finished process."""

    def __init__(self, code, out, err, rss, timed_out):
        self.code, self.out, self.err, self.rss = code, out, err, rss
        self.timed_out = timed_out
        text = err.strip().splitlines()
        self.last = text[-1] if text else ""


def environment():
    env = dict(os.environ, OMP_WAIT_POLICY="passive", ASAN_OPTIONS="detect_leaks=1:exitcode=99",
               UBSAN_OPTIONS="print_stacktrace=1")
    env.setdefault("OMP_NUM_THREADS", "2")
    return env


def execute(program, arguments, seconds=MOST_SECONDS, files=None):
    """Runs align; files: where stdout and stderr go."""
    at = files or "%s/run.%d.%d" % (AT, os.getpid(), threading.get_ident())
    with open(at + ".stdout", "w+b") as out, open(at + ".stderr", "w+b") as err:
        process = subprocess.Popen([program, *arguments], stdin=subprocess.DEVNULL, stdout=out,
                                   stderr=err, env=environment())
        late = threading.Event()

        def stop():
            late.set()
            process.kill()

        timer = threading.Timer(seconds, stop)
        timer.start()
        _, status, usage = os.wait4(process.pid, 0)
        timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        run = Run(process.returncode, out.read().decode("utf-8", "replace"),
                  err.read().decode("utf-8", "replace"), usage.ru_maxrss * 1024, late.is_set())
    os.remove(at + ".stdout")
    os.remove(at + ".stderr")
    return run


# ---- the table -----------------------------------------------------------------------------------

def lookup(table, command, option):
    return table.get((command, option), table.get(("*", option)))


def float_of(text):
    """Of "auto", "64M" and "0.5", to compare."""
    match = re.fullmatch(r"([\d.]+)([KMGT]?)", text)
    return float(match.group(1)) * 1024 ** " KMGT".index(match.group(2) or " ") if match else text


class Form:
    """A command with its options: {option: [values]}, its rules, and how a row is spelled."""

    def __init__(self, name, table, kernels):
        self.name = name
        self.command = "cycle" if name == "sign" else name
        self.options = {o["option"]: o for o in table if o["command"] == self.command}
        self.missing = []  # what the table must say and does not
        self.factors = {}
        self.single, self.dry = set(), set()  # (option, value): alone; and with --dry-run
        never = pairs_table.NEVER.get(name, [])
        for option, row in self.options.items():
            if option not in never and (name != "sign" or option in SIGN):
                self.add(option, row)
        self.rules = pairs_table.rules_of(name, kernels) + pairs_table.when_rules(
            self.command, self.options)
        self.single |= {(o, v) for o in pairs_table.SINGLE.get(name, [])
                        for v in self.factors.get(o, []) if v not in (None, "0")}

    def add(self, option, row):
        numbers = lookup(pairs_table.NUMBERS, self.name, option)
        values = lookup(pairs_table.FIXTURES, self.name, option)
        if values is None and numbers and row["type"] in ("count", "number", "size"):
            values = numbers.usual + numbers.alone
            self.single |= {(option, v) for v in numbers.alone}
            if "dry-run" in self.options and not numbers.runs:
                self.dry |= {(option, v) for v in numbers.alone}
            for border in borders(row):
                if not numbers.why and float_of(border) not in map(float_of, values):
                    self.missing.append("--%s: neither %s nor why it is left out" % (option,
                                                                                     border))
        if values is None:
            values = values_by_type(row)
        if values is None:
            self.missing.append("--%s of type %s: no value to try" % (option, row["type"]))
            return
        values = [v if v is FLAG else v.replace("{}", FIXTURES) for v in values]
        if not row["required"] and option not in pairs_table.ALWAYS.get(self.name, []):
            values = [None] + values
        self.factors[option] = values

    def arguments(self, row, out):
        """The command line of a row (a dict; what is not in it is not given)."""
        line = [self.command]
        if self.name == "sign":
            line.append(out)
        given = {o: v for o, v in row.items() if v is not None}
        for option, value in pairs_table.SMALL.get(self.name, {}).items():
            if option not in given and pairs_table.INSTEAD.get(option) not in given:
                given[option] = value
        for option, value in given.items():
            line.append("--" + option)
            if value is not FLAG:
                line.append(value.replace(pairs_table.OUT, out))
        return line

    def config(self, row, out):
        """The same as a file for --config."""
        line = self.arguments(row, out)
        members, i = {"command": self.command}, 1
        while i < len(line):
            option = self.options[line[i][2:]]
            if option["type"] == "flag":
                members[option["option"]] = True
                i += 1
                continue
            text = line[i + 1]
            whole = option["type"] == "count" and text.isdigit()
            members[option["option"]] = int(text) if whole else text
            i += 2
        return json.dumps(members)


# ---- one row -------------------------------------------------------------------------------------

def shown(program, arguments):
    return " ".join([program] + [a if re.fullmatch(r"[\w./,=+-]+", a) else "'%s'" % a.replace(
        "'", "'\\''") for a in arguments])


def names_option(line, options, values=()):
    """Does a refusal name one of the options, or a file that one of them gave?"""
    short = {"model": "-m", "output": "-o", "data": "--data"}
    for o in options:
        if re.search(r"--%s\b(?!-)" % re.escape(o), line):
            return True
        if o in short and re.search(r"(^|\s)%s\b" % short[o], line):
            return True
    return any(v and v is not FLAG and len(v) > 3 and v in line for v in values)


class Failure(Exception):
    def __init__(self, kind, text, arguments, code):
        super().__init__(text)
        self.kind, self.arguments, self.code = kind, arguments, code

    def same(self, other):
        return other and (self.kind, self.code) == (other.kind, other.code)


def trained_nothing(run):
    """Did a loop find no rows to train on? Its dry run, of rows that it makes itself, cannot know
    that; what would have been refused of a training was not met."""
    return not any("adapter_config.json" in names and re.search(r"/cycle-\d+/(kto|dpo)\b", at)
                   for at, _, names in os.walk(run))


class Tester:
    def __init__(self, options):
        self.align, self.sanitized = options.align, options.sanitized
        self.count = 0
        self.lock = threading.Lock()

    def plain(self, *arguments):
        return execute(self.align, list(arguments))

    def folder(self):
        with self.lock:
            self.count += 1
            at = "%s/row-%d" % (AT, self.count)
        shutil.rmtree(at, ignore_errors=True)
        os.makedirs(at)
        return at

    def go(self, form, row, at, program=None, more=(), arguments=None):
        """One run of the row in the folder; Failure for an end that is none."""
        out = at + "/out"
        if form.name == "sign" and not os.path.exists(out):
            signed = "-signed" if row.get("rollback") else ""
            shutil.copytree(FIXTURES + "loop" + signed, out)
        line = (arguments or form.arguments(row, out)) + list(more)
        program = program or self.align
        r = execute(program, line, SECONDS.get(form.name, MOST_SECONDS), at + "/std")
        r.line = line
        r.command = shown(program, line)

        def fail(kind, text=None):
            raise Failure(kind, text or r.last, r.command, r.code)

        if r.timed_out:
            fail("timeout", "longer than %d s" % SECONDS.get(form.name, MOST_SECONDS))
        if r.code < 0 or r.code == 99 or "runtime error:" in r.err:
            fail("signal", "\n".join(r.err.splitlines()[-12:]))
        if r.code == NO_MEMORY and row.get("memory"):
            if not names_option(r.last, ["memory"]):
                fail("unnamed refusal")
        elif r.code == DIVERGED:
            if not pairs_table.may_diverge(row) or not re.search("diverge|finite", r.last):
                fail("diverged")
        elif r.code and r.code not in REFUSALS:
            fail("internal" if r.code == 70 else "exit code")
        if r.code:
            if not r.last.startswith("align"):
                fail("unnamed refusal")
            ended = dict(row, **{EXIT_CODE: r.code})
            self.check_promise(lambda: pairs_check.whole_tree(at, ended), r)
            if os.path.exists(out + "/adapter") and form.name in pairs_table.TRAINING:
                fail("left behind", "an adapter of a run that failed")
        return r

    def check_promise(self, promise, r):
        try:
            return promise()
        except Wrong as e:
            raise Failure(e.kind, str(e), r.command, r.code) from e
        except (KeyError, TypeError, ValueError, OSError) as e:
            raise Failure("no output", repr(e), r.command, r.code) from e

    def run(self, form, row, rule=None, extras=()):
        """Runs a row with all that belongs to it; the kind of end: "real", "dry", "refused"."""
        at = self.folder()
        try:
            end = self.row(form, row, at, rule, extras)
        finally:
            shutil.rmtree(at, ignore_errors=True)
        return end

    def row(self, form, row, at, rule, extras):
        dry = plan = None
        has_trial = "dry-run" in form.factors and not row.get("dry-run") and \
            not row.get("print-config")
        if has_trial:
            more = ["--dry-run"] + ([] if row.get("json") else ["--json"])
            dry = self.go(form, row, at, more=more)
            if not dry.code:
                plan = self.check_promise(lambda: pairs_check.planned(form.name, dry.out, row), dry)
            if os.listdir(at):
                raise Failure("left behind", "a dry run wrote %s" % os.listdir(at), dry.command, 0)
        r = self.go(form, row, at)
        idle = not r.code and form.name == "cycle" and trained_nothing(at + "/out")
        if dry and not idle:
            self.same_end(dry, r)
        if rule and idle and not plan:
            return "real"  # and no plan that it could be held to
        if rule and not idle:
            self.refused_by(rule, row, r)
            return "refused"
        if r.code == NO_MEMORY:
            raise Failure("exit code", r.last, r.command, r.code)
        if r.code:
            return "diverged" if r.code == DIVERGED else r.last
        if row.get("dry-run"):
            return "dry"
        if row.get("print-config"):
            self.printed_config_says_the_same(form, row, r)
            return "dry"
        self.check_promise(lambda: pairs_check.check(form.name, row, at + "/out", r.out, plan,
                                                     self.plain), r)
        if form.name in pairs_table.TRAINING:
            self.in_memory(plan, dry, r)
        for extra in extras:
            extra(self, form, row, at, r)
        return "real"

    def same_end(self, dry, r):
        if dry.code == 0 and r.code in (64, 65, NO_MEMORY):
            raise Failure("dry run passes", r.last, r.command, r.code)
        if dry.code and r.code == 0:
            raise Failure("dry run refuses", dry.last, dry.command, dry.code)

    def refused_by(self, rule, row, r):
        if not r.code:
            raise Failure("rule out of date", "%s is not refused" % rule, r.command, r.code)
        missing = [o for o in rule.says if not names_option(r.last, [o], [row[o]])]
        if r.code not in rule.codes:
            raise Failure("exit code", "%s: %s" % (rule, r.last), r.command, r.code)
        if missing:
            raise Failure("unnamed refusal", "does not name --%s: %s" % (" --".join(missing),
                                                                         r.last), r.command, r.code)

    def in_memory(self, plan, dry, r):
        """The dry run reads the model and the rows, and sets the rest of the plan aside nowhere."""
        most = dry.rss + plan["memory"]["total"] + plan["memory"]["weights"] + SLACK
        if r.rss > most:
            raise Failure("memory plan", "%.1f MiB resident, planned %.1f" % (
                r.rss / 2**20, most / 2**20), r.command, r.code)

    def printed_config_says_the_same(self, form, row, r):
        """What --print-config printed is read again, and prints itself."""
        at = self.folder()
        try:
            path = at + "/printed.json"
            with open(path, "w", encoding="utf-8") as f:
                f.write(r.out)
            again = self.go(form, row, at, arguments=[form.command, "--config", path,
                                                      "--print-config"])
            if again.code or again.out != r.out:
                raise Failure("not the same", "--print-config: " + (again.last or again.out),
                              again.command, again.code)
        finally:
            shutil.rmtree(at, ignore_errors=True)

    # -- what else must hold, for some rows

    def again(self, form, row, r, change=None, arguments=None):
        """The row once more elsewhere: the fingerprint of what it left."""
        at = self.folder()
        try:
            line = arguments(at) if arguments else form.arguments(dict(row, **(change or {})),
                                                                  at + "/out")
            other = self.go(form, row, at, arguments=line)
            if other.code != r.code:
                raise Failure("not the same", "exit code %d, before %d: %s" % (
                    other.code, r.code, other.last), other.command, other.code)
            return self.left(at, other), other
        finally:
            shutil.rmtree(at, ignore_errors=True)

    def left(self, at, r):
        """Fingerprint of a folder and of standard output."""
        found = pairs_check.fingerprint(at, without=("ledger.jsonl", "report.html", "grid.json",
                                                     "results.json"))
        passing = pairs_check.TIMES + r"|ledger[ _]head.*|grid.json sha256.*|[0-9.]+ s\b"
        found["stdout"] = re.sub(passing, "", r.out.replace(at, "FOLDER"))
        return found

    def compare(self, what, one, two, r):
        differ = sorted(k for k in set(one) | set(two) if one.get(k) != two.get(k))
        if differ:
            raise Failure("not the same", "%s: %s" % (what, " ".join(differ[:5])), r.command,
                          r.code)


def threads_change_nothing(tester, form, row, at, r):
    if "threads" in form.factors and not row.get("json"):
        for n in ("1", "2"):
            found, other = tester.again(form, row, r, {"threads": n})
            tester.compare("--threads " + n, tester.left(at, r), found, other)


def config_says_the_same(tester, form, row, at, r):
    if form.name == "sign":
        return

    def through_a_file(folder):
        path = folder + ".config"
        with open(path, "w", encoding="utf-8") as f:
            f.write(form.config(row, folder + "/out"))
        return [form.command, "--config", path]

    found, other = tester.again(form, row, r, arguments=through_a_file)
    tester.compare("--config", tester.left(at, r), found, other)


def own_config_says_the_same(tester, form, row, at, r):
    """RUN/config.json makes the same run again."""
    if form.name not in pairs_table.TRAINING or row.get("judge-data"):
        return

    def from_the_run(folder):
        more = [a for o in ("json", "quiet", "force") if row.get(o) for a in ["--" + o]]
        more += [a for o in ("threads", "memory") if row.get(o) for a in ["--" + o, row[o]]]
        if row.get("dump-gradients"):
            more += ["--dump-gradients", folder + "/out.gradients"]
        return [form.command, "--config", at + "/out/config.json", "-o", folder + "/out"] + more

    found, other = tester.again(form, row, r, arguments=from_the_run)
    tester.compare("config.json of the run", tester.left(at, r), found, other)


def printed_config_makes_the_same(tester, form, row, at, r):
    """What --print-config prints makes the same run."""
    if "print-config" not in form.factors:
        return
    printed = tester.go(form, row, at, more=["--print-config"])

    def from_the_print(folder):
        path = folder + ".config"
        with open(path, "w", encoding="utf-8") as f:
            f.write(printed.out.replace(at + "/out", folder + "/out"))
        more = [a for o in ("json", "quiet", "auto", "redact", "force") if row.get(o)
                for a in ["--" + o]]
        return [form.command, "--config", path] + more

    found, other = tester.again(form, row, r, arguments=from_the_print)
    tester.compare("--print-config", tester.left(at, r), found, other)


def resume_changes_nothing(tester, form, row, at, r):
    if "resume" not in form.factors or row.get("auto"):
        return
    before = pairs_check.fingerprint(at, without=("report.html",))
    more = [] if row.get("resume") else ["--resume"]
    second = tester.go(form, row, at, more=more)
    if second.code:
        raise Failure("not the same", "resumed after its end: " + second.last, second.command,
                      second.code)
    tester.compare("resumed after its end", before,
                   pairs_check.fingerprint(at, without=("report.html",)), second)


def sanitized(tester, form, row, at, r):
    del at
    if tester.sanitized:
        folder = tester.folder()
        try:
            other = tester.go(form, row, folder, program=tester.sanitized)
            if other.code != r.code:
                raise Failure("not the same", "sanitized: exit code %d, not %d" % (
                    other.code, r.code), other.command, other.code)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


EXTRAS = [threads_change_nothing, config_says_the_same, own_config_says_the_same,
          printed_config_makes_the_same, resume_changes_nothing, sanitized]


# ---- failures ------------------------------------------------------------------------------------

def attempt(tester, form, row, rule, extras):
    try:
        return tester.run(form, row, rule, extras), None
    except Failure as f:
        return None, f


def shrink(tester, form, row, rule, extras, failure):
    """Takes options away while the failure stays; the shortest row and its failure."""
    row = dict(row)
    if failure.kind == "timeout":
        return row, failure
    for option in list(row):
        if row[option] is None or None not in form.factors[option] or option == "dry-run":
            continue
        if rule and option in rule.options:
            continue
        kept, row[option] = row[option], None
        _, f = attempt(tester, form, row, rule, extras)
        if failure.same(f):
            failure = f
        else:
            row[option] = kept
    return {o: v for o, v in row.items() if v is not None}, failure


def shrink_refusal(tester, form, row, last):
    """The options that a refusal without a rule hangs on."""
    row = dict(row)
    place = re.compile(r"row-\d+")
    for option in list(row):
        if row[option] is None or None not in form.factors[option] or option == "dry-run":
            continue
        kept, row[option] = row[option], None
        end, _ = attempt(tester, form, row, None, ())
        if not isinstance(end, str) or place.sub("", end) != place.sub("", last):
            row[option] = kept
    return {o: v for o, v in row.items()
            if v is not None and None in form.factors[o] and o != "dry-run"}


class Report:
    """What came of the rows."""

    def __init__(self):
        self.passed = self.failed = 0
        self.ends = {}
        self.failures = []   # (form, shortest row, failure, times)
        self.unlisted = {}   # {(form, options): (last line, rows)}
        self.lock = threading.Lock()

    def known(self, form, row, failure):
        for entry in self.failures:
            same = all(row.get(o) == v for o, v in entry[1].items()) or set(row) == set(entry[1])
            if entry[0] is form and same and failure.same(entry[2]):
                entry[3] += 1
                return True
        return False

    def add(self, form, row, failure):
        """A failure not met before: told at once. (Its row may have been met meanwhile.)"""
        if self.known(form, row, failure):
            return
        self.failures.append([form, row, failure, 1])
        print("\nFAIL %s, %s, exit code %d\n  %s" % (form.name, failure.kind, failure.code,
                                                    failure.arguments))
        for line in str(failure).splitlines():
            print("  " + line)
        sys.stdout.flush()

    def end(self, form, end):
        self.passed += 1
        self.count(form, end)

    def count(self, form, end):
        ends = self.ends.setdefault(form.name, {})
        ends[end] = ends.get(end, 0) + 1

    def share_real(self, name=None):
        """Of all rows that were run, or of a command's."""
        real = rows = 0
        for form, ends in self.ends.items():
            if name in (None, form):
                real += ends.get("real", 0) + ends.get("diverged", 0)
                rows += sum(ends.values())
        return real / max(1, rows)


def take(report, tester, form, row, rule, extras):
    end, failure = attempt(tester, form, row, rule, extras)
    with report.lock:
        if not failure and end in ("real", "dry", "refused", "diverged"):
            report.end(form, end)
            return
        if failure:
            report.failed += 1
            report.count(form, "failed")
            if report.known(form, row, failure):
                return
    if failure:
        short, failure = shrink(tester, form, row, rule, extras, failure)
        with report.lock:
            report.add(form, short, failure)
        return
    short = shrink_refusal(tester, form, row, end)
    with report.lock:
        judge_refusal(report, tester, form, short, end)


def judge_refusal(report, tester, form, short, end):
    """A refusal that no rule speaks of: it names all options that it hangs on, and one option alone
    is not refused within its range."""
    line = shown(tester.align, form.arguments(dict.fromkeys(form.factors) | short, "OUT"))
    ranged = [o for o in short if form.options[o]["type"] in ("count", "number", "size", "choice",
                                                              "words", "numbers")]
    failure = None
    if len(short) == 1 and ranged:
        failure = Failure("refused within its range", end, line, 64)
    for o, v in short.items():
        if not names_option(end, [o], [v]):
            failure = failure or Failure("unnamed refusal", "--%s: %s" % (o, end), line, 64)
    if failure:
        report.failed += 1
        report.count(form, "failed")
        report.add(form, short, failure)
        return
    report.end(form, "refused")
    key = form.name, " ".join("--" + o for o in short)
    report.unlisted[key] = end, report.unlisted.get(key, ("", 0))[1] + 1


# ---- the whole -----------------------------------------------------------------------------------

def jobs_of(form, options, rng, report):
    """(form, row, rule, extras) for each row of a command."""
    array = Array(form.factors, form.rules, rng, form.single)
    most = CI_ROWS[form.name] if options.ci else None
    rows = list(itertools.islice(array.rows(), most))
    left = list(uncovered(form.factors, rows, array.forbidden, form.single))
    for pair in [] if options.ci else left:
        report.failed += 1
        print("FAIL %s: no row has %s" % (form.name, " and ".join(
            "--%s %s" % (o, v) for o, v in pair)))
    every = 4 if form.name != "cycle" else 8
    jobs = [(form, row, None, [e for k, e in enumerate(EXTRAS)
                               if options.full or (i + k) % every == 0])
            for i, row in enumerate(rows)]
    times = 1 if options.ci else 2
    jobs += [(form, row, None, []) for row in array.alone(times, lambda o, v: (o, v) in form.dry)]
    refused = list(array.refused(times))
    if options.ci:
        refused = rng.sample(refused, min(len(refused), CI_ROWS[form.name] // 4))
    jobs += [(form, row, rule, []) for rule, row in refused]
    allowed = array.pairs - len(array.forbidden)
    print("%-9s %3d options, %5d of %5d pairs (%d more are forbidden), %4d rows" % (
        form.name, len(form.factors), allowed - len(left), allowed, len(array.forbidden),
        len(jobs)), flush=True)
    return jobs


def make_forms(names, table, kernels, report):
    forms = [Form(name, table, kernels) for name in names]
    for form in forms:
        for text in form.missing:
            report.failed += 1
            print("FAIL %s %s: tools/pairs_table.py must say" % (form.name, text))
    return forms


def run_all(forms, options, tester, report):
    """All rows of all forms, command by command, and a line about each."""
    for form in forms:
        jobs = jobs_of(form, options, random.Random("%d %s" % (options.seed, form.name)), report)
        began, failed = time.time(), report.failed
        if options.rows:
            for _, row, rule, _ in jobs:
                print(shown(options.align, form.arguments(row, "OUT")), "# %s" % rule if rule
                      else "")
            continue
        with concurrent.futures.ThreadPoolExecutor(options.workers) as pool:
            list(pool.map(lambda job: take(report, tester, *job), jobs))
        print("%-9s %s; real runs: %.0f %%; %d failures; %.0f s" % (
            "", ", ".join("%d %s" % (n, k) for k, n in sorted(report.ends[form.name].items())),
            100 * report.share_real(form.name), report.failed - failed, time.time() - began),
            flush=True)


def make_fixtures(tester):
    def align(*arguments):
        r = tester.plain(*arguments)
        if r.code:
            sys.exit("fixtures: %s: %s" % (shown(tester.align, arguments), r.last))

    shutil.rmtree(AT, ignore_errors=True)
    os.makedirs(FIXTURES)
    pairs_table.write_fixtures(FIXTURES, align)


def arguments(line=None):
    p = argparse.ArgumentParser(description="every pair of option values of align")
    p.add_argument("--ci", action="store_true", help="the first rows of each command only")
    p.add_argument("--full", action="store_true", help="every check for every row")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--command", choices=FORMS, action="append")
    p.add_argument("--align", default="./align")
    p.add_argument("--sanitized", help="a build with sanitizers, for a sample of the rows")
    p.add_argument("--workers", type=int, default=2)
    p.add_argument("--rows", action="store_true", help="print the command lines and end")
    return p.parse_args(line)


def options_of(tester):
    return json.loads(tester.plain("--options", "--json").out)


def main():
    options = arguments()
    began = time.time()
    os.makedirs(AT, exist_ok=True)
    tester, report = Tester(options), Report()
    version = tester.plain("--version").out
    kernels = re.search(r"kernels: ([^;]*)", version).group(1).split()
    if not options.rows:
        make_fixtures(tester)
    forms = make_forms(options.command or FORMS, options_of(tester), kernels, report)
    run_all(forms, options, tester, report)
    if options.rows:
        return 0
    if report.failures:
        print()
    for form, row, failure, times in report.failures:
        print("%s, %s: %d rows: %s" % (form.name, failure.kind, times, " ".join(
            "--%s%s" % (o, "" if v is FLAG else " " + v) for o, v in row.items())))
    for (name, row), (end, times) in sorted(report.unlisted.items()):
        print("refused without a rule, %d rows: %s %s: %s" % (times, name, row, end))
    real = report.share_real()
    if real < LEAST_REAL and not options.command:
        report.failed += 1
        print("FAIL less than %.0f %% of the rows are real runs" % (100 * LEAST_REAL))
    print("%d rows; real runs: %.0f %%; %d failures; seed %d; %.0f s" % (
        report.passed + report.failed, 100 * real, report.failed, options.seed,
        time.time() - began))
    print("%d passed, %d failed" % (report.passed, report.failed))
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
