"""The arguments of a call of a compiled function, taken apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lantern import tree
from lantern.staged.lengths import Kind
from lantern.syntax.calls import rewritten
from lantern.tensor import Tensor

PyTree = Any
Array = np.ndarray[Any, Any]
ndarray, generic = np.ndarray, np.generic


class Given(NamedTuple):
    """The arguments of a call.

    Attributes:
        structure: of (positional arguments, keyword arguments).
        leaves: of these, numbers and arrays as Tensors; but those of NumPy may be as they were.
        values: what those that are arrays hold.
        kinds: shape and dtype of each leaf; None where it is static.
        statics: the static leaves, and behind them the arguments that are static by an option.
        places: positions and names of the latter.
        checked: whether the program looks for values that are not finite.
        inside: whether an array belongs to a derivative or a batch, or to a program that is being
            written.
    """

    structure: tree.Structure
    leaves: list[Any]
    values: list[Any]
    kinds: list[Kind | None]
    statics: list[Any]
    places: tuple[int | str, ...]
    checked: bool
    inside: bool

    def bound(self, f: Callable[..., PyTree]) -> Callable[..., PyTree]:
        """A function of the arguments that are left, the static ones put back."""
        if not self.places:
            return f
        fixed = self.statics[len(self.statics) - len(self.places) :]

        def called(*args: PyTree, **kwargs: PyTree) -> PyTree:
            positional = list(args)
            for place, x in zip(self.places, fixed, strict=True):
                if isinstance(place, int):
                    positional[place] = x
                else:
                    kwargs[place] = x
            return rewritten(f)(*positional, **kwargs)

        return called


def arrays(values: Iterable[Any]) -> list[Array]:
    """Values as a backend of the CPU takes them."""
    return [x if type(x) is ndarray else np.asarray(x) for x in values]


def as_given(values: Iterable[Any]) -> list[Any]:
    """Values as a backend of a device takes them: on the device, or as they come."""
    return list(values)


def is_array(x: Any) -> bool:
    """Whether a leaf of the arguments is an input of the program; anything else is static."""
    return isinstance(x, (Tensor, np.ndarray, np.generic, int, float)) and not isinstance(x, bool)


def alike(seen: Sequence[Any], given: Sequence[Any]) -> bool:
    """Whether static values are the same at first sight."""
    return len(seen) == len(given) and all(
        x is y or (type(x) is str and x == y) for x, y in zip(seen, given, strict=True)
    )
