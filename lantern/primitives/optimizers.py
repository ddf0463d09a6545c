"""The elementwise part of an optimiser's step as one primitive, to pass over memory once."""

from __future__ import annotations

from typing import Any

import numpy as np

from lantern.control import primitive
from lantern.primitives import elementwise as e
from lantern.primitives.structure import broadcast_to

_BLOCK = 16384  # elements worked on at a time, so that temporaries stay in cache


def _adam(
    g: Any, m: Any, v: Any, p: Any, rate: Any, scale: Any, decay: Any, *, b1: Any, b2: Any, eps: Any
) -> tuple[Any, ...]:
    scalars = rate, scale, decay
    if any(np.ndim(s) for s in scalars) or not m.ndim:  # a batch of rates, or no array at all
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        return -(rate * m / (np.sqrt(scale * v) + eps) + decay * p), m, v
    # Numbers of Python are weak: the arrays keep their dtype.
    rate, scale, decay = (float(s) for s in scalars)
    new = tuple(np.empty(m.shape, m.dtype) for _ in range(3))
    flat = [np.ravel(x) for x in (g, m, v, p)]
    out = [x.reshape(-1) for x in new]
    spare = np.empty(min(_BLOCK, m.size), m.dtype)
    for start in range(0, m.size, _BLOCK):
        part = slice(start, start + _BLOCK)
        g, m, v, p = (x[part] for x in flat)
        u, m1, v1 = (x[part] for x in out)
        t = spare[: g.size]
        np.multiply(m, b1, out=m1)
        np.multiply(g, 1 - b1, out=t)
        np.add(m1, t, out=m1)
        np.multiply(v, b2, out=v1)
        np.multiply(g, g, out=t)
        np.multiply(t, 1 - b2, out=t)
        np.add(v1, t, out=v1)
        np.multiply(v1, scale, out=t)
        np.sqrt(t, out=t)
        np.add(t, eps, out=t)
        np.multiply(m1, -rate, out=u)
        np.divide(u, t, out=u)
        if decay:
            np.multiply(p, decay, out=t)
            np.subtract(u, t, out=u)
    return new


def _batch_adam(
    perform: Any, size: int, mapped: tuple[bool, ...], *values: Any, **params: Any
) -> Any:
    """All three results are batches, so all four arrays must be."""
    arrays = [
        v if m else broadcast_to(v, shape=(size, *v.shape))
        for v, m in zip(values[:4], mapped, strict=False)
    ]
    return e.elementwise(perform, size, (True,) * 4 + mapped[4:], *arrays, *values[4:], **params)


@primitive(_adam, batch=_batch_adam)
def adam(g, m, v, p, rate, scale, decay, *, b1, b2, eps):
    """Update, first and second moment: m' = b1 m + (1 - b1) g, v' = b2 v + (1 - b2) g²,
    u = -(rate m' / (√(scale v') + eps) + decay p)."""
    u, m1, v1 = adam(g, m, v, p, rate, scale, decay, b1=b1, b2=b2, eps=eps)
    du, dm1, dv1 = yield u, m1, v1
    root = e.sqrt(scale * v1)
    below = root + eps
    dm1 = dm1 - du * rate / below
    # The derivative of the root; zero where a moment is zero.
    half = e.where(root > 0, 0.5 / e.where(root > 0, root, 1.0), 0.0) * du * rate * m1 / below**2
    dv1 = dv1 + half * scale
    return (
        lambda: (1 - b1) * dm1 + 2 * (1 - b2) * dv1 * g,
        lambda: b1 * dm1,
        lambda: b2 * dv1,
        lambda: -du * decay,
        lambda: -du * m1 / below,
        lambda: half * v1,
        lambda: -du * p,
    )
