"""The command line: ``python -m examples.char_rnn [--cell rnn|lstm|gru] [--text FILE]``."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from rich.console import Console

import lantern as ln
from examples.char_rnn.model import CELLS
from examples.char_rnn.text import DEFAULT, read
from examples.char_rnn.train import Settings, plot, train, write
from examples.console import show
from examples.llama3.files import Problem

INTERRUPTED = 130  # what shells report for a program that Ctrl-C ended
HELP = {
    "cell": "kind of network",
    "hidden": "hidden units",
    "batch": "strands of text that are read side by side",
    "steps": "letters of a strand between two updates",
    "epochs": "times that the text is read",
    "rate": "learning rate",
    "clip": "largest norm of a gradient",
    "seed": "of the first parameters, and of the sample",
}


def main(arguments: list[str] | None = None) -> int:
    """Train, write a sample, and save; the process's exit status."""
    options = parser().parse_args(arguments)
    console = Console()
    try:
        settings = Settings(**{f.name: getattr(options, f.name) for f in _FIELDS})
        settings.check()
        text = read(options.text)
        text.encode(options.prompt)
        console.print(
            f"text       {len(text.train):,} letters, and {len(text.valid):,} held out; "
            f"{len(text.letters)} different ones\n"
            f"network    {settings.cell}, hidden {settings.hidden}",
            highlight=False,
        )
        outcome = train(text, settings, console)
        plot(outcome, settings, options.run / "loss.png")
        ln.io.save(options.run / "params.safetensors", outcome.params)
        if outcome.finished:
            console.rule("a sample")
            letters = write(CELLS[settings.cell], outcome.params, text, options.prompt,
                            options.letters, options.temperature, settings.seed)  # fmt: skip
            print(options.prompt, end="", flush=True)
            for letter in letters:
                print(letter, end="", flush=True)
            print()
            console.rule()
    except (Problem, OSError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED
    show(
        console,
        f"held out   {outcome.valid[-1][1]:.3f} bits a letter\n"
        f"curve      {options.run / 'loss.png'}\n"
        f"network    {options.run / 'params.safetensors'}",
    )
    return 0 if outcome.finished else INTERRUPTED


_FIELDS = dataclasses.fields(Settings)


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(
        prog="python -m examples.char_rnn",
        description="A recurrent network that learns to write, trained with lantern.",
    )
    options.add_argument("--text", type=Path, default=DEFAULT, metavar="FILE",
                         help="what to learn (default: the beginning of Coriolanus)")  # fmt: skip
    options.add_argument("--run", type=Path, default=Path("runs/char_rnn"), metavar="DIR",
                         help="folder for the results (default: %(default)s)")  # fmt: skip
    options.add_argument("--prompt", default="\n", help="what the sample begins with")
    options.add_argument("--letters", type=int, default=400, metavar="N", help="of the sample")
    options.add_argument("--temperature", type=float, default=0.7, metavar="X",
                         help="of the sample; 0 always takes the likeliest letter")  # fmt: skip
    for field in _FIELDS:
        options.add_argument(
            f"--{field.name}", type=type(field.default), default=field.default, metavar="X",
            choices=list(CELLS) if field.name == "cell" else None,
            help=f"{HELP[field.name]} (default: %(default)s)",
        )  # fmt: skip
    return options


if __name__ == "__main__":
    sys.exit(main())
