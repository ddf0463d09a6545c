"""Into how many parts a kernel is divided, fixed when it is compiled.

A job costs the caller 0.4 microseconds while the workers are awake, and 20 to 35 once they sleep
(measured on a virtual machine with two cores, where waking is slow); workers stay awake for 0.3
milliseconds while a call holds the pool. So what takes less than `WORTH` is not divided.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from staging.ir import Block, Op, Value

WORTH = 8_000  # nanoseconds on one thread from which work is divided
LEAST = 4_000  # nanoseconds of a part
LONG = 400_000  # nanoseconds of a part from which there are more parts than threads, to even out
COSTLY = frozenset(
    ["exp", "log", "log1p", "expm1", "sin", "cos", "tanh", "erf", "pow", "atan2", "div", "rem"]
)
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


def count(work: float, extent: int, threads: int, least: int = 1) -> int:
    """How many parts work of so many nanoseconds is divided into.

    Args:
        work: the time on one thread.
        extent: the length of the axis that is divided.
        threads: how many there are.
        least: the least length of a part.
    """
    if threads == 1 or work < WORTH:
        return 1
    parts = min(threads, int(work / LEAST), extent // least)
    if parts == threads and work / LONG > 2 * threads and extent >= 16 * threads * least:
        parts = 4 * threads
    return max(1, parts)


def along(axis: str, parts: int) -> Division:
    """The division of one axis."""
    return Division(parts, frozenset([axis])) if parts > 1 else WHOLE


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
            largest = max([v.type.size for o in ops for v in (*o.inputs, *o.results)], default=0)
            total += nanoseconds(ops, op.results, largest)
    return total
