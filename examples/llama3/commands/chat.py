"""``chat``: talk to a model in the terminal."""

from __future__ import annotations

import argparse
import io
import sys

from rich.console import Console

from examples.llama3.chat import REPLY, Chat
from examples.llama3.commands.models import add_model, load, told
from examples.llama3.commands.options import add_writing, sampling
from examples.llama3.terminal import Terminal
from examples.llama3.tools import CALCULATOR


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of ``chat``."""
    add_model(command)
    command.add_argument("--system", default="", metavar="TEXT", help="the system prompt")
    command.add_argument(
        "--tools", action="store_true",
        help="let the model call a calculator, if it has been taught to call tools",
    )  # fmt: skip
    add_writing(command, REPLY)


def run(options: argparse.Namespace) -> int:
    """Chat."""
    how = sampling(options)
    for stream in (sys.stdin, sys.stdout):  # whatever is typed or written, the chat goes on
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    console = Console(stderr=True)
    terminal = Terminal(console)
    model = load(options.model, options.bits, console)
    chat = Chat(
        model, how, options.system, [CALCULATOR] if options.tools else [], options.stop,
        options.tokens, show=terminal.show, note=terminal.note, halted=terminal.halted,
        cache_bits=options.cache_bits,
    )  # fmt: skip
    if terminal.typed:
        terminal.note("/help lists commands; Ctrl-C stops a reply; Ctrl-D leaves")
    with told(console) as work:
        terminal.hold(chat)
        work.tokens, work.seconds = chat.written, terminal.seconds
    return 0
