"""Lowerings of the primitives that perform a block."""

from __future__ import annotations

from typing import Any

from lantern.blocks import CALLS, SCANS
from lantern.regions import Block
from lantern.staged.stage import Array, Lowering, Stage, stage_of
from lantern.symbol import Symbol
from staging.ir import Block as IRBlock


def lowered(block: Block, like: Stage) -> tuple[IRBlock, list[Array]]:
    """A block of operations for a block of primitives, and the arrays it closed over, which are
    parameters behind its own. Written once."""
    if block.lowered is None:
        inner = like.inner()
        params = [inner.parameter(*block.kind(p)) for p in block.params]
        results = [inner.symbol(y) for y in block(*params)]
        block.lowered = inner.builder.block(*(y.value for y in results)), inner.captured
    return block.lowered


def call(*values: Any, block: Block, run: Any) -> tuple[Symbol, ...]:
    stage = stage_of(*values)
    body, constants = lowered(block, stage)
    operands = (*values, *map(stage.symbol, constants))
    return stage.emit_all("call", *operands, blocks=(body,))


def scan(
    *values: Any, block: Block, carried: int, captured: int, length: int, reverse: bool
) -> tuple[Symbol, ...]:
    """The arrays that the body closed over are captures; they come behind those that it has."""
    stage = stage_of(*values)
    body, constants = lowered(block, stage)
    own, inner = len(block.params), carried + captured
    params = (*body.params[:inner], *body.params[own:], *body.params[inner:own])
    operands = (*values[:inner], *map(stage.symbol, constants), *values[inner:])
    return stage.emit_all(
        "scan", *operands, blocks=(IRBlock(params, body.ops, body.results),), carried=carried,
        captured=captured + len(constants), length=length, reverse=reverse,
    )  # fmt: skip


LOWERINGS: dict[Any, Lowering] = {
    **dict.fromkeys(CALLS, call),
    **dict.fromkeys(SCANS, scan),
}
