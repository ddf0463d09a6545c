"""Sorting, searching and sets against NumPy, finite differences and loops."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import lantern as ln
from lantern.errors import (
    BatchingError,
    DifferentiationError,
    DTypeError,
    IndexRangeError,
    ShapeError,
)
from lantern.testing import check_grads

RNG = np.random.default_rng(3)
DTYPES = st.sampled_from(
    ["bool", "int8", "uint8", "int64", "uint64", "float16", "float32", "float64"]
)


def array(x: Any) -> np.ndarray[Any, Any]:
    return np.asarray(x)


def arrays(min_dims: int = 1, max_dims: int = 3) -> st.SearchStrategy[np.ndarray[Any, Any]]:
    """Small arrays of every dtype, with many equal elements, infinities and NaNs."""

    def of(dtype: str) -> st.SearchStrategy[np.ndarray[Any, Any]]:
        kind = np.dtype(dtype).kind
        few = st.sampled_from([-np.inf, -1.5, -0.0, 0.0, 2.0, np.inf, np.nan])
        integers = (
            st.sampled_from([0, 1, 2, *([] if kind == "b" else [np.iinfo(dtype).max])])
            if kind in "iu"
            else None
        )
        elements = few if kind == "f" else st.booleans() if kind == "b" else integers
        shapes = hnp.array_shapes(min_dims=min_dims, max_dims=max_dims, min_side=0, max_side=5)
        return hnp.arrays(dtype, shapes, elements=elements)

    return DTYPES.flatmap(of)


def descending(x: np.ndarray[Any, Any], axis: int) -> np.ndarray[Any, Any]:
    """Indices of a stable descending sort with NaNs last, by Python's own sort."""

    def line(row: np.ndarray[Any, Any]) -> list[int]:
        values = row.tolist()
        numbers = sorted(
            (i for i, v in enumerate(values) if v == v), key=values.__getitem__, reverse=True
        )
        return [*numbers, *(i for i, v in enumerate(values) if v != v)]

    return np.apply_along_axis(line, axis, x).astype(np.int64) if x.size else np.zeros(x.shape, int)


@settings(max_examples=150)
@given(arrays(), st.data())
def test_sort_and_argsort(x: np.ndarray[Any, Any], data: st.DataObject) -> None:
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    order = ln.argsort(ln.asarray(x), axis=axis)
    assert order.dtype == ln.int64
    np.testing.assert_array_equal(array(order), np.argsort(x, axis=axis, kind="stable"))
    np.testing.assert_array_equal(array(ln.sort(ln.asarray(x), axis=axis)), np.sort(x, axis=axis))
    order = ln.argsort(ln.asarray(x), axis=axis, descending=True, stable=data.draw(st.booleans()))
    np.testing.assert_array_equal(array(order), descending(x, axis))
    found = ln.sort(ln.asarray(x), axis=axis, descending=True)
    assert found.dtype == x.dtype
    np.testing.assert_array_equal(array(found), np.take_along_axis(x, array(order), axis))


@settings(max_examples=60)
@given(arrays(), st.booleans(), st.data())
def test_topk(x: np.ndarray[Any, Any], largest: bool, data: st.DataObject) -> None:
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    k = data.draw(st.integers(0, x.shape[axis]))
    values, indices = ln.topk(ln.asarray(x), k, axis=axis, largest=largest)
    order = descending(x, axis) if largest else np.argsort(x, axis=axis, kind="stable")
    expected = np.take(order, range(k), axis=axis)
    np.testing.assert_array_equal(array(indices), expected)
    np.testing.assert_array_equal(array(values), np.take_along_axis(x, expected, axis))


def test_bfloat16_is_ordered_with_its_nans() -> None:
    x = np.array([2, np.nan, -1, 2, np.nan, 0], ml_dtypes.bfloat16)
    assert array(ln.argsort(ln.asarray(x))).tolist() == [2, 5, 0, 3, 1, 4]
    assert array(ln.argsort(ln.asarray(x), descending=True)).tolist() == [0, 3, 5, 2, 1, 4]
    found = ln.unique_all(ln.asarray(x))
    assert found.values.dtype == ln.bfloat16
    assert array(found.counts).tolist() == [1, 1, 2, 1, 1]
    assert ln.unique_values(ln.asarray(x)).dtype == ln.bfloat16
    assert array(ln.searchsorted(ln.asarray(x[[2, 5, 0]]), ln.asarray(x[:1]))).tolist() == [2]


@pytest.mark.parametrize(
    "f",
    [
        lambda x: ln.sort(x),
        lambda x: ln.sort(x, axis=0, descending=True),
        lambda x: ln.topk(x, 2).values,
        lambda x: ln.topk(x, 2, axis=0, largest=False).values,
        lambda x: x[ln.argsort(x[:, 0])],
    ],
)
def test_gradients_and_batches(f: Any) -> None:
    g = lambda x: ln.exp(f(x))  # noqa: E731
    check_grads(g, (RNG.standard_normal((3, 4)),))
    xs = RNG.standard_normal((2, 3, 4))
    for h in (f, ln.grad(lambda x: ln.sum(g(x) * f(x)))):
        found = ln.vmap(h)(ln.asarray(xs))
        np.testing.assert_allclose(array(found), np.stack([array(h(ln.asarray(x))) for x in xs]))
    check_grads(lambda xs: ln.sin(ln.vmap(f)(xs)), (xs,), order=1)


def test_equal_elements_keep_their_own_gradient() -> None:
    weights = ln.asarray([1.0, 10.0, 100.0])
    g = ln.grad(lambda x: ln.sum(ln.sort(x) * weights))(ln.asarray([2.0, 1.0, 1.0]))
    assert array(g).tolist() == [100.0, 1.0, 10.0]


@settings(max_examples=100)
@given(arrays(max_dims=1), arrays(min_dims=0), st.sampled_from(["left", "right"]), st.booleans())
def test_searchsorted(x1: Any, x2: Any, side: Any, use_sorter: bool) -> None:
    try:
        dtype = ln.result_type(x1, x2)
    except DTypeError:  # uint64 beside int64
        with pytest.raises(DTypeError):
            ln.searchsorted(x1, x2)
        return
    with np.errstate(over="ignore"):  # large integers may be infinite in float16
        order = np.argsort(x1, kind="stable")
        expected = np.searchsorted(x1[order].astype(dtype), x2.astype(dtype), side)
        if use_sorter:
            found = ln.searchsorted(
                ln.asarray(x1), ln.asarray(x2), side=side, sorter=ln.asarray(order)
            )
        else:
            found = ln.searchsorted(ln.asarray(x1[order]), ln.asarray(x2), side=side)
    assert found.dtype == ln.int64
    assert found.shape == x2.shape
    np.testing.assert_array_equal(array(found), expected)


def test_searchsorted_of_numbers_and_batches() -> None:
    x = ln.asarray([1, 3, 5])
    assert int(ln.searchsorted(x, 3)) == 1
    assert int(ln.searchsorted(x, 3.5, side="right")) == 2
    rows, wanted = np.sort(RNG.standard_normal((2, 4))), RNG.standard_normal((2, 3, 2))
    for axes in ((0, 0), (None, 0), (0, None)):
        a, b = (v if ax == 0 else v[0] for v, ax in zip((rows, wanted), axes, strict=True))
        found = ln.vmap(ln.searchsorted, in_axes=axes)(ln.asarray(a), ln.asarray(b))
        for k in range(2):
            one = np.searchsorted(a if axes[0] is None else a[k], b if axes[1] is None else b[k])
            np.testing.assert_array_equal(array(found[k]), one)


def test_indices_are_constants() -> None:
    def f(x: ln.Tensor) -> ln.Tensor:
        place = ln.searchsorted(ln.sort(x), x)
        order = ln.argsort(x) + ln.topk(x, 3).indices
        return ln.sum(x * (place + order + ln.nonzero(x)[0]))

    x = ln.asarray([0.5, 2.0, 1.0])
    assert array(ln.grad(f)(x)).tolist() == [0 + (0 + 1) + 0, 2 + (2 + 2) + 1, 1 + (1 + 0) + 2]
    assert float(ln.jvp(f, (x,), (x,))[1]) == float(f(x))


@settings(max_examples=100)
@given(arrays(min_dims=0))
def test_unique(x: np.ndarray[Any, Any]) -> None:
    found = ln.unique_all(ln.asarray(x))
    values, indices, inverse, counts = (array(part) for part in found)
    expected = np.unique_all(x)
    np.testing.assert_array_equal(values, expected.values)
    np.testing.assert_array_equal(counts, expected.counts)
    np.testing.assert_array_equal(x.ravel()[indices], values)
    np.testing.assert_array_equal(values[inverse], x)
    assert found.values.dtype == x.dtype
    assert {part.dtype for part in found[1:]} == {ln.int64}
    for again in (
        ln.unique_counts(ln.asarray(x)).values,
        ln.unique_inverse(ln.asarray(x)).values,
        ln.unique_values(ln.asarray(x)),
        ln.unique(ln.asarray(x)),
    ):
        assert again.dtype == x.dtype
        np.testing.assert_array_equal(array(again), values)
    np.testing.assert_array_equal(array(ln.unique_counts(ln.asarray(x)).counts), counts)
    np.testing.assert_array_equal(array(ln.unique_inverse(ln.asarray(x)).inverse_indices), inverse)


@settings(max_examples=60)
@given(arrays(min_dims=0), arrays(min_dims=0), st.booleans())
def test_isin(x1: Any, x2: Any, invert: bool) -> None:
    try:
        dtype = ln.result_type(x1, x2)
    except DTypeError:
        return
    with np.errstate(over="ignore"):  # the largest integers are infinite in float16
        expected = np.isin(x1.astype(dtype), x2.astype(dtype), invert=invert)
        found = ln.isin(x1, x2, invert=invert)
    np.testing.assert_array_equal(array(found), expected)


def test_isin_of_numbers_and_batches() -> None:
    assert bool(ln.isin(3, ln.asarray([[1, 3]])))
    assert array(ln.isin(ln.asarray([1, 2]), 2)).tolist() == [False, True]
    found = ln.vmap(ln.isin)(ln.asarray([[1, 2], [3, 4]]), ln.asarray([[2], [3]]))
    assert array(found).tolist() == [[False, True], [True, False]]


UNIQUE = [ln.unique_all, ln.unique_counts, ln.unique_inverse, ln.unique_values]


@pytest.mark.parametrize("f", UNIQUE)
def test_unique_says_that_it_has_no_derivative(f: Any) -> None:
    x = ln.asarray([1.0, 1.0])
    for use in (
        lambda: ln.grad(lambda x: ln.sum(f(x)[0]))(x),
        lambda: ln.jvp(lambda x: f(x)[0], (x,), (x,)),
    ):
        with pytest.raises(DifferentiationError, match=r"ln\.sort has one; ln\.stop_gradient"):
            use()
    with pytest.raises(BatchingError, match=r"ln\.unique\(\)"):
        ln.vmap(f)(x)
    g = ln.grad(lambda x: ln.sum(x) * ln.unique_values(ln.stop_gradient(x))[0])(x)
    assert array(g).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda x: ln.sort(x, axis=2), IndexRangeError, "sort: axis 2"),
        (lambda x: ln.argsort(x[0, 0]), IndexRangeError, "it is a scalar"),
        (lambda x: ln.topk(x, 5), ShapeError, r"k=5 of float32\[2, 3\] along axis 1, which has 3"),
        (lambda x: ln.topk(x, -1), ShapeError, "k=-1"),
        (lambda x: ln.searchsorted(x, 1.0), ShapeError, r"float32\[2, 3\]; expected one axis"),
        (lambda x: ln.searchsorted(x[0], 1.0, sorter=[0]), ShapeError, r"its sorter int64\[1\]"),
        (lambda x: ln.searchsorted(x[0], 1.0, side="up"), ValueError, "'left' or 'right'"),
    ],
)
def test_wrong_arguments(use: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        use(ln.zeros((2, 3)))
    assert "test_sorting.py" in str(caught.value)
