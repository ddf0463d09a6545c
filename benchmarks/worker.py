"""The process in which one contender works, alone with its library.

A contender has a process of its own, so that no library's threads, allocator or memory gets in the
way of another's. It is told what to do, and answers, in pickles on its standard streams.
"""

from __future__ import annotations

import gc
import importlib
import os
import pickle
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

TOTAL = "total"


class Clock:
    """What a contender calls to end a named phase of one run."""

    def __init__(self) -> None:
        self.phases: dict[str, float] = {}
        self.begin = self.last = time.perf_counter()

    def lap(self, phase: str) -> None:
        """End a phase; the next one begins."""
        now = time.perf_counter()
        self.phases[phase] = now - self.last
        self.last = now

    def stop(self) -> dict[str, float]:
        """The seconds of each phase, and of all of it."""
        return {**self.phases, TOTAL: time.perf_counter() - self.begin}


class Job(NamedTuple):
    """A contender at work.

    Attributes:
        check: does the work and returns the arrays that all contenders must agree on.
        run: does the work once.
    """

    check: Callable[[], list[Any]]
    run: Callable[[Clock], Any]


def peak_bytes() -> int:
    """The most memory that this process has held; children that have ended included.

    The kernel hands the peak of a parent down to a child's ``ru_maxrss``, so where it is known, the
    process's own high-water mark counts.
    """
    import resource

    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        own = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
    except (OSError, StopIteration):
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return own


def child_bytes() -> int:
    """The peak of the largest child that has ended."""
    import resource

    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def timed(job: Job, times: int) -> list[dict[str, float]]:
    """Run several times; the seconds of each."""
    gc.collect()
    found = []
    for _ in range(times):
        clock = Clock()
        job.run(clock)
        found.append(clock.stop())
    return found


def made(make: str, arguments: dict[str, Any]) -> Job:
    """The job that a contender's function makes."""
    module, function = make.split(":")
    return getattr(importlib.import_module(module), function)(**arguments)


def obey(job: Job, order: str, *rest: Any) -> Any:
    """Do what the other end asks for."""
    if order == "check":
        return job.check()
    if order == "run":
        return timed(job, *rest)
    if order == "peak":
        return peak_bytes(), child_bytes()
    raise ValueError(order)


def main() -> None:
    """Obey until the other end closes."""
    orders = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    try:
        job: Any = None
        while True:
            order, *rest = pickle.load(orders)
            answer = None
            if order == "make":
                job = None  # which frees its memory first
                job = made(*rest)
            else:
                answer = obey(job, order, *rest)
            pickle.dump((True, answer), answers, protocol=5)
            answers.flush()
    except EOFError:
        return
    except BaseException:
        pickle.dump((False, traceback.format_exc()), answers)
        answers.flush()


if __name__ == "__main__":
    main()
