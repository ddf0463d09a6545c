"""Where the elements of NumPy's arrays lie.

By NumPy's binary interface an array is what every object of Python begins with, and then this
address. To read it there takes a tenth of the time of asking for it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import _cffi_backend
import numpy as np

Array = np.ndarray[Any, Any]


@cache
def foreign() -> Any:
    """The foreign function interface: cffi without its parser of C in Python, which takes long to
    import."""
    return _cffi_backend.FFI()


WORDS: Any = foreign().typeof("int64_t[]")
# All memory as words, from behind what an object begins with, if there were one at address 0.
MEMORY: Any = foreign().cast("int64_t *", object.__basicsize__)


def asked(arrays: Iterable[Array]) -> list[int]:
    """The addresses of the elements of arrays."""
    return [a.__array_interface__["data"][0] for a in arrays]


def read(arrays: Iterable[Array]) -> list[int]:
    """The same, read where they stand."""
    return [MEMORY[id(a) >> 3] for a in arrays]


def _readable() -> bool:
    """Whether arrays lie in memory so."""
    some = [np.empty(1), np.empty(3)[1:]]
    return sys.implementation.name == "cpython" and read(some) == asked(some)


addresses: Callable[[Iterable[Array]], list[int]] = read if _readable() else asked
