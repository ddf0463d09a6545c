"""What loops keep of each step for the way back: exactly this, and no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from control_flow import close

import lantern as ln
from staging.frames import Frames, frames_of
from staging.pipeline import optimise

MACHINE = ln.Machine(1e11, ((float("inf"), 1e10),), 1)
ONE, HALF = np.float64(1.0), np.float64(0.5)
VECTOR, MATRIX = np.linspace(0.1, 0.4, 4), np.random.default_rng(0).normal(size=(4, 4)) * 0.5
ROWS = np.random.default_rng(1).normal(size=(10, 4))


def counted(step: Callable[[Any, Any], Any], x: Any, steps: int = 7) -> Any:
    """A `while` over a value and the number of the step."""
    return ln.while_loop(lambda s: s[1] < steps, lambda s: (step(*s), s[1] + 1), (x, 0))[0]


def logistic(r: Any, x: Any) -> Any:
    return counted(lambda x, n: r * x * (1 - x), x)


def halved(x: Any, _: Any) -> Any:
    return counted(lambda x, n: x * 0.5, x)


def factorial(x: Any, _: Any) -> Any:
    """The way back counts down."""
    return counted(lambda x, n: x * n + 1.0, x)


def odd_factorial(x: Any, _: Any) -> Any:
    def step(s: Any) -> Any:
        x, n = s
        return x * (n + 2), n + 2

    return ln.while_loop(lambda s: s[1] < 9, step, (x, 1))[0]


def doubling(x: Any, _: Any) -> Any:
    """A number that is no counter is kept."""
    return ln.while_loop(lambda s: s[1] < 99, lambda s: (s[0] * s[1], s[1] * 2), (x, 1))[0]


def newton(a: Any, x: Any) -> Any:
    return ln.while_loop(lambda x: ln.abs(x * x - a) > 1e-9, lambda x: (x + a / x) / 2, x)


def running_product(x: Any, _: Any) -> Any:
    p, ps = ln.scan(lambda p, x: (p * x, p * x), ONE, x)
    return p + ln.sum(ps)


def power(x: Any, _: Any) -> Any:
    return ln.fori_loop(0, 5, lambda i, p: p * x, x)


def rnn(w: Any, h: Any) -> Any:
    """What a step makes is what the next one is given: once is enough."""
    return ln.sum(ln.scan(lambda h, x: (ln.tanh(w @ h + x), None), h, ROWS)[0])


def lstm(w: Any, h: Any) -> Any:
    def step(s: Any, x: Any) -> Any:
        h, c = s
        z = ln.concat([x, h]) @ w
        forget, add, show, new = (z[4 * k : 4 * k + 4] for k in range(4))
        c = ln.sigmoid(forget) * c + ln.sigmoid(add) * ln.tanh(new)
        return (ln.sigmoid(show) * ln.tanh(c), c), None

    (h, _), _ = ln.scan(step, (h, h), ROWS)
    return ln.sum(h)


def noisy(x: Any, _: Any) -> Any:
    """Keys are not read on the way back; what they gave is."""

    def step(s: Any) -> Any:
        x, key, n = s
        key, now = ln.random.split(key)
        return ln.sin(x) * ln.random.uniform(now, (), dtype=ln.float64), key, n + 1

    return ln.while_loop(lambda s: s[2] < 5, step, (x, ln.random.key(0), 0))[0]


def exchanged(x: Any, y: Any) -> Any:
    def step(s: Any) -> Any:
        x, y, n = s
        return y, x * y, n + 1

    x, y, _ = ln.while_loop(lambda s: s[2] < 5, step, (x, y, 0))
    return x * y


def branching(x: Any, _: Any) -> Any:
    """The places of the branches are shared: one sine's operand, or one square's."""
    return counted(lambda x, n: ln.cond(x > 0.6, ln.sin, lambda x: x * x + 0.5, x), x)


def nested(x: Any, _: Any) -> Any:
    """A list of lists, and how long they are."""
    return counted(lambda x, n: ln.while_loop(lambda y: y < 1, lambda y: y * y + 1, x) * 0.1, x)


def segmented(x: Any, _: Any) -> Any:
    """√100 states before segments, and the frames of one."""
    f = lambda x: ln.fori_loop(0, 100, lambda i, x: ln.sin(x), x)  # noqa: E731
    return ln.checkpoint(f, policy="sqrt")(x)


NUMBER, INTEGER, FOUR = "float64[]", "int64[]", "float64[4]"
KEPT: dict[Callable[[Any, Any], Any], tuple[tuple[Any, Any], list[list[str]]]] = {
    logistic: ((HALF, HALF), [[NUMBER]]),
    halved: ((HALF, HALF), []),
    factorial: ((HALF, HALF), []),
    odd_factorial: ((HALF, HALF), []),
    doubling: ((HALF, HALF), [[INTEGER]]),
    newton: ((HALF, ONE), [[NUMBER]]),
    running_product: ((VECTOR, HALF), [[NUMBER]]),
    power: ((HALF, HALF), [[NUMBER]]),
    rnn: ((MATRIX, VECTOR), [[FOUR]]),
    lstm: ((np.ones((8, 16)) * 0.1, VECTOR), [[FOUR] * 6 + ["float64[8]"]]),
    noisy: ((HALF, HALF), [[NUMBER, "float64[1]"]]),
    exchanged: ((HALF, HALF), [[NUMBER]]),
    branching: ((HALF, HALF), [[NUMBER]]),
    nested: ((HALF, HALF), [["float64[-1]", INTEGER], [NUMBER]]),
    segmented: ((HALF, HALF), [[NUMBER], [NUMBER]]),
}


def kept(f: Callable[..., Any], *args: Any) -> tuple[Frames, ...]:
    program = ln.compile(ln.grad(f, argnums=(0, 1))).program(*args)
    return frames_of(optimise(program))


@pytest.mark.parametrize("f", KEPT, ids=lambda f: f.__name__)
def test_a_step_keeps(f: Callable[..., Any]) -> None:
    args, wanted = KEPT[f]
    found = [sorted(map(str, one.values)) for one in kept(f, *args)]
    assert found == [sorted(one) for one in wanted]


@pytest.mark.parametrize("f", KEPT, ids=lambda f: f.__name__)
def test_what_is_kept_is_enough(f: Callable[..., Any]) -> None:
    args, _ = KEPT[f]
    gradient = ln.grad(f, argnums=(0, 1))
    close(ln.compile(gradient)(*args), gradient(*args), 1e-9)
    curvature = ln.grad(lambda *xs: sum(ln.sum(g * g) for g in gradient(*xs)))
    close(ln.compile(curvature)(*args), curvature(*args), 1e-9)


def test_a_program_that_is_not_differentiated_keeps_nothing() -> None:
    program = ln.compile(lambda w, h: (rnn(w, h), running_product(h, h))).program(MATRIX, VECTOR)
    assert frames_of(optimise(program)) == ()


def test_costs_tell_of_frames() -> None:
    cost = ln.compile(ln.grad(rnn)).cost(MATRIX, VECTOR, machine=MACHINE)
    (one,) = cost.frames
    line = rnn.__code__.co_firstlineno + 2
    assert (one.name, one.steps, one.bytes, one.total) == ("scan", 10, 32, 320)
    assert one.place.endswith(f"test_frames.py:{line}")
    assert f"scan at test_frames.py:{line} keeps 32 B a step: float64[4]; 320 B in 10" in str(cost)
    (one,) = ln.compile(ln.grad(newton)).cost(HALF, ONE, machine=MACHINE).frames
    assert (one.name, one.steps, one.bytes, one.total) == ("while", None, 8, None)


def test_costs_tell_of_calls() -> None:
    @ln.recursive
    def grown(x: Any, n: Any) -> Any:
        return ln.cond(n == 0, lambda: x, lambda: ln.sin(x) * grown(x, n - 1))

    f = ln.compile(ln.grad(lambda x: grown(x, ln.asarray(5))))
    (one,) = f.cost(HALF, machine=MACHINE).frames
    assert one.name == "recurse" and one.total is None
    assert "node[]" in map(str, one.values) and 24 <= one.bytes <= 32
    assert " a call: " in str(one)
