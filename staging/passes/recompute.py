"""Recomputing: what a later loop nest can make again from what it reads anyway is not kept for it.

A value that one loop nest writes and others read costs memory from the one to the others, a write
and reads. Where a few cheap operations make it from values that live as long anyway, the readers
hold those operations themselves. That is worth it if every reader can, and if they read and write
fewer arrays together than before; scalars and rows are not counted. On request a narrower array may
live longer instead of the value, as that of which it is a cast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from staging.cost import WORK
from staging.ir import Block, Op, Program, Value
from staging.ops import OPS
from staging.passes.common import share_common
from staging.passes.rewrite import Nested, each_block

CHEAP = 8  # vector instructions an element, on a CPU
LARGEST = 64  # operations of a loop nest
SMALL = 8  # an array of an eighth of the elements is not counted
VIEWS = frozenset(("constant", "iota", "broadcast", "reshape", "transpose", "slice"))


def recompute(program: Program, cheap: int = CHEAP, narrower: bool = False) -> Program:
    """Let loop nests make again what is cheap, instead of reading it.

    Args:
        program: what to improve.
        cheap: up to how many instructions an element.
        narrower: whether what takes less memory than a value may live as long as that would.

    Example:
        >>> from staging.fusion import fuse
        >>> from staging.text import parse_program
        >>> program = fuse(parse_program('''program @p(%x: float32[9, 9], %w: float32[9, 9]) {
        ...   %a = exp(%x): float32[9, 9]
        ...   %b = mul(%a, %x): float32[9, 9]
        ...   %c = matmul(%a, %w) {transpose_x=false, transpose_y=false}: float32[9, 9]
        ...   %d = mul(%b, %c): float32[9, 9]
        ...   %e = add(%d, %x): float32[9, 9]
        ...   return (%e, %a)
        ... }'''))
        >>> [len(op.results) for op in program.block.ops]
        [2, 1, 1]
        >>> [len(op.results) for op in recompute(program).block.ops]
        [1, 1, 1]
    """
    return program.with_block(
        each_block(program.block, lambda block, nested: _recomputed(block, nested, cheap, narrower))
    )


def _recomputed(block: Block, nested: Nested, cheap: int, narrower: bool) -> Block:
    ops = [with_nested(op, nested) for op in block.ops]
    search = _Search(Block(block.params, tuple(ops), block.results), cheap, narrower)
    for i in range(len(ops)):
        for value in search.ops[i].results if is_nest(search.ops[i]) else ():
            search.consider(i, value)
    return Block(block.params, tuple(search.ops), block.results)


def with_nested(op: Op, nested: Nested) -> Op:
    """An operation whose blocks, but for those of loop nests, are changed."""
    if not op.blocks or "kind" in op.attributes:
        return op
    blocks = tuple(map(nested, op.blocks))
    return Op(op.name, op.inputs, op.results, op.attributes, blocks, op.place)


def is_nest(op: Op) -> bool:
    """Whether an operation is a loop nest."""
    return op.name == "call" and op.attributes.get("kind") == "loop"


class _Search:
    """A block's operations while some are changed."""

    def __init__(self, block: Block, cheap: int, narrower: bool) -> None:
        self.cheap, self.narrower = cheap, narrower
        self.ops = list(block.ops)
        self.readers: dict[Value, set[int]] = {v: {len(self.ops)} for v in block.results}
        for i, op in enumerate(self.ops):
            for value in op.inputs:
                self.readers.setdefault(value, set()).add(i)

    def last(self, value: Value) -> int:
        """The last operation that reads a value."""
        return max(self.readers.get(value, ()), default=-1)

    def consider(self, i: int, value: Value) -> None:
        """Have all readers of a result of the ``i``-th operation make it, if they can."""
        maker, readers = self.ops[i], sorted(self.readers.get(value, ()))
        if not readers or readers[-1] == len(self.ops) or len(maker.results) == 1:
            return
        cone = self.cone(maker, value, readers[-1])
        if cone is None:
            return
        copied, leaves = cone
        large = [v for v in leaves if v.type.size * SMALL > value.type.size]
        saved = 1  # it is not written
        for n in readers:
            reader = self.ops[n]
            rows, columns = (cast(int, reader.attributes.get(k, 0)) for k in ("rows", "columns"))
            if not is_nest(reader) or value.type.size != rows * columns:
                return
            if len(reader.blocks[0].ops) + len(copied) > LARGEST:
                return
            saved += 1 - sum(v not in reader.inputs for v in large)
        if saved <= 0:
            return
        for n in readers:
            self.ops[n] = taking(self.ops[n], value, copied, leaves, maker)
            for leaf in leaves:
                self.readers.setdefault(leaf, set()).add(n)
        del self.readers[value]
        self.ops[i] = without(maker, value)

    def cone(self, maker: Op, value: Value, until: int) -> tuple[list[Op], list[Value]] | None:
        """The cheap operations that make a result, and the values outside of the nest that they
        make it from, which are in memory for as long anyway, or take less of it; None if there are
        no such."""
        (block,) = maker.blocks
        outside = dict(zip((*block.params, *block.results), (*maker.inputs, *maker.results),
                           strict=True))  # fmt: skip
        wanted = block.results[maker.results.index(value)]
        needed, copied, leaves, effort = {wanted}, list[Op](), list[Value](), 0
        for op in reversed(block.ops):
            (result,) = op.results
            if result not in needed:
                continue
            outer = outside.get(result)
            if result is not wanted and outer is not None and self.last(outer) >= until:
                leaves.append(outer)
                continue
            if op.name not in VIEWS:
                effort += WORK.get(op.name, 1)
                if effort > self.cheap or not OPS[op.name].elementwise:
                    return None
            copied.append(op)
            needed.update(op.inputs)
        leaves += [outside[p] for p in block.params if p in needed]
        ended = sum(v.type.bytes for v in leaves if self.last(v) < until)
        if wanted in block.params or ended >= (value.type.bytes if self.narrower else 1):
            return None
        return copied[::-1], leaves


def taking(
    reader: Op, value: Value, copied: Sequence[Op], leaves: Sequence[Value], maker: Op
) -> Op:
    """A loop nest that makes a value which it has read, from others."""
    (block,), (origin,) = reader.blocks, maker.blocks
    inner = dict(zip(reader.inputs, block.params, strict=True))
    read = inner.pop(value)
    for leaf in leaves:
        inner.setdefault(leaf, Value(leaf.type, leaf.hint))
    outside = dict(zip((*origin.params, *origin.results), (*maker.inputs, *maker.results),
                       strict=True))  # fmt: skip
    inside = {v: inner[outer] for v, outer in outside.items() if outer in leaves}
    inside[origin.results[maker.results.index(value)]] = read
    ops: list[Op] = []
    for op in copied:
        (result,) = op.results
        made = inside.setdefault(result, Value(result.type, result.hint))
        inputs = tuple(inside[v] for v in op.inputs)
        ops.append(Op(op.name, inputs, (made,), op.attributes, (), op.place))
    new = Block(tuple(inner.values()), (*ops, *block.ops), block.results)
    new = share_common(Program("nest", new)).block  # it may have made some of it already
    return Op("call", tuple(inner), reader.results, reader.attributes, (new,), reader.place)


def without(maker: Op, value: Value) -> Op:
    """A loop nest that keeps one of its results to itself."""
    (block,) = maker.blocks
    kept = [k for k, v in enumerate(maker.results) if v is not value]
    results = tuple(block.results[k] for k in kept)
    given = tuple(maker.results[k] for k in kept)
    new = Block(block.params, block.ops, results)
    return Op("call", maker.inputs, given, maker.attributes, (new,), maker.place)
