"""``generate``: continue a prompt with a trained model."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence

from rich.console import Console

from examples.console import show
from examples.llama3 import weights
from examples.llama3.commands.models import add_model, load, told
from examples.llama3.commands.options import add_folder, add_writing, sampling
from examples.llama3.generate import Writer, until
from examples.llama3.report import accounted
from examples.llama3.sampling import Sampling
from examples.llama3.speculative import AHEAD, Speculator, draft_of
from examples.llama3.tokenizer import Tokenizer
from examples.llama3.weights import Loaded


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of ``generate``."""
    add_folder(command, "runs/llama3")
    add_model(command, "the run")
    command.add_argument("--prompt", default="", help="text to continue; default: begin a new text")
    command.add_argument(
        "--logprobs", action="store_true",
        help="then list the tokens with their log-probabilities by the model, at temperature 1",
    )  # fmt: skip
    command.add_argument(
        "--draft", metavar="MODEL",
        help="write faster, and the same: a small model guesses some tokens, which the model reads "
        "at once; a path, or 4bit, 8bit or 10layers, made of the model itself",
    )  # fmt: skip
    command.add_argument(
        "--ahead", type=int, default=AHEAD, metavar="N",
        help=f"tokens that the draft guesses at a time (default: {AHEAD})",
    )  # fmt: skip
    add_writing(command, 200)


def run(options: argparse.Namespace) -> int:
    """Generate."""
    how = sampling(options)
    console = Console(stderr=True)
    if options.model is None:
        model = weights.load_run(options.folder)
    else:
        model = load(options.model, options.bits, console)
    writer = writer_of(model, options)
    if options.model is None:
        with accounted(options.folder, "inference") as account:
            found = speak(
                writer, model.tokenizer, options.prompt, how, options.tokens, options.stop
            )
            account.add(len(model.tokenizer.begin(options.prompt)) + len(found))
    else:
        with told(console) as work:
            began = time.perf_counter()
            found = speak(
                writer, model.tokenizer, options.prompt, how, options.tokens, options.stop
            )
            work.tokens, work.seconds = len(found), time.perf_counter() - began
    if isinstance(writer, Speculator):
        show(console, f"draft: {writer}")
    if options.logprobs:
        for text, logprob in found:
            print(f"{logprob:9.4f}  {text!r}", file=sys.stderr)
    return 0


def writer_of(model: Loaded, options: argparse.Namespace) -> Writer:
    """What writes as the options say."""
    if options.draft is None:
        return Writer(model.params, model.config, cache_bits=options.cache_bits)
    draft = draft_of(model, options.draft)
    return Speculator(
        model.params, model.config, draft, options.ahead, cache_bits=options.cache_bits
    )


def speak(
    writer: Writer, tokens: Tokenizer, prompt: str, how: Sampling, count: int,
    stops: Sequence[str] = (),
) -> list[tuple[str, float]]:  # fmt: skip
    """Print a prompt and its continuation, token by token.

    Returns:
        The tokens of the continuation, and their log-probabilities.
    """
    found: list[tuple[str, float]] = []
    text = tokens.begin(prompt)

    def written() -> Iterator[int]:
        for token, logprob in writer.write(text, how, count, tokens.ends):
            found.append((tokens.decode([token]), logprob))
            yield token

    print(prompt, end="", flush=True)
    for piece in until(tokens.stream(written()), stops):
        print(piece, end="", flush=True)
    print()
    return found
