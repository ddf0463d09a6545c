"""Linear algebra on stacks of matrices (..., m, n), each primitive a routine of ``numpy.linalg``.

float16 and bfloat16 are computed in float32 and rounded once. Where a derivative divides by the
difference of two eigenvalues or singular values that are equal up to rounding, that term is left
out. The result is finite; the first derivative is right for functions of the values alone and of
the subspaces of equal values, but that of V f(λ) Vᵀ, say, lacks the term f'(λ) of equal λ.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from lantern.control import discrete, primitive
from lantern.errors import LanternError
from lantern.primitives.elementwise import elementwise
from lantern.primitives.products import (
    diagonal,
    from_diagonal,
    matmul,
    on_trailing_axes,
    summed_product,
    transposed,
)
from lantern.primitives.structure import reduce_sum, reshape


class LinAlgError(LanternError, np.linalg.LinAlgError):
    """A matrix for which the operation does not exist: singular, or not positive definite."""


def routine(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel that goes through float32 with floats of two bytes, and raises lantern's error."""

    @wraps(kernel)
    def run(x: Any, *rest: Any, **params: Any) -> Any:
        dtype = x.dtype
        if dtype.itemsize == 2:
            x, rest = x.astype(np.float32), tuple(np.float32(r) for r in rest)
        try:
            out = kernel(x, *rest, **params)
        except np.linalg.LinAlgError as problem:
            name = kernel.__name__.strip("_")
            raise LinAlgError(f"linalg.{name}: {problem}") from None
        if dtype.itemsize != 2:
            return out
        return tuple(v.astype(dtype) for v in out) if type(out) is tuple else out.astype(dtype)

    return run


# Small pieces of the rules ------------------------------------------------------------------------


def row(v: Any) -> Any:
    """(..., n) -> (..., 1, n)."""
    return reshape(v, shape=(*v.shape[:-1], 1, v.shape[-1]))


def column(v: Any) -> Any:
    """(..., n) -> (..., n, 1)."""
    return reshape(v, shape=(*v.shape, 1))


def scale(v: Any) -> Any:
    """(...) -> (..., 1, 1): a number for each matrix."""
    return reshape(v, shape=(*v.shape, 1, 1))


def lower_half(x: Any) -> Any:
    """The part below the diagonal, and half of the diagonal."""
    n = x.shape[-1]
    return x * (np.tril(np.ones((n, n), x.dtype)) - np.eye(n, dtype=x.dtype) / 2)


def _resolution(s: Any) -> Any:
    largest = np.max(np.abs(s), axis=-1, initial=0, keepdims=True)[..., None]
    return largest * (4 * s.shape[-1] * np.finfo(s.dtype).eps)


def _guarded_reciprocal(x: Any, limit: Any) -> Any:
    small = np.abs(x) <= limit
    return np.where(small, 0, 1 / np.where(small, 1, x))


resolution = discrete("resolution", routine(_resolution), batch=on_trailing_axes)


@primitive(routine(_guarded_reciprocal), batch=elementwise)
def guarded_reciprocal(x, limit):
    """1 / x, but 0 where ``x`` is not larger than ``limit``."""
    y = guarded_reciprocal(x, limit)
    dz = yield y
    return -dz * y * y, None


def _euclidean_norm(x: Any, *, axes: tuple[int, ...]) -> Any:
    wide = x.astype(np.float32) if x.dtype.itemsize == 2 else x
    return np.sqrt(np.sum(wide * wide, axis=axes)).astype(x.dtype)


def _batch_norm(
    perform: Any, size: int, mapped: tuple[bool, ...], x: Any, *, axes: tuple[int, ...]
) -> Any:
    return perform(x, axes=tuple(a + 1 for a in axes))


@primitive(_euclidean_norm, batch=_batch_norm)
def euclidean_norm(x, *, axes):
    """The root of the sum of squares along ``axes``; the derivative at zero is 0."""
    kept = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
    z = euclidean_norm(x, axes=axes)
    dz = yield z
    return x * reshape(dz * guarded_reciprocal(z, 0.0), shape=kept)


# Systems of equations -----------------------------------------------------------------------------


def _solve(a: Any, b: Any) -> Any:
    return np.linalg.solve(a, b)


@primitive(routine(_solve), batch=elementwise)
def solve(a, b):
    """x with a @ x = b: (..., n, n), (..., n, k) -> (..., n, k); leading axes broadcast."""
    x = solve(a, b)
    shape = a.shape
    dz = yield x
    db = solve(transposed(a), dz)
    return lambda: -summed_product(db, transposed(x), shape), db


@primitive(routine(np.linalg.inv), batch=on_trailing_axes)
def inv(x):
    y = inv(x)
    dz = yield y
    t = transposed(y)
    return -matmul(matmul(t, dz), t)


def _pinv(x: Any, rtol: Any) -> Any:
    u, s, vh = np.linalg.svd(x, full_matrices=False)
    largest = np.max(s, axis=-1, initial=0, keepdims=True)
    kept = s > rtol[..., 0] * largest
    return _swap(vh) @ (np.where(kept, 1 / np.where(kept, s, 1), 0)[..., None] * _swap(u))


def _swap(x: Any) -> Any:
    return np.swapaxes(x, -1, -2)


@primitive(routine(_pinv), batch=elementwise)
def pinv(x, rtol):
    """The pseudo-inverse; ``rtol`` has shape (..., 1, 1). The derivative is that at constant rank.

    G. H. Golub and V. Pereyra, SIAM J. Numer. Anal. 10 (1973), equation 4.12.
    """
    p = pinv(x, rtol)
    dz = yield p
    pt, gt = transposed(p), transposed(dz)
    onto = matmul(x, p)
    first = matmul(gt - matmul(onto, gt), matmul(p, pt))
    gtp = gt - matmul(matmul(gt, p), x)
    return first + matmul(matmul(pt, p), gtp) - matmul(matmul(pt, dz), pt), None


def _matrix_rank(x: Any, rtol: Any) -> Any:
    s = np.linalg.svd(x, compute_uv=False)
    limit = rtol[..., 0] * np.max(s, axis=-1, initial=0, keepdims=True)
    return np.count_nonzero(s > limit, axis=-1)


def _rank_in_float32(x: Any, rtol: Any) -> Any:
    if x.dtype.itemsize == 2:
        x, rtol = x.astype(np.float32), rtol.astype(np.float32)
    return _matrix_rank(x, rtol)


matrix_rank = discrete("matrix_rank", _rank_in_float32, batch=elementwise)


# Determinants -------------------------------------------------------------------------------------


@primitive(routine(np.linalg.det), batch=on_trailing_axes)
def det(x):
    """(..., n, n) -> (...). The derivative is the matrix of cofactors, singular or not."""
    dz = yield det(x)
    return scale(dz) * cofactors(x)


def _decomposed(x: Any) -> tuple[Any, Any, Any, Any]:
    """u, s, vh, and the determinant of u @ vh, 1 or -1."""
    u, s, vh = np.linalg.svd(x)
    return u, s, vh, np.sign(np.linalg.det(u @ vh))[..., None, None]


def _products_without(s: Any, ones: Any) -> Any:
    """The products of s, (..., n), with 1 in place of what each row of ``ones`` marks."""
    return np.prod(np.where(ones, 1, s[..., None, :]), axis=-1)


def _cofactors(x: Any) -> Any:
    u, s, vh, sign = _decomposed(x)
    others = _products_without(s, np.eye(s.shape[-1], dtype=bool))
    return sign * (u * others[..., None, :]) @ vh


def _second_cofactors(x: Any, g: Any) -> Any:
    """The derivative of the cofactors of ``x`` in the direction ``g``, from its singular vectors.

    For a diagonal matrix, cofactor (i, i) changes by the sum over j of s_ij g_jj, and cofactor
    (i, j) by -s_ij g_ji, where s_ij is the product of all diagonal elements but number i and j.
    """
    u, s, vh, sign = _decomposed(x)
    n = s.shape[-1]
    eye = np.eye(n, dtype=bool)
    pairs = np.stack([_products_without(s, eye | eye[i]) for i in range(n)], axis=-2) if n else x
    pairs = np.where(eye, 0, pairs).astype(x.dtype)
    m = _swap(u) @ g @ _swap(vh)
    on_diagonal = np.einsum("...ij,...jj->...i", pairs, m)
    inner = np.where(eye, on_diagonal[..., None], -pairs * _swap(m))
    return sign * (u @ inner @ vh)


@primitive(routine(_cofactors), batch=on_trailing_axes)
def cofactors(x):
    """det(x) times the transposed inverse, also where that does not exist."""
    dz = yield cofactors(x)
    return second_cofactors(x, dz)


@primitive(routine(_second_cofactors), batch=elementwise)
def second_cofactors(x, g):
    """The derivative of `cofactors` along ``g``: the second derivative of `det`, so symmetric."""
    dz = yield second_cofactors(x, g)
    return lambda: _third_cofactors(x, g, dz), lambda: second_cofactors(x, dz)


def _third_cofactors(x: Any, g: Any, h: Any) -> Any:
    """The third derivative of `det` along ``g`` and ``h``; ``x`` must have an inverse."""
    w = transposed(inv(x))
    wg = matmul(w, transposed(g))
    wh = matmul(w, transposed(h))
    gw, hw = matmul(wg, w), matmul(wh, w)
    g_trace = scale(reduce_sum(diagonal(wg, offset=0), axes=(wg.ndim - 2,)))
    h_trace = scale(reduce_sum(diagonal(wh, offset=0), axes=(wh.ndim - 2,)))
    mixed = matmul(wg, wh)
    mixed_trace = scale(reduce_sum(diagonal(mixed, offset=0), axes=(mixed.ndim - 2,)))
    return scale(det(x)) * (
        w * (g_trace * h_trace - mixed_trace)
        - gw * h_trace
        - hw * g_trace
        + matmul(wg, hw)
        + matmul(wh, gw)
    )


def _slogdet(x: Any) -> Any:
    return tuple(np.linalg.slogdet(x))


@primitive(routine(_slogdet), batch=on_trailing_axes)
def slogdet(x):
    """The sign of the determinant, and the logarithm of its absolute value."""
    dzs = yield slogdet(x)
    return scale(dzs[1]) * transposed(inv(x))


# Factorisations -----------------------------------------------------------------------------------


def _cholesky(x: Any) -> Any:
    try:
        return np.linalg.cholesky(x)
    except np.linalg.LinAlgError:
        n = x.shape[-1]
        smallest = np.linalg.eigvalsh(x).min() if n and np.isfinite(x).all() else np.nan
        raise np.linalg.LinAlgError(
            f"a matrix is not positive definite (of {n} x {n}; smallest eigenvalue {smallest:.3g})"
        ) from None


@primitive(routine(_cholesky), batch=on_trailing_axes)
def cholesky(x):
    """The lower triangular factor of a symmetric matrix.

    S. P. Smith, J. Comput. Graph. Stat. 4 (1995); I. Murray, arXiv:1602.07527, equation 10.
    """
    lower = cholesky(x)
    dz = yield lower
    up = transposed(lower)
    half = solve(up, transposed(lower_half(matmul(up, dz))))
    return solve(up, transposed(half))


def _qr(x: Any) -> Any:
    return tuple(np.linalg.qr(x))


@primitive(routine(_qr), batch=on_trailing_axes)
def qr(x):
    """Reduced factors of (..., m, n) with m >= n.

    S. F. Walter, L. Lehmann and R. Lamour, Optim. Methods Softw. 27 (2012).
    """
    q, r = qr(x)
    dzs = yield q, r
    dq, dr = dzs
    m = matmul(r, transposed(dr)) - matmul(transposed(dq), q)
    half = lower_half(m)
    b = dq + matmul(q, half + transposed(half))
    return transposed(solve(r, transposed(b)))


def _complement(x: Any) -> Any:
    return np.linalg.qr(x, mode="complete")[0][..., x.shape[-1] :]


@primitive(routine(_complement), batch=on_trailing_axes)
def complement(x):
    """(..., m, k) with orthonormal columns -> (..., m, m - k): the columns that make it a basis.

    They are moved no further than orthogonality demands; functions of the subspace that they span
    have the right derivative.
    """
    q = complement(x)
    dz = yield q
    return -matmul(q, matmul(transposed(dz), x))


def _eigh(x: Any) -> Any:
    return tuple(np.linalg.eigh(x))


@primitive(routine(_eigh), batch=on_trailing_axes)
def eigh(x):
    """Ascending eigenvalues (..., n) and eigenvectors, in columns, of a symmetric matrix."""
    w, v = eigh(x)
    dzs = yield w, v
    dw, dv = dzs
    gaps = guarded_reciprocal(row(w) - column(w), resolution(w))
    inner = gaps * matmul(transposed(v), dv) + from_diagonal(dw, offset=0, shape=x.shape[-2:])
    return matmul(matmul(v, inner), transposed(v))


@primitive(routine(np.linalg.eigvalsh), batch=on_trailing_axes)
def eigvalsh(x):
    """The eigenvalues that `eigh` gives."""
    w, v = eigh(x)
    dz = yield w
    return matmul(v * row(dz), transposed(v))


def _svd(x: Any) -> Any:
    return tuple(np.linalg.svd(x, full_matrices=False))


@primitive(routine(_svd), batch=on_trailing_axes)
def svd(x):
    """u (..., m, k), s (..., k) descending and vh (..., k, n), k the smaller of m and n.

    With X = uᵀdu - duᵀu and Y = vᵀdv - dvᵀv, the inner part of the adjoint is, off its diagonal,
    (X_ij s_j + s_i Y_ij) / (s_j² - s_i²) = ½ (X + Y)_ij / (s_j - s_i) + ½ (X - Y)_ij / (s_j + s_i).
    The second form keeps what stays finite where two singular values are equal.
    """
    u, s, vh = svd(x)
    dzs = yield u, s, vh
    du, ds, dvh = dzs
    limit = resolution(s)
    gaps = guarded_reciprocal(row(s) - column(s), limit)
    sums = guarded_reciprocal(row(s) + column(s), limit)
    inverse = guarded_reciprocal(row(s), limit)
    j = matmul(transposed(u), du)
    k = matmul(vh, transposed(dvh))
    left, right = j - transposed(j), k - transposed(k)
    inner = ((left + right) * gaps + (left - right) * sums) * 0.5
    # As with abs(0), a singular value that is zero has derivative 0.
    diag = from_diagonal(ds, offset=0, shape=(s.shape[-1],) * 2) * (row(s) * inverse)
    inner = inner + diag
    out = matmul(matmul(u, inner), vh)
    if u.shape[-2] > s.shape[-1]:
        out = out + matmul((du - matmul(u, j)) * inverse, vh)
    if vh.shape[-1] > s.shape[-1]:
        outside = dvh - matmul(transposed(k), vh)
        out = out + matmul(u * inverse, outside)
    return out


def _svdvals(x: Any) -> Any:
    return np.linalg.svd(x, compute_uv=False)


@primitive(routine(_svdvals), batch=on_trailing_axes)
def svdvals(x):
    """The singular values that `svd` gives; the derivative of one that is zero is 0."""
    u, s, vh = svd(x)
    dz = yield s
    present = row(s) * guarded_reciprocal(row(s), resolution(s))
    return matmul(u * (row(dz) * present), vh)
