"""Recursion by an agenda: the host finds the calls, by the reference interpreter, for that takes
their integers only; the units run on the device, on columns that lie there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np

from backends.cuda.device import Span
from backends.cuda.host import Control, Host, Place, Scope
from backends.cuda.lists import aligned
from backends.cuda.moving import THREADS, UNITS, mover
from staging.agenda import Agenda, adjoints_of
from staging.interpret import lengths, numpy_dtype
from staging.ir import Block, Op, Type
from staging.lengths import sized
from staging.sweeps import Tables, computed, expanded, unwound

Array: TypeAlias = "np.ndarray[Any, Any]"
MOST = 4096  # blocks of a grid


class Column(NamedTuple):
    """Rows of one type.

    Attributes:
        span: where they lie, one behind the other.
        row: the bytes of one.
    """

    span: Span
    row: int

    def rows(self, start: int, count: int) -> Span:
        """Some that follow each other."""
        return self.span.part(start * self.row, count * self.row)


class Units:
    """What computes an agenda (`staging.sweeps.Work`) on a device.

    Args:
        host: the call of the program.
        scope: where the operation stands.
        op: the operation.
        captures: where they lie.
        sums: where they grow.
    """

    def __init__(
        self, host: Host, scope: Scope, op: Op, captures: Sequence[Any], sums: Sequence[Any]
    ) -> None:
        self.host, self.scope, self.op = host, scope, op
        self.captures, self.sums = captures, sums
        self.numbers = {block: k for k, block in enumerate(op.blocks)}

    def zeros(self, type: Type) -> Column:
        span = self.host.frame.fresh(type)
        self.host.clear(span)
        return Column(span, type.bytes // max(1, type.shape[0]))

    def column(self, array: Array) -> Column:
        span = self.host.frame.fresh(Type("uint8", (array.nbytes,)))
        self.host.queue.to_device(span, np.ascontiguousarray(array))
        return Column(span, array.nbytes // max(1, array.shape[0]))

    def move(
        self, target: Column, rows: Sequence[int], source: Column, others: Sequence[int]
    ) -> None:
        if not rows or not target.row:
            return
        if len(rows) == 1:
            self.host.copy(target.rows(rows[0], 1), source.rows(others[0], 1))
            return
        unit = next(n for n in UNITS if target.row % n == 0)
        index = self.column(np.asarray([rows, others], np.int64))
        words = target.row // unit
        grid = (min(MOST, -(-len(rows) * words // THREADS)), 1, 1)
        self.host.queue.kernel(
            self.host, mover(unit), grid,
            (target.span, source.span, index.rows(0, 1), index.rows(1, 1),
             np.int64(len(rows)), np.int64(words)),
            reads=(source.span, index.span), writes=(target.span,),
        )  # fmt: skip

    def run(
        self, block: Block, reads: Sequence[Column], writes: Sequence[Column],
        shared: Sequence[int], sums: Sequence[int], rows: Sequence[int], spare: range,
    ) -> None:  # fmt: skip
        number = self.numbers[block]
        plan = self.scope.plan.branches[self.op][number]
        inner = Scope(plan, self.scope.frame.inner(self.scope.plan, self.op, number))
        sources = [self.taken(c, rows, spare) for c in reads]
        totals = [self.sums[i] for i in sums]
        targets = [self.given(c, rows, spare) for c in writes]
        made = self.host.block(
            block, inner, [*sources, *(self.captures[i] for i in shared), *totals],
            [*targets, *(None for _ in totals)],
        )  # fmt: skip
        for column, place in zip(writes, made, strict=False):
            target = column.rows(rows[0], len(rows))
            self.host.copy(target, cast(Span, place).part(0, target.bytes))
        for total, place in zip(totals, made[len(writes) :], strict=True):
            self.host.copy(total, place)

    def taken(self, column: Column, rows: Sequence[int], spare: range) -> Span:
        """Rows of a column, filled up, where kernels may read them."""
        first = column.rows(rows[0], len(rows))
        if not spare and aligned(first.offset) == first.offset:
            return first
        span = self.host.frame.fresh(Type("uint8", (column.row * (len(rows) + len(spare)),)))
        self.host.copy(span.part(0, first.bytes), first)
        if spare:
            rest = column.rows(spare[0], len(spare))
            self.host.copy(span.part(first.bytes, rest.bytes), rest)
        return span

    def given(self, column: Column, rows: Sequence[int], spare: range) -> Span | None:
        """Where a block writes rows of a column; None: elsewhere, as it writes more, or as kernels
        may not write there."""
        target = column.rows(rows[0], len(rows))
        return None if spare or aligned(target.offset) != target.offset else target


def agenda(
    host: Host, scope: Scope, op: Op, given: Sequence[Any], targets: Sequence[Any]
) -> Sequence[Place]:
    """The results of the roots, stacked; the tables."""
    form = Agenda.of(op.attributes)
    count = form.args[form.entry]
    args = [host.fetch(x, v.type) for x, v in zip(given[:count], op.inputs, strict=False)]
    read = read_by_control(op, form)
    captures = [
        [captured(host, x, v.type, k in read) for x, v in some]
        for k, some in enumerate(form.captured([*zip(given, op.inputs, strict=True)][count:]))
    ]
    own = [some[0] for some in form.captured(given[count:])]
    work = Units(host, scope, op, own, [])
    token = lengths.set(host.lengths)
    try:
        tables = expanded(op, args, captures, work)
    finally:
        lengths.reset(token)
    ends = computed(op, tables, work)
    return [*(end.span for end in ends), cast(Any, tables)]


def read_by_control(op: Op, form: Agenda) -> set[int]:
    """The captures that the blocks of control read."""
    found: set[int] = set()
    for block, count in zip(op.blocks, form.args, strict=False):
        read = {v for inner in block.ops for v in inner.inputs} | {*block.results}
        found |= {k for k, v in enumerate(block.params[count:]) if v in read}
    return found


def captured(host: Host, place: Any, type: Type, read: bool) -> Array:
    """A capture on the host; of one that nothing reads there, only the shape is right."""
    if read:
        return host.fetch(place, type)
    nothing = np.zeros((), numpy_dtype(type.dtype))
    return np.broadcast_to(nothing, sized(type.shape, host.lengths))


def unwind(
    host: Host, scope: Scope, op: Op, given: Sequence[Any], targets: Sequence[Any]
) -> Sequence[Place]:
    """The sums, back from the adjoints of the results of the roots."""
    form = Agenda.of(op.attributes)
    adjoints = adjoints_of(form)
    tables: Tables = given[0]
    seeds = [Column(place, place.bytes // form.roots) for place in given[1 : 1 + len(adjoints)]]
    for target in targets:
        host.clear(target)
    unwound(op, tables, seeds, Units(host, scope, op, given[1 + len(adjoints) :], targets))
    return targets


AGENDA: Mapping[str, Control] = {"agenda": agenda, "unwind": unwind}
