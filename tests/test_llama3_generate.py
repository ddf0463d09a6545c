"""examples/llama3: the cache, sampling, and writing on from a prompt."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import lantern as ln
from examples.llama3 import cache as caches
from examples.llama3.config import ModelConfig
from examples.llama3.decode import Decoder, reader
from examples.llama3.files import Problem
from examples.llama3.generate import AT_ONCE, Writer, until
from examples.llama3.model import Params, forward
from examples.llama3.quantise import quantised
from examples.llama3.sampling import GREEDY, Choice, Sampling, choose, draw, probabilities
from tests.small_llama import few_programs, lively

CONFIG = ModelConfig(
    vocab=31, dim=16, layers=2, heads=4, kv_heads=2, ffn=24, context=64, rope_theta=1e4
)


@pytest.fixture(scope="module", autouse=True)
def few() -> Iterator[None]:
    with few_programs(16, 32):
        yield


@pytest.fixture(scope="module")
def params() -> Params:
    """Of a random model that is not indifferent."""
    return lively(CONFIG)


def logits_after(params: Params, text: list[int]) -> np.ndarray:
    """Without a cache."""
    return np.asarray(forward(params, np.array([text]), CONFIG))[0, -1]


def likeliest(params: Params, text: list[int], count: int) -> list[int]:
    """What is written on greedily, without a cache."""
    text, start = list(text), len(text)
    for _ in range(count):
        text.append(int(logits_after(params, text).argmax()))
    return text[start:]


# The cache ----------------------------------------------------------------------------------------


def test_a_step_writes_into_the_memory_that_it_is_given(params: Params) -> None:
    decoder = Decoder(params, CONFIG, 2)
    state = decoder.state._replace(cache=caches.empty(CONFIG, 2, 1024))
    given = (
        params, state, np.ones((2, 1), np.int64), np.ones(2, np.int64),
        *Choice.of([GREEDY] * 2, [0] * 2),
    )  # fmt: skip
    cost = reader(CONFIG, 1, 1024).cost(*given, machine=ln.Machine(1e11, ((math.inf, 1e10),)))
    arguments = sum(np.asarray(x).nbytes for x in ln.tree.leaves(given))
    one = state.cache.layers[0][0].size * 4
    assert cost.peak_memory - arguments < one / 2, "there is no room for a copy"
    where = {x.value.ctypes.data for x in ln.tree.leaves(decoder.state) if x.ndim > 1}
    for token in (3, 4):
        decoder.advance([[token], [token]], [GREEDY] * 2, [0] * 2)
        now = {x.value.ctypes.data for x in ln.tree.leaves(decoder.state) if x.ndim > 1}
        assert now == where


def test_chunks_steps_and_growth_give_what_full_recomputation_gives(params: Params) -> None:
    texts = [list(np.random.default_rng(i).integers(0, CONFIG.vocab, 45)) for i in range(2)]
    decoder = Decoder(params, CONFIG, 2)
    read = [0, 0]
    for sizes in ((16, 5), (1, 0), (0, 1), (9, 16), (1, 1), (3, 2)):  # of different lengths
        parts = [t[at : at + n] for t, at, n in zip(texts, read, sizes, strict=True)]
        found = decoder.advance(parts, [GREEDY] * 2, [0] * 2)
        read = [at + n for at, n in zip(read, sizes, strict=True)]
        for text, at, n, one in zip(texts, read, sizes, found, strict=True):
            if n:
                logits = logits_after(params, text[:at])
                assert one.token == logits.argmax()
                logprob = logits.max() - math.log(np.exp(logits.astype(np.float64)).sum())
                assert one.logprob == pytest.approx(logprob, abs=1e-4)
    assert decoder.state.cache.capacity == 64
    assert decoder.texts == [t[:n] for t, n in zip(texts, read, strict=True)]


# Sampling -----------------------------------------------------------------------------------------


def drawn(logits: list[float], how: Sampling, count: int = 200) -> set[int]:
    """The tokens that come up."""
    rows = ln.asarray(np.tile(np.asarray(logits, np.float32), (count, 1)))
    seen = ln.zeros((count, len(logits)), dtype=ln.bool)
    return set(choose(rows, seen, Choice.of([how] * count, range(count)))[0].tolist())


def test_each_setting_chooses_among_the_right_tokens() -> None:
    logits = [math.log(p) for p in (0.1, 0.5, 0.05, 0.35)]

    def among(temperature: float = 1.0, **more: Any) -> set[int]:
        return drawn(logits, Sampling(temperature=temperature, **{"top_p": 1.0, **more}))

    assert among(0.0) == {1}
    assert among() == {0, 1, 2, 3}
    assert among(top_k=2) == {1, 3}
    assert among(top_k=1) == {1}
    assert among(top_p=0.8) == {1, 3}
    assert among(top_p=0.86) == {0, 1, 3}
    assert among(top_p=1e-9) == {1}
    assert among(top_k=3, top_p=0.94) == {0, 1, 3}, "0.95 of the mass is left, which is all then"
    assert among(min_p=0.69) == {1, 3}
    assert among(min_p=0.15) == {0, 1, 3}
    assert among(1e-3, top_k=99) == {1}, "a k beyond the vocabulary means all"


@given(
    st.lists(st.floats(-12, 12, width=32), min_size=2, max_size=12),
    st.floats(0.2, 3),
    st.integers(0, 12),
    st.floats(0.05, 1),
    st.floats(0, 0.9),
)
@example([0.0, 1.0, 3.0], 3.0, 0, 0.625, 0.5)  # a share of all, not of what min-p leaves
def test_probabilities_are_those_of_sorting(
    logits: list[float], temperature: float, k: int, p: float, min_p: float
) -> None:
    how = Sampling(1.0, temperature, k, p, min_p)
    (found,) = np.asarray(probabilities(ln.asarray([logits]), Choice.of([how], [0])))
    x = np.asarray(logits, np.float32) / np.float32(temperature)
    weights = np.exp((x - x.max()).astype(np.float64))
    order = np.argsort(-x, kind="stable")
    allowed = np.zeros(len(x), bool)
    allowed[order[: k or len(x)]] = True
    left = np.where(allowed, weights, 0)[order]
    before = np.cumsum(left) - left
    edge = np.abs(before - p * left.sum()).min() < 1e-4 or np.abs(weights - min_p).min() < 1e-4
    if edge or np.diff(np.sort(x)).min() < 1e-5:
        return  # rounding, or ties, of which all are in, decide
    allowed[order] &= (before < p * left.sum()) & (weights[order] >= min_p)
    want = np.where(allowed, weights, 0)
    np.testing.assert_allclose(found, want / want.sum(), atol=1e-5)


def test_frequencies_follow_the_distribution() -> None:
    weights = np.tile(np.asarray([[0.1, 0.0, 0.6, 0.3]], np.float32), (4000, 1))
    u = ln.random.uniform(ln.random.key(5), (4000,))
    counts = np.bincount(np.asarray(draw(ln.asarray(weights), u)), minlength=4)
    assert counts[1] == 0
    expected = 4000 * weights[0, [0, 2, 3]]
    assert ((counts[[0, 2, 3]] - expected) ** 2 / expected).sum() < 13.8  # 0.001 of chi squared
    ends = ln.asarray([0.0, 1 - 2**-24])
    assert draw(ln.asarray(weights[:2]), ends).tolist() == [3, 0], "weight zero is never drawn"


def test_a_penalty_makes_what_was_said_less_likely() -> None:
    seen = ln.asarray([[True, False, True, False]])
    how = Choice.of([Sampling(repetition_penalty=2.0, temperature=1.0, top_p=1.0)], [0])
    token, logprob = choose(ln.asarray([[3.0, 2.0, -1.0, -1.5]]), seen, how._replace(
        temperature=np.zeros(1, np.float32)))  # fmt: skip
    assert token.tolist() == [1], "3 becomes 1.5"
    assert logprob.tolist()[0] == pytest.approx(2 - np.logaddexp.reduce([3, 2, -1, -1.5]), abs=1e-5)


@pytest.mark.parametrize(
    "bad",
    [{"temperature": -1.0}, {"temperature": math.nan}, {"top_k": -1}, {"top_p": 0.0},
     {"min_p": 2.0}, {"repetition_penalty": 0.0}, {"seed": -1}],
)  # fmt: skip
def test_senseless_sampling_is_refused(bad: dict[str, Any]) -> None:
    (name,) = bad
    with pytest.raises(Problem, match=f"--{name.replace('_', '-')} is"):
        Sampling(**bad).check()


# Writing ------------------------------------------------------------------------------------------


def test_writing_is_greedy_or_seeded(params: Params) -> None:
    writer, prompt = Writer(params, CONFIG), [1, 2, 3]

    def run(how: Sampling, **more: Any) -> list[int]:
        return [w.token for w in writer.write(prompt, how, 20, **more)]

    greedy = run(GREEDY)
    assert greedy == likeliest(params, prompt, 20)
    assert run(GREEDY, stops={greedy[4]}) == greedy[: greedy.index(greedy[4])]
    first = run(Sampling(1.0))
    assert run(Sampling(1.0)) == first
    assert run(Sampling(1.0, seed=1)) != first


@pytest.mark.parametrize("how", [GREEDY, Sampling(temperature=1.0, repetition_penalty=1.5, seed=4)])
def test_tokens_that_are_written_at_once_are_those_of_single_calls(
    params: Params, how: Sampling
) -> None:
    several, single = (Decoder(params, CONFIG, batch=2) for _ in range(2))
    found = several.write([3, 4], [how, GREEDY], [5, 0], 6)
    tokens = [3, 4]
    for i in range(6):
        ones = single.advance([[x] for x in tokens], [how, GREEDY], [5 + i, i])
        assert [some[i].token for some in found] == [one.token for one in ones]
        for some, one in zip(found, ones, strict=True):
            assert some[i].logprob == pytest.approx(one.logprob, abs=1e-5)
        tokens = [one.token for one in ones]
    assert several.texts == single.texts
    assert np.array_equal(np.asarray(several.state.seen), np.asarray(single.state.seen))


def test_a_small_model_writes_several_tokens_at_once(params: Params) -> None:
    writer, calls = Writer(params, CONFIG), list[int]()
    write = writer.decoder.write
    writer.decoder.write = lambda *given: calls.append(given[-1]) or write(*given)  # type: ignore[method-assign]
    found = [w.token for w in writer.write([1, 2, 3], GREEDY, 20)]
    assert calls == [AT_ONCE] * 3 and found == likeliest(params, [1, 2, 3], 20)
    assert len(writer.decoder.texts[0]) > 3 + 20, "what nobody asked for is read, too"
    again = [w.token for w in writer.write([1, 2, 3, *found[:4]], GREEDY, 5)]
    assert again == found[4:9]


@pytest.mark.parametrize(("bits", "calls"), [(4, 5), (32, 1)])
def test_a_short_prompt_is_read_singly_where_rows_cost_the_same(
    params: Params, monkeypatch: pytest.MonkeyPatch, bits: int, calls: int
) -> None:
    weights = params if bits == 32 else quantised(params, bits)
    writer, sizes, advance = Writer(weights, CONFIG), list[int](), Decoder.advance

    def counted(self: Decoder, chunks: Any, *rest: Any) -> Any:
        sizes.extend(map(len, chunks))
        return advance(self, chunks, *rest)

    monkeypatch.setattr(Decoder, "advance", counted)
    text = [1, 2, 3, 4, 5]
    (found,) = writer.read(text, GREEDY, 0)[:1]
    assert sizes == [5 // calls] * calls
    together = Decoder(weights, CONFIG)
    (expected,) = together.advance([text], [GREEDY], [0])
    assert found.token == expected.token
    assert math.isclose(found.logprob, expected.logprob, abs_tol=1e-3)
    assert writer.decoder.texts == together.texts == [text]


def test_a_common_beginning_is_not_read_again(params: Params) -> None:
    writer, prompt = Writer(params, CONFIG), list(range(20))
    list(writer.write(prompt, GREEDY, 1))
    other = [*prompt[:12], 7, 8]
    read: list[int] = []
    advance = writer.decoder.advance
    writer.decoder.advance = lambda parts, *rest: (  # type: ignore[method-assign]
        read.extend(parts[0]) or advance(parts, *rest)
    )
    (again,) = writer.write(other, GREEDY, 1)
    assert read == [7, 8]
    assert again.token == logits_after(params, other).argmax()
    assert np.flatnonzero(np.asarray(writer.decoder.state.seen)[0]).tolist() == sorted(set(other))


def test_writing_goes_beyond_the_context(params: Params) -> None:
    prompt = [5] * 60
    found = [w.token for w in Writer(params, CONFIG).write(prompt, GREEDY, 12)]
    seen = [*prompt, *found[:5]]  # one more than there is room for
    assert found[:5] == likeliest(params, prompt, 5)
    assert found[5:8] == likeliest(params, seen[-32:], 3)
    long = [i % 31 for i in range(300)]
    assert [w.token for w in Writer(params, CONFIG).write(long, GREEDY, 1)] == likeliest(
        params, long[-64:], 1
    )


@given(
    st.text("ab\n", max_size=30), st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(0, 30)),
)  # fmt: skip
def test_stop_strings_are_found_across_pieces(text: str, stops: list[str], cuts: list[int]) -> None:
    ends = sorted({0, len(text), *(c for c in cuts if c < len(text))})
    pieces = [text[a:b] for a, b in pairwise(ends)]
    found = [at for s in stops if (at := text.find(s)) >= 0]
    assert "".join(until(pieces, stops)) == text[: min(found, default=len(text))]
