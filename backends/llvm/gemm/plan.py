"""What a matrix product is, and how it is cut: the tile, the blocks, and what is packed.

C (M x N) = A (M x K) B (K x N), once for each place along batch axes. A and B lie as they were
written: row-major, or turned, which is row-major for their transposes.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import NamedTuple

from backends.llvm.dtypes import accumulator
from backends.llvm.gemm.table import blas_wins, cell
from backends.llvm.target import vector_bits
from staging.ir import ITEMSIZE, Op, Type

SUMS = 64 * 1024  # of a block that something is done with while it is in the cache
LONGEST = 1024  # steps of the inner axis that are done at once; more are divided
X86 = ("x86_64", "amd64")
DEEP = 4  # how much longer the inner axis is than the others, if it is to be divided
# Lines of a turned A, of which each tile reads a few elements, that stay in the first-level cache
# beside a panel of B: of long ones fewer, as these lie in few places of it.
NEAR, NEARER, FAR = 128, 64, 256
AGAIN = 6  # panels of B for each of which a turned A is read where it lies, rather than packed
MANY = 48  # rows of A from which on it pays to pack B
DIVIDED = 1 << 20  # multiplications from which on threads share a product: 10 to 20 microseconds
RESIDENT = 320 * 1024  # elements of a packed block that shall stay in the second-level cache

TALLEST, WIDEST = 14, 8  # the most rows and vectors of a tile
NARROW = 3  # vectors of a tile that are not too many
SLIM = 8  # the most rows of a tile of one vector: more make it hardly faster, and more code


@dataclass(frozen=True, slots=True)
class Product:
    """Products of matrices, all of one shape.

    Attributes:
        dtype: of the operands: float16, bfloat16, float32 or float64.
        batch: how many products.
        m, n, k: rows and columns of the result, and the length of the inner axis.
        turned_a, turned_b: whether an operand lies as its transpose does.
    """

    dtype: str
    batch: int
    m: int
    n: int
    k: int
    turned_a: bool = False
    turned_b: bool = False

    @property
    def wide(self) -> str:
        """The dtype that is multiplied and accumulated in."""
        return accumulator(self.dtype)

    @property
    def empty(self) -> bool:
        """Whether nothing is multiplied."""
        return 0 in (self.batch, self.m, self.n, self.k)


def product(op: Op) -> Product:
    """What a `matmul` computes."""
    x, out = op.inputs[0].type, op.results[0].type.shape
    turned = [bool(op.attributes[key]) for key in ("transpose_x", "transpose_y")]
    k = x.shape[-2] if turned[0] else x.shape[-1]
    batch = Type("bool", out[:-2]).size
    return Product(x.dtype, batch, out[-2], out[-1], k, turned[0], turned[1])


@dataclass(frozen=True, slots=True)
class Plan:
    """How a product is computed.

    Attributes:
        rows, vectors, lanes: the tile of the micro-kernel.
        kc: steps of the inner axis at once.
        mc, nc: rows of A and columns of B in a block; multiples of the tile.
        pack_a, pack_b: which operands are packed.
        outer: the axis that the outer loop over blocks goes along: ``"m"`` or ``"n"``.
        split: the axis that is divided among parts: ``"batch"``, ``"m"``, ``"n"`` or ``"k"``; in
            the last case, the results of the parts are to be added.
        parts: how many; none is empty.
    """

    rows: int
    vectors: int
    lanes: int
    kc: int
    mc: int
    nc: int
    pack_a: bool
    pack_b: bool
    outer: str
    split: str
    parts: int

    @property
    def columns(self) -> int:
        """The columns of a tile."""
        return self.vectors * self.lanes


def lanes_of(dtype: str, bits: int) -> int:
    """Elements of a vector."""
    return bits // 8 // ITEMSIZE[dtype]


def sizes(p: Product) -> dict[str, int]:
    """How long the axes are."""
    return {"batch": p.batch, "m": p.m, "n": p.n, "k": p.k}


def shares(p: Product, threads: int) -> int:
    """Among how many of some threads a product is divided."""
    return threads if p.batch * p.m * p.n * p.k >= DIVIDED else 1


def divided_axis(p: Product, parts: int) -> str:
    """The axis along which work is divided: so that as little as possible is packed twice. Where
    the inner axis is by far the longest, each part has sums of its own."""
    if p.batch % parts == 0 or p.batch >= 4 * parts:
        return "batch"
    if p.k >= DEEP * max(p.m, p.n):
        return "k"
    return "m" if p.m >= p.n else "n"


def registers(bits: int) -> int:
    """Vectors of a width that a tile and a row of B may take; one is left for an element of A."""
    return 31 if bits == 512 or platform.machine().lower() not in X86 else 15


def tile(p: Product, m: int, n: int, bits: int, split: str = "") -> tuple[int, int]:
    """Rows and vectors of a tile of a part with so many rows and columns: those of the least cost
    that leave registers for a row of B and an element of A. Where an axis is split, the largest
    part has whole tiles of it."""
    wanted = -(-n // lanes_of(p.wide, bits))
    fitting = [
        (rows, vectors)
        for vectors in range(1, min(wanted, WIDEST) + 1)
        for rows in range(1, min(m, registers(bits) // vectors - 1, TALLEST) + 1)
        if vectors > 1 or rows <= SLIM
    ]

    def most(rows: int, vectors: int) -> float:
        """The cost of the largest part."""
        high = up(m, rows) if split == "m" else m
        wide = up(wanted, vectors) if split == "n" else wanted
        return cost(p.k, high, wide, rows, vectors)

    return min(fitting, key=lambda t: (most(*t), -t[0] * t[1]))


def cost(k: int, m: int, wanted: int, rows: int, vectors: int) -> float:
    """About how many cycles so many rows take, which are so many vectors ``wanted``."""

    def one(r: int, v: int) -> float:
        # Two multiplications and two loads a cycle; an accumulator is ready after four. A panel of
        # B that is wide leaves the first-level cache before the next rows read it.
        return k * max(r * v / 2, (r + v) / 2, 4) * (1.1 if v > NARROW else 1) + 2 * r * v + 20

    down = [(rows, m // rows), (m % rows, 1)]
    along = [(vectors, wanted // vectors), (wanted % vectors, 1)]
    return sum(i * j * one(r, v) for r, i in down for v, j in along if r and v)


def up(x: int, unit: int) -> int:
    """The next multiple of a unit."""
    return -(-x // unit) * unit


def plan(p: Product, parts: int = 1, bits: int | None = None, finished: bool = False) -> Plan:
    """How to compute a product that is not empty.

    Args:
        p: the product.
        parts: how many threads shall do it.
        bits: the width of vectors, if not the widest.
        finished: whether blocks of sums are kept until something is done with them.
    """
    bits = bits or vector_bits()
    lanes = lanes_of(p.wide, bits)
    split = divided_axis(p, parts)
    share = {axis: -(-size // parts) if axis == split else size for axis, size in sizes(p).items()}
    rows, vectors = tile(p, share["m"], share["n"], bits, split if parts > 1 else "")
    columns = vectors * lanes
    unit = {"batch": 1, "m": rows, "n": columns, "k": lanes}[split]
    parts = -(-sizes(p)[split] // up(share[split], unit))
    narrow = p.dtype != p.wide
    in_order = rows == 1 and not p.turned_a  # a single row lies as it would be packed
    pack_a = narrow or (p.n > (AGAIN if p.turned_a else 4) * columns and not in_order)
    longest = LONGEST
    if p.turned_a and not pack_a and (p.m >= FAR or p.n > columns):
        longest = NEARER if p.m >= FAR else NEAR
    blocks = -(-share["k"] // longest)
    kc = -(-share["k"] // blocks)
    pack_b = narrow or p.turned_b or p.m >= MANY
    m, n = up(share["m"], rows), up(share["n"], columns)
    outer = "m" if m <= n else "n"
    largest = max(1, RESIDENT // kc)
    mc = min(m, up(largest // (1 if outer == "m" else 4), rows))
    nc = min(n, up(largest // (1 if outer == "n" else 4), columns))
    if finished:
        sums = SUMS if kc == p.k else 4 * SUMS
        if outer == "m":
            mc = min(mc, up(sums // columns, rows))
            nc = min(nc, up(sums // mc, columns))
        else:
            nc = min(nc, up(sums // rows, columns))
            mc = min(mc, up(sums // nc, rows))
    return Plan(rows, vectors, lanes, kc, mc, nc, pack_a, pack_b, outer, split, parts)


def better(p: Product) -> bool:
    """Whether the own kernels are to compute a product, and not BLAS."""
    name = cell(p.turned_a, p.turned_b, p.m, p.n, p.k)
    return p.dtype != p.wide or not blas_wins(name, vector_bits())


class Packed(NamedTuple):
    """The packed form of a matrix: where that lies, what it is, and how it is packed."""

    pointer: str
    dtype: str
    n: int
    k: int
    turned: bool
    width: int


def form(p: Product, cut: Plan, pointer: str) -> Packed:
    """The packed form of B that a product reads, if B lies at a pointer."""
    return Packed(pointer, p.dtype, p.n, p.k, p.turned_b, cut.columns)
