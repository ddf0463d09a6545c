"""Small tasks with one right answer each, as chats: what fine-tuning teaches within minutes.

Section 4.3 of *The Llama 3 Herd of Models* makes data for capabilities that can be checked by a
program; here the program makes the questions, too.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

from examples.llama3.files import write_atomically

WORDS = """
apple bread chair dream eagle flame grape house island juice knife lemon music night ocean piano
queen river stone table uncle voice water youth zebra anchor bottle candle dragon engine forest
garden hammer insect jacket kettle ladder magnet needle orange pencil rabbit saddle temple velvet
window yellow basket circle desert feather
"""


def sort(draw: random.Random) -> tuple[str, str]:
    """Digits, to be put in order."""
    digits = draw.choices("0123456789", k=draw.randint(4, 7))
    return f"Sort these digits: {' '.join(digits)}", " ".join(sorted(digits))


def spell(draw: random.Random) -> tuple[str, str]:
    """Two words, of which the letters are asked for."""
    words = draw.sample(WORDS.split(), k=2)
    return f"Spell: {' '.join(words)}", " / ".join("-".join(word) for word in words)


def add(draw: random.Random) -> tuple[str, str]:
    """A sum of numbers up to 99."""
    a, b = draw.randint(0, 99), draw.randint(0, 99)
    return f"What is {a} plus {b}?", f"{a} + {b} = {a + b}"


TASKS: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    "sort": sort, "spell": spell, "add": add
}  # fmt: skip


def write(path: Path, task: str, count: int, seed: int = 0) -> None:
    """Write a file of chats about a task, no question twice."""
    draw, found = random.Random(seed), dict[str, str]()
    while len(found) < count:
        question, answer = TASKS[task](draw)
        found[question] = answer
    lines = [
        json.dumps({"messages": [
            {"role": "user", "content": question}, {"role": "assistant", "content": answer},
        ]})
        for question, answer in found.items()
    ]  # fmt: skip
    write_atomically(path, lambda p: p.write_text("\n".join(lines) + "\n", encoding="utf-8"))
