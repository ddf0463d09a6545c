"""Lengths that are known only when a program runs: those of the first axes of tables.

A program for tables of any length sees a `Length` in their shape. It equals itself and nothing
else is known of it: what computes with it, compares it or counts by it raises `Unsized`, and
`lantern.compile` then writes a program for one length instead.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn

from lantern.errors import StagingError

_needed: ContextVar[list[Unsized] | None] = ContextVar("needed", default=None)


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
        if (met := _needed.get()) is not None:
            met.append(self)


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


def _unsized(self: Length, *_: Any) -> NoReturn:
    raise Unsized(self)


for _name in (
    "add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "floordiv", "rfloordiv",
    "mod", "rmod", "pow", "rpow", "divmod", "rdivmod", "lshift", "rlshift", "rshift", "rrshift",
    "and", "rand", "or", "ror", "xor", "rxor", "neg", "pos", "abs", "invert", "round", "lt", "le",
    "gt", "ge", "bool", "int", "float", "complex", "index", "format",
):  # fmt: skip
    setattr(Length, f"__{_name}__", _unsized)


@contextmanager
def needing() -> Iterator[list[Unsized]]:
    """A context that gives the errors which are raised in it, also those that somebody catches."""
    met: list[Unsized] = []
    token = _needed.set(met)
    try:
        yield met
    finally:
        _needed.reset(token)


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
