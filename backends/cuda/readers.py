"""Loops that read the same arrays become one, which reads them once.

Fusion puts operations into the loop that makes what they read, or beside others that read the same
while it goes through a block in order. Where an operation that is no loop has to come between, such
as the product on the way back through a gate, there are two loops in the end: the second one waits
for the product. The first one may wait as well, and what reads its results behind it, if for that
no more memory is in use than is read less.
"""

from __future__ import annotations

from collections.abc import Sequence

from backends.cuda.inlining import body, is_loop
from backends.cuda.merging import copied
from staging.fusion import FREE, LARGEST
from staging.ir import Block, Op, Program, Value
from staging.passes.common import share_common
from staging.passes.dead import has_effect
from staging.passes.recompute import SMALL, with_nested
from staging.passes.rewrite import Nested, each_block
from staging.passes.schedule import peak, weigh

NEAR = 16  # operations between two loops


def join_readers(program: Program) -> Program:
    """The program with loops that read the same arrays as one each.

    Example:
        >>> from staging.text import parse_program
        >>> program = parse_program('''program @p(%x: float32[9, 9], %w: float32[9, 9]) {
        ...   %a = exp(%x): float32[9, 9]
        ...   %b = matmul(%a, %w) {transpose_x=false, transpose_y=false}: float32[9, 9]
        ...   %c = matmul(%w, %w) {transpose_x=false, transpose_y=false}: float32[9, 9]
        ...   %d = mul(%c, %x): float32[9, 9]
        ...   return (%b, %d)
        ... }''')
        >>> [op.name for op in join_readers(program).block.ops]
        ['matmul', 'call', 'matmul']
    """
    return program.with_block(each_block(program.block, joined))


def joined(block: Block, nested: Nested) -> Block:
    """A block with loops that read the same arrays as one each."""
    ops = [with_nested(op, nested) for op in block.ops]
    i = 0
    while i < len(ops):
        near = range(i + 1, min(i + 1 + NEAR, len(ops)))
        found = (moved for j in near if (moved := together(block, ops, i, j)) is not None)
        ops, i = next(((moved, i) for moved in found), (ops, i + 1))
    return Block(block.params, tuple(ops), block.results)


def together(block: Block, ops: Sequence[Op], i: int, j: int) -> list[Op] | None:
    """The operations of a block with two loops as one, if that can be and is worth it."""
    first, second = ops[i], ops[j]
    if not (is_loop(first) and is_loop(second)) or not first.results[0].type.size:
        return None
    size = first.results[0].type.size
    both = {*first.inputs} & {*second.inputs}
    saved = sum(v.type.bytes for v in both if v.type.size * SMALL > size)
    if not saved or size != second.results[0].type.size:
        return None
    late, waiting = set(first.results), list[Op]()
    for op in ops[i + 1 : j]:
        if not late.isdisjoint(op.inputs):
            waiting.append(op)
            late.update(op.results)
    if not late.isdisjoint(second.inputs) or any(map(has_effect, waiting)):
        return None
    loop = one(first, second)
    if sum(op.name not in FREE for op in loop.blocks[0].ops) > LARGEST:
        return None
    before = [op for op in ops[:j] if op is not first and op not in waiting]
    moved = [*before, loop, *waiting, *ops[j + 1 :]]
    more = peak(block, moved, weigh(block, moved)) - peak(block, ops, weigh(block, ops))
    return moved if more <= saved else None


def one(first: Op, second: Op) -> Op:
    """A loop that does what two do."""
    params: dict[Value, Value] = {}  # by what they are given
    ops: list[Op] = []
    made: list[Value] = []
    for loop in (first, second):
        inside = copied(body(loop))
        new = {param: params.setdefault(outer, param)
               for outer, param in zip(loop.inputs, inside.params, strict=True)}  # fmt: skip
        for op in inside.ops:
            inputs = tuple(new.get(v, v) for v in op.inputs)
            ops.append(Op(op.name, inputs, op.results, op.attributes, (), op.place))
        made += (new.get(v, v) for v in inside.results)
    block = Block(tuple(params.values()), tuple(ops), tuple(made))
    block = share_common(Program("loop", block)).block
    attributes = {"kind": "loop", "rows": 1, "columns": first.results[0].type.size}
    results = (*first.results, *second.results)
    return Op("call", tuple(params), results, attributes, (block,), second.place)
