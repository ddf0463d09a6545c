"""What the functions of linear algebra take: stacks of matrices of a floating dtype."""

from __future__ import annotations

from typing import Any

from lantern.convert import asarray
from lantern.errors import DTypeError, ShapeError, describe
from lantern.tensor import Tensor


def floats(x: Any, what: str) -> Tensor:
    """An array of a floating dtype.

    Raises:
        DTypeError: integers or booleans.
    """
    x = asarray(x)
    if x.dtype.kind in "biu":
        raise DTypeError(
            f"linalg.{what}: {describe(x)}; expected a floating dtype, convert it with ln.astype"
        )
    return x


def matrices(x: Any, what: str, square: bool = False) -> Tensor:
    """A stack of matrices of a floating dtype.

    Raises:
        DTypeError: integers or booleans.
        ShapeError: less than two axes; with ``square``, matrices that are not.
    """
    x = floats(x, what)
    shape = x.shape
    if len(shape) < 2 or (square and shape[-1] != shape[-2]):
        expected = "square matrices (..., n, n)" if square else "matrices (..., m, n)"
        raise ShapeError(f"linalg.{what}: {describe(x)}; expected {expected}")
    return x
