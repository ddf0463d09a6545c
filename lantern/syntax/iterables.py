"""What a ``for`` over values of a program goes over: ranges, the rows of Tensors, and these counted
or side by side.

Each knows how many elements there are, as a number or as a value of the program, and gives the one
of a certain number. Where Python iterates over them, as comprehensions do, it gets them in turn.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Iterator
from typing import Any

from lantern.control import box
from lantern.errors import DTypeError, StagingError, describe
from lantern.lengths import Length, as_long
from lantern.ops.elementwise import maximum, minimum
from lantern.primitives.indexing import length_of
from lantern.syntax.truth import is_staged
from lantern.tensor import Tensor


class Elements:
    """Elements that a loop of a program can go over.

    Attributes:
        count: how many there are.
        rows: a pytree of Tensors, of whose elements along the first axis they are made.
        numbered: whether they are made of their numbers, too.
    """

    count: Any
    rows: Any = ()
    numbered = False

    def element(self, number: Any, row: Any) -> Any:
        """The element of a certain number, made of the rows of that number."""
        raise NotImplementedError  # every kind of elements defines its own

    def __iter__(self) -> Iterator[Any]:
        raise NotImplementedError


class Range(Elements):
    """``range`` of values of the program."""

    numbered = True

    def __init__(self, start: Any, stop: Any, step: Any) -> None:
        self.start, self.step = start, step
        self.count = maximum(-((start - stop) // step), 0)  # rounded up

    def element(self, number: Any, row: Any) -> Any:
        return self.start + number * self.step

    def __iter__(self) -> Iterator[Any]:
        raise StagingError(
            "range() of a value that is not known while compiling has no elements to go over now; "
            "write a `for` statement, or ln.fori_loop"
        )


class Rows(Elements):
    """The elements of a Tensor along its first axis."""

    def __init__(self, x: Tensor) -> None:
        self.rows, self.count = x, x.shape[0]

    def element(self, number: Any, row: Any) -> Any:
        return row

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)


class Counted(Elements):
    """``enumerate`` of such elements."""

    numbered = True

    def __init__(self, inner: Elements, start: Any) -> None:
        self.inner, self.start = inner, start
        self.count, self.rows = inner.count, inner.rows

    def element(self, number: Any, row: Any) -> Any:
        return number + self.start, self.inner.element(number, row)

    def __iter__(self) -> Iterator[Any]:
        return builtins.enumerate(self.inner, self.start)


class Beside(Elements):
    """``zip`` of such elements: as many as the shortest has."""

    def __init__(self, inner: list[Elements]) -> None:
        self.inner = inner
        known = [x.count for x in inner if not is_staged(x.count)]
        self.count = min(known) if known else inner[0].count
        for x in inner:
            if is_staged(x.count):
                self.count = minimum(self.count, x.count)
        self.rows = tuple(self.shortened(x) for x in inner)
        self.numbered = any(x.numbered for x in inner)

    def shortened(self, x: Elements) -> Any:
        """The rows that are used, where that is known."""
        if is_staged(self.count) or x.count == self.count or isinstance(x, Range):
            return x.rows
        return Beside.cut(x.rows, self.count)

    @staticmethod
    def cut(rows: Any, count: int) -> Any:
        """The first rows of a Tensor, or of several."""
        if isinstance(rows, tuple):
            return tuple(Beside.cut(x, count) for x in rows)
        return rows[:count]

    def element(self, number: Any, row: Any) -> Any:
        return tuple(x.element(number, r) for x, r in builtins.zip(self.inner, row, strict=True))

    def __iter__(self) -> Iterator[Any]:
        return builtins.zip(*self.inner, strict=False)


def elements_of(x: Any) -> Elements | None:
    """What is gone over, if a loop of a program can do it."""
    if isinstance(x, Elements):
        return x
    return Rows(x) if type(x) is Tensor and x.ndim and is_staged(x) else None


def as_number(n: Any) -> Any:
    """A length that is known only when the program runs as a value of it."""
    return box(length_of(as_long(n))) if type(n) is Length else n


def range_(*args: Any) -> Any:
    """``range``."""
    args = tuple(as_number(n) for n in args)
    if not any(map(is_staged, args)):
        return range(*args)
    for x in args:
        if type(x) is Tensor and (x.shape != () or x.dtype.kind not in "iu"):
            raise DTypeError(f"range() of {describe(x)}: expected an integer without axes")
    if len(args) == 1:
        return Range(0, args[0], 1)
    start, stop, *step = args
    return Range(start, stop, step[0] if step else 1)


def enumerate_(iterable: Iterable[Any], start: Any = 0) -> Any:
    """``enumerate``."""
    found = elements_of(iterable)
    return enumerate(iterable, start) if found is None else Counted(found, start)


def zip_(*iterables: Any, strict: bool = False) -> Any:
    """``zip``."""
    found = [x for x in map(elements_of, iterables) if x is not None]
    if not found or len(found) < len(iterables):
        return zip(*iterables, strict=strict)
    counts = {x.count for x in found if not is_staged(x.count)}
    if strict and (len(counts) > 1 or any(is_staged(x.count) for x in found)):
        return zip(*iterables, strict=True)  # which says what is wrong
    return Beside(found)
