"""Factorisations of matrices: Cholesky, QR, eigenvalues, singular values."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

from lantern.errors import ArgumentError
from lantern.linalg.arguments import matrices
from lantern.primitives import decompositions as p
from lantern.primitives.elementwise import where
from lantern.primitives.products import matmul, transposed
from lantern.primitives.structure import concat, split
from lantern.tensor import Tensor

__all__ = [
    "EighResult",
    "QRResult",
    "SVDResult",
    "cholesky",
    "eigh",
    "eigvalsh",
    "qr",
    "svd",
    "svdvals",
]


class QRResult(NamedTuple):
    """An orthonormal ``Q`` and an upper triangular ``R``."""

    Q: Tensor
    R: Tensor


class EighResult(NamedTuple):
    """Ascending eigenvalues, and eigenvectors in columns."""

    eigenvalues: Tensor
    eigenvectors: Tensor


class SVDResult(NamedTuple):
    """Orthonormal ``U`` and ``Vh``, and descending singular values ``S``."""

    U: Tensor
    S: Tensor
    Vh: Tensor


def cholesky(x: Any, /, *, upper: bool = False) -> Tensor:
    """The triangular factor L of positive definite matrices: x = L Lᵀ.

    Args:
        x: shape (..., n, n). Its symmetric part is factored, so the gradient is symmetric.
        upper: return Lᵀ, upper triangular.

    Returns:
        shape (..., n, n).

    Raises:
        LinAlgError: a matrix is not positive definite.

    Source:
        Python array API standard, ``linalg.cholesky``.

    Example:
        >>> import lantern as ln
        >>> print(ln.linalg.cholesky(ln.asarray([[4.0, 2.0], [2.0, 2.0]])))
        [[2. 0.]
         [1. 1.]]
    """
    lower = p.cholesky(_symmetric_part(matrices(x, "cholesky", square=True)))
    return transposed(lower) if upper else lower


def qr(x: Any, /, *, mode: Literal["reduced", "complete"] = "reduced") -> QRResult:
    """An orthonormal matrix times an upper triangular one.

    Args:
        x: shape (..., m, n), k the smaller of m and n.
        mode: ``"reduced"``: Q (..., m, k) and R (..., k, n); ``"complete"``: Q (..., m, m) and
            R (..., m, n). The derivative of the columns that complete Q moves them no further than
            orthogonality demands: it is right for functions of the subspace that they span.

    Returns:
        the pair (Q, R).

    Raises:
        LinAlgError: in the derivative, if the first k columns of a matrix are dependent.
        ValueError: another mode.

    Source:
        Python array API standard, ``linalg.qr``.

    Example:
        >>> import lantern as ln
        >>> q, r = ln.linalg.qr(ln.asarray([[3.0, 1.0], [4.0, 1.0]]))
        >>> print(ln.matmul(q, r))
        [[3. 1.]
         [4. 1.]]
    """
    if mode not in ("reduced", "complete"):
        raise ArgumentError(f"linalg.qr: mode {mode!r}; expected 'reduced' or 'complete'")
    x = matrices(x, "qr")
    *lead, m, n = x.shape
    if m < n:
        first, rest = split(x, sizes=(m, n - m), axis=x.ndim - 1)
        q, r = p.qr(first)
        return QRResult(q, concat(r, matmul(transposed(q), rest), axis=x.ndim - 1))
    q, r = p.qr(x)
    if mode == "complete" and m > n:
        zeros = np.zeros((*lead, m - n, n), x.dtype)
        q = concat(q, p.complement(q), axis=x.ndim - 1)
        r = concat(r, zeros, axis=x.ndim - 2)
    return QRResult(q, r)


def eigh(x: Any, /, UPLO: Literal["L", "U"] | None = None) -> EighResult:
    """The eigenvalues and eigenvectors of symmetric matrices.

    Args:
        x: shape (..., n, n). Its symmetric part is decomposed, so the gradient is symmetric.
        UPLO: ``"L"`` or ``"U"``, as in NumPy: read only that triangle, which then receives the
            whole gradient.

    Returns:
        ``eigenvalues`` (..., n), ascending, and ``eigenvectors`` (..., n, n), in columns. The
        derivative leaves out the terms of eigenvalues that are equal up to rounding (a difference
        below 4 n ε max|λ|). It is finite; the first is right for functions of the eigenvalues alone
        and of the subspaces of equal ones, but that of V f(λ) Vᵀ lacks the terms f'(λ) of equal λ.

    Raises:
        LinAlgError: the iteration does not converge (elements that are not finite).

    Source:
        Python array API standard, ``linalg.eigh``.

    Example:
        >>> import lantern as ln
        >>> print(ln.linalg.eigh(ln.asarray([[2.0, 0.0], [0.0, 1.0]])).eigenvalues)
        [1. 2.]
    """
    return EighResult(*p.eigh(_symmetric(matrices(x, "eigh", square=True), UPLO)))


def eigvalsh(x: Any, /, UPLO: Literal["L", "U"] | None = None) -> Tensor:
    """The eigenvalues of symmetric matrices. Arguments and errors are those of `eigh`.

    Source:
        Python array API standard, ``linalg.eigvalsh``.

    Example:
        >>> import lantern as ln
        >>> print(ln.linalg.eigvalsh(ln.asarray([[2.0, 0.0], [0.0, 1.0]])))
        [1. 2.]
    """
    return p.eigvalsh(_symmetric(matrices(x, "eigvalsh", square=True), UPLO))


def svd(x: Any, /, *, full_matrices: bool = True) -> SVDResult:
    """The singular value decomposition x = U diag(S) Vh.

    Args:
        x: shape (..., m, n), k the smaller of m and n.
        full_matrices: U (..., m, m) and Vh (..., n, n) rather than U (..., m, k) and Vh (..., k,
            n). The derivative of the vectors that this adds moves them no further than
            orthogonality demands: it is right for functions of the subspace that they span.

    Returns:
        (U, S, Vh); S is descending. The derivative leaves out terms 1 / (s_i - s_j) and 1 / s_i
        where the divisor is zero up to rounding (below 4 k ε max s). It is finite; the first is
        right for functions of S alone, of U @ Vh, and of the subspaces of equal values. The
        derivative of a singular value that is zero is 0.

    Raises:
        LinAlgError: the iteration does not converge (elements that are not finite).

    Source:
        Python array API standard, ``linalg.svd``.

    Example:
        >>> import lantern as ln
        >>> print(ln.linalg.svd(ln.asarray([[3.0, 0.0], [0.0, -4.0]])).S)
        [4. 3.]
    """
    x = matrices(x, "svd")
    m, n = x.shape[-2:]
    u, s, vh = p.svd(x)
    if full_matrices and m > n:
        u = concat(u, p.complement(u), axis=x.ndim - 1)
    elif full_matrices and n > m:
        vh = concat(vh, transposed(p.complement(transposed(vh))), axis=x.ndim - 2)
    return SVDResult(u, s, vh)


def svdvals(x: Any, /) -> Tensor:
    """The singular values of matrices.

    Args:
        x: shape (..., m, n).

    Returns:
        shape (..., min(m, n)), descending.

    Raises:
        LinAlgError: the iteration does not converge (elements that are not finite).

    Source:
        Python array API standard, ``linalg.svdvals``.

    Example:
        >>> import lantern as ln
        >>> print(ln.linalg.svdvals(ln.asarray([[3.0, 0.0], [0.0, -4.0]])))
        [4. 3.]
    """
    return p.svdvals(matrices(x, "svdvals"))


def _symmetric_part(x: Tensor) -> Tensor:
    # halves first: the sum of two large elements would overflow
    half = x * 0.5
    return half + transposed(half)


def _symmetric(x: Tensor, triangle: str | None) -> Tensor:
    """What `eigh` decomposes: the symmetric part, or one triangle, mirrored."""
    if triangle is None:
        return _symmetric_part(x)
    if triangle not in ("L", "U"):
        raise ArgumentError(f"linalg.eigh: UPLO {triangle!r}; expected 'L' or 'U'")
    lower = np.tri(x.shape[-1], dtype=bool)
    return where(lower if triangle == "L" else lower.T, x, transposed(x))
