"""`Stage`: the program that is being written while a function runs on Symbols.

Derivatives are taken by prompts above, so what arrives here is forward and backward code alike:
primitives on bare values. Each is *lowered* at once to operations of the intermediate
representation. A lowering is a function of Symbols: it emits operations, or is written with
primitives and operators, which are lowered in turn.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lantern.control import Primitive
from lantern.errors import (
    ShapeError,
    StagingError,
    UnrolledWarning,
    describe,
    explain,
    user_line,
)
from lantern.lengths import Unsized, is_table, numbered
from lantern.places import place
from lantern.ragged import Empty, Node
from lantern.staged.checks import Checks
from lantern.symbol import Symbol, outside, type_name
from staging.ir import Block, Builder, IRError, Literal, Type, Value

Lowering = Callable[..., Any]
Array = np.ndarray[Any, Any]
SMALL = 2**20  # bytes up to which captured arrays are compared by content
LARGE = 20_000  # operations of which a program is not often meant to have so many


class Stage:
    """A program under construction.

    Attributes:
        builder: writes the operations.
        lowerings: how each primitive is written.
        captured: the arrays that the function closed over; each is a parameter after its own.
        known: arrays and their Symbols, by the id of the array, which it keeps alive.
        contents: the Symbols of small arrays, by content.
        constants: the Symbols of scalars, by dtype and text.
        numbers: the scalars behind Symbols that are constant.
        checks: what is written behind each primitive, if anything.
        finished: whether the function has returned: nothing is written any more.
        large: from how many operations on the program is said to be large.
    """

    def __init__(self, lowerings: dict[Primitive, Lowering]) -> None:
        self.builder = Builder()
        self.lowerings = lowerings
        self.captured: list[Array] = []
        self.known: dict[int, tuple[Array, Symbol]] = {}
        self.contents: dict[Any, Symbol] = {}
        self.constants: dict[tuple[str, str], Symbol] = {}
        self.numbers: dict[Value, Literal] = {}
        self.checks: Checks | None = None
        self.finished = False
        self.large = LARGE

    def inner(self) -> Stage:
        """A stage for a block of this one."""
        made = Stage(self.lowerings)
        made.checks = Checks() if self.checks is not None else None
        return made

    def parameter(self, shape: Sequence[int], dtype: np.dtype[Any], hint: str = "") -> Symbol:
        """A new parameter of the program."""
        made = self.builder.param(Type(type_name(dtype), numbered(shape)), hint)
        return Symbol(made, self)

    def perform(self, prim: Primitive, values: Sequence[Any], params: dict[str, Any]) -> Any:
        """Lower a primitive on Symbols and constants.

        Raises:
            StagingError: the primitive has no lowering.
            LanternError: the operands do not fit, as it would be raised eagerly.
        """
        if self.finished:
            mine = (v for v in values if type(v) is Symbol and v.stage is self)
            found = self.origin(next(mine))
            raise StagingError(
                f"{prim.name} of a value{found} that has leaked out of a compiled function: it has "
                "no elements. Return it from the function, and use the result"
            )
        lowering = self.lowerings.get(prim)
        if lowering is None:
            raise StagingError(
                f"{prim.name} has no lowering, so it cannot be compiled; call it outside of the "
                "compiled function and pass in its result"
            )
        outer, first = self.builder.place, len(self.builder.ops)
        self.builder.place = outer or place()
        try:
            out = lowering(*(self.symbol(v) for v in values), **params)
            if self.checks is not None and not outer:
                self.checks.require(self, prim.name, values, out, first)
            if first >= self.large:
                self.warn(first)
            return out
        except IRError as problem:
            for v in values:
                if type(v) is Symbol and is_table(v.shape):  # which few operations take
                    raise Unsized(v.shape[0]) from None
            shown = ", ".join(describe(v) for v in values)
            raise ShapeError(f"{prim.name}({shown}): {problem}") from None
        except (ValueError, TypeError, IndexError) as problem:
            raise explain(prim.name, tuple(values), problem) from None
        finally:
            self.builder.place = outer

    def warn(self, count: int) -> None:
        """Say that the program is large, and again when it is ten times as large."""
        self.large *= 10
        warnings.warn(
            f"the program has {count:,} operations already. A loop of Python over numbers repeats "
            "its body in the program, step by step; for one body, loop with ln.fori_loop, ln.scan "
            "or ln.while_loop, or let a Tensor bound it, such as an argument"
            f"\n  at {user_line()}",
            UnrolledWarning,
            stacklevel=2,
        )

    def symbol(self, x: Any) -> Any:
        """A constant as a Symbol; Symbols and Python numbers, which are weak, as they are."""
        if type(x) is Symbol:
            if x.stage is not self:
                raise StagingError(
                    f"a value{x.stage.origin(x)} of another compiled function, or of an earlier "
                    "call of this one, has leaked into it; return it there, and pass it in as an "
                    "argument here"
                )
            return x
        if type(x) is Empty:
            return self.emit("empty", shape=numbered(x.shape), dtype=type_name(x.dtype))
        if type(x) is Node:
            return self.emit("pack", *map(self.symbol, x.values), tag=x.tag)
        if not isinstance(x, (np.ndarray, np.generic)):
            return x
        if id(x) in self.known:
            return self.known[id(x)][1]
        if id(x) in outside.get():
            return self.capture(x, by_content=False)
        if x.ndim == 0:
            return self.constant(x.item(), x.dtype)
        if uniform(x):
            return self.emit("broadcast", self.symbol(x.flat[0]), shape=x.shape)
        if x.dtype.kind in "iu" and (found := progression(x)):
            axis, start, step = found
            places = self.emit("iota", shape=x.shape, axis=axis, dtype=x.dtype.name)
            places = places if step == 1 else places * step
            return places if start == 0 else places + start
        return self.capture(x)

    def capture(self, x: Any, by_content: bool = True) -> Symbol:
        """The parameter for a constant array; equal small ones may be one parameter."""
        small = by_content and x.nbytes <= SMALL
        content = (x.dtype.name, x.shape, x.tobytes()) if small else None
        made = self.contents.get(content)
        if made is None:
            made = self.parameter(x.shape, x.dtype, "captured")
            self.captured.append(x)
            if content is not None:
                self.contents[content] = made
        self.known[id(x)] = x, made
        return made

    def origin(self, x: Symbol) -> str:
        """The user's line that made a Symbol of this stage, for messages."""
        made = (op.place for op in self.builder.ops if x.value in op.results)
        if found := next(made, ""):
            return f" made at {found}"
        return f" (the argument {x.value.hint})" if x.value.hint else ""

    def constant(self, value: Any, dtype: np.dtype[Any]) -> Symbol:
        """A scalar of a dtype."""
        kind = bool if dtype.kind == "b" else int if dtype.kind in "iu" else float
        number: Literal = kind(value)
        key = dtype.name, repr(number)
        if key not in self.constants:
            made = self.emit("constant", value=number, dtype=dtype.name)
            self.constants[key] = made
            self.numbers[made.value] = number
        return self.constants[key]

    def emit(
        self, name: str, *inputs: Symbol, blocks: tuple[Block, ...] = (), **attributes: Literal
    ) -> Symbol:
        """Write an operation with one result."""
        return self.emit_all(name, *inputs, blocks=blocks, **attributes)[0]

    def emit_all(
        self, name: str, *inputs: Symbol, blocks: tuple[Block, ...] = (), **attributes: Literal
    ) -> tuple[Symbol, ...]:
        """Write an operation and return its results."""
        values = (x.value for x in inputs)
        results = self.builder.emit_all(name, *values, blocks=blocks, **attributes)
        return tuple(Symbol(v, self) for v in results)


def uniform(x: Array) -> bool:
    """Whether all elements are the same: a fill is written into the program, not handed to it."""
    if not x.size:
        return False
    if not any(x.strides):
        return True
    first = x.flat[0]
    if first != x.flat[-1]:
        return False
    return bool(np.all(x == first)) and not (first == 0 and bool(np.signbit(x).any()))


def progression(x: Array) -> tuple[int, int, int] | None:
    """The axis, start and step of integers that grow evenly along one axis, the only long one."""
    long = [axis for axis, n in enumerate(x.shape) if n != 1]
    if len(long) != 1 or not x.size:
        return None
    line = x.reshape(-1)
    start, step = int(line[0]), int(line[1]) - int(line[0])
    top = np.iinfo(x.dtype).max
    if step < 0 or start + step * (x.size - 1) > top or x.size - 1 > top:
        return None
    even = np.arange(x.size, dtype=x.dtype) * x.dtype.type(step) + x.dtype.type(start)
    return (long[0], start, step) if np.array_equal(line, even) else None


def stage_of(*xs: Any) -> Stage:
    """The stage of the first Symbol among ``xs``."""
    return next(x.stage for x in xs if type(x) is Symbol)


def emit(name: str, *inputs: Symbol, **attributes: Any) -> Symbol:
    """Write an operation into the stage of its inputs."""
    return inputs[0].stage.emit(name, *inputs, **attributes)


def literal(x: Any) -> Any:
    """The number behind a constant, or a Python number itself; None if it is not known."""
    return x.stage.numbers.get(x.value) if type(x) is Symbol else x


def common_dtype(*xs: Any) -> np.dtype[Any]:
    """The dtype of an operation on Symbols and Python numbers, which are weak, as NumPy has it."""
    dtype: Any = None
    for x in xs:
        if type(x) is Symbol:
            other = x.dtype
            if dtype is None:
                dtype = other
            elif other is not dtype and other != dtype:
                dtype = np.result_type(dtype, other)
    if is_floating(dtype):
        return dtype
    return np.result_type(dtype, *(x for x in xs if type(x) in (bool, int, float)))


def aligned(*xs: Any) -> tuple[Symbol, ...]:
    """Operands of an elementwise operation in one dtype and one shape; Python numbers are weak."""
    first = xs[0]
    if type(first) is Symbol and all(
        type(x) is Symbol and x.value.type == first.value.type for x in xs
    ):
        return xs
    return spread(*in_dtype(common_dtype(*xs), *xs))


def in_dtype(dtype: np.dtype[Any], *xs: Any) -> tuple[Symbol, ...]:
    """Symbols and Python numbers as Symbols of one dtype."""
    stage = stage_of(*xs)
    return tuple(converted(x, dtype) if type(x) is Symbol else stage.constant(x, dtype) for x in xs)


def spread(*xs: Symbol) -> tuple[Symbol, ...]:
    """Symbols broadcast against each other."""
    shape = np.broadcast_shapes(*(x.shape for x in xs))
    return tuple(repeated(x, shape) for x in xs)


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


def widened(lowering: Lowering) -> Lowering:
    """A lowering that computes float16 and bfloat16 in float32, and rounds once."""

    def lower(*xs: Any, **params: Any) -> Symbol:
        dtype = common_dtype(*xs)
        if not is_narrow(dtype):
            return lowering(*xs, **params)
        wide = (converted(x, F32) if type(x) is Symbol else x for x in xs)
        return converted(lowering(*wide, **params), dtype)

    return lower


F32 = np.dtype(np.float32)


def is_floating(dtype: np.dtype[Any]) -> bool:
    """Whether it is float16, bfloat16, float32 or float64."""
    return dtype.kind not in "biu"


def is_narrow(dtype: np.dtype[Any]) -> bool:
    """Whether it is float16 or bfloat16."""
    return dtype.itemsize == 2 and dtype.kind not in "iu"
