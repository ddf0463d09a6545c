"""Byte-level BPE as `tokenizer.json` of Hugging Face holds it: checked, made, written.

A word of the vocabulary is spelled in an alphabet of 256 letters, one for each byte, so that every
text can be said and spaces are as good as letters. What is read here was written by others: before
the `tokenizers` library sees it, everything it would trust has been looked at.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from examples.llama3.files import Problem

# Llama 3 splits text with this expression before merging: contractions, words with the mark before
# them, numbers in groups of three, punctuation, line ends, runs of spaces.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
QWEN2 = SPLIT.replace("{1,3}", "")
# How GGUF's `tokenizer.ggml.pre` says that a text is split, as expressions that are applied one
# after the other, and whether a word that is a token is taken as it is, whatever the merges say.
SPLITS = {
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3"), ((SPLIT,), True)),
    "gpt-2": ((GPT2,), False),
    "qwen2": ((QWEN2,), False),
    "smollm": ((r"\p{N}", GPT2), False),  # every digit is a token
}
LONGEST_SPLIT = 10_000  # characters of such an expression in a file; they have about a hundred
UNICODE = {"NFC", "NFD", "NFKC", "NFKD"}  # what may be done to a text before it is split …
CUTTING = {"Split", "Digits", "Punctuation", "Whitespace", "ByteLevel"}  # … and how it may be


class Vocabulary(NamedTuple):
    """The tokens of a `tokenizer.json`.

    Attributes:
        merged: what merging makes, by its spelling in the byte-level alphabet.
        plain: words that are tokens wherever they stand in a text.
        specials: what no text becomes.
        merges: pairs of spellings, the first to be merged first.
        size: one more than the last token.
    """

    merged: dict[str, int]
    plain: dict[str, int]
    specials: dict[str, int]
    merges: list[tuple[str, str]]
    size: int

    def pieces(self) -> list[bytes]:
        """The bytes of each token; none for special ones.

        Raises:
            Problem: a word is not spelled in the byte-level alphabet.
        """
        pieces = [b""] * self.size
        for token, piece in zip(self.merged.values(), spelled(list(self.merged)), strict=True):
            pieces[token] = piece
        for word, token in self.plain.items():
            pieces[token] = word.encode("utf-8")
        return pieces


def vocabulary(data: Any) -> Vocabulary:
    """What a `tokenizer.json` says of its tokens.

    Raises:
        Problem: it is malformed, or of a kind that is not known here.
    """
    model = expect(expect(data, dict, "the tokenizer").get("model"), dict, "the tokenizer's model")
    check_kind(data, model)
    words = expect(model.get("vocab"), dict, "the vocabulary")
    added = [
        expect(token, dict, "an added token")
        for token in expect(data.get("added_tokens") or [], list, "the list of added tokens")
    ]
    by_kind: tuple[dict[str, int], dict[str, int]] = {}, {}
    for token in added:
        name = expect(token.get("content"), str, "the name of an added token")
        by_kind[bool(token.get("special"))][name] = token.get("id", -1)
    plain, specials = by_kind
    merged = {word: i for word, i in words.items() if word not in specials | plain}
    ids = [*merged.values(), *plain.values(), *specials.values()]
    if not all(type(i) is int and i >= 0 for i in ids) or len(set(ids)) != len(ids):
        raise Problem("the tokenizer's tokens do not have different numbers from 0 on")
    size = 1 + max(ids, default=0)
    if size > 2 * len(ids) + 1024:  # numbers may be left out, but not so many
        raise Problem(f"the tokenizer numbers its {len(ids)} tokens up to {size - 1}")
    merges = [pair(m) for m in expect(model.get("merges"), list, "the list of merges")]
    return Vocabulary(merged, plain, specials, merges, size)


def check_kind(data: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    """Refuse all but byte-level BPE.

    Raises:
        Problem: it says what the tokenizer is instead.
    """
    kind = model.get("type", "BPE")
    if kind != "BPE":
        raise Problem(f"the tokenizer is of type {kind!r}; only byte-level BPE is known here")
    for name in ("byte_fallback", "continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(name):
            raise Problem(f"the tokenizer's BPE has {name}, so that it is not a byte-level one")
    for step in steps(data.get("normalizer"), "normalizers"):
        if step not in UNICODE:
            raise Problem(f"the tokenizer changes text by {step!r}, which is not known here")
    cuts = list(steps(data.get("pre_tokenizer"), "pretokenizers"))
    if cuts[-1:] != ["ByteLevel"]:
        raise Problem(f"the tokenizer splits text by {cuts}, and not into bytes in the end")
    for step in cuts:
        if step not in CUTTING:
            raise Problem(f"the tokenizer splits text by {step!r}, which is not known here")


def check_pattern(pattern: Any) -> None:
    """Refuse expressions that might take forever: the library bounds how often a match is tried
    otherwise, but not calls of parts of an expression.

    Raises:
        Problem: the expression is such.
    """
    if isinstance(pattern, dict) and isinstance(expression := pattern.get("Regex"), str):
        if len(expression) > LONGEST_SPLIT:
            raise Problem(
                f"the tokenizer splits text by an expression of {len(expression):,} characters"
            )
        if r"\g" in expression:
            raise Problem(f"the tokenizer's expression {expression!r:.60} calls parts of itself")


def steps(step: Any, parts: str) -> Iterator[str]:
    """The types of the steps that a normalizer or pre-tokenizer consists of."""
    if step is None:
        return
    kind = expect(step, dict, "a step of the tokenizer").get("type")
    if kind == "Sequence":
        for part in expect(step.get(parts), list, "a sequence of steps of the tokenizer"):
            yield from steps(part, parts)
    else:
        check_pattern(step.get("pattern"))
        yield str(kind)


def pair(merge: Any) -> tuple[str, str]:
    """Two words to merge, which older files have as one string.

    Raises:
        Problem: it is something else.
    """
    words = merge.split(" ") if isinstance(merge, str) else merge
    if isinstance(words, list) and len(words) == 2 and type(words[0]) is type(words[1]) is str:
        return words[0], words[1]
    raise Problem(f"the tokenizer's merge {str(merge)[:40]!r} is not a pair of words")


def expect(value: Any, kind: type, what: str) -> Any:
    """A value, if it is of a kind.

    Raises:
        Problem: it is not.
    """
    if not isinstance(value, kind):
        raise Problem(f"{what} is {type(value).__name__}, not {kind.__name__}")
    return value


def core(data: Mapping[str, Any], words: Vocabulary) -> Any:
    """A ``tokenizers.Tokenizer`` that knows no special tokens: no text can become one.

    The vocabulary does not go through JSON a second time, which would take as long again.

    Raises:
        Problem: the library is missing or refuses it.
    """
    tokenizers = library()
    shell = {
        **empty(), "normalizer": data.get("normalizer"), "pre_tokenizer": data["pre_tokenizer"],
    }  # fmt: skip
    with panics("the tokenizer cannot be made"):
        made = tokenizers.Tokenizer.from_str(json.dumps(shell))
        made.model = tokenizers.models.BPE(
            words.merged | words.plain,
            words.merges,
            ignore_merges=bool(data["model"].get("ignore_merges")),
        )
        made.add_tokens(
            [
                tokenizers.AddedToken(
                    token["content"],
                    **{
                        flag: bool(token.get(flag))
                        for flag in ("single_word", "lstrip", "rstrip", "normalized")
                    },
                )
                for token in data.get("added_tokens") or []
                if not token.get("special")
            ]
        )
    return made


@contextmanager
def panics(what: str) -> Iterator[None]:
    """Make a Problem of whatever a library that is written in Rust raises. Where it panics, that is
    no Exception."""
    try:
        yield
    except (Problem, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as problem:
        raise Problem(f"{what}: {problem}") from None


def empty() -> dict[str, Any]:
    """A `tokenizer.json` without a vocabulary."""
    letters = {
        "type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False,
    }  # fmt: skip
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
        "normalizer": None, "pre_tokenizer": letters, "post_processor": None, "decoder": letters,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "ignore_merges": False, "vocab": {}, "merges": [],
        },
    }  # fmt: skip


def written(
    words: Mapping[str, int],
    merges: Sequence[Any],
    added: Sequence[Mapping[str, Any]],
    splits: Sequence[str],
    whole_words: bool,
) -> dict[str, Any]:
    """The `tokenizer.json` of a byte-level BPE.

    Args:
        words: the vocabulary in the byte-level alphabet.
        merges: pairs of words.
        added: from `added_token`.
        splits: expressions that split a text, one after the other.
        whole_words: whether a word that is a token is taken without merging.
    """
    data = empty()
    data["added_tokens"] = list(added)
    cuts = [
        {"type": "Split", "pattern": {"Regex": s}, "behavior": "Isolated", "invert": False}
        for s in splits
    ]
    data["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*cuts, data["pre_tokenizer"]]}
    data["model"] |= {"ignore_merges": whole_words, "vocab": dict(words), "merges": list(merges)}
    return data


def added_token(token: int, content: str, special: bool) -> dict[str, Any]:
    """An entry of ``added_tokens`` in a `tokenizer.json`."""
    return {
        "id": token, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
        "normalized": False, "special": special,
    }  # fmt: skip


def begun_by(name: str, token: int) -> dict[str, Any]:
    """The ``post_processor`` of a `tokenizer.json` that puts a special token before a text."""
    special = {"SpecialToken": {"id": name, "type_id": 0}}
    text, second = ({"Sequence": {"id": which, "type_id": i}} for i, which in enumerate("AB"))
    return {
        "type": "TemplateProcessing", "single": [special, text], "pair": [special, text, second],
        "special_tokens": {name: {"id": name, "ids": [token], "tokens": [name]}},
    }  # fmt: skip


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


def spelled(words: Sequence[str]) -> list[bytes]:
    """The bytes that words of the byte-level alphabet stand for.

    Raises:
        Problem: a word has a letter that is not of the alphabet.

    Example:
        >>> spelled(["Ġé", "A"])
        [b' \\xe9', b'A']
    """
    letters = byte_of_letter()
    joined = "".join(words)
    if strange := set(joined) - letters.keys():
        word = next(word for word in words if strange & set(word))
        raise Problem(f"the token {word!r} is not spelled in the byte-level alphabet")
    table = str.maketrans({letter: chr(byte) for letter, byte in letters.items()})
    spelling = joined.translate(table).encode("latin-1")
    ends = np.cumsum([len(word) for word in words]).tolist()
    return [spelling[end - len(word) : end] for word, end in zip(words, ends, strict=True)]


def byte_of_letter() -> dict[str, int]:
    """The byte-level alphabet: printable Latin-1 stands for itself, the rest for U+0100 and on.

    Example:
        >>> byte_of_letter()["A"], byte_of_letter()["Ġ"]
        (65, 32)
    """
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(rest)}
