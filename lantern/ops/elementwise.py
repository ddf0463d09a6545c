"""Elementwise functions of the array API standard."""

from __future__ import annotations

from typing import Any

from lantern.convert import asarray
from lantern.primitives import elementwise as p
from lantern.promotion import operands
from lantern.tensor import Tensor

__all__ = [
    "add",
    "subtract",
    "multiply",
    "divide",
    "less",
    "negative",
    "sin",
    "cos",
    "exp",
    "log",
    "where",
]


def add(x1: Any, x2: Any, /) -> Tensor:
    x1, x2 = operands(x1, x2)
    return p.add(x1, x2)


def subtract(x1: Any, x2: Any, /) -> Tensor:
    x1, x2 = operands(x1, x2)
    return p.subtract(x1, x2)


def multiply(x1: Any, x2: Any, /) -> Tensor:
    x1, x2 = operands(x1, x2)
    return p.multiply(x1, x2)


def divide(x1: Any, x2: Any, /) -> Tensor:
    x1, x2 = operands(x1, x2)
    return p.divide(x1, x2)


def less(x1: Any, x2: Any, /) -> Tensor:
    x1, x2 = operands(x1, x2)
    return p.less(x1, x2)


def negative(x: Any, /) -> Tensor:
    return p.negative(asarray(x))


def sin(x: Any, /) -> Tensor:
    return p.sin(asarray(x))


def cos(x: Any, /) -> Tensor:
    return p.cos(asarray(x))


def exp(x: Any, /) -> Tensor:
    return p.exp(asarray(x))


def log(x: Any, /) -> Tensor:
    return p.log(asarray(x))


def where(condition: Any, x1: Any, x2: Any, /) -> Tensor:
    x1, x2 = operands(x1, x2)
    return p.where(asarray(condition), x1, x2)
