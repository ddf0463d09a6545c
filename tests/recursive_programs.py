"""Random programs of the representation with recursive functions, for backends.

Each function takes a number of calls that may follow one another, a number and two arrays, and
gives a number and an array; what it does is drawn: which values it makes, keeps in nodes, branches
on, hands to other functions of its group before and after what else, and adds to sums.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from staging.ir import Block, Builder, Literal, Program, Type, Value
from staging.recursion import described

INT = Type("int64")


class Draw:
    """A program while it is drawn.

    Args:
        seed: what it depends on.
        dtype: of the floating-point values.
    """

    def __init__(self, seed: int, dtype: str = "float64") -> None:
        self.random = random.Random(seed)
        self.one, self.row, self.square = Type(dtype), Type(dtype, (3,)), Type(dtype, (3, 3))
        self.args = (INT, self.one, self.row, self.square)
        self.captures = (self.one, self.square, self.row)
        self.sums = (self.one, self.square, self.row)
        self.results = (self.one, self.row)
        self.nested = 0

    def program(self) -> Program:
        """A program with one group, of one to three functions."""
        b = Builder("random.py:1")
        given = [b.param(t) for t in (*self.args, *self.captures)]
        return Program("random", b.block(*self.group(b, given)))

    def inputs(self, fuel: int) -> list[Any]:
        """What such a program is given."""
        rng = np.random.default_rng(self.random.randrange(1 << 30))
        types = (*self.args[1:], *self.captures)
        arrays = [rng.normal(size=t.shape).astype(t.dtype) for t in types]
        return [np.asarray(fuel, np.int64), *map(np.asarray, arrays)]

    def group(self, b: Builder, given: Sequence[Value]) -> tuple[Value, ...]:
        """Write a `recurse`."""
        count = self.random.randint(1, 3)
        functions, blocks = list[Literal](), list[Block]()
        for k in range(count):
            tree, made = self.body((*self.args,), count, "root", 2)
            functions.append((f"f{k}", len(self.args), len(self.results), tree))
            blocks += made
        return b.emit_all(
            "recurse", *given, blocks=tuple(blocks), functions=tuple(functions), entry=0,
            captured=len(self.captures), sums=described(self.sums),
        )  # fmt: skip

    def body(
        self, given: tuple[Type, ...], count: int, kind: str, depth: int
    ) -> tuple[Literal, list[Block]]:
        """A body: the root asks for the number of calls left; a leaf without any makes none."""
        b = Builder("random.py:2")
        values = [b.param(t) for t in (*given, *self.captures)]
        calls = 0 if kind == "bottom" else self.random.choice([0, 1, 1, 2])
        for _ in range(0 if kind == "root" else calls + self.random.randint(1, 3)):
            if calls and self.random.random() < 0.5:
                calls -= 1
                values += self.call(b, values, count)
            else:
                values += self.step(b, values)
        if kind == "root" or (kind == "inner" and depth and self.random.random() < 0.5):
            kinds = ("bottom", "inner") if kind == "root" else ("inner", "inner")
            handed = [values[0], *self.random.sample(values[1:], min(4, len(values) - 1))]
            index = values[0] if kind == "root" else self.index(b, values)
            trees, blocks = list[Literal](), [b.block(index, *handed)]
            for one in kinds:
                tree, made = self.body(tuple(v.type for v in handed), count, one, depth - 1)
                trees.append(tree)
                blocks += made
            return tuple(trees), blocks
        tree, added = self.added(b, values)
        if kind == "inner" and self.random.random() < 0.3:  # in the place of a return
            results = self.call(b, values, count)
        else:
            results = [self.pick(b, values, t) for t in self.results]
        return tree, [b.block(*results, *added)]

    def added(self, b: Builder, values: Sequence[Value]) -> tuple[Literal, list[Value]]:
        """What a leaf adds to sums, among them a row of the square."""
        tree, added = list[int](), list[Value]()
        for k in self.random.sample(range(len(self.sums)), self.random.randint(0, 2)):
            indexed = self.sums[k] == self.square and self.random.random() < 0.5
            tree += [k, int(indexed)]
            added.append(self.pick(b, values, self.row if indexed else self.sums[k]))
            if indexed:
                three = b.emit("constant", value=3, dtype="int64")
                added.append(b.emit("rem", values[0], three))
        return tuple(tree), added

    def call(self, b: Builder, values: Sequence[Value], count: int) -> list[Value]:
        """A call with one less to follow."""
        one = b.emit("constant", value=1, dtype="int64")
        left = b.emit("sub", values[0], one)
        given = [self.pick(b, values, t) for t in self.args[1:]]
        return [*b.emit_all("recur", left, *given, function=self.random.randrange(count),
                            results=described(self.results))]  # fmt: skip

    def pick(self, b: Builder, values: Sequence[Value], type: Type) -> Value:
        """Some value of a type, most often a late one."""
        found = [v for v in values if v.type == type]
        if not found or self.random.random() < 0.1:
            scalar = b.emit("constant", value=self.random.random(), dtype=type.dtype)
            return b.emit("broadcast", scalar, shape=type.shape) if type.shape else scalar
        return self.random.choice(found[-3:] if self.random.random() < 0.7 else found)

    def index(self, b: Builder, values: Sequence[Value]) -> Value:
        """Which of two, by comparing."""
        x, y = (self.pick(b, values, self.one) for _ in range(2))
        return b.emit("cast", b.emit("lt", x, y), dtype="int64")

    def step(self, b: Builder, values: Sequence[Value]) -> list[Value]:
        """One or a few operations."""
        x, y = (self.pick(b, values, self.one) for _ in range(2))
        r, s = (self.pick(b, values, self.row) for _ in range(2))
        m = self.pick(b, values, self.square)
        half = b.emit("constant", value=0.5, dtype=self.one.dtype)
        match self.random.choice(STEPS):
            case "number":
                return [b.emit("mul", b.emit("add", x, b.emit("sin", y)), half)]
            case "row":
                return [b.emit("tanh", b.emit("add", r, b.emit("broadcast", y, shape=(3,))))]
            case "square":
                column = b.emit("reshape", r, shape=(3, 1))
                line = b.emit("reshape", s, shape=(1, 3))
                return [b.emit("matmul", column, line, transpose_x=False, transpose_y=False)]
            case "product":
                column = b.emit("reshape", b.emit("tanh", r), shape=(3, 1))
                made = b.emit("matmul", m, column, transpose_x=True, transpose_y=False)
                return [b.emit("reshape", made, shape=(3,))]
            case "reduce":
                return [b.emit("mul", b.emit("reduce", r, kind="sum", axes=(0,)), half)]
            case "gather":
                three = b.emit("constant", value=3, dtype="int64")
                return [b.emit("gather", s, b.emit("rem", values[0], three))]
            case "node":
                node = b.emit("pack", x, r, values[0], tag=self.random.randint(0, 5))
                outer = b.emit("pack", node, y, tag=7)
                inner, back = b.emit_all("unpack", outer, results=described((node.type, y.type)))
                parts = b.emit_all("unpack", inner, results=described((x.type, r.type, INT)))
                which = b.emit("cast", b.emit("tag", inner), dtype=self.one.dtype)
                return [*parts[:2], back, which]
            case "switch":
                blocks = tuple(self.plain(n, self.one, self.row) for n in ("sin", "negate"))
                return [b.emit("switch", self.index(b, values), x, r, blocks=blocks)]
            case "scan":
                block = self.plain("tanh", self.row, self.one)
                return [b.emit("scan", r, x, blocks=(block,), length=2, carried=1, captured=1,
                               reverse=False)]  # fmt: skip
            case _:
                return self.recursion(b, values)

    def plain(self, name: str, *given: Type) -> Block:
        """A block from a number and an array, in either order, to an array."""
        b = Builder("random.py:3")
        params = [b.param(t) for t in given]
        (number,) = (v for v in params if v.type == self.one)
        (row,) = (v for v in params if v.type == self.row)
        return b.block(b.emit("mul", b.emit(name, row), b.emit("broadcast", number, shape=(3,))))

    def recursion(self, b: Builder, values: Sequence[Value]) -> list[Value]:
        """Another group inside of a function."""
        if self.nested:
            return []
        self.nested += 1
        one = b.emit("constant", value=1, dtype="int64")
        fuel = b.emit("min", values[0], one)
        given = [self.pick(b, values, t) for t in (*self.args[1:], *self.captures)]
        made = self.group(b, [fuel, *given])
        self.nested -= 1
        return [*made]


STEPS = (
    "number", "row", "square", "product", "reduce", "gather", "node", "switch", "scan", "group",
)  # fmt: skip
