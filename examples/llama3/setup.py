"""What happens before the first step: settings are checked, found or read back."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from examples.console import show
from examples.llama3 import checkpoint
from examples.llama3.board import BOARD
from examples.llama3.checkpoint import Kind, State
from examples.llama3.config import Config, RopeScaling, TrainConfig
from examples.llama3.data import Batch, Windows
from examples.llama3.evaluation import loss_of, validate
from examples.llama3.files import PARTIAL, Problem
from examples.llama3.machine import Interrupt, threads, with_threads
from examples.llama3.model import Params, parameter_count
from examples.llama3.plot import PLOT
from examples.llama3.progress import LOG
from examples.llama3.step import begin, owned, step_of
from examples.llama3.text import Text, reopened
from lantern.carbon import LEDGER, abandon

if TYPE_CHECKING:
    from examples.llama3.weights import Loaded


def reopen(
    run: Path, asked: dict[str, Any], console: Console
) -> tuple[Config, State, Text]:  # fmt: skip
    """The settings, the newest state and the data of a run.

    Raises:
        Problem: the checkpoint is damaged, or settings or data are not those of the run.
    """
    config, fingerprints, state = checkpoint.load_newest(
        run, Config, begin, functools.partial(show, console)
    )
    config = agreed(config, {k: v for k, v in asked.items() if v != ()})
    text = reopened(config.train, run, console)
    checkpoint.check_same_data(fingerprints, text.fingerprints)
    return config, state, text


def agreed(config: Kind, asked: dict[str, Any]) -> Kind:
    """The settings of a run that goes on, with those that may change as they are asked for.

    Raises:
        Problem: others are asked for, too.
    """
    checkpoint.check_same_settings(config, asked)
    free = {k: v for k, v in asked.items() if k in checkpoint.free_settings(config)}
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, **free))
    config.train.check()
    return config


def initial(config: TrainConfig, asked: dict[str, Any], console: Console) -> Loaded:
    """The model that ``--init`` names, with another context, and with its rotary frequencies
    stretched for that, if asked (section 3.4.2: to go on at longer sequences).

    Args:
        config: what to train.
        asked: fields of its shape that stand on the command line.
        console: where to show progress.

    Raises:
        Problem: there is none, or it has another shape.
    """
    from examples.llama3 import weights  # only now: it knows many formats

    found = weights.load(Path(config.init), console=console)
    shape = found.config
    for name, value in asked.items():
        if name != "context" and getattr(shape, name) != value:
            raise Problem(
                f"--{checkpoint.dashed(name)} {value} is not the shape of {config.init}, which has "
                f"{getattr(shape, name)}: leave it out"
            )
    if config.rope_scaling_factor != 1:
        first = shape.rope_scaling.original if shape.rope_scaling else shape.context
        scaling = RopeScaling(factor=config.rope_scaling_factor, original=first)
        shape = dataclasses.replace(shape, rope_scaling=scaling)
    shape = dataclasses.replace(shape, context=asked.get("context", shape.context))
    shape.check()
    return dataclasses.replace(found, config=shape)


def refuse_existing(run: Path, overwrite: bool) -> None:
    """Protect a run that is in the folder.

    Raises:
        Problem: one is there and may not be overwritten.
    """
    old = checkpoint.checkpoints(run)
    if old and not overwrite:
        raise Problem(
            f"{run} holds a run already (up to {old[-1].stem}): go on with --resume, replace it "
            "with --overwrite, or name another folder with --run"
        )


def clear(run: Path) -> None:
    """Remove the files of an old run, all but its text and its account of energy: what it took
    counts as experimentation."""
    abandon(run / LEDGER)
    for path in [*checkpoint.checkpoints(run), run / LOG, run / PLOT, run / checkpoint.TOKENIZER]:
        path.unlink(missing_ok=True)
    shutil.rmtree(run / BOARD, ignore_errors=True)


def calibrated(
    config: Config,
    state: State,
    training: Windows,
    validation: Sequence[Batch],
    text: Text,
    run: Path,
    began: float,
    interrupt: Interrupt,
) -> Config:
    """Settings with the number of steps that ends ``minutes`` after ``began``.

    A few steps, a validation and a checkpoint are timed and dropped, so that the run itself depends
    on the settings found and nothing else: warm-up and annealing fit the number of steps, and it
    can be resumed bit for bit. A machine that turns slower later takes longer.
    """
    t = config.train
    batch = training.batch(0, t.batch)

    def on(count: int) -> Config:
        return dataclasses.replace(config, train=dataclasses.replace(t, threads=count))

    def seconds(count: int) -> float:
        times = []
        step, now = step_of(on(count)), owned(state)
        with with_threads(count):
            for _ in range(6):
                start = time.perf_counter()
                if not interrupt.asked:
                    now, _, _ = step(now, batch)
                times.append(time.perf_counter() - start)
        # The first steps compile, or touch memory for the first time, and are slower than the rest.
        return statistics.median(times[2:])

    # Where other programs keep the cores busy, threads that wait for each other cost the most.
    measured = {count: seconds(count) for count in ({t.threads} if t.threads else {1, threads()})}
    count = min(measured, key=measured.__getitem__)
    loss_on = loss_of(on(count))
    with with_threads(count):
        validate(loss_on, state.params, validation[:1], text)  # compiles
        start = time.perf_counter()
        validate(loss_on, state.params, validation, text)
        validating = (time.perf_counter() - start) / t.validate_every
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(PARTIAL, ".trial.", run) as trial:
        checkpoint.save(Path(trial), state, config, text.fingerprints)
    saving = (time.perf_counter() - start) / t.save_every
    left = t.minutes * 60 - (time.perf_counter() - began)
    steps = max(1, int(left / (measured[count] + validating + saving)))
    return dataclasses.replace(config, train=dataclasses.replace(t, steps=steps, threads=count))


def with_concrete_threads(config: Kind) -> Kind:
    """Settings that name the number of threads: sums may be rounded otherwise with another one."""
    count = config.train.threads or threads()
    return dataclasses.replace(config, train=dataclasses.replace(config.train, threads=count))


def summary(config: Config, params: Params, text: Text) -> str:
    """What is about to happen, in a few lines."""
    m, t = config.model, config.train
    size, held = len(text.train.tokens), len(text.valid.tokens)
    return (
        f"model      {parameter_count(params):,} parameters: {m.layers} layers of width {m.dim}, "
        f"{m.heads} heads on {m.kv_heads}, feed-forward {m.ffn}, vocabulary {m.vocab}\n"
        f"text       {text.train.documents:,} documents, {size:,} tokens; held out: "
        f"{text.valid.documents:,} documents, {held:,} tokens\n"
        f"step       {t.batch} sequences of {m.context} tokens"
        + (f", in {t.accumulate} parts" if t.accumulate > 1 else "")
    )
