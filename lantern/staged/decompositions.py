"""Lowerings of linear algebra: the operation `linalg`, and what is composed of it.

float16 and bfloat16 are computed in float32, as they are eagerly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lantern.primitives import decompositions as p
from lantern.primitives import elementwise as e
from lantern.primitives.decompositions import column, row, scale
from lantern.primitives.products import diagonal, matmul, transposed
from lantern.primitives.reductions import reduce_prod
from lantern.primitives.structure import concat, reduce_sum
from lantern.staged.stage import (
    F32,
    Lowering,
    common_dtype,
    converted,
    in_dtype,
    is_narrow,
    repeated,
    shaped,
)
from lantern.staged.structure import part
from lantern.symbol import Symbol

INT64 = np.dtype(np.int64)


def decompose(kind: str, *xs: Symbol) -> tuple[Symbol, ...]:
    """The operation."""
    return xs[0].stage.emit_all("linalg", *xs, kind=kind)


def routine(lowering: Callable[..., Any]) -> Lowering:
    """Through float32 with floats of two bytes, each result rounded once."""

    def lower(*xs: Any, **params: Any) -> Any:
        dtype = common_dtype(*xs)
        if not is_narrow(dtype):
            return lowering(*xs, **params)
        wide = (converted(x, F32) if type(x) is Symbol else x for x in xs)
        out = lowering(*wide, **params)
        if type(out) is tuple:
            return tuple(converted(y, dtype) for y in out)
        return converted(out, dtype)

    return lower


def stacks(*xs: Any) -> tuple[Symbol, ...]:
    """Matrices of one dtype, their leading axes broadcast against each other."""
    xs = in_dtype(common_dtype(*xs), *xs)
    lead = np.broadcast_shapes(*(x.shape[:-2] for x in xs))
    return tuple(repeated(x, (*lead, *x.shape[-2:])) for x in xs)


def direct(kind: str) -> Lowering:
    """A primitive that is one kind of decomposition."""

    def lower(x: Symbol) -> Any:
        found = decompose(kind, x)
        return found[0] if len(found) == 1 else found

    return routine(lower)


@routine
def solve(a: Any, b: Any) -> Symbol:
    a, b = stacks(a, b)
    return decompose("solve", a, b)[0]


@routine
def det(x: Symbol) -> Symbol:
    sign, logarithm = decompose("slogdet", x)
    return sign * e.exp(logarithm)


# Singular values ----------------------------------------------------------------------------------


def singular(kind: str, x: Symbol) -> Any:
    """The decomposition, its largest singular value (..., 1) last; 0 where there is none."""
    found = decompose(kind, x)
    s = found[1 if kind == "svd" else 0]
    *lead, k = s.shape
    if not k:
        return *found, repeated(s.stage.constant(0, s.dtype), (*lead, 1))
    return *found, part(s, len(lead), 0, 1)


def above(s: Symbol, largest: Symbol, rtol: Any) -> Symbol:
    """Which singular values are larger than the tolerance (..., 1, 1) times the largest."""
    limit = shaped(rtol, rtol.shape[:-1]) * largest
    return s > limit


@routine
def pinv(x: Symbol, rtol: Any) -> Symbol:
    u, s, vh, largest = singular("svd", x)
    kept = above(s, largest, rtol)
    inverse = e.where(kept, 1.0 / e.where(kept, s, 1.0), 0.0)
    return matmul(transposed(vh), column(inverse) * transposed(u))


def matrix_rank(x: Symbol, rtol: Any) -> Symbol:
    wide = F32 if is_narrow(x.dtype) else x.dtype
    s, largest = singular("svdvals", converted(x, wide))
    kept = above(s, largest, converted(rtol, wide))
    return reduce_sum(converted(kept, INT64), axes=(kept.ndim - 1,))


# Cofactors ----------------------------------------------------------------------------------------


def decomposed(x: Symbol) -> tuple[Symbol, Symbol, Symbol, Symbol]:
    """u, s, vh, and the determinant of u @ vh, 1 or -1."""
    u, s, vh = decompose("svd", x)
    return u, s, vh, scale(decompose("slogdet", matmul(u, vh))[0])


def unit(x: Symbol) -> Symbol:
    """Where the diagonal of the matrices lies."""
    n = x.shape[-1]
    i, j = (x.stage.emit("iota", shape=(n, n), axis=axis, dtype="int64") for axis in (0, 1))
    return e.equal(i, j)


def products_without(s: Symbol, left_out: Symbol) -> Symbol:
    """The products of s, (..., n), with 1 in place of what each row of ``left_out`` marks."""
    values = e.where(left_out, 1.0, row(s))
    return reduce_prod(values, axes=(values.ndim - 1,))


@routine
def cofactors(x: Symbol) -> Symbol:
    u, s, vh, sign = decomposed(x)
    return matmul(sign * (u * row(products_without(s, unit(x)))), vh)


@routine
def second_cofactors(x: Any, g: Any) -> Symbol:
    x, g = stacks(x, g)
    u, s, vh, sign = decomposed(x)
    n = s.shape[-1]
    if not n:
        return x
    eye = unit(x)
    pairs = [products_without(s, eye | part(eye, 0, i, 1)) for i in range(n)]
    pairs = concat(*(row(v) for v in pairs), axis=s.ndim - 1)
    pairs = e.where(eye, 0.0, pairs)
    m = matmul(matmul(transposed(u), g), transposed(vh))
    on_diagonal = reduce_sum(pairs * row(diagonal(m, offset=0)), axes=(s.ndim,))
    inner = e.where(eye, column(on_diagonal), -pairs * transposed(m))
    return matmul(sign * matmul(u, inner), vh)


@routine
def complement(x: Symbol) -> Symbol:
    *lead, m, k = x.shape
    (q,) = decompose("complete", x)
    return part(q, len(lead) + 1, k, m - k) if m > k else shaped(q, (*lead, m, 0))


LOWERINGS: dict[Any, Lowering] = {
    p.solve: solve,
    p.inv: direct("inv"),
    p.pinv: pinv,
    p.matrix_rank: matrix_rank,
    p.det: det,
    p.cofactors: cofactors,
    p.second_cofactors: second_cofactors,
    p.slogdet: direct("slogdet"),
    p.cholesky: direct("cholesky"),
    p.qr: direct("qr"),
    p.complement: complement,
    p.eigh: direct("eigh"),
    p.eigvalsh: direct("eigvalsh"),
    p.svd: direct("svd"),
    p.svdvals: direct("svdvals"),
}
