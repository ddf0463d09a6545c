"""What programs are predicted to cost on GPUs that are not there."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

import lantern as ln
from backends.cuda.limits import Usage
from backends.cuda.module import written
from backends.cuda.passes import PASSES
from backends.cuda.predict import attention, predict
from benchmarks import llama3_data as data
from benchmarks.llama3_data import SHAPES
from examples.llama3.config import ModelConfig
from examples.llama3.model import init, loss
from lantern.errors import ArgumentError
from staging.cost import Cost
from staging.ir import Op, Type, Value
from staging.machine import ACCELERATORS
from staging.ops import TILED
from staging.pipeline import optimise
from staging.text import parse_program

H100 = ACCELERATORS["h100"]


def prediction(text: str, usages=None, machine=H100):
    """The rows that are predicted for a program, by name, and the whole."""
    program = optimise(parse_program(text), PASSES)
    module = written(program)
    names = module.names.values()
    cost = predict(program, module, machine, usages or dict.fromkeys(names, Usage(32)))
    return {row.name: row for row in cost.rows}, cost


EXP = """program @p(%x: float32[{n}]) {{
  %y = exp(%x): float32[{n}]
  return (%y)
}}
"""


def product(m: int, n: int, k: int, dtype: str) -> str:
    return f"""program @p(%x: {dtype}[{m}, {k}], %y: {dtype}[{k}, {n}]) {{
  %z = matmul(%x, %y) {{transpose_x=false, transpose_y=false}}: {dtype}[{m}, {n}]
  return (%z)
}}
"""


def test_a_large_elementwise_kernel_is_bound_by_the_memory() -> None:
    n = 2**28
    rows, cost = prediction(EXP.format(n=n))
    (row,) = rows.values()
    assert cost.bytes == 8 * n and row.bound == "memory"
    assert cost.seconds == pytest.approx(8 * n / 3.35e12, rel=0.01)
    assert not cost.note


def test_a_small_one_by_what_it_takes_to_begin() -> None:
    rows, cost = prediction(EXP.format(n=1000))
    assert [row.bound for row in rows.values()] == ["start"]
    assert H100.start < cost.seconds < 2 * H100.start
    assert "1 blocks" in str(cost)


def test_data_that_the_cache_holds_comes_faster() -> None:
    text = """program @p(%x: float32[{n}], %i: int64[4]) {{
      %y = exp(%x): float32[{n}]
      %s = argsort(%y) {{axis=0, descending=false}}: int64[{n}]
      return (%s)
    }}
    """
    small, _ = prediction(text.format(n=2**18))
    large, _ = prediction(text.format(n=2**26))
    first, again = (next(r for r in rows.values() if r.op.name == "argsort")
                    for rows in (small, large))  # fmt: skip
    assert first.transfer / first.bytes < 0.6 * again.transfer / again.bytes


def test_products_reach_the_peak_of_their_dtype_if_they_fill_the_device() -> None:
    count = 2 * 8192**3
    for dtype, peak in (("float32", 67e12), ("bfloat16", 989.4e12), ("float64", 67e12)):
        rows, cost = prediction(product(8192, 8192, 8192, dtype))
        assert next(iter(rows)) == "gemm 8192x8192x8192"
        assert cost.flops == count
        assert cost.rows[0].arithmetic == pytest.approx(count / peak)
    _, cost = prediction(product(64, 64, 256, "float32"))
    assert cost.rows[0].arithmetic == pytest.approx(132 * 2 * 64 * 64 * 256 / 67e12)


def test_registers_limit_how_many_threads_there_are_and_so_the_bandwidth() -> None:
    text = EXP.format(n=2**28)
    names = list(written(optimise(parse_program(text), PASSES)).names.values())
    _, few = prediction(text, dict.fromkeys(names, Usage(32)))
    _, many = prediction(text, dict.fromkeys(names, Usage(255)))
    assert many.seconds > 1.5 * few.seconds
    assert "12% of threads by registers" in str(many)


def test_without_a_compiler_the_table_says_what_is_assumed() -> None:
    text = EXP.format(n=1000)
    program = parse_program(text)
    cost = predict(program, written(program), H100, {})
    assert "a thread is taken to use 32" in str(cost)


@pytest.mark.parametrize(("kind", "factor"), [("attention", 4), ("attention_adjoint", 10)])
def test_the_operations_of_attention(kind: str, factor: int) -> None:
    b, heads, t, group, d, s = 2, 3, 64, 4, 32, 128
    q, k = (Value(Type("float32", n)) for n in ((b, heads, t, group, d), (b, heads, s, d)))
    for causal in (False, True):
        op = Op("call", (q, k, k), (), {"kind": kind, "causal": causal})
        assert attention(op) == factor * b * heads * t * group * s * d * (0.5 if causal else 1)


def test_a_compiled_function_tells_its_cost_on_a_device() -> None:
    step = ln.compile(lambda x, w: ln.tanh(x @ w))
    x, w = ln.ShapeDtype((4096, 4096), ln.float32), ln.ShapeDtype((4096, 4096), ln.float32)
    times = [step.cost(x, w, device=name).seconds for name in ("a100", "h100", "b200")]
    assert times == sorted(times, reverse=True)
    text = str(step.cost(x, w, device="h100"))
    assert "H100 SXM (sm_90)" in text and "test_cuda_predict.py:" in text
    with pytest.raises(ArgumentError, match=r"h300.*a100, h100, b200"):
        step.cost(x, w, device="h300")
    with pytest.raises(ArgumentError, match="not both"):
        step.cost(x, w, device="h100", machine=ln.Machine(1e11, ((float("inf"), 1e10),)))


def test_a_loop_over_numbers_is_one_kernel() -> None:
    """Its steps follow each other in one thread, so the time grows with them."""

    def loop(x, xs):
        return ln.scan(lambda c, r: (ln.sin(c) * r + 1.0, c), x, xs)

    def seconds(length: int) -> float:
        x, xs = ln.ShapeDtype((), ln.float32), ln.ShapeDtype((length,), ln.float32)
        (row,) = ln.compile(loop).cost(x, xs, device="h100").rows
        assert row.label.split()[0] == "scan" and row.times == 1
        return row.seconds

    assert seconds(1 << 16) > 30 * seconds(1 << 10) > 0


def test_what_every_step_of_a_loop_would_make_is_launched_once() -> None:
    """Places along an axis are made faster than read, but not by a launch in each step."""
    text = """program @p(%x: float32[8, 4], %i: int64[3, 8]) {
      %y = scan(%x, %i) {length=3, carried=0, captured=1, reverse=false}
        block(%x_of_step: float32[8, 4], %i_of_step: int64[8]) {
        %n = iota() {shape=(8,), axis=0, dtype='int64'}: int64[8]
        %g = gather(%x_of_step, %n, %i_of_step): float32[8]
        return (%g)
      }: float32[3, 8]
      return (%y)
    }
    """
    rows, _ = prediction(text)
    times = {name.split()[0]: row.times for name, row in rows.items()}
    assert times == {"iota_each": 1, "gather": 3}


def elementwise(row) -> bool:
    """Whether a kernel does what could be done where its operands are made, or its results read: it
    reduces nothing, multiplies no matrices, and is no step of the optimiser."""
    kind, name = row.op.attributes.get("kind"), row.op.name
    if row.name.startswith("gemm") or kind in (*TILED, "loops"):
        return False
    inner = row.op.blocks[0].ops if row.op.blocks else (row.op,)
    return name not in ("gather", "scatter") and all(op.name != "reduce" for op in inner)


def training(layers: int, whole: bool = True) -> Cost:
    """What row A of the benchmarks is predicted to cost: a training step of so many layers, or the
    loss and its gradient only."""
    shape = SHAPES["A"]
    config = ModelConfig(
        vocab=shape.vocab, dim=shape.dim, layers=layers, heads=shape.heads,
        kv_heads=shape.kv_heads, ffn=shape.ffn, context=shape.context,
    )  # fmt: skip
    optimizer = ln.optim.chain(ln.optim.clip_by_global_norm(1.0), ln.optim.adamw(3e-4))
    params = ln.eval_shape(lambda key: init(key, config), ln.random.key(0))
    state = ln.eval_shape(optimizer.init, params)
    tokens = ln.ShapeDtype((shape.batch, shape.context), ln.int64)

    def slope(params, tokens, targets):
        return ln.value_and_grad(loss)(params, tokens, targets, None, config)

    def step(params, state, tokens, targets):
        value, gradient = slope(params, tokens, targets)
        updates, state = optimizer.update(gradient, state, params)
        return value, ln.optim.apply_updates(params, updates), state

    if whole:
        compiled = ln.compile(step, donate=("params", "state"))
        program = compiled.program(params, state, tokens, tokens)
    else:
        program = ln.compile(slope).program(params, tokens, tokens)
    program = optimise(program, PASSES)
    module = written(program)
    return predict(program, module, H100, dict.fromkeys(module.names.values(), Usage(32)))


def launches(cost: Cost) -> float:
    return sum(row.times for row in cost.rows)


def test_a_training_step_moves_little_more_than_its_products_and_rows_take() -> None:
    """Products, attention, normalisations, the loss, the gradient's norm and AdamW read what they
    need once, and write what they make; all between them adds less than three tenths."""
    cost = training(layers=2)
    between = sum(row.bytes for row in cost.rows if elementwise(row))
    assert 0 < cost.bytes <= 1.3 * (cost.bytes - between)
    assert launches(cost) <= 100


def of_inductor(layers: int) -> int:
    """The launches of the same loss and its gradient in PyTorch, compiled for the CPU: calls of
    fused kernels, of products and of attention. The kernels are written, but not compiled."""
    import torch
    from torch._inductor.async_compile import AsyncCompile
    from torch._inductor.utils import run_and_get_code

    from benchmarks.llama3_torch import loss_of

    shape = replace(SHAPES["A"], layers=layers, vocab=64)  # which changes no number of launches
    params = data.mapped(lambda p: torch.from_numpy(p).requires_grad_(), data.parameters(shape))
    tokens = (torch.from_numpy(x) for x in data.tokens(shape))
    compiled = torch.compile(loss_of(shape))
    with (
        pytest.MonkeyPatch.context() as patch,
        torch._inductor.config.patch(fx_graph_cache=False, compile_threads=1),
    ):
        patch.setattr(AsyncCompile, "cpp_pybinding", lambda *given: lambda *arguments: None)
        _, codes = run_and_get_code(lambda: compiled(params, *tokens).backward())
    call = r"^ +(?:cpp_|(?:\w+ = )?extern_kernels\.|\w+ = torch\.ops\.\w+\.)[\w.]+\("
    bodies = [code.split("def call(")[1].split("\ndef ")[0] for code in codes]
    assert len(bodies) == 2  # forward and backward
    return sum(len(re.findall(call, body, re.MULTILINE)) for body in bodies)


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_training_step_takes_fewer_launches_than_inductor_makes() -> None:
    """Each layer of PyTorch's takes as many, so two programs tell of six layers."""
    pytest.importorskip("torch")
    one, two = of_inductor(1), of_inductor(2)
    theirs = two + 4 * (two - one)
    assert launches(training(6, whole=False)) < theirs
    assert launches(training(6)) < theirs  # which has neither clipping nor optimiser
