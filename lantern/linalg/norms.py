"""Norms of vectors and matrices. The derivative of a norm at zero is 0."""

from __future__ import annotations

import math
from typing import Any, Literal

from lantern.errors import ArgumentError, ShapeError, describe
from lantern.linalg.arguments import floats, matrices
from lantern.ops.axes import Axis, all_axes, axes_in_order
from lantern.ops.elementwise import pow as power
from lantern.ops.elementwise import where
from lantern.ops.reductions import max as largest
from lantern.ops.reductions import min as smallest
from lantern.primitives import decompositions as p
from lantern.primitives.elementwise import absolute, not_equal
from lantern.primitives.structure import convert, permute, reduce_sum, reshape
from lantern.tensor import Tensor

__all__ = ["matrix_norm", "norm", "vector_norm"]

MatrixOrder = int | float | Literal["fro", "nuc"] | None


def vector_norm(
    x: Any, /, *, axis: Axis = None, keepdims: bool = False, ord: int | float = 2
) -> Tensor:
    """The norm of vectors: (Σ |x|^ord)^(1/ord).

    Args:
        x: any shape.
        axis: the axes whose elements make up one vector; all if it is None.
        keepdims: keep these axes, of length 1.
        ord: 2 is the Euclidean norm, 1 the sum of absolute values, ±inf the largest and the
            smallest of them, 0 the number of elements that are not 0; any other number p the
            formula above.

    Raises:
        DTypeError: not a floating dtype.

    Source:
        Python array API standard, ``linalg.vector_norm``.

    Example:
        >>> import lantern as ln
        >>> print(ln.linalg.vector_norm(ln.asarray([3.0, 4.0])))
        5.0
    """
    x = floats(x, "vector_norm")
    axes = all_axes(axis, x.ndim, "linalg.vector_norm")
    out = _vector_norm(x, axes, ord)
    return _restored(out, x.shape, axes) if keepdims else out


def matrix_norm(x: Any, /, *, keepdims: bool = False, ord: MatrixOrder = "fro") -> Tensor:
    """The norm of matrices.

    Args:
        x: shape (..., m, n).
        keepdims: keep the last two axes, of length 1.
        ord: ``"fro"`` the root of the sum of squares, ``"nuc"`` the sum of singular values; 2 and
            -2 the largest and smallest singular value; 1 and -1 the largest and smallest sum of the
            absolute values of a column; inf and -inf those of a row.

    Raises:
        DTypeError: not a floating dtype.
        ValueError: another ``ord``.

    Source:
        Python array API standard, ``linalg.matrix_norm``.

    Example:
        >>> import lantern as ln
        >>> print(ln.linalg.matrix_norm(ln.asarray([[3.0, 0.0], [0.0, 4.0]]), ord="nuc"))
        7.0
    """
    x = matrices(x, "matrix_norm")
    out = _matrix_norm(x, ord)
    return reshape(out, shape=(*x.shape[:-2], 1, 1)) if keepdims else out


def norm(x: Any, /, ord: MatrixOrder = None, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The norm of vectors or matrices, as ``numpy.linalg.norm``.

    Args:
        x: any shape.
        ord: as in `vector_norm` or `matrix_norm`; None is the root of the sum of squares.
        axis: one axis for vectors, two for matrices. None: all elements if ``ord`` is None too,
            else ``x`` itself has one axis or two.
        keepdims: keep these axes, of length 1.

    Raises:
        DTypeError: not a floating dtype.
        ShapeError: neither one nor two axes.
        ValueError: another ``ord``.

    Example:
        >>> import lantern as ln
        >>> x = ln.asarray([[3.0, 0.0], [4.0, 0.0]])
        >>> print(ln.linalg.norm(x), ln.linalg.norm(x, 1, axis=0))
        5.0 [7. 0.]
    """
    x = floats(x, "norm")
    axes = tuple(range(x.ndim)) if axis is None else axes_in_order(axis, x.ndim, "linalg.norm")
    if len(axes) == 1 or (ord is None and (axis is None or len(axes) == 2)):
        out = _vector_norm(x, tuple(sorted(axes)), 2 if ord is None else ord)
    elif len(axes) == 2:
        rest = tuple(i for i in range(x.ndim) if i not in axes)
        out = _matrix_norm(permute(x, axes=(*rest, *axes)), ord)
    else:
        raise ShapeError(
            f"linalg.norm: {describe(x)} with ord={ord!r} and axis={axis!r}; "
            "expected one axis or two"
        )
    return _restored(out, x.shape, axes) if keepdims else out


def _restored(out: Tensor, shape: tuple[int, ...], axes: tuple[int, ...]) -> Tensor:
    return reshape(out, shape=tuple(1 if i in axes else n for i, n in enumerate(shape)))


def _vector_norm(x: Tensor, axes: tuple[int, ...], order: Any) -> Tensor:
    if isinstance(order, str):
        raise ArgumentError(f"linalg: ord {order!r} of vectors; expected a number")
    if order == 2:
        return p.euclidean_norm(x, axes=axes)
    if order == 0:
        return reduce_sum(convert(not_equal(x, 0), dtype=x.dtype), axes=axes)
    size = absolute(x)
    if order == 1:
        return reduce_sum(size, axes=axes)
    if math.isinf(order):
        return _extreme(size, axes, order)
    if order < 0:  # a zero makes the sum infinite and the norm 0
        return power(reduce_sum(power(size, order), axes=axes), 1 / order)
    # The powers of zeros are constant here: the derivative of 0^ord would be infinite if ord < 1.
    zero = size == 0
    total = reduce_sum(where(zero, 0.0, power(where(zero, 1.0, size), order)), axes=axes)
    nothing = total == 0
    return where(nothing, 0.0, power(where(nothing, 1.0, total), 1 / order))


def _matrix_norm(x: Tensor, order: Any) -> Tensor:
    if order in ("fro", None):
        return p.euclidean_norm(x, axes=(x.ndim - 2, x.ndim - 1))
    if order == "nuc":
        return reduce_sum(p.svdvals(x), axes=(x.ndim - 2,))
    if order in (2, -2):
        return _extreme(p.svdvals(x), (x.ndim - 2,), order)
    if order in (1, -1, math.inf, -math.inf):
        sums = reduce_sum(absolute(x), axes=(x.ndim - (2 if abs(order) == 1 else 1),))
        return _extreme(sums, (x.ndim - 2,), order)
    raise ArgumentError(f"linalg: ord {order!r} of matrices; expected 'fro', 'nuc', ±1, ±2 or ±inf")


def _extreme(size: Tensor, axes: tuple[int, ...], order: Any) -> Tensor:
    """The largest magnitude for a positive ``order``, else the smallest.

    The largest of no magnitudes is 0, the norm of the only vector without elements.
    """
    if order < 0:
        return smallest(size, axis=axes)
    empty = any(size.shape[a] == 0 for a in axes)
    return reduce_sum(size, axes=axes) if empty else largest(size, axis=axes)
