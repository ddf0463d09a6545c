"""checkpoint: the same derivatives, through arguments and closures, without keeping the insides."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from typing import Any

import numpy as np
import pytest

import lantern as ln
from lantern.errors import RuleError
from lantern.testing import check_grads

f64 = np.float64
W = np.asarray([0.5, -1.0, 2.0])
X = np.asarray([0.1, 0.7, -0.4])


def block(w, x):
    return ln.tanh(w["a"] * x + ln.sin(x) * w["b"]) * x


PARAMS = {"a": W, "b": f64(0.3)}


def test_arguments_and_captures_differentiate():
    inside = lambda w, x: ln.sum(ln.checkpoint(block)(w, x) * W)  # noqa: E731
    captured = lambda w, x: ln.sum(ln.checkpoint(lambda x: block(w, x))(x) * W)  # noqa: E731
    all_captured = lambda w, x: ln.sum(ln.checkpoint(lambda c: c * block(w, x))(2.0))  # noqa: E731
    derived = lambda w, x: ln.sum(  # noqa: E731  # what is made of captures alone, inside
        ln.checkpoint(lambda x: block({"a": w["a"] * w["b"], "b": w["b"] * 2.0}, x))(x)
    )
    for f in (inside, captured, all_captured, derived):
        check_grads(f, (PARAMS, X), order=2)
    plain = ln.grad(lambda w: ln.sum(block(w, X) * W))(PARAMS)
    for f in (inside, captured):
        got = ln.grad(f)(PARAMS, X)
        np.testing.assert_allclose(got["a"], plain["a"])
        np.testing.assert_allclose(got["b"], plain["b"])


def test_under_every_transformation():
    def f(w, x):
        return ln.checkpoint(lambda x, *, k: ln.checkpoint(block)(w, x) * k)(x, k=w["b"])

    def plain(w, x):
        return block(w, x) * w["b"]

    xs = np.stack([X, 2 * X])
    for transform in (
        lambda f: ln.jacfwd(f, argnums=1)(PARAMS, X),
        lambda f: ln.jacrev(f, argnums=1)(PARAMS, X),
        lambda f: ln.hessian(f, argnums=1)(PARAMS, X),
        lambda f: ln.vmap(f, in_axes=(None, 0))(PARAMS, xs),
        lambda f: ln.vmap(ln.jacrev(f), in_axes=(None, 0))(PARAMS, xs),
        lambda f: ln.jacrev(ln.vmap(f, in_axes=(None, 0)))(PARAMS, xs),
        lambda f: ln.jacfwd(ln.vmap(f, in_axes=(None, 0)))(PARAMS, xs),
        lambda f: ln.hessian(lambda w: ln.sum(ln.vmap(f, in_axes=(None, 0))(w, xs)))(PARAMS),
        lambda f: ln.vmap(ln.hessian(lambda x, w: ln.sum(f(w, x))), in_axes=(0, None))(xs, PARAMS),
        lambda f: ln.hvp(lambda w: ln.sum(f(w, X)), (PARAMS,), (PARAMS,)),
        lambda f: ln.linearize(lambda w: f(w, X), PARAMS)[1](PARAMS),
    ):
        ln.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12),
            transform(f),
            transform(plain),
        )


def test_captures_of_several_prompts():
    def f(x):
        def g(y):
            def h(z):
                return ln.sum(
                    ln.vmap(lambda c: ln.checkpoint(lambda v: ln.sin(v * x * c) * y)(z))(W)
                )

            return ln.jvp(h, (y,), (x,))[1]

        return ln.grad(g)(x)

    check_grads(f, (f64(0.6),), order=1, rtol=1e-5)

    def same(x):
        plain = lambda v, y, c: ln.sin(v * x * c) * y  # noqa: E731

        def g(y):
            h = lambda z: ln.sum(ln.vmap(lambda c: plain(z, y, c))(W))  # noqa: E731
            return ln.jvp(h, (y,), (x,))[1]

        return ln.grad(g)(x)

    assert np.isclose(float(f(f64(0.6))), float(same(f64(0.6))))


def test_captures_made_of_captures_under_grad_of_vmap_of_grad():
    def f(w, check):
        def each(b):
            def g(y):
                return check(lambda x: ln.sin(x * (y * b)) * (y * w))(w)

            return ln.grad(g)(w)

        return ln.sum(ln.vmap(each)(W))

    same = lambda h: h  # noqa: E731
    for derivative in (ln.grad, ln.hessian, ln.jacfwd):
        want = derivative(lambda w: f(w, same))(f64(0.4))
        got = derivative(lambda w: f(w, ln.checkpoint))(f64(0.4))
        assert np.isclose(float(got), float(want))


def test_pytrees_and_other_leaves():
    def f(tree, flag, *, name):
        assert (flag, name) == (True, "n")
        x, n = tree["x"], tree["n"]
        return {"y": (x * n, None), "int": n + 1, "text": name, "same": x, "const": ln.asarray(W)}

    got = ln.checkpoint(f)({"x": ln.asarray(X), "n": ln.asarray(3)}, True, name="n")
    np.testing.assert_allclose(got["y"][0], 3 * X)
    assert got["y"][1] is None
    assert (int(got["int"]), got["text"]) == (4, "n")
    np.testing.assert_allclose(got["const"], W)

    def loss(x):
        out = ln.checkpoint(f)({"x": x, "n": 3}, True, name="n")
        return ln.sum(out["y"][0] * out["same"] * out["int"] * out["const"])

    np.testing.assert_allclose(ln.grad(loss)(X), 24 * X * W)


def test_result_that_does_not_depend_on_anything():
    assert float(ln.checkpoint(lambda x: 1.0)(X)) == 1.0
    np.testing.assert_array_equal(
        ln.grad(lambda x: ln.sum(ln.checkpoint(lambda v: W)(x)))(X), 0 * X
    )
    g = ln.grad(lambda x: ln.checkpoint(lambda: x * x)())(f64(3.0))
    assert float(g) == 6.0


def test_runs_twice_and_only_when_needed():
    runs = []

    @ln.checkpoint
    def f(x):
        runs.append(1)
        return ln.sin(x)

    f(X)
    assert len(runs) == 1
    _, pullback = ln.vjp(lambda x: (f(x), x), X)
    assert len(runs) == 2
    pullback((W, W))
    assert len(runs) == 3
    runs.clear()
    ln.grad(lambda x: ln.sum(x) + 0.0 * ln.sum(ln.stop_gradient(f(x))))(X)
    assert len(runs) == 1
    runs.clear()
    ln.vmap(ln.grad(f))(X)
    assert len(runs) == 2
    runs.clear()
    ln.vmap(f)(X)
    assert len(runs) == 1


def test_adjoints_of_constants_are_not_computed():
    backward = []

    @ln.custom_vjp
    def product(a, b):
        dz = yield a * b
        return lambda: backward.append("a") or dz * b, lambda: backward.append("b") or dz * a

    ln.grad(lambda x: ln.sum(ln.checkpoint(product)(x, ln.asarray(W))))(X)
    assert backward == ["a"]


def test_the_insides_are_not_kept():
    def heavy(x):
        y = x
        for _ in range(20):
            y = ln.sin(y)
        return y

    def peak(f, n=20_000):
        x = ln.asarray(np.linspace(0.0, 1.0, n))
        gc.collect()
        tracemalloc.start()
        _, pullback = ln.vjp(lambda x: f(f(f(f(x)))), x)
        held = tracemalloc.get_traced_memory()[0] / (8 * n)
        tracemalloc.reset_peak()
        (g,) = pullback(ln.asarray(np.ones(n)))
        highest = tracemalloc.get_traced_memory()[1] / (8 * n)
        tracemalloc.stop()
        return held, highest, np.asarray(g)

    held, _, g = peak(heavy)
    held_cp, highest_cp, g_cp = peak(ln.checkpoint(heavy))
    np.testing.assert_allclose(g_cp, g)
    assert held > 75, "each of the 80 steps keeps its operand"
    assert held_cp < 8, "each of the 4 blocks keeps its argument only"
    assert highest_cp < 40, "one block's insides at a time"

    w = ln.asarray(np.full(20_000, 0.99))
    captured = lambda x: heavy(x * w)  # noqa: E731
    assert peak(ln.checkpoint(captured))[0] < 8


class Traced(np.ndarray):
    """An array whose life a weak reference can follow."""


def test_the_insides_die_at_once():
    refs = []

    def f(x):
        y = ln.sin(x)
        refs.append(weakref.ref(y))
        z = ln.sin(y)
        refs.append(weakref.ref(z))
        return ln.exp(z)

    gc.disable()
    try:
        _, pullback = ln.vjp(ln.checkpoint(f), ln.asarray(X.view(Traced)))
        assert [r() for r in refs] == [None, None]
        pullback(W)
        assert [r() for r in refs] == [None] * 4
        arguments = weakref.ref(ln.asarray(X))
        ln.grad(lambda x: ln.sum(ln.checkpoint(f)(x)))(ln.asarray(X))
        assert arguments() is None
    finally:
        gc.enable()


def test_function_that_changes_its_mind_is_refused():
    def loss(steps):
        choices = iter(steps)

        def f(w):
            return ln.checkpoint(lambda x: ln.sum(next(choices)(x, w * 1.0)))(w)

        return f

    whole = lambda x, w: x * w  # noqa: E731
    part = lambda x, w: x[:2] * w[:2]  # noqa: E731
    more = lambda x, w: x * w * (w * 2.0)  # noqa: E731
    less = lambda x, w: x * 2.0  # noqa: E731
    for other in (part, more, less):
        with pytest.raises(RuleError, match="checkpoint: the function met other tensors"):
            ln.grad(loss([whole, other]))(X)
    np.testing.assert_allclose(ln.grad(loss([whole, whole]))(X), 2 * X)


def test_an_exception_in_the_second_run_is_the_users_own():
    runs = []

    def f(x):
        runs.append(1)
        if len(runs) == 2:
            raise KeyError("second run")
        return ln.sin(x)

    with pytest.raises(KeyError, match="second run"):
        ln.grad(ln.checkpoint(f))(f64(1.0))


def test_loops_of_checkpointed_steps():
    @ln.checkpoint
    def step(carry, w):
        return ln.tanh(carry * w + ln.sin(w))

    def f(w):
        carry = w
        for _ in range(10):
            carry = step(carry, w)
        return ln.sum(carry)

    check_grads(f, (X,), order=2)


def test_a_compiled_second_run_stays_one() -> None:
    """It shares nothing with the first run, whose insides would have to be kept for it."""

    def f(x: Any) -> Any:
        return ln.sum(ln.checkpoint(lambda x: ln.sin(ln.sin(x)))(x))

    x = np.linspace(0.0, 1.0, 5)
    compiled = ln.compile(ln.value_and_grad(f))
    for found, wanted in zip(compiled(x), ln.value_and_grad(f)(x), strict=True):
        np.testing.assert_allclose(np.asarray(found), np.asarray(wanted), rtol=1e-12)
    assert compiled.ir(x, stage="optimised").count("sin(") == 3  # two, and one again
    plain = ln.compile(ln.value_and_grad(lambda x: ln.sum(ln.sin(ln.sin(x)))))
    assert plain.ir(x, stage="optimised").count("sin(") == 2


@pytest.mark.parametrize("inner", [lambda f: f, ln.outline, ln.checkpoint])
def test_what_an_outlined_checkpoint_closes_over_is_given_to_its_second_run(inner: Any) -> None:
    """In a program, a value of it is no operand of the block that a checkpoint stands in."""

    def loss(w: Any, x: Any, scale: Any) -> Any:
        inside = inner(lambda w, x: ln.tanh(w * x * scale) * scale)
        layer = ln.outline(ln.checkpoint(lambda w, x: inside(w, x)))
        return ln.sum(layer(w, layer(w, x)))

    slope = ln.grad(loss, argnums=(0, 1, 2))
    for expected, found in zip(slope(W, X, X), ln.compile(slope)(W, X, X), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    only = ln.compile(ln.grad(loss))(
        W, X, X
    )  # the scale has no adjoint, and is needed all the same
    np.testing.assert_allclose(only, slope(W, X, X)[0], rtol=1e-12)
