"""Indexing and functional updates against NumPy, finite differences, loops and PyTorch."""

from __future__ import annotations

import math
import re
import tracemalloc
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import lantern as ln
from lantern.errors import BatchingError, DTypeError, IndexRangeError, NumberRangeError, ShapeError
from lantern.primitives import indexing as p
from lantern.testing import check_grads

RNG = np.random.default_rng(5)
X = RNG.standard_normal((3, 4, 5))
ROWS, COLUMNS = np.array([[0, 2], [2, -1]]), np.array([1, -2])

KEYS: dict[str, Any] = {
    "int": -1,
    "ints": (1, -2, 0),
    "slices": (slice(None, None, -2), 1, slice(-1, 0, -3)),
    "empty": slice(2, 1),
    "none": (None, Ellipsis, slice(1, 3), None),
    "array": ROWS,
    "two": (ROWS, COLUMNS),
    "separated": (COLUMNS, slice(None, None, 2), COLUMNS),
    "behind": (slice(1, 3), ROWS),
    "with_int": (0, slice(None, None, -1), COLUMNS),
    "list": ([0, 0, 1], slice(1, 2)),
    "mask": X > 0.5,
    "mask_axis": (slice(None), np.array([True, False, True, True])),
    "all": (Ellipsis,),
}


def array(x: Any) -> np.ndarray[Any, Any]:
    return np.asarray(x)


@st.composite
def arrays_and_keys(draw: st.DrawFn) -> tuple[np.ndarray[Any, Any], Any]:
    """An array and a key: anything that NumPy knows, in any mixture, not always fitting."""
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    x = np.arange(math.prod(shape), dtype=np.float64).reshape(shape)
    kind = draw(st.sampled_from(["basic", "arrays", "mixture"]))
    if kind == "basic":
        return x, draw(hnp.basic_indices(shape, allow_newaxis=True))
    if kind == "arrays" and x.size and shape:
        return x, draw(hnp.integer_array_indices(shape))
    items: list[Any] = []
    axis, dots = 0, False
    spread = draw(st.sampled_from([(2,), (1,), (), (3, 2)]))
    while axis < len(shape):
        n = shape[axis]
        choice = draw(
            st.sampled_from(["int", "slice", "array", "mask", "none", "dots", "bool", "stop"])
        )
        if choice == "stop":
            break
        if choice == "none":
            items.append(None)
        elif choice == "bool":
            items.append(draw(st.booleans()))
        elif choice == "dots" and not dots:
            items.append(Ellipsis)
            dots = True
            axis += draw(st.integers(0, len(shape) - axis))
        elif choice == "slice":
            items.append(draw(st.slices(n)))
            axis += 1
        elif choice == "mask":
            span = draw(st.integers(1, len(shape) - axis))
            items.append(draw(hnp.arrays(bool, shape[axis : axis + span])))
            axis += span
        elif n and choice == "int":
            items.append(draw(st.integers(-n, n - 1)))
            axis += 1
        elif n and choice == "array":
            shown = draw(st.sampled_from([spread, spread[1:], (1,)]))
            items.append(draw(hnp.arrays(np.int64, shown, elements=st.integers(-n, n - 1))))
            axis += 1
    return x, tuple(items)


@settings(max_examples=400)
@given(arrays_and_keys())
def test_getitem_is_numpys(case: tuple[np.ndarray[Any, Any], Any]) -> None:
    x, key = case
    try:
        expected = x[key]
    except (IndexError, ValueError) as problem:
        with pytest.raises((IndexError, ValueError)):
            ln.asarray(x)[key]
        assert "lantern" not in str(problem)
        return
    found = ln.asarray(x)[key]
    assert found.shape == expected.shape
    np.testing.assert_array_equal(array(found), expected)


@settings(max_examples=150)
@given(arrays_and_keys())
def test_gradient_of_getitem_adds_up_what_repeats(case: tuple[np.ndarray[Any, Any], Any]) -> None:
    x, key = case
    try:
        weights = 1.0 + np.arange(x[key].size).reshape(x[key].shape)
    except (IndexError, ValueError):
        return
    expected = np.zeros(x.shape)
    np.add.at(expected, key, weights)
    found = ln.grad(lambda x: ln.sum(x[key] * weights))(ln.asarray(x))
    np.testing.assert_array_equal(array(found), expected)


def test_tensors_are_indices() -> None:
    x = ln.asarray(X)
    i, mask = ln.asarray([0, -1]), ln.asarray(X > 0)
    np.testing.assert_array_equal(array(x[i, :, i]), X[[0, -1], :, [0, -1]])
    np.testing.assert_array_equal(array(x[ln.asarray(1)]), X[1])
    np.testing.assert_array_equal(array(x[mask]), X[X > 0])
    np.testing.assert_array_equal(array(x[: ln.asarray(2)]), X[:2])
    np.testing.assert_array_equal(array(x[np.uint8(2), [True, False, True, False]]), X[2][[0, 2]])


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.uint64])
def test_any_integer_dtype_indexes(dtype: Any) -> None:
    index = np.array([2, 0], dtype)
    np.testing.assert_array_equal(array(ln.asarray(X)[index]), X[index])


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (3, r"index 3 is out of range for axis 0 of length 3\n  at .*test_indexing"),
        ((0, slice(None), -6), r"index -6 is out of range for axis 2 of length 5"),
        ((0, [1, 4]), r"index 4 is out of range for axis 1 of length 4"),
        ((0, [1, -5]), r"index -5 is out of range for axis 1 of length 4"),
        ((0, 0, 0, 0), r"4 indices for an array of 3 axes, shape \[3, 4, 5\]"),
        ((..., 0, ...), r"more than one Ellipsis"),
        (1.0, r"float 1.0 cannot be an index"),
        ("a", r"str 'a' cannot be an index"),
        ([0, [1]], r"list \[0, \[1\]\] cannot be an index"),
        (np.array([1.0]), r"an array of float64 cannot be an index"),
        (np.ones((3, 3), bool), r"a boolean mask of shape \[3, 3\].* axis 1 has length 4"),
    ],
)
def test_wrong_keys(key: Any, message: str) -> None:
    for use in (lambda: ln.asarray(X)[key], lambda: ln.asarray(X).at[key]):
        with pytest.raises(IndexRangeError, match=message):
            use()


def test_keys_that_do_not_fit_together() -> None:
    x = ln.asarray(X)
    with pytest.raises(ShapeError, match=r"index arrays of shapes \[2\] and \[3\]"):
        x[[0, 1], [0, 1, 2]]
    with pytest.raises(ShapeError, match="slice step cannot be zero"):
        x[::0]
    with pytest.raises(DTypeError, match="slice indices must be integers"):
        x[:1.5]


# Derivatives and batches --------------------------------------------------------------------------


@pytest.mark.parametrize("name", KEYS)
def test_gradients_of_getitem(name: str) -> None:
    check_grads(lambda x: ln.exp(x[KEYS[name]]), (X,))


METHODS = {
    "set": None,
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "power": np.power,
    "max": np.maximum,
    "min": np.minimum,
}


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("method", METHODS)
def test_updates(name: str, method: str) -> None:
    key = KEYS[name]
    base = np.abs(X) + 0.5  # so that powers are real
    values = 0.5 + RNG.random(X[key].shape)
    expected = base.copy()
    if method == "set":
        expected[key] = values
    else:
        METHODS[method].at(expected, key, values)
    found = getattr(ln.asarray(base).at[key], method)(values)
    np.testing.assert_allclose(array(found), expected, rtol=1e-14)
    np.testing.assert_array_equal(array(ln.asarray(base).at[key].get()), base[key])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["ints", "slices", "separated", "behind", "list", "mask_axis"])
def test_gradients_of_updates(name: str, method: str) -> None:
    key = KEYS[name]
    base = np.abs(X) + 0.5
    values = 0.5 + RNG.random(X[key].shape)

    def f(x: ln.Tensor, v: ln.Tensor) -> ln.Tensor:
        y = getattr(x.at[key], method)(v)
        return y * y

    check_grads(f, (base, values), order=2 if values.size < 10 else 1)


def test_values_broadcast() -> None:
    x = ln.asarray(X)
    expected = X.copy()
    expected[:, COLUMNS] = np.arange(5.0)
    np.testing.assert_array_equal(array(x.at[:, COLUMNS].set(np.arange(5.0))), expected)
    check_grads(lambda v: x.at[:, COLUMNS].add(v) ** 2, (np.arange(5.0),))


def test_last_write_wins_and_alone_has_a_gradient() -> None:
    values = ln.asarray([1.0, 2.0, 3.0, 4.0])
    key = [0, 2, 0, 2]
    x = ln.zeros(3)
    np.testing.assert_array_equal(array(x.at[key].set(values)), [3, 0, 4])
    g = ln.grad(lambda v: ln.sum(x.at[key].set(v) * ln.asarray([10.0, 20.0, 30.0])))(values)
    np.testing.assert_array_equal(array(g), [0, 0, 10, 30])
    g = ln.grad(lambda x: ln.sum(x.at[key].set(values)))(x)
    np.testing.assert_array_equal(array(g), [0, 1, 0])


def test_the_last_write_is_that_in_row_major_order_for_any_layout() -> None:
    index = np.asfortranarray([[0, 0, 1], [0, 1, 1]])
    values = np.asfortranarray([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert array(ln.zeros(2).at[index].set(values)).tolist() == [4.0, 6.0]


def test_products_with_zeros_have_their_gradient() -> None:
    factors = np.array([0.0, 3.0, 0.0, 0.0, 5.0])
    key = [0, 0, 1, 1, 0]
    x = ln.asarray([2.0, 7.0, 1.0])
    np.testing.assert_array_equal(array(x.at[key].multiply(factors)), [0, 0, 1])
    g = ln.grad(lambda v: ln.sum(x.at[key].multiply(v)))(ln.asarray(factors))
    np.testing.assert_array_equal(array(g), [30, 0, 0, 0, 0])
    check_grads(lambda x, v: x.at[key].multiply(v), (array(x), factors))


def test_ties_share_equally() -> None:
    f = lambda x, v: ln.sum(x.at[[0, 0, 1]].max(v))  # noqa: E731
    gx, gv = ln.grad(f, argnums=(0, 1))(ln.asarray([5.0, 1.0]), ln.asarray([5.0, 5.0, 1.0]))
    np.testing.assert_allclose(array(gx), [1 / 3, 1 / 2])
    np.testing.assert_allclose(array(gv), [1 / 3, 1 / 3, 1 / 2])
    g = ln.grad(lambda x: ln.sum(x.at[0].min(5.0)))(ln.asarray([5.0, 9.0]))
    np.testing.assert_allclose(array(g), [0.5, 1.0])


FUNCTIONS: dict[str, Any] = {
    "rows": lambda x, i: x[i],
    "columns": lambda x, i: x[:, i],
    "separated": lambda x, i: x[i, :, 0],
    "two": lambda x, i: x[i, COLUMNS[0]],
    "scalar": lambda x, i: x[i[0]],
    "scalar_and_slice": lambda x, i: x[:2, i[1]],
    "take": lambda x, i: ln.take(x, i, axis=-1),
    "set": lambda x, i: x.at[i].set(x[0] * 2.0),
    "set_scalar": lambda x, i: x.at[i[0], 1].set(2.0),
    "add": lambda x, i: x.at[:, i].add(x[:, :1]),
    "subtract": lambda x, i: x.at[i[0]].subtract(x[1]),
    "multiply": lambda x, i: x.at[i].multiply(x[1]),
    "divide": lambda x, i: x.at[1, i].divide(2.0 + x[1, 0]),
    "max": lambda x, i: x.at[i].max(x[1, 0]),
    "min": lambda x, i: x.at[i, 0].min(0.1),
    "along": lambda x, i: ln.take_along_axis(x, i[:, None, None], axis=0),
}


@pytest.mark.parametrize("axes", [(0, 0), (None, 0), (0, None)])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_vmap_is_a_loop(name: str, axes: tuple[int | None, int | None]) -> None:
    f = FUNCTIONS[name]
    xs = RNG.standard_normal((2, 3, 4, 5)) if axes[0] == 0 else X
    index = np.array([[0, -1, 0, 2], [1, 1, -3, 0]]) if axes[1] == 0 else np.array([1, 1, 2, 0])

    def both(g: Any) -> None:
        found = ln.vmap(g, in_axes=axes)(ln.asarray(xs), ln.asarray(index))
        for b in range(2):
            x, i = (a if ax is None else a[b] for a, ax in zip((xs, index), axes, strict=True))
            np.testing.assert_allclose(array(found[b]), array(g(ln.asarray(x), ln.asarray(i))))

    both(f)
    both(ln.grad(lambda x, i: ln.sum(ln.exp(f(x, i)))))
    batched = ln.vmap(f, in_axes=axes)
    check_grads(lambda x: ln.sin(batched(x, ln.asarray(index))), (xs,), order=1)


@pytest.mark.parametrize("name", KEYS)
def test_vmap_of_static_and_constant_keys(name: str) -> None:
    key = KEYS[name]
    xs = RNG.standard_normal((2, *X.shape))
    values = RNG.standard_normal((2, *X[key].shape))
    found = ln.vmap(lambda x: x[key])(ln.asarray(xs))
    np.testing.assert_array_equal(array(found), np.stack([x[key] for x in xs]))
    for method in ("set", "add", "max"):
        found = ln.vmap(lambda x, v, m=method: getattr(x.at[key], m)(v), in_axes=(None, 0))(
            ln.asarray(X), ln.asarray(values)
        )
        for b in range(2):
            one = getattr(ln.asarray(X).at[key], method)(values[b])
            np.testing.assert_array_equal(array(found[b]), array(one))


def test_vmap_refuses_what_varies_in_length_and_what_is_out_of_range() -> None:
    x = ln.asarray(X)
    for f in (lambda x: x[x > 0], ln.nonzero):
        with pytest.raises(BatchingError, match=r"ln\.where"):
            ln.vmap(f)(x)
    with pytest.raises(IndexRangeError, match="index 3 is out of range for axis 0 of length 3"):
        ln.vmap(lambda i: x[i])(ln.asarray([0, 3]))


@settings(max_examples=60)
@given(
    hnp.array_shapes(min_dims=1, max_dims=3, max_side=4).flatmap(
        lambda shape: st.tuples(
            st.just(shape), hnp.integer_array_indices(shape, result_shape=hnp.array_shapes())
        )
    )
)
def test_gather_and_scatter_are_dual(case: Any) -> None:
    shape, indices = case
    indices = [i % n for i, n in zip(indices, shape, strict=True)]
    x = RNG.standard_normal(shape)
    read = p.gather(x, *indices)
    rows = RNG.standard_normal(read.shape)
    written = p.scatter_add(np.zeros(shape), rows, *indices)
    assert np.sum(read * rows) == pytest.approx(np.sum(x * written))


def test_embed_is_the_dual_of_static_slice() -> None:
    index = ((2, -1, -2), 1, (0, 4, 3))
    x = RNG.standard_normal((3, 4, 5))
    part = p.static_slice(x, index=index)
    np.testing.assert_array_equal(part, x[2::-2, 1, 0:4:3])
    whole = p.embed(part, index=index, shape=x.shape)
    assert np.sum(part * part) == pytest.approx(np.sum(whole * x))
    check_grads(lambda y: ln.exp(p.embed(y, index=index, shape=x.shape)), (part,))
    check_grads(lambda x, v: ln.exp(p.slice_add(x, v, index=index)), (x, part), order=1)


# Accumulation -------------------------------------------------------------------------------------


def test_scatters_do_not_reach_into_shared_adjoints() -> None:
    """Addition gives both operands one array as their adjoint; rows for one leave the other's."""

    def f(x: ln.Tensor, z: ln.Tensor) -> ln.Tensor:
        early = 2.0 * ln.sum(x[1]) + 3.0 * ln.sum(z[[0, 0]])
        return ln.sum(x + z) + early + 5.0 * ln.sum(x[[1, 1]]) + 7.0 * z[2]

    gx, gz = ln.grad(f, argnums=(0, 1))(ln.zeros(3), ln.zeros(3))
    np.testing.assert_array_equal(array(gx), [1, 13, 1])
    np.testing.assert_array_equal(array(gz), [7, 1, 8])
    hessian = ln.hessian(lambda x: ln.sum(x[0] * x[1:] ** 2) + x[[2, 2]][0] ** 3)
    np.testing.assert_array_equal(
        array(hessian(ln.asarray([1.0, 2.0, 3.0]))), [[0, 4, 6], [4, 2, 0], [6, 0, 2 + 18]]
    )


def test_a_table_used_often_has_one_gradient() -> None:
    table = ln.zeros((2000, 64))

    def f(table: ln.Tensor) -> ln.Tensor:
        return sum((ln.sum(table[[k, k + 1]]) for k in range(40)), start=ln.asarray(0.0))

    ln.grad(f)(table)
    tracemalloc.start()
    g = ln.grad(f)(table)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert array(g)[:42, 0].tolist() == [1.0, *[2.0] * 39, 1.0, 0.0]
    assert peak < 3 * table.size * 4


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("width", [1, 3, 40])
def test_rows_add_up_in_every_size(dtype: Any, width: int) -> None:
    rows = RNG.standard_normal((700, width)).astype(dtype)
    index = np.minimum(RNG.geometric(0.2, 700), 30)  # groups of 1 to more than 100 rows
    exact = np.zeros((40, width))
    np.add.at(exact, index, rows.astype(np.float64))
    found = p.scatter_add(np.zeros((40, width), dtype), rows, index)
    assert found.dtype == dtype
    step = float(ml_dtypes.finfo(dtype).eps)
    slack = 1e-4 if step > 1e-3 else 300 * step  # float16 and bfloat16 add up in float32
    np.testing.assert_allclose(found.astype(np.float64), exact, rtol=step, atol=slack)
    again = p.scatter_add(np.zeros((40, width), dtype), rows, index)
    assert found.tobytes() == again.tobytes()


# Values of updates --------------------------------------------------------------------------------


def test_updates_keep_the_dtype() -> None:
    for dtype in (ln.int8, ln.uint8, ln.float16, ln.bfloat16, ln.float32):
        x = ln.asarray([1, 2, 3], dtype=dtype)
        for method in ("set", "add", "subtract", "multiply", "power", "max", "min"):
            for key in (0, [0, 0]):
                assert getattr(x.at[key], method)(1).dtype == dtype
    assert ln.asarray([1.0]).at[0].set(np.float64(2)).dtype == ln.float32
    assert array(ln.asarray([False, True]).at[0].set(True)).tolist() == [True, True]
    assert array(ln.asarray([1, 2]).at[0].add(True)).tolist() == [2, 2]


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (
            lambda x: x.at[0].set(1.5),
            DTypeError,
            r"set: values of float32 do not fit into int64\[2\]",
        ),
        (lambda x: x.at[0].add(np.ones(())), DTypeError, "add: values of float64 do not fit"),
        (lambda x: x.at[0].divide(2), DTypeError, "cannot hold a quotient"),
        (lambda x: (x > 0).at[0].add(True), DTypeError, "has no arithmetic"),
        (lambda x: (x > 0).at[0].set(1), DTypeError, "values of int64 do not fit into bool"),
        (lambda x: x.at[:].set([1, 2, 3]), ShapeError, r"int64\[3\] do not broadcast to .*\[2\]"),
        (lambda x: x.at[0].set([1, 2]), ShapeError, r"do not broadcast to the shape \[\]"),
        (lambda x: ln.astype(x, ln.int8).at[0].set(300), NumberRangeError, "300"),
    ],
)
def test_refused_values(use: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        use(ln.asarray([1, 2]))


def test_updates_leave_the_original() -> None:
    x = ln.asarray([1.0, 2.0])
    x.at[0].set(5.0)
    x.at[[0, 1]].multiply(5.0)
    assert array(x).tolist() == [1.0, 2.0]


# take, take_along_axis, nonzero -------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("index", [np.array([1, 0, -1, 1]), ROWS % 3, np.array(2)])
def test_take(axis: int, index: Any) -> None:
    np.testing.assert_array_equal(
        array(ln.take(ln.asarray(X), index, axis=axis)), np.take(X, index, axis=axis)
    )
    check_grads(lambda x: ln.exp(ln.take(x, index, axis=axis)), (X,), order=1)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_take_along_axis(axis: int) -> None:
    for shape in ((3, 4, 5), (1, 1, 1), (3, 1, 5)):
        index = RNG.integers(-3, 3, shape)
        np.testing.assert_array_equal(
            array(ln.take_along_axis(ln.asarray(X), index, axis=axis)),
            np.take_along_axis(X, index, axis=axis),
        )
        check_grads(lambda x, i=index: ln.exp(ln.take_along_axis(x, i, axis=axis)), (X,), order=1)
    x = X[:, :1]
    index = RNG.integers(0, 3, (2, 4, 5))
    np.testing.assert_array_equal(
        array(ln.take_along_axis(ln.asarray(x), index, axis=0)),
        np.take_along_axis(np.broadcast_to(x, X.shape), index, axis=0),
    )


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda x: ln.take(x, [0]), ShapeError, "choose one with axis="),
        (lambda x: ln.take(x, [0], axis=3), IndexRangeError, "axis 3"),
        (lambda x: ln.take(x, [9], axis=1), IndexRangeError, "index 9 .* axis 1 of length 4"),
        (lambda x: ln.take(x, [0.5], axis=1), DTypeError, "expected integers"),
        (lambda x: ln.take_along_axis(x, [0]), ShapeError, "3 and 1 axes"),
        (
            lambda x: ln.take_along_axis(x, ln.zeros((2, 4, 1), dtype=ln.int64)),
            ShapeError,
            "axis 0",
        ),
        (lambda x: ln.nonzero(x[0, 0, 0]), ShapeError, "has no axes"),
    ],
)
def test_wrong_arguments(use: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        use(ln.asarray(X))
    assert re.search(r"\n  at .*test_indexing\.py", str(caught.value))


def test_nonzero() -> None:
    x = np.array([[0, 2, 0], [3, 0, 4]])
    for found, expected in zip(ln.nonzero(ln.asarray(x)), np.nonzero(x), strict=True):
        assert found.dtype == ln.int64
        np.testing.assert_array_equal(array(found), expected)
    g = ln.grad(lambda x: ln.sum(x[ln.nonzero(x)] ** 2))(ln.asarray([0.0, 3.0, -1.0]))
    assert array(g).tolist() == [0.0, 6.0, -2.0]


# Peers --------------------------------------------------------------------------------------------


@pytest.mark.peer
def test_torch_agrees_on_an_embedding() -> None:
    torch = pytest.importorskip("torch")
    table = RNG.standard_normal((50, 20)).astype(np.float32)
    tokens = RNG.integers(0, 50, (8, 30))
    theirs = torch.tensor(table, requires_grad=True)
    (torch.nn.functional.embedding(torch.tensor(tokens), theirs) ** 2).sum().backward()
    ours = ln.grad(lambda t: ln.sum(t[tokens] ** 2))(ln.asarray(table))
    np.testing.assert_allclose(array(ours), theirs.grad.numpy(), rtol=1e-5)


@pytest.mark.peer
@pytest.mark.parametrize("reduce", ["prod", "amax", "amin", "sum"])
def test_torch_agrees_on_scatter_reduce(reduce: str) -> None:
    torch = pytest.importorskip("torch")
    method = {"prod": "multiply", "amax": "max", "amin": "min", "sum": "add"}[reduce]
    x, v = RNG.integers(0, 4, 6).astype(float), RNG.integers(0, 4, 9).astype(float)
    index = np.minimum(RNG.integers(0, 6, 9), 3)
    tx, tv = (torch.tensor(a, requires_grad=True) for a in (x, v))
    out = tx.scatter_reduce(0, torch.tensor(index), tv, reduce)
    (out * torch.arange(1.0, 7.0)).sum().backward()
    f = lambda x, v: ln.sum(getattr(x.at[index], method)(v) * np.arange(1.0, 7.0))  # noqa: E731
    gx, gv = ln.grad(f, argnums=(0, 1))(ln.asarray(x), ln.asarray(v))
    np.testing.assert_allclose(array(gx), tx.grad.numpy(), atol=1e-12)
    np.testing.assert_allclose(array(gv), tv.grad.numpy(), atol=1e-12)
