"""Lowerings of the elementwise primitives."""

from __future__ import annotations

from typing import Any

import numpy as np

from lantern.primitives import elementwise as p
from lantern.staged.stage import Lowering, aligned, elementwise, emit, repeated
from lantern.symbol import Symbol


def where(condition: Any, x: Any, y: Any) -> Symbol:
    if not isinstance(x, Symbol) and not isinstance(y, Symbol):
        stage = condition.stage
        x, y = (stage.constant(v, np.dtype(np.result_type(x, y))) for v in (x, y))
    x, y = aligned(x, y)
    shape = np.broadcast_shapes(condition.shape, x.shape)
    return emit("select", repeated(condition, shape), repeated(x, shape), repeated(y, shape))


LOWERINGS: dict[Any, Lowering] = {
    p.add: elementwise("add"),
    p.subtract: elementwise("sub"),
    p.multiply: elementwise("mul"),
    p.negative: elementwise("negate"),
    p.sin: elementwise("sin"),
    p.cos: elementwise("cos"),
    p.exp: elementwise("exp"),
    p.log: elementwise("log"),
    p.where: where,
    p.less: elementwise("lt"),
}
