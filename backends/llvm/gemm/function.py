"""`Function`: a helper function of matrix products, and what their code is written with.

Sizes and strides are ``i64`` and count elements. Vectors are LLVM vectors of ``lanes`` elements.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from backends.llvm.code import Code
from backends.llvm.dtypes import loaded, memory, register
from backends.llvm.target import has_half
from staging.ir import ITEMSIZE

Define = Callable[[str, str, str, str], str]
"""Gives the name of a function of the module: `backends.llvm.program.Entry.function`."""


class Function(Code):
    """The body of a helper function while it is written."""

    def ended(self) -> str:
        """The text between the braces of a function that returns nothing."""
        return f"{self.body()}\n  ret void"

    @contextmanager
    def span(self, start: str, stop: str, step: int | str = 1) -> Generator[str]:
        """A loop from ``start`` to below ``stop``; gives the name of the index."""
        self.loops = True
        name = self.fresh("span")
        index = f"%{name}.i"
        before = self.block
        enter = self.let(f"icmp slt i64 {start}, {stop}")
        self.do(f"br i1 {enter}, label %{name}, label %{name}.end")
        self.label(name)
        self.do(f"{index} = phi i64 [ {start}, %{before} ], [ {index}.next, %{name}.latch ]")
        self.memo = self.memo.new_child()
        yield index
        self.memo = self.memo.parents
        self.do(f"br label %{name}.latch")
        self.label(f"{name}.latch")
        self.do(f"{index}.next = add nsw i64 {index}, {step}")
        more = self.let(f"icmp slt i64 {index}.next, {stop}")
        self.do(f"br i1 {more}, label %{name}, label %{name}.end")
        self.label(f"{name}.end")

    # Arithmetic on sizes.

    def add(self, x: str, y: int | str) -> str:
        return x if y in (0, "0") else self.let(f"add nsw i64 {x}, {y}")

    def sub(self, x: int | str, y: int | str) -> str:
        return self.let(f"sub nsw i64 {x}, {y}")

    def mul(self, x: str, y: int | str) -> str:
        return x if y in (1, "1") else self.let(f"mul nsw i64 {x}, {y}")

    def least(self, x: int | str, y: int | str) -> str:
        return self.let(f"call i64 @llvm.smin.i64(i64 {x}, i64 {y})")

    # Memory.

    def shifted(self, dtype: str, pointer: str, by: int | str) -> str:
        """A pointer some elements further."""
        if by in (0, "0"):
            return pointer
        return self.let(f"getelementptr inbounds {memory(dtype)}, ptr {pointer}, i64 {by}")

    def mask(self, lanes: int, count: str) -> str:
        """A vector of ``i1``: the first ``count`` lanes."""
        numbers = ", ".join(f"i64 {i}" for i in range(lanes))
        limit = self.splat("i64", lanes, count)
        return self.let(f"icmp slt <{lanes} x i64> <{numbers}>, {limit}")

    def splat(self, kind: str, lanes: int, value: str) -> str:
        """A value in every lane."""
        vector = f"<{lanes} x {kind}>"
        first = self.let(f"insertelement {vector} poison, {kind} {value}, i64 0")
        zeros = f"<{lanes} x i32> zeroinitializer"
        return self.let(f"shufflevector {vector} {first}, {vector} poison, {zeros}")

    def load_vector(self, dtype: str, lanes: int, pointer: str, mask: str = "") -> str:
        """Elements side by side in a register; those outside of a mask are not read, and 0."""
        kind = f"<{lanes} x {memory(dtype)}>"
        align = ITEMSIZE[dtype]
        if mask:
            name = f"@llvm.masked.load.v{lanes}{SHORT[memory(dtype)]}.p0"
            raw = self.let(
                f"call {kind} {name}(ptr {pointer}, i32 {align}, <{lanes} x i1> {mask}, "
                f"{kind} zeroinitializer)"
            )
        else:
            raw = self.let(f"load {kind}, ptr {pointer}, align {align}")
        if dtype == "float16" and not has_half():
            wide = "zeroinitializer"
            for i in range(lanes):
                one = loaded(self, dtype, self.let(f"extractelement {kind} {raw}, i32 {i}"))
                wide = self.let(f"insertelement <{lanes} x float> {wide}, float {one}, i32 {i}")
            return wide
        if dtype == "float16":
            return self.let(f"fpext {kind} {raw} to <{lanes} x float>")
        if dtype == "bfloat16":
            bits = self.let(f"zext {kind} {raw} to <{lanes} x i32>")
            high = self.let(f"shl <{lanes} x i32> {bits}, {sixteen(lanes)}")
            return self.let(f"bitcast <{lanes} x i32> {high} to <{lanes} x float>")
        return raw

    def store_vector(self, dtype: str, lanes: int, value: str, pointer: str,
                     mask: str = "") -> None:  # fmt: skip
        """Write a register of float32 or float64; nothing outside of a mask."""
        kind, align = f"<{lanes} x {register(dtype)}>", ITEMSIZE[dtype]
        if mask:
            name = f"@llvm.masked.store.v{lanes}{SHORT[memory(dtype)]}.p0"
            self.do(
                f"call void {name}({kind} {value}, ptr {pointer}, i32 {align}, "
                f"<{lanes} x i1> {mask})"
            )
        else:
            self.do(f"store {kind} {value}, ptr {pointer}, align {align}")


SHORT = {"float": "f32", "double": "f64", "i16": "i16", "half": "f16"}


def sixteen(lanes: int) -> str:
    """A vector of 16s."""
    return f"<{', '.join(['i32 16'] * lanes)}>"
