"""Files of tokens: text is encoded once, and mapped into memory from then on.

A *part* of the data, training or validation, is a folder's files ``PART-00000.tokens`` and so on,
its shards. A shard is

    a header    `HEADER` bytes: JSON, padded with spaces (`head -c 1024` shows it)
    tokens      uint16, or uint32 where the vocabulary is too large for that, little-endian
    zeros       up to a multiple of 8 bytes
    starts      where each of its documents begins, and the end of the last; int64

A shard is written under another name and moved to its own when complete, and its header holds a
hash of the rest of it: whatever is mapped is whole and was encoded by the tokenizer at hand.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, get_type_hints

import numpy as np
from rich.console import Console

from examples.display import Display
from examples.llama3.data import Corpus, Joined
from examples.llama3.documents import BLOCK, Documents, Piece
from examples.llama3.files import Problem, write_atomically
from examples.llama3.tokenizer import Tokenizer

HEADER = 1024
FORMAT = "lantern tokens 1"
SHARD = 2**26  # tokens; a shard ends with the document that reaches them
TOGETHER = 2**22  # characters that are encoded at once


@dataclass(frozen=True)
class Header:
    """What a shard says about itself.

    Attributes:
        format: `FORMAT`.
        part: which part of the data it belongs to.
        shard: its number in the part.
        last: whether it is the part's last one.
        dtype: of its tokens.
        tokens, documents: how many there are.
        text: the fingerprint of the documents of the whole part.
        tokenizer: the tokenizer's.
        sha256: of the header with this field empty, and of what follows it.
    """

    format: str
    part: str
    shard: int
    last: bool
    dtype: str
    tokens: int
    documents: int
    text: str
    tokenizer: str
    sha256: str

    @property
    def end_of_tokens(self) -> int:
        """Where the tokens end, and with the zeros."""
        return HEADER + self.tokens * np.dtype(self.dtype).itemsize

    @property
    def size(self) -> int:
        """Of the file."""
        return rounded(self.end_of_tokens) + 8 * (self.documents + 1)

    def block(self) -> bytes:
        """As the file has it."""
        return json.dumps(dataclasses.asdict(self)).encode().ljust(HEADER)

    @staticmethod
    def parse(block: bytes) -> Header:
        """The inverse of `block`.

        Raises:
            ValueError: it is no such header; the message says what is wrong.
        """
        found = json.loads(block)
        kinds = get_type_hints(Header)
        if not isinstance(found, dict) or {k: type(v) for k, v in found.items()} != kinds:
            raise ValueError("its header has other fields")
        header = Header(**found)
        if header.format != FORMAT or header.dtype not in ("uint16", "uint32"):
            raise ValueError(f"its format is {header.format!r} of {header.dtype!r}")
        if min(header.tokens, header.documents) < 1 or header.shard < 0:
            raise ValueError("its header counts nothing")
        return header


def rounded(size: int) -> int:
    """A size up to a multiple of 8."""
    return -(-size // 8) * 8


def path_of(folder: Path, part: str, shard: int) -> Path:
    """Where a shard lies."""
    return folder / f"{part}-{shard:05d}.tokens"


# Writing ----------------------------------------------------------------------------------------


def write(
    folder: Path, part: str, documents: Documents, tokenizer: Tokenizer, console: Console
) -> None:
    """Encode a part, shard by shard. What an interrupted call has completed is not done again."""
    about = Header(
        FORMAT, part, 0, False, "uint16" if tokenizer.vocab <= 2**16 else "uint32", 0, 0,
        documents.fingerprint(), tokenizer.fingerprint(), "",
    )  # fmt: skip
    done, shard = 0, 0
    for old in completed(folder, about):
        done, shard = done + old.documents, shard + 1
    for stale in files_of(folder, part)[shard:]:
        stale.unlink()
    read = np.concatenate([[0], np.cumsum(documents.sizes)]) // 1000
    encoding = encoded(documents.chosen(slice(done, None)), tokenizer)
    with Display(console, "kB", max(1, int(read[-1])), f"encoding the {part} text") as display:
        while done < len(documents):
            writer = Writer(dataclasses.replace(about, shard=shard))

            def fill(path: Path, writer: Writer = writer, done: int = done) -> None:
                with open(path, "w+b") as file:
                    file.seek(HEADER)
                    for piece in encoding:
                        writer.add(file, piece)
                        display.show(int(read[done + writer.documents]))
                        if piece.last and writer.tokens >= SHARD:
                            break
                    writer.finish(file, last=done + writer.documents == len(documents))

            write_atomically(path_of(folder, part, shard), fill)
            done, shard = done + writer.documents, shard + 1


class Encoded(NamedTuple):
    """Tokens of a piece of a document, and whether it is the last one."""

    tokens: np.ndarray
    last: bool


def encoded(documents: Documents, tokenizer: Tokenizer) -> Iterator[Encoded]:
    """The tokens of documents, each between those that begin and end a text."""
    for pieces in batched(documents.pieces()):
        for piece, tokens in zip(
            pieces, tokenizer.encode_all([p.text for p in pieces]), strict=True
        ):
            begin, end = [tokenizer.bos] * piece.first, [tokenizer.eos] * piece.last
            yield Encoded(np.array([*begin, *tokens, *end], np.int64), piece.last)


def batched(pieces: Iterator[Piece]) -> Iterator[list[Piece]]:
    """Pieces in lists of about `TOGETHER` characters."""
    waiting, size = [], 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece.text)
        if size >= TOGETHER:
            yield waiting
            waiting, size = [], 0
    if waiting:
        yield waiting


class Writer:
    """What fills a shard; it remembers where documents begin.

    Args:
        about: the header, without what is counted.
    """

    def __init__(self, about: Header) -> None:
        self.about = about
        self.tokens = 0
        self.starts = [0]

    @property
    def documents(self) -> int:
        """How many are complete."""
        return len(self.starts) - 1

    def add(self, file: BinaryIO, part: Encoded) -> None:
        """Append tokens."""
        file.write(part.tokens.astype(f"<{np.dtype(self.about.dtype).str[1:]}").tobytes())
        self.tokens += len(part.tokens)
        if part.last:
            self.starts.append(self.tokens)

    def finish(self, file: BinaryIO, last: bool) -> None:
        """Append the starts and write the header."""
        header = dataclasses.replace(
            self.about, last=last, tokens=self.tokens, documents=self.documents
        )
        file.write(bytes(rounded(header.end_of_tokens) - header.end_of_tokens))
        file.write(np.array(self.starts, "<i8").tobytes())
        header = dataclasses.replace(header, sha256=digest(file, header))
        file.seek(0)
        file.write(header.block())


def completed(folder: Path, about: Header) -> Iterator[Header]:
    """The headers of the shards that an earlier call has written of the same text."""
    for shard, path in enumerate(files_of(folder, about.part)):
        try:
            with open(path, "rb") as file:
                header = checked(file, path)
        except Problem:
            return
        same = dataclasses.replace(
            header, shard=0, last=False, tokens=0, documents=0, sha256=""
        )  # fmt: skip
        if same != about or header.shard != shard:
            return
        yield header


# Reading ----------------------------------------------------------------------------------------


def files_of(folder: Path, part: str) -> list[Path]:
    """The shards of a part that are there, in order."""
    return sorted(folder.glob(f"{part}-*.tokens"))


def load(folder: Path, part: str, tokenizer: Tokenizer) -> Corpus:
    """Map a part into memory.

    Raises:
        Problem: a shard is missing, damaged, or of another tokenizer or text.
    """
    headers, tokens, starts = [], [], [np.zeros(1, np.int64)]
    for shard, path in enumerate(files_of(folder, part)):
        with open(path, "rb") as file:
            header = checked(file, path)
        if header.tokenizer != tokenizer.fingerprint():
            raise Problem(f"{path} was encoded by another tokenizer; encode the text again")
        expected = (part, shard, headers[0].text if headers else header.text)
        if (header.part, header.shard, header.text) != expected:
            raise Problem(
                f"{path} is shard {header.shard} of the {header.part} text, not shard {shard} of "
                f"this {part} text; a shard is missing, or from elsewhere"
            )
        headers.append(header)
        tokens.append(np.memmap(path, f"<{np.dtype(header.dtype).str[1:]}", "r", HEADER,
                                header.tokens))  # fmt: skip
        own = np.memmap(path, "<i8", "r", rounded(header.end_of_tokens), header.documents + 1)
        starts.append(own[1:] + starts[-1][-1])
    if not headers or not headers[-1].last:
        raise Problem(f"{path_of(folder, part, len(headers))} is missing; encode the text again")
    content = hashlib.sha256("".join(h.sha256 for h in headers).encode()).hexdigest()
    return Corpus(Joined.of(tokens), np.concatenate(starts), part, content)


def checked(file: BinaryIO, path: Path) -> Header:
    """The header of a shard that is whole.

    Raises:
        Problem: it is not; the message says why.
    """
    try:
        header = Header.parse(file.read(HEADER))
        size = file.seek(0, os.SEEK_END)
        if size != header.size:
            raise ValueError(f"it has {size:,} bytes instead of {header.size:,}")
        if digest(file, header) != header.sha256:
            raise ValueError("its content is not what was written")
    except (ValueError, RecursionError) as problem:
        raise Problem(
            f"{path} is no file of tokens, or a damaged one: {problem}. Remove it and encode the "
            "text again"
        ) from None
    return header


def digest(file: BinaryIO, header: Header) -> str:
    """The hash of a header and what follows it in a file."""
    found = hashlib.sha256(dataclasses.replace(header, sha256="").block())
    file.seek(HEADER)
    while block := file.read(BLOCK):
        found.update(block)
    return found.hexdigest()
