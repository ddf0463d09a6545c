"""Sums of what the calls of a recursion add: numbers in registers, arrays in place.

The gradient of a matrix is, most often, a sum of outer products, one a call. Each would read and
write the whole sum, so their rows wait side by side until there are enough for one product of
matrices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from backends.llvm.code import variable
from backends.llvm.dtypes import accumulator, literal, loaded, memory, register, stored
from backends.llvm.dtypes import cast as convert
from backends.llvm.kernel import Kernel
from backends.llvm.scalar import combine
from backends.views import VIEWS
from staging.fusion import fuse
from staging.ir import FLOATS, Block, Builder, Op, Program, Type, Value
from staging.memory import plan_block
from staging.passes.common import share_common
from staging.passes.dead import remove_dead
from staging.passes.products import join_products

if TYPE_CHECKING:
    from backends.llvm.program import Entry

ROWS = 32  # that wait for one product
LARGE = 4096  # elements of a sum from which on it pays to wait


class Number:
    """A sum that is a number, wider than its dtype where that is narrow."""

    def __init__(self, entry: Entry, type: Type) -> None:
        self.entry, self.dtype = entry, type.dtype
        self.wide = accumulator(type.dtype)
        self.slot = entry.slot(register(self.wide))
        entry.do(f"store {register(self.wide)} {literal(self.wide, 0)}, ptr {self.slot}")

    def add(self, raw: str) -> None:
        """Add a number as memory holds it."""
        entry, kind = self.entry, register(self.wide)
        value = convert(entry, loaded(entry, self.dtype, raw), self.dtype, self.wide)
        before = entry.let(f"load {kind}, ptr {self.slot}")
        after = combine(entry, "sum", self.wide, before, value)
        entry.do(f"store {kind} {after}, ptr {self.slot}")

    def end(self, to: str) -> None:
        """Write the sum."""
        entry = self.entry
        total = entry.let(f"load {register(self.wide)}, ptr {self.slot}")
        raw = stored(entry, self.dtype, convert(entry, total, self.wide, self.dtype))
        entry.do(f"store {memory(self.dtype)} {raw}, ptr {to}")


class Waiting:
    """The rows of outer products that wait to be added to a sum.

    Args:
        entry: what is written.
        type: of the sum.
        total: where it lies.
    """

    def __init__(self, entry: Entry, type: Type, total: str) -> None:
        self.entry, self.type, self.total = entry, type, total
        self.widths = [Type(type.dtype, (n,)).bytes for n in type.shape]
        self.ranges = [entry.arena.keep(ROWS * width) for width in self.widths]
        self.count = entry.slot("i64")
        entry.do(f"store i64 0, ptr {self.count}")

    def places(self) -> list[str]:
        """Where the next two rows are to be written."""
        count = self.entry.let(f"load i64, ptr {self.count}")
        return [self.entry.offset(self.start(i), count, w) for i, w in enumerate(self.widths)]

    def start(self, i: int) -> str:
        """Where the rows of the left or right factors lie."""
        return self.entry.let(f"getelementptr i8, ptr %arena, i64 <{self.ranges[i].number}>")

    def written(self) -> None:
        """The rows have been written."""
        entry = self.entry
        count = entry.let(f"load i64, ptr {self.count}")
        more = entry.let(f"add i64 {count}, 1")
        entry.do(f"store i64 {more}, ptr {self.count}")
        with entry.when(entry.let(f"icmp eq i64 {more}, {ROWS}")):
            self.multiply()
            entry.do(f"store i64 0, ptr {self.count}")

    def multiply(self) -> None:
        """Add the products of all rows."""
        b = Builder()
        x, y = (b.param(Type(self.type.dtype, (ROWS, n))) for n in self.type.shape)
        total = b.param(self.type)
        made = b.emit("matmul", x, y, transpose_x=True, transpose_y=False)
        block = join_products(Program("sum", b.block(b.emit("add", total, made)))).block
        sources = [self.start(0), self.start(1), self.total]
        self.entry.run_block(block, plan_block(block, {2: (0,)}), sources, [self.total])

    def end(self) -> None:
        """Add what still waits, beside rows of zeros."""
        entry = self.entry
        count = entry.let(f"load i64, ptr {self.count}")
        with entry.when(entry.let(f"icmp ne i64 {count}, 0")):
            left = entry.let(f"sub i64 {ROWS}, {count}")
            for to, width in zip(self.places(), self.widths, strict=True):
                size = entry.let(f"mul i64 {left}, {width}")
                entry.do(f"call void @llvm.memset.p0.i64(ptr {to}, i8 0, i64 {size}, i1 false)")
            self.multiply()


def waits(type: Type) -> bool:
    """Whether outer products wait to be added to a sum of this type."""
    return len(type.shape) == 2 and not type.is_table and type.size >= LARGE and (
        type.dtype in FLOATS
    )  # fmt: skip


class Split(NamedTuple):
    """A block without the outer products that it adds to sums.

    Attributes:
        block: its last parameters and results are sums that are left; its results before these are
            the two factors of each outer product.
        sums: the numbers of those that are left.
        rows: the numbers of the others.
    """

    block: Block
    sums: list[int]
    rows: list[int]


def split(block: Block, sums: Sequence[int], waiting: Mapping[int, Waiting]) -> Split:
    """Take outer products out of a block.

    Args:
        block: its last parameters are sums, its last results the same after it.
        sums: their numbers.
        waiting: those whose outer products wait.
    """
    block = unfused(block)
    makers = {v: op for op in block.ops for v in op.results}
    own = len(block.results) - len(sums)
    first = len(block.params) - len(sums)
    params, results = [*block.params[:first]], [*block.results[:own]]
    rows: list[int] = []
    kept: list[tuple[int, Value, Value]] = []
    for k, before, after in zip(sums, block.params[first:], block.results[own:], strict=True):
        found = outer(makers, before, after) if k in waiting else None
        if found is None:
            kept.append((k, before, after))
        else:
            rows.append(k)
            results += found
    block = Block(
        (*params, *(before for _, before, _ in kept)),
        block.ops,
        (*results, *(after for _, _, after in kept)),
    )
    program = Program("part", block)
    for one in (remove_dead, share_common, join_products, fuse):
        program = one(program)
    return Split(program.block, [k for k, _, _ in kept], rows)


def unfused(block: Block) -> Block:
    """A block with the operations of its loop nests and products in line."""
    ops: list[Op] = []
    new: dict[Value, Value] = {}
    for op in block.ops:
        inputs = tuple(new.get(v, v) for v in op.inputs)
        if "kind" not in op.attributes or op.name != "call":
            ops.append(Op(op.name, inputs, op.results, op.attributes, op.blocks, op.place))
            continue
        (inner,) = op.blocks
        inside = dict(zip(inner.params, inputs, strict=True))
        for one in inner.ops:
            given = tuple(inside[v] for v in one.inputs)
            made = tuple(Value(v.type) for v in one.results)
            inside |= zip(one.results, made, strict=True)
            ops.append(Op(one.name, given, made, one.attributes, one.blocks, one.place))
        new |= {v: inside[w] for v, w in zip(op.results, inner.results, strict=True)}
    return Block(block.params, tuple(ops), tuple(new.get(v, v) for v in block.results))


def outer(makers: Mapping[Value, Op], before: Value, after: Value) -> tuple[Value, Value] | None:
    """The two factors of the outer product that makes one sum of another."""
    total = makers[after]
    if total.name != "add" or total.inputs[0] is not before or total.inputs[1] not in makers:
        return None
    product = makers[total.inputs[1]]
    if product.name == "matmul":
        turned = product.attributes["transpose_x"], product.attributes["transpose_y"]
        x, y = product.inputs
        return (x, y) if turned == (True, False) and x.type.shape[0] == 1 else None
    if product.name != "mul":
        return None
    found = [along(makers, v) for v in product.inputs]
    return next(((x, y) for (x, i), (y, j) in (found, found[::-1]) if (i, j) == (0, 1)), None)


def along(makers: Mapping[Value, Op], value: Value) -> tuple[Value, int]:
    """What a matrix repeats, and along which axis that changes; -1 if along none."""
    m, n = value.type.shape
    i, j = (variable(name, size) for name, size in (("%i", m), ("%j", n)))
    kernel = Kernel((), {})
    position = i.scaled(n) + j
    while value in makers and makers[value].name in (*VIEWS, "reshape"):
        op = makers[value]
        if op.name != "reshape":
            position = kernel.through(VIEWS[op.name](op), position)
        (value,) = op.inputs
    sizes = {i: (0, m), j: (1, n)}
    axis, size = sizes.get(position, (-1, 0))
    return (value, axis) if value.type.size == size else (value, -1)
