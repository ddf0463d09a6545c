"""The command line: `python -m examples.implicit [--size N]`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

import lantern as ln
from examples.implicit.problems import Problem, problems
from examples.implicit.theorem import implicit
from lantern import Tensor

Gradient = Callable[..., tuple[Tensor, tuple[Tensor, ...]]]
REPEATS = 20


class Outcome(NamedTuple):
    """What one way to a derivative gives.

    Attributes:
        value: the sum of the squares of the root.
        gradient: with respect to each parameter.
        error: how far the derivative along a direction is from finite differences, relative.
        seconds: a call takes, the solution included.
        kept: bytes that the solver's steps save for the way back.
    """

    value: float
    gradient: tuple[Tensor, ...]
    error: float
    seconds: float
    kept: int


def gradients(problem: Problem) -> dict[str, Gradient]:
    """Compiled: the sum of the squares of the root, and its gradient, in both ways."""
    by_theorem = implicit(problem.solver, problem.equation)

    def through(*params: Tensor) -> Tensor:
        return ln.sum(problem.solver(problem.equation, problem.start, *params) ** 2)

    def by(*params: Tensor) -> Tensor:
        return ln.sum(by_theorem(problem.start, *params) ** 2)

    every = tuple(range(len(problem.params)))
    return {
        name: ln.compile(ln.value_and_grad(f, argnums=every))
        for name, f in (("the loop", through), ("the theorem", by))
    }


def difference(problem: Problem, gradient: Gradient, along: list[np.ndarray]) -> float:
    """The derivative of the value along a direction by central differences: h² ≈ 1e-10 away."""
    h = 1e-5
    ends = (
        gradient(*(p + ln.asarray(s * h * v) for p, v in zip(problem.params, along, strict=True)))
        for s in (1, -1)
    )
    above, below = (float(value) for value, _ in ends)
    return (above - below) / (2 * h)


def compare(problem: Problem) -> dict[str, Outcome]:
    """Both ways to the gradient of a problem."""
    rng = np.random.default_rng(1)
    along = [np.asarray(rng.normal(size=p.shape)) / np.sqrt(p.size) for p in problem.params]
    outcomes: dict[str, Outcome] = {}
    for name, gradient in gradients(problem).items():
        value, found = gradient(*problem.params)
        wanted = difference(problem, gradient, along)
        slope = sum(float(ln.sum(g * ln.asarray(v))) for g, v in zip(found, along, strict=True))
        # What `ln.compile` made, which the type of the table calls a function.
        kept: Any = gradient.profile(*problem.params).frames  # type: ignore[attr-defined]
        times = [_seconds(gradient, problem.params) for _ in range(REPEATS)]
        error = abs(slope - wanted) / abs(wanted)
        outcomes[name] = Outcome(float(value), found, error, median(times), int(kept))
    return outcomes


def _seconds(gradient: Gradient, params: tuple[Tensor, ...]) -> float:
    began = time.perf_counter()
    gradient(*params)
    return time.perf_counter() - began


def main(arguments: list[str] | None = None) -> int:
    """Compare, and print a table; the process's exit status."""
    options = argparse.ArgumentParser(
        prog="python -m examples.implicit",
        description="Derivatives of solutions: through the solver, and by the implicit function "
        "theorem.",
    )
    options.add_argument("--size", type=int, default=64, metavar="N", help="unknowns (64)")
    size = options.parse_args(arguments).size
    if size < 1:
        options.error(f"--size is {size}; there must be an unknown")
    table = Table(title=f"the gradient of the solution of equations with {size} unknowns")
    for name in ("problem", "gradient by"):
        table.add_column(name, no_wrap=True)
    for name in ("value", "error", "kept", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for problem in problems(size):
        for name, o in compare(problem).items():
            table.add_row(
                problem.name, name, f"{o.value:.4f}", f"{o.error:.0e}",
                f"{o.kept / 1000:,.1f} kB", f"{1e3 * o.seconds:,.2f} ms",
            )  # fmt: skip
    table.caption = "error: from finite differences; kept: by the solver's steps, for the way back"
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
