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
    search = _Search(block, [with_nested(op, nested) for op in block.ops])
    i = 0
    while i < len(search.ops):
        near = range(i + 1, min(i + 1 + NEAR, len(search.ops)))
        i += not any(search.join(i, j) for j in near)
    return Block(block.params, tuple(search.ops), block.results)


class _Search:
    """The operations of a block while some become one.

    Args:
        block: whose parameters and results take no memory.
        ops: its operations.
    """

    def __init__(self, block: Block, ops: list[Op]) -> None:
        self.block, self.ops = block, ops
        self.weights = weigh(block, ops)  # where each value lies, and the bytes that it takes
        self.last = {root: op for op in ops for root in self.read(op)}

    def read(self, op: Op) -> list[Value]:
        """Where the operands of an operation lie."""
        return [self.weights[v][0] for v in op.inputs]

    def join(self, i: int, j: int) -> bool:
        """Make two loops one, if that can be and is worth it; whether it was."""
        first, second = self.ops[i], self.ops[j]
        if not (is_loop(first) and is_loop(second)) or not first.results[0].type.size:
            return False
        size = first.results[0].type.size
        both = {*first.inputs} & {*second.inputs}
        saved = sum(v.type.bytes for v in both if v.type.size * SMALL > size)
        if not saved or size != second.results[0].type.size:
            return False
        before, waiting, late = list[Op](), list[Op](), {*first.results}
        for op in self.ops[i + 1 : j]:
            waits = not late.isdisjoint(op.inputs)
            (waiting if waits else before).append(op)
            late.update(op.results if waits else ())
        if not late.isdisjoint(second.inputs) or any(map(has_effect, waiting)):
            return False
        loop = one(first, second)
        if sum(op.name not in FREE for op in loop.blocks[0].ops) > LARGEST:
            return False
        old, new = self.ops[i : j + 1], [*before, loop, *waiting]
        if self.most(old, old) + saved < self.most(new, old):
            return False
        self.ops[i : j + 1] = new
        for op in new:
            self.last |= {root: op for root in self.read(op) if self.last[root] in (*old, *new)}
        return True

    def most(self, ops: Sequence[Op], old: Sequence[Op]) -> int:
        """The most bytes in use at once at some operations, which stand for old ones."""
        made = {self.weights[v][0] for op in ops for v in op.results}
        used = dict.fromkeys(root for op in ops for root in self.read(op))
        begin = Op("begin", (), tuple(root for root in used if root not in made))
        later = (root for root in (*used, *made) if self.last.get(root) not in old)
        return peak(self.block, [begin, *ops, Op("end", tuple(later), ())], self.weights)


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
