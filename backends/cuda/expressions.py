"""The C++ text of one element of each operation: literals, conversions, arithmetic.

What is computed has one C++ type by its dtype (`kind`), in memory as in registers. float16 and
bfloat16 are moved about as they are; arithmetic on them is that of float32, rounded once. Operands
are names or literals, so that no text needs parentheses around another.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeAlias
from typing import cast as typed

import numpy as np

from staging.interpret import numpy_dtype
from staging.ir import FLOATS, ITEMSIZE, UNSIGNED, Op

NARROW = ("float16", "bfloat16")
KINDS = {
    "bool": "bool",
    "int8": "signed char",
    "int16": "short",
    "int32": "int",
    "int64": "long long",
    "uint8": "unsigned char",
    "uint16": "unsigned short",
    "uint32": "unsigned int",
    "uint64": "unsigned long long",
    "float16": "__half",
    "bfloat16": "__nv_bfloat16",
    "float32": "float",
    "float64": "double",
}
WIDEN = {"float16": "__half2float", "bfloat16": "__bfloat162float"}
ROUND = {"float16": "__float2half_rn", "bfloat16": "__float2bfloat16_rn"}
OF_BITS = {
    "float16": "__ushort_as_half",
    "bfloat16": "__ushort_as_bfloat16",
    "float32": "__int_as_float",
    "float64": "__longlong_as_double",
}
BITS_OF = {
    "float16": "__half_as_ushort",
    "bfloat16": "__bfloat16_as_ushort",
    "float32": "__float_as_int",
    "float64": "__double_as_longlong",
}

Emit: TypeAlias = Callable[..., str]  # (dtype, *operands) -> text


def kind(dtype: str) -> str:
    """The C++ type of an element."""
    return KINDS[dtype]


def accumulator(dtype: str) -> str:
    """The dtype in which sums are kept."""
    return "float32" if dtype in NARROW else dtype


def is_float(dtype: str) -> bool:
    """Whether it is a floating-point dtype."""
    return dtype in FLOATS


def literal(dtype: str, value: bool | int | float) -> str:
    """A constant, exactly.

    Example:
        >>> literal("float32", 0.1), literal("int64", -3), literal("float16", float("inf"))
        ('0.1f', '(-3ll)', '__ushort_as_half(0x7c00)')
    """
    if dtype == "bool":
        return "true" if value else "false"
    if not is_float(dtype):
        return integer(dtype, int(value))
    with np.errstate(over="ignore"):
        number = np.asarray(value).astype(numpy_dtype(dtype))
    if not np.isfinite(number.astype(np.float64)):
        bits = int(number.view(f"uint{8 * ITEMSIZE[dtype]}")[()])
        return f"{OF_BITS[dtype]}({bits:#x}{'ll' if dtype == 'float64' else ''})"
    if dtype in NARROW:
        return f"{ROUND[dtype]}({literal('float32', float(number))})"
    text = str(number.item()) if dtype == "float64" else f"{np.float32(number)!s}f"
    return f"({text})" if text.startswith("-") else text


def integer(dtype: str, value: int) -> str:
    """An integer as a literal of its type."""
    least = -(2 ** (8 * ITEMSIZE[dtype] - 1))
    if dtype in ("int32", "int64") and value == least:  # 2147483648 is no int
        return f"({integer(dtype, least + 1)} - 1)"
    suffix = {"uint32": "u", "int64": "ll", "uint64": "ull"}.get(dtype, "")
    text = f"{value}{suffix}"
    if ITEMSIZE[dtype] < 4:
        return f"({kind(dtype)}){text}" if value >= 0 else f"({kind(dtype)})({text})"
    return f"({text})" if value < 0 else text


def widened(dtype: str, text: str) -> str:
    """An element of a narrow float as float32."""
    constant = re.fullmatch(rf"{ROUND[dtype]}\((\(?-?[\d.e+-]+f\)?)\)", text)
    return constant[1] if constant else f"{WIDEN[dtype]}({text})"


def compute(name: str, dtype: str, *operands: str) -> str:
    """One element of an elementwise operation, from elements of its inputs of ``dtype``.

    Example:
        >>> compute("mul", "float32", "x", "y"), compute("add", "float16", "x", "y")
        ('x * y', '__float2half_rn(__half2float(x) + __half2float(y))')
    """
    if dtype not in NARROW:
        return TEXTS[name](dtype, *operands)
    text = TEXTS[name]("float32", *(widened(dtype, x) for x in operands))
    return text if name in COMPARISONS else f"{ROUND[dtype]}({text})"


def element(op: Op, operands: Sequence[str]) -> str:
    """One element of what an operation of `ELEMENTS` gives, from elements of its inputs."""
    dtype = op.results[0].type.dtype
    if op.name == "constant":
        return literal(dtype, typed(float, op.attributes["value"]))
    source = op.inputs[0].type.dtype
    if op.name == "select":
        mask, x, y = operands
        return f"{mask} ? {x} : {y}"
    if op.name in ("cast", "bitcast"):
        return (cast if op.name == "cast" else bitcast)(operands[0], source, dtype)
    return compute(op.name, source, *operands)


def cast(x: str, source: str, to: str) -> str:
    """An element converted: floats to nearest, to integers towards zero and saturating.

    Example:
        >>> cast("x", "float16", "float32"), cast("x", "int64", "bool")
        ('__half2float(x)', 'x != 0')
    """
    if source == to:
        return x
    if source in NARROW:
        return cast(widened(source, x), "float32", to)
    if to == "bool":
        return f"{x} != 0"
    if to in NARROW:
        if (source, to) == ("float64", "float16"):  # by way of float32, it would round twice
            return f"__double2half({x})"
        return f"{ROUND[to]}({cast(x, source, 'float32')})"
    if is_float(source) and not is_float(to):
        bits = 8 * ITEMSIZE[to]
        least = 0 if to in UNSIGNED else -(2 ** (bits - 1))
        most = least + 2**bits
        bounds = [literal(source, float(v)) for v in (least, most)]
        bounds += [integer(to, v) for v in (least, most - 1)]
        return f"saturated<{kind(to)}>({x}, {', '.join(bounds)})"
    return f"({kind(to)}){x}"


def bitcast(x: str, source: str, to: str) -> str:
    """The same bits as an element of another dtype of the same width."""
    if source == to:
        return x
    if is_float(source):
        x, source = f"{BITS_OF[source]}({x})", f"int{8 * ITEMSIZE[source]}"
    if is_float(to):
        return f"{OF_BITS[to]}({x})"
    return cast(x, source, to)


def unsigned(dtype: str) -> str:
    """The unsigned type in which integers of a dtype wrap."""
    return "unsigned long long" if ITEMSIZE[dtype] == 8 else "unsigned int"


def arithmetic(sign: str) -> Emit:
    """An operator; integers wrap, which the language says of unsigned ones of full width only."""

    def emit(dtype: str, x: str, y: str) -> str:
        if is_float(dtype) or dtype in ("uint32", "uint64"):
            return f"{x} {sign} {y}"
        wide = unsigned(dtype)
        return f"({kind(dtype)})(({wide}){x} {sign} ({wide}){y})"

    return emit


def negate(dtype: str, x: str) -> str:
    if is_float(dtype):
        return f"-{x}"
    return f"({kind(dtype)})(0 - ({unsigned(dtype)}){x})"


def function(name: str) -> Emit:
    """A function of floats, by its name for double; that for float ends in f."""

    def emit(dtype: str, *operands: str) -> str:
        return f"{name}{'f' if dtype == 'float32' else ''}({', '.join(operands)})"

    return emit


def helper(name: str) -> Emit:
    """A template of `backends.cuda.prelude` whose operands have one type."""

    def emit(dtype: str, *operands: str) -> str:
        return f"{name}<{kind(dtype)}>({', '.join(operands)})"

    return emit


def complement(dtype: str, x: str) -> str:
    return f"!{x}" if dtype == "bool" else f"({kind(dtype)})~{x}"


def divide(dtype: str, x: str, y: str) -> str:
    if is_float(dtype):
        return f"{x} / {y}"
    if dtype in UNSIGNED:
        return f"{y} == 0 ? 0 : {x} / {y}"
    return helper("floor_divide")(dtype, x, y)


def remainder(dtype: str, x: str, y: str) -> str:
    if is_float(dtype):
        return f"signed_remainder({x}, {y})"
    if dtype in UNSIGNED:
        return f"{y} == 0 ? 0 : {x} % {y}"
    return helper("floor_remainder")(dtype, x, y)


def operator(sign: str) -> Emit:
    def emit(dtype: str, x: str, y: str) -> str:
        return f"{x} {sign} {y}"

    return emit


def bitwise(sign: str) -> Emit:
    def emit(dtype: str, x: str, y: str) -> str:
        text = f"{x} {sign} {y}"
        return text if ITEMSIZE[dtype] >= 4 or dtype == "bool" else f"({kind(dtype)})({text})"

    return emit


def shift(left: bool) -> Emit:
    """By the width or more, nothing is left but, of signed integers to the right, the sign."""

    def emit(dtype: str, x: str, y: str) -> str:
        bits, own = 8 * ITEMSIZE[dtype], KINDS[dtype]
        known = re.fullmatch(r"(\d+)u?l*", y)
        if known and int(known[1]) < bits and dtype in ("uint32", "uint64"):
            return f"{x} {'<<' if left else '>>'} {known[1]}"
        count = y if dtype in UNSIGNED else f"({KINDS['u' + dtype]}){y}"
        if left:
            shifted = f"({unsigned(dtype)}){x} << {y}"
            return f"({own})({count} < {bits} ? {shifted} : 0)"
        if dtype in UNSIGNED:
            return f"({own})({count} < {bits} ? {x} >> {y} : 0)"
        return f"({own})({x} >> ({count} < {bits} ? {y} : {bits - 1}))"

    return emit


TEXTS: dict[str, Emit] = {
    "negate": negate,
    "floor": function("floor"),
    "round": function("rint"),
    "exp": function("exp"),
    "log": function("log"),
    "log1p": function("log1p"),
    "expm1": function("expm1"),
    "sin": function("sin"),
    "cos": function("cos"),
    "tanh": function("tanh"),
    "sqrt": function("sqrt"),
    "erf": function("erf"),
    "not": complement,
    "add": arithmetic("+"),
    "sub": arithmetic("-"),
    "mul": arithmetic("*"),
    "div": divide,
    "rem": remainder,
    "pow": function("pow"),
    "atan2": function("atan2"),
    "max": helper("larger"),
    "min": helper("smaller"),
    "and": bitwise("&"),
    "or": bitwise("|"),
    "xor": bitwise("^"),
    "shl": shift(left=True),
    "shr": shift(left=False),
    "eq": operator("=="),
    "lt": operator("<"),
    "le": operator("<="),
}
COMPARISONS = ("eq", "lt", "le")  # whose results are not of the dtype of their operands

# What the results are called where the user has no name for them.
NOUNS = {
    "negate": "negative",
    "floor": "floored",
    "round": "rounded",
    "exp": "exponential",
    "log": "logarithm",
    "log1p": "logarithm",
    "expm1": "exponential",
    "sin": "sine",
    "cos": "cosine",
    "tanh": "tangent",
    "sqrt": "root",
    "erf": "error_function",
    "not": "complement",
    "add": "sum",
    "sub": "difference",
    "mul": "product",
    "div": "ratio",
    "rem": "rest",
    "pow": "power",
    "atan2": "angle",
    "max": "upper",
    "min": "lower",
    "and": "both",
    "or": "either",
    "xor": "differing",
    "shl": "shifted",
    "shr": "shifted",
    "eq": "equal",
    "lt": "less",
    "le": "at_most",
    "select": "chosen",
    "cast": "converted",
    "bitcast": "bits",
}

# What `element` knows.
ELEMENTS = frozenset([*TEXTS, "select", "cast", "bitcast", "constant"])


def combine(name: str, dtype: str, x: str, y: str) -> str:
    """Two partial results of a reduction, of an accumulator's dtype, as one."""
    if dtype == "bool":
        return f"{x} {'|' if name in ('sum', 'max') else '&'} {y}"
    return TEXTS[{"sum": "add", "prod": "mul"}.get(name, name)](dtype, x, y)


def identity(name: str, dtype: str) -> str:
    """What a reduction starts from, in an accumulator's dtype."""
    if name in ("sum", "prod"):
        return literal(dtype, name == "prod")
    if is_float(dtype):
        return literal(dtype, float("-inf") if name == "max" else float("inf"))
    if dtype == "bool":
        return literal(dtype, name == "min")
    limits = np.iinfo(dtype)
    return integer(dtype, int(limits.min if name == "max" else limits.max))
