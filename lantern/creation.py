"""New Tensors from shapes, ranges and values, and the constants of the array API standard."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from lantern.convert import asarray
from lantern.errors import ArgumentError, DTypeError, ShapeError, describe
from lantern.kinds import (
    DType,
    as_dtype,
    check_device,
    convert_to,
    default_float,
    default_int,
    is_floating,
    is_number,
    promote,
)
from lantern.ops.axes import as_shape
from lantern.primitives.elementwise import where
from lantern.primitives.structure import broadcast_to, reshape
from lantern.promotion import weak
from lantern.symbol import is_known
from lantern.tensor import Tensor

__all__ = [
    "arange",
    "e",
    "empty",
    "empty_like",
    "eye",
    "full",
    "full_like",
    "inf",
    "linspace",
    "meshgrid",
    "nan",
    "newaxis",
    "ones",
    "ones_like",
    "pi",
    "tril",
    "triu",
    "zeros",
    "zeros_like",
]

e, inf, nan, pi = math.e, math.inf, math.nan, math.pi
newaxis = None


def zeros(shape: int | tuple[int, ...], *, dtype: Any = None, device: str | None = None) -> Tensor:
    """Zeros of a shape.

    Args:
        shape: the length of each axis, or of the only one.
        dtype: float32 by default.
        device: ``"cpu"`` or None.

    Raises:
        ShapeError: a length is negative or no integer.

    Example:
        >>> import lantern as ln
        >>> print(ln.zeros((2, 3)))
        [[0. 0. 0.]
         [0. 0. 0.]]
    """
    check_device(device)
    return Tensor(np.zeros(_shape(shape, "zeros"), _dtype(dtype))[()])


def ones(shape: int | tuple[int, ...], *, dtype: Any = None, device: str | None = None) -> Tensor:
    """Ones of a shape. Arguments and errors are those of `zeros`.

    Example:
        >>> import lantern as ln
        >>> print(ln.ones(3, dtype=ln.int8))
        [1 1 1]
    """
    check_device(device)
    return Tensor(np.ones(_shape(shape, "ones"), _dtype(dtype))[()])


def empty(shape: int | tuple[int, ...], *, dtype: Any = None, device: str | None = None) -> Tensor:
    """Zeros of a shape: a Tensor is immutable, so elements left undefined could never be filled in.

    Arguments and errors are those of `zeros`.

    Example:
        >>> import lantern as ln
        >>> print(ln.empty((4, 0)).shape)
        (4, 0)
    """
    return zeros(shape, dtype=dtype, device=device)


def full(
    shape: int | tuple[int, ...],
    fill_value: Any,
    *,
    dtype: Any = None,
    device: str | None = None,
) -> Tensor:
    """One value, repeated.

    Args:
        shape: the length of each axis, or of the only one.
        fill_value: a number, or an array that broadcasts to the shape; derivatives flow to it.
        dtype: by default that of the value.
        device: ``"cpu"`` or None.

    Raises:
        ShapeError: a length is negative or no integer, or the value does not broadcast.

    Example:
        >>> import lantern as ln
        >>> print(ln.full((2, 2), 7))
        [[7 7]
         [7 7]]
    """
    check_device(device)
    shape = _shape(shape, "full")
    if is_number(fill_value):
        value = asarray(fill_value, dtype=dtype).value
        return Tensor(np.full(shape, value)[()])
    found = asarray(fill_value)
    return _spread(found if dtype is None else convert_to(found, as_dtype(dtype)), shape)


def zeros_like(x: Any, /, *, dtype: Any = None, device: str | None = None) -> Tensor:
    """Zeros of the shape and, unless another is given, the dtype of ``x``.

    Example:
        >>> import lantern as ln
        >>> print(ln.zeros_like(ln.asarray([1, 2])))
        [0 0]
    """
    x = asarray(x)
    return zeros(x.shape, dtype=x.dtype if dtype is None else dtype, device=device)


def ones_like(x: Any, /, *, dtype: Any = None, device: str | None = None) -> Tensor:
    """Ones of the shape and, unless another is given, the dtype of ``x``.

    Example:
        >>> import lantern as ln
        >>> print(ln.ones_like(ln.asarray([1, 2])))
        [1 1]
    """
    x = asarray(x)
    return ones(x.shape, dtype=x.dtype if dtype is None else dtype, device=device)


def empty_like(x: Any, /, *, dtype: Any = None, device: str | None = None) -> Tensor:
    """Zeros of the shape and, unless another is given, the dtype of ``x``; see `empty`.

    Example:
        >>> import lantern as ln
        >>> print(ln.empty_like(ln.asarray([1, 2])).shape)
        (2,)
    """
    return zeros_like(x, dtype=dtype, device=device)


def full_like(
    x: Any, /, fill_value: Any, *, dtype: Any = None, device: str | None = None
) -> Tensor:
    """One value in the shape and, unless another is given, the dtype of ``x``; see `full`.

    Example:
        >>> import lantern as ln
        >>> print(ln.full_like(ln.asarray([1.0, 2.0]), 7))
        [7. 7.]
    """
    x = asarray(x)
    found = x.dtype if dtype is None else as_dtype(dtype)
    if is_number(fill_value) and not (isinstance(fill_value, float) and not is_floating(found)):
        fill_value = asarray(weak(fill_value, found), dtype=found)
    return full(x.shape, fill_value, dtype=found, device=device)


def eye(
    n_rows: int,
    n_cols: int | None = None,
    /,
    *,
    k: int = 0,
    dtype: Any = None,
    device: str | None = None,
) -> Tensor:
    """A matrix [n_rows, n_cols] of ones on one diagonal and zeros elsewhere.

    Args:
        n_rows: the number of rows.
        n_cols: the number of columns; as many as rows by default.
        k: which diagonal: 0 the main one, above it positive, below it negative.
        dtype: float32 by default.
        device: ``"cpu"`` or None.

    Example:
        >>> import lantern as ln
        >>> print(ln.eye(2, 3, k=1, dtype=ln.int64))
        [[0 1 0]
         [0 0 1]]
    """
    check_device(device)
    n, m = _shape((n_rows, n_rows if n_cols is None else n_cols), "eye")
    diagonal = np.subtract.outer(-np.arange(n), -np.arange(m)) == k
    return Tensor(diagonal.astype(_dtype(dtype)))


def arange(
    start: int | float,
    /,
    stop: int | float | None = None,
    step: int | float = 1,
    *,
    dtype: Any = None,
    device: str | None = None,
) -> Tensor:
    """Evenly spaced numbers of the half-open interval [start, stop).

    Args:
        start: the first number; if ``stop`` is None this is the end, and 0 the start.
        stop: the end, which is not included.
        step: the distance, not 0; negative to count down.
        dtype: by default int64 if all three are integers, else that of floating Tensors among
            them, else float32.
        device: ``"cpu"`` or None.

    Returns:
        ⌈(stop - start) / step⌉ numbers, none if that is negative.

    Raises:
        ValueError: the step is 0.

    Example:
        >>> import lantern as ln
        >>> print(ln.arange(3), ln.arange(1, 2, 0.25))
        [0 1 2] [1.   1.25 1.5  1.75]
    """
    check_device(device)
    ends = (start, stop, step)
    a, b, d = (_scalar(v, "arange") for v in ends)
    if b is None:
        a, b = 0, a
    if d == 0:
        raise ArgumentError("arange: the step is 0")
    integers = all(isinstance(v, int) for v in (a, b, d))
    wanted = default_int if integers and dtype is None else _dtype_of_range(dtype, *ends)
    if integers and not is_floating(wanted):
        numbers = range(a, b, d)
        if all(abs(n) < 2**62 for n in (a, b, d)):
            return Tensor((np.arange(len(numbers), dtype=np.int64) * d + a).astype(wanted))
        return asarray(numbers, dtype=wanted)
    count = max(math.ceil((b - a) / d), 0)
    if stop is not None and (_followed(start) or _followed(step)):
        return convert_to(asarray(step * np.arange(count) + start), wanted)
    points = np.arange(count, dtype=np.float64) * d + a
    return Tensor(points.astype(wanted))


def linspace(
    start: int | float,
    stop: int | float,
    /,
    num: int,
    *,
    dtype: Any = None,
    device: str | None = None,
    endpoint: bool = True,
) -> Tensor:
    """``num`` evenly spaced numbers from ``start`` to ``stop``.

    Args:
        start: the first number.
        stop: the last number, or, without ``endpoint``, the one that would follow.
        num: how many.
        dtype: by default that of floating Tensors among the ends, else float32. Integers are
            rounded down.
        device: ``"cpu"`` or None.
        endpoint: whether ``stop`` is included.

    Raises:
        ShapeError: ``num`` is negative.
        NumberRangeError: integers that the dtype does not hold.

    Example:
        >>> import lantern as ln
        >>> print(ln.linspace(0, 1, 5))
        [0.   0.25 0.5  0.75 1.  ]
    """
    check_device(device)
    (count,) = _shape(num, "linspace")
    wanted = _dtype_of_range(dtype, start, stop)
    if _followed(start) or _followed(stop):
        part = np.linspace(0.0, 1.0, count, endpoint=endpoint)
        return convert_to(asarray(start * (1.0 - part) + stop * part), wanted)
    start, stop = _scalar(start, "linspace"), _scalar(stop, "linspace")
    if is_floating(wanted):
        return Tensor(np.linspace(start, stop, count, endpoint=endpoint).astype(wanted))
    if isinstance(start, int) and isinstance(stop, int):  # exact, to the ends of the integers
        parts = max(count - endpoint, 1)
        return asarray([start + (stop - start) * i // parts for i in range(count)], dtype=wanted)
    return Tensor(np.floor(np.linspace(start, stop, count, endpoint=endpoint)).astype(wanted))


def meshgrid(*arrays: Any, indexing: str = "xy") -> tuple[Tensor, ...]:
    """Coordinate arrays of a grid, from one-dimensional arrays of coordinates.

    Args:
        arrays: N arrays of one axis each (or scalars), of lengths n₁ … n_N and one dtype.
        indexing: ``"ij"``: results have shape [n₁, n₂, …]. ``"xy"``, as in plots: [n₂, n₁, …].

    Returns:
        N arrays; the k-th varies along one axis like ``arrays[k]`` and repeats along the others.

    Raises:
        ShapeError: an array has more than one axis.
        DTypeError: the dtypes differ.
        ValueError: an unknown ``indexing``.

    Example:
        >>> import lantern as ln
        >>> x, y = ln.meshgrid(ln.asarray([1, 2, 3]), ln.asarray([10, 20]))
        >>> print(x, y)
        [[1 2 3]
         [1 2 3]] [[10 10 10]
         [20 20 20]]
    """
    if indexing not in ("xy", "ij"):
        raise ValueError(f"meshgrid: indexing {indexing!r}; expected 'xy' or 'ij'")
    xs = [asarray(a) for a in arrays]
    for x in xs:
        if x.ndim > 1:
            raise ShapeError(f"meshgrid: {describe(x)} has several axes")
    if len({x.dtype for x in xs}) > 1:
        found = ", ".join(map(describe, xs))
        raise DTypeError(f"meshgrid: expected arrays of one dtype, not {found}")
    places = list(range(len(xs)))
    if indexing == "xy" and len(xs) > 1:
        places[:2] = [1, 0]
    shape = [1] * len(xs)
    for x, k in zip(xs, places, strict=True):
        shape[k] = x.size
    return tuple(
        _spread(
            reshape(x, shape=tuple(x.size if i == k else 1 for i in range(len(xs)))), tuple(shape)
        )
        for x, k in zip(xs, places, strict=True)
    )


def tril(x: Any, /, *, k: int = 0) -> Tensor:
    """Matrices with zeros above a diagonal.

    Args:
        x: array [..., n, m].
        k: the last diagonal that is kept: 0 the main one, above it positive, below it negative.

    Raises:
        ShapeError: ``x`` has fewer than two axes.

    Example:
        >>> import lantern as ln
        >>> print(ln.tril(ln.ones((3, 3), dtype=ln.int64)))
        [[1 0 0]
         [1 1 0]
         [1 1 1]]
    """
    return _triangle(asarray(x), lambda distance: distance <= k, "tril")


def triu(x: Any, /, *, k: int = 0) -> Tensor:
    """Matrices with zeros below a diagonal. Arguments and errors are those of `tril`.

    Example:
        >>> import lantern as ln
        >>> print(ln.triu(ln.ones((3, 3), dtype=ln.int64), k=1))
        [[0 1 1]
         [0 0 1]
         [0 0 0]]
    """
    return _triangle(asarray(x), lambda distance: distance >= k, "triu")


def _triangle(x: Tensor, kept: Any, what: str) -> Tensor:
    if x.ndim < 2:
        raise ShapeError(f"{what} of {describe(x)}: expected two axes or more")
    n, m = x.shape[-2:]
    distance = np.subtract.outer(-np.arange(n), -np.arange(m))  # column minus row
    return where(kept(distance), x, weak(0 if x.dtype.kind != "b" else False, x.dtype))


def _spread(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return x if x.shape == shape else broadcast_to(x, shape=shape)


def _shape(shape: Any, what: str) -> tuple[int, ...]:
    found = as_shape(shape, what)
    if any(n < 0 for n in found):
        raise ShapeError(f"{what}: the shape {found} has a negative length")
    return found


def _dtype(dtype: Any) -> DType:
    return default_float if dtype is None else as_dtype(dtype)


def _dtype_of_range(dtype: Any, *ends: Any) -> DType:
    """The dtype asked for, else that of the floating Tensors among the ends, else the default."""
    if dtype is not None:
        return as_dtype(dtype)
    found = [x.dtype for x in ends if type(x) is Tensor and is_floating(x.dtype)]
    return functools.reduce(promote, found) if found else default_float


def _followed(x: Any) -> bool:
    """Whether a number is differentiated, batched or compiled: no copy may take its place."""
    return type(x) is Tensor and not is_known(x) and is_floating(x.dtype)


def _scalar(x: Any, what: str) -> Any:
    """A Python number from a number, a NumPy scalar or a Tensor without axes."""
    if x is None or is_number(x):
        return x
    if hasattr(x, "item") and getattr(x, "shape", None) == ():
        return x.item()
    raise DTypeError(f"{what}: expected a number, not {describe(x)}")
