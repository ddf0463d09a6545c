"""Pooling over one or two spatial axes, with PyTorch's layouts and meaning of arguments."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lantern.convert import asarray
from lantern.errors import DTypeError, ShapeError, describe
from lantern.ops.assembly import pad
from lantern.ops.spatial import AXES, Sizes, counted, per_axis
from lantern.primitives.elementwise import multiply
from lantern.primitives.reductions import reduce_max
from lantern.primitives.structure import reduce_sum, reshape
from lantern.primitives.windows import Padding, counts, windows
from lantern.tensor import Tensor

__all__ = ["avg_pool1d", "avg_pool2d", "max_pool1d", "max_pool2d"]


def max_pool1d(
    x: Any,
    size: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """The largest element of each window over one axis; equal ones share the derivative equally.

    Args:
        x: shape (..., l), usually (n, c, l).
        size: the length of a window.
        stride: the step from window to window, ``size`` if it is None.
        padding: positions at both ends that are never the largest; at most half a window.
        dilation: the step within a window.
        ceil_mode: also take a last window that reaches beyond the end.

    Returns:
        shape (..., l').

    Raises:
        ShapeError: a window longer than the input, or too much padding.

    Source:
        ``torch.nn.functional.max_pool1d``.

    Example:
        >>> import lantern as ln
        >>> print(ln.max_pool1d(ln.asarray([[1.0, 3.0, 2.0, 4.0]]), 2))
        [[3. 4.]]
    """
    return _max_pool(x, size, stride, padding, dilation, ceil_mode, 1)


def max_pool2d(
    x: Any,
    size: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """The largest element of each window over two axes: `max_pool1d`, each setting a number or a
    pair.

    Args:
        x: shape (..., h, w), usually (n, c, h, w).
        size: as in `max_pool1d`, as all that follow.
        stride: see there.
        padding: see there.
        dilation: see there.
        ceil_mode: see there.

    Returns:
        shape (..., h', w').

    Raises:
        ShapeError: as in `max_pool1d`.

    Source:
        ``torch.nn.functional.max_pool2d``.

    Example:
        >>> import lantern as ln
        >>> print(ln.max_pool2d(ln.reshape(ln.arange(16.0), (1, 4, 4)), 2))
        [[[ 5.  7.]
          [13. 15.]]]
    """
    return _max_pool(x, size, stride, padding, dilation, ceil_mode, 2)


def avg_pool1d(
    x: Any,
    size: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """The mean of each window over one axis.

    Args:
        x: shape (..., l), usually (n, c, l), floating.
        size: the length of a window.
        stride: the step from window to window, ``size`` if it is None.
        padding: zeros at both ends; at most half a window.
        ceil_mode: also take a last window that reaches beyond the end.
        count_include_pad: whether the zeros of the padding count as elements of the mean.

    Returns:
        shape (..., l').

    Raises:
        DTypeError: not a floating dtype.
        ShapeError: a window longer than the input, or too much padding.

    Source:
        ``torch.nn.functional.avg_pool1d``.

    Example:
        >>> import lantern as ln
        >>> print(ln.avg_pool1d(ln.asarray([[1.0, 3.0, 2.0, 4.0]]), 2))
        [[2. 3.]]
    """
    return _avg_pool(x, size, stride, padding, ceil_mode, count_include_pad, 1)


def avg_pool2d(
    x: Any,
    size: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """The mean of each window over two axes: `avg_pool1d`, each setting a number or a pair.

    Args:
        x: shape (..., h, w), usually (n, c, h, w), floating.
        size: as in `avg_pool1d`, as all that follow.
        stride: see there.
        padding: see there.
        ceil_mode: see there.
        count_include_pad: see there.

    Returns:
        shape (..., h', w').

    Raises:
        DTypeError: as in `avg_pool1d`.
        ShapeError: as in `avg_pool1d`.

    Source:
        ``torch.nn.functional.avg_pool2d``.

    Example:
        >>> import lantern as ln
        >>> print(ln.avg_pool2d(ln.reshape(ln.arange(16.0), (1, 4, 4)), 2))
        [[[ 2.5  4.5]
          [10.5 12.5]]]
    """
    return _avg_pool(x, size, stride, padding, ceil_mode, count_include_pad, 2)


def _max_pool(
    x: Any,
    size: Sizes,
    stride: Sizes | None,
    padding: Sizes,
    dilation: Sizes,
    ceil_mode: bool,
    rank: int,
) -> Tensor:
    what = f"max_pool{rank}d"
    x = asarray(x)
    params = _pooled(x, size, stride, padding, dilation, ceil_mode, rank, what)
    pads, params["padding"] = params["padding"], ((0, 0),) * rank
    if any(p for pair in pads for p in pair):
        lowest = -math.inf if x.dtype.kind not in "biu" else int(np.iinfo(x.dtype).min)
        x = pad(x, ((0, 0),) * (x.ndim - rank) + pads, constant_values=lowest)
    return _reduced(reduce_max, x, params, rank)


def _avg_pool(
    x: Any,
    size: Sizes,
    stride: Sizes | None,
    padding: Sizes,
    ceil_mode: bool,
    count_include_pad: bool,
    rank: int,
) -> Tensor:
    what = f"avg_pool{rank}d"
    x = asarray(x)
    if x.dtype.kind in "biu":
        raise DTypeError(f"{what}: {describe(x)}; expected a floating dtype")
    lengths = x.shape[-rank:]
    pads = per_axis(padding, rank, what, "padding", 0)
    params = _pooled(x, size, stride, padding, 1, ceil_mode, rank, what)
    elements = np.ones((), x.dtype)
    for n, k, s, p, number in zip(
        lengths,
        params["size"],
        params["stride"],
        pads,
        counts(lengths, **params),
        strict=True,
    ):
        start = np.arange(number) * s - p
        end = np.minimum(start + k, n + p)
        inside = end - start if count_include_pad else np.minimum(end, n) - np.maximum(start, 0)
        elements = elements[..., None] * inside.astype(np.float64)
    return multiply(_reduced(reduce_sum, x, params, rank), (1 / elements).astype(x.dtype))


def _pooled(
    x: Tensor,
    size: Sizes,
    stride: Sizes | None,
    padding: Sizes,
    dilation: Sizes,
    ceil_mode: bool,
    rank: int,
    what: str,
) -> dict[str, Any]:
    """The parameters of the input's `windows`."""
    if x.ndim < rank + 1:
        x_axes = f"(..., c, {AXES[rank]})"
        raise ShapeError(f"{what}: {describe(x)}; expected {x_axes}")
    sizes = per_axis(size, rank, what, "size", 1)
    steps = sizes if stride is None else per_axis(stride, rank, what, "stride", 1)
    gaps = per_axis(dilation, rank, what, "dilation", 1)
    ends = per_axis(padding, rank, what, "padding", 0)
    if any(2 * p > d * (k - 1) + 1 for p, d, k in zip(ends, gaps, sizes, strict=True)):
        raise ShapeError(
            f"{what}: padding {ends} for windows of {sizes}; expected at most half a window"
        )
    pads: Padding = tuple((p, p) for p in ends)
    if ceil_mode:
        pads = tuple(
            (p, _far_padding(n, k, s, d, p))
            for n, k, s, d, p in zip(x.shape[-rank:], sizes, steps, gaps, ends, strict=True)
        )
    params = {"size": sizes, "stride": steps, "dilation": gaps, "padding": pads}
    counted(x, params, what)
    return params


def _far_padding(length: int, size: int, stride: int, dilation: int, padding: int) -> int:
    """The padding at the far end that lets a last window fit which begins before the end."""
    reach = dilation * (size - 1) + 1
    number = -((length + 2 * padding - reach) // -stride) + 1
    if (number - 1) * stride >= length + padding:
        number -= 1
    return max(padding, (number - 1) * stride + reach - length - padding)


def _reduced(reduce: Any, x: Tensor, params: dict[str, Any], rank: int) -> Tensor:
    """Reduce each window; NumPy does that by far the fastest along one axis of a copy."""
    lead = x.ndim - rank
    taken = windows(x, **params)
    number = taken.shape[lead + rank :]
    taken = reshape(taken, shape=(*x.shape[:lead], math.prod(params["size"]), *number))
    return reduce(taken, axes=(lead,))
