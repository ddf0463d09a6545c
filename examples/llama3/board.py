"""The log of a run as TensorBoard reads it: `tensorboard --logdir RUN`."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from examples.llama3.files import Problem
from examples.llama3.progress import Row

BOARD = "tensorboard"  # the folder, in that of a run


class Board:
    """What appends to a folder of event files, in a file of its own.

    Args:
        folder: made if missing.
        step: the step that the run goes on from. What earlier files have of later ones, which a
            killed run had taken and lost, TensorBoard drops.

    Raises:
        Problem: the package tensorboard is not installed.
    """

    def __init__(self, folder: Path, step: int) -> None:
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError:
            raise Problem(
                "--tensorboard needs the package tensorboard: pip install tensorboard"
            ) from None
        self._event: Any = event_pb2
        self._summary: Any = summary_pb2
        self._file = EventFileWriter(str(folder))
        session = self._event.SessionLog(status=self._event.SessionLog.START)
        self._file.add_event(
            self._event.Event(wall_time=time.time(), step=step + 1, session_log=session)
        )

    def add(self, row: Row) -> None:
        """Append a step: every number of the row, under its name."""
        numbers = dataclasses.asdict(row)
        step = numbers.pop("step")
        value = self._summary.Summary.Value
        values = [value(tag=k, simple_value=v) for k, v in numbers.items() if v is not None]
        self._file.add_event(
            self._event.Event(
                wall_time=time.time(), step=step, summary=self._summary.Summary(value=values)
            )
        )

    def to_disk(self) -> None:
        """Write what is waiting."""
        self._file.flush()

    def close(self) -> None:
        """Write what is waiting, and end."""
        self._file.close()
