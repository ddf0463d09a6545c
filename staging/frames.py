"""What loops and calls keep for the way back: found in a program, not asserted of it.

A frame is what a step of a loop adds to results that a backward half reads later: the elements of
stacked results, or of lists. Where the step itself holds a loop whose frames outlive it, these are
elements as well: arrays of one element a step, or lists. What a call of a recursion keeps is what
it packs into a node, or its row in the tables of an agenda.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from staging.agenda import Agenda
from staging.ir import Block, Op, Program, Type, Value
from staging.table import quantity

BACKWARD = " (backward)"  # at the end of the place of a backward half
PASSED_ON = frozenset(("reshape", "transpose", "slice", "broadcast", "cast", "concat"))


@dataclass(frozen=True)
class Frames:
    """What one loop, or one recursion, keeps.

    Attributes:
        name: ``"scan"``, ``"while"``, ``"recurse"`` or ``"agenda"``.
        place: the user's line.
        steps: how many steps the loop has; None if that is known only when it has ended.
        values: the types of what one step, or one call, keeps; of a recursion, that keeps most.
    """

    name: str
    place: str
    steps: int | None
    values: tuple[Type, ...]

    @property
    def bytes(self) -> int:
        """The bytes of one step or call; of a list in it, those of its handle."""
        return sum(t.bytes for t in self.values)

    @property
    def total(self) -> int | None:
        """The bytes of all steps, where their number is known."""
        return None if self.steps is None else self.steps * self.bytes

    def __str__(self) -> str:
        what = "call" if self.name in RECURSION else "step"
        shown = ", ".join(map(str, self.values)) or "nothing"
        line = f"{self.name} at {self.place.rsplit('/', 1)[-1]} keeps "
        line += f"{quantity(self.bytes, 'B')} a {what}: {shown}"
        if self.total is None:
            return line
        return f"{line}; {quantity(self.total, 'B')} in {self.steps} steps"


def frames_of(program: Program) -> tuple[Frames, ...]:
    """What each loop and recursion of a program keeps, in the order of the program; those that keep
    nothing are left out.

    Example:
        >>> from staging.text import parse_program
        >>> for one in frames_of(parse_program('''program @p(%x: float64[], %n: int64[3]) {
        ...   %y, %s = scan(%x, %n) {carried=1, captured=0, length=3, reverse=false}
        ...   block(%c: float64[], %k: int64[]) {
        ...     %d = sin(%c): float64[]
        ...     return (%d, %c)
        ...   }: float64[], float64[3] @ 'model.py:2'
        ...   %z = scan(%y, %s) {carried=1, captured=0, length=3, reverse=true}
        ...   block(%a: float64[], %b: float64[]) {
        ...     %e = mul(%a, %b): float64[]
        ...     return (%e)
        ...   }: float64[] @ 'model.py:2 (backward)'
        ...   return (%z)
        ... }''')):
        ...     print(one)
        scan at model.py:2 keeps 8 B a step: float64[]; 24 B in 3 steps
    """
    found: dict[Op, Frames] = {}
    _Walk(found).block(program.block, frozenset())
    return tuple(found.values())


class _Walk:
    """A walk over the blocks of a program; a block that several operations hold is looked at for
    each of them."""

    def __init__(self, found: dict[Op, Frames]) -> None:
        self.found = found

    def block(self, block: Block, kept: frozenset[int]) -> None:
        """Find what loops keep in a block, of whose results those at ``kept`` are read later."""
        read = self.read_later(block, kept)
        for op in block.ops:
            later = frozenset(k for k, v in enumerate(op.results) if v in read)
            if op.name in ("scan", "while"):
                self.loop(op, later)
            elif op.name in RECURSION:
                self.recursion(op)
            elif op.name in ("call", "switch") and "kind" not in op.attributes:
                for inner in op.blocks:
                    self.block(inner, later)

    def read_later(self, block: Block, kept: frozenset[int]) -> set[Value]:
        """The values of a block that a backward half in it reads, or one behind it."""
        read = {block.results[k] for k in kept}
        for op in reversed(block.ops):
            passes_on = op.name in PASSED_ON and not read.isdisjoint(op.results)
            if op.place.endswith(BACKWARD) or passes_on:
                read.update(op.inputs)
        return read

    def loop(self, op: Op, later: frozenset[int]) -> None:
        first = 1 if op.name == "while" else 0  # the number of steps, which is no part of the block
        behind = first + cast(int, op.attributes["carried"])
        body = op.blocks[-1]
        stacked = frozenset(k - first for k in later if k >= behind)
        if stacked and op not in self.found:
            length = cast(int, op.attributes.get("length", -1))
            values = dict.fromkeys(body.results[k] for k in sorted(stacked))
            self.found[op] = Frames(
                op.name, op.place, length if length >= 0 else None, tuple(v.type for v in values)
            )
        for inner in op.blocks:
            self.block(inner, stacked if inner is body else frozenset())

    def recursion(self, op: Op) -> None:
        kept = RECURSION[op.name](op)
        if kept and op not in self.found:
            most = max(kept, key=lambda types: sum(t.bytes for t in types))
            self.found[op] = Frames(op.name, op.place, None, most)


def packed(op: Op) -> list[tuple[Type, ...]]:
    """What the paths of a `recurse` pack."""
    packs = [inner for block in op.blocks for inner in block.ops if inner.name == "pack"]
    return [tuple(v.type for v in pack.inputs) for pack in packs]


def columns(op: Op) -> list[tuple[Type, ...]]:
    """The columns of the tables of an `agenda`, of which each call has a row."""
    agenda = Agenda.of(op.attributes)
    return [tuple(agenda.columns(p)) for p in range(len(agenda.paths))]


RECURSION: dict[str, Callable[[Op], list[tuple[Type, ...]]]] = {
    "recurse": packed,
    "agenda": columns,
}
