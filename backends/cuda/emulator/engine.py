"""The engine, whose C++ lies in the folder ``engine``, as Python sees it: memory and launches."""

from __future__ import annotations

import ctypes
import weakref
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from backends.cuda.device import Array, Span
from backends.cuda.emulator.build import ENGINE, build, key

OPTIONS = ("-x", "c++", "-std=c++17", "-O1", "-fPIC", "-shared", "-U_FORTIFY_SOURCE")


class Operand(ctypes.Structure):
    """Memory that a kernel is given (``engine.h`` has the same)."""

    _fields_ = (
        ("begin", ctypes.c_uint64),
        ("end", ctypes.c_uint64),
        ("argument", ctypes.c_uint64),
        ("written", ctypes.c_uint64),
    )


class Launch(ctypes.Structure):
    """What the engine is told of a launch (``engine.h`` has the same)."""

    _fields_ = (
        ("entry", ctypes.c_void_p),
        ("arguments", ctypes.c_void_p),
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("sections", ctypes.c_void_p),
        ("operands", ctypes.c_void_p),
        ("section_count", ctypes.c_int32),
        ("operand_count", ctypes.c_int32),
        ("dynamic", ctypes.c_uint32),
        ("milliseconds", ctypes.c_int32),
        ("checked", ctypes.c_int32),
        ("anywhere", ctypes.c_int32),
        ("seed", ctypes.c_uint64),
    )


class Engine(NamedTuple):
    """The engine.

    Attributes:
        library: its functions.
        path: where it lies; kernels are linked with it, and find it by its name later.
    """

    library: ctypes.PyDLL
    path: Path


_loaded: list[Engine] = []


def engine(folder: Path) -> Engine:
    """The one engine of this process, which knows where every buffer lies; it is compiled into the
    folder of whoever asks first. It is called with Python's lock held: it does one thing at a time,
    while buffers are given back at any."""
    if not _loaded or not _loaded[0].path.exists():
        name = f"lantern-emulator-{key(*OPTIONS)}.so"
        path = folder / name
        parts = "".join(f'#include "{part.name}"\n' for part in ENGINE if part.suffix == ".cpp")
        build(path, [*OPTIONS, f"-Wl,-soname,{name}", f"-I{ENGINE[0].parent}", "-"], parts)
        library = _loaded[0].library if _loaded else _declared(ctypes.PyDLL(str(path)))
        _loaded[:] = [Engine(library, path)]
    return _loaded[0]


def _declared(library: ctypes.PyDLL) -> ctypes.PyDLL:
    """The library, with the types of its functions."""
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    for name, result, arguments in (
        ("allocate", pointer, (size, ctypes.c_int)),
        ("free", None, (pointer,)),
        ("room", ctypes.c_longlong, (pointer,)),
        ("wrote", None, (pointer, size)),
        ("copied", None, (pointer, pointer, size)),
        ("unknown", ctypes.c_longlong, (pointer, size)),
        ("launch", ctypes.c_char_p, (ctypes.POINTER(Launch),)),
    ):
        function = library[f"emulator_{name}"]
        function.restype, function.argtypes = result, arguments
        setattr(library, f"emulator_{name}", function)
    return library


class EmulatedBuffer:
    """Memory between pages that nobody may touch.

    Args:
        engine: which allocates it.
        bytes: how much.
        followed: whether the engine keeps who uses each byte.

    Attributes:
        address: where it begins.
        bytes: how long it is.
        lent: never: other libraries get copies.
    """

    __slots__ = ("__weakref__", "address", "bytes")
    lent = False

    def __init__(self, engine: ctypes.PyDLL, bytes: int, followed: bool) -> None:
        address = engine.emulator_allocate(bytes, followed)
        if not address:
            raise MemoryError(f"no memory is left for a buffer of {bytes} bytes")
        self.address: int = address
        self.bytes = bytes
        weakref.finalize(self, engine.emulator_free, address).atexit = False


def view(span: Span, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """The memory of a part of a buffer, as an array."""
    memory = (ctypes.c_uint8 * span.bytes).from_address(span.address)
    return np.ctypeslib.as_array(memory).view(dtype).reshape(shape)
