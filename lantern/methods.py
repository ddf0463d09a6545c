"""Operators and methods of `Tensor`, attached from one table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lantern.ops import elementwise
from lantern.tensor import Tensor

for _name, _function in {
    "add": elementwise.add,
    "sub": elementwise.subtract,
    "mul": elementwise.multiply,
    "truediv": elementwise.divide,
    "lt": elementwise.less,
}.items():
    setattr(Tensor, f"__{_name}__", _function)
    setattr(Tensor, f"__r{_name}__", lambda a, b, f=_function: f(b, a))
Tensor.__neg__ = elementwise.negative
