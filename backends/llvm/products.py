"""Matrix products: BLAS for float32 and float64, float16 and bfloat16 through float32, loops for
the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backends.llvm.code import Code
from backends.llvm.dtypes import NARROW, register
from backends.llvm.kernel import Kernel, written
from backends.llvm.moves import size
from backends.llvm.nests import elementwise
from backends.llvm.scalar import combine, compute, identity
from staging.ir import Op, Type, Value

if TYPE_CHECKING:
    from backends.llvm.program import Entry

GEMM = {"float32": ("scipy_cblas_sgemm", "float"), "float64": ("scipy_cblas_dgemm", "double")}
ROW_MAJOR, PLAIN, TRANSPOSED = 101, 111, 112
# A product is divided among threads from this many multiplications on: about 20 microseconds.
DIVIDED = 1 << 21
ALIGNED = 16  # rows or columns of a part, but for the last
SET_THREADS = "scipy_openblas_set_num_threads"


def declarations() -> list[str]:
    """The prototypes of the products of BLAS."""
    return [
        f"declare void @{name}(i32, i32, i32, i32, i32, i32, {kind}, ptr, i32, ptr, i32, {kind}, "
        "ptr, i32)"
        for name, kind in GEMM.values()
    ]


def dimensions(op: Op) -> tuple[int, int, int, int]:
    """How many products, and the rows, columns and inner length of each."""
    x, out = op.inputs[0].type.shape, op.results[0].type.shape
    return size(out[:-2]), out[-2], out[-1], x[-2] if op.attributes["transpose_x"] else x[-1]


def matmul(entry: Entry, op: Op) -> None:
    """Write one product of matrices, or one for each place along the batch axes."""
    dtype = op.inputs[0].type.dtype
    if dtype in GEMM:
        gemm(entry, op, [entry.pointer(v) for v in (*op.inputs, *op.results)])
    elif dtype in NARROW:
        widened(entry, op)
    else:
        entry.run_kernel(op, plain(op))


def gemm(entry: Entry, op: Op, pointers: list[str]) -> None:
    """Calls of BLAS, divided among threads by products, or by rows or columns of each."""
    shapes = [v.type.shape for v in (*op.inputs, *op.results)]
    name, kind = GEMM[op.results[0].type.dtype]
    batch, m, n, k = dimensions(op)
    if 0 in (batch, m, n):
        return
    turned = [bool(op.attributes["transpose_x"]), bool(op.attributes["transpose_y"])]
    worth = batch * m * n * k >= DIVIDED
    threads = entry.module.threads if worth else 1
    product, row, column = 0, 0, 0  # how many of each a part has; 0: all
    if batch % threads == 0 or batch >= 4 * threads:
        product = -(-batch // threads)
        parts = -(-batch // product)
    else:
        length = -(-max(m, n) // threads // ALIGNED) * ALIGNED
        row, column = (length, 0) if m >= n else (0, length)
        parts = -(-max(m, n) // length)
    code = Code()

    def span(count: int, each: int) -> tuple[str, str]:
        """Where a part's range of ``count`` begins, and how long it is."""
        if not each or parts == 1:
            return "0", str(count)
        start = code.let(f"mul i64 %part, {each}")
        rest = code.let(f"sub i64 {count}, {start}")
        return start, code.let(f"call i64 @llvm.umin.i64(i64 {rest}, i64 {each})")

    first, products = span(batch, product)
    (top, rows), (left, columns) = span(m, row), span(n, column)
    lead_a, lead_b, lead_c = (max(1, shape[-1]) for shape in shapes)
    with code.loop(products) as i:
        at = code.let(f"add i64 {first}, {i}")
        moves = [
            [(top, 1 if turned[0] else lead_a)],
            [(left, lead_b if turned[1] else 1)],
            [(top, lead_c), (left, 1)],
        ]
        places: list[str] = []
        for operand, shape in enumerate(shapes):
            step = code.let(f"mul i64 {at}, {size(shape[-2:])}")
            for start, stride in moves[operand]:
                step = code.let(f"add i64 {step}, {code.let(f'mul i64 {start}, {stride}')}")
            places.append(code.let(f"getelementptr {kind}, ptr %a{operand}, i64 {step}"))
        a, b, c = places
        orders = ", ".join(f"i32 {TRANSPOSED if t else PLAIN}" for t in turned)
        high, wide = (code.let(f"trunc i64 {v} to i32") for v in (rows, columns))
        code.do(
            f"call void @{name}(i32 {ROW_MAJOR}, {orders}, i32 {high}, i32 {wide}, i32 {k}, "
            f"{kind} 1.0, ptr {a}, i32 {lead_a}, ptr {b}, i32 {lead_b}, {kind} 0.0, ptr {c}, "
            f"i32 {lead_c})"
        )
    code.do("ret void")
    params = "ptr noalias %a0, ptr noalias %a1, ptr noalias %a2, i64 %part"
    called = entry.function("matmul", "void", params, code.body())
    entry.parallel(called, [f"ptr {p}" for p in pointers], parts)


def widened(entry: Entry, op: Op) -> None:
    """The product of float32 copies, rounded once."""

    def converted(value: Value, dtype: str) -> tuple[Value, Op]:
        result = Value(Type(dtype, value.type.shape))
        return result, Op("cast", (value,), (result,), {"dtype": dtype}, (), op.place)

    wide: list[Value] = []
    for value in op.inputs:
        result, cast = converted(value, "float32")
        entry.allocate(result)
        entry.run_kernel(cast, elementwise((cast,), cast.results))
        wide.append(result)
    (out,) = op.results
    total = Value(Type("float32", out.type.shape))
    entry.allocate(total)
    product = Op("matmul", tuple(wide), (total,), op.attributes, (), op.place)
    gemm(entry, product, [entry.pointer(v) for v in (*wide, total)])
    cast = Op("cast", (total,), (out,), {"dtype": out.type.dtype}, (), op.place)
    entry.run_kernel(cast, elementwise((cast,), cast.results))
    for value in (*wide, total):
        entry.release(value)


def plain(op: Op) -> Kernel:
    """Rows times columns, one element of the result at a time."""
    (x, y), (out,) = op.inputs, op.results
    dtype, kind = x.type.dtype, register(x.type.dtype)
    batch, m, n, k = dimensions(op)

    def write(kernel: Kernel) -> None:
        total = kernel.slot(kind)
        with kernel.axis("b", batch) as b, kernel.axis("m", m) as i, kernel.axis("n", n) as j:
            kernel.do(f"store {kind} {identity('sum', dtype)}, ptr {total}")
            with kernel.axis("k", k) as p:
                row = i + p.scaled(m) if op.attributes["transpose_x"] else i.scaled(k) + p
                column = j.scaled(k) + p if op.attributes["transpose_y"] else p.scaled(n) + j
                left = kernel.pull(x, b.scaled(m * k) + row)
                right = kernel.pull(y, b.scaled(k * n) + column)
                name = "and" if dtype == "bool" else "mul"
                term = compute(kernel, name, dtype, left, right)
                before = kernel.let(f"load {kind}, ptr {total}")
                after = combine(kernel, "sum", dtype, before, term)
                kernel.do(f"store {kind} {after}, ptr {total}")
            element = kernel.let(f"load {kind}, ptr {total}")
            kernel.store(out, b.scaled(m * n) + i.scaled(n) + j, element)

    return written((), write)
