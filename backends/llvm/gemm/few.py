"""Few rows times a matrix that lies turned: tokens of a batch times weights, queries times keys.

Packing the matrix would take as long as the product. So the product is turned instead: rows of the
matrix, of which each element is read once and where it lies, times the few rows, packed. What
comes out is turned back block by block, and stored or handed on from there.
"""

from __future__ import annotations

import math

from backends.llvm.gemm.function import Define, Function
from backends.llvm.gemm.loops import Finish, Range
from backends.llvm.gemm.micro import Micro
from backends.llvm.gemm.pack import Pack
from backends.llvm.gemm.plan import NARROW, SLIM, TALLEST, Plan, Product, lanes_of, registers, up
from backends.llvm.target import vector_bits

FEW = 64  # rows
BLOCK = 96  # about so many rows of the matrix are computed before they are turned back


def is_few(p: Product) -> bool:
    """Whether a product is one of few rows and a matrix that lies turned.

    Example:
        >>> is_few(Product("float32", 1, 16, 288, 64, turned_b=True))
        True
        >>> is_few(Product("float32", 1, 500, 288, 64, turned_b=True))
        False
    """
    return (
        p.batch == 1 and 1 < p.m <= min(FEW, p.n) and p.turned_b and p.wide == p.dtype and p.k > 0
    )


def plan_few(p: Product, parts: int) -> Plan:
    """How such a product is computed: a tile has some rows of the matrix, and a group of the few,
    which is as wide as leaves registers for several rows."""
    bits = vector_bits()
    lanes = lanes_of(p.wide, bits)
    wanted = -(-p.m // lanes)
    vectors = -(-wanted // -(-wanted // NARROW))
    rows = min(registers(bits) // vectors - 1, TALLEST if vectors > 1 else SLIM)
    share = up(-(-p.n // parts), rows)
    nc = up(min(BLOCK, share), math.lcm(rows, lanes))
    return Plan(rows, vectors, lanes, p.k, p.m, nc, True, False, "n", "n", -(-p.n // share))


class Few:
    """Writes the part of such a product that one thread does; used as `loops.Loops` is.

    Args:
        code: the function that it is written into.
        define: makes the helper functions.
        product, plan: what is computed, and how.
        finish: writes what is done with a block of the result.
    """

    def __init__(
        self, code: Function, define: Define, product: Product, plan: Plan, finish: Finish
    ) -> None:
        self.code, self.define, self.finish = code, define, finish
        self.p, self.plan = product, plan
        self.group = plan.vectors * plan.lanes
        self.width = up(product.m, self.group)
        self.pack = Pack(product.dtype, self.group, plan.lanes, not product.turned_a)
        self.back = Pack(product.wide, plan.nc, plan.lanes, True)

    def work_space(self) -> int:
        """Elements that a part works in: the few rows, packed, and a block as it is computed, and
        turned back."""
        few = self.width // self.group * self.pack.size(self.p.k)
        return few + self.plan.nc * self.width + self.back.size(self.p.m)

    def write(self, part: str, a: str, b: str, c: str, space: str) -> None:
        """Write all that one part does.

        Args:
            part: which part, an ``i64``.
            a, b: where the operands lie.
            c: nothing, as what comes out is finished.
            space: where this part works.
        """
        p, plan, code = self.p, self.plan, self.code
        share = up(-(-p.n // plan.parts), plan.rows)
        start = code.mul(part, share)
        stop = code.least(code.add(start, share), p.n)
        panels: list[str] = []
        for first in range(0, p.m, self.group):
            source = code.shifted(p.dtype, a, first * (1 if p.turned_a else p.k))
            self.pack.call(self.define, code, source=source, step=p.m if p.turned_a else p.k,
                           k=str(p.k), valid=str(p.m - first), to=space)  # fmt: skip
            panels.append(space)
            space = code.shifted(p.wide, space, self.pack.size(p.k))
        block, result = space, code.shifted(p.wide, space, plan.nc * self.width)
        with code.span(start, stop, plan.nc) as n:
            end = code.least(code.add(n, plan.nc), stop)
            with code.span(n, code.sub(end, plan.rows - 1), plan.rows) as i:
                self.tile(i, n, plan.rows, b, panels, block)
            if rest := p.n % plan.rows:  # parts and blocks begin at multiples of a tile's rows
                with code.when(code.let(f"icmp eq i64 {end}, {p.n}")):
                    self.tile(str(p.n - rest), n, rest, b, panels, block)
            self.back.call(self.define, code, source=block, step=self.width, k=str(p.m),
                           valid=code.sub(end, n), to=result)  # fmt: skip
            self.finish(result, "0", Range("0", str(p.m)), Range(n, end))

    def tile(self, i: str, n: str, rows: int, b: str, panels: list[str], block: str) -> None:
        """Some rows of the matrix, from ``i`` on, times the few, into the block from ``n`` on."""
        p, plan, code = self.p, self.plan, self.code
        matrix = code.shifted(p.dtype, b, code.mul(i, p.k))
        to = code.shifted(p.wide, block, code.mul(code.sub(i, n), self.width))
        for number, few in enumerate(panels):  # the rows come from memory once
            micro = Micro(p.wide, rows, plan.vectors, plan.lanes, False, p.k, number == 0)
            micro.call(
                self.define, code, k=str(p.k), a=matrix, a_step=1, b=few, b_step=self.group,
                c=code.shifted(p.wide, to, number * self.group), c_step=self.width,
                columns=self.group, add="false",
            )  # fmt: skip
