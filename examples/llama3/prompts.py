"""Prompts in files, and the answers to them.

A file of prompts has one on each line: text, or JSON (`FORMAT`) with settings of its own beside it:
"tokens", "stop", and those of `Sampling`. A file of answers is JSON Lines: the number of the line,
what it asked, and the answer.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from examples.llama3.files import Problem
from examples.llama3.sampling import Sampling
from examples.llama3.serve import Request, Result
from examples.llama3.weights import Loaded

LONGEST = 1 << 20  # bytes in a line
FORMAT = '{"prompt": "…"} or {"messages": [{"role": "user", "content": "…"}]}'
# The settings of sampling that a line may have, and the types of their values.
SETTINGS: dict[str, tuple[type, ...]] = {
    f.name: (int, float) if isinstance(f.default, float) else (int,)
    for f in dataclasses.fields(Sampling)
}
KNOWN = ("prompt", "messages", "tokens", "stop", *SETTINGS)


class Prompt(NamedTuple):
    """A line of a file.

    Attributes:
        line: its number, from 1.
        asked: its text, or the object in it.
    """

    line: int
    asked: str | dict[str, Any]


@dataclass(frozen=True)
class Wish:
    """How prompts are answered where their line says nothing else.

    Attributes:
        how: tokens are chosen.
        count: of tokens at most.
        strings: that end an answer.
        chat: whether a prompt is what a user says, rather than the beginning of a text.
    """

    how: Sampling
    count: int
    strings: tuple[str, ...] = ()
    chat: bool = False


def read(file: BinaryIO, name: str, jsonl: bool) -> Iterator[Prompt]:
    """The prompts in a file; empty lines are passed over.

    Raises:
        Problem: a line is bad.
    """
    number = 0
    while raw := file.readline(LONGEST + 1):
        number += 1
        where = f"{name}, line {number}"
        if len(raw) > LONGEST:
            raise Problem(f"{where}: more than {LONGEST:,} bytes")
        try:
            text = raw.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as problem:
            raise Problem(f"{where}: not UTF-8: {problem.reason} at byte {problem.start}") from None
        if text.strip():
            yield Prompt(number, parsed(text, where) if jsonl else text)


def parsed(text: str, where: str) -> dict[str, Any]:
    """The object in a line of JSON.

    Raises:
        Problem: it has none, or not such a one.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise Problem(f"{where}: no JSON: {problem}") from None
    if not isinstance(found, dict) or ("prompt" in found) == ("messages" in found):
        raise Problem(f"{where}: expected {FORMAT}")
    if unknown := [key for key in found if key not in KNOWN]:
        raise Problem(f"{where}: {unknown[0]!r:.80} is unknown; known are {', '.join(KNOWN)}")
    for name, kinds in {
        "prompt": (str,),
        "messages": (list,),
        "tokens": (int,),
        **SETTINGS,
    }.items():
        value = found.get(name, kinds[0]())
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise Problem(f"{where}: {name} is {value!r:.80}")
    stops = found.get("stop", [])
    if not isinstance(stops, list) or not all(isinstance(s, str) and s for s in stops):
        raise Problem(f"{where}: stop is {stops!r:.80}; expected a list of strings")
    return found


def request(prompt: Prompt, model: Loaded, wish: Wish, name: str) -> Request:
    """What a prompt asks of a model.

    Raises:
        Problem: the model cannot do that; the message names the line.
    """
    asked = prompt.asked
    own: dict[str, Any] = asked if isinstance(asked, dict) else {"prompt": asked}
    words, chat = model.tokenizer, wish.chat or "messages" in own
    try:
        if chat:
            said = own.get("messages", [{"role": "user", "content": own.get("prompt")}])
            tokens, stops = model.template.render(said, words), model.template.stops(words)
        else:
            tokens, stops = words.begin(own["prompt"]), words.ends
        how = dataclasses.replace(wish.how, **{k: v for k, v in own.items() if k in SETTINGS})
        how.check()
    except Problem as problem:
        raise Problem(f"{name}, line {prompt.line}: {problem}") from None
    strings = tuple(own.get("stop", wish.strings))
    return Request(tokens, how, own.get("tokens", wish.count), stops, strings)


def answer(prompt: Prompt, result: Result, pieces: Sequence[str] | None = None) -> str:
    """A line of a file of answers.

    Args:
        prompt: what was asked.
        result: the answer.
        pieces: the tokens' texts, to be given with their log-probabilities.
    """
    row: dict[str, Any] = {
        "line": prompt.line, "asked": prompt.asked, "text": result.text, "end": result.reason,
        "tokens": len(result.tokens),
    }  # fmt: skip
    if pieces is not None:
        row["logprobs"] = [[t, round(p, 6)] for t, p in zip(pieces, result.logprobs, strict=True)]
    return json.dumps(row, ensure_ascii=False) + "\n"


def answered(path: Path, prompts: Sequence[Prompt]) -> set[int]:
    """The lines that a file of answers, which need not exist, has answered already.

    Raises:
        Problem: it has something else, or answers to other prompts.
    """
    asked = {prompt.line: prompt.asked for prompt in prompts}
    found: set[int] = set()
    if not path.exists():
        return found
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
            if asked[row["line"]] != row["asked"]:
                raise ValueError
        except (ValueError, TypeError, LookupError, RecursionError):
            raise Problem(
                f"{path} has something other than answers to these prompts: {line:.80}"
            ) from None
        found.add(row["line"])
    return found
