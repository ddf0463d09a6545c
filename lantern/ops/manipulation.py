"""Manipulation of the array API standard: shapes and the order of axes and elements."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lantern.convert import asarray
from lantern.errors import ShapeError, describe
from lantern.ops.axes import Axis, all_axes, as_shape, axes_in_order, one_axis
from lantern.primitives import structure as p
from lantern.symbol import Symbol
from lantern.tensor import Tensor

__all__ = [
    "expand_dims",
    "flatten",
    "flip",
    "matrix_transpose",
    "moveaxis",
    "permute_dims",
    "ravel",
    "reshape",
    "roll",
    "squeeze",
    "swapaxes",
]

# The same elements under another shape ----------------------------------------------------------


def reshape(x: Any, /, shape: int | tuple[int, ...], *, copy: bool | None = None) -> Tensor:
    """The same elements, in row-major order, under another shape.

    Args:
        x: an array.
        shape: the new shape; one length may be -1, which stands for what fits.
        copy: True for elements of its own, False to raise where that is needed, None for either.

    Returns:
        A Tensor of shape ``shape``.

    Raises:
        ShapeError: another number of elements, or a copy is needed and ``copy`` is False.

    Example:
        >>> import lantern as ln
        >>> print(ln.reshape(ln.asarray([1, 2, 3, 4]), (2, -1)))
        [[1 2]
         [3 4]]
    """
    x = asarray(x)
    wanted = as_shape(shape, "reshape")
    known = math.prod(n for n in wanted if n != -1)
    if wanted.count(-1) == 1 and known > 0 and x.size % known == 0:
        wanted = tuple(x.size // known if n == -1 else n for n in wanted)
    if min(wanted, default=0) < 0 or math.prod(wanted) != x.size:
        raise ShapeError(
            f"reshape: {describe(x)} has {x.size} elements, not those of shape {list(wanted)}"
        )
    # What is inside a transformation has no address.
    if copy is not None and x.prompt is None and type(x.value) is not Symbol:
        try:
            return Tensor(np.reshape(x.value, wanted, copy=copy)[()])
        except ValueError:
            raise ShapeError(
                f"reshape: {describe(x)} is not contiguous, so that shape {list(wanted)} needs a "
                "copy; copy=False forbids it"
            ) from None
    return p.reshape(x, shape=wanted)


def flatten(x: Any, /) -> Tensor:
    """All elements along one axis, in row-major order.

    Example:
        >>> import lantern as ln
        >>> print(ln.flatten(ln.asarray([[1, 2], [3, 4]])))
        [1 2 3 4]
    """
    x = asarray(x)
    return p.reshape(x, shape=(x.size,))


def ravel(x: Any, /) -> Tensor:
    """The same as `flatten`, under NumPy's other name.

    Example:
        >>> import lantern as ln
        >>> print(ln.ravel(ln.asarray([[1, 2], [3, 4]])))
        [1 2 3 4]
    """
    return flatten(x)


def expand_dims(x: Any, /, axis: int | tuple[int, ...] = 0) -> Tensor:
    """``x`` with new axes of length one.

    Args:
        x: an array.
        axis: the places of the new axes in the result.

    Returns:
        A Tensor with as many axes more as ``axis`` names.

    Raises:
        IndexRangeError: the result has no such axis.
        ShapeError: an axis is named twice.

    Example:
        >>> import lantern as ln
        >>> print(ln.expand_dims(ln.asarray([1, 2]), axis=(0, -1)).shape)
        (1, 2, 1)
    """
    x = asarray(x)
    ndim = x.ndim + (len(axis) if isinstance(axis, (tuple, list)) else 1)
    new = axes_in_order(axis, ndim, "expand_dims")
    rest = iter(x.shape)
    return p.reshape(x, shape=tuple(1 if i in new else next(rest) for i in range(ndim)))


def squeeze(x: Any, /, axis: int | tuple[int, ...]) -> Tensor:
    """``x`` without the axes ``axis``, which have length one.

    Args:
        x: an array.
        axis: the axes that go.

    Returns:
        A Tensor with the same elements.

    Raises:
        ShapeError: an axis has another length, or is named twice.
        IndexRangeError: ``x`` has no such axis.

    Example:
        >>> import lantern as ln
        >>> print(ln.squeeze(ln.asarray([[1, 2]]), 0))
        [1 2]
    """
    x = asarray(x)
    shape = x.shape
    gone = axes_in_order(axis, len(shape), "squeeze")
    if any(shape[a] != 1 for a in gone):
        raise ShapeError(f"squeeze: axis {axis} of {describe(x)}; only axes of length 1 can go")
    return p.reshape(x, shape=tuple(n for i, n in enumerate(shape) if i not in gone))


# Axes in another order --------------------------------------------------------------------------


def permute_dims(x: Any, /, axes: tuple[int, ...]) -> Tensor:
    """``x`` with its axes in another order: axis k of the result is axis ``axes[k]`` of ``x``.

    Args:
        x: an array.
        axes: each axis of ``x`` once.

    Returns:
        A Tensor with the same elements.

    Raises:
        ShapeError: ``axes`` does not name each axis once.
        IndexRangeError: ``x`` has no such axis.

    Example:
        >>> import lantern as ln
        >>> print(ln.permute_dims(ln.asarray([[1, 2], [3, 4]]), (1, 0)))
        [[1 3]
         [2 4]]
    """
    x = asarray(x)
    order = axes_in_order(tuple(axes), x.ndim, "permute_dims")
    if len(order) != x.ndim:
        raise ShapeError(
            f"permute_dims: {describe(x)} has {x.ndim} axes; axes={tuple(axes)} orders others"
        )
    return p.permute(x, axes=order)


def moveaxis(
    x: Any, source: int | tuple[int, ...], destination: int | tuple[int, ...], /
) -> Tensor:
    """``x`` with some axes moved to other places; the rest keep their order.

    Args:
        x: an array.
        source: the axes to move.
        destination: where each goes.

    Returns:
        A Tensor with the same elements.

    Raises:
        ShapeError: different numbers of axes, or one is named twice.
        IndexRangeError: ``x`` has no such axis.

    Example:
        >>> import lantern as ln
        >>> print(ln.moveaxis(ln.asarray([[[1, 2, 3]]]), -1, 0).shape)
        (3, 1, 1)
    """
    x = asarray(x)
    sources = axes_in_order(source, x.ndim, "moveaxis, source")
    places = axes_in_order(destination, x.ndim, "moveaxis, destination")
    if len(sources) != len(places):
        raise ShapeError(f"moveaxis: {len(sources)} axes to move to {len(places)} places")
    moved = dict(zip(places, sources, strict=True))
    rest = (a for a in range(x.ndim) if a not in sources)
    return p.permute(x, axes=tuple(moved[i] if i in moved else next(rest) for i in range(x.ndim)))


def swapaxes(x: Any, axis1: int, axis2: int, /) -> Tensor:
    """``x`` with two axes exchanged.

    Raises:
        IndexRangeError: ``x`` has no such axis.

    Example:
        >>> import lantern as ln
        >>> print(ln.swapaxes(ln.asarray([[1, 2, 3]]), 0, 1).shape)
        (3, 1)
    """
    x = asarray(x)
    a, b = (one_axis(k, x.ndim, "swapaxes") for k in (axis1, axis2))
    return p.permute(x, axes=tuple({a: b, b: a}.get(i, i) for i in range(x.ndim)))


def matrix_transpose(x: Any, /) -> Tensor:
    """Each matrix along the last two axes, transposed.

    Args:
        x: an array of shape [..., M, N].

    Returns:
        A Tensor of shape [..., N, M].

    Raises:
        ShapeError: ``x`` has fewer than two axes.

    Example:
        >>> import lantern as ln
        >>> print(ln.matrix_transpose(ln.asarray([[1, 2], [3, 4]])))
        [[1 3]
         [2 4]]
    """
    x = asarray(x)
    if x.ndim < 2:
        raise ShapeError(f"matrix_transpose: {describe(x)} is not a matrix or a stack of them")
    return swapaxes(x, -2, -1)


def flip(x: Any, /, *, axis: Axis = None) -> Tensor:
    """The elements in reverse order along ``axis``, an integer, a tuple, or None for all axes.

    Raises:
        IndexRangeError: ``x`` has no such axis.

    Example:
        >>> import lantern as ln
        >>> print(ln.flip(ln.asarray([1, 2, 3])))
        [3 2 1]
    """
    x = asarray(x)
    return p.flip(x, axes=all_axes(axis, x.ndim, "flip"))


def roll(
    x: Any, /, shift: int | tuple[int, ...], *, axis: int | tuple[int, ...] | None = None
) -> Tensor:
    """The elements moved on by ``shift`` places; those that leave at one end enter at the other.

    Args:
        x: an array.
        shift: how far, forwards if positive; one number for each axis, or one for all.
        axis: along which axes; None rolls the flattened elements.

    Returns:
        A Tensor of the shape of ``x``.

    Raises:
        ShapeError: as many shifts as axes are needed, or one of either.
        IndexRangeError: ``x`` has no such axis.

    Example:
        >>> import lantern as ln
        >>> print(ln.roll(ln.asarray([1, 2, 3, 4]), 1))
        [4 1 2 3]
    """
    x = asarray(x)
    if axis is None:
        flat = p.reshape(x, shape=(x.size,))
        return p.reshape(roll(flat, shift, axis=0), shape=x.shape)
    axes = tuple(one_axis(a, x.ndim, "roll") for a in as_shape(axis, "roll, axis"))
    shifts = as_shape(shift, "roll, shift")
    if len(shifts) != len(axes) and 1 not in (len(shifts), len(axes)):
        raise ShapeError(f"roll: {len(shifts)} shifts for {len(axes)} axes")
    if len(shifts) < len(axes):
        shifts *= len(axes)
    for k, by in zip(axes if len(axes) == len(shifts) else axes * len(shifts), shifts, strict=True):
        n = x.shape[k]
        if n and by % n:
            first, last = p.split(x, sizes=(n - by % n, by % n), axis=k)
            x = p.concat(last, first, axis=k)
    return x
