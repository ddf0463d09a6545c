"""Reductions of the array API standard: statistics, logic, running sums and products, differences.

Each takes ``axis``, an integer, a tuple of integers, or None for all axes, counted from the end
where negative; ``keepdims`` leaves the reduced axes in place with length one.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

from lantern.convert import asarray
from lantern.dtypes import result_type
from lantern.errors import ShapeError, describe
from lantern.kinds import (
    DType,
    as_dtype,
    convert_to,
    default_float,
    default_int,
    is_floating,
    is_number,
    uint64,
)
from lantern.ops import assembly
from lantern.ops.axes import Axis, all_axes, one_axis, part
from lantern.primitives import elementwise as e
from lantern.primitives import reductions as p
from lantern.primitives.elementwise import where
from lantern.primitives.structure import concat, kept, reduce_sum, reshape, wide
from lantern.tensor import Tensor

__all__ = [
    "all",
    "any",
    "argmax",
    "argmin",
    "count_nonzero",
    "cumulative_prod",
    "cumulative_sum",
    "diff",
    "max",
    "mean",
    "min",
    "prod",
    "std",
    "sum",
    "var",
]

# Sums and products ------------------------------------------------------------------------------


def sum(x: Any, /, *, axis: Axis = None, dtype: Any = None, keepdims: bool = False) -> Tensor:
    """The sum of the elements along ``axis``; 0 where there are none.

    float16 and bfloat16 are added up in float32.

    Args:
        x: an array.
        axis: the axes to reduce; all by default.
        dtype: of the result; by default that of ``x`` if floating, else int64 or uint64.
        keepdims: whether reduced axes stay, with length one.

    Returns:
        A Tensor of the shape that is left.

    Raises:
        IndexRangeError: ``x`` has no such axis.

    Example:
        >>> import lantern as ln
        >>> print(ln.sum(ln.asarray([[1.0, 2.0], [3.0, 4.0]]), axis=-1))
        [3. 7.]
    """
    x = asarray(x)
    return _reduced(reduce_sum, _summable(x, dtype), axis, keepdims, "sum")


def prod(x: Any, /, *, axis: Axis = None, dtype: Any = None, keepdims: bool = False) -> Tensor:
    """The product of the elements along ``axis``; 1 where there are none.

    Its derivatives hold where elements are zero too. Arguments, dtypes and errors are
    those of `sum`.

    Example:
        >>> import lantern as ln
        >>> print(ln.grad(ln.prod)(ln.asarray([0.0, 2.0, 3.0])))
        [6. 0. 0.]
    """
    x = _summable(asarray(x), dtype)
    return _reduced(p.reduce_prod, x, axis, keepdims, "prod")


def mean(x: Any, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The arithmetic mean along ``axis``; NaN where there are no elements. Integers give float32.

    Arguments and errors are those of `sum`.

    Example:
        >>> import lantern as ln
        >>> print(ln.mean(ln.asarray([1.0, 2.0, 6.0])))
        3.0
    """
    x = asarray(x)
    return convert_to(_mean(_accumulable(x), axis, keepdims, "mean"), _float_dtype(x.dtype))


def var(x: Any, /, *, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Tensor:
    """The variance along ``axis``: squared distances to the mean, added up, over N - correction.

    Args:
        x: an array; integers give float32.
        axis: the axes to reduce, N elements together; all by default.
        correction: what is taken from N: 1 gives the unbiased estimate from a sample.
        keepdims: whether reduced axes stay, with length one.

    Returns:
        A Tensor of the shape that is left; NaN if N ≤ correction.

    Raises:
        IndexRangeError: ``x`` has no such axis.

    Example:
        >>> import lantern as ln
        >>> x = ln.asarray([1.0, 2.0, 3.0])
        >>> print(ln.var(x, correction=1))
        1.0
    """
    x = asarray(x)
    return convert_to(_var(x, axis, correction, keepdims, "var"), _float_dtype(x.dtype))


def std(x: Any, /, *, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Tensor:
    """The standard deviation along ``axis``, the square root of `var`.

    Where the variance is zero the derivative is taken to be zero, like that of a norm at zero.
    Arguments and errors are those of `var`.

    Example:
        >>> import lantern as ln
        >>> print(ln.std(ln.asarray([1.0, 1.0, 3.0, 3.0])))
        1.0
        >>> print(ln.grad(ln.std)(ln.asarray([2.0, 2.0])))
        [0. 0.]
    """
    x = asarray(x)
    v = _var(x, axis, correction, keepdims, "std")
    constant = v == 0.0
    # sqrt(0) has an infinite derivative, and infinity times zero is NaN: it must not see the zeros.
    spread = where(constant, 0.0, e.sqrt(where(constant, 1.0, v)))
    return convert_to(spread, _float_dtype(x.dtype))


# Extrema ----------------------------------------------------------------------------------------


def max(x: Any, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The largest element along ``axis``; NaN if one is NaN.

    Elements that are equally large share the derivative equally.

    Args:
        x: an array.
        axis: the axes to reduce; all by default.
        keepdims: whether reduced axes stay, with length one.

    Returns:
        A Tensor of the shape that is left and the dtype of ``x``.

    Raises:
        ShapeError: there are no elements to choose from.
        IndexRangeError: ``x`` has no such axis.

    Example:
        >>> import lantern as ln
        >>> print(ln.grad(ln.max)(ln.asarray([1.0, 3.0, 3.0])))
        [0.  0.5 0.5]
    """
    return _reduced(p.reduce_max, asarray(x), axis, keepdims, "max")


def min(x: Any, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The smallest element along ``axis``; otherwise like `max`.

    Example:
        >>> import lantern as ln
        >>> print(ln.min(ln.asarray([[4, 2], [1, 3]]), axis=0))
        [1 2]
    """
    return _reduced(p.reduce_min, asarray(x), axis, keepdims, "min")


def argmax(x: Any, /, *, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """The index of the first largest element along an axis, or of all in row-major order.

    Args:
        x: an array.
        axis: an integer, or None for all elements.
        keepdims: whether the reduced axis (all of them for None) stays, with length one.

    Returns:
        An int64 Tensor; it has no derivative.

    Raises:
        ShapeError: there are no elements to choose from.
        IndexRangeError: ``x`` has no such axis.

    Example:
        >>> import lantern as ln
        >>> print(ln.argmax(ln.asarray([[1.0, 5.0], [7.0, 2.0]]), axis=1))
        [1 0]
    """
    return _located(p.arg_max, asarray(x), axis, keepdims, "argmax")


def argmin(x: Any, /, *, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """The index of the first smallest element; otherwise like `argmax`.

    Example:
        >>> import lantern as ln
        >>> print(ln.argmin(ln.asarray([3.0, 1.0, 2.0])))
        1
    """
    return _located(p.arg_min, asarray(x), axis, keepdims, "argmin")


# Logic ------------------------------------------------------------------------------------------


def any(x: Any, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Whether some element along ``axis`` is not zero (NaN is not); False where there are none.

    Args:
        x: an array.
        axis: the axes to reduce; all by default.
        keepdims: whether reduced axes stay, with length one.

    Returns:
        A bool Tensor.

    Raises:
        IndexRangeError: ``x`` has no such axis.

    Example:
        >>> import lantern as ln
        >>> print(ln.any(ln.asarray([[False, True], [False, False]]), axis=1))
        [ True False]
    """
    return _reduced(p.any_of, asarray(x), axis, keepdims, "any")


def all(x: Any, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Whether no element along ``axis`` is zero; True where there are none. Otherwise like `any`.

    Example:
        >>> import lantern as ln
        >>> print(ln.all(ln.asarray([1, 2, 0])))
        False
    """
    return _reduced(p.all_of, asarray(x), axis, keepdims, "all")


def count_nonzero(x: Any, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The number of elements along ``axis`` that are not zero, as int64. Otherwise like `any`.

    Example:
        >>> import lantern as ln
        >>> print(ln.count_nonzero(ln.asarray([0.0, 2.0, 3.0])))
        2
    """
    return _reduced(p.count, asarray(x), axis, keepdims, "count_nonzero")


# Along an axis, which stays ---------------------------------------------------------------------


def cumulative_sum(
    x: Any, /, *, axis: int | None = None, dtype: Any = None, include_initial: bool = False
) -> Tensor:
    """The sums of the first elements along ``axis``: x₀, x₀ + x₁, ….

    Args:
        x: an array of one axis or more.
        axis: an integer; not needed where ``x`` has one axis.
        dtype: of the result; the default is that of `sum`.
        include_initial: whether to start with the sum of no elements, 0.

    Returns:
        A Tensor of the shape of ``x``, longer by one along ``axis`` if ``include_initial``.

    Raises:
        ShapeError: no axis is given, and ``x`` does not have exactly one.
        IndexRangeError: ``x`` has no such axis.

    Example:
        >>> import lantern as ln
        >>> print(ln.cumulative_sum(ln.asarray([1, 2, 3]), include_initial=True))
        [0 1 3 6]
    """
    return _running(p.cumulative_sum, x, axis, dtype, 0 if include_initial else None)


def cumulative_prod(
    x: Any, /, *, axis: int | None = None, dtype: Any = None, include_initial: bool = False
) -> Tensor:
    """The products of the first elements along ``axis``: x₀, x₀ x₁, ….

    Its derivatives hold where elements are zero too. Arguments and errors are those of
    `cumulative_sum`; the product of no elements is 1.

    Example:
        >>> import lantern as ln
        >>> print(ln.cumulative_prod(ln.asarray([1.0, 2.0, 3.0])))
        [1. 2. 6.]
    """
    return _running(p.cumulative_prod, x, axis, dtype, 1 if include_initial else None)


def diff(
    x: Any, /, *, axis: int = -1, n: int = 1, prepend: Any = None, append: Any = None
) -> Tensor:
    """The differences of neighbours along ``axis``, taken ``n`` times.

    Args:
        x: an array of one axis or more.
        axis: an integer.
        n: how often; each time the axis becomes shorter by one.
        prepend: an array put before ``x`` along ``axis``, or a scalar.
        append: an array put after ``x`` along ``axis``, or a scalar.

    Returns:
        A Tensor of the dtype of ``x``.

    Raises:
        ShapeError: ``n`` is negative, or shapes do not fit.
        IndexRangeError: ``x`` has no such axis.

    Example:
        >>> import lantern as ln
        >>> print(ln.diff(ln.asarray([1, 4, 9, 16])), ln.diff(ln.asarray([1, 4, 9, 16]), n=2))
        [3 5 7] [2 2]
    """
    x = asarray(x)
    k = one_axis(axis, x.ndim, "diff")
    if n < 0:
        raise ShapeError(f"diff: n={n}; differences are taken 0 times or more")
    parts = []
    for y in (prepend, x, append):
        if y is not None:
            y = asarray(y, dtype=result_type(x, y) if is_number(y) else None)
            parts.append(y if y.ndim else assembly.broadcast_to(y, kept(x.shape, (k,))))
    x = assembly.concat(parts, axis=k) if len(parts) > 1 else x
    for _ in range(operator.index(n)):
        length = x.shape[k]
        low, high = part(x, k, 0, length - 1), part(x, k, 1, length)
        x = high != low if x.dtype.kind == "b" else high - low
    return x


# Shared -----------------------------------------------------------------------------------------


def _reduced(reduce: Any, x: Tensor, axis: Axis, keepdims: bool, what: str) -> Tensor:
    """``reduce`` over the axes meant by ``axis``, which stay with length one if ``keepdims``."""
    shape = x.shape
    axes = all_axes(axis, len(shape), what)
    z = reduce(x, axes=axes)
    return reshape(z, shape=kept(shape, axes)) if keepdims else z


def _located(find: Any, x: Tensor, axis: int | None, keepdims: bool, what: str) -> Tensor:
    shape = x.shape
    axes = tuple(range(len(shape))) if axis is None else (one_axis(axis, len(shape), what),)
    z = find(
        reshape(x, shape=(x.size,)) if axis is None else x, axis=0 if axis is None else axes[0]
    )
    return reshape(z, shape=kept(shape, axes)) if keepdims else z


def _running(accumulate: Any, x: Any, axis: int | None, dtype: Any, initial: int | None) -> Tensor:
    x = asarray(x)
    if x.ndim == 0 or (axis is None and x.ndim != 1):
        raise ShapeError(
            f"{accumulate.__name__}: {describe(x)} does not have exactly one axis; "
            "name one with axis="
        )
    k = one_axis(0 if axis is None else axis, x.ndim, accumulate.__name__)
    z = accumulate(_summable(x, dtype), axis=k, reverse=False)
    if initial is None:
        return z
    return concat(np.full(kept(z.shape, (k,)), initial, z.dtype), z, axis=k)


def _mean(x: Tensor, axis: Axis, keepdims: bool, what: str) -> Tensor:
    axes = all_axes(axis, x.ndim, what)
    n = math.prod(x.shape[a] for a in axes)
    total = _reduced(reduce_sum, x, axes, keepdims, what)
    return total / n if n else total * math.nan


def _var(x: Tensor, axis: Axis, correction: float, keepdims: bool, what: str) -> Tensor:
    x = _accumulable(x)
    axes = all_axes(axis, x.ndim, what)
    centred = x - _mean(x, axes, True, what)
    total = _reduced(reduce_sum, centred * centred, axes, keepdims, what)
    left = math.prod(x.shape[a] for a in axes) - correction
    return total / left if left > 0 else total * math.nan


def _summable(x: Tensor, dtype: Any) -> Tensor:
    """``x`` in the dtype of its sum: ``dtype`` if given; integers become those of eight bytes."""
    if dtype is not None:
        return convert_to(x, as_dtype(dtype))
    kind = x.dtype.kind
    return x if kind not in "biu" else convert_to(x, uint64 if kind == "u" else default_int)


def _float_dtype(dtype: DType) -> DType:
    return dtype if is_floating(dtype) else default_float


def _accumulable(x: Tensor) -> Tensor:
    """``x`` in a floating dtype that holds sums of many elements."""
    return convert_to(x, wide(_float_dtype(x.dtype)))
