"""Writing loops of the representation from functions of Symbols."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lantern.staged.stage import Stage, stage_of
from lantern.symbol import Symbol

Symbols = tuple[Symbol, ...]
Step = Callable[[Symbols, Symbols, Symbols], tuple[Sequence[Any], Sequence[Any]]]


def scan(
    step: Step,
    carry: Sequence[Any],
    captured: Sequence[Any],
    stacked: Sequence[Any],
    *,
    length: int,
    reverse: bool = False,
    stage: Stage | None = None,
) -> tuple[Symbols, Symbols]:
    """Write a `scan`: ``step`` runs once, on Symbols of a stage of its own, and is its block.

    Without a carry it is a map: its steps do not depend on each other.

    Args:
        step: ``step(carry, captured, slices)`` returns the carry after a step, and what the step
            adds to the stacked results. It reads its arguments and constant arrays only.
        carry: the values before the first step.
        captured: values that every step reads.
        stacked: values with a leading axis of ``length``, of which each step reads its own part.
        length: the number of steps.
        reverse: whether the last part comes first.
        stage: where it is written; that of a Symbol among the operands, if not given.

    Returns:
        The carry after the last step, and the stacked results.
    """
    stage = stage or stage_of(*carry, *captured, *stacked)
    carry, captured, stacked = ([stage.symbol(x) for x in xs] for xs in (carry, captured, stacked))
    inner = stage.inner()
    inner.builder.place = stage.builder.place
    given = [
        tuple(inner.parameter(x.shape[first:], x.dtype) for x in xs)
        for xs, first in ((carry, 0), (captured, 0), (stacked, 1))
    ]
    results = [tuple(inner.symbol(x) for x in xs) for xs in step(*given)]
    # What the step closed over comes last, and belongs to what is captured.
    params, closed = inner.builder.params, len(inner.captured)
    split = len(carry) + len(captured)
    own = len(params) - closed
    inner.builder.params = params[:split] + params[own:] + params[split:own]
    captured = [*captured, *(stage.symbol(x) for x in inner.captured)]
    values = stage.emit_all(
        "scan",
        *carry,
        *captured,
        *stacked,
        blocks=(inner.builder.block(*(x.value for xs in results for x in xs)),),
        length=length,
        carried=len(carry),
        captured=len(captured),
        reverse=reverse,
    )
    return values[: len(carry)], values[len(carry) :]
