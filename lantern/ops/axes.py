"""Axes and shapes as users write them, made the tuples of integers that primitives take."""

from __future__ import annotations

import operator
from typing import Any

from lantern.errors import ArgumentTypeError, IndexRangeError, ShapeError
from lantern.primitives.indexing import static_slice
from lantern.tensor import Tensor

Axis = int | tuple[int, ...] | None


def one_axis(axis: Any, ndim: int, what: str) -> int:
    """An axis of an array of ``ndim`` axes, counted from the front.

    Raises:
        IndexRangeError: ``axis`` is not in ``[-ndim, ndim)``.
        ArgumentTypeError: ``axis`` is no integer.

    Example:
        >>> one_axis(-1, 3, "sum")
        2
    """
    try:
        k = operator.index(axis)
    except TypeError:
        raise ArgumentTypeError(f"{what}: axis {axis!r}; expected an integer") from None
    if not -ndim <= k < ndim:
        span = f"between {-ndim} and {ndim - 1}" if ndim else "no axis at all: it is a scalar"
        raise IndexRangeError(f"{what}: axis {k} of an array of {ndim} axes; expected {span}")
    return k + ndim if k < 0 else k


def all_axes(axis: Any, ndim: int, what: str) -> tuple[int, ...]:
    """The axes meant by an integer, a tuple, or None (all of them), in ascending order.

    Raises:
        IndexRangeError: an axis is not in ``[-ndim, ndim)``.
        ShapeError: an axis is named twice.

    Example:
        >>> all_axes((-1, 0), 3, "sum"), all_axes(None, 2, "sum")
        ((0, 2), (0, 1))
    """
    return tuple(range(ndim)) if axis is None else tuple(sorted(axes_in_order(axis, ndim, what)))


def axes_in_order(axis: Any, ndim: int, what: str) -> tuple[int, ...]:
    """Like `all_axes` of an integer or tuple, but in the order given.

    Example:
        >>> axes_in_order((-1, 0), 3, "moveaxis")
        (2, 0)
    """
    if not isinstance(axis, (tuple, list)):
        return (one_axis(axis, ndim, what),)
    axes = tuple(one_axis(a, ndim, what) for a in axis)
    if len(set(axes)) != len(axes):
        raise ShapeError(f"{what}: axes {tuple(axis)} name one axis twice")
    return axes


def as_shape(shape: Any, what: str) -> tuple[int, ...]:
    """A shape, or the length of a single axis, as a tuple of Python integers.

    Example:
        >>> as_shape([2, 3], "reshape"), as_shape(4, "reshape")
        ((2, 3), (4,))
    """
    try:
        if hasattr(shape, "__index__") and not getattr(shape, "shape", ()):
            return (operator.index(shape),)
        return tuple(operator.index(n) for n in shape)
    except TypeError:
        raise ShapeError(f"{what}: a shape is a tuple of integers, not {shape!r}") from None


def part(x: Tensor, axis: int, start: int, stop: int) -> Tensor:
    """The elements of ``x`` from ``start`` to before ``stop`` along ``axis``."""
    stop = max(start, stop)
    return static_slice(
        x, index=tuple((start, stop, 1) if i == axis else (0, n, 1) for i, n in enumerate(x.shape))
    )
