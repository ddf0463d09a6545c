"""The intermediate representation: typed, immutable SSA with nested, closed blocks.

Grammar of the printed form (`staging.text` prints it and reads it back)::

    program  ::=  shared* "program" "@" name block
    shared   ::=  "block" "@" name block                      held by several operations
    block    ::=  "(" param* ")" "{" line* "return" "(" value* ")" "}"
    param    ::=  value ":" type "donated"?
    line     ::=  value* "=" op "(" value* ")" attributes? nested* ":" type* place?
    nested   ::=  "block" (block | "@" name)
    attributes ::= "{" (key "=" literal)* "}"
    type     ::=  dtype "[" integer* "]"            float32[2, 3], a list [-1], a table [-2]
    value    ::=  "%" name
    literal  ::=  integer | float | "true" | "false" | string | "(" literal* ")"
    place    ::=  "@" string                                  the user's file and line

Items of a ``*`` list are separated by commas. A block is closed: it reads its own parameters and
results only, so what a loop's body needs from outside is passed in as an operand. Several
operations may hold one and the same block: passes keep it one, and it is compiled once. Only
parameters of the program itself are donated. The operations, and the types they take and give, are
the table in `staging.ops`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

Literal: TypeAlias = "int | float | bool | str | tuple[Literal, ...]"
Attributes: TypeAlias = Mapping[str, Literal]

FLOATS = ("float16", "bfloat16", "float32", "float64")
SIGNED = ("int8", "int16", "int32", "int64")
UNSIGNED = ("uint8", "uint16", "uint32", "uint64")
INTEGERS = SIGNED + UNSIGNED
DTYPES = ("bool", *INTEGERS, *FLOATS)
NODE = "node"  # what a call of a recursive function saved (`staging.recursion`): no numbers
ITEMSIZE = {"bool": 1, "bfloat16": 2, NODE: 8} | {
    f"{kind}{bits}": bits // 8
    for kind in ("int", "uint", "float")
    for bits in (8, 16, 32, 64)
    if (kind, bits) != ("float", 8)
}


POINTER = 8  # the bytes of a list where it is a value


class IRError(Exception):
    """A program that breaks the rules of the representation."""


@dataclass(frozen=True, slots=True)
class Type:
    """The type of a value: a dtype and a static shape.

    Where -1 stands in the shape, the value is a list, whose length is known when it runs; or an
    array of lists, with the axes before the -1. In memory a list is a pointer, and so is a node.
    Only loops make and read lists, only recursive functions nodes.

    Where a number below -1 stands first, the value is a table: an array that is as long as the
    parameters say in which that number stands (`staging.lengths`). Few operations take tables.
    """

    dtype: str
    shape: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"

    @property
    def is_list(self) -> bool:
        """Whether it is a list, or an array of lists."""
        return -1 in self.shape

    @property
    def is_table(self) -> bool:
        """Whether it is an array whose length is known when it runs."""
        return bool(self.shape) and self.shape[0] < -1

    @property
    def size(self) -> int:
        """The number of elements, or of lists; of a table, those of a row."""
        size = 1
        for n in self.shape:
            if n == -1:
                break
            size *= n if n >= 0 else 1
        return size

    @property
    def bytes(self) -> int:
        """The memory it takes, in bytes, or a row of a table; what lists hold is not counted."""
        return self.size * (POINTER if self.is_list else ITEMSIZE[self.dtype])


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """A value: the parameter of a block, or a result of one operation. Compared by identity."""

    type: Type
    hint: str = ""

    def __repr__(self) -> str:
        return f"%{self.hint or '?'}: {self.type}"


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """One line of a block."""

    name: str
    inputs: tuple[Value, ...]
    results: tuple[Value, ...]
    attributes: Attributes = field(default_factory=dict[str, Literal])
    blocks: tuple[Block, ...] = ()
    place: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Operations in order, from parameters to results."""

    params: tuple[Value, ...]
    ops: tuple[Op, ...]
    results: tuple[Value, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """A whole program: a named block.

    Attributes:
        donated: the positions of the parameters whose memory the program may write over, and give
            back as that of results.
    """

    name: str
    block: Block
    donated: tuple[int, ...] = ()

    def with_block(self, block: Block) -> Program:
        """The program with another block of the same parameters."""
        return Program(self.name, block, self.donated)

    def __str__(self) -> str:
        from staging.text import print_program  # the printer is written on this module

        return print_program(self)


def walk(block: Block) -> Iterator[Op]:
    """Every operation of a block, those of nested blocks before the one that holds them."""
    for op in block.ops:
        for nested in op.blocks:
            yield from walk(nested)
        yield op


def shared_blocks(block: Block) -> list[Block]:
    """The blocks that several operations in a block hold, each after those that it holds itself."""
    holders: dict[Block, int] = {}

    def visit(block: Block) -> None:
        for op in block.ops:
            for nested in op.blocks:
                if nested not in holders:
                    visit(nested)
                holders[nested] = holders.get(nested, 0) + 1

    visit(block)
    return [b for b, count in holders.items() if count > 1]


class Builder:
    """Writes a block line by line; every line is typed by the table of operations as it is written.

    Example:
        >>> b = Builder()
        >>> x = b.param(Type("float32", (2,)))
        >>> y = b.emit("add", x, x)
        >>> b.block(y).results[0].type
        Type(dtype='float32', shape=(2,))
    """

    def __init__(self, place: str = "") -> None:
        self.params: list[Value] = []
        self.ops: list[Op] = []
        self.place = place

    def param(self, type: Type, hint: str = "") -> Value:
        """A new parameter of the block."""
        value = Value(type, hint)
        self.params.append(value)
        return value

    def write(
        self,
        name: str,
        inputs: tuple[Value, ...],
        attributes: Attributes,
        blocks: tuple[Block, ...] = (),
    ) -> tuple[Value, ...]:
        """Append an operation and return its results.

        Raises:
            IRError: the table has no such operation, or it does not take these inputs.
        """
        from staging.ops import result_types

        types = result_types(name, tuple(v.type for v in inputs), attributes, blocks)
        results = tuple(Value(t) for t in types)
        self.ops.append(Op(name, inputs, results, attributes, blocks, self.place))
        return results

    def emit_all(
        self, name: str, *inputs: Value, blocks: tuple[Block, ...] = (), **attributes: Literal
    ) -> tuple[Value, ...]:
        """`write`, the attributes by keyword."""
        return self.write(name, inputs, attributes, blocks)

    def emit(
        self, name: str, *inputs: Value, blocks: tuple[Block, ...] = (), **attributes: Literal
    ) -> Value:
        """`write` an operation with one result and return that, the attributes by keyword."""
        (result,) = self.write(name, inputs, attributes, blocks)
        return result

    def block(self, *results: Value) -> Block:
        """The block written so far."""
        return Block(tuple(self.params), tuple(self.ops), results)
