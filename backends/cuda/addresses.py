"""Where cuBLAS finds the addresses of the matrices that it multiplies side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

WORD = 8  # bytes of an address
SLAB = 1 << 16  # bytes of addresses that are allocated at once
SLABS = 64  # after which the addresses of earlier calls are forgotten


class Captured(NamedTuple):
    """A graph of CuPy's, with the memory of the addresses that it reads."""

    graph: Any
    slabs: Sequence[Any]


class Addresses:
    """Lists of addresses in the memory of a GPU. They stay where they are, so that a graph that was
    captured finds them when it runs again.

    Args:
        cupy: the library.
        aside: makes a stream that waits for no other.
    """

    def __init__(self, cupy: Any, aside: Callable[[], Any]) -> None:
        self.cupy, self.aside = cupy, aside
        self.places: dict[tuple[int, ...], int] = {}
        self.slabs: list[Any] = []
        self.filled = SLAB  # bytes of the last one
        self.captures = 0  # that are under way

    def place(self, addresses: tuple[int, ...]) -> int:
        """Where a list of addresses is; it is put there aside of all work, if it is new."""
        if addresses not in self.places:
            words = np.array(addresses, np.uint64)
            place = self.room(words.nbytes)
            runtime, stream = self.cupy.cuda.runtime, self.aside()
            kind = runtime.memcpyHostToDevice
            runtime.memcpyAsync(place, words.ctypes.data, words.nbytes, kind, stream.ptr)
            stream.synchronize()
            self.places[addresses] = place
        return self.places[addresses]

    def room(self, bytes: int) -> int:
        """Memory for addresses. It is not the pool's: there, work on what lay in it before may
        still be under way."""
        if self.filled + bytes > SLAB:
            if len(self.slabs) >= SLABS and not self.captures:
                self.cupy.cuda.runtime.deviceSynchronize()
                self.slabs.clear()
                self.places.clear()
            self.slabs.append(self.cupy.cuda.Memory(max(bytes, SLAB)))
            self.filled = 0
        self.filled += bytes
        return self.slabs[-1].ptr + self.filled - bytes

    @contextmanager
    def held(self) -> Iterator[None]:
        """A context of a capture, in which nothing is forgotten."""
        self.captures += 1
        try:
            yield
        finally:
            self.captures -= 1
