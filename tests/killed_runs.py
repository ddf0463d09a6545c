"""A training run that is killed again and again, as a program: `python -m tests.killed_runs DIR`.

Each attempt is a fork of this process, which has one thread: it goes on with the run, and SIGKILL
ends it at a moment of its own, in the middle of a file or wherever it is. `tests.test_llama3_kills`
compares what comes of it with a run that nobody disturbed.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from rich.console import Console

import lantern.io
from examples.llama3 import plot, progress
from examples.llama3.train import train

MODEL: dict[str, Any] = {
    "dim": 8, "layers": 1, "heads": 2, "kv_heads": 1, "ffn": 8, "context": 8,
}  # fmt: skip
STEPS, EVERY = 20, 4
SETTINGS: dict[str, Any] = {
    "tokenizer": "bytes", "batch": 1, "steps": STEPS, "validate_every": 3, "save_every": EVERY,
    "validation_sequences": 2, "valid_fraction": 0.2, "lr": 1e-2, "eager": True, "keep": 2,
}  # fmt: skip


def die() -> None:
    """What `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def in_a_checkpoint() -> None:
    """Half of its bytes are there, under the temporary name."""
    write = lantern.io.serialize_file

    def torn(arrays: Any, path: Any, metadata: Any = None) -> None:
        write(arrays, path, metadata=metadata)
        os.truncate(path, os.path.getsize(path) // 2)
        die()

    lantern.io.serialize_file = torn


def on(event: str, name: str) -> Callable[[], None]:
    """Before a call of the system on a file whose name has a part."""

    def install() -> None:
        def hook(what: str, about: tuple[Any, ...]) -> None:
            if what == event and name in os.path.basename(str(about[0])):
                die()

        sys.addaudithook(hook)

    return install


def in_a_line_of_the_log() -> None:
    """Half of one is written, three steps behind a checkpoint."""
    add = progress.Log.add

    def torn(self: progress.Log, row: progress.Row) -> None:
        if row.step % EVERY == 3:
            self._file.write(",".join(row.cells())[:40])
            self._file.flush()
            die()
        add(self, row)

    progress.Log.add = torn


def in_the_picture() -> None:
    """Some of its bytes are written."""

    def torn(self: Any, path: Any) -> None:
        Path(path).write_bytes(b"\x89PNG")
        die()

    FigureCanvasAgg.print_png = torn


MOMENTS: dict[str, Callable[[], None]] = {
    "in a checkpoint's bytes": in_a_checkpoint,
    "before a checkpoint has its name": on("os.rename", "step-"),
    "in a line of the log": in_a_line_of_the_log,
    "before an old checkpoint is removed": on("os.remove", "step-"),
    "in the picture": in_the_picture,
    "before the picture has its name": on("os.rename", ".loss.png"),
}
# Seconds after which the parent kills, wherever the run is then.
CLOCK = (0.03, 0.3)


def attempt(text: str, run: Path, moment: Callable[[], None] | None, seconds: float = 0.0) -> int:
    """Begin or go on with a run in a fork, until it ends or is killed; the status of its exit, or
    the number of the signal, negative."""
    child = os.fork()
    if not child:
        if moment:
            plot.EVERY = 0.0  # a picture with each checkpoint
            moment()
        console = Console(file=io.StringIO())
        if any(run.glob("step-*.safetensors")):
            train({}, {}, run, console, resume=True)
        else:
            train(MODEL, {**SETTINGS, "data": (text,)}, run, console)
        os._exit(0)
    if seconds:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(folder: Path) -> None:
    """One run that is left alone, in ``folder/whole``, and one that is killed, in
    ``folder/killed``; prints a line for each attempt."""
    text = folder / "text.txt"
    text.write_text("".join(f"line {k}: {k * k}\n" for k in range(40)))
    print("undisturbed", attempt(str(text), folder / "whole", None), sep=": ")
    for name, moment in MOMENTS.items():
        print(name, attempt(str(text), folder / "killed", moment), sep=": ")
    for seconds in CLOCK:
        print(f"after {seconds} s", attempt(str(text), folder / "killed", None, seconds), sep=": ")
    print("to the end", attempt(str(text), folder / "killed", None), sep=": ")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
