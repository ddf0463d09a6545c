"""Elementwise functions: values, dtypes, derivatives of two orders, batches, edge values."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lantern as ln
from lantern.testing import check_grads

Interval = tuple[float, float]

# Name, NumPy's name, and an interval of smoothness away from poles and kinks.
UNARY: dict[str, tuple[str, Interval]] = {
    "abs": ("abs", (0.1, 3.0)),
    "acos": ("arccos", (-0.9, 0.9)),
    "acosh": ("arccosh", (1.2, 4.0)),
    "asin": ("arcsin", (-0.9, 0.9)),
    "asinh": ("arcsinh", (-3.0, 3.0)),
    "atan": ("arctan", (-3.0, 3.0)),
    "atanh": ("arctanh", (-0.9, 0.9)),
    "cos": ("cos", (-3.0, 3.0)),
    "cosh": ("cosh", (-2.0, 2.0)),
    "exp": ("exp", (-2.0, 2.0)),
    "exp2": ("exp2", (-2.0, 2.0)),
    "expm1": ("expm1", (-2.0, 2.0)),
    "log": ("log", (0.2, 3.0)),
    "log10": ("log10", (0.2, 3.0)),
    "log1p": ("log1p", (-0.8, 3.0)),
    "log2": ("log2", (0.2, 3.0)),
    "negative": ("negative", (-3.0, 3.0)),
    "positive": ("positive", (-3.0, 3.0)),
    "reciprocal": ("reciprocal", (0.3, 3.0)),
    "sin": ("sin", (-3.0, 3.0)),
    "sinh": ("sinh", (-2.0, 2.0)),
    "sqrt": ("sqrt", (0.2, 3.0)),
    "square": ("square", (-3.0, 3.0)),
    "tan": ("tan", (-1.2, 1.2)),
    "tanh": ("tanh", (-2.0, 2.0)),
}
DISCRETE = {
    "ceil": "ceil", "floor": "floor", "round": "rint", "sign": "sign", "trunc": "trunc",
    "isfinite": "isfinite", "isinf": "isinf", "isnan": "isnan", "signbit": "signbit",
}  # fmt: skip
BINARY: dict[str, tuple[str, Interval, Interval]] = {
    "add": ("add", (-2.0, 2.0), (-2.0, 2.0)),
    "atan2": ("arctan2", (-2.0, 2.0), (0.5, 2.0)),
    "copysign": ("copysign", (0.5, 2.0), (-2.0, -0.5)),
    "divide": ("divide", (-2.0, 2.0), (0.5, 2.0)),
    "hypot": ("hypot", (-2.0, 2.0), (0.5, 2.0)),
    "logaddexp": ("logaddexp", (-2.0, 2.0), (-2.0, 2.0)),
    "maximum": ("maximum", (-2.0, 0.0), (0.1, 2.0)),
    "minimum": ("minimum", (-2.0, 0.0), (0.1, 2.0)),
    "multiply": ("multiply", (-2.0, 2.0), (-2.0, 2.0)),
    "pow": ("power", (0.3, 2.0), (-2.0, 2.0)),
    "remainder": ("remainder", (5.1, 5.9), (1.8, 2.2)),
    "subtract": ("subtract", (-2.0, 2.0), (-2.0, 2.0)),
}
COMPARISONS = ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal")
SPECIAL: dict[str, Interval] = {
    "erf": (-3.0, 3.0), "erfc": (-3.0, 3.0), "lgamma": (0.3, 9.0), "digamma": (0.3, 9.0),
}  # fmt: skip
FLOATS = (ln.float16, ln.bfloat16, ln.float32, ln.float64)


def draw(interval: Interval, shape: tuple[int, ...] = (2, 3), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(*interval, shape)


def function(name: str) -> Callable[..., Any]:
    return getattr(ln, name)


def grad_at(f: Callable[..., Any], *args: float) -> tuple[float, ...]:
    """First derivatives with respect to each argument, as Python floats."""
    values = [ln.asarray(a, dtype=ln.float64) for a in args]
    with np.errstate(all="ignore"):
        return tuple(float(g) for g in ln.grad(f, tuple(range(len(args))))(*values))


def second_at(f: Callable[..., Any], *args: float) -> list[list[float]]:
    """Second derivatives by reverse over reverse and by forward over reverse, which agree."""
    values = [ln.asarray(a, dtype=ln.float64) for a in args]
    everything = tuple(range(len(args)))
    rows = []
    with np.errstate(all="ignore"):
        for i in everything:
            first = ln.grad(f, i)
            row = [float(g) for g in ln.grad(first, everything)(*values)]
            for j in everything:
                tangents = tuple(ln.asarray(float(k == j), dtype=ln.float64) for k in everything)
                forward = float(ln.jvp(first, tuple(values), tangents)[1])
                assert np.array_equal(forward, row[j], equal_nan=True), (forward, row[j])
            rows.append(row)
    return rows


# Values -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*UNARY, *DISCRETE])
def test_unary_values_are_numpys(name: str) -> None:
    theirs, interval = UNARY[name] if name in UNARY else (DISCRETE[name], (-3.0, 3.0))
    x = draw(interval)
    for shown in (x, x.astype(np.float32), x[0, 0]):
        found = function(name)(ln.asarray(shown))
        expected = np.asarray(getattr(np, theirs)(shown))
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-6)


@pytest.mark.parametrize("name", BINARY)
def test_binary_values_are_numpys(name: str) -> None:
    theirs, left, right = BINARY[name]
    x, y = draw(left), draw(right, (3,), 1)
    np.testing.assert_array_equal(np.asarray(function(name)(x, y)), getattr(np, theirs)(x, y))


@pytest.mark.parametrize("name", COMPARISONS)
def test_comparisons(name: str) -> None:
    x, y = np.asarray([1.0, 2.0, np.nan]), np.asarray([1.0, 3.0, np.nan])
    found = function(name)(x, y)
    assert found.dtype == ln.bool
    np.testing.assert_array_equal(np.asarray(found), getattr(np, name)(x, y))
    ints = ln.asarray([1, 2], dtype=ln.int8)
    expected = getattr(np, name)(np.asarray([1, 2], np.int8), 300)
    np.testing.assert_array_equal(np.asarray(function(name)(ints, 300)), expected)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", [*UNARY, *SPECIAL, "sigmoid"])
def test_unary_functions_keep_the_dtype(name: str, dtype: Any) -> None:
    interval = UNARY[name][1] if name in UNARY else SPECIAL.get(name, (-2.0, 2.0))
    x = ln.asarray(draw(interval), dtype=dtype)
    y, pullback = ln.vjp(function(name), x)
    assert y.dtype == dtype
    assert pullback(ln.ones_like(y))[0].dtype == dtype
    assert ln.jvp(function(name), (x,), (ln.ones_like(x),))[1].dtype == dtype
    precise = function(name)(ln.asarray(np.asarray(x, np.float64)))
    error = np.abs(np.asarray(y, np.float64) - np.asarray(precise))
    assert np.all(error <= 2 * ln.finfo(dtype).eps * np.maximum(np.abs(np.asarray(precise)), 0.1))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", DISCRETE)
def test_discrete_functions_of_every_float(name: str, dtype: Any) -> None:
    x = ln.asarray([-1.5, 0.0, 0.5, math.inf, math.nan], dtype=dtype)
    found, wide = function(name)(x), function(name)(ln.astype(x, ln.float64))
    assert found.dtype in (dtype, ln.bool)
    assert np.array_equal(np.asarray(found, np.float64), wide, equal_nan=True)
    assert function(name)(x[0]).tolist() == found.tolist()[0]
    assert ln.logical_not(x).tolist() == [False, True, False, False, False]
    assert ln.where(x, x, 2.5)[1] == 2.5


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", BINARY)
def test_binary_functions_keep_the_dtype(name: str, dtype: Any) -> None:
    _, left, right = BINARY[name]
    x, y = ln.asarray(draw(left), dtype=dtype), ln.asarray(draw(right, (3,)), dtype=dtype)
    z, pullback = ln.vjp(function(name), x, y)
    assert z.dtype == dtype
    assert [g.dtype for g in pullback(ln.ones_like(z))] == [dtype, dtype]
    assert function(name)(x, right[1]).dtype == dtype  # a Python number is weak
    assert function(name)(left[1] or 1.0, y).dtype == dtype
    assert ln.grad(lambda x: ln.sum(function(name)(x, right[1])))(x).dtype == dtype


def test_integers_become_floats_where_they_must() -> None:
    x = ln.asarray([1, 2])
    assert ln.exp(x).dtype == ln.divide(x, x).dtype == (x / 2).dtype == ln.float32
    assert ln.floor(x).dtype == ln.abs(x).dtype == ln.square(x).dtype == (x // 2).dtype == ln.int64
    assert ln.isnan(x).dtype == ln.signbit(x).dtype == ln.bool


def test_logic_and_bits() -> None:
    a, b = ln.asarray([True, True, False]), ln.asarray([True, False, False])
    assert ln.logical_and(a, b).tolist() == [True, False, False]
    assert ln.logical_or(a, b).tolist() == (a | b).tolist() == [True, True, False]
    assert ln.logical_xor(a, b).tolist() == (a ^ b).tolist() == [False, True, False]
    assert ln.logical_not(a).tolist() == (~a).tolist() == [False, False, True]
    n = ln.asarray([5, -6], dtype=ln.int16)
    assert (n & 3).tolist() == [1, 2]
    assert (n << 2).tolist() == [20, -24]
    assert (n >> 1).tolist() == [2, -3]
    assert (1 << ln.asarray([1, 2])).tolist() == [2, 4]
    assert (~n).dtype == (n & 3).dtype == ln.int16
    with pytest.raises(ln.errors.DTypeError, match="float32"):
        ln.bitwise_and(ln.asarray(1.0), 1)


@pytest.mark.parametrize("x", [5.0, -5.0, 0.0, -0.0, math.inf, -math.inf])
@pytest.mark.parametrize("y", [2.0, -2.0, math.inf, -math.inf])
def test_floor_division_of_infinities(x: float, y: float) -> None:
    with np.errstate(all="ignore"):
        found = float(ln.floor_divide(ln.asarray(x), y))
        expected = float(np.floor(np.float64(x) / y))
    assert np.array_equal(found, expected, equal_nan=True)
    assert math.isnan(found) or math.copysign(1, found) == math.copysign(1, expected)


def test_roots_of_infinity_and_negative_zero() -> None:
    x = ln.asarray([-math.inf, -0.0, 4.0])
    for y in (ln.pow(x, 0.5), x**0.5, ln.pow(x, ln.asarray(0.5)), x ** ln.asarray([0.5] * 3)):
        assert y.tolist() == [math.inf, 0.0, 2.0]
        assert not math.copysign(1, y.tolist()[1]) < 0


def test_integer_powers() -> None:
    x = ln.asarray([2, 3])
    assert (x**3).tolist() == [8, 27]
    assert (2**x).tolist() == [4, 8]
    with pytest.raises(ln.errors.DTypeError, match="astype"):
        x**-1
    assert (ln.asarray([2.0, 4.0]) ** -1).tolist() == [0.5, 0.25]


def test_clip_bounds() -> None:
    x = ln.asarray([-3.0, 0.5, math.nan])
    assert np.array_equal(ln.clip(x, 0, 1), [0.0, 0.5, math.nan], equal_nan=True)
    assert ln.clip(x).tolist()[:2] == [-3.0, 0.5]
    assert ln.clip(x[:2], max=ln.asarray([[-5.0], [0.0]])).shape == (2, 2)
    narrow = ln.clip(ln.asarray([100, -100], dtype=ln.int8), ln.asarray(-7), ln.asarray(7))
    assert narrow.dtype == ln.int8
    assert narrow.tolist() == [7, -7]


# Derivatives --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*UNARY, *SPECIAL])
def test_unary_derivatives(name: str) -> None:
    interval = UNARY[name][1] if name in UNARY else SPECIAL[name]
    check_grads(function(name), (draw(interval, (3,)),))
    check_grads(function(name), (draw(interval, ()),), order=1)


@pytest.mark.parametrize("shapes", [((), ()), ((2, 3), (3,)), ((2, 1), (1, 3)), ((0, 2), (2,))])
@pytest.mark.parametrize("name", BINARY)
def test_binary_derivatives(name: str, shapes: Any) -> None:
    _, left, right = BINARY[name]
    order = 2 if shapes == ((2, 1), (1, 3)) else 1
    x, y = draw(left, shapes[0]), draw(right, shapes[1], 1)
    check_grads(function(name), (x, y), order=order)


@settings(max_examples=25)
@given(st.sampled_from(sorted(UNARY)), st.sampled_from(sorted(UNARY)), st.floats(-2.0, 2.0))
def test_compositions_differentiate(f: str, g: str, x: float) -> None:
    """A bounded inner function, moved into the interval where the outer one is smooth."""
    low, high = UNARY[f][1]

    def h(x: Any) -> Any:
        return function(f)(low + (high - low) * ln.sigmoid(ln.sin(x) * 2.0))

    check_grads(lambda x: h(x) * function(g)(ln.asarray(np.mean(UNARY[g][1]))), (x,), rtol=1e-5)


@pytest.mark.parametrize("name", DISCRETE)
def test_discrete_functions_have_no_derivative(name: str) -> None:
    def f(x: Any) -> Any:
        return ln.sum(x * ln.astype(function(name)(x), ln.float32))

    x = ln.asarray([0.3, -1.6])
    expected = ln.astype(function(name)(x), ln.float32)
    assert ln.grad(f)(x).tolist() == expected.tolist()


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, -1, -2, 0.5, 2.0, 2.5, -0.5])
def test_powers_with_python_exponents(exponent: float) -> None:
    check_grads(lambda x: x**exponent, (draw((0.5, 2.0)),))
    if exponent == int(exponent):
        check_grads(lambda x: x**exponent, (draw((-2.0, -0.5)),))
    check_grads(lambda x: exponent**x, (1.5,)) if exponent > 0 else None


def test_powers_at_zero() -> None:
    assert grad_at(lambda x: x**0, 0.0) == (0.0,)
    assert grad_at(lambda x: x**1, 0.0) == (1.0,)
    assert grad_at(lambda x: x**2, 0.0) == (0.0,)
    assert second_at(lambda x: x**2, 0.0) == [[2.0]]
    assert second_at(lambda x: x**1, 0.0) == [[0.0]]
    assert second_at(lambda x: x**0, 0.0) == [[0.0]]
    assert second_at(lambda x: x**3.0, 0.0) == [[0.0]]
    # The exponent is a variable too.
    assert grad_at(ln.pow, 0.0, 2.0) == (0.0, 0.0)
    assert grad_at(ln.pow, 0.0, 1.0) == (1.0, 0.0)
    assert grad_at(ln.pow, 0.0, 0.0) == (0.0, 0.0)
    assert grad_at(ln.pow, 2.0, 0.0) == (0.0, math.log(2.0))
    assert second_at(ln.pow, 0.0, 2.0)[0][0] == 2.0
    assert second_at(ln.pow, 0.0, 3.0) == [[0.0, 0.0], [0.0, 0.0]]
    (xx, xy), (yx, yy) = second_at(ln.pow, 2.0, 0.0)
    assert (xx, yy) == (0.0, math.log(2.0) ** 2)
    assert xy == yx == 0.5


def test_a_constant_exponent_does_not_poison_negative_bases() -> None:
    for exponent in (3, 3.0, ln.asarray(3.0, dtype=ln.float64)):
        assert grad_at(lambda x, e=exponent: x**e, -2.0) == (12.0,)
        assert second_at(lambda x, e=exponent: x**e, -2.0) == [[-12.0]]
    dx, dy = grad_at(ln.pow, -2.0, 3.0)
    assert dx == 12.0
    assert math.isnan(dy)


def test_ties_share_equally() -> None:
    for f in (ln.maximum, ln.minimum):
        assert grad_at(f, 2.0, 2.0) == (0.5, 0.5)
        assert second_at(f, 2.0, 2.0) == [[0.0, 0.0], [0.0, 0.0]]
        assert grad_at(lambda x, f=f: f(x, x), 2.0) == (1.0,)
    assert grad_at(lambda x: ln.clip(x, 0.0, 1.0), 1.0) == (0.5,)


def test_conventions_at_kinks_and_poles() -> None:
    assert grad_at(ln.abs, 0.0) == (0.0,)
    assert grad_at(ln.sqrt, 0.0) == (math.inf,)
    assert grad_at(ln.hypot, 0.0, 0.0) == (0.0, 0.0)
    assert grad_at(ln.atan2, 0.0, 0.0) == (0.0, 0.0)
    assert second_at(ln.hypot, 0.0, 0.0) == second_at(ln.atan2, 0.0, 0.0) == [[0.0] * 2] * 2
    assert grad_at(ln.hypot, 3e200, 4e200) == pytest.approx((0.6, 0.8))
    assert grad_at(lambda x: ln.copysign(x, -1.0), 2.0) == (-1.0,)


def test_where_hands_on_nothing_to_what_was_not_chosen() -> None:
    f = lambda x: ln.where(x > 0, ln.log(ln.where(x > 0, x, 1.0)), -x)  # noqa: E731
    assert grad_at(f, -1.0) == (-1.0,)
    assert second_at(f, -1.0) == [[0.0]]
    # The adjoint that arrives may be infinite or NaN: it goes to one side only.
    g = lambda x, y: ln.where(x > 0, x, y) * math.inf  # noqa: E731
    assert grad_at(g, 1.0, 1.0) == (math.inf, 0.0)
    check_grads(lambda x, y: ln.where(np.asarray([True, False]), x, y), (draw((0, 1), (3, 1)), 2.0))
    assert ln.where(ln.asarray([0, 3]), 1, 2).tolist() == [2, 1]


@pytest.mark.parametrize("a", [0.0, 1e3, -1e3, math.inf, -math.inf])
@pytest.mark.parametrize("b", [0.0, 1e3, -1e3, math.inf, -math.inf])
def test_logaddexp_at_the_edges(a: float, b: float) -> None:
    dx, dy = grad_at(ln.logaddexp, a, b)
    assert dx == (0.5 if a == b else float(a > b))
    assert dy == 1 - dx
    rows = second_at(ln.logaddexp, a, b)
    expected = 0.25 if a == b and math.isfinite(a) else 0.0
    if not (math.isinf(a) and a == b):
        assert rows == [[expected, -expected], [-expected, expected]]
    assert np.all(np.isfinite(rows))


@pytest.mark.parametrize("name", [*UNARY, *SPECIAL, "sigmoid"])
def test_vmap_of_unary(name: str) -> None:
    interval = UNARY[name][1] if name in UNARY else SPECIAL.get(name, (-1.0, 1.0))
    x = draw(interval, (4, 2))
    expected = np.stack([function(name)(row) for row in x])
    np.testing.assert_allclose(np.asarray(ln.vmap(function(name))(x)), expected, rtol=1e-15)

    def summed(row: Any) -> Any:
        return ln.sum(function(name)(row))

    slopes = np.stack([ln.grad(summed)(row) for row in x])
    np.testing.assert_allclose(np.asarray(ln.vmap(ln.grad(summed))(x)), slopes, rtol=1e-14)
    over = ln.grad(lambda x: ln.sum(ln.vmap(summed)(x)))(ln.asarray(x))
    np.testing.assert_allclose(np.asarray(over), slopes, rtol=1e-14)


@pytest.mark.parametrize("name", [*BINARY, *COMPARISONS, "nextafter", "floor_divide"])
def test_vmap_of_binary(name: str) -> None:
    _, left, right = BINARY.get(name, ("", (-2.0, 2.0), (0.5, 2.0)))
    x, y, z = draw(left, (4, 2, 3)), draw(right, (4, 3), 1), draw(right, (3,), 2)
    f = function(name)
    for axes, other, pick in (((0, 0), y, lambda i: y[i]), ((0, None), z, lambda i: z)):
        found = ln.vmap(f, in_axes=axes)(x, other)
        expected = np.stack([f(x[i], pick(i)) for i in range(4)])
        np.testing.assert_array_equal(np.asarray(found), expected)
    if name in BINARY:

        def summed(x: Any, y: Any) -> Any:
            return ln.sum(f(x, y))

        found = ln.vmap(ln.grad(summed, (0, 1)), in_axes=(0, None))(x, z)
        for k in (0, 1):
            expected = np.stack(
                [ln.grad(summed, k)(ln.asarray(x[i]), ln.asarray(z)) for i in range(4)]
            )
            np.testing.assert_allclose(np.asarray(found[k]), expected, rtol=1e-13, atol=1e-14)


# Special functions --------------------------------------------------------------------------------


def test_special_values_are_scipys() -> None:
    special = pytest.importorskip("scipy.special")
    random = np.random.default_rng(0)
    wide = np.concatenate([random.uniform(-9, 27, 500), 10.0 ** random.uniform(-300, 2, 100)])
    positive = np.abs(wide)
    edges = np.asarray([0.0, math.inf, 1.0, 2.0, 1.4616321449683622, 1e300])
    with np.errstate(all="ignore"):
        for name, theirs, x in (
            ("erf", special.erf, wide),
            ("erfc", special.erfc, wide),
            ("lgamma", special.gammaln, positive),
            ("digamma", special.digamma, positive),
        ):
            points = np.concatenate([x, edges])
            found, expected = np.asarray(function(name)(points)), theirs(points)
            near_zero = 1e-15 if name == "digamma" else 1e-300  # of the argument's own rounding
            # SciPy loses digits far out, where x² is large, and near the zeros of log Γ.
            rtol = 2e-13 if name in ("erfc", "lgamma") else 2e-14
            np.testing.assert_allclose(found, expected, rtol=rtol, atol=near_zero)
        for n in (1, 2, 3, 5):
            found = np.asarray(ln.polygamma(n, ln.asarray(positive[:300] + 1e-3)))
            np.testing.assert_allclose(
                found, special.polygamma(n, positive[:300] + 1e-3), rtol=1e-13
            )
    negative = -random.uniform(0, 9, 200)
    np.testing.assert_allclose(
        np.asarray(ln.lgamma(negative)), special.gammaln(negative), rtol=1e-12, atol=1e-13
    )
    np.testing.assert_allclose(
        np.asarray(ln.digamma(negative)), special.digamma(negative), rtol=1e-11, atol=1e-12
    )


def test_special_values_that_have_closed_forms() -> None:
    n = np.arange(1, 20)
    factorials = np.asarray([math.lgamma(k) for k in n])
    np.testing.assert_allclose(np.asarray(ln.lgamma(n.astype(float))), factorials, rtol=1e-14)
    assert math.isclose(float(ln.polygamma(1, np.float64(1.0))), math.pi**2 / 6, rel_tol=1e-15)
    assert math.isclose(float(ln.polygamma(0, np.float64(2.0))), 1 - 0.5772156649015329)
    for x in (-0.3, -1.7, -2.5):  # the reflections of polygamma against its recurrence
        for k in (1, 2, 3):
            step = (-1) ** k * math.factorial(k) / x ** (k + 1)
            left, right = (float(ln.polygamma(k, np.float64(v))) for v in (x + 1, x))
            assert math.isclose(left, right + step, rel_tol=1e-12, abs_tol=1e-11)
    assert float(ln.lgamma(-2.0)) == float(ln.lgamma(-math.inf)) == math.inf
    assert math.isnan(float(ln.digamma(-1.0)))
    with pytest.raises(ValueError, match="order"):
        ln.polygamma(-1, 1.0)


def test_digamma_differentiates_to_any_order() -> None:
    f = ln.lgamma
    for _ in range(4):
        f = ln.grad(f)
    x = ln.asarray(2.5, dtype=ln.float64)
    assert math.isclose(float(f(x)), float(ln.polygamma(3, x)), rel_tol=1e-14)
    check_grads(ln.lgamma, (draw((-2.9, -2.1)),))


@pytest.mark.peer
@pytest.mark.parametrize("name", [*UNARY, *SPECIAL])
def test_derivatives_are_torchs(name: str) -> None:
    torch = pytest.importorskip("torch")
    interval = UNARY[name][1] if name in UNARY else SPECIAL[name]
    x = draw(interval, (5,))
    t = torch.tensor(x, requires_grad=True)
    (first,) = torch.autograd.grad(getattr(torch, name)(t).sum(), t, create_graph=True)
    (second,) = torch.autograd.grad((first * t).sum(), t)
    slope = ln.grad(lambda x: ln.sum(function(name)(x)))
    # PyTorch's polygamma has nine digits.
    rtol = 1e-8 if name in ("lgamma", "digamma") else 1e-11
    np.testing.assert_allclose(np.asarray(slope(x)), first.detach().numpy(), rtol=rtol)
    curved = ln.grad(lambda x: ln.sum(slope(x) * x))(x)
    np.testing.assert_allclose(np.asarray(curved), second.numpy(), rtol=rtol, atol=1e-12)


@pytest.mark.parametrize("op", [operator.add, operator.mul, operator.truediv])
def test_shapes_that_do_not_broadcast(op: Callable[..., Any]) -> None:
    with pytest.raises(ln.errors.ShapeError, match=r"float32\[2\].*float32\[3\]"):
        op(ln.ones(2), ln.ones(3))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_numbers_in_place_of_what_is_not_finite(dtype: str) -> None:
    x = ln.asarray([math.nan, math.inf, -math.inf, 2.0], dtype=dtype)
    limits = ln.finfo(dtype)
    found = ln.nan_to_num(x)
    assert found.dtype == x.dtype
    np.testing.assert_array_equal(np.asarray(found, np.float64), [0.0, limits.max, limits.min, 2.0])
    np.testing.assert_array_equal(
        np.asarray(ln.nan_to_num(x, nan=1, posinf=3, neginf=-4), np.float64), [1, 3, -4, 2]
    )
    slope = ln.grad(lambda x: ln.sum(ln.nan_to_num(x, posinf=1.0, neginf=1.0) * 3))(x)
    np.testing.assert_array_equal(np.asarray(slope, np.float64), [0, 0, 0, 3])
