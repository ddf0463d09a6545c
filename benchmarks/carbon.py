"""What each optimisation saves of energy: ``python -m benchmarks.carbon [--grid FRA] [--quick]``.

The same work is done with an optimisation and without it, in one process, by turns; both must agree
on the result first. Energy is that of this process, its share of load and memory, by
`lantern.carbon.Meter`; a ratio is formed within a round, so that what other programs do at that
time touches both.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import lantern as ln
from benchmarks import llama3_data as data
from benchmarks.llama3_lantern import config_of, step
from benchmarks.worker import Clock
from examples.llama3 import cache, model
from examples.llama3.quantise import quantised
from lantern.carbon import Meter, Reading

Work = Callable[[], Any]


@dataclass(frozen=True)
class Way:
    """One way to do some work.

    Attributes:
        name: of it.
        run: does it once, and gives what it found.
        tokens: that it reads or writes.
    """

    name: str
    run: Work
    tokens: int


@dataclass(frozen=True)
class Saving:
    """The same work without an optimisation and with it.

    Attributes:
        name: of the optimisation, and of the work.
        without: the slow way.
        optimised: the other.
        tolerance: how far the results may differ, relative to the largest number.
    """

    name: str
    without: Way
    optimised: Way
    tolerance: float


@dataclass(frozen=True)
class Saved:
    """What a `Saving` came to.

    Attributes:
        name: of the saving.
        ways: the names of both ways.
        per_token: joules a token, of both: the medians.
        ratio: of the first to the second: the median over the rounds.
        seconds: the same for the time.
        grams: of CO2 equivalents a joule.
    """

    name: str
    ways: tuple[str, str]
    per_token: tuple[float, float]
    ratio: float
    seconds: float
    grams: float


def savings(shape: str, context: int) -> Iterator[Saving]:
    """Every optimisation on a network of a shape, the decoding ones behind a context."""
    s = data.SHAPES[shape]
    trained = s.batch * s.context

    def training(name: str, compiled: bool, bf16: bool = False) -> Way:
        job = step(shape, compiled, bf16)
        return Way(name, lambda: job.run(Clock()), trained)

    yield Saving("compiling a training step", training("eager", False), training("native", True),
                 1e-3)  # fmt: skip
    yield Saving("bfloat16 in a training step", training("float32", True),
                 training("bfloat16", True, bf16=True), 1e-2)  # fmt: skip
    writing = Decoding(s, context)
    for bits, tolerance in ((8, 0.05), (4, 0.5)):
        few = quantised(writing.params, bits)
        yield Saving(f"weights of {bits} bits, a token written", writing.way("float32"),
                     writing.way(f"{bits} bits", params=few), tolerance)  # fmt: skip
    yield Saving("a cache of keys and values, a token written", writing.again("read again"),
                 writing.way("cached"), 1e-3)  # fmt: skip
    yield Saving("16 texts at once, a token written for each", writing.one_by_one("one by one", 16),
                 writing.way("together", batch=16), 1e-3)  # fmt: skip


class Decoding:
    """Ways to find the logits of the next token behind a text of so many tokens."""

    def __init__(self, shape: data.Shape, context: int) -> None:
        self.config = dataclasses.replace(config_of(shape), context=context + 1)
        self.params = data.mapped(ln.asarray, data.parameters(shape))
        rng = np.random.default_rng(0)
        self.text = rng.integers(0, shape.vocab, (1, context + 1))
        self.read = ln.compile(lambda params, tokens: model.forward(params, tokens, self.config))
        self.extend = ln.compile(
            lambda params, tokens, known: model.extend(params, tokens, self.config, known),
            donate=("known",),
        )
        self.context = context

    def way(self, name: str, params: Any = None, batch: int = 1) -> Way:
        """With a cache; for a batch, every text is the same one."""
        params = self.params if params is None else params
        texts = np.repeat(self.text, batch, axis=0)
        room = cache.empty(self.config, batch, cache.capacity_for(self.context + 1))
        known = self.extend(self.params, texts[:, :-1], room)[1].layers

        def write() -> Any:
            nonlocal known
            before = ln.full(batch, self.context, dtype=ln.int64)  # the last token is new again
            logits, after = self.extend(params, texts[:, -1:], cache.Cache(known, before))
            known = after.layers
            return np.asarray(logits)[:, -1]

        return Way(name, write, batch)

    def again(self, name: str) -> Way:
        """Without a cache: the whole text is read for each token."""
        return Way(name, lambda: np.asarray(self.read(self.params, self.text))[:, -1], 1)

    def one_by_one(self, name: str, batch: int) -> Way:
        """A batch, text by text."""
        one = self.way(name).run
        return Way(name, lambda: np.concatenate([one() for _ in range(batch)]), batch)


def agree(saving: Saving) -> None:
    """Do the work both ways, and compare what they find.

    Raises:
        AssertionError: they differ.
    """
    a, b = (np.asarray(way.run(), np.float64) for way in (saving.without, saving.optimised))
    apart = float(np.max(np.abs(a - b)) / np.max(np.abs(a)))
    assert apart <= saving.tolerance, f"{saving.name}: results differ by {apart:.2g}"


def turn(way: Way, meter: Meter, seconds: float) -> tuple[float, float]:
    """Joules and seconds a token, over a turn of at least so long."""
    before, tokens = meter.read(fresh=True), 0
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        way.run()
        tokens += way.tokens
    took: Reading = meter.read(fresh=True).since(before)
    return took.joules / tokens, took.seconds / tokens


def measured(saving: Saving, meter: Meter, rounds: int, seconds: float) -> Saved:
    """Both ways by turns."""
    agree(saving)
    ways = (saving.without, saving.optimised)
    turns = [[turn(way, meter, seconds) for way in ways] for _ in range(rounds)]
    middle = statistics.median
    return Saved(
        saving.name,
        (ways[0].name, ways[1].name),
        (middle(t[0][0] for t in turns), middle(t[1][0] for t in turns)),
        middle(t[0][0] / t[1][0] for t in turns),
        middle(t[0][1] / t[1][1] for t in turns),
        meter.grid.grams / 3.6e6,
    )


def markdown(found: Sequence[Saved], meter: Meter) -> str:
    """The table, and what it rests on."""
    lines = [
        "| | J a million tokens | g CO2e a million tokens | energy | time |",
        "|---|---|---|---|---|",
    ]
    for s in found:
        joules = [x * 1e6 for x in s.per_token]
        lines.append(
            f"| {s.name}: {s.ways[0]} → {s.ways[1]} | {joules[0]:,.0f} → {joules[1]:,.0f} | "
            f"{joules[0] * s.grams:.3g} → {joules[1] * s.grams:.3g} | ÷ {s.ratio:.2f} | "
            f"÷ {s.seconds:.2f} |"
        )
    return "\n".join([
        *lines, "",
        f"Energy of the process, {meter.read().source}; {meter.grid.name}, "
        f"{meter.grid.grams:g} g/kWh.", "",
    ])  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all, and print the table."""
    parser = argparse.ArgumentParser(description="Measure what each optimisation saves of energy.")
    parser.add_argument("--grid", default="world", help="whose electricity (default: the world's)")
    parser.add_argument("--quick", action="store_true", help="a tiny network and short turns")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the table there, too")
    given = parser.parse_args(arguments)
    shape, context, rounds, seconds = ("tiny", 8, 1, 0.05) if given.quick else ("A", 256, 5, 2.0)
    found = []
    with Meter(grid=given.grid, scope="process") as meter:
        for saving in savings(shape, context):
            found.append(measured(saving, meter, rounds, seconds))
            print(f"{saving.name}: ÷ {found[-1].ratio:.2f}", flush=True)
        text = markdown(found, meter)
    print(f"\n{text}")
    if given.save:
        given.save.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
