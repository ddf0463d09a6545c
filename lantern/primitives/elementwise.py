"""Elementwise primitives: each a NumPy function and what a change of its argument does to it.

Where a derivative has no value, a convention stands beside the rule. The conventions keep NaN out
of adjoints, and out of the adjoints of adjoints: what must not be computed is replaced *before* it
is computed, because ``where`` after the fact would still multiply an infinite slope by zero.

Kernels are Python's operators where there are some: on NumPy scalars these are ten times as fast as
the functions of NumPy, and on arrays they are the same.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from lantern.control import discrete, primitive
from lantern.primitives.structure import reshape


def elementwise(
    perform: Any, size: int, mapped: tuple[bool, ...], *values: Any, **params: Any
) -> Any:
    """The batch rule of elementwise primitives: align the ranks of one element, then broadcast."""
    ranks = [getattr(v, "ndim", 0) - m for v, m in zip(values, mapped, strict=True)]
    rank = max(ranks)
    aligned = [
        reshape(v, shape=(size,) + (1,) * (rank - r) + tuple(v.shape[1:])) if m and r < rank else v
        for v, r, m in zip(values, ranks, mapped, strict=True)
    ]
    return perform(*aligned, **params)


# Arithmetic ---------------------------------------------------------------------------------------


@primitive(operator.add, batch=elementwise)
def add(x, y):
    dz = yield x + y
    return dz, dz


@primitive(operator.sub, batch=elementwise)
def subtract(x, y):
    dz = yield x - y
    return dz, lambda: -dz


@primitive(operator.mul, batch=elementwise)
def multiply(x, y):
    dz = yield x * y
    return lambda: dz * y, lambda: dz * x


@primitive(operator.truediv, batch=elementwise)
def divide(x, y):
    z = x / y
    dz = yield z
    return lambda: dz / y, lambda: -(z / y) * dz  # of a quotient that does not wait for dz


@primitive(operator.neg, batch=elementwise)
def negative(x):
    dz = yield -x
    return -dz


@primitive(np.absolute, batch=elementwise)
def absolute(x):  # at 0, between the slopes -1 and 1, the derivative is 0
    dz = yield absolute(x)
    return dz * sign(x)


def _power(x: Any, y: Any) -> Any:
    """NumPy's, but for the exponent ½: it takes √, of which (-∞)^½ = ∞ and (-0)^½ = 0 differ."""
    if hasattr(x, "dtype") and not getattr(y, "ndim", 0) and y == 0.5:
        return np.sqrt(np.where(np.isneginf(x), -x, x))[()] + x.dtype.type(0)
    return x**y


@primitive(_power, batch=elementwise)
def power(x, y):
    dz = yield x**y
    return lambda: dz * _slope_in_base(x, y), lambda: dz * _slope_in_exponent(x, y)


def _slope_in_base(x: Any, y: Any) -> Any:
    """y xʸ⁻¹. Where y = 0 it is 0, for every x: x⁰ is constant."""
    if not hasattr(y, "dtype"):  # a Python number: each derivative lowers it, until nothing is left
        return y * x ** (y - 1) if y != 0 and y != 1 else y * 1.0
    return y * power(where((x == 0) & (y == 0), 1.0, x), y - 1)


def _slope_in_exponent(x: Any, y: Any) -> Any:
    """xʸ log x. Where x = 0 it is 0, its limit for y > 0; where x < 0 there is none, NaN."""
    return power(x, y) * log(where(x == 0, 1.0, x))


@primitive(np.remainder, batch=elementwise)
def remainder(x, y):
    dz = yield remainder(x, y)
    return dz, lambda: -dz * floor_divide(x, y)


def _floor_divide(x: Any, y: Any) -> Any:
    """NumPy's, but ⌊x / y⌋ where either is infinite, as the array API standard says."""
    z = np.floor_divide(x, y)
    if z.dtype.kind in "iub" or not (np.isinf(x).any() or np.isinf(y).any()):
        return z
    return np.where(np.isinf(x) | np.isinf(y), np.floor(np.true_divide(x, y)), z)[()]


floor_divide = discrete("floor_divide", _floor_divide, batch=elementwise)


# Choosing -----------------------------------------------------------------------------------------


def _where(condition: Any, x: Any, y: Any) -> Any:
    return np.where(condition, x, y)[()]


@primitive(_where, batch=elementwise)
def where(condition, x, y):
    dz = yield where(condition, x, y)
    return None, lambda: where(condition, dz, 0.0), lambda: where(condition, 0.0, dz)


@primitive(np.maximum, batch=elementwise)
def maximum(x, y):  # a tie is shared equally
    dz = yield maximum(x, y)
    return (
        lambda: where(x > y, dz, where(x == y, dz * 0.5, 0.0)),
        lambda: where(y > x, dz, where(x == y, dz * 0.5, 0.0)),
    )


@primitive(np.minimum, batch=elementwise)
def minimum(x, y):  # a tie is shared equally
    dz = yield minimum(x, y)
    return (
        lambda: where(x < y, dz, where(x == y, dz * 0.5, 0.0)),
        lambda: where(y < x, dz, where(x == y, dz * 0.5, 0.0)),
    )


@primitive(np.copysign, batch=elementwise)
def copysign(x, y):  # as |x| times a sign that is constant almost everywhere
    dz = yield copysign(x, y)
    return lambda: dz * (sign(x) * copysign(1.0, y)), None


# Exponentials and logarithms ----------------------------------------------------------------------


@primitive(np.exp, batch=elementwise)
def exp(x):
    y = exp(x)
    dz = yield y
    return dz * y


@primitive(np.exp2, batch=elementwise)
def exp2(x):
    y = exp2(x)
    dz = yield y
    return dz * (y * math.log(2.0))


@primitive(np.expm1, batch=elementwise)
def expm1(x):
    dz = yield expm1(x)
    return dz * exp(x)


@primitive(np.log, batch=elementwise)
def log(x):
    dz = yield log(x)
    return dz / x


@primitive(np.log1p, batch=elementwise)
def log1p(x):
    dz = yield log1p(x)
    return dz / (x + 1.0)


@primitive(np.log2, batch=elementwise)
def log2(x):
    dz = yield log2(x)
    return dz / (x * math.log(2.0))


@primitive(np.log10, batch=elementwise)
def log10(x):
    dz = yield log10(x)
    return dz / (x * math.log(10.0))


@primitive(np.sqrt, batch=elementwise)
def sqrt(x):
    y = sqrt(x)
    dz = yield y
    return dz * 0.5 / y


@primitive(np.logaddexp, batch=elementwise)
def logaddexp(x, y):
    dz = yield logaddexp(x, y)

    def share(a, b):
        equal_infinities = (a == b) & isinf(a)  # their difference is NaN; each has half of the sum
        return dz * sigmoid(where(equal_infinities, 0.0, a) - where(equal_infinities, 0.0, b))

    return lambda: share(x, y), lambda: share(y, x)


def _sigmoid(x: Any) -> Any:
    """1 / (1 + e⁻ˣ), through exponents that cannot overflow.

    Two exponentials cost a fifth of one and a choice by the sign, which no processor predicts.
    """
    one = x.dtype.type(1)
    return np.exp(np.minimum(x, x.dtype.type(0))) / (np.exp(-np.abs(x)) + one)


def _sigmoid_tail(x: Any) -> Any:
    e = np.exp(-np.abs(x))
    return np.copysign(e / (e + x.dtype.type(1)), -x)


@primitive(_sigmoid_tail, batch=elementwise)
def sigmoid_tail(x):
    """The smaller of y = 1 / (1 + e⁻ˣ) and 1 - y, which has all digits; negative if it is 1 - y.

    All that there is to know of y and of its derivative, so it is what loops save.
    """
    tail = sigmoid_tail(x)
    dz = yield tail
    return dz * _sigmoid_slope(tail)


@primitive(lambda tail: tail + np.signbit(tail), batch=elementwise)
def sigmoid_of(tail):
    dz = yield sigmoid_of(tail)
    return dz


def _sigmoid_slope(tail: Any) -> Any:
    size = absolute(tail)
    return size * (1.0 - size)  # y - y² would cancel where y is near 1


@primitive(_sigmoid, batch=elementwise)
def sigmoid(x):
    tail = sigmoid_tail(x)
    dz = yield sigmoid_of(tail)
    return dz * _sigmoid_slope(tail)


# Trigonometry -------------------------------------------------------------------------------------


@primitive(np.sin, batch=elementwise)
def sin(x):
    dz = yield sin(x)
    return dz * cos(x)


@primitive(np.cos, batch=elementwise)
def cos(x):
    dz = yield cos(x)
    return -dz * sin(x)


@primitive(np.tan, batch=elementwise)
def tan(x):
    y = tan(x)
    dz = yield y
    return dz * (y * y + 1.0)


@primitive(np.arcsin, batch=elementwise)
def asin(x):
    dz = yield asin(x)
    return dz / sqrt((1.0 - x) * (x + 1.0))


@primitive(np.arccos, batch=elementwise)
def acos(x):
    dz = yield acos(x)
    return -dz / sqrt((1.0 - x) * (x + 1.0))


@primitive(np.arctan, batch=elementwise)
def atan(x):
    dz = yield atan(x)
    return dz / (x * x + 1.0)


def _length(x: Any, y: Any) -> tuple[Any, Any]:
    """√(x² + y²) with 1 in place of 0, and where it is 0."""
    zero = (x == 0) & (y == 0)
    return hypot(where(zero, 1.0, x), y), zero


@primitive(np.arctan2, batch=elementwise)
def atan2(y, x):  # at the origin the derivative is 0
    dz = yield atan2(y, x)
    r, zero = _length(x, y)
    return (
        lambda: where(zero, 0.0, dz * (x / r / r)),
        lambda: where(zero, 0.0, -dz * (y / r / r)),
    )


@primitive(np.hypot, batch=elementwise)
def hypot(x, y):  # at the origin the derivative is 0, as that of a norm
    dz = yield hypot(x, y)
    r, zero = _length(x, y)
    return lambda: where(zero, 0.0, dz * (x / r)), lambda: where(zero, 0.0, dz * (y / r))


@primitive(np.sinh, batch=elementwise)
def sinh(x):
    dz = yield sinh(x)
    return dz * cosh(x)


@primitive(np.cosh, batch=elementwise)
def cosh(x):
    dz = yield cosh(x)
    return dz * sinh(x)


@primitive(np.tanh, batch=elementwise)
def tanh(x):
    y = tanh(x)
    dz = yield y
    return dz * (1.0 - y * y)


@primitive(np.arcsinh, batch=elementwise)
def asinh(x):
    dz = yield asinh(x)
    return dz / hypot(x, 1.0)


@primitive(np.arccosh, batch=elementwise)
def acosh(x):
    dz = yield acosh(x)
    return dz / (sqrt(x - 1.0) * sqrt(x + 1.0))


@primitive(np.arctanh, batch=elementwise)
def atanh(x):
    dz = yield atanh(x)
    return dz / ((1.0 - x) * (x + 1.0))


# Discrete: no derivative, or zero almost everywhere -----------------------------------------------


def _kept_integers(f: Callable[..., Any]) -> Callable[..., Any]:
    """A rounding function that leaves integers and booleans as they are."""
    return lambda x: x.copy() if x.dtype.kind in "iub" else f(x)


def _sign(x: Any) -> Any:
    return x.copy() if x.dtype.kind == "b" else np.sign(x)


def _of_floats(f: Callable[..., Any]) -> Callable[..., Any]:
    """A classification that is the same False for all integers and booleans."""
    return lambda x: f(x) if x.dtype.kind not in "iub" else np.zeros(x.shape, bool)[()]


sign = discrete("sign", _sign, batch=elementwise)
floor = discrete("floor", _kept_integers(np.floor), batch=elementwise)
ceil = discrete("ceil", _kept_integers(np.ceil), batch=elementwise)
trunc = discrete("trunc", _kept_integers(np.trunc), batch=elementwise)
round_ = discrete("round", _kept_integers(np.rint), batch=elementwise)
nextafter = discrete("nextafter", np.nextafter, batch=elementwise)
signbit = discrete("signbit", np.signbit, batch=elementwise)
isnan = discrete("isnan", _of_floats(np.isnan), batch=elementwise)
isinf = discrete("isinf", _of_floats(np.isinf), batch=elementwise)
isfinite = discrete("isfinite", np.isfinite, batch=elementwise)

equal = discrete("equal", operator.eq, batch=elementwise)
not_equal = discrete("not_equal", operator.ne, batch=elementwise)
less = discrete("less", operator.lt, batch=elementwise)
less_equal = discrete("less_equal", operator.le, batch=elementwise)
greater = discrete("greater", operator.gt, batch=elementwise)
greater_equal = discrete("greater_equal", operator.ge, batch=elementwise)

logical_and = discrete("logical_and", np.logical_and, batch=elementwise)
logical_or = discrete("logical_or", np.logical_or, batch=elementwise)
logical_xor = discrete("logical_xor", np.logical_xor, batch=elementwise)
logical_not = discrete("logical_not", np.logical_not, batch=elementwise)
bitwise_and = discrete("bitwise_and", np.bitwise_and, batch=elementwise)
bitwise_or = discrete("bitwise_or", np.bitwise_or, batch=elementwise)
bitwise_xor = discrete("bitwise_xor", np.bitwise_xor, batch=elementwise)
bitwise_invert = discrete("bitwise_invert", np.invert, batch=elementwise)
bitwise_left_shift = discrete("bitwise_left_shift", np.left_shift, batch=elementwise)
bitwise_right_shift = discrete("bitwise_right_shift", np.right_shift, batch=elementwise)
