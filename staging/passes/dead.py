"""Dead code: what nothing reads, and that does nothing else."""

from __future__ import annotations

from staging.ir import Block, Op, Program, Value
from staging.ops import OPS


def remove_dead(program: Program) -> Program:
    """Remove operations whose results are not needed; effects stay.

    Example:
        >>> from staging.text import parse_program
        >>> print(remove_dead(parse_program('''program @p(%x: float32[]) {
        ...   %y = exp(%x): float32[]
        ...   return (%x)
        ... }''')), end="")
        program @p(%x: float32[]) {
          return (%x)
        }
    """
    return program.with_block(_live(program.block))


def _live(block: Block) -> Block:
    needed: set[Value] = set(block.results)
    kept: list[Op] = []
    for op in reversed(block.ops):
        if has_effect(op) or needed & set(op.results):
            needed |= set(op.inputs)
            blocks = tuple(_live(b) for b in op.blocks)
            kept.append(Op(op.name, op.inputs, op.results, op.attributes, blocks, op.place))
    return Block(block.params, tuple(reversed(kept)), block.results)


def has_effect(op: Op) -> bool:
    """Whether an operation, or one nested in it, does more than compute its results."""
    return OPS[op.name].effect or any(has_effect(inner) for b in op.blocks for inner in b.ops)
