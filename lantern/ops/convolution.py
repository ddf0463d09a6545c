"""Convolution over one or two spatial axes, with PyTorch's layouts and meaning of
arguments.

A convolution copies what each element of its weight reads into a row of a matrix, and is then one
product of matrices for each group. Its result is a view with the images first, whose memory has the
channels first; elementwise functions keep that order.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from lantern.errors import ShapeError, describe
from lantern.ops.operands import promoted
from lantern.ops.spatial import AXES, Sizes, counted, padding_of, per_axis
from lantern.primitives.elementwise import add
from lantern.primitives.products import matmul, transposed
from lantern.primitives.structure import permute, reshape
from lantern.primitives.windows import fold, windows
from lantern.tensor import Tensor

__all__ = [
    "conv1d",
    "conv2d",
    "conv_transpose1d",
    "conv_transpose2d",
]


def conv1d(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    stride: Sizes = 1,
    padding: Sizes | Literal["same", "valid"] = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Tensor:
    """Convolution over one axis (cross-correlation: the weight is not flipped).

    Args:
        x: shape (..., c, l).
        weight: shape (o, c / groups, k).
        bias: shape (o,), added to every position.
        stride: the step from window to window.
        padding: zeros at both ends; ``"same"`` keeps the length (stride 1), ``"valid"`` is 0.
        dilation: the step within a window.
        groups: input and output channels are split into this many groups that do not mix.

    Returns:
        shape (..., o, (l + 2 padding - dilation (k - 1) - 1) // stride + 1).

    Raises:
        ShapeError: shapes that do not fit, or a window longer than the input.

    Source:
        ``torch.nn.functional.conv1d``.

    Example:
        >>> import lantern as ln
        >>> x = ln.asarray([[[1.0, 2.0, 3.0, 4.0]]])
        >>> print(ln.conv1d(x, ln.asarray([[[1.0, 1.0]]]), stride=2))
        [[[3. 7.]]]
    """
    return _conv(x, weight, bias, stride, padding, dilation, groups, 1)


def conv2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    stride: Sizes = 1,
    padding: Sizes | Literal["same", "valid"] = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Tensor:
    """Convolution over two axes: `conv1d`, each setting a number or a pair.

    Args:
        x: shape (..., c, h, w).
        weight: shape (o, c / groups, kh, kw).
        bias: shape (o,).
        stride: as in `conv1d`.
        padding: as in `conv1d`.
        dilation: as in `conv1d`.
        groups: as in `conv1d`.

    Returns:
        shape (..., o, h', w').

    Raises:
        ShapeError: as in `conv1d`.

    Source:
        ``torch.nn.functional.conv2d``.

    Example:
        >>> import lantern as ln
        >>> print(ln.conv2d(ln.ones((1, 3, 8, 8)), ln.ones((5, 3, 3, 3)), padding="same").shape)
        (1, 5, 8, 8)
    """
    return _conv(x, weight, bias, stride, padding, dilation, groups, 2)


def conv_transpose1d(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Tensor:
    """The transpose of `conv1d` with respect to its input: each element spreads a weighted window.

    Args:
        x: shape (..., c, l).
        weight: shape (c, o / groups, k).
        bias: shape (o,).
        stride: the step from window to window.
        padding: positions cut off at both ends.
        output_padding: positions added at the far end; less than the stride.
        dilation: the step within a window.
        groups: channels are split into this many groups that do not mix.

    Returns:
        shape (..., o, (l - 1) stride - 2 padding + dilation (k - 1) + output_padding + 1).

    Raises:
        ShapeError: shapes that do not fit.

    Source:
        ``torch.nn.functional.conv_transpose1d``.

    Example:
        >>> import lantern as ln
        >>> x = ln.asarray([[[1.0, 2.0]]])
        >>> print(ln.conv_transpose1d(x, ln.asarray([[[1.0, 10.0]]]), stride=2))
        [[[ 1. 10.  2. 20.]]]
    """
    return _conv_transpose(x, weight, bias, stride, padding, output_padding, dilation, groups, 1)


def conv_transpose2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Tensor:
    """The transpose of `conv2d` with respect to its input; settings are those of
    `conv_transpose1d`.

    Args:
        x: shape (..., c, h, w).
        weight: shape (c, o / groups, kh, kw).
        bias: shape (o,).
        stride: as in `conv_transpose1d`, as all that follow; a number or a pair.
        padding: see there.
        output_padding: see there.
        dilation: see there.
        groups: see there.

    Returns:
        shape (..., o, h', w').

    Raises:
        ShapeError: shapes that do not fit.

    Source:
        ``torch.nn.functional.conv_transpose2d``.

    Example:
        >>> import lantern as ln
        >>> print(ln.conv_transpose2d(ln.ones((1, 3, 4, 4)), ln.ones((3, 5, 2, 2)), stride=2).shape)
        (1, 5, 8, 8)
    """
    return _conv_transpose(x, weight, bias, stride, padding, output_padding, dilation, groups, 2)


def _conv(
    x: Any,
    weight: Any,
    bias: Any,
    stride: Sizes,
    padding: Any,
    dilation: Sizes,
    groups: int,
    rank: int,
) -> Tensor:
    what = f"conv{rank}d"
    x, weight, bias = _operands(x, weight, bias, rank, what)
    outputs, inputs, *size = weight.shape
    steps = per_axis(stride, rank, what, "stride", 1)
    gaps = per_axis(dilation, rank, what, "dilation", 1)
    pads = padding_of(padding, tuple(size), steps, gaps, what)
    if (
        groups < 1
        or x.shape[-rank - 1] != inputs * groups
        or outputs % groups
        or (bias is not None and bias.shape != (outputs,))
    ):
        raise ShapeError(
            f"{what}: x {describe(x)}, weight {describe(weight)}"
            f"{'' if bias is None else f', bias {describe(bias)}'}, groups {groups}; expected "
            f"x (..., c, {AXES[rank]}), weight (o, c / groups, ...) and bias (o,), o a multiple "
            "of groups"
        )
    params = {"size": tuple(size), "stride": steps, "dilation": gaps, "padding": pads}
    number = counted(x, params, what)
    lead = x.shape[: -rank - 1]
    columns = windows(_channels_first(x, groups, rank), **params)  # (g, c / g, n, *size, *number)
    columns = permute(columns, axes=(0, 1, *range(3, 3 + rank), 2, *range(3 + rank, 3 + 2 * rank)))
    count = math.prod(size) * inputs
    columns = reshape(columns, shape=(groups, count, math.prod(lead) * math.prod(number)))
    taps = reshape(weight, shape=(groups, outputs // groups, count))
    return _images_first(matmul(taps, columns), outputs, bias, lead, number)


def _conv_transpose(
    x: Any,
    weight: Any,
    bias: Any,
    stride: Sizes,
    padding: Sizes,
    output_padding: Sizes,
    dilation: Sizes,
    groups: int,
    rank: int,
) -> Tensor:
    what = f"conv_transpose{rank}d"
    x, weight, bias = _operands(x, weight, bias, rank, what)
    inputs, outputs, *size = weight.shape
    steps = per_axis(stride, rank, what, "stride", 1)
    gaps = per_axis(dilation, rank, what, "dilation", 1)
    cut = per_axis(padding, rank, what, "padding", 0)
    extra = per_axis(output_padding, rank, what, "output_padding", 0)
    lengths = tuple(
        (n - 1) * s - 2 * p + d * (k - 1) + e + 1
        for n, s, p, d, k, e in zip(x.shape[-rank:], steps, cut, gaps, size, extra, strict=True)
    )
    if (
        groups < 1
        or x.shape[-rank - 1] != inputs
        or inputs % groups
        or (bias is not None and bias.shape != (outputs * groups,))
        or any(e >= s for e, s in zip(extra, steps, strict=True))
        or any(n < 1 for n in lengths)
    ):
        raise ShapeError(
            f"{what}: x {describe(x)}, weight {describe(weight)}"
            f"{'' if bias is None else f', bias {describe(bias)}'}, groups {groups}, padding "
            f"{cut}, output_padding {extra}; expected x (..., c, {AXES[rank]}), weight "
            "(c, o / groups, ...), bias (o,), c a multiple of groups, output_padding below the "
            "stride, and a result that is not empty"
        )
    lead, number = x.shape[: -rank - 1], x.shape[-rank:]
    images = math.prod(lead)
    flat = _channels_first(x, groups, rank)
    flat = reshape(flat, shape=(groups, inputs // groups, images * math.prod(number)))
    taps = reshape(weight, shape=(groups, inputs // groups, outputs * math.prod(size)))
    spread = matmul(transposed(taps), flat)
    spread = reshape(spread, shape=(groups * outputs, *size, images, *number))
    spread = permute(
        spread, axes=(0, 1 + rank, *range(1, 1 + rank), *range(2 + rank, 2 + 2 * rank))
    )
    pads = tuple((p, p) for p in cut)
    out = fold(spread, lengths=lengths, stride=steps, dilation=gaps, padding=pads)
    return _images_first(out, groups * outputs, bias, lead, lengths)


def _operands(x: Any, weight: Any, bias: Any, rank: int, what: str) -> Any:
    arrays = promoted(x, weight) if bias is None else promoted(x, weight, bias)
    if arrays[0].ndim < rank + 1 or arrays[1].ndim != rank + 2:
        raise ShapeError(
            f"{what}: x {describe(arrays[0])} and weight {describe(arrays[1])}; expected "
            f"(..., c, {AXES[rank]}) and {rank + 2} axes"
        )
    return (*arrays, None)[:3]


def _channels_first(x: Tensor, groups: int, rank: int) -> Tensor:
    """(..., g c, *lengths) -> (g, c, n, *lengths), n the product of what leads."""
    shape = x.shape
    channels = shape[-rank - 1] // groups
    lead = math.prod(shape[: -rank - 1])
    x = reshape(x, shape=(lead, groups, channels, *shape[-rank:]))
    return permute(x, axes=(1, 2, 0, *range(3, 3 + rank)))


def _images_first(
    out: Tensor, channels: int, bias: Any, lead: tuple[int, ...], number: tuple[int, ...]
) -> Tensor:
    """Channels, then images, in any shape -> (*lead, channels, *number), with the bias."""
    rank = len(number)
    out = reshape(out, shape=(channels, math.prod(lead), *number))
    if bias is not None:
        out = add(out, reshape(bias, shape=(channels, *(1,) * (1 + rank))))
    out = permute(out, axes=(1, 0, *range(2, 2 + rank)))
    return out if len(lead) == 1 else reshape(out, shape=(*lead, *out.shape[1:]))
