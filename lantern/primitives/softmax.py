"""Exponentials normalised along axes.

Composed of exp, sum and log they would keep and recompute more than their derivatives need.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from lantern.control import primitive
from lantern.primitives.elementwise import exp, where
from lantern.primitives.structure import Shape, reduce_sum, restore, shift_axes


def _in_float32(f: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel that computes in float32 where the dtype has fewer digits."""

    def kernel(x: Any, *, axes: Shape) -> Any:
        wide = x.astype(np.float32) if x.dtype.itemsize < 4 else x
        with np.errstate(invalid="ignore", divide="ignore"):  # ∞ - ∞, 0/0, log 0 are meant
            return f(wide, axes).astype(x.dtype, copy=False)[()]

    return kernel


def _shifted(x: Any, axes: Shape) -> tuple[Any, Any]:
    """``x`` less its maximum, and that; a maximum of -∞ is left out, so that e⁻∞ is 0."""
    top = np.max(x, axis=axes, keepdims=True, initial=-np.inf)
    top = np.where(np.isneginf(top), 0.0, top).astype(x.dtype)
    return x - top, top


@_in_float32
def _softmax(x: Any, axes: Shape) -> Any:
    e = np.exp(_shifted(x, axes)[0])
    return e / np.sum(e, axis=axes, keepdims=True)


@_in_float32
def _log_softmax(x: Any, axes: Shape) -> Any:
    shifted = _shifted(x, axes)[0]
    return shifted - np.log(np.sum(np.exp(shifted), axis=axes, keepdims=True))


@_in_float32
def _logsumexp(x: Any, axes: Shape) -> Any:
    shifted, top = _shifted(x, axes)
    infinite = np.isposinf(top)
    total = np.sum(np.exp(np.where(infinite, 0.0, shifted)), axis=axes, keepdims=True)
    return np.squeeze(np.log(total) + top, axes)


@primitive(_softmax, batch=shift_axes)
def softmax(x, *, axes):
    y = softmax(x, axes=axes)
    dz = yield y
    mean = restore(reduce_sum(dz * y, axes=axes), axes=axes, shape=y.shape)
    return y * (dz - mean)


@primitive(_log_softmax, batch=shift_axes)
def log_softmax(x, *, axes):
    y = log_softmax(x, axes=axes)
    dz = yield y
    return dz - exp(y) * restore(reduce_sum(dz, axes=axes), axes=axes, shape=y.shape)


@primitive(_logsumexp, batch=shift_axes)
def logsumexp(x, *, axes):
    z = logsumexp(x, axes=axes)
    dz = yield z
    shape = x.shape
    finite = where(z == -math.inf, 0.0, z)  # all elements are -∞: each has the share e⁻∞ = 0
    share = exp(x - restore(finite, axes=axes, shape=shape))
    return restore(dz, axes=axes, shape=shape) * share
