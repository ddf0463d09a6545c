"""Recurrent cells: functions of (params, state, x) to (state, output), and their loop over time.

Weights are stacked gate by gate along their first axis, in PyTorch's order and under its names:
``weight_ih`` (gates · hidden, inputs), ``weight_hh`` (gates · hidden, hidden), ``bias_ih`` and
``bias_hh``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

import lantern as ln
from lantern import tree
from lantern.convert import asarray
from lantern.errors import ShapeError, describe
from lantern.nn import init
from lantern.nn.layers import linear
from lantern.tensor import Tensor

__all__ = [
    "gru_cell",
    "gru_cell_init",
    "lstm_cell",
    "lstm_cell_init",
    "rnn_cell",
    "rnn_cell_init",
    "unroll",
]

Params = dict[str, Tensor]
PyTree = Any
_FLOAT32 = np.dtype(np.float32)


def _cell_init(key: Tensor, inputs: int, hidden: int, gates: int, dtype: Any) -> Params:
    """All uniform on ±1/√hidden."""
    bound = 1 / math.sqrt(hidden)
    shapes = {
        "weight_ih": (gates * hidden, inputs),
        "weight_hh": (gates * hidden, hidden),
        "bias_ih": (gates * hidden,),
        "bias_hh": (gates * hidden,),
    }
    keys = ln.random.split(key, 4)
    return {
        name: init.uniform(keys[i], shape, dtype, minval=-bound, maxval=bound)
        for i, (name, shape) in enumerate(shapes.items())
    }


def _inputs(params: Params, x: Any) -> Tensor:
    return linear(x, params["weight_ih"], params["bias_ih"])


def _hidden(params: Params, h: Any) -> Tensor:
    return linear(h, params["weight_hh"], params["bias_hh"])


def rnn_cell_init(key: Tensor, inputs: int, hidden: int, *, dtype: Any = _FLOAT32) -> Params:
    """Parameters of `rnn_cell`.

    Example:
        >>> import lantern as ln
        >>> print(ln.nn.rnn_cell_init(ln.random.key(0), 3, 5)["weight_ih"].shape)
        (5, 3)
    """
    return _cell_init(key, inputs, hidden, 1, dtype)


def rnn_cell(params: Params, state: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """h' = tanh(W x + U h + b) (Elman, 1990).

    Args:
        params: from `rnn_cell_init`.
        state: h, shape (..., hidden).
        x: shape (..., inputs).

    Returns:
        (h', h').

    Example:
        >>> import lantern as ln
        >>> params = ln.nn.rnn_cell_init(ln.random.key(0), 3, 5)
        >>> h, y = ln.nn.rnn_cell(params, ln.zeros((5,)), ln.ones((3,)))
        >>> print(y.shape)
        (5,)
    """
    h = ln.tanh(_inputs(params, x) + _hidden(params, state))
    return h, h


def lstm_cell_init(key: Tensor, inputs: int, hidden: int, *, dtype: Any = _FLOAT32) -> Params:
    """Parameters of `lstm_cell`, for the gates input, forget, cell, output.

    Example:
        >>> import lantern as ln
        >>> print(ln.nn.lstm_cell_init(ln.random.key(0), 3, 5)["weight_ih"].shape)
        (20, 3)
    """
    return _cell_init(key, inputs, hidden, 4, dtype)


def lstm_cell(
    params: Params, state: tuple[Tensor, Tensor], x: Tensor
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """c' = σ(f) c + σ(i) tanh(g), h' = σ(o) tanh(c') (Hochreiter, Schmidhuber, 1997).

    Args:
        params: from `lstm_cell_init`.
        state: (h, c), each (..., hidden).
        x: shape (..., inputs).

    Returns:
        ((h', c'), h').

    Example:
        >>> import lantern as ln
        >>> params = ln.nn.lstm_cell_init(ln.random.key(0), 3, 5)
        >>> state, y = ln.nn.lstm_cell(params, (ln.zeros((5,)), ln.zeros((5,))), ln.ones((3,)))
        >>> print(y.shape)
        (5,)
    """
    h, c = state
    i, f, g, o = _gates(_inputs(params, x) + _hidden(params, h), 4)
    c = ln.sigmoid(f) * c + ln.sigmoid(i) * ln.tanh(g)
    h = ln.sigmoid(o) * ln.tanh(c)
    return (h, c), h


def gru_cell_init(key: Tensor, inputs: int, hidden: int, *, dtype: Any = _FLOAT32) -> Params:
    """Parameters of `gru_cell`, for the gates reset, update, new.

    Example:
        >>> import lantern as ln
        >>> print(ln.nn.gru_cell_init(ln.random.key(0), 3, 5)["weight_ih"].shape)
        (15, 3)
    """
    return _cell_init(key, inputs, hidden, 3, dtype)


def gru_cell(params: Params, state: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """n = tanh(W x + b + σ(r) (U h + c)), h' = n + σ(z) (h - n) (Cho et al., 2014).

    Args:
        params: from `gru_cell_init`.
        state: h, shape (..., hidden).
        x: shape (..., inputs).

    Returns:
        (h', h').

    Example:
        >>> import lantern as ln
        >>> params = ln.nn.gru_cell_init(ln.random.key(0), 3, 5)
        >>> h, y = ln.nn.gru_cell(params, ln.zeros((5,)), ln.ones((3,)))
        >>> print(y.shape)
        (5,)
    """
    r, z, n = _gates(_inputs(params, x), 3)
    r_h, z_h, n_h = _gates(_hidden(params, state), 3)
    n = ln.tanh(n + ln.sigmoid(r + r_h) * n_h)
    h = n + ln.sigmoid(z + z_h) * (state - n)
    return h, h


def _gates(x: Tensor, count: int) -> list[Tensor]:
    n = x.shape[-1] // count
    return [x[..., i * n : (i + 1) * n] for i in range(count)]


def unroll(
    cell: Callable[[Params, PyTree, Tensor], tuple[PyTree, Tensor]],
    params: Params,
    state: PyTree,
    x: Tensor,
) -> tuple[PyTree, Tensor]:
    """Run a cell along the first axis.

    Args:
        cell: a function of (params, state, one x) to (state, output).
        params: of the cell.
        state: the first state; Tensors or arrays.
        x: shape (T, ...), T at least 1.

    Returns:
        (last state, outputs stacked along the first axis).

    Raises:
        ShapeError: there is no step.

    Example:
        >>> import lantern as ln
        >>> def add(params, total, x):
        ...     return total + x, total + x
        >>> print(*ln.nn.unroll(add, {}, 0.0, ln.asarray([1.0, 2.0, 3.0])))
        6.0 [1. 3. 6.]
    """
    x = asarray(x)
    if not x.shape or not x.shape[0]:
        raise ShapeError(f"unroll: {describe(x)} has no steps")
    state = tree.map(asarray, state)
    outputs = []
    for step in ln.unstack(x):
        state, y = cell(params, state, step)
        outputs.append(y)
    return state, ln.stack(outputs)
