"""Passes: golden texts, and the same results from random programs with any pass left out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import lantern as ln
from lantern.staged.compiled import compile
from staging.interpret import interpret
from staging.ir import Program
from staging.passes.common import share_common
from staging.passes.dead import remove_dead
from staging.passes.layout import fold_transposes
from staging.passes.simplify import simplify
from staging.pipeline import DEFAULT, optimise
from staging.text import parse_program, print_program
from staging.verify import verify


def after(source: str, *passes) -> str:
    """The operations left, without types and places."""
    program = parse_program(source)
    for run in passes:
        program = verify(run(program))
    lines = print_program(program).splitlines()[1:-1]
    return "; ".join(line.strip().partition(": ")[0] for line in lines)


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("%y = add(%x, %zeros): float32[2]", "return (%x)"),
        ("%y = mul(%ones, %x): float32[2]", "return (%x)"),
        (
            "%n = negate(%x): float32[2] %y = add(%x, %n): float32[2]",
            "%1 = sub(%x, %x); return (%1)",
        ),
        ("%n = negate(%x): float32[2] %y = negate(%n): float32[2]", "return (%x)"),
        ("%y = div(%x, %zeros): float32[2]", None),
        (
            "%y = add(%ones, %ones): float32[2]",
            "%1 = constant() {value=2.0, dtype='float32'}; %2 = broadcast(%1) {shape=(2,)}; "
            "return (%2)",
        ),
        ("%y = reshape(%x) {shape=(2,)}: float32[2]", "return (%x)"),
        ("%y = transpose(%x) {axes=(0,)}: float32[2]", "return (%x)"),
        ("%c = lt(%x, %ones): bool[2] %y = select(%c, %x, %x): float32[2]", "return (%x)"),
    ],
)
def test_algebra(body: str, left: str | None) -> None:
    source = f"""program @p(%x: float32[2]) {{
        %zero = constant() {{value=0.0, dtype='float32'}}: float32[]
        %one = constant() {{value=1.0, dtype='float32'}}: float32[]
        %zeros = broadcast(%zero) {{shape=(2,)}}: float32[2]
        %ones = broadcast(%one) {{shape=(2,)}}: float32[2]
        {body}
        return (%y)
    }}"""
    found = after(source, simplify, remove_dead)
    if left is None:
        assert "%y = div(%x, %zeros)" in found
    else:
        assert found == left


def test_transposes_fold_into_products() -> None:
    source = """program @p(%x: float32[2, 3], %y: float32[4, 3]) {
        %t = transpose(%y) {axes=(1, 0)}: float32[3, 4]
        %z = matmul(%x, %t) {transpose_x=false, transpose_y=false}: float32[2, 4]
        return (%z)
    }"""
    assert "transpose_y=true" in after(source, fold_transposes, remove_dead)
    assert "transpose(" not in after(source, fold_transposes, remove_dead)


def test_equal_lines_in_a_loop_are_shared() -> None:
    source = """program @p(%x: float32[]) {
        %y = scan(%x) {length=3, carried=1, captured=0, reverse=false} block(%c: float32[]) {
            %a = exp(%c): float32[]
            %b = exp(%c): float32[]
            %d = mul(%a, %b): float32[]
            return (%d)
        }: float32[]
        return (%y)
    }"""
    assert after(source, share_common).count("exp") == 1


def network(w: ln.Tensor, v: ln.Tensor, x: ln.Tensor) -> ln.Tensor:
    hidden = ln.tanh(x @ w) * 1.0 + 0.0
    scores = ln.softmax(hidden @ ln.matrix_transpose(v), axis=-1)
    return ln.mean((scores - ln.mean(scores, axis=0)) ** 2)


@pytest.fixture(scope="module")
def trained() -> tuple[Program, list[np.ndarray], list[np.ndarray]]:
    """The program of a network's gradient, before any pass; inputs; results."""
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=s) for s in ((3, 4), (5, 4), (6, 3))]
    program = parse_program(compile(ln.grad(network, (0, 1))).ir(*inputs))
    return program, inputs, interpret(program, inputs)


@pytest.mark.parametrize(
    "left_out", [*map(set, itertools.combinations(range(len(DEFAULT)), 2)), set(range(99))]
)
def test_passes_may_be_left_out(trained, left_out: set[int]) -> None:
    program, inputs, expected = trained
    passes = tuple(p for i, p in enumerate(DEFAULT) if i not in left_out)
    better = optimise(program, passes, after=lambda name, p: verify(p))
    for a, b in zip(interpret(better, inputs), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)


def test_the_pipeline_shortens_programs(trained) -> None:
    program = trained[0]
    assert len(optimise(program).block.ops) < 0.8 * len(program.block.ops)
