"""How likely a model finds a text, and what rounding costs of that (section 6.2).

A text is cut into windows, and each token of a window is to be foretold from those before it in the
window. It is read in chunks, as a prompt is, with keys and values that are kept: so it shows what
fewer bits of these cost, too.

Letters: T tokens of a chunk, V tokens in the vocabulary.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

import lantern as ln
from examples.llama3 import cache as caches
from examples.llama3.cache import Cache
from examples.llama3.config import ModelConfig
from examples.llama3.files import Problem
from examples.llama3.model import Params, extend

CHUNK = 128  # tokens that are read at once
WINDOW = 512  # tokens


class Score(NamedTuple):
    """How likely a text is.

    Attributes:
        nats: minus the logarithm of its probability.
        tokens: that were foretold.
        bytes: of these.
    """

    nats: float
    tokens: int
    bytes: int

    @property
    def perplexity(self) -> float:
        """Among how many equally likely tokens the next would be as hard to guess."""
        return math.exp(self.nats / self.tokens)

    @property
    def bits_per_byte(self) -> float:
        """What the text takes, compressed with the model."""
        return self.nats / math.log(2) / self.bytes


@functools.cache
def scorer(config: ModelConfig, capacity: int) -> Any:
    """The compiled program that reads a chunk, for a capacity of the memory."""

    @functools.partial(ln.compile, donate="cache")
    def score(
        params: Params, cache: Cache, tokens: ln.Tensor, targets: ln.Tensor
    ) -> tuple[ln.Tensor, Cache]:
        """Read tokens [1, T]; minus the logarithm of the probability of what follows each [T]."""
        logits, cache = extend(params, tokens, config, cache)
        logits = ln.astype(logits[0], ln.float32, copy=False)  # [T, V]
        chosen = ln.take_along_axis(logits, targets[:, None], axis=1)[:, 0]
        return ln.sum(ln.logsumexp(logits, axis=1) - chosen), cache

    return score


def score(
    params: Params, config: ModelConfig, text: Sequence[int], lengths: Sequence[int],
    cache_bits: int = 32, window: int = WINDOW, seen: Callable[[int], object] = lambda _: None,
) -> Score:  # fmt: skip
    """How likely a text is: its whole windows, as far as they go.

    Args:
        params: of the model.
        config: their shape.
        text: tokens, at least one more than a window has.
        lengths: the bytes of each token of the vocabulary.
        cache_bits: of keys and values that are kept.
        window: tokens of a window, a multiple of `CHUNK`.
        seen: told the number of tokens that are done, after each chunk.

    Raises:
        Problem: the text is too short.
    """
    if len(text) <= window:
        raise Problem(f"a text of {len(text):,} tokens; at least {window + 1:,} are needed")
    program = scorer(config, window).bind(params)
    dtype = params["norm"].dtype
    nats, tokens = 0.0, np.asarray(text)
    count = (len(text) - 1) // window * window
    for start in range(0, count, window):
        cache = caches.empty(config, 1, window, dtype, cache_bits)
        for at in range(start, start + window, CHUNK):
            chunk = tokens[at : at + CHUNK]
            some, cache = program(cache, chunk[None], tokens[at + 1 : at + CHUNK + 1])
            nats += float(some)
            seen(at + CHUNK)
    return Score(nats, count, sum(lengths[t] for t in tokens[1 : count + 1]))
