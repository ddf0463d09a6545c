"""Text to tokens and back: single bytes, or a byte-level BPE as Llama 3's is (section 3.2).

Every tokenizer knows the bytes behind every token. That makes decoding exact, streaming possible (a
character may be split over tokens), and the loss comparable between tokenizers, as bits per byte.

Special tokens say where a text or a message begins and ends. They have names, but no text becomes
one unless it is asked for: whoever writes "<|eot_id|>" into a chat has written ten characters.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from examples.llama3 import bytelevel
from examples.llama3.bytelevel import SPLIT, added_token, expect, library
from examples.llama3.files import Problem, write_atomically

BEGIN, END = "<|begin_of_text|>", "<|end_of_text|>"
# What a tokenizer of our own has after its ordinary tokens: Llama 3's names for the ends of a text,
# and those that its chats are written with.
SPECIALS = (
    BEGIN, END, "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>",
    "<|python_tag|>",
)  # fmt: skip


class Tokenizer:
    """Tokens 0 … vocab-1, each of which stands for bytes or has a name.

    Args:
        pieces: the bytes of each token; none for the special ones.
        specials: the special tokens by name.
        bos, eos: the names of those that begin and end a text.

    Attributes:
        pieces: as above.
        specials: as above.
        bos, eos: the tokens that begin and end a text.
        begins: whether the model has always seen ``bos`` before a text; SmolLM2 has not.
        ends: the tokens after which nothing follows: ``eos``, and more for models that chat.
        chat: how a chat is written, in Jinja's language, where a file said so.

    Raises:
        Problem: ``bos`` or ``eos`` is no special token.
    """

    begins = True
    chat = ""

    def __init__(
        self, pieces: Sequence[bytes], specials: Mapping[str, int], bos: str, eos: str
    ) -> None:
        self.pieces = list(pieces)
        self.specials = dict(specials)
        self.bos, self.eos = self.special(bos), self.special(eos)
        self.ends = frozenset({self.eos})

    @property
    def vocab(self) -> int:
        """The number of tokens, special ones included."""
        return len(self.pieces)

    def special(self, name: str) -> int:
        """The special token of a name.

        Raises:
            Problem: there is none.
        """
        if name not in self.specials:
            known = ", ".join(list(self.specials)[:12]) or "none"
            raise Problem(f"the tokenizer has no special token {name!r}; it has {known}")
        return self.specials[name]

    def byte_lengths(self) -> np.ndarray:
        """The number of bytes behind each token, int64 [vocab]; 0 for the special ones."""
        return np.array([len(p) for p in self.pieces])

    def encode(self, text: str, specials: bool = False) -> list[int]:
        """The tokens of a text.

        Args:
            text: the text.
            specials: whether the names of special tokens in it become these tokens. Only for text
                of one's own: in what others write, they must stay ordinary characters.
        """
        if not specials:
            return self.encode_all([text])[0]
        parts = self._names.split(text)  # text, name, text, …, text
        tokens, *more = self.encode_all(parts[::2])
        for name, after in zip(parts[1::2], more, strict=True):
            tokens += [self.specials[name], *after]
        return tokens

    @cached_property
    def _names(self) -> re.Pattern[str]:
        """What finds the names of special tokens; a longer name before its own beginning."""
        names = sorted(filter(None, self.specials), key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, names))})")

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of many texts, without special ones."""
        raise NotImplementedError  # every kind of tokenizer defines its own

    def begin(self, text: str) -> list[int]:
        """The tokens of a text to continue, as the model has seen texts begin."""
        tokens = self.encode(text)
        return [self.bos, *tokens] if self.begins or not tokens else tokens

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens; special ones give nothing, bytes that are no UTF-8 give U+FFFD."""
        return "".join(self.stream(tokens))

    def stream(self, tokens: Iterable[int]) -> Iterator[str]:
        """The text of each token as soon as its last character is complete.

        A model may know more tokens than its tokenizer, to have a round number of them: they give
        nothing, as special ones do.
        """
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for token in tokens:
            yield decoder.decode(self.pieces[token] if token < len(self.pieces) else b"")
        yield decoder.decode(b"", final=True)

    def huggingface(self) -> dict[str, Any]:
        """What a ``tokenizer.json`` of Hugging Face holds for it."""
        raise NotImplementedError  # every kind of tokenizer defines its own

    def fingerprint(self) -> str:
        """A hash of what the tokens mean, for files of tokens to be compared with."""
        lengths = np.array([len(p) for p in self.pieces] + [self.bos, self.eos], np.int64)
        return hashlib.sha256(lengths.tobytes() + b"".join(self.pieces)).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """As plain data, the inverse of `load`."""
        raise NotImplementedError  # every kind of tokenizer defines its own

    def save(self, path: Path) -> None:
        """Write the tokenizer to a JSON file."""
        write_json(path, self.to_json())


class Bytes(Tokenizer):
    """Each byte of the UTF-8 text is a token.

    Example:
        >>> tokens = Bytes().encode("é!")
        >>> tokens, Bytes().decode(tokens)
        ([195, 169, 33], 'é!')
        >>> Bytes().encode("!<|eot_id|>", specials=True)
        [33, 261]
    """

    def __init__(self) -> None:
        pieces = [bytes([b]) for b in range(256)] + [b""] * len(SPECIALS)
        super().__init__(pieces, {name: 256 + i for i, name in enumerate(SPECIALS)}, BEGIN, END)

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(whole(text).encode("utf-8")) for text in texts]

    def huggingface(self) -> dict[str, Any]:
        letters = bytelevel.byte_of_letter()
        added = [added_token(i, name, special=True) for name, i in self.specials.items()]
        return bytelevel.written(letters, [], added, (), False)

    def to_json(self) -> dict[str, Any]:
        return {"kind": "bytes"}


class BytePairs(Tokenizer):
    """A byte-level BPE of the `tokenizers` library.

    Args:
        data: what a ``tokenizer.json`` of Hugging Face holds.
        bos, eos: the names of the special tokens that begin and end a text.

    Raises:
        Problem: ``data`` is malformed or of another kind.
    """

    def __init__(self, data: dict[str, Any], bos: str, eos: str) -> None:
        words = bytelevel.vocabulary(data)
        super().__init__(words.pieces(), words.specials, bos, eos)
        self.data, self.core = data, bytelevel.core(data, words)

    @staticmethod
    def train(texts: Iterable[str], vocab: int) -> BytePairs:
        """Learn the merges that shorten these texts most, up to ``vocab`` tokens with the special
        ones.

        Raises:
            Problem: the library is missing or ``vocab`` is too small for the 256 bytes.
        """
        tokenizers = library()
        if vocab < 256 + len(SPECIALS):
            raise Problem(
                f"--bpe-vocab is {vocab}; a byte-level BPE needs at least {256 + len(SPECIALS)}: "
                f"256 bytes and {len(SPECIALS)} special tokens"
            )
        learner = tokenizers.Tokenizer(tokenizers.models.BPE())
        learner.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
            [
                tokenizers.pre_tokenizers.Split(tokenizers.Regex(SPLIT), "isolated"),
                tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab - len(SPECIALS),
            show_progress=False,
            initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        )
        learner.train_from_iterator(texts, trainer)
        learner.add_special_tokens(list(SPECIALS))
        return BytePairs(json.loads(learner.to_str()), BEGIN, END)

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        with bytelevel.panics("the tokenizer fails on this text"):
            encoded = self.core.encode_batch_fast([*map(whole, texts)], add_special_tokens=False)
        return [e.ids for e in encoded]

    def huggingface(self) -> dict[str, Any]:
        return self.data

    def to_json(self) -> dict[str, Any]:
        names = {token: name for name, token in self.specials.items()}
        ends = {"bos": names[self.bos], "eos": names[self.eos], "begins": self.begins}
        return {"kind": "bpe", **ends, "tokenizer": self.data}


def load(path: Path) -> Tokenizer:
    """Read a tokenizer that `Tokenizer.save` wrote.

    Raises:
        Problem: the file is missing or damaged.
    """
    data = read_json(path)
    try:
        if data["kind"] == "tiktoken":
            from examples.llama3 import tiktokens

            return tiktokens.from_json(data)
        if data["kind"] == "bytes":
            return Bytes()
        tokenizer = BytePairs(data["tokenizer"], data["bos"], data["eos"])
        tokenizer.begins = bool(data["begins"])
        return tokenizer
    except (Problem, LookupError, TypeError, ValueError) as problem:
        raise Problem(f"{path} is not a tokenizer this program wrote: {problem}") from None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        Problem: it is missing, or holds something else.
    """
    try:
        with named(path):
            return expect(json.loads(path.read_text(encoding="utf-8")), dict, "its content")
    except OSError as problem:
        raise Problem(f"cannot read the tokenizer {path}: {problem.strerror}") from None
    except (ValueError, RecursionError) as problem:
        raise Problem(f"{path} is not a tokenizer: {problem}") from None


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file, whole or not at all."""
    text = json.dumps(data, ensure_ascii=False)
    write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Say in which file a problem is."""
    try:
        yield
    except Problem as problem:
        raise Problem(f"{path} is not a tokenizer that is known here: {problem}") from None


def whole(text: str) -> str:
    """The text with U+FFFD for halves of surrogate pairs, which no UTF-8 can say."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
