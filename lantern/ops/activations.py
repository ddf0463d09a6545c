"""Activation functions, and exponentials normalised along axes. Integers become float32."""

from __future__ import annotations

import math
from typing import Any, Literal

from lantern.ops.axes import Axis, all_axes
from lantern.primitives import elementwise as p
from lantern.primitives import softmax as q
from lantern.primitives.special import erfc
from lantern.primitives.structure import kept, reshape
from lantern.promotion import floating, weak
from lantern.tensor import Tensor

__all__ = [
    "gelu",
    "leaky_relu",
    "log_sigmoid",
    "log_softmax",
    "logsumexp",
    "relu",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
]


def sigmoid(x: Any, /) -> Tensor:
    """1 / (1 + e⁻ˣ), without overflow.

    Example:
        >>> import lantern as ln
        >>> print(ln.sigmoid(ln.asarray([-1000.0, 0.0, 1000.0])))
        [0.  0.5 1. ]
    """
    return p.sigmoid(floating(x))


def log_sigmoid(x: Any, /) -> Tensor:
    """log(1 / (1 + e⁻ˣ)), accurate for all x.

    Example:
        >>> import lantern as ln
        >>> print(ln.log_sigmoid(-1000.0))
        -1000.0
    """
    return -softplus(-floating(x))


def softplus(x: Any, /) -> Tensor:
    """log(1 + eˣ), a smooth `relu`.

    Example:
        >>> import lantern as ln
        >>> print(ln.softplus(ln.asarray([-1000.0, 1000.0])))
        [   0. 1000.]
    """
    x = floating(x)
    return p.logaddexp(x, weak(0.0, x.dtype))


def relu(x: Any, /) -> Tensor:
    """max(x, 0). At 0 the derivative is taken to be 0.

    Example:
        >>> import lantern as ln
        >>> print(ln.relu(ln.asarray([-2.0, 3.0])), ln.grad(ln.relu)(0.0))
        [0. 3.] 0.0
    """
    x = floating(x)
    return p.where(x <= 0, weak(0.0, x.dtype), x)


def leaky_relu(x: Any, /, negative_slope: float = 0.01) -> Tensor:
    """x where positive, ``negative_slope``·x elsewhere.

    Example:
        >>> import lantern as ln
        >>> print(ln.leaky_relu(ln.asarray([-2.0, 3.0]), 0.5))
        [-1.  3.]
    """
    x = floating(x)
    return p.where(x > 0, x, x * negative_slope)


def silu(x: Any, /) -> Tensor:
    """x · sigmoid(x), also called swish.

    Example:
        >>> import lantern as ln
        >>> print(ln.silu(ln.asarray([-1000.0, 0.0, 1000.0])))
        [  -0.    0. 1000.]
    """
    x = floating(x)
    return x * p.sigmoid(x)


def gelu(x: Any, /, *, approximate: Literal["none", "tanh"] = "none") -> Tensor:
    """x · Φ(x), Φ the distribution function of the standard normal distribution.

    Args:
        x: array.
        approximate: ``"none"`` for Φ itself; ``"tanh"`` for ½ + ½ tanh(√(2/π) (x + 0.044715 x³)) in
            its place (Hendrycks and Gimpel, *Gaussian error linear units*, 2016).

    Raises:
        ValueError: another ``approximate``.

    Example:
        >>> import lantern as ln
        >>> x = ln.asarray([-1000.0, 0.0, 1.0])
        >>> print([f"{v:.4f}" for v in ln.gelu(x)], f"{ln.gelu(1.0, approximate='tanh'):.4f}")
        ['-0.0000', '0.0000', '0.8413'] 0.8412
    """
    x = floating(x)
    if approximate == "none":
        # As ½ erfc(-x/√2) and not ½ + ½ erf(x/√2), which would cancel where x is negative.
        return x * (0.5 * erfc(x * -math.sqrt(0.5)))
    if approximate == "tanh":
        # ½ + ½ tanh u = sigmoid(2u)
        u = math.sqrt(8 / math.pi) * (x * (1 + 0.044715 * (x * x)))
        return x * p.sigmoid(u)
    raise ValueError(f"gelu: approximate={approximate!r}; expected 'none' or 'tanh'")


def softmax(x: Any, /, *, axis: Axis = -1) -> Tensor:
    """eˣ / Σ eˣ: positive numbers that add up to 1.

    Args:
        x: array.
        axis: the axes to add up along; None for all. Their elements are taken together.

    Raises:
        IndexRangeError: there is no such axis.

    Example:
        >>> import lantern as ln
        >>> print(ln.softmax(ln.asarray([[0.0, 0.0], [1000.0, 0.0]])))
        [[0.5 0.5]
         [1.  0. ]]
    """
    x = floating(x)
    return q.softmax(x, axes=all_axes(axis, x.ndim, "softmax"))


def log_softmax(x: Any, /, *, axis: Axis = -1) -> Tensor:
    """x - log Σ eˣ: the logarithm of `softmax`, finite where that underflows.

    Arguments and errors are those of `softmax`.

    Example:
        >>> import lantern as ln
        >>> print(ln.log_softmax(ln.asarray([1000.0, 0.0])))
        [    0. -1000.]
    """
    x = floating(x)
    return q.log_softmax(x, axes=all_axes(axis, x.ndim, "log_softmax"))


def logsumexp(x: Any, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """log Σ eˣ, without overflow; -inf for the sum of nothing.

    Args:
        x: array.
        axis: the axes to add up along; all by default.
        keepdims: whether those axes stay, with length one.

    Raises:
        IndexRangeError: there is no such axis.

    Example:
        >>> import lantern as ln
        >>> print(f"{ln.logsumexp(ln.asarray([100.0, 100.0])):.4f}")
        100.6931
    """
    x = floating(x)
    axes = all_axes(axis, x.ndim, "logsumexp")
    z = q.logsumexp(x, axes=axes)
    return reshape(z, shape=kept(x.shape, axes)) if keepdims else z
