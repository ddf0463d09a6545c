"""Loops over arrays and outlined functions: eager, and recorded in a program, on both backends."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lantern as ln
from lantern.errors import ArgumentError, ShapeError, StagingError
from lantern.regions import Recording
from staging.ir import walk
from staging.pipeline import optimise

BACKENDS = ("interpreter", "llvm")
RNG = np.random.default_rng(0)
W = ln.asarray(RNG.normal(size=(3, 3)) / 2)
XS = ln.asarray(RNG.normal(size=(5, 3)))
H = ln.asarray(RNG.normal(size=3))


def recurrent(w: Any, xs: Any, h: Any) -> Any:
    def step(h: Any, x: Any) -> Any:
        h = ln.tanh(w @ h + x)  # w is captured
        return h, ln.sum(h * h)

    h, ys = ln.scan(step, h, xs)
    return ln.sum(ys) + ln.sum(h)


def backwards(w: Any, xs: Any, h: Any) -> Any:
    h, ys = ln.scan(lambda h, x: (ln.sin(h * x), h + ln.sum(w)), h, xs, reverse=True)
    return ln.sum(ys * ys) + ln.sum(h)


def nested(w: Any, xs: Any, h: Any) -> Any:
    def outer(c: Any, x: Any) -> Any:
        def inner(d: Any, row: Any) -> Any:
            return d * ln.cos(row @ x), d

        c, ds = ln.scan(inner, c, w)
        return c + h, ds

    c, ds = ln.scan(outer, h, xs)
    return ln.sum(c) + ln.sum(ds * ds)


def rules(w: Any, xs: Any, h: Any) -> Any:
    """A user's own rule, and a checkpoint, inside a body."""

    @ln.custom_vjp(linear=True)
    def doubled(x: Any) -> Any:
        dz = yield x * x
        return 4 * x * dz

    @ln.checkpoint
    def deep(x: Any) -> Any:
        return ln.exp(ln.sin(x) * ln.sum(w))

    h, _ = ln.scan(lambda h, x: (doubled(h) * 0.1 + deep(x) * 0.1, None), h, xs)
    return ln.sum(h)


def mixed(w: Any, xs: Any, h: Any) -> Any:
    """A carry with a counter, a flag and a random key, and one that is never read."""

    def step(c: Any, x: Any) -> Any:
        h, n, flag, key, unread = c
        key, used = ln.random.split(key)
        noise = ln.random.normal(used, (3,), ln.float64)
        h = ln.where(flag, h * x + noise, h - x)
        return (h, n + 1, ln.logical_not(flag), key, unread * 2), (n, h)

    c = (h, ln.asarray(0), ln.asarray(True), ln.random.key(3), ln.sum(w))
    (h, n, _, _, _), (numbers, hs) = ln.scan(step, c, xs)
    return ln.sum(h) + ln.sum(hs * ln.astype(ln.expand_dims(numbers, axis=1), ln.float64)) + n


def stopped(w: Any, xs: Any, h: Any) -> Any:
    h, ys = ln.scan(lambda h, x: (h * ln.stop_gradient(h * x), ln.stop_gradient(w) @ h), h, xs)
    return ln.sum(h) + ln.sum(ys)


def mapped(w: Any, xs: Any, h: Any) -> Any:
    return ln.sum(ln.map(lambda x: ln.tanh(w @ x) * h, xs))


def counted(w: Any, xs: Any, h: Any) -> Any:
    return ln.sum(ln.fori_loop(0, 4, lambda i, h: ln.sin(w @ h) + xs[i], h))


PROGRAMS = (recurrent, backwards, nested, rules, mixed, stopped, mapped, counted)


def close(a: Any, b: Any) -> None:
    for x, y in zip(ln.tree.leaves(a), ln.tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=1e-10, atol=1e-10)


def second(f: Callable[..., Any]) -> Callable[..., Any]:
    def contracted(*args: Any) -> Any:
        return sum(ln.sum(ln.sin(g)) for g in ln.grad(f, argnums=(0, 1, 2))(*args))

    return ln.grad(contracted, argnums=(0, 1, 2))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("f", PROGRAMS, ids=lambda f: f.__name__)
def test_compiled_agrees_with_eager(f: Callable[..., Any], backend: str) -> None:
    def everything(w: Any, xs: Any, h: Any) -> Any:
        tangents = tuple(ln.cos(x) for x in (w, xs, h))
        return (
            ln.value_and_grad(f, argnums=(0, 1, 2))(w, xs, h),
            second(f)(w, xs, h),
            ln.jvp(f, (w, xs, h), tangents),
        )

    close(everything(W, XS, H), ln.compile(everything, backend=backend)(W, XS, H))


@pytest.mark.parametrize("f", PROGRAMS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("axes", [(None, 0, None), (0, None, 0)])
def test_batches(f: Callable[..., Any], axes: tuple[Any, ...]) -> None:
    args = [
        x if a is None else ln.stack([x, x * 0.5]) for x, a in zip((W, XS, H), axes, strict=True)
    ]
    batch = ln.vmap(ln.value_and_grad(f, argnums=(0, 1, 2)), in_axes=axes)
    close(batch(*args), ln.compile(batch, backend="interpreter")(*args))

    def total(*args: Any) -> Any:
        return ln.sum(ln.vmap(f, in_axes=axes)(*args))

    gradient = ln.grad(total, argnums=(0, 1, 2))
    close(gradient(*args), ln.compile(gradient, backend="interpreter")(*args))


@pytest.mark.parametrize("f", (recurrent, nested), ids=lambda f: f.__name__)
def test_gradients_against_finite_differences(f: Callable[..., Any]) -> None:
    from lantern.testing import check_grads

    check_grads(f, (W, XS, H), order=2)


def test_no_steps() -> None:
    def f(h: Any) -> Any:
        h, ys = ln.scan(lambda h, x: (h * x, ln.stack([h, h])), h, ln.zeros((0, 3), dtype=h.dtype))
        return ln.sum(h) + ln.sum(ys), ys

    (value, ys), gradient = ln.value_and_grad(f, has_aux=True)(H)
    assert ys.shape == (0, 2, 3)
    close((value, gradient), (ln.sum(H), ln.ones(3)))
    (again, ys), gradient = ln.compile(ln.value_and_grad(f, has_aux=True), backend="llvm")(H)
    assert ys.shape == (0, 2, 3)
    close((again, gradient), (value, ln.ones(3)))


def test_the_program_holds_one_loop_each_way() -> None:
    text = ln.compile(ln.grad(recurrent), backend="interpreter").ir(W, XS, H)
    assert text.count("scan(") == 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_body_serves_several_loops(backend: str) -> None:
    """The halves of a recorded body are the same for each call of what holds them."""

    def f(w: Any, xs: Any, h: Any) -> Any:
        inner = ln.outline(recurrent)
        return inner(w, xs, h) + ln.sum(ln.grad(inner)(w, xs, h)) * inner(w, xs, 2.0 * h)

    close(ln.compile(ln.grad(f), backend=backend)(W, XS, H), ln.grad(f)(W, XS, H))


class TestOutline:
    def net(self, w: Any, x: Any, depth: int) -> Any:
        layer = ln.outline(lambda w, x: ln.tanh(w @ x) + x)
        for _ in range(depth):
            x = layer(w, x)
        return ln.sum(x)

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_agrees(self, backend: str) -> None:
        def f(w: Any, x: Any) -> Any:
            return self.net(w, x, 3)

        def everything(w: Any, x: Any) -> Any:
            twice = ln.grad(lambda w: ln.sum(ln.sin(ln.grad(f)(w, x))))
            return ln.value_and_grad(f, argnums=(0, 1))(w, x), twice(w)

        close(everything(W, H), ln.compile(everything, backend=backend)(W, H))

    def test_is_recorded_once(self) -> None:
        runs = itertools.count()

        @ln.outline
        def layer(x: Any) -> Any:
            next(runs)
            return ln.sin(x)

        compiled = ln.compile(lambda x: layer(layer(layer(x))), backend="interpreter")
        compiled(H)
        assert next(runs) == 1

    def test_shares_its_block(self) -> None:
        gradient = ln.compile(ln.grad(lambda w, x: self.net(w, x, 5)))
        program = gradient.program(W, H)
        calls = [op for op in program.block.ops if op.name == "call"]
        assert len(calls) == 10
        # Two halves where only w is differentiated, in the first layer, and two where x is too.
        assert len({op.blocks[0] for op in calls}) == 4

    @staticmethod
    def two(w: Any, x: Any) -> Any:
        """A block with two results, of which callers read what they like."""

        @ln.outline
        def layer(w: Any, x: Any) -> tuple[Any, Any]:
            inner = ln.outline(lambda x: (ln.sin(w @ x), x * ln.exp(x)))
            a, b = inner(x)
            return ln.tanh(a) + x, b * ln.sum(w)

        x, _ = layer(w, x)
        _, memory = layer(w, x)
        x, other = layer(w, memory)
        return ln.sum(x * other)

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_callers_that_read_different_results(self, backend: str) -> None:
        @ln.vmap
        def derivatives(x: Any) -> Any:
            def twice(w: Any, x: Any) -> Any:
                return ln.sum(ln.sin(ln.grad(self.two, argnums=1)(w, x)))

            kept = ln.grad(ln.checkpoint(self.two))(W, x)
            return ln.grad(self.two, argnums=(0, 1))(W, x), ln.grad(twice)(W, x), kept

        close(ln.compile(derivatives, backend=backend)(XS), derivatives(XS))

    def test_what_nobody_reads_has_no_way_back(self) -> None:
        def program(layer: Callable[[Any], Any]) -> Any:
            def f(x: Any) -> Any:
                for _ in range(2):
                    x = layer(x)[0]
                return ln.sum(x)

            found = ln.compile(ln.grad(f)).program(H)
            return [op.name for op in walk(optimise(found).block)]

        one = ln.outline(lambda x: (ln.tanh(x),))
        two = ln.outline(lambda x: (ln.tanh(x), ln.exp(ln.sin(x) * x)))
        assert program(two) == program(one)

    def test_static_arguments_and_captures_distinguish(self) -> None:
        @ln.outline
        def power(x: Any, n: Any) -> Any:
            return x**n if n != "cube" else x * x * x

        def f(x: Any) -> Any:
            scaled = [ln.outline(lambda y, s=s: y * s) for s in (2.0, 3.0)]
            return power(x, 2), power(x, "cube"), [g(x) for g in scaled]

        close(ln.compile(f, backend="interpreter")(H), f(H))


class TestErrors:
    def test_carry_changes(self) -> None:
        def widen(h: Any, x: Any) -> Any:
            return ln.concat([h, h]), None

        for run in (lambda f: f, lambda f: ln.compile(f, backend="interpreter")):
            with pytest.raises(ShapeError, match=r"carry.*float64\[3\] before.*float64\[6\] after"):
                run(lambda h, xs: ln.scan(widen, h, xs))(H, XS)

    def test_no_pair(self) -> None:
        with pytest.raises(StagingError, match="expected a tuple"):
            ln.scan(lambda h, x: h + x, H, XS)

    def test_lengths(self) -> None:
        with pytest.raises(ArgumentError, match="length="):
            ln.scan(lambda c, x: (c, x), H)
        with pytest.raises(ShapeError, match="differ in length"):
            ln.scan(lambda c, x: (c, None), H, (XS, W))

    def test_branch_on_an_element(self) -> None:
        def step(h: Any, x: Any) -> Any:
            return (h if h[0] > 0 else x), None

        plain = ln.compile(lambda h, xs: ln.scan(step, h, xs), backend="interpreter", rewrite=False)
        with pytest.raises(StagingError, match="not known while compiling"):
            plain(H, XS)


def test_frames_hold_what_cannot_be_made_again_cheaply() -> None:
    region = Recording()
    x = region.parameter((4,), np.float64)
    y = ln.exp(ln.sin(x) * 2.0 + 1.0)
    block = region.block([y])
    halves = block.halves((0,), frozenset(block.params))
    # exp's own result serves; cos(x) is made from the parameter
    assert [halves.forward.kind(slot) for slot in halves.saved] == [((4,), np.dtype(np.float64))]
