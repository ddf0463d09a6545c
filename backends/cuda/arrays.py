"""`DeviceArray`: an array in the memory of a device, which becomes one of NumPy where it is asked
for its elements."""

from __future__ import annotations

from sys import getrefcount
from typing import Any, cast

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from backends.cuda.device import Buffer, Device, Span

Array = np.ndarray[Any, Any]


class DeviceArray(NDArrayOperatorsMixin):
    """An array on a device, contiguous and immutable but to a program that it is donated to.

    Programs of its device take it as it is. NumPy copies it to the host, once; so does whatever
    else an array of NumPy has, such as its methods.

    Args:
        device: where it is.
        span: its memory.
        shape: the length of each axis.
        dtype: of its elements.
    """

    __slots__ = ("_host", "device", "dtype", "shape", "span")

    def __init__(
        self, device: Device, span: Span, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> None:
        self.device, self.span, self.shape, self.dtype = device, span, shape, dtype
        self._host: Array | None = None

    @property
    def base(self) -> Buffer:
        """What owns the memory."""
        return self.span.buffer

    @property
    def shared(self) -> bool:
        """Whether anything else holds the memory, or may."""
        return self.span.buffer.lent or getrefcount(self.span.buffer) > LONE

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def host(self) -> Array:
        """The elements on the host, read only."""
        if self._host is None:
            host = np.empty(self.shape, self.dtype)
            if host.size:
                self.device.to_host(self.span, host)
            host.flags.writeable = False
            self._host = host
        return self._host

    def lent(self) -> Any:
        """The same array for other libraries, by DLPack or ``__cuda_array_interface__``."""
        return self.device.lend(self.span, self.shape, self.dtype.name)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self.host, dtype=dtype, copy=copy)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **named: Any) -> Any:
        """NumPy computes on the host."""
        hosts = [x.host if isinstance(x, DeviceArray) else x for x in inputs]
        return getattr(ufunc, method)(*hosts, **named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)  # what Python asks for by itself, such as how to copy it
        return getattr(self.host, name)

    def __getitem__(self, index: Any) -> Any:
        return self.host[index]

    def __len__(self) -> int:
        return len(self.host)

    def __reduce__(self) -> Any:
        """Another process has the elements, but not the device."""
        return np.array, (self.host,)

    def __repr__(self) -> str:
        return f"DeviceArray({self.dtype}{list(self.shape)})"


def _lone() -> int:
    """How many references `DeviceArray.shared` sees of memory that nothing else holds; that depends
    on the version of Python."""
    array = DeviceArray(cast(Any, None), Span(cast(Any, _Owner()), 0, 0), (), np.dtype(np.int8))
    return getrefcount(array.span.buffer)


class _Owner:
    """Stands for memory."""

    lent = False


LONE = _lone()
