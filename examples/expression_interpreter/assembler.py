"""A tree of statements to instructions of the machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from examples.expression_interpreter.machine import ARITHMETIC, HALT, JUMP, Code
from examples.expression_interpreter.parser import (
    Apply,
    Assign,
    Expression,
    Given,
    If,
    Learn,
    Name,
    Number,
    Return,
    Statement,
    Token,
    While,
    parse,
    problem,
)

OPERATIONS = {name: number for number, name in enumerate(ARITHMETIC)}
TURNED = {">": "<", ">=": "<="}  # with the operands exchanged
BINARY = frozenset(["+", "-", "*", "/", "^", "<", "<=", ">", ">=", "==", "min", "max"])
UNARY = frozenset(OPERATIONS) - BINARY - {"copy"}


class Program(NamedTuple):
    """A program, ready to run.

    Attributes:
        code: its instructions.
        registers: what they hold at the start.
        learnt: the register of each constant that is learnt.
    """

    code: Code
    registers: np.ndarray[Any, Any]
    learnt: dict[str, int]


def assemble(text: str) -> Program:
    """The instructions of a program.

    Raises:
        ProgramError: the text is no program; the message shows where.

    Example:
        >>> program = assemble("return 2 + 3")
        >>> program.registers.tolist()
        [0.0, 2.0, 3.0, 0.0]
        >>> [column.tolist() for column in program.code]
        [[1, 18], [1, 3], [2, 0], [3, 0]]
    """
    return Assembler(text).program()


class Assembler:
    """Writes instructions, and gives out registers."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.rows: list[list[int]] = []
        self.registers: list[float] = [0.0]  # the input
        self.variables: dict[str, int] = {}
        self.learnt: dict[str, int] = {}
        self.numbers: dict[float, int] = {}

    def program(self) -> Program:
        statements = parse(self.text)
        self.statements(statements)
        if not self.rows or self.rows[-1][0] != HALT:
            end = Token("end", "", max(1, len(self.text.splitlines())), 1)
            raise problem(self.text, end, "the program ends without a return")
        columns = np.asarray(self.rows, np.int64).T
        code = Code(*(np.ascontiguousarray(column) for column in columns))
        return Program(code, np.asarray(self.registers, np.float64), self.learnt)

    # Registers.

    def register(self, start: float = 0.0) -> int:
        """A register that nothing else uses."""
        self.registers.append(start)
        return len(self.registers) - 1

    def number(self, value: float) -> int:
        """The register of a constant."""
        if value not in self.numbers:
            self.numbers[value] = self.register(value)
        return self.numbers[value]

    def new(self, name: Token) -> str:
        """A name that is given a meaning for all of the program."""
        if name.text in self.variables:
            raise problem(self.text, name, f"{name.text} has a meaning already")
        return name.text

    # Instructions.

    def write(self, op: int, left: int = 0, right: int = 0, target: int = 0) -> list[int]:
        """An instruction; where it jumps to may be filled in later."""
        self.rows.append([op, left, right, target])
        return self.rows[-1]

    def statements(self, statements: Sequence[Statement]) -> None:
        for statement in statements:
            self.statement(statement)

    def statement(self, statement: Statement) -> None:
        match statement:
            case Given(name):
                self.variables[self.new(name)] = 0
            case Learn(name, start):
                place = self.register(start)
                self.variables[self.new(name)] = self.learnt[name.text] = place
            case Assign(name, value):
                self.assign(name, value)
            case Return(value):
                self.write(HALT, self.value(value))
            case If(test, then, otherwise):
                skip = self.write(JUMP, self.value(test))
                self.statements(then)
                leave = self.write(JUMP, self.number(0.0))
                skip[3] = len(self.rows)
                self.statements(otherwise)
                leave[3] = len(self.rows)
            case While(test, body):
                start = len(self.rows)
                leave = self.write(JUMP, self.value(test))
                self.statements(body)
                self.write(JUMP, self.number(0.0), target=start)
                leave[3] = len(self.rows)

    def assign(self, name: Token, value: Expression) -> None:
        if name.text in self.learnt:
            raise problem(self.text, name, f"{name.text} is learnt, so it does not change")
        source = self.value(value)
        if name.text not in self.variables:
            self.variables[name.text] = self.register()
        self.write(OPERATIONS["copy"], source, target=self.variables[name.text])

    def value(self, expression: Expression) -> int:
        """The register that holds a value, behind the instructions that compute it."""
        match expression:
            case Number(value):
                return self.number(value)
            case Name(token):
                if token.text not in self.variables:
                    raise problem(self.text, token, f"{token.text} has no value yet")
                return self.variables[token.text]
            case Apply(token, arguments):
                self.check(token, len(arguments))
                places = [self.value(x) for x in arguments]
                if token.text in TURNED:
                    places.reverse()
                target = self.register()
                op = OPERATIONS[TURNED.get(token.text, token.text)]
                self.write(op, places[0], places[-1], target)
                return target

    def check(self, function: Token, count: int) -> None:
        """Refuse a function that there is not, or not of so many arguments."""
        takes = 2 if function.text in BINARY else 1 if function.text in UNARY else 0
        if not takes:
            known = ", ".join(sorted(f for f in BINARY | UNARY if f.isalpha()))
            raise problem(
                self.text, function, f"there is no function {function.text}; only {known}"
            )
        if takes != count:
            raise problem(self.text, function, f"{function.text} takes {takes}, not {count}")
