"""Writing faster with a small model that guesses what a large one writes, and nothing is lost.

Reading a few tokens takes the large model, the target, as long as reading one: what it reads from
memory is its weights. So a smaller model, the draft, writes a few tokens ahead, and the target
reads them all in one pass, and judges each (Leviathan, Kalman and Matias, 2023; Chen et al., 2023).
Of a token that the draft chose with probability q, and the target with p, min(1, p / q) is kept; at
the first that is not, one is drawn from what p has more than q, max(0, p - q). What is written then
follows p exactly, whatever the draft. At temperature 0 that is the target's greedy text.

Letters: K tokens of a draft, V tokens in the vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import lantern as ln
from examples.llama3 import weights
from examples.llama3.config import ModelConfig
from examples.llama3.decode import Decoder, State, Written, chunks
from examples.llama3.files import Problem
from examples.llama3.generate import Writer, common
from examples.llama3.model import Params, output, stream
from examples.llama3.quantise import linear, quantised
from examples.llama3.sampling import Choice, Sampling, draw, penalize, probabilities, uniform
from examples.llama3.weights import Loaded

AHEAD = 4  # tokens of a draft
# Series of random numbers beside that of plain sampling: each position has its own of each.
GUESS, JUDGE, INSTEAD = 1, 2, 3


def judge(
    p: ln.Tensor, q: ln.Tensor, drafts: ln.Tensor, u: ln.Tensor, instead: ln.Tensor
) -> tuple[ln.Tensor, ln.Tensor]:
    """Keep the beginning of a draft.

    Args:
        p: the target's probabilities at each position, and after the last [K + 1, V].
        q: the draft's [K, V].
        drafts: what it chose [K].
        u: uniform numbers of [0, 1), to keep a token by [K].
        instead: others, to draw the token by that follows [K + 1].

    Returns:
        How many tokens are kept, and the token after them.
    """
    at = ln.arange(drafts.shape[0])
    kept = u * q[at, drafts] < p[at, drafts]
    count = ln.argmax(ln.concat([~kept, ln.ones(1, dtype=ln.bool)]))  # the first that is not
    more = ln.maximum(p - ln.concat([q, ln.zeros((1, q.shape[1]))]), 0.0)[count]
    # Rounding may leave nothing where p and q are the same.
    more = ln.where(ln.sum(more) > 0, more, p[count])
    return count, draw(more[None], instead[count][None])[0]


@functools.cache
def proposer(config: ModelConfig, size: int, capacity: int) -> Any:
    """The compiled program that lets a draft read a token and guess the next, one being the size of
    what it reads, for a capacity of its memory."""

    @functools.partial(ln.compile, donate="state")
    def propose(
        params: Params, state: State, tokens: ln.Tensor, *how: Any
    ) -> tuple[State, ln.Tensor, ln.Tensor]:
        """Read a token [1, 1]; the next [1], and the probabilities [1, V] that it is drawn with."""
        x, cache = stream(params, tokens, config, state.cache)
        logits = ln.astype(linear(x[:, 0], output(params, config)), ln.float32, copy=False)
        seen = state.seen.at[0, tokens[0]].set(True)
        choice = Choice(*how)
        q = probabilities(penalize(logits, seen, choice), choice)
        return State(cache, seen), draw(q, uniform(choice, GUESS)), q

    return propose


@functools.cache
def verifier(config: ModelConfig, size: int, capacity: int) -> Any:
    """The compiled program that lets the target judge a draft, for its size, the token before it
    included, and a capacity of the memory."""
    row, column = np.tril_indices(size)

    @functools.partial(ln.compile, donate="state")
    def verify(
        params: Params, state: State, tokens: ln.Tensor, q: Sequence[ln.Tensor], *how: Any
    ) -> tuple[State, ln.Tensor, ln.Tensor, ln.Tensor]:
        """Read the last token and a draft [K + 1], drawn with probabilities q: K times [1, V].

        Returns:
            The state with what is kept, how many tokens of the draft that are, and these with the
            one after them, and their log-probabilities, at the front of [K + 1].
        """
        x, cache = stream(params, tokens[None], config, state.cache)
        logits = ln.astype(linear(x[0], output(params, config)), ln.float32, copy=False)
        # What is in the text differs from position to position.
        seen = ln.broadcast_to(state.seen, logits.shape).at[row, tokens[column]].set(True)
        columns: list[Any] = [ln.broadcast_to(ln.asarray(x), (size,)) for x in how]
        each = Choice(*columns)._replace(drawn=columns[-1] + ln.arange(size))
        p = probabilities(penalize(logits, seen, each), each)
        drafts = tokens[1:]
        count, token = judge(
            p, ln.concat(list(q)), drafts, uniform(each, JUDGE)[:-1], uniform(each, INSTEAD)
        )
        written = ln.where(ln.arange(size) < count, ln.concat([drafts, drafts[:1]]), token)
        chosen = ln.take_along_axis(logits, written[:, None], axis=1)[:, 0]
        cache = cache._replace(lengths=state.cache.lengths + 1 + count)
        logprobs = chosen - ln.logsumexp(logits, axis=1)
        return State(cache, seen[count][None]), count, written, logprobs

    return verify


class Speculator(Writer):
    """Writes what a `Writer` of the target would, with fewer passes of it.

    Args:
        params, config: of the target.
        draft: the parameters and shape of a model with the same vocabulary.
        ahead: tokens that it guesses at a time.
        halted, cache_bits: as for a `Writer`.

    Attributes:
        passes: how often the target has judged.
        guessed: how many tokens it was shown.
        kept: how many of these it has kept.
    """

    def __init__(
        self, params: Params, config: ModelConfig, draft: tuple[Params, ModelConfig],
        ahead: int = AHEAD, halted: Callable[[], bool] = lambda: False, cache_bits: int = 32,
    ) -> None:  # fmt: skip
        super().__init__(params, config, halted, cache_bits)
        if ahead < 1:
            raise Problem(f"a draft of {ahead} tokens: it needs at least one")
        if draft[1].vocab != config.vocab:
            raise Problem(
                f"the draft knows {draft[1].vocab:,} tokens and the model {config.vocab:,}: they "
                "must have the same vocabulary"
            )
        self.draft, self.ahead = Decoder(*draft, cache_bits=cache_bits), ahead
        self.passes = self.guessed = self.kept = 0

    def rewind(self, text: Sequence[int]) -> None:
        super().rewind(text)
        self.draft.rewind(0, common(self.draft.texts[0], text))

    def read(self, text: Sequence[int], how: Sampling, drawn: int) -> list[Written]:
        """Read what is new of a text, and choose the tokens after it; none when halted."""
        if len(text) + self.ahead > self.context:  # no room for a draft: token by token
            return super().read(text, how, drawn)
        for decoder in (self.decoder, self.draft):
            if not self.absorb(decoder, text):
                return []
        tokens, q = self.guess(text, how, drawn)
        decoder, size = self.decoder, self.ahead + 1
        decoder.reserve(len(text) + self.ahead)
        verify = decoder.program(verifier, size)
        decoder.state, count, *found = verify(
            decoder.state, np.array(tokens), q, *Choice.of([how], [drawn])
        )
        count = int(count)
        decoder.texts[0].extend(tokens[: count + 1])
        if count < self.ahead:  # of the last token of a draft the draft knows nothing yet
            self.draft.rewind(0, len(text) + count)
        self.passes, self.guessed, self.kept = (
            self.passes + 1, self.guessed + self.ahead, self.kept + count
        )  # fmt: skip
        written = zip(*(x.tolist()[: count + 1] for x in found), strict=True)
        return [Written(*one) for one in written]

    def absorb(self, decoder: Decoder, text: Sequence[int]) -> bool:
        """Let one of the two read what is new of a text, but not its last token; False when
        halted."""
        for chunk in chunks(text[len(decoder.texts[0]) : -1]):
            if self.halted():
                return False
            decoder.absorb(0, chunk)
        return True

    def guess(
        self, text: Sequence[int], how: Sampling, drawn: int
    ) -> tuple[list[int], list[ln.Tensor]]:
        """The last token of a text with what the draft guesses to follow it, and the probabilities
        that each guess was drawn with."""
        decoder = self.draft
        decoder.reserve(len(text) + self.ahead)
        propose = decoder.program(proposer, 1)
        tokens, q = [text[-1]], []
        for i in range(self.ahead):
            decoder.state, token, weights = propose(
                decoder.state, np.array([tokens[-1:]]), *Choice.of([how], [drawn + i])
            )
            decoder.texts[0].append(tokens[-1])
            tokens.append(int(token[0]))
            q.append(weights)
        return tokens, q

    def __str__(self) -> str:
        """How well the draft guesses."""
        if not self.passes:
            return "no token was drafted"
        return (
            f"{self.kept / self.guessed:.0%} of {self.guessed:,} guesses kept, "
            f"{1 + self.kept / self.passes:.2f} tokens a pass of the model"
        )


# Drafts -------------------------------------------------------------------------------------------

OWN = re.compile(r"(\d+)(bit|layers)")


def draft_of(model: Loaded, what: str) -> tuple[Params, ModelConfig]:
    """A draft for a model.

    Args:
        model: the target.
        what: "4bit" or "8bit": the same model with such weights; "10layers": its first ten layers;
            otherwise the path of another model with the same vocabulary.

    Raises:
        Problem: there is no such draft.
    """
    if found := OWN.fullmatch(what):
        number, kind = int(found[1]), found[2]
        if kind == "bit":
            return quantised(model.params, number, offsets=True), model.config
        if not 1 <= number < model.config.layers:
            raise Problem(f"a draft of {number} layers: the model has {model.config.layers}")
        params = {**model.params, "layers": model.params["layers"][:number]}
        return params, dataclasses.replace(model.config, layers=number)
    other = weights.load(Path(what))
    if other.tokenizer.pieces != model.tokenizer.pieces:
        raise Problem(f"{what} has another vocabulary than the model that it shall draft for")
    return other.params, other.config
