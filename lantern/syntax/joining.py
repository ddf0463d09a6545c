"""Where ways meet: what values of the same variable become, one from each way.

What is the same on all of them stays what it is, be it an array or any object of Python. Numbers
and arrays that differ become an array of the program. A Python number is weak there, as in
arithmetic: beside an array it takes the dtype that an operation on both would have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lantern import tree
from lantern.convert import asarray
from lantern.dtypes import result_type
from lantern.errors import describe
from lantern.kinds import DType, convert_to, is_floating, is_number, promote_number
from lantern.syntax.calls import floating_here
from lantern.syntax.outcomes import MISSING
from lantern.tensor import Tensor

Made = Callable[[Sequence[Any]], Any]
_ARRAYS = (Tensor, np.ndarray, np.generic)


class Mismatch(Exception):
    """Values that cannot become one; the message shows them."""


class Join:
    """Values that meet, a few at a time; what has to become arrays is collected.

    Attributes:
        select: gives the one of several numbers that belongs to the way that is taken.
        kinds: shape and dtype of each array to make.
        leaves: on each way, what each of these arrays is made of; None for zeros.
    """

    def __init__(self, ways: int, select: Callable[[Sequence[Any]], Any]) -> None:
        self.select = select
        self.kinds: list[tuple[tuple[int, ...], DType]] = []
        self.leaves: list[list[Any]] = [[] for _ in range(ways)]

    def add(self, values: Sequence[Any]) -> Made:
        """Let the values of one variable meet; those that are `MISSING` do not matter.

        Returns:
            What gives the one value, once the arrays are there.

        Raises:
            Mismatch: they cannot become one.
        """
        here = [i for i, v in enumerate(values) if v is not MISSING]
        flat = [tree.flatten(values[i]) for i in here]
        structure = flat[0][1]
        for _, other in flat[1:]:
            if other != structure:
                raise Mismatch(" and ".join(shown(values[i]) for i in here))
        paths = tree.paths(values[here[0]])
        made = [
            self.leaf(dict(zip(here, some, strict=True)), path)
            for path, *some in zip(paths, *(leaves for leaves, _ in flat), strict=True)
        ]
        return lambda arrays: tree.unflatten(structure, [one(arrays) for one in made])

    def leaf(self, values: dict[int, Any], path: str) -> Made:
        """Let leaves meet, by the number of their way."""
        first, *rest = values.values()
        if all(same(first, other) for other in rest) and (rest or not is_array(first)):
            return lambda arrays: first
        shape, dtype = meeting(list(values.values()), path)
        if len(values) == len(self.leaves) and all(map(is_number, values.values())):
            return lambda arrays: self.select([as_kind(x, dtype) for x in values.values()])
        position = len(self.kinds)
        self.kinds.append((shape, dtype))
        for way, leaves in enumerate(self.leaves):
            leaves.append(values.get(way, MISSING))
        return lambda arrays: arrays[position]

    def arrays(self, way: int) -> list[Any]:
        """The arrays of one way; to be made where that is recorded."""
        return [
            np.zeros(*kind)[()] if leaf is MISSING else as_kind(leaf, kind[1])
            for leaf, kind in zip(self.leaves[way], self.kinds, strict=True)
        ]


def as_kind(x: Any, dtype: DType) -> Tensor:
    """A leaf as an array of a dtype."""
    return asarray(x, dtype=dtype) if is_number(x) else convert_to(asarray(x), dtype)


def is_array(x: Any) -> bool:
    """Whether a leaf is an array."""
    return isinstance(x, _ARRAYS)


def same(x: Any, y: Any) -> bool:
    """Whether two leaves are the same wherever they come from; arrays only if they are one."""
    if x is y:
        return True
    if type(x) is not type(y) or is_array(x):
        return False
    if isinstance(x, float):
        return repr(x) == repr(y)  # nan, and the sign of zero
    try:
        return bool(x == y)
    except Exception:  # whatever a class of the user's does
        return False


def meeting(values: Sequence[Any], path: str = "") -> tuple[tuple[int, ...], DType]:
    """The shape and dtype that leaves have in common.

    Raises:
        Mismatch: there is none.
    """
    arrays = [asarray(x) for x in values if is_array(x)]
    numbers = [x for x in values if is_number(x)]
    kinds = {(x.shape, x.dtype) for x in arrays}
    if len(arrays) + len(numbers) < len(values) or len(kinds) > 1:
        raise Mismatch(" and ".join(dict.fromkeys(shown(x, path) for x in values)))
    if not kinds:
        dtype = result_type(*numbers)
        return (), floating_here() if is_floating(dtype) else dtype
    ((shape, dtype),) = kinds
    if numbers and shape:
        raise Mismatch(" and ".join(dict.fromkeys(shown(x, path) for x in values)))
    for x in numbers:
        dtype = promote_number(dtype, type(x))
    return shape, dtype


def shown(x: Any, path: str = "") -> str:
    """A value, or the part of one at a path, for people."""
    text = repr(tree.map(_Shown, x))
    return f"{text} at {path}" if path else text


class _Shown:
    """Prints as a leaf does in errors."""

    def __init__(self, leaf: Any) -> None:
        self.leaf = leaf

    def __repr__(self) -> str:
        return describe(self.leaf)
