"""Normalisation. The backward halves keep and read less than those of a composition would."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import lantern as ln
from lantern.convert import asarray
from lantern.errors import ShapeError, describe
from lantern.tensor import Tensor
from lantern.transform import custom_vjp

__all__ = [
    "batch_norm",
    "batch_norm_init",
    "layer_norm",
    "layer_norm_init",
    "rms_norm",
    "rms_norm_init",
]

Params = dict[str, Tensor]
_FLOAT32 = np.dtype(np.float32)


def rms_norm_init(features: int, *, dtype: Any = _FLOAT32) -> Params:
    """Parameters of `rms_norm`: ``weight`` (features,), ones.

    Example:
        >>> import lantern as ln
        >>> print(ln.nn.rms_norm_init(2)["weight"])
        [1. 1.]
    """
    return {"weight": ln.ones((features,), dtype=dtype)}


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-5) -> Tensor:
    """Divide by the root of the mean square over the last axis: x / √(mean x² + eps) · weight.

    Args:
        x: shape (..., features). float16 and bfloat16 are computed in float32 and rounded.
        weight: shape (features,).
        eps: added to the mean square.

    Raises:
        ShapeError: the last axis of ``x`` has another length.

    Source:
        Zhang, Sennrich: Root mean square layer normalization (NeurIPS 2019).

    Example:
        >>> import lantern as ln
        >>> print(ln.nn.rms_norm(ln.asarray([3.0, 3.0]), ln.asarray([1.0, 2.0]), eps=0.0))
        [1. 2.]
    """
    x, weight = asarray(x), asarray(weight)
    _check_features("rms_norm", x, weight)
    return ln.astype(_rms_norm(_wide(x), _wide(weight), eps=eps), x.dtype, copy=False)


@custom_vjp(linear=True)
def _rms_norm(x, weight, *, eps):
    # x (..., d), weight (d,), r (..., 1)
    d = x.shape[-1]
    r = 1 / ln.sqrt(ln.expand_dims(ln.vecdot(x, x), axis=-1) / d + eps)
    dz = yield x * r * weight

    def dx():
        g = dz * weight
        return g * r - x * (ln.expand_dims(ln.vecdot(g, x), axis=-1) / d * r**3)

    def dweight():  # the sum over all rows of dz x r
        rows = math.prod(x.shape[:-1])
        return ln.reshape(r, (rows,)) @ ln.reshape(dz * x, (rows, d))

    return dx, dweight


def layer_norm_init(features: int, *, bias: bool = True, dtype: Any = _FLOAT32) -> Params:
    """Parameters of `layer_norm`: ``weight`` (features,), ones, and ``bias`` (features,), zeros.

    Example:
        >>> import lantern as ln
        >>> print(ln.nn.layer_norm_init(2))
        {'weight': Tensor([1., 1.], dtype=float32), 'bias': Tensor([0., 0.], dtype=float32)}
    """
    params = {"weight": ln.ones((features,), dtype=dtype)}
    return params | {"bias": ln.zeros((features,), dtype=dtype)} if bias else params


def layer_norm(
    x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Give the last axis mean 0 and variance 1, then multiply by ``weight`` and add ``bias``.

    Args:
        x: shape (..., features). float16 and bfloat16 are computed in float32 and rounded.
        weight: shape (features,).
        bias: shape (features,).
        eps: added to the variance.

    Raises:
        ShapeError: the last axis of ``x`` has another length.

    Source:
        Ba, Kiros, Hinton: Layer normalization (2016).

    Example:
        >>> import lantern as ln
        >>> print(ln.nn.layer_norm(ln.asarray([1.0, 3.0]), eps=0.0))
        [-1.  1.]
    """
    x = asarray(x)
    for parameter in (weight, bias):
        if parameter is not None:
            _check_features("layer_norm", x, asarray(parameter))
    y = _normalized(_wide(x), axes=(x.ndim - 1,), eps=eps)
    return ln.astype(_affine(y, weight, bias, (-1,)), x.dtype, copy=False)


def batch_norm_init(features: int, *, dtype: Any = _FLOAT32) -> tuple[Params, Params]:
    """Parameters and running statistics of `batch_norm`.

    Returns:
        ``weight`` and ``bias``, and ``mean`` and ``var``, each (features,).

    Example:
        >>> import lantern as ln
        >>> params, statistics = ln.nn.batch_norm_init(2)
        >>> print(statistics["mean"], statistics["var"])
        [0. 0.] [1. 1.]
    """
    zeros, ones = ln.zeros((features,), dtype=dtype), ln.ones((features,), dtype=dtype)
    return {"weight": ones, "bias": zeros}, {"mean": zeros, "var": ones}


def batch_norm(
    x: Tensor,
    statistics: Params,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
    axis: int = 1,
) -> tuple[Tensor, Params]:
    """Give each feature mean 0 and variance 1 over all other axes, then multiply and add.

    Args:
        x: any shape with ``features`` along ``axis``. float16 and bfloat16 are computed in float32.
        statistics: running ``mean`` and ``var``, each (features,).
        weight: shape (features,).
        bias: shape (features,).
        training: normalise with the statistics of ``x``, and move the running ones towards them;
            otherwise normalise with the running ones.
        momentum: how far the running statistics move.
        eps: added to the variance.
        axis: of the features.

    Returns:
        (y, statistics): the shape of ``x``, and the running statistics after this batch, of which
        the variance is the unbiased one. They carry no derivative.

    Raises:
        ShapeError: the axis has another length, or there is only one value for each feature in
            training.

    Source:
        Ioffe, Szegedy: Batch normalization (ICML 2015).

    Example:
        >>> import lantern as ln
        >>> params, statistics = ln.nn.batch_norm_init(1)
        >>> x = ln.asarray([[1.0], [3.0]])
        >>> y, statistics = ln.nn.batch_norm(x, statistics, **params, training=True, eps=0.0)
        >>> print(y[:, 0], statistics["mean"], statistics["var"])
        [-1.  1.] [0.2] [1.1]
    """
    x = asarray(x)
    if not -x.ndim <= axis < x.ndim:
        raise ShapeError(f"batch_norm: {describe(x)} has no axis {axis}")
    axis %= x.ndim
    mean, var = asarray(statistics["mean"]), asarray(statistics["var"])
    if mean.shape != (x.shape[axis],):
        raise ShapeError(
            f"batch_norm: axis {axis} of {describe(x)} and statistics {describe(mean)}; expected "
            "one number for each feature"
        )
    axes = tuple(i for i in range(x.ndim) if i != axis)
    shape = tuple(n if i == axis else 1 for i, n in enumerate(x.shape))
    wide = _wide(x)
    if training:
        count = math.prod(x.shape[i] for i in axes)
        if count < 2:
            raise ShapeError(
                f"batch_norm: {describe(x)} has {count} value for each feature; expected 2 or more "
                "in training"
            )
        y = _normalized(wide, axes=axes, eps=eps)
        fixed = ln.stop_gradient(wide)
        now = ln.mean(fixed, axis=axes), ln.var(fixed, axis=axes, correction=1)
        mean, var = (
            (1 - momentum) * old + momentum * ln.astype(new, old.dtype, copy=False)
            for old, new in zip(ln.stop_gradient((mean, var)), now, strict=True)
        )
    else:
        r = 1 / ln.sqrt(_wide(var) + eps)
        y = (wide - ln.reshape(_wide(mean), shape)) * ln.reshape(r, shape)
    y = ln.astype(_affine(y, weight, bias, shape), x.dtype, copy=False)
    return y, {"mean": mean, "var": var}


@custom_vjp(linear=True)
def _normalized(x, *, axes, eps):
    """Mean 0 and variance 1 over ``axes``."""
    y = x - ln.mean(x, axis=axes, keepdims=True)
    r = 1 / ln.sqrt(ln.mean(y * y, axis=axes, keepdims=True) + eps)
    y = y * r
    dz = yield y
    along = ln.mean(dz * y, axis=axes, keepdims=True)
    return (dz - ln.mean(dz, axis=axes, keepdims=True) - y * along) * r


def _affine(y: Tensor, weight: Any, bias: Any, shape: tuple[int, ...]) -> Tensor:
    if weight is not None:
        y = y * ln.reshape(_wide(asarray(weight)), shape)
    return y if bias is None else y + ln.reshape(_wide(asarray(bias)), shape)


def _wide(x: Tensor) -> Tensor:
    """float16 and bfloat16 as float32."""
    return ln.astype(x, np.float32) if x.dtype.itemsize == 2 else x


def _check_features(what: str, x: Tensor, weight: Tensor) -> None:
    if not x.shape or weight.shape != x.shape[-1:]:
        raise ShapeError(
            f"{what}: x is {describe(x)} and a parameter {describe(weight)}; expected "
            "(..., features) and (features,)"
        )
