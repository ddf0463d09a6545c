"""The engine, whose C++ lies in the folder ``engine``, as Python sees it: memory and launches."""

from __future__ import annotations

import ctypes
import functools
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from backends.cuda.device import Array, Span
from backends.cuda.emulator.build import SOURCES, build, key

OPTIONS = ("-std=c++17", "-O1", "-fPIC", "-shared", "-U_FORTIFY_SOURCE")
lock = threading.Lock()  # the engine runs one kernel at a time


class Launch(ctypes.Structure):
    """What the engine is told of a launch (``engine.h`` has the same)."""

    _fields_ = (
        ("entry", ctypes.c_void_p),
        ("arguments", ctypes.c_void_p),
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("sections", ctypes.c_void_p),
        ("section_count", ctypes.c_int32),
        ("dynamic", ctypes.c_uint32),
        ("addresses", ctypes.c_void_p),
        ("address_count", ctypes.c_int32),
        ("milliseconds", ctypes.c_int32),
        ("seed", ctypes.c_uint64),
    )


@functools.cache
def library(folder: Path) -> tuple[ctypes.CDLL, Path]:
    """The engine and where it lies. Kernels find it by its name, whichever folder it came from."""
    name = f"lantern-emulator-{key(*OPTIONS)}.so"
    path = folder / name
    cpp = [str(source) for source in SOURCES if source.suffix == ".cpp"]
    build(path, [*OPTIONS, f"-Wl,-soname,{name}", *cpp])
    return _loaded(name, path), path


_engines: dict[str, ctypes.CDLL] = {}


def _loaded(name: str, path: Path) -> ctypes.CDLL:
    """One engine serves all folders: it knows where every buffer lies."""
    if name not in _engines:
        engine = _engines[name] = ctypes.CDLL(str(path))
        engine.emulator_allocate.restype = ctypes.c_void_p
        engine.emulator_allocate.argtypes = (ctypes.c_size_t,)
        engine.emulator_free.argtypes = (ctypes.c_void_p,)
        engine.emulator_room.restype = ctypes.c_longlong
        engine.emulator_room.argtypes = (ctypes.c_void_p,)
        engine.emulator_launch.restype = ctypes.c_char_p
        engine.emulator_launch.argtypes = (ctypes.POINTER(Launch),)
    return _engines[name]


class EmulatedBuffer:
    """Memory between two pages that nobody may touch.

    Attributes:
        address: where it begins.
        bytes: how long it is.
    """

    __slots__ = ("__weakref__", "address", "bytes")

    def __init__(self, engine: ctypes.CDLL, bytes: int) -> None:
        with lock:
            address = engine.emulator_allocate(bytes)
        if not address:
            raise MemoryError(f"no memory is left for a buffer of {bytes} bytes")
        self.address: int = address
        self.bytes = bytes
        weakref.finalize(self, engine.emulator_free, address).atexit = False


def view(span: Span, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """The memory of a part of a buffer, as an array."""
    memory = (ctypes.c_uint8 * span.bytes).from_address(span.address)
    return np.ctypeslib.as_array(memory).view(dtype).reshape(shape)
