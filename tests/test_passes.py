"""Passes: golden texts, and the same results from random programs with any pass left out."""

from __future__ import annotations

import numpy as np
import pytest

from staging.interpret import interpret
from staging.ir import Program
from staging.passes.common import share_common
from staging.passes.crossing import cross_calls
from staging.passes.dead import remove_dead
from staging.passes.hoist import hoist
from staging.passes.layout import fold_transposes
from staging.passes.simplify import simplify
from staging.passes.stacks import restack
from staging.text import parse_program, print_program
from staging.verify import verify


def after(source: str, *passes) -> str:
    """The operations left, without types and places."""
    program = parse_program(source)
    for run in passes:
        program = verify(run(program))
    lines = print_program(program).splitlines()[1:-1]
    return "; ".join(line.strip().partition(": ")[0] for line in lines)


def test_rows_are_added_to_a_total_in_place() -> None:
    """A step of a loop that reads a row touches one on the way back."""
    source = """program @p(%t: float32[9], %r: float32[], %i: int64[], %j: int64[]) {
        %zero = constant() {value=0.0, dtype='float32'}: float32[]
        %zeros = broadcast(%zero) {shape=(9,)}: float32[9]
        %a = scatter(%zeros, %r, %i) {kind='sum'}: float32[9]
        %b = scatter(%a, %r, %j) {kind='sum'}: float32[9]
        %y = add(%t, %b): float32[9]
        return (%y)
    }"""
    assert after(source, simplify, remove_dead) == (
        "%4 = scatter(%t, %r, %i) {kind='sum'}; %5 = scatter(%4, %r, %j) {kind='sum'}; return (%5)"
    )
    dense = source.replace("%zeros, %r", "%t, %r")
    assert "add(%t, %b)" in after(dense, simplify, remove_dead)


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


@pytest.mark.parametrize(("axes", "folds"), [((2, 0, 1), True), ((0, 2, 1), False)])
def test_transposes_of_several_axes_fold_into_products(axes: tuple[int, ...], folds: bool) -> None:
    source = f"""program @p(%x: float32[4, 5, 4], %y: float32[20, 2]) {{
        %t = transpose(%x) {{axes={axes}}}: float32[4, 4, 5]
        %r = reshape(%t) {{shape=(4, 20)}}: float32[4, 20]
        %z = matmul(%r, %y) {{transpose_x=false, transpose_y=false}}: float32[4, 2]
        return (%z)
    }}"""
    assert ("transpose_x=true" in after(source, fold_transposes, remove_dead)) == folds
    unchanged(parse_program(source), fold_transposes)


@pytest.mark.parametrize("same", [True, False])
def test_transposes_meet_across_calls(same: bool) -> None:
    """One that leaves a block and one that all callers of another give it cancel inside of that."""
    second = "%s" if same else "%t"
    program = parse_program(f"""block @there(%a: float32[2, 2, 4]) {{
      %b = cumulate(%a) {{kind='sum', axis=2, reverse=false}}: float32[2, 2, 4]
      %c = transpose(%b) {{axes=(1, 0, 2)}}: float32[2, 2, 4]
      %d = exp(%a): float32[2, 2, 4]
      %e = transpose(%d) {{axes=(1, 0, 2)}}: float32[2, 2, 4]
      return (%c, %e)
    }}
    block @back(%u: float32[2, 2, 4], %v: float32[2, 2, 4]) {{
      %w = transpose(%u) {{axes=(1, 0, 2)}}: float32[2, 2, 4]
      %m = mul(%w, %v): float32[2, 2, 4]
      return (%m)
    }}
    program @p(%x: float32[2, 2, 4]) {{
      %s, %q = call(%x) block @there: float32[2, 2, 4], float32[2, 2, 4]
      %t, %r = call(%q) block @there: float32[2, 2, 4], float32[2, 2, 4]
      %y = call({second}, %r) block @back: float32[2, 2, 4]
      %n = transpose(%x) {{axes=(1, 0, 2)}}: float32[2, 2, 4]
      %z = call({"%n" if same else "%x"}, %y) block @back: float32[2, 2, 4]
      return (%z, %t)
    }}
    """)
    found = unchanged(program, cross_calls, simplify, remove_dead)
    there, back = (next(op.blocks[0] for op in found.block.ops if op.name == "call"
                        and len(op.results) == count) for count in (2, 1))  # fmt: skip
    # The loop over elements that makes %d writes it transposed at once.
    assert [op.name for op in there.ops] == ["cumulate", "exp", "transpose"]
    assert [op.name for op in back.ops] == (["mul"] if same else ["transpose", "mul"])


def unchanged(program: Program, *passes) -> Program:
    """The program after some passes, which computes the same to rounding."""
    found = program
    for run in passes:
        found = verify(run(found))
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=p.type.shape).astype(np.float32) for p in program.block.params]
    for a, b in zip(interpret(found, inputs), interpret(program, inputs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    return found


def test_the_order_of_operands_makes_no_difference_where_it_computes_none() -> None:
    source = """program @p(%x: float32[], %y: float32[]) {{
        %a = {name}(%x, %y): float32[]
        %b = {name}(%y, %x): float32[]
        return (%a, %b)
    }}"""
    assert "return (%a, %a)" in after(source.format(name="min"), share_common)
    assert "return (%a, %b)" in after(source.format(name="sub"), share_common)


SUMS = """program @p(%s: float32[2, 3], %h: float32[{n}, 2], %w: float32[2, 2],
    %x: float32[5, {n}, 3]) {{
    {start}
    %a, %b, %c, %d, %e = scan(%start, %h, %w, %x)
      {{length=5, carried=2, captured=1, reverse=true}}
      block(%t: float32[2, 3], %g: float32[{n}, 2], %k: float32[2, 2], %y: float32[{n}, 3]) {{
        %i = matmul(%g, %k) {{transpose_x=false, transpose_y=false}}: float32[{n}, 2]
        %m = matmul(%{left}, %y) {{transpose_x=true, transpose_y=false}}: float32[2, 3]
        %u = {total}: float32[2, 3]
        return (%u, %i, %i, %y, %{third})
    }}: float32[2, 3], float32[{n}, 2], float32[5, {n}, 2], float32[5, {n}, 3], float32[5, {rows}]
    return (%a, %b, %c, %d, %e)
}}"""
ZEROS = """%zero = constant() {value=0.0, dtype='float32'}: float32[]
    %start = broadcast(%zero) {shape=(2, 3)}: float32[2, 3]"""
START = "%start = negate(%s): float32[2, 3]"


@pytest.mark.parametrize(
    ("change", "inside", "outside"),
    [
        ({}, 1, ["negate", "scan", "reshape", "reshape", "matmul", "add"]),
        ({"start": ZEROS}, 1, ["constant", "broadcast", "scan", "reshape", "reshape", "matmul"]),
        ({"total": "add(%m, %t)"}, 1, ["negate", "scan", "reshape", "reshape", "matmul", "add"]),
        # the carry is stacked for the product, as it is before each step
        ({"left": "g"}, 1, ["negate", "scan", "reshape", "reshape", "matmul", "add"]),
        ({"total": "sub(%t, %m)"}, 2, ["negate", "scan"]),  # no sum
        ({"third": "u", "rows": "2, 3"}, 2, ["negate", "scan"]),  # each sum is wanted
        ({"left": "k", "n": "2", "rows": "2, 2"}, 2, ["negate", "scan"]),  # a capture has no stack
    ],
)
def test_sums_of_products_are_one_product_after_the_loop(
    change: dict[str, str], inside: int, outside: list[str]
) -> None:
    words = {"n": "4", "start": START, "left": "i", "total": "add(%t, %m)"}
    words |= {"third": "i", "rows": "4, 2"}
    program = unchanged(parse_program(SUMS.format(**words | change)), restack)
    assert [op.name for op in program.block.ops] == outside
    (scan,) = (op for op in program.block.ops if op.name == "scan")
    assert sum(op.name == "matmul" for op in scan.blocks[0].ops) == inside
    stacked = scan.blocks[0].results[scan.attributes["carried"] :]
    assert len(set(stacked)) == len(stacked)  # each value once


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


SCAN = """program @p(%a: float32[2], %b: float32[2], %w: float32[2], %x: float32[3, 2]) {{
    %u, %v, %s, %t = scan(%a, %b, %w, %w, %x, %x)
      {{length=3, carried=2, captured=2, reverse=false}}
      block(%c: float32[2], %d: float32[2], %k: float32[2], %l: float32[2], %m: float32[2],
            %n: float32[2]) {{
        %e = add(%c, %m): float32[2]
        %f = mul(%d, %k): float32[2]
        %g = mul(%e, %n): float32[2]
        {body}
        return (%e, %f, %g, %f)
    }}: float32[2], float32[2], float32[3, 2], float32[3, 2]
    return ({results})
}}"""


@pytest.mark.parametrize(
    ("results", "body", "left"),
    [
        ("%u", "", "scan(%a, %x) {length=3, carried=1, captured=0, reverse=false}"),
        ("%v", "", "scan(%b, %w) {length=3, carried=1, captured=1, reverse=false}"),
        ("%s", "", "scan(%a, %x, %x) {length=3, carried=1, captured=0, reverse=false}"),
        ("%t", "", "scan(%b, %w) {length=3, carried=1, captured=1, reverse=false}"),
        ("%x", "", None),
        (
            "%u",
            "print(%d) {format='{}'}",  # an effect, and what it shows, stay
            "scan(%a, %b, %w, %x) {length=3, carried=2, captured=1, reverse=false}",
        ),
    ],
)
def test_what_nothing_reads_of_a_loop_disappears(results: str, body: str, left: str | None) -> None:
    source = SCAN.format(results=results, body=body)
    found = after(source, remove_dead)
    assert (left or "scan") in found if left else "scan" not in found
    program = parse_program(SCAN.format(results=results, body=""))
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=p.type.shape).astype(np.float32) for p in program.block.params]
    for a, b in zip(interpret(remove_dead(program), inputs), interpret(program, inputs),
                    strict=True):  # fmt: skip
        np.testing.assert_array_equal(a, b)


HOISTED = """program @p(%a: float32[2], %b: float32[2], %w: float32[2, 2], %x: float32[3, 2]) {{
    %u, %v, %s = scan(%a, %b, %w, %x) {{length=3, carried=2, captured=1, reverse=false}}
      block(%c: float32[2], %d: float32[2], %k: float32[2, 2], %m: float32[2]) {{
        {body}
        return (%e, %d, %f)
    }}: float32[2], float32[2], float32[3, 2]
    return (%u, %v, %s)
}}"""


@pytest.mark.parametrize(
    ("body", "outside", "inside"),
    [
        # a carry that never changes is a capture, and what is made from it with effort moves out
        (
            "%e = add(%c, %d): float32[2] %g = exp(%d): float32[2] %f = mul(%g, %m): float32[2]",
            ["exp", "scan"],
            ["add", "mul"],
        ),
        # a chain of it moves as a whole, with the views that it reads
        (
            "%t = transpose(%k) {axes=(1, 0)}: float32[2, 2] "
            "%r = reduce(%t) {kind='sum', axes=(0,)}: float32[2] %g = add(%r, %d): float32[2] "
            "%e = mul(%c, %g): float32[2] %f = add(%r, %m): float32[2]",
            ["transpose", "reduce", "add", "scan"],
            ["mul", "add"],
        ),
        # what is cheap stays, and so does what depends on the step
        (
            "%g = add(%d, %d): float32[2] %e = mul(%c, %g): float32[2] %f = exp(%m): float32[2]",
            ["scan"],
            ["add", "mul", "exp"],
        ),
    ],
)
def test_what_no_step_changes_is_done_before_the_loop(
    body: str, outside: list[str], inside: list[str]
) -> None:
    program = parse_program(HOISTED.format(body=body))
    shorter = remove_dead(verify(hoist(program)))
    assert [op.name for op in shorter.block.ops] == outside
    assert [op.name for op in shorter.block.ops[-1].blocks[0].ops] == inside
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=p.type.shape).astype(np.float32) for p in program.block.params]
    for a, b in zip(interpret(shorter, inputs), interpret(program, inputs), strict=True):
        np.testing.assert_array_equal(a, b)
