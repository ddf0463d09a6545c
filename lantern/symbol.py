"""`Symbol`: an array that is not known yet, in a program that is being staged.

It stands where a bare NumPy array would stand: a free Tensor holds it, and rules see it one level
down. What a primitive does to it is written down by its stage (`lantern.staged`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from staging.interpret import numpy_dtype

if TYPE_CHECKING:
    from lantern.staged.stage import Stage
    from staging.ir import Value


class Symbol:
    """A value of a stage: its type is known, its elements are not."""

    __slots__ = ("dtype", "stage", "value")
    __array_ufunc__ = None  # NumPy's operators leave the work to those of a Symbol
    __hash__ = object.__hash__

    def __init__(self, value: Value, stage: Stage) -> None:
        self.value, self.stage = value, stage
        self.dtype: np.dtype[Any] = numpy_dtype(value.type.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each axis."""
        return self.value.type.shape

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.value.type.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return self.value.type.size

    def __repr__(self) -> str:
        return f"Symbol({self.value.type})"
