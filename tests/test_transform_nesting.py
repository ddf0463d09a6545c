"""Transformations within transformations: in every order, to any depth, never confused."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial import Polynomial

import lantern as ln
from lantern.testing import check_grads

f64 = np.float64


# Nesting, against closed forms ------------------------------------------------------------------
# Every transformation below maps a function R -> R to another; on polynomials its effect is known.


def power(x):
    """x + x**2 + x**3 + x**5 by way of several rules, for positive x."""
    return x + x * x + ln.exp(3.0 * ln.log(x)) + x * x * x * x * x * x / x


POWER = Polynomial([0, 1, 1, 1, 0, 1])
X = Polynomial([0, 1])


def by_custom_rule(g):
    @ln.custom_vjp(linear=True)
    def same(x):
        y = g(x)
        dz = yield y
        return dz * ln.grad(g)(x)

    return same


def by_closure_under_checkpoint(g):
    return lambda x: ln.checkpoint(lambda y: g(y) * x)(x)


SCALAR = {
    "grad": (ln.grad, Polynomial.deriv),
    "value": (lambda g: lambda x: ln.value_and_grad(g)(x)[0], lambda p: p),
    "vjp": (lambda g: lambda x: ln.vjp(g, x)[1](1.0)[0], Polynomial.deriv),
    "jvp": (lambda g: lambda x: ln.jvp(g, (x,), (1.0,))[1], Polynomial.deriv),
    "linearize": (lambda g: lambda x: ln.linearize(g, x)[1](1.0), Polynomial.deriv),
    "jacfwd": (ln.jacfwd, Polynomial.deriv),
    "jacrev": (ln.jacrev, Polynomial.deriv),
    "hessian": (ln.hessian, lambda p: p.deriv().deriv()),
    "hvp": (lambda g: lambda x: ln.hvp(g, (x,), (1.0,)), lambda p: p.deriv().deriv()),
    "checkpoint": (ln.checkpoint, lambda p: p),
    "custom": (by_custom_rule, lambda p: p),
    "vmap": (
        lambda g: lambda x: ln.sum(ln.vmap(g)(x * np.asarray([1.0, 2.0]))),
        lambda p: p + p(2 * X),
    ),
    "vmap unmapped": (
        lambda g: (
            lambda x: ln.sum(
                ln.vmap(lambda y, c: g(y) * c, in_axes=(None, 0))(x, np.asarray([1.0, 2.0]))
            )
        ),
        lambda p: 3 * p,
    ),
    "grad of closure": (
        lambda g: lambda x: ln.grad(lambda y: g(y) * x)(x),
        lambda p: p.deriv() * X,
    ),
    "jvp of closure": (
        lambda g: lambda x: ln.jvp(lambda y: g(y) * x, (x,), (x,))[1],
        lambda p: p.deriv() * X * X,
    ),
    "checkpointed closure": (by_closure_under_checkpoint, lambda p: p * X),
}
DEEP = [
    "grad",
    "jvp",
    "jacfwd",
    "jacrev",
    "hvp",
    "checkpoint",
    "custom",
    "vmap",
    "grad of closure",
    "checkpointed closure",
]
CHAINS = [
    *itertools.product(SCALAR, repeat=1),
    *itertools.product(SCALAR, repeat=2),
    *itertools.product(DEEP, repeat=3),
]


@pytest.mark.parametrize("first", SCALAR)
def test_nesting_in_every_order(first):
    wrong = []
    for chain in CHAINS:
        if chain[0] != first:
            continue
        g, p = power, POWER
        for name in chain:
            transform, expected = SCALAR[name]
            g, p = transform(g), expected(p)
        got, want = float(g(f64(0.6))), p(0.6)
        if not np.isclose(got, want, rtol=1e-9):
            wrong.append((chain, got, want))
    assert not wrong


# Nesting on vectors, against finite differences --------------------------------------------------

W = np.asarray([0.5, -1.0, 2.0])


def vector(x):
    return ln.sin(x) * ln.sum(x * W) + x * x[::-1]


def vector_rule(g):
    @ln.custom_vjp(linear=True)
    def same(x, scale):
        y = g(x) * scale
        dz = yield y, ln.sum(x)
        back = ln.vjp(g, x)[1](dz[0] * scale)[0]
        return back + dz[1], lambda: ln.sum(dz[0] * g(x))

    def call(x):
        y, total = same(x, x[0])
        return y * total

    return call


VECTOR = {
    "grad": lambda g: ln.grad(lambda x: ln.sum(g(x) * W)),
    "jvp": lambda g: lambda x: ln.jvp(g, (x,), (x * W,))[1],
    "jacfwd": lambda g: lambda x: ln.matmul(ln.jacfwd(g)(x), W),
    "jacrev": lambda g: lambda x: ln.matmul(W, ln.jacrev(g)(x)),
    "hessian": lambda g: lambda x: ln.matmul(ln.hessian(lambda y: ln.sum(g(y)))(x), W),
    "vmap": lambda g: lambda x: ln.sum(ln.vmap(g)(x * W[:, None]), axis=0),
    "vmap of closure": lambda g: lambda x: ln.sum(ln.vmap(lambda c: g(c * x))(W), axis=0),
    "vmap, moved axes": lambda g: (
        lambda x: ln.sum(ln.vmap(g, in_axes=1, out_axes=-1)(x[:, None] * W), axis=1)
    ),
    "checkpoint": ln.checkpoint,
    "checkpointed closure": lambda g: lambda x: ln.checkpoint(lambda y: g(y * x))(x * W),
    "custom": vector_rule,
    "vmap of grad": lambda g: (
        lambda x: ln.sum(
            ln.vmap(ln.grad(lambda y, c: ln.sum(g(y)) * c), in_axes=(None, 0))(x, x), axis=0
        )
    ),
    "pullback under vmap": lambda g: (
        lambda x: ln.sum(ln.vmap(ln.vjp(g, x)[1])(x * W[:, None])[0], axis=0)
    ),
    "pullback twice": lambda g: lambda x: pulled_twice(g, x),
}


def pulled_twice(g, x):
    _, pullback = ln.vjp(g, x)
    return pullback(x)[0] + pullback(W * x)[0]


@pytest.mark.parametrize("outer", VECTOR)
def test_nesting_on_vectors(outer):
    x = np.asarray([0.3, 0.7, -0.4])
    for inner in VECTOR:
        f = VECTOR[outer](VECTOR[inner](vector))
        f.__name__ = f"{outer} of {inner}"
        check_grads(f, (x,), order=1, rtol=1e-5)


def test_third_order_through_everything():
    def f(x):
        y = ln.checkpoint(lambda v: ln.sum(ln.vmap(lambda c: ln.sin(c * v))(W)))(x)
        return y * x

    d3 = ln.grad(ln.grad(ln.grad(f)))(f64(0.4))
    # x Σ sin(cx): the third derivative is Σ -3c² sin(cx) - x c³ cos(cx)
    assert np.isclose(float(d3), np.sum(-3 * W**2 * np.sin(0.4 * W) - 0.4 * W**3 * np.cos(0.4 * W)))


# Perturbation confusion --------------------------------------------------------------------------


FIRST_DERIVATIVES = [ln.grad, ln.jacfwd, lambda f: lambda x: ln.jvp(f, (x,), (1.0,))[1]]


@pytest.mark.parametrize(("d", "e"), list(itertools.product(FIRST_DERIVATIVES, repeat=2)))
def test_classic_perturbation_confusion(d, e):
    # d/dx [x · d/dy (x + y)] = 1; a confused implementation says 2
    assert float(d(lambda x: x * e(lambda y: x + y)(1.0))(1.0)) == 1.0
    # d/dx [x · d/dy (x·y)] = 2x
    assert float(d(lambda x: x * e(lambda y: x * y)(5.0))(3.0)) == 6.0
    # the inner point depends on the outer variable: d/dx [d/dy y³ at y = x²] = 12x³
    assert float(d(lambda x: e(lambda y: y * y * y)(x * x))(2.0)) == 96.0
    # the inner function ignores its own variable
    assert float(d(lambda x: e(lambda y: x * x)(x))(2.0)) == 0.0


def test_three_levels_stay_apart():
    def f(x):
        return ln.grad(lambda y: ln.grad(lambda z: x * y * y * z * z * z)(x) * y)(x)

    # d/dz = 3xy²z² at z=x: 3x³y² as far as y sees it; times y: 3x³y³; d/dy at y=x: 9x³·x² = 9x⁵
    assert np.isclose(float(f(f64(2.0))), 9 * 32)
    assert np.isclose(float(ln.grad(f)(f64(2.0))), 45 * 16)


def test_closure_over_an_older_prompt_in_inner_results():
    def f(x):
        seen = []
        ln.grad(lambda y: (seen.append(y * 1.0), y * x)[1])(x)
        return x * x

    assert float(ln.grad(f)(3.0)) == 6.0


def test_pullback_of_an_outer_function_called_inside_an_inner_one():
    _, pullback = ln.vjp(lambda x: x * x, f64(3.0))
    g = ln.grad(lambda ct: pullback(ct)[0] * ct)
    assert float(g(f64(2.0))) == 24.0  # d/dc 6c² = 12c
    _, pullback = ln.vjp(lambda x: x * x, f64(3.0))
    np.testing.assert_allclose(ln.vmap(pullback)(W)[0], 6 * W)
    _, pullback = ln.vjp(ln.vmap(by_custom_rule(lambda x: x * x)), W)
    rows = ln.vmap(pullback)(np.eye(3))[0]
    np.testing.assert_allclose(rows, np.diag(2 * W))
    _, pullback = ln.vjp(ln.vmap(by_custom_rule(lambda x: x * x)), W)
    _, tangent = ln.jvp(lambda ct: pullback(ct)[0], (W,), (W,))
    np.testing.assert_allclose(tangent, 2 * W * W)


def test_pullback_of_an_outer_prompts_program_keeps_its_derivative():
    def f(x):
        _, pullback = ln.vjp(lambda y: ln.sin(y) * x, x * x)
        return pullback(x)[0] + pullback(2.0 * x)[0]  # 3x² cos(x²)

    x = 0.7
    expected = 6 * x * np.cos(x * x) - 6 * x**3 * np.sin(x * x)
    assert np.isclose(float(ln.grad(f)(f64(x))), expected)


# Random programs ---------------------------------------------------------------------------------

UNARY = [ln.sin, ln.exp, lambda x: x * x, lambda x: -x, ln.tanh]
BINARY = [ln.add, ln.multiply, ln.subtract, lambda a, b: a / (b * b + 1.0)]
ROUTES = {
    "plain": lambda g: g,
    "checkpoint": ln.checkpoint,
    "custom": lambda g: by_rule_of_two(g),
    "inner grad": lambda g: lambda a, b: ln.grad(lambda c: ln.sum(g(c, b)))(a),
    "inner jvp": lambda g: lambda a, b: ln.jvp(lambda c: g(c, b), (a,), (b,))[1],
    "vmap": lambda g: ln.vmap(g),
    "vmap of one": lambda g: ln.vmap(g, in_axes=(None, 0)),
}


def by_rule_of_two(g):
    @ln.custom_vjp(linear=True)
    def same(a, b):
        dz = yield g(a, b)
        return ln.vjp(g, a, b)[1](dz)

    return same


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_random_programs_of_transformations(data):
    """Programs that pass through nested transformations agree with finite differences."""

    def block(depth):
        steps = [
            (
                data.draw(st.sampled_from(UNARY)),
                data.draw(st.sampled_from(BINARY)),
                data.draw(st.sampled_from(sorted(ROUTES))),
                block(depth - 1) if depth else None,
            )
            for _ in range(data.draw(st.integers(1, 2)))
        ]

        def run(a, b):
            for unary, binary, route, inner in steps:
                if inner is None:
                    a, b = b, binary(0.5 * unary(a), b)
                elif route.startswith("vmap"):
                    wide = ROUTES[route](inner)(
                        a if "one" in route else ln.stack([a, b]), ln.stack([b, 0.5 * a])
                    )
                    a, b = b, ln.tanh(ln.sum(wide, axis=0))
                else:
                    a, b = b, ln.tanh(ROUTES[route](inner)(a, b))
            return b

        return run

    program = block(2)
    check_grads(program, (np.asarray([0.3, -0.6]), np.asarray([0.8, 0.2])), order=1, rtol=1e-5)
