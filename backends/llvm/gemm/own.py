"""Matrix products by own micro-kernels: one function of the module, which does a part of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backends.llvm.gemm.function import Function
from backends.llvm.gemm.loops import Loops
from backends.llvm.gemm.plan import Plan, Product, plan
from staging.ir import Type, Value

if TYPE_CHECKING:
    from backends.llvm.program import Entry

PARAMS = ", ".join([*(f"ptr noalias %{x}" for x in ("a", "b", "c", "space")), "i64 %part"])


def own(
    entry: Entry, p: Product, pointers: list[str], threads: int, cut: Plan | None = None
) -> None:
    """Write a product that is not empty, divided among threads.

    Args:
        entry: the program's entry.
        p: the product.
        pointers: where the operands and the result lie; the result is of the dtype ``p.wide``.
        threads: how many.
        cut: how to compute it, if not as `plan` says.
    """
    cut = cut or plan(p, threads)
    code = Function()
    loops = Loops(code, entry.function, p, cut)
    size = loops.work_space()
    space = Value(Type(p.wide, (size * cut.parts,)))
    entry.allocate(space)
    mine = code.shifted(p.wide, "%space", code.mul("%part", size))
    loops.write("%part", "%a", "%b", "%c", mine)
    name = entry.function("matmul", "void", PARAMS, code.ended())
    entry.parallel(name, [f"ptr {x}" for x in (*pointers, entry.pointer(space))], cut.parts)
    entry.release(space)
