"""Donation: arguments whose memory a compiled function may write over, and return as results.

Only memory that nothing else can see is taken. A Tensor that was given away is dead, and says so.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from sys import getrefcount
from types import CodeType
from typing import Any, NoReturn

import numpy as np

from lantern.errors import DonatedError, user_frame, user_line
from lantern.tensor import Tensor

Array = np.ndarray[Any, Any]


class Gone:
    """What a donated Tensor holds: every use of it says where the Tensor went.

    Attributes:
        name: the argument that it was.
        taker: the name of the compiled function.
        place: the line of the call.
    """

    __slots__ = ("name", "place", "taker")

    def __init__(self, name: str, taker: str, place: str) -> None:
        self.name, self.taker, self.place = name, taker, place

    def refuse(self, *_: Any, **__: Any) -> NoReturn:
        """Say that the Tensor has no elements any more.

        Raises:
            DonatedError: always.
        """
        raise DonatedError(
            f"this Tensor was donated, as {self.name}, to {self.taker} at {self.place}; its memory "
            "holds results of that call now: use those, or do not donate it"
        )

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)  # Python asks whether there is one
        self.refuse()

    __array__ = __array_ufunc__ = __array_function__ = refuse


def check(
    positions: Sequence[int], arrays: Sequence[Array], names: Sequence[str], captured: Sequence[Any]
) -> None:
    """Make sure that nothing else can see the memory of some arrays.

    Args:
        positions: of the arrays that are to be given away.
        arrays: of all arguments; the caller holds each in its Tensor and in this list only.
        names: of these arguments.
        captured: what the function closed over.

    Raises:
        DonatedError: something can; both its names are said.
    """
    if plain(positions, arrays) or not any(held(arrays, i) for i in positions):
        return  # nor does any of them hold another's memory: that would count twice
    owners = [*(id(root(x)) for x in captured), *(id(root(x)) for x in arrays)]
    if len(set(owners)) < len(owners):
        labels = [*("what the function closes over" for _ in captured), *names]
        for i in positions:
            owner = owners[len(captured) + i]
            others = [k for k, other in enumerate(owners) if other == owner]
            if len(others) > 1:
                others.remove(len(captured) + i)
                raise DonatedError(
                    f"{names[i]} cannot be donated: it shares its memory with {labels[others[0]]}. "
                    "Tied arrays are passed once, or one of them as a copy: "
                    "ln.asarray(x, copy=True)"
                )
    gc.collect()  # of frames that nothing reaches any more, such as those of handled errors
    for i in positions:
        if reason := held(arrays, i):
            raise DonatedError(
                f"{names[i]} cannot be donated: {reason}. Donate a copy, ln.asarray(x, copy=True)"
            )


def plain(positions: Sequence[int], arrays: Sequence[Array]) -> bool:
    """Whether arrays are what they most often are: nobody else's, and of memory of their own. This
    takes a third of the time of a closer look."""
    for i in positions:
        x = arrays[i]
        if type(x) is not np.ndarray or x.base is not None or getrefcount(x) > _ALONE:
            return False
        flags = x.flags
        if not (flags.carray and flags.owndata):
            return False
    return True


def root(x: Any) -> Any:
    """The array that owns the memory of a view; of an array on a device, the memory itself."""
    base = getattr(x, "base", None)
    on_device = base is not None and not isinstance(x, (np.ndarray, np.generic))
    return base if on_device or isinstance(base, np.ndarray) else x


def held(arrays: Sequence[Array], i: int) -> str:
    """Who else holds the memory of the i-th array; nothing if nobody does."""
    x = arrays[i]
    if not isinstance(x, np.ndarray):  # it is on a device
        alone = getrefcount(x) <= _ALONE and not x.shared
        return "" if alone else "another Tensor or array on the device holds its memory"
    if not x.flags.carray:
        return "its elements do not lie in order in memory that can be written"
    if getrefcount(x) > _ALONE:
        return "another Tensor, an array of NumPy or a derivative that is going on holds its memory"
    base = x.base
    if base is None:
        return "" if x.flags.owndata else "its memory belongs to something else"
    lent = hasattr(base, "lent")  # by a compiled function, for its result alone
    if not isinstance(base, np.ndarray) or not (base.flags.owndata or lent):
        return "its memory belongs to another library"
    if getrefcount(base) > _BASE:
        return "it is a view of memory that something else holds, too"
    return ""


def _counts() -> tuple[int, int]:
    """The numbers of references that `held` sees where nothing else holds an array, or its base;
    they depend on the version of Python."""
    seen: list[tuple[int, int]] = []

    def look(arrays: Sequence[Array], i: int) -> None:
        x = arrays[i]
        base = x.base
        seen.append((getrefcount(x), getrefcount(base)))

    tensor = Tensor(np.zeros(2)[()])
    arrays = [tensor.value]
    look(arrays, 0)
    return seen[0]


_ALONE, _BASE = _counts()


class Graves:
    """What is left of Tensors that were given away: where they went.

    Args:
        names: the arguments that they were.
        taker: the name of the compiled function.
    """

    def __init__(self, names: Sequence[str], taker: str) -> None:
        self.names, self.taker = names, taker
        self.known: dict[tuple[CodeType, int], list[Gone]] = {}  # for each line with a call

    def bury(self, donors: Sequence[Any]) -> None:
        """Leave nothing in those of the donors that are Tensors but where they went."""
        frame = user_frame()
        line = frame.f_code, frame.f_lineno
        if line not in self.known:
            place = user_line()
            self.known[line] = [Gone(name, self.taker, place) for name in self.names]
        for donor, gone in zip(donors, self.known[line], strict=True):
            if type(donor) is Tensor:
                donor.value = gone
