"""The pool: the threads that the parts of kernels and matrix products run on.

A worker is a Python daemon thread that enters a native loop (`backends.llvm.threads`) and stays
there, without the global interpreter lock. Nothing of it is called from Python after the start, so
a job costs what a few atomic operations cost; while there are none, the workers sleep.

Threads are pinned, one to a core: two that share a core run at half the speed, and the operating
system takes long to notice.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import _cffi_backend
import numpy as np

from backends.llvm.target import Library, machine, parsed
from backends.llvm.threads import FUTEX, LAYOUT, LINUX, SIZE, worker

SPIN = 30e-6  # seconds that a thread spins before it sleeps
LINE = 64  # bytes


def cores() -> tuple[int, ...]:
    """The processors that this process may use, one for each core."""
    if not hasattr(os, "sched_getaffinity"):
        return tuple(range(os.cpu_count() or 1)) if os.name == "posix" else (0,)
    chosen: dict[str, int] = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        file = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        core = file.read_text() if file.exists() else str(cpu)
        chosen.setdefault(core, cpu)
    return tuple(chosen.values())


@cache
def native(futex: int) -> tuple[Library, dict[str, Any]]:
    """The functions of `backends.llvm.threads.worker`."""
    names = ("work", "halt", "spin")
    loaded = Library([machine().emit_object(parsed(worker(futex)))], names, {})
    ffi = _cffi_backend.FFI()
    return loaded, {n: ffi.cast("void(*)(int64_t)", loaded.addresses[n]) for n in names}


class Pool:
    """Threads that wait for work.

    Args:
        places: the processors to pin threads to; the first is the calling thread's, each other that
            of a worker.
        futex: the system call to sleep with; 0 if there is none.

    Attributes:
        address: what the entry of a program is given.
        words: what lies there (`LAYOUT`).
    """

    def __init__(self, places: Sequence[int], futex: int = FUTEX) -> None:
        self.library, self.functions = native(futex)
        self.memory = np.zeros(SIZE + LINE, np.uint8)
        start = self.memory.__array_interface__["data"][0]
        self.address = -(-start // LINE) * LINE
        self.words = words = self.memory[self.address - start :][:SIZE]
        words[LAYOUT["core"] + places[0] // 8] = 1 << places[0] % 8
        self.functions["spin"](100)
        begin = time.perf_counter()
        self.functions["spin"](500)
        each = (time.perf_counter() - begin) / 500
        words[LAYOUT["spins"] :][:4].view(np.int32)[0] = max(1, int(SPIN / each))
        self.threads = [
            threading.Thread(target=self.enter, args=(place,), name=f"lantern-{place}", daemon=True)
            for place in places[1:]
        ]
        for thread in self.threads:
            thread.start()

    def enter(self, place: int) -> None:
        """The life of a worker."""
        if LINUX:
            os.sched_setaffinity(0, (place,))
        self.functions["work"](self.address)

    def close(self) -> None:
        """End the workers once no part is left; a call that holds the pool goes on alone."""
        self.functions["halt"](self.address)
        for thread in self.threads:
            thread.join()


class Pools:
    """The pools of a process, by their number of threads; a forked child begins without any."""

    def __init__(self) -> None:
        self.forget()
        atexit.register(self.close)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        """Let go of all: their threads do not exist in this process."""
        self.made: dict[int, Pool | None] = {}
        self.lock = threading.Lock()

    def address(self, threads: int) -> int:
        """The pool of so many threads, started if there is none yet; 0 where that cannot be."""
        if threads not in self.made:
            with self.lock:
                if threads not in self.made:
                    places = cores()[:threads]
                    self.made[threads] = Pool(places) if len(places) > 1 else None
        pool = self.made[threads]
        return pool.address if pool else 0

    def close(self) -> None:
        """End every worker: none may run while the interpreter takes its memory apart."""
        for pool in self.made.values():
            if pool:
                pool.close()


@cache
def pools() -> Pools:
    """The pools of this process."""
    return Pools()
