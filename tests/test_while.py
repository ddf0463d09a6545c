"""Loops that end when a condition says so: eager, compiled, differentiated and batched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from control_flow import check_batches, check_compiled, close

import lantern as ln
from lantern.errors import DTypeError, ShapeError

BACKENDS = ("interpreter", "llvm")
W = ln.asarray(np.random.default_rng(0).normal(size=(2, 3)))
POINTS = (np.array([1.0, 0.4, -0.3]), np.array([0.2, -0.5, 0.1]), np.array([9.0, 9.0, 9.0]))


def powers(x: Any, w: Any) -> Any:
    """2 to 7 steps, and none at the last point; the frame is the state."""
    x = ln.while_loop(lambda x: ln.sum(x * x) < 8, lambda x: x * 1.5 + ln.sin(x) ** 2, x)
    return ln.sum(x * w)


def linear(x: Any, w: Any) -> Any:
    """Nothing is saved: the way back needs only the number of steps."""
    x, n = ln.while_loop(lambda s: s[1] < 5, lambda s: (s[0] * 0.5, s[1] + 1), (x, 0))
    return ln.sum(x) * ln.sum(w) + n


def captured(x: Any, w: Any) -> Any:
    """The condition and the body read w."""

    def going(s: Any) -> Any:
        return ln.sum(ln.abs(s[0])) < 2 + w[0, 0] ** 2

    y, n = ln.while_loop(
        going, lambda s: (ln.tanh(w[0] * s[0]) + s[0] * 1.3 + 0.1, s[1] + 1), (x, 0)
    )
    return ln.sum(y) + n


def nested(x: Any, w: Any) -> Any:
    """A loop within a loop: lists are saved in lists."""

    def outer(s: Any) -> Any:
        x, n = s
        x = ln.while_loop(lambda x: ln.sum(x * x) > 1, lambda x: x * ln.cos(x) * 0.8, x)
        return x * 2.0 + w[1] * 0.1, n + 1

    x, _ = ln.while_loop(lambda s: s[1] < 3, outer, (x, 0))
    return ln.sum(x * x)


def in_a_scan(x: Any, w: Any) -> Any:
    def step(x: Any, row: Any) -> Any:
        y = ln.while_loop(lambda y: ln.sum(y * y) < 4, lambda y: y * 1.4 + ln.sin(row), x)
        return y * 0.4, ln.sum(y)

    x, ys = ln.scan(step, x, w)
    return ln.sum(x) + ln.sum(ys * ys)


def in_a_branch(x: Any, w: Any) -> Any:
    def looped(x: Any) -> Any:
        return ln.while_loop(lambda x: ln.sum(x * x) < 8, lambda x: x * 1.5 + ln.sin(x), x)

    return ln.sum(ln.cond(x[0] > 0.5, looped, ln.cos, x) * w)


def branching(x: Any, w: Any) -> Any:
    def body(s: Any) -> Any:
        x, n = s
        x = ln.cond(x[0] > x[1], lambda: x * ln.exp(-x * 0.1), lambda: x * x + w[0])
        return x[::-1], n + 1

    return ln.sum(ln.while_loop(lambda s: s[1] < 4, body, (x * 0.3, 0))[0])


PROGRAMS = (powers, linear, captured, nested, in_a_scan, in_a_branch, branching)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("f", PROGRAMS, ids=lambda f: f.__name__)
def test_compiled_agrees_with_eager(f: Callable[..., Any], backend: str) -> None:
    check_compiled(f, POINTS, W, backend, 1e-9)


@pytest.mark.parametrize("f", PROGRAMS, ids=lambda f: f.__name__)
def test_batches(f: Callable[..., Any]) -> None:
    """Each element makes its own number of steps."""
    check_batches(f, POINTS, W, 1e-9)


def test_steps_of_finished_elements_reach_no_adjoint() -> None:
    """The element that is done would take the logarithm of a negative number."""

    def f(x: Any) -> Any:
        return ln.while_loop(lambda x: x > 1, lambda x: ln.log(x), x)

    points = np.asarray([0.5, 20.0])
    each = np.asarray([float(ln.grad(f)(x)) for x in points])
    close(ln.vmap(ln.grad(f))(points), each)
    close(ln.grad(lambda x: ln.sum(ln.vmap(f)(x)))(points), each)


@pytest.mark.parametrize("backend", BACKENDS)
def test_derivatives_of_a_compiled_loop(backend: str) -> None:
    """Taken outside of the program: what the loop saves does not leave it."""
    compiled = ln.compile(captured, backend=backend)
    x = POINTS[0]
    wanted = ln.grad(captured, argnums=(0, 1))(x, W)
    close(ln.grad(compiled, argnums=(0, 1))(x, W), wanted)
    second = lambda f: ln.grad(lambda x: ln.sum(ln.grad(f)(x, W) ** 2))  # noqa: E731
    close(second(compiled)(x), second(captured)(x))
    close(
        ln.jvp(lambda x: compiled(x, W), (x,), (x,)), ln.jvp(lambda x: captured(x, W), (x,), (x,))
    )


class TestErrors:
    def test_state_changes(self) -> None:
        for run in (lambda f: f, lambda f: ln.compile(f, backend="interpreter")):
            with pytest.raises(ShapeError, match=r"state is float64\[3\] before.*float64\[6\]"):
                run(
                    lambda x: ln.while_loop(lambda x: ln.sum(x) < 9, lambda x: ln.concat([x, x]), x)
                )(POINTS[0])

    def test_no_condition(self) -> None:
        with pytest.raises(DTypeError, match=r"condition is float64\[3\]; expected bool"):
            ln.while_loop(lambda x: x, lambda x: x, POINTS[0])
