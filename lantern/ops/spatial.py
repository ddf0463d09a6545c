"""Settings of convolution and pooling: a number, or one for each spatial axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lantern.errors import ShapeError, describe
from lantern.primitives.windows import Padding, counts
from lantern.tensor import Tensor

Sizes = int | Sequence[int]

AXES = {1: "l", 2: "h, w"}


def per_axis(value: Any, rank: int, what: str, name: str, least: int) -> tuple[int, ...]:
    """A number, or a sequence of one for each spatial axis, as a tuple."""
    values = tuple(value) if isinstance(value, Sequence) else (value,) * rank
    if len(values) == 1:
        values = values * rank
    if len(values) != rank or not all(isinstance(v, int) and v >= least for v in values):
        raise ShapeError(
            f"{what}: {name} {value!r}; expected an integer of at least {least}, or {rank} of them"
        )
    return tuple(int(v) for v in values)


def padding_of(
    padding: Any,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    what: str,
) -> Padding:
    if padding == "valid":
        return ((0, 0),) * len(size)
    if padding == "same":
        if any(s != 1 for s in stride):
            raise ShapeError(f"{what}: padding 'same' with stride {stride}; expected stride 1")
        total = tuple(d * (k - 1) for d, k in zip(dilation, size, strict=True))
        return tuple((t // 2, t - t // 2) for t in total)
    if isinstance(padding, str):
        raise ShapeError(
            f"{what}: padding {padding!r}; expected a number, one for each axis, 'same' or 'valid'"
        )
    return tuple((p, p) for p in per_axis(padding, len(size), what, "padding", 0))


def counted(x: Tensor, params: dict[str, Any], what: str) -> tuple[int, ...]:
    """The number of windows on each axis, or an error if one has none."""
    number = counts(x.shape[-len(params["size"]) :], **params)
    if any(n < 1 for n in number):
        raise ShapeError(
            f"{what}: no window of size {params['size']}, dilation {params['dilation']} and "
            f"padding {params['padding']} fits into {describe(x)}"
        )
    return number
