"""Where values lie: what is written over what, donated parameters, the arena."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_fusion import drawn_inputs, programs

from backends.llvm import compile_program
from backends.llvm.control import parts_of_map
from staging.fusion import fuse
from staging.interpret import interpret
from staging.ir import IRError, Program
from staging.memory import ALIGNMENT, Arena, peak_memory, plan_program
from staging.text import parse_program, print_program
from staging.verify import verify

STEP = """program @step(%p: float32[8] donated, %m: float32[8] donated, %g: float32[8]) {
  %n = mul(%m, %g): float32[8]
  %q = sub(%p, %n): float32[8]
  return (%q, %n)
}
"""


def run(program: Program, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Compile and call, with what is donated copied before, and compare with the interpreter."""
    given = [a.copy() for a in arrays]
    executable = compile_program(program)
    found = executable(given)
    for k, kept in enumerate(executable.kept):
        assert all(np.shares_memory(found[k], a) == (i == kept) for i, a in enumerate(given))
    for a, b in zip(found, interpret(program, arrays), strict=True):
        np.testing.assert_allclose(a, b, 1e-6, 1e-6)
    for i, (before, after) in enumerate(zip(arrays, given, strict=True)):
        if i not in program.donated:
            np.testing.assert_array_equal(before, after)
    return found


def test_donation_is_printed_and_read_back() -> None:
    program = verify(parse_program(STEP))
    assert program.donated == (0, 1)
    assert print_program(program) == STEP


@pytest.mark.parametrize("change", [lambda p: p, fuse])
def test_an_update_is_written_over_what_it_updates(change) -> None:
    program = change(parse_program(STEP))
    assert sorted(plan_program(program).kept) == [0, 1]
    assert peak_memory(program) == 0
    run(program, [np.arange(8, dtype=np.float32) + i for i in range(3)])


@pytest.mark.parametrize(
    ("body", "results", "kept"),
    [
        ("%y = transpose(%x) {axes=(1, 0)}: float32[3, 3]", "%y", (None,)),  # reads across
        ("%y = exp(%x): float32[3, 3] %z = mul(%x, %y): float32[3, 3]", "%y, %z", (None, 0)),
        ("%y = exp(%x): float32[3, 3]", "%x, %y", (0, None)),  # is a result itself
        ("%y = exp(%x): float32[3, 3]", "%y, %y", (0, None)),
        ("%t = transpose(%x) {axes=(1, 0)}: float32[3, 3] %y = exp(%t): float32[3, 3]", "%y", (0,)),
        ("%y = reshape(%x) {shape=(9,)}: float32[9] %z = exp(%y): float32[9]", "%z", (None,)),
        ("%y = cast(%x) {dtype='float64'}: float64[3, 3]", "%y", (None,)),
        ("", "%g, %x", (None, 0)),
        ("%y = add(%x, %g): float32[3, 3] %z = add(%y, %g): float32[3, 3]", "%z", (0,)),
        ("%y = scatter(%x, %g, %i) {kind='sum'}: float32[3, 3]", "%y", (0,)),
        ("%y = scatter(%x, %x, %i) {kind='sum'}: float32[3, 3]", "%y", (None,)),
    ],
)
def test_a_result_takes_a_donated_parameter_only_when_nothing_reads_it_later(
    body: str, results: str, kept: tuple[int | None, ...]
) -> None:
    program = verify(parse_program(
        "program @p(%x: float32[3, 3] donated, %g: float32[3, 3], %i: int64[3])"
        f"{{ {body} return ({results}) }}"))  # fmt: skip
    assert plan_program(program).kept == kept
    rng = np.random.default_rng(0)
    x, g = rng.normal(size=(2, 3, 3)).astype(np.float32)
    run(program, [x, g, np.asarray([2, 0, 2])])


def test_donated_parameters_change_places() -> None:
    program = parse_program("""program @swap(%x: int32[2] donated, %y: int32[2] donated) {
      return (%y, %x)
    }""")
    x, y = run(program, [np.asarray([1, 2], np.int32), np.asarray([3, 4], np.int32)])
    assert x.tolist() == [3, 4] and y.tolist() == [1, 2]


def test_a_donated_array_must_be_writeable_and_contiguous() -> None:
    executable = compile_program(parse_program(STEP))
    p = np.zeros(16, np.float32)
    fixed = np.zeros(8, np.float32)
    fixed.flags.writeable = False
    for bad in (p[::2], fixed):
        with pytest.raises(IRError, match="donated"):
            executable([bad, np.zeros(8, np.float32), np.zeros(8, np.float32)])


OVER_ROWS = ("%b = reshape(%m) {shape=(3, 1)}: float32[3, 1] "
             "%c = broadcast(%b) {shape=(3, 3)}: float32[3, 3] ")  # fmt: skip
NESTS = [
    # the maximum of a row is read before the row is written, the row itself in the same pass
    ("%m = reduce(%x) {kind='max', axes=(1,)}: float32[3] "
     f"{OVER_ROWS} %y = sub(%x, %c): float32[3, 3]", "%y", (0,)),
    # two results: the first of them must not be written over what the second still reads
    ("%y = exp(%x): float32[3, 3] %m = reduce(%y) {kind='max', axes=(1,)}: float32[3] "
     f"{OVER_ROWS} %z = sub(%x, %c): float32[3, 3]", "%y, %z", (None, 0)),
    ("%y = exp(%x): float32[3, 3] %s = reduce(%x) {kind='sum', axes=(0,)}: float32[3]",
     "%y, %s", (0, None)),
    ("%t = transpose(%x) {axes=(1, 0)}: float32[3, 3] %y = add(%x, %t): float32[3, 3] "
     "%z = exp(%y): float32[3, 3]", "%z", (None,)),
]  # fmt: skip


@pytest.mark.parametrize(("body", "results", "kept"), NESTS)
def test_fused_nests_write_over_what_they_read_no_more(
    body: str, results: str, kept: tuple[int | None, ...]
) -> None:
    source = f"program @p(%x: float32[3, 3] donated) {{ {body} return ({results}) }}"
    program = verify(fuse(parse_program(source)))
    assert [op.name for op in program.block.ops] == ["call"]
    assert plan_program(program).kept == kept
    run(program, [np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)])


@given(programs(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_programs_mean_the_same_whatever_is_donated(program: Program, fused: bool) -> None:
    program = Program(program.name, program.block, tuple(range(len(program.block.params))))
    inputs = drawn_inputs(program)
    expected = interpret(program, inputs)
    found = compile_program(fuse(program) if fused else program)([a.copy() for a in inputs])
    for a, b in zip(found, expected, strict=True):
        scale = max(1.0, float(np.abs(b).max(initial=0)))
        np.testing.assert_allclose(a, b, 1e-9, 1e-9 * scale)


def loop(body: str, results: str, length: int, inputs: str = "%a, %b") -> Program:
    """A scan that carries two values."""
    return verify(parse_program(f"""program @loop(%a: float32[9], %b: float32[9], %x: float32[{length}, 9]) {{
      %u, %v = scan({inputs}, %x) {{length={length}, carried=2, captured=0, reverse=false}}
        block(%c: float32[9], %d: float32[9], %s: float32[9]) {{ {body} return ({results}) }}:
        float32[9], float32[9]
      return (%u, %v)
    }}"""))  # fmt: skip # noqa: E501


@pytest.mark.parametrize("length", [0, 1, 4, 5])
@pytest.mark.parametrize(
    ("body", "results", "kept"),
    [
        ("%e = add(%c, %s): float32[9] %f = mul(%d, %e): float32[9]", "%e, %f", (0, 1)),
        ("%e = add(%d, %s): float32[9] %f = mul(%c, %e): float32[9]", "%e, %f", (None, 1)),
        ("", "%d, %c", (None, None)),
        ("%e = exp(%s): float32[9]", "%c, %e", (0, 1)),
        ("%e = add(%c, %s): float32[9]", "%e, %e", (0, None)),
        ("%e = add(%c, %s): float32[9]", "%e, %c", (None, None)),
    ],
)
@pytest.mark.parametrize("inputs", ["%a, %b", "%a, %a"])
def test_carries_are_written_in_place_where_they_can(
    length: int, body: str, results: str, kept: tuple[int | None, ...], inputs: str
) -> None:
    program = loop(body, results, length, inputs)
    (nested,) = plan_program(program).nested.values()
    assert nested.kept == kept
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=p.type.shape).astype(np.float32) for p in program.block.params]
    run(program, arrays)
    run(Program("given", program.block, (0, 1)), arrays)


def test_an_accumulator_is_never_copied() -> None:
    program = parse_program("""program @sum(%x: float32[5, 1000]) {
      %0 = constant() {value=0.0, dtype='float32'}: float32[]
      %1 = broadcast(%0) {shape=(1000,)}: float32[1000]
      %2 = scan(%1, %x) {length=5, carried=1, captured=0, reverse=false}
        block(%c: float32[1000], %s: float32[1000]) {
        %e = add(%c, %s): float32[1000]
        return (%e)
      }: float32[1000]
      return (%2)
    }""")
    executable = compile_program(program)
    assert "call void @llvm.memcpy" not in executable.source
    assert executable.module.arena == ALIGNMENT
    run(program, [np.ones((5, 1000), np.float32)])


def test_the_report_says_what_the_backend_takes() -> None:
    for program in (parse_program(STEP), loop("", "%d, %c", 3)):
        assert compile_program(program).module.arena == peak_memory(program)


def test_each_part_of_a_map_works_in_a_range_of_its_own() -> None:
    program = verify(fuse(parse_program("""program @rows(%x: float32[64, 4000], %w: float32[4000, 9]) {
      %0 = scan(%w, %x) {length=64, carried=0, captured=1, reverse=false}
        block(%v: float32[4000, 9], %s: float32[4000]) {
        %1 = sin(%s): float32[4000]
        %2 = reshape(%1) {shape=(1, 4000)}: float32[1, 4000]
        %3 = matmul(%2, %v) {transpose_x=false, transpose_y=false}: float32[1, 9]
        return (%3)
      }: float32[64, 1, 9]
      return (%0)
    }""")))  # fmt: skip # noqa: E501
    (op,) = program.block.ops
    for threads in (1, 2):
        count = parts_of_map(op, threads)
        assert count >= threads
        executable = compile_program(program, threads)
        assert executable.module.arena == peak_memory(program, lambda op, n=count: n)
    assert peak_memory(program, lambda op: 2) == 2 * peak_memory(program)


def test_a_call_within_a_step_leaves_its_result_where_the_carry_is_looked_for() -> None:
    """It writes over its operand, which is not where the carry lies."""
    program = verify(parse_program("""program @p(%x: float64[3], %n: int64[2]) {
      %0 = scan(%x, %n) {carried=1, captured=0, length=2, reverse=false}
      block(%c: float64[3], %k: int64[]) {
        %1 = constant() {value=0.5, dtype='float64'}: float64[]
        %2 = broadcast(%1) {shape=(3,)}: float64[3]
        %3 = mul(%c, %2): float64[3]
        %4 = call(%k, %3) block(%l: int64[], %y: float64[3]) {
          %5 = scan(%l, %y) {carried=1, captured=0, length=-1, reverse=false}
          block(%z: float64[3]) {
            %6 = add(%z, %z): float64[3]
            return (%6)
          }: float64[3]
          return (%5)
        }: float64[3]
        return (%4)
      }: float64[3]
      return (%0)
    }"""))  # fmt: skip
    (found,) = run(program, [np.ones(3), np.asarray([2, 1])])
    np.testing.assert_array_equal(found, [2.0, 2.0, 2.0])


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 6)), max_size=12))
def test_ranges_in_use_together_do_not_overlap(takes: list[tuple[int, int]]) -> None:
    arena = Arena()
    live = []
    pairs = []
    for size, age in takes:
        taken = arena.take(size)
        pairs += [(taken, other) for other in live]
        live.append(taken)
        if age < len(live):
            arena.give(live.pop(age))
    arena.pack()
    for a, b in pairs:
        assert a.start + a.bytes <= b.start or b.start + b.bytes <= a.start
    assert all(a.start % ALIGNMENT == 0 and a.start + a.bytes <= arena.size for a in arena.ranges)
