"""What two operands become before they meet: Tensors of one dtype, or a Tensor and a Python number."""

from __future__ import annotations

from typing import Any

from lantern.convert import asarray
from lantern.tensor import Tensor


def operands(x1: Any, x2: Any) -> tuple[Any, Any]:
    """Two operands of an elementwise function, promoted to one dtype; a Python number stays one (it is weak)."""
    if type(x1) is Tensor:
        if type(x2) is Tensor:
            if x1.dtype is x2.dtype:
                return x1, x2
        elif type(x2) in (float, int) and x1.dtype.kind == "f":
            return x1, x2
    elif type(x1) in (float, int) and type(x2) is Tensor and x2.dtype.kind == "f":
        return x1, x2
    return asarray(x1), asarray(x2)
