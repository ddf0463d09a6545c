"""The loss of a layer that gives a score to each class, without ever holding all scores.

The scores of N rows and V classes are the largest array of a language model: x weightᵀ, with x
(N, D) and weight (V, D). Rows are worked on in chunks, and since the loss is known as soon as the
scores are, so are its slopes: the forward half computes them on the way.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lantern.control import primitive
from lantern.primitives.elementwise import where
from lantern.primitives.indexing import gather
from lantern.primitives.products import matmul, transposed
from lantern.primitives.softmax import logsumexp, softmax
from lantern.primitives.structure import batched, broadcast_to, cast, reduce_sum, reshape, wide

__all__ = ["linear_loss", "linear_loss_slopes", "linear_losses"]

CHUNK = 2**25  # bytes of the scores that are held at once, in float32: more would gain little


def chunk_rows(rows: int, classes: int) -> int:
    """How many rows are worked on at once: what fits `CHUNK`, evenly divided, in sixteens."""
    most = max(16, CHUNK // (4 * max(classes, 1)))
    count = -(-rows // most)
    return max(1, -(-rows // max(count, 1) // 16) * 16) if count > 1 else max(rows, 1)


# On NumPy arrays ----------------------------------------------------------------------------------


def _chunks(n: int, classes: int) -> list[slice]:
    size = chunk_rows(n, classes)
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def _widened(*xs: Any) -> list[Any]:
    return [x.astype(wide(x.dtype), copy=False) for x in xs]


def _exponentials(x: Any, weight: Any, targets: Any, smoothing: float) -> tuple[Any, Any, Any]:
    """e to the scores less their largest, their sums, and the losses of some rows."""
    scores = np.matmul(x, weight.T)
    top = scores.max(axis=1, keepdims=True)
    at = np.take_along_axis(scores, targets[:, None], axis=1)
    if smoothing:
        at = (1 - smoothing) * at + smoothing * scores.mean(axis=1, keepdims=True)
    np.subtract(scores, top, out=scores)
    np.exp(scores, out=scores)
    total = scores.sum(axis=1, keepdims=True)
    return scores, total, (np.log(total) + top - at)[:, 0]


def _losses(x: Any, weight: Any, targets: Any, *, smoothing: float) -> Any:
    x, weight = _widened(x, weight)
    parts = [
        _exponentials(x[rows], weight, targets[rows], smoothing)[2]
        for rows in _chunks(len(x), len(weight))
    ]
    return np.concatenate(parts) if parts else np.zeros(0, x.dtype)


def _loss(x: Any, weight: Any, targets: Any, shares: Any, *, smoothing: float) -> Any:
    return np.dot(_losses(x, weight, targets, smoothing=smoothing), shares)


def _slopes(
    x: Any, weight: Any, targets: Any, shares: Any, *, smoothing: float
) -> tuple[Any, Any, Any]:
    x, weight, shares = _widened(x, weight, shares)
    classes, losses = len(weight), np.zeros(len(x), x.dtype)
    dx, dweight = np.zeros_like(x), np.zeros_like(weight)
    for n, rows in enumerate(_chunks(len(x), classes)):
        slope, total, losses[rows] = _exponentials(x[rows], weight, targets[rows], smoothing)
        share = shares[rows, None]
        slope *= share / total
        if smoothing:
            slope -= share * (smoothing / classes)
        slope[np.arange(len(slope)), targets[rows]] += share[:, 0] * (smoothing - 1)
        np.matmul(slope, weight, out=dx[rows])
        if n:
            dweight += np.matmul(slope.T, x[rows])
        else:
            np.matmul(slope.T, x[rows], out=dweight)
    return np.dot(losses, shares), dx, dweight


# In whole, on any values --------------------------------------------------------------------------


def _target_share(like: Any, targets: Any, smoothing: float) -> Any:
    """The share of each class in what a row should be: (..., N, V), like the scores."""
    classes = like.shape[-1]
    hit = reshape(targets, shape=(*targets.shape, 1)) == np.arange(classes)
    rest = smoothing / classes
    return where(hit, _number(1 - smoothing + rest, like), _number(rest, like))


def _number(value: float, like: Any) -> Any:
    return np.asarray(value, like.dtype)[()]


def _in_whole(x: Any, weight: Any, targets: Any, smoothing: float) -> tuple[Any, Any, Any]:
    """The losses (..., N), the probabilities (..., N, V), and these less what they should be."""
    scores = matmul(x, transposed(weight))
    *lead, n, classes = scores.shape
    last = (len(lead) + 1,)
    places = (np.arange(k).reshape(-1, *(1,) * (len(lead) - i)) for i, k in enumerate((*lead, n)))
    at = gather(scores, *places, targets) * (1 - smoothing)
    if smoothing:
        at = at + reduce_sum(scores, axes=last) * (smoothing / classes)
    p = softmax(scores, axes=last)
    return logsumexp(scores, axes=last) - at, p, p - _target_share(scores, targets, smoothing)


def _batch_losses(
    perform: Any, size: int, mapped: tuple[bool, ...], *values: Any, smoothing: float
) -> Any:
    """Rows of a batch that share their weight join; else all scores of the batch are held."""
    x, weight, targets = batched(size, mapped, values)
    if mapped[1]:
        return _in_whole(_wide(x), _wide(weight), targets, smoothing)[0]
    n, d = x.shape[1:]
    x, targets = reshape(x, shape=(size * n, d)), reshape(targets, shape=(size * n,))
    return reshape(perform(x, values[1], targets, smoothing=smoothing), shape=(size, n))


def _batch_loss(
    perform: Any, size: int, mapped: tuple[bool, ...], *values: Any, smoothing: float
) -> Any:
    shares = batched(size, mapped, values)[3]
    kept = (True, *mapped[1:3])  # as in the losses: x is repeated, where it must be
    x = values[0] if mapped[0] else broadcast_to(values[0], shape=(size, *values[0].shape))
    losses = _batch_losses(linear_losses, size, kept, x, *values[1:3], smoothing=smoothing)
    return reduce_sum(losses * shares, axes=(1,))


def _batch_slopes(
    perform: Any, size: int, mapped: tuple[bool, ...], *values: Any, smoothing: float
) -> tuple[Any, Any, Any]:
    x, weight, targets, shares = batched(size, mapped, values)
    x, weight = _wide(x), _wide(weight)
    losses, _, excess = _in_whole(x, weight, targets, smoothing)
    slope = excess * reshape(shares, shape=(*shares.shape, 1))
    total = reduce_sum(losses * shares, axes=(1,))
    return total, matmul(slope, weight), matmul(transposed(slope), x)


def _wide(x: Any) -> Any:
    return x if wide(x.dtype) is x.dtype else cast(x, dtype=wide(x.dtype))


# The primitives -----------------------------------------------------------------------------------


@primitive(_losses, batch=_batch_losses)
def linear_losses(x, weight, targets, *, smoothing):
    """Minus the logarithm of the probability softmax(x weightᵀ) of the targets: x (N, D), weight
    (V, D), targets (N,) integers in [0, V) -> (N,), in float32 at least.

    ``smoothing`` ε: against (1 - ε) of the target and ε of the mean of all classes.
    """
    dz = yield linear_losses(x, weight, targets, smoothing=smoothing)
    _, dx, dweight = linear_loss_slopes(x, weight, targets, dz, smoothing=smoothing)
    return dx, dweight, None


@primitive(_loss, batch=_batch_loss)
def linear_loss(x, weight, targets, shares, *, smoothing):
    """The sum of `linear_losses`, each times its share (N,)."""
    total, dx, dweight = linear_loss_slopes(x, weight, targets, shares, smoothing=smoothing)
    dz = yield total
    return (
        lambda: dx * dz,
        lambda: dweight * dz,
        None,
        lambda: linear_losses(x, weight, targets, smoothing=smoothing) * dz,
    )


@primitive(_slopes, batch=_batch_slopes)
def linear_loss_slopes(x, weight, targets, shares, *, smoothing):
    """`linear_loss` and its derivatives by x and by weight."""
    a, b, c = yield linear_loss_slopes(x, weight, targets, shares, smoothing=smoothing)
    kinds = x.dtype, weight.dtype
    x, weight = _wide(x), _wide(weight)
    losses, p, excess = _in_whole(x, weight, targets, smoothing)
    share = reshape(shares, shape=(*shares.shape, 1))
    slope = excess * share
    of_slope = matmul(b, transposed(weight)) + matmul(x, transposed(c))
    weighed = p * of_slope
    along = reshape(reduce_sum(weighed, axes=(1,)), shape=share.shape)
    of_scores = slope * a + (weighed - p * along) * share
    return (
        cast(matmul(of_scores, weight) + matmul(slope, c), dtype=kinds[0]),
        cast(matmul(transposed(of_scores), x) + matmul(transposed(slope), b), dtype=kinds[1]),
        None,
        losses * a + reduce_sum(excess * of_slope, axes=(1,)),
    )
