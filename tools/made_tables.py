"""Tables that a script makes in the upper part of a C file; below them stand the functions that
read them, written by hand, which stay."""
import os

END = "/* clang-format on */\n"  # the first line behind the tables


def settle(name, tables, check):
    """Writes the tables, or compares them; an exit code."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", name)
    with open(path, encoding="utf-8") as f:
        old = f.read()
    new = tables + old[old.index(END):]
    if not check:
        with open(path, "w", encoding="utf-8") as f:
            f.write(new)
        return 0
    print(f"{name} {'agrees' if old == new else 'differs: make it again'}")
    print(f"{int(old == new)} passed, {int(old != new)} failed")
    return int(old != new)
