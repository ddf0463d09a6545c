"""Shapes, orders, joins, repeats and borders against NumPy, finite differences and loops."""

from __future__ import annotations

import weakref
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lantern as ln
from lantern.errors import DTypeError, IndexRangeError, ShapeError
from lantern.testing import check_grads

RNG = np.random.default_rng(11)
SHAPE = (2, 3, 4)


def array(x: Any) -> np.ndarray[Any, Any]:
    return np.asarray(x)


# Each entry: a function of a Tensor of shape 2 × 3 × 4, and the same in NumPy.
CASES: dict[str, tuple[Any, Any]] = {
    "reshape": (lambda x: ln.reshape(x, (4, -1)), lambda x: x.reshape(4, -1)),
    "reshape_copy": (lambda x: ln.reshape(x, 24, copy=True), lambda x: x.reshape(24)),
    "flatten": (ln.flatten, np.ravel),
    "ravel": (ln.ravel, np.ravel),
    "expand_dims": (
        lambda x: ln.expand_dims(x, axis=(0, -1)),
        lambda x: np.expand_dims(x, (0, -1)),
    ),
    "squeeze": (
        lambda x: ln.squeeze(ln.expand_dims(x, axis=(1, -1)), (1, -1)),
        lambda x: x,
    ),
    "permute_dims": (lambda x: ln.permute_dims(x, (2, 0, -2)), lambda x: x.transpose(2, 0, 1)),
    "moveaxis": (lambda x: ln.moveaxis(x, 0, -1), lambda x: np.moveaxis(x, 0, -1)),
    "moveaxis_many": (
        lambda x: ln.moveaxis(x, (0, 2), (1, 0)),
        lambda x: np.moveaxis(x, (0, 2), (1, 0)),
    ),
    "swapaxes": (lambda x: ln.swapaxes(x, 0, -1), lambda x: np.swapaxes(x, 0, -1)),
    "swapaxes_same": (lambda x: ln.swapaxes(x, 1, 1), lambda x: x),
    "matrix_transpose": (ln.matrix_transpose, lambda x: np.swapaxes(x, 1, 2)),
    "flip": (ln.flip, np.flip),
    "flip_some": (lambda x: ln.flip(x, axis=(0, -1)), lambda x: np.flip(x, (0, -1))),
    "roll": (lambda x: ln.roll(x, -5), lambda x: np.roll(x, -5)),
    "roll_one": (lambda x: ln.roll(x, 7, axis=1), lambda x: np.roll(x, 7, 1)),
    "roll_many": (
        lambda x: ln.roll(x, (1, -2), axis=(0, 2)),
        lambda x: np.roll(x, (1, -2), (0, 2)),
    ),
    "roll_same": (lambda x: ln.roll(x, 1, axis=(1, 2)), lambda x: np.roll(x, 1, (1, 2))),
    "roll_axis_twice": (lambda x: ln.roll(x, (1, 1), axis=1), lambda x: np.roll(x, (1, 1), 1)),
    "concat": (
        lambda x: ln.concat([x, 2 * x[:, :1], x], axis=1),
        lambda x: np.concatenate([x, 2 * x[:, :1], x], 1),
    ),
    "concat_flat": (
        lambda x: ln.concat([x, x[0]], axis=None),
        lambda x: np.concatenate([x, x[0]], None),
    ),
    **{
        f"stack_{k}": (
            lambda x, k=k: ln.stack([x, 3 * x], axis=k),
            lambda x, k=k: np.stack([x, 3 * x], k),
        )
        for k in (0, 1, 3, -1, -4)
    },
    "stack_scalars": (
        lambda x: ln.stack([ln.sum(x), x[0, 0, 0]]),
        lambda x: np.stack([x.sum(), x[0, 0, 0]]),
    ),
    "unstack": (lambda x: ln.unstack(x, axis=1)[2] * 2, lambda x: x[:, 2] * 2),
    "unstack_all": (
        lambda x: ln.concat([*ln.unstack(x, axis=-1)]),
        lambda x: np.concatenate(list(np.moveaxis(x, -1, 0))),
    ),
    "split": (lambda x: ln.split(x, 2, axis=-1)[1], lambda x: np.split(x, 2, -1)[1]),
    "split_at": (
        lambda x: ln.concat(ln.split(x, [1, -1, 9], axis=2)[::-1], axis=2),
        lambda x: np.concatenate(np.split(x, [1, -1, 9], 2)[::-1], 2),
    ),
    "broadcast_to": (
        lambda x: ln.broadcast_to(x[:, :1], (2, 2, 3, 4)),
        lambda x: np.broadcast_to(x[:, :1], (2, 2, 3, 4)),
    ),
    "broadcast_arrays": (
        lambda x: ln.concat(ln.broadcast_arrays(x[0], x[:, 1:2])),
        lambda x: np.concatenate(np.broadcast_arrays(x[0], x[:, 1:2])),
    ),
    "tile": (lambda x: ln.tile(x, (2, 1, 3)), lambda x: np.tile(x, (2, 1, 3))),
    "tile_few": (lambda x: ln.tile(x, 2), lambda x: np.tile(x, 2)),
    "tile_many": (lambda x: ln.tile(x, (2, 1, 1, 2)), lambda x: np.tile(x, (2, 1, 1, 2))),
    "tile_none": (lambda x: ln.tile(x, (1, 1, 1, 1)), lambda x: x[None]),
    "repeat": (lambda x: ln.repeat(x, 2), lambda x: np.repeat(x, 2)),
    "repeat_axis": (lambda x: ln.repeat(x, 3, axis=1), lambda x: np.repeat(x, 3, 1)),
    "repeat_one": (
        lambda x: ln.repeat(x, ln.asarray([2]), axis=-1),
        lambda x: np.repeat(x, [2], -1),
    ),
    "repeat_each": (
        lambda x: ln.repeat(x, ln.asarray([2, 0, 1], dtype=ln.uint64), axis=1),
        lambda x: np.repeat(x, [2, 0, 1], 1),
    ),
    "pad": (lambda x: ln.pad(x, 1), lambda x: np.pad(x, 1)),
    "pad_each": (
        lambda x: ln.pad(x, ((0, 1), (2, 0), (0, 0))),
        lambda x: np.pad(x, ((0, 1), (2, 0), (0, 0))),
    ),
    "pad_value": (
        lambda x: ln.pad(x, (1, 2), constant_values=(3.0, -1.0)),
        lambda x: np.pad(x, (1, 2), constant_values=(3.0, -1.0)),
    ),
    **{
        f"pad_{mode}": (
            lambda x, m=mode: ln.pad(x, ((1, 0), (0, 5), (2, 2)), m),
            lambda x, m=mode: np.pad(x, ((1, 0), (0, 5), (2, 2)), m),
        )
        for mode in ("edge", "reflect", "symmetric", "wrap")
    },
}


@pytest.mark.parametrize("name", CASES)
def test_values_derivatives_and_batches(name: str) -> None:
    ours, numpys = CASES[name]
    x = RNG.standard_normal(SHAPE)
    found, expected = ours(ln.asarray(x)), numpys(x)
    assert found.shape == expected.shape
    np.testing.assert_allclose(array(found), expected, rtol=1e-14)

    check_grads(lambda a: ours(a) * ours(ln.sin(a)), (x,))

    def g(a: Any) -> Any:
        return ln.grad(lambda b: ln.sum(ours(b) * ours(b)))(a)

    batch = RNG.standard_normal((2, *SHAPE))
    rows = [ln.asarray(row) for row in batch]
    np.testing.assert_allclose(
        array(ln.vmap(ours)(ln.asarray(batch))), np.stack([array(ours(r)) for r in rows])
    )
    np.testing.assert_allclose(
        array(ln.vmap(g)(ln.asarray(batch))), np.stack([array(g(r)) for r in rows])
    )


DTYPES = [
    "bool",
    *(f"{u}int{n}" for u in ("", "u") for n in (8, 64)),
    *("float16", "bfloat16", "float32", "float64"),
]


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_stay(dtype: str) -> None:
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    x = RNG.integers(0, 2, SHAPE).astype(kind)
    for name, (ours, _) in CASES.items():
        if not name.startswith(("concat", "stack", "unstack")):  # those here compute
            assert ours(ln.asarray(x)).dtype == x.dtype, name
    assert ln.concat([ln.asarray(x), ln.asarray(x)]).dtype == x.dtype


def test_joined_arrays_are_promoted() -> None:
    a, b = ln.asarray(np.ones(2, np.int64)), ln.asarray(np.ones(2, np.float32))
    assert ln.concat([a, b]).dtype == np.float32 and ln.stack([b, a]).dtype == np.float32
    short = ln.asarray(np.ones(2, np.float16))
    assert ln.concat([short, b]).dtype == np.float32
    g = ln.grad(lambda s: ln.sum(ln.concat([s, b])))(short)
    assert g.dtype == np.float16


@given(
    shape=st.lists(st.integers(0, 3), min_size=1, max_size=3).map(tuple),
    data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_any_shape(shape: tuple[int, ...], data: Any) -> None:
    x = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    t = ln.asarray(x)
    k = data.draw(st.integers(-len(shape), len(shape) - 1))
    by = data.draw(st.integers(-4, 4))
    np.testing.assert_array_equal(array(ln.roll(t, by, axis=k)), np.roll(x, by, k))
    np.testing.assert_array_equal(array(ln.roll(t, by)), np.roll(x, by))
    np.testing.assert_array_equal(array(ln.flip(t, axis=k)), np.flip(x, k))
    np.testing.assert_array_equal(array(ln.repeat(t, abs(by), axis=k)), np.repeat(x, abs(by), k))
    np.testing.assert_array_equal(array(ln.tile(t, abs(by))), np.tile(x, abs(by)))
    parts = ln.unstack(t, axis=k)
    assert len(parts) == shape[k]
    if parts:
        np.testing.assert_array_equal(array(ln.stack(parts, axis=k)), x)
    cuts = data.draw(st.lists(st.integers(0, 3), max_size=3).map(sorted))
    for ours, theirs in zip(ln.split(t, cuts, k), np.split(x, cuts, k), strict=True):
        np.testing.assert_array_equal(array(ours), theirs)
    axes = data.draw(st.permutations(range(len(shape))))
    np.testing.assert_array_equal(array(ln.permute_dims(t, tuple(axes))), x.transpose(axes))


def test_reshape_without_a_copy_shares_memory() -> None:
    x = ln.asarray(np.arange(6.0))
    assert np.shares_memory(array(ln.reshape(x, (2, 3), copy=False)), array(x))
    assert not np.shares_memory(array(ln.reshape(x, (6,), copy=True)), array(x))
    with pytest.raises(ShapeError, match="needs a copy"):
        ln.reshape(ln.matrix_transpose(ln.reshape(x, (2, 3))), (6,), copy=False)


def test_one_result_of_many_is_enough() -> None:
    def f(x: Any) -> Any:
        a, _, c = ln.split(x, [1, 2])
        return ln.sum(a * c)

    assert ln.grad(f)(ln.asarray([2.0, 3.0, 5.0])).tolist() == [5.0, 0.0, 2.0]


def test_suspended_rules_forget_their_operands() -> None:
    forgotten = []

    def f(a: Any) -> Any:
        y = a + 1.0
        operand = weakref.ref(y.value)
        z = ln.cumulative_sum(ln.concat([y, y]))
        del y
        forgotten.append(operand() is None)
        return ln.sum(z)

    ln.grad(f)(ln.asarray([1.0, 2.0]))
    assert forgotten == [True]


def test_joining_what_is_differentiated_with_what_is_not() -> None:
    def f(x: Any) -> Any:
        return ln.sum(ln.concat([x, ln.asarray([7.0]), x]) ** 2)

    check_grads(f, (np.asarray([1.0, 2.0]),))
    ys = ln.vmap(lambda a: ln.concat([ln.asarray([0.0]), a]))(ln.asarray([[1.0], [2.0]]))
    assert ys.tolist() == [[0.0, 1.0], [0.0, 2.0]]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x: ln.reshape(x, (5, 5)), ShapeError, r"has 24 elements, not those of .*5, 5"),
        (lambda x: ln.reshape(x, (-1, -1)), ShapeError, "has 24 elements"),
        (lambda x: ln.reshape(x, (5, -1)), ShapeError, "has 24 elements"),
        (lambda x: ln.reshape(x, 2.0), ShapeError, "tuple of integers"),
        (lambda x: ln.expand_dims(x, axis=4), IndexRangeError, "axis 4 of an array of 4"),
        (lambda x: ln.expand_dims(x, axis=-5), IndexRangeError, "axis -5"),
        (lambda x: ln.squeeze(x, 0), ShapeError, "only axes of length 1"),
        (lambda x: ln.permute_dims(x, (0, 1)), ShapeError, "has 3 axes"),
        (lambda x: ln.permute_dims(x, (0, 0, 1)), ShapeError, "twice"),
        (lambda x: ln.moveaxis(x, (0, 1), 0), ShapeError, "2 axes to move to 1"),
        (lambda x: ln.matrix_transpose(x[0, 0]), ShapeError, "not a matrix"),
        (lambda x: ln.roll(x, (1, 2), axis=(0, 1, 2)), ShapeError, "2 shifts for 3 axes"),
        (lambda x: ln.concat([]), ShapeError, "no arrays"),
        (lambda x: ln.concat([x, x[0]]), ShapeError, r"array 1 float64\[3, 4\]"),
        (lambda x: ln.concat([x, x[:, 1:]]), ShapeError, "only axis 0 may differ"),
        (lambda x: ln.concat([x], axis=3), IndexRangeError, "axis 3"),
        (lambda x: ln.stack([x, x[:1]]), ShapeError, "their shapes must be equal"),
        (lambda x: ln.split(x, 3), ShapeError, "does not divide into 3"),
        (lambda x: ln.split(x, [2, 1], 1), ShapeError, "must ascend"),
        (lambda x: ln.broadcast_to(x, (3, 4)), ShapeError, "does not broadcast"),
        (lambda x: ln.broadcast_arrays(x, x[0, :2]), ShapeError, "do not broadcast"),
        (lambda x: ln.tile(x, -1), ShapeError, "negative"),
        (lambda x: ln.repeat(x, 1.5), DTypeError, "integers"),
        (lambda x: ln.repeat(x, [1, 2], axis=1), ShapeError, "3 of them"),
        (lambda x: ln.repeat(x, -1), ShapeError, "negative"),
        (lambda x: ln.pad(x, -1), ShapeError, "none negative"),
        (lambda x: ln.pad(x, 0.5), ShapeError, "widths are integers"),
        (lambda x: ln.pad(x, (1, 2, 3)), ShapeError, "pad_width"),
        (lambda x: ln.pad(x, 1, "mirror"), ValueError, "'mirror' is not"),
        (lambda x: ln.pad(x[:0], 1, "edge"), ShapeError, "no elements along axis 0"),
    ],
)
def test_errors(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        call(ln.asarray(np.zeros(SHAPE)))
    assert "test_manipulation.py" in str(caught.value)


@pytest.mark.peer
def test_second_derivatives_agree_with_torch() -> None:
    torch = pytest.importorskip("torch")
    x, v = RNG.standard_normal((2, 3, 4))
    w = RNG.standard_normal((5, 8))

    def ours(a: Any) -> Any:
        y = ln.concat([ln.roll(ln.flip(a, axis=0), 1, axis=1), ln.pad(a[1:], ((0, 0), (0, 0)))])
        y = ln.tile(ln.repeat(y, 2, axis=1)[:, ::2], (1, 2)) * ln.asarray(w)
        return ln.sum(ln.sin(y) * ln.stack([y, y * y])[1])

    def theirs(a: Any) -> Any:
        y = torch.cat([torch.roll(torch.flip(a, [0]), 1, 1), a[1:]])
        y = y.repeat_interleave(2, 1)[:, ::2].repeat(1, 2) * torch.tensor(w)
        return (torch.sin(y) * torch.stack([y, y * y])[1]).sum()

    h = ln.grad(lambda a: ln.sum(ln.grad(ours)(a) * ln.asarray(v)))(ln.asarray(x))
    t = torch.tensor(x, requires_grad=True)
    (g,) = torch.autograd.grad(theirs(t), t, create_graph=True)
    (expected,) = torch.autograd.grad((g * torch.tensor(v)).sum(), t)
    np.testing.assert_allclose(array(h), expected.numpy(), rtol=1e-11)
