"""Many requests at once: continuous batching (section 6.1 serves the model so).

Writing a token reads all weights, for one sequence as for sixteen. A server has a number of slots;
a request takes one as soon as it is free, and leaves it when it is done, whatever the others do.
Each step writes a token in every slot whose prompt is read. What is not yet read is read chunk by
chunk in between, so that who writes waits for a chunk, not for a prompt.

Requests do not see each other: sampling depends on the request's own seed and on how many tokens it
has drawn, attention stays within its own memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count

from examples.llama3 import decode
from examples.llama3.config import ModelConfig
from examples.llama3.decode import Decoder, Written
from examples.llama3.files import Problem
from examples.llama3.model import Params
from examples.llama3.sampling import GREEDY, Sampling
from examples.llama3.tokenizer import Tokenizer

CHUNK = 64  # tokens of a prompt that are read between two steps at most


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        prompt: tokens to continue.
        how: how the next are chosen.
        count: tokens to write at most.
        stops: tokens that end the text; they are not given.
        strings: strings that end the text; it is given up to there.
    """

    prompt: Sequence[int]
    how: Sampling = GREEDY
    count: int = 128
    stops: frozenset[int] = frozenset()
    strings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """What was written.

    Attributes:
        id: of the request.
        tokens: in order; where a string ended the text, those of the string are among them.
        logprobs: their log-probabilities by the model, whatever the sampling.
        text: what they say, up to a string that ended it.
        reason: why there are no more: "stop", "count" or "context".
    """

    id: int
    tokens: list[int]
    logprobs: list[float]
    text: str
    reason: str


@dataclass
class Slot:
    """A request that is being served.

    Attributes:
        unread: the tokens of its text that the model has not read.
        written: what was chosen so far.
        said: the bytes that it stands for.
    """

    id: int
    request: Request
    unread: list[int]
    written: list[Written] = field(default_factory=list)
    said: bytes = b""

    def take(self, one: Written, piece: bytes, room: int) -> Result | None:
        """Add a token to the text; the result, if it is the last.

        Args:
            one: what was chosen.
            piece: its bytes.
            room: positions that are left in the context.
        """
        request = self.request
        if one.token in request.stops:
            return self.result("stop")
        self.unread = [one.token]
        self.written.append(one)
        before = len(self.said)
        self.said += piece
        # A string that was not there before reaches into the new piece.
        found = [
            at
            for s in map(str.encode, request.strings)
            if (at := self.said.find(s, max(0, before - len(s) + 1))) >= 0
        ]
        if found:
            self.said = self.said[: min(found)]
            return self.result("stop")
        if len(self.written) == request.count:
            return self.result("count")
        return None if room else self.result("context")

    def result(self, reason: str) -> Result:
        """What was written, and why there is no more."""
        tokens, logprobs = [w.token for w in self.written], [w.logprob for w in self.written]
        return Result(self.id, tokens, logprobs, self.said.decode("utf-8", "replace"), reason)


class Server:
    """Serves requests, as many at a time as it has slots.

    Args:
        params: of the model.
        config: their shape.
        slots: how many.
        tokenizer: says what tokens mean; without it there is no text, and no string ends one.
        cache_bits: of keys and values that are kept.

    Attributes:
        waiting: the requests that have no slot yet, with their ids.
        slots: who has which, by its number.
    """

    def __init__(
        self, params: Params, config: ModelConfig, slots: int = 16,
        tokenizer: Tokenizer | None = None, cache_bits: int = 32,
    ) -> None:  # fmt: skip
        if slots < 1:
            raise Problem(f"a server with {slots} slots: it needs at least one")
        self.decoder, self.context = Decoder(params, config, slots, cache_bits), config.context
        self.pieces = tokenizer.pieces if tokenizer else []
        self.waiting: deque[tuple[int, Request]] = deque()
        self.slots: dict[int, Slot] = {}
        self.ids = count()

    def submit(self, request: Request) -> int:
        """Put a request into the queue; its id.

        Raises:
            Problem: it cannot be served.
        """
        request.how.check()
        if request.count < 1:
            raise Problem(f"a request for {request.count} tokens: expected at least 1")
        if not 1 <= len(request.prompt) <= self.context:
            raise Problem(
                f"a prompt of {len(request.prompt):,} tokens: expected at least 1, and at most the "
                f"{self.context:,} of the model's context"
            )
        if request.strings and not self.pieces:
            raise Problem("strings can end a text only where the server has a tokenizer")
        id = next(self.ids)
        self.waiting.append((id, request))
        return id

    @property
    def busy(self) -> bool:
        """Whether anything is left to do."""
        return bool(self.waiting or self.slots)

    def run(self, requests: Iterable[Request]) -> list[Result]:
        """Serve requests, and what was submitted before; the results of these, in order."""
        ids = [self.submit(request) for request in requests]
        found: dict[int, Result] = {}
        while self.busy:
            found |= {result.id: result for result in self.step()}
        return [found[id] for id in ids]

    def step(self) -> list[Result]:
        """Let every request in a slot go on; the results of those that are done.

        One chunk of a prompt is read, and more while fewer than half of the requests write: a token
        for few takes as long as one for many.
        """
        self.admit()
        while behind := [n for n, slot in self.slots.items() if len(slot.unread) > 1]:
            self.read(min(behind, key=lambda n: self.slots[n].id))
            if 2 * len(behind) <= len(self.slots):
                break
        return self.write()

    def admit(self) -> None:
        """Give free slots to those who wait."""
        for number in range(self.decoder.batch):
            if number not in self.slots and self.waiting:
                id, request = self.waiting.popleft()
                self.slots[number] = Slot(id, request, list(request.prompt))
                self.decoder.rewind(number, 0)

    def read(self, number: int) -> None:
        """Read a chunk of a slot's prompt, but not its last token, after which one is written."""
        unread = self.slots[number].unread
        sizes = [n for n in decode.CHUNKS if 1 < n <= CHUNK]
        size = max((n for n in sizes if n < len(unread)), default=sizes[0])  # filled, if any is
        chunk = unread[: min(size, len(unread) - 1)]
        self.decoder.absorb(number, chunk)
        del unread[: len(chunk)]

    def write(self) -> list[Result]:
        """Write a token in every slot whose prompt is read; the results of those that are done."""
        ready = {n: slot for n, slot in self.slots.items() if len(slot.unread) == 1}
        if not ready:
            return []
        chunks: list[list[int]] = [[] for _ in range(self.decoder.batch)]
        ways, drawn = [GREEDY] * len(chunks), [0] * len(chunks)
        for n, slot in ready.items():
            chunks[n], ways[n], drawn[n] = slot.unread, slot.request.how, len(slot.written)
        written = self.decoder.advance(chunks, ways, drawn)
        done: list[Result] = []
        for n, slot in ready.items():
            token = written[n].token
            piece = self.pieces[token] if token < len(self.pieces) else b""
            if result := slot.take(written[n], piece, self.context - len(self.decoder.texts[n])):
                done.append(result)
                del self.slots[n]
        return done
