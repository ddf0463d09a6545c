"""From the outside world to Tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

from lantern.tensor import Tensor

__all__ = ["asarray"]


def asarray(x: Any, dtype: Any = None) -> Tensor:
    if type(x) is Tensor:
        return x
    if dtype is None and not isinstance(x, (np.ndarray, np.generic)):
        a = np.array(x)
        dtype = np.float32 if a.dtype == np.float64 else a.dtype
    return Tensor(np.array(x, dtype=dtype)[()])
