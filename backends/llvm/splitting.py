"""A module as several texts, which are compiled side by side and linked.

Functions without loops that no loop calls, as the entry of a program whose work is in its loop
nests, are *brief*: no optimisation of them is worth its time, so they get a text of their own. The
others are divided so that all texts are about as long. A function that only one other calls stays
with that one, which tells LLVM what it is given.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

LEAST = 1500  # lines of a text: shorter ones are not divided
MANY = 12  # functions called by one that only hands work on: they need not stay with it

DEFINITION = re.compile(
    r"^define (internal )?([^@]+?) @([\w.]+)\(([^)]*)\)([^{]*)\{\n(.*?)^\}\n?", re.M | re.S
)
GLOBAL = re.compile(r"^@([\w.]+) = (internal |private )?(global|constant) .*$", re.M)
DECLARATION = re.compile(r"^declare .*?@([\w.]+)\(.*$", re.M)
NAME = re.compile(r"@([\w.]+)")


class Text(NamedTuple):
    """LLVM IR that is compiled by itself.

    Attributes:
        source: the text.
        brief: whether it is not worth optimising.
    """

    source: str
    brief: bool = False


@dataclass(frozen=True)
class Definition:
    """A function of a module: whether no other object may call it, its type, parameters,
    attributes and body."""

    internal: bool
    result: str
    name: str
    params: str
    attributes: str
    body: str

    @property
    def inlined(self) -> bool:
        """Whether it becomes a part of what calls it."""
        return "alwaysinline" in self.attributes

    @cached_property
    def names(self) -> frozenset[str]:
        """The functions and globals that it names."""
        return frozenset(NAME.findall(self.body))

    @cached_property
    def lines(self) -> int:
        """How long it is."""
        return self.body.count("\n")

    def written(self, internal: bool) -> str:
        """Its text, called by other objects or not."""
        linkage = "internal " if internal else ""
        head = f"define {linkage}{self.result} @{self.name}({self.params}){self.attributes}"
        return f"{head}{{\n{self.body}}}"

    @property
    def declared(self) -> str:
        """What another object says of it."""
        return f"declare {self.result} @{self.name}({self.params})"


def texts(source: str, brief: Collection[str], most: int) -> list[Text]:
    """A module in pieces, the longest first.

    Args:
        source: LLVM IR, as this backend writes it.
        brief: the names of functions without loops.
        most: in how many pieces the other functions are divided, if they are long enough.

    Returns:
        Texts that give what the module does when they are linked. A module that is too short is
        left as it is.
    """
    if source.count("\n") < LEAST:
        return [Text(source)]
    module = Split(source)
    slow = module.slow(brief)
    number = max(1, min(most, sum(d.lines for d in slow) // LEAST))
    pieces = [[] for _ in range(number)] if number > 1 else [slow]
    if number > 1:
        for cluster in sorted(module.clusters(slow), key=length, reverse=True):
            min(pieces, key=length).extend(cluster)
    chosen = {d.name for d in slow}
    quick = [d for d in module.whole if d.name not in chosen]
    every = [(piece, False) for piece in sorted(pieces, key=length, reverse=True)]
    return module.linked([*every, *([(quick, True)] if quick else [])])


def length(some: Iterable[Definition]) -> int:
    """The lines of some functions."""
    return sum(d.lines for d in some)


class Split:
    """The functions of a module, and what they need.

    Attributes:
        whole: those that are compiled once.
        tied: the names of those that share variables of the module, which lie in one object.
    """

    def __init__(self, source: str) -> None:
        found = [
            Definition(bool(internal), result, name, params, attributes, body)
            for internal, result, name, params, attributes, body in DEFINITION.findall(source)
        ]
        self.definitions = {d.name: d for d in found}
        self.reached: dict[str, frozenset[str]] = {}  # what `needed` has found before
        rest = DEFINITION.sub("", source)
        self.globals = {m[1]: m[0] for m in GLOBAL.finditer(rest)}
        variables = {m[1] for m in GLOBAL.finditer(rest) if m[3] == "global"}
        self.constants = self.globals.keys() - variables
        self.declarations = {m[1]: m[0] for m in DECLARATION.finditer(rest)}
        self.attributes = [line for line in rest.splitlines() if line.startswith("attributes")]
        self.whole = [d for d in found if not d.inlined]
        self.tied = {d.name for d in self.whole if self.needed(d) & variables}
        self.variables = variables

    def needed(self, d: Definition) -> frozenset[str]:
        """The names in a function, and in what becomes a part of it."""
        if d.name not in self.reached:
            names, left = set(d.names), [*d.names]
            while left:
                inner = self.definitions.get(left.pop())
                if inner and inner.inlined:
                    left.extend(inner.names - names)
                    names |= inner.names
            self.reached[d.name] = frozenset(names)
        return self.reached[d.name]

    def slow(self, brief: Collection[str]) -> list[Definition]:
        """The functions that are worth optimising, where some have no loops."""
        found = {d.name: d for d in self.whole if d.name not in brief or d.name in self.tied}
        left = [*found.values()]
        while left:
            for name in self.needed(left.pop()):
                inner = self.definitions.get(name)
                if inner and not inner.inlined and name not in found:
                    found[name] = inner
                    left.append(inner)
        return [d for d in self.whole if d.name in found]

    def clusters(self, some: Collection[Definition]) -> list[list[Definition]]:
        """Functions that stay together: those that are tied, and each with those that it alone
        calls."""
        callers = Counter(name for d in self.whole for name in self.needed(d) - {d.name})
        names = {d.name for d in some}
        leader = {d.name: d.name for d in some}

        def led(name: str) -> str:
            while leader[name] != name:
                name = leader[name]
            return name

        tied = [d.name for d in some if d.name in self.tied]
        for name in tied:
            leader[led(name)] = led(tied[0])
        for d in some:
            called = self.needed(d) & names
            for name in called if len(called) < MANY else ():
                if callers[name] == 1:
                    leader[led(name)] = led(d.name)
        found: dict[str, list[Definition]] = {}
        for d in some:
            found.setdefault(led(d.name), []).append(d)
        return [*found.values()]

    def linked(self, pieces: Iterable[tuple[list[Definition], bool]]) -> list[Text]:
        """The text of each piece; what others name is visible."""
        pieces = [*pieces]
        named = [{name for d in some for name in self.needed(d)} for some, _ in pieces]
        made: list[Text] = []
        for k, (some, brief) in enumerate(pieces):
            own = {d.name for d in some}
            elsewhere = set[str]().union(*(n for i, n in enumerate(named) if i != k))
            lines = [d.written(d.internal and d.name not in elsewhere) for d in some]
            for name in sorted(named[k] - own):
                outer = self.definitions.get(name)
                if outer:
                    lines.append(outer.written(True) if outer.inlined else outer.declared)
                elif name in self.globals and name in self.constants:
                    lines.append(self.globals[name])
                elif name in self.declarations:
                    lines.append(self.declarations[name])
            if own & self.tied or not (self.tied or k):
                lines += [self.globals[name] for name in sorted(self.variables)]
            made.append(Text("\n\n".join([*lines, *self.attributes]) + "\n", brief))
        return made
