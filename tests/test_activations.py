"""Activations, softmax and its kin: values, derivatives of two orders, edge values, batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lantern as ln
from lantern.testing import check_grads


def gelu_tanh(x: Any) -> Any:
    return ln.gelu(x, approximate="tanh")


SMOOTH: dict[str, Callable[..., Any]] = {
    "sigmoid": ln.sigmoid,
    "log_sigmoid": ln.log_sigmoid,
    "softplus": ln.softplus,
    "silu": ln.silu,
    "gelu": ln.gelu,
    "gelu_tanh": gelu_tanh,
}
KINKED: dict[str, Callable[..., Any]] = {"relu": ln.relu, "leaky_relu": ln.leaky_relu}
ALONG: dict[str, Callable[..., Any]] = {
    "softmax": ln.softmax,
    "log_softmax": ln.log_softmax,
    "logsumexp": ln.logsumexp,
}
# Value, slope and curvature at -1000, 0 and 1000.
EDGES: dict[str, tuple[tuple[float, float, float], ...]] = {
    "sigmoid": ((0.0, 0.5, 1.0), (0.0, 0.25, 0.0), (0.0, 0.0, 0.0)),
    "log_sigmoid": ((-1000.0, -math.log(2), 0.0), (1.0, 0.5, 0.0), (0.0, -0.25, 0.0)),
    "softplus": ((0.0, math.log(2), 1000.0), (0.0, 0.5, 1.0), (0.0, 0.25, 0.0)),
    "silu": ((0.0, 0.0, 1000.0), (0.0, 0.5, 1.0), (0.0, 0.5, 0.0)),
    "gelu": ((0.0, 0.0, 1000.0), (0.0, 0.5, 1.0), (0.0, math.sqrt(2 / math.pi), 0.0)),
    "gelu_tanh": ((0.0, 0.0, 1000.0), (0.0, 0.5, 1.0), (0.0, math.sqrt(2 / math.pi), 0.0)),
    "relu": ((0.0, 0.0, 1000.0), (0.0, 0.0, 1.0), (0.0, 0.0, 0.0)),
}
X = np.random.default_rng(0).standard_normal((2, 3, 4))


@pytest.mark.parametrize("name", SMOOTH)
def test_derivatives(name: str) -> None:
    check_grads(SMOOTH[name], (X[0] * 2,))
    check_grads(SMOOTH[name], (3.0,))


@pytest.mark.parametrize("dtype", [ln.float32, ln.float64], ids=str)
@pytest.mark.parametrize("name", EDGES)
def test_edges(name: str, dtype: Any) -> None:
    f = {**SMOOTH, **KINKED}[name]
    slope = ln.grad(f)
    for k, x in enumerate((-1000.0, 0.0, 1000.0)):
        point = ln.asarray(x, dtype=dtype)
        derivatives = (
            f,
            slope,
            ln.grad(slope),
            lambda x: ln.jvp(slope, (x,), (ln.ones_like(x),))[1],
        )
        for i, g in enumerate(derivatives):
            y = g(point)
            assert y.dtype == dtype
            assert float(y) == pytest.approx(EDGES[name][min(i, 2)][k], rel=1e-6, abs=0.0)


def test_tails_are_accurate() -> None:
    """Not 1 - 1 where the answer is small: in the values and in their derivatives."""
    x = np.float64(-30.0)
    e = math.exp(-30.0)
    assert float(ln.sigmoid(x)) == pytest.approx(e, rel=1e-12)
    assert float(ln.grad(ln.sigmoid)(-x)) == pytest.approx(e, rel=1e-12)
    assert float(ln.softplus(x)) == pytest.approx(e, rel=1e-12)
    assert float(ln.log_sigmoid(-x)) == pytest.approx(-e, rel=1e-12)
    assert float(ln.gelu(np.float64(-9.0))) == pytest.approx(-9 * 0.5 * math.erfc(9 / 2**0.5))
    with pytest.raises(ValueError, match="tanh"):
        ln.gelu(x, approximate="sigmoid")  # type: ignore[arg-type]


def test_kinks() -> None:
    x = ln.asarray([-2.0, 0.0, 3.0, math.nan])
    assert np.array_equal(ln.relu(x), [0.0, 0.0, 3.0, math.nan], equal_nan=True)
    assert ln.grad(lambda x: ln.sum(ln.relu(x)))(x[:3]).tolist() == [0.0, 0.0, 1.0]
    assert ln.grad(lambda x: ln.sum(ln.leaky_relu(x, 0.25)))(x[:3]).tolist() == [0.25, 0.25, 1.0]


@pytest.mark.parametrize("axis", [-1, 0, (0, 2), None])
@pytest.mark.parametrize("name", ALONG)
def test_along_axes(name: str, axis: Any) -> None:
    axes = (0, 1, 2) if axis is None else axis
    total = np.sum(np.exp(X), axis=axes, keepdims=True)
    expected = {"softmax": np.exp(X) / total, "log_softmax": X - np.log(total)}
    if name == "logsumexp":
        kept = ln.logsumexp(X, axis=axis, keepdims=True)
        np.testing.assert_allclose(np.asarray(kept), np.log(total), rtol=1e-14)
        dropped = np.squeeze(np.log(total), axes)
        np.testing.assert_allclose(np.asarray(ln.logsumexp(X, axis=axis)), dropped, rtol=1e-14)
    else:
        found = ALONG[name](X, axis=axis)
        np.testing.assert_allclose(np.asarray(found), expected[name], rtol=1e-13)
    check_grads(lambda x: ALONG[name](x, axis=axis), (X,))


@pytest.mark.parametrize("name", ALONG)
def test_along_axes_at_the_edges(name: str) -> None:
    f = ALONG[name]
    x = ln.asarray([1000.0, -1000.0, 0.0], dtype=ln.float64)
    check = {"softmax": [1.0, 0.0, 0.0], "log_softmax": [0.0, -2000.0, -1000.0]}
    y = f(x, axis=-1)
    assert y.tolist() == check.get(name, 1000.0)

    def first(x: Any) -> Any:
        return ln.grad(lambda x: ln.sum(f(x, axis=-1) * ln.asarray([1.0, 2.0, 3.0])[: y.size]))(x)

    second = ln.jacfwd(first)(x)
    assert np.all(np.isfinite(np.asarray(first(x))))
    assert np.all(np.isfinite(np.asarray(second)))
    masked = ln.asarray([0.0, -math.inf, 0.0], dtype=ln.float64)
    assert ln.grad(lambda x: f(x, axis=-1)[0] if y.ndim else f(x))(masked)[1] == 0.0


def test_logsumexp_of_nothing_and_of_infinities() -> None:
    low, high = ln.full((2,), -math.inf), ln.asarray([math.inf, 0.0])
    assert float(ln.logsumexp(low)) == -math.inf
    assert ln.grad(ln.logsumexp)(low).tolist() == [0.0, 0.0]
    assert float(ln.logsumexp(high)) == math.inf
    assert float(ln.logsumexp(ln.zeros(0))) == -math.inf
    assert ln.softmax(ln.zeros((0, 3))).shape == (0, 3)


@pytest.mark.parametrize("dtype", [ln.float16, ln.bfloat16, ln.float32], ids=str)
@pytest.mark.parametrize("name", [*SMOOTH, *KINKED, *ALONG])
def test_dtypes(name: str, dtype: Any) -> None:
    f = {**SMOOTH, **KINKED, **ALONG}[name]
    x = ln.asarray(X[0], dtype=dtype)
    y, pullback = ln.vjp(f, x)
    assert y.dtype == dtype
    assert pullback(ln.ones_like(y))[0].dtype == dtype
    precise = np.asarray(f(np.asarray(x, np.float64)))
    error = np.abs(np.asarray(y, np.float64) - precise)
    assert np.all(error <= 4 * ln.finfo(dtype).eps * np.maximum(1, np.abs(precise)))
    assert f(ln.asarray([1, 2])).dtype == ln.float32


@pytest.mark.parametrize("name", [*SMOOTH, *KINKED, *ALONG])
def test_vmap(name: str) -> None:
    f = {**SMOOTH, **KINKED, **ALONG}[name]
    found = np.asarray(ln.vmap(f)(X))
    np.testing.assert_allclose(found, np.stack([f(row) for row in X]), rtol=1e-14)

    def summed(x: Any) -> Any:
        return ln.sum(f(x) ** 2)

    expected = np.stack([ln.grad(summed)(row) for row in X])
    np.testing.assert_allclose(np.asarray(ln.vmap(ln.grad(summed))(X)), expected, rtol=1e-13)


def test_an_axis_that_is_not_there() -> None:
    with pytest.raises(ln.errors.IndexRangeError, match="softmax: axis 3"):
        ln.softmax(ln.zeros((2, 2)), axis=3)


@pytest.mark.peer
@pytest.mark.parametrize("name", [*SMOOTH, "relu", "leaky_relu"])
def test_torch_agrees(name: str) -> None:
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    theirs: dict[str, Any] = {
        "log_sigmoid": functional.logsigmoid,
        "gelu_tanh": lambda t: functional.gelu(t, approximate="tanh"),
        "sigmoid": torch.sigmoid,
    }
    t = torch.tensor(X, requires_grad=True)
    y = theirs.get(name) or getattr(functional, name)
    y = y(t)
    (first,) = torch.autograd.grad(y.sum(), t)
    f = {**SMOOTH, **KINKED}[name]
    np.testing.assert_allclose(np.asarray(f(X)), y.detach().numpy(), rtol=1e-12, atol=1e-15)
    slope = ln.grad(lambda x: ln.sum(f(x)))(X)
    np.testing.assert_allclose(np.asarray(slope), first.numpy(), rtol=1e-11, atol=1e-14)
