"""Products with matrices of codes: one kernel each, whatever stands around them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lantern as ln
from backends.llvm import compile_program
from examples.llama3.quantise import Quantised, linear, quantise
from staging.interpret import interpret
from staging.ir import Op, Program, walk
from staging.memory import peak_memory
from staging.passes.contractions import contract
from staging.pipeline import optimise
from staging.text import parse_program
from staging.verify import verify
from tests.three_ways import agree, traced


def contractions(program: Program) -> list[Op]:
    return [op for op in walk(program.block) if op.attributes.get("kind") == "contraction"]


def matrix(rows: int, width: int, bits: int, group: int, offsets: bool, seed: int = 0) -> Quantised:
    return quantise(np.random.default_rng(seed).normal(size=(rows, width)), bits, group, offsets)


def normal(*shape: int) -> ln.Tensor:
    return ln.asarray(np.random.default_rng(1).normal(size=shape).astype(np.float32))


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from([8, 4]),
    st.booleans(),
    st.sampled_from([16, 32, 48, 64]),
    st.integers(1, 11),
    st.integers(1, 9),
    st.sampled_from([1, 1, 2, 3, 5, 8]),
)
def test_one_kernel_gives_what_the_interpreter_does(
    bits: int, offsets: bool, group: int, groups: int, rows: int, count: int
) -> None:
    w = matrix(rows, group * groups, bits, group, offsets)
    x = normal(count, group * groups)
    found, arrays = traced(linear, x, w)
    program = verify(optimise(found.program))
    if rows > 1 < groups:  # else there is but one sum
        assert len(contractions(program)) == 1
    (wanted,) = interpret(found.program, arrays)
    (given,) = compile_program(program)(arrays)
    assert np.allclose(given, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("threads", [1, 2])
def test_what_stands_behind_a_product_is_part_of_it(threads: int) -> None:
    gate, up = matrix(64, 96, 8, 32, False), matrix(64, 96, 4, 32, True)
    down = matrix(96, 64, 4, 32, False)

    def block(x: Any, gate: Any, up: Any, down: Any) -> Any:
        return x + linear(ln.silu(linear(x, gate)) * linear(x, up), down)

    for x in (normal(1, 96), normal(4, 96)):
        found, arrays = traced(block, x, gate, up, down)
        program = verify(optimise(found.program))
        assert len(contractions(program)) == 3
        assert {op.name for op in contractions(program)[-1].blocks[0].ops} >= {"add", "reduce"}
        # No matrix of floats is ever made.
        assert peak_memory(program) < 16 * x.size * 4 < 96 * 64 * 4 * x.shape[0]
        (wanted,) = interpret(found.program, arrays)
        (given,) = compile_program(program, threads)(arrays)
        assert np.allclose(given, wanted, atol=1e-5 * np.abs(wanted).max())


def test_shared_and_repeated_values_around_products() -> None:
    w = matrix(24, 64, 8, 32, False)

    def twice(x: Any, w: Any) -> Any:
        y = linear(x, w)
        return y, ln.sum(y), ln.exp(y) - y, linear(x, w)[:, 3]

    agree(twice, normal(2, 64), w, ulps=2000)


def test_sums_that_may_overflow_are_left_alone() -> None:
    source = """program @p(%codes: int8[4, 2, 8], %x: int32[4, 2, 8]) {
      %1 = cast(%codes) {dtype='int32'}: int32[4, 2, 8]
      %3 = mul(%1, %x): int32[4, 2, 8]
      %4 = reduce(%3) {kind='sum', axes=(2,)}: int32[4, 2]
      %5 = cast(%4) {dtype='float32'}: float32[4, 2]
      %6 = reduce(%5) {kind='sum', axes=(1,)}: float32[4]
      return (%6)
    }"""
    assert not contractions(contract(parse_program(source)))
    narrow = source.replace("%x: int32", "%x: int8").replace("%1, %x", "%1, %2")
    line = "%2 = cast(%x) {dtype='int32'}: int32[4, 2, 8]"
    assert contractions(contract(parse_program(narrow.replace("%3 =", f"{line}\n%3 ="))))


def test_the_products_of_narrow_integers_are_summed_in_pairs() -> None:
    import platform

    if platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("the instruction is one of x86")
    w, x = matrix(64, 256, 4, 32, False), normal(1, 256)
    assert "vpmaddwd" in ln.compile(linear).asm(x, w)
