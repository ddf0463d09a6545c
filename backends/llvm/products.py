"""Matrix products: own micro-kernels or BLAS for floats, loops for the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backends.llvm.division import along, count
from backends.llvm.dtypes import is_float, register
from backends.llvm.gemm.blas import GEMM, blas
from backends.llvm.gemm.own import own
from backends.llvm.gemm.plan import Product, better, product
from backends.llvm.kernel import Kernel, written
from backends.llvm.nests import elementwise
from backends.llvm.scalar import combine, compute, identity
from staging.ir import Op, Type, Value

if TYPE_CHECKING:
    from backends.llvm.program import Entry

# A product is divided among threads from this many multiplications on: about 20 microseconds.
DIVIDED = 1 << 21


def matmul(entry: Entry, op: Op) -> None:
    """Write one product of matrices, or one for each place along the batch axes."""
    p = product(op)
    if p.empty or not is_float(p.dtype):
        entry.run_kernel(op, plain(op, entry.module.threads))
    elif p.wide == p.dtype:
        multiplied(entry, p, [entry.pointer(v) for v in (*op.inputs, *op.results)])
    else:
        rounded(entry, op, p)


def multiplied(entry: Entry, p: Product, pointers: list[str]) -> None:
    """A product that is not empty, by whatever is faster."""
    worth = p.batch * p.m * p.n * p.k >= DIVIDED
    way = own if better(p) or p.dtype not in GEMM else blas
    way(entry, p, pointers, entry.module.threads if worth else 1)


def rounded(entry: Entry, op: Op, p: Product) -> None:
    """A product of float16 or bfloat16: summed in float32, rounded once."""
    (out,) = op.results
    total = Value(Type(p.wide, out.type.shape))
    entry.allocate(total)
    multiplied(entry, p, [entry.pointer(v) for v in (*op.inputs, total)])
    cast = Op("cast", (total,), (out,), {"dtype": out.type.dtype}, (), op.place)
    entry.run_kernel(cast, elementwise((cast,), cast.results, entry.module.threads))
    entry.release(total)


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
