"""What a program costs, before it runs: from its types alone, on the roofline of a machine.

Every operation that a backend writes as a kernel of its own becomes a row: a `call` of a loop nest,
a product, a gather. Its arithmetic is counted, and the bytes that it reads and writes; the roofline
says how long a machine takes for the slower of the two. How fast bytes come depends on how far they
are: on how many others were moved since they were touched last, and which cache holds so many.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, cast

from staging.agenda import fewest
from staging.frames import Frames, frames_of
from staging.ir import ITEMSIZE, Block, Op, Program, Value
from staging.machine import Machine
from staging.memory import peak_memory, plan_program
from staging.ops import OPS
from staging.table import quantity, render

# Vector instructions for an element, where they are more than one.
WORK = {
    "exp": 29, "log": 34, "log1p": 37, "expm1": 27, "sin": 46, "cos": 44, "tanh": 38, "erf": 44,
    "pow": 77, "atan2": 36, "div": 4, "sqrt": 6, "rem": 20,
}  # fmt: skip
FREE = frozenset(
    ("constant", "iota", "broadcast", "reshape", "transpose", "slice", "view", "bitcast")
)
RECURSION = ("recurse", "agenda", "unwind")


@dataclass(slots=True)
class Row:
    """One kernel, however often it runs.

    Attributes:
        op: the operation.
        times: how often it runs.
        flops: what all of its runs compute, in operations on elements; those on integers count, and
            a function such as ``exp`` as many as its vector code has.
        bytes: what all of them read and write.
        arithmetic: the seconds that the arithmetic takes at best.
        transfer: the seconds that the bytes take at best.
        start: the seconds that it takes to begin with.
        label: what it is called, where the operation does not say that.
        reach: how much of the machine it reaches, where it is known.
    """

    op: Op
    times: int = 0
    flops: float = 0.0
    bytes: float = 0.0
    arithmetic: float = 0.0
    transfer: float = 0.0
    start: float = 0.0
    label: str = ""
    reach: str = ""

    @property
    def name(self) -> str:
        """What it does, in a few words."""
        return self.label or describe(self.op)

    @property
    def places(self) -> tuple[str, ...]:
        """The user's lines in it, the one with most operations first."""
        return places(self.op)

    @property
    def intensity(self) -> float:
        """Operations for each byte moved."""
        return self.flops / self.bytes if self.bytes else 0.0

    @property
    def seconds(self) -> float:
        """The predicted time of all runs."""
        return self.start + max(self.arithmetic, self.transfer)

    @property
    def bound(self) -> str:
        """What it waits for."""
        if self.start > max(self.arithmetic, self.transfer):
            return "start"
        return "arithmetic" if self.arithmetic > self.transfer else "memory"


@dataclass(frozen=True)
class Cost:
    """What a program costs; prints as a table.

    Attributes:
        rows: the kernels, the slowest first.
        machine: whose roofline it is.
        arguments: the bytes of the arguments and of the arrays that the program closes over.
        results: the bytes of the results that do not take over a donated argument's memory.
        workspace: the bytes of what is computed and read again, at the moment when that is most.
            What a kernel works in for itself comes on top: blocks of a product's operands, a few
            megabytes for each thread, and matrices that a backend packs ahead of a loop.
        frames: what each loop, and each recursion, keeps of a step for the way back.
        note: what else one should know of how it was predicted.
    """

    name: str
    rows: tuple[Row, ...]
    machine: Machine
    arguments: int
    results: int
    workspace: int
    frames: tuple[Frames, ...] = ()
    note: str = ""

    @property
    def flops(self) -> float:
        """The operations of all kernels."""
        return sum(row.flops for row in self.rows)

    @property
    def bytes(self) -> float:
        """The bytes that all kernels move."""
        return sum(row.bytes for row in self.rows)

    @property
    def intensity(self) -> float:
        """Operations for each byte moved."""
        return self.flops / self.bytes if self.bytes else 0.0

    @property
    def seconds(self) -> float:
        """The predicted time."""
        return sum(row.seconds for row in self.rows)

    @property
    def peak_memory(self) -> int:
        """The bytes of arguments, results and what lies between, when they are most."""
        return self.arguments + self.results + self.workspace

    def __str__(self) -> str:
        total = self.seconds or 1.0
        rows = [
            [
                name,
                str(sum(r.times for r in alike)),
                quantity(flops := sum(r.flops for r in alike), "FLOP"),
                quantity(moved := sum(r.bytes for r in alike), "B"),
                f"{flops / moved:.3g}" if moved else "",
                quantity(seconds := sum(r.seconds for r in alike), "s"),
                f"{100 * seconds / total:.1f} %",
                ", ".join(filter(None, (alike[0].bound, alike[0].reach))),
                where,
            ]
            for (name, where), alike in listed(self.rows, lambda row: (row.name, lines(row.places)))
        ]
        rows.append([
            "total", str(sum(r.times for r in self.rows)), quantity(self.flops, "FLOP"),
            quantity(self.bytes, "B"), f"{self.intensity:.3g}", quantity(self.seconds, "s"), "", "",
            "",
        ])  # fmt: skip
        head = ["kernel", "runs", "work", "moved", "FLOP/B", "time", "share", "bound", "lines"]
        foot = (
            f"peak memory {quantity(self.peak_memory, 'B')}: "
            f"{quantity(self.arguments, 'B')} arguments, {quantity(self.results, 'B')} results, "
            f"{quantity(self.workspace, 'B')} between\nroofline: {self.machine}"
        )
        foot = "\n".join(filter(None, (*map(str, self.frames), foot, self.note)))
        return render(f"predicted cost of {self.name}", head, rows, foot)


def estimate(program: Program, machine: Machine) -> Cost:
    """The cost of an optimised program on a machine."""

    def parts(op: Op) -> int:
        """Steps that do not wait for each other run on all threads."""
        steps = cast(int, op.attributes["length"])
        return 1 if op.attributes["carried"] else max(1, min(machine.threads, steps))

    return totalled(program, Walk(machine), peak_memory(program, parts))


def totalled(program: Program, walk: Walk, workspace: int) -> Cost:
    """The cost of an optimised program, by a walk over it."""
    walk.block(program.block, 1)
    rows = sorted(walk.rows.values(), key=lambda row: -row.seconds)
    inputs = sum(v.type.bytes for v in program.block.params)
    kept = plan_program(program).kept
    fresh = [v for v, param in zip(program.block.results, kept, strict=True) if param is None]
    results = sum(v.type.bytes for v in fresh)
    frames = frames_of(program)
    return Cost(program.name, tuple(rows), walk.machine, inputs, results, workspace, frames)


def alone(op: Op, machine: Machine) -> Row:
    """What one run of a kernel costs, of which nothing is in a cache."""
    walk = Walk(machine)
    walk.kernel(op, 1)
    return walk.rows[op, 0]


# What is counted ----------------------------------------------------------------------------------


def work(op: Op) -> tuple[float, float]:
    """The operations of one run, and the same in units of a float32 fused multiply-add's halves:
    what takes as long as so many of those."""
    if op.blocks:
        parts = [work(inner) for inner in op.blocks[0].ops]
        times = max(1, cast(int, op.attributes.get("length", 1)))
        return times * sum(p[0] for p in parts), times * sum(p[1] for p in parts)
    if op.name in FREE or len(op.results) != 1:
        return 0.0, 0.0
    (out,) = op.results
    if op.name == "matmul":
        x = op.inputs[0].type
        inner = x.shape[-2 if op.attributes["transpose_x"] else -1]
        count = 2.0 * out.type.size * inner
        return count, count * (2 if x.dtype == "float64" else 1)
    if OPS[op.name].elementwise:
        count, dtype = float(out.type.size * WORK.get(op.name, 1)), op.inputs[-1].type.dtype
    elif op.name == "argsort":
        x = op.inputs[0].type
        count, dtype = 4.0 * x.size * max(1, x.shape[-1]).bit_length(), x.dtype
    elif op.name in ("reduce", "cumulate", "argreduce"):
        count, dtype = float(op.inputs[0].type.size), op.inputs[0].type.dtype
    elif op.name == "scatter" and op.attributes["kind"] != "set":
        count, dtype = float(op.inputs[1].type.size), op.inputs[1].type.dtype
    else:
        return 0.0, 0.0
    # A loop computes one operation an instruction; narrow floats are computed in float32.
    return count, 2 * count * (2 if ITEMSIZE[dtype] == 8 else 1)


def moved(op: Op) -> dict[Value, int]:
    """The bytes that one run reads of each input and writes of each result."""
    found = {v: v.type.bytes for v in (*op.inputs, *op.results)}
    if op.blocks:
        for param, value in zip(op.blocks[0].params, op.inputs, strict=True):
            found[value] = min(read_of(param, op.blocks[0].ops), found[value])
    elif op.name in ("gather", "scatter"):
        picked = op.results[0] if op.name == "gather" else op.inputs[1]
        found[op.inputs[0]] = min(picked.type.bytes, op.inputs[0].type.bytes)
        if op.name == "scatter":  # written over its input, unless that is read again
            found[op.results[0]] = min(picked.type.bytes, op.results[0].type.bytes)
    else:
        for value in op.inputs:
            found[value] = min(read_of(value, (op,)), found[value])
    return found


def read_of(value: Value, ops: Sequence[Op]) -> int:
    """The bytes that operations read of a value: slices of it, or all."""
    readers = [op for op in ops if value in op.inputs]
    if any(op.name != "slice" for op in readers):
        return value.type.bytes
    return sum(op.results[0].type.bytes for op in readers)


class Walk:
    """A walk over a program in the order in which it runs.

    Attributes:
        rows: of each kernel of an operation, by its number there.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.rows: dict[tuple[Op, int], Row] = {}
        self.clock = 0.0  # bytes touched so far
        self.touched: dict[Value, float] = {}  # and when each value was

    def block(self, block: Block, times: float) -> None:
        for op in block.ops:
            if op.name == "reshape":
                self.touched[op.results[0]] = self.when(op.inputs[0])
            elif op.name == "scan":
                self.scan(op, times)
            elif op.name == "while":  # nothing says how often: this is the cost of one step
                for inner in op.blocks:
                    self.enter(inner, [self.when(v) for v in op.inputs], times)
            elif op.name in RECURSION:  # one call of each function, along every path
                for inner in op.blocks:
                    self.enter(inner, [self.clock] * len(inner.params), times)
            elif op.name in ("agenda", "unwind"):  # control once, each unit for the fewest calls
                for inner, counts in zip(op.blocks, fewest(op), strict=True):
                    self.enter(inner, [self.clock] * len(inner.params), times * counts)
            elif op.name == "switch":  # nothing says which block runs: each as often
                for inner in op.blocks:
                    self.enter(inner, [self.when(v) for v in op.inputs[1:]], times / len(op.blocks))
                    self.leave(inner.results, op.results)
            elif op.name == "call" and "kind" not in op.attributes:
                self.enter(op.blocks[0], [self.when(v) for v in op.inputs], times)
                self.leave(op.blocks[0].results, op.results)
            else:
                self.kernel(op, times)

    def when(self, value: Value) -> float:
        return self.touched.get(value, float("-inf"))

    def enter(self, block: Block, touched: Sequence[float], times: float) -> None:
        self.touched.update(zip(block.params, touched, strict=True))
        self.block(block, times)

    def leave(self, inside: Sequence[Value], outside: Sequence[Value]) -> None:
        for a, b in zip(inside, outside, strict=True):
            self.touched[b] = self.when(a)

    def scan(self, op: Op, times: float) -> None:
        """The first step, and a second one that stands for all others."""
        (block,) = op.blocks
        length, carried, captured = (
            cast(int, op.attributes[k]) for k in ("length", "carried", "captured")
        )
        inputs = op.inputs
        if length == -1:  # nothing says how often: this is the cost of one step
            length, inputs = 1, inputs[1:]
        length = max(length, 1) if length < 0 else length
        stacked = [self.clock - self.when(v) for v in inputs[carried + captured :]]
        before = [self.when(v) for v in inputs[: carried + captured]]
        for step, weight in ((0, min(length, 1)), (1, length - 1)):
            if weight <= 0:
                continue
            start = self.clock
            self.enter(block, [*before, *(self.clock - ago for ago in stacked)], times * weight)
            self.clock += (weight - 1) * (self.clock - start) * step
            before = [self.when(v) for v in block.results[:carried]]
            before += [self.when(v) for v in block.params[carried : carried + captured]]
        for value, when in zip(inputs[: carried + captured], before, strict=True):
            self.touched[value] = max(when, self.when(value))
        self.leave(block.results, op.results)

    def kernel(self, op: Op, times: float) -> None:
        """Add runs of an operation that is a kernel of its own."""
        count, effort = work(op)
        row = self.rows.setdefault((op, 0), Row(op))
        row.flops += times * count
        row.arithmetic += times * effort / self.machine.flops
        row.transfer += times * self.transfer(row, moved(op), op.results, times)

    def transfer(
        self, row: Row, parts: Mapping[Value, int], written: Collection[Value], times: float
    ) -> float:
        """Count runs of a kernel that moves some bytes of some values; the seconds that those of
        one run take."""
        total, seconds = sum(parts.values()), 0.0
        for value, size in parts.items():
            away = total if value in written else self.clock - self.when(value) + total
            seconds += size / self.machine.rate(away)
        self.clock += total
        for value in parts:
            self.touched[value] = self.clock
        row.times += int(times)
        row.bytes += times * total
        return seconds


# What is shown ------------------------------------------------------------------------------------


def describe(op: Op) -> str:
    """An operation in a few words: ``matmul 4x8x16``, ``loop 256x288: reduce, sqrt, mul``."""
    if op.name == "matmul":
        batch, sizes = shape_of_product(op)
        return f"matmul {batch}{sizes}"
    if op.name == "call" and op.blocks:
        inner = op.blocks[0].ops
        products = [o for o in inner if o.name == "matmul"]
        words = Counter(o.name for o in inner if o.name not in FREE and o.name != "matmul")
        names = [n for n, _ in sorted(words.items(), key=lambda w: -w[1] * WORK.get(w[0], 1))]
        listed = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
        if op.attributes.get("kind") == "contraction":
            terms = max(o.inputs[0].type.size for o in inner if o.name == "reduce")
            rows = op.results[0].type.size
            return f"contraction {rows}x{terms // rows}: {listed}"
        if products:
            return " with ".join(filter(None, [describe(products[0]), listed]))
        rows, columns = (op.attributes.get(k, 1) for k in ("rows", "columns"))
        return f"loop {rows}x{columns}: {listed}"
    shape = "x".join(map(str, op.results[0].type.shape)) if op.results else ""
    return f"{op.name} {shape}".rstrip()


def shape_of_product(op: Op) -> tuple[str, str]:
    """``"8 x "`` for a batch of 8, and rows, columns and inner length."""
    out, x = op.results[0].type.shape, op.inputs[0].type.shape
    batch = 1
    for n in out[:-2]:
        batch *= n
    inner = x[-2 if op.attributes["transpose_x"] else -1]
    return f"{batch} x " if batch > 1 else "", f"{out[-2]}x{out[-1]}x{inner}"


def places(op: Op) -> tuple[str, ...]:
    """The user's lines that an operation comes from, the one with most work first."""
    if not op.blocks:
        return (op.place,) if op.place else ()
    found: dict[str, float] = {}
    for inner in op.blocks[0].ops:
        for place in places(inner):
            found[place] = found.get(place, 0.0) + work(inner)[0]
    return tuple(sorted(found, key=lambda p: -found[p]))


class Timed(Protocol):
    """A row of a table."""

    @property
    def seconds(self) -> float: ...


R = TypeVar("R", bound=Timed)
Label = tuple[str, ...]


def listed(
    rows: Sequence[R], label: Callable[[R], Label], most: int = 30
) -> list[tuple[Label, list[R]]]:
    """The rows that a table shows: those of one label as one, the slowest first, and behind the
    first ones all others together."""
    groups: dict[Label, list[R]] = {}
    for row in rows:
        groups.setdefault(label(row), []).append(row)
    found = sorted(groups.items(), key=lambda group: -sum(r.seconds for r in group[1]))
    rest = [row for _, group in found[most:] for row in group]
    if not rest:
        return found
    blank = [""] * (len(found[0][0]) - 1)
    return [*found[:most], ((f"{len(found) - most} more", *blank), rest)]


def lines(found: Sequence[str], most: int = 3) -> str:
    """Lines for a table: file names without their folders."""
    short = list(dict.fromkeys(p.rsplit("/", 1)[-1] for p in found))
    return ", ".join(short[:most]) + (f" and {len(short) - most} more" if len(short) > most else "")
