"""What compiles for the CPU compiles for a GPU, and computes the same: each run takes a few of the
cases; ``pytest -m grid tests/test_cuda_conformance.py`` takes all.

Every value has a buffer of its own here, so that the emulated device sees each access beyond one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from function_cases import CASES, VALUES_ONLY, arguments
from hypothesis import given, settings
from hypothesis import strategies as st
from random_control import Node
from recursive_programs import Draw
from test_conformance import MATRIX, SMOOTH, derivatives, function
from test_conformance import cases as examples_of
from test_primitives import PRIMITIVES, RULES
from test_random_control import cases, slope_of, total
from three_ways import same, traced

import lantern as ln
from backends.cuda import compile_program, scalars
from backends.cuda.device import Device
from backends.cuda.passes import PASSES
from staging.failures import LimitFailure
from staging.interpret import interpret
from staging.ir import Program, walk
from staging.pipeline import optimise
from staging.verify import verify

FEW = 3  # cases of a kind in a run that does not take all


def staged(cuda: Device, f: Callable[..., Any], *args: Any) -> Any:
    """What the device gives for a function."""
    recorded, arrays = traced(f, *args)
    run = compile_program(verify(optimise(recorded.program, PASSES)), cuda, apart=True)
    return ln.tree.unflatten(recorded.structure, run(arrays))


def agree(cuda: Device, f: Callable[..., Any], *args: Any, ulps: float) -> None:
    """The device gives what eager code does."""
    with np.errstate(all="ignore"):
        same(staged(cuda, f, *args), f(*args), ulps)


@pytest.fixture
def draw(request: pytest.FixtureRequest) -> random.Random:
    """What chooses among cases: the same on CI, others in each run at home."""
    return random.Random(request.node.name if settings().derandomize else None)


def few(names: Sequence[str], request: pytest.FixtureRequest, draw: random.Random) -> list[str]:
    """Some of the names; all of them where the grid is asked for."""
    if "grid" in request.config.option.markexpr:
        return list(names)
    return draw.sample(list(names), FEW)


@pytest.mark.grid
def test_primitives(cuda: Device, request: pytest.FixtureRequest, draw: random.Random) -> None:
    """Values, first and second derivatives, and batches."""
    for name in few(SMOOTH, request, draw):
        f, xs = function(PRIMITIVES[name], *draw.choice(examples_of(name)[:3]))
        near, far = (2**8, 2**20) if name in MATRIX else (16, 2**12)
        with np.errstate(all="ignore"):
            want = derivatives(f)(*xs)
        got = staged(cuda, derivatives(f), *xs)
        same(got.pop("value"), want.pop("value"), near, name)
        same(got, want, far, name)


@pytest.mark.grid
def test_public_functions(
    cuda: Device, request: pytest.FixtureRequest, draw: random.Random
) -> None:
    names = few(sorted(CASES), request, draw)
    smooth = [n for n in names if n not in VALUES_ONLY and n.removeprefix("ln.") not in RULES]

    def slope(name: str, a: dict[str, Any]) -> Any:
        def value(x: Any) -> Any:
            found = ln.tree.leaves(CASES[name](a | {"x": x}))
            floats = [y for y in found if ln.isdtype(y.dtype, "real floating")]
            return sum(ln.sum(y * ln.cos(y * 3.0)) for y in floats) + ln.sum(x) * 0

        return ln.grad(value)(a["x"])

    def everything(a: dict[str, Any]) -> Any:
        return {n: CASES[n](a) for n in names}, {n: slope(n, a) for n in smooth}

    agree(cuda, everything, arguments(), ulps=8192)


def both(cuda: Device, program: Program, arrays: list[Any], near: float) -> None:
    """The device gives what the interpreter does."""
    run = compile_program(program, cuda, apart=True)
    for a, b in zip(run(arrays), interpret(program, arrays), strict=True):
        np.testing.assert_allclose(np.asarray(a), b, near, near)


@settings(max_examples=FEW)
@given(cases(depth=2))
def test_random_control_flow(cuda: Device, case: tuple[Node, np.ndarray, np.ndarray, int]) -> None:
    node, x, v, k = case

    def everything(x: Any, w: Any) -> Any:
        first = ln.value_and_grad(total(node, k), argnums=(0, 1))(x, w)
        return first, ln.grad(slope_of(node, v, k), argnums=(0, 1))(x, w)

    for a, b in zip(
        ln.tree.leaves(staged(cuda, everything, *x)), ln.tree.leaves(everything(*x)), strict=True
    ):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), 1e-10, 1e-10)


@settings(max_examples=FEW)
@given(st.integers(0, 2**32 - 1), st.integers(0, 3))
def test_random_recursion(cuda: Device, seed: int, fuel: int) -> None:
    draw = Draw(seed)
    both(cuda, verify(optimise(draw.program(), PASSES)), draw.inputs(fuel), 1e-11)


def number_loops(x: Any, xs: Any, n: Any) -> Any:
    """Loops over single numbers: a scan with a branch, from its end; a map; loops of no known
    length, one in another."""

    def step(carry: Any, r: Any) -> Any:
        a, b = carry
        return (ln.cond(b > 0.5, lambda: ln.sin(a) + r, lambda: b * r), a), a * r

    ended, ys = ln.scan(step, (x, x + 1.0), xs, reverse=True)

    def collatz(k: Any) -> Any:
        odd = k % 2 == 1
        return ln.while_loop(
            lambda s: s[0] > 1,
            lambda s: (ln.where(s[0] % 2 == 1, 3 * s[0] + 1, s[0] // 2), s[1] + 1),
            (k + 0 * odd, k * 0),
        )[1]

    return ended, ys, ln.map(lambda r: ln.exp(r) * x, xs), collatz(n)


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_loops_over_numbers_are_kernels(cuda: Device, dtype: Any) -> None:
    given = np.asarray(0.3, dtype), np.linspace(0.1, 1.0, 300).astype(dtype), np.asarray(27)
    compiled = ln.compile(number_loops)
    program = optimise(compiled.program(*given), PASSES)
    run = compile_program(program, cuda, apart=True)
    loops = {op: op.name for op in walk(run.program.block) if op.name in ("scan", "while")}
    assert sorted(loops.values()) == ["scan", "scan", "while"]
    known = {**run.loaded.module.steps, **run.loaded.module.loops}
    assert known.keys() >= loops.keys()
    for a, b in zip(run(given), interpret(program, given), strict=True):
        np.testing.assert_allclose(np.asarray(a), b, 4 * np.finfo(dtype).eps)


def test_a_loop_that_does_not_end_fails_at_its_limit(cuda: Device) -> None:
    endless = ln.compile(lambda x: ln.while_loop(lambda c: c < 1.0, lambda c: c, x, limit=4))
    run = compile_program(optimise(endless.program(0.0)), cuda, apart=True)
    with pytest.raises(LimitFailure, match="after 4 steps"):
        run([np.asarray(0.0, np.float32)])
    assert float(np.asarray(run([np.asarray(2.0, np.float32)])[0])) == 2.0


def test_long_loops_over_numbers_go_on(cuda: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel makes some steps and is launched again."""
    monkeypatch.setattr(scalars, "STEPS", 10)
    f = ln.compile(lambda x: ln.while_loop(lambda c: c < 35.0, lambda c: c + 1.0, x))
    program = optimise(f.program(0.0))
    run = compile_program(program, cuda, apart=True)
    assert [float(np.asarray(y)) for y in run([np.asarray(0.0, np.float32)])] == [35.0]
