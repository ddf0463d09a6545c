"""The table of operations: for each, the types it gives for the types it takes, and what it means.

`staging.interpret` defines the meaning exactly, on NumPy. The set is closed and small: a primitive
of lantern is lowered to a composition of these; a new entry here is work for every backend.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, cast

from staging import agenda, linalg
from staging.ir import DTYPES, FLOATS, INTEGERS, ITEMSIZE, NODE, Attributes, Block, IRError, Type
from staging.recursion import listed, types_of_recurse

Types: TypeAlias = tuple[Type, ...]
Infer: TypeAlias = Callable[[Types, Attributes, tuple[Block, ...]], Types]


@dataclass(frozen=True, slots=True)
class OpSpec:
    """An entry of the table.

    Attributes:
        infer: from the types of the inputs, the attributes and the blocks to the types of the
            results; raises `IRError` where they do not fit.
        doc: what it computes.
        effect: whether it does more than compute its results, so that it is kept, once and in
            order.
        elementwise: whether each element of a result comes from the elements at its place.
    """

    infer: Infer
    doc: str
    effect: bool = False
    elementwise: bool = False


def result_types(
    name: str, inputs: Types, attributes: Attributes, blocks: tuple[Block, ...]
) -> Types:
    """The types of an operation's results.

    Raises:
        IRError: there is no such operation, or it does not take these inputs, attributes or blocks.
    """
    spec = OPS.get(name)
    if spec is None:
        raise IRError(f"there is no operation {name!r}")
    try:
        results = spec.infer(inputs, attributes, blocks)
        tables = any(t.is_table for t in (*inputs, *results))
        require(not tables or name in TAKING_TABLES, "takes no tables")
        return results
    except (IRError, KeyError, ValueError, TypeError) as problem:
        shown = ", ".join(map(str, inputs))
        reason = f"attribute {problem} is missing" if isinstance(problem, KeyError) else problem
        raise IRError(f"{name}({shown}) {dict(attributes)}: {reason}") from None


def require(condition: bool, message: str) -> None:
    """Raise `IRError` unless the condition holds."""
    if not condition:
        raise IRError(message)


def integers(attributes: Attributes, key: str) -> tuple[int, ...]:
    """An attribute that is a tuple of integers."""
    value = attributes[key]
    require(
        isinstance(value, tuple) and all(type(n) is int for n in value),
        f"attribute {key} must be integers",
    )
    return cast("tuple[int, ...]", value)


def text(attributes: Attributes, key: str, choices: tuple[str, ...]) -> str:
    """An attribute that is one of some words."""
    value = attributes[key]
    require(value in choices, f"attribute {key} must be one of {', '.join(choices)}")
    return cast(str, value)


def whole(attributes: Attributes, key: str) -> int:
    """An attribute that is an integer."""
    value = attributes[key]
    require(type(value) is int, f"attribute {key} must be an integer")
    return cast(int, value)


# Elementwise.


def elementwise(count: int, dtypes: tuple[str, ...], result: str | None = None) -> Infer:
    """Inputs of one dtype and one shape (broadcasts are explicit); the result has their shape."""

    def infer(inputs: Types, attributes: Attributes, blocks: tuple[Block, ...]) -> Types:
        require(len(inputs) == count, f"takes {count} inputs")
        first = inputs[0]
        require(all(t == first for t in inputs), "inputs differ in type")
        require(first.dtype in dtypes, f"takes {', '.join(dtypes)}")
        return (Type(result or first.dtype, first.shape),)

    return infer


def pointwise(infer: Infer, doc: str) -> OpSpec:
    """The entry of an elementwise operation."""
    return OpSpec(infer, doc, elementwise=True)


def infer_select(inputs: Types, attributes: Attributes, blocks: tuple[Block, ...]) -> Types:
    condition, x, y = inputs
    require(condition == Type("bool", x.shape) and x == y, "takes bool, T and T of one shape")
    return (x,)


def infer_cast(inputs: Types, attributes: Attributes, blocks: tuple[Block, ...]) -> Types:
    (x,) = inputs
    return (Type(text(attributes, "dtype", DTYPES), x.shape),)


def infer_bitcast(inputs: Types, attributes: Attributes, blocks: tuple[Block, ...]) -> Types:
    (x,) = inputs
    dtype = text(attributes, "dtype", DTYPES)
    require(ITEMSIZE[dtype] == ITEMSIZE[x.dtype], "changes the width of an element")
    return (Type(dtype, x.shape),)


def infer_constant(inputs: Types, attributes: Attributes, blocks: tuple[Block, ...]) -> Types:
    dtype = text(attributes, "dtype", DTYPES)
    value = attributes["value"]
    kinds = {"bool": (bool,)} | dict.fromkeys(INTEGERS, (int,)) | dict.fromkeys(FLOATS, (float,))
    require(not inputs and type(value) in kinds[dtype], f"value {value!r} is no {dtype}")
    return (Type(dtype),)


def infer_iota(inputs: Types, attributes: Attributes, blocks: tuple[Block, ...]) -> Types:
    shape, axis = integers(attributes, "shape"), whole(attributes, "axis")
    require(not inputs and 0 <= axis < len(shape), "axis out of range")
    return (Type(text(attributes, "dtype", INTEGERS), shape),)


# Structure.


def infer_broadcast(inputs: Types, attributes: Attributes, blocks: tuple[Block, ...]) -> Types:
    (x,) = inputs
    shape = integers(attributes, "shape")
    lead = len(shape) - len(x.shape)
    fits = lead >= 0 and all(a in (1, b) for a, b in zip(x.shape, shape[lead:], strict=True))
    require(fits, f"does not broadcast to {shape}")
    return (Type(x.dtype, shape),)


def infer_reshape(inputs: Types, attributes: Attributes, blocks: tuple[Block, ...]) -> Types:
    (x,) = inputs
    result = Type(x.dtype, integers(attributes, "shape"))
    require(result.size == x.size, "changes the number of elements")
    return (result,)


def infer_transpose(inputs: Types, attributes: Attributes, blocks: tuple[Block, ...]) -> Types:
    (x,) = inputs
    axes = integers(attributes, "axes")
    require(sorted(axes) == list(range(len(x.shape))), f"{axes} is no permutation of its axes")
    return (Type(x.dtype, tuple(x.shape[a] for a in axes)),)


def infer_slice(inputs: Types, attributes: Attributes, blocks: tuple[Block, ...]) -> Types:
    (x,) = inputs
    starts, counts, steps = (integers(attributes, k) for k in ("starts", "counts", "steps"))
    for start, count, step, n in zip(starts, counts, steps, x.shape, strict=True):
        last = start + (count - 1) * step
        inside = count == 0 or (0 <= start < n and 0 <= last < n)
        require(count >= 0 and step != 0 and inside, "reads outside its input")
    return (Type(x.dtype, counts),)


def require_inside(shape: tuple[int, ...], attributes: Attributes, size: int) -> None:
    """Refuse a box whose places, the offset plus index times stride of each axis, are not among
    ``size`` elements."""
    strides = integers(attributes, "strides")
    low = high = whole(attributes, "offset")
    for n, stride in zip(shape, strides, strict=True):
        reach = (n - 1) * stride
        low, high = low + min(reach, 0), high + max(reach, 0)
    require(0 in shape or (low >= 0 and high < size), f"reaches outside of {size} elements")


def infer_view(inputs: Types, attributes: Attributes, blocks: tuple[Block, ...]) -> Types:
    (x,) = inputs
    shape = integers(attributes, "shape")
    require_inside(shape, attributes, x.size)
    return (Type(x.dtype, shape),)


def infer_fold(inputs: Types, attributes: Attributes, blocks: tuple[Block, ...]) -> Types:
    (x,) = inputs
    result = Type(x.dtype, integers(attributes, "shape"))
    require(x.dtype in _NUMBERS, f"takes {', '.join(_NUMBERS)}")
    require_inside(x.shape, attributes, result.size)
    return (result,)


def infer_pad(inputs: Types, attributes: Attributes, blocks: tuple[Block, ...]) -> Types:
    x, filler = inputs
    shape, starts, steps = (integers(attributes, k) for k in ("shape", "starts", "steps"))
    require(filler == Type(x.dtype), "the filler is a scalar of the input's dtype")
    for start, count, step, n in zip(starts, x.shape, steps, shape, strict=True):
        last = start + (count - 1) * step
        inside = count == 0 or (0 <= start < n and 0 <= last < n)
        require(step != 0 and inside, "writes outside its result")
    return (Type(x.dtype, shape),)


def infer_concat(inputs: Types, attributes: Attributes, blocks: tuple[Block, ...]) -> Types:
    axis = whole(attributes, "axis")
    first = inputs[0]
    require(0 <= axis < len(first.shape), "axis out of range")

    def rest(t: Type) -> tuple[str, tuple[int, ...]]:
        return t.dtype, t.shape[:axis] + t.shape[axis + 1 :]

    require(all(rest(t) == rest(first) for t in inputs), "inputs differ off the axis")
    total = sum(t.shape[axis] for t in inputs)
    return (Type(first.dtype, (*first.shape[:axis], total, *first.shape[axis + 1 :])),)


# Reductions, products, indexing.

REDUCTIONS = ("sum", "prod", "max", "min")


def infer_reduce(inputs: Types, attributes: Attributes, blocks: tuple[Block, ...]) -> Types:
    (x,) = inputs
    text(attributes, "kind", REDUCTIONS)
    axes = integers(attributes, "axes")
    require(
        len(set(axes)) == len(axes) and all(0 <= a < len(x.shape) for a in axes),
        "axes out of range or repeated",
    )
    return (Type(x.dtype, tuple(n for i, n in enumerate(x.shape) if i not in axes)),)


def infer_cumulate(inputs: Types, attributes: Attributes, blocks: tuple[Block, ...]) -> Types:
    (x,) = inputs
    text(attributes, "kind", REDUCTIONS)
    require(0 <= whole(attributes, "axis") < len(x.shape), "axis out of range")
    require(type(attributes["reverse"]) is bool, "reverse is true or false")
    return (x,)


def infer_argreduce(inputs: Types, attributes: Attributes, blocks: tuple[Block, ...]) -> Types:
    (x,) = inputs
    text(attributes, "kind", ("max", "min"))
    axis = whole(attributes, "axis")
    require(0 <= axis < len(x.shape) and x.shape[axis] > 0, "axis out of range, or empty")
    return (Type("int64", x.shape[:axis] + x.shape[axis + 1 :]),)


def infer_argsort(inputs: Types, attributes: Attributes, blocks: tuple[Block, ...]) -> Types:
    (x,) = inputs
    require(0 <= whole(attributes, "axis") < len(x.shape), "axis out of range")
    require(type(attributes["descending"]) is bool, "descending is true or false")
    return (Type("int64", x.shape),)


def infer_matmul(inputs: Types, attributes: Attributes, blocks: tuple[Block, ...]) -> Types:
    x, y = inputs
    require(x.dtype == y.dtype and min(len(x.shape), len(y.shape)) >= 2, "takes matrices")
    require(x.shape[:-2] == y.shape[:-2], "batch axes differ")
    (m, k), (k2, n) = x.shape[-2:], y.shape[-2:]
    if attributes["transpose_x"]:
        m, k = k, m
    if attributes["transpose_y"]:
        k2, n = n, k2
    require(k == k2, "inner lengths differ")
    return (Type(x.dtype, (*x.shape[:-2], m, n)),)


def infer_linalg(inputs: Types, attributes: Attributes, blocks: tuple[Block, ...]) -> Types:
    require(
        all(len(t.shape) >= 2 and t.dtype in ("float32", "float64") for t in inputs),
        "takes matrices of float32 or float64",
    )
    return linalg.types_of(text(attributes, "kind", linalg.KINDS), inputs)


def gather_rows(x: Type, indices: Types) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape of the indices, and of the part of ``x`` that each picks."""
    require(1 <= len(indices) <= len(x.shape), "takes an index for each of its leading axes")
    require(all(i == Type("int64", indices[0].shape) for i in indices), "indices are int64")
    return indices[0].shape, x.shape[len(indices) :]


def infer_gather(inputs: Types, attributes: Attributes, blocks: tuple[Block, ...]) -> Types:
    x, *indices = inputs
    picked, row = gather_rows(x, tuple(indices))
    require(not indices[0].is_table, "takes no tables of indices")
    return (Type(x.dtype, (*picked, *row)),)


def infer_scatter(inputs: Types, attributes: Attributes, blocks: tuple[Block, ...]) -> Types:
    x, rows, *indices = inputs
    text(attributes, "kind", ("set", "sum", "prod", "max", "min"))
    picked, row = gather_rows(x, tuple(indices))
    require(not indices[0].is_table, "takes no tables of indices")
    require(rows == Type(x.dtype, (*picked, *row)), "rows do not fit the indices")
    return (x,)


# Control.


def types_of(block: Block) -> tuple[Types, Types]:
    """The types of a block's parameters and of its results."""
    return tuple(v.type for v in block.params), tuple(v.type for v in block.results)


# What a `call` may be beyond its block, for a backend that has a kernel for it.
TILED = ("attention", "attention_adjoint")
CALLS = ("loop", "loops", "product", "products", "contraction", *TILED)


def infer_call(inputs: Types, attributes: Attributes, blocks: tuple[Block, ...]) -> Types:
    (block,) = blocks
    params, results = types_of(block)
    require(params == inputs, "inputs are not those of the block")
    if "kind" in attributes and text(attributes, "kind", CALLS) == "loops":
        sizes = len(params), len(block.ops), len(results)
        each = cast("tuple[tuple[int, int, int], ...]", attributes["parts"])
        require(tuple(map(sum, zip(*each, strict=True))) == sizes, "parts are not the whole block")
    return results


def infer_scan(inputs: Types, attributes: Attributes, blocks: tuple[Block, ...]) -> Types:
    (block,) = blocks
    length, carried = whole(attributes, "length"), whole(attributes, "carried")
    captured = whole(attributes, "captured")
    require(type(attributes["reverse"]) is bool, "reverse is true or false")
    require(carried >= 0 and captured >= 0, "counts are not negative")
    if length == -1:
        require(inputs[:1] == (Type("int64"),), "the first input is how many steps there are")
        inputs = inputs[1:]
    stacked = inputs[carried + captured :]
    require(all(t.shape[:1] == (length,) for t in stacked), "stacked inputs have another length")
    params, results = types_of(block)
    steps = tuple(Type(t.dtype, t.shape[1:]) for t in stacked)
    require(params == inputs[: carried + captured] + steps, "the block takes other inputs")
    require(results[:carried] == inputs[:carried], "the carry changes its type")
    return results[:carried] + tuple(Type(t.dtype, (length, *t.shape)) for t in results[carried:])


def infer_while(inputs: Types, attributes: Attributes, blocks: tuple[Block, ...]) -> Types:
    test, body = blocks
    carried = whole(attributes, "carried")
    require(0 <= carried <= len(inputs), "carried is out of range")
    require("limit" not in attributes or whole(attributes, "limit") >= 0, "limit is negative")
    require(types_of(test) == (inputs, (Type("bool"),)), "the test takes the inputs, gives bool[]")
    params, results = types_of(body)
    require(params == inputs, "the body takes other inputs")
    require(results[:carried] == inputs[:carried], "the carry changes its type")
    lists = tuple(Type(t.dtype, (-1, *t.shape)) for t in results[carried:])
    return (Type("int64"), *results[:carried], *lists)


def infer_empty(inputs: Types, attributes: Attributes, blocks: tuple[Block, ...]) -> Types:
    found = Type(text(attributes, "dtype", (*DTYPES, NODE)), integers(attributes, "shape"))
    require(not inputs, "takes nothing")
    nothing = found.is_list or found.is_table or found.dtype == NODE
    require(nothing, "gives a list, a table or a node")
    return (found,)


def infer_extent(inputs: Types, attributes: Attributes, blocks: tuple[Block, ...]) -> Types:
    require(not inputs and whole(attributes, "length") < -1, "takes nothing but the number")
    return (Type("int64"),)


def infer_switch(inputs: Types, attributes: Attributes, blocks: tuple[Block, ...]) -> Types:
    index, *rest = inputs
    require(index == Type("int64") and bool(blocks), "takes an int64 and at least one block")
    params, results = types_of(blocks[0])
    require(params == tuple(rest), "the blocks take other inputs")
    require(all(types_of(b) == (params, results) for b in blocks), "the blocks differ in type")
    return results


def infer_recur(inputs: Types, attributes: Attributes, blocks: tuple[Block, ...]) -> Types:
    whole(attributes, "function")
    return listed(attributes, "results")


def infer_pack(inputs: Types, attributes: Attributes, blocks: tuple[Block, ...]) -> Types:
    whole(attributes, "tag")
    return (_NODE,)


def infer_unpack(inputs: Types, attributes: Attributes, blocks: tuple[Block, ...]) -> Types:
    require(inputs == (_NODE,), "takes a node")
    return listed(attributes, "results")


def infer_tag(inputs: Types, attributes: Attributes, blocks: tuple[Block, ...]) -> Types:
    require(inputs == (_NODE,), "takes a node")
    return (Type("int64"),)


def infer_merge(inputs: Types, attributes: Attributes, blocks: tuple[Block, ...]) -> Types:
    x, y = inputs
    require(x == y and x.dtype == NODE, "takes two nodes, or arrays of nodes of one shape")
    return (x,)


def infer_print(inputs: Types, attributes: Attributes, blocks: tuple[Block, ...]) -> Types:
    require(isinstance(attributes["format"], str), "format is a string")
    return ()


def infer_require(inputs: Types, attributes: Attributes, blocks: tuple[Block, ...]) -> Types:
    require(inputs == (Type("bool"),), "takes one bool")
    require(isinstance(attributes["message"], str), "message is a string")
    return ()


_NODE = Type(NODE)
TAKING_TABLES = frozenset(
    [
        "gather",
        "scatter",
        "add",
        "call",
        "switch",
        "scan",
        "while",
        "recurse",
        "agenda",
        "unwind",
        "empty",
    ]
)
_NUMBERS = (*INTEGERS, *FLOATS)
_BITS = ("bool", *INTEGERS)

OPS: dict[str, OpSpec] = {
    "constant": OpSpec(infer_constant, "The scalar {value} of {dtype}."),
    "iota": OpSpec(infer_iota, "0, 1, 2, ... along {axis}, of {shape} and {dtype}."),
    "negate": pointwise(elementwise(1, _NUMBERS), "-x; integers wrap."),
    "floor": pointwise(elementwise(1, FLOATS), "The largest integer not above x."),
    "round": pointwise(elementwise(1, FLOATS), "The nearest integer, ties to even."),
    "exp": pointwise(elementwise(1, FLOATS), "e to the x."),
    "log": pointwise(elementwise(1, FLOATS), "The natural logarithm; nan below zero."),
    "log1p": pointwise(elementwise(1, FLOATS), "log(1 + x), accurate near zero."),
    "expm1": pointwise(elementwise(1, FLOATS), "exp(x) - 1, accurate near zero."),
    "sin": pointwise(elementwise(1, FLOATS), "Sine of x in radians."),
    "cos": pointwise(elementwise(1, FLOATS), "Cosine of x in radians."),
    "tanh": pointwise(elementwise(1, FLOATS), "Hyperbolic tangent."),
    "sqrt": pointwise(elementwise(1, FLOATS), "Square root, correctly rounded; nan below zero."),
    "erf": pointwise(elementwise(1, FLOATS), "The error function."),
    "not": pointwise(elementwise(1, _BITS), "The complement of every bit."),
    "add": pointwise(elementwise(2, _NUMBERS), "x + y; integers wrap."),
    "sub": pointwise(elementwise(2, _NUMBERS), "x - y; integers wrap."),
    "mul": pointwise(elementwise(2, _NUMBERS), "x * y; integers wrap."),
    "div": pointwise(
        elementwise(2, _NUMBERS), "x / y; integers round to minus infinity, x / 0 is 0."
    ),
    "rem": pointwise(elementwise(2, _NUMBERS), "x - floor(x / y) * y, with the sign of y."),
    "pow": pointwise(elementwise(2, FLOATS), "x to the y, as IEEE 754 pow."),
    "atan2": pointwise(elementwise(2, FLOATS), "The angle of (y, x), signed zeros included."),
    "max": pointwise(elementwise(2, _NUMBERS), "The larger; nan if either is."),
    "min": pointwise(elementwise(2, _NUMBERS), "The smaller; nan if either is."),
    "and": pointwise(elementwise(2, _BITS), "Bitwise and."),
    "or": pointwise(elementwise(2, _BITS), "Bitwise or."),
    "xor": pointwise(elementwise(2, _BITS), "Bitwise exclusive or."),
    "shl": pointwise(elementwise(2, INTEGERS), "Shift left; by the width or more gives 0."),
    "shr": pointwise(elementwise(2, INTEGERS), "Shift right, arithmetic for signed dtypes."),
    "eq": pointwise(elementwise(2, DTYPES, "bool"), "x = y; nan equals nothing."),
    "lt": pointwise(elementwise(2, DTYPES, "bool"), "x < y."),
    "le": pointwise(elementwise(2, DTYPES, "bool"), "x <= y."),
    "select": pointwise(infer_select, "x where the condition holds, y elsewhere."),
    "cast": pointwise(infer_cast, "To {dtype}: to nearest; to integers towards zero, saturating."),
    "bitcast": pointwise(infer_bitcast, "The same bits as {dtype} of the same width."),
    "broadcast": OpSpec(infer_broadcast, "Repeat along new leading axes and axes of length 1."),
    "reshape": OpSpec(infer_reshape, "The same elements in row-major order."),
    "transpose": OpSpec(infer_transpose, "Axis k of the result is axis {axes}[k]."),
    "slice": OpSpec(infer_slice, "{counts} elements from {starts} by {steps}, along each axis."),
    "view": OpSpec(infer_view, "Element i of {shape} is place {offset} + sum of i {strides} of x."),
    "fold": OpSpec(infer_fold, "Zeros of {shape}, plus each element at its place in a `view`."),
    "pad": OpSpec(infer_pad, "The filler, with x written from {starts} by {steps}."),
    "concat": OpSpec(infer_concat, "The inputs one after another along {axis}."),
    "reduce": OpSpec(infer_reduce, "Combine by {kind} along {axes}, which disappear."),
    "cumulate": OpSpec(infer_cumulate, "Running {kind} along {axis}, from the end if {reverse}."),
    "argreduce": OpSpec(infer_argreduce, "Where the first {kind} along {axis} is; nan counts."),
    "argsort": OpSpec(infer_argsort, "The stable order along {axis}; nan counts as the largest."),
    "matmul": OpSpec(infer_matmul, "Matrix products over equal batch axes."),
    "linalg": OpSpec(infer_linalg, "The decomposition {kind} of matrices, or what comes of it."),
    "gather": OpSpec(infer_gather, "x[i, j, ...] over its leading axes; a bad index is an error."),
    "scatter": OpSpec(infer_scatter, "x with rows combined in at [i, j, ...], in row-major order."),
    "call": OpSpec(infer_call, "The block once: the body of a repeated layer, compiled once."),
    "switch": OpSpec(infer_switch, "The block that the first input names, clipped."),
    "scan": OpSpec(infer_scan, "The block {length} times: carry, captures, a step's slices."),
    "while": OpSpec(
        infer_while,
        "The second block while the first holds, {limit} times at most: count, carry, lists.",
    ),
    "empty": OpSpec(
        infer_empty, "A list or node that holds nothing, which reads as zeros; a table of zeros."
    ),
    "recurse": OpSpec(types_of_recurse, "Function {entry} of {functions} that call each other."),
    "recur": OpSpec(infer_recur, "A call of {function} of the recurse around it.", effect=True),
    "pack": OpSpec(infer_pack, "A node that holds values, and the number {tag}."),
    "unpack": OpSpec(infer_unpack, "The values of a node, of types {results}."),
    "merge": OpSpec(infer_merge, "A node whose values are the sums of those of two."),
    "tag": OpSpec(infer_tag, "The number of a node; 0 of one that holds nothing."),
    "agenda": OpSpec(agenda.infer_agenda, "A recursion from {roots} calls, all at once; a handle."),
    "unwind": OpSpec(agenda.infer_unwind, "The way back through what a handle stands for: sums."),
    "extent": OpSpec(infer_extent, "How long the tables of number {length} are."),
    "print": OpSpec(infer_print, "Show values by {format}.", effect=True),
    "require": OpSpec(infer_require, "An error with {message} unless x holds.", effect=True),
}
