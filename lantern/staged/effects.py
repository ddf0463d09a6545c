"""The lowering of what prints, or stops a program."""

from __future__ import annotations

from typing import Any

import numpy as np

from lantern.primitives import effects
from lantern.primitives.effects import Batches
from lantern.staged.loops import Symbols, scan
from lantern.staged.stage import Lowering, Stage, stage_of
from lantern.symbol import Symbol

BOOL = np.dtype(bool)


def show(*values: Symbol, format: str, batches: Batches) -> Symbol:
    stage = stage_of(*values)
    printed(stage, values, format, batches)
    return stage.constant(False, BOOL)


def printed(stage: Stage, values: Symbols, format: str, batches: Batches) -> None:
    """Write a `print`, in a loop over each batch. The loops have a carry, so that their steps run
    in order."""
    if not batches:
        stage.emit_all("print", *values, format=format)
        return
    (size, mapped), *rest = batches

    def step(carry: Symbols, fixed: Symbols, slices: Symbols) -> tuple[Symbols, Symbols]:
        given, parts = iter(fixed), iter(slices)
        one = tuple(next(parts) if m else next(given) for m in mapped)
        printed(carry[0].stage, one, format, tuple(rest))
        return carry, ()

    fixed = [v for v, m in zip(values, mapped, strict=True) if not m]
    slices = [v for v, m in zip(values, mapped, strict=True) if m]
    scan(step, (stage.constant(False, BOOL),), fixed, slices, length=size, stage=stage)


def require(holds: Symbol, *, message: str) -> Symbol:
    stage = stage_of(holds)
    stage.emit_all("require", holds, message=message, asserted=True)
    return stage.constant(False, BOOL)


def within_limit(holds: Symbol, *, message: str) -> Symbol:
    stage = stage_of(holds)
    stage.emit_all("require", holds, message=message, limit=True)
    return stage.constant(False, BOOL)


LOWERINGS: dict[Any, Lowering] = {
    effects.show: show,
    effects.require: require,
    effects.within_limit: within_limit,
}
