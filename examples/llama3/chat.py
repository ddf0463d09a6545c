"""A conversation with a model: what was said, what of it fits, and replies as they are written.

A chat is a list of messages, rendered anew for every reply (`templates`). Its tokens begin with
those of the reply before, so the keys and values that are cached stay valid, and a turn reads what
is new. When the context is full, the oldest exchanges are forgotten, and the rest is read again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from examples.llama3.files import Problem, write_atomically
from examples.llama3.generate import Writer, until
from examples.llama3.sampling import Sampling
from examples.llama3.tools import TAG, Tool, converse
from examples.llama3.weights import Loaded

REPLY = 1024  # tokens of a reply at most
FREED = 4  # a full context is freed up to this part of it, so that reading again is rare


class Chat:
    """A conversation.

    Args:
        model: who answers.
        how: how tokens are chosen.
        system: the system prompt; empty: the template's own, if it has one.
        tools: what the model may call.
        stops: strings that end a reply.
        limit: tokens of a reply at most.
        show: takes each piece of a reply as soon as it is written.
        note: takes remarks on the conversation: what is forgotten, what a tool answers.
        halted: asked before each token whether the reply is to end.
        cache_bits: of keys and values that are kept.

    Attributes:
        messages: what was said.
        written: how many tokens the model has written.

    Raises:
        Problem: the model has no chat template, or none for tools.
    """

    def __init__(
        self, model: Loaded, how: Sampling, system: str = "", tools: Sequence[Tool] = (),
        stops: Sequence[str] = (), limit: int = REPLY, *,
        show: Callable[[str], object], note: Callable[[str], object],
        halted: Callable[[], bool] = lambda: False, cache_bits: int = 32,
    ) -> None:  # fmt: skip
        how.check()
        self.model, self.how, self.tools, self.stops, self.limit = model, how, tools, stops, limit
        self.show, self.note, self.halted = show, note, halted
        self.template = model.template
        self.ends = self.template.stops(model.tokenizer)
        self.writer = Writer(model.params, model.config, halted, cache_bits)
        self.messages: list[dict[str, Any]] = []
        self.system = system
        self.written = 0
        self.tokens()  # tells of a template without tools now, not when all is loaded and said

    @property
    def system(self) -> str:
        """The system prompt; empty where there is none of one's own."""
        first = self.messages[:1]
        return first[0]["content"] if first and first[0]["role"] == "system" else ""

    @system.setter
    def system(self, text: str) -> None:
        said = self.messages[bool(self.system) :]
        self.messages = [*([{"role": "system", "content": text}] if text else []), *said]

    def reset(self) -> None:
        """Forget what was said, but for the system prompt."""
        self.messages = self.messages[: bool(self.system)]

    def say(self, text: str) -> None:
        """Take what the user says, and answer it, with the help of tools if there are any.

        A reply that is halted stays in the chat as far as it came.

        Raises:
            Problem: what is said has no room in the context; it is not kept.
        """
        self.messages.append({"role": "user", "content": text})
        if not self.tools:
            self.messages.append({"role": "assistant", "content": self.reply()})
            return
        # The model answers `self.messages`: what the context has no room for is no longer there.
        for message in converse(lambda _: self.reply(), self.messages, self.tools):
            self.messages.append(dict(message))
            if message["role"] == "ipython":
                self.note(message["content"])
            if self.halted():
                return

    def reply(self) -> str:
        """The model's next message, shown while it is written."""
        tokens: list[int] = []
        pieces: list[str] = []
        words = self.model.tokenizer
        for piece in until(words.stream(self.continued(tokens)), self.stops):
            self.show(piece)
            pieces.append(piece)
        called = tokens[:1] == [words.specials.get(TAG)]  # decoding leaves special tokens out
        return TAG * called + "".join(pieces)

    def continued(self, tokens: list[int]) -> Iterator[int]:
        """The tokens of a reply, which are also added to those that it begins with."""
        while len(tokens) < self.limit:
            text = self.fitting(len(tokens))
            before = len(tokens)
            room = min(self.limit, self.model.config.context - len(text)) - before
            if room < 1:
                self.note("the context is full: the reply ends here")
                return
            for written in self.writer.write(
                [*text, *tokens], self.how, room, self.ends, self.written
            ):
                self.written += 1
                tokens.append(written.token)
                yield written.token
            if len(tokens) < before + room:  # it came to its end
                return

    def fitting(self, used: int) -> list[int]:
        """The chat as tokens, without its oldest exchanges if there is no room for them.

        Args:
            used: how many tokens of the reply there are already.

        Raises:
            Problem: what the user said last has no room either; it is taken back.
        """
        context = self.model.config.context
        text = self.tokens()
        if len(text) + used < context:
            return text
        forgotten = 0
        while len(text) + used > context - context // FREED and self.forget():
            forgotten += 1
            text = self.tokens()
        if forgotten:
            what = f"{forgotten} exchanges are" if forgotten > 1 else "exchange is"
            self.note(f"the context is full: the oldest {what} forgotten")
        if len(text) >= context:
            self.messages.pop()
            raise Problem(
                f"this makes {len(text):,} tokens with what must stand before it; the model's "
                f"context has {context:,}"
            )
        return text

    def forget(self) -> bool:
        """Drop the oldest exchange, if it is not the last one; whether there was one to drop."""
        start = int(bool(self.system))
        asked = [i for i, m in enumerate(self.messages) if m["role"] == "user" and i > start]
        if asked:
            del self.messages[start : asked[0]]
        return bool(asked)

    def tokens(self) -> list[int]:
        """The chat, and the beginning of a reply."""
        return self.template.render(self.messages, self.model.tokenizer, self.tools)


def save(path: Path, messages: Sequence[dict[str, Any]]) -> None:
    """Add a chat to a file of chats, JSON Lines, as `finetune` reads them.

    Raises:
        Problem: the file is there and holds something else.
    """
    try:
        before = path.read_bytes() if path.exists() else b""
        for line in before.splitlines():
            if line.strip():
                json.loads(line)["messages"]
    except (ValueError, TypeError, LookupError, RecursionError):
        raise Problem(f"{path} holds something other than chats; choose another file") from None
    ended = before if before.endswith(b"\n") or not before else before + b"\n"
    line = json.dumps({"messages": list(messages)}, ensure_ascii=False) + "\n"
    write_atomically(path, lambda p: p.write_bytes(ended + line.encode("utf-8", "replace")))
