"""Randomly composed programs: gradients and second derivatives agree with PyTorch's in float64.

A program draws each step from a table of operations that both libraries have, on values that
earlier steps made. Programs whose gradient moves by more than 1e-11 (relative) when the input
moves by one part in 10¹³ are ill-conditioned: rounding alone may exceed the bound there, and they
are drawn again. So are those with derivatives below 1e-6, which cancel: nothing is left to be
relative to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lantern as ln

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.peer

PROGRAMS, CHUNKS = 600, 24
Op = tuple[Callable[..., Any], Callable[..., Any]]


def both(name: str) -> Op:
    """An operation of one name in both libraries."""
    return getattr(ln, name), getattr(torch, name)


SHAPES = ((3,), (2, 3), (3, 3), (2, 1, 3))

UNARY: list[Op] = [
    *map(both, ("sin", "cos", "tanh", "exp", "sigmoid", "square", "atan", "asinh", "erf", "abs")),
    (lambda x: ln.log(x * x + 0.5), lambda x: torch.log(x * x + 0.5)),
    (lambda x: ln.sqrt(x * x + 0.3), lambda x: torch.sqrt(x * x + 0.3)),
    (lambda x: 1 / (2 + ln.cos(x)), lambda x: 1 / (2 + torch.cos(x))),
    (lambda x: (x * x + 1) ** -0.7, lambda x: (x * x + 1) ** -0.7),
    (lambda x: x**3, lambda x: x**3),
    (lambda x: ln.lgamma(x * x + 0.5), lambda x: torch.lgamma(x * x + 0.5)),
    (lambda x: ln.softplus(x), lambda x: torch.nn.functional.softplus(x)),
    (lambda x: ln.gelu(x), lambda x: torch.nn.functional.gelu(x)),
    (lambda x: ln.silu(x), lambda x: torch.nn.functional.silu(x)),
    (lambda x: ln.relu(x), lambda x: torch.relu(x)),
    (lambda x: ln.softmax(x, axis=-1), lambda x: torch.softmax(x, -1)),
    (lambda x: ln.log_softmax(x, axis=0), lambda x: torch.log_softmax(x, 0)),
    (lambda x: ln.cumulative_sum(x, axis=-1), lambda x: torch.cumsum(x, -1)),
    (lambda x: ln.cumulative_prod(x, axis=0), lambda x: torch.cumprod(x, 0)),
    (lambda x: ln.flip(x, axis=-1), lambda x: torch.flip(x, (-1,))),
    (lambda x: ln.roll(x, 1, axis=-1), lambda x: torch.roll(x, 1, -1)),
    (lambda x: ln.sort(x, axis=-1), lambda x: torch.sort(x, -1).values),
    (lambda x: ln.clip(x, -0.8, 0.9), lambda x: torch.clip(x, -0.8, 0.9)),
    (lambda x: x - ln.mean(x, axis=-1, keepdims=True), lambda x: x - x.mean(-1, keepdim=True)),
    (lambda x: x * ln.max(x, axis=-1, keepdims=True), lambda x: x * x.amax(-1, keepdim=True)),
    (lambda x: x + ln.var(x, axis=-1, keepdims=True, correction=1),
     lambda x: x + x.var(-1, keepdim=True)),
    (lambda x: x * ln.prod(x, axis=-1, keepdims=True), lambda x: x * x.prod(-1, keepdim=True)),
    (lambda x: x + ln.logsumexp(x, axis=-1, keepdims=True),
     lambda x: x + torch.logsumexp(x, -1, keepdim=True)),
    (lambda x: x[..., ::-1] * x[..., :1], lambda x: torch.flip(x, (-1,)) * x[..., :1]),
    (lambda x: x[..., ln.asarray([2, 0, 2])], lambda x: x[..., torch.tensor([2, 0, 2])]),
    (lambda x: x.at[..., 1].set(ln.sin(x[..., 0])),
     lambda x: torch.stack((x[..., 0], torch.sin(x[..., 0]), x[..., 2]), -1)),
    (lambda x: ln.where(x > 0.1, x * x, ln.sin(x)), lambda x: torch.where(x > 0.1, x * x,
    torch.sin(x))), (lambda x: ln.reshape(ln.reshape(x, (-1,)) * 1.5, x.shape),
     lambda x: (x.reshape(-1) * 1.5).reshape(x.shape)),
    (lambda x: ln.pad(x, 1)[(slice(1, -1),) * x.ndim],
     lambda x: torch.nn.functional.pad(x, (1, 1) * x.ndim)[(slice(1, -1),) * x.ndim]),
]  # fmt: skip

BINARY: list[Op] = [
    (lambda x, y: x + y, lambda x, y: x + y),
    (lambda x, y: x - y, lambda x, y: x - y),
    (lambda x, y: x * y, lambda x, y: x * y),
    (lambda x, y: x / (1 + y * y), lambda x, y: x / (1 + y * y)),
    *map(both, ("maximum", "minimum", "logaddexp", "atan2", "hypot")),
    (lambda x, y: (x * x + 0.4) ** ln.tanh(y), lambda x, y: (x * x + 0.4) ** torch.tanh(y)),
    (lambda x, y: ln.concat((x, y), axis=-1)[..., 1:4] if x.shape == y.shape else x * y,
     lambda x, y: torch.cat((x, y), -1)[..., 1:4] if x.shape == y.shape else x * y),
]  # fmt: skip

SQUARE: list[Op] = [  # on (3, 3) matrices
    (lambda x: x @ x, lambda x: x @ x),
    (lambda x: ln.linalg.inv(x @ x.mT + 2 * ln.eye(3, dtype=x.dtype)),
     lambda x: torch.linalg.inv(x @ x.mT + 2 * torch.eye(3, dtype=x.dtype))),
    (lambda x: ln.linalg.cholesky(x @ x.mT + ln.eye(3, dtype=x.dtype)),
     lambda x: torch.linalg.cholesky(x @ x.mT + torch.eye(3, dtype=x.dtype))),
    (lambda x: ln.linalg.solve(x @ x.mT + ln.eye(3, dtype=x.dtype), x),
     lambda x: torch.linalg.solve(x @ x.mT + torch.eye(3, dtype=x.dtype), x)),
    (lambda x: x * ln.linalg.slogdet(x @ x.mT + ln.eye(3, dtype=x.dtype))[1],
     lambda x: x * torch.linalg.slogdet(x @ x.mT + torch.eye(3, dtype=x.dtype))[1]),
    (lambda x: ln.einsum("ij,kj->ik", x, ln.sin(x)), lambda x: torch.einsum("ij,kj->ik", x,
    torch.sin(x))), (lambda x: ln.tril(x) + 0.5 * ln.triu(x), lambda x: torch.tril(x) + 0.5 *
    torch.triu(x)), (lambda x: x.mT * ln.linalg.trace(x), lambda x: x.mT * torch.trace(x)),
]  # fmt: skip


class Program:
    """A random program: a choice of operations and operands, runnable on either library."""

    def __init__(self, rng: np.random.Generator) -> None:
        shape = SHAPES[rng.integers(len(SHAPES))]
        self.inputs = [rng.normal(size=shape), rng.normal(size=(shape[-1],))]
        self.steps: list[tuple[Op, tuple[int, ...]]] = []
        values = [ln.asarray(x) for x in self.inputs]
        for _ in range(rng.integers(3, 10)):
            i, j = (int(k) for k in rng.integers(len(values), size=2))
            tables = [UNARY, BINARY] + [SQUARE] * (values[i].shape == (3, 3))
            table = tables[rng.integers(len(tables))]
            op = table[rng.integers(len(table))]
            operands = (i, j) if table is BINARY else (i,)
            self.steps.append((op, operands))
            values.append(op[0](*(values[k] for k in operands)))

    def run(self, library: int, *inputs: Any) -> Any:
        """The sum of squares of all that no later step reads."""
        values, used = list(inputs), set()
        for op, operands in self.steps:
            values.append(op[library](*(values[k] for k in operands)))
            used |= set(operands)
        total = values[-1].sum() * 0.5
        for k, v in enumerate(values):
            if k not in used:
                total = total + (v * v).sum()
        return total

    def lantern(self, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gradients, and the derivative of the gradients' projections on ``direction``."""

        def gradient(*xs: Any) -> Any:
            return ln.grad(lambda *ys: self.run(0, *ys), argnums=(0, 1))(*xs)

        def projected(*xs: Any) -> Any:
            return sum(
                ln.sum(g * ln.sin(g.size * 1.0 + d))
                for g, d in zip(gradient(*xs), tilt, strict=True)
            )

        xs = [ln.asarray(x) for x in self.inputs]
        tilt = [ln.asarray(direction[: x.size].reshape(x.shape)) for x in self.inputs]
        return flat(gradient(*xs)), flat(ln.grad(projected, argnums=(0, 1))(*xs))

    def torch(self, direction: np.ndarray, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """The same, by PyTorch."""
        xs = [torch.tensor(x * scale, requires_grad=True) for x in self.inputs]
        first = torch.autograd.grad(self.run(1, *xs), xs, create_graph=True, materialize_grads=True)
        tilt = [torch.tensor(direction[: x.size].reshape(x.shape)) for x in self.inputs]
        pairs = zip(first, tilt, strict=True)
        projected = sum((g * torch.sin(g.numel() * 1.0 + d)).sum() for g, d in pairs)
        if not projected.requires_grad:
            return flat(first), np.zeros(sum(x.size for x in self.inputs))
        return flat(first), flat(torch.autograd.grad(projected, xs, materialize_grads=True))


def flat(tensors: Any) -> np.ndarray:
    """The elements of many tensors of either library, one after another."""
    arrays = (np.asarray(t.detach() if hasattr(t, "detach") else t) for t in tensors)
    return np.concatenate([a.ravel() for a in arrays])


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference, relative to the largest entry."""
    return float(np.max(np.abs(a - b)) / np.max(np.abs(b)))


def well_conditioned(program: Program, direction: np.ndarray) -> bool:
    here, near = program.torch(direction), program.torch(direction, 1 + 1e-13)
    return all(
        bool(np.all(np.isfinite(a))) and 1e-6 < np.max(np.abs(a)) < 1e8 and relative(b, a) < 1e-11
        for a, b in zip(here, near, strict=True)
    )


@pytest.mark.parametrize("chunk", range(CHUNKS))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # programs that overflow are drawn again
def test_derivatives_of_random_programs_agree_with_pytorch(chunk: int) -> None:
    rng = np.random.default_rng(chunk)
    checked = 0
    while checked < PROGRAMS // CHUNKS:
        program = Program(rng)
        direction = rng.normal(size=32)
        if not well_conditioned(program, direction):
            continue
        checked += 1
        for ours, theirs in zip(program.lantern(direction), program.torch(direction), strict=True):
            assert relative(ours, theirs) < 1e-9, program.steps
