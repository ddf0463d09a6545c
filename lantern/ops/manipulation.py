"""Manipulation of shapes, of the array API standard: elements move, and none changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lantern.convert import asarray
from lantern.errors import ShapeError, describe, user_line
from lantern.ops.axes import as_shape, axes_in_order, one_axis
from lantern.primitives import structure as p
from lantern.tensor import Tensor

__all__ = [
    "broadcast_to",
    "concat",
    "expand_dims",
    "flip",
    "permute_dims",
    "reshape",
    "squeeze",
    "stack",
]


def reshape(x: Any, /, shape: Any, *, copy: bool | None = None) -> Tensor:
    x = asarray(x)
    wanted = as_shape(shape, "reshape")
    known = math.prod(n for n in wanted if n != -1)
    if wanted.count(-1) == 1 and known and x.size % known == 0:
        wanted = tuple(x.size // known if n == -1 else n for n in wanted)
    if any(n < 0 for n in wanted) or math.prod(wanted) != x.size:
        raise ShapeError(
            f"reshape: {describe(x)} has {x.size} elements, not those of shape {list(wanted)}\n"
            f"  at {user_line()}"
        )
    return p.reshape(x, shape=wanted)


def permute_dims(x: Any, /, axes: tuple[int, ...]) -> Tensor:
    x = asarray(x)
    order = axes_in_order(tuple(axes), x.ndim, "permute_dims")
    if len(order) != x.ndim:
        raise ShapeError(
            f"permute_dims: {describe(x)} has {x.ndim} axes; axes={tuple(axes)} orders others\n"
            f"  at {user_line()}"
        )
    return p.permute(x, axes=order)


def expand_dims(x: Any, /, *, axis: int | tuple[int, ...] = 0) -> Tensor:
    x = asarray(x)
    ndim = x.ndim + (len(axis) if isinstance(axis, (tuple, list)) else 1)
    new = axes_in_order(axis, ndim, "expand_dims")
    rest = iter(x.shape)
    return p.reshape(x, shape=tuple(1 if i in new else next(rest) for i in range(ndim)))


def squeeze(x: Any, /, axis: int | tuple[int, ...]) -> Tensor:
    x = asarray(x)
    shape = x.shape
    gone = axes_in_order(axis, len(shape), "squeeze")
    if any(shape[a] != 1 for a in gone):
        raise ShapeError(
            f"squeeze: axes {axis} of {describe(x)}; only axes of length 1 can go\n"
            f"  at {user_line()}"
        )
    return p.reshape(x, shape=tuple(n for i, n in enumerate(shape) if i not in gone))


def broadcast_to(x: Any, /, shape: tuple[int, ...]) -> Tensor:
    x = asarray(x)
    wanted = as_shape(shape, "broadcast_to")
    lead = len(wanted) - x.ndim
    if lead < 0 or any(n not in (1, w) for n, w in zip(x.shape, wanted[lead:], strict=True)):
        raise ShapeError(
            f"broadcast_to: {describe(x)} does not broadcast to shape {list(wanted)};"
            f" its last axes must have the lengths of the shape, or 1\n  at {user_line()}"
        )
    return x if wanted == x.shape else p.broadcast_to(x, shape=wanted)


def concat(arrays: Sequence[Any], /, *, axis: int | None = 0) -> Tensor:
    xs = _promoted(arrays, "concat")
    if axis is None:
        xs, axis = [p.reshape(x, shape=(x.size,)) for x in xs], 0
    k = one_axis(axis, xs[0].ndim, "concat")
    return p.concat(*xs, axis=k)


def stack(arrays: Sequence[Any], /, *, axis: int = 0) -> Tensor:
    xs = _promoted(arrays, "stack")
    k = one_axis(axis, xs[0].ndim + 1, "stack")
    return p.concat(*(p.reshape(x, shape=(*x.shape[:k], 1, *x.shape[k:])) for x in xs), axis=k)


def flip(x: Any, /, *, axis: int | tuple[int, ...] | None = None) -> Tensor:
    x = asarray(x)
    axes = tuple(range(x.ndim)) if axis is None else axes_in_order(axis, x.ndim, "flip")
    return p.flip(x, axes=axes)


def _promoted(arrays: Sequence[Any], what: str) -> list[Tensor]:
    xs = [asarray(x) for x in arrays]
    if not xs:
        raise ShapeError(f"{what}: no arrays\n  at {user_line()}")
    dtype = np.result_type(*(x.dtype for x in xs))
    return [x if x.dtype == dtype else p.convert(x, dtype=dtype) for x in xs]
