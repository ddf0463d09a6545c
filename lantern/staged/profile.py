"""What a profile shows: the time of each kernel beside what a roofline predicts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lantern.errors import ArgumentError
from staging.cost import Cost, Row, alone, estimate, lines, listed
from staging.ir import Op, Program, walk
from staging.machine import Machine
from staging.table import quantity, render


@dataclass(frozen=True)
class Measured:
    """One kernel of a program.

    Attributes:
        cost: what it does, for which of the user's lines, and what is predicted for it.
        times: how often it ran in one run of the program.
        seconds: how long all of that took.
    """

    cost: Row
    times: int
    seconds: float

    @property
    def reached(self) -> float:
        """The predicted time as a part of the measured one: 1 is as fast as the machine can."""
        return self.cost.seconds / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Profile:
    """How long a program takes; prints as a table.

    Attributes:
        rows: the kernels, the slowest first.
        cost: what is predicted for the whole program.
        seconds: the time of a whole call.
        frames: the most bytes at a time of what was saved by loops and recursions whose length is
            known only when they have ended. What other loops save is a part of ``cost.workspace``.
    """

    name: str
    rows: tuple[Measured, ...]
    cost: Cost
    seconds: float
    frames: int = 0

    @property
    def inside(self) -> float:
        """The seconds inside kernels."""
        return sum(row.seconds for row in self.rows)

    @property
    def outside(self) -> float:
        """The part of the time that is spent outside of kernels: in Python, and between them."""
        return max(0.0, 1.0 - self.inside / self.seconds)

    @property
    def machine(self) -> Machine:
        """Whose roofline it is."""
        return self.cost.machine

    def listed(self, most: int) -> list[tuple[tuple[str, ...], list[Measured]]]:
        """Kernels of the same name and lines together, the slowest first, and all others as one."""

        def label(row: Measured) -> tuple[str, ...]:
            return row.cost.name, lines(row.cost.places)

        return listed(self.rows, label, most)

    def __str__(self) -> str:
        rows = [
            [
                name, str(sum(r.times for r in alike)),
                quantity(seconds := sum(r.seconds for r in alike), "s"),
                f"{100 * seconds / self.seconds:.1f} %",
                quantity(predicted := sum(r.cost.seconds for r in alike), "s"),
                f"{100 * predicted / seconds:.0f} %" if seconds else "",
                alike[0].cost.bound, where,
            ]
            for (name, where), alike in self.listed(30)
        ]  # fmt: skip
        rows.append([
            "outside of kernels", "", quantity(self.outside * self.seconds, "s"),
            f"{100 * self.outside:.1f} %", "", "", "", "",
        ])  # fmt: skip
        rows.append([
            "total", str(sum(row.times for row in self.rows)), quantity(self.seconds, "s"), "",
            quantity(self.cost.seconds, "s"), f"{100 * self.cost.seconds / self.seconds:.0f} %",
            "", "",
        ])  # fmt: skip
        head = ["kernel", "runs", "time", "share", "roofline", "reached", "bound", "lines"]
        foot = f"saved in lists: {quantity(self.frames, 'B')}\n" if self.frames else ""
        return render(f"time of {self.name}", head, rows, f"{foot}roofline: {self.machine}")

    def plot(self, path: str | os.PathLike[str], most: int = 20) -> None:
        """Draw a bar for each kernel, the slowest first, and a mark where the roofline is.

        Args:
            path: of the PNG.
            most: how many kernels have a bar of their own.

        Raises:
            ArgumentError: matplotlib is not installed.
        """
        figure_type, canvas_type = drawing()
        shown = self.listed(most)
        bars = [
            (f"{name}\n{where}".strip(), sum(r.seconds for r in alike))
            for (name, where), alike in shown
        ]
        bars.append(("outside of kernels", self.outside * self.seconds))
        figure = figure_type(figsize=(11, 1.5 + 0.42 * len(bars)), layout="constrained")
        canvas_type(figure)
        axes = figure.add_subplot()
        axes.barh(range(len(bars)), [1e3 * s for _, s in bars], color="#7a9cc6")
        axes.plot(
            [1e3 * sum(r.cost.seconds for r in alike) for _, alike in shown],
            range(len(shown)), "|", color="#b03a2e",
            markersize=14, markeredgewidth=2, label="roofline",
        )  # fmt: skip
        axes.set_yticks(range(len(bars)), [label for label, _ in bars], fontsize=7)
        axes.invert_yaxis()
        axes.set_xlabel("ms")
        axes.set_title(f"{self.name}: {quantity(self.seconds, 's')} a call", fontsize=10)
        axes.legend(loc="lower right")
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(os.fspath(path), format="png", dpi=130)


def drawing() -> tuple[Any, Any]:
    """What draws: a type of figures and one of canvases.

    Raises:
        ArgumentError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise ArgumentError(
            "a profile is drawn with matplotlib, which is not installed: "
            "pip install 'lantern-ad[examples]'; without png= the profile is a table"
        ) from None
    return Figure, FigureCanvasAgg


def compare(
    program: Program,
    machine: Machine,
    found: Sequence[tuple[Op, int, float]],
    seconds: float,
    frames: int,
) -> Profile:
    """The profile of an optimised program from the time of each of its kernels."""
    cost = estimate(program, machine)
    rows = {row.op: row for row in cost.rows}
    measured = [
        Measured(rows.get(op) or other_row(op, rows, machine), times, spent)
        for op, times, spent in found
        if times
    ]
    measured.sort(key=lambda row: -row.seconds)
    return Profile(program.name, tuple(measured), cost, seconds, frames)


def other_row(op: Op, rows: Mapping[Op, Row], machine: Machine) -> Row:
    """What is predicted for an operation that the program lacks as it is: one of a recursive
    function, as it was rewritten. Or one row for a loop that runs without kernels, of what is
    predicted for the operations in it; nothing for what a recursion does beside its kernels."""
    if not op.blocks or "kind" in op.attributes:
        return alone(op, machine)
    if op.name == "recurse":
        return Row(op, 1)
    inside = [rows[o] for block in op.blocks for o in walk(block) if o in rows]

    def total(key: str) -> float:
        return sum(getattr(row, key) for row in inside)

    return Row(op, 1, total("flops"), total("bytes"), total("arithmetic"), total("transfer"))
