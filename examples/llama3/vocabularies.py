"""Tokenizers in the files of others: the metadata of a GGUF file, and Hugging Face's folders.

A folder has them in several files, which differ in age: ``tokenizer.json`` says what the tokens
are; which of them begin and end a text stands in ``tokenizer_config.json``, in
``special_tokens_map.json``, or, as numbers, in ``generation_config.json`` and ``config.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from examples.llama3 import bytelevel, templates
from examples.llama3.bytelevel import SPLITS, added_token, expect
from examples.llama3.files import Problem, Settings
from examples.llama3.tokenizer import BytePairs, Tokenizer, named, read_json, write_json

# In Hugging Face's folders.
TOKENIZER, SETTINGS = "tokenizer.json", "tokenizer_config.json"
SPECIALS, CHAT = "special_tokens_map.json", "chat_template.jinja"
GENERATION, CONFIG = "generation_config.json", "config.json"

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
        name = f"tokenizer.ggml.{name}"
        return expect(fields.get(name, default), kind, f"the GGUF file's {name}")

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
    words, kinds = field("tokens", list), field("token_type", list)
    if strange := {*map(type, words)} - {str}:
        raise Problem(f"the GGUF file has tokens that are {strange.pop().__name__}, not str")
    different = set(words)
    if not len(words) == len(kinds) == len(different):
        raise Problem(
            f"the GGUF file has {len(words)} tokens, {len(different)} different ones, and "
            f"{len(kinds)} token types; the three must agree"
        )
    ends = [field(f"{end}_token_id", int) for end in ("bos", "eos")]
    if not all(0 <= end < len(words) for end in ends):
        raise Problem(
            f"the GGUF file's texts begin and end with tokens {ends}, of {len(words)} tokens"
        )
    added = [
        added_token(i, words[i], special=kind != USER)
        for i, kind in enumerate(kinds)
        if kind in CONTROL or kind == USER
    ]
    vocabulary = dict(zip(words, range(len(words)), strict=True))
    data = bytelevel.written(vocabulary, field("merges", list), added, *SPLITS[pre])
    tokenizer = BytePairs(data, *(words[end] for end in ends))
    tokenizer.begins = field("add_bos_token", bool, SPLITS[pre] == SPLITS["llama-bpe"])
    tokenizer.chat = expect(fields.get("tokenizer.chat_template", ""), str, "the chat template")
    further = [fields.get(f"tokenizer.ggml.{end}_token_id") for end in ("eot", "eom")]
    tokenizer.ends |= {i for i in ids(further) if i < tokenizer.vocab}
    return tokenizer


def from_huggingface(folder: Path) -> BytePairs:
    """The tokenizer in a folder of Hugging Face.

    Raises:
        Problem: a file is missing, damaged, or of a kind that is not known here.
    """
    data = read_json(folder / TOKENIZER)
    about = said(folder / SPECIALS) | said(folder / SETTINGS)
    numbers = said(folder / CONFIG) | said(folder / GENERATION)
    with named(folder / TOKENIZER):
        bos, eos = (name_of(end, about, numbers, data) for end in ("bos", "eos"))
        tokenizer = BytePairs(data, bos or eos, eos)
    puts_bos = bool(bos) and json.dumps(bos) in json.dumps(data.get("post_processor"))
    tokenizer.begins = bool(about.get("add_bos_token", puts_bos))
    tokenizer.ends |= {i for i in ids(numbers.get("eos_token_id")) if i < tokenizer.vocab}
    tokenizer.chat = chat_of(folder, about)
    return tokenizer


def said(path: Path) -> dict[str, Any]:
    """What a JSON file says; one that is not there says nothing."""
    values = Settings.read(path).values if path.exists() else {}
    return {name: value for name, value in values.items() if value is not None}


def name_of(
    end: str, about: Mapping[str, Any], numbers: Mapping[str, Any], data: dict[str, Any]
) -> str:
    """The name of the token that begins or ends a text, or none."""
    token = about.get(f"{end}_token", "")
    name = token.get("content") if isinstance(token, dict) else token
    if not name and (known := ids(numbers.get(f"{end}_token_id"))):
        names = {i: name for name, i in bytelevel.vocabulary(data).specials.items()}
        name = names.get(known[0], "")
    return expect(name, str, f"the {end}_token in {SETTINGS}")


def ids(value: Any) -> list[int]:
    """The tokens that a file numbers: one, or several in a list."""
    several = value if isinstance(value, list) else [value]
    return [i for i in several if type(i) is int and i >= 0]


def chat_of(folder: Path, about: Mapping[str, Any]) -> str:
    """How a chat is written, in Jinja's language; nothing, if no file says it."""
    if (folder / CHAT).exists():
        return (folder / CHAT).read_text(encoding="utf-8", errors="replace")
    found = about.get("chat_template", "")
    if isinstance(found, list):  # several, by names
        by_name = {str(t.get("name")): t.get("template") for t in found if isinstance(t, dict)}
        found = by_name.get("default", "")
    return expect(found, str, f"the chat_template in {folder / SETTINGS}")


def save_for_transformers(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the files that `from_huggingface` and `transformers` read."""
    names = {token: name for name, token in tokenizer.specials.items()}
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": tokenizer.begins,
        "bos_token": names[tokenizer.bos], "eos_token": names[tokenizer.eos],
        "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    data, ends = tokenizer.huggingface(), tokenizer.ends
    if tokenizer.begins:
        data = {**data, "post_processor": bytelevel.begun_by(names[tokenizer.bos], tokenizer.bos)}
    if template := templates.known(tokenizer):
        ends = template.stops(tokenizer)
        about["chat_template"] = tokenizer.chat or template.jinja()
    write_json(folder / TOKENIZER, data)
    write_json(folder / SETTINGS, about)
    write_json(folder / GENERATION, {"bos_token_id": tokenizer.bos, "eos_token_id": sorted(ends)})
