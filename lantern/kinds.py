"""Which dtypes there are, what they promote to, and how a Tensor goes from one to another.

Integers promote among each other and floats among each other; an integer or a boolean that meets a
float becomes that float's dtype, as in JAX and PyTorch. Python numbers are weak: they take the
dtype of the Tensor they meet. `lantern.dtypes` is the public face of this module.
"""

from __future__ import annotations

import builtins
import functools
from typing import Any

import ml_dtypes
import numpy as np

from lantern.errors import ArgumentError, DTypeError
from lantern.primitives.structure import cast, convert
from lantern.tensor import Tensor

DType = np.dtype[Any]

bool = np.dtype("bool")
int8, int16, int32, int64 = (np.dtype(f"int{n}") for n in (8, 16, 32, 64))
uint8, uint16, uint32, uint64 = (np.dtype(f"uint{n}") for n in (8, 16, 32, 64))
float16, float32, float64 = (np.dtype(f"float{n}") for n in (16, 32, 64))
bfloat16 = np.dtype(ml_dtypes.bfloat16)
default_float, default_int = float32, int64

SIGNED = (int8, int16, int32, int64)
UNSIGNED = (uint8, uint16, uint32, uint64)
FLOATING = (bfloat16, float16, float32, float64)
ALL = (bool, *SIGNED, *UNSIGNED, *FLOATING)
KINDS: dict[str, tuple[DType, ...]] = {
    "bool": (bool,),
    "signed integer": SIGNED,
    "unsigned integer": UNSIGNED,
    "integral": SIGNED + UNSIGNED,
    "real floating": FLOATING,
    "complex floating": (),
    "numeric": SIGNED + UNSIGNED + FLOATING,
}
_PYTHON: dict[Any, DType] = {builtins.bool: bool, int: default_int, float: default_float}


def is_floating(dtype: DType) -> builtins.bool:
    """Whether ``dtype`` is float16, bfloat16, float32 or float64."""
    return dtype.kind == "f" or dtype == bfloat16


def as_dtype(dtype: Any) -> DType:
    """A dtype from how users write one: ``ln.float32``, ``np.float32``, ``"float32"``, ``float``.

    Python's ``float`` and ``int`` mean the default dtypes, float32 and int64.

    Raises:
        DTypeError: lantern does not have that dtype.

    Example:
        >>> as_dtype(float), as_dtype("int8")
        (dtype('float32'), dtype('int8'))
    """
    if isinstance(dtype, type) and dtype in _PYTHON:
        return _PYTHON[dtype]
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = None
    if found is not None and not found.isnative:
        found = found.newbyteorder("=")
    if found is None or dtype is None or found not in ALL:
        reason = "complex dtypes are absent; " if found is not None and found.kind == "c" else ""
        raise DTypeError(
            f"no dtype {dtype!r} in lantern: {reason}expected one of "
            f"{', '.join(d.name for d in ALL)}"
        )
    return found


@functools.cache
def promote(a: DType, b: DType) -> DType:
    """The dtype of an operation on arrays of dtypes ``a`` and ``b``.

    Raises:
        DTypeError: uint64 meets a signed integer; no integer dtype holds both.

    Example:
        >>> promote(int8, uint8), promote(int64, float32), promote(float16, bfloat16)
        (dtype('int16'), dtype('float32'), dtype('float32'))
    """
    if a == b:
        return a
    if is_floating(a) and is_floating(b):
        if a.itemsize == b.itemsize:  # float16 has the digits, bfloat16 the range: float32 has both
            return float32
        return a if a.itemsize > b.itemsize else b
    if is_floating(a) or b == bool:
        return a
    if is_floating(b) or a == bool:
        return b
    if (a == uint64 and b in SIGNED) or (b == uint64 and a in SIGNED):
        raise DTypeError(
            f"{a} and {b} have no common dtype: no integer holds all values of both. "
            "Convert one of them with ln.astype"
        )
    return np.promote_types(a, b)


def promote_number(dtype: DType, kind: type) -> DType:
    """The dtype of an operation on an array of ``dtype`` and a weak Python number of type ``kind``.

    Example:
        >>> promote_number(int8, int), promote_number(float16, float), promote_number(int8, float)
        (dtype('int8'), dtype('float16'), dtype('float32'))
    """
    if issubclass(kind, builtins.bool):
        return dtype
    if issubclass(kind, int):
        return default_int if dtype == bool else dtype
    return dtype if is_floating(dtype) else default_float


def is_number(x: Any) -> builtins.bool:
    """Whether ``x`` is a Python bool, int or float. NumPy scalars have a dtype, and are arrays."""
    return isinstance(x, (int, float)) and not isinstance(x, np.generic)


def convert_to(x: Tensor, dtype: DType) -> Tensor:
    """``x`` itself, a differentiable cast to ``dtype``, or a conversion without a derivative."""
    if x.dtype is dtype or x.dtype == dtype:
        return x
    if is_floating(x.dtype) and is_floating(dtype):
        return cast(x, dtype=dtype)
    return convert(x, dtype=dtype)


def check_device(device: Any) -> None:
    """Raise unless ``device`` is None or ``"cpu"``, the one device of eager Tensors."""
    if device is not None and device != "cpu":
        raise ArgumentError(f"device {device!r}: eager Tensors live on 'cpu'")
