"""Runs that train or fine-tune and are killed again and again, as a program: `python -m
tests.killed_runs DIR`.

Each attempt is a fork of this process, which has one thread: it goes on with the run, and SIGKILL
ends it at a moment of its own, in the middle of a file or wherever it is. `tests.test_llama3_kills`
compares what comes of it with a run that nobody disturbed.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from rich.console import Console

import lantern.io
from examples.llama3 import plot, progress
from examples.llama3.finetune import finetune
from examples.llama3.train import train

MODEL: dict[str, Any] = {
    "dim": 8, "layers": 1, "heads": 2, "kv_heads": 1, "ffn": 8, "context": 8,
}  # fmt: skip
STEPS, EVERY = 20, 4
SETTINGS: dict[str, Any] = {
    "tokenizer": "bytes", "batch": 1, "steps": STEPS, "validate_every": 3, "save_every": EVERY,
    "validation_sequences": 2, "valid_fraction": 0.2, "lr": 1e-2, "eager": True, "keep": 2,
}  # fmt: skip
TUNING: dict[str, Any] = {
    **{k: v for k, v in SETTINGS.items() if k != "tokenizer"}, "row": 48, "questions": 0,
    "lora": 2, "validate_every": 6,
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

    def torn(self: Any, filename_or_obj: Any, **_: Any) -> None:
        Path(filename_or_obj).write_bytes(b"\x89PNG")
        die()

    FigureCanvasAgg.print_png = torn


# What makes a run die at a moment, or seconds after which it is killed, wherever it is then.
Moment = Callable[[], None] | float
MOMENTS: dict[str, Moment] = {
    "in a checkpoint's bytes": in_a_checkpoint,
    "before a checkpoint has its name": on("os.rename", "step-"),
    "in a line of the log": in_a_line_of_the_log,
    "before an old checkpoint is removed": on("os.remove", "step-"),
    "in the picture": in_the_picture,
    "before the picture has its name": on("os.rename", ".loss.png"),
    "after 0.03 s": 0.03,
    "after 0.3 s": 0.3,
}
TUNING_MOMENTS: dict[str, Moment] = {
    "before the scores have their name": on("os.rename", "scores.json"),
    **MOMENTS,
    "in the model's folder": on("os.rename", ".model.new."),
    "before the model has its name": on("os.rename", "model.new"),
}


class Work(NamedTuple):
    """What is done in a run.

    Attributes:
        moments: at which it is killed.
        begin, go_on: in a folder.
    """

    moments: dict[str, Moment]
    begin: Callable[[Path], object]
    go_on: Callable[[Path], object]


def quiet() -> Console:
    """One that nobody reads."""
    return Console(file=io.StringIO())


def training(folder: Path) -> Work:
    """A tiny model that learns some lines."""
    text = folder / "text.txt"
    text.write_text("".join(f"line {k}: {k * k}\n" for k in range(40)))
    return Work(
        MOMENTS,
        lambda run: train(MODEL, {**SETTINGS, "data": (str(text),)}, run, quiet()),
        lambda run: train({}, {}, run, quiet(), resume=True),
    )


def tuning(folder: Path, model: Path) -> Work:
    """A model that learns answers."""
    chats, roles = folder / "chats.jsonl", ("user", "assistant")
    said = [[{"role": r, "content": f"{r[0]} {k}"} for r in roles] for k in range(40)]
    chats.write_text("\n".join(json.dumps({"messages": messages}) for messages in said))
    settings = {**TUNING, "data": (str(chats),), "model": str(model)}
    return Work(
        TUNING_MOMENTS,
        lambda run: finetune(settings, run, quiet()),
        lambda run: finetune({}, run, quiet(), resume=True),
    )


def attempt(work: Work, run: Path, moment: Moment | None) -> int:
    """Begin or go on with a run in a fork, until it ends or is killed; the status of its exit, or
    the number of the signal, negative."""
    child = os.fork()
    if not child:
        if callable(moment):
            plot.EVERY = 0.0  # a picture with each checkpoint
            moment()
        (work.go_on if any(run.glob("step-*.safetensors")) else work.begin)(run)
        os._exit(0)
    if isinstance(moment, float):
        time.sleep(moment)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def disturb(work: Work, whole: Path, killed: Path) -> None:
    """A run that is left alone and one that is killed; prints a line for each attempt."""
    print("undisturbed", attempt(work, whole, None), sep=": ", flush=True)
    for name, moment in work.moments.items():
        print(name, attempt(work, killed, moment), sep=": ", flush=True)
    print("to the end", attempt(work, killed, None), sep=": ", flush=True)


def main(folder: Path) -> None:
    """Train, in ``folder/whole`` and ``folder/killed``; fine-tune, in ``folder/tuned/…``."""
    disturb(training(folder), folder / "whole", folder / "killed")
    tuned = folder / "tuned"
    disturb(tuning(folder, folder / "whole"), tuned / "whole", tuned / "killed")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
