"""Writing on from a prompt, token by token."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from examples.llama3.config import ModelConfig
from examples.llama3.decode import Decoder, Written
from examples.llama3.model import Params, bytes_of
from examples.llama3.sampling import Sampling

AT_ONCE = 8  # tokens that a small model writes in one call
# Bytes of a model that is small: so many tokens then take less than a twentieth of a second, so
# that nobody sees that they come together, and a call would be a fifth of each. It depends on
# nothing that is measured, so that the same seed gives the same text.
SMALL = 64 << 20


class Writer:
    """One text at a time, of which what is read stays read.

    Args:
        params: of the model.
        config: their shape.
        halted: asked before each chunk and each token whether to stop.
        cache_bits: of keys and values that are kept.
    """

    def __init__(
        self, params: Params, config: ModelConfig, halted: Callable[[], bool] = lambda: False,
        cache_bits: int = 32,
    ) -> None:  # fmt: skip
        self.decoder = Decoder(params, config, cache_bits=cache_bits)
        self.context, self.halted = config.context, halted
        self.at_once = AT_ONCE if bytes_of(params) < SMALL else 1

    def write(
        self, text: Sequence[int], how: Sampling, count: int, stops: Collection[int] = (),
        drawn: int = 0,
    ) -> Iterator[Written]:  # fmt: skip
        """Continue a text. Of what the writer has read before, a common beginning is kept.

        The model knows no position beyond its context. When that is full, the first half of the
        text is forgotten: the rest is read again from position 0.

        Args:
            text: at least one token.
            how: how tokens are chosen.
            count: tokens to give at most.
            stops: tokens that end the text; they are not given.
            drawn: how many tokens were drawn before: the same seed goes on from there.
        """
        how.check()
        seen = list(text)[-self.context :]
        self.rewind(seen)
        last = drawn + count
        while drawn < last:
            if len(seen) > self.context:
                seen = seen[-max(1, self.context // 2) :]
                self.rewind(seen)
            found = self.read(seen, how, drawn)
            if not found:
                return
            for i, written in enumerate(found[: last - drawn]):
                # Of several tokens, those are not given that come after a halt.
                if written.token in stops or (i and self.halted()):
                    return
                yield written
                seen.append(written.token)
            drawn += len(found)

    def rewind(self, text: Sequence[int]) -> None:
        """Forget what is not the beginning of a text, and its last token, which has to be read for
        the next to be chosen."""
        self.decoder.rewind(0, min(common(self.decoder.texts[0], text), len(text) - 1))

    def read(self, text: Sequence[int], how: Sampling, drawn: int) -> list[Written]:
        """Read what is new of a text, and choose the token after it, or several; none if halted."""
        written: list[Written] = []
        new = text[len(self.decoder.texts[0]) :]
        if len(new) == 1 and len(text) + self.at_once - 1 <= self.context and self.at_once > 1:
            if self.halted():
                return []
            return self.decoder.write(new, [how], [drawn], self.at_once)[0]
        for chunk in self.decoder.parts(new):
            if self.halted():
                return []
            written = self.decoder.advance([chunk], [how], [drawn])
        return written


def common(x: Sequence[int], y: Sequence[int]) -> int:
    """How many tokens two texts have in common at their beginning."""
    differ = (i for i, (a, b) in enumerate(zip(x, y, strict=False)) if a != b)
    return next(differ, min(len(x), len(y)))


def until(pieces: Iterable[str], stops: Collection[str]) -> Iterator[str]:
    """Pieces of text up to the first of some strings, also where that lies in several pieces: what
    may be the beginning of one is held back until it is known not to be.

    Example:
        >>> list(until(["a b", " c", "d\\n", "\\ne"], ["cd\\n\\n", "xyz"]))
        ['a b', ' ', '', '']
    """
    held = ""
    for piece in pieces:
        held += piece
        if found := [at for stop in stops if (at := held.find(stop)) >= 0]:
            yield held[: min(found)]
            return
        begun = (n for stop in stops for n in range(1, len(stop)) if held.endswith(stop[:n]))
        sure = len(held) - max(begun, default=0)
        yield held[:sure]
        held = held[sure:]
    yield held
