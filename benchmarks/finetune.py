"""A step of fine-tuning all parameters of SmolLM2-135M on a text of 256 tokens, in float32.

python -m benchmarks.finetune [--only lantern] [--quick]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.finetune_jobs import written
from benchmarks.harness import NATIVE, Contender, Entry, Options, Result, Row, Workload, measure
from benchmarks.llama3_data import SHAPES

JOBS = "benchmarks.finetune_jobs:"
AT_LEAST = 1.3  # times torch.compile's tokens a second
MEMORY = 0.7  # of torch.compile's
COMPILED = "torch.compile"


def workload(shape: str, path: str, options: Options) -> Workload:
    """Who takes the step, with what lies in a file."""
    s = SHAPES[shape]
    name = f"a step of fine-tuning all of {shape}, {s.batch} by {s.context} tokens, float32"

    def torch(name: str, at_least: float | None = None, **how: Any) -> Contender:
        arguments = {"path": path, "threads": options.threads, **how}
        return Contender(name, f"{JOBS}in_torch", arguments, ("torch",), at_least=at_least)

    contenders = [
        Contender("lantern", f"{JOBS}in_lantern", {"path": path}, NATIVE),
        torch("PyTorch", compiled=False),
        torch("PyTorch, updates in backward", compiled=False, eager_updates=True),
        torch(COMPILED, AT_LEAST, compiled=True),
        torch(f"{COMPILED}, updates in backward", compiled=True, eager_updates=True),
    ]
    return Workload("finetune", name, contenders, s.batch * s.context, "token", 2e-3, rounds=3)


def finetune(options: Options) -> list[Result]:
    """The row, and what the first contender holds of the memory of torch.compile."""
    shape = "tiny" if options.quick else "SmolLM2-135M"
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder), shape, trained=not options.quick)
        result = measure(workload(shape, path, options), options)
    peaks = {e.contender: e.peak for e in result.entries}
    ours, theirs = peaks.get("lantern"), peaks.get(COMPILED)
    if ours and theirs:
        result.entries.append(
            Entry(
                "lantern", f"peak ÷ {COMPILED}", ours / theirs, "",
                wanted=f"≤ {MEMORY:.2f}", met=ours / theirs <= MEMORY,
            )
        )  # fmt: skip
    return [result]


ROWS: dict[str, Row] = {"finetune": finetune}

if __name__ == "__main__":
    from benchmarks.__main__ import main

    main(ROWS, sys.argv[1:])
