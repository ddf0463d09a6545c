"""Lowerings of products of matrices, of sliding windows and of an optimiser's step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lantern.primitives import elementwise as e
from lantern.primitives import products, windows
from lantern.primitives.optimizers import adam
from lantern.primitives.products import transposed
from lantern.primitives.structure import Shape, concat, reduce_sum
from lantern.primitives.windows import Padding, counts
from lantern.staged.stage import (
    F32,
    Lowering,
    common_dtype,
    converted,
    emit,
    in_dtype,
    is_narrow,
    literal,
    repeated,
    shaped,
    widened,
)
from lantern.staged.structure import padded, part, strided
from lantern.symbol import Symbol


def matmul(x: Any, y: Any) -> Symbol:
    """One matrix that a whole batch shares is multiplied with all rows of the batch at once."""
    x, y = in_dtype(common_dtype(x, y), x, y)
    if x.dtype.kind == "b":
        return matmul(converted(x, F32), converted(y, F32)) > 0
    *lead, m, k = x.shape
    n = y.shape[-1]
    if k == y.shape[-2] and (k == 1 or (m, n) == (1, 1)):
        return pointwise(x, y)
    if y.ndim == 2 and lead:
        if k != y.shape[0]:
            raise ValueError(f"inner lengths {k} and {y.shape[0]} differ")
        return shaped(product(shaped(x, (math.prod(lead) * m, k)), y), (*lead, m, n))
    batch = np.broadcast_shapes(tuple(lead), y.shape[:-2])
    return product(repeated(x, (*batch, m, k)), repeated(y, (*batch, *y.shape[-2:])))


@widened
def pointwise(x: Any, y: Any) -> Symbol:
    """Outer products, and a batch of inner ones: what stands around them can join their loops."""
    if x.shape[-1] == 1:
        return x * y
    row = x * transposed(y)
    last = row.ndim - 1
    return shaped(reduce_sum(row, axes=(last,)), (*row.shape[:-1], 1))


def product(x: Symbol, y: Symbol) -> Symbol:
    return emit("matmul", x, y, transpose_x=False, transpose_y=False)


# Windows ------------------------------------------------------------------------------------------


def windows_of(
    x: Symbol, *, size: Shape, stride: Shape, dilation: Shape, padding: Padding
) -> Symbol:
    """Axis by axis: the elements that one tap reads are a slice, and the slices are stacked."""
    rank = len(size)
    lead = x.ndim - rank - 1
    number = counts(x.shape[lead:-1], size=size, stride=stride, dilation=dilation, padding=padding)
    room = [b + n + a for n, (b, a) in zip(x.shape[lead:-1], padding, strict=True)]
    starts = (*(0 for _ in range(lead)), *(b for b, _ in padding), 0)
    x = padded(x, (*x.shape[:lead], *room, x.shape[-1]), starts, (1,) * x.ndim)
    for i in range(rank):
        taps = [part(x, lead + i, t * dilation[i], number[i], stride[i]) for t in range(size[i])]
        apart = [shaped(t, (*t.shape[:-1], 1, t.shape[-1])) for t in taps]
        x = concat(*apart, axis=apart[0].ndim - 2)
    return x


def fold(x: Symbol, *, lengths: Shape, stride: Shape, dilation: Shape, padding: Padding) -> Symbol:
    """Axis by axis, the last one first: what one tap contributes is padded to its places."""
    dtype = x.dtype
    x = converted(x, F32) if is_narrow(dtype) else x
    rank = len(lengths)
    lead = x.ndim - 2 * rank - 1
    for i in reversed(range(rank)):
        axis, taps = lead + i, x.ndim - 2
        room = lengths[i] + sum(padding[i])
        total = None
        for t in range(x.shape[taps]):
            one = part(x, taps, t, 1)
            one = shaped(one, (*one.shape[:taps], one.shape[-1]))
            shape = (*one.shape[:axis], room, *one.shape[axis + 1 :])
            starts = [t * dilation[i] if a == axis and one.shape[a] else 0 for a in range(one.ndim)]
            steps = [stride[i] if a == axis else 1 for a in range(one.ndim)]
            one = padded(one, shape, tuple(starts), tuple(steps))
            total = one if total is None else total + one
        assert total is not None
        x = total
    inside = (
        *((0, n, 1) for n in x.shape[:lead]),
        *((b, n, 1) for n, (b, _) in zip(lengths, padding, strict=True)),
        (0, x.shape[-1], 1),
    )
    return converted(strided(x, inside), dtype)


# Optimisers ---------------------------------------------------------------------------------------


def adam_step(
    g: Any, m: Any, v: Any, p: Any, rate: Any, scale: Any, decay: Any, *, b1: Any, b2: Any, eps: Any
) -> tuple[Symbol, ...]:
    dtype = common_dtype(m, v)
    still = literal(decay) == 0
    g, m, v, p, rate, scale, decay = in_dtype(dtype, g, m, v, p, rate, scale, decay)
    m = m * b1 + g * (1 - b1)
    v = v * b2 + g * g * (1 - b2)
    update = m * -rate / (e.sqrt(v * scale) + eps)
    return (update if still else update - p * decay), m, v


LOWERINGS: dict[Any, Lowering] = {
    products.matmul: matmul,
    windows.windows: windows_of,
    windows.fold: fold,
    adam: adam_step,
}
