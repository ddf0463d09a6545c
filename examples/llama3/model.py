"""The Llama 3 network, as pure functions of a pytree of parameters.

Section 3.2 of *The Llama 3 Herd of Models*: a standard dense transformer with grouped-query
attention, an attention mask that keeps documents in one sequence apart, and rotary embedding with
base 500,000; from its predecessors come RMSNorm before each half of a block, SwiGLU, and the
absence of biases.

Letters in shape comments: B sequences, T positions, S positions of keys, D width, H query heads, K
key and value heads, C numbers in a head, F width of the feed-forward, V tokens in the vocabulary.
"""

from __future__ import annotations

from typing import Any

import lantern as ln
from examples.llama3.config import ModelConfig
from examples.llama3.data import NO_TARGET

Params = dict[str, Any]
Cache = list[tuple[ln.Tensor, ln.Tensor]]  # a layer's keys and values, each [B, S, K, C]


def init(key: Any, config: ModelConfig, dtype: Any = ln.float32) -> Params:
    """Draw initial parameters: normal matrices of standard deviation 0.02, gains of one.

    The two matrices of a block that write to the residual stream are scaled down by the square root
    of the number of such writes, so that the stream's variance does not grow with depth.
    """
    config.check()
    d, c = config.dim, config.head_dim
    residual = 0.02 / (2 * config.layers) ** 0.5

    def normal(key: Any, fan_in: int, fan_out: int, std: float = 0.02) -> ln.Tensor:
        return std * ln.random.normal(key, (fan_in, fan_out), dtype=dtype)

    def block(key: Any) -> Params:
        keys = ln.random.split(key, 7)
        return {
            "attention_norm": ln.ones(d, dtype=dtype),
            "wq": normal(keys[0], d, config.heads * c),
            "wk": normal(keys[1], d, config.kv_heads * c),
            "wv": normal(keys[2], d, config.kv_heads * c),
            "wo": normal(keys[3], config.heads * c, d, residual),
            "ffn_norm": ln.ones(d, dtype=dtype),
            "gate": normal(keys[4], d, config.ffn),
            "up": normal(keys[5], d, config.ffn),
            "down": normal(keys[6], config.ffn, d, residual),
        }

    keys = ln.random.split(key, config.layers + 2)
    params = {
        "embedding": normal(keys[0], config.vocab, d),
        "layers": [block(k) for k in keys[2:]],
        "norm": ln.ones(d, dtype=dtype),
    }
    if not config.tied:
        params["output"] = normal(keys[1], d, config.vocab)
    return params


def forward(params: Params, tokens: Any, config: ModelConfig, segments: Any = None) -> ln.Tensor:
    """The logits of the next token at every position.

    Args:
        params: from `init`.
        tokens: integers [B, T].
        segments: the number of the document that each position belongs to, [B, T]; attention stays
            within a document (section 3.2). None: each sequence is one document.

    Returns:
        Logits [B, T, V].
    """
    return extend(params, tokens, config, None, segments)[0]


def extend(
    params: Params, tokens: Any, config: ModelConfig, cache: Cache | None, segments: Any = None
) -> tuple[ln.Tensor, Cache]:
    """The logits of T further positions after those whose keys and values are cached.

    Args:
        params: from `init`.
        tokens: integers [B, T].
        cache: what the last call returned; None at the beginning of a text.
        segments: as for `forward`; only without a cache.

    Returns:
        Logits [B, T, V], and the cache with these positions added.
    """
    start = 0 if cache is None else cache[0][0].shape[1]
    positions = ln.arange(start, start + tokens.shape[1])  # [T]
    frequencies = ln.nn.rope_frequencies(config.head_dim, theta=config.rope_theta)  # [C/2]
    x = ln.nn.embedding(params["embedding"], tokens)  # [B, T, D]
    new: Cache = []
    for i, layer in enumerate(params["layers"]):
        past = None if cache is None else cache[i]
        h = ln.nn.rms_norm(x, layer["attention_norm"], eps=config.norm_eps)
        h, kept = attention(layer, h, config, positions, frequencies, past, segments)
        x = x + h
        x = x + feed_forward(layer, ln.nn.rms_norm(x, layer["ffn_norm"], eps=config.norm_eps))
        new.append(kept)
    x = ln.nn.rms_norm(x, params["norm"], eps=config.norm_eps)
    output = params["output"] if "output" in params else params["embedding"].T  # [D, V]
    return x @ output, new


def attention(
    layer: Params,
    x: ln.Tensor,
    config: ModelConfig,
    positions: ln.Tensor,
    frequencies: ln.Tensor,
    past: tuple[ln.Tensor, ln.Tensor] | None,
    segments: Any,
) -> tuple[ln.Tensor, tuple[ln.Tensor, ln.Tensor]]:
    """Grouped-query attention (section 3.2): H/K query heads share a head of keys and values.

    Returns:
        What the block adds to the stream [B, T, D], and the keys and values seen so far.
    """
    b, t, _ = x.shape
    q = ln.reshape(x @ layer["wq"], (b, t, config.heads, config.head_dim))  # [B, T, H, C]
    k = ln.reshape(x @ layer["wk"], (b, t, config.kv_heads, config.head_dim))  # [B, T, K, C]
    v = ln.reshape(x @ layer["wv"], (b, t, config.kv_heads, config.head_dim))
    q = ln.nn.apply_rope(q, positions, frequencies)
    k = ln.nn.apply_rope(k, positions, frequencies)
    if past is not None:
        k = ln.concat([past[0], k], axis=1)  # [B, S, K, C]
        v = ln.concat([past[1], v], axis=1)
    y = ln.nn.attention(q, k, v, causal=True, segment_ids=segments)  # [B, T, H, C]
    return ln.reshape(y, (b, t, config.heads * config.head_dim)) @ layer["wo"], (k, v)


def feed_forward(layer: Params, x: ln.Tensor) -> ln.Tensor:
    """SwiGLU: a gated hidden layer; [B, T, D] -> [B, T, D]."""
    return (ln.silu(x @ layer["gate"]) * (x @ layer["up"])) @ layer["down"]


def loss(
    params: Params, tokens: Any, targets: Any, segments: Any, config: ModelConfig
) -> ln.Tensor:
    """The mean cross-entropy of the next token, in nats, over the positions that have a target.

    Args:
        params: from `init`.
        tokens, targets, segments: a `data.Batch`, each [B, T].
    """
    logits = forward(params, tokens, config, segments)
    return ln.nn.cross_entropy(logits, targets, ignore_index=NO_TARGET)


def parameter_count(params: Params) -> int:
    """The number of numbers that are learned."""
    return sum(p.size for p in ln.tree.leaves(params))
