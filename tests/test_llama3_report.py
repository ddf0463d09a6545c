"""The report of a run: its numbers are those of the account, by hand."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

import lantern as ln
from examples.llama3 import report
from examples.llama3.__main__ import main
from examples.llama3.files import Problem
from examples.llama3.progress import LOG, Log, Row
from examples.llama3.report import PICTURE, repriced, write_report
from lantern.carbon import LEDGER, Entry, Range
from lantern.carbon.ledger import append

SAME = ("estimated: x", "Here, 100 g/kWh", 1.0, "a server", ("a server",))
WORK = (
    Entry("data", 60.0, 3.6e5, 10.0, Range(1.0, 2.0, 4.0), 0, *SAME),
    Entry("training", 3600.0, 3.6e6, 100.0, Range(10.0, 20.0, 40.0), 500_000, *SAME),
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for entry in WORK:
        append(tmp_path / LEDGER, entry)
    with Log(tmp_path / LOG, 0) as log:
        for step in range(1, 4):
            log.add(Row(step, 100 * step, 3.0, 4.0 / step, 2.0 if step == 3 else None, 1, 1, 1))
    return tmp_path


def cells(text: str, phase: str) -> list[list[str]]:
    """The rows of a phase, as lists of cells."""
    found = [line for line in text.splitlines() if line.startswith(f"| {phase} ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found]


def test_numbers_are_those_of_the_account(run: Path) -> None:
    text = write_report(run).read_text(encoding="utf-8")
    assert "132 g of CO2e (121 g to 154 g), 1.1 kWh, 1.02 h." in text
    assert "3 steps and 300 tokens the model needs 2.000 bits" in text
    once, million = cells(text, "training")
    both = cells(text, "together")[0]
    assert once[1:] == ["500,000", "1 h", "1 kWh", "100 g", "20 g (10 g to 40 g)", "120 g"]
    assert both[4:] == ["110 g", "22 g (11 g to 44 g)", "132 g"]
    assert million[1:] == ["1,000,000", "2 h", "2 kWh", "200 g", "40 g (20 g to 80 g)", "240 g"]
    assert cells(text, "data")[0][1] == "0" and not cells(text, "inference")
    assert ln.carbon.FIGURES["a server"].source in text and "estimated: x" in text
    assert (run / PICTURE).read_bytes().startswith(b"\x89PNG")


def test_another_grid_and_building(run: Path) -> None:
    text = write_report(run, grid=50.0, pue=1.5).read_text(encoding="utf-8")
    assert cells(text, "training")[0][3:5] == ["1.5 kWh", "75 g"]
    assert "as given, 50 g/kWh; times 1.5" in text
    assert repriced(WORK[1], None, None) == WORK[1]


@pytest.mark.parametrize(
    ("grid", "pue", "message"), [("Nowhere", None, "no grid of"), (None, 0.5, "at least 1")]
)
def test_what_cannot_be(run: Path, grid: str | None, pue: float | None, message: str) -> None:
    with pytest.raises(Problem, match=message):
        write_report(run, grid, pue)


def test_the_command(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--run", str(run), "--grid", "50"]) == 0
    assert str(run / report.REPORT) in capsys.readouterr().out.replace("\n", "")
    assert main(["report", "--run", str(tmp_path / "none")]) == 1
    assert "no account of energy" in capsys.readouterr().err
    (run / LEDGER).write_text("{}\n")
    assert main(["report", "--run", str(run)]) == 1
    assert "line 1, is no entry" in capsys.readouterr().err


def test_examples() -> None:
    assert not doctest.testmod(report).failed


def test_runs_are_accounted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Training, going on, writing and beginning anew: each adds to the account; what is replaced
    was an experiment."""
    text, folder = tmp_path / "text.txt", tmp_path / "run"
    text.write_text("the quick brown fox jumps over the lazy dog\n" * 40)
    train = ["train", "--run", str(folder)]
    small = [
        "--data", str(text), "--tokenizer", "bytes", "--dim", "16", "--ffn", "16", "--heads", "2",
        "--kv-heads", "1", "--layers", "1", "--context", "8", "--batch", "2", "--steps", "3",
        "--eager",
    ]  # fmt: skip
    assert main([*train, "--heads", "5"]) == 1 and not folder.exists()
    assert main([*train, *small, "--stop-at", "2"]) == 0
    assert main([*train, "--resume"]) == 0
    found = ln.carbon.entries(folder / LEDGER)
    assert [e.phase for e in found] == ["data", "training"] * 2
    assert [e.tokens for e in found] == [0, 2 * 16, 0, 16]
    assert all(e.joules > 0 and e.embodied.low > 0 for e in found)
    assert main(["generate", "--run", str(folder), "--tokens", "4"]) == 0
    last = ln.carbon.entries(folder / LEDGER)[-1]
    assert last.phase == "inference" and last.tokens == 5  # the begin of a text, and four
    assert main([*train, *small, "--overwrite"]) == 0
    phases = [e.phase for e in ln.carbon.entries(folder / LEDGER)]
    assert phases == ["experimentation"] * 5 + ["data", "training"]
    report = (folder / "report.md").read_text(encoding="utf-8")
    assert cells(report, "experimentation") and cells(report, "training")
    capsys.readouterr()
