"""The models that the rows about decoding read, for every contender in the form that it takes.

"A" is the shape of the training row A, with random parameters; "SmolLM2-135M" has the real ones. In
few bits both are what `examples.llama3.quantise` rounds them to, and llama.cpp gets the same codes
and scales in a GGUF file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import llama3_data
from examples.llama3 import gguf_file, quantise, weights
from examples.llama3.config import ModelConfig
from examples.llama3.model import Params
from examples.llama3.quantise import Quantised

SMOLLM2 = "SmolLM2-135M"
FLOAT = 32  # bits of what is not rounded


def load(model: str, bits: int, widened: bool = False) -> tuple[ModelConfig, Params]:
    """The shape and the parameters of a model, its matrices in so many bits.

    Args:
        model: "A" and the like, or `SMOLLM2`.
        bits: of each number; `FLOAT`: they are not rounded.
        widened: give the floats that rounded matrices mean, in place of codes and scales.
    """
    if model == SMOLLM2:
        found = weights.load(weights.smollm2())
        config, params = found.config, found.params
    else:
        s = llama3_data.SHAPES[model]
        config = ModelConfig(
            vocab=s.vocab, dim=s.dim, layers=s.layers, heads=s.heads, kv_heads=s.kv_heads,
            ffn=s.ffn, context=s.context, rope_theta=s.rope_theta, norm_eps=s.norm_eps,
        )  # fmt: skip
        import lantern as ln

        params = llama3_data.mapped(ln.asarray, llama3_data.parameters(s))
    if bits != FLOAT:
        params = quantise.quantised(params, bits)
    return config, floats(params) if widened else params


def floats(params: Any) -> Any:
    """Parameters, each matrix as the floats that are meant."""
    if isinstance(params, dict):
        return {name: floats(x) for name, x in params.items()}
    return [floats(x) for x in params] if isinstance(params, list) else quantise.dense(params)


def text(config: ModelConfig, count: int) -> list[int]:
    """Some tokens."""
    return np.random.default_rng(3).integers(config.vocab, size=count).tolist()


def leaves(params: Params) -> list[np.ndarray[Any, Any]]:
    """All arrays of a model."""
    import lantern as ln

    return [np.asarray(x) for x in ln.tree.leaves(params)]


def write_gguf(config: ModelConfig, params: Params, path: Path) -> None:
    """Write a model for llama.cpp. Its vocabulary is SmolLM2's, as far as it has tokens."""
    from gguf import GGUFWriter

    words = gguf_file.read(weights.smollm2()).fields
    out = GGUFWriter(path, "llama")
    out.add_context_length(config.context)
    out.add_embedding_length(config.dim)
    out.add_block_count(config.layers)
    out.add_feed_forward_length(config.ffn)
    out.add_head_count(config.heads)
    out.add_head_count_kv(config.kv_heads)
    out.add_rope_dimension_count(config.head_dim)
    out.add_rope_freq_base(config.rope_theta)
    out.add_layer_norm_rms_eps(config.norm_eps)
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("smollm")
    out.add_token_list(words["tokenizer.ggml.tokens"][: config.vocab])
    out.add_token_types(words["tokenizer.ggml.token_type"][: config.vocab])
    out.add_token_merges(words["tokenizer.ggml.merges"])
    names = gguf_file.NAMES
    for name, stored in names.ends.items():
        if name in params:
            add(out, stored, params[name], 0)
    heads = {"query": config.heads, "key": config.kv_heads}
    for i, layer in enumerate(params["layers"]):
        for name, stored in names.block.items():
            add(out, f"{names.prefix}{i}.{stored}", layer[name], heads.get(name, 0))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def add(out: Any, name: str, x: Any, heads: int) -> None:
    """Add a tensor to a file; the rows of some heads in the order of GGUF's rotary pairs."""
    from gguf import GGMLQuantizationType

    if isinstance(x, Quantised):
        scales = np.asarray(x.scales)[..., None].view(np.uint8)  # [N, G, 2]
        codes = np.asarray(x.codes).view(np.uint8)
        rows = np.concatenate([scales, codes], axis=-1).reshape(x.shape[0], -1)
        kind = GGMLQuantizationType.Q8_0 if x.bits == 8 else GGMLQuantizationType.Q4_0
    else:
        rows, kind = np.asarray(x), GGMLQuantizationType.F32
    if heads:
        pairs = rows.reshape(heads, 2, -1, rows.shape[-1])
        rows = np.ascontiguousarray(np.swapaxes(pairs, 1, 2)).reshape(rows.shape)
    out.add_tensor(name, rows, raw_dtype=kind)
