"""Keys and values that attention has computed, kept for the tokens to come (section 6.1).

The memory of a layer has a fixed capacity, so that one compiled program serves every length: a
sequence fills its rows from the front, and what lies behind its length is never looked at. The
memory is donated to the program, which writes the new rows into it and gives it back: nothing is
copied, and a step moves the bytes that it reads. Capacities double, so that a text of n tokens
costs a logarithm of n programs, and attention reads no more than twice the keys there are.

Letters: B sequences, T new positions, S positions there is room for, K heads of keys and values, C
numbers in a head.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import lantern as ln
from examples.llama3.config import ModelConfig

Memory = tuple[ln.Tensor, ln.Tensor]  # a layer's keys and values, each [B, K, S, C]
SMALLEST = 256  # positions of the smallest memory


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


def empty(config: ModelConfig, batch: int, capacity: int, dtype: Any = ln.float32) -> Cache:
    """Room for ``batch`` sequences of up to ``capacity`` tokens, of which none is there yet."""

    def rows() -> ln.Tensor:
        return ln.zeros((batch, config.kv_heads, capacity, config.head_dim), dtype=dtype)

    layers = [(rows(), rows()) for _ in range(config.layers)]
    return Cache(layers, ln.zeros(batch, dtype=ln.int64))


def grown(cache: Cache, capacity: int) -> Cache:
    """The same sequences with room for more."""
    more = ((0, 0), (0, 0), (0, capacity - cache.capacity), (0, 0))
    return Cache(
        [(ln.pad(keys, more), ln.pad(values, more)) for keys, values in cache.layers], cache.lengths
    )


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
    keys, values = (ln.permute_dims(x, (0, 2, 1, 3)) for x in (k, v))  # [B, K, T, C]
    return past[0].at[at].set(keys), past[1].at[at].set(values)


def attention(q: ln.Tensor, memory: Memory, positions: ln.Tensor) -> ln.Tensor:
    """Attention of queries [B, T, H, C] at some positions [B, T] to those up to their own."""
    keys, values = (ln.permute_dims(x, (0, 2, 1, 3)) for x in memory)  # [B, S, K, C]
    seen = ln.arange(keys.shape[1]) <= ln.expand_dims(positions, axis=2)  # [B, T, S]
    return ln.nn.attention(q, keys, values, mask=ln.expand_dims(seen, axis=1))
