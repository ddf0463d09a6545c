"""Branches: eager, recorded in a program on both backends, and within batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from control_flow import check_batches, check_compiled, close

import lantern as ln
from lantern.errors import ArgumentError, DTypeError, ShapeError

BACKENDS = ("interpreter", "llvm")
RNG = np.random.default_rng(0)
W = ln.asarray(RNG.normal(size=(4, 3)))
POINTS = (np.array([1.0, 2, 3]), np.array([-1.0, -2, 3]) * 0.7)


def two(x: Any, w: Any) -> Any:
    """Different frames in the branches; w is captured by both."""
    y = ln.cond(
        ln.sum(x) > 0, lambda x: ln.exp(x) * ln.sum(w * w), lambda x: ln.sin((w @ x)[:3]), x
    )
    return ln.sum(y * y)


def closures(x: Any, w: Any) -> Any:
    """Nothing is passed in, and one result does not depend on anything."""
    y, z = ln.cond(x[0] > 0, lambda: (ln.sqrt(x[0]), 1.0), lambda: (0.0 * x[0], 2.0))
    return y * z * ln.sum(w)


def nested(x: Any, w: Any) -> Any:
    def inner(x: Any) -> Any:
        return ln.switch(ln.asarray(x[1] > 0, dtype=ln.int64) + 1, [ln.sin, ln.cos, ln.tanh], x)

    return ln.sum(ln.cond(x[0] > 0, inner, lambda x: (w @ inner(x))[1:], x))


def in_a_loop(x: Any, w: Any) -> Any:
    def step(c: Any, row: Any) -> Any:
        c = ln.cond(ln.sum(c * row) > 0, lambda c: ln.sin(c * row), lambda c: c - row, c)
        return c, ln.cond(c[0] > 0, lambda: c[1] * c[1], lambda: ln.asarray(0.0, dtype=c.dtype))

    c, ys = ln.scan(step, x, w)
    return ln.sum(c) + ln.sum(ys)


def loop_in_a_branch(x: Any, w: Any) -> Any:
    def looped(x: Any) -> Any:
        return ln.scan(lambda c, row: (ln.tanh(c * row), None), x, w)[0]

    return ln.sum(ln.cond(x[2] > 2, looped, lambda x: x * x, x))


PROGRAMS = (two, closures, nested, in_a_loop, loop_in_a_branch)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("f", PROGRAMS, ids=lambda f: f.__name__)
def test_compiled_agrees_with_eager(f: Callable[..., Any], backend: str) -> None:
    check_compiled(f, POINTS, W, backend)


@pytest.mark.parametrize("f", PROGRAMS, ids=lambda f: f.__name__)
def test_batches(f: Callable[..., Any]) -> None:
    check_batches(f, POINTS, W)


def test_the_other_branch_reaches_no_adjoint() -> None:
    """`where` would give 0 · ∞ = nan at 0."""

    def root(x: Any) -> Any:
        return ln.cond(x > 0, ln.sqrt, lambda x: 0.0 * x, x)

    points = np.asarray([0.0, 4.0])
    of_total = ln.grad(lambda x: ln.sum(ln.vmap(root)(x)))
    close(ln.vmap(ln.grad(root))(points), np.array([0.0, 0.25]))
    close(of_total(points), np.array([0.0, 0.25]))
    close(ln.vmap(ln.grad(ln.grad(root)))(points), np.array([0.0, -1 / 32]))
    close(ln.grad(lambda x: ln.sum(of_total(x)))(points), np.array([0.0, -1 / 32]))


def test_batches_of_batches() -> None:
    def f(x: Any, y: Any) -> Any:
        return ln.cond(x > y, lambda: x * y, lambda: ln.exp(y) - x)

    x, y = np.asarray([0.5, 2.0]), np.asarray([1.0, -1.0, 3.0])
    grid = ln.vmap(lambda x: ln.vmap(lambda y: ln.grad(f, argnums=(0, 1))(x, y))(y))(x)
    each = [[ln.grad(f, argnums=(0, 1))(a, b) for b in y] for a in x]
    close(grid, tuple(np.array([[float(c[i]) for c in row] for row in each]) for i in (0, 1)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_the_chosen_branch_runs(backend: str) -> None:
    """An index out of range in the other branch is no error."""

    def pick(i: Any, x: Any) -> Any:
        return ln.cond(i < 3, lambda: x[i], lambda: ln.asarray(-1.0, dtype=x.dtype))

    compiled = ln.compile(pick, backend=backend)
    close([compiled(np.int64(i), POINTS[0]) for i in (2, 9)], [3.0, -1.0])


def test_known_choices_are_branches_of_python() -> None:
    calls: list[int] = []
    ln.switch(-5, [lambda: calls.append(0), lambda: calls.append(1)])
    assert calls == [0]
    text = ln.compile(lambda x: ln.cond(True, ln.sin, ln.cos, x), backend="interpreter").ir(1.0)
    assert "switch" not in text and "cos" not in text


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_index_is_clipped(backend: str) -> None:
    f = ln.compile(lambda i, x: ln.switch(i, [ln.sin, ln.cos, ln.exp], x), backend=backend)
    close(
        [f(np.int64(i), np.float64(0.5)) for i in (-9, 1, 99)],
        [np.sin(0.5), np.cos(0.5), np.exp(0.5)],
    )


def test_dead_results_leave_all_branches() -> None:
    """Only the sine is read; the exponential and what it needs go, in both branches alike."""
    from staging.interpret import interpret
    from staging.passes.dead import remove_dead
    from staging.text import parse_program
    from staging.verify import verify

    program = parse_program("""program @p(%i: int64[], %x: float32[], %y: float32[]) {
      %s, %e = switch(%i, %x, %y) block(%a: float32[], %b: float32[]) {
        %c = sin(%a): float32[]
        %d = exp(%b): float32[]
        return (%c, %d)
      } block(%f: float32[], %g: float32[]) {
        return (%f, %g)
      }: float32[], float32[]
      return (%s)
    }""")
    live = verify(remove_dead(program))
    assert "exp" not in str(live)
    assert len(live.block.ops[0].inputs) == 2
    arrays = [np.asarray(0), np.asarray(2, np.float32), np.asarray(3, np.float32)]
    assert interpret(live, arrays) == interpret(program, arrays)


class TestErrors:
    def test_results_differ(self) -> None:
        def f(x: Any) -> Any:
            return ln.cond(x[0] > 0, lambda x: {"a": x}, lambda x: {"a": x[:2]}, x)

        with pytest.raises(
            ShapeError, match=r"\['a'\] of false_fun .*is float64\[2\].*float64\[3\]"
        ):
            ln.compile(lambda x: f(x[::-1]), backend="interpreter")(POINTS[0])

    def test_structures_differ(self) -> None:
        with pytest.raises(ShapeError, match="the same structure"):
            ln.vmap(lambda x: ln.cond(x > 0, lambda: (x, x), lambda: x))(POINTS[0])

    def test_no_predicate(self) -> None:
        with pytest.raises(DTypeError, match=r"expected bool\[\]"):
            ln.cond(1.0, ln.sin, ln.cos, 1.0)
        with pytest.raises(DTypeError, match="expected an integer"):
            ln.switch(True, [ln.sin], 1.0)
        with pytest.raises(ArgumentError, match="no branches"):
            ln.switch(0, [])
