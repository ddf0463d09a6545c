"""``train``: train a model, or go on training it."""

from __future__ import annotations

import argparse

from rich.console import Console

from examples.llama3.commands.options import add_folder, given, show
from examples.llama3.config import ModelConfig, TrainConfig, add_settings
from examples.llama3.files import Problem
from examples.llama3.machine import INTERRUPTED
from examples.llama3.report import accounted
from examples.llama3.train import show_files, train


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of ``train``."""
    add_folder(command, "runs/llama3")
    command.add_argument(
        "--resume", action="store_true", help="go on from the newest checkpoint in the folder"
    )
    command.add_argument(
        "--overwrite", action="store_true", help="replace a run that is in the folder"
    )
    command.add_argument(
        "--stop-at", type=int, metavar="N", help="save and stop after step N, as Ctrl-C would"
    )
    add_settings(command, ModelConfig, "model")
    add_settings(command, TrainConfig, "training")


def run(options: argparse.Namespace) -> int:
    """Train."""
    console = Console()
    if options.resume and options.overwrite:
        raise Problem("--resume goes on with a run and --overwrite replaces it; choose one")
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
