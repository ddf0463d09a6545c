"""Operations that move elements: concat, pad, gather and scatter."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, cast

from backends.llvm.affine import Affine, strides
from backends.llvm.code import variable
from backends.llvm.dtypes import accumulator
from backends.llvm.dtypes import cast as convert
from backends.llvm.kernel import Kernel, box, written
from backends.llvm.scalar import combine
from staging.ir import Op, Type, Value


def concat(op: Op) -> Kernel:
    """A loop for each input, which writes its part of the result."""
    (out,) = op.results
    axis = cast(int, op.attributes["axis"])
    row = out.type.size // max(1, size(out.type.shape[:axis]))

    def write(kernel: Kernel) -> None:
        offset = 0
        for k, x in enumerate(op.inputs):
            part = size(x.type.shape[axis:])
            if x.type.size == 0:
                continue
            with kernel.axis(f"o{k}", x.type.size // part) as o, kernel.axis(f"i{k}", part) as i:
                element = kernel.pull(x, o.scaled(part) + i)
                kernel.store(out, o.scaled(row) + i + Affine(offset), element)
            offset += part

    return written((), write)


def size(shape: Any) -> int:
    """The number of elements of a shape."""
    return Type("bool", tuple(shape)).size


def pad(op: Op) -> Kernel:
    """A loop that fills, and one that writes the input over it."""
    x, filler = op.inputs
    (out,) = op.results
    shape, starts, steps = (op.attributes[k] for k in ("shape", "starts", "steps"))

    def write(kernel: Kernel) -> None:
        value = kernel.pull(filler, Affine())
        with kernel.axis("f", out.type.size) as position:
            kernel.store(out, position, value)
        if x.type.size:
            view = box(cast("tuple[int, ...]", shape), starts, x.type.shape, steps)
            with kernel.axis("i", x.type.size) as position:
                kernel.store(out, kernel.through(view, position), kernel.pull(x, position))

    return written((), write)


def checked_base(kernel: Kernel, x: Value, indices: tuple[Value, ...], at: Affine) -> Affine:
    """Where the indices at a position point in ``x``; outside of it, the kernel fails."""
    base = Affine()
    rows = strides(x.type.shape)
    for axis, index in enumerate(indices):
        value = kernel.pull(index, at)
        outside = kernel.let(f"icmp uge i64 {value}, {x.type.shape[axis]}")
        kernel.fail_if(outside, value, axis)
        base = base + variable(value, max(x.type.shape[axis], 2)).scaled(rows[axis])
    return base


def gather(op: Op) -> Kernel:
    """For each index the row it picks."""
    x, *indices = op.inputs
    (out,) = op.results
    row = size(x.type.shape[len(indices) :])

    def write(kernel: Kernel) -> None:
        kernel.fallible = True
        with kernel.axis("o", indices[0].type.size) as o:
            base = checked_base(kernel, x, tuple(indices), o)
            with kernel.axis("i", row) as i:
                kernel.store(out, o.scaled(row) + i, kernel.load(x, base + i))

    return written((), write)


def scatter(op: Op, in_place: bool = False) -> Kernel:
    """A copy, into which each row is combined in order; or no copy, where the result lies already
    where the operand does."""
    x, rows, *indices = op.inputs
    (out,) = op.results
    kind, dtype = str(op.attributes["kind"]), x.type.dtype
    row = size(x.type.shape[len(indices) :])
    wide = dtype if kind == "set" else accumulator(dtype)

    def write(kernel: Kernel) -> None:
        kernel.fallible = True
        into = out if wide == dtype else kernel.temporary(Type(wide, x.type.shape))
        if into is not out or not in_place:
            with kernel.axis("c", x.type.size) as c:
                kernel.store(into, c, kernel.pull(out if in_place else x, c))
        with ExitStack() as stack:
            o = stack.enter_context(kernel.axis("o", indices[0].type.size))
            base = checked_base(kernel, x, tuple(indices), o)
            i = stack.enter_context(kernel.axis("i", row))
            element = kernel.pull(rows, o.scaled(row) + i)
            if kind != "set":
                element = combine(kernel, kind, wide, kernel.load(into, base + i), element)
            kernel.store(into, base + i, element)
        if into is not out:
            with kernel.axis("c", x.type.size) as c:
                kernel.store(out, c, convert(kernel, kernel.load(into, c), wide, dtype))

    return written((), write)
