"""What the commands that use a trained model have in common."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

import lantern as ln
from examples.console import show
from examples.llama3 import weights
from examples.llama3.cache import BITS as CACHE_BITS
from examples.llama3.files import Problem
from examples.llama3.quantise import quantised
from examples.llama3.report import energy, weight
from examples.llama3.weights import Loaded

BITS = (32, 8, 4)


def add_model(
    command: argparse.ArgumentParser, default: str = "SmolLM2-135M-Instruct",
    bits: str = "as few as the file has",
) -> None:  # fmt: skip
    """The options that say which model; ``default`` and ``bits`` tell what is taken otherwise."""
    command.add_argument(
        "--model", type=Path, metavar="PATH",
        help=f"a .gguf file, a folder of Hugging Face, or a run's folder (default: {default})",
    )  # fmt: skip
    command.add_argument(
        "--bits", type=int, choices=BITS,
        help=f"of a weight; 32: floats (default: {bits})",
    )  # fmt: skip
    command.add_argument(
        "--cache-bits", type=int, choices=CACHE_BITS, default=CACHE_BITS[0],
        help="of a number in the keys and values that are kept; 8: faster, a little less exact "
        f"(default: {CACHE_BITS[0]}, floats)",
    )  # fmt: skip


def load(path: Path | None, bits: int | None, console: Console) -> Loaded:
    """The model that is asked for, SmolLM2 if none is.

    Raises:
        Problem: there is none, or it is damaged; the message says which, and what to do.
    """
    model = weights.load(path or weights.smollm2(), console=console, keep=bits != 32)
    if bits in (8, 4):
        return dataclasses.replace(model, params=quantised(model.params, bits))
    return model


class Work:
    """What a session did.

    Attributes:
        tokens: how many were written.
        seconds: for how long.
    """

    def __init__(self) -> None:
        self.tokens, self.seconds = 0, 0.0

    def __str__(self) -> str:
        rate = f", {self.tokens / self.seconds:.1f} a second" if self.seconds else ""
        return f"{self.tokens:,} tokens written{rate}"


@contextmanager
def told(console: Console) -> Iterator[Work]:
    """A context that says in the end what its work was, and took of energy and emissions.

    That is this process's share, as a chat spends most of its time waiting, and operational: a
    run's report tells of what making the machine emitted, too.

    Raises:
        Problem: nothing can be measured here.
    """
    work = Work()
    try:
        with ln.carbon.Meter(scope="process") as meter:
            yield work
    except ln.errors.MeterError as problem:
        raise Problem(problem.args[0]) from None
    taken = meter.read()
    known = "estimated" if taken.estimated else "measured"
    show(console, f"{work}; {energy(taken.joules)}, {weight(taken.grams)} CO2e ({known})")
