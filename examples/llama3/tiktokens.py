"""Llama 3's own file of tokens, ``tokenizer.model``, read by the library `tiktoken` (section 3.2).

Each line holds the bytes of a token in base64 and its rank: a text is merged as long as two
neighbours make a token, that of the lowest rank first. The ranks are the tokens' numbers; 256
special tokens follow, most of them in reserve.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from examples.llama3 import bytelevel
from examples.llama3.bytelevel import SPLIT
from examples.llama3.files import Problem
from examples.llama3.tokenizer import BEGIN, END, Tokenizer, whole

NAMED = (
    BEGIN, END, "<|reserved_special_token_0|>", "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>", "<|step_id|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eom_id|>", "<|eot_id|>", "<|python_tag|>", "<|image|>",
)  # fmt: skip
RESERVED = tuple(f"<|reserved_special_token_{i}|>" for i in range(2, 256 - len(NAMED) + 2))
# The library takes time that grows with the square of a run without a seam, and its stack is not
# endless: Llama 3 cuts texts so, and what it cuts is cut alike here.
LONGEST_TEXT, LONGEST_RUN = 400_000, 25_000


class Tiktokens(Tokenizer):
    """Llama 3's tokenizer.

    Args:
        ranked: the bytes of each ordinary token.

    Raises:
        Problem: the library is missing, or not every byte is a token.
    """

    def __init__(self, ranked: Sequence[bytes]) -> None:
        specials = {name: len(ranked) + i for i, name in enumerate((*NAMED, *RESERVED))}
        super().__init__([*ranked, *[b""] * len(specials)], specials, BEGIN, END)
        self.ranks = {piece: rank for rank, piece in enumerate(ranked)}
        missing = [b for b in range(256) if bytes([b]) not in self.ranks]
        if missing or len(self.ranks) != len(ranked):
            raise Problem(
                f"the tokenizer has {len(ranked)} tokens, {len(self.ranks)} different ones, and "
                f"lacks {len(missing)} of the 256 bytes"
            )
        try:
            import tiktoken
        except ImportError:
            raise Problem(
                "Llama 3's tokenizer.model needs the package `tiktoken`: pip install tiktoken"
            ) from None
        with bytelevel.panics("the tokenizer cannot be made"):
            self.core = tiktoken.Encoding(
                "llama3", pat_str=SPLIT, mergeable_ranks=self.ranks, special_tokens={}
            )

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        with bytelevel.panics("the tokenizer fails on this text"):
            return [
                [token for part in cut(whole(text)) for token in self.core.encode_ordinary(part)]
                for text in texts
            ]

    def huggingface(self) -> dict[str, Any]:
        letter = {byte: letter for letter, byte in bytelevel.byte_of_letter().items()}
        words = {piece: "".join(letter[b] for b in piece) for piece in self.ranks}
        added = [bytelevel.added_token(i, name, True) for name, i in self.specials.items()]
        vocabulary = {words[piece]: rank for piece, rank in self.ranks.items()}
        merges = [[words[a], words[b]] for a, b in self.merges()]
        return bytelevel.written(vocabulary, merges, added, (SPLIT,), whole_words=True)

    def merges(self) -> Iterator[tuple[bytes, bytes]]:
        """Every pair of tokens that makes a token: by the rank of what it makes, then of its
        halves."""
        for piece in self.ranks:
            halves = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
            known = [(a, b) for a, b in halves if a in self.ranks and b in self.ranks]
            yield from sorted(known, key=lambda ab: (self.ranks[ab[0]], self.ranks[ab[1]]))

    def to_json(self) -> dict[str, Any]:
        ranked = [base64.b64encode(piece).decode("ascii") for piece in self.ranks]
        return {"kind": "tiktoken", "ranked": ranked}


def from_json(data: dict[str, Any]) -> Tiktokens:
    """The inverse of `Tiktokens.to_json`.

    Raises:
        Problem, LookupError, TypeError, ValueError: ``data`` is something else.
    """
    return Tiktokens([base64.b64decode(piece, validate=True) for piece in data["ranked"]])


def from_file(path: Path) -> Tiktokens:
    """Read Llama 3's ``tokenizer.model``.

    Raises:
        Problem: the file is missing, damaged or of another kind; the message names the line.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as problem:
        raise Problem(f"cannot read the tokenizer {path}: {problem.strerror}") from None
    ranked: list[bytes] = []
    for number, line in enumerate(lines, start=1):
        piece, _, rank = line.partition(b" ")
        try:
            ranked.append(base64.b64decode(piece, validate=True))
        except binascii.Error:
            rank = b""
        if rank != b"%d" % (number - 1) or not ranked[-1]:
            raise Problem(
                f"{path}, line {number}: expected a token in base64 and its rank {number - 1}, "
                f"found {line[:40]!r}"
            )
    try:
        return Tiktokens(ranked)
    except Problem as problem:
        raise Problem(f"{path}: {problem}") from None


def cut(text: str) -> Iterator[str]:
    """A text in parts that the library encodes in reasonable time."""
    for start in range(0, len(text), LONGEST_TEXT):
        part = text[start : start + LONGEST_TEXT]
        seams = [0]
        for run in re.finditer(rf"\s{{{LONGEST_RUN + 1},}}|\S{{{LONGEST_RUN + 1},}}", part):
            seams += range(run.start() + LONGEST_RUN, run.end(), LONGEST_RUN)
        for a, b in zip(seams, [*seams[1:], len(part)], strict=True):
            yield part[a:b]
