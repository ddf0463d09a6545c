"""GPUs by hand: arrays there that other libraries have made, the stream that work goes into, and
waiting for it.

Functions that ``ln.compile(backend="cuda")`` makes need none of this: they take arrays from
anywhere, and what they return stays on the GPU until its elements are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lantern import convert
from lantern.tensor import Tensor

__all__ = ["asarray", "is_available", "stream", "synchronize"]


def asarray(x: Any, *, backend: str = "cuda") -> Tensor:
    """A Tensor whose elements are on the GPU.

    Args:
        x: an array of another library on the GPU, with ``__dlpack__`` or
            ``__cuda_array_interface__``, whose memory is shared; or anything that `lantern.asarray`
            takes, which is copied there.
        backend: ``"cuda"``; or ``"cuda-emulated"``, where nothing is shared.

    Returns:
        A Tensor that functions of this backend take as it is. It speaks the two protocols itself,
        so that ``torch.from_dlpack``, ``cupy.from_dlpack`` and the like share its memory. Memory
        that is shared is never given away by ``donate``.

    Raises:
        StagingError: there is no GPU, or something that is needed to use one is not installed.

    Example:
        >>> import lantern as ln
        >>> x = ln.cuda.asarray([1.0, 2.0], backend="cuda-emulated")
        >>> double = ln.compile(lambda x: 2 * x, backend="cuda-emulated")
        >>> print(double(x))
        [2. 4.]
    """
    from lantern.staged.executables import adopted, placed

    foreign = not isinstance(x, Tensor) and on_gpu(x)
    return Tensor(adopted(x, backend) if foreign else placed(convert.asarray(x).value, backend))


def on_gpu(x: Any) -> bool:
    """Whether another library's array is on a GPU."""
    if hasattr(x, "__dlpack_device__"):
        return int(x.__dlpack_device__()[0]) in (2, 13)  # kDLCUDA, kDLCUDAManaged
    return hasattr(x, "__cuda_array_interface__")


def is_available() -> bool:
    """Whether functions can be compiled for a GPU here.

    Example:
        >>> import lantern as ln
        >>> backend = "cuda" if ln.cuda.is_available() else "llvm"
    """
    from lantern.errors import StagingError
    from lantern.staged.executables import device

    try:
        device("cuda")
    except StagingError:
        return False
    return True


@contextmanager
def stream(stream: Any, *, backend: str = "cuda") -> Iterator[None]:
    """A context in which compiled functions put their work into a stream of another library.

    Elsewhere it goes into CuPy's current stream, which by default is the one of CUDA that waits for
    all others. The setting is one of this thread, and is restored in the end.

    Args:
        stream: such as ``torch.cuda.current_stream()``; an object with ``__cuda_stream__``, or the
            address of a ``cudaStream_t``.
        backend: ``"cuda"``; ``"cuda-emulated"`` has streams of its own.

    Raises:
        StagingError: there is no GPU, or something that is needed to use one is not installed.

    Example:
        >>> import lantern as ln
        >>> if ln.cuda.is_available():
        ...     import torch
        ...     with ln.cuda.stream(torch.cuda.current_stream()):
        ...         y = ln.compile(lambda x: x + 1, backend="cuda")(1.0)
    """
    from lantern.staged.executables import device

    with device(backend).external(stream):
        yield


def synchronize(*, backend: str = "cuda") -> None:
    """Wait until all work on the GPU is done.

    Args:
        backend: ``"cuda"`` or ``"cuda-emulated"``.

    Raises:
        StagingError: there is no GPU, or something that is needed to use one is not installed.
        RuntimeError: something failed there.

    Example:
        >>> import lantern as ln
        >>> y = ln.compile(lambda x: 2 * x, backend="cuda-emulated")(ln.ones(3))
        >>> ln.cuda.synchronize(backend="cuda-emulated")
    """
    from lantern.staged.executables import device

    device(backend).synchronize()
