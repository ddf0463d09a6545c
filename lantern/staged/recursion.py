"""Lowerings of recursion: a group becomes one `recurse`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lantern import activations, borders
from lantern.groups import Body, Cut, Group, pack, recur, tag, unpack
from lantern.lengths import numbered
from lantern.regions import Kind
from lantern.staged.blocks import lowered
from lantern.staged.stage import Array, Lowering, Stage, stage_of
from lantern.symbol import Symbol, type_name
from staging.ir import Block as IRBlock
from staging.ir import Literal, Type, Value
from staging.recursion import described


def types_of(kinds: Sequence[Kind]) -> list[Type]:
    """The types of values of some kinds."""
    return [Type(type_name(dtype), numbered(shape)) for shape, dtype in kinds]


def recurse(*values: Any, group: Group, entry: int, **_: Any) -> tuple[Symbol, ...]:
    """The arrays that any block closed over are captures, behind those of the group."""
    stage = stage_of(*values)
    if "written" not in group.cut:
        group.cut["written"] = _written(group, stage)
    blocks, arrays = group.cut["written"]
    operands = (*map(stage.symbol, values), *map(stage.symbol, arrays))
    return stage.emit_all(
        "recurse", *operands, blocks=blocks,
        functions=tuple((f.name, len(f.args), len(f.results), _tree(f.body))
                        for f in group.functions),
        entry=entry, captured=len(group.captures) + len(arrays),
        sums=described(types_of(group.sums)),
    )  # fmt: skip


def _tree(body: Body) -> Literal:
    """A tree as an attribute."""
    if body.branches:
        return tuple(map(_tree, body.branches))
    return tuple(number for added in body.adds for number in added)


def _written(group: Group, stage: Stage) -> tuple[tuple[IRBlock, ...], list[Array]]:
    """The blocks of all trees in order, with the arrays that any closed over as last parameters."""
    bodies = [body for f in group.functions for body in f.body.all()]
    each = [lowered(body.block, stage) for body in bodies]
    arrays = list({id(x): x for _, some in each for x in some}.values())
    blocks: list[IRBlock] = []
    for (block, some), body in zip(each, bodies, strict=True):
        count = len(body.block.params)
        own = dict(zip(map(id, some), block.params[count:], strict=True))
        spare = [own.get(id(x)) or Value(Type(x.dtype.name, x.shape)) for x in arrays]
        blocks.append(IRBlock((*block.params[:count], *spare), block.ops, block.results))
    return tuple(blocks), arrays


def call(*args: Any, function: int, kinds: Sequence[Kind], cut: Cut | None) -> tuple[Symbol, ...]:
    stage = stage_of(*args)
    return stage.emit_all(
        "recur", *map(stage.symbol, args), function=function, results=described(types_of(kinds))
    )


def packed(*values: Any, tag: int) -> Symbol:
    stage = stage_of(*values)
    return stage.emit("pack", *map(stage.symbol, values), tag=tag)


def unpacked(node: Symbol, *, kinds: Sequence[Kind], tag: int) -> tuple[Symbol, ...]:
    return node.stage.emit_all("unpack", node, results=described(types_of(kinds)))


LOWERINGS: dict[Any, Lowering] = {
    **dict.fromkeys((*activations.RECURSIONS, *borders.RECURSIONS), recurse),
    recur: call,
    pack: packed,
    unpack: unpacked,
    tag: lambda node: node.stage.emit("tag", node),
}
