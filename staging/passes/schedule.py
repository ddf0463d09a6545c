"""The order of operations: what makes memory needed as late as it can, what frees some as early.

An operation moves down to the first that reads it if it makes more bytes than end with it, and up
to the last that it reads if no fewer end than it makes. Parameters and results lie outside of the
arena and do not count, nor do single numbers: what updates a parameter moves up to its gradient,
for which no other then has to wait. A sum that is made term by term waits with its terms, where
what they are made from takes less than it does. Effects keep their order. The new order stands
where it needs less memory.
"""

from __future__ import annotations

from collections.abc import Sequence

from staging.ir import Block, Op, Program, Value
from staging.passes.dead import has_effect
from staging.passes.recompute import with_nested
from staging.passes.rewrite import Nested, each_block


def schedule(program: Program) -> Program:
    """Reorder the operations of each block so that less memory is in use at once.

    Example:
        >>> from staging.text import parse_program
        >>> print(schedule(parse_program('''program @p(%x: float32[9]) {
        ...   %a = exp(%x): float32[9]
        ...   %b = reduce(%x) {kind='sum', axes=(0,)}: float32[]
        ...   %c = iota() {shape=(9,), axis=0, dtype='int64'}: int64[9]
        ...   %d = reduce(%a) {kind='sum', axes=(0,)}: float32[]
        ...   %e = reduce(%c) {kind='sum', axes=(0,)}: int64[]
        ...   return (%b, %d, %e)
        ... }''')), end="")
        program @p(%x: float32[9]) {
          %b = reduce(%x) {kind='sum', axes=(0,)}: float32[]
          %a = exp(%x): float32[9]
          %d = reduce(%a) {kind='sum', axes=(0,)}: float32[]
          %c = iota() {shape=(9,), axis=0, dtype='int64'}: int64[9]
          %e = reduce(%c) {kind='sum', axes=(0,)}: int64[]
          return (%b, %d, %e)
        }
    """
    return program.with_block(each_block(program.block, _scheduled))


def _scheduled(block: Block, nested: Nested) -> Block:
    ops = [with_nested(op, nested) for op in block.ops]
    weights = weigh(block, ops)
    for move in (_sunk, _raised, _delayed):
        moved = move(block, ops, weights)
        if peak(block, moved, weights) < peak(block, ops, weights):
            ops = moved
    return Block(block.params, tuple(ops), block.results)


Weights = dict[Value, tuple[Value, int]]


def weigh(block: Block, ops: Sequence[Op]) -> Weights:
    """For each value where it lies, as the first value there, and how many bytes of the arena that
    takes, but for single numbers; reshapes lie where their operand does."""
    weights: Weights = {v: (v, 0) for v in block.params}
    for op in ops:
        for value in op.results:
            new = (value, 0 if value.type.size == 1 else value.type.bytes)
            weights[value] = weights[op.inputs[0]] if op.name == "reshape" else new
    outside = {weights[v][0] for v in block.results}
    return {v: (root, 0 if root in outside else size) for v, (root, size) in weights.items()}


def _gains(block: Block, ops: Sequence[Op], weights: Weights) -> list[int]:
    """How many bytes less are in use after each operation than before it."""
    last: dict[Value, int] = {}
    for i, op in enumerate(ops):
        last |= dict.fromkeys((weights[v][0] for v in (*op.inputs, *op.results)), i)
    last |= dict.fromkeys((weights[v][0] for v in block.results), len(ops))
    gains: list[int] = []
    for i, op in enumerate(ops):
        read = {weights[v] for v in op.inputs}
        made = 0 if op.name == "reshape" else sum(weights[v][1] for v in op.results)
        gains.append(sum(size for root, size in read if last[root] == i) - made)
    return gains


def peak(block: Block, ops: Sequence[Op], weights: Weights) -> int:
    """The most bytes in use at once."""
    live = most = 0
    for op, gain in zip(ops, _gains(block, ops, weights), strict=True):
        made = 0 if op.name == "reshape" else sum(weights[v][1] for v in op.results)
        most = max(most, live + made)
        live -= gain
    return most


def _sunk(block: Block, ops: Sequence[Op], weights: Weights) -> list[Op]:
    """Each operation that makes more than it frees right before the first that reads it."""
    return _down(ops, _gains(block, ops, weights))


def _delayed(block: Block, ops: Sequence[Op], weights: Weights) -> list[Op]:
    """The same of operations together with those that work for them alone: the last of several
    additions frees what the one before it has made, and yet all of them may make more than they
    free."""
    gains = _gains(block, ops, weights)
    makers = {v: i for i, op in enumerate(ops) for v in op.results}
    readers: dict[int, set[int]] = {}
    for i, op in enumerate(ops):
        for value in op.inputs:
            if value in makers:
                readers.setdefault(makers[value], set()).add(i)
    for value in block.results:
        if value in makers:
            readers.setdefault(makers[value], set()).add(len(ops))
    for i in range(len(ops)):  # what works for it stands before it: its own sum is complete
        only = readers.get(i, set())
        if gains[i] < 0 and len(only) == 1 and max(only) < len(ops):
            gains[max(only)] += gains[i]
    return _down(ops, gains)


def _down(ops: Sequence[Op], gains: Sequence[int]) -> list[Op]:
    """Each operation of negative gain right before the first that reads it."""
    first: dict[Value, int] = {}  # before which operation a value is wanted
    before = list(range(len(ops)))
    for i, op in reversed(list(enumerate(ops))):
        if gains[i] < 0 and not has_effect(op):
            before[i] = min((first[v] for v in op.results if v in first), default=i)
        for value in op.inputs:
            first[value] = min(first.get(value, before[i]), before[i])
    return [ops[i] for i in sorted(range(len(ops)), key=lambda i: (before[i], i))]


def _raised(block: Block, ops: Sequence[Op], weights: Weights) -> list[Op]:
    """Each operation that frees no less than it makes right after the last that it reads. One that
    updates a parameter stays behind what else reads that, so that it can be written over it."""
    gains = _gains(block, ops, weights)
    params = set(block.params)
    made: dict[Value, int] = {}  # after which operation a value is there
    read: dict[Value, int] = {}
    after = list(range(len(ops)))
    for i, op in enumerate(ops):
        if (gains[i] >= 0 or op.name == "reshape") and not has_effect(op):
            past = (read.get(v, -1) if v in params else made[v] for v in op.inputs)
            after[i] = max(past, default=-1)
        made |= dict.fromkeys(op.results, after[i])
        read |= {v: max(after[i], read.get(v, -1)) for v in op.inputs}
    return [ops[i] for i in sorted(range(len(ops)), key=lambda i: (after[i], i))]
