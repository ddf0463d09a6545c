"""Kernels of reductions, of loop nests around them, and of orders give what the interpreter gives,
on a device."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import ir_cases
import numpy as np
import pytest
from hypothesis import given, settings
from ir_cases import Case
from test_fusion import drawn_inputs, programs
from three_ways import traced as recorded

import lantern as ln
from backends.cuda.device import Device
from backends.cuda.emulator import EmulatedDevice
from backends.cuda.executable import compile_program
from backends.cuda.module import written
from backends.cuda.nests import Nest
from backends.cuda.plans import Plan, planned
from staging.fusion import fuse
from staging.interpret import interpret, numpy_dtype
from staging.ir import Builder, Program, Type, walk
from staging.pipeline import optimise
from staging.verify import verify

Array = np.ndarray[Any, Any]


def run(program: Program, inputs: Sequence[Array], device: Device) -> list[Array]:
    """The results on a device, each value in memory of its own."""
    return [np.asarray(x) for x in compile_program(program, device, apart=True)(inputs)]


def check(cases: Sequence[Case], device: Device) -> None:
    """Compare a program of all cases with the interpreter."""
    program, inputs = ir_cases.program(cases)
    found, expected = run(program, inputs, device), interpret(program, inputs)
    for case, a, b in zip(cases, found, expected, strict=True):
        ir_cases.assert_close(case, a, b)


@pytest.fixture(scope="module")
def watched(emulated_folder: str) -> Any:
    """An emulated device that looks for races."""
    return EmulatedDevice(races=True, folder=emulated_folder)


def test_along_axes(cuda: Device) -> None:
    check(list(ir_cases.along_axes(np.random.default_rng(0), (3, 4, 5))), cuda)


def test_along_axes_there_are_no_races(watched: Device) -> None:
    check(list(ir_cases.along_axes(np.random.default_rng(0), (3, 4, 5))), watched)


DTYPES = ("bfloat16", "float64", "int8", "float16", "uint32")
# Rows shorter and longer than a warp, a block and what is cut into chunks; columns likewise.
SHAPES = (
    ((3, 1), 1), ((2, 31), 1), ((40, 32), 1), ((5, 33), 1), ((7, 1023), 1), ((3, 1025), 1),
    ((1, 5000), 1), ((1, 40000), 1), ((1001, 8), 1), ((2500, 3), 0), ((20000, 2), 0), ((3, 700), 0),
)  # fmt: skip


def test_reductions_of_every_length(cuda: Device) -> None:
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
    check(cases, cuda)


def test_orders_of_every_length(cuda: Device) -> None:
    rng = np.random.default_rng(2)
    cases: list[Case] = []
    for i, (shape, axis) in enumerate(SHAPES):
        dtype = DTYPES[i % 5]
        x, y = (ir_cases.values(rng, dtype, shape, edges) for edges in (False, True))
        along = {"kind": ("sum", "max")[i % 2], "axis": axis, "reverse": i % 3 == 0}
        cases.append(Case("cumulate", [x], along))
        cases.append(Case("argreduce", [y], {"kind": ("max", "min")[i % 2], "axis": axis}))
        cases.append(Case("argsort", [y], {"axis": axis, "descending": i % 2 == 0}))
    check(cases, cuda)


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
    return verify(optimise(recorded(f, *arguments)[0].program))


def joined(rows: int, columns: int, dtype: str) -> tuple[Program, list[Array]]:
    """A program of each of the functions and its gradient, on normal numbers of its own."""
    rng = np.random.default_rng(3)

    def drawn(*shape: int) -> Array:
        return rng.normal(size=shape).astype(numpy_dtype(dtype))

    given: list[list[Array]] = []
    for f, kinds in FUNCTIONS.items():
        arguments = [drawn(rows, columns) if kind == "x" else drawn(columns) for kind in kinds]
        given.append([*arguments, drawn() if f is cross_entropy else drawn(rows, columns)])
    given.append([drawn(rows, columns)])

    def all_of_them(*flat: Any) -> Any:
        left = list(flat)
        parts = [[left.pop(0) for _ in arguments] for arguments in given]
        found = [with_gradient(f, len(kinds))(*part)
                 for (f, kinds), part in zip(FUNCTIONS.items(), parts, strict=False)]  # fmt: skip
        return found, moments(*parts[-1])

    flat = [x for arguments in given for x in arguments]
    return traced(all_of_them, *flat), flat


def check_joined(rows: int, columns: int, dtype: str, device: Device) -> list[Plan | None]:
    """Compare the functions with the interpreter; the plans of their loop nests that reduce."""
    program, inputs = joined(rows, columns, dtype)
    found, expected = run(program, inputs, device), interpret(program, inputs)
    epsilon = ir_cases.EPSILON[dtype]
    for a, b in zip(found, expected, strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        scale = max(1.0, float(np.abs(b).max()))
        np.testing.assert_allclose(a, b, 64 * epsilon, 16 * epsilon * scale)
    nests = [Nest(op) for op in walk(program.block) if op.attributes.get("kind") == "loop"]
    return [planned(nest) for nest in nests if nest.rows == rows and nest.reduces]


@pytest.mark.parametrize(
    ("rows", "columns", "dtype"),
    [
        (1, 33, "float32"), (6, 40, "float64"), (5, 31, "bfloat16"), (7, 1023, "float32"),
        (3, 1025, "bfloat16"), (1000, 12, "float32"), (130, 3, "float16"), (300, 128, "bfloat16"),
        (2, 5000, "float32"), (1, 40000, "float32"),
    ],
)  # fmt: skip
def test_functions_of_rows_and_their_gradients(
    cuda: Device, rows: int, columns: int, dtype: str
) -> None:
    check_joined(rows, columns, dtype, cuda)


@pytest.mark.parametrize(("rows", "columns"), [(7, 33), (35, 600)])
def test_functions_of_rows_have_no_races(watched: Device, rows: int, columns: int) -> None:
    plans = check_joined(rows, columns, "float32", watched)
    assert all(plan is not None and plan.kept == "registers" for plan in plans)


def test_rows_are_kept_in_shared_memory(watched: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.cuda.plans.WORDS", 0)
    monkeypatch.setattr("backends.cuda.plans.MANY", 0)
    plans = check_joined(5, 70, "float32", watched)
    assert {plan and plan.kept for plan in plans} == {"shared", "nowhere"}


def test_rows_are_read_again(watched: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    for constant in ("WORDS", "SHARED", "MANY"):
        monkeypatch.setattr(f"backends.cuda.plans.{constant}", 0)
    plans = check_joined(5, 72, "bfloat16", watched)
    assert all(plan is not None and plan.kept == "nowhere" for plan in plans)


def test_few_long_rows_are_cut(watched: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.cuda.plans.LONG", 0)
    assert set(check_joined(3, 5000, "float32", watched)) == {None}


def test_places_take_64_bits_where_an_array_is_that_large() -> None:
    b = Builder()
    x = b.param(Type("float32", (70000, 40000)), "x")
    results = [b.emit("reduce", x, kind="max", axes=axes) for axes in ((0,), (1,), (0, 1))]
    results += [b.emit("cumulate", x, kind="sum", axis=axis, reverse=False) for axis in (0, 1)]
    results += [b.emit("argreduce", x, kind="max", axis=axis) for axis in (0, 1)]
    results += [b.emit("argsort", x, axis=1, descending=True)]
    total = b.emit("reshape", results[1], shape=(70000, 1))
    results += [b.emit("sub", x, b.emit("broadcast", total, shape=(70000, 40000)))]
    module = written(fuse(Program("large", b.block(*results))))
    device = EmulatedDevice()
    device.compile(module.source, [*module.names.values()])
    kernels = [k for k in module.source.split('extern "C"') if re.search(r"float\*[\w ]* x\b", k)]
    narrow = [k for k in kernels if re.search(r"\bint (row|column|line) = ", k)]
    assert len(kernels) > 5 and not narrow


@given(program=programs())
@settings(max_examples=10, deadline=None, derandomize=True)  # NVRTC knows them after one run
def test_random_programs(cuda: Device, program: Program) -> None:
    fused, inputs = verify(fuse(program)), drawn_inputs(program)
    for a, b in zip(run(fused, inputs, cuda), interpret(program, inputs), strict=True):
        scale = max(1.0, float(np.abs(b).max(initial=0)))
        np.testing.assert_allclose(a, b, 1e-9, 1e-9 * scale)
