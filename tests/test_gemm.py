"""Own matrix products: every way to cut and pack them gives what NumPy gives, within bounds."""

from __future__ import annotations

import dataclasses
import mmap
import re
import sys
from typing import Any

import cffi
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.llvm.gemm.function import Function
from backends.llvm.gemm.loops import Loops
from backends.llvm.gemm.plan import Plan, Product, plan
from backends.llvm.target import Library, machine, optimised, vector_bits

FLOATS = {
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float32": np.float32,
    "float64": np.float64,
}
ffi = cffi.FFI()
ffi.cdef("int mprotect(void *start, size_t size, int rights);")


class Own:
    """A product, cut as a plan says, as a native function."""

    def __init__(self, p: Product, cut: Plan) -> None:
        functions: dict[tuple[str, ...], str] = {}

        def define(stem: str, *rest: str) -> str:
            return functions.setdefault(rest, f"f{len(functions)}.{stem}")

        code = Function()
        loops = Loops(code, define, p, cut)
        loops.write("%part", "%a", "%b", "%c", "%space")
        params = "ptr noalias %a, ptr noalias %b, ptr noalias %c, ptr noalias %space, i64 %part"
        text = f"define void @go({params}) #0 {{\n{code.ended()}\n}}\n"
        for (result, params, body), name in functions.items():
            text += f"define internal {result} @{name}({params}) #0 {{\n{body}\n}}\n"
        bits = cut.lanes * (64 if p.wide == "float64" else 32)
        text += f'attributes #0 = {{ noinline nounwind "prefer-vector-width"="{bits}" }}\n'
        self.module = optimised(text)
        self.library = Library(machine().emit_object(self.module), ["go"], {})
        self.parts, self.space = cut.parts, np.empty(loops.work_space() + 1, FLOATS[p.wide])

    def __call__(self, *arrays: np.ndarray[Any, Any]) -> None:
        go = ffi.cast(
            "void (*)(int64_t, int64_t, int64_t, int64_t, int64_t)", self.library.addresses["go"]
        )
        for part in range(self.parts):
            go(*(x.ctypes.data for x in (*arrays, self.space)), part)


def operands(p: Product, seed: int) -> tuple[np.ndarray[Any, Any], ...]:
    """A and B as they lie, and the product in float64."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(p.batch, *((p.k, p.m) if p.turned_a else (p.m, p.k))))
    b = rng.normal(size=(p.batch, *((p.n, p.k) if p.turned_b else (p.k, p.n))))
    a, b = a.astype(FLOATS[p.dtype]), b.astype(FLOATS[p.dtype])
    left = a.swapaxes(1, 2) if p.turned_a else a
    right = b.swapaxes(1, 2) if p.turned_b else b
    return a, b, left.astype(np.float64) @ right.astype(np.float64)


def guarded(array: np.ndarray[Any, Any], end: bool) -> np.ndarray[Any, Any]:
    """A copy that ends where memory ends that may be touched, or that starts where it starts."""
    page = mmap.PAGESIZE
    inside = -(-max(array.nbytes, 1) // page) * page
    block = mmap.mmap(-1, inside + 2 * page)
    start = int(ffi.cast("intptr_t", ffi.from_buffer(block)))
    library = ffi.dlopen(None)
    for forbidden in (start, start + page + inside):
        assert library.mprotect(ffi.cast("void *", forbidden), page, 0) == 0
    offset = page + (inside - array.nbytes if end else 0)
    copy = np.frombuffer(block, array.dtype, array.size, offset).reshape(array.shape)
    copy[:] = array
    return copy


def products(largest: int = 70) -> st.SearchStrategy[Product]:
    """Products of any float dtype, transposed in any way."""
    size = st.integers(1, largest)
    return st.builds(Product, st.sampled_from(list(FLOATS)), st.integers(1, 3), size, size, size,
                     st.booleans(), st.booleans())  # fmt: skip


@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_every_plan_gives_the_product_and_stays_within_bounds(data: st.DataObject) -> None:
    p = data.draw(products())
    bits = data.draw(st.sampled_from([b for b in (128, 256, 512) if b <= vector_bits()]))
    cut = plan(p, data.draw(st.integers(1, 3)), bits)
    if data.draw(st.booleans()):  # many small blocks
        cut = dataclasses.replace(
            cut,
            kc=data.draw(st.integers(1, p.k)),
            mc=cut.rows * data.draw(st.integers(1, 3)),
            nc=cut.columns * data.draw(st.integers(1, 3)),
            outer=data.draw(st.sampled_from("mn")),
            split=data.draw(st.sampled_from(["m", "n", "batch"])),
            pack_a=cut.pack_a or data.draw(st.booleans()),
            pack_b=cut.pack_b or data.draw(st.booleans()),
        )
    a, b, expected = operands(p, data.draw(st.integers(0, 99)))
    c = np.full(expected.shape, np.nan, FLOATS[p.wide])
    if sys.platform == "linux":
        a, b, c = (guarded(x, data.draw(st.booleans())) for x in (a, b, c))
    Own(p, cut)(a, b, c)
    tolerance = 1e-12 if p.wide == "float64" else 1e-4
    np.testing.assert_allclose(c, expected, tolerance, tolerance)


@pytest.mark.parametrize("bits", [256, 512])
def test_the_micro_kernel_keeps_its_tile_in_registers(bits: int) -> None:
    if bits > vector_bits():
        pytest.skip("this CPU has no such vectors")
    p = Product("float32", 1, 280, 320, 300)
    assembly = machine().emit_assembly(Own(p, plan(p, 1, bits)).module)
    tiles = re.findall(r"^f\d+\.tile:(.*?)\n\tret", assembly, re.S | re.M)
    assert tiles
    register = {256: "ymm", 512: "zmm"}[bits]
    for tile in tiles:
        loop = max(re.split(r"^\.L\w+:", tile, flags=re.M), key=lambda part: part.count("vfmadd"))
        assert loop.count("vfmadd") >= 10 and f"%{register}" in loop
        assert "rsp" not in loop  # nothing is spilled
