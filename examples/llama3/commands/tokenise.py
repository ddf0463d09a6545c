"""``tokenise``: encode text once, into files that ``train`` maps into memory."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from examples.console import show
from examples.llama3.commands.options import given
from examples.llama3.config import TrainConfig, add_settings
from examples.llama3.documents import find
from examples.llama3.text import encode

SETTINGS = ("data", "tokenizer", "bpe_vocab", "valid_fraction", "seed")


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of ``tokenise``."""
    command.add_argument(
        "--out", type=Path, default=Path("runs/tokens"), metavar="DIR",
        help="folder for the tokenizer and the tokens (default: runs/tokens)",
    )  # fmt: skip
    add_settings(command, TrainConfig, "text", SETTINGS)


def run(options: argparse.Namespace) -> int:
    """Encode; after Ctrl-C, the same command goes on with the next file of tokens."""
    console = Console()
    settings = TrainConfig(**given(options, TrainConfig))
    settings.check()
    text = encode(settings, find(settings.data), options.out, console)
    for name, part in (("training", text.train), ("held out", text.valid)):
        console.print(f"{name:10} {part.documents:,} documents, {len(part.tokens):,} tokens")
    show(console, f"to train: python -m examples.llama3 train --data {options.out}")
    return 0
