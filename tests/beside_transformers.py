"""Llamas in `transformers`, beside which those of examples/llama3 are put."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lantern as ln
from examples.llama3 import huggingface
from examples.llama3.config import ModelConfig
from examples.llama3.model import Params, forward, loss
from examples.llama3.stored import named


def config_of(config: ModelConfig) -> Any:
    """The shape, as transformers 5 writes it."""
    transformers = pytest.importorskip("transformers")
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.rope_scaling:
        s = config.rope_scaling
        rope |= {
            "rope_type": "llama3", "factor": s.factor, "low_freq_factor": s.low,
            "high_freq_factor": s.high, "original_max_position_embeddings": s.original,
        }  # fmt: skip
    return transformers.LlamaConfig(
        vocab_size=config.vocab,
        hidden_size=config.dim,
        intermediate_size=config.ffn,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        head_dim=config.head_dim,
        max_position_embeddings=config.context,
        rms_norm_eps=config.norm_eps,
        rope_parameters=rope,
        tie_word_embeddings=config.tied,
        bos_token_id=0,
        eos_token_id=0,
    )


def twin_of(config: ModelConfig, raw: dict[str, Any]) -> Any:
    """The same network in transformers, of tensors by the names that it has for them."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from transformers.initialization import no_init_weights

    with no_init_weights():
        twin = transformers.LlamaForCausalLM(config_of(config))
    state = {name: torch.from_numpy(np.array(value)) for name, value in raw.items()}
    missing, extra = twin.load_state_dict(state, strict=False)
    assert not extra
    assert set(missing) <= {"lm_head.weight"}
    twin.tie_weights()
    return twin.eval()


def check_beside(
    twin: Any, params: Params, config: ModelConfig, tokens: Any, compiled: bool = True,
    learned: int | None = None,
) -> tuple[Any, Any]:  # fmt: skip
    """Logits agree to 1e-3, gradients of the training loss to 1e-3 of a tensor's largest.

    Args:
        twin: in transformers.
        params, config: of the same network here.
        tokens: [B, T]; the last has no logits.
        compiled: whether it is compiled here.
        learned: tokens of which the gradients are compared; None: all.

    Returns:
        The logits after all tokens but the last: those here, and those there.
    """
    import torch

    context, targets = tokens[:, :-1], tokens[:, 1:]
    with torch.no_grad():
        expected = twin(torch.tensor(context)).logits.numpy()
    few, few_targets = context[:, :learned], targets[:, :learned]
    twin.zero_grad()
    torch.nn.functional.cross_entropy(
        twin(torch.tensor(few)).logits.flatten(0, 1), torch.tensor(few_targets).flatten().long()
    ).backward()

    def both(params: Params, context: Any, few: Any, targets: Any) -> Any:
        segments = ln.zeros_like(targets)
        gradient = ln.grad(lambda p: loss(p, few, targets, segments, config))(params)
        return forward(params, context, config), gradient

    ours, gradient = (ln.compile(both) if compiled else both)(
        params, *map(ln.asarray, (context, few, few_targets))
    )
    assert np.abs(np.asarray(ours) - expected).max() < 1e-3
    other = dict(twin.named_parameters())
    for name, x in named(gradient):
        theirs = other[huggingface.NAMES.spelled(name)].grad.numpy()
        error = np.abs(np.asarray(x) - theirs).max() / np.abs(theirs).max()
        assert error < 1e-3, (name, error)
    return np.asarray(ours), expected
