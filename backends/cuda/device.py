"""What the backend asks of a GPU: one class of about ten methods, which `runtime` fulfils by CuPy
and `emulator` on the CPU, so that all that happens on the host is tested without a GPU.

Memory is bytes: a `Buffer` is allocated memory of the device, a `Span` a part of one. What a kernel
is given is a span, or a number of a NumPy dtype, never a Python number, whose width would be a
guess.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import numpy as np

Array = np.ndarray[Any, Any]
Grid = tuple[int, int, int]
ALIGNED = 16  # bytes of the widest access of a thread: at a multiple of them lies what kernels read


class Limits(NamedTuple):
    """What one architecture allows; the numbers are those of the CUDA C++ Programming Guide.

    Attributes:
        architecture: such as ``"sm_90"``.
        threads: the most of a block.
        shared: the most bytes of shared memory of a block, after it is asked for.
        registers: the most of a thread.
        grid: the most blocks along x, y and z.
        processors: streaming multiprocessors.
        resident: the most threads that a multiprocessor holds.
        blocks: the most blocks that it holds.
        file: the registers that it has.
        memory: the bytes of shared memory that it has; each block takes 1024 besides its own.
    """

    architecture: str = "sm_90"
    threads: int = 1024
    shared: int = 227 * 1024
    registers: int = 255
    grid: Grid = (2**31 - 1, 65535, 65535)
    processors: int = 132
    resident: int = 2048
    blocks: int = 32
    file: int = 64 * 1024
    memory: int = 228 * 1024


class Buffer(Protocol):
    """Memory of a device; it is given back when nothing refers to it."""

    @property
    def address(self) -> int:
        """Where it begins, at a multiple of 256 bytes."""
        ...

    @property
    def bytes(self) -> int:
        """How long it is."""
        ...

    @property
    def lent(self) -> bool:
        """Whether other libraries know of it, too: then no result may be written over it."""
        ...


class Span(NamedTuple):
    """A part of a buffer."""

    buffer: Buffer
    offset: int
    bytes: int

    @property
    def address(self) -> int:
        """Where it begins."""
        return self.buffer.address + self.offset

    def part(self, offset: int, bytes: int) -> Span:
        """A part of this part."""
        assert offset >= 0 and offset + bytes <= self.bytes
        return Span(self.buffer, self.offset + offset, bytes)


def words_of(arguments: Sequence[np.generic | Span]) -> list[np.generic]:
    """What a kernel is given: addresses in place of spans."""
    return [np.uint64(a.address) if isinstance(a, Span) else a for a in arguments]


class Stream(Protocol):
    """A queue of work: what stands in it is done in order."""


class Keep(Protocol):
    """Where machine code is kept between processes."""

    def get(self, key: str) -> bytes | None: ...
    def put(self, key: str, data: bytes) -> None: ...


class Moment(Protocol):
    """When all that stood in a stream was done."""


class Graph(Protocol):
    """Work that is done again as one, without asking the host."""


class Function(Protocol):
    """A kernel that is compiled and loaded."""

    @property
    def name(self) -> str: ...


class Product(NamedTuple):
    """A product of row-major matrices, or of a batch of them one behind the other: out = x @ y.

    Attributes:
        batch: how many.
        m, n, k: rows, columns, inner length.
        transpose_x, transpose_y: whether x lies as (k, m), y as (n, k).
        dtype: of the operands.
        out: of the result; products of narrow floats are accumulated in float32.
        add: whether the product is added to what is there.
        repeat_x, repeat_y: whether the batch has one and the same x, or y.
    """

    batch: int
    m: int
    n: int
    k: int
    transpose_x: bool
    transpose_y: bool
    dtype: str
    out: str
    add: bool = False
    repeat_x: bool = False
    repeat_y: bool = False


class Device(Protocol):
    """A GPU, or what behaves like one. Work is put into a stream (None: the default one) and done
    later; `to_host` and `synchronize` wait."""

    limits: Limits

    def empty(self, bytes: int, owner: str = "") -> Buffer:
        """Allocate memory, whose content nobody knows.

        Args:
            bytes: how much.
            owner: what it is for, in a few words: said when there is no more.

        Raises:
            MemoryError: there is no more; says who holds what.
        """
        ...

    def to_device(self, target: Span, host: Array, stream: Stream | None = None) -> None:
        """Copy a contiguous array to the device; it may be changed once this returns."""
        ...

    def to_host(self, source: Span, host: Array, stream: Stream | None = None) -> None:
        """Copy to a contiguous array, and wait until that is done."""
        ...

    def copy(self, target: Span, source: Span, stream: Stream | None = None) -> None:
        """Copy inside the device; the two are equally long and do not overlap."""
        ...

    def fill(self, target: Span, byte: int, stream: Stream | None = None) -> None:
        """Set every byte."""
        ...

    def compile(
        self, source: str, names: Sequence[str], keep: Keep | None = None
    ) -> dict[str, Function]:
        """Compile a translation unit of CUDA C++, or find it where machine code is kept, and load
        the kernels of these names."""
        ...

    def launch(
        self,
        function: Function,
        grid: Grid,
        block: Grid,
        shared: int,
        arguments: Sequence[np.generic | Span],
        stream: Stream | None = None,
    ) -> None:
        """Run a kernel; ``shared`` is the bytes of dynamic shared memory. Of a span the address is
        given, as uint64, and its memory is not given back before the kernel is done; who plays a
        device knows by it what the kernel may read and write. A bare address is given of what
        kernels on several streams change by atomics, in any order."""
        ...

    def gemm(
        self, product: Product, x: Span, y: Span, out: Span, stream: Stream | None = None
    ) -> None:
        """A product of matrices, by the vendor's library."""
        ...

    def gemms(
        self,
        product: Product,
        xs: Sequence[Span],
        ys: Sequence[Span],
        outs: Sequence[Span],
        stream: Stream | None = None,
    ) -> None:
        """A batch of products of float32 or float64, each of whose matrices lies where it likes, as
        one piece of work."""
        ...

    def linalg(
        self,
        kind: str,
        inputs: Sequence[tuple[Span, tuple[int, ...], str]],
        outputs: Sequence[tuple[Span, tuple[int, ...], str]],
        stream: Stream | None = None,
    ) -> bool:
        """A decomposition of matrices (`staging.linalg`), by the vendor's library; each operand
        with its shape and dtype. Returns whether every matrix has one."""
        ...

    def current(self) -> Stream:
        """The stream that is meant here and now where none is given."""
        ...

    def stream(self) -> Stream:
        """A new stream, which waits for no other one by itself."""
        ...

    def wait(self, stream: Stream | None, other: Stream | None) -> None:
        """What is put into a stream from now on waits for all that is in the other one now."""
        ...

    def synchronize(self, stream: Stream | None = None) -> None:
        """Wait for a stream, or for all.

        Raises:
            DeviceError: something that was launched failed.
        """
        ...

    def mark(self, stream: Stream | None = None) -> Moment:
        """The moment when all that is in a stream now is done."""
        ...

    def elapsed(self, first: Moment, last: Moment) -> float:
        """The seconds between two moments; waits for the last one."""
        ...

    def capture(self, work: Callable[[], None], stream: Stream) -> Graph:
        """Keep what ``work`` puts into a stream instead of doing it.

        ``work`` may use other streams that wait for this one first, and that this one waits for in
        the end. It allocates nothing, copies nothing from or to the host and waits for nothing.
        """
        ...

    def replay(self, graph: Graph, stream: Stream | None = None) -> None:
        """Do what was captured, on the same memory, as one piece of work in a stream."""
        ...

    def external(self, stream: Any) -> AbstractContextManager[object]:
        """A context in which a stream of another library is meant where none is given.

        Args:
            stream: its address, or an object that has it: ``__cuda_stream__`` (the CUDA stream
                protocol), ``ptr`` (CuPy) or ``cuda_stream`` (PyTorch).
        """
        ...

    @property
    def kind(self) -> tuple[int, int]:
        """What it is called in DLPack: its type and number."""
        ...

    def adopt(self, array: Any) -> tuple[Span, tuple[int, ...], str]:
        """The memory of another library's array, with its shape and dtype. It is not copied where
        it is on the device and contiguous. The default stream waits for what the other library
        still does to it.

        Args:
            array: an object with ``__dlpack__`` or ``__cuda_array_interface__``.
        """
        ...

    def lend(self, span: Span, shape: tuple[int, ...], dtype: str) -> Any:
        """Memory as an array that other libraries take, by ``__dlpack__`` and, on a GPU, by
        ``__cuda_array_interface__``; it keeps the memory alive."""
        ...


class DeviceError(RuntimeError):
    """Something failed on the device."""
