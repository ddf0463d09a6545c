"""Which code is a library's, and stays as it is."""

from __future__ import annotations

import functools
import sys

OURS = frozenset(["lantern", "staging", "backends", "numpy", "builtins"])


def is_library(module: str | None) -> bool:
    """Whether a module belongs to lantern, to Python, or is installed beside other packages.

    Example:
        >>> is_library("numpy.linalg"), is_library("__main__")
        (True, False)
    """
    return _installed((module or "").partition(".")[0])


@functools.cache
def _installed(package: str) -> bool:
    if package in OURS or package in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(package), "__file__", None) or ""
    return "site-packages" in file or "dist-packages" in file
