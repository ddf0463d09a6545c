"""Operations that move elements: transpose, concat, pad, fold and gather.

What lies side by side in operand and result is moved 16 bytes at once where lengths allow it.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from math import gcd, prod
from typing import cast as typed

from backends.affine import Affine, View, strides
from backends.cuda.elements import LONG, Elements, blocks, is_long, unit_kind
from backends.cuda.elementwise import WIDTH, elementwise
from backends.cuda.expressions import accumulator, cast, combine, identity, kind, literal
from backends.cuda.steps import Step
from backends.views import transpose_view
from staging.ir import ITEMSIZE, Op, Value
from staging.ops import integers

TILE = 32
ROWS = 8  # of a tile that a block moves at once
JOINED = 64  # operands of one kernel that concatenates


def unit(dtype: str, *lengths: int) -> int:
    """How many elements can be moved at once where every stretch has one of these lengths.

    Example:
        >>> unit("float32", 12, 64), unit("float16", 6), unit("float32", 0)
        (4, 2, 4)
    """
    return gcd(WIDTH // ITEMSIZE[dtype], *lengths)


def transpose(op: Op) -> Sequence[Step]:
    """Through tiles in shared memory, where neighbours of the operand are none of the result."""
    (x,), (out,) = op.inputs, op.results
    if not out.type.size:
        return ()
    view = transpose_view(op).merged()
    across = next((k for k, (_, stride) in enumerate(view.axes) if stride == 1), -1)
    last = len(view.axes) - 1
    if across == last or min(view.axes[k][0] for k in (across, last)) < TILE // 2:
        return elementwise(op)
    return (tiled(op, x, out, view, across),)


def tiled(op: Op, x: Value, out: Value, view: View, across: int) -> Step:
    """A block a tile; axis ``across`` of the result is contiguous in the operand. A row of the tile
    is one longer than needed, so that no two of a column lie in one bank."""
    e = Elements((op,), long=is_long((x, out)), apart=True)
    last, steps = len(view.axes) - 1, strides([n for n, _ in view.axes])
    (rows, _), (columns, stride) = view.axes[across], view.axes[last]
    down, along = (-(-n // TILE) for n in (rows, columns))
    others = [k for k in range(last) if k != across]
    count = down * along * prod(view.axes[k][0] for k in others)
    e.do(f"__shared__ {kind(x.type.dtype)} tile[{TILE}][{TILE + 1}];")
    block = e.variable(e.let(e.integer, "block", "blockIdx.x"), count)
    lane = e.variable(e.let("int", "lane", "threadIdx.x"), TILE)
    block, column = e.quotient(block, along)
    block, row = e.quotient(block, down)
    row, column = (named(e, "row", row.scaled(TILE)), named(e, "column", column.scaled(TILE)))
    source = row + lane + column.scaled(stride)
    target = row.scaled(steps[across]) + column + lane
    for k in reversed(others):
        n, step = view.axes[k]
        block, index = e.quotient(block, n)
        source, target = source + index.scaled(step), target + index.scaled(steps[k])
    source, target = named(e, "source", source), named(e, "target", target)
    with (
        e.loop("k", TILE, "threadIdx.y", str(ROWS)) as k,
        within(e, (column + k, columns), (row + lane, rows)),
    ):
        e.do(f"tile[{e.index(k)}][lane] = {e.at(x, source + k.scaled(stride))};")
    e.do("__syncthreads();")
    with (
        e.loop("k", TILE, "threadIdx.y", str(ROWS)) as k,
        within(e, (row + k, rows), (column + lane, columns)),
    ):
        e.store(out, target + k.scaled(steps[across]), f"tile[lane][{e.index(k)}]")
    return e.launch("transpose", (count, 1, 1), block=(TILE, ROWS, 1))


def named(e: Elements, stem: str, position: Affine) -> Affine:
    """A position that has a name of its own."""
    if not position.terms:
        return position
    return e.variable(e.let(e.integer, stem, e.index(position)), position.bounds()[1] + 1)


@contextmanager
def within(e: Elements, *places: tuple[Affine, int]) -> Generator[None]:
    """Lines for places inside of lengths; those that are whole tiles need no test."""
    tests = [f"{e.index(at)} < {n}" for at, n in places if n % TILE]
    with e.braces(f"if ({' && '.join(tests)})") if tests else nullcontext():
        yield


def concat(op: Op) -> Sequence[Step]:
    """A thread an element of the result, which finds the operand that it comes from."""
    (out,), axis = op.results, typed(int, op.attributes["axis"])
    inputs = [x for x in op.inputs if x.type.size]
    lines = prod(out.type.shape[:axis])
    steps: list[Step] = []
    start = 0
    for first in range(0, len(inputs), JOINED):
        some = inputs[first : first + JOINED]
        steps.append(joined(op, some, out, lines, start))
        start += sum(x.type.size // lines for x in some)
    return steps


def joined(op: Op, inputs: Sequence[Value], out: Value, lines: int, start: int) -> Step:
    """Write some operands side by side into each line of the result, from a place on."""
    row, lengths = out.type.size // lines, [x.type.size // lines for x in inputs]
    group = unit(out.type.dtype, row, start, *lengths)
    total = sum(lengths) // group
    e = Elements((op,), long=is_long((out,)), apart=True)
    with e.grid_stride("i", lines * total) as i:
        line, place = e.quotient(i, total)
        end, branches = 0, list[str]()
        for x, length in zip(inputs, lengths, strict=True):
            read = line.scaled(length // group) + place + Affine(-end)
            end += length // group
            test = f"{e.index(place)} < {end} ? " if end < total else ""
            branches.append(test + e.at(x, read, group))
        text = f"\n{e.scopes[-1].indent}  : ".join(branches)
        element = e.let(unit_kind(out, group), "element", text)
        e.store(out, line.scaled(row // group) + place + Affine(start // group), element, group)
    return e.launch("concat", blocks(lines * total))


@dataclass(frozen=True, slots=True)
class Padded:
    """An axis of a pad: ``count`` elements lie from ``start`` on by ``step``, in ``full``."""

    start: int
    count: int
    step: int
    full: int

    @property
    def whole(self) -> bool:
        """Whether nothing is added."""
        return (self.start, self.step, self.count) == (0, 1, self.full)

    def times(self, n: int) -> Padded:
        """This, of elements that are ``n`` each; its step is 1."""
        return Padded(self.start * n, self.count * n, 1, self.full * n)


def padded(op: Op) -> list[Padded]:
    """The axes of a pad, one that is whole as one with the axis before it."""
    x, out = op.inputs[0].type.shape, op.results[0].type.shape
    starts, steps = (integers(op.attributes, key) for key in ("starts", "steps"))
    axes: list[Padded] = []
    for start, count, step, full in zip(starts, x, steps, out, strict=True):
        axis = Padded(start, count, 1 if count == 1 else step, full)
        if axes and axis.whole and axes[-1].step == 1:
            axes[-1] = axes[-1].times(full)
        else:
            axes.append(axis)
    return axes


def pad(op: Op) -> Sequence[Step]:
    """A thread an element of the result, which finds whether the operand has one for it."""
    (x, filler), (out,) = op.inputs, op.results
    if not out.type.size:
        return ()
    axes, group = padded(op), 1
    if axes and axes[-1].step == 1:
        *lead, last = axes
        group = unit(out.type.dtype, last.start, last.count, last.full)
        axes = [*lead, Padded(last.start // group, last.count // group, 1, last.full // group)]
    e = Elements((op,), long=is_long((out,)), apart=True)
    e.call(x, "x")
    e.call(filler, "filler")
    with e.grid_stride("i", out.type.size // group) as i:
        tests: list[str] = []
        read, at, size = Affine(), i, 1
        for axis in reversed(axes):
            at, index = e.quotient(at, axis.full)
            test, place = inverse(e, axis, index)
            tests = [*test, *tests]
            read, size = read + place.scaled(size), size * axis.count
        text = e.at(filler, Affine())
        if group > 1:
            text = f"{unit_kind(out, group)}{{{{{', '.join([text] * group)}}}}}"
        if x.type.size:
            found = e.at(x, read, group)
            text = f"{' && '.join(tests)} ? {found} : {text}" if tests else found
        e.store(out, i, text, group)
    return (e.launch("pad", blocks(out.type.size // group)),)


def inverse(e: Elements, axis: Padded, index: Affine) -> tuple[list[str], Affine]:
    """Of an index of the result: tests for an element of the operand there, and its index."""
    if axis.whole:
        return [], index
    sign, step = (-1 if axis.step < 0 else 1), abs(axis.step)
    ahead = (index + Affine(-axis.start)).scaled(sign)
    at, end = e.index(index), axis.start + sign * axis.count * step
    first = f"{at} >= {axis.start}" if sign > 0 else f"{at} <= {axis.start}"
    last = f"{at} < {end}" if sign > 0 else f"{at} > {end}"
    tests = [first] * (ahead.bounds()[0] < 0) + [last] * (ahead.bounds()[1] >= axis.count * step)
    if step == 1:
        return tests, ahead
    name = e.let(e.integer, "ahead", e.index(ahead))
    place = e.variable(e.let(e.integer, "place", f"{name} / {step}"), max(axis.full, 2))
    return [*tests, f"{name} % {step} == 0"], place


def fold(op: Op) -> Sequence[Step]:
    """A thread an element of the result, which adds all elements that lie there in the view.

    It looks for them axis after axis, longest stride first, and goes on only with indices from
    which the axes that are left can still reach the place.
    """
    (x,), (out,) = op.inputs, op.results
    if not out.type.size:
        return ()
    dtype, wide = x.type.dtype, accumulator(x.type.dtype)
    shape, steps = x.type.shape, integers(op.attributes, "strides")
    order = sorted((k for k, n in enumerate(shape) if n > 1), key=lambda axis: -abs(steps[axis]))
    e = Elements((op,), long=is_long((x, out)), apart=True)
    e.call(x, "x")
    rows = strides(shape)

    def add(axes: Sequence[int], rest: Affine, position: Affine) -> None:
        if not axes:
            with e.braces(f"if ({e.index(rest)} == 0)"):
                element = cast(e.load(x, position), dtype, wide)
                e.do(f"total = {combine('sum', wide, 'total', element)};")
            return
        axis, *others = axes
        first, last = reaching(e, rest, shape[axis], steps[axis], reach(shape, steps, others))
        with e.loop("j", f"{last} + 1", first) as j:
            j = e.variable(e.index(j), shape[axis])  # which stays below the length
            add(others, rest + j.scaled(-steps[axis]), position + j.scaled(rows[axis]))

    with e.grid_stride("i", out.type.size) as i:
        e.slot(kind(wide), "total", identity("sum", wide))
        if x.type.size:
            add(order, i + Affine(-typed(int, op.attributes["offset"])), Affine())
        e.store(out, i, cast("total", wide, dtype))
    return (e.launch("fold", blocks(out.type.size)),)


def reach(shape: Sequence[int], steps: Sequence[int], axes: Sequence[int]) -> tuple[int, int]:
    """The least and the greatest distance that some axes of a view cover."""
    ends = [(shape[axis] - 1) * steps[axis] for axis in axes]
    return sum(min(end, 0) for end in ends), sum(max(end, 0) for end in ends)


def reaching(
    e: Elements, rest: Affine, n: int, step: int, others: tuple[int, int]
) -> tuple[str, str]:
    """The first and the last index of an axis of ``n`` from which others reach what is left."""
    if step == 0:
        return "0", str(n - 1)
    least, most = others
    low, high = rest + Affine(-most), rest + Affine(-least)
    if step < 0:
        low, high, step = high.scaled(-1), low.scaled(-1), -step
    first = e.let(e.integer, "low", e.index(low))
    last = e.let(e.integer, "high", e.index(high))
    up = f"({first} + {step - 1}) / {step}" if step > 1 else first
    down = f"{last} / {step}" if step > 1 else last
    first = e.let(e.integer, "first", f"{first} > 0 ? {up} : 0")
    last = e.let(e.integer, "last", f"{last} < 0 ? -1 : {down} < {n} ? {down} : {n - 1}")
    return first, last


def gather(op: Op) -> Sequence[Step]:
    """A thread an element of the result."""
    x, *indices = op.inputs
    (out,) = op.results
    if not indices[0].type.size:
        return ()
    if not (out.type.size and x.type.size):
        return (checked(op, x, indices),)
    row = prod(x.type.shape[len(indices) :])
    group = unit(out.type.dtype, row)
    e = Elements((op,), long=is_long((x, out)), apart=True)
    e.call(x, "x")
    with e.grid_stride("i", out.type.size // group) as i:
        place, column = e.quotient(i, row // group)
        inside, picked = picks(e, op, x, indices, place, e.index(column))
        read = picked.scaled(row // group) + column
        dtype = out.type.dtype
        none = literal(dtype, 0) if group == 1 else f"{unit_kind(out, group)}{{}}"
        e.store(out, i, f"{inside} ? {e.at(x, read, group)} : {none}", group)
    return (e.launch("gather", blocks(out.type.size // group)),)


def picks(
    e: Elements, op: Op, x: Value, indices: Sequence[Value], place: Affine, column: str = "0"
) -> tuple[str, Affine]:
    """Of the indices at a place, a name for whether they lie inside of ``x``, and which of its rows
    they pick if so. Where not, the thread of column 0 reports it."""
    for index in indices:
        e.call(index, "index")
    at = [e.pull(index, place) for index in indices]
    lengths = x.type.shape[: len(at)]
    bounds = [e.length(n) if n < -1 else str(n) for n in lengths]
    tests = [f"(unsigned long long){i} < {n}" for i, n in zip(at, bounds, strict=True)]
    inside = e.let("bool", "inside", " && ".join(tests))
    with e.braces(f"if (!{inside})" if column == "0" else f"if (!{inside} && {column} == 0)"):
        axis, bad = str(len(at) - 1), at[-1]
        for k in reversed(range(len(at) - 1)):
            axis, bad = f"{tests[k]} ? {axis} : {k}", f"{tests[k]} ? {bad} : {at[k]}"
        e.do(e.fail(op, e.index(place), bad, axis))
    picked = Affine()
    for i, n in zip(at, lengths, strict=True):
        name = i if e.integer == "long long" else e.let("int", "row", f"(int){i}")
        row = e.variable(name, n if n >= 0 else LONG)
        picked = picked.scaled(max(n, 1)) + row
    return inside, picked


def checked(op: Op, x: Value, indices: Sequence[Value]) -> Step:
    """Look at indices, and do nothing else."""
    e = Elements((op,), long=is_long((x, *indices)))
    with e.grid_stride("i", indices[0].type.size) as i:
        picks(e, op, x, indices, i)
    return e.launch("check", blocks(indices[0].type.size))
