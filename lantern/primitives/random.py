"""Primitives beneath `lantern.random`: the Philox block function and the normal quantile."""

from __future__ import annotations

from typing import Any

import numpy as np

from lantern.control import discrete, primitive
from lantern.primitives.elementwise import elementwise, exp

_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = 0x9E3779B9, 0xBB67AE85
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_BLOCKS = 8192  # blocks computed at a time, so that the working set stays in cache


def _philox(k0: Any, k1: Any, c0: Any, c1: Any, c2: Any, c3: Any) -> tuple[Any, ...]:
    """Philox4x32-10 (Salmon et al., 2011), elementwise in two words of key and four of counter."""
    words = k0, k1, c0, c1, c2, c3
    shape = np.broadcast_shapes(*(np.shape(w) for w in words))
    out = np.empty((4, *shape), np.uint32)
    if not shape:
        words = tuple(np.reshape(w, (1,)) for w in words)
        _rounds(out.reshape(4, 1), *words)
        return out[0][()], out[1][()], out[2][()], out[3][()]
    step = max(1, _BLOCKS * shape[-1] // max(1, out[0].size))
    for start in range(0, shape[-1], step):
        part = slice(start, start + step)
        _rounds(out[..., part], *(np.broadcast_to(w, shape)[..., part] for w in words))
    return out[0], out[1], out[2], out[3]


def _rounds(out: Any, k0: Any, k1: Any, c0: Any, c1: Any, c2: Any, c3: Any) -> None:
    k0, k1, c0, c1, c2, c3 = (np.array(w, np.uint64) for w in (k0, k1, c0, c1, c2, c3))
    p0, p1 = np.empty_like(c0), np.empty_like(c0)
    for i in range(10):
        if i:
            for k, weyl in zip((k0, k1), _WEYL, strict=True):
                np.add(k, np.uint64(weyl), out=k)
                np.bitwise_and(k, _LOW, out=k)
        np.multiply(c0, _MULTIPLIERS[0], out=p0)
        np.multiply(c2, _MULTIPLIERS[1], out=p1)
        np.right_shift(p1, _HALF, out=c0)
        np.bitwise_xor(c0, c1, out=c0)
        np.bitwise_xor(c0, k0, out=c0)
        np.right_shift(p0, _HALF, out=c2)
        np.bitwise_xor(c2, c3, out=c2)
        np.bitwise_xor(c2, k1, out=c2)
        np.bitwise_and(p1, _LOW, out=c1)
        np.bitwise_and(p0, _LOW, out=c3)
    for word, c in zip(out, (c0, c1, c2, c3), strict=True):
        word[...] = c


philox = discrete("philox", _philox, batch=elementwise)
"""philox(k0, k1, c0, c1, c2, c3): the four output words of one Philox4x32-10 block, all uint32."""


# Wichura's algorithm AS 241 (PPND16): three rational approximations, ascending coefficients.
_CENTRE = (
    (3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3,
     1.3731693765509461125e4, 4.5921953931549871457e4, 6.7265770927008700853e4,
     3.3430575583588128105e4, 2.5090809287301226727e3),
    (1.0, 4.2313330701600911252e1, 6.8718700749205790830e2,
     5.3941960214247511077e3, 2.1213794301586595867e4, 3.9307895800092710610e4,
     2.8729085735721942674e4, 5.2264952788528545610e3),
)  # fmt: skip
_MIDDLE = (
    (1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0,
     3.64784832476320460504e0, 1.27045825245236838258e0, 2.41780725177450611770e-1,
     2.27238449892691845833e-2, 7.74545014278341407640e-4),
    (1.0, 2.05319162663775882187e0, 1.67638483018380384940e0,
     6.89767334985100004550e-1, 1.48103976427480074590e-1, 1.51986665636164571966e-2,
     5.47593808499534494600e-4, 1.05075007164441684324e-9),
)  # fmt: skip
_TAIL = (
    (6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0,
     2.96560571828504891230e-1, 2.65321895265761230930e-2, 1.24266094738807843860e-3,
     2.71155556874348757815e-5, 2.01033439929228813265e-7),
    (1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1,
     1.48753612908506148525e-2, 7.86869131145613259100e-4, 1.84631831751005468180e-5,
     1.42151175831644588870e-7, 2.04426310338993978564e-15),
)  # fmt: skip


def _rational(x: Any, coefficients: tuple[tuple[float, ...], ...]) -> Any:
    numerator, denominator = (np.polynomial.polynomial.polyval(x, c) for c in coefficients)
    return numerator / denominator


def _quantile(p: Any) -> Any:
    p = np.asarray(p)
    x = p.astype(np.float64)
    q = x - 0.5
    z = np.empty_like(x)
    centre = np.abs(q) <= 0.425
    z[centre] = q[centre] * _rational(0.180625 - q[centre] ** 2, _CENTRE)
    outer = ~centre
    with np.errstate(divide="ignore", invalid="ignore"):  # p = 0 and 1 give infinities, others nan
        r = np.sqrt(-np.log(np.minimum(x[outer], 1 - x[outer])))
        far = np.where(r <= 5, _rational(r - 1.6, _MIDDLE), _rational(r - 5, _TAIL))
    far = np.where(np.isinf(r), np.inf, far)
    z[outer] = np.where(q[outer] < 0, -far, far)
    return z.astype(p.dtype)[()]


@primitive(_quantile, batch=elementwise)
def normal_quantile(p):
    """The inverse of the normal distribution function; its slope is one over the density."""
    z = normal_quantile(p)
    dz = yield z
    return dz * exp(z * z * 0.5) * 2.5066282746310002
