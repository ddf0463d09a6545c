"""The command line: `python -m examples.expression_interpreter [TASK ...]`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from examples.expression_interpreter.assembler import Program, assemble
from examples.expression_interpreter.fitting import descend, predict, slope
from examples.expression_interpreter.parser import ProgramError
from examples.expression_interpreter.programs import TASKS, data


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the process's exit status."""
    top = parser()
    options = top.parse_args(arguments)
    if unknown := [name for name in options.tasks if name not in TASKS]:
        top.error(f"there is no task {unknown[0]}; there are {', '.join(TASKS)}")
    try:
        if options.run is not None:
            return run_file(options.run, options.inputs)
        for name in options.tasks or TASKS:
            learn(name, options.points, options.noise, options.steps)
    except (ProgramError, OSError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    print(f"\n{slope.specializations} compilation of the gradient, for all of these programs")
    return 0


def parser() -> argparse.ArgumentParser:
    """The options."""
    top = argparse.ArgumentParser(
        prog="python -m examples.expression_interpreter",
        description="Learn the constants of small programs from what they should return.",
    )
    known = f"some of {', '.join(TASKS)}; all of them by default"
    top.add_argument("tasks", nargs="*", metavar="TASK", help=known)
    top.add_argument("--steps", type=int, default=400, help="of descent (400)")
    top.add_argument("--points", type=int, default=24, help="of data (24)")
    top.add_argument("--noise", type=float, default=0.01, help="of the data (0.01)")
    top.add_argument("--run", type=Path, metavar="FILE", help="run this program instead")
    top.add_argument("--inputs", type=float, nargs="+", default=[0.0], help="for --run")
    return top


def learn(name: str, points: int, noise: float, steps: int) -> None:
    """Show a program, and what is found for its constants."""
    task = TASKS[name]
    inputs, outputs = data(task, points, noise)
    print(f"\n{name}\n{len(name) * '-'}\n{task.text}")
    began = time.perf_counter()
    for number, state in enumerate(descend(assemble(task.text), inputs, outputs, task.rate), 1):
        if number in (1, steps // 4, steps // 2, steps):
            print(f"step {number:4}  loss {state.loss:.2e}  {shown(state.constants)}")
        if number == steps:
            break
    seconds = time.perf_counter() - began
    print(f"   the data: {' ' * 12}{shown(task.constants)}     ({seconds:.1f} s)")


def shown(constants: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:7.4f}" for name, value in constants.items())


def run_file(path: Path, inputs: Sequence[float]) -> int:
    """Print what the program in a file returns for some inputs."""
    program: Program = assemble(path.read_text(encoding="utf-8"))
    found = predict(program.registers, program.code, np.asarray(inputs))
    for x, y in zip(inputs, np.asarray(found).tolist(), strict=True):
        print(f"{x:g} -> {y:.10g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
