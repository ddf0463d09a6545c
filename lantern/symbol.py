"""`Symbol`: an array that is not known yet, in a program that is being staged.

It stands where a bare NumPy array would stand: a free Tensor holds it, and rules see it one level
down. What a primitive does to it is written down by its stage (`lantern.staged`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from lantern.errors import StagingError, why_not_rewritten
from lantern.lengths import named
from lantern.places import staging
from lantern.ragged import NODE

if TYPE_CHECKING:
    from lantern.staged.operators import Operators
    from lantern.staged.stage import Stage
    from staging.ir import Value
else:
    Operators = object

outside: ContextVar[Mapping[int, Any]] = ContextVar("outside", default=MappingProxyType({}))
"""The arrays, by id, that a function reads besides its arguments while a program is written for it.
They are inputs of the program, whatever their elements are."""


def type_name(dtype: np.dtype[Any]) -> str:
    """What a program calls a dtype."""
    return "node" if dtype == NODE else dtype.name


class Symbol(Operators):
    """A value of a stage: its type is known, its elements are not."""

    __slots__ = ("dtype", "stage", "value")
    __array_ufunc__ = None  # NumPy's operators leave the work to those of a Symbol
    __hash__ = object.__hash__  # type: ignore[assignment]  # == compares elements: by identity

    def __init__(self, value: Value, stage: Stage) -> None:
        self.value, self.stage = value, stage
        name = value.type.dtype
        self.dtype: np.dtype[Any] = NODE if name == "node" else np.dtype(name)

    @property
    def shape(self) -> tuple[Any, ...]:
        """The length of each axis; a `Length` where it is not known."""
        return named(self.value.type.shape)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.value.type.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        type = self.value.type
        return math.prod(self.shape) if type.is_table else type.size

    def refuse(self, what: str) -> NoReturn:
        """Say that a program reads a value that it does not have yet.

        Raises:
            StagingError: always.
        """
        when, more = "compiling", why_not_rewritten()
        if not staging.get():
            when = "a recursive function, or a loop, is recorded for all its calls or steps"
            more = ". Inside of ln.compile `if`, `while` and `for` may depend on such values"
        raise StagingError(
            f"{what} needs a value that is not known while {when}. Choose between values with "
            "ln.where, between computations with ln.cond, loop with ln.scan or ln.fori_loop. What "
            "decides shapes, or which code of Python runs, comes from outside: compute it before, "
            f"and pass it in as an argument that is static, ln.compile(static=name){more}"
        )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NoReturn:
        self.refuse("a function of NumPy")

    def __bool__(self) -> NoReturn:
        self.refuse("bool()")

    def __repr__(self) -> str:
        return f"{self.value.type}, known when it runs"


def is_known(x: Any) -> bool:
    """Whether the elements of a Tensor are there: no transformation and no program holds it."""
    return x.prompt is None and type(x.value) is not Symbol
