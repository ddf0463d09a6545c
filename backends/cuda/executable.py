"""`compile_program`: from a program to a function that a device computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from threading import RLock
from typing import Any, TypeAlias, cast

import numpy as np

from backends.cuda.arrays import DeviceArray
from backends.cuda.control import CONTROL
from backends.cuda.device import Device, Keep, Span
from backends.cuda.graphs import Alias, Graphs
from backends.cuda.host import Host, Loaded, Scope
from backends.cuda.memory import Layout, overwritable
from backends.cuda.module import Module, written
from backends.cuda.queue import Queue
from staging.interpret import numpy_dtype
from staging.ir import Block, IRError, Program, Type
from staging.lengths import bound, sized
from staging.memory import plan_program

Array: TypeAlias = "np.ndarray[Any, Any]"

STREAMS = 4  # in which a call works at most


@dataclass(frozen=True, slots=True)
class Call:
    """A call that is ready: it has all memory that is known of before it runs.

    Attributes:
        block: what is run.
        host: runs it.
        scope: its plan, and the memory that it works in.
        sources: where arguments lie.
        targets: where results shall lie.
    """

    block: Block
    host: Host
    scope: Scope
    sources: Sequence[Span]
    targets: Sequence[Span]

    def perform(self) -> list[Span]:
        """Run it; where its results lie, for what is put into the default stream afterwards."""
        try:
            made = self.host.block(self.block, self.scope, self.sources, self.targets)
        finally:
            self.host.queue.join()
        return cast("list[Span]", made)


class Executable:
    """A program on a device.

    Args:
        program: what was compiled.
        module: what it became.
        device: where it runs.
        apart: whether each value has a buffer of its own, instead of a place in one range.
        streams: how many streams work is put into, beside each other where it is independent.
        careful: whether to wait after each step, so that what fails on the device is reported at
            the operation that caused it.
        keep: where machine code is kept between processes.

    Attributes:
        source: the CUDA C++ that it became.
        kept: for each result, the position of the donated parameter (`Program.donated`) in whose
            memory it lies.
    """

    def __init__(
        self, program: Program, module: Module, device: Device, apart: bool = False,
        streams: int = STREAMS, careful: bool = False, keep: Keep | None = None,
    ) -> None:  # fmt: skip
        self.streams = [device.stream() for _ in range(streams - 1)]
        self.program, self.device, self.careful = program, device, careful
        self.source = module.source
        self.plan = plan_program(program, overwritable)
        self.kept = self.plan.kept
        layout = None if apart else Layout(lambda op: module.scratch.get(op, ()))
        functions = device.compile(module.source, [*module.names.values()], keep)
        self.loaded = Loaded(program.name, device, module, functions, layout)
        self.lock = RLock()
        self.graphs = Graphs(device, self.kept, self.streams, self.prepared)

    def __call__(self, arrays: Sequence[Array | DeviceArray]) -> list[DeviceArray]:
        """Run it.

        Args:
            arrays: an array of the shape and dtype of each parameter, on the host or on the device.
                The memory of donated ones on the device is written over.

        Returns:
            An array on the device for each result.

        Raises:
            IRError: the arrays are not of the parameters' types.
            IndexFailure: a gather or scatter outside its operand; with the user's line.
            MatrixFailure: a matrix that cannot be decomposed.
            RequirementFailure: a `require` that does not hold.
            MemoryError: there is no memory left on the device.
        """
        lengths = self.checked(arrays)
        with self.lock:  # the streams are its own, and may be those of a capture
            made = None if self.careful else self.graphs.run(arrays, lengths)
            if made is None:
                call = self.prepared(self.device, arrays, lengths)
                made = call.perform()
                call.host.check()
        return [
            DeviceArray(self.device, span, sized(v.type.shape, lengths), numpy_dtype(v.type.dtype))
            for span, v in zip(made, self.program.block.results, strict=True)
        ]

    def prepared(
        self,
        device: Device,
        arrays: Sequence[Array | DeviceArray],
        lengths: Mapping[int, int],
        queue: Queue | None = None,
    ) -> Call:
        """Make ready for a call; on another device than the program's own, which stands for that
        while the call is captured, so that it can be done again when its arguments are gone."""
        block, loaded = self.program.block, replace(self.loaded, device=device)
        queue = queue or Queue(device, self.streams, self.careful)
        host = Host(loaded, queue, lengths, CONTROL)
        hold = device is self.device
        sources = [
            self.placed(host, v.type, x, hold) for v, x in zip(block.params, arrays, strict=True)
        ]
        targets = [
            host.frame.fresh(v.type, "results") if kept is None else sources[kept]
            for v, kept in zip(block.results, self.kept, strict=True)
        ]
        scope = Scope(self.plan, host.frame.alone(block, self.plan))
        return Call(block, host, scope, sources, targets)

    def checked(self, arrays: Sequence[Array | DeviceArray]) -> dict[int, int]:
        """The lengths of tables, if the arrays are of the parameters' types."""
        params = self.program.block.params
        if len(arrays) != len(params):
            raise IRError(f"{self.program.name} takes {len(params)} inputs, not {len(arrays)}")
        lengths = bound(params, [x.shape for x in arrays])
        for v, x in zip(params, arrays, strict=True):
            if (x.shape, x.dtype) != (sized(v.type.shape, lengths), numpy_dtype(v.type.dtype)):
                raise IRError(f"{v} was given {x.dtype}{list(x.shape)}")
        return lengths

    def placed(self, host: Host, type: Type, x: Array | DeviceArray, hold: bool) -> Span:
        """An argument on the device; whether it is held as long as this is."""
        if isinstance(x, DeviceArray) and x.device is self.device:
            return x.span if hold else Span(Alias(x.span.address, x.span.bytes), 0, x.span.bytes)
        span = host.frame.fresh(type, "arguments")
        if span.bytes:  # in the default stream, before any work
            data = np.ascontiguousarray(np.asarray(x))
            host.loaded.device.to_device(span, data.reshape(x.shape))
        return span


def compile_program(
    program: Program, device: Device, apart: bool = False, streams: int = STREAMS,
    careful: bool = False, keep: Keep | None = None,
) -> Executable:  # fmt: skip
    """Compile a verified program for a device.

    Args:
        program: what to compile.
        device: where it runs.
        apart: whether each value has a buffer of its own, so that a device that looks for it sees
            every access beyond a value.
        streams: how many streams work is put into; see `Executable`.
        careful: whether to wait after each step; see `Executable`.
        keep: where machine code is kept between processes.

    Raises:
        NotImplementedError: the program has an operation that this backend does not know; the
            message names it and the user's line.
    """
    return Executable(program, written(program), device, apart, streams, careful, keep)


def source_of(program: Program) -> str:
    """The CUDA C++ that a program becomes."""
    return written(program).source
