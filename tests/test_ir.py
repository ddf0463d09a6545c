"""The representation: text that reads back, types that are checked, and what operations mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from staging.interpret import interpret, numpy_dtype
from staging.ir import Block, Builder, IRError, Op, Program, Type, Value
from staging.ops import OPS
from staging.text import parse_program, print_program
from staging.verify import verify

SOFTMAX = """program @softmax(%x: float32[2, 3]) {
  %m = reduce(%x) {kind='max', axes=(1,)}: float32[2]
  %2 = reshape(%m) {shape=(2, 1)}: float32[2, 1]
  %3 = broadcast(%2) {shape=(2, 3)}: float32[2, 3]
  %4 = sub(%x, %3): float32[2, 3] @ 'model.py:7'
  %5 = exp(%4): float32[2, 3]
  %6 = reduce(%5) {kind='sum', axes=(1,)}: float32[2]
  %7 = reshape(%6) {shape=(2, 1)}: float32[2, 1]
  %8 = broadcast(%7) {shape=(2, 3)}: float32[2, 3]
  %9 = div(%5, %8): float32[2, 3]
  return (%9)
}
"""

POWERS = """program @powers(%x: float64[], %k: float64[4]) {
  %2, %3 = scan(%x, %x, %k) {length=4, carried=1, captured=1, reverse=true} block(%c: float64[], %w: float64[], %s: float64[]) {
    %7 = mul(%c, %w): float64[]
    %8 = add(%7, %s): float64[]
    return (%8, %7)
  }: float64[], float64[4]
  return (%2, %3)
}
"""  # noqa: E501


@pytest.mark.parametrize("source", [SOFTMAX, POWERS])
def test_printed_programs_read_back(source: str) -> None:
    program = verify(parse_program(source))
    again = print_program(parse_program(print_program(program)))
    assert again == print_program(program)


def test_softmax_means_softmax() -> None:
    x = np.asarray([[1, 2, 3], [1, 1, 1]], np.float32)
    (y,) = interpret(parse_program(SOFTMAX), [x])
    e = np.exp(x - x.max(1, keepdims=True))
    np.testing.assert_allclose(y, e / e.sum(1, keepdims=True), rtol=1e-6)


def test_scan_runs_backwards_when_reversed() -> None:
    last, stacked = interpret(
        parse_program(POWERS), [np.asarray(2.0), np.asarray([1.0, 2.0, 3.0, 4.0])]
    )
    c, expected = 2.0, [0.0] * 4
    for i in (3, 2, 1, 0):
        expected[i] = c * 2.0
        c = expected[i] + (i + 1.0)
    assert last == c
    np.testing.assert_array_equal(stacked, expected)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("%y = add(%x, %z): float32[2]", "line 2: %z is not defined"),
        ("%y = add(%x, %x): float32[3]", "line 2: add gives float32[2]"),
        ("%x = add(%x, %x): float32[2]", "line 2: %x is defined twice"),
        ("%y = fly(%x): float32[2]", "there is no operation 'fly'"),
        ("%y = reduce(%x) {kind='max'}: float32[]", "attribute 'axes' is missing"),
        ("%y = slice(%x) {starts=(1,), counts=(2,), steps=(1,)}: float32[2]", "outside its input"),
        ("%y = ;", "line 2: cannot read ';'"),
    ],
)
def test_text_that_is_no_program_says_where(line: str, message: str) -> None:
    with pytest.raises(IRError) as caught:
        parse_program(f"program @p(%x: float32[2]) {{\n  {line}\n  return (%x)\n}}")
    assert message in str(caught.value)


def test_verifier_refuses_what_a_faulty_pass_could_write() -> None:
    x = Value(Type("float32", (2,)), "x")
    y = Value(Type("float32", (2,)), "y")
    wrong_type = Value(Type("float32", (3,)))
    add = Op("add", (x, x), (y,))
    for block in (
        Block((x,), (), (y,)),
        Block((x,), (add, add), (y,)),
        Block((x,), (Op("exp", (y,), (Value(y.type),)), add), (y,)),
        Block((x,), (Op("add", (x, x), (wrong_type,)),), (wrong_type,)),
    ):
        with pytest.raises(IRError):
            verify(Program("faulty", block))


def test_out_of_range_gather_names_the_index_and_the_line() -> None:
    b = Builder(place="model.py:3")
    x, i = b.param(Type("float32", (4,))), b.param(Type("int64", (2,)))
    program = Program("pick", b.block(b.emit("gather", x, i)))
    with pytest.raises(IndexError, match=r"index 4 is out of range for axis 0 of 4\n  at model.py"):
        interpret(program, [np.zeros(4, np.float32), np.asarray([0, 4])])


def test_inputs_of_another_type_are_refused() -> None:
    with pytest.raises(IRError, match=r"float64\[2, 3\]"):
        interpret(parse_program(SOFTMAX), [np.zeros((2, 3))])


def test_low_precision_sums_are_kept_in_float32() -> None:
    b = Builder()
    x = b.param(Type("bfloat16", (1000,)))
    program = Program("total", b.block(b.emit("reduce", x, kind="sum", axes=(0,))))
    (y,) = interpret(program, [np.ones(1000, numpy_dtype("bfloat16"))])
    assert float(y) == 1000


def test_the_set_of_operations_is_small_and_documented() -> None:
    assert len(OPS) <= 67
    assert all(spec.doc.endswith(".") for spec in OPS.values())


def test_the_documentation_lists_every_operation() -> None:
    text = (Path(__file__).parents[1] / "docs" / "ir.md").read_text(encoding="utf-8")
    for name, spec in OPS.items():
        assert f"| `{name}` | {spec.doc} | {'yes' if spec.elementwise else ''} |" in text
