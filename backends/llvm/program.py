"""A program as one module of LLVM IR: a function for each loop nest, and an entry that calls them.

The entry takes the addresses of the inputs, of the outputs, of the arena, of a pool of threads and
of the word that interrupts loops.
Equal loop nests are written once, however often they are called, so compile time does not grow with
repeated layers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Self

from backends.llvm import control, functions, inline, linalg, lists, moves, nests, orders
from backends.llvm.code import ENVIRONMENT, Code
from backends.llvm.gemm import blas
from backends.llvm.gemm.plan import Packed
from backends.llvm.interrupts import INTERRUPTED, interrupted
from backends.llvm.kernel import LENGTHS, PULLED, Kernel
from backends.llvm.module import Module
from backends.llvm.target import vector_bits
from backends.llvm.threads import ERROR, MASK, runtime
from staging.ir import Block, Op, Program, Type, Value, shared_blocks, walk
from staging.lengths import numbers
from staging.memory import ALIGNMENT, Arena, Plan, Range, Storage, plan_program
from staging.passes.tiled import open_tiled

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

PARAMETERS = ("inputs", "outputs", "arena", "error", "show", "pool", "stop")  # of the entry
LENGTHS_OF_ALL = "%lengths"  # of the tables of the program


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
        self.buffers: dict[Value, str] = {LENGTHS: "%lengths"}
        self.ranges: dict[Value, Range] = {}
        self.plans: dict[Op, Plan] = {}
        self.branches: dict[Op, list[Plan]] = {}
        self.functions: dict[tuple[str, str, str], str] = {}
        self.brief: set[str] = set()  # those of them that have no loops
        self.shared: dict[tuple[Plan, int], tuple[str, int]] = {}
        self.openers: dict[tuple[tuple[Type, ...], int], tuple[str, int]] = {}  # of sums of nodes
        self.fitting: dict[Block, bool] = {}  # whether blocks can be written in line
        self.repeated: frozenset[Block] = frozenset()  # those that may not
        self.packed: dict[Packed, str] = {}  # what lies packed for products, and where
        self.clocks: list[Op] = []  # of operations whose time is taken (`backends.llvm.profile`)

    # Functions.

    def function(self, stem: str, result: str, params: str, body: str, brief: bool = False) -> str:
        """The name of a function of the module. Equal ones are written once.

        Args:
            stem: the end of its name.
            result: the LLVM type that it returns.
            params: its parameters, with types, attributes and names.
            body: the text between its braces.
            brief: whether it has no loops, and is not worth optimising unless a loop calls it.
        """
        key = result, params, body
        name = self.functions.setdefault(key, f"f{len(self.functions)}.{stem}")
        if brief:
            self.brief.add(name)
        return name

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
        array = self.room("given", len(given) + 1)
        errors = self.room("errors", ERROR * parts) if fallible else ""
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
        each = self.function(f"{name}.part", "void", "ptr %given, i64 %part", part.body(), True)
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

    def allocate(self, value: Value, place: str = "") -> None:
        """Give a value that no plan has a place for a range of the arena; or, a table, one of the
        region, and where there is none the error names the place."""
        if value.type.is_table:
            self.buffers[value] = self.reserve(value.type.bytes, value.type.shape[0], place)
        else:
            self.buffers[value], self.ranges[value] = self.take(value.type.bytes)

    def release(self, value: Value) -> None:
        """Take the range of such a value back."""
        if value in self.ranges:
            self.arena.give(self.ranges.pop(value))
        del self.buffers[value]

    def reserve(self, row: int, length: int, place: str) -> str:
        """The address of a range of the region of lists, for a table with rows of so many bytes."""
        self.module.lists = max(self.module.lists, 1)
        size = self.let(f"mul i64 {self.length(length)}, {row}")
        pointer = self.let(f"call ptr @lantern.reserve(ptr %frames, i64 {size})")
        full = self.let(f"icmp eq ptr {pointer}, null")
        self.leave_if(full, Op("memory", (), (), place=place))
        return pointer

    def length(self, number: int) -> str:
        """How long the tables of a number are."""
        at = self.let(f"getelementptr i64, ptr %lengths, i64 {-2 - number}")
        return self.let(f"load i64, ptr {at}")

    def bytes(self, type: Type) -> str:
        """The bytes that a value takes, as an operand."""
        if type.is_table:
            return self.let(f"mul i64 {self.length(type.shape[0])}, {type.bytes}")
        return str(type.bytes)

    def copy(self, to: str, start: str, type: Type) -> None:
        """Copy a value of a type."""
        size = self.bytes(type)
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
                elif storage.in_region:
                    pointers[storage] = self.reserve(storage.bytes, storage.length, op.place)
            self.buffers |= {v: pointers[plan.storages[v]] for v in op.results}
            self.run_op(op)
            for storage in ending:
                if storage.in_arena:
                    self.arena.give(ranges[storage])
        for k in plan.copied:
            value = block.results[k]
            self.copy(targets[k], self.pointer(value), value.type)
        for value in plan.storages:
            del self.buffers[value]
        self.plans, self.branches = outer

    def run_op(self, op: Op) -> None:
        """Write one operation."""
        if op.name == "reshape" and self.pointer(op.inputs[0]) == self.pointer(op.results[0]):
            return
        if inline.fits_op(self, op) and control.parts_of_map(op, self.module.threads) == 1:
            inline.perform(self, op)
        elif any(v.type.is_list for v in op.inputs) and op.name == "add":
            control.add(self, op)
        elif op.name in control.CONTROL:
            control.CONTROL[op.name](self, op)
        elif op.name in KERNELS:
            self.run_kernel(op, KERNELS[op.name](op, self.module.threads))
        else:
            raise NotImplementedError(  # an operation that the table has and this backend lacks
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

    def leave_if(self, failed: str, op: Op, details: Sequence[str] = ()) -> None:
        """Leave with the error of an operation if an ``i1`` is true; it says up to two ``i64``."""
        self.module.fallible.append(op)
        with self.when(failed):
            for k, detail in enumerate(details):
                to = self.let(f"getelementptr i64, ptr %error, i64 {k}")
                self.do(f"store i64 {detail}, ptr {to}")
            self.do(f"ret i32 {len(self.module.fallible)}")
            self.label(self.fresh("unreached"))

    def poll(self) -> None:
        """Leave if the user interrupts the program; a loop does so at each step."""
        self.module.loops = True
        with self.when(interrupted(self)):
            self.do(f"ret i32 {INTERRUPTED}")
            self.label(self.fresh("unreached"))

    def perform(
        self, block: Block, plan: Plan, sources: Sequence[str], targets: Sequence[str]
    ) -> None:
        """Write a block in line, or a call of the function for all operations that share it."""
        if plan.shared:
            self.call_shared(block, plan, [*sources, *targets])
        else:
            self.run_block(block, plan, sources, targets)

    def call_shared(
        self, block: Block, plan: Plan, given: Sequence[str], lengths: str = LENGTHS_OF_ALL
    ) -> None:
        """Call the function for a block that several operations share, and leave with its error if
        it fails. It works in a range of the arena of its own, and is told how long tables are."""
        name, size = self.outlined(block, plan, self.module.threads)
        pointer, taken = self.take(size)
        self.call_outlined(name, [*given, pointer], lengths)
        self.arena.give(taken)

    def call_outlined(self, name: str, given: Sequence[str], lengths: str = LENGTHS_OF_ALL) -> None:
        """Call a function that returns what the entry does, and leave with its error if it fails.
        It takes some pointers, and what `ENVIRONMENT` names."""
        known = (lengths if word == LENGTHS_OF_ALL else word for word in ENVIRONMENT)
        words = ", ".join(f"ptr {word}" for word in (*given, *known))
        failed = self.let(f"call i32 @{name}({words})")
        with self.when(self.let(f"icmp ne i32 {failed}, 0")):
            self.do(f"ret i32 {failed}")
            self.label(self.fresh("unreached"))

    def inner(self, threads: int) -> Self:
        """An entry for another function of the module, written for a number of threads."""
        inner = type(self)(threads)
        inner.functions, inner.shared, inner.clocks = self.functions, self.shared, self.clocks
        inner.fitting, inner.repeated = self.fitting, self.repeated
        inner.openers, inner.brief = self.openers, self.brief
        same = threads == self.module.threads
        inner.module = self.module if same else replace(self.module, threads=threads)
        return inner

    def outlined(self, block: Block, plan: Plan, threads: int) -> tuple[str, int]:
        """The name of a function for a block with a plan, written once for a number of threads, and
        the bytes of the arena that it works in. It takes pointers to the parameters, to the results
        and to its range, and what `ENVIRONMENT` names; it returns what the entry does."""
        if (plan, threads) in self.shared:
            return self.shared[plan, threads]
        inner = self.inner(threads)
        sources = [f"%p{i}" for i in range(len(block.params))]
        targets = [f"%r{i}" for i in range(len(block.results))]
        inner.run_block(block, plan, sources, targets)
        inner.do("ret i32 0")
        name = self.defined("block", inner, [*sources, *targets])
        self.shared[plan, threads] = name, inner.arena.size
        return name, inner.arena.size

    def defined(self, stem: str, inner: Entry, given: Sequence[str]) -> str:
        """The name of a function for `call_outlined`, whose body an entry of its own has; it takes
        pointers of these names, one to its range, and what `ENVIRONMENT` names."""
        params = ", ".join(f"ptr {word}" for word in (*given, "%arena", *ENVIRONMENT))
        return self.function(stem, "i32", params, inner.laid_out(), not inner.loops)

    def laid_out(self) -> str:
        """The body, with the ranges of the arena where they start."""
        self.arena.pack()
        starts = [str(taken.start) for taken in self.arena.ranges]
        return re.sub(r"<(\d+)>", lambda match: starts[int(match[1])], self.body())

    def finished(self, program: Program) -> Module:
        """Write the whole program."""
        program = open_tiled(program)  # where that is not among its passes
        block = program.block
        self.repeated = inline.repeated(shared_blocks(block))
        self.module.merges = any(op.name == "merge" for op in walk(block))
        sources = [self.argument("%inputs", i) for i in range(len(block.params))]
        targets = [self.argument("%outputs", i) for i in range(len(block.results))]
        plan = plan_program(program)
        self.do(self.lengths(program))
        self.run_block(block, plan, sources, targets)
        self.do("ret i32 0")
        if self.module.lists:
            self.module.exports = (*self.module.exports, lists.DISCARD, lists.TAKEN)
        self.module.source = self.written()
        self.module.brief = frozenset(self.brief if self.loops else {*self.brief, "run", "work"})
        self.module.arena, self.module.alignment = self.arena.size, ALIGNMENT
        self.module.kept = plan.kept
        return self.module

    def lengths(self, program: Program) -> str:
        """The line that gives the array of lengths a name; its address stands behind those of the
        inputs."""
        if not numbers(program.block.params):
            return "%lengths = inttoptr i64 0 to ptr"
        found = self.argument("%inputs", len(program.block.params))
        return f"%lengths = getelementptr i8, ptr {found}, i64 0"

    def written(self) -> str:
        """The text of the module."""
        texts = entries(self.laid_out(), self.module)
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


def entries(body: str, module: Module) -> list[str]:
    """The entry, and the function that does the work. Where work is divided, or loops make lists,
    the entry holds the pool, or the memory of the lists, meanwhile."""
    names = [f"%{name}" for name in PARAMETERS]
    params = ", ".join(f"ptr {name}" for name in names)
    if not (module.parallel or module.lists):
        nothing = "entry:\n  %frames = inttoptr i64 0 to ptr"
        return [f"define i32 @run({params}) #0 {{\n{body.replace('entry:', nothing, 1)}\n}}"]
    outer, held = Code(), "null"
    saved = outer.slot(f"[{MASK} x i8], align 8")
    if module.parallel:
        held = outer.let(f"call ptr @lantern.hold(ptr %pool, ptr {saved})")
        names[names.index("%pool")] = held
    frames = outer.let("call ptr @lantern.enter()") if module.lists else "null"
    given = ", ".join(f"ptr {name}" for name in (*names, frames))
    code = outer.let(f"call i32 @work({given})")
    if module.lists:
        outer.do(f"call void @lantern.leave(ptr {frames})")
    if module.parallel:
        outer.do(f"call void @lantern.release(ptr {held}, ptr {saved})")
    outer.do(f"ret i32 {code}")
    return [
        *([runtime()] if module.parallel else []),
        *([lists.runtime(module.lists)] if module.lists else []),
        f"define internal i32 @work({params}, ptr %frames) #0 {{\n{body}\n}}",
        f"define i32 @run({params}) #0 {{\n{outer.body()}\n}}",
    ]
