"""Common subexpressions: what is computed twice from the same values is computed once."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from staging.ir import Block, Op, Program, Value
from staging.passes.dead import has_effect
from staging.passes.rewrite import Rebuilt, rewrite_block


def share_common(program: Program) -> Program:
    """Let an operation that repeats an earlier one of its block give that one's results.

    Example:
        >>> from staging.text import parse_program
        >>> print(share_common(parse_program('''program @p(%x: float32[]) {
        ...   %y = exp(%x): float32[]
        ...   %z = exp(%x): float32[]
        ...   %t = add(%y, %z): float32[]
        ...   return (%t)
        ... }''')), end="")
        program @p(%x: float32[]) {
          %y = exp(%x): float32[]
          %t = add(%y, %y): float32[]
          return (%t)
        }
    """
    return Program(program.name, _shared(program.block))


def _shared(block: Block) -> Block:
    seen: dict[Hashable, Sequence[Value]] = {}

    def rule(out: Rebuilt, op: Op, inputs: tuple[Value, ...]) -> Sequence[Value] | None:
        if op.blocks or has_effect(op):
            return None
        key = (op.name, inputs, tuple(sorted((k, repr(v)) for k, v in op.attributes.items())))
        return None if seen.setdefault(key, op.results) is op.results else seen[key]

    return Block(block.params, *_with_nested(rewrite_block(block, rule)))


def _with_nested(block: Block) -> tuple[tuple[Op, ...], tuple[Value, ...]]:
    """Nested blocks are closed: each has common subexpressions of its own."""
    ops = tuple(
        Op(op.name, op.inputs, op.results, op.attributes, tuple(map(_shared, op.blocks)), op.place)
        for op in block.ops
    )
    return ops, block.results
