"""``generate``: continue a prompt with a trained model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from examples.llama3 import checkpoint, tokenizer
from examples.llama3.commands.options import add_folder, given
from examples.llama3.config import ModelConfig, add_settings
from examples.llama3.files import Problem
from examples.llama3.generate import Writer, until
from examples.llama3.report import accounted
from examples.llama3.sampling import Sampling


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of ``generate``."""
    add_folder(command, "runs/llama3")
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
    path = checkpoint.newest(options.folder)
    config, _ = checkpoint.load_settings(path)
    params = checkpoint.load_params(path)
    tokens = tokenizer.load(options.folder / checkpoint.TOKENIZER)
    with accounted(options.folder, "inference") as account:
        found = speak(
            params, config.model, tokens, options.prompt, how, options.tokens, options.stop
        )
        account.add(len(tokens.begin(options.prompt)) + len(found))
    if options.logprobs:
        for text, logprob in found:
            print(f"{logprob:9.4f}  {text!r}", file=sys.stderr)
    return 0


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
