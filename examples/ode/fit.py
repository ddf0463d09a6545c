"""Descent to the parameters, and a picture of what they mean."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console

import lantern as ln
from examples.display import Display, picture
from examples.llama3.files import Problem
from examples.llama3.machine import Interrupt
from examples.ode.hares import GUESS, PELTS, YEARS, loss, populations


@dataclass
class Outcome:
    """What was found.

    Attributes:
        log_params: the logarithms of the parameters.
        losses: one for each step.
        finished: whether all steps were made.
    """

    log_params: ln.Tensor
    losses: list[float] = field(default_factory=list[float])
    finished: bool = True


def fit(steps: int, rate: float, console: Console) -> Outcome:
    """Fit the parameters to the counts; Ctrl-C ends it early, with what has been found.

    Raises:
        Problem: the loss is not finite.
    """
    optimizer = ln.optim.adamw(rate, weight_decay=0.0)
    times, pelts = ln.asarray(YEARS - YEARS[0]), ln.asarray(PELTS)

    @ln.compile
    def step(log_params: ln.Tensor, state: object) -> tuple[ln.Tensor, object, ln.Tensor]:
        value, gradient = ln.value_and_grad(loss)(log_params, times, pelts)
        updates, state = optimizer.update(gradient, state, log_params)
        return ln.optim.apply_updates(log_params, updates), state, value

    outcome = Outcome(ln.asarray(GUESS))
    state = optimizer.init(outcome.log_params)
    with Interrupt() as interrupt, Display(console, "steps", steps) as display:
        while len(outcome.losses) < steps and not interrupt.asked:
            outcome.log_params, state, value = step(outcome.log_params, state)
            if not math.isfinite(float(value)):
                raise Problem(f"the loss is {float(value)}; a lower --rate may help")
            outcome.losses.append(float(value))
            display.show(len(outcome.losses), numbers={"loss": outcome.losses[-1]})
    outcome.finished = len(outcome.losses) == steps
    return outcome


def plot(outcome: Outcome, path: Path) -> None:
    """Draw the counts, and the solutions of the first guess and of what was found, as a PNG.

    Raises:
        Problem: matplotlib is not installed.
    """
    fine = np.linspace(YEARS[0], YEARS[-1], 400)
    solve = ln.compile(populations)
    times = ln.asarray(fine - fine[0])
    found, guess = (np.asarray(solve(p, times)) for p in (outcome.log_params, ln.asarray(GUESS)))
    with picture(path, 9, 4) as figure:
        axes = figure.subplots()
        for k, (name, color) in enumerate((("hares", "tab:blue"), ("lynxes", "tab:orange"))):
            axes.plot(YEARS, PELTS[:, k], "o", color=color, label=f"{name}, counted")
            axes.plot(fine, found[:, k], color=color, label=f"{name}, fitted")
            axes.plot(fine, guess[:, k], ":", color=color, alpha=0.6, label=f"{name}, first guess")
        axes.set(xlabel="year", ylabel="thousands of pelts", title="Lotka and Volterra, on lantern",
                 xticks=YEARS[::4], ylim=(0, 105))  # fmt: skip
        axes.grid(alpha=0.3)
        axes.legend(ncols=3, fontsize="small", loc="upper center")
