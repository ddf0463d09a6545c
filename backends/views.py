"""What the operations that only rearrange elements read: for each, where the elements of its result
lie in its operand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from backends.affine import View, strides
from staging.ir import Op


def broadcast_view(op: Op) -> View:
    x, shape = op.inputs[0].type.shape, op.results[0].type.shape
    lead = len(shape) - len(x)
    steps = [0] * lead + [s if n > 1 else 0 for n, s in zip(x, strides(x), strict=True)]
    return View(0, tuple(zip(shape, steps, strict=True)))


def transpose_view(op: Op) -> View:
    x = op.inputs[0].type.shape
    axes, steps = cast("tuple[int, ...]", op.attributes["axes"]), strides(x)
    return View(0, tuple((x[a], steps[a]) for a in axes))


def box(shape: Sequence[int], starts: Any, counts: Any, steps: Any) -> View:
    """Where a strided box lies in an array of ``shape``."""
    rows = strides(shape)
    offset = sum(s * r for s, r in zip(starts, rows, strict=True))
    return View(offset, tuple((c, t * r) for c, t, r in zip(counts, steps, rows, strict=True)))


def slice_view(op: Op) -> View:
    return box(op.inputs[0].type.shape, *(op.attributes[k] for k in ("starts", "counts", "steps")))


def strided_view(op: Op) -> View:
    shape, steps = op.results[0].type.shape, cast("tuple[int, ...]", op.attributes["strides"])
    return View(cast(int, op.attributes["offset"]), tuple(zip(shape, steps, strict=True)))


VIEWS: dict[str, Callable[[Op], View]] = {
    "broadcast": broadcast_view,
    "transpose": transpose_view,
    "slice": slice_view,
    "view": strided_view,
}
