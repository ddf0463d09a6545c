"""What operands become before they meet: Tensors of one dtype, or a Tensor and a Python number.

`operands` is on the path of every scalar operation, so its first lines look at nothing but types.
"""

from __future__ import annotations

from typing import Any

from lantern.convert import asarray
from lantern.dtypes import result_type
from lantern.errors import NumberRangeError
from lantern.kinds import (
    DType,
    bfloat16,
    convert_to,
    default_float,
    is_floating,
    is_number,
    promote,
    promote_number,
)
from lantern.kinds import bool as boolean
from lantern.tensor import Tensor


def operands(x1: Any, x2: Any) -> tuple[Any, Any]:
    """Two operands of an elementwise function in one dtype; a Python number is weak and stays."""
    if type(x1) is Tensor:
        if type(x2) is Tensor:
            if x1.dtype is x2.dtype:
                return x1, x2
        elif type(x2) in (float, int) and x1.dtype.kind == "f":
            return x1, x2
    elif type(x1) in (float, int) and type(x2) is Tensor and x2.dtype.kind == "f":
        return x1, x2
    return promoted(x1, x2)


def promoted(x1: Any, x2: Any) -> tuple[Any, Any]:
    """`operands` in full: any two array-likes."""
    if is_number(x2):
        if is_number(x1):
            dtype = result_type(x1, x2)
            return asarray(x1, dtype=dtype), asarray(x2, dtype=dtype)
        return beside(x1, x2)
    if is_number(x1):
        x2, x1 = beside(x2, x1)
        return x1, x2
    x1, x2 = asarray(x1), asarray(x2)
    dtype = promote(x1.dtype, x2.dtype)
    return convert_to(x1, dtype), convert_to(x2, dtype)


def beside(x: Any, number: bool | int | float) -> tuple[Tensor, Any]:
    """An array, promoted for the Python number that it meets, and the number."""
    x = asarray(x)
    dtype = promote_number(x.dtype, type(number))
    return convert_to(x, dtype), weak(number, dtype)


def weak(number: bool | int | float, dtype: DType) -> Any:
    """A Python number as kernels take it beside arrays of ``dtype``.

    Raises:
        NumberRangeError: an integer that ``dtype`` does not hold.
    """
    if dtype == bfloat16:  # NumPy does not know that a Python number is weak beside bfloat16
        return dtype.type(number)
    if is_floating(dtype):
        return number if type(number) is not bool else float(number)
    if dtype == boolean:
        return number
    bits = dtype.itemsize * 8
    low, high = (0, 2**bits - 1) if dtype.kind == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    if not low <= number <= high:
        raise NumberRangeError(
            f"the Python number {number} meets an array of {dtype}, which holds {low} to {high}"
        )
    return int(number)


def comparands(x1: Any, x2: Any) -> tuple[Any, Any]:
    """`operands` of a comparison, where a Python integer may lie outside the array's dtype."""
    if type(x1) is Tensor and type(x2) is int and x1.dtype.kind in "iu":
        return x1, x2
    if type(x2) is Tensor and type(x1) is int and x2.dtype.kind in "iu":
        return x1, x2
    return operands(x1, x2)


def floating(x: Any) -> Tensor:
    """An argument of a function on floats: integers and booleans become float32."""
    if type(x) is Tensor and x.dtype.kind == "f":
        return x
    x = asarray(x)
    return x if is_floating(x.dtype) else convert_to(x, default_float)


def floating_operands(x1: Any, x2: Any) -> tuple[Any, Any]:
    """`operands` of a function on floats: integers and booleans become float32."""
    x1, x2 = operands(x1, x2)
    like = x1 if hasattr(x1, "dtype") else x2
    if is_floating(like.dtype):
        return x1, x2
    return floating(x1), floating(x2)
