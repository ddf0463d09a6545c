"""Scaled dot-product attention."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import lantern as ln
from lantern.convert import asarray
from lantern.errors import DTypeError, ShapeError, describe
from lantern.ops.operands import promoted
from lantern.primitives.attention import attention as scaled
from lantern.tensor import Tensor

__all__ = ["attention"]


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    segment_ids: Tensor | tuple[Tensor, Tensor] | None = None,
    scale: float | None = None,
) -> Tensor:
    """softmax(q kᵀ · scale) v, head by head; K heads of keys and values serve H heads of queries.

    Args:
        q: shape (B, T, H, D): batch, time, heads, features.
        k: shape (B, S, K, D), where K divides H: head h of the queries uses head h div (H / K).
        v: shape (B, S, K, E).
        causal: whether position t attends only to positions up to t. The queries are the last T of
            the S positions: with a cache of keys, S > T.
        mask: bool, broadcast against (B, H, T, S); true where attention may go.
        segment_ids: integers, shape (B, T), or a pair of (B, T) and (B, S): attention stays within
            equal numbers, such as those of documents packed into one row.
        scale: of the scores, 1/√D unless given.

    Returns:
        shape (B, T, H, E), in the dtype of ``q``. A position that may attend to nothing gets zeros.
        float16 and bfloat16 are computed in float32 and rounded. The B·H·T·S scores are never held:
        both halves go over them in blocks, and the backward half computes the probabilities again.

    Raises:
        ShapeError: shapes that do not fit.
        DTypeError: a mask that is not boolean.

    Source:
        Vaswani et al. (2017); grouped queries: Ainslie et al. (2023); in blocks: Dao et al. (2022).

    Example:
        >>> import lantern as ln
        >>> x = ln.asarray([1.0, 3.0]).reshape((1, 2, 1, 1))
        >>> print(ln.nn.attention(0 * x, x, x, causal=True)[0, :, 0, 0])
        [1. 2.]
    """
    q, k, v = asarray(q), asarray(k), asarray(v)
    _check(q, k, v)
    b, t, h, d = q.shape
    s, heads, e = k.shape[1], k.shape[2], v.shape[3]
    group, dtype = h // heads, q.dtype
    q, k, v = promoted(q, k, v)
    scale = 1 / math.sqrt(d) if scale is None else scale
    # The queries that share a head of keys become rows of one matrix: (B, K, T, G, D).
    # They are scaled in the caller's order, which is that of what made them.
    q = ln.permute_dims(ln.reshape(q * scale, (b, t, heads, group, d)), (0, 2, 1, 3, 4))
    k, v = (ln.permute_dims(x, (0, 2, 1, 3)) for x in (k, v))
    data = (*_segments(b, t, s, segment_ids), *_mask((b, heads, group, t, s), mask))
    out, _ = scaled(q, k, v, *data, causal=causal, segmented=segment_ids is not None)
    out = ln.reshape(ln.permute_dims(out, (0, 2, 1, 3, 4)), (b, t, h, e))
    return ln.astype(out, dtype, copy=False)


def _segments(b: int, t: int, s: int, segment_ids: Any) -> tuple[Tensor, ...]:
    """The numbers of the queries (B, T) and of the keys (B, S), if there are any."""
    if segment_ids is None:
        return ()
    of_q, of_k = segment_ids if isinstance(segment_ids, tuple) else (segment_ids, segment_ids)
    of_q, of_k = asarray(of_q), asarray(of_k)
    if of_q.shape != (b, t) or of_k.shape != (b, s):
        raise ShapeError(
            f"attention: segment_ids are {describe(of_q)} and {describe(of_k)}; expected "
            f"{[b, t]} and {[b, s]}"
        )
    return of_q, of_k


def _mask(sizes: tuple[int, ...], mask: Any) -> tuple[Tensor, ...]:
    """The mask with axes like (B, K, T, G, S), each in full or of length 1, if there is one."""
    if mask is None:
        return ()
    mask = asarray(mask)
    if mask.dtype != np.bool_:
        raise DTypeError(f"attention: the mask is {describe(mask)}; expected bool")
    b, heads, group, t, s = sizes
    shape = (1,) * (4 - mask.ndim) + mask.shape
    wanted = (b, heads * group, t, s)
    if len(shape) != 4 or any(n not in (1, w) for n, w in zip(shape, wanted, strict=True)):
        raise ShapeError(
            f"attention: the mask is {describe(mask)}; expected a shape that broadcasts to "
            f"{list(wanted)}"
        )
    by_head = (heads, group) if shape[1] > 1 else (1, 1)
    mask = ln.reshape(mask, (shape[0], *by_head, *shape[2:]))
    return (ln.permute_dims(mask, (0, 1, 3, 2, 4)),)


def _check(q: Tensor, k: Tensor, v: Tensor) -> None:
    if not (
        q.ndim == k.ndim == v.ndim == 4
        and q.shape[0] == k.shape[0]
        and q.shape[3] == k.shape[3]
        and k.shape[:3] == v.shape[:3]
        and k.shape[2] > 0
        and q.shape[2] % k.shape[2] == 0
    ):
        raise ShapeError(
            f"attention: q is {describe(q)}, k {describe(k)}, v {describe(v)}; expected "
            "(B, T, H, D), (B, S, K, D) and (B, S, K, E), K a divisor of H"
        )
