"""What several operands of a product have in common: one dtype, shapes that broadcast."""

from __future__ import annotations

from typing import Any

from lantern.convert import asarray
from lantern.dtypes import result_type
from lantern.kinds import convert_to, is_number
from lantern.tensor import Tensor


def promoted(*xs: Any) -> list[Tensor]:
    """The operands as Tensors of one dtype; Python numbers are weak."""
    first = xs[0]
    if all(type(x) is Tensor and x.dtype is first.dtype for x in xs):
        return list(xs)
    xs = tuple(x if is_number(x) else asarray(x) for x in xs)
    dtype = result_type(*xs)
    return [convert_to(asarray(x), dtype) for x in xs]


def broadcast(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape that two shapes broadcast to, None if they do not.

    Example:
        >>> broadcast((2, 1), (3,)), broadcast((2,), (3,))
        ((2, 3), None)
    """
    rank = max(len(a), len(b))
    pairs = zip((1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b, strict=True)
    out = tuple(n if m == 1 else m if n in (1, m) else -1 for m, n in pairs)
    return None if -1 in out else out
