"""Reductions of the array API standard: statistics, logic, running sums and products."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lantern.convert import asarray
from lantern.ops.axes import Axis, all_axes
from lantern.primitives import reductions as p
from lantern.primitives.structure import cast, convert, kept, reduce_sum, reshape
from lantern.tensor import Tensor

__all__ = ["max", "mean", "min", "prod", "sum"]


def sum(x: Any, /, *, axis: Axis = None, dtype: Any = None, keepdims: bool = False) -> Tensor:
    x = asarray(x)
    return _reduced(reduce_sum, _converted(x, dtype or _sum_dtype(x.dtype)), axis, keepdims, "sum")


def prod(x: Any, /, *, axis: Axis = None, dtype: Any = None, keepdims: bool = False) -> Tensor:
    x = asarray(x)
    x = _converted(x, dtype or _sum_dtype(x.dtype))
    return _reduced(p.reduce_prod, x, axis, keepdims, "prod")


def mean(x: Any, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    x = asarray(x)
    axes = all_axes(axis, x.ndim, "mean")
    n = math.prod(x.shape[a] for a in axes)
    total = _reduced(reduce_sum, _converted(x, _wide(x.dtype)), axes, keepdims, "mean")
    return _converted(total / n if n else total * math.nan, _mean_dtype(x.dtype))


def max(x: Any, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    return _reduced(p.reduce_max, asarray(x), axis, keepdims, "max")


def min(x: Any, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    return _reduced(p.reduce_min, asarray(x), axis, keepdims, "min")


def _reduced(reduce: Any, x: Tensor, axis: Axis, keepdims: bool, what: str) -> Tensor:
    """``reduce`` over the axes meant by ``axis``, which stay with length one if ``keepdims``."""
    shape = x.shape
    axes = all_axes(axis, len(shape), what)
    z = reduce(x, axes=axes)
    return reshape(z, shape=kept(shape, axes)) if keepdims else z


def _sum_dtype(dtype: Any) -> Any:
    """The dtype of a sum or product: integers, and booleans, become those of eight bytes."""
    return {"b": np.dtype("int64"), "i": np.dtype("int64"), "u": np.dtype("uint64")}.get(
        dtype.kind, dtype
    )


def _mean_dtype(dtype: Any) -> Any:
    return np.dtype("float32") if dtype.kind in "biu" else dtype


def _wide(dtype: Any) -> Any:
    return p.wide(_mean_dtype(dtype))


def _converted(x: Tensor, dtype: Any) -> Tensor:
    """``x`` in another dtype; differentiable between floats."""
    dtype = np.dtype(dtype)
    if x.dtype == dtype:
        return x
    discrete = x.dtype.kind in "biu" or dtype.kind in "biu"
    return convert(x, dtype=dtype) if discrete else cast(x, dtype=dtype)
