"""Convolution and pooling against loops, finite differences, their duals and PyTorch."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lantern as ln
from lantern.errors import DTypeError, ShapeError
from lantern.primitives.windows import counts, fold, windows
from lantern.testing import check_grads

RNG = np.random.default_rng(3)
Array = np.ndarray[Any, Any]


def normal(*shape: int) -> Array:
    return RNG.standard_normal(shape)


def close(found: Any, expected: Any, tolerance: float = 1e-10) -> None:
    found = np.asarray(found)
    assert found.shape == np.shape(expected)
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def slow_conv(x: Array, w: Array, stride: int, padding: int, dilation: int, groups: int) -> Array:
    """Convolution over one axis of (n, c, l), from its definition."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding)))
    (n, c, length), (outputs, _, k) = x.shape, w.shape
    count = (length - dilation * (k - 1) - 1) // stride + 1
    out = np.zeros((n, outputs, count))
    for o, i in itertools.product(range(outputs), range(count)):
        group = slice(o // (outputs // groups) * (c // groups), None)
        part = x[:, group, i * stride : i * stride + dilation * (k - 1) + 1 : dilation]
        out[:, o, i] = (part[:, : c // groups] * w[o]).sum((1, 2))
    return out


@given(
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    groups=st.integers(1, 2),
    size=st.integers(1, 3),
    length=st.integers(5, 8),
)
@settings(max_examples=30, deadline=None)
def test_conv1d_is_its_definition(
    stride: int, padding: int, dilation: int, groups: int, size: int, length: int
) -> None:
    x, w = normal(2, 4, length), normal(6, 4 // groups, size)
    static = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    close(ln.conv1d(x, w, **static), slow_conv(x, w, **static))


@given(
    lead=st.lists(st.integers(0, 2), max_size=2).map(tuple),
    lengths=st.lists(st.integers(3, 5), min_size=1, max_size=2).map(tuple),
    data=st.data(),
)
@settings(max_examples=30, deadline=None)
def test_windows_and_fold_are_each_others_dual(
    lead: Any, lengths: Any, data: st.DataObject
) -> None:
    def draw(low: int, high: int) -> tuple[int, ...]:
        return tuple(data.draw(st.integers(low, high)) for _ in lengths)

    size, stride, dilation = draw(1, 2), draw(1, 3), draw(1, 2)
    padding = tuple(zip(draw(0, 2), draw(0, 1), strict=True))
    static = {"stride": stride, "dilation": dilation, "padding": padding}
    x = normal(*lead, *lengths)
    y = windows(x, size=size, **static)
    number = counts(lengths, size=size, **static)
    assert y.shape == (*lead, *size, *number)
    z = normal(*y.shape)
    back = fold(z, lengths=lengths, **static)
    assert back.shape == x.shape
    close(np.sum(y * z), np.sum(x * back))


@pytest.mark.parametrize(
    "static",
    [
        {},
        {"stride": 2, "padding": 1, "groups": 2},
        {"dilation": 2, "padding": "same"},
        {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)},
    ],
)
def test_conv2d_derivatives(static: Any) -> None:
    groups = static.get("groups", 1)
    check_grads(
        lambda x, w, b: ln.conv2d(x, w, b, **static),
        (normal(2, 2, 5, 4), normal(4, 2 // groups, 3, 2), normal(4)),
    )


@pytest.mark.parametrize(
    "static", [{}, {"stride": 2, "padding": 1, "output_padding": 1}, {"groups": 2, "dilation": 2}]
)
def test_conv_transpose_derivatives(static: Any) -> None:
    groups = static.get("groups", 1)
    weight = normal(4, 4 // groups, 3)
    check_grads(
        lambda x, w, b: ln.conv_transpose1d(x, w, b, **static), (normal(2, 4, 3), weight, normal(4))
    )


def test_conv_transpose_is_the_transpose() -> None:
    w = normal(6, 2, 3, 2)
    static: Any = {"stride": (2, 3), "padding": 1, "dilation": (1, 2), "groups": 2}
    y = normal(2, 4, 7, 8)
    forward = ln.conv2d(y, w, **static)
    x = normal(*forward.shape)
    _, pullback = ln.vjp(lambda y: ln.conv2d(y, w, **static), y)
    (expected,) = pullback(x)
    extra = ((7 + 2 - 2 - 1) % 2, (8 + 2 - 2 - 1) % 3)  # what the strides leave unread
    close(ln.conv_transpose2d(x, w, output_padding=extra, **static), np.asarray(expected))


@pytest.mark.parametrize(
    ("pool", "args"),
    [
        (lambda x: ln.max_pool2d(x, 2), (2, 3, 4, 6)),
        (lambda x: ln.max_pool2d(x, (2, 3), stride=1, padding=1), (2, 4, 4)),
        (lambda x: ln.max_pool1d(x, 2, stride=2, dilation=2, ceil_mode=True), (2, 7)),
        (lambda x: ln.avg_pool2d(x, 2), (2, 3, 4, 6)),
        (lambda x: ln.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False), (1, 5, 5)),
        (lambda x: ln.avg_pool1d(x, 3, stride=2, padding=1, ceil_mode=True), (2, 6)),
    ],
)
def test_pooling_derivatives_and_vmap(pool: Any, args: Any) -> None:
    x = normal(*args)
    check_grads(pool, (x,))
    many = np.stack([x, -x, 2 * x])
    close(ln.vmap(pool)(many), np.stack([np.asarray(pool(v)) for v in many]))


def test_equal_elements_of_a_window_share_the_derivative() -> None:
    g = ln.grad(lambda x: ln.sum(ln.max_pool1d(x, 3)))(np.array([[2.0, 2.0, 1.0]]))
    close(g, [[0.5, 0.5, 0.0]])


@pytest.mark.parametrize("mapped", [(0, None, None), (None, 0, None), (0, 0, 0), (None, None, 0)])
@pytest.mark.parametrize("f", [ln.conv2d, ln.conv_transpose2d])
def test_vmap_is_a_loop(f: Any, mapped: Any) -> None:
    groups = {"stride": 2, "padding": 1, "groups": 2}
    arrays = [normal(3, 2, 4, 4, 4), normal(3, 4, 2, 3, 3), normal(3, 4)]

    def loss(x: Any, w: Any, b: Any) -> Any:
        return ln.sum(ln.sin(f(x, w, b, **groups)))

    args = [a if m == 0 else a[0] for a, m in zip(arrays, mapped, strict=True)]
    out = ln.vmap(lambda x, w, b: f(x, w, b, **groups), in_axes=mapped)(*args)
    gradients = ln.vmap(ln.grad(loss, (0, 1, 2)), in_axes=mapped)(*args)
    for i in range(3):
        one = [a[i] if m == 0 else a[0] for a, m in zip(arrays, mapped, strict=True)]
        close(out[i], np.asarray(f(*one, **groups)))
        for g, h in zip(gradients, ln.grad(loss, (0, 1, 2))(*one), strict=True):
            close(g[i], np.asarray(h))


def test_leading_axes_are_free() -> None:
    x, w = normal(2, 3, 4, 6, 5), normal(2, 4, 3, 3)
    close(ln.conv2d(x, w), np.stack([np.asarray(ln.conv2d(v, w)) for v in x]))
    close(ln.conv2d(x[0, 0], w), np.asarray(ln.conv2d(x[0], w))[0])
    close(
        ln.conv_transpose2d(x[0, 0], t := normal(4, 2, 3, 3)),
        np.asarray(ln.conv_transpose2d(x[0], t))[0],
    )
    assert ln.conv2d(np.ones((0, 4, 6, 5)), w).shape == (0, 2, 4, 3)


def test_convolution_is_one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    product = np.matmul

    def spy(a: Any, b: Any) -> Any:
        shapes.append((a.shape[0], b.shape[0]))
        return product(a, b)

    x, w = normal(3, 4, 6, 6), normal(8, 2, 3, 3)
    monkeypatch.setattr(np, "matmul", spy)
    ln.grad(lambda x, w: ln.sum(ln.conv2d(x, w, groups=2)), (0, 1))(x, w)
    monkeypatch.undo()
    assert shapes == [(2, 2)] * 3


@pytest.mark.parametrize("dtype", [ln.float16, ln.bfloat16, ln.float32])
def test_dtypes_stay(dtype: Any) -> None:
    x, w = ln.asarray(normal(2, 3, 6), dtype=dtype), ln.asarray(normal(4, 3, 2), dtype=dtype)
    for f in (
        lambda x: ln.conv1d(x, w),
        lambda x: ln.conv_transpose1d(x, ln.permute_dims(w, (1, 0, 2))),
        lambda x: ln.max_pool1d(x, 2, padding=1),
        lambda x: ln.avg_pool1d(x, 2, padding=1),
    ):
        assert f(x).dtype == dtype
        assert ln.grad(lambda x, f=f: ln.sum(f(x)))(x).dtype == dtype
    whole = np.arange(6).reshape(1, 6)
    found = ln.max_pool1d(whole, 2, stride=2, padding=1)
    assert found.dtype == ln.int64
    np.testing.assert_array_equal(np.asarray(found), [[0, 2, 4, 5]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ln.conv1d(np.ones((1, 3, 5)), np.ones((2, 2, 3))), r"weight float64\[2, 2, 3\]"),
        (lambda: ln.conv1d(np.ones((1, 3, 5)), np.ones((2, 3))), "3 axes"),
        (lambda: ln.conv1d(np.ones((1, 3, 2)), np.ones((2, 3, 3))), "no window"),
        (lambda: ln.conv1d(np.ones((1, 3, 5)), np.ones((2, 3, 3)), np.ones(3)), "bias"),
        (lambda: ln.conv1d(np.ones((1, 4, 5)), np.ones((3, 2, 3)), groups=2), "groups 2"),
        (lambda: ln.conv1d(np.ones((1, 3, 5)), np.ones((2, 3, 3)), stride=0), "stride 0"),
        (lambda: ln.conv2d(np.ones((3, 5, 5)), np.ones((2, 3, 3, 3)), stride=(1, 1, 1)), "stride"),
        (
            lambda: ln.conv1d(np.ones((1, 3, 5)), np.ones((2, 3, 3)), padding="same", stride=2),
            "expected stride 1",
        ),
        (lambda: ln.conv1d(np.ones((1, 3, 5)), np.ones((2, 3, 3)), padding="full"), "'full'"),
        (
            lambda: ln.conv_transpose1d(np.ones((1, 3, 5)), np.ones((3, 2, 3)), output_padding=1),
            "below the stride",
        ),
        (lambda: ln.max_pool2d(np.ones((1, 3, 5)), 6), "no window"),
        (lambda: ln.max_pool2d(np.ones((1, 3, 5)), 2, padding=2), "half a window"),
        (lambda: ln.avg_pool2d(np.ones((3, 5)), 2), "expected"),
    ],
)
def test_settings_that_do_not_fit(call: Any, message: str) -> None:
    with pytest.raises(ShapeError, match=message) as caught:
        call()
    assert "test_convolution.py" in str(caught.value)


def test_means_of_integers_are_refused() -> None:
    with pytest.raises(DTypeError, match="floating"):
        ln.avg_pool1d(np.ones((2, 4), np.int64), 2)


# PyTorch ----------------------------------------------------------------------------------------


def same_as_pytorch(ours: Any, theirs: Any, *arrays: Array) -> None:
    """The values, and the gradients along a random direction, of all arguments."""
    torch = pytest.importorskip("torch")
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    out = theirs(*tensors)
    direction = normal(*out.shape)
    out.backward(torch.tensor(direction))
    found, pullback = ln.vjp(ours, *arrays)
    close(found, out.detach().numpy())
    for g, v in zip(pullback(direction), tensors, strict=True):
        close(g, v.grad.numpy())


@pytest.mark.peer
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("stride", [1, 2, (2, 3)])
@pytest.mark.parametrize("padding", [0, 1, (1, 2)])
@pytest.mark.parametrize("dilation", [1, (1, 2)])
def test_conv2d_is_that_of_pytorch(groups: int, stride: Any, padding: Any, dilation: Any) -> None:
    functional = pytest.importorskip("torch.nn.functional")
    static = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    x, b = normal(2, 4, 8, 7), normal(6)
    same_as_pytorch(
        lambda *a: ln.conv2d(*a, **static),
        lambda *a: functional.conv2d(*a, **static),
        x,
        normal(6, 4 // groups, 3, 2),
        b,
    )
    if stride == 2:
        static["output_padding"] = 1
    same_as_pytorch(
        lambda *a: ln.conv_transpose2d(*a, **static),
        lambda *a: functional.conv_transpose2d(*a, **static),
        x,
        normal(4, 6 // groups, 3, 2),
        b,
    )


@pytest.mark.peer
@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_named_paddings_are_those_of_pytorch(size: int, padding: str) -> None:
    functional = pytest.importorskip("torch.nn.functional")
    for dilation in (1, 2):
        static: Any = {"padding": padding, "dilation": dilation}
        same_as_pytorch(
            lambda *a, s=static: ln.conv1d(*a, **s),
            lambda *a, s=static: functional.conv1d(*a, **s),
            normal(2, 3, 10),
            normal(4, 3, size),
        )


@pytest.mark.peer
@pytest.mark.parametrize("size", [2, 3, (2, 3)])
@pytest.mark.parametrize("stride", [None, 1, 2, 4])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_pooling_is_that_of_pytorch(size: Any, stride: Any, padding: int, ceil_mode: bool) -> None:
    functional = pytest.importorskip("torch.nn.functional")
    x = normal(2, 3, 8, 9)
    static = {"stride": stride, "padding": padding, "ceil_mode": ceil_mode}
    same_as_pytorch(
        lambda x: ln.max_pool2d(x, size, **static),
        lambda x: functional.max_pool2d(x, size, **static),
        x,
    )
    for include in (False, True):
        same_as_pytorch(
            lambda x, i=include: ln.avg_pool2d(x, size, count_include_pad=i, **static),
            lambda x, i=include: functional.avg_pool2d(x, size, count_include_pad=i, **static),
            x,
        )
    if isinstance(size, int):
        same_as_pytorch(
            lambda x: ln.max_pool1d(x, size, dilation=2, **static),
            lambda x: functional.max_pool1d(x, size, dilation=2, **static),
            x[0],
        )
