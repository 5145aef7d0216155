#!/usr/bin/env python3
"""An `align` with one fault, for `pairs.py --selftest`: pairs_fake.py FAULT ALIGN ARGUMENT...

Each fault shows in `evaluate` where the row has --seed 0. SHINY is an option that this program has
beside those of the real one.
"""
import json
import os
import re
import signal
import subprocess
import sys

SHINY = {"command": "evaluate", "option": "shiny", "type": "number", "allowed": "[0,5]",
         "default": None, "required": False, "meaning": "an option that is new"}


def value_of(arguments, option):
    return arguments[arguments.index(option) + 1] if option in arguments else None


def without_shiny(arguments):
    """What the real program can read: from the command line, and from a file for --config."""
    config = value_of(arguments, "--config")
    if config:
        with open(config, encoding="utf-8") as f:
            members = json.load(f)
        members.pop("shiny", None)
        with open(config, "w", encoding="utf-8") as f:
            json.dump(members, f)
    at = arguments.index("--shiny") if "--shiny" in arguments else len(arguments)
    return arguments[:at] + arguments[at + 2:]


def shows(fault, arguments):
    """Does the fault show in this row?"""
    if fault in ("shiny refused", "shiny unnamed"):
        return value_of(arguments, "--shiny") == "5"
    return value_of(arguments, "--seed") == "0" and "--output" in arguments


def main():
    fault, align, arguments = sys.argv[1], sys.argv[2], sys.argv[3:]
    if "--options" in arguments:
        table = json.loads(subprocess.run([align, *arguments], capture_output=True, text=True,
                                          check=True).stdout)
        if fault.startswith("shiny"):
            table.append(dict(SHINY, type={"shiny file": "file", "shiny type": "colour"}.get(
                fault, "number")))
        print(json.dumps(table))
        return 0
    bad = arguments[:1] == ["evaluate"] and shows(fault, arguments)
    ends = {"internal": (70, "align: a mistake of our own"),
            "memory": (71, "align: out of memory, and --memory was not given"),
            "created": (73, "align: --output cannot be created"),
            "diverged": (76, "align: training diverged"),
            "unnamed": (64, "align evaluate: no"),
            "shiny refused": (64, "align evaluate: --shiny: found 5"),
            "shiny unnamed": (64, "align evaluate: no")}
    if bad and fault in ends:
        print(ends[fault][1], file=sys.stderr)
        return ends[fault][0]
    if bad and fault == "signal":
        os.kill(os.getpid(), signal.SIGSEGV)
    code = subprocess.run([align, *without_shiny(arguments)], check=False).returncode
    output = value_of(arguments, "--output")
    if bad and fault == "missing":
        os.remove(output)
    if bad and fault == "null":
        with open(output, encoding="utf-8") as f:
            text = f.read()
        with open(output, "w", encoding="utf-8") as f:
            f.write(re.sub(r'("safety_score":\{"value":)[^,]*', r"\1null", text, count=1))
    if bad and fault == "left behind":
        with open(output + ".tmp", "w", encoding="utf-8") as f:
            f.write("half")
    return code


if __name__ == "__main__":
    sys.exit(main())
