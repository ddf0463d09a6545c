"""Recursive functions, beside the same written in plain Python: values, first and second
derivatives, eager and compiled, batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from control_flow import close

import lantern as ln
from lantern.testing import check_grads

Program = Callable[..., Any]

BACKENDS = ("interpreter", "llvm")
X = ln.asarray(np.float64(1.3))
RAMP = ln.asarray(np.array([0.3, 0.7, -0.4]))


def choose(recurse: bool) -> Callable[[Any, Program, Program], Any]:
    """`ln.cond`, or a branch of Python."""
    return ln.cond if recurse else lambda pred, yes, no: yes() if pred else no()


def itself(f: Program) -> Program:
    """A decorator that changes nothing."""
    return f


def forms(program: Callable[..., Program]) -> tuple[Program, Program]:
    """A program with recursive functions, and in plain Python."""
    return program(ln.recursive, choose(True)), program(itself, choose(False))


def power(recursive: Any, cond: Any) -> Program:
    @recursive
    def power(x: Any, n: Any) -> Any:
        return cond(n == 0, lambda: ln.sin(x), lambda: x * power(x, n - 1))

    return lambda x: power(x, 4)


def fibonacci(recursive: Any, cond: Any) -> Program:
    """Two calls, and a capture that every call reads."""

    def f(x: Any) -> Any:
        @recursive
        def fibonacci(n: Any) -> Any:
            return cond(n < 2, lambda: ln.cos(x), lambda: fibonacci(n - 1) * fibonacci(n - 2) + x)

        return fibonacci(5)

    return f


def even_and_odd(recursive: Any, cond: Any) -> Program:
    """Mutual recursion, one function of which is never called from outside."""

    @recursive
    def even(x: Any, n: Any) -> Any:
        return cond(n == 0, lambda: x, lambda: odd(x * 0.9, n - 1))

    @recursive
    def odd(x: Any, n: Any) -> Any:
        return cond(n == 0, lambda: -x, lambda: ln.sin(even(x, n - 1)))

    return lambda x: even(x, 5) * odd(x, 4)


def ackermann(recursive: Any, cond: Any) -> Program:
    """Calls in arguments of calls, in a tail and not."""

    @recursive
    def ackermann(m: Any, n: Any, x: Any) -> Any:
        def inner() -> Any:
            k, y = ackermann(m, n - 1, x)
            return ackermann(m - 1, k, ln.tanh(y + 0.3))

        return cond(
            m == 0,
            lambda: (n + 1, x * 1.1),
            lambda: cond(n == 0, lambda: ackermann(m - 1, 1, x * x), inner),
        )

    return lambda x: ackermann(2, 2, x)[1]


def nested(recursive: Any, cond: Any) -> Program:
    """A function inside of another reads what the call around it has, and calls that."""

    @recursive
    def outer(x: Any, n: Any) -> Any:
        y = ln.sin(x)

        @recursive
        def inner(z: Any, k: Any) -> Any:
            return cond(k == 0, lambda: z * outer(x * 0.5, n - 1), lambda: inner(z * y, k - 1) + y)

        return cond(n == 0, lambda: x, lambda: inner(x, n))

    return lambda x: outer(x, 3)


def siblings(recursive: Any, cond: Any) -> Program:
    """Two functions inside of another that call each other, of which one reads what is around."""

    @recursive
    def outer(x: Any, n: Any) -> Any:
        y = x * x

        @recursive
        def left(k: Any) -> Any:
            return cond(k == 0, lambda: y, lambda: right(k - 1) * 0.5)

        @recursive
        def right(k: Any) -> Any:
            return cond(k == 0, lambda: outer(x * 0.7, n - 1), lambda: ln.sin(left(k - 1)))

        return cond(n == 0, lambda: x, lambda: left(n) + right(n))

    return lambda x: outer(x, 3)


def joined(recursive: Any, cond: Any) -> Program:
    """Branches that call, with more behind them: short, long, and with another such branch."""

    @recursive
    def f(x: Any, n: Any) -> Any:
        y = cond(n > 2, lambda: f(x * 0.9, n - 1), lambda: x)
        z = cond(n > 1, lambda: f(y * 0.5, n - 2), lambda: ln.cos(y))
        for _ in range(6):
            z = ln.sin(z) * 0.8 + ln.cos(y) * 0.1 * x
        return z

    return lambda x: f(x, 5)


def early(recursive: Any, cond: Any) -> Program:
    """Results known before the branch, and unused ones."""

    @recursive
    def f(x: Any, n: Any) -> Any:
        s = ln.sin(x)
        return cond(n <= 0, lambda: {"a": s, "b": (x, n)}, lambda: {**f(s + 0.1, n - 2), "a": x})

    return lambda x: f(x, 5)["a"] * f(x, 4)["b"][0] + f(x, 3)["b"][1]


def handed_over(recursive: Any, cond: Any) -> Program:
    """Arrays that are arguments, in another order, of a call at the end."""

    @recursive
    def left(x: Any, y: Any, n: Any) -> Any:
        return cond(n == 0, lambda: x * x - y, lambda: right(y, x, n - 1))

    @recursive
    def right(x: Any, y: Any, n: Any) -> Any:
        return cond(n == 0, lambda: x + y * y, lambda: left(y * x, x, n - 1))

    return lambda x: ln.sum(left(x * RAMP, ln.sin(RAMP + x), 4)[1:])


PROGRAMS = (
    power, fibonacci, even_and_odd, ackermann, nested, siblings, joined, early, handed_over,
)  # fmt: skip
each_program = pytest.mark.parametrize("program", PROGRAMS, ids=lambda f: f.__name__)


def everything(f: Program) -> Program:
    """Value, first and second derivative in reverse mode, and both by forward mode."""
    slope = ln.grad(f)

    def of(x: Any) -> Any:
        one = ln.ones_like(x)
        return f(x), slope(x), ln.grad(slope)(x), ln.jvp(slope, (x,), (one,))

    return of


@each_program
def test_eager_is_as_plain_python(program: Any) -> None:
    recursive, plain = forms(program)
    close(everything(recursive)(X), everything(plain)(X))


@each_program
@pytest.mark.parametrize("backend", BACKENDS)
def test_compiled_is_as_eager(program: Any, backend: str) -> None:
    recursive, _ = forms(program)
    close(ln.compile(everything(recursive), backend=backend)(X), everything(recursive)(X))


@each_program
def test_derivatives_are_those_of_finite_differences(program: Any) -> None:
    recursive, _ = forms(program)
    check_grads(recursive, (X,), order=2)


@pytest.mark.parametrize("program", (power, even_and_odd))
def test_third_order(program: Any) -> None:
    recursive, plain = forms(program)
    close(ln.grad(ln.grad(ln.grad(recursive)))(X), ln.grad(ln.grad(ln.grad(plain)))(X))


@pytest.mark.parametrize("program", (power, fibonacci, nested))
def test_batches(program: Any) -> None:
    recursive, plain = forms(program)
    points = ln.asarray([1.3, 0.2, -0.7], dtype="float64")
    for of in (lambda f: f, ln.grad, lambda f: ln.grad(ln.grad(f))):
        close(ln.vmap(of(recursive))(points), ln.stack([of(plain)(x) for x in points]))
    total = ln.grad(lambda xs: ln.sum(ln.vmap(recursive)(xs)))
    close(total(points), ln.stack([ln.grad(plain)(x) for x in points]))
