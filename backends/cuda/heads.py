"""What the kernels of attention have in common: sizes, where the parts of a head lie, which keys a
row sees, and lines of tiles.

A block has some rows of a head (or some keys) and goes over tiles of its keys (or of its rows). A
result wider than `WIDE` is cut into chunks, each a block's.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import TypeAlias, cast

from backends.affine import Affine
from backends.cuda.elements import Elements
from backends.cuda.expressions import cast as converted
from backends.cuda.expressions import compute, kind, literal
from backends.cuda.steps import Launch
from backends.cuda.tiles import (
    ALONG,
    DOWN,
    Operand,
    Rows,
    Side,
    Tiles,
    launched,
    one_of,
    parts,
    plus,
    summed,
)
from staging.ir import Op, Value

EDGE = {"float32": 64, "float64": 32}  # rows and keys of a tile, at most, by the dtype of sums
WIDE = {"float32": 128, "float64": 64}  # columns of a result that a block makes, at most
DEPTH = 32  # inner places that are staged at once
Axes: TypeAlias = tuple[tuple[int, ...], ...]
LOCAL = (
    "first_key", "first_row", "row", "key", "seen", "visible", "column", "weights", "weight",
    "score", "less", "level", "average", "upper", "scale", "whole", "top", "total", "sum", "apart",
)  # fmt: skip  # names in kernels


@dataclass(frozen=True, slots=True)
class Attention:
    """The sizes of an attention, and its operands by name.

    Attributes:
        op: the operation.
        b, heads: sequences, and heads of keys in each.
        t, g, s: queries, queries that share a key, and keys of one head.
        d, e: the lengths of queries and keys, and of values.
        causal: whether a query sees no keys behind its own place.
        values: operands and results.
        steps: how far apart neighbours along each axis of an operand or a result lie.
    """

    op: Op
    b: int
    heads: int
    t: int
    g: int
    s: int
    d: int
    e: int
    causal: bool
    values: dict[str, Value]
    steps: dict[str, tuple[int, ...]]

    @classmethod
    def of(cls, op: Op) -> Attention:
        """That of an operation."""
        names = ["q", "k", "v"]
        results = ["out", "sums"]
        if op.attributes["kind"] == "attention_adjoint":
            names, results = [*names, "sums", "dout", "mean"], ["dq", "dk", "dv"]
        names += ["of_q", "of_k"] if op.attributes["segmented"] else []
        names += ["mask"] if len(op.inputs) > len(names) else []
        values = dict(zip((*names, *results), (*op.inputs, *op.results), strict=True))
        turned = cast("Axes", op.attributes.get("turned", ((),) * len(op.inputs)))
        made = cast("Axes", op.attributes.get("made", ((),) * len(op.results)))
        back = [tuple(axes.index(i) for i in range(len(axes))) for axes in made]
        shapes: dict[str, tuple[int, ...]] = {}
        steps: dict[str, tuple[int, ...]] = {}
        for (name, value), axes in zip(values.items(), (*turned, *back), strict=True):
            shape = value.type.shape
            axes = axes or range(len(shape))
            shapes[name] = tuple(shape[i] for i in axes)
            steps[name] = tuple(prod(shape[i + 1 :]) for i in axes)
        b, heads, t, g, d = shapes["q"]
        s, e = shapes["v"][2:]
        return cls(op, b, heads, t, g, s, d, e, bool(op.attributes["causal"]), values, steps)

    @property
    def rows(self) -> int:
        """The queries of one head of keys."""
        return self.t * self.g

    @property
    def sum(self) -> str:
        """The dtype of sums."""
        return summed(self.values["q"].type.dtype)

    def launches(self, kernel: type[HeadKernel], count: int) -> Sequence[Launch]:
        """The launch of a kernel, if its results have elements."""
        return (kernel(self).launch(),) if self.b * self.heads * count else ()


def shifted(text: str, by: int) -> str:
    """A place moved by a number."""
    return f"{text} {'-' if by < 0 else '+'} {abs(by)}" if by else text


def extent(n: int, most: int) -> int:
    """How long a tile is along an axis: a power of two."""
    return min(most, max(ALONG, 1 << (n - 1).bit_length()))


# For each operand and result of a head: of what it has one, and of what length that is.
PARTS = {"q": "rows d", "k": "s d", "v": "s e", "sums": "rows", "mean": "rows", "dout": "rows e",
         "out": "rows e", "dq": "rows d", "dk": "s d", "dv": "s e"}  # fmt: skip


class HeadKernel:
    """One of the kernels of `backends.cuda.attention` while it is written.

    Attributes:
        a: the attention.
        e: where it is written.
        tiles: writes its products.
        names: what points at the part of each operand and result that belongs to the head.
        own, other: how many rows a block has, and how many keys the tiles that it goes over; or
            the other way round.
        wide, made: how many columns of a result a block makes, and all blocks.
        scores, results: the columns of a tile of scores, and of a result.
        first: the first row, or key, of the block.
        column: the first column of what it makes of a result.
    """

    stem: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    along: tuple[str, str] = ("rows", "s")  # what a block has some of, and what it goes over
    cut: tuple[str, ...]  # the results of which each block makes a chunk

    def __init__(self, a: Attention) -> None:
        self.a, self.type = a, kind(a.sum)
        named = Op(str(a.op.attributes["kind"]), a.op.inputs, a.op.results, {}, (), a.op.place)
        self.e = e = Elements((named,), apart=True)
        count, over = (getattr(a, name) for name in self.along)
        width = max(self.length(name) for name in self.cut)
        self.own, self.other = extent(count, EDGE[a.sum]), extent(over, EDGE[a.sum])
        self.wide = extent(width, WIDE[a.sum] // len(self.cut))
        self.tiles = Tiles(e, a.sum, Side.of(DOWN, self.own, a.sum), DEPTH)
        self.scores, self.results = self.tiles.columns(self.other), self.tiles.columns(self.wide)
        for name in LOCAL:
            e.fresh(name)
        self.tiles.shared("left", DEPTH, self.own)
        self.tiles.shared("right", DEPTH, max(self.other, self.wide))
        self.tiles.shared("weights", self.other, self.own)
        self.tiles.thread()
        heads, tiles, chunks = a.b * a.heads, -(-count // self.own), max(1, -(-width // self.wide))
        self.head, tile, chunk = parts(e, head=heads, tile=tiles, chunk=chunks)
        self.first, self.column = tile.scaled(self.own), chunk.scaled(self.wide)
        self.blocks, self.made = heads * tiles * chunks, chunks * self.wide
        self.names = {name: self.part(name) for name in (*self.reads, *self.writes)}
        self.hidden = self.of_visible()

    def length(self, name: str) -> int:
        """The length of a row of an operand or a result."""
        return getattr(self.a, PARTS[name].split()[1])

    # Operands.

    def part(self, name: str) -> str:
        """What points at the head's part of an operand or a result."""
        of_sequence, of_head = self.a.steps[name][:2]
        if of_sequence == self.a.heads * of_head:
            return self.pointer(name, self.head.scaled(of_head))
        sequence, place = self.e.quotient(self.head, self.a.heads)
        return self.pointer(name, sequence.scaled(of_sequence) + place.scaled(of_head))

    def lies(self, name: str) -> Rows:
        """Where the rows or keys of the head begin."""
        steps, wide = self.a.steps[name], self.a.values[name].type.size >= 2**31
        if PARTS[name].startswith("rows"):
            return Rows(self.a.g, steps[2], steps[3], wide)
        return Rows(1, steps[2], steps[2], wide)

    def pointer(self, name: str, offset: Affine) -> str:
        """What points at a part of a value."""
        value = self.a.values[name]
        if value not in self.e.pointers:
            self.e.pointers[value] = self.e.fresh(name)
        if name in self.writes:
            self.e.written(value)
        return one_of(self.e, value, offset)

    def by_place(self, name: str, first: str, tile: int) -> Operand:
        """Rows or keys, to be multiplied along what each consists of."""
        count = getattr(self.a, PARTS[name].split()[0])
        dtype = self.a.values[name].type.dtype
        return Operand(self.names[name], dtype, count, self.length(name), first, turned=True,
                       whole=count % tile == 0, lies=self.lies(name))  # fmt: skip

    def by_column(self, name: str, origin: str) -> Operand:
        """The columns that the block makes, to be multiplied along the rows or keys of a tile."""
        count, length = getattr(self.a, PARTS[name].split()[0]), self.length(name)
        dtype = self.a.values[name].type.dtype
        return Operand(self.names[name], dtype, length, count, self.e.index(self.column),
                       turned=False, whole=length == self.made, origin=origin,
                       lies=self.lies(name))  # fmt: skip

    # What may be seen.

    def of_visible(self) -> list[str]:
        """The conditions under which a query sees a key, besides that there are both."""
        a, e, tests = self.a, self.e, list[str]()
        query = "row" if a.g == 1 else f"row / {a.g}"
        if a.causal:
            tests.append(f"key <= {shifted(query, a.s - a.t)}")
        if "of_q" not in a.values and "mask" not in a.values:
            return tests
        sequence, place = e.quotient(self.head, a.heads)
        if "of_q" in a.values:
            of_q, of_k = (self.pointer(n, sequence.scaled(a.steps[n][0])) for n in ("of_q", "of_k"))
            tests.append(f"{of_q}[{query}] == {of_k}[key]")
        if "mask" in a.values:
            b, heads, t, g, s = a.values["mask"].type.shape
            of_sequence, of_head = (b > 1) * heads * t * g * s, (heads > 1) * t * g * s
            mask = self.pointer("mask", sequence.scaled(of_sequence) + place.scaled(of_head))
            line = "row" if t * g == a.rows else query if t > 1 else f"row % {a.g}"
            wide = "(long long)" if t * g * s >= 2**31 else ""
            terms = [f"{wide}({line}) * {s}"] if t * g > 1 else []
            tests.append(f"{mask}[{' + '.join(terms + ['key'] * (s > 1)) or '0'}]")
        return tests

    def visible(self) -> str:
        """Whether a row sees a key, as a condition; empty where each sees all."""
        a = self.a
        tiles = dict(zip(self.along, (self.own, self.other), strict=True))
        tests = [f"row < {a.rows}"] if a.rows % tiles["rows"] else []
        tests += [f"key < {a.s}"] if a.s % tiles["s"] else []
        return " && ".join(tests + self.hidden)

    def if_visible(self, text: str) -> str:
        """A number where a row sees a key, and 0 elsewhere."""
        return f"visible ? {text} : {self.number(0)}" if self.visible() else text

    @contextmanager
    def every_key(self) -> Generator[None]:
        """A loop over the tiles of the keys that any row of the block sees."""
        a, e, seen = self.a, self.e, str(self.a.s)
        if a.causal:
            last = f"(min({plus(e.index(self.first), str(self.own))}, {a.rows}) - 1)"
            last = last if a.g == 1 else f"{last} / {a.g}"
            e.do(f"const int seen = min({a.s}, {shifted(last, a.s - a.t + 1)});")
            seen = "seen"
        step = self.other
        with e.braces(f"for (int first_key = 0; first_key < {seen}; first_key += {step})"):
            yield

    # Lines.

    def compute(self, name: str, *operands: str) -> str:
        """An element of an operation, in the dtype of sums."""
        return compute(name, self.a.sum, *operands)

    def number(self, value: float) -> str:
        """A number, in the dtype of sums."""
        return literal(self.a.sum, value)

    def place(self, name: str, first: str, side: Side, thread: str, number: str) -> None:
        """Name one of the rows, or keys, of a thread."""
        self.e.do(f"const int {name} = {plus(first, side.place(thread, number))};")

    def own_place(self, name: str) -> None:
        """Name the row or key that is a row of the block's tile."""
        self.place(name, self.e.index(self.first), self.tiles.rows, "down", "i")

    def weigh(self, text: str) -> None:
        """Put a weight into shared memory, where all multiply with it."""
        row, column = self.tiles.rows.place("down", "i"), self.scores.place("along", "j")
        self.e.do(f"weights[{column}][{row}] = {text};")

    def across(self, name: str, combined: str) -> None:
        """Combine what the threads of one row have, ``x`` and ``y`` as a text says."""
        other = f"__shfl_xor_sync(0xffffffffu, {name}, apart)"
        with self.e.braces(f"for (int apart = {ALONG // 2}; apart > 0; apart /= 2)"):
            self.e.do(f"{name} = {combined.format(x=name, y=other)};")

    def store(self, name: str, place: str, text: str) -> None:
        """Write a row or key of a result, as far as this block makes it."""
        dtype, length = self.a.values[name].type.dtype, self.length(name)
        side = self.results.place("along", "j")
        with self.tiles.columns_of_thread(self.results):
            self.e.do(f"const int column = {plus(self.e.index(self.column), side)};")
            test = f"if (column < {length}) " if length != self.made else ""
            element = converted(text, self.a.sum, dtype)
            row = self.lies(name).place(place)
            self.e.do(f"{test}{self.names[name]}[{row} + column] = {element};")

    def launch(self) -> Launch:
        """The kernel, on the operands."""
        self.body()
        return launched(self.e, self.stem, self.blocks)

    def body(self) -> None:
        """Write what comes after the declarations."""
        raise NotImplementedError  # every kernel has its own
