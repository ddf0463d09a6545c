"""The report of a run: what it learnt, and what that took of energy and emissions.

It reads the run's log and its account (`lantern.carbon`), which training and generating append to,
and writes Markdown and a picture: emissions by phase, as Wu et al. split them (*Sustainable AI*,
arXiv 2111.00364), beside the loss; the same for a million tokens; and everything assumed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import lantern as ln
from examples.llama3.files import Problem, write_atomically
from examples.llama3.plot import smooth
from examples.llama3.progress import LOG, Row, read_log
from lantern.carbon import FIGURES, LEDGER, PHASES, Account, Entry, Meter, Range, total
from lantern.carbon.meter import JOULES

REPORT, PICTURE = "report.md", "carbon.png"


@contextmanager
def accounted(run: Path, phase: str) -> Iterator[Account]:
    """A context that adds what its work takes to a run's account, and writes the report at its end.

    Args:
        run: the run's folder.
        phase: the one that the work begins with.

    Raises:
        Problem: nothing can be measured here, or the account is damaged.
    """
    try:
        with Account(run / LEDGER, phase, Meter()) as account:
            yield account
    except ln.errors.MeterError as problem:
        raise Problem(problem.args[0]) from None
    write_report(run)


def write_report(run: Path, grid: str | float | None = None, pue: float | None = None) -> Path:
    """Write a run's report beside its other files.

    Args:
        run: the run's folder.
        grid: count the electricity as that of another grid than it was measured with.
        pue: and with another overhead of the data centre.

    Returns:
        The Markdown file.

    Raises:
        Problem: the run has no account, or a damaged one; the grid is unknown; or matplotlib is not
            installed.
    """
    try:
        work = [repriced(e, grid, pue) for e in ln.carbon.entries(run / LEDGER)]
    except (ln.errors.MeterError, ln.errors.ArgumentError) as problem:
        raise Problem(problem.args[0]) from None
    if not work:
        raise Problem(
            f"no account of energy in {run}: expected {LEDGER}, which training a model there writes"
        )
    phases = [total([e for e in work if e.phase == p], p) for p in PHASES]
    phases = [e for e in phases if e.seconds]
    rows = read_log(run / LOG)
    draw(phases, rows, run / PICTURE)
    text = markdown(run.name, phases, total(work, "training"), rows)
    write_atomically(run / REPORT, lambda path: path.write_text(text, encoding="utf-8"))
    return run / REPORT


def repriced(entry: Entry, grid: str | float | None, pue: float | None) -> Entry:
    """The same work on another grid, in another building.

    Raises:
        ArgumentError: the grid is unknown, or a number cannot be.
    """
    if pue is not None:
        if not 1 <= pue < 100:
            raise ln.errors.ArgumentError(f"a PUE of {pue}: expected a number of at least 1")
        times = pue / entry.pue
        entry = dataclasses.replace(
            entry, pue=pue, joules=entry.joules * times, operational=entry.operational * times
        )
    if grid is not None:
        place = ln.carbon.grid(grid)
        entry = dataclasses.replace(
            entry, grid=f"{place.name}, {place.grams:g} g/kWh",
            operational=entry.joules / JOULES * place.grams,
        )  # fmt: skip
    return entry


def markdown(name: str, phases: Sequence[Entry], whole: Entry, rows: Sequence[Row]) -> str:
    """The report as text."""
    lines = [
        f"# {name}",
        "",
        f"{weight(whole.grams.typical)} of CO2e ({bounds(whole.grams)}), {energy(whole.joules)}, "
        f"{duration(whole.seconds)}." + learnt(rows),
        "",
        f"![loss and emissions]({PICTURE})",
        "",
        "## By phase",
        "",
        *table([*((e.phase, e) for e in phases), ("together", whole)]),
        "",
        "## For a million tokens",
        "",
        *per_million(phases),
        "",
        "## What is measured, and what is assumed",
        "",
        f"- Energy is {whole.source}. The whole machine is counted unless the run says otherwise.",
        f"- Electricity: {whole.grid}; times {whole.pue:g} for the building (PUE).",
        f"- Hardware: {whole.hardware}. A second of work carries making / (life x use) of it.",
        *(f"- {figure(f)}" for f in whole.figures if f in FIGURES),
        "- Not counted: networks, storage elsewhere, people, and the end of the hardware's life.",
    ]
    return "\n".join(lines) + "\n"


def learnt(rows: Sequence[Row]) -> str:
    """How far the model came, as a sentence."""
    known = [r for r in rows if r.valid_bits_per_byte is not None]
    if not known:
        return ""
    last = known[-1]
    return (
        f" After {last.step:,} steps and {last.tokens:,} tokens the model needs "
        f"{last.valid_bits_per_byte:.3f} bits for a byte of held-out text."
    )


def table(rows: Sequence[tuple[str, Entry]]) -> list[str]:
    """Rows of work with their names, as a table of Markdown."""
    head = ["", "tokens", "time", "energy", "operational", "embodied (range)", "together"]
    return [
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(
            f"| {name} | {e.tokens:,} | {duration(e.seconds)} | {energy(e.joules)} | "
            f"{weight(e.operational)} | {weight(e.embodied.typical)} ({bounds(e.embodied)}) | "
            f"{weight(e.grams.typical)} |"
            for name, e in rows
        ),
    ]


def per_million(phases: Sequence[Entry]) -> list[str]:
    """Phases that have tokens, for a million of each."""
    million = [(e.phase, m) for e in phases if (m := e.per_million_tokens()) is not None]
    return table(million) if million else ["No tokens were counted."]


def figure(name: str) -> str:
    """A published figure, its range and its sources."""
    f = FIGURES[name]
    return f"{name}: {f.typical:g} {f.unit} ({f.low:g} to {f.high:g}). {f.source}."


def draw(phases: Sequence[Entry], rows: Sequence[Row], path: Path) -> None:
    """The loss, and beside it the emissions of each phase, as a PNG.

    Raises:
        Problem: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise Problem("a report needs the package matplotlib: pip install matplotlib") from None
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    if rows:
        seen = np.array([r.tokens for r in rows]) / 1e6
        left.plot(seen, smooth(np.array([r.bits_per_byte for r in rows])), label="training")
        valid = [(r.tokens / 1e6, r.valid_bits_per_byte) for r in rows if r.valid_bits_per_byte]
        left.plot(*zip(*valid, strict=True) if valid else ([], []), "o-", label="validation")
        left.legend()
    left.set(xlabel="million tokens seen", ylabel="loss, bits per byte")
    left.grid(alpha=0.3)
    draw_phases(right, phases)
    write_atomically(path, lambda p: FigureCanvasAgg(figure).print_png(p))


def draw_phases(axes: Any, phases: Sequence[Entry]) -> None:
    """A bar for each phase: operational below, embodied on top, with its range."""
    names = [e.phase for e in phases]
    operational = np.array([e.operational for e in phases])
    embodied = np.array([e.embodied.typical for e in phases])
    span = [
        [e.embodied.typical - e.embodied.low for e in phases],
        [e.embodied.high - e.embodied.typical for e in phases],
    ]
    axes.bar(names, operational, label="operational")
    axes.bar(names, embodied, bottom=operational, yerr=span, capsize=4, label="embodied")
    axes.set(ylabel="g CO2e")
    axes.grid(alpha=0.3, axis="y")
    axes.legend()


def scaled(value: float, units: Sequence[tuple[float, str]]) -> str:
    """A number in the largest unit that it reaches; units from small to large."""
    size, unit = next((u for u in reversed(units) if value >= u[0]), units[0])
    return f"{value / size:.3g} {unit}"


def weight(grams: float) -> str:
    """Grams in a unit that suits them.

    Example:
        >>> weight(0.0), weight(0.0123), weight(2.5), weight(1500.0)
        ('0 µg', '12.3 mg', '2.5 g', '1.5 kg')
    """
    return scaled(grams, [(1e-6, "µg"), (1e-3, "mg"), (1.0, "g"), (1e3, "kg"), (1e6, "t")])


def bounds(range: Range) -> str:
    """The ends of a range.

    Example:
        >>> bounds(Range(0.5, 1.0, 2.0))
        '500 mg to 2 g'
    """
    return f"{weight(range.low)} to {weight(range.high)}"


def energy(joules: float) -> str:
    """Joules, or kilowatt-hours where there are many.

    Example:
        >>> energy(50.0), energy(7.2e6)
        ('50 J', '2 kWh')
    """
    return scaled(joules, [(1.0, "J"), (1e3, "kJ"), (JOULES, "kWh")])


def duration(seconds: float) -> str:
    """Seconds, minutes or hours.

    Example:
        >>> duration(42.0), duration(5400.0)
        ('42 s', '1.5 h')
    """
    return scaled(seconds, [(1.0, "s"), (60.0, "min"), (3600.0, "h")])
