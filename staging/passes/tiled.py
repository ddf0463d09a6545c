"""Tiled operations: a `call` that a backend may do by one kernel of its own, as a plain block.

The kinds of `staging.ops.TILED` name what their blocks compute: attention, its adjoint. A backend
with a kernel for one looks at the name, the operands and the attributes; any other opens it.
"""

from __future__ import annotations

from collections.abc import Sequence

from staging.ir import Op, Program, Value, walk
from staging.ops import TILED
from staging.passes.rewrite import Rebuilt, rewrite


def open_tiled(program: Program) -> Program:
    """The program with the block of each tiled operation in its place.

    Example:
        >>> from staging.text import parse_program
        >>> print(open_tiled(parse_program('''program @p(%x: float32[2]) {
        ...   %y = call(%x) {kind='attention', causal=false, segmented=false}
        ...   block(%a: float32[2]) {
        ...     %b = exp(%a): float32[2]
        ...     return (%b)
        ...   }: float32[2]
        ...   return (%y)
        ... }''')), end="")
        program @p(%x: float32[2]) {
          %1 = exp(%x): float32[2]
          return (%1)
        }
    """
    tiled = any(op.attributes.get("kind") in TILED for op in walk(program.block))
    return rewrite(program, _opened) if tiled else program


def _opened(out: Rebuilt, op: Op, inputs: tuple[Value, ...]) -> Sequence[Value] | None:
    if op.attributes.get("kind") not in TILED:
        return None
    (block,) = op.blocks
    new = dict(zip(block.params, inputs, strict=True))
    for inner in block.ops:
        out.place = inner.place
        given = tuple(new[v] for v in inner.inputs)
        results = out.write(inner.name, given, inner.attributes, inner.blocks)
        new.update(zip(inner.results, results, strict=True))
    return [new[v] for v in block.results]
