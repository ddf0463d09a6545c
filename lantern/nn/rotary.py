"""Rotary position embedding: a pair of features turns by an angle proportional to its position.

The pairs are (i, i + D/2), features of the first and of the second half, as in the Hugging Face
layout of Llama's weights; Meta's own files pair (2i, 2i + 1), and their query and key weights need
their rows permuted.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

import lantern as ln
from lantern.convert import asarray
from lantern.errors import ShapeError, describe
from lantern.tensor import Tensor
from lantern.transform import custom_vjp

__all__ = ["Llama3Scaling", "apply_rope", "rope_frequencies"]


class Llama3Scaling(NamedTuple):
    """How Llama 3.1 stretches the frequencies for contexts longer than those of its first training.

    Attributes:
        factor: by which low frequencies are divided.
        low_frequency_factor: wavelengths above ``context / low_frequency_factor`` are stretched in
            full.
        high_frequency_factor: those below ``context / high_frequency_factor`` stay; between, it is
            interpolated.
        context: the length of the first training, in tokens.

    Example:
        >>> import lantern as ln
        >>> print(ln.nn.Llama3Scaling().factor)
        8.0
    """

    factor: float = 8.0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    context: int = 8192


def rope_frequencies(
    features: int, theta: float = 500_000.0, scaling: Llama3Scaling | None = None
) -> Tensor:
    """The angle by which each pair of features turns from one position to the next.

    Args:
        features: of one head, even.
        theta: the base: pair i turns by theta^(-2i / features).
        scaling: that of Llama 3.1, or none.

    Returns:
        float64, shape (features / 2,), in radians.

    Raises:
        ShapeError: ``features`` is odd.

    Source:
        Su et al.: RoFormer (2021). The scaling is ``apply_scaling`` of Meta's ``llama-models``.

    Example:
        >>> import lantern as ln
        >>> print(ln.nn.rope_frequencies(4, theta=100.0))
        [1.  0.1]
    """
    if features % 2:
        raise ShapeError(f"rope_frequencies: {features} features; expected an even number")
    f = theta ** (-np.arange(0, features, 2, dtype=np.float64) / features)
    if scaling is not None:
        turns = scaling.context * f / (2 * math.pi)  # in the context of the first training
        low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
        kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
        f = (1 - kept) * f / scaling.factor + kept * f
    return Tensor(f)


def apply_rope(x: Tensor, positions: Tensor, frequencies: Tensor) -> Tensor:
    """Turn each pair of features (i, i + D/2) by its position times its frequency.

    Args:
        x: shape (B, T, H, D): batch, time, heads, features.
        positions: integers, shape (T,) or (B, T).
        frequencies: radians, shape (D / 2,), from `rope_frequencies`. Angles are computed in
            float64.

    Returns:
        The shape and dtype of ``x``; float16 and bfloat16 are computed in float32 and rounded.

    Raises:
        ShapeError: the shapes do not fit.

    Example:
        >>> import lantern as ln
        >>> x = ln.asarray([2.0, 3.0, 5.0, 7.0]).reshape((1, 2, 1, 2))
        >>> y = ln.nn.apply_rope(x, ln.arange(2), ln.asarray([ln.pi / 2]))  # a quarter turn a step
        >>> print(y[0, :, 0].round())
        [[ 2.  3.]
         [-7.  5.]]
    """
    x, positions, frequencies = asarray(x), asarray(positions), asarray(frequencies)
    if (
        x.ndim != 4
        or positions.ndim not in (1, 2)
        or positions.shape != x.shape[2 - positions.ndim : 2]
        or x.shape[3] % 2
        or frequencies.shape != (x.shape[3] // 2,)
    ):
        raise ShapeError(
            f"apply_rope: x is {describe(x)}, positions {describe(positions)}, frequencies "
            f"{describe(frequencies)}; expected (B, T, H, D), (T,) or (B, T), and (D/2,)"
        )
    at = ln.expand_dims(ln.astype(positions, np.float64), axis=(-1, -2))
    angles = at * ln.astype(frequencies, np.float64)  # (T, 1, D/2) or (B, T, 1, D/2)
    dtype = np.float32 if x.dtype.itemsize == 2 else x.dtype
    cos, sin = (ln.astype(f(angles), dtype) for f in (ln.cos, ln.sin))
    return ln.astype(_turned(ln.astype(x, dtype, copy=False), cos, sin), x.dtype, copy=False)


@custom_vjp(linear=True)
def _turned(x, cos, sin):
    # Both halves at once: (..., 2, D/2), times the cosine, plus the halves exchanged times ∓ sine.
    halves = ln.reshape(x, (*x.shape[:-1], 2, x.shape[-1] // 2))
    cos, shape = ln.expand_dims(cos, axis=-2), x.shape
    signed = ln.stack((-sin, sin), axis=-2)
    dz = yield ln.reshape(halves * cos + ln.flip(halves, axis=-2) * signed, shape)
    dz = ln.reshape(dz, halves.shape)

    def dsin():
        da_b, db_a = ln.unstack(dz * ln.flip(halves, axis=-2), axis=-2)
        return db_a - da_b

    return (
        lambda: ln.reshape(dz * cos - ln.flip(dz, axis=-2) * signed, shape),
        lambda: ln.sum(dz * halves, axis=-2),
        dsin,
    )
