"""Runs benchmarks: ``python -m benchmarks [--row NAME ...] [--only NAME ...] [--quick]``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import (
    cnn,
    decode,
    eager_overhead,
    finetune,
    first_token,
    fresh,
    kernels,
    llama3_step,
    loops,
    recurrent,
    recursion,
    treelstm,
)
from benchmarks.harness import Options, Row
from benchmarks.machine import about
from benchmarks.report import save, show

ROWS: dict[str, Row] = {
    **llama3_step.ROWS,
    **fresh.ROWS,
    **first_token.ROWS,
    **finetune.ROWS,
    **decode.ROWS,
    **cnn.ROWS,
    **kernels.ROWS,
    **recurrent.ROWS,
    **treelstm.ROWS,
    **loops.ROWS,
    **recursion.ROWS,
    **eager_overhead.ROWS,
}


def main(
    rows: Mapping[str, Row],
    arguments: Sequence[str],
    gpu: Callable[[], dict[str, Any]] | None = None,
) -> None:
    """The command line of a benchmark: measure, print a table for each row, write the results.

    Args:
        rows: what there is.
        arguments: of the command line.
        gpu: what is told of the GPU that all is measured on, if it is one.
    """
    parser = argparse.ArgumentParser(description="Time lantern beside its peers, by turns.")
    parser.add_argument("--row", nargs="+", choices=list(rows), help="only these (default: all)")
    parser.add_argument("--only", nargs="+", default=(), help="contenders, by how names begin")
    parser.add_argument("--quick", action="store_true", help="smaller sizes and fewer rounds")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument(
        "--save", type=Path, metavar="DIR",
        help="write a table, a picture and all numbers there, beside those of other rows",
    )  # fmt: skip
    given = parser.parse_args(arguments)
    options = Options(given.quick, given.threads, tuple(given.only))
    console = Console() if sys.stdout.isatty() else Console(width=140)
    results = []
    for name in given.row or rows:
        for result in rows[name](options):
            show(result, console)
            results.append(result)
    if given.save:
        known = about(options) | ({"gpu": gpu()} if gpu else {})
        save(results, known, given.save)
        console.print(f"All of it is in {given.save}")


if __name__ == "__main__":
    main(ROWS, sys.argv[1:])
