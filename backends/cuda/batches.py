"""Products of equal sizes side by side, in one launch of the vendor's library.

What a layer multiplies is often multiplied by several weights, as by those of queries, keys and
values, and on the way back there are as many products for the adjoints. Alone, each leaves some
processors idle, and takes a launch. `batch_products` is a pass: products that do not wait for each
other become one `call` of kind "products", where the first or the last of them stands, if no more
memory is in use at once than before. The block holds them one after another, so what it computes is
what it says. `batch` lowers it: the library finds the matrices by their addresses, wherever they
lie.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from backends.cuda.device import Product
from backends.cuda.products import H100, by_library, product
from backends.cuda.steps import Gemms, Step
from staging.fusion import outlined
from staging.ir import Block, Op, Program, Value
from staging.passes.recompute import with_nested
from staging.passes.rewrite import Nested, each_block
from staging.passes.schedule import Weights, weigh

DTYPES = ("float32", "float64")  # of which CuPy gives the library's function
SHORT = 16  # launches: of what takes longer one is next to nothing
MOST = 64  # products in one launch


def batch_products(program: Program) -> Program:
    """The program with products of equal sizes as one operation each.

    Example:
        >>> from staging.text import parse_program
        >>> print(batch_products(parse_program('''program @p(%x: int8[], %y: float32[2, 2]) {
        ...   %a = matmul(%y, %y) {transpose_x=false, transpose_y=false}: float32[2, 2]
        ...   %b = negate(%x): int8[]
        ...   %c = matmul(%y, %y) {transpose_x=false, transpose_y=false}: float32[2, 2]
        ...   return (%a, %b, %c)
        ... }''')), end="")
        program @p(%x: int8[], %y: float32[2, 2]) {
          %a_5, %c_6 = call(%y) {kind='products'} block(%y_2: float32[2, 2]) {
            %a = matmul(%y_2, %y_2) {transpose_x=false, transpose_y=false}: float32[2, 2]
            %c = matmul(%y_2, %y_2) {transpose_x=false, transpose_y=false}: float32[2, 2]
            return (%a, %c)
          }: float32[2, 2], float32[2, 2]
          %b = negate(%x): int8[]
          return (%a_5, %b, %c_6)
        }
    """
    return program.with_block(each_block(program.block, batched))


def batch(op: Op) -> Sequence[Step]:
    """A `call` of kind "products"."""
    (block,) = op.blocks
    outside = dict(zip(block.params, op.inputs, strict=True))
    xs, ys = (tuple(outside[one.inputs[k]] for one in block.ops) for k in (0, 1))
    p = product(block.ops[0])._replace(batch=len(block.ops))
    return (Gemms(p, xs, ys, op.results),)


def is_short(op: Op) -> bool:
    """Whether an operation is one product that the library computes in little time."""
    if op.name != "matmul" or not op.results[0].type.size:
        return False
    p = product(op)
    if p.batch > 1 or p.dtype not in DTYPES or not p.k:
        return False
    return by_library(p) <= SHORT * H100.start


def batched(block: Block, nested: Nested) -> Block:
    """A block with products of equal sizes as one operation each."""
    ops = [with_nested(op, nested) for op in block.ops]
    views = [op for op in ops if op.name == "reshape"]
    found = _Search(weigh(block, ops), [op for op in ops if op.name != "reshape"])
    return Block(block.params, with_views(block.params, found.result(), views), block.results)


def with_views(params: Iterable[Value], ops: Sequence[Op], views: Iterable[Op]) -> tuple[Op, ...]:
    """Operations with reshapes, each behind what makes its operand."""
    of: dict[Value, list[Op]] = {}
    for view in views:
        of.setdefault(view.inputs[0], []).append(view)
    written: list[Op] = []

    def write(values: Iterable[Value]) -> None:
        for view in (one for v in values for one in of.get(v, ())):
            written.append(view)
            write(view.results)

    write(params)
    for op in ops:
        written.append(op)
        write(op.results)
    return tuple(written)


@dataclass(slots=True)
class Group:
    """Products of equal sizes, none of which reads what another makes.

    Attributes:
        place: of the operation in the place of which they are.
        members: the products.
        read, made: what they read and make, reshapes apart.
    """

    place: int
    members: list[Op] = field(default_factory=list[Op])
    read: set[Value] = field(default_factory=set[Value])
    made: set[Value] = field(default_factory=set[Value])

    def joined(self) -> Op:
        """The one operation."""
        if len(self.members) == 1:
            return self.members[0]
        results = [v for op in self.members for v in op.results]
        return outlined(self.members, results, {"kind": "products"}, self.members[0].place)


class _Search:
    """The products of a block while some are put together.

    Args:
        weights: for each value where it lies, and the bytes that it takes there; nothing where it
            is a parameter or a result of the block.
        ops: the operations but for reshapes, which lie where their operands do.
    """

    def __init__(self, weights: Weights, ops: Sequence[Op]) -> None:
        self.weights, self.ops = weights, ops
        self.maker: dict[Value, int] = {}  # where it is made
        self.last: dict[Value, int] = {}  # where it is read for the last time
        for i, op in enumerate(ops):
            self.maker |= dict.fromkeys(self.roots(op.results), i)
            self.last |= dict.fromkeys(self.roots((*op.inputs, *op.results)), i)
        begun = [0] * (len(ops) + 1)
        for root, i in self.maker.items():
            begun[i] += self.size(root)
            begun[self.last[root] + 1] -= self.size(root)
        self.live = [*accumulate(begun[:-1])]  # bytes in use
        self.most = max(self.live, default=0)
        self.placed: dict[int, Group] = {}

    def roots(self, values: Iterable[Value]) -> set[Value]:
        """Where values lie, each as the first value there."""
        return {self.weights[v][0] for v in values}

    def size(self, root: Value) -> int:
        """The bytes that it takes."""
        return self.weights[root][1]

    def result(self) -> list[Op]:
        """The operations, with those for several products."""
        groups: dict[Product, Group] = {}  # that may take another one
        for i, op in enumerate(self.ops):
            read = self.roots(op.inputs)
            groups = {p: one for p, one in groups.items() if one.made.isdisjoint(read)}
            if not is_short(op):
                continue
            group = groups.get(product(op))
            if group is None or len(group.members) == MOST or not self.joins(group, op, i):
                group = groups[product(op)] = self.placed[i] = Group(i)
            group.members.append(op)
            group.read |= read
            group.made |= self.roots(op.results)
        taken = {op for group in self.placed.values() for op in group.members}
        return [
            self.placed[i].joined() if i in self.placed else op
            for i, op in enumerate(self.ops)
            if i in self.placed or op not in taken
        ]

    def joins(self, group: Group, op: Op, i: int) -> bool:
        """Let a product be done early, in the place of a group, or else the group wait for it, if
        that takes no more memory than there is in use at other times; whether it does."""
        start, made = group.place, self.roots(op.results)
        if all(self.maker.get(root, -1) < start for root in self.roots(op.inputs)):
            live = self.live[start : i + 1]
            for root in made:
                live = added(live, 0, i - start, self.size(root))
            if self.fits(live, start):
                self.maker |= dict.fromkeys(made, start)
                return True
        live = self.live[start : i + 1]
        for root in group.read | group.made:
            live = added(live, self.last[root] + 1 - start, i + 1 - start, self.size(root))
        for root in group.made:
            live = added(live, 0, i - start, -self.size(root))
        if not self.fits(live, start):
            return False
        self.maker |= dict.fromkeys(group.made, i)
        self.last |= {root: max(self.last[root], i) for root in group.read | group.made}
        self.placed[i] = self.placed.pop(start)
        group.place = i
        return True

    def fits(self, live: list[int], start: int) -> bool:
        """Whether so much may be in use from an operation on; it is, then."""
        if max(live) > self.most:
            return False
        self.live[start : start + len(live)] = live
        return True


def added(live: list[int], start: int, end: int, size: int) -> list[int]:
    """Bytes in use, with more of them from one operation to before another one."""
    if not size or start >= end:
        return live
    return [*live[:start], *(n + size for n in live[start:end]), *live[end:]]
