"""The time of each kernel, beside what is predicted for it."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.llvm import compile_program
from backends.llvm.profile import measure
from lantern.errors import ArgumentError
from lantern.staged.profile import Profile, compare
from staging.ir import Program
from staging.machine import Machine
from staging.pipeline import optimise
from staging.text import parse_program

SOURCE = """program @train(%x: float32[64, 64], %w: float32[64, 64]) {
  %1, %2 = scan(%x, %w) {length=3, carried=1, captured=1, reverse=false} block(%c: float32[64, 64], %v: float32[64, 64]) {
    %a = matmul(%c, %v) {transpose_x=false, transpose_y=false}: float32[64, 64] @ "model.py:7"
    %b = tanh(%a): float32[64, 64] @ "model.py:8"
    %r = reduce(%b) {kind='sum', axes=(0, 1)}: float32[] @ "model.py:9"
    return (%b, %r)
  }: float32[64, 64], float32[3]
  %3 = exp(%1): float32[64, 64] @ "model.py:11"
  return (%3, %2)
}"""  # noqa: E501
MACHINE = Machine(100e9, ((float("inf"), 10e9),), 1)


@pytest.fixture(scope="module")
def profile() -> Profile:
    program = optimise(parse_program(SOURCE))
    arrays = [np.full((64, 64), 0.01, np.float32)] * 2
    found, seconds, frames = measure(program, arrays, 1, seconds=0.01)
    return compare(program, MACHINE, found, seconds, frames)


def test_every_kernel_has_its_time_and_its_lines(profile: Profile) -> None:
    by_line = {place: row for row in profile.rows for place in row.cost.places}
    assert {"model.py:7", "model.py:8", "model.py:11"} <= set(by_line)
    assert by_line["model.py:7"].times == 3 and by_line["model.py:11"].times == 1
    assert [row.seconds for row in profile.rows] == sorted(
        (row.seconds for row in profile.rows), reverse=True
    )
    assert all(0 < row.seconds < profile.seconds for row in profile.rows)
    assert 0 <= profile.outside < 1
    assert profile.inside + profile.outside * profile.seconds == pytest.approx(profile.seconds)
    product = by_line["model.py:7"]
    assert product.reached == product.cost.seconds / product.seconds > 0


def test_it_prints_as_a_table(profile: Profile) -> None:
    text = str(profile)
    for word in ("time of train", "matmul 64x64x64", "model.py:8", "outside of kernels", "total"):
        assert word in text


def test_it_is_drawn(profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    profile.plot(tmp_path / "profile.png")
    assert (tmp_path / "profile.png").read_bytes().startswith(b"\x89PNG")
    profile.plot(tmp_path / "short.png", most=1)
    real = builtins.__import__

    def without_matplotlib(name: str, *args: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    with pytest.raises(ArgumentError, match="pip install"):
        profile.plot(tmp_path / "none.png")


def test_ordinary_code_does_not_look_at_the_clock() -> None:
    program = optimise(parse_program(SOURCE))
    assert "lantern.now" not in compile_program(program).source


def test_donated_arrays_are_left_alone() -> None:
    program = parse_program("""program @p(%x: float32[8] donated) {
      %1 = exp(%x): float32[8]
      return (%1)
    }""")  # fmt: skip
    x = np.zeros(8, np.float32)
    found, *_ = measure(Program("p", program.block, (0,)), [x], seconds=0.0)
    assert [timing.times for timing in found] == [1]
    assert not x.any()


def test_kernels_of_a_divided_loop_take_as_long_as_the_loop_together() -> None:
    program = optimise(parse_program("""program @p(%x: float32[64, 20000]) {
      %1 = scan(%x) {length=64, carried=0, captured=0, reverse=false} block(%r: float32[20000]) {
        %a = sin(%r): float32[20000] @ "model.py:2"
        %b = cumulate(%a) {kind='sum', axis=0, reverse=false}: float32[20000] @ "model.py:3"
        return (%b)
      }: float32[64, 20000]
      return (%1)
    }"""))  # fmt: skip
    found, seconds, _ = measure(program, [np.ones((64, 20000), np.float32)], 2, seconds=0.0)
    assert [timing.times for timing in found] == [64, 64]
    assert 0 < sum(timing.seconds for timing in found) <= seconds
