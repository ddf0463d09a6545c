"""Runs all benchmarks in one go: ``python -m benchmarks [--quick] [--json FILE]``."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from benchmarks import eager_overhead, llama3_step
from benchmarks.harness import Workload, main


def workloads(quick: bool) -> Iterator[Workload]:
    """Every file's workloads, one after the other."""
    yield from eager_overhead.workloads(quick)
    yield from llama3_step.workloads(quick)


main(workloads, sys.argv[1:])
