"""Packing ahead: a matrix that no step of a loop changes is packed for its products once, before
the loop."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import TYPE_CHECKING

from backends.llvm.dtypes import is_float
from backends.llvm.gemm.function import Function
from backends.llvm.gemm.joined import divided
from backends.llvm.gemm.loops import Loops
from backends.llvm.gemm.plan import Plan, Product, better, form, plan, product, shares, up
from staging.ir import ITEMSIZE, Block, Value
from staging.memory import Range as Taken

if TYPE_CHECKING:
    from backends.llvm.program import Entry

FEW = 128  # rows of A: where there are more, packing takes little of the time anyway
LARGE = 1 << 20  # bytes of a B that no core's own cache holds


@contextmanager
def packed_ahead(entry: Entry, block: Block, fixed: Iterable[tuple[Value, str]]) -> Generator[None]:
    """A context for a loop around a block: it is written behind the packing of what stays.

    Args:
        entry: what is written.
        block: the body.
        fixed: the parameters that no step changes, and where they lie.
    """
    pointers, outer = dict(fixed), entry.packed
    entry.packed = dict(outer)
    ranges: list[Taken] = []
    for p, finished, value in products(block):
        if value in pointers and worthwhile(entry, p):
            cut = plan(p, shares(p, entry.module.threads), finished=finished or p.wide != p.dtype)
            key = form(p, cut, pointers[value])
            if key not in entry.packed and cut.split != "k" and cut.kc == p.k:
                entry.packed[key], taken = packing(entry, p, cut, pointers[value])
                ranges.append(taken)
    yield
    for taken in ranges:
        entry.arena.give(taken)
    entry.packed = outer


def worthwhile(entry: Entry, p: Product) -> bool:
    """Whether own kernels read B faster packed even if that takes no time, and do the product: one
    with a B that is turned they do then, whoever is better otherwise."""
    own = better(p) or not entry.libraries or (p.turned_b and p.m > 1)
    few = p.batch == 1 and p.m <= FEW and (p.turned_b or p.m > 1)
    # One row waits for B to come from memory, in whatever order that lies there.
    waits = p.m == 1 and p.n * p.k * ITEMSIZE[p.wide] > LARGE
    return is_float(p.dtype) and not p.empty and own and few and not waits


def lies_packed(entry: Entry, p: Product, value: Value, finished: bool) -> bool:
    """Whether the B of a product has been packed for it."""
    if not entry.packed or p.empty or not is_float(p.dtype):
        return False
    cut = plan(p, shares(p, entry.module.threads), finished=finished or p.wide != p.dtype)
    return form(p, cut, entry.pointer(value)) in entry.packed


def packing(entry: Entry, p: Product, cut: Plan, pointer: str) -> tuple[str, Taken]:
    """Write the packing of all of B; where to, and the range of the arena."""
    code = Function()
    loops = Loops(code, entry.function, p, cut)
    panels = up(p.n, cut.columns) // cut.columns
    to, taken = entry.take(panels * loops.pack_b.size(p.k) * ITEMSIZE[p.wide])
    loops.pack_all("%b", "%to")
    name = entry.function("pack", "void", "ptr %b, ptr noalias %to", code.ended())
    entry.do(f"call void @{name}(ptr {pointer}, ptr {to})")
    return to, taken


def products(block: Block) -> Generator[tuple[Product, bool, Value]]:
    """The products of a block, whether something is done with their elements, and their B."""
    for op in block.ops:
        if op.name == "matmul":
            yield product(op), False, op.inputs[1]
        elif op.attributes.get("kind") == "product":
            matmul, _ = divided(op.blocks[0])
            outside = dict(zip(op.blocks[0].params, op.inputs, strict=True))
            yield product(matmul), True, outside[matmul.inputs[1]]
