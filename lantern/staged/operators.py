"""The operators of `Symbol`, which rules use on bare values: each is its primitive."""

from __future__ import annotations

from typing import Any

from lantern.primitives import elementwise as p
from lantern.symbol import Symbol

_BINARY = {
    "add": p.add, "sub": p.subtract, "mul": p.multiply, "truediv": p.divide, "pow": p.power,
    "mod": p.remainder, "floordiv": p.floor_divide, "and": p.bitwise_and, "or": p.bitwise_or,
    "xor": p.bitwise_xor, "lshift": p.bitwise_left_shift, "rshift": p.bitwise_right_shift,
}  # fmt: skip
_COMPARISONS = {
    "lt": p.less, "le": p.less_equal, "gt": p.greater, "ge": p.greater_equal, "eq": p.equal,
    "ne": p.not_equal,
}  # fmt: skip


def _reflected(perform: Any) -> Any:
    return lambda self, other: perform(other, self)


for _name, _perform in _BINARY.items():
    setattr(Symbol, f"__{_name}__", lambda self, other, perform=_perform: perform(self, other))
    setattr(Symbol, f"__r{_name}__", _reflected(_perform))
for _name, _perform in _COMPARISONS.items():
    setattr(Symbol, f"__{_name}__", lambda self, other, perform=_perform: perform(self, other))
setattr(Symbol, "__neg__", lambda self: p.negative(self))  # noqa: B010  # as the others
setattr(Symbol, "__invert__", lambda self: p.bitwise_invert(self))  # noqa: B010
