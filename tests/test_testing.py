"""`lantern.testing`: check_grads finds wrong derivatives; strategies draw what they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lantern as ln
from lantern.testing import check_grads
from lantern.testing import strategies as lst


def test_right_derivatives_pass_to_third_order():
    def f(x, p):
        return {"y": ln.sin(x) * p["w"][0], "n": 3, "z": (ln.sum(x * x), None)}

    check_grads(f, (np.asarray([0.1, 0.2]), {"w": [2.0], "static": 7}), order=3)


def test_arguments_are_taken_in_float64():
    check_grads(lambda x: ln.exp(x), (np.asarray([1.0, 2.0], np.float32),))
    check_grads(ln.sin, 0.5)


def product(right):
    @ln.custom_vjp(linear=True)
    def faulty(x, y):
        dz = yield x * y
        return dz * y, dz * x * right

    return faulty


@pytest.mark.parametrize(("modes", "name"), [("rev", "reverse mode"), ("fwd", "forward mode")])
def test_message_names_mode_order_numbers_and_argument(modes, name):
    args = ({"a": np.ones((2, 3)), "b": np.full((3,), 2.0)},)
    with pytest.raises(AssertionError) as caught:
        check_grads(lambda p: product(1.01)(p["a"], p["b"]), args, modes=modes)
    text = str(caught.value)
    assert text.startswith(f"check_grads(<lambda>), order 1, {name}: analytic ")
    assert "relative error" in text
    assert "result: float64[2, 3]" in text
    assert "args[0]['a'] float64[2, 3]: agrees" in text
    assert "args[0]['b'] float64[3]: WRONG: analytic" in text
    assert "relative error 0.0099" in text


def test_wrong_second_derivative_is_found_though_the_first_is_right():
    @ln.custom_vjp(linear=True)
    def square(x):
        dz = yield x * x
        return dz * 2.0 * ln.stop_gradient(x)

    check_grads(square, (3.0,), order=1)
    for modes, name in ((("rev",), "reverse mode over reverse mode"), (("fwd",), "forward mode")):
        with pytest.raises(AssertionError, match=f"order 2, .*{name}"):
            check_grads(square, (3.0,), order=2, modes=modes)


def test_derivative_that_is_wrong_in_one_mode_only():
    @ln.custom_vjp(linear=True)
    def rounded(x):
        dz = yield x * 1.0
        return ln.stop_gradient(dz)

    with pytest.raises(AssertionError, match="forward mode"):
        check_grads(rounded, (3.0,), order=1)


def test_derivatives_that_are_not_finite_fail():
    with np.errstate(all="ignore"), pytest.raises(AssertionError, match=r"inf|nan"):
        check_grads(ln.sqrt, (0.0,), order=1)


def test_unknown_mode_and_missing_leaf():
    with pytest.raises(ValueError, match="mode 'backward' is not one of"):
        check_grads(ln.sin, (1.0,), modes=("backward",))
    with pytest.raises(ValueError, match="no floating leaf"):
        check_grads(ln.sin, (1,))


def test_results_in_less_than_float64_are_refused():
    with pytest.raises(ValueError, match=r"result 1 is float32\[\]; .*computed in float64"):
        check_grads(lambda x: (x, ln.astype(x, ln.float32)), (1.0,))


def test_result_without_floating_leaf_has_nothing_to_check():
    check_grads(lambda x: (x > 0.0, "text"), (1.0,))


@settings(max_examples=30)
@given(st.data())
def test_strategies_draw_what_they_say(data):
    shape = data.draw(lst.shapes(min_dims=1, min_side=0))
    dtype = data.draw(lst.dtypes("bool", "integer", "floating", "half"))
    x = data.draw(lst.tensors(shape, dtype))
    assert (x.shape, x.dtype) == (shape, dtype)
    a, b = data.draw(lst.broadcastable_shapes(2))
    np.broadcast_shapes(a, b)
    y = data.draw(lst.tensors(st.just(a), min_value=0.5, max_value=1.0))
    assert y.shape == a
    assert bool(ln.all((y >= 0.5) & (y <= 1.0)))
    z = np.asarray(data.draw(lst.separated(b))).ravel()
    gaps = np.abs(z[:, None] - z[None, :]) + np.eye(len(z))
    assert np.all(gaps >= 0.125)
    assert np.all(np.abs(z) >= 0.125)
    found = data.draw(lst.axes(len(shape), min_size=1, negative=False))
    assert len(set(found)) == len(found) <= len(shape)
    assert all(0 <= axis < len(shape) for axis in found)
    assert -len(shape) <= data.draw(lst.axis(len(shape))) < len(shape)
    np.empty(shape)[data.draw(lst.indices(shape))]
    tree = data.draw(lst.pytrees(lst.tensors((2,), unique=True)))
    for leaf in ln.tree.leaves(tree):
        assert float(leaf[0]) != float(leaf[1])
