"""Matrix products with what is done to their elements: one `call` of kind "product".

A product's result is written once and read soon by elementwise operations: an activation, a sum
with a residual or with a gradient that is accumulated, a rounding. Inside one `call` a backend
does them where a tile of the result is still in the cache, and the result itself need not exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop, heappush

from staging.fusion import FREE, outlined
from staging.ir import FLOATS, ITEMSIZE, Block, Op, Program, Value
from staging.ops import OPS
from staging.passes.rewrite import Nested, each_block

LONGEST = 32  # operations after a product


def join_products(program: Program) -> Program:
    """The program with each product of matrices and the elementwise operations on its result as one
    `call`, as far as that makes less to be stored.

    Example:
        >>> from staging.text import parse_program
        >>> print(join_products(parse_program('''program @p(%x: float32[2, 2], %y: float32[2, 2]) {
        ...   %1 = matmul(%x, %y) {transpose_x=false, transpose_y=false}: float32[2, 2]
        ...   %2 = tanh(%1): float32[2, 2]
        ...   return (%2)
        ... }''')), end="")
        program @p(%x: float32[2, 2], %y: float32[2, 2]) {
          %6 = call(%x, %y) {kind='product'} block(%x_2: float32[2, 2], %y_3: float32[2, 2]) {
            %4 = matmul(%x_2, %y_3) {transpose_x=false, transpose_y=false}: float32[2, 2]
            %5 = tanh(%4): float32[2, 2]
            return (%5)
          }: float32[2, 2]
          return (%6)
        }
    """
    return program.with_block(each_block(program.block, lambda b, n: _Products(b, n).result()))


@dataclass(slots=True)
class _Product:
    """A product of matrices and what is done to its elements.

    Attributes:
        ops: the `matmul`, and elementwise operations in order.
        views: the reshapes of what they make, up to the last of them.
        alike: what they make, and the reshapes of it.
    """

    ops: list[Op]
    views: list[Op]
    alike: set[Value]


class _Products:
    """The products of one block while they are found."""

    def __init__(self, block: Block, nested: Nested) -> None:
        self.block, self.nested = block, nested
        self.makers = {v: op for op in block.ops for v in op.results}
        self.readers: dict[Value, list[int]] = {}  # the places of the operations that read it
        for i, op in enumerate(block.ops):
            for value in op.inputs:
                self.readers.setdefault(value, []).append(i)
        self.results = set(block.results)
        self.taken: set[Op] = set()

    def result(self) -> Block:
        """The block, each product at the place of the last operation that it takes."""
        calls: dict[Op, list[Op]] = {}
        for op in self.block.ops:
            if op.name == "matmul" and op.results[0].type.dtype in FLOATS:
                product = self.grown(op)
                if len(product.ops) > 1:
                    calls[product.ops[-1]] = self.written(product)
                    self.taken |= {*product.ops, *product.views}
        ops: list[Op] = []
        for op in self.block.ops:
            if op in calls:
                ops += calls[op]
            elif op not in self.taken:
                blocks = (
                    op.blocks if "kind" in op.attributes else tuple(map(self.nested, op.blocks))
                )
                ops.append(Op(op.name, op.inputs, op.results, op.attributes, blocks, op.place))
        return Block(self.block.params, tuple(ops), self.block.results)

    def grown(self, matmul: Op) -> _Product:
        """A product with the operations that it takes: as many as possible, of those for which the
        least is stored."""
        now = _Product([matmul], [], {*matmul.results})
        best, least = 1, self.stored(now)
        reading = list(self.readers.get(matmul.results[0], ()))  # a heap: in order
        last = -1
        while reading:
            i = heappop(reading)
            if i == last:
                continue
            last, op = i, self.block.ops[i]
            if op.name == "reshape":
                now.views.append(op)
            elif self.joins(op, now) and len(now.ops) < LONGEST:
                now.ops.append(op)
            else:
                break
            now.alike.update(op.results)
            for later in self.readers.get(op.results[0], ()):
                heappush(reading, later)
            if op.name != "reshape" and self.stored(now) <= least:
                best, least = len(now.ops), self.stored(now)
        made = {v for op in now.ops[:best] for v in op.results}
        views: list[Op] = []
        for op in now.views:
            if op.inputs[0] in made:
                made.update(op.results)
                views.append(op)
        return _Product(now.ops[:best], views, made)

    def joins(self, op: Op, product: _Product) -> bool:
        """Whether an operation reads the product, and all else, place by place."""
        (matmul, *_) = product.ops
        return (
            op not in self.taken
            and OPS[op.name].elementwise
            and op.results[0].type.size == matmul.results[0].type.size
            and all(v in product.alike or self.plain(v) for v in op.inputs)
        )

    def plain(self, value: Value) -> bool:
        """Whether an operand lies in memory in the order in which it is read, but for what is
        repeated."""
        op = self.makers.get(value)
        if op is None or op.name not in FREE or op.name == "constant":
            return True
        return op.name in ("broadcast", "reshape") and self.plain(op.inputs[0])

    def is_read(self, value: Value, product: _Product) -> bool:
        """Whether other operations read a value, or a reshape of it."""
        readers = [self.block.ops[i] for i in self.readers.get(value, ())]
        return value in self.results or any(
            self.is_read(op.results[0], product) if op.name == "reshape" else op not in product.ops
            for op in readers
        )

    def kept(self, product: _Product) -> list[Value]:
        """The values that others read."""
        return [v for op in product.ops for v in op.results if self.is_read(v, product)]

    def stored(self, product: _Product) -> int:
        """The bytes of an element of each of them."""
        return sum(ITEMSIZE[v.type.dtype] for v in self.kept(product))

    def written(self, product: _Product) -> list[Op]:
        """The `call`, and after it the reshapes that others read."""
        ops: list[Op] = []

        def visit(value: Value) -> None:
            """Copy views and constants: where they are read they cost nothing."""
            op = self.makers.get(value)
            if op is not None and op.name in FREE and op not in ops:
                for v in op.inputs:
                    visit(v)
                ops.append(op)

        for op in product.ops:
            if op.name != "matmul":
                for value in op.inputs:
                    visit(value)
            ops.append(op)
        kept = self.kept(product) or [*product.ops[-1].results]
        call = outlined(ops, kept, {"kind": "product"}, product.ops[-1].place)
        views = [op for op in product.views if self.is_read(op.results[0], product)]
        return [call, *views]
