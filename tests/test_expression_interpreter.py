"""`examples/expression_interpreter`: programs run as they read, and their constants are learnt."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lantern as ln
from examples.expression_interpreter.__main__ import main
from examples.expression_interpreter.assembler import Program, assemble
from examples.expression_interpreter.fitting import answers, fit, loss, predict, slope
from examples.expression_interpreter.machine import Code, run
from examples.expression_interpreter.parser import ProgramError
from examples.expression_interpreter.programs import TASKS, data

COLLATZ = """\
given n
steps = 0
while n > 1 {
    half = n / 2                 # whether n is even
    while half >= 1 { half = half - 1 }
    if half == 0 { n = n / 2 } else { n = 3 * n + 1 }
    steps = steps + 1
}
return steps
"""
EARLY = """\
given x
if x < 0 { return -x }
if x == 0 {
    return 7
} else {
    y = max(x, 2) ^ 2
}
return sqrt(y) + exp(0) * log(1) - sin(0) * cos(0) + abs(-1) - 1
"""


def collatz(n: float) -> float:
    steps = 0
    while n > 1:
        n = n / 2 if n % 2 == 0 else 3 * n + 1
        steps += 1
    return steps


def early(x: float) -> float:
    return -x if x < 0 else 7 if x == 0 else max(x, 2)


def eagerly(program: Program, x: float) -> float:
    code = Code(*map(ln.asarray, program.code))
    return float(run(code, ln.asarray(program.registers).at[0].set(x)))


@pytest.mark.parametrize(
    ("text", "meant", "inputs"),
    [(COLLATZ, collatz, [1.0, 6.0, 7.0]), (EARLY, early, [-3.0, 0.0, 1.0, 5.0])],
    ids=["collatz", "early"],
)
def test_programs_compute(text: str, meant: Callable[[float], float], inputs: list[float]) -> None:
    program = assemble(text)
    wanted = [meant(x) for x in inputs]
    np.testing.assert_allclose(
        predict(program.registers, program.code, np.asarray(inputs)), wanted, rtol=1e-12
    )
    np.testing.assert_allclose([eagerly(program, x) for x in inputs], wanted, rtol=1e-12)


def expressions() -> st.SearchStrategy[str]:
    leaves = st.sampled_from(["x", "0.5", "2", "1.25e0"])
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.builds("({} {} {})".format, inner, st.sampled_from("+-*"), inner),
            st.builds("{} {} {}".format, inner, st.sampled_from("+-*"), inner),
            st.builds("-{}".format, inner),
            st.builds("({} < {})".format, inner, inner),
            st.builds("({}) ^ 2".format, inner),
            st.builds("{}({})".format, st.sampled_from(["sin", "cos", "abs"]), inner),
            st.builds("max({}, {})".format, inner, inner),
        ),
        max_leaves=12,
    )


@settings(max_examples=40, deadline=None)
@given(expressions(), st.floats(-2, 2))
def test_expressions_mean_what_they_do_in_python(text: str, x: float) -> None:
    program = assemble(f"given x\nreturn {text}")
    names = {"x": x, "sin": math.sin, "cos": math.cos, "abs": abs, "max": max}
    wanted = eval(text.replace("^", "**"), {}, names)
    found = predict(program.registers, program.code, np.asarray([x]))
    np.testing.assert_allclose(found, [wanted], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", TASKS)
def test_the_gradient_is_that_of_the_program(name: str) -> None:
    """Against finite differences, eager, and the interpreter of the representation."""
    task = TASKS[name]
    program = assemble(task.text)
    program.registers[[*program.learnt.values()]] += 0.3
    inputs, outputs = data(task, 5, 0.1)
    value, gradient = slope(program.registers, program.code, inputs, outputs)
    arguments = (*map(ln.asarray, (program.registers,)), Code(*map(ln.asarray, program.code)))
    of_eager = ln.value_and_grad(loss)(*arguments, ln.asarray(inputs), ln.asarray(outputs))
    of_interpreter = ln.compile(
        ln.value_and_grad(loss), dynamic=("registers", "code"), backend="interpreter"
    )(program.registers, program.code, inputs, outputs)
    for other in (of_eager, of_interpreter):
        np.testing.assert_allclose(value, other[0], rtol=1e-9)
        np.testing.assert_allclose(gradient, other[1], rtol=1e-9, atol=1e-9)
    for place in program.learnt.values():
        ends = []
        for step in (1e-6, -1e-6):
            registers = program.registers.copy()
            registers[place] += step
            errors = np.asarray(predict(registers, program.code, inputs)) - outputs
            ends.append(np.mean(errors**2))
        np.testing.assert_allclose(
            gradient[place], (ends[0] - ends[1]) / 2e-6, rtol=1e-4, atol=1e-6
        )


def test_one_gradient_for_all_programs() -> None:
    compiled = ln.compile(ln.value_and_grad(loss), dynamic=("registers", "code"))
    for task in TASKS.values():
        program = assemble(task.text)
        compiled(program.registers, program.code, *data(task, 3, 0.0))
    assert compiled.specializations == 1


@pytest.mark.parametrize("name", ["growth", "polynomial"])
def test_constants_are_learnt(name: str) -> None:
    task = TASKS[name]
    inputs, outputs = data(task, 12, 0.0)
    found = fit(assemble(task.text), inputs, outputs, steps=300, rate=task.rate)
    for constant, value in task.constants.items():
        assert found.constants[constant] == pytest.approx(value, abs=0.01)
    np.testing.assert_allclose(
        predict(found.program.registers, found.program.code, inputs), outputs, atol=0.02
    )


@pytest.mark.parametrize(
    ("text", "message", "marked"),
    [
        ("given x\nreturn x +", "line 2: expected a number, a name or '(', found the end", "^"),
        ("return y", "line 1: y has no value yet", "y"),
        ("x = 1 2\n", "line 1: expected the end of the statement, found '2'", "2"),
        ("if 1 { return 1", "line 1: expected '}', found the end", ""),
        ("return 1 }", "line 1: expected a statement, found '}'", "}"),
        ("return sine(1)", "line 1: there is no function sine; only abs", "sine"),
        ("return max(1)", "line 1: max takes 2, not 1", "max"),
        ("learn a = b", "line 1: expected the number to begin with, found 'b'", "b"),
        ("learn a = 1\na = 2", "line 2: a is learnt, so it does not change", "a"),
        ("given x\ngiven x", "line 2: x has a meaning already", "x"),
        ("x = 1", "line 1: the program ends without a return", ""),
        ("", "line 1: the program ends without a return", ""),
        ("x = 1 $ 2", "line 1: '$' means nothing here", "$"),
        ("while = 2", "line 1: expected a number, a name or '(', found '='", "="),
    ],
)
def test_what_is_no_program_is_shown(text: str, message: str, marked: str) -> None:
    with pytest.raises(ProgramError) as found:
        assemble(text)
    said, line, marker = str(found.value).splitlines()
    assert said.startswith(message)
    assert len(marker.rstrip()) <= len(line) + 1
    if len(marked) > 1:
        assert line[marker.index("^") : marker.rindex("^") + 1] == marked


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["knot", "root", "--steps", "4", "--points", "3"]) == 0
    shown = capsys.readouterr().out
    assert "learn knot = 0" in shown and "step    4" in shown and "scale" in shown
    file = tmp_path / "double.txt"
    file.write_text("given x\nreturn 2 * x\n", encoding="utf-8")
    assert main(["--run", str(file), "--inputs", "1", "2.5"]) == 0
    assert capsys.readouterr().out == "1 -> 2\n2.5 -> 5\n"
    file.write_text("return", encoding="utf-8")
    assert main(["--run", str(file)]) == 1
    assert "error: line 1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["nothing"])


def test_answers_are_differentiable_twice() -> None:
    """An interpreter is a function like others."""
    program = assemble("given x\nlearn a = 1.5\nreturn sin(a * x)")
    place = program.learnt["a"]

    def second(registers: Any, code: Code) -> Any:
        def of(a: Any) -> Any:
            return ln.sum(answers(registers.at[place].set(a), code, ln.asarray([0.3, 0.7])))

        return ln.grad(ln.grad(of))(registers[place])

    compiled = ln.compile(second, dynamic=("registers", "code"))
    x = np.asarray([0.3, 0.7])
    wanted = np.sum(-x * x * np.sin(1.5 * x))
    np.testing.assert_allclose(compiled(program.registers, program.code), wanted, rtol=1e-6)
