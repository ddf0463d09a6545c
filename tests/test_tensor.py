"""Tensors: making them, sharing memory, operators, methods, immutability, creation functions."""

from __future__ import annotations

import array
import copy
import gc
import math
import operator
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lantern as ln
from lantern.errors import DTypeError, ImmutableError, NumberRangeError, ShapeError
from lantern.testing import check_grads

# asarray ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("obj", "dtype", "value"),
    [
        (True, ln.bool, True),
        (3, ln.int64, 3),
        (2.5, ln.float32, 2.5),
        ([1, 2], ln.int64, [1, 2]),
        ((1, 2.5), ln.float32, [1.0, 2.5]),
        ([[True], [False]], ln.bool, [[True], [False]]),
        ([True, 2], ln.int64, [1, 2]),
        ([], ln.float32, []),
        (range(3), ln.int64, [0, 1, 2]),
        (np.float64(1.5), ln.float64, 1.5),
        ([np.float64(1.5), 2], ln.float64, [1.5, 2.0]),
        ([np.float32(1.5), 2.5], ln.float32, [1.5, 2.5]),
        ([np.int8(1), 2.5], ln.float32, [1.0, 2.5]),
        ([np.zeros(1), [1]], ln.float64, [[0.0], [1.0]]),
        (np.asarray([1, 2], ">i2"), ln.int16, [1, 2]),
        (np.asarray(1.5, np.float16), ln.float16, 1.5),
        (array.array("d", [1.0, 2.0]), ln.float64, [1.0, 2.0]),
        (memoryview(b"ab"), ln.uint8, [97, 98]),
    ],
)
def test_asarray(obj: Any, dtype: Any, value: Any) -> None:
    x = ln.asarray(obj)
    assert type(x) is ln.Tensor
    assert x.dtype == dtype
    assert x.tolist() == value
    assert x.shape == np.shape(value)
    assert x.size == np.size(value)
    assert x.device == "cpu"
    assert ln.asarray(x) is x


@pytest.mark.parametrize(
    "obj",
    ["a", b"a", 1j, [1j], None, [None], pytest.param(object(), id="object"), ["a"], {"a": 1},
     {1, 2}, np.asarray(["a"]), np.asarray([1j]), np.asarray([None]), np.longdouble(1),
     np.asarray(["2020"], "M8[s]")],
    ids=repr,
)  # fmt: skip
def test_asarray_refuses(obj: Any) -> None:
    with pytest.raises(DTypeError) as caught:
        ln.asarray(obj)
    assert "test_tensor.py" in str(caught.value)


def test_asarray_refuses_ragged_lists_and_large_numbers() -> None:
    with pytest.raises(ShapeError):
        ln.asarray([[1, 2], [3]])
    with pytest.raises(ShapeError):
        ln.asarray([[1, 2], 3])
    for large in (2**64, [2**64], [1, 2**63]):
        with pytest.raises(NumberRangeError):
            ln.asarray(large)
    assert ln.asarray([2**63], dtype=ln.uint64).tolist() == [2**63]
    with pytest.raises(ValueError, match="cpu"):
        ln.asarray(1.0, device="gpu")


def test_asarray_copies() -> None:
    a = np.zeros(2)
    x, shared = ln.asarray(a), ln.asarray(a, copy=False)
    a[0] = 1
    assert x.tolist() == [0.0, 0.0]
    assert shared.tolist() == [1.0, 0.0]
    b = x + a  # an operand is a copy too: a rule may read it later
    a[1] = 5
    assert b.tolist() == [1.0, 0.0]
    for obj, dtype in (([1.0], None), (1.0, None), (a, ln.float32), (ln.asarray(a), ln.float32)):
        with pytest.raises(ValueError, match="copy"):
            ln.asarray(obj, dtype=dtype, copy=False)
    assert ln.asarray(x, copy=False) is x
    assert np.asarray(ln.asarray(x, copy=True)).base is not np.asarray(x).base


def test_tensors_in_lists_are_stacked() -> None:
    check_grads(lambda x, y: ln.asarray([[x, y], [x * y, 1.0]]), (2.0, 3.0))
    z = ln.asarray([ln.asarray([1, 2], dtype=ln.int8), [3, 4]])
    assert z.tolist() == [[1, 2], [3, 4]]
    assert ln.asarray([ln.asarray(1.0, dtype=ln.float16), 2]).dtype == ln.float16
    assert ln.asarray([ln.asarray(1), 2.5]).tolist() == [1.0, 2.5]
    assert ln.asarray([np.zeros(2), ln.ones(2)], dtype=ln.float32).dtype == ln.float32
    rows = ln.vmap(lambda x: ln.asarray([x, 2 * x]))(ln.asarray([1.0, 2.0]))
    assert rows.tolist() == [[1.0, 2.0], [2.0, 4.0]]


@given(st.recursive(st.floats(-9, 9, width=32), lambda s: st.lists(s, min_size=2, max_size=2)))
def test_lists_go_there_and_back(nested: Any) -> None:
    try:
        expected = np.asarray(nested, np.float32)
    except ValueError:
        with pytest.raises(ShapeError):
            ln.asarray(nested)
    else:
        assert ln.asarray(nested).tolist() == expected.tolist()


# Sharing memory -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", [ln.bool, ln.int8, ln.uint64, ln.bfloat16, ln.float16, ln.float64]
)
def test_dlpack_to_itself(dtype: Any) -> None:
    x = ln.asarray([[0, 1, 1], [1, 0, 1]], dtype=dtype)
    y = ln.from_dlpack(_Producer(x))
    assert y.dtype == dtype
    assert y.tolist() == x.tolist()
    assert np.shares_memory(np.asarray(x), np.asarray(y))
    copied = ln.from_dlpack(_Producer(x), copy=True)
    assert not np.shares_memory(np.asarray(x), np.asarray(copied))
    assert ln.from_dlpack(x) is x
    assert x.__dlpack_device__() == (1, 0)


class _Producer:
    """A Tensor that can be seen through DLPack only, as by an old producer without versions."""

    def __init__(self, x: ln.Tensor) -> None:
        self.x = x

    def __dlpack__(self) -> Any:
        return self.x.__dlpack__()

    def __dlpack_device__(self) -> Any:
        return self.x.__dlpack_device__()


def test_dlpack_from_numpy_and_back() -> None:
    a = np.arange(6.0).reshape(2, 3)[:, ::2]
    x = ln.from_dlpack(a)
    a[0, 0] = 7
    assert x[0, 0] == 7
    assert np.shares_memory(np.from_dlpack(x), a)
    with pytest.raises(DTypeError, match="__dlpack__"):
        ln.from_dlpack([1, 2])
    with pytest.raises(BufferError, match="device 2"):
        ln.from_dlpack(_Elsewhere(x))
    with pytest.raises(DTypeError, match="complex"):
        ln.from_dlpack(np.ones(2, complex))


class _Elsewhere(_Producer):
    def __dlpack_device__(self) -> Any:
        return (2, 0)


def test_dlpack_of_memory_that_is_read_only() -> None:
    x = ln.broadcast_to(ln.asarray([1.0]), (3,))
    assert np.from_dlpack(x).tolist() == [1.0] * 3
    assert ln.from_dlpack(_Producer(x)).tolist() == [1.0] * 3
    with pytest.raises(BufferError):
        x.__dlpack__(copy=False)


@pytest.mark.peer
@pytest.mark.parametrize("name", ["bool", "uint8", "int64", "float16", "bfloat16", "float64"])
def test_dlpack_with_torch(name: str) -> None:
    torch = pytest.importorskip("torch")
    t = torch.tensor([[0, 1], [1, 0], [1, 1]]).to(getattr(torch, name)).T
    address = t.data_ptr()
    x = ln.from_dlpack(t)
    assert x.dtype == getattr(ln, name)
    assert x.tolist() == t.tolist()
    assert ln.asarray(t).tolist() == t.tolist()
    del t
    gc.collect()
    back = torch.from_dlpack(x)
    assert back.data_ptr() == address
    assert back.dtype == getattr(torch, name)
    expected = x.tolist()
    del x
    gc.collect()
    assert back.tolist() == expected


def test_numpy_reads_tensors() -> None:
    x = ln.asarray([1.0, 2.0])
    seen = np.asarray(x)
    assert seen.dtype == np.float32
    with pytest.raises(ValueError, match="read-only"):
        seen[0] = 3
    mine = np.array(x)
    mine[0] = 3
    assert x.tolist() == [1.0, 2.0]
    with pytest.raises(DTypeError, match="stop_gradient"):
        ln.grad(lambda x: ln.sum(np.sin(x)))(x)


# Operators ----------------------------------------------------------------------------------------

BINARY = (
    operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod,
    operator.pow, operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne,
)  # fmt: skip


@pytest.mark.parametrize("op", BINARY)
def test_operators_with_numpy_and_python_on_either_side(op: Any) -> None:
    a, b = np.asarray([1.0, 2.0, 3.5]), np.asarray([2.0, 2.0, 0.5])
    x, y = ln.asarray(a), ln.asarray(b)
    expected = op(a, b).tolist()
    for found in (op(x, y), op(a, y), op(x, b)):
        assert type(found) is ln.Tensor
        assert found.tolist() == expected
    for number in (2.0, 2, np.float64(2), np.int8(2), np.asarray(2.0), np.float32(2)):
        right, left = op(x, number), op(number, x)
        assert type(right) is type(left) is ln.Tensor
        assert right.tolist() == op(a, number).tolist()
        assert left.tolist() == op(number, a).tolist()


def test_other_operators() -> None:
    x = ln.asarray([[1.0, -2.0], [3.0, 4.0]])
    assert (-x).tolist() == [[-1.0, 2.0], [-3.0, -4.0]]
    assert (+x).tolist() == x.tolist()
    assert abs(x).tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert [v.tolist() for v in divmod(x, 3.0)] == [(x // 3.0).tolist(), (x % 3.0).tolist()]
    assert divmod(7.0, ln.asarray(2.0))[0] == 3.0
    assert (x @ x).tolist() == (np.asarray(x) @ np.asarray(x)).tolist()
    assert (np.asarray(x) @ x).tolist() == (x @ np.asarray(x)).tolist()
    assert round(ln.asarray(2.6)).tolist() == 3.0
    assert [row.tolist() for row in x] == x.tolist()
    assert 3.0 in x
    assert 5.0 not in x
    with pytest.raises(TypeError, match="without axes"):
        iter(x[0, 0])
    with pytest.raises(TypeError, match="integers"):
        round(x, 2)


def test_in_place_syntax_rebinds() -> None:
    x = y = ln.asarray([1.0, 2.0])
    x += 1
    x *= 2
    x **= 2
    assert x.tolist() == [16.0, 36.0]
    assert y.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    "other", ["a", None, [1.0], {}, pytest.param(object(), id="object")], ids=repr
)
def test_unknown_operands(other: Any) -> None:
    x = ln.asarray(1.0)
    for op in (operator.add, operator.mul, operator.lt, operator.matmul, operator.pow, divmod):
        with pytest.raises(TypeError):
            op(x, other)
        with pytest.raises(TypeError):
            op(other, x)
    assert (x == other) is False
    assert (x != other) is True
    with pytest.raises(DTypeError, match="complex"):
        x * 1j


class _Guest:
    """Another library's array: it knows what to do with a Tensor."""

    def __radd__(self, other: Any) -> str:
        return "theirs"

    __array_priority__ = 2000


def test_other_libraries_may_take_over() -> None:
    assert ln.asarray(1.0) + _Guest() == "theirs"


# Methods ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["sum", "prod", "mean", "var", "std", "max", "min", "argmax", "argmin", "any", "all", "sort",
     "argsort", "flatten", "ravel", "round", "squeeze", "transpose", "T"],
)  # fmt: skip
def test_methods_are_numpys(name: str) -> None:
    a = np.random.default_rng(0).standard_normal((3, 1, 4))
    x = ln.asarray(a)
    mine, theirs = getattr(x, name), getattr(a, name)
    if name == "sort":
        found, expected = mine(), np.sort(a)
    else:
        found, expected = (mine, theirs) if name == "T" else (mine(), theirs())
    np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-13)
    if name in ("sum", "prod", "mean", "var", "std", "max", "min", "argmax", "argmin"):
        np.testing.assert_allclose(np.asarray(mine(0)), theirs(0), rtol=1e-13)
        kept = mine(axis=-1, keepdims=True)
        np.testing.assert_allclose(np.asarray(kept), theirs(axis=-1, keepdims=True), rtol=1e-13)


@pytest.mark.parametrize("name", ["sum", "prod", "mean", "var", "std", "max", "min", "amax"])
def test_numpys_reductions_differentiate(name: str) -> None:
    f, own = getattr(np, name), getattr(ln, name.removeprefix("a"))
    x = ln.asarray([[1.0, 2.0], [4.0, 3.0]], dtype=ln.float64)
    assert type(f(x, axis=0)) is ln.Tensor
    assert f(x, axis=0, keepdims=True).tolist() == f(np.asarray(x), axis=0, keepdims=True).tolist()
    assert ln.grad(f)(x).tolist() == ln.grad(own)(x).tolist()
    with pytest.raises(TypeError, match="out is float64"):
        f(x, out=np.zeros(()))


def test_what_else_numpy_passes_to_methods() -> None:
    x = ln.asarray([[1.0, 2.0], [4.0, 3.0]])
    assert np.sum(x, dtype=np.float64).dtype == np.mean(x, dtype=np.float64).dtype == ln.float64
    assert np.var(x, ddof=1) == ln.var(x, correction=1)
    assert np.std(x, dtype=np.float64) == np.std(np.asarray(x, dtype=np.float64))
    assert np.argmax(x) == 2
    assert np.argmin(x, axis=0).tolist() == [0, 0]
    assert bool(np.all(x > 0))
    assert not np.any(x > 5)
    for f in (lambda x: np.reshape(x, (4,)), np.transpose, lambda x: np.clip(x, 0, 5)):
        assert ln.grad(lambda x, f=f: ln.sum(f(x)))(x).tolist() == [[1.0, 1.0], [1.0, 1.0]]
    with pytest.raises(ValueError, match="order 'C' only"):
        np.reshape(x, (4,), order="F")


def test_methods_of_shape() -> None:
    x = ln.reshape(ln.arange(6), (1, 2, 3))
    assert x.reshape(3, 2).shape == x.reshape((3, 2)).shape == x.reshape(-1, 2).shape == (3, 2)
    assert x.transpose(2, 0, 1).shape == x.transpose((2, 0, 1)).shape == (3, 1, 2)
    assert x.mT.shape == (1, 3, 2)
    assert x.swapaxes(0, 2).shape == (3, 2, 1)
    assert x.squeeze(0).shape == x.squeeze().shape == (2, 3)
    assert x.astype(ln.float64).dtype == ln.float64
    assert x.clip(1, 3).tolist() == [[[1, 1, 2], [3, 3, 3]]]
    assert x.at[0, 0, 0].set(9)[0, 0].tolist() == [9, 1, 2]
    assert x.flatten().dot(x.flatten()) == 55
    assert len(x) == 1


def test_methods_differentiate_and_batch() -> None:
    def f(x: Any) -> Any:
        return (x.reshape(2, 2).T @ x.reshape(2, 2)).sum() * x.mean() + x[0].astype(ln.float64)

    check_grads(f, (np.asarray([1.0, 2.0, 3.0, 0.5]),))
    rows = np.random.default_rng(0).standard_normal((3, 4))
    expected = [float(f(ln.asarray(r))) for r in rows]
    np.testing.assert_allclose(np.asarray(ln.vmap(f)(rows)), expected, rtol=1e-14)


def test_tensors_are_immutable() -> None:
    x = ln.asarray([1.0, 2.0])
    with pytest.raises(ImmutableError, match=r"x\.at\[index\]"):
        x[0] = 1.0
    with pytest.raises(ImmutableError):
        del x[0]
    with pytest.raises(AttributeError):
        x.shape = (2, 1)  # type: ignore[misc]
    with pytest.raises(TypeError, match="unhashable"):
        hash(x)
    assert copy.copy(x) is copy.deepcopy(x) is x


def test_python_numbers_from_tensors() -> None:
    assert float(ln.asarray(2.5)) == 2.5
    assert int(ln.asarray(2.5)) == 2
    assert bool(ln.asarray(1)) is True
    assert [10, 20][ln.asarray(1)] == 20
    assert ln.asarray([[3]]).item() == 3
    assert f"{ln.asarray(2.5):.2f}" == "2.50"
    for attempt in (bool, float, int):
        with pytest.raises(TypeError, match="without axes"):
            attempt(ln.ones(2))
    with pytest.raises(TypeError, match="integer"):
        operator.index(ln.asarray(1.0))
    with pytest.raises(ValueError, match="2 elements"):
        ln.ones(2).item()


def test_the_namespace() -> None:
    x = ln.ones(1)
    assert x.__array_namespace__() is ln
    assert x.__array_namespace__(api_version="2023.12") is ln
    with pytest.raises(ValueError, match=r"2024\.12"):
        x.__array_namespace__(api_version="2999.12")
    assert x.to_device("cpu") is x
    with pytest.raises(ValueError, match="cpu"):
        x.to_device("gpu")


def test_pickling() -> None:
    x = ln.asarray([1.0, 2.0])
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(x.astype(ln.bfloat16), protocol))
        assert again.tolist() == [1.0, 2.0]
        assert again.dtype == ln.bfloat16
    for transform in (ln.grad, ln.vmap):
        with pytest.raises(TypeError, match="cannot be pickled"):
            transform(pickle.dumps)(ln.asarray(1.0) if transform is ln.grad else x)


def test_nan_is_no_integer() -> None:
    with pytest.raises(NumberRangeError, match="nan does not fit into int8"):
        ln.asarray(math.nan, dtype=ln.int8)


# Creation -----------------------------------------------------------------------------------------


def test_filled() -> None:
    assert ln.zeros(2).tolist() == ln.empty(2).tolist() == [0.0, 0.0]
    assert ln.ones((2, 1), dtype=ln.int8).tolist() == [[1], [1]]
    assert ln.full((), 3).dtype == ln.int64
    assert ln.full(2, 1.5).dtype == ln.float32
    assert ln.full(2, True).dtype == ln.bool
    assert ln.full((2,), 3, dtype=ln.float16).dtype == ln.float16
    like = ln.asarray([1, 2], dtype=ln.uint8)
    for f in (ln.zeros_like, ln.ones_like, ln.empty_like):
        assert (f(like).dtype, f(like).shape) == (ln.uint8, (2,))
        assert f(like, dtype=ln.float64).dtype == ln.float64
    assert ln.full_like(like, 7).tolist() == [7, 7]
    with pytest.raises(NumberRangeError):
        ln.full_like(like, 300)
    with pytest.raises(ShapeError, match="negative"):
        ln.zeros((2, -1))
    with pytest.raises(ShapeError):
        ln.zeros((2.5,))  # type: ignore[arg-type]
    check_grads(lambda v: ln.full((2, 3), v) * 2.0, (1.5,))
    check_grads(lambda v: ln.full_like(np.zeros((2, 3)), v), (np.ones(3),))


@given(st.integers(-20, 20), st.integers(-20, 20), st.integers(-5, 5).filter(bool))
def test_arange_of_integers(start: int, stop: int, step: int) -> None:
    assert ln.arange(start, stop, step).tolist() == list(range(start, stop, step))
    assert ln.arange(start, stop, step, dtype=ln.float32).tolist() == list(range(start, stop, step))
    assert ln.arange(stop).tolist() == list(range(stop))


@given(st.floats(-9, 9), st.floats(-9, 9), st.floats(0.1, 3))
def test_arange_of_floats(start: float, stop: float, step: float) -> None:
    x = ln.arange(start, stop, step, dtype=ln.float64)
    assert x.size == max(math.ceil((stop - start) / step), 0)
    np.testing.assert_allclose(np.asarray(x), start + step * np.arange(x.size))
    assert ln.arange(start).dtype == ln.float32


def test_arange_at_the_edges() -> None:
    far = 2**63
    assert ln.arange(far, far + 3, dtype=ln.uint64).tolist() == [far, far + 1, far + 2]
    assert ln.arange(-far, far - 1, far - 1).tolist() == [-far, -1, far - 2]
    with pytest.raises(ValueError, match="step"):
        ln.arange(0, 1, 0)
    assert ln.arange(ln.asarray(3)).tolist() == [0, 1, 2]
    with pytest.raises(DTypeError):
        ln.arange("a")  # type: ignore[arg-type]


@pytest.mark.parametrize("endpoint", [True, False])
@pytest.mark.parametrize("num", [0, 1, 2, 7])
def test_linspace(num: int, endpoint: bool) -> None:
    x = ln.linspace(-1, 2.5, num, endpoint=endpoint, dtype=ln.float64)
    expected = np.linspace(-1, 2.5, num, endpoint=endpoint)
    np.testing.assert_array_equal(np.asarray(x), expected)
    assert ln.linspace(0, 1, num).dtype == ln.float32


def test_eye_and_triangles() -> None:
    for n, m, k in ((3, None, 0), (2, 4, 1), (4, 2, -2), (0, 3, 0)):
        expected = np.eye(n, m, k=k, dtype=np.float32)
        np.testing.assert_array_equal(np.asarray(ln.eye(n, m, k=k)), expected)
    a = np.arange(1.0, 13.0).reshape(2, 2, 3)
    for k in (-1, 0, 1):
        np.testing.assert_array_equal(np.asarray(ln.tril(a, k=k)), np.tril(a, k))
        np.testing.assert_array_equal(np.asarray(ln.triu(a, k=k)), np.triu(a, k))
    check_grads(lambda x: ln.tril(x) * ln.triu(x, k=-1), (a,))
    assert ln.tril(ln.ones((2, 2), dtype=ln.bool)).dtype == ln.bool
    np.testing.assert_array_equal(np.asarray(ln.vmap(ln.tril)(a)), np.tril(a))
    with pytest.raises(ShapeError, match="two axes"):
        ln.tril(ln.ones(3))


@pytest.mark.parametrize("indexing", ["xy", "ij"])
def test_meshgrid(indexing: Any) -> None:
    parts = [np.arange(2.0), np.arange(3.0), np.arange(4.0)]
    for n in range(4):
        expected = np.meshgrid(*parts[:n], indexing=indexing)
        found = ln.meshgrid(*parts[:n], indexing=indexing)
        assert [x.tolist() for x in found] == [x.tolist() for x in expected]
    check_grads(lambda x, y: ln.meshgrid(x, y, indexing=indexing), (np.ones(2), np.ones(3)))
    with pytest.raises(ShapeError):
        ln.meshgrid(ln.ones((2, 2)))
    with pytest.raises(DTypeError):
        ln.meshgrid(ln.ones(2), ln.arange(2))
    with pytest.raises(ValueError, match="'ij'"):
        ln.meshgrid(ln.ones(2), indexing="yx")


def test_a_complex_number_on_the_real_line_is_real() -> None:
    assert ln.asarray(0j).dtype == ln.float32
    assert ln.asarray(2.5 + 0j).item() == 2.5
    for z in (1j, complex(0, math.nan)):
        with pytest.raises(DTypeError, match="complex"):
            ln.asarray(z)
