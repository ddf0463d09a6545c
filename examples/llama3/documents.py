"""Texts in files: found, checked and divided, but read only while they are encoded (section 3.1).

A *document* is a text file, or a line of a JSONL file, ``{"text": "..."}``. What is remembered of
one is where it stands, twenty bytes, so that the files may be larger than memory.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from examples.llama3.files import Problem

# Not the library's own prose: its tests, what others installed, and tables of characters or help
# texts.
SKIPPED = {
    "__pycache__", "dist-packages", "encodings", "entities.py", "idle_test", "pydoc_data",
    "site-packages", "test", "tests",
}  # fmt: skip
BLOCK = 2**20  # bytes that are read at once


class Piece(NamedTuple):
    """A part of a document that ends with a line; most documents are a single one.

    Attributes:
        text: its characters.
        first, last: whether it begins, and ends, its document.
    """

    text: str
    first: bool
    last: bool


@dataclass(frozen=True)
class Documents:
    """Where documents stand.

    Attributes:
        paths: the files.
        file: the index of each document's file; int32 [documents].
        spans: its first byte there and the one behind its last; int64 [documents, 2].
    """

    paths: tuple[Path, ...]
    file: np.ndarray
    spans: np.ndarray

    def __len__(self) -> int:
        return len(self.file)

    @property
    def sizes(self) -> np.ndarray:
        """Bytes in each document's file; int64 [documents]."""
        return self.spans[:, 1] - self.spans[:, 0]

    def chosen(self, which: np.ndarray | slice) -> Documents:
        """Some of them, by index or by a mask."""
        return Documents(self.paths, self.file[which], self.spans[which])

    def pieces(self) -> Iterator[Piece]:
        """Their texts, one after the other, in pieces of about `BLOCK` bytes."""
        for file, (start, end) in zip(self.file.tolist(), self.spans.tolist(), strict=True):
            path = self.paths[file]
            try:
                with open(path, "rb") as opened:
                    opened.seek(start)
                    if is_jsonl(path):
                        line = opened.read(end - start)
                        yield Piece(text_of(line, f"{path}, byte {start}"), True, True)
                    else:
                        yield from whole_lines(opened, path, end - start)
            except OSError as problem:
                raise unreadable(path, problem) from None

    def fingerprint(self) -> str:
        """A hash of which documents these are: files, their sizes and dates, and the spans."""
        digest = hashlib.sha256()
        for path in self.paths:
            about = path.stat()
            digest.update(f"{path}\0{about.st_size}\0{about.st_mtime_ns}\0".encode())
        digest.update(self.file.tobytes() + self.spans.tobytes())
        return digest.hexdigest()


def standard_library() -> list[Path]:
    """The Python files of this interpreter's standard library, in a fixed order."""
    root = Path(sysconfig.get_path("stdlib"))
    inside = (p.relative_to(root) for p in root.rglob("*.py"))
    return [root / p for p in sorted(inside) if not SKIPPED.intersection(p.parts)]


def find(files: Sequence[str]) -> Documents:
    """The documents in the files a person named, or in the standard library if none.

    Every byte is read once, so that what cannot be used is known before anything begins.

    Raises:
        Problem: a named file is missing, empty or not UTF-8, or a line of it is not a document; or
            nothing was found.
    """
    paths, spans = [], []
    for path in map(Path, files) if files else standard_library():
        try:
            found = spans_of(path)
        except Problem:
            if files:
                raise
            continue  # an empty __init__.py, a file in an older encoding
        paths.append(path)
        spans.append(found)
    if not paths:
        raise Problem(
            f"no standard library source in {sysconfig.get_path('stdlib')}: name files with --data"
        )
    counts = [len(s) for s in spans]
    return Documents(
        tuple(paths), np.repeat(np.arange(len(paths), dtype=np.int32), counts),
        np.concatenate(spans).reshape(-1, 2),
    )  # fmt: skip


def is_jsonl(path: Path) -> bool:
    """Whether each line of a file is a document."""
    return path.suffix == ".jsonl"


def spans_of(path: Path) -> np.ndarray:
    """Where a file's documents begin and end; int64 [documents, 2].

    Raises:
        Problem: it is missing or empty, or is not what its name says.
    """
    try:
        with open(path, "rb") as file:
            found = lines_of(file, path) if is_jsonl(path) else text_span(file, path)
            size = file.tell()
    except OSError as problem:
        raise unreadable(path, problem) from None
    if not len(found):
        raise Problem(f"the data file {path} is empty ({size} bytes of white space or nothing)")
    return np.array(found, np.int64)


def unreadable(path: Path, problem: OSError) -> Problem:
    """What to say about a file that the system does not give."""
    return Problem(f"cannot read the data file {path}: {problem.strerror}")


def text_span(file: BinaryIO, path: Path) -> list[tuple[int, int]]:
    """The one span of a text file, or none if it holds nothing but white space."""
    inked = False
    for block in decoded(file, path, None):
        inked = inked or bool(block.strip())
    return [(0, file.tell())] if inked else []


def lines_of(file: BinaryIO, path: Path) -> list[tuple[int, int]]:
    """The spans of the lines of a JSONL file that hold text."""
    spans, start = [], 0
    for number, line in enumerate(file, 1):
        end = start + len(line)
        if line.strip() and text_of(line, f"{path}, line {number}").strip():
            spans.append((start, end))
        start = end
    return spans


def text_of(line: bytes, where: str) -> str:
    """The text of a document in JSONL.

    Raises:
        Problem: it has none.
    """
    try:
        text = json.loads(line)["text"]
        if isinstance(text, str):
            text.encode()  # not a half of a surrogate pair
            return text
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise Problem(f'the data file {where}: expected a document as {{"text": "..."}} in UTF-8')


def decoded(file: BinaryIO, path: Path, size: int | None) -> Iterator[str]:
    """The text of the next ``size`` bytes, or of all that follow, block by block."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    while True:
        at = file.tell() - len(decoder.getstate()[0])
        block = file.read(BLOCK if size is None else min(BLOCK, size))
        size = None if size is None else size - len(block)
        try:
            yield decoder.decode(block, final=not block)
        except UnicodeDecodeError as problem:
            byte = problem.object[problem.start]
            raise Problem(
                f"the data file {path} is not UTF-8 text: byte 0x{byte:02x} at offset "
                f"{at + problem.start} ({problem.reason}). Convert it, or name other files with "
                "--data"
            ) from None
        if not block:
            return


def whole_lines(file: BinaryIO, path: Path, size: int) -> Iterator[Piece]:
    """The next ``size`` bytes as pieces that end where a line does, if lines are not endless."""
    first, waiting = True, ""
    for text in decoded(file, path, size):
        cut = (waiting + text).rfind("\n", 0, -1) + 1 or len(waiting)
        both = waiting + text
        if waiting and text:  # not the last piece: there is more to come
            yield Piece(both[:cut], first, False)
            first, waiting = False, both[cut:]
        else:
            waiting = both
    yield Piece(waiting, first, True)


def split(documents: Documents, fraction: float, seed: int) -> tuple[Documents, Documents]:
    """Divide into training and validation documents, no document in both.

    Documents are drawn by the seed until they hold ``fraction`` of all bytes. A single document is
    cut in two at a line end instead: the last ``fraction`` of it validates.
    """
    if len(documents) == 1:
        return cut(documents, fraction)
    sizes = documents.sizes
    wanted = fraction * int(sizes.sum())
    held_out = np.zeros(len(documents), bool)
    size = count = 0
    for i in np.random.default_rng(seed).permutation(len(documents)):
        # A document that would make the split far too large is left to training.
        if (count and size >= wanted) or count == len(documents) - 1:
            break
        if size + sizes[i] <= 2 * wanted or not count:
            held_out[i] = True
            size, count = size + int(sizes[i]), count + 1
    return documents.chosen(~held_out), documents.chosen(held_out)


def cut(document: Documents, fraction: float) -> tuple[Documents, Documents]:
    """Divide a single document at the end of a line, or of a character if it has no lines.

    Raises:
        Problem: it is a line of a JSONL file.
    """
    path, (start, end) = document.paths[document.file[0]], document.spans[0].tolist()
    if is_jsonl(path):
        raise Problem(f"the data file {path} holds one document; add others, to validate on")
    middle = start + max(1, int((end - start) * (1 - fraction)))
    with open(path, "rb") as file:
        file.seek(max(start, middle - BLOCK))
        before = file.read(min(BLOCK, middle - start))
        line = before.rfind(b"\n") + 1
        if line:
            middle -= len(before) - line
        else:
            while middle < end and file.read(1)[0] & 0xC0 == 0x80:  # amid a character
                middle += 1

    def part(a: int, b: int) -> Documents:
        return Documents(document.paths, document.file, np.array([[a, b]], np.int64))

    return part(start, middle), part(middle, end)
