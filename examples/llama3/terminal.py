"""A chat in the terminal: lines in, replies out as they are written, and what Ctrl-C does.

Replies go to the standard output, everything else to the standard error: `echo Hello | python -m
examples.llama3 chat` prints a reply and nothing more.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from examples.llama3 import chat as chats
from examples.llama3.chat import Chat
from examples.llama3.files import Problem
from examples.llama3.machine import Interrupt

PROMPT = "> "
LEAVE = "Ctrl-C again, Ctrl-D or /quit leaves"
# A model may write any character: those that would steer the terminal are shown as symbols instead.
SYMBOLS = {**{i: 0x2400 + i for i in range(32) if chr(i) not in "\n\t"}, 127: 0x2421}
SYMBOLS |= dict.fromkeys(range(128, 160), 0xFFFD)


class Left(Exception):
    """The user wants to leave."""


class Terminal:
    """Where a chat is held.

    Args:
        console: where what is no reply goes.

    Attributes:
        seconds: how long replies took so far.
    """

    def __init__(self, console: Console) -> None:
        self.console, self.typed = console, sys.stdin.isatty()
        self.interrupt = Interrupt()
        self.warned = False  # another Ctrl-C leaves
        self.inside = False  # a line of a reply
        self.seconds = 0.0
        if self.typed:
            import readline  # noqa: F401  # lines can be edited, and come back by the arrow keys

    def show(self, piece: str) -> None:
        """Print a piece of a reply."""
        self.inside = not piece.endswith("\n") if piece else self.inside
        print(piece.translate(SYMBOLS), end="", flush=True)

    def note(self, text: str) -> None:
        """Print a remark, on lines of its own."""
        if self.inside:
            self.show("\n")
        text = text.translate(SYMBOLS)
        self.console.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)

    def halted(self) -> bool:
        """Whether Ctrl-C has asked for the reply's end."""
        return self.interrupt.asked

    def hold(self, chat: Chat) -> None:
        """Talk until the user leaves."""
        with suppress(Left):
            while True:
                line = self.line()
                try:
                    if line.startswith("/"):
                        self.obey(chat, line)
                    elif line.strip():
                        self.answer(chat, line)
                except (Problem, OSError) as problem:
                    self.note(f"error: {problem}")
        self.show("\n" * self.inside)

    def line(self) -> str:
        """What the user types.

        Raises:
            Left: they type no more.
        """
        try:
            line = input(PROMPT if self.typed else "")
        except EOFError:
            self.inside = self.typed  # the cursor stands behind the prompt
            raise Left from None
        except KeyboardInterrupt:
            self.inside = self.typed
            if self.warned:
                raise Left from None
            self.warned = True
            self.note(LEAVE)
            return ""
        self.warned = False
        return line

    def answer(self, chat: Chat, line: str) -> None:
        """Show the model's reply to a message, up to where Ctrl-C stops it."""
        began = time.perf_counter()
        try:
            with Interrupt() as self.interrupt:
                chat.say(line)
        except KeyboardInterrupt:  # the second: there was no patience for the token in the making
            raise Left from None
        finally:
            self.seconds += time.perf_counter() - began
            self.show("\n" * self.inside)
        if self.interrupt.asked:
            self.warned = True
            self.note(f"stopped; {LEAVE}")

    def obey(self, chat: Chat, line: str) -> None:
        """Follow a command."""
        name, _, argument = line.partition(" ")
        if name not in COMMANDS:
            raise Problem(f"there is no command {name}; /help lists them")
        COMMANDS[name].follow(self, chat, argument.strip())

    def help(self, chat: Chat, argument: str) -> None:
        """List the commands."""
        for name, command in COMMANDS.items():
            self.note(f"{f'{name} {command.argument}':14} {command.help}")

    def reset(self, chat: Chat, argument: str) -> None:
        """Begin anew."""
        chat.reset()
        self.note("what was said is forgotten")

    def system(self, chat: Chat, argument: str) -> None:
        """Set the system prompt, or show it."""
        if argument:
            chat.system = argument
        self.note(f"system prompt: {chat.system or chat.template.system or 'none'}")

    def save(self, chat: Chat, argument: str) -> None:
        """Keep the chat."""
        if not argument:
            raise Problem("/save needs the name of a file")
        chats.save(Path(argument).expanduser(), chat.messages)
        self.note(f"{len(chat.messages)} messages are saved in {argument}")

    def quit(self, chat: Chat, argument: str) -> None:
        """Leave."""
        raise Left


class Command(NamedTuple):
    """What the user may type instead of a message."""

    argument: str
    help: str
    follow: Callable[[Terminal, Chat, str], None]


COMMANDS = {
    "/help": Command("", "this list", Terminal.help),
    "/reset": Command("", "forget what was said, but for the system prompt", Terminal.reset),
    "/system": Command("TEXT", "set the system prompt; without a text, show it", Terminal.system),
    "/save": Command("FILE", "add this chat to a file of chats (JSON Lines)", Terminal.save),
    "/quit": Command("", "leave, as Ctrl-D does; Ctrl-C stops a reply", Terminal.quit),
}
