"""A longer context, in stages (section 3.4.2).

A model that was trained on short sequences goes on at longer ones. Its rotary frequencies are
stretched for the longest, and the context doubles from stage to stage. Whether the model has
adapted is seen in what the paper looks at: the loss on sequences as short as before has come back,
and needles are found in texts as long as the stage's (`needle`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from examples.llama3 import checkpoint, needle, weights
from examples.llama3.config import Config, TrainConfig
from examples.llama3.evaluation import loss_of, validate, validation_batches
from examples.llama3.files import Problem
from examples.llama3.text import Text, reopened
from examples.llama3.train import train
from examples.llama3.weights import Loaded

DEPTHS, TRIALS = (0.0, 0.25, 0.5, 0.75, 1.0), 8  # of the needles after a stage


class Stage(NamedTuple):
    """What came of a stage.

    Attributes:
        context: of the stage.
        run: its folder.
        before, after: bits per byte of held-out text in sequences as short as those of the first
            model, by the model that the stage began with, and by what it ended with.
        long: in sequences as long as the stage's, in the end.
        found: the share of needles that are found in texts as long; None where nothing is hidden.
    """

    context: int
    run: Path
    before: float
    after: float
    long: float
    found: float | None


def contexts(first: int, target: int) -> list[int]:
    """Those of the stages: each twice the one before, the last one as long as is wanted.

    Raises:
        Problem: the target is not longer.

    Example:
        >>> contexts(64, 500)
        [128, 256, 500]
    """
    if target <= first:
        raise Problem(f"--context {target} is not longer than the {first} of the model")
    found = []
    while first < target:
        first = min(2 * first, target)
        found.append(first)
    return found


def lengthen(
    model: Path,
    target: int,
    settings: dict[str, Any],
    folder: Path,
    console: Console,
    kind: str = "",
) -> Iterator[Stage]:
    """Go on training a model, stage by stage. What an interrupted call has done is not done again.

    Args:
        model: as `weights.load` takes it.
        target: the context in the end.
        settings: of each stage's training.
        folder: for the runs.
        console: where to report.
        kind: of the needles to look for after each stage; none if empty.

    Raises:
        Problem: settings, data or the model are not usable.
        KeyboardInterrupt: Ctrl-C stopped a stage; what it did is kept.
    """
    shape = weights.load(model).config
    original = shape.rope_scaling.original if shape.rope_scaling else shape.context
    factor = max(1.0, target / original)
    for context in contexts(shape.context, target):
        run = folder / f"context-{context}"
        console.rule(f"{context} tokens")
        how = {**settings, "init": str(model), "rope_scaling_factor": factor}
        resume = bool(checkpoint.checkpoints(run))
        outcome = train({"context": context}, how, run, console, resume=resume)
        if not outcome.finished:
            raise KeyboardInterrupt
        yield judged(context, run, model, outcome.config, shape.context, console, kind)
        model = run


def judged(
    context: int, run: Path, before: Path, config: Config, short: int, console: Console, kind: str
) -> Stage:
    """What a stage did to a model."""
    old, new = weights.load(before), weights.load(run)
    text = reopened(config.train, run, console)
    found = None
    if kind:
        hay = needle.haystack_of(new.tokenizer, kind, "", context, 0)
        cells = needle.ask(
            new.params, new.config, new.tokenizer, kind, hay, context, DEPTHS, TRIALS,
            eager=config.train.eager, threads=config.train.threads,
        )  # fmt: skip
        found = sum(c.right for c in cells) / (TRIALS * len(DEPTHS))
    return Stage(
        context=context,
        run=run,
        before=bits_per_byte(old, text, short, config.train),
        after=bits_per_byte(new, text, short, config.train),
        long=bits_per_byte(new, text, context, config.train),
        found=found,
    )


def bits_per_byte(model: Loaded, text: Text, context: int, how: TrainConfig) -> float:
    """Of held-out text, in sequences of a length."""
    config = Config(dataclasses.replace(model.config, context=context), how)
    return validate(loss_of(config), model.params, validation_batches(text.valid, config), text)


def told(stage: Stage) -> str:
    """A stage as a line."""
    needles = "" if stage.found is None else f", {stage.found:.0%} of needles found"
    return (
        f"{stage.context} tokens: {stage.long:.3f} bits/byte; in short sequences "
        f"{stage.after:.3f}, {stage.before:.3f} before{needles}"
    )
