"""Products and contractions: `matmul`, and what is composed from it."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, SupportsIndex

from lantern.convert import asarray
from lantern.errors import ShapeError, describe
from lantern.ops.axes import axes_in_order, one_axis
from lantern.ops.einsum import einsum
from lantern.ops.operands import broadcast, promoted
from lantern.ops.reductions import sum as sum_of
from lantern.primitives import products as p
from lantern.primitives.structure import concat, permute, reshape, split
from lantern.tensor import Tensor

__all__ = [
    "cross",
    "diag",
    "diagonal",
    "dot",
    "einsum",
    "inner",
    "kron",
    "matmul",
    "outer",
    "tensordot",
    "trace",
    "vecdot",
]


def matmul(x1: Any, x2: Any, /) -> Tensor:
    """The product of matrices, or of stacks of them whose leading axes broadcast.

    Args:
        x1: shape (..., m, k), or (k,), which stands for a row.
        x2: shape (..., k, n), or (k,), which stands for a column.

    Returns:
        shape (..., m, n), without the axis that a row or column was given. float16 and bfloat16 are
        multiplied in float32 and rounded once.

    Raises:
        ShapeError: an argument without axes, or lengths that do not agree.

    Source:
        Python array API standard, ``matmul``.

    Example:
        >>> import lantern as ln
        >>> print(ln.matmul(ln.asarray([[1.0, 2.0], [3.0, 4.0]]), ln.asarray([1.0, 1.0])))
        [3. 7.]
    """
    x, y = promoted(x1, x2)
    a, b = x.shape, y.shape
    if not a or not b or a[-1] != b[-2 if len(b) > 1 else 0]:
        raise ShapeError(
            f"matmul: {describe(x)} @ {describe(y)}; expected (..., m, k) @ (..., k, n), where "
            "either may have the one axis (k,)"
        )
    if len(a) > 1 and len(b) > 1:
        return p.matmul(x, y)
    row = x if len(a) > 1 else reshape(x, shape=(1, *a))
    column = y if len(b) > 1 else reshape(y, shape=(*b, 1))
    lead = a[:-1] if len(b) == 1 else b[:-2]
    return reshape(p.matmul(row, column), shape=(*lead, *b[-1:]) if len(b) > 1 else lead)


def tensordot(
    x1: Any, x2: Any, /, *, axes: int | tuple[Sequence[int], Sequence[int]] = 2
) -> Tensor:
    """The sum of products over pairs of axes, one product of two matrices.

    Args:
        x1: any shape.
        x2: any shape.
        axes: the axes of ``x1`` and those of ``x2`` that are paired, in order; a number n means the
            last n axes of ``x1`` and the first n of ``x2``.

    Returns:
        the axes of ``x1`` that are not summed, and then those of ``x2``.

    Raises:
        ShapeError: paired axes of different lengths, or unequal numbers of axes.

    Source:
        Python array API standard, ``tensordot``.

    Example:
        >>> import lantern as ln
        >>> print(ln.tensordot(ln.ones((2, 3)), ln.ones((3, 4)), axes=1).shape)
        (2, 4)
    """
    x, y = promoted(x1, x2)
    a, b = x.shape, y.shape
    if isinstance(axes, SupportsIndex):
        axes = operator.index(axes)
        if not 0 <= axes <= min(len(a), len(b)):
            raise ShapeError(f"tensordot: axes={axes} of {describe(x)} and {describe(y)}")
        left, right = tuple(range(len(a) - axes, len(a))), tuple(range(axes))
    else:
        left = axes_in_order(tuple(axes[0]), len(a), "tensordot, the first array")
        right = axes_in_order(tuple(axes[1]), len(b), "tensordot, the second array")
    if [a[i] for i in left] != [b[i] for i in right]:
        raise ShapeError(
            f"tensordot: axes {left} of {describe(x)} and {right} of {describe(y)}; paired axes "
            "must have the same length"
        )
    rows = tuple(i for i in range(len(a)) if i not in left)
    columns = tuple(i for i in range(len(b)) if i not in right)
    k = math.prod(a[i] for i in left)
    lead, last = tuple(a[i] for i in rows), tuple(b[i] for i in columns)
    x = reshape(permute(x, axes=(*rows, *left)), shape=(math.prod(lead), k))
    y = reshape(permute(y, axes=(*right, *columns)), shape=(k, math.prod(last)))
    return reshape(p.matmul(x, y), shape=(*lead, *last))


def vecdot(x1: Any, x2: Any, /, *, axis: int = -1) -> Tensor:
    """The sum of products along one axis; the other axes broadcast.

    Args:
        x1: any shape with at least one axis.
        x2: as ``x1``.
        axis: where both have the same length; counted in each.

    Returns:
        the broadcast shape without that axis.

    Raises:
        ShapeError: the lengths along the axis differ, or the others do not broadcast.

    Source:
        Python array API standard, ``vecdot``.

    Example:
        >>> import lantern as ln
        >>> print(ln.vecdot(ln.asarray([1.0, 2.0]), ln.asarray([3.0, 4.0])))
        11.0
    """
    x, y = promoted(x1, x2)
    i = one_axis(axis, x.ndim, "vecdot, the first array")
    j = one_axis(axis, y.ndim, "vecdot, the second array")
    k = x.shape[i]
    a, b = _moved_last(x, i), _moved_last(y, j)
    lead = broadcast(a.shape[:-1], b.shape[:-1])
    if lead is None or b.shape[-1] != k:
        raise ShapeError(
            f"vecdot: {describe(x)} and {describe(y)} along axis {axis}; expected one length "
            "there, and axes that broadcast elsewhere"
        )
    out = p.matmul(reshape(a, shape=(*a.shape[:-1], 1, k)), reshape(b, shape=(*b.shape, 1)))
    return reshape(out, shape=lead)


def inner(x1: Any, x2: Any, /) -> Tensor:
    """The sum of products over the last axis of both, as ``numpy.inner``.

    Args:
        x1: shape (..., k), or a scalar, which multiplies.
        x2: as ``x1``.

    Returns:
        the other axes of ``x1``, and then those of ``x2``.

    Example:
        >>> import lantern as ln
        >>> print(ln.inner(ln.asarray([1.0, 2.0]), ln.asarray([3.0, 4.0])))
        11.0
    """
    x, y = promoted(x1, x2)
    return tensordot(x, y, axes=((-1,), (-1,))) if x.shape and y.shape else x * y


def dot(x1: Any, x2: Any, /) -> Tensor:
    """The product of two arrays as ``numpy.dot``: `matmul` up to two axes, and never broadcast.

    Args:
        x1: shape (..., k), or a scalar, which multiplies.
        x2: shape (k,) or (..., k, n), or a scalar.

    Returns:
        the axes of ``x1`` but the last, and then those of ``x2`` but the next-to-last.

    Example:
        >>> import lantern as ln
        >>> print(ln.dot(ln.ones((2, 3)), ln.ones((4, 3, 5))).shape)
        (2, 4, 5)
    """
    x, y = promoted(x1, x2)
    if not x.shape or not y.shape:
        return x * y
    return tensordot(x, y, axes=((-1,), (-1 if y.ndim == 1 else -2,)))


def outer(x1: Any, x2: Any, /) -> Tensor:
    """All products of an element of one vector and an element of the other.

    Args:
        x1: shape (m,).
        x2: shape (n,).

    Returns:
        shape (m, n).

    Raises:
        ShapeError: an argument has not exactly one axis.

    Source:
        Python array API standard, ``linalg.outer``.

    Example:
        >>> import lantern as ln
        >>> print(ln.outer(ln.asarray([1.0, 2.0]), ln.asarray([3.0, 4.0])))
        [[3. 4.]
         [6. 8.]]
    """
    x, y = promoted(x1, x2)
    if x.ndim != 1 or y.ndim != 1:
        raise ShapeError(f"outer: {describe(x)} and {describe(y)}; expected one axis each")
    return reshape(x, shape=(*x.shape, 1)) * y


def kron(x1: Any, x2: Any, /) -> Tensor:
    """The Kronecker product: every element of ``x1`` times the whole of ``x2``, in blocks.

    Args:
        x1: any shape.
        x2: any shape; missing axes are added in front, as ``numpy.kron`` does.

    Returns:
        an array whose lengths are the products of the two arguments' lengths.

    Example:
        >>> import lantern as ln
        >>> print(ln.kron(ln.asarray([1.0, 10.0]), ln.asarray([1.0, 2.0])))
        [ 1.  2. 10. 20.]
    """
    x, y = promoted(x1, x2)
    rank = max(x.ndim, y.ndim)
    a = (1,) * (rank - x.ndim) + x.shape
    b = (1,) * (rank - y.ndim) + y.shape
    x = reshape(x, shape=tuple(n for length in a for n in (length, 1)))
    y = reshape(y, shape=tuple(n for length in b for n in (1, length)))
    return reshape(x * y, shape=tuple(m * n for m, n in zip(a, b, strict=True)))


def cross(x1: Any, x2: Any, /, *, axis: int = -1) -> Tensor:
    """The cross product of vectors of three elements; the other axes broadcast.

    Args:
        x1: length 3 along ``axis``.
        x2: as ``x1``.
        axis: the axis of the vectors; counted in each if negative, else in the broadcast shape.

    Returns:
        the broadcast shape.

    Raises:
        ShapeError: a length other than 3 along the axis, or the others do not broadcast.

    Source:
        Python array API standard, ``linalg.cross``.

    Example:
        >>> import lantern as ln
        >>> print(ln.cross(ln.asarray([1.0, 0.0, 0.0]), ln.asarray([0.0, 1.0, 0.0])))
        [0. 0. 1.]
    """
    x, y = promoted(x1, x2)
    rank = max(x.ndim, y.ndim)
    back = one_axis(axis, rank, "cross") - rank
    i = one_axis(back, x.ndim, "cross, the first array")
    j = one_axis(back, y.ndim, "cross, the second array")
    if x.shape[i] != 3 or y.shape[j] != 3 or broadcast(x.shape, y.shape) is None:
        raise ShapeError(
            f"cross: {describe(x)} and {describe(y)} along axis {axis}; expected length 3 there, "
            "and axes that broadcast elsewhere"
        )
    return _rolled(x, 1, i) * _rolled(y, 2, j) - _rolled(x, 2, i) * _rolled(y, 1, j)


def diagonal(x: Any, /, *, offset: int = 0, axis1: int = -2, axis2: int = -1) -> Tensor:
    """The diagonals of matrices.

    Args:
        x: shape (..., m, n).
        offset: which diagonal: 0 the main one, positive above it, negative below it.
        axis1: the axis of the rows.
        axis2: the axis of the columns.

    Returns:
        shape (..., k): the elements (i, i + offset), none if there is no such diagonal.

    Source:
        Python array API standard, ``linalg.diagonal``.

    Example:
        >>> import lantern as ln
        >>> print(ln.diagonal(ln.asarray([[1.0, 2.0], [3.0, 4.0]])))
        [1. 4.]
    """
    x = asarray(x)
    if x.ndim < 2:
        raise ShapeError(f"diagonal: {describe(x)}; expected two axes or more")
    i, j = axes_in_order((axis1, axis2), x.ndim, "diagonal")
    rest = tuple(k for k in range(x.ndim) if k not in (i, j))
    if (*rest, i, j) != tuple(range(x.ndim)):
        x = permute(x, axes=(*rest, i, j))
    return p.diagonal(x, offset=int(offset))


def trace(
    x: Any, /, *, offset: int = 0, axis1: int = -2, axis2: int = -1, dtype: Any = None
) -> Tensor:
    """The sum of a diagonal of each matrix. Arguments are those of `diagonal`.

    Args:
        x: shape (..., m, n).
        offset: as in `diagonal`.
        axis1: as in `diagonal`.
        axis2: as in `diagonal`.
        dtype: of the result; as in `sum` if it is None.

    Source:
        Python array API standard, ``linalg.trace``.

    Example:
        >>> import lantern as ln
        >>> print(ln.trace(ln.asarray([[1.0, 2.0], [3.0, 4.0]])))
        5.0
    """
    return sum_of(diagonal(x, offset=offset, axis1=axis1, axis2=axis2), axis=-1, dtype=dtype)


def diag(x: Any, /, k: int = 0) -> Tensor:
    """A matrix with the given diagonal, or the diagonal of a given matrix, as ``numpy.diag``.

    Args:
        x: shape (n,) or (m, n).
        k: which diagonal, as ``offset`` in `diagonal`.

    Returns:
        shape (n + |k|, n + |k|), or the diagonal.

    Raises:
        ShapeError: neither one axis nor two.

    Example:
        >>> import lantern as ln
        >>> print(ln.diag(ln.asarray([1.0, 2.0])))
        [[1. 0.]
         [0. 2.]]
    """
    x = asarray(x)
    if x.ndim == 2:
        return p.diagonal(x, offset=int(k))
    if x.ndim != 1:
        raise ShapeError(f"diag: {describe(x)}; expected one axis or two")
    n = x.shape[0] + abs(int(k))
    return p.from_diagonal(x, offset=int(k), shape=(n, n))


# Helpers -----------------------------------------------------------------------------


def _moved_last(x: Tensor, axis: int) -> Tensor:
    if axis == x.ndim - 1:
        return x
    return permute(x, axes=(*(k for k in range(x.ndim) if k != axis), axis))


def _rolled(x: Tensor, shift: int, axis: int) -> Tensor:
    """The three elements along ``axis``, beginning with number ``shift``."""
    head, tail = split(x, sizes=(shift, 3 - shift), axis=axis)
    return concat(tail, head, axis=axis)
