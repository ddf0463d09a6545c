"""Linear layers, embeddings and dropout."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

import lantern as ln
from lantern.convert import asarray
from lantern.errors import ArgumentError, DTypeError, IndexRangeError, ShapeError, describe
from lantern.nn import init
from lantern.symbol import is_known
from lantern.tensor import Tensor
from lantern.transform import custom_vjp

__all__ = ["dropout", "embedding", "embedding_init", "linear", "linear_init"]

Params = dict[str, Tensor]
Initialiser = Callable[[Tensor, tuple[int, ...], Any], Tensor]
_FLOAT32 = np.dtype(np.float32)


def linear_init(
    key: Tensor,
    inputs: int,
    outputs: int,
    *,
    bias: bool = True,
    dtype: Any = _FLOAT32,
    weight: Initialiser | None = None,
) -> Params:
    """Parameters of `linear`: ``weight`` (outputs, inputs) and ``bias`` (outputs,).

    Args:
        key: uint32, shape (2,).
        inputs: features of the argument.
        outputs: features of the result.
        bias: whether there is one.
        dtype: floating.
        weight: how to initialise the weight; uniform on ±1/√inputs, like the bias, unless given.

    Example:
        >>> import lantern as ln
        >>> params = ln.nn.linear_init(ln.random.key(0), 3, 2)
        >>> print(params["weight"].shape, params["bias"].shape)
        (2, 3) (2,)
    """
    first, second = ln.random.split(key)
    bound = 1 / math.sqrt(max(inputs, 1))
    shape = (outputs, inputs)
    params = {
        "weight": weight(first, shape, dtype)
        if weight
        else init.uniform(first, shape, dtype, minval=-bound, maxval=bound)
    }
    if bias:
        params["bias"] = init.uniform(second, (outputs,), dtype, minval=-bound, maxval=bound)
    return params


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b.

    Args:
        x: shape (..., inputs).
        weight: shape (outputs, inputs).
        bias: shape (outputs,).

    Returns:
        shape (..., outputs).

    Raises:
        ShapeError: the last axis of ``x`` has another length.

    Example:
        >>> import lantern as ln
        >>> x = ln.asarray([3.0, 4.0])
        >>> print(ln.nn.linear(x, ln.asarray([[1.0, 2.0]]), ln.asarray([0.5])))
        [11.5]
        >>> params = ln.nn.linear_init(ln.random.key(0), 2, 5)
        >>> print(ln.nn.linear(x, **params).shape)
        (5,)
    """
    x, weight = asarray(x), asarray(weight)
    if not x.shape or weight.ndim != 2 or x.shape[-1] != weight.shape[1]:
        raise ShapeError(
            f"linear: x is {describe(x)} and the weight {describe(weight)}; expected (..., inputs) "
            "and (outputs, inputs)"
        )
    y = _product(x, weight)
    return y if bias is None else y + asarray(bias)


@custom_vjp(linear=True)
def _product(x, weight):
    """x (..., n), weight (m, n) -> (..., m). The weight's gradient comes in the weight's layout."""
    *lead, n = x.shape
    rows, m = math.prod(lead), weight.shape[0]
    flat = ln.reshape(x, (rows, n))
    dz = yield ln.reshape(flat @ ln.matrix_transpose(weight), (*lead, m))
    dz = ln.reshape(dz, (rows, m))
    return (
        lambda: ln.reshape(dz @ weight, (*lead, n)),
        lambda: ln.matrix_transpose(dz) @ flat,
    )


def embedding_init(
    key: Tensor,
    size: int,
    features: int,
    *,
    dtype: Any = _FLOAT32,
    weight: Initialiser = init.normal,
) -> Params:
    """Parameters of `embedding`: ``weight`` (size, features).

    Args:
        key: uint32, shape (2,).
        size: how many different tokens there are.
        features: of a token's vector.
        dtype: floating.
        weight: how to initialise it; normal, unless given.

    Example:
        >>> import lantern as ln
        >>> print(ln.nn.embedding_init(ln.random.key(0), 10, 4)["weight"].shape)
        (10, 4)
    """
    return {"weight": weight(key, (size, features), dtype)}


def embedding(weight: Tensor, tokens: Tensor) -> Tensor:
    """The rows of the weight that the tokens name.

    Args:
        weight: shape (size, features).
        tokens: integers in [0, size), shape (...).

    Returns:
        shape (..., features).

    Raises:
        IndexRangeError: a token is out of range.

    Example:
        >>> import lantern as ln
        >>> weight = ln.asarray([[1.0, 2.0], [3.0, 4.0]])
        >>> print(ln.nn.embedding(weight, ln.asarray([1, 0])))
        [[3. 4.]
         [1. 2.]]
    """
    tokens = asarray(tokens)
    if tokens.dtype.kind not in "iu":
        raise DTypeError(f"embedding: tokens are {describe(tokens)}; expected integers")
    weight = asarray(weight)
    # What is too large `take` refuses; to NumPy, -1 is the last row.
    if not is_known(tokens):
        tokens = ln.astype(tokens, np.int64)
        tokens = ln.where(tokens < 0, weight.shape[0], tokens)
    elif tokens.size and (low := int(ln.min(tokens))) < 0:
        raise IndexRangeError(f"embedding: token {low}; expected 0 or more")
    return ln.take(weight, tokens, axis=0)


def dropout(key: Tensor | None, x: Tensor, rate: float, *, training: bool = True) -> Tensor:
    """Set elements to zero with probability ``rate``, and scale the others by 1 / (1 - rate).

    Args:
        key: uint32, shape (2,); None will do where nothing is dropped.
        x: floating.
        rate: in [0, 1].
        training: when false, ``x`` is returned as it is.

    Raises:
        ValueError: the rate is not in [0, 1], or there is no key.

    Source:
        Srivastava et al. (JMLR 15, 2014).

    Example:
        >>> import lantern as ln
        >>> print(ln.nn.dropout(ln.random.key(0), ln.ones((4,)), 0.5))
        [2. 0. 0. 0.]
    """
    x = asarray(x)
    if not 0 <= rate <= 1:
        raise ArgumentError(f"dropout: rate {rate}; expected one in [0, 1]")
    if not training or rate == 0:
        return x
    if key is None:
        raise ArgumentError("dropout: no key to draw with")
    if rate == 1:
        return ln.zeros_like(x)
    kept = ln.random.bernoulli(key, 1 - rate, x.shape)
    return x * ln.where(kept, ln.astype(asarray(1 / (1 - rate)), x.dtype), 0.0)
