"""``report``: what a run took of energy and emissions, beside what it learnt."""

from __future__ import annotations

import argparse

from rich.console import Console

from examples.console import show
from examples.llama3.commands.options import add_folder
from examples.llama3.report import PICTURE, write_report


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of ``report``."""
    add_folder(command, "runs/llama3")
    command.add_argument(
        "--grid", type=place, metavar="PLACE",
        help="count the electricity as that of a country (FRA, Sweden), of the world, or of so many"
        " g CO2e/kWh (default: as measured)",
    )  # fmt: skip
    command.add_argument(
        "--pue", type=float, metavar="X",
        help="what the building takes for each watt of the computer (default: as measured)",
    )  # fmt: skip


def place(text: str) -> str | float:
    """A country's name, or a number."""
    try:
        return float(text)
    except ValueError:
        return text


def run(options: argparse.Namespace) -> int:
    """Write the report."""
    path = write_report(options.folder, options.grid, options.pue)
    show(Console(), f"report   {path}\npicture  {options.folder / PICTURE}")
    return 0
