"""The time of each operation of a program on a device, by marks in a stream."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from backends.cuda.device import Device, Moment, Span
from backends.cuda.executable import Executable, compile_program
from backends.cuda.queue import Queue
from backends.cuda.steps import Step
from staging.ir import Op, Program, Value

if TYPE_CHECKING:
    from backends.cuda.host import Host

Array: TypeAlias = "np.ndarray[Any, Any]"
Timings: TypeAlias = "list[tuple[Op, int, float]]"


class Clocked(Queue):
    """Puts work into one stream, with a mark before and behind each operation's steps.

    Attributes:
        marks: of each step: the operation, when it began and when it was done.
    """

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.marks: list[tuple[Op, Moment, Moment]] = []

    def step(self, host: Host, op: Op, step: Step, places: Mapping[Value, Span]) -> None:
        before = self.device.mark()
        super().step(host, op, step, places)
        self.marks.append((op, before, self.device.mark()))

    def elapsed(self) -> Timings:
        """How many steps of each operation ran, and the seconds that they took together."""
        steps: Counter[Op] = Counter()
        seconds: dict[Op, float] = {}
        for op, before, after in self.marks:
            steps[op] += 1
            seconds[op] = seconds.get(op, 0.0) + self.device.elapsed(before, after)
        return [(op, steps[op], spent) for op, spent in seconds.items()]


def measure(
    program: Program, arrays: Sequence[Array], device: Device, seconds: float = 1.0
) -> tuple[Timings, float, int]:
    """Run a program several times and take the time of each of its kernels.

    Args:
        program: an optimised program.
        arrays: what it is given.
        device: where it runs.
        seconds: after how long no further run begins; there are three at least.

    Returns:
        The steps of each operation and their time, and that of a whole call without marks: of the
        run whose whole is the median of all but the first. And the bytes of its lists.
    """
    run = compile_program(program, device)
    found: list[tuple[float, Timings, int]] = []
    begin = time.perf_counter()
    while len(found) < 4 or time.perf_counter() < begin + seconds:
        found.append(once(run, arrays, device))
    ordered = sorted(found[1:], key=lambda one: one[0])
    whole, timings, frames = ordered[len(ordered) // 2]
    return timings, whole, frames


def once(run: Executable, arrays: Sequence[Array], device: Device) -> tuple[float, Timings, int]:
    """The time of a call, and that of each operation in another one."""
    device.synchronize()
    start = time.perf_counter()
    run(arrays)
    device.synchronize()
    whole = time.perf_counter() - start
    queue = Clocked(device)
    call = run.prepared(device, arrays, run.checked(arrays), queue)
    call.perform()
    return whole, queue.elapsed(), call.host.saved
