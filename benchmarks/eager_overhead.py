"""What one eager operation costs, forward and backward: a chain of scalar multiply-adds.

The same Python function runs in lantern, in PyTorch's eager mode, in JAX without jit and in HIPS
autograd. A scalar costs next to nothing to multiply, so what is timed is the machinery: dispatch,
what is kept for the backward half, and running it.

    python -m benchmarks.eager_overhead [--row chain-floats ...] [--only lantern] [--quick]
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import numpy as np

from benchmarks.harness import Contender, Options, Result, Row, Workload, measure
from benchmarks.worker import Clock, Job

X, A, B = 1.25, 0.9995, 0.0005  # far from overflow however often x becomes a x + b
MICROSECONDS = 5.0  # of one operation in lantern, forward and backward
TORCH_AT_LEAST = 1.0
AUTOGRAD_AT_LEAST = 3.0


def chain(x: Any, a: Any, b: Any, ops: int) -> Any:
    """``ops`` operations: x becomes a x + b, half as often."""
    for _ in range(ops // 2):
        x = x * a + b
    return x


def constants(kind: str, a: Any, b: Any) -> tuple[Any, Any]:
    """What multiplies and what is added where only x is differentiated."""
    return (A, B) if kind == "floats" else (a, b)


def in_lantern(kind: str, ops: int) -> Job:
    import lantern as ln

    def scalar(v: float) -> Any:
        return ln.asarray(v, dtype=ln.float64)

    x, a, b = scalar(X), scalar(A), scalar(B)

    def run(clock: Clock) -> Any:
        if kind == "operands":
            value, pullback = ln.vjp(lambda x, a, b: chain(x, a, b, ops), x, a, b)
        else:
            c, d = constants(kind, a, b)
            value, pullback = ln.vjp(lambda x: chain(x, c, d, ops), x)
        clock.lap("forward")
        gradients = pullback(scalar(1.0))
        clock.lap("backward")
        return [value, *gradients]

    return Job(lambda: [np.asarray(v) for v in run(Clock())], run)


def in_torch(kind: str, ops: int) -> Job:
    import torch

    def scalar(v: float, wanted: bool) -> Any:
        return torch.tensor(v, dtype=torch.float64, requires_grad=wanted)

    def run(clock: Clock) -> Any:
        leaves = [scalar(X, True), scalar(A, kind == "operands"), scalar(B, kind == "operands")]
        x, a, b = leaves
        c, d = (a, b) if kind == "operands" else constants(kind, a, b)
        value = chain(x, c, d, ops)
        clock.lap("forward")
        value.backward()
        clock.lap("backward")
        return [value.detach(), *(v.grad for v in leaves if v.grad is not None)]

    return Job(lambda: [v.numpy() for v in run(Clock())], run)


def in_autograd(kind: str, ops: int) -> Job:
    from autograd import make_vjp

    x, a, b = np.float64(X), np.float64(A), np.float64(B)

    def run(clock: Clock) -> Any:
        if kind == "operands":
            every: Any = (0, 1, 2)
            wrt_all: Any = make_vjp(lambda x, a, b: chain(x, a, b, ops), argnum=every)
            pullback, value = wrt_all(x, a, b)
        else:
            c, d = constants(kind, a, b)
            wrt_x: Any = make_vjp(lambda x: chain(x, c, d, ops))
            pullback, value = wrt_x(x)
        clock.lap("forward")
        gradients = pullback(np.float64(1.0))
        clock.lap("backward")
        return [value, *(gradients if kind == "operands" else [gradients])]

    return Job(lambda: run(Clock()), run)


def in_jax(kind: str, ops: int) -> Job:
    import jax

    jax.config.update("jax_enable_x64", True)
    x, a, b = (jax.numpy.asarray(v) for v in (X, A, B))

    def run(clock: Clock) -> Any:
        if kind == "operands":
            value, pullback = jax.vjp(lambda x, a, b: chain(x, a, b, ops), x, a, b)
        else:
            c, d = constants(kind, a, b)
            value, pullback = jax.vjp(lambda x: chain(x, c, d, ops), x)
        clock.lap("forward")
        gradients = pullback(jax.numpy.ones(()))
        clock.lap("backward")
        return [value, *gradients]

    return Job(lambda: [np.asarray(v) for v in run(Clock())], run)


KINDS = {
    "floats": "constants are Python floats",
    "tensors": "constants are tensors",
    "operands": "differentiated with respect to all three operands",
}


def workload(kind: str, ops: int) -> Workload:
    """A chain and those who compute it."""

    def contender(name: str, function: str, *needs: str, at_least: float | None = None) -> Any:
        make = f"benchmarks.eager_overhead:{function}"
        return Contender(name, make, {"kind": kind, "ops": ops}, needs, {}, at_least)

    contenders = [
        contender("lantern", "in_lantern"),
        contender("PyTorch", "in_torch", "torch", at_least=TORCH_AT_LEAST),
        contender("autograd", "in_autograd", "autograd", at_least=AUTOGRAD_AT_LEAST),
    ]
    if ops <= 1_000:  # an operation takes it 400 µs
        contenders.append(contender("JAX", "in_jax", "jax"))
    return Workload(
        f"chain-{kind}",
        f"{ops:,} multiply-adds of scalars, {KINDS[kind]}",
        contenders,
        ops,
        "op",
        rtol=1e-12,
        rounds=5,
        microseconds=MICROSECONDS if kind == "floats" else None,
    )


def rows(kind: str, options: Options) -> list[Result]:
    """A short and a long chain."""
    lengths = (1_000,) if options.quick else (1_000, 100_000)
    return [measure(workload(kind, ops), options) for ops in lengths]


ROWS: dict[str, Row] = {f"chain-{kind}": functools.partial(rows, kind) for kind in KINDS}

if __name__ == "__main__":
    from benchmarks.__main__ import main

    main(ROWS, sys.argv[1:])
