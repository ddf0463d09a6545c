"""Exponentials, logarithms, trigonometry and their kin. Integers and booleans become float32."""

from __future__ import annotations

from typing import Any

from lantern.errors import ArgumentError
from lantern.primitives import elementwise as p
from lantern.primitives import special
from lantern.promotion import floating, floating_operands
from lantern.tensor import Tensor

__all__ = [
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "cos",
    "cosh",
    "digamma",
    "erf",
    "erfc",
    "exp",
    "exp2",
    "expm1",
    "hypot",
    "lgamma",
    "log",
    "log1p",
    "log2",
    "log10",
    "logaddexp",
    "polygamma",
    "sin",
    "sinh",
    "sqrt",
    "tan",
    "tanh",
]


def exp(x: Any, /) -> Tensor:
    """eˣ.

    Example:
        >>> import lantern as ln
        >>> print(f"{ln.exp(1.0):.4f}")
        2.7183
    """
    return p.exp(floating(x))


def exp2(x: Any, /) -> Tensor:
    """2ˣ.

    Example:
        >>> import lantern as ln
        >>> print(f"{ln.exp2(3.0):.4f}")
        8.0000
    """
    return p.exp2(floating(x))


def expm1(x: Any, /) -> Tensor:
    """eˣ - 1, accurate near 0.

    Example:
        >>> import lantern as ln
        >>> print(f"{ln.expm1(1.0e-10):.1e}")
        1.0e-10
    """
    return p.expm1(floating(x))


def log(x: Any, /) -> Tensor:
    """The natural logarithm: -inf at 0, NaN below.

    Example:
        >>> import lantern as ln
        >>> print(f"{ln.log(10.0):.4f}")
        2.3026
    """
    return p.log(floating(x))


def log1p(x: Any, /) -> Tensor:
    """log(1 + x), accurate near 0.

    Example:
        >>> import lantern as ln
        >>> print(f"{ln.log1p(1.0e-10):.1e}")
        1.0e-10
    """
    return p.log1p(floating(x))


def log2(x: Any, /) -> Tensor:
    """The logarithm to base 2.

    Example:
        >>> import lantern as ln
        >>> print(f"{ln.log2(8.0):.4f}")
        3.0000
    """
    return p.log2(floating(x))


def log10(x: Any, /) -> Tensor:
    """The logarithm to base 10.

    Example:
        >>> import lantern as ln
        >>> print(f"{ln.log10(1000.0):.4f}")
        3.0000
    """
    return p.log10(floating(x))


def sqrt(x: Any, /) -> Tensor:
    """√x. Its slope at 0 is infinite.

    Example:
        >>> import lantern as ln
        >>> print(ln.sqrt(ln.asarray([4.0, 9.0])))
        [2. 3.]
    """
    return p.sqrt(floating(x))


def logaddexp(x1: Any, x2: Any, /) -> Tensor:
    """log(eˣ¹ + eˣ²), without overflow.

    Example:
        >>> import lantern as ln
        >>> print(f"{ln.logaddexp(100.0, 100.0):.4f}")
        100.6931
    """
    return p.logaddexp(*floating_operands(x1, x2))


def sin(x: Any, /) -> Tensor:
    """The sine of x radians.

    Example:
        >>> import lantern as ln
        >>> print(f"{ln.sin(1.0):.4f}")
        0.8415
    """
    return p.sin(floating(x))


def cos(x: Any, /) -> Tensor:
    """The cosine of x radians.

    Example:
        >>> import lantern as ln
        >>> print(f"{ln.cos(1.0):.4f}")
        0.5403
    """
    return p.cos(floating(x))


def tan(x: Any, /) -> Tensor:
    """The tangent of x radians.

    Example:
        >>> import lantern as ln
        >>> print(f"{ln.tan(1.0):.4f}")
        1.5574
    """
    return p.tan(floating(x))


def asin(x: Any, /) -> Tensor:
    """The angle in [-π/2, π/2] radians whose sine is x.

    Example:
        >>> import lantern as ln
        >>> print(f"{ln.asin(1.0):.4f}")
        1.5708
    """
    return p.asin(floating(x))


def acos(x: Any, /) -> Tensor:
    """The angle in [0, π] radians whose cosine is x.

    Example:
        >>> import lantern as ln
        >>> print(f"{ln.acos(-1.0):.4f}")
        3.1416
    """
    return p.acos(floating(x))


def atan(x: Any, /) -> Tensor:
    """The angle in (-π/2, π/2) radians whose tangent is x.

    Example:
        >>> import lantern as ln
        >>> print(f"{ln.atan(1.0):.4f}")
        0.7854
    """
    return p.atan(floating(x))


def atan2(x1: Any, x2: Any, /) -> Tensor:
    """The angle in [-π, π] radians of the point (x2, x1). At the origin its derivative is 0.

    Example:
        >>> import lantern as ln
        >>> print(f"{ln.atan2(1.0, -1.0):.4f}")
        2.3562
    """
    return p.atan2(*floating_operands(x1, x2))


def hypot(x1: Any, x2: Any, /) -> Tensor:
    """√(x1² + x2²), without overflow. At the origin its derivative is 0.

    Example:
        >>> import lantern as ln
        >>> print(f"{ln.hypot(3.0, 4.0):.4f}")
        5.0000
    """
    return p.hypot(*floating_operands(x1, x2))


def sinh(x: Any, /) -> Tensor:
    """The hyperbolic sine.

    Example:
        >>> import lantern as ln
        >>> print(f"{ln.sinh(1.0):.4f}")
        1.1752
    """
    return p.sinh(floating(x))


def cosh(x: Any, /) -> Tensor:
    """The hyperbolic cosine.

    Example:
        >>> import lantern as ln
        >>> print(f"{ln.cosh(1.0):.4f}")
        1.5431
    """
    return p.cosh(floating(x))


def tanh(x: Any, /) -> Tensor:
    """The hyperbolic tangent.

    Example:
        >>> import lantern as ln
        >>> print(f"{ln.tanh(1.0):.4f}")
        0.7616
    """
    return p.tanh(floating(x))


def asinh(x: Any, /) -> Tensor:
    """The number whose hyperbolic sine is x.

    Example:
        >>> import lantern as ln
        >>> print(f"{ln.asinh(1.0):.4f}")
        0.8814
    """
    return p.asinh(floating(x))


def acosh(x: Any, /) -> Tensor:
    """The number ≥ 0 whose hyperbolic cosine is x.

    Example:
        >>> import lantern as ln
        >>> print(f"{ln.acosh(2.0):.4f}")
        1.3170
    """
    return p.acosh(floating(x))


def atanh(x: Any, /) -> Tensor:
    """The number whose hyperbolic tangent is x.

    Example:
        >>> import lantern as ln
        >>> print(f"{ln.atanh(0.5):.4f}")
        0.5493
    """
    return p.atanh(floating(x))


def erf(x: Any, /) -> Tensor:
    """The error function 2/√π ∫₀ˣ exp(-t²) dt.

    Example:
        >>> import lantern as ln
        >>> print(f"{ln.erf(1.0):.4f}")
        0.8427
    """
    return special.erf(floating(x))


def erfc(x: Any, /) -> Tensor:
    """1 - erf(x), accurate where that is near 0.

    Example:
        >>> import lantern as ln
        >>> print(f"{ln.erfc(5.0):.4e}")
        1.5375e-12
    """
    return special.erfc(floating(x))


def lgamma(x: Any, /) -> Tensor:
    """log |Γ(x)|, infinite at 0 and the negative integers. Γ(n + 1) = n!.

    Example:
        >>> import lantern as ln
        >>> print(f"{ln.exp(ln.lgamma(5.0)):.2f}")
        24.00
    """
    return special.lgamma(floating(x))


def digamma(x: Any, /) -> Tensor:
    """ψ(x), the derivative of log Γ(x).

    Example:
        >>> import lantern as ln
        >>> print(f"{ln.digamma(1.0):.4f}")
        -0.5772
    """
    return special.digamma(floating(x))


def polygamma(n: int, x: Any, /) -> Tensor:
    """The n-th derivative of ψ at x.

    Args:
        n: the order, an integer ≥ 0.
        x: array.

    Raises:
        ValueError: a negative order.

    Example:
        >>> import lantern as ln
        >>> print(f"{ln.polygamma(1, 1.0):.4f}")          # π²/6
        1.6449
    """
    if n < 0:
        raise ArgumentError(f"polygamma: the order is {n}; expected 0 or more")
    return special.polygamma(floating(x), order=int(n)) if n else digamma(x)
