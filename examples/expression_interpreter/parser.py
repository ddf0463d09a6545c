"""Text to a tree of statements and expressions.

    program     ::=  statement*
    statement   ::=  "given" name  |  "learn" name "=" number ("," name "=" number)*
                  |  name "=" expression  |  "return" expression
                  |  "if" expression block ("else" block)?  |  "while" expression block
    block       ::=  "{" statement* "}"
    expression  ::=  sum (("<" | "<=" | ">" | ">=" | "==") sum)?
    sum         ::=  product (("+" | "-") product)*
    product     ::=  factor (("*" | "/") factor)*
    factor      ::=  "-" factor  |  atom ("^" factor)?
    atom        ::=  number  |  name  |  name "(" expression ("," expression)* ")"
                  |  "(" expression ")"

A statement ends with its line or its block; ``#`` begins a comment.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn


class ProgramError(ValueError):
    """What is wrong with a program, under the line where it is."""


@dataclass(frozen=True)
class Token:
    """A word of the text, and where it stands."""

    kind: str  # number, name, sign, line or end
    text: str
    line: int
    column: int


@dataclass(frozen=True)
class Number:
    value: float


@dataclass(frozen=True)
class Name:
    token: Token


@dataclass(frozen=True)
class Apply:
    """An operation or a function, and its arguments."""

    token: Token
    arguments: tuple[Expression, ...]


Expression = Number | Name | Apply


@dataclass(frozen=True)
class Given:
    name: Token


@dataclass(frozen=True)
class Learn:
    name: Token
    start: float


@dataclass(frozen=True)
class Assign:
    name: Token
    value: Expression


@dataclass(frozen=True)
class If:
    test: Expression
    then: tuple[Statement, ...]
    otherwise: tuple[Statement, ...]


@dataclass(frozen=True)
class While:
    test: Expression
    body: tuple[Statement, ...]


@dataclass(frozen=True)
class Return:
    value: Expression


Statement = Given | Learn | Assign | If | While | Return

WORDS = re.compile(
    r"(?P<space>[ \t]+|#[^\n]*)|(?P<line>\n)|(?P<number>\d+(\.\d*)?([eE][+-]?\d+)?)"
    r"|(?P<name>[A-Za-z_]\w*)|(?P<sign><=|>=|==|[-+*/^<>=(){},])"
)
KEYWORDS = frozenset(["given", "learn", "if", "else", "while", "return"])
COMPARISONS = ("<", "<=", ">", ">=", "==")


def parse(text: str) -> list[Statement]:
    """The statements of a program.

    Raises:
        ProgramError: the text is none; the message shows where.

    Example:
        >>> parse("return 2")
        [Return(value=Number(value=2.0))]
    """
    parser = Parser(text)
    statements = parser.statements()
    if parser.next.kind != "end":
        parser.fail("expected a statement")
    return [*statements]


def problem(text: str, token: Token, message: str) -> ProgramError:
    """An error at a token."""
    lines = text.splitlines() or [""]
    shown = lines[min(token.line, len(lines)) - 1]
    marker = " " * (token.column - 1) + "^" * max(1, len(token.text.strip()))
    return ProgramError(f"line {token.line}: {message}\n    {shown}\n    {marker}")


def words(text: str) -> list[Token]:
    """The words of a text."""
    found: list[Token] = []
    at, line, start = 0, 1, 0
    while at < len(text):
        match = WORDS.match(text, at)
        if match is None:
            token = Token("sign", text[at], line, at - start + 1)
            raise problem(text, token, f"{text[at]!r} means nothing here")
        kind = match.lastgroup or ""
        if kind != "space":
            found.append(Token(kind, match[0], line, at - start + 1))
        at = match.end()
        if kind == "line":
            line, start = line + 1, at
    last = found[-1] if found else Token("end", "", 1, 1)
    return [*found, Token("end", "", last.line, last.column + len(last.text.rstrip("\n")))]


class Parser:
    """A reader that looks one word ahead."""

    def __init__(self, text: str) -> None:
        self.text, self.words, self.at = text, words(text), 0

    # Words.

    @property
    def next(self) -> Token:
        return self.words[self.at]

    def take(self) -> Token:
        """The next word, which is read now."""
        token = self.next
        self.at += token.kind != "end"
        return token

    def found(self, *texts: str) -> Token | None:
        """The next word, read if it is one of these."""
        return self.take() if self.next.text in texts and self.next.kind != "end" else None

    def expect(self, text: str) -> Token:
        return self.found(text) or self.fail(f"expected {text!r}")

    def name(self) -> Token:
        """A name that is the program's own."""
        if self.next.kind != "name" or self.next.text in KEYWORDS:
            self.fail("expected a name")
        return self.take()

    def fail(self, expected: str) -> NoReturn:
        shown = {"end": "the end", "line": "the end of the line"}.get(self.next.kind)
        raise problem(self.text, self.next, f"{expected}, found {shown or repr(self.next.text)}")

    # Statements.

    def statements(self) -> tuple[Statement, ...]:
        """Statements up to the end of their block, or of the text."""
        found: list[Statement] = []
        while True:
            while self.found("\n"):
                pass
            if self.next.kind == "end" or self.next.text == "}":
                return tuple(found)
            found += self.statement()

    def statement(self) -> list[Statement]:
        made = self.simple()
        if not isinstance(made[-1], (If, While)) and self.next.text not in ("\n", "}", ""):
            self.fail("expected the end of the statement")
        return made

    def simple(self) -> list[Statement]:
        """One statement; of ``learn``, one for each name."""
        if self.found("given"):
            return [Given(self.name())]
        if self.found("learn"):
            learnt = [self.learnt()]
            while self.found(","):
                learnt.append(self.learnt())
            return [*learnt]
        if self.found("return"):
            return [Return(self.expression())]
        if self.found("if"):
            test, then = self.expression(), self.block()
            return [If(test, then, self.block() if self.found("else") else ())]
        if self.found("while"):
            return [While(self.expression(), self.block())]
        name = self.name()
        self.expect("=")
        return [Assign(name, self.expression())]

    def learnt(self) -> Learn:
        name = self.name()
        self.expect("=")
        sign = -1.0 if self.found("-") else 1.0
        if self.next.kind != "number":
            self.fail("expected the number to begin with")
        return Learn(name, sign * float(self.take().text))

    def block(self) -> tuple[Statement, ...]:
        self.expect("{")
        found = self.statements()
        self.expect("}")
        return found

    # Expressions.

    def expression(self) -> Expression:
        left = self.sum()
        if token := self.found(*COMPARISONS):
            return Apply(token, (left, self.sum()))
        return left

    def sum(self) -> Expression:
        left = self.product()
        while token := self.found("+", "-"):
            left = Apply(token, (left, self.product()))
        return left

    def product(self) -> Expression:
        left = self.factor()
        while token := self.found("*", "/"):
            left = Apply(token, (left, self.factor()))
        return left

    def factor(self) -> Expression:
        if token := self.found("-"):
            return Apply(token, (Number(0.0), self.factor()))
        base = self.atom()
        if token := self.found("^"):
            return Apply(token, (base, self.factor()))
        return base

    def atom(self) -> Expression:
        if self.next.kind == "number":
            return Number(float(self.take().text))
        if self.found("("):
            inside = self.expression()
            self.expect(")")
            return inside
        if self.next.kind != "name" or self.next.text in KEYWORDS:
            self.fail("expected a number, a name or '('")
        name = self.take()
        if not self.found("("):
            return Name(name)
        arguments = [self.expression()]
        while self.found(","):
            arguments.append(self.expression())
        self.expect(")")
        return Apply(name, tuple(arguments))
