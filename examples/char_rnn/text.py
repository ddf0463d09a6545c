"""A text as numbers, and the windows of it that a network sees one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from examples.llama3.files import Problem

DEFAULT = Path(__file__).with_name("coriolanus.txt")


class Text(NamedTuple):
    """A text, encoded.

    Attributes:
        letters: those that occur; a letter's number is its place.
        train: the numbers of the text to learn from.
        valid: those of the end, held out.
    """

    letters: str
    train: np.ndarray
    valid: np.ndarray

    def encode(self, text: str) -> np.ndarray:
        """The numbers of letters.

        Raises:
            Problem: a letter does not occur in the text.
        """
        strange = sorted(set(text) - set(self.letters))
        if strange:
            raise Problem(f"the text has no {', '.join(map(repr, strange))}")
        return np.asarray([self.letters.index(letter) for letter in text], np.int64)

    def decode(self, numbers: np.ndarray) -> str:
        """The inverse of `encode`.

        Example:
            >>> text = Text("abn", np.zeros(0), np.zeros(0))
            >>> text.decode(text.encode("banana"))
            'banana'
        """
        return "".join(self.letters[n] for n in numbers)


def read(path: Path, valid: float = 0.1) -> Text:
    """The text of a file.

    Args:
        path: the file, in UTF-8.
        valid: the part of it that is held out, at the end.

    Raises:
        Problem: there is no such file, it is not text, or it is too short.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise Problem(f"there is no {path}") from None
    except UnicodeDecodeError as problem:
        raise Problem(f"{path} is not text: {problem}") from None
    letters = "".join(sorted(set(content)))
    numbers = Text(letters, np.zeros(0), np.zeros(0)).encode(content)
    held = int(len(numbers) * valid)
    return Text(letters, numbers[: len(numbers) - held], numbers[len(numbers) - held :])


def windows(
    numbers: np.ndarray, batch: int, steps: int, place: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Letters and those that follow each, (T, B), from the start of a text to its end.

    The text is cut into B strands side by side; each window goes on where the last one ended, so
    that a state can be carried from one to the next.

    Raises:
        Problem: the text is too short for one window.

    Example:
        >>> for x, y in windows(np.arange(9), batch=2, steps=2, place="this"):
        ...     print(x.tolist(), y.tolist())
        [[0, 4], [1, 5]] [[1, 5], [2, 6]]
        [[2, 6], [3, 7]] [[3, 7], [4, 8]]
    """
    length = (len(numbers) - 1) // batch // steps * steps
    if length < steps:
        raise Problem(
            f"{place} has {len(numbers)} letters; {batch} strands of {steps} take at least "
            f"{batch * steps + 1}: choose a smaller --batch or --steps, or a longer text"
        )
    x, y = (numbers[i : i + batch * length].reshape(batch, length).T for i in (0, 1))
    for start in range(0, length, steps):
        yield x[start : start + steps].copy(), y[start : start + steps].copy()
