"""The arrays that a program returns its results in.

Fresh memory is expensive: the kernel hands it out page by page, cleared, and that takes longer than
many a program. So the memory of a large result comes back when the last array that sees it is gone,
and is used for a result of a later call.
"""

from __future__ import annotations

import math
import mmap
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

LARGE = 1 << 20  # bytes from which memory is worth keeping
KEPT = 2  # how much of one size is kept: one for this call's result, one for the last call's


class Results:
    """Gives out arrays; keeps the memory of large ones that are gone.

    Example:
        >>> results = Results()
        >>> a = results.array((1000, 1000), np.dtype(np.float32))
        >>> where = a.ctypes.data
        >>> del a
        >>> results.array((1000, 1000), np.dtype(np.float32)).ctypes.data == where
        True
    """

    def __init__(self) -> None:
        self.free: dict[int, list[mmap.mmap]] = {}

    def array(self, shape: Sequence[int], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
        """An array with any elements; a large one begins at a page."""
        size = math.prod(shape) * dtype.itemsize
        if size < LARGE:
            return np.empty(shape, dtype)
        try:
            pages = self.free[size].pop()
        except (KeyError, IndexError):
            pages = mmap.mmap(-1, size)
            if hasattr(mmap, "MADV_HUGEPAGE"):
                pages.madvise(mmap.MADV_HUGEPAGE)
        lent = Lent((size,), np.uint8, pages)
        lent.pages, lent.home = pages, weakref.ref(self)
        return np.ndarray(shape, dtype, lent)

    def keep(self, pages: mmap.mmap) -> None:
        """Take memory that nothing sees any more."""
        same = self.free.setdefault(len(pages), [])
        if len(same) < KEPT:
            same.append(pages)


class Lent(np.ndarray):
    """The memory of one result: the base of its array, gone when no array sees it any more.

    Attributes:
        pages: what it lies in.
        home: where that goes back to, if it is still there.
        lent: says to what asks who owns the memory that the result does, alone.
    """

    lent = True
    pages: mmap.mmap
    home: weakref.ref[Results]

    def __del__(self) -> None:
        home = self.home()
        if home is not None:
            home.keep(self.pages)
