"""The command line: `python -m examples.ode [--steps N] [--rate X] [--run DIR]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from rich.console import Console

from examples.console import show
from examples.llama3.files import Problem
from examples.ode.fit import fit, plot
from examples.ode.hares import NAMES

INTERRUPTED = 130  # what shells report for a program that Ctrl-C ended


def main(arguments: list[str] | None = None) -> int:
    """Fit, print what was found, and plot it; the process's exit status."""
    options = parser().parse_args(arguments)
    console = Console()
    path = options.run / "populations.png"
    try:
        if options.steps < 1:
            raise Problem(f"--steps is {options.steps}; there must be one")
        outcome = fit(options.steps, options.rate, console)
        for name, value in zip(NAMES, np.exp(np.asarray(outcome.log_params)), strict=True):
            console.print(f"{name:16} {value:8.4f}", highlight=False)
        first, last = (float(np.sqrt(x)) for x in (outcome.losses[0], outcome.losses[-1]))
        console.print(
            f"off by a factor of {np.exp(first):.2f} with the first guess, {np.exp(last):.2f} now",
            highlight=False,
        )
        plot(outcome, path)
    except (Problem, OSError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    show(console, f"plot             {path}")
    return 0 if outcome.finished else INTERRUPTED


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(
        prog="python -m examples.ode",
        description="Fit the equations of predators and prey to counts of hares and lynxes.",
    )
    options.add_argument("--steps", type=int, default=500, metavar="N", help="of descent (500)")
    options.add_argument("--rate", type=float, default=0.02, metavar="X", help="of it (0.02)")
    options.add_argument("--run", type=Path, default=Path("runs/ode"), metavar="DIR",
                         help="folder for the plot (default: %(default)s)")  # fmt: skip
    return options


if __name__ == "__main__":
    sys.exit(main())
