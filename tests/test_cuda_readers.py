"""Loops that read the same arrays are one, and mean what they mean alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cuda_elements import run
from test_cuda_merging import inputs_of

from backends.cuda.inlining import is_loop
from backends.cuda.readers import join_readers
from staging.fusion import fuse
from staging.interpret import interpret
from staging.ir import Builder, Program, Type, Value
from staging.passes.dead import remove_dead
from staging.verify import verify

SHAPE = (4, 4)


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Elementwise operations, with products and sums between."""
    b = Builder()
    values: list[Value] = [b.param(Type("float32", SHAPE)) for _ in range(3)]
    for _ in range(draw(st.integers(1, 20))):
        x, y = draw(st.sampled_from(values)), draw(st.sampled_from(values))
        name = draw(st.sampled_from(["add", "mul", "max", "negate", "matmul", "sum", "turned"]))
        if name == "matmul":
            made = b.emit("matmul", x, y, transpose_x=False, transpose_y=True)
        elif name == "sum":
            row = b.emit("reduce", x, kind="max", axes=(1,))
            made = b.emit("broadcast", b.emit("reshape", row, shape=(4, 1)), shape=SHAPE)
        elif name == "turned":
            made = b.emit("transpose", x, axes=(1, 0))
        else:
            made = b.emit(name, *((x,) if name == "negate" else (x, y)))
        values.append(made)
    results = draw(st.lists(st.sampled_from(values), min_size=1, max_size=3))
    return remove_dead(Program("some", b.block(*results, values[-1])))


@given(programs(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_program_means_the_same(program: Program, fused: bool) -> None:
    inputs = inputs_of(program)
    once = verify(join_readers(fuse(program) if fused else program))
    for a, b in zip(interpret(once, inputs), interpret(program, inputs), strict=True):
        np.testing.assert_array_equal(a, b)


def multiplied(b: Builder, x: Value, y: Value, transpose_x: bool = False) -> Value:
    return b.emit("matmul", x, y, transpose_x=transpose_x, transpose_y=False)


def gated(late: bool = False) -> Program:
    """The way back through a gate: what it gave is computed again for one product, and another one
    comes before its adjoint; which may be given what the first one makes."""
    b = Builder()
    gate, change = (b.param(Type("float32", (64, 48))) for _ in range(2))
    weight = b.param(Type("float32", (48, 48)))
    slope = multiplied(b, b.emit("tanh", gate), change, transpose_x=True)
    back = multiplied(b, change, slope if late else weight)
    return fuse(Program("gated", b.block(slope, b.emit("mul", back, gate))))


def loops(program: Program) -> int:
    return sum(map(is_loop, program.block.ops))


def test_the_way_back_through_a_gate_is_one_loop(cuda: Any) -> None:
    program = gated()
    once = verify(join_readers(program))
    assert (loops(program), loops(once)) == (2, 1)
    inputs = inputs_of(program)
    for a, b in zip(run(cuda, once, inputs), interpret(program, inputs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_a_loop_that_waits_for_the_other_stays_apart() -> None:
    program = gated(late=True)
    assert loops(join_readers(program)) == loops(program) == 2


@pytest.mark.parametrize(("count", "joined"), [(1, True), (3, False)])
def test_what_would_hold_more_than_is_read_less_stays_apart(count: int, joined: bool) -> None:
    """The first loop ends some arrays, before others are made for the second one."""
    b = Builder()
    x, y = (b.param(Type("float32", (64, 64))) for _ in range(2))
    total = x
    for ended in [multiplied(b, x, y) for _ in range(count)]:
        total = b.emit("add", total, ended)
    first = multiplied(b, total, y)
    back = multiplied(b, multiplied(b, y, y), multiplied(b, y, x))
    program = fuse(Program("p", b.block(first, b.emit("mul", back, x))))
    assert (loops(program), loops(join_readers(program))) == (2, 1 if joined else 2)
