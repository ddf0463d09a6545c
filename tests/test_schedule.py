"""Scheduling and recomputing: the same results in less memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from test_fusion import drawn_inputs, programs

from backends.llvm import compile_program
from staging.fusion import fuse
from staging.interpret import interpret
from staging.ir import Builder, Program, Type
from staging.memory import peak_memory
from staging.passes.recompute import recompute
from staging.passes.schedule import schedule
from staging.text import parse_program
from staging.verify import verify


@given(programs())
@settings(max_examples=60, deadline=None)
def test_reordered_programs_mean_the_same(program: Program) -> None:
    inputs = drawn_inputs(program)
    expected = interpret(program, inputs)
    fused = fuse(program)
    for changed in (program, recompute(fused), recompute(fused, cheap=100, narrower=True)):
        changed = schedule(changed)
        for a, b in zip(interpret(verify(changed), inputs), expected, strict=True):
            np.testing.assert_array_equal(a, b)


@given(programs())
@settings(max_examples=15, deadline=None)
def test_native_programs_mean_the_same_recomputed(program: Program) -> None:
    inputs = drawn_inputs(program)
    changed = schedule(recompute(fuse(program)))
    for a, b in zip(compile_program(changed)(inputs), interpret(program, inputs), strict=True):
        scale = max(1.0, float(np.abs(b).max(initial=0)))
        np.testing.assert_allclose(a, b, 1e-9, 1e-9 * scale)


@pytest.mark.parametrize("donated", [(), tuple(range(8))])
def test_updates_follow_their_gradients(donated: tuple[int, ...]) -> None:
    """All gradients first and all updates then needs room for all gradients."""
    b = Builder()
    params = [b.param(Type("float32", (64, 64))) for _ in range(8)]
    x = b.param(Type("float32", (64, 64)))
    grads = [b.emit("matmul", p, x, transpose_x=False, transpose_y=False) for p in params]
    updated = [b.emit("sub", p, g) for p, g in zip(params, grads, strict=True)]
    program = Program("train", b.block(*updated), donated)
    one = 64 * 64 * 4
    assert peak_memory(program) == (8 * one if donated else 0)  # else made where results lie
    assert peak_memory(schedule(program)) == (one if donated else 0)


def test_what_is_large_is_made_when_it_is_wanted() -> None:
    b = Builder()
    x = b.param(Type("float32", (1000,)))
    wide = [b.emit("cast", x, dtype="float64") for _ in range(4)]
    sums = [b.emit("reduce", w, kind="sum", axes=(0,)) for w in wide]
    program = Program("p", b.block(*sums))
    assert peak_memory(schedule(program)) < 1.1 * 8000 < peak_memory(program)


def test_effects_keep_their_order() -> None:
    source = """program @p(%x: float32[9]) {
      %a = exp(%x): float32[9]
      %b = exp(%x): float32[9]
      print(%b) {format='b {}'}
      print(%a) {format='a {}'}
      %c = add(%a, %x): float32[9]
      return (%c)
    }"""
    shown = [op.attributes["format"] for op in schedule(parse_program(source)).block.ops
             if op.name == "print"]  # fmt: skip
    assert shown == ["b {}", "a {}"]


GATED = """program @gated(%x: float32[8, 8], %u: float32[8, 8], %w: float32[8, 8]) {
  %g = matmul(%x, %w) {transpose_x=false, transpose_y=false}: float32[8, 8]
  %s = tanh(%g): float32[8, 8]
  %h = mul(%g, %s): float32[8, 8]
  %d = matmul(%s, %u) {transpose_x=false, transpose_y=false}: float32[8, 8]
  %e = mul(%h, %d): float32[8, 8]
  %f = add(%e, %g): float32[8, 8]
  %i = sub(%f, %s): float32[8, 8]
  return (%i)
}"""


def test_a_cheap_product_is_made_again_where_it_is_read() -> None:
    program = fuse(parse_program(GATED))
    assert [len(op.results) for op in program.block.ops] == [1, 2, 1, 1]
    shorter = verify(recompute(program))
    assert [len(op.results) for op in shorter.block.ops] == [1, 1, 1, 1]
    assert peak_memory(shorter) < peak_memory(program)
    inputs = drawn_inputs(program)
    inputs = [a.astype(np.float32) for a in inputs]
    np.testing.assert_array_equal(interpret(shorter, inputs)[0], interpret(program, inputs)[0])


def test_what_costs_more_than_reading_it_is_kept() -> None:
    program = fuse(parse_program(GATED.replace("mul(%g, %s)", "tanh(%s)")))
    assert [len(op.results) for op in recompute(program).block.ops] == [1, 2, 1, 1]
