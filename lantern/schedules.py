"""Schedules: learning rates as functions of the number of updates done before.

They are float32 Tensors, computed in float64. Users reach them as ``ln.optim.linear`` and so on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

import lantern as ln
from lantern.convert import asarray
from lantern.errors import ArgumentError
from lantern.tensor import Tensor

Schedule = Callable[[Any], Any]
_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


def constant(value: float) -> Schedule:
    """A learning rate that stays.

    Args:
        value: the rate.

    Returns:
        A function from the number of updates done before, an int or a Tensor, to a float32 Tensor.

    Example:
        >>> import lantern as ln
        >>> print(ln.optim.constant(0.5)(7))
        0.5
    """
    return lambda count: _result(0.0 * _position(count) + value)


def linear(start: float, end: float, steps: int) -> Schedule:
    """A learning rate that goes from ``start`` to ``end`` in ``steps`` updates, and stays there.

    Args:
        start: the rate of the first update.
        end: the rate after ``steps`` updates.
        steps: how many, at least 1.

    Returns:
        A function from the number of updates done before, an int or a Tensor, to a float32 Tensor.

    Raises:
        ValueError: fewer steps.

    Example:
        >>> import lantern as ln
        >>> schedule = ln.optim.linear(0.0, 1.0, 4)
        >>> print(*(schedule(n) for n in (0, 1, 4, 9)))
        0.0 0.25 1.0 1.0
    """
    if steps < 1:
        raise ArgumentError(f"linear: {steps} steps; expected at least 1")
    return lambda count: _result(start + (end - start) * _fraction(count, 0, steps))


def warmup_cosine(peak: float, warmup: int, steps: int, final: float = 0.0) -> Schedule:
    """A learning rate that rises linearly to ``peak`` and falls along half a cosine to ``final``.

    Args:
        peak: the highest rate.
        warmup: updates of the rise; the first one already has the rate ``peak / warmup``.
        steps: updates in all.
        final: the rate after ``steps`` updates, and from then on.

    Returns:
        A function from the number of updates done before, an int or a Tensor, to a float32 Tensor.

    Raises:
        ValueError: no steps are left after the rise.

    Source:
        Loshchilov, Hutter: SGDR (ICLR 2017), with one period.

    Example:
        >>> import lantern as ln
        >>> schedule = ln.optim.warmup_cosine(1.0, 2, 6)
        >>> print(*(round(float(schedule(n)), 2) for n in range(8)))
        0.5 1.0 1.0 0.85 0.5 0.15 0.0 0.0
    """
    if not 0 <= warmup < steps:
        raise ArgumentError(
            f"warmup_cosine: {warmup} of {steps} updates; expected 0 <= warmup < steps"
        )

    def rate(count: Any) -> Tensor:
        rise = (_position(count) + 1) / max(warmup, 1)
        fall = 0.5 * (1 + ln.cos(math.pi * _fraction(count, warmup, steps)))
        return _result(ln.where(rise < 1, peak * rise, final + (peak - final) * fall))

    return rate


def _position(count: Any) -> Tensor:
    return ln.astype(asarray(count), _FLOAT64)


def _fraction(count: Any, first: int, last: int) -> Tensor:
    """How much of the way from ``first`` to ``last`` is done, in [0, 1]."""
    return ln.minimum(ln.maximum((_position(count) - first) / (last - first), 0.0), 1.0)


def _result(rate: Tensor) -> Tensor:
    return ln.astype(rate, _FLOAT32)
