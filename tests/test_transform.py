"""grad, vjp, jvp and what is made of them: pytrees, arguments, errors."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections import namedtuple

import numpy as np
import pytest

import lantern as ln
from lantern.errors import DifferentiationError, DTypeError, ShapeError
from lantern.testing import check_grads

f64 = np.float64
W = np.asarray([0.5, -1.0, 2.0])


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
