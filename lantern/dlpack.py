"""DLPack without copies, bfloat16 included.

NumPy speaks the protocol for every dtype but bfloat16, which it does not know. A bfloat16 array is
therefore handed to NumPy, or received from it, as uint16, and the dtype in the capsule relabelled
on the way. Everything else, ownership above all, remains NumPy's.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from lantern.kinds import bfloat16

_UINT, _BFLOAT = 1, 4  # DLDataTypeCode


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
    )


# Where the DLTensor stands: first in DLManagedTensor; in DLManagedTensorVersioned after the
# version, the manager's context, the deleter and the flags.
_AT = {b"dltensor": 0, b"dltensor_versioned": 8 + 8 + 8 + 8}
_name_of = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(
    ("PyCapsule_GetName", ctypes.pythonapi)
)
_pointer_in = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def _described(capsule: Any) -> _DLTensor:
    """The description of the array inside a capsule that nobody has consumed yet."""
    name = _name_of(capsule)
    if name not in _AT:
        raise BufferError(f"not a fresh DLPack capsule: {name!r}")
    return _DLTensor.from_address(_pointer_in(capsule, name) + _AT[name])


class _Relabelled:
    """Another library's array, its bfloat16 elements announced as uint16."""

    def __init__(self, owner: Any, capsule: Any) -> None:
        self.owner, self.capsule = owner, capsule
        self.was_bfloat16 = False
        described = _described(capsule)
        if (described.code, described.bits, described.lanes) == (_BFLOAT, 16, 1):
            self.was_bfloat16 = True
            described.code = _UINT

    def __dlpack__(self, **_: Any) -> Any:
        return self.capsule

    def __dlpack_device__(self) -> Any:
        return self.owner.__dlpack_device__()


def shared_array(x: Any) -> np.ndarray[Any, Any]:
    """A NumPy array over the memory of ``x``, which it keeps alive.

    Raises:
        BufferError: the memory is not main memory, or its dtype is one NumPy cannot hold.
    """
    kind = int(x.__dlpack_device__()[0])
    if kind != 1:
        raise BufferError(f"from_dlpack: the array is on DLPack device {kind}, not in main memory")
    try:
        capsule = x.__dlpack__(max_version=(1, 0))
    except TypeError:  # a producer from before version 1
        capsule = x.__dlpack__()
    relabelled = _Relabelled(x, capsule)
    try:
        array = np.from_dlpack(relabelled)
    except RuntimeError as problem:
        raise BufferError(f"from_dlpack: {problem}") from None
    return array.view(bfloat16) if relabelled.was_bfloat16 else array


def capsule_of(array: np.ndarray[Any, Any], **options: Any) -> Any:
    """The DLPack capsule of a NumPy array, bfloat16 included."""
    if array.dtype != bfloat16:
        return array.__dlpack__(**options)
    capsule = array.view(np.uint16).__dlpack__(**options)
    _described(capsule).code = _BFLOAT
    return capsule
