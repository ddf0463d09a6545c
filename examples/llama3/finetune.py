"""Supervised fine-tuning (section 4.1.3): a model learns the answers of chats.

The loss is the cross-entropy of the answers' tokens alone; questions are read and not learned. All
parameters are learned, or with LoRA small changes of the matrices, which are merged in the end. The
loop is that of `train`: a run is interrupted and resumed bit for bit.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

import lantern as ln
from examples.console import show
from examples.llama3 import chats, checkpoint, lora, weights
from examples.llama3.alone import alone
from examples.llama3.chats import Chats, Rows
from examples.llama3.checkpoint import State
from examples.llama3.config import TuneConfig, Tuning
from examples.llama3.evaluation import loss_of, validate
from examples.llama3.exact import exact_match
from examples.llama3.files import Problem, sweep, write_atomically
from examples.llama3.machine import Interrupt, with_threads
from examples.llama3.model import Params, loss, parameter_count
from examples.llama3.progress import LOG, read_log
from examples.llama3.setup import agreed, clear, refuse_existing, with_concrete_threads
from examples.llama3.step import Objective, narrowed, optimizer_of, owned
from examples.llama3.train import loop
from examples.llama3.weights import Loaded
from lantern.carbon import Account

SCORES = "scores.json"  # in the folder of a run


class Score(NamedTuple):
    """How well a model answers held-out chats.

    Attributes:
        bits_per_byte: its loss on the answers.
        exact: the share of the last answers that it writes; None: it was not asked.
    """

    bits_per_byte: float
    exact: float | None

    def __str__(self) -> str:
        exact = "" if self.exact is None else f", {self.exact:.0%} of the answers written exactly"
        return f"{self.bits_per_byte:.3f} bits/byte of held-out answers{exact}"


class Tuned(NamedTuple):
    """How a call of `finetune` ended.

    Attributes:
        model: what has been learned, LoRA's changes merged.
        before, after: scores; None after: not all steps are done.
    """

    model: Loaded
    before: Score
    after: Score | None


@dataclass(frozen=True)
class Learner:
    """What of a model is learned.

    Attributes:
        first: the parameters that are learned, as they are before the first step.
        objective: their loss.
        whole: makes the model's parameters of them.
    """

    first: Any
    objective: Objective
    whole: Callable[[Any], Params]


def learner(model: Loaded, config: TuneConfig) -> Learner:
    """All parameters, or LoRA's changes of the matrices."""
    if not config.lora:
        return Learner(model.params, loss, lambda params: params)
    frozen = narrowed(model.params) if config.bf16 else model.params

    def objective(changes: Any, *rest: Any, checkpoint: int = 0) -> ln.Tensor:
        return loss(lora.adapt(frozen, changes, config.alpha), *rest, checkpoint=checkpoint)

    return Learner(
        lora.begin(ln.random.key(config.seed), model.params, config.lora),
        objective,
        lambda changes: lora.merge(model.params, changes, config.alpha),
    )


def finetune(
    settings: dict[str, Any],
    run: Path,
    console: Console,
    resume: bool = False,
    overwrite: bool = False,
    stop_at: int | None = None,
    account: Account | None = None,
) -> Tuned:
    """Fine-tune a model, or go on with it.

    Args:
        settings: fields of `TuneConfig` that differ from the defaults.
        run: the folder for the checkpoints, the log, the plot, the scores, and the model as
            `transformers` loads it.
        console, resume, overwrite, stop_at, account: as for `train.train`.

    Raises:
        Problem: settings, the model, chats or a checkpoint are not usable, another process trains
            in the folder, or the loss is not finite.
    """
    with alone(run):
        sweep(run)
        if resume:
            config, known = checkpoint.newest_whole(
                run,
                lambda path: checkpoint.settings_in(path, Tuning),
                functools.partial(show, console),
            )
            tune = agreed(config, located(settings)).train
        else:
            refuse_existing(run, overwrite)
            tune, known = TuneConfig(**located(settings)), None
            tune.check()
        return go_on(tune, known, run, console, stop_at, account)


def go_on(
    tune: TuneConfig,
    known: dict[str, str] | None,
    run: Path,
    console: Console,
    stop_at: int | None,
    account: Account | None,
) -> Tuned:
    """Fine-tune a model from where a run is.

    Args:
        tune: the settings.
        known: fingerprints of the run's data; None: the run is new.
        run, console, stop_at, account: as for `finetune`.
    """
    model = weights.load(Path(tune.model) if tune.model else weights.smollm2(), console=console)
    config = with_concrete_threads(Tuning(model.config, tune))
    with with_threads(config.train.threads):
        learns = learner(model, tune)
        data = read(model, tune, console)
        if known is not None:
            check_same(known, data.fingerprints)
        validation = Rows(data.valid, tune.row, None).first(tune.validation_sequences, tune.batch)
        show(console, summary(learns.first, data, tune))
        if account:
            account.enter("training")
        before = None if known is None else scores(run).get("before")
        if before is None:
            loss_on = loss_of(config, learns.objective)
            bits = validate(loss_on, learns.first, validation, data)
            before = Score(bits, matched(model, data, tune))
        console.print(f"before     {before}")
        state = begun(learns, tune)
        if known is None:
            clear(run)
            shutil.rmtree(run / weights.TUNED, ignore_errors=True)
            write_scores(run, before=before)
            checkpoint.save(run, state, config, data.fingerprints)
        else:
            first = state
            *_, state = checkpoint.load_newest(
                run, Tuning, lambda _: first, functools.partial(show, console)
            )
            console.print(f"going on from step {state.step} in {run}")
        # The parameters are the state's from here on: each step writes into the memory of the last.
        state, objective, whole = owned(state), learns.objective, learns.whole
        model = dataclasses.replace(model, params={})
        del learns
        with Interrupt() as interrupt, checkpoint.disk_errors(run, config):
            state = loop(
                config, state, Rows(data.train, tune.row, state.key), validation, data, run,
                console, interrupt, stop_at, account, objective,
            )  # fmt: skip
            model = dataclasses.replace(model, params=whole(state.params))
            save(model, run / weights.TUNED)
        if state.step < tune.steps:
            return Tuned(model, before, None)
        after = Score(last_bits(run), matched(model, data, tune))
        write_scores(run, before=before, after=after)
        console.print(f"after      {after}")
        return Tuned(model, before, after)


# What it needs ------------------------------------------------------------------------------------


def located(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings whose files are found from any folder."""
    found = {k: v for k, v in settings.items() if k not in ("data", "model") or v}
    if "data" in found:
        found["data"] = tuple(str(Path(f).resolve()) for f in found["data"])
    if "model" in found:
        found["model"] = str(Path(found["model"]).resolve())
    return found


def read(model: Loaded, tune: TuneConfig, console: Console) -> Chats:
    """The chats of a run, as the model reads them."""
    if not tune.data:
        raise Problem("what shall be learned? Name files of chats with --data, or a --task")
    found = chats.load(
        [Path(f) for f in tune.data],
        chats.reader(model.template, model.tokenizer),
        (lambda said: show(console, f"left out: {said}")) if tune.skip_bad_lines else None,
    )
    return Chats(found, model.tokenizer, tune.valid_fraction, tune.seed, fingerprint(model.params))


def fingerprint(params: Params) -> str:
    """A hash of parameters."""
    found = hashlib.sha256()
    for leaf in ln.tree.leaves(params):
        found.update(np.ascontiguousarray(leaf).data.cast("B"))
    return found.hexdigest()


def check_same(known: dict[str, str], found: dict[str, str]) -> None:
    """Refuse to resume with another model or other chats.

    Raises:
        Problem: they are others.
    """
    for part, name in (("model", "model"), ("training", "chats"), ("validation", "chats")):
        if known.get(part) != found[part]:
            raise Problem(
                f"cannot resume: the {name} are not those that this run began with. Restore them, "
                "or begin anew with --overwrite"
            )


def begun(learns: Learner, tune: TuneConfig) -> State:
    """The state before the first step."""
    moments = optimizer_of(tune).init(learns.first)
    return State(learns.first, moments, 0, 0, ln.random.key(tune.seed))


def summary(first: Any, data: Chats, tune: TuneConfig) -> str:
    """What is about to happen, in a few lines."""
    rows = Rows(data.train, tune.row, None)
    kind = f"changes of rank {tune.lora}" if tune.lora else "all parameters"
    learned = sum(int(c.learned.sum()) for c in data.train)
    return (
        f"learned    {kind}: {parameter_count(first):,} numbers\n"
        f"chats      {len(data.train):,}, with {learned:,} tokens of answers; held out: "
        f"{len(data.valid):,}\n"
        f"step       {tune.batch} rows of {tune.row} tokens; all chats fill {len(rows.rows):,} rows"
        + (f"\ncut        {rows.cut:,} chats are longer than a row" if rows.cut else "")
    )


def save(model: Loaded, folder: Path) -> None:
    """Write a model as a folder that `transformers` loads, in the place of an older one."""
    new = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    weights.save(new, model.params, model.config, model.tokenizer)
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)


# Scores -------------------------------------------------------------------------------------------


def matched(model: Loaded, data: Chats, tune: TuneConfig) -> float | None:
    """The exact match on some held-out chats, if that is asked for."""
    asked = data.valid[: tune.questions]
    if not asked:
        return None
    return exact_match(model.params, model.config, model.tokenizer, model.template, asked)


def last_bits(run: Path) -> float:
    """The last validation's loss, of the log."""
    known = [b for row in read_log(run / LOG) if (b := row.valid_bits_per_byte) is not None]
    return known[-1]


def write_scores(run: Path, **scores: Score) -> None:
    """Write the scores of a run."""
    text = json.dumps({name: score._asdict() for name, score in scores.items()}, indent=1)
    write_atomically(run / SCORES, lambda path: path.write_text(text))


def scores(run: Path) -> dict[str, Score]:
    """The scores of a run; those that cannot be read are measured again."""
    try:
        return {k: Score(**v) for k, v in json.loads((run / SCORES).read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
