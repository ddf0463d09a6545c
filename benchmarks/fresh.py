"""What it takes to begin: the memory of a fresh process that trains, and the time to compile.

Each contender starts in a new process, with empty caches on disk (cold), and then in another one
with what the first has left there (warm). The time to compile is that of the first step less that
of a later one.

    python -m benchmarks.fresh [--row starts depth] [--quick]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.harness import Contender, Entry, Options, Result, Row, started
from benchmarks.llama3_step import contenders
from benchmarks.worker import TOTAL

PEAK_AT_MOST = 0.6e9
COLD_AT_MOST, WARM_AT_MOST = 4.0, 0.5
DEEP_AT_MOST = 1.3  # times as long to compile as a quarter of the layers


@dataclass(frozen=True)
class Start:
    """What one fresh process took: seconds to compile and of a step, bytes of it and a child."""

    compiling: float
    step: float
    peak: int
    child: int


def begin(contender: Contender, options: Options, caches: str) -> Start:
    """A process that trains for a few steps, with its caches in a folder."""
    places = {
        "XDG_CACHE_HOME": caches,
        "TORCHINDUCTOR_CACHE_DIR": caches,
        "JAX_COMPILATION_CACHE_DIR": caches,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONDONTWRITEBYTECODE": "",  # an installed library has its bytecode on disk
    }
    ours = replace(contender, environment={**contender.environment, **places})
    with started(ours, options) as worker:
        (first,) = worker.ask("run", 1)
        step = statistics.median(t[TOTAL] for t in worker.ask("run", 3))
        peak, child = worker.ask("peak")
    return Start(first[TOTAL] - step, step, peak, child)


def starters(shape: str, options: Options) -> list[Contender]:
    """Who is started: each library once, as it comes."""
    wanted = options.only or ("lantern", "PyTorch", "torch.compile", "JAX")
    return [
        c
        for c in contenders(shape, options)
        if c.present and not c.environment and c.name.startswith(wanted)
    ]


def shape_of(options: Options) -> str:
    return "tiny" if options.quick else "A"


def starts(options: Options) -> list[Result]:
    """The rows about memory and compilation, of the same processes."""
    found: list[tuple[str, Start, Start]] = []
    for contender in starters(shape_of(options), options):
        with tempfile.TemporaryDirectory() as caches:
            cold = begin(contender, options, caches)
            found.append((contender.name, cold, begin(contender, options, caches)))
    return [
        Result("memory", "the most memory of a fresh process that trains A", memory(found)),
        Result("compile", "compiling the training step A", compiling(found)),
    ]


def memory(found: Sequence[tuple[str, Start, Start]]) -> list[Entry]:
    """Peaks, of cold starts."""
    lines: list[Entry] = []
    for name, cold, _ in found:
        line = Entry(name, "peak", float(cold.peak), "B", ratio=cold.peak / found[0][1].peak)
        if not lines:
            line.ratio = None
            line.wanted, line.met = f"≤ {PEAK_AT_MOST / 1e6:.0f} MB", cold.peak <= PEAK_AT_MOST
        lines.append(line)
        if cold.child > 2e7:
            lines.append(Entry(name, "largest child", float(cold.child), "B"))
    return lines


def compiling(found: Sequence[tuple[str, Start, Start]]) -> list[Entry]:
    """Seconds to compile; of eager contenders none."""
    lines: list[Entry] = []
    for name, cold, warm in found:
        if name in ("PyTorch", "eager lantern"):
            continue
        first = name == found[0][0]
        for what, start, most in (("cold", cold, COLD_AT_MOST), ("warm", warm, WARM_AT_MOST)):
            line = Entry(name, what, max(start.compiling, 0.0), "s")
            if first:
                line.wanted, line.met = f"≤ {most:g} s", line.value <= most
            lines.append(line)
    return lines


def depth(options: Options) -> list[Result]:
    """How long lantern compiles 24 layers, beside 6."""
    times = {}
    for shape in ("A", "A, 24 layers") if not options.quick else ("tiny", "tiny"):
        lantern = contenders(shape, options)[0]
        with tempfile.TemporaryDirectory() as caches:
            times[shape] = begin(lantern, options, caches).compiling
    values = list(times.values())
    lines = [Entry("lantern", name, seconds, "s") for name, seconds in times.items()]
    ratio = values[-1] / values[0]
    lines[-1].ratio, lines[-1].met = ratio, ratio <= DEEP_AT_MOST
    lines[-1].wanted = f"≤ {DEEP_AT_MOST:g} times"
    return [Result("depth", "compiling four times as many layers", lines)]


ROWS: dict[str, Row] = {"starts": starts, "depth": depth}

if __name__ == "__main__":
    from benchmarks.__main__ import main

    main(ROWS, sys.argv[1:])
