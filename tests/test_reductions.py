"""Reductions and running reductions against NumPy, finite differences, loops and PyTorch."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lantern as ln
from lantern.errors import IndexRangeError, ShapeError
from lantern.testing import check_grads

RNG = np.random.default_rng(7)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

VALUES = {
    "sum": np.sum,
    "prod": np.prod,
    "mean": np.mean,
    "var": np.var,
    "std": np.std,
    "max": np.max,
    "min": np.min,
    "any": np.any,
    "all": np.all,
    "count_nonzero": np.count_nonzero,
}
SMOOTH = ("sum", "prod", "mean", "var", "std", "max", "min")


def array(x: Any) -> np.ndarray[Any, Any]:
    return np.asarray(x)


def loop(f: Any, xs: Any) -> np.ndarray[Any, Any]:
    return np.stack([array(f(ln.asarray(x))) for x in xs])


def weighed(f: Any) -> Any:
    """A scalar of all that ``f`` returns, with different weights and curvature."""

    def scalar(x: Any) -> Any:
        y = ln.reshape(f(x), (-1,))
        weights = np.linspace(0.5, 1.5, y.shape[0])
        return ln.sum(y * y * ln.asarray(weights))

    return scalar


@st.composite
def reductions(draw: Any) -> tuple[tuple[int, ...], Any, bool]:
    shape = tuple(draw(st.lists(st.integers(1, 3), max_size=3)))
    n = len(shape)
    some = st.lists(st.integers(0, n - 1), unique=True, max_size=n) if n else st.just([])
    one = [st.integers(-n, n - 1)] if n else []
    signed = some.map(lambda axes: tuple(a - n if a % 2 else a for a in axes))
    return shape, draw(st.one_of(st.none(), signed, *one)), draw(st.booleans())


@pytest.mark.parametrize("name", VALUES)
@given(case=reductions(), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_values_agree_with_numpy(name: str, case: Any, seed: int) -> None:
    shape, axis, keepdims = case
    x = np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float64)
    found = getattr(ln, name)(ln.asarray(x), axis=axis, keepdims=keepdims)
    expected = VALUES[name](x, axis=axis, keepdims=keepdims)
    assert found.shape == np.shape(expected)
    np.testing.assert_allclose(array(found), expected, atol=1e-15)


@pytest.mark.parametrize("name", ["argmax", "argmin"])
@pytest.mark.parametrize("axis", [None, 0, -1])
@pytest.mark.parametrize("keepdims", [False, True])
def test_argmax_agrees_with_numpy(name: str, axis: Any, keepdims: bool) -> None:
    x = RNG.integers(0, 3, (3, 4))
    found = getattr(ln, name)(ln.asarray(x), axis=axis, keepdims=keepdims)
    np.testing.assert_array_equal(array(found), getattr(np, name)(x, axis=axis, keepdims=keepdims))
    assert found.dtype == np.int64
    batch = RNG.integers(0, 3, (2, 3, 4))
    f = lambda a: getattr(ln, name)(a, axis=axis, keepdims=keepdims)  # noqa: E731
    np.testing.assert_array_equal(array(ln.vmap(f)(ln.asarray(batch))), loop(f, batch))


# Derivatives ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2), ()])
def test_derivatives(name: str, axis: Any) -> None:
    if name in ("var", "std") and axis == ():
        pytest.skip("one element has no spread")
    x = RNG.permutation(24).reshape(2, 3, 4) / 10 - 1.05
    for keepdims in (False, True):
        check_grads(lambda a, k=keepdims: getattr(ln, name)(a, axis=axis, keepdims=k), (x,))
    check_grads(getattr(ln, name), (0.7,)) if name not in ("var", "std") else None


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("axis", [None, 1, (0, -1)])
def test_batches(name: str, axis: Any) -> None:
    batch = RNG.standard_normal((3, 2, 3, 2))
    f = lambda a: getattr(ln, name)(a, axis=axis)  # noqa: E731
    np.testing.assert_allclose(array(ln.vmap(f)(ln.asarray(batch))), loop(f, batch))
    g = ln.grad(weighed(f))
    np.testing.assert_allclose(array(ln.vmap(g)(ln.asarray(batch))), loop(g, batch), atol=1e-12)
    summed = ln.grad(lambda b: ln.sum(ln.vmap(weighed(f))(b)))
    np.testing.assert_allclose(array(summed(ln.asarray(batch))), loop(g, batch), atol=1e-12)


ZEROS = [
    [0.0, 2.0, -3.0],
    [0.0, 2.0, 0.0],
    [0.0, 0.0, 0.0],
    [[0.0, 1.5], [-2.0, 0.5], [0.0, 0.0]],
    [2.0],
    [0.0],
]


@pytest.mark.parametrize("x", ZEROS)
def test_products_of_zeros(x: Any) -> None:
    check_grads(ln.prod, (np.asarray(x),))
    check_grads(lambda a: ln.prod(a, axis=0), (np.asarray(x),))
    check_grads(lambda a: ln.cumulative_prod(a, axis=-1), (np.asarray(x),))


def test_third_derivative_of_a_product_with_zeros() -> None:
    # d³(xyz)/dx dy dz = 1 wherever x, y and z are
    e = [ln.asarray(row) for row in np.eye(3)]
    f = ln.prod
    for v in e:
        f = lambda x, f=f, v=v: ln.jvp(f, (x,), (v,))[1]  # noqa: E731
    assert float(f(ln.asarray(np.zeros(3)))) == 1.0


@pytest.mark.parametrize("name", ["cumulative_sum", "cumulative_prod"])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("include_initial", [False, True])
def test_running(name: str, axis: int, include_initial: bool) -> None:
    f = lambda a: getattr(ln, name)(a, axis=axis, include_initial=include_initial)  # noqa: E731
    x = RNG.standard_normal((3, 4, 2))
    expected = getattr(np, name)(x, axis=axis, include_initial=include_initial)
    np.testing.assert_allclose(array(f(ln.asarray(x))), expected)
    check_grads(f, (x,))
    batch = RNG.standard_normal((2, 3, 4))
    np.testing.assert_allclose(array(ln.vmap(f)(ln.asarray(x))), loop(f, x)) if axis < 1 else None
    g = ln.grad(weighed(f))
    if axis == -1:
        np.testing.assert_allclose(array(ln.vmap(g)(ln.asarray(batch))), loop(g, batch), atol=1e-10)


def test_recurrence_is_batched_and_differentiable() -> None:
    from lantern.primitives.reductions import recurrence

    a, b = RNG.standard_normal((2, 4, 3))
    for reverse in (False, True):
        f = lambda a, b, r=reverse: recurrence(a, b, axis=0, reverse=r)  # noqa: E731
        check_grads(f, (a, b))
        check_grads(f, (a[:, :1], b[:, :1]))  # one row runs on Python floats
        check_grads(lambda b, f=f: ln.vmap(lambda col: f(a[:, 0], col))(b), (b.T.copy(),))
        rows = array(f(ln.asarray(a), ln.asarray(b)))
        s, order = np.zeros(3), range(4)[::-1] if reverse else range(4)
        for k in order:
            s = a[k] * s + b[k]
            np.testing.assert_allclose(rows[k], s)


def test_long_running_product() -> None:
    x = 1 + RNG.standard_normal(20_000) * 1e-3
    g = array(ln.grad(lambda a: ln.cumulative_prod(a)[-1])(ln.asarray(x)))
    np.testing.assert_allclose(g, np.prod(x) / x, rtol=1e-9)


@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_diff(axis: int, n: int) -> None:
    x = RNG.standard_normal((3, 4))
    f = lambda a: ln.diff(a, axis=axis, n=n)  # noqa: E731
    np.testing.assert_allclose(array(f(ln.asarray(x))), np.diff(x, axis=axis, n=n))
    if n < 3:
        check_grads(lambda a: ln.diff(a, axis=axis, n=n, prepend=0.0, append=a), (x,))
    np.testing.assert_array_equal(array(ln.diff(ln.asarray([True, False, False]))), [True, False])


# Conventions ------------------------------------------------------------------------------------


def test_ties_share_equally() -> None:
    x = ln.asarray([[1.0, 5.0, 5.0], [5.0, 5.0, 0.0]])
    np.testing.assert_array_equal(array(ln.grad(ln.max)(x)), [[0, 0.25, 0.25], [0.25, 0.25, 0]])
    per_row = ln.grad(lambda a: ln.sum(ln.max(a, axis=1)))(x)
    np.testing.assert_array_equal(array(per_row), [[0, 0.5, 0.5], [0.5, 0.5, 0]])
    np.testing.assert_array_equal(array(ln.grad(ln.min)(ln.asarray([2.0, 2.0]))), [0.5, 0.5])
    many = ln.asarray(np.ones(70_000, np.float16))  # more than float16 can count
    np.testing.assert_allclose(array(ln.grad(ln.max)(many)), 1 / 70_000, rtol=0.01)


def test_nan_takes_the_derivative_of_the_maximum_it_became() -> None:
    x = ln.asarray([1.0, math.nan, 3.0])
    assert math.isnan(float(ln.max(x))) and math.isnan(float(ln.min(x)))
    np.testing.assert_array_equal(array(ln.grad(ln.max)(x)), [0, 1, 0])
    np.testing.assert_array_equal(array(ln.grad(ln.min)(x)), [0, 1, 0])


def test_infinities_have_a_maximum() -> None:
    x = ln.asarray([-math.inf, -math.inf])
    np.testing.assert_array_equal(array(ln.grad(ln.max)(x)), [0.5, 0.5])


def test_no_spread_has_derivative_zero() -> None:
    x = ln.asarray([[2.0, 2.0], [1.0, 3.0]])
    f = lambda a: ln.sum(ln.std(a, axis=1))  # noqa: E731
    np.testing.assert_allclose(array(ln.grad(f)(x)), [[0, 0], [-0.5, 0.5]])
    h = ln.grad(lambda a: ln.sum(ln.grad(f)(a) * ln.asarray([[1.0, 2.0], [0.0, 0.0]])))(x)
    np.testing.assert_array_equal(array(h), np.zeros((2, 2)))
    y, dy = ln.jvp(f, (x,), (x,))
    assert (float(y), float(dy)) == (1.0, 1.0)


def test_nothing_to_reduce() -> None:
    x = ln.asarray(np.zeros((0, 3)))
    assert float(ln.sum(x)) == 0.0 and float(ln.prod(x)) == 1.0
    assert array(ln.mean(x, axis=0)).tolist() == pytest.approx([math.nan] * 3, nan_ok=True)
    assert math.isnan(float(ln.var(x))) and math.isnan(float(ln.std(x)))
    assert not bool(ln.any(x)) and bool(ln.all(x)) and int(ln.count_nonzero(x)) == 0
    for f in (ln.sum, ln.prod, ln.mean, ln.var, ln.std):
        assert ln.grad(f)(x).shape == (0, 3)
    for f in (ln.cumulative_sum, ln.cumulative_prod):
        assert ln.grad(lambda a, f=f: ln.sum(f(a, axis=0)))(x).shape == (0, 3)
        assert f(x, axis=0, include_initial=True).shape == (1, 3)
    assert ln.max(x, axis=1).shape == (0,)
    for f in (ln.max, ln.min, ln.argmax, ln.argmin):
        with pytest.raises(ShapeError):
            f(x)


@pytest.mark.parametrize("correction", [0, 1, 0.5, 2, 3])
def test_correction(correction: float) -> None:
    x = np.asarray([[1.0, 4.0], [2.0, 2.5]])
    for name in ("var", "std"):
        f = lambda a, n=name: getattr(ln, n)(a, axis=1, correction=correction)  # noqa: E731
        if correction >= 2:
            assert np.isnan(array(f(ln.asarray(x)))).all()
        else:
            expected = getattr(np, name)(x, axis=1, ddof=correction)
            np.testing.assert_allclose(array(f(ln.asarray(x))), expected)
            check_grads(f, (x,))


# Dtypes -----------------------------------------------------------------------------------------

WIDENED = {
    **{f"int{n}": "int64" for n in (8, 16, 32, 64)},
    **{f"uint{n}": "uint64" for n in (8, 16, 32, 64)},
    "bool": "int64",
    "float32": "float32",
    "float64": "float64",
    "float16": "float16",
    "bfloat16": "bfloat16",
}


@pytest.mark.parametrize("name", WIDENED)
def test_dtypes(name: str) -> None:
    x = ln.asarray(np.ones((2, 3), getattr(ln, name)))
    for f in (ln.sum, ln.prod):
        assert f(x).dtype == getattr(ln, WIDENED[name])
        assert f(x, axis=0).dtype == getattr(ln, WIDENED[name])
        assert f(x, dtype=ln.float64).dtype == np.float64
    for f in (ln.cumulative_sum, ln.cumulative_prod):
        assert f(x, axis=1).dtype == getattr(ln, WIDENED[name])
        assert f(x, axis=1, dtype=ln.float32, include_initial=True).dtype == np.float32
    floating = ln.float32 if x.dtype.kind in "biu" else x.dtype
    for f in (ln.mean, ln.var, ln.std):
        assert f(x).dtype == floating and f(x, axis=0, keepdims=True).dtype == floating
    assert ln.max(x).dtype == x.dtype and ln.min(x, axis=1).dtype == x.dtype
    assert ln.any(x, axis=0).dtype == np.bool_ and ln.all(x).dtype == np.bool_
    assert ln.count_nonzero(x).dtype == np.int64


@pytest.mark.parametrize("dtype", [np.dtype("float16"), BFLOAT16])
def test_short_floats_accumulate_in_float32(dtype: Any) -> None:
    x = ln.asarray(np.full(5000, 0.1, dtype))
    exact = 5000 * float(dtype.type(0.1))
    assert float(ln.sum(x)) == pytest.approx(exact, rel=0.01)
    assert float(ln.cumulative_sum(x)[-1]) == pytest.approx(exact, rel=0.01)
    assert float(ln.mean(ln.asarray(np.full(5000, 1000, dtype)))) == 1000.0  # the sum overflows
    assert float(ln.std(ln.asarray(np.asarray([0, 600] * 99, dtype)))) == 300.0
    for f in (ln.sum, ln.mean, ln.std, ln.prod, ln.max, lambda a: ln.cumulative_prod(a)[-1]):
        g = ln.grad(f)(ln.asarray(np.asarray([0.5, 1.5], dtype)))
        assert g.dtype == dtype and np.isfinite(array(g).astype(np.float64)).all()


def test_dtype_is_differentiable() -> None:
    x = ln.asarray(np.asarray([1.0, 2.0], np.float32))
    g = ln.grad(lambda a: ln.sum(a * a, dtype=ln.float64))(x)
    assert g.dtype == np.float32 and g.tolist() == [2.0, 4.0]


def test_integers_have_no_derivative_but_do_not_stop_one() -> None:
    def f(x: Any) -> Any:
        n = ln.count_nonzero(x) + ln.argmax(x) + ln.sum(ln.asarray([1, 2]))
        return ln.sum(x) * n

    assert ln.grad(f)(ln.asarray([1.0, 0.0, 2.0])).tolist() == [7.0, 7.0, 7.0]


# Errors -----------------------------------------------------------------------------------------


def test_errors_name_the_axis_and_the_line() -> None:
    x = ln.asarray(np.zeros((2, 3)))
    with pytest.raises(IndexRangeError, match=r"sum: axis 2 of an array of 2 axes(.|\n)*test_red"):
        ln.sum(x, axis=2)
    with pytest.raises(ShapeError, match="name one axis twice"):
        ln.sum(x, axis=(0, -2))
    with pytest.raises(ShapeError, match=r"cumulative_sum: float64\[2, 3\] does not have"):
        ln.cumulative_sum(x)
    with pytest.raises(ShapeError, match="cumulative_prod"):
        ln.cumulative_prod(ln.asarray(1.0))
    with pytest.raises(ShapeError, match="n=-1"):
        ln.diff(x, n=-1)
    with pytest.raises(IndexRangeError, match="no axis at all"):
        ln.argmax(ln.asarray(1.0), axis=0)


# Other implementations --------------------------------------------------------------------------


@pytest.mark.peer
@pytest.mark.parametrize("name", ["prod", "cumprod", "amax", "amin", "std", "var", "logcumsum"])
def test_first_and_second_derivatives_agree_with_torch(name: str) -> None:
    torch = pytest.importorskip("torch")
    x = RNG.integers(-2, 3, (4, 3)).astype(np.float64)
    if name in ("std", "var"):
        x += RNG.standard_normal((4, 3))
    u, v = RNG.standard_normal((2, 4, 3))
    pairs: dict[str, tuple[Any, Any]] = {
        "prod": (lambda a: ln.prod(a, axis=0), lambda a: torch.prod(a, 0)),
        "cumprod": (lambda a: ln.cumulative_prod(a, axis=0), lambda a: torch.cumprod(a, 0)),
        "amax": (lambda a: ln.max(a, axis=0), lambda a: torch.amax(a, 0)),
        "amin": (lambda a: ln.min(a), lambda a: torch.amin(a)),
        "std": (lambda a: ln.std(a, axis=1), lambda a: torch.std(a, 1, correction=0)),
        "var": (lambda a: ln.var(a, axis=0, correction=1), lambda a: torch.var(a, 0)),
        "logcumsum": (
            lambda a: ln.log(1 + ln.cumulative_sum(a * a, axis=1)),
            lambda a: torch.log(1 + torch.cumsum(a * a, 1)),
        ),
    }
    ours, theirs = pairs[name]

    def loss(a: Any) -> Any:
        y = ours(a)
        return ln.sum(ln.sin(y) * ln.asarray(u[: y.shape[0]] if y.ndim == 2 else u[0, 0]))

    g = ln.grad(loss)(ln.asarray(x))
    h = ln.grad(lambda a: ln.sum(ln.grad(loss)(a) * ln.asarray(v)))(ln.asarray(x))
    t = torch.tensor(x, requires_grad=True)
    y = theirs(t)
    value = (torch.sin(y) * (torch.tensor(u) if y.ndim == 2 else u[0, 0])).sum()
    (tg,) = torch.autograd.grad(value, t, create_graph=True)
    (th,) = torch.autograd.grad((tg * torch.tensor(v)).sum(), t)
    np.testing.assert_allclose(array(g), tg.detach().numpy(), atol=1e-12)
    np.testing.assert_allclose(array(h), th.numpy(), atol=1e-11)


@pytest.mark.parametrize("axis", [0.5, "a", (0, None)])
def test_an_axis_is_an_integer(axis: object) -> None:
    with pytest.raises(TypeError, match=r"sum: axis .*; expected an integer\n  at "):
        ln.sum(ln.ones((2, 2)), axis=axis)
