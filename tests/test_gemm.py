"""Own matrix products: every way to cut and pack them gives what NumPy gives, within bounds."""

from __future__ import annotations

import dataclasses
import itertools
import mmap
import re
import sys
from bisect import bisect
from typing import Any
from unittest.mock import patch

import cffi
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.llvm import compile_program
from backends.llvm.gemm.ahead import worthwhile
from backends.llvm.gemm.few import FEW, is_few
from backends.llvm.gemm.function import Function
from backends.llvm.gemm.loops import Loops
from backends.llvm.gemm.pack import Pack, transposing
from backends.llvm.gemm.plan import FAR, Plan, Product, plan, product
from backends.llvm.gemm.table import BLAS_WINS, BOUNDS, TYPICAL
from backends.llvm.program import Entry
from backends.llvm.target import Library, machine, optimised, vector_bits
from staging.fusion import FREE
from staging.interpret import interpret
from staging.ir import Builder, Program, Type
from staging.passes.dead import remove_dead
from staging.passes.products import join_products
from staging.pipeline import optimise
from staging.text import parse_program, print_program
from staging.verify import verify

FLOATS = {
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float32": np.float32,
    "float64": np.float64,
}
ffi = cffi.FFI()
ffi.cdef("int mprotect(void *start, size_t size, int rights);")
library: Any = ffi.dlopen(None)


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
        self.library = Library([machine().emit_object(self.module)], ["go"], {})
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
            split=data.draw(st.sampled_from(["m", "n", "batch", *["k"] * (p.k > cut.lanes)])),
            parts=data.draw(st.integers(1, 2)),
            pack_a=cut.pack_a or data.draw(st.booleans()),
            pack_b=cut.pack_b or data.draw(st.booleans()),
        )
    a, b, expected = operands(p, data.draw(st.integers(0, 99)))
    parts = cut.parts if cut.split == "k" else 1
    c = np.full((parts, *expected.shape), np.nan, FLOATS[p.wide])
    if sys.platform == "linux":
        a, b, c = (guarded(x, data.draw(st.booleans())) for x in (a, b, c))
    Own(p, cut)(a, b, c)
    c = c.sum(0) if parts > 1 else c[0]
    tolerance = 1e-12 if p.wide == "float64" else 1e-4
    np.testing.assert_allclose(c, expected, tolerance, tolerance)


def test_what_one_row_reads_from_memory_is_not_packed_ahead() -> None:
    def packed(m: int, n: int) -> bool:
        return worthwhile(Entry(), Product("float32", 1, m, n, 288, turned_b=True))

    assert packed(1, 288) and packed(2, 32_000)
    assert not packed(1, 32_000)


@given(
    st.sampled_from(["float32", "float64"]), st.integers(2, FEW), st.integers(0, 300),
    st.integers(1, 80), st.booleans(), st.integers(1, 3), st.booleans(), st.booleans(),
)  # fmt: skip
@settings(max_examples=12, deadline=None)
def test_few_rows_times_a_matrix_that_is_not_packed(
    dtype: str, m: int, more: int, k: int, turned: bool, threads: int, sums: bool, end: bool
) -> None:
    p = Product(dtype, 1, m, m + more, k, turned, True)
    assert is_few(p)
    a, b, expected = (x[0] for x in operands(p, m + k))
    inputs = [a, b, np.ones_like(expected, dtype)]
    if sys.platform == "linux":
        inputs = [guarded(x, end) for x in inputs]
    builder = Builder()
    params = [builder.param(Type(dtype, x.shape)) for x in inputs]
    out = builder.emit("matmul", *params[:2], transpose_x=turned, transpose_y=True)
    if sums:
        out = builder.emit("add", out, params[2])
    program = optimise(Program("few", builder.block(out)))
    with patch("backends.llvm.gemm.plan.DIVIDED", 1):
        found = compile_program(program, threads)(inputs)[0]
    tolerance = 1e-12 if dtype == "float64" else 1e-4
    np.testing.assert_allclose(found, expected + sums, tolerance, tolerance)


@pytest.mark.parametrize(
    ("m", "n", "k"), [(50, 50, 400), (50, 65, 400), (20, 65, 700), (128, 96, 512), (300, 64, 1024)]
)
def test_what_is_read_again_of_a_matrix_that_lies_turned_stays_in_the_cache(
    m: int, n: int, k: int
) -> None:
    cut = plan(Product("float32", 1, m, n, k, turned_a=True), bits=256)
    line, cache = 64, 32 * 1024
    assert not cut.pack_a
    assert cut.kc * (line + 4 * cut.columns) <= cache
    one = plan(Product("float32", 1, m, cut.columns, k, turned_a=True), bits=256)
    assert m >= FAR or one.kc == k  # nothing is read again


def test_what_transposes_wide_panels_is_no_longer_than_what_transposes_narrow_ones() -> None:
    narrow, wide = (transposing(Pack("float32", width, 8, True)) for width in (16, 96))
    assert len(wide.splitlines()) == len(narrow.splitlines())


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
        assert loop.count("vfmadd") >= 4 and f"%{register}" in loop
        assert "rsp" not in loop  # nothing is spilled


JOINED = """program @p(%x: float32[2, 3, 5], %w: float32[7, 5], %r: float32[2, 3, 7],
    %b: float32[7]) {
  %1 = reshape(%x) {shape=(6, 5)}: float32[6, 5]
  %2 = matmul(%1, %w) {transpose_x=false, transpose_y=true}: float32[6, 7]
  %3 = reshape(%2) {shape=(2, 3, 7)}: float32[2, 3, 7]
  %4 = broadcast(%b) {shape=(2, 3, 7)}: float32[2, 3, 7]
  %5 = add(%3, %4): float32[2, 3, 7]
  %6 = tanh(%5): float32[2, 3, 7]
  %7 = add(%6, %r): float32[2, 3, 7]
  %8 = reduce(%7) {kind='sum', axes=(2,)}: float32[2, 3]
  return (%7, %8)
}
"""


def test_what_follows_a_product_joins_it() -> None:
    joined = verify(join_products(parse_program(JOINED)))
    (call,) = [op for op in joined.block.ops if op.name == "call"]
    assert call.attributes == {"kind": "product"}
    inside = ["reshape", "broadcast", "matmul", "add", "tanh", "add"]
    assert sorted(op.name for op in call.blocks[0].ops) == sorted(inside)
    assert [op.name for op in joined.block.ops if op.name not in FREE] == ["call", "reduce"]
    assert print_program(parse_program(print_program(joined))) == print_program(joined)
    again = join_products(joined)
    assert print_program(again) == print_program(joined)


@pytest.mark.parametrize(
    ("body", "joined"),
    [
        ("%2 = tanh(%1): float32[4, 4] return (%2)", 1),
        # The product is read elsewhere, so joining would store one array more.
        (
            "%2 = tanh(%1): float32[4, 4] %3 = reduce(%1) {kind='sum', axes=(0,)}: float32[4] "
            "return (%2, %3)",
            0,
        ),
        # It is read before what follows, at other places.
        (
            "%2 = transpose(%1) {axes=(1, 0)}: float32[4, 4] %3 = add(%1, %2): float32[4, 4] "
            "return (%3)",
            0,
        ),
        # Half as much is stored where the sum is rounded.
        ("%2 = cast(%1) {dtype='bfloat16'}: bfloat16[4, 4] return (%2)", 1),
    ],
)
def test_products_are_joined_where_that_stores_less(body: str, joined: int) -> None:
    source = f"""program @p(%x: float32[4, 4]) {{
      %1 = matmul(%x, %x) {{transpose_x=false, transpose_y=false}}: float32[4, 4]
      {body}
    }}"""
    ops = verify(join_products(remove_dead(parse_program(source)))).block.ops
    assert [op.attributes.get("kind") for op in ops].count("product") == joined


@st.composite
def followed(draw: st.DrawFn) -> Program:
    """A product and operations on it, some of which are results."""
    b = Builder()
    p = draw(products(40))
    if draw(st.integers(0, 5)) == 0:
        p = dataclasses.replace(p, k=1200)  # more than is summed at once
    dtype, shape = p.dtype, (p.batch, p.m, p.n)
    x = b.param(Type(dtype, (p.batch, *((p.k, p.m) if p.turned_a else (p.m, p.k)))))
    y = b.param(Type(dtype, (p.batch, *((p.n, p.k) if p.turned_b else (p.k, p.n)))))
    others = [b.param(Type(dtype, s)) for s in (shape, (p.n,), (), (p.batch, 1, p.n), shape)]
    value = b.emit("matmul", x, y, transpose_x=p.turned_a, transpose_y=p.turned_b)
    made = [value]
    for _ in range(draw(st.integers(0, 4))):
        name = draw(st.sampled_from(["tanh", "add", "mul", "sub", "reshape"]))
        if name == "tanh":
            value = b.emit("tanh", value)
        elif name == "reshape":
            flat = b.emit("reshape", value, shape=(value.type.size,))
            value = b.emit("reshape", b.emit("negate", flat), shape=shape)
        else:
            other = b.emit("broadcast", draw(st.sampled_from(others)), shape=shape)
            value = b.emit(name, value, other)
        made.append(value)
    results = draw(st.lists(st.sampled_from(made), min_size=1, max_size=2))
    return Program("followed", b.block(*results), (2,) if draw(st.booleans()) else ())


@given(program=followed(), seed=st.integers(0, 99), threads=st.integers(1, 2))
@settings(max_examples=25, deadline=None)
def test_joined_products_mean_what_the_interpreter_says(
    program: Program, seed: int, threads: int
) -> None:
    rng = np.random.default_rng(seed)
    inputs = [
        np.asarray(rng.normal(size=v.type.shape)).astype(FLOATS[v.type.dtype])
        for v in program.block.params
    ]
    expected = interpret(program, inputs)
    joined = verify(optimise(program))
    found = compile_program(joined, threads)([x.copy() for x in inputs])
    tolerance = {"float64": 1e-11, "float32": 1e-3, "float16": 0.1, "bfloat16": 0.5}
    for a, b in zip(found, expected, strict=True):
        bound = tolerance[a.dtype.name]
        np.testing.assert_allclose(a.astype(float), b.astype(float), bound, bound * 20)


def test_a_gradient_is_accumulated_in_place() -> None:
    program = parse_program("""program @step(%g: float32[64, 96] donated, %x: float32[80, 64],
        %y: float32[80, 96]) {
      %1 = matmul(%x, %y) {transpose_x=true, transpose_y=false}: float32[64, 96]
      %2 = add(%g, %1): float32[64, 96]
      return (%2)
    }""")
    run = compile_program(optimise(program), 2)
    assert run.module.kept == (0,)
    rng = np.random.default_rng(0)
    g, x, y = (rng.normal(size=s).astype(np.float32) for s in ((64, 96), (80, 64), (80, 96)))
    expected = g + x.T @ y
    np.testing.assert_allclose(run([g, x, y])[0], expected, 1e-4, 1e-4)


@pytest.mark.parametrize(("dtype", "follow"), [("float32", False), ("bfloat16", True)])
@pytest.mark.parametrize(
    ("m", "k", "n", "split"), [(40, 4000, 50, "k"), (700, 90, 60, "m"), (70, 110, 600, "n")]
)
def test_products_divided_among_threads(
    dtype: str, m: int, k: int, n: int, split: str, follow: bool
) -> None:
    b = Builder()
    x, y, z = (b.param(Type(dtype, s)) for s in ((k, m), (k, n), (m, n)))
    value = b.emit("matmul", x, y, transpose_x=True, transpose_y=False)
    results = (value, b.emit("add", z, b.emit("tanh", value))) if follow else (value,)
    program = Program("divided", b.block(*results))
    assert plan(product(b.ops[0]), 3).split == split
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=v.type.shape).astype(FLOATS[dtype]) for v in (x, y, z)]
    expected = interpret(program, inputs)
    run = compile_program(optimise(program), 3)
    found = run(inputs)
    for one, again, other in zip(found, run(inputs), expected, strict=True):
        np.testing.assert_array_equal(one, again)
        bound = 1e-3 if dtype == "float32" else 0.05
        np.testing.assert_allclose(one.astype(float), other.astype(float), bound, 20 * bound)


def test_the_table_of_products_lists_classes() -> None:
    places = itertools.product(
        "NT", "NT", *("".join(map(str, range(len(BOUNDS[x])))) for x in "mnk")
    )
    assert {"".join(p) for p in places} >= frozenset().union(*BLAS_WINS.values())
    for axis, sizes in TYPICAL.items():
        assert [bisect(BOUNDS[axis], size) - 1 for size in sizes] == [*range(len(BOUNDS[axis]))]


@pytest.mark.parametrize("own", [True, False])
def test_either_way_gives_the_product(own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.llvm.products.better", lambda p: own)
    monkeypatch.setattr("backends.llvm.products.is_few", lambda p: own and is_few(p))
    program = parse_program(JOINED)
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(v.type.shape, np.float32) for v in program.block.params]
    run = compile_program(optimise(program), 2)
    assert ("@scipy_cblas_sgemm(i32 101" in run.source) != own
    for a, b in zip(run(inputs), interpret(program, inputs), strict=True):
        np.testing.assert_allclose(a, b, 1e-4, 1e-4)
