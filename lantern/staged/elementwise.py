"""Lowerings of the elementwise primitives: operations, or short compositions of them.

Compositions keep the edge cases of the NumPy kernels: signed zeros, infinities and NaN.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lantern.primitives import elementwise as p
from lantern.ragged import NODE
from lantern.staged.stage import (
    Lowering,
    aligned,
    common_dtype,
    converted,
    elementwise,
    emit,
    in_dtype,
    is_floating,
    literal,
    repeated,
    spread,
    stage_of,
    widened,
)
from lantern.symbol import Symbol

BOOL = np.dtype(bool)


# Arithmetic ---------------------------------------------------------------------------------------


def of_booleans(logic: str, arithmetic: str, nodes: str = "") -> Lowering:
    """An operation that NumPy defines on booleans, and on numbers by another; and on nodes."""

    def lower(x: Any, y: Any) -> Symbol:
        x, y = aligned(x, y)
        return emit({BOOL: logic, NODE: nodes}.get(x.dtype, arithmetic), x, y)

    return lower


def divide(x: Any, y: Any) -> Symbol:
    dtype = common_dtype(x, y)
    dtype = dtype if is_floating(dtype) else np.dtype(np.float64)
    return emit("div", *spread(*in_dtype(dtype, x, y)))


def absolute(x: Symbol) -> Symbol:
    if x.dtype.kind in "bu":
        return x
    return p.where(x <= 0, 0 - x, x)  # 0 - x, as -x would be -0 at 0


def power(x: Any, y: Any) -> Symbol:
    """Small constant exponents are products, ½ is a root; ``pow`` is for the others."""
    dtype = common_dtype(x, y)
    n = literal(y)
    if is_floating(dtype):
        if n is None or (type(y) is Symbol and y.ndim) or type(x) is not Symbol:
            return emit("pow", *aligned(x, y))
        x = converted(x, dtype)
        if n == 0.5:  # (-∞)^½ = ∞ and (-0)^½ = 0, of which √ gives neither
            return p.sqrt(p.where(x == -math.inf, math.inf, p.where(x == 0, 0.0, x)))
        if n in (0, 1, 2, 3):
            return raised(x, int(n))
        return 1 / raised(x, -int(n)) if n in (-1, -2) else emit("pow", *aligned(x, y))
    if type(n) is int and n >= 0 and type(x) is Symbol:
        return raised(converted(x, dtype), n)
    return integer_power(*aligned(x, y))


def raised(x: Symbol, n: int) -> Symbol:
    """x to the power of n >= 0, by squaring."""
    result = None
    while n:
        if n & 1:
            result = x if result is None else result * x
        n >>= 1
        x = x * x if n else x
    return filled(x, 1) if result is None else result


def filled(x: Symbol, value: Any) -> Symbol:
    """The shape and dtype of ``x`` with one value throughout."""
    return repeated(x.stage.constant(value, x.dtype), x.shape)


def integer_power(x: Symbol, y: Symbol) -> Symbol:
    """x to the power of y bit by bit; a negative exponent gives the quotient, rounded to zero."""
    result, square = None, x
    bits = 8 * x.dtype.itemsize - (x.dtype.kind == "i")
    for k in range(bits):
        factor = p.where(((y >> k) & 1) == 1, square, 1)
        result = factor if result is None else result * factor
        square = square * square
    assert result is not None
    if x.dtype.kind == "u":
        return result
    inverse = p.where(x == 1, 1, p.where(x == -1, 1 - 2 * (y & 1), 0))
    return p.where(y < 0, inverse, result)


def floor_divide(x: Any, y: Any) -> Symbol:
    """As NumPy, by the remainder, so that it is right where x / y rounds up to an integer."""
    x, y = aligned(x, y)
    if not is_floating(x.dtype):
        return emit("div", x, y)
    return widened(floats_floor_divide)(x, y)


def floats_floor_divide(x: Symbol, y: Symbol) -> Symbol:
    ratio = x / y
    whole = emit("round", (x - x % y) / y)
    whole = p.where(whole == 0, ratio * 0.0, whole)  # the zero takes the sign of the ratio
    return p.where(p.isinf(x) | p.isinf(y) | (y == 0), emit("floor", ratio), whole)


# Choosing -----------------------------------------------------------------------------------------


def where(condition: Any, x: Any, y: Any) -> Symbol:
    stage = stage_of(condition, x, y)
    if type(condition) is not Symbol:
        condition = stage.constant(bool(condition), BOOL)
    if type(x) is not Symbol and type(y) is not Symbol:
        x, y = (stage.constant(v, np.result_type(x, y)) for v in (x, y))
    x, y = in_dtype(common_dtype(x, y), x, y)
    return emit("select", *spread(truth(condition), x, y))


def bits_of(x: Symbol) -> Symbol:
    """The bits of a float as an unsigned integer."""
    return emit("bitcast", x, dtype=f"uint{8 * x.dtype.itemsize}")


def copysign(x: Any, y: Any) -> Symbol:
    x, y = aligned(x, y)
    sign = 1 << (8 * x.dtype.itemsize - 1)
    joined = (bits_of(x) & (sign - 1)) | (bits_of(y) & sign)
    return emit("bitcast", joined, dtype=x.dtype.name)


# Exponentials and logarithms ----------------------------------------------------------------------


@widened
def logaddexp(x: Any, y: Any) -> Symbol:
    x, y = aligned(x, y)
    apart = emit("max", x, y) + p.log1p(p.exp(-p.absolute(x - y)))
    return p.where(x == y, x + math.log(2.0), apart)  # equal infinities have no difference


@widened
def sigmoid(x: Symbol) -> Symbol:
    e = p.exp(emit("min", x, -x))
    share = 1.0 / (e + 1.0)
    return p.where(x >= 0, share, e * share)


@widened
def sigmoid_tail(x: Symbol) -> Symbol:
    e = p.exp(emit("min", x, -x))
    size = e / (e + 1.0)
    return p.where(x >= 0, -size, size)


def sigmoid_of(tail: Symbol) -> Symbol:
    negative = bits_of(tail) >= 1 << (8 * tail.dtype.itemsize - 1)  # also if it is -0
    return p.where(negative, tail + 1.0, tail)


# Trigonometry -------------------------------------------------------------------------------------


@widened
def hypot(x: Any, y: Any) -> Symbol:
    x, y = (p.absolute(v) for v in aligned(x, y))
    large, small = emit("max", x, y), emit("min", x, y)
    ratio = small / p.where(large == 0, 1.0, large)
    infinite = (x == math.inf) | (y == math.inf)  # even beside a NaN
    return p.where(infinite, math.inf, large * p.sqrt(ratio * ratio + 1.0))


@widened
def sinh(x: Symbol) -> Symbol:
    size = p.absolute(x)
    t = p.expm1(size)
    half = p.exp(size * 0.5)  # e^|x| overflows before the hyperbolic sine does
    return p.copysign(p.where(size > 20, half * 0.5 * half, (t + t / (t + 1.0)) * 0.5), x)


@widened
def cosh(x: Symbol) -> Symbol:
    size = p.absolute(x)
    e, half = p.exp(size), p.exp(size * 0.5)
    return p.where(size > 20, half * 0.5 * half, (e + 1.0 / e) * 0.5)


HUGE = 2.0**28  # beyond it 1 + x² is x² in every dtype


@widened
def asinh(x: Symbol) -> Symbol:
    size = p.absolute(x)
    square = size * size
    near = p.log1p(size + square / (p.sqrt(square + 1.0) + 1.0))
    return p.copysign(p.where(size > HUGE, p.log(size) + math.log(2.0), near), x)


@widened
def acosh(x: Symbol) -> Symbol:
    t = x - 1.0
    near = p.log1p(t + p.sqrt(t * (t + 2.0)))
    far = p.where(x > HUGE, p.log(x) + math.log(2.0), near)
    return p.where(x < 1, math.nan, far)


@widened
def atanh(x: Symbol) -> Symbol:
    size = p.absolute(x)
    return p.copysign(p.log1p((size + size) / (1.0 - size)) * 0.5, x)


def beside_the_unit(x: Symbol) -> Symbol:
    """√(1 - x²) without cancellation near ±1."""
    return p.sqrt((1.0 - x) * (x + 1.0))


# Discrete -----------------------------------------------------------------------------------------


def sign(x: Symbol) -> Symbol:
    if x.dtype == BOOL:
        return x
    if x.dtype.kind == "u":
        return converted(x > 0, x.dtype)
    if x.dtype.kind == "i":
        return p.where(x > 0, 1, p.where(x < 0, -1, x))
    return p.where(x > 0, 1, p.where(x < 0, -1, p.where(x == 0, 0, x)))  # NaN remains


def of_floats(lowering: Lowering) -> Lowering:
    """A rounding, which leaves integers and booleans as they are."""
    return lambda x: lowering(x) if is_floating(x.dtype) else x


def ceil(x: Symbol) -> Symbol:
    return -emit("floor", -x)


def trunc(x: Symbol) -> Symbol:
    return p.where(x < 0, ceil(x), emit("floor", x))


def nextafter(x: Any, y: Any) -> Symbol:
    """The bits of positive floats are ordered as they are, those of negative ones backwards."""
    x, y = aligned(x, y)
    bits = bits_of(x)
    away = (x < y) == (x > 0)
    stepped = emit("bitcast", p.where(away, bits + 1, bits - 1), dtype=x.dtype.name)
    smallest = emit("bitcast", filled(bits, 1), dtype=x.dtype.name)
    moved = p.where(x == 0, p.copysign(smallest, y), stepped)
    return p.where(x == y, y, p.where(p.isnan(x) | p.isnan(y), x + y, moved))


def signbit(x: Symbol) -> Symbol:
    if not is_floating(x.dtype):
        return x < 0
    return emit("bitcast", x, dtype=f"int{8 * x.dtype.itemsize}") < 0


def classified(test: Lowering, otherwise: bool) -> Lowering:
    """A classification of floats that is the same for all integers and booleans."""

    def lower(x: Symbol) -> Symbol:
        if is_floating(x.dtype):
            return test(x)
        return repeated(x.stage.constant(otherwise, BOOL), x.shape)

    return lower


# Comparisons and logic ----------------------------------------------------------------------------


def compared(name: str, swapped: bool = False, negated: bool = False) -> Lowering:
    """A comparison; a Python integer that the array's dtype does not hold is larger or smaller."""

    def lower(x: Any, y: Any) -> Symbol:
        stage = stage_of(x, y)
        for array, number, array_first in ((x, y, True), (y, x, False)):
            if type(number) is int and array.dtype.kind in "iu":
                limits = np.iinfo(array.dtype)
                if not limits.min <= number <= limits.max:
                    ends = (0, 1) if (number > 0) == array_first else (1, 0)
                    a, b = reversed(ends) if swapped else ends
                    found = {"lt": a < b, "le": a <= b, "eq": False}[name] != negated
                    return repeated(stage.constant(found, BOOL), array.shape)
        x, y = aligned(x, y)
        result = emit(name, y, x) if swapped else emit(name, x, y)
        return emit("not", result) if negated else result

    return lower


def truth(x: Symbol) -> Symbol:
    """Whether each element is not zero."""
    return x if x.dtype == BOOL else p.not_equal(x, 0)


def logical(name: str) -> Lowering:
    """A logical operation, of booleans or what counts as such."""

    def lower(*xs: Any) -> Symbol:
        stage = stage_of(*xs)
        symbols = (x if type(x) is Symbol else stage.constant(bool(x), BOOL) for x in xs)
        return emit(name, *spread(*(truth(x) for x in symbols)))

    return lower


LOWERINGS: dict[Any, Lowering] = {
    p.add: of_booleans("or", "add", "merge"),
    p.subtract: elementwise("sub"),
    p.multiply: of_booleans("and", "mul"),
    p.divide: divide,
    p.negative: elementwise("negate"),
    p.absolute: absolute,
    p.power: power,
    p.remainder: elementwise("rem"),
    p.floor_divide: floor_divide,
    p.where: where,
    p.maximum: of_booleans("or", "max"),
    p.minimum: of_booleans("and", "min"),
    p.copysign: copysign,
    p.exp: elementwise("exp"),
    p.exp2: lambda x: p.power(2.0, x),
    p.expm1: elementwise("expm1"),
    p.log: elementwise("log"),
    p.log1p: elementwise("log1p"),
    p.log2: widened(lambda x: p.log(x) * (1 / math.log(2.0))),
    p.log10: widened(lambda x: p.log(x) * (1 / math.log(10.0))),
    p.sqrt: elementwise("sqrt"),
    p.logaddexp: logaddexp,
    p.sigmoid: sigmoid,
    p.sigmoid_tail: sigmoid_tail,
    p.sigmoid_of: sigmoid_of,
    p.sin: elementwise("sin"),
    p.cos: elementwise("cos"),
    p.tan: widened(lambda x: p.sin(x) / p.cos(x)),
    p.asin: widened(lambda x: p.atan2(x, beside_the_unit(x))),
    p.acos: widened(lambda x: p.atan2(beside_the_unit(x), x)),
    p.atan: lambda x: p.atan2(x, 1.0),
    p.atan2: elementwise("atan2"),
    p.hypot: hypot,
    p.sinh: sinh,
    p.cosh: cosh,
    p.tanh: elementwise("tanh"),
    p.asinh: asinh,
    p.acosh: acosh,
    p.atanh: atanh,
    p.sign: sign,
    p.floor: of_floats(elementwise("floor")),
    p.ceil: of_floats(ceil),
    p.trunc: of_floats(trunc),
    p.round_: of_floats(elementwise("round")),
    p.nextafter: nextafter,
    p.signbit: signbit,
    p.isnan: classified(lambda x: p.not_equal(x, x), False),
    p.isinf: classified(lambda x: p.absolute(x) == math.inf, False),
    p.isfinite: classified(lambda x: p.absolute(x) < math.inf, True),
    p.equal: compared("eq"),
    p.not_equal: compared("eq", negated=True),
    p.less: compared("lt"),
    p.less_equal: compared("le"),
    p.greater: compared("lt", swapped=True),
    p.greater_equal: compared("le", swapped=True),
    p.logical_and: logical("and"),
    p.logical_or: logical("or"),
    p.logical_xor: logical("xor"),
    p.logical_not: logical("not"),
    p.bitwise_and: elementwise("and"),
    p.bitwise_or: elementwise("or"),
    p.bitwise_xor: elementwise("xor"),
    p.bitwise_invert: elementwise("not"),
    p.bitwise_left_shift: elementwise("shl"),
    p.bitwise_right_shift: elementwise("shr"),
}
