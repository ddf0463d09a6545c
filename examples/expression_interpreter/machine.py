"""The machine: registers, instructions, and the loop that runs them.

An instruction computes one number from two registers and writes it to a third, or jumps if a
register holds zero. A program is four columns of integers and the registers that it starts with:
its constants, among them those that are learnt. It reads its input in register 0.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import lantern as ln

Number = Any  # a float64 without axes


class Code(NamedTuple):
    """Instructions, a column for each of their parts.

    Attributes:
        op: what to do: a place in `ARITHMETIC`, or `JUMP`, or `HALT`.
        left: the register of the first operand; of `HALT`, that of the result.
        right: the register of the second operand.
        target: the register to write; of `JUMP`, the instruction to go on with.
    """

    op: Any
    left: Any
    right: Any
    target: Any


def truth(condition: Any) -> Number:
    """1 or 0."""
    return ln.astype(condition, ln.float64)


ARITHMETIC = {
    "copy": lambda a, b: a,
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "^": lambda a, b: a**b,
    "<": lambda a, b: truth(a < b),
    "<=": lambda a, b: truth(a <= b),
    "==": lambda a, b: truth(a == b),
    "min": ln.minimum,
    "max": ln.maximum,
    "sin": lambda a, b: ln.sin(a),
    "cos": lambda a, b: ln.cos(a),
    "exp": lambda a, b: ln.exp(a),
    "log": lambda a, b: ln.log(a),
    "sqrt": lambda a, b: ln.sqrt(a),
    "abs": lambda a, b: ln.abs(a),
}
JUMP, HALT = len(ARITHMETIC), len(ARITHMETIC) + 1


def run(code: Code, registers: Any) -> Number:
    """What a program returns.

    Args:
        code: its instructions.
        registers: what they hold at the start, float64, shape (registers,).
    """
    at = 0
    while code.op[at] != HALT:
        op, target = code.op[at], code.target[at]
        a, b = registers[code.left[at]], registers[code.right[at]]
        if op == JUMP:
            at = target if a == 0 else at + 1
        else:
            result = ln.switch(op, [*ARITHMETIC.values()], a, b)
            registers = registers.at[target].set(result)
            at = at + 1
    return registers[code.left[at]]
