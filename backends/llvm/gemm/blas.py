"""Matrix products by the BLAS of the wheel scipy-openblas32, one call in each part of the work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backends.llvm.code import Code
from backends.llvm.gemm.plan import Product

if TYPE_CHECKING:
    from backends.llvm.program import Entry

GEMM = {"float32": ("scipy_cblas_sgemm", "float"), "float64": ("scipy_cblas_dgemm", "double")}
ROW_MAJOR, PLAIN, TRANSPOSED = 101, 111, 112
ALIGNED = 16  # rows or columns of a part, but for the last


def declarations() -> list[str]:
    """The prototypes of the products of BLAS."""
    return [
        f"declare void @{name}(i32, i32, i32, i32, i32, i32, {kind}, ptr, i32, ptr, i32, {kind}, "
        "ptr, i32)"
        for name, kind in GEMM.values()
    ]


def blas(entry: Entry, p: Product, pointers: list[str], threads: int) -> None:
    """Calls of BLAS, divided among threads by products, or by rows or columns of each."""
    name, kind = GEMM[p.dtype]
    batch, m, n, k = p.batch, p.m, p.n, p.k
    turned = [p.turned_a, p.turned_b]
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
    lead_a, lead_b, lead_c = m if turned[0] else max(k, 1), max(k, 1) if turned[1] else n, n
    with code.loop(products) as i:
        at = code.let(f"add i64 {first}, {i}")
        moves = [
            [(top, 1 if turned[0] else lead_a)],
            [(left, lead_b if turned[1] else 1)],
            [(top, lead_c), (left, 1)],
        ]
        places: list[str] = []
        for operand, size in enumerate((m * k, k * n, m * n)):
            step = code.let(f"mul i64 {at}, {size}")
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
