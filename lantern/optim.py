"""Optimisers: pairs of pure functions that compose.

``init(params)`` makes the state; ``update(gradients, state, params)`` returns what to add to the
parameters, and the next state. All are pytrees, so an optimiser can be saved, mapped over, and
differentiated through::

    optimizer = ln.optim.chain(ln.optim.clip_by_global_norm(1.0), ln.optim.adamw(1e-3))
    state = optimizer.init(params)
    for batch in data:
        gradients = ln.grad(loss)(params, batch)
        updates, state = optimizer.update(gradients, state, params)
        params = ln.optim.apply_updates(params, updates)

A learning rate is a number, a Tensor, or a schedule: a function of the number of updates done
before. Moments of float16 and bfloat16 parameters are kept in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import lantern as ln
from lantern import tree
from lantern.convert import asarray
from lantern.errors import ArgumentError, ShapeError
from lantern.primitives.optimizers import adam as adam_step
from lantern.schedules import Schedule, constant, linear, warmup_cosine
from lantern.tensor import Tensor

__all__ = [
    "Optimizer",
    "adagrad",
    "adamw",
    "add_decayed_weights",
    "apply_updates",
    "chain",
    "clip_by_global_norm",
    "constant",
    "global_norm",
    "linear",
    "sgd",
    "warmup_cosine",
]

PyTree = Any
Rate = float | Tensor | Schedule
Mask = PyTree | Callable[[PyTree], PyTree] | None
_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


class Optimizer(NamedTuple):
    """A pair of functions.

    Attributes:
        init: from the parameters to the first state.
        update: from (gradients, state, parameters) to (updates, next state).
    """

    init: Callable[[PyTree], PyTree]
    update: Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]


class SgdState(NamedTuple):
    """The state of `sgd`: updates done, and velocities (None without momentum)."""

    done: Tensor
    velocity: PyTree


class AdagradState(NamedTuple):
    """The state of `adagrad`: updates done, and the sum of squared gradients."""

    done: Tensor
    squares: PyTree


class AdamState(NamedTuple):
    """The state of `adamw`: updates done, and moving averages of gradients and their squares."""

    done: Tensor
    first: PyTree
    second: PyTree


def sgd(rate: Rate, momentum: float = 0.0, nesterov: bool = False) -> Optimizer:
    """Gradient descent, with momentum: v' = momentum · v + g, update = -rate · v'.

    Args:
        rate: the learning rate, or a schedule.
        momentum: how much of the velocity stays.
        nesterov: look ahead: update = -rate · (g + momentum · v').

    Source:
        Sutskever, Martens, Dahl, Hinton (ICML 2013), in the form of PyTorch's ``SGD``.

    Example:
        >>> import lantern as ln
        >>> optimizer = ln.optim.sgd(0.5)
        >>> w = ln.asarray([1.0, 2.0])
        >>> updates, state = optimizer.update(2 * w, optimizer.init(w), w)
        >>> print(ln.optim.apply_updates(w, updates))
        [0. 0.]
    """

    def init(params: PyTree) -> SgdState:
        return SgdState(_start(), tree.map(_zeros, params) if momentum else None)

    def update(gradients: PyTree, state: SgdState, params: PyTree) -> tuple[PyTree, SgdState]:
        step = _of_dtype(-_rate(rate, state.done))
        gradients = tree.map(_widened, gradients)
        velocity = state.velocity
        if momentum:
            velocity = tree.map(lambda v, g: momentum * v + g, velocity, gradients)
            ahead = (lambda g, v: g + momentum * v) if nesterov else (lambda g, v: v)
            gradients = tree.map(ahead, gradients, velocity)
        updates = tree.map(lambda g, p: _like(step(g) * g, p), gradients, params)
        return updates, SgdState(state.done + 1, velocity)

    return Optimizer(init, update)


def adagrad(rate: Rate, eps: float = 1e-10, initial: float = 0.0) -> Optimizer:
    """Adagrad: s' = s + g², update = -rate · g / (√s' + eps).

    Args:
        rate: the learning rate, or a schedule.
        eps: keeps the denominator from zero.
        initial: of the sums of squares.

    Source:
        Duchi, Hazan, Singer (JMLR 12, 2011), in the form of PyTorch's ``Adagrad``.

    Example:
        >>> import lantern as ln
        >>> optimizer = ln.optim.adagrad(0.5)
        >>> w = ln.asarray([1.0, 2.0])
        >>> updates, state = optimizer.update(2 * w, optimizer.init(w), w)
        >>> print(updates)
        [-0.5 -0.5]
    """

    def init(params: PyTree) -> AdagradState:
        return AdagradState(_start(), tree.map(lambda p: _zeros(p) + initial, params))

    def update(
        gradients: PyTree, state: AdagradState, params: PyTree
    ) -> tuple[PyTree, AdagradState]:
        step = _of_dtype(-_rate(rate, state.done))
        gradients = tree.map(_widened, gradients)
        squares = tree.map(lambda s, g: s + g * g, state.squares, gradients)

        def one(g: Any, s: Any, p: Any) -> Any:
            return _like(step(g) * g / (ln.sqrt(s) + eps), p)

        return tree.map(one, gradients, squares, params), AdagradState(state.done + 1, squares)

    return Optimizer(init, update)


def adamw(
    rate: Rate,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    mask: Mask = None,
) -> Optimizer:
    """Adam with decoupled weight decay; with ``weight_decay=0``, Adam.

    m' = b1 m + (1 - b1) g, v' = b2 v + (1 - b2) g², and with t updates done, this one included,
    update = -rate · (m' / (1 - b1ᵗ) / (√(v' / (1 - b2ᵗ)) + eps) + weight_decay · p).

    Args:
        rate: the learning rate, or a schedule.
        b1: how much of the average of gradients stays.
        b2: how much of the average of their squares stays.
        eps: keeps the denominator from zero.
        weight_decay: the strength of the decay.
        mask: which parameters decay: a pytree of bools, or a function that makes one from the
            parameters; all of them unless given.

    Source:
        Loshchilov, Hutter: Decoupled weight decay regularization (ICLR 2019).

    Example:
        >>> import lantern as ln
        >>> optimizer = ln.optim.adamw(0.5, weight_decay=0.0)
        >>> w = ln.asarray([1.0, 2.0])
        >>> updates, state = optimizer.update(2 * w, optimizer.init(w), w)
        >>> print(updates)
        [-0.5 -0.5]
    """

    def init(params: PyTree) -> AdamState:
        return AdamState(_start(), tree.map(_zeros, params), tree.map(_zeros, params))

    def update(gradients: PyTree, state: AdamState, params: PyTree) -> tuple[PyTree, AdamState]:
        count = state.done + 1
        t, now = ln.astype(count, _FLOAT64), _rate(rate, state.done)
        step = _of_dtype(now / (1 - b1**t))
        scale = _of_dtype(1 / (1 - b2**t))
        decay = _of_dtype(now * weight_decay)

        def one(g: Any, m: Any, v: Any, p: Any, decays: bool) -> Any:
            g, wide = _widened(g), _widened(p)
            lost = decay(g) if decays and weight_decay else 0.0
            u, m, v = adam_step(g, m, v, wide, step(g), scale(g), lost, b1=b1, b2=b2, eps=eps)
            return _like(u, p), m, v

        leaves, structure = tree.flatten(params)
        if tree.structure(gradients) != structure:
            raise ShapeError(f"adamw: gradients {tree.structure(gradients)} of {structure}")
        parts = [
            one(*leaf)
            for leaf in zip(
                *(tree.leaves(x) for x in (gradients, state.first, state.second)),
                leaves,
                _chosen(mask, params),
                strict=True,
            )
        ]
        updates, first, second = (
            tree.unflatten(structure, [part[i] for part in parts]) for i in range(3)
        )
        return updates, AdamState(count, first, second)

    return Optimizer(init, update)


def add_decayed_weights(weight_decay: float, mask: Mask = None) -> Optimizer:
    """Add ``weight_decay`` times the parameters to the gradients: L2 regularisation, before `sgd`.

    Args:
        weight_decay: the strength.
        mask: as in `adamw`.

    Example:
        >>> import lantern as ln
        >>> optimizer = ln.optim.chain(ln.optim.add_decayed_weights(0.5), ln.optim.sgd(1.0))
        >>> w = ln.asarray([1.0, 2.0])
        >>> print(optimizer.update(0 * w, optimizer.init(w), w)[0])
        [-0.5 -1. ]
    """

    def update(gradients: PyTree, state: tuple[()], params: PyTree) -> tuple[PyTree, tuple[()]]:
        leaves, structure = tree.flatten(gradients)
        decayed = [
            g + weight_decay * p if decays else g
            for g, p, decays in zip(leaves, tree.leaves(params), _chosen(mask, params), strict=True)
        ]
        return tree.unflatten(structure, decayed), state

    return Optimizer(lambda params: (), update)


def clip_by_global_norm(limit: float) -> Optimizer:
    """Scale gradients down so that their `global_norm` is at most ``limit``.

    Args:
        limit: the largest norm; gradients below it stay as they are, to the bit.

    Raises:
        ArgumentError: ``limit`` is negative.

    Source:
        Pascanu, Mikolov, Bengio: On the difficulty of training recurrent networks (ICML 2013).

    Example:
        >>> import lantern as ln
        >>> clip = ln.optim.clip_by_global_norm(1.0)
        >>> g = ln.asarray([3.0, 4.0])
        >>> print(clip.update(g, clip.init(g), g)[0])
        [0.6 0.8]
    """

    if isinstance(limit, (int, float)) and limit < 0:
        raise ArgumentError(f"clip_by_global_norm: limit {limit}; expected 0 or more")

    def update(gradients: PyTree, state: tuple[()], params: PyTree) -> tuple[PyTree, tuple[()]]:
        factor = limit / ln.maximum(global_norm(gradients), limit)
        return tree.map(lambda g: g * ln.astype(factor, g.dtype, copy=False), gradients), state

    return Optimizer(lambda params: (), update)


def chain(*optimizers: Optimizer) -> Optimizer:
    """Pass gradients through several optimisers, each of which gets the updates of the one before.

    Args:
        optimizers: in the order in which they act.

    Example:
        >>> import lantern as ln
        >>> optimizer = ln.optim.chain(ln.optim.clip_by_global_norm(1.0), ln.optim.sgd(0.5))
        >>> w = ln.asarray([3.0, 4.0])
        >>> print(optimizer.update(w, optimizer.init(w), w)[0])
        [-0.3 -0.4]
    """

    def init(params: PyTree) -> tuple[PyTree, ...]:
        return tuple(o.init(params) for o in optimizers)

    def update(
        gradients: PyTree, state: tuple[PyTree, ...], params: PyTree
    ) -> tuple[PyTree, tuple[PyTree, ...]]:
        states = []
        for optimizer, s in zip(optimizers, state, strict=True):
            gradients, s = optimizer.update(gradients, s, params)
            states.append(s)
        return gradients, tuple(states)

    return Optimizer(init, update)


def apply_updates(params: PyTree, updates: PyTree) -> PyTree:
    """The parameters plus their updates, leaf by leaf.

    Args:
        params: a pytree of Tensors.
        updates: one of the same structure and shapes.

    Example:
        >>> import lantern as ln
        >>> print(ln.optim.apply_updates({"w": ln.asarray(1.0)}, {"w": ln.asarray(2.0)})["w"])
        3.0
    """
    return tree.map(lambda p, u: p + u, params, updates)


def global_norm(values: PyTree) -> Tensor:
    """The Euclidean norm of all leaves together.

    Args:
        values: a pytree of floating Tensors.

    Returns:
        float32, or float64 if a leaf is; shape ().

    Example:
        >>> import lantern as ln
        >>> print(ln.optim.global_norm({"a": ln.asarray([3.0]), "b": ln.asarray(4.0)}))
        5.0
    """
    flat = [ln.reshape(_widened(leaf), (-1,)) for leaf in tree.leaves(values)]
    # Side by side, not one after another: the squares of a leaf wait for no other's.
    squares = [ln.vecdot(x, x) for x in flat] or [asarray(np.float32(0))]
    total = ln.sum(ln.stack(squares))
    # At zero the norm has the derivative zero, and the root would have an infinite one.
    return ln.where(total > 0, ln.sqrt(ln.where(total > 0, total, 1.0)), 0.0)


# Arguments --------------------------------------------------------------------------------------


def _start() -> Tensor:
    return Tensor(np.int64(0))


def _rate(rate: Rate, count: Tensor) -> Tensor:
    """The learning rate of this update, float64."""
    now = asarray(rate(count) if callable(rate) else rate, dtype=None)
    return asarray(rate, dtype=_FLOAT64) if isinstance(rate, float) else ln.astype(now, _FLOAT64)


def _of_dtype(number: Tensor) -> Callable[[Any], Tensor]:
    """A float64 number, as a function that gives it in the dtype of an array."""
    found: dict[Any, Tensor] = {}

    def like(x: Any) -> Tensor:
        if x.dtype not in found:
            found[x.dtype] = ln.astype(number, x.dtype, copy=False)
        return found[x.dtype]

    return like


def _wide(x: Any) -> np.dtype[Any]:
    return _FLOAT64 if x.dtype == _FLOAT64 else _FLOAT32


def _widened(x: Any) -> Tensor:
    """Floating values in the dtype that an optimiser computes in."""
    return ln.astype(asarray(x), _wide(x), copy=False)


def _zeros(param: Any) -> Tensor:
    """A state of zeros for a parameter."""
    param = asarray(param)
    return Tensor(np.zeros(param.shape, _wide(param))[()])


def _like(update: Tensor, param: Any) -> Tensor:
    return ln.astype(update, param.dtype, copy=False)


def _chosen(mask: Mask, params: PyTree) -> list[bool]:
    """Whether each leaf of the parameters is chosen."""
    if mask is None:
        return [True] * len(tree.leaves(params))
    chosen = mask(params) if callable(mask) else mask
    if tree.structure(chosen) != tree.structure(params):
        raise ArgumentError(
            f"the mask is {tree.structure(chosen)}; expected the structure of the parameters, "
            f"{tree.structure(params)}"
        )
    return [bool(c) for c in tree.leaves(chosen)]
