"""Attention, and its adjoint, in blocks of scores that stay in cache.

The scores of all heads are the largest arrays of a transformer: B·H·T·S numbers. Neither half
holds them: the forward half keeps the logarithm of each row's sum, from which the backward half
computes the probabilities again, block by block.

The letters: B sequences, K heads of keys and values, each serving G heads of queries, T queries, S
keys, D numbers in a query or key, E in a value. Queries have the shape (B, K, T, G, D): those that
share their keys are rows of one matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from lantern.control import primitive
from lantern.primitives.elementwise import exp, where
from lantern.primitives.products import matmul, transposed
from lantern.primitives.structure import (
    broadcast_to,
    cast,
    reduce_sum,
    reshape,
    wide,
)

__all__ = ["attention", "attention_adjoint"]

_BLOCK = 65536  # scores of a block: with what is made of them they stay in a core's cache
_STRIPES = 4  # blocks of queries that a causal mask is cut into: they skip 3/8 of the scores
LOWEST = -1e30  # of the logarithm of a sum: that of nothing is finite, so that no nan arises


class Stripe(NamedTuple):
    """Queries from ``first`` up to ``last``, and how many keys they may see at most."""

    first: int
    last: int
    keys: int


def stripes(t: int, s: int, causal: bool) -> list[Stripe]:
    """The blocks of queries of which each sees another part of the keys.

    Without a causal mask there is one. With it, there are at most four, of a multiple of 32
    queries but the last: each skips the keys that come after its last query.
    """
    if not causal:
        return [Stripe(0, t, s)]
    size = 32 * max(1, -(-t // (32 * _STRIPES)))
    ends = [min(first + size, t) for first in range(0, t, size)]
    return [
        Stripe(first, last, min(max(s - t + last, 1), s))
        for first, last in zip([0, *ends], ends, strict=False)
    ]


# On NumPy arrays ----------------------------------------------------------------------------------


class _Block(NamedTuple):
    """Some heads, some queries and the first keys: what one block of scores belongs to."""

    heads: slice
    rows: slice
    queries: slice
    keys: slice


def _blocks(n: int, t: int, g: int, s: int, causal: bool) -> Iterator[_Block]:
    """What to compute one after another, for ``n`` heads of keys."""
    if n * t * g * s <= _BLOCK:
        yield _Block(slice(0, n), slice(0, t * g), slice(0, t), slice(0, s))
        return
    for first, last, keys in stripes(t, s, causal):
        queries = max(1, _BLOCK // (g * max(keys, 1)))
        heads = max(1, _BLOCK // max((last - first) * g * keys, 1))
        for head in range(0, n, heads):
            for start in range(first, last, queries):
                end = min(start + queries, last)
                yield _Block(
                    slice(head, min(head + heads, n)),
                    slice(start * g, end * g),
                    slice(start, end),
                    slice(0, keys),
                )


class _Visible:
    """Where attention may go, block by block: what is added to the scores there."""

    def __init__(
        self, shape: tuple[int, ...], data: tuple[Any, ...], causal: bool, segmented: bool
    ) -> None:
        self.shape, self.causal = shape, causal  # (B, K, T, G, S)
        self.of_q, self.of_k = data[:2] if segmented else (None, None)
        self.mask = data[-1] if len(data) > 2 * segmented else None

    def hide(self, scores: Any, block: _Block) -> None:
        """Set the scores of what must not be seen to -∞."""
        _, kh, t, g, s = self.shape
        rows = block.queries
        if self.causal and block.keys.stop > s - t + rows.start + 1:
            last = np.arange(s - t + rows.start, s - t + rows.stop).repeat(g)
            np.copyto(scores, -np.inf, where=np.arange(block.keys.stop) > last[:, None])
        if self.of_q is None and self.mask is None:
            return
        which = np.arange(block.heads.start, block.heads.stop)
        by_head = scores.reshape(len(which), -1, g, scores.shape[-1])
        if self.of_q is not None and self.of_k is not None:
            of_q, of_k = self.of_q[which // kh, rows], self.of_k[which // kh, block.keys]
            other = of_q[:, :, None, None] != of_k[:, None, None, :]
            np.copyto(by_head, -np.inf, where=other)
        if self.mask is not None:
            mask = self.mask[
                which // kh if self.mask.shape[0] > 1 else 0,
                which % kh if self.mask.shape[1] > 1 else 0,
            ]
            if mask.ndim == 3:
                mask = mask[None]
            mask = mask if mask.shape[1] == 1 else mask[:, rows]
            mask = mask if mask.shape[3] == 1 else mask[..., block.keys]
            np.copyto(by_head, -np.inf, where=~mask)


def _heads(x: Any, rank: int = 3) -> Any:
    """The first two axes as one, and what lies between them and the last as one, in float32."""
    x = np.ascontiguousarray(x, wide(x.dtype))
    lead = x.shape[0] * x.shape[1]
    size = int(np.prod(x.shape[2 : x.ndim - (rank - 2)], dtype=np.int64))
    return x.reshape(lead, size, *x.shape[x.ndim - (rank - 2) :])


def _attention(
    q: Any, k: Any, v: Any, *data: Any, causal: bool, segmented: bool
) -> tuple[Any, Any]:
    b, kh, t, g, _ = q.shape
    s, e = k.shape[2], v.shape[3]
    dtype, visible = q.dtype, _Visible((b, kh, t, g, s), data, causal, segmented)
    q, k, v = _heads(q), _heads(k), _heads(v)
    out = np.zeros((b * kh, t * g, e), q.dtype)
    sums = np.full((b * kh, t * g), LOWEST, q.dtype)
    for block in _blocks(b * kh, t, g, s, causal) if s else ():
        heads, rows, _, keys = block
        p = np.matmul(q[heads, rows], np.swapaxes(k[heads, keys], 1, 2))
        visible.hide(p, block)
        top = np.maximum(p.max(axis=2, keepdims=True), LOWEST, dtype=p.dtype)
        np.subtract(p, top, out=p)
        np.exp(p, out=p)
        total = p.sum(axis=2, keepdims=True)
        total[total == 0] = 1
        part = np.matmul(p, v[heads, keys])
        np.divide(part, total, out=out[heads, rows])
        sums[heads, rows] = (top + np.log(total))[..., 0]
    return out.reshape(b, kh, t, g, e).astype(dtype, copy=False), sums.reshape(b, kh, t, g)


def _adjoint(
    q: Any,
    k: Any,
    v: Any,
    sums: Any,
    dout: Any,
    mean: Any,
    *data: Any,
    causal: bool,
    segmented: bool,
) -> tuple[Any, Any, Any]:
    given = q, k, v
    b, kh, t, g, _ = q.shape
    s = k.shape[2]
    visible = _Visible((b, kh, t, g, s), data, causal, segmented)
    q, k, v, dout = _heads(q), _heads(k), _heads(v), _heads(dout)
    sums, mean = (np.reshape(x, (b * kh, t * g, 1)) for x in (sums, mean))
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for block in _blocks(b * kh, t, g, s, causal) if s else ():
        heads, rows, _, keys = block
        p = np.matmul(q[heads, rows], np.swapaxes(k[heads, keys], 1, 2))
        visible.hide(p, block)
        np.subtract(p, sums[heads, rows], out=p)
        np.exp(p, out=p)
        dv[heads, keys] += np.matmul(np.swapaxes(p, 1, 2), dout[heads, rows])
        dp = np.matmul(dout[heads, rows], np.swapaxes(v[heads, keys], 1, 2))
        np.subtract(dp, mean[heads, rows], out=dp)
        np.multiply(dp, p, out=dp)
        np.matmul(dp, k[heads, keys], out=dq[heads, rows])
        dk[heads, keys] += np.matmul(np.swapaxes(dp, 1, 2), q[heads, rows])
    return tuple(
        d.reshape(x.shape).astype(x.dtype, copy=False)
        for d, x in zip((dq, dk, dv), given, strict=True)
    )  # type: ignore[return-value]  # a generator's length is not known to be three


# The primitives -----------------------------------------------------------------------------------


def _batch(
    perform: Any, size: int, mapped: tuple[bool, ...], *values: Any, **params: Any
) -> tuple[Any, ...]:
    """The batch joins the sequences. What is not mapped is repeated, but for what all share."""

    def joined(x: Any, m: bool) -> Any:
        if not m:
            if x.shape[0] == 1 and x.dtype.kind == "b":
                return x
            x = broadcast_to(x, shape=(size, *x.shape))
        elif x.dtype.kind == "b" and x.shape[1] == 1:
            x = broadcast_to(x, shape=(size, sequences, *x.shape[2:]))
        return reshape(x, shape=(size * x.shape[1], *x.shape[2:]))

    sequences = values[0].shape[1 if mapped[0] else 0]
    out = perform(*map(joined, values, mapped), **params)
    return tuple(reshape(y, shape=(size, sequences, *y.shape[1:])) for y in out)


@primitive(_attention, batch=_batch)
def attention(q, k, v, *data, causal, segmented):
    """softmax(q kᵀ) v over the keys that each query may see, and the logarithm of the sum of the
    exponentials.

    q (B, K, T, G, D), k (B, K, S, D), v (B, K, S, E) -> (B, K, T, G, E) and (B, K, T, G), the
    latter in float32 at least. A query that may see nothing gets zeros.

    ``causal``: query t sees keys up to S - T + t. ``segmented``: the first two of ``data`` are
    integers (B, T) and (B, S), and a query sees keys of its own number. A further array of ``data``
    is boolean, with five axes that are those of (B, K, T, G, S) or 1: what may be seen.
    """
    out, sums = attention(q, k, v, *data, causal=causal, segmented=segmented)
    dout, dsums = yield out, sums
    mean = reduce_sum(_wide(dout) * _wide(out), axes=(4,)) - dsums
    adjoints = attention_adjoint(
        q, k, v, sums, dout, mean, *data, causal=causal, segmented=segmented
    )
    return *adjoints, *(None for _ in data)


@primitive(_adjoint, batch=_batch)
def attention_adjoint(q, k, v, sums, dout, mean, *data, causal, segmented):
    """The adjoints of queries, keys and values, like them.

    ``sums`` (B, K, T, G) are those of `attention`, and ``mean`` (B, K, T, G) is the sum of dout
    out. With p = exp(q kᵀ - sums) and ds = p (dout vᵀ - mean), dq = ds k, dk = dsᵀ q, dv = pᵀ dout.
    """
    found = attention_adjoint(q, k, v, sums, dout, mean, *data, causal=causal, segmented=segmented)
    a, b, c = yield found
    return _second(q, k, v, sums, dout, mean, data, causal, segmented, a, b, c)


def _second(
    q: Any, k: Any, v: Any, sums: Any, dout: Any, mean: Any, data: tuple[Any, ...], causal: bool,
    segmented: bool, a: Any, b: Any, c: Any,
) -> tuple[Any, ...]:  # fmt: skip
    """The adjoints of what `attention_adjoint` takes, from those of dq, dk and dv; its scores are
    held in whole."""
    shapes = q.shape, k.shape, v.shape, sums.shape, dout.shape, mean.shape
    lead, rows = q.shape[:2], q.shape[2] * q.shape[3]
    allowed = visible((*q.shape[:4], k.shape[2]), data, causal, segmented)
    q, dout, a = (reshape(_wide(x), shape=(*lead, rows, x.shape[4])) for x in (q, dout, a))
    k, v, b, c = _wide(k), _wide(v), _wide(b), _wide(c)
    sums, mean = (reshape(x, shape=(*lead, rows, 1)) for x in (sums, mean))
    scores = matmul(q, transposed(k))
    if allowed is not None:
        full = (*lead, rows, k.shape[2])
        allowed = reshape(broadcast_to(allowed, shape=(*shapes[0][:4], full[3])), shape=full)
        scores = where(allowed, scores, -np.inf)
    p = exp(scores - sums)
    less = matmul(dout, transposed(v)) - mean
    ds = p * less
    of_ds = matmul(a, transposed(k)) + matmul(q, transposed(b))
    of_less = of_ds * p
    of_scores = of_ds * ds + matmul(dout, transposed(c)) * p
    found = (
        matmul(of_scores, k) + matmul(ds, b),
        matmul(transposed(of_scores), q) + matmul(transposed(ds), a),
        matmul(transposed(of_less), dout),
        -reduce_sum(of_scores, axes=(3,)),
        matmul(of_less, v) + matmul(p, c),
        -reduce_sum(of_less, axes=(3,)),
    )
    adjoints = (reshape(x, shape=shape) for x, shape in zip(found, shapes, strict=True))
    return *adjoints, *(None for _ in data)


def visible(shape: tuple[int, ...], data: tuple[Any, ...], causal: bool, segmented: bool) -> Any:
    """Where attention may go: booleans that broadcast to (B, K, T, G, S); None: everywhere."""
    b, _, t, _, s = shape
    allowed: Any = None
    if causal:
        keys, last = np.arange(s), np.arange(s - t, s)
        allowed = (keys <= last[:, None]).reshape(1, 1, t, 1, s)
    if segmented:
        of_q, of_k = data[:2]
        same = reshape(of_q, shape=(b, 1, t, 1, 1)) == reshape(of_k, shape=(b, 1, 1, 1, s))
        allowed = same if allowed is None else same & allowed
    if len(data) > 2 * segmented:
        allowed = data[-1] if allowed is None else data[-1] & allowed
    return allowed


def _wide(x: Any) -> Any:
    """float16 and bfloat16 as float32."""
    return x if wide(x.dtype) is x.dtype else cast(x, dtype=wide(x.dtype))
