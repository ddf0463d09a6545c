"""Kernels of operations on elements give what the interpreter gives, on a device."""

from __future__ import annotations

import doctest
import importlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import ir_cases
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_cases import Case

import lantern as ln
from backends.cuda.emulator import EmulatedDevice
from backends.cuda.executable import compile_program
from backends.cuda.module import written
from staging.failures import IndexFailure
from staging.fusion import fuse
from staging.interpret import Array, interpret
from staging.ir import Builder, Program, Type, Value
from staging.verify import verify


def run(device: Any, program: Program, inputs: Sequence[Array]) -> list[Array]:
    """The results on a device, each value in memory of its own."""
    return [np.asarray(x) for x in compile_program(program, device, apart=True)(inputs)]


def check(device: Any, cases: Sequence[Case], joined: bool = False) -> None:
    """Compare a program of all cases with the interpreter; few kernels are compiled sooner."""
    program, inputs = ir_cases.program(cases)
    found = run(device, verify(fuse(program) if joined else program), inputs)
    for case, a, b in zip(cases, found, interpret(program, inputs), strict=True):
        ir_cases.assert_close(case, a, b)


def test_elementwise_operations(cuda: Any) -> None:
    check(cuda, list(ir_cases.elementwise(np.random.default_rng(0), (40,))))


def test_elementwise_operations_one_by_one(cuda: Any) -> None:
    """A size that no vector divides; fused, so that a kernel does many."""
    check(cuda, list(ir_cases.elementwise(np.random.default_rng(1), (33,)))[::6], joined=True)


@pytest.mark.parametrize("shape", [(3, 4, 5), (4, 4, 8), (1, 1, 1)])
def test_structure(cuda: Any, shape: tuple[int, ...]) -> None:
    check(cuda, list(ir_cases.structure(np.random.default_rng(1), shape)))


def large(rng: np.random.Generator) -> Iterator[Case]:
    """What goes through tiles, or is moved many elements at once."""
    for dtype in ("float32", "bfloat16", "bool", "float64"):
        for shape, axes in (
            ((50, 70), (1, 0)),
            ((64, 32), (1, 0)),
            ((2, 33, 3, 40), (0, 3, 2, 1)),
            ((3, 20, 5, 16), (2, 3, 0, 1)),
            ((2, 30, 3, 8), (0, 2, 1, 3)),
        ):
            yield Case("transpose", [ir_cases.values(rng, dtype, shape)], {"axes": axes})
        parts = [ir_cases.values(rng, dtype, (3, n)) for n in (16, 48, 0, 32)]
        yield Case("concat", parts, {"axis": 1})
        yield Case("concat", [ir_cases.values(rng, dtype, (2, 5)) for _ in range(20)], {"axis": 0})
        x, filler = (ir_cases.values(rng, dtype, shape) for shape in ((4, 32), ()))
        yield Case("pad", [x, filler], {"shape": (6, 64), "starts": (1, 16), "steps": (1, 1)})
        yield Case("select", [ir_cases.values(rng, d, (32771,)) for d in ("bool", dtype, dtype)])
        rows = np.asarray(rng.integers(0, 4, (3, 7)), np.int64)
        yield Case("gather", [x, rows])


def test_large_moves(cuda: Any) -> None:
    check(cuda, list(large(np.random.default_rng(0))))


@given(data=st.data())
@settings(max_examples=6, deadline=None)
def test_fold_is_the_sum_over_a_view(cuda: Any, data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 4), min_size=0, max_size=3))
    steps = data.draw(st.tuples(*[st.integers(-3, 4) for _ in shape]))
    ends = [(n - 1) * step for n, step in zip(shape, steps, strict=True)]
    offset = -sum(min(end, 0) for end in ends) + data.draw(st.integers(0, 2))
    size = offset + sum(max(end, 0) for end in ends) + data.draw(st.integers(1, 3))
    x = np.asarray(np.random.default_rng(0).integers(-9, 9, shape), np.int32)
    check(cuda, [Case("fold", [x], {"shape": (size,), "strides": steps, "offset": offset})])


@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 4, 8)])
def test_indexing(cuda: Any, shape: tuple[int, ...]) -> None:
    check(cuda, list(ir_cases.indexing(np.random.default_rng(1), shape))[shape[0] :: 4])


def crowded(rng: np.random.Generator) -> Iterator[Case]:
    """Scatters of many rows to few places."""
    for dtype, kind, count, shape in (
        ("float32", "sum", 300, (7, 4)),
        ("bfloat16", "sum", 1100, (3, 5)),
        ("int64", "prod", 40, (6,)),
        ("float32", "max", 33, (2, 2)),
        ("float16", "set", 200, (9, 16)),
    ):
        x, rows = (ir_cases.values(rng, dtype, s) for s in (shape, (count, *shape[1:])))
        index = np.asarray(rng.integers(0, shape[0], count), np.int64)
        yield Case("scatter", [x, rows, index], {"kind": kind})
    x, rows = (ir_cases.values(rng, "float32", s, edges=False) for s in ((3, 2, 5), (8, 9, 5)))
    places = [np.asarray(rng.integers(0, n, (8, 9)), np.int64) for n in (3, 2)]
    yield Case("scatter", [x, rows, *places], {"kind": "sum"})


def test_many_rows_are_combined_in_order(cuda: Any) -> None:
    check(cuda, list(crowded(np.random.default_rng(0))))


def test_kernels_have_no_races(emulated_folder: str) -> None:
    """Some of all kinds, with every access of theirs checked, and the streams that they lie in."""
    rng = np.random.default_rng(2)
    some = [
        *list(ir_cases.elementwise(rng, (33,)))[::16],
        *list(ir_cases.structure(rng, (3, 4, 8)))[::6],
        *list(ir_cases.indexing(rng, (3, 4, 5)))[::9],
        *list(large(rng))[::4],
        *list(crowded(rng))[::2],
    ]
    check(EmulatedDevice(races=True, folder=emulated_folder), some)


@pytest.mark.parametrize("first", [0, -1, 4, 2**40])
@pytest.mark.parametrize("gather", [True, False])
def test_the_first_bad_index_is_reported(cuda: Any, first: int, gather: bool) -> None:
    b = Builder("model.py:3")
    x, i, j = (b.param(Type(d, s)) for d, s in (("float32", (4, 5, 2)),) + (("int64", (99,)),) * 2)
    rows = b.param(Type("float32", (99, 2)))
    picked = b.emit("gather", x, i, j) if gather else b.emit("scatter", x, rows, i, j, kind="sum")
    program = Program("pick", b.block(picked))
    inputs = [np.zeros((4, 5, 2), np.float32), np.full(99, 3), np.full(99, 4)]
    inputs[1][1:3], inputs[2][1:3] = (first, -7), (5, 9)
    inputs.append(np.zeros((99, 2), np.float32))
    with pytest.raises(IndexFailure) as expected:
        interpret(program, inputs)
    with pytest.raises(IndexFailure) as found:
        run(cuda, program, inputs)
    assert str(found.value) == str(expected.value)


def test_what_has_no_elements_takes_no_kernels(cuda: Any) -> None:
    b = Builder()
    x, index = b.param(Type("float32", (0, 3))), b.param(Type("int64", (0,)))
    results = [b.emit("exp", x), b.emit("transpose", x, axes=(1, 0)), b.emit("gather", x, index)]
    program = Program("nothing", b.block(*results, b.emit("concat", x, x, axis=0)))
    inputs = [np.zeros((0, 3), np.float32), np.zeros(0, np.int64)]
    assert not written(program).names
    for found, expected in zip(run(cuda, program, inputs), interpret(program, inputs), strict=True):
        np.testing.assert_array_equal(found, expected)


def viewed(b: Builder, x: Value, rng: np.random.Generator) -> Value:
    """A value through some views, chosen at random."""
    for _ in range(rng.integers(1, 5)):
        shape = x.type.shape
        match rng.integers(4):
            case 0:
                axes = tuple(int(a) for a in rng.permutation(len(shape)))
                x = b.emit("transpose", x, axes=axes)
            case 1:
                merged = (math.prod(shape[:2]), *shape[2:])
                factors = [n for n in (2, 3, 4, 8) if merged[-1] % n == 0] or [1]
                last = int(rng.choice(factors))
                x = b.emit("reshape", x, shape=(*merged[:-1], merged[-1] // last, last))
            case 2:
                steps = tuple(int(rng.choice([1, 1, 2, -1])) for _ in shape)
                counts = tuple(-(-n // abs(s)) for n, s in zip(shape, steps, strict=True))
                starts = tuple(n - 1 if s < 0 else 0 for n, s in zip(shape, steps, strict=True))
                x = b.emit("slice", x, starts=starts, counts=counts, steps=steps)
            case _:
                x = b.emit("broadcast", x, shape=(int(rng.integers(1, 4)), *shape))
    return x


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=2, deadline=None)
def test_views_inside_of_loops_only_change_where_is_read(cuda: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    b = Builder()
    results: list[Value] = []
    for shape in ((4, 6, 8), (3, 5, 7), (16, 12), (2, 2, 4, 4), (30,)) * 4:
        y = viewed(b, b.param(Type("int32", shape)), rng)
        results.append(b.emit("add", y, b.emit("iota", shape=y.type.shape, axis=0, dtype="int32")))
    program = fuse(Program("views", b.block(*results)))
    shapes = [v.type.shape for v in program.block.params]
    inputs = [np.asarray(rng.integers(-999, 999, shape), np.int32) for shape in shapes]
    for found, expected in zip(run(cuda, program, inputs), interpret(program, inputs), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("count", "row"), [(3, (3,)), (70, (3,)), (70, ())])
def test_tables_are_as_long_as_they_are_given(cuda: Any, count: int, row: tuple[int, ...]) -> None:
    b = Builder("model.py:3")
    x, y = (b.param(Type("float32", (-2, *row))) for _ in range(2))
    rows, index = b.param(Type("float32", (count, *row))), b.param(Type("int64", (count,)))
    total = b.emit("add", x, y)
    spread = b.emit("scatter", total, rows, index, kind="sum")
    program = Program("table", b.block(total, spread, b.emit("gather", y, index)))
    rng = np.random.default_rng(0)
    arrays = [np.asarray(rng.normal(size=(n, *row)), np.float32) for n in (9, 9, count)]
    inputs = [*arrays, np.asarray(rng.integers(0, 9, count))]
    compiled = compile_program(program, cuda, apart=True)
    for found, expected in zip(compiled(inputs), interpret(program, inputs), strict=True):
        np.testing.assert_array_equal(np.asarray(found), expected)
    empty = [x[:0] for x in inputs[:2]]
    with pytest.raises(IndexFailure, match="out of range for axis 0 of 0"):
        [np.asarray(x) for x in compiled([*empty, *inputs[2:]])]
    inputs[3][1] = 9
    with pytest.raises(IndexFailure, match="index 9 is out of range for axis 0 of 9"):
        [np.asarray(x) for x in compiled(inputs)]


def test_random_bits_are_those_of_every_backend() -> None:
    def draw(key: ln.Tensor) -> tuple[ln.Tensor, ...]:
        first, second = ln.random.split(key)
        return ln.random.bits(first, (37,)), ln.random.uniform(second, (10, 3))

    key = ln.random.key(7)
    found = ln.compile(draw, backend="cuda-emulated", cache=False)(key)
    for a, b in zip(found, draw(key), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("module", ["elements", "expressions", "moves", "prelude", "sides"])
def test_examples_in_docstrings(module: str) -> None:
    found = doctest.testmod(importlib.import_module(f"backends.cuda.{module}"))
    assert found.attempted and not found.failed
