"""grad, vjp, jvp and what is made of them: nesting in every order, pytrees, arguments, errors."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections import namedtuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial import Polynomial

import lantern as ln
from lantern.errors import DifferentiationError, DTypeError, ShapeError
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


# Pytrees and arguments ---------------------------------------------------------------------------

Pair = namedtuple("Pair", "left right")


@ln.tree.dataclass
@dataclasses.dataclass
class Layer:
    weight: object
    bias: object
    name: str = dataclasses.field(default="layer", metadata={"static": True})


def test_pytrees_in_and_out():
    params = {
        "layers": [Layer(f64(2.0), None, "a"), Layer(f64(3.0), f64(1.0), "b")],
        "pair": Pair(f64(4.0), (f64(5.0),)),
    }

    def loss(p):
        a, b = p["layers"]
        assert (a.name, b.name, a.bias) == ("a", "b", None)
        return a.weight * b.weight * b.weight + b.bias * p["pair"].left * p["pair"].right[0]

    g = ln.grad(loss)(params)
    assert isinstance(g["pair"], Pair)
    assert isinstance(g["layers"][0], Layer)
    assert (g["layers"][0].name, g["layers"][0].bias) == ("a", None)
    assert [float(v) for v in ln.tree.leaves(g)] == [9.0, 12.0, 20.0, 5.0, 4.0]
    check_grads(loss, (params,))


def test_results_may_be_any_pytree():
    def f(x, y):
        return {"a": (x * y, None), "b": Pair(x, [y])}

    value, pullback = ln.vjp(f, f64(2.0), f64(3.0))
    assert float(value["a"][0]) == 6.0
    ct = {"a": (1.0, None), "b": Pair(10.0, [100.0])}
    assert [float(v) for v in pullback(ct)] == [13.0, 102.0]
    value, tangent = ln.jvp(f, (f64(2.0), f64(3.0)), (1.0, 0.0))
    assert tangent["a"][1] is None
    assert [float(v) for v in ln.tree.leaves(tangent)] == [3.0, 1.0, 0.0]


def test_argnums():
    def f(a, b, c, *, k):
        return a * b * c * k

    args = (f64(2.0), f64(3.0), f64(5.0))
    assert float(ln.grad(f)(*args, k=7.0)) == 105.0
    assert float(ln.grad(f, argnums=-1)(*args, k=7.0)) == 42.0
    both = ln.grad(f, argnums=(2, 0))(*args, k=7.0)
    assert [float(v) for v in both] == [42.0, 105.0]
    assert [float(v) for v in ln.jacfwd(f, argnums=(0, -1))(*args, k=1.0)] == [15.0, 6.0]
    assert [float(v) for v in ln.jacrev(f, argnums=(0, -1))(*args, k=1.0)] == [15.0, 6.0]
    assert float(ln.grad(f, argnums=np.int64(1))(*args, k=7.0)) == 70.0
    for transform in (ln.grad, ln.jacfwd, ln.jacrev, ln.hessian):
        with pytest.raises(DifferentiationError, match=r"argnums 3 .*3 positional"):
            transform(f, argnums=3)(*args, k=1.0)
        with pytest.raises(DifferentiationError, match=r"argnums \(0, -3\) names .* twice"):
            transform(f, argnums=(0, -3))(*args, k=1.0)
        with pytest.raises(TypeError, match=r"argnums is 'a', expected an integer"):
            transform(f, argnums="a")(*args, k=1.0)


def test_a_constant_result_has_derivatives_of_zero():
    for constant in (3.0, np.float32(3.0), np.ones(2)):
        for transform in (ln.jacfwd, ln.jacrev, ln.hessian):
            found = transform(lambda x, c=constant: c)(W)
            axes = (3, 3) if transform is ln.hessian else (3,)
            assert found.shape == (*np.shape(constant), *axes)
            assert not np.any(np.asarray(found))


def test_has_aux():
    def f(x):
        return x * x, {"twice": 2.0 * x, "n": 3, "s": "text", "none": None}

    (value, aux), g = ln.value_and_grad(f, has_aux=True)(f64(3.0))
    assert (float(value), float(g), float(aux["twice"])) == (9.0, 6.0, 6.0)
    assert (aux["n"], aux["s"], aux["none"]) == (3, "text", None)
    assert aux["twice"].prompt is None
    g, aux = ln.grad(f, has_aux=True)(f64(3.0))
    assert float(g) == 6.0
    _, _, aux = ln.vjp(f, f64(3.0), has_aux=True)
    assert aux["twice"].prompt is None
    _, t, aux = ln.jvp(f, (f64(3.0),), (1.0,), has_aux=True)
    assert float(t) == 6.0
    assert aux["twice"].prompt is None
    for jacobian in (ln.jacfwd, ln.jacrev, ln.hessian):
        j, aux = jacobian(f, has_aux=True)(f64(3.0))
        assert float(j) in (2.0, 6.0)
        assert float(aux["twice"]) == 6.0
        assert aux["s"] == "text"
    with pytest.raises(TypeError, match=r"expected \(result, aux\)"):
        ln.grad(lambda x: x, has_aux=True)(1.0)


def test_aux_is_differentiated_by_the_outer_one():
    def outer(x):
        _, aux = ln.grad(lambda y: (y * y, y * x), has_aux=True)(x)
        return aux

    assert float(ln.grad(outer)(f64(3.0))) == 6.0


def test_results_that_do_not_depend_on_the_argument_give_zeros():
    x = ln.asarray(W)
    np.testing.assert_array_equal(ln.grad(lambda x: 1.0)(x), np.zeros(3))
    np.testing.assert_array_equal(ln.grad(lambda x: ln.sum(ln.stop_gradient(x)))(x), np.zeros(3))
    _, pullback = ln.vjp(lambda x: (ln.asarray(W), x), x)
    np.testing.assert_array_equal(pullback((ln.asarray(W), ln.asarray(W)))[0], W)
    y, t = ln.jvp(lambda x: (2.0, ln.asarray(W)), (x,), (x,))
    assert float(t[0]) == 0.0
    np.testing.assert_array_equal(t[1], np.zeros(3))
    assert y[1].shape == (3,)
    for jacobian in (ln.jacfwd, ln.jacrev):
        np.testing.assert_array_equal(jacobian(lambda x: ln.asarray(W))(x), np.zeros((3, 3)))


def test_a_discrete_program_has_zero_derivative():
    g = ln.grad(lambda x: ln.sum(ln.where(x > 0.0, 1.0, -1.0)))(ln.asarray(W))
    np.testing.assert_array_equal(g, np.zeros(3))
    assert g.dtype == np.float64


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_gradients_have_the_dtype_of_their_argument(dtype):
    x = ln.asarray([1.0, 2.0], dtype=getattr(ln, dtype))
    wide = ln.asarray([1.0, 2.0], dtype=ln.float64)
    for f in (lambda x: ln.sum(x * x), lambda x: ln.sum(x * wide), lambda x: ln.sum(x) * 2):
        g = ln.grad(f)(x)
        assert g.dtype == x.dtype
        y, t = ln.jvp(f, (x,), (x,))
        assert t.dtype == y.dtype
        assert ln.vmap(ln.grad(lambda v: v * v))(x).dtype == x.dtype
    assert ln.jacrev(lambda x: x * x)(x).dtype == x.dtype
    assert ln.jacfwd(lambda x: x * x)(x).dtype == x.dtype


def test_python_control_flow_reads_the_primal():
    def collatz(x):
        y, steps = x, 0
        while y.item() > 1.0 and steps < 50:
            y = y / 2.0 if int(y) % 2 == 0 else y * 3.0 + 1.0
            steps += 1
        assert f"{y:.1f}" == f"{y.item():.1f}"
        return y

    assert np.isclose(float(ln.grad(collatz)(f64(6.0))), 3.0**2 / 2.0**6)
    _, tangent = ln.jvp(collatz, (f64(6.0),), (1.0,))
    assert np.isclose(float(tangent), 9 / 64)
    assert bool(ln.grad(lambda x: x if x > 1.0 else -x)(f64(2.0)) == 1.0)


@pytest.mark.parametrize("read", [float, math.sin, lambda x: np.zeros(1).__setitem__(0, x)])
def test_a_number_read_by_accident_is_reported(read):
    def f(x):
        read(x)
        return x * x

    with pytest.warns(ln.errors.DerivativeLostWarning, match=r"x\.item\(\)"):
        assert ln.grad(f)(f64(3.0)).item() == 6.0


def test_nothing_leaves_for_numpy_while_it_is_differentiated():
    for transform in (ln.grad, ln.vmap, ln.checkpoint, lambda f: lambda x: ln.jvp(f, (x,), (x,))):
        for leave in (np.asarray, np.from_dlpack):
            with pytest.raises(DTypeError, match=r"derivative would be lost"):
                transform(lambda x, leave=leave: leave(x * 2.0))(W)
    (y,) = ln.tree.leaves(ln.grad(lambda x: np.float64(ln.sum(x).item()) * ln.sum(x))(W))
    np.testing.assert_allclose(np.from_dlpack(y), np.sum(W))


def test_stop_gradient_under_everything():
    f = lambda x: x * ln.stop_gradient(x * x)  # noqa: E731
    x = f64(3.0)
    assert float(ln.grad(f)(x)) == 9.0
    assert float(ln.jvp(f, (x,), (1.0,))[1]) == 9.0
    assert float(ln.grad(ln.grad(f))(x)) == 0.0
    np.testing.assert_allclose(ln.vmap(ln.grad(f))(W), W * W)
    np.testing.assert_allclose(ln.grad(lambda w: ln.sum(ln.vmap(f)(w)))(W), W * W)
    assert float(ln.grad(ln.checkpoint(f))(x)) == 9.0
    np.testing.assert_allclose(ln.jacfwd(ln.vmap(f))(W), np.diag(W * W))
    tree = ln.stop_gradient({"a": x, "b": (None, "text")})
    assert tree["b"] == (None, "text")


# Errors ------------------------------------------------------------------------------------------


def integer_calls():
    params = {"w": np.ones(2), "ids": np.asarray([1, 2])}
    f = lambda p: ln.sum(p["w"])  # noqa: E731
    return {
        "grad": lambda: ln.grad(f)(params),
        "vjp": lambda: ln.vjp(f, params),
        "jvp": lambda: ln.jvp(f, (params,), (params,)),
        "jacfwd": lambda: ln.jacfwd(f)(params),
        "jacrev": lambda: ln.jacrev(f)(params),
        "hessian": lambda: ln.hessian(f)(params),
        "linearize": lambda: ln.linearize(f, params),
        "under vmap": lambda: ln.vmap(ln.grad(f))(params),
    }


@pytest.mark.parametrize("name", integer_calls())
def test_integer_argument_is_named_by_its_path(name):
    with pytest.raises(DifferentiationError, match=r"\['ids'\].*int64\[") as caught:
        integer_calls()[name]()
    assert "test_transform.py" in str(caught.value)


def test_other_leaves_are_named_by_their_path():
    with pytest.raises(DifferentiationError, match=r"\[0\]\['name'\] is str 'a'"):
        ln.grad(lambda p: p["w"])({"w": 1.0, "name": "a"})
    with pytest.raises(DifferentiationError, match="bool"):
        ln.grad(lambda x: x)(True)


def test_loss_that_is_no_scalar():
    with pytest.raises(ShapeError, match=r"float64\[3\].*ln\.sum or ln\.mean") as caught:
        ln.grad(lambda x: x * 2.0)(W)
    assert "test_loss_that_is_no_scalar" in str(caught.value)
    with pytest.raises(DifferentiationError, match="only floating results"):
        ln.grad(lambda x: ln.argmax(x))(W)
    with pytest.raises(DifferentiationError, match="returned dict"):
        ln.grad(lambda x: {"loss": x})(1.0)


def test_cotangents_and_tangents_are_checked():
    _, pullback = ln.vjp(lambda x: x * 2.0, W)
    with pytest.raises(ShapeError, match=r"cotangent is float64\[2\] for a value float64\[3\]"):
        pullback(np.ones(2))
    with pytest.raises(DifferentiationError, match="float32"):
        pullback(ln.asarray(np.ones(3, np.float32)))
    with pytest.raises(ShapeError, match="cotangent"):
        pullback((W, W))
    np.testing.assert_array_equal(pullback(W)[0], 2 * W)  # the refused calls used nothing up
    with pytest.raises(ShapeError, match="tangent"):
        ln.jvp(lambda x: x, (W,), (np.ones(2),))
    with pytest.raises(ShapeError, match="primals"):
        ln.jvp(lambda x: x, (W,), ({"a": W},))
    with pytest.raises(TypeError, match="tuple"):
        ln.jvp(lambda x: x, W, W)
    with pytest.raises(TypeError, match="tuple"):
        ln.hvp(lambda x: ln.sum(x * x), W, W)


def test_forward_mode_through_a_rule_that_is_not_linear_is_refused():
    @ln.custom_vjp
    def clipped(x):
        dz = yield x
        return ln.clip(dz, -1.0, 1.0)

    assert float(ln.grad(lambda x: 5.0 * clipped(x))(f64(2.0))) == 1.0
    for f in (clipped, ln.vmap(clipped), ln.checkpoint(clipped)):
        with pytest.raises(DifferentiationError, match=r"not declared linear"):
            ln.jvp(f, (W,), (W,))
    np.testing.assert_array_equal(
        ln.vmap(ln.grad(lambda x, c: c * clipped(x)))(W, np.asarray([0.1, 5.0, -5.0])),
        [0.1, 1.0, -1.0],
    )


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


def test_ranges_follow_their_ends():
    for n, endpoint in itertools.product((0, 1, 5), (True, False)):
        line = functools.partial(ln.linspace, num=n, endpoint=endpoint, dtype=ln.float64)
        check_grads(line, (1.2, 3.4), order=1)
        np.testing.assert_allclose(
            ln.jvp(line, (f64(1.2), f64(3.4)), (1.0, 0.0))[0], line(1.2, 3.4)
        )
    check_grads(lambda x, d: ln.arange(x, 4.0, d, dtype=ln.float64), (0.3, 0.7), order=1)
    rows = ln.vmap(lambda x: ln.linspace(x, 2.0, 3))(np.arange(3.0))
    np.testing.assert_allclose(rows, [[0, 1, 2], [1, 1.5, 2], [2, 2, 2]])
