"""The arguments of a call of a compiled function, and how they are taken apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lantern import tree
from lantern.abstract import ShapeDtype
from lantern.checks import checks
from lantern.convert import asarray
from lantern.kinds import ALL
from lantern.staged.layout import Layout, layout_of
from lantern.staged.lengths import Kind
from lantern.staged.options import Options
from lantern.symbol import Symbol
from lantern.syntax.calls import rewritten
from lantern.tensor import Tensor

PyTree = Any
Array = np.ndarray[Any, Any]
ndarray, generic = np.ndarray, np.generic
KEPT = 64  # layouts that are remembered


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


class Taker:
    """Takes the arguments of calls apart.

    Args:
        chosen: the options of the function.
    """

    def __init__(self, chosen: Options) -> None:
        self.static = chosen.static
        self.check_nans = chosen.check_nans
        # Dtypes of arrays of NumPy that need no copy: native code reads them, and is done with it.
        self.read_in_place = frozenset(ALL if chosen.backend == "llvm" else ())
        self.layout: Layout | None = None  # of the last call's arguments
        self.layouts: dict[tree.Structure, Layout | None] = {}

    def given(self, args: tuple[PyTree, ...], kwargs: dict[str, PyTree]) -> Given:
        """The arguments, taken apart."""
        places: list[int | str] = []
        behind: list[Any] = []
        if static := self.static:
            places = [i for i in range(len(args)) if i in static.positions]
            places += [name for name in kwargs if name in static.names]
            behind = [args[p] if isinstance(p, int) else kwargs[p] for p in places]
            args = tuple(None if i in static.positions else x for i, x in enumerate(args))
            kwargs = {name: x for name, x in kwargs.items() if name not in static.names}
        leaves, structure = self.flat((args, kwargs))
        values: list[Any] = []
        kinds: list[Kind | None] = []
        statics: list[Any] = []
        inside = False
        for i, x in enumerate(leaves):
            if type(x) is not Tensor:
                if isinstance(x, (ndarray, generic)) and x.dtype in self.read_in_place:
                    values.append(x)
                    kinds.append((x.shape, x.dtype))
                    continue
                if isinstance(x, ShapeDtype):
                    kinds.append((x.shape, x.dtype))
                    continue
                if not is_array(x):
                    statics.append(x)
                    kinds.append(None)
                    continue
                leaves[i] = x = asarray(x)
            value = x.value
            if x.prompt is not None or type(value) is Symbol:
                inside = True
            values.append(value)
            kinds.append((value.shape if x.prompt is None else x.shape, x.dtype))
        if inside:
            leaves = [asarray(x) if isinstance(x, (ndarray, generic)) else x for x in leaves]
        checked = self.check_nans or checks.get() is not None
        return Given(
            structure, leaves, values, kinds, statics + behind, tuple(places), checked, inside
        )

    def flat(self, x: PyTree) -> tuple[list[Any], tree.Structure]:
        """The leaves of a tree and its structure."""
        if self.layout and (leaves := self.layout.leaves(x)) is not None:
            return leaves, self.layout.structure
        leaves, structure = tree.flatten(x)
        if structure not in self.layouts:
            if len(self.layouts) >= KEPT:
                self.layouts.clear()
            self.layouts[structure] = layout_of(structure)
        self.layout = self.layouts[structure]
        return leaves, structure


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
