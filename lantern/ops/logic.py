"""Comparisons, logic, bits and classification. None of them has a derivative."""

from __future__ import annotations

from typing import Any

from lantern.convert import asarray
from lantern.primitives import elementwise as p
from lantern.promotion import comparands, operands
from lantern.tensor import Tensor

__all__ = [
    "bitwise_and",
    "bitwise_invert",
    "bitwise_left_shift",
    "bitwise_or",
    "bitwise_right_shift",
    "bitwise_xor",
    "equal",
    "greater",
    "greater_equal",
    "isfinite",
    "isinf",
    "isnan",
    "less",
    "less_equal",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "not_equal",
    "signbit",
]


def equal(x1: Any, x2: Any, /) -> Tensor:
    """Whether x1 = x2, elementwise with broadcasting.

    Example:
        >>> import lantern as ln
        >>> print(ln.equal(ln.asarray([1, 2]), 2))
        [False  True]
    """
    return p.equal(*comparands(x1, x2))


def not_equal(x1: Any, x2: Any, /) -> Tensor:
    """Whether x1 ≠ x2, elementwise with broadcasting.

    Example:
        >>> import lantern as ln
        >>> print(ln.not_equal(ln.asarray([1, 2]), 2))
        [ True False]
    """
    return p.not_equal(*comparands(x1, x2))


def less(x1: Any, x2: Any, /) -> Tensor:
    """Whether x1 < x2, elementwise with broadcasting.

    Example:
        >>> import lantern as ln
        >>> print(ln.less(ln.asarray([1, 2]), 2))
        [ True False]
    """
    return p.less(*comparands(x1, x2))


def less_equal(x1: Any, x2: Any, /) -> Tensor:
    """Whether x1 ≤ x2, elementwise with broadcasting.

    Example:
        >>> import lantern as ln
        >>> print(ln.less_equal(ln.asarray([1, 2]), 2))
        [ True  True]
    """
    return p.less_equal(*comparands(x1, x2))


def greater(x1: Any, x2: Any, /) -> Tensor:
    """Whether x1 > x2, elementwise with broadcasting.

    Example:
        >>> import lantern as ln
        >>> print(ln.greater(ln.asarray([1, 2]), 2))
        [False False]
    """
    return p.greater(*comparands(x1, x2))


def greater_equal(x1: Any, x2: Any, /) -> Tensor:
    """Whether x1 ≥ x2, elementwise with broadcasting.

    Example:
        >>> import lantern as ln
        >>> print(ln.greater_equal(ln.asarray([1, 2]), 2))
        [False  True]
    """
    return p.greater_equal(*comparands(x1, x2))


def logical_and(x1: Any, x2: Any, /) -> Tensor:
    """Whether x1 and x2 both hold (are not zero).

    Example:
        >>> import lantern as ln
        >>> print(ln.logical_and(ln.asarray([True, False]), True))
        [ True False]
    """
    return p.logical_and(*_both(x1, x2))


def logical_or(x1: Any, x2: Any, /) -> Tensor:
    """Whether x1 or x2 or both hold (are not zero).

    Example:
        >>> import lantern as ln
        >>> print(ln.logical_or(ln.asarray([True, False]), False))
        [ True False]
    """
    return p.logical_or(*_both(x1, x2))


def logical_xor(x1: Any, x2: Any, /) -> Tensor:
    """Whether just one of x1 and x2 holds (is not zero).

    Example:
        >>> import lantern as ln
        >>> print(ln.logical_xor(ln.asarray([True, False]), True))
        [False  True]
    """
    return p.logical_xor(*_both(x1, x2))


def logical_not(x: Any, /) -> Tensor:
    """Whether x does not hold (is zero).

    Example:
        >>> import lantern as ln
        >>> print(ln.logical_not(ln.asarray([True, False])))
        [False  True]
    """
    return p.logical_not(asarray(x))


def bitwise_and(x1: Any, x2: Any, /) -> Tensor:
    """The bits set in both, of integers or booleans.

    Example:
        >>> import lantern as ln
        >>> print(ln.bitwise_and(ln.asarray([5, 6]), 3))
        [1 2]
    """
    return p.bitwise_and(*operands(x1, x2))


def bitwise_or(x1: Any, x2: Any, /) -> Tensor:
    """The bits set in either, of integers or booleans.

    Example:
        >>> import lantern as ln
        >>> print(ln.bitwise_or(ln.asarray([5, 6]), 3))
        [7 7]
    """
    return p.bitwise_or(*operands(x1, x2))


def bitwise_xor(x1: Any, x2: Any, /) -> Tensor:
    """The bits set in just one, of integers or booleans.

    Example:
        >>> import lantern as ln
        >>> print(ln.bitwise_xor(ln.asarray([5, 6]), 3))
        [6 5]
    """
    return p.bitwise_xor(*operands(x1, x2))


def bitwise_invert(x: Any, /) -> Tensor:
    """Every bit of integers or booleans inverted.

    Example:
        >>> import lantern as ln
        >>> print(ln.bitwise_invert(ln.asarray([5, -1])))
        [-6  0]
    """
    return p.bitwise_invert(asarray(x))


def bitwise_left_shift(x1: Any, x2: Any, /) -> Tensor:
    """The bits of integers shifted up by x2 ≥ 0 places.

    Example:
        >>> import lantern as ln
        >>> print(ln.bitwise_left_shift(ln.asarray([5, 6]), 1))
        [10 12]
    """
    return p.bitwise_left_shift(*operands(x1, x2))


def bitwise_right_shift(x1: Any, x2: Any, /) -> Tensor:
    """The bits of integers shifted down by x2 ≥ 0 places; the sign stays.

    Example:
        >>> import lantern as ln
        >>> print(ln.bitwise_right_shift(ln.asarray([5, -6]), 1))
        [ 2 -3]
    """
    return p.bitwise_right_shift(*operands(x1, x2))


def isnan(x: Any, /) -> Tensor:
    """Whether x is NaN.

    Example:
        >>> import lantern as ln
        >>> print(ln.isnan(ln.asarray([1.0, ln.nan])))
        [False  True]
    """
    return p.isnan(asarray(x))


def isinf(x: Any, /) -> Tensor:
    """Whether x is infinite.

    Example:
        >>> import lantern as ln
        >>> print(ln.isinf(ln.asarray([1.0, -ln.inf])))
        [False  True]
    """
    return p.isinf(asarray(x))


def isfinite(x: Any, /) -> Tensor:
    """Whether x is neither infinite nor NaN.

    Example:
        >>> import lantern as ln
        >>> print(ln.isfinite(ln.asarray([1.0, ln.nan])))
        [ True False]
    """
    return p.isfinite(asarray(x))


def signbit(x: Any, /) -> Tensor:
    """Whether x is negative or -0.0.

    Example:
        >>> import lantern as ln
        >>> print(ln.signbit(ln.asarray([0.0, -0.0])))
        [False  True]
    """
    return p.signbit(asarray(x))


def _both(x1: Any, x2: Any) -> tuple[Tensor, Tensor]:
    """Operands that need no common dtype, since each is only compared with zero."""
    return asarray(x1), asarray(x2)
