"""Keys and values that attention has computed, kept for the tokens to come (section 6.1).

The memory of a layer has a fixed capacity, so that one compiled program serves every length: a
sequence fills its rows from the front, and what lies behind its length is never looked at. The
memory is donated to the program, which writes the new rows into it and gives it back: nothing is
copied, and a step moves the bytes that it reads. Capacities double, so that a text of n tokens
costs a logarithm of n programs, and attention reads no more than twice the keys there are.

Keys and values may be kept in 8 bits: a quarter of the memory, and of what a step reads of it. Each
position of a head then has scales of its own, as soon as it is written. One token's queries are
multiplied with the codes of keys as matrices in few bits are, in integers.

Letters: B sequences, T new positions, S positions there is room for, K heads of keys and values, C
numbers in a head, G groups of these with a scale each, R query heads that share a head of keys.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import lantern as ln
from examples.llama3.config import ModelConfig
from examples.llama3.quantise import FEW, Matrix, Quantised, dense, product, quantise

Memory = tuple[Matrix, Matrix]  # a layer's keys and values, each [B, K, S, C]
SMALLEST = 256  # positions of the smallest memory
SHARES = (8, 2, 1)  # of the positions there is room for, an eighth, half or all are looked at
BITS = (32, 8)  # that keys and values may have: 32 are the dtype of the parameters


class Cache(NamedTuple):
    """What is known of B sequences.

    Attributes:
        layers: the keys and values of each layer. A head's positions follow each other, since that
            is the order in which attention reads them.
        lengths: how many positions of each sequence are filled, int64 [B].
    """

    layers: list[Memory]
    lengths: ln.Tensor

    @property
    def capacity(self) -> int:
        """How many positions there is room for."""
        return self.layers[0][0].shape[2]


def empty(
    config: ModelConfig, batch: int, capacity: int, dtype: Any = ln.float32, bits: int = 32
) -> Cache:
    """Room for ``batch`` sequences of up to ``capacity`` tokens, of which none is there yet."""
    shape = batch, config.kv_heads, capacity, config.head_dim

    def rows() -> Matrix:
        return quantise(ln.zeros(shape), bits) if bits == 8 else ln.zeros(shape, dtype=dtype)

    layers = [(rows(), rows()) for _ in range(config.layers)]
    return Cache(layers, ln.zeros(batch, dtype=ln.int64))


def grown(cache: Cache, capacity: int) -> Cache:
    """The same sequences with room for more."""
    more = capacity - cache.capacity

    def longer(x: ln.Tensor) -> ln.Tensor:
        return ln.pad(x, [(0, more if axis == 2 else 0) for axis in range(x.ndim)])

    return Cache(ln.tree.map(longer, cache.layers), cache.lengths)


def capacity_for(positions: int) -> int:
    """The smallest of the capacities that takes so many positions.

    Example:
        >>> capacity_for(10), capacity_for(256), capacity_for(257)
        (256, 256, 512)
    """
    capacity = SMALLEST
    while capacity < positions:
        capacity *= 2
    return capacity


def written(past: Memory, k: ln.Tensor, v: ln.Tensor, positions: ln.Tensor) -> Memory:
    """A layer's memory with new keys and values [B, T, K, C] at some positions [B, T]."""
    batch, heads = past[0].shape[:2]
    sequence = ln.reshape(ln.arange(batch), (batch, 1, 1))
    head = ln.reshape(ln.arange(heads), (heads, 1))
    at = sequence, head, ln.expand_dims(positions, axis=1)  # together [B, K, T]

    def put(rows: Matrix, new: ln.Tensor) -> Matrix:
        new = ln.permute_dims(new, (0, 2, 1, 3))  # [B, K, T, C]
        fitting = quantise(new, 8) if isinstance(rows, Quantised) else new
        return ln.tree.map(lambda x, y: x.at[at].set(y), rows, fitting)

    return put(past[0], k), put(past[1], v)


def attention(q: ln.Tensor, memory: Memory, positions: ln.Tensor) -> ln.Tensor:
    """Attention of queries [B, T, H, C] at some positions [B, T] to those up to their own.

    One sequence by itself looks at no more of its memory than one of `SHARES`. Several look at all
    of theirs, so that what one of them gets does not depend on how long another is.
    """
    if q.shape[0] > 1:
        return to_all(q, memory, positions)
    capacity = memory[0].shape[2]
    ends = sorted({max(1, capacity // share) for share in SHARES})

    def to_first(end: int) -> Any:
        return lambda q, memory, positions: to_all(q, first(memory, end), positions)

    furthest = ln.max(positions)
    number = sum(ln.astype(furthest >= end, ln.int32) for end in ends[:-1])
    return ln.switch(number, [to_first(end) for end in ends], q, memory, positions)


def first(memory: Memory, end: int) -> Memory:
    """What a memory has of the first positions."""
    return ln.tree.map(lambda x: x[:, :, :end], memory)


def to_all(q: ln.Tensor, memory: Memory, positions: ln.Tensor) -> ln.Tensor:
    """Attention of queries [B, T, H, C] to a memory, of which what lies behind them is masked."""
    keys, values = memory
    seen = ln.arange(keys.shape[2]) <= ln.expand_dims(positions, axis=2)  # [B, T, S]
    if isinstance(keys, Quantised) and q.shape[1] * q.shape[2] <= FEW * keys.shape[1]:
        return few(q, keys, values, seen)
    floats = (ln.astype(dense(x), q.dtype, copy=False) for x in memory)
    keys, values = (ln.permute_dims(x, (0, 2, 1, 3)) for x in floats)  # [B, S, K, C]
    return ln.nn.attention(q, keys, values, mask=ln.expand_dims(seen, axis=1))


def few(q: ln.Tensor, keys: Quantised, values: Matrix, seen: ln.Tensor) -> ln.Tensor:
    """The same of few queries, to keys in 8 bits, of which no floats are made."""
    b, t, h, c = q.shape
    heads = keys.shape[1]
    grouped = ln.reshape(q * c**-0.5, (b, t, heads, h // heads, c))
    rows = ln.reshape(ln.permute_dims(grouped, (0, 2, 1, 3, 4)), (b, heads, -1, c))  # [B, K, TR, C]
    scores = ln.reshape(product(rows, keys), (b, heads, t, h // heads, -1))
    scores = ln.where(seen[:, None, :, None], scores, -ln.inf)
    weights = ln.exp(scores - ln.max(scores, axis=-1, keepdims=True))
    weights = weights / ln.sum(weights, axis=-1, keepdims=True)
    y = ln.reshape(weights, (b, heads, t * h // heads, -1)) @ dense(values)  # [B, K, TR, C]
    y = ln.permute_dims(ln.reshape(y, (b, heads, t, h // heads, c)), (0, 2, 1, 3, 4))
    return ln.astype(ln.reshape(y, q.shape), q.dtype, copy=False)
