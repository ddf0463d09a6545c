"""Cases for backends: every operation of the table, on every dtype, with edge values.

A case is one operation with its inputs. `program` puts many cases into one program, so that a
backend compiles once for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from staging.interpret import numpy_dtype
from staging.ir import DTYPES, INTEGERS, SIGNED, Builder, Literal, Program, Type
from staging.ops import OPS

Array = np.ndarray[Any, Any]

# How far a backend may be from the reference, relative to the result; the other operations are
# exact where no two of them are fused.
ULPS = {"exp": 4, "log": 4, "log1p": 4, "expm1": 4, "sin": 4, "cos": 4, "tanh": 4, "erf": 4,
        "pow": 8, "atan2": 4, "reduce": 64, "cumulate": 64, "matmul": 64}  # fmt: skip
EPSILON = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}


@dataclass(frozen=True)
class Case:
    """An operation, the arrays it is given, and its attributes."""

    op: str
    inputs: Sequence[Array]
    attributes: Mapping[str, Literal] = field(default_factory=dict)

    def __str__(self) -> str:
        types = ", ".join(f"{a.dtype}{list(a.shape)}" for a in self.inputs)
        return f"{self.op}({types}) {dict(self.attributes)}"


def program(cases: Sequence[Case]) -> tuple[Program, list[Array]]:
    """One program that does all cases, and its inputs; it has a result for each case."""
    b = Builder()
    arrays = [a for case in cases for a in case.inputs]
    params = iter([b.param(Type(dtype_name(a), a.shape)) for a in arrays])
    results = []
    for case in cases:
        b.place = str(case)
        results.append(b.emit(case.op, *(next(params) for _ in case.inputs), **case.attributes))
    return Program("cases", b.block(*results)), arrays


def dtype_name(array: Array) -> str:
    """The name of an array's dtype."""
    return "bool" if array.dtype == np.bool_ else array.dtype.name


def values(rng: np.random.Generator, dtype: str, shape: Sequence[int], edges: bool = True) -> Array:
    """Random values of a dtype, with its edge values among them."""
    size = math.prod(shape)
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype in INTEGERS:
        limits = np.iinfo(dtype)
        pool: list[Any] = [limits.min, limits.max, 0, 1, 2, 3, 7, 0 if dtype not in SIGNED else -1]
        drawn = rng.integers(max(limits.min, -50), 50, size)
        edge = np.asarray([pool[i] for i in rng.integers(0, len(pool), size)], dtype)
        mixed = np.where(rng.random(size) < 0.4 * edges, edge, drawn.astype(dtype))
        return mixed.astype(dtype).reshape(shape)
    pool = [0.0, -0.0, 1.0, -1.0, 0.5, 2.5, -3.5, math.inf, -math.inf, math.nan, 1e-8, 300.0]
    drawn = rng.normal(size=size) * np.exp(rng.normal(size=size))
    edge = np.asarray([pool[i] for i in rng.integers(0, len(pool), size)])
    mixed = np.where(rng.random(size) < 0.3 * edges, edge, drawn)
    return mixed.astype(numpy_dtype(dtype)).reshape(shape)


def takes(op: str, dtype: str, count: int) -> bool:
    """Whether an elementwise operation takes inputs of a dtype."""
    try:
        OPS[op].infer((Type(dtype),) * count, {}, ())
    except Exception:
        return False
    return True


UNARY = [
    "negate",
    "floor",
    "round",
    "exp",
    "log",
    "log1p",
    "expm1",
    "sin",
    "cos",
    "tanh",
    "sqrt",
    "erf",
    "not",
]
BINARY = [
    "add",
    "sub",
    "mul",
    "div",
    "rem",
    "pow",
    "atan2",
    "max",
    "min",
    "and",
    "or",
    "xor",
    "shl",
    "shr",
    "eq",
    "lt",
    "le",
]


def elementwise(rng: np.random.Generator, shape: Sequence[int]) -> Iterator[Case]:
    """Every elementwise operation on every dtype that it takes."""
    for dtype in DTYPES:
        for names, count in ((UNARY, 1), (BINARY, 2)):
            inputs = [values(rng, dtype, shape) for _ in range(count)]
            yield from (Case(op, inputs) for op in names if takes(op, dtype, count))
        x, y = (values(rng, dtype, shape) for _ in range(2))
        yield Case("select", [values(rng, "bool", shape), x, y])
        yield from (Case("cast", [x], {"dtype": to}) for to in DTYPES)
        yield Case("bitcast", [x], {"dtype": dtype})
    for a, b in (("float32", "int32"), ("float16", "uint16"), ("bfloat16", "int16"),
                 ("uint64", "float64"), ("uint16", "bfloat16"), ("int16", "float16")):  # fmt: skip
        yield Case("bitcast", [values(rng, a, shape)], {"dtype": b})


def structure(rng: np.random.Generator, shape: Sequence[int]) -> Iterator[Case]:
    """Views, and operations that move elements, on an array of rank 3."""
    a, b, c = shape
    for dtype in ("bool", "int8", "int64", "float16", "bfloat16", "float32"):
        x = values(rng, dtype, shape)
        filler = values(rng, dtype, ())
        yield Case("constant", [], {"value": python_value(filler), "dtype": dtype})
        yield Case("broadcast", [values(rng, dtype, (b, 1))], {"shape": (a, b, c)})
        yield Case("broadcast", [filler], {"shape": (a, b)})
        yield Case("reshape", [x], {"shape": (b * c, 1, a)})
        for axes in ((2, 1, 0), (0, 2, 1), (1, 2, 0)):
            yield Case("transpose", [x], {"axes": axes})
        box = {"starts": (a - 1, 0, 0), "counts": (a, max(b - 1, 0), (c + 1) // 2)}
        yield Case("slice", [x], {**box, "steps": (-1, 1, 2)})
        wide = {"shape": (a + 3, 2 * b, c), "starts": (1, 0, max(c - 1, 0)), "steps": (1, 2, -1)}
        yield Case("pad", [x, filler], wide)
        yield Case("view", [x], {"shape": (a, b, 3), "strides": (b * c, c, 0), "offset": c - 1})
        sliding = {"shape": (max(a * b * c - 2, 0), 3), "strides": (1, 1), "offset": 0}
        yield Case("view", [x], sliding)
        if dtype != "bool":
            apart = {"shape": (a + b, c, 2), "strides": (2 * c, 2 * c, -2), "offset": 2 * c - 1}
            yield Case("fold", [x], apart)
            yield Case("fold", [x], {**apart, "strides": (1, 1, 1), "offset": 0})
        for axis in range(3):
            other = list(shape)
            other[axis] += 2
            yield Case("concat", [x, values(rng, dtype, other), x], {"axis": axis})
    for dtype in INTEGERS:
        yield Case("iota", [], {"shape": (a, b, c), "axis": 1, "dtype": dtype})
    yield Case("iota", [], {"shape": (a, b), "axis": 0, "dtype": "int64"})


def python_value(scalar: Array) -> Literal:
    """A scalar as an attribute."""
    if scalar.dtype.kind in "biu":
        return scalar.item()
    return float(scalar)


def along_axes(rng: np.random.Generator, shape: Sequence[int]) -> Iterator[Case]:
    """Reductions, running reductions and orders, on an array of rank 3 without empty axes."""
    for dtype in DTYPES:
        x = values(rng, dtype, shape, edges=False)
        y = values(rng, dtype, shape)
        for i, axes in enumerate(((), (2,), (0,), (0, 1), (0, 2), (1,), (0, 1, 2))):
            kind = ("sum", "prod", "max", "min")[i % 4]
            yield Case("reduce", [x], {"kind": kind, "axes": axes})
            yield Case("reduce", [y], {"kind": ("max", "min", "sum")[i % 3], "axes": axes})
        for axis in range(3):
            kind = ("sum", "prod", "max")[axis]
            yield Case("cumulate", [x], {"kind": kind, "axis": axis, "reverse": axis == 1})
            yield Case("argreduce", [y], {"kind": ("max", "min")[axis % 2], "axis": axis})
        yield Case("cumulate", [x], {"kind": "min", "axis": 2, "reverse": True})
        yield Case("argsort", [y], {"axis": 1, "descending": False})
        yield Case("argsort", [y.ravel()], {"axis": 0, "descending": True})


def products(rng: np.random.Generator, shape: Sequence[int]) -> Iterator[Case]:
    """Matrix products, plain and batched, each operand transposed or not."""
    m, k, n = shape
    for dtype in DTYPES:
        for batch in ((), (2, 3)):
            for tx, ty in ((False, False), (True, False), (False, True), (True, True)):
                x = values(rng, dtype, (*batch, k, m) if tx else (*batch, m, k), edges=False)
                y = values(rng, dtype, (*batch, n, k) if ty else (*batch, k, n), edges=False)
                yield Case("matmul", [x, y], {"transpose_x": tx, "transpose_y": ty})


def indexing(rng: np.random.Generator, shape: Sequence[int]) -> Iterator[Case]:
    """Gathers and scatters with one index array or two, on an array without empty axes."""
    for dtype in DTYPES:
        for count, picked in ((1, (5,)), (2, (2, 3)), (3, ()), (1, (0,))):
            x = values(rng, dtype, shape, edges=False)
            indices = [rng.integers(0, n, picked) for n in shape[:count]]
            indices = [np.asarray(i, np.int64) for i in indices]
            yield Case("gather", [x, *indices])
            rows = values(rng, dtype, (*picked, *shape[count:]), edges=False)
            for kind in ("set", "sum", "prod", "max", "min")[:: 1 if count == 1 else 2]:
                yield Case("scatter", [x, rows, *indices], {"kind": kind})


def assert_close(case: Case, found: Array, expected: Array) -> None:
    """A backend's result is the reference's, exactly or to rounding."""
    assert found.dtype == expected.dtype and found.shape == expected.shape, str(case)
    if expected.dtype.kind in "biu":
        np.testing.assert_array_equal(found, expected, str(case))
        return
    epsilon = EPSILON[expected.dtype.name] * ULPS.get(case.op, 0)
    a, b = (np.asarray(v, np.float64) for v in (found, expected))
    scale = 1.0
    if case.op in ("matmul", "reduce", "cumulate"):  # the error is relative to what is summed
        scale = max(1.0, float(np.abs(np.nan_to_num(b, posinf=0, neginf=0)).max(initial=0)))
    np.testing.assert_allclose(a, b, epsilon, epsilon * scale * (case.op in SUMS), True, str(case))


SUMS = ("matmul", "reduce", "cumulate")
