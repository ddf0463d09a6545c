"""Loops that a lowering writes: the block, its operands, and what the backends make of it."""

from __future__ import annotations

import numpy as np
import pytest

import lantern as ln
from lantern.staged.loops import Symbols, scan
from lantern.tensor import Tensor

TABLE = np.asarray([[0.5, -1.0], [2.0, 0.25]])


def running(x: ln.Tensor, w: ln.Tensor, reverse: bool = False) -> tuple[ln.Tensor, ln.Tensor]:
    """s ← w (s + x_t) + TABLE s, step by step."""

    def step(carry: Symbols, captured: Symbols, slices: Symbols) -> tuple[Symbols, Symbols]:
        (s,), (w,), (x,) = carry, captured, slices
        moved = ln.sum(Tensor(s) * TABLE, axis=1).value
        s = w * (s + x) + moved
        return (s,), (s * 2,)

    (last,), (all_,) = scan(
        step, [np.zeros(2)], [w.value], [x.value], length=x.shape[0], reverse=reverse
    )
    return Tensor(last), Tensor(all_)


@pytest.mark.parametrize("backend", ["interpreter", "llvm"])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_carries_captures_and_stacks(backend: str, reverse: bool) -> None:
    x, w = np.linspace(-1, 1, 10).reshape(5, 2), np.asarray([0.3, 0.6])
    last, all_ = ln.compile(lambda x, w: running(x, w, reverse), backend=backend)(x, w)
    s, want = np.zeros(2), np.zeros_like(x)
    for t in range(5)[:: -1 if reverse else 1]:
        s = w * (s + x[t]) + TABLE @ s
        want[t] = 2 * s
    np.testing.assert_allclose(np.asarray(last), s, rtol=1e-12)
    np.testing.assert_allclose(np.asarray(all_), want, rtol=1e-12)


def test_what_a_step_closes_over_is_an_operand_of_the_scan() -> None:
    text = ln.compile(running).ir(ln.zeros((5, 2), dtype="float64"), ln.ones(2, dtype="float64"))
    (line,) = [line for line in text.splitlines() if "scan(" in line]
    assert "captured=2, " in line or "captured=2}" in line
    assert "%captured" in line


@pytest.mark.parametrize("backend", ["interpreter", "llvm"])
def test_a_map_has_no_carry(backend: str) -> None:
    def f(x: ln.Tensor) -> ln.Tensor:
        def step(_: Symbols, __: Symbols, slices: Symbols) -> tuple[Symbols, Symbols]:
            (x,) = slices
            return (), (x * x + 1.0,)

        return Tensor(scan(step, (), (), [x.value], length=x.shape[0])[1][0])

    x = ln.asarray([[1.0, 2.0], [3.0, 4.0]])
    np.testing.assert_array_equal(np.asarray(ln.compile(f, backend=backend)(x)), [[2, 5], [10, 17]])
