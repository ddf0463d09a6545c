"""Functions in plain Python that call themselves as often as a value of a compiled program says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from control_flow import check_compiled, close

import lantern as ln
from lantern.errors import StagingError

BACKENDS = ("interpreter", "llvm")
LEFT, RIGHT = np.array([1, 3, -1, -1, -1]), np.array([2, 4, -1, -1, -1])
TREE = LEFT, RIGHT, np.array([0, 0, 2, 1, 0])
W = ln.asarray(np.array([0.5, -0.3, 0.9]))
POINTS = (np.array([0.4, 1.1]), np.array([-0.7, 0.2]))


def power(x: Any, n: Any) -> Any:
    return x * power(x, n - 1) if n > 0 else 1.0


def powers(x: Any, w: Any) -> Any:
    """By a counter that the program has, which is a number of Python at first."""
    return power(x[0], 3) * power(w[1], ln.astype(x[1] > 0, ln.int64) + 1)


def tree(x: Any, w: Any) -> Any:
    """A nested function, which reads what is around it and calls itself twice."""
    left, right, word = (ln.asarray(part) * ln.astype(x[0] < 9, ln.int64) for part in TREE)

    def node(i: Any) -> Any:
        if left[i] < 0:
            return ln.tanh(w[word[i]] * x[0])
        a, b = node(left[i]), node(right[i])
        if a > 0 and b > 0:
            return ln.tanh(a * w[0] + b)
        return ln.tanh(a - b * w[1])

    return node(0)


def even(x: Any, n: Any) -> Any:
    if n == 0:
        return x
    return odd(ln.sin(x), n - 1)


def odd(x: Any, n: Any) -> Any:
    return -x if n == 0 else even(x * 1.1, n - 1)


def mutual(x: Any, w: Any) -> Any:
    n = ln.astype(ln.abs(x[0]) * 7, ln.int64)
    return even(x[1], n) * odd(w[0], n)


def walk(parents: Any, weights: Any, i: Any, total: Any) -> Any:
    """Arguments that are the same in every call, and a number that becomes an array."""
    if parents[i] < 0:
        return total
    for _ in range(2):
        total = total + weights[i] * 0.5
    return walk(parents, weights, parents[i], total * 0.9)


def arguments(x: Any, w: Any) -> Any:
    parents = ln.asarray([2, 0, -1]) + ln.astype(x[0] > 9, ln.int64)
    return walk(parents, w * x[1], 1, 0.0)


class Layers:
    """A method that calls itself, and another one in a loop."""

    def __init__(self, w: Any) -> None:
        self.w = w

    def once(self, x: Any) -> Any:
        return ln.tanh(x * self.w[0]) if x > 0 else x * self.w[1]

    def __call__(self, x: Any, n: Any) -> Any:
        for _ in range(n):
            x = self.once(x)
        if n < 1:
            return x
        return self(x, n - 1) + 0.1


def methods(x: Any, w: Any) -> Any:
    return Layers(w)(x[0], ln.astype(ln.abs(x[1]) + 2, ln.int64))


PROGRAMS = (powers, tree, mutual, arguments, methods)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("f", PROGRAMS, ids=lambda f: f.__name__)
def test_compiled_agrees_with_python(f: Callable[..., Any], backend: str) -> None:
    check_compiled(f, POINTS, W, backend, 1e-9)


@pytest.mark.parametrize("f", PROGRAMS, ids=lambda f: f.__name__)
def test_a_recursion_is_written(f: Callable[..., Any]) -> None:
    assert "recurse(" in ln.compile(f, backend="interpreter").ir(POINTS[0], W)


def test_depth() -> None:
    """Python's stack would be left after a thousand calls."""

    def halves(x: Any, n: Any) -> Any:
        if n == 0:
            return x
        return halves(x * 0.5 + 1.0, n - 1)

    deep = ln.compile(ln.value_and_grad(halves))
    close(deep(np.float64(3.0), 200_000), (2.0, 0.0))


def test_recursion_of_python_stays() -> None:
    """A static depth is unrolled, also where branches of the program are on the way."""
    calls: list[int] = []

    def fold(x: Any, parts: Any) -> Any:
        calls.append(len(parts))
        if not parts:
            return x
        if x > 0:
            return fold(x * parts[0], parts[1:])
        return fold(x + parts[0], parts[1:])

    compiled = ln.compile(lambda x: fold(x, (2.0, 3.0)), backend="interpreter")
    close([compiled(x) for x in (1.0, -1.0, -4.0)], [6.0, 3.0, 1.0])
    assert sorted(calls) == [0, 0, 0, 0, 1, 1, 2]
    assert "recurse" not in compiled.ir(1.0)


def test_what_has_an_effect_is_written_once(capsys: pytest.CaptureFixture[str]) -> None:
    def count(n: Any) -> Any:
        ln.debug.print("at {}", n)
        if n == 0:
            return n
        return count(n - 1)

    ln.compile(count)(2)
    assert capsys.readouterr().out == "at 2\nat 1\nat 0\n"


def test_numbers_that_python_counts() -> None:
    """A number that the calls count up without the program is one of the program after a while."""

    def steps(n: Any, x: Any) -> Any:
        if x < 1:
            return n
        return steps(n + 1, x / 2)

    assert int(ln.compile(lambda x: steps(0, x))(2.0**70)) == 71


def test_it_never_ends() -> None:
    def forever(x: Any) -> Any:
        if x > 0:
            return forever(x + 1)
        return forever(x - 1)

    with pytest.raises(StagingError, match="forever never returns without calling itself"):
        ln.compile(forever)(1.0)
