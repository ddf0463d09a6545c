"""The loops of native programs use this CPU's widest vectors: read off the machine code."""

from __future__ import annotations

import re
from collections.abc import Callable

import ir_cases
import numpy as np
import pytest

from backends.llvm import compile_program, target
from backends.llvm.gemm.pack import Pack, copying, transposing
from backends.llvm.target import compiling_for, vector_bits
from staging.interpret import interpret
from staging.ir import Builder, Program, Type, Value
from staging.pipeline import optimise
from staging.text import parse_program

WIDE = {512: "zmm", 256: "ymm"}
N = 4096


def unary(op: str, dtype: str) -> Callable[[Builder], Value]:
    return lambda b: b.emit(op, b.param(Type(dtype, (N,))))


def binary(op: str, dtype: str) -> Callable[[Builder], Value]:
    return lambda b: b.emit(op, b.param(Type(dtype, (N,))), b.param(Type(dtype, (N,))))


def cast(source: str, to: str) -> Callable[[Builder], Value]:
    return lambda b: b.emit("cast", b.param(Type(source, (N,))), dtype=to)


def reduced(dtype: str, axis: int, kind: str = "sum") -> Callable[[Builder], Value]:
    def make(b: Builder) -> Value:
        return b.emit("reduce", b.param(Type(dtype, (64, N))), kind=kind, axes=(axis,))

    return make


def chosen(b: Builder) -> Value:
    x, y = b.param(Type("float32", (N,))), b.param(Type("float32", (N,)))
    return b.emit("select", b.emit("lt", x, y), x, y)


def both(b: Builder) -> Value:
    x, y = b.param(Type("bool", (N,))), b.param(Type("bool", (N,)))
    return b.emit("and", x, b.emit("not", y))


# Under the name of each kernel what makes it, and an instruction of its loop.
KERNELS: dict[str, tuple[Callable[[Builder], Value], str]] = {
    **{f"{n} float32": (unary(n, "float32"), "vfn?m") for n in
       ("exp", "log", "log1p", "expm1", "tanh", "erf", "sin", "cos")},
    **{f"{n} float64": (unary(n, "float64"), "vfn?m") for n in
       ("exp", "log", "log1p", "expm1", "tanh")},
    "pow": (binary("pow", "float32"), "vfn?m"),
    "atan2": (binary("atan2", "float32"), "vfn?m"),
    "add int8": (binary("add", "int8"), "vpaddb"),
    "mul int64": (binary("mul", "int64"), "vpmull|vpmuludq"),
    "max": (binary("max", "float32"), "vmaxps"),
    "exp bfloat16": (unary("exp", "bfloat16"), "vfn?m"),
    "add float16": (binary("add", "float16"), "vaddps|vaddph"),
    "to bfloat16": (cast("float32", "bfloat16"), "vpaddd"),
    "from bfloat16": (cast("bfloat16", "float32"), "vpslld"),
    "to int8": (cast("float32", "int8"), "vcvttps2dq"),
    "to int32": (cast("float32", "int32"), "vcvttps2dq"),
    "select": (chosen, "vm(in|ax|ov|ask)"),
    "bool": (both, "vp|v(and|or|xor)"),
    "sum along rows": (reduced("float32", 1), "vaddps"),
    "sum along columns": (reduced("float32", 0), "vaddps"),
    "max along rows": (reduced("float32", 1, "max"), "vmaxps|vm"),
    "sum of bfloat16": (reduced("bfloat16", 1), "vaddps"),
}  # fmt: skip


@pytest.mark.skipif(
    vector_bits() not in WIDE, reason=f"this CPU has vectors of {vector_bits()} bits"
)
def test_loops_use_the_widest_vectors() -> None:
    wide = WIDE[vector_bits()]
    scalar: list[str] = []
    for name, (make, instruction) in KERNELS.items():
        b = Builder()
        made = make(b)
        assembly = compile_program(Program("kernel", b.block(made)), threads=1).assembly
        if not re.search(rf"\b({instruction})\w*\s[^\n]*{wide}", assembly):
            scalar.append(name)
    assert not scalar


@pytest.mark.skipif(vector_bits() not in WIDE, reason="needs a CPU that can do more")
@pytest.mark.parametrize("cpu", ["x86-64-v2", "x86-64-v3"])
def test_narrower_vectors_give_the_same(cpu: str) -> None:
    """Without AVX, or AVX-512: fewer lanes, no fused multiply-add, no mask registers."""
    rng = np.random.default_rng(2)
    cases = [
        case
        for make, shape in (
            (ir_cases.elementwise, (37,)),
            (ir_cases.structure, (2, 3, 17)),
            (ir_cases.products, (3, 9, 4)),
        )
        for case in make(rng, shape)
        if {"float16", "float32", "int8"} & {a.dtype.name for a in case.inputs}
    ]
    program, inputs = ir_cases.program(cases)
    with compiling_for(cpu):
        run = compile_program(program)
    for case, found, expected in zip(cases, run(inputs), interpret(program, inputs), strict=True):
        ir_cases.assert_close(case, found, expected)


@pytest.mark.skipif(vector_bits() not in WIDE, reason="needs a CPU that can do more")
@pytest.mark.parametrize("write", [copying, transposing])
def test_what_is_packed_for_one_cpu_is_not_for_another(write: Callable[[Pack], str]) -> None:
    """Not every CPU has an instruction that converts float16, which is what packing does."""
    assert "fpext <4 x half>" in write(Pack("float16", 8, 4, write is transposing))
    with compiling_for("x86-64-v2"):
        assert "fpext <4 x half>" not in write(Pack("float16", 8, 4, write is transposing))


def test_a_cpu_without_avx_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target.llvm, "get_host_cpu_features", dict)
    monkeypatch.setattr(target.platform, "machine", lambda: "x86_64")
    with pytest.warns(RuntimeWarning, match="no AVX2"):
        assert target._host_bits.__wrapped__() == 128


@pytest.mark.parametrize("columns", [3, 8, 19, 50])
@pytest.mark.parametrize("apart", [True, False])
def test_ends_of_rows_are_vectors_where_nothing_is_written_over(columns: int, apart: bool) -> None:
    """What a row of a slice has beyond whole vectors is computed with the elements before it."""
    source = f"""program @p(%x: float32[5, {2 * columns}], %y: float32[5, {columns}]) {{
        %a = slice(%x) {{starts=(0, {columns}), counts=(5, {columns}), steps=(1, 1)}}: float32[5, {columns}]
        %b = tanh(%a): float32[5, {columns}]
        %c = add(%y, %b): float32[5, {columns}]
        return (%c)
    }}"""  # noqa: E501
    program = optimise(parse_program(source))
    if not apart:  # the result lies where %y does
        program = Program(program.name, program.block, (1,))
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=p.type.shape).astype(np.float32) for p in program.block.params)
    expected = y + np.tanh(x[:, columns:])
    (found,) = compile_program(program, threads=1)([x, y])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert (found is y) == (not apart)
