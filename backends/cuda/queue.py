"""A call's work: each step of the program becomes a few calls of the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from backends.cuda.device import Device, DeviceError, Grid, Span, Stream
from backends.cuda.steps import (
    Argument,
    Copy,
    Decompose,
    Failing,
    Fill,
    Gemm,
    Gemms,
    Kernel,
    Launch,
    Length,
    Number,
    Step,
    reads,
)
from backends.cuda.streams import Streams
from staging.interpret import numpy_dtype
from staging.ir import Op, Value
from staging.linalg import decompose

if TYPE_CHECKING:
    from backends.cuda.host import Host

Array: TypeAlias = "np.ndarray[Any, Any]"


class Queue:
    """Puts work on a device.

    Args:
        device: which.
        streams: beside the default one.
        careful: whether to wait after each step, so that what fails on the device is reported at
            the operation that caused it.
    """

    def __init__(
        self, device: Device, streams: Sequence[Stream] = (), careful: bool = False
    ) -> None:
        self.device, self.careful = device, careful
        self.streams = Streams(device, streams)

    def step(self, host: Host, op: Op, step: Step, places: Mapping[Value, Span]) -> None:
        """Put a step of an operation, whose values lie at some places.

        Raises:
            DeviceError: it is none that the device can do; or, if this is careful, it failed.
        """
        try:
            self.put(host, step, places)
            if self.careful:
                self.device.synchronize()
        except DeviceError as problem:
            raise DeviceError(f"{op.name}: {problem}\n  at {op.place}") from problem

    def put(self, host: Host, step: Step, places: Mapping[Value, Span]) -> None:
        """Put a step."""
        match step:
            case Launch():
                self.launch(host, step, places)
            case Gemm():
                x, y, out = (places[v] for v in (step.x, step.y, step.out))
                stream = self.streams.place([places[v] for v in reads(step)], [out])
                self.device.gemm(step.product, x, y, out, stream)
            case Gemms():
                self.products(step, places)
            case Copy():
                self.copy(places[step.target], places[step.source])
            case Fill():
                self.fill(places[step.target], step.byte)
            case Decompose():
                self.decompose(host, step.op, places)

    def products(self, step: Gemms, places: Mapping[Value, Span]) -> None:
        """Put products of equal sizes."""
        xs, ys, outs = ([places[v] for v in some] for some in (step.xs, step.ys, step.outs))
        stream = self.streams.place([*xs, *ys], outs)
        self.device.gemms(step.product, xs, ys, outs, stream)

    def launch(self, host: Host, step: Launch, places: Mapping[Value, Span]) -> None:
        """Put a kernel."""
        grid = step.grid(dict(host.lengths)) if callable(step.grid) else step.grid
        if 0 in grid:
            return
        block = (step.block[0] or step.kernel.threads, *step.block[1:])
        words = [w for a in step.arguments for w in argument(host, a, places)]
        read, written = ([places[v] for v in some] for some in (step.reads, step.writes))
        if any(isinstance(a, Failing) for a in step.arguments):
            read.append(host.words)  # whoever writes there leaves what the others do as it is
        stream = self.streams.place(read, written)
        function = host.loaded.function(step)
        self.device.launch(function, grid, block, step.kernel.dynamic, words, stream)

    def kernel(
        self,
        host: Host,
        kernel: Kernel,
        grid: Grid,
        words: Sequence[np.generic | Span],
        reads: Sequence[Span],
        writes: Sequence[Span],
    ) -> None:
        """Put a kernel of the host's own."""
        function = host.loaded.functions[host.loaded.module.name(kernel)]
        stream = self.streams.place(reads, writes)
        self.device.launch(function, grid, (kernel.threads, 1, 1), kernel.dynamic, words, stream)

    def decompose(self, host: Host, op: Op, places: Mapping[Value, Span]) -> None:
        """Put a decomposition; where a matrix has none, the reference says which."""
        given, made = (
            [(places[v], v.type.shape, v.type.dtype) for v in values]
            for values in (op.inputs, op.results)
        )
        stream = self.streams.place((x[0] for x in given), (y[0] for y in made))
        if not self.device.linalg(str(op.attributes["kind"]), given, made, stream):
            host.check()
            decompose(op, [host.fetch(places[v], v.type) for v in op.inputs])

    def copy(self, target: Span, source: Span) -> None:
        """Put a copy inside the device, unless the one lies where the other does."""
        if target.bytes and target.address != source.address:
            self.device.copy(target, source, self.streams.place((source,), (target,)))

    def fill(self, target: Span, byte: int) -> None:
        """Put a fill."""
        if target.bytes:
            self.device.fill(target, byte, self.streams.place((), (target,)))

    def to_device(self, target: Span, host: Array) -> None:
        """Put a copy to the device."""
        if target.bytes:
            self.device.to_device(target, host, self.streams.place((), (target,)))

    def to_host(self, source: Span, host: Array) -> None:
        """Copy to the host, when all that was put before is done."""
        if source.bytes:
            self.device.to_host(source, host, self.streams.place((source,), ()))

    def join(self) -> None:
        """Let all that was put be done before what is put into the default stream from now on."""
        self.streams.join()


def argument(
    host: Host, given: Argument, places: Mapping[Value, Span]
) -> Sequence[np.generic | Span]:
    """What a kernel is given for an argument."""
    match given:
        case Value():
            return (places[given],)
        case Length():
            return (np.int64(host.lengths[given.number]),)
        case Failing():
            return np.uint64(host.words.address), np.uint32(host.number(given))
        case Number():
            return (numpy_dtype(given.dtype).type(given.value),)
