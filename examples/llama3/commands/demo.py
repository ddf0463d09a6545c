"""``demo``: what `make demo` runs."""

from __future__ import annotations

import argparse

from rich.console import Console

from examples.console import show
from examples.llama3 import checkpoint, tokenizer
from examples.llama3.commands.generate import speak
from examples.llama3.commands.options import add_folder
from examples.llama3.config import DEMO, DEMO_PROMPT
from examples.llama3.generate import Writer
from examples.llama3.machine import INTERRUPTED
from examples.llama3.report import accounted
from examples.llama3.sampling import Sampling
from examples.llama3.train import show_files, train


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of ``demo``."""
    add_folder(command, "runs/demo")


def run(options: argparse.Namespace) -> int:
    """Train a small model on the standard library's source, and show what it writes."""
    console = Console()
    with accounted(options.folder, "data") as account:
        outcome = train({}, DEMO, options.folder, console, overwrite=True, account=account)
    if not outcome.finished:
        return INTERRUPTED
    tokens = tokenizer.load(options.folder / checkpoint.TOKENIZER)
    console.rule("a sample")
    how = Sampling(temperature=0.6, top_p=0.9)
    writer = Writer(outcome.state.params, outcome.config.model)
    speak(writer, tokens, DEMO_PROMPT, how, 250)
    console.rule()
    show_files(console, outcome, options.folder)
    show(
        console,
        f"more: python -m examples.llama3 generate --run {options.folder} --prompt 'class '",
    )
    return 0
