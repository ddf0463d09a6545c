"""Attention on the emulated GPU: whole kernels, for all that the primitive takes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_cases import EPSILON
from test_cuda_elements import run

import lantern as ln
from backends.cuda.emulator import EmulatedDevice
from backends.cuda.lowering import lower
from backends.cuda.passes import PASSES
from backends.cuda.steps import Launch
from lantern.primitives.attention import attention, attention_adjoint
from staging.interpret import interpret
from staging.ir import Program
from staging.ops import TILED
from staging.pipeline import UNOPENED, optimise
from staging.text import parse_program
from staging.verify import verify


class Case(NamedTuple):
    """Sizes by the letters of the primitive, and options."""

    b: int = 2
    heads: int = 2
    t: int = 20
    g: int = 2
    s: int = 31
    d: int = 10
    e: int = 7
    dtype: str = "float32"
    causal: bool = False
    segmented: bool = False
    mask: str = ""  # which of the axes bktgs it has; "-" is a mask of one element


CASES = [
    Case(b=1, heads=1, t=5, g=1, s=7, d=3, e=4),
    Case(b=1, g=1, t=70, s=70, d=16, e=16, causal=True),
    Case(b=1, t=33, s=70, d=24, e=40, causal=True, segmented=True),
    Case(b=1, heads=1, t=90, s=40, d=8, e=130, causal=True),  # the first rows see nothing
    Case(b=1, d=130, e=8, dtype="float16"),
    Case(segmented=True, mask="bktgs", dtype="float64"),
    Case(causal=True, mask="ts", dtype="bfloat16"),
    Case(mask="bs", dtype="float16"),
    Case(t=1, g=4, s=150, d=64, e=64, mask="kg"),
    Case(b=1, heads=1, t=40, s=70, d=70, e=40, dtype="float64", causal=True),
    Case(mask="-"),
    Case(t=1, s=1, d=1, e=1, g=1),
    Case(b=1, heads=1, g=1, t=128, s=128, d=64, e=64, causal=True),  # whole tiles
]


def programs(case: Case) -> list[tuple[Program, list[Any]]]:
    """A program of attention and one of its adjoint, with arguments."""
    b, heads, t, g, s, d, e, dtype, *_ = case
    rng, wide = np.random.default_rng(3), ln.float64 if dtype == "float64" else ln.float32

    def drawn(*shape: int, of: Any = None) -> Any:
        return ln.asarray(rng.normal(size=shape), dtype=of or getattr(ln, dtype))

    data: list[Any] = []
    if case.segmented:
        data += [ln.asarray(rng.integers(0, 3, (b, n))) for n in (t, s)]
    if case.mask:
        sizes = zip("bktgs", (b, heads, t, g, s), strict=True)
        shape = tuple(n if axis in case.mask else 1 for axis, n in sizes)
        data.append(ln.asarray(rng.random(shape) < 0.6))
    options = {"causal": case.causal, "segmented": case.segmented}
    q, k, v = drawn(b, heads, t, g, d) * 0.5, drawn(b, heads, s, d), drawn(b, heads, s, e)
    _, sums = attention(q, k, v, *data, **options)
    dout, mean = drawn(b, heads, t, g, e), drawn(b, heads, t, g, of=wide)
    found: list[tuple[Program, list[Any]]] = []
    for primitive, xs in (
        (attention, (q, k, v, *data)),
        (attention_adjoint, (q, k, v, ln.asarray(sums), dout, mean, *data)),
    ):
        f = ln.compile(lambda *xs, primitive=primitive: primitive(*xs, **options))
        found.append((parse_program(f.ir(*xs)), [np.asarray(x) for x in xs]))
    return found


def check(device: Any, case: Case) -> None:
    """Compare the kernels with the interpreter, which opens the blocks."""
    for program, xs in programs(case):
        for found, wanted in zip(run(device, program, xs), interpret(program, xs), strict=True):
            a, b = found.astype(np.float64), np.asarray(wanted).astype(np.float64)
            scale = max(1.0, float(np.abs(b).max(initial=0)))
            np.testing.assert_allclose(a, b, rtol=0, atol=32 * EPSILON[case.dtype] * scale)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_as_the_interpreter(cuda: Any, case: Case) -> None:
    check(cuda, case)


@pytest.mark.parametrize("case", [CASES[0], CASES[2], CASES[5]], ids=str)
def test_no_thread_waits_in_vain_nor_too_little(case: Case, emulated_folder: str) -> None:
    """With every access checked."""
    check(EmulatedDevice(folder=emulated_folder, races=True), case)


@settings(max_examples=4, derandomize=True)  # the kernels of a new one are compiled for long
@given(
    st.builds(
        Case, st.integers(1, 2), st.integers(1, 3), st.integers(1, 40), st.integers(1, 3),
        st.integers(1, 70), st.integers(1, 40), st.integers(1, 70),
        st.sampled_from(list(EPSILON)), st.booleans(), st.booleans(),
        st.sampled_from(["", "b", "ks", "tg", "bts"]),
    )
)  # fmt: skip
def test_any_sizes(cuda: Any, case: Case) -> None:
    check(cuda, case)


@pytest.mark.parametrize("queries", [40, 8])
def test_it_is_one_launch_forward_and_one_or_two_backward(queries: int) -> None:
    """Also where nothing reads one of the results, and within what passes make. Tiles of few
    queries and many keys need other shared memory than those of many keys and few queries."""

    def loss(q: Any, k: Any, v: Any) -> Any:
        return ln.sum(ln.nn.attention(q, k, v, causal=True) ** 2)

    q, k, v = (ln.ones((2, n, 4, 8)) for n in (queries, 40, 40))
    program = parse_program(ln.compile(ln.grad(loss, argnums=(0, 2))).ir(q, k, v))
    tiled = [
        step.kernel.stem
        for op in optimise(program, UNOPENED).block.ops
        if str(op.attributes.get("kind")).startswith("attention")
        for step in lower(op)
        if isinstance(step, Launch)
    ]
    apart = ["attention_of_queries", "attention_of_keys"]
    assert tiled == ["attention", *(["attention_adjoint"] if queries == 40 else apart)]


@pytest.mark.parametrize("heads", [2, 4])  # of keys, for four of queries
def test_rows_are_read_and_written_where_they_are(cuda: Any, heads: int) -> None:
    """A head's rows lie apart, as the user has them; no array is transposed."""

    def both(q: Any, k: Any, v: Any, w: Any) -> Any:
        def weighted(*xs: Any) -> Any:
            out = ln.nn.attention(*xs, causal=True)
            return ln.sum(out * w), out

        return ln.value_and_grad(weighted, argnums=(0, 1, 2), has_aux=True)(q, k, v)

    rng = np.random.default_rng(5)
    shapes = (2, 40, 4, 8), (2, 40, heads, 8), (2, 40, heads, 12), (2, 40, 4, 12)
    xs = [ln.asarray(rng.normal(size=shape), dtype=ln.float32) for shape in shapes]
    program = optimise(parse_program(ln.compile(both).ir(*xs)), UNOPENED)
    calls = [op for op in program.block.ops if str(op.attributes.get("kind")) in TILED]
    keys, rows = (0, 2, 1, 3), (0, 2, 1, 3, 4)
    assert [op.attributes["turned"] for op in calls] == [
        (rows, keys, keys), (rows, keys, keys, (), rows, ())
    ]  # fmt: skip
    assert [op.attributes["made"] for op in calls] == [(rows, ()), (rows, keys, keys)]
    arrays = [np.asarray(x) for x in xs]
    for found, wanted in zip(run(cuda, program, arrays), interpret(program, arrays), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_what_layers_save_for_the_way_back_is_not_transposed(cuda: Any) -> None:
    """It crosses the borders of their blocks in the order in which a kernel made it."""

    def loss(w: Any, x: Any) -> Any:
        @ln.outline
        def layer(w: Any, x: Any) -> Any:
            q = ln.reshape(x @ w, (2, 10, 2, 8))
            return x + ln.reshape(ln.nn.attention(q, q, q, causal=True), x.shape) @ w

        return ln.sum(layer(w, layer(w, x)) ** 2)

    rng = np.random.default_rng(6)
    shapes = (16, 16), (2, 10, 16)
    xs = [ln.asarray(rng.normal(size=shape) / 4, dtype=ln.float32) for shape in shapes]
    program = parse_program(ln.compile(ln.grad(loss, argnums=(0, 1))).ir(*xs))
    made = optimise(program, PASSES, lambda _, program: verify(program))
    layers = [op.blocks[0] for op in made.block.ops if op.name == "call" and not op.attributes]
    assert len(layers) == 4
    assert not [op for b in (made.block, *layers) for op in b.ops if op.name == "transpose"]
    arrays = [np.asarray(x) for x in xs]
    for found, wanted in zip(run(cuda, made, arrays), interpret(program, arrays), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)


def test_scores_that_are_not_numbers(cuda: Any) -> None:
    """What is not finite reaches the rows that see it, and no others."""
    case = Case(b=1, heads=1, t=9, g=1, s=9, d=4, e=3, causal=True)
    (program, (q, k, v)), _ = programs(case)
    k = k.copy()
    k[0, 0, 5, 0] = np.nan
    k[0, 0, 7, 0] = -np.inf
    xs = [q, k, v]
    for found, wanted in zip(run(cuda, program, xs), interpret(program, xs), strict=True):
        np.testing.assert_allclose(found, np.asarray(wanted), rtol=1e-5)
        assert np.isfinite(found[0, 0, :5]).all() and np.isnan(found[0, 0, 5:]).all()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_shared_memory_needs_no_asking_for(dtype: str) -> None:
    """48 KiB, whatever the sizes."""
    for width in (8, 64, 128, 300):
        case = Case(1, 1, 200, 1, 200, width, width, dtype, causal=True)
        for program, _ in programs(case):
            for op in program.block.ops:
                for step in lower(op):
                    assert isinstance(step, Launch) and shared(step.kernel.body) <= 48 * 1024


def shared(body: str) -> int:
    """The bytes of the arrays that a kernel declares as shared."""
    total = 0
    for line in body.splitlines():
        if "__shared__" in line:
            kind, _, rest = line.split("__align__(16) ")[1].partition(" ")
            rows, columns = (int(n.rstrip("];")) for n in rest.split("[")[1:])
            total += rows * columns * {"float": 4, "double": 8}[kind]
    return total
