"""Hypothesis strategies: shapes, dtypes, axes, tensors and pytrees of tensors.

They need the ``hypothesis`` package (``pip install lantern-ad[testing]``)::

    from hypothesis import given
    from lantern.testing import check_grads
    from lantern.testing.strategies import broadcastable_shapes, tensors

    @given(broadcastable_shapes(2).flatmap(lambda s: st.tuples(tensors(s[0]), tensors(s[1]))))
    def test_product(xy):
        check_grads(ln.multiply, xy)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lantern import dtypes as kinds
from lantern.tensor import Tensor

__all__ = [
    "axes",
    "axis",
    "broadcastable_shapes",
    "dtypes",
    "elements",
    "indices",
    "pytrees",
    "separated",
    "shapes",
    "tensors",
]

Shape = tuple[int, ...]
Strategy = st.SearchStrategy
_FLOATING = ("float32", "float64")
_INTEGER = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def shapes(
    min_dims: int = 0, max_dims: int = 3, min_side: int = 1, max_side: int = 4
) -> Strategy[Shape]:
    """Shapes; ``min_side=0`` allows empty arrays.

    Example:
        >>> from hypothesis import find
        >>> find(shapes(min_dims=2), lambda s: True)
        (1, 1)
    """
    return arrays.array_shapes(
        min_dims=min_dims, max_dims=max_dims, min_side=min_side, max_side=max_side
    )


def broadcastable_shapes(
    count: int = 2, min_dims: int = 0, max_dims: int = 3, min_side: int = 1, max_side: int = 4
) -> Strategy[tuple[Shape, ...]]:
    """``count`` shapes that broadcast together.

    Example:
        >>> import numpy as np
        >>> from hypothesis import find
        >>> found = find(broadcastable_shapes(2), lambda s: np.broadcast_shapes(*s) == (2, 2))
        >>> len(found)
        2
    """
    return arrays.mutually_broadcastable_shapes(
        num_shapes=count,
        min_dims=min_dims,
        max_dims=max_dims,
        min_side=min_side,
        max_side=max_side,
    ).map(lambda found: found.input_shapes)


def dtypes(*of: str) -> Strategy[Any]:
    """Data types: of the kinds or by the names that are given, else float32 and float64.

    Args:
        of: any of ``"bool"``, ``"integer"``, ``"floating"`` (float32 and float64), ``"half"``
            (float16 and bfloat16), and names such as ``"int8"``.

    Example:
        >>> from hypothesis import find
        >>> find(dtypes("integer"), lambda d: True)
        dtype('int8')
    """
    groups = {"integer": _INTEGER, "floating": _FLOATING, "half": ("float16", "bfloat16")}
    names = [name for kind in of or ("floating",) for name in groups.get(kind, (kind,))]
    return st.sampled_from([getattr(kinds, name) for name in names])


def elements(
    dtype: Any, min_value: float | None = None, max_value: float | None = None
) -> Strategy[Any]:
    """Finite Python numbers for an array of ``dtype``.

    Unless bounds are given, floating numbers are between -10 and 10 in steps of 1/64, of a size at
    which finite differences work, and integers are in the range of the dtype.

    Example:
        >>> import lantern as ln
        >>> from hypothesis import find
        >>> find(elements(ln.float32), lambda x: x > 1)
        1.015625
    """
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return st.booleans()
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        low = info.min if min_value is None else int(min_value)
        return st.integers(low, info.max if max_value is None else int(max_value))
    low = -10.0 if min_value is None else min_value
    high = 10.0 if max_value is None else max_value
    steps = st.integers(int(np.ceil(low * 64)), int(np.floor(high * 64)))
    return steps.map(lambda n: n / 64)


def tensors(
    shape: Shape | Strategy[Shape] | None = None,
    dtype: Any = None,
    values: Strategy[Any] | None = None,
    min_value: float | None = None,
    max_value: float | None = None,
    unique: bool = False,
) -> Strategy[Tensor]:
    """Tensors.

    Args:
        shape: a shape or a strategy for one; `shapes()` unless given.
        dtype: a dtype or a strategy for one; float64 unless given.
        values: a strategy for the numbers in it; `elements` unless given.
        min_value: the least number.
        max_value: the largest number.
        unique: whether all numbers differ.

    Example:
        >>> from hypothesis import find
        >>> find(tensors((2, 2)), lambda x: True)
        Tensor([[0., 0.],
                [0., 0.]], dtype=float64)
    """
    if shape is None:
        shape = shapes()
    some_shape = shape if isinstance(shape, Strategy) else st.just(shape)
    some_dtype = dtype if isinstance(dtype, Strategy) else st.just(dtype)

    def of(shape_and_dtype: tuple[Shape, Any]) -> Strategy[Tensor]:
        found_shape, found = shape_and_dtype
        found = np.dtype(np.float64 if found is None else found)
        size = int(np.prod(found_shape, dtype=np.int64))
        numbers = elements(found, min_value, max_value) if values is None else values
        listed = st.lists(numbers, min_size=size, max_size=size, unique=unique)
        return listed.map(lambda x: Tensor(np.array(x, found).reshape(found_shape)[()]))

    return st.tuples(some_shape, some_dtype).flatmap(of)


def separated(
    shape: Shape | Strategy[Shape], dtype: Any = None, gap: float = 0.125
) -> Strategy[Tensor]:
    """Tensors no two numbers of which, nor any number and 0, are nearer than ``gap``.

    For operations whose derivative jumps where numbers meet: max, sort, abs, relu.

    Example:
        >>> from hypothesis import find
        >>> find(separated((3,)), lambda x: True).shape
        (3,)
    """
    some_shape = shape if isinstance(shape, Strategy) else st.just(shape)

    def of(found: Shape) -> Strategy[Tensor]:
        size = int(np.prod(found, dtype=np.int64))
        steps = [n for n in range(-size, size + 1) if n]
        chosen = st.permutations(steps).map(lambda order: np.array(order[:size], np.float64))
        kind = np.float64 if dtype is None else dtype
        return chosen.map(lambda x: Tensor((x * gap).astype(kind).reshape(found)[()]))

    return some_shape.flatmap(of)


def axis(ndim: int) -> Strategy[int]:
    """An axis of an array with ``ndim`` axes, counted from either end.

    Example:
        >>> from hypothesis import find
        >>> find(axis(3), lambda a: a < 0)
        -1
    """
    return st.integers(-ndim, ndim - 1)


def axes(
    ndim: int, min_size: int = 0, max_size: int | None = None, negative: bool = True
) -> Strategy[Shape]:
    """Different axes of an array with ``ndim`` axes, in any order.

    Example:
        >>> from hypothesis import find
        >>> find(axes(3, min_size=2), lambda a: True)
        (0, 1)
    """
    return arrays.valid_tuple_axes(
        ndim, min_size=min_size, max_size=ndim if max_size is None else max_size
    ).map(lambda found: found if negative else tuple(a % ndim for a in found))


def indices(shape: Shape, new_axes: bool = True, ellipsis: bool = True) -> Strategy[Any]:
    """Basic indices into an array: integers, slices, ``...`` and None.

    Example:
        >>> from hypothesis import find
        >>> find(indices((3, 4)), lambda i: isinstance(i, tuple) and len(i) == 2)
        (0, 0)
    """
    return arrays.basic_indices(shape, allow_newaxis=new_axes, allow_ellipsis=ellipsis)


def pytrees(
    leaves: Strategy[Any], max_leaves: int = 5, keys: Sequence[str] = ("a", "b", "c")
) -> Strategy[Any]:
    """Nested tuples, lists and dictionaries with these leaves, and None here and there.

    Example:
        >>> from hypothesis import find
        >>> find(pytrees(tensors((2,))), lambda t: isinstance(t, dict) and len(t) == 0)
        {}
    """

    def node(children: Strategy[Any]) -> Strategy[Any]:
        return st.one_of(
            st.lists(children, max_size=3),
            st.lists(children, max_size=3).map(tuple),
            st.dictionaries(st.sampled_from(list(keys)), children, max_size=3),
            st.none(),
        )

    return st.recursive(leaves, node, max_leaves=max_leaves)
