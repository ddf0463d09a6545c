"""Text to tokens and back: single bytes, or a byte-level BPE as Llama 3's is (section 3.2).

Every tokenizer knows the bytes behind every token. That makes decoding exact, streaming possible (a
character may be split over tokens), and the loss comparable between tokenizers, as bits per byte.

Special tokens say where a text or a message begins and ends. They have names, but no text becomes
one unless it is asked for: whoever writes "<|eot_id|>" into a chat has written ten characters.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
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

    Raises:
        Problem: ``bos`` or ``eos`` is no special token.
    """

    begins = True

    def __init__(
        self, pieces: Sequence[bytes], specials: Mapping[str, int], bos: str, eos: str
    ) -> None:
        self.pieces = list(pieces)
        self.specials = dict(specials)
        self.bos, self.eos = self.special(bos), self.special(eos)

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
        >>> Bytes().encode("!<|eot_id|>", specials=True)
        [33, 261]
    """

    def __init__(self) -> None:
        pieces = [bytes([b]) for b in range(256)] + [b""] * len(SPECIALS)
        super().__init__(pieces, {name: 256 + i for i, name in enumerate(SPECIALS)}, BEGIN, END)

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(whole(text).encode("utf-8")) for text in texts]

    def to_json(self) -> dict[str, Any]:
        return {"kind": "bytes"}


class BytePairs(Tokenizer):
    """A byte-level BPE of the `tokenizers` library.

    Args:
        data: what a ``tokenizer.json`` of Hugging Face holds.
        bos, eos: the names of the special tokens that begin and end a text.
    """

    def __init__(self, data: dict[str, Any], bos: str, eos: str) -> None:
        self.data = data
        words: dict[str, int] = data["model"]["vocab"]
        added: list[dict[str, Any]] = data["added_tokens"]
        specials = {token["content"]: token["id"] for token in added if token["special"]}
        plain = {token["content"]: token["id"] for token in added if not token["special"]}
        merged = {word: i for word, i in words.items() if word not in specials | plain}
        pieces = [b""] * (1 + max(-1, *words.values(), *specials.values(), *plain.values()))
        for token, piece in zip(merged.values(), spelled(list(merged)), strict=True):
            pieces[token] = piece
        for word, token in plain.items():
            pieces[token] = word.encode("utf-8")
        super().__init__(pieces, specials, bos, eos)
        self.core = core(data, merged | plain)

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
        learner.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab - len(SPECIALS),
            show_progress=False,
            initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        )
        learner.train_from_iterator(texts, trainer)
        learner.add_special_tokens(list(SPECIALS))
        return BytePairs(json.loads(learner.to_str()), BEGIN, END)

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        encoded = self.core.encode_batch_fast([*map(whole, texts)], add_special_tokens=False)
        return [e.ids for e in encoded]

    def to_json(self) -> dict[str, Any]:
        names = {token: name for name, token in self.specials.items()}
        ends = {"bos": names[self.bos], "eos": names[self.eos], "begins": self.begins}
        return {"kind": "bpe", **ends, "tokenizer": self.data}


# How GGUF's `tokenizer.ggml.pre` says that a text is split, as expressions that are applied one
# after the other, and whether a word that is a token is taken as it is, whatever the merges say.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
SPLITS = {
    "llama-bpe": ((SPLIT,), True),
    "gpt-2": ((GPT2,), False),
    "smollm": ((r"\p{N}", GPT2), False),  # every digit is a token
}
CONTROL = {2, 3, 5}  # in `tokenizer.ggml.token_type`: unknown, control, unused
USER = 4  # matched in text before it is split


def from_gguf(fields: Mapping[str, Any]) -> BytePairs:
    """The tokenizer in the metadata of a GGUF file.

    Args:
        fields: values by key: ``tokenizer.ggml.tokens`` and its neighbours.

    Raises:
        Problem: it is damaged, or of a kind that is not known here.
    """

    def field(name: str, kind: type, default: Any = None) -> Any:
        value = fields.get(f"tokenizer.ggml.{name}", default)
        if not isinstance(value, kind):
            raise Problem(
                f"the GGUF file's tokenizer.ggml.{name} is {type(value).__name__}, "
                f"not {kind.__name__}"
            )
        return value

    if field("model", str) != "gpt2":
        raise Problem(
            f"the GGUF file's tokenizer is of kind {field('model', str)!r}; only byte-level BPE "
            "('gpt2') is known here"
        )
    pre = field("pre", str, "")
    if pre not in SPLITS:
        raise Problem(
            f"the GGUF file's text is split as {pre!r} does; known are {', '.join(SPLITS)}"
        )
    words, kinds, merges = field("tokens", list), field("token_type", list), field("merges", list)
    if len(words) != len(kinds) or len(set(words)) != len(words):
        raise Problem(
            f"the GGUF file has {len(words)} tokens, {len(set(words))} different ones, and "
            f"{len(kinds)} token types; the three must agree"
        )
    splits, whole_words = SPLITS[pre]
    added = [
        added_token(i, words[i], special=kind != USER)
        for i, kind in enumerate(kinds)
        if kind in CONTROL or kind == USER
    ]
    ends = [field(f"{end}_token_id", int) for end in ("bos", "eos")]
    if not all(0 <= end < len(words) for end in ends):
        raise Problem(
            f"the GGUF file's texts begin and end with tokens {ends}, of {len(words)} tokens"
        )
    vocabulary = dict(zip(words, range(len(words)), strict=True))
    data = huggingface(vocabulary, merges, added, splits, whole_words)
    tokenizer = BytePairs(data, *(words[end] for end in ends))
    tokenizer.begins = field("add_bos_token", bool, pre == "llama-bpe")
    return tokenizer


def huggingface(
    vocabulary: Mapping[str, int], merges: Sequence[Any], added: Sequence[Any],
    splits: Sequence[str], whole_words: bool,
) -> dict[str, Any]:  # fmt: skip
    """What a ``tokenizer.json`` of Hugging Face holds for a byte-level BPE."""
    steps = [
        {"type": "Split", "pattern": {"Regex": s}, "behavior": "Isolated", "invert": False}
        for s in splits
    ]
    letters = {
        "type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False,
    }  # fmt: skip
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": list(added),
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*steps, letters]},
        "post_processor": None,
        "decoder": letters,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "ignore_merges": whole_words, "vocab": dict(vocabulary), "merges": list(merges),
        },
    }  # fmt: skip


def added_token(token: int, content: str, special: bool) -> dict[str, Any]:
    """An entry of ``added_tokens`` in a ``tokenizer.json``."""
    return {
        "id": token, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
        "normalized": False, "special": special,
    }  # fmt: skip


def core(data: Mapping[str, Any], ordinary: dict[str, int]) -> Any:
    """A ``tokenizers.Tokenizer`` that knows ordinary tokens only: no text becomes a special one.

    The vocabulary does not go through JSON a second time, which would take as long again.
    """
    tokenizers = library()
    about: dict[str, Any] = data["model"]
    shell = {**about, "vocab": {}, "merges": []}
    made = tokenizers.Tokenizer.from_str(json.dumps({**data, "added_tokens": [], "model": shell}))
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in about["merges"]]
    made.model = tokenizers.models.BPE(
        ordinary, merges, ignore_merges=about.get("ignore_merges", False)
    )
    made.add_tokens(
        [
            tokenizers.AddedToken(token["content"], normalized=token["normalized"])
            for token in data["added_tokens"]
            if not token["special"]
        ]
    )
    return made


def load(path: Path) -> Tokenizer:
    """Read a tokenizer that `Tokenizer.save` wrote.

    Raises:
        Problem: the file is missing or damaged.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["kind"] == "bytes":
            return Bytes()
        tokenizer = BytePairs(data["tokenizer"], data["bos"], data["eos"])
        tokenizer.begins = bool(data["begins"])
        return tokenizer
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


def whole(text: str) -> str:
    """The text with U+FFFD for halves of surrogate pairs, which no UTF-8 can say."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def spelled(words: Sequence[str]) -> list[bytes]:
    """The bytes that words of the byte-level alphabet stand for.

    Example:
        >>> spelled(["Ġé", "A"])
        [b' \\xe9', b'A']
    """
    table = str.maketrans({letter: chr(byte) for letter, byte in byte_of_letter().items()})
    joined = "".join(words).translate(table).encode("latin-1")
    ends = np.cumsum([len(word) for word in words]).tolist()
    return [joined[end - len(word) : end] for word, end in zip(words, ends, strict=True)]


def byte_of_letter() -> dict[str, int]:
    """The byte-level alphabet: printable Latin-1 stands for itself, the rest for U+0100 and on.

    Example:
        >>> byte_of_letter()["A"], byte_of_letter()["Ġ"]
        (65, 32)
    """
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(rest)}
