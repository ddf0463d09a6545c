"""Arrays that end where memory ends: reading or writing behind one is a fault, not a wrong number.

In front of an array lies slack that is checked for writes.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np

from backends.llvm import executable

PAGE = mmap.PAGESIZE
FILL = 0xA5
_protect = ctypes.CDLL(None, use_errno=True).mprotect
_protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Guarded:
    """Arrays on pages of their own, the page behind each out of bounds."""

    def __init__(self) -> None:
        self.kept: list[tuple[mmap.mmap, int]] = []

    def empty(self, shape: Any, dtype: Any = np.float64) -> np.ndarray[Any, Any]:
        """An array with arbitrary elements."""
        dtype = np.dtype(dtype)
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        pages = -(-size // PAGE) + 1
        memory = mmap.mmap(-1, (pages + 1) * PAGE)
        memory.write(bytes([FILL]) * (pages * PAGE))
        buffer = np.frombuffer(memory, np.uint8)
        start = buffer.ctypes.data
        assert _protect(start + pages * PAGE, PAGE, 0) == 0  # may not be touched
        first = pages * PAGE - size
        self.kept.append((memory, first))
        return np.ndarray(shape, dtype, memory, first)

    def copy(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """A guarded copy."""
        made = self.empty(array.shape, array.dtype)
        made[...] = array
        return made

    def check(self) -> None:
        """Fail if anything was written in front of an array."""
        for memory, first in self.kept:
            assert memory[:first] == bytes([FILL]) * first


@contextmanager
def guarded_results() -> Iterator[Guarded]:
    """Let native programs write their results, and compute, in guarded memory; then check it."""
    guard = Guarded()

    class Guarding:
        """NumPy, but for `empty`."""

        empty = staticmethod(guard.empty)

        def __getattr__(self, name: str) -> Any:
            return getattr(np, name)

    with mock.patch.object(executable, "np", Guarding()):
        yield guard
    guard.check()
