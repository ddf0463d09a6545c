"""Checkpoints: what a run needs to go on bit for bit, in one safetensors file, whole or not there.

A run keeps its last few (``--keep``). A file is written beside its final name and moved there when
complete (`lantern.io`), so a crash leaves the ones before it. A file that is damaged later has
checksums to tell, and the run goes on from the one before it.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import lantern as ln
from examples.llama3.config import Config, Settings, dashed
from examples.llama3.files import Problem

TOKENIZER = "tokenizer.json"  # in the folder of a run
DAMAGED = ".damaged"  # the end of the name of what is set aside
Kind = TypeVar("Kind", bound=Settings)
Found = TypeVar("Found")
State = ln.io.TrainingState  # params, optimizer, step, position, key


class Damaged(Problem):
    """A checkpoint that cannot be read; the one before it may be whole."""


def path_of(run: Path, step: int) -> Path:
    """Where a run keeps the checkpoint of a step."""
    return run / f"step-{step:07d}.safetensors"


def checkpoints(run: Path) -> list[Path]:
    """A run's checkpoints, oldest first."""
    return sorted(p for p in run.glob("step-*.safetensors") if re.fullmatch(r"step-\d+", p.stem))


def newest(run: Path) -> Path:
    """A run's newest checkpoint.

    Raises:
        Problem: there is none.
    """
    found = checkpoints(run)
    if not found:
        raise Problem(f"no checkpoint in {run}: expected files like {path_of(run, 200).name} there")
    return found[-1]


def save(run: Path, state: State, config: Settings, data: dict[str, str]) -> Path:
    """Write a checkpoint, then remove those that are no longer kept.

    Args:
        run: the run's folder.
        state: what to save.
        config: the settings.
        data: a fingerprint for each part of the data.

    Raises:
        Problem: it cannot be written, for instance to a full disk.
    """
    path = path_of(run, state.step)
    about = {"config": json.dumps(config.to_json()), "data": json.dumps(data)}
    try:
        ln.io.save(path, state, metadata=about)
    except ln.errors.CheckpointError as problem:
        raise Problem(f"{problem.args[0]}. {way_on(run, config)}") from None
    for old in checkpoints(run)[: -config.train.keep]:
        old.unlink(missing_ok=True)
    return path


@contextmanager
def disk_errors(run: Path, config: Settings) -> Iterator[None]:
    """A context in which errors of the disk, such as a full one, say what is safe all the same."""
    try:
        yield
    except OSError as problem:
        raise Problem(f"{problem}. {way_on(run, config)}") from None


def way_on(run: Path, config: Settings) -> str:
    """What to do when the disk refuses."""
    kept = checkpoints(run)
    if not kept:
        return "Nothing is lost; begin again when there is room"
    return (
        f"The last good checkpoint is kept: {kept[-1]}. Make room, then go on: "
        f"python -m examples.llama3 {config.command} --run {run} --resume"
    )


def newest_whole(run: Path, read: Callable[[Path], Found], warn: Callable[[str], object]) -> Found:
    """What a run's newest checkpoint says that is whole.

    Args:
        run: the run's folder.
        read: reads a checkpoint, or raises `Damaged`.
        warn: told of each damaged file, which is set aside under another name.

    Raises:
        Problem: there is none.
    """
    while True:
        path = newest(run)
        try:
            return read(path)
        except Damaged as problem:
            if path == checkpoints(run)[0]:
                raise
            aside = path.rename(path.with_name(path.name + DAMAGED))
            reason = str(problem).splitlines()[0]
            warn(
                f"warning: {reason}. Going on from the checkpoint before it, {newest(run).name}; "
                f"the damaged file is now {aside}"
            )


def load_newest(
    run: Path, kind: type[Kind], like: Callable[[Kind], State], warn: Callable[[str], object]
) -> tuple[Kind, dict[str, str], State]:
    """The settings, fingerprints and state of a run's newest checkpoint that is whole.

    Args:
        run, warn: as for `newest_whole`.
        kind: of settings.
        like: from the settings to a state of the structure to expect.

    Raises:
        Problem: there is none.
    """

    def read(path: Path) -> tuple[Kind, dict[str, str], State]:
        config, data = settings_in(path, kind)
        return config, data, load(path, like(config))

    return newest_whole(run, read, warn)


def load_settings(path: Path) -> tuple[Config, dict[str, str]]:
    """The settings of a run that trains, as `settings_in` reads them."""
    return settings_in(path, Config)


def settings_in(path: Path, kind: type[Kind]) -> tuple[Kind, dict[str, str]]:
    """The settings of a kind in a checkpoint, and the fingerprints of its data.

    Raises:
        Damaged: it is, or not one of this program's.
        Problem: it has settings of another kind, or of another version.
    """
    try:
        about = ln.io.metadata(path)
        return kind.from_json(json.loads(about["config"])), json.loads(about["data"])
    except ln.errors.CheckpointError as problem:
        raise Damaged(f"{problem.args[0]}\n{fallback(path)}") from None
    except Problem as problem:
        raise Problem(f"{path} has {problem}; it is not a run of {kind.command}") from None
    except (KeyError, ValueError):
        raise Damaged(f"{path} is not a checkpoint of this program\n{fallback(path)}") from None


def load(path: Path, like: State) -> State:
    """The state in a checkpoint, of the structure, shapes and dtypes of ``like``.

    Raises:
        Damaged: it is, or of another shape.
    """
    try:
        return ln.io.load(path, like=like)
    except ln.errors.CheckpointError as problem:
        raise Damaged(f"{problem.args[0]}\n{fallback(path)}") from None


def load_params(path: Path) -> Any:
    """The parameters alone.

    Raises:
        Problem: the checkpoint is damaged.
    """
    try:
        return ln.io.load(path)["params"]
    except ln.errors.CheckpointError as problem:
        raise Problem(f"{problem.args[0]}\n{fallback(path)}") from None
    except KeyError:
        raise Problem(f"{path} is not a checkpoint of this program\n{fallback(path)}") from None


def fallback(damaged: Path) -> str:
    """What to do about a damaged checkpoint."""
    older = [p for p in checkpoints(damaged.parent) if p < damaged]
    if not older:
        return "No older checkpoint is in this run to go back to; train anew with --overwrite."
    return f"Remove {damaged} to go on from the checkpoint before it, {older[-1].name}."


def check_same_settings(saved: Settings, asked: dict[str, Any]) -> None:
    """Refuse to resume with settings other than the run's.

    Args:
        saved: the run's settings.
        asked: settings given on the command line, by name.

    Raises:
        Problem: some differ; the message lists them.
    """
    known = {**saved.to_json()["model"], **saved.to_json()["train"]}
    free = free_settings(saved)
    different = [
        f"--{dashed(name)} {shown(value)} (the run has {shown(known[name])})"
        for name, value in asked.items()
        if known[name] != value and name not in free
    ]
    if different:
        raise Problem(
            f"cannot resume with other settings: {', '.join(different)}. "
            "Leave them out to go on, or train anew with --overwrite"
        )


def free_settings(saved: Settings) -> set[str]:
    """The names of what may change when a run goes on."""
    return {f.name for f in dataclasses.fields(saved.train) if f.metadata.get("free")}


def shown(value: Any) -> str:
    """A setting's value as it was typed."""
    if isinstance(value, (tuple, list)):
        return " ".join(value) or "(the standard library)"
    return str(value)


def check_same_data(saved: dict[str, str], found: dict[str, str]) -> None:
    """Refuse to resume on data other than the run's.

    Args:
        saved, found: fingerprints by part of the data.

    Raises:
        Problem: a part differs.
    """
    for part, fingerprint in saved.items():
        if found.get(part) != fingerprint:
            raise Problem(
                f"cannot resume: the {part} text is not what this run was trained on (its "
                f"fingerprint is {found.get(part, 'missing')[:12]}, the checkpoint's "
                f"{fingerprint[:12]}). Restore the files (for the standard library: the same "
                "Python), or train anew with --overwrite"
            )
