"""What several commands have in common."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from rich.console import Console


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


def show(console: Console, text: str) -> None:
    """Print lines as they are, so that they can be copied."""
    console.print(text, soft_wrap=True, highlight=False)
