"""Products of matrices on the emulated GPU, by the library and by tiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ir_cases import EPSILON, assert_close, products
from ir_cases import program as program_of
from test_cuda_elements import run

import lantern as ln
from backends.cuda import memory
from backends.cuda import products as lowering
from backends.cuda.device import Product
from backends.cuda.emulator import EmulatedDevice
from backends.cuda.executable import compile_program
from backends.cuda.lowering import lower
from backends.cuda.steps import Copy, Fill, Gemm, Launch
from staging.interpret import interpret
from staging.ir import Builder, Program, Type
from staging.pipeline import UNOPENED, optimise
from staging.text import parse_program


@pytest.mark.parametrize(
    ("shape", "step"),
    [((5, 7, 3), 1), ((70, 33, 66), 7), ((1, 40, 1), 3), ((0, 3, 2), 1), ((4, 0, 3), 1)],
)
def test_every_dtype(cuda: Any, shape: tuple[int, int, int], step: int) -> None:
    cases = list(products(np.random.default_rng(0), shape))[::step]
    program, arrays = program_of(cases)
    for case, found, wanted in zip(
        cases, run(cuda, program, arrays), interpret(program, arrays), strict=True
    ):
        assert_close(case, found, np.asarray(wanted))


def activated(x: Any, w: Any, bias: Any, residual: Any) -> Any:
    return ln.tanh(x @ w + bias) * 2 + residual


def turned(x: Any, w: Any, bias: Any, residual: Any) -> Any:
    x, w = (ln.matrix_transpose(ln.reshape(y, (*y.shape[:-2], *y.shape[:-3:-1]))) for y in (x, w))
    return x @ w > residual


def added(x: Any, w: Any, bias: Any, residual: Any) -> Any:
    return residual + x @ w


def traced(f: Callable[..., Any], dtype: str, batch: tuple[int, ...]) -> tuple[Program, list[Any]]:
    """An optimised program of a function, and arguments for it."""
    m, k, n = 37, 21, 66 if batch else 90
    rng = np.random.default_rng(2)
    shapes = (*batch, m, k), (*batch, k, n), (n,), (*batch, m, n)
    xs = [ln.asarray(rng.normal(size=s), dtype=getattr(ln, dtype)) for s in shapes]
    program = parse_program(ln.compile(f).ir(*xs))
    return optimise(program, UNOPENED), [np.asarray(x) for x in xs]


@pytest.mark.parametrize("dtype", EPSILON)
@pytest.mark.parametrize("own", [False, True], ids=["library", "tiles"])
def test_with_what_follows(
    cuda: Any, dtype: str, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lowering, "pays", lambda p, block: own)
    for f in (activated, turned, added):
        for batch in ((), (2, 3)):
            program, xs = traced(f, dtype, batch)
            kinds = [type(s) for op in program.block.ops for s in lower(op)]
            assert "call" in [op.name for op in program.block.ops]
            assert Gemm not in kinds if own else Gemm in kinds
            for found, wanted in zip(run(cuda, program, xs), interpret(program, xs), strict=True):
                if wanted.dtype == np.bool_:
                    assert (found != wanted).mean() < 0.01
                    continue
                a, b = found.astype(np.float64), wanted.astype(np.float64)
                np.testing.assert_allclose(a, b, rtol=0, atol=40 * EPSILON[dtype] * abs(b).max())


def test_each_edge_of_tiles(cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lowering, "pays", lambda p, block: True)
    for edge in lowering.PER_TILE:
        monkeypatch.setattr(lowering, "edge", lambda p, edge=edge: edge)
        for dtype in ("float16", "float32", "float64"):
            program, xs = traced(activated, dtype, ())
            (found,), (wanted,) = run(cuda, program, xs), interpret(program, xs)
            a, b = found.astype(np.float64), wanted.astype(np.float64)
            np.testing.assert_allclose(a, b, rtol=0, atol=40 * EPSILON[dtype] * abs(b).max())


def test_a_product_is_added_where_the_sum_lies() -> None:
    for dtype in ("float32", "float64"):
        program, _ = traced(added, dtype, ())
        (op,) = program.block.ops
        copy, gemm = lower(op)
        assert isinstance(copy, Copy) and isinstance(gemm, Gemm)
        assert copy.target is gemm.out is op.results[0] and gemm.product.add
    program, _ = traced(added, "float16", ())  # which is rounded before it is added
    assert not any(isinstance(s, Copy) for op in program.block.ops for s in lower(op))


def test_a_sum_that_ends_there_is_not_copied(cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    b = Builder()
    total, x, y = (b.param(Type("float32", shape)) for shape in ((40, 30), (40, 50), (50, 30)))
    before = b.emit("negate", total)
    product = b.emit("matmul", x, y, transpose_x=False, transpose_y=False)
    program = optimise(Program("p", b.block(b.emit("add", before, product))), UNOPENED)
    call = program.block.ops[-1]
    assert memory.overwritable(call) == [(call.inputs.index(before),)]
    monkeypatch.setattr(type(cuda), "copy", None)  # nothing calls it
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=v.type.shape).astype(np.float32) for v in program.block.params]
    (found,) = compile_program(program, cuda)(arrays)
    wanted = arrays[1] @ arrays[2] - arrays[0]
    np.testing.assert_allclose(np.asarray(found), wanted, rtol=1e-4, atol=1e-4)


def test_nothing_to_sum_is_zero() -> None:
    b = Builder()
    x, y = b.param(Type("float32", (3, 0))), b.param(Type("float32", (0, 4)))
    b.emit("matmul", x, y, transpose_x=False, transpose_y=False)
    assert [type(s) for s in lower(b.ops[0])] == [Fill]


def followed(dtype: str, m: int, n: int, k: int) -> type:
    """By what a product with an activation is multiplied."""
    b = Builder()
    x, y = b.param(Type(dtype, (m, k))), b.param(Type(dtype, (k, n)))
    product = b.emit("matmul", x, y, transpose_x=False, transpose_y=False)
    program = optimise(Program("p", b.block(b.emit("tanh", product))), UNOPENED)
    (op,) = program.block.ops
    return type(lower(op)[0])


def test_tiles_multiply_where_memory_takes_longer_than_arithmetic() -> None:
    assert followed("float32", 4096, 4096, 32) is Launch
    assert followed("float32", 4096, 4096, 512) is Gemm
    assert followed("bfloat16", 4096, 4096, 512) is Gemm
    assert followed("bfloat16", 64, 64, 64) is Launch  # most of it is a launch
    assert followed("float32", 64, 64, 8192) is Gemm  # few tiles leave processors idle


def test_the_edge_of_tiles_leaves_few_processors_idle() -> None:
    sizes = [(4096, 4096), (512, 512), (64, 64)]
    found = [
        lowering.edge(Product(1, m, n, 64, False, False, "float32", "float32")) for m, n in sizes
    ]
    assert found == sorted(found, reverse=True)
    assert found[0] == 64 and found[-1] == 16


def test_no_thread_waits_in_vain_nor_too_little(
    emulated_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every access checked."""
    device = EmulatedDevice(folder=emulated_folder, races=True)
    monkeypatch.setattr(lowering, "pays", lambda p, block: True)
    for edge in lowering.PER_TILE:
        monkeypatch.setattr(lowering, "edge", lambda p, edge=edge: edge)
        program, xs = traced(activated, "float32", ())
        (found,), (wanted,) = run(device, program, xs), interpret(program, xs)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
