"""`EmulatedDevice`: what `backends.cuda.device.Device` asks, on the CPU."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from backends.cuda.device import (
    Array,
    DeviceError,
    Grid,
    Keep,
    Limits,
    Product,
    Span,
    words_of,
)
from backends.cuda.emulator import libraries
from backends.cuda.emulator.build import temporary
from backends.cuda.emulator.compiler import Kernel, compile_unit
from backends.cuda.emulator.engine import EmulatedBuffer, engine, view
from backends.cuda.emulator.launches import check, operands
from backends.cuda.emulator.libraries import Operand
from backends.cuda.emulator.order import Order, Use
from backends.cuda.emulator.streams import EmulatedStream, Item, Work, again, drain, wait
from staging.interpret import numpy_dtype


@dataclass(eq=False, slots=True)
class EmulatedMoment:
    """When a stream got so far.

    Attributes:
        stream: which one.
        seconds: on the clock of the machine; None until then.
    """

    stream: EmulatedStream
    seconds: float | None = None

    def pass_by(self) -> None:
        """Now it has."""
        self.seconds = time.perf_counter()


@dataclass(eq=False, slots=True)
class EmulatedGraph:
    """Work on several streams that was kept.

    Attributes:
        queues: of each stream.
        uses: the memory that it uses.
    """

    queues: list[deque[Item]]
    uses: list[Use]


class EmulatedDevice:
    """A GPU that is played by the CPU.

    Args:
        seed: what gives the order of threads, blocks and streams.
        folder: where compiled kernels are kept; None: as long as the process lives.
        limits: of the GPU that it plays.
        milliseconds: of the processor's time after which a kernel is taken to be endless.
        races: whether every access of a kernel is checked: whether it lies inside the kernel's
            operands, reads what somebody wrote, and is ordered with those of other threads; and
            whether work on several streams is ordered by waits. This takes some ten times as long.

    Example:
        >>> device = EmulatedDevice()
        >>> source = '''
        ... extern "C" __global__ void double_all(float* x, int n) {
        ...   int i = blockIdx.x * blockDim.x + threadIdx.x;
        ...   if (i < n) x[i] = 2.0f * x[i];
        ... }
        ... '''
        >>> kernel = device.compile(source, ["double_all"])["double_all"]
        >>> x = np.arange(4, dtype=np.float32)
        >>> span = Span(device.empty(x.nbytes), 0, x.nbytes)
        >>> device.to_device(span, x)
        >>> arguments = [np.uint64(span.address), np.int32(4)]
        >>> device.launch(kernel, (1, 1, 1), (32, 1, 1), 0, arguments)
        >>> device.to_host(span, x)
        >>> x
        array([0., 2., 4., 6.], dtype=float32)

        A thread more, and it would write behind the end:

        >>> arguments[1] = np.int32(5)
        >>> device.launch(kernel, (1, 1, 1), (32, 1, 1), 0, arguments)
        >>> device.synchronize()
        Traceback (most recent call last):
            ...
        backends.cuda.device.DeviceError: kernel double_all: ...
    """

    def __init__(
        self,
        seed: int = 0,
        folder: str | None = None,
        limits: Limits | None = None,
        milliseconds: int = 20_000,
        races: bool = False,
    ) -> None:
        self.limits = limits or Limits()
        self.folder = temporary() if folder is None else Path(folder)
        self.milliseconds = milliseconds
        self.races = races
        self.random = random.Random(seed)
        self.default = EmulatedStream()
        self.streams = [self.default]
        self.engine = engine(self.folder).library
        self.order = Order()
        self.captured: list[Use] | None = None  # what is captured now uses

    def _queue(self, stream: EmulatedStream | None) -> EmulatedStream:
        return self.default if stream is None else stream

    def _put(
        self,
        stream: EmulatedStream | None,
        name: str,
        work: Work,
        reads: Iterable[Span] = (),
        writes: Iterable[Span] = (),
    ) -> None:
        """Put work that reads and writes some memory, of which all that is read is known and all
        that is written is known afterwards."""
        reads, writes = list(reads), list(writes)

        def checked() -> None:
            self._known(name, reads)
            work()
            self._wrote(writes)

        self._queue_up(stream, name, checked, [*_uses(reads, False), *_uses(writes, True)])

    def _queue_up(
        self, stream: EmulatedStream | None, name: str, work: Work, uses: list[Use]
    ) -> None:
        queue = self._queue(stream)
        if self.races:
            self.order.put(queue, name, uses)
            if self.captured is not None:
                self.captured += uses
        queue.queue.append(work)

    def _wrote(self, spans: Iterable[Span]) -> None:
        for span in spans:
            self.engine.emulator_wrote(span.address, span.bytes)

    def _known(self, who: str, spans: Iterable[Span]) -> None:
        for number, span in enumerate(spans):
            first = self.engine.emulator_unknown(span.address, span.bytes)
            if first >= 0:
                raise DeviceError(
                    f"{who}: byte {first} of operand {number} is read, which nobody wrote"
                )

    def empty(self, bytes: int, owner: str = "") -> EmulatedBuffer:
        """Allocate memory, full of nan and -1."""
        buffer = EmulatedBuffer(self.engine, bytes, self.races)
        self.order.forget(buffer.address, buffer.address + bytes)
        return buffer

    def to_device(self, target: Span, host: Array, stream: EmulatedStream | None = None) -> None:
        """Copy a contiguous array to the device."""
        data = _bytes(host).copy()
        assert len(data) == target.bytes
        self._put(stream, "to_device", lambda: np.copyto(_memory(target), data), writes=[target])

    def to_host(self, source: Span, host: Array, stream: EmulatedStream | None = None) -> None:
        """Copy to a contiguous array, and wait."""
        assert host.nbytes == source.bytes
        self._put(
            stream, "to_host", lambda: np.copyto(_bytes(host), _memory(source)), reads=[source]
        )
        self.synchronize(self._queue(stream))

    def copy(self, target: Span, source: Span, stream: EmulatedStream | None = None) -> None:
        """Copy inside the device, with what of it is known."""
        assert target.bytes == source.bytes

        def work() -> None:
            np.copyto(_memory(target), _memory(source))
            self.engine.emulator_copied(target.address, source.address, target.bytes)

        self._queue_up(stream, "copy", work, [*_uses([source], False), *_uses([target], True)])

    def fill(self, target: Span, byte: int, stream: EmulatedStream | None = None) -> None:
        """Set every byte."""
        self._put(stream, "fill", lambda: _memory(target).fill(byte), writes=[target])

    def compile(
        self, source: str, names: Sequence[str], keep: Keep | None = None
    ) -> dict[str, Kernel]:
        """Compile CUDA C++ by g++ and load the kernels of these names. Shared objects are files, so
        they are kept in the folder of the device."""
        return compile_unit(source, names, self.folder, self.races)

    def launch(
        self,
        function: Kernel,
        grid: Grid,
        block: Grid,
        shared: int,
        arguments: Sequence[np.generic | Span],
        stream: EmulatedStream | None = None,
    ) -> None:
        """Run a kernel.

        Raises:
            DeviceError: the launch is none that the device allows, or the arguments are not those
                that the kernel takes.
        """
        check(function, grid, block, shared, self.limits)
        memory = operands(self.engine, function, arguments)
        words, seed = words_of(arguments), self.random.getrandbits(32)

        def work(kept: object = arguments) -> None:
            function.run(self.engine, grid, block, shared, words, memory, seed, self.milliseconds)

        ordered = (m for m in memory if isinstance(arguments[m.argument], Span))
        uses = [Use(m.begin, m.end, bool(m.written)) for m in ordered]
        self._queue_up(stream, f"kernel {function.name}", work, uses)

    def gemm(
        self, product: Product, x: Span, y: Span, out: Span, stream: EmulatedStream | None = None
    ) -> None:
        """A product of matrices, by NumPy."""
        reads = [x, y, out] if product.add else [x, y]
        self._put(stream, "gemm", partial(libraries.gemm, product, x, y, out), reads, [out])

    def gemms(
        self,
        product: Product,
        xs: Sequence[Span],
        ys: Sequence[Span],
        outs: Sequence[Span],
        stream: EmulatedStream | None = None,
    ) -> None:
        """A batch of products of matrices that lie anywhere, by NumPy."""
        work = partial(libraries.gemms, product, xs, ys, outs)
        self._put(stream, "gemms", work, [*xs, *ys], outs)

    def linalg(
        self,
        kind: str,
        inputs: Sequence[Operand],
        outputs: Sequence[Operand],
        stream: EmulatedStream | None = None,
    ) -> bool:
        """A decomposition of matrices, by NumPy; waits for the stream."""
        found: list[bool] = []
        self._put(
            stream,
            f"linalg.{kind}",
            lambda: found.append(libraries.linalg(kind, inputs, outputs)),
            [span for span, _, _ in inputs],
            [span for span, _, _ in outputs],
        )
        self.synchronize(self._queue(stream))
        return found[0]

    @contextmanager
    def external(self, stream: EmulatedStream) -> Iterator[None]:
        """A context in which another stream is the default one."""
        before, self.default = self.default, stream
        try:
            yield
        finally:
            self.default = before

    def current(self) -> EmulatedStream:
        """The default stream."""
        return self.default

    def stream(self) -> EmulatedStream:
        """A new stream."""
        self.streams.append(EmulatedStream())
        return self.streams[-1]

    def wait(self, stream: EmulatedStream | None, other: EmulatedStream | None) -> None:
        """What is put into a stream from now on waits for all that is in the other one now."""
        wait(self._queue(stream), self._queue(other))
        self.order.wait(self._queue(stream), self._queue(other))

    def synchronize(self, stream: EmulatedStream | None = None) -> None:
        """Do what is in a stream, or in all."""
        wanted = self.streams if stream is None else [stream]
        drain(wanted, self.streams, self.random)
        self.order.waited(wanted)

    def mark(self, stream: EmulatedStream | None = None) -> EmulatedMoment:
        """The moment when all that is in a stream now is done."""
        moment = EmulatedMoment(self._queue(stream))
        self._queue_up(stream, "mark", moment.pass_by, [])
        return moment

    def elapsed(self, first: EmulatedMoment, last: EmulatedMoment) -> float:
        """The seconds between two moments, of the machine that plays the GPU."""
        for moment in (first, last):
            self.synchronize(moment.stream)
        assert first.seconds is not None and last.seconds is not None
        return last.seconds - first.seconds

    def capture(self, work: Callable[[], None], stream: EmulatedStream) -> EmulatedGraph:
        """Keep what ``work`` puts into streams instead of doing it."""
        before = {each: each.queue for each in self.streams}
        for each in self.streams:
            each.queue = deque()
        self.captured, order = [], self.order
        self.order = Order()
        try:
            work()
            return EmulatedGraph([each.queue for each in self.streams], self.captured)
        finally:
            self.captured, self.order = None, order
            for each in self.streams:
                each.queue = before.get(each, deque())  # work may have made streams

    def replay(self, graph: EmulatedGraph, stream: EmulatedStream | None = None) -> None:
        """Do what was captured, in an order that its waits allow."""

        def work() -> None:
            streams = again(graph.queues)
            drain(streams, streams, self.random)

        self._queue_up(stream, "replay", work, graph.uses)

    @property
    def kind(self) -> tuple[int, int]:
        """Main memory, as far as others know."""
        return 1, 0

    def adopt(self, array: object) -> tuple[Span, tuple[int, ...], str]:
        """A copy of another library's array."""
        host = np.array(array, order="C")
        span = Span(self.empty(host.nbytes), 0, host.nbytes)
        self.to_device(span, host)
        return span, host.shape, host.dtype.name

    def lend(self, span: Span, shape: tuple[int, ...], dtype: str) -> Array:
        """A copy for other libraries."""
        host = np.empty(shape, numpy_dtype(dtype))
        self.to_host(span, host)
        return host


def _uses(spans: Iterable[Span], written: bool) -> list[Use]:
    return [Use(span.address, span.address + span.bytes, written) for span in spans]


def _memory(span: Span) -> Array:
    return view(span, (span.bytes,), np.dtype(np.uint8))


def _bytes(host: Array) -> Array:
    assert host.flags.c_contiguous
    return host.reshape(-1).view(np.uint8)
