"""The harness of all benchmarks: validate, warm up, take turns, report ratios.

A `Workload` is a piece of work that several contenders do; the first of them is the one that the
others are compared with. They must agree on the result before they are timed. Then they take turns,
round after round in rotating order, so that a machine that slows down slows all of them, and the
ratio of each round is formed within that round.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import threadpoolctl
from rich.console import Console
from rich.table import Table

TOTAL = "total"


class Clock:
    """What a contender calls to end a named phase of one run."""

    def __init__(self) -> None:
        self.phases: dict[str, float] = {}
        self.begin = self.last = time.perf_counter()

    def lap(self, phase: str) -> None:
        """End a phase; the next one begins."""
        now = time.perf_counter()
        self.phases[phase] = now - self.last
        self.last = now


@dataclass(frozen=True)
class Contender:
    """One way to do the work.

    Attributes:
        name: the library.
        run: does the work once and returns the result, an array or a sequence of arrays.
        at_most: the target: the first contender's time, divided by this one's, should not exceed
            it; None where nothing is asked.
    """

    name: str
    run: Callable[[Clock], Any]
    at_most: float | None = None


@dataclass(frozen=True)
class Workload:
    """A piece of work.

    Attributes:
        name: what is done.
        contenders: who does it; the first is compared with each of the others.
        count: how many units one run does.
        unit: what a unit is: ``op``, ``token``.
        rtol: how far results may differ, relative to the first contender's largest entry.
        rounds: how often each contender runs.
    """

    name: str
    contenders: Sequence[Contender]
    count: int
    unit: str
    rtol: float
    rounds: int = 9


@dataclass
class Timing:
    """What was measured of one contender in one phase, in seconds a unit.

    ``ratio`` is the median over the rounds of the first contender's time divided by this one's.
    """

    workload: str
    contender: str
    phase: str
    unit: str
    median: float
    spread: float
    ratio: float
    at_most: float | None = None
    rounds: list[float] = field(default_factory=list)

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None where there is none."""
        return None if self.at_most is None else self.ratio <= self.at_most


def peer(name: str) -> Any:
    """A library to compare with, or None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return None


def validate(workload: Workload) -> None:
    """Run every contender once, and compare what they return.

    Raises:
        AssertionError: two contenders disagree.
    """
    first, *others = workload.contenders
    expected = flat(first.run(Clock()))
    scale = max(float(np.max(np.abs(expected))), np.finfo(np.float64).tiny)
    for other in others:
        difference = float(np.max(np.abs(flat(other.run(Clock())) - expected)))
        assert difference <= workload.rtol * scale, (
            f"{workload.name}: {other.name} and {first.name} differ by {difference:.3g}, "
            f"where the largest entry is {scale:.3g}"
        )


def flat(result: Any) -> np.ndarray[Any, Any]:
    """All numbers of a result, in one float64 array."""
    parts = result if isinstance(result, (list, tuple)) else [result]
    return np.concatenate([np.ravel(np.asarray(p, dtype=np.float64)) for p in parts])


def measure(workload: Workload) -> list[Timing]:
    """Validate, which is the warm-up too, and time all contenders by turns."""
    validate(workload)
    contenders = list(workload.contenders)
    seconds: dict[tuple[str, str], list[float]] = {}
    for turn in range(workload.rounds):
        shift = turn % len(contenders)
        for contender in contenders[shift:] + contenders[:shift]:
            gc.collect()
            clock = Clock()
            contender.run(clock)
            clock.phases[TOTAL] = time.perf_counter() - clock.begin
            for phase, elapsed in clock.phases.items():
                seconds.setdefault((contender.name, phase), []).append(elapsed / workload.count)
    first = contenders[0].name
    targets = {c.name: c.at_most for c in contenders}
    return [
        Timing(
            workload.name,
            name,
            phase,
            workload.unit,
            statistics.median(times),
            spread(times),
            statistics.median(
                a / b for a, b in zip(seconds.get((first, phase), times), times, strict=True)
            ),
            targets[name] if phase == TOTAL else None,
            times,
        )
        for (name, phase), times in seconds.items()
    ]


def spread(times: Sequence[float]) -> float:
    """The distance between the quartiles, relative to the median."""
    low, middle, high = statistics.quantiles(times, n=4)
    return (high - low) / middle


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Give every library the same number of threads."""
    torch = peer("torch")
    before = torch.get_num_threads() if torch else 0
    if torch:
        torch.set_num_threads(count)
    try:
        with threadpoolctl.threadpool_limits(limits=count):
            yield
    finally:
        if torch:
            torch.set_num_threads(before)


def cores(count: int) -> float:
    """How many of ``count`` cores are really there: the speed of that many processes over one's."""
    loop = (
        "import time; t = time.perf_counter(); sum(range(10_000_000)); "
        "print(time.perf_counter() - t)"
    )

    def slowest(n: int) -> float:
        running = [
            subprocess.Popen([sys.executable, "-S", "-c", loop], stdout=subprocess.PIPE, text=True)
            for _ in range(n)
        ]
        return max(float(p.communicate()[0]) for p in running)

    return count * min(slowest(1) for _ in range(3)) / min(slowest(count) for _ in range(3))


def show(timings: Iterable[Timing], console: Console) -> None:
    """Print one table for each workload."""
    by_workload: dict[str, list[Timing]] = {}
    for t in timings:
        by_workload.setdefault(t.workload, []).append(t)
    for workload, rows in by_workload.items():
        unit = rows[0].unit
        first = rows[0].contender
        table = Table(title=workload, title_justify="left", title_style="bold")
        table.add_column("contender")
        table.add_column("phase")
        for heading in (f"µs/{unit}", f"{unit}s/s", "spread", f"{first} / it", "target"):
            table.add_column(heading, justify="right")
        for t in rows:
            target = "" if t.at_most is None else f"≤ {t.at_most:.2f} {'✓' if t.met else '✗'}"
            table.add_row(
                t.contender,
                t.phase,
                f"{t.median * 1e6:,.2f}",
                f"{1 / t.median:,.0f}",
                f"{t.spread:.0%}",
                "" if t.contender == first else f"{t.ratio:.2f}",
                target,
                end_section=t.phase == TOTAL,
            )
        console.print(table)


def about(thread_count: int, cores_seen: float) -> dict[str, Any]:
    """The circumstances of a run."""
    libraries = {
        name: module.__version__
        for name in ("numpy", "torch", "lantern")
        if (module := peer(name)) is not None
    }
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "blas": [
            {k: pool.get(k) for k in ("internal_api", "version", "architecture", "num_threads")}
            for pool in threadpoolctl.threadpool_info()
        ],
        "libraries": libraries,
        "threads": thread_count,
        "cores_seen": round(cores_seen, 2),
    }


def main(workloads: Callable[[bool], Iterable[Workload]], arguments: Sequence[str]) -> None:
    """The command line of a benchmark: measure, print the tables, write the numbers as JSON."""
    parser = argparse.ArgumentParser(description="Time lantern beside its peers, in one run.")
    parser.add_argument("--quick", action="store_true", help="smaller sizes and fewer rounds")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all timings here")
    options = parser.parse_args(arguments)
    console = Console()
    seen = cores(options.threads)
    console.print(f"{options.threads} threads; {seen:.1f} cores really there")
    if seen < 0.85 * options.threads:
        console.print(
            "[yellow]Something else runs on this machine: trust the ratios only.[/yellow]"
        )
    timings: list[Timing] = []
    with threads(options.threads):
        circumstances = about(options.threads, seen)
        for workload in workloads(options.quick):
            found = measure(workload)
            show(found, console)
            timings += found
    if options.json:
        record = {"about": circumstances, "timings": [asdict(t) for t in timings]}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        console.print(f"All timings are in {options.json}")
