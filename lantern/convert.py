"""From the outside world to Tensors, and from one dtype to another."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from typing import Any

import numpy as np

from lantern.errors import ArgumentError, DTypeError, NumberRangeError, ShapeError
from lantern.kinds import (
    DType,
    as_dtype,
    bfloat16,
    check_device,
    convert_to,
    default_float,
    default_int,
    is_number,
    promote,
    promote_number,
)
from lantern.kinds import bool as boolean
from lantern.symbol import is_known, outside
from lantern.tensor import Tensor

__all__ = ["asarray", "astype", "from_dlpack"]

_PYTHON = {float: default_float, int: default_int, builtins.bool: boolean}


def asarray(
    obj: Any, /, *, dtype: Any = None, device: str | None = None, copy: bool | None = None
) -> Tensor:
    """A Tensor of what ``obj`` holds.

    Args:
        obj: a Python number; nested lists or tuples of numbers, arrays and Tensors; a NumPy array
            or scalar; an object with ``__dlpack__``, ``__array__`` or the buffer protocol; a
            Tensor. Tensors in lists are stacked, and derivatives flow through.
        dtype: the dtype of the result. By default arrays keep theirs; Python floats become float32,
            integers int64.
        device: ``"cpu"`` or None.
        copy: whether the elements are copied. By default they are, so that nobody can change a
            Tensor through the array it was made from; only a Tensor, which is immutable, passes as
            it is. False shares the memory or raises.

    A Python complex number whose imaginary part is zero is the real number that it equals.

    Raises:
        DTypeError: strings, objects, other complex numbers, and dtypes that lantern does not have.
        NumberRangeError: a Python integer that the dtype does not hold.
        ShapeError: nested lists of unequal lengths.
        ValueError: ``copy=False`` where a copy is needed, or an unknown device.

    Example:
        >>> import lantern as ln
        >>> ln.asarray([[1, 2], [3, 4.5]])
        Tensor([[1. , 2. ],
                [3. , 4.5]], dtype=float32)
    """
    kind = type(obj)
    if kind is Tensor and dtype is None and device is None and not copy:
        return obj
    if kind in _PYTHON and device is None and copy is not False:
        return Tensor(_number(obj, _PYTHON[kind] if dtype is None else as_dtype(dtype)))
    check_device(device)
    wanted = None if dtype is None else as_dtype(dtype)
    if kind is Tensor:
        found = obj if wanted is None else convert_to(obj, wanted)
        if copy is False and found is not obj:
            raise ValueError(f"asarray(copy=False): {obj.dtype} to {wanted} needs a copy")
        if copy and found is obj and is_known(obj):
            return Tensor(np.array(obj.value)[()])
        return found
    if isinstance(obj, (np.ndarray, np.generic)):
        if id(obj) in outside.get() and copy is None and obj.dtype in (as_dtype(obj.dtype), wanted):
            return Tensor(obj)  # while a program is written that reads the array each time it runs
        return Tensor(_from_numpy(obj, wanted, copy))
    if isinstance(obj, (list, tuple, range)):
        if copy is False:
            raise ValueError("asarray(copy=False): nested Python sequences have to be copied")
        return _from_sequence(obj, wanted)
    if is_number(obj):
        if copy is False:
            raise ValueError("asarray(copy=False): a Python number has to be copied")
        base = next(t for t in (builtins.bool, int, float) if isinstance(obj, t))
        return Tensor(_number(base(obj), _PYTHON[base] if wanted is None else wanted))
    if hasattr(obj, "__dlpack__") and hasattr(obj, "__dlpack_device__"):
        return Tensor(_from_numpy(from_dlpack(obj).value, wanted, copy))
    if hasattr(obj, "__array__"):
        return Tensor(_from_numpy(np.asarray(obj), wanted, copy))
    if isinstance(obj, complex) and obj.imag == 0:
        return asarray(obj.real, dtype=wanted, copy=copy)
    if isinstance(obj, (str, bytes, complex)):
        raise _refused(obj)
    try:
        view = memoryview(obj)
    except TypeError:
        raise _refused(obj) from None
    return Tensor(_from_numpy(np.asarray(view), wanted, copy))


def astype(
    x: Any, dtype: Any, /, *, copy: builtins.bool = True, device: str | None = None
) -> Tensor:
    """The elements of ``x`` in another dtype. Between floating dtypes derivatives flow through.

    Args:
        x: array.
        dtype: the dtype of the result.
        copy: there for the standard's sake: Tensors are immutable, so sharing is never seen.
        device: ``"cpu"`` or None.

    Raises:
        DTypeError: lantern does not have that dtype.

    Example:
        >>> import lantern as ln
        >>> print(ln.astype(ln.asarray([1.7, -1.7]), ln.int8))
        [ 1 -1]
    """
    check_device(device)
    return convert_to(asarray(x), as_dtype(dtype))


def from_dlpack(x: Any, /, *, device: str | None = None, copy: bool | None = None) -> Tensor:
    """A Tensor that shares the memory of another library's array, which it keeps alive.

    Args:
        x: an object with ``__dlpack__`` and ``__dlpack_device__``, in main memory or on the GPU:
            then functions compiled for it take the Tensor as it is.
        device: ``"cpu"`` or None.
        copy: True copies the elements; otherwise they are shared, and what the owner writes there
            is seen.

    Raises:
        DTypeError: a dtype that lantern does not have.
        BufferError: the memory cannot be shared.

    Example:
        >>> import numpy as np
        >>> import lantern as ln
        >>> a = np.zeros(2)
        >>> x = ln.from_dlpack(a)
        >>> a[0] = 1
        >>> print(x)
        [1. 0.]
    """
    from lantern.cuda import asarray as cuda_array
    from lantern.cuda import is_available, on_gpu
    from lantern.dlpack import shared_array

    check_device(device)
    if type(x) is Tensor:
        return asarray(x, copy=copy)
    if not hasattr(x, "__dlpack__") or not hasattr(x, "__dlpack_device__"):
        raise DTypeError(
            f"from_dlpack of {type(x).__name__}: expected an object with __dlpack__ and "
            "__dlpack_device__"
        )
    if on_gpu(x) and not copy and is_available():
        return cuda_array(x)
    array = shared_array(x)
    return Tensor(_from_numpy(array, None, copy is True))


def _number(x: Any, dtype: DType) -> Any:
    """A Python number as a NumPy scalar."""
    try:
        return dtype.type(x)
    except (OverflowError, ValueError):  # ValueError: NaN to an integer
        raise NumberRangeError(f"the Python number {x} does not fit into {dtype}") from None


def _from_numpy(a: Any, dtype: DType | None, copy: builtins.bool | None) -> Any:
    """An array as a Tensor holds it: native byte order, a scalar where there is no axis."""
    if a.dtype.kind in "OSUMmVc" and a.dtype != bfloat16:
        raise _refused(a)
    wanted = as_dtype(a.dtype) if dtype is None else dtype
    if copy is False:
        if wanted != a.dtype or isinstance(a, np.generic):
            raise ArgumentError(f"asarray(copy=False): {a.dtype} to {wanted} needs a copy")
        return np.asarray(a)
    return np.array(a, dtype=wanted, subok=False)[()]


def _from_sequence(obj: Any, dtype: DType | None) -> Tensor:
    """Nested lists. Python's numbers are weak beside arrays; Tensors are stacked."""
    dtypes: set[Any] = set()
    kinds: set[type] = set()
    arrays = False
    for kind, leaves in _leaves(obj):
        if issubclass(kind, (np.generic, np.ndarray)):
            dtypes |= {as_dtype(v.dtype) for v in leaves}
        elif issubclass(kind, (builtins.bool, int, float)):
            kinds.add(kind)
        else:
            arrays = True
            break
    if arrays:
        return _stacked(obj, dtype)
    if dtype is None:
        dtype = _common(dtypes, kinds)
    try:
        found = np.array(obj, dtype=None if dtype == bfloat16 else dtype)
    except OverflowError as problem:
        raise NumberRangeError(f"asarray: {problem}") from None
    except ValueError as problem:
        raise ShapeError(f"asarray: {problem}") from None
    return Tensor(found.astype(dtype, copy=False)[()])


def _leaves(obj: Any) -> Iterator[tuple[type, list[Any]]]:
    """The leaves of nested sequences by type: pairs (type, leaves of it)."""
    kinds = set(map(type, obj))
    for kind in kinds:
        if issubclass(kind, (list, tuple, range)):
            for part in obj:
                if type(part) is kind:
                    yield from _leaves(part)
        elif issubclass(kind, (np.generic, np.ndarray)):
            yield kind, [v for v in obj if type(v) is kind]
        else:
            yield kind, []


def _common(dtypes: set[Any], kinds: set[type]) -> DType:
    """The dtype of elements of ``dtypes`` and Python numbers of ``kinds``; of none, float32."""
    found: DType | None = None
    for d in sorted(dtypes, key=str):
        found = d if found is None else promote(found, d)
    if found is None and not kinds:
        return default_float
    for kind in kinds:
        found = promote_number(boolean if found is None else found, kind)
    assert found is not None
    return found


def _stacked(obj: Any, dtype: DType | None) -> Tensor:
    """Nested sequences with Tensors among them, stacked so that derivatives flow."""
    from lantern.ops.assembly import stack

    numbers = [v for v in obj if is_number(v)]
    parts = [
        None if is_number(v) else asarray(v, dtype=None if dtype is None else dtype) for v in obj
    ]
    if dtype is None:
        dtype = _common({p.dtype for p in parts if p is not None}, set(map(type, numbers)))
    values = [
        asarray(v, dtype=dtype) if p is None else convert_to(p, dtype)
        for v, p in zip(obj, parts, strict=True)
    ]
    return stack(values, axis=0)


def _refused(obj: Any) -> DTypeError:
    """The error for something that is not an array of numbers."""
    dtype = getattr(obj, "dtype", None)
    if isinstance(obj, complex) or getattr(dtype, "kind", "") == "c":
        reason = "lantern has no complex dtypes; take the real and the imaginary part apart"
    elif dtype is not None:
        reason = f"lantern has no dtype {dtype}; expected booleans, integers or floats"
    else:
        reason = "expected numbers, nested lists of numbers, or an array"
    shown = repr(obj) if len(repr(obj)) < 60 else type(obj).__name__
    return DTypeError(f"cannot make a Tensor of {shown}: {reason}")
