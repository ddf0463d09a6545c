"""Manipulation of the array API standard: arrays made of others, or of repeated elements."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from lantern.convert import asarray
from lantern.dtypes import result_type
from lantern.errors import ArgumentError, DTypeError, ShapeError, describe
from lantern.kinds import is_number
from lantern.ops.axes import as_shape, one_axis
from lantern.ops.indexing import take
from lantern.ops.manipulation import flatten
from lantern.primitives import structure as p
from lantern.primitives.indexing import embed
from lantern.tensor import Tensor, concrete

__all__ = [
    "broadcast_arrays",
    "broadcast_shapes",
    "broadcast_to",
    "concat",
    "pad",
    "repeat",
    "split",
    "stack",
    "tile",
    "unstack",
]

# Several arrays, one array ----------------------------------------------------------------------


def concat(arrays: Sequence[Any], /, *, axis: int | None = 0) -> Tensor:
    """Arrays one after the other along an axis that they have.

    Args:
        arrays: one or more; their dtypes are promoted, their shapes differ along ``axis`` only.
        axis: an integer, or None to concatenate them flattened.

    Returns:
        A Tensor with all their elements.

    Raises:
        ShapeError: there are none, or their shapes do not fit.
        IndexRangeError: they have no such axis.

    Example:
        >>> import lantern as ln
        >>> print(ln.concat([ln.asarray([1, 2]), ln.asarray([3])]))
        [1 2 3]
    """
    xs = _promoted(arrays, "concat")
    if axis is None:
        xs, axis = [p.reshape(x, shape=(x.size,)) for x in xs], 0
    shape = xs[0].shape
    k = one_axis(axis, len(shape), "concat")
    for i, x in enumerate(xs):
        if len(x.shape) != len(shape) or (*x.shape[:k], shape[k], *x.shape[k + 1 :]) != shape:
            raise ShapeError(
                f"concat: array 0 is {describe(xs[0])} and array {i} {describe(x)}; only axis {k} "
                "may differ"
            )
    return p.concat(*xs, axis=k)


def stack(arrays: Sequence[Any], /, *, axis: int = 0) -> Tensor:
    """Arrays of one shape, one after the other along a new axis.

    Args:
        arrays: one or more; their dtypes are promoted.
        axis: the place of the new axis in the result.

    Returns:
        A Tensor with one axis more, as long as there are arrays.

    Raises:
        ShapeError: there are none, or their shapes differ.
        IndexRangeError: the result has no such axis.

    Example:
        >>> import lantern as ln
        >>> print(ln.stack([ln.asarray([1, 2]), ln.asarray([3, 4])], axis=1))
        [[1 3]
         [2 4]]
    """
    xs = _promoted(arrays, "stack")
    shape = xs[0].shape
    k = one_axis(axis, len(shape) + 1, "stack")
    for i, x in enumerate(xs):
        if x.shape != shape:
            raise ShapeError(
                f"stack: array 0 is {describe(xs[0])} and array {i} {describe(x)}; their shapes "
                "must be equal"
            )
    if k == len(shape):
        return p.concat(*(p.reshape(x, shape=(*shape, 1)) for x in xs), axis=k)
    joined = p.concat(*xs, axis=k)  # one reshape of the whole in place of one of each array
    return p.reshape(joined, shape=(*shape[:k], len(xs), *shape[k:]))


def unstack(x: Any, /, *, axis: int = 0) -> tuple[Tensor, ...]:
    """The arrays along ``axis``, which disappears.

    Args:
        x: an array of one axis or more.
        axis: an integer.

    Returns:
        A tuple of as many Tensors as ``axis`` is long.

    Raises:
        IndexRangeError: ``x`` has no such axis.

    Example:
        >>> import lantern as ln
        >>> print(*ln.unstack(ln.asarray([[1, 2], [3, 4]]), axis=1))
        [1 3] [2 4]
    """
    x = asarray(x)
    shape = x.shape
    k = one_axis(axis, len(shape), "unstack")
    if shape[k] == 0:
        return ()
    one = (*shape[:k], *shape[k + 1 :])
    rows = p.split(x, sizes=(1,) * shape[k], axis=k)
    return tuple(p.reshape(row, shape=one) for row in rows)


def split(x: Any, /, indices_or_sections: int | Sequence[int], axis: int = 0) -> tuple[Tensor, ...]:
    """Consecutive parts of ``x`` along ``axis``, as in NumPy.

    Args:
        x: an array of one axis or more.
        indices_or_sections: the number of equal parts, or the ascending places to cut at.
        axis: an integer.

    Returns:
        A tuple of Tensors.

    Raises:
        ShapeError: ``axis`` cannot be cut so.
        IndexRangeError: ``x`` has no such axis.

    Example:
        >>> import lantern as ln
        >>> print(*ln.split(ln.asarray([1, 2, 3, 4, 5]), [2, 3]))
        [1 2] [3] [4 5]
    """
    x = asarray(x)
    k = one_axis(axis, x.ndim, "split")
    n = x.shape[k]
    # Whether it is a number or a sequence shows in its rank too, which a type checker does not see.
    if isinstance(indices_or_sections, Sequence) or np.ndim(indices_or_sections):
        places = (slice(operator.index(i)).indices(n)[1] for i in indices_or_sections)  # type: ignore[union-attr]
        cuts = [0, *places, n]
    else:
        parts = operator.index(indices_or_sections)  # type: ignore[arg-type]
        if parts < 1 or n % parts:
            raise ShapeError(
                f"split: axis {k} of {describe(x)} does not divide into {parts} equal parts"
            )
        cuts = list(range(0, n + 1, n // parts)) if n else [0] * (parts + 1)
    sizes = tuple(b - a for a, b in itertools.pairwise(cuts))
    if min(sizes) < 0:
        raise ShapeError(
            f"split: {list(indices_or_sections)} must ascend"  # type: ignore[arg-type]
        )
    return p.split(x, sizes=sizes, axis=k)


# Repeated elements ------------------------------------------------------------------------------


def broadcast_to(x: Any, /, shape: int | tuple[int, ...]) -> Tensor:
    """``x`` repeated along new leading axes and along its axes of length one.

    Args:
        x: an array.
        shape: the new shape.

    Returns:
        A Tensor of shape ``shape``.

    Raises:
        ShapeError: ``x`` does not broadcast to it.

    Example:
        >>> import lantern as ln
        >>> print(ln.broadcast_to(ln.asarray([1, 2]), (2, 2)))
        [[1 2]
         [1 2]]
    """
    x = asarray(x)
    wanted = as_shape(shape, "broadcast_to")
    lead = len(wanted) - x.ndim
    if lead < 0 or any(n not in (1, w) for n, w in zip(x.shape, wanted[lead:], strict=True)):
        raise ShapeError(
            f"broadcast_to: {describe(x)} does not broadcast to shape {list(wanted)};"
            " its last axes must have the lengths of the shape, or 1"
        )
    return x if wanted == x.shape else p.broadcast_to(x, shape=wanted)


def broadcast_arrays(*arrays: Any) -> list[Tensor]:
    """Arrays repeated, each as far as needed, to one shape.

    Args:
        arrays: any number of them.

    Returns:
        A list of Tensors of that shape, each of its own dtype.

    Raises:
        ShapeError: their shapes do not broadcast.

    Example:
        >>> import lantern as ln
        >>> a, b = ln.broadcast_arrays(ln.asarray([1, 2]), ln.asarray([[3], [4]]))
        >>> print(a.shape, b.shape)
        (2, 2) (2, 2)
    """
    xs = [asarray(x) for x in arrays]
    shape = broadcast_shapes(*(x.shape for x in xs))
    return [broadcast_to(x, shape) for x in xs]


def broadcast_shapes(*shapes: int | tuple[int, ...]) -> tuple[int, ...]:
    """The shape that arrays of these shapes broadcast to.

    Args:
        shapes: any number of them.

    Raises:
        ShapeError: they do not broadcast: two differ along an axis, and neither is 1 there.

    Source:
        Python array API standard 2025.12, ``broadcast_shapes``.

    Example:
        >>> import lantern as ln
        >>> ln.broadcast_shapes((2, 1), (3,), ())
        (2, 3)
    """
    found = [as_shape(s, "broadcast_shapes") for s in shapes]
    try:
        return np.broadcast_shapes(*found)
    except ValueError:
        shown = ", ".join(str(list(s)) for s in found)
        raise ShapeError(
            f"the shapes {shown} do not broadcast: where two differ, one must be 1"
        ) from None


def tile(x: Any, repetitions: int | tuple[int, ...], /) -> Tensor:
    """Copies of ``x`` laid side by side.

    Args:
        x: an array.
        repetitions: how many copies along each axis, the last axes first where they are fewer;
            where they are more, ``x`` gets new leading axes.

    Returns:
        A Tensor.

    Raises:
        ShapeError: a negative number.

    Example:
        >>> import lantern as ln
        >>> print(ln.tile(ln.asarray([1, 2]), (2, 2)))
        [[1 2 1 2]
         [1 2 1 2]]
    """
    x = asarray(x)
    times = as_shape(repetitions, "tile")
    if min(times, default=0) < 0:
        raise ShapeError(f"tile: repetitions {times} are negative")
    ndim = max(len(times), x.ndim)
    times = (1,) * (ndim - len(times)) + times
    shape = (1,) * (ndim - x.ndim) + x.shape
    if all(t == 1 for t in times):
        return p.reshape(x, shape=shape)
    apart = p.reshape(x, shape=tuple(m for n in shape for m in (1, n)))
    pairs = list(zip(times, shape, strict=True))
    laid = p.broadcast_to(apart, shape=tuple(m for pair in pairs for m in pair))
    return p.reshape(laid, shape=tuple(t * n for t, n in pairs))


def repeat(x: Any, repeats: Any, /, *, axis: int | None = None) -> Tensor:
    """Each element along ``axis`` several times in a row.

    Args:
        x: an array.
        repeats: how many times: one integer, or integers of shape [1] or one for each element along
            ``axis``. They cannot depend on what `vmap` batches.
        axis: an integer, or None to repeat the flattened elements.

    Returns:
        A Tensor.

    Raises:
        ShapeError: ``repeats`` has another shape, or a negative number.
        DTypeError: ``repeats`` is not of an integer dtype.
        IndexRangeError: ``x`` has no such axis.

    Example:
        >>> import lantern as ln
        >>> x = ln.asarray([1, 2])
        >>> print(ln.repeat(x, 2), ln.repeat(x, ln.asarray([0, 3])))
        [1 1 2 2] [2 2 2]
    """
    x = flatten(x) if axis is None else asarray(x)
    k = one_axis(0 if axis is None else axis, x.ndim, "repeat")
    times = np.asarray(concrete(repeats, "repeats of ln.repeat"))
    n = x.shape[k]
    if times.dtype.kind not in "iu":
        raise DTypeError(f"repeat: repeats are integers, not {describe(times)}")
    if times.ndim > 1 or (times.size not in (1, n)) or times.min(initial=0) < 0:
        raise ShapeError(
            f"repeat: repeats {describe(times)} for axis {k} of {describe(x)}; expected one number "
            f"that is not negative, or {n} of them"
        )
    if times.size != 1:
        return take(x, asarray(np.repeat(np.arange(n), times.astype(np.int64))), axis=k)
    r = int(times.reshape(()))
    before, after = x.shape[:k], x.shape[k + 1 :]
    apart = p.reshape(x, shape=(*before, n, 1, *after))
    laid = p.broadcast_to(apart, shape=(*before, n, r, *after))
    return p.reshape(laid, shape=(*before, n * r, *after))


# A border ---------------------------------------------------------------------------------------

_BORDERS = ("edge", "reflect", "symmetric", "wrap")


def pad(x: Any, /, pad_width: Any, mode: str = "constant", *, constant_values: Any = 0) -> Tensor:
    """``x`` inside a border, as in NumPy.

    Args:
        x: an array.
        pad_width: how many elements before and after: ((before, after), ...) for each axis, or one
            pair or one number for all axes.
        mode: ``"constant"``; or the border repeats elements of ``x``: ``"edge"`` the outermost,
            ``"reflect"`` and ``"symmetric"`` those inside, mirrored without and with the outermost,
            ``"wrap"`` those at the other end.
        constant_values: the numbers in a constant border, in the same forms as ``pad_width``.

    Returns:
        A Tensor of the dtype of ``x``.

    Raises:
        ShapeError: a negative width, or one of another form.
        ValueError: an unknown mode.

    Example:
        >>> import lantern as ln
        >>> x = ln.asarray([1, 2, 3])
        >>> print(ln.pad(x, (1, 2)), ln.pad(x, 2, "reflect"))
        [0 1 2 3 0 0] [3 2 1 2 3 2 1]
    """
    x = asarray(x)
    widths = _pairs(pad_width, x, "pad_width")
    if any(type(w) is not int or w < 0 for pair in widths for w in pair):
        raise ShapeError(f"pad: pad_width {pad_width}; widths are integers, none negative")
    if mode in _BORDERS:
        return _bordered(x, widths, mode)
    if mode != "constant":
        raise ArgumentError(f"pad: mode {mode!r} is not 'constant' or one of {_BORDERS}")
    values = _pairs(constant_values, x, "constant_values")
    if not any(v for pair in values for v in pair):
        shape = tuple(a + n + b for n, (a, b) in zip(x.shape, widths, strict=True))
        index = tuple((a, a + n, 1) for n, (a, _) in zip(x.shape, widths, strict=True))
        return embed(x, index=index, shape=shape)
    for k, (width, value) in enumerate(zip(widths, values, strict=True)):
        edges = [
            np.full((*x.shape[:k], w, *x.shape[k + 1 :]), v, x.dtype)
            for w, v in zip(width, value, strict=True)
        ]
        x = p.concat(edges[0], x, edges[1], axis=k)
    return x


def _pairs(given: Any, x: Tensor, what: str) -> list[list[Any]]:
    """A pair for each axis of ``x``, from pairs, one pair or one number."""
    try:
        return np.broadcast_to(np.asarray(given), (x.ndim, 2)).tolist()
    except ValueError:
        raise ShapeError(
            f"pad: {what} {given} for {describe(x)}; expected (before, after) for each axis, one "
            "such pair, or one number"
        ) from None


def _bordered(x: Tensor, widths: list[list[int]], mode: str) -> Tensor:
    """``x`` in a border of its own elements: NumPy pads their places, which are then taken."""
    for k, (before, after) in enumerate(widths):
        if before or after:
            if x.shape[k] == 0:
                raise ShapeError(
                    f"pad: {describe(x)} has no elements along axis {k} for a border of mode "
                    f"{mode!r}"
                )
            # The mode is one of NumPy's, as was seen above; its type is any string.
            places = np.pad(np.arange(x.shape[k]), (before, after), mode=mode)  # type: ignore[call-overload]
            x = take(x, asarray(places), axis=k)
    return x


def _promoted(arrays: Sequence[Any], what: str) -> list[Tensor]:
    """The arrays as Tensors of one dtype; Python numbers among them are weak."""
    given = [x if is_number(x) else asarray(x) for x in arrays]
    if not given:
        raise ShapeError(f"{what}: there are no arrays")
    kinds = {None if is_number(x) else x.dtype for x in given}
    if len(kinds) == 1 and None not in kinds:
        return given
    dtype = result_type(*given)
    return [asarray(x, dtype=dtype) for x in given]
