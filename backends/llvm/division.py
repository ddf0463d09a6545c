"""Into how many parts a kernel is divided, fixed when it is compiled.

A job costs the caller 0.5 microseconds while the workers are awake, and 15 to 35 once they sleep
(measured on a virtual machine with two cores, where waking is slow); workers stay awake for 0.3
milliseconds while a call holds the pool. What other kernels have computed then lies in the caches
of several cores, half of it in the wrong one, which costs as much again as a small kernel takes. So
what takes less than `WORTH` is not divided; nor is anything in a program where all that could be
is less than `SHORT`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from staging.ir import Block, Op, Value

WORTH = 20_000  # nanoseconds on one thread from which work is divided
LEAST = 8_000  # nanoseconds of a part
SHORT = 1_000_000  # nanoseconds of such work from which a program uses threads at all
LONG = 400_000  # nanoseconds of a part from which there are more parts than threads, to even out
COSTLY = frozenset(
    ["exp", "log", "log1p", "expm1", "sin", "cos", "tanh", "erf", "pow", "atan2", "div", "rem"]
)
ONCE = frozenset(["call", "switch"])
FREE = frozenset(["constant", "iota", "broadcast", "reshape", "transpose", "slice", "view"])


@dataclass(frozen=True, slots=True)
class Division:
    """How many parts a kernel has, and the axes of which each part takes its share."""

    parts: int = 1
    axes: frozenset[str] = frozenset()


WHOLE = Division()


def nanoseconds(ops: Iterable[Op], results: Iterable[Value], elements: int) -> float:
    """A rough time for a loop over so many elements, on one thread: what it computes, and what it
    reads and writes."""
    each = 0.0
    made = {v for op in ops for v in op.results}
    buffers = {v for op in ops for v in op.inputs if v not in made} | set(results)
    for op in ops:
        if op.name not in FREE:
            each += 0.7 if op.name in COSTLY else 0.05
    return elements * each + sum(v.type.bytes for v in buffers) * 0.06


def count(work: float, extent: int, threads: int, least: int = 1, eager: float = 1.0) -> int:
    """How many parts work of so many nanoseconds is divided into.

    Args:
        work: the time on one thread.
        extent: the length of the axis that is divided.
        threads: how many there are.
        least: the least length of a part.
        eager: how many times earlier than other work it is divided.
    """
    if threads == 1 or work * eager < WORTH:
        return 1
    parts = min(threads, int(work * eager / LEAST), extent // least)
    if parts == threads and work / LONG > 2 * threads and extent >= 16 * threads * least:
        parts = 4 * threads
    return max(1, parts)


def along(axis: str, parts: int) -> Division:
    """The division of one axis."""
    return Division(parts, frozenset([axis])) if parts > 1 else WHOLE


def sharing(block: Block, threads: int) -> int:
    """Among how many of some threads the work of a program is divided: all, or one."""
    return threads if divisible(block) >= SHORT else 1


def divisible(block: Block) -> float:
    """A rough time, on one thread, of what in a block is worth dividing; no end of it where it is
    not known how often that runs."""
    total = 0.0
    for op in block.ops:
        if op.blocks and "kind" not in op.attributes:
            inside = sum(map(divisible, op.blocks))
            length = cast(int, op.attributes.get("length", 1 if op.name in ONCE else -1))
            total += inside * (length if length >= 0 else math.inf) if inside else 0.0
        else:
            own = block_nanoseconds(Block((), (op,), ()))
            total += own if own >= WORTH else 0.0
    return total


def block_nanoseconds(block: Block) -> float:
    """A rough time for a block, on one thread."""
    total = 0.0
    for op in block.ops:
        if op.name == "matmul":
            x, out = op.inputs[0].type, op.results[0].type
            total += out.size * x.shape[-2 if op.attributes["transpose_x"] else -1] / 50
        elif op.blocks and op.attributes.get("kind") != "loop":
            times = abs(cast(int, op.attributes.get("length", 1)))  # where it is unknown: a few
            total += times * sum(map(block_nanoseconds, op.blocks))
        else:
            ops = op.blocks[0].ops if op.blocks else (op,)
            worked = [o for o in ops if o.name not in FREE] or [Op("", (), op.results)]
            largest = max([v.type.size for o in worked for v in (*o.inputs, *o.results)], default=0)
            total += nanoseconds(ops, op.results, largest)
    return total
