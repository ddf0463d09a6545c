"""The reference interpreter: what every operation means, on NumPy; the oracle of every backend."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, TypeAlias, cast

import ml_dtypes
import numpy as np

from staging.activations import Node, merge, opened, run_recurse
from staging.failures import BEYOND, failure
from staging.ir import FLOATS, NODE, Block, IRError, Op, Program, Type, Value
from staging.lengths import bound, sized
from staging.linalg import decompose

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"
Meaning: TypeAlias = Callable[..., Any]

lengths: ContextVar[Mapping[int, int]] = ContextVar("lengths")
"""How long tables are, by number, in the program that is running."""


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The NumPy dtype of a dtype's name."""
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


def interpret(program: Program, inputs: Sequence[Array]) -> list[Array]:
    """Run a program.

    Args:
        program: a verified program.
        inputs: an array of the type of each parameter.

    Returns:
        An array for each result.

    Raises:
        IRError: the inputs are not of the parameters' types.
        IndexFailure: a gather or scatter outside its operand; with the user's line.
        MatrixFailure: a matrix that cannot be decomposed.
        RequirementFailure: a `require` that does not hold; AssertionFailure: one that is
            {asserted}.

    Example:
        >>> from staging.text import parse_program
        >>> double = parse_program(
        ...     "program @double(%x: float32[2]) { %y = add(%x, %x): float32[2] return (%y) }")
        >>> interpret(double, [np.asarray([1, 2], np.float32)])
        [array([2., 4.], dtype=float32)]
    """
    params = program.block.params
    if len(inputs) != len(params):
        raise IRError(f"{program.name} takes {len(params)} inputs, not {len(inputs)}")
    found = bound(params, [array.shape for array in inputs])
    for param, array in zip(params, inputs, strict=True):
        shape = sized(param.type.shape, found)
        if array.shape != shape or array.dtype != numpy_dtype(param.type.dtype):
            raise IRError(f"{param} was given {array.dtype}{list(array.shape)}")
    token = lengths.set(found)
    try:
        with np.errstate(all="ignore"):
            return run_block(program.block, list(inputs))
    finally:
        lengths.reset(token)


def run_with_own_lengths(block: Block, inputs: Sequence[Array]) -> list[Array]:
    """Run a block whose tables may be of other lengths than those of the program."""
    own = bound(block.params, [np.shape(x) for x in inputs])
    token = lengths.set({**lengths.get(), **own})
    try:
        return run_block(block, inputs)
    finally:
        lengths.reset(token)


def run_block(block: Block, inputs: Sequence[Array]) -> list[Array]:
    """Run a block's operations in order."""
    values: dict[Value, Array] = dict(zip(block.params, inputs, strict=True))
    for op in block.ops:
        values |= zip(op.results, run_typed(op, [values[v] for v in op.inputs]), strict=True)
    return [values[v] for v in block.results]


def run_typed(op: Op, arrays: list[Array]) -> list[Any]:
    """The results of one operation, of the types that it says."""
    found = zip(run_op(op, arrays), op.results, strict=True)
    return [x if v.type.is_list or v.type.dtype == NODE else in_type(x, v.type) for x, v in found]


def run_op(op: Op, arrays: list[Array]) -> Sequence[Any]:
    """The results of one operation."""
    if op.name == "scan":
        return run_scan(op, arrays)
    if op.name == "while":
        return run_while(op, arrays)
    if op.name == "recurse":
        return run_recurse(op, arrays, ARRAYS)
    if op.name == "empty":
        return (zeros(op.results[0].type),)
    if op.name == "unpack":
        return opened(cast(Any, arrays[0]), [v.type for v in op.results], ARRAYS)
    if op.name == "extent":
        return (lengths.get()[int(str(op.attributes["length"]))],)
    if op.name == "switch":
        chosen = min(max(int(arrays[0]), 0), len(op.blocks) - 1)
        return run_block(op.blocks[chosen], arrays[1:])
    if op.name == "call":
        return run_block(op.blocks[0], arrays)
    if op.name in ("agenda", "unwind"):
        from staging import sweeps  # which is written on this module

        return {"agenda": sweeps.run_agenda, "unwind": sweeps.run_unwind}[op.name](op, arrays)
    if op.name == "require":
        if not arrays[0]:
            raise failure(op)
        return ()
    if op.name == "linalg":
        return decompose(op, arrays)
    if op.name in ("gather", "scatter"):
        check_indices(op, arrays[0].shape, arrays[1 + (op.name == "scatter") :])
    result = MEANINGS[op.name](*arrays, **op.attributes)
    return () if op.name == "print" else (result,)


def in_type(array: Any, type: Type) -> Array:
    """An array in the dtype and shape of a type."""
    dtype = numpy_dtype(type.dtype)
    return np.asarray(array).astype(dtype, copy=False).reshape(shape_of(type))


def shape_of(type: Type) -> tuple[int, ...]:
    """The shape of an array of a type."""
    return sized(type.shape, lengths.get()) if type.is_table else type.shape


def run_scan(op: Op, arrays: list[Array]) -> list[Any]:
    """Carry, captured, a step's slices → carry, a step's outputs; from the end if reversed."""
    length, carried, captured = (
        int(str(op.attributes[k])) for k in ("length", "carried", "captured")
    )
    if length == -1:
        length, arrays = int(arrays[0]), arrays[1:]
    elif length < -1:
        length = lengths.get()[length]
    (block,) = op.blocks
    carry, outer = arrays[:carried], arrays[carried : carried + captured]
    rows = list(zip(arrays[carried + captured :], block.params[carried + captured :], strict=True))
    outputs: list[list[Any]] = [[] for _ in op.results[carried:]]
    steps = range(length)
    for i in reversed(steps) if op.attributes["reverse"] else steps:
        parts = [x[i] if i < len(x) else zeros(param.type) for x, param in rows]
        results = run_block(block, [*carry, *outer, *parts])
        carry = results[:carried]
        for output, part in zip(outputs, results[carried:], strict=True):
            output.append(part)
    if op.attributes["reverse"]:
        for output in outputs:
            output.reverse()
    return [*carry, *map(stacked, outputs, (v.type for v in block.results[carried:]))]


def run_while(op: Op, arrays: list[Array]) -> list[Any]:
    """Count, carry, lists of what the steps give."""
    test, body = op.blocks
    carried = int(str(op.attributes["carried"]))
    carry, outer = arrays[:carried], arrays[carried:]
    outputs: list[list[Any]] = [[] for _ in body.results[carried:]]
    count, limit = 0, op.attributes.get("limit")
    while run_block(test, [*carry, *outer])[0]:
        if count == limit:
            raise failure(op, count, BEYOND)
        results = run_block(body, [*carry, *outer])
        carry = results[:carried]
        for output, part in zip(outputs, results[carried:], strict=True):
            output.append(part)
        count += 1
    return [count, *carry, *map(stacked, outputs, (v.type for v in body.results[carried:]))]


def zeros(type: Type) -> Any:
    """What is read behind the end of a list, and of a node that holds nothing."""
    if type.is_list:
        return []
    if type.dtype == NODE:
        return [zeros(Type(NODE, type.shape[1:]))] * type.shape[0] if type.shape else None
    return np.zeros(shape_of(type), numpy_dtype(type.dtype))


class Arrays:
    """What performs recursions (`staging.activations.Work`) on arrays of NumPy."""

    def run(self, op: Op, arrays: list[Any]) -> Sequence[Any]:
        return run_typed(op, arrays)

    def zeros(self, type: Type) -> Any:
        return zeros(type)

    def read(self, array: Any) -> int:
        return int(array)

    def add(self, total: Any, value: Any, indices: Sequence[Any], types: Sequence[Type]) -> Any:
        if indices:
            np.add.at(total, tuple(indices), value)
        else:
            total += value
        return total


ARRAYS = Arrays()


def stacked(parts: list[Any], type: Type) -> Any:
    """Parts of a type as one array; lists and nodes stay in a list."""
    if type.is_list or type.dtype == NODE:
        return parts
    shape = (len(parts), *shape_of(type))
    return np.asarray(parts, numpy_dtype(type.dtype)).reshape(shape)


def wide(kernel: Meaning) -> Meaning:
    """Compute float16 and bfloat16 in float32, and round once."""

    def narrow(*arrays: Array, **attributes: Any) -> Any:
        dtype = arrays[0].dtype
        if dtype.itemsize != 2 or dtype.name not in FLOATS:
            return kernel(*arrays, **attributes)
        return kernel(*(a.astype(np.float32) for a in arrays), **attributes).astype(dtype)

    return narrow


def divide(x: Array, y: Array) -> Any:
    if x.dtype.kind in "iu":
        return np.where(y == 0, x.dtype.type(0), np.floor_divide(x, np.where(y == 0, 1, y)))
    return np.true_divide(x, y)


def remainder(x: Array, y: Array) -> Any:
    if x.dtype.kind in "iu":
        return np.where(y == 0, x.dtype.type(0), np.remainder(x, np.where(y == 0, 1, y)))
    return np.remainder(x, y)


def shift(ufunc: Meaning, left: bool) -> Meaning:
    def shifted(x: Array, y: Array) -> Any:
        bits = 8 * x.dtype.itemsize
        outside = (y < 0) | (y >= bits)
        inside = np.where(outside, 0, y).astype(x.dtype)
        full = 0 if left or x.dtype.kind == "u" else np.where(x < 0, -1, 0)
        return np.where(outside, full, ufunc(x, inside)).astype(x.dtype)

    return shifted


def convert(x: Array, *, dtype: str) -> Any:
    """Between dtypes; floats to integers saturate, and nan becomes 0."""
    to = numpy_dtype(dtype)
    if x.dtype.name in FLOATS and to.kind in "iu":
        limits = np.iinfo(to)
        wider = x.astype(np.float64)
        inside = np.nan_to_num(np.trunc(wider), nan=0.0, posinf=np.inf, neginf=-np.inf)
        low, high = inside <= limits.min, inside >= limits.max
        exact = np.where(low | high, 0, inside).astype(to)
        return np.where(low, to.type(limits.min), np.where(high, to.type(limits.max), exact))
    return x.astype(to)


def pad(x: Array, filler: Array, *, shape: Any, starts: Any, steps: Any) -> Any:
    out = np.full(shape, filler, x.dtype)
    if x.size:
        out[windows(starts, x.shape, steps)] = x
    return out


def windows(starts: Any, counts: Any, steps: Any) -> tuple[Any, ...]:
    """The index of a strided box, as arrays of positions (a slice cannot say -1 as its end)."""
    if not starts:
        return ()
    return np.ix_(*(s + np.arange(c) * t for s, c, t in zip(starts, counts, steps, strict=True)))


def accumulating(x: Array) -> Any:
    """The dtype that sums of float16 and bfloat16 are kept in."""
    return np.float32 if x.dtype.itemsize == 2 and x.dtype.name in FLOATS else x.dtype


UFUNCS: dict[str, Any] = {"sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum}


def reduce(x: Array, *, kind: str, axes: Any) -> Any:
    function: dict[str, Meaning] = {"sum": np.sum, "prod": np.prod, "max": np.max, "min": np.min}
    if kind in ("sum", "prod"):
        return function[kind](x, axis=axes, dtype=accumulating(x))
    return function[kind](x, axis=axes)


def cumulate(x: Array, *, kind: str, axis: int, reverse: bool) -> Any:
    x = np.flip(x, axis) if reverse else x
    y = UFUNCS[kind].accumulate(x.astype(accumulating(x)), axis=axis)
    return np.flip(y, axis) if reverse else y


def argsort(x: Array, *, axis: int, descending: bool) -> Any:
    x = x.astype(accumulating(x))  # NumPy does not put the nan of bfloat16 last
    if not descending:
        return np.argsort(x, axis=axis, kind="stable")
    backwards = np.argsort(np.flip(x, axis), axis=axis, kind="stable")
    return np.flip(x.shape[axis] - 1 - backwards, axis)


def matmul(x: Array, y: Array, *, transpose_x: bool, transpose_y: bool) -> Any:
    return np.matmul(np.swapaxes(x, -1, -2) if transpose_x else x,
                     np.swapaxes(y, -1, -2) if transpose_y else y)  # fmt: skip


def check_indices(op: Op, shape: tuple[int, ...], indices: list[Array]) -> None:
    """Raise for the first place with an index outside, and there for the first axis."""
    bad = [(i < 0) | (i >= n) for i, n in zip(indices, shape, strict=False)]
    places = np.flatnonzero(np.logical_or.reduce(bad))
    if places.size:
        axis = next(axis for axis, b in enumerate(bad) if b.flat[places[0]])
        raise failure(op, indices[axis].flat[places[0]], axis, shape)


def gather(x: Array, *indices: Array) -> Any:
    return x[indices]


def scatter(x: Array, rows: Array, *indices: Array, kind: str) -> Any:
    out = x.copy()
    if kind == "set":
        for place in np.ndindex(indices[0].shape):  # in order: the last write wins
            out[tuple(int(i[place]) for i in indices)] = rows[place]
        return out
    wider = out.astype(accumulating(x))
    UFUNCS[kind].at(wider, indices, rows)
    return wider


def show(*arrays: Array, format: str) -> None:
    print(format.format(*arrays))


def pack(*arrays: Any, tag: int) -> Node:
    return Node(tag, arrays)


def tag_of(node: Node | None) -> Any:
    return 0 if node is None else node.tag


def constant(*, value: Any, dtype: str) -> Array:
    return np.asarray(value, numpy_dtype(dtype))


def iota(*, shape: tuple[int, ...], axis: int, dtype: str) -> Array:
    column = np.arange(shape[axis], dtype=dtype).reshape((-1,) + (1,) * (len(shape) - axis - 1))
    return np.broadcast_to(column, shape)


def erf(x: Array) -> Array:
    return np.asarray([math.erf(v) for v in x.ravel().tolist()], x.dtype).reshape(x.shape)


def bitcast(x: Array, *, dtype: str) -> Array:
    return np.ascontiguousarray(x).view(numpy_dtype(dtype))


def broadcast(x: Array, *, shape: tuple[int, ...]) -> Array:
    return np.broadcast_to(x, shape)


def reshape(x: Array, *, shape: tuple[int, ...]) -> Array:
    return np.reshape(x, shape)


def transpose(x: Array, *, axes: tuple[int, ...]) -> Array:
    return np.transpose(x, axes)


def take_slice(x: Array, *, starts: Any, counts: Any, steps: Any) -> Array:
    return x[windows(starts, counts, steps)]


def places(shape: Any, strides: Any, offset: int) -> Any:
    """Where in row-major order the elements of a view lie."""
    indices = cast(Any, np.indices(shape))
    return sum((i * s for i, s in zip(indices, strides, strict=True)), cast(Any, offset))


def view(x: Array, *, shape: Any, strides: Any, offset: int) -> Array:
    return x.reshape(-1)[places(shape, strides, offset)]


def fold(x: Array, *, shape: Any, strides: Any, offset: int) -> Array:
    out = np.zeros(shape, accumulating(x))
    np.add.at(out.reshape(-1), places(x.shape, strides, offset), x)
    return out


def concat(*xs: Array, axis: int) -> Array:
    return np.concatenate(xs, axis=axis)


def argreduce(x: Array, *, kind: str, axis: int) -> Array:
    return np.asarray(np.argmax(x, axis=axis) if kind == "max" else np.argmin(x, axis=axis))


MEANINGS: dict[str, Meaning] = {
    "constant": constant, "iota": iota, "negate": np.negative, "floor": np.floor,
    "round": np.rint, "exp": wide(np.exp), "log": wide(np.log), "log1p": wide(np.log1p),
    "expm1": wide(np.expm1), "sin": wide(np.sin), "cos": wide(np.cos), "tanh": wide(np.tanh),
    "sqrt": wide(np.sqrt), "erf": wide(erf), "not": np.invert, "add": np.add,
    "sub": np.subtract, "mul": np.multiply, "div": divide, "rem": remainder,
    "pow": wide(np.power), "atan2": wide(np.arctan2), "max": np.maximum, "min": np.minimum,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    "shl": shift(np.left_shift, True), "shr": shift(np.right_shift, False), "eq": np.equal,
    "lt": np.less, "le": np.less_equal, "select": np.where, "cast": convert, "bitcast": bitcast,
    "broadcast": broadcast, "reshape": reshape, "transpose": transpose, "slice": take_slice,
    "view": view, "fold": fold, "pad": pad, "concat": concat, "reduce": reduce,
    "cumulate": cumulate, "argreduce": argreduce,
    "argsort": argsort, "matmul": wide(matmul), "gather": gather, "scatter": scatter, "print": show,
    "pack": pack, "tag": tag_of, "merge": merge,
}  # fmt: skip
