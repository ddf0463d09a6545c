"""Common subexpressions: what is computed twice from the same values is computed once."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from staging.ir import Op, Program, Value
from staging.passes.dead import has_effect
from staging.passes.rewrite import Rebuilt, rewrite

COMMUTATIVE = frozenset(("add", "mul", "max", "min", "and", "or", "xor", "eq"))


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
    seen: dict[Hashable, Sequence[Value]] = {}

    def rule(out: Rebuilt, op: Op, inputs: tuple[Value, ...]) -> Sequence[Value] | None:
        if op.blocks or has_effect(op):
            return None
        attributes = tuple(sorted((k, repr(v)) for k, v in op.attributes.items()))
        operands = tuple(sorted(inputs, key=id)) if op.name in COMMUTATIVE else inputs
        key = (out, op.name, operands, attributes)  # blocks are closed: each has its own
        return None if seen.setdefault(key, op.results) is op.results else seen[key]

    return rewrite(program, rule)
