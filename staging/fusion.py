"""Fusion: elementwise operations, views and reductions that fit one loop nest become one `call`.

A group works on *full* values, of ``rows * columns`` elements, and on *row* values, one element a
row. An operation joins a group when it reads the group's values place by place, or a row value
along its row. Reducing full values along their rows gives row values, which the group may go on
with: a softmax is one group. Reducing along columns gives a value that the group only returns.

Views (broadcast, reshape, transpose, slice) and constants cost nothing where they are read, so each
group that reads one gets its own copy. The groups stand in an order, and an operation only joins a
group that comes after all that it reads; so the result is in order by construction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from staging.ir import Attributes, Block, Op, Program, Value
from staging.ops import OPS
from staging.passes.rewrite import Nested, each_block

FREE = frozenset(("constant", "iota", "broadcast", "reshape", "transpose", "slice", "view"))
LARGEST = 64  # operations of a group: what one loop's registers can still use
NEAR = 8  # how many of the latest groups an operation may join
FAR = 256  # over how many groups one may be moved into what reads it


@dataclass(slots=True)
class Group:
    """Operations of one loop nest; or, where ``size`` is 0, one that stands alone."""

    ops: list[Op]
    size: int = 0
    rows: int = 0  # 0: not divided into rows yet
    values: dict[Value, str] = field(default_factory=dict[Value, str])
    sources: set[Value] = field(default_factory=set[Value])


def fuse(program: Program) -> Program:
    """The program with every loop nest that its operations allow as one `call` of kind "loop"."""
    return program.with_block(
        each_block(program.block, lambda b, inner: _Fusion(b, inner).result())
    )


class _Fusion:
    """The groups of one block while they are found."""

    def __init__(self, block: Block, nested: Nested) -> None:
        self.block, self.nested = block, nested
        self.views: dict[Value, Op] = {}  # every view and constant
        self.free: dict[Value, Op] = {}  # those that lie nowhere yet
        self.groups: list[Group] = []
        self.position: dict[Value, int] = dict.fromkeys(block.params, -1)
        for op in block.ops:
            self.place(op)
        for value in block.results:
            self.materialise(value)

    def place(self, op: Op) -> None:
        """Put an operation into a group that can take it, or into one of its own."""
        if op.name in FREE:
            self.views[op.results[0]] = self.free[op.results[0]] = op
            return
        if not OPS[op.name].elementwise and op.name != "reduce":
            for value in op.inputs:
                self.materialise(value)
            if op.blocks and "kind" not in op.attributes:
                blocks = tuple(map(self.nested, op.blocks))
                op = Op(op.name, op.inputs, op.results, op.attributes, blocks, op.place)
            self.append(Group([op]))
            return
        if op.results[0].type.is_table or 0 in (op.inputs[0].type.size, op.results[0].type.size):
            for value in op.inputs:
                self.materialise(value)
            self.append(Group([op]))
            return
        sources = {s for v in op.inputs for s in self.sources(v)}
        large = {s for s in sources if s.type.size > 1}
        latest = max((self.position[s] for s in sources), default=-1)
        first = max(latest + 1, len(self.groups) - NEAR, 0)
        for number in (*range(max(latest, 0), latest + 1), *range(first, len(self.groups))):
            group = self.groups[number]
            related = number == latest or not large.isdisjoint(group.sources)
            if related and self.join(group, op):
                group.sources |= sources
                self.position[op.results[0]] = number
                self.merge_sources(sources, number)
                return
        group = Group([], op.inputs[0].type.size)
        if not self.join(group, op):  # an axis between two others is reduced: alone
            group = Group([op])
        self.append(group)
        self.merge_sources(sources, len(self.groups) - 1)

    def append(self, group: Group) -> None:
        self.groups.append(group)
        for op in group.ops:
            self.position |= dict.fromkeys(op.results, len(self.groups) - 1)
            group.sources |= {s for v in op.inputs for s in self.sources(v)}

    def merge_sources(self, sources: set[Value], late: int) -> None:
        """Move the groups that make some values into the one that reads them, where they fit."""
        for early in sorted({self.position[source] for source in sources}):
            self.merge(early, late)

    def merge(self, early: int, late: int) -> None:
        """Move a group into a later one that reads it, if they fit and none between reads it."""
        if not 0 <= early < late <= early + FAR:
            return
        a, b = self.groups[early], self.groups[late]
        if self.fit(a, b) and all(
            g.sources.isdisjoint(a.values) for g in self.groups[early + 1 : late]
        ):
            rows = a.rows or b.rows
            self.groups[late] = Group(
                a.ops + b.ops, a.size, rows, a.values | b.values, a.sources | b.sources
            )
            self.groups[early] = Group([])
            self.position |= dict.fromkeys(a.values, late)

    def fit(self, a: Group, b: Group) -> bool:
        """Whether the second group reads the first place by place, in one loop nest."""
        if not a.size or a.size != b.size or len(a.ops) + len(b.ops) > LARGEST:
            return False
        if a.rows and b.rows and a.rows != b.rows:
            return False
        return all(
            self.readable(
                a.values,
                v,
                "row" if op.name != "reduce" and b.values[op.results[0]] == "row" else "full",
                a.rows or b.rows,
                a.size,
            )
            for op in b.ops
            for v in op.inputs
        )

    def sources(self, value: Value) -> set[Value]:
        """What a value is a view of; nothing for a constant."""
        op = self.free.get(value)
        if op is None:
            return {value}
        return {s for v in op.inputs for s in self.sources(v)}

    def join(self, group: Group, op: Op) -> bool:
        """Take an operation into a group, if it fits."""
        if not group.size or len(group.ops) >= LARGEST:
            return False
        kind, rows, size = (
            fit_reduce(op) if op.name == "reduce" else ("full", 0, op.results[0].type.size)
        )
        if op.name != "reduce" and size != group.size:
            if size == group.rows:
                kind, rows, size = "row", group.rows, group.size
            elif not group.rows and size % group.size == 0 and group.ops:
                rows = group.size  # what the group has are row values of a larger one
            else:
                return False
        elif size != group.size or not kind or (rows and group.rows and rows != group.rows):
            return False
        values = group.values
        if size != group.size:
            values = {v: "row" if k == "full" else k for v, k in values.items()}
        wanted = "row" if kind == "row" and op.name != "reduce" else "full"
        rows = rows or group.rows
        if not all(self.readable(values, v, wanted, rows, size) for v in op.inputs):
            return False
        group.rows, group.size, group.values = rows, size, values
        group.ops.append(op)
        values[op.results[0]] = kind
        return True

    def readable(
        self, values: dict[Value, str], value: Value, wanted: str, rows: int, size: int
    ) -> bool:
        """Whether an operand is read place by place, as far as it comes from the group."""
        if self.sources(value).isdisjoint(values):
            return True
        while value in self.free:
            op = self.free[value]
            if op.name == "broadcast" and op.results[0].type.size != op.inputs[0].type.size:
                along_rows = repeats(op) == [(rows, False), (size // rows if rows else 0, True)]
                if wanted != "full" or not (along_rows or (rows == 1 and is_scalar(op))):
                    return False
                wanted = "row"
            elif op.name not in ("reshape", "broadcast"):
                return False
            (value,) = op.inputs
        return values.get(value) == wanted

    def materialise(self, value: Value) -> None:
        """Have a view computed on its own, because what reads it wants it in memory."""
        op = self.free.get(value)
        if op is None or value in self.position:
            return
        if op.name == "reshape":  # costs nothing there either
            self.materialise(op.inputs[0])
        self.append(Group([op]))
        del self.free[value]

    def result(self) -> Block:
        """The block with a `call` for each group of several operations."""
        reading: dict[Value, set[int]] = {v: {len(self.groups)} for v in self.block.results}
        members = [self.closed(number) for number in range(len(self.groups))]
        for number, ops in enumerate(members):
            for op in ops:
                for value in op.inputs:
                    reading.setdefault(value, set()).add(number)
        written: list[Op] = []
        for number, (group, ops) in enumerate(zip(self.groups, members, strict=True)):
            if len(ops) <= 1:
                written += ops
                continue
            made = [v for op in group.ops for v in op.results]
            kept = [v for v in made if reading.get(v, set()) - {number}]
            kept = kept or made[-1:]
            rows, size = group.rows or 1, group.size or kept[0].type.size
            attributes = {"kind": "loop", "rows": rows, "columns": size // rows}
            written.append(outlined(ops, kept, attributes, group.ops[-1].place))
        return Block(self.block.params, tuple(written), self.block.results)

    def closed(self, number: int) -> list[Op]:
        """A group's operations, with the views and constants that they read where those lie nowhere
        before the group."""
        ops: list[Op] = []
        seen: set[Value] = set()

        def visit(value: Value) -> None:
            early = self.position.get(value, number) < number
            if value in seen or early or value not in self.views:
                return
            seen.add(value)
            op = self.views[value]
            for v in op.inputs:
                visit(v)
            ops.append(op)

        for op in self.groups[number].ops:
            for value in op.inputs:
                visit(value)
            ops.append(op)
        return ops


def outlined(ops: Sequence[Op], kept: Sequence[Value], attributes: Attributes, place: str) -> Op:
    """The `call` of a block that holds copies of some operations."""
    inside: dict[Value, Value] = {}
    made = {v for op in ops for v in op.results}
    inputs = tuple(dict.fromkeys(v for op in ops for v in op.inputs if v not in made))
    inside |= {v: Value(v.type, v.hint) for v in inputs}
    copies: list[Op] = []
    for op in ops:
        inside |= {v: Value(v.type, v.hint) for v in op.results}
        taken, given = (tuple(inside[v] for v in vs) for vs in (op.inputs, op.results))
        copies.append(Op(op.name, taken, given, op.attributes, (), op.place))
    params, results = (tuple(inside[v] for v in vs) for vs in (inputs, kept))
    block = Block(params, tuple(copies), results)
    return Op("call", inputs, tuple(kept), attributes, (block,), place)


def fit_reduce(op: Op) -> tuple[str, int, int]:
    """What a reduction gives ("row", "column" or, in no loop of two levels, ""), into how many rows
    it divides its input, and the size of that."""
    x = op.inputs[0].type
    axes = cast("tuple[int, ...]", op.attributes["axes"])
    merged = runs([(n, i in axes) for i, n in enumerate(x.shape)])
    count = {kept: [n for n, reduced in merged if reduced is not kept] for kept in (True, False)}
    if x.size == 0 or not merged or len(merged) > 2 or not count[False]:
        return "", 0, x.size
    if merged[-1][1]:
        return "row", x.size // merged[-1][0], x.size
    return "column", merged[0][0], x.size


def repeats(op: Op) -> list[tuple[int, bool]]:
    """The axes of a broadcast's result, neighbours merged: lengths, and whether they repeat."""
    x, shape = op.inputs[0].type.shape, op.results[0].type.shape
    lead = len(shape) - len(x)
    return runs([(n, i < lead or x[i - lead] != n) for i, n in enumerate(shape)])


def runs(axes: Sequence[tuple[int, bool]]) -> list[tuple[int, bool]]:
    """Axes of length 1 dropped, and neighbours of one kind merged."""
    merged: list[tuple[int, bool]] = []
    for n, kind in axes:
        if n == 1:
            continue
        if merged and merged[-1][1] == kind:
            merged[-1] = (merged[-1][0] * n, kind)
        else:
            merged.append((n, kind))
    return merged


def is_scalar(op: Op) -> bool:
    """Whether the input of a broadcast has one element."""
    return op.inputs[0].type.size == 1
