"""Shapes and dtypes: primitives that move, repeat, add up or convert elements."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from lantern.control import discrete, primitive

Shape = tuple[int, ...]


def wide(dtype: Any) -> Any:
    """The dtype in which values of ``dtype`` are added up: float32 for float16 and bfloat16."""
    return np.dtype(np.float32) if dtype.itemsize == 2 and dtype.kind not in "iu" else dtype


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
    """The batch rule of a primitive over ``axes`` of one argument: the batch comes before them."""
    return perform(x, axes=tuple(a + 1 for a in axes), **params)


def _sum(x: Any, *, axes: Shape) -> Any:
    dtype = wide(x.dtype)
    z = np.add.reduce(x, axis=axes, dtype=dtype)
    return z if dtype is x.dtype else z.astype(x.dtype)


@primitive(_sum, batch=shift_axes)
def reduce_sum(x, *, axes):
    """Add up the elements along ``axes``, which disappear."""
    shape = x.shape
    dz = yield reduce_sum(x, axes=axes)
    return restore(dz, axes=axes, shape=shape)


def restore(z: Any, *, axes: Shape, shape: Shape) -> Any:
    """A reduced value repeated along the ``axes`` that reducing an array of ``shape`` removed."""
    return broadcast_to(reshape(z, shape=kept(shape, axes)), shape=shape)


def kept(shape: Shape, axes: Shape) -> Shape:
    """``shape`` with the reduced ``axes`` of length one."""
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


def batched(size: int, mapped: tuple[bool, ...], values: tuple[Any, ...]) -> list[Any]:
    """The operands with the batch leading in each: those that are not mapped are repeated."""
    return [
        v if m else broadcast_to(v, shape=(size, *v.shape))
        for v, m in zip(values, mapped, strict=True)
    ]


@primitive(lambda x, *, axes: np.flip(x, axes), batch=shift_axes)
def flip(x, *, axes):
    """The elements in reverse order along ``axes``."""
    dz = yield flip(x, axes=axes)
    return flip(dz, axes=axes)


def _batch_concat(perform: Any, size: int, mapped: tuple[bool, ...], *xs: Any, axis: int) -> Any:
    return perform(*batched(size, mapped, xs), axis=axis + 1)


def _lengths(xs: tuple[Any, ...], axis: int) -> tuple[int, ...]:
    return tuple(x.shape[axis] for x in xs)


@primitive(lambda *xs, axis: np.concatenate(xs, axis=axis), batch=_batch_concat)
def concat(*xs, axis):
    """Arrays one after the other along ``axis``; the dual of `split`."""
    sizes = _lengths(xs, axis)
    dz = yield concat(*xs, axis=axis)
    return split(dz, sizes=sizes, axis=axis)


def _split(x: Any, *, sizes: tuple[int, ...], axis: int) -> Any:
    before = (slice(None),) * axis
    ends = itertools.accumulate(sizes)
    return tuple(x[(*before, slice(e - n, e))] for n, e in zip(sizes, ends, strict=True))


def _batch_split(
    perform: Any, size: int, mapped: tuple[bool, ...], x: Any, *, sizes: Any, axis: int
) -> Any:
    return perform(x, sizes=sizes, axis=axis + 1)


@primitive(_split, batch=_batch_split)
def split(x, *, sizes, axis):
    """Consecutive parts of ``sizes`` along ``axis``, ``x`` in all; the dual of `concat`."""
    dzs = yield split(x, sizes=sizes, axis=axis)
    return concat(*dzs, axis=axis)
