"""The operators of `Symbol`, which rules use on bare values: each is its primitive.

Type checkers read the same table: to them `Symbol` derives from `Operators`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lantern.primitives import elementwise as p
from lantern.symbol import Symbol

Binary = Callable[[Any, Any], Symbol]


def _operator(perform: Binary) -> Binary:
    return lambda self, other: perform(self, other)


def _reflected(perform: Binary) -> Binary:
    return lambda self, other: perform(other, self)


class Operators:
    """What the operators of Python mean on a Symbol."""

    __add__, __radd__ = _operator(p.add), _reflected(p.add)
    __sub__, __rsub__ = _operator(p.subtract), _reflected(p.subtract)
    __mul__, __rmul__ = _operator(p.multiply), _reflected(p.multiply)
    __truediv__, __rtruediv__ = _operator(p.divide), _reflected(p.divide)
    __floordiv__, __rfloordiv__ = _operator(p.floor_divide), _reflected(p.floor_divide)
    __mod__, __rmod__ = _operator(p.remainder), _reflected(p.remainder)
    __pow__, __rpow__ = _operator(p.power), _reflected(p.power)
    __and__, __rand__ = _operator(p.bitwise_and), _reflected(p.bitwise_and)
    __or__, __ror__ = _operator(p.bitwise_or), _reflected(p.bitwise_or)
    __xor__, __rxor__ = _operator(p.bitwise_xor), _reflected(p.bitwise_xor)
    __lshift__, __rlshift__ = _operator(p.bitwise_left_shift), _reflected(p.bitwise_left_shift)
    __rshift__, __rrshift__ = _operator(p.bitwise_right_shift), _reflected(p.bitwise_right_shift)
    __lt__, __le__ = _operator(p.less), _operator(p.less_equal)
    __gt__, __ge__ = _operator(p.greater), _operator(p.greater_equal)
    __eq__ = _operator(p.equal)  # type: ignore[assignment]  # elementwise, as in NumPy
    __ne__ = _operator(p.not_equal)  # type: ignore[assignment]  # elementwise too

    def __neg__(self) -> Symbol:
        return p.negative(self)

    def __invert__(self) -> Symbol:
        return p.bitwise_invert(self)


for _name, _value in vars(Operators).items():
    if callable(_value):
        setattr(Symbol, _name, _value)
