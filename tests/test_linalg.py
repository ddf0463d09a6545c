"""Linear algebra against NumPy, finite differences, loops, singular cases and PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lantern as ln
from lantern import linalg
from lantern.errors import DTypeError, LanternError, ShapeError
from lantern.testing import check_grads

RNG = np.random.default_rng(11)
Array = np.ndarray[Any, Any]
t = ln.matrix_transpose


def normal(*shape: int) -> Array:
    return RNG.standard_normal(shape)


def positive(*shape: int) -> Array:
    a = normal(*shape)
    return a @ np.swapaxes(a, -1, -2) + shape[-1] * np.eye(shape[-1])


def close(found: Any, expected: Any, tolerance: float = 1e-10) -> None:
    found = np.asarray(found)
    assert found.shape == np.shape(expected)
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def tuples(f: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *xs: tuple(f(*xs))


def completed(x: Any) -> Any:
    """What is right about the complete QR: the projection onto the added columns, and R."""
    q, r = linalg.qr(x, mode="complete")
    added = q[..., x.shape[-1] :]
    return ln.matmul(added, t(added)), r


def full(x: Any) -> Any:
    """What is right about the full SVD: the added projections, the values, the product."""
    u, s, vh = linalg.svd(x)
    k = s.shape[-1]
    added, below = u[..., k:], vh[..., k:, :]
    product = ln.matmul(u[..., :k] * s[..., None, :], vh[..., :k, :])
    return ln.matmul(added, t(added)), ln.matmul(t(below), below), s, product


CASES: dict[str, tuple[Callable[..., Any], tuple[Array, ...]]] = {
    "cholesky": (linalg.cholesky, (positive(3, 3),)),
    "cholesky upper": (lambda x: linalg.cholesky(x, upper=True), (positive(2, 3, 3),)),
    "solve": (linalg.solve, (positive(3, 3), normal(3, 2))),
    "solve vector": (linalg.solve, (positive(2, 3, 3), normal(3))),
    "solve broadcast": (linalg.solve, (positive(3, 3), normal(2, 1, 3, 2))),
    "solve many": (linalg.solve, (positive(2, 1, 3, 3), normal(4, 3, 2))),
    "inv": (linalg.inv, (positive(2, 3, 3),)),
    "det": (linalg.det, (normal(2, 3, 3),)),
    "det of one": (linalg.det, (normal(1, 1),)),
    "slogdet": (lambda x: linalg.slogdet(x)[1], (normal(2, 3, 3),)),
    "qr": (tuples(linalg.qr), (normal(2, 4, 3),)),
    "qr wide": (tuples(linalg.qr), (normal(2, 4),)),
    "qr square": (tuples(linalg.qr), (normal(3, 3),)),
    "qr complete": (completed, (normal(4, 2),)),
    "eigh": (tuples(linalg.eigh), (positive(2, 3, 3),)),
    "eigh lower": (tuples(lambda x: linalg.eigh(x, "L")), (normal(3, 3),)),
    "eigh upper": (tuples(lambda x: linalg.eigh(x, "U")), (normal(3, 3),)),
    "eigvalsh": (linalg.eigvalsh, (normal(2, 3, 3),)),
    "svd": (tuples(linalg.svd), (normal(2, 3, 3),)),
    "svd tall": (tuples(lambda x: linalg.svd(x, full_matrices=False)), (normal(4, 3),)),
    "svd wide": (tuples(lambda x: linalg.svd(x, full_matrices=False)), (normal(2, 3, 4),)),
    "svd full tall": (full, (normal(4, 2),)),
    "svd full wide": (full, (normal(2, 4),)),
    "svdvals": (linalg.svdvals, (normal(2, 4, 3),)),
    "pinv tall": (linalg.pinv, (normal(2, 4, 3),)),
    "pinv wide": (linalg.pinv, (normal(2, 3),)),
    "norm": (linalg.norm, (normal(2, 3),)),
    "norm nuc axes": (lambda x: linalg.norm(x, "nuc", axis=(0, 2)), (normal(3, 2, 4),)),
}
CASES |= {
    f"matrix_power {n}": (lambda x, n=n: linalg.matrix_power(x, n), (positive(2, 2, 2) / 3,))
    for n in (-3, -1, 0, 1, 2, 5, 6)
}
CASES |= {
    f"vector_norm {o}": (
        lambda x, o=o: linalg.vector_norm(x, ord=o, axis=(0, 2)),
        (normal(2, 3, 2),),
    )
    for o in (np.inf, -np.inf, 0, 1, 2, 3, 2.5, 0.5, -1, -2.5)
}
CASES |= {
    f"matrix_norm {o}": (lambda x, o=o: linalg.matrix_norm(x, ord=o), (normal(2, 3, 2),))
    for o in ("fro", "nuc", 1, -1, 2, -2, np.inf, -np.inf)
}


@pytest.mark.parametrize("name", CASES)
def test_derivatives_to_second_order(name: str) -> None:
    f, args = CASES[name]
    check_grads(f, args)


@pytest.mark.parametrize("name", CASES)
def test_vmap_is_a_loop(name: str) -> None:
    f, args = CASES[name]

    def flat(*xs: Any) -> Any:
        out = f(*xs)
        return ln.sum(sum(ln.sum(y * y * y) for y in (out if isinstance(out, tuple) else (out,))))

    moved = [a + 0.1 * np.eye(*a.shape[-2:]) if a.ndim > 1 else -a for a in args]
    many = [np.stack([a, 1.5 * a, b]) for a, b in zip(args, moved, strict=True)]
    for choice in range(1, 2 ** len(args)):
        axes = tuple(0 if choice >> k & 1 else None for k in range(len(args)))
        mixed = [m if k == 0 else a for m, a, k in zip(many, args, axes, strict=True)]
        out = ln.vmap(f, in_axes=axes)(*mixed)
        outs = out if isinstance(out, tuple) else (out,)
        gradients = ln.vmap(ln.grad(flat, tuple(range(len(args)))), in_axes=axes)(*mixed)
        for i in range(3):
            xs = [m[i] if k == 0 else a for m, a, k in zip(many, args, axes, strict=True)]
            one = f(*xs)
            ones = one if isinstance(one, tuple) else (one,)
            for y, z in zip(outs, ones, strict=True):
                close(y[i], np.asarray(z))
            single = ln.grad(flat, tuple(range(len(args))))(*xs)
            for g, h in zip(gradients, single, strict=True):
                close(g[i], np.asarray(h), 1e-7)


# Values -----------------------------------------------------------------------------------------


@given(
    lead=st.lists(st.integers(0, 3), max_size=2).map(tuple),
    m=st.integers(1, 4),
    n=st.integers(1, 4),
    seed=st.integers(0, 99),
    dtype=st.sampled_from([np.float32, np.float64]),
)
@settings(max_examples=30, deadline=None)
def test_values_shapes_and_dtypes(lead: Any, m: int, n: int, seed: int, dtype: Any) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((*lead, m, n)).astype(dtype)
    k = min(m, n)
    tolerance = 1e-4 if dtype == np.float32 else 1e-10

    def check(found: Any, expected: Any) -> None:
        assert found.dtype == dtype
        close(found, expected, tolerance)

    for mode in ("reduced", "complete"):
        q, r = linalg.qr(x, mode=mode)
        check(ln.matmul(q, r), x)
        check(ln.matmul(t(q), q), np.broadcast_to(np.eye(q.shape[-1]), (*lead, *q.shape[-1:] * 2)))
        np.testing.assert_array_equal(np.asarray(r), np.triu(np.asarray(r)))
        assert q.shape[-1] == r.shape[-2] == (k if mode == "reduced" else m)
    for whole in (True, False):
        u, s, vh = linalg.svd(x, full_matrices=whole)
        check(s, np.linalg.svd(x, compute_uv=False))
        check(ln.matmul(u[..., :k] * s[..., None, :], vh[..., :k, :]), x)
        for v in (t(u), vh):
            check(
                ln.matmul(v, t(v)),
                np.broadcast_to(np.eye(v.shape[-2]), (*lead, *v.shape[-2:-1] * 2)),
            )
        assert u.shape[-2:] == (m, m if whole else k)
        assert vh.shape[-2:] == (n if whole else k, n)
    check(linalg.svdvals(x), np.linalg.svd(x, compute_uv=False))
    check(linalg.pinv(x, rtol=1e-3), np.linalg.pinv(x, rcond=1e-3))
    rank = linalg.matrix_rank(x)
    assert rank.dtype == ln.int64
    np.testing.assert_array_equal(np.asarray(rank), np.linalg.matrix_rank(x))
    for order in ("fro", "nuc", 1, -1, 2, -2, np.inf, -np.inf):
        for keep in (False, True):
            check(
                linalg.matrix_norm(x, ord=order, keepdims=keep),
                np.linalg.matrix_norm(x, ord=order, keepdims=keep),
            )


@given(
    lead=st.lists(st.integers(0, 3), max_size=2).map(tuple),
    n=st.integers(0, 4),
    seed=st.integers(0, 99),
    dtype=st.sampled_from([np.float32, np.float64]),
)
@settings(max_examples=30, deadline=None)
def test_values_of_square_matrices(lead: Any, n: int, seed: int, dtype: Any) -> None:
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((*lead, n, n))
    x = (a @ np.swapaxes(a, -1, -2) + np.eye(n)).astype(dtype)
    b = rng.standard_normal((*lead, n, 2)).astype(dtype)
    tolerance = 2e-3 if dtype == np.float32 else 1e-9

    def check(found: Any, expected: Any) -> None:
        assert found.dtype == dtype
        close(found, expected, tolerance)

    check(linalg.cholesky(x), np.linalg.cholesky(x))
    check(linalg.cholesky(x, upper=True), np.swapaxes(np.linalg.cholesky(x), -1, -2))
    w, v = linalg.eigh(x)
    check(w, np.linalg.eigvalsh(x))
    check(linalg.eigvalsh(x), np.linalg.eigvalsh(x))
    check(ln.matmul(v * w[..., None, :], t(v)), x)
    check(linalg.inv(x), np.linalg.inv(x))
    check(linalg.solve(x, b), np.linalg.solve(x, b))
    check(linalg.det(a.astype(dtype)), np.linalg.det(a.astype(dtype)))
    for found, expected in zip(linalg.slogdet(x), np.linalg.slogdet(x), strict=True):
        check(found, expected)
    for k in (-2, 0, 1, 3):
        check(linalg.matrix_power(x / 4, k), np.linalg.matrix_power(x / 4, k))


@given(
    shape=st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple),
    order=st.sampled_from([np.inf, -np.inf, 0, 1, 2, 3, -1, -2, 0.5, 2.5, -1.5]),
    keep=st.booleans(),
    data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_vector_norms(shape: Any, order: Any, keep: bool, data: st.DataObject) -> None:
    x = normal(*shape)
    axis = data.draw(
        st.none()
        | st.integers(-len(shape), len(shape) - 1)
        | st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True).map(tuple)
    )
    found = linalg.vector_norm(x, axis=axis, keepdims=keep, ord=order)
    close(found, np.linalg.vector_norm(x, axis=axis, keepdims=keep, ord=order))


@pytest.mark.parametrize(
    ("shape", "order", "axis"),
    [
        ((3,), None, None),
        ((2, 3), None, None),
        ((2, 3, 4), None, None),
        ((2, 3), "nuc", None),
        ((2, 3), 2, None),
        ((3,), 1, None),
        ((2, 3, 4), 3, 1),
        ((2, 3, 4), None, (0, 2)),
        ((2, 3, 4), 1, (2, 0)),
        ((2, 3, 4), "fro", (-1, 0)),
    ],
)
def test_norm_is_that_of_numpy(shape: Any, order: Any, axis: Any) -> None:
    x = normal(*shape)
    for keep in (False, True):
        close(linalg.norm(x, order, axis, keep), np.linalg.norm(x, order, axis, keep))


def test_extension_names() -> None:
    for name in linalg.__all__:
        assert hasattr(linalg, name)
    for name, fields in [
        ("eigh", ("eigenvalues", "eigenvectors")),
        ("qr", ("Q", "R")),
        ("slogdet", ("sign", "logabsdet")),
        ("svd", ("U", "S", "Vh")),
    ]:
        assert getattr(linalg, name)(positive(2, 2))._fields == fields


@pytest.mark.parametrize("dtype", [ln.float16, ln.bfloat16])
@pytest.mark.parametrize("name", [n for n in CASES if not n.startswith(("qr c", "svd f"))])
def test_small_floats_go_through_float32(dtype: Any, name: str) -> None:
    f, args = CASES[name]
    small = [ln.asarray(a, dtype=dtype) for a in args]
    rounded = [ln.astype(a, ln.float32) for a in small]
    out, expected = f(*small), f(*rounded)
    for y, z in zip(*(v if isinstance(v, tuple) else (v,) for v in (out, expected)), strict=True):
        assert y.dtype == dtype
        close(ln.astype(y, ln.float32), np.asarray(z), 0.05)
    gradients = ln.grad(
        lambda *xs: sum(ln.sum(y) for y in (lambda v: v if isinstance(v, tuple) else (v,))(f(*xs))),
        tuple(range(len(args))),
    )(*small)
    assert all(g.dtype == dtype for g in gradients)


def test_large_symmetric_matrices_do_not_overflow() -> None:
    x = np.full((2, 2), np.finfo(np.float32).max, np.float32)
    assert np.isfinite(np.asarray(linalg.eigvalsh(np.eye(2, dtype=np.float32) * x[0, 0]))).all()


# Singular and degenerate matrices ---------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_det_of_singular_matrices(rank: int) -> None:
    """Cofactors and second cofactors are right at any rank."""
    x = normal(4, rank) @ normal(rank, 4)
    check_grads(linalg.det, (x,))
    check_grads(linalg.det, (np.diag([1.0] * rank + [0.0] * (4 - rank)),))


def test_det_to_third_order() -> None:
    check_grads(linalg.det, (np.eye(3),), order=3)
    check_grads(linalg.det, (normal(2, 3, 3),), order=3)


def test_third_derivative_of_det_needs_an_inverse() -> None:
    third = ln.jacrev(ln.jacrev(ln.jacrev(linalg.det)))
    with pytest.raises(linalg.LinAlgError, match="inv"):
        third(np.zeros((3, 3)))


def test_norms_at_zero_have_derivative_zero() -> None:
    zeros = np.zeros((2, 3))
    for f in (
        linalg.norm,
        linalg.matrix_norm,
        *(lambda x, o=o: linalg.vector_norm(x, ord=o) for o in (1, 2, 3, 0.5, 1.5)),
        *(lambda x, o=o: linalg.norm(x, o) for o in ("nuc", 2, 1, np.inf)),
    ):
        assert float(f(zeros)) == 0
        close(ln.grad(f)(zeros), zeros)
        close(ln.hessian(f)(zeros), np.zeros((2, 3, 2, 3)))
    partial = ln.grad(lambda x: ln.sum(linalg.vector_norm(x, axis=1)))(np.array([[3.0, 4], [0, 0]]))
    close(partial, [[0.6, 0.8], [0, 0]])


@pytest.mark.filterwarnings("ignore:divide by zero")
def test_negative_order_of_a_vector_with_a_zero() -> None:
    assert float(linalg.vector_norm(np.array([0.0, 2.0]), ord=-1)) == 0


def test_equal_eigenvalues() -> None:
    """Functions of the eigenvalues, and of the subspaces of equal ones, keep their derivatives."""
    q, _ = np.linalg.qr(normal(4, 4))
    x = q @ np.diag([2.0, 2.0, 2.0, 5.0]) @ q.T
    close(ln.grad(lambda x: ln.sum(linalg.eigvalsh(x)))(x), np.eye(4))
    close(ln.grad(lambda x: ln.sum(linalg.eigh(x).eigenvalues ** 2))(x), 2 * x)
    weight = normal(4, 4)

    def projection(x: Any) -> Any:
        v = linalg.eigh(x).eigenvectors[:, :3]
        return ln.sum(ln.matmul(v, t(v)) * weight)

    check_grads(projection, (x,), order=1)
    for f in (lambda x: linalg.eigh(x).eigenvectors, linalg.eigvalsh):
        assert np.isfinite(np.asarray(ln.jacrev(f)(np.eye(3)))).all()


def test_equal_singular_values() -> None:
    q, _ = np.linalg.qr(normal(3, 3))
    close(ln.grad(lambda x: linalg.norm(x, "nuc"))(2 * q), q)
    check_grads(lambda x: linalg.norm(x, "nuc"), (np.eye(3),))

    def polar(x: Any) -> Any:
        u, _, vh = linalg.svd(x, full_matrices=False)
        return ln.matmul(u, vh)

    check_grads(polar, (np.eye(3),), order=1)
    check_grads(linalg.pinv, (np.eye(3),))
    close(ln.grad(lambda x: ln.sum(linalg.svdvals(x) ** 2))(2 * q), 4 * q)
    deficient = normal(4, 2) @ normal(2, 3)
    u, _, vh = np.linalg.svd(deficient, full_matrices=False)
    close(ln.grad(lambda x: linalg.norm(x, "nuc"))(deficient), u[:, :2] @ vh[:2])
    for f in (polar, linalg.svdvals, lambda x: linalg.svd(x).U):
        assert np.isfinite(np.asarray(ln.jacrev(f)(deficient))).all()


def test_pinv_of_a_deficient_matrix() -> None:
    """The derivative is that along matrices of the same rank."""
    a, b = normal(4, 2), normal(2, 3)
    check_grads(lambda a, b: linalg.pinv(ln.matmul(a, b), rtol=1e-8), (a, b))
    x = np.stack([np.diag([1.0, 1e-3]), np.diag([1.0, 1e-3])])
    close(linalg.matrix_rank(x, rtol=np.array([1e-2, 1e-4])), [1, 2])
    close(linalg.pinv(x, rtol=np.array([1e-2, 1e-4]))[:, 1, 1], [0, 1000])


def test_gradients_of_symmetric_arguments_are_symmetric() -> None:
    x = positive(3, 3)
    for f in (linalg.cholesky, linalg.eigvalsh, lambda x: linalg.eigh(x).eigenvectors):
        g = np.asarray(ln.grad(lambda x, f=f: ln.sum(f(x)))(x))
        close(g, g.T)
    lower = ln.grad(lambda x: ln.sum(ln.sin(linalg.eigvalsh(x, "L"))))(x)
    np.testing.assert_array_equal(np.asarray(lower), np.tril(np.asarray(lower)))


# Errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: linalg.cholesky(-np.eye(3)), "not positive definite.*smallest eigenvalue -1"),
        (lambda: linalg.inv(np.zeros((2, 2))), "inv: Singular"),
        (lambda: linalg.solve(np.zeros((2, 2)), np.ones(2)), "solve: Singular"),
        (lambda: linalg.matrix_power(np.zeros((2, 2)), -1), "inv: Singular"),
        (lambda: linalg.svd(np.full((2, 2), np.nan)), "svd"),
        (lambda: ln.grad(lambda x: linalg.slogdet(x)[1])(np.zeros((2, 2))), "Singular"),
    ],
)
def test_matrices_without_the_operation(call: Any, message: str) -> None:
    with pytest.raises(linalg.LinAlgError, match=message) as caught:
        call()
    assert isinstance(caught.value, np.linalg.LinAlgError)
    assert isinstance(caught.value, LanternError)
    assert "test_linalg.py" in str(caught.value)


@pytest.mark.parametrize(
    "call",
    [
        lambda: linalg.det(np.ones((2, 3))),
        lambda: linalg.inv(np.ones(3)),
        lambda: linalg.qr(np.ones(3)),
        lambda: linalg.solve(np.eye(3), np.ones(2)),
        lambda: linalg.solve(np.eye(3), 1.0),
        lambda: linalg.solve(np.ones((2, 3, 3)), np.ones((4, 3, 1))),
        lambda: linalg.norm(np.ones((2, 2, 2)), 1),
        lambda: linalg.norm(np.ones((2, 2, 2)), axis=(0, 1, 2)),
        lambda: linalg.matrix_rank(np.ones((2, 2)), rtol=np.ones(3)),
    ],
)
def test_shapes_that_do_not_fit(call: Any) -> None:
    with pytest.raises(ShapeError, match=r"linalg\.\w+: float64\[") as caught:
        call()
    assert "test_linalg.py" in str(caught.value)


@pytest.mark.parametrize("f", [linalg.det, linalg.svdvals, linalg.norm, linalg.cholesky])
def test_integers_are_refused(f: Any) -> None:
    with pytest.raises(DTypeError, match="expected a floating dtype"):
        f(np.eye(2, dtype=np.int64))


@pytest.mark.parametrize(
    "call",
    [
        lambda: linalg.qr(np.eye(2), mode="raw"),  # type: ignore[arg-type]
        lambda: linalg.eigh(np.eye(2), "X"),  # type: ignore[arg-type]
        lambda: linalg.matrix_norm(np.eye(2), ord=3),
        lambda: linalg.norm(np.ones(2), "fro"),
    ],
)
def test_settings_that_do_not_exist(call: Any) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        call()
    assert "test_linalg.py" in str(caught.value)


# PyTorch ----------------------------------------------------------------------------------------


@pytest.mark.peer
@pytest.mark.parametrize(
    ("ours", "theirs", "args"),
    [
        (linalg.cholesky, "cholesky", (positive(2, 4, 4),)),
        (linalg.solve, "solve", (positive(2, 4, 4), normal(2, 4, 3))),
        (linalg.inv, "inv", (positive(4, 4),)),
        (linalg.det, "det", (normal(2, 4, 4),)),
        (lambda x: linalg.slogdet(x)[1], "slogdet", (normal(2, 4, 4),)),
        (linalg.eigvalsh, "eigvalsh", (positive(4, 4),)),
        (linalg.svdvals, "svdvals", (normal(5, 3),)),
        (linalg.pinv, "pinv", (normal(5, 3),)),
        (lambda x: linalg.norm(x, "nuc"), "matrix_norm", (normal(5, 3),)),
        (lambda x: linalg.qr(x)[1], "qr", (normal(5, 3),)),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_first_and_second_derivatives_agree_with_pytorch(ours: Any, theirs: str, args: Any) -> None:
    torch = pytest.importorskip("torch")
    f = getattr(torch.linalg, theirs)
    if theirs == "matrix_norm":
        f = lambda x: torch.linalg.matrix_norm(x, "nuc")  # noqa: E731
    if theirs in ("slogdet", "qr"):
        f = lambda x, f=f: f(x)[1]  # noqa: E731
    directions = [normal(*a.shape) for a in args]
    tensors = [torch.tensor(a, requires_grad=True) for a in args]
    out = f(*tensors).sin().sum()
    first = torch.autograd.grad(out, tensors, create_graph=True)
    along = sum((g * torch.tensor(d)).sum() for g, d in zip(first, directions, strict=True))
    second = torch.autograd.grad(along, tensors)

    def loss(*xs: Any) -> Any:
        return ln.sum(ln.sin(ours(*xs)))

    every = tuple(range(len(args)))
    gradient = ln.grad(loss, every)
    for g, h in zip(gradient(*args), first, strict=True):
        close(g, h.detach().numpy(), 1e-8)

    def slope(*xs: Any) -> Any:
        return sum(ln.sum(g * d) for g, d in zip(gradient(*xs), directions, strict=True))

    for g, h in zip(ln.grad(slope, every)(*args), second, strict=True):
        close(g, h.numpy(), 1e-7)


def test_matrix_power_of_a_fraction() -> None:
    with pytest.raises(TypeError, match=r"exponent 0\.5; expected an integer"):
        ln.linalg.matrix_power(ln.eye(2), 0.5)
