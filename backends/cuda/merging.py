"""Alike loops side by side, in one launch: an optimiser's step for all parameters, such as AdamW.

`merge` is a pass. Loops that do the same, element by element, to arrays of any sizes, and that do
not wait for each other, become one `call` of kind "loops", where the last of them stands. Its block
holds the loops one after another, so what it computes is what it says; `parts` takes them apart.
`loops` lowers it to a kernel whose blocks choose, by their number, the arrays that they work on.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TypeAlias, cast

from backends.cuda.elements import BLOCKS, LETTERS, LONG, THREADS, Elements, is_long
from backends.cuda.elementwise import is_elementwise, lanes, stem, write
from backends.cuda.expressions import kind
from backends.cuda.inlining import body, inline
from backends.cuda.prelude import called
from backends.cuda.steps import Kernel, Launch, Step
from staging import memory
from staging.ir import Block, Op, Program, Value
from staging.ops import OPS
from staging.passes.rewrite import Nested, each_block

POINTERS = 480  # parameters of a kernel: 4 KB hold 512 of them
SMALL = 1 << 16  # elements of what may wait, with its operands in memory, for what is far away

Alike: TypeAlias = "tuple[object, ...]"  # what loops must have in common


def merge(program: Program) -> Program:
    """The program with loops inside of the only ones that read them, and then alike loops as one
    operation each."""
    program = inline(program)
    return program.with_block(each_block(program.block, merged))


def merged(block: Block, nested: Nested) -> Block:
    """A block with alike loops as one operation each."""
    groups: dict[Alike, Group] = {}
    placed: list[Op | Group] = []

    def close(alike: Alike) -> None:
        group = groups.pop(alike)
        placed[placed.index(group.members[-1])] = group
        for op in group.members[:-1]:
            placed.remove(op)

    for op in block.ops:
        for alike, group in [*groups.items()]:
            if not group.made.isdisjoint(op.inputs):
                close(alike)
        alike = alikeness(op)
        if alike is None:
            if op.blocks and "kind" not in op.attributes:
                blocks = tuple(map(nested, op.blocks))
                op = Op(op.name, op.inputs, op.results, op.attributes, blocks, op.place)
            if any(v.type.size > 1 for v in op.results):
                for other, group in [*groups.items()]:
                    if group.large:
                        close(other)
        else:
            if alike in groups and groups[alike].is_full(op):
                close(alike)
            groups.setdefault(alike, Group()).add(op)
        placed.append(op)
    for alike in [*groups]:
        close(alike)
    ops = tuple(one.joined() if isinstance(one, Group) else one for one in placed)
    return Block(block.params, ops, block.results)


@dataclass(eq=False, slots=True)
class Group:
    """Alike loops, none of which reads what another makes.

    Attributes:
        members: the loops.
        made: their results.
        large: whether one of them is so large that it should not wait.
    """

    members: list[Op] = field(default_factory=list[Op])
    made: set[Value] = field(default_factory=set[Value])
    large: bool = False

    def add(self, op: Op) -> None:
        """Take another loop."""
        self.members.append(op)
        self.made.update(op.results)
        self.large |= op.results[0].type.size > SMALL

    def is_full(self, op: Op) -> bool:
        """Whether the kernel would have too many parameters with another loop."""
        each = len(op.inputs) + len(op.results)
        return (len(self.members) + 1) * each > POINTERS

    def joined(self) -> Op:
        """The one operation."""
        if len(self.members) == 1:
            return self.members[0]
        params: list[Value] = []
        ops: list[Op] = []
        results: list[Value] = []
        counts: list[tuple[int, ...]] = []
        for op in self.members:
            block = copied(body(op))
            params += block.params
            ops += block.ops
            results += block.results
            counts.append((len(block.params), len(block.ops), len(block.results)))
        return Op(
            "call",
            tuple(v for op in self.members for v in op.inputs),
            tuple(v for op in self.members for v in op.results),
            {"kind": "loops", "parts": tuple(counts)},
            (Block(tuple(params), tuple(ops), tuple(results)),),
            self.members[-1].place,
        )


def copied(block: Block) -> Block:
    """A block of the same operations on values of its own."""
    new: dict[Value, Value] = {}

    def fresh(values: Iterable[Value]) -> tuple[Value, ...]:
        made = [Value(v.type, v.hint) for v in values]
        new.update(zip(values, made, strict=True))
        return tuple(made)

    params = fresh(block.params)
    ops: list[Op] = []
    for op in block.ops:
        inputs = tuple(new[v] for v in op.inputs)
        ops.append(Op(op.name, inputs, fresh(op.results), op.attributes, (), op.place))
    return Block(params, tuple(ops), tuple(new[v] for v in block.results))


def alikeness(op: Op) -> Alike | None:
    """What other loops must have in common with this one to be merged with it: the text, and if it
    goes over arrays of one size and scalars, place by place, not even the size; else all shapes.
    Nothing if it is no loop over elements."""
    fused = op.attributes.get("kind") == "loop" and is_elementwise(op)
    if not (fused or OPS[op.name].elementwise) or len(set(op.inputs)) < len(op.inputs):
        return None
    block = body(op)
    type = block.results[0].type
    if type.size < 2 or type.is_table or is_long([*block.params, *block.results]):
        return None
    exact = not all(is_by_place(inner, type.size) for inner in block.ops)
    names: dict[Value, int] = {}

    def named(value: Value) -> tuple[object, ...]:
        names[value] = len(names)
        shape = value.type.shape if exact else value.type.size == type.size
        return value.type.dtype, shape

    lines: list[object] = [named(v) for v in block.params]
    for inner in block.ops:
        inputs = tuple(names[v] for v in inner.inputs)
        told = [(k, v) for k, v in inner.attributes.items() if exact or k != "shape"]
        lines.append((inner.name, inputs, *map(named, inner.results), *sorted(told)))
    count = lanes([*block.params, *block.results], type.size)
    return (*lines, count, tuple(names[v] for v in block.results))


def is_by_place(op: Op, size: int) -> bool:
    """Whether each element of what an operation makes comes from those at its place, or from
    scalars."""
    (result,), sizes = op.results, {v.type.size for v in op.inputs}
    if result.type.size not in (1, size):
        return False
    if op.name == "broadcast":
        return sizes <= {1} or sizes == {result.type.size}
    return op.name in ("constant", "reshape") or OPS[op.name].elementwise


def parts(op: Op) -> list[Op]:
    """The loops of a `call` of kind "loops", each as a `call` of kind "loop"."""
    (block,) = op.blocks
    found: list[Op] = []
    param, inner, result = 0, 0, 0
    for params, ops, results in cast("tuple[tuple[int, int, int], ...]", op.attributes["parts"]):
        one = Block(
            block.params[param : param + params],
            block.ops[inner : inner + ops],
            block.results[result : result + results],
        )
        given = op.inputs[param : param + params]
        made = op.results[result : result + results]
        attributes = {"kind": "loop", "rows": 1, "columns": made[0].type.size}
        found.append(Op("call", given, made, attributes, (one,), op.place))
        param, inner, result = param + params, inner + ops, result + results
    return found


def overwritable(op: Op) -> list[Collection[int]]:
    """For each result of a `call` of kind "loops" the operands over which it may be written: some
    of its own loop's. (No other one reads them, then: an operand that is read at two places may be
    written over only if both are among these.)"""
    over: list[Collection[int]] = []
    first = 0
    for part in parts(op):
        for allowed in memory.overwritable(part):
            over.append([first + j for j in allowed])
        first += len(part.inputs)
    return over


def loops(op: Op) -> Sequence[Step]:
    """One launch. A block finds which loop it belongs to, and is then a block of that."""
    own = parts(op)
    template = own[0].blocks[0]
    count = lanes([*template.params, *template.results], template.results[0].type.size)
    e = Elements(template.ops)
    arrays = arrays_of(e, own)
    for array in arrays:
        if array.names:
            e.do(f"{array.type} {array.name};")
    sizes = [part.results[0].type.size for part in own]
    e.do("int size, block, blocks;")
    total = choose(e, [size // count for size in sizes], [size % count for size in sizes], arrays)
    start = f"block * {THREADS} + threadIdx.x"
    with e.loop("i", "size", start, f"blocks * {THREADS}") as i, e.lanes(count) as k:
        write(e, template.results, own[0].results, i.scaled(count) + k)
    if any(size % count for size in sizes):
        with e.braces("if (block == 0 && threadIdx.x < left)"):
            at = e.let("int", "at", f"{count} * size + threadIdx.x")
            write(e, template.results, own[0].results, e.variable(at, LONG))
    params: list[str] = []
    arguments: list[Value] = []
    for array in arrays:
        names = array.names or [array.name]
        params += [f"{array.type} {name}" for name in names]
        arguments += array.values[: len(names)]
    text = e.body()
    types = (f"{number}: {part.results[0].type}" for number, part in enumerate(own, 1))
    header = (*types, *e.places())
    name = f"{stem(template.ops)}_loops"
    kernel = Kernel(name, header, tuple(params), text, THREADS, called(text, *params))
    reads = tuple(dict.fromkeys(op.inputs))
    return (Launch(kernel, (total, 1, 1), tuple(arguments), reads, op.results, (THREADS, 1, 1)),)


@dataclass(frozen=True, slots=True)
class Array:
    """What loops read or write at one place of their text.

    Attributes:
        type: the C++ type of a pointer to it.
        name: what it is called there.
        values: it, of each loop.
        names: the parameters, of each loop; none if all loops are given the same.
    """

    type: str
    name: str
    values: Sequence[Value]
    names: Sequence[str]


def arrays_of(e: Elements, own: Sequence[Op]) -> list[Array]:
    """The arrays of alike loops, in the order of operands and results."""
    template = own[0].blocks[0]
    found: list[Array] = []
    for k, column in enumerate(zip(*((*op.inputs, *op.results) for op in own), strict=True)):
        reads = k < len(template.params)
        stem = common(column) or (LETTERS[k % len(LETTERS)] if reads else "out")
        name = e.fresh(stem)
        e.pointers[template.params[k] if reads else column[0]] = name
        several = len(set(column)) > 1
        names = [e.fresh(f"{name}_of_{n}") for n in range(1, len(own) + 1)] if several else []
        dtype = f"{'const ' if reads else ''}{kind(column[0].type.dtype)}*"
        found.append(Array(dtype, name, column, names))
    return found


def choose(e: Elements, sizes: Sequence[int], left: Sequence[int], arrays: Sequence[Array]) -> int:
    """Write how a block finds its arrays and its place among the blocks of its loop; give how many
    blocks there are. Of each loop the size in vectors is given, and what these leave."""
    total = 0
    if any(left):
        e.do("int left;")
    for n, size in enumerate(sizes):
        blocks = max(1, min(-(-size // THREADS), BLOCKS))
        head = f"if (blockIdx.x < {total + blocks}) {{" if n + 1 < len(sizes) else "{"
        e.do(f"}} else {head}" if n else head)
        for array in arrays:
            if array.names:
                e.do(f"  {array.name} = {array.names[n]};")
        e.do(f"  size = {size};")
        if any(left):
            e.do(f"  left = {left[n]};")
        e.do(f"  block = blockIdx.x - {total};" if total else "  block = blockIdx.x;")
        e.do(f"  blocks = {blocks};")
        total += blocks
    e.do("}")
    return total


def common(values: Sequence[Value]) -> str:
    """What the user's names of some values begin with, as one name.

    Example:
        >>> from staging.ir import Type
        >>> common([Value(Type("int8"), f"state.first['{name}']") for name in ("a", "b")])
        'state_first'
    """
    words = [re.findall(r"[A-Za-z_]\w*", v.hint, re.ASCII) for v in values]
    same = takewhile(lambda column: len(set(column)) == 1, zip(*words, strict=False))
    return "_".join(column[0] for column in same)
