"""The product of matrices, the one bilinear primitive: contractions of every kind are composed from it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lantern.control import primitive
from lantern.primitives.elementwise import elementwise
from lantern.primitives.structure import Shape, permute, reshape

__all__ = ["matmul", "transposed"]


def transposed(x: Any) -> Any:
    """The last two axes swapped: (..., m, n) to (..., n, m), without a copy."""
    n = x.ndim
    return permute(x, axes=(*range(n - 2), n - 1, n - 2))


def _gemm(x: Any, y: Any) -> Any:
    """(..., m, k) @ (..., k, n), by one product of two matrices where only ``x`` has leading axes."""
    if x.dtype.itemsize == 2 and x.dtype.kind not in "iu":
        # float16 and bfloat16 are multiplied and added up in float32, and rounded once.
        return _gemm(x.astype(np.float32), y.astype(np.float32)).astype(x.dtype)
    if x.ndim == 2 or y.ndim > 2 or not x.flags.c_contiguous or x.shape[-1] != y.shape[0]:
        return np.matmul(x, y)  # a transposed view goes to BLAS as it is
    *lead, k = x.shape
    flat = np.matmul(x.reshape(x.size // k if k else math.prod(lead), k), y)
    return flat.reshape(*lead, y.shape[1])


@primitive(_gemm, batch=elementwise)
def matmul(x, y):
    """(..., m, k) @ (..., k, n) -> (..., m, n): leading axes broadcast; both arguments have two axes or more."""
    xs, ys = x.shape, y.shape
    dz = yield matmul(x, y)
    return (
        lambda: _summed_product(dz, transposed(y), xs),
        lambda: _summed_product(transposed(x), dz, ys),
    )


def _summed_product(a: Any, b: Any, shape: Shape) -> Any:
    """``a @ b`` summed over the leading axes that broadcasting repeated in an argument of ``shape``.

    Those axes join the contracted one: the gradient of a weight that a whole batch shares is one product of
    matrices, and never an array of one gradient for each example.
    """
    rank = max(a.ndim, b.ndim)
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    own = (1,) * (rank - len(shape)) + tuple(shape[:-2])
    shared = tuple(i for i, n in enumerate(lead) if own[i] == 1 and n != 1)
    if not shared:
        return matmul(a, b)
    kept = tuple(i for i in range(rank - 2) if i not in shared)
    a = permute(_of_rank(a, rank), axes=(*kept, rank - 2, *shared, rank - 1))
    b = permute(_of_rank(b, rank), axes=(*kept, *shared, rank - 2, rank - 1))
    m, n = a.shape[len(kept)], b.shape[-1]
    k = math.prod(a.shape[len(kept) + 1 :])
    a = reshape(a, shape=(*a.shape[: len(kept)], m, k))
    b = reshape(b, shape=(*b.shape[: len(kept)], k, n))
    return reshape(matmul(a, b), shape=shape)


def _of_rank(x: Any, rank: int) -> Any:
    return reshape(x, shape=(1,) * (rank - x.ndim) + tuple(x.shape)) if x.ndim < rank else x
