"""Shapes and dtypes: primitives that move, repeat, add up or convert elements."""

from __future__ import annotations

from typing import Any

import numpy as np

from lantern.control import discrete, primitive

Shape = tuple[int, ...]


def _low_precision(x: Any) -> bool:
    return x.dtype.itemsize == 2 and x.dtype.kind not in "iu"


def _batch_cast(perform: Any, size: int, mapped: tuple[bool, ...], x: Any, *, dtype: Any) -> Any:
    return perform(x, dtype=dtype)


@primitive(lambda x, *, dtype: x.astype(dtype), batch=_batch_cast)
def cast(x, *, dtype):
    """Convert between floating dtypes."""
    was = x.dtype
    dz = yield cast(x, dtype=dtype)
    return cast(dz, dtype=was)


convert = discrete("convert", lambda x, *, dtype: x.astype(dtype), batch=_batch_cast)


def _batch_reshape(
    perform: Any, size: int, mapped: tuple[bool, ...], x: Any, *, shape: Shape
) -> Any:
    return perform(x, shape=(size, *shape))


@primitive(lambda x, *, shape: x.reshape(shape), batch=_batch_reshape)
def reshape(x, *, shape):
    """The same elements in row-major order under another shape."""
    was = x.shape
    dz = yield reshape(x, shape=shape)
    return reshape(dz, shape=was)


def _batch_broadcast(
    perform: Any, size: int, mapped: tuple[bool, ...], x: Any, *, shape: Shape
) -> Any:
    x = reshape(x, shape=(size,) + (1,) * (len(shape) + 1 - x.ndim) + tuple(x.shape[1:]))
    return perform(x, shape=(size, *shape))


@primitive(lambda x, *, shape: np.broadcast_to(x, shape), batch=_batch_broadcast)
def broadcast_to(x, *, shape):
    """Repeat elements along new leading axes and axes of length one; the accumulation undoes it."""
    dz = yield broadcast_to(x, shape=shape)
    return dz


def _batch_permute(
    perform: Any, size: int, mapped: tuple[bool, ...], x: Any, *, axes: Shape
) -> Any:
    return perform(x, axes=(0, *(a + 1 for a in axes)))


@primitive(lambda x, *, axes: x.transpose(axes), batch=_batch_permute)
def permute(x, *, axes):
    """Axis k of the result is axis ``axes[k]`` of ``x``."""
    dz = yield permute(x, axes=axes)
    return permute(dz, axes=tuple(sorted(range(len(axes)), key=axes.__getitem__)))


def shift_axes(
    perform: Any, size: int, mapped: tuple[bool, ...], x: Any, *, axes: Shape, **params: Any
) -> Any:
    """The batch rule of a primitive over ``axes`` of its one argument: the batch axis comes before them."""
    return perform(x, axes=tuple(a + 1 for a in axes), **params)


def _sum(x: Any, *, axes: Shape) -> Any:
    if _low_precision(x):  # accumulate float16 and bfloat16 in float32
        return np.sum(x, axis=axes, dtype=np.float32).astype(x.dtype)
    return np.sum(x, axis=axes, dtype=x.dtype)


@primitive(_sum, batch=shift_axes)
def reduce_sum(x, *, axes):
    """Add up the elements along ``axes``, which disappear."""
    shape = x.shape
    dz = yield reduce_sum(x, axes=axes)
    kept = tuple(1 if i in axes else n for i, n in enumerate(shape))
    return broadcast_to(reshape(dz, shape=kept), shape=shape)
