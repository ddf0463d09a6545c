"""What a person sees while the model learns, and the log they find afterwards."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console

from examples.display import Display
from examples.llama3.files import write_atomically

if TYPE_CHECKING:
    from examples.llama3.board import Board

LOG = "log.csv"


@dataclass(frozen=True)
class Row:
    """One step, as the log has it.

    Attributes:
        step: steps taken, this one included.
        tokens: tokens seen so far.
        loss: mean cross-entropy of the batch, in nats a token.
        bits_per_byte: the same, in bits for each byte of text.
        valid_bits_per_byte: on the held-out text; None between validations.
        gradient_norm: before clipping.
        lr: the learning rate of the step.
        seconds: of the step.
        tokens_per_second: in the step.
        mfu: the share of the machine's arithmetic that it used, as `utilisation` counts.
        watts: that the machine drew; None where nothing is measured, as below.
        grams: of CO2 equivalents that the electricity of the run has emitted so far.
    """

    step: int
    tokens: int
    loss: float
    bits_per_byte: float
    valid_bits_per_byte: float | None
    gradient_norm: float
    lr: float
    seconds: float
    tokens_per_second: float | None = None
    mfu: float | None = None
    watts: float | None = None
    grams: float | None = None

    def cells(self) -> list[str]:
        """As a line of the log; numbers in full, so that two runs can be compared bit for bit."""
        return ["" if v is None else repr(v) for v in dataclasses.astuple(self)]

    @staticmethod
    def parse(cells: dict[str, str]) -> Row:
        """The inverse of `cells`, given the cells by column."""
        found: dict[str, Any] = {name: int(cells[name]) for name in ("step", "tokens")}
        found |= {name: float(cells[name]) for name in NUMBERS}
        found |= {name: float(cells[name]) if cells.get(name) else None for name in PERHAPS}
        return Row(**found)


COLUMNS = [f.name for f in dataclasses.fields(Row)]
NUMBERS = ("loss", "bits_per_byte", "gradient_norm", "lr", "seconds")
PERHAPS = ("valid_bits_per_byte", "tokens_per_second", "mfu", "watts", "grams")


class Log:
    """The CSV log of a run: a line a step, written as the step ends.

    A killed process leaves lines newer than its last checkpoint, perhaps half a line. Opening the
    log at a step drops what comes after, so that the resumed run continues the curve.

    Args:
        path: the file, created if missing.
        step: the step of the checkpoint that the run goes on from.
        board: where TensorBoard reads the same.
    """

    def __init__(self, path: Path, step: int, board: Board | None = None) -> None:
        self.board = board
        self.rows = [row for row in read_log(path) if row.step <= step] if step else []
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(
            [COLUMNS, *(row.cells() for row in self.rows)]
        )
        write_atomically(path, lambda p: p.write_text(text.getvalue()))
        self._file = open(path, "a", newline="", buffering=1)  # noqa: SIM115  # closed by __exit__
        self._writer = csv.writer(self._file, lineterminator="\n")

    def add(self, row: Row) -> None:
        """Append a step."""
        self.rows.append(row)
        self._writer.writerow(row.cells())
        if self.board:
            self.board.add(row)

    def to_disk(self) -> None:
        """See to it that what was written outlives a power cut."""
        os.fsync(self._file.fileno())
        if self.board:
            self.board.to_disk()

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
        if self.board:
            self.board.close()


def read_log(path: Path) -> list[Row]:
    """The rows of a log; a line that a killed process left unfinished is dropped."""
    rows = []
    try:
        with open(path, newline="") as file:
            for cells in csv.DictReader(file):
                try:
                    rows.append(Row.parse(cells))
                except (KeyError, TypeError, ValueError):
                    continue
    except FileNotFoundError:
        pass
    return rows


class Progress(Display):
    """Two live lines: the step, both losses, tokens a second and the time left; below, the
    gradient's norm, the learning rate, and what the step used.

    Args:
        console: where to draw.
        steps: the steps of the whole run.
        done: the steps already taken.
        valid: the last validation loss of a resumed run.
    """

    def __init__(self, console: Console, steps: int, done: int, valid: float | None) -> None:
        super().__init__(console, "steps", steps, done=done, every=math.inf)
        self.valid = valid
        self.seconds = 0.0  # an average over the last steps

    def step(self, row: Row, tokens: int) -> None:
        """Draw a step of ``tokens`` tokens."""
        self.seconds = 0.9 * self.seconds + 0.1 * row.seconds if self.seconds else row.seconds
        rate = f"{tokens / self.seconds:,.0f} tok/s"
        if row.valid_bits_per_byte is not None:
            self.valid = row.valid_bits_per_byte
        losses = f"loss {row.loss:.3f}" + (
            f" · validation {self.valid:.3f} bits/byte" if self.valid is not None else ""
        )
        below = " · ".join(self.used(row))
        self.show(row.step, f"{losses}\n{below}" if self.console.is_terminal else losses, rate)
        if row.valid_bits_per_byte is not None and row.step < self.total:
            self.say(row.step, f"{losses} · {below}", rate)

    @staticmethod
    def used(row: Row) -> list[str]:
        """How the step went, and what it used, as far as that is known."""
        known = {
            "gradient {:.2f}": row.gradient_norm, "learning rate {:.1e}": row.lr,
            "MFU {:.0%}": row.mfu, "{:.0f} W": row.watts, "{:.2g} g CO2e": row.grams,
        }  # fmt: skip
        return [text.format(value) for text, value in known.items() if value is not None]
