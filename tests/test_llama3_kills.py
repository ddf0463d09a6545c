"""examples/llama3: a run that is killed, on a disk that is full, with files that are damaged."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import lantern as ln
from examples.llama3 import checkpoint
from examples.llama3.alone import LOCK, alone
from examples.llama3.files import Problem, sweep, write_atomically
from examples.llama3.finetune import SCORES, finetune
from examples.llama3.progress import LOG, read_log
from examples.llama3.train import train
from tests.killed_runs import EVERY, MODEL, MOMENTS, SETTINGS, STEPS, TUNING_MOMENTS


def curve(run: Path) -> list[tuple[object, ...]]:
    """The log, without what a clock decides."""
    return [
        (r.step, r.tokens, r.loss, r.bits_per_byte, r.valid_bits_per_byte, r.gradient_norm, r.lr)
        for r in read_log(run / LOG)
    ]


def started(folder: Path, stop_at: int | None = None, **more: object) -> Path:
    """A run of the tiny model, perhaps stopped on the way."""
    text, run = folder / "text.txt", folder / "run"
    text.write_text("".join(f"line {k}: {k * k}\n" for k in range(40)))
    settings = {**SETTINGS, **more, "data": (str(text),)}
    train(MODEL, settings, run, Console(file=io.StringIO()), stop_at=stop_at)
    return run


def resumed(run: Path, **more: object) -> str:
    """Go on to the end; what was said."""
    file = io.StringIO()
    assert train({}, more, run, Console(file=file, width=1000), resume=True).finished
    return file.getvalue()


@pytest.fixture(scope="module")
def disturbed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs that nobody disturbed, and with others that were killed."""
    folder = tmp_path_factory.mktemp("disturbed")
    done = subprocess.run(
        [sys.executable, "-m", "tests.killed_runs", str(folder)],
        cwd=root, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        line
        for moments in (MOMENTS, TUNING_MOMENTS)
        for line in ("undisturbed: 0", *(f"{name}: -9" for name in moments), "to the end: 0")
    ], done.stderr
    return folder


def files(folder: Path) -> list[str]:
    """The names of all files in a folder, at any depth."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", ["", "tuned"], ids=["training", "fine-tuning"])
def test_a_run_that_is_killed_again_and_again_has_the_same_curve(
    disturbed: Path, kind: str
) -> None:
    whole, run = disturbed / kind / "whole", disturbed / kind / "killed"
    assert len(curve(whole)) == STEPS and curve(run) == curve(whole)
    states = [ln.tree.leaves(ln.io.load(checkpoint.newest(r))) for r in (whole, run)]
    for a, b in zip(*states, strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    assert files(run) == files(whole), "no half of a file is left over"
    if kind:
        for name in files(whole):
            if name == SCORES or name.startswith("model/"):
                assert (run / name).read_bytes() == (whole / name).read_bytes(), name


def damage(path: Path, how: str) -> None:
    """Spoil a file as disks and copies do."""
    content = bytearray(path.read_bytes())
    if how == "truncated":
        content = content[: len(content) // 2]
    elif how == "emptied":
        content = bytearray()
    elif how == "one bit":
        content[-5] ^= 4
    else:
        content[:8] = b"\xff" * 8
    path.write_bytes(content)


def test_a_run_goes_on_from_the_newest_checkpoint_that_is_whole(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole, run = started(tmp_path / "a"), started(tmp_path / "b", keep=4, stop_at=4 * EVERY)
    for step, how in ((4, "truncated"), (3, "one bit")):
        damage(checkpoint.path_of(run, step * EVERY), how)
    with pytest.raises(Problem, match=r"step-0000016\.safetensors.*\n.*step-0000012"):
        checkpoint.load_params(checkpoint.newest(run))
    said = resumed(run)
    for step, before in ((16, 12), (12, 8)):
        name = f"step-{step:07d}.safetensors"
        assert f"Going on from the checkpoint before it, step-{before:07d}" in said
        assert (run / f"{name}.damaged").exists() and f"{name}.damaged" in said
    assert "going on from step 8" in said
    assert curve(run) == curve(whole)


def test_a_run_of_another_kind_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    run = started(tmp_path, stop_at=EVERY)
    before = files(run)
    with pytest.raises(Problem, match="it is not a run of finetune"):
        finetune({}, run, Console(file=io.StringIO()), resume=True)
    assert files(run) == before


@pytest.mark.parametrize("how", ["emptied", "header"])
def test_where_no_checkpoint_is_whole_the_oldest_is_named(tmp_path: Path, how: str) -> None:
    run = started(tmp_path, stop_at=EVERY)
    for path in checkpoint.checkpoints(run):
        damage(path, how)
    with pytest.raises(Problem, match=r"step-0000000\.safetensors.*\n.*train anew"):
        resumed(run)


def test_as_many_checkpoints_are_kept_as_asked_also_of_a_run_that_goes_on(tmp_path: Path) -> None:
    run = started(tmp_path, keep=1, stop_at=EVERY)
    assert [p.name for p in checkpoint.checkpoints(run)] == ["step-0000004.safetensors"]
    resumed(run, keep=3)
    assert [int(p.stem[5:]) for p in checkpoint.checkpoints(run)] == [12, 16, 20]


# Two at once --------------------------------------------------------------------------------------


@contextmanager
def busy(root: Path, run: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which is at work in a run's folder."""
    work = (
        "import sys, time; from pathlib import Path; from examples.llama3.alone import alone\n"
        "with alone(Path(sys.argv[1])): print('at work', flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", work, str(run)], cwd=root, stdout=subprocess.PIPE, text=True
    ) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == "at work\n"
            yield other
        finally:
            other.kill()


def test_two_processes_do_not_train_in_one_folder(root: Path, tmp_path: Path) -> None:
    run = started(tmp_path, stop_at=EVERY)
    before = {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()}
    (run / "step-0000008.safetensors.ab.tmp").write_text("what the other one is writing")
    with busy(root, run) as other:
        said = rf"process {other.pid} on .* is at work in {re.escape(str(run))}"
        with pytest.raises(Problem, match=said):
            resumed(run)
        with pytest.raises(Problem, match=said):
            train({}, {}, run, Console(file=io.StringIO()), overwrite=True)
        with pytest.raises(Problem, match=said):
            finetune({}, run, Console(file=io.StringIO()), resume=True)
        assert (run / "step-0000008.safetensors.ab.tmp").exists()
        other.kill()
        other.wait()
    assert (run / LOCK).exists(), "SIGKILL leaves the file, and no lock"
    assert {n: (run / n).read_bytes() for n in before} == before
    resumed(run)
    assert not (run / LOCK).exists()


def test_who_works_alone_leaves_no_lock_and_no_empty_folder(tmp_path: Path) -> None:
    new, old, full = (tmp_path / name for name in ("new", "old", "full"))
    old.mkdir()
    for run in (new, old, full):
        with alone(run):
            assert str(os.getpid()) in (run / LOCK).read_text()
            with pytest.raises(Problem, match="is at work"), alone(run):
                pass
            if run == full:
                (run / "log.csv").write_text("mine")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["full", "log.csv", "old"]


def test_a_lock_whose_file_is_removed_meanwhile_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, calls = fcntl.flock, []

    def late(handle: int, how: int) -> None:
        """The one before removes the file once this one has opened it."""
        usual(handle, how)
        calls.append(handle)
        if len(calls) == 1:
            (tmp_path / LOCK).unlink()

    monkeypatch.setattr(fcntl, "flock", late)
    with alone(tmp_path):
        assert len(calls) == 2 and (tmp_path / LOCK).exists()


def test_a_disk_that_knows_no_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(Problem, match=f"the disk of {re.escape(str(tmp_path))} cannot lock"):
        resumed(tmp_path)


# Full disks ---------------------------------------------------------------------------------------


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """No file grows beyond so many bytes meanwhile: the system refuses, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_stops_the_run_which_goes_on_when_there_is_room(tmp_path: Path) -> None:
    run = started(tmp_path, stop_at=EVERY)
    for size in (2000, 300):  # too little for a checkpoint, and for the log as well
        with small_disk(size), pytest.raises(Problem, match=r"Make room, then go on: .*--resume"):
            resumed(run)
        assert checkpoint.newest(run) == checkpoint.path_of(run, EVERY)
        checkpoint.load_params(checkpoint.newest(run))
    resumed(run)
    assert [row[0] for row in curve(run)] == list(range(1, STEPS + 1))
    assert not [p for p in run.iterdir() if ".tmp" in p.name or p.name.startswith(".")]


def test_what_was_left_half_written_is_swept_and_nothing_else(tmp_path: Path) -> None:
    def killed(path: Path) -> None:
        path.write_text("half")
        os.link(path, path.with_name(f"{path.name}.kept"))  # what a kill would leave
        raise KeyboardInterrupt

    (tmp_path / "a").mkdir()
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a" / "x.png", killed)
    assert len(list((tmp_path / "a").iterdir())) == 1
    (tmp_path / ".trial.1.partial").mkdir()
    (tmp_path / "step-0000001.safetensors.ab.tmp").write_text("half")
    kept = [tmp_path / name for name in ("a.partial.txt", ".notes", "step-0000001.safetensors")]
    for path in kept:
        path.write_text("mine")
    sweep(tmp_path)
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == sorted(kept)
