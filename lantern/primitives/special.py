"""The error function, log-gamma and its derivatives: NumPy kernels and their rules.

Coefficients are Chebyshev expansions, computed to 60 digits, of a smooth function on a bounded
interval, in powers of a variable u in [-1, 1]. Results are within a few units in the last place,
but for those near zeros on the negative axis. All is computed in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from lantern.control import primitive
from lantern.primitives.elementwise import elementwise, exp

# erf(x)/x on |x| <= 1, u = 2x² - 1
_ERF = (
    -5.16472878942302e-16, 1.4548169783352384e-14, -3.7910973708931526e-13,
    9.167606748998164e-12, -2.03524938661036e-10, 4.115800597661665e-09,
    -7.511569160710623e-08, 1.2233827383524026e-06, -1.7537169441492004e-05,
    0.00021751715604160108, -0.0022854855611440673, 0.019852496688983708,
    -0.1405360890227171, 0.9654687386698673,
)  # fmt: skip
# (1 + 2x) exp(x²) erfc(x) on [1/2, ∞], u the image of (x - 3)/(x + 3)
_ERFCX = (
    -7.524702034433122e-12, 9.380350447146145e-11, 1.6052239767552466e-10,
    -1.0389267527961607e-09, -1.7615676194412514e-09, 6.736432243400679e-09,
    1.4474555264394511e-08, -3.8236916558829226e-08, -1.0510701831100815e-07,
    2.4075179517811523e-07, 7.238692145743006e-07, -1.91349783026056e-06,
    -4.577267093106984e-06, 1.8863175582506412e-05, 1.7479106033066675e-05,
    -0.00019788758755849152, 0.0002474037645867584, 0.001392061248248354,
    -0.008073603938186302, 0.02280179959895352, -0.04180651066502432,
    0.04665458534673934, -0.00349601351336805, -0.12216847723549216,
    1.2329951186255526,
)  # fmt: skip
# lgamma(1 + a) / (a (a - 1)) on [0, 1], u = 2a - 1
_LGAMMA = (
    1.2501115664892499e-12, -3.803541143455784e-12, 4.7104952913992804e-12,
    -1.5396151847653023e-11, 6.658783632912748e-11, -2.0874529961925164e-10,
    6.347242958511528e-10, -2.0169490963204193e-09, 6.44852415578375e-09,
    -2.0621026552775284e-08, 6.622900445314835e-08, -2.138632342688226e-07,
    6.948461670338335e-07, -2.2742474101080247e-06, 7.511391135508744e-06,
    -2.5094328668971075e-05, 8.510090382501114e-05, -0.0002945507015196448,
    0.00104981866444897, -0.003913560937626182, 0.01572785026864124,
    -0.07297994795715304, 0.4831289505409809,
)  # fmt: skip
# digamma(1 + a) / (1 + a - root) on [0, 1], u = 2a - 1
_DIGAMMA = (
    -9.720300404202244e-12, 2.916093601085364e-11, -2.9161179626023815e-11,
    8.748420037436287e-11, -4.1555064115551965e-10, 1.2466690231864029e-09,
    -3.509235492410718e-09, 1.0528133851878114e-08, -3.1807298477301726e-08,
    9.543261570760428e-08, -2.8621216825577647e-07, 8.589062683365892e-07,
    -2.578133701610713e-06, 7.741234441368395e-06, -2.325823275895313e-05,
    6.99501882655044e-05, -0.00021074841284590126, 0.0006368880303847901,
    -0.0019350666647392832, 0.005936795278301875, -0.018550615381739702,
    0.06013562106019684, -0.21181371064073024, 0.9510558760318328,
)  # fmt: skip
_ROOT, _ROOT_LOW = 0.46163214496836236, -1.5522348162858677e-17  # of digamma(1 + a), in two parts
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
# The Bernoulli numbers B₂, B₄, … of the expansions for large arguments
_BERNOULLI = (
    1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730,
    7 / 6, -3617 / 510, 43867 / 798, -174611 / 330, 854513 / 138, -236364091 / 2730,
)  # fmt: skip


def _in_float64(f: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel of float64 arrays as one of any floating dtype, rounded once, at the end."""

    @wraps(f)
    def kernel(x: Any, **params: Any) -> Any:
        with np.errstate(all="ignore"):  # branches that `where` does not choose
            return f(np.asarray(x, np.float64), **params).astype(x.dtype)[()]

    return kernel


def _polynomial(coefficients: Any, u: Any) -> Any:
    """Horner's scheme, the highest power first."""
    y = coefficients[0]
    for c in coefficients[1:]:
        y = y * u + c
    return y


def _erf_near_zero(x: Any) -> Any:
    return x * _polynomial(_ERF, 2 * (x * x) - 1)


def _erfc_far(x: Any) -> Any:
    """erfc for x >= 1/2. exp(-x²) is split at the head h of x, whose square is exact."""
    low = -2.5 / 3.5  # where x = 1/2 lies under (x - 3)/(x + 3)
    u = (2 * ((x - 3) / (x + 3)) - (1 + low)) / (1 - low)
    h = x.astype(np.float32).astype(np.float64)
    y = np.exp(-h * h) * np.exp(-(x - h) * (x + h)) * (_polynomial(_ERFCX, u) / (1 + 2 * x))
    return np.where(x > 28, 0.0, y)  # underflows; and x may be infinite


@_in_float64
def _erf(x: Any) -> Any:
    size = np.abs(x)
    far = np.copysign(1 - _erfc_far(np.maximum(size, 1.0)), x)
    return np.where(size > 1, far, _erf_near_zero(np.clip(x, -1.0, 1.0)))


@_in_float64
def _erfc(x: Any) -> Any:
    tail = _erfc_far(np.maximum(np.abs(x), 0.5))
    near = 1 - _erf_near_zero(np.clip(x, -1.0, 1.0))
    return np.where(x > 0.5, tail, np.where(x < -1, 2 - tail, near))


@primitive(_erf, batch=elementwise)
def erf(x):
    dz = yield erf(x)
    return dz * (exp(-(x * x)) * (2.0 / math.sqrt(math.pi)))


@primitive(_erfc, batch=elementwise)
def erfc(x):
    dz = yield erfc(x)
    return dz * (exp(-(x * x)) * (-2.0 / math.sqrt(math.pi)))


def _lgamma_positive(x: Any) -> Any:
    """x > 0. From 8 on Stirling's series; below, log Γ(1 + a), a in [0, 1], and a product."""
    small = np.minimum(x, 8.0)
    n = np.floor(small)
    a = small - n
    product = np.ones_like(x)
    for k in range(1, 7):
        product = np.where(n > k, product * (small - k), product)
    near = a * (a - 1) * _polynomial(_LGAMMA, 2 * a - 1)
    near = near + np.where(n == 0, -np.log(small), np.log(product))
    w = 1 / np.maximum(x, 8.0)
    tail = [b / (2 * k * (2 * k - 1)) for k, b in enumerate(_BERNOULLI[:10], 1)]
    series = w * _polynomial(tail[::-1], w * w)
    far = (x - 0.5) * (np.log(x) - 1) - 0.5 + _HALF_LOG_2PI + series
    return np.where(x < 8, near, np.where(np.isinf(x), x, far))


@_in_float64
def _lgamma(x: Any) -> Any:
    """For x <= 0 by the reflection Γ(x) Γ(1 - x) = π / sin πx; infinite at its poles."""
    negative = x <= 0
    sine = np.abs(np.sin(np.pi * (x - np.round(x))))
    y = _lgamma_positive(np.where(negative, 1 - x, x))
    y = np.where(negative, np.log(np.pi / sine) - y, y)
    return np.where(np.isneginf(x), np.inf, y)


def _digamma_positive(x: Any) -> Any:
    """x > 0. From 8 on an asymptotic series; below, ψ(1 + a), a in [0, 1], and a sum."""
    small = np.minimum(x, 8.0)
    n = np.floor(small)
    a = small - n
    near = ((a - _ROOT) - _ROOT_LOW) * _polynomial(_DIGAMMA, 2 * a - 1)
    for k in range(7, 0, -1):
        near = np.where(n > k, near + 1 / (small - k), near)
    near = np.where(n == 0, near - 1 / small, near)
    w = 1 / np.maximum(x, 8.0)
    tail = [b / (2 * k) for k, b in enumerate(_BERNOULLI[:10], 1)]
    far = np.log(x) - w / 2 - w * w * _polynomial(tail[::-1], w * w)
    return np.where(x < 8, near, far)


@_in_float64
def _digamma(x: Any) -> Any:
    """For x < 0 by the reflection ψ(1 - x) - ψ(x) = π cot πx; NaN at the negative integers."""
    negative = x < 0
    r = x - np.round(x)
    y = _digamma_positive(np.where(negative, 1 - x, x))
    y = np.where(negative, y - np.pi / np.tan(np.pi * r), y)
    return np.where((negative & (r == 0)) | np.isneginf(x), np.nan, y)


def _zeta(s: int, x: Any) -> Any:
    """Hurwitz's ζ(s, x) = Σ (x + k)⁻ˢ, x > 0: some terms; Euler and Maclaurin's for the rest."""
    first = 10 + s
    w = x + first
    y = w ** (1 - s) / (s - 1) + w**-s / 2
    factor = w ** (-s - 1) * (s / 2)
    for j, b in enumerate(_BERNOULLI, 1):
        y = y + b * factor
        factor = factor / (w * w) * ((s + 2 * j - 1) * (s + 2 * j) / ((2 * j + 1) * (2 * j + 2)))
    for k in range(first - 1, -1, -1):
        y = y + (x + k) ** -s
    return np.where(np.isinf(x), 0.0, y)


def _cotangent_derivative(order: int, c: Any) -> Any:
    """The derivative of cot of some order, a polynomial in cot: its derivative is -(1 + cot²)."""
    p = [0, 1]
    for _ in range(order):
        d = [k * v for k, v in enumerate(p)][1:]
        p = [-(u + v) for u, v in zip([*d, 0, 0], [0, 0, *d], strict=True)]
    return _polynomial([float(v) for v in reversed(p)], c)


@_in_float64
def _polygamma(x: Any, *, order: int) -> Any:
    """(-1)ⁿ⁺¹ n! ζ(n + 1, x), n the order; for x < 0 by the derivatives of digamma's reflection."""
    sign = -1.0 if order % 2 == 0 else 1.0
    negative = x < 0
    r = x - np.round(x)
    y = sign * math.factorial(order) * _zeta(order + 1, np.where(negative, 1 - x, x))
    reflected = np.pi ** (order + 1) * _cotangent_derivative(order, 1 / np.tan(np.pi * r))
    y = np.where(negative, -sign * y - reflected, y)
    return np.where((negative & (r == 0)) | np.isneginf(x), np.nan, y)


@primitive(_lgamma, batch=elementwise)
def lgamma(x):
    dz = yield lgamma(x)
    return dz * digamma(x)


@primitive(_digamma, batch=elementwise)
def digamma(x):
    dz = yield digamma(x)
    return dz * polygamma(x, order=1)


@primitive(_polygamma, batch=elementwise)
def polygamma(x, *, order):
    dz = yield polygamma(x, order=order)
    return dz * polygamma(x, order=order + 1)
