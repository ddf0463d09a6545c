"""What a person sees while an example trains, and the curves they find afterwards."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from examples.console import show
from examples.llama3.files import Problem, write_atomically

EVERY = 10.0  # seconds between lines where the output is no terminal


class Rate(ProgressColumn):
    """How much is done a second, over the last steps."""

    def render(self, task: Task) -> Text:
        unit, speed = task.fields["unit"], task.finished_speed or task.speed
        return Text(task.fields["rate"] or (f"{speed:,.0f} {unit}/s" if speed else ""), "cyan")


class Display:
    """A live line with what is done, numbers, the rate and the time left.

    Where the output is no terminal (a file, a CI log), now and then a plain line takes its place.

    Args:
        console: where to draw.
        unit: what is counted: ``trees``.
        total: how many there are.
        title: what is done; it begins the line.
        done: how many were done before.
        every: seconds between lines where the output is no terminal.
    """

    def __init__(
        self, console: Console, unit: str, total: int, title: str = "", done: int = 0,
        every: float = EVERY,
    ) -> None:  # fmt: skip
        self.console, self.unit, self.total, self.every = console, unit, total, every
        self.title, self.before, self.done = title and f"{title}: ", done, done
        self.bar = Progress(
            TextColumn(
                "{task.description}{task.completed:,.0f}/{task.total:,.0f} {task.fields[unit]}"
            ),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[numbers]}"),
            Rate(),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=console,
            speed_estimate_period=60,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task(
            self.title, total=total, completed=done, unit=unit, numbers="", rate=""
        )
        self.began = self.said = time.perf_counter()

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def show(
        self, done: int, text: str = "", rate: str = "", numbers: Mapping[str, float] | None = None
    ) -> None:
        """Draw where things stand.

        Args:
            done: how many of the total.
            text: what else there is to see.
            rate: how fast it goes; without it, what is counted a second.
            numbers: more to see, by name.
        """
        shown = " · ".join(
            [text] * bool(text)
            + [f"{name.replace('_', ' ')} {value:.3f}" for name, value in (numbers or {}).items()]
        )
        self.bar.update(self.task, completed=done, numbers=shown, rate=rate)
        ended = done == self.total != self.done
        self.done = done
        if ended or time.perf_counter() - self.said > self.every:
            self.say(done, shown, rate)

    def say(self, done: int, text: str, rate: str = "") -> None:
        """Print where things stand, where the output is no terminal."""
        if self.console.is_terminal:
            return
        self.said = time.perf_counter()
        passed, gained = self.said - self.began, max(1, done - self.before)
        left = passed / gained * (self.total - done)
        parts = [
            f"{self.title}{done:,}/{self.total:,} {self.unit}", *[text] * bool(text),
            rate or f"{gained / passed:,.0f} {self.unit}/s",
            f"{int(left // 60)}:{int(left % 60):02d} left",
        ]  # fmt: skip
        show(self.console, " · ".join(parts))


def plot_curves(
    path: Path,
    title: str,
    x: str,
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]],
) -> None:
    """Draw curves side by side as a PNG.

    Args:
        path: the file.
        title: of the picture.
        x: the label of the horizontal axes.
        panels: by the label of the vertical axis, curves by name, each a list of points.

    Raises:
        Problem: matplotlib is not installed.
    """
    with picture(path, 5 * len(panels), 4) as figure:
        figure.suptitle(title)
        for axes, (label, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0],
                                         panels.items(), strict=True):  # fmt: skip
            for name, points in curves.items():
                axes.plot(*zip(*points, strict=True) if points else ([], []), label=name)
            axes.set(xlabel=x, ylabel=label)
            axes.grid(alpha=0.3)
            axes.legend()


def require_matplotlib() -> tuple[Any, Any]:
    """The canvas and the figure of matplotlib.

    Raises:
        Problem: it is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise Problem("curves need the package matplotlib: pip install matplotlib") from None
    return FigureCanvasAgg, Figure


@contextmanager
def picture(path: Path, width: float, height: float) -> Iterator[Any]:
    """A figure of matplotlib's to draw on, of so many inches, which is a PNG in the end.

    Raises:
        Problem: matplotlib is not installed.
    """
    FigureCanvasAgg, Figure = require_matplotlib()
    figure = Figure(figsize=(width, height), layout="constrained")
    yield figure
    write_atomically(path, lambda p: FigureCanvasAgg(figure).print_png(p))
