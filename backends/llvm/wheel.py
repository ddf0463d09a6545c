"""BLAS and LAPACK of the wheel scipy-openblas32, called by address."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from functools import cache
from pathlib import Path

SET_THREADS = "scipy_openblas_set_num_threads"


@cache
def library() -> ctypes.CDLL:
    """The library, told to use the calling thread only: its own threads would contend with the
    pool."""
    import scipy_openblas32

    files = Path(scipy_openblas32.get_lib_dir()).glob("libscipy_openblas.*")
    loaded = ctypes.CDLL(str(next(iter(files))))
    getattr(loaded, SET_THREADS)(1)
    return loaded


def addresses(names: Iterable[str]) -> dict[str, int]:
    """The addresses of functions, by name.

    Example:
        >>> addresses(["scipy_cblas_sgemm"])["scipy_cblas_sgemm"] > 0
        True
    """
    found = {name: ctypes.cast(getattr(library(), name), ctypes.c_void_p).value for name in names}
    return {name: address for name, address in found.items() if address is not None}
