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
from examples.llama3 import cache as caches
from examples.llama3.cache import Cache, Memory
from examples.llama3.config import ModelConfig
from examples.llama3.data import NO_TARGET
from examples.llama3.quantise import Matrix, dense, embedding, linear

Params = dict[str, Any]


def shapes(config: ModelConfig) -> Params:
    """The parameters' shapes, in their places: matrices are (outputs, inputs), as in the
    checkpoints that Hugging Face publishes."""
    d, q, kv = config.dim, config.heads * config.head_dim, config.kv_heads * config.head_dim
    block = {
        "attention_norm": (d,), "query": (q, d), "key": (kv, d), "value": (kv, d),
        "output": (d, q),
        "ffn_norm": (d,), "gate": (config.ffn, d), "up": (config.ffn, d), "down": (d, config.ffn),
    }  # fmt: skip
    ends = {"embedding": (config.vocab, d), "norm": (d,)}
    if not config.tied:
        ends["output"] = (config.vocab, d)
    return {**ends, "layers": [dict(block) for _ in range(config.layers)]}


def init(key: ln.Tensor, config: ModelConfig, dtype: Any = ln.float32) -> Params:
    """Draw initial parameters: normal matrices of standard deviation 0.02, gains of one.

    The two matrices of a block that write to the residual stream are scaled down by the root of
    the number of such writes, so that the stream's variance does not grow with depth.

    Args:
        key: a random key.
        config: the shape of the network.
        dtype: of all parameters.

    Returns:
        A pytree like that of `shapes`.
    """
    config.check()
    residual = 0.02 / (2 * config.layers) ** 0.5
    shape = shapes(config)

    def gain(shape: tuple[int, ...]) -> ln.Tensor:
        return ln.ones(shape, dtype=dtype)

    def matrix(key: ln.Tensor, shape: tuple[int, ...], std: float = 0.02) -> ln.Tensor:
        return ln.random.normal(key, shape, dtype, 0.0, std)

    def block(key: ln.Tensor, shape: Params) -> Params:
        keys = iter(ln.random.split(key, 7))
        writes = {"output": residual, "down": residual}
        return {
            name: gain(s) if len(s) == 1 else matrix(next(keys), s, writes.get(name, 0.02))
            for name, s in shape.items()
        }

    keys = ln.random.split(key, config.layers + 2)
    params = {
        "embedding": matrix(keys[0], shape["embedding"]),
        "layers": [block(keys[2 + i], s) for i, s in enumerate(shape["layers"])],
        "norm": gain(shape["norm"]),
    }
    if not config.tied:
        params["output"] = matrix(keys[1], shape["output"])
    return params


def forward(params: Params, tokens: Any, config: ModelConfig, segments: Any = None) -> ln.Tensor:
    """The logits of the next token at every position.

    Args:
        params: from `init`.
        tokens: integers [B, T].
        segments: the number of the document that each position belongs to, [B, T]; attention stays
            within a document. None: each sequence is one document.

    Returns:
        Logits [B, T, V].
    """
    return linear(stream(params, tokens, config, None, segments)[0], output(params, config))


def extend(
    params: Params, tokens: Any, config: ModelConfig, cache: Cache
) -> tuple[ln.Tensor, Cache]:
    """The logits of T further positions of each sequence, after those that are cached.

    Args:
        params: from `init`.
        tokens: integers [B, T].
        cache: of B sequences, which may have different lengths, and room for T more positions.

    Returns:
        Logits [B, T, V], and the cache with these positions added.
    """
    x, cache = stream(params, tokens, config, cache)
    return linear(x, output(params, config)), cache


def stream(
    params: Params, tokens: Any, config: ModelConfig, cache: Cache | None, segments: Any = None,
    checkpoint: int = 0,
) -> tuple[ln.Tensor, Any]:  # fmt: skip
    """What the blocks make of tokens [B, T], normed [B, T, D], and the cache, if there is one, with
    them added."""
    x = embedding(params["embedding"], tokens, params["norm"].dtype)  # [B, T, D]
    # RoPE's base of 500,000, higher than before, serves longer contexts (section 3.2).
    frequencies = rotary(config)
    positions = ln.arange(x.shape[1])  # [T]
    if cache is not None:
        positions = ln.expand_dims(cache.lengths, axis=1) + positions  # [B, T]

    @ln.outline  # compiled, all layers share the code of one
    def block(layer: Params, x: ln.Tensor, past: Memory | None) -> tuple[ln.Tensor, Memory | None]:
        normed = ln.nn.rms_norm(x, layer["attention_norm"], config.norm_eps)
        seen, memory = attention(layer, normed, config, positions, frequencies, segments, past)
        x = x + seen
        return x + feed_forward(
            layer, ln.nn.rms_norm(x, layer["ffn_norm"], config.norm_eps)
        ), memory

    def several(layers: list[Params], x: ln.Tensor) -> ln.Tensor:
        for layer in layers:
            x, _ = block(layer, x, None)
        return x

    layers, memories = params["layers"], []
    if checkpoint:  # of some blocks only what goes in is kept; they run again on the way back
        for i in range(0, len(layers), checkpoint):
            x = ln.checkpoint(several)(layers[i : i + checkpoint], x)
    else:
        for i, layer in enumerate(layers):
            x, memory = block(layer, x, None if cache is None else cache.layers[i])
            memories.append(memory)
    if cache is not None:
        cache = Cache(memories, cache.lengths + x.shape[1])
    return ln.nn.rms_norm(x, params["norm"], config.norm_eps), cache


def rotary(config: ModelConfig) -> ln.Tensor:
    """The rotary frequencies [C/2], stretched for long contexts (section 3.4.2) if asked."""
    s = config.rope_scaling
    scaling = s and ln.nn.Llama3Scaling(s.factor, s.low, s.high, s.original)
    return ln.nn.rope_frequencies(config.head_dim, config.rope_theta, scaling)


def output(params: Params, config: ModelConfig) -> Matrix:
    """The matrix that scores the tokens [V, D]."""
    return params["embedding"] if config.tied else params["output"]


def attention(
    layer: Params,
    x: ln.Tensor,
    config: ModelConfig,
    positions: ln.Tensor,
    frequencies: ln.Tensor,
    segments: Any,
    past: Memory | None,
) -> tuple[ln.Tensor, Memory | None]:
    """Grouped-query attention (section 3.2): H/K query heads share a head of keys and values. A
    position sees no later one, and none of another document.

    Returns:
        What the block adds to the stream [B, T, D], and the keys and values seen so far, where some
        are kept.
    """
    b, t, _ = x.shape
    c = config.head_dim
    q = ln.reshape(linear(x, layer["query"]), (b, t, config.heads, c))
    k = ln.reshape(linear(x, layer["key"]), (b, t, config.kv_heads, c))
    v = ln.reshape(linear(x, layer["value"]), (b, t, config.kv_heads, c))
    q = ln.nn.apply_rope(q, positions, frequencies)
    k = ln.nn.apply_rope(k, positions, frequencies)
    if past is None:
        y = ln.nn.attention(q, k, v, causal=True, segment_ids=segments)  # [B, T, H, C]
    else:
        past = caches.written(past, k, v, positions)
        y = caches.attention(q, past, positions)
    return linear(ln.reshape(y, (b, t, config.heads * c)), layer["output"]), past


def feed_forward(layer: Params, x: ln.Tensor) -> ln.Tensor:
    """SwiGLU (table 3): a hidden layer, gated; [B, T, D] -> [B, T, D]."""
    hidden = ln.silu(linear(x, layer["gate"])) * linear(x, layer["up"])  # [B, T, F]
    return linear(hidden, layer["down"])


def loss(
    params: Params, tokens: Any, targets: Any, segments: Any, config: ModelConfig,
    checkpoint: int = 0,
) -> ln.Tensor:  # fmt: skip
    """The mean cross-entropy of the next token, in nats, over the positions that have a target.

    Args:
        params: from `init`.
        tokens: integers [B, T].
        targets: the next tokens, or `data.NO_TARGET`, [B, T].
        segments: as for `forward`.
        config: the shape of the network.
        checkpoint: keep for the way back only what goes into each so many blocks; 0: everything.
    """
    x, _ = stream(params, tokens, config, None, segments, checkpoint)
    return ln.nn.linear_cross_entropy(
        x, dense(output(params, config)), targets, ignore_index=NO_TARGET
    )


def parameter_count(params: Params) -> int:
    """The number of numbers that are learned."""
    return sum(p.size for p in ln.tree.leaves(params))


def bytes_of(params: Params) -> int:
    """What parameters take of memory."""
    return sum(p.size * p.dtype.itemsize for p in ln.tree.leaves(params))
