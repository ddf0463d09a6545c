"""From text files to training batches (section 3.1: curate, deduplicate, split; section 3.2: pack
and mask).

A *document* is one file. Documents are encoded between a begin and an end token, joined into one
stream in an order drawn anew each epoch, and cut into windows. A window may hold parts of several
documents: it carries their numbers, so that attention stays within a document and no document has
to predict the next.

The position in the data is one integer, the number of sequences drawn so far: sequence n is a
function of the key and n alone, which is what lets a resumed run go on with the very next one.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import lantern as ln
from examples.llama3.files import Problem
from examples.llama3.tokenizer import Tokenizer

# Not the library's own prose: its tests, what others installed, and tables of characters or help
# texts.
SKIPPED = {
    "__pycache__", "dist-packages", "encodings", "entities.py", "idle_test", "pydoc_data",
    "site-packages", "test", "tests",
}  # fmt: skip
NO_TARGET = -1  # a position whose next token is not to be predicted


class Document(NamedTuple):
    """A text and where it comes from."""

    name: str
    text: str


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


def standard_library() -> list[Path]:
    """The Python files of this interpreter's standard library, in a fixed order."""
    root = Path(sysconfig.get_path("stdlib"))
    inside = (p.relative_to(root) for p in root.rglob("*.py"))
    return [root / p for p in sorted(inside) if not SKIPPED.intersection(p.parts)]


def read_documents(files: Sequence[str]) -> list[Document]:
    """Read the files a person named, or the standard library if none.

    Raises:
        Problem: a named file is missing, empty or not UTF-8; or nothing was found.
    """
    if files:
        return [read(Path(f)) for f in files]
    found = []
    for path in standard_library():
        try:
            found.append(read(path))
        except Problem:
            continue  # an empty __init__.py, a file in an older encoding
    if not found:
        raise Problem(
            f"no standard library source in {sysconfig.get_path('stdlib')}: name files with --data"
        )
    return found


def read(path: Path) -> Document:
    """Read one document.

    Raises:
        Problem: it is missing, empty or not UTF-8.
    """
    try:
        raw = path.read_bytes()
    except OSError as problem:
        raise Problem(f"cannot read the data file {path}: {problem.strerror}") from None
    if not raw.strip():
        raise Problem(f"the data file {path} is empty ({len(raw)} bytes of white space or nothing)")
    try:
        return Document(str(path), raw.decode("utf-8"))
    except UnicodeDecodeError as problem:
        raise Problem(
            f"the data file {path} is not UTF-8 text: byte 0x{raw[problem.start]:02x} at offset "
            f"{problem.start} ({problem.reason}). Convert it, or name other files with --data"
        ) from None


def split(
    documents: Sequence[Document], fraction: float, seed: int
) -> tuple[list[Document], list[Document]]:
    """Divide into training and validation documents, no document in both.

    Documents are drawn by the seed until they hold ``fraction`` of all characters. A single
    document is cut in two at a line end instead: the last ``fraction`` of it validates.
    """
    if len(documents) == 1:
        name, text = documents[0]
        cut = text.rfind("\n", 0, max(1, int(len(text) * (1 - fraction)))) + 1
        cut = cut or int(len(text) * (1 - fraction))
        return [Document(name, text[:cut])], [Document(f"{name} (end)", text[cut:])]
    wanted = fraction * sum(len(d.text) for d in documents)
    held_out: set[int] = set()
    size = 0
    for i in np.random.default_rng(seed).permutation(len(documents)):
        # A document that would make the split far too large is left to training.
        if (held_out and size >= wanted) or len(held_out) == len(documents) - 1:
            break
        if size + len(documents[i].text) <= 2 * wanted or not held_out:
            held_out.add(int(i))
            size += len(documents[i].text)
    train = [d for i, d in enumerate(documents) if i not in held_out]
    return train, [d for i, d in enumerate(documents) if i in held_out]


@dataclass(frozen=True)
class Corpus:
    """Encoded documents, end to end.

    Attributes:
        tokens: int32 [tokens].
        starts: where each document begins, and the end of the last; int64 [documents + 1].
        name: of the split, for messages.
    """

    tokens: np.ndarray
    starts: np.ndarray
    name: str

    @staticmethod
    def encode(documents: Sequence[Document], tokenizer: Tokenizer, name: str) -> Corpus:
        """Encode each document between the tokens that begin and end a text."""
        parts = [
            np.array([tokenizer.bos, *tokens, tokenizer.eos], np.int32)
            for tokens in tokenizer.encode_all([d.text for d in documents])
        ]
        starts = np.cumsum([0] + [len(p) for p in parts])
        return Corpus(np.concatenate(parts) if parts else np.empty(0, np.int32), starts, name)

    @property
    def documents(self) -> int:
        return len(self.starts) - 1

    def fingerprint(self) -> str:
        """A hash of the tokens and their division into documents."""
        digest = hashlib.sha256(self.tokens.tobytes())
        digest.update(self.starts.tobytes())
        return digest.hexdigest()

    def reordered(self, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The tokens and document numbers of the documents in another order."""
        bounds = [(self.starts[i], self.starts[i + 1]) for i in order]
        tokens = np.concatenate([self.tokens[a:b] for a, b in bounds])
        return tokens, np.repeat(np.arange(len(order)), [b - a for a, b in bounds])


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
        start = int(self._starts[n])
        return (
            self._tokens[start : start + self.context + 1],
            self._segments[start : start + self.context + 1],
        )

    def _arrange(self, epoch: int) -> None:
        """Draw an epoch's order: of the documents in the stream, and of the windows cut from it."""
        order, windows = np.arange(self.corpus.documents), np.arange(self.per_epoch)
        if self.key is not None:
            keys = ln.random.split(ln.random.fold_in(self.key, epoch))
            order = np.asarray(ln.random.permutation(keys[0], len(order)))
            windows = np.asarray(ln.random.permutation(keys[1], len(windows)))
        self._tokens, self._segments = self.corpus.reordered(order)
        self._starts = windows * self.context
        self._epoch = epoch
