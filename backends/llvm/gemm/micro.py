"""The micro-kernel: a tile of the result, held in registers, over all of the inner axis.

Each step of the inner axis loads a few vectors of a row of B, and for each row of the tile one
element of A, which is multiplied into all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from backends.llvm.dtypes import register
from backends.llvm.gemm.function import SHORT, Define, Function


@dataclass(frozen=True, slots=True)
class Micro:
    """A micro-kernel.

    Attributes:
        dtype: of the operands and of the result: float32 or float64.
        rows, vectors, lanes: the size of the tile: ``rows`` times ``vectors * lanes``.
        ragged: whether the last vector is not full: neither B nor C is touched outside of it.
        apart: elements from one row of A to the next.
        streams: whether A, not packed, comes from memory: what lies behind its rows, as much as
            they are, is then fetched for the next tile.
    """

    dtype: str
    rows: int
    vectors: int
    lanes: int
    ragged: bool = False
    apart: int = 1
    streams: bool = False

    def call(
        self, define: Define, code: Function, k: str, a: str, a_step: int | str, b: str,
        b_step: int | str, c: str, c_step: int | str, columns: int, add: str,
    ) -> None:  # fmt: skip
        """C = A B, or C += A B where ``add`` holds.

        Args:
            define: makes the function.
            code: where the call is written.
            k: the length of the inner axis.
            a, a_step: where A starts, and elements from one step of the inner axis to the next.
            b, b_step: the same of B; elements of a row lie side by side.
            c, c_step: where C starts, and elements from one row to the next.
            columns: the columns of the tile; the ragged part of them is in the last vector.
            add: an ``i1``.
        """
        name = define("tile", "void", PARAMS, body(self))
        last = columns - (self.vectors - 1) * self.lanes
        code.do(
            f"call void @{name}(i64 {k}, ptr {a}, i64 {a_step}, ptr {b}, i64 {b_step}, "
            f"ptr {c}, i64 {c_step}, i64 {last}, i1 {add})"
        )


PARAMS = (
    "i64 %k, ptr readonly %a, i64 %a_step, ptr readonly %b, i64 %b_step, ptr noalias %c, "
    "i64 %c_step, i64 %last, i1 %add"
)


@cache
def body(tile: Micro) -> str:
    """The text of the function."""
    code = Function()
    kind = register(tile.dtype)
    vector = f"<{tile.lanes} x {kind}>"
    mask = code.mask(tile.lanes, "%last") if tile.ragged else ""
    masks = [""] * (tile.vectors - 1) + [mask]
    sums = [[code.slot(vector) for _ in range(tile.vectors)] for _ in range(tile.rows)]
    for slot in (s for row in sums for s in row):
        code.do(f"store {vector} zeroinitializer, ptr {slot}")
    for i in range(tile.rows):
        start = code.shifted(tile.dtype, "%c", code.let(f"mul nsw i64 %c_step, {i}"))
        for v in range(tile.vectors):
            at = code.shifted(tile.dtype, start, v * tile.lanes)
            code.do(f"call void @llvm.prefetch.p0(ptr {at}, i32 1, i32 3, i32 1)")
    fma = f"@llvm.fmuladd.v{tile.lanes}{SHORT[kind]}"
    with code.span("0", "%k") as p:
        a = code.shifted(tile.dtype, "%a", code.mul(p, "%a_step"))
        b = code.shifted(tile.dtype, "%b", code.mul(p, "%b_step"))
        columns = [
            code.load_vector(tile.dtype, tile.lanes, code.shifted(tile.dtype, b, v * tile.lanes), m)
            for v, m in enumerate(masks)
        ]  # fmt: skip
        if tile.streams:
            ahead = code.add(code.mul(p, tile.rows), tile.rows * tile.apart)
            # Behind the last rows that is outside of A, which a hint may be.
            at = code.let(f"getelementptr {kind}, ptr %a, i64 {ahead}")
            code.do(f"call void @llvm.prefetch.p0(ptr {at}, i32 0, i32 3, i32 1)")
        for i, row in enumerate(sums):
            element = code.let(f"load {kind}, ptr {code.shifted(tile.dtype, a, i * tile.apart)}")
            repeated = code.splat(kind, tile.lanes, element)
            for slot, column in zip(row, columns, strict=True):
                before = code.let(f"load {vector}, ptr {slot}")
                after = code.let(
                    f"call {vector} {fma}({vector} {repeated}, {vector} {column}, "
                    f"{vector} {before})"
                )
                code.do(f"store {vector} {after}, ptr {slot}")
    places = [
        [code.shifted(tile.dtype, start, v * tile.lanes) for v in range(tile.vectors)]
        for start in (
            code.shifted(tile.dtype, "%c", code.let(f"mul nsw i64 %c_step, {i}"))
            for i in range(tile.rows)
        )
    ]
    with code.when("%add"):
        for row, at in zip(sums, places, strict=True):
            for slot, place, m in zip(row, at, masks, strict=True):
                old = code.load_vector(tile.dtype, tile.lanes, place, m)
                new = code.let(f"load {vector}, ptr {slot}")
                total = code.let(f"fadd {vector} {old}, {new}")
                code.do(f"store {vector} {total}, ptr {slot}")
    for row, at in zip(sums, places, strict=True):
        for slot, place, m in zip(row, at, masks, strict=True):
            value = code.let(f"load {vector}, ptr {slot}")
            code.store_vector(tile.dtype, tile.lanes, value, place, m)
    return code.ended()
