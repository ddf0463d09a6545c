"""Runs benchmarks: ``python -m benchmarks [--row NAME] [--only NAME] [--quick]``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence

from rich.console import Console

from benchmarks import cnn, eager_overhead, llama3_step
from benchmarks.harness import Options, Row
from benchmarks.report import show


def main(rows: Mapping[str, Row], arguments: Sequence[str]) -> None:
    """The command line of a benchmark: measure, and print a table for each row."""
    parser = argparse.ArgumentParser(description="Time lantern beside its peers, by turns.")
    parser.add_argument("--row", nargs="+", choices=list(rows), help="only these (default: all)")
    parser.add_argument("--only", nargs="+", default=(), help="contenders, by how names begin")
    parser.add_argument("--quick", action="store_true", help="smaller sizes and fewer rounds")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    given = parser.parse_args(arguments)
    options = Options(given.quick, given.threads, tuple(given.only))
    console = Console()
    for name in given.row or rows:
        for result in rows[name](options):
            show(result, console)


ROWS: dict[str, Row] = {**llama3_step.ROWS, **cnn.ROWS, **eager_overhead.ROWS}

if __name__ == "__main__":
    main(ROWS, sys.argv[1:])
