"""Elementwise primitives: each a NumPy function and what a change of its argument does to it."""

from __future__ import annotations

from typing import Any

import numpy as np

from lantern.control import discrete, primitive
from lantern.primitives.structure import reshape


def elementwise(
    perform: Any, size: int, mapped: tuple[bool, ...], *values: Any, **params: Any
) -> Any:
    """The batch rule of every elementwise primitive: align the ranks of one element, then broadcast."""
    ranks = [getattr(v, "ndim", 0) - m for v, m in zip(values, mapped, strict=True)]
    rank = max(ranks)
    aligned = [
        reshape(v, shape=(size,) + (1,) * (rank - r) + tuple(v.shape[1:])) if m and r < rank else v
        for v, r, m in zip(values, ranks, mapped, strict=True)
    ]
    return perform(*aligned, **params)


@primitive(np.add, batch=elementwise)
def add(x, y):
    dz = yield x + y
    return dz, dz


@primitive(np.subtract, batch=elementwise)
def subtract(x, y):
    dz = yield x - y
    return dz, lambda: -dz


@primitive(np.multiply, batch=elementwise)
def multiply(x, y):
    dz = yield x * y
    return lambda: dz * y, lambda: dz * x


@primitive(np.true_divide, batch=elementwise)
def divide(x, y):
    z = x / y
    dz = yield z
    return lambda: dz / y, lambda: -dz * z / y


@primitive(np.negative, batch=elementwise)
def negative(x):
    dz = yield -x
    return -dz


@primitive(np.sin, batch=elementwise)
def sin(x):
    dz = yield sin(x)
    return dz * cos(x)


@primitive(np.cos, batch=elementwise)
def cos(x):
    dz = yield cos(x)
    return -dz * sin(x)


@primitive(np.exp, batch=elementwise)
def exp(x):
    y = exp(x)
    dz = yield y
    return dz * y


@primitive(np.log, batch=elementwise)
def log(x):
    dz = yield log(x)
    return dz / x


@primitive(np.where, batch=elementwise)
def where(condition, x, y):
    dz = yield where(condition, x, y)
    return None, lambda: where(condition, dz, 0.0), lambda: where(condition, 0.0, dz)


less = discrete("less", np.less, batch=elementwise)
