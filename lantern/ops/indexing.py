"""Indexing: ``x[...]``, `take`, `nonzero`, and the functional updates ``x.at[...]``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from lantern.convert import asarray
from lantern.errors import DTypeError, ShapeError, describe
from lantern.kinds import DType, as_dtype, convert_to, is_floating, is_number
from lantern.kinds import bool as boolean
from lantern.ops.axes import one_axis
from lantern.ops.keys import (
    Selection,
    along,
    checked,
    inverse,
    ordered,
    select,
    selected,
    static_part,
)
from lantern.ops.keys import getitem as getitem
from lantern.primitives import elementwise as e
from lantern.primitives import indexing as p
from lantern.primitives.structure import broadcast_to, reshape
from lantern.tensor import Tensor, concrete

__all__ = ["nonzero", "take", "take_along_axis"]


def take(x: Any, indices: Any, /, *, axis: int | None = None) -> Tensor:
    """The elements of ``x`` at ``indices`` along one axis.

    Args:
        x: an array.
        indices: integers of any shape, which takes the place of the axis; negative ones count
            from the end.
        axis: the axis; it may be left out if ``x`` has only one.

    Raises:
        IndexRangeError: an index or the axis is out of range.
        ShapeError: no axis, and ``x`` does not have exactly one.

    Example:
        >>> import lantern as ln
        >>> print(ln.take(ln.asarray([10, 20, 30]), ln.asarray([2, 0])))
        [30 10]
    """
    x = asarray(x)
    if axis is None:
        if x.ndim != 1:
            raise ShapeError(f"take: {describe(x)} has {x.ndim} axes; choose one with axis=")
        axis = 0
    k = one_axis(axis, x.ndim, "take")
    index = _integers(indices, "take")
    index = checked(index, x, k)
    rank, rest = index.ndim, x.ndim - 1
    y = p.gather(ordered(x, (k, *(a for a in range(x.ndim) if a != k))), index)
    return ordered(y, (*range(rank, rank + k), *range(rank), *range(rank + k, rank + rest)))


def take_along_axis(x: Any, indices: Any, /, *, axis: int = -1) -> Tensor:
    """For each line of ``x`` along one axis, its elements at that line's own indices.

    Args:
        x: an array.
        indices: integers, with as many axes as ``x``; along all but ``axis`` the two broadcast.
        axis: the axis.

    Raises:
        IndexRangeError: an index or the axis is out of range.
        ShapeError: the shapes do not broadcast.

    Example:
        >>> import lantern as ln
        >>> x = ln.asarray([[3, 1, 2], [6, 5, 4]])
        >>> print(ln.take_along_axis(x, ln.argsort(x)))
        [[1 2 3]
         [4 5 6]]
    """
    x, index = asarray(x), _integers(indices, "take_along_axis")
    if index.ndim != x.ndim:
        raise ShapeError(
            f"take_along_axis: {describe(x)} and indices {describe(index)} have {x.ndim} and "
            f"{index.ndim} axes; expected as many"
        )
    k = one_axis(axis, x.ndim, "take_along_axis")
    index = p.checked_index(index, axis=k, length=x.shape[k])
    for a, (n, m) in enumerate(zip(x.shape, index.shape, strict=True)):
        if a != k and n != m and 1 not in (n, m):
            raise ShapeError(
                f"take_along_axis: {describe(x)} and indices {describe(index)} differ along axis "
                f"{a}"
            )
    return along(x, index, k)


def nonzero(x: Any, /) -> tuple[Tensor, ...]:
    """The positions of the elements that are not zero, in row-major order: one array an axis.

    The length of the result depends on the elements, so `vmap` refuses it. Indices are constants
    to every derivative.

    Raises:
        ShapeError: ``x`` has no axes.
        BatchingError: inside `vmap`: use ``ln.where``.

    Example:
        >>> import lantern as ln
        >>> print(*ln.nonzero(ln.asarray([0, 7, 0, 8])))
        [1 3]
    """
    x = asarray(x)
    if not x.shape:
        raise ShapeError(f"nonzero: {describe(x)} has no axes")
    return tuple(map(Tensor, np.nonzero(concrete(x, "ln.nonzero()"))))


def _integers(indices: Any, what: str) -> Tensor:
    indices = asarray(indices)
    if indices.dtype.kind not in "iu":
        raise DTypeError(f"{what}: indices are {describe(indices)}; expected integers")
    return indices


# Functional updates -------------------------------------------------------------------------------


class At:
    """``x.at``: index it as you would ``x``, then say how the elements change."""

    __slots__ = ("x",)

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __getitem__(self, key: Any) -> Update:
        return Update(self.x, select(key, self.x))

    def __repr__(self) -> str:
        return f"{self.x!r}.at"


class Update:
    """``x.at[key]``: each method returns a copy of ``x`` with the selected elements changed.

    Values broadcast to the shape of ``x[key]`` and are converted to the dtype of ``x``, if that
    keeps their kind: no float becomes an integer. An element that the key selects several times is
    changed as often, in row-major order.

    Raises:
        DTypeError: values of a kind that ``x`` cannot hold, or arithmetic on booleans.
        ShapeError: the values do not broadcast.

    Example:
        >>> import lantern as ln
        >>> x = ln.asarray([1, 2, 3])
        >>> print(x.at[0].set(9), x.at[[0, 0]].add([10, 20]), x.at[1:].multiply(2), x.at[:2].get())
        [9 2 3] [31  2  3] [1 4 6] [1 2]
    """

    __slots__ = ("selection", "x")

    def __init__(self, x: Tensor, selection: Selection) -> None:
        self.x, self.selection = x, selection

    def get(self) -> Tensor:
        """The selected elements: ``x[key]``."""
        return selected(self.x, self.selection)

    def set(self, values: Any, /) -> Tensor:
        """With ``values`` in their place.

        Of several writes to one element the last wins, and only that one receives a gradient.
        """
        return self._change("set", values, p.slice_set, p.scatter_set)

    def add(self, values: Any, /) -> Tensor:
        """With ``values`` added."""
        self._need_numbers("add")
        return self._change("add", values, p.slice_add, p.scatter_add)

    def subtract(self, values: Any, /) -> Tensor:
        """With ``values`` subtracted."""
        self._need_numbers("subtract")

        def scatter(x: Any, v: Any, *indices: Any) -> Any:
            return p.scatter_add(x, e.negative(v), *indices)

        return self._change("subtract", values, _sliced(e.subtract), scatter)

    def multiply(self, values: Any, /) -> Tensor:
        """Multiplied by ``values``."""
        self._need_numbers("multiply")
        return self._change("multiply", values, _sliced(e.multiply), _by_product(e.multiply))

    def divide(self, values: Any, /) -> Tensor:
        """Divided by ``values``: floating arrays only."""
        if not is_floating(self.x.dtype):
            raise DTypeError(
                f"x.at[...].divide: {describe(self.x)} cannot hold a quotient; convert it with "
                "ln.astype"
            )
        return self._change("divide", values, _sliced(e.divide), _by_product(e.divide))

    def power(self, values: Any, /) -> Tensor:
        """Raised to the power of ``values``."""
        self._need_numbers("power")
        return self._change("power", values, _sliced(e.power), _by_product(e.power))

    def max(self, values: Any, /) -> Tensor:
        """The larger of element and value; equal ones share the gradient."""
        scatter = functools.partial(p.scatter_extreme, largest=True)
        return self._change("max", values, _sliced(e.maximum), scatter)

    def min(self, values: Any, /) -> Tensor:
        """The smaller of element and value; equal ones share the gradient."""
        scatter = functools.partial(p.scatter_extreme, largest=False)
        return self._change("min", values, _sliced(e.minimum), scatter)

    def _need_numbers(self, what: str) -> None:
        if self.x.dtype == boolean:
            raise DTypeError(
                f"x.at[...].{what}: {describe(self.x)} has no arithmetic; convert it with ln.astype"
            )

    def _change(
        self,
        what: str,
        values: Any,
        static: Callable[..., Tensor],
        scatter: Callable[..., Tensor],
    ) -> Tensor:
        """The copy: ``static(x, values, index=...)``, or ``scatter(part, values, *arrays)``.

        The arrays index the leading axes of the part.
        """
        x, s = self.x, self.selection
        v = self._values(values, what)
        if not s.arrays:
            return static(x, reshape(v, shape=s.sliced), index=s.index)
        part = scatter(ordered(static_part(x, s), s.front), ordered(v, s.out_of_place), *s.arrays)
        part = reshape(ordered(part, inverse(s.front)), shape=s.sliced)
        return part if s.whole else p.slice_set(x, part, index=s.index)

    def _values(self, values: Any, what: str) -> Tensor:
        """The values in the dtype of ``x`` and the shape of the selected part."""
        dtype, shape = self.x.dtype, self.selection.result
        number = is_number(values)
        if not number:
            values = asarray(values)
        found = as_dtype(type(values)) if number else values.dtype
        if _kind(found) > _kind(dtype):
            raise DTypeError(
                f"x.at[...].{what}: values of {found} do not fit into {describe(self.x)}; convert "
                "one of them with ln.astype"
            )
        v = asarray(values, dtype=dtype) if number else convert_to(values, dtype)
        lead = len(shape) - v.ndim
        if lead < 0 or any(n not in (1, w) for n, w in zip(v.shape, shape[lead:], strict=True)):
            raise ShapeError(
                f"x.at[...].{what}: values {describe(v)} do not broadcast to the shape "
                f"{list(shape)} of the selected elements"
            )
        return v if v.shape == shape else broadcast_to(v, shape=shape)


def _kind(dtype: DType) -> int:
    """Booleans before integers before floats."""
    return 2 if is_floating(dtype) else 0 if dtype == boolean else 1


def _sliced(change: Callable[[Any, Any], Any]) -> Callable[..., Tensor]:
    """An elementwise function as a change of the elements at a static index."""

    def static(x: Tensor, values: Tensor, *, index: p.Index) -> Tensor:
        return p.slice_set(x, change(p.static_slice(x, index=index), values), index=index)

    return static


def _by_product(change: Callable[[Any, Any], Any]) -> Callable[..., Tensor]:
    """A scatter that changes each element once, by the product of all values for it.

    The values are sorted by where they go, and multiplied up within each group by doubling: after
    the round of distance d, each holds the product of the last 2d of its group. Unlike the whole
    product divided by one factor, this has the right derivatives where values are zero.
    """

    def scatter(x: Tensor, values: Tensor, *indices: Any) -> Tensor:
        shape = np.broadcast_shapes(*(i.shape for i in indices))
        n, rest = int(np.prod(shape)), x.shape[len(indices) :]
        flat = [reshape(broadcast_to(i, shape=shape), shape=(n,)) for i in indices]
        values = reshape(values, shape=(n, *rest))
        place = p.linear_index(tuple(flat), x.shape[: len(indices)])
        order = p.argsort(place, axis=0, descending=False)
        place, values = p.gather(place, order), p.gather(values, order)
        flat = [p.gather(i, order) for i in flat]
        every = tuple((0, m, 1) for m in rest)
        distance = 1
        while distance < n:
            early, late = (0, n - distance, 1), (distance, n, 1)
            same = e.equal(
                p.static_slice(place, index=(early,)), p.static_slice(place, index=(late,))
            )
            same = reshape(same, shape=(n - distance, *(1 for _ in rest)))
            last = p.static_slice(values, index=(late, *every))
            product = e.multiply(p.static_slice(values, index=(early, *every)), last)
            values = p.slice_set(values, e.where(same, product, last), index=(late, *every))
            distance *= 2
        return p.scatter_set(x, change(p.gather(x, *flat), values), *flat)

    return scatter
