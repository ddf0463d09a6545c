"""A stand-in for CuPy where there is no GPU: its memory is the host's, what stands in a stream is
done at once, and every call is written down and compared with the signature of the real function.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache, partial, wraps
from types import SimpleNamespace
from typing import Any

import cupy as real
import numpy as np
import pytest
from ml_dtypes import bfloat16

NULL = 0
# What the backend imports; the real ones are there, if only some of their libraries are not.
MODULES = ("cupy", "cupyx", "cupy_backends.cuda.libs.cublas")
assert all(map(importlib.util.find_spec, MODULES))
CUBLAS = {
    "CUBLAS_OP_N": 0, "CUBLAS_OP_T": 1, "CUBLAS_COMPUTE_32F": 68, "CUBLAS_COMPUTE_64F": 70,
    "CUBLAS_GEMM_DEFAULT": -1,
    "create": "create() -> intptr_t",
    "setMathMode": "setMathMode(intptr_t handle, int mode)",
    "gemmStridedBatchedEx": "gemmStridedBatchedEx(intptr_t handle, int transa, int transb, int m, "
    "int n, int k, size_t alpha, size_t A, int Atype, int lda, long long strideA, size_t B, "
    "int Btype, int ldb, long long strideB, size_t beta, size_t C, int Ctype, int ldc, "
    "long long strideC, int batchCount, int computeType, int algo)",
    **{
        f"{letter}gemmBatched": f"{letter}gemmBatched(intptr_t handle, int transa, int transb, "
        "int m, int n, int k, size_t alpha, size_t Aarray, int lda, size_t Barray, int ldb, "
        "size_t beta, size_t Carray, int ldc, int batchCount)"
        for letter in "sd"
    },
}  # fmt: skip
TYPES = {
    real.cuda.runtime.CUDA_R_16F: np.dtype(np.float16),
    real.cuda.runtime.CUDA_R_16BF: np.dtype(bfloat16),
    real.cuda.runtime.CUDA_R_32F: np.dtype(np.float32),
    real.cuda.runtime.CUDA_R_64F: np.dtype(np.float64),
}
ATTRIBUTES = {
    "MaxThreadsPerBlock": 1024, "MaxSharedMemoryPerBlockOptin": 232448,
    "MultiProcessorCount": 114, "MaxThreadsPerMultiProcessor": 2048,
    "MaxBlocksPerMultiprocessor": 32, "MaxRegistersPerMultiprocessor": 65536,
    "MaxSharedMemoryPerMultiprocessor": 233472,
}  # fmt: skip


def named(path: str) -> Any:
    """Something of the real CuPy."""
    found: Any = real
    for part in path.split("."):
        found = getattr(found, part)
    return found


@cache
def signature(text: str) -> tuple[list[str], int]:
    """The parameters that the first line of a docstring of Cython's names, and how many are
    required."""
    inside = text.split("\n")[0].partition("(")[2].rpartition(")")[0]
    params = [p.strip() for p in inside.split(",") if p.strip() not in ("self", "cls", "")]
    names = [re.split(r"[ *]", p.split("=")[0])[-1] for p in params]
    return names, sum("=" not in p for p in params)


def checked(text: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse a call that the function with such a docstring would refuse."""
    names, required = signature(text)
    given = {*names[: len(args)], *kwargs}
    assert len(args) + len(kwargs) == len(given) <= len(names), (text, args, kwargs)
    assert given <= set(names), (text, args, kwargs)
    assert set(names[:required]) <= given, (text, args, kwargs)


def like(path: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A function that is called as that of CuPy is."""

    def wrap(f: Callable[..., Any]) -> Callable[..., Any]:
        text = CUBLAS[path[7:]] if path.startswith("cublas.") else named(path).__doc__

        @wraps(f)
        def called(*args: Any, **kwargs: Any) -> Any:
            checked(str(text), args, kwargs)
            return f(*args, **kwargs)

        return called

    return wrap


class CUDARuntimeError(RuntimeError):
    """What CuPy raises."""


class Pointer:
    """A place in memory that it keeps."""

    def __init__(self, memory: np.ndarray[Any, Any], offset: int = 0) -> None:
        self.memory, self.offset = memory, offset
        self.ptr = memory.ctypes.data + offset

    def __add__(self, offset: int) -> Pointer:
        return Pointer(self.memory, self.offset + offset)


class Stream:
    """A stream; the current one is the last of the fake's."""

    def __init__(self, fake: Fake, ptr: int) -> None:
        self.fake, self.ptr = fake, ptr

    def __enter__(self) -> Stream:
        self.fake.current.append(self)
        return self

    def __exit__(self, *problem: object) -> None:
        self.fake.current.pop()

    def synchronize(self) -> None:
        self.fake.log.append(("synchronize", self.ptr))
        if self.fake.fault:
            raise CUDARuntimeError(self.fake.fault)

    def wait_event(self, event: Event) -> None:
        self.fake.log.append(("wait", self.ptr, event.stream))

    def begin_capture(self) -> None:
        assert self.ptr != NULL, "cannot capture on the default (legacy) stream"
        self.fake.log.append(("begin", self.ptr))

    def end_capture(self) -> SimpleNamespace:
        self.fake.log.append(("end", self.ptr))
        return SimpleNamespace(launch=lambda s: self.fake.log.append(("graph", s.ptr)))


class Event:
    """A moment of the fake's own clock."""

    def __init__(self, fake: Fake) -> None:
        self.fake, self.stream, self.time = fake, -1, 0

    def record(self, stream: Stream) -> None:
        self.fake.clock += 5
        self.stream, self.time = stream.ptr, self.fake.clock

    def synchronize(self) -> None:
        self.fake.log.append(("event", self.stream))


class Fake:
    """What `sys.modules` has instead of CuPy.

    Attributes:
        log: what was asked for: the name, the stream, and more.
        fault: what the next synchronisation reports.
        room: bytes that there are to allocate.
    """

    def __init__(self, version: str = "14.2.0", capability: str = "90") -> None:
        self.log: list[tuple[Any, ...]] = []
        self.current = [Stream(self, NULL)]
        self.fault, self.clock, self.room, self.next = "", 0, 2**20, 100
        self.pinned: set[int] = set()
        self.driver, self.devices, self.problem = 13000, 1, ""
        self.capability = capability
        self.cublas = SimpleNamespace(
            **{name: value for name, value in CUBLAS.items() if isinstance(value, int)},
            create=like("cublas.create")(self.create),
            setMathMode=like("cublas.setMathMode")(lambda *a: self.log.append(("mode", *a))),
            gemmStridedBatchedEx=like("cublas.gemmStridedBatchedEx")(self.gemm),
            sgemmBatched=like("cublas.sgemmBatched")(partial(self.gemms, np.float32)),
            dgemmBatched=like("cublas.dgemmBatched")(partial(self.gemms, np.float64)),
        )
        self.cuda = SimpleNamespace(
            runtime=self.runtime(),
            cublas=self.cublas,
            driver=SimpleNamespace(
                CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=8,
                funcSetAttribute=like("cuda.driver.funcSetAttribute")(
                    lambda *a: self.log.append(("attribute", *a))
                ),
            ),
            alloc=like("cuda.alloc")(self.alloc),
            Memory=like("cuda.Memory")(self.alloc),
            get_current_stream=like("cuda.get_current_stream")(lambda: self.current[-1]),
            get_elapsed_time=like("cuda.get_elapsed_time")(lambda a, b: float(b.time - a.time)),
            Device=lambda: SimpleNamespace(id=0, compute_capability=self.capability),
            Event=self.event,
            Stream=self.stream,
            function=SimpleNamespace(Module=self.module),
        )
        self.stream.__dict__["from_external"] = like("cuda.Stream.from_external")(self.external)
        self.cupy = SimpleNamespace(
            __version__=version,
            cuda=self.cuda,
            linalg=np.linalg,
            dtype=np.dtype,
            ndarray=self.array,
            asarray=np.asarray,
            from_dlpack=self.from_dlpack,
            ascontiguousarray=self.contiguous,
        )

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Stand for CuPy."""
        errstate = SimpleNamespace(errstate=lambda linalg: nullcontext())
        for name, module in zip(MODULES, (self.cupy, errstate, self.cublas), strict=True):
            patch.setitem(sys.modules, name, module)

    def runtime(self) -> SimpleNamespace:
        """`cupy.cuda.runtime`, with the numbers of the real one."""
        numbers = {
            name: value
            for name, value in vars(real.cuda.runtime).items()
            if isinstance(value, int)
            and name.startswith(("memcpy", "memoryType", "CUDA_R", "cuda"))
        }
        by_number = {
            getattr(real.cuda.runtime, f"cudaDevAttr{name}"): value
            for name, value in ATTRIBUTES.items()
        }
        functions: dict[str, Callable[..., Any]] = {
            "getDeviceCount": self.count,
            "driverGetVersion": lambda: self.driver,
            "runtimeGetVersion": lambda: 13020,
            "deviceGetAttribute": lambda which, device: by_number[which],
            "getDeviceProperties": lambda device: {"name": b"NVIDIA Pretence"},
            "memGetInfo": lambda: (self.room, 2**20),
            "memcpyAsync": self.memcpy,
            "memsetAsync": self.memset,
            "pointerGetAttributes": lambda p: SimpleNamespace(
                type=numbers["memoryTypeHost" if p in self.pinned else "memoryTypeUnregistered"]
            ),
            "deviceSynchronize": lambda: self.current[0].synchronize(),
        }
        wrapped = {name: like(f"cuda.runtime.{name}")(f) for name, f in functions.items()}
        return SimpleNamespace(**numbers, **wrapped, CUDARuntimeError=CUDARuntimeError)

    def count(self) -> int:
        if self.problem:
            raise CUDARuntimeError(self.problem)
        return self.devices

    def alloc(self, size: int) -> Pointer:
        if size > self.room:
            raise MemoryError("out of memory")
        self.room -= size
        return Pointer(np.full(size, 0xCD, np.uint8))

    def memcpy(self, target: int, source: int, size: int, kind: int, stream: int) -> None:
        self.log.append(("copy", stream, kind))
        ctypes.memmove(target, source, size)

    def memset(self, target: int, value: int, size: int, stream: int) -> None:
        self.log.append(("fill", stream))
        ctypes.memset(target, value, size)

    def stream(self, **given: Any) -> Stream:
        checked(real.cuda.Stream.__init__.__doc__, (), given)
        self.next += 1
        return Stream(self, self.next)

    def external(self, other: Any) -> Stream:
        version, ptr = other.__cuda_stream__()
        assert version == 0
        return Stream(self, ptr)

    def event(self, **given: Any) -> Event:
        checked(real.cuda.Event.__init__.__doc__, (), given)
        return Event(self)

    def module(self) -> SimpleNamespace:
        return SimpleNamespace(
            load=like("cuda.function.Module.load")(
                lambda cubin: self.log.append(("load", bytes(cubin[:4])))
            ),
            get_function=like("cuda.function.Module.get_function")(self.function),
        )

    def function(self, name: str) -> Any:
        def launched(grid: Any, block: Any, args: Any, shared_mem: int, stream: Stream) -> None:
            self.log.append((name, stream.ptr, grid, block, args, shared_mem))
            if self.fault:
                raise CUDARuntimeError(self.fault)

        launched.ptr = 7  # type: ignore[attr-defined]
        return launched

    def create(self) -> int:
        self.next += 1
        self.log.append(("create", self.next))
        return self.next

    def gemm(
        self, handle: int, transa: int, transb: int, m: int, n: int, k: int, alpha: int, a: int,
        atype: int, lda: int, step_a: int, b: int, btype: int, ldb: int, step_b: int, beta: int,
        c: int, ctype: int, ldc: int, step_c: int, batch: int, compute: int, algorithm: int,
    ) -> None:  # fmt: skip
        """As the BLAS has it, on matrices in column-major order."""
        scale = np.float64 if compute == CUBLAS["CUBLAS_COMPUTE_64F"] else np.float32
        self.log.append(("gemm", self.current[-1].ptr, handle, np.dtype(scale).name))
        one, zero = (matrix(p, 1, 1, 1, np.dtype(scale))[0, 0] for p in (alpha, beta))
        x, y, z = TYPES[atype], TYPES[btype], TYPES[ctype]
        for i in range(batch):
            p, q = a + i * step_a * x.itemsize, b + i * step_b * y.itemsize
            r = c + i * step_c * z.itemsize
            left = matrix(p, k, m, lda, x).T if transa else matrix(p, m, k, lda, x)
            right = matrix(q, n, k, ldb, y).T if transb else matrix(q, k, n, ldb, y)
            out = matrix(r, m, n, ldc, z)
            found = one * (left.astype(scale) @ right.astype(scale))
            out[...] = (found + zero * out.astype(scale) if zero else found).astype(z)

    def gemms(
        self, dtype: Any, handle: int, transa: int, transb: int, m: int, n: int, k: int, alpha: int,
        a: int, lda: int, b: int, ldb: int, beta: int, c: int, ldc: int, batch: int,
    ) -> None:  # fmt: skip
        """The same for matrices whose addresses lie in memory."""
        number = next(n for n, known in TYPES.items() if known == dtype)
        wide = CUBLAS["CUBLAS_COMPUTE_64F" if dtype == np.float64 else "CUBLAS_COMPUTE_32F"]
        words = (np.frombuffer((ctypes.c_uint64 * batch).from_address(p), np.uint64)
                 for p in (a, b, c))  # fmt: skip
        for x, y, z in zip(*words, strict=True):
            self.gemm(handle, transa, transb, m, n, k, alpha, int(x), number, lda, 0, int(y),
                      number, ldb, 0, beta, int(z), number, ldc, 0, 1, wide, -1)  # fmt: skip

    def array(self, shape: tuple[int, ...], dtype: Any, memptr: Pointer) -> np.ndarray[Any, Any]:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return memptr.memory[memptr.offset : memptr.offset + size].view(dtype).reshape(shape)

    def from_dlpack(self, array: Any) -> Any:
        self.log.append(("dlpack", self.current[-1].ptr))
        return np.from_dlpack(array)

    def contiguous(self, array: np.ndarray[Any, Any]) -> SimpleNamespace:
        whole = np.ascontiguousarray(array)
        pointer = Pointer(whole.reshape(-1).view(np.uint8))
        return SimpleNamespace(
            data=pointer, shape=whole.shape, dtype=whole.dtype, nbytes=whole.nbytes
        )


def matrix(
    address: int, rows: int, columns: int, lead: int, dtype: np.dtype[Any]
) -> np.ndarray[Any, Any]:
    """A matrix in column-major order that lies somewhere."""
    assert lead >= rows
    size = ((columns - 1) * lead + rows) * dtype.itemsize
    flat = np.frombuffer((ctypes.c_char * size).from_address(address), dtype)
    steps = (dtype.itemsize, lead * dtype.itemsize)
    return np.lib.stride_tricks.as_strided(flat, (rows, columns), steps)
