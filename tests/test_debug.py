"""Looking into programs: what they print, and where nan and infinity come from."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lantern as ln
from staging.ir import walk
from staging.text import parse_program

Function = Callable[..., Any]
WAYS: dict[str, Callable[[Function], Function]] = {
    "eager": lambda f: f,
    "interpreter": lambda f: ln.compile(f, backend="interpreter"),
    "llvm": lambda f: ln.compile(f, backend="llvm"),
}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def told(x: ln.Tensor) -> ln.Tensor:
    ln.debug.print("before: {}", x)
    y = ln.sum(ln.sin(x) * x)
    ln.debug.print("after {which}: {:.3f} of {0.shape}", y, which="sin")
    return y


SHOWN = "before: [1. 2.]\nafter sin: 2.660 of ()\n"


@every_way
def test_prints_once_and_in_order(way: Any, capsys: pytest.CaptureFixture[str]) -> None:
    x = ln.asarray([1.0, 2.0])
    for f in (
        told,
        ln.grad(told),
        lambda v: ln.jvp(told, (v,), (v,)),
        lambda v: ln.vjp(told, v)[0],
    ):
        run = way(f)
        run(x)
        assert capsys.readouterr().out == SHOWN
        run(x)
        assert capsys.readouterr().out == SHOWN


@every_way
def test_prints_a_line_for_each_element_of_a_batch(
    way: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def f(x: ln.Tensor, y: ln.Tensor) -> ln.Tensor:
        ln.debug.print("{} {}", x, y)
        return x * y

    pairs = ln.vmap(lambda x: ln.vmap(lambda y: f(x, y))(ln.asarray([3.0, 4.0])))
    way(pairs)(ln.asarray([1.0, 2.0]))
    assert capsys.readouterr().out == "1.0 3.0\n1.0 4.0\n2.0 3.0\n2.0 4.0\n"
    way(ln.vmap(ln.grad(f)))(ln.asarray([1.0, 2.0]), ln.asarray([5.0, 6.0]))
    assert capsys.readouterr().out == "1.0 5.0\n2.0 6.0\n"


@every_way
def test_prints_in_every_step_of_a_loop(way: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def powers(x: ln.Tensor) -> ln.Tensor:
        def step(total: ln.Tensor, i: ln.Tensor) -> tuple[ln.Tensor, None]:
            ln.debug.print("step {}: {}", i, total)
            return total * x, None

        return ln.scan(step, x, ln.arange(3))[0]

    for f in (powers, ln.grad(powers)):
        way(f)(ln.asarray(2.0))
        assert capsys.readouterr().out == "step 0: 2.0\nstep 1: 4.0\nstep 2: 8.0\n"


def test_formats_are_those_of_python(capsys: pytest.CaptureFixture[str]) -> None:
    x = ln.asarray([1.5, 2.0])
    ln.debug.print("{{{}}} {:{}.{digits}f}|{name!r:>5} {0[1]}", x, x[0], 8, digits=2, name="n")
    assert capsys.readouterr().out == "{[1.5 2. ]}     1.50|  'n' 2.0\n"
    ln.debug.print("{:.1f}", ln.asarray(0.25, dtype=ln.bfloat16))
    assert capsys.readouterr().out == "0.2\n"
    for text in ("{} {} {}", "{y}", "{:.2f}", "{0.nothing}", "{"):
        with pytest.raises(ln.errors.ArgumentError, match="test_debug"):
            ln.debug.print(text, x)


def test_a_compiled_function_shows_its_own_values() -> None:
    def f(x: ln.Tensor) -> ln.Tensor:
        ln.debug.print("here")
        return x

    with pytest.raises(ln.errors.StagingError, match="shows no value of the program"):
        ln.compile(f)(ln.asarray(1.0))


def test_what_is_printed_stays_in_the_program() -> None:
    program = parse_program(ln.compile(ln.vmap(told)).ir(ln.ones((3, 2))))
    assert [op.name for op in walk(program.block)].count("print") == 2


def logs(x: ln.Tensor) -> ln.Tensor:
    h = ln.exp(x) - 1.0
    return ln.sum(ln.log(h))


def roots(x: ln.Tensor) -> ln.Tensor:
    h = x * 2.0
    return ln.sum(ln.sqrt(h))


def looped(x: ln.Tensor) -> ln.Tensor:
    def step(c: ln.Tensor, _: None) -> tuple[ln.Tensor, ln.Tensor]:
        return c * x, ln.sqrt(c)

    return ln.sum(ln.scan(step, x, None, length=3)[1])


def line(f: Any, after: int) -> str:
    return rf"test_debug.py:{f.__code__.co_firstlineno + after}"


FIRST = {  # the function, what is to blame, where
    "forward": (logs, "log", line(logs, 2)),
    "forward of a gradient": (ln.grad(logs), "log", line(logs, 2)),
    "backward": (ln.grad(roots), "sqrt|divide", line(roots, 2) + r" \(backward\)"),
    "forward mode": (lambda x: ln.jvp(roots, (x,), (x,)), "divide", line(roots, 2)),
    "second order": (
        ln.grad(lambda x: ln.sum(ln.grad(roots)(x))),
        "divide",
        line(roots, 2) + r" \(backward\)",
    ),
    "batch": (
        ln.vmap(ln.grad(lambda v: roots(v[None]))),
        "sqrt|divide",
        line(roots, 2) + r" \(backward\)",
    ),
    "loop": (ln.grad(looped), "divide|sqrt", line(looped, 2) + r" \(backward\)"),
}


@every_way
@pytest.mark.parametrize("name", FIRST)
def test_the_first_operation_that_makes_a_nan_or_infinity(way: Any, name: str) -> None:
    f, culprit, where = FIRST[name]
    run = way(f)
    x = ln.asarray([1.0, 0.0])
    with np.errstate(all="ignore"):
        run(x)  # nobody asked
    with ln.debug.check_nans():
        run(ln.asarray([1.0, 2.0]))
        with pytest.raises(ln.errors.NonFiniteError, match=rf"({culprit}).*\n  at .*{where}"):
            run(x)
    with np.errstate(all="ignore"):
        run(x)


@every_way
def test_what_was_there_before_is_no_error(way: Any) -> None:
    def masked(x: ln.Tensor) -> ln.Tensor:
        return ln.softmax(ln.where(x > 0, x, -np.inf)) + ln.maximum(x, -np.inf)

    run = way(masked)
    with ln.debug.check_nans():
        assert run(ln.asarray([1.0, 0.0])).tolist() == [2.0, 0.0]
        run(ln.asarray([1.0, np.nan]))
        with pytest.raises(ln.errors.NonFiniteError, match="softmax"):  # -inf - -inf
            run(ln.asarray([-1.0, -1.0]))


def test_a_compiled_function_may_always_check() -> None:
    run = ln.compile(logs, check_nans=True)
    with pytest.raises(ArithmeticError, match="log"):
        run(ln.asarray([0.0]))
    assert "require" in run.ir(ln.ones(3))
    assert "require" not in ln.compile(logs).ir(ln.ones(3))


@ln.custom_vjp
def wrong(x):
    dz = yield x * 1.0
    return ln.log(dz - dz)


@every_way
def test_a_rule_of_ones_own_is_to_blame(way: Any) -> None:
    text = Path(__file__).read_text(encoding="utf-8").splitlines()
    where = rf"test_debug.py:{text.index('    return ln.log(dz - dz)') + 1} \(backward\)"
    with (
        ln.debug.check_nans(),
        pytest.raises(ln.errors.NonFiniteError, match=rf"log.*\n  at .*{where}"),
    ):
        way(ln.grad(lambda x: ln.sum(wrong(x))))(ln.ones(2))


def quietly(f: Any, x: ln.Tensor) -> float:
    with np.errstate(all="ignore"):
        return float(f(x))


def test_other_threads_do_not_check() -> None:
    with ln.debug.check_nans(), ThreadPoolExecutor(1) as pool:
        assert pool.submit(quietly, ln.exp, ln.asarray(1e3)).result() == np.inf
        with pytest.raises(ln.errors.NonFiniteError, match=r"gives inf at \[\] of float32\[\]"):
            ln.exp(ln.asarray(1e3))
