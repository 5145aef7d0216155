"""Values of options, and the rows in which every pair of two values stands at least once.

An option's values are those at the borders of what the table allows: the border itself where the
interval is closed, just inside where it is open, the default, each word. None means: not given.
A rule forbids combinations; no row breaks one, but for the rows that are made to be refused.
"""
import itertools
import re

FLAG = True  # the value of a flag that is given
LARGEST_COUNT = 2**64 - 1
NEAR = 1e-9  # distance to an open border, as a share of the interval


# ---- values --------------------------------------------------------------------------------------

def spelled(x):
    return repr(x) if isinstance(x, float) and x != int(x) else str(int(x))


def border(end, other, is_open, is_count):
    """A number at (or just inside) the border `end` of an interval that reaches to `other`."""
    if not is_open:
        return end
    if is_count:
        return end + 1 if other > end else end - 1
    width = abs(other - end) if abs(other) != float("inf") else 1
    return end + NEAR * width if other > end else end - NEAR * width


def interval_values(part, kind):
    low, high = part[1:-1].split(",")
    if kind == "size":
        return [low] if high == "inf" else [low, high]
    count, low = kind == "count", float(low)
    if high == "inf":
        return [spelled(border(low, float("inf"), part[0] == "(", count)),
                str(LARGEST_COUNT) if count else "1000000000"]
    high = float(high)
    inner = border(low, high, part[0] == "(", count)
    middle = low + 1 if count else (low + high) / 2
    values = [inner, middle if low < middle < high else inner,
              border(high, low, part[-1] == ")", count)]
    return [spelled(int(v) if count else v) for v in dict.fromkeys(values)]


def parts_of(option):
    """The words and the intervals that an option allows."""
    parts = re.findall(r"[\[(][^|]*|[^|]+", option["allowed"] or "")
    return [p for p in parts if p[0] not in "[("], [p for p in parts if p[0] in "[("]


def borders(option):
    """The values at the two ends of each interval."""
    kind, ends = option["type"], []
    for part in parts_of(option)[1]:
        values = interval_values(part, kind)
        ends += [values[0], values[-1]] if not part[1:-1].endswith(",inf") else values[:1]
    return ends


TYPES = ("flag", "file", "dir", "text", "texts", "count", "number", "size", "choice", "words",
         "numbers")


def values_by_type(option):
    """What an option takes by its type and range alone; None where only a fixture can say."""
    kind = option["type"]
    words, ranges = parts_of(option)
    if kind not in TYPES:
        return None
    if kind == "flag":
        return [FLAG]
    if kind in ("file", "dir"):
        return None
    if kind in ("text", "texts"):
        return words or ["a word"]
    if kind in ("words", "numbers") and len(words) > 1:
        words = words + [words[0] + "," + words[-1]]
    numbers = [v for r in ranges for v in interval_values(r, kind)]
    if not words and not ranges:
        numbers = {"count": ["0", "1", "2", str(LARGEST_COUNT)], "size": ["64M"],
                   }.get(kind, ["-1", "0", "1", "1000000"])
    default = option["default"]
    return list(dict.fromkeys(words + numbers + ([default] if default else [])))


# ---- rules ---------------------------------------------------------------------------------------

class Rule:
    """Forbids rows for which bad(row) holds; `options` are those that bad looks at. The refusal
    must name the options in `says`, with one of the exit codes; no row is made to break a rule
    without them (what it forbids is allowed, but would never end). `deciders`: those on which it
    hangs whether the others have a meaning; they get their values first."""

    def __init__(self, options, bad, says=None, codes=(64,), deciders=()):
        self.options = options.split()
        self.deciders = deciders
        self.bad = bad
        self.says = (options if says is None else says).split()
        self.codes = codes

    def broken(self, row):
        """None: not to be decided yet."""
        if any(o not in row for o in self.options):
            return None
        return bool(self.bad(row))

    def __str__(self):
        return "--" + " --".join(self.says)


# ---- rows ----------------------------------------------------------------------------------------

class Array:
    """factors: {option: [values]}; single: {(option, value)} that stand alone, not in pairs."""

    TRIES = 40  # quick ones, before a search; in the second half any value will do

    def __init__(self, factors, rules, rng, single=()):
        self.factors, self.rng = factors, rng
        self.usual = {o: [v for v in values if (o, v) not in single]
                      for o, values in factors.items()}
        self.rules = [r for r in rules if all(o in factors for o in r.options)]
        self.deciders = {o for r in self.rules for o in r.deciders}
        self.touching = {o: [r for r in self.rules if o in r.options] for o in factors}
        self.single = [(o, v) for o in factors for v in factors[o] if (o, v) in single]
        self.left = {(o, v): set() for o in factors for v in factors[o]}
        for a, b in itertools.combinations(factors, 2):
            for x in self.usual[a]:
                for y in self.usual[b]:
                    self.left[a, x].add((b, y))
                    self.left[b, y].add((a, x))
        self.pairs = sum(map(len, self.left.values())) // 2
        self.forbidden = []  # pairs

    def allowed(self, row, option):
        return not any(r.broken(row) for r in self.touching[option])

    def gains(self, row, option):
        """(pairs newly covered, value) for the values of an option that go with the row."""
        have, found = set(row.items()), []
        for value in self.usual[option]:
            row[option] = value
            if self.allowed(row, option):
                found.append((len(self.left[option, value] & have), value))
        row.pop(option, None)
        return found

    def complete(self, start):
        """A whole row around a few values, or None where the rules forbid them."""
        options = [o for o in self.factors if o not in start]
        if any(r.broken(start) for r in self.rules):
            return None
        for n in range(self.TRIES):
            row = dict(start)
            self.rng.shuffle(options)
            options.sort(key=lambda o: o not in self.deciders)
            for option in options:
                found = self.gains(row, option)
                if not found:
                    break
                most = max(g for g, _ in found) if n < self.TRIES / 2 else 0
                row[option] = self.rng.choice([v for g, v in found if g >= most])
            else:
                return row
        return self.search(start)

    def layers(self, start):
        """The options that rules tie to those of `start`; and those that they tie to these; ..."""
        near, known = list(start), set(start)
        while True:
            near = [o for o in self.factors if o not in known and
                    any(known & set(r.options) for r in self.touching[o])]
            known.update(near)
            if not near:
                yield [o for o in self.factors if o not in start]
                return
            yield [o for o in self.factors if o in known and o not in start]

    def search(self, start):
        """The same by trying everything: first near the start, where it is decided mostly."""
        row = None
        for options in self.layers(start):
            row = self.extend(dict(start), options)
            if row is None:
                return None
        return row

    def choices(self, row, option):
        """How many values of an option go with the row; many where no rule speaks of it."""
        if not self.touching[option]:
            return len(self.factors)
        count = 0
        for row[option] in self.usual[option]:
            count += self.allowed(row, option)
        del row[option]
        return count

    def extend(self, row, options):
        """The row with values for these options, too; the option with the fewest choices first."""
        if not options:
            return row
        option = min(options, key=lambda o: self.choices(row, o))
        for _, value in sorted(self.gains(row, option), key=lambda g: -g[0]):
            row[option] = value
            if self.extend(row, [o for o in options if o != option]):
                return row
            del row[option]
        return None

    def cover(self, row):
        for a, b in itertools.combinations(row.items(), 2):
            self.left[a].discard(b)
            self.left[b].discard(a)

    def rows(self):
        """Covers all pairs that the rules let stand together."""
        while True:
            first = max(self.left, key=lambda k: len(self.left[k]))
            if not self.left[first]:
                return
            second = min(self.left[first], key=repr)
            row = self.complete(dict([first, second]))
            if row is None:
                self.left[first].discard(second)
                self.left[second].discard(first)
                self.forbidden.append((first, second))
            else:
                self.cover(row)
                yield row

    def alone(self, times, dry):
        """Rows for the values that stand in no pairs; with --dry-run where dry(option, value)."""
        for option, value in self.single:
            start = {option: value}
            if dry(option, value):
                start["dry-run"] = FLAG
            for _ in range(times):
                row = self.complete(start)
                if row:
                    yield row

    def refused(self, most):
        """(rule, row): rows that break one rule each."""
        for rule in self.rules:
            if not rule.says:
                continue
            combinations = [dict(zip(rule.options, values)) for values in
                            itertools.product(*(self.factors[o] for o in rule.options))]
            broken = [c for c in combinations if rule.bad(c)]
            self.rng.shuffle(broken)
            made = 0
            for start in broken:
                held, rule.bad = rule.bad, lambda row: False
                row = self.complete(start)
                rule.bad = held
                if row:
                    made += 1
                    yield rule, row
                if made == most:
                    break


def uncovered(factors, rows, but=(), single=()):
    """The pairs of values that stand in no row, counted afresh; `but` need not."""
    seen = {frozenset(p) for row in rows for p in itertools.combinations(row.items(), 2)}
    seen |= {frozenset(p) for p in but}
    for a, b in itertools.combinations(factors, 2):
        for x in factors[a]:
            for y in factors[b]:
                if (a, x) not in single and (b, y) not in single and \
                        frozenset([(a, x), (b, y)]) not in seen:
                    yield (a, x), (b, y)
