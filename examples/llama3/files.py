"""Files that are whole or not there, and the one kind of error that a person can put right."""

from __future__ import annotations

import json
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LARGEST = 2**53  # no length, width or count is larger, and every float up to it is exact

PARTIAL = ".partial"  # in the name of what is being written


class Problem(Exception):
    """What a person can put right: the command line prints it without a traceback."""


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary neighbour of ``path``, then put it in place in one step.

    Whoever reads ``path``, even after a crash or a power cut, finds the old content or the new.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(f"{PARTIAL}{path.suffix}", f".{path.name}.", path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what processes that were killed have left half written in a folder, at any depth."""
    for pattern in (f".*{PARTIAL}*", "*.safetensors.*.tmp"):  # ours, and those of `lantern.io`
        for path in list(folder.rglob(pattern)):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def write_folder_atomically(folder: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary neighbour of ``folder``, then put it in place in one step.

    Raises:
        Problem: something is there already.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise Problem(f"{folder} exists already; remove it, or name another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(PARTIAL, f".{folder.name}.", folder.parent))
    try:
        write(temporary)
        temporary.chmod(0o777 & ~_umask())
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def mapped(path: Path) -> mmap.mmap:
    """A file's bytes, which are read when they are looked at.

    Raises:
        Problem: it cannot be read, or is empty.
    """
    try:
        with open(path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as problem:
        raise Problem(f"cannot read {path}: {problem.strerror}") from None
    except ValueError as problem:  # an empty file cannot be mapped
        raise Problem(f"cannot read {path}: {problem}") from None


@dataclass(frozen=True)
class Settings:
    """The object in a JSON file that somebody else wrote.

    Attributes:
        path: the file.
        values: its content.
    """

    path: Path
    values: dict[str, Any]

    @staticmethod
    def read(path: Path) -> Settings:
        """Read a file.

        Raises:
            Problem: it cannot be read, or holds something else.
        """
        try:
            values = json.loads(path.read_bytes())
        except OSError as problem:
            raise Problem(f"cannot read {path}: {problem.strerror}") from None
        except (ValueError, RecursionError) as problem:
            raise Problem(f"{path} is no JSON: {problem}") from None
        if not isinstance(values, dict):
            raise Problem(f"{path} holds {type(values).__name__}; expected an object of settings")
        return Settings(path, values)

    def setting(self, name: str, kind: type, default: Any = None) -> Any:
        """A setting; null is as good as none.

        Raises:
            Problem: it is of another type, beyond all measure, or absent without a default.
        """
        value = self.values.get(name)
        value = default if value is None else value
        if kind is float and type(value) is int and abs(value) <= LARGEST:
            value = float(value)
        if type(value) is not kind or (kind is int and abs(value) > LARGEST):
            found = "has no setting" if value is None else f"has {value!s:.60} for"
            raise Problem(f"{self.path} {found} {name}; expected {kind.__name__}")
        return value


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
