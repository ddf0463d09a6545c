"""examples/llama3: a draft changes how fast a text is written, and nothing of the text."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import lantern as ln
from examples.llama3 import speculative
from examples.llama3.config import ModelConfig
from examples.llama3.files import Problem
from examples.llama3.generate import Writer
from examples.llama3.model import Params, forward, init
from examples.llama3.sampling import GREEDY, Choice, Sampling, penalize, probabilities
from examples.llama3.speculative import Speculator, draft_of, judge
from examples.llama3.tokenizer import Bytes
from examples.llama3.weights import Loaded
from tests.small_llama import few_programs, lively

CONFIG = ModelConfig(
    vocab=5, dim=8, layers=2, heads=2, kv_heads=1, ffn=12, context=40, rope_theta=1e4
)
HOW = Sampling(1.3, 0.9, 4, 0.97, 0.02)


@pytest.fixture(scope="module", autouse=True)
def few() -> Iterator[None]:
    with few_programs(16, 64):
        yield


@pytest.fixture(scope="module")
def params() -> Params:
    """Of a random model that is not indifferent."""
    return lively(CONFIG)


@pytest.fixture(scope="module")
def speculator(params: Params) -> Speculator:
    """With a draft that is another model."""
    config = dataclasses.replace(CONFIG, layers=1)
    return Speculator(params, CONFIG, (lively(config, 8), config), ahead=3)


def test_greedy_text_is_that_of_the_target(params: Params, speculator: Speculator) -> None:
    for prompt in ([1], [2, 3, 4, 0, 1, 2], list(range(5)) * 5):
        for count in (1, 7, 60):  # the last beyond the context, of which half is then forgotten
            want = list(Writer(params, CONFIG).write(prompt, GREEDY, count))
            found = list(speculator.write(prompt, GREEDY, count))
            assert [w.token for w in found] == [w.token for w in want]
            np.testing.assert_allclose(
                [w.logprob for w in found], [w.logprob for w in want], atol=1e-4
            )
    assert 0 < speculator.kept < speculator.guessed == 3 * speculator.passes


def test_stops_end_a_text_amid_a_draft(speculator: Speculator) -> None:
    text = [w.token for w in speculator.write([1], GREEDY, 12)]
    for stop in set(text):
        ended = [w.token for w in speculator.write([1], GREEDY, 12, {stop})]
        assert ended == text[: text.index(stop)]


def test_what_is_drawn_follows_the_target(params: Params, speculator: Speculator) -> None:
    """The first three tokens, with all ways of sampling at work, over many seeds."""
    prompt, rounds = [1, 2], 800
    counts = Counter(
        tuple(w.token for w in speculator.write(prompt, dataclasses.replace(HOW, seed=i), 3))
        for i in range(rounds)
    )
    expected: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(3):
        expected = {
            (*before, token): chance * p
            for before, chance in expected.items()
            for token, p in enumerate(after(params, [*prompt, *before]))
            if p > 0
        }
    assert set(counts) <= set(expected), "what the target never writes, nobody does"
    often = [t for t, chance in expected.items() if chance * rounds >= 5]
    seen = np.array([counts[t] for t in often] + [rounds - sum(counts[t] for t in often)])
    want = rounds * np.array([expected[t] for t in often])
    want = np.append(want, rounds - want.sum())
    degrees = len(seen) - 1
    chi = ((seen - want) ** 2 / want).sum()
    assert chi < degrees + 4 * (2 * degrees) ** 0.5, f"{chi} of {degrees} degrees of freedom"
    assert 0.2 < speculator.kept / speculator.guessed < 0.95


def after(params: Params, text: list[int]) -> np.ndarray:
    """The target's probabilities of the next token, without a cache."""
    logits = forward(params, np.array([text]), CONFIG)[:, -1]
    seen = ln.asarray([[t in text for t in range(CONFIG.vocab)]])
    how = Choice.of([HOW], [0])
    return np.asarray(probabilities(penalize(logits, seen, how), how))[0]


def test_judging_keeps_the_beginning_and_draws_what_is_missing() -> None:
    rng = np.random.default_rng(0)
    p, q = (rng.dirichlet(np.ones(4), n).astype(np.float32) for n in (3, 2))
    q[0, 3], q[0, 0] = 0, q[0, 0] + q[0, 3]
    n = 20_000
    drafts = np.stack([rng.choice(4, n, p=row / row.sum()) for row in q], axis=1)
    u, instead = rng.random((n, 2), np.float32), rng.random((n, 3), np.float32)
    kept, token = ln.vmap(judge, in_axes=(None, None, 0, 0, 0))(
        *map(ln.asarray, (p, q, drafts, u, instead))
    )
    kept, token = np.asarray(kept), np.asarray(token)
    first = np.where(kept > 0, drafts[:, 0], token)
    np.testing.assert_allclose(np.bincount(first, minlength=4) / n, p[0], atol=0.015)
    assert np.mean(kept > 0) == pytest.approx(np.minimum(p[0], q[0]).sum(), abs=0.015)
    second = np.where(kept > 1, drafts[:, 1], token)[kept > 0]
    np.testing.assert_allclose(np.bincount(second, minlength=4) / len(second), p[1], atol=0.02)
    third = token[kept == 2]
    np.testing.assert_allclose(np.bincount(third, minlength=4) / len(third), p[2], atol=0.02)


def test_a_draft_that_is_the_target_is_always_kept(params: Params) -> None:
    speculator = Speculator(params, CONFIG, (params, CONFIG), ahead=3)
    list(speculator.write([1, 2], HOW, 20))
    assert speculator.kept == speculator.guessed
    assert str(speculator) == "100% of 15 guesses kept, 4.00 tokens a pass of the model"


def test_drafts_are_made_of_the_model_or_refused(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(CONFIG, dim=32, vocab=263)
    model = Loaded(init(ln.random.key(0), config), config, Bytes())
    few, same = draft_of(model, "4bit")
    assert same == config and few["layers"][0]["query"].bits == 4
    short, smaller = draft_of(model, "1layers")
    assert smaller.layers == len(short["layers"]) == 1
    for bad, message in (("3bit", "3 bits"), ("2layers", "has 2"), (str(tmp_path / "x"), "x")):
        with pytest.raises(Problem, match=message):
            draft_of(model, bad)
    with pytest.raises(Problem, match="same vocabulary"):
        Speculator(params, CONFIG, (model.params, config))
    with pytest.raises(Problem, match="at least one"):
        Speculator(params, CONFIG, (params, CONFIG), ahead=0)
    other = Bytes()
    other.pieces = [b"?", *other.pieces[1:]]
    monkeypatch.setattr(
        speculative.weights, "load", lambda _: dataclasses.replace(model, tokenizer=other)
    )
    with pytest.raises(Problem, match="another vocabulary"):
        draft_of(model, "other.gguf")
