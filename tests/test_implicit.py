"""`examples.implicit`: both ways to the derivative of a solution agree."""

from __future__ import annotations

import numpy as np
import pytest

import lantern as ln
from examples.implicit.__main__ import compare, main
from examples.implicit.problems import problems
from examples.implicit.solvers import newton
from examples.implicit.theorem import implicit


@pytest.mark.parametrize("which", range(3))
def test_both_ways_agree(which: int) -> None:
    problem = problems(5)[which]
    through, by = compare(problem).values()
    assert through.value == pytest.approx(by.value, rel=1e-11)
    for a, b in zip(through.gradient, by.gradient, strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-9, atol=1e-9)
    assert max(through.error, by.error) < 1e-7
    assert by.kept == 0 < through.kept
    if problem.exact is not None:
        root = newton(problem.equation, problem.start, *problem.params)
        exact = problem.exact(*map(np.asarray, (root, *problem.params)))
        np.testing.assert_allclose(np.asarray(by.gradient[-1]), exact, rtol=1e-10)


def test_the_theorem_has_second_derivatives() -> None:
    problem = problems(3)[1]
    by_theorem = implicit(problem.solver, problem.equation)
    w, x = problem.params

    def slope(x: ln.Tensor, solution: object) -> ln.Tensor:
        return ln.sum(ln.grad(lambda x: ln.sum(solution(x) ** 2))(x) ** 2)  # type: ignore[operator]

    by = ln.grad(slope)(x, lambda x: by_theorem(problem.start, w, x))
    through = ln.grad(slope)(x, lambda x: problem.solver(problem.equation, problem.start, w, x))
    np.testing.assert_allclose(np.asarray(by), np.asarray(through), rtol=1e-8)


def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--size", "3"]) == 0
    assert "the theorem" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--size", "0"])
