"""``needle``: hide a fact in texts of several lengths, and see whether a model finds it."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from examples.console import show
from examples.display import Display
from examples.llama3 import needle, weights
from examples.llama3.config import at_least
from examples.llama3.files import Problem
from examples.llama3.needle import Cell


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of ``needle``."""
    command.add_argument(
        "--model", type=Path, metavar="PATH",
        help="a run's folder, a folder of Hugging Face or Meta, or a .gguf file (default: SmolLM2)",
    )  # fmt: skip
    command.add_argument(
        "--out", type=Path, default=Path("runs/needle"), metavar="DIR",
        help="folder for the grid and its picture (default: runs/needle)",
    )  # fmt: skip
    command.add_argument(
        "--kind", choices=needle.FACTS, default="sentence",
        help="what is hidden: a sentence of English, or a pair for a model of such text as --write "
        "makes (default: sentence)",
    )  # fmt: skip
    command.add_argument(
        "--lengths", type=int, nargs="+", default=[128, 256, 512, 1024], metavar="N",
        help="tokens in the prompts (default: 128 256 512 1024)",
    )  # fmt: skip
    command.add_argument("--depths", type=int, default=5, metavar="N", help="(default: 5)")
    command.add_argument(
        "--trials", type=int, default=10, metavar="N", help="prompts of each (default: 10)"
    )
    command.add_argument(
        "--haystack", type=Path, metavar="FILE",
        help="text to hide it in (default: made-up words for pairs, this program's source else)",
    )  # fmt: skip
    command.add_argument("--seed", type=int, default=0, metavar="N", help="(default: 0)")
    command.add_argument("--threads", type=int, metavar="N", help="(default: one for each core)")
    command.add_argument("--eager", action="store_true", help="run operation by operation")
    command.add_argument(
        "--write", type=Path, metavar="FILE",
        help="write text to learn retrieval from instead, documents up to the largest of --lengths",
    )  # fmt: skip
    command.add_argument(
        "--documents", type=int, default=10_000, metavar="N", help="of --write (default: 10000)"
    )


def run(options: argparse.Namespace) -> int:
    """Ask, or write text."""
    console = Console()
    at_least(options, 1, "depths", "trials", "documents")
    longest = max(options.lengths)
    if options.write is not None:
        needle.write_text(options.write, options.documents, longest, options.seed)
        show(console, f"to learn from it: python -m examples.llama3 train --data {options.write}")
        return 0
    path = weights.smollm2() if options.model is None else options.model
    model = weights.load(path, console=console)
    text = haystack(options)
    hay = needle.haystack_of(model.tokenizer, options.kind, text, longest, options.seed)
    depths = [i / max(1, options.depths - 1) for i in range(options.depths)]
    cells: list[Cell] = []
    total = len(options.lengths) * len(depths)
    with Display(console, "cells", total, "asking") as display:
        for length in sorted(options.lengths):
            for cell in needle.ask(
                model.params, model.config, model.tokenizer, options.kind, hay, length, depths,
                options.trials, options.seed, options.eager, options.threads,
            ):  # fmt: skip
                cells.append(cell)
                display.show(len(cells), f"{length} tokens: {cell.right}/{cell.trials}")
                needle.save_grid(options.out / needle.GRID, cells)  # kept, whatever comes
    needle.draw(options.out / needle.HEATMAP, cells, f"{path.name}: a {options.kind}, found")
    for length in sorted(options.lengths):
        some = [c for c in cells if c.length == length]
        trials = sum(c.trials for c in some)
        right, guessed = sum(c.right for c in some), sum(c.guessed for c in some)
        console.print(
            f"{length:6} tokens: {right / trials:4.0%} answered, {guessed / trials:4.0%} without "
            "the needle"
        )
    show(console, f"grid     {options.out / needle.GRID}\npicture  {options.out / needle.HEATMAP}")
    return 0


def haystack(options: argparse.Namespace) -> str:
    """The text to hide a needle in; empty: made-up words."""
    if options.haystack is not None:
        try:
            return options.haystack.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as problem:
            raise Problem(f"the haystack {options.haystack} cannot be read: {problem}") from None
    if options.kind == "pair":
        return ""
    sources = sorted(Path(needle.__file__).parent.glob("*.py"))
    return "\n".join(path.read_text(encoding="utf-8") for path in sources)
