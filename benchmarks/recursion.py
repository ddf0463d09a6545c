"""A recursion over a tree: a number at every leaf, and at every inner node what its children give.

The tree is a chain, as deep as it has leaves, so it says what a call costs and how deep calls may
go. JAX has no recursion that depends on data; PyTorch runs Python's own, as deep as Python lets it.

    python -m benchmarks.recursion [--row recursion-gradient ...] [--only lantern] [--quick]
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.harness import NATIVE, Contender, Options, Result, Row, Workload, measure
from benchmarks.worker import Clock, Job

WEIGHT = 0.5
SHORT, LONG = 200, 1_000_000  # leaves
MICROSECONDS = {"recursion-value": None, "recursion-gradient": 0.1}  # wanted of a call


def chain(leaves: int) -> tuple[Any, Any, Any]:
    """The children of each node, -1 at leaves, and the numbers at those."""
    inner = leaves - 1
    nodes = np.arange(inner)
    left, right = (np.full(inner + leaves, -1) for _ in range(2))
    left[:inner], right[:inner] = nodes + inner, nodes + 1
    right[inner - 1 : inner] = inner + leaves - 1
    return left, right, np.random.default_rng(0).normal(size=inner + leaves)


def in_lantern(gradient: bool, leaves: int) -> Job:
    import lantern as ln

    tree = [ln.asarray(x) for x in chain(leaves)]

    def value(w: Any, left: Any, right: Any, numbers: Any) -> Any:
        def node(i: Any) -> Any:
            if left[i] < 0:
                return numbers[i] * w
            return node(left[i]) + node(right[i]) * w

        return node(ln.asarray(0))

    f = ln.compile(ln.value_and_grad(value) if gradient else value)
    w = ln.asarray(WEIGHT, dtype=ln.float64)
    return job(lambda: ln.tree.leaves(f(w, *tree)))


def in_torch(gradient: bool, leaves: int) -> Job:
    import torch

    left, right, numbers = (x.tolist() for x in chain(leaves))

    def run() -> Any:
        w = torch.tensor(WEIGHT, dtype=torch.float64, requires_grad=gradient)

        def node(i: int) -> Any:
            if left[i] < 0:
                return numbers[i] * w
            return node(left[i]) + node(right[i]) * w

        y = node(0)
        if not gradient:
            return [y]
        y.backward()
        return [y.detach(), w.grad]

    return job(run)


def job(compute: Callable[[], Any]) -> Job:
    """What is computed, at once; a lap for the whole."""

    def run(clock: Clock) -> None:
        compute()
        clock.lap("recursion")

    return Job(lambda: [np.asarray(v) for v in compute()], run)


def workload(row: str, leaves: int) -> Workload:
    """A tree and those who walk it."""
    gradient = row == "recursion-gradient"

    def contender(name: str, function: str, *needs: str) -> Contender:
        arguments = {"gradient": gradient, "leaves": leaves}
        return Contender(name, f"benchmarks.recursion:{function}", arguments, needs)

    contenders = [contender("lantern", "in_lantern", *NATIVE)]
    if leaves == SHORT:
        contenders.append(contender("PyTorch", "in_torch", "torch"))
    what = "value and gradient" if gradient else "value"
    return Workload(
        row,
        f"a recursion over a chain of {leaves:,} leaves, {what}",
        contenders,
        2 * leaves - 1,
        "call",
        rtol=1e-9,
        rounds=5,
        microseconds=MICROSECONDS[row] if leaves == LONG else None,
    )


def rows(row: str, options: Options) -> list[Result]:
    """A short and a long chain."""
    sizes = (SHORT,) if options.quick else (SHORT, LONG)
    return [measure(workload(row, leaves), options) for leaves in sizes]


ROWS: dict[str, Row] = {row: functools.partial(rows, row) for row in MICROSECONDS}

if __name__ == "__main__":
    from benchmarks.__main__ import main

    main(ROWS, sys.argv[1:])
