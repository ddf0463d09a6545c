"""Text to tokens and back: single bytes, or a byte-level BPE as Llama 3's is (section 3.2).

Both know the bytes behind every token. That makes decoding exact, streaming possible (a character
may be split over tokens), and the loss comparable between tokenizers, as bits per byte.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from examples.llama3.files import Problem, write_atomically

# Llama 3 splits text with this expression before merging: contractions, words with the mark before
# them, numbers in groups of three, punctuation, line ends, runs of spaces.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIALS = 2  # begin of text and end of text, after the ordinary tokens


class Tokenizer:
    """Tokens 0 … n-1 stand for byte strings; n begins a text and n+1 ends it.

    The two special tokens have no spelling, so no text can contain them.

    Attributes:
        pieces: the bytes of each ordinary token.
        bos, eos: the tokens that begin and end a text.
    """

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces = list(pieces)
        self.bos, self.eos = len(self.pieces), len(self.pieces) + 1

    @property
    def vocab(self) -> int:
        """The number of tokens, special ones included."""
        return len(self.pieces) + SPECIALS

    def byte_lengths(self) -> np.ndarray:
        """The number of bytes behind each token, int64 [vocab]; 0 for the special ones."""
        return np.array([len(p) for p in self.pieces] + [0] * SPECIALS)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without special ones."""
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of many texts."""
        raise NotImplementedError  # every kind of tokenizer defines its own

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens; special ones give nothing, bytes that are no UTF-8 give U+FFFD."""
        return "".join(self.stream(tokens))

    def stream(self, tokens: Iterable[int]) -> Iterator[str]:
        """The text of each token as soon as its last character is complete."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for token in tokens:
            if token < len(self.pieces):
                yield decoder.decode(self.pieces[token])
        yield decoder.decode(b"", final=True)

    def to_json(self) -> dict[str, Any]:
        """As plain data, the inverse of `load`."""
        raise NotImplementedError  # every kind of tokenizer defines its own

    def save(self, path: Path) -> None:
        """Write the tokenizer to a JSON file."""
        text = json.dumps(self.to_json(), ensure_ascii=False)
        write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))


class Bytes(Tokenizer):
    """Each byte of the UTF-8 text is a token.

    Example:
        >>> tokens = Bytes().encode("é!")
        >>> tokens, Bytes().decode(tokens)
        ([195, 169, 33], 'é!')
    """

    def __init__(self) -> None:
        super().__init__([bytes([b]) for b in range(256)])

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(text.encode("utf-8")) for text in texts]

    def to_json(self) -> dict[str, Any]:
        return {"kind": "bytes"}


class BytePairs(Tokenizer):
    """A byte-level BPE of the `tokenizers` library.

    Args:
        core: a ``tokenizers.Tokenizer`` whose alphabet is the byte-level one.
    """

    def __init__(self, core: Any) -> None:
        self.core = core
        spelled = byte_of_letter()
        vocabulary = sorted(core.get_vocab().items(), key=lambda item: item[1])
        super().__init__([bytes(spelled[c] for c in word) for word, _ in vocabulary])

    @staticmethod
    def train(texts: Iterable[str], vocab: int) -> BytePairs:
        """Learn the merges that shorten these texts most, up to ``vocab`` tokens with the special
        ones.

        Raises:
            Problem: the library is missing or ``vocab`` is too small for the 256 bytes.
        """
        tokenizers = library()
        if vocab < 256 + SPECIALS:
            raise Problem(
                f"--bpe-vocab is {vocab}; a byte-level BPE needs at least {256 + SPECIALS}: "
                f"256 bytes and {SPECIALS} special tokens"
            )
        core = tokenizers.Tokenizer(tokenizers.models.BPE())
        core.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
            [
                tokenizers.pre_tokenizers.Split(tokenizers.Regex(SPLIT), "isolated"),
                tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab - SPECIALS,
            show_progress=False,
            initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        )
        core.train_from_iterator(texts, trainer)
        return BytePairs(core)

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        return [e.ids for e in self.core.encode_batch_fast(list(texts))]

    def to_json(self) -> dict[str, Any]:
        return {"kind": "bpe", "tokenizer": json.loads(self.core.to_str())}


def load(path: Path) -> Tokenizer:
    """Read a tokenizer that `Tokenizer.save` wrote.

    Raises:
        Problem: the file is missing or damaged.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["kind"] == "bytes":
            return Bytes()
        core = library().Tokenizer.from_str(json.dumps(data["tokenizer"]))
        return BytePairs(core)
    except OSError as problem:
        raise Problem(f"cannot read the tokenizer {path}: {problem.strerror}") from None
    except Problem:
        raise
    except Exception as problem:  # the library raises bare Exceptions
        raise Problem(f"{path} is not a tokenizer this program wrote: {problem}") from None


def library() -> Any:
    """The `tokenizers` library.

    Raises:
        Problem: it is not installed.
    """
    try:
        import tokenizers
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError:
        raise Problem(
            "a BPE needs the package `tokenizers`: pip install tokenizers, or use --tokenizer bytes"
        ) from None
    return tokenizers


def byte_of_letter() -> dict[str, int]:
    """The byte-level alphabet: printable Latin-1 stands for itself, the rest for U+0100 and on.

    Example:
        >>> byte_of_letter()["A"], byte_of_letter()["Ġ"]
        (65, 32)
    """
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(rest)}
