"""The runs of a scaling law: which models to train on how much, and the training, run by run.

What is done is written down run by run, and a run that was interrupted goes on from its checkpoint,
so the same command goes on with a study that was stopped in whatever way.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from examples.llama3 import checkpoint, scaling
from examples.llama3.config import ModelConfig, TrainConfig, at_least, positive, setting
from examples.llama3.documents import find
from examples.llama3.files import PARTIAL, Problem, write_atomically
from examples.llama3.progress import LOG, read_log
from examples.llama3.scaling import Law, Run
from examples.llama3.text import encode
from examples.llama3.train import train
from examples.llama3.utilisation import flops_per_token, matrix_parameters

PLAN, TOKENS = "study.json", "tokens"
APART = 2.0  # a budget is so many times the one before
CHECKED = 4.0  # and the one that is predicted, the largest of them
# Tokens for each parameter around which sizes are tried, and how much larger the largest of them is
# than the smallest. Large models want some 20 (Hoffmann et al., arXiv 2203.15556); in a few hundred
# steps, as here, models learn so much from every further step that smaller ones are better.
RATIO, SPAN = 150.0, 30.0
FEWEST = 8  # steps of a run


@dataclass(frozen=True)
class StudyConfig:
    """What to train for a scaling law."""

    data: tuple[str, ...] = setting((), "text, as of `train`", many=True)
    minutes: float = setting(10.0, "about how long all runs may take together; sets the budgets")
    budgets: int = setting(3, "compute budgets, each twice the one before")
    sizes: int = setting(5, "sizes of models for each budget")
    context: int = setting(128, "tokens in a sequence")
    batch: int = setting(8, "sequences in a step")
    lr: float = setting(
        4e-3, "peak learning rate of a model of width 64; it falls with the root of the width"
    )
    seed: int = setting(0, "seed of everything")
    threads: int = setting(1, "threads")
    eager: bool = setting(False, "run operation by operation, rather than compiled")

    def check(self) -> None:
        """Refuse values that mean nothing."""
        at_least(self, 3, "sizes")
        at_least(self, 2, "budgets", "context")
        at_least(self, 1, "batch")
        positive(self, "minutes", "lr")


@dataclass(frozen=True)
class Plan:
    """A model that is to be trained."""

    budget: float
    dim: int
    check: bool = False

    def model(self, context: int) -> dict[str, Any]:
        """Its shape: deeper where it is wider, two query heads for a head of keys and values."""
        pairs = max(1, round(self.dim / 32))
        return {
            "dim": self.dim, "layers": max(2, round(self.dim / 48)), "heads": 2 * pairs,
            "kv_heads": pairs, "head_width": 2 * round(self.dim / 4 / pairs),
            "ffn": 8 * round(self.dim / 3), "context": context,
        }  # fmt: skip

    def config(self, context: int, vocab: int) -> ModelConfig:
        """The same, with what a token is."""
        return ModelConfig(vocab=vocab, **self.model(context))

    def steps(self, config: StudyConfig, vocab: int) -> int:
        """How many fit into the budget."""
        shape = self.config(config.context, vocab)
        a_step = flops_per_token(shape, config.context) * config.batch * config.context
        return max(FEWEST, round(self.budget / a_step))


def widths() -> Iterator[int]:
    """Those of the family of models, of which each is a tenth wider than the one before."""
    width = 8
    while True:
        yield width
        width = max(width + 4, round(width * 1.1 / 4) * 4)


def around(budget: float, count: int, context: int, vocab: int) -> list[int]:
    """Widths of so many models, on both sides of the one that the rule of thumb takes."""
    middle = math.sqrt(budget / (6 * RATIO))  # parameters: the budget is 6 N D, and D = RATIO N
    wanted = np.geomspace(middle / SPAN**0.5, middle * SPAN**0.5, count)
    found: list[int] = []
    family = widths()
    for size in wanted:
        width = next(family)
        while matrix_parameters(Plan(budget, width).config(context, vocab)) < size:
            width = next(family)
        found.append(width)
    return found


def fitting(config: StudyConfig, vocab: int, overhead: float, rate: float, check: bool) -> float:
    """The smallest budget such that all runs take about the minutes asked for.

    Args:
        config: of the study.
        vocab: tokens that there are.
        overhead: seconds of a run before its first step.
        rate: FLOPs in a second.
        check: whether the prediction is checked.
    """
    runs = config.budgets * config.sizes + check
    largest = APART ** (config.budgets - 1)
    work = config.sizes * sum(APART**i for i in range(config.budgets)) + check * CHECKED * largest
    left = config.minutes * 60 - runs * overhead
    least = FEWEST * config.batch * config.context * 6 * vocab * 16  # what hardly anything takes
    if left * rate / work < least:
        raise Problem(
            f"--minutes {config.minutes:g} is too little for {runs} runs, each of which takes "
            f"{overhead:.1f} s to begin: give at least "
            f"{math.ceil((runs * overhead + least * work / rate) / 60)}"
        )
    return left * rate / work


def measured(config: StudyConfig, tokens: Path, vocab: int) -> tuple[float, float]:
    """The seconds of a run besides its steps, and FLOPs in a second of them: a middling model is
    trained for a few steps, and dropped."""
    plan, began = Plan(0.0, 32), time.perf_counter()
    with tempfile.TemporaryDirectory(PARTIAL, ".trial.", tokens.parent) as trial:
        trained(config, plan, 10, tokens, Path(trial), Console(quiet=True))
        seconds = [r.seconds for r in read_log(Path(trial) / LOG)][2:]
    overhead = time.perf_counter() - began - sum(seconds)
    shape = plan.config(config.context, vocab)
    flops = config.batch * config.context * flops_per_token(shape, config.context)
    return overhead, flops / statistics.median(seconds)


def trained(
    config: StudyConfig, plan: Plan, steps: int, tokens: Path, run: Path, console: Console
) -> None:
    """Train a model to the end, from where an interrupted run of it stopped.

    Raises:
        KeyboardInterrupt: Ctrl-C stopped it; what it did is kept.
    """
    settings = {
        "data": (str(tokens),), "batch": config.batch, "steps": steps, "seed": config.seed,
        "lr": config.lr * math.sqrt(64 / plan.dim), "eager": config.eager, "keep": 1,
        "threads": config.threads, "validate_every": steps, "validation_sequences": 64,
        "save_every": max(100, steps // 4),
    }  # fmt: skip
    resume = bool(checkpoint.checkpoints(run))
    outcome = train(plan.model(config.context), settings, run, console, resume=resume)
    if not outcome.finished:
        raise KeyboardInterrupt


class Study:
    """A folder with a plan, text as tokens, and the runs that are done.

    Args:
        folder: made if missing.
        config: what to train; must be that of the study in the folder, if there is one.
        console: where to report.

    Raises:
        Problem: the folder holds another study.
    """

    def __init__(self, folder: Path, config: StudyConfig, console: Console) -> None:
        self.folder, self.config, self.console = folder, config, console
        self.runs = scaling.read_runs(folder / scaling.RUNS)
        self.about = json.loads(json.dumps(dataclasses.asdict(config)))
        self.smallest: float | None = None
        if (folder / PLAN).exists():
            plan = json.loads((folder / PLAN).read_text())
            if plan["config"] != self.about:
                raise Problem(f"{folder} holds a study with other settings; name another by --run")
            self.smallest = plan["smallest"]

    def plans(self, vocab: int, smallest: float) -> list[Plan]:
        """The models to fit, by budget."""
        budgets = [smallest * APART**i for i in range(self.config.budgets)]
        return [
            Plan(b, width)
            for b in budgets
            for width in around(b, self.config.sizes, self.config.context, vocab)
        ]

    def perform(self, check: bool) -> float:
        """Train what is not trained yet.

        Args:
            check: train the model that is predicted for a larger budget, too.

        Returns:
            That budget.
        """
        # Of bytes, so that small models spend nothing on a large table.
        settings = TrainConfig(data=self.config.data, tokenizer="bytes", seed=self.config.seed)
        tokens = self.folder / TOKENS
        text = encode(settings, find(settings.data), tokens, self.console)
        vocab = text.tokenizer.vocab
        if self.smallest is None:
            self.console.print("timing a few steps …")
            overhead, rate = measured(self.config, tokens, vocab)
            self.smallest = fitting(self.config, vocab, overhead, rate, check)
            about = json.dumps({"config": self.about, "smallest": self.smallest})
            write_atomically(self.folder / PLAN, lambda path: path.write_text(about))
        plans = self.plans(vocab, self.smallest)
        for number, plan in enumerate(plans, 1):
            self.console.rule(f"run {number} of {len(plans)}: {plan.budget:.3g} FLOPs")
            self.done(plan, tokens, vocab)
        target = CHECKED * plans[-1].budget
        found = scaling.law(scaling.optima(self.runs))
        if check and found is not None:
            self.console.rule(f"the prediction for {target:.3g} FLOPs, checked")
            self.done(predicted(found, target, self.config.context, vocab), tokens, vocab)
        return target

    def done(self, plan: Plan, tokens: Path, vocab: int) -> None:
        """Train a model, unless that is done."""
        if any((r.budget, r.dim, r.check) == dataclasses.astuple(plan) for r in self.runs):
            return
        shape, steps = plan.config(self.config.context, vocab), plan.steps(self.config, vocab)
        run = self.folder / f"{plan.budget:.3e}-{plan.dim}{'-check' * plan.check}"
        trained(self.config, plan, steps, tokens, run, self.console)
        rows = read_log(run / LOG)
        assert rows[-1].valid_bits_per_byte is not None  # the last step is always validated
        self.runs.append(
            Run(
                budget=plan.budget,
                dim=plan.dim,
                layers=shape.layers,
                parameters=matrix_parameters(shape),
                tokens=rows[-1].tokens,
                flops=rows[-1].tokens * float(flops_per_token(shape, shape.context)),
                loss=rows[-1].valid_bits_per_byte,
                seconds=sum(r.seconds for r in rows),
                check=plan.check,
            )
        )
        scaling.save_runs(self.folder / scaling.RUNS, self.runs)
        for path in checkpoint.checkpoints(run):  # the log says it all
            path.unlink()


def predicted(found: Law, budget: float, context: int, vocab: int) -> Plan:
    """The model of the family that comes closest to a law's for a budget: so wide that the budget
    is used up by the law's number of tokens."""
    wanted = budget / found.tokens(budget)  # FLOPs for a token
    family = widths()
    plan = Plan(budget, next(family), check=True)
    while True:
        wider = Plan(budget, next(family), check=True)
        costs = [flops_per_token(p.config(context, vocab), context) for p in (plan, wider)]
        if costs[1] > wanted:
            return plan if wanted - costs[0] < costs[1] - wanted else wider
        plan = wider
