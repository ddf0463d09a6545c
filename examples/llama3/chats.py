"""Chats to learn answers from (section 4.1.3: supervised fine-tuning, its loss on answers only).

A file of chats is JSON Lines, one chat in each line, as one can write by hand:

    {"messages": [{"role": "user", "content": "Hi!"}, {"role": "assistant", "content": "Hello."}]}

Roles and tool calls are those of `templates`. A chat has at least one message of the assistant; the
model learns every one of them, with the token that ends it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

import lantern as ln
from examples.llama3.data import NO_TARGET, Batch, Known
from examples.llama3.files import Problem
from examples.llama3.templates import Template
from examples.llama3.tokenizer import Tokenizer
from examples.llama3.tools import Message

LONGEST = 2**20  # bytes in a line
FORMAT = '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}'


class Chat(NamedTuple):
    """A chat, and the same as tokens, of which some are learned.

    Attributes:
        messages: as they stand in the file.
        tokens: int64 [n].
        learned: whether each is part of an answer; bool [n].
    """

    messages: list[Message]
    tokens: np.ndarray
    learned: np.ndarray

    @property
    def question(self) -> list[Message]:
        """What comes before the last answer."""
        return self.messages[: self._last]

    @property
    def answer(self) -> str:
        """The last answer."""
        return self.messages[self._last].get("content") or ""

    @property
    def _last(self) -> int:
        return max(i for i, m in enumerate(self.messages) if m["role"] == "assistant")


Reader = Callable[[bytes], Chat]


def reader(template: Template, tokenizer: Tokenizer) -> Reader:
    """What makes a chat of a line.

    It raises a `Problem` that says what is wrong with the line.
    """

    def read(line: bytes) -> Chat:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as problem:
            raise Problem(f"it is not JSON: {problem}") from None
        messages = found.get("messages") if isinstance(found, dict) else None
        if not isinstance(messages, list):
            raise Problem(f"it is no chat; expected {FORMAT}")
        tokens, learned = template.learned(messages, tokenizer)
        if not any(learned[1:]):
            raise Problem("no message of the assistant is in it to learn from")
        return Chat(messages, np.array(tokens, np.int64), np.array(learned))

    return read


def load(
    paths: Sequence[Path], read: Reader, skip: Callable[[str], object] | None = None
) -> list[Chat]:
    """The chats in files.

    Args:
        paths: JSON Lines; empty lines are passed over.
        read: makes a chat of a line.
        skip: what to tell of a bad line, which is then left out; None: a bad line is fatal.

    Raises:
        Problem: a file cannot be read, a line is bad, or nothing is left.
    """
    chats: list[Chat] = []
    for path in paths:
        try:
            with open(path, "rb") as file:
                for number, line in enumerate(lines(file), 1):
                    if not line.strip():
                        continue
                    try:
                        if len(line) > LONGEST:
                            raise Problem(f"it has more than {LONGEST:,} bytes")
                        chats.append(read(line))
                    except Problem as problem:
                        said = f"{path}, line {number}: {problem}"
                        if skip is None:
                            raise Problem(f"{said}. --skip-bad-lines leaves it out") from None
                        skip(said)
        except OSError as problem:
            raise Problem(f"cannot read the chats in {path}: {problem.strerror}") from None
    if not chats:
        raise Problem(f"no chats are in {', '.join(map(str, paths))}; expected lines like {FORMAT}")
    return chats


def lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file, of which no more than `LONGEST` bytes and one are kept."""
    while line := file.readline(LONGEST + 1):
        rest = line
        while len(rest) > LONGEST and not rest.endswith(b"\n"):
            rest = file.readline(LONGEST + 1)
        yield line


def fingerprint(chats: Sequence[Chat]) -> str:
    """A hash of what is learned."""
    found = hashlib.sha256()
    for chat in chats:
        found.update(np.int64(len(chat.tokens)).tobytes())
        found.update(chat.tokens.tobytes() + chat.learned.tobytes())
    return found.hexdigest()


def held_out(chats: Sequence[Chat], fraction: float, seed: int) -> tuple[list[Chat], list[Chat]]:
    """Chats to learn from, and the ``fraction`` of them, at least one, that is held out.

    Raises:
        Problem: there is only one.
    """
    if len(chats) < 2:
        raise Problem("one chat alone cannot be learned from and held out, too; give more")
    count = min(max(1, round(fraction * len(chats))), len(chats) - 1)
    order = np.random.default_rng(seed).permutation(len(chats))
    return [chats[i] for i in order[count:]], [chats[i] for i in order[:count]]


class Rows:
    """Chats packed into rows of equal length, in which attention keeps them apart: an endless
    sequence, of which row n is a function of n and the key alone, as in `data.Windows`.

    The longest chats come first, and each goes into the fullest row that has room for it.

    Args:
        chats: what to pack; of a chat longer than a row, the beginning.
        width: tokens in a row.
        key: the random key of the order, drawn anew each epoch; None keeps it.

    Attributes:
        rows: for each row the chats in it.
        cut: how many chats are longer than a row.

    Raises:
        Problem: no answer begins within a row's length.
    """

    def __init__(self, chats: Sequence[Chat], width: int, key: Any) -> None:
        self.width, self.key, self._epoch = width, key, -1
        self.cut = sum(len(c.tokens) > width + 1 for c in chats)
        # The last token of a chat is only a target, so one more than the width has a place.
        short = [Chat(c.messages, c.tokens[: width + 1], c.learned[: width + 1]) for c in chats]
        useful = sorted((c for c in short if c.learned[1:].any()), key=lambda c: -len(c.tokens))
        if not useful:
            raise Problem(f"no answer begins within {width} tokens, the --row: it is too short")
        self.rows: list[list[Chat]] = []
        room: dict[int, list[int]] = {}  # rows, by the places that they have left
        for chat in useful:
            size = len(chat.tokens) - 1
            left = min((n for n, rows in room.items() if n >= size and rows), default=None)
            if left is None:
                row, left = len(self.rows), width
                self.rows.append([])
            else:
                row = room[left].pop()
            self.rows[row].append(chat)
            room.setdefault(left - size, []).append(row)

    def batch(self, position: int, size: int) -> Batch:
        """Rows number ``position`` to ``position + size - 1``."""
        rows = [self.filled(self._row(n)) for n in range(position, position + size)]
        return Batch(*map(np.stack, zip(*rows, strict=True)))

    def first(self, count: int, size: int) -> list[Batch]:
        """The first rows, ``size`` in a batch; rows without targets fill the last one up."""
        count = min(count, len(self.rows))
        rows = [*self.rows[:count], *[[]] * (-count % size)]
        return [
            Batch(*map(np.stack, zip(*map(self.filled, rows[i : i + size]), strict=True)))
            for i in range(0, len(rows), size)
        ]

    def filled(self, chats: Sequence[Chat]) -> Batch:
        """Tokens, targets and the number of the chat at each place of a row; each [width]."""
        row = Batch(
            np.zeros(self.width, np.int64), np.full(self.width, NO_TARGET),
            np.full(self.width, len(chats)),
        )  # fmt: skip
        start = 0
        for number, chat in enumerate(chats):
            place = slice(start, start := start + len(chat.tokens) - 1)
            row.tokens[place], row.segments[place] = chat.tokens[:-1], number
            row.targets[place] = np.where(chat.learned[1:], chat.tokens[1:], NO_TARGET)
        return row

    def _row(self, n: int) -> list[Chat]:
        epoch, n = divmod(n, len(self.rows))
        if self.key is None:
            return self.rows[n]
        if epoch != self._epoch:
            order = ln.random.permutation(ln.random.fold_in(self.key, epoch), len(self.rows))
            self._order, self._epoch = np.asarray(order), epoch
        return self.rows[self._order[n]]


class Chats(Known):
    """The chats of a run.

    Args:
        chats: all of them.
        tokenizer: what the tokens are.
        fraction: how many are held out.
        seed: of the choice.
        base: a hash of the model that learns.

    Attributes:
        train, valid: to learn from, and held out.
    """

    def __init__(
        self, chats: Sequence[Chat], tokenizer: Tokenizer, fraction: float, seed: int, base: str
    ) -> None:
        self.train, self.valid = held_out(chats, fraction, seed)
        self.tokenizer = tokenizer
        self._hashes = {
            "training": fingerprint(self.train), "validation": fingerprint(self.valid),
            "model": base,
        }  # fmt: skip

    @property
    def fingerprints(self) -> dict[str, str]:
        """A hash for each part, and of the model."""
        return self._hashes
