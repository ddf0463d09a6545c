"""Programs as text, and text as programs. What is printed reads back to a program that prints the
same.

The grammar stands at the top of `staging.ir`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from staging.ir import Block, IRError, Literal, Op, Program, Type, Value, shared_blocks
from staging.ops import result_types


def print_program(program: Program) -> str:
    """The text of a program: one operation a line, values numbered in order, named where they have
    a hint.

    Example:
        >>> from staging.ir import Builder, Program, Type
        >>> b = Builder()
        >>> x = b.param(Type("float32", (2,)), "x")
        >>> print(print_program(Program("double", b.block(b.emit("add", x, x)))))
        program @double(%x: float32[2]) {
          %0 = add(%x, %x): float32[2]
          return (%0)
        }
    """
    printer = _Printer()
    lines: list[str] = []
    for i, block in enumerate(shared_blocks(program.block)):
        first, *rest = printer.block(block, "")
        lines += [f"block @shared{i}{first}", *rest]
        printer.shared[block] = f"@shared{i}"
    first, *rest = printer.block(program.block, "", program.donated)
    return "\n".join([*lines, f"program @{program.name}{first}", *rest]) + "\n"


class _Printer:
    """Gives names to values as it meets them."""

    def __init__(self) -> None:
        self.names: dict[Value, str] = {}
        self.taken: set[str] = set()
        self.shared: dict[Block, str] = {}

    def name(self, value: Value) -> str:
        if value not in self.names:
            base = re.sub(r"\W", "_", value.hint)
            name = base if base and not base.isdigit() else str(len(self.names))
            while name in self.taken:
                name = f"{base or 'v'}_{len(self.names)}"
            self.taken.add(name)
            self.names[value] = "%" + name
        return self.names[value]

    def block(self, block: Block, indent: str, donated: tuple[int, ...] = ()) -> list[str]:
        params = ", ".join(
            f"{self.name(p)}: {p.type}" + (" donated" if i in donated else "")
            for i, p in enumerate(block.params)
        )
        lines = [f"({params}) {{"]
        for op in block.ops:
            lines += self.op(op, indent + "  ")
        results = ", ".join(map(self.name, block.results))
        return [*lines, f"{indent}  return ({results})", f"{indent}}}"]

    def op(self, op: Op, indent: str) -> list[str]:
        inputs = ", ".join(map(self.name, op.inputs))
        pairs = ", ".join(f"{k}={print_literal(v)}" for k, v in op.attributes.items())
        head = f"{op.name}({inputs})" + (f" {{{pairs}}}" if pairs else "")
        lines = [head]
        for nested in op.blocks:
            if nested in self.shared:
                lines[-1] += f" block {self.shared[nested]}"
                continue
            first, *rest = self.block(nested, indent)
            lines[-1] += " block" + first
            lines += rest
        results = ", ".join(map(self.name, op.results))
        types = ", ".join(str(v.type) for v in op.results)
        lines[0] = f"{indent}{results} = {lines[0]}" if results else f"{indent}{lines[0]}"
        lines[-1] += f": {types}" if types else ""
        lines[-1] += f" @ {print_literal(op.place)}" if op.place else ""
        return lines


def print_literal(value: Literal) -> str:
    """An attribute's value; floats so that they read back to the same bits."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        inner = ", ".join(map(print_literal, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return repr(value)


_TOKEN = re.compile(
    r"""\s*(?P<token>
        %\w+ | @ | \d+ (?=\])
      | "(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*'
      | -?inf | nan | -?\d+(?:\.\d+)?(?:e[+-]?\d+)?
      | \w+ | [(){}\[\],:=]
    )""",
    re.VERBOSE,
)


def parse_program(source: str) -> Program:
    """The program that a text describes.

    Raises:
        IRError: the text does not follow the grammar, or an operation does not type; with the line
        number.
    """
    return _Parser(source).program()


class _Parser:
    """Recursive descent over the tokens of a text."""

    def __init__(self, source: str) -> None:
        self.tokens = list(_tokens(source))
        self.position = 0
        self.shared: dict[str, Block] = {}

    def peek(self) -> str:
        return self.tokens[self.position][0] if self.position < len(self.tokens) else ""

    def next(self) -> str:
        token = self.peek()
        self.position += 1
        return token

    def error(self, message: str) -> IRError:
        line = self.tokens[max(0, min(self.position, len(self.tokens)) - 1)][1]
        return IRError(f"line {line}: {message}")

    def expect(self, token: str) -> None:
        if self.peek() != token:
            raise self.error(f"expected {token!r}, found {self.peek()!r}")
        self.position += 1

    def accept(self, token: str) -> bool:
        if self.peek() == token:
            self.position += 1
            return True
        return False

    def program(self) -> Program:
        while self.accept("block"):
            self.expect("@")
            name = self.next()
            self.shared[name] = self.block()
        self.expect("program")
        self.expect("@")
        name = self.next()
        donated: list[int] = []
        block = self.block(donated)
        if self.peek():
            raise self.error(f"unexpected {self.peek()!r} after the program")
        return Program(name, block, tuple(donated))

    def block(self, donated: list[int] | None = None) -> Block:
        names: dict[str, Value] = {}
        params: list[Value] = []
        self.expect("(")
        while not self.accept(")"):
            name = self.next()
            self.expect(":")
            params.append(self.define(names, name, self.type()))
            if donated is not None and self.accept("donated"):
                donated.append(len(params) - 1)
            self.accept(",")
        self.expect("{")
        ops: list[Op] = []
        while not self.accept("return"):
            ops.append(self.op(names))
        results = self.values(names)
        self.expect("}")
        return Block(tuple(params), tuple(ops), results)

    def nested(self) -> Block:
        if not self.accept("@"):
            return self.block()
        name = self.next()
        if name not in self.shared:
            raise self.error(f"there is no block @{name}")
        return self.shared[name]

    def define(self, names: dict[str, Value], name: str, type: Type) -> Value:
        if name in names:
            raise self.error(f"{name} is defined twice")
        value = Value(type, "" if name[1:].isdigit() else name[1:])
        names[name] = value
        return value

    def op(self, names: dict[str, Value]) -> Op:
        results: list[str] = []
        while self.peek().startswith("%"):
            results.append(self.next())
            self.accept(",")
        if results:
            self.expect("=")
        name = self.next()
        inputs = self.values(names)
        attributes: dict[str, Literal] = {}
        if self.accept("{"):
            while not self.accept("}"):
                key = self.next()
                self.expect("=")
                attributes[key] = self.literal()
                self.accept(",")
        blocks: list[Block] = []
        while self.accept("block"):
            blocks.append(self.nested())
        types: list[Type] = []
        if self.accept(":"):
            types.append(self.type())
            while self.accept(","):
                types.append(self.type())
        place = ""
        if self.accept("@"):
            place = str(self.literal())
        try:
            found = result_types(name, tuple(v.type for v in inputs), attributes, tuple(blocks))
        except IRError as problem:
            raise self.error(str(problem)) from None
        if found != tuple(types) or len(results) != len(types):
            raise self.error(f"{name} gives {', '.join(map(str, found)) or 'nothing'}")
        values = tuple(self.define(names, n, t) for n, t in zip(results, types, strict=True))
        return Op(name, inputs, values, attributes, tuple(blocks), place)

    def values(self, names: dict[str, Value]) -> tuple[Value, ...]:
        self.expect("(")
        values: list[Value] = []
        while not self.accept(")"):
            name = self.next()
            if name not in names:
                raise self.error(f"{name} is not defined in this block")
            values.append(names[name])
            self.accept(",")
        return tuple(values)

    def type(self) -> Type:
        dtype = self.next()
        self.expect("[")
        shape: list[int] = []
        while not self.accept("]"):
            token = self.next()
            of_table = token[:1] == "-" and token[1:].isdigit() and not shape
            if not token.isdigit() and token != "-1" and not of_table:
                raise self.error(f"expected a length, found {token!r}")
            shape.append(int(token))
            self.accept(",")
        return Type(dtype, tuple(shape))

    def literal(self) -> Literal:
        if self.accept("("):
            items: list[Literal] = []
            while not self.accept(")"):
                items.append(self.literal())
                self.accept(",")
            return tuple(items)
        token = self.next()
        if token in ("true", "false"):
            return token == "true"
        if token in ("inf", "-inf", "nan"):
            return float(token)
        try:
            value = ast.literal_eval(token)
        except (ValueError, SyntaxError):
            raise self.error(f"expected a literal, found {token!r}") from None
        if not isinstance(value, (int, float, str)):
            raise self.error(f"expected a literal, found {token!r}")
        return value


def _tokens(source: str) -> Iterator[tuple[str, int]]:
    position, end = 0, len(source.rstrip())
    while position < end:
        match = _TOKEN.match(source, position)
        line = source.count("\n", 0, position) + 1
        if match is None:
            raise IRError(f"line {line}: cannot read {source[position:].split()[0]!r}")
        yield match["token"], source.count("\n", 0, match.start("token")) + 1
        position = match.end()
