"""To be written."""

from __future__ import annotations

from typing import Any

from lantern.convert import asarray
from lantern.primitives.structure import reduce_sum
from lantern.tensor import Tensor

__all__ = ["sum"]


def sum(x: Any, /) -> Tensor:
    x = asarray(x)
    return reduce_sum(x, axes=tuple(range(x.ndim)))
