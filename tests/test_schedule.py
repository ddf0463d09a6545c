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
from staging.passes.products import join_products
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


def test_updates_do_not_wait_for_what_else_reads_their_gradients() -> None:
    """Each gradient is read by an update and, later, by a norm; the rate is a number that is made
    after all gradients."""
    b, count, one = Builder(), 24, 64 * 64 * 4
    matrix = Type("float32", (64, 64))
    params = [b.param(matrix) for _ in range(count)]
    x, rate = b.param(matrix), b.param(Type("float32", ()))
    grads = [b.emit("matmul", p, x, transpose_x=False, transpose_y=False) for p in params]
    step = b.emit("broadcast", b.emit("exp", rate), shape=(64, 64))
    updated = [b.emit("mul", b.emit("add", p, g), step) for p, g in zip(params, grads, strict=True)]
    norms = [b.emit("reduce", b.emit("mul", g, g), kind="sum", axes=(0, 1)) for g in grads]
    program = fuse(Program("train", b.block(*updated, *norms), tuple(range(count))))
    assert peak_memory(program) >= count * one
    assert peak_memory(schedule(program)) < 2 * one


def test_a_sum_waits_with_its_terms_where_these_are_made_from_little() -> None:
    """A gradient of two terms is wanted at the end, and large; what it is made from is small."""
    b = Builder()
    wide, narrow = (b.param(Type("float32", (4, 256))) for _ in range(2))
    long = b.param(Type("float32", (256, 256)))
    a, c = b.emit("exp", wide), b.emit("exp", narrow)
    first = b.emit("matmul", a, wide, transpose_x=True, transpose_y=False)
    second = b.emit("matmul", c, narrow, transpose_x=True, transpose_y=False)
    total = b.emit("add", first, second)
    busy = b.emit("matmul", b.emit("cumulate", long, kind="sum", axis=0, reverse=False), long,
                  transpose_x=False, transpose_y=False)  # fmt: skip
    done = b.emit("reduce", busy, kind="sum", axes=(0, 1))
    last = b.emit(
        "reduce",
        b.emit("cumulate", total, kind="sum", axis=1, reverse=False),
        kind="sum",
        axes=(0, 1),
    )
    program = join_products(Program("p", b.block(done, last)))
    large = 256 * 256 * 4
    assert peak_memory(program) >= 3 * large
    assert peak_memory(schedule(program)) < 2.1 * large


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
