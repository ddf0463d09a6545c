"""The training loop (section 3.4.1: AdamW, a linear warm-up, cosine annealing to near zero).

A step is a pure function of the state and the data: state n+1 follows from state n bit for bit,
whether the run was interrupted between them or not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from examples.console import show
from examples.llama3 import checkpoint
from examples.llama3.alone import alone
from examples.llama3.board import BOARD, Board
from examples.llama3.checkpoint import State
from examples.llama3.config import Config, ModelConfig, Settings, TrainConfig
from examples.llama3.data import NO_TARGET, Batch, Known, Source, Windows, bits_per_byte
from examples.llama3.evaluation import loss_of, validate, validation_batches
from examples.llama3.files import Problem, sweep
from examples.llama3.machine import Interrupt, with_threads
from examples.llama3.model import loss
from examples.llama3.plot import PLOT, Picture, plot_losses
from examples.llama3.progress import LOG, Log, Progress, Row
from examples.llama3.setup import (
    calibrated,
    clear,
    initial,
    refuse_existing,
    reopen,
    summary,
    with_concrete_threads,
)
from examples.llama3.step import Objective, begin, owned, schedule_of, step_of
from examples.llama3.text import Text, keep_only, prepare
from examples.llama3.utilisation import Gauge
from lantern.carbon import Account


class Outcome(NamedTuple):
    """How a call of `train` ended.

    Attributes:
        state: the last one, saved.
        config: the settings, with the number of steps that was found if a time was asked for.
        checkpoint: the file it was saved to.
        finished: whether all steps are done.
    """

    state: State
    config: Config
    checkpoint: Path
    finished: bool


def train(
    model: dict[str, Any],
    settings: dict[str, Any],
    run: Path,
    console: Console,
    resume: bool = False,
    overwrite: bool = False,
    stop_at: int | None = None,
    account: Account | None = None,
) -> Outcome:
    """Train a model, or go on training it.

    Args:
        model: fields of `ModelConfig` that differ from the defaults.
        settings: fields of `TrainConfig` that differ from the defaults.
        run: the folder for the tokenizer, the checkpoints, the log and the plot.
        console: where to report.
        resume: go on from the newest checkpoint in ``run``; settings that are given must be the
        run's.
        overwrite: remove a run that is in the folder.
        stop_at: save and stop after this step, as an interrupt would.
        account: where the energy of each phase is counted; None: nowhere.

    Returns:
        How it ended: finished, or stopped by an interrupt or ``stop_at``.

    Raises:
        Problem: settings, data or a checkpoint are not usable, another process trains in the
            folder, or the loss is not finite.
    """
    began = time.perf_counter()
    settings = {
        **settings, "data": tuple(str(Path(f).resolve()) for f in settings.get("data", ()))
    }  # fmt: skip
    if settings.get("init"):
        settings["init"] = str(Path(settings["init"]).resolve())
    with alone(run):
        sweep(run)
        if resume:
            config, state, text = reopen(run, {**model, **settings}, console)
            console.print(f"going on from step {state.step} in {run}")
        else:
            config, state, text = begun(run, model, settings, console, overwrite)
        state = owned(state)
        return go_on(config, state, text, run, console, resume, stop_at, account, began)


def begun(
    run: Path, model: dict[str, Any], settings: dict[str, Any], console: Console, overwrite: bool
) -> tuple[Config, State, Text]:
    """The settings, the first state and the data of a new run.

    Raises:
        Problem: settings or data are not usable, or a run is there that may not be overwritten.
    """
    refuse_existing(run, overwrite)
    train_config = TrainConfig(**settings)
    train_config.check()
    ModelConfig(vocab=1, **model).check()
    console.print("reading and encoding the text …")
    if train_config.init:
        source = initial(train_config, model, console)
        text = prepare(train_config, run, console, source.tokenizer)
        config = Config(source.config, train_config)
        return config, begin(config, source.params), text
    text = prepare(train_config, run, console)
    config = Config(ModelConfig(vocab=text.tokenizer.vocab, **model), train_config)
    return config, begin(config), text


def go_on(
    config: Config,
    state: State,
    text: Text,
    run: Path,
    console: Console,
    resume: bool,
    stop_at: int | None,
    account: Account | None,
    began: float,
) -> Outcome:
    """Train from a state on, and say where everything is. The steps write into its memory."""
    training = Windows(text.train, config.model.context, state.key)
    validation = validation_batches(text.valid, config)
    if not resume:  # an old run goes only now that the new one can begin
        clear(run)
        keep_only(run, text)
        text.tokenizer.save(run / checkpoint.TOKENIZER)
    show(console, summary(config, state.params, text))
    enter = account.enter if account else lambda _: None
    with Interrupt() as interrupt:
        if not resume and config.train.minutes:
            enter("experimentation")
            config = calibrated(config, state, training, validation, text, run, began, interrupt)
            console.print(
                f"{config.train.steps} steps fit into {config.train.minutes:g} minutes here"
                f" (threads: {config.train.threads})"
            )
        if not resume:
            config = with_concrete_threads(config)
            checkpoint.save(run, state, config, text.fingerprints)
        enter("training")
        with with_threads(config.train.threads), checkpoint.disk_errors(run, config):
            state = loop(
                config, state, training, validation, text, run, console, interrupt, stop_at, account
            )
    finished = state.step >= config.train.steps
    saved = checkpoint.path_of(run, state.step)
    if not finished:
        show(
            console,
            f"stopped after step {state.step} of {config.train.steps}; everything is in {saved}\n"
            f"to go on: python -m examples.llama3 train --run {run} --resume",
        )
    return Outcome(state, config, saved, finished)


def loop(
    config: Settings,
    state: State,
    training: Source,
    validation: Sequence[Batch],
    data: Known,
    run: Path,
    console: Console,
    interrupt: Interrupt,
    stop_at: int | None,
    account: Account | None = None,
    objective: Objective = loss,
) -> State:
    """Step until done or interrupted; log, validate, save and draw on the way.

    Raises:
        Problem: the loss or the gradient is not finite. Nothing of that step is kept.
    """
    step, schedule, t = step_of(config, objective), schedule_of(config.train), config.train
    loss_on = loss_of(config, objective)
    gauge = Gauge(config.model, t.threads, account)
    board = Board(run / BOARD, state.step) if t.tensorboard else None
    log = Log(run / LOG, state.step, board)
    picture = Picture(run / PLOT)
    known = [r.valid_bits_per_byte for r in log.rows if r.valid_bits_per_byte is not None]
    stop = state.step == stop_at or interrupt.asked
    with log, Progress(console, t.steps, state.step, known[-1] if known else None) as progress:
        while state.step < t.steps and not stop:
            began = time.perf_counter()
            batch = training.batch(state.position, t.batch)
            lr = float(schedule(state.step))
            after, value, norm = step(state, batch)
            check_finite(after.step, lr, run, {"loss": value, "gradient's norm": norm})
            state = after
            seconds = time.perf_counter() - began
            last = state.step == t.steps
            stop = interrupt.asked or state.step == stop_at
            measured = None
            if state.step % t.validate_every == 0 or last:
                measured = validate(loss_on, state.params, validation, data)
                check_finite(after.step, lr, run, {"validation loss": measured})
            nats = value * int(np.sum(batch.targets != NO_TARGET))
            row = Row(
                step=state.step,
                tokens=state.position * batch.tokens.shape[1],
                loss=value,
                bits_per_byte=bits_per_byte(nats, [batch], data),
                valid_bits_per_byte=measured,
                gradient_norm=norm,
                lr=lr,
                seconds=seconds,
                tokens_per_second=batch.tokens.size / seconds,
                **gauge.read(batch.tokens.size, batch.tokens.shape[1], seconds)._asdict(),
            )
            log.add(row)
            progress.step(row, batch.tokens.size)
            if account:
                account.add(batch.tokens.size)
            if state.step % t.save_every == 0 or last or stop:
                log.to_disk()  # the checkpoint must not outlive the lines before it
                checkpoint.save(run, state, config, data.fingerprints)
                picture.show(log.rows)
    plot_losses(log.rows, run / PLOT)
    return state


def check_finite(step: int, lr: float, run: Path, found: dict[str, float]) -> None:
    """Stop training that has gone astray, before anything of the step is saved.

    Raises:
        Problem: a number is inf or nan; the message names it, the step and the last checkpoint.
    """
    for name, value in found.items():
        if not math.isfinite(value):
            raise Problem(
                f"the {name} is {value} at step {step} (learning rate {lr:.3g}); training stops. "
                f"The last good checkpoint is kept: {checkpoint.newest(run)}. A lower --lr or "
                "--clip, or a longer --warmup, may help"
            )


def show_files(console: Console, outcome: Outcome, run: Path) -> None:
    """Where a run's results are."""
    show(
        console,
        f"loss curve  {run / PLOT}\nlog         {run / LOG}\ncheckpoint  {outcome.checkpoint}",
    )
