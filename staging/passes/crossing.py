"""Calls: a transpose crosses the border of a block that is called, to where it may meet another.

What a layer saves for the way back is often a transpose of what it made, and is there transposed
back. The two stand in different blocks, with the calls of these between them. Side by side in one
block they cancel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from staging.fusion import FREE
from staging.ir import Block, Op, Program, Type, Value, walk
from staging.ops import OPS
from staging.passes.rewrite import Nested, each_block
from staging.passes.tiled import axes_of, inverse, keeps_rows

Axes: TypeAlias = tuple[int, ...]  # of a transpose; empty where there is none


def cross_calls(program: Program) -> Program:
    """Move transposes out of the end of blocks that are called, and then into the beginning of
    those that all callers give one: of the transposes that leave the last axis alone those of what
    no loop makes. Such a loop had better write its result in the order in which it is read.

    Example:
        >>> from staging.text import parse_program
        >>> print(cross_calls(parse_program('''program @p(%x: float32[2, 3, 4]) {
        ...   %y = call(%x) block(%a: float32[2, 3, 4]) {
        ...     %b = cumulate(%a) {kind='sum', axis=2, reverse=false}: float32[2, 3, 4]
        ...     %c = transpose(%b) {axes=(1, 0, 2)}: float32[3, 2, 4]
        ...     return (%c)
        ...   }: float32[3, 2, 4]
        ...   return (%y)
        ... }''')), end="")
        program @p(%x: float32[2, 3, 4]) {
          %b_4 = call(%x) block(%a: float32[2, 3, 4]) {
            %b = cumulate(%a) {kind='sum', axis=2, reverse=false}: float32[2, 3, 4]
            %c = transpose(%b) {axes=(1, 0, 2)}: float32[3, 2, 4]
            return (%b)
          }: float32[2, 3, 4]
          %y = transpose(%b_4) {axes=(1, 0, 2)}: float32[3, 2, 4]
          return (%y)
        }
    """
    program = program.with_block(each_block(program.block, _Leaving(program).changed))
    return program.with_block(each_block(program.block, _Entering(program).changed))


def is_call(op: Op) -> bool:
    """Whether an operation is a plain call of a block."""
    return op.name == "call" and "kind" not in op.attributes


def called(program: Program) -> set[Block]:
    """The blocks that plain calls hold, and nothing else does."""
    ops = list(walk(program.block))
    others = {block for op in ops if not is_call(op) for block in op.blocks}
    return {op.blocks[0] for op in ops if is_call(op)} - others


def movable(ops: Sequence[Op]) -> dict[Value, Op]:
    """Among operations the transposes that leave the last axis alone, of what no loop makes, by
    what they make."""
    loops = {v for op in ops if is_loop(op) for v in op.results}
    return {op.results[0]: op for op in ops if keeps_rows(op) and op.inputs[0] not in loops}


def is_loop(op: Op) -> bool:
    """Whether fusion may make an operation a part of a loop nest."""
    return OPS[op.name].elementwise or op.name == "reduce" or op.name in FREE


def transposed(value: Value, result: Value, axes: Axes, place: str) -> Op:
    """A transpose with a result that there is already."""
    return Op("transpose", (value,), (result,), {"axes": axes}, (), place)


def before(value: Value, axes: Axes) -> Value:
    """A value of which another is the transpose."""
    shape = tuple(value.type.shape[i] for i in inverse(axes))
    return Value(Type(value.type.dtype, shape), value.hint)


class _Leaving:
    """Transposes on their way out of blocks, the innermost first."""

    def __init__(self, program: Program) -> None:
        self.called = called(program)
        self.left: dict[Block, list[Axes]] = {}  # by the new block, for each of its results

    def changed(self, block: Block, nested: Nested) -> Block:
        """A block that returns what its last transposes are of; those of the calls in it are its
        own now."""
        ops: list[Op] = []
        for op in block.ops:
            blocks = tuple(map(nested, op.blocks))
            op = Op(op.name, op.inputs, op.results, op.attributes, blocks, op.place)
            left = self.left.get(blocks[0]) if is_call(op) else None
            ops += [op] if left is None else self.outside(op, left)
        if block not in self.called:
            return Block(block.params, tuple(ops), block.results)
        turns = movable(ops)
        given = [turns.get(v) for v in block.results]
        results = [v if turn is None else turn.inputs[0]
                   for v, turn in zip(block.results, given, strict=True)]  # fmt: skip
        new = Block(block.params, tuple(ops), tuple(results))
        self.left[new] = list(map(axes_of, given))
        return new

    @staticmethod
    def outside(op: Op, left: Sequence[Axes]) -> list[Op]:
        """A call, and behind it the transposes that have left the block."""
        results: list[Value] = []
        turns: list[Op] = []
        for value, inside, axes in zip(op.results, op.blocks[0].results, left, strict=True):
            results.append(Value(inside.type, inside.hint) if axes else value)
            if axes:
                turns.append(transposed(results[-1], value, axes, op.place))
        call = Op(op.name, op.inputs, tuple(results), op.attributes, op.blocks, op.place)
        return [call, *turns]


class _Entering:
    """Transposes on their way into blocks that every caller gives one of the same axes."""

    def __init__(self, program: Program) -> None:
        blocks = called(program)
        self.entered: dict[Block, list[Axes]] = {}
        for holder in dict.fromkeys((program.block, *(b for op in walk(program.block)
                                                      for b in op.blocks))):  # fmt: skip
            turns = movable(holder.ops)
            for op in holder.ops:
                if is_call(op) and op.blocks[0] in blocks:
                    self.note(op, [axes_of(turns.get(v)) for v in op.inputs])

    def note(self, op: Op, given: list[Axes]) -> None:
        """Keep what this call has in common with the others of its block."""
        before = self.entered.get(op.blocks[0], given)
        self.entered[op.blocks[0]] = [a if a == b else ()
                                      for a, b in zip(before, given, strict=True)]  # fmt: skip

    def changed(self, block: Block, nested: Nested) -> Block:
        """A block with the transposes that came in, and calls of what they are of."""
        turns = movable(block.ops)
        params: list[Value] = []
        ops: list[Op] = []
        entered = self.entered.get(block, [()] * len(block.params))
        for value, axes in zip(block.params, entered, strict=True):
            params.append(before(value, axes) if axes else value)
            if axes:
                ops.append(transposed(params[-1], value, axes, ""))
        for op in block.ops:
            inputs = op.inputs
            if is_call(op) and (given := self.entered.get(op.blocks[0])):
                inputs = tuple(turns[v].inputs[0] if axes else v
                               for v, axes in zip(inputs, given, strict=True))  # fmt: skip
            blocks = tuple(map(nested, op.blocks))
            ops.append(Op(op.name, inputs, op.results, op.attributes, blocks, op.place))
        return Block(tuple(params), tuple(ops), block.results)
