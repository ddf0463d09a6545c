"""Fusion changes how a program is written, not what it computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.llvm import compile_program
from staging.fusion import fuse
from staging.interpret import interpret
from staging.ir import Builder, Program, Type, Value, walk
from staging.text import parse_program, print_program
from staging.verify import verify

RMS_NORM = """program @rms_norm(%x: float32[4, 8], %w: float32[8]) {
  %1 = mul(%x, %x): float32[4, 8]
  %2 = reduce(%1) {kind='sum', axes=(1,)}: float32[4]
  %3 = constant() {value=8.0, dtype='float32'}: float32[]
  %4 = broadcast(%3) {shape=(4,)}: float32[4]
  %5 = div(%2, %4): float32[4]
  %6 = sqrt(%5): float32[4]
  %7 = reshape(%6) {shape=(4, 1)}: float32[4, 1]
  %8 = broadcast(%7) {shape=(4, 8)}: float32[4, 8]
  %9 = div(%x, %8): float32[4, 8]
  %10 = broadcast(%w) {shape=(4, 8)}: float32[4, 8]
  %11 = mul(%9, %10): float32[4, 8]
  %12 = reduce(%11) {kind='sum', axes=(0,)}: float32[8]
  return (%11, %6, %12)
}
"""


def test_a_normalisation_with_its_column_sums_is_one_loop_nest() -> None:
    fused = verify(fuse(parse_program(RMS_NORM)))
    (call,) = fused.block.ops
    assert call.attributes == {"kind": "loop", "rows": 4, "columns": 8}
    assert [v.type.shape for v in call.results] == [(4,), (4, 8), (8,)]
    assert print_program(parse_program(print_program(fused))) == print_program(fused)


def test_what_is_read_across_rows_is_not_fused() -> None:
    fused = fuse(parse_program("""program @p(%x: float32[3, 3]) {
      %1 = exp(%x): float32[3, 3]
      %2 = transpose(%1) {axes=(1, 0)}: float32[3, 3]
      %3 = add(%1, %2): float32[3, 3]
      return (%3)
    }"""))  # fmt: skip
    assert [op.name for op in fused.block.ops] == ["exp", "call"]


def test_a_view_that_is_read_before_and_after_it_lies_in_memory() -> None:
    program = parse_program("""program @p(%x: float32[2, 3]) {
      %1 = transpose(%x) {axes=(1, 0)}: float32[3, 2]
      %2 = exp(%1): float32[3, 2]
      %3 = matmul(%x, %1) {transpose_x=false, transpose_y=false}: float32[2, 2]
      %4 = add(%1, %2): float32[3, 2]
      return (%4, %3)
    }""")  # fmt: skip
    fused = verify(fuse(program))
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    for a, b in zip(interpret(fused, [x]), interpret(program, [x]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_branches_that_meet_are_one_loop() -> None:
    fused = fuse(parse_program("""program @moments(%m: float32[9], %g: float32[9]) {
      %1 = mul(%m, %m): float32[9]
      %2 = mul(%g, %g): float32[9]
      %3 = add(%1, %2): float32[9]
      %4 = sqrt(%2): float32[9]
      return (%3, %4)
    }"""))  # fmt: skip
    assert [op.name for op in verify(fused).block.ops] == ["call"]


def test_long_chains_are_cut() -> None:
    b = Builder()
    y = x = b.param(Type("float32", (5,)))
    for _ in range(500):
        y = b.emit("add", y, x)
    program = fuse(Program("chain", b.block(y)))
    assert 4 < len(program.block.ops) < 20
    (found,) = compile_program(program)([np.ones(5, np.float32)])
    np.testing.assert_array_equal(found, np.full(5, 501, np.float32))


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Programs of views, elementwise operations, reductions and a few others, on float64."""
    b = Builder()
    sizes = draw(st.tuples(*[st.integers(1, 4)] * 3))
    shapes = [sizes, sizes[1:], sizes[2:], (), (sizes[0], sizes[2])]
    pool = [b.param(Type("float64", shape)) for shape in shapes]
    for _ in range(draw(st.integers(3, 25))):
        x = draw(st.sampled_from(pool[-6:] + pool[:3]))
        pool.append(step(draw, b, x, pool))
    results = draw(st.lists(st.sampled_from(pool[5:]), min_size=1, max_size=4))
    return Program("drawn", b.block(*results))


def step(draw: st.DrawFn, b: Builder, x: Value, pool: list[Value]) -> Value:
    """One more operation on ``x``."""
    shape, rank = x.type.shape, len(x.type.shape)
    alike = [v for v in pool if v.type == x.type]
    wider = [s.type.shape for s in pool if broadcasts(shape, s.type.shape)]
    choices = ["sin", "tanh", "negate", "add", "mul", "max", "sub", "select", "broadcast", "reduce"]
    name = draw(st.sampled_from([*choices, "reduce", "reshape", "transpose", "slice", "matmul",
                                 "concat", "keep"]))  # fmt: skip
    if name in ("add", "mul", "max", "sub"):
        return b.emit(name, x, draw(st.sampled_from(alike)))
    if name == "select":
        y = draw(st.sampled_from(alike))
        return b.emit("select", b.emit("lt", x, y), x, b.emit("tanh", y))
    if name == "broadcast":
        return b.emit("broadcast", x, shape=draw(st.sampled_from(wider)))
    if name == "reduce":
        axes = draw(st.sets(st.integers(0, rank - 1))) if rank else set()
        return b.emit("reduce", x, kind=draw(st.sampled_from(["sum", "max"])), axes=tuple(axes))
    if name == "keep" and rank:  # reduce, and come back to the shape
        axes = draw(st.sets(st.integers(0, rank - 1), min_size=1))
        total = b.emit("reduce", x, kind="sum", axes=tuple(axes))
        ones = tuple(1 if i in axes else n for i, n in enumerate(shape))
        return b.emit("sub", x, b.emit("broadcast", b.emit("reshape", total, shape=ones),
                                       shape=shape))  # fmt: skip
    if name == "reshape":
        return b.emit("reshape", x, shape=draw(st.sampled_from([(x.type.size,), (*shape, 1)])))
    if name == "transpose":
        return b.emit("transpose", x, axes=tuple(draw(st.permutations(range(rank)))))
    if name == "slice":
        starts = tuple(draw(st.integers(0, n - 1)) for n in shape)
        counts = tuple(n - s for n, s in zip(shape, starts, strict=True))
        return b.emit("slice", x, starts=starts, counts=counts, steps=(1,) * rank)
    if name == "matmul" and rank == 2:
        return b.emit("tanh", b.emit("matmul", x, x, transpose_x=False, transpose_y=True))
    if name == "concat" and rank:
        return b.emit("concat", x, x, axis=0)
    return b.emit("sin" if name in ("keep", "matmul", "concat") else name, x)


def broadcasts(x: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Whether one shape broadcasts to another."""
    try:
        return np.broadcast_shapes(x, to) == to
    except ValueError:
        return False


def drawn_inputs(program: Program) -> list[np.ndarray[Any, Any]]:
    """Normal numbers for each parameter."""
    rng = np.random.default_rng(0)
    return [np.asarray(rng.normal(size=p.type.shape)) for p in program.block.params]


@given(programs())
@settings(max_examples=100, deadline=None)
def test_fused_programs_mean_the_same(program: Program) -> None:
    fused = verify(fuse(program))
    inputs = drawn_inputs(program)
    for a, b in zip(interpret(fused, inputs), interpret(program, inputs), strict=True):
        np.testing.assert_array_equal(a, b)


@given(programs())
@settings(max_examples=25, deadline=None)
def test_native_programs_mean_the_same_fused_or_not(program: Program) -> None:
    inputs = drawn_inputs(program)
    expected = interpret(program, inputs)
    for version in (program, fuse(program)):
        for a, b in zip(compile_program(version)(inputs), expected, strict=True):
            scale = max(1.0, float(np.abs(b).max(initial=0)))
            np.testing.assert_allclose(a, b, 1e-9, 1e-9 * scale)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_bodies_of_loops_are_fused(reverse: bool) -> None:
    inner = Builder()
    c, x = inner.param(Type("float64", (3,))), inner.param(Type("float64", (3,)))
    y = inner.emit("add", inner.emit("sin", c), x)
    body = inner.block(y, inner.emit("mul", y, c))
    b = Builder()
    start, xs = b.param(Type("float64", (3,))), b.param(Type("float64", (5, 3)))
    outs = b.emit_all("scan", start, xs, blocks=(body,), length=5, carried=1, captured=0,
                      reverse=reverse)  # fmt: skip
    program = Program("loop", b.block(*outs))
    fused = verify(fuse(program))
    assert any(op.attributes.get("kind") == "loop" for op in walk(fused.block))
    inputs = drawn_inputs(program)
    for a, b_ in zip(compile_program(fused)(inputs), interpret(program, inputs), strict=True):
        np.testing.assert_allclose(a, b_, 1e-12, 1e-12)
