"""Alike loops side by side, in one launch: an optimiser's step for all parameters, such as AdamW,
or the sums of the squares of all gradients.

`merge` is a pass. Loops that do the same, element by element, to arrays of any sizes, and that do
not wait for each other, become one `call` of kind "loops", where the last of them stands. So do
*totals*, each the reduction of all that such a loop computes to one number. The block holds the
loops one after another, so what it computes is what it says; `parts` takes them apart, and
`backends.cuda.sides` lowers it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import TypeAlias, cast

from backends.cuda.elements import is_long
from backends.cuda.elementwise import is_elementwise, lanes
from backends.cuda.inlining import body, inline
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
    ops = [in_order(op) for op in block.ops]
    last = {v: op for op in ops for v in op.inputs} | dict.fromkeys(block.results)

    def close(alike: Alike) -> None:
        group = groups.pop(alike)
        placed[placed.index(group.members[-1])] = group
        for op in group.members[:-1]:
            placed.remove(op)

    for op in ops:
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
            ending = [v for v in op.inputs if last[v] is op and v not in block.params]
            groups.setdefault(alike, Group()).add(op, [*ending, *op.results])
        placed.append(op)
    for alike in [*groups]:
        close(alike)
    joined = tuple(one.joined() if isinstance(one, Group) else one for one in placed)
    return Block(block.params, joined, block.results)


def in_order(op: Op) -> Op:
    """An operation; a loop with its operands in the order in which they are read, but for reshapes,
    so that loops do not differ by these."""
    if op.attributes.get("kind") != "loop":
        return op
    (block,) = op.blocks
    origin = {v: v for v in block.params}
    first: dict[Value, int] = {}
    for inner in block.ops:
        read = [origin[v] for v in inner.inputs if v in origin]
        if inner.name == "reshape":
            origin |= dict.fromkeys(inner.results, read[0]) if read else {}
        else:
            for value in read:
                first.setdefault(value, len(first))
    order = sorted(range(len(op.inputs)), key=lambda k: first.get(block.params[k], len(first)))
    new = Block(tuple(block.params[k] for k in order), block.ops, block.results)
    inputs = tuple(op.inputs[k] for k in order)
    return Op(op.name, inputs, op.results, op.attributes, (new,), op.place)


@dataclass(eq=False, slots=True)
class Group:
    """Alike loops, none of which reads what another makes.

    Attributes:
        members: the loops.
        made: their results.
        large: whether so much has to be in memory for them that they should not wait.
    """

    members: list[Op] = field(default_factory=list[Op])
    made: set[Value] = field(default_factory=set[Value])
    large: bool = False

    def add(self, op: Op, held: Iterable[Value]) -> None:
        """Take another loop, for which some values are in memory that else need not be, yet or any
        longer."""
        self.members.append(op)
        self.made.update(op.results)
        self.large |= any(v.type.size > SMALL for v in held)

    def is_full(self, op: Op) -> bool:
        """Whether the kernel would have too many parameters with another loop. What all loops are
        given is one."""
        columns = zip(*((*one.inputs, *one.results) for one in (*self.members, op)), strict=True)
        return sum(1 if len(set(c)) == 1 else len(c) for c in columns) > POINTERS

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
    Nothing if it is no loop over elements, and no total of one."""
    reduce = total_of(op)
    fused = op.attributes.get("kind") == "loop" and (reduce or is_elementwise(op))
    if not (fused or reduce or OPS[op.name].elementwise) or len(set(op.inputs)) < len(op.inputs):
        return None
    block = body(op)
    whole = block.results if reduce is None else reduce.inputs
    type = whole[0].type
    if type.size < 2 or type.is_table or is_long([*block.params, *block.results]):
        return None
    exact = not all(inner is reduce or is_by_place(inner, type.size) for inner in block.ops)
    names: dict[Value, int] = {}
    numbers = count()

    def named(value: Value) -> tuple[object, ...]:
        names[value] = next(numbers)
        shape = value.type.shape if exact else value.type.size == type.size
        return value.type.dtype, shape

    lines: list[object] = [named(v) for v in block.params]
    for inner in block.ops:
        inputs = tuple(names[v] for v in inner.inputs)
        if inner.name == "reshape" and not exact:
            names[inner.results[0]] = inputs[0]  # at the same place
            continue
        told = [(k, v) for k, v in inner.attributes.items() if exact or k not in ("shape", "axes")]
        lines.append((inner.name, inputs, *map(named, inner.results), *sorted(told)))
    wide = lanes([*block.params, *whole], type.size)
    return (*lines, wide, tuple(names[v] for v in block.results))


def total_of(op: Op) -> Op | None:
    """The reduction to one number of all that a loop computes, if that is what it does."""
    if op.name != "reduce" and op.attributes.get("kind") != "loop":
        return None
    block = body(op)
    reduces = [inner for inner in block.ops if inner.name == "reduce"]
    if len(reduces) != 1 or block.results != reduces[0].results:
        return None
    return reduces[0] if block.results[0].type.size == 1 else None


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
        reduced = [v for inner in one.ops if inner.name == "reduce" for v in inner.inputs]
        whole = [*reduced, *made][0]
        attributes = {"kind": "loop", "rows": 1, "columns": whole.type.size}
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
