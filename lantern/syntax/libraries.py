"""Which code is a library's, and stays as it is."""

from __future__ import annotations

import functools
import sys
from typing import Any

OURS = frozenset(["lantern", "staging", "backends", "numpy", "builtins"])


def package_of(f: Any) -> str:
    """The package of a user's function, which is followed even where it is installed."""
    package = (getattr(f, "__module__", "") or "").partition(".")[0]
    return "" if package in OURS or package in sys.stdlib_module_names else package


def is_library(module: str | None) -> bool:
    """Whether a module belongs to lantern, to Python, or is installed beside other packages.

    Example:
        >>> is_library("numpy.linalg"), is_library("a_module.of.yours")
        (True, False)
    """
    return _installed((module or "").partition(".")[0])


@functools.cache
def _installed(package: str) -> bool:
    if package in OURS or package in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(package), "__file__", None) or ""
    return "site-packages" in file or "dist-packages" in file
