"""The loss curve of a run as a PNG."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from examples.display import picture, require_matplotlib
from examples.llama3.progress import Row

PLOT = "loss.png"
EVERY = (
    10.0  # seconds between pictures while a run goes on: drawing one takes as long as many steps
)


class Picture:
    """The curve of a run that goes on, drawn now and then.

    Raises:
        Problem: matplotlib is not installed, which stops no run halfway.
    """

    def __init__(self, path: Path) -> None:
        require_matplotlib()
        self.path, self._drawn = path, time.perf_counter()

    def show(self, rows: Sequence[Row]) -> None:
        """Draw the steps so far, if the last picture is not of just now."""
        if time.perf_counter() - self._drawn >= EVERY:
            plot_losses(rows, self.path)
            self._drawn = time.perf_counter()


def plot_losses(rows: Sequence[Row], path: Path) -> None:
    """Draw training and validation loss over the tokens seen, both in bits per byte.

    Raises:
        Problem: matplotlib is not installed.
    """
    with picture(path, 8, 4.5) as figure:
        axes = figure.add_subplot()
        if rows:
            draw(axes, rows)
        axes.set(
            xlabel="million tokens seen", ylabel="loss, bits per byte", title="Llama 3 on lantern"
        )
        axes.grid(alpha=0.3)


def draw(axes: Any, rows: Sequence[Row]) -> None:
    """The curves, the last validation loss written beside its point."""
    seen = np.array([r.tokens for r in rows]) / 1e6
    losses = np.array([r.bits_per_byte for r in rows])
    axes.plot(seen, losses, color="C0", alpha=0.25, linewidth=0.8)
    axes.plot(seen, smooth(losses), color="C0", label="training, smoothed")
    valid = [
        (r.tokens / 1e6, r.valid_bits_per_byte) for r in rows if r.valid_bits_per_byte is not None
    ]
    if valid:
        axes.plot(*zip(*valid, strict=True), "o-", color="C1", markersize=4, label="validation")
        axes.annotate(
            f"{valid[-1][1]:.3f}", valid[-1], textcoords="offset points", xytext=(0, 8),
            ha="right", color="C1",
        )  # fmt: skip
    axes.legend()


def smooth(values: np.ndarray, memory: float = 0.95) -> np.ndarray:
    """The exponential moving average, without the bias of its start; [n] -> [n].

    Example:
        >>> smooth(np.array([2.0, 2.0, 2.0])).tolist()
        [2.0, 2.0, 2.0]
    """
    out, total, weight = np.empty(len(values)), 0.0, 0.0
    for i, v in enumerate(values):
        total, weight = memory * total + (1 - memory) * v, memory * weight + (1 - memory)
        out[i] = total / weight
    return out
