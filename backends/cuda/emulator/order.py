"""Which work is before which: two pieces on different streams that use the same memory, one of
which writes, need a `wait` between them, or the host has to have waited for the first one. Here it
is found out when work is put, whatever the order that chance gives it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from backends.cuda.device import DeviceError
from backends.cuda.emulator.streams import EmulatedStream


class Use(NamedTuple):
    """Memory that a piece of work uses.

    Attributes:
        begin, end: addresses.
        written: whether it is written, or only read.
    """

    begin: int
    end: int
    written: bool


Clock = dict[EmulatedStream, int]  # of each stream, how much of its work is before


class Earlier(NamedTuple):
    """A use by work that was put."""

    use: Use
    stream: EmulatedStream
    number: int
    work: str


@dataclass
class Order:
    """What was put into streams, and what is known to be before what comes next in each.

    Example:
        >>> order, a, b = Order(), EmulatedStream(), EmulatedStream()
        >>> order.put(a, "fill", [Use(0, 8, True)])
        >>> order.wait(b, a)
        >>> order.put(b, "copy", [Use(4, 8, False)])
        >>> order.put(a, "fill", [Use(0, 8, True)])
        Traceback (most recent call last):
        backends.cuda.device.DeviceError: fill writes what copy, on another stream, reads, and ...
    """

    known: dict[EmulatedStream, Clock] = field(default_factory=dict)
    counts: Clock = field(default_factory=dict)
    host: Clock = field(default_factory=dict)  # what the host has waited for
    uses: dict[tuple[Use, EmulatedStream], Earlier] = field(default_factory=dict)

    def put(self, stream: EmulatedStream, work: str, uses: Iterable[Use]) -> None:
        """Note a piece of work.

        Raises:
            DeviceError: it disturbs another one, and nothing orders the two.
        """
        uses = [use for use in uses if use.begin < use.end]
        before = joined(self.known.get(stream, {}), self.host)
        for earlier in self.uses.values():
            if before.get(earlier.stream, 0) >= earlier.number:
                continue
            for use in uses:
                if disturbs(use, earlier.use):
                    raise DeviceError(_message(work, use, earlier))
        number = self.counts[stream] = self.counts.get(stream, 0) + 1
        self.known[stream] = {**before, stream: number}
        for use in uses:
            self.uses[use, stream] = Earlier(use, stream, number, work)

    def wait(self, stream: EmulatedStream, other: EmulatedStream) -> None:
        """Note that what comes later in a stream waits for all that is in another one now."""
        self.known[stream] = joined(self.known.get(stream, {}), self.known.get(other, {}))

    def waited(self, streams: Iterable[EmulatedStream]) -> None:
        """Note that the host has waited for streams."""
        for stream in streams:
            self.host = joined(self.host, self.known.get(stream, {}))
        self.uses = {
            key: earlier
            for key, earlier in self.uses.items()
            if self.host.get(earlier.stream, 0) < earlier.number
        }

    def forget(self, begin: int, end: int) -> None:
        """Forget who used memory that now belongs to somebody else."""
        there = Use(begin, end, True)
        self.uses = {k: earlier for k, earlier in self.uses.items() if not disturbs(there, k[0])}


def joined(x: Clock, y: Clock) -> Clock:
    """What is before where both are."""
    return {stream: max(x.get(stream, 0), y.get(stream, 0)) for stream in {**x, **y}}


def disturbs(x: Use, y: Use) -> bool:
    """Whether two uses share memory that one of them writes."""
    return (x.written or y.written) and x.begin < y.end and y.begin < x.end


def _message(work: str, use: Use, earlier: Earlier) -> str:
    verbs = ["reads", "writes"]
    return (
        f"{work} {verbs[use.written]} what {earlier.work}, on another stream, "
        f"{verbs[earlier.use.written]}, and nothing orders the two: a wait is missing"
    )
