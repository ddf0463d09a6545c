"""``generate``: continue a prompt with a trained model."""

from __future__ import annotations

import argparse
from typing import Any

import lantern as ln
from examples.llama3 import checkpoint, tokenizer
from examples.llama3.commands.options import add_folder
from examples.llama3.config import ModelConfig
from examples.llama3.files import Problem
from examples.llama3.generate import Sampling, generate


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of ``generate``."""
    add_folder(command, "runs/llama3")
    command.add_argument("--prompt", default="", help="text to continue; default: begin a new text")
    command.add_argument("--tokens", type=int, default=200, metavar="N", help="tokens at most")
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


def run(options: argparse.Namespace) -> int:
    """Generate."""
    how = Sampling(options.temperature, options.top_k, options.top_p)
    how.check()
    if options.tokens < 1:
        raise Problem(f"--tokens is {options.tokens}; it must be at least 1")
    path = checkpoint.newest(options.folder)
    config, _ = checkpoint.load_settings(path)
    params = checkpoint.load_params(path)
    tokens = tokenizer.load(options.folder / checkpoint.TOKENIZER)
    speak(params, config.model, tokens, options.prompt, how, options.seed, options.tokens)
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
