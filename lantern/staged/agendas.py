"""Lowerings of recursion by an agenda."""

from __future__ import annotations

from typing import Any

from lantern import agendas
from lantern.agendas import Cut, Half, Plan
from lantern.staged.blocks import lowered
from lantern.staged.stage import Array, Lowering, stage_of
from lantern.symbol import Symbol
from staging.ir import Block, Type, Value


def agenda(*values: Any, plan: Plan) -> tuple[Symbol, ...]:
    """Without its way back."""
    return there(*values, cut=plan.cut(()))[:-1]


def there(*values: Any, cut: Cut) -> tuple[Symbol, ...]:
    return _written("agenda", values, cut.there)


def back(*values: Any, cut: Cut) -> tuple[Symbol, ...]:
    """Of the operands of the way there it takes only what its units read."""
    first = 1 + len(cut.adjoints)
    operands = {k: values[first + i] for i, k in cut.plan.places().items()}
    reads = (operands[k] for k in cut.back.reads)
    return _written("unwind", (*values[:first], *reads), cut.back)


def _written(name: str, values: tuple[Any, ...], half: Half) -> tuple[Symbol, ...]:
    """An operation; the arrays that its blocks closed over are captures behind its own."""
    stage = stage_of(*values)
    operands = [stage.symbol(x) for x in values]
    form, controls = half.form, len(half.form.args) if name == "agenda" else 0
    count = len(half.reads)
    written = [lowered(block, stage) for block in half.blocks]
    found = {id(x): x for _, some in written for x in some}
    arrays = list(found.values())
    at = {key: count + i for i, key in enumerate(found)}
    blocks = [
        _with_arrays(block, count + n, count + n, some, arrays)
        for n, (block, some) in zip(form.args, written[:controls], strict=False)
    ]
    paths, rest = [], written[controls:]
    for path in form.paths:
        units = []
        for u, unit in enumerate(path.units):
            if not unit.empty:
                size = len(form.rows(u))
                mine, rest = rest[:size], rest[size:]
                split = len(unit.reads) + len(unit.captures)
                own = split + len(unit.sums)
                closed = list({id(x): x for _, some in mine for x in some}.values())
                blocks += (_with_arrays(block, split, own, some, closed) for block, some in mine)
                taken = (at[id(x)] for x in closed)
                unit = unit._replace(captures=(*unit.captures, *taken))
            units.append(unit)
        paths.append(path._replace(units=tuple(units)))
    mapped = (*(form.mapped if name == "agenda" else (False,) * count), *(False for _ in arrays))
    form = form._replace(paths=tuple(paths), mapped=mapped)
    return stage.emit_all(
        name, *operands, *map(stage.symbol, arrays), blocks=tuple(blocks), **form._asdict()
    )


def _with_arrays(
    block: Block, split: int, own: int, closed: list[Array], arrays: list[Array]
) -> Block:
    """A block that takes all of some arrays, among them those that it closed over itself, between
    its captures and its sums."""
    params = block.params
    mine = dict(zip(map(id, closed), params[own:], strict=True))
    given = (mine.get(id(x), Value(Type(x.dtype.name, x.shape))) for x in arrays)
    return Block((*params[:split], *given, *params[split:own]), block.ops, block.results)


LOWERINGS: dict[Any, Lowering] = {
    **dict.fromkeys(agendas.AGENDAS, agenda),
    **dict.fromkeys(agendas.WAYS_THERE, there),
    **dict.fromkeys(agendas.WAYS_BACK, back),
}
