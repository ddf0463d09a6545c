"""How training deals with its machine: threads, freed memory, Ctrl-C."""

from __future__ import annotations

import ctypes
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from threadpoolctl import threadpool_info, threadpool_limits

INTERRUPTED = 130  # what shells report for a program that Ctrl-C ended
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt(3)


def threads() -> int:
    """How many threads a matrix product uses now."""
    return max((p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"), default=1)


def with_threads(count: int) -> Any:
    """A context in which a matrix product uses ``count`` threads."""
    return threadpool_limits(limits=count, user_api="blas")


def keep_freed_memory() -> None:
    """Let the C library keep what is freed, rather than give it back to the system.

    A step frees the arrays of the step before and asks for the same sizes again. By default glibc
    returns large ones to the kernel, which then clears 14,000 fresh pages a step: a sixth of its
    time. Where the C library is another one, nothing happens.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(_MMAP_THRESHOLD, 32 * 2**20)  # the largest that glibc takes
    mallopt(_TRIM_THRESHOLD, 2**30)


class Interrupt:
    """While open, Ctrl-C only sets ``asked``: the loop ends after its step.

    A second Ctrl-C interrupts at once.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> Interrupt:
        # Only the main thread may set a handler; elsewhere Ctrl-C arrives as it always does.
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
