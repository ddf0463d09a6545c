"""Results as tables."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from benchmarks.harness import Entry, Result
from benchmarks.worker import TOTAL


def show(result: Result, console: Console) -> None:
    """Print one row's results."""
    table = Table(title=result.name, title_justify="left", title_style="bold")
    table.add_column("contender", no_wrap=True)
    for heading in ("", "median", "spread", "rate", "peak", "÷ first", "wanted"):
        table.add_column(heading, justify="right", no_wrap=True)
    for e in result.entries:
        table.add_row(*cells(e), end_section=e.what == TOTAL)
    console.print(table)


def cells(e: Entry) -> tuple[str, ...]:
    """A line of a table."""
    return (
        e.contender,
        e.what,
        quantity(e.value, e.unit),
        "" if e.spread is None else f"{e.spread:.0%}",
        "" if e.rate is None else quantity(*e.rate),
        "" if e.peak is None else quantity(e.peak, "B"),
        "" if e.ratio is None else f"{e.ratio:.2f}",
        e.wanted + ("" if e.met is None else " ✓" if e.met else " ✗"),
    )


def quantity(value: float, unit: str) -> str:
    """A number with its unit; seconds and bytes in what suits their size."""
    if unit == "s":
        scale, unit = next(
            (s, u) for s, u in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (0.0, "ns")) if value >= s
        )
        return f"{value / (scale or 1e-9):.3g} {unit}"
    if unit == "B":
        return f"{value / 1e6:,.0f} MB"
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
