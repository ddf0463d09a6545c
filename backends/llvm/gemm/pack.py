"""Packing: a panel of an operand, step after step of the inner axis, so that a micro-kernel reads
it from one end to the other; float16 and bfloat16 become float32 on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

from backends.llvm.dtypes import accumulator, register
from backends.llvm.gemm.function import Define, Function
from backends.llvm.target import has_half


@dataclass(frozen=True, slots=True)
class Pack:
    """A packing function. What it writes at ``step * width + i`` is the element of the step
    ``step`` of the inner axis in the row (of A) or column (of B) ``i`` of the panel.

    Attributes:
        dtype: of the operand.
        width: rows or columns of a panel.
        lanes: elements of a vector of the result.
        across: whether the operand's elements lie side by side along the inner axis, so that it is
            transposed; if not, they do along the panel.
        half: whether the CPU that is compiled for converts float16: on others it is done in code.
    """

    dtype: str
    width: int
    lanes: int
    across: bool
    half: bool = field(default_factory=has_half)

    def size(self, k: int) -> int:
        """Elements to provide for a panel: whole vectors are written beyond its last step."""
        return (-(-k // self.lanes) + 1) * self.lanes * self.width

    def call(self, define: Define, code: Function, *, source: str, step: int, k: str, valid: str,
             to: str) -> None:  # fmt: skip
        """Pack one panel.

        Args:
            define: makes the function.
            code: where the call is written.
            source, step: where the panel starts, and elements from one line of it to the next.
            k: steps of the inner axis.
            valid: how many rows or columns there are; what stands in the packed panel beside them
                is not defined.
            to: where to; space for ``size(k)`` elements.
        """
        name = define("pack", "void", PARAMS, transposing(self) if self.across else copying(self))
        code.do(f"call void @{name}(ptr {source}, i64 {step}, i64 {k}, i64 {valid}, ptr {to})")


PARAMS = "ptr readonly %source, i64 %step, i64 %k, i64 %valid, ptr noalias %to"


@cache
def copying(pack: Pack) -> str:
    """Each step's elements lie side by side."""
    code = Function()
    wide = accumulator(pack.dtype)
    starts = range(0, pack.width, pack.lanes)

    def copy(masks: list[str]) -> None:
        with code.span("0", "%k") as p:
            source = code.shifted(pack.dtype, "%source", code.mul(p, "%step"))
            to = code.shifted(wide, "%to", code.mul(p, pack.width))
            for first, mask in zip(starts, masks, strict=True):
                at = code.shifted(pack.dtype, source, first)
                value = code.load_vector(pack.dtype, pack.lanes, at, mask)
                # A vector may reach into the next step, which is written after it.
                place = code.shifted(wide, to, first)
                code.store_vector(wide, pack.lanes, value, place)

    full = code.let(f"icmp sge i64 %valid, {len(starts) * pack.lanes}")
    with code.when(full):
        copy([""] * len(starts))
    with code.when(code.let(f"xor i1 {full}, true")):
        copy([code.mask(pack.lanes, code.sub("%valid", first)) for first in starts])
    return code.ended()


@cache
def transposing(pack: Pack) -> str:
    """Each row's or column's elements lie side by side: square blocks are transposed in
    registers. Lines that there are not repeat the last one."""
    code = Function()
    wide = accumulator(pack.dtype)
    last = code.sub("%valid", 1)
    whole = code.let(f"and i64 %k, {-pack.lanes}")
    rest = code.sub("%k", whole)
    ragged = code.let(f"icmp ne i64 {rest}, 0")

    def lines(first: str, count: int) -> None:
        """A few lines, from one end to the other."""
        starts = [
            code.shifted(pack.dtype, "%source",
                         code.mul(code.least(code.add(first, i), last), "%step"))
            for i in range(count)
        ]  # fmt: skip
        to = code.shifted(wide, "%to", first)

        def block(p: str, mask: str) -> None:
            rows = [
                code.load_vector(pack.dtype, pack.lanes, code.shifted(pack.dtype, start, p), mask)
                for start in starts
            ]
            for j, value in enumerate(transposed(code, register(wide), pack.lanes, rows)):
                place = code.shifted(wide, to, code.mul(code.add(p, j), pack.width))
                code.store_vector(wide, pack.lanes, value, place)

        with code.span("0", whole, pack.lanes) as p:
            block(p, "")
        with code.when(ragged):
            block(whole, code.mask(pack.lanes, rest))

    few = pack.width % pack.lanes
    if few:  # its vectors reach into the next steps, which are written after it
        lines(str(pack.width - few), few)
    if pack.width > few:
        with code.span("0", str(pack.width - few), pack.lanes) as first:
            lines(first, pack.lanes)
    return code.ended()


def transposed(code: Function, kind: str, lanes: int, lines: list[str]) -> list[str]:
    """The columns of a square block, given its rows; rows that are missing are undefined.

    Interleaving row i with row i + n / 2, for all i, log2(n) times, is a transposition.
    """
    vector = f"<{lanes} x {kind}>"
    values = lines + ["poison"] * (lanes - len(lines))
    half = lanes // 2
    halves = [
        [n for i in range(start, start + half) for n in (i, i + lanes)] for start in (0, half)
    ]
    for _ in range(lanes.bit_length() - 1):
        values = [
            "poison" if x == y == "poison" else code.let(
                f"shufflevector {vector} {x}, {vector} {y}, "
                f"<{lanes} x i32> <{', '.join(f'i32 {n}' for n in order)}>"
            )
            for x, y in zip(values[:half], values[half:], strict=True)
            for order in halves
        ]  # fmt: skip
    return values
