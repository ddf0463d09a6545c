"""Results as tables on the screen, as Markdown, as a picture and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness import Entry, Result
from benchmarks.worker import TOTAL

HEADINGS = ("", "median", "spread", "rate", "of limit", "peak", "÷ first", "wanted")


def show(result: Result, console: Console) -> None:
    """Print one row's results."""
    table = Table(title=result.name, title_justify="left", title_style="bold")
    lines = [cells(e) for e in result.entries]
    used = [i for i in range(len(lines[0])) if any(line[i] for line in lines)]
    for i in used:
        heading = ("contender", *HEADINGS)[i]
        table.add_column(heading, justify="right" if i > 1 else "left", no_wrap=True)
    for e, line in zip(result.entries, lines, strict=True):
        table.add_row(*(line[i] for i in used), end_section=e.what == TOTAL)
    console.print(table)


def cells(e: Entry) -> tuple[str, ...]:
    """A line of a table."""
    return (
        e.contender,
        e.what,
        quantity(e.value, e.unit),
        "" if e.spread is None else f"{e.spread:.0%}",
        "" if e.rate is None else quantity(*e.rate),
        "" if e.share is None else f"{e.share:.0%}",
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
    if unit in ("B/s", "FLOP/s"):
        return f"{value / 1e9:.3g} G{unit}"
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def save(results: Sequence[Result], about: Mapping[str, Any], folder: Path) -> None:
    """Write the three files, with what earlier runs measured of other rows, and on what."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "results.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"rows": {}}
    for result in results:
        record["rows"][result.row] = []
    for result in results:
        record["rows"][result.row].append({**asdict(result), "about": dict(about)})
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    runs: list[tuple[dict[str, Any], list[Result]]] = []  # of rows measured together
    for one in (one for row in record["rows"].values() for one in row):
        if not runs or runs[-1][0] != one["about"]:
            runs.append((one["about"], []))
        runs[-1][1].append(restored(one))
    (folder / "results.md").write_text(markdown(runs), encoding="utf-8")
    draw([result for _, some in runs for result in some], folder / "results.png")


def restored(data: Mapping[str, Any]) -> Result:
    """The inverse of `asdict` on a result."""
    entries = [
        Entry(**{**e, "rate": tuple(e["rate"]) if e["rate"] else None}) for e in data["entries"]
    ]
    return Result(data["row"], data["name"], entries)


def markdown(runs: Sequence[tuple[Mapping[str, Any], Sequence[Result]]]) -> str:
    """All tables, those of each run after what they were measured on."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`; how it measures, and what bounds each row, is in "
        "[docs/performance.md](../../docs/performance.md). *÷ first*: the time of this contender, "
        "divided by lantern's in the same round, the median over the rounds.",
    ]
    for about, results in runs:
        lines += ["", *circumstances(about)]
        for result in results:
            lines += ["", f"## {result.row}: {result.name}", ""]
            lines.append("| " + " | ".join(("contender", *HEADINGS)) + " |")
            lines.append("|---" * 2 + "|---:" * (len(HEADINGS) - 1) + "|")
            lines += ["| " + " | ".join(cells(e)) + " |" for e in result.entries]
    return "\n".join(lines) + "\n"


def circumstances(about: Mapping[str, Any]) -> list[str]:
    """What rows were measured on, as a list."""
    cpu = about["cpu"]
    limits = ", ".join(
        f"{words} {quantity(about[key], unit)}"
        for key, words, unit in (("bandwidth", "triad", "B/s"), ("sgemm", "sgemm", "FLOP/s"))
        if about[key]
    )
    gpu = about.get("gpu")
    best = gpu and ", ".join(
        f"{words} {quantity(gpu[key], unit)}"
        for key, words, unit in (
            ("bandwidth", "copy", "B/s"),
            ("float32", "float32 product", "FLOP/s"),
            ("bfloat16", "bfloat16 product", "FLOP/s"),
        )
    )
    return [
        *([f"- GPU: {gpu['name']} ({gpu['architecture']}); {best}"] if gpu else []),
        f"- processor: {cpu['model']} ({', '.join(cpu['features'])}), {about['cores']} cores; "
        f"{about['cores_seen']} of {about['threads']} seen by the probe",
        f"- threads: {about['threads']}",
        f"- limits measured: {limits}",
        f"- Python {about['python']}, "
        + ", ".join(f"{name} {version}" for name, version in about["versions"].items()),
    ]


def draw(results: Sequence[Result], path: Path) -> None:
    """A bar for each contender of each row: its time, with lantern's as 1."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = [(r, [e for e in r.entries if e.what == TOTAL]) for r in results]
    drawn = [(r, entries) for r, entries in drawn if len(entries) > 1]
    names = list(dict.fromkeys(e.contender for _, entries in drawn for e in entries))
    figure = Figure(figsize=(9, 1 + 0.9 * len(drawn)))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    height = 0.8 / max(1, len(names))
    for number, name in enumerate(names):
        places, lengths = [], []
        for place, (_, entries) in enumerate(drawn):
            for e in entries:
                if e.contender == name:
                    places.append(place + (number - len(names) / 2) * height)
                    lengths.append(1.0 if e.ratio is None else e.ratio)
        axes.barh(places, lengths, height, label=name)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(drawn)), [f"{r.row}: {r.name[:34]}" for r, _ in drawn], fontsize=7)
    axes.set_xscale("log")
    axes.invert_yaxis()
    axes.set_xlabel("time, lantern = 1 (longer is slower)")
    axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
