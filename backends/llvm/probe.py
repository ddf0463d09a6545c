"""The roofline of this machine, measured: how fast its cores multiply and add, and how fast bytes
come from each level of its caches and from its memory."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import cffi
import numpy as np

from backends.llvm.target import Library, machine, optimised, vector_bits
from staging.machine import Machine

SIZES = (3 << 13, 3 << 18, 3 << 22, 3 << 25)  # bytes of three arrays, for each thread
LEAST = 0.02  # seconds that one measurement takes at least
CHAINS = 16  # sums that do not wait for each other, as many as hide how long one takes
SIGNATURE = "void(*)(float *, float *, float *, int64_t, int64_t)"


def multiplying() -> str:
    """LLVM IR: ``rounds`` multiply-adds of vectors in registers, in each of the chains."""
    width = vector_bits() // 32
    kind = f"<{width} x float>"
    fma = f"@llvm.fma.v{width}f32"
    chains = range(CHAINS)
    lines = [
        f"declare {kind} {fma}({kind}, {kind}, {kind})",
        "define void @multiply(ptr %a, ptr %b, ptr %c, i64 %n, i64 %rounds) #0 {",
        f"entry:\n  %x = load {kind}, ptr %a, align 4\n  br label %loop",
        "loop:\n  %i = phi i64 [ 0, %entry ], [ %j, %loop ]",
        *(f"  %s{i} = phi {kind} [ %x, %entry ], [ %n{i}, %loop ]" for i in chains),
        *(f"  %n{i} = call {kind} {fma}({kind} %s{i}, {kind} %x, {kind} %x)" for i in chains),
        "  %j = add i64 %i, 1\n  %done = icmp uge i64 %j, %rounds",
        "  br i1 %done, label %end, label %loop\nend:",
        *(f"  %t{i} = fadd {kind} {f'%t{i - 1}' if i else '%x'}, %n{i}" for i in chains),
        f"  store {kind} %t{CHAINS - 1}, ptr %a, align 4\n  ret void\n}}",
    ]
    return "\n".join(lines)


TRIAD = """
define void @triad(ptr noalias %a, ptr noalias %b, ptr noalias %c, i64 %n, i64 %rounds) #0 {
entry:
  br label %round
round:
  %r = phi i64 [ 0, %entry ], [ %s, %next ]
  br label %loop
loop:
  %i = phi i64 [ 0, %round ], [ %j, %loop ]
  %pa = getelementptr float, ptr %a, i64 %i
  %pb = getelementptr float, ptr %b, i64 %i
  %pc = getelementptr float, ptr %c, i64 %i
  %vb = load float, ptr %pb, align 4
  %vc = load float, ptr %pc, align 4
  %m = fmul float %vc, 3.0
  %v = fadd contract float %vb, %m
  store float %v, ptr %pa, align 4
  %j = add i64 %i, 1
  %done = icmp uge i64 %j, %n
  br i1 %done, label %next, label %loop
next:
  call void asm sideeffect "", "~{memory}"()
  %s = add i64 %r, 1
  %all = icmp uge i64 %s, %rounds
  br i1 %all, label %end, label %round
end:
  ret void
}
"""


def source() -> str:
    """LLVM IR of both functions."""
    attributes = f'noinline nounwind "prefer-vector-width"="{vector_bits()}"'
    return "\n".join([multiplying(), TRIAD, f"attributes #0 = {{ {attributes} }}"])


def measure(threads: int) -> Machine:
    """Measure, on so many threads, in about a second."""
    code = machine().emit_object(optimised(source()))
    ffi = cffi.FFI()
    library = Library([code], ("multiply", "triad"), {})
    run = {name: ffi.cast(SIGNATURE, address) for name, address in library.addresses.items()}
    longest = SIZES[-1] // 12
    arrays = [[np.ones(longest, np.float32) for _ in range(3)] for _ in range(threads)]
    pointers = [[ffi.from_buffer("float[]", a.data) for a in three] for three in arrays]

    def rate(name: str, elements: int, amount: float) -> float:
        """``amount``s a second, of which one thread does one a round."""
        rounds, best = 1, 0.0
        while True:
            work = [partial(run[name], *three, elements, rounds) for three in pointers]
            seconds = together(work)
            best = max(best, amount * rounds * threads / seconds)
            if seconds >= LEAST:
                return max(best, *(amount * rounds * threads / together(work) for _ in range(4)))
            rounds = max(rounds + 1, int(rounds * min(100.0, 1.2 * LEAST / seconds)))

    flops = rate("multiply", 0, 2.0 * CHAINS * vector_bits() / 32)
    rates = [rate("triad", size // 12, size) for size in SIZES]
    # A working set is near if it fits; between two that were measured, the nearer half counts.
    reaches = [float(threads * size * 2) for size in SIZES[:-1]] + [float("inf")]
    return Machine(flops, tuple(zip(reaches, rates, strict=True)), threads)


def together(work: Sequence[Callable[[], Any]]) -> float:
    """Run functions at once, each on a core of its own. Returns the seconds of the slowest."""
    barrier = threading.Barrier(len(work))
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    seconds = [0.0] * len(work)

    def one(i: int) -> None:
        if cores:
            os.sched_setaffinity(0, {cores[i % len(cores)]})  # of this thread
        barrier.wait()
        start = time.perf_counter()
        work[i]()
        seconds[i] = time.perf_counter() - start

    running = [threading.Thread(target=one, args=(i,)) for i in range(len(work))]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return max(seconds)
