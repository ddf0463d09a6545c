"""Tables of text, for what is measured and predicted: by rich where it is installed, plain where it
is not."""

from __future__ import annotations

import io
from collections.abc import Sequence


def render(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], foot: str = "") -> str:
    """A table as text; the first column is set to the left, the others to the right, and the last
    one, which may be long, to the left again.

    Example:
        >>> print(plain("times", ["kernel", "ms", "line"], [["exp", "1.5", "a.py:3"]], "total"))
        times
        kernel   ms  line
        exp     1.5  a.py:3
        total
    """
    try:
        return _rich(title, head, rows, foot)
    except ModuleNotFoundError:
        return plain(title, head, rows, foot)


def plain(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], foot: str = "") -> str:
    """`render` without rich."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    last = len(head) - 1
    lines = [
        "  ".join(
            cell.ljust(width) if i in (0, last) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    ]
    return "\n".join([title, *lines, *([foot] if foot else [])])


def _rich(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], foot: str) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, caption=foot or None, box=box.SIMPLE, title_justify="left")
    table.caption_justify = "left"
    for i, name in enumerate(head):
        table.add_column(name, justify="left" if i in (0, len(head) - 1) else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    out = io.StringIO()
    Console(file=out, width=10_000, markup=False, highlight=False).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()).strip("\n")


def quantity(number: float, unit: str) -> str:
    """A number of units with the prefix that keeps it short.

    Example:
        >>> quantity(98e9, "FLOP"), quantity(1500, "B"), quantity(0, "B"), quantity(3e-6, "s")
        ('98 GFLOP', '1.5 kB', '0 B', '3 µs')
    """
    size = abs(number)
    for scale, prefix in SCALES:
        if size >= scale * 0.9995:
            return f"{number / scale:.3g} {prefix}{unit}"
    return f"{number:.3g} {unit}" if not number else f"{number * 1e9:.3g} n{unit}"


SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""), (1e-3, "m"), (1e-6, "µ"))
