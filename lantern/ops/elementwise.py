"""Arithmetic, choice and rounding: elementwise functions of the array API standard."""

from __future__ import annotations

import math
from typing import Any

from lantern.convert import asarray
from lantern.dtypes import finfo
from lantern.errors import DTypeError, describe
from lantern.kinds import bool as boolean
from lantern.kinds import convert_to, is_floating
from lantern.primitives import elementwise as p
from lantern.promotion import floating, floating_operands, operands
from lantern.tensor import Tensor

__all__ = [
    "abs",
    "add",
    "ceil",
    "clip",
    "copysign",
    "divide",
    "floor",
    "floor_divide",
    "maximum",
    "minimum",
    "multiply",
    "nan_to_num",
    "negative",
    "nextafter",
    "positive",
    "pow",
    "reciprocal",
    "remainder",
    "round",
    "sign",
    "square",
    "subtract",
    "trunc",
    "where",
]


def add(x1: Any, x2: Any, /) -> Tensor:
    """x1 + x2, elementwise with broadcasting.

    Example:
        >>> import lantern as ln
        >>> print(ln.add(ln.asarray([1, 2]), 10))
        [11 12]
    """
    return p.add(*operands(x1, x2))


def subtract(x1: Any, x2: Any, /) -> Tensor:
    """x1 - x2, elementwise with broadcasting.

    Example:
        >>> import lantern as ln
        >>> print(ln.subtract(ln.asarray([1, 2]), 10))
        [-9 -8]
    """
    return p.subtract(*operands(x1, x2))


def multiply(x1: Any, x2: Any, /) -> Tensor:
    """x1 × x2, elementwise with broadcasting.

    Example:
        >>> import lantern as ln
        >>> print(ln.multiply(ln.asarray([1, 2]), 10))
        [10 20]
    """
    return p.multiply(*operands(x1, x2))


def divide(x1: Any, x2: Any, /) -> Tensor:
    """x1 / x2. Integers give float32.

    Example:
        >>> import lantern as ln
        >>> print(ln.divide(ln.asarray([1, 2]), 4))
        [0.25 0.5 ]
    """
    return p.divide(*floating_operands(x1, x2))


def floor_divide(x1: Any, x2: Any, /) -> Tensor:
    """The largest integer not above x1 / x2. Its derivative is zero.

    Example:
        >>> import lantern as ln
        >>> print(ln.floor_divide(ln.asarray([7, -7]), 2))
        [ 3 -4]
    """
    return p.floor_divide(*operands(x1, x2))


def remainder(x1: Any, x2: Any, /) -> Tensor:
    """x1 - x2·⌊x1/x2⌋, with the sign of x2, as Python's ``%``.

    Example:
        >>> import lantern as ln
        >>> print(ln.remainder(ln.asarray([7, -7]), 4))
        [3 1]
    """
    return p.remainder(*operands(x1, x2))


def pow(x1: Any, x2: Any, /) -> Tensor:
    """x1 to the power of x2.

    x⁰ is 1 for every x, and constant in x. Where x1 is 0 the derivative with respect to x2 is taken
    to be 0; where x1 is negative there is none (NaN).

    Raises:
        DTypeError: an integer to a negative Python integer.

    Example:
        >>> import lantern as ln
        >>> print(ln.pow(ln.asarray([1.0, 2.0]), 3), ln.grad(lambda x: x**0)(0.0))
        [1. 8.] 0.0
    """
    base, exponent = operands(x1, x2)
    if type(exponent) is int and exponent < 0 and base.dtype.kind in "iu":
        raise DTypeError(
            f"pow: {describe(base)} to the power of {exponent} is no integer; convert it with "
            "ln.astype"
        )
    return p.power(base, exponent)


def negative(x: Any, /) -> Tensor:
    """-x.

    Example:
        >>> import lantern as ln
        >>> print(ln.negative(ln.asarray([1, -2])))
        [-1  2]
    """
    return p.negative(asarray(x))


def positive(x: Any, /) -> Tensor:
    """x itself.

    Example:
        >>> import lantern as ln
        >>> print(ln.positive(ln.asarray([1, -2])))
        [ 1 -2]
    """
    return asarray(x)


def abs(x: Any, /) -> Tensor:
    """|x|. At 0, between the slopes -1 and 1, the derivative is taken to be 0.

    Example:
        >>> import lantern as ln
        >>> print(ln.abs(ln.asarray([1, -2])))
        [1 2]
    """
    return p.absolute(asarray(x))


def sign(x: Any, /) -> Tensor:
    """-1, 0 or 1, as x is negative, zero or positive. Its derivative is zero.

    Example:
        >>> import lantern as ln
        >>> print(ln.sign(ln.asarray([3.0, 0.0, -2.0])))
        [ 1.  0. -1.]
    """
    return p.sign(asarray(x))


def square(x: Any, /) -> Tensor:
    """x².

    Example:
        >>> import lantern as ln
        >>> print(ln.square(ln.asarray([1, -3])))
        [1 9]
    """
    x = asarray(x)
    return p.multiply(x, x)


def reciprocal(x: Any, /) -> Tensor:
    """1/x. Integers give float32.

    Example:
        >>> import lantern as ln
        >>> print(ln.reciprocal(ln.asarray([2.0, -4.0])))
        [ 0.5  -0.25]
    """
    return 1 / floating(x)


def maximum(x1: Any, x2: Any, /) -> Tensor:
    """The larger of x1 and x2; NaN if either is. A tie shares the derivative equally.

    Example:
        >>> import lantern as ln
        >>> print(ln.maximum(ln.asarray([1.0, 5.0]), 2))
        [2. 5.]
    """
    return p.maximum(*operands(x1, x2))


def minimum(x1: Any, x2: Any, /) -> Tensor:
    """The smaller of x1 and x2; NaN if either is. A tie shares the derivative equally.

    Example:
        >>> import lantern as ln
        >>> print(ln.minimum(ln.asarray([1.0, 5.0]), 2))
        [1. 2.]
    """
    return p.minimum(*operands(x1, x2))


def clip(x: Any, /, min: Any = None, max: Any = None) -> Tensor:
    """x, at least ``min`` and at most ``max``: ``minimum(maximum(x, min), max)``.

    Args:
        x: array; the result has its dtype.
        min: lower bound, an array or number that broadcasts with ``x``; None for no bound.
        max: upper bound, likewise.

    Example:
        >>> import lantern as ln
        >>> print(ln.clip(ln.asarray([-2.0, 0.5, 9.0]), 0, 1))
        [0.  0.5 1. ]
    """
    x = asarray(x)
    y = x
    if min is not None:
        y = p.maximum(*operands(y, min))
    if max is not None:
        y = p.minimum(*operands(y, max))
    return convert_to(y, x.dtype) if is_floating(x.dtype) or not is_floating(y.dtype) else y


def where(condition: Any, x1: Any, x2: Any, /) -> Tensor:
    """x1 where the condition holds, x2 elsewhere.

    What is not chosen gets a derivative of exactly zero from here. An infinite slope behind
    it still makes a NaN of that zero: write ``sqrt(where(x > 0, x, 1))``, not only
    ``where(x > 0, sqrt(x), 0)``.

    Args:
        condition: booleans; other dtypes hold where they are not zero.
        x1: array or number.
        x2: array or number; the three broadcast against each other.

    Example:
        >>> import lantern as ln
        >>> print(ln.where(ln.asarray([True, False]), ln.asarray([1.0, 2.0]), 0))
        [1. 0.]
    """
    x1, x2 = operands(x1, x2)
    return p.where(convert_to(asarray(condition), boolean), x1, x2)


def nan_to_num(
    x: Any, /, *, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None
) -> Tensor:
    """x with finite numbers in place of what is not finite; derivatives there are zero.

    Args:
        x: array; the result has its dtype.
        nan: what stands for NaN.
        posinf: what stands for infinity; None for the largest number of the dtype.
        neginf: what stands for minus infinity; None for the smallest.

    Example:
        >>> import lantern as ln
        >>> print(ln.nan_to_num(ln.asarray([ln.nan, ln.inf, 2.0]), posinf=9.0))
        [0. 9. 2.]
    """
    x = asarray(x)
    if not is_floating(x.dtype):
        return x
    limits = finfo(x.dtype)
    high = limits.max if posinf is None else posinf
    low = limits.min if neginf is None else neginf
    y = where(p.isnan(x), nan, x)
    y = where(p.equal(x, math.inf), high, y)
    return where(p.equal(x, -math.inf), low, y)


def copysign(x1: Any, x2: Any, /) -> Tensor:
    """|x1| with the sign of x2.

    Example:
        >>> import lantern as ln
        >>> print(ln.copysign(3.0, -0.0))
        -3.0
    """
    return p.copysign(*floating_operands(x1, x2))


def nextafter(x1: Any, x2: Any, /) -> Tensor:
    """The next floating number after x1 in the direction of x2. Its derivative is zero.

    Example:
        >>> import lantern as ln
        >>> print(ln.nextafter(1.0, 2.0))
        1.0000001
    """
    return p.nextafter(*floating_operands(x1, x2))


def floor(x: Any, /) -> Tensor:
    """⌊x⌋, the largest integer not above x. Its derivative is zero.

    Example:
        >>> import lantern as ln
        >>> print(ln.floor(ln.asarray([1.5, -1.5])))
        [ 1. -2.]
    """
    return p.floor(asarray(x))


def ceil(x: Any, /) -> Tensor:
    """⌈x⌉, the smallest integer not below x. Its derivative is zero.

    Example:
        >>> import lantern as ln
        >>> print(ln.ceil(ln.asarray([1.5, -1.5])))
        [ 2. -1.]
    """
    return p.ceil(asarray(x))


def trunc(x: Any, /) -> Tensor:
    """x without its fraction. Its derivative is zero.

    Example:
        >>> import lantern as ln
        >>> print(ln.trunc(ln.asarray([1.5, -1.5])))
        [ 1. -1.]
    """
    return p.trunc(asarray(x))


def round(x: Any, /) -> Tensor:
    """The nearest integer; halves go to the even one. Its derivative is zero.

    Example:
        >>> import lantern as ln
        >>> print(ln.round(ln.asarray([0.5, 1.5, 2.4])))
        [0. 2. 2.]
    """
    return p.round_(asarray(x))
