"""What a program costs on a GPU that need not be there: time, and what bounds each kernel.

Every kernel is a row, with the bytes that it moves, its operations, and how many of its threads the
multiprocessors hold at a time. Its time is the longest of these, and what it takes to begin:

- *memory*: its bytes over the bandwidth, or the part of that which its threads can ask for. What is
  on its way from the memory must be bandwidth times latency (Little's law); a thread has `WIDTH`
  bytes of each operand on its way.
- *arithmetic*: its operations over the peak of the units that perform them, or the share of them
  that the blocks reach.

Occupancy follows from registers and shared memory, as NVRTC says them; where there is no NVRTC, a
thread is taken to use `REGISTERS`, and the table says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import cast

from backends.cuda.elementwise import WIDTH
from backends.cuda.limits import ARCHITECTURES, Occupancy, Usage, occupancy
from backends.cuda.memory import overwritable
from backends.cuda.module import Module
from backends.cuda.steps import Copy, Decompose, Fill, Gemm, Gemms, Launch, Step, reads, writes
from staging.cost import Cost, Row, Walk, describe, moved, totalled, work
from staging.ir import Op, Program, Value, walk
from staging.machine import Accelerator
from staging.memory import Plan, Storage, peak_memory, plan_program
from staging.ops import OPS, TILED

REGISTERS = 32  # of a thread, where nobody says
LANES = 128  # float32 operations that a multiprocessor begins at a time
PENDING = 4  # cycles from such an operation to the next one that needs its result
TILE = 64  # rows and columns of a product's result that a block of the vendor's library computes
SPLIT = 256  # and how much of the inner length is worth a block of its own
# Instructions for an element on the ordinary units, where they are more than one: about as many as
# NVRTC writes in PTX for sm_90, without the paths for huge arguments. A division and a square root,
# one instruction there, are taken to be ten.
WORK = {
    "exp": 14, "log": 30, "log1p": 40, "expm1": 30, "sin": 45, "cos": 45, "tanh": 20, "erf": 24,
    "pow": 110, "atan2": 55, "div": 10, "sqrt": 10, "rem": 40,
}  # fmt: skip

Usages = Mapping[str, Usage]


def predict(program: Program, module: Module, machine: Accelerator, usages: Usages) -> Cost:
    """The cost of an optimised program on a GPU.

    Args:
        program: what was lowered.
        module: what it became.
        machine: the GPU.
        usages: what its kernels take, by name, as far as that is known.
    """
    plan = plan_program(program, overwritable)
    walk = _Walk(machine, module, usages, dict(placed(plan)))
    cost = totalled(program, walk, peak_memory(program))
    missing = [name for name in module.names.values() if name not in usages]
    if not missing:
        return cost
    note = f"registers are not known (no NVRTC): a thread is taken to use {REGISTERS}"
    return replace(cost, note=note)


class _Walk(Walk):
    """A walk over a program whose operations take some steps each."""

    def __init__(
        self, machine: Accelerator, module: Module, usages: Usages, storages: dict[Value, Storage]
    ) -> None:
        super().__init__(machine)
        self.gpu, self.module, self.usages = machine, module, usages
        self.storages = storages
        self.limits = ARCHITECTURES[machine.architecture]

    def scan(self, op: Op, times: float) -> None:
        """A loop over single numbers is one kernel; the steps of any other are gone through."""
        if op in self.module.steps:
            self.kernel(op, times)
        else:
            super().scan(op, times)

    def kernel(self, op: Op, times: float) -> None:
        steps = self.module.steps.get(op, ())
        known, main = moved(op), max(steps, key=size, default=None)
        ops = inside(op, any(isinstance(step, Gemm | Gemms) for step in steps))
        for number, step in enumerate(steps):
            if isinstance(step, Copy) and self.lies(step.source) is self.lies(step.target):
                continue  # where it lies already
            row = self.rows.setdefault((op, number), Row(op, label=self.label(step, op)))
            parts = {v: known.get(v, v.type.bytes) for v in (*reads(step), *writes(step))}
            seconds = self.transfer(row, parts, writes(step), times)
            row.start += times * self.gpu.start
            match step:
                case Gemm() | Gemms():
                    self.product(row, step, times)
                    row.transfer += times * seconds
                case Launch():
                    count, spent = computed(step, ops, step is main)
                    busy, asking = self.filled(step)
                    row.flops += times * count
                    row.arithmetic += times * 2 * spent / (self.rate(step) * busy)
                    row.transfer += times * seconds / asking
                    row.reach = self.reach(step)
                case _:
                    row.transfer += times * seconds

    def lies(self, value: Value) -> object:
        """Where a value lies; what an operation works with lies apart."""
        return self.storages.get(value, value)

    def label(self, step: Step, op: Op) -> str:
        """What a step is called."""
        match step:
            case Launch():
                return f"{self.module.name(step.kernel)} {shape(op)}".rstrip()
            case Gemm() | Gemms():
                p = step.product
                batch = f"{p.batch} x " if p.batch > 1 else ""
                return f"gemm {batch}{p.m}x{p.n}x{p.k}"
            case Decompose():
                return describe(op)
            case Copy() | Fill():
                return type(step).__name__.lower()

    def product(self, row: Row, step: Gemm | Gemms, times: float) -> None:
        """A product by the vendor's library: its peak, or the share that its blocks reach."""
        p = step.product
        count = 2.0 * p.batch * p.m * p.n * p.k
        blocks = p.batch * -(-p.m // TILE) * -(-p.n // TILE) * max(1, p.k // SPLIT)
        share = min(1.0, blocks / self.gpu.threads)
        row.flops += times * count
        row.arithmetic += times * count / (self.gpu.products[p.dtype] * share)

    def rate(self, step: Launch) -> float:
        """Operations a second of the units that a kernel computes on."""
        wide = any(v.type.dtype == "float64" for v in (*step.reads, *step.writes))
        return self.gpu.double if wide else self.gpu.flops

    def occupancy(self, step: Launch) -> Occupancy:
        """How full a multiprocessor is of a kernel's threads."""
        usage = self.usages.get(self.module.name(step.kernel), Usage(REGISTERS))
        return occupancy(self.limits, usage, math.prod(threads(step)), step.kernel.dynamic)

    def filled(self, step: Launch) -> tuple[float, float]:
        """The share of the arithmetic, and of the bandwidth, that a kernel's threads can use."""
        block = math.prod(threads(step))
        at_once = min(math.prod(grid(step)), max(1, self.occupancy(step).blocks) * self.gpu.threads)
        resident = block * at_once
        pending = self.gpu.threads * LANES * PENDING
        asked = resident * WIDTH * max(1, len(step.reads))
        needed = self.gpu.bandwidth[-1][1] * self.gpu.latency
        return min(1.0, resident / pending), min(1.0, asked / needed)

    def reach(self, step: Launch) -> str:
        """What keeps a kernel from the whole machine, if anything does."""
        found = self.occupancy(step)
        full = max(1, found.blocks) * self.gpu.threads
        if math.prod(grid(step)) < full:
            return f"{math.prod(grid(step))} blocks"
        return f"{found.share:.0%} of threads by {found.bound}" if found.share < 1 else ""


def placed(plan: Plan) -> Iterator[tuple[Value, Storage]]:
    """Where the values of a block, and of those in it, lie."""
    yield from plan.storages.items()
    for inner in (*plan.nested.values(), *chain.from_iterable(plan.branches.values())):
        yield from placed(inner)


def threads(step: Launch) -> tuple[int, int, int]:
    """The shape of a launch's blocks."""
    x, y, z = step.block
    return x or step.kernel.threads, y, z


def grid(step: Launch) -> tuple[int, int, int]:
    """The grid of a launch; that of tables as if they had one row."""
    return step.grid if isinstance(step.grid, tuple) else step.grid(_One())


class _One(dict[int, int]):
    """Lengths that are all one."""

    def __missing__(self, number: int) -> int:
        return 1


def size(step: Step) -> int:
    """The bytes of what a step reads and writes; a product has its own rule."""
    if isinstance(step, Gemm | Gemms):
        return -1
    return sum(v.type.bytes for v in (*reads(step), *writes(step)))


def computed(step: Launch, ops: Sequence[Op], main: bool) -> tuple[float, float]:
    """The operations on elements of a launch, and its instructions: for the main one of an
    operation those of ``ops``, for the others one for each element that they read."""
    if not main:
        count = float(sum(v.type.size for v in step.reads))
        return count, count
    counted = [operations(op) for op in ops]
    return sum(c for c, _ in counted), sum(n for _, n in counted)


def operations(op: Op) -> tuple[float, float]:
    """The operations of one run, and about how many instructions all threads spend on them."""
    if op.attributes.get("kind") in TILED:
        return attention(op), attention(op) / 2
    if op.name == "scan":  # of single numbers
        steps = max(1, cast(int, op.attributes["length"]))
        found = [operations(one) for one in walk(op.blocks[0]) if not one.blocks]
        return steps * sum(c for c, _ in found), steps * sum(n for _, n in found)
    return work(op)[0], instructions(op)


def instructions(op: Op) -> float:
    """About how many instructions all threads together spend on an operation."""
    if op.name == "matmul":
        return work(op)[0] / 2  # fused multiply-adds
    if OPS[op.name].elementwise:
        return float(op.results[0].type.size * WORK.get(op.name, 1))
    return work(op)[0]


def inside(op: Op, by_library: bool) -> Sequence[Op]:
    """The operations that an operation's own kernels perform."""
    if not op.blocks or op.attributes.get("kind") in TILED or op.name == "scan":
        return (op,)
    return [one for one in op.blocks[0].ops if not (by_library and one.name == "matmul")]


def attention(op: Op) -> float:
    """The operations of attention, or its adjoint, on scores that may be seen: two products, or
    five; half of them where a query sees what is before it."""
    q, k, v = (x.type.shape for x in op.inputs[:3])
    batch, heads, t, group, d = q
    products = d + v[3] if op.attributes["kind"] == "attention" else 3 * d + 2 * v[3]
    seen = 0.5 if op.attributes["causal"] else 1.0
    return 2.0 * seen * batch * heads * group * t * k[2] * products


def shape(op: Op) -> str:
    """The shape of what an operation makes, or the rows and columns that it goes over."""
    if op.attributes.get("kind") == "loop":
        return f"{op.attributes['rows']}x{op.attributes['columns']}"
    if op.attributes.get("kind") == "loops":
        return f"of {sum(v.type.size for v in op.results)}"
    return "x".join(map(str, op.results[0].type.shape)) if op.results else ""
