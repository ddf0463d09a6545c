"""Lengths that are known only when a program runs: those of the first axes of tables.

A program for tables of any length sees a `Length` in their shape. It equals itself and nothing
else is known of it: what computes with it, compares it or counts by it raises `Unsized`, and
`lantern.compile` then writes a program for one length instead.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn

from lantern.errors import StagingError


class Needs:
    """What a program that is being written makes of lengths.

    Attributes:
        named: those that it may count by: a loop over rows is faster for one length, so it is for
            every length only on request.
        met: the errors that it has met, also those that somebody caught.
        tables: for each length an argument that is as long.
    """

    def __init__(self, named: frozenset[Length]) -> None:
        self.named = named
        self.met: list[Unsized] = []
        self.tables: dict[Length, Any] = {}


_needs: ContextVar[Needs | None] = ContextVar("needs", default=None)


class Unsized(StagingError):
    """A length was needed that is known only when the program runs.

    Attributes:
        length: which.
    """

    def __init__(self, length: Length) -> None:
        super().__init__(
            "a length is needed here that is known only when the program runs: that of an argument "
            "named by ln.compile(dynamic=...). Index it, go along it with ln.scan, or do not name "
            "the argument"
        )
        self.length = length
        if (needs := _needs.get()) is not None:
            needs.met.append(self)


class Length:
    """The length of the first axis of a table.

    Attributes:
        number: what stands for it in the intermediate representation: -2, -3, and so on.
    """

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def __repr__(self) -> str:
        return f"n{-2 - self.number or ''}"

    def __hash__(self) -> int:
        return hash((Length, self.number))

    def __eq__(self, other: object) -> bool:
        """No length is negative; whether it is another one or some number is not known."""
        if self is other:
            return True
        if type(other) is int and other < 0:
            return False
        raise Unsized(self)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __index__(self) -> int:
        raise Unsized(self)


def _unsized(self: Length, *_: Any) -> NoReturn:
    raise Unsized(self)


for _name in (
    "add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "floordiv", "rfloordiv",
    "mod", "rmod", "pow", "rpow", "divmod", "rdivmod", "lshift", "rlshift", "rshift", "rrshift",
    "and", "rand", "or", "ror", "xor", "rxor", "neg", "pos", "abs", "invert", "round", "lt", "le",
    "gt", "ge", "bool", "int", "float", "complex", "format",
):  # fmt: skip
    setattr(Length, f"__{_name}__", _unsized)


@contextmanager
def needing(named: frozenset[Length]) -> Iterator[Needs]:
    """A context in which a program is written that may count by some lengths."""
    token = _needs.set(needs := Needs(named))
    try:
        yield needs
    finally:
        _needs.reset(token)


def given(table: Any) -> None:
    """Remember a table that is an argument of the program that is being written."""
    if (needs := _needs.get()) is not None:
        needs.tables[table.shape[0]] = table


@contextmanager
def counted_by(tables: Iterable[Any]) -> Iterator[None]:
    """A context in which it is other tables by whose lengths the program counts."""
    needs = _needs.get()
    if needs is None:
        yield
        return
    before = dict(needs.tables)
    needs.tables.update((x.shape[0], x) for x in tables if is_table(x.shape))
    try:
        yield
    finally:
        needs.tables.clear()
        needs.tables.update(before)


def as_long(n: Length) -> Any:
    """An argument of a length that the program may count by.

    Raises:
        Unsized: it may not.
    """
    needs = _needs.get()
    if needs is None or n not in needs.named:
        raise Unsized(n)
    return needs.tables[n]


@functools.cache
def length(number: int) -> Length:
    """The length of a number; always the same object."""
    return Length(number)


def is_table(shape: tuple[Any, ...]) -> bool:
    """Whether a shape is that of a table."""
    return bool(shape) and type(shape[0]) is Length


def numbered(shape: Any) -> tuple[int, ...]:
    """A shape as the intermediate representation has it, where a length stands first.

    Raises:
        Unsized: one stands elsewhere.
    """
    for n in shape[1:]:
        if type(n) is Length:
            raise Unsized(n)
    return tuple([n.number if type(n) is Length else n for n in shape])


def named(shape: tuple[int, ...]) -> tuple[Any, ...]:
    """A shape of the intermediate representation as a tensor shows it."""
    return (length(shape[0]), *shape[1:]) if shape and shape[0] < -1 else shape
