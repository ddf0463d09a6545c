"""examples/llama3/quantise.py: rounding to few bits, products, blocks of GGUF files."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lantern as ln
from examples.llama3 import model
from examples.llama3.config import ModelConfig
from examples.llama3.files import Problem
from examples.llama3.quantise import (
    BLOCKS,
    Quantised,
    dense,
    embedding,
    from_gguf,
    linear,
    quantise,
    quantised,
)

KINDS = [(bits, offsets) for bits in (8, 4) for offsets in (False, True)]


def normal(*shape: int, seed: int = 0) -> Any:
    return ln.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.integers(1, 3),
    st.integers(1, 40).map(lambda n: 2 * n),
    st.integers(2, 40),
    st.floats(1e-2, 1e2),
    st.integers(0, 99),
)
def test_no_number_moves_by_more_than_a_scale(
    kind: tuple[int, bool], rows: int, width: int, group: int, size: float, seed: int
) -> None:
    bits, offsets = kind
    x = np.asarray(normal(rows, width, seed=seed)) * np.float32(size) + np.float32(0.3)
    w = quantise(x, bits, group, offsets)
    assert (w.shape, w.bits, width % w.group) == (x.shape, bits, 0)
    assert w.group <= group
    scales = np.abs(np.asarray(w.scales, np.float32)).repeat(w.group, axis=-1)
    # Half a scale; the code for +8 or +128 is missing, and the offset is rounded to float16.
    assert np.all(np.abs(np.asarray(dense(w)) - x) <= scales * 1.01 + np.abs(x).max() * 2e-3)


@pytest.mark.parametrize("bits", [8, 4])
def test_zeros_stay_zeros(bits: int) -> None:
    assert not np.asarray(dense(quantise(np.zeros((2, 64), np.float32), bits))).any()


@pytest.fixture(scope="module")
def matrices() -> list[Quantised]:
    w = normal(24, 96, seed=1)
    return [quantise(w, bits, group, offsets) for bits, offsets in KINDS for group in (32, 16)]


@pytest.mark.parametrize("backend", ["llvm", "interpreter", "cuda-emulated"])
def test_products_are_those_of_the_floats_that_are_meant(
    matrices: list[Quantised], backend: str
) -> None:
    some = matrices[-1:] if backend == "cuda-emulated" else matrices
    for rows in (2,) if backend == "cuda-emulated" else (1, 3):
        x = normal(rows, 96)
        f = ln.compile(lambda x, ws: [linear(x, w) for w in ws], backend=backend)
        for w, y in zip(some, f(x, some), strict=True):
            wanted = np.asarray(x) @ np.asarray(dense(w)).T
            assert np.allclose(y, wanted, atol=5e-4 * np.abs(wanted).max()), (w.bits, w.group)


def test_many_rows_and_odd_ones(matrices: list[Quantised]) -> None:
    w = matrices[0]
    x = normal(2, 9, 96)
    assert np.allclose(linear(x, w), np.asarray(x) @ np.asarray(dense(w)).T, atol=1e-4)
    assert not np.asarray(linear(ln.zeros((1, 96), dtype=ln.float32), w)).any()
    assert linear(normal(96), w).shape == (24,)


def test_the_derivative_is_that_of_the_floats(matrices: list[Quantised]) -> None:
    w = matrices[5]
    found = ln.grad(lambda x: ln.sum(linear(x, w) ** 2))(normal(2, 96))
    wanted = ln.grad(lambda x: ln.sum((x @ dense(w).T) ** 2))(normal(2, 96))
    assert np.allclose(found, wanted, rtol=2e-3, atol=1e-2)


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_of_gguf_are_kept_as_they_are(name: str) -> None:
    gguf = pytest.importorskip("gguf")
    kind = gguf.GGMLQuantizationType[name]
    raw = gguf.quants.quantize(np.asarray(normal(6, 64)), kind)
    assert np.array_equal(
        np.asarray(dense(from_gguf(raw, name))), gguf.quants.dequantize(raw, kind)
    )


def test_refusals() -> None:
    with pytest.raises(Problem, match=r"of 3 bits are unknown; there are \[4, 8\]"):
        quantise(normal(2, 4), bits=3)
    with pytest.raises(Problem, match="rows of 5 numbers do not divide"):
        quantise(normal(2, 5), bits=4)
    with pytest.raises(Problem, match="rows of 33 bytes are no blocks of Q8_0, which have 34"):
        from_gguf(np.zeros((2, 33), np.uint8), "Q8_0")


def test_a_model_in_few_bits() -> None:
    config = ModelConfig(vocab=50, dim=32, layers=2, heads=4, kv_heads=2, ffn=64, context=16)
    params = model.init(ln.random.key(0), config)
    tokens = np.arange(10)[None]
    for bits, close in ((8, 0.99995), (4, 0.99)):
        few = quantised(params, bits)
        logits, _ = ln.compile(model.extend)(few, tokens, config, None)
        assert np.allclose(logits, model.forward(meant(few), tokens, config), atol=1e-4)
        wanted = np.asarray(model.forward(params, tokens, config))
        assert np.corrcoef(np.ravel(logits), wanted.ravel())[0, 1] > close
    rows = embedding(few["embedding"], np.asarray([[3, 4]]))
    assert np.array_equal(rows[0], dense(few["embedding"])[3:5])


def meant(params: Any) -> Any:
    """Parameters with floats in the place of codes."""
    if isinstance(params, dict):
        return {k: meant(v) for k, v in params.items()}
    return [meant(v) for v in params] if isinstance(params, list) else dense(params)
