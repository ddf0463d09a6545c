"""Random programs with nested branches, loops and recursion: every route and order agrees.

Values are held to Python's own control flow on NumPy, gradients to complex steps (exact to
rounding) and to finite differences, second derivatives to differences of complex steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from random_control import Close, Node, Plain, Staged, along, programs

import lantern as ln

SHAPES = ((), (3,))


def total(node: Node, k: int) -> Any:
    """The program as a function of its two float variables, summed."""
    integer = ln.asarray(k, dtype=ln.int64)
    return lambda x, w: ln.sum(Staged().run(node, (x, w), (integer,)))


@st.composite
def cases(draw: st.DrawFn, depth: int = 3) -> tuple[Node, np.ndarray, np.ndarray, int]:
    """A program, its inputs, a direction and its integer, away from where branches meet."""
    node = draw(programs(depth))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.sampled_from(SHAPES))
    x, v = rng.uniform(-1.5, 1.5, (2, 2, *shape))
    k = draw(st.integers(0, 4))
    try:
        value = Plain().run(node, tuple(x), (k,))
        slope = along(node, x, v, k)
    except Close:
        assume(False)
        raise
    assume(np.all(np.abs(value) < 1e3) and abs(slope) < 1e3)
    return node, x, v, k


def slope_of(node: Node, v: np.ndarray, k: int) -> Any:
    """The derivative along ``v`` by reverse mode, as a function of the inputs."""

    def slope(x: Any, w: Any) -> Any:
        a, b = ln.grad(total(node, k), argnums=(0, 1))(x, w)
        return ln.sum(a * ln.asarray(v[0])) + ln.sum(b * ln.asarray(v[1]))

    return slope


def near(a: Any, b: Any, relative: float) -> None:
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=relative, atol=relative)


@settings(max_examples=40)
@given(cases())
def test_values_and_gradients_are_those_of_plain_python(
    case: tuple[Node, np.ndarray, np.ndarray, int],
) -> None:
    node, x, v, k = case
    near(total(node, k)(*x), np.sum(Plain().run(node, tuple(x), (k,))), 1e-12)
    near(slope_of(node, v, k)(*x), along(node, x, v, k), 1e-9)
    pushed = ln.jvp(total(node, k), tuple(map(ln.asarray, x)), tuple(map(ln.asarray, v)))[1]
    near(pushed, along(node, x, v, k), 1e-9)


@settings(max_examples=25)
@given(cases())
def test_second_derivatives_are_differences_of_complex_steps(
    case: tuple[Node, np.ndarray, np.ndarray, int],
) -> None:
    """Fourth-order central differences at h = 1e-3: truncation h⁴ ≈ 1e-12 times a fifth
    derivative, which is below 1e5 for programs of these depths; rounding 1e-16 / h."""
    node, x, v, k = case
    h = 1e-3
    try:
        offsets = {s: along(node, x + s * h * v, v, k) for s in (-2, -1, 1, 2)}
        wide = {s: along(node, x + 2 * s * h * v, v, k) for s in (-2, -1, 1, 2)}
    except Close:
        assume(False)
    difference, coarse = (
        (f[-2] - 8 * f[-1] + 8 * f[1] - f[2]) / (12 * d) for f, d in ((offsets, h), (wide, 2 * h))
    )
    # Where halving the step moves the difference, a branch or a pole lies in between.
    assume(abs(difference - coarse) < 1e-6 * (1 + abs(difference)))
    a, b = ln.grad(slope_of(node, v, k), argnums=(0, 1))(*x)
    near(np.sum(np.asarray(a) * v[0]) + np.sum(np.asarray(b) * v[1]), difference, 1e-5)


@pytest.mark.parametrize("backend", ["interpreter", "llvm"])
@settings(max_examples=12)
@given(cases(depth=2))
def test_compiled_programs_are_the_eager_ones(
    backend: str, case: tuple[Node, np.ndarray, np.ndarray, int]
) -> None:
    node, x, v, k = case

    def everything(x: Any, w: Any) -> Any:
        f = total(node, k)
        first = ln.value_and_grad(f, argnums=(0, 1))(x, w)
        return first, ln.grad(slope_of(node, v, k), argnums=(0, 1))(x, w)

    compiled, eager = ln.compile(everything, backend=backend)(*x), everything(*x)
    for a, b in zip(ln.tree.leaves(compiled), ln.tree.leaves(eager), strict=True):
        near(a, b, 1e-10)


def test_found_by_random_programs() -> None:
    """A call that gives what it captures; a constant beside a call's result; a loop of one step."""
    x = ln.asarray([0.4, -0.6], dtype=ln.float64)

    def captured(x: Any) -> Any:
        @ln.recursive
        def f(k: Any, s: Any) -> Any:
            return ln.cond(k <= 0, lambda: x, lambda: f(k - 1, s))

        return ln.sum(f(ln.asarray(0), x))

    near(ln.grad(captured)(x), [1.0, 1.0], 0)

    @ln.recursive
    def constant(k: Any) -> Any:
        return ln.cond(k <= 0, lambda: (np.ones(2), k), lambda: (np.zeros(2), constant(k - 1)[1]))

    near(constant(3)[0], [0.0, 0.0], 0)

    def once(c: Any) -> Any:
        carry, ys = ln.scan(lambda c, x: (c * x, c + x), c, ln.stack([c + 1.0]))
        return carry + ys[0]

    near(ln.compile(ln.grad(once))(0.5), ln.grad(once)(0.5), 1e-6)
