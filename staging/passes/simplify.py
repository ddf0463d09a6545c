"""Algebra: constants folded, and what a rule list says is the same but simpler.

A pattern is an operation on variables and numbers, such as ``mul(x, 1)``. A number matches a
constant, or a broadcast of one. Only what holds for every float is here, infinities and nan
included; ``add(x, 0)`` alone turns -0 + 0 from 0 into -0.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

import numpy as np

from staging.interpret import MEANINGS, numpy_dtype
from staging.ir import Op, Program, Value
from staging.ops import OPS
from staging.passes.rewrite import Rebuilt, rewrite

RULES: list[tuple[str, str]] = [
    ("add(x, 0)", "x"),
    ("add(0, x)", "x"),
    ("sub(x, 0)", "x"),
    ("mul(x, 1)", "x"),
    ("mul(1, x)", "x"),
    ("div(x, 1)", "x"),
    ("pow(x, 1)", "x"),
    ("pow(x, 2)", "mul(x, x)"),
    ("mul(x, -1)", "negate(x)"),
    ("mul(-1, x)", "negate(x)"),
    ("negate(negate(x))", "x"),
    ("add(x, negate(y))", "sub(x, y)"),
    ("sub(x, negate(y))", "add(x, y)"),
    ("mul(negate(x), negate(y))", "mul(x, y)"),
    ("not(not(x))", "x"),
    ("and(x, x)", "x"),
    ("or(x, x)", "x"),
    ("max(x, x)", "x"),
    ("min(x, x)", "x"),
    ("select(c, x, x)", "x"),
    ("select(not(c), x, y)", "select(c, y, x)"),
]

Variables = dict[str, Value]


def simplify(program: Program) -> Program:
    """Fold constants and apply the rules, to each operation once, inputs first.

    Example:
        >>> from staging.text import parse_program
        >>> print(simplify(parse_program('''program @p(%x: float32[2]) {
        ...   %one = constant() {value=1.0, dtype='float32'}: float32[]
        ...   %ones = broadcast(%one) {shape=(2,)}: float32[2]
        ...   %y = mul(%x, %ones): float32[2]
        ...   return (%y)
        ... }''')), end="")
        program @p(%x: float32[2]) {
          %one = constant() {value=1.0, dtype='float32'}: float32[]
          %ones = broadcast(%one) {shape=(2,)}: float32[2]
          return (%x)
        }
    """
    return rewrite(program, _simpler)


def _simpler(out: Rebuilt, op: Op, inputs: tuple[Value, ...]) -> Sequence[Value] | None:
    for attempt in (folded, structural, accumulated, algebraic):
        found = attempt(out, op, inputs)
        if found is not None:
            return (found,)
    return None


def folded(out: Rebuilt, op: Op, inputs: tuple[Value, ...]) -> Value | None:
    """An elementwise operation on repeated scalars: done on the scalars, and repeated after."""
    if not OPS[op.name].elementwise:
        return None
    scalars = [out.scalar(v) for v in inputs]
    if any(s is None for s in scalars):
        return None
    constants = [out.constant(v) for v in inputs]
    (result,) = op.results
    known = [s for s in scalars if s is not None]
    if all(c is not None for c in constants):
        arrays = [
            np.asarray(c, numpy_dtype(s.type.dtype)) for c, s in zip(constants, known, strict=True)
        ]
        with np.errstate(all="ignore"):
            value = MEANINGS[op.name](*arrays, **op.attributes)
        number: Any = np.asarray(value).astype(numpy_dtype(result.type.dtype)).item()
        scalar = out.emit("constant", value=number, dtype=result.type.dtype)
    elif result.type.shape:
        (scalar,) = out.write(op.name, tuple(known), op.attributes)
    else:
        return None
    shape = result.type.shape
    return out.emit("broadcast", scalar, shape=shape) if shape else scalar


def structural(out: Rebuilt, op: Op, inputs: tuple[Value, ...]) -> Value | None:
    """What moves elements twice moves them once; what does not move them goes."""
    if op.name not in ("reshape", "transpose", "broadcast", "cast", "slice", "concat", "reduce"):
        return None
    x, (result,) = inputs[0], op.results
    if op.name in ("reshape", "broadcast", "cast") and x.type == result.type:
        return x
    if op.name == "slice" and x.type == result.type and set(ints(op, "steps")) <= {1}:
        return x
    if op.name == "concat" and len(inputs) == 1:
        return x
    if op.name == "transpose":
        return transposed(out, op, x)
    if op.name == "reduce" and all(x.type.shape[a] == 1 for a in ints(op, "axes")):
        return out.emit("reshape", x, shape=result.type.shape)
    if op.name in ("reshape", "broadcast"):
        inner = out.maker(x, op.name)
        if inner is not None:
            return out.emit(op.name, inner.inputs[0], shape=result.type.shape)
        scalar = out.scalar(x)
        if scalar is not None and scalar is not x:
            return out.emit("broadcast", scalar, shape=result.type.shape)
    return None


def transposed(out: Rebuilt, op: Op, x: Value) -> Value | None:
    """The identity is nothing, one that moves axes of length 1 only a reshape; two permutations are
    one."""
    axes = ints(op, "axes")
    if axes == tuple(range(len(axes))):
        return x
    long = [a for a in axes if x.type.shape[a] != 1]
    if long == sorted(long):
        return out.emit("reshape", x, shape=op.results[0].type.shape)
    inner = out.maker(x, "transpose")
    if inner is None:
        return None
    first = ints(inner, "axes")
    both = tuple(first[a] for a in axes)
    if both == tuple(range(len(both))):
        return inner.inputs[0]
    return out.emit("transpose", inner.inputs[0], axes=both)


def accumulated(out: Rebuilt, op: Op, inputs: tuple[Value, ...]) -> Value | None:
    """A total plus zeros to which rows were added: those rows added to the total. So a step of a
    loop that reads a row touches a row on the way back, not all."""
    if op.name != "add":
        return None
    for total, value in (inputs, inputs[::-1]):
        added: list[Op] = []
        while (one := out.maker(value, "scatter")) and one.attributes["kind"] == "sum":
            added.append(one)
            value = one.inputs[0]
        if out.constant(value) == 0 or out.maker(value, "empty"):
            for one in reversed(added):
                (total,) = out.write("scatter", (total, *one.inputs[1:]), one.attributes)
            if added or value.type.is_table:
                return total
    return None


def ints(op: Op, key: str) -> tuple[int, ...]:
    """An attribute that the table has checked to be integers."""
    value = op.attributes[key]
    assert isinstance(value, tuple)
    return tuple(n for n in value if isinstance(n, int))


def algebraic(out: Rebuilt, op: Op, inputs: tuple[Value, ...]) -> Value | None:
    """The first rule of the list that matches."""
    for pattern, replacement in _PARSED.get(op.name, ()):
        variables: Variables = {}
        if all(matches(out, p, v, variables) for p, v in zip(pattern.args, inputs, strict=True)):
            return build(out, replacement, variables)
    return None


def matches(out: Rebuilt, pattern: ast.expr, value: Value, variables: Variables) -> bool:
    """Whether a value is an instance of a pattern; variables are bound on the way."""
    if isinstance(pattern, ast.Name):
        return variables.setdefault(pattern.id, value) is value
    if isinstance(pattern, ast.Call):
        op = out.maker(value, _name(pattern))
        return op is not None and all(
            matches(out, p, v, variables) for p, v in zip(pattern.args, op.inputs, strict=True)
        )
    assert isinstance(pattern, ast.Constant)
    found = out.constant(value)
    return type(found) in (int, float) and found == pattern.value


def build(out: Rebuilt, pattern: ast.expr, variables: Variables) -> Value:
    """The value that a replacement describes."""
    if isinstance(pattern, ast.Name):
        return variables[pattern.id]
    assert isinstance(pattern, ast.Call)
    return out.emit(_name(pattern), *(build(out, p, variables) for p in pattern.args))


def _name(call: ast.Call) -> str:
    assert isinstance(call.func, ast.Name)
    return call.func.id.rstrip("_")


def _parsed(rules: list[tuple[str, str]]) -> dict[str, list[tuple[ast.Call, ast.expr]]]:
    """The rules by the operation they start with."""
    table: dict[str, list[tuple[ast.Call, ast.expr]]] = {}
    for left, right in rules:
        pattern = _expression(left)
        assert isinstance(pattern, ast.Call)
        table.setdefault(_name(pattern), []).append((pattern, _expression(right)))
    return table


def _expression(text: str) -> ast.expr:
    """One side of a rule; Python's keywords get an underscore, so that they parse."""
    for word in ("not", "and", "or"):
        text = text.replace(f"{word}(", f"{word}_(")
    return _Numbers().visit(ast.parse(text, mode="eval")).body


class _Numbers(ast.NodeTransformer):
    """Makes one node of a negative number."""

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.Constant:
        return ast.Constant(ast.literal_eval(node))


_PARSED = _parsed(RULES)
