"""The LLVM backend gives what the reference interpreter gives, for every operation and dtype."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import ir_cases
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_cases import Case

from backends.llvm import compile_program
from backends.llvm.target import vector_bits
from staging.failures import RequirementFailure
from staging.fusion import fuse
from staging.interpret import interpret
from staging.ir import Builder, IRError, Program, Type
from staging.memory import ALIGNMENT
from staging.text import parse_program
from staging.verify import verify

Make = Callable[[np.random.Generator, tuple[int, ...]], Iterator[Case]]


@pytest.mark.parametrize(
    ("make", "least", "most"),
    [
        (ir_cases.elementwise, 0, 40),
        (ir_cases.structure, 1, 5),
        (ir_cases.along_axes, 1, 6),
        (ir_cases.products, 0, 5),
        (ir_cases.indexing, 1, 4),
    ],
)
@given(data=st.data())
@settings(max_examples=2, deadline=None)  # the first example is the smallest
def test_operations_mean_what_the_interpreter_says(
    make: Make, least: int, most: int, data: st.DataObject
) -> None:
    rank = 1 if make is ir_cases.elementwise else 3
    shape = data.draw(st.tuples(*[st.integers(least, most)] * rank))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    cases = list(make(rng, shape))
    program, inputs = ir_cases.program(cases)
    found = compile_program(verify(program))(inputs)
    for case, a, b in zip(cases, found, interpret(program, inputs), strict=True):
        ir_cases.assert_close(case, a, b)


def doubling(place: str = "") -> Builder:
    """A builder with a float32 parameter of 4 elements."""
    b = Builder(place)
    b.param(Type("float32", (4,)), "x")
    return b


@pytest.mark.parametrize("bad", [4, -1, 2**40])
def test_an_index_outside_names_operation_value_bound_and_line(bad: int) -> None:
    for kind in ("gather", "scatter"):
        b = doubling("model.py:3")
        x, i = b.params[0], b.param(Type("int64", (2,)))
        rows = b.param(Type("float32", (2,)))
        made = b.emit(kind, x, i) if kind == "gather" else b.emit(kind, x, rows, i, kind="sum")
        run = compile_program(Program("pick", b.block(made)))
        arrays = [np.zeros(4, np.float32), np.asarray([0, bad]), np.zeros(2, np.float32)]
        message = rf"{kind}: index {bad} is out of range for axis 0 of 4\n  at model.py:3"
        with pytest.raises(IndexError, match=message):
            run(arrays)


def test_inputs_of_another_type_are_refused() -> None:
    b = doubling()
    run = compile_program(Program("double", b.block(b.emit("add", *b.params * 2))))
    for arrays in ([np.zeros(4)], [np.zeros(3, np.float32)], []):
        with pytest.raises(IRError, match=r"double takes 1|float32"):
            run(arrays)


def test_inputs_need_not_be_contiguous_and_results_are_fresh() -> None:
    b = doubling()
    run = compile_program(Program("same", b.block(*b.params, *b.params)))
    x = np.arange(8, dtype=np.float32)[::2]
    y, z = run([x])
    np.testing.assert_array_equal(y, x)
    assert not np.shares_memory(y, z) and not np.shares_memory(x, y)


def test_memory_of_a_large_result_is_used_again_once_nothing_sees_it() -> None:
    b = Builder()
    x = b.param(Type("float32", (300_000,)))
    run = compile_program(Program("twice", b.block(b.emit("add", x, x))))
    ones = np.ones(300_000, np.float32)
    seen = set()
    kept = run([ones])[0]
    view, address = kept[5:], kept.ctypes.data
    del kept
    for i in range(6):
        (result,) = run([ones * i])
        assert (result == 2 * i).all() and result.flags.writeable
        assert result.ctypes.data % ALIGNMENT == 0 and result.ctypes.data != address
        seen.add(result.ctypes.data)
    assert len(seen) <= 2 and (view == 2).all()
    del run
    assert (view == 2).all() and (result == 10).all()


def test_calls_from_two_threads_do_not_disturb_each_other() -> None:
    b = Builder()
    x = b.param(Type("float32", (80, 80)))
    y = b.emit("matmul", x, x, transpose_x=False, transpose_y=False)
    for _ in range(5):
        y = b.emit("matmul", b.emit("tanh", y), x, transpose_x=False, transpose_y=True)
    run = compile_program(Program("layers", b.block(y)))
    inputs = [np.random.default_rng(i).normal(size=(80, 80)).astype(np.float32) for i in range(8)]
    alone = [run([a])[0] for a in inputs]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda a: run([a])[0], inputs * 3))
    for a, b_ in zip(together, alone * 3, strict=True):
        np.testing.assert_allclose(a, b_, 1e-4, 1e-4)


def test_a_loop_around_exp_is_vectorised() -> None:
    b = Builder()
    x = b.param(Type("float32", (1000,)))
    assembly = compile_program(Program("grow", b.block(b.emit("exp", x)))).assembly
    if vector_bits() > 128:
        register = {512: "zmm", 256: "ymm"}[vector_bits()]
        assert re.search(rf"vfn?m\w+ps\s.*{register}", assembly)


def test_values_are_printed_in_order(capfd: pytest.CaptureFixture[str]) -> None:
    b = doubling()
    b.emit_all("print", *b.params, format="x = {}")
    b.emit_all("print", b.emit("add", *b.params * 2), format="twice = {}")
    compile_program(Program("told", b.block()))([np.arange(4, dtype=np.float32)])
    assert capfd.readouterr().out == "x = [0. 1. 2. 3.]\ntwice = [0. 2. 4. 6.]\n"


def test_repeated_layers_are_compiled_once() -> None:
    sources = []
    for depth in (2, 20):
        b = doubling()
        y = b.params[0]
        for _ in range(depth):
            y = b.emit("tanh", y)
        sources.append(compile_program(Program("deep", b.block(y))).source.count("define internal"))
    assert sources[0] == sources[1]


def test_memory_is_used_again() -> None:
    b = doubling()
    y = b.params[0]
    for _ in range(50):
        y = b.emit("tanh", y)
    assert compile_program(Program("deep", b.block(y))).module.arena <= 2 * ALIGNMENT


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_scatter_writes_over_an_operand_that_nothing_else_reads(dtype: str) -> None:
    b = Builder()
    x, rows, i = (b.param(Type(d, (n,))) for d, n in ((dtype, 1000), (dtype, 3), ("int64", 3)))
    y = b.emit("negate", x)
    once = b.emit("negate", b.emit("scatter", y, rows, i, kind="sum"))
    kept = b.emit("negate", x)
    both = b.emit("add", b.emit("scatter", kept, rows, i, kind="sum"), kept)
    program = Program("places", b.block(once, both))
    rng = np.random.default_rng(0)
    inputs = [ir_cases.values(rng, dtype, (n,), edges=False) for n in (1000, 3)]
    inputs.append(np.asarray([5, 7, 5]))
    run = compile_program(program)
    for found, expected in zip(run(inputs), interpret(program, inputs), strict=True):
        np.testing.assert_array_equal(found.astype(np.float64), expected.astype(np.float64))
    if dtype == "float32":
        assert run.module.arena < 3 * 4 * 1000


def test_what_is_required_ends_the_program(capfd: pytest.CaptureFixture[str]) -> None:
    b = doubling("model.py:5")
    below = b.emit(
        "lt",
        *b.params,
        b.emit("broadcast", b.emit("constant", value=2.0, dtype="float32"), shape=(4,)),
    )
    b.emit_all("require", b.emit("reduce", below, kind="min", axes=(0,)), message="too large")
    b.emit_all("print", *b.params, format="{}")
    program = Program("small", b.block(*b.params))
    for run in (compile_program(fuse(program)), lambda arrays: interpret(program, arrays)):
        run([np.ones(4, np.float32)])
        assert capfd.readouterr().out == "[1. 1. 1. 1.]\n"
        with pytest.raises(RequirementFailure, match=r"too large\n  at model.py:5"):
            run([np.arange(4, dtype=np.float32)])
        assert capfd.readouterr().out == ""


def test_a_reshape_costs_nothing() -> None:
    b = doubling()
    y = b.emit("reshape", b.emit("exp", *b.params), shape=(2, 2))
    run = compile_program(Program("square", b.block(b.emit("negate", y))))
    assert ".reshape" not in run.source
    np.testing.assert_array_equal(run([np.zeros(4, np.float32)])[0], -np.ones((2, 2)))


def test_a_caller_who_is_trusted_gets_the_same_of_arrays_that_lie_otherwise() -> None:
    program = parse_program(
        "program @f(%x: float32[2, 3], %y: float32[2, 3] donated) "
        "{ %z = sub(%x, %y): float32[2, 3] return (%z) }"
    )
    run = compile_program(program)
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    for call in (run, run.trusting):
        y = np.ones((2, 3), np.float32)
        (z,) = call([x.T, y])
        np.testing.assert_array_equal(z, x.T - 1)
        assert z is y
