"""`CupyDevice`: a real GPU through CuPy. This is the only module that imports it.

The default stream is CuPy's current one, so ``with cupy.cuda.Stream():`` is honoured, and so is any
stream of another library (`external`). CuPy's functions for cuBLAS and cuSOLVER take their stream
from there, too: where another one is meant, it is made the current one for that call.
"""

from __future__ import annotations

import ctypes
import importlib
import sys
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backends.cuda.addresses import WORD, Addresses, Captured
from backends.cuda.device import (
    ALIGNED,
    Array,
    DeviceError,
    Function,
    Grid,
    Keep,
    Limits,
    Product,
    Span,
    Stream,
    words_of,
)
from backends.cuda.limits import STATIC, Usage, check_launch
from backends.cuda.nvrtc import INSTALL, compiled
from staging.table import quantity

OLDEST = (14, 0)  # of CuPy: bfloat16, and streams of others
CAPABILITY = 80  # of the oldest GPU that kernels are written for
NO_REDUCED_PRECISION = 16  # CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION; no TF32 by default
DATA = {"float16": "16F", "bfloat16": "16BF", "float32": "32F", "float64": "64F"}
ATTRIBUTES = {
    "threads": "MaxThreadsPerBlock",
    "shared": "MaxSharedMemoryPerBlockOptin",
    "processors": "MultiProcessorCount",
    "resident": "MaxThreadsPerMultiProcessor",
    "blocks": "MaxBlocksPerMultiprocessor",
    "file": "MaxRegistersPerMultiprocessor",
    "memory": "MaxSharedMemoryPerMultiprocessor",
}


class DeviceMissing(DeviceError):
    """There is no GPU, or something that is needed to use it is not installed."""


def has_driver() -> bool:
    """Whether there is a driver, and so, most likely, a GPU: without it nothing else is needed to
    know that there is none."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def load() -> Any:
    """CuPy, if it can use a GPU.

    Raises:
        DeviceMissing: it cannot; says what is missing and how to get it.
    """
    try:
        cupy = importlib.import_module("cupy")
    except ImportError:
        raise DeviceMissing(
            f"backend 'cuda' needs CuPy, which is not installed: {INSTALL}"
        ) from None
    found = tuple(int(n) for n in cupy.__version__.split(".")[:2])
    if found < OLDEST:
        raise DeviceMissing(
            f"backend 'cuda' needs CuPy {'.'.join(map(str, OLDEST))} or newer, and finds "
            f"{cupy.__version__}: {INSTALL}"
        )
    runtime = cupy.cuda.runtime
    try:
        devices = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as problem:
        raise DeviceMissing(explained(runtime.driverGetVersion(), runtime, problem)) from None
    if not devices:
        raise DeviceMissing("backend 'cuda' finds no GPU: CUDA_VISIBLE_DEVICES may hide them all")
    try:
        importlib.import_module("cupy_backends.cuda.libs.cublas")
    except ImportError as problem:
        reason = str(problem).partition("\n")[0]
        raise DeviceMissing(f"CuPy finds no cuBLAS ({reason}): {INSTALL}") from None
    return cupy


def explained(driver: int, runtime: Any, problem: Exception) -> str:
    """Why CUDA finds no device."""
    if not driver:
        return (
            "backend 'cuda' finds no NVIDIA driver: this machine has no GPU, or its driver is not "
            "installed. backend='llvm' runs on the CPU; backend='cuda-emulated' runs the kernels "
            "there, slowly, for tests"
        )
    built, known = (f"{n // 1000}.{n % 1000 // 10}" for n in (runtime.runtimeGetVersion(), driver))
    if driver // 1000 < runtime.runtimeGetVersion() // 1000:
        return (
            f"the NVIDIA driver knows CUDA {known}, and this CuPy is built for {built}: install a "
            f"newer driver, or {INSTALL}"
        )
    return f"backend 'cuda' cannot use the GPU: {problem}"


@dataclass(slots=True, eq=False, weakref_slot=True)
class Memory:
    """A `Buffer` of CuPy's pool, or memory of someone else's.

    Attributes:
        pointer: CuPy's `MemoryPointer`, which owns it or keeps its owner.
        address, bytes: where it is.
        owner: what it is for.
        lent: whether other libraries know of it, too.
    """

    pointer: Any
    address: int
    bytes: int
    owner: str
    lent: bool = False


@dataclass(slots=True, eq=False)
class Loaded:
    """A kernel of a module that is loaded.

    Attributes:
        name: of the kernel.
        function: CuPy's `Function`, which keeps its module.
        usage: what it takes.
        dynamic: the most bytes of shared memory that it may be launched with.
        allowed: the launches that were found to be within the limits.
    """

    name: str
    function: Any
    usage: Usage
    dynamic: int = STATIC
    allowed: set[tuple[Grid, Grid, int]] = field(default_factory=set[Any])


class CupyDevice:
    """The GPU that is CuPy's current device when this is made; see `device.Device`.

    Raises:
        DeviceMissing: there is none that can be used.
    """

    def __init__(self) -> None:
        self.cupy = load()
        self.runtime = self.cupy.cuda.runtime
        self.limits = limits_of(self.cupy)
        self.held: weakref.WeakSet[Memory] = weakref.WeakSet()
        self.handles: dict[int, int] = {}
        self.addresses = Addresses(self.cupy, self.stream)
        self.scales = {
            (dtype, number): np.full(1, number, dtype)
            for dtype in ("float32", "float64")
            for number in (0, 1)
        }

    @property
    def name(self) -> str:
        """What the GPU is called."""
        return self.runtime.getDeviceProperties(self.cupy.cuda.Device().id)["name"].decode()

    def queue(self, stream: Stream | None) -> Any:
        """A stream of CuPy's: for None its current one."""
        return self.cupy.cuda.get_current_stream() if stream is None else stream

    # Memory.

    def empty(self, bytes: int, owner: str = "") -> Memory:
        try:
            pointer = self.cupy.cuda.alloc(max(bytes, 1))
        except MemoryError:
            raise MemoryError(self.shortage(bytes, owner)) from None
        memory = Memory(pointer, pointer.ptr, bytes, owner)
        self.held.add(memory)
        return memory

    def shortage(self, bytes: int, owner: str) -> str:
        """What to say when there is no memory left."""
        free, total = self.runtime.memGetInfo()
        owners: dict[str, int] = {}
        for memory in self.held:
            owners[memory.owner] = owners.get(memory.owner, 0) + memory.bytes
        ordered = sorted(owners.items(), key=lambda one: (-one[1], one[0]))
        shown = [f"\n  {quantity(n, 'B')}: {name or 'not named'}" for name, n in ordered]
        rest = max(total - free - sum(owners.values()), 0)
        return (
            f"the GPU has no memory left for {quantity(bytes, 'B')}"
            f"{f' ({owner})' if owner else ''}: of {quantity(total, 'B')}, "
            f"{quantity(free, 'B')} are free. It is held by{''.join(shown)}"
            f"\n  {quantity(rest, 'B')}: other arrays of CuPy's, its pool, and other programs"
            "\ndonate arguments (ln.compile(donate=...)), run steps again instead of keeping what "
            "they compute (ln.checkpoint), or take smaller batches"
        )

    def to_device(self, target: Span, host: Array, stream: Stream | None = None) -> None:
        runtime, queue = self.runtime, self.queue(stream)
        assert host.flags.c_contiguous and host.nbytes == target.bytes
        if not host.nbytes:
            return
        source = host.ctypes.data
        kind = runtime.memcpyHostToDevice
        runtime.memcpyAsync(target.address, source, target.bytes, kind, queue.ptr)
        # CUDA has copied pageable memory aside by now; what is pinned it reads when its turn comes.
        if runtime.pointerGetAttributes(source).type != runtime.memoryTypeUnregistered:
            queue.synchronize()

    def to_host(self, source: Span, host: Array, stream: Stream | None = None) -> None:
        queue = self.queue(stream)
        assert host.flags.c_contiguous and host.nbytes == source.bytes
        with Failures("a copy to the host"):
            if host.nbytes:
                kind = self.runtime.memcpyDeviceToHost
                self.runtime.memcpyAsync(
                    host.ctypes.data, source.address, source.bytes, kind, queue.ptr
                )
            queue.synchronize()

    def copy(self, target: Span, source: Span, stream: Stream | None = None) -> None:
        assert target.bytes == source.bytes
        if source.bytes:
            kind = self.runtime.memcpyDeviceToDevice
            where = self.queue(stream).ptr
            self.runtime.memcpyAsync(target.address, source.address, source.bytes, kind, where)

    def fill(self, target: Span, byte: int, stream: Stream | None = None) -> None:
        if target.bytes:
            self.runtime.memsetAsync(target.address, byte, target.bytes, self.queue(stream).ptr)

    # Kernels.

    def compile(
        self, source: str, names: Sequence[str], keep: Keep | None = None
    ) -> dict[str, Function]:
        code = compiled(source, self.limits.architecture, keep)
        module = self.cupy.cuda.function.Module()
        module.load(code.cubin)
        return {name: Loaded(name, module.get_function(name), code.usage[name]) for name in names}

    def launch(
        self,
        function: Any,
        grid: Grid,
        block: Grid,
        shared: int,
        arguments: Sequence[np.generic | Span],
        stream: Stream | None = None,
    ) -> None:
        if (grid, block, shared) not in function.allowed:
            self.allow(function, grid, block, shared)
        # CuPy would pass a Python int as eight bytes, whatever the kernel takes.
        words = words_of(arguments)
        assert all(isinstance(one, np.generic) for one in words)
        with Failures(function.name):
            function.function(grid, block, tuple(words), shared, self.queue(stream))

    def allow(self, function: Loaded, grid: Grid, block: Grid, shared: int) -> None:
        """Check a launch, and ask for the shared memory that it takes."""
        check_launch(function.name, self.limits, function.usage, grid, block, shared)
        if shared > function.dynamic:
            driver = self.cupy.cuda.driver
            attribute = driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            driver.funcSetAttribute(function.function.ptr, attribute, shared)
            function.dynamic = shared
        function.allowed.add((grid, block, shared))

    # Libraries.

    def gemm(
        self, product: Product, x: Span, y: Span, out: Span, stream: Stream | None = None
    ) -> None:
        """Row-major out = x @ y is, as cuBLAS lays matrices out, out' = y' @ x'."""
        batch, m, n, k = product.batch, product.m, product.n, product.k
        if not batch * m * n:
            return
        if not k:
            if not product.add:
                self.fill(out, 0, stream)
            return
        queue = self.queue(stream)
        wide = product.dtype == "float64"
        scale = "float64" if wide else "float32"
        operand, result = (
            getattr(self.runtime, f"CUDA_R_{DATA[dtype]}") for dtype in (product.dtype, product.out)
        )
        with queue, Failures(str(product)):
            cublas = self.cupy.cuda.cublas
            cublas.gemmStridedBatchedEx(
                self.handle(queue),
                cublas.CUBLAS_OP_T if product.transpose_y else cublas.CUBLAS_OP_N,
                cublas.CUBLAS_OP_T if product.transpose_x else cublas.CUBLAS_OP_N,
                n, m, k,
                self.scales[scale, 1].ctypes.data,
                y.address, operand, k if product.transpose_y else n,
                0 if product.repeat_y else k * n,
                x.address, operand, m if product.transpose_x else k,
                0 if product.repeat_x else m * k,
                self.scales[scale, int(product.add)].ctypes.data,
                out.address, result, n, m * n,
                batch,
                cublas.CUBLAS_COMPUTE_64F if wide else cublas.CUBLAS_COMPUTE_32F,
                cublas.CUBLAS_GEMM_DEFAULT,
            )  # fmt: skip

    def gemms(
        self,
        product: Product,
        xs: Sequence[Span],
        ys: Sequence[Span],
        outs: Sequence[Span],
        stream: Stream | None = None,
    ) -> None:
        batch, m, n, k = product.batch, product.m, product.n, product.k
        table = self.addresses.place(
            tuple(span.address for some in (ys, xs, outs) for span in some)
        )
        queue, cublas = self.queue(stream), self.cupy.cuda.cublas
        multiply = cublas.dgemmBatched if product.dtype == "float64" else cublas.sgemmBatched
        with queue, Failures(str(product)):
            multiply(
                self.handle(queue),
                cublas.CUBLAS_OP_T if product.transpose_y else cublas.CUBLAS_OP_N,
                cublas.CUBLAS_OP_T if product.transpose_x else cublas.CUBLAS_OP_N,
                n, m, k,
                self.scales[product.dtype, 1].ctypes.data,
                table, k if product.transpose_y else n,
                table + WORD * batch, m if product.transpose_x else k,
                self.scales[product.dtype, int(product.add)].ctypes.data,
                table + WORD * 2 * batch, n,
                batch,
            )  # fmt: skip

    def handle(self, queue: Any) -> int:
        """The handle of cuBLAS for a stream. Each has one of its own, and with it a work space:
        then the same product gives the same bits, whatever other streams do meanwhile."""
        if queue.ptr not in self.handles:
            cublas = self.cupy.cuda.cublas
            self.handles[queue.ptr] = cublas.create()
            cublas.setMathMode(self.handles[queue.ptr], NO_REDUCED_PRECISION)
        return self.handles[queue.ptr]

    def linalg(
        self,
        kind: str,
        inputs: Sequence[tuple[Span, tuple[int, ...], str]],
        outputs: Sequence[tuple[Span, tuple[int, ...], str]],
        stream: Stream | None = None,
    ) -> bool:
        routine = ROUTINES[kind]
        errors = importlib.import_module("cupyx").errstate
        with self.queue(stream), errors(linalg="raise"), Failures(f"linalg.{kind}"):
            try:
                found = routine(self.cupy.linalg, *(self.view(*one) for one in inputs))
            except np.linalg.LinAlgError:
                return False
            results = found if isinstance(found, tuple) else (found,)
            for one, result in zip(outputs, results, strict=True):
                self.view(*one)[...] = result
        return True

    # Streams.

    def current(self) -> Any:
        return self.queue(None)

    def stream(self) -> Any:
        return self.cupy.cuda.Stream(non_blocking=True)

    def wait(self, stream: Stream | None, other: Stream | None) -> None:
        event = self.cupy.cuda.Event(disable_timing=True)
        event.record(self.queue(other))
        self.queue(stream).wait_event(event)

    def synchronize(self, stream: Stream | None = None) -> None:
        with Failures("something that was launched before"):
            if stream is None:
                self.runtime.deviceSynchronize()
            else:
                self.queue(stream).synchronize()

    def mark(self, stream: Stream | None = None) -> Any:
        event = self.cupy.cuda.Event()
        event.record(self.queue(stream))
        return event

    def elapsed(self, first: Any, last: Any) -> float:
        with Failures("something that was launched before"):
            last.synchronize()
        return self.cupy.cuda.get_elapsed_time(first, last) / 1e3

    def capture(self, work: Callable[[], None], stream: Any) -> Any:
        self.handle(stream)  # which cannot be made while a stream is captured
        with stream, Failures("what was captured"), self.addresses.held():
            stream.begin_capture()
            try:
                work()
            except BaseException:
                abandon(stream)
                raise
            return Captured(stream.end_capture(), [*self.addresses.slabs])

    def replay(self, graph: Any, stream: Stream | None = None) -> None:
        with Failures("a graph"):
            graph.graph.launch(self.queue(stream))

    def external(self, stream: Any) -> Any:
        return self.cupy.cuda.Stream.from_external(External(stream))

    # Arrays of others.

    def view(self, span: Span, shape: tuple[int, ...], dtype: str) -> Any:
        """Memory as an array of CuPy's."""
        buffer: Any = span.buffer
        return self.cupy.ndarray(shape, self.cupy.dtype(dtype), buffer.pointer + span.offset)

    @property
    def kind(self) -> tuple[int, int]:
        return 2, self.cupy.cuda.Device().id  # kDLCUDA

    def lend(self, span: Span, shape: tuple[int, ...], dtype: str) -> Any:
        memory: Any = span.buffer
        memory.lent = True
        return self.view(span, shape, dtype)

    def adopt(self, array: Any) -> tuple[Span, tuple[int, ...], str]:
        found = (
            self.cupy.from_dlpack(array)
            if hasattr(array, "__dlpack__")
            else self.cupy.asarray(array)
        )
        found = self.cupy.ascontiguousarray(found)
        if found.data.ptr % ALIGNED:
            found = found.copy()
        memory = Memory(found.data, found.data.ptr, found.nbytes, "other libraries", lent=True)
        return Span(memory, 0, found.nbytes), found.shape, str(found.dtype)


class Failures:
    """A context in which what CUDA reports becomes a `DeviceError` that says what failed."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, problem: Any, trace: Any) -> None:
        # CuPy's errors of the runtime, the driver and the libraries share no class of their own.
        if kind is not None and kind.__name__.startswith(("CUDA", "CUBLAS", "CUSOLVER")):
            raise DeviceError(f"{self.what}: {problem}") from problem


@dataclass(frozen=True, slots=True)
class External:
    """A stream of another library, as the CUDA stream protocol has it."""

    stream: Any

    def __cuda_stream__(self) -> tuple[int, int]:
        if hasattr(self.stream, "__cuda_stream__"):
            return self.stream.__cuda_stream__()
        for name in ("ptr", "cuda_stream"):
            if hasattr(self.stream, name):
                return 0, int(getattr(self.stream, name))
        return 0, int(self.stream)


def abandon(stream: Any) -> None:
    """End a capture that failed; CUDA says once more that it did."""
    try:
        stream.end_capture()
    except Exception:  # of the runtime or the driver, as in `Failures`; the first one is raised
        return


def limits_of(cupy: Any) -> Limits:
    """What the current device allows.

    Raises:
        DeviceMissing: it is too old.
    """
    device, runtime = cupy.cuda.Device(), cupy.cuda.runtime
    capability = int(device.compute_capability)
    if capability < CAPABILITY:
        raise DeviceMissing(
            f"this GPU has compute capability {capability / 10:.1f}; lantern's kernels need "
            f"{CAPABILITY / 10:.1f} (A100, RTX 30) or newer"
        )
    found: dict[str, Any] = {
        name: int(
            runtime.deviceGetAttribute(getattr(runtime, f"cudaDevAttr{attribute}"), device.id)
        )
        for name, attribute in ATTRIBUTES.items()
    }
    return Limits(architecture=f"sm_{capability}", **found)


# The routines of `staging.linalg`; CuPy follows NumPy's conventions.
ROUTINES: dict[str, Callable[..., Any]] = {
    "solve": lambda linalg, a, b: linalg.solve(a, b),
    "inv": lambda linalg, a: linalg.inv(a),
    "slogdet": lambda linalg, a: tuple(linalg.slogdet(a)),
    "cholesky": lambda linalg, a: linalg.cholesky(a),
    "eigh": lambda linalg, a: tuple(linalg.eigh(a)),
    "eigvalsh": lambda linalg, a: linalg.eigvalsh(a),
    "qr": lambda linalg, a: tuple(linalg.qr(a, mode="reduced")),
    "complete": lambda linalg, a: linalg.qr(a, mode="complete")[0],
    "svd": lambda linalg, a: tuple(linalg.svd(a, full_matrices=False)),
    "svdvals": lambda linalg, a: linalg.svd(a, compute_uv=False),
}
