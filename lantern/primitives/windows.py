"""Sliding windows and their dual: convolution is one of these and a product of matrices.

Spatial axes come last: (..., *lengths) <-> (..., *sizes, *counts). What leads is arbitrary; what
one element of all windows reads, row after row, lies together in memory.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from lantern.control import primitive
from lantern.primitives.products import on_trailing_axes
from lantern.primitives.structure import Shape

Padding = tuple[tuple[int, int], ...]  # zeros before and after each spatial axis


def counts(
    lengths: Shape, *, size: Shape, stride: Shape, dilation: Shape, padding: Padding
) -> Shape:
    """How many windows fit on each spatial axis; not positive where none does."""
    return tuple(
        (n + before + after - d * (k - 1) - 1) // s + 1
        for n, k, s, d, (before, after) in zip(
            lengths, size, stride, dilation, padding, strict=True
        )
    )


def _windows(x: Any, *, size: Shape, stride: Shape, dilation: Shape, padding: Padding) -> Any:
    lead = x.ndim - len(size)
    number = counts(x.shape[lead:], size=size, stride=stride, dilation=dilation, padding=padding)
    if any(before or after for before, after in padding):
        x = _padded(x, padding)
    steps = x.strides[lead:]
    return np.lib.stride_tricks.as_strided(
        x,
        (*x.shape[:lead], *size, *number),
        (
            *x.strides[:lead],
            *(t * d for t, d in zip(steps, dilation, strict=True)),
            *(t * s for t, s in zip(steps, stride, strict=True)),
        ),
        writeable=False,
    )


def _padded(x: Any, padding: Padding) -> Any:
    lead = x.ndim - len(padding)
    room = tuple(b + n + a for n, (b, a) in zip(x.shape[lead:], padding, strict=True))
    out = np.zeros((*x.shape[:lead], *room), x.dtype)
    out[(..., *_inside(x.shape[lead:], padding))] = x
    return out


def _inside(lengths: Shape, padding: Padding) -> tuple[slice, ...]:
    """Where what was padded lies."""
    return tuple(slice(b, b + n) for n, (b, _) in zip(lengths, padding, strict=True))


@primitive(_windows, batch=on_trailing_axes)
def windows(x, *, size, stride, dilation, padding):
    """(..., *lengths) -> (..., *size, *counts): a view of the array, padded with zeros.

    Element (k, o) of an axis is number o * stride + k * dilation of the padded axis.
    """
    lengths = x.shape[x.ndim - len(size) :]
    dz = yield windows(x, size=size, stride=stride, dilation=dilation, padding=padding)
    return fold(dz, lengths=lengths, stride=stride, dilation=dilation, padding=padding)


def _fold(x: Any, *, lengths: Shape, stride: Shape, dilation: Shape, padding: Padding) -> Any:
    rank = len(lengths)
    lead = x.ndim - 2 * rank
    size, number = x.shape[lead : lead + rank], x.shape[lead + rank :]
    room = tuple(b + n + a for n, (b, a) in zip(lengths, padding, strict=True))
    dtype = np.float32 if x.dtype.itemsize == 2 and x.dtype.kind not in "iu" else x.dtype
    out = np.zeros((*x.shape[:lead], *room), dtype)
    everything = (slice(None),) * rank
    for tap in itertools.product(*map(range, size)):
        place = tuple(
            slice(t * d, t * d + s * (o - 1) + 1, s)
            for t, d, s, o in zip(tap, dilation, stride, number, strict=True)
        )
        out[(..., *place)] += x[(..., *tap, *everything)]
    return out[(..., *_inside(lengths, padding))].astype(x.dtype, copy=False)


@primitive(_fold, batch=on_trailing_axes)
def fold(x, *, lengths, stride, dilation, padding):
    """(..., *size, *counts) -> (..., *lengths): add elements where `windows` reads."""
    rank = len(lengths)
    size = x.shape[x.ndim - 2 * rank : x.ndim - rank]
    dz = yield fold(x, lengths=lengths, stride=stride, dilation=dilation, padding=padding)
    return windows(dz, size=size, stride=stride, dilation=dilation, padding=padding)
