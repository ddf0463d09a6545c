"""Initialisers: functions of (key, shape, dtype) to a Tensor.

Fix what else they take with `functools.partial`, as in ``partial(ln.nn.init.normal, std=0.02)``.
A weight has the shape (outputs, inputs, *window): its fan-in is inputs times the window's size, its
fan-out outputs times that.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import lantern as ln
from lantern.errors import ShapeError
from lantern.tensor import Tensor

__all__ = [
    "kaiming_normal",
    "kaiming_uniform",
    "normal",
    "ones",
    "orthogonal",
    "truncated_normal",
    "uniform",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]

Shape = tuple[int, ...]
_FLOAT32 = np.dtype(np.float32)


def zeros(key: Tensor | None, shape: Shape, dtype: Any = _FLOAT32) -> Tensor:
    """Zeros; the key is not used.

    Example:
        >>> import lantern as ln
        >>> print(ln.nn.init.zeros(None, (2,)))
        [0. 0.]
    """
    return ln.zeros(shape, dtype=dtype)


def ones(key: Tensor | None, shape: Shape, dtype: Any = _FLOAT32) -> Tensor:
    """Ones; the key is not used.

    Example:
        >>> import lantern as ln
        >>> print(ln.nn.init.ones(None, (2,)))
        [1. 1.]
    """
    return ln.ones(shape, dtype=dtype)


def normal(
    key: Tensor, shape: Shape, dtype: Any = _FLOAT32, *, mean: float = 0.0, std: float = 1.0
) -> Tensor:
    """Normally distributed.

    Args:
        key: uint32, shape (2,).
        shape: of the result.
        dtype: floating.
        mean: of the distribution.
        std: its standard deviation.

    Example:
        >>> import lantern as ln
        >>> print(ln.nn.init.normal(ln.random.key(0), (2, 3), std=0.02).shape)
        (2, 3)
    """
    return ln.random.normal(key, shape, dtype, mean, std)


def truncated_normal(
    key: Tensor,
    shape: Shape,
    dtype: Any = _FLOAT32,
    *,
    mean: float = 0.0,
    std: float = 1.0,
    limit: float = 2.0,
) -> Tensor:
    """Normally distributed, restricted to ``mean ± limit · std``.

    Args:
        key: uint32, shape (2,).
        shape: of the result.
        dtype: floating.
        mean: of the distribution before it is restricted.
        std: its standard deviation before that.
        limit: in standard deviations.

    Example:
        >>> import lantern as ln
        >>> w = ln.nn.init.truncated_normal(ln.random.key(0), (2, 3), std=0.02)
        >>> print(float(ln.max(ln.abs(w))) <= 0.04)
        True
    """
    return mean + std * ln.random.truncated_normal(key, shape, dtype, -limit, limit)


def uniform(
    key: Tensor,
    shape: Shape,
    dtype: Any = _FLOAT32,
    *,
    minval: float = 0.0,
    maxval: float = 1.0,
) -> Tensor:
    """Uniform on [minval, maxval).

    Args:
        key: uint32, shape (2,).
        shape: of the result.
        dtype: floating.
        minval: the lower bound.
        maxval: the upper bound.

    Example:
        >>> import lantern as ln
        >>> w = ln.nn.init.uniform(ln.random.key(0), (2, 3), minval=-1.0)
        >>> print(float(ln.max(ln.abs(w))) <= 1)
        True
    """
    return ln.random.uniform(key, shape, dtype, minval, maxval)


def xavier_uniform(
    key: Tensor, shape: Shape, dtype: Any = _FLOAT32, *, gain: float = 1.0
) -> Tensor:
    """Uniform on ±gain · √(6 / (fan-in + fan-out)) (Glorot, Bengio, AISTATS 2010).

    Raises:
        ShapeError: fewer than two axes.

    Example:
        >>> import lantern as ln
        >>> w = ln.nn.init.xavier_uniform(ln.random.key(0), (3, 3))
        >>> print(float(ln.max(ln.abs(w))) <= 1)
        True
    """
    inputs, outputs = _fans(shape)
    bound = gain * math.sqrt(6 / (inputs + outputs))
    return ln.random.uniform(key, shape, dtype, -bound, bound)


def xavier_normal(key: Tensor, shape: Shape, dtype: Any = _FLOAT32, *, gain: float = 1.0) -> Tensor:
    """Normal with deviation gain · √(2 / (fan-in + fan-out)) (Glorot, Bengio, AISTATS 2010).

    Raises:
        ShapeError: fewer than two axes.

    Example:
        >>> import lantern as ln
        >>> print(ln.nn.init.xavier_normal(ln.random.key(0), (3, 3)).shape)
        (3, 3)
    """
    inputs, outputs = _fans(shape)
    return ln.random.normal(key, shape, dtype, 0.0, gain * math.sqrt(2 / (inputs + outputs)))


def kaiming_uniform(
    key: Tensor, shape: Shape, dtype: Any = _FLOAT32, *, gain: float = math.sqrt(2)
) -> Tensor:
    """Uniform on ±gain · √(3 / fan-in); the gain √2 is that of a ReLU (He et al., ICCV 2015).

    Raises:
        ShapeError: fewer than two axes.

    Example:
        >>> import lantern as ln
        >>> w = ln.nn.init.kaiming_uniform(ln.random.key(0), (3, 6))
        >>> print(float(ln.max(ln.abs(w))) <= 1)
        True
    """
    bound = gain * math.sqrt(3 / _fans(shape)[0])
    return ln.random.uniform(key, shape, dtype, -bound, bound)


def kaiming_normal(
    key: Tensor, shape: Shape, dtype: Any = _FLOAT32, *, gain: float = math.sqrt(2)
) -> Tensor:
    """Normal with deviation gain / √fan-in; the gain √2 is that of a ReLU (He et al., ICCV 2015).

    Raises:
        ShapeError: fewer than two axes.

    Example:
        >>> import lantern as ln
        >>> print(ln.nn.init.kaiming_normal(ln.random.key(0), (3, 6)).shape)
        (3, 6)
    """
    return ln.random.normal(key, shape, dtype, 0.0, gain / math.sqrt(_fans(shape)[0]))


def orthogonal(key: Tensor, shape: Shape, dtype: Any = _FLOAT32, *, gain: float = 1.0) -> Tensor:
    """Orthonormal rows or columns, whichever are fewer (Saxe, McClelland, Ganguli, ICLR 2014).

    Args:
        key: uint32, shape (2,).
        shape: (rows, …); the axes after the first form the columns.
        dtype: floating.
        gain: a factor on the result.

    Raises:
        ShapeError: fewer than two axes.

    Example:
        >>> import lantern as ln
        >>> w = ln.nn.init.orthogonal(ln.random.key(0), (2, 5))
        >>> print(float(ln.max(ln.abs(w @ w.T - ln.eye(2)))) < 1e-6)
        True
    """
    _fans(shape)
    rows, columns = shape[0], math.prod(shape[1:])
    wide = np.float64 if np.dtype(dtype) == np.float64 else np.float32
    q, r = ln.linalg.qr(ln.random.normal(key, (max(rows, columns), min(rows, columns)), wide))
    # With these signs the distribution is the uniform one (Mezzadri, 2007).
    q = q * ln.where(ln.linalg.diagonal(r) < 0, -gain, gain)
    q = q if rows >= columns else ln.matrix_transpose(q)
    return ln.astype(ln.reshape(q, shape), dtype, copy=False)


def _fans(shape: Shape) -> tuple[int, int]:
    if len(shape) < 2:
        raise ShapeError(f"a weight of shape {list(shape)}; expected (outputs, inputs, …)")
    window = math.prod(shape[2:])
    return shape[1] * window, shape[0] * window
