"""What a person sees while an example trains, and the curves they find afterwards."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from examples.llama3.files import Problem, write_atomically

EVERY = 10.0  # seconds between lines where the output is no terminal


class Rate(ProgressColumn):
    """How much is done a second, over the last steps."""

    def render(self, task: Task) -> Text:
        unit, speed = task.fields["unit"], task.finished_speed or task.speed
        return Text(f"{speed:,.0f} {unit}/s" if speed else "", style="cyan")


class Display:
    """A live line with what is done, numbers, the rate and the time left.

    Where the output is no terminal (a file, a CI log), now and then a plain line takes its place.

    Args:
        console: where to draw.
        unit: what is counted: ``trees``.
        total: how many there are.
    """

    def __init__(self, console: Console, unit: str, total: int) -> None:
        self.console, self.unit, self.total = console, unit, total
        self.bar = Progress(
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} {task.fields[unit]}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[numbers]}"),
            Rate(),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("", total=total, unit=unit, numbers="")
        self.began = self.said = time.perf_counter()

    def __enter__(self) -> Display:
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def show(self, done: int, **numbers: float) -> None:
        """Draw where things stand.

        Args:
            done: how many of the total.
            **numbers: what else there is to see, by name.
        """
        text = " · ".join(
            f"{name.replace('_', ' ')} {value:.3f}" for name, value in numbers.items()
        )
        self.bar.update(self.task, completed=done, numbers=text)
        now = time.perf_counter()
        if not self.console.is_terminal and (now - self.said > EVERY or done == self.total):
            self.said, passed = now, now - self.began
            left = passed / max(1, done) * (self.total - done)
            self.console.print(
                f"{done:,}/{self.total:,} {self.unit} · {text} · {done / passed:,.0f} "
                f"{self.unit}/s · {int(left // 60)}:{int(left % 60):02d} left",
                soft_wrap=True, highlight=False,
            )  # fmt: skip


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


@contextmanager
def picture(path: Path, width: float, height: float) -> Iterator[Any]:
    """A figure of matplotlib's to draw on, of so many inches, which is a PNG in the end.

    Raises:
        Problem: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise Problem("curves need the package matplotlib: pip install matplotlib") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    yield figure
    write_atomically(path, lambda p: FigureCanvasAgg(figure).print_png(p))
