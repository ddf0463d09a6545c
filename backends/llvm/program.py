"""A program as one module of LLVM IR: a function for each loop nest, and an entry that calls them.

The entry takes the addresses of the inputs, of the outputs and of the arena. Equal loop nests are
written once, however often they are called, so compile time does not grow with repeated layers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

from backends.llvm import mathematics, moves, nests, orders, products
from backends.llvm.code import Code
from backends.llvm.kernel import PULLED, Kernel
from backends.llvm.memory import Arena
from backends.llvm.target import vector_bits
from staging.ir import Block, Op, Program, Value

KERNELS: dict[str, Callable[[Op], Kernel]] = {
    **{name: lambda op: nests.elementwise((op,), op.results) for name in PULLED},
    "reduce": lambda op: nests.reduction((), op),
    "concat": moves.concat,
    "pad": moves.pad,
    "gather": moves.gather,
    "scatter": moves.scatter,
    "cumulate": orders.cumulate,
    "argreduce": orders.argreduce,
    "argsort": orders.argsort,
}


@dataclass(slots=True)
class Buffer:
    """Where a value lies: a pointer, and the range of the arena that it takes, if any."""

    pointer: str
    taken: tuple[int, int] | None = None
    holders: int = 1


@dataclass(slots=True)
class Module:
    """What a program became, before it is compiled.

    Attributes:
        source: LLVM IR; the entry is ``@run``.
        arena: the bytes that a call works in.
        fallible: the operations that may fail: the entry returns the place in this list plus 1.
        shown: the operations that print: the entry calls back with the place in this list.
    """

    source: str = ""
    arena: int = 0
    fallible: list[Op] = field(default_factory=list)
    shown: list[Op] = field(default_factory=list)


class Entry(Code):
    """The entry while it is written."""

    def __init__(self) -> None:
        super().__init__()
        self.module = Module()
        self.arena = Arena()
        self.buffers: dict[Value, Buffer] = {}
        self.kernels: dict[tuple[str, int, bool], str] = {}

    # Buffers.

    def pointer(self, value: Value) -> str:
        """The address of a value."""
        return self.buffers[value].pointer

    def allocate(self, value: Value) -> None:
        """Give a value a range of the arena."""
        taken = self.arena.take(value.type.bytes)
        to = self.let(f"getelementptr i8, ptr %arena, i64 {taken[0]}")
        self.buffers[value] = Buffer(to, taken)

    def alias(self, value: Value, other: Value) -> None:
        """Let a value lie where another does."""
        self.buffers[value] = self.buffers[other]
        self.buffers[value].holders += 1

    def release(self, value: Value) -> None:
        """Forget a value; its range is free once nothing lies there any more."""
        buffer = self.buffers.pop(value)
        buffer.holders -= 1
        if buffer.taken is not None and buffer.holders == 0:
            self.arena.give(buffer.taken)

    def copy(self, to: str, start: str, size: int) -> None:
        """Copy bytes."""
        self.do(f"call void @llvm.memcpy.p0.p0.i64(ptr {to}, ptr {start}, i64 {size}, i1 false)")

    def offset(self, pointer: str, index: str, size: int) -> str:
        """The ``index``-th part of ``size`` bytes."""
        at = self.let(f"mul i64 {index}, {size}")
        return self.let(f"getelementptr i8, ptr {pointer}, i64 {at}")

    # Blocks and operations.

    def run_block(self, block: Block, sources: Sequence[str], targets: Sequence[str]) -> None:
        """Write a block: from where its parameters lie to where its results shall lie."""
        makers = {result: op for op in block.ops for result in op.results}
        uses = Counter(v for op in block.ops for v in op.inputs) + Counter(block.results)
        homes: dict[Value, str] = {}
        late: list[tuple[Value, str]] = []
        for result, target in zip(block.results, targets, strict=True):
            root = result
            while root in makers and makers[root].name == "reshape":
                root = makers[root].inputs[0]
            if root in makers and root not in homes:
                homes[root] = target  # made in place
            else:
                late.append((result, target))
        for param, source in zip(block.params, sources, strict=True):
            self.buffers[param] = Buffer(source)
        for op in block.ops:
            if op.name == "scatter" and self.spare(op, uses, homes):
                self.alias(op.results[0], op.inputs[0])
                self.run_kernel(op, moves.scatter(op, in_place=True))
            else:
                self.run_op(op, homes)
            for value in dict.fromkeys((*op.inputs, *op.results)):
                uses[value] -= op.inputs.count(value)
                if uses[value] == 0:
                    self.release(value)
        for result, target in late:
            self.copy(target, self.pointer(result), result.type.bytes)
        for value in dict.fromkeys(block.results):
            self.release(value)
        for param in block.params:
            self.buffers.pop(param, None)

    def run_op(self, op: Op, homes: dict[Value, str]) -> None:
        """Write one operation."""
        if op.name == "reshape":
            self.alias(op.results[0], op.inputs[0])
            return
        for result in op.results:
            if result in homes:
                self.buffers[result] = Buffer(homes[result])
            else:
                self.allocate(result)
        if op.name in CONTROL:
            CONTROL[op.name](self, op)
        elif op.name in KERNELS:
            self.run_kernel(op, KERNELS[op.name](op))
        else:
            raise NotImplementedError(
                f"the LLVM backend has no operation {op.name}\n  at {op.place}"
            )

    def spare(self, op: Op, uses: Counter[Value], homes: dict[Value, str]) -> bool:
        """Whether an operation may write over its first input: it is the last to read it, nothing
        else lies there, and the result need not lie elsewhere."""
        buffer = self.buffers[op.inputs[0]]
        last = uses[op.inputs[0]] == 1 and buffer.holders == 1
        return last and buffer.taken is not None and op.results[0] not in homes

    def run_kernel(self, op: Op, kernel: Kernel) -> None:
        """Call a kernel, and leave with its error if it fails."""
        for value in kernel.temporaries:
            self.allocate(value)
        key = (kernel.body(), len(kernel.buffers), kernel.fallible)
        name = self.kernels.setdefault(key, f"kernel{len(self.kernels)}.{op.name}")
        given = [f"ptr {self.pointer(v)}" for v in kernel.buffers]
        if kernel.fallible:
            self.module.fallible.append(op)
            failed = self.let(f"call i1 @{name}({', '.join([*given, 'ptr %error'])})")
            with self.when(failed):
                self.do(f"ret i32 {len(self.module.fallible)}")
                self.label(self.fresh("unreached"))
        else:
            self.do(f"call void @{name}({', '.join(given)})")
        for value in kernel.temporaries:
            self.release(value)

    def finished(self, program: Program) -> Module:
        """Write the whole program."""
        block = program.block
        sources = [self.argument("%inputs", i) for i in range(len(block.params))]
        targets = [self.argument("%outputs", i) for i in range(len(block.results))]
        self.run_block(block, sources, targets)
        self.do("ret i32 0")
        self.module.arena = self.arena.size
        entry = "define i32 @run(ptr %inputs, ptr %outputs, ptr %arena, ptr %error, ptr %show) #0"
        texts = [f"{entry} {{\n{self.body()}\n}}"]
        for (body, count, fallible), name in self.kernels.items():
            params = [f"ptr noalias %a{i}" for i in range(count)]
            params += ["ptr noalias %error"] if fallible else []
            end = "  ret i1 false" if fallible else "  ret void"
            kind = "i1" if fallible else "void"
            head = f"define internal {kind} @{name}({', '.join(params)}) #0"
            texts.append(f"{head} {{\n{body}\n{end}\n}}")
        used = "\n\n".join(texts)
        attributes = f'noinline nounwind "prefer-vector-width"="{vector_bits()}"'
        self.module.source = "\n\n".join(
            [used, mathematics.needed(used), "\n".join(products.declarations()),
             f"attributes #0 = {{ {attributes} }}"])  # fmt: skip
        return self.module

    def argument(self, array: str, i: int) -> str:
        """The ``i``-th address of an array of addresses."""
        at = self.let(f"getelementptr ptr, ptr {array}, i64 {i}")
        return self.let(f"load ptr, ptr {at}")


def call(entry: Entry, op: Op) -> None:
    """The block in line, or one loop nest for it."""
    (block,) = op.blocks
    sources, targets = map(entry.pointer, op.inputs), map(entry.pointer, op.results)
    if op.attributes.get("kind") != "loop":
        entry.run_block(block, list(sources), list(targets))
        return
    inside = dict(zip((*block.params, *block.results), (*sources, *targets), strict=True))
    entry.buffers |= {value: Buffer(pointer) for value, pointer in inside.items()}
    rows, columns = (cast(int, op.attributes[k]) for k in ("rows", "columns"))
    entry.run_kernel(op, nests.fused(block, rows, columns))
    for value in inside:
        del entry.buffers[value]


def scan(entry: Entry, op: Op) -> None:
    """A loop around the block. The carry goes back and forth between two sets of buffers, and ends
    in that of the results."""
    (block,) = op.blocks
    length, carried, captured = (
        cast(int, op.attributes[k]) for k in ("length", "carried", "captured")
    )
    spare = [Value(v.type) for v in op.results[:carried]]
    current, following = [], []
    for value, other, start in zip(op.results[:carried], spare, op.inputs, strict=False):
        entry.allocate(other)
        first, second = (value, other) if length % 2 == 0 else (other, value)
        entry.copy(entry.pointer(first), entry.pointer(start), value.type.bytes)
        for slots, pointed in ((current, first), (following, second)):
            slots.append(entry.slot("ptr"))
            entry.do(f"store ptr {entry.pointer(pointed)}, ptr {slots[-1]}")
    with entry.loop(length, bool(op.attributes["reverse"])) as i:
        now = [entry.let(f"load ptr, ptr {slot}") for slot in current]
        then = [entry.let(f"load ptr, ptr {slot}") for slot in following]
        fixed = [entry.pointer(v) for v in op.inputs[carried : carried + captured]]
        steps = [
            entry.offset(entry.pointer(v), i, v.type.bytes // length if length else 0)
            for v in (*op.inputs[carried + captured :], *op.results[carried:])
        ]
        given = len(op.inputs) - carried - captured
        entry.run_block(block, [*now, *fixed, *steps[:given]], [*then, *steps[given:]])
        for slot, pointer in zip((*current, *following), (*then, *now), strict=True):
            entry.do(f"store ptr {pointer}, ptr {slot}")
    for other in spare:
        entry.release(other)


def show(entry: Entry, op: Op) -> None:
    """Call back with the addresses of what is shown."""
    entry.module.shown.append(op)
    array = entry.slot(f"[{max(1, len(op.inputs))} x ptr]")
    for i, value in enumerate(op.inputs):
        at = entry.let(f"getelementptr ptr, ptr {array}, i64 {i}")
        entry.do(f"store ptr {entry.pointer(value)}, ptr {at}")
    entry.do(f"call void %show(i32 {len(entry.module.shown) - 1}, ptr {array})")


CONTROL: dict[str, Callable[[Entry, Op], None]] = {
    "matmul": products.matmul,
    "call": call,
    "scan": scan,
    "print": show,
}
