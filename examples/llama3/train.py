"""The training loop (section 3.4.1: AdamW, a linear warm-up, cosine annealing to near zero).

A step is a pure function of the state and the data: state n+1 follows from state n bit for bit,
whether the run was interrupted between them or not.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

import lantern as ln
from examples.llama3 import checkpoint, tokenizer
from examples.llama3.checkpoint import State
from examples.llama3.config import Config, ModelConfig, TrainConfig
from examples.llama3.data import NO_TARGET, Batch, Corpus, Windows, read_documents, split
from examples.llama3.files import Problem
from examples.llama3.machine import Interrupt, threads, with_threads
from examples.llama3.model import Params, init, loss, parameter_count
from examples.llama3.plot import PLOT, plot_losses
from examples.llama3.progress import LOG, Display, Log, Row
from examples.llama3.tokenizer import BytePairs, Bytes, Tokenizer

Step = Callable[[State, Batch], tuple[State, float, float]]
Loss = Callable[[Params, Batch], float]


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

    Returns:
        How it ended: finished, or stopped by an interrupt or ``stop_at``.

    Raises:
        Problem: settings, data or a checkpoint are not usable, or the loss is not finite.
    """
    began = time.perf_counter()
    settings = {
        **settings, "data": tuple(str(Path(f).resolve()) for f in settings.get("data", ()))
    }  # fmt: skip
    if resume:
        config, state, text = reopen(run, {**model, **settings})
        console.print(f"going on from step {state.step} in {run}")
    else:
        refuse_existing(run, overwrite)
        train_config = TrainConfig(**settings)
        train_config.check()
        ModelConfig(vocab=1, **model).check()
        console.print("reading and encoding the text …")
        text = prepare(train_config)
        config = Config(ModelConfig(vocab=text.tokenizer.vocab, **model), train_config)
        state = begin(config)
    state = owned(state)
    training = Windows(text.train, config.model.context, state.key)
    validation = validation_batches(text.valid, config)
    if not resume:  # an old run goes only now that the new one can begin
        clear(run)
        text.tokenizer.save(run / checkpoint.TOKENIZER)
    console.print(summary(config, state.params, text), soft_wrap=True, highlight=False)
    with Interrupt() as interrupt:
        if not resume and config.train.minutes:
            config = calibrated(config, state, training, validation, text, run, began, interrupt)
            console.print(
                f"{config.train.steps} steps fit into {config.train.minutes:g} minutes here"
                f" (threads: {config.train.threads})"
            )
        if not resume:
            config = with_concrete_threads(config)
            checkpoint.save(run, state, config, text.fingerprints)
        with with_threads(config.train.threads):
            state = loop(
                config, state, training, validation, text, run, console, interrupt, stop_at
            )
    finished = state.step >= config.train.steps
    saved = checkpoint.path_of(run, state.step)
    if not finished:
        console.print(
            f"stopped after step {state.step} of {config.train.steps}; everything is in {saved}\n"
            f"to go on: python -m examples.llama3 train --run {run} --resume",
            soft_wrap=True,
            highlight=False,
        )
    return Outcome(state, config, saved, finished)


@dataclass(frozen=True)
class Text:
    """The data of a run, encoded."""

    tokenizer: Tokenizer
    train: Corpus
    valid: Corpus

    @functools.cached_property
    def fingerprints(self) -> dict[str, str]:
        """A hash for each split."""
        return {"training": self.train.fingerprint(), "validation": self.valid.fingerprint()}

    def bits_per_byte(self, nats: float, batches: Sequence[Batch]) -> float:
        """A sum of cross-entropies over the targets of batches, as bits a byte of their text."""
        targets = np.concatenate([b.targets[b.targets != NO_TARGET] for b in batches])
        return nats / math.log(2) / max(1, int(self.byte_lengths[targets].sum()))

    @functools.cached_property
    def byte_lengths(self) -> np.ndarray:
        """The number of bytes behind each token."""
        return self.tokenizer.byte_lengths()


def prepare(config: TrainConfig, tokens: Tokenizer | None = None) -> Text:
    """Read, split and encode the data.

    Args:
        config: which data, and how to split and encode them.
        tokens: the tokenizer of the run; None learns one from the training text.

    Raises:
        Problem: a file is missing, empty or not text.
    """
    train, valid = split(read_documents(config.data), config.valid_fraction, config.seed)
    if tokens is None and config.tokenizer == "bytes":
        tokens = Bytes()
    elif tokens is None:
        tokens = BytePairs.train([d.text for d in train], config.bpe_vocab)
    return Text(
        tokens, Corpus.encode(train, tokens, "training"), Corpus.encode(valid, tokens, "validation")
    )


def begin(config: Config) -> State:
    """The state before the first step."""
    parameters, order = ln.random.split(ln.random.key(config.train.seed))
    params = init(parameters, config.model)
    return State(params, optimizer_of(config.train).init(params), 0, 0, order)


def owned(state: State) -> State:
    """The same state in memory of its own, which a compiled step may take over."""

    def copied(tree: Any) -> Any:
        return ln.tree.map(lambda x: ln.asarray(x, copy=True), tree)

    return state._replace(params=copied(state.params), optimizer=copied(state.optimizer))


def reopen(run: Path, asked: dict[str, Any]) -> tuple[Config, State, Text]:
    """The settings, the newest state and the data of a run.

    Raises:
        Problem: the checkpoint is damaged, or settings or data are not those of the run.
    """
    newest = checkpoint.newest(run)
    config, fingerprints = checkpoint.load_settings(newest)
    checkpoint.check_same_settings(config, {k: v for k, v in asked.items() if v != ()})
    state = checkpoint.load(newest, like=begin(config))
    text = prepare(config.train, tokenizer.load(run / checkpoint.TOKENIZER))
    checkpoint.check_same_data(fingerprints, text.fingerprints)
    return config, state, text


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
    """Remove the files of an old run."""
    for path in [*checkpoint.checkpoints(run), run / LOG, run / PLOT, run / checkpoint.TOKENIZER]:
        path.unlink(missing_ok=True)


def schedule_of(config: TrainConfig) -> Callable[[Any], Any]:
    """The learning rate of a step, counted from 0."""
    rise = min(round(config.warmup * config.steps), config.steps - 1)
    return ln.optim.warmup_cosine(config.lr, rise, config.steps, config.final_lr * config.lr)


def optimizer_of(config: TrainConfig) -> ln.optim.Optimizer:
    """Clipping by global norm, then AdamW, which shrinks matrices but not the gains of norms."""
    adamw = ln.optim.adamw(
        schedule_of(config),
        b1=config.beta1,
        b2=config.beta2,
        weight_decay=config.weight_decay,
        mask=lambda params: ln.tree.map(lambda p: p.ndim > 1, params),
    )
    return ln.optim.chain(ln.optim.clip_by_global_norm(config.clip), adamw)


def narrow(loss: Callable[..., ln.Tensor]) -> Callable[..., ln.Tensor]:
    """The loss, its blocks computed in bfloat16. The tables of tokens, which are read by rows and
    in chunks, stay as they are."""
    return ln.mixed_precision(loss, keep=lambda path: path in ("['embedding']", "['output']"))


def step_of(config: Config) -> Step:
    """The function from a state and a batch to the next state, the loss and the gradient's norm.

    Compiled, the next state lies in the memory of the last one, which is gone.
    """
    optimizer = optimizer_of(config.train)
    with_gradient = ln.value_and_grad(narrow(loss) if config.train.bf16 else loss)

    def learn(params: Params, moments: Any, tokens: Any, targets: Any, segments: Any) -> Any:
        value, gradient = with_gradient(params, tokens, targets, segments, config.model)
        updates, moments = optimizer.update(gradient, moments, params)
        norm = ln.optim.global_norm(gradient)
        return value, norm, ln.optim.apply_updates(params, updates), moments

    if not config.train.eager:
        threads = config.train.threads or None
        learn = ln.compile(learn, donate=("params", "moments"), threads=threads)

    def step(state: State, batch: Batch) -> tuple[State, float, float]:
        # Overflow shows in the loss or the norm, which `loop` checks and names; no warnings
        # besides.
        with quiet_overflow():
            value, norm, params, moments = learn(state.params, state.optimizer, *batch)
        after = State(
            params, moments, state.step + 1, state.position + len(batch.tokens), state.key
        )
        return after, float(value), float(norm)

    return step


def loss_of(config: Config) -> Loss:
    """The function from parameters and a batch to the loss."""

    def measure(params: Params, tokens: Any, targets: Any, segments: Any) -> ln.Tensor:
        return loss(params, tokens, targets, segments, config.model)

    if not config.train.eager:
        measure = ln.compile(measure, threads=config.train.threads or None)
    return lambda params, batch: float(measure(params, *batch))


def quiet_overflow() -> np.errstate:
    """No warnings of NumPy's: overflow shows in the numbers that `check_finite` names."""
    return np.errstate(over="ignore", invalid="ignore", divide="ignore")


def loop(
    config: Config,
    state: State,
    training: Windows,
    validation: Sequence[Batch],
    text: Text,
    run: Path,
    console: Console,
    interrupt: Interrupt,
    stop_at: int | None,
) -> State:
    """Step until done or interrupted; log, validate, save and draw on the way.

    Raises:
        Problem: the loss or the gradient is not finite. Nothing of that step is kept.
    """
    step, schedule, t = step_of(config), schedule_of(config.train), config.train
    loss_on = loss_of(config)
    log = Log(run / LOG, state.step)
    plot_losses(log.rows, run / PLOT)  # now, so that a missing library stops no run halfway
    known = [r.valid_bits_per_byte for r in log.rows if r.valid_bits_per_byte is not None]
    stop = state.step == stop_at or interrupt.asked
    with log, Display(console, t.steps, state.step, known[-1] if known else None) as display:
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
                measured = validate(loss_on, state.params, validation, text)
                check_finite(after.step, lr, run, {"validation loss": measured})
            nats = value * int(np.sum(batch.targets != NO_TARGET))
            row = Row(
                step=state.step,
                tokens=state.position * config.model.context,
                loss=value,
                bits_per_byte=text.bits_per_byte(nats, [batch]),
                valid_bits_per_byte=measured,
                gradient_norm=norm,
                lr=lr,
                seconds=seconds,
            )
            log.add(row)
            display.show(row, batch.tokens.size)
            if state.step % t.save_every == 0 or last or stop:
                checkpoint.save(run, state, config, text.fingerprints)
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


def validation_batches(corpus: Corpus, config: Config) -> list[Batch]:
    """The held-out sequences that every validation measures."""
    windows = Windows(corpus, config.model.context, None)
    return windows.spread(config.train.validation_sequences, config.train.batch)


def validate(loss_on: Loss, params: Params, batches: Sequence[Batch], text: Text) -> float:
    """The mean loss on held-out text, in bits for each byte of it."""
    nats = 0.0
    with quiet_overflow():
        for batch in batches:
            nats += loss_on(params, batch) * int(np.sum(batch.targets != NO_TARGET))
    return text.bits_per_byte(nats, batches)


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
    checkpoint.save(run, state, config, text.fingerprints)
    plot_losses([], run / PLOT)
    saving = (time.perf_counter() - start) / t.save_every
    left = t.minutes * 60 - (time.perf_counter() - began)
    steps = max(1, int(left / (measured[count] + validating + saving)))
    return dataclasses.replace(config, train=dataclasses.replace(t, steps=steps, threads=count))


def with_concrete_threads(config: Config) -> Config:
    """Settings that name the number of threads: sums may be rounded otherwise with another one."""
    count = config.train.threads or threads()
    return dataclasses.replace(config, train=dataclasses.replace(config.train, threads=count))


def summary(config: Config, params: Params, text: Text) -> str:
    """What is about to happen, in a few lines."""
    m, t = config.model, config.train
    size = len(text.train.tokens)
    held = len(text.valid.tokens)
    return (
        f"model      {parameter_count(params):,} parameters: {m.layers} layers of width {m.dim}, "
        f"{m.heads} heads on {m.kv_heads}, feed-forward {m.ffn}, vocabulary {m.vocab}\n"
        f"text       {text.train.documents:,} documents, {size:,} tokens; held out: "
        f"{text.valid.documents:,} documents, {held:,} tokens\n"
        f"step       {t.batch} sequences of {m.context} tokens"
    )


def show_files(console: Console, outcome: Outcome, run: Path) -> None:
    """Where a run's results are."""
    console.print(
        f"loss curve  {run / PLOT}\nlog         {run / LOG}\ncheckpoint  {outcome.checkpoint}",
        soft_wrap=True, highlight=False,
    )  # fmt: skip
