"""A program as one module of LLVM IR: a function for each loop nest, and an entry that calls them.

The entry takes the addresses of the inputs, of the outputs, of the arena and of a pool of threads.
Equal loop nests are written once, however often they are called, so compile time does not grow with
repeated layers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

from backends.llvm import functions, linalg, moves, nests, orders, products
from backends.llvm.code import Code
from backends.llvm.division import block_nanoseconds, count
from backends.llvm.gemm import blas
from backends.llvm.kernel import PULLED, Kernel
from backends.llvm.module import Module
from backends.llvm.target import vector_bits
from backends.llvm.threads import CODE, ERROR, MASK, runtime
from staging.ir import Block, Op, Program, Value, walk
from staging.memory import ALIGNMENT, Arena, Plan, Range, Storage, plan_program, spares

# For how many threads an operation is written is the second argument.
KERNELS: dict[str, Callable[[Op, int], Kernel]] = {
    **{name: lambda op, n: nests.elementwise((op,), op.results, n) for name in PULLED},
    "reduce": lambda op, n: nests.reduction((), op, n),
    "transpose": moves.transpose,
    "concat": moves.concat,
    "pad": moves.pad,
    "fold": moves.fold,
    "gather": moves.gather,
    "cumulate": orders.cumulate,
    "argreduce": orders.argreduce,
    "argsort": orders.argsort,
    "linalg": linalg.decomposition,
}


ENVIRONMENT = ("%error", "%show", "%pool")  # what every function that performs a block is given


class Entry(Code):
    """The entry while it is written.

    Where a range of the arena starts is known only in the end; until then the text has its number.

    Args:
        threads: for how many threads work is divided.
    """

    libraries = True  # whether it may call BLAS and LAPACK

    def __init__(self, threads: int = 1) -> None:
        super().__init__()
        self.module = Module(threads=threads)
        self.arena = Arena()
        self.buffers: dict[Value, str] = {}
        self.ranges: dict[Value, Range] = {}
        self.plans: dict[Op, Plan] = {}
        self.branches: dict[Op, list[Plan]] = {}
        self.functions: dict[tuple[str, str, str], str] = {}
        self.shared: dict[tuple[Block, int], tuple[str, int]] = {}
        self.clocks: list[Op] = []  # of operations whose time is taken (`backends.llvm.profile`)

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
                whether it failed; then it may have written up to three ``i64`` there.

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
        return self.buffers[value]

    def take(self, size: int) -> tuple[str, Range]:
        """A range of the arena, and its address."""
        taken = self.arena.take(size)
        return self.let(f"getelementptr i8, ptr %arena, i64 <{taken.number}>"), taken

    def allocate(self, value: Value) -> None:
        """Give a value that no plan has a place for a range of the arena."""
        self.buffers[value], self.ranges[value] = self.take(value.type.bytes)

    def release(self, value: Value) -> None:
        """Take the range of such a value back."""
        self.arena.give(self.ranges.pop(value))
        del self.buffers[value]

    def copy(self, to: str, start: str, size: int) -> None:
        """Copy bytes."""
        self.do(f"call void @llvm.memcpy.p0.p0.i64(ptr {to}, ptr {start}, i64 {size}, i1 false)")

    # Blocks and operations.

    def run_block(
        self, block: Block, plan: Plan, sources: Sequence[str], targets: Sequence[str]
    ) -> None:
        """Write a block: from where its parameters lie to where its results shall lie. Those that
        the plan keeps in a parameter's memory lie there."""
        outer = self.plans, self.branches
        self.plans, self.branches = plan.nested, plan.branches
        pointers: dict[Storage, str] = {}
        ranges: dict[Storage, Range] = {}
        for storage in dict.fromkeys(plan.storages.values()):
            if storage.param is not None:
                pointers[storage] = sources[storage.param]
            elif storage.result is not None:
                pointers[storage] = targets[storage.result]
        self.buffers |= {v: pointers[plan.storages[v]] for v in block.params}
        for op, starting, ending in zip(block.ops, plan.starting, plan.ending, strict=True):
            for storage in starting:
                if storage.in_arena:
                    pointers[storage], ranges[storage] = self.take(storage.bytes)
            self.buffers |= {v: pointers[plan.storages[v]] for v in op.results}
            self.run_op(op)
            for storage in ending:
                if storage.in_arena:
                    self.arena.give(ranges[storage])
        for k in plan.copied:
            value = block.results[k]
            self.copy(targets[k], self.pointer(value), value.type.bytes)
        for value in plan.storages:
            del self.buffers[value]
        self.plans, self.branches = outer

    def run_op(self, op: Op) -> None:
        """Write one operation."""
        if op.name in CONTROL:
            CONTROL[op.name](self, op)
        elif op.name in KERNELS:
            self.run_kernel(op, KERNELS[op.name](op, self.module.threads))
        elif op.name != "reshape":
            raise NotImplementedError(
                f"the LLVM backend has no operation {op.name}\n  at {op.place}"
            )

    def run_kernel(self, op: Op, kernel: Kernel) -> None:
        """Call a kernel and those that follow it, and leave with its error if one fails."""
        steps = [kernel]
        while steps[-1].following is not None:
            steps.append(steps[-1].following)
        temporaries = [v for step in steps for v in step.temporaries]
        for value in temporaries:
            self.allocate(value)
        read = {self.pointer(v): v for v in reversed(op.inputs)}
        for step in steps:
            for value in op.results:
                if self.pointer(value) in read:
                    step.unite(read[self.pointer(value)], value)
            self.run_step(op, step)
        for value in temporaries:
            self.release(value)

    def run_step(self, op: Op, kernel: Kernel) -> None:
        """Call one kernel."""
        params = [f"ptr noalias %a{i}" for i in range(len(kernel.buffers))]
        params += ["ptr noalias %error"] if kernel.fallible else []
        result, end = ("i1", "ret i1 false") if kernel.fallible else ("void", "ret void")
        head = ", ".join([*params, "i64 %part"])
        name = self.function(op.name, result, head, f"{kernel.body()}\n  {end}")
        given = [f"ptr {self.pointer(v)}" for v in kernel.buffers]
        failed = self.parallel(name, given, kernel.division.parts, kernel.fallible)
        if failed:
            self.leave_if(failed, op)

    def leave_if(self, failed: str, op: Op) -> None:
        """Leave with the error of an operation if an ``i1`` is true."""
        self.module.fallible.append(op)
        with self.when(failed):
            self.do(f"ret i32 {len(self.module.fallible)}")
            self.label(self.fresh("unreached"))

    def perform(
        self, block: Block, plan: Plan, sources: Sequence[str], targets: Sequence[str]
    ) -> None:
        """Write a block in line, or a call of the function for all operations that share it."""
        if plan.shared:
            self.call_shared(block, plan, [*sources, *targets])
        else:
            self.run_block(block, plan, sources, targets)

    def call_shared(self, block: Block, plan: Plan, given: Sequence[str]) -> None:
        """Call the function for a block that several operations share, and leave with its error if
        it fails. It works in a range of the arena of its own."""
        name, size = self.outlined(block, plan, self.module.threads)
        pointer, taken = self.take(size)
        words = [*given, pointer, *ENVIRONMENT]
        failed = self.let(f"call i32 @{name}({', '.join(f'ptr {word}' for word in words)})")
        self.arena.give(taken)
        with self.when(self.let(f"icmp ne i32 {failed}, 0")):
            self.do(f"ret i32 {failed}")
            self.label(self.fresh("unreached"))

    def outlined(self, block: Block, plan: Plan, threads: int) -> tuple[str, int]:
        """The name of a function for a block, written once for a number of threads, and the bytes
        of the arena that it works in. It takes pointers to the parameters, to the results and to
        its range, and what `ENVIRONMENT` names; it returns what the entry does."""
        if (block, threads) in self.shared:
            return self.shared[block, threads]
        inner = type(self)(threads)
        inner.functions, inner.shared, inner.clocks = self.functions, self.shared, self.clocks
        same = threads == self.module.threads
        inner.module = self.module if same else replace(self.module, threads=threads)
        sources = [f"%p{i}" for i in range(len(block.params))]
        targets = [f"%r{i}" for i in range(len(block.results))]
        inner.run_block(block, plan, sources, targets)
        inner.do("ret i32 0")
        words = [*sources, *targets, "%arena", *ENVIRONMENT]
        params = ", ".join(f"ptr {word}" for word in words)
        body = inner.laid_out()
        name = self.function("block", "i32", params, body)
        self.shared[block, threads] = name, inner.arena.size
        return name, inner.arena.size

    def laid_out(self) -> str:
        """The body, with the ranges of the arena where they start."""
        self.arena.pack()
        starts = [str(taken.start) for taken in self.arena.ranges]
        return re.sub(r"<(\d+)>", lambda match: starts[int(match[1])], self.body())

    def finished(self, program: Program) -> Module:
        """Write the whole program."""
        block = program.block
        sources = [self.argument("%inputs", i) for i in range(len(block.params))]
        targets = [self.argument("%outputs", i) for i in range(len(block.results))]
        plan = plan_program(program)
        self.run_block(block, plan, sources, targets)
        self.do("ret i32 0")
        self.module.source = self.written()
        self.module.arena, self.module.alignment = self.arena.size, ALIGNMENT
        self.module.kept = plan.kept
        return self.module

    def written(self) -> str:
        """The text of the module."""
        texts = entries(self.laid_out(), self.module.parallel)
        for (result, params, body), name in self.functions.items():
            texts.append(f"define internal {result} @{name}({params}) #0 {{\n{body}\n}}")
        used = "\n\n".join(texts)
        attributes = f'noinline nounwind "prefer-vector-width"="{vector_bits()}"'
        foreign = "\n".join([*blas.declarations(), *linalg.declarations()])
        return "\n\n".join(
            [used, functions.needed(used), foreign,
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
    """The block in line, one function for all that share it, or one loop nest for it."""
    (block,) = op.blocks
    sources, targets = ([*map(entry.pointer, values)] for values in (op.inputs, op.results))
    if "kind" not in op.attributes:
        entry.perform(block, entry.plans[op], sources, targets)
        return
    inside = dict(zip((*block.params, *block.results), (*sources, *targets), strict=True))
    entry.buffers |= inside
    inner = Op("call", block.params, block.results, op.attributes, (), op.place)
    if op.attributes["kind"] == "product":
        products.followed(entry, inner, block)
    else:
        rows, columns = (cast(int, op.attributes[k]) for k in ("rows", "columns"))
        entry.run_kernel(inner, nests.fused(block, rows, columns, entry.module.threads))
    for value in inside:
        del entry.buffers[value]


def scan(entry: Entry, op: Op) -> None:
    """A loop around the block. A carry that a step cannot write in place goes back and forth
    between two buffers, and ends in that of the result."""
    parts = parts_of_map(op, entry.module.threads)
    if parts > 1:
        divided_map(entry, op, parts)
        return
    (block,) = op.blocks
    plan = entry.plans[op]
    length, carried, captured = (
        cast(int, op.attributes[k]) for k in ("length", "carried", "captured")
    )
    others = dict(zip(spares(op, plan), [Value(v.type) for v in spares(op, plan)], strict=True))
    for other in others.values():
        entry.allocate(other)
    now: list[str] = []
    then: list[str] = []
    for value, start in zip(op.results[:carried], op.inputs, strict=False):
        other = others.get(value, value)
        first, second = (value, other) if length % 2 == 0 else (other, value)
        if entry.pointer(first) != entry.pointer(start):
            entry.copy(entry.pointer(first), entry.pointer(start), value.type.bytes)
        now.append(entry.pointer(first))
        then.append(entry.pointer(second))
    slots = {i: (entry.slot("ptr"), entry.slot("ptr")) for i in range(carried) if now[i] != then[i]}
    for i, pair in slots.items():
        for slot, pointer in zip(pair, (now[i], then[i]), strict=True):
            entry.do(f"store ptr {pointer}, ptr {slot}")
    with entry.loop(length, bool(op.attributes["reverse"])) as i:
        for k, pair in slots.items():
            now[k], then[k] = (entry.let(f"load ptr, ptr {slot}") for slot in pair)
        fixed = [entry.pointer(v) for v in op.inputs[carried : carried + captured]]
        steps = [
            entry.offset(entry.pointer(v), i, v.type.bytes // length if length else 0)
            for v in (*op.inputs[carried + captured :], *op.results[carried:])
        ]
        given = len(op.inputs) - carried - captured
        sources, targets = [*now, *fixed, *steps[:given]], [*then, *steps[given:]]
        entry.run_block(block, plan, sources, targets)
        for k, pair in slots.items():
            for slot, pointer in zip(pair, (then[k], now[k]), strict=True):
                entry.do(f"store ptr {pointer}, ptr {slot}")
    for other in others.values():
        entry.release(other)


def switch(entry: Entry, op: Op) -> None:
    """The block that the index names."""
    index = entry.let(f"load i64, ptr {entry.pointer(op.inputs[0])}")
    last = len(op.blocks) - 1
    index = entry.let(f"call i64 @llvm.smax.i64(i64 {index}, i64 0)")
    index = entry.let(f"call i64 @llvm.smin.i64(i64 {index}, i64 {last})")
    sources, targets = ([*map(entry.pointer, vs)] for vs in (op.inputs[1:], op.results))
    for number, (block, plan) in enumerate(zip(op.blocks, entry.branches[op], strict=True)):
        with entry.when(entry.let(f"icmp eq i64 {index}, {number}")):
            entry.perform(block, plan, sources, targets)


def parts_of_map(op: Op, threads: int) -> int:
    """Among how many parts the iterations of a `scan` are divided: of one without a carry whose
    iterations are enough to keep that many threads busy, and show nothing, which goes in order."""
    (block,) = op.blocks
    length = cast(int, op.attributes["length"])
    if op.attributes["carried"] or any(inside.name == "print" for inside in walk(block)):
        return 1
    parts = count(length * block_nanoseconds(block), length, threads)
    rounds = -(-length // threads)
    return parts if length >= 0.75 * rounds * threads else 1


def divided_map(entry: Entry, op: Op, parts: int) -> None:
    """Each part runs its share of the iterations one after another, in a range of the arena of its
    own, and stops at the first that fails."""
    (block,) = op.blocks
    length, captured = (cast(int, op.attributes[k]) for k in ("length", "captured"))
    values = [*op.inputs, *op.results]
    name, size = entry.outlined(block, entry.plans[op], 1)
    part = Code()
    own = part.offset("%arena", "%part", size)
    start, share = part.share(length, parts)
    with part.loop(share) as k:
        i = part.let(f"add i64 {start}, {k}")
        given = [f"%a{n}" for n in range(captured)]
        for n, value in enumerate(values[captured:], captured):
            given.append(part.offset(f"%a{n}", i, value.type.bytes // length))
        words = ", ".join(f"ptr {word}" for word in (*given, own, "%error", "%show", "null"))
        failed = part.let(f"call i32 @{name}({words})")
        with part.when(part.let(f"icmp ne i32 {failed}, 0")):
            to = part.let(f"getelementptr i64, ptr %error, i64 {CODE}")
            part.do(f"store i64 {part.let(f'zext i32 {failed} to i64')}, ptr {to}")
            part.do("ret i1 true")
            part.label(part.fresh("unreached"))
    part.do("ret i1 false")
    params = ", ".join(f"ptr %a{n}" for n in range(len(values)))
    each = entry.function("map", "i1", f"{params}, ptr %arena, ptr %show, ptr %error, i64 %part",
                          part.body())  # fmt: skip
    pointer, taken = entry.take(parts * size)
    pointers = [f"ptr {p}" for p in (*map(entry.pointer, values), pointer, "%show")]
    failed = entry.parallel(each, pointers, parts, fallible=True)
    entry.arena.give(taken)
    with entry.when(str(failed)):
        code = entry.let(f"load i64, ptr {entry.let(f'getelementptr i64, ptr %error, i64 {CODE}')}")
        entry.do(f"ret i32 {entry.let(f'trunc i64 {code} to i32')}")
        entry.label(entry.fresh("unreached"))


def scatter(entry: Entry, op: Op) -> None:
    """Into a copy of the operand, or into the operand where the result lies there."""
    in_place = entry.pointer(op.inputs[0]) == entry.pointer(op.results[0])
    entry.run_kernel(op, moves.scatter(op, entry.module.threads, in_place))


def show(entry: Entry, op: Op) -> None:
    """Call back with the addresses of what is shown."""
    entry.module.shown.append(op)
    array = entry.slot(f"[{max(1, len(op.inputs))} x ptr]")
    for i, value in enumerate(op.inputs):
        at = entry.let(f"getelementptr ptr, ptr {array}, i64 {i}")
        entry.do(f"store ptr {entry.pointer(value)}, ptr {at}")
    entry.do(f"call void %show(i32 {len(entry.module.shown) - 1}, ptr {array})")


def require(entry: Entry, op: Op) -> None:
    """Leave with an error unless the condition holds."""
    condition = entry.let(f"load i8, ptr {entry.pointer(op.inputs[0])}")
    entry.leave_if(entry.let(f"icmp eq i8 {condition}, 0"), op)


CONTROL: dict[str, Callable[[Entry, Op], None]] = {
    "matmul": products.matmul,
    "call": call,
    "scan": scan,
    "switch": switch,
    "scatter": scatter,
    "print": show,
    "require": require,
}
