"""Printing of lines that people copy."""

from __future__ import annotations

from rich.console import Console


def show(console: Console, text: str) -> None:
    """Print lines as they are: not broken, and without colours for what looks like a number."""
    console.print(text, soft_wrap=True, highlight=False)
