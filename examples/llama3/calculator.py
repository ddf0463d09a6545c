"""Arithmetic written as text, computed: what a language model is bad at, as a tool for it.

The text is parsed as Python, and only numbers, operators and a few functions are understood: names
that are not in a table have no meaning, so nothing else can be reached. Numbers stay below a size,
which is estimated before a power or product is computed: "9**9**9" is refused at once.
"""

from __future__ import annotations

import ast
import math
import operator
import warnings
from collections.abc import Callable

from examples.llama3.files import Problem

Number = int | float
LONGEST = 500  # characters of an expression, and so also how deep it nests
BITS = 4096  # of a whole number

SPELLINGS = str.maketrans(
    {"^": "**", "\N{MULTIPLICATION SIGN}": "*", "\N{DIVISION SIGN}": "/", "\N{MINUS SIGN}": "-"}
)
CONSTANTS: dict[str, Number] = {"pi": math.pi, "e": math.e}
FUNCTIONS: dict[str, Callable[..., Number]] = {
    "sqrt": math.sqrt, "exp": math.exp, "log": math.log, "log2": math.log2, "log10": math.log10,
    "sin": math.sin, "cos": math.cos, "tan": math.tan, "asin": math.asin, "acos": math.acos,
    "atan": math.atan, "radians": math.radians, "degrees": math.degrees, "abs": lambda x: abs(x),
    "floor": math.floor, "ceil": math.ceil, "round": lambda x: round(x), "min": min, "max": max,
    "gcd": math.gcd, "lcm": lambda a, b: math.lcm(a, b),
}  # fmt: skip
SIGNS: dict[type[ast.unaryop], Callable[[Number], Number]] = {
    ast.UAdd: operator.pos, ast.USub: operator.neg,
}  # fmt: skip


def power(base: Number, exponent: Number) -> Number:
    """The power, if its size allows it and it is a real number."""
    if isinstance(base, int) and isinstance(exponent, int) and abs(base) > 1 and exponent > 0:
        sized(base.bit_length() * exponent)
    value = base**exponent
    if isinstance(value, complex):
        raise Problem(f"{shown(base)} to the power {shown(exponent)} is not a real number")
    return value


OPERATORS: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: power,
}  # fmt: skip


def calculate(expression: str) -> str:
    """The value of an arithmetic expression.

    Args:
        expression: numbers, ``+ - * / // % ** ( )``, and functions such as ``sqrt``.

    Raises:
        Problem: it is none, or its value is undefined or too large; the message says what is wrong.

    Example:
        >>> calculate("(2 + 3) * 4^2"), calculate("0.1 + 0.2"), calculate("sqrt(2) / 7")
        ('80', '0.3', '0.20203050891')
        >>> calculate("9**9**9")
        Traceback (most recent call last):
            ...
        examples.llama3.files.Problem: a number on the way has more than 4096 bits
    """
    if len(expression) > LONGEST:
        raise Problem(f"the expression has {len(expression)} characters; {LONGEST} are allowed")
    try:
        with warnings.catch_warnings():  # Python's advice on what it parses is for programmers
            warnings.simplefilter("ignore")
            tree = ast.parse(expression.strip().translate(SPELLINGS), mode="eval")
        return shown(value(tree.body))
    except (SyntaxError, ValueError) as problem:
        reason = problem.msg if isinstance(problem, SyntaxError) else problem
        raise Problem(f"{expression!r:.80} cannot be computed: {reason}") from None
    except (ArithmeticError, TypeError) as problem:  # 1/0, exp(10**6), sqrt(1, 2)
        raise Problem(f"{expression!r:.80} cannot be computed: {problem}") from None
    except (RecursionError, MemoryError):
        raise Problem("the expression is nested too deeply") from None


def value(node: ast.expr) -> Number:
    """The value of a part of an expression."""
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return checked(number)
        case ast.Name(id=name) if name in CONSTANTS:
            return CONSTANTS[name]
        case ast.UnaryOp(op=op, operand=operand) if type(op) in SIGNS:
            return SIGNS[type(op)](value(operand))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return checked(OPERATORS[type(op)](value(left), value(right)))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
            return checked(FUNCTIONS[name](*map(value, args)))
    known = ", ".join((*CONSTANTS, *FUNCTIONS))
    raise Problem(f"{ast.unparse(node)!r:.80} is no arithmetic; known are numbers, {known}")


def checked(number: Number) -> Number:
    """A number, if it is finite and not too large.

    Raises:
        Problem: it is not.
    """
    if isinstance(number, int):
        sized(number.bit_length())
    elif not math.isfinite(number):
        raise Problem(f"a number on the way is {number}")
    return number


def sized(bits: int) -> None:
    """Refuse whole numbers that are too large, before they are made where that takes long."""
    if bits > BITS:
        raise Problem(f"a number on the way has more than {BITS} bits")


def shown(number: Number) -> str:
    """A number as a person writes it: whole ones exactly, others to twelve digits."""
    return str(number) if isinstance(number, int) else f"{number:.12g}"
