"""A needle in a haystack (section 3.4.2): does a model find one fact in a long text?

Somewhere in text that has nothing to do with it a fact is stated, and at the end asked for. Prompts
of a grid of lengths and depths are asked many times, with another fact each. An answer counts if
greedy writing gives it to the last token. What can be guessed is measured as well: the same prompts
without the needle.

A small model learns to answer within a minute from text that `write_text` makes up: words among
which pairs such as ``Kc`` stand, a key and a value, that ``?K`` asks for.
"""

from __future__ import annotations

import csv
import io
import json
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import lantern as ln
from examples.display import picture
from examples.llama3.config import ModelConfig
from examples.llama3.files import Problem, write_atomically
from examples.llama3.model import Params, output, stream
from examples.llama3.quantise import linear
from examples.llama3.tokenizer import Tokenizer

GRID, HEATMAP = "needle.csv", "needle.png"
WORDS = (
    "the", "sea", "and", "a", "road", "wind", "hill", "sun", "rain", "bird", "tree", "calm", "east",
    "river", "stone",
)  # fmt: skip
VALUES = "abcdefghij"
CITIES = (
    "Oslo", "Rome", "Cairo", "Lima", "Delhi", "Tokyo", "Paris", "Quito", "Accra", "Minsk", "Dakar",
    "Seoul", "Perth", "Bern",
)  # fmt: skip
TOGETHER = 2**13  # tokens that the model reads at once


class Fact(NamedTuple):
    """What is hidden, how it is asked for, and what follows then."""

    statement: str
    question: str
    answer: str


def pair(rng: np.random.Generator) -> Fact:
    """A key and a value, as the text of `write_text` has them."""
    key, value = rng.choice(list(string.ascii_uppercase)), rng.choice(list(VALUES))
    return Fact(f" {key}{value}", f" ?{key}", f" {key}{value}")


def sentence(rng: np.random.Generator) -> Fact:
    """A number of a city, for models that know English."""
    city, number = rng.choice(CITIES), rng.integers(1000, 10000)
    return Fact(
        f" The secret number of {city} is {number}.",
        f"\nQuestion: What is the secret number of {city}?\nAnswer: The secret number of {city} is",
        f" {number}",
    )


FACTS: dict[str, Callable[[np.random.Generator], Fact]] = {"pair": pair, "sentence": sentence}


def write_text(path: Path, documents: int, longest: int, seed: int = 0) -> None:
    """Write documents to learn retrieval from, as JSONL.

    Args:
        path: the file.
        documents: how many.
        longest: tokens in the longest; others have down to 24, evenly in the logarithm.
        seed: of everything.
    """
    rng = np.random.default_rng(seed)

    def fill(temporary: Path) -> None:
        with open(temporary, "w") as file:
            for _ in range(documents):
                length = int(np.exp(rng.uniform(np.log(24), np.log(longest))))
                file.write(json.dumps({"text": "".join(retrieval(rng, length))}) + "\n")

    write_atomically(path, fill)


def retrieval(rng: np.random.Generator, length: int) -> Iterator[str]:
    """Words of a document of about so many tokens: between words that say nothing, pairs, and
    questions for those that were there, with their answers."""
    keys = rng.permutation(list(string.ascii_uppercase))[: rng.integers(2, 9)]
    values = rng.choice(list(VALUES), len(keys))
    asking, known = rng.uniform(0.2, 0.6), 0
    while length > 0:
        length -= 1
        if known < len(keys) and rng.random() < 0.25:
            yield f" {keys[known]}{values[known]}"
            known += 1
        elif known and rng.random() < asking:
            i = rng.integers(known)
            yield f" ?{keys[i]} {keys[i]}{values[i]}"
            length -= 2  # it has three tokens
        else:
            yield f" {rng.choice(WORDS)}"


# Asking -------------------------------------------------------------------------------------------


class Prompt(NamedTuple):
    """Tokens that end with a fact's question and answer, and how many of them are the answer."""

    tokens: list[int]
    answer: int


def prompt(
    rng: np.random.Generator, words: Tokenizer, fact: Fact, haystack: np.ndarray, length: int,
    depth: float, hidden: bool = True,
) -> Prompt:  # fmt: skip
    """A prompt of an exact length, its answer included.

    Args:
        rng: draws the piece of the haystack.
        words: the tokenizer.
        fact: what is hidden.
        haystack: tokens.
        length: of the prompt, in tokens.
        depth: where the needle is: 0 at the begin, 1 right before the question.
        hidden: False leaves the needle out.

    Raises:
        Problem: the length has no room for needle and question, or the haystack is too short.
    """
    needle = words.encode(fact.statement) if hidden else []
    asked = words.encode(fact.question)
    answer = words.encode(fact.question + fact.answer)[len(asked) :]
    room = length - 1 - len(needle) - len(asked) - len(answer)
    if room < 0 or room >= len(haystack):
        raise Problem(
            f"a needle's prompt of {length} tokens takes {room} of haystack, which has "
            f"{len(haystack)}: ask for other --lengths, or give more text with --haystack"
        )
    start = rng.integers(len(haystack) - room)
    hay = haystack[start : start + room].tolist()
    place = round(depth * room)
    return Prompt([words.bos, *hay[:place], *needle, *hay[place:], *asked, *answer], len(answer))


def haystack_of(words: Tokenizer, kind: str, text: str, longest: int, seed: int) -> np.ndarray:
    """Tokens to hide a needle in: of a text, or of made-up words."""
    if kind == "pair" and not text:
        rng = np.random.default_rng(seed)
        text = "".join(f" {w}" for w in rng.choice(WORDS, 4 * longest))
    return np.array(words.encode(text), np.int64)


def answers(
    params: Params, config: ModelConfig, last: int, eager: bool, threads: int | None
) -> Callable[[np.ndarray], np.ndarray]:
    """The function from tokens [B, T] to the most likely ones at the last places [B, last].

    The true answer is among the tokens that are read. That counts as greedy writing does: what is
    written is the answer exactly if each of its tokens is the most likely one after those before.
    """

    def likely(params: Params, tokens: Any) -> ln.Tensor:
        x, _ = stream(params, tokens, config, None)
        x = x[:, tokens.shape[1] - last - 1 : tokens.shape[1] - 1]
        return ln.argmax(linear(x, output(params, config)), axis=-1)

    run = likely if eager else ln.compile(likely, threads=threads)
    return lambda tokens: np.asarray(run(params, tokens))


@dataclass(frozen=True)
class Cell:
    """What was found at a length and a depth.

    Attributes:
        length: of the prompts, in tokens.
        depth: of the needle in it.
        trials: how many prompts.
        right: how many were answered.
        guessed: how many were answered without a needle.
    """

    length: int
    depth: float
    trials: int
    right: int
    guessed: int


def ask(
    params: Params, config: ModelConfig, words: Tokenizer, kind: str, haystack: np.ndarray,
    length: int, depths: Sequence[float], trials: int, seed: int = 0, eager: bool = False,
    threads: int | None = None,
) -> Iterator[Cell]:  # fmt: skip
    """The cells of a length.

    Args:
        params, config, words: the model.
        kind: of fact, one of `FACTS`.
        haystack: tokens.
        length: of the prompts, in tokens.
        depths: of the needles.
        trials: prompts for each depth.
        seed: of facts and pieces.
        eager: not compiled.
        threads: of the compiled program.
    """
    rng = np.random.default_rng([seed, length])
    last = 1 + max(len(words.encode(FACTS[kind](rng).answer)) for _ in range(50))
    likely = answers(params, config, last, eager, threads)
    size = max(1, min(trials, TOGETHER // length))

    def right(prompts: list[Prompt]) -> int:
        count = 0
        for i in range(0, len(prompts), size):
            some = prompts[i : i + size]
            tokens = np.array([p.tokens for p in some + some[:1] * (size - len(some))])
            best = likely(tokens)
            count += sum(
                np.array_equal(best[k, last - p.answer :], p.tokens[-p.answer :])
                for k, p in enumerate(some)
            )
        return count

    for depth in depths:
        facts = [FACTS[kind](rng) for _ in range(trials)]
        found, guessed = (
            right([prompt(rng, words, f, haystack, length, depth, hidden) for f in facts])
            for hidden in (True, False)
        )
        yield Cell(length, depth, trials, found, guessed)


# Files --------------------------------------------------------------------------------------------


def save_grid(path: Path, cells: Sequence[Cell]) -> None:
    """Write the cells as CSV."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["length", "depth", "trials", "right", "guessed"])
    table.writerows([c.length, c.depth, c.trials, c.right, c.guessed] for c in cells)
    write_atomically(path, lambda p: p.write_text(text.getvalue()))


def draw(path: Path, cells: Sequence[Cell], title: str) -> None:
    """Draw the share of right answers as a heat map, lengths across and depths down.

    Raises:
        Problem: matplotlib is not installed.
    """
    lengths, depths = (sorted({getattr(c, name) for c in cells}) for name in ("length", "depth"))
    shares = np.full((len(depths), len(lengths)), np.nan)
    for c in cells:
        shares[depths.index(c.depth), lengths.index(c.length)] = c.right / c.trials
    with picture(path, 2 + 0.9 * len(lengths), 1.5 + 0.5 * len(depths)) as figure:
        axes = figure.add_subplot()
        image = axes.imshow(shares, cmap="RdYlGn", vmin=0, vmax=1, aspect="auto")
        for (i, j), share in np.ndenumerate(shares):
            axes.text(j, i, f"{share:.0%}", ha="center", va="center", fontsize=8)
        axes.set_xticks(range(len(lengths)), lengths)
        axes.set_yticks(range(len(depths)), [f"{d:.0%}" for d in depths])
        axes.set(xlabel="tokens in the prompt", ylabel="depth of the needle", title=title)
        figure.colorbar(image, label="answered")
