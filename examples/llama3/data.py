"""From tokens to training batches (section 3.2: documents are packed, and masked from each other).

Documents are joined into one stream in an order drawn anew each epoch, and the stream is cut into
windows. A window may hold parts of several documents: it carries their numbers, so that attention
stays within a document and no document has to predict the next.

The position in the data is one integer, the number of sequences drawn so far: sequence n is a
function of the key and n alone, which is what lets a resumed run go on with the very next one. What
an epoch keeps in memory is its order, some bytes a document and a window; the tokens stay where
they are, in files larger than memory if need be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np

import lantern as ln
from examples.llama3.files import Problem
from examples.llama3.tokenizer import Tokenizer

NO_TARGET = -1  # a position whose next token is not to be predicted


class Batch(NamedTuple):
    """Sequences to learn from.

    Attributes:
        tokens: int64 [batch, context].
        targets: the next token at each position, or `NO_TARGET`; int64 [batch, context].
        segments: the number of the document each position belongs to; int64 [batch, context].
    """

    tokens: np.ndarray
    targets: np.ndarray
    segments: np.ndarray


class Source(Protocol):
    """An endless sequence of sequences."""

    def batch(self, position: int, size: int) -> Batch:
        """Sequences number ``position`` to ``position + size - 1``."""
        ...


class Known:
    """What is known of the data of a run.

    Attributes:
        tokenizer: what its tokens are.
    """

    tokenizer: Tokenizer

    @property
    def fingerprints(self) -> dict[str, str]:
        """A hash for each part."""
        raise NotImplementedError  # every kind of data has its own

    @cached_property
    def byte_lengths(self) -> np.ndarray:
        """The number of bytes behind each token."""
        return self.tokenizer.byte_lengths()


def bits_per_byte(nats: float, batches: Sequence[Batch], data: Known) -> float:
    """A sum of cross-entropies over the targets of batches, as bits a byte of their text."""
    targets = np.concatenate([b.targets[b.targets != NO_TARGET] for b in batches])
    return nats / math.log(2) / max(1, int(data.byte_lengths[targets].sum()))


@dataclass(frozen=True)
class Joined:
    """Arrays end to end, read as one.

    Attributes:
        parts: the arrays, each [n].
        ends: where each part ends in the whole; int64 [parts].
    """

    parts: tuple[np.ndarray, ...]
    ends: np.ndarray

    @staticmethod
    def of(parts: Sequence[np.ndarray]) -> Joined:
        """Join arrays."""
        return Joined(tuple(parts), np.cumsum([len(p) for p in parts], dtype=np.int64))

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, where: slice) -> np.ndarray:
        start, stop, _ = where.indices(len(self))
        found = []
        while start < stop:
            part = int(np.searchsorted(self.ends, start, "right"))
            begin = int(self.ends[part]) - len(self.parts[part])
            found.append(self.parts[part][start - begin : stop - begin])
            start = int(self.ends[part])
        return np.concatenate(found) if found else self.parts[0][:0]


@dataclass(frozen=True)
class Corpus:
    """Encoded documents, end to end.

    Attributes:
        tokens: integers [tokens].
        starts: where each document begins, and the end of the last; int64 [documents + 1].
        name: of the split, for messages.
        fingerprint: a hash of the tokens and their division into documents.
    """

    tokens: np.ndarray | Joined
    starts: np.ndarray
    name: str
    fingerprint: str = ""

    @property
    def documents(self) -> int:
        return len(self.starts) - 1


class Windows:
    """An endless sequence of windows over a corpus, each a function of its number and the key.

    Args:
        corpus: the encoded documents.
        context: tokens in a window.
        key: the random key of the order; None keeps the order of the corpus, for validation.

    Raises:
        Problem: the corpus does not fill one window.
    """

    def __init__(self, corpus: Corpus, context: int, key: Any) -> None:
        self.corpus, self.context, self.key = corpus, context, key
        # A window needs one token more than the context: the target of its last position.
        self.per_epoch = (len(corpus.tokens) - 1) // context
        if self.per_epoch < 1:
            raise Problem(
                f"too little {corpus.name} text: {corpus.documents} documents with "
                f"{len(corpus.tokens)} tokens, and one sequence of --context {context} takes "
                f"{context + 1}. Give more text, a smaller --context or another --valid-fraction"
            )
        self._epoch = -1

    def batch(self, position: int, size: int) -> Batch:
        """Sequences number ``position`` to ``position + size - 1``."""
        rows = [self.window(n) for n in range(position, position + size)]
        tokens, segments = (np.stack(part).astype(np.int64) for part in zip(*rows, strict=True))
        same = segments[:, 1:] == segments[:, :-1]
        return Batch(tokens[:, :-1], np.where(same, tokens[:, 1:], NO_TARGET), segments[:, :-1])

    def spread(self, count: int, size: int) -> list[Batch]:
        """``count`` sequences (or all, if fewer), evenly spread over an epoch, in batches."""
        chosen = np.unique(np.linspace(0, self.per_epoch - 1, count).astype(int))
        one_by_one = [self.batch(int(n), 1) for n in chosen]
        return [
            Batch(*map(np.concatenate, zip(*one_by_one[i : i + size], strict=True)))
            for i in range(0, len(chosen), size)
        ]

    def window(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and document numbers of sequence ``n``, each [context + 1]."""
        epoch, n = divmod(n, self.per_epoch)
        if epoch != self._epoch:
            self._arrange(epoch)
        start = int(self._windows[n]) * self.context
        stop = start + self.context + 1
        # The documents that the window cuts, by their place in the epoch's order.
        first = int(np.searchsorted(self._places, start, "right")) - 1
        last = int(np.searchsorted(self._places, stop, "left"))
        tokens, numbers = [], []
        for place in range(first, last):
            a, b = max(start, int(self._places[place])), min(stop, int(self._places[place + 1]))
            moved = int(self.corpus.starts[self._order[place]] - self._places[place])
            tokens.append(self.corpus.tokens[a + moved : b + moved])
            numbers.append(np.full(b - a, place))
        return np.concatenate(tokens), np.concatenate(numbers)

    def _arrange(self, epoch: int) -> None:
        """Draw an epoch's order: of the documents in the stream, and of the windows cut from it."""
        order, windows = np.arange(self.corpus.documents), np.arange(self.per_epoch)
        if self.key is not None:
            keys = ln.random.split(ln.random.fold_in(self.key, epoch))
            order = np.asarray(ln.random.permutation(keys[0], len(order)))
            windows = np.asarray(ln.random.permutation(keys[1], len(windows)))
        lengths = np.diff(self.corpus.starts)[order]
        # Where each document begins in the stream, and the end of the last; [documents + 1].
        self._places = np.concatenate([[0], np.cumsum(lengths)])
        self._order, self._windows, self._epoch = order, windows, epoch
