"""A program as one module of LLVM IR: a function for each loop nest, and an entry that calls them.

The entry takes the addresses of the inputs, of the outputs, of the arena and of a pool of threads.
Equal loop nests are written once, however often they are called, so compile time does not grow with
repeated layers.
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
from backends.llvm.threads import ERROR, MASK, runtime
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
        threads: how many threads the work is divided for; which of a pool's runs what is left open,
            and the results are the same with fewer threads, or none.
        parallel: whether any work is divided.
    """

    source: str = ""
    arena: int = 0
    fallible: list[Op] = field(default_factory=list)
    shown: list[Op] = field(default_factory=list)
    threads: int = 1
    parallel: bool = False


class Entry(Code):
    """The entry while it is written.

    Args:
        threads: for how many threads work is divided.
    """

    def __init__(self, threads: int = 1) -> None:
        super().__init__()
        self.module = Module(threads=threads)
        self.arena = Arena()
        self.buffers: dict[Value, Buffer] = {}
        self.functions: dict[tuple[str, str, str], str] = {}

    # Functions.

    def function(self, stem: str, result: str, params: str, body: str) -> str:
        """The name of a function of the module. Equal ones are written once.

        Args:
            stem: the end of its name.
            result: the LLVM type that it returns.
            params: its parameters, with types, attributes and names.
            body: the text between its braces.
        """
        key = result, params, body
        return self.functions.setdefault(key, f"f{len(self.functions)}.{stem}")

    def parallel(
        self, name: str, given: Sequence[str], parts: int, fallible: bool = False
    ) -> str | None:
        """Call a function of the module once for each part of its work, divided among threads.

        All parts have run when what is written next runs. Parts must not write what others read or
        write. The number of parts may depend on `Module.threads`, but on nothing that is known only
        when the program runs: then the results do not depend on which thread runs what.

        Args:
            name: a function from `function`, whose parameters are what is given and then
                ``i64 %part``, the number of the part from 0. Mark pointers ``noalias`` there.
            given: operands of at most 8 bytes with their types, ``ptr %v3``, ``i64 8``.
            parts: how many; 1 is an ordinary call.
            fallible: the function takes ``ptr %error`` before the part and returns an ``i1``:
                whether it failed; then it has written two ``i64`` there.

        Returns:
            If it is fallible, an ``i1``: whether a part failed; ``%error`` holds what the first of
            those wrote.

        Example, for a helper that fills rows of a matrix::

            fill = entry.function("fill", "void", "ptr noalias %to, i64 %part", body)
            entry.parallel(fill, [f"ptr {pointer}"], entry.module.threads)
        """
        kind = "i1" if fallible else "void"
        if parts == 1:
            words = [*given, "ptr %error"] if fallible else given
            call = f"call {kind} @{name}({', '.join([*words, 'i64 0'])})"
            return self.let(call) if fallible else self.do(call)
        self.module.parallel = True
        array = self.slot(f"[{len(given) + 1} x i64]")
        errors = self.slot(f"[{ERROR * parts} x i64]") if fallible else ""
        words = [*given, f"ptr {errors}"] if fallible else given
        part, passed = Code(), list[str]()
        for i, word in enumerate(words):
            type, value = word.split()
            to = self.let(f"getelementptr i64, ptr {array}, i64 {i}")
            self.do(f"store {type} {value}, ptr {to}")
            at = part.let(f"getelementptr i64, ptr %given, i64 {i}")
            passed.append(f"{type} {part.let(f'load {type}, ptr {at}')}")
        if fallible:
            mine = part.let(f"getelementptr [{ERROR} x i64], {passed.pop()}, i64 %part")
            detail = part.let(f"getelementptr i64, ptr {mine}, i64 1")
            failed = part.let(
                f"call i1 @{name}({', '.join([*passed, f'ptr {detail}'])}, i64 %part)"
            )
            part.do(f"store i64 {part.let(f'zext i1 {failed} to i64')}, ptr {mine}")
        else:
            part.do(f"call void @{name}({', '.join([*passed, 'i64 %part'])})")
        part.do("ret void")
        each = self.function(f"{name}.part", "void", "ptr %given, i64 %part", part.body())
        self.do(f"call void @lantern.parallel(ptr %pool, ptr @{each}, ptr {array}, i32 {parts})")
        if fallible:
            return self.let(f"call i1 @lantern.failed(ptr {errors}, i64 {parts}, ptr %error)")
        return None

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
        params = [f"ptr noalias %a{i}" for i in range(len(kernel.buffers))]
        params += ["ptr noalias %error"] if kernel.fallible else []
        result, end = ("i1", "ret i1 false") if kernel.fallible else ("void", "ret void")
        head = ", ".join([*params, "i64 %part"])
        name = self.function(op.name, result, head, f"{kernel.body()}\n  {end}")
        given = [f"ptr {self.pointer(v)}" for v in kernel.buffers]
        failed = self.parallel(name, given, 1, kernel.fallible)
        if failed:
            self.module.fallible.append(op)
            with self.when(failed):
                self.do(f"ret i32 {len(self.module.fallible)}")
                self.label(self.fresh("unreached"))
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
        self.module.source = self.written()
        return self.module

    def written(self) -> str:
        """The text of the module."""
        texts = entries(self.body(), self.module.parallel)
        for (result, params, body), name in self.functions.items():
            texts.append(f"define internal {result} @{name}({params}) #0 {{\n{body}\n}}")
        used = "\n\n".join(texts)
        attributes = f'noinline nounwind "prefer-vector-width"="{vector_bits()}"'
        return "\n\n".join(
            [used, mathematics.needed(used), "\n".join(products.declarations()),
             f"attributes #0 = {{ {attributes} }}"])  # fmt: skip

    def argument(self, array: str, i: int) -> str:
        """The ``i``-th address of an array of addresses."""
        at = self.let(f"getelementptr ptr, ptr {array}, i64 {i}")
        return self.let(f"load ptr, ptr {at}")


def entries(body: str, parallel: bool) -> list[str]:
    """The entry; where work is divided, the one that holds the pool while it calls the one that
    does the work."""
    params = [f"ptr %{name}" for name in ("inputs", "outputs", "arena", "error", "show", "pool")]
    given = ", ".join(params)
    if not parallel:
        return [f"define i32 @run({given}) #0 {{\n{body}\n}}"]
    held = given.replace("%pool", "%held")
    outer = Code()
    saved = outer.slot(f"[{MASK} x i8], align 8")
    outer.do(f"%held = call ptr @lantern.hold(ptr %pool, ptr {saved})")
    code = outer.let(f"call i32 @work({held})")
    outer.do(f"call void @lantern.release(ptr %held, ptr {saved})")
    outer.do(f"ret i32 {code}")
    return [
        runtime(),
        f"define internal i32 @work({given}) #0 {{\n{body}\n}}",
        f"define i32 @run({given}) #0 {{\n{outer.body()}\n}}",
    ]


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
