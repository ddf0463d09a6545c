"""Loops that are alike are one launch, and mean what they mean alone."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cuda_elements import run
from test_cuda_text import text_of

import lantern as ln
from backends.cuda.emulator import EmulatedDevice
from backends.cuda.executable import compile_program
from backends.cuda.merging import merge
from backends.cuda.passes import PASSES
from lantern import tree
from staging.fusion import fuse
from staging.interpret import Array, interpret
from staging.ir import Builder, Program, Type, Value, walk
from staging.pipeline import optimise
from staging.verify import verify

SIZES = (8, 12, 6, 1)


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Elementwise operations on arrays of a few sizes, some of which are alike."""
    b = Builder()
    values: dict[int, list[Value]] = {}
    for size in SIZES:
        values[size] = [b.param(Type("float32", (size,) if size > 1 else ())) for _ in range(2)]
    for _ in range(draw(st.integers(1, 20))):
        size = draw(st.sampled_from(SIZES))
        x, y = (draw(st.sampled_from(values[size])) for _ in range(2))
        names = ["add", "mul", "negate", "scaled", "reduce", "turned", "halves"]
        name = draw(st.sampled_from(names))
        if name == "scaled" and size > 1:
            y = b.emit("broadcast", draw(st.sampled_from(values[1])), shape=(size,))
            made = b.emit("add", x, y)
        elif name == "reduce" and size > 1:
            size, made = 1, b.emit("reduce", x, kind="max", axes=(0,))
        elif name == "turned" and size > 1:
            shape = (2, size // 4, 2) if size % 4 == 0 else (2, 1, size // 2)
            turned = b.emit("transpose", b.emit("reshape", x, shape=shape), axes=(1, 0, 2))
            made = b.emit("reshape", turned, shape=(size,))
        elif name == "halves" and size > 1:
            whole = b.emit("reshape", x, shape=(2, size // 2))
            counts = {"counts": (2, size // 2), "steps": (-1, 1)}
            made = b.emit("sub", whole, b.emit("slice", whole, starts=(1, 0), **counts))
            made = b.emit("reshape", made, shape=(size,))
        else:
            made = b.emit("negate", x) if name == "negate" else b.emit("add", x, y)
        values[size].append(made)
    return Program("some", b.block(*(v for size in SIZES for v in values[size][2:])), (0, 1, 2))


def inputs_of(program: Program) -> list[Array]:
    """Small whole numbers, so that the order of sums does not matter."""
    rng = np.random.default_rng(0)
    shapes = [v.type.shape for v in program.block.params]
    return [np.asarray(rng.integers(-4, 5, shape), np.float32) for shape in shapes]


@given(programs(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_program_means_the_same(program: Program, fused: bool) -> None:
    inputs = inputs_of(program)
    once = verify(merge(fuse(program) if fused else verify(program)))
    for a, b in zip(interpret(once, inputs), interpret(program, inputs), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_only_read_transposed_is_computed_there(cuda: Any) -> None:
    b = Builder()
    x, scale = b.param(Type("float32", (3, 8, 5, 4))), b.param(Type("float32", (5, 4)))
    scaled = b.emit("mul", x, b.emit("broadcast", scale, shape=x.type.shape))
    turned = b.emit("transpose", scaled, axes=(0, 2, 1, 3))
    program = fuse(Program("turned", b.block(b.emit("add", turned, turned))))
    run = compile_program(merge(program), cuda)
    assert run.source.count("__global__") == 1
    inputs = inputs_of(program)
    for a, c in zip(run(inputs), interpret(program, inputs), strict=True):
        np.testing.assert_array_equal(np.asarray(a), c)


def rotated(x: Value, b: Builder) -> Value:
    """Rows less their halves exchanged, as rotary embeddings have it."""
    halves = b.emit("reshape", x, shape=(6, 2, 8))
    counts = {"counts": (6, 2, 8), "steps": (1, -1, 1)}
    return b.emit("sub", halves, b.emit("slice", halves, starts=(0, 1, 0), **counts))


@pytest.mark.parametrize("cheap", [True, False])
def test_what_is_read_twice_is_computed_there_if_that_is_cheap(cuda: Any, cheap: bool) -> None:
    b = Builder()
    x = b.param(Type("float32", (6, 16)))
    scale = b.emit("broadcast", b.emit("constant", value=0.5, dtype="float32"), shape=(6, 16))
    scaled = b.emit("mul", x, scale) if cheap else b.emit("tanh", x)
    program = fuse(Program("rotated", b.block(rotated(scaled, b))))
    run = compile_program(merge(program), cuda)
    assert run.source.count("__global__") == (1 if cheap else 2)
    inputs = inputs_of(program)
    for a, c in zip(run(inputs), interpret(program, inputs), strict=True):
        np.testing.assert_allclose(np.asarray(a), c, rtol=1e-6)


def kinds(program: Program) -> list[str]:
    """Of the operations that are merged, how many loops each holds."""
    merged = [op for op in walk(merge(program).block) if op.attributes.get("kind") == "loops"]
    return [f"{len(op.results)}" for op in merged]


def updates(shapes: Sequence[tuple[int, ...]], donated: bool = True) -> Program:
    """Parameters less their gradients times a rate."""
    b = Builder("model.py:7")
    rate = b.param(Type("float32"), "rate")
    params = [b.param(Type("float32", s), f"params[{k}]") for k, s in enumerate(shapes)]
    gradients = [b.param(Type("float32", s), f"gradients[{k}]") for k, s in enumerate(shapes)]
    made: list[Value] = []
    for x, dx in zip(params, gradients, strict=True):
        change = b.emit("mul", dx, b.emit("broadcast", rate, shape=x.type.shape))
        made.append(b.emit("sub", x, change))
    ours = range(1, 1 + len(shapes)) if donated else ()
    return Program("update", b.block(*made), tuple(ours))


def test_updates_of_all_sizes_are_one_launch_in_place(cuda: Any) -> None:
    program = fuse(updates([(4, 8), (300, 16), (12,), (3, 5)]))
    assert kinds(program) == ["4"]
    run = compile_program(merge(program), cuda)
    assert run.source.count("__global__") == 1
    assert run.kept == (1, 2, 3, 4)
    inputs = inputs_of(program)
    for a, b in zip(run(inputs), interpret(program, inputs), strict=True):
        np.testing.assert_array_equal(np.asarray(a), b)


def test_a_reshape_makes_no_difference(cuda: Any) -> None:
    """Also where it is what comes first, as of a gradient that a product made as a row."""
    b = Builder()
    rate = b.param(Type("float32"))
    made: list[Value] = []
    for shape in ((12,), (1, 8), (4, 4)):
        change, x = b.param(Type("float32", shape)), b.param(Type("float32", shape))
        if shape[0] == 1:
            change, x = (b.emit("reshape", v, shape=shape[1:]) for v in (change, x))
        by = b.emit("broadcast", rate, shape=x.type.shape)
        made.append(b.emit("sub", x, b.emit("mul", change, by)))
    program = fuse(Program("update", b.block(*made)))
    assert kinds(program) == ["3"]
    inputs = inputs_of(program)
    for a, c in zip(run(cuda, merge(program), inputs), interpret(program, inputs), strict=True):
        np.testing.assert_array_equal(a, c)


def test_loops_over_views_are_alike_if_their_shapes_are(cuda: Any) -> None:
    b = Builder()
    results: list[Value] = []
    for shape in ((6, 4), (6, 4), (4, 6)):
        x = b.param(Type("float32", shape))
        turned = b.emit("transpose", x, axes=(1, 0))
        row = b.emit("broadcast", b.param(Type("float32", shape[:1])), shape=shape[::-1])
        results.append(b.emit("mul", turned, row))
    program = fuse(Program("turned", b.block(*results)))
    assert kinds(program) == ["2"]
    inputs = inputs_of(program)
    found = compile_program(program, cuda)(inputs)
    for a, c in zip(found, interpret(program, inputs), strict=True):
        np.testing.assert_array_equal(np.asarray(a), c)


def test_a_loop_that_waits_for_another_is_none_of_its_kind() -> None:
    b = Builder()
    x, y = b.param(Type("float32", (8,))), b.param(Type("float32", (16,)))
    first = b.emit("exp", x)
    second = b.emit("exp", first)
    assert kinds(Program("chain", b.block(first, second))) == []
    assert kinds(Program("chain", b.block(first, second, b.emit("exp", y)))) == ["2"]


def test_large_arrays_do_not_wait_for_what_is_far_away() -> None:
    b = Builder()
    x, y = b.param(Type("float32", (1 << 20,))), b.param(Type("float32", (1 << 10,)))
    first = b.emit("exp", x)
    order = b.emit("argsort", y, axis=0, descending=False)
    assert kinds(Program("apart", b.block(first, order, b.emit("exp", y)))) == []


def test_a_parameter_that_another_loop_reads_is_not_written_over(cuda: Any) -> None:
    b = Builder()
    x, y = b.param(Type("float32", (8,))), b.param(Type("float32", (8,)))
    program = Program("twist", b.block(b.emit("sub", x, y), b.emit("sub", y, x)), (0, 1))
    assert kinds(program) == ["2"]
    inputs = inputs_of(program)
    for a, c in zip(
        compile_program(merge(program), cuda)(inputs), interpret(program, inputs), strict=True
    ):
        np.testing.assert_array_equal(np.asarray(a), c)


def test_the_text_of_alike_loops() -> None:
    assert (
        text_of(merge(fuse(updates([(4, 8), (2000,)]))))
        == """\
// 1: float32[4, 8]
// 2: float32[2000]
// mul, sub at model.py:7
mul_sub_loops(const float* rate, const float* gradients_of_1, const float* gradients_of_2, const float* params_of_1, const float* params_of_2, float* out_of_1, float* out_of_2) {
  const float* gradients;
  const float* params;
  float* out;
  int size, block, blocks;
  if (blockIdx.x < 1) {
    gradients = gradients_of_1;
    params = params_of_1;
    out = out_of_1;
    size = 8;
    block = blockIdx.x;
    blocks = 1;
  } else {
    gradients = gradients_of_2;
    params = params_of_2;
    out = out_of_2;
    size = 500;
    block = blockIdx.x - 1;
    blocks = 2;
  }
  for (int i = block * 256 + threadIdx.x; i < size; i += blocks * 256) {
    const Lanes<float, 4> params_4 = ((const Lanes<float, 4>*)params)[i];
    const Lanes<float, 4> gradients_4 = ((const Lanes<float, 4>*)gradients)[i];
    const float rate_at = rate[0];
    Lanes<float, 4> out_4;
    #pragma unroll
    for (int k = 0; k < 4; ++k) {
      const float product = gradients_4.at[k] * rate_at;
      const float difference = params_4.at[k] - product;
      out_4.at[k] = difference;
    }
    ((Lanes<float, 4>*)out)[i] = out_4;
  }
}"""  # noqa: E501
    )


def test_adamw_updates_all_parameters_in_one_launch() -> None:
    optimizer = ln.optim.adamw(1e-3)
    shapes = [(8, 8), (16,), (3, 5), (41,), (2, 1), (64,), (12, 4), (8,), (24,), (32,)]
    params = {f"w{k}": ln.ones(shape) for k, shape in enumerate(shapes)}
    state = optimizer.init(params)

    def step(params: Any, state: Any, gradients: Any) -> Any:
        changes, state = optimizer.update(gradients, state, params)
        return ln.optim.apply_updates(params, changes), state

    arguments = params, state, params
    found = ln.compile(step, backend="cuda-emulated", cache=False)(*arguments)
    expected = ln.compile(step, cache=False)(*arguments)
    for a, b in zip(tree.leaves(found), tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), 1e-6)
    source = ln.compile(step, backend="cuda-emulated", cache=False).source(*arguments)
    assert sum("sqrtf" in kernel for kernel in source.split("__global__")) == 1


def squares(shapes: Sequence[tuple[int, ...]], dtype: str = "float32") -> Program:
    """The sums of the squares of some arrays, side by side."""
    b = Builder("clip.py:3")
    found: list[Value] = []
    for k, shape in enumerate(shapes):
        x = b.param(Type(dtype, shape), f"gradients[{k}]")
        axes = tuple(range(len(shape)))
        found.append(b.emit("reduce", b.emit("mul", x, x), kind="sum", axes=axes))
    each = [b.emit("reshape", x, shape=(1,)) for x in found]
    return Program("squares", b.block(b.emit("concat", *each, axis=0)))


@pytest.mark.parametrize("races", [False, True])
@pytest.mark.parametrize("shapes", [[(4, 8), (3, 5), (7,)], [(70, 150), (5,), (2, 4099)]])
def test_totals_of_all_arrays_are_one_launch_or_two(
    shapes: list[tuple[int, ...]], races: bool, emulated_folder: str
) -> None:
    program = fuse(squares(shapes))
    assert kinds(program) == ["3"]
    device: Any = EmulatedDevice(folder=emulated_folder, races=races)
    run = compile_program(merge(program), device)
    several = max(map(prod, shapes)) > 4096
    assert run.source.count("__global__") == 2 + several  # and the `concat`
    inputs = inputs_of(program)
    for a, b in zip(run(inputs), interpret(program, inputs), strict=True):
        np.testing.assert_array_equal(np.asarray(a), b)


def test_totals_of_narrow_floats_are_summed_wide(cuda: Any) -> None:
    program = fuse(squares([(3000,), (5000,), (11, 7)], "float16"))
    inputs = [np.full(v.type.shape, 0.5, np.float16) for v in program.block.params]
    (found,) = compile_program(merge(program), cuda)(inputs)
    assert np.asarray(found).tolist() == [750, 1250, 19.25]


def test_totals_that_are_read_one_after_another_are_not_merged() -> None:
    b = Builder()
    x, y = b.param(Type("float32", (64,))), b.param(Type("float32", (32,)))
    first = b.emit("reduce", x, kind="sum", axes=(0,))
    shifted = b.emit("mul", y, b.emit("broadcast", first, shape=(32,)))
    second = b.emit("reduce", shifted, kind="sum", axes=(0,))
    assert kinds(Program("chain", b.block(first, second))) == []
    other = b.emit("reduce", x, kind="max", axes=(0,))
    assert kinds(Program("unlike", b.block(first, other))) == []


def test_what_ends_in_a_total_does_not_wait_for_another() -> None:
    b = Builder()
    x, y = b.param(Type("float32", (1 << 20,))), b.param(Type("float32", (1 << 10,)))
    made = b.emit("concat", x, x, axis=0)
    first = b.emit("reduce", made, kind="sum", axes=(0,))
    order = b.emit("argsort", y, axis=0, descending=False)
    second = b.emit("reduce", y, kind="sum", axes=(0,))
    assert kinds(Program("apart", b.block(first, order, second))) == []
    assert kinds(Program("kept", b.block(first, order, second, made))) == ["2"]


def test_the_text_of_totals() -> None:
    text = text_of(merge(fuse(squares([(4, 8), (70, 151)]))))
    assert (
        text[: text.index("\n// a: ")]
        == """\
// 1: float32[4, 8]
// 2: float32[70, 151]
// mul at clip.py:3
mul_sum_totals(const float* gradients_of_1, const float* gradients_of_2, float* partial) {
  const float* gradients;
  int size, left, block, blocks;
  if (blockIdx.x < 1) {
    gradients = gradients_of_1;
    size = 8;
    left = 0;
    block = blockIdx.x;
    blocks = 1;
  } else {
    gradients = gradients_of_2;
    size = 2642;
    left = 2;
    block = blockIdx.x - 1;
    blocks = 3;
  }
  float total = 0.0f;
  for (int i = block * 256 + threadIdx.x; i < size; i += blocks * 256) {
    const Lanes<float, 4> gradients_4 = ((const Lanes<float, 4>*)gradients)[i];
    #pragma unroll
    for (int k = 0; k < 4; ++k) {
      const float product = gradients_4.at[k] * gradients_4.at[k];
      total = total + product;
    }
  }
  if (block == 0 && threadIdx.x < left) {
    const int at = 4 * size + threadIdx.x;
    const float gradients_at = gradients[at];
    const float product_2 = gradients_at * gradients_at;
    total = total + product_2;
  }
  #pragma unroll
  for (int apart = 16; apart > 0; apart /= 2) {
    const float other = __shfl_xor_sync(0xffffffffu, total, apart);
    total = total + other;
  }
  __shared__ float total_warps[8];
  if (threadIdx.x % 32 == 0) {
    total_warps[threadIdx.x / 32] = total;
  }
  __syncthreads();
  total = total_warps[threadIdx.x % 8];
  #pragma unroll
  for (int apart = 4; apart > 0; apart /= 2) {
    const float other_2 = __shfl_xor_sync(0xffffffffu, total, apart);
    total = total + other_2;
  }
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = total;
  }
}
// 1: float32[]
// 2: float32[]
sum_of_blocks(float* out_of_1, float* out_of_2, const float* partial) {
  float* out;
  int first, size;
  if (blockIdx.x < 1) {
    out = out_of_1;
    first = 0;
    size = 1;
  } else {
    out = out_of_2;
    first = 1;
    size = 3;
  }
  float total = 0.0f;
  for (int i = threadIdx.x; i < size; i += 256) {
    const float partial_at = partial[first + i];
    total = total + partial_at;
  }
  #pragma unroll
  for (int apart = 16; apart > 0; apart /= 2) {
    const float other = __shfl_xor_sync(0xffffffffu, total, apart);
    total = total + other;
  }
  __shared__ float total_warps[8];
  if (threadIdx.x % 32 == 0) {
    total_warps[threadIdx.x / 32] = total;
  }
  __syncthreads();
  total = total_warps[threadIdx.x % 8];
  #pragma unroll
  for (int apart = 4; apart > 0; apart /= 2) {
    const float other_2 = __shfl_xor_sync(0xffffffffu, total, apart);
    total = total + other_2;
  }
  if (threadIdx.x == 0) {
    out[0] = total;
  }
}"""
    )


def test_the_norm_of_all_gradients_takes_a_few_launches() -> None:
    gradients = {f"w{k}": ln.ones((k + 2, 5)) for k in range(60)}
    norm = ln.compile(ln.optim.global_norm, backend="cuda-emulated", cache=False)
    assert norm.source(gradients).count("__global__") <= 4
    np.testing.assert_allclose(np.asarray(norm(gradients)) ** 2, 5 * sum(range(2, 62)), 1e-6)


def test_gradients_that_are_widened_are_widened_where_they_are_read(cuda: Any) -> None:
    """As those of mixed precision, for their norm and for the step: neither waits for the wide ones
    in memory, and both are few launches."""

    def step(params: Any, gradients: Any) -> Any:
        gradients = [g.astype(ln.float32) for g in gradients]
        scale = 1 / ln.optim.global_norm(gradients)
        return [p - scale * g for p, g in zip(params, gradients, strict=True)]

    rng = np.random.default_rng(0)
    params = [ln.asarray(rng.normal(size=(k, 40)).astype(np.float32)) for k in (4, 6, 8)]
    gradients = [p.astype(ln.bfloat16) * 2 for p in params]
    program = ln.compile(step).program(params, gradients)
    narrow = optimise(program, PASSES)
    assert kinds(narrow) == ["3", "3"]
    wide = [v for op in narrow.block.ops for v in op.results if v.type.size >= 160]
    assert len(wide) == len(params)
    inputs = [np.asarray(x) for x in (*params, *gradients)]
    for a, b in zip(run(cuda, narrow, inputs), interpret(program, inputs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
