"""Lowerings of what moves, repeats and converts elements."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from lantern.primitives import structure as p
from lantern.primitives.products import diagonal, from_diagonal
from lantern.primitives.structure import Shape
from lantern.staged.stage import Lowering, converted, emit, in_dtype, repeated, shaped
from lantern.symbol import Symbol


def convert(x: Symbol, *, dtype: Any) -> Symbol:
    return converted(x, np.dtype(dtype))


def reshape(x: Symbol, *, shape: Shape) -> Symbol:
    return shaped(x, tuple(shape))


def broadcast_to(x: Symbol, *, shape: Shape) -> Symbol:
    return repeated(x, tuple(shape))


def permute(x: Symbol, *, axes: Shape) -> Symbol:
    if tuple(axes) == tuple(range(x.ndim)):
        return x
    return emit("transpose", x, axes=tuple(axes))


def strided(x: Symbol, triples: tuple[tuple[int, int, int], ...]) -> Symbol:
    """``count`` elements from ``start`` by ``step``, along each axis."""
    if all(triple == (0, n, 1) for triple, n in zip(triples, x.shape, strict=True)):
        return x
    starts, counts, steps = zip(*triples, strict=True)
    return emit("slice", x, starts=starts, counts=counts, steps=steps)


def part(x: Symbol, axis: int, start: int, count: int, step: int = 1) -> Symbol:
    """A slice along one axis."""
    return strided(
        x,
        tuple((start, count, step) if a == axis else (0, n, 1) for a, n in enumerate(x.shape)),
    )


def padded(x: Symbol, shape: Shape, starts: Shape, steps: Shape) -> Symbol:
    """Zeros of ``shape``, with ``x`` from ``starts`` by ``steps``."""
    if tuple(shape) == x.shape and not any(starts) and all(s == 1 for s in steps):
        return x
    zero = x.stage.constant(0, x.dtype)
    return emit("pad", x, zero, shape=tuple(shape), starts=tuple(starts), steps=tuple(steps))


def flip(x: Symbol, *, axes: Shape) -> Symbol:
    return strided(
        x, tuple((n - 1, n, -1) if a in axes and n else (0, n, 1) for a, n in enumerate(x.shape))
    )


def concat(*xs: Any, axis: int) -> Symbol:
    dtype = np.result_type(*(x.dtype for x in xs))
    parts = [x for x in in_dtype(dtype, *xs) if x.shape[axis]] or [xs[0]]
    return parts[0] if len(parts) == 1 else emit("concat", *parts, axis=axis)


def split(x: Symbol, *, sizes: Shape, axis: int) -> tuple[Symbol, ...]:
    ends = itertools.accumulate(sizes)
    return tuple(part(x, axis, e - n if n else 0, n) for n, e in zip(sizes, ends, strict=True))


def diagonal_of(x: Symbol, *, offset: int) -> Symbol:
    """Of a matrix in one line, the elements that are n + 1 apart."""
    *lead, m, n = x.shape
    first = offset if offset >= 0 else -offset * n
    count = max(0, min(m, n - offset) if offset >= 0 else min(m + offset, n))
    flat = shaped(x, (*lead, m * n))
    return part(flat, len(lead), first if count else 0, count, n + 1)


def on_diagonal(x: Symbol, *, offset: int, shape: Shape) -> Symbol:
    m, n = shape
    lead = x.shape[:-1]
    first = offset if offset >= 0 else -offset * n
    starts, steps = (*(0 for _ in lead), first), (*(1 for _ in lead), n + 1)
    return shaped(padded(x, (*lead, m * n), starts, steps), (*lead, m, n))


LOWERINGS: dict[Any, Lowering] = {
    p.cast: convert,
    p.convert: convert,
    p.reshape: reshape,
    p.broadcast_to: broadcast_to,
    p.permute: permute,
    p.flip: flip,
    p.concat: concat,
    p.split: split,
    diagonal: diagonal_of,
    from_diagonal: on_diagonal,
}
