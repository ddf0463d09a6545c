"""The table of all lowerings: from each primitive to how it is written in the representation."""

from __future__ import annotations

from typing import Any

from lantern.control import Primitive
from lantern.staged import elementwise
from lantern.staged.stage import Lowering


def _by_primitive(*tables: dict[Any, Lowering]) -> dict[Primitive, Lowering]:
    return {f.primitive: lowering for table in tables for f, lowering in table.items()}


LOWERINGS = _by_primitive(elementwise.LOWERINGS)
