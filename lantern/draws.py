"""What the distributions of `lantern.random` share: words, uniform numbers, and their arguments.

How they are defined stands there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import lantern as ln
from lantern.convert import asarray
from lantern.errors import DTypeError, ShapeError, describe
from lantern.primitives.random import philox
from lantern.tensor import Tensor

Shape = tuple[int, ...]
ZERO, SPLIT, FOLD = np.uint32(0), np.uint32(1), np.uint32(2)
UINT32, UINT64 = np.dtype(np.uint32), np.dtype(np.uint64)
FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
CLOSED = {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}  # bits of a uniform number


# Words and numbers ------------------------------------------------------------------------------


def key_words(key: Any) -> tuple[Tensor, Tensor]:
    key = asarray(key)
    if key.dtype != UINT32 or key.shape != (2,):
        raise DTypeError(
            f"a random key is uint32[2], as ln.random.key makes it; found {describe(key)}. Use "
            "ln.vmap for a batch of keys."
        )
    return key[0], key[1]


def halves(number: Any, what: str) -> tuple[Any, Any]:
    """The low and the high word of an integer modulo 2⁶⁴."""
    if isinstance(number, (int, np.integer)):
        number = int(number) % 2**64
        return asarray(np.uint32(number % 2**32)), asarray(np.uint32(number >> 32))
    number = asarray(number)
    if number.dtype.kind not in "iu" or number.shape != ():
        raise DTypeError(f"{what}: found {describe(number)}; expected one integer")
    number = ln.astype(number, UINT64)
    low = ln.bitwise_and(number, 2**32 - 1)
    return ln.astype(low, UINT32), ln.astype(ln.bitwise_right_shift(number, 32), UINT32)


def draw(key: Tensor, count: int, dtype: np.dtype[Any]) -> Tensor:
    """``count`` random words, shape (count,)."""
    long = dtype == UINT64
    blocks = -(-count // (2 if long else 4))
    if blocks > 2**32:
        raise ShapeError(f"a draw of {count} numbers; split the key first")
    words = philox(*key_words(key), ln.arange(blocks, dtype=UINT32), ZERO, ZERO, ZERO)
    if long:
        a, b, c, d = (ln.astype(w, UINT64) for w in words)
        words = (a | ln.bitwise_left_shift(b, 32), c | ln.bitwise_left_shift(d, 32))
    elif dtype != UINT32:
        words = tuple(ln.astype(w, dtype) for w in words)
    return ln.reshape(ln.stack(words, axis=-1), (-1,))[:count]


def unit(key: Tensor, count: int, dtype: np.dtype[Any]) -> Tensor:
    """``count`` uniform numbers in [0, 1), exact."""
    return ln.astype(top(key, count, dtype, CLOSED[dtype.name]), dtype, copy=False)


def open_unit(key: Tensor, count: int, dtype: np.dtype[Any]) -> Tensor:
    """``count`` uniform numbers in (0, 1), float32 or float64, exact."""
    m = CLOSED[dtype.name] - 1
    return top(key, count, dtype, m) + 2.0 ** (-m - 1)


def top(key: Tensor, count: int, dtype: np.dtype[Any], m: int) -> Tensor:
    """The top ``m`` bits of ``count`` words, times 2⁻ᵐ."""
    width = 64 if dtype == FLOAT64 else 32
    words = draw(key, count, UINT64 if width == 64 else UINT32)
    return ln.astype(ln.bitwise_right_shift(words, width - m), computed(dtype)) * 2.0**-m


# Arguments --------------------------------------------------------------------------------------


def computed(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that numbers of ``dtype`` are computed in."""
    return FLOAT64 if dtype == FLOAT64 else FLOAT32


def in_dtype(x: Any, dtype: np.dtype[Any]) -> Any:
    """A parameter as a Tensor of ``dtype``."""
    x = x if type(x) is Tensor else asarray(x, dtype=dtype)
    return ln.astype(x, dtype, copy=False)


def with_axis(bound: Any) -> Tensor:
    """An integer bound modulo 2⁶⁴, of one axis at least."""
    b = ln.astype(asarray(bound), UINT64)
    return b if b.shape else ln.reshape(b, (1,))


def moved(z: Tensor, loc: Any, scale: Any, dtype: np.dtype[Any]) -> Tensor:
    """loc + scale · z, without the parts that are neutral."""
    if type(scale) is Tensor or scale != 1:
        z = z * in_dtype(scale, dtype)
    return z + in_dtype(loc, dtype) if type(loc) is Tensor or loc != 0 else z


def as_shape(shape: Any) -> Shape:
    return (int(shape),) if isinstance(shape, (int, np.integer)) else tuple(map(int, shape))


def common_shape(what: str, shape: Any, *parameters: Any) -> Shape:
    shapes = [p.shape if type(p) is Tensor else np.shape(p) for p in parameters]
    wanted = () if shape is None else as_shape(shape)
    try:
        common = np.broadcast_shapes(wanted, *shapes)
    except ValueError:
        common = None
    if common is None or (shape is not None and common != wanted):
        raise ShapeError(
            f"{what}: parameters of shapes {', '.join(str(list(s)) for s in shapes)} do not "
            f"broadcast to {list(wanted)}"
        )
    return common


def shape_and_dtype(
    what: str, shape: Any, dtype: Any, *parameters: Any
) -> tuple[Shape, np.dtype[Any]]:
    """The shape and dtype of a draw, given or taken from its parameters."""
    if dtype is None:
        found = [p.dtype for p in parameters if hasattr(p, "dtype") and p.dtype.name in CLOSED]
        dtype = ln.result_type(*found) if found else FLOAT32
    dtype = np.dtype(dtype)
    if dtype.name not in CLOSED:
        raise DTypeError(f"{what}: dtype {dtype}; expected a floating one")
    return common_shape(what, shape, *parameters), dtype
