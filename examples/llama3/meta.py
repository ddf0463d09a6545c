"""Llama 3 as Meta hands it out: ``params.json``, ``consolidated.*.pth`` and ``tokenizer.model``.

A large model lies in several files, one for each processor of those that trained it (section 3.3.2:
tensor parallelism): matrices that are split by their outputs are put together along the first axis,
those that are split by their inputs along the second. Rotary pairs are (2i, 2i + 1).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

import lantern as ln
from examples.llama3 import pth_file
from examples.llama3.config import ModelConfig, RopeScaling
from examples.llama3.files import LARGEST, Problem, Settings
from examples.llama3.stored import Names, Plain, Stored, half_rotated

PARAMS, TOKENIZER, SHARDS = "params.json", "tokenizer.model", "consolidated.*.pth"
NAMES = Names(
    {"embedding": "tok_embeddings.weight", "norm": "norm.weight", "output": "output.weight"},
    "layers.",
    {
        "attention_norm": "attention_norm.weight", "query": "attention.wq.weight",
        "key": "attention.wk.weight", "value": "attention.wv.weight",
        "output": "attention.wo.weight", "ffn_norm": "ffn_norm.weight",
        "gate": "feed_forward.w1.weight", "up": "feed_forward.w3.weight",
        "down": "feed_forward.w2.weight",
    },
)  # fmt: skip
COMPUTED = "rope.freqs"  # old checkpoints have what is computed from the settings
BY_INPUTS = ("output", "down")  # matrices of a block that are split along their second axis
# What other models of Meta have, and this one has not.
FOREIGN = {
    "vision_chunk_size": "images", "vision_model": "images", "moe_args": "experts",
    "quantization_args": "weights in few bits", "lora_args": "LoRA's matrices beside its own",
}  # fmt: skip
# Tokens that Llama 3 was trained on at once, and that its scaled frequencies are for (3.4.2).
CONTEXT, LONG_CONTEXT = 8192, 131_072


def config_of(folder: Path, vocab: int) -> ModelConfig:
    """The shape of the network in a folder.

    Args:
        folder: of Meta's files.
        vocab: the number of tokens, where the settings leave it to the tokenizer.

    Raises:
        Problem: it has something that this program's model has not.
    """
    file = Settings.read(folder / PARAMS)
    for name, what in FOREIGN.items():
        if file.values.get(name) not in (None, -1):
            raise Problem(f"{file.path} has {name}: {what}, which this program's Llama has not")
    dim, heads = file.setting("dim", int), file.setting("n_heads", int)
    scaled = file.setting("use_scaled_rope", bool, False)
    named_vocab = file.setting("vocab_size", int, -1)
    config = ModelConfig(
        vocab=vocab if named_vocab == -1 else named_vocab,
        dim=dim,
        layers=file.setting("n_layers", int),
        heads=heads,
        kv_heads=file.setting("n_kv_heads", int, heads),
        ffn=ffn_of(file, dim),
        context=LONG_CONTEXT if scaled else CONTEXT,
        rope_theta=file.setting("rope_theta", float, 500_000.0),
        rope_scaling=RopeScaling(8.0, 1.0, 4.0, CONTEXT) if scaled else None,
        norm_eps=file.setting("norm_eps", float, 1e-5),
        tied=False,
    )
    try:
        config.check()
    except Problem as problem:
        raise Problem(f"{file.path}: {problem}") from None
    return config


def ffn_of(file: Settings, dim: int) -> int:
    """The width of the feed-forward, which the settings only imply: two thirds of 4 D, multiplied,
    and rounded up."""
    multiple = file.setting("multiple_of", int, 256)
    multiplier = file.setting("ffn_dim_multiplier", float, 1.0)
    if multiple < 1 or not 0 < multiplier * dim < LARGEST:
        raise Problem(
            f"{file.path} has {multiplier} for ffn_dim_multiplier and {multiple} for multiple_of, "
            "which give no width"
        )
    width = int(multiplier * int(2 * 4 * dim / 3))
    return -(-width // multiple) * multiple


def stored(folder: Path, config: ModelConfig) -> tuple[dict[str, Stored], ModelConfig]:
    """The tensors in a folder by the model's names, and whether embeddings are tied: there are two
    tables even then, with the same numbers.

    Raises:
        Problem: a file is missing or damaged, or the files have different tensors.
    """
    paths = sorted(folder.glob(SHARDS))
    if not paths:
        raise Problem(f"{folder} has {PARAMS}, but no {SHARDS}")
    shards = [pth_file.read(path) for path in paths]
    for shard, path in zip(shards, paths, strict=True):
        for name in sorted(shard.keys() ^ shards[0].keys()):
            raise Problem(f"{paths[0]} and {path} do not both have a tensor {name:.60}")
    found = {NAMES.own(name): [s[name] for s in shards] for name in shards[0] if name != COMPUTED}
    tables, others = (
        [(part.dtype, part.shape, part.data) for part in found.get(name, [])]
        for name in ("embedding", "output")
    )
    if tied := tables == others or not others:
        found.pop("output", None)
    whole = {name: joined(name, parts, config) for name, parts in found.items()}
    return whole, dataclasses.replace(config, tied=tied)


def joined(name: str, parts: list[Plain], config: ModelConfig) -> Stored:
    """A tensor of several parts, in this program's order of rotary pairs.

    Raises:
        Problem: the parts do not fit together.
    """
    first, last = parts[0], name.rpartition(".")[2]
    if len(first.shape) < 2:
        return first.stored()  # every processor has all of a norm
    if name == "embedding":
        axis = int(first.shape[1] != config.dim)  # Llama 2's is split by its columns
    else:
        axis = int(name.startswith("layers.") and last in BY_INPUTS)

    def beside(part: Plain) -> tuple[int, ...]:
        return (*part.shape[:axis], *part.shape[axis + 1 :])

    for part in parts:
        if beside(part) != beside(first):
            raise Problem(
                f"{part.file}: the tensor {part.name:.60} is {part.shape}, which does not fit "
                f"{first.shape} in {first.file}"
            )
    whole = sum(part.shape[axis] for part in parts)
    heads = {"query": config.heads, "key": config.kv_heads}.get(last, 0)

    def read(dtype: Any) -> ln.Tensor:
        numbers = [part.numbers(dtype) for part in parts]
        array = np.concatenate(numbers, axis) if len(parts) > 1 else numbers[0]
        return ln.asarray(half_rotated(array, heads) if heads else array, copy=False)

    shape = (*first.shape[:axis], whole, *first.shape[axis + 1 :])
    return Stored(first.name, first.file, shape, sum(len(part.data) for part in parts), read)
