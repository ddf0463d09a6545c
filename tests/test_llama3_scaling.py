"""examples/llama3: scaling laws, of made-up losses that follow one, and of runs."""

from __future__ import annotations

import dataclasses
import doctest
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from examples.llama3 import __main__ as program
from examples.llama3 import scaling, study
from examples.llama3.config import ModelConfig
from examples.llama3.files import Problem
from examples.llama3.scaling import Run, bootstrap, law, optima, spread
from examples.llama3.study import Plan, Study, StudyConfig
from examples.llama3.utilisation import flops_per_token, matrix_parameters

TOKENS, LOSS = (0.5, 0.53), (8.0, 0.06)  # N* = 0.5 C^0.53, L = 8 C^-0.06


def made(budgets: Any, noise: float = 0.0, seed: int = 0) -> list[Run]:
    """Runs whose losses are parabolas around the optima of a law."""
    rng, runs = np.random.default_rng(seed), []
    for c in budgets:
        best, lowest = TOKENS[0] * c ** TOKENS[1], LOSS[0] * c ** -LOSS[1]
        for times in (0.2, 0.5, 1.0, 2.5, 6.0):
            tokens = int(best * times)
            loss = lowest + 0.04 * np.log(tokens / best) ** 2 + noise * rng.standard_normal()
            runs.append(Run(c, 8, 2, int(c / 6 / tokens), tokens, c, float(loss), 1.0))
    return runs


@settings(max_examples=25)
@given(st.lists(st.integers(10, 18), min_size=2, max_size=5, unique=True))
def test_a_law_is_found_again(powers: list[int]) -> None:
    runs = made([10.0**p for p in powers])
    found = law(optima(runs))
    assert found is not None
    assert found.tokens == pytest.approx(TOKENS, rel=1e-3)
    assert found.loss.factor == pytest.approx(LOSS[0], rel=1e-3)
    assert found.loss.exponent == pytest.approx(-LOSS[1], rel=1e-3)


def test_ranges_hold_the_truth_about_as_often_as_they_say() -> None:
    budgets, inside, widths = [1e12, 1e13, 1e14], 0, []
    for seed in range(24):
        runs = made(budgets, noise=0.01, seed=seed)
        drawn = bootstrap(runs, seed, 30)
        found = law(optima(runs))
        assert found is not None and len(drawn) > 25
        known = spread(found.tokens.exponent, [d.tokens.exponent for d in drawn])
        inside += known.low <= TOKENS[1] <= known.high
        widths.append(known.high - known.low)
    assert inside >= 15  # about 21 are expected; two freedoms a curve are few
    quiet = bootstrap(made(budgets, noise=0.001), 0, 30)
    narrow = spread(0.0, [d.tokens.exponent for d in quiet])
    assert narrow.high - narrow.low < 0.3 * np.median(widths)


def test_an_optimum_beyond_the_sizes_is_not_made_up() -> None:
    runs = made([1e12, 1e13])
    rising = [
        dataclasses.replace(r, loss=float(np.log(r.tokens) ** 2)) for r in runs if r.budget == 1e12
    ]
    low = [r for r in runs if r.budget == 1e13]
    assert [o.budget for o in optima([*rising, *low])] == [1e13]
    assert law(optima([*rising, *low])) is None
    lines = "\n".join(scaling.law_lines([*rising, *low], None, []))
    assert "best size is not among those that were tried" in lines and "No law" in lines
    concave = [dataclasses.replace(r, loss=-r.loss) for r in low]
    assert not optima(concave)


def test_sizes_lie_around_the_rule_of_thumb_and_use_their_budget() -> None:
    config = StudyConfig()
    for budget in (1e11, 1e12, 1e14):
        sizes = study.around(budget, 5, 128, 263)
        assert sizes == sorted(set(sizes)) and len(sizes) == 5
        for width in sizes:
            plan = Plan(budget, width)
            shape = plan.config(128, 263)
            shape.check()
            took = plan.steps(config, 263) * config.batch * 128 * flops_per_token(shape, 128)
            assert took == pytest.approx(budget, rel=0.1)
        parameters = [matrix_parameters(Plan(budget, w).config(128, 263)) for w in sizes]
        middle = (budget / 6 / study.RATIO) ** 0.5
        assert parameters[0] < middle < parameters[-1]
    found = scaling.Law(scaling.Power(0.5, 0.53), scaling.Power(8.0, -0.06))
    plan = study.predicted(found, 1e14, 128, 263)
    a_token = flops_per_token(plan.config(128, 263), 128)
    assert 1e14 / a_token == pytest.approx(found.tokens(1e14), rel=0.15) and plan.check


SMALL = ["--budgets", "2", "--sizes", "3", "--context", "16", "--batch", "2", "--eager"]


def test_a_study_is_run_killed_and_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    text, folder = tmp_path / "text.txt", tmp_path / "study"
    text.write_text("".join(f"line {k}: {k * k}\n" for k in range(400)))
    monkeypatch.setattr(study, "measured", lambda *_: (0.01, 3e8))
    monkeypatch.setattr(study, "fitting", lambda *_: 2e7)
    monkeypatch.setattr(study, "around", lambda budget, *_: [8, 12, 16])
    usual, runs = study.train, []

    def interrupted(*args: Any, **more: Any) -> Any:
        runs.append(args[2])
        if len(runs) == 3:
            usual(*args, **more, stop_at=4)
            raise KeyboardInterrupt
        return usual(*args, **more)

    monkeypatch.setattr(study, "train", interrupted)
    command = ["scaling", "--run", str(folder), "--data", str(text), *SMALL, "--check"]
    assert program.main(command) == 130
    done = scaling.read_runs(folder / scaling.RUNS)
    assert [r.dim for r in done] == [8, 12]
    assert program.main(command) == 0
    assert runs[2] == runs[3] and "going on from step 4" in capfd.readouterr().out
    found = scaling.read_runs(folder / scaling.RUNS)
    assert found[:2] == done and len(found) - sum(r.check for r in found) == 6
    assert all(r.flops == pytest.approx(r.budget, rel=0.2) and r.loss > 0 for r in found)
    report = (folder / scaling.REPORT).read_text(encoding="utf-8")
    assert report.count("| 8 |") == 2 and (folder / scaling.CURVES).stat().st_size > 1000
    assert not list(folder.rglob("step-*"))
    assert program.main([*command, "--seed", "1"]) == 1
    assert "holds a study with other settings" in capfd.readouterr().err


@pytest.mark.parametrize("line", ["1,2", "a,b,c,d,e,f,g,h,i", "\0", ""])
def test_a_damaged_table_is_named_with_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / scaling.RUNS
    run = Run(1e9, 8, 1, 100, 1000, 1e9, 3.5, 1.0)
    scaling.save_runs(path, [run])
    assert scaling.read_runs(path) == [run]
    path.write_text(path.read_text().replace("1000000000.0", line, 1))
    with pytest.raises(Problem, match=r"runs\.csv, line 2, is no run"):
        scaling.read_runs(path)


def test_too_little_time_is_refused_with_how_much_it_takes() -> None:
    config = StudyConfig(minutes=0.1)
    with pytest.raises(Problem, match=r"too little for 15 runs, .* give at least 2"):
        study.fitting(config, 263, 5.0, 1e10, False)
    enough = dataclasses.replace(config, minutes=10.0)
    budget = study.fitting(enough, 263, 5.0, 1e10, True)
    assert 16 * 5 + (5 * 7 + 16) * budget / 1e10 == pytest.approx(600)
    for bad in ({"sizes": 2}, {"minutes": -1.0}, {"budgets": 1}):
        with pytest.raises(Problem, match="must be"):
            StudyConfig(**bad).check()


def test_the_time_is_measured_on_a_run_that_is_dropped(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"line {k}: {k * k}\n" for k in range(400)))
    config = StudyConfig(data=(str(text),), context=16, batch=2, eager=True, minutes=1.0)
    one = Study(tmp_path / "study", config, Console(file=io.StringIO()))
    about = study.TrainConfig(data=config.data, tokenizer="bytes")
    study.encode(about, study.find(config.data), one.folder / study.TOKENS, one.console)
    overhead, rate = study.measured(config, one.folder / study.TOKENS, 263)
    assert 0 < overhead < 60 and rate > 1e5
    assert [p.name for p in one.folder.iterdir()] == [study.TOKENS]


def test_examples() -> None:
    assert not doctest.testmod(scaling).failed
    assert ModelConfig(vocab=9, **Plan(1.0, 100).model(8)).head_dim % 2 == 0
