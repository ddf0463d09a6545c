"""What one eager operation costs, forward and backward: a chain of scalar multiply-adds.

The same Python function runs in lantern, in PyTorch's eager mode and in HIPS autograd. A scalar
costs next to nothing to multiply, so what is timed is the machinery: dispatch, what is kept for
the backward half, and running it.

    python -m benchmarks.eager_overhead [--quick] [--json FILE]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

import lantern as ln
from benchmarks.harness import Clock, Contender, Workload, main, peer

X, A, B = 1.25, 0.9995, 0.0005  # far from overflow however often x becomes a x + b
TORCH_AT_MOST = 1.0
AUTOGRAD_AT_MOST = 1 / 3


def chain(x: Any, a: Any, b: Any, ops: int) -> Any:
    """``ops`` operations: x becomes a x + b, half as often."""
    for _ in range(ops // 2):
        x = x * a + b
    return x


def in_lantern(kind: str, ops: int) -> Contender:
    def scalar(v: float) -> Any:
        return ln.asarray(v, dtype=ln.float64)

    x, a, b = scalar(X), scalar(A), scalar(B)

    def run(clock: Clock) -> Any:
        if kind == "operands":
            value, pullback = ln.vjp(lambda x, a, b: chain(x, a, b, ops), x, a, b)
        else:
            c, d = (A, B) if kind == "floats" else (a, b)
            value, pullback = ln.vjp(lambda x: chain(x, c, d, ops), x)
        clock.lap("forward")
        gradients = pullback(scalar(1.0))
        clock.lap("backward")
        return [value, *gradients]

    return Contender("lantern", run)


def in_torch(torch: Any, kind: str, ops: int) -> Contender:
    def scalar(v: float, wanted: bool) -> Any:
        return torch.tensor(v, dtype=torch.float64, requires_grad=wanted)

    def run(clock: Clock) -> Any:
        leaves = [scalar(X, True), scalar(A, kind == "operands"), scalar(B, kind == "operands")]
        x, a, b = leaves
        c, d = (A, B) if kind == "floats" else (a, b)
        value = chain(x, c, d, ops)
        clock.lap("forward")
        value.backward()
        clock.lap("backward")
        return [value.detach(), *(v.grad for v in leaves if v.grad is not None)]

    return Contender("PyTorch", run, TORCH_AT_MOST)


def in_autograd(make_vjp: Callable[..., Any], kind: str, ops: int) -> Contender:
    x, a, b = np.float64(X), np.float64(A), np.float64(B)

    def run(clock: Clock) -> Any:
        if kind == "operands":
            wrt_all = make_vjp(lambda x, a, b: chain(x, a, b, ops), argnum=(0, 1, 2))
            pullback, value = wrt_all(x, a, b)
        else:
            c, d = (A, B) if kind == "floats" else (a, b)
            pullback, value = make_vjp(lambda x: chain(x, c, d, ops))(x)
        clock.lap("forward")
        gradients = pullback(np.float64(1.0))
        clock.lap("backward")
        return [value, *(gradients if kind == "operands" else [gradients])]

    return Contender("autograd", run, AUTOGRAD_AT_MOST)


KINDS = {
    "floats": "constants are Python floats",
    "tensors": "constants are tensors",
    "operands": "differentiated with respect to all three operands",
}


def workloads(quick: bool) -> Iterable[Workload]:
    """Three kinds of operands, two lengths."""
    torch, autograd = peer("torch"), peer("autograd")
    for kind, words in KINDS.items():
        for ops in (1_000, 10_000 if quick else 100_000):
            contenders = [in_lantern(kind, ops)]
            if torch:
                contenders.append(in_torch(torch, kind, ops))
            if autograd:
                contenders.append(in_autograd(autograd.make_vjp, kind, ops))
            yield Workload(
                f"chain of {ops:,} multiply-adds, {words}",
                contenders,
                ops,
                "op",
                rtol=1e-12,
                rounds=5 if quick or ops > 10_000 else 21,
            )


if __name__ == "__main__":
    main(workloads, sys.argv[1:])
