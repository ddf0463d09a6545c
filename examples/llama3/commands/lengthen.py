"""``lengthen``: go on training a model at longer sequences, in stages."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from examples.console import show
from examples.llama3.commands.options import add_folder, given
from examples.llama3.config import TrainConfig, add_settings
from examples.llama3.longcontext import Stage, lengthen, told
from examples.llama3.report import accounted

SETTINGS = (
    "data", "batch", "accumulate", "steps", "lr", "warmup", "final_lr", "weight_decay", "beta1",
    "beta2", "clip", "threads", "eager", "bf16", "validate_every", "validation_sequences",
    "save_every", "checkpoint", "tensorboard", "keep", "seed", "valid_fraction",
)  # fmt: skip


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of ``lengthen``."""
    add_folder(command, "runs/long")
    command.add_argument(
        "--model", type=Path, required=True, metavar="PATH",
        help="a run's folder, a folder of Hugging Face or Meta, or a .gguf file",
    )  # fmt: skip
    command.add_argument(
        "--context", type=int, required=True, metavar="N",
        help="tokens in a sequence in the end; each stage's are at most twice those before",
    )  # fmt: skip
    command.add_argument(
        "--pairs", action="store_true",
        help="look for hidden pairs after each stage, as `needle --kind pair` does",
    )  # fmt: skip
    add_settings(command, TrainConfig, "each stage", SETTINGS)


def run(options: argparse.Namespace) -> int:
    """Train the stages; after Ctrl-C, the same command goes on."""
    console = Console()
    settings = {k: v for k, v in given(options, TrainConfig).items() if k in SETTINGS}
    stages: list[Stage] = []
    with accounted(options.folder, "training"):
        for stage in lengthen(
            options.model, options.context, settings, options.folder, console,
            "pair" if options.pairs else "",
        ):  # fmt: skip
            stages.append(stage)
            show(console, told(stage))
    console.rule("the stages")
    for stage in stages:
        show(console, told(stage))
    show(console, f"the model: {stages[-1].run}")
    return 0
