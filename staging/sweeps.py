"""What the two operations of an agenda (`staging.agenda`) mean: on NumPy, and, for a backend whose
host finds the calls, on what that takes for the columns of tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from staging.agenda import CHAIN, FEW, Agenda, adjoints_of
from staging.failures import failure
from staging.interpret import Array, numpy_dtype, run_block, run_with_own_lengths
from staging.ir import Block, Op, Type


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
    columns: list[list[Any]]

    @property
    def levels(self) -> range:
        """Of the calls, from those that wait for none."""
        return range(1 + max((a.level for a in self.calls), default=0))


class Work(Protocol):
    """Who computes an agenda: what it takes for a column is its own affair."""

    def zeros(self, type: Type) -> Any:
        """A column of zeros."""
        ...

    def column(self, array: Array) -> Any:
        """A column of these elements."""
        ...

    def move(self, target: Any, rows: Sequence[int], source: Any, others: Sequence[int]) -> None:
        """Write over rows of a column other rows, of another one or the same."""
        ...

    def run(
        self, block: Block, reads: Sequence[Any], writes: Sequence[Any], shared: Sequence[int],
        sums: Sequence[int], rows: Sequence[int], spare: range,
    ) -> None:  # fmt: skip
        """Run the block of a unit.

        Args:
            block: for as many rows as are read, or more.
            reads: the columns of which it takes rows.
            writes: those that it gives rows for.
            shared: the numbers of the captures that it takes.
            sums: those of the sums that it takes, and gives.
            rows: which rows these are, one behind the other.
            spare: rows to read where the block takes more than these.
        """
        ...


def run_agenda(op: Op, arrays: list[Any]) -> list[Any]:
    """The results of the roots, stacked, and the tables."""
    agenda = Agenda.of(op.attributes)
    count = agenda.args[agenda.entry]
    given = agenda.captured(arrays[count:])
    work = _Arrays([some[0] for some in given], [])
    tables = expanded(op, arrays[:count], given, work)
    return [*computed(op, tables, work), tables]


def computed(op: Op, tables: Tables, work: Work) -> list[Any]:
    """Compute what an `agenda` has found to do: the results of the roots, stacked."""
    agenda = Agenda.of(op.attributes)
    sweep = _Sweep(agenda, op, tables.columns, tables, work)
    sweep.fill()
    sweep.everywhere(0)
    for level in tables.levels:
        sweep.level(level, gather=True)
    sweep.fill()
    sweep.everywhere(2)
    sweep.fill()
    ends = [work.zeros(v.type) for v in op.results[:-1]]
    for root, call in enumerate(tables.calls[: agenda.roots]):
        for k, end in enumerate(ends):
            source = tables.columns[call.path][agenda.paths[call.path].ends[k]]
            work.move(end, [root], source, [call.row])
    return ends


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


def expanded(
    op: Op, args: Sequence[Array], captures: Sequence[Sequence[Array]], work: Work
) -> Tables:
    """All calls, and tables that hold what control gives."""
    agenda = Agenda.of(op.attributes)
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
    columns: list[list[Any]] = []
    for p, some in enumerate(members):
        known = dict(agenda.ways[p].given)
        columns.append([])
        for c, type in enumerate(_types(agenda, p, len(some))):
            if c in known:
                column = np.zeros(type.shape, numpy_dtype(type.dtype))
                for row, i in enumerate(some):
                    column[row] = found[i][3][known[c]]
                columns[p].append(work.column(column))
            else:
                columns[p].append(work.zeros(type))
    return Tables(calls, members, columns)


def _types(agenda: Agenda, number: int, count: int) -> list[Type]:
    """Of the columns that a path makes, for so many calls and the rows that fill up."""
    height = count + agenda.most
    return [Type(dtype, (height, *shape)) for dtype, shape in agenda.paths[number].columns]


class _Sweep:
    """The units of an agenda over the rows of its tables."""

    def __init__(
        self, agenda: Agenda, op: Op, columns: list[list[Any]], tables: Tables, work: Work
    ) -> None:
        self.agenda, self.tables, self.columns, self.work = agenda, tables, columns, work
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
        most = self.agenda.most
        for p, members in enumerate(self.tables.members):
            spare = range(len(members), len(members) + most)
            for column in self.columns[p]:
                self.work.move(column, spare, column, [0] * most)

    def exchange(self, p: int, rows: list[int], gather: bool) -> None:
        """Read results of the calls inside, or write their adjoints."""
        members, calls = self.tables.members[p], self.tables.calls
        for column, call, result in self.agenda.paths[p].links:
            paths: dict[int, list[tuple[int, int]]] = {}
            for row in rows:
                inner = calls[calls[members[row]].inside[call]]
                paths.setdefault(inner.path, []).append((row, inner.row))
            for path, pairs in paths.items():
                here, there = (list(some) for some in zip(*pairs, strict=True))
                mine = self.columns[p][column]
                other = self.columns[path][self.agenda.paths[path].ends[result]]
                if gather:
                    self.work.move(mine, here, other, there)
                else:
                    self.work.move(other, there, mine, here)

    def perform(self, p: int, u: int, rows: list[int]) -> None:
        """A unit on rows, by its blocks for the most, or for as many as are left."""
        unit, columns = self.agenda.paths[p].units[u], self.columns[p]
        sizes, count = self.agenda.rows(u), len(self.tables.members[p])
        reads, writes = ([columns[c] for c in some] for some in (unit.reads, unit.writes))
        while rows:
            k = next((k for k, n in enumerate(sizes) if n >= len(rows)), len(sizes) - 1)
            some, rows = rows[: sizes[k]], rows[sizes[k] :]
            block, spare = self.blocks[p, u][k], range(count, count + sizes[k] - len(some))
            self.work.run(block, reads, writes, unit.captures, unit.sums, some, spare)


class _Arrays:
    """What computes an agenda on arrays of NumPy."""

    def __init__(self, captures: Sequence[Array], sums: list[Array]) -> None:
        self.captures, self.sums = captures, sums

    def zeros(self, type: Type) -> Any:
        return np.zeros(type.shape, numpy_dtype(type.dtype))

    def column(self, array: Array) -> Any:
        return array

    def move(self, target: Any, rows: Sequence[int], source: Any, others: Sequence[int]) -> None:
        target[list(rows)] = source[list(others)]

    def run(
        self, block: Block, reads: Sequence[Any], writes: Sequence[Any], shared: Sequence[int],
        sums: Sequence[int], rows: Sequence[int], spare: range,
    ) -> None:  # fmt: skip
        index = [*rows, *spare]
        outs = run_block(block, [
            *(c[index] for c in reads), *(self.captures[i] for i in shared),
            *(self.sums[i] for i in sums),
        ])  # fmt: skip
        for c, y in zip(writes, outs, strict=False):
            c[list(rows)] = y[: len(rows)]
        for i, y in zip(sums, outs[len(writes) :], strict=True):
            self.sums[i] = y


def run_unwind(op: Op, arrays: list[Any]) -> list[Any]:
    """The sums, back from the adjoints of the results of the roots."""
    agenda = Agenda.of(op.attributes)
    count = len(adjoints_of(agenda))
    sums = [np.zeros(v.type.shape, numpy_dtype(v.type.dtype)) for v in op.results]
    work = _Arrays(arrays[1 + count :], sums)
    unwound(op, arrays[0], arrays[1 : 1 + count], work)
    return work.sums


def unwound(op: Op, tables: Tables, seeds: Sequence[Any], work: Work) -> None:
    """Go back through the tables of an `agenda`, and add to the sums of ``work``."""
    agenda = Agenda.of(op.attributes)
    columns = [
        [*there, *map(work.zeros, _types(agenda, p, len(tables.members[p])))]
        for p, there in enumerate(tables.columns)
    ]
    for root, call in enumerate(tables.calls[: agenda.roots]):
        ends = [c for c in agenda.paths[call.path].ends if c >= 0]
        for c, seed in zip(ends, seeds, strict=True):
            work.move(columns[call.path][c], [call.row], seed, [root])
    sweep = _Sweep(agenda, op, columns, tables, work)
    sweep.everywhere(0)
    for level in reversed(tables.levels):
        sweep.level(level, gather=False)
    sweep.everywhere(2)
