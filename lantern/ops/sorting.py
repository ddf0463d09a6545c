"""Sorting, searching in sorted arrays, and sets, of the array API standard."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

from lantern.convert import asarray
from lantern.errors import ArgumentError, DifferentiationError, ShapeError, describe
from lantern.kinds import is_floating, is_number
from lantern.ops.axes import one_axis, part
from lantern.ops.indexing import along, take
from lantern.primitives import elementwise as e
from lantern.primitives import indexing as p
from lantern.primitives.structure import reshape
from lantern.promotion import operands
from lantern.tensor import Tensor, concrete

__all__ = [
    "argsort",
    "isin",
    "searchsorted",
    "sort",
    "topk",
    "unique",
    "unique_all",
    "unique_counts",
    "unique_inverse",
    "unique_values",
]


def sort(x: Any, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
    """The elements in order along an axis.

    Args:
        x: an array with at least one axis.
        axis: the axis.
        descending: the largest first. NaNs come last in either order.
        stable: whether equal elements must keep their order; they always do.

    Returns:
        An array of the shape and dtype of ``x``. Derivatives follow each element to its new place.

    Raises:
        IndexRangeError: no such axis.

    Example:
        >>> import lantern as ln
        >>> print(ln.sort(ln.asarray([3, 1, 2])), ln.sort(ln.asarray([3, 1, 2]), descending=True))
        [1 2 3] [3 2 1]
    """
    x = asarray(x)
    k = one_axis(axis, x.ndim, "sort")
    return along(x, p.argsort(x, axis=k, descending=descending), k)


def argsort(x: Any, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
    """The indices that sort an array along an axis: int64, constants to every derivative.

    Arguments and errors are those of `sort`.

    Example:
        >>> import lantern as ln
        >>> print(ln.argsort(ln.asarray([30, 10, 20])))
        [1 2 0]
    """
    x = asarray(x)
    return p.argsort(x, axis=one_axis(axis, x.ndim, "argsort"), descending=descending)


class TopK(NamedTuple):
    """What `topk` returns."""

    values: Tensor
    indices: Tensor


def topk(x: Any, k: int, /, *, axis: int = -1, largest: bool = True) -> TopK:
    """The ``k`` largest elements along an axis, the largest first.

    Args:
        x: an array with at least one axis.
        k: how many; at most the length of the axis.
        axis: the axis.
        largest: False for the smallest, the smallest first. NaNs come last in either case.

    Returns:
        (values, indices), with ``k`` elements along the axis. Equal elements keep their order.

    Raises:
        ShapeError: ``k`` is negative or larger than the axis.
        IndexRangeError: no such axis.

    Example:
        >>> import lantern as ln
        >>> values, indices = ln.topk(ln.asarray([3, 9, 5, 7]), 2)
        >>> print(values, indices)
        [9 7] [1 3]
    """
    x = asarray(x)
    a = one_axis(axis, x.ndim, "topk")
    if not 0 <= k <= x.shape[a]:
        raise ShapeError(
            f"topk: k={k} of {describe(x)} along axis {a}, which has {x.shape[a]} elements"
        )
    indices = part(p.argsort(x, axis=a, descending=largest), a, 0, k)
    return TopK(along(x, indices, a), indices)


def searchsorted(
    x1: Any,
    x2: Any,
    /,
    *,
    side: Literal["left", "right"] = "left",
    sorter: Any = None,
) -> Tensor:
    """Where elements would have to be inserted into a sorted array to keep it sorted.

    The result is discrete: there is no derivative, and it is a constant to every transformation.

    Args:
        x1: the sorted array, with one axis.
        x2: the elements: an array of any shape or a Python number.
        side: for equal elements, ``"left"`` for the first possible place, ``"right"`` for the last.
        sorter: integers that sort ``x1``, where it is not sorted itself.

    Returns:
        int64 indices from 0 to ``len(x1)``, of the shape of ``x2``.

    Raises:
        ShapeError: ``x1`` or ``sorter`` does not have exactly one axis, or their lengths differ.
        ValueError: another ``side``.

    Example:
        >>> import lantern as ln
        >>> print(ln.searchsorted(ln.asarray([1, 3, 5]), ln.asarray([0, 3, 9])))
        [0 1 3]
    """
    if side not in ("left", "right"):
        raise ArgumentError(f"searchsorted: side is 'left' or 'right', not {side!r}")
    x1 = asarray(x1)
    if x1.ndim != 1:
        raise ShapeError(f"searchsorted: x1 is {describe(x1)}; expected one axis")
    if sorter is not None:
        sorter = asarray(sorter)
        if sorter.shape != x1.shape:
            raise ShapeError(
                f"searchsorted: x1 is {describe(x1)} and its sorter {describe(sorter)}; expected "
                "one shape"
            )
        x1 = take(x1, sorter)
    x1, x2 = operands(x1, x2)
    return p.searchsorted(x1, asarray(x2, dtype=x1.dtype) if is_number(x2) else x2, side=side)


def isin(x1: Any, x2: Any, /, *, invert: bool = False) -> Tensor:
    """Whether each element of ``x1`` is among those of ``x2``.

    Args:
        x1: an array of any shape or a Python number.
        x2: an array of any shape or a Python number. A NaN is equal to nothing.
        invert: whether each element is not among them.

    Returns:
        Booleans of the shape of ``x1``.

    Example:
        >>> import lantern as ln
        >>> print(ln.isin(ln.asarray([1, 2, 3]), ln.asarray([3, 1])))
        [ True False  True]
    """
    x1, x2 = (asarray(x) for x in operands(x1, x2))
    if x2.size == 0:
        found = e.less(x1, x1)
    else:
        among = sort(reshape(x2, shape=(x2.size,)))
        place = p.searchsorted(among, x1, side="left")
        place = e.minimum(place, np.int64(x2.size - 1))
        found = e.equal(p.gather(among, place), x1)
    return e.logical_not(found) if invert else found


class UniqueAll(NamedTuple):
    """What `unique_all` returns."""

    values: Tensor
    indices: Tensor
    inverse_indices: Tensor
    counts: Tensor


class UniqueCounts(NamedTuple):
    """What `unique_counts` returns."""

    values: Tensor
    counts: Tensor


class UniqueInverse(NamedTuple):
    """What `unique_inverse` returns."""

    values: Tensor
    inverse_indices: Tensor


def unique_all(x: Any, /) -> UniqueAll:
    """The distinct elements in ascending order, and where and how often each occurs.

    How many there are depends on the elements, so `vmap` refuses these functions; their derivative
    does not exist, and asking for it raises. Each NaN is distinct; 0.0 and -0.0 are not.

    Args:
        x: an array of any shape; positions count in row-major order.

    Returns:
        (values, indices, inverse_indices, counts): ``values = flat[indices]``, and
        ``x = values[inverse_indices]`` up to NaNs. The inverse has the shape of ``x``.

    Raises:
        DifferentiationError: inside `grad` or `jvp`, for an ``x`` that is being differentiated.
        BatchingError: inside `vmap`.

    Example:
        >>> import lantern as ln
        >>> print(*ln.unique_all(ln.asarray([2, 1, 2])))
        [1 2] [1 0] [1 0 1] [1 2]
    """
    x = asarray(x)
    value = _constant(x)
    _, indices, inverse, counts = np.unique(
        p.comparable(value),
        return_index=True,
        return_inverse=True,
        return_counts=True,
        equal_nan=False,
    )
    values = value.ravel()[indices]
    return UniqueAll(
        Tensor(values), Tensor(indices), Tensor(inverse.reshape(x.shape)[()]), Tensor(counts)
    )


def unique_counts(x: Any, /) -> UniqueCounts:
    """The distinct elements in ascending order, and how often each occurs. As `unique_all`.

    Example:
        >>> import lantern as ln
        >>> print(*ln.unique_counts(ln.asarray([2, 1, 2])))
        [1 2] [1 2]
    """
    found = unique_all(x)
    return UniqueCounts(found.values, found.counts)


def unique_inverse(x: Any, /) -> UniqueInverse:
    """The distinct elements in ascending order, and which of them each element is. As `unique_all`.

    Example:
        >>> import lantern as ln
        >>> print(*ln.unique_inverse(ln.asarray([2, 1, 2])))
        [1 2] [1 0 1]
    """
    found = unique_all(x)
    return UniqueInverse(found.values, found.inverse_indices)


def unique_values(x: Any, /) -> Tensor:
    """The distinct elements in ascending order. As `unique_all`.

    Example:
        >>> import lantern as ln
        >>> print(ln.unique_values(ln.asarray([2, 1, 2])))
        [1 2]
    """
    value = _constant(asarray(x))
    return Tensor(np.unique(p.comparable(value), equal_nan=False).astype(value.dtype, copy=False))


unique = unique_values


def _constant(x: Tensor) -> Any:
    """The elements of ``x``, of which no derivative is being taken."""
    value = np.asarray(concrete(x, "ln.unique()"))
    if x.prompt is not None and is_floating(x.dtype):
        raise DifferentiationError(
            f"unique of {describe(x)}: how many values there are jumps with the argument, so there "
            "is no derivative. ln.sort has one; ln.stop_gradient makes the argument a constant."
        )
    return value
