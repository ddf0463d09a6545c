"""The benchmarks run, contenders agree, and the harness refuses those that do not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import (
    cnn,
    decode,
    eager_overhead,
    finetune,
    finetune_jobs,
    first_token,
    fresh,
    kernels,
    llama3_step,
    loops,
    recurrent,
    recursion,
    treelstm,
)
from benchmarks.harness import (
    Contender,
    Options,
    Worker,
    Workload,
    agree,
    chosen,
    joined,
    measure,
    team,
)
from benchmarks.report import save
from benchmarks.worker import TOTAL, Clock, Job
from examples.llama3 import weights
from examples.llama3.files import Problem

OPTIONS = Options(quick=True)


def thinker(value: float) -> Job:
    def run(clock: Clock) -> None:
        clock.lap("thinking")

    return Job(lambda: [np.full(3, value)], run)


def work(*values: float) -> Workload:
    contenders = [
        Contender(f"number {i}", "tests.test_benchmarks:thinker", {"value": v}, at_least=0.0)
        for i, v in enumerate(values)
    ]
    return Workload("w", "thinking", contenders, 1, "thought", rtol=1e-6, rounds=2)


@pytest.fixture(scope="module")
def workers() -> Iterator[dict[str, Worker]]:
    """A process for each contender of all workloads: to load a library takes it long."""
    with team() as workers:
        yield workers


def validate(work: Workload, workers: dict[str, Worker], names: set[str]) -> None:
    """Have some contenders compute, each in its process, and compare."""
    contenders = [c for c in chosen(work, OPTIONS) if c.name in names]
    results = [joined(c, OPTIONS, workers).ask("check") for c in contenders]
    agree(work, contenders, results)


def test_measures_every_contender_in_every_phase() -> None:
    entries = measure(work(42.0, 42.0), OPTIONS).entries
    assert {(e.contender, e.what) for e in entries} == {
        (f"number {i}", phase) for i in (0, 1) for phase in ("thinking", TOTAL)
    }
    assert all(e.value > 0 and len(e.rounds) >= 2 for e in entries)
    assert [e.met for e in entries if e.what == TOTAL] == [None, True]


def test_refuses_contenders_that_disagree() -> None:
    with pytest.raises(AssertionError, match=r"differ by 1, where the largest entry is 42"):
        measure(work(42.0, 43.0), OPTIONS)


def test_a_contender_that_rounds_more_may_differ_more() -> None:
    rounding = work(42.0, 43.0)
    contenders = [rounding.contenders[0], replace(rounding.contenders[1], rtol=0.03)]
    agree(rounding, contenders, [[42.0], [43.0]])
    with pytest.raises(AssertionError, match="number 1 and of number 0 differ by 2,"):
        agree(rounding, contenders, [[42.0], [44.0]])


def test_says_what_went_wrong_in_a_contender() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)number 0: .*could not convert"):
        measure(
            Workload(
                "w",
                "thinking",
                [Contender("number 0", "tests.test_benchmarks:failing")],
                1,
                "thought",
                rtol=0.0,
            ),
            OPTIONS,
        )


def failing() -> Job:
    return Job(lambda: [float("x")], lambda clock: None)


@pytest.mark.peer
@pytest.mark.parametrize("kind", eager_overhead.KINDS)
def test_chains_agree_with_peers(workers: dict[str, Worker], kind: str) -> None:
    validate(eager_overhead.workload(kind, 100), workers, {"lantern", "PyTorch", "autograd"})


@pytest.mark.peer
def test_networks_agree_with_peers(workers: dict[str, Worker]) -> None:
    validate(cnn.workload(10, OPTIONS), workers, {"lantern", "eager lantern", "PyTorch", "JAX"})


@pytest.mark.peer
@pytest.mark.parametrize("row", recursion.ROWS)
def test_recursions_agree_with_peers(workers: dict[str, Worker], row: str) -> None:
    validate(recursion.workload(row, recursion.SHORT), workers, {"lantern", "PyTorch"})


@pytest.mark.peer
@pytest.mark.parametrize("row", loops.ROWS)
def test_loops_agree_with_peers(workers: dict[str, Worker], row: str) -> None:
    validate(
        loops.workload(row, loops.SHORT), workers, {"lantern", "JAX", "JAX, steps known", "PyTorch"}
    )


@pytest.mark.peer
@pytest.mark.parametrize("cell", recurrent.GATES)
def test_recurrent_networks_agree_with_peers(workers: dict[str, Worker], cell: str) -> None:
    work = recurrent.workload(cell, OPTIONS)
    names = {c.name for c in work.contenders} - {"torch.compile", "PyTorch, one thread"}
    validate(work, workers, names)


@pytest.mark.peer
@pytest.mark.parametrize("name", treelstm.AT_LEAST)
def test_tree_networks_agree_with_peers(workers: dict[str, Worker], name: str) -> None:
    work = treelstm.workload(name, OPTIONS)
    validate(work, workers, {c.name for c in work.contenders})


@pytest.mark.peer
def test_kernels_agree_with_peers(workers: dict[str, Worker]) -> None:
    for kernel in kernels.KERNELS:
        work = kernels.workload(kernel, 1024, OPTIONS, None)
        some = [c for c in work.contenders if c.name != "torch.compile"]
        measure(replace(work, contenders=some, rounds=1), OPTIONS, workers)


def test_starts_are_measured() -> None:
    """How long it compiles, and the memory, of a fresh process."""
    results = fresh.starts(Options(quick=True, only=("lantern",)))
    assert [r.row for r in results] == ["memory", "compile"]
    assert all(e.value > 0 for r in results for e in r.entries)


def test_first_tokens_are_timed(tmp_path: Path) -> None:
    """What is printed ahead of the first token does not count, and nothing is no token."""

    def printing(text: str) -> first_token.Command:
        program = f"import sys; sys.stdout.write({text!r}); sys.stdout.flush(); input()"
        return first_token.Command("a", ("-c", program), typed="\n", ahead="Once")

    seconds, token = first_token.begin(printing("Once, there"), 1, str(tmp_path))
    assert seconds > 0
    assert token == ", there"
    with pytest.raises(RuntimeError, match="a printed b'Once' instead of a token"):
        first_token.begin(printing("Once"), 1, str(tmp_path))
    lines = first_token.entries({
        "lantern": first_token.Starts(4.0, [1.0, 2.0, 1.4]),
        "other": first_token.Starts(9.0, [2.0, 2.0, 2.8]),
    })  # fmt: skip
    assert [(e.contender, e.what, e.value, e.ratio, e.met) for e in lines] == [
        ("lantern", "warm", 1.4, None, True), ("lantern", "cold", 4.0, None, None),
        ("other", "warm", 2.0, 2.0, None),
    ]  # fmt: skip


@pytest.mark.peer
def test_first_tokens_agree_with_peers(tmp_path: Path) -> None:
    try:
        model = weights.smollm2()
    except Problem as missing:
        pytest.skip(str(missing))
    names = ("lantern", "llama.cpp")
    chosen = first_token.commands(model, tmp_path, 1)
    some = [one for one in chosen if one.name in names and first_token.present(one, OPTIONS)]
    tokens = {one.name: first_token.begin(one, 1, str(tmp_path))[1] for one in some}
    first_token.agree(some, tokens)
    with pytest.raises(AssertionError, match="the first tokens are"):
        first_token.agree(some, {**tokens, "lantern": "!"})


def test_results_are_written_beside_those_of_earlier_runs(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    about = {
        "cpu": {"model": "a processor", "features": ["fma"]}, "cores": 2, "cores_seen": 2.0,
        "threads": 1, "bandwidth": 1e10, "sgemm": None, "python": "3", "versions": {"numpy": "2"},
    }  # fmt: skip
    result = measure(work(42.0, 42.0), OPTIONS)
    save([result], about, tmp_path)
    save([replace(result, row="another")], about, tmp_path)
    text = (tmp_path / "results.md").read_text()
    assert "## w: thinking" in text and "## another: thinking" in text and "number 1" in text
    assert set(json.loads((tmp_path / "results.json").read_text())["rows"]) == {"w", "another"}
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.peer
def test_training_steps_agree_with_peers(workers: dict[str, Worker]) -> None:
    contenders = llama3_step.contenders("tiny", OPTIONS)
    work = Workload("tiny", "a step", contenders, 1, "step", rtol=2e-3)
    validate(work, workers, {"lantern", "eager lantern", "PyTorch", "JAX"})


@pytest.mark.peer
def test_decoders_agree_with_peers(workers: dict[str, Worker]) -> None:
    floats = decode.in_float32("tiny", 3, OPTIONS)
    work = Workload("d", "decoding", floats, 3, "token", 1e-4)
    validate(work, workers, {"lantern", "plain C, as llama2.c", "PyTorch, eager"})
    read = Workload("p", "reading", decode.prompts("tiny", 3, OPTIONS), 3, "token", 1e-4)
    validate(read, workers, {"lantern", "PyTorch, eager"})


@pytest.mark.peer
@pytest.mark.parametrize("bits", decode.WANTED)
def test_decoders_in_few_bits_agree_with_peers(workers: dict[str, Worker], bits: int) -> None:
    few = decode.in_few_bits("A", bits, 3, OPTIONS)
    work = Workload("d", "decoding", few, 3, "token", decode.ROUNDED)
    validate(work, workers, {"lantern", "lantern in float32", "llama.cpp, 1 thread"})


@pytest.mark.peer
def test_steps_of_fine_tuning_agree_with_peers(workers: dict[str, Worker], tmp_path: Path) -> None:
    work = finetune.workload("tiny", finetune_jobs.written(tmp_path, "tiny", False), OPTIONS)
    validate(work, workers, {"lantern", "PyTorch", "PyTorch, updates in backward"})
