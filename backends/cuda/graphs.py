"""Programs whose steps the host puts in the same order every time: captured once, then replayed as
one piece of work, so that the host is not what a step waits for.

What is captured works on the same memory every time. Arguments that are on the device lie where
they lie: their addresses tell one capture from another, and a donated one, whose memory a result
takes over, comes back at the same address. Arguments from the host are copied to memory of the
capture's own before it is replayed, and results that lie there are copied out of it afterwards.

A call whose addresses are new runs step by step, and is captured when they come again. A program in
which the host decides something, or that needs memory whose size is not known before, is never
captured (`Unrepeatable`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

import numpy as np

from backends.cuda.arrays import DeviceArray
from backends.cuda.device import Device, Graph, Span, Stream
from backends.cuda.queue import Queue

if TYPE_CHECKING:
    from backends.cuda.executable import Call

Array: TypeAlias = "np.ndarray[Any, Any]"
Arguments: TypeAlias = "Sequence[Array | DeviceArray]"
Key: TypeAlias = "tuple[object, ...]"
Prepare: TypeAlias = "Callable[[Device, Arguments, Mapping[int, int]], Call]"
KEPT = 2  # captures of a program, each of which holds the memory that it works in
REMEMBERED = 16  # addresses of calls
ENOUGH = 32  # captures, after which it is clear that addresses do not come again


CAPTURABLE = frozenset(
    ("limits", "launch", "gemm", "gemms", "copy", "fill", "current", "stream", "wait")
)  # what a device does of which nothing comes to the host, and which takes no memory


class Unrepeatable(Exception):
    """The host takes part in some work while it is being captured."""


class Alias(NamedTuple):
    """A `Buffer` that keeps no memory: a capture knows where arguments lie, not whose they are."""

    address: int
    bytes: int
    lent: bool = True


class Recorder:
    """A device that refuses, while it is closed, what cannot be captured.

    Args:
        device: does the rest.
    """

    def __init__(self, device: Device) -> None:
        self.device, self.closed = device, False

    def __getattr__(self, name: str) -> Any:
        if self.closed and name not in CAPTURABLE:
            raise Unrepeatable(name)
        return getattr(self.device, name)


@dataclass(slots=True)
class Captured:
    """A call that can be done again.

    Attributes:
        call: where everything lies, and what may have failed.
        graph: its work.
        results: where they lie.
        last: the stream in which it was replayed last.
    """

    call: Call
    graph: Graph
    results: Sequence[Span]
    last: Stream


class Graphs:
    """The captured calls of a program.

    Args:
        device: where it runs.
        kept: for each result the argument in whose memory it lies, if there is one.
        streams: beside the default one, for work that is captured.
        prepare: makes ready for a call.

    Attributes:
        repeatable: whether the program can be captured, and it is worth it.
    """

    def __init__(
        self, device: Device, kept: Sequence[int | None], streams: Sequence[Stream],
        prepare: Prepare,
    ) -> None:  # fmt: skip
        self.device, self.kept, self.streams, self.prepare = device, kept, streams, prepare
        self.repeatable = True
        self.met: OrderedDict[Key, None] = OrderedDict()
        self.captured: OrderedDict[Key, Captured] = OrderedDict()
        self.made = 0
        self.own: Stream | None = None  # in which work is captured

    def run(self, arrays: Arguments, lengths: Mapping[int, int]) -> list[Span] | None:
        """Do a call by replaying, if that can be.

        Returns:
            Where its results lie; None if it is to be run step by step.
        """
        if not self.repeatable and not self.captured:
            return None
        key = self.key(arrays, lengths)
        if key not in self.captured and not (
            self.is_due(key) and self.capture(key, arrays, lengths)
        ):
            return None
        self.captured.move_to_end(key)
        return self.replay(self.captured[key], arrays)

    def key(self, arrays: Arguments, lengths: Mapping[int, int]) -> Key:
        """What tells calls apart: where arguments lie, and how long tables are."""
        spans = [self.span(x) for x in arrays]
        return (*(span and span.address for span in spans), *sorted(lengths.items()))

    def span(self, x: Array | DeviceArray) -> Span | None:
        """Where an argument lies; None: not on the device."""
        return x.span if isinstance(x, DeviceArray) and x.device is self.device else None

    def is_due(self, key: Key) -> bool:
        """Whether a call shall be captured: it was met before."""
        if not self.repeatable:
            return False
        if key in self.met:
            return True
        self.met[key] = None
        if len(self.met) > REMEMBERED:
            self.met.popitem(last=False)
        return False

    def capture(self, key: Key, arrays: Arguments, lengths: Mapping[int, int]) -> bool:
        """Capture a call; whether that could be."""
        while len(self.captured) >= KEPT:  # before memory is taken for another one
            self.captured.popitem(last=False)
        recorder, results = Recorder(self.device), list[Span]()
        call = self.prepare(cast(Device, recorder), arrays, lengths)
        words = call.host.words  # taken before, and cleared each time
        call.host.queue = Queue(cast(Device, recorder), self.streams)

        def work() -> None:
            recorder.fill(words, 255)
            results.extend(call.perform())

        if self.own is None:
            self.own = self.device.stream()
        recorder.closed = True
        try:
            graph = self.device.capture(work, self.own)
        except Unrepeatable:
            self.repeatable = False
            return False
        finally:
            recorder.closed = False
        call.host.queue = Queue(self.device)
        self.captured[key] = Captured(call, graph, results, self.device.current())
        self.made += 1
        self.repeatable = self.made < ENOUGH
        return True

    def replay(self, one: Captured, arrays: Arguments) -> list[Span]:
        """Do a call again. What it works in may still be in use by a replay in another stream."""
        now = self.device.current()
        if one.last != now:
            self.device.wait(now, one.last)
            one.last = now
        for x, span in zip(arrays, one.call.sources, strict=True):
            if self.span(x) is None and span.bytes:
                self.device.to_device(span, np.ascontiguousarray(np.asarray(x)).reshape(x.shape))
        self.device.replay(one.graph)
        results = [
            (None if kept is None else self.span(arrays[kept])) or self.copied(span)
            for span, kept in zip(one.results, self.kept, strict=True)
        ]
        one.call.host.checked = 0
        one.call.host.check()
        return results

    def copied(self, span: Span) -> Span:
        """The same bytes in new memory."""
        fresh = Span(self.device.empty(span.bytes, "results"), 0, span.bytes)
        if span.bytes:
            self.device.copy(fresh, span)
        return fresh
