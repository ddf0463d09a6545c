"""A model as a GGUF file, which llama.cpp runs, written by the library `gguf`.

Settings and tensors have other names there, rows of queries and keys another order, and of rope
scaling there are only the factors that it makes. A tokenizer is a list of words and merges, and the
name of a way to split text: one that has no name there cannot be written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from examples.llama3 import bytelevel, templates
from examples.llama3.bytelevel import GPT2, SPLITS
from examples.llama3.config import ModelConfig, RopeScaling
from examples.llama3.files import Problem, write_atomically
from examples.llama3.gguf_file import BLOCKS, NAMES, ROPE
from examples.llama3.model import Params, rotary
from examples.llama3.quantise import dense
from examples.llama3.stored import interleaved, named
from examples.llama3.tokenizer import Tokenizer

# The types of matrices, by the names of dtypes, and what a file of each is called by number.
KINDS = {
    "float32": ("F32", 0),
    "float16": ("F16", 1),
    "q8_0": ("Q8_0", 7),
    "bfloat16": ("BF16", 32),
}
NORMAL, CONTROL, USER, UNUSED = 1, 3, 4, 5  # `tokenizer.ggml.token_type`


def save(path: Path, params: Params, config: ModelConfig, words: Tokenizer, dtype: Any) -> None:
    """Write a GGUF file, whole or not at all.

    Args:
        path: the file.
        params: the parameters.
        config: their shape.
        words: the tokenizer.
        dtype: of the matrices; or "q8_0", for 8 bits and a scale for every 32 numbers.

    Raises:
        Problem: GGUF has nothing to say it with, the library is not installed, or the file cannot
            be written.
    """
    try:
        import gguf
    except ImportError:
        raise Problem("GGUF files are written with the package `gguf`: pip install gguf") from None
    kind, number = KINDS[dtype if isinstance(dtype, str) else np.dtype(dtype).name]

    def write(path: Path) -> None:
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_file_type(number)
        add_settings(writer, config)
        add_tokenizer(writer, words, config.vocab)
        for name, value in tensors(params, config):
            own = "F32" if value.ndim == 1 else kind
            if value.shape[-1] % BLOCKS[own][0]:
                raise Problem(
                    f"{name} has rows of {value.shape[-1]} numbers, which {own} cannot hold: it "
                    f"has blocks of {BLOCKS[own][0]}"
                )
            as_kind = gguf.GGMLQuantizationType[own]
            writer.add_tensor(name, gguf.quants.quantize(value, as_kind), raw_dtype=as_kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    try:
        write_atomically(path, write)
    except OSError as problem:  # a full disk, for instance
        raise Problem(f"cannot write {path}: {problem}") from None


def add_settings(writer: Any, config: ModelConfig) -> None:
    """What the file says of the network."""
    writer.add_vocab_size(config.vocab)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.dim)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.ffn)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    if config.rope_scaling:
        writer.add_rope_scaling_orig_ctx_len(config.rope_scaling.original)


def tensors(params: Params, config: ModelConfig) -> Iterator[tuple[str, Any]]:
    """The tensors in float32 with their names in the file.

    Raises:
        Problem: the rope scaling has bounds that no Llama has; the file has no place for them.
    """
    heads = {"query": config.heads, "key": config.kv_heads}
    for name, value in named(params):
        array = np.asarray(dense(value)).astype(np.float32)
        turned = heads.get(name.rpartition(".")[2])
        yield NAMES.spelled(name), interleaved(array, turned) if turned else array
    if scaling := config.rope_scaling:
        usual = RopeScaling(factor=scaling.factor, original=scaling.original)
        if scaling != usual:
            raise Problem(
                f"GGUF files have rope scaling from {usual.low:g} to {usual.high:g} turns, and "
                f"this model from {scaling.low:g} to {scaling.high:g}"
            )
        plain = rotary(dataclasses.replace(config, rope_scaling=None))
        yield ROPE, np.asarray(plain / rotary(config)).astype(np.float32)


# The tokenizer ------------------------------------------------------------------------------------


def add_tokenizer(writer: Any, words: Tokenizer, size: int) -> None:
    """What the file says of the tokens; those that the model has beyond them are unused.

    Raises:
        Problem: it cannot say it.
    """
    data = words.huggingface()
    known = bytelevel.vocabulary(data)
    if not known.merges:
        raise Problem("GGUF files have tokenizers that merge bytes, and this one leaves them alone")
    names = [f"[unused {i}]" for i in range(size)]
    kinds = [UNUSED] * size
    for tokens, kind in ((known.merged, NORMAL), (known.plain, USER), (known.specials, CONTROL)):
        for name, token in tokens.items():
            names[token], kinds[token] = name, kind
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split_of(data, words))
    writer.add_token_list(names)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in known.merges])
    writer.add_bos_token_id(words.bos)
    writer.add_eos_token_id(words.eos)
    writer.add_add_bos_token(words.begins)
    template = templates.known(words)
    if template and template.end in words.specials:
        writer.add_eot_token_id(words.specials[template.end])
    if template:
        writer.add_chat_template(words.chat or template.jinja())


def split_of(data: dict[str, Any], words: Tokenizer) -> str:
    """GGUF's name for how text is split.

    Raises:
        Problem: it has none.
    """
    found = tuple(expressions(data["pre_tokenizer"]))
    for name, (splits, whole_words) in SPLITS.items():
        same = bool(data["model"].get("ignore_merges")) == whole_words
        if splits == found and not data.get("normalizer") and (same or merged_anyway(words)):
            return name
    raise Problem(
        "GGUF files have no name for how the tokenizer splits text; known are those of "
        f"{', '.join(SPLITS)}"
    )


def expressions(step: dict[str, Any]) -> Iterator[str]:
    """The expressions by which a step of `tokenizer.json` splits text, one after the other."""
    match step:
        case {"type": "Sequence", "pretokenizers": parts}:
            for part in parts:
                yield from expressions(part)
        case {"type": "Split", "pattern": {"Regex": how}, "behavior": "Isolated", "invert": False}:
            yield how
        case {"type": "Digits", "individual_digits": True}:
            yield r"\p{N}"
        case {"type": "ByteLevel", "add_prefix_space": False, **more}:
            if more.get("use_regex", True):
                yield GPT2
        case _:
            yield "(unknown)"


def merged_anyway(words: Tokenizer) -> bool:
    """Whether a word that is a token is merged to it, so that it need not be looked for."""
    texts = [
        text for piece in words.pieces if (text := piece.decode(errors="ignore")).encode() == piece
    ]
    return all(len(tokens) <= 1 for tokens in words.encode_all(texts))
