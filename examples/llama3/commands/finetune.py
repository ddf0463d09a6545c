"""``finetune``: teach a model the answers of chats."""

from __future__ import annotations

import argparse

from rich.console import Console

from examples.console import show
from examples.llama3 import tasks
from examples.llama3.chats import FORMAT
from examples.llama3.commands.options import add_folder, add_resuming, check_resuming, given
from examples.llama3.config import TuneConfig, add_settings
from examples.llama3.files import Problem
from examples.llama3.finetune import finetune
from examples.llama3.machine import INTERRUPTED
from examples.llama3.plot import PLOT
from examples.llama3.progress import LOG
from examples.llama3.report import accounted
from examples.llama3.weights import TUNED

QUESTIONS = 2000  # of a task


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of ``finetune``."""
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.description = (
        f"Teach a model the answers of chats. A file of chats has one in each line:\n\n{FORMAT}\n\n"
        "Roles are system, user, assistant, and ipython or tool for what a tool answers. Every\n"
        "message of the assistant is learned, the others are only read."
    )
    add_folder(command, "runs/finetune")
    command.add_argument(
        "--task", choices=list(tasks.TASKS),
        help=f"write {QUESTIONS:,} chats about a small task into the folder, and learn them",
    )  # fmt: skip
    add_resuming(command)
    add_settings(command, TuneConfig, "fine-tuning")


def run(options: argparse.Namespace) -> int:
    """Fine-tune."""
    console, settings, folder = Console(), given(options, TuneConfig), options.folder
    check_resuming(options)
    if options.task:
        if "data" in settings:
            raise Problem("--task makes chats and --data names some; choose one")
        path = folder / f"{options.task}.jsonl"
        if not options.resume:
            tasks.write(path, options.task, QUESTIONS)
        settings["data"] = (str(path),)
    with accounted(folder, "data") as account:
        tuned = finetune(
            settings, folder, console, options.resume, options.overwrite, options.stop_at, account
        )
    if tuned.after is None:
        show(
            console,
            f"stopped; everything is in {folder}\n"
            f"to go on: python -m examples.llama3 finetune --run {folder} --resume",
        )
        return INTERRUPTED if options.stop_at is None else 0
    show(
        console,
        f"loss curve  {folder / PLOT}\nlog         {folder / LOG}\nmodel       {folder / TUNED}\n"
        f"to talk to it: python -m examples.llama3 chat --model {folder}",
    )
    return 0
