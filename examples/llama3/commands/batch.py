"""``batch``: answer the prompts in a file, many at a time."""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TextIO

from rich.console import Console

from examples.console import show
from examples.display import Display
from examples.llama3 import prompts
from examples.llama3.commands.models import add_model, load, told
from examples.llama3.commands.options import add_writing, sampling
from examples.llama3.files import Problem
from examples.llama3.machine import INTERRUPTED, Interrupt
from examples.llama3.prompts import FORMAT, Prompt, Wish
from examples.llama3.serve import Server


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of ``batch``."""
    add_model(command, bits="32, which many prompts at a time read fastest")
    command.add_argument(
        "file", nargs="?", type=Path, metavar="FILE",
        help=f"a prompt on each line, or .jsonl with lines like {FORMAT}, which may have settings "
        'of their own: "tokens", "stop", "temperature" … (default: the standard input)',
    )  # fmt: skip
    command.add_argument("--jsonl", action="store_true", help="lines are JSON, whatever FILE is")
    command.add_argument(
        "--chat", action="store_true", help="a prompt is what a user says, rather than a text"
    )
    command.add_argument(
        "--out", type=Path, metavar="FILE",
        help="where the answers go, as JSON Lines; prompts that it answers already are left out "
        "(default: the standard output)",
    )  # fmt: skip
    command.add_argument(
        "--slots", type=int, default=16, metavar="N", help="prompts at a time (default: 16)"
    )
    command.add_argument(
        "--logprobs", action="store_true", help="give the tokens' log-probabilities too"
    )
    add_writing(command, 200)


def run(options: argparse.Namespace) -> int:
    """Answer the prompts, as far as Ctrl-C lets it."""
    console = Console(stderr=True)
    wish = Wish(sampling(options), options.tokens, tuple(options.stop), options.chat)
    name, asked = read(options)
    before = prompts.answered(options.out, asked) if options.out else set()
    if len(before) == len(asked):
        show(console, f"all {len(asked)} prompts are answered in {options.out}")
        return 0
    model = load(options.model, options.bits or 32, console)
    server = Server(model.params, model.config, options.slots, model.tokenizer, options.cache_bits)
    left: dict[int, Prompt] = {}
    for prompt in asked:
        if prompt.line not in before:
            left[server.submit(prompts.request(prompt, model, wish, name))] = prompt
    with opened(options.out) as out, told(console) as work, Interrupt() as interrupt:
        began, done = time.perf_counter(), 0
        with Display(console, "answers", len(left)) as display:
            while server.busy and not interrupt.asked:
                for result in server.step():
                    pieces = [model.tokenizer.decode([t]) for t in result.tokens]
                    shown = pieces if options.logprobs else None
                    out.write(prompts.answer(left[result.id], result, shown))
                    out.flush()
                    done, work.tokens = done + 1, work.tokens + len(result.tokens)
                    work.seconds = time.perf_counter() - began
                    rate = f"{work.tokens / work.seconds:,.0f} tokens/s"
                    display.show(done, rate=rate)
    if done == len(left):
        return 0
    show(console, f"{done} of {len(left)} prompts are answered")
    return INTERRUPTED


def read(options: argparse.Namespace) -> tuple[str, list[Prompt]]:
    """The prompts, and what their file is called.

    Raises:
        Problem: there are none, a line is bad, or the file cannot be read.
    """
    path: Path | None = options.file
    name = str(path) if path else "standard input"
    jsonl = options.jsonl or (path is not None and path.suffix == ".jsonl")
    try:
        with open(path, "rb") if path else nullcontext(sys.stdin.buffer) as file:
            asked = list(prompts.read(file, name, jsonl))
    except OSError as problem:
        raise Problem(f"cannot read {name}: {problem.strerror}") from None
    if not asked:
        raise Problem(f"{name} has no prompts")
    return name, asked


def opened(path: Path | None) -> TextIO | nullcontext[TextIO]:
    """Where answers are added to."""
    if path is None:
        return nullcontext(sys.stdout)
    path.parent.mkdir(parents=True, exist_ok=True)
    return open(path, "a", encoding="utf-8")
