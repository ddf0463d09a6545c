"""Operations that move elements: concat, pad, fold, gather and scatter."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import pairwise
from typing import Any, cast

from backends.affine import Affine, strides
from backends.llvm.code import LONG, variable
from backends.llvm.division import WHOLE, Division, along, count, nanoseconds
from backends.llvm.dtypes import accumulator
from backends.llvm.dtypes import cast as convert
from backends.llvm.kernel import Kernel, written
from backends.llvm.nests import elementwise
from backends.llvm.scalar import combine, identity
from backends.views import box, transpose_view
from staging.ir import Op, Type, Value


def concat(op: Op, threads: int) -> Kernel:
    """A loop for each input, which writes its part of the result."""
    (out,) = op.results
    axis = cast(int, op.attributes["axis"])
    lines = size(out.type.shape[:axis])
    row = out.type.size // max(1, lines)
    parts = count(copying(out), max(lines, row), threads)

    def write(kernel: Kernel) -> None:
        offset = 0
        for k, x in enumerate(op.inputs):
            part = size(x.type.shape[axis:])
            if x.type.size == 0:
                continue
            with kernel.axis(f"o{k}", lines) as o, kernel.axis(f"i{k}", part) as i:
                element = kernel.pull(x, o.scaled(part) + i)
                kernel.store(out, o.scaled(row) + i + Affine(offset), element)
            offset += part

    letter = "o" if lines >= 2 * threads else "i"
    axes = frozenset(f"{letter}{k}" for k in range(len(op.inputs)))
    return written((), write, Division(parts, axes))


def copying(value: Value) -> float:
    """The nanoseconds of writing a value and reading as much."""
    return nanoseconds((), (value, Value(value.type)), value.type.size)


TILE = 16  # a cache line of float32


def transpose(op: Op, threads: int) -> Kernel:
    """In square tiles, where neither order of the loops would read and write memory in order."""
    (x,), (out,) = op.inputs, op.results
    view = transpose_view(op).merged()
    if not out.type.size or not view.axes or view.axes[-1][1] == 1:
        return elementwise((op,), op.results, threads)
    steps = strides([n for n, _ in view.axes])
    across = next(k for k, (_, stride) in enumerate(view.axes) if stride == 1)
    last = len(view.axes) - 1
    others = [k for k in range(last) if k != across]

    def tiles(kernel: Kernel, k: int) -> list[tuple[int, int, int]]:
        """Of an axis the start, number and length of its tiles, and of the tile that is cut off."""
        n = view.axes[k][0]
        found = [(0, n // TILE, TILE), (n - n % TILE, 1, n % TILE)]
        return [(start, number, length) for start, number, length in found if number and length]

    def write(kernel: Kernel) -> None:
        with ExitStack() as stack:
            source, target = Affine(), Affine()
            for k in others:
                at = stack.enter_context(kernel.axis(f"a{k}", view.axes[k][0]))
                source, target = source + at.scaled(view.axes[k][1]), target + at.scaled(steps[k])
            for rows in tiles(kernel, across):
                for columns in tiles(kernel, last):
                    write_tiles(kernel, source, target, rows, columns)

    def write_tiles(kernel: Kernel, source: Affine, target: Affine, *tiles: Any) -> None:
        with ExitStack() as stack:
            for level in ("tile", "element"):
                for k, (start, number, length) in zip((across, last), tiles, strict=True):
                    extent, step = (number, length) if level == "tile" else (length, 1)
                    at = stack.enter_context(kernel.axis(f"{level}{k}.{start}", extent))
                    at = at.scaled(step) + Affine(start if level == "tile" else 0)
                    source = source + at.scaled(view.axes[k][1])
                    target = target + at.scaled(steps[k])
            kernel.store(out, target, kernel.load(x, source))

    extent, name = max((view.axes[k][0], f"a{k}") for k in others) if others else (0, "")
    rows = view.axes[across][0] // TILE
    if rows > extent:
        extent, name = rows, f"tile{across}.0"
    return written((), write, along(name, count(copying(out), extent, threads)))


def size(shape: Any) -> int:
    """The number of elements of a shape."""
    return Type("bool", tuple(shape)).size


def pad(op: Op, threads: int) -> Kernel:
    """A loop that fills, and then one that writes the input over it."""
    x, filler = op.inputs
    (out,) = op.results
    shape, starts, steps = (op.attributes[k] for k in ("shape", "starts", "steps"))

    def fill(kernel: Kernel) -> None:
        value = kernel.pull(filler, Affine())
        with kernel.axis("i", out.type.size) as position:
            kernel.store(out, position, value)

    def write(kernel: Kernel) -> None:
        view = box(cast("tuple[int, ...]", shape), starts, x.type.shape, steps)
        with kernel.axis("i", x.type.size) as position:
            kernel.store(out, kernel.through(view, position), kernel.pull(x, position))

    first, then = (
        written((), step, along("i", count(copying(v), v.type.size, threads)))
        for step, v in ((fill, out), (write, x))
    )
    first.following = then if x.type.size else None
    return first


def fold(op: Op, threads: int) -> Kernel:
    """A loop that fills with zeros, and then one over the elements in their order, which adds each.

    It is divided along an axis whose indices never share a place.
    """
    (x,), (out,) = op.inputs, op.results
    dtype = x.type.dtype
    wide = accumulator(dtype)
    shape, steps = x.type.shape, cast("tuple[int, ...]", op.attributes["strides"])
    reach = [(n - 1) * abs(step) for n, step in zip(shape, steps, strict=True)]
    apart = [i for i, step in enumerate(steps) if abs(step) > sum(reach) - reach[i]]

    def fill(kernel: Kernel) -> None:
        with kernel.axis("i", out.type.size) as position:
            kernel.store(out, position, identity("sum", dtype))

    def add(kernel: Kernel, into: Value) -> None:
        with ExitStack() as stack:
            at, position = Affine(cast(int, op.attributes["offset"])), Affine()
            for i, (n, step) in enumerate(zip(shape, steps, strict=True)):
                index = stack.enter_context(kernel.axis(f"a{i}", n))
                at, position = at + index.scaled(step), position.scaled(n) + index
            element = convert(kernel, kernel.pull(x, position), dtype, wide)
            kernel.store(into, at, combine(kernel, "sum", wide, kernel.load(into, at), element))

    def narrow(kernel: Kernel) -> None:
        total = kernel.temporary(Type(wide, out.type.shape))
        with kernel.axis("f", out.type.size) as position:
            kernel.store(total, position, identity("sum", wide))
        add(kernel, total)
        with kernel.axis("c", out.type.size) as position:
            kernel.store(out, position, convert(kernel, kernel.load(total, position), wide, dtype))

    if wide != dtype:
        return written((), narrow)
    first = written((), fill, along("i", count(copying(out), out.type.size, threads)))
    longest = max(apart, key=shape.__getitem__, default=None)
    parts = 1 if longest is None else count(copying(x), shape[longest], threads)
    division = along(f"a{longest}", parts) if parts > 1 else WHOLE
    first.following = written((), lambda kernel: add(kernel, out), division)
    return first


def checked_base(kernel: Kernel, x: Value, indices: tuple[Value, ...], at: Affine) -> Affine:
    """Where the indices at a position point in ``x``; outside of it, the kernel fails."""
    base = Affine()
    rows = strides(x.type.shape)
    for axis, (index, n) in enumerate(zip(indices, x.type.shape, strict=False)):
        value = kernel.pull(index, at)
        bound = kernel.length(n) if n < 0 else str(n)
        outside = kernel.let(f"icmp uge i64 {value}, {bound}")
        kernel.fail_if(outside, value, axis)
        base = base + variable(value, max(n, 2) if n >= 0 else LONG).scaled(rows[axis])
    return base


def gather(op: Op, threads: int) -> Kernel:
    """For each index the row it picks."""
    x, *indices = op.inputs
    (out,) = op.results
    picked, row = indices[0].type.size, size(x.type.shape[len(indices) :])

    def write(kernel: Kernel) -> None:
        kernel.fallible = True
        with kernel.axis("o", picked) as o:
            base = checked_base(kernel, x, tuple(indices), o)
            with kernel.axis("i", row) as i:
                kernel.store(out, o.scaled(row) + i, kernel.load(x, base + i))

    extent, axis = max((picked, "o"), (row, "i"))
    return written((), write, along(axis, count(copying(out), extent, threads)))


def scatter(op: Op, threads: int, in_place: bool = False) -> Kernel:
    """A copy, into which each row is combined in order; or no copy, where the result lies already
    where the operand does.

    The rows that are combined meet in places that only the indices know, so parts share their
    elements: each part goes through all the rows in order, with some of the columns.
    """
    x, rows, *indices = op.inputs
    (out,) = op.results
    kind, dtype = str(op.attributes["kind"]), x.type.dtype
    row = size(x.type.shape[len(indices) :])
    wide = dtype if kind == "set" else accumulator(dtype)
    into = out if wide == dtype else Value(Type(wide, x.type.shape))
    start = out if in_place else x

    def copy(source: Value, target: Value) -> Kernel:
        def write(kernel: Kernel) -> None:
            with kernel.each("c", x.type) as c:
                element = kernel.load(source, c)
                element = convert(kernel, element, source.type.dtype, target.type.dtype)
                kernel.store(target, c, element)

        parts = 1 if x.type.is_table else count(copying(x), x.type.size, threads)
        return written((), write, along("c", parts))

    def combining(kernel: Kernel) -> None:
        kernel.fallible = True
        with ExitStack() as stack:
            o = stack.enter_context(kernel.axis("o", indices[0].type.size))
            base = checked_base(kernel, x, tuple(indices), o)
            i = stack.enter_context(kernel.axis("i", row))
            element = kernel.pull(rows, o.scaled(row) + i)
            if kind != "set":
                element = combine(kernel, kind, wide, kernel.load(into, base + i), element)
            kernel.store(into, base + i, element)

    parts = count(copying(rows), row, threads, 16)
    steps = [written((), combining, along("i", parts))]
    if start is not into:
        steps.insert(0, copy(start, into))
    if into is not out:
        steps.append(copy(into, out))
        steps[0].temporaries.append(into)
    for one, then in pairwise(steps):
        one.following = then
    return steps[0]
