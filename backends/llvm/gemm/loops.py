"""The loops around the micro-kernel: blocks that stay in the caches, packed on the way."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from backends.llvm.gemm.function import Define, Function
from backends.llvm.gemm.micro import Micro
from backends.llvm.gemm.pack import Pack
from backends.llvm.gemm.plan import Plan, Product, sizes, up


@dataclass(frozen=True, slots=True)
class Range:
    """From a start to a stop along an axis, at run time."""

    start: str
    stop: str


@dataclass(frozen=True, slots=True)
class Operand:
    """A or B as the loops see it.

    Attributes:
        dtype: in memory.
        pointer: where it lies.
        line, step: elements from one row of A, or column of B, to the next, and from one step of
            the inner axis to the next.
        pack: how it is packed; None where it is read as it is.
        width: rows or columns of a panel.
        panel: elements of the packed form of a panel.
    """

    dtype: str
    pointer: str
    line: int
    step: int
    pack: Pack | None
    width: int
    panel: int
    packed: str


Finish = Callable[[str, str, Range, Range], None]


class Loops:
    """Writes the part of a product that one thread does.

    Args:
        code: the function that it is written into.
        define: makes the helper functions.
        product, plan: what is computed, and how.
        finish: writes what is done with a block of the result, given where the block and its
            product begin, if the result is not just stored.
        ahead: whether all of B is packed already where B is given (`pack_all`).
        grows: whether the product is added to what lies where the result shall lie.
    """

    def __init__(
        self, code: Function, define: Define, product: Product, plan: Plan,
        finish: Finish | None = None, ahead: bool = False, grows: bool = False,
    ) -> None:  # fmt: skip
        self.code, self.define, self.finish, self.ahead = code, define, finish, ahead
        self.grows = grows
        self.p, self.plan = product, plan
        self.number = "0"  # of the product in its batch
        self.first = "0"  # step of the inner axis
        lanes = plan.lanes
        self.pack_a = Pack(product.dtype, plan.rows, lanes, not product.turned_a)
        self.pack_b = Pack(product.dtype, plan.columns, lanes, product.turned_b)

    def work_space(self) -> int:
        """Elements that a part works in: packed blocks, and sums that are not the result yet."""
        sums = self.plan.mc * self.plan.nc if self.finish else 0
        return up(self.size_a() + self.size_b() + sums, self.plan.lanes)

    def size_a(self) -> int:
        """Elements of the packed block of A."""
        plan = self.plan
        panels = plan.mc // plan.rows
        return panels * self.pack_a.size(plan.kc) if plan.pack_a else 0

    def size_b(self) -> int:
        """Elements of the packed block of B."""
        plan = self.plan
        panels = plan.nc // plan.columns
        return panels * self.pack_b.size(plan.kc) if plan.pack_b and not self.ahead else 0

    def pack_all(self, b: str, to: str) -> None:
        """Write the packing of all of B at once; the inner axis is not divided."""
        p, panel = self.p, self.pack_b.size(self.p.k)
        line, step = self.strides_b()
        whole = Operand(p.dtype, b, line, step, self.pack_b, self.plan.columns, panel, to)
        self.prepared(whole, Range("0", str(p.n)), Range("0", str(p.k)))

    def strides_b(self) -> tuple[int, int]:
        """Elements from one column of B to the next, and from one step of the inner axis."""
        return (self.p.k, 1) if self.p.turned_b else (1, self.p.n)

    def write(self, part: str, a: str, b: str, c: str, space: str) -> None:
        """Write all that one part does.

        Args:
            part: which part, an ``i64``.
            a, b, c: where the operands and the result lie; the result of products that are finished
                lies nowhere, and there is one for each part where the inner axis is divided.
            space: where this part works.
        """
        p, plan, code = self.p, self.plan, self.code
        units = {"batch": 1, "m": plan.rows, "n": plan.columns, "k": plan.lanes}
        ranges = {axis: Range("0", str(size)) for axis, size in sizes(p).items()}
        size, unit = sizes(p)[plan.split], units[plan.split]
        share = up(-(-size // plan.parts), unit)
        start = code.mul(part, share)
        ranges[plan.split] = Range(start, code.least(code.add(start, share), size))
        wide = p.wide
        if plan.split == "k":
            c = code.shifted(wide, c, code.mul(part, p.batch * p.m * p.n))
        with code.span(ranges["batch"].start, ranges["batch"].stop) as i:
            a = code.shifted(p.dtype, a, code.mul(i, p.m * p.k))
            b = code.shifted(p.dtype, b, code.mul(i, p.k * p.n))
            if self.finish:
                self.number, c = i, code.shifted(wide, space, self.size_a() + self.size_b())
            else:
                c = code.shifted(wide, c, code.mul(i, p.m * p.n))
            strides_a = (1, p.m) if p.turned_a else (p.k, 1)
            first = Operand(p.dtype, a, *strides_a, self.pack_a if plan.pack_a else None,
                            plan.rows, self.pack_a.size(plan.kc), space)  # fmt: skip
            panel, width = self.pack_b.size(plan.kc), plan.columns
            if self.ahead:  # from panel to panel is as far as if a column were so long
                second = Operand(wide, b, panel // width, width, None, width, panel, "")
            else:
                second = Operand(p.dtype, b, *self.strides_b(),
                                 self.pack_b if plan.pack_b else None, width, panel,
                                 code.shifted(wide, space, self.size_a()))  # fmt: skip
            self.blocks(first, second, c, ranges["m"], ranges["n"], ranges["k"])

    def blocks(
        self, a: Operand, b: Operand, c: str, rows: Range, columns: Range, inner: Range
    ) -> None:
        """The loops over blocks."""
        plan, self.first = self.plan, inner.start
        if self.finish and plan.kc < self.p.k:  # a block is finished before the next
            with self.block(rows, plan.mc) as m, self.block(columns, plan.nc) as n:
                with self.block(inner, plan.kc) as k:
                    self.tiles(self.prepared(a, m, k), self.prepared(b, n, k), c, m, n, k)
                self.finish(c, self.number, m, n)
        elif plan.outer == "n":
            with self.block(columns, plan.nc) as n, self.block(inner, plan.kc) as k:
                second = self.prepared(b, n, k)
                with self.block(rows, plan.mc) as m:
                    self.tiles(self.prepared(a, m, k), second, c, m, n, k)
                    if self.finish:
                        self.finish(c, self.number, m, n)
        else:
            with self.block(rows, plan.mc) as m, self.block(inner, plan.kc) as k:
                first = self.prepared(a, m, k)
                with self.block(columns, plan.nc) as n:
                    self.tiles(first, self.prepared(b, n, k), c, m, n, k)
                    if self.finish:
                        self.finish(c, self.number, m, n)

    @contextmanager
    def block(self, whole: Range, size: int) -> Generator[Range]:
        """A loop over blocks of a range."""
        code = self.code
        with code.span(whole.start, whole.stop, size) as start:
            yield Range(start, code.least(code.add(start, size), whole.stop))

    def prepared(self, x: Operand, lines: Range, k: Range) -> Operand:
        """An operand's block, packed if it shall be; its pointer is at the block's start."""
        code = self.code
        at = code.add(code.mul(lines.start, x.line), code.mul(k.start, x.step))
        start = code.shifted(x.dtype, x.pointer, at)
        if x.pack is None:
            return Operand(x.dtype, start, x.line, x.step, None, x.width, x.width * x.line, "")
        steps = code.sub(k.stop, k.start)
        # What a panel reads of a line of memory, its neighbour reads the rest of: they take turns.
        turn = "64" if not x.pack.across else steps
        with code.span("0", steps, turn) as s, code.span(lines.start, lines.stop, x.width) as i:
            inside = code.sub(i, lines.start)
            number = code.let(f"sdiv exact i64 {inside}, {x.width}")
            source = code.add(code.mul(inside, x.line), code.mul(s, x.step))
            to = code.add(code.mul(number, x.panel), code.mul(s, x.width))
            x.pack.call(
                self.define, code,
                source=code.shifted(x.dtype, start, source),
                step=max(x.line, x.step), k=code.least(code.sub(steps, s), turn),
                valid=code.sub(lines.stop, i), to=code.shifted(self.p.wide, x.packed, to),
            )  # fmt: skip
        return Operand(self.p.wide, x.packed, 1, x.width, None, x.width, x.panel, "")

    def tiles(self, a: Operand, b: Operand, c: str, m: Range, n: Range, k: Range) -> None:
        """The tiles of a block of the result."""
        p, plan, code = self.p, self.plan, self.code
        steps = code.sub(k.stop, k.start)
        more = "true" if self.grows else code.let(f"icmp ne i64 {k.start}, {self.first}")

        def tile(i: str, j: str, rows: int, columns: int) -> None:
            vectors = -(-columns // plan.lanes)
            micro = Micro(p.wide, rows, vectors, plan.lanes, columns % plan.lanes != 0, a.line)
            sides = []
            for x, at, lines in ((a, i, m), (b, j, n)):
                number = code.let(f"sdiv exact i64 {code.sub(at, lines.start)}, {x.width}")
                sides.append(code.shifted(x.dtype, x.pointer, code.mul(number, x.panel)))
            apart = plan.nc if self.finish else p.n
            if self.finish:
                line, column = code.sub(i, m.start), code.sub(j, n.start)
                place = code.add(code.mul(line, apart), column)
            else:
                place = code.add(code.mul(i, p.n), j)
            micro.call(self.define, code, k=steps, a=sides[0], a_step=a.step, b=sides[1],
                       b_step=b.step, c=code.shifted(p.wide, c, place), c_step=apart,
                       columns=columns, add=more)  # fmt: skip

        def down(j: str, columns: int) -> None:
            with self.whole(m, plan.rows) as i:
                tile(i, j, plan.rows, columns)
            if p.m % plan.rows:
                with self.edge(m, p.m, plan.rows) as i:
                    tile(i, j, p.m % plan.rows, columns)

        if p.n >= plan.columns:
            with self.whole(n, plan.columns) as j:
                down(j, plan.columns)
        if p.n % plan.columns:
            with self.edge(n, p.n, plan.columns) as j:
                down(j, p.n % plan.columns)

    @contextmanager
    def whole(self, span: Range, size: int) -> Generator[str]:
        """A loop over the full tiles along an axis."""
        code = self.code
        with code.span(span.start, code.sub(span.stop, size - 1), size) as i:
            yield i

    @contextmanager
    def edge(self, span: Range, extent: int, size: int) -> Generator[str]:
        """What runs for the tile at the end of an axis that is not full; blocks begin at multiples
        of the tile, so only the last one has it."""
        code = self.code
        with code.when(code.let(f"icmp eq i64 {span.stop}, {extent}")):
            yield str(extent - extent % size)
