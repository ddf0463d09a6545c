"""``train``: train a model, or go on training it."""

from __future__ import annotations

import argparse

from rich.console import Console

from examples.console import show
from examples.llama3.commands.options import add_folder, add_resuming, check_resuming, given
from examples.llama3.config import ModelConfig, TrainConfig, add_settings
from examples.llama3.machine import INTERRUPTED
from examples.llama3.report import accounted
from examples.llama3.train import show_files, train


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of ``train``."""
    add_folder(command, "runs/llama3")
    add_resuming(command)
    add_settings(command, ModelConfig, "model")
    add_settings(command, TrainConfig, "training")


def run(options: argparse.Namespace) -> int:
    """Train."""
    console = Console()
    check_resuming(options)
    with accounted(options.folder, "data") as account:
        outcome = train(
            given(options, ModelConfig), given(options, TrainConfig), options.folder, console,
            options.resume, options.overwrite, options.stop_at, account,
        )  # fmt: skip
    if not outcome.finished:
        return INTERRUPTED if options.stop_at is None else 0
    show_files(console, outcome, options.folder)
    show(
        console,
        f"to sample: python -m examples.llama3 generate --run {options.folder} --prompt 'def '",
    )
    return 0
