"""Shapes and dtypes without elements: `eval_shape`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lantern import tree
from lantern.errors import describe
from lantern.kinds import DType, as_dtype

__all__ = ["ShapeDtype", "eval_shape"]

PyTree = Any


class ShapeDtype:
    """The shape and dtype of an array, without its elements.

    It stands for an array where only its kind matters: `eval_shape`, and ``ir`` of a compiled
    function.

    Example:
        >>> import lantern as ln
        >>> ln.ShapeDtype((2, 3), "float32")
        ShapeDtype(float32[2, 3])
    """

    __slots__ = ("dtype", "shape")

    def __init__(self, shape: Sequence[int], dtype: Any) -> None:
        self.shape: tuple[int, ...] = tuple(int(n) for n in shape)
        self.dtype: DType = as_dtype(dtype)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ShapeDtype):
            return NotImplemented
        return (self.shape, self.dtype) == (other.shape, other.dtype)

    def __hash__(self) -> int:
        return hash((self.shape, self.dtype))

    def __repr__(self) -> str:
        return f"ShapeDtype({describe(self)})"


def eval_shape(f: Callable[..., PyTree], /, *args: PyTree, **kwargs: PyTree) -> PyTree:
    """The shapes and dtypes that ``f`` returns, without computing anything.

    Args:
        f: a function of pytrees; what `lantern.compile` can compile.
        *args: its arguments, or `ShapeDtype` in place of arrays.
        **kwargs: more of them.

    Returns:
        The result of ``f`` with a `ShapeDtype` in place of each array.

    Raises:
        LanternError: as ``f`` raises for arguments of these shapes and dtypes.

    Example:
        >>> import lantern as ln
        >>> ln.eval_shape(ln.matmul, ln.ShapeDtype((2, 3), "float32"), ln.ones((3, 5)))
        ShapeDtype(float32[2, 5])
    """
    from lantern.staged.compiled import Compiled  # when something is staged
    from lantern.staged.options import Options

    traced = Compiled(f, Options()).traced(args, kwargs)
    kinds = (ShapeDtype(v.type.shape, v.type.dtype) for v in traced.program.block.results)
    return tree.unflatten(traced.structure, kinds)
