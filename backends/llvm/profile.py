"""The time that each kernel of a program takes, in a specialisation that looks at the clock before
and after each; what is compiled ordinarily has nothing of that."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

import cffi
import numpy as np

from backends.llvm import inline
from backends.llvm.division import sharing
from backends.llvm.executable import Executable
from backends.llvm.pool import cores
from backends.llvm.program import Entry
from staging.ir import Op, Program, walk

FREE = frozenset(("reshape", "print", "require"))  # what is no kernel
CLOCKS = "lantern.clocks"


class Timing(NamedTuple):
    """How often an operation ran in one run of a program, and the seconds of all of that."""

    op: Op
    times: int
    seconds: float


class Timed(Entry):
    """An entry that adds up how long each operation takes, and how often it runs.

    Attributes:
        within: the operations that run within each recursion.
    """

    def __init__(self, threads: int = 1) -> None:
        super().__init__(threads)
        self.within: dict[Op, list[Op]] = {}

    def inner(self, threads: int) -> Self:
        inner = super().inner(threads)
        inner.within = self.within
        return inner

    def run_op(self, op: Op) -> None:
        whole = is_map(op) or op.name == "recurse" or inline.fits_op(self, op)
        apart = holds(op) and not whole
        if op.name in FREE or apart:
            super().run_op(op)
            return
        if op not in self.clocks:
            self.clocks.append(op)
        start, before = self.let("call i64 @lantern.now()"), len(self.clocks)
        super().run_op(op)
        if op.name == "recurse":
            self.within[op] = self.clocks[before:]
        passed = self.let(f"sub i64 {self.let('call i64 @lantern.now()')}, {start}")
        self.do(f"call void @lantern.spent(i64 {self.clocks.index(op)}, i64 {passed})")

    def written(self) -> str:
        self.module.exports = (*self.module.exports, CLOCKS)
        return super().written() + clock(len(self.clocks))


def holds(op: Op) -> bool:
    """Whether an operation is no kernel, but made of some."""
    return bool(op.blocks) and "kind" not in op.attributes


def is_map(op: Op) -> bool:
    """Whether it is a loop whose iterations may run on several threads."""
    return op.name == "scan" and op.attributes["carried"] == 0


def clock(count: int) -> str:
    """LLVM IR that reads the time in nanoseconds, and adds to one of the clocks. Each is a time and
    a number of runs; what runs on several threads adds up."""
    monotonic = 6 if sys.platform == "darwin" else 1
    return f"""

@{CLOCKS} = global [{2 * count} x i64] zeroinitializer

declare i32 @clock_gettime(i32, ptr)

define internal i64 @lantern.now() {{
  %t = alloca [2 x i64]
  call i32 @clock_gettime(i32 {monotonic}, ptr %t)
  %seconds = load i64, ptr %t
  %at = getelementptr i64, ptr %t, i64 1
  %rest = load i64, ptr %at
  %whole = mul i64 %seconds, 1000000000
  %now = add i64 %whole, %rest
  ret i64 %now
}}

define internal void @lantern.spent(i64 %number, i64 %passed) {{
  %at = getelementptr [2 x i64], ptr @{CLOCKS}, i64 %number
  atomicrmw add ptr %at, i64 %passed monotonic
  %count = getelementptr i64, ptr %at, i64 1
  atomicrmw add ptr %count, i64 1 monotonic
  ret void
}}
"""


def measure(
    program: Program,
    arrays: Sequence[np.ndarray[Any, Any]],
    threads: int | None = None,
    seconds: float = 1.0,
) -> tuple[list[Timing], float, int]:
    """Run a program several times and look at the clock around each of its kernels.

    Args:
        program: an optimised program.
        arrays: what it is given; those of donated parameters are copied.
        threads: for how many threads its work is divided.
        seconds: after how long no further run begins; there are three at least.

    Returns:
        The time of each operation that is a kernel, and that of the whole call: of the run whose
        whole is the median of all but the first. And `Executable.frames`.
    """
    entry = Timed(threads or sharing(program.block, len(cores())))
    run = Executable(program, entry.finished(program))
    address = run.library.addresses[CLOCKS]
    ffi = cffi.FFI()
    size = 16 * len(entry.clocks)
    clocks: Any = ffi.buffer(ffi.cast("char *", address), size)
    spent = np.frombuffer(clocks, np.int64).reshape(-1, 2)
    found: list[tuple[float, np.ndarray[Any, Any]]] = []
    begin = time.perf_counter()
    while len(found) < 4 or time.perf_counter() < begin + seconds:
        given = [a.copy() if i in program.donated else a for i, a in enumerate(arrays)]
        spent[:] = 0
        start = time.perf_counter()
        run(given)
        found.append((time.perf_counter() - start, spent.copy()))
    ordered = sorted(found[1:], key=lambda one: one[0])
    whole, median = ordered[len(ordered) // 2]
    timings = {
        op: Timing(op, int(times), int(nanoseconds) / 1e9)
        for op, (nanoseconds, times) in zip(entry.clocks, median, strict=True)
    }
    return [*elapsed(timings, entry.within)], whole, run.frames()


def elapsed(timings: dict[Op, Timing], recursions: dict[Op, list[Op]]) -> Iterator[Timing]:
    """The kernels, and loops without any. What ran on several threads at once took, together, as
    long as their loop; a recursion took what the kernels within it did not."""
    for op, inside in recursions.items():  # the inner ones first
        own = timings[op].seconds - sum(timings[o].seconds for o in inside)
        timings[op] = timings[op]._replace(seconds=max(own, 0.0))
    within = {
        op: [o for block in op.blocks for o in walk(block) if o in timings and not is_map(o)]
        for op in timings
        if is_map(op)
    }
    for op, inside in within.items():
        seconds, total = timings[op].seconds, sum(timings[o].seconds for o in inside)
        for o in inside:
            if total > seconds:
                timings[o] = timings[o]._replace(seconds=timings[o].seconds * seconds / total)
    return (timing for op, timing in timings.items() if not within.get(op))
