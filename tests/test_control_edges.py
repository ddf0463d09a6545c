"""Loops and branches at their edges: no steps, nothing in an array, what is carried beside floats,
the order of effects, and what is said when types do not fit; eager, interpreted and native."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from control_flow import close

import lantern as ln
from lantern.errors import BatchingError, LanternError, ShapeError

X = np.asarray([0.3, -0.7])
ROUTES: dict[str, Callable[[Any], Any]] = {
    "eager": lambda f: f,
    "interpreter": lambda f: ln.compile(f, backend="interpreter"),
    "llvm": ln.compile,
}
each_route = pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES)


def never(x: Any) -> Any:
    return ln.sum(ln.while_loop(lambda x: ln.sum(x) > 9, ln.sin, x) * x)


def no_numbers(x: Any) -> Any:
    return ln.sum(ln.fori_loop(3, 3, lambda i, x: ln.sin(x), x) * x)


def no_rows(x: Any) -> Any:
    """What no step stacks is an array without elements."""
    c, ys = ln.scan(lambda c, r: (c * r, c + r), x, ln.zeros((0, 2), dtype=ln.float64))
    assert ys.shape == (0, 2)
    return ln.sum(c * x) + ln.sum(ys)


def map_of_nothing(x: Any) -> Any:
    ys = ln.map(lambda r: (r * x, ln.sum(r)), ln.zeros((0, 2), dtype=ln.float64))
    assert [y.shape for y in ys] == [(0, 2), (0,)]
    return ln.sum(ys[0]) + ln.sum(ys[1]) + ln.sum(x * x)


def empty_state(x: Any) -> Any:
    """Arrays without elements, carried and stacked."""
    none = ln.zeros((0,), dtype=ln.float64)
    (c, e), ys = ln.scan(lambda s, r: ((s[0] * r, s[1] * 2), s[1]), (x, none), ln.stack([x, x]))
    assert ys.shape == (2, 0)
    return ln.sum(c) + ln.sum(e) + ln.sum(ys)


def no_carry(x: Any) -> Any:
    _, ys = ln.scan(lambda c, r: (c, r * r), None, x)
    return ln.sum(ys * x)


def known_predicates(x: Any) -> Any:
    """What is known when a program is written decides then."""
    y = ln.cond(True, ln.sin, lambda x: ln.zeros((3,)), x)
    z = ln.switch(7, [lambda x: ln.zeros((3,)), ln.cos], x)
    return ln.sum(y * z)


def integers(x: Any) -> Any:
    """An integer in the carry decides, multiplies and ends the loop."""

    def step(s: Any) -> Any:
        x, n = s
        return ln.where(n % 2 == 0, x * n, ln.sin(x)), n + 1

    y, n = ln.while_loop(lambda s: s[1] < 6, step, (x, 1))
    return ln.sum(y) * n


def booleans(x: Any) -> Any:
    def step(s: Any) -> Any:
        x, up = s
        return ln.cond(up, lambda: x * 1.5, lambda: ln.sin(x)), ~up

    (y, up), ups = ln.scan(lambda s, _: (step(s), s[1]), (x, True), length=5)
    return ln.sum(y) * ln.where(up, 2.0, 3.0) + ln.sum(ln.where(ups, 1.0, 0.0)) * ln.sum(x)


def keys(x: Any) -> Any:
    def step(s: Any) -> Any:
        x, key, n = s
        key, now = ln.random.split(key)
        return x * ln.random.uniform(now, (2,), dtype=ln.float64), key, n + 1

    y, key, _ = ln.while_loop(lambda s: s[2] < 4, step, (x, ln.random.key(3), 0))
    return ln.sum(y) * ln.random.uniform(key, (), dtype=ln.float64)


def keys_in_a_scan(x: Any) -> Any:
    def step(s: Any, r: Any) -> Any:
        key, now = ln.random.split(s[1])
        return (ln.sin(s[0] * ln.random.uniform(now, (), dtype=ln.float64)), key), None

    return ln.sum(ln.scan(step, (x, ln.random.key(5)), x)[0][0])


def unread(x: Any) -> Any:
    """Nothing of a loop that has a derivative is read."""
    _, n = ln.while_loop(lambda s: s[1] < 4, lambda s: (ln.sin(s[0]), s[1] + 1), (x, 0))
    return ln.sum(x) * n


PROGRAMS = (
    never, no_numbers, no_rows, map_of_nothing, empty_state, no_carry, known_predicates, integers,
    booleans, keys, keys_in_a_scan, unread,
)  # fmt: skip


@each_route
@pytest.mark.parametrize("f", PROGRAMS, ids=lambda f: f.__name__)
def test_gradients(f: Callable[..., Any], route: Callable[[Any], Any]) -> None:
    """Value, gradient along a direction against differences, second derivatives, and a batch."""
    value, slope = route(ln.value_and_grad(f))(X)
    assert slope.dtype == ln.float64
    v, h = np.asarray([1.0, 0.5]), 1e-6
    close(value, f(X))
    close(ln.sum(slope * v), (f(X + h * v) - f(X - h * v)) / (2 * h), 1e-7)
    curvature = route(lambda x: ln.grad(lambda x: ln.sum(ln.grad(f)(x) * v))(x))(X)
    close(curvature, (ln.grad(f)(X + h * v) - ln.grad(f)(X - h * v)) / (2 * h), 1e-6)
    batch = np.stack([X, 2 * X])
    close(route(ln.vmap(ln.grad(f)))(batch), ln.stack([ln.grad(f)(x) for x in batch]))


class TestEffects:
    """They belong to the forward half, and happen once, in the order of the program."""

    @each_route
    def test_in_order(self, route: Callable[[Any], Any], capfd: pytest.CaptureFixture[str]) -> None:
        def f(x: Any) -> Any:
            def step(s: Any) -> Any:
                ln.debug.print("step {}", s[1])
                return ln.sin(s[0]), s[1] + 1

            x, n = ln.while_loop(lambda s: s[1] < 2, step, (x, 0))
            ln.debug.print("between {}", n)
            return ln.sum(ln.scan(lambda c, r: (self.shown(c * r, r), None), x, ln.arange(2.0))[0])

        route(ln.grad(f))(X)
        assert capfd.readouterr().out.splitlines() == [
            "step 0", "step 1", "between 2", "row 0.0", "row 1.0",
        ]  # fmt: skip

    @staticmethod
    def shown(x: Any, r: Any) -> Any:
        ln.debug.print("row {}", r)
        return x

    @each_route
    def test_of_the_branch_that_runs(
        self, route: Callable[[Any], Any], capfd: pytest.CaptureFixture[str]
    ) -> None:
        def f(x: Any) -> Any:
            return ln.cond(x > 0, lambda: self.shown(x * x, x), lambda: self.shown(x, -x))

        route(ln.grad(f))(0.5)
        assert capfd.readouterr().out == "row 0.5\n"

    def test_replayed_segments_show_theirs_again(self, capfd: pytest.CaptureFixture[str]) -> None:
        """The last segment first, each in its own order; what is left over is not replayed."""

        def f(x: Any) -> Any:
            return ln.sum(
                ln.scan(lambda c, r: (self.shown(ln.sin(c), r), None), x, ln.arange(5))[0]
            )

        forward = [f"row {i}" for i in range(5)]
        again = [f"row {i}" for i in (0, 1, 2)]
        for route in ROUTES.values():
            route(ln.grad(ln.checkpoint(f, policy="sqrt")))(X)
            assert capfd.readouterr().out.splitlines() == forward + again

    @pytest.mark.parametrize("route", [ROUTES["eager"], ROUTES["interpreter"]])
    def test_none_where_a_batch_parts(
        self, route: Callable[[Any], Any], capfd: pytest.CaptureFixture[str]
    ) -> None:
        def branch(x: Any) -> Any:
            return ln.cond(x > 0, lambda: self.shown(x * x, x), lambda: ln.sin(x))

        def loop(x: Any) -> Any:
            return ln.while_loop(lambda x: x < 2, lambda x: x + 1 + self.shown(x, x), x)

        def together(x: Any) -> Any:
            return ln.fori_loop(0, 2, lambda i, y: self.shown(y * x, x), x)

        for f, what in ((branch, "which branch"), (loop, "number of steps")):
            with pytest.raises(BatchingError, match=f"{what}.* differs within ln.vmap"):
                route(ln.vmap(f))(X)
        capfd.readouterr()
        route(ln.vmap(together))(X)
        assert capfd.readouterr().out.splitlines() == ["row 0.3", "row -0.7"] * 2


def place_of(f: Callable[..., Any]) -> str:
    return re.escape(f"({__file__}:{f.__code__.co_firstlineno})")


class TestErrors:
    @pytest.mark.parametrize("route", [ROUTES["interpreter"]])
    def test_branches_differ(self, route: Callable[[Any], Any]) -> None:
        def wide(x: Any) -> Any:
            return {"y": x}

        def narrow(x: Any) -> Any:
            return {"y": x[0]}

        def other(x: Any) -> Any:
            return x, x

        where = [place_of(f) for f in (wide, narrow, other)]
        for branches, message in (
            ((narrow, wide), rf"result\['y'\] of false_fun {where[0]} is float64\[2\] and that of "
                             rf"true_fun {where[1]} float64\[\]"),
            ((wide, other), rf"false_fun {where[2]} returns .* true_fun {where[0]} .*structure"),
        ):  # fmt: skip
            with pytest.raises(ShapeError, match=message) as error:
                route(lambda x, b=branches: ln.cond(x[0] > 0, *b, x))(X)
            assert __file__ in str(error.value)
        with pytest.raises(ShapeError, match=rf"branch 0 {where[0]}.*branch 2 {where[1]}"):
            route(
                lambda x: ln.switch(ln.asarray(x[0] > 0, dtype=ln.int64), [wide, wide, narrow], x)
            )(X)

    @each_route
    def test_state_changes(self, route: Callable[[Any], Any]) -> None:
        def single(s: Any) -> Any:
            return {"x": ln.astype(s["x"], ln.float32), "n": s["n"] + 1}

        def dropped(s: Any) -> Any:
            return {"x": s["x"]}

        message = rf"state\['x'\] is float64\[2\] before a step {place_of(single)} and float32\[2\]"
        for step, said in ((single, message), (dropped, rf"before a step {place_of(dropped)} and")):
            with pytest.raises(LanternError, match=said):
                route(lambda x, f=step: ln.while_loop(lambda s: s["n"] < 3, f, {"x": x, "n": 0}))(X)
        with pytest.raises(
            LanternError, match=r"carry is float64\[2\] before a step .*float64\[\]"
        ):
            route(lambda x: ln.scan(lambda c, r: (ln.sum(c), None), x, x))(X)
        with pytest.raises(LanternError, match=r"float64\[2\] before a step and float64\[\] after"):
            route(lambda x: ln.fori_loop(0, 3, lambda i, x: ln.sum(x), x))(X)
