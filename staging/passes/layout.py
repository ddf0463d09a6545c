"""Layout: a matrix product, and a fold, read a transposed operand in place."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from staging.ir import Literal, Op, Program, Value
from staging.passes.rewrite import Rebuilt, rewrite
from staging.passes.simplify import ints


def fold_transposes(program: Program) -> Program:
    """Turn a transpose of the last two axes before a matmul into a flag of the matmul, also where
    several axes are one in the matmul, and any transpose before a fold into the order of its
    strides.

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
        turned = _turned(out, value)
        operands.append(value if turned is None else turned)
        flags[key] = bool(op.attributes[key]) != (turned is not None)
    if tuple(operands) == inputs:
        return None
    return out.write("matmul", tuple(operands), flags)


def _turned(out: Rebuilt, value: Value) -> Value | None:
    """What a value is the transpose of, in its last two axes; None if of nothing."""
    shape = value.type.shape
    inner = out.maker(value, "transpose")
    if inner is not None:
        n = len(shape)
        swaps = ints(inner, "axes") == (*range(n - 2), n - 1, n - 2)
        return inner.inputs[0] if swaps else None
    outer = out.maker(value, "reshape")
    inner = out.maker(outer.inputs[0], "transpose") if outer is not None else None
    if inner is None or len(shape) != 2:
        return None
    axes, (x,) = ints(inner, "axes"), inner.inputs
    k = axes[0]  # the axes from this one on come first, and each side is a single axis here
    rows, columns = prod(x.type.shape[:k]), prod(x.type.shape[k:])
    if axes != (*range(k, len(axes)), *range(k)) or shape != (columns, rows):
        return None
    return out.emit("reshape", x, shape=(rows, columns))
