"""Lowerings of sliding windows and their dual."""

from __future__ import annotations

import itertools
import math
from typing import Any

from lantern.primitives import windows as p
from lantern.primitives.structure import Shape
from lantern.primitives.windows import Padding, counts
from lantern.staged.stage import F32, Lowering, converted, emit, is_narrow, shaped
from lantern.staged.structure import padded, permute, strided
from lantern.symbol import Symbol


def places(room: Shape, stride: Shape, dilation: Shape) -> tuple[Shape, Shape]:
    """How far apart the elements of a window are, and the windows, in an array that ends in
    ``room``."""
    rows = tuple(math.prod(room[i + 1 :]) for i in range(len(room)))
    return (
        tuple(r * d for r, d in zip(rows, dilation, strict=True)),
        tuple(r * s for r, s in zip(rows, stride, strict=True)),
    )


def with_padding(lengths: Shape, padding: Padding) -> Shape:
    return tuple(b + n + a for n, (b, a) in zip(lengths, padding, strict=True))


def windows(x: Symbol, *, size: Shape, stride: Shape, dilation: Shape, padding: Padding) -> Symbol:
    """A view of the padded array."""
    lead = x.ndim - len(size)
    number = counts(x.shape[lead:], size=size, stride=stride, dilation=dilation, padding=padding)
    room = with_padding(x.shape[lead:], padding)
    starts = (*(0 for _ in range(lead)), *(before for before, _ in padding))
    x = padded(x, (*x.shape[:lead], *room), starts, (1,) * x.ndim)
    shape = (*x.shape[:lead], *size, *number)
    strides = (*leading(x.shape, lead), *itertools.chain(*places(room, stride, dilation)))
    return emit("view", x, shape=shape, strides=strides, offset=0)


def leading(shape: Shape, lead: int) -> Shape:
    """The row-major strides of the first axes."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(lead))


def fold(x: Symbol, *, lengths: Shape, stride: Shape, dilation: Shape, padding: Padding) -> Symbol:
    """Windows that lie side by side are only put in their places; others are added up."""
    rank = len(lengths)
    lead = x.ndim - 2 * rank
    first, size, number = x.shape[:lead], x.shape[lead : lead + rank], x.shape[lead + rank :]
    room = (*first, *with_padding(lengths, padding))
    if size == stride and set(dilation) <= {1}:
        turned = itertools.chain(*((lead + rank + i, lead + i) for i in range(rank)))
        x = permute(x, axes=(*range(lead), *turned))
        x = shaped(x, (*first, *(n * k for n, k in zip(number, size, strict=True))))
        x = padded(x, room, (0,) * x.ndim, (1,) * x.ndim)
    else:
        within, between = places(room[lead:], stride, dilation)
        strides = (*leading(room, lead), *within, *between)
        dtype, x = x.dtype, converted(x, F32) if is_narrow(x.dtype) else x
        x = converted(emit("fold", x, shape=room, strides=strides, offset=0), dtype)
    inside = (
        *((0, n, 1) for n in first),
        *((b, n, 1) for n, (b, _) in zip(lengths, padding, strict=True)),
    )
    return strided(x, inside)


LOWERINGS: dict[Any, Lowering] = {p.windows: windows, p.fold: fold}
