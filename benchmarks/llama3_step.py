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
        row, name, contenders(shape, options, AT_LEAST[row]), count, "token", 2e-3, rounds=5
    )
    return [measure(work, options)]


def narrow(options: Options) -> list[Result]:
    """Row A in bfloat16, beside lantern's own float32 and PyTorch's compiled autocast."""
    shape = "tiny" if options.quick else "A"
    common = {"shape": shape, "compiled": True}
    ours, theirs = "benchmarks.llama3_lantern:step", "benchmarks.llama3_torch:step"
    torch = {**common, "threads": options.threads, "bf16": True}
    work = Workload(
        "A-bf16",
        "the training step A computed in bfloat16, with float32 parameters and state",
        [
            Contender("lantern", ours, {**common, "bf16": True}),
            Contender("lantern in float32", ours, common, at_least=0.95),
            Contender("torch.compile, autocast", theirs, torch, ("torch",), {}, 1.5),
            Contender("torch.compile, autocast, malloc tuned", theirs, torch, ("torch",),
                      TUNED_MALLOC, 1.5),
        ],
        SHAPES[shape].batch * SHAPES[shape].context,
        "token",
        rtol=0.1,
        rounds=5,
    )  # fmt: skip
    return [measure(work, options)]


ROWS: dict[str, Row] = {row: functools.partial(training_step, row) for row in AT_LEAST} | {
    "A-bf16": narrow
}

if __name__ == "__main__":
    from benchmarks.__main__ import main

    main(ROWS, sys.argv[1:])
