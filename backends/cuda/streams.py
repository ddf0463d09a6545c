"""In which stream each piece of work goes, and what it waits for there.

Work depends on what wrote, before, the bytes that it reads, and on what read or wrote the bytes
that it writes: by address, so memory that is used again counts as well. What depends on nothing
that is still under way may go beside it, in a stream of its own.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from backends.cuda.device import Device, Span, Stream


@dataclass(slots=True)
class Segment:
    """Bytes that are used alike: who wrote them last, and who has read them since, as positions in
    streams.

    Attributes:
        start, end: addresses.
        writer: a stream and a position in it; None if nothing of the call has written there.
        readers: the last position in each stream.
    """

    start: int
    end: int
    writer: tuple[int, int] | None = None
    readers: dict[int, int] = field(default_factory=dict[int, int])


class Segments:
    """All bytes that a call has used, in segments that do not overlap, ascending."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.all: list[Segment] = []

    def over(self, span: Span) -> list[Segment]:
        """The segments of a span; those that it cuts are cut in two."""
        start, end = span.address, span.address + span.bytes
        found: list[Segment] = []
        self.cut(start)
        self.cut(end)
        i = bisect_right(self.starts, start)
        i -= bool(i and self.starts[i - 1] == start)
        while start < end:
            upto = min(end, self.starts[i]) if i < len(self.starts) else end
            if upto > start:
                self.insert(i, Segment(start, upto))
            found.append(self.all[i])
            start = self.all[i].end
            i += 1
        return found

    def cut(self, at: int) -> None:
        """Let a segment end at an address, if one goes on beyond it."""
        i = bisect_right(self.starts, at) - 1
        if i >= 0 and self.starts[i] < at < self.all[i].end:
            whole = self.all[i]
            self.insert(i + 1, Segment(at, whole.end, whole.writer, dict(whole.readers)))
            whole.end = at

    def insert(self, i: int, segment: Segment) -> None:
        self.starts.insert(i, segment.start)
        self.all.insert(i, segment)


class Streams:
    """The streams of a call; the first one is the default one, in which it begins and ends.

    Args:
        device: whose they are.
        others: the streams beside the default one.
    """

    def __init__(self, device: Device, others: Sequence[Stream]) -> None:
        self.device = device
        self.streams: list[Stream | None] = [None, *others]
        self.segments = Segments()
        count = len(self.streams)
        self.last = [0] * count  # the last position in each
        self.used = [0] * count  # when something was put into each, for the one that rests longest
        self.known = [[0] * count for _ in range(count)]  # up to where each waits for each
        self.last[0] = 1  # what was in the default stream before
        self.clock = 0

    def place(self, reads: Iterable[Span], writes: Iterable[Span]) -> Stream | None:
        """The stream for work that reads and writes some memory; it waits there for all that the
        work depends on."""
        if len(self.streams) == 1:
            return None
        read = [s for span in reads if span.bytes for s in self.segments.over(span)]
        written = [s for span in writes if span.bytes for s in self.segments.over(span)]
        before = {0: 1}
        for segment in (*read, *written):
            if segment.writer is not None:
                at, position = segment.writer
                before[at] = max(before.get(at, 0), position)
        for segment in written:
            for at, position in segment.readers.items():
                before[at] = max(before.get(at, 0), position)
        chosen = self.chosen(before)
        for at, position in before.items():
            if at != chosen and self.known[chosen][at] < position:
                self.wait(chosen, at)
        self.clock += 1
        self.used[chosen] = self.clock
        self.last[chosen] += 1
        for segment in read:
            segment.readers[chosen] = self.last[chosen]
        for segment in written:
            segment.writer = chosen, self.last[chosen]
            segment.readers = {}
        return self.streams[chosen]

    def chosen(self, before: dict[int, int]) -> int:
        """Where work goes on that depends on positions in streams: behind what it depends on, if
        that is the last in its stream, which then nobody has to wait for; else where nothing was
        put for the longest time."""
        ends = [at for at, position in before.items() if position == self.last[at]]
        if ends:
            return max(ends, key=lambda at: self.used[at])
        return min(range(len(self.streams)), key=lambda at: self.used[at])

    def wait(self, stream: int, other: int) -> None:
        """Let a stream wait for another one, and so for all that this has waited for."""
        self.device.wait(self.streams[stream], self.streams[other])
        both = zip(self.known[stream], self.known[other], strict=True)
        self.known[stream] = [max(a, b) for a, b in both]
        self.known[stream][other] = self.last[other]

    def join(self) -> None:
        """Let the default stream wait for all."""
        for at in range(1, len(self.streams)):
            if self.last[at] and self.known[0][at] < self.last[at]:
                self.wait(0, at)
