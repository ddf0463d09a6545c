"""Matrix products by own micro-kernels: one function of the module, which does a part of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backends.llvm.gemm.function import Function
from backends.llvm.gemm.joined import divided
from backends.llvm.gemm.loops import Loops
from backends.llvm.gemm.plan import Plan, Product, form
from backends.llvm.nests import elementwise
from staging.ir import Block, Builder, Op, Type, Value

if TYPE_CHECKING:
    from backends.llvm.program import Entry

PARAMS = ", ".join([*(f"ptr noalias %{x}" for x in ("a", "b", "c", "space")), "i64 %part"])


def own(entry: Entry, p: Product, pointers: list[str], cut: Plan, grows: bool = False) -> None:
    """Write a product that is not empty.

    Args:
        entry: the program's entry.
        p: the product.
        pointers: where the operands and the result lie; the result is of the dtype ``p.wide``, and
            there is one for each part, side by side, if the inner axis is divided.
        cut: how to compute it.
        grows: whether it is added to what lies there already.
    """
    a, b, c = pointers
    packed = entry.packed.get(form(p, cut, b))
    code = Function()
    loops = Loops(code, entry.function, p, cut, ahead=packed is not None, grows=grows)
    size = loops.work_space()
    space = Value(Type(p.wide, (size * cut.parts,)))
    entry.allocate(space)
    mine = code.shifted(p.wide, "%space", code.mul("%part", size))
    loops.write("%part", "%a", "%b", "%c", mine)
    name = entry.function("matmul", "void", PARAMS, code.ended())
    given = (a, packed or b, c, entry.pointer(space))
    entry.parallel(name, [f"ptr {x}" for x in given], cut.parts)
    entry.release(space)


def summed(entry: Entry, p: Product, block: Block, cut: Plan) -> None:
    """Write a product whose inner axis is divided, and what follows it: the parts' results are
    added in order, while the latter is done."""
    matmul, others = divided(block)
    (out,) = matmul.results
    partial = Value(Type(p.wide, (cut.parts, *out.type.shape)))
    entry.allocate(partial)
    own(entry, p, [entry.pointer(v) for v in (*matmul.inputs, partial)], cut)
    b = Builder(matmul.place)
    rest = (0,) * len(out.type.shape)
    steps = (1,) * len(partial.type.shape)
    sums = [
        b.emit("reshape", b.emit("slice", partial, starts=(i, *rest),
                                 counts=(1, *out.type.shape), steps=steps), shape=out.type.shape)
        for i in range(cut.parts)
    ]  # fmt: skip
    total = sums[0]
    for one in sums[1:]:
        total = b.emit("add", total, one)
    b.emit("cast", total, dtype=p.dtype)
    *before, last = b.ops
    ops = [*before, Op("cast", last.inputs, (out,), last.attributes, (), last.place), *others]
    inputs = (*block.params, partial)
    call = Op("call", inputs, block.results, {}, (), matmul.place)
    entry.run_kernel(call, elementwise(ops, block.results, entry.module.threads))
    entry.release(partial)
