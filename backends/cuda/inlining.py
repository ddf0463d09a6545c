"""Loops that only one other loop reads become part of it, even if that reads them in another order.

Fusion joins what goes over memory in one and the same order. The threads of a GPU read wherever
they like: a loop that reads another one's result transposed may compute each element where it reads
it. That is as good as long as the last axis stays the last, so that neighbours are still read side
by side; and as long as nothing is computed twice, or next to nothing, such as a multiple of what an
array holds, for which that is read as often as the result would be.
"""

from __future__ import annotations

from collections import Counter
from typing import cast

from backends.cuda.elementwise import is_elementwise
from staging.cost import WORK
from staging.fusion import FREE, LARGEST
from staging.ir import Block, Op, Program, Value
from staging.ops import OPS
from staging.passes.rewrite import Nested, each_block

NEAR = 16  # operations over which a loop is moved
ROW = 4  # elements of a last axis from which on it is read well
FEW = 2  # instructions an element that may be computed again


def inline(program: Program) -> Program:
    """The program with loops inside of the only ones that read them."""
    return program.with_block(each_block(program.block, inlined))


def inlined(block: Block, nested: Nested) -> Block:
    """A block with loops inside of the only ones that read them."""
    reads = Counter(block.results)
    for op in block.ops:
        reads.update(op.inputs)
    makers: dict[Value, Op] = {}
    ops: list[Op] = []
    for op in block.ops:
        if op.blocks and "kind" not in op.attributes:
            blocks = tuple(map(nested, op.blocks))
            op = Op(op.name, op.inputs, op.results, op.attributes, blocks, op.place)
        if is_loop(op) or op.name == "transpose":
            for value in op.inputs:
                maker = makers.get(value)
                if maker in ops[-NEAR:] and reads[value] == 1 and takes(op, value, maker):
                    ops.remove(maker)
                    op = joined(op, value, maker)
        if is_loop(op) and len(op.results) == 1 and op.results[0].type.size:
            makers[op.results[0]] = op
        ops.append(op)
    return Block(block.params, tuple(ops), block.results)


def is_loop(op: Op) -> bool:
    """Whether an operation is a loop over elements."""
    if op.results and op.results[0].type.is_table:
        return False
    return OPS[op.name].elementwise or (op.attributes.get("kind") == "loop" and is_elementwise(op))


def body(op: Op) -> Block:
    """What an operation does, as a block."""
    return op.blocks[0] if op.blocks else Block(op.inputs, (op,), op.results)


def takes(op: Op, value: Value, maker: Op) -> bool:
    """Whether a loop reads a value in rows, each element once or, if it takes next to nothing to
    make, several times."""
    block = body(op)
    costly = [inner for inner in (*body(maker).ops, *block.ops) if inner.name not in FREE]
    value = block.params[op.inputs.index(value)]
    return len(costly) <= LARGEST and in_rows(block, value, is_cheap(maker))


def is_cheap(maker: Op) -> bool:
    """Whether to make an element takes little more than to read one: an operation or two on what
    one array holds."""
    large = [v for v in maker.inputs if v.type.size > 1]
    effort = sum(WORK.get(op.name, 1) for op in body(maker).ops if op.name not in FREE)
    return len(large) <= 1 and effort <= FEW


def in_rows(block: Block, value: Value, again: bool) -> bool:
    """Whether operations read a value in rows, each element once, or again where they may."""
    readers = [inner for inner in block.ops if value in inner.inputs]
    if len(readers) + (value in block.results) > 1 and not again:
        return False
    return all(
        OPS[reader.name].elementwise
        or (keeps_rows(reader, again) and in_rows(block, reader.results[0], again))
        for reader in readers
    )


def keeps_rows(view: Op, again: bool) -> bool:
    """Whether an operation only moves rows, as they are; parts of them may be left out, or read
    besides the whole, where elements may be made again."""
    shape = view.inputs[0].type.shape
    if view.name == "transpose":
        axes = cast("tuple[int, ...]", view.attributes["axes"])
        return axes[-1] == len(axes) - 1 and shape[-1] >= ROW
    if view.name == "slice":
        steps = cast("tuple[int, ...]", view.attributes["steps"])
        return again and steps[-1] == 1 and view.results[0].type.shape[-1] >= ROW
    return view.name == "reshape"


def joined(op: Op, value: Value, maker: Op) -> Op:
    """A loop with one that makes what it reads inside."""
    given: dict[Value, Value] = {}
    new: dict[Value, Value] = {}
    ops: list[Op] = []
    for part in (maker, op):
        block = body(part)
        for outer, param in zip(part.inputs, block.params, strict=True):
            if part is maker or outer is not value:
                new[param] = given.setdefault(outer, Value(outer.type, outer.hint or param.hint))
        for inner in block.ops:
            inputs = tuple(new[v] for v in inner.inputs)
            results = tuple(Value(v.type, v.hint) for v in inner.results)
            new |= zip(inner.results, results, strict=True)
            ops.append(Op(inner.name, inputs, results, inner.attributes, (), inner.place))
        if part is maker:
            new[body(op).params[op.inputs.index(value)]] = new[block.results[0]]
    made = tuple(new[v] for v in body(op).results)
    attributes = {"kind": "loop", "rows": 1, "columns": made[0].type.size}
    inside = Block(tuple(given.values()), tuple(ops), made)
    return Op("call", tuple(given), op.results, attributes, (inside,), op.place)
