"""Lowerings of the primitives that perform a block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lantern import revolve
from lantern.blocks import CALLS, SCANS, Steps
from lantern.choices import CHOICES, SWITCHES, divided
from lantern.lengths import Length, numbered
from lantern.primitives.elementwise import equal, where
from lantern.primitives.structure import reshape
from lantern.ragged import Empty, is_ragged
from lantern.regions import Block
from lantern.replay import REPLAYS
from lantern.staged.stage import Array, Lowering, Stage, stage_of
from lantern.symbol import Symbol
from lantern.traces import not_recording
from lantern.unbounded import WHILES
from staging.ir import Block as IRBlock
from staging.ir import Type, Value


def lowered(block: Block, like: Stage) -> tuple[IRBlock, list[Array]]:
    """A block of operations for a block of primitives, and the arrays it closed over, which are
    parameters behind its own. Written once."""
    if block.lowered is None:
        block.lowered = written(block, like)
    return block.lowered


def written(block: Block, like: Stage) -> tuple[IRBlock, list[Array]]:
    """`lowered`, with values of its own."""
    inner = like.inner()
    params = [inner.parameter(*block.kind(p)) for p in block.params]
    with not_recording(inner):
        results = [inner.symbol(y) for y in block(*params)]
    return inner.builder.block(*(y.value for y in results)), inner.captured


def call(*values: Any, block: Block, run: Any) -> tuple[Symbol, ...]:
    return called(stage_of(*values), values, block)


def called(stage: Stage, values: tuple[Any, ...], block: Block) -> tuple[Symbol, ...]:
    """A `call`, which may have no operand that says where it is written."""
    body, constants = lowered(block, stage)
    operands = (*values, *map(stage.symbol, constants))
    return stage.emit_all("call", *operands, blocks=(body,))


def replay(*values: Any, block: Block, like: Block | None) -> tuple[Symbol, ...]:
    return call(*values, block=block, run=None)


def scan(
    *values: Any, block: Block, carried: int, captured: int, length: Steps, reverse: bool
) -> tuple[Symbol, ...]:
    """The arrays that the body closed over are captures; they come behind those that it has."""
    stage = stage_of(*values)
    body, constants = lowered(block, stage)
    own, inner = len(block.params), carried + captured
    key = "written", inner
    if key not in block.cut:  # one block of operations for all loops that perform this one
        params = (*body.params[:inner], *body.params[own:], *body.params[inner:own])
        block.cut[key] = IRBlock(params, body.ops, body.results)
    if type(length) is Length:
        values = values[1:]  # which the types of the tables tell
    split = inner + (length is None)
    operands = (*values[:split], *map(stage.symbol, constants), *values[split:])
    (count,) = numbered((-1 if length is None else length,))
    return stage.emit_all(
        "scan", *operands, blocks=(block.cut[key],), carried=carried,
        captured=captured + len(constants), length=count, reverse=reverse,
    )  # fmt: skip


def while_(
    *values: Any, test: Block, body: Block, carried: int, limit: int | None
) -> tuple[Symbol, ...]:
    """The arrays that either block closed over are captures of both."""
    stage = stage_of(*values)
    blocks, constants = joined((test, body), len(values), stage)
    bound = {} if limit is None else {"limit": limit}
    return stage.emit_all("while", *values, *constants, blocks=blocks, carried=carried, **bound)


def joined(
    blocks: tuple[Block, ...], count: int, stage: Stage
) -> tuple[tuple[IRBlock, ...], list[Symbol]]:
    """Blocks of ``count`` parameters written, with the constants of any as parameters of all."""
    arrays = [x for block in blocks for x in lowered(block, stage)[1]]
    made: list[IRBlock] = []
    before = 0
    for block in blocks:
        made.append(widened(block, count, arrays, before, stage))
        before += len(lowered(block, stage)[1])
    return tuple(made), [stage.symbol(x) for x in arrays]


def widened(
    block: Block, count: int, arrays: Sequence[Array], before: int, stage: Stage
) -> IRBlock:
    """A block with a parameter for each of some arrays; ``before`` is where its own constants
    begin. No two blocks of a program have values in common."""
    body, own = lowered(block, stage)
    if len(own) == len(arrays):
        return body
    key = "widened", before, tuple(map(id, arrays))
    if key not in block.cut:
        body, own = written(block, stage)
        spare = [Value(Type(x.dtype.name, x.shape)) for x in arrays]
        spare[before : before + len(own)] = body.params[count:]
        block.cut[key] = IRBlock((*body.params[:count], *spare), body.ops, body.results), arrays
    return block.cut[key][0]


def switch(index: Any, *values: Any, blocks: tuple[Block, ...]) -> tuple[Symbol, ...]:
    """Constants of any block are operands of all."""
    stage = stage_of(index, *values)
    bodies, constants = joined(blocks, len(values), stage)
    return stage.emit_all("switch", stage.symbol(index), *map(stage.symbol, values), *constants,
                          blocks=bodies)  # fmt: skip


def choose(
    index: Any, *values: Any, blocks: tuple[Block, ...], shared: int, picked: int
) -> tuple[Symbol, ...]:
    """Every block, and a `select` for each result that is picked."""
    stage = stage_of(index, *values)
    given = divided(tuple(map(stage.symbol, values)), blocks, shared)
    results = [called(stage, own, b) for b, own in zip(blocks, given, strict=True)]
    chosen = list(results[0][:picked])
    for number, some in enumerate(results[1:], 1):
        last = number == len(results) - 1
        here = index >= number if last else equal(index, number)  # which clips the index
        for i, y in enumerate(some[:picked]):
            if is_ragged(y.shape):
                empty = type(blocks[number].results[i]) is Empty
                chosen[i] = chosen[i] if empty else y
                continue
            mask = reshape(here, shape=(*index.shape, *(1,) * (y.ndim - index.ndim)))
            chosen[i] = where(mask, y, chosen[i])
    return (*chosen, *(y for some in results for y in some[picked:]))


def without_policy(lowering: Lowering) -> Lowering:
    """What a loop keeps plays no part any more when it is written."""

    def written(*values: Any, slots: int, **static: Any) -> Any:
        return lowering(*values, **static)

    return written


LOWERINGS: dict[Any, Lowering] = {
    **dict.fromkeys(CALLS, call),
    **dict.fromkeys(REPLAYS, replay),
    **dict.fromkeys(SCANS, scan),
    **dict.fromkeys(SWITCHES, switch),
    **dict.fromkeys(WHILES, while_),
    **dict.fromkeys(CHOICES, choose),
    **dict.fromkeys(revolve.SCANS, without_policy(scan)),
    **dict.fromkeys(revolve.WHILES, without_policy(while_)),
}
