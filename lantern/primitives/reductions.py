"""Reductions and running reductions along axes; `reduce_sum` stands in `structure`."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from lantern.control import discrete, primitive
from lantern.primitives.elementwise import where
from lantern.primitives.indexing import static_slice
from lantern.primitives.structure import (
    batched,
    concat,
    convert,
    kept,
    permute,
    reduce_sum,
    reshape,
    restore,
    shift_axes,
    wide,
)

Shape = tuple[int, ...]


# The largest and the smallest element -----------------------------------------------------------


def _shares(x: Any, z: Any, axes: Shape) -> Any:
    """The part of the adjoint that each element of ``x`` receives.

    Those equal to the extremum ``z`` share it equally; where that is NaN, the NaNs do.
    """
    z = reshape(z, shape=kept(x.shape, axes))
    hit = convert(where(z == z, x == z, x != x), dtype=wide(x.dtype))
    return hit / reshape(reduce_sum(hit, axes=axes), shape=z.shape)


@primitive(lambda x, *, axes: np.maximum.reduce(x, axis=axes), batch=shift_axes)
def reduce_max(x, *, axes):
    """The largest element along ``axes``; equal ones share the adjoint."""
    z = reduce_max(x, axes=axes)
    dz = yield z
    return restore(dz, axes=axes, shape=x.shape) * _shares(x, z, axes)


@primitive(lambda x, *, axes: np.minimum.reduce(x, axis=axes), batch=shift_axes)
def reduce_min(x, *, axes):
    """The smallest element along ``axes``; equal ones share the adjoint."""
    z = reduce_min(x, axes=axes)
    dz = yield z
    return restore(dz, axes=axes, shape=x.shape) * _shares(x, z, axes)


# Products: no rule divides by an element, which may be zero -------------------------------------


def _batch_scan(
    perform: Any, size: int, mapped: tuple[bool, ...], *xs: Any, axis: int, **params: Any
) -> Any:
    return perform(*batched(size, mapped, xs), axis=axis + 1, **params)


def _prod(x: Any, *, axes: Shape) -> Any:
    return np.multiply.reduce(x, axis=axes, dtype=wide(x.dtype)).astype(x.dtype)


@primitive(_prod, batch=shift_axes)
def reduce_prod(x, *, axes):
    """The product along ``axes``; an element's derivative is the product of the others."""
    shape = x.shape
    dz = yield reduce_prod(x, axes=axes)
    order = tuple(i for i in range(len(shape)) if i not in axes) + axes
    moved = permute(x, axes=order)
    rows = reshape(moved, shape=(*dz.shape, math.prod(shape[a] for a in axes)))
    last = len(dz.shape)
    others = delayed(cumulative_prod(rows, axis=last, reverse=False), 1, last, False) * delayed(
        cumulative_prod(rows, axis=last, reverse=True), 1, last, True
    )
    adjoint = reshape(dz, shape=(*dz.shape, 1)) * others
    back = tuple(sorted(range(len(order)), key=order.__getitem__))
    return permute(reshape(adjoint, shape=moved.shape), axes=back)


def delayed(x: Any, first: Any, axis: int, reverse: bool) -> Any:
    """``x`` moved on by one place along ``axis``, back if ``reverse``; ``first`` fills the gap."""
    n = x.shape[axis]
    if n == 0:
        return x
    inner = (1, n, 1) if reverse else (0, n - 1, 1)
    rest = static_slice(
        x, index=tuple(inner if i == axis else (0, m, 1) for i, m in enumerate(x.shape))
    )
    edge = np.full(kept(x.shape, (axis,)), first, x.dtype)
    return concat(rest, edge, axis=axis) if reverse else concat(edge, rest, axis=axis)


def _along(ufunc: np.ufunc, x: Any, axis: int, reverse: bool) -> Any:
    x = np.flip(x, axis) if reverse else x
    z = ufunc.accumulate(x, axis=axis, dtype=wide(x.dtype)).astype(x.dtype, copy=False)
    return np.flip(z, axis) if reverse else z


@primitive(
    lambda x, *, axis, reverse: _along(np.add, x, axis, reverse),
    batch=_batch_scan,
)
def cumulative_sum(x, *, axis, reverse):
    """Running sums along ``axis``, from its end if ``reverse``."""
    dz = yield cumulative_sum(x, axis=axis, reverse=reverse)
    return cumulative_sum(dz, axis=axis, reverse=not reverse)


@primitive(
    lambda x, *, axis, reverse: _along(np.multiply, x, axis, reverse),
    batch=_batch_scan,
)
def cumulative_prod(x, *, axis, reverse):
    """Running products along ``axis``, from its end if ``reverse``.

    The adjoint of xₖ is zₖ₋₁ sₖ, where sₖ = dzₖ + xₖ₊₁ sₖ₊₁ gathers what
    came to the products that it is part of.
    """
    z = cumulative_prod(x, axis=axis, reverse=reverse)
    dz = yield z
    later = recurrence(delayed(x, 0, axis, not reverse), dz, axis=axis, reverse=not reverse)
    return later * delayed(z, 1, axis, reverse)


def _recurrence(a: Any, b: Any, *, axis: int, reverse: bool) -> Any:
    """Row by row; a single row runs on Python floats, which are ten times as fast as NumPy's."""
    n, dtype = b.shape[axis], wide(b.dtype)
    if n == 0:
        return b
    factors, terms = (
        np.moveaxis(v.astype(dtype), axis, 0)[:: -1 if reverse else 1] for v in (a, b)
    )
    if b.size == n:
        steps = zip(factors.ravel().tolist(), terms.ravel().tolist(), strict=True)
        sums = itertools.accumulate(steps, lambda s, step: step[0] * s + step[1], initial=0.0)
        out = np.array(list(sums)[1:], dtype).reshape(terms.shape)
    else:
        out = np.empty(terms.shape, dtype)
        out[0] = terms[0]
        for k in range(1, n):
            np.multiply(factors[k], out[k - 1], out=out[k])
            out[k] += terms[k]
    return np.moveaxis(out[:: -1 if reverse else 1], 0, axis).astype(b.dtype, copy=False)


@primitive(_recurrence, batch=_batch_scan)
def recurrence(a, b, *, axis, reverse):
    """sₖ = aₖ sₖ₋₁ + bₖ along ``axis`` with s₋₁ = 0, from its end if ``reverse``.

    a₀ has no effect.
    """
    s = recurrence(a, b, axis=axis, reverse=reverse)
    ds = yield s
    db = recurrence(delayed(a, 0, axis, not reverse), ds, axis=axis, reverse=not reverse)
    return lambda: db * delayed(s, 0, axis, reverse), lambda: db


# Discrete results -------------------------------------------------------------------------------


def _batch_index(perform: Any, size: int, mapped: tuple[bool, ...], x: Any, *, axis: int) -> Any:
    return perform(x, axis=axis + 1)


arg_max = discrete("arg_max", lambda x, *, axis: np.argmax(x, axis=axis), batch=_batch_index)
arg_min = discrete("arg_min", lambda x, *, axis: np.argmin(x, axis=axis), batch=_batch_index)
any_of = discrete("any_of", lambda x, *, axes: np.any(x, axis=axes), batch=shift_axes)
all_of = discrete("all_of", lambda x, *, axes: np.all(x, axis=axes), batch=shift_axes)
count = discrete("count", lambda x, *, axes: np.count_nonzero(x, axis=axes), batch=shift_axes)
