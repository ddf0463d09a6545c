"""How C++ is compiled here: by g++, into a folder of files by content, so that nothing is compiled
twice while there is room."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from backends.cuda.device import DeviceError

LIMIT = 2**28  # bytes of a folder
HERE = Path(__file__).parent
ENGINE = sorted((HERE / "engine").iterdir())
HEADERS = sorted((HERE / "include").iterdir())


@functools.cache
def compiler() -> tuple[str, str]:
    """The path of g++ and its version.

    Raises:
        DeviceError: there is none, or the machine is none that the engine knows.
    """
    path = shutil.which("g++")
    if path is None:
        raise DeviceError("the emulated device compiles kernels with g++, which is not installed")
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "aarch64"):
        raise DeviceError("the emulated device runs on Linux, on x86-64 and AArch64 only")
    version = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)
    return path, version.stdout.splitlines()[0]


@functools.cache
def temporary() -> Path:
    """A folder that lives as long as the process."""
    return Path(_lasting().name)


@functools.cache
def _lasting() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="lantern-emulator-")


@functools.cache
def _contents() -> str:
    return "\0".join(path.read_text() for path in (*ENGINE, *HEADERS))


def key(*parts: str) -> str:
    """A name for what is compiled from these, by this compiler and with these headers.

    Example:
        >>> key("int x;") == key("int x;"), key("int x;") == key("int y;")
        (True, False)
    """
    text = "\0".join((*parts, *compiler(), _contents()))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def build(target: Path, arguments: Sequence[str], text: str = "") -> None:
    """Compile and link, unless that is done; several processes may do so at once.

    Raises:
        DeviceError: with what the compiler says.
    """
    if target.exists():
        os.utime(target)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(f".{secrets.token_hex(4)}")
    command = [compiler()[0], *arguments, "-o", str(unfinished)]
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode:
        unfinished.unlink(missing_ok=True)
        raise DeviceError(f"g++ does not compile it:\n{done.stderr[:4000]}")
    os.replace(unfinished, target)
    trim(target.parent)


def trim(folder: Path, limit: int = LIMIT) -> None:
    """Remove what has not been used for longest, where a folder holds more bytes than a limit."""
    used: list[tuple[float, int, Path]] = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process trims it too
            status = path.stat()
            used.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in used)
    for _, size, path in sorted(used):
        if total <= limit:
            return
        path.unlink(missing_ok=True)
        total -= size
