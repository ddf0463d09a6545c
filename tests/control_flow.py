"""What loops and branches are held to: compiled as eager, in batches as one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import lantern as ln

Program = Callable[..., Any]


def close(a: Any, b: Any, tolerance: float = 1e-10) -> None:
    for x, y in zip(ln.tree.leaves(a), ln.tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=tolerance, atol=tolerance)


def check_compiled(
    f: Program, points: Sequence[Any], w: Any, backend: str, tolerance: float = 1e-10,
    plain: Program | None = None,
) -> None:  # fmt: skip
    """Value, gradient, second derivatives and a directional derivative at each point, against those
    of the function, or of another one, as Python runs it."""

    def everything(f: Program, x: Any, w: Any) -> Any:
        def slopes(x: Any, w: Any) -> Any:
            return sum(ln.sum(ln.sin(g)) for g in ln.grad(f, argnums=(0, 1))(x, w))

        return (
            ln.value_and_grad(f, argnums=(0, 1))(x, w),
            ln.grad(slopes, argnums=(0, 1))(x, w),
            ln.jvp(f, (x, w), (ln.cos(x), ln.cos(w))),
        )

    compiled = ln.compile(lambda x, w: everything(f, x, w), backend=backend)
    for x in points:
        close(compiled(x, w), everything(plain or f, x, w), tolerance)


def check_batches(f: Program, points: Sequence[Any], w: Any, tolerance: float = 1e-10) -> None:
    """Gradients of a batch, inside and outside of it, eager and compiled, against each alone."""
    gradient = ln.grad(f, argnums=(0, 1))
    rows = [gradient(x, w) for x in points]
    wanted = [ln.stack([row[i] for row in rows]) for i in (0, 1)]
    batched = ln.vmap(gradient, in_axes=(0, None))
    close(batched(np.stack(points), w), wanted, tolerance)
    compiled = ln.compile(batched, backend="interpreter")
    close(compiled(np.stack(points), w), wanted, tolerance)

    def total(x: Any, w: Any) -> Any:
        return ln.sum(ln.vmap(f, in_axes=(0, None))(x, w))

    of_total = ln.grad(total, argnums=(0, 1))
    wanted[1] = ln.sum(wanted[1], axis=0)
    close(of_total(np.stack(points), w), wanted, tolerance)
    compiled = ln.compile(of_total, backend="interpreter")
    close(compiled(np.stack(points), w), wanted, tolerance)
