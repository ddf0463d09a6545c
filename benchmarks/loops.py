"""A loop of ten million steps on one number: a decay that goes on until the number is small.

How many steps that takes is known only when it ends. In lantern it is a `while_loop` with its
derivative. JAX has no reverse mode through one, so for the gradient it gets a scan, and is told the
number of steps. PyTorch runs Python's own loop, over fewer steps.

    python -m benchmarks.loops [--row loop-gradient ...] [--only lantern] [--quick]
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import numpy as np

from benchmarks.harness import NATIVE, Contender, Options, Result, Row, Workload, measure
from benchmarks.worker import Clock, Job

START = 1.0
SHORT, LONG = 1_000, 10_000_000  # steps
MICROSECONDS = {"loop-value": None, "loop-gradient": 0.01}  # wanted of a step of the long loop


def rate(steps: int) -> float:
    """How fast it decays to a tenth in about so many steps: to 1 / (1 + rate · steps)."""
    return 9.0 / steps


def decay(x: Any, a: Any) -> Any:
    """A step."""
    return x - a * x * x


def in_lantern(gradient: bool, steps: int) -> Job:
    import lantern as ln

    def last(x: Any, a: Any) -> Any:
        return ln.while_loop(lambda x: x > START / 10, lambda x: decay(x, a), x)

    f = ln.compile(ln.value_and_grad(last, argnums=(0, 1)) if gradient else last)
    x, a = (ln.asarray(v, dtype=ln.float64) for v in (START, rate(steps)))
    return job(lambda: ln.tree.leaves(f(x, a)))


def in_jax(gradient: bool, steps: int) -> Job:
    import jax

    jax.config.update("jax_enable_x64", True)
    x, a = (jax.numpy.asarray(v) for v in (START, rate(steps)))

    def counted(x: Any, a: Any) -> Any:
        def body(s: Any) -> Any:
            return decay(s[0], a), s[1] + 1

        return jax.lax.while_loop(lambda s: s[0] > START / 10, body, (x, 0))

    known = int(jax.jit(counted)(x, a)[1])

    def scanned(x: Any, a: Any) -> Any:
        return jax.lax.scan(lambda x, _: (decay(x, a), None), x, None, known)[0]

    if gradient:
        f: Any = jax.jit(jax.value_and_grad(scanned, argnums=(0, 1)))
    else:
        f = jax.jit(lambda x, a: counted(x, a)[0])
    return job(lambda: jax.block_until_ready(jax.tree_util.tree_leaves(f(x, a))))


def in_torch(gradient: bool, steps: int) -> Job:
    import torch

    def run() -> Any:
        x, a = (
            torch.tensor(v, dtype=torch.float64, requires_grad=gradient)
            for v in (START, rate(steps))
        )
        y = x
        while y > START / 10:
            y = decay(y, a)
        if not gradient:
            return [y]
        y.backward()
        return [y.detach(), x.grad, a.grad]

    return job(run)


def job(compute: Any) -> Job:
    """What is computed, at once; a lap for the whole."""

    def run(clock: Clock) -> None:
        compute()
        clock.lap("loop")

    return Job(lambda: [np.asarray(v) for v in compute()], run)


def workload(row: str, steps: int) -> Workload:
    """A loop and those who run it."""
    gradient = row == "loop-gradient"

    def contender(name: str, function: str, *needs: str) -> Contender:
        arguments = {"gradient": gradient, "steps": steps}
        return Contender(name, f"benchmarks.loops:{function}", arguments, needs)

    contenders = [
        contender("lantern", "in_lantern", *NATIVE),
        contender("JAX, steps known" if gradient else "JAX", "in_jax", "jax"),
    ]
    if steps == SHORT:  # a step takes it 10 µs
        contenders.append(contender("PyTorch", "in_torch", "torch"))
    what = "value and gradient" if gradient else "value"
    return Workload(
        row,
        f"a while loop of {steps:,} steps on a number, {what}",
        contenders,
        steps,
        "step",
        rtol=1e-9,
        rounds=5,
        microseconds=MICROSECONDS[row] if steps == LONG else None,
    )


def rows(row: str, options: Options) -> list[Result]:
    """A short and a long loop."""
    lengths = (SHORT,) if options.quick else (SHORT, LONG)
    return [measure(workload(row, steps), options) for steps in lengths]


ROWS: dict[str, Row] = {row: functools.partial(rows, row) for row in MICROSECONDS}

if __name__ == "__main__":
    from benchmarks.__main__ import main

    main(ROWS, sys.argv[1:])
