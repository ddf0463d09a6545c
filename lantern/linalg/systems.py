"""Systems of linear equations: solutions, inverses, powers, determinants, ranks."""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import numpy as np

from lantern.convert import asarray
from lantern.errors import ArgumentTypeError, ShapeError, describe
from lantern.linalg.arguments import floats, matrices
from lantern.ops.operands import broadcast, promoted
from lantern.primitives import decompositions as p
from lantern.primitives.products import matmul
from lantern.primitives.structure import convert, reshape
from lantern.tensor import Tensor

__all__ = [
    "SlogdetResult",
    "det",
    "inv",
    "matrix_power",
    "matrix_rank",
    "pinv",
    "slogdet",
    "solve",
]


class SlogdetResult(NamedTuple):
    """The sign of a determinant, and the logarithm of its absolute value."""

    sign: Tensor
    logabsdet: Tensor


def solve(x1: Any, x2: Any, /) -> Tensor:
    """The solution z of x1 @ z = x2.

    Args:
        x1: shape (..., n, n).
        x2: shape (n,), one vector for all matrices, or (..., n, k), matrices; leading axes
            broadcast.

    Returns:
        shape (..., n) if ``x2`` is a vector, else (..., n, k).

    Raises:
        LinAlgError: a matrix is singular.
        ShapeError: shapes that do not fit.

    Source:
        Python array API standard, ``linalg.solve``.

    Example:
        >>> import lantern as ln
        >>> print(ln.linalg.solve(ln.asarray([[2.0, 0.0], [0.0, 4.0]]), ln.asarray([2.0, 2.0])))
        [1.  0.5]
    """
    a, b = promoted(matrices(x1, "solve", square=True), floats(x2, "solve"))
    columns = b.shape if b.ndim != 1 else (*b.shape, 1)
    if not columns or columns[-2] != a.shape[-1] or broadcast(a.shape[:-2], columns[:-2]) is None:
        raise ShapeError(
            f"linalg.solve: {describe(a)} and {describe(b)}; expected (..., n, n) and (n,) or "
            "(..., n, k)"
        )
    if b.ndim > 1:
        return p.solve(a, b)
    return reshape(p.solve(a, reshape(b, shape=columns)), shape=a.shape[:-1])


def inv(x: Any, /) -> Tensor:
    """The inverse of square matrices.

    Args:
        x: shape (..., n, n).

    Raises:
        LinAlgError: a matrix is singular.

    Source:
        Python array API standard, ``linalg.inv``.

    Example:
        >>> import lantern as ln
        >>> print(ln.linalg.inv(ln.asarray([[2.0, 0.0], [0.0, 4.0]])))
        [[0.5  0.  ]
         [0.   0.25]]
    """
    return p.inv(matrices(x, "inv", square=True))


def pinv(x: Any, /, *, rtol: Any = None) -> Tensor:
    """The Moore-Penrose pseudo-inverse of matrices.

    Args:
        x: shape (..., m, n).
        rtol: singular values up to ``rtol`` times the largest one count as zero; a number or an
            array of shape (...), and max(m, n) times the machine epsilon if it is None.

    Returns:
        shape (..., n, m). Its derivative is that at constant rank.

    Raises:
        LinAlgError: the iteration does not converge (elements that are not finite).

    Source:
        Python array API standard, ``linalg.pinv``.

    Example:
        >>> import lantern as ln
        >>> print(ln.linalg.pinv(ln.asarray([[2.0, 0.0], [0.0, 0.0]])))
        [[0.5 0. ]
         [0.  0. ]]
    """
    x = matrices(x, "pinv")
    return p.pinv(x, _tolerance(x, rtol, "pinv"))


def matrix_rank(x: Any, /, *, rtol: Any = None) -> Tensor:
    """The number of singular values that are not negligible; not differentiable.

    Args:
        x: shape (..., m, n).
        rtol: as in `pinv`.

    Returns:
        shape (...), int64.

    Source:
        Python array API standard, ``linalg.matrix_rank``.

    Example:
        >>> import lantern as ln
        >>> print(ln.linalg.matrix_rank(ln.asarray([[1.0, 2.0], [2.0, 4.0]])))
        1
    """
    x = matrices(x, "matrix_rank")
    return p.matrix_rank(x, _tolerance(x, rtol, "matrix_rank"))


def matrix_power(x: Any, n: int, /) -> Tensor:
    """A matrix multiplied with itself, by repeated squaring.

    Args:
        x: shape (..., m, m).
        n: the exponent; a negative one inverts first.

    Raises:
        LinAlgError: ``n`` is negative and a matrix singular.

    Source:
        Python array API standard, ``linalg.matrix_power``.

    Example:
        >>> import lantern as ln
        >>> print(ln.linalg.matrix_power(ln.asarray([[1.0, 1.0], [0.0, 1.0]]), 5))
        [[1. 5.]
         [0. 1.]]
    """
    x = matrices(x, "matrix_power", square=True)
    if not hasattr(n, "__index__"):
        raise ArgumentTypeError(f"linalg.matrix_power: exponent {n!r}; expected an integer")
    n = operator.index(n)
    if n == 0:
        return asarray(np.broadcast_to(np.eye(x.shape[-1], dtype=x.dtype), x.shape))
    square = p.inv(x) if n < 0 else x
    n, out = abs(n), None
    while True:
        if n & 1:
            out = square if out is None else matmul(out, square)
        n >>= 1
        if not n:
            assert out is not None
            return out
        square = matmul(square, square)


def det(x: Any, /) -> Tensor:
    """The determinant of square matrices.

    Args:
        x: shape (..., n, n).

    Returns:
        shape (...). The first and second derivatives (cofactors, and minors without two rows and
        columns) are right for singular matrices too; the third needs an inverse.

    Source:
        Python array API standard, ``linalg.det``.

    Example:
        >>> import lantern as ln
        >>> print(ln.grad(ln.linalg.det)(ln.asarray([[1.0, 0.0], [0.0, 0.0]])))
        [[0. 0.]
         [0. 1.]]
    """
    return p.det(matrices(x, "det", square=True))


def slogdet(x: Any, /) -> SlogdetResult:
    """The sign and the logarithm of the absolute value of determinants.

    Args:
        x: shape (..., n, n).

    Returns:
        ``sign`` (...), -1, 0 or 1, and ``logabsdet`` (...), minus infinity where the determinant is
        0.

    Raises:
        LinAlgError: in the derivative, if a matrix is singular.

    Source:
        Python array API standard, ``linalg.slogdet``.

    Example:
        >>> import lantern as ln
        >>> print(*ln.linalg.slogdet(ln.asarray([[0.0, 1.0], [1.0, 0.0]])))
        -1.0 0.0
    """
    return SlogdetResult(*p.slogdet(matrices(x, "slogdet", square=True)))


def _tolerance(x: Tensor, rtol: Any, what: str) -> Any:
    """The relative tolerance as an array of the rank of ``x``, or (1, 1)."""
    m, n = x.shape[-2:]
    if rtol is None:
        limit = float(np.finfo(np.float32 if x.dtype.itemsize == 2 else x.dtype).eps)
        return np.full((1, 1), max(m, n) * limit, x.dtype)
    rtol = convert(asarray(rtol), dtype=x.dtype)
    if broadcast(rtol.shape, x.shape[:-2]) != x.shape[:-2]:
        raise ShapeError(
            f"linalg.{what}: {describe(x)} with rtol {describe(rtol)}; expected a number or one "
            "for each matrix"
        )
    return reshape(rtol, shape=(*rtol.shape, 1, 1))
