"""The command line: ``python -m examples.treelstm [--sst DIR_OR_FILE]``."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from rich.console import Console

import lantern as ln
from examples.console import show
from examples.llama3.files import Problem
from examples.treelstm.data import Treebank, expressions, sentiments
from examples.treelstm.train import Settings, plot, train

INTERRUPTED = 130  # what shells report for a program that Ctrl-C ended
HELP = {
    "epochs": "times that each tree is seen",
    "batch": "trees between two updates; their equal work is done together",
    "rate": "learning rate",
    "hidden": "width of the LSTM",
    "embedding": "width of the words' vectors",
    "seed": "of the first parameters and of the order of trees",
}


def main(arguments: list[str] | None = None) -> int:
    """Train, report and save; the process's exit status."""
    options = parser().parse_args(arguments)
    console = Console()
    try:
        settings = Settings(**{f.name: getattr(options, f.name) for f in _FIELDS})
        bank = sentiments(options.sst) if options.sst else expressions(options.trees)
        console.print(summary(bank, settings), highlight=False)
        outcome = train(bank, settings, console)
        score = outcome.scores[-1][1]
        plot(outcome, options.run / "curves.png")
        ln.io.save(options.run / "params.safetensors", outcome.params)
    except (Problem, OSError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    show(
        console,
        f"held out   loss {score.loss:.3f} a node · right labels: {score.nodes:.1%} of all nodes, "
        f"{score.roots:.1%} of roots\n"
        f"curves     {options.run / 'curves.png'}\n"
        f"network    {options.run / 'params.safetensors'}",
    )
    return 0 if outcome.finished else INTERRUPTED


_FIELDS = dataclasses.fields(Settings)


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(
        prog="python -m examples.treelstm", description="A TreeLSTM, trained with lantern."
    )
    options.add_argument(
        "--sst", type=Path, metavar="DIR_OR_FILE",
        help="trees of the Stanford Sentiment Treebank: a folder with train.txt and dev.txt, or a "
        "file (default: arithmetic expressions that are made up)",
    )  # fmt: skip
    options.add_argument(
        "--trees", type=int, default=3000, metavar="N", help="expressions to make up to learn from"
    )
    options.add_argument("--run", type=Path, default=Path("runs/treelstm"), metavar="DIR",
                         help="folder for the results (default: %(default)s)")  # fmt: skip
    for field in _FIELDS:
        options.add_argument(
            f"--{field.name}", type=type(field.default), default=field.default, metavar="X",
            help=f"{HELP[field.name]} (default: %(default)s)",
        )  # fmt: skip
    return options


def summary(bank: Treebank, settings: Settings) -> str:
    """What is about to happen."""
    nodes = sum(len(tree.label) for tree in bank.train)
    return (
        f"trees      {len(bank.train):,} to learn from, with {nodes:,} labels; {len(bank.valid):,} "
        f"held out; {len(bank.words):,} words\n"
        f"network    TreeLSTM, hidden {settings.hidden}, words {settings.embedding}"
    )


if __name__ == "__main__":
    sys.exit(main())
