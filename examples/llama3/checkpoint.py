"""Checkpoints: what a run needs to go on bit for bit, in one safetensors file, whole or not there.

A run keeps its last two. A file is written beside its final name and moved there when complete
(`lantern.io`), so a crash leaves the ones before it; a file damaged later is refused with the name
of the one to fall back to.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import lantern as ln
from examples.llama3.config import Config, dashed
from examples.llama3.files import Problem

TOKENIZER = "tokenizer.json"  # in the folder of a run
KEPT = 2
State = ln.io.TrainingState  # params, optimizer, step, position, key


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


def save(run: Path, state: State, config: Config, data: dict[str, str]) -> Path:
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
        raise Problem(problem.args[0]) from None
    for old in checkpoints(run)[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def load_settings(path: Path) -> tuple[Config, dict[str, str]]:
    """The settings in a checkpoint and the fingerprints of its data.

    Raises:
        Problem: it is damaged, or not one of this program's.
    """
    try:
        about = ln.io.metadata(path)
        return Config.from_json(json.loads(about["config"])), json.loads(about["data"])
    except (ln.errors.CheckpointError, Problem) as problem:
        raise Problem(f"{problem.args[0]}\n{fallback(path)}") from None
    except (KeyError, ValueError):
        raise Problem(f"{path} is not a checkpoint of this program\n{fallback(path)}") from None


def load(path: Path, like: State) -> State:
    """The state in a checkpoint, of the structure, shapes and dtypes of ``like``.

    Raises:
        Problem: it is damaged, or of another shape.
    """
    try:
        return ln.io.load(path, like=like)
    except ln.errors.CheckpointError as problem:
        raise Problem(f"{problem.args[0]}\n{fallback(path)}") from None


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


def check_same_settings(saved: Config, asked: dict[str, Any]) -> None:
    """Refuse to resume with settings other than the run's.

    Args:
        saved: the run's settings.
        asked: settings given on the command line, by name.

    Raises:
        Problem: some differ; the message lists them.
    """
    known = {**saved.to_json()["model"], **saved.to_json()["train"]}
    different = [
        f"--{dashed(name)} {shown(value)} (the run has {shown(known[name])})"
        for name, value in asked.items()
        if known[name] != value
    ]
    if different:
        raise Problem(
            f"cannot resume with other settings: {', '.join(different)}. "
            "Leave them out to go on, or train anew with --overwrite"
        )


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
