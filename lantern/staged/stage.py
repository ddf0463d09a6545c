"""`Stage`: the program that is being written while a function runs on Symbols.

Derivatives are taken by prompts above, so what arrives here is forward and backward code alike:
primitives on bare values. Each is *lowered* at once to operations of the intermediate
representation. A lowering is a function of Symbols: it emits operations, or is written with
primitives and operators, which are lowered in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lantern.control import Primitive
from lantern.errors import StagingError, user_place
from lantern.symbol import Symbol
from staging.ir import FLOATS, Block, Builder, Literal, Type

Lowering = Callable[..., Any]


class Stage:
    """A program under construction.

    Attributes:
        builder: writes the operations.
        captured: the arrays that the function closed over; each is a parameter after its own.
    """

    def __init__(self, lowerings: dict[Primitive, Lowering]) -> None:
        self.builder = Builder()
        self.lowerings = lowerings
        self.captured: list[np.ndarray[Any, Any]] = []
        self.known: dict[int, Symbol] = {}  # by the id of a captured array, which is kept alive

    def parameter(self, shape: Sequence[int], dtype: np.dtype[Any], hint: str = "") -> Symbol:
        """A new parameter of the program."""
        return Symbol(self.builder.param(Type(dtype.name, tuple(shape)), hint), self)

    def perform(self, prim: Primitive, values: Sequence[Any], params: dict[str, Any]) -> Any:
        """Lower a primitive on Symbols and constants.

        Raises:
            StagingError: the primitive has no lowering.
        """
        lowering = self.lowerings.get(prim)
        if lowering is None:
            raise StagingError(f"{prim.name} cannot be compiled yet; call the function eagerly")
        outer = self.builder.place
        self.builder.place = outer or user_place()
        try:
            return lowering(*(self.symbol(v) for v in values), **params)
        finally:
            self.builder.place = outer

    def symbol(self, x: Any) -> Any:
        """A constant as a Symbol; Symbols and Python numbers, which are weak, as they are."""
        if isinstance(x, Symbol):
            if x.stage is not self:
                raise StagingError(
                    "a value of another compiled function, or of an earlier call of this one, has "
                    "leaked into it; pass it as an argument"
                )
            return x
        if not isinstance(x, (np.ndarray, np.generic)):
            return x
        if x.ndim == 0:
            return self.constant(x.item(), x.dtype)
        if uniform(x):
            return self.emit("broadcast", self.symbol(x.flat[0]), shape=x.shape)
        if id(x) not in self.known:
            self.known[id(x)] = self.parameter(x.shape, x.dtype, "captured")
            self.captured.append(np.asarray(x))
        return self.known[id(x)]

    def constant(self, value: Any, dtype: np.dtype[Any]) -> Symbol:
        """A scalar of a dtype."""
        kind = bool if dtype.kind == "b" else int if dtype.kind in "iu" else float
        number: Literal = kind(value)
        return self.emit("constant", value=number, dtype=dtype.name)

    def emit(
        self, name: str, *inputs: Symbol, blocks: tuple[Block, ...] = (), **attributes: Literal
    ) -> Symbol:
        """Write an operation with one result."""
        values = (x.value for x in inputs)
        return Symbol(self.builder.emit(name, *values, blocks=blocks, **attributes), self)


def uniform(x: np.ndarray[Any, Any]) -> bool:
    """Whether all elements are the same: a fill is written into the program, not handed to it."""
    if not x.size:
        return False
    if not any(x.strides):
        return True
    first = x.flat[0]
    return bool(np.all(x == first)) and not (first == 0 and bool(np.signbit(x).any()))


def stage_of(*xs: Any) -> Stage:
    """The stage of the first Symbol among ``xs``."""
    return next(x.stage for x in xs if isinstance(x, Symbol))


def emit(name: str, *inputs: Symbol, **attributes: Any) -> Symbol:
    """Write an operation into the stage of its inputs."""
    return inputs[0].stage.emit(name, *inputs, **attributes)


def aligned(*xs: Any) -> tuple[Symbol, ...]:
    """Operands of an elementwise operation in one dtype and one shape; Python numbers are weak."""
    stage = stage_of(*xs)
    symbols = [x for x in xs if isinstance(x, Symbol)]
    dtype = np.result_type(*(x.dtype for x in symbols))
    if dtype.name not in FLOATS and any(type(x) is float for x in xs):
        dtype = np.dtype(np.float32)
    shape = np.broadcast_shapes(*(x.shape for x in symbols))
    return tuple(
        repeated(converted(x if isinstance(x, Symbol) else stage.constant(x, dtype), dtype), shape)
        for x in xs
    )


def converted(x: Symbol, dtype: np.dtype[Any]) -> Symbol:
    """``x`` in another dtype."""
    return x if x.dtype == dtype else emit("cast", x, dtype=dtype.name)


def repeated(x: Symbol, shape: tuple[int, ...]) -> Symbol:
    """``x`` broadcast to a shape."""
    return x if x.shape == shape else emit("broadcast", x, shape=shape)


def shaped(x: Symbol, shape: tuple[int, ...]) -> Symbol:
    """``x`` in another shape."""
    return x if x.shape == shape else emit("reshape", x, shape=shape)


def elementwise(name: str) -> Lowering:
    """The lowering of a primitive that is an operation, up to broadcasts."""

    def lower(*xs: Any) -> Symbol:
        return emit(name, *aligned(*xs))

    return lower
