"""What ``x[key]`` means: a key as users write it, split into a static part and integer arrays."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lantern.errors import IndexRangeError, ShapeError, explain
from lantern.lengths import Length, is_table
from lantern.primitives import indexing as p
from lantern.primitives.indexing import Index, Shape, out_of_range
from lantern.primitives.structure import permute, reshape
from lantern.symbol import is_known
from lantern.tensor import Tensor, concrete


@dataclass(slots=True)
class Selection:
    """The elements that a key selects from an array.

    Attributes:
        index: the static part, one entry an axis: an int, or a triple (start, stop, step).
        whole: whether the static part is everything.
        sliced: the shape that the static part leaves.
        middle: the same elements with the new axes of None (and of a mask without axes).
        arrays: integer arrays, checked and non-negative, that index the ``axes`` of ``middle``.
        axes: those axes, ascending.
        spread: the shape to which the arrays broadcast.
        place: the axis of the result where ``spread`` begins.
        result: the shape of the result.
    """

    index: Index
    whole: bool
    sliced: Shape
    middle: Shape
    arrays: tuple[Any, ...]
    axes: Shape
    spread: Shape
    place: int
    result: Shape

    @property
    def front(self) -> Shape:
        """The order of the axes of ``middle`` with the indexed ones first."""
        return (*self.axes, *(a for a in range(len(self.middle)) if a not in self.axes))

    @property
    def into_place(self) -> Shape:
        """The order of axes that moves ``spread`` from the front to its place."""
        r, end = len(self.spread), len(self.result)
        return (*range(r, r + self.place), *range(r), *range(r + self.place, end))

    @property
    def out_of_place(self) -> Shape:
        """The order of axes that moves ``spread`` from its place to the front."""
        return inverse(self.into_place)


def inverse(order: Shape) -> Shape:
    """The order of axes that undoes ``order``."""
    return tuple(sorted(range(len(order)), key=order.__getitem__))


def select(key: Any, x: Tensor) -> Selection:
    """What ``key`` selects from an array, as NumPy defines it.

    Raises:
        IndexRangeError: too many indices, an index out of range or of an unknown kind.
        ShapeError: index arrays that do not broadcast against each other.
        BatchingError: a boolean mask inside `vmap`, where the number of selected elements varies.
    """
    shape = x.shape
    items = _expanded([_item(k) for k in (key if type(key) is tuple else (key,))], shape)
    index: list[Any] = []
    sliced: list[int] = []
    middle: list[int] = []
    arrays: list[Any] = []
    axes: list[int] = []
    advanced: list[int] = []  # positions among the items
    place = 0  # axes of the result before the first advanced item
    for position, k in enumerate(items):
        axis = len(index)
        if k is None or k is Ellipsis:
            middle += [1] if k is None else []
            place += k is None and not advanced
        elif type(k) is slice:
            try:
                index.append(k.indices(shape[axis]))
            except (TypeError, ValueError) as problem:
                raise explain("x[...]", (k,), problem) from None
            sliced.append(len(range(*index[-1])))
            middle.append(sliced[-1])
            place += not advanced
        elif type(k) is int and type(n := shape[axis]) is not Length:
            if not -n <= k < n:
                raise out_of_range(k, axis, n)
            index.append(k + n if k < 0 else k)
            advanced.append(position)
        else:
            advanced.append(position)
            k: Any = np.asarray(k) if type(k) is int else k
            if k.dtype == bool:
                found = _nonzero(k, shape[axis : axis + k.ndim], axis)
                lengths = shape[axis : axis + k.ndim] if k.ndim else (1,)
                taken = k.ndim
            else:
                found = (checked(k, x, axis),)
                lengths, taken = (shape[axis],), 1
            axes += range(len(middle), len(middle) + len(found))
            arrays += found
            middle += lengths
            index += [(0, n, 1) for n in shape[axis : axis + taken]]
            sliced += shape[axis : axis + taken]
    spread = _broadcast(arrays)
    if not arrays or advanced[-1] - advanced[0] + 1 != len(advanced):
        place = 0  # separated index arrays put their axes first
    rest = [n for a, n in enumerate(middle) if a not in axes]
    return Selection(
        tuple(index),
        tuple(index) == tuple((0, n, 1) for n in shape),
        tuple(sliced),
        tuple(middle),
        tuple(arrays),
        tuple(axes),
        spread,
        place,
        (*rest[:place], *spread, *rest[place:]),
    )


def checked(index: Any, x: Tensor, axis: int) -> Any:
    """Integers that index an axis, counted from the front.

    Raises:
        IndexRangeError: one is out of range; if it is not known yet, when the program runs.
    """
    if axis == 0 and is_table(x.shape):
        return p.checked_row(x, index)
    return p.checked_index(index, axis=axis, length=x.shape[axis])


def _item(k: Any) -> Any:
    """One item of a key as None, Ellipsis, a slice, an int, a boolean or an integer array."""
    if k is None or k is Ellipsis or type(k) is int or type(k) is slice:
        return k
    if type(k) is Tensor:
        if k.dtype == bool:
            return np.asarray(concrete(k, "a boolean mask"))
        if is_known(k):
            k = k.value
    elif isinstance(k, (bool, list, tuple, range)):
        try:
            array = np.asarray(k)
        except ValueError:  # lists of unequal lengths
            raise _unknown(f"{type(k).__name__} {k!r}") from None
        k = array.astype(np.int64) if array.size == 0 and array.dtype != bool else array
    if not isinstance(k, (Tensor, np.ndarray, np.generic)):
        try:
            return operator.index(k)
        except TypeError:
            raise _unknown(f"{type(k).__name__} {k!r}") from None
    if k.dtype.kind not in "biu":
        raise _unknown(f"an array of {k.dtype}")
    if k.dtype != bool and k.ndim == 0 and type(k) is not Tensor:
        return int(k)
    return k if type(k) is Tensor else np.asarray(k)


def _unknown(what: str) -> IndexRangeError:
    return IndexRangeError(
        f"{what} cannot be an index; use integers, slices, None, Ellipsis, and integer or boolean "
        "arrays"
    )


def _expanded(items: list[Any], shape: Shape) -> list[Any]:
    """The items with as many slices as the Ellipsis, or the missing end, stands for."""
    taken = sum(0 if k is None or k is Ellipsis else _axes_of(k) for k in items)
    dots = [i for i, k in enumerate(items) if k is Ellipsis]
    if taken > len(shape) or len(dots) > 1:
        problem = "more than one Ellipsis" if len(dots) > 1 else f"{taken} indices"
        raise IndexRangeError(f"{problem} for an array of {len(shape)} axes, shape {list(shape)}")
    at = dots[0] + 1 if dots else len(items)  # the Ellipsis stays: it separates even if it is empty
    return [*items[:at], *[slice(None)] * (len(shape) - taken), *items[at:]]


def _axes_of(k: Any) -> int:
    return k.ndim if isinstance(k, np.ndarray) and k.dtype == bool else 1


def _nonzero(mask: Any, shape: Shape, axis: int) -> tuple[Any, ...]:
    """A boolean mask as integer arrays, one an axis.

    A mask without axes indexes a new axis of length 1.
    """
    for a, (n, m) in enumerate(zip(shape, mask.shape, strict=True)):
        if m not in (n, 0):
            raise IndexRangeError(
                f"a boolean mask of shape {list(mask.shape)} for axes of shape {list(shape)}: axis "
                f"{axis + a} has length {n}"
            )
    return mask.nonzero() if mask.ndim else (np.zeros(int(mask), np.int64),)


def _broadcast(arrays: list[Any]) -> Shape:
    if len(arrays) < 2:
        return arrays[0].shape if arrays else ()
    try:
        return np.broadcast_shapes(*(a.shape for a in arrays))
    except ValueError:
        shapes = " and ".join(str(list(a.shape)) for a in arrays)
        raise ShapeError(
            f"index arrays of shapes {shapes} do not broadcast against each other"
        ) from None


# What reads an array by a key ---------------------------------------------------------------------


def getitem(x: Tensor, key: Any, /) -> Tensor:
    """``x[key]``: the elements that ``key`` selects, as NumPy defines it.

    Args:
        x: an array.
        key: an integer, a slice with any step, None (a new axis), Ellipsis, an array of integers or
            booleans, or a tuple of these. Negative integers count from the end. Integer arrays
            broadcast against each other to a shape S, which takes the place of the axes they
            index, or comes first where a slice, None or Ellipsis separates them. A boolean array
            of n axes stands for the n integer arrays of its `nonzero`.

    Raises:
        IndexRangeError: an index out of range, too many, or of an unknown kind.
        ShapeError: index arrays that do not broadcast against each other.
        BatchingError: a boolean mask inside `vmap`: use ``ln.where``.

    Example:
        >>> import lantern as ln
        >>> x = ln.asarray([[1, 2, 3], [4, 5, 6]])
        >>> print(x[1, ::-1], x[:, [0, 2]], x[x > 4])
        [6 5 4] [[1 3]
         [4 6]] [5 6]
    """
    if type(key) is int and (shape := x.shape) and type(n := shape[0]) is not Length:  # most common
        if not -n <= key < n:
            raise out_of_range(key, 0, n)
        rest = tuple((0, m, 1) for m in shape[1:])
        return p.static_slice(x, index=(key + n if key < 0 else key, *rest))
    if is_table(x.shape):
        return of_table(x, key)
    return selected(x, select(key, x))


def of_table(x: Tensor, key: Any) -> Tensor:
    """``x[key]`` for an array whose length is not known: its rows first, then what is in them."""
    first, *rest = [_item(k) for k in (key if type(key) is tuple else (key,))]
    first = np.asarray(first) if type(first) is int else first
    if not _are_integers(first) or any(isinstance(k, (Tensor, np.ndarray)) for k in rest):
        return selected(x, select(key, x))
    rows = p.gather(x, checked(first, x, 0))
    if not rest:
        return rows
    return selected(rows, select((*[slice(None)] * first.ndim, *rest), rows))


def _are_integers(k: Any) -> bool:
    return isinstance(k, (Tensor, np.ndarray)) and k.dtype.kind in "iu"


def selected(x: Tensor, selection: Selection) -> Tensor:
    """The elements of ``x`` that a selection names."""
    part = static_part(x, selection)
    if not selection.arrays:
        return part
    part = ordered(part, selection.front)
    return ordered(p.gather(part, *selection.arrays), selection.into_place)


def static_part(x: Tensor, selection: Selection) -> Tensor:
    """The static part of a selection, with its new axes."""
    if not selection.whole:
        x = p.static_slice(x, index=selection.index)
    return x if x.shape == selection.middle else reshape(x, shape=selection.middle)


def ordered(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """``x`` with its axes in another order."""
    return x if axes == tuple(range(x.ndim)) else permute(x, axes=axes)


def along(x: Any, index: Any, axis: int) -> Any:
    """`take_along_axis` with a checked index and axis."""
    ndim = x.ndim
    lines = [np.arange(n).reshape((n,) + (1,) * (ndim - 1 - a)) for a, n in enumerate(x.shape)]
    return p.gather(x, *lines[:axis], index, *lines[axis + 1 :])
