"""Each example in small on a GPU, the emulated one where there is none: it learns what it learns on
the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from test_llama3_training import columns, start

import lantern as ln
from examples.char_rnn import train as char_rnn
from examples.char_rnn.text import DEFAULT, Text, read
from examples.expression_interpreter.fitting import answers, loss, predict, slope
from examples.expression_interpreter.programs import TASKS, data
from examples.implicit.problems import problems
from examples.implicit.theorem import implicit
from examples.ode import fit
from examples.treelstm import data as trees
from examples.treelstm import train as treelstm
from lantern.staged import executables

Backend = Callable[[str], None]
QUIET = Console(quiet=True)


@pytest.fixture
def gpu(cuda: Any) -> str:
    """The backend of a device."""
    return "cuda-emulated" if type(cuda).__name__ == "EmulatedDevice" else "cuda"


@pytest.fixture
def by(monkeypatch: pytest.MonkeyPatch) -> Backend:
    """Lets functions be compiled by a backend."""
    return lambda name: monkeypatch.setattr(executables, "default_backend", lambda: name)


def both(gpu: str, by: Backend, run: Callable[[], Any]) -> tuple[Any, Any]:
    """What comes of running something on the device, and on the CPU."""
    by(gpu)
    there = run()
    by("llvm")
    return there, run()


def test_llama3_trains(gpu: str, by: Backend, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"line {k}: {k * k}\n" for k in range(60)))

    def run() -> Any:
        folder = tmp_path / executables.default_backend()
        start((str(text),), folder, QUIET, steps=4, tokenizer="bytes")
        return columns(folder)

    for there, here in zip(*both(gpu, by, run), strict=True):
        assert [x is None for x in there] == [x is None for x in here]
        floats = [[x for x in row if x is not None] for row in (there, here)]
        np.testing.assert_allclose(*floats, rtol=2e-5)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_char_rnn_learns(gpu: str, by: Backend, cell: str) -> None:
    whole = read(DEFAULT)
    text = Text(whole.letters, whole.train[:200], whole.valid[:80])
    settings = char_rnn.Settings(cell=cell, hidden=6, batch=2, steps=8, epochs=1)
    there, here = both(gpu, by, lambda: char_rnn.train(text, settings, QUIET))
    np.testing.assert_allclose(there.losses, here.losses, rtol=1e-5)
    np.testing.assert_allclose(there.valid, here.valid, rtol=1e-5)


def test_treelstm_learns(gpu: str, by: Backend) -> None:
    bank = trees.expressions(4, 2)
    settings = treelstm.Settings(hidden=4, embedding=3, batch=2, epochs=1)
    there, here = both(gpu, by, lambda: treelstm.train(bank, settings, QUIET))
    np.testing.assert_allclose(there.losses, here.losses, rtol=1e-5)
    np.testing.assert_allclose(there.scores[-1][1], here.scores[-1][1], rtol=1e-5)


def test_ode_is_fitted(gpu: str, by: Backend) -> None:
    there, here = both(gpu, by, lambda: fit.fit(1, 0.05, QUIET))
    np.testing.assert_allclose(there.losses, here.losses, rtol=1e-4)
    np.testing.assert_allclose(there.log_params, here.log_params, rtol=1e-4)


def test_implicit_derivatives(gpu: str, by: Backend) -> None:
    problem = problems(3)[1]
    solve = implicit(problem.solver, problem.equation)

    def value(*params: Any) -> Any:
        return ln.sum(solve(problem.start, *params) ** 2)

    every = tuple(range(len(problem.params)))
    there, here = both(
        gpu, by, lambda: ln.compile(ln.value_and_grad(value, argnums=every))(*problem.params)
    )
    for a, b in zip(ln.tree.leaves(there), ln.tree.leaves(here), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-9)


def test_programs_are_interpreted(gpu: str) -> None:
    task = next(iter(TASKS.values()))
    program = task.solved()
    inputs, outputs = data(task, 3, 0.1)
    dynamic = ("registers", "code")
    run = ln.compile(answers, dynamic=dynamic, backend=gpu)
    back = ln.compile(ln.value_and_grad(loss), dynamic=dynamic, backend=gpu)
    given = program.registers, program.code, inputs
    np.testing.assert_allclose(run(*given), predict(*given), rtol=1e-5)
    there, here = back(*given, outputs), slope(*given, outputs)
    for a, b in zip(ln.tree.leaves(there), ln.tree.leaves(here), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-5, atol=1e-6)
