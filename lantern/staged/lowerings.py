"""The table of all lowerings, from each primitive to how it is written in the representation, and
the list of primitives that have none.
"""

from __future__ import annotations

from typing import Any

import lantern.staged.operators  # noqa: F401  # attaches operators to Symbol
from lantern.control import Primitive
from lantern.primitives import decompositions as d
from lantern.staged import (
    attention,
    blocks,
    effects,
    elementwise,
    indexing,
    products,
    reductions,
    special,
    structure,
)
from lantern.staged.stage import Lowering


def _by_primitive(table: dict[Any, Any]) -> dict[Primitive, Any]:
    return {f.primitive: entry for f, entry in table.items()}


_LAPACK = "it is a routine of numpy.linalg, and the representation has none"

LOWERINGS: dict[Primitive, Lowering] = _by_primitive(
    attention.LOWERINGS
    | blocks.LOWERINGS
    | effects.LOWERINGS
    | elementwise.LOWERINGS
    | indexing.LOWERINGS
    | products.LOWERINGS
    | reductions.LOWERINGS
    | special.LOWERINGS
    | structure.LOWERINGS
)

REFUSED: dict[Primitive, str] = _by_primitive(
    dict.fromkeys(
        (
            d.solve, d.inv, d.pinv, d.matrix_rank, d.det, d.cofactors, d.second_cofactors,
            d.slogdet, d.cholesky, d.qr, d.complement, d.eigh, d.eigvalsh, d.svd, d.svdvals,
        ),
        _LAPACK,
    )
)  # fmt: skip
