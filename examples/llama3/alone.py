"""One process at a time in the folder of a run: two that train there would mix their files up."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from examples.llama3.files import Problem

LOCK = ".lock"  # in the folder of a run, while a process works there


@contextmanager
def alone(run: Path) -> Iterator[None]:
    """A context in which no other process works in a run's folder.

    The lock is the kernel's (flock(2)), which releases it when the process ends, in whatever way: a
    file that is left over by `kill -9` locks nothing. The folder is created if it is missing, and
    removed again if nothing was written to it.

    Args:
        run: the folder.

    Raises:
        Problem: another process works there, or its disk knows no locks.
    """
    new = not run.exists()
    run.mkdir(parents=True, exist_ok=True)
    try:
        handle = locked(run)
        try:
            os.ftruncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            yield
        finally:
            (run / LOCK).unlink(missing_ok=True)  # before the lock goes: it may be another's then
            os.close(handle)
    finally:
        if new and not any(run.iterdir()):
            run.rmdir()


def locked(run: Path) -> int:
    """A handle of the lock's file, which this process has locked.

    Raises:
        Problem: another process has locked it, or its disk knows no locks.
    """
    path = run / LOCK
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who had the lock may have removed the file between these two calls.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), path.stat()):
                    return handle
            os.close(handle)
        except OSError as problem:
            owner = os.pread(handle, 1000, 0).decode(errors="replace").strip()
            os.close(handle)
            if isinstance(problem, BlockingIOError):
                raise Problem(
                    f"{owner or 'another process'} is at work in {run}: wait for its end, stop it, "
                    "or name another folder with --run"
                ) from None
            if problem.errno in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
                raise Problem(
                    f"the disk of {run} cannot lock files ({problem.strerror}), and two processes "
                    "that train in one folder spoil the run: name a folder on another disk"
                ) from None
            raise
