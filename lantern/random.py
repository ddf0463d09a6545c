"""Random numbers from explicit keys: the same key gives the same numbers, everywhere.

A key is a Tensor of two uint32 words; nothing is hidden and nothing advances. Use a key once:
`split` it, or `fold_in` a counter, and draw from what that gives. Every function works under
`lantern.vmap` with a batch of keys.

The numbers are defined by what follows, so that every backend gives the same bits:

* The generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as
  1, 2, 3, SC 2011): a function of a key (k0, k1) and a counter (c0, c1, c2, c3) to four words of
  32 bits.
* ``key(seed)`` is (low word, high word) of the seed modulo 2⁶⁴.
* Draws use the counters (block, 0, 0, 0). Word i of a draw is word i mod 4 of block i div 4; a
  64-bit word i is word 2i plus 2³² times word 2i + 1. Element i of a draw, in row-major order, is
  made from word i (`normal`: a pair of elements from a pair of words), so a draw depends on its
  shape only through the number of elements, and a shorter draw is a prefix of a longer one.
* ``split`` takes the first two words at the counters (i, 0, 0, 1), ``fold_in`` those at
  (low, high, 0, 2), low and high being the words of its number.
* A uniform number is the top m bits of its word times 2⁻ᵐ: m = 11, 8, 24 and 53 for float16,
  bfloat16, float32 and float64. It is exact, in [0, 1). Where 0 and 1 would be fatal, (k + ½) 2⁻ᵐ
  with the top m bits k is used, m = 23 for float32 and 52 for float64.
* `normal` is Box and Muller's transformation: with u the uniform number of the even word plus 2⁻ᵐ,
  in (0, 1], v that of the odd one and r = √(-2 log u), the pair is r cos 2πv, r sin 2πv. Other
  distributions are the inverse of their distribution function. float16 and bfloat16 are made in
  float32 and rounded. Backends agree on these up to the rounding of log, cos and sin.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import lantern as ln
from lantern.convert import asarray
from lantern.draws import (
    CLOSED,
    FLOAT64,
    FOLD,
    SPLIT,
    UINT32,
    UINT64,
    ZERO,
    Shape,
    as_shape,
    common_shape,
    computed,
    draw,
    halves,
    in_dtype,
    key_words,
    moved,
    open_unit,
    shape_and_dtype,
    unit,
    with_axis,
)
from lantern.errors import ArgumentError, DTypeError, ShapeError, describe
from lantern.primitives.random import normal_quantile, philox
from lantern.tensor import Tensor

__all__ = [
    "bernoulli",
    "bits",
    "categorical",
    "choice",
    "exponential",
    "fold_in",
    "gumbel",
    "key",
    "normal",
    "permutation",
    "randint",
    "split",
    "truncated_normal",
    "uniform",
]


def key(seed: int | Tensor) -> Tensor:
    """The key of a seed.

    Args:
        seed: an integer, taken modulo 2⁶⁴, or an integer Tensor of shape ().

    Returns:
        uint32, shape (2,).

    Example:
        >>> import lantern as ln
        >>> print(ln.random.key(2**32 + 7))
        [7 1]
    """
    return ln.stack(halves(seed, "key"))


def split(key: Tensor, num: int = 2) -> Tensor:
    """Make independent keys from one, which must not be used again.

    Args:
        key: uint32, shape (2,).
        num: how many.

    Returns:
        uint32, shape (num, 2). Row i does not depend on ``num``.

    Example:
        >>> import lantern as ln
        >>> first, second = ln.random.split(ln.random.key(0))
        >>> print(ln.random.uniform(first), ln.random.uniform(second))
        0.33307254 0.044546127
    """
    k0, k1 = key_words(key)
    if num < 0:
        raise ArgumentError(f"split: {num} keys; expected a number that is not negative")
    words = philox(k0, k1, ln.arange(num, dtype=UINT32), ZERO, ZERO, SPLIT)
    return ln.stack(words[:2], axis=-1)


def fold_in(key: Tensor, data: int | Tensor) -> Tensor:
    """Make a key from a key and a number, such as a step or the position of a layer.

    Args:
        key: uint32, shape (2,). It may be folded with many numbers.
        data: an integer, taken modulo 2⁶⁴, or an integer Tensor of shape ().

    Returns:
        uint32, shape (2,).

    Example:
        >>> import lantern as ln
        >>> key = ln.random.key(0)
        >>> [float(ln.random.uniform(ln.random.fold_in(key, step))) < 1 for step in range(3)]
        [True, True, True]
    """
    low, high = halves(data, "fold_in")
    return ln.stack(philox(*key_words(key), low, high, ZERO, FOLD)[:2])


def bits(key: Tensor, shape: Shape = (), dtype: Any = UINT32) -> Tensor:
    """Draw random bits, all equally likely.

    Args:
        key: uint32, shape (2,).
        shape: of the result.
        dtype: uint8, uint16 (the low bits of a word), uint32 or uint64.

    Raises:
        DTypeError: another dtype.

    Example:
        >>> import lantern as ln
        >>> print(ln.random.bits(ln.random.key(0), (2,)))
        [1713891541 3781805453]
    """
    shape, dtype = as_shape(shape), np.dtype(dtype)
    if dtype.kind != "u":
        raise DTypeError(f"bits: dtype {dtype}; expected an unsigned integer")
    return ln.reshape(draw(key, math.prod(shape), dtype), shape)


def uniform(
    key: Tensor,
    shape: Shape | None = None,
    dtype: Any = None,
    minval: float | Tensor = 0.0,
    maxval: float | Tensor = 1.0,
) -> Tensor:
    """Draw from the uniform distribution on [minval, maxval).

    Args:
        key: uint32, shape (2,).
        shape: of the result; that of the bounds unless given.
        dtype: floating; that of the bounds, if one is a Tensor, or float32.
        minval: the lower bound, broadcast against ``shape``. The result is differentiable in both
            bounds.
        maxval: the upper bound, which rounding may reach unless the bounds are 0 and 1.

    Raises:
        DTypeError: the dtype is not floating.
        ShapeError: the bounds do not broadcast to ``shape``.

    Example:
        >>> import lantern as ln
        >>> print(ln.random.uniform(ln.random.key(0), (3,)))
        [0.39904642 0.88052016 0.73571277]
        >>> print(ln.grad(lambda b: ln.random.uniform(ln.random.key(0), maxval=b))(2.0))
        0.39904642
    """
    shape, dtype = shape_and_dtype("uniform", shape, dtype, minval, maxval)
    u = ln.reshape(unit(key, math.prod(shape), dtype), shape)
    if type(minval) is not Tensor and type(maxval) is not Tensor and (minval, maxval) == (0, 1):
        return u
    minval, maxval = in_dtype(minval, dtype), in_dtype(maxval, dtype)
    return minval + u * (maxval - minval)


def normal(
    key: Tensor,
    shape: Shape | None = None,
    dtype: Any = None,
    loc: float | Tensor = 0.0,
    scale: float | Tensor = 1.0,
) -> Tensor:
    """Draw from the normal distribution.

    Args:
        key: uint32, shape (2,).
        shape: of the result; that of ``loc`` and ``scale`` unless given.
        dtype: floating; that of ``loc`` and ``scale``, if one is a Tensor, or float32.
        loc: the mean, broadcast against ``shape``. The result is differentiable in both parameters.
        scale: the standard deviation.

    Raises:
        DTypeError: the dtype is not floating.
        ShapeError: the parameters do not broadcast to ``shape``.

    Example:
        >>> import lantern as ln
        >>> print(ln.random.normal(ln.random.key(0), (3,)).dtype)
        float32
        >>> print(ln.grad(lambda m: ln.random.normal(ln.random.key(0), loc=m))(2.0))
        1.0
    """
    shape, dtype = shape_and_dtype("normal", shape, dtype, loc, scale)
    count, exact = math.prod(shape), computed(dtype)
    step = 2.0 ** -CLOSED[exact.name]
    u = ln.reshape(unit(key, count + count % 2, exact), (-1, 2))
    # The logarithm in double precision: in single precision they differ by several places.
    logarithm = ln.log(ln.astype(u[:, 0] + step, FLOAT64, copy=False))
    radius = ln.astype(ln.sqrt(-2.0 * logarithm), exact, copy=False)
    angle = u[:, 1] * (2 * math.pi)
    pairs = ln.stack((radius * ln.cos(angle), radius * ln.sin(angle)), axis=-1)
    z = ln.astype(ln.reshape(ln.reshape(pairs, (-1,))[:count], shape), dtype, copy=False)
    return moved(z, loc, scale, dtype)


def truncated_normal(
    key: Tensor,
    shape: Shape | None = None,
    dtype: Any = None,
    lower: float | Tensor = -2.0,
    upper: float | Tensor = 2.0,
) -> Tensor:
    """Draw from the standard normal distribution restricted to [lower, upper].

    Args:
        key: uint32, shape (2,).
        shape: of the result; that of the bounds unless given.
        dtype: floating; that of the bounds, if one is a Tensor, or float32.
        lower: the lower bound, broadcast against ``shape``. The result is differentiable in both
            bounds.
        upper: the upper bound.

    Raises:
        DTypeError: the dtype is not floating.
        ShapeError: the bounds do not broadcast to ``shape``.

    Source:
        The quantile function is algorithm AS 241 (Wichura, Applied Statistics 37, 1988).

    Example:
        >>> import lantern as ln
        >>> x = ln.random.truncated_normal(ln.random.key(0), (1000,), lower=0.0, upper=1.0)
        >>> print(bool(ln.all((x >= 0) & (x <= 1))))
        True
    """
    shape, dtype = shape_and_dtype("truncated_normal", shape, dtype, lower, upper)
    u = ln.astype(open_unit(key, math.prod(shape), computed(dtype)), FLOAT64, copy=False)
    low, high = in_dtype(lower, FLOAT64), in_dtype(upper, FLOAT64)
    flip = low > 0  # the left tail keeps its digits, the right one rounds to 1
    a, b = ln.where(flip, -high, low), ln.where(flip, -low, high)
    a, b = (0.5 * ln.erfc(x * -math.sqrt(0.5)) for x in (a, b))  # the distribution function
    z = normal_quantile(a + ln.reshape(u, shape) * (b - a))
    z = ln.where(flip, -z, z)
    return ln.astype(ln.minimum(ln.maximum(z, low), high), dtype, copy=False)


def randint(
    key: Tensor,
    shape: Shape | None = None,
    minval: int | Tensor = 0,
    maxval: int | Tensor = 2,
    dtype: Any = np.int64,
) -> Tensor:
    """Draw integers from [minval, maxval).

    Each comes from 64 bits modulo the length of the interval, so that no two probabilities differ
    by more than 2⁻⁶⁴.

    Args:
        key: uint32, shape (2,).
        shape: of the result; that of the bounds unless given.
        minval: the smallest value, broadcast against ``shape``.
        maxval: one more than the largest value.
        dtype: an integer dtype.

    Raises:
        DTypeError: the dtype is not an integer.
        ValueError: the interval is empty or does not fit the dtype.
        ShapeError: the bounds do not broadcast to ``shape``.

    Example:
        >>> import lantern as ln
        >>> print(ln.random.randint(ln.random.key(0), (5,), 1, 7))
        [4 1 5 2 4]
    """
    dtype = np.dtype(dtype)
    if dtype.kind not in "iu":
        raise DTypeError(f"randint: dtype {dtype}; expected an integer")
    shape = common_shape("randint", shape, minval, maxval)
    words = ln.reshape(draw(key, math.prod(shape), UINT64), shape or (1,))
    if isinstance(minval, int) and isinstance(maxval, int):
        limits = np.iinfo(dtype)
        if not limits.min <= minval < maxval <= int(limits.max) + 1:
            raise ArgumentError(
                f"randint: [{minval}, {maxval}); expected minval < maxval within {dtype}"
            )
        if maxval - minval < 2**64:
            words = words % np.full(1, maxval - minval, np.uint64)
        low = asarray(np.full(1, minval % 2**64, np.uint64))
    else:
        # Arrays with an axis: unsigned differences are meant to wrap, and NumPy scalars warn of it.
        low, high = (with_axis(b) for b in (minval, maxval))
        words = words % (high - low)
    return ln.reshape(ln.astype(words + low, dtype), shape)


def bernoulli(key: Tensor, p: float | Tensor = 0.5, shape: Shape | None = None) -> Tensor:
    """Draw booleans that are true with probability ``p``.

    Args:
        key: uint32, shape (2,).
        p: the probability, broadcast against ``shape``.
        shape: of the result; that of ``p`` unless given.

    Returns:
        bool: whether a uniform number, float32 unless ``p`` is float64, is below ``p``.

    Example:
        >>> import lantern as ln
        >>> print(ln.random.bernoulli(ln.random.key(0), 0.5, (3,)))
        [ True False False]
    """
    shape, dtype = shape_and_dtype("bernoulli", shape, None, p)
    dtype = computed(dtype)
    return ln.reshape(unit(key, math.prod(shape), dtype), shape) < in_dtype(p, dtype)


def categorical(key: Tensor, logits: Tensor, axis: int = -1) -> Tensor:
    """Draw the index of a category, with probabilities softmax(logits).

    Args:
        key: uint32, shape (2,).
        logits: floating; -inf where a category is excluded.
        axis: the axis of the categories.

    Returns:
        int64, the shape of ``logits`` without ``axis``: where the sum of logits and Gumbel numbers
        is largest (Gumbel, 1954).

    Example:
        >>> import lantern as ln
        >>> print(ln.random.categorical(ln.random.key(0), ln.asarray([-9e9, 0.0, -9e9])))
        1
    """
    logits = asarray(logits)
    noise = gumbel(key, logits.shape, computed(logits.dtype))
    return ln.argmax(ln.stop_gradient(logits) + noise, axis=axis)


def gumbel(key: Tensor, shape: Shape = (), dtype: Any = None) -> Tensor:
    """Draw from the standard Gumbel distribution: -log(-log u).

    Args:
        key: uint32, shape (2,).
        shape: of the result.
        dtype: floating, float32 unless given.

    Example:
        >>> import lantern as ln
        >>> print(ln.random.gumbel(ln.random.key(0), (2,)).shape)
        (2,)
    """
    shape, dtype = shape_and_dtype("gumbel", as_shape(shape), dtype)
    u = open_unit(key, math.prod(shape), computed(dtype))
    return ln.astype(ln.reshape(-ln.log(-ln.log(u)), shape), dtype, copy=False)


def exponential(
    key: Tensor, shape: Shape | None = None, dtype: Any = None, scale: float | Tensor = 1.0
) -> Tensor:
    """Draw from the exponential distribution: -scale · log u.

    Args:
        key: uint32, shape (2,).
        shape: of the result; that of ``scale`` unless given.
        dtype: floating; that of ``scale``, if it is a Tensor, or float32.
        scale: the mean, broadcast against ``shape``, in which the result is differentiable.

    Example:
        >>> import lantern as ln
        >>> print(bool(ln.all(ln.random.exponential(ln.random.key(0), (9,)) > 0)))
        True
    """
    shape, dtype = shape_and_dtype("exponential", shape, dtype, scale)
    u = open_unit(key, math.prod(shape), computed(dtype))
    return moved(ln.astype(ln.reshape(-ln.log(u), shape), dtype, copy=False), 0.0, scale, dtype)


def permutation(key: Tensor, x: int | Tensor, axis: int = 0) -> Tensor:
    """Put the elements of an axis into a random order.

    Args:
        key: uint32, shape (2,).
        x: a Tensor, or n for the integers from 0 to n - 1.
        axis: of ``x``.

    Returns:
        ``x`` reordered by a stable sort of 64 random bits for each position.

    Example:
        >>> import lantern as ln
        >>> print(ln.random.permutation(ln.random.key(0), 5))
        [3 4 2 1 0]
    """
    if isinstance(x, int):
        if x < 0:
            raise ArgumentError(f"permutation of {x} integers; expected 0 or more")
        return ln.argsort(draw(key, x, UINT64))
    x = asarray(x)
    if not -x.ndim <= axis < x.ndim:
        raise ShapeError(f"permutation: {describe(x)} has no axis {axis}")
    return ln.take(x, ln.argsort(draw(key, x.shape[axis], UINT64)), axis=axis)


def choice(
    key: Tensor,
    x: int | Tensor,
    shape: Shape = (),
    replace: bool = True,
    p: Tensor | None = None,
) -> Tensor:
    """Choose among the elements of axis 0 of a Tensor.

    Args:
        key: uint32, shape (2,).
        x: a Tensor, or n for the integers from 0 to n - 1.
        shape: of what is chosen; the other axes of ``x`` follow.
        replace: whether an element may be chosen again.
        p: probabilities, shape (n,), which need not add up to 1; equal unless given.

    Raises:
        ValueError: more elements than there are, without replacement.

    Example:
        >>> import lantern as ln
        >>> print(ln.random.choice(ln.random.key(0), 5, (5,), replace=False))
        [3 4 2 1 0]
    """
    shape = as_shape(shape)
    n = x if isinstance(x, int) else asarray(x).shape[0]
    count = math.prod(shape)
    if not replace and count > n:
        raise ArgumentError(f"choice: {count} of {n} elements without replacement")
    if p is None:
        index = randint(key, (count,), 0, n) if replace else permutation(key, n)[:count]
    else:
        p = asarray(ln.stop_gradient(p), dtype=FLOAT64)
        if p.shape != (n,):
            raise ShapeError(f"choice: p is {describe(p)} for {n} elements; expected shape [{n}]")
        if replace:
            total = ln.cumulative_sum(p)
            u = uniform(key, (count,), FLOAT64) * total[-1]
            index = ln.minimum(ln.searchsorted(total, u, side="right"), n - 1)
        else:
            logits = ln.where(p > 0, ln.log(ln.where(p > 0, p, 1.0)), -ln.inf)
            index = ln.argsort(gumbel(key, (n,), FLOAT64) + logits, descending=True)[:count]
    index = ln.reshape(index, shape)
    return index if isinstance(x, int) else ln.take(asarray(x), index, axis=0)
