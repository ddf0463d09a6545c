"""How much memory something takes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def taking_less_than(bytes: float) -> Iterator[None]:
    """A context whose objects of Python's, arrays among them, take less than this at any time."""
    tracemalloc.start()
    try:
        yield
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < bytes, f"{most:,} bytes were taken, which is not below {bytes:,}"
