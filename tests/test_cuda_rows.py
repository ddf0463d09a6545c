"""Kernels of reductions, of loop nests around them, and of orders give what the interpreter gives,
on an emulated device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ir_cases
import numpy as np
import pytest
from ir_cases import Case

import lantern as ln
from backends.cuda.emulator import EmulatedDevice
from backends.cuda.executable import compile_program
from lantern.convert import asarray
from lantern.staged.tracing import trace
from staging.interpret import interpret, numpy_dtype
from staging.ir import Op, Program, walk
from staging.pipeline import optimise
from staging.verify import verify

Array = np.ndarray[Any, Any]


def run(program: Program, inputs: Sequence[Array]) -> list[Array]:
    """The results on an emulated device, each value in memory of its own."""
    device: Any = EmulatedDevice()
    return [np.asarray(x) for x in compile_program(program, device, apart=True)(inputs)]


def check(cases: Sequence[Case]) -> None:
    """Compare a program of all cases with the interpreter."""
    program, inputs = ir_cases.program(cases)
    for case, a, b in zip(cases, run(program, inputs), interpret(program, inputs), strict=True):
        ir_cases.assert_close(case, a, b)


def test_along_axes() -> None:
    check(list(ir_cases.along_axes(np.random.default_rng(0), (3, 4, 5))))


DTYPES = ("bfloat16", "float64", "int8", "float16", "uint32")
# Rows shorter and longer than a warp, a block and what is cut into chunks; columns likewise.
SHAPES = (
    ((3, 1), 1), ((2, 31), 1), ((40, 32), 1), ((5, 33), 1), ((7, 1023), 1), ((3, 1025), 1),
    ((1, 5000), 1), ((1, 40000), 1), ((1001, 8), 1), ((2500, 3), 0), ((20000, 2), 0), ((3, 700), 0),
)  # fmt: skip


def test_reductions_of_every_length() -> None:
    rng = np.random.default_rng(1)
    shapes = [(shape, (axis,)) for shape, axis in SHAPES]
    shapes += [
        ((8, 6, 10, 7), (1, 3)),
        ((8, 6, 10, 8), (0, 2)),
        ((3, 900, 5), (1,)),
        ((1, 1), (0,)),
    ]
    cases: list[Case] = []
    for i, (shape, axes) in enumerate(shapes):
        for kind, dtype in (("sum", "float32"), ("sum", DTYPES[i % 5]), ("max", DTYPES[-i % 5])):
            x = ir_cases.values(rng, dtype, shape, edges=kind == "max")
            cases.append(Case("reduce", [x], {"kind": kind, "axes": axes}))
    empty = ir_cases.values(rng, "float16", (0, 3))
    cases += [Case("reduce", [empty], {"kind": kind, "axes": (0,)}) for kind in ("sum", "prod")]
    cases += [Case("reduce", [empty], {"kind": "sum", "axes": (1,)})]
    check(cases)


def test_orders_of_every_length() -> None:
    rng = np.random.default_rng(2)
    cases: list[Case] = []
    for i, (shape, axis) in enumerate(SHAPES):
        dtype = DTYPES[i % 5]
        x, y = (ir_cases.values(rng, dtype, shape, edges) for edges in (False, True))
        along = {"kind": ("sum", "max")[i % 2], "axis": axis, "reverse": i % 3 == 0}
        cases.append(Case("cumulate", [x], along))
        cases.append(Case("argreduce", [y], {"kind": ("max", "min")[i % 2], "axis": axis}))
        cases.append(Case("argsort", [y], {"axis": axis, "descending": i % 2 == 0}))
    check(cases)


# Functions of rows, and their derivatives.


def softmax(x: Any) -> Any:
    return ln.softmax(x, axis=-1)


def rms_norm(x: Any, w: Any) -> Any:
    return x / ln.sqrt(ln.mean(x * x, axis=-1, keepdims=True) + 1e-5) * w


def layer_norm(x: Any, w: Any, b: Any) -> Any:
    off = x - ln.mean(x, axis=-1, keepdims=True)
    return off / ln.sqrt(ln.mean(off * off, axis=-1, keepdims=True) + 1e-5) * w + b


def cross_entropy(x: Any, target: Any) -> Any:
    most = ln.max(x, axis=-1, keepdims=True)
    total = ln.log(ln.sum(ln.exp(x - most), axis=-1)) + most[..., 0]
    return ln.mean(total - ln.sum(x * target, axis=-1))


def moments(x: Any) -> Any:
    """A value of each size."""
    return x * 2, ln.sum(x, axis=0), ln.max(x, axis=0), ln.sum(x * x), ln.sum(x + 1, axis=1)


FUNCTIONS: dict[Callable[..., Any], str] = {
    softmax: "x", rms_norm: "xw", layer_norm: "xww", cross_entropy: "xx",
}  # fmt: skip


def with_gradient(f: Callable[..., Any], count: int) -> Callable[..., Any]:
    """A function with what its adjoint makes of its last argument."""

    def both(*arguments: Any) -> Any:
        y, back = ln.vjp(f, *arguments[:count])
        return y, back(arguments[count])

    return both


def traced(f: Callable[..., Any], *arguments: Array) -> Program:
    """A function's program, after the passes."""
    leaves = [asarray(x) for x in arguments]
    kinds = [(x.shape, x.dtype) for x in leaves]
    _, structure = ln.tree.flatten((arguments, {}))
    names = [f"x{i}" for i in range(len(leaves))]
    return verify(optimise(trace(f, "rows", structure, leaves, kinds, names, {}).program))


def loops(program: Program) -> list[Op]:
    """The loop nests of a program."""
    return [op for op in walk(program.block) if op.attributes.get("kind") == "loop"]


def joined(rows: int, columns: int, dtype: str) -> Iterator[tuple[Program, list[Array]]]:
    """Each of the functions, with its gradient, on normal numbers."""
    rng = np.random.default_rng(3)

    def drawn(*shape: int) -> Array:
        return rng.normal(size=shape).astype(numpy_dtype(dtype))

    for f, kinds in FUNCTIONS.items():
        given = [drawn(rows, columns) if kind == "x" else drawn(columns) for kind in kinds]
        given.append(drawn() if f is cross_entropy else drawn(rows, columns))
        yield traced(with_gradient(f, len(kinds)), *given), given
    x = drawn(rows, columns)
    yield traced(moments, x), [x]


@pytest.mark.parametrize(
    ("rows", "columns", "dtype"),
    [
        (1, 33, "float32"), (6, 40, "float64"), (5, 31, "bfloat16"), (7, 1023, "float32"),
        (3, 1025, "bfloat16"), (1000, 12, "float32"), (130, 3, "float16"), (300, 128, "bfloat16"),
        (2, 5000, "float32"), (1, 40000, "float32"),
    ],
)  # fmt: skip
def test_functions_of_rows_and_their_gradients(rows: int, columns: int, dtype: str) -> None:
    epsilon = ir_cases.EPSILON[dtype]
    for program, inputs in joined(rows, columns, dtype):
        found, expected = run(program, inputs), interpret(program, inputs)
        for a, b in zip(found, expected, strict=True):
            a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
            scale = max(1.0, float(np.abs(b).max()))
            np.testing.assert_allclose(a, b, 64 * epsilon, 16 * epsilon * scale)
