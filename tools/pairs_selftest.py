#!/usr/bin/env python3
"""Does the pairwise tester notice? An `align` with one fault after the other (pairs_fake.py), in
rows of `evaluate`, the command with the fewest options.
"""
import contextlib
import io
import os
import random
import sys
import tempfile
import time

import pairs
import pairs_check
import pairs_table
from pairs_array import Array, Rule, uncovered

# The kind of failure by which each fault must be noticed; None: there is none.
FAULTS = {"none": None, "internal": "internal", "signal": "signal", "null": "null",
          "missing": "no output", "left behind": "left behind", "unnamed": "unnamed refusal",
          "memory": "exit code", "created": "exit code", "diverged": "diverged", "shiny": None,
          "shiny refused": "refused within its range", "shiny unnamed": "refused within its range"}


class Checks:
    def __init__(self):
        self.passed = self.failed = 0

    def check(self, what, holds, found=""):
        self.passed += bool(holds)
        self.failed += not holds
        if not holds:
            print("FAIL %s %s" % (what, found))


def faulty(align, fault):
    """A program of one word that runs pairs_fake.py."""
    path = "%s/fake-%s" % (pairs.AT, fault.replace(" ", "-"))
    with open(path, "w", encoding="utf-8") as f:
        f.write("#!/bin/sh\nexec python3 -SE tools/pairs_fake.py '%s' '%s' \"$@\"\n" % (
            fault, os.path.abspath(align)))
    os.chmod(path, 0o755)
    return path


def rows_with(align, fault):
    """Rows of evaluate by a program with the fault: the report, what was printed, the form."""
    options = pairs.arguments(["--ci", "--align", faulty(align, fault)])
    tester, report, said = pairs.Tester(options), pairs.Report(), io.StringIO()
    with contextlib.redirect_stdout(said):
        forms = pairs.make_forms(["evaluate"], pairs.options_of(tester), [], report)
        if not report.failed:
            pairs.run_all(forms, options, tester, report)
    return report, said.getvalue(), forms[0]


def check_faults(c, align):
    for fault, kind in FAULTS.items():
        report, said, form = rows_with(align, fault)
        kinds = {f.kind for _, _, f, _ in report.failures}
        c.check("fault '%s'" % fault, kinds == ({kind} if kind else set()), "%s\n%s" % (kinds,
                                                                                      said))
        if fault == "internal":
            shortest = [row for _, row, _, _ in report.failures]
            c.check("a failure is shrunk", shortest and all(
                "resamples" not in row and row.get("seed") == "0" for row in shortest), shortest)
        if fault == "shiny":
            c.check("the borders of a new option are tried",
                    set(form.factors["shiny"]) == {None, "0", "5", "2.5"}, form.factors["shiny"])
    for fault in ("shiny file", "shiny type"):
        report, said, _ = rows_with(align, fault)
        c.check("fault '%s'" % fault, report.failed and "--shiny" in said, said)


def check_arrays(c):
    """Pairs: each in a row, or forbidden; counted afresh."""
    factors = {o: ["1", "2", "3"] for o in "abcde"}
    rules = [Rule("a b", lambda r: r["a"] == "1" and r["b"] != "2"),
             Rule("b c", lambda r: r["b"] == "2" and r["c"] != "3"),
             Rule("c d e", lambda r: r["c"] == "3" and r["d"] == r["e"])]
    array = Array(factors, rules, random.Random(1))
    rows = list(array.rows())
    c.check("all pairs are covered", not list(uncovered(factors, rows, array.forbidden)))
    forbidden = {frozenset(p) for p in array.forbidden}
    c.check("a pair is forbidden by two rules together",
            frozenset([("a", "1"), ("c", "1")]) in forbidden, forbidden)
    c.check("no more is forbidden", len(forbidden) == 2 + 2 + 2, forbidden)
    c.check("no row breaks a rule", not any(r.broken(row) for r in rules for row in rows))
    for i in range(len(rows)):
        if list(uncovered(factors, rows[:i] + rows[i + 1:], array.forbidden)):
            break
    else:
        c.check("a row that is missing is noticed", False)
    broken = dict(array.refused(1))
    c.check("each rule is broken once", len(broken) == len(rules), broken)
    c.check("and no other with it", all(
        [r for r in rules if r.broken(row)] == [rule] for rule, row in broken.items()))


def check_promises(c):
    """Nulls: those that are named, where they are named, and no others."""
    def holds(text, place, row):
        try:
            pairs_check.parse(text, place, row)
        except pairs_check.Wrong:
            return False
        return True

    results = "x/results.json"
    c.check("a change of 0", holds('{"f1":{"before":0,"relative":null}}', results, {}))
    c.check("another change", not holds('{"f1":{"before":1,"relative":null}}', results, {}))
    c.check("another field", not holds('{"f1":{"before":0,"low":null}}', results, {}))
    c.check("another file", not holds('{"f1":{"before":0,"relative":null}}', "x/metrics.jsonl", {}))
    c.check("NaN", not holds('{"loss":NaN}', "x/metrics.jsonl", {}))
    line, at = '{"eval_rewards/chosen":null}', "x/metrics.jsonl"
    c.check("an evaluation that ended a run", holds(line, at, {"lr": "1000", "exit code": 76}))
    c.check("one that did not", not holds(line, at, {"lr": "1000"}))
    c.check("no learning rate of 1e-3 diverges", not pairs_table.may_diverge({"lr": "0.001"}))
    c.check("one of 1000 may", pairs_table.may_diverge({"lr": "1000"}))
    line = "align dpo: --loss sigmoid: --label-smoothing does nothing"
    named = [o for o in ("loss", "label-smoothing", "label", "beta")
             if pairs.names_option(line, [o])]
    c.check("a refusal names options", named == ["loss", "label-smoothing"], named)
    with tempfile.TemporaryDirectory() as run:
        for folder in ("cycle-0/adapter", "cycle-1/validate-kto", "cycle-1/kto/adapter"):
            os.makedirs(os.path.join(run, folder))
        for folder, idle in (("cycle-0/adapter", True), ("cycle-1/kto/adapter", False)):
            with open(os.path.join(run, folder, "adapter_config.json"), "w", encoding="utf-8"):
                pass
            c.check("a loop that trained nothing" if idle else "one that trained",
                    pairs.trained_nothing(run) == idle)


def kind_of(function, *arguments):
    """Of the failure that a check ends with; None where it is content."""
    try:
        function(*arguments)
    except (pairs.Failure, pairs_check.Wrong) as e:
        return e.kind
    return None


def check_plans(c, tester):
    """A run that goes beyond its plan."""
    out = pairs.AT + "/plan"
    os.makedirs(out, exist_ok=True)
    pairs_table.write_rows(out + "/metrics.jsonl", [{"step": i} for i in (1, 2, 3)])
    row = {"log-every": None, "eval": None, "full": None}
    c.check("a step too many", kind_of(
        pairs_check.training, "sft", row, out, "", {"steps": 2}) == "plan")
    c.check("a step that is not logged", kind_of(
        pairs_check.training, "sft", row, out, "", {"steps": 4}) == "plan")
    c.check("a product that is not there", kind_of(
        pairs_check.training, "sft", row, out, "", {"steps": 3}) == "no output")
    loop = dict(row, judges=None, validators=None)
    pairs_table.write_rows(out + "/responses.jsonl", [{}, {}, {}])
    c.check("an answer too many", kind_of(
        pairs_check.within_plan, loop, out, {"answers": 2}) == "plan")
    c.check("as many answers as planned", not kind_of(
        pairs_check.within_plan, loop, out, {"answers": 3}))
    dry, plan = pairs.Run(0, "", "", 10 << 20, False), {"memory": {"total": 4 << 20, "weights": 0}}
    for mebibytes, kind in ((14, None), (20, "memory plan")):
        run = pairs.Run(0, "", "", mebibytes << 20, False)
        run.command = "align"
        c.check("%d MiB of 14" % mebibytes, kind_of(tester.in_memory, plan, dry, run) == kind)


def check_rules(c, align):
    """Every rule and every border of the real tables."""
    tester = pairs.Tester(pairs.arguments(["--align", align]))
    report = pairs.Report()
    forms = pairs.make_forms(pairs.FORMS, pairs.options_of(tester), ["avx2"], report)
    c.check("the table says what it must", not report.failed)
    for form in forms:
        known = {o for r in form.rules for o in r.options}
        known.update(pairs_table.NEVER.get(form.name, []))
        c.check(form.name + ": rules speak of options that there are",
                known <= set(form.options), known - set(form.options))


def main():
    began, c = time.time(), Checks()
    options = pairs.arguments(sys.argv[1:])
    os.makedirs(pairs.AT, exist_ok=True)
    check_arrays(c)
    check_promises(c)
    tester = pairs.Tester(options)
    pairs.make_fixtures(tester)
    check_plans(c, tester)
    check_rules(c, options.align)
    check_faults(c, options.align)
    print("%.0f s" % (time.time() - began))
    print("%d passed, %d failed" % (c.passed, c.failed))
    return 1 if c.failed else 0


if __name__ == "__main__":
    sys.exit(main())
