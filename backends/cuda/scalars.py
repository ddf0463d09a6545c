"""Loops over single numbers as one kernel, so that the host need not ask after each step.

A `scan` whose steps go on from each other runs in one thread; one without a carry is a map, and has
a thread for each step. A `while` whose length nobody knows runs for some steps, and says whether it
goes on: the host launches it again until it has ended, and may be interrupted meanwhile.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

from backends.cuda.elements import RESERVED, blocks, identifier
from backends.cuda.expressions import ELEMENTS, element, kind
from backends.cuda.prelude import called
from backends.cuda.steps import Argument, Failing, Grid, Kernel, Launch, Length
from staging.ir import NODE, Block, Op, Type, Value

THREADS = 256  # of a block of a map
RESIDENT = 2  # blocks of a multiprocessor, so that no registers are spilled for more
STEPS = 1 << 20  # of a `while` for which the host waits at a time
LARGEST = 256  # operations of a step


def is_number(type: Type) -> bool:
    """Whether a value is one number."""
    return type.size == 1 and not (type.is_list or type.is_table or type.dtype == NODE)


def is_scan(op: Op) -> bool:
    """Whether it is a `scan` of numbers, of a length that is known when it begins."""
    return op.name == "scan" and op.attributes["length"] not in (-1, 0) and is_loop(op)


def is_while(op: Op) -> bool:
    """Whether it is a `while` of numbers that keeps no lists."""
    kept = len(op.results) - 1 - cast(int, op.attributes["carried"]) if op.name == "while" else 1
    return not kept and is_loop(op)


def is_loop(op: Op) -> bool:
    """Whether the steps of a loop take and give numbers, and compute with nothing else."""
    return all(map(computes, op.blocks)) and sum(map(count, op.blocks)) <= LARGEST


def computes(block: Block) -> bool:
    """Whether a block takes numbers, gives numbers, and does nothing else."""
    values = (*block.params, *block.results)
    return all(is_number(v.type) for v in values) and all(map(is_simple, block.ops))


def is_simple(op: Op) -> bool:
    """Whether an operation can be done on numbers in registers."""
    if op.name == "call":
        return computes(op.blocks[0])
    if op.name == "switch":
        return all(map(computes, op.blocks))
    if op.name not in ELEMENTS and op.name not in ("constant", "broadcast", "reshape"):
        return False
    return all(is_number(v.type) for v in (*op.inputs, *op.results))


def count(block: Block) -> int:
    """How many operations are written for a block."""
    return sum(1 + sum(map(count, op.blocks)) for op in block.ops)


class Text:
    """The body of a kernel while it is written."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.depth = 1
        self.names: dict[Value, str] = {}
        self.taken = {"step", "i", "count", "going", "error", "number"}
        self.places: dict[str, None] = {}

    def do(self, line: str) -> None:
        self.lines.append("  " * self.depth + line)

    def fresh(self, stem: str) -> str:
        """A name that nothing else has."""
        stem = identifier(stem) or "x"
        stem = stem if stem not in RESERVED else f"{stem}_"
        name, k = stem, 1
        while name in self.taken:
            k += 1
            name = f"{stem}_{k}"
        self.taken.add(name)
        return name

    @contextmanager
    def braces(self, head: str) -> Iterator[None]:
        self.do(f"{head} {{")
        self.depth += 1
        yield
        self.depth -= 1
        self.do("}")

    def block(self, block: Block, given: Sequence[str]) -> list[str]:
        """Write the operations of a block, and say where its results are."""
        self.names |= zip(block.params, given, strict=True)
        for op in block.ops:
            inputs = [self.names[v] for v in op.inputs]
            if op.place and op.name not in ("constant", "broadcast", "reshape"):
                self.places[op.place] = None
            self.names |= zip(op.results, self.op(op, inputs), strict=True)
        return [self.names[v] for v in block.results]

    def op(self, op: Op, inputs: Sequence[str]) -> Sequence[str]:
        """Write an operation, and say where its results are."""
        if op.name == "call":
            return self.block(op.blocks[0], inputs)
        if op.name == "switch":
            return self.switch(op, inputs)
        if op.name in ("broadcast", "reshape"):
            return inputs
        text = element(op, inputs)
        if re.fullmatch(r"\w+", text) or op.name == "constant":
            return (text,)
        name = self.fresh(op.results[0].hint or op.name)
        self.do(f"const {kind(op.results[0].type.dtype)} {name} = {text};")
        return (name,)

    def switch(self, op: Op, inputs: Sequence[str]) -> Sequence[str]:
        """Write a branch for each block."""
        names = [self.fresh(v.hint or "chosen") for v in op.results]
        for name, v in zip(names, op.results, strict=True):
            self.do(f"{kind(v.type.dtype)} {name};")
        last = len(op.blocks) - 1
        for k, block in enumerate(op.blocks):
            head = f"if ({inputs[0]} <= {k}ll)" if k < last else ""
            head = f"else {head}".strip() if k else head
            with self.braces(head if last else "if (true)"):
                made = self.block(block, inputs[1:])
                for name, text in zip(names, made, strict=True):
                    self.do(f"{name} = {text};")
        return names

    def assign(self, carry: Sequence[str], made: Sequence[str], values: Sequence[Value]) -> None:
        """Let the carry be what a step made of it."""
        after: list[tuple[str, str]] = []
        for name, text, v in zip(carry, made, values, strict=True):
            if text in carry and text != name:  # which may be written over before
                kept = self.fresh("after")
                self.do(f"const {kind(v.type.dtype)} {kept} = {text};")
                text = kept
            after.append((name, text))
        for name, text in after:
            if name != text:
                self.do(f"{name} = {text};")


class Operands:
    """The parameters of a kernel, and what it is given for them."""

    def __init__(self, text: Text) -> None:
        self.text = text
        self.params: list[str] = []
        self.arguments: list[Argument] = []
        self.header: list[str] = []

    def pointer(self, value: Value, stem: str, constant: bool) -> str:
        """A parameter for the address of a value."""
        name = self.text.fresh(value.hint or stem)
        self.params.append(f"{'const ' if constant else ''}{kind(value.type.dtype)}* {name}")
        self.arguments.append(value)
        self.header.append(f"{name}: {value.type}")
        return name

    def launch(
        self, stem: str, grid: Grid, threads: int, reads: Sequence[Value], writes: Sequence[Value]
    ) -> Launch:
        """The kernel that was written."""
        body = "\n".join(self.text.lines)
        header = (*self.header, *(f"at {place}" for place in self.text.places))
        helpers = called(body, *self.params)
        kernel = Kernel(stem, header, tuple(self.params), body, threads, helpers, resident=RESIDENT)
        return Launch(kernel, grid, tuple(self.arguments), tuple(reads), tuple(writes))


def scan(op: Op) -> list[Launch]:
    """A `scan` of numbers."""
    (block,) = op.blocks
    length, carried, captured = (
        cast(int, op.attributes[k]) for k in ("length", "carried", "captured")
    )
    text = Text()
    own = Operands(text)
    inner = carried + captured
    given = [
        own.pointer(v, "xs" if k >= inner else "x", constant=True) for k, v in enumerate(op.inputs)
    ]
    ends = [own.pointer(v, "ys" if k >= carried else "y", False) for k, v in enumerate(op.results)]
    extent = f"{length}ll"
    if length < 0:
        extent = f"length_{-length}"
        own.params.append(f"long long {extent}")
        own.arguments.append(Length(length))
    fixed = loaded(text, given[carried:inner], op.inputs[carried:inner], constant=True)
    carry = loaded(text, given[:carried], op.inputs[:carried], constant=False)
    first, apart = "0", "1"
    if not carried:
        first, apart = f"blockIdx.x * {THREADS}ll + threadIdx.x", f"gridDim.x * {THREADS}ll"
    with text.braces(f"for (long long step = {first}; step < {extent}; step += {apart})"):
        place = f"{extent} - 1 - step" if op.attributes["reverse"] else "step"
        text.do(f"const long long i = {place};")
        rows = [f"{name}[i]" for name in given[inner:]]
        slices = [text.fresh("x") for _ in rows]
        for name, row, v in zip(slices, rows, op.inputs[inner:], strict=True):
            text.do(f"const {kind(v.type.dtype)} {name} = {row};")
        made = text.block(block, [*carry, *fixed, *slices])
        for name, y in zip(ends[carried:], made[carried:], strict=True):
            text.do(f"{name}[i] = {y};")
        text.assign(carry, made[:carried], op.results[:carried])
    for name, end in zip(carry, ends, strict=False):
        text.do(f"{end}[0] = {name};")
    threads = 1 if carried else THREADS
    grid = (1, 1, 1) if carried or length < 0 else blocks(length, THREADS)
    return [own.launch("scan", grid, threads, op.inputs, op.results)]


def loaded(
    text: Text, pointers: Sequence[str], values: Sequence[Value], constant: bool
) -> list[str]:
    """Numbers in registers."""
    names = [text.fresh("held" if constant else "carry") for _ in pointers]
    for name, pointer, v in zip(names, pointers, values, strict=True):
        text.do(f"{'const ' if constant else ''}{kind(v.type.dtype)} {name} = {pointer}[0];")
    return names


def while_(op: Op, going: Value) -> Launch:
    """Some steps of a `while` of numbers, whose carry and count lie in its results; afterwards
    ``going`` says whether there may be more."""
    test, body = op.blocks
    carried = cast(int, op.attributes["carried"])
    text = Text()
    own = Operands(text)
    given = [own.pointer(v, "x", constant=True) for v in op.inputs[carried:]]
    steps, *ends = [own.pointer(v, "y", constant=False) for v in op.results]
    flag = own.pointer(going, "more", constant=False)
    fixed = loaded(text, given, op.inputs[carried:], constant=True)
    carry = loaded(text, ends, op.results[1:], constant=False)
    text.do(f"long long count = {steps}[0];")
    text.do("bool going = true;")
    with text.braces(f"for (int step = 0; step < {STEPS}; ++step)"):
        (holds,) = text.block(test, [*carry, *fixed])
        with text.braces(f"if (!{holds})"):
            text.do("going = false;")
            text.do("break;")
        if "limit" in op.attributes:
            own.params += ["unsigned long long* error", "unsigned int number"]
            own.arguments.append(Failing(op))
            with text.braces(f"if (count == {op.attributes['limit']}ll)"):
                text.do("fail(error, number, 0, count, 0);")
                text.do("going = false;")
                text.do("break;")
        made = text.block(body, [*carry, *fixed])
        text.assign(carry, made, op.results[1:])
        text.do("++count;")
    for name, end in zip(carry, ends, strict=True):
        text.do(f"{end}[0] = {name};")
    text.do(f"{steps}[0] = count;")
    text.do(f"{flag}[0] = going;")
    reads = (*op.inputs[carried:], *op.results)
    return own.launch("loop", (1, 1, 1), 1, reads, (*op.results, going))
