"""The harness of all benchmarks: validate, warm up, take turns, report ratios.

A `Workload` is a piece of work that several contenders do, each in a process of its own; the first
of them is the one that the others are compared with. They must agree on the result before they are
timed. Then they take turns, round after round in rotating order, so that a machine that slows down
slows all of them, and the ratio of each round is formed within that round.
"""

from __future__ import annotations

import importlib.util
import math
import os
import pickle
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.worker import TOTAL

ROOT = Path(__file__).resolve().parents[1]
TURN = 0.25  # seconds that a turn lasts at least, so that a contender's caches are its own again

NATIVE = ("llvmlite", "scipy_openblas32", "cffi")  # what lantern compiles with
# Let glibc keep freed memory, rather than give it back to the system to be cleared.
TUNED_MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 36)}


@dataclass(frozen=True)
class Options:
    """What the command line asks for.

    Attributes:
        quick: smaller sizes and fewer rounds.
        threads: how many every contender gets.
        only: beginnings of the names of the contenders that shall run; empty: all.
    """

    quick: bool = False
    threads: int = 1
    only: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contender:
    """One way to do the work.

    Attributes:
        name: who does it.
        make: ``module:function``, which makes a `benchmarks.worker.Job` in a process of its own.
        arguments: of that function.
        needs: the packages without which it does not take part.
        environment: variables of its process.
        at_least: the target: how many times as fast as this one the first contender should be;
            None where nothing is asked.
        bound: it only does what nobody can do without, so its result is not that of the others.
        rtol: how far its result may differ, as `Workload.rtol`, where it rounds more than others;
            None: as far as theirs.
    """

    name: str
    make: str
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    needs: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    at_least: float | None = None
    bound: bool = False
    rtol: float | None = None

    @property
    def present(self) -> bool:
        """Whether what it needs is installed."""
        return all(importlib.util.find_spec(name) for name in self.needs)


@dataclass(frozen=True)
class Workload:
    """A piece of work.

    Attributes:
        row: the name that the command line knows it by.
        name: what is done.
        contenders: who does it; the first is compared with each of the others.
        count: how many units one run does.
        unit: what a unit is: ``op``, ``token``.
        rtol: how far results may differ, array by array, relative to the largest entry.
        rounds: how often each contender gets its turn.
        microseconds: what one unit should take the first contender at most; None: nothing is asked.
        limit: how many units a second the machine could do at best, if that is known.
        share: of the limit, what the first contender should reach at least.
    """

    row: str
    name: str
    contenders: Sequence[Contender]
    count: int
    unit: str
    rtol: float
    rounds: int = 9
    microseconds: float | None = None
    limit: float | None = None
    share: float | None = None


@dataclass
class Entry:
    """A line of a result.

    Attributes:
        contender: who.
        what: which number of theirs.
        value: the median.
        unit: of the value.
        spread: the distance between the quartiles, relative to the median; None for single numbers.
        ratio: this value divided by the first contender's, the median over the rounds; above 1 the
            first is better.
        rate: units a second, and the unit.
        share: of what the machine could do at best.
        peak: bytes of memory that the process has held at most.
        wanted: the target, in words.
        met: whether it is reached.
        rounds: every value.
    """

    contender: str
    what: str
    value: float
    unit: str
    spread: float | None = None
    ratio: float | None = None
    rate: tuple[float, str] | None = None
    share: float | None = None
    peak: int | None = None
    wanted: str = ""
    met: bool | None = None
    rounds: list[float] = field(default_factory=list[float])


@dataclass
class Result:
    """What one row came to."""

    row: str
    name: str
    entries: list[Entry]


class Worker:
    """The other end of `benchmarks.worker`: a process that does one contender's work."""

    def __init__(self, contender: Contender, options: Options) -> None:
        self.name = contender.name
        cores = sorted(os.sched_getaffinity(0))[: options.threads]
        count = str(options.threads)
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        environment = {**os.environ, **dict.fromkeys(names, count), **contender.environment}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=environment,
        )
        os.sched_setaffinity(self.process.pid, cores)
        self.ask("make", contender.make, dict(contender.arguments))

    def send(self, message: Any) -> None:
        """Give an order."""
        assert self.process.stdin is not None
        pickle.dump(message, self.process.stdin)
        self.process.stdin.flush()

    def receive(self) -> Any:
        """Wait for the answer.

        Raises:
            RuntimeError: the contender failed.
        """
        assert self.process.stdout is not None
        try:
            fine, answer = pickle.load(self.process.stdout)
        except EOFError:
            fine, answer = False, f"its process ended with status {self.process.wait()}"
        if not fine:
            raise RuntimeError(f"{self.name}: {answer}")
        return answer

    def ask(self, *order: Any) -> Any:
        """Give an order and wait for the answer."""
        self.send(order)
        return self.receive()

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


@contextmanager
def started(contender: Contender, options: Options) -> Iterator[Worker]:
    """A worker for as long as it is needed."""
    worker = Worker(contender, options)
    try:
        yield worker
    finally:
        worker.close()


def chosen(workload: Workload, options: Options) -> list[Contender]:
    """Who takes part: those that are installed and asked for."""
    return [
        c
        for c in workload.contenders
        if c.present and (not options.only or c.name.startswith(options.only))
    ]


@contextmanager
def team() -> Iterator[dict[str, Worker]]:
    """Workers by name, who go on from workload to workload until all are done."""
    workers: dict[str, Worker] = {}
    try:
        yield workers
    finally:
        for worker in workers.values():
            worker.close()


def joined(contender: Contender, options: Options, workers: dict[str, Worker]) -> Worker:
    """The one of a team who has a contender's name, with its work; who is new there comes to it."""
    if contender.name in workers:
        workers[contender.name].ask("make", contender.make, dict(contender.arguments))
    else:
        workers[contender.name] = Worker(contender, options)
    return workers[contender.name]


def measure(workload: Workload, options: Options, known: dict[str, Worker] | None = None) -> Result:
    """Validate, which is the warm-up too, and time all contenders by turns.

    Args:
        workload: what to do.
        options: how much of it.
        known: a `team` that does several workloads, so that each process starts once.
    """
    contenders = chosen(workload, options)
    seconds: dict[tuple[str, str], list[list[float]]] = {}
    with ExitStack() as stack:
        known = stack.enter_context(team()) if known is None else known
        # One after the other: each compiles while nobody else does anything.
        workers: list[Worker] = []
        results = []
        for contender in contenders:
            workers.append(joined(contender, options, known))
            results.append(workers[-1].ask("check"))
        compared = [i for i, c in enumerate(contenders) if not c.bound]
        agree(workload, [contenders[i] for i in compared], [results[i] for i in compared])
        turns: dict[str, int] = {}
        for worker in workers:
            worker.ask("run", 1)
            turns[worker.name] = max(1, math.ceil(TURN / max(1e-6, worker.ask("run", 1)[0][TOTAL])))
        for number in range(workload.rounds):
            shift = number % len(workers)
            for worker in workers[shift:] + workers[:shift]:
                found = worker.ask("run", turns[worker.name])
                for phase in found[0]:
                    seconds.setdefault((worker.name, phase), []).append([f[phase] for f in found])
        peaks = {worker.name: worker.ask("peak") for worker in workers}
    return Result(workload.row, workload.name, entries(workload, contenders, seconds, peaks))


def agree(
    workload: Workload, contenders: Sequence[Contender], results: Sequence[list[Any]]
) -> None:
    """Compare what contenders have found with what the first of them has, array by array.

    Raises:
        AssertionError: two of them disagree.
    """
    first = [np.asarray(x, np.float64) for x in results[0]]
    for contender, others in zip(contenders[1:], results[1:], strict=True):
        name = contender.name
        rtol = workload.rtol if contender.rtol is None else contender.rtol
        assert len(others) == len(first), f"{name} gives {len(others)} arrays, not {len(first)}"
        for i, (a, b) in enumerate(zip(first, others, strict=True)):
            scale = max(float(np.max(np.abs(a), initial=0.0)), np.finfo(np.float64).tiny)
            difference = float(np.max(np.abs(a - np.asarray(b, np.float64)), initial=0.0))
            assert difference <= rtol * scale, (
                f"{workload.name}: array {i} of {name} and of {contenders[0].name} differ by "
                f"{difference:.3g}, where the largest entry is {scale:.3g}"
            )


def entries(
    workload: Workload,
    contenders: Sequence[Contender],
    seconds: Mapping[tuple[str, str], list[list[float]]],
    peaks: Mapping[str, tuple[int, int]],
) -> list[Entry]:
    """The lines of a workload: what each round came to, and how contenders compare within it."""
    first = contenders[0].name
    targets = {c.name: c.at_least for c in contenders}
    lines: list[Entry] = []
    for (name, phase), rounds in seconds.items():
        medians = [statistics.median(r) for r in rounds]
        every = [t for r in rounds for t in r]
        line = Entry(name, phase, statistics.median(medians), "s", spread(every), rounds=every)
        own = [statistics.median(r) for r in seconds.get((first, phase), [])]
        if own and name != first:
            line.ratio = statistics.median(b / a for a, b in zip(own, medians, strict=True))
        if phase == TOTAL:
            line.rate = workload.count / line.value, f"{workload.unit}/s"
            line.peak = peaks[name][0]
            if workload.limit is not None:
                line.share = line.rate[0] / workload.limit
            target = targets[name]
            if target is not None and line.ratio is not None:
                line.wanted, line.met = f"≥ {target:.2f}", line.ratio >= target
            judge(workload, line)
        lines.append(line)
    return lines


def judge(workload: Workload, line: Entry) -> None:
    """What is asked of the first contender alone."""
    if line.contender != workload.contenders[0].name:
        return
    if workload.microseconds is not None:
        line.wanted = f"≤ {workload.microseconds:g} µs/{workload.unit}"
        line.met = line.value / workload.count * 1e6 <= workload.microseconds
    if workload.share is not None and line.share is not None:
        line.wanted = f"≥ {workload.share:.0%} of the limit"
        line.met = line.share >= workload.share


def spread(times: Sequence[float]) -> float:
    """The distance between the quartiles, relative to the median."""
    if len(times) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(times, n=4)
    return (high - low) / middle


Row = Callable[[Options], list[Result]]
