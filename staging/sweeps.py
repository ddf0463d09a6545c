"""What the two operations of an agenda (`staging.agenda`) mean, on NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from staging.agenda import CHAIN, FEW, Agenda, adjoints_of
from staging.failures import failure
from staging.interpret import Array, numpy_dtype, run_block, run_with_own_lengths
from staging.ir import Op


class Activation(NamedTuple):
    """A call: which path it takes, for which root, the calls inside, its level, and its row."""

    path: int
    root: int
    inside: tuple[int, ...]
    level: int
    row: int


class Tables(NamedTuple):
    """What a handle stands for.

    Attributes:
        calls: all of them, the roots first.
        members: for each path its calls, in the order of their levels.
        columns: for each path its columns; behind the rows of calls stand those that fill up.
    """

    calls: list[Activation]
    members: list[list[int]]
    columns: list[list[Array]]


def run_agenda(op: Op, arrays: list[Any]) -> list[Any]:
    """The results of the roots, stacked, and the tables."""
    agenda = Agenda.of(op.attributes)
    count = agenda.args[agenda.entry]
    given = agenda.captured(arrays[count:])
    captures = [some[0] for some in given]
    tables = _expanded(op, agenda, arrays[:count], given)
    sweep = _Sweep(agenda, op, tables.columns, tables, captures, [])
    sweep.fill()
    sweep.everywhere(0)
    for level in range(1 + max((a.level for a in tables.calls), default=0)):
        sweep.level(level, gather=True)
    sweep.fill()
    sweep.everywhere(2)
    sweep.fill()
    roots = tables.calls[: agenda.roots]
    ends = [
        np.stack([tables.columns[a.path][agenda.paths[a.path].ends[k]][a.row] for a in roots])
        for k in range(len(op.results) - 1)
    ]
    return [*ends, tables]


class _Waiting(NamedTuple):
    """A call that control has not seen yet: of which function, for which root, with which
    arguments, inside which other call."""

    function: int
    root: int
    args: list[Array]
    outside: int


def _repeats(queue: list[_Waiting], i: int) -> bool:
    """Whether a call is inside another one with the same arguments: then there is no end."""
    here, j = queue[i], queue[i].outside
    while j >= 0:
        there = queue[j]
        if there.function == here.function and all(
            np.array_equal(x, y) for x, y in zip(there.args, here.args, strict=True)
        ):
            return True
        j = there.outside
    return False


def _expanded(
    op: Op, agenda: Agenda, args: Sequence[Array], captures: Sequence[Sequence[Array]]
) -> Tables:
    """All calls, and tables that hold what control gives."""
    queue = [
        _Waiting(agenda.entry, root, [x[root] for x in args], -1) for root in range(agenda.roots)
    ]
    found: list[tuple[int, int, tuple[int, ...], list[Array]]] = []
    for i, (function, root, given, _) in enumerate(queue):  # which grows meanwhile
        own = [some[root if len(some) > 1 else 0] for some in captures]
        path, *values = run_with_own_lengths(op.blocks[function], [*given, *own])
        calls = agenda.ways[int(path)].calls
        inside = tuple(range(len(queue), len(queue) + len(calls)))
        queue += (_Waiting(c.function, root, [values[k] for k in c.args], i) for c in calls)
        found.append((int(path), root, inside, values))
        if i >= FEW and i & (i - 1) == 0 and _repeats(queue, i):
            raise failure(op)
    levels = [0] * len(found)
    for i, (_, _, inside, _) in reversed(list(enumerate(found))):
        levels[i] = 1 + max((levels[j] for j in inside), default=-1)
    members = [
        sorted((i for i, f in enumerate(found) if f[0] == p), key=lambda i: levels[i])
        for p in range(len(agenda.paths))
    ]
    rows = {i: row for some in members for row, i in enumerate(some)}
    calls = [Activation(p, root, inside, levels[i], rows[i])
             for i, (p, root, inside, _) in enumerate(found)]  # fmt: skip
    columns = [_empty(agenda, p, len(some)) for p, some in enumerate(members)]
    for p, some in enumerate(members):
        for column, position in agenda.ways[p].given:
            for row, i in enumerate(some):
                columns[p][column][row] = found[i][3][position]
    return Tables(calls, members, columns)


def _empty(agenda: Agenda, number: int, count: int) -> list[Array]:
    own = agenda.paths[number].columns
    height = count + agenda.most
    return [np.zeros((height, *shape), numpy_dtype(dtype)) for dtype, shape in own]


class _Sweep:
    """The units of an agenda over the rows of its tables."""

    def __init__(
        self, agenda: Agenda, op: Op, columns: list[list[Array]], tables: Tables,
        captures: Sequence[Array], sums: list[Array],
    ) -> None:  # fmt: skip
        self.agenda, self.tables = agenda, tables
        self.columns, self.captures, self.sums = columns, captures, sums
        self.blocks = agenda.blocks(op.blocks, control=op.name == "agenda")

    def everywhere(self, u: int) -> None:
        """A unit of every path over all rows."""
        for p, members in enumerate(self.tables.members):
            if (p, u) in self.blocks and members:
                self.perform(p, u, list(range(len(members))))

    def level(self, level: int, gather: bool) -> None:
        """The chains of one level: links are read before that, or written behind it."""
        for p, members in enumerate(self.tables.members):
            rows = [r for r, i in enumerate(members) if self.tables.calls[i].level == level]
            if gather:
                self.exchange(p, rows, gather)
            if (p, CHAIN) in self.blocks and rows:
                self.perform(p, CHAIN, rows)
            if not gather:
                self.exchange(p, rows, gather)

    def fill(self) -> None:
        """Copies of the first row where no call has one."""
        for p, members in enumerate(self.tables.members):
            for column in self.columns[p]:
                column[len(members)] = column[0]

    def exchange(self, p: int, rows: list[int], gather: bool) -> None:
        """Read results of the calls inside, or write their adjoints."""
        for column, call, result in self.agenda.paths[p].links:
            for row in rows:
                inner = self.tables.calls[
                    self.tables.calls[self.tables.members[p][row]].inside[call]
                ]
                end = self.agenda.paths[inner.path].ends[result]
                mine, there = self.columns[p][column], self.columns[inner.path][end]
                if gather:
                    mine[row] = there[inner.row]
                else:
                    there[inner.row] = mine[row]

    def perform(self, p: int, u: int, rows: list[int]) -> None:
        """A unit on rows, filled up by a row that no call has, a copy of the first one."""
        unit, size = self.agenda.paths[p].units[u], self.agenda.rows(u)[-1]
        block, spare = self.blocks[p, u][-1], len(self.tables.members[p])
        for start in range(0, len(rows), size):
            tile = rows[start : start + size]
            index = np.asarray(tile + [spare] * (size - len(tile)))
            outs = run_block(block, [
                *(self.columns[p][c][index] for c in unit.reads),
                *(self.captures[i] for i in unit.captures), *(self.sums[i] for i in unit.sums),
            ])  # fmt: skip
            for c, y in zip(unit.writes, outs, strict=False):
                self.columns[p][c][tile] = y[: len(tile)]
            for i, y in zip(unit.sums, outs[len(unit.writes) :], strict=True):
                self.sums[i] = y


def run_unwind(op: Op, arrays: list[Any]) -> list[Any]:
    """The sums, back from the adjoints of the results of the roots."""
    agenda = Agenda.of(op.attributes)
    tables: Tables = arrays[0]
    count = len(adjoints_of(agenda))
    seeds, captures = arrays[1 : 1 + count], arrays[1 + count :]
    columns = [
        [*there, *_empty(agenda, p, len(tables.members[p]))]
        for p, there in enumerate(tables.columns)
    ]
    for root, call in enumerate(tables.calls[: agenda.roots]):
        ends = [c for c in agenda.paths[call.path].ends if c >= 0]
        for c, seed in zip(ends, seeds, strict=True):
            columns[call.path][c][call.row] = seed[root]
    sums = [np.zeros(v.type.shape, numpy_dtype(v.type.dtype)) for v in op.results]
    sweep = _Sweep(agenda, op, columns, tables, captures, sums)
    sweep.everywhere(0)
    for level in reversed(range(1 + max((a.level for a in tables.calls), default=0))):
        sweep.level(level, gather=False)
    sweep.everywhere(2)
    return sums
