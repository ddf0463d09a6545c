"""Products and contractions: `matmul`, and what is composed from it."""

from __future__ import annotations

from typing import Any

from lantern.convert import asarray
from lantern.errors import ShapeError, describe, user_line
from lantern.primitives.products import matmul as product
from lantern.primitives.structure import reshape
from lantern.promotion import operands
from lantern.tensor import Tensor

__all__ = ["matmul"]


def matmul(x1: Any, x2: Any, /) -> Tensor:
    """The product of matrices, or of stacks of them whose leading axes broadcast.

    Args:
        x1: shape (..., m, k), or (k,), which stands for a row.
        x2: shape (..., k, n), or (k,), which stands for a column.

    Returns:
        shape (..., m, n); an argument of one axis has its added axis removed again. float16 and bfloat16 are
        multiplied in float32 and rounded once.

    Raises:
        ShapeError: an argument without axes, or lengths that do not agree.

    Source:
        Python array API standard, ``matmul``.

    Example:
        >>> import lantern as ln
        >>> print(ln.matmul(ln.asarray([[1.0, 2.0], [3.0, 4.0]]), ln.asarray([1.0, 1.0])))
        [3. 7.]
    """
    x, y = operands(x1, x2)
    x, y = asarray(x), asarray(y)
    a, b = x.shape, y.shape
    if not a or not b or a[-1] != b[-2 if len(b) > 1 else 0]:
        expected = "(..., m, k) @ (..., k, n), where either may have the one axis (k,)"
        raise ShapeError(
            f"matmul: {describe(x)} @ {describe(y)}; expected {expected}\n  at {user_line()}"
        )
    if len(a) > 1 and len(b) > 1:
        return product(x, y)
    out = product(
        x if len(a) > 1 else reshape(x, shape=(1, *a)),
        y if len(b) > 1 else reshape(y, shape=(*b, 1)),
    )
    lead = a[:-1] if len(b) == 1 else b[:-2]
    return reshape(out, shape=(*lead, *(b[-1:] if len(b) > 1 else ())))
