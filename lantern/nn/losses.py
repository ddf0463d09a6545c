"""Losses. Each ends in a reduction: ``"mean"``, ``"sum"`` or ``"none"``."""

from __future__ import annotations

from typing import Any

import numpy as np

import lantern as ln
from lantern.convert import asarray
from lantern.errors import ArgumentError, DTypeError, IndexRangeError, ShapeError, describe
from lantern.ops.operands import promoted
from lantern.primitives.losses import linear_loss, linear_losses
from lantern.symbol import is_known
from lantern.tensor import Tensor
from lantern.transform import custom_vjp

__all__ = ["bce_with_logits", "cross_entropy", "ctc", "linear_cross_entropy", "mse"]

_IMPOSSIBLE = (
    -1e30
)  # the log of a probability of zero, finite so that differences of two are not nan


def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """Minus the log of the probability softmax(logits) of the targets, in nats.

    Args:
        logits: shape (..., C), the classes last. float16 and bfloat16 are computed in float32,
            which the result is.
        targets: integers in [0, C), shape (...).
        ignore_index: a target whose position does not count; it may be out of range.
        label_smoothing: ε in [0, 1]: the loss against (1 - ε) of the target and ε of the mean of
            all classes.
        reduction: ``"mean"`` is over the positions that count, and 0 where none does.

    Returns:
        shape (), or (...) with ``reduction="none"``, where ignored positions are 0.

    Raises:
        ShapeError: the shapes do not fit.
        DTypeError: the targets are not integers.
        IndexRangeError: a target is out of range.
        ArgumentError: an unknown reduction, or a smoothing outside of [0, 1].

    Example:
        >>> import lantern as ln
        >>> print(ln.nn.cross_entropy(ln.zeros((3, 4)), ln.asarray([0, 3, -100])))
        1.3862944
    """
    logits, targets = asarray(logits), asarray(targets)
    if not logits.shape or logits.shape[:-1] != targets.shape:
        raise ShapeError(
            f"cross_entropy: logits are {describe(logits)} and targets {describe(targets)}; "
            "expected (..., C) and (...)"
        )
    counted, targets = _classes(
        "cross_entropy", targets, logits.shape[-1], ignore_index, label_smoothing
    )
    if logits.dtype.itemsize == 2:
        logits = ln.astype(logits, np.float32)
    size = targets.size
    rows = ln.reshape(logits, (size, logits.shape[-1]))
    losses = _surprise(rows, ln.reshape(targets, (size,)), smoothing=label_smoothing)
    losses = ln.where(counted, ln.reshape(losses, targets.shape), 0.0)
    if reduction != "mean":
        return _reduced(losses, reduction)
    count = ln.maximum(ln.sum(ln.astype(counted, losses.dtype)), 1.0)
    return ln.sum(losses) / count


def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """`cross_entropy` of `linear(x, weight)`, the N·V logits of which are never held.

    Rows are worked on in chunks. Under differentiation the gradients are computed in the same pass
    as the loss, for ``"mean"`` and ``"sum"``; for ``"none"`` the backward half computes the logits
    again.

    Args:
        x: shape (..., D). float16 and bfloat16 are computed in float32, which the result is.
        weight: shape (V, D): the classes first, as `linear` has it.
        targets: integers in [0, V), shape (...).
        ignore_index: a target whose position does not count; it may be out of range.
        label_smoothing: as for `cross_entropy`.
        reduction: as for `cross_entropy`.

    Returns:
        shape (), or (...) with ``reduction="none"``, where ignored positions are 0.

    Raises:
        ShapeError: the shapes do not fit.
        DTypeError: the targets are not integers.
        IndexRangeError: a target is out of range.
        ArgumentError: an unknown reduction, or a smoothing outside of [0, 1].

    Source:
        Hsu et al.: Liger kernel (2024), for gradients in the forward pass.

    Example:
        >>> import lantern as ln
        >>> x, weight = ln.zeros((3, 8)), ln.ones((4, 8))
        >>> print(ln.nn.linear_cross_entropy(x, weight, ln.asarray([0, 3, -100])))
        1.3862944
    """
    x, weight = promoted(x, weight)
    targets = asarray(targets)
    if (
        not x.ndim
        or weight.ndim != 2
        or x.shape[-1] != weight.shape[1]
        or x.shape[:-1] != targets.shape
    ):
        raise ShapeError(
            f"linear_cross_entropy: x is {describe(x)}, weight {describe(weight)} and targets "
            f"{describe(targets)}; expected (..., D), (V, D) and (...)"
        )
    size, classes = targets.size, weight.shape[0]
    counted, targets = _classes(
        "linear_cross_entropy", targets, classes, ignore_index, label_smoothing
    )
    rows, targets = ln.reshape(x, (size, x.shape[-1])), ln.reshape(targets, (size,))
    dtype = np.float32 if x.dtype.itemsize == 2 else x.dtype
    shares = ln.reshape(ln.astype(counted, dtype), (size,))
    if reduction == "none":
        losses = linear_losses(rows, weight, targets, smoothing=label_smoothing)
        return ln.reshape(ln.where(shares == 0, 0.0, losses), counted.shape)
    if reduction == "mean":
        shares = shares / ln.maximum(ln.sum(shares), 1.0)
    elif reduction != "sum":
        raise ArgumentError(f"reduction {reduction!r}; expected 'mean', 'sum' or 'none'")
    return linear_loss(rows, weight, targets, shares, smoothing=label_smoothing)


def _classes(
    what: str, targets: Tensor, classes: int, ignore_index: int, smoothing: float
) -> tuple[Tensor, Tensor]:
    """Which targets count, and the targets, all of them classes."""
    if targets.dtype.kind not in "iu":
        raise DTypeError(f"{what}: targets are {describe(targets)}; expected integers")
    if not 0 <= smoothing <= 1:
        raise ArgumentError(f"{what}: label_smoothing {smoothing}; expected 0 to 1")
    counted = targets != ignore_index
    return counted, _checked_classes(what, ln.where(counted, targets, 0), classes)


@custom_vjp(linear=True)
def _surprise(logits, targets, *, smoothing):
    # logits (N, C), targets (N,) -> (N,)
    n, c = logits.shape
    top = ln.max(logits, axis=-1, keepdims=True)
    p = ln.exp(logits - top)
    total = ln.sum(p, axis=-1, keepdims=True)
    at = ln.take_along_axis(logits, ln.expand_dims(targets, axis=1), axis=1)
    at = (
        at
        if not smoothing
        else (1 - smoothing) * at + smoothing * ln.mean(logits, axis=-1, keepdims=True)
    )
    dz = yield ln.reshape(ln.log(total) + top - at, (n,))
    slope = p * (ln.expand_dims(dz, axis=1) / total)
    if smoothing:
        slope = slope - ln.expand_dims(dz * (smoothing / c), axis=1)
    return slope.at[ln.arange(n), targets].add(dz * (smoothing - 1)), None


def _checked_classes(what: str, targets: Tensor, classes: int) -> Tensor:
    """Refuse classes that do not exist: to NumPy, -1 is the last."""
    if not is_known(targets):
        targets = ln.astype(targets, np.int64)
        return ln.where(targets < 0, classes, targets)  # which indexing refuses
    if targets.size:
        low, high = int(ln.min(targets)), int(ln.max(targets))
        if low < 0 or high >= classes:
            raise IndexRangeError(
                f"{what}: target {low if low < 0 else high} of {classes} classes; expected "
                f"0 to {classes - 1}, or ignore_index"
            )
    return targets


def mse(prediction: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """The squared difference.

    Args:
        prediction: any shape.
        target: the same shape.
        reduction: over all elements.

    Raises:
        ShapeError: the shapes differ.

    Example:
        >>> import lantern as ln
        >>> print(ln.nn.mse(ln.asarray([1.0, 2.0]), ln.asarray([1.0, 4.0])))
        2.0
    """
    prediction, target = _same_shape("mse", prediction, target)
    difference = prediction - target
    return _reduced(difference * difference, reduction)


def bce_with_logits(logits: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
    """Binary cross-entropy: minus the log-probability of booleans, true with sigmoid(logits).

    Args:
        logits: any shape.
        targets: the same shape: booleans, or probabilities.
        reduction: over all elements.

    Raises:
        ShapeError: the shapes differ.

    Example:
        >>> import lantern as ln
        >>> print(ln.nn.bce_with_logits(ln.asarray([0.0, 90.0]), ln.asarray([1.0, 1.0])))
        0.3465736
    """
    logits, targets = _same_shape("bce_with_logits", logits, targets)
    targets = ln.astype(targets, logits.dtype, copy=False)
    return _reduced(ln.softplus(logits) - logits * targets, reduction)


def ctc(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    *,
    blank: int = 0,
    reduction: str = "mean",
) -> Tensor:
    """Connectionist temporal classification: minus the log of the probability of all alignments.

    Args:
        log_probs: shape (T, B, C), from `lantern.log_softmax`. float16 and bfloat16 are computed in
            float32.
        targets: classes other than ``blank``, shape (B, L); what lies behind a target's length is
            ignored.
        input_lengths: shape (B,), at most T.
        target_lengths: shape (B,), at most L.
        blank: the class that stands for nothing.
        reduction: ``"mean"`` divides each loss by the length of its target, then takes the mean
            over the batch, as PyTorch does.

    Returns:
        shape (), or (B,) with ``reduction="none"``. Where no alignment exists it is inf, with
        gradient 0.

    Raises:
        ShapeError: the shapes do not fit.

    Source:
        Graves et al. (ICML 2006): the forward variables, in logarithms; their derivative gives the
        backward ones.

    Example:
        >>> import lantern as ln
        >>> log_probs = ln.log_softmax(ln.zeros((2, 1, 3)), axis=-1)
        >>> print(ln.nn.ctc(log_probs, ln.asarray([[1]]), ln.asarray([2]), ln.asarray([1])))
        1.0986123
    """
    log_probs, targets = asarray(log_probs), asarray(targets)
    input_lengths, target_lengths = asarray(input_lengths), asarray(target_lengths)
    if (
        log_probs.ndim != 3
        or targets.ndim != 2
        or log_probs.shape[1] != targets.shape[0]
        or input_lengths.shape != targets.shape[:1]
        or target_lengths.shape != targets.shape[:1]
        or not log_probs.shape[0]
    ):
        shown = map(describe, (log_probs, targets, input_lengths, target_lengths))
        raise ShapeError(
            f"ctc: found {', '.join(shown)}; expected (T, B, C), (B, L), (B,) and (B,)"
        )
    if log_probs.dtype.itemsize == 2:
        log_probs = ln.astype(log_probs, np.float32)
    steps, b, _ = log_probs.shape
    length = targets.shape[1]
    states = 2 * length + 1  # blank, target, blank, target, …, blank
    position = ln.arange(states)
    odd = position % 2 == 1
    # Classes of the states: (B, states). Padding is replaced, as it may hold anything.
    inside = ln.arange(length) < ln.expand_dims(target_lengths, axis=1)
    known = ln.where(inside, targets, blank)
    blanks = ln.full((b, length + 1), blank, dtype=targets.dtype)
    paired = ln.stack((blanks[:, :length], known), axis=2)
    classes = ln.concat((ln.reshape(paired, (b, 2 * length)), blanks[:, :1]), axis=1)
    # A target may follow the one before it without a blank between them, if the two differ.
    changed = ln.concat((ln.full((b, 2), False), classes[:, 2:] != classes[:, :-2]), axis=1)
    skips = ln.logical_and(odd, changed[:, :states])
    index = ln.broadcast_to(ln.expand_dims(classes, axis=0), (steps, b, states))
    emitted = ln.unstack(ln.take_along_axis(log_probs, index, axis=2))

    alpha = ln.where(position < 2, emitted[0], _IMPOSSIBLE)
    for t in range(1, steps):
        one = _shifted(alpha, 1)
        two = ln.where(skips, _shifted(alpha, 2), _IMPOSSIBLE)
        arrived = ln.logsumexp(ln.stack((alpha, one, two)), axis=0) + emitted[t]
        running = ln.expand_dims(t < input_lengths, axis=1)
        alpha = ln.where(running, arrived, alpha)
    # An alignment ends in the last target or in the blank behind it.
    end = ln.expand_dims(2 * target_lengths, axis=1)
    ends = ln.logical_or(position == end, position == end - 1)
    losses = -ln.logsumexp(ln.where(ends, alpha, _IMPOSSIBLE), axis=1)
    possible = losses < -_IMPOSSIBLE / 2
    losses = ln.where(possible, losses, float("inf"))
    if reduction != "mean":
        return _reduced(losses, reduction)
    return ln.mean(losses / ln.astype(ln.maximum(target_lengths, 1), losses.dtype))


def _shifted(alpha: Tensor, by: int) -> Tensor:
    """What stood ``by`` states before: (B, states)."""
    b, states = alpha.shape
    by = min(by, states)
    front = ln.full((b, by), _IMPOSSIBLE, dtype=alpha.dtype)
    return ln.concat((front, alpha[:, : states - by]), axis=1)


def _same_shape(what: str, x: Any, y: Any) -> tuple[Tensor, Tensor]:
    x, y = asarray(x), asarray(y)
    if x.shape != y.shape:
        raise ShapeError(f"{what}: {describe(x)} and {describe(y)}; expected equal shapes")
    return x, y


def _reduced(losses: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return losses
    if reduction == "sum":
        return ln.sum(losses)
    if reduction == "mean":
        return ln.mean(losses)
    raise ArgumentError(f"reduction {reduction!r}; expected 'mean', 'sum' or 'none'")
