"""Reading and writing parts of an array.

Where the part is known when the program is written (`static_slice`, `embed`), an *index* is a tuple with one entry
an axis: an int, whose axis disappears, or a triple ``(start, stop, step)`` as ``slice.indices`` returns it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lantern.control import primitive

Shape = tuple[int, ...]
Index = tuple[Any, ...]


def _slices(index: Index) -> Index:
    """An index as NumPy takes it: a negative step may run past the front, which NumPy writes as None."""
    return tuple(
        slice(e[0], None if e[1] < 0 else e[1], e[2]) if type(e) is tuple else e for e in index
    )


def _batch_static_slice(
    perform: Any, size: int, mapped: tuple[bool, ...], x: Any, *, index: Index
) -> Any:
    return perform(x, index=((0, size, 1), *index))


@primitive(lambda x, *, index: x[_slices(index)], batch=_batch_static_slice)
def static_slice(x, *, index):
    """The elements at ``index``."""
    shape = x.shape
    dz = yield static_slice(x, index=index)
    return embed(dz, index=index, shape=shape)


def _embed(x: Any, *, index: Index, shape: Shape) -> Any:
    out = np.zeros(shape, x.dtype)
    out[_slices(index)] = x
    return out[()]


def _batch_embed(
    perform: Any, size: int, mapped: tuple[bool, ...], x: Any, *, index: Index, shape: Shape
) -> Any:
    return perform(x, index=((0, size, 1), *index), shape=(size, *shape))


@primitive(_embed, batch=_batch_embed)
def embed(x, *, index, shape):
    """Zeros of ``shape`` with ``x`` at ``index``: the dual of `static_slice`."""
    dz = yield embed(x, index=index, shape=shape)
    return static_slice(dz, index=index)
