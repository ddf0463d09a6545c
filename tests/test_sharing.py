"""Blocks that several operations hold stay one through text, passes and compilation."""

from __future__ import annotations

import numpy as np
import pytest

from backends.llvm import compile_program
from staging.interpret import interpret
from staging.ir import Builder, Program, Type, shared_blocks
from staging.memory import peak_memory, plan_program
from staging.passes.dead import remove_dead
from staging.pipeline import DEFAULT, optimise
from staging.text import parse_program, print_program
from staging.verify import verify

LAYERS = """block @shared0(%x: float32[4, 8], %w: float32[8, 8]) {
  %0 = matmul(%x, %w) {transpose_x=false, transpose_y=false}: float32[4, 8]
  %1 = tanh(%0): float32[4, 8]
  %2 = add(%x, %1): float32[4, 8]
  %3 = mul(%2, %2): float32[4, 8]
  return (%2, %3, %1)
}
program @model(%x: float32[4, 8], %v: float32[8, 8], %w: float32[8, 8]) {
  %4, %5, %6 = call(%x, %v) block @shared0: float32[4, 8], float32[4, 8], float32[4, 8]
  %7, %8, %9 = call(%4, %w) block @shared0: float32[4, 8], float32[4, 8], float32[4, 8] @ "m.py:3"
  return (%7, %9)
}
"""


def drawn(program: Program) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=p.type.shape).astype(np.float32) for p in program.block.params]


def test_a_shared_block_is_printed_once_and_read_back() -> None:
    program = verify(parse_program(LAYERS))
    first, second = program.block.ops
    assert first.blocks[0] is second.blocks[0]
    again = print_program(program)
    assert again.count("matmul") == 1
    assert print_program(parse_program(again)) == again


@pytest.mark.parametrize("one", DEFAULT)
def test_passes_keep_what_is_shared(one) -> None:
    program = verify(one.run(parse_program(LAYERS)))
    (block,) = shared_blocks(program.block)
    assert [op.blocks[0] for op in program.block.ops] == [block, block]
    for a, b in zip(interpret(program, drawn(program)),
                    interpret(parse_program(LAYERS), drawn(program)), strict=True):  # fmt: skip
        np.testing.assert_allclose(a, b, 1e-6)


def test_results_that_no_caller_reads_disappear() -> None:
    program = verify(remove_dead(parse_program(LAYERS)))
    (block,) = shared_blocks(program.block)
    assert [op.name for op in block.ops] == ["matmul", "tanh", "add"]
    assert len(block.results) == 2


def deep(layers: int) -> Program:
    """A chain of calls of one block, in which there is another shared one."""
    half = Builder()
    x = half.param(Type("float32", (16,)))
    root = half.block(half.emit("tanh", half.emit("sin", x)))
    body = Builder()
    x = body.param(Type("float32", (16,)))
    y = body.emit("call", x, blocks=(root,))
    block = body.block(body.emit("call", body.emit("add", x, y), blocks=(root,)))
    b = Builder()
    value = b.param(Type("float32", (16,)))
    for _ in range(layers):
        value = b.emit("call", value, blocks=(block,))
    return Program("deep", b.block(value))


def test_native_code_does_not_grow_with_the_number_of_calls() -> None:
    counts: list[int] = []
    for layers in (2, 24):
        program = verify(optimise(deep(layers)))
        run = compile_program(program)
        (found,) = run(drawn(program))
        np.testing.assert_allclose(found, interpret(program, drawn(program))[0], 1e-5, 1e-6)
        counts.append(run.source.count("\ndefine "))
        assert run.module.arena == peak_memory(program)
        calls = [line for line in run.source.splitlines() if "call i32" in line]
        assert len(calls) == layers + 2
    assert counts[0] == counts[1]


def test_an_error_in_a_shared_block_is_told() -> None:
    source = """block @row(%x: float32[4], %i: int64[]) {
      %y = gather(%x, %i): float32[] @ "row.py:7"
      return (%y)
    }
    program @rows(%x: float32[4], %i: int64[], %j: int64[]) {
      %y = call(%x, %i) block @row: float32[]
      %z = call(%x, %j) block @row: float32[]
      return (%y, %z)
    }"""
    run = compile_program(optimise(parse_program(source)))
    x = np.arange(4, dtype=np.float32)
    assert [y.item() for y in run([x, np.asarray(3), np.asarray(1)])] == [3.0, 1.0]
    with pytest.raises(IndexError, match=r"index 9 is out of range(.|\n)*row.py:7"):
        run([x, np.asarray(3), np.asarray(9)])


def test_shared_blocks_write_over_what_all_calls_give() -> None:
    source = """block @step(%cache: float32[64], %x: float32[], %i: int64[]) {
      %y = scatter(%cache, %x, %i) {kind='set'}: float32[64]
      %z = reduce(%y) {kind='sum', axes=(0,)}: float32[]
      return (%y, %z)
    }
    program @steps(%a: float32[64] donated, %b: float32[64] donated, %c: float32[64],
                   %x: float32[], %i: int64[]) {
      %a2, %1 = call(%a, %x, %i) block @step: float32[64], float32[]
      %b2, %2 = call(%b, %1, %i) block @step: float32[64], float32[]
      %c2, %3 = call(%c, %2, %i) block @step: float32[64], float32[]
      return (%a2, %b2, %c2, %3)
    }"""
    program = verify(parse_program(source))
    plan = plan_program(program)
    assert plan.kept == (0, 1, None, None)
    first, second, third = (plan.nested[op] for op in program.block.ops)
    assert first is second is not third  # what a caller keeps is copied
    assert (first.kept, third.kept) == ((0, None), (None, None))
    arrays = [*drawn(program)[:4], np.asarray(5)]
    wanted = interpret(program, arrays)
    for found, right in zip(
        compile_program(program)([x.copy() for x in arrays]), wanted, strict=True
    ):
        np.testing.assert_allclose(found, right, 1e-5)
