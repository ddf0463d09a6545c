"""Lowerings of special functions: their NumPy kernels, run on Symbols, write themselves down."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from lantern.primitives import elementwise as e
from lantern.primitives import random, special
from lantern.staged.stage import Lowering, converted, elementwise, stage_of
from lantern.symbol import Symbol

FLOAT64 = np.dtype(np.float64)
UINT32, UINT64 = np.dtype(np.uint32), np.dtype(np.uint64)


class Numbers(np.lib.mixins.NDArrayOperatorsMixin):
    """A Symbol as an array that the functions of NumPy take, as far as kernels use them."""

    def __init__(self, symbol: Symbol) -> None:
        self.symbol = symbol
        self.dtype, self.shape = symbol.dtype, symbol.shape

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        perform = UFUNCS.get(ufunc)
        if perform is None or method != "__call__" or kwargs:
            return NotImplemented
        return Numbers(perform(*map(bare, inputs)))

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        perform = FUNCTIONS.get(function)
        if perform is None or kwargs:
            return NotImplemented
        return Numbers(perform(*map(bare, args)))

    def astype(self, dtype: Any) -> Numbers:
        """In another dtype."""
        return Numbers(converted(self.symbol, np.dtype(dtype)))


def bare(x: Any) -> Any:
    return x.symbol if type(x) is Numbers else x


UFUNCS: dict[Any, Callable[..., Any]] = {
    np.add: e.add, np.subtract: e.subtract, np.multiply: e.multiply, np.divide: e.divide,
    np.negative: e.negative, np.power: e.power, np.absolute: e.absolute, np.floor: e.floor,
    np.exp: e.exp, np.log: e.log, np.sin: e.sin, np.tan: e.tan, np.sqrt: e.sqrt,
    np.maximum: e.maximum, np.minimum: e.minimum, np.copysign: e.copysign,
    np.greater: e.greater, np.greater_equal: e.greater_equal, np.less: e.less,
    np.less_equal: e.less_equal, np.equal: e.equal, np.isinf: e.isinf,
    np.bitwise_and: e.bitwise_and, np.bitwise_or: e.bitwise_or,
}  # fmt: skip
FUNCTIONS: dict[Any, Callable[..., Any]] = {
    np.where: e.where,
    np.round: e.round_,
    np.isneginf: lambda x: x == -np.inf,
    np.ones_like: lambda x: x * 0.0 + 1.0,
    np.clip: lambda x, low, high: e.minimum(e.maximum(x, low), high),
}


def kernel_of(perform: Any) -> Lowering:
    """The lowering that the float64 kernel of a primitive writes."""
    kernel = inspect.unwrap(perform.primitive.kernel)

    def lower(x: Symbol, **params: Any) -> Symbol:
        wide = kernel(Numbers(converted(x, FLOAT64)), **params)
        return converted(wide.symbol, x.dtype)

    return lower


# Random numbers -----------------------------------------------------------------------------------


def philox(*words: Any) -> tuple[Symbol, ...]:
    """Ten rounds on 32-bit words in 64-bit integers, which hold the products."""
    stage = stage_of(*words)
    k0, k1, c0, c1, c2, c3 = (converted(stage.symbol(w), UINT64) for w in words)
    (m0, m1), (w0, w1) = map(int, random._MULTIPLIERS), random._WEYL
    low = 2**32 - 1
    for i in range(10):
        if i:
            k0, k1 = (k0 + w0) & low, (k1 + w1) & low
        p0, p1 = c0 * m0, c2 * m1
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & low, (p0 >> 32) ^ c3 ^ k1, p0 & low
    return tuple(converted(c, UINT32) for c in (c0, c1, c2, c3))


def normal_quantile(p: Symbol) -> Symbol:
    x = converted(p, FLOAT64)
    q = x - 0.5
    centre = e.absolute(q) <= 0.425
    inner = e.where(centre, q, 0.0)
    near = inner * random._rational(0.180625 - inner * inner, random._CENTRE)
    tail = e.minimum(x, 1.0 - x)
    r = e.sqrt(-e.log(e.where(centre, 0.25, tail)))
    finite = e.where(e.isinf(r), 1.0, r)
    far = e.where(
        r <= 5,
        random._rational(finite - 1.6, random._MIDDLE),
        random._rational(finite - 5.0, random._TAIL),
    )
    far = e.where(e.isinf(r), np.inf, far)
    return converted(e.where(centre, near, e.where(q < 0, -far, far)), p.dtype)


LOWERINGS: dict[Any, Lowering] = {
    special.erf: elementwise("erf"),
    special.erfc: kernel_of(special.erfc),
    special.lgamma: kernel_of(special.lgamma),
    special.digamma: kernel_of(special.digamma),
    special.polygamma: kernel_of(special.polygamma),
    random.philox: philox,
    random.normal_quantile: normal_quantile,
}
