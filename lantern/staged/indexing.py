"""Lowerings of reading and writing parts of an array, and of orders.

Indices that are data are checked when the program runs: `gather` and `scatter` of the intermediate
representation refuse what is out of range.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lantern.lengths import Length
from lantern.primitives import elementwise as e
from lantern.primitives import indexing as p
from lantern.primitives.indexing import Index
from lantern.primitives.structure import Shape
from lantern.staged.reductions import comparable
from lantern.staged.stage import Lowering, converted, emit, repeated, shaped, spread
from lantern.staged.structure import padded, strided
from lantern.symbol import Symbol

INT64 = np.dtype(np.int64)


# Static parts -------------------------------------------------------------------------------------


def triples(index: Index) -> tuple[tuple[int, int, int], ...]:
    """An index as (start, count, step) of each axis; an integer is one element."""
    found = []
    for entry in index:
        if type(entry) is tuple:
            places = range(*entry)
            found.append((entry[0] if places else 0, len(places), entry[2] if places else 1))
        else:
            found.append((int(entry), 1, 1))
    return tuple(found)


def shape_of(index: Index) -> Shape:
    """The shape of what is at an index."""
    return tuple(len(range(*entry)) for entry in index if type(entry) is tuple)


def static_slice(x: Symbol, *, index: Index) -> Symbol:
    return shaped(strided(x, triples(index)), shape_of(index))


def embed(x: Symbol, *, index: Index, shape: Shape) -> Symbol:
    if not index:
        return x
    starts, counts, steps = zip(*triples(index), strict=True)
    x = shaped(repeated(x, shape_of(index)), counts)
    return padded(x, shape, starts, steps)


def slice_add(x: Symbol, rows: Symbol, *, index: Index) -> Symbol:
    return x + embed(converted(rows, x.dtype), index=index, shape=x.shape)


def slice_set(x: Symbol, rows: Symbol, *, index: Index) -> Symbol:
    rows = converted(rows, x.dtype)
    inside = repeated(x.stage.constant(True, np.dtype(bool)), shape_of(index))
    written = embed(inside, index=index, shape=x.shape)
    return e.where(written, embed(rows, index=index, shape=x.shape), x)


# Integer arrays -----------------------------------------------------------------------------------


def checked_index(index: Symbol, *, axis: int, length: int) -> Symbol:
    """Counted from the front; what is out of range remains so, for `gather` to refuse."""
    if index.dtype.kind == "u":
        return converted(e.minimum(index, length) if fits(length, index) else index, INT64)
    index = converted(index, INT64)
    return e.where(index < 0, index + length, index)


def checked_row(x: Symbol, index: Symbol) -> Symbol:
    """The same for the first axis of an array of any length."""
    length = x.shape[0]
    if type(length) is not Length:
        return checked_index(index, axis=0, length=length)
    place = converted(index, INT64)  # an unsigned one that is too large is negative then
    if index.dtype.kind == "u":
        return place
    return e.where(place < 0, place + length_of(x), place)


def length_of(x: Symbol) -> Symbol:
    length = x.shape[0]
    if type(length) is Length:
        return x.stage.emit("extent", length=length.number)
    return x.stage.constant(length, INT64)


def fits(number: int, x: Symbol) -> bool:
    return number <= np.iinfo(x.dtype).max


def aligned_indices(indices: tuple[Any, ...]) -> tuple[Symbol, ...]:
    """Index arrays of one shape."""
    return spread(*(converted(i, INT64) for i in indices))


def gather(x: Symbol, *indices: Any) -> Symbol:
    return emit("gather", x, *aligned_indices(indices))


def scatter(kind: str) -> Lowering:
    def lower(x: Symbol, rows: Symbol, *indices: Any) -> Symbol:
        places = aligned_indices(indices)
        rows = repeated(converted(rows, x.dtype), places[0].shape + x.shape[len(places) :])
        return emit("scatter", x, rows, *places, kind=kind)

    return lower


def scatter_extreme(x: Symbol, rows: Symbol, *indices: Any, largest: bool) -> Symbol:
    return scatter("max" if largest else "min")(x, rows, *indices)


def last_writes(*indices: Any, shape: Shape) -> Symbol:
    """Each write puts its turn where it goes; those that find it there were the last."""
    position = p.linear_index(aligned_indices(indices), shape)
    flat = shaped(position, (position.size,))
    if flat.size < 2:
        return e.equal(position, position)
    stage = flat.stage
    turn = stage.emit("iota", shape=flat.shape, axis=0, dtype="int64")
    nothing = repeated(stage.constant(0, INT64), (math.prod(shape),))
    found = p.gather(p.scatter_set(nothing, turn, flat), flat)
    return shaped(found == turn, position.shape)


# Order --------------------------------------------------------------------------------------------


def argsort(x: Symbol, *, axis: int, descending: bool) -> Symbol:
    x = comparable(x)
    if descending:  # the reverse order, in which equal elements and NaN stay as they are
        x = -x if x.dtype.kind == "f" else ~x
    return emit("argsort", x, axis=axis, descending=False)


def before(x: Any, y: Any) -> Symbol:
    """Whether x is sorted before y: NaN comes last."""
    if x.dtype.kind != "f":
        return x < y
    return (x < y) | ((y != y) & (x == x))


def searchsorted(x1: Any, x2: Any, *, side: str) -> Symbol:
    """Binary search, all elements of ``x2`` at once: as many steps as ``x1`` is long in bits."""
    stage = x1.stage
    x1, x2 = comparable(x1), comparable(x2)
    *batch, n = x1.shape
    low = repeated(stage.constant(0, INT64), x2.shape)
    if not n or not x2.size:
        return low
    high = repeated(stage.constant(n, INT64), x2.shape)
    lines = [
        stage.emit("iota", shape=x2.shape, axis=axis, dtype="int64") for axis in range(len(batch))
    ]
    for _ in range(n.bit_length()):
        middle = (low + high) >> 1
        found = p.gather(x1, *lines, e.minimum(middle, n - 1))
        after = before(found, x2) if side == "left" else ~before(x2, found)
        after = after & (low < high)
        low, high = e.where(after, middle + 1, low), e.where(after, high, middle)
    return low


LOWERINGS: dict[Any, Lowering] = {
    p.static_slice: static_slice,
    p.embed: embed,
    p.slice_add: slice_add,
    p.slice_set: slice_set,
    p.checked_index: checked_index,
    p.checked_row: checked_row,
    p.length_of: length_of,
    p.gather: gather,
    p.scatter_add: scatter("sum"),
    p.scatter_set: scatter("set"),
    p.last_writes: last_writes,
    p.scatter_extreme: scatter_extreme,
    p.argsort: argsort,
    p.searchsorted: searchsorted,
}
