"""`examples.ode`: the solver against solutions in closed form, its derivative, and the fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lantern as ln
from examples.ode.__main__ import main
from examples.ode.hares import GUESS, PELTS, YEARS, loss
from examples.ode.solver import ERROR, RESULT, STAGES, solution
from lantern.errors import AssertionFailedError

TIMES = np.array([0.0, 0.3, 1.0, 2.5])


def oscillator(t: Any, y: Any, params: Any) -> Any:
    """y'' = -ω² y, as two equations of first order."""
    return ln.stack((y[1], -(params[0] ** 2) * y[0]))


def test_the_table_is_of_fifth_order() -> None:
    """Each order condition up to the third, and that the error is of a method of fourth order."""
    a = np.zeros((7, 7))
    for i, row in enumerate((*STAGES, RESULT), 1):
        a[i, : len(row)] = row
    c, b = a.sum(axis=1), np.array((*RESULT, 0.0))
    for power in range(5):
        assert b @ c**power == pytest.approx(1 / (power + 1), rel=1e-14)
    assert b @ (a @ c) == pytest.approx(1 / 6, rel=1e-14)
    assert [abs(np.array(ERROR) @ c**power) < 1e-15 for power in range(5)] == [True] * 4 + [False]


@pytest.mark.parametrize("run", [lambda f: f, ln.compile], ids=["eager", "compiled"])
def test_the_solver_finds_a_known_solution(run: Any) -> None:
    y, params = ln.asarray([1.0, 0.0], dtype=ln.float64), ln.asarray([2.0], dtype=ln.float64)
    rows = run(lambda y, p: solution(oscillator, ln.asarray(TIMES), y, p))(y, params)
    wanted = np.stack((np.cos(2 * TIMES), -2 * np.sin(2 * TIMES)), axis=1)
    np.testing.assert_allclose(np.asarray(rows), wanted, atol=2e-5)


def test_the_derivative_is_that_of_the_known_solution() -> None:
    y = ln.asarray([1.0, 0.0], dtype=ln.float64)

    def last(params: Any) -> Any:
        return solution(oscillator, ln.asarray(TIMES), y, params)[-1, 0]

    found = ln.compile(ln.grad(last))(ln.asarray([2.0], dtype=ln.float64))
    np.testing.assert_allclose(np.asarray(found), [-2.5 * np.sin(5.0)], rtol=1e-4)


def test_the_gradient_of_the_fit_agrees_with_finite_differences() -> None:
    """The solver's error, 1e-6 relative, changes with the steps: it stays in the differences."""
    times, pelts = ln.asarray(YEARS[:5] - YEARS[0]), ln.asarray(PELTS[:5])
    value = ln.compile(lambda p: loss(p, times, pelts))
    gradient = ln.compile(ln.grad(lambda p: loss(p, times, pelts)))(ln.asarray(GUESS))
    h = 1e-3
    for k in range(GUESS.size):
        above, below = (float(value(ln.asarray(GUESS + s * h * np.eye(6)[k]))) for s in (1, -1))
        assert float(gradient[k]) == pytest.approx((above - below) / (2 * h), rel=1e-3, abs=1e-3)


def test_steps_that_get_too_small_are_an_error() -> None:
    def explodes(t: Any, y: Any, params: Any) -> Any:
        return y * y

    one = ln.asarray([1.0], dtype=ln.float64)
    with pytest.raises(AssertionFailedError, match="steps get too small"):
        ln.compile(lambda y: solution(explodes, ln.asarray(TIMES), y, y))(one)


def test_the_command_fits_and_plots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    assert main(["--steps", "30", "--run", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "hares grow" in out and (tmp_path / "populations.png").stat().st_size > 10_000
    assert main(["--steps", "0", "--run", str(tmp_path)]) == 1
    assert "--steps is 0" in capsys.readouterr().err
