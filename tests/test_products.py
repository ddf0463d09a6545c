"""Products and contractions against NumPy, finite differences, loops and PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import lantern as ln
from lantern.errors import IndexRangeError, ShapeError
from lantern.testing import check_grads

RNG = np.random.default_rng(5)


def normal(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.standard_normal(shape)


def close(found: Any, expected: Any, tolerance: float = 1e-12) -> None:
    found = np.asarray(found)
    assert found.shape == np.shape(expected)
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def same_as_loop(f: Any, *args: Any) -> None:
    """`vmap` of ``f``, over any set of the arguments, is a loop; so is that of its gradient."""
    many = [np.stack([a, -2 * a, a + 1]) for a in args]

    def loss(*xs: Any) -> Any:
        return ln.sum(ln.sin(f(*xs)))

    for choice in range(1, 2 ** len(args)):
        axes = tuple(0 if choice >> k & 1 else None for k in range(len(args)))

        def pick(i: int, axes: Any = axes) -> list[Any]:
            return [m[i] if k == 0 else a for m, a, k in zip(many, args, axes, strict=True)]

        mixed = [m if k == 0 else a for m, a, k in zip(many, args, axes, strict=True)]
        close(
            ln.vmap(f, in_axes=axes)(*mixed),
            np.stack([np.asarray(f(*pick(i))) for i in range(3)]),
            1e-9,
        )
        every = tuple(range(len(args)))
        gradients = ln.vmap(ln.grad(loss, every), in_axes=axes)(*mixed)
        for k, g in enumerate(gradients):
            close(g, np.stack([np.asarray(ln.grad(loss, k)(*pick(i))) for i in range(3)]), 1e-9)


MATMUL = [
    ((3, 4), (4, 5)),
    ((2, 3, 4), (4, 5)),
    ((4,), (4,)),
    ((4,), (4, 5)),
    ((3, 4), (4,)),
    ((2, 3, 4), (4,)),
    ((4,), (2, 4, 5)),
    ((3, 4), (2, 4, 5)),
    ((2, 1, 3, 4), (5, 4, 2)),
    ((2, 3, 1, 2, 4), (2, 1, 4, 4, 3)),
    ((0, 3, 4), (4, 5)),
    ((2, 3, 0), (0, 5)),
]


@pytest.mark.parametrize(("a", "b"), MATMUL)
def test_matmul(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    x, y = normal(*a), normal(*b)
    close(ln.matmul(x, y), x @ y)
    close(ln.asarray(x) @ ln.asarray(y), x @ y)
    if 0 in (*a, *b):
        for g, v in zip(ln.grad(lambda x, y: ln.sum(x @ y), (0, 1))(x, y), (x, y), strict=True):
            close(g, np.zeros(v.shape))
    else:
        check_grads(ln.matmul, (x, y))
        same_as_loop(ln.matmul, x, y)


def test_matmul_takes_a_shared_weight_in_one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """(B, T, D) @ (D, F) and its two gradients are one product of two matrices each."""
    calls: list[tuple[int, ...]] = []
    product = np.matmul

    def spy(a: Any, b: Any) -> Any:
        calls.append((a.ndim, b.ndim))
        return product(a, b)

    x, w = normal(3, 4, 5), normal(5, 6)
    for f in (ln.matmul, lambda x, w: ln.einsum("btd,df->btf", x, w)):
        calls.clear()
        monkeypatch.setattr(np, "matmul", spy)
        gx, gw = ln.grad(lambda x, w, f=f: ln.sum(f(x, w)), (0, 1))(x, w)
        monkeypatch.undo()
        assert calls == [(2, 2)] * 3
        close(gw, np.einsum("btd,btf->df", x, np.ones((3, 4, 6))))
        close(gx, np.broadcast_to(w.sum(1), x.shape))


def test_vmap_over_inputs_stays_one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []
    product = np.matmul

    def spy(a: Any, b: Any) -> Any:
        calls.append(a.shape)
        return product(a, b)

    x, w = normal(3, 4, 5), normal(5, 6)
    monkeypatch.setattr(np, "matmul", spy)
    out = ln.vmap(ln.matmul, in_axes=(0, None))(x, w)
    monkeypatch.undo()
    assert calls == [(12, 5)]
    close(out, x @ w)


def test_transposed_views_reach_the_product_uncopied(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    product = np.matmul

    def spy(a: Any, b: Any) -> Any:
        seen.append(b)
        return product(a, b)

    w = normal(6, 5)
    monkeypatch.setattr(np, "matmul", spy)
    t = ln.asarray(w)
    ln.matmul(normal(2, 5), ln.matrix_transpose(t))
    monkeypatch.undo()
    assert np.shares_memory(seen[0], t.value)


def test_layouts_that_blas_does_not_read() -> None:
    x, y = normal(4, 3, 5), normal(5, 6)
    row = np.broadcast_to(normal(1, 5), (3, 5))
    for view in (
        x[:, ::-1],
        x[..., ::-1],
        np.swapaxes(normal(4, 5, 3), 1, 2),
        normal(4, 3, 10)[..., ::2],
        np.broadcast_to(row, (4, 3, 5)),
        row,
    ):
        close(ln.matmul(view, y), view @ y)
        close(ln.matmul(view, y[:, ::-1]), view @ y[:, ::-1])
        close(
            ln.matmul(view, np.broadcast_to(y, (4, 5, 6))),
            view @ y if view.ndim == 3 else [row @ y] * 4,
        )


@pytest.mark.parametrize("dtype", [ln.float16, ln.bfloat16])
def test_small_floats_add_up_in_float32(dtype: Any) -> None:
    ones = ln.ones((1, 5000), dtype=dtype)
    out = ln.matmul(ones, ln.matrix_transpose(ones))
    assert out.dtype == dtype
    assert float(out[0, 0]) == float(np.asarray(5000, np.float32).astype(dtype))
    gradient = ln.grad(lambda x: ln.sum(ln.matmul(x, ln.matrix_transpose(x))))(ones)
    assert gradient.dtype == dtype


@pytest.mark.parametrize("dtype", [ln.int8, ln.uint8, ln.int32, ln.int64])
def test_integers_keep_their_dtype(dtype: Any) -> None:
    x = np.arange(6, dtype=dtype).reshape(2, 3)
    for out, expected in [
        (ln.matmul(x, x.T), x @ x.T),
        (ln.tensordot(x, x, axes=2), np.tensordot(x, x, 2)),
        (ln.vecdot(x, x), np.vecdot(x, x)),
        (ln.einsum("ij,kj->ik", x, x), x @ x.T),
        (ln.cross(x, x[::-1]), np.cross(x, x[::-1])),
        (ln.outer(x[0], x[1]), np.outer(x[0], x[1])),
        (ln.diagonal(x), np.diagonal(x)),
    ]:
        assert out.dtype == dtype
        np.testing.assert_array_equal(np.asarray(out), expected)
    assert ln.trace(x).dtype == (ln.uint64 if dtype == ln.uint8 else ln.int64)


def test_dtypes_are_promoted() -> None:
    x32, x64, i = np.ones((2, 2), np.float32), np.ones((2, 2)), np.ones((2, 2), np.int32)
    assert ln.matmul(x32, x64).dtype == ln.float64
    assert ln.matmul(x32, i).dtype == ln.float32
    assert ln.einsum("ij,jk,kl", x32, i, x64).dtype == ln.float64
    assert ln.einsum(",ij", 2.0, x32).dtype == ln.float32
    assert ln.einsum(",ij", 2.0, x64).dtype == ln.float64


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_einsum_is_that_of_numpy(data: st.DataObject) -> None:
    """Random subscripts: repeated letters, ellipses, lengths of 1, implicit results."""
    length = {c: data.draw(st.integers(1, 3)) for c in "abcd"}
    parts, shapes = [], []
    for _ in range(data.draw(st.integers(1, 3))):
        letters = data.draw(st.text("abcd", max_size=3))
        shape = [length[c] for c in letters]
        if len(set(letters)) == len(letters) and letters and data.draw(st.booleans()):
            shape[0] = 1
        if data.draw(st.booleans()):
            extra = data.draw(st.sampled_from([(), (2,), (3, 2), (1,)]))
            at = data.draw(st.integers(0, len(letters)))
            letters = letters[:at] + "..." + letters[at:]
            shape[at:at] = extra
        parts.append(letters)
        shapes.append(tuple(shape))
    subscripts = ",".join(parts)
    names = sorted(set(subscripts) & set("abcd"))
    if data.draw(st.booleans()):
        out = "".join(data.draw(st.lists(st.sampled_from(names), unique=True)) if names else [])
        at = data.draw(st.integers(0, len(out)))
        subscripts += "->" + out[:at] + ("..." if "..." in subscripts else "") + out[at:]
    arrays = [np.asarray(RNG.standard_normal(s)) for s in shapes]
    try:
        expected = np.einsum(subscripts, *arrays)
    except ValueError:
        assume(False)
    close(ln.einsum(subscripts, *arrays), expected, 1e-9)


EINSUM = [
    ("ij,jk->ki", (2, 3), (3, 4)),
    ("bthd,bshd->bhts", (2, 3, 2, 4), (2, 2, 2, 4)),
    ("...ij,...jk", (2, 1, 2, 3), (3, 3, 2)),
    ("ii", (3, 3)),
    ("iji->j", (3, 2, 3)),
    ("ij->", (2, 3)),
    ("i,j,k->kij", (2,), (3,), (2,)),
    ("ij,jk,kl->il", (2, 3), (3, 4), (4, 2)),
    ("i,i->", (3,), (3,)),
    ("ij,ij->ij", (1, 3), (2, 3)),
    ("a...b,b", (2, 2, 3), (3,)),
    (",ij->ij", (), (2, 2)),
]


@pytest.mark.parametrize("case", EINSUM, ids=lambda c: c[0])
def test_einsum_derivatives(case: Any) -> None:
    subscripts, *shapes = case
    arrays = [normal(*s) for s in shapes]
    close(ln.einsum(subscripts, *arrays), np.einsum(subscripts, *arrays))
    check_grads(lambda *xs: ln.einsum(subscripts, *xs), tuple(arrays))
    same_as_loop(lambda *xs: ln.einsum(subscripts, *xs), *arrays)


def test_einsum_takes_lists_of_numbers() -> None:
    x, y = normal(2, 3, 4), normal(4, 3, 5)
    close(
        ln.einsum(x, [0, 1, 2], y, [2, 1, 3], [3, 0]),
        np.einsum(x, [0, 1, 2], y, [2, 1, 3], [3, 0]),
    )
    close(
        ln.einsum(x, [Ellipsis, 7], y, [7, 1, 3]),
        np.einsum(x, [Ellipsis, 7], y, [7, 1, 3]),
    )


def test_einsum_contracts_the_small_things_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain that ends in a vector never multiplies two matrices."""
    sizes: list[int] = []
    product = np.matmul

    def spy(a: Any, b: Any) -> Any:
        out = product(a, b)
        sizes.append(out.size)
        return out

    a, b, v = normal(20, 20), normal(20, 20), normal(20)
    monkeypatch.setattr(np, "matmul", spy)
    out = ln.einsum("ij,jk,k->i", a, b, v)
    monkeypatch.undo()
    assert sizes == [20, 20]
    close(out, a @ (b @ v), 1e-10)


@pytest.mark.parametrize(
    ("subscripts", "shapes", "message"),
    [
        ("ij,jk", [(2, 3), (4, 5)], r"axis 'j' has lengths 3 and 4 in float64\[2, 3\]"),
        ("ij", [(2,)], "names 2 axes"),
        ("i", [(2, 3)], "names 1 axes"),
        ("i,i", [(2,)], "2 operands are named and 1 given"),
        ("ij->ik", [(2, 3)], "different letters"),
        ("ij->ii", [(2, 3)], "different letters"),
        ("...i->i", [(2, 3)], r"write '\.\.\.' after"),
        ("i1", [(2, 3)], "not made of letters"),
        ("ii", [(2, 3)], "lengths"),
    ],
)
def test_einsum_errors(subscripts: str, shapes: list[Any], message: str) -> None:
    with pytest.raises(ShapeError, match=message) as caught:
        ln.einsum(subscripts, *(np.ones(s) for s in shapes))
    assert "test_products.py" in str(caught.value)


@pytest.mark.parametrize(
    ("a", "b", "axes"),
    [
        ((2, 3, 4), (3, 4, 5), 2),
        ((2, 3), (4, 5), 0),
        ((2, 3, 4), (4, 3, 5), ((2, 1), (0, 1))),
        ((2, 3, 4), (4, 3, 5), ((-1, -2), (0, -2))),
        ((3,), (3,), 1),
        ((2, 3), (2, 3), ((), ())),
    ],
)
def test_tensordot(a: Any, b: Any, axes: Any) -> None:
    x, y = normal(*a), normal(*b)

    def f(x: Any, y: Any) -> Any:
        return ln.tensordot(x, y, axes=axes)

    close(f(x, y), np.tensordot(x, y, axes))
    check_grads(f, (x, y))
    same_as_loop(f, x, y)


@pytest.mark.parametrize(
    ("a", "b", "axis"), [((3,), (3,), -1), ((2, 3), (3,), -1), ((3, 1), (2, 3, 4), -2)]
)
def test_vecdot(a: Any, b: Any, axis: int) -> None:
    x, y = normal(*a), normal(*b)

    def f(x: Any, y: Any) -> Any:
        return ln.vecdot(x, y, axis=axis)

    close(f(x, y), np.vecdot(x, y, axis=axis))
    check_grads(f, (x, y))
    same_as_loop(f, x, y)


@pytest.mark.parametrize(
    ("ours", "theirs", "a", "b"),
    [
        (ln.inner, np.inner, (2, 3), (4, 3)),
        (ln.inner, np.inner, (), (4, 3)),
        (ln.dot, np.dot, (2, 3), (4, 3, 2)),
        (ln.dot, np.dot, (2, 3), (3,)),
        (ln.dot, np.dot, (2, 3), ()),
        (ln.outer, np.outer, (2,), (3,)),
        (ln.kron, np.kron, (2, 3), (2, 2)),
        (ln.kron, np.kron, (2,), (3, 2, 2)),
        (ln.cross, np.cross, (2, 3), (3,)),
        (ln.cross, np.cross, (3,), (4, 3)),
    ],
)
def test_other_products(ours: Any, theirs: Any, a: Any, b: Any) -> None:
    x, y = normal(*a), normal(*b)
    close(ours(x, y), theirs(x, y))
    check_grads(ours, (x, y))
    same_as_loop(ours, x, y)


def test_cross_along_another_axis() -> None:
    x, y = normal(3, 2), normal(4, 3, 2)
    close(ln.cross(x, y, axis=-2), np.cross(x, y, axis=-2))
    close(ln.cross(y, y[:1] + 1, axis=1), np.cross(y, y[:1] + 1, axis=1))


@pytest.mark.parametrize("offset", [-7, -2, -1, 0, 1, 3, 9])
def test_diagonals(offset: int) -> None:
    x = normal(2, 3, 4)
    expected = np.diagonal(x, offset, -2, -1)
    close(ln.diagonal(x, offset=offset), expected)
    close(ln.trace(x, offset=offset), expected.sum(-1))
    close(ln.diag(x[0], offset), np.diag(x[0], offset))
    close(ln.diag(x[0, 0], offset), np.diag(x[0, 0], offset))
    close(ln.diagonal(x, offset=offset, axis1=2, axis2=0), np.diagonal(x, offset, 2, 0))
    check_grads(lambda x: (ln.diagonal(x, offset=offset), ln.trace(x, offset=offset)), (x,))
    check_grads(lambda x: ln.diag(x, offset), (x[0, 0],))
    same_as_loop(lambda x: ln.diagonal(x, offset=offset), x)
    same_as_loop(lambda x: ln.diag(x, offset), x[0, 0])


@pytest.mark.parametrize(
    "call",
    [
        lambda: ln.matmul(np.ones((2, 3)), np.ones((4, 5))),
        lambda: ln.matmul(1.0, np.ones(3)),
        lambda: ln.matmul(np.ones((2, 3, 4)), np.ones((3, 4, 5))),
        lambda: ln.tensordot(np.ones((2, 3)), np.ones((4, 5)), axes=1),
        lambda: ln.tensordot(np.ones(2), np.ones(2), axes=2),
        lambda: ln.tensordot(np.ones((2, 2)), np.ones((2, 2)), axes=((0,), (0, 1))),
        lambda: ln.vecdot(np.ones(1), np.ones(3)),
        lambda: ln.vecdot(np.ones((2, 3)), np.ones((4, 3))),
        lambda: ln.outer(np.ones((2, 2)), np.ones(3)),
        lambda: ln.cross(np.ones(2), np.ones(2)),
        lambda: ln.diagonal(np.ones(2)),
        lambda: ln.diag(np.ones((2, 2, 2))),
    ],
)
def test_shapes_that_do_not_fit(call: Any) -> None:
    with pytest.raises(ShapeError) as caught:
        call()
    assert "float" in str(caught.value) or "shape" in str(caught.value)
    assert "test_products.py" in str(caught.value)


def test_axes_that_do_not_exist() -> None:
    with pytest.raises(IndexRangeError):
        ln.vecdot(np.ones((2, 3)), np.ones(3), axis=-2)
    with pytest.raises(IndexRangeError):
        ln.cross(np.ones(3), np.ones((2, 3)), axis=0)


@pytest.mark.peer
@pytest.mark.parametrize("case", EINSUM, ids=lambda c: c[0])
def test_einsum_agrees_with_pytorch(case: Any) -> None:
    torch = pytest.importorskip("torch")
    subscripts, *shapes = case
    arrays = [normal(*s) for s in shapes]
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    out = torch.einsum(subscripts, *tensors)
    out.sin().sum().backward()
    gradients = ln.grad(
        lambda *xs: ln.sum(ln.sin(ln.einsum(subscripts, *xs))), tuple(range(len(arrays)))
    )(*arrays)
    for g, t in zip(gradients, tensors, strict=True):
        close(g, t.grad.numpy(), 1e-10)


def test_einsum_without_subscripts() -> None:
    with pytest.raises(TypeError, match=r"einsum of float32\[2\] alone: expected subscripts"):
        ln.einsum(ln.ones(2))
