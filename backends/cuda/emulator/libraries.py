"""What the vendor's libraries do for a GPU, by NumPy: products and decompositions of matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from backends.cuda.device import Product, Span
from backends.cuda.emulator.engine import view
from staging.failures import MatrixFailure
from staging.interpret import numpy_dtype
from staging.ir import Op, Type, Value
from staging.linalg import decompose

Operand: TypeAlias = tuple[Span, tuple[int, ...], str]


def gemm(product: Product, x: Span, y: Span, out: Span) -> None:
    """A product of matrices; that of narrow floats is accumulated in float32 and rounded once."""
    p = product
    dtype, result = numpy_dtype(p.dtype), numpy_dtype(p.out)
    accumulator = np.float64 if result.itemsize == 8 else np.float32
    a = view(x, (1 if p.repeat_x else p.batch, *_rows(p.m, p.k, p.transpose_x)), dtype)
    b = view(y, (1 if p.repeat_y else p.batch, *_rows(p.k, p.n, p.transpose_y)), dtype)
    c = view(out, (p.batch, p.m, p.n), result)
    a, b = a.astype(accumulator), b.astype(accumulator)
    made = (a.mT if p.transpose_x else a) @ (b.mT if p.transpose_y else b)
    c[...] = (made + c if p.add else made).astype(result)


def gemms(product: Product, xs: Sequence[Span], ys: Sequence[Span], outs: Sequence[Span]) -> None:
    """A batch of products, one after another."""
    for x, y, out in zip(xs, ys, outs, strict=True):
        gemm(product._replace(batch=1), x, y, out)


def _rows(m: int, n: int, transposed: bool) -> tuple[int, int]:
    return (n, m) if transposed else (m, n)


def linalg(kind: str, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> bool:
    """A decomposition; whether every matrix has one. Nothing is written unless each has."""
    op = Op(
        "linalg",
        tuple(Value(Type(dtype, shape)) for _, shape, dtype in inputs),
        tuple(Value(Type(dtype, shape)) for _, shape, dtype in outputs),
        {"kind": kind},
    )
    arrays = [view(span, shape, numpy_dtype(dtype)) for span, shape, dtype in inputs]
    try:
        results = decompose(op, arrays)
    except MatrixFailure:
        return False
    for result, (span, shape, dtype) in zip(results, outputs, strict=True):
        view(span, shape, numpy_dtype(dtype))[...] = result
    return True
