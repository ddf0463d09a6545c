"""What a function reads besides its arguments: its program is right only while that stays."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

from lantern import tree
from lantern.tensor import Tensor

_PLAIN = (bool, int, float, str, bytes, type(None))


class Fingerprint:
    """A hashable key of the code and the captured values of a function.

    Plain values count by value, containers by their leaves, functions by their code and what they
    capture in turn; everything else, Tensors and arrays included, by identity, which ``alive``
    keeps from being used again.
    """

    def __init__(self, f: Callable[..., Any]) -> None:
        self.alive: list[Any] = []
        self.seen: set[int] = set()
        self.key: Hashable = self.of(f)

    def of(self, x: Any) -> Hashable:
        """The key of one value."""
        if isinstance(x, _PLAIN):
            return type(x), repr(x)
        if id(x) in self.seen or isinstance(x, (ModuleType, BuiltinFunctionType, type)):
            return id(x)
        self.alive.append(x)
        self.seen.add(id(x))
        if isinstance(x, MethodType):
            return self.of(x.__func__), self.of(x.__self__)
        if isinstance(x, FunctionType):
            return self.of_function(x)
        if type(x) is not Tensor:
            leaves, structure = tree.flatten(x)
            if len(leaves) != 1 or leaves[0] is not x:
                return structure, tuple(self.of(leaf) for leaf in leaves)
        return id(x)

    def of_function(self, f: FunctionType) -> Hashable:
        """The code of a function, its defaults, its closure, and the globals that it names."""
        if (
            f.__module__.partition(".")[0] in ("lantern", "staging", "backends")
            and not f.__closure__
        ):
            return id(f.__code__)
        cells = []
        for cell in f.__closure__ or ():
            try:
                cells.append(self.of(cell.cell_contents))
            except ValueError:  # a cell that nothing has been put into yet
                cells.append(None)
        names = sorted(_names(f.__code__) & f.__globals__.keys())
        own = tuple(self.of(f.__globals__[n]) for n in names)
        defaults = self.of(f.__defaults__), self.of(f.__kwdefaults__)
        return id(f.__code__), tuple(cells), own, defaults


def _names(code: Any) -> set[str]:
    """The global names that a code object, or one nested in it, reads."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if hasattr(constant, "co_names"):
            names |= _names(constant)
    return names
