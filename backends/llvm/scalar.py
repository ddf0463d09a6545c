"""The elementwise operations: a table from each to the code for one element."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias
from typing import cast as typed

from backends.llvm.code import Code
from backends.llvm.dtypes import NARROW, bitcast, cast, is_float, literal, register, rounded
from staging.ir import ITEMSIZE, UNSIGNED, Op

Emit: TypeAlias = Callable[..., str]  # (code, dtype, *registers) -> register


def compute(code: Code, name: str, dtype: str, *operands: str) -> str:
    """One element of an elementwise operation, from elements of its inputs of ``dtype``."""
    result = SCALAR[name](code, dtype, *operands)
    return rounded(code, dtype, result) if dtype in NARROW and name in ROUNDING else result


def element(code: Code, op: Op, operands: Sequence[str]) -> str:
    """One element of what an operation of `ELEMENTS` gives, from elements of its inputs."""
    dtype = op.results[0].type.dtype
    if op.name in SCALAR:
        return compute(code, op.name, op.inputs[0].type.dtype, *operands)
    if op.name == "constant":
        return literal(dtype, typed(float, op.attributes["value"]))
    if op.name == "select":
        (mask, x, y), kind = operands, register(dtype)
        return code.let(f"select i1 {mask}, {kind} {x}, {kind} {y}")
    convert = cast if op.name == "cast" else bitcast
    return convert(code, operands[0], op.inputs[0].type.dtype, dtype)


def arithmetic(floating: str, integer: str) -> Emit:
    """An instruction on floats, another on integers.

    Floats are rounded as IEEE 754 says, operation by operation, so that programs give the very bits
    that NumPy does. But a product may be fused with a sum that is `combine`: that may be reordered
    anyway.
    """

    def emit(code: Code, dtype: str, x: str, y: str) -> str:
        if is_float(dtype):
            fused = "contract " if floating == "fmul" and dtype not in NARROW else ""
            return code.let(f"{floating} {fused}{register(dtype)} {x}, {y}")
        return code.let(f"{integer} {register(dtype)} {x}, {y}")

    return emit


def negate(code: Code, dtype: str, x: str) -> str:
    if is_float(dtype):
        return code.let(f"fneg {register(dtype)} {x}")
    return code.let(f"sub {register(dtype)} 0, {x}")


def intrinsic(name: str) -> Emit:
    """A function of floats that is one instruction."""

    def emit(code: Code, dtype: str, x: str) -> str:
        kind = register(dtype)
        return code.let(f"call {kind} @llvm.{name}.{short(kind)}({kind} {x})")

    return emit


def short(kind: str) -> str:
    """An LLVM type as it stands in the names of functions."""
    return {"float": "f32", "double": "f64"}.get(kind, kind)


def function(name: str) -> Emit:
    """A function of `backends.llvm.functions`."""

    def emit(code: Code, dtype: str, *operands: str) -> str:
        kind = register(dtype)
        given = ", ".join(f"{kind} {v}" for v in operands)
        return code.let(f"call {kind} @lantern.{name}.{short(kind)}({given})")

    return emit


def complement(code: Code, dtype: str, x: str) -> str:
    return code.let(f"xor {register(dtype)} {x}, {'true' if dtype == 'bool' else -1}")


def divide(code: Code, dtype: str, x: str, y: str) -> str:
    kind = register(dtype)
    if is_float(dtype):
        return code.let(f"fdiv {kind} {x}, {y}")
    zero = code.let(f"icmp eq {kind} {y}, 0")
    if dtype in UNSIGNED:
        safe = code.let(f"select i1 {zero}, {kind} 1, {kind} {y}")
        quotient = code.let(f"udiv {kind} {x}, {safe}")
    else:
        safe, quotient, rest = signed_division(code, kind, x, y, zero)
        down = code.let(f"sub {kind} {quotient}, 1")
        floored = code.let(f"select i1 {other_sign(code, kind, rest, y)}, {kind} {down}, "
                           f"{kind} {quotient}")  # fmt: skip
        minus = code.let(f"icmp eq {kind} {y}, -1")
        negative = code.let(f"sub {kind} 0, {x}")
        quotient = code.let(f"select i1 {minus}, {kind} {negative}, {kind} {floored}")
    return code.let(f"select i1 {zero}, {kind} 0, {kind} {quotient}")


def signed_division(code: Code, kind: str, x: str, y: str, zero: str) -> tuple[str, str, str]:
    """A divisor that cannot trap, and the quotient towards zero and remainder by it."""
    minus = code.let(f"icmp eq {kind} {y}, -1")
    trap = code.let(f"or i1 {zero}, {minus}")
    safe = code.let(f"select i1 {trap}, {kind} 1, {kind} {y}")
    quotient = code.let(f"sdiv {kind} {x}, {safe}")
    back = code.let(f"mul {kind} {quotient}, {safe}")
    return safe, quotient, code.let(f"sub {kind} {x}, {back}")


def other_sign(code: Code, kind: str, rest: str, y: str) -> str:
    """Whether a remainder is not zero and has another sign than the divisor."""
    sign = code.let(f"icmp slt {kind} {code.let(f'xor {kind} {rest}, {y}')}, 0")
    return code.let(f"and i1 {sign}, {code.let(f'icmp ne {kind} {rest}, 0')}")


def remainder(code: Code, dtype: str, x: str, y: str) -> str:
    kind = register(dtype)
    if is_float(dtype):
        rest = code.let(f"frem {kind} {x}, {y}")
        below = code.let(f"fcmp olt {kind} {y}, 0.0")
        negative = code.let(f"fcmp olt {kind} {rest}, 0.0")
        other = code.let(f"xor i1 {below}, {negative}")
        moved = code.let(f"fadd {kind} {rest}, {y}")
        signed = code.let(f"select i1 {other}, {kind} {moved}, {kind} {rest}")
        none = code.let(f"fcmp oeq {kind} {rest}, 0.0")
        zero = code.let(f"call {kind} @llvm.copysign.{short(kind)}({kind} 0.0, {kind} {y})")
        return code.let(f"select i1 {none}, {kind} {zero}, {kind} {signed}")
    zero = code.let(f"icmp eq {kind} {y}, 0")
    if dtype in UNSIGNED:
        safe = code.let(f"select i1 {zero}, {kind} 1, {kind} {y}")
        rest = code.let(f"urem {kind} {x}, {safe}")
    else:
        _, _, rest = signed_division(code, kind, x, y, zero)
        moved = code.let(f"add {kind} {rest}, {y}")
        rest = code.let(f"select i1 {other_sign(code, kind, rest, y)}, {kind} {moved}, "
                        f"{kind} {rest}")  # fmt: skip
    return code.let(f"select i1 {zero}, {kind} 0, {kind} {rest}")


def extreme(name: str) -> Emit:
    """The larger or smaller; nan if either is."""

    def emit(code: Code, dtype: str, x: str, y: str) -> str:
        kind = register(dtype)
        if is_float(dtype):
            call = f"@llvm.{name}imum.{short(kind)}"
            return code.let(f"call nsz {kind} {call}({kind} {x}, {kind} {y})")
        if dtype == "bool":
            return code.let(f"{'or' if name == 'max' else 'and'} i1 {x}, {y}")
        sign = "u" if dtype in UNSIGNED else "s"
        return code.let(f"call {kind} @llvm.{sign}{name}.{kind}({kind} {x}, {kind} {y})")

    return emit


def bitwise(name: str) -> Emit:
    def emit(code: Code, dtype: str, x: str, y: str) -> str:
        return code.let(f"{name} {register(dtype)} {x}, {y}")

    return emit


def shift(left: bool) -> Emit:
    def emit(code: Code, dtype: str, x: str, y: str) -> str:
        kind, bits = register(dtype), 8 * ITEMSIZE[dtype]
        outside = code.let(f"icmp uge {kind} {y}, {bits}")
        arithmetic = not left and dtype not in UNSIGNED
        most = bits - 1 if arithmetic else 0  # filling with the sign is shifting all but one out
        by = code.let(f"select i1 {outside}, {kind} {most}, {kind} {y}")
        verb = "shl" if left else "ashr" if arithmetic else "lshr"
        shifted = code.let(f"{verb} {kind} {x}, {by}")
        if arithmetic:
            return shifted
        return code.let(f"select i1 {outside}, {kind} 0, {kind} {shifted}")

    return emit


def compare(name: str) -> Emit:
    def emit(code: Code, dtype: str, x: str, y: str) -> str:
        kind = register(dtype)
        if is_float(dtype):
            return code.let(f"fcmp o{name} {kind} {x}, {y}")
        sign = "u" if dtype in UNSIGNED or dtype == "bool" else "s"
        return code.let(f"icmp {'' if name == 'eq' else sign}{name} {kind} {x}, {y}")

    return emit


SCALAR: dict[str, Emit] = {
    "negate": negate,
    "floor": intrinsic("floor"),
    "round": intrinsic("roundeven"),
    "sqrt": intrinsic("sqrt"),
    "exp": function("exp"),
    "log": function("log"),
    "log1p": function("log1p"),
    "expm1": function("expm1"),
    "sin": function("sin"),
    "cos": function("cos"),
    "tanh": function("tanh"),
    "erf": function("erf"),
    "pow": function("pow"),
    "atan2": function("atan2"),
    "not": complement,
    "add": arithmetic("fadd", "add"),
    "sub": arithmetic("fsub", "sub"),
    "mul": arithmetic("fmul", "mul"),
    "div": divide,
    "rem": remainder,
    "max": extreme("max"),
    "min": extreme("min"),
    "and": bitwise("and"),
    "or": bitwise("or"),
    "xor": bitwise("xor"),
    "shl": shift(left=True),
    "shr": shift(left=False),
    "eq": compare("eq"),
    "lt": compare("lt"),
    "le": compare("le"),
}

# What `element` knows.
ELEMENTS = frozenset([*SCALAR, "select", "cast", "bitcast", "constant"])

# The operations whose results on float16 and bfloat16 are not of that dtype by themselves.
ROUNDING = frozenset(
    [
        "sqrt",
        "exp",
        "log",
        "log1p",
        "expm1",
        "sin",
        "cos",
        "tanh",
        "erf",
        "pow",
        "atan2",
        "add",
        "sub",
        "mul",
        "div",
        "rem",
    ]
)


def combine(code: Code, kind: str, dtype: str, x: str, y: str) -> str:
    """Two partial results of a reduction as one; sums of floats may be reordered."""
    if kind in ("max", "min"):
        return extreme(kind)(code, dtype, x, y)
    if dtype == "bool":
        return code.let(f"{'or' if kind == 'sum' else 'and'} i1 {x}, {y}")
    verb = "add" if kind == "sum" else "mul"
    if is_float(dtype):
        return code.let(f"f{verb} reassoc contract {register(dtype)} {x}, {y}")
    return code.let(f"{verb} {register(dtype)} {x}, {y}")


def identity(kind: str, dtype: str) -> str:
    """What a reduction starts from."""
    if kind in ("sum", "prod"):
        return literal(dtype, kind == "prod")
    if is_float(dtype):
        return literal(dtype, float("-inf") if kind == "max" else float("inf"))
    if dtype == "bool":
        return literal(dtype, kind == "min")
    bits = 8 * ITEMSIZE[dtype]
    low, high = (0, 2**bits - 1) if dtype in UNSIGNED else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return str(low if kind == "max" else high)
