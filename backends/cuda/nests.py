"""`Nest`: what a loop nest with reductions computes in which pass over its rows (`staging.fusion`).

A nest works on *full* values, an element for each column of each row, and on *row* values, an
element a row. A reduction along rows gives a row value, and what reads that waits for the next
pass; a reduction along columns gives a value that is only a result. What a pass reads or computes
and a later pass wants again is *kept*, where there is room: each element is then read once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple, cast

from staging.fusion import repeats
from staging.ir import Op, Value
from staging.memory import is_along, passes_of
from staging.ops import OPS

COSTLY = frozenset((
    "exp", "log", "log1p", "expm1", "sin", "cos", "tanh", "sqrt", "erf", "pow", "atan2", "div",
    "rem",
))  # fmt: skip
READING = frozenset(("transpose", "slice", "view"))  # views whose every element is another one


class Kept(NamedTuple):
    """From which pass and up to which one a value is kept."""

    first: int
    last: int


class Nest:
    """The analysis of a `call` of kind "loop".

    Attributes:
        rows, columns: what it goes over.
        outside: for the parameters and results of its block, the operands and results.
        ops: what its results come from.
        along: the reductions of rows.
        down: those of columns.
    """

    def __init__(self, op: Op) -> None:
        (self.block,) = op.blocks
        self.rows, self.columns = (cast(int, op.attributes[k]) for k in ("rows", "columns"))
        self.outside = dict(zip(self.block.params, op.inputs, strict=True))
        self.outside |= zip(self.block.results, op.results, strict=True)
        wanted = set(self.block.results)
        self.ops: list[Op] = []
        for inner in reversed(self.block.ops):
            if not wanted.isdisjoint(inner.results):
                wanted.update(inner.inputs)
                self.ops.insert(0, inner)
        self.makers = {v: inner for inner in self.ops for v in inner.results}
        self.passes = passes_of(self.block)
        self.worth: dict[Value, bool] = {}
        self.along = [o for o in self.ops if o.name == "reduce" and is_along(o)]
        self.down = [o for o in self.ops if o.name == "reduce" and not is_along(o)]

    @property
    def count(self) -> int:
        """How many passes there are."""
        return 1 + max((self.passes[v] for v in self.block.results), default=0)

    @property
    def reduces(self) -> bool:
        """Whether anything is reduced."""
        return bool(self.along or self.down)

    @property
    def size(self) -> int:
        """The elements of full values."""
        return self.rows * self.columns

    def is_row(self, value: Value) -> bool:
        """Whether a value has one element a row."""
        return value.type.size == self.rows and self.columns > 1 and not self.is_column(value)

    def is_column(self, value: Value) -> bool:
        """Whether a value is what columns come to."""
        return any(value is op.results[0] for op in self.down)

    # What there is to do in a pass.

    def stored(self, number: int) -> list[Value]:
        """The full results that a pass can write."""
        return [
            v for v in self.block.results
            if self.passes[v] == number and not self.is_row(v) and not self.is_column(v)
        ]  # fmt: skip

    def along_in(self, number: int) -> list[Op]:
        """The reductions of rows that a pass does."""
        return [op for op in self.along if self.passes[op.results[0]] == number + 1]

    def down_in(self, number: int) -> list[Op]:
        """The reductions of columns that a pass does."""
        return [op for op in self.down if self.passes[op.results[0]] == number]

    def wanted(self, number: int) -> list[Value]:
        """The full values that a pass computes."""
        reduced = [op.inputs[0] for op in (*self.along_in(number), *self.down_in(number))]
        return [*self.stored(number), *reduced]

    def above(self, reductions: Sequence[Op]) -> list[Op]:
        """The reductions of rows that others are computed from."""
        wanted = {v for op in reductions for v in op.inputs}
        for op in reversed(self.ops):
            if not wanted.isdisjoint(op.results):
                wanted.update(op.inputs)
        return [op for op in self.along if op.results[0] in wanted]

    @property
    def row_results(self) -> list[Value]:
        """The results that have one element a row."""
        return [v for v in self.block.results if self.is_row(v)]

    def row_values(self, number: int) -> list[Value]:
        """The row values that full ones are computed from, as far as they are known in a pass."""
        spread = [op for op in self.ops if op.name == "broadcast" and self.is_along_rows(op)]
        found = [self.bare(v) for op in spread for v in op.inputs if self.passes[v] <= number]
        return [v for v in dict.fromkeys(found) if not self.is_constant(v)]

    def is_along_rows(self, op: Op) -> bool:
        """Whether a broadcast gives each column of a row the same."""
        if self.rows == 1:
            return op.inputs[0].type.size == 1
        return repeats(op) == [(self.rows, False), (self.columns, True)]

    # What is kept.

    def bare(self, value: Value) -> Value:
        """A value without the operations around it that keep its elements in their order."""
        while (op := self.makers.get(value)) is not None and keeps_order(op):
            (value,) = op.inputs
        return value

    def is_constant(self, value: Value) -> bool:
        """Whether a value is a constant."""
        op = self.makers.get(value)
        return op is not None and op.name == "constant"

    @cached_property
    def kept(self) -> dict[Value, Kept]:
        """What several passes want, but for what is cheap to compute from other such."""
        first: dict[Value, int] = {}
        last: dict[Value, int] = {}

        def visit(value: Value, number: int, seen: set[Value]) -> None:
            value = self.bare(value)
            if value in seen:
                return
            seen.add(value)
            if first.setdefault(value, number) < number and self.is_worth(value):
                last[value] = number
                return
            op = self.makers.get(value)
            if op is not None and OPS[op.name].elementwise:
                for operand in op.inputs:
                    visit(operand, number, seen)

        for number in range(self.count):
            seen: set[Value] = set()
            for value in self.wanted(number):
                visit(value, number, seen)
        kept = {v: Kept(first[v], n) for v, n in last.items()}
        for value in list(kept):
            if self.is_cheap(value, kept):
                del kept[value]
        return kept

    def is_worth(self, value: Value) -> bool:
        """Whether a full value comes from what is read element by element, or is costly."""
        value = self.bare(value)
        if value not in self.worth:
            op = self.makers.get(value)
            self.worth[value] = (
                op is None
                or op.name in READING
                or op.name in COSTLY
                or (OPS[op.name].elementwise and any(map(self.is_worth, op.inputs)))
            )
        return self.worth[value]

    def is_cheap(self, value: Value, kept: dict[Value, Kept]) -> bool:
        """Whether what a value is computed from is kept as long as it would be, or costs nothing,
        and the operation little."""
        op = self.makers.get(value)
        if op is None or op.name in COSTLY or not OPS[op.name].elementwise:
            return False
        operands = [self.bare(v) for v in op.inputs]
        return all(
            kept[v].last >= kept[value].last if v in kept else not self.is_worth(v)
            for v in operands
        )

    def live(self, words: dict[Value, int]) -> int:
        """The words of an element that are kept at one time, at most."""
        return max(
            sum(words[v] for v, k in self.kept.items() if k.first <= number <= k.last)
            for number in range(self.count)
        )

    def sources(self) -> list[Value]:
        """The operands and results that have an element for each column of each row."""
        values = (*self.block.params, *self.block.results)
        return [v for v in values if v.type.size == self.size]

    def without(self, made: Sequence[Op]) -> list[Op]:
        """The operations but for some that are done already."""
        return [op for op in self.ops if op not in made]


def keeps_order(op: Op) -> bool:
    """Whether an operation gives its operand's elements in their order."""
    if op.name == "transpose":
        shape, axes = op.inputs[0].type.shape, cast("tuple[int, ...]", op.attributes["axes"])
        long = [axis for axis in axes if shape[axis] > 1]
        return long == sorted(long)
    return op.name == "reshape" or (
        op.name == "broadcast" and op.inputs[0].type.size == op.results[0].type.size
    )
