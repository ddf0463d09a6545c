"""Folders of Hugging Face: what `transformers` calls a ``LlamaForCausalLM``, read and written.

``config.json`` has the shape of the network, ``model.safetensors`` its parameters, or several files
have, and ``model.safetensors.index.json`` tells which has which. A setting that the file leaves out
is what `transformers` takes it to be; one that asks for something that Llama 3 has not is refused
by name. Rotary pairs are (i, i + C/2), as in this program.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import lantern as ln
from examples.llama3 import safetensors_file
from examples.llama3.config import ModelConfig, RopeScaling
from examples.llama3.files import Problem, Settings, write_folder_atomically
from examples.llama3.model import Params
from examples.llama3.quantise import dense
from examples.llama3.stored import Names, Plain, Stored, named
from examples.llama3.tokenizer import Tokenizer, write_json
from examples.llama3.vocabularies import CONFIG, save_for_transformers

TENSORS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLE = "pytorch_model.bin"
SHARD = 5 * 10**9  # bytes in a file at most, as `transformers` writes them

NAMES = Names(
    {
        "embedding": "model.embed_tokens.weight", "norm": "model.norm.weight",
        "output": "lm_head.weight",
    },
    "model.layers.",
    {
        "attention_norm": "input_layernorm.weight", "query": "self_attn.q_proj.weight",
        "key": "self_attn.k_proj.weight", "value": "self_attn.v_proj.weight",
        "output": "self_attn.o_proj.weight", "ffn_norm": "post_attention_layernorm.weight",
        "gate": "mlp.gate_proj.weight", "up": "mlp.up_proj.weight", "down": "mlp.down_proj.weight",
    },
)  # fmt: skip
COMPUTED = ".rotary_emb.inv_freq"  # old checkpoints have what is computed from the settings

MODEL, ARCHITECTURE = "llama", "LlamaForCausalLM"
# What other models with much the same tensors have, and this one has not.
OTHERS = {
    "mistral": "attention within a sliding window",
    "mixtral": "experts",
    "llama4": "experts",
    "mllama": "images",
    "qwen2": "biases of the queries, keys and values",
    "qwen3": "norms of the queries and keys",
    "smollm3": "layers without rotary positions",
    "gemma": "other norms, and GELU",
    "phi3": "queries, keys and values in one matrix",
    "granite": "scales of its embeddings, attention and logits",
}
# Settings by their names there, with what `transformers` takes if they are absent.
SETTINGS: dict[str, tuple[str, Any]] = {
    "vocab": ("vocab_size", 32_000), "dim": ("hidden_size", 4096),
    "layers": ("num_hidden_layers", 32), "heads": ("num_attention_heads", 32),
    "ffn": ("intermediate_size", 11_008), "context": ("max_position_embeddings", 2048),
    "norm_eps": ("rms_norm_eps", 1e-6), "tied": ("tie_word_embeddings", False),
}  # fmt: skip
# Those that have to be so, or absent, and what else they would ask for.
FIXED: dict[str, tuple[tuple[Any, ...], str]] = {
    "hidden_act": (("silu", "swish"), "another activation than SwiGLU's"),
    "attention_bias": ((False,), "biases in attention"),
    "mlp_bias": ((False,), "biases in the feed-forward"),
    "is_causal": ((True,), "attention to what comes later"),
    "partial_rotary_factor": ((1.0,), "rotary positions for a part of each head"),
    "quantization_config": ((), "weights in few bits, unless from GGUF files"),
}
FULL = "full_attention"  # of each layer to all before
ROPE = {
    "factor": "factor", "low": "low_freq_factor", "high": "high_freq_factor",
    "original": "original_max_position_embeddings",
}  # fmt: skip


# Reading ------------------------------------------------------------------------------------------


def config_of(folder: Path) -> ModelConfig:
    """The shape of the network in a folder.

    Raises:
        Problem: it is no Llama, or one with something that this program's model has not.
    """
    file = Settings.read(folder / CONFIG)
    check_kind(file)
    values = {
        name: file.setting(known, type(default), default)
        for name, (known, default) in SETTINGS.items()
    }
    heads = values["heads"]
    width = file.setting("head_dim", int, 0)
    theta, scaling = rope_of(file, values["context"])
    config = ModelConfig(
        **values,
        kv_heads=file.setting("num_key_value_heads", int, heads),
        head_width=0 if width * heads == values["dim"] else width,
        rope_theta=theta,
        rope_scaling=scaling,
    )
    try:
        config.check()
    except Problem as problem:
        raise Problem(f"{file.path}: {problem}") from None
    return config


def check_kind(file: Settings) -> None:
    """Refuse what is no Llama, or asks for what Llama 3 has not.

    Raises:
        Problem: the setting is named.
    """
    kinds = file.setting("architectures", list, [])
    kind = file.setting("model_type", str, MODEL if ARCHITECTURE in kinds else "")
    if kind != MODEL:
        why = f": {OTHERS[kind]}" if kind in OTHERS else ""
        raise Problem(
            f"{file.path} has model_type {kind!r:.40}, which is no {MODEL!r} and may have what "
            f"this program's model has not{why}"
        )
    if kinds and ARCHITECTURE not in kinds:
        raise Problem(f"{file.path} is of a {kinds[0]!s:.60}; this program reads {ARCHITECTURE}")
    for name, (allowed, what) in FIXED.items():
        value = file.values.get(name)
        if value is not None and value not in allowed:
            raise Problem(
                f"{file.path} has {value!s:.60} for {name}; this program's model has not {what}"
            )
    for kind in file.setting("layer_types", list, []):
        if kind != FULL:
            raise Problem(
                f"{file.path} has {kind!s:.60} among its layer_types; this program's model has "
                f"only {FULL}"
            )


def rope_of(file: Settings, context: int) -> tuple[float, RopeScaling | None]:
    """The base of the rotary frequencies, and how they are stretched.

    Version 5 of `transformers` has both in ``rope_parameters``; before, ``rope_theta`` stood beside
    ``rope_scaling``, which may be null.

    Raises:
        Problem: they are stretched in a way that is unknown here.
    """
    where = "rope_scaling" if file.values.get("rope_scaling") else "rope_parameters"
    rope = Settings(file.path, file.setting(where, dict, {}))
    base = rope if rope.values.get("rope_theta") is not None else file
    theta = base.setting("rope_theta", float, 10_000.0)
    kind = rope.setting("rope_type", str, rope.setting("type", str, "default"))
    for layers, own in rope.values.items():
        if isinstance(own, dict):
            raise Problem(
                f"{file.path}: its {where} have {layers!r:.40} of their own; this program's model "
                "has the same for all layers"
            )
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise Problem(
            f"{file.path}: its {where} are of the type {kind!r:.40}, which this program has not; "
            "it has 'default' and 'llama3'"
        )
    factor, low, high = (rope.setting(ROPE[name], float) for name in ("factor", "low", "high"))
    original = file.setting(ROPE["original"], int, rope.setting(ROPE["original"], int, context))
    return theta, RopeScaling(factor, low, high, original)


def stored(folder: Path, config: ModelConfig) -> tuple[dict[str, Stored], ModelConfig]:
    """The tensors in a folder by the model's names, and whether embeddings are tied in fact.

    Where ``config.json`` says that they are, and there are two tables, the checkpoint is right: if
    the two differ, they are not tied. If there is one, it serves as both, whatever its name.

    Raises:
        Problem: a file is missing, damaged, or not what the index says.
    """
    found = {NAMES.own(raw.name): raw for raw in tensors(folder)}
    if config.tied and "output" in found:
        output = found.pop("output")
        table = found.setdefault("embedding", output)
        if (table.dtype, table.data) != (output.dtype, output.data):
            found["output"] = output
            config = dataclasses.replace(config, tied=False)
    return {name: raw.stored() for name, raw in found.items()}, config


def tensors(folder: Path) -> Iterator[Plain]:
    """The tensors in a folder, from one file or from all that its index names.

    Raises:
        Problem: a file is missing, damaged, or not what the index says.
    """
    if (folder / TENSORS).exists() or not (folder / INDEX).exists():
        if not (folder / TENSORS).exists() and (folder / PICKLE).exists():
            raise Problem(
                f"{folder} has {PICKLE}, which can run any code when it is read, and no {TENSORS}: "
                "`save_pretrained` of transformers writes the latter"
            )
        files = {TENSORS: set[str]()}
    else:
        files = indexed(folder / INDEX)
    seen: dict[str, Path] = {}
    for file, names in files.items():
        found = safetensors_file.read(folder / file)
        for name in sorted(names - found.keys()):
            raise Problem(f"{folder / file} has no tensor {name:.60}, which {INDEX} says it has")
        for name, raw in found.items():
            if name in seen:
                raise Problem(f"both {seen[name]} and {raw.file} have a tensor {name:.60}")
            seen[name] = raw.file
            if not name.endswith(COMPUTED):
                yield raw


def indexed(index: Path) -> dict[str, set[str]]:
    """The names of the tensors in each file of a folder.

    Raises:
        Problem: the index is malformed, or names a file outside of its folder.
    """
    files: dict[str, set[str]] = {}
    for name, file in Settings.read(index).setting("weight_map", dict).items():
        if not isinstance(file, str) or Path(file).name != file or "\0" in file:
            raise Problem(f"{index} has {file!s:.60} for {name:.60}; expected a file's name")
        files.setdefault(file, set()).add(name)
    return files


# Writing ------------------------------------------------------------------------------------------


def save(
    folder: Path, params: Params, config: ModelConfig, words: Tokenizer, dtype: Any = ln.float32,
    shard: int = SHARD,
) -> None:  # fmt: skip
    """Write a folder that `transformers` loads, whole or not at all.

    Args:
        folder: where; nothing may be there.
        params: the parameters; matrices in few bits are written as floats.
        config: their shape.
        words: the tokenizer.
        dtype: in which they are written.
        shard: the most bytes in a file, unless a single tensor has more.

    Raises:
        Problem: something is there, or `transformers` has no such shape.
    """
    if config.dim % config.heads:
        raise Problem(
            f"transformers has no Llama whose width {config.dim} is not a multiple of its "
            f"{config.heads} heads; a GGUF file can hold it"
        )

    def write(folder: Path) -> None:
        write_tensors(folder, params, dtype, shard)
        save_for_transformers(words, folder)
        tokens = {"bos_token_id": words.bos, "eos_token_id": words.eos}
        about = {**settings(config), **tokens, "torch_dtype": np.dtype(dtype).name}
        write_json(folder / CONFIG, about)

    write_folder_atomically(folder, write)


def settings(config: ModelConfig) -> dict[str, Any]:
    """What ``config.json`` says of the network, in words that every version understands."""
    scaling = config.rope_scaling
    return {
        "architectures": [ARCHITECTURE], "model_type": MODEL, "hidden_act": "silu",
        **{known: getattr(config, name) for name, (known, _) in SETTINGS.items()},
        "num_key_value_heads": config.kv_heads, "head_dim": config.head_dim,
        "attention_bias": False, "mlp_bias": False, "rope_theta": config.rope_theta,
        "rope_scaling": scaling and {
            "rope_type": "llama3",
            **{known: getattr(scaling, name) for name, known in ROPE.items()},
        },
    }  # fmt: skip


def write_tensors(folder: Path, params: Params, dtype: Any, shard: int) -> None:
    """Write the parameters to one file, or to several and an index."""
    size, total, shards = 0, 0, [dict[str, Any]()]
    for name, value in named(params):
        more = math.prod(value.shape) * np.dtype(dtype).itemsize
        if shards[-1] and size + more > shard:
            size, shards = 0, [*shards, {}]
        size, total = size + more, total + more
        shards[-1][NAMES.spelled(name)] = value
    files: dict[str, str] = {}
    for i, part in enumerate(shards, start=1):
        file = f"model-{i:05}-of-{len(shards):05}.safetensors" if len(shards) > 1 else TENSORS
        arrays = {name: np.asarray(dense(value)).astype(dtype) for name, value in part.items()}
        safetensors_file.write(folder / file, arrays)
        files |= dict.fromkeys(part, file)
    if len(shards) > 1:
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": files})
