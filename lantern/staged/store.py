"""`Store`: a folder of files by key, for what is worth keeping between processes.

Several processes may use a folder at once: a file appears whole, by renaming, or not at all. Each
holds a checksum; one that does not fit is thrown away. Where the folder grows beyond its limit,
what has not been read for longest goes.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import secrets
import sys
import time
import warnings
from pathlib import Path

from lantern.errors import CacheWarning

MAGIC = b"lantern 1\n"
LIMIT = 2**29  # bytes of a folder
STALE = 3600.0  # seconds after which a file that was never finished is taken for abandoned


def default_folder() -> str | None:
    """Where this user's caches are, by the conventions of the system; None if nowhere.

    Example:
        >>> str(default_folder()).endswith("lantern")
        True
    """
    try:
        home = Path.home()
    except RuntimeError:
        return None
    if sys.platform == "darwin":
        base = home / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    else:
        given = os.environ.get("XDG_CACHE_HOME", "")
        base = Path(given) if os.path.isabs(given) else home / ".cache"
    return str(base / "lantern")


class Store:
    """A folder of entries.

    Args:
        folder: made when something is put there.
        limit: how many bytes it may hold.
    """

    def __init__(self, folder: str, limit: int = LIMIT) -> None:
        self.folder, self.limit = Path(folder), limit

    def get(self, key: str) -> bytes | None:
        """What was put under a key, if it is there and undamaged."""
        path = self.folder / key
        try:
            data = path.read_bytes()
        except OSError:
            return None
        start = len(MAGIC) + 32
        if (
            data[: len(MAGIC)] != MAGIC
            or hashlib.sha256(data[start:]).digest() != data[len(MAGIC) : start]
        ):
            self.discard(key)
            return None
        with contextlib.suppress(OSError):  # a folder that is only read needs no order
            os.utime(path)  # it was read just now
        return data[start:]

    def discard(self, key: str) -> None:
        """Throw a damaged entry away, and say so."""
        path = self.folder / key
        warnings.warn(
            f"the entry {path} of the cache of compiled programs is damaged; it is built again",
            CacheWarning,
            stacklevel=2,
        )
        with contextlib.suppress(OSError):  # the next one to put something here replaces it
            path.unlink(missing_ok=True)

    def put(self, key: str, data: bytes) -> None:
        """Keep an entry. A folder that cannot be written to is told once, and nothing is kept."""
        unfinished = self.folder / f".{key}.{secrets.token_hex(4)}"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                unfinished.write_bytes(MAGIC + hashlib.sha256(data).digest() + data)
                os.replace(unfinished, self.folder / key)
            finally:
                unfinished.unlink(missing_ok=True)
            self.trim(key)
        except OSError as problem:
            tell_unwritable(str(self.folder), f"{type(problem).__name__}: {problem}")

    def trim(self, newest: str) -> None:
        """Delete what was read longest ago until the rest is within the limit."""
        files: list[tuple[float, int, str]] = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                try:
                    found = entry.stat()
                except OSError:
                    continue  # another process has just deleted it
                if not entry.name.startswith("."):
                    files.append((found.st_mtime, found.st_size, entry.name))
                elif time.time() - found.st_mtime > STALE:
                    Path(entry.path).unlink(missing_ok=True)
        total = sum(size for _, size, _ in files)
        for _, size, name in sorted(files):
            if total <= self.limit or name == newest:
                break
            (self.folder / name).unlink(missing_ok=True)
            total -= size


@functools.cache
def tell_unwritable(folder: str, reason: str) -> None:
    """Warn once."""
    warnings.warn(
        f"compiled programs cannot be kept in {folder} ({reason}), so every process compiles them "
        "again; ln.compile(cache=folder) keeps them elsewhere, cache=False nowhere",
        CacheWarning,
        stacklevel=2,
    )
