"""What loops stack: each value once; and one product after the loop in place of a sum of products.

The gradient of a weight that every step of a loop reads is a sum of products, one a step. With
their operands stacked along the inner axis it is one product, which is longer, so it is faster.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple, cast

from staging.ir import Block, Builder, Literal, Op, Program, Value
from staging.passes.rewrite import Nested, each_block

LONG = 256  # a product with so long an inner axis is not faster for a longer one


def restack(program: Program) -> Program:
    """Rebuild loops so that they stack nothing twice, and leave sums of products to one product.

    A product waits for the end of the loop if what has to be stacked for it takes no more memory
    than what the loop reads of its stacked operands.

    Example:
        >>> from staging.passes.dead import remove_dead
        >>> from staging.text import parse_program
        >>> source = '''
        ... program @p(%s: float32[3, 4], %x: float32[9, 2, 3], %y: float32[9, 2, 4]) {
        ...   %z = scan(%s, %x, %y) {length=9, carried=1, captured=0, reverse=false}
        ...     block(%t: float32[3, 4], %u: float32[2, 3], %v: float32[2, 4]) {
        ...     %1 = matmul(%u, %v) {transpose_x=true, transpose_y=false}: float32[3, 4]
        ...     %2 = add(%t, %1): float32[3, 4]
        ...     return (%2)
        ...   }: float32[3, 4]
        ...   return (%z)
        ... }'''
        >>> print(remove_dead(restack(parse_program(source))), end="")
        program @p(%s: float32[3, 4], %x: float32[9, 2, 3], %y: float32[9, 2, 4]) {
          %3 = reshape(%x) {shape=(18, 3)}: float32[18, 3]
          %4 = reshape(%y) {shape=(18, 4)}: float32[18, 4]
          %5 = matmul(%3, %4) {transpose_x=true, transpose_y=false}: float32[3, 4]
          %6 = add(%s, %5): float32[3, 4]
          return (%6)
        }
    """
    plans: dict[tuple[Block, int, int], _Loop] = {}

    def change(block: Block, nested: Nested) -> Block:
        out = Builder()
        out.params = list(block.params)
        new: dict[Value, Value] = {}
        zeros: set[Value] = set()
        for op in block.ops:
            inputs = tuple(new.get(v, v) for v in op.inputs)
            blocks = tuple(map(nested, op.blocks))
            op = Op(op.name, inputs, op.results, op.attributes, blocks, op.place)
            if op.name == "scan" and cast(int, op.attributes["length"]) > 1:
                key = blocks[0], *_counts(op)
                if key not in plans:
                    plans[key] = _planned(*key)
                new |= _rebuilt(out, op, plans[key], zeros)
            else:
                out.ops.append(op)
            if op.name in ("constant", "broadcast") and _is_zero(op, zeros):
                zeros.update(op.results)
        return out.block(*(new.get(v, v) for v in block.results))

    return program.with_block(each_block(program.block, change))


def _counts(op: Op) -> tuple[int, int]:
    """How many carries and captures a loop has."""
    return cast(int, op.attributes["carried"]), cast(int, op.attributes["captured"])


def _is_zero(op: Op, zeros: set[Value]) -> bool:
    """Whether a constant is 0, or repeats one of these."""
    return op.inputs[0] in zeros if op.inputs else op.attributes["value"] == 0


class _Sum(NamedTuple):
    """A carry that adds up products of values of each step, and does nothing else."""

    carry: int
    product: Op
    total: Op


class _Loop(NamedTuple):
    """What a loop's body becomes.

    Attributes:
        body: the new one, from and to the carries that are left, and what is stacked.
        sums: the carries that are gone.
        stacked: the values of the body that have a stack.
    """

    body: Block
    sums: tuple[_Sum, ...]
    stacked: tuple[Value, ...]


def _planned(block: Block, carried: int, captured: int) -> _Loop:
    """The loop whose body a block is, rebuilt."""
    rows = block.params[carried + captured :]
    stacked = dict.fromkeys(v for v in block.results[carried:] if v not in rows)
    room = sum(v.type.bytes for v in rows)
    sums: list[_Sum] = []
    for one in _sums(block, carried, captured):
        added = [v for v in one.product.inputs if v not in rows and v not in stacked]
        needed = sum(v.type.bytes for v in dict.fromkeys(added))
        if needed <= room:
            room -= needed
            stacked |= dict.fromkeys(added)
            sums.append(one)
    gone = {one.carry for one in sums}
    left = {op for one in sums for op in (one.product, one.total)}
    params = tuple(v for k, v in enumerate(block.params) if k not in gone)
    carries = [v for k, v in enumerate(block.results[:carried]) if k not in gone]
    ops = tuple(op for op in block.ops if op not in left)
    return _Loop(Block(params, ops, (*carries, *stacked)), tuple(sums), tuple(stacked))


def _sums(block: Block, carried: int, captured: int) -> list[_Sum]:
    """The carries that only add up products along their operands' first axes."""
    makers = {v: op for op in block.ops for v in op.results}
    reads = Counter(v for op in block.ops for v in op.inputs)
    reads.update(block.results)
    captures = block.params[carried : carried + captured]
    sums: list[_Sum] = []
    for k, value in enumerate(block.results[:carried]):
        total, carry = makers.get(value), block.params[k]
        if total is None or total.name != "add" or carry not in total.inputs:
            continue
        product = makers.get(total.inputs[total.inputs[0] is carry])
        if product is None or product.name != "matmul" or len(value.type.shape) != 2:
            continue
        first = product.attributes["transpose_x"] and not product.attributes["transpose_y"]
        short = product.inputs[0].type.shape[0] < LONG
        alone = all(reads[v] == 1 for v in (carry, value, *product.results))
        if first and short and alone and not set(captures) & set(product.inputs):
            sums.append(_Sum(k, product, total))
    return sums


def _rebuilt(out: Builder, op: Op, loop: _Loop, zeros: set[Value]) -> dict[Value, Value]:
    """Write a loop with a new body and the products after it; what stands for its results."""
    (block,), (carried, captured) = op.blocks, _counts(op)
    gone = {one.carry for one in loop.sums}
    out.place = op.place
    inputs = tuple(v for k, v in enumerate(op.inputs) if k not in gone)
    attributes: dict[str, Literal] = {**op.attributes, "carried": carried - len(gone)}
    results = iter(out.write("scan", inputs, attributes, (loop.body,)))
    new = {v: next(results) for k, v in enumerate(op.results[:carried]) if k not in gone}
    inner = carried + captured
    stacks = dict(zip(block.params[inner:], op.inputs[inner:], strict=True))
    stacks |= {v: next(results) for v in loop.stacked}
    new |= {
        y: stacks[v] for y, v in zip(op.results[carried:], block.results[carried:], strict=True)
    }
    for one in loop.sums:
        out.place = one.product.place
        x, y = (
            out.emit("reshape", stacks[v], shape=(steps * rows, columns))
            for v in one.product.inputs
            for steps, rows, columns in (stacks[v].type.shape,)
        )
        (total,) = out.write("matmul", (x, y), one.product.attributes)
        start = op.inputs[one.carry]
        out.place = one.total.place
        new[op.results[one.carry]] = total if start in zeros else out.emit("add", start, total)
    return new
