"""Lists and nodes: what is saved for the way back where nothing says how much it will be.

What an unbounded loop saves for its backward half, one element a step, is a list. Its shape begins
with -1. Lists are made by loops and read by loops, a step its element; reading behind the end gives
zeros, so that an empty list stands for an adjoint that is zero.

What a call of a recursive function saves is a node: values, nodes of its own calls among them, and
which path the call took. Its dtype is `NODE`; an empty one holds zeros, whatever is asked for. No
list and no node reaches a user.

The zeros of a table (`lantern.lengths`), whose length is not known either, are written like those.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lantern.lengths import Length, is_table

Shape = tuple[int, ...]
UNKNOWN = -1
NODE = np.dtype(object)
SUM = -1


class Node:
    """What a call of a recursive function saved, and the number of the path that it took; or, with
    the tag `SUM`, the sum of two such, made only when it is opened."""

    __slots__ = ("tag", "values")
    shape: Shape = ()
    dtype = NODE

    def __init__(self, tag: int, values: tuple[Any, ...]) -> None:
        self.tag, self.values = tag, values

    def __add__(self, other: Any) -> Any:
        return self if type(other) is Empty else Node(SUM, (self, other))

    def opened(self, kinds: Sequence[tuple[Shape, Any]]) -> tuple[Any, ...]:
        """The values, of these kinds."""
        if self.tag != SUM:
            return self.values
        left, total = [*self.values], tuple(zeros(*kind) for kind in kinds)
        while left:
            part = left.pop()
            if part.tag == SUM:
                left += part.values
            else:
                total = tuple(a + b for a, b in zip(total, part.values, strict=True))
        return total


class Ragged:
    """A list, or an array of lists or of nodes: what a Symbol of such a kind stands for."""

    __slots__ = ("dtype", "elements", "shape")

    def __init__(self, elements: Sequence[Any], shape: Shape, dtype: Any) -> None:
        self.elements, self.shape, self.dtype = elements, shape, dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return len(self.elements)

    def __getitem__(self, i: int) -> Any:
        return self.elements[i]

    def __add__(self, other: Any) -> Any:
        """The sum of two adjoints, of which one may be empty."""
        if not self.shape:  # a node of zeros
            return other
        pairs = zip(self.elements, other.elements, strict=True)
        sums = [a + b for a, b in pairs] if len(self) and len(other) else [*self, *other]
        return Ragged(sums, self.shape, self.dtype)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **_: Any) -> Any:
        return inputs[0] + inputs[1] if ufunc is np.add else NotImplemented


class Empty(Ragged):
    """A list without elements, or a node that holds zeros; or the zeros of a table."""

    __slots__ = ()

    def __init__(self, shape: Shape, dtype: Any) -> None:
        super().__init__((), shape, dtype)


def is_ragged(shape: Shape) -> bool:
    """Whether a shape is that of a list, or of an array of lists."""
    return UNKNOWN in shape


def is_opaque(shape: Shape, dtype: Any) -> bool:
    """Whether values of a kind are no arrays of numbers, but lists or nodes."""
    return is_ragged(shape) or dtype == NODE


def is_unsized(shape: Shape, dtype: Any) -> bool:
    """Whether a kind does not say how many numbers there are."""
    return is_opaque(shape, dtype) or is_table(shape)


def zeros(shape: Shape, dtype: Any) -> Any:
    """Zeros that take no memory; for a list or a node, an empty one."""
    if is_unsized(shape, dtype):
        return Empty(shape, dtype)
    return np.broadcast_to(np.dtype(dtype).type(0), shape)


def cleared(shape: Shape, dtype: Any) -> Any:
    """Zeros that may be written, and go to the user."""
    return Empty(shape, dtype) if is_table(shape) else np.zeros(shape, dtype)


def element(x: Any, i: int, shape: Shape, dtype: Any) -> Any:
    """An element of an array or of a list; zeros behind the end of a list."""
    return x[i] if i < len(x) else zeros(shape, dtype)


def stacked(elements: list[Any], length: int | Length | None, shape: Shape, dtype: Any) -> Any:
    """Elements of a shape: an array of so many, or, where lists or nodes are in it, `Ragged`."""
    if length is None or is_opaque(shape, dtype):
        first: Any = UNKNOWN if length is None else length
        return Ragged(elements, (first, *shape), dtype)
    return np.stack(elements) if elements else np.empty((0, *shape), dtype)


def batched(size: int, shape: Shape) -> Shape:
    """The shape of a batch: its axis leads, but in lists stands behind the length."""
    at = shape.index(UNKNOWN) + 1 if is_ragged(shape) else 0
    return (*shape[:at], size, *shape[at:])


def unbatched(shape: Shape) -> Shape:
    """The shape of one element of a batch."""
    at = shape.index(UNKNOWN) + 1 if is_ragged(shape) else 0
    return (*shape[:at], *shape[at + 1 :])
