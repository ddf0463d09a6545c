"""Lowerings of products of matrices and of an optimiser's step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lantern.primitives import elementwise as e
from lantern.primitives import products
from lantern.primitives.optimizers import adam
from lantern.primitives.products import transposed
from lantern.primitives.structure import reduce_sum
from lantern.staged.stage import (
    F32,
    Lowering,
    common_dtype,
    converted,
    emit,
    in_dtype,
    literal,
    repeated,
    shaped,
    widened,
)
from lantern.symbol import Symbol


def matmul(x: Any, y: Any) -> Symbol:
    """One matrix that a whole batch shares is multiplied with all rows of the batch at once."""
    x, y = in_dtype(common_dtype(x, y), x, y)
    if x.dtype.kind == "b":
        return matmul(converted(x, F32), converted(y, F32)) > 0
    *lead, m, k = x.shape
    n = y.shape[-1]
    if k == y.shape[-2] and (k == 1 or (m, n) == (1, 1)):
        return pointwise(x, y)
    if y.ndim == 2 and lead:
        if k != y.shape[0]:
            raise ValueError(f"inner lengths {k} and {y.shape[0]} differ")
        return shaped(product(shaped(x, (math.prod(lead) * m, k)), y), (*lead, m, n))
    batch = np.broadcast_shapes(tuple(lead), y.shape[:-2])
    return product(repeated(x, (*batch, m, k)), repeated(y, (*batch, *y.shape[-2:])))


@widened
def pointwise(x: Any, y: Any) -> Symbol:
    """Outer products, and a batch of inner ones: what stands around them can join their loops."""
    if x.shape[-1] == 1:
        return x * y
    row = x * transposed(y)
    last = row.ndim - 1
    return shaped(reduce_sum(row, axes=(last,)), (*row.shape[:-1], 1))


def product(x: Symbol, y: Symbol) -> Symbol:
    return emit("matmul", x, y, transpose_x=False, transpose_y=False)


# Optimisers ---------------------------------------------------------------------------------------


def adam_step(
    g: Any, m: Any, v: Any, p: Any, rate: Any, scale: Any, decay: Any, *, b1: Any, b2: Any, eps: Any
) -> tuple[Symbol, ...]:
    dtype = common_dtype(m, v)
    still = literal(decay) == 0
    g, m, v, p, rate, scale, decay = in_dtype(dtype, g, m, v, p, rate, scale, decay)
    m = m * b1 + g * (1 - b1)
    v = v * b2 + g * g * (1 - b2)
    update = m * -rate / (e.sqrt(v * scale) + eps)
    return (update if still else update - p * decay), m, v


LOWERINGS: dict[Any, Lowering] = {
    products.matmul: matmul,
    adam: adam_step,
}
