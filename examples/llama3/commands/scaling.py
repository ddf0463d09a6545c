"""``scaling``: find a scaling law with a few small models, and predict a larger one's loss."""

from __future__ import annotations

import argparse

from rich.console import Console

from examples.console import show
from examples.llama3 import scaling
from examples.llama3.commands.options import add_folder, given
from examples.llama3.config import add_settings
from examples.llama3.report import accounted
from examples.llama3.study import Study, StudyConfig


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of ``scaling``."""
    add_folder(command, "runs/scaling")
    command.add_argument(
        "--check", action="store_true",
        help="train the model that is predicted for four times the largest budget, and compare",
    )  # fmt: skip
    add_settings(command, StudyConfig, "the study")


def run(options: argparse.Namespace) -> int:
    """Train, fit, report; after Ctrl-C or a kill, the same command goes on."""
    console = Console()
    config = StudyConfig(**given(options, StudyConfig))
    config.check()
    study = Study(options.folder, config, console)
    with accounted(options.folder, "experimentation"):
        target = study.perform(options.check)
    report = scaling.write_report(options.folder, study.runs, target)
    found, drawn = scaling.law(scaling.optima(study.runs)), scaling.bootstrap(study.runs)
    console.rule("the law")
    for line in scaling.law_lines(study.runs, found, drawn):
        show(console, line)
    for line in scaling.prediction_lines(study.runs, found, drawn, target):
        show(console, line)
    show(console, f"report   {report}\npicture  {options.folder / scaling.CURVES}")
    return 0
