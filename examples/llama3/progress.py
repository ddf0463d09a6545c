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

from rich.console import Console

from examples.display import Display
from examples.llama3.files import write_atomically

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
    """

    step: int
    tokens: int
    loss: float
    bits_per_byte: float
    valid_bits_per_byte: float | None
    gradient_norm: float
    lr: float
    seconds: float

    def cells(self) -> list[str]:
        """As a line of the log; numbers in full, so that two runs can be compared bit for bit."""
        return ["" if v is None else repr(v) for v in dataclasses.astuple(self)]

    @staticmethod
    def parse(cells: dict[str, str]) -> Row:
        """The inverse of `cells`, given the cells by column."""
        return Row(
            step=int(cells["step"]),
            tokens=int(cells["tokens"]),
            valid_bits_per_byte=float(cells["valid_bits_per_byte"])
            if cells["valid_bits_per_byte"]
            else None,
            **{
                name: float(cells[name])
                for name in ("loss", "bits_per_byte", "gradient_norm", "lr", "seconds")
            },
        )


COLUMNS = [f.name for f in dataclasses.fields(Row)]


class Log:
    """The CSV log of a run: a line a step, written as the step ends.

    A killed process leaves lines newer than its last checkpoint, perhaps half a line. Opening the
    log at a step drops what comes after, so that the resumed run continues the curve.

    Args:
        path: the file, created if missing.
        step: the step of the checkpoint that the run goes on from.
    """

    def __init__(self, path: Path, step: int) -> None:
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

    def to_disk(self) -> None:
        """See to it that what was written outlives a power cut."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()


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
    """A live line with the step, both losses, tokens a second and the time left.

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
        self.show(row.step, losses, rate)
        if row.valid_bits_per_byte is not None and row.step < self.total:
            self.say(row.step, losses, rate)
