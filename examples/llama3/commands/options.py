"""What several commands have in common."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from examples.llama3.config import add_settings, at_least
from examples.llama3.files import Problem
from examples.llama3.sampling import Sampling


def add_folder(command: argparse.ArgumentParser, default: str) -> None:
    """The option for a run's folder."""
    command.add_argument(
        "--run", dest="folder", type=Path, default=Path(default), metavar="DIR",
        help=f"folder of the run (default: {default})",
    )  # fmt: skip


def given(options: argparse.Namespace, kind: type) -> dict[str, Any]:
    """The settings of a dataclass that stand on the command line."""
    names = {f.name for f in dataclasses.fields(kind)}
    return {k: v for k, v in vars(options).items() if k in names}


def add_resuming(command: argparse.ArgumentParser) -> None:
    """The options for a folder that may have a run in it already."""
    command.add_argument(
        "--resume", action="store_true", help="go on from the newest checkpoint in the folder"
    )
    command.add_argument(
        "--overwrite", action="store_true", help="replace a run that is in the folder"
    )
    command.add_argument(
        "--stop-at", type=int, metavar="N", help="save and stop after step N, as Ctrl-C would"
    )


def check_resuming(options: argparse.Namespace) -> None:
    """Refuse options of `add_resuming` that contradict each other."""
    if options.resume and options.overwrite:
        raise Problem("--resume goes on with a run and --overwrite replaces it; choose one")


def add_writing(command: argparse.ArgumentParser, tokens: int) -> None:
    """The options of what writes: how much, how, and where it ends."""
    command.add_argument(
        "--tokens", type=int, default=tokens, metavar="N",
        help=f"tokens at most (default: {tokens})",
    )  # fmt: skip
    command.add_argument(
        "--stop", nargs="+", default=[], metavar="TEXT", help="end before one of these strings"
    )
    add_settings(command, Sampling, "sampling")


def sampling(options: argparse.Namespace) -> Sampling:
    """How to write, of the options of `add_writing`.

    Raises:
        Problem: one of them means nothing.
    """
    how = Sampling(**given(options, Sampling))
    how.check()
    at_least(options, 1, "tokens")
    return how
