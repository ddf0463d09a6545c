"""The product of matrices and the diagonal: all other contractions are composed from these."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lantern.control import primitive
from lantern.primitives.elementwise import elementwise
from lantern.primitives.structure import Shape, permute, reshape


def transposed(x: Any) -> Any:
    """The last two axes swapped: (..., m, n) to (..., n, m), without a copy."""
    n = x.ndim
    return permute(x, axes=(*range(n - 2), n - 1, n - 2))


def _product(x: Any, y: Any) -> Any:
    """(..., m, k) @ (..., k, n), by one product of two matrices where ``y`` is one matrix."""
    if x.dtype.itemsize == 2 and x.dtype.kind not in "iu":
        # float16 and bfloat16 are multiplied and added up in float32, and rounded once.
        return _product(x.astype(np.float32), y.astype(np.float32)).astype(x.dtype)
    if x.ndim == 2 or y.ndim > 2 or x.shape[-1] != y.shape[0] or _columns_first(x):
        return np.matmul(_laid_out(x), _laid_out(y))
    *lead, k = x.shape
    flat = np.matmul(x.reshape(math.prod(lead), k), _laid_out(y))
    return flat.reshape(*lead, y.shape[1])


def _columns_first(x: Any) -> bool:
    """Whether ``x`` is a transposed view, each matrix of which goes to BLAS as it is."""
    return x.strides[-2] == x.itemsize < x.strides[-1]


def _laid_out(x: Any) -> Any:
    """``x``, or a copy where NumPy would not hand it to BLAS (a repeated or a reversed row)."""
    if x.flags.forc or x.dtype.kind != "f":
        return x
    rows, columns = x.strides[-2:]
    m, n = x.shape[-2:]
    unit = x.itemsize
    if (columns == unit and rows >= n * unit) or (rows == unit and columns >= m * unit):
        return x
    return np.ascontiguousarray(x)


@primitive(_product, batch=elementwise)
def matmul(x, y):
    """(..., m, k) @ (..., k, n) -> (..., m, n): leading axes broadcast; no vectors."""
    xs, ys = x.shape, y.shape
    dz = yield matmul(x, y)
    return (
        lambda: summed_product(dz, transposed(y), xs),
        lambda: summed_product(transposed(x), dz, ys),
    )


def summed_product(a: Any, b: Any, shape: Shape) -> Any:
    """``a @ b`` summed over the leading axes that broadcasting repeated in an argument of
    ``shape``.

    Those axes join the contracted one: the gradient of a weight that a whole batch shares is one
    product of matrices, and never an array of one gradient for each example.
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


def on_trailing_axes(
    perform: Any, size: int, mapped: tuple[bool, ...], x: Any, /, **params: Any
) -> Any:
    """The batch rule of a primitive of one argument that acts on the last axes, whatever leads."""
    return perform(x, **params)


@primitive(lambda x, *, offset: np.diagonal(x, offset, axis1=-2, axis2=-1), batch=on_trailing_axes)
def diagonal(x, *, offset):
    """(..., m, n) -> (..., k): the elements (i, i + offset)."""
    shape = x.shape[-2:]
    dz = yield diagonal(x, offset=offset)
    return from_diagonal(dz, offset=offset, shape=shape)


def _from_diagonal(x: Any, *, offset: int, shape: Shape) -> Any:
    out = np.zeros((*x.shape[:-1], *shape), x.dtype)
    k = np.arange(x.shape[-1])
    out[..., k + max(-offset, 0), k + max(offset, 0)] = x
    return out


@primitive(_from_diagonal, batch=on_trailing_axes)
def from_diagonal(x, *, offset, shape):
    """(..., k) -> (..., m, n): matrices of ``shape``, zero off the diagonal of `diagonal`."""
    dz = yield from_diagonal(x, offset=offset, shape=shape)
    return diagonal(dz, offset=offset)
