"""Lengths that are known only when a program runs: what the first axes of tables are bound to.

A program numbers them -2, -3 and so on. Where a number stands first in the shape of a parameter,
the array that is given says what it is; wherever else it stands, it is the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from staging.ir import IRError, Value

Shape = tuple[int, ...]
Lengths = Mapping[int, int]


def bound(params: Sequence[Value], shapes: Sequence[Shape]) -> dict[int, int]:
    """The lengths, by number, that arrays of these shapes give a program.

    Raises:
        IRError: two arrays differ in a length that has one number, or one has none.

    Example:
        >>> from staging.ir import Type
        >>> bound([Value(Type("int64", (-2,))), Value(Type("int64", (3,)))], [(7,), (3,)])
        {-2: 7}
    """
    lengths: dict[int, int] = {}
    for param, shape in zip(params, shapes, strict=True):
        if param.type.is_table:
            if not shape:
                raise IRError(f"{param} was given an array without axes")
            number, found = param.type.shape[0], shape[0]
            if lengths.setdefault(number, found) != found:
                raise IRError(f"{param} is of length {found}, another one of {lengths[number]}")
    return lengths


def sized(shape: Shape, lengths: Lengths) -> Shape:
    """A shape with lengths in place of their numbers.

    Example:
        >>> sized((-2, 3), {-2: 7}), sized((2, 3), {-2: 7})
        ((7, 3), (2, 3))
    """
    if shape and shape[0] < -1:
        return (lengths[shape[0]], *shape[1:])
    return shape


def numbers(params: Sequence[Value]) -> tuple[int, ...]:
    """The numbers of a program's lengths: -2, -3, and so on."""
    return tuple(sorted({v.type.shape[0] for v in params if v.type.is_table}, reverse=True))
