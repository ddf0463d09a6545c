"""The command line: `python -m examples.llama3 train | generate | demo`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

import lantern as ln
from examples.llama3 import checkpoint, tokenizer
from examples.llama3.config import DEMO, DEMO_PROMPT, ModelConfig, TrainConfig, add_options
from examples.llama3.files import Problem
from examples.llama3.generate import Sampling, generate
from examples.llama3.machine import keep_freed_memory
from examples.llama3.plot import PLOT
from examples.llama3.progress import LOG
from examples.llama3.train import TOKENIZER, Outcome, train

INTERRUPTED = 130  # what shells report for a program that Ctrl-C ended


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the process's exit status."""
    options = parser().parse_args(arguments)
    keep_freed_memory()
    try:
        return options.run_command(options)
    except Problem as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe, `head` for instance, has seen enough
        return 1
    except OSError as problem:  # a full disk, a folder that may not be written to
        print(f"error: {problem}", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    """The options of every command."""
    top = argparse.ArgumentParser(
        prog="python -m examples.llama3", description="A small Llama 3, trained with lantern."
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("train", help="train a model, or go on training it")
    command.set_defaults(run_command=train_command)
    add_run(command, "runs/llama3")
    command.add_argument(
        "--resume", action="store_true", help="go on from the newest checkpoint in the folder"
    )
    command.add_argument(
        "--overwrite", action="store_true", help="replace a run that is in the folder"
    )
    command.add_argument(
        "--stop-at", type=int, metavar="N", help="save and stop after step N, as Ctrl-C would"
    )
    add_options(command, ModelConfig, "model")
    add_options(command, TrainConfig, "training")

    command = commands.add_parser("generate", help="continue a prompt with a trained model")
    command.set_defaults(run_command=generate_command)
    add_run(command, "runs/llama3")
    command.add_argument("--prompt", default="", help="text to continue; default: begin a new text")
    command.add_argument("--tokens", type=int, default=200, metavar="N", help="tokens at most")
    add_sampling(command)

    command = commands.add_parser(
        "demo", help="train for about three minutes in runs/demo, then show a sample"
    )
    command.set_defaults(run_command=demo_command)
    add_run(command, "runs/demo")
    return top


def add_run(command: argparse.ArgumentParser, default: str) -> None:
    """The option for a run's folder."""
    command.add_argument(
        "--run", type=Path, default=Path(default), metavar="DIR",
        help=f"folder of the run (default: {default})",
    )  # fmt: skip


def add_sampling(command: argparse.ArgumentParser) -> None:
    """The options for choosing tokens."""
    usual = Sampling()
    for name, kind, help in (
        ("temperature", float, "0 always takes the likeliest token"),
        ("top-k", int, "choose among the K likeliest tokens; 0: all"),
        ("top-p", float, "choose among the likeliest tokens that together reach this probability"),
    ):
        value = getattr(usual, name.replace("-", "_"))
        command.add_argument(
            f"--{name}", type=kind, default=value, metavar="X", help=f"{help} (default: {value})"
        )
    command.add_argument(
        "--seed", type=int, default=0, metavar="N", help="the same seed, the same text"
    )


def given(options: argparse.Namespace, kind: type) -> dict[str, Any]:
    """The settings of a dataclass that stand on the command line."""
    names = {f.name for f in dataclasses.fields(kind)}
    return {k: v for k, v in vars(options).items() if k in names}


def train_command(options: argparse.Namespace) -> int:
    """``train``."""
    console = Console()
    if options.resume and options.overwrite:
        raise Problem("--resume goes on with a run and --overwrite replaces it; choose one")
    outcome = train(
        given(options, ModelConfig), given(options, TrainConfig), options.run, console,
        options.resume, options.overwrite, options.stop_at,
    )  # fmt: skip
    if not outcome.finished:
        return INTERRUPTED if options.stop_at is None else 0
    show_files(console, outcome, options.run)
    console.print(
        f"to sample: python -m examples.llama3 generate --run {options.run} --prompt 'def '",
        soft_wrap=True, highlight=False,
    )  # fmt: skip
    return 0


def generate_command(options: argparse.Namespace) -> int:
    """``generate``."""
    how = Sampling(options.temperature, options.top_k, options.top_p)
    how.check()
    if options.tokens < 1:
        raise Problem(f"--tokens is {options.tokens}; it must be at least 1")
    path = checkpoint.newest(options.run)
    config, _ = checkpoint.load_settings(path)
    params = checkpoint.load_params(path)
    speak(params, config.model, tokenizer.load(options.run / TOKENIZER), options.prompt, how,
          options.seed, options.tokens)  # fmt: skip
    return 0


def speak(
    params: Any, config: ModelConfig, tokens: tokenizer.Tokenizer, prompt: str, how: Sampling,
    seed: int, count: int,
) -> None:  # fmt: skip
    """Print a prompt and its continuation, token by token."""
    print(prompt, end="", flush=True)
    continuation = generate(
        params, config, [tokens.bos, *tokens.encode(prompt)], how, ln.random.key(seed), count,
        tokens.eos,
    )  # fmt: skip
    for text in tokens.stream(continuation):
        print(text, end="", flush=True)
    print()


def demo_command(options: argparse.Namespace) -> int:
    """``demo``: what `make demo` runs."""
    console = Console()
    outcome = train({}, DEMO, options.run, console, overwrite=True)
    if not outcome.finished:
        return INTERRUPTED
    tokens = tokenizer.load(options.run / TOKENIZER)
    console.rule("a sample")
    how = Sampling(temperature=0.6, top_p=0.9)
    speak(outcome.state.params, outcome.config.model, tokens, DEMO_PROMPT, how, 0, 250)
    console.rule()
    show_files(console, outcome, options.run)
    console.print(
        f"more: python -m examples.llama3 generate --run {options.run} --prompt 'class '",
        soft_wrap=True, highlight=False,
    )  # fmt: skip
    return 0


def show_files(console: Console, outcome: Outcome, run: Path) -> None:
    """Where a run's results are."""
    console.print(
        f"loss curve  {run / PLOT}\nlog         {run / LOG}\ncheckpoint  {outcome.checkpoint}",
        soft_wrap=True, highlight=False,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
