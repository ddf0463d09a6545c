"""How the next token is chosen from the logits, inside the compiled step.

Each way of leaving unlikely tokens out is a threshold on the logits, so none of them sorts the
vocabulary: a threshold is found by bisection, a few dozen passes over logits that stay in a core's
cache, and only where a sequence asks for it. A token is then drawn with one uniform number, which
depends on the sequence's own seed and on how many it has drawn: the same seed gives the same text,
whatever else is in the batch.

Letters: B sequences, V tokens in the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

import lantern as ln
from examples.llama3.config import setting
from examples.llama3.files import Problem

HALVINGS = 40  # of the range of the logits: the ends are then neighbours in float32


@dataclass(frozen=True)
class Sampling:
    """How to choose the next token. The steps are taken in this order."""

    repetition_penalty: float = setting(
        1.0, "makes tokens of the text so far less likely: their logits are divided by it, or "
        "multiplied where they are below zero (Keskar et al., 2019)"
    )  # fmt: skip
    temperature: float = setting(0.8, "divides the logits; 0 always takes the likeliest token")
    top_k: int = setting(0, "choose among the K likeliest tokens; 0: all")
    top_p: float = setting(
        0.95, "choose among the likeliest tokens that together reach this probability"
    )
    min_p: float = setting(
        0.0, "choose among tokens at least this times as likely as the likeliest"
    )
    seed: int = setting(0, "the same seed, the same text")

    def check(self) -> None:
        """Refuse values that mean nothing."""
        for name, fits, what in (
            ("repetition_penalty", self.repetition_penalty > 0, "must be positive"),
            ("temperature", self.temperature >= 0, "must not be negative"),
            ("top_k", self.top_k >= 0, "must not be negative (0 means all)"),
            ("top_p", 0 < self.top_p <= 1, "must be above 0 and at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "must lie between 0 and 1"),
            ("seed", self.seed >= 0, "must not be negative"),
        ):
            value = getattr(self, name)
            if not fits or not math.isfinite(value):
                raise Problem(f"--{name.replace('_', '-')} is {value}; it {what}")


GREEDY = Sampling(temperature=0.0)


class Choice(NamedTuple):
    """The same for each sequence of a batch, as arrays [B] of a program.

    Attributes:
        drawn: how many tokens the sequence has drawn before.
    """

    penalty: np.ndarray
    temperature: np.ndarray
    top_k: np.ndarray
    top_p: np.ndarray
    min_p: np.ndarray
    seed: np.ndarray
    drawn: np.ndarray

    @staticmethod
    def of(ways: Sequence[Sampling], drawn: Sequence[int]) -> Choice:
        """From a setting, and the number of tokens that were drawn, of each sequence."""

        def column(name: str, dtype: type) -> np.ndarray:
            return np.array([getattr(how, name) for how in ways], dtype)

        return Choice(
            column("repetition_penalty", np.float32),
            column("temperature", np.float32),
            column("top_k", np.int32),
            column("top_p", np.float32),
            column("min_p", np.float32),
            np.array([how.seed % 2**63 for how in ways], np.int64),
            np.array(drawn, np.int64),
        )


def choose(logits: ln.Tensor, seen: ln.Tensor, how: Choice) -> tuple[ln.Tensor, ln.Tensor]:
    """Draw a token for each sequence.

    Args:
        logits: floats [B, V].
        seen: whether a token is in the text so far, bool [B, V].
        how: each sequence's way.

    Returns:
        Tokens [B], and their log-probabilities [B] by the model itself: at temperature 1, with
        nothing left out.
    """
    logits = ln.astype(logits, ln.float32, copy=False)
    penalized = penalize(logits, seen, how)
    if ln.any(ln.asarray(how.temperature) > 0):
        token = draw(probabilities(penalized, how), uniform(how))
    else:
        token = ln.argmax(penalized, axis=-1)
    at = ln.expand_dims(token, axis=1)
    chosen = ln.take_along_axis(logits, at, axis=1)[:, 0]
    return token, chosen - ln.logsumexp(logits, axis=-1)


def penalize(logits: ln.Tensor, seen: ln.Tensor, how: Choice) -> ln.Tensor:
    """The logits, those of tokens in the text made smaller."""
    penalty = ln.expand_dims(ln.asarray(how.penalty), axis=1)
    return ln.where(seen, ln.where(logits > 0, logits / penalty, logits * penalty), logits)


def probabilities(logits: ln.Tensor, how: Choice) -> ln.Tensor:
    """What the tokens [B, V] are drawn with: one of them has all at temperature 0. The likeliest k
    are taken first, of these the share of p, and of these what min-p allows."""
    greedy = ln.asarray(how.temperature) == 0  # [B]
    divisor = ln.where(greedy, 1.0, ln.asarray(how.temperature))
    x = logits / ln.expand_dims(divisor, axis=1)
    x = x - ln.max(x, axis=1, keepdims=True)
    weights = ln.exp(x)
    least = ln.min(x, axis=1)  # [B]
    if ln.any(ln.asarray(how.top_k) > 0):
        few = ln.where(ln.asarray(how.top_k) > 0, how.top_k, logits.shape[1])
        least = threshold(x, ln.ones_like(x), ln.astype(few, ln.float32))
    if ln.any(ln.asarray(how.top_p) < 1):
        left = ln.where(x >= ln.expand_dims(least, axis=1), weights, 0.0)
        mass = ln.sum(left, axis=1) * how.top_p
        most = threshold(x, left, mass)
        least = ln.where(ln.asarray(how.top_p) < 1, ln.maximum(least, most), least)
    least = ln.maximum(least, ln.log(ln.maximum(how.min_p, 1e-38)))
    weights = ln.where(x >= ln.expand_dims(least, axis=1), weights, 0.0)
    best = ln.expand_dims(ln.argmax(x, axis=1), axis=1)  # [B, 1]
    alone = ln.astype(ln.arange(x.shape[1]) == best, ln.float32)
    weights = ln.where(ln.expand_dims(greedy, axis=1), alone, weights)
    return weights / ln.sum(weights, axis=1, keepdims=True)


def threshold(x: ln.Tensor, weights: ln.Tensor, enough: ln.Tensor) -> ln.Tensor:
    """The largest number such that tokens that are not below it weigh enough together, [B].

    Args:
        x: what is compared, at most 0, [B, V].
        weights: of the tokens, [B, V].
        enough: of their sum, [B].
    """

    def halve(_: ln.Tensor, ends: tuple[ln.Tensor, ln.Tensor]) -> tuple[ln.Tensor, ln.Tensor]:
        low, high = ends
        middle = (low + high) / 2
        over = ln.sum(ln.where(x >= ln.expand_dims(middle, axis=1), weights, 0.0), axis=1) >= enough
        return ln.where(over, middle, low), ln.where(over, high, middle)

    low = ln.maximum(ln.min(x, axis=1), -1e4)
    return ln.fori_loop(0, HALVINGS, halve, (low, ln.ones_like(low)))[0]


def uniform(how: Choice, series: int = 0) -> ln.Tensor:
    """A number of [0, 1) for each sequence, from its seed and how many it has drawn; each series of
    them is independent of the others."""

    def one(seed: ln.Tensor, drawn: ln.Tensor) -> ln.Tensor:
        key = ln.random.fold_in(ln.random.key(seed), drawn)
        return ln.random.uniform(ln.random.fold_in(key, series) if series else key)

    return ln.vmap(one)(ln.asarray(how.seed), ln.asarray(how.drawn))


def draw(weights: ln.Tensor, u: ln.Tensor) -> ln.Tensor:
    """The token [B] at which the running sum of weights [B, V] reaches 1 - u of all of it.

    That is above zero, so a token of weight zero is never the first to reach it.
    """
    sums = ln.cumulative_sum(weights, axis=1)
    aim = (1 - u) * sums[:, -1]
    return ln.argmax(sums >= ln.expand_dims(aim, axis=1), axis=1)
