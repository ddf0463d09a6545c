"""Layout: a matrix product, and a fold, read a transposed operand in place."""

from __future__ import annotations

from collections.abc import Sequence

from staging.ir import Literal, Op, Program, Value
from staging.passes.rewrite import Rebuilt, rewrite
from staging.passes.simplify import ints


def fold_transposes(program: Program) -> Program:
    """Turn a transpose of the last two axes before a matmul into a flag of the matmul, and any
    transpose before a fold into the order of its strides.

    Example:
        >>> from staging.text import parse_program
        >>> print(fold_transposes(parse_program('''program @p(%x: float32[2, 3]) {
        ...   %t = transpose(%x) {axes=(1, 0)}: float32[3, 2]
        ...   %y = matmul(%x, %t) {transpose_x=false, transpose_y=false}: float32[2, 2]
        ...   return (%y)
        ... }''')), end="")
        program @p(%x: float32[2, 3]) {
          %t = transpose(%x) {axes=(1, 0)}: float32[3, 2]
          %2 = matmul(%x, %x) {transpose_x=false, transpose_y=true}: float32[2, 2]
          return (%2)
        }
    """
    return rewrite(program, _folded)


def _folded(out: Rebuilt, op: Op, inputs: tuple[Value, ...]) -> Sequence[Value] | None:
    if op.name == "fold":
        inner = out.maker(inputs[0], "transpose")
        if inner is None:
            return None
        strides = dict(zip(ints(inner, "axes"), ints(op, "strides"), strict=True))
        turned = tuple(strides[i] for i in range(len(strides)))
        return out.write("fold", inner.inputs, {**op.attributes, "strides": turned})
    if op.name != "matmul":
        return None
    flags: dict[str, Literal] = {}
    operands: list[Value] = []
    for key, value in zip(("transpose_x", "transpose_y"), inputs, strict=True):
        inner = out.maker(value, "transpose")
        n = len(value.type.shape)
        swaps = inner is not None and ints(inner, "axes") == (*range(n - 2), n - 1, n - 2)
        operands.append(inner.inputs[0] if inner is not None and swaps else value)
        flags[key] = bool(op.attributes[key]) != swaps
    if tuple(operands) == inputs:
        return None
    return out.write("matmul", tuple(operands), flags)
