"""``perplexity``: how likely a model finds a text, with weights, keys and values in fewer bits."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from examples.display import Display
from examples.llama3 import weights
from examples.llama3.config import at_least
from examples.llama3.documents import find
from examples.llama3.model import bytes_of
from examples.llama3.perplexity import WINDOW, Score, score
from examples.llama3.quantise import quantised

VARIANTS = ((32, 32), (8, 32), (4, 32), (32, 8), (4, 8))  # bits of weights, of keys and values


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of ``perplexity``."""
    command.add_argument(
        "--model", type=Path, metavar="PATH",
        help="a .gguf file, a folder of Hugging Face, or a run's folder (default: "
        "SmolLM2-135M-Instruct)",
    )  # fmt: skip
    command.add_argument(
        "--data", nargs="+", default=[], metavar="FILE",
        help="text files (UTF-8) or .jsonl files; default: Python's standard library",
    )  # fmt: skip
    command.add_argument(
        "--tokens", type=int, default=8 * WINDOW, metavar="N",
        help=f"how many of the text, in windows of {WINDOW} (default: {8 * WINDOW})",
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Measure, and print a table."""
    at_least(options, WINDOW, "tokens")
    console = Console(stderr=True)
    model = weights.load(options.model or weights.smollm2(), console=console)
    tokens: list[int] = []
    for piece in find(options.data).pieces():
        tokens += model.tokenizer.encode(piece.text)
        if len(tokens) > options.tokens:
            break
    tokens = tokens[: options.tokens + 1]
    lengths = [len(piece) for piece in model.tokenizer.pieces]
    rows: list[tuple[int, int, float, Score]] = []
    total = len(VARIANTS) * ((len(tokens) - 1) // WINDOW * WINDOW)
    with Display(console, "tokens", total) as display:
        for bits, cache_bits in VARIANTS:
            params = model.params if bits == 32 else quantised(model.params, bits)
            done = len(rows) * total // len(VARIANTS)

            def seen(count: int, done: int = done, bits: int = bits) -> None:
                display.show(done + count, f"weights of {bits} bits")

            found = score(params, model.config, tokens, lengths, cache_bits, seen=seen)
            size = bytes_of(params) / 1e6
            rows.append((bits, cache_bits, size, found))
    Console().print(table(rows))
    return 0


def table(rows: list[tuple[int, int, float, Score]]) -> Table:
    """What was found, beside the first row."""
    first = rows[0][-1]
    made = Table("weights", "keys, values", "MB", "nats/token", "perplexity", "bits/byte", "change")
    for bits, cache_bits, size, found in rows:
        change = found.perplexity / first.perplexity - 1
        made.add_row(
            f"{bits} bits", f"{cache_bits} bits", f"{size:.0f}",
            f"{found.nats / found.tokens:.4f}", f"{found.perplexity:.3f}",
            f"{found.bits_per_byte:.4f}", f"{change:+.2%}" if found is not first else "",
        )  # fmt: skip
    return made
