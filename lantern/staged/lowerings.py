"""The table of all lowerings, from each primitive to how it is written in the representation."""

from __future__ import annotations

from typing import Any

import lantern.staged.operators  # noqa: F401  # attaches operators to Symbol
from lantern.control import Primitive
from lantern.staged import (
    agendas,
    attention,
    blocks,
    decompositions,
    effects,
    elementwise,
    indexing,
    losses,
    products,
    recursion,
    reductions,
    special,
    structure,
    windows,
)
from lantern.staged.stage import Lowering


def _by_primitive(table: dict[Any, Any]) -> dict[Primitive, Any]:
    return {f.primitive: entry for f, entry in table.items()}


LOWERINGS: dict[Primitive, Lowering] = _by_primitive(
    agendas.LOWERINGS
    | attention.LOWERINGS
    | blocks.LOWERINGS
    | decompositions.LOWERINGS
    | effects.LOWERINGS
    | elementwise.LOWERINGS
    | indexing.LOWERINGS
    | losses.LOWERINGS
    | products.LOWERINGS
    | recursion.LOWERINGS
    | reductions.LOWERINGS
    | special.LOWERINGS
    | structure.LOWERINGS
    | windows.LOWERINGS
)
