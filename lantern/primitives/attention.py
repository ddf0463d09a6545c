"""The softmax of attention scores and its adjoint, each in one pass over memory.

The scores of all heads are the largest arrays of a transformer: B·H·T·S numbers. The kernels go
over them in blocks that stay in cache, and write only the result.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from lantern.control import primitive
from lantern.primitives.elementwise import elementwise
from lantern.primitives.structure import reduce_sum, reshape

__all__ = ["masked_softmax", "softmax_adjoint"]

_BLOCK = 65536
_EXCLUDED = -1e30  # added to a score that must not count: its exponential is exactly zero


def _parts(shape: tuple[int, ...]) -> Iterator[Any]:
    """Indices that cut an array of ``shape`` into blocks of whole rows."""
    *lead, rows, columns = shape
    if np.prod(shape, dtype=np.int64) <= _BLOCK:
        yield ...
        return
    step = max(1, _BLOCK // max(columns, 1))
    for index in itertools.product(*map(range, lead)):
        for start in range(0, rows, step):
            yield (*index, slice(start, start + step))


def _softmax(scores: Any, allowed: Any) -> Any:
    shape = np.broadcast_shapes(scores.shape, np.shape(allowed))
    scores = np.broadcast_to(scores, shape)
    out = np.empty(shape, scores.dtype)
    added = None
    if allowed is not True:
        excluded = scores.dtype.type(_EXCLUDED)
        added = np.broadcast_to(np.where(allowed, scores.dtype.type(0), excluded), shape)
    for part in _parts(shape):
        t = out[part]
        if added is None:
            np.subtract(scores[part], scores[part].max(axis=-1, keepdims=True), out=t)
        else:
            np.add(scores[part], added[part], out=t)
            np.subtract(t, t.max(axis=-1, keepdims=True), out=t)
        np.exp(t, out=t)
        np.divide(t, t.sum(axis=-1, keepdims=True), out=t)
    if added is not None:
        none = ~np.any(allowed, axis=-1, keepdims=True)
        if none.any():
            np.copyto(out, 0, where=none)
    return out


@primitive(_softmax, batch=elementwise)
def masked_softmax(scores, allowed):
    """Softmax along the last axis over what is ``allowed`` (True: all); zeros where nothing is.

    Both have two axes or more, the last of them not empty.
    """
    p = masked_softmax(scores, allowed)
    dz = yield p
    return softmax_adjoint(p, dz), None


def _adjoint(p: Any, dz: Any) -> Any:
    shape = np.broadcast_shapes(p.shape, dz.shape)
    p, dz = np.broadcast_to(p, shape), np.broadcast_to(dz, shape)
    out = np.empty(shape, p.dtype)
    for part in _parts(shape):
        t, q = out[part], p[part]
        np.multiply(q, dz[part], out=t)
        mean = t.sum(axis=-1, keepdims=True)
        np.subtract(dz[part], mean, out=t)
        np.multiply(t, q, out=t)
    return out


@primitive(_adjoint, batch=elementwise)
def softmax_adjoint(p, dz):
    """p (dz - Σ p dz), the sum along the last axis."""
    dy = yield softmax_adjoint(p, dz)
    return (
        lambda: dy * (dz - _summed(p * dz)) - dz * _summed(p * dy),
        lambda: softmax_adjoint(p, dy),
    )


def _summed(x: Any) -> Any:
    """The sum along the last axis, which stays with length 1."""
    return reshape(reduce_sum(x, axes=(x.ndim - 1,)), shape=(*x.shape[:-1], 1))
