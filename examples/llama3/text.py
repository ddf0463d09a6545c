"""The text of a run: found, split, encoded once, and mapped into memory."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from examples.llama3 import shards, tokenizer
from examples.llama3.checkpoint import TOKENIZER
from examples.llama3.config import TrainConfig
from examples.llama3.data import Corpus, Known
from examples.llama3.documents import Documents, find, split
from examples.llama3.files import Problem
from examples.llama3.tokenizer import BytePairs, Bytes, Tokenizer

TOKENS = "tokens"  # in the folder of a run: what its text was encoded to
TRAINING, VALIDATION = "training", "validation"
BPE_TEXT = 2**28  # bytes; merges learnt from more text are hardly others


@dataclass(frozen=True)
class Text(Known):
    """The data of a run, encoded.

    Attributes:
        folder: where it lies.
    """

    folder: Path
    tokenizer: Tokenizer
    train: Corpus
    valid: Corpus

    @property
    def fingerprints(self) -> dict[str, str]:
        """A hash for each split."""
        return {TRAINING: self.train.fingerprint, VALIDATION: self.valid.fingerprint}


def prepare(
    config: TrainConfig, run: Path, console: Console, tokens: Tokenizer | None = None
) -> Text:
    """The data of a run: a folder of tokens that the settings name, or text, which is encoded.

    Args:
        config: which data, and how to split and encode them.
        run: the run's folder; what was encoded there before is not encoded again.
        console: where to report.
        tokens: the tokenizer of the run; None learns one from the training text.

    Raises:
        Problem: a file is missing, empty or not text, or is no file of tokens.
    """
    if (folder := named_folder(config)) is not None:
        return opened(folder, tokens)
    documents = find(config.data)
    about = [documents.fingerprint(), config.valid_fraction, config.seed]
    about += [config.tokenizer, config.bpe_vocab] if tokens is None else [tokens.fingerprint()]
    name = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]
    return encode(config, documents, run / TOKENS / name, console, tokens)


def encode(
    config: TrainConfig,
    documents: Documents,
    folder: Path,
    console: Console,
    tokens: Tokenizer | None = None,
) -> Text:
    """Split documents and encode them into a folder, which then holds the tokenizer too."""
    train, valid = split(documents, config.valid_fraction, config.seed)
    if tokens is None and (folder / TOKENIZER).exists():
        tokens = tokenizer.load(folder / TOKENIZER)
    elif tokens is None:
        tokens = learnt(config, train)
    tokens.save(folder / TOKENIZER)
    for part, some in ((TRAINING, train), (VALIDATION, valid)):
        shards.write(folder, part, some, tokens, console)
    return opened(folder, tokens)


def learnt(config: TrainConfig, documents: Documents) -> Tokenizer:
    """The tokenizer that the settings ask for."""
    if config.tokenizer == "bytes":
        return Bytes()
    order = np.random.default_rng(config.seed).permutation(len(documents))
    enough = np.searchsorted(np.cumsum(documents.sizes[order]), BPE_TEXT) + 1
    return BytePairs.train(texts(documents.chosen(np.sort(order[:enough]))), config.bpe_vocab)


def texts(documents: Documents) -> Iterator[str]:
    """At most `BPE_TEXT` bytes of their text, which a single document may exceed."""
    size = 0
    for piece in documents.pieces():
        if size >= BPE_TEXT:
            return
        size += len(piece.text)
        yield piece.text


def opened(folder: Path, tokens: Tokenizer | None = None) -> Text:
    """Text that was encoded before.

    Raises:
        Problem: files are missing or damaged, or of another tokenizer.
    """
    tokens = tokens or tokenizer.load(folder / TOKENIZER)
    train, valid = (shards.load(folder, part, tokens) for part in (TRAINING, VALIDATION))
    return Text(folder, tokens, train, valid)


def reopened(config: TrainConfig, run: Path, console: Console) -> Text:
    """The text of a run that goes on: what it was encoded to or, where that is gone, encoded again.

    Raises:
        Problem: neither can be read.
    """
    tokens = tokenizer.load(run / TOKENIZER)
    for folder in sorted((run / TOKENS).glob("*")) if named_folder(config) is None else ():
        return opened(folder, tokens)
    return prepare(config, run, console, tokens)


def keep_only(run: Path, text: Text) -> None:
    """Remove what other text of an old run was encoded to."""
    for folder in (run / TOKENS).glob("*"):
        if folder != text.folder:
            shutil.rmtree(folder)


def named_folder(config: TrainConfig) -> Path | None:
    """The folder of tokens that ``--data`` names, if it names one.

    Raises:
        Problem: it names a folder and something else.
    """
    folders = [Path(name) for name in config.data if Path(name).is_dir()]
    if folders and len(config.data) > 1:
        raise Problem(
            f"--data names the folder {folders[0]} and something else; name one folder of tokens, "
            "or files of text"
        )
    return folders[0] if folders else None
