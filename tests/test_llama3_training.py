"""examples/llama3: training, resuming, the errors a user meets, the command line."""

from __future__ import annotations

import csv
import dataclasses
import doctest
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import lantern as ln
from examples.llama3 import __main__ as program
from examples.llama3 import checkpoint, plot, step, tokenizer, utilisation
from examples.llama3 import train as training
from examples.llama3.board import BOARD
from examples.llama3.config import Config, ModelConfig, TrainConfig, TuneConfig
from examples.llama3.data import NO_TARGET, Batch, Windows
from examples.llama3.files import Problem, write_atomically
from examples.llama3.model import init
from examples.llama3.plot import PLOT, plot_losses
from examples.llama3.progress import LOG, Log, Row, read_log
from examples.llama3.step import schedule_of
from examples.llama3.text import TOKENS, prepare
from examples.llama3.train import train
from lantern.carbon import Entry, Range, Reading
from lantern.carbon.ledger import append

TINY: dict[str, Any] = {
    "dim": 16, "layers": 2, "heads": 4, "kv_heads": 2, "ffn": 24, "context": 16,
}  # fmt: skip
SHORT: dict[str, Any] = {
    "tokenizer": "bytes", "batch": 2, "steps": 6, "validate_every": 2, "validation_sequences": 3,
    "save_every": 2, "valid_fraction": 0.2, "lr": 1e-2, "eager": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Five small text files."""
    return written(tmp_path_factory.mktemp("texts"))


def written(folder: Path) -> tuple[str, ...]:
    paths = []
    for i in range(5):
        path = folder / f"text{i}.txt"
        path.write_text("".join(f"line {k} of text {i}: {k * i}\n" for k in range(12)))
        paths.append(str(path))
    return tuple(paths)


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def start(texts: tuple[str, ...], run: Path, console: Console | None = None, **more: Any) -> Any:
    """Train the tiny model."""
    stop_at = more.pop("stop_at", None)
    settings = {**SHORT, "data": texts, **more}
    return train(TINY, settings, run, console or quiet(), stop_at=stop_at)


@pytest.fixture(scope="module")
def straight(texts: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A compiled run that nothing stopped: its folder, and how it ended."""
    run = tmp_path_factory.mktemp("straight") / "run"
    return run, start(texts, run, eager=False)


def model_config(**more: Any) -> ModelConfig:
    return ModelConfig(**{"vocab": 31, **TINY, **more})


# Training ---------------------------------------------------------------------------------------


def test_gradients_are_clipped_if_that_is_asked_for() -> None:
    """A gradient of norm 5, to a norm of 0.5, or not at all."""
    params = {"w": ln.zeros(2), "v": ln.zeros(1)}
    gradient = {"w": ln.asarray([3.0, 0.0]), "v": ln.asarray([4.0])}
    for clip, scale in ((0.5, 0.1), (0.0, 1.0)):
        optimizer = step.optimizer_of(TrainConfig(clip=clip, beta1=0.0))
        _, state = optimizer.update(gradient, optimizer.init(params), params)
        assert np.allclose(state[-1].first["w"], [3 * scale, 0.0])
        assert np.allclose(state[-1].first["v"], [4 * scale])
    assert TrainConfig().clip == 1.0 and TuneConfig().clip == 0.0


def columns(run: Path) -> list[tuple[Any, ...]]:
    """The log, without what a clock decides."""
    return [
        (r.step, r.tokens, r.loss, r.bits_per_byte, r.valid_bits_per_byte, r.gradient_norm, r.lr)
        for r in read_log(run / LOG)
    ]


def same(a: Any, b: Any) -> None:
    """Two pytrees are equal bit for bit."""
    for path, x, y in zip(ln.tree.paths(a), ln.tree.leaves(a), ln.tree.leaves(b), strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes(), path


def test_training_learns_and_leaves_its_files(texts: tuple[str, ...], tmp_path: Path) -> None:
    console = quiet()
    outcome = start(texts, tmp_path / "run", console, steps=30, save_every=5)
    assert outcome.finished
    rows = read_log(tmp_path / "run" / LOG)
    assert [r.step for r in rows] == list(range(1, 31))
    assert rows[-1].loss < 0.75 * rows[0].loss
    assert rows[0].loss == pytest.approx(math.log(258), rel=0.02)
    assert rows[0].bits_per_byte == pytest.approx(8, rel=0.05)
    assert rows[-1].valid_bits_per_byte is not None and rows[-1].valid_bits_per_byte < 7
    names = sorted(p.name for p in (tmp_path / "run").iterdir())
    assert names == sorted(
        [
            LOG,
            PLOT,
            TOKENS,
            "tokenizer.json",
            *(f"step-{step:07d}.safetensors" for step in (20, 25, 30)),
        ]
    )
    assert (tmp_path / "run" / PLOT).read_bytes().startswith(b"\x89PNG")
    assert "30/30 steps" in said(console) and "bits/byte" in said(console)


def test_a_resumed_run_is_bit_identical(
    texts: tuple[str, ...], straight: tuple[Path, Any], tmp_path: Path
) -> None:
    whole, outcome = straight
    stopped = start(texts, tmp_path / "b", stop_at=3, eager=False)
    assert not stopped.finished and stopped.state.step == 3
    resumed = train({}, {}, tmp_path / "b", quiet(), resume=True)
    assert resumed.finished and resumed.state.step == 6
    same(outcome.state, resumed.state)
    assert columns(whole) == columns(tmp_path / "b")
    same(outcome.state, checkpoint.load(resumed.checkpoint, like=outcome.state))


def test_a_resumed_run_has_the_tokenizer_that_it_learnt(
    texts: tuple[str, ...], tmp_path: Path
) -> None:
    more = {"tokenizer": "bpe", "bpe_vocab": 270}
    start(texts, tmp_path / "a", **more)
    start(texts, tmp_path / "b", stop_at=3, **more)
    assert train({}, {}, tmp_path / "b", quiet(), resume=True).finished
    assert columns(tmp_path / "a") == columns(tmp_path / "b")


def test_compiled_losses_are_eager_ones_to_rounding(texts: tuple[str, ...], tmp_path: Path) -> None:
    """In float64 over forty steps."""
    settings = TrainConfig(**{**SHORT, "data": texts, "steps": 40})
    text = prepare(settings, tmp_path, quiet())
    config = Config(ModelConfig(vocab=text.tokenizer.vocab, **TINY), settings)
    batches = Windows(text.train, config.model.context, ln.random.key(1))
    losses = []
    for eager in (True, False):
        ours = dataclasses.replace(config, train=dataclasses.replace(settings, eager=eager))
        state = step.begin(ours)
        params = ln.tree.map(lambda p: ln.astype(p, ln.float64), state.params)
        moments = step.optimizer_of(settings).init(params)
        state = step.owned(state._replace(params=params, optimizer=moments))
        advance, found = step.step_of(ours), []
        for i in range(40):
            state, value, _ = advance(state, batches.batch(2 * i, 2))
            found.append(value)
        losses.append(found)
    assert losses[0][-1] < 0.9 * losses[0][0]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-9)


def test_a_run_in_bfloat16_learns_the_same(
    texts: tuple[str, ...], straight: tuple[Path, Any], tmp_path: Path
) -> None:
    plain, narrow = straight[1], start(texts, tmp_path / "b", bf16=True)
    for one, other in zip(columns(straight[0]), columns(tmp_path / "b"), strict=True):
        assert one[2] == pytest.approx(other[2], rel=5e-3)
    params = zip(ln.tree.leaves(plain.state), ln.tree.leaves(narrow.state), strict=True)
    assert all(getattr(a, "dtype", None) == getattr(b, "dtype", None) for a, b in params)


def test_a_step_in_parts_has_the_gradient_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    tokens, targets = rng.integers(0, 31, (2, 4, 8))
    targets[0] = targets[2, 3:] = NO_TARGET  # parts count by their targets; one has none at all
    batch = Batch(tokens, targets, np.zeros((4, 8), np.int64))
    params = init(ln.random.key(0), model_config())
    whole, eager, native = (
        step.gradient_of(Config(model_config(), TrainConfig(batch=4, accumulate=n)))
        for n in (1, 4, 4)
    )
    value, gradient = whole(params, *batch)
    for function in (eager, ln.compile(native)):
        found, parts = function(params, *batch)
        assert float(found) == pytest.approx(float(value), rel=1e-6)
        for path, a, b in zip(
            ln.tree.paths(params), ln.tree.leaves(gradient), ln.tree.leaves(parts), strict=True
        ):
            np.testing.assert_allclose(b, a, atol=1e-6 * np.abs(np.asarray(a)).max(), err_msg=path)


def test_blocks_that_run_again_have_the_same_gradient_in_less_memory() -> None:
    """Alone, and together with parts of a step and bfloat16."""
    model = model_config(layers=4, context=32)
    rng = np.random.default_rng(0)
    tokens, targets = rng.integers(0, 31, (2, 2, 32))
    batch = Batch(tokens, targets, np.zeros((2, 32), np.int64))
    params = init(ln.random.key(0), model)

    def gradient(**more: Any) -> Any:
        return step.gradient_of(Config(model, TrainConfig(batch=2, **more)))

    for more, error in (({}, 1e-6), ({"accumulate": 2, "bf16": True}, 1e-2)):
        value, kept = gradient(**more)(params, *batch)
        for blocks in (1, 3):
            again, parts = gradient(checkpoint=blocks, **more)(params, *batch)
            assert float(again) == pytest.approx(float(value), rel=error)
            for a, b in zip(ln.tree.leaves(kept), ln.tree.leaves(parts), strict=True):
                np.testing.assert_allclose(b, a, atol=error * np.abs(np.asarray(a)).max())
    roofline = ln.Machine(1e11, ((math.inf, 1e10),))
    all_kept, two, one = (
        ln.compile(gradient(checkpoint=n)).cost(params, *batch, machine=roofline).workspace
        for n in (0, 2, 1)
    )
    assert one < two < 0.7 * all_kept


def test_a_run_that_accumulates_goes_on_bit_for_bit(texts: tuple[str, ...], tmp_path: Path) -> None:
    more = {"batch": 4, "accumulate": 2, "steps": 4}
    start(texts, tmp_path / "a", **more)
    start(texts, tmp_path / "b", stop_at=3, **more)
    train({}, {}, tmp_path / "b", quiet(), resume=True)
    assert columns(tmp_path / "a") == columns(tmp_path / "b")
    with pytest.raises(Problem, match="--batch 4 is not a multiple of --accumulate 3"):
        start(texts, tmp_path / "c", batch=4, accumulate=3)


def test_ctrl_c_finishes_the_step_saves_and_says_how_to_go_on(
    texts: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = training.step_of

    def interrupted(config: Config, *objective: Any) -> Any:
        step = usual(config, *objective)

        def run(state: Any, batch: Any) -> Any:
            if state.step == 2:
                os.kill(os.getpid(), signal.SIGINT)
            return step(state, batch)

        return run

    monkeypatch.setattr(training, "step_of", interrupted)
    before, console = signal.getsignal(signal.SIGINT), quiet()
    outcome = start(texts, tmp_path / "run", console)
    assert signal.getsignal(signal.SIGINT) is before
    assert not outcome.finished and outcome.state.step == 3
    assert outcome.checkpoint.exists()
    assert "stopped after step 3 of 6" in said(console)
    assert f"train --run {tmp_path / 'run'} --resume" in said(console)
    monkeypatch.undo()
    assert train({}, {}, tmp_path / "run", quiet(), resume=True).finished


@pytest.mark.parametrize("which", ["loss", "gradient"])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(
    texts: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    usual = training.step_of

    def spoiled(config: Config, *objective: Any) -> Any:
        step = usual(config, *objective)

        def run(state: Any, batch: Any) -> Any:
            after, value, norm = step(state, batch)
            if after.step == 4:
                return after, math.nan if which == "loss" else value, math.inf
            return after, value, norm

        return run

    monkeypatch.setattr(training, "step_of", spoiled)
    expected = r"loss is nan" if which == "loss" else r"gradient's norm is inf"
    with pytest.raises(Problem, match=rf"{expected} at step 4 .*step-0000002\.safetensors"):
        start(texts, tmp_path / "run")
    assert [p.name for p in checkpoint.checkpoints(tmp_path / "run")][-1] == (
        "step-0000002.safetensors"
    )
    monkeypatch.undo()
    assert train({}, {}, tmp_path / "run", quiet(), resume=True).finished


def test_a_learning_rate_that_explodes_is_reported_without_warnings(
    texts: tuple[str, ...], tmp_path: Path
) -> None:
    with pytest.raises(Problem, match=r"is (nan|inf) at step \d+ \(learning rate"):
        start(texts, tmp_path / "run", lr=1e30, warmup=0.0)
    step = checkpoint.newest(tmp_path / "run")
    for leaf in ln.tree.leaves(checkpoint.load_params(step)):
        assert np.isfinite(np.asarray(leaf)).all()


def test_a_foreign_safetensors_file_is_refused(tmp_path: Path) -> None:
    path = checkpoint.path_of(tmp_path, 1)
    ln.io.save(path, {"w": ln.ones(3)})
    with pytest.raises(Problem, match="not a checkpoint of this program"):
        checkpoint.load_settings(path)
    with pytest.raises(Problem, match="not a checkpoint of this program"):
        checkpoint.load_params(path)
    ln.io.save(
        path, {"w": ln.ones(3)}, metadata={"config": '{"model": {"depth": 3}}', "data": "{}"}
    )
    with pytest.raises(Problem, match="settings of another version"):
        checkpoint.load_settings(path)


def test_resuming_with_other_settings_or_data_is_refused(tmp_path: Path) -> None:
    run, texts = tmp_path / "run", written(tmp_path)
    start(texts, run, stop_at=2)
    with pytest.raises(Problem, match=r"other settings: --dim 32 \(the run has 16\), --lr 0\.5"):
        train({"dim": 32}, {"lr": 0.5}, run, quiet(), resume=True)
    with pytest.raises(Problem, match=r"other settings: --data .*text0\.txt \(the run has"):
        train({}, {"data": texts[:1]}, run, quiet(), resume=True)
    Path(texts[1]).write_text(Path(texts[1]).read_text() + "more\n")
    shutil.rmtree(run / TOKENS)  # else the run goes on with what it has encoded
    with pytest.raises(Problem, match=r"the (training|validation) text is not what this run"):
        train(TINY, {**SHORT, "data": texts}, run, quiet(), resume=True)
    with pytest.raises(Problem, match=r"holds a run already .*--resume.*--overwrite"):
        start(texts, run)


def test_resuming_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Problem, match=r"no checkpoint in .*run"):
        train({}, {}, tmp_path / "run", quiet(), resume=True)


def test_a_time_sets_the_number_of_steps_and_the_schedule_fits_them(
    texts: tuple[str, ...], tmp_path: Path
) -> None:
    rare = {"validate_every": 10**6, "save_every": 10**6}
    outcome = start(texts, tmp_path / "run", minutes=0.02, steps=10**6, **rare)
    steps = outcome.config.train.steps
    assert outcome.finished and 1 <= steps < 10**4
    assert outcome.config.train.threads >= 1
    rates = [r.lr for r in read_log(tmp_path / "run" / LOG)]
    schedule = schedule_of(outcome.config.train)
    assert rates == [float(schedule(step)) for step in range(steps)]
    # A machine that is busy elsewhere does few steps in this time: too few to anneal.
    assert steps < 5 or rates[-1] < 0.2 * max(rates)
    assert checkpoint.load_settings(outcome.checkpoint)[0] == outcome.config


# What is shown and logged --------------------------------------------------------------------


def test_flops_are_those_of_the_program() -> None:
    """PaLM's count beside that of the compiled derivative, whose attention skips what is masked."""
    model = ModelConfig(vocab=512, dim=64, layers=2, heads=4, kv_heads=4, ffn=256, context=16)
    params = init(ln.random.key(0), model)
    batch = [np.zeros((4, 16), np.int64)] * 3
    gradient = ln.compile(step.gradient_of(Config(model, TrainConfig())))
    counted = gradient.cost(params, *batch, machine=ln.Machine(1e11, ((math.inf, 1e10),))).flops
    ours = 64 * utilisation.flops_per_token(model, 16)
    assert ours == pytest.approx(counted, rel=0.15)
    assert utilisation.flops_per_token(model, 17) - utilisation.flops_per_token(model, 16) == (
        12 * 2 * 64
    )


class Metered:
    """An account that has taken a joule for every second, at 3.6 kg a kilowatt-hour."""

    def __init__(self, path: Path) -> None:
        self.path, self.seconds = path, 0.0

    def read(self) -> Reading:
        self.seconds += 1
        return Reading(self.seconds, self.seconds * 5, self.seconds * 0.005, "a test")


def test_a_gauge_counts_what_earlier_sittings_took(tmp_path: Path) -> None:
    same = (Range(0, 0, 0), 0, "", "", 1.0, "")
    for phase, grams in (("experimentation", 7.0), ("data", 0.25), ("training", 0.5)):
        append(tmp_path / "carbon.jsonl", Entry(phase, 1.0, 1.0, grams, *same))
    account: Any = Metered(tmp_path / "carbon.jsonl")
    account.seconds = 10.0  # of this sitting, of which nothing is written yet
    gauge = utilisation.Gauge(model_config(), 1, account)
    used = gauge.read(1000, 16, 0.5)
    assert used.watts == pytest.approx(5.0)
    assert used.grams == pytest.approx(0.75 + 0.005 * (account.seconds - 11))
    per_second = 2000 * utilisation.flops_per_token(model_config(), 16)
    assert used.mfu == pytest.approx(per_second / utilisation.peak_flops(1))
    assert utilisation.Gauge(model_config(), 1, None).read(1, 16, 1.0).watts is None


def test_tensorboard_shows_the_log_also_of_a_run_that_was_killed(
    texts: tuple[str, ...], tmp_path: Path
) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = tmp_path / "run"
    start(texts, run, tensorboard=True, stop_at=5)
    checkpoint.path_of(run, 5).unlink()  # as a kill would leave it: the log is ahead
    train({}, {}, run, quiet(), resume=True)
    events = reader.EventAccumulator(str(run / BOARD)).Reload()
    rows = read_log(run / LOG)
    for tag in ("loss", "gradient_norm", "mfu", "tokens_per_second"):
        shown = events.Scalars(tag)
        assert [e.step for e in shown] == [r.step for r in rows]
        assert [e.value for e in shown] == pytest.approx([getattr(r, tag) for r in rows])
    assert "grams" not in events.Tags()["scalars"]
    assert len(events.Scalars("valid_bits_per_byte")) == 3


# Files and the command line ---------------------------------------------------------------------


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_atomically(path, lambda p: p.write_text("old"))

    def fail(p: Path) -> None:
        p.write_text("half of the n")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_log_reads_back_what_was_written(tmp_path: Path) -> None:
    rows = [
        Row(1, 32, 1 / 3, 1.1, None, 1e-9, 3e-4, 0.5),
        Row(2, 64, 1 / 3, 2.1, 2 / 7, 1e-9, 3e-4, 0.5, 64.0, 1 / 3, 12.5, 1e-5),
    ]
    with Log(tmp_path / LOG, 0) as log:
        for row in rows:
            log.add(row)
    assert read_log(tmp_path / LOG) == rows
    with open(tmp_path / LOG, newline="") as file:
        assert next(csv.reader(file))[:3] == ["step", "tokens", "loss"]
    plot_losses([], tmp_path / PLOT)
    assert (tmp_path / PLOT).stat().st_size > 1000


def test_settings_survive_json() -> None:
    config = Config(model_config(tied=False), TrainConfig(data=("a", "b"), lr=1e-3))
    assert Config.from_json(json.loads(json.dumps(config.to_json()))) == config


def contents(folder: Path) -> dict[Path, bytes]:
    """Every file in a folder."""
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_bad_data_do_not_cost_the_old_run(texts: tuple[str, ...], tmp_path: Path) -> None:
    run = tmp_path / "run"
    start(texts, run, stop_at=2)
    before = contents(run)
    for bad in ({"data": [str(tmp_path / "absent.txt")]}, {"data": texts[:1], "batch": 0}):
        with pytest.raises(Problem):
            train(TINY, {**SHORT, **bad}, run, quiet(), overwrite=True)
    with pytest.raises(Problem, match="too little"):
        train({**TINY, "context": 10**6}, {**SHORT, "data": texts}, run, quiet(), overwrite=True)
    assert contents(run) == before


def test_the_examples_in_docstrings_hold() -> None:
    for module in (tokenizer, plot, utilisation):
        failed, tried = doctest.testmod(module)
        assert tried and not failed


def test_unknown_options_and_commands_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["train", "--depth", "3"], ["trian"], ["train", "--lr", "fast"], []):
        with pytest.raises(SystemExit) as stop:
            program.main(arguments)
        assert stop.value.code == 2
        assert "usage: python -m examples.llama3" in capsys.readouterr().err


def test_the_command_line_trains_resumes_and_generates(
    texts: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "run")
    sizes = [f"--{k.replace('_', '-')}={v}" for k, v in {**TINY, **SHORT}.items() if k != "eager"]
    sizes.append("--eager")
    assert program.main(["train", "--run", run, *sizes, "--data", *texts, "--stop-at", "2"]) == 0
    assert "to go on: python -m examples.llama3 train" in capfd.readouterr().out
    assert program.main(["train", "--run", run, "--resume"]) == 0
    assert "loss.png" in capfd.readouterr().out
    options = ["--prompt", "line 1", "--tokens", "8"]
    assert program.main(["generate", "--run", run, *options]) == 0
    assert capfd.readouterr().out.startswith("line 1")
    assert program.main(["train", "--run", run, *sizes, "--data", *texts]) == 1
    assert "error: " in capfd.readouterr().err
    assert program.main(["generate", "--run", str(tmp_path / "none")]) == 1
    assert "no checkpoint in" in capfd.readouterr().err


@pytest.mark.parametrize(
    "command", [["batch", "nowhere"], ["chat", "--model", "nowhere.gguf"]], ids=lambda c: c[0]
)  # fmt: skip
def test_a_file_that_is_missing_is_named_once(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main(command) == 1
    assert (
        capsys.readouterr().err == f"error: cannot read {command[-1]}: No such file or directory\n"
    )


def test_the_module_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.llama3", "train", "--help"],
        cwd=Path(__file__).parent.parent, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "--kv-heads" in done.stdout and "(GQA)" in done.stdout
