"""``generate``: continue a prompt with a trained model."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console

from examples.llama3 import tokenizer, weights
from examples.llama3.commands.models import add_model, load, told
from examples.llama3.commands.options import add_folder, given
from examples.llama3.config import ModelConfig, add_settings
from examples.llama3.files import Problem
from examples.llama3.generate import Writer, until
from examples.llama3.report import accounted
from examples.llama3.sampling import Sampling
from examples.llama3.weights import Loaded


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of ``generate``."""
    add_folder(command, "runs/llama3")
    add_model(command, "the run")
    command.add_argument("--prompt", default="", help="text to continue; default: begin a new text")
    command.add_argument("--tokens", type=int, default=200, metavar="N", help="tokens at most")
    command.add_argument(
        "--stop", nargs="+", default=[], metavar="TEXT", help="end before one of these strings"
    )
    command.add_argument(
        "--logprobs", action="store_true",
        help="then list the tokens with their log-probabilities by the model, at temperature 1",
    )  # fmt: skip
    add_settings(command, Sampling, "sampling")


def run(options: argparse.Namespace) -> int:
    """Generate."""
    how = Sampling(**given(options, Sampling))
    how.check()
    if options.tokens < 1:
        raise Problem(f"--tokens is {options.tokens}; it must be at least 1")
    console = Console(stderr=True)
    if options.model is None:
        model = weights.load_run(options.folder)
        with accounted(options.folder, "inference") as account:
            found = continued(model, options, how)
            account.add(len(model.tokenizer.begin(options.prompt)) + len(found))
    else:
        model = load(options.model, options.bits, console)
        with told(console) as work:
            began = time.perf_counter()
            found = continued(model, options, how)
            work.tokens, work.seconds = len(found), time.perf_counter() - began
    if options.logprobs:
        for text, logprob in found:
            print(f"{logprob:9.4f}  {text!r}", file=sys.stderr)
    return 0


def continued(model: Loaded, options: argparse.Namespace, how: Sampling) -> list[tuple[str, float]]:
    """Print what the options ask for."""
    return speak(
        model.params, model.config, model.tokenizer, options.prompt, how, options.tokens,
        options.stop,
    )  # fmt: skip


def speak(
    params: Any, config: ModelConfig, tokens: tokenizer.Tokenizer, prompt: str, how: Sampling,
    count: int, stops: Sequence[str] = (),
) -> list[tuple[str, float]]:  # fmt: skip
    """Print a prompt and its continuation, token by token.

    Returns:
        The tokens of the continuation, and their log-probabilities.
    """
    found: list[tuple[str, float]] = []
    text = tokens.begin(prompt)

    def written() -> Iterator[int]:
        for token, logprob in Writer(params, config).write(text, how, count, {tokens.eos}):
            found.append((tokens.decode([token]), logprob))
            yield token

    print(prompt, end="", flush=True)
    for piece in until(tokens.stream(written()), stops):
        print(piece, end="", flush=True)
    print()
    return found
