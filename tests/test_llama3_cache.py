"""Keys and values in 8 bits (examples/llama3/cache.py): what attention makes of them, and how
likely texts are then (examples/llama3/perplexity.py)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lantern as ln
from examples.llama3 import cache as caches
from examples.llama3 import model
from examples.llama3.config import ModelConfig
from examples.llama3.decode import Decoder
from examples.llama3.files import Problem
from examples.llama3.perplexity import score
from examples.llama3.quantise import Quantised, dense, quantise
from examples.llama3.sampling import GREEDY

CONFIG = ModelConfig(vocab=64, dim=64, layers=1, heads=4, kv_heads=2, ffn=96, context=512)


def normal(*shape: int, seed: int) -> Any:
    return ln.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 2), st.integers(1, 9), st.integers(1, 2), st.integers(1, 3),
    st.sampled_from([8, 48]), st.integers(0, 99),
)  # fmt: skip
def test_attention_is_that_to_the_floats_that_are_meant(
    batch: int, count: int, kv: int, shared: int, width: int, seed: int
) -> None:
    config = ModelConfig(
        vocab=8, dim=kv * shared * width, layers=1, heads=kv * shared, kv_heads=kv, ffn=8
    )
    memory = caches.empty(config, batch, 16, bits=8).layers[0]
    positions = ln.asarray(np.array([np.arange(count) + 3 * i for i in range(batch)]))
    k, v = (normal(batch, count, kv, width, seed=seed + i) for i in (1, 2))
    keys, values = caches.written(memory, k, v, positions)
    assert isinstance(keys, Quantised) and isinstance(values, Quantised)
    q = normal(batch, count, kv * shared, width, seed=seed)
    found = np.asarray(caches.attention(q, (keys, values), positions))
    meant = dense(keys), dense(values)
    wanted = np.asarray(caches.attention(q, meant, positions))
    assert np.allclose(found, wanted, atol=1e-3 * np.abs(wanted).max())
    at = np.asarray(positions)
    for i in range(batch):  # and these are the keys that were written, to a 127th of the largest
        written = np.asarray(meant[0])[i][:, at[i]].swapaxes(0, 1)  # [T, K, C]
        assert np.abs(written - np.asarray(k)[i]).max() <= np.abs(np.asarray(k)[i]).max() / 120


@pytest.fixture(scope="module")
def params() -> Any:
    return model.init(ln.random.key(0), CONFIG)


def test_texts_are_nearly_as_likely_as_with_floats(params: Any) -> None:
    decoder = Decoder(params, CONFIG, 2, 8)
    decoder.absorb(0, [5, 6, 7])
    decoder.reserve(300)
    for tokens in ([1], [2]), ([7], [9]), ([8], []):
        found = decoder.advance(tokens, [GREEDY] * 2, [0] * 2)
    decoder.rewind(0, 4)
    found = decoder.advance([[3], [4]], [GREEDY] * 2, [0] * 2)
    for text, one in zip(([5, 6, 7, 1, 3], [2, 9, 4]), found, strict=True):
        logits = np.asarray(model.forward(params, ln.asarray([text]), CONFIG))[0, -1]
        logprobs = logits - np.log(np.sum(np.exp(logits)))
        assert abs(one.logprob - logprobs[one.token]) < 3e-3


def test_a_step_writes_into_the_codes_that_it_is_given(params: Any) -> None:
    decoder = Decoder(params, CONFIG, 2, 8)
    decoder.reserve(300)
    decoder.advance([[1], [2]], [GREEDY] * 2, [0] * 2)
    leaves = ln.tree.leaves(decoder.state.cache.layers)
    assert {x.dtype for x in leaves} == {np.dtype(np.int8), np.dtype(np.float16)}
    where = [x.value.ctypes.data for x in leaves]
    del leaves
    decoder.advance([[3], [4]], [GREEDY] * 2, [0] * 2)
    now = [x.value.ctypes.data for x in ln.tree.leaves(decoder.state.cache.layers)]
    assert sorted(now) == sorted(where)


def test_a_text_is_as_likely_as_the_whole_network_says(params: Any) -> None:
    text = np.random.default_rng(1).integers(CONFIG.vocab, size=600).tolist()
    lengths = [i % 3 + 1 for i in range(CONFIG.vocab)]
    windows = ln.asarray([text[:256], text[256:512]])
    logits = np.asarray(model.forward(params, windows, CONFIG), np.float64)
    logprobs = logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))
    following = np.array(text[1:513])
    nats = -logprobs.reshape(512, -1)[np.arange(512), following].sum()
    found, narrow = (score(params, CONFIG, text, lengths, bits, 256) for bits in caches.BITS)
    assert (found.tokens, found.bytes) == (512, sum(lengths[t] for t in following))
    assert abs(found.nats - nats) < 1e-4 * nats
    assert 0 < abs(narrow.nats - nats) < 1e-3 * nats
    assert found.perplexity == pytest.approx(np.exp(nats / 512), rel=1e-3)
    assert found.bits_per_byte == pytest.approx(nats / np.log(2) / found.bytes, rel=1e-4)
    with pytest.raises(Problem, match="at least 513 are needed"):
        score(params, CONFIG, text[:512], lengths)


@pytest.mark.parametrize("bits", [32, 8])
@pytest.mark.parametrize("position", [0, 3, 4, 15, 16, 31])
def test_one_sequence_looks_at_no_more_than_a_share_of_its_memory(position: int, bits: int) -> None:
    """What lies behind the share holds no numbers, and nothing comes of that."""
    rng = np.random.default_rng(position)
    q = ln.asarray(rng.standard_normal((1, 1, 4, 8)), dtype=ln.float32)
    floats = rng.standard_normal((2, 1, 2, 32, 8)).astype(np.float32)
    places = ln.asarray([[position]])
    share = next(n for n in (4, 16, 32) if position < n)

    def memory(rows: np.ndarray) -> caches.Memory:
        numbers = ln.asarray(rows[0]), ln.asarray(rows[1])
        return (quantise(numbers[0], 8), quantise(numbers[1], 8)) if bits == 8 else numbers

    def broken(x: ln.Tensor) -> ln.Tensor:
        return x.at[:, :, share:].set(np.nan) if x.dtype.kind == "f" else x

    whole = memory(floats)
    attend = ln.compile(caches.attention)
    found = attend(q, ln.tree.map(broken, whole), places)
    np.testing.assert_allclose(found, caches.to_all(q, whole, places), rtol=1e-5, atol=1e-6)
