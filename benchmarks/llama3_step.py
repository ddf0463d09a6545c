"""Llama-3 training steps: loss, gradients, clipping and AdamW, in float32.

python -m benchmarks.llama3_step [--row A|B] [--only lantern] [--quick]
"""

from __future__ import annotations

import functools
import sys

from benchmarks.harness import (
    NATIVE,
    TUNED_MALLOC,
    Contender,
    Options,
    Result,
    Row,
    Workload,
    measure,
)
from benchmarks.llama3_data import SHAPES

AT_LEAST = {"A": 1.5, "B": 2.0}


def contenders(shape: str, options: Options, at_least: float | None = None) -> list[Contender]:
    """Who does a step of this shape."""

    def lantern(name: str, compiled: bool, needs: tuple[str, ...]) -> Contender:
        arguments = {"shape": shape, "compiled": compiled}
        return Contender(name, "benchmarks.llama3_lantern:step", arguments, needs)

    def torch(name: str, compiled: bool, tuned: bool) -> Contender:
        return Contender(
            name + (", malloc tuned" if tuned else ""),
            "benchmarks.llama3_torch:step",
            {"shape": shape, "compiled": compiled, "threads": options.threads},
            ("torch",),
            TUNED_MALLOC if tuned else {},
            at_least if compiled else None,
        )

    return [
        lantern("lantern", True, NATIVE),
        lantern("eager lantern", False, ()),
        *(torch("PyTorch", False, tuned) for tuned in (False, True)),
        *(torch("torch.compile", True, tuned) for tuned in (False, True)),
        Contender("JAX", "benchmarks.llama3_jax:step", {"shape": shape}, ("jax",)),
    ]


def training_step(row: str, options: Options) -> list[Result]:
    """Row A or B of the table."""
    shape = "tiny" if options.quick and row == "A" else row
    s = SHAPES[shape]
    name = (
        f"a Llama-3 training step: dim {s.dim}, {s.layers} layers, {s.heads} heads on "
        f"{s.kv_heads}, hidden {s.ffn}, vocabulary {s.vocab:,}, {s.batch} by {s.context} tokens"
    )
    count = s.batch * s.context
    work = Workload(
        row, name, contenders(shape, options, AT_LEAST[row]), count, "token", 2e-3, rounds=7
    )
    return [measure(work, options)]


ROWS: dict[str, Row] = {row: functools.partial(training_step, row) for row in AT_LEAST}

if __name__ == "__main__":
    from benchmarks.__main__ import main

    main(ROWS, sys.argv[1:])
