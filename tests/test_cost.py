"""What a program costs is counted from its types, and predicted by a roofline."""

from __future__ import annotations

import builtins
from typing import Any

import pytest

from backends.llvm import compile_program
from backends.llvm.gemm.loops import Loops
from backends.llvm.probe import measure
from staging.cost import WORK, Cost, Machine, estimate
from staging.ir import ITEMSIZE, Builder, Program, Type
from staging.memory import ALIGNMENT
from staging.pipeline import optimise
from staging.table import plain, quantity, render
from staging.text import parse_program

MACHINE = Machine(100e9, ((1e4, 100e9), (float("inf"), 10e9)))


def cost_of(source: str, machine: Machine = MACHINE) -> Cost:
    return estimate(optimise(parse_program(source)), machine)


PRODUCT = """program @p(%x: float32[8, 16], %y: float32[16, 4]) {
  %1 = matmul(%x, %y) {transpose_x=false, transpose_y=false}: float32[8, 4] @ "model.py:3"
  return (%1)
}"""


def test_a_product_counts_two_operations_for_each_term() -> None:
    cost = cost_of(PRODUCT)
    (row,) = cost.rows
    assert row.flops == 2 * 8 * 16 * 4
    assert row.bytes == 4 * (8 * 16 + 16 * 4 + 8 * 4)
    assert row.intensity == row.flops / row.bytes
    assert (row.times, row.places, row.name) == (1, ("model.py:3",), "matmul 8x4x16")
    assert (cost.arguments, cost.results, cost.workspace) == (4 * 192, 4 * 32, 0)
    # The inputs come from memory, and the result stays near.
    assert row.seconds == pytest.approx(4 * 192 / 10e9 + 4 * 32 / 100e9)
    assert row.bound == "memory"


def test_float64_takes_twice_as_long() -> None:
    machine = Machine(1e6, ((float("inf"), 1e12),))
    wide = PRODUCT.replace("float32", "float64")
    ratio = cost_of(wide, machine).seconds / cost_of(PRODUCT, machine).seconds
    assert ratio == pytest.approx(2)


CHAIN = """program @p(%x: float32[64, 64], %w: float32[64]) {
  %1 = exp(%x): float32[64, 64] @ "model.py:1"
  %2 = broadcast(%w) {shape=(64, 64)}: float32[64, 64] @ "model.py:2"
  %3 = mul(%1, %2): float32[64, 64] @ "model.py:2"
  %4 = reduce(%3) {kind='sum', axes=(1,)}: float32[64] @ "model.py:3"
  return (%4)
}"""


def test_what_a_loop_nest_keeps_to_itself_is_not_moved() -> None:
    (row,) = cost_of(CHAIN).rows
    assert row.bytes == 4 * (64 * 64 + 64 + 64)
    assert row.places == ("model.py:1", "model.py:2", "model.py:3")
    assert row.flops == 64 * 64 * (29 + 1 + 1)


def test_only_the_part_that_is_read_counts() -> None:
    (row,) = cost_of("""program @p(%x: float32[100, 8]) {
      %1 = slice(%x) {starts=(5, 0), counts=(2, 8), steps=(1, 1)}: float32[2, 8]
      %2 = exp(%1): float32[2, 8]
      return (%2)
    }""").rows  # fmt: skip
    assert row.bytes == 2 * 4 * 16
    (row,) = cost_of("""program @p(%x: float32[100, 8], %i: int64[3]) {
      %1 = gather(%x, %i): float32[3, 8]
      return (%1)
    }""").rows  # fmt: skip
    assert row.bytes == 2 * 4 * 24 + 3 * 8


LOOP = """program @p(%c: float32[256], %w: float32[256, 256]) {
  %1, %2 = scan(%c, %w) {length=10, carried=1, captured=1, reverse=false} block(%h: float32[256], %v: float32[256, 256]) {
    %3 = reshape(%h) {shape=(1, 256)}: float32[1, 256]
    %4 = matmul(%3, %v) {transpose_x=false, transpose_y=false}: float32[1, 256] @ "rnn.py:7"
    %5 = reshape(%4) {shape=(256,)}: float32[256]
    %6 = tanh(%5): float32[256] @ "rnn.py:8"
    return (%6, %6)
  }: float32[256], float32[10, 256]
  return (%1, %2)
}"""  # noqa: E501


def test_a_loop_counts_as_often_as_it_runs() -> None:
    cost = cost_of(LOOP)
    assert {row.times for row in cost.rows} == {10}
    product = next(row for row in cost.rows if row.name.startswith("matmul"))
    assert product.flops == 10 * (2 * 256 * 256 + 256 * WORK["tanh"])
    assert cost.rows[0] is product
    # The matrix comes from memory once if the cache holds it, in each step if it does not.
    small = cost_of(LOOP, Machine(1e15, ((1e5, 1e12), (float("inf"), 1e9))))
    large = cost_of(LOOP, Machine(1e15, ((1e7, 1e12), (float("inf"), 1e9))))
    assert small.seconds == pytest.approx(10 * large.seconds, rel=0.05)


def test_calls_of_one_block_are_one_row_for_each_of_its_kernels() -> None:
    program = parse_program(CHAIN.replace("%4 = reduce(%3) {kind='sum', axes=(1,)}: float32[64]",
                                          "%4 = add(%1, %3): float32[64, 64]"))  # fmt: skip
    layer = program.block
    x, w = layer.params

    b = Builder()
    value, weight = b.param(x.type), b.param(w.type)
    for _ in range(3):
        value = b.emit("call", value, weight, blocks=(layer,))
    cost = estimate(Program("deep", b.block(value)), MACHINE)
    assert [row.times for row in cost.rows] == [3, 3, 3, 3]


@pytest.mark.parametrize("source", [PRODUCT, CHAIN, LOOP])
def test_the_workspace_is_what_the_backend_takes_beside_what_products_do(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = [0]  # of operands and sums, in bytes: a product's while it runs, and no values
    work_space = Loops.work_space

    def noted(loops: Loops) -> int:
        blocks.append(work_space(loops) * ITEMSIZE[loops.p.wide] * loops.plan.parts)
        return work_space(loops)

    monkeypatch.setattr(Loops, "work_space", noted)
    program = optimise(parse_program(source))
    found = compile_program(program).module.arena
    predicted = estimate(program, MACHINE).workspace
    slack = 2 * ALIGNMENT * len(program.block.ops)
    assert predicted <= found <= predicted + max(blocks) + slack


def test_it_prints_as_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    text = str(cost_of(LOOP))
    for word in ("predicted cost of p", "matmul 1x256x256", "rnn.py:7", "total", "peak memory"):
        assert word in text
    real = builtins.__import__

    def without_rich(name: str, *args: Any) -> Any:
        if name.startswith("rich"):
            raise ModuleNotFoundError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without_rich)
    bare = str(cost_of(LOOP))
    assert bare.splitlines()[0] == "predicted cost of p"
    assert set(bare.split()) <= set(text.split()) | {"─"}
    assert render("t", ["a", "b"], [["1", "2"]]) == plain("t", ["a", "b"], [["1", "2"]])


def test_quantities_are_short() -> None:
    found = [quantity(n, "B") for n in (0, 1, 999, 1e3, 123456, 1e12, 0.5e-3, 2e-9)]
    assert found == ["0 B", "1 B", "999 B", "1 kB", "123 kB", "1 TB", "500 µB", "2 nB"]


def test_the_roofline_of_this_machine() -> None:
    found = measure(1)
    assert found.threads == 1
    assert 1e9 < found.flops < 1e13
    rates = [rate for _, rate in found.bandwidth]
    assert rates[0] > rates[-1] > 1e8
    assert found.rate(0) == rates[0] and found.rate(1e12) == rates[-1]
    assert "GFLOP/s on 1 threads" in str(found)


def test_a_table_shows_like_kernels_together_and_few_of_them() -> None:
    b = Builder()
    x = b.param(Type("float32", (8, 8)))
    for n in range(40):
        b.place = f"model.py:{n}"
        for _ in range(2):
            x = b.emit("matmul", x, x, transpose_x=False, transpose_y=False)
    text = str(estimate(Program("deep", b.block(x)), MACHINE)).splitlines()
    rows = [line.split() for line in text if line.strip().startswith("matmul")]
    assert len(rows) == 30 and all(row[2] == "2" for row in rows)
    assert any(line.split()[:3] == ["10", "more", "20"] for line in text)
