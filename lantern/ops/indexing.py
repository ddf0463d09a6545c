"""Indexing: ``x[...]``, `take`, and the functional updates ``x.at[...]``."""

from __future__ import annotations

from typing import Any

import numpy as np

from lantern.errors import IndexRangeError, describe, user_line
from lantern.primitives import indexing as p
from lantern.primitives.structure import reshape
from lantern.tensor import Tensor

__all__: list[str] = []


def getitem(x: Tensor, key: Any, /) -> Tensor:
    """``x[key]`` for ints, slices, Ellipsis and None."""
    key = key if isinstance(key, tuple) else (key,)
    rank = sum(k is not None and k is not Ellipsis for k in key)
    full = [k for k in key if k is not Ellipsis]
    at = next((i for i, k in enumerate(key) if k is Ellipsis), len(key))
    full[at:at] = [slice(None)] * (len(x.shape) - rank)
    index: list[Any] = []
    shape: list[int] = []
    for k in full:
        if k is None:
            shape.append(1)
            continue
        n = x.shape[len(index)]
        if isinstance(k, slice):
            index.append(k.indices(n))
            shape.append(len(range(*index[-1])))
            continue
        i = int(np.asarray(k.value if type(k) is Tensor else k))
        if not -n <= i < n:
            raise IndexRangeError(
                f"index {i} is out of range for axis {len(index)} of {describe(x)}\n  at {user_line()}"
            )
        index.append(i % n)
    y = p.static_slice(x, index=tuple(index))
    return reshape(y, shape=tuple(shape)) if None in full else y
