"""Operators and methods of `Tensor`: one typed table, attached to the class when this is imported.

Type checkers read the same table: to them `Tensor` derives from `Methods`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np

from lantern.convert import astype
from lantern.dlpack import capsule_of
from lantern.errors import ArgumentError, ArgumentTypeError, describe
from lantern.ops import (
    assembly,
    elementwise,
    indexing,
    logic,
    manipulation,
    products,
    reductions,
    sorting,
)
from lantern.ops.axes import Axis
from lantern.primitives import elementwise as p
from lantern.tensor import Tensor, concrete

_KNOWN = (Tensor, int, float, complex, np.ndarray, np.generic)
Binary = Callable[[Any, Any], Tensor]


def _operator(function: Binary, perform: Binary) -> Binary:
    """A binary operator. Scalar programs live on its first lines, which look at types only.

    Args:
        function: what it does to any two operands.
        perform: the primitive behind it, for operands that need no promotion.
    """

    def operator(self: Any, other: Any, /) -> Tensor:
        if self.dtype.kind == "f":
            kind = type(other)
            if kind is Tensor:
                if self.dtype is other.dtype:
                    return perform(self, other)
            elif kind is float or kind is int:
                return perform(self, other)
        return function(self, other) if isinstance(other, _KNOWN) else NotImplemented

    return operator


def _reflected(function: Binary, perform: Binary) -> Binary:
    """The same with the operands exchanged: ``2 - x`` arrives at ``x`` first."""

    def operator(self: Any, other: Any, /) -> Tensor:
        if self.dtype.kind == "f" and (type(other) is float or type(other) is int):
            return perform(other, self)
        return function(other, self) if isinstance(other, _KNOWN) else NotImplemented

    return operator


def _divmod(x: Any, y: Any) -> Any:
    return elementwise.floor_divide(x, y), elementwise.remainder(x, y)


class Methods:
    """What `Tensor` can do beyond holding a value. The functions of the same names explain it."""

    __add__ = _operator(elementwise.add, p.add)
    __radd__ = _reflected(elementwise.add, p.add)
    __sub__ = _operator(elementwise.subtract, p.subtract)
    __rsub__ = _reflected(elementwise.subtract, p.subtract)
    __mul__ = _operator(elementwise.multiply, p.multiply)
    __rmul__ = _reflected(elementwise.multiply, p.multiply)
    __truediv__ = _operator(elementwise.divide, p.divide)
    __rtruediv__ = _reflected(elementwise.divide, p.divide)
    __floordiv__ = _operator(elementwise.floor_divide, p.floor_divide)
    __rfloordiv__ = _reflected(elementwise.floor_divide, p.floor_divide)
    __mod__ = _operator(elementwise.remainder, p.remainder)
    __rmod__ = _reflected(elementwise.remainder, p.remainder)
    __divmod__ = _operator(_divmod, _divmod)
    __rdivmod__ = _reflected(_divmod, _divmod)
    __pow__ = _operator(elementwise.pow, p.power)
    __rpow__ = _reflected(elementwise.pow, p.power)
    __matmul__ = _operator(products.matmul, products.matmul)
    __rmatmul__ = _reflected(products.matmul, products.matmul)
    __and__ = _operator(logic.bitwise_and, p.bitwise_and)
    __rand__ = _reflected(logic.bitwise_and, p.bitwise_and)
    __or__ = _operator(logic.bitwise_or, p.bitwise_or)
    __ror__ = _reflected(logic.bitwise_or, p.bitwise_or)
    __xor__ = _operator(logic.bitwise_xor, p.bitwise_xor)
    __rxor__ = _reflected(logic.bitwise_xor, p.bitwise_xor)
    __lshift__ = _operator(logic.bitwise_left_shift, p.bitwise_left_shift)
    __rlshift__ = _reflected(logic.bitwise_left_shift, p.bitwise_left_shift)
    __rshift__ = _operator(logic.bitwise_right_shift, p.bitwise_right_shift)
    __rrshift__ = _reflected(logic.bitwise_right_shift, p.bitwise_right_shift)

    __lt__ = _operator(logic.less, p.less)
    __le__ = _operator(logic.less_equal, p.less_equal)
    __gt__ = _operator(logic.greater, p.greater)
    __ge__ = _operator(logic.greater_equal, p.greater_equal)
    # `object` promises a bool here; arrays compare elementwise.
    # These two compare elements, where `object` promises a bool.
    __eq__: ClassVar[Binary] = _operator(logic.equal, p.equal)  # type: ignore[assignment]
    __ne__: ClassVar[Binary] = _operator(logic.not_equal, p.not_equal)  # type: ignore[assignment]

    __neg__ = elementwise.negative
    __pos__ = elementwise.positive
    __abs__ = elementwise.abs
    __invert__ = logic.bitwise_invert
    __getitem__ = indexing.getitem

    def __iter__(self: Any) -> Iterator[Tensor]:
        if not self.shape:
            raise TypeError("iteration over a Tensor without axes")
        return iter(assembly.unstack(self))

    def __contains__(self, value: Any) -> bool:
        return bool(reductions.any(logic.equal(self, value)))

    def __round__(self, ndigits: int | None = None) -> Tensor:
        if ndigits:
            raise TypeError("round() of a Tensor rounds to integers only")
        return elementwise.round(self)

    def __dlpack__(
        self: Any,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[Any, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A DLPack capsule that shares the memory; whoever takes it should not write there."""
        if self.prompt is not None:
            self.__array__()  # raises: the derivative would be lost
        value = concrete(self, "__dlpack__")
        if hasattr(value, "lent"):  # it is on a device
            return value.lent().__dlpack__(
                stream=stream, max_version=max_version, dl_device=dl_device, copy=copy
            )
        array = np.asarray(value)
        old = max_version is None or max_version[0] < 1
        if not array.flags.writeable and old and copy is None:
            array = array.copy()  # only version 1 can say that memory is not to be written
        return capsule_of(
            array, stream=stream, max_version=max_version, dl_device=dl_device, copy=copy
        )

    def __dlpack_device__(self: Any) -> tuple[int, int]:
        return self.value.device.kind if hasattr(self.value, "lent") else (1, 0)

    @property
    def __cuda_array_interface__(self: Any) -> dict[str, Any]:
        """What libraries share that know no DLPack; only of elements that are on a GPU."""
        if not hasattr(self.value, "lent"):
            raise AttributeError("__cuda_array_interface__")
        return self.value.lent().__cuda_array_interface__

    @property
    def T(self: Any) -> Tensor:
        """The axes in reverse order."""
        return manipulation.permute_dims(self, tuple(range(len(self.shape)))[::-1])

    @property
    def mT(self) -> Tensor:
        """The last two axes exchanged."""
        return manipulation.matrix_transpose(self)

    @property
    def at(self: Any) -> indexing.At:
        """Functional updates: ``x.at[index].set(value)``, or ``add``, ``multiply``, ``max`` …"""
        return indexing.At(self)

    # NumPy's functions call the methods of what they are given, with ``out`` and ``dtype``: so
    # ``np.sum(x)`` is a differentiable Tensor.

    def sum(
        self, axis: Axis = None, *, dtype: Any = None, out: None = None, keepdims: bool = False
    ) -> Tensor:
        """See `lantern.sum`."""
        _refuse(out)
        return reductions.sum(self, axis=axis, dtype=dtype, keepdims=keepdims)

    def prod(
        self, axis: Axis = None, *, dtype: Any = None, out: None = None, keepdims: bool = False
    ) -> Tensor:
        """See `lantern.prod`."""
        _refuse(out)
        return reductions.prod(self, axis=axis, dtype=dtype, keepdims=keepdims)

    def mean(
        self, axis: Axis = None, *, dtype: Any = None, out: None = None, keepdims: bool = False
    ) -> Tensor:
        """See `lantern.mean`; ``dtype`` is that of the result and of the sum."""
        _refuse(out)
        return reductions.mean(_converted(self, dtype), axis=axis, keepdims=keepdims)

    def var(
        self,
        axis: Axis = None,
        *,
        correction: float = 0.0,
        ddof: float = 0.0,
        dtype: Any = None,
        out: None = None,
        keepdims: bool = False,
    ) -> Tensor:
        """See `lantern.var`; ``ddof`` is NumPy's name for ``correction``."""
        _refuse(out)
        x = _converted(self, dtype)
        return reductions.var(x, axis=axis, correction=correction or ddof, keepdims=keepdims)

    def std(
        self,
        axis: Axis = None,
        *,
        correction: float = 0.0,
        ddof: float = 0.0,
        dtype: Any = None,
        out: None = None,
        keepdims: bool = False,
    ) -> Tensor:
        """See `lantern.std`; ``ddof`` is NumPy's name for ``correction``."""
        _refuse(out)
        x = _converted(self, dtype)
        return reductions.std(x, axis=axis, correction=correction or ddof, keepdims=keepdims)

    def max(self, axis: Axis = None, *, out: None = None, keepdims: bool = False) -> Tensor:
        """See `lantern.max`."""
        _refuse(out)
        return reductions.max(self, axis=axis, keepdims=keepdims)

    def min(self, axis: Axis = None, *, out: None = None, keepdims: bool = False) -> Tensor:
        """See `lantern.min`."""
        _refuse(out)
        return reductions.min(self, axis=axis, keepdims=keepdims)

    def any(self, axis: Axis = None, *, out: None = None, keepdims: bool = False) -> Tensor:
        """See `lantern.any`."""
        _refuse(out)
        return reductions.any(self, axis=axis, keepdims=keepdims)

    def all(self, axis: Axis = None, *, out: None = None, keepdims: bool = False) -> Tensor:
        """See `lantern.all`."""
        _refuse(out)
        return reductions.all(self, axis=axis, keepdims=keepdims)

    def argmax(
        self, axis: int | None = None, *, out: None = None, keepdims: bool = False
    ) -> Tensor:
        """See `lantern.argmax`."""
        _refuse(out)
        return reductions.argmax(self, axis=axis, keepdims=keepdims)

    def argmin(
        self, axis: int | None = None, *, out: None = None, keepdims: bool = False
    ) -> Tensor:
        """See `lantern.argmin`."""
        _refuse(out)
        return reductions.argmin(self, axis=axis, keepdims=keepdims)

    def sort(self, axis: int = -1, *, descending: bool = False) -> Tensor:
        """See `lantern.sort`."""
        return sorting.sort(self, axis=axis, descending=descending)

    def argsort(self, axis: int = -1, *, descending: bool = False) -> Tensor:
        """See `lantern.argsort`."""
        return sorting.argsort(self, axis=axis, descending=descending)

    def reshape(self, *shape: Any, order: str = "C") -> Tensor:
        """The same elements under another shape, given as one tuple or as integers."""
        if order != "C":
            raise ArgumentError(f"reshape(order={order!r}): elements are in the order 'C' only")
        return manipulation.reshape(self, _one_tuple(shape))

    def flatten(self) -> Tensor:
        """See `lantern.flatten`."""
        return manipulation.flatten(self)

    def ravel(self) -> Tensor:
        """See `lantern.ravel`."""
        return manipulation.ravel(self)

    def squeeze(self: Any, axis: Axis = None) -> Tensor:
        """Without ``axis``, or, for None, without all axes of length one."""
        if axis is None:
            axis = tuple(i for i, n in enumerate(self.shape) if n == 1)
        return manipulation.squeeze(self, axis)

    def transpose(self, *axes: Any) -> Tensor:
        """The axes in another order, given as one tuple or as integers; in reverse by default."""
        given = _one_tuple(axes)
        return manipulation.permute_dims(self, given) if axes and given is not None else self.T

    def swapaxes(self, axis1: int, axis2: int) -> Tensor:
        """See `lantern.swapaxes`."""
        return manipulation.swapaxes(self, axis1, axis2)

    def astype(self, dtype: Any, *, copy: bool = True) -> Tensor:
        """See `lantern.astype`."""
        return astype(self, dtype, copy=copy)

    def clip(self, min: Any = None, max: Any = None, *, out: None = None) -> Tensor:
        """See `lantern.clip`."""
        _refuse(out)
        return elementwise.clip(self, min, max)

    def round(self) -> Tensor:
        """See `lantern.round`."""
        return elementwise.round(self)

    def dot(self, other: Any) -> Tensor:
        """See `lantern.dot`."""
        return products.dot(self, other)


def _refuse(out: Any) -> None:
    """Raise where a result should be written into an array."""
    if out is not None:
        raise ArgumentTypeError(
            f"out is {describe(out)}, expected None: the methods of a Tensor give a new one"
        )


def _converted(x: Any, dtype: Any) -> Any:
    """``x`` in a dtype, if one is given."""
    return x if dtype is None else astype(x, dtype)


def _one_tuple(args: tuple[Any, ...]) -> Any:
    """``f(2, 3)`` as ``f((2, 3))``."""
    return args[0] if len(args) == 1 else args


for _name, _value in vars(Methods).items():
    if callable(_value) or isinstance(_value, property):
        setattr(Tensor, _name, _value)
