"""scatter: rows that indices send to places of a copy of an operand, in the order of the rows.

The same place may be sent several rows, so one thread alone looks after what becomes of an element:
that of the first row that goes there (or the last, where the last one wins). It combines the rows
in order, so results are the same at every run, and those of the other backends. Of few rows, it
looks through all of them; many are sorted by place first, stably, so that those of a place are
neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from backends.affine import Affine
from backends.cuda.elements import LONG, Elements, blocks, is_long
from backends.cuda.expressions import accumulator, cast, combine, kind
from backends.cuda.moves import checked, picks, unit
from backends.cuda.sorting import argsort
from backends.cuda.steps import Copy, Step
from staging.ir import Op, Type, Value

FEW = 32  # rows that a thread looks through


def scatter(op: Op) -> Sequence[Step]:
    """A copy of the first operand, unless the result lies there, and then what changes it."""
    x, rows, *indices = op.inputs
    copy = [Copy(x, op.results[0])] if x.type.size else []
    count = indices[0].type.size
    if not count:
        return copy
    if not (rows.type.size and x.type.size):
        return (*copy, checked(op, x, indices))
    return (*copy, *(of_few if count <= FEW else of_many)(op))


class Rows:
    """What one `scatter` does with elements.

    Attributes:
        count: of the rows.
        length: of a row, in units.
        unit: the elements that are moved at once: more than one where the last row wins.
    """

    def __init__(self, op: Op) -> None:
        self.x, self.rows, *self.indices = op.inputs
        (self.out,) = op.results
        self.op, self.kind = op, str(op.attributes["kind"])
        length = prod(self.x.type.shape[len(self.indices) :])
        self.unit = unit(self.x.type.dtype, length) if self.kind == "set" else 1
        self.length, self.count = length // self.unit, self.indices[0].type.size
        self.wide = accumulator(self.x.type.dtype)

    def elements(self) -> Elements:
        """A kernel to be written; its operands are called so."""
        e = Elements((self.op,), long=is_long((self.x, self.rows)), apart=True)
        e.call(self.rows, "rows")
        e.call(self.out, "out")
        return e

    def row(self, e: Elements, place: Affine, column: Affine) -> str:
        """The element of a row."""
        return e.at(self.rows, place.scaled(self.length) + column, self.unit)

    def set(self, e: Elements, to: Affine, text: str) -> None:
        """Write an element of the result."""
        e.written(self.out)
        e.store(self.out, to, text, self.unit)

    def begin(self, e: Elements, to: Affine) -> None:
        """Start with what is there."""
        before = cast(e.load(self.out, to), self.out.type.dtype, self.wide)
        e.slot(kind(self.wide), "total", before)

    def take(self, e: Elements, place: Affine, column: Affine) -> None:
        """Combine the element of a row with what there is."""
        element = e.let(kind(self.out.type.dtype), "element", self.row(e, place, column))
        element = cast(element, self.out.type.dtype, self.wide)
        if not element.isidentifier():
            element = e.let(kind(self.wide), "wide", element)
        e.do(f"total = {combine(self.kind, self.wide, 'total', element)};")

    def end(self, e: Elements, to: Affine) -> None:
        """Write what came out."""
        e.store(self.out, to, cast("total", self.wide, self.out.type.dtype))


def of_few(op: Op) -> Sequence[Step]:
    """One launch: a thread an element of each row, which finds the other rows of its place."""
    work = Rows(op)
    e, last = work.elements(), work.kind == "set"
    with e.grid_stride("i", work.count * work.length) as i:
        place, column = e.quotient(i, work.length)
        inside, picked = picks(e, op, work.x, work.indices, place, e.index(column))
        own = [e.pull(index, place) for index in work.indices]
        to = picked.scaled(work.length) + column

        def same(other: Affine) -> str:
            found = (e.at(index, other) for index in work.indices)
            return " && ".join(f"{a} == {b}" for a, b in zip(found, own, strict=True))

        alone = e.slot("bool", "alone", inside) if work.count > 1 else inside
        start, end = (e.index(place + Affine(1)), work.count) if last else ("0", e.index(place))
        if work.count > 1:
            with e.loop("j", end, start) as j:
                e.do(f"if ({same(j)}) {alone} = false;")
        with e.braces(f"if ({alone})"):
            if last:
                work.set(e, to, work.row(e, place, column))
            else:
                work.begin(e, to)
                work.take(e, place, column)
                if work.count > 1:
                    start = e.index(place + Affine(1))
                    with e.loop("j", work.count, start) as j, e.braces(f"if ({same(j)})"):
                        work.take(e, j, column)
                work.end(e, to)
    return (e.launch(f"scatter_{work.kind}", blocks(work.count * work.length)),)


def of_many(op: Op) -> Sequence[Step]:
    """The place of each row, their order, and then a thread an element of each row."""
    work = Rows(op)
    large = is_long((work.x,))
    places = Value(Type("int64" if large else "int32", (work.count,)), "places")
    order = Value(Type("int64", (work.count,)), "order")
    attributes = {"axis": 0, "descending": False}
    sort = argsort(Op("argsort", (places,), (order,), attributes, (), op.place))
    return (placed(work, places), *sort, combined(work, places, order))


def placed(work: Rows, places: Value) -> Step:
    """To which row of the result each row goes; -1 where an index is bad, which is reported."""
    e = Elements((work.op,), long=is_long((work.x,)))
    with e.grid_stride("i", work.count) as i:
        inside, picked = picks(e, work.op, work.x, work.indices, i)
        e.store(places, i, f"{inside} ? {e.index(picked)} : -1")
    return e.launch("places", blocks(work.count))


def combined(work: Rows, places: Value, order: Value) -> Step:
    """Combine rows, where those of one place are neighbours in the order."""
    e, last = work.elements(), work.kind == "set"
    rows = LONG if work.x.type.is_table else work.x.type.size
    with e.grid_stride("i", work.count * work.length) as i:
        first, column = e.quotient(i, work.length)
        at = e.index(first)
        row = e.variable(e.let("int", "row", f"(int){e.at(order, first)}"), work.count)
        place = e.let(kind(places.type.dtype), "place", e.at(places, row))
        to = e.variable(place, rows).scaled(work.length) + column

        def same(text: str) -> str:
            return f"{e.read(places)}[{e.read(order)}[{text}]] == {place}"

        neighbour, edge = (f"{at} + 1", work.count - 1) if last else (f"{at} - 1", 0)
        with e.braces(f"if ({place} >= 0 && ({at} == {edge} || !({same(neighbour)})))"):
            if last:
                work.set(e, to, work.row(e, row, column))
            else:
                work.begin(e, to)
                end = past(e, at, work.count, same)
                with e.loop("j", end, at) as j:
                    other = e.variable(e.let("int", "other", f"(int){e.at(order, j)}"), work.count)
                    work.take(e, other, column)
                work.end(e, to)
    return e.launch(f"scatter_{work.kind}_sorted", blocks(work.count * work.length))


def past(e: Elements, first: str, count: int, same: Callable[[str], str]) -> str:
    """A name for where the rows of a place end that begin at a known one: by bisection, so that
    they can be read ahead of what is computed."""
    low, high = e.slot("int", "low", first), e.slot("int", "high", f"{first} + 1")
    with e.braces(f"if ({high} < {count} && {same(high)})"):
        e.do(f"{high} = {count};")
    with e.braces(f"while ({high} - {low} > 1)"):
        middle = e.let("int", "middle", f"({low} + {high}) / 2")
        e.do(f"if ({same(middle)}) {low} = {middle};")
        e.do(f"else {high} = {middle};")
    return high
