"""A model that reads and writes: three kinds of compiled program, and what they have in hand.

One program reads a chunk of a prompt, or the token that was written last, and chooses the next
token: so a token costs one call (section 6.1). Another writes several tokens, one after another, as
a call may take as long as a small model does. There is one for each length of chunk and capacity
of the memory, made when it is first needed, and found on disk by later processes. The memory is
donated: each call hands it on.

Letters: B sequences, T tokens of a chunk, V tokens in the vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

import lantern as ln
from examples.llama3 import cache as caches
from examples.llama3.cache import Cache
from examples.llama3.config import ModelConfig
from examples.llama3.model import Params, output, stream
from examples.llama3.quantise import linear
from examples.llama3.sampling import Choice, Sampling, choose

CHUNKS = (1, 16, 64, 128)  # sizes of chunks
SINGLY = 8  # tokens that are read one by one where each costs the same; half of the break-even


class State(NamedTuple):
    """What a batch is in the middle of.

    Attributes:
        cache: keys and values of the text so far.
        seen: whether a token is in that text, bool [B, V].
    """

    cache: Cache
    seen: ln.Tensor


class Written(NamedTuple):
    """A token that was chosen.

    Attributes:
        token: which.
        logprob: the logarithm of its probability by the model, whatever the sampling.
    """

    token: int
    logprob: float


@functools.cache
def reader(config: ModelConfig, size: int, capacity: int) -> Any:
    """The compiled program of a model, for a size of chunk and a capacity of the memory."""

    @functools.partial(ln.compile, donate="state")
    def read(
        params: Params, state: State, tokens: ln.Tensor, counts: ln.Tensor, *how: Any
    ) -> tuple[State, ln.Tensor, ln.Tensor]:
        """Read tokens [B, T], of which the first counts [B] are meant, and choose the next [B].

        What stands behind a sequence's count is written to the memory, too, behind its length,
        where nothing looks before it is written over.
        """
        return advanced(params, config, state, tokens, counts, Choice(*how))

    return read


def advanced(
    params: Params, config: ModelConfig, state: State, tokens: ln.Tensor, counts: Any, how: Choice
) -> tuple[State, ln.Tensor, ln.Tensor]:
    """What `reader` and `writer` do: read tokens [B, T], and choose the next [B]."""
    cache, seen = state
    x, further = stream(params, tokens, config, cache)  # [B, T, D]
    sequence = ln.arange(x.shape[0])
    last = x[sequence, ln.maximum(counts - 1, 0)]  # [B, D]
    logits = linear(last, output(params, config))  # [B, V]
    seen = seen.at[ln.expand_dims(sequence, axis=1), tokens].set(True)
    token, logprob = choose(logits, seen, how)
    return State(further._replace(lengths=cache.lengths + counts), seen), token, logprob


@functools.cache
def writer(config: ModelConfig, size: int, capacity: int) -> Any:
    """The compiled program that writes some tokens, for their number and a capacity of the
    memory: between two of them there is nothing of Python."""

    @functools.partial(ln.compile, donate="state")
    def write(
        params: Params, state: State, token: ln.Tensor, *how: Any
    ) -> tuple[State, ln.Tensor, ln.Tensor]:
        """Read tokens [B], and choose the next N of each sequence, [N, B]."""
        chosen = Choice(*how)

        def step(carry: Any, number: ln.Tensor) -> tuple[Any, Any]:
            state, token = carry
            each = chosen._replace(drawn=chosen.drawn + number)
            read = ln.expand_dims(token, axis=1), ln.ones_like(token)
            state, token, logprob = advanced(params, config, state, *read, each)
            return (state, token), (token, logprob)

        (state, _), (tokens, logprobs) = ln.scan(step, (state, token), ln.arange(size))
        return state, tokens, logprobs

    return write


@functools.cache
def absorber(config: ModelConfig, size: int, capacity: int) -> Any:
    """The compiled program that lets one sequence of a batch read, and chooses nothing: it leaves
    out the scores of all tokens."""

    @functools.partial(ln.compile, donate="state")
    def absorb(params: Params, state: State, sequence: Any, tokens: ln.Tensor, count: Any) -> State:
        """Read tokens [T], of which the first ``count`` are meant, into a sequence."""
        (layers, lengths), seen = state
        own = ln.tree.map(lambda x: x[sequence][None], layers)
        past = Cache(own, lengths[sequence][None])
        _, further = stream(params, tokens[None], config, past)
        layers = ln.tree.map(lambda x, y: x.at[sequence].set(y[0]), layers, further.layers)
        lengths = lengths.at[sequence].set(lengths[sequence] + count)
        return State(Cache(layers, lengths), seen.at[sequence, tokens].set(True))

    return absorb


def chunks(tokens: Sequence[int]) -> Iterator[Sequence[int]]:
    """Tokens in parts that a program reads at once."""
    for start in range(0, len(tokens), CHUNKS[-1]):
        yield tokens[start : start + CHUNKS[-1]]


class Decoder:
    """A batch of sequences that read and write, each by itself.

    Args:
        params: of the model.
        config: their shape.
        batch: how many sequences.
        cache_bits: of keys and values that are kept, one of `cache.BITS`.

    Attributes:
        texts: for each sequence the tokens that are cached.
        narrow: whether matrices are kept in few bits.
    """

    def __init__(
        self, params: Params, config: ModelConfig, batch: int = 1, cache_bits: int = 32
    ) -> None:
        self.params, self.config, self.batch = params, config, batch
        dtype = params["norm"].dtype
        self.state = State(
            caches.empty(config, batch, caches.SMALLEST, dtype, cache_bits),
            ln.zeros((batch, config.vocab), dtype=ln.bool),
        )
        self.texts: list[list[int]] = [[] for _ in range(batch)]
        self.narrow = any(x.dtype in (ln.int8, ln.uint8) for x in ln.tree.leaves(params))
        self.programs: dict[tuple[Any, int, int], Any] = {}

    def parts(self, tokens: Sequence[int]) -> Iterator[Sequence[int]]:
        """Tokens of one sequence in the parts that are read soonest, one after the other.

        Products with weights in few bits take a time for each row, filling included, so a few
        tokens are read one by one. Floats are read once a call, which costs more than filling.
        """
        if len(tokens) <= SINGLY and self.narrow:
            return (tokens[i : i + 1] for i in range(len(tokens)))
        return chunks(tokens)

    def advance(
        self, chunks: Sequence[Sequence[int]], ways: Sequence[Sampling], drawn: Sequence[int]
    ) -> list[Written]:
        """Let each sequence read a chunk, which may be empty, and choose a token after it.

        Args:
            chunks: for each sequence tokens, at most the longest of `CHUNKS`.
            ways: for each how it chooses.
            drawn: for each how many tokens it has chosen before.
        """
        size = next(n for n in CHUNKS if n >= max(map(len, chunks)))
        self.reserve(max(map(len, self.texts)) + size)
        # What fills a chunk up is a token that the text has anyway, so that it is not penalized.
        tokens = np.array([
            [*chunk, *[(chunk or text or [0])[-1]] * (size - len(chunk))]
            for chunk, text in zip(chunks, self.texts, strict=True)
        ])  # fmt: skip
        counts = np.array([len(chunk) for chunk in chunks])
        read = self.program(reader, size)
        self.state, *chosen = read(self.state, tokens, counts, *Choice.of(ways, drawn))
        for text, chunk in zip(self.texts, chunks, strict=True):
            text.extend(chunk)
        return [Written(*one) for one in zip(*(x.tolist() for x in chosen), strict=True)]

    def write(
        self, tokens: Sequence[int], ways: Sequence[Sampling], drawn: Sequence[int], count: int
    ) -> list[list[Written]]:
        """Let each sequence read a token and write some, each of which it reads, but the last.

        Args:
            tokens: for each sequence one.
            ways, drawn: as for `advance`.
            count: how many tokens each writes.

        Returns:
            What each sequence has written.
        """
        self.reserve(max(map(len, self.texts)) + count)
        write = self.program(writer, count)
        self.state, *chosen = write(self.state, np.array(tokens), *Choice.of(ways, drawn))
        columns = zip(*(x.T.tolist() for x in chosen), strict=True)
        written = [list(map(Written, *column)) for column in columns]
        for text, token, found in zip(self.texts, tokens, written, strict=True):
            text += [token, *(one.token for one in found[:-1])]
        return written

    def absorb(self, sequence: int, chunk: Sequence[int]) -> None:
        """Let one sequence read a chunk, as `advance` would, and choose nothing."""
        size = next(n for n in CHUNKS if n >= len(chunk))
        self.reserve(max(map(len, self.texts)) + size)
        tokens = np.array([*chunk, *[chunk[-1]] * (size - len(chunk))])
        read = self.program(absorber, size)
        self.state = read(self.state, sequence, tokens, len(chunk))
        self.texts[sequence].extend(chunk)

    def program(self, kind: Any, size: int) -> Any:
        """A program of a kind, for chunks of a size, that reads with these parameters."""
        key = kind, size, self.state.cache.capacity
        if key not in self.programs:
            self.programs[key] = kind(self.config, *key[1:]).bind(self.params)
        return self.programs[key]

    def reserve(self, positions: int) -> None:
        """Make room for so many positions."""
        if positions > self.state.cache.capacity:
            cache = caches.grown(self.state.cache, caches.capacity_for(positions))
            self.state = self.state._replace(cache=cache)

    def rewind(self, sequence: int, length: int) -> None:
        """Forget what a sequence has read beyond a length."""
        cache, seen = self.state
        text = self.texts[sequence]
        del text[length:]
        known = np.zeros(self.config.vocab, np.bool_)
        known[text] = True
        self.state = State(
            cache._replace(lengths=cache.lengths.at[sequence].set(length)),
            seen.at[sequence].set(known),
        )
