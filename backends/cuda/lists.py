"""Lists: arrays of one type, of which a loop that runs makes one more with each step."""

from __future__ import annotations

from backends.cuda.device import ALIGNED, Span
from backends.cuda.memory import Frame
from staging.ir import Type

FIRST = 4096  # bytes of the first chunk


def aligned(bytes: int) -> int:
    """As many bytes, or a few more, that the next value begins where kernels may read it."""
    return -(-bytes // ALIGNED) * ALIGNED


class Rows:
    """A list of arrays of one type, in chunks of memory, each twice as long as the one before.

    Args:
        frame: what takes memory.
        type: of a row.
        first: how many rows the first chunk has; by default, as many as some memory holds.
    """

    def __init__(self, frame: Frame, type: Type, first: int = 0) -> None:
        self.frame, self.row = frame, frame.bytes(type)
        self.stride = aligned(self.row)
        self.first = first or max(1, FIRST // max(1, self.stride))
        self.chunks: list[Span] = []
        self.length = 0

    @property
    def bytes(self) -> int:
        """The memory that its chunks take."""
        return sum(chunk.bytes for chunk in self.chunks)

    def grow(self) -> Span:
        """One more row at the end.

        Raises:
            MemoryError: there is no more.
        """
        number = (self.length // self.first + 1).bit_length() - 1
        if number == len(self.chunks):
            size = (self.first << number) * self.stride
            self.chunks.append(self.frame.taken(size, "lists of loops"))
        self.length += 1
        return self[self.length - 1]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> Span:
        if not 0 <= i < self.length:
            raise IndexError(i)
        number = (i // self.first + 1).bit_length() - 1
        start = self.first * ((1 << number) - 1)
        return self.chunks[number].part((i - start) * self.stride, self.row)
