"""A `call` of kind "product": a product of matrices, and elementwise operations on its result.

The product is summed in a block that stays in the cache, and what follows is done on that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backends.llvm.code import variable
from backends.llvm.dtypes import register, rounded
from backends.llvm.gemm.few import Few
from backends.llvm.gemm.function import Define, Function
from backends.llvm.gemm.loops import Loops, Range
from backends.llvm.gemm.plan import Plan, Product, form
from backends.llvm.kernel import Kernel
from staging.ir import Block, Op, Type, Value

if TYPE_CHECKING:
    from backends.llvm.program import Entry


HEAD = "ptr noalias %sums, i64 %b, i64 %m, i64 %m.end, i64 %n, i64 %n.end"


class Epilogue(Kernel, Function):
    """The function that does what follows a product, on a block of its sums.

    Args:
        p: the product.
        apart: elements from one row of the block to the next.
        block: the product, what follows it, and which of that is stored.

    Attributes:
        buffers: what it reads and writes beside the sums: its last parameters.
    """

    def __init__(self, p: Product, apart: int, block: Block) -> None:
        matmul, others = divided(block)
        super().__init__(others, {})
        kind = register(p.wide)
        with self.span("%m", "%m.end") as i, self.span("%n", "%n.end") as j:
            row = variable("%b", p.batch).scaled(p.m) + variable(i, p.m)
            position = row.scaled(p.n) + variable(j, p.n)
            line = self.mul(self.sub(i, "%m"), apart)
            at = self.shifted(p.wide, "%sums", self.add(line, self.sub(j, "%n")))
            total = self.let(f"load {kind}, ptr {at}")
            self.memo[matmul.results[0], position] = rounded(self, p.dtype, total)
            # A result may lie where an operand does, which is read first.
            elements = [self.pull(result, position) for result in block.results]
            for result, element in zip(block.results, elements, strict=True):
                self.store(result, position, element)

    def defined(self, define: Define) -> str:
        """The name of the function."""
        params = [HEAD, *(f"ptr noalias %a{i}" for i in range(len(self.buffers)))]
        return define("epilogue", "void", ", ".join(params), self.ended())


def divided(block: Block) -> tuple[Op, list[Op]]:
    """The product, and the other operations."""
    (matmul,) = (op for op in block.ops if op.name == "matmul")
    return matmul, [op for op in block.ops if op is not matmul]


def joined(entry: Entry, p: Product, block: Block, cut: Plan, few: bool = False) -> None:
    """Write a product that is not empty and what follows it; ``few``: as `gemm.few` does it."""
    matmul, _ = divided(block)
    epilogue = Epilogue(p, cut.nc, block)
    read = {entry.pointer(v): v for v in reversed(block.params)}
    for value in block.results:
        if entry.pointer(value) in read:
            epilogue.unite(read[entry.pointer(value)], value)
    name = epilogue.defined(entry.function)
    buffers = [f"ptr %a{i}" for i in range(len(epilogue.buffers))]
    code = Function()

    def finish(sums: str, number: str, m: Range, n: Range) -> None:
        sizes = (number, m.start, m.stop, n.start, n.stop)
        words = [f"ptr {sums}", *(f"i64 {x}" for x in sizes), *buffers]
        code.do(f"call void @{name}({', '.join(words)})")

    a, b = map(entry.pointer, matmul.inputs)
    packed = None if few else entry.packed.get(form(p, cut, b))
    if few:
        loops = Few(code, entry.function, p, cut, finish)
    else:
        loops = Loops(code, entry.function, p, cut, finish, ahead=packed is not None)
    size = loops.work_space()
    space = Value(Type(p.wide, (size * cut.parts,)))
    entry.allocate(space)
    mine = code.shifted(p.wide, "%space", code.mul("%part", size))
    loops.write("%part", "%a", "%b", "", mine)
    # What is written over an operand of what follows may not be promised to lie alone.
    params = ", ".join(["ptr %a, ptr %b, ptr %space", *buffers, "i64 %part"])
    part = entry.function("product", "void", params, code.ended())
    given = [a, packed or b, *map(entry.pointer, (space, *epilogue.buffers))]
    entry.parallel(part, [f"ptr {pointer}" for pointer in given], cut.parts)
    entry.release(space)
