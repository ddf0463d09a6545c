"""examples/llama3: tokens, data, the network against PyTorch, sampling."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lantern as ln
from examples.llama3 import cache as caches
from examples.llama3 import tokenizer
from examples.llama3.config import ModelConfig, TrainConfig
from examples.llama3.data import NO_TARGET
from examples.llama3.files import Problem
from examples.llama3.model import extend, forward, init, loss

TINY: dict[str, Any] = {
    "dim": 16, "layers": 2, "heads": 4, "kv_heads": 2, "ffn": 24, "context": 16,
}  # fmt: skip
SHORT: dict[str, Any] = {
    "tokenizer": "bytes", "batch": 2, "steps": 6, "validate_every": 2, "validation_sequences": 3,
    "save_every": 2, "valid_fraction": 0.2, "lr": 1e-2,
}  # fmt: skip


# Tokens -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", "def f(x):\n    return x\n", "naïve «漢字» 🎉\r\n\t", "a\x00b"]
)
def test_tokens_give_the_text_back(text: str) -> None:
    corpus = ["def f(x):\n    return x + 1\n" * 20, "class A:\n    pass\n" * 20]
    for tokens in (tokenizer.Bytes(), tokenizer.BytePairs.train(corpus, 300)):
        encoded = tokens.encode(text)
        assert tokens.decode([tokens.bos, *encoded, tokens.eos]) == text
        assert tokens.byte_lengths()[encoded].sum() == len(text.encode())
        assert len(tokens.byte_lengths()) == tokens.vocab


def test_a_character_split_over_tokens_streams_whole() -> None:
    tokens = tokenizer.Bytes()
    assert [t for t in tokens.stream(tokens.encode("aé漢")) if t] == ["a", "é", "漢"]
    assert tokens.decode([0xE6, 0xBC]) == "\ufffd"


def test_special_tokens_cannot_be_spelled() -> None:
    tokens = tokenizer.BytePairs.train(["<|begin_of_text|> " * 50], 300)
    assert not {tokens.bos, tokens.eos} & set(tokens.encode("<|begin_of_text|><|end_of_text|>"))


def test_bpe_is_deterministic_and_survives_saving(tmp_path: Path) -> None:
    corpus = ["def f(x):\n    return x + 1\n" * 20]
    first, second = (tokenizer.BytePairs.train(corpus, 280) for _ in range(2))
    assert first.to_json() == second.to_json()
    first.save(tmp_path / "t.json")
    again = tokenizer.load(tmp_path / "t.json")
    assert again.pieces == first.pieces
    assert again.encode(corpus[0]) == first.encode(corpus[0])
    tokenizer.Bytes().save(tmp_path / "b.json")
    assert tokenizer.load(tmp_path / "b.json").vocab == 263


def test_a_vocabulary_too_small_for_bytes_is_refused() -> None:
    with pytest.raises(Problem, match=r"--bpe-vocab is 200; .* at least 263"):
        tokenizer.BytePairs.train(["x"], 200)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"kind": "bpe", "tokenizer": {}}', '{"a": 1}'])
def test_a_damaged_tokenizer_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(Problem, match=r"tokenizer\.json is not a tokenizer"):
        tokenizer.load(path)


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(Problem, match=r"cannot read the tokenizer .*tokenizer\.json: No such file"):
        tokenizer.load(tmp_path / "tokenizer.json")


# The network ------------------------------------------------------------------------------------


def model_config(**more: Any) -> ModelConfig:
    return ModelConfig(**{"vocab": 31, **TINY, **more})


@pytest.mark.peer
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_logits_and_gradients_equal_an_independent_implementation(
    tied: bool, kv_heads: int
) -> None:
    torch = pytest.importorskip("torch")
    config = model_config(tied=tied, kv_heads=kv_heads)
    params = init(ln.random.key(1), config, dtype=ln.float64)
    rng = np.random.default_rng(2)
    # Gains of exactly one would hide a gain that is left out; small matrices hide the softmax.
    params = ln.tree.map(
        lambda p: ln.asarray(np.asarray(p) * 5 + 0.3 * rng.standard_normal(p.shape)), params
    )
    tokens = rng.integers(0, config.vocab, (3, 12))
    targets = rng.integers(0, config.vocab, (3, 12))
    targets[:, [2, 7]] = NO_TARGET
    segments = np.sort(rng.integers(0, 3, (3, 12)), axis=1)

    theirs = ln.tree.map(lambda p: torch.tensor(np.asarray(p), requires_grad=True), params)
    logits = torch_logits(torch, theirs, tokens, segments, config)
    torch.nn.functional.cross_entropy(
        logits.reshape(-1, config.vocab),
        torch.tensor(targets).reshape(-1),
        ignore_index=NO_TARGET,
    ).backward()

    found = np.asarray(forward(params, tokens, config, segments))
    expected = logits.detach().numpy()
    assert np.abs(found - expected).max() < 1e-9 * np.abs(expected).max()
    gradient = ln.grad(loss)(params, tokens, targets, segments, config)
    for path, mine, other in zip(
        ln.tree.paths(params), ln.tree.leaves(gradient), ln.tree.leaves(theirs), strict=True
    ):
        difference = np.abs(np.asarray(mine) - other.grad.numpy()).max()
        assert difference < 1e-9 * float(other.grad.abs().max()), (path, difference)


def torch_logits(torch: Any, p: Any, tokens: Any, segments: Any, config: ModelConfig) -> Any:
    """Llama 3 written from the paper with complex rotations, as Meta's code has them."""
    h, kv, c = config.heads, config.kv_heads, config.dim // config.heads
    b, t = tokens.shape
    segments = torch.tensor(segments)
    powers = torch.arange(0, c, 2, dtype=torch.float64) / c
    angles = torch.outer(torch.arange(t, dtype=torch.float64), config.rope_theta**-powers)
    turn = torch.polar(torch.ones_like(angles), angles)[:, None, :]  # [T, 1, C/2]

    def rotate(x: Any) -> Any:
        # Halves are the real and imaginary parts, as in Hugging Face's layout.
        z = torch.complex(x[..., : c // 2], x[..., c // 2 :]) * turn
        return torch.cat([z.real, z.imag], dim=-1)

    def norm(x: Any, gain: Any) -> Any:
        return x / torch.sqrt((x**2).mean(-1, keepdim=True) + config.norm_eps) * gain

    visible = torch.tril(torch.ones(t, t, dtype=torch.bool)) & (
        segments[:, :, None] == segments[:, None, :]
    )
    p = {**p, "layers": [transposed(layer) for layer in p["layers"]]}
    x = p["embedding"][torch.tensor(tokens)]
    for layer in p["layers"]:
        y = norm(x, layer["attention_norm"])
        q = rotate((y @ layer["query"]).view(b, t, h, c))
        k = rotate((y @ layer["key"]).view(b, t, kv, c)).repeat_interleave(h // kv, dim=2)
        v = (y @ layer["value"]).view(b, t, kv, c).repeat_interleave(h // kv, dim=2)
        scores = torch.einsum("bthc,bshc->bhts", q, k) / c**0.5
        weights = scores.masked_fill(~visible[:, None], -torch.inf).softmax(-1)
        x = x + torch.einsum("bhts,bshc->bthc", weights, v).reshape(b, t, h * c) @ layer["output"]
        y = norm(x, layer["ffn_norm"])
        x = x + (torch.nn.functional.silu(y @ layer["gate"]) * (y @ layer["up"])) @ layer["down"]
    x = norm(x, p["norm"])
    return x @ p["embedding" if config.tied else "output"].T


def transposed(layer: Any) -> Any:
    """Matrices as (inputs, outputs), gains as they are."""
    return {name: p.T if p.ndim == 2 else p for name, p in layer.items()}


def test_a_document_does_not_see_its_neighbours() -> None:
    config = model_config()
    params = init(ln.random.key(0), config, dtype=ln.float64)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, config.vocab, (1, 12))
    segments = np.array([[0] * 5 + [1] * 7])
    together = np.asarray(forward(params, tokens, config, segments))
    alone = np.asarray(forward(params, tokens[:, 5:], config))
    # Rotary embedding knows relative positions only, so the second document may stand anywhere.
    np.testing.assert_allclose(together[:, 5:], alone, atol=1e-12)


def test_the_cache_gives_what_full_recomputation_gives() -> None:
    config = model_config()
    params = init(ln.random.key(3), config, dtype=ln.float64)
    params = ln.tree.map(lambda p: 3 * p, params)
    tokens = np.random.default_rng(1).integers(0, config.vocab, (2, 14))
    expected = np.asarray(forward(params, tokens, config))
    cache, found, at = caches.empty(config, 2, 16, ln.float64), [], 0
    for size in (5, 1, 1, 4, 1, 2):  # prefill, decode, and further chunks
        logits, cache = extend(params, tokens[:, at : at + size], config, cache)
        found.append(np.asarray(logits))
        at += size
    np.testing.assert_allclose(np.concatenate(found, axis=1), expected, atol=1e-11)


def test_shapes_that_do_not_fit_are_refused() -> None:
    for bad, message in (
        ({"heads": 3}, r"--dim 16 over --heads 3 gives heads of 5\.33333 numbers"),
        ({"kv_heads": 3}, r"--heads 4 is not a multiple of --kv-heads 3"),
        ({"layers": 0}, r"--layers is 0; it must be at least 1"),
    ):
        with pytest.raises(Problem, match=message):
            model_config(**bad).check()
    for bad, message in (
        ({"batch": 0}, "--batch is 0"),
        ({"lr": -1.0}, "--lr is -1.0; it must be positive"),
        ({"clip": -1.0}, "--clip is -1.0; it must not be negative"),
        ({"lr": math.nan}, "--lr is nan"),
        ({"minutes": math.inf}, "--minutes is inf; it must be a finite number"),
        ({"valid_fraction": 0.9}, r"--valid-fraction is 0\.9; it must lie between 0 and 0\.5"),
    ):
        with pytest.raises(Problem, match=message):
            TrainConfig(**bad).check()
