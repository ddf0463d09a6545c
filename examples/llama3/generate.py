"""Sampling from a trained model, one token at a time, with a cache of keys and values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import lantern as ln
from examples.llama3.config import ModelConfig
from examples.llama3.files import Problem
from examples.llama3.model import Params, extend


@dataclass(frozen=True)
class Sampling:
    """How to choose from the distribution of the next token.

    Attributes:
        temperature: divides the logits; 0 always takes the likeliest token.
        top_k: choose among this many likeliest tokens; 0 for all.
        top_p: choose among the likeliest tokens that together reach this probability.
    """

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.95

    def check(self) -> None:
        """Refuse values that mean nothing."""
        if not self.temperature >= 0:
            raise Problem(f"--temperature is {self.temperature}; it must not be negative")
        if self.top_k < 0:
            raise Problem(f"--top-k is {self.top_k}; it must not be negative (0 means all)")
        if not 0 < self.top_p <= 1:
            raise Problem(f"--top-p is {self.top_p}; it must be above 0 and at most 1")


def choose(key: Any, logits: ln.Tensor, how: Sampling) -> int:
    """Draw a token from logits [V]."""
    if how.temperature == 0:
        return int(ln.argmax(logits))
    order = ln.argsort(logits, descending=True)  # [V]
    ranked = ln.take(logits, order) / how.temperature
    allowed = ln.arange(logits.size) < (how.top_k or logits.size)
    if how.top_p < 1:
        probability = ln.softmax(ln.where(allowed, ranked, -ln.inf))
        # A token is in if those before it do not suffice; the first always is.
        before = ln.cumulative_sum(probability) - probability
        allowed = allowed & (before < how.top_p)
    return int(order[ln.random.categorical(key, ln.where(allowed, ranked, -ln.inf))])


def generate(
    params: Params,
    config: ModelConfig,
    prompt: list[int],
    how: Sampling,
    key: Any,
    count: int,
    end: int | None = None,
) -> Iterator[int]:
    """Continue a prompt.

    The model knows no position beyond its context. When the cache is full, its first half is
    forgotten: the rest is read again from position 0.

    Args:
        params: the parameters.
        config: their shape.
        prompt: at least one token.
        how: temperature, top-k, top-p.
        key: a random key; the same key gives the same text.
        count: tokens to give at most.
        end: the token that ends the text; it is not given.
    """
    how.check()
    seen = list(prompt)[-config.context :]
    pending, cache = seen, None
    for _ in range(count):
        if cache is not None and cache[0][0].shape[1] + len(pending) > config.context:
            seen = seen[-max(1, config.context // 2) :]
            pending, cache = seen, None
        logits, cache = extend(params, ln.asarray([pending]), config, cache)
        key, draw = ln.random.split(key)
        token = choose(draw, logits[0, -1], how)
        if token == end:
            return
        yield token
        seen.append(token)
        pending = [token]
