"""Products of equal sizes are one launch of the library, and mean what they mean alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cuda_elements import run

import lantern as ln
from backends.cuda.batches import DTYPES, batch_products
from backends.cuda.memory import overwritable
from backends.cuda.passes import PASSES
from staging.interpret import Array, interpret
from staging.ir import Builder, Program, Type, Value, walk
from staging.passes.dead import remove_dead
from staging.passes.schedule import peak, weigh
from staging.pipeline import optimise
from staging.text import parse_program
from staging.verify import verify

SHAPES = ((4, 4), (4, 2), (2, 4))


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Products of matrices of a few shapes, and what is done with them."""
    b = Builder()
    values: list[Value] = [b.param(Type("float32", s)) for s in SHAPES for _ in range(2)]
    for _ in range(draw(st.integers(1, 16))):
        x = draw(st.sampled_from(values))
        name = draw(st.sampled_from(["matmul", "matmul", "matmul", "negate", "reshape", "add"]))
        if name == "matmul":
            turned = draw(st.tuples(st.booleans(), st.booleans()))
            inner = x.type.shape[-2 if turned[0] else -1]
            fitting = [y for y in values if y.type.shape[-1 if turned[1] else -2] == inner]
            if not fitting:
                continue
            y = draw(st.sampled_from(fitting))
            made = b.emit("matmul", x, y, transpose_x=turned[0], transpose_y=turned[1])
        elif name == "reshape":
            made = b.emit("reshape", x, shape=x.type.shape[::-1])
        else:
            alike = [y for y in values if y.type == x.type]
            made = b.emit(name, *([x, draw(st.sampled_from(alike))][: 1 + (name == "add")]))
        values.append(made)
    results = draw(st.lists(st.sampled_from(values), min_size=1, max_size=4))
    return Program("some", b.block(*results, values[-1]))


def inputs_of(program: Program) -> list[Array]:
    """Numbers of which products are exact in any order."""
    rng = np.random.default_rng(0)
    shapes = [v.type.shape for v in program.block.params]
    return [np.asarray(rng.integers(-1, 2, shape), np.float32) for shape in shapes]


@given(programs())
@settings(max_examples=100, deadline=None)
def test_a_program_means_the_same_and_needs_no_more_memory(program: Program) -> None:
    program, inputs = remove_dead(program), inputs_of(program)
    once = verify(batch_products(program))
    for a, b in zip(interpret(once, inputs), interpret(program, inputs), strict=True):
        np.testing.assert_array_equal(a, b)
    before, after = (
        peak(one.block, one.block.ops, weigh(one.block, one.block.ops)) for one in (program, once)
    )
    assert after <= before


def batches(program: Program) -> list[int]:
    """How many products each launch of several has."""
    found = [op for op in walk(program.block) if op.attributes.get("kind") == "products"]
    return [len(op.results) for op in found]


def projected(x: Any, q: Any, k: Any, v: Any) -> Any:
    """The way to attention, and what stands for it."""
    return ln.sum(ln.tanh(x @ q) * ln.tanh(x @ k) + ln.tanh(x @ v))


@pytest.mark.parametrize("dtype", [*DTYPES, "float16"])
def test_products_with_several_weights_and_their_adjoints(cuda: Any, dtype: str) -> None:
    rng = np.random.default_rng(1)
    xs = [ln.asarray(rng.normal(size=(12, 12)), dtype=getattr(ln, dtype)) for _ in range(4)]
    step = ln.compile(ln.value_and_grad(projected, argnums=(0, 1, 2, 3)))
    program = optimise(parse_program(step.ir(*xs)), PASSES)
    assert sorted(batches(program)) == ([2, 3] if dtype in DTYPES else [])
    arrays = [np.asarray(x) for x in xs]
    for found, wanted in zip(run(cuda, program, arrays), interpret(program, arrays), strict=True):
        np.testing.assert_allclose(found, wanted, 1e-4, 1e-4)


def products(m: int, k: int, n: int, count: int = 2) -> Program:
    """Products of one matrix with several ones."""
    b = Builder()
    x = b.param(Type("float32", (m, k)))
    ys = [b.param(Type("float32", (k, n))) for _ in range(count)]
    made = [b.emit("matmul", x, y, transpose_x=False, transpose_y=False) for y in ys]
    return Program("p", b.block(*made))


def test_long_products_and_empty_ones_stay_alone() -> None:
    assert batches(batch_products(products(512, 512, 512))) == [2]
    assert batches(batch_products(products(4096, 4096, 4096))) == []
    for sizes in ((0, 4, 4), (4, 0, 4), (4, 4, 0)):
        assert batches(batch_products(products(*sizes))) == []
    assert batches(batch_products(products(4, 4, 4, 150))) == [64, 64, 22]


def test_no_result_lies_over_an_operand() -> None:
    (op,) = batch_products(products(4, 4, 4)).block.ops
    assert overwritable(op) == [(), ()]


def test_what_would_take_more_memory_stays_where_it_is() -> None:
    """Each product reads a large operand that nothing else reads; unless there is as much in use
    elsewhere, one of them is gone before the other is made."""
    for elsewhere in (False, True):
        b = Builder()
        x, y = b.param(Type("float32", (2, 1000))), b.param(Type("float32", (1000, 2)))
        made: list[Value] = []
        for name in ("negate", "exp"):
            made.append(b.emit("matmul", b.emit(name, x), y, transpose_x=False, transpose_y=False))
        if elsewhere:
            sine, cosine = b.emit("sin", x), b.emit("cos", x)
            made.append(b.emit("reduce", b.emit("mul", sine, cosine), kind="sum", axes=(0,)))
        program = Program("p", b.block(*made))
        assert batches(batch_products(program)) == [2] * elsewhere
