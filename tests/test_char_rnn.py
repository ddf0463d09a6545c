"""examples/char_rnn: text, cells beside PyTorch's, training, the program."""

from __future__ import annotations

import doctest
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import lantern as ln
from examples.char_rnn import __main__ as program
from examples.char_rnn import model, text, train
from examples.char_rnn.model import CELLS
from examples.char_rnn.text import DEFAULT, read, windows
from examples.llama3.files import Problem

SHAKESPEARE = Path(__file__).parents[2] / "shared" / "data" / "tinyshakespeare.txt"
SMALL = ["--hidden", "8", "--steps", "10", "--batch", "4"]
VERSES = "Full fathom five thy father lies; of his bones are coral made. " * 20


@pytest.fixture
def verses(tmp_path: Path) -> Path:
    path = tmp_path / "verses.txt"
    path.write_text(VERSES)
    return path


def test_docstrings() -> None:
    assert doctest.testmod(text).failed == 0


@given(st.integers(1, 5), st.integers(1, 6), st.integers(2, 100))
def test_windows_go_through_the_text(batch: int, steps: int, length: int) -> None:
    numbers = np.arange(length)
    if length < batch * steps + 1:
        with pytest.raises(Problem, match=rf"this has {length} letters"):
            list(windows(numbers, batch, steps, "this"))
        return
    pairs = list(windows(numbers, batch, steps, "this"))
    x, y = (np.concatenate(side) for side in zip(*pairs, strict=True))
    np.testing.assert_array_equal(y, x + 1)
    np.testing.assert_array_equal(x.T.ravel(), np.arange(x.size))  # strand after strand
    assert length - 1 - x.size < batch * steps


@pytest.mark.skipif(not SHAKESPEARE.exists(), reason="the text is not here")
def test_another_text_is_read() -> None:
    found = read(SHAKESPEARE)
    assert len(found.letters) == 65
    assert found.decode(found.train[:14]) == "First Citizen:"
    assert len(found.train) + len(found.valid) == 1_115_394
    own = read(DEFAULT)
    assert set(own.letters) <= set(found.letters)
    assert found.decode(found.train).startswith(own.decode(own.train))


def test_texts_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="there is no "):
        read(tmp_path / "none.txt")
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(Problem, match="is not text"):
        read(tmp_path / "bad.txt")
    (tmp_path / "short.txt").write_text("too short")
    with pytest.raises(Problem, match="choose a smaller --batch"):
        train.train(read(tmp_path / "short.txt"), train.Settings(), Console(quiet=True))


@pytest.mark.peer
@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("compiled", [False, True])
def test_cells_agree_with_pytorch(kind: str, compiled: bool) -> None:
    """Outputs, last states, and the gradients of all parameters and inputs, in float64."""
    torch = pytest.importorskip("torch")
    steps, batch, inputs, hidden = 6, 3, 4, 5
    cell = CELLS[kind]
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(steps, batch, inputs))
    starts = [rng.normal(size=(batch, hidden)) for _ in range(cell.states)]
    weight = rng.normal(size=(steps, batch, hidden))
    params = ln.tree.map(
        lambda x: ln.astype(x, ln.float64), cell.init(ln.random.key(0), inputs, hidden)
    )

    def total(params: Any, state: Any, xs: Any) -> Any:
        last, hs = model.unroll(cell, params, state, xs)
        return ln.sum(hs * weight) + sum(ln.sum(x * x) for x in ln.tree.leaves(last)), hs

    state = starts[0] if cell.states == 1 else tuple(starts)
    run = ln.value_and_grad(total, argnums=(0, 1, 2), has_aux=True)
    (value, hs), found = (ln.compile(run) if compiled else run)(params, state, xs)

    peer = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[kind]
    module = peer(inputs, hidden).double()
    with torch.no_grad():
        for name, x in params.items():
            getattr(module, f"{name}_l0").copy_(torch.from_numpy(np.array(x)))
    x, *begin = (torch.from_numpy(v).requires_grad_() for v in (xs, *starts))
    given = [s[None] for s in begin]
    ys, last = module(x, given[0] if cell.states == 1 else tuple(given))
    ends = [last] if cell.states == 1 else last
    expected = (ys * torch.from_numpy(weight)).sum() + sum((e * e).sum() for e in ends)
    expected.backward()
    assert float(value) == pytest.approx(expected.item(), rel=1e-12)
    np.testing.assert_allclose(hs, ys.detach().numpy(), rtol=1e-10, atol=1e-12)
    for name, gradient in found[0].items():
        other = getattr(module, f"{name}_l0").grad.numpy()
        np.testing.assert_allclose(gradient, other, rtol=1e-9, atol=1e-11)
    for gradient, tensor in zip(ln.tree.leaves(found[1:]), [*begin, x], strict=True):
        np.testing.assert_allclose(gradient, tensor.grad.numpy(), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", CELLS)
def test_a_text_is_learnt_by_heart(kind: str, verses: Path) -> None:
    settings = train.Settings(kind, hidden=24, batch=4, steps=12, epochs=25)
    learnt = read(verses)
    outcome = train.train(learnt, settings, Console(quiet=True))
    assert outcome.finished
    assert outcome.valid[-1][1] < 0.5 * outcome.valid[0][1]
    cell = CELLS[kind]
    one, two = (
        "".join(train.write(cell, outcome.params, learnt, "Full", 30, 0.5, seed=1))
        for _ in range(2)
    )
    assert one == two and len(one) == 30 and set(one) <= set(learnt.letters)


def test_writing_refuses_what_it_has_never_seen(verses: Path) -> None:
    learnt = read(verses)
    params = model.init(ln.random.key(0), CELLS["gru"], len(learnt.letters), 4)
    with pytest.raises(Problem, match="the text has no 'X', 'Y'"):
        next(train.write(CELLS["gru"], params, learnt, "YX", 1, 1.0, 0))
    with pytest.raises(Problem, match="--prompt is empty"):
        next(train.write(CELLS["gru"], params, learnt, "", 1, 1.0, 0))


def test_the_program_learns_writes_and_saves(
    tmp_path: Path, verses: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    given = [*SMALL, "--text", str(verses), "--epochs", "3", "--cell", "rnn", "--prompt", "Full"]
    assert program.main([*given, "--letters", "20", "--run", str(tmp_path)]) == 0
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert "cell" in ln.io.load(tmp_path / "params.safetensors")
    said = capsys.readouterr().out
    assert "bits a letter" in said and "a sample" in said and "\nFull" in said


def test_an_interrupt_keeps_what_was_learnt(
    tmp_path: Path, verses: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    show = train.Display.show

    def interrupted(self: Any, done: int, **numbers: float) -> None:
        show(self, done, **numbers)
        if done == 120:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(train.Display, "show", interrupted)
    given = [*SMALL, "--text", str(verses), "--run", str(tmp_path)]
    assert program.main([*given, "--prompt", "F"]) == program.INTERRUPTED
    assert (tmp_path / "params.safetensors").exists() and (tmp_path / "loss.png").exists()


def test_errors_are_one_line(
    tmp_path: Path, verses: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main(["--text", str(tmp_path / "none")]) == 1
    assert program.main(["--text", str(verses), "--hidden", "0"]) == 1
    assert program.main(["--text", str(verses), "--prompt", "Ariel"]) == 1
    first, second, third = capsys.readouterr().err.splitlines()
    assert first == f"error: there is no {tmp_path / 'none'}"
    assert second == "error: --hidden is 0; it must be above 0"
    assert third == "error: the text has no 'A'"
