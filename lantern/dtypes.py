"""Dtypes and what can be asked about them, as in the Python array API standard.

float16 and bfloat16 come on top; there is no complex dtype. Promotion is that of `lantern.kinds`.
"""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from lantern.errors import DTypeError
from lantern.kinds import (
    ALL,
    KINDS,
    SIGNED,
    UNSIGNED,
    DType,
    as_dtype,
    bfloat16,
    bool,
    check_device,
    default_float,
    default_int,
    float16,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    is_floating,
    is_number,
    promote,
    promote_number,
    uint8,
    uint16,
    uint32,
    uint64,
)

__all__ = [
    "__array_namespace_info__",
    "bfloat16",
    "bool",
    "can_cast",
    "finfo",
    "float16",
    "float32",
    "float64",
    "iinfo",
    "int8",
    "int16",
    "int32",
    "int64",
    "isdtype",
    "result_type",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
]


def result_type(*arrays_and_dtypes: Any) -> DType:
    """The dtype that the operands promote to.

    Args:
        arrays_and_dtypes: Tensors, NumPy arrays, dtypes and Python numbers; the last are weak.

    Raises:
        DTypeError: there is no common dtype, or an operand is complex.
        ValueError: no operands.

    Example:
        >>> import lantern as ln
        >>> print(ln.result_type(ln.int8, ln.uint8, 1), ln.result_type(ln.float16, 2.5))
        int16 float16
    """
    if not arrays_and_dtypes:
        raise ValueError("result_type() of nothing: give it an array, a dtype or a Python number")
    found: DType | None = None
    for x in arrays_and_dtypes:
        if not is_number(x):
            if isinstance(x, complex):
                raise DTypeError(f"lantern has no complex dtypes: {x!r}")
            dtype = as_dtype(x.dtype if hasattr(x, "dtype") and hasattr(x, "shape") else x)
            found = dtype if found is None else promote(found, dtype)
    for x in arrays_and_dtypes:
        if is_number(x):
            found = promote_number(bool if found is None else found, type(x))
    assert found is not None
    return found


def can_cast(from_: Any, to: Any, /) -> builtins.bool:
    """Whether promotion takes ``from_``, a dtype or an array, to the dtype ``to``.

    Example:
        >>> import lantern as ln
        >>> ln.can_cast(ln.int8, ln.int32), ln.can_cast(ln.float64, ln.float32)
        (True, False)
    """
    try:
        return result_type(from_, as_dtype(to)) == as_dtype(to)
    except DTypeError:
        as_dtype(to)
        return False


def isdtype(dtype: Any, kind: Any) -> builtins.bool:
    """Whether ``dtype`` is of a kind.

    Args:
        dtype: a dtype.
        kind: a dtype, ``"bool"``, ``"signed integer"``, ``"unsigned integer"``, ``"integral"``,
            ``"real floating"``, ``"complex floating"`` (there are none), ``"numeric"``, or a tuple
            of those.

    Raises:
        ValueError: a kind of another name.

    Example:
        >>> import lantern as ln
        >>> ln.isdtype(ln.bfloat16, "real floating"), ln.isdtype(ln.int8, ("bool", ln.int8))
        (True, True)
    """
    dtype = as_dtype(dtype)
    if isinstance(kind, tuple):
        return any(isdtype(dtype, k) for k in kind)
    if isinstance(kind, str):
        if kind not in KINDS:
            raise ValueError(f"isdtype: no kind {kind!r}; expected one of {', '.join(KINDS)}")
        return dtype in KINDS[kind]
    return dtype == as_dtype(kind)


@dataclass(frozen=True)
class FloatInfo:
    """Machine limits of a floating dtype. Plain Python numbers."""

    bits: int
    eps: float
    max: float
    min: float
    smallest_normal: float
    dtype: DType


@dataclass(frozen=True)
class IntegerInfo:
    """Machine limits of an integer dtype. Plain Python numbers."""

    bits: int
    max: int
    min: int
    dtype: DType


def finfo(type: Any, /) -> FloatInfo:
    """Machine limits of a floating dtype, or of an array's.

    Raises:
        DTypeError: not a floating dtype.

    Example:
        >>> import lantern as ln
        >>> print(ln.finfo(ln.bfloat16).eps)
        0.0078125
    """
    dtype = as_dtype(getattr(type, "dtype", type) if hasattr(type, "shape") else type)
    if not is_floating(dtype):
        raise DTypeError(f"finfo of {dtype}: expected a floating dtype")
    i = ml_dtypes.finfo(dtype)
    eps, top, bottom, tiny = (float(v) for v in (i.eps, i.max, i.min, i.smallest_normal))
    return FloatInfo(dtype.itemsize * 8, eps, top, bottom, tiny, dtype)


def iinfo(type: Any, /) -> IntegerInfo:
    """Machine limits of an integer dtype, or of an array's.

    Raises:
        DTypeError: not an integer dtype.

    Example:
        >>> import lantern as ln
        >>> print(ln.iinfo(ln.int8).max)
        127
    """
    dtype = as_dtype(getattr(type, "dtype", type) if hasattr(type, "shape") else type)
    if dtype not in SIGNED + UNSIGNED:
        raise DTypeError(f"iinfo of {dtype}: expected an integer dtype")
    i = np.iinfo(dtype)
    return IntegerInfo(dtype.itemsize * 8, int(i.max), int(i.min), dtype)


class NamespaceInfo:
    """What lantern offers, in the form of the array API standard's inspection interface."""

    def capabilities(self) -> dict[str, Any]:
        """Boolean indexing and data-dependent shapes exist; there are at most 64 axes."""
        return {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": 64}

    def default_device(self) -> str:
        """Where new Tensors live."""
        return "cpu"

    def devices(self) -> list[str]:
        """Where Tensors can live."""
        return ["cpu"]

    def default_dtypes(self, *, device: str | None = None) -> dict[str, DType]:
        """The dtypes of Python numbers and of indices; there is no complex one."""
        check_device(device)
        return {"real floating": default_float, "integral": default_int, "indexing": int64}

    def dtypes(
        self, *, device: str | None = None, kind: str | tuple[str, ...] | None = None
    ) -> dict[str, DType]:
        """The standard's dtypes by name; float16 and bfloat16, which it lacks, exist besides.

        Args:
            device: ``"cpu"`` or None.
            kind: as in `isdtype`, to list only some.
        """
        check_device(device)
        standard = [d for d in ALL if d not in (float16, bfloat16)]
        return {d.name: d for d in standard if kind is None or isdtype(d, kind)}


def __array_namespace_info__() -> NamespaceInfo:
    """The inspection interface of the array API standard.

    Example:
        >>> import lantern as ln
        >>> print(ln.__array_namespace_info__().default_dtypes()["real floating"])
        float32
    """
    return NamespaceInfo()
