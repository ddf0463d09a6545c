"""Matrix products: own micro-kernels or BLAS for floats, loops for the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backends.llvm.division import along, count
from backends.llvm.dtypes import is_float, register
from backends.llvm.gemm.ahead import lies_packed
from backends.llvm.gemm.blas import blas
from backends.llvm.gemm.few import is_few, plan_few
from backends.llvm.gemm.joined import divided, joined
from backends.llvm.gemm.own import own, summed
from backends.llvm.gemm.plan import Product, better, plan, product, shares
from backends.llvm.kernel import Kernel, written
from backends.llvm.nests import elementwise, reduction
from backends.llvm.scalar import combine, compute, identity
from staging.ir import Block, Op, Type, Value

if TYPE_CHECKING:
    from backends.llvm.program import Entry


def matmul(entry: Entry, op: Op) -> None:
    """Write one product of matrices, or one for each place along the batch axes."""
    p = product(op)
    if p.empty or not is_float(p.dtype):
        entry.run_kernel(op, plain(op, entry.module.threads))
    elif by_rows(p):
        entry.run_kernel(op, dots(op, entry.module.threads))
    elif by_own(entry, p, op.inputs[1], finished=False):
        multiplied(entry, p, Block(op.inputs, (op,), op.results))
    else:
        pointers = [entry.pointer(v) for v in (*op.inputs, *op.results)]
        blas(entry, p, pointers, shares(p, entry.module.threads))


def by_own(entry: Entry, p: Product, b: Value, finished: bool) -> bool:
    """Whether own kernels do a product, and not BLAS."""
    own = is_few(p) or better(p) or not entry.libraries
    return own or lies_packed(entry, p, b, finished)


def multiplied(entry: Entry, p: Product, block: Block) -> None:
    """A product by own kernels, and what follows it."""
    matmul, _ = divided(block)
    if is_few(p) and not lies_packed(entry, p, matmul.inputs[1], finished=True):
        joined(entry, p, block, plan_few(p, shares(p, entry.module.threads)), few=True)
        return
    grows = is_sum(entry, p, block)
    finished = (len(block.ops) > 1 or p.wide != p.dtype) and not grows
    cut = plan(p, shares(p, entry.module.threads), finished=finished)
    if grows and cut.split != "k":
        own(entry, p, [entry.pointer(v) for v in (*matmul.inputs, *block.results)], cut, grows=True)
    elif cut.split == "k":
        summed(entry, p, block, cut)
    elif finished:
        joined(entry, p, block, cut)
    else:
        own(entry, p, [entry.pointer(v) for v in (*block.params, *block.results)], cut)


def is_sum(entry: Entry, p: Product, block: Block) -> bool:
    """Whether all that follows a product is that it is added to a sum, where that lies."""
    if len(block.ops) != 2 or len(block.results) != 1 or p.wide != p.dtype:
        return False
    matmul, (last,) = divided(block)
    if last.name != "add" or last.inputs[0] is last.inputs[1]:
        return False
    (total,) = (v for v in last.inputs if v is not matmul.results[0])
    place = entry.pointer(block.results[0])
    return entry.pointer(total) == place and place not in map(entry.pointer, matmul.inputs)


def followed(entry: Entry, op: Op, block: Block) -> None:
    """Write a `call` of kind "product"; the values of its block lie where those of the call do.
    What is better done by other kernels is done one after the other."""
    first, others = divided(block)
    p = product(first)
    own = (
        is_few(p)
        or better(p)
        or not entry.libraries
        or lies_packed(entry, p, first.inputs[1], finished=True)
    )
    if own and not (p.empty or by_rows(p)):
        multiplied(entry, p, block)
        return
    (value,) = first.results
    if value not in block.results:
        entry.allocate(value)
    matmul(entry, first)
    results = tuple(v for v in block.results if v is not value)
    rest = Op(op.name, (*op.inputs, value), results, op.attributes, (), op.place)
    entry.run_kernel(rest, elementwise(others, results, entry.module.threads))
    if value not in block.results:
        entry.release(value)


def by_rows(p: Product) -> bool:
    """Whether a matrix that lies row by row is multiplied by a column: each row is read once."""
    one = (p.m == 1 and p.turned_b) or (p.n == 1 and not p.turned_a)
    return one and p.batch == 1 and p.wide == p.dtype and not p.empty


def dots(op: Op, threads: int) -> Kernel:
    """The products of a matrix's rows with one row."""
    p = product(op)
    vector, matrix = op.inputs if p.m == 1 and p.turned_b else op.inputs[::-1]
    rows = Type(p.dtype, (max(p.m, p.n), p.k))
    flat, spread, products = Value(Type(p.dtype, (p.k,))), Value(rows), Value(rows)
    ops = [
        Op("reshape", (vector,), (flat,)),
        Op("broadcast", (flat,), (spread,)),
        Op("mul", (matrix, spread), (products,)),
    ]
    return reduction(ops, Op("reduce", (products,), op.results, {"kind": "sum", "axes": (1,)}),
                     threads)  # fmt: skip


def plain(op: Op, threads: int) -> Kernel:
    """Rows times columns, one element of the result at a time."""
    (x, y), (out,) = op.inputs, op.results
    dtype, kind = x.type.dtype, register(x.type.dtype)
    p = product(op)
    batch, m, n, k = p.batch, p.m, p.n, p.k

    def write(kernel: Kernel) -> None:
        total = kernel.slot(kind)
        with kernel.axis("b", batch) as b, kernel.axis("m", m) as i, kernel.axis("n", n) as j:
            kernel.do(f"store {kind} {identity('sum', dtype)}, ptr {total}")
            with kernel.axis("k", k) as s:
                row = i + s.scaled(m) if p.turned_a else i.scaled(k) + s
                column = j.scaled(k) + s if p.turned_b else s.scaled(n) + j
                left = kernel.pull(x, b.scaled(m * k) + row)
                right = kernel.pull(y, b.scaled(k * n) + column)
                name = "and" if dtype == "bool" else "mul"
                term = compute(kernel, name, dtype, left, right)
                before = kernel.let(f"load {kind}, ptr {total}")
                after = combine(kernel, "sum", dtype, before, term)
                kernel.do(f"store {kind} {after}, ptr {total}")
            element = kernel.let(f"load {kind}, ptr {total}")
            kernel.store(out, b.scaled(m * n) + i.scaled(n) + j, element)

    extent, axis = max((batch, "b"), (m, "m"))
    return written((), write, along(axis, count(batch * m * n * k, extent, threads)))
